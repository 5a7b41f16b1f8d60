/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.c - tensor parallelism: what it supports, how ranks split tensors, and what they exchange.
 *
 * Of the first products of attention and MLP, whose inputs are whole, a rank has columns of the output: heads, or
 * hidden elements. The last product of each then reads what the rank has, and its outputs are parts of a sum over
 * ranks. With sequence parallelism the sum is scattered: each rank receives its own rows and computes their residual
 * sums and norms. The first product of the next sublayer gathers the rows of all ranks. Embedding and head are split
 * along the vocabulary. The backward pass mirrors this: the gradient of a gather is a sum that is scattered, and the
 * other way round. */
#include "models/decoder.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- what is supported ------------------------------------------------------------------------------------------ */

static bool divides(const zero_model_config_t *c, int64_t ranks)
{
    return c->heads % ranks == 0 && c->kv_heads % ranks == 0 && c->hidden % ranks == 0 && c->width % ranks == 0;
}

static zero_status_t check_sizes(const zero_model_config_t *c, int ranks, zero_error_t *error)
{
    int64_t below = ranks, above = ranks;

    if (divides(c, ranks))
        return ZERO_OK;
    while (!divides(c, below))
        below--;
    while (above <= c->kv_heads && !divides(c, above))
        above++;
    char other[40] = "";
    if (above <= c->kv_heads)
        snprintf(other, sizeof other, " or %" PRId64, above);
    return zero_fail(error, ZERO_ERR_ARG,
                     "tensor parallelism of %d ranks does not divide the model's %" PRId64 " heads, %" PRId64
                     " heads of keys and values, width %" PRId64 " and hidden width %" PRId64 ": use %" PRId64
                     "%s ranks",
                     ranks, c->heads, c->kv_heads, c->width, c->hidden, below, other);
}

/* Sequence parallelism divides the rows of a micro-batch. */
static zero_status_t check_rows(const char *what, int64_t length, const zero_model_options_t *o, zero_error_t *error)
{
    const int64_t T = o->tensor, B = o->micro_batch;
    int64_t unit = 1; /* of sequences */

    while (unit * length % T != 0)
        unit++;
    if (B % unit == 0)
        return ZERO_OK;
    const int64_t above = (B / unit + 1) * unit;
    char nearest[60];

    if (B < unit)
        snprintf(nearest, sizeof nearest, "%" PRId64, above);
    else
        snprintf(nearest, sizeof nearest, "%" PRId64 " or %" PRId64, B / unit * unit, above);
    return zero_fail(error, ZERO_ERR_ARG,
                     "a micro-batch of %" PRId64 " %s of %" PRId64 " tokens cannot be divided among %" PRId64
                     " ranks of tensor parallelism: use a micro-batch of %s, or whole_rows",
                     B, what, length, T, nearest);
}

zero_status_t zero_model_check_tensor(const zero_model_config_t *c, const zero_model_options_t *o, zero_error_t *error)
{
    zero_status_t status;

    if (o->tensor < 0)
        return zero_fail(error, ZERO_ERR_ARG, "tensor parallelism of %d ranks: use 0 or 1 (none), or more", o->tensor);
    if (o->tensor <= 1)
        return ZERO_OK;
    const bool samples = o->sample_len > 0 && c->encoder_layers > 0;

    if (o->tile_bytes > 0 || o->muon || samples)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "tensor parallelism of %d ranks does not support %s", o->tensor,
                         o->tile_bytes > 0
                             ? "embeddings in tiles: each rank has only a part of them, so use tile_bytes 0"
                         : o->muon ? "ZERO_RULE_MUON, which needs whole matrices: use another rule"
                                   : "samples of a model with an encoder: use sample_len 0");
    if ((status = check_sizes(c, o->tensor, error)) != ZERO_OK || o->whole_rows)
        return status;
    status = check_rows("sequences", o->seq_len / (o->context > 1 ? o->context : 1), o, error);
    return status == ZERO_OK && o->source_len > 0 ? check_rows("sources", o->source_len, o, error) : status;
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

void zero_model_init_tensor(zero_model_t *m)
{
    const int64_t T = m->options.tensor > 1 ? m->options.tensor : 1;

    m->tensor = (int)T;
    m->context = m->options.context > 1 ? m->options.context : 1;
    m->spread = m->spreads = T > 1 && !m->options.whole_rows;
    m->own = m->config;
    m->own.heads /= T;
    m->own.kv_heads /= T;
    m->own.hidden /= T;
    m->own.vocab = (m->own.vocab + T - 1) / T;
    m->own.source_vocab = (m->own.source_vocab + T - 1) / T;
}

zero_status_t zero_model_join(zero_model_t *m, zero_error_t *error)
{
    const int size = zero_axis_size(m->engine, ZERO_AXIS_TENSOR);

    if (size != m->tensor)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a model with options.tensor = %d on an engine with config.mesh.tensor = %d: use the same",
                         m->options.tensor, size);
    if (zero_axis_size(m->engine, ZERO_AXIS_CONTEXT) != m->context)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a model with options.context = %d on an engine with config.mesh.context = %d: use the same",
                         m->options.context, zero_axis_size(m->engine, ZERO_AXIS_CONTEXT));
    m->place = zero_axis_index(m->engine, ZERO_AXIS_TENSOR);
    m->context_place = zero_axis_index(m->engine, ZERO_AXIS_CONTEXT);
    return ZERO_OK;
}

