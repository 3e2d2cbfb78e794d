/* What happens to each row between the matrix products: dropout, residual, LayerNorm, GELU, and backward. */
#include "vectors.h"
#include <math.h>

/* Rows whose gradients of a weight or bias are summed before they are added to those of other rows, and which a thread
   takes at a time: a thread that is held up by another program takes fewer. */
enum { BLOCK_ROWS = 128, MOST_COLUMNS = 8192 };

int64_t blocks_of(int64_t num_rows) { return (num_rows + BLOCK_ROWS - 1) / BLOCK_ROWS; }

/* ---- Dropout ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t seed;
    uint32_t number;    /* of the mask within its forward pass */
    uint32_t threshold; /* round(p * 2^32): an element is dropped where its 32 random bits are below */
    float scale;        /* 1 / (1 - p) */
} Dropout;

static inline void multiply_wide(__m512i a, uint32_t b, __m512i *high, __m512i *low) {
    __m512i factor = _mm512_set1_epi64(b);
    __m512i even = _mm512_mul_epu32(a, factor);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    *low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
    *high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
}

/* Which of 64 neighbouring columns of a row are kept, as four masks of sixteen. Philox4x32-7 (Salmon et al. 2011) of
   (column, row, mask) under the seed: a function of these alone. */
static inline void draw_kept(const Dropout *dropout, int64_t row, int64_t column, __mmask16 kept[4]) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i c0 = _mm512_add_epi32(lane, _mm512_set1_epi32((int)column));
    __m512i c1 = _mm512_set1_epi32((int)row);
    __m512i c2 = _mm512_set1_epi32((int)dropout->number);
    __m512i c3 = _mm512_setzero_si512();
    uint32_t k0 = (uint32_t)dropout->seed, k1 = (uint32_t)(dropout->seed >> 32);
    for (int round = 0; round < 7; round++) {
        __m512i high0, low0, high2, low2;
        multiply_wide(c0, 0xD2511F53u, &high0, &low0);
        multiply_wide(c2, 0xCD9E8D57u, &high2, &low2);
        c0 = _mm512_xor_si512(_mm512_xor_si512(high2, c1), _mm512_set1_epi32((int)k0));
        c2 = _mm512_xor_si512(_mm512_xor_si512(high0, c3), _mm512_set1_epi32((int)k1));
        c1 = low2;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const __m512i threshold = _mm512_set1_epi32((int)dropout->threshold);
    kept[0] = _mm512_cmpge_epu32_mask(c0, threshold);
    kept[1] = _mm512_cmpge_epu32_mask(c1, threshold);
    kept[2] = _mm512_cmpge_epu32_mask(c2, threshold);
    kept[3] = _mm512_cmpge_epu32_mask(c3, threshold);
}

/* A row's mask: a bit for each column, sixteen columns to a word. */
static void draw_row(const Dropout *dropout, int64_t row, int64_t width, uint16_t *kept) {
    int64_t words = (width + LANES - 1) / LANES;
    for (int64_t word = 0; word < words; word += 4) {
        __mmask16 four[4];
        draw_kept(dropout, row, word * LANES, four);
        for (int64_t i = 0; i < 4 && word + i < words; i++) kept[word + i] = four[i];
    }
}

/* ---- LayerNorm --------------------------------------------------------------------------------------------------- */

/* The mean of a row and 1 / sqrt(variance + epsilon), in two passes. */
static void row_statistics(const float *row_H, int64_t H, float epsilon, float *mean, float *rstd) {
    f32x16 sum = splat(0), squares = splat(0);
    for (int64_t j = 0; j < H; j += LANES) sum = _mm512_add_ps(sum, load_f32(row_H + j, lanes_at(j, H)));
    *mean = _mm512_reduce_add_ps(sum) / (float)H;
    for (int64_t j = 0; j < H; j += LANES) {
        __mmask16 lanes = lanes_at(j, H);
        f32x16 centred = _mm512_maskz_sub_ps(lanes, load_f32(row_H + j, lanes), splat(*mean));
        squares = _mm512_fmadd_ps(centred, centred, squares);
    }
    *rstd = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)H + epsilon);
}

static inline f32x16 normalised(f32x16 x, float mean, float rstd) {
    return _mm512_mul_ps(_mm512_sub_ps(x, splat(mean)), splat(rstd));
}

/* A row's gradient through LayerNorm: d_out_H to d_x_H in place, given the normalised row; its share of the weight's
   and the bias's gradients is added to theirs. */
