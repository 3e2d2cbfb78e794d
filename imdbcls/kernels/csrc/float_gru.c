/* A GRU over documents of different lengths in float32, forward and backward through time. Groups of documents are processed as in
float_lstm.c.

t: time steps. The gates have 3 H columns: reset, update, new. */
#include "gru.h"

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* gates_N3H contains the input part of the gates: for the reset and the update gate including both biases, for the new
   gate including its input bias. bias_H is the hidden bias of the new gate. final_BH gets the last output of each
   document, or zeros for a document without tokens. output_NH gets the output at each token. Each of the two may be
   NULL. For backward, gates_N3H is overwritten with the gates, previous_NH gets the outputs of the previous step, and
   hidden_NH gets the hidden part of the new gate, which the reset gate multiplies. If previous_NH and hidden_NH are
   NULL, nothing is saved for backward, and gates_N3H does not change. H is a multiple of 16. */
int gru(float *gates_N3H, const float *weight_3HH, const float *bias_H, const int64_t *offsets_B1, float *final_BH,
        float *output_NH, float *previous_NH, float *hidden_NH, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % PANEL || (previous_NH && !hidden_NH)) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 3 * H, size = group_size_of(B, num_threads);
    float *packed = allocate((size_t)packed_size(H, G) * sizeof(float));
    Workspace workspace = workspace_of(num_threads, 2 * size * H * (int64_t)sizeof(float));
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    pack_weight(weight_3HH, packed, G, H, num_threads);
    if (final_BH) memset(final_BH, 0, (size_t)(B * H) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + size - 1) / size; group++) {
        Sequence sequences[DOCUMENTS];
        const int64_t longest = sequences_of(offsets_B1, B, group, size, backwards, sequences);
        float *output = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float sum[3][DOCUMENTS * PANEL] ALIGNED;
        for (int64_t t = 0; t < longest; t++) {
            const float *last = output + t % 2 * size * H;
            float *next = output + (t + 1) % 2 * size * H;
            for (int64_t j = 0; j < H; j += PANEL) {
                for (int gate = 0; gate < 3; gate++)
                    product_with_panel(sum[gate], PANEL, (Left){last, H, 1}, size, packed + (gate * H + j) * H, H, FROM_ZERO,
                                       NULL);
                for (int64_t i = 0; i < size; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t n = sequences[i].first + t * sequences[i].stride, following = n + sequences[i].stride;
                    const int ends = t + 1 == sequences[i].length;
                    for (int64_t u = j; u < j + PANEL; u += LANES) {
                        f32s part[3], gates[3];
                        for (int gate = 0; gate < 3; gate++) {
                            part[gate] = load_full(sum[gate] + i * PANEL + u - j);
                            gates[gate] = load_full(gates_N3H + n * G + gate * H + u);
                        }
                        for (int gate = 0; gate < 2; gate++) gates[gate] = add(gates[gate], part[gate]);
                        const f32s hidden = add(part[2], load_full(bias_H + u));
                        const f32s h = next_output(gates, hidden, load_full(last + i * H + u));
                        store_f32(next + i * H + u, ALL_LANES, h);
                        if (ends && final_BH) store_f32(final_BH + (group * size + i) * H + u, ALL_LANES, h);
                        if (output_NH) store_f32(output_NH + n * H + u, ALL_LANES, h);
                        if (!previous_NH) continue;
                        for (int gate = 0; gate < 3; gate++)
                            store_f32(gates_N3H + n * G + gate * H + u, ALL_LANES, gates[gate]);
                        store_f32(hidden_NH + n * H + u, ALL_LANES, hidden);
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

/* Compute d_input_N3H and d_hidden_N3H, the gradients of the input part and of the hidden part of the gates. They differ
   only in the new gate. The first row of d_bias_B4H gets the sums over the rows of d_input_N3H, and of the last H columns
   of d_hidden_N3H. The gradients d_final_BH and d_output_NH may be NULL. */
int gru_backward(const float *gates_N3H, const float *weight_3HH, const int64_t *offsets_B1, const float *previous_NH,
                 const float *hidden_NH, const float *d_final_BH, const float *d_output_NH, float *d_input_N3H,
                 float *d_hidden_N3H, float *d_bias_B4H, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % PANEL) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 3 * H, size = group_size_of(B, num_threads);
    float *packed = allocate((size_t)packed_size(G, H) * sizeof(float));
    Workspace workspace = workspace_of(num_threads, size * (2 * G + H) * (int64_t)sizeof(float));
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    pack(weight_3HH, H, G, H, packed);
    memset(d_bias_B4H, 0, (size_t)(B * 4 * H) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + size - 1) / size; group++) {
        const unsigned state = flush_subnormals();
        Sequence sequences[DOCUMENTS];
        const int64_t longest = sequences_of(offsets_B1, B, group, size, backwards, sequences);
        float *d_gates = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *d_output = d_gates + 2 * size * G;
        float d_through_gates[DOCUMENTS * PANEL] ALIGNED;
        for (int64_t t = longest - 1; t >= 0; t--) {
            const float *last = d_gates + t % 2 * size * G;
            float *next = d_gates + (t + 1) % 2 * size * G;
            for (int64_t j = 0; j < H; j += PANEL) {
                product_with_panel(d_through_gates, PANEL, (Left){last, G, 1}, size, packed + j * G, G, FROM_ZERO, NULL);
                for (int64_t i = 0; i < size; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t document = group * size + i, n = sequences[i].first + t * sequences[i].stride;
                    for (int64_t u = j; u < j + PANEL; u += LANES) {
                        f32s gates[3], d[4], d_h = load_full(d_output + i * H + u);
                        for (int gate = 0; gate < 3; gate++) gates[gate] = load_full(gates_N3H + n * G + gate * H + u);
                        d_h = add(d_h, load_full(d_through_gates + i * PANEL + u - j));
                        if (t + 1 == sequences[i].length && d_final_BH)
                            d_h = add(d_h, load_full(d_final_BH + document * H + u));
                        if (d_output_NH) d_h = add(d_h, load_full(d_output_NH + n * H + u));
                        d_h = step_backward(gates, load_full(hidden_NH + n * H + u), load_full(previous_NH + n * H + u),
                                            d_h, d);
                        store_f32(d_output + i * H + u, ALL_LANES, d_h);
                        for (int gate = 0; gate < 4; gate++)
                            add_to(d_bias_B4H + (document * 4 + gate) * H + u, ALL_LANES, d[gate]);
                        for (int gate = 0; gate < 3; gate++) {
                            const f32s d_hidden = d[gate == 2 ? 3 : gate];
                            store_f32(d_input_N3H + n * G + gate * H + u, ALL_LANES, d[gate]);
                            store_f32(d_hidden_N3H + n * G + gate * H + u, ALL_LANES, d_hidden);
                            store_f32(next + i * G + gate * H + u, ALL_LANES, d_hidden);
                        }
                    }
                }
            }
        }
        _mm_setcsr(state);
    }
    sum_blocks(d_bias_B4H, B, 4 * H);
    free(packed);
    free(workspace.start);
    return OK;
}
