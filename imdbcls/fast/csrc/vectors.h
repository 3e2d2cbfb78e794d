/* Sixteen numbers at a time: bfloat16 in memory, float32 in registers (AVX-512 with its bfloat16 conversions).

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

typedef uint16_t bf16;
typedef __m512 f32x16;

enum { LANES = 16, STEP = 32 /* columns or rows of a block */ };
#define ALIGNED __attribute__((aligned(64)))
/* For prefetches: gcc deletes calls of functions that do nothing else. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t round_up(int64_t count) { return (count + STEP - 1) / STEP * STEP; }

/* Working memory for all threads, taken by the calling one: what other threads allocate comes from pages of 4 KB. */
typedef struct {
    char *start;
    size_t part; /* bytes of a thread */
} Workspace;

static inline Workspace workspace_of(int num_threads, int64_t num_bytes) {
    const size_t part = ((size_t)num_bytes + 63) / 64 * 64;
    return (Workspace){aligned_alloc(64, part * (size_t)num_threads), part};
}

static inline void *part_of(const Workspace *workspace, int thread) {
    return workspace->start + (size_t)thread * workspace->part;
}

/* The lanes that columns from `at` on still fill of `width`. */
static inline __mmask16 lanes_at(int64_t at, int64_t width) {
    const int64_t left = width - at;
    return left >= LANES ? 0xFFFF : left <= 0 ? 0 : (__mmask16)((1u << left) - 1);
}

/* The same for 32 columns. */
static inline __mmask32 columns_at(int64_t at, int64_t width) {
    const int64_t left = width - at;
    return left >= STEP ? 0xFFFFFFFF : left <= 0 ? 0 : (1u << left) - 1;
}

static inline f32x16 widen(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* Lanes outside the mask read as zero and are not touched in memory. */
static inline f32x16 load_bf16(const bf16 *source, __mmask16 lanes) {
    return widen(_mm256_maskz_loadu_epi16(lanes, source));
}

/* Rounds to nearest, ties to even. */
static inline void store_bf16(bf16 *target, __mmask16 lanes, f32x16 value) {
    _mm256_mask_storeu_epi16(target, lanes, (__m256i)_mm512_cvtneps_pbh(value));
}

static inline f32x16 load_f32(const float *source, __mmask16 lanes) { return _mm512_maskz_loadu_ps(lanes, source); }

static inline void store_f32(float *target, __mmask16 lanes, f32x16 value) {
    _mm512_mask_storeu_ps(target, lanes, value);
}

static inline void add_to(float *target, __mmask16 lanes, f32x16 value) {
    store_f32(target, lanes, _mm512_add_ps(load_f32(target, lanes), value));
}

/* Have `width` numbers of each of the rows [from, to) fetched into the second-level cache while something else computes:
   the processor does not foresee reads that lie a row apart. */
ALWAYS_INLINE void prefetch_rows(const bf16 *matrix, int64_t row_width, int64_t from, int64_t to, int64_t width) {
    for (int64_t n = from; n < to; n++)
        for (int64_t j = 0; j < width; j += STEP) _mm_prefetch((const char *)(matrix + n * row_width + j), _MM_HINT_T1);
}

/* Has what comes 2 KB on fetched, where numbers are read or written one after another. The processor foresees that, but
   starts anew at each 4 KB and follows few sequences at once. What lies beyond the end is harmless. */
ALWAYS_INLINE void fetch_ahead(const bf16 *at) { _mm_prefetch((const char *)(at + 1024), _MM_HINT_T0); }

ALWAYS_INLINE void fetch_ahead_to_write(bf16 *at) { __builtin_prefetch(at + 1024, 1); }

static inline f32x16 splat(float value) { return _mm512_set1_ps(value); }

/* 2 to the power of x; relative error below 3e-6, a thousandth of what rounding to bfloat16 adds (a polynomial of least
   such error on [0, 1), found by Lawson's algorithm); zero where x is far below -126. */
static inline f32x16 exp2_of(f32x16 x) {
    f32x16 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    f32x16 power = splat(1.35341728e-2f);
    power = _mm512_fmadd_ps(power, fraction, splat(5.20114606e-2f));
    power = _mm512_fmadd_ps(power, fraction, splat(2.41442757e-1f));
    power = _mm512_fmadd_ps(power, fraction, splat(6.93003834e-1f));
    power = _mm512_fmadd_ps(power, fraction, splat(1.00000259f));
    return _mm512_scalef_ps(power, x); /* which takes x's whole part */
}

/* The first of num_blocks rows of partial sums becomes their total, added in order. */
static inline void sum_blocks(float *partial_BW, int64_t num_blocks, int64_t width) {
    for (int64_t block = 1; block < num_blocks; block++)
        for (int64_t j = 0; j < width; j++) partial_BW[j] += partial_BW[block * width + j];
}
