/* Operations on rows between the matrix products: dropout, residual, LayerNorm and GELU, forward and backward. */
#include "kernels.h"
#include <math.h>

/* Threads take blocks of BLOCK_ROWS rows dynamically, so a thread that is slowed down by other programs takes fewer
   blocks. */

int64_t blocks_of(int64_t num_rows) { return (num_rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

/* ---- Dropout ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t seed;
    uint32_t number;    /* number of the mask within the forward pass */
    uint32_t threshold; /* round(p * 2^32): an element is dropped if its 32 random bits are below */
    float scale;        /* 1 / (1 - p) */
} Dropout;

/* One Philox round for LANES / 2 counters, in the lower halves of 64-bit lanes. The upper halves are ignored. */
static inline void philox_round(u64s counter[4], uint32_t k0, uint32_t k1) {
    u64s product0 = product_of_lower_halves(counter[0], splat_u64(0xD2511F53u));
    u64s product2 = product_of_lower_halves(counter[2], splat_u64(0xCD9E8D57u));
    counter[0] = xor_of(upper_halves(product2), counter[1], splat_u64(k0));
    counter[2] = xor_of(upper_halves(product0), counter[3], splat_u64(k1));
    counter[1] = product2;
    counter[3] = product0;
}

/* Draw the mask bits of 64 neighboring columns of a row, as four words of sixteen bits. The bits are Philox4x32-7
   (Salmon et al. 2011) of (column, row, mask) with the seed as the key, so they depend on nothing else. One counter
   gives four numbers, which are used for columns at a distance of sixteen. */
static inline void draw_kept(const Dropout *dropout, int64_t row, int64_t column, uint16_t kept[4]) {
    for (int first = 0; first < MASK_BITS; first += LANES) {
        u64s even[4], odd[4]; /* columns */
        even[0] = add_u64(even_lanes(), splat_u64((uint64_t)(column + first)));
        odd[0] = add_u64(even_lanes(), splat_u64((uint64_t)(column + first + 1)));
        even[1] = odd[1] = splat_u64((uint64_t)row);
        even[2] = odd[2] = splat_u64(dropout->number);
        even[3] = odd[3] = splat_u64(0);
        uint32_t k0 = (uint32_t)dropout->seed, k1 = (uint32_t)(dropout->seed >> 32);
        for (int round = 0; round < 7; round++) {
            philox_round(even, k0, k1);
            philox_round(odd, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int i = 0; i < 4; i++) {
            const uint16_t bits = lanes_at_least(even[i], odd[i], dropout->threshold);
            kept[i] = first ? kept[i] | (uint16_t)(bits << first) : bits;
        }
    }
}

/* Return the number of mask words for a row of `width` columns. */
static inline int64_t words_of(int64_t width) { return (width + MASK_BITS - 1) / MASK_BITS; }

static inline lanes_mask kept_at(const uint16_t *kept, int64_t column) {
    return (lanes_mask)(kept[column / MASK_BITS] >> column % MASK_BITS); /* bits from LANES on are ignored */
}

/* Draw the mask of a row: one bit per column, sixteen columns per word. */
static void draw_row(const Dropout *dropout, int64_t row, int64_t width, uint16_t *kept) {
    const int64_t words = words_of(width);
    for (int64_t word = 0; word < words; word += 4) {
        uint16_t four[4];
        draw_kept(dropout, row, word * MASK_BITS, four);
        for (int64_t i = 0; i < 4 && word + i < words; i++) kept[word + i] = four[i];
    }
}

/* ---- LayerNorm --------------------------------------------------------------------------------------------------- */

/* Return the total of a sum in four parts. With four parts, an addition does not wait for the previous addition. */
static inline float total_of(const f32s part[4]) {
    return sum_of(add(add(part[0], part[1]), add(part[2], part[3])));
}

/* Compute the mean of a row and 1 / sqrt(variance + epsilon) in two passes. */
static inline void row_statistics(const float *row_H, int64_t H, float epsilon, float *mean, float *rstd) {
    f32s sum[4] = {splat(0), splat(0), splat(0), splat(0)}, squares[4] = {splat(0), splat(0), splat(0), splat(0)};
    int64_t first = 0;
    for (; first + 4 * LANES <= H; first += 4 * LANES)
        for (int i = 0; i < 4; i++) sum[i] = add(sum[i], load_full(row_H + first + i * LANES));
    for (int64_t j = first; j < H; j += LANES) sum[0] = add(sum[0], load_f32(row_H + j, lanes_at(j, H)));
    *mean = total_of(sum) / (float)H;
    for (int64_t j = 0; j < first; j += 4 * LANES)
        for (int i = 0; i < 4; i++) {
            f32s centred = sub(load_full(row_H + j + i * LANES), splat(*mean));
            squares[i] = fmadd(centred, centred, squares[i]);
        }
    for (int64_t j = first; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        f32s centred = sub_where(lanes, load_f32(row_H + j, lanes), splat(*mean));
        squares[0] = fmadd(centred, centred, squares[0]);
    }
    *rstd = 1.0f / sqrtf(total_of(squares) / (float)H + epsilon);
}

static inline f32s normalised(f32s x, float mean, float rstd) {
    return mul(sub(x, splat(mean)), splat(rstd));
}

/* Compute the gradient of a row through LayerNorm, given the normalized row: d_H changes in place from the gradient of
   the output to the gradient of the input. Also add the row's part to the gradients of weight and bias. */
static inline void row_norm_backward(float *d_H, const float *x_hat_H, const float *weight_H, int64_t H, float rstd,
                                     float *d_weight_H, float *d_bias_H) {
    f32s sum[4] = {splat(0), splat(0), splat(0), splat(0)}, product[4] = {splat(0), splat(0), splat(0), splat(0)};
    for (int64_t first = 0; first < H; first += 4 * LANES)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const int64_t j = first + i * LANES;
            if (j >= H) break;
            lanes_mask lanes = lanes_at(j, H);
            f32s d = load_f32(d_H + j, lanes), x_hat = load_f32(x_hat_H + j, lanes);
            store_f32(d_weight_H + j, lanes, fmadd(d, x_hat, load_f32(d_weight_H + j, lanes)));
            add_to(d_bias_H + j, lanes, d);
            d = mul(d, load_f32(weight_H + j, lanes));
            store_f32(d_H + j, lanes, d);
            sum[i] = add(sum[i], d);
            product[i] = fmadd(d, x_hat, product[i]);
        }
    f32s mean = splat(total_of(sum) / (float)H), mean_product = splat(total_of(product) / (float)H);
    for (int64_t j = 0; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        f32s d = sub(load_f32(d_H + j, lanes), mean);
        d = fnmadd(load_f32(x_hat_H + j, lanes), mean_product, d);
        store_f32(d_H + j, lanes, mul(d, splat(rstd)));
    }
}

static inline void add_and_normalise_row(
    const element *residual_H, const element *update_H, const float *weight_H, const float *bias_H, element *sum_H,
    element *out_H, float *mean, float *rstd, const uint16_t *kept, int64_t H, float epsilon, float scale) {
    float row_H[MAX_COLUMNS] ALIGNED;
    for (int64_t j = 0; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        fetch_ahead(update_H + j);
        fetch_ahead(residual_H + j);
        f32s update = load(update_H + j, lanes);
        if (kept) update = mul_where(kept_at(kept, j), update, splat(scale));
        f32s sum = add(load(residual_H + j, lanes), update);
        store_f32(row_H + j, lanes, sum);
        if (sum_H) store(sum_H + j, lanes, sum);
    }
    row_statistics(row_H, H, epsilon, mean, rstd);
    for (int64_t j = 0; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        f32s x_hat = normalised(load_f32(row_H + j, lanes), *mean, *rstd);
        store(out_H + j, lanes, fmadd(x_hat, load_f32(weight_H + j, lanes), load_f32(bias_H + j, lanes)));
    }
}

/* Compute out = LayerNorm(residual + dropout(update)). `sum_NH` (the input of LayerNorm), the statistics and the mask
   bits are for backward. If `sum_NH` is NULL, nothing is saved for backward. If `kept_NW` is NULL, there is no dropout.
   */
int add_and_normalise(const element *residual_NH, const element *update_NH, const float *weight_H, const float *bias_H,
                      element *sum_NH, element *out_NH, float *mean_N, float *rstd_N, uint16_t *kept_NW, int64_t N,
                      int64_t H, float epsilon, uint64_t seed, uint32_t number, uint32_t threshold, float scale,
                      int num_threads) {
    if (H > MAX_COLUMNS || (sum_NH && !(mean_N && rstd_N))) return BAD_ARGUMENTS;
    const Dropout dropout = {seed, number, threshold, scale};
    const int64_t words = words_of(H);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, BLOCK_ROWS)
    for (int64_t n = 0; n < N; n++) {
        uint16_t *kept = kept_NW ? kept_NW + n * words : NULL;
        if (kept) draw_row(&dropout, n, H, kept);
        element *sum_H = sum_NH ? sum_NH + n * H : NULL;
        float mean, rstd;
        add_and_normalise_row(residual_NH + n * H, update_NH + n * H, weight_H, bias_H, sum_H, out_NH + n * H, &mean, &rstd,
                              kept, H, epsilon, scale);
        if (sum_NH) mean_N[n] = mean, rstd_N[n] = rstd;
    }
    return OK;
}

