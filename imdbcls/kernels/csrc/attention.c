/* Exact softmax attention within each document, forward and backward, for one head of one document at a time.

The rows of the documents follow each other without padding; `offsets` contains their boundaries. A score is q k'. Its
exponent is score * log2(e) / sqrt(D), and the probability is 2^(exponent - shift) / sum. The shift keeps the numbers in
range. The usual shift is the largest exponent of the query, but finding it takes another pass over the scores. So the
kernel uses an upper bound instead. If the bound turns out to be too large, the kernel computes the usual shift. No
matrix of size L x L leaves the cache.

L: tokens of the document, P: L rounded up to a multiple of 32, E: the head width D rounded up to a multiple of 32. */
#include "tiles.h"
#include <math.h>

enum {
    CHUNK = 128, /* keys in a block of scores in forward; a block of 32 queries x CHUNK keys fits into the L1 cache */
    BLOCK = STEP * STEP,
    STRIP = 128, /* queries in a block of probabilities in backward */
};

static const float LOG2_E = 1.44269504f;
/* The largest exponent that is allowed after the shift. The sums over the keys, and the gradients times the reciprocals
   of the sums, then stay far from the limits of float32. */
static const float EXP_LIMIT = 80;
static const float MIN_SUM = 0x1p-80f; /* if a sum is smaller, the exact shift is computed */
static const float NEG_INF = -1e30f;   /* the exponent of a missing key: 2^NEG_INF is zero */

typedef struct {
    int64_t width, extended, row_width; /* D, E and 3 H, the stride between rows of qkv */
    float factor;                       /* 1 / sqrt(D) */
} Heads;

static Heads heads_of(int64_t num_heads, int64_t D) {
    return (Heads){D, round_up(D), 3 * num_heads * D, 1 / sqrtf((float)D)};
}

/* The head that the thread will probably compute next: the next head of the same document, or the first head of the
   next document. */
typedef struct {
    int64_t first, length, column; /* first row, number of rows, and first column in a row of H */
} Next;

static Next next_of(const int64_t *offsets, int64_t num_documents, int64_t num_heads, int64_t D, int64_t task) {
    const int64_t document = (task + 1) / num_heads;
    if (document >= num_documents) return (Next){0, 0, 0};
    return (Next){offsets[document], offsets[document + 1] - offsets[document], (task + 1) % num_heads * D};
}

/* Copy the L rows of a head into a P x E matrix, padded with zeros. Multiply each row by its factor unless factor_L is
   NULL. */
static void gather_head(const bf16 *source, int64_t row_width, const float *factor_L, int64_t L, int64_t D, int64_t P,
                        int64_t E, bf16 *target_PE) {
    for (int64_t n = 0; n < L; n++)
        for (int64_t j = 0; j < E; j += 32) {
            __m512i x = _mm512_maskz_loadu_epi16(columns_at(j, D), source + n * row_width + j);
            if (factor_L) {
                f32x16 left = _mm512_mul_ps(widen(_mm512_castsi512_si256(x)), splat(factor_L[n]));
                f32x16 right = _mm512_mul_ps(widen(_mm512_extracti64x4_epi64(x, 1)), splat(factor_L[n]));
                x = (__m512i)_mm512_cvtne2ps_pbh(right, left);
            }
            _mm512_store_si512(target_PE + n * E + j, x);
        }
    memset(target_PE + L * E, 0, (size_t)((P - L) * E) * sizeof(bf16));
}

/* Write value * factor to the L rows of a head; rows of `value` have stride E. Add the sum over the rows to sum_D. */
static void scatter_head(const float *value, int64_t E, float factor, int64_t L, int64_t D, bf16 *target,
                         int64_t row_width, float *sum_D) {
    for (int64_t j = 0; j < D; j += 32) {
        f32x16 sum[2] = {splat(0), splat(0)};
        for (int64_t n = 0; n < L; n++) {
            f32x16 left = _mm512_mul_ps(_mm512_load_ps(value + n * E + j), splat(factor));
            f32x16 right = _mm512_mul_ps(_mm512_load_ps(value + n * E + j + LANES), splat(factor));
            _mm512_mask_storeu_epi16(target + n * row_width + j, columns_at(j, D), (__m512i)_mm512_cvtne2ps_pbh(right, left));
            sum[0] = _mm512_add_ps(sum[0], left);
            sum[1] = _mm512_add_ps(sum[1], right);
        }
        for (int half = 0; half < 2; half++) add_to(sum_D + j + half * LANES, lanes_at(j + half * LANES, D), sum[half]);
    }
}

