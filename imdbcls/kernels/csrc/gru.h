/* The equations of a time step of a GRU (Cho et al. 2014, in PyTorch's form), for the bfloat16 and float32 versions. The
gates are in PyTorch's order: reset, update, new. */
#pragma once
#include "recurrence.h"

/* Replace the sums by the gates; return the next output. The sums of the reset and the update gate are complete. The
   sum of the new gate has only the input part. `hidden` is the hidden part, which the reset gate multiplies. */
ALWAYS_INLINE f32s next_output(f32s gates[3], f32s hidden, f32s output_before) {
    gates[0] = sigmoid(gates[0]), gates[1] = sigmoid(gates[1]);
    gates[2] = tanh_of(fmadd(gates[0], hidden, gates[2]));
    return fmadd(gates[1], sub(output_before, gates[2]), gates[2]);
}

/* Compute d, the gradients of the three sums and of `hidden`. Return the gradient of the previous output, without the
   part that comes through the sums and `hidden`. */
ALWAYS_INLINE f32s step_backward(const f32s gates[3], f32s hidden, f32s output_before, f32s d_output, f32s d[4]) {
    const f32s one = splat(1), reset = gates[0], update = gates[1], new = gates[2];
    d[1] = mul(mul(d_output, sub(output_before, new)), fnmadd(update, update, update));
    d[2] = mul(mul(d_output, sub(one, update)), fnmadd(new, new, one));
    d[0] = mul(mul(d[2], hidden), fnmadd(reset, reset, reset));
    d[3] = mul(d[2], reset);
    return mul(d_output, update);
}
