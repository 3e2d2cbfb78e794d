/* The AMX permission of the process, and the matrix product for the gradient of a weight. */
#include "tiles.h"
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
    CHUNK = 256,       /* rows that are packed together */
    PANEL = 384,       /* inputs of a task: its sums, packed factors and prefetched factors fit into the cache */
    MAX_OUTPUTS = 576, /* outputs of a task, for the same reason */
};

int uses_amx = 0;

/* Request the tile registers from the system unless `wanted` is 0. Return whether the kernels use AMX from now on. */
int start(int wanted) {
    (void)wanted;
    uses_amx = 0;
#if defined(__AMX_BF16__) && defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    uses_amx = wanted && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#endif
    return uses_amx;
}

/* Copy the 32 x 32 block that starts at (`row`, `column`). Rows from index N on are zero. */
static void copy_32x32(const bf16 *matrix, int64_t N, int64_t width, int64_t row, int64_t column, bf16 *block) {
    for (int64_t i = 0; i < STEP; i++)
        _mm512_storeu_si512(block + i * STEP, row + i < N ? _mm512_loadu_si512(matrix + (row + i) * width + column)
                                                          : _mm512_setzero_si512());
}

/* Compute the product for `rows` rows, starting at row `first`, and add it to the sums for outputs [o_start, o_end) and
   inputs [k_start, k_end). If `first` is 0, the product replaces the sums. `left` and `right` are buffers for the
   packed factors: blocks of 32 x 32, where the blocks of the same 32 columns follow each other. */
static void add_chunk(const bf16 *d_y_NO, const bf16 *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                      int64_t first, int64_t rows, int64_t o_start, int64_t o_end, int64_t k_start, int64_t k_end,
                      bf16 *left, bf16 *right) {
    bf16 block[STEP * STEP] ALIGNED, packed[STEP * STEP] ALIGNED;
    for (int64_t row = 0; row < rows; row += STEP) {
        for (int64_t o = o_start; o < o_end; o += STEP) { /* transposed */
            copy_32x32(d_y_NO, N, O, first + row, o, block);
            pack_32x32(block, STEP, packed);
            for (int half = 0; half < 2; half++)
                transpose_words((const uint32_t *)(packed + half * TILE), 16,
                                (uint32_t *)(left + (o - o_start) * rows + row * STEP + half * TILE), STEP / 2);
        }
        for (int64_t k = k_start; k < k_end; k += STEP) {
            copy_32x32(x_NK, N, K, first + row, k, block);
            pack_32x32(block, STEP, right + (k - k_start) * rows + row * STEP);
        }
    }
    const int64_t next = first + rows, num_next = N - next < rows ? N - next : rows;
    const int64_t num_products = (o_end - o_start) / STEP * ((k_end - k_start) / STEP);
    int64_t done = 0;
    for (int64_t o = o_start; o < o_end; o += STEP)
        for (int64_t k = k_start; k < k_end; k += STEP) {
            product_32x32(d_weight_OK + o * K + k, K, left + (o - o_start) * rows, STEP, STEP * STEP,
                          right + (k - k_start) * rows, STEP * STEP, rows / STEP, first > 0);
            const int64_t from = next + done * num_next / num_products;
            const int64_t to = next + ++done * num_next / num_products;
            prefetch_rows(d_y_NO + o_start, O, from, to, o_end - o_start);
            prefetch_rows(x_NK + k_start, K, from, to, k_end - k_start);
        }
}

/* Return the number of outputs in a task: as many as fit into the cache, or fewer so that all threads get the same
   number of tasks. The number does not change the sums. */
static int64_t outputs_of_task(int64_t O, int64_t k_panels, int num_threads) {
    const int64_t fewest = (O + MAX_OUTPUTS - 1) / MAX_OUTPUTS, most = O / STEP;
    int64_t o_panels = fewest;
    while (o_panels < most && o_panels * k_panels % num_threads) o_panels++;
    return round_up((O + o_panels - 1) / o_panels);
}

/* Compute d_weight_OK = d_y' x in float32, the gradient of a linear layer's weight. O and K are multiples of 32. */
int weight_gradient(const bf16 *d_y_NO, const bf16 *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                    int num_threads) {
    if (O % STEP || K % STEP) return BAD_ARGUMENTS;
    if (N == 0) memset(d_weight_OK, 0, (size_t)(O * K) * sizeof(float)); /* no chunk sets the sums */
    const int64_t k_panels = (K + PANEL - 1) / PANEL, o_panel = outputs_of_task(O, k_panels, num_threads);
    const int64_t o_panels = (O + o_panel - 1) / o_panel;
    Workspace workspace = workspace_of(num_threads, (o_panel + PANEL) * CHUNK * (int64_t)sizeof(bf16));
    if (!workspace.start) return NO_MEMORY;
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        bf16 *left = part_of(&workspace, omp_get_thread_num()), *right = left + o_panel * CHUNK;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < o_panels * k_panels; task++) {
            const int64_t o = task / k_panels * o_panel, k = task % k_panels * PANEL;
            const int64_t o_end = o + o_panel < O ? o + o_panel : O, k_end = k + PANEL < K ? k + PANEL : K;
            for (int64_t first = 0; first < N; first += CHUNK)
                add_chunk(d_y_NO, x_NK, d_weight_OK, N, O, K, first, N - first < CHUNK ? round_up(N - first) : CHUNK,
                          o, o_end, k, k_end, left, right);
        }
        tiles_end(&before);
    }
    free(workspace.start);
    return OK;
}
