/* Exact softmax attention within each document, forward and backward, one head of one document at a time.

L: tokens of the document, P: the same rounded up to a multiple of 32, E: the head's width D rounded up likewise.
Only real tokens are visited: a document's rows follow those of the one before (offsets). A score is q k', its exponent
score * log2(e) / sqrt(D), and a probability 2^(exponent - the query's largest exponent) / sum. Nothing of size L x L leaves the cache. */
#include "tiles.h"
#include <math.h>

enum { STRIP = 128 /* queries whose probabilities are held at once in backward */ };

static const float LOG2_E = 1.44269504f;
static const float NEVER = -1e30f; /* the exponent of a key that is not there: 2^NEVER is zero */

typedef struct {
    int64_t width, extended, row_width; /* D, E and 3 H: numbers between two rows of qkv */
    float factor;                       /* 1 / sqrt(D) */
} Heads;

static Heads heads_of(int64_t num_heads, int64_t D) {
    return (Heads){D, round_up(D), 3 * num_heads * D, 1 / sqrtf((float)D)};
}

/* A thread's working memory, handed out piece by piece. */
typedef struct { char *start, *next; } Scratch;

static Scratch scratch_of(int64_t num_bytes) {
    char *start = aligned_alloc(64, (size_t)(num_bytes + 63) / 64 * 64);
    return (Scratch){start, start};
}

static void *take(Scratch *scratch, int64_t num_bytes) {
    void *piece = scratch->next;
    scratch->next += (num_bytes + 63) / 64 * 64;
    return piece;
}

/* What the thread will probably compute next: the following head of the document, or the next document's first. */
typedef struct {
    int64_t first, length, column; /* its rows, and where its numbers begin in a row of H */
} Next;

