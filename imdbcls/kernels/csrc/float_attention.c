/* Exact softmax attention within each document in float32, forward and backward, for one head of one document at a
time.

The rows of the documents follow each other without padding; `offsets` contains their boundaries. A score is q k'. Its
exponent is score * log2(e) / sqrt(D), and the probability is 2^(exponent - shift) / sum, where the shift is the largest
exponent of the query. No matrix of size L x L leaves the cache.

L: tokens of the document, P: stride between rows of scores. */
#include "panels.h"
#include <math.h>

enum { STRIP = 48 /* queries whose scores with all keys are computed together: a multiple of GROUP */ };

static const float LOG2_E = 1.44269504f;
static const float NEG_INF = -1e30f;

typedef struct {
    int64_t width, row_width, hidden; /* D; 3 H, the stride between rows of qkv; H */
    float factor;                     /* 1 / sqrt(D) */
} Heads;

static Heads heads_of(int64_t num_heads, int64_t D) {
    return (Heads){D, 3 * num_heads * D, num_heads * D, 1 / sqrtf((float)D)};
}

/* Return the stride between rows of L scores: an odd number of panels. With an even number of panels, all elements of a
   column could map to a few cache sets. */
static int64_t score_width(int64_t L) { return (panels_of(L) | 1) * PANEL; }

/* Multiply the queries of a strip with L keys, or the gradients of its outputs with L values. */
static void scores_of(const float *strip, int64_t row_width, int64_t num_rows, const float *packed, int64_t L, int64_t D,
                      int64_t P, float *score_SP) {
    for (int64_t key = 0; key < L; key += PANEL)
        product_with_panel(score_SP + key, P, (Left){strip, row_width, 1}, num_rows, packed + key * D, D, FROM_ZERO, NULL);
}

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* Replace a row of scores by 2^(exponent - shift). Return the sum. */
static float exponentials(float *row_L, int64_t L, float factor, float *shift) {
    f32s most = splat(NEG_INF), total = splat(0);
    int64_t j = 0;
    for (; j + LANES <= L; j += LANES) most = _mm256_max_ps(load_full(row_L + j), most);
    float largest = largest_of(most);
    for (; j < L; j++) largest = row_L[j] > largest ? row_L[j] : largest;
    *shift = largest * factor;
    for (j = 0; j < L; j += LANES) { /* the row is padded to full vectors */
        const f32s value = exp2_of(fmsub(load_full(row_L + j), splat(factor), splat(*shift)));
        const f32s kept = L - j >= LANES ? value : sub_where(lanes_at(j, L), value, splat(0));
        total = add(total, kept);
        store_f32(row_L + j, ALL_LANES, kept);
    }
    return sum_of(total);
}

/* The buffers of a thread in forward. */
typedef struct {
    float *packed_key, *packed_value, *score_SP, *out;
} Forward;

static Forward lay_out_forward(Arena *arena, int64_t L, int64_t D) {
    return (Forward){
        .packed_key = arena_alloc(arena, packed_size(D, L) * 4),
        .packed_value = arena_alloc(arena, packed_size(L, D) * 4),
        .score_SP = arena_alloc(arena, STRIP * score_width(L) * 4),
        .out = arena_alloc(arena, STRIP * panels_of(D) * PANEL * 4),
    };
}

static int64_t forward_bytes(int64_t L, int64_t D) {
    Arena measured = {0};
    lay_out_forward(&measured, L, D);
    return (int64_t)measured.next;
}

static void head_forward(const float *qkv, int64_t L, const Heads *heads, Arena arena, float *context, float *shift_L,
                         float *scale_L) {
    const int64_t D = heads->width, H = heads->hidden, P = score_width(L), out_width = panels_of(D) * PANEL;
    const Forward b = lay_out_forward(&arena, L, D);
    pack_transposed(qkv + H, heads->row_width, L, D, b.packed_key);
    pack(qkv + 2 * H, heads->row_width, L, D, b.packed_value);
    for (int64_t first = 0; first < L; first += STRIP) {
        const int64_t num_rows = min_int(L - first, STRIP);
        float scale[STRIP];
        scores_of(qkv + first * heads->row_width, heads->row_width, num_rows, b.packed_key, L, D, P,
                  b.score_SP);
        for (int64_t n = 0; n < num_rows; n++) {
            float shift;
            scale[n] = 1 / exponentials(b.score_SP + n * P, L, LOG2_E * heads->factor, &shift);
            if (shift_L) shift_L[first + n] = shift, scale_L[first + n] = scale[n];
        }
        for (int64_t d = 0; d < D; d += PANEL)
            product_with_panel(b.out + d, out_width, (Left){b.score_SP, P, 1}, num_rows, b.packed_value + d * L, L,
                               FROM_ZERO, NULL);
        for (int64_t n = 0; n < num_rows; n++)
            for (int64_t j = 0; j < D; j += LANES) {
                const f32s sum = load_full(b.out + n * out_width + j);
                store_f32(context + (first + n) * H + j, lanes_at(j, D), mul(sum, splat(scale[n])));
            }
    }
}

