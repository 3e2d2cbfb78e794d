/* What both forms of the LSTM share: documents of different lengths that go through time side by side, in groups. */
#pragma once
#include "vectors.h"

/* A document's rows in the order of time: first + t * stride. */
typedef struct { int64_t first, stride, length; } Walk;

/* A group's walks, of length 0 where there is no document. Returns the longest length. */
static inline int64_t walks_of(const int64_t *offsets_B1, int64_t B, int64_t group, int64_t group_size, int backwards,
                               Walk *walks) {
    int64_t longest = 0;
    for (int64_t i = 0; i < group_size; i++) {
        const int64_t document = group * group_size + i;
        walks[i] = (Walk){0, 0, 0};
        if (document >= B) continue;
        const int64_t first = offsets_B1[document], end = offsets_B1[document + 1];
        walks[i] = backwards ? (Walk){end - 1, -1, end - first} : (Walk){first, 1, end - first};
        if (end - first > longest) longest = end - first;
    }
    return longest;
}

/* Has numbers too small for float32's full precision count as zeros until the returned state is set again: gradients
   that fade over hundreds of steps get there, and the processor computes with them many times slower. */
static inline unsigned flush_subnormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | _MM_FLUSH_ZERO_ON | 0x0040 /* of inputs too */);
    return before;
}

static inline void *zeros(int64_t num_bytes) {
    void *memory = aligned_alloc(64, ((size_t)num_bytes + 63) / 64 * 64);
    return memset(memory, 0, (size_t)num_bytes);
}
