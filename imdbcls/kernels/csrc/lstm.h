/* Code that the bfloat16 and float32 versions of the LSTM share: groups of documents of different lengths, which are
processed in parallel, and the equations of a time step (Hochreiter & Schmidhuber 1997, with forget gates). The gates
are in PyTorch's order: input, forget, new, output. */
#pragma once
#include "kernels.h"

/* The rows of a document in the order in which they are read: first + t * stride. */
typedef struct { int64_t first, stride, length; } Sequence;

/* Set the sequences of a group. Missing documents get length 0. Return the largest length. */
static inline int64_t sequences_of(const int64_t *offsets_B1, int64_t B, int64_t group, int64_t group_size,
                                   int backwards, Sequence *sequences) {
    int64_t longest = 0;
    for (int64_t i = 0; i < group_size; i++) {
        const int64_t document = group * group_size + i;
        sequences[i] = (Sequence){0, 0, 0};
        if (document >= B) continue;
        const int64_t first = offsets_B1[document], end = offsets_B1[document + 1];
        sequences[i] = backwards ? (Sequence){end - 1, -1, end - first} : (Sequence){first, 1, end - first};
        if (end - first > longest) longest = end - first;
    }
    return longest;
}

/* Treat subnormal numbers as zero. Return the previous state, with which the caller restores the register. Gradients
   that decrease over hundreds of steps become subnormal, and the processor is many times slower with subnormal numbers.
   */
static inline unsigned flush_subnormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | 0x0040 /* denormals-are-zero, for inputs */);
    return before;
}

/* ---- The equations of a step ------------------------------------------------------------------------------------- */

static inline f32s sigmoid(f32s x) {
    x = min_of(splat(60), max_of(splat(-60), x)); /* keeps the exponential finite; NaN stays NaN */
    return reciprocal(add(splat(1), exp2_of(mul(x, splat(-1.44269504f)))));
}

static inline f32s tanh_of(f32s x) { return fmsub(splat(2), sigmoid(add(x, x)), splat(1)); }

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