static inline void add_and_normalise_backward_row(
    const element *d_out_H, const element *d_out2_H, const element *sum_H, float mean, float rstd, const float *weight_H,
    const uint16_t *kept, element *d_sum_H, element *d_update_H, float *partial_3H, int64_t H, float scale) {
    float d_H[MAX_COLUMNS] ALIGNED, x_hat_H[MAX_COLUMNS] ALIGNED;
    for (int64_t j = 0; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        fetch_ahead(d_out_H + j);
        fetch_ahead(sum_H + j);
        if (d_out2_H) fetch_ahead(d_out2_H + j);
        f32s d = load(d_out_H + j, lanes);
        if (d_out2_H) d = add(d, load(d_out2_H + j, lanes));
        store_f32(d_H + j, lanes, d);
        store_f32(x_hat_H + j, lanes, normalised(load(sum_H + j, lanes), mean, rstd));
    }
    row_norm_backward(d_H, x_hat_H, weight_H, H, rstd, partial_3H, partial_3H + H);
    for (int64_t j = 0; j < H; j += LANES) {
        lanes_mask lanes = lanes_at(j, H);
        f32s d = load_f32(d_H + j, lanes);
        store(d_sum_H + j, lanes, d);
        if (kept) {
            d = mul_where(kept_at(kept, j), d, splat(scale));
            store(d_update_H + j, lanes, d);
        }
        add_to(partial_3H + 2 * H + j, lanes, d);
    }
}