zero_nn_tile_t zero_model_own_tokens(const zero_model_t *m, bool encoder)
{
    const int64_t V = encoder ? m->config.source_vocab : m->config.vocab,
                  most = encoder ? m->own.source_vocab : m->own.vocab, begin = m->place * most,
                  first = begin < V ? begin : V;

    return (zero_nn_tile_t){first, V - first < most ? V - first : most};
}

/* Whether a rank has columns of what a layer's tensor makes. */
static bool is_column(zero_model_role_t role)
{
    switch (role) {
    case ZERO_ROLE_QKV_W:
    case ZERO_ROLE_QKV_B:
    case ZERO_ROLE_Q_W:
    case ZERO_ROLE_K_W:
    case ZERO_ROLE_V_W:
    case ZERO_ROLE_Q_B:
    case ZERO_ROLE_K_B:
    case ZERO_ROLE_V_B:
    case ZERO_ROLE_CROSS_QKV_W:
    case ZERO_ROLE_CROSS_QKV_B:
    case ZERO_ROLE_GATE_W:
    case ZERO_ROLE_UP_W:
    case ZERO_ROLE_GATE_B:
    case ZERO_ROLE_UP_B:
        return true;
    default:
        return false;
    }
}

/* Whether it has rows of it, for its part of the input. */
static bool is_row(zero_model_role_t role)
{
    return role == ZERO_ROLE_PROJ_W || role == ZERO_ROLE_CROSS_PROJ_W || role == ZERO_ROLE_DOWN_W;
}

/* The equal blocks of columns of a tensor. */
static int blocks_of(zero_model_role_t role)
{
    const bool qkv = role == ZERO_ROLE_QKV_W || role == ZERO_ROLE_QKV_B || role == ZERO_ROLE_CROSS_QKV_W ||
                     role == ZERO_ROLE_CROSS_QKV_B;

    return qkv ? 3 : 1;
}

/* The dimension of a layer's tensor that ranks split; -1: none. */
static int split_dim(const zero_model_t *m, const zero_model_tensor_t *t)
{
    const int out = m->family->out_in || t->ndim == 1 ? 0 : 1;

    switch (t->adapter) {
    case ZERO_ADAPTER_A: /* (rank, in) */
        return is_row(t->role) ? 1 : -1;
    case ZERO_ADAPTER_B: /* (out, rank) */
        return is_column(t->role) ? 0 : -1;
    default:
        return is_column(t->role) ? out : is_row(t->role) ? 1 - out : -1;
    }
}

/* Whether the gradients of ranks for a whole tensor are parts of a sum. Each rank has its own heads, whose norms have
 * one weight; adapters have their part of the input or of the output. The others are computed from a rank's rows. */
static bool is_partial(const zero_model_t *m, const zero_model_tensor_t *t)
{
    const bool heads = t->role == ZERO_ROLE_Q_NORM_W || t->role == ZERO_ROLE_K_NORM_W;

    return m->spreads || (t->place == ZERO_PLACE_LAYER && (heads || t->adapter != ZERO_ADAPTER_NONE));
}

void zero_model_split(const zero_model_t *m, const zero_model_tensor_t *t, zero_param_desc_t *desc)
{
    if (m->tensor == 1)
        return;
    if (t->place == ZERO_PLACE_EMBEDDING || t->place == ZERO_PLACE_HEAD)
        desc->split_dim = 0;
    else if (t->place == ZERO_PLACE_LAYER)
        desc->split_dim = split_dim(m, t);
    if (desc->split_dim < 0)
        desc->partial = is_partial(m, t);
    else if (t->place == ZERO_PLACE_LAYER && t->adapter != ZERO_ADAPTER_A)
        desc->split_blocks = blocks_of(t->role);
}

zero_status_t zero_model_find_part(zero_model_t *m, zero_model_param_t *param, zero_error_t *error)
{
    int64_t shape[ZERO_MAX_DIMS];
    const zero_status_t status = zero_model_engine_error(m, zero_param_local(m->engine, param->id, shape), error);

    param->own = 1;
    for (int d = 0; d < ZERO_MAX_DIMS && status == ZERO_OK; d++)
        param->own *= shape[d];
    return status;
}

/* ---- exchange --------------------------------------------------------------------------------------------------- */

void zero_model_exchange(zero_model_t *m, zero_axis_t axis, zero_collective_kind_t kind, const void *send, void *recv,
                         int64_t count, zero_dtype_t dtype)
{
    if ((axis == ZERO_AXIS_TENSOR ? m->tensor : m->context) == 1 || m->exchanged != ZERO_OK || (m->dry && !m->declares))
        return;
    m->exchanged = m->dry ? zero_collective_add(m->engine, m->running, axis, kind, count, dtype)
                          : zero_collective(m->engine, axis, kind, send, recv, count, dtype);
}

void *zero_model_gather(zero_model_t *m, const void *own, int64_t rows)
{
    if (!m->spread)
        return (void *)(uintptr_t)own;
    zero_model_exchange(m, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, own, m->whole,
                        zero_model_own_rows(m, rows) * m->config.width, m->options.dtype);
    return m->whole;
}

void *zero_model_sums(const zero_model_t *m, void *to)
{
    return m->spread ? m->whole : to;
}

void zero_model_reduce(zero_model_t *m, void *to, void *sums, int64_t rows)
{
    zero_model_exchange(m, ZERO_AXIS_TENSOR, m->spread ? ZERO_COLLECTIVE_REDUCE_SCATTER : ZERO_COLLECTIVE_SUM, sums, to,
                        zero_model_own_rows(m, rows) * m->config.width, m->options.dtype);
}