/* Compute context_NH = softmax(q k' / sqrt(D)) v within each document. offsets_B1 contains the boundaries of the
   documents' rows. shift_AN and scale_AN, which backward needs, may be NULL. */
int attention(const float *qkv_N3H, const int64_t *offsets_B1, float *context_NH, float *shift_AN, float *scale_AN,
              int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    if (shift_AN && !scale_AN) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, num_documents)) return BAD_OFFSETS;
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    Workspace workspace = workspace_of(num_threads, forward_bytes(longest(offsets_B1, num_documents), D));
    if (!workspace.start) return NO_MEMORY;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t task = 0; task < num_documents * num_heads; task++) {
        const int64_t first = offsets_B1[task / num_heads], L = offsets_B1[task / num_heads + 1] - first;
        const int64_t column = task % num_heads * D, saved = task % num_heads * N + first;
        const Arena arena = {(uintptr_t)part_of(&workspace, omp_get_thread_num())};
        head_forward(qkv_N3H + first * 3 * H + column, L, &heads, arena,
                     context_NH + first * H + column, shift_AN ? shift_AN + saved : NULL,
                     shift_AN ? scale_AN + saved : NULL);
    }
    free(workspace.start);
    return OK;
}

/* ---- Backward ---------------------------------------------------------------------------------------------------- */

/* Replace a row of scores by probabilities, and the gradients of the probabilities by the gradients of the scores. */
static void score_gradients(float *row_L, float *d_row_L, int64_t L, float factor, float shift, float scale, float mean) {
    for (int64_t j = 0; j < L; j += LANES) { /* rows are padded to full vectors; the padding is never read */
        const f32s p = mul(exp2_of(fmsub(load_full(row_L + j), splat(factor), splat(shift))), splat(scale));
        store_f32(row_L + j, ALL_LANES, p);
        store_f32(d_row_L + j, ALL_LANES, mul(p, sub(load_full(d_row_L + j), splat(mean))));
    }
}

/* Return the dot product of two rows. */
static float row_product(const float *left, const float *right, int64_t D) {
    f32s sum = splat(0);
    for (int64_t j = 0; j < D; j += LANES)
        sum = fmadd(load_f32(left + j, lanes_at(j, D)), load_f32(right + j, lanes_at(j, D)), sum);
    return sum_of(sum);
}

/* Write factor * value to the L rows of a head; `value` has the row stride value_width. Add the sum over the rows to
   sum_D. */
static void scatter_head(const float *value, int64_t value_width, float factor, int64_t L, int64_t D, float *target,
                         int64_t row_width, float *sum_D) {
    for (int64_t j = 0; j < D; j += LANES) {
        const lanes_mask lanes = lanes_at(j, D);
        f32s sum = splat(0);
        for (int64_t n = 0; n < L; n++) {
            const f32s scaled = mul(load_full(value + n * value_width + j), splat(factor));
            store_f32(target + n * row_width + j, lanes, scaled);
            sum = add(sum, scaled);
        }
        add_to(sum_D + j, lanes, sum);
    }
}

/* The buffers of a thread in backward. */
typedef struct {
    float *key_columns, *value_columns, *key_rows, *query_rows, *d_out_rows, *d_query, *d_key, *d_value, *p_SP, *d_score_SP;
} Backward;

static Backward lay_out_backward(Arena *arena, int64_t L, int64_t D) {
    const int64_t P = score_width(L), width = panels_of(D) * PANEL;
    return (Backward){
        .key_columns = arena_alloc(arena, packed_size(D, L) * 4),
        .value_columns = arena_alloc(arena, packed_size(D, L) * 4),
        .key_rows = arena_alloc(arena, packed_size(L, D) * 4),
        .query_rows = arena_alloc(arena, packed_size(STRIP, D) * 4),
        .d_out_rows = arena_alloc(arena, packed_size(STRIP, D) * 4),
        .d_query = arena_alloc(arena, L * width * 4),
        .d_key = arena_alloc(arena, L * width * 4),
        .d_value = arena_alloc(arena, L * width * 4),
        .p_SP = arena_alloc(arena, STRIP * P * 4),
        .d_score_SP = arena_alloc(arena, STRIP * P * 4),
    };
}

