/* The equations of a time step of an LSTM (Hochreiter & Schmidhuber 1997, with forget gates), for the bfloat16 and
float32 versions. The gates are in PyTorch's order: input, forget, new, output. */
#pragma once
#include "recurrence.h"

/* Replace the sums z by the gates; return the next cell state. */
ALWAYS_INLINE f32s next_cell(f32s z[4], f32s cell) {
    z[0] = sigmoid(z[0]), z[1] = sigmoid(z[1]), z[2] = tanh_of(z[2]), z[3] = sigmoid(z[3]);
    return fmadd(z[1], cell, mul(z[0], z[2]));
}

ALWAYS_INLINE f32s output_of(const f32s z[4], f32s cell) { return mul(z[3], tanh_of(cell)); }

/* Compute d, the gradients of the sums, from the gradient of the output and from d_cell, the gradient of the cell state
   that comes from the next step. Return the gradient of the previous cell state, `cell_before`. */
ALWAYS_INLINE f32s step_backward(const f32s z[4], f32s cell_before, f32s cell, f32s d_output, f32s d_cell, f32s d[4]) {
    const f32s one = splat(1), active = tanh_of(cell);
    d_cell = fmadd(mul(d_output, z[3]), fnmadd(active, active, one), d_cell);
    d[0] = mul(d_cell, z[2]);
    d[1] = mul(d_cell, cell_before);
    d[2] = mul(mul(d_cell, z[0]), fnmadd(z[2], z[2], one));
    d[3] = mul(d_output, active);
    for (int gate = 0; gate < 4; gate++)
        if (gate != 2) d[gate] = mul(d[gate], fnmadd(z[gate], z[gate], z[gate]));
    return mul(d_cell, z[1]);
}
