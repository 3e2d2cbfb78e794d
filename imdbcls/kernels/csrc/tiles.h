/* Products of bfloat16 matrices in blocks of 32 x 32, with float32 sums. They use AMX tiles if the processor has them,
else the dot products of pairs in AVX-512.

A left operand is row-major. A right operand of K x M is packed: K in steps of 32, and M in tiles of sixteen columns.
For each of the 16 pairs of rows in a step, a tile contains the pairs (upper, lower) of sixteen columns. Both dimensions
are multiples of 32; packed matrices are padded with zeros. */
#pragma once
#include "kernels.h"

_Static_assert((int)STEP == (int)WIDTH_MULTIPLE, "the widths of the kernels must be multiples of a block");

enum { TILE = 16 * 32 /* size of a packed tile in numbers */ };

extern int uses_amx;

/* Prefetch `width` numbers of each of the rows [from, to) into the L2 cache, because the processor's prefetcher does
   not predict accesses with the stride of a row. */
ALWAYS_INLINE void prefetch_rows(const bf16 *matrix, int64_t row_width, int64_t from, int64_t to, int64_t width) {
    for (int64_t n = from; n < to; n++)
        for (int64_t j = 0; j < width; j += STEP) _mm_prefetch((const char *)(matrix + n * row_width + j), _MM_HINT_T1);
}

/* The compiler does not know which memory the tile instructions read and write. This barrier keeps it
   from moving loads and stores across these instructions. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

/* Configure all tiles of this thread as 16 rows of 64 bytes. tiles_end restores the previous configuration, `before`.
   */
typedef struct { uint8_t bytes[64] ALIGNED; } TileConfig;

static inline void tiles_begin(TileConfig *before) {
#ifdef __AMX_BF16__
    if (!uses_amx) return;
    TileConfig config = {{0}};
    config.bytes[0] = 1; /* the palette */
    for (int tile = 0; tile < 8; tile++) {
        config.bytes[16 + 2 * tile] = 64;
        config.bytes[48 + tile] = 16;
    }
    __asm__ volatile("" ::"r"(&config), "r"(before) : "memory");
    _tile_storeconfig(before);
    _tile_loadconfig(&config);
    MEMORY_BARRIER();
#else
    (void)before;
#endif
}

static inline void tiles_end(const TileConfig *before) {
#ifdef __AMX_BF16__
    MEMORY_BARRIER();
    if (uses_amx) _tile_loadconfig(before);
#else
    (void)before;
#endif
}

/* The part of product_32x32 for eight rows and sixteen columns, without AMX. */
static inline void product_8x16(float *c, int64_t c_width, const bf16 *a, int64_t a_width, int64_t a_step, const bf16 *b,
                                int64_t b_step, int64_t num_steps, int accumulate) {
    f32x16 sum[8];
    for (int row = 0; row < 8; row++) sum[row] = accumulate ? _mm512_loadu_ps(c + row * c_width) : splat(0);
    for (int64_t step = 0; step < num_steps; step++)
        for (int pair = 0; pair < 16; pair++) {
            __m512bh right = (__m512bh)_mm512_loadu_si512(b + step * b_step + pair * 32);
#pragma GCC unroll 8
            for (int row = 0; row < 8; row++) {
                int32_t left;
                memcpy(&left, a + row * a_width + step * a_step + 2 * pair, sizeof left);
                sum[row] = _mm512_dpbf16_ps(sum[row], (__m512bh)_mm512_set1_epi32(left), right);
            }
        }
    for (int row = 0; row < 8; row++) _mm512_storeu_ps(c + row * c_width, sum[row]);
}

/* Compute c as the sum over the steps of a b, or add the sum to c if `accumulate`. c and each step of a are 32 x 32,
   with the row strides c_width and a_width; b is packed. The distance between two steps is a_step in a (STEP if a is
   one matrix) and b_step in b. */