/* Return a vector whose lane i is the sum of the sixteen numbers in row[i]. */
static inline f32x16 sums_of_rows(const f32x16 row[16]) {
    f32x16 pair[8], four[4];
    for (int i = 0; i < 8; i++)
        pair[i] = _mm512_add_ps(_mm512_unpacklo_ps(row[2 * i], row[2 * i + 1]),
                                _mm512_unpackhi_ps(row[2 * i], row[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d first = _mm512_castps_pd(pair[2 * i]), second = _mm512_castps_pd(pair[2 * i + 1]);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)));
    }
    f32x16 low = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x88), _mm512_shuffle_f32x4(four[0], four[1], 0xDD));
    f32x16 high = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x88), _mm512_shuffle_f32x4(four[2], four[3], 0xDD));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
}

/* Compute the dot product of each row of one P x E matrix with the same row of the other. */
static void row_products(const bf16 *left_PE, const bf16 *right_PE, int64_t P, int64_t E, float *product_P) {
    for (int64_t first = 0; first < P; first += 16) {
        f32x16 sum[16];
        for (int row = 0; row < 16; row++) {
            sum[row] = splat(0);
            for (int64_t at = (first + row) * E; at < (first + row + 1) * E; at += 32)
                sum[row] = _mm512_dpbf16_ps(sum[row], (__m512bh)_mm512_load_si512(left_PE + at),
                                            (__m512bh)_mm512_load_si512(right_PE + at));
        }
        _mm512_store_ps(product_P + first, sums_of_rows(sum));
    }
}

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* Compute the shift of each query: the amount by which its exponents can exceed EXP_LIMIT. The upper bound of the
   exponents is the norm of the query times the largest norm of a key. */
static void shifts_of(const bf16 *query_PE, const bf16 *key_PE, float factor, int64_t P, int64_t E, float *shift_P) {
    row_products(key_PE, key_PE, P, E, shift_P);
    f32x16 most = splat(0);
    for (int64_t n = 0; n < P; n += LANES) most = _mm512_max_ps(_mm512_load_ps(shift_P + n), most);
    const f32x16 largest = splat(_mm512_reduce_max_ps(most) * factor * factor);
    row_products(query_PE, query_PE, P, E, shift_P);
    for (int64_t n = 0; n < P; n += LANES) {
        f32x16 bound = _mm512_sqrt_ps(_mm512_mul_ps(_mm512_load_ps(shift_P + n), largest));
        _mm512_store_ps(shift_P + n, _mm512_max_ps(_mm512_sub_ps(bound, splat(EXP_LIMIT)), splat(0)));
    }
}

/* Update the maximum of each of 32 queries with its scores for up to 32 keys. */
static void update_maxima(const float *score, int64_t num_keys, float *most) {
    for (int query = 0; query < STEP; query++) {
        f32x16 left = _mm512_mask_loadu_ps(splat(NEG_INF), lanes_at(0, num_keys), score + query * STEP);
        f32x16 right = _mm512_mask_loadu_ps(splat(NEG_INF), lanes_at(LANES, num_keys), score + query * STEP + LANES);
        const float largest = _mm512_reduce_max_ps(_mm512_max_ps(left, right));
        if (largest > most[query]) most[query] = largest;
    }
}

/* Compute unnormalized probabilities from a query's scores for 32 keys; return the sums of pairs of lanes. */
static inline f32x16 exponentials_of_32(f32x16 left, f32x16 right, float factor, f32x16 shift, bf16 *probability) {
    left = exp2_of(_mm512_fmsub_ps(left, splat(factor), shift));
    right = exp2_of(_mm512_fmsub_ps(right, splat(factor), shift));
    _mm512_store_si512(probability, (__m512i)_mm512_cvtne2ps_pbh(right, left));
    return _mm512_add_ps(left, right);
}