/* Compute the backward pass of add_and_normalise. The gradient of the output is d_out_NH, or d_out_NH + d_out2_NH.
   d_sum_NH is the gradient of the residual, and d_update_NH the gradient of the update (NULL without dropout, because
   the two are then the same). partial_B3H has blocks_of(N) blocks. The first block gets the gradients of weight and
   bias, and the sum of d_update over the rows, which is the gradient of the bias in the linear layer that computed the
   update. */
int add_and_normalise_backward(const element *d_out_NH, const element *d_out2_NH, const element *sum_NH, const float *mean_N,
                               const float *rstd_N, const float *weight_H, const uint16_t *kept_NW, element *d_sum_NH,
                               element *d_update_NH, float *partial_B3H, int64_t N, int64_t H, float scale,
                               int num_threads) {
    if (H > MAX_COLUMNS || (kept_NW && !d_update_NH)) return BAD_ARGUMENTS;
    const int64_t words = words_of(H), num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float *partial_3H = partial_B3H + block * 3 * H;
        memset(partial_3H, 0, 3 * H * sizeof(float));
        const int64_t end = min_int((block + 1) * BLOCK_ROWS, N);
        for (int64_t n = block * BLOCK_ROWS; n < end; n++) {
            const element *d_out2_H = d_out2_NH ? d_out2_NH + n * H : NULL;
            const uint16_t *kept = kept_NW ? kept_NW + n * words : NULL;
            element *d_update_H = kept_NW ? d_update_NH + n * H : NULL;
            add_and_normalise_backward_row(d_out_NH + n * H, d_out2_H, sum_NH + n * H, mean_N[n], rstd_N[n], weight_H, kept,
                                           d_sum_NH + n * H, d_update_H, partial_3H, H, scale);
        }
    }
    sum_blocks(partial_B3H, num_blocks, 3 * H);
    return OK;
}

