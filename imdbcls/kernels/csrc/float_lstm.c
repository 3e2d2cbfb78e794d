/* An LSTM over documents of different lengths in float32, forward and backward through time: see lstm.c.

The documents of a group are processed in parallel: they are the rows of one matrix product per time step. Each document
stops at its own end. One thread processes a group. The results of a document do not depend on its group.

t: time steps, G = 4 H: gates. */
#include "lstm.h"

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* gates_NG contains the input part of the gates, including the biases. final_BH gets the last output of each document,
   or zeros for a document without tokens. output_NH gets the output at each token. Each of the two may be NULL. For
   backward, gates_NG is overwritten with the gates, previous_NH gets the outputs of the previous step, and cell_NH gets
   the cell states. If previous_NH and cell_NH are NULL, nothing is saved for backward, and gates_NG does not change. H
   is a multiple of 16. */
int lstm(float *gates_NG, const float *weight_GH, const int64_t *offsets_B1, float *final_BH, float *output_NH,
         float *previous_NH, float *cell_NH, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % PANEL || (previous_NH && !cell_NH)) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 4 * H, size = group_size_of(B, num_threads);
    float *packed = allocate((size_t)packed_size(H, G) * sizeof(float));
    Workspace workspace = workspace_of(num_threads, 3 * size * H * (int64_t)sizeof(float));
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    pack_weight(weight_GH, packed, G, H, num_threads);
    if (final_BH) memset(final_BH, 0, (size_t)(B * H) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + size - 1) / size; group++) {
        Sequence sequences[DOCUMENTS];
        const int64_t longest = sequences_of(offsets_B1, B, group, size, backwards, sequences);
        float *output = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *cell = output + 2 * size * H;
        float sum[4][DOCUMENTS * PANEL] ALIGNED;
        for (int64_t t = 0; t < longest; t++) {
            const float *last = output + t % 2 * size * H;
            float *next = output + (t + 1) % 2 * size * H;
            for (int64_t j = 0; j < H; j += PANEL) {
                for (int gate = 0; gate < 4; gate++)
                    product_with_panel(sum[gate], PANEL, (Left){last, H, 1}, size, packed + (gate * H + j) * H, H, FROM_ZERO,
                                       NULL);
                for (int64_t i = 0; i < size; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t n = sequences[i].first + t * sequences[i].stride, following = n + sequences[i].stride;
                    const int ends = t + 1 == sequences[i].length;
                    for (int64_t u = j; u < j + PANEL; u += LANES) {
                        f32s z[4];
                        for (int gate = 0; gate < 4; gate++)
                            z[gate] = add(load_full(sum[gate] + i * PANEL + u - j),
                                          load_full(gates_NG + n * G + gate * H + u));
                        const f32s c = next_cell(z, load_full(cell + i * H + u)), h = output_of(z, c);
                        store_f32(cell + i * H + u, ALL_LANES, c);
                        store_f32(next + i * H + u, ALL_LANES, h);
                        if (ends && final_BH) store_f32(final_BH + (group * size + i) * H + u, ALL_LANES, h);
                        if (output_NH) store_f32(output_NH + n * H + u, ALL_LANES, h);
                        if (!previous_NH) continue;
                        for (int gate = 0; gate < 4; gate++) store_f32(gates_NG + n * G + gate * H + u, ALL_LANES, z[gate]);
                        store_f32(cell_NH + n * H + u, ALL_LANES, c);
                        if (t == 0) store_f32(previous_NH + n * H + u, ALL_LANES, splat(0));
                        if (!ends) store_f32(previous_NH + following * H + u, ALL_LANES, h);
                    }
                }
            }
        }
    }
    free(packed);
    free(workspace.start);
    return OK;
}

/* ---- Backward ---------------------------------------------------------------------------------------------------- */

/* Compute d_gates_NG, the gradient of the input of `lstm`, and its sum over the rows in the first row of d_bias_BG. The
   gradients d_final_BH and d_output_NH may be NULL. */
int lstm_backward(const float *gates_NG, const float *weight_GH, const int64_t *offsets_B1, const float *cell_NH,
                  const float *d_final_BH, const float *d_output_NH, float *d_gates_NG, float *d_bias_BG, int64_t B,
                  int64_t H, int backwards, int num_threads) {
    if (H % PANEL) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 4 * H, size = group_size_of(B, num_threads);
    float *packed = allocate((size_t)packed_size(G, H) * sizeof(float));
    Workspace workspace = workspace_of(num_threads, size * (2 * G + H) * (int64_t)sizeof(float));
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    pack(weight_GH, H, G, H, packed);
    memset(d_bias_BG, 0, (size_t)(B * G) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + size - 1) / size; group++) {
        const unsigned state = flush_subnormals();
        Sequence sequences[DOCUMENTS];
        const int64_t longest = sequences_of(offsets_B1, B, group, size, backwards, sequences);
        float *d_gates = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *d_cell = d_gates + 2 * size * G;
        float d_output[DOCUMENTS * PANEL] ALIGNED;
        for (int64_t t = longest - 1; t >= 0; t--) {
            const float *last = d_gates + t % 2 * size * G;
            float *next = d_gates + (t + 1) % 2 * size * G;
            for (int64_t j = 0; j < H; j += PANEL) {
                product_with_panel(d_output, PANEL, (Left){last, G, 1}, size, packed + j * G, G, FROM_ZERO, NULL);
                for (int64_t i = 0; i < size; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t document = group * size + i;
                    const int64_t n = sequences[i].first + t * sequences[i].stride, preceding = n - sequences[i].stride;
                    for (int64_t u = j; u < j + PANEL; u += LANES) {
                        f32s z[4], d[4], c_before = splat(0), d_h = load_full(d_output + i * PANEL + u - j);
                        for (int gate = 0; gate < 4; gate++) z[gate] = load_full(gates_NG + n * G + gate * H + u);
                        if (t > 0) c_before = load_full(cell_NH + preceding * H + u);
                        if (t + 1 == sequences[i].length && d_final_BH)
                            d_h = add(d_h, load_full(d_final_BH + document * H + u));
                        if (d_output_NH) d_h = add(d_h, load_full(d_output_NH + n * H + u));
                        const f32s d_c = step_backward(z, c_before, load_full(cell_NH + n * H + u), d_h,
                                                       load_full(d_cell + i * H + u), d);
                        store_f32(d_cell + i * H + u, ALL_LANES, d_c);
                        for (int gate = 0; gate < 4; gate++) {
                            store_f32(d_gates_NG + n * G + gate * H + u, ALL_LANES, d[gate]);
                            store_f32(next + i * G + gate * H + u, ALL_LANES, d[gate]);
                            add_to(d_bias_BG + document * G + gate * H + u, ALL_LANES, d[gate]);
                        }
                    }
                }
            }
        }
        _mm_setcsr(state);
    }
    sum_blocks(d_bias_BG, B, G);
    free(packed);
    free(workspace.start);
    return OK;
}
