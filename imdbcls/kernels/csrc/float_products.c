/* Products with weights in float32, and their gradients. */
#include "panels.h"

enum {
    ROWS = 48,        /* rows of a task: they and a panel fit into the L1 cache, which two threads may share */
    STEPS = 384,      /* a sum over K has parts of this many steps; each part runs over all rows of a task */
    CHUNK = 128,      /* rows that are packed together for the gradient of a weight */
    OUTPUTS = 192,    /* outputs of a task for the gradient of a weight */
    MAX_INPUTS = 384, /* inputs of such a task: with more inputs, outputs are packed less often */
    MIN_INPUTS = 96,
    STRIPE = 48,      /* outputs that are packed side by side: a multiple of GROUP, and full cache lines */
    TASKS = 8,        /* minimum number of tasks per thread, if there is enough work */
};

/* There is no AMX in this library; see products.c. */
int start(int wanted) {
    (void)wanted;
    return 0;
}

/* Pack the weight of a linear layer as the right operand of x weight', with O columns. */
int pack_weight(const float *weight_OK, float *packed, int64_t O, int64_t K, int num_threads) {
#pragma omp parallel for num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(O); panel++)
        pack_transposed(weight_OK + panel * PANEL * K, K, min_int(O - panel * PANEL, PANEL), K, packed + panel * PANEL * K);
    return OK;
}

/* Compute y (N x M) = x (N x K) times `packed` (K x M, the transpose of a weight) plus the bias, which may be NULL. */
int linear(const float *x_NK, const float *packed, const float *bias_M, float *y_NM, int64_t N, int64_t K, int64_t M,
           int num_threads) {
    const int64_t row_tasks = (N + ROWS - 1) / ROWS, num_panels = panels_of(M);
    const int64_t column_tasks = min_int(num_panels, (TASKS * num_threads + row_tasks - 1) / (row_tasks ? row_tasks : 1));
    const int64_t panels = column_tasks ? (num_panels + column_tasks - 1) / column_tasks : 0;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic) collapse(2)
    for (int64_t task = 0; task < row_tasks; task++)
        for (int64_t part = 0; part < column_tasks; part++) {
            const int64_t first = task * ROWS, num_rows = min_int(N - first, ROWS);
            const int64_t end = min_int((part + 1) * panels, num_panels);
            for (int64_t panel = part * panels; panel < end; panel++) {
                const int64_t column = panel * PANEL, num_columns = min_int(M - column, PANEL);
                float bias[PANEL] ALIGNED = {0}, edge[ROWS * PANEL] ALIGNED;
                if (bias_M) memcpy(bias, bias_M + column, (size_t)num_columns * sizeof(float));
                float *c = num_columns < PANEL ? edge : y_NM + first * M + column;
                const int64_t c_width = num_columns < PANEL ? PANEL : M;
                for (int64_t k = 0; k < K; k += STEPS) {
                    const Left x = {x_NK + first * K + k, K, 1};
                    product_with_panel(c, c_width, x, num_rows, packed + column * K + k * PANEL, min_int(K - k, STEPS),
                                       k ? FROM_SUM : FROM_BIAS, bias);
                }
                if (num_columns < PANEL)
                    for (int64_t n = 0; n < num_rows; n++)
                        memcpy(y_NM + (first + n) * M + column, edge + n * PANEL, (size_t)num_columns * sizeof(float));
            }
        }
    return OK;
}

/* Compute d_x = d_y weight, from the packed weight. */
int linear_backward(const float *d_y_NO, const float *packed, float *d_x_NK, int64_t N, int64_t K, int64_t O,
                    int num_threads) {
    float *transposed = allocate((size_t)packed_size(O, K) * sizeof(float));
    if (!transposed) return NO_MEMORY;
#pragma omp parallel for num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(K); panel++) { /* panels of inputs */
        const int64_t k = panel * PANEL, num_inputs = min_int(K - k, PANEL);
        for (int64_t o = 0; o < O; o += PANEL)
            pack_transposed(packed + o * K + k * PANEL, PANEL, num_inputs, min_int(O - o, PANEL),
                            transposed + panel * PANEL * O + o * PANEL);
    }
    const int status = linear(d_y_NO, transposed, NULL, d_x_NK, N, O, K, num_threads);
    free(transposed);
    return status;
}

/* Pack a matrix of num_rows x num_columns with the row stride row_width as the transpose of a left operand, in stripes
   of 48 columns. */
static void pack_left(const float *matrix, int64_t row_width, int64_t num_rows, int64_t num_columns, float *packed) {
    for (int64_t j = 0; j < num_columns; j += STRIPE, packed += num_rows * STRIPE)
        for (int64_t i = 0; i < num_rows; i++)
            for (int64_t at = j; at < min_int(j + STRIPE, num_columns); at += LANES) {
                const f32s numbers = load_f32(matrix + i * row_width + at, lanes_at(at, num_columns));
                store_f32(packed + i * STRIPE + at - j, ALL_LANES, numbers);
            }
}

/* Compute d_weight_OK = d_y' x, the gradient of a linear layer's weight. */
int weight_gradient(const float *d_y_NO, const float *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                    int num_threads) {
    const int64_t o_tasks = (O + OUTPUTS - 1) / OUTPUTS;
    int64_t inputs = MAX_INPUTS; /* inputs of a task; the number does not change the order of a sum */
    while (inputs > MIN_INPUTS && o_tasks * ((K + inputs - 1) / inputs) < num_threads) inputs /= 2;
    const int64_t k_tasks = (K + inputs - 1) / inputs;
    Workspace workspace = workspace_of(num_threads, ((OUTPUTS + inputs) * CHUNK + OUTPUTS * inputs) * (int64_t)sizeof(float));
    if (!workspace.start) return NO_MEMORY;
    if (N == 0) memset(d_weight_OK, 0, (size_t)(O * K) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic) collapse(2)
    for (int64_t o_task = 0; o_task < o_tasks; o_task++)
        for (int64_t k_task = 0; k_task < k_tasks; k_task++) {
            float *left = part_of(&workspace, omp_get_thread_num()), *right = left + OUTPUTS * CHUNK;
            float *sum = right + inputs * CHUNK;
            const int64_t o = o_task * OUTPUTS, num_outputs = min_int(O - o, OUTPUTS);
            const int64_t k = k_task * inputs, num_inputs = min_int(K - k, inputs);
            for (int64_t first = 0; first < N; first += CHUNK) {
                const int64_t num_rows = min_int(N - first, CHUNK);
                pack_left(d_y_NO + first * O + o, O, num_rows, num_outputs, left);
                pack(x_NK + first * K + k, K, num_rows, num_inputs, right);
                for (int64_t j = 0; j < num_inputs; j += PANEL)
                    for (int64_t i = 0; i < num_outputs; i += STRIPE)
                        product_with_panel(sum + i * inputs + j, inputs, (Left){left + i * num_rows, 1, STRIPE},
                                           min_int(num_outputs - i, STRIPE), right + j * num_rows, num_rows,
                                           first ? FROM_SUM : FROM_ZERO, NULL);
            }
            for (int64_t i = 0; N && i < num_outputs; i++)
                memcpy(d_weight_OK + (o + i) * K + k, sum + i * inputs, (size_t)num_inputs * sizeof(float));
        }
    free(workspace.start);
    return OK;
}