static void row_norm_backward(float *d_H, const float *x_hat_H, const float *weight_H, int64_t H, float rstd,
                              float *d_weight_H, float *d_bias_H) {
    f32x16 sum = splat(0), product = splat(0);
    for (int64_t j = 0; j < H; j += LANES) {
        __mmask16 lanes = lanes_at(j, H);
        f32x16 d = load_f32(d_H + j, lanes), x_hat = load_f32(x_hat_H + j, lanes);
        add_to(d_weight_H + j, lanes, _mm512_mul_ps(d, x_hat));
        add_to(d_bias_H + j, lanes, d);
        d = _mm512_mul_ps(d, load_f32(weight_H + j, lanes));
        store_f32(d_H + j, lanes, d);
        sum = _mm512_add_ps(sum, d);
        product = _mm512_fmadd_ps(d, x_hat, product);
    }
    f32x16 mean = splat(_mm512_reduce_add_ps(sum) / (float)H);
    f32x16 mean_product = splat(_mm512_reduce_add_ps(product) / (float)H);
    for (int64_t j = 0; j < H; j += LANES) {
        __mmask16 lanes = lanes_at(j, H);
        f32x16 d = _mm512_sub_ps(load_f32(d_H + j, lanes), mean);
        d = _mm512_fnmadd_ps(load_f32(x_hat_H + j, lanes), mean_product, d);
        store_f32(d_H + j, lanes, _mm512_mul_ps(d, splat(rstd)));
    }
}

/* out = LayerNorm(residual + dropout(update)). `sum_NH` (what is normalised), the statistics and the mask's
   bits are for backward; `sum_NH` NULL: nothing is kept for it. `kept` NULL: no dropout. */
void add_and_normalise(const bf16 *residual_NH, const bf16 *update_NH, const float *weight_H, const float *bias_H,
                       bf16 *sum_NH, bf16 *out_NH, float *mean_N, float *rstd_N, uint16_t *kept_NW, int64_t N,
                       int64_t H, float epsilon, uint64_t seed, uint32_t number, uint32_t threshold, float scale,
                       int num_threads) {
    const Dropout dropout = {seed, number, threshold, scale};
    const int64_t words = (H + LANES - 1) / LANES;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, BLOCK_ROWS)
    for (int64_t n = 0; n < N; n++) {
        float row_H[MOST_COLUMNS] ALIGNED;
        uint16_t *kept = kept_NW ? kept_NW + n * words : NULL;
        if (kept) draw_row(&dropout, n, H, kept);
        for (int64_t j = 0; j < H; j += LANES) {
            __mmask16 lanes = lanes_at(j, H);
            f32x16 update = load_bf16(update_NH + n * H + j, lanes);
            if (kept) update = _mm512_maskz_mul_ps(kept[j / LANES], update, splat(scale));
            f32x16 sum = _mm512_add_ps(load_bf16(residual_NH + n * H + j, lanes), update);
            store_f32(row_H + j, lanes, sum);
            if (sum_NH) store_bf16(sum_NH + n * H + j, lanes, sum);
        }
        float mean, rstd;
        row_statistics(row_H, H, epsilon, &mean, &rstd);
        if (sum_NH) mean_N[n] = mean, rstd_N[n] = rstd;
        for (int64_t j = 0; j < H; j += LANES) {
            __mmask16 lanes = lanes_at(j, H);
            f32x16 x_hat = normalised(load_f32(row_H + j, lanes), mean, rstd);
            store_bf16(out_NH + n * H + j, lanes,
                       _mm512_fmadd_ps(x_hat, load_f32(weight_H + j, lanes), load_f32(bias_H + j, lanes)));
        }
    }
}

/* Backward of add_and_normalise. The output's gradient comes in one part or as the sum of two (`d_out2_NH` or NULL).
   d_sum_NH is the residual's gradient, d_update_NH the update's (NULL without dropout: they are the same).
   partial_B3H has room for blocks_of(N) blocks; its first holds the gradients of weight and bias, and the sum of
   d_update over the rows: the gradient of the bias of the product that made the update. */