/* Compute out = dropout(LayerNorm(sum)), the last operation of the embeddings. The arguments are like those of
   add_and_normalise. If mean_N is NULL, nothing is saved for backward. */
int normalise_and_drop(const float *sum_NH, const float *weight_H, const float *bias_H, element *out_NH, float *mean_N,
                       float *rstd_N, uint16_t *kept_NW, int64_t N, int64_t H, float epsilon, uint64_t seed,
                       uint32_t number, uint32_t threshold, float scale, int num_threads) {
    if (mean_N && !rstd_N) return BAD_ARGUMENTS;
    const Dropout dropout = {seed, number, threshold, scale};
    const int64_t words = words_of(H);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, BLOCK_ROWS)
    for (int64_t n = 0; n < N; n++) {
        uint16_t *kept = kept_NW ? kept_NW + n * words : NULL;
        if (kept) draw_row(&dropout, n, H, kept);
        float mean, rstd;
        row_statistics(sum_NH + n * H, H, epsilon, &mean, &rstd);
        if (mean_N) mean_N[n] = mean, rstd_N[n] = rstd;
        for (int64_t j = 0; j < H; j += LANES) {
            lanes_mask lanes = lanes_at(j, H);
            f32s out = fmadd(normalised(load_f32(sum_NH + n * H + j, lanes), mean, rstd), load_f32(weight_H + j, lanes),
                             load_f32(bias_H + j, lanes));
            if (kept) out = mul_where(kept_at(kept, j), out, splat(scale));
            store(out_NH + n * H + j, lanes, out);
        }
    }
    return OK;
}

/* Compute the backward pass of normalise_and_drop. The gradient of the output is d_out_NH, or d_out_NH + d_out2_NH; the
   gradient of the sum is d_sum_NH. partial_B2H has blocks_of(N) blocks. The first block gets the gradients of weight
   and bias. */
int normalise_and_drop_backward(const element *d_out_NH, const element *d_out2_NH, const float *sum_NH, const float *mean_N,
                                const float *rstd_N, const float *weight_H, const uint16_t *kept_NW, float *d_sum_NH,
                                float *partial_B2H, int64_t N, int64_t H, float scale, int num_threads) {
    if (H > MAX_COLUMNS) return BAD_ARGUMENTS;
    const int64_t words = words_of(H), num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float x_hat_H[MAX_COLUMNS] ALIGNED;
        float *partial_2H = partial_B2H + block * 2 * H;
        memset(partial_2H, 0, 2 * H * sizeof(float));
        const int64_t end = min_int((block + 1) * BLOCK_ROWS, N);
        for (int64_t n = block * BLOCK_ROWS; n < end; n++) {
            float *d_H = d_sum_NH + n * H;
            for (int64_t j = 0; j < H; j += LANES) {
                lanes_mask lanes = lanes_at(j, H);
                f32s d = load(d_out_NH + n * H + j, lanes);
                if (d_out2_NH) d = add(d, load(d_out2_NH + n * H + j, lanes));
                if (kept_NW) d = mul_where(kept_at(kept_NW + n * words, j), d, splat(scale));
                store_f32(x_hat_H + j, lanes, normalised(load_f32(sum_NH + n * H + j, lanes), mean_N[n], rstd_N[n]));
                store_f32(d_H + j, lanes, d);
            }
            row_norm_backward(d_H, x_hat_H, weight_H, H, rstd_N[n], partial_2H, partial_2H + H);
        }
    }
    sum_blocks(partial_B2H, num_blocks, 2 * H);
    return OK;
}

