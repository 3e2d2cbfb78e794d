/* An LSTM over documents of different lengths, forward and backward through time.

Up to eight documents form a group. They are processed in parallel, as rows of one matrix product per time step. Each
document stops at its own end. One thread processes a group. The recurrent weights are packed once and stay in the L2
cache. A left operand consists of blocks of 16 rows x 32 columns; half of the rows are unused. There are two buffers for
the left operand: each step reads one buffer and writes the other.

t: time steps, G = 4 H: gates. */
#include "lstm.h"

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* gates_NG contains the input part of the gates, including the biases. final_BH gets the last output of each document,
   or zeros for a document without tokens. output_NH gets the output at each token. Each of the two may be NULL. For
   backward, gates_NG is overwritten with the gates, previous_NH gets the outputs of the previous step, and cell_NH gets
   the cell states. If previous_NH and cell_NH are NULL, nothing is saved for backward, and gates_NG does not change. H
   is a multiple of 32. */
int lstm(bf16 *gates_NG, const bf16 *weight_GH, const int64_t *offsets_B1, bf16 *final_BH, bf16 *output_NH,
         bf16 *previous_NH, float *cell_NH, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % STEP || (previous_NH && !cell_NH)) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 4 * H, output_bytes = 2 * ROWS * H * (int64_t)sizeof(bf16);
    const int64_t cell_bytes = GROUP * H * (int64_t)sizeof(float);
    bf16 *packed = allocate((size_t)(G * H) * sizeof(bf16)); /* the weights of 32 gates, then of the next 32 */
    Workspace workspace = workspace_of(num_threads, output_bytes + cell_bytes);
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    for (int64_t g = 0; g < G; g += STEP) pack_transposed(weight_GH + g * H, STEP, H, packed + g * H);
    if (final_BH) memset(final_BH, 0, (size_t)(B * H) * sizeof(bf16));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + GROUP - 1) / GROUP; group++) {
        TileConfig before;
        tiles_begin(&before);
        Sequence sequences[GROUP];
        const int64_t longest = sequences_of(offsets_B1, B, group, GROUP, backwards, sequences);
        bf16 *output = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *cell = (float *)((char *)output + output_bytes), sum[4][ROWS * STEP] ALIGNED;
        for (int64_t t = 0; t < longest; t++) {
            const bf16 *last = output + t % 2 * ROWS * H;
            bf16 *next = output + (t + 1) % 2 * ROWS * H;
            for (int64_t j = 0; j < H; j += STEP) {
                for (int gate = 0; gate < 4; gate++)
                    product_8x32(sum[gate], STEP, last, STEP, ROWS * STEP, packed + (gate * H + j) * H, STEP * STEP,
                                 H / STEP);
                for (int64_t i = 0; i < GROUP; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t n = sequences[i].first + t * sequences[i].stride, following = n + sequences[i].stride;
                    const int ends = t + 1 == sequences[i].length;
                    if (!ends) prefetch_rows(gates_NG + following * G + j, H, 0, 4, STEP);
                    for (int64_t u = j; u < j + STEP; u += LANES) {
                        f32x16 z[4];
                        for (int gate = 0; gate < 4; gate++)
                            z[gate] = _mm512_add_ps(_mm512_load_ps(sum[gate] + i * STEP + u - j),
                                                    load_halves(gates_NG + n * G + gate * H + u));
                        f32x16 c = next_cell(z, _mm512_load_ps(cell + i * H + u)), h = output_of(z, c);
                        _mm512_store_ps(cell + i * H + u, c);
                        store_bf16(next + j * ROWS + i * STEP + u - j, 0xFFFF, h);
                        if (ends && final_BH) store_bf16(final_BH + (group * GROUP + i) * H + u, 0xFFFF, h);
                        if (output_NH) store_bf16(output_NH + n * H + u, 0xFFFF, h);
                        if (!previous_NH) continue;
                        for (int gate = 0; gate < 4; gate++) store_bf16(gates_NG + n * G + gate * H + u, 0xFFFF, z[gate]);
                        store_f32(cell_NH + n * H + u, 0xFFFF, c);
                        if (t == 0) store_bf16(previous_NH + n * H + u, 0xFFFF, splat(0));
                        if (!ends) store_bf16(previous_NH + following * H + u, 0xFFFF, h);
                    }
                }
            }
        }
        tiles_end(&before);
    }
    free(packed);
    free(workspace.start);
    return OK;
}