void add_and_normalise_backward(const bf16 *d_out_NH, const bf16 *d_out2_NH, const bf16 *sum_NH, const float *mean_N,
                                const float *rstd_N, const float *weight_H, const uint16_t *kept_NW, bf16 *d_sum_NH,
                                bf16 *d_update_NH, float *partial_B3H, int64_t N, int64_t H, float scale,
                                int num_threads) {
    const int64_t words = (H + LANES - 1) / LANES, num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float d_H[MOST_COLUMNS] ALIGNED, x_hat_H[MOST_COLUMNS] ALIGNED;
        float *partial_3H = partial_B3H + block * 3 * H;
        memset(partial_3H, 0, 3 * H * sizeof(float));
        int64_t end = (block + 1) * BLOCK_ROWS < N ? (block + 1) * BLOCK_ROWS : N;
        for (int64_t n = block * BLOCK_ROWS; n < end; n++) {
            for (int64_t j = 0; j < H; j += LANES) {
                __mmask16 lanes = lanes_at(j, H);
                f32x16 d = load_bf16(d_out_NH + n * H + j, lanes);
                if (d_out2_NH) d = _mm512_add_ps(d, load_bf16(d_out2_NH + n * H + j, lanes));
                store_f32(d_H + j, lanes, d);
                store_f32(x_hat_H + j, lanes, normalised(load_bf16(sum_NH + n * H + j, lanes), mean_N[n], rstd_N[n]));
            }
            row_norm_backward(d_H, x_hat_H, weight_H, H, rstd_N[n], partial_3H, partial_3H + H);
            for (int64_t j = 0; j < H; j += LANES) {
                __mmask16 lanes = lanes_at(j, H);
                f32x16 d = load_f32(d_H + j, lanes);
                store_bf16(d_sum_NH + n * H + j, lanes, d);
                if (kept_NW) {
                    d = _mm512_maskz_mul_ps(kept_NW[n * words + j / LANES], d, splat(scale));
                    store_bf16(d_update_NH + n * H + j, lanes, d);
                }
                add_to(partial_3H + 2 * H + j, lanes, d);
            }
        }
    }
    sum_blocks(partial_B3H, num_blocks, 3 * H);
}

/* out = dropout(LayerNorm(sum)), the end of the embeddings. Arguments as those of add_and_normalise; mean_N NULL: nothing
   is kept for backward. */
void normalise_and_drop(const float *sum_NH, const float *weight_H, const float *bias_H, bf16 *out_NH, float *mean_N,
                        float *rstd_N, uint16_t *kept_NW, int64_t N, int64_t H, float epsilon, uint64_t seed,
                        uint32_t number, uint32_t threshold, float scale, int num_threads) {
    const Dropout dropout = {seed, number, threshold, scale};
    const int64_t words = (H + LANES - 1) / LANES;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, BLOCK_ROWS)
    for (int64_t n = 0; n < N; n++) {
        uint16_t *kept = kept_NW ? kept_NW + n * words : NULL;
        if (kept) draw_row(&dropout, n, H, kept);
        float mean, rstd;
        row_statistics(sum_NH + n * H, H, epsilon, &mean, &rstd);
        if (mean_N) mean_N[n] = mean, rstd_N[n] = rstd;
        for (int64_t j = 0; j < H; j += LANES) {
            __mmask16 lanes = lanes_at(j, H);
            f32x16 out = _mm512_fmadd_ps(normalised(load_f32(sum_NH + n * H + j, lanes), mean, rstd),
                                         load_f32(weight_H + j, lanes), load_f32(bias_H + j, lanes));
            if (kept) out = _mm512_maskz_mul_ps(kept[j / LANES], out, splat(scale));
            store_bf16(out_NH + n * H + j, lanes, out);
        }
    }
}

/* Backward of normalise_and_drop. The output's gradient comes in one part or two, the sum's is d_sum_NH.
   partial_B2H has room for blocks_of(N) blocks; its first holds the gradients of weight and bias. */
void normalise_and_drop_backward(const bf16 *d_out_NH, const bf16 *d_out2_NH, const float *sum_NH, const float *mean_N,
                                 const float *rstd_N, const float *weight_H, const uint16_t *kept_NW, float *d_sum_NH,
                                 float *partial_B2H, int64_t N, int64_t H, float scale, int num_threads) {
    const int64_t words = (H + LANES - 1) / LANES, num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float x_hat_H[MOST_COLUMNS] ALIGNED;
        float *partial_2H = partial_B2H + block * 2 * H;
        memset(partial_2H, 0, 2 * H * sizeof(float));
        int64_t end = (block + 1) * BLOCK_ROWS < N ? (block + 1) * BLOCK_ROWS : N;
        for (int64_t n = block * BLOCK_ROWS; n < end; n++) {
            float *d_H = d_sum_NH + n * H;
            for (int64_t j = 0; j < H; j += LANES) {
                __mmask16 lanes = lanes_at(j, H);
                f32x16 d = load_bf16(d_out_NH + n * H + j, lanes);
                if (d_out2_NH) d = _mm512_add_ps(d, load_bf16(d_out2_NH + n * H + j, lanes));
                if (kept_NW) d = _mm512_maskz_mul_ps(kept_NW[n * words + j / LANES], d, splat(scale));
                store_f32(x_hat_H + j, lanes, normalised(load_f32(sum_NH + n * H + j, lanes), mean_N[n], rstd_N[n]));
                store_f32(d_H + j, lanes, d);
            }
            row_norm_backward(d_H, x_hat_H, weight_H, H, rstd_N[n], partial_2H, partial_2H + H);
        }
    }
    sum_blocks(partial_B2H, num_blocks, 2 * H);
}