static Next next_of(const int64_t *offsets, int64_t num_documents, int64_t num_heads, int64_t D, int64_t task) {
    const int64_t document = (task + 1) / num_heads;
    if (document >= num_documents) return (Next){0, 0, 0};
    return (Next){offsets[document], offsets[document + 1] - offsets[document], (task + 1) % num_heads * D};
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t longest(const int64_t *offsets, int64_t num_documents) {
    int64_t length = 0;
    for (int64_t b = 0; b < num_documents; b++)
        if (offsets[b + 1] - offsets[b] > length) length = offsets[b + 1] - offsets[b];
    return length;
}

/* A head's L rows into P x E with zeros around them, each times its factor where there are factors. */
static void gather_head(const bf16 *source, int64_t row_width, const float *factor_L, int64_t L, int64_t D, int64_t P,
                        int64_t E, bf16 *target_PE) {
    for (int64_t n = 0; n < L; n++)
        for (int64_t j = 0; j < E; j += LANES) {
            __mmask16 lanes = lanes_at(j, D);
            f32x16 x = load_bf16(source + n * row_width + j, lanes);
            if (factor_L) x = _mm512_mul_ps(x, splat(factor_L[n]));
            store_bf16(target_PE + n * E + j, 0xFFFF, x);
        }
    memset(target_PE + L * E, 0, (size_t)((P - L) * E) * sizeof(bf16));
}

/* value * factor for a head's L rows, out of rows E apart; their sums are added to sum_D. */
static void scatter_head(const float *value, int64_t E, float factor, int64_t L, int64_t D, bf16 *target,
                         int64_t row_width, float *sum_D) {
    for (int64_t j = 0; j < D; j += LANES) {
        __mmask16 lanes = lanes_at(j, D);
        f32x16 sum = splat(0);
        for (int64_t n = 0; n < L; n++) {
            f32x16 x = _mm512_mul_ps(load_f32(value + n * E + j, lanes), splat(factor));
            store_bf16(target + n * row_width + j, lanes, x);
            sum = _mm512_add_ps(sum, x);
        }
        add_to(sum_D + j, lanes, sum);
    }
}

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* A query's scores to its probabilities, not yet divided by their sum. Keys from L on get zero. max: of exponents. */
static void softmax_row(const float *score_P, float factor, int64_t L, int64_t P, bf16 *probability_P, float *max,
                        float *sum) {
    f32x16 most = splat(NEVER), total = splat(0);
    for (int64_t j = 0; j < L; j += LANES)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(splat(NEVER), lanes_at(j, L), score_P + j));
    *max = _mm512_reduce_max_ps(most) * factor;
    for (int64_t j = 0; j < P; j += 2 * LANES) {
        f32x16 left = _mm512_mask_loadu_ps(splat(NEVER), lanes_at(j, L), score_P + j);
        f32x16 right = _mm512_mask_loadu_ps(splat(NEVER), lanes_at(j + LANES, L), score_P + j + LANES);
        left = exp2_of(_mm512_fmsub_ps(left, splat(factor), splat(*max)));
        right = exp2_of(_mm512_fmsub_ps(right, splat(factor), splat(*max)));
        total = _mm512_add_ps(total, _mm512_add_ps(left, right));
        _mm512_storeu_si512(probability_P + j, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    }
    *sum = _mm512_reduce_add_ps(total);
}

static int64_t forward_bytes(int64_t P, int64_t E) {
    return 5 * (P * E * 2 + 64) + STEP * P * 6 + STEP * E * 4 + 3 * 64;
}

/* qkv, context, max and scale are those of one head of one document. next_qkv are the rows of the one after it. */
static void head_forward(const bf16 *qkv, int64_t H, int64_t L, const Heads *heads, Scratch scratch, bf16 *context,
                         float *max_L, float *scale_L, const bf16 *next_qkv, int64_t next_L) {
    const int64_t D = heads->width, E = heads->extended, P = round_up(L);
    bf16 *query_PE = take(&scratch, P * E * 2), *key_PE = take(&scratch, P * E * 2);
    bf16 *value_PE = take(&scratch, P * E * 2);
    bf16 *packed_key = take(&scratch, P * E * 2), *packed_value = take(&scratch, P * E * 2);
    float *score = take(&scratch, STEP * P * 4), *out = take(&scratch, STEP * E * 4);
    bf16 *probability = take(&scratch, STEP * P * 2);
    gather_head(qkv, heads->row_width, NULL, L, D, P, E, query_PE);
    gather_head(qkv + H, heads->row_width, NULL, L, D, P, E, key_PE);
    gather_head(qkv + 2 * H, heads->row_width, NULL, L, D, P, E, value_PE);
    pack_transposed(key_PE, P, E, packed_key);
    pack(value_PE, P, E, packed_value);
    for (int64_t query = 0; query < P; query += STEP) {
        for (int64_t key = 0; key < P; key += STEP)
            product_32x32(score + key, P, query_PE + query * E, E, STEP, packed_key + key * STEP, P * STEP, E / STEP, 0);
        float sum[STEP], max[STEP];
        for (int row = 0; row < STEP; row++) {
            softmax_row(score + row * P, LOG2_E * heads->factor, L, P, probability + row * P, &max[row], &sum[row]);
            for (int part = 0; part < 3; part++)
                prefetch_rows(next_qkv + part * H, heads->row_width, smaller(query + row, next_L),
                              smaller(query + row + 1, next_L), D);
        }
        for (int64_t d = 0; d < E; d += STEP)
            product_32x32(out + d, E, probability, P, STEP, packed_value + d * STEP, E * STEP, P / STEP, 0);
        for (int64_t row = 0; row < STEP && query + row < L; row++) {
            const int64_t n = query + row;
            if (max_L) max_L[n] = max[row], scale_L[n] = 1 / sum[row];
            for (int64_t j = 0; j < D; j += LANES)
                store_bf16(context + n * H + j, lanes_at(j, D),
                           _mm512_mul_ps(load_f32(out + row * E + j, lanes_at(j, D)), splat(1 / sum[row])));
        }
    }
}

/* context_NH = softmax(q k' / sqrt(D)) v, each document by itself. offsets_B1 are its rows'
   bounds. max_AN and scale_AN, which backward needs, may be NULL. */
void attention(const bf16 *qkv_N3H, const int64_t *offsets_B1, bf16 *context_NH, float *max_AN,
               float *scale_AN, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    const int64_t num_bytes = forward_bytes(round_up(longest(offsets_B1, num_documents)), heads.extended);
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        Scratch scratch = scratch_of(num_bytes);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_documents * num_heads; task++) {
            const int64_t first = offsets_B1[task / num_heads], L = offsets_B1[task / num_heads + 1] - first;
            const int64_t head = task % num_heads, saved = head * N + first;
            const Next next = next_of(offsets_B1, num_documents, num_heads, D, task);
            head_forward(qkv_N3H + first * 3 * H + head * D, H, L, &heads, scratch,
                         context_NH + first * H + head * D, max_AN ? max_AN + saved : NULL,
                         max_AN ? scale_AN + saved : NULL, qkv_N3H + next.first * 3 * H + next.column, next.length);
        }
        free(scratch.start);
        tiles_end(&before);
    }
}

/* ---- Backward ---------------------------------------------------------------------------------------------------- */

/* The product of the rows of d_out and context: what the softmax's gradient subtracts. d_out is the rounded and scaled
   one that the scores' gradients are made from: the difference of the two is small, and must not see its rounding. */
static void row_deltas(const bf16 *d_out_PE, const bf16 *context, int64_t H, int64_t L, int64_t D, int64_t E,
                       float *delta_L) {
    for (int64_t n = 0; n < L; n++) {
        f32x16 sum = splat(0);
        for (int64_t j = 0; j < D; j += LANES) {
            __mmask16 lanes = lanes_at(j, D);
            sum = _mm512_fmadd_ps(load_bf16(d_out_PE + n * E + j, lanes), load_bf16(context + n * H + j, lanes), sum);
        }
        delta_L[n] = _mm512_reduce_add_ps(sum);
    }
}