/* ---- GELU -------------------------------------------------------------------------------------------------------- */

enum { COLUMNS = 32 /* columns for which GELU is computed together */ };

#ifdef FLOATS

/* Compute GELU(x) = x Phi(x), and its derivative unless `derivative` is NULL. With t = 1 / (1 + 0.4 |x| / sqrt(2)),
   1 - Phi(|x|) is exp(-x^2 / 2) times a polynomial in t (the form of Abramowitz & Stegun 7.1.26). The polynomial is a
   minimax fit with Lawson's algorithm; its error is at most 1.4e-8, less than the rounding of float32. */
static inline f32s gelu_of(f32s x, f32s *derivative) {
    const f32s magnitude = magnitude_of(x), t = reciprocal(fmadd(magnitude, splat(0.282842712f), splat(1)));
    const f32s gauss = exp2_of(mul(mul(x, x), splat(-0.721347520f)));
    f32s power = splat(-0.100129850f);
    power = fmadd(power, t, splat(0.354574602f));
    power = fmadd(power, t, splat(-0.185455493f));
    power = fmadd(power, t, splat(0.234138314f));
    power = fmadd(power, t, splat(0.0809112888f));
    power = fmadd(power, t, splat(0.115961126f));
    const f32s beyond = mul(mul(power, t), gauss); /* 1 - Phi(|x|) */
    const f32s Phi = choose_by_sign(x, beyond, sub(splat(1), beyond));
    if (derivative) *derivative = fmadd(mul(x, splat(0.398942280f)), gauss, Phi);
    return mul(x, Phi);
}

ALWAYS_INLINE void gelu_columns(const float *up, float *active, int64_t num_columns) {
    for (int64_t j = 0; j < num_columns; j += LANES) {
        const lanes_mask lanes = lanes_at(j, num_columns);
        store(active + j, lanes, gelu_of(load(up + j, lanes), NULL));
    }
}

#else

/* Thirty-two numbers: sixteen of the even columns and sixteen of the odd columns. */
typedef struct { f32x16 even, odd; } Pairs;

static inline Pairs load_pairs(const bf16 *source, __mmask32 columns) {
    const __m512i both = _mm512_maskz_loadu_epi16(columns, source);
    return (Pairs){_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
                   _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xFFFF0000)))};
}

static inline void store_pairs(bf16 *target, __mmask32 columns, Pairs value) {
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                                6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(value.odd, value.even);
    _mm512_mask_storeu_epi16(target, columns, _mm512_permutexvar_epi16(interleave, both));
}

/* Compute GELU(x) = x Phi(x), and its derivative unless `derivative` is NULL. Phi(x) = 1 / (1 + 2^-(x q(x^2))), where q
   is a polynomial of degree 5, a minimax fit with Lawson's algorithm. Beyond |x| = 5.5, q is constant. The reciprocal
   has 14 bits. Compared with the correctly rounded bfloat16 result, the additional error is at most 1e-5 for GELU and
   6e-5 for the derivative (7e-5 before rounding), for every bfloat16 number. Rounding itself has a relative error of up
   to 2e-3. */
