/* Products of float32 matrices. A right operand is packed into panels of sixteen columns. A panel contains its sixteen
   columns of every row, one row after another. Missing columns of the last panel are zero. */
#pragma once
#include "kernels.h"

enum {
    PANEL = PANEL_WIDTH,
    GROUP = 6, /* rows computed together: with two vectors each, the sums use twelve of the sixteen registers */
};

static inline int64_t panels_of(int64_t num_columns) { return (num_columns + PANEL - 1) / PANEL; }

/* Return the size of a packed matrix in numbers. */
static inline int64_t packed_size(int64_t num_rows, int64_t num_columns) {
    return panels_of(num_columns) * PANEL * num_rows;
}

/* A left operand: the number of row i at step k is start[i * row + k * step]. */
typedef struct {
    const float *start;
    int64_t row, step;
} Left;

/* Multiply rows of `a` with one panel: c = first + a b, summed over num_steps. c has 16 columns and the row stride
   c_width. `first` selects the initial value: zero, `bias` for every row, or the content of c. */
typedef enum { FROM_ZERO, FROM_BIAS, FROM_SUM } First;

ALWAYS_INLINE void product_of_rows(const int num_rows, float *c, int64_t c_width, Left a, const float *b,
                                   int64_t num_steps, First first, const float *bias) {
    f32s sum[GROUP][2];
#pragma GCC unroll 6
    for (int i = 0; i < num_rows; i++)
        for (int half = 0; half < 2; half++)
            sum[i][half] = first == FROM_ZERO ? splat(0)
                                              : load_full((first == FROM_BIAS ? bias : c + i * c_width) + half * LANES);
    for (int64_t k = 0; k < num_steps; k++) {
        const f32s left = load_full(b + k * PANEL), right = load_full(b + k * PANEL + LANES);
#pragma GCC unroll 6
        for (int i = 0; i < num_rows; i++) {
            const f32s x = splat(a.start[i * a.row + k * a.step]);
            sum[i][0] = fmadd(x, left, sum[i][0]);
            sum[i][1] = fmadd(x, right, sum[i][1]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < num_rows; i++)
        for (int half = 0; half < 2; half++) store_f32(c + i * c_width + half * LANES, ALL_LANES, sum[i][half]);
}

/* Do the same as product_of_rows, for any number of rows. The result of a row does not depend on the other rows. */
static void product_with_panel(float *c, int64_t c_width, Left a, int64_t num_rows, const float *b, int64_t num_steps,
                               First first, const float *bias) {
    for (; num_rows >= GROUP; num_rows -= GROUP, c += GROUP * c_width, a.start += GROUP * a.row)
        product_of_rows(GROUP, c, c_width, a, b, num_steps, first, bias);
    switch (num_rows) {
    case 5: product_of_rows(5, c, c_width, a, b, num_steps, first, bias); break;
    case 4: product_of_rows(4, c, c_width, a, b, num_steps, first, bias); break;
    case 3: product_of_rows(3, c, c_width, a, b, num_steps, first, bias); break;
    case 2: product_of_rows(2, c, c_width, a, b, num_steps, first, bias); break;
    case 1: product_of_rows(1, c, c_width, a, b, num_steps, first, bias); break;
    }
}

/* Pack a matrix of num_rows x num_columns with the row stride row_width. */
static inline void pack(const float *matrix, int64_t row_width, int64_t num_rows, int64_t num_columns, float *packed) {
    for (int64_t j = 0; j < num_columns; j += PANEL) {
        const lanes_mask lower = lanes_at(j, num_columns), upper = lanes_at(j + LANES, num_columns);
        for (int64_t i = 0; i < num_rows; i++, packed += PANEL) {
            store_f32(packed, ALL_LANES, load_f32(matrix + i * row_width + j, lower));
            store_f32(packed + LANES, ALL_LANES, load_f32(matrix + i * row_width + j + LANES, upper));
        }
    }
}

/* Transpose 8 x 8 numbers from a matrix with the row stride row_width to one with the row stride PANEL. */
static inline void transpose_8x8(const float *source, int64_t row_width, float *target) {
    __m256 row[8], mix[8];
    for (int i = 0; i < 8; i++) row[i] = _mm256_loadu_ps(source + i * row_width);
    for (int i = 0; i < 8; i += 2) {
        mix[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        mix[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        row[i] = _mm256_shuffle_ps(mix[i], mix[i + 2], 0x44);
        row[i + 1] = _mm256_shuffle_ps(mix[i], mix[i + 2], 0xEE);
        row[i + 2] = _mm256_shuffle_ps(mix[i + 1], mix[i + 3], 0x44);
        row[i + 3] = _mm256_shuffle_ps(mix[i + 1], mix[i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(target + i * PANEL, _mm256_permute2f128_ps(row[i], row[i + 4], 0x20));
        _mm256_storeu_ps(target + (i + 4) * PANEL, _mm256_permute2f128_ps(row[i], row[i + 4], 0x31));
    }
}

/* Pack the transpose of a matrix of num_rows x num_columns. */
static inline void pack_transposed(const float *matrix, int64_t row_width, int64_t num_rows, int64_t num_columns,
                                   float *packed) {
    for (int64_t first = 0; first < num_rows; first += PANEL, packed += num_columns * PANEL)
        for (int64_t i = 0; i < PANEL; i += 8) {
            int64_t j = 0;
            if (first + i + 8 <= num_rows)
                for (; j + 8 <= num_columns; j += 8)
                    transpose_8x8(matrix + (first + i) * row_width + j, row_width, packed + j * PANEL + i);
            for (; j < num_columns; j++)
                for (int64_t lane = i; lane < i + 8; lane++)
                    packed[j * PANEL + lane] = first + lane < num_rows ? matrix[(first + lane) * row_width + j] : 0;
        }
}
