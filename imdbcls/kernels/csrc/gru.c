/* A GRU over documents of different lengths, forward and backward through time. Groups of documents are processed as in
lstm.c.

t: time steps. The gates have 3 H columns: reset, update, new. */
#include "gru.h"

/* ---- Forward ----------------------------------------------------------------------------------------------------- */

/* gates_N3H contains the input part of the gates: for the reset and the update gate including both biases, for the new
   gate including its input bias. bias_H is the hidden bias of the new gate. final_BH gets the last output of each
   document, or zeros for a document without tokens. output_NH gets the output at each token. Each of the two may be
   NULL. For backward, gates_N3H is overwritten with the gates, previous_NH gets the outputs of the previous step, and
   hidden_NH gets the hidden part of the new gate, which the reset gate multiplies. If previous_NH and hidden_NH are
   NULL, nothing is saved for backward, and gates_N3H does not change. H is a multiple of 32. */
int gru(bf16 *gates_N3H, const bf16 *weight_3HH, const float *bias_H, const int64_t *offsets_B1, bf16 *final_BH,
        bf16 *output_NH, bf16 *previous_NH, bf16 *hidden_NH, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % STEP || (previous_NH && !hidden_NH)) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 3 * H, output_bytes = 2 * ROWS * H * (int64_t)sizeof(bf16);
    const int64_t exact_bytes = GROUP * H * (int64_t)sizeof(float);
    bf16 *packed = allocate((size_t)(G * H) * sizeof(bf16)); /* the weights of 32 gates, then of the next 32 */
    Workspace workspace = workspace_of(num_threads, output_bytes + exact_bytes);
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    for (int64_t g = 0; g < G; g += STEP) pack_transposed(weight_3HH + g * H, STEP, H, packed + g * H);
    if (final_BH) memset(final_BH, 0, (size_t)(B * H) * sizeof(bf16));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < (B + GROUP - 1) / GROUP; group++) {
        TileConfig before;
        tiles_begin(&before);
        Sequence sequences[GROUP];
        const int64_t longest = sequences_of(offsets_B1, B, group, GROUP, backwards, sequences);
        bf16 *output = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *exact = (float *)((char *)output + output_bytes), sum[3][ROWS * STEP] ALIGNED; /* exact: output in float32 */
        for (int64_t t = 0; t < longest; t++) {
            const bf16 *last = output + t % 2 * ROWS * H;
            bf16 *next = output + (t + 1) % 2 * ROWS * H;
            for (int64_t j = 0; j < H; j += STEP) {
                for (int gate = 0; gate < 3; gate++)
                    product_8x32(sum[gate], STEP, last, STEP, ROWS * STEP, packed + (gate * H + j) * H, STEP * STEP,
                                 H / STEP);
                for (int64_t i = 0; i < GROUP; i++) {
                    if (t >= sequences[i].length) continue;
                    const int64_t n = sequences[i].first + t * sequences[i].stride, following = n + sequences[i].stride;
                    const int ends = t + 1 == sequences[i].length;
                    if (!ends) prefetch_rows(gates_N3H + following * G + j, H, 0, 3, STEP);
                    for (int64_t u = j; u < j + STEP; u += LANES) {
                        f32x16 part[3], gates[3];
                        for (int gate = 0; gate < 3; gate++) {
                            part[gate] = _mm512_load_ps(sum[gate] + i * STEP + u - j);
                            gates[gate] = load_halves(gates_N3H + n * G + gate * H + u);
                        }
                        for (int gate = 0; gate < 2; gate++) gates[gate] = add(gates[gate], part[gate]);
                        const f32x16 hidden = add(part[2], load_f32(bias_H + u, 0xFFFF));
                        const f32x16 h = next_output(gates, hidden, _mm512_load_ps(exact + i * H + u));
                        _mm512_store_ps(exact + i * H + u, h);
                        store_bf16(next + j * ROWS + i * STEP + u - j, 0xFFFF, h);
                        if (ends && final_BH) store_bf16(final_BH + (group * GROUP + i) * H + u, 0xFFFF, h);
                        if (output_NH) store_bf16(output_NH + n * H + u, 0xFFFF, h);
                        if (!previous_NH) continue;
                        for (int gate = 0; gate < 3; gate++)
                            store_bf16(gates_N3H + n * G + gate * H + u, 0xFFFF, gates[gate]);
                        store_bf16(hidden_NH + n * H + u, 0xFFFF, hidden);
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

/* Compute d_input_N3H and d_hidden_N3H, the gradients of the input part and of the hidden part of the gates. They differ
   only in the new gate. The first row of d_bias_B4H gets the sums over the rows of d_input_N3H, and of the last H columns
   of d_hidden_N3H. Each group of eight documents uses only one row of d_bias_B4H. The gradients d_final_BH and d_output_NH may be NULL. */
int gru_backward(const bf16 *gates_N3H, const bf16 *weight_3HH, const int64_t *offsets_B1, const bf16 *previous_NH,
                 const bf16 *hidden_NH, const bf16 *d_final_BH, const bf16 *d_output_NH, bf16 *d_input_N3H,
                 bf16 *d_hidden_N3H, float *d_bias_B4H, int64_t B, int64_t H, int backwards, int num_threads) {
    if (H % STEP) return BAD_ARGUMENTS;
    if (!are_valid_offsets(offsets_B1, B)) return BAD_OFFSETS;
    const int64_t G = 3 * H, num_groups = (B + GROUP - 1) / GROUP;
    const int64_t gates_bytes = 2 * ROWS * G * (int64_t)sizeof(bf16), output_bytes = GROUP * H * (int64_t)sizeof(float);
    bf16 *packed = allocate((size_t)(G * H) * sizeof(bf16)); /* 32 columns, then the next 32 columns */
    Workspace workspace = workspace_of(num_threads, gates_bytes + output_bytes);
    if (!packed || !workspace.start) return free(packed), free(workspace.start), NO_MEMORY;
    for (int64_t j = 0; j < H; j += STEP)
        for (int64_t g = 0; g < G; g += STEP) pack_32x32(weight_3HH + g * H + j, H, packed + j * G + g * STEP);
    memset(d_bias_B4H, 0, (size_t)(num_groups * 4 * H) * sizeof(float));
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t group = 0; group < num_groups; group++) {
        TileConfig before;
        tiles_begin(&before);
        const unsigned state = flush_subnormals();
        Sequence sequences[GROUP];
        const int64_t longest = sequences_of(offsets_B1, B, group, GROUP, backwards, sequences);
        bf16 *d_gates = memset(part_of(&workspace, omp_get_thread_num()), 0, workspace.part);
        float *d_output = (float *)((char *)d_gates + gates_bytes), d_through_gates[ROWS * STEP] ALIGNED;
        for (int64_t t = longest - 1; t >= 0; t--) {
            const bf16 *last = d_gates + t % 2 * ROWS * G;
            bf16 *next = d_gates + (t + 1) % 2 * ROWS * G;
            for (int64_t j = 0; j < H; j += STEP) {
                product_8x32(d_through_gates, STEP, last, STEP, ROWS * STEP, packed + j * G, STEP * STEP, G / STEP);
                for (int64_t u = j; u < j + STEP; u += LANES) {
                    f32x16 total[4] = {splat(0), splat(0), splat(0), splat(0)};
                    for (int64_t i = 0; i < GROUP; i++) {
                        if (t >= sequences[i].length) continue;
                        const Sequence s = sequences[i];
                        const int64_t n = s.first + t * s.stride, preceding = n - s.stride;
                        if (t > 0 && u == j) prefetch_rows(gates_N3H + preceding * G + j, H, 0, 3, STEP);
                        f32x16 gates[3], d[4], d_h = _mm512_load_ps(d_output + i * H + u);
                        for (int gate = 0; gate < 3; gate++) gates[gate] = load_halves(gates_N3H + n * G + gate * H + u);
                        d_h = add(d_h, _mm512_load_ps(d_through_gates + i * STEP + u - j));
                        if (t + 1 == s.length && d_final_BH)
                            d_h = add(d_h, load_halves(d_final_BH + (group * GROUP + i) * H + u));
                        if (d_output_NH) d_h = add(d_h, load_halves(d_output_NH + n * H + u));
                        d_h = step_backward(gates, load_halves(hidden_NH + n * H + u),
                                            load_halves(previous_NH + n * H + u), d_h, d);
                        _mm512_store_ps(d_output + i * H + u, d_h);
                        for (int gate = 0; gate < 4; gate++) total[gate] = add(total[gate], d[gate]);
                        for (int gate = 0; gate < 3; gate++) {
                            const f32x16 d_hidden = d[gate == 2 ? 3 : gate];
                            store_bf16(d_input_N3H + n * G + gate * H + u, 0xFFFF, d[gate]);
                            store_bf16(d_hidden_N3H + n * G + gate * H + u, 0xFFFF, d_hidden);
                            store_bf16(next + (gate * H + j) * ROWS + i * STEP + u - j, 0xFFFF, d_hidden);
                        }
                    }
                    for (int gate = 0; gate < 4; gate++)
                        add_to(d_bias_B4H + (group * 4 + gate) * H + u, 0xFFFF, total[gate]);
                }
            }
        }
        _mm_setcsr(state);
        tiles_end(&before);
    }
    sum_blocks(d_bias_B4H, num_groups, 4 * H);
    free(packed);
    free(workspace.start);
    return OK;
}
