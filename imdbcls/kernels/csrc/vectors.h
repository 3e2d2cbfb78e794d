/* What all kernels share. They are compiled for bfloat16 in memory and AVX-512 (avx512.h), or with FLOATS for float32 in
memory and AVX2 (avx2.h): rows.c and lstm.h for both, the float_ files and panels.h for the latter, all others for the
former.

Shape letters, as in the Python beside this folder:
N: rows, the real tokens of a batch one after another (no padding), H: hidden size, F: width of the feed-forward
layer, A: heads, D: width of a head, V: vocabulary.
Every matrix is contiguous and row-major. Results depend on the inputs alone, never on the number of threads: what is
summed over rows is summed in blocks of fixed size, and the blocks in order. */
#pragma once
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNED __attribute__((aligned(64)))
/* For prefetches: gcc deletes calls of functions that do nothing else. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* What every function of kernels.h returns; `declarations.py` raises an exception for each but the first. */
enum { OK = 0, NO_MEMORY = 1, BAD_ARGUMENTS = 2, BAD_OFFSETS = 3 };

/* Memory that begins with a cache line; NULL where there is none. */
static inline void *allocate(size_t num_bytes) { return aligned_alloc(64, num_bytes ? (num_bytes + 63) / 64 * 64 : 64); }

/* Working memory for all threads, taken by the calling one before the parallel region: there, no allocation can fail.
   (What other threads allocate also comes from pages of 4 KB.) `start` is NULL where there is no memory. */
typedef struct {
    char *start;
    size_t part; /* bytes of a thread */
} Workspace;

static inline Workspace workspace_of(int num_threads, int64_t num_bytes) {
    const size_t part = ((size_t)num_bytes + 63) / 64 * 64;
    return (Workspace){allocate(part * (size_t)num_threads), part};
}

static inline void *part_of(const Workspace *workspace, int thread) {
    return workspace->start + (size_t)thread * workspace->part;
}

/* A thread's working memory, handed out piece by piece. What lays out buffers with `take` also measures them: from address
   0, `next` ends as the number of bytes they need. So the size cannot differ from what is handed out. */
typedef struct { uintptr_t next; } Scratch;

static inline void *take(Scratch *scratch, int64_t num_bytes) {
    void *piece = (void *)scratch->next;
    scratch->next += ((size_t)num_bytes + 63) / 64 * 64;
    return piece;
}

/* Whether the documents' bounds begin with 0 and never decrease. */
static inline int are_bounds(const int64_t *offsets_B1, int64_t num_documents) {
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

/* Has what comes 2 KB on fetched, where numbers are read or written one after another. The processor foresees that, but
   starts anew at each 4 KB and follows few sequences at once. What lies beyond the end is harmless. */
ALWAYS_INLINE void fetch_ahead(const element *at) { _mm_prefetch((const char *)at + 2048, _MM_HINT_T0); }

ALWAYS_INLINE void fetch_ahead_to_write(element *at) { __builtin_prefetch((char *)at + 2048, 1); }

/* The first of num_blocks rows of partial sums becomes their total, added in order. */
static inline void sum_blocks(float *partial_BW, int64_t num_blocks, int64_t width) {
    for (int64_t block = 1; block < num_blocks; block++)
        for (int64_t j = 0; j < width; j++) partial_BW[j] += partial_BW[block * width + j];
}
