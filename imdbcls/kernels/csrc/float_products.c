/* The products with weights in float32, and their gradients. */
#include "panels.h"

enum {
    ROWS = 48,      /* of a task: they and a panel stay in the first caches, which two threads may share */
    STEPS = 384,    /* summed before the next rows */
    CHUNK = 128,    /* rows packed at once for a weight's gradient */
    OUTPUTS = 192,  /* of a task of a weight's gradient */
    INPUTS = 384,   /* likewise, at most: the more, the less often are outputs packed */
    INPUTS_LEAST = 96,
    STRIPE = 48,    /* outputs packed side by side: a multiple of the group, in whole cache lines */
    TASKS = 8,      /* for each thread, at least, where there is enough to do */
};

/* The processor has no tiles: see products.c. */
int start(int wanted) {
    (void)wanted;
    return 0;
}

/* A linear layer's weight as the right operand of x weight': num_outputs columns. */
int pack_weight(const float *weight_OK, float *packed, int64_t O, int64_t K, int num_threads) {
#pragma omp parallel for num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(O); panel++)
        pack_transposed(weight_OK + panel * PANEL * K, K, smaller(O - panel * PANEL, PANEL), K, packed + panel * PANEL * K);
    return OK;
}

/* y (N x M) = x (N x K) times what is packed (K x M), a weight's transpose, plus the bias (NULL: none). */
int linear(const float *x_NK, const float *packed, const float *bias_M, float *y_NM, int64_t N, int64_t K, int64_t M,
           int num_threads) {
    const int64_t row_tasks = (N + ROWS - 1) / ROWS, num_panels = panels_of(M);
    const int64_t column_tasks = smaller(num_panels, (TASKS * num_threads + row_tasks - 1) / (row_tasks ? row_tasks : 1));
    const int64_t panels = column_tasks ? (num_panels + column_tasks - 1) / column_tasks : 0;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic) collapse(2)
    for (int64_t task = 0; task < row_tasks; task++)
        for (int64_t part = 0; part < column_tasks; part++) {
            const int64_t first = task * ROWS, num_rows = smaller(N - first, ROWS);
            const int64_t end = smaller((part + 1) * panels, num_panels);
            for (int64_t panel = part * panels; panel < end; panel++) {
                const int64_t column = panel * PANEL, num_columns = smaller(M - column, PANEL);
                float bias[PANEL] ALIGNED = {0}, edge[ROWS * PANEL] ALIGNED;
                if (bias_M) memcpy(bias, bias_M + column, (size_t)num_columns * sizeof(float));
                float *c = num_columns < PANEL ? edge : y_NM + first * M + column;
                const int64_t c_width = num_columns < PANEL ? PANEL : M;
                for (int64_t k = 0; k < K; k += STEPS) {
                    const Left x = {x_NK + first * K + k, K, 1};
                    product_with_panel(c, c_width, x, num_rows, packed + column * K + k * PANEL, smaller(K - k, STEPS),
                                       k ? FROM_SUM : FROM_BIAS, bias);
                }
                if (num_columns < PANEL)
                    for (int64_t n = 0; n < num_rows; n++)
                        memcpy(y_NM + (first + n) * M + column, edge + n * PANEL, (size_t)num_columns * sizeof(float));
            }
        }
    return OK;
}

/* d_x = d_y weight, of the same packed weight. */
int linear_backward(const float *d_y_NO, const float *packed, float *d_x_NK, int64_t N, int64_t K, int64_t O,
                    int num_threads) {
    float *transposed = allocate((size_t)packed_size(O, K) * sizeof(float));
    if (!transposed) return NO_MEMORY;
#pragma omp parallel for num_threads(num_threads)
    for (int64_t panel = 0; panel < panels_of(K); panel++) { /* of inputs */
        const int64_t k = panel * PANEL, num_inputs = smaller(K - k, PANEL);
        for (int64_t o = 0; o < O; o += PANEL)
            pack_transposed(packed + o * K + k * PANEL, PANEL, num_inputs, smaller(O - o, PANEL),
                            transposed + panel * PANEL * O + o * PANEL);
    }
    const int status = linear(d_y_NO, transposed, NULL, d_x_NK, N, O, K, num_threads);
    free(transposed);
    return status;
}

/* Pack num_columns columns of num_rows rows, row_width apart, as the transpose of a left operand: stripes of 48. */
static void pack_left(const float *matrix, int64_t row_width, int64_t num_rows, int64_t num_columns, float *packed) {
    for (int64_t j = 0; j < num_columns; j += STRIPE, packed += num_rows * STRIPE)
        for (int64_t i = 0; i < num_rows; i++)
            for (int64_t at = j; at < smaller(j + STRIPE, num_columns); at += LANES) {
                const f32s numbers = load_f32(matrix + i * row_width + at, lanes_at(at, num_columns));
                store_f32(packed + i * STRIPE + at - j, ALL_LANES, numbers);
            }
}

/* d_weight_OK = d_y' x: the gradient of a linear layer's weight. */
int weight_gradient(const float *d_y_NO, const float *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                    int num_threads) {
    const int64_t o_tasks = (O + OUTPUTS - 1) / OUTPUTS;
    int64_t inputs = INPUTS; /* of a task; whatever their number, each sum is made in the same order */
    while (inputs > INPUTS_LEAST && o_tasks * ((K + inputs - 1) / inputs) < num_threads) inputs /= 2;
    const int64_t k_tasks = (K + inputs - 1) / inputs;
    Workspace workspace = workspace_of(num_threads, ((OUTPUTS + inputs) * CHUNK + OUTPUTS * inputs) * (int64_t)sizeof(float));
    if (!workspace.start) return NO_MEMORY;
    if (N == 0) memset(d_weight_OK, 0, (size_t)(O * K) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic) collapse(2)
    for (int64_t o_task = 0; o_task < o_tasks; o_task++)
        for (int64_t k_task = 0; k_task < k_tasks; k_task++) {
            float *left = part_of(&workspace, omp_get_thread_num()), *right = left + OUTPUTS * CHUNK;
            float *sum = right + inputs * CHUNK;
            const int64_t o = o_task * OUTPUTS, num_outputs = smaller(O - o, OUTPUTS);
            const int64_t k = k_task * inputs, num_inputs = smaller(K - k, inputs);
            for (int64_t first = 0; first < N; first += CHUNK) {
                const int64_t num_rows = smaller(N - first, CHUNK);
                pack_left(d_y_NO + first * O + o, O, num_rows, num_outputs, left);
                pack(x_NK + first * K + k, K, num_rows, num_inputs, right);
                for (int64_t j = 0; j < num_inputs; j += PANEL)
                    for (int64_t i = 0; i < num_outputs; i += STRIPE)
                        product_with_panel(sum + i * inputs + j, inputs, (Left){left + i * num_rows, 1, STRIPE},
                                           smaller(num_outputs - i, STRIPE), right + j * num_rows, num_rows,
                                           first ? FROM_SUM : FROM_ZERO, NULL);
            }
            for (int64_t i = 0; N && i < num_outputs; i++)
                memcpy(d_weight_OK + (o + i) * K + k, sum + i * inputs, (size_t)num_inputs * sizeof(float));
        }
    free(workspace.start);
    return OK;
}