/* Compute unnormalized probabilities from the scores of 32 queries for num_keys keys. Scores and probabilities are in
   blocks of 32 x 32; missing keys get zero. Each query has sixteen partial sums. They start at zero if `first` is set;
   otherwise the new sums are added to the previous sums. */
static void exponentials(const float *score, float factor, const float *shift, int64_t num_keys, int first,
                         bf16 *probability, float *sums) {
    const int64_t num_full = num_keys / STEP;
    for (int query = 0; query < STEP; query++) {
        f32x16 total = first ? splat(0) : _mm512_load_ps(sums + query * LANES);
        const f32x16 subtracted = splat(shift[query]);
#pragma GCC unroll 4
        for (int64_t block = 0; block < num_full; block++) {
            const int64_t at = block * BLOCK + query * STEP;
            total = _mm512_add_ps(total, exponentials_of_32(_mm512_load_ps(score + at), _mm512_load_ps(score + at + LANES),
                                                            factor, subtracted, probability + at));
        }
        if (num_full * STEP < num_keys) {
            const int64_t at = num_full * BLOCK + query * STEP, left_over = num_keys - num_full * STEP;
            f32x16 left = _mm512_mask_loadu_ps(splat(NEG_INF), lanes_at(0, left_over), score + at);
            f32x16 right = _mm512_mask_loadu_ps(splat(NEG_INF), lanes_at(LANES, left_over), score + at + LANES);
            total = _mm512_add_ps(total, exponentials_of_32(left, right, factor, subtracted, probability + at));
        }
        _mm512_store_ps(sums + query * LANES, total);
    }
}

/* The inputs of 32 queries from a head, and their outputs. out_SE is not yet divided by the sums. */
typedef struct {
    const bf16 *query_SE, *packed_key, *packed_value;
    int64_t L, P, E;
    float factor, *score, *out_SE, *sums;
    bf16 *probability;
} Strip;

/* The buffers of a thread in forward. */
typedef struct {
    bf16 *query_PE, *key_PE, *value_PE, *packed_key, *packed_value, *probability;
    float *shift_P, *score, *out_SE, *sums;
} Forward;

static Forward lay_out_forward(Arena *arena, int64_t P, int64_t E) {
    return (Forward){
        .query_PE = arena_alloc(arena, P * E * 2),
        .key_PE = arena_alloc(arena, P * E * 2),
        .value_PE = arena_alloc(arena, P * E * 2),
        .packed_key = arena_alloc(arena, P * E * 2),
        .packed_value = arena_alloc(arena, P * E * 2),
        .shift_P = arena_alloc(arena, P * 4),
        .score = arena_alloc(arena, STEP * CHUNK * 4),
        .out_SE = arena_alloc(arena, STEP * E * 4),
        .sums = arena_alloc(arena, STEP * LANES * 4),
        .probability = arena_alloc(arena, STEP * CHUNK * 2),
    };
}

static int64_t forward_bytes(int64_t P, int64_t E) {
    Arena measured = {0};
    lay_out_forward(&measured, P, E);
    return (int64_t)measured.next;
}

static void scores_of(const Strip *strip, int64_t first, int64_t num_keys) {
    const int64_t P = strip->P, E = strip->E;
    for (int64_t key = 0; key < num_keys; key += STEP)
        product_32x32(strip->score + key * STEP, STEP, strip->query_SE, E, STEP, strip->packed_key + (first + key) * STEP,
                      P * STEP, E / STEP, 0);
}

static void attend(const Strip *strip, const float *shift) {
    const int64_t L = strip->L, P = strip->P, E = strip->E;
    for (int64_t first = 0; first < P; first += CHUNK) {
        scores_of(strip, first, min_int(P - first, CHUNK));
        exponentials(strip->score, strip->factor, shift, min_int(L - first, CHUNK), first == 0, strip->probability,
                     strip->sums);
        for (int64_t d = 0; d < E; d += STEP)
            product_32x32(strip->out_SE + d, E, strip->probability, STEP, BLOCK,
                          strip->packed_value + first * E + d * STEP, E * STEP, min_int(P - first, CHUNK) / STEP, first > 0);
    }
}