/* For 32 keys (rows, of which num_keys are there) by 32 queries (columns): probabilities and the scores' gradients as
   left operands (rows `strip` apart) and the latter as a packed right one too. */
static void score_gradients(const float *score, const float *d_probability, const float *max, const float *delta,
                            float factor, int64_t num_keys, int64_t strip, bf16 *probability, bf16 *d_score,
                            bf16 *packed_d_score) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int pair = 0; pair < 16; pair++) {
        f32x16 d[2][2]; /* two keys by two times sixteen queries */
        for (int upper = 0; upper < 2; upper++) {
            const int key = 2 * pair + upper;
            f32x16 p[2];
            for (int half = 0; half < 2; half++) {
                const int at = key * STEP + half * LANES;
                f32x16 exponent = _mm512_fmsub_ps(_mm512_loadu_ps(score + at), splat(factor),
                                                  _mm512_loadu_ps(max + half * LANES));
                p[half] = exp2_of(key < num_keys ? exponent : splat(NEVER));
                f32x16 change =
                    _mm512_sub_ps(_mm512_loadu_ps(d_probability + at), _mm512_loadu_ps(delta + half * LANES));
                d[upper][half] = _mm512_mul_ps(p[half], change);
            }
            _mm512_storeu_si512(probability + key * strip, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]));
            _mm512_storeu_si512(d_score + key * strip, (__m512i)_mm512_cvtne2ps_pbh(d[upper][1], d[upper][0]));
        }
        for (int half = 0; half < 2; half++)
            _mm512_storeu_si512(packed_d_score + half * TILE + pair * 32,
                                _mm512_permutexvar_epi16(
                                    interleave, (__m512i)_mm512_cvtne2ps_pbh(d[1][half], d[0][half])));
    }
}

static int64_t backward_bytes(int64_t P, int64_t E) {
    return 10 * (P * E * 2 + 64) + 3 * (P * E * 4 + 64) + 3 * (P * STRIP * 2 + 64) + STRIP * E * 4 +
           2 * (P * 4 + 64) + 2 * STEP * STEP * 4 + 4 * 64;
}

