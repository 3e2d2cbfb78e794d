/* The functions that Python calls. This is their only declaration: the C compiler checks the definitions against it,
and Python parses it (`declarations.py`).

The name of a pointer ends in the shape of its data. OR_NULL marks a pointer that may be NULL. `element` is the type of
the matrices in memory: bf16 in one library and float in the other.

N: rows, H: hidden size, W: words of sixteen mask bits in a row of H, F: any width, O: outputs, K: inputs, P: panels of
sixteen outputs (C: sixteen), A: heads (num_heads), D: width of a head, G = 4 H: gates, B: documents, or blocks of rows
(blocks_of) in functions without documents. offsets_B1 has B + 1 numbers; the last one is N.

All functions return a status. They allocate memory before they write any result, so a failed call can be repeated. */
#pragma once
#include "vectors.h"

#define OR_NULL

/* Sizes that Python also needs; `declarations.py` reads them from here. */
enum {
    BLOCK_ROWS = 128,   /* rows in a block; gradients are first summed within each block */
    MAX_COLUMNS = 8192, /* upper limit of H */
    MASK_BITS = 16,     /* bits in a word of a dropout mask */
    PANEL_WIDTH = 16,   /* outputs in a panel of a packed weight */
    WIDTH_MULTIPLE = 32 /* O and K in weight_gradient in bfloat16, and H in lstm and gru, are multiples of this */
};

int add_and_normalise(const element *residual_NH, const element *update_NH, const float *weight_H, const float *bias_H,
                      element *OR_NULL sum_NH, element *out_NH, float *OR_NULL mean_N, float *OR_NULL rstd_N,
                      uint16_t *OR_NULL kept_NW, int64_t N, int64_t H, float epsilon, uint64_t seed, uint32_t number,
                      uint32_t threshold, float scale, int num_threads);
int add_and_normalise_backward(const element *d_out_NH, const element *OR_NULL d_out2_NH, const element *sum_NH,
                               const float *mean_N, const float *rstd_N, const float *weight_H,
                               const uint16_t *OR_NULL kept_NW, element *d_sum_NH, element *OR_NULL d_update_NH,
                               float *partial_B3H, int64_t N, int64_t H, float scale, int num_threads);
int normalise_and_drop(const float *sum_NH, const float *weight_H, const float *bias_H, element *out_NH,
                       float *OR_NULL mean_N, float *OR_NULL rstd_N, uint16_t *OR_NULL kept_NW, int64_t N, int64_t H,
                       float epsilon, uint64_t seed, uint32_t number, uint32_t threshold, float scale, int num_threads);
int normalise_and_drop_backward(const element *d_out_NH, const element *OR_NULL d_out2_NH, const float *sum_NH,
                                const float *mean_N, const float *rstd_N, const float *weight_H,
                                const uint16_t *OR_NULL kept_NW, float *d_sum_NH, float *partial_B2H, int64_t N,
                                int64_t H, float scale, int num_threads);
int gelu(const element *up_NF, element *active_NF, int64_t N, int64_t F, int num_threads);
int gelu_backward(const element *up_NF, element *d_NF, element *active_NF, float *partial_BF, int64_t N, int64_t F,
                  int num_threads);
int attention(const element *qkv_N3H, const int64_t *offsets_B1, element *context_NH, float *OR_NULL shift_AN,
              float *OR_NULL scale_AN, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads);
int attention_backward(const element *qkv_N3H, const element *context_NH, const element *d_context_NH,
                       const float *shift_AN, const float *scale_AN, const int64_t *offsets_B1, element *d_qkv_N3H,
                       float *d_bias_B3H, int64_t num_documents, int64_t num_heads, int64_t D, int num_threads);
int weight_gradient(const element *d_y_NO, const element *x_NK, float *d_weight_OK, int64_t N, int64_t O, int64_t K,
                    int num_threads);
int lstm(element *gates_NG, const element *weight_GH, const int64_t *offsets_B1, element *OR_NULL final_BH,
         element *OR_NULL output_NH, element *OR_NULL previous_NH, float *OR_NULL cell_NH, int64_t B, int64_t H,
         int backwards, int num_threads);
int lstm_backward(const element *gates_NG, const element *weight_GH, const int64_t *offsets_B1, const float *cell_NH,
                  const element *OR_NULL d_final_BH, const element *OR_NULL d_output_NH, element *d_gates_NG,
                  float *d_bias_BG, int64_t B, int64_t H, int backwards, int num_threads);
int gru(element *gates_N3H, const element *weight_3HH, const float *bias_H, const int64_t *offsets_B1,
        element *OR_NULL final_BH, element *OR_NULL output_NH, element *OR_NULL previous_NH, element *OR_NULL hidden_NH,
        int64_t B, int64_t H, int backwards, int num_threads);
int gru_backward(const element *gates_N3H, const element *weight_3HH, const int64_t *offsets_B1,
                 const element *previous_NH, const element *hidden_NH, const element *OR_NULL d_final_BH,
                 const element *OR_NULL d_output_NH, element *d_input_N3H, element *d_hidden_N3H, float *d_bias_B4H,
                 int64_t B, int64_t H, int backwards, int num_threads);

#ifdef FLOATS
int pack_weight(const float *weight_OK, float *packed_PKC, int64_t O, int64_t K, int num_threads);
int linear(const float *x_NK, const float *packed_PKC, const float *OR_NULL bias_O, float *y_NO, int64_t N, int64_t K,
           int64_t O, int num_threads);
int linear_backward(const float *d_y_NO, const float *packed_PKC, float *d_x_NK, int64_t N, int64_t K, int64_t O,
                    int num_threads);
#endif