/* Compute 1 / sum for each query. Return whether a sum is so small that its shift was much too large. */
static int scales_of(const float *sums, float *scale) {
    int is_too_small = 0;
    for (int row = 0; row < STEP; row += 16) {
        f32x16 part[16];
        for (int i = 0; i < 16; i++) part[i] = _mm512_load_ps(sums + (row + i) * LANES);
        const f32x16 sum = sums_of_rows(part);
        is_too_small |= _mm512_cmp_ps_mask(sum, splat(MIN_SUM), _CMP_LT_OQ);
        _mm512_store_ps(scale + row, _mm512_div_ps(splat(1), sum));
    }
    return is_too_small;
}

/* qkv, context, shift and scale point to one head of one document. next_qkv points to the next head, to prefetch it. */
static void head_forward(const bf16 *qkv, int64_t H, int64_t L, const Heads *heads, Arena arena, bf16 *context,
                         float *shift_L, float *scale_L, const bf16 *next_qkv, int64_t next_L) {
    const int64_t D = heads->width, E = heads->extended, P = round_up(L);
    const Forward b = lay_out_forward(&arena, P, E);
    float scale[STEP] ALIGNED;
    Strip strip = {b.query_PE, b.packed_key, b.packed_value, L, P, E, LOG2_E * heads->factor,
                   b.score, b.out_SE, b.sums, b.probability};
    gather_head(qkv, heads->row_width, NULL, L, D, P, E, b.query_PE);
    gather_head(qkv + H, heads->row_width, NULL, L, D, P, E, b.key_PE);
    gather_head(qkv + 2 * H, heads->row_width, NULL, L, D, P, E, b.value_PE);
    pack_transposed(b.key_PE, P, E, b.packed_key);
    pack(b.value_PE, P, E, b.packed_value);
    shifts_of(b.query_PE, b.key_PE, strip.factor, P, E, b.shift_P);
    for (int64_t query = 0; query < P; query += STEP) {
        float *shift = b.shift_P + query;
        strip.query_SE = b.query_PE + query * E;
        attend(&strip, shift);
        if (scales_of(strip.sums, scale)) { /* compute again with the largest exponent as the shift */
            for (int row = 0; row < STEP; row++) shift[row] = NEG_INF;
            for (int64_t key = 0; key < P; key += STEP) {
                scores_of(&strip, key, STEP);
                update_maxima(strip.score, L - key, shift);
            }
            for (int row = 0; row < STEP; row++) shift[row] *= strip.factor;
            attend(&strip, shift);
            scales_of(strip.sums, scale);
        }
        for (int part = 0; part < 3; part++)
            prefetch_rows(next_qkv + part * H, heads->row_width, min_int(query, next_L), min_int(query + STEP, next_L), D);
        const int64_t num_rows = min_int(L - query, STEP);
        if (shift_L) {
            memcpy(shift_L + query, shift, (size_t)num_rows * sizeof(float));
            memcpy(scale_L + query, scale, (size_t)num_rows * sizeof(float));
        }
        for (int64_t row = 0; row < num_rows; row++)
            for (int64_t j = 0; j < D; j += 32) {
                f32x16 left = _mm512_mul_ps(_mm512_load_ps(strip.out_SE + row * E + j), splat(scale[row]));
                f32x16 right = _mm512_mul_ps(_mm512_load_ps(strip.out_SE + row * E + j + LANES), splat(scale[row]));
                _mm512_mask_storeu_epi16(context + (query + row) * H + j, columns_at(j, D),
                                         (__m512i)_mm512_cvtne2ps_pbh(right, left));
            }
    }
}

/* Compute context_NH = softmax(q k' / sqrt(D)) v within each document. offsets_B1 contains the boundaries of the
   documents' rows. shift_AN and scale_AN, which backward needs, may be NULL. */
