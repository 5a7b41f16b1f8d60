/* SPDX-License-Identifier: Apache-2.0 */
/* head.c - logits and losses. The head is a matrix (V, C), of its own or the embedding. Products over the vocabulary
 * take a part of it at a time if the backend prefers this (zero_nn_sizes). */
#include "models/decoder.h"

/* The rows of the head that a tile has, or this rank, and where they lie. This rank's part may end with zeros. Their
 * logits are 0, and so are the gradients of these, so they change nothing. */
static zero_nn_tile_t rows_of(const zero_model_t *m, const zero_model_tile_t *tile)
{
    return tile ? tile->rows : (zero_nn_tile_t){0, m->own.vocab};
}

void zero_model_head_logits(zero_model_t *m, const zero_model_tile_t *tile, const void *x, int64_t rows)
{
    const zero_nn_tile_t part = rows_of(m, tile);
    const int64_t C = m->config.width, V = part.count;
    void *weights = tile ? tile->data : m->head->data;

    for (int64_t v = 0; v < V; v += m->head_columns)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                              .n = V - v < m->head_columns ? V - v : m->head_columns,
                                              .k = C,
                                              .trans_b = true,
                                              .ldc = m->logits_ld,
                                              .dtype = m->options.dtype,
                                              .a = x,
                                              .b = zero_model_at(m, weights, v * C),
                                              .c = zero_model_at(m, m->logits, part.first + v)});
}

/* The head's gradient (V, C) += dlogits^T x, with dlogits (rows, V; logits_ld) in m->logits. With head_sums m->dhead
 * receives it instead, and the first rows overwrite m->dhead. */
static void head_weight_backward(zero_model_t *m, const zero_model_tile_t *tile, const void *x, int64_t rows,
                                 bool first)
{
    const zero_nn_tile_t part = rows_of(m, tile);
    const int64_t C = m->config.width, V = part.count;
    void *grad = tile ? tile->grad : m->head->grad;

    for (int64_t v = 0; v < V; v += m->head_columns)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = V - v < m->head_columns ? V - v : m->head_columns,
                                              .n = C,
                                              .k = rows,
                                              .trans_a = true,
                                              .accumulate = !m->head_sums || !first,
                                              .wide = m->head_sums,
                                              .lda = m->logits_ld,
                                              .dtype = m->options.dtype,
                                              .a = zero_model_at(m, m->logits, part.first + v),
                                              .b = x,
                                              .c = !m->head_sums ? zero_model_at(m, grad, v * C)
                                                   : m->dhead    ? m->dhead + v * C
                                                                 : NULL});
}

void zero_model_head_losses(zero_model_t *m, float *losses, const int32_t *targets, int64_t rows, float scale)
{
    const zero_dtype_t dtype = m->options.dtype;

    if (m->tensor == 1) {
        zero_nn_cross_entropy(m->nn, losses, m->logits, targets, rows, m->config.vocab, m->logits_ld, scale > 0, scale,
                              dtype);
        return;
    }
    const zero_nn_tile_t own = zero_model_own_tokens(m, false);
    float *stats = m->stats ? m->stats + 3 * rows * m->place : NULL;

    zero_nn_cross_entropy_local(m->nn, stats, m->logits, targets, rows, own.first, own.count, m->logits_ld, dtype);
    zero_model_exchange(m, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, stats, m->stats, 3 * rows, ZERO_FP32);
    zero_nn_cross_entropy_combine(m->nn, losses, m->logits, m->stats, m->tensor, targets, rows, own.first, own.count,
                                  m->logits_ld, scale > 0, scale, dtype);
}

/* Products with the tiles but the first are summed in fp32. That with the first one is rounded before it is added to
 * the sum, if the model is not in fp32. */
void zero_model_head_tile(zero_model_t *m, const zero_model_tile_t *tile, void *x, int64_t rows)
{
    const zero_model_tiles_t *tiles = m->head_tiles;
    const int64_t C = m->config.width;
    const bool last = tile == tiles->list;
    const zero_nn_gemm_t product = {.m = rows,
                                    .n = C,
                                    .k = tile->rows.count,
                                    .lda = m->logits_ld,
                                    .dtype = m->options.dtype,
                                    .wide = !last,
                                    .accumulate = !last && tile != tiles->list + tiles->count - 1,
                                    .a = zero_model_at(m, m->logits, tile->rows.first),
                                    .b = tile->data,
                                    .c = last ? x : m->dx_sums};

    if (!zero_model_is_frozen(m))
        head_weight_backward(m, tile, x, rows, true);
    zero_nn_gemm(m->nn, &product);
    if (last)
        zero_nn_add_sums(m->nn, x, m->dx_sums, rows * C, m->options.dtype);
}

void zero_model_head(zero_model_t *m, void *x, float *losses, const int32_t *targets, int64_t rows, float scale)
{
    const int64_t C = m->config.width, V = m->own.vocab, ld = m->logits_ld;
    const zero_dtype_t dtype = m->options.dtype;
    const bool grad = scale > 0;

    for (int64_t r = 0; r < rows; r += m->head_rows) {
        const int64_t n = rows - r < m->head_rows ? rows - r : m->head_rows;
        void *block = zero_model_at(m, x, r * C); /* (n, C) */

        zero_model_head_logits(m, NULL, block, n);
        zero_model_head_losses(m, losses ? losses + r : NULL, targets ? targets + r : NULL, n, scale);
        if (!grad)
            continue;
        if (!zero_model_is_frozen(m))
            head_weight_backward(m, NULL, block, n, r == 0);
        /* This was the last read of the block: dx = dlogits head replaces it. */
        zero_nn_gemm(
            m->nn,
            &(zero_nn_gemm_t){
                .m = n, .n = C, .k = V, .lda = ld, .dtype = dtype, .a = m->logits, .b = m->head->data, .c = block});
    }
    if (grad && m->head_sums)
        zero_nn_add_sums(m->nn, m->head->grad, m->dhead, V * C, dtype);
}
