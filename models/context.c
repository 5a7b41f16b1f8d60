/* SPDX-License-Identifier: Apache-2.0 */
/* context.c - context parallelism: ranks have parts of the same sequences, for sequences that one rank cannot hold.
 *
 * A sequence is cut into twice as many chunks as there are ranks. Rank c has chunk c and, counted from the end, chunk c
 * again: of causal attention, whose later rows see more keys, all ranks then have the same work. Only attention needs
 * other rows: it gathers the keys and values of all ranks. The backward pass gathers them once more, so that a layer
 * keeps only its own, and sums the gradients of keys and values where their rows are. Everything else works on a rank's
 * own rows, with their positions in the sequence. */
#include "models/decoder.h"

#include <inttypes.h>

zero_status_t zero_model_check_context(const zero_model_config_t *c, const zero_model_options_t *o, zero_error_t *error)
{
    const int64_t unit = 2 * (int64_t)o->context;

    if (o->context < 0)
        return zero_fail(error, ZERO_ERR_ARG, "context parallelism of %d ranks: use 0 or 1 (none), or more",
                         o->context);
    if (o->context <= 1)
        return ZERO_OK;
    if (c->encoder_layers > 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "context parallelism of %d ranks does not support a model with an encoder: use context 1",
                         o->context);
    if (o->seq_len % unit != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "sequences of %" PRId64
                         " tokens cannot be cut into two chunks for each of %d ranks of context "
                         "parallelism: use a multiple of %" PRId64 ", such as %" PRId64,
                         o->seq_len, o->context, unit, (o->seq_len / unit + 1) * unit);
    return ZERO_OK;
}

int64_t zero_model_position(const zero_model_t *m, int rank, int64_t t)
{
    const int64_t chunk = m->decoder.T / 2;

    return m->context == 1 ? t : t < chunk ? rank * chunk + t : (2 * m->context - 2 - rank) * chunk + t;
}

void zero_model_list_rows(zero_model_t *m)
{
    const int64_t B = m->options.micro_batch, T = m->decoder.T, rows = B * T;

    for (int64_t i = 0; i < m->context * rows && m->context > 1; i++) {
        const int64_t sequence = i % rows / T;

        m->row_of[i] = (int32_t)(sequence * m->context * T + zero_model_position(m, (int)(i / rows), i % T));
        if (i < rows)
            m->row[i] = (int32_t)i;
    }
}

/* The columns of keys and of values in a row of both. */
static int64_t keys_of(const zero_model_t *m)
{
    return m->own.kv_heads * m->config.head_dim;
}

/* This rank's part of m->kv_parts. */
static void *own_part(const zero_model_t *m, int64_t rows)
{
    return zero_model_at(m, m->kv_parts, m->context_place * rows * 2 * keys_of(m));
}

/* Copies rows of n columns. at: where each goes in y (places, n). */
static void put(zero_model_t *m, int64_t rows, int64_t n, const void *x, int64_t ldx, void *y, int64_t ldy,
                const int32_t *at, int64_t places)
{
    zero_nn_put_rows(m->nn, &(zero_nn_put_t){.rows = rows,
                                             .C = n,
                                             .ldx = ldx,
                                             .ldy = ldy,
                                             .places = places,
                                             .dtype = m->options.dtype,
                                             .at = at,
                                             .x = x,
                                             .y = y});
}

void zero_model_gather_keys(zero_model_t *m, const void *k, int64_t k_stride, const void *v, int64_t v_stride)
{
    const int64_t n = keys_of(m), rows = m->options.micro_batch * m->decoder.T;
    void *own = own_part(m, rows);

    put(m, rows, n, k, k_stride, own, 2 * n, m->row, rows);
    put(m, rows, n, v, v_stride, zero_model_at(m, own, n), 2 * n, m->row, rows);
    zero_model_exchange(m, ZERO_AXIS_CONTEXT, ZERO_COLLECTIVE_GATHER, own, m->kv_parts, rows * 2 * n, m->options.dtype);
    put(m, m->context * rows, 2 * n, m->kv_parts, 2 * n, m->kv, 2 * n, m->row_of, m->context * rows);
}

void zero_model_reduce_keys(zero_model_t *m, void *dk, int64_t dk_stride, void *dv, int64_t dv_stride)
{
    const int64_t n = keys_of(m), rows = m->options.micro_batch * m->decoder.T;
    void *own = own_part(m, rows);

    zero_nn_embedding_forward(m->nn, m->kv_parts, m->row_of, m->dkv, NULL, 1, m->context * rows, 2 * n,
                              m->options.dtype);
    zero_model_exchange(m, ZERO_AXIS_CONTEXT, ZERO_COLLECTIVE_REDUCE_SCATTER, m->kv_parts, own, rows * 2 * n,
                        m->options.dtype);
    put(m, rows, n, own, 2 * n, dk, dk_stride, m->row, rows);
    put(m, rows, n, zero_model_at(m, own, n), 2 * n, dv, dv_stride, m->row, rows);
}
