/* Code that the recurrent layers share: groups of documents of different lengths, which are processed in parallel, and
the activation functions. */
#pragma once
#ifdef FLOATS
#include "panels.h"

enum { DOCUMENTS = 24 /* the largest number of documents in a group */ };

/* Return the number of documents per group. Each thread gets one group, unless the groups would then be too large. */
static inline int64_t group_size_of(int64_t B, int num_threads) {
    const int64_t least = (B + DOCUMENTS - 1) / DOCUMENTS, num_groups = least > num_threads ? least : num_threads;
    return (B + num_groups - 1) / num_groups;
}
#else
#include "tiles.h"

enum {
    GROUP = 8, /* documents in a group; a usual batch of 16 is then enough for two threads */
    ROWS = 16, /* rows of a left operand */
};

static inline f32x16 load_halves(const bf16 *source) { return load_bf16(source, 0xFFFF); }
#endif

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

static inline f32s sigmoid(f32s x) {
    x = min_of(splat(60), max_of(splat(-60), x)); /* keeps the exponential finite; NaN stays NaN */
    return reciprocal(add(splat(1), exp2_of(mul(x, splat(-1.44269504f)))));
}

static inline f32s tanh_of(f32s x) { return fmsub(splat(2), sigmoid(add(x, x)), splat(1)); }