static int64_t backward_bytes(int64_t L, int64_t D) {
    Arena measured = {0};
    lay_out_backward(&measured, L, D);
    return (int64_t)measured.next;
}

static void head_backward(const float *qkv, const float *context, const float *d_context, const float *shift_L,
                          const float *scale_L, int64_t L, const Heads *heads, Arena arena, float *d_qkv,
                          float *d_bias) {
    const int64_t D = heads->width, H = heads->hidden, row_width = heads->row_width, P = score_width(L);
    const int64_t width = panels_of(D) * PANEL;
    const Backward b = lay_out_backward(&arena, L, D);
    pack_transposed(qkv + H, row_width, L, D, b.key_columns);
    pack_transposed(qkv + 2 * H, row_width, L, D, b.value_columns);
    pack(qkv + H, row_width, L, D, b.key_rows);
    for (int64_t first = 0; first < L; first += STRIP) {
        const int64_t num_rows = min_int(L - first, STRIP);
        const float *query = qkv + first * row_width, *d_out = d_context + first * H;
        pack(query, row_width, num_rows, D, b.query_rows);
        pack(d_out, H, num_rows, D, b.d_out_rows);
        scores_of(query, row_width, num_rows, b.key_columns, L, D, P, b.p_SP);
        scores_of(d_out, H, num_rows, b.value_columns, L, D, P, b.d_score_SP);
        for (int64_t n = 0; n < num_rows; n++)
            score_gradients(b.p_SP + n * P, b.d_score_SP + n * P, L, LOG2_E * heads->factor, shift_L[first + n],
                            scale_L[first + n], row_product(d_out + n * H, context + (first + n) * H, D));
        const First so_far = first ? FROM_SUM : FROM_ZERO;
        for (int64_t d = 0; d < D; d += PANEL) {
            product_with_panel(b.d_query + first * width + d, width, (Left){b.d_score_SP, P, 1}, num_rows,
                               b.key_rows + d * L, L, FROM_ZERO, NULL);
            product_with_panel(b.d_key + d, width, (Left){b.d_score_SP, 1, P}, L, b.query_rows + d * num_rows,
                               num_rows, so_far, NULL);
            product_with_panel(b.d_value + d, width, (Left){b.p_SP, 1, P}, L, b.d_out_rows + d * num_rows, num_rows, so_far,
                               NULL);
        }
    }
    scatter_head(b.d_query, width, heads->factor, L, D, d_qkv, row_width, d_bias);
    scatter_head(b.d_key, width, heads->factor, L, D, d_qkv + H, row_width, d_bias + H);
    scatter_head(b.d_value, width, 1, L, D, d_qkv + 2 * H, row_width, d_bias + 2 * H);
}

/* Compute the backward pass of attention: d_qkv_N3H, and its sum over all rows in the first row of d_bias_B3H. The
   other rows of d_bias_B3H, one per document, are working memory. */
int attention_backward(const float *qkv_N3H, const float *context_NH, const float *d_context_NH, const float *shift_AN,
                       const float *scale_AN, const int64_t *offsets_B1, float *d_qkv_N3H, float *d_bias_B3H,
                       int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    if (!are_valid_offsets(offsets_B1, num_documents)) return BAD_OFFSETS;
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    Workspace workspace = workspace_of(num_threads, backward_bytes(longest(offsets_B1, num_documents), D));
    if (!workspace.start) return NO_MEMORY;
    memset(d_bias_B3H, 0, (size_t)(num_documents * 3 * H) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t task = 0; task < num_documents * num_heads; task++) {
        const int64_t document = task / num_heads, first = offsets_B1[document], L = offsets_B1[document + 1] - first;
        const int64_t column = task % num_heads * D, row = first * H + column, saved = task % num_heads * N + first;
        const Arena arena = {(uintptr_t)part_of(&workspace, omp_get_thread_num())};
        head_backward(qkv_N3H + first * 3 * H + column, context_NH + row, d_context_NH + row, shift_AN + saved,
                      scale_AN + saved, L, &heads, arena,
                      d_qkv_N3H + first * 3 * H + column, d_bias_B3H + document * 3 * H + column);
    }
    free(workspace.start);
    sum_blocks(d_bias_B3H, num_documents, 3 * H);
    return OK;
}