static inline void product_32x32(float *c, int64_t c_width, const bf16 *a, int64_t a_width, int64_t a_step,
                                 const bf16 *b, int64_t b_step, int64_t num_steps, int accumulate) {
#ifdef __AMX_BF16__
    if (uses_amx) {
        const int64_t c_bytes = c_width * 4, a_bytes = a_width * 2;
        MEMORY_BARRIER();
        if (accumulate) {
            _tile_loadd(0, c, c_bytes);
            _tile_loadd(1, c + 16, c_bytes);
            _tile_loadd(2, c + 16 * c_width, c_bytes);
            _tile_loadd(3, c + 16 * c_width + 16, c_bytes);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int64_t step = 0; step < num_steps; step++) {
            _tile_loadd(6, b, 64);
            _tile_loadd(4, a, a_bytes);
            _tile_loadd(7, b + TILE, 64);
            _tile_loadd(5, a + 16 * a_width, a_bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            a += a_step;
            b += b_step;
        }
        _tile_stored(0, c, c_bytes);
        _tile_stored(1, c + 16, c_bytes);
        _tile_stored(2, c + 16 * c_width, c_bytes);
        _tile_stored(3, c + 16 * c_width + 16, c_bytes);
        MEMORY_BARRIER();
        return;
    }
#endif
    for (int part = 0; part < 8; part++)
        product_8x16(c + part / 2 * 8 * c_width + part % 2 * 16, c_width, a + part / 2 * 8 * a_width, a_width, a_step,
                     b + part % 2 * TILE, b_step, num_steps, accumulate);
}

/* Do the same as product_32x32 for eight rows, without `accumulate`. c and each step of a have 16 rows in memory, because
   a tile has 16 rows. With AMX, all 16 rows of c are written; otherwise only the first eight. */
static inline void product_8x32(float *c, int64_t c_width, const bf16 *a, int64_t a_width, int64_t a_step, const bf16 *b,
                                 int64_t b_step, int64_t num_steps) {
#ifdef __AMX_BF16__
    if (uses_amx) {
        MEMORY_BARRIER();
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t step = 0; step < num_steps; step++) {
            _tile_loadd(4, a + step * a_step, a_width * 2);
            _tile_loadd(6, b + step * b_step, 64);
            _tile_loadd(7, b + step * b_step + TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, c, c_width * 4);
        _tile_stored(1, c + 16, c_width * 4);
        MEMORY_BARRIER();
        return;
    }
#endif
    product_8x16(c, c_width, a, a_width, a_step, b, b_step, num_steps, 0);
    product_8x16(c + 16, c_width, a, a_width, a_step, b + TILE, b_step, num_steps, 0);
}

/* Transpose 16 x 16 words of 32 bits. Widths are in words. */
static inline void transpose_words(const uint32_t *source, int64_t source_width, uint32_t *target,
                                   int64_t target_width) {
    __m512i row[16], mix[16];
    for (int i = 0; i < 16; i++) row[i] = _mm512_loadu_si512(source + i * source_width);
    for (int i = 0; i < 16; i += 2) {
        mix[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        mix[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        row[i] = _mm512_unpacklo_epi64(mix[i], mix[i + 2]);
        row[i + 1] = _mm512_unpackhi_epi64(mix[i], mix[i + 2]);
        row[i + 2] = _mm512_unpacklo_epi64(mix[i + 1], mix[i + 3]);
        row[i + 3] = _mm512_unpackhi_epi64(mix[i + 1], mix[i + 3]);
    }
    for (int i = 0; i < 4; i++) { /* row[4 g + i]: words i, 4 + i, 8 + i, 12 + i of the rows of group g */
        __m512i low01 = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x88);
        __m512i high01 = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xDD);
        __m512i low23 = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x88);
        __m512i high23 = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xDD);
        _mm512_storeu_si512(target + i * target_width, _mm512_shuffle_i32x4(low01, low23, 0x88));
        _mm512_storeu_si512(target + (i + 4) * target_width, _mm512_shuffle_i32x4(high01, high23, 0x88));
        _mm512_storeu_si512(target + (i + 8) * target_width, _mm512_shuffle_i32x4(low01, low23, 0xDD));
        _mm512_storeu_si512(target + (i + 12) * target_width, _mm512_shuffle_i32x4(high01, high23, 0xDD));
    }
}

/* Pack a 32 x 32 block of `matrix` as a right operand; the row stride is `width`. */
static inline void pack_32x32(const bf16 *matrix, int64_t width, bf16 *packed) {
    const __m512i left = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                          37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i right = _mm512_add_epi16(left, _mm512_set1_epi16(16));
    for (int pair = 0; pair < 16; pair++) {
        __m512i upper = _mm512_loadu_si512(matrix + 2 * pair * width);
        __m512i lower = _mm512_loadu_si512(matrix + (2 * pair + 1) * width);
        _mm512_storeu_si512(packed + pair * 32, _mm512_permutex2var_epi16(upper, left, lower));
        _mm512_storeu_si512(packed + TILE + pair * 32, _mm512_permutex2var_epi16(upper, right, lower));
    }
}

static inline void pack(const bf16 *matrix, int64_t rows, int64_t columns, bf16 *packed) {
    for (int64_t i = 0; i < rows; i += STEP)
        for (int64_t j = 0; j < columns; j += STEP)
            pack_32x32(matrix + i * columns + j, columns, packed + (i * columns + j * STEP));
}

/* Pack the transpose of `matrix` (rows x columns) as a right operand. */
static inline void pack_transposed(const bf16 *matrix, int64_t rows, int64_t columns, bf16 *packed) {
    for (int64_t step = 0; step < columns; step += STEP)
        for (int64_t row = 0; row < rows; row += 16)
            transpose_words((const uint32_t *)(matrix + row * columns + step), columns / 2,
                            (uint32_t *)(packed + step * rows + row * STEP), 16);
}

/* Transpose a packed right operand (rows x columns) into left operands of size columns x 32, one for each step of rows.
   */
static inline void unpack_transposed(const bf16 *packed, int64_t rows, int64_t columns, bf16 *blocks) {
    for (int64_t tile = 0; tile < rows * columns; tile += TILE)
        transpose_words((const uint32_t *)(packed + tile), 16, (uint32_t *)(blocks + tile), STEP / 2);
}