/* ---- Backward ---------------------------------------------------------------------------------------------------- */

/* Compute d_gates_NG, the gradient of the input of `lstm`, and its sum over the rows in the first row of d_bias_BG.
   Each group of eight documents uses only one row of d_bias_BG. The gradients d_final_BH and d_output_NH may be NULL. */
int lstm_backward(const bf16 *gates_NG, const bf16 *weight_GH, const int64_t *offsets_B1, const float *cell_NH,
                  const bf16 *d_final_BH, const bf16 *d_output_NH, bf16 *d_gates_NG, float *d_bias_BG, int64_t B,
                  int64_t H, int backwards, int num_threads) {
    if (H % STEP) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 4 * H, num_groups = (B + GROUP - 1) / GROUP;
    const int64_t gates_bytes = 2 * ROWS * G * (int64_t)sizeof(bf16), cell_bytes = GROUP * H * (int64_t)sizeof(float);
    bf16 *packed = allocate((size_t)(G * H) * sizeof(bf16)); /* 32 columns, then the next 32 columns */
    Workspace workspace = workspace_of(num_threads, gates_bytes + cell_bytes);
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    for (int64_t j = 0; j < H; j += STEP)
        for (int64_t g = 0; g < G; g += STEP) pack_32x32(weight_GH + g * H + j, H, packed + j * G + g * STEP);
    memset(d_bias_BG, 0, (size_t)(num_groups * G) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < num_groups; group++) {
        TileConfig before;
        tiles_begin(&before);
        const unsigned state = flush_subnormals();
        Sequence sequences[GROUP];
        const int64_t longest = sequences_of(offsets_B1, B, group, GROUP, backwards, sequences);
        bf16 *d_gates = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *d_cell = (float *)((char *)d_gates + gates_bytes), d_output[ROWS * STEP] ALIGNED;
        for (int64_t t = longest - 1; t >= 0; t--) {
            const bf16 *last = d_gates + t % 2 * ROWS * G;
            bf16 *next = d_gates + (t + 1) % 2 * ROWS * G;
            for (int64_t j = 0; j < H; j += STEP) {
                product_8x32(d_output, STEP, last, STEP, ROWS * STEP, packed + j * G, STEP * STEP, G / STEP);
                for (int64_t u = j; u < j + STEP; u += LANES) {
                    f32x16 total[4] = {splat(0), splat(0), splat(0), splat(0)};
                    for (int64_t i = 0; i < GROUP; i++) {
                        if (t >= sequences[i].length) continue;
                        const Sequence s = sequences[i];
                        const int64_t n = s.first + t * s.stride, preceding = n - s.stride;
                        if (t > 0 && u == j) prefetch_rows(gates_NG + preceding * G + j, H, 0, 4, STEP);
                        f32x16 z[4], d[4], c_before = splat(0), d_h = _mm512_load_ps(d_output + i * STEP + u - j);
                        for (int gate = 0; gate < 4; gate++) z[gate] = load_halves(gates_NG + n * G + gate * H + u);
                        if (t > 0) c_before = load_f32(cell_NH + preceding * H + u, 0xFFFF);
                        if (t + 1 == sequences[i].length && d_final_BH)
                            d_h = _mm512_add_ps(d_h, load_halves(d_final_BH + (group * GROUP + i) * H + u));
                        if (d_output_NH) d_h = _mm512_add_ps(d_h, load_halves(d_output_NH + n * H + u));
                        f32x16 d_c = step_backward(z, c_before, load_f32(cell_NH + n * H + u, 0xFFFF), d_h,
                                                   _mm512_load_ps(d_cell + i * H + u), d);
                        _mm512_store_ps(d_cell + i * H + u, d_c);
                        for (int gate = 0; gate < 4; gate++) {
                            total[gate] = _mm512_add_ps(total[gate], d[gate]);
                            store_bf16(d_gates_NG + n * G + gate * H + u, 0xFFFF, d[gate]);
                            store_bf16(next + (gate * H + j) * ROWS + i * STEP + u - j, 0xFFFF, d[gate]);
                        }
                    }
                    for (int gate = 0; gate < 4; gate++) add_to(d_bias_BG + group * G + gate * H + u, 0xFFFF, total[gate]);
                }
            }
        }
        _mm_setcsr(state);
        tiles_end(&before);
    }
    sum_blocks(d_bias_BG, num_groups, G);
    free(packed);
    free(workspace.start);
    return OK;
}