int attention(const bf16 *qkv_N3H, const int64_t *offsets_B1, bf16 *context_NH, float *shift_AN,
              float *scale_AN, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    if (shift_AN && !scale_AN) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, num_documents)) return BAD_OFFSETS;
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    const int64_t num_bytes = forward_bytes(round_up(longest(offsets_B1, num_documents)), heads.extended);
    Workspace workspace = workspace_of(num_threads, num_bytes);
    if (!workspace.start) return NO_MEMORY;
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        const Arena arena = {(uintptr_t)part_of(&workspace, omp_get_thread_num())};
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_documents * num_heads; task++) {
            const int64_t first = offsets_B1[task / num_heads], L = offsets_B1[task / num_heads + 1] - first;
            const int64_t head = task % num_heads, saved = head * N + first;
            const Next next = next_of(offsets_B1, num_documents, num_heads, D, task);
            head_forward(qkv_N3H + first * 3 * H + head * D, H, L, &heads, arena,
                         context_NH + first * H + head * D, shift_AN ? shift_AN + saved : NULL,
                         shift_AN ? scale_AN + saved : NULL, qkv_N3H + next.first * 3 * H + next.column, next.length);
        }
        tiles_end(&before);
    }
    free(workspace.start);
    return OK;
}

/* ---- Backward ---------------------------------------------------------------------------------------------------- */

/* Compute the probabilities and the gradients of the scores for 32 keys (rows) and 32 queries (columns). Write both as
   left operands, and the gradients also as a packed right operand. The keys from index num_keys on get zeros. */
static void score_gradients(const float *score, const float *d_probability, const float *shift, const float *delta,
                            float factor, int64_t num_keys, bf16 *probability, bf16 *d_score, bf16 *packed_d_score) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const f32x16 subtracted[2] = {_mm512_load_ps(shift), _mm512_load_ps(shift + LANES)};
    const f32x16 mean[2] = {_mm512_load_ps(delta), _mm512_load_ps(delta + LANES)};
#pragma GCC unroll 2
    for (int pair = 0; pair < 16; pair++) {
        f32x16 d[2][2]; /* two keys by two times sixteen queries */
#pragma GCC unroll 2
        for (int lower = 0; lower < 2; lower++) {
            const int key = 2 * pair + lower, at = key * STEP;
            f32x16 p[2];
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const int column = at + half * LANES;
                f32x16 exponent = _mm512_fmsub_ps(_mm512_load_ps(score + column), splat(factor), subtracted[half]);
                p[half] = exp2_of(key < num_keys ? exponent : splat(NEG_INF));
                d[lower][half] = _mm512_mul_ps(p[half], _mm512_sub_ps(_mm512_load_ps(d_probability + column), mean[half]));
            }
            _mm512_store_si512(probability + at, (__m512i)_mm512_cvtne2ps_pbh(p[1], p[0]));
            _mm512_store_si512(d_score + at, (__m512i)_mm512_cvtne2ps_pbh(d[lower][1], d[lower][0]));
        }
        for (int half = 0; half < 2; half++)
            _mm512_store_si512(packed_d_score + half * TILE + pair * 32,
                               _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(d[1][half], d[0][half])));
    }
}

/* Compute the scores of 32 keys with 32 queries, followed by the gradients of the probabilities, also 32 x 32. */
static void score_products(const bf16 *key_PE, const bf16 *value_PE, const bf16 *query_columns, const bf16 *d_out_columns,
                           int64_t query, int64_t key, int64_t P, int64_t E, float *products) {
    product_32x32(products, STEP, key_PE + key * E, E, STEP, query_columns + query * STEP, P * STEP, E / STEP, 0);
    product_32x32(products + BLOCK, STEP, value_PE + key * E, E, STEP, d_out_columns + query * STEP, P * STEP, E / STEP, 0);
}

/* The buffers of a thread in backward. */
typedef struct {
    bf16 *query_PE, *key_PE, *value_PE, *d_out_PE, *query_columns, *query_rows, *d_out_columns, *d_out_rows, *packed_key,
        *key_columns;
    float *d_query_PE, *d_key_PE, *d_value_PE, *d_query_ES;
    bf16 *probability, *d_score, *packed_d_score; /* packed_d_score: groups of 32 queries, one after another */
    float *shift_P, *delta_P, *products;
} Backward;