/* ---- GELU -------------------------------------------------------------------------------------------------------- */

/* The normal distribution's Phi(x) and its density phi(x), each with an absolute error below 2e-6 (Abramowitz & Stegun
   7.1.26 with the exponential and the reciprocal of this file). */
static inline void normal_distribution(f32x16 x, f32x16 *Phi, f32x16 *phi) {
    f32x16 bell = exp2_of(_mm512_mul_ps(_mm512_mul_ps(x, x), splat(-0.72134752f))); /* exp(-x^2 / 2) */
    f32x16 denominator = _mm512_fmadd_ps(_mm512_abs_ps(x), splat(0.3275911f * 0.70710678f), splat(1));
    f32x16 t = _mm512_rcp14_ps(denominator);
    t = _mm512_mul_ps(t, _mm512_fnmadd_ps(denominator, t, splat(2))); /* one step of Newton's */
    f32x16 tail = splat(1.061405429f);
    tail = _mm512_fmadd_ps(tail, t, splat(-1.453152027f));
    tail = _mm512_fmadd_ps(tail, t, splat(1.421413741f));
    tail = _mm512_fmadd_ps(tail, t, splat(-0.284496736f));
    tail = _mm512_fmadd_ps(tail, t, splat(0.254829592f));
    tail = _mm512_mul_ps(_mm512_mul_ps(tail, t), _mm512_mul_ps(bell, splat(0.5f)));
    __mmask16 positive = _mm512_cmp_ps_mask(x, splat(0), _CMP_GT_OQ);
    *Phi = _mm512_mask_sub_ps(tail, positive, splat(1), tail);
    *phi = _mm512_mul_ps(bell, splat(0.39894228f));
}

/* active = GELU(up); in place where the two are the same. */
void gelu(const bf16 *up_NF, bf16 *active_NF, int64_t N, int64_t F, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, BLOCK_ROWS)
    for (int64_t n = 0; n < N; n++)
        for (int64_t j = 0; j < F; j += LANES) {
            __mmask16 lanes = lanes_at(j, F);
            f32x16 Phi, phi, x = load_bf16(up_NF + n * F + j, lanes);
            normal_distribution(x, &Phi, &phi);
            store_bf16(active_NF + n * F + j, lanes, _mm512_mul_ps(x, Phi));
        }
}

/* Backward of gelu: d_NF turns from active's gradient into up's, in place. active_NF is computed anew, which costs
   nothing here and saves keeping it. partial_BF has room for blocks_of(N) blocks; its first is d_NF's sum over the rows. */
void gelu_backward(const bf16 *up_NF, bf16 *d_NF, bf16 *active_NF, float *partial_BF, int64_t N, int64_t F,
                   int num_threads) {
    const int64_t num_blocks = blocks_of(N);
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; block++) {
        float *partial_F = partial_BF + block * F;
        memset(partial_F, 0, F * sizeof(float));
        int64_t end = (block + 1) * BLOCK_ROWS < N ? (block + 1) * BLOCK_ROWS : N;
        for (int64_t n = block * BLOCK_ROWS; n < end; n++)
            for (int64_t j = 0; j < F; j += LANES) {
                __mmask16 lanes = lanes_at(j, F);
                f32x16 Phi, phi, x = load_bf16(up_NF + n * F + j, lanes);
                normal_distribution(x, &Phi, &phi);
                store_bf16(active_NF + n * F + j, lanes, _mm512_mul_ps(x, Phi));
                f32x16 d = _mm512_mul_ps(load_bf16(d_NF + n * F + j, lanes), _mm512_fmadd_ps(x, phi, Phi));
                store_bf16(d_NF + n * F + j, lanes, d);
                add_to(partial_F + j, lanes, d);
            }
    }
    sum_blocks(partial_BF, num_blocks, F);
}
