/* Code that all kernels share. There are two libraries: bfloat16 in memory with AVX-512 (avx512.h) and, with FLOATS
defined, float32 in memory with AVX2 (avx2.h). Both contain rows.c, recurrence.h, lstm.h and gru.h. The float_ files and
panels.h belong to the float32 library; the other files belong to the bfloat16 library.

Shape letters, as in the Python modules:
N: rows, the tokens of a batch one after another (no padding), H: hidden size, F: width of the feed-forward
layer, A: heads, D: width of a head, V: vocabulary.

Every matrix is contiguous and row-major. Results depend only on the inputs, never on the number of threads: sums over
rows are computed in blocks of fixed size, and the blocks are added in order. */
#pragma once
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNED __attribute__((aligned(64)))
/* Necessary for prefetches: gcc removes calls of functions that only prefetch. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline int64_t min_int(int64_t a, int64_t b) { return a < b ? a : b; }

/* The statuses of the functions in kernels.h. `declarations.py` raises an exception for each status except OK. */
enum { OK = 0, NO_MEMORY = 1, BAD_ARGUMENTS = 2, BAD_OFFSETS = 3 };

/* Allocate memory that is aligned to a cache line; return NULL if there is not enough memory. */
static inline void *allocate(size_t num_bytes) { return aligned_alloc(64, num_bytes ? (num_bytes + 63) / 64 * 64 : 64); }

/* Working memory for all threads. The calling thread allocates it before the parallel region, so that no allocation can
   fail inside the region. (Allocations of other threads would also use pages of 4 KB.) `start` is NULL if there is not
   enough memory. */
typedef struct {
    char *start;
    size_t part; /* bytes per thread */
} Workspace;

static inline Workspace workspace_of(int num_threads, int64_t num_bytes) {
    const size_t part = ((size_t)num_bytes + 63) / 64 * 64;
    return (Workspace){allocate(part * (size_t)num_threads), part};
}

static inline void *part_of(const Workspace *workspace, int thread) {
    return workspace->start + (size_t)thread * workspace->part;
}

/* An arena: the working memory of a thread, from which buffers are allocated one after another. The same code also
   computes the size of the buffers: if the arena starts at address 0, `next` is the number of bytes after the last
   allocation. So the size always matches the allocations. */
typedef struct { uintptr_t next; } Arena;

static inline void *arena_alloc(Arena *arena, int64_t num_bytes) {
    void *piece = (void *)arena->next;
    arena->next += ((size_t)num_bytes + 63) / 64 * 64;
    return piece;
}

/* Return whether the document offsets start at 0 and do not decrease. */
static inline int are_valid_offsets(const int64_t *offsets_B1, int64_t num_documents) {
    if (offsets_B1[0] != 0) return 0;
    for (int64_t b = 0; b < num_documents; b++)
        if (offsets_B1[b + 1] < offsets_B1[b]) return 0;
    return 1;
}

static inline int64_t longest(const int64_t *offsets, int64_t num_documents) {
    int64_t length = 0;
    for (int64_t b = 0; b < num_documents; b++)
        if (offsets[b + 1] - offsets[b] > length) length = offsets[b + 1] - offsets[b];
    return length;
}

#ifdef FLOATS
#include "avx2.h"
#else
#include "avx512.h"
#endif

/* Prefetch the memory 2 KB ahead, in loops that read or write numbers in order. The processor's own prefetcher restarts
   at each page of 4 KB and follows only a few sequences. Prefetching past the end of a buffer is harmless. */
ALWAYS_INLINE void fetch_ahead(const element *at) { _mm_prefetch((const char *)at + 2048, _MM_HINT_T0); }

ALWAYS_INLINE void fetch_ahead_to_write(element *at) { __builtin_prefetch((char *)at + 2048, 1); }

/* Add the rows of partial sums, in order, to the first row. */
static inline void sum_blocks(float *partial_BW, int64_t num_blocks, int64_t width) {
    for (int64_t block = 1; block < num_blocks; block++)
        for (int64_t j = 0; j < width; j++) partial_BW[j] += partial_BW[block * width + j];
}