static Backward lay_out_backward(Arena *arena, int64_t P, int64_t E) {
    return (Backward){
        .query_PE = arena_alloc(arena, P * E * 2),
        .key_PE = arena_alloc(arena, P * E * 2),
        .value_PE = arena_alloc(arena, P * E * 2),
        .d_out_PE = arena_alloc(arena, P * E * 2),
        .query_columns = arena_alloc(arena, P * E * 2),
        .query_rows = arena_alloc(arena, P * E * 2),
        .d_out_columns = arena_alloc(arena, P * E * 2),
        .d_out_rows = arena_alloc(arena, P * E * 2),
        .packed_key = arena_alloc(arena, P * E * 2),
        .key_columns = arena_alloc(arena, P * E * 2),
        .d_query_PE = arena_alloc(arena, P * E * 4),
        .d_key_PE = arena_alloc(arena, P * E * 4),
        .d_value_PE = arena_alloc(arena, P * E * 4),
        .d_query_ES = arena_alloc(arena, STEP * E * 4),
        .probability = arena_alloc(arena, STEP * STRIP * 2),
        .d_score = arena_alloc(arena, STEP * STRIP * 2),
        .packed_d_score = arena_alloc(arena, P * STRIP * 2),
        .shift_P = arena_alloc(arena, P * 4),
        .delta_P = arena_alloc(arena, P * 4),
        .products = arena_alloc(arena, 2 * BLOCK * 4),
    };
}

static int64_t backward_bytes(int64_t P, int64_t E) {
    Arena measured = {0};
    lay_out_backward(&measured, P, E);
    return (int64_t)measured.next;
}

static void head_backward(const bf16 *qkv, const bf16 *context, const bf16 *d_context,
                          const float *shift_L, const float *scale_L, int64_t H, int64_t L, const Heads *heads,
                          Arena arena, bf16 *d_qkv, float *d_bias, const bf16 *next_qkv,
                          const bf16 *next_context, const bf16 *next_d_context, int64_t next_L) {
    const int64_t D = heads->width, E = heads->extended, P = round_up(L), row_width = heads->row_width;
    const float factor = LOG2_E * heads->factor;
    const Backward b = lay_out_backward(&arena, P, E);

    gather_head(qkv, row_width, NULL, L, D, P, E, b.query_PE);
    gather_head(qkv + H, row_width, NULL, L, D, P, E, b.key_PE);
    gather_head(qkv + 2 * H, row_width, NULL, L, D, P, E, b.value_PE);
    /* Multiply d_out by 1 / sum, so that the probabilities need no division. */
    gather_head(d_context, H, scale_L, L, D, P, E, b.d_out_PE);
    pack_transposed(b.query_PE, P, E, b.query_columns);
    pack(b.query_PE, P, E, b.query_rows);
    pack_transposed(b.d_out_PE, P, E, b.d_out_columns);
    pack(b.d_out_PE, P, E, b.d_out_rows);
    pack(b.key_PE, P, E, b.packed_key);
    unpack_transposed(b.packed_key, P, E, b.key_columns);
    for (int64_t n = 0; n < P; n++) b.shift_P[n] = n < L ? shift_L[n] : -NEG_INF;
    /* delta is the term that the gradient of the softmax subtracts from the gradient of a probability. The difference
       is small, so both terms must be computed from the same rounded and scaled d_out. */
    gather_head(context, H, NULL, L, D, P, E, b.query_PE);
    row_products(b.d_out_PE, b.query_PE, P, E, b.delta_P);

    const int64_t rows_per_block = BLOCK / P + 1; /* rows to prefetch per block: (P / STEP)^2 blocks for P rows */
    int64_t next_row = 0;
    for (int64_t first = 0; first < P; first += STRIP) {
        const int64_t strip = min_int(P - first, STRIP);
        for (int64_t key = 0; key < P; key += STEP) {
            for (int64_t query = 0; query < strip; query += STEP) {
                score_products(b.key_PE, b.value_PE, b.query_columns, b.d_out_columns, first + query, key, P, E,
                               b.products);
                score_gradients(b.products, b.products + BLOCK, b.shift_P + first + query, b.delta_P + first + query,
                                factor, L - key, b.probability + query * STEP, b.d_score + query * STEP,
                                b.packed_d_score + query * P + key * STEP);
                const int64_t from = min_int(next_row, next_L), to = min_int(next_row += rows_per_block, next_L);
                for (int part = 0; part < 3; part++) prefetch_rows(next_qkv + part * H, row_width, from, to, D);
                prefetch_rows(next_context, H, from, to, D);
                prefetch_rows(next_d_context, H, from, to, D);
            }
            for (int64_t d = 0; d < E; d += STEP) {
                const int64_t right = first * E + d * STEP;
                product_32x32(b.d_value_PE + key * E + d, E, b.probability, STEP, BLOCK, b.d_out_rows + right, E * STEP,
                              strip / STEP, first > 0);
                product_32x32(b.d_key_PE + key * E + d, E, b.d_score, STEP, BLOCK, b.query_rows + right, E * STEP,
                              strip / STEP, first > 0);
            }
        }
        for (int64_t query = 0; query < strip; query += STEP) {
            for (int64_t d = 0; d < E; d += STEP)
                product_32x32(b.d_query_ES + d * STEP, STEP, b.key_columns + d * STEP, STEP, E * STEP,
                              b.packed_d_score + query * P, BLOCK, P / STEP, 0);
            for (int64_t column = 0; column < STEP; column += 16)
                for (int64_t d = 0; d < E; d += 16)
                    transpose_words((const uint32_t *)(b.d_query_ES + d * STEP + column), STEP,
                                    (uint32_t *)(b.d_query_PE + (first + query + column) * E + d), E);
        }
    }
    scatter_head(b.d_query_PE, E, heads->factor, L, D, d_qkv, row_width, d_bias);
    scatter_head(b.d_key_PE, E, heads->factor, L, D, d_qkv + H, row_width, d_bias + H);
    scatter_head(b.d_value_PE, E, 1, L, D, d_qkv + 2 * H, row_width, d_bias + 2 * H);
}

