/* Whether this processor and process may use AMX, and the product that gives a weight's gradient. */
#include "tiles.h"
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { CHUNK = 512 /* rows packed at once: a slice of both factors stays in the cache */ };

int uses_amx = 0;

/* Ask the system for the tiles' registers unless `wanted` is 0. Returns whether the kernels use AMX from here on. */
int start(int wanted) {
    uses_amx = 0;
#if defined(__AMX_BF16__) && defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    uses_amx = wanted && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#endif
    return uses_amx;
}

/* Rows [first, first + CHUNK) of a matrix, columns [column, column + 32), with zeros for rows that are not there. */
static void slice(const bf16 *matrix, int64_t N, int64_t width, int64_t first, int64_t row, int64_t column,
                  bf16 *block) {
    for (int64_t i = 0; i < STEP; i++) {
        const int64_t n = first + row + i;
        __m512i numbers = n < N ? _mm512_loadu_si512(matrix + n * width + column) : _mm512_setzero_si512();
        _mm512_storeu_si512(block + i * STEP, numbers);
    }
}

/* d_weight_OK = d_y' x in float32: the gradient of a linear layer's weight. O and K are multiples of 32.
   left and right are working memory for O * CHUNK and K * CHUNK numbers, aligned to 64 bytes. */
void weight_gradient(const bf16 *d_y_NO, const bf16 *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                     bf16 *left, bf16 *right, int num_threads) {
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        for (int64_t first = 0; first < N; first += CHUNK) {
            const int64_t rows = N - first < CHUNK ? round_up(N - first) : CHUNK;
#pragma omp for schedule(static)
            for (int64_t column = 0; column < O + K; column += STEP) {
                const int is_left = column < O;
                const int64_t at = is_left ? column : column - O;
                bf16 block[STEP * STEP] ALIGNED, packed[STEP * STEP] ALIGNED;
                for (int64_t row = 0; row < rows; row += STEP)
                    if (is_left) { /* the transpose: d_y's columns become rows of `rows` numbers */
                        slice(d_y_NO, N, O, first, row, at, block);
                        pack_32x32(block, STEP, packed);
                        for (int half = 0; half < 2; half++)
                            transpose_words((const uint32_t *)(packed + half * TILE), 16,
                                            (uint32_t *)(left + (at + half * 16) * rows + row), rows / 2);
                    } else {
                        slice(x_NK, N, K, first, row, at, block);
                        pack_32x32(block, STEP, right + at * rows + row * STEP);
                    }
            }
#pragma omp for schedule(static)
            for (int64_t o = 0; o < O; o += STEP)
                for (int64_t k = 0; k < K; k += STEP)
                    product_32x32(d_weight_OK + o * K + k, K, left + o * rows, rows, right + k * rows, 2 * TILE,
                                  rows / STEP, first > 0);
        }
        tiles_end(&before);
    }
}