static inline f32x16 gelu_of(f32x16 x, f32x16 *derivative) {
    f32x16 square = _mm512_min_ps(splat(30.25f), _mm512_mul_ps(x, x)); /* in this order NaN stays NaN */
    f32x16 power = splat(1.00055814e-07f);
    power = _mm512_fmadd_ps(power, square, splat(-5.60367380e-06f));
    power = _mm512_fmadd_ps(power, square, splat(1.02793892e-04f));
    power = _mm512_fmadd_ps(power, square, splat(3.59644735e-04f));
    power = _mm512_fmadd_ps(power, square, splat(-1.05370738e-01f));
    power = _mm512_fmadd_ps(power, square, splat(-2.30188584e+00f));
    const f32x16 odds = exp2_of(_mm512_mul_ps(power, x)); /* (1 - Phi) / Phi, infinite where Phi is zero */
    const f32x16 Phi = _mm512_rcp14_ps(_mm512_add_ps(splat(1), odds)), value = _mm512_mul_ps(x, Phi);
    if (derivative) { /* Phi' = Phi (1 - Phi) (x q)' */
        f32x16 slope = splat(-7.62887453e-07f);
        slope = _mm512_fmadd_ps(slope, square, splat(3.49575384e-05f));
        slope = _mm512_fmadd_ps(slope, square, splat(-4.98759095e-04f));
        slope = _mm512_fmadd_ps(slope, square, splat(-1.24643371e-03f));
        slope = _mm512_fmadd_ps(slope, square, splat(2.19112292e-01f));
        slope = _mm512_fmadd_ps(slope, square, splat(1.59554565e+00f));
        const f32x16 finite = _mm512_min_ps(splat(1e30f), odds); /* infinity times zero would be NaN */
        *derivative = _mm512_fmadd_ps(Phi, _mm512_mul_ps(_mm512_mul_ps(value, finite), slope), Phi);
    }
    return value;
}

ALWAYS_INLINE void gelu_columns(const bf16 *up, bf16 *active, int64_t num_columns) {
    const __mmask32 columns = columns_at(0, num_columns);
    const Pairs x = load_pairs(up, columns);
    store_pairs(active, columns, (Pairs){gelu_of(x.even, NULL), gelu_of(x.odd, NULL)});
}

#endif

/* Compute active = GELU(up), in place if both are the same matrix. */
int gelu(const element *up_NF, element *active_NF, int64_t N, int64_t F, int num_threads) {
    const int64_t size = N * F, num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        const int64_t end = min_int((block + 1) * BLOCK_ROWS * F, size);
        int64_t at = block * BLOCK_ROWS * F;
        for (; at + COLUMNS <= end; at += COLUMNS) {
            fetch_ahead(up_NF + at);
            fetch_ahead_to_write(active_NF + at);
            gelu_columns(up_NF + at, active_NF + at, COLUMNS);
        }
        if (at < end) gelu_columns(up_NF + at, active_NF + at, end - at);
    }
    return OK;
}

/* Compute the backward pass of gelu: d_NF changes in place from the gradient of `active` to the gradient of `up`.
   active_NF is computed again; this takes no extra time here, and forward does not have to save it. partial_BF has
   blocks_of(N) blocks; the first gets the sum of d_NF over the rows. */
int gelu_backward(const element *up_NF, element *d_NF, element *active_NF, float *partial_BF, int64_t N, int64_t F,
                  int num_threads) {
    const int64_t num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float *partial_F = partial_BF + block * F;
        memset(partial_F, 0, F * sizeof(float));
        const int64_t end = min_int((block + 1) * BLOCK_ROWS, N);
        for (int64_t n = block * BLOCK_ROWS; n < end; n++)
            for (int64_t j = 0; j < F; j += LANES) {
                lanes_mask lanes = lanes_at(j, F);
                fetch_ahead(up_NF + n * F + j);
                fetch_ahead(d_NF + n * F + j);
                fetch_ahead_to_write(active_NF + n * F + j);
                f32s derivative, active = gelu_of(load(up_NF + n * F + j, lanes), &derivative);
                store(active_NF + n * F + j, lanes, active);
                f32s d = mul(load(d_NF + n * F + j, lanes), derivative);
                store(d_NF + n * F + j, lanes, d);
                add_to(partial_F + j, lanes, d);
            }
    }
    sum_blocks(partial_BF, num_blocks, F);
    return OK;
}