/* Compute the backward pass of attention: d_qkv_N3H, and its sum over all rows in the first row of d_bias_B3H. The
   other rows of d_bias_B3H, one per document, are working memory. */
int attention_backward(const bf16 *qkv_N3H, const bf16 *context_NH, const bf16 *d_context_NH,
                       const float *shift_AN, const float *scale_AN, const int64_t *offsets_B1, bf16 *d_qkv_N3H,
                       float *d_bias_B3H, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads) {
    if (!are_valid_offsets(offsets_B1, num_documents)) return BAD_OFFSETS;
    const int64_t H = num_heads * D, N = offsets_B1[num_documents];
    const Heads heads = heads_of(num_heads, D);
    const int64_t num_bytes = backward_bytes(round_up(longest(offsets_B1, num_documents)), heads.extended);
    Workspace workspace = workspace_of(num_threads, num_bytes);
    if (!workspace.start) return NO_MEMORY;
    memset(d_bias_B3H, 0, (size_t)(num_documents * 3 * H) * sizeof(float));
#pragma omp parallel num_threads(num_threads)
    {
        TileConfig before;
        tiles_begin(&before);
        const Arena arena = {(uintptr_t)part_of(&workspace, omp_get_thread_num())};
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < num_documents * num_heads; task++) {
            const int64_t document = task / num_heads, head = task % num_heads;
            const int64_t first = offsets_B1[document], L = offsets_B1[document + 1] - first;
            const int64_t column = head * D, row = first * H + column, saved = head * N + first;
            const Next next = next_of(offsets_B1, num_documents, num_heads, D, task);
            const int64_t next_row = next.first * H + next.column;
            if (L > 0)
                head_backward(qkv_N3H + first * 3 * H + column, context_NH + row, d_context_NH + row,
                              shift_AN + saved, scale_AN + saved, H, L, &heads, arena,
                              d_qkv_N3H + first * 3 * H + column, d_bias_B3H + document * 3 * H + column,
                              qkv_N3H + next.first * 3 * H + next.column, context_NH + next_row,
                              d_context_NH + next_row, next.length);
        }
        tiles_end(&before);
    }
    free(workspace.start);
    sum_blocks(d_bias_B3H, num_documents, 3 * H);
    return OK;
}