static void head_backward(const bf16 *qkv, const bf16 *context, const bf16 *d_context,
                          const float *max_L, const float *scale_L, int64_t H, int64_t L, const Heads *heads,
                          Scratch scratch, bf16 *d_qkv, float *d_bias, const bf16 *next_qkv,
                          const bf16 *next_context, const bf16 *next_d_context, int64_t next_L) {
    const int64_t D = heads->width, E = heads->extended, P = round_up(L), row_width = heads->row_width;
    const float factor = LOG2_E * heads->factor;
    bf16 *query_PE = take(&scratch, P * E * 2), *key_PE = take(&scratch, P * E * 2);
    bf16 *value_PE = take(&scratch, P * E * 2), *d_out_PE = take(&scratch, P * E * 2);
    bf16 *query_columns = take(&scratch, P * E * 2), *query_rows = take(&scratch, P * E * 2);
    bf16 *d_out_columns = take(&scratch, P * E * 2), *d_out_rows = take(&scratch, P * E * 2);
    bf16 *packed_key = take(&scratch, P * E * 2), *key_EP = take(&scratch, P * E * 2);
    float *d_query_PE = take(&scratch, P * E * 4), *d_key_PE = take(&scratch, P * E * 4);
    float *d_value_PE = take(&scratch, P * E * 4), *d_query_ES = take(&scratch, STRIP * E * 4);
    bf16 *probability_PS = take(&scratch, P * STRIP * 2), *d_score_PS = take(&scratch, P * STRIP * 2);
    bf16 *packed_d_score = take(&scratch, P * STRIP * 2);
    float *max_P = take(&scratch, P * 4), *delta_P = take(&scratch, P * 4);
    float *score = take(&scratch, STEP * STEP * 4), *d_probability = take(&scratch, STEP * STEP * 4);

    gather_head(qkv, row_width, NULL, L, D, P, E, query_PE);
    gather_head(qkv + H, row_width, NULL, L, D, P, E, key_PE);
    gather_head(qkv + 2 * H, row_width, NULL, L, D, P, E, value_PE);
    gather_head(d_context, H, scale_L, L, D, P, E, d_out_PE); /* so probabilities need no division */
    pack_transposed(query_PE, P, E, query_columns);
    pack(query_PE, P, E, query_rows);
    pack_transposed(d_out_PE, P, E, d_out_columns);
    pack(d_out_PE, P, E, d_out_rows);
    pack(key_PE, P, E, packed_key);
    unpack_transposed(packed_key, P, E, key_EP);
    row_deltas(d_out_PE, context, H, L, D, E, delta_P);
    for (int64_t n = 0; n < P; n++) max_P[n] = n < L ? max_L[n] : -NEVER;
    for (int64_t n = L; n < P; n++) delta_P[n] = 0;

    const int64_t rows_a_block = STEP * STEP / P + 1; /* to prefetch, so that P are in (P / STEP)^2 blocks */
    int64_t next_row = 0;
    for (int64_t first = 0; first < P; first += STRIP) {
        const int64_t strip = P - first < STRIP ? P - first : STRIP;
        for (int64_t key = 0; key < P; key += STEP)
            for (int64_t query = 0; query < strip; query += STEP) {
                const int64_t column = (first + query) * STEP;
                product_32x32(score, STEP, key_PE + key * E, E, STEP, query_columns + column, P * STEP, E / STEP, 0);
                product_32x32(d_probability, STEP, value_PE + key * E, E, STEP, d_out_columns + column, P * STEP, E / STEP,
                              0);
                score_gradients(score, d_probability, max_P + first + query, delta_P + first + query, factor, L - key, strip,
                                probability_PS + key * strip + query, d_score_PS + key * strip + query,
                                packed_d_score + key * strip + query * STEP);
                const int64_t from = smaller(next_row, next_L), to = smaller(next_row += rows_a_block, next_L);
                for (int part = 0; part < 3; part++) prefetch_rows(next_qkv + part * H, row_width, from, to, D);
                prefetch_rows(next_context, H, from, to, D);
                prefetch_rows(next_d_context, H, from, to, D);
            }
        for (int64_t d = 0; d < E; d += STEP) {
            const int64_t right = first * E + d * STEP;
            for (int64_t key = 0; key < P; key += STEP) {
                product_32x32(d_value_PE + key * E + d, E, probability_PS + key * strip, strip, STEP, d_out_rows + right,
                              E * STEP, strip / STEP, first > 0);
                product_32x32(d_key_PE + key * E + d, E, d_score_PS + key * strip, strip, STEP, query_rows + right, E * STEP,
                              strip / STEP, first > 0);
            }
            for (int64_t query = 0; query < strip; query += STEP)
                product_32x32(d_query_ES + d * strip + query, strip, key_EP + d * P, P, STEP, packed_d_score + query * STEP,
                              strip * STEP, P / STEP, 0);
        }
        for (int64_t query = 0; query < strip; query += 16)
            for (int64_t d = 0; d < E; d += 16)
                transpose_words((const uint32_t *)(d_query_ES + d * strip + query), strip,
                                (uint32_t *)(d_query_PE + (first + query) * E + d), E);
    }
    scatter_head(d_query_PE, E, heads->factor, L, D, d_qkv, row_width, d_bias);
    scatter_head(d_key_PE, E, heads->factor, L, D, d_qkv + H, row_width, d_bias + H);
    scatter_head(d_value_PE, E, 1, L, D, d_qkv + 2 * H, row_width, d_bias + 2 * H);
}

/* Backward of attention: d_qkv_N3H, and in the first row of d_bias_B3H (num_documents rows) its sum over all rows. */
void attention_backward(const bf16 *qkv_N3H, const bf16 *context_NH, const bf16 *d_context_NH,
                        const float *max_AN, const float *scale_AN, const int64_t *offsets_B1, bf16 *d_qkv_N3H,
                        float *d_bias_B3H, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    const int64_t num_bytes = backward_bytes(round_up(longest(offsets_B1, num_documents)), heads.extended);
    memset(d_bias_B3H, 0, (size_t)(num_documents * 3 * H) * sizeof(float));
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        Scratch scratch = scratch_of(num_bytes);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_documents * num_heads; task++) {
            const int64_t document = task / num_heads, head = task % num_heads;
            const int64_t first = offsets_B1[document], L = offsets_B1[document + 1] - first;
            const int64_t column = head * D, row = first * H + column, saved = head * N + first;
            const Next next = next_of(offsets_B1, num_documents, num_heads, D, task);
            const int64_t next_row = next.first * H + next.column;
            if (L > 0)
                head_backward(qkv_N3H + first * 3 * H + column, context_NH + row, d_context_NH + row,
                              max_AN + saved, scale_AN + saved, H, L, &heads, scratch,
                              d_qkv_N3H + first * 3 * H + column, d_bias_B3H + document * 3 * H + column,
                              qkv_N3H + next.first * 3 * H + next.column, context_NH + next_row,
                              d_context_NH + next_row, next.length);
        }
        free(scratch.start);
        tiles_end(&before);
    }
    sum_blocks(d_bias_B3H, num_documents, 3 * H);
}
