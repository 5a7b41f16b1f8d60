/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - the forward pass of a layer: norm, attention, norm, MLP, each pair behind its residual connection. It
 * computes the same as Hugging Face's model of the family, without dropout. */
#include "models/decoder.h"

#include <math.h>

zero_nn_attention_t zero_model_attention(const zero_model_t *m, const zero_model_layer_t *a, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->config;
    const int64_t D = c->head_dim, keys = c->heads * D, values = keys + c->kv_heads * D;
    void *qk = c->qk_norm ? a->qk : a->qkv;
    const int64_t ld = c->qk_norm ? values : m->qkv_width;

    return (zero_nn_attention_t){.B = B,
                                 .T = T,
                                 .H = c->heads,
                                 .KV = c->kv_heads,
                                 .D = D,
                                 .causal = true,
                                 .ranges = m->ranges,
                                 .q_stride = ld,
                                 .k_stride = ld,
                                 .v_stride = m->qkv_width,
                                 .scale = 1.0 / sqrt((double)D),
                                 .dtype = m->options.dtype,
                                 .q = qk,
                                 .k = zero_model_at(m, qk, keys),
                                 .v = zero_model_at(m, a->qkv, values),
                                 .out = a->attention,
                                 .lse = a->lse};
}

zero_nn_norm_t zero_model_norm(const zero_model_t *m, const zero_model_param_t *w, const zero_model_param_t *b,
                               float *mean, float *rstd, int64_t rows)
{
    return (zero_nn_norm_t){.rows = rows,
                            .C = m->config.width,
                            .eps = m->config.norm_eps,
                            .dtype = m->options.dtype,
                            .rms = m->config.norm == ZERO_MODEL_RMS_NORM,
                            .w = zero_model_weight(w),
                            .b = zero_model_weight(b),
                            .dw = zero_model_grad(w),
                            .db = zero_model_grad(b),
                            .mean = mean,
                            .rstd = rstd};
}

zero_nn_norm_t zero_model_head_norm(const zero_model_t *m, int64_t l, const zero_model_layer_t *a, bool key,
                                    int64_t rows)
{
    const zero_model_config_t *c = &m->config;
    const zero_model_param_t *w = zero_model_role_param(m, l, key ? ZERO_ROLE_K_NORM_W : ZERO_ROLE_Q_NORM_W);
    const int64_t at = key ? c->heads * c->head_dim : 0;

    return (zero_nn_norm_t){.rows = rows,
                            .C = c->head_dim,
                            .groups = key ? c->kv_heads : c->heads,
                            .ldx = m->qkv_width,
                            .ldy = (c->heads + c->kv_heads) * c->head_dim,
                            .eps = c->norm_eps,
                            .dtype = m->options.dtype,
                            .rms = true,
                            .x = zero_model_at(m, a->qkv, at),
                            .y = zero_model_at(m, a->qk, at),
                            .w = zero_model_weight(w),
                            .dw = zero_model_grad(w),
                            .rstd = key ? a->rstd_k : a->rstd_q};
}

zero_nn_rotary_t zero_model_rotary(const zero_model_t *m, void *x, int64_t ld, int64_t B, int64_t T)
{
    return (zero_nn_rotary_t){.rows = B * T,
                              .T = T,
                              .heads = m->config.heads + m->config.kv_heads,
                              .D = m->config.head_dim,
                              .ld = ld,
                              .frequencies = m->frequencies,
                              .positions = m->positions_in,
                              .dtype = m->options.dtype,
                              .x = x};
}

/* Queries, keys and values of norm1's output. */
static void project(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->config;
    const zero_nn_attention_t at = zero_model_attention(m, a, B, T);

    zero_model_linear(m, l, ZERO_LINEAR_QKV, a->qkv, a->norm1, B * T);
    for (int key = 0; key < 2 && c->qk_norm; key++) {
        const zero_nn_norm_t norm = zero_model_head_norm(m, l, a, key, B * T);

        zero_nn_norm_forward(m->nn, &norm);
    }
    if (c->rope.theta > 0) {
        const zero_nn_rotary_t rotary = zero_model_rotary(m, (void *)at.q, at.q_stride, B, T);

        zero_nn_rotary(m->nn, &rotary);
    }
}

/* The MLP up to its activation. */
static void activate(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->config;
    const zero_dtype_t dtype = m->options.dtype;

    /* selective: as the backward pass recomputes it */
    if (!c->gated && c->activation == ZERO_NN_GELU_NEW && m->options.recompute != ZERO_RECOMPUTE_SELECTIVE) {
        zero_model_linear_gelu(m, l, ZERO_LINEAR_UP, a->active, a->up, a->norm2, rows);
        return;
    }
    zero_model_linear(m, l, ZERO_LINEAR_UP, a->up, a->norm2, rows);
    if (c->gated)
        zero_nn_gated_forward(m->nn, c->activation, a->active, a->up, rows, c->hidden, dtype);
    else
        zero_nn_act_forward(m->nn, c->activation, a->active, a->up, rows * c->hidden, dtype);
}

void zero_model_layer_forward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, void *out,
                              int64_t B, int64_t T)
{
    const int64_t rows = B * T;
    const zero_nn_attention_t attention = zero_model_attention(m, a, B, T);
    zero_nn_norm_t norm = zero_model_norm(m, zero_model_role_param(m, l, ZERO_ROLE_NORM1_W),
                                          zero_model_role_param(m, l, ZERO_ROLE_NORM1_B), a->mean1, a->rstd1, rows);

    norm.x = x;
    norm.y = a->norm1;
    zero_nn_norm_forward(m->nn, &norm);
    project(m, l, a, B, T);
    zero_nn_attention_forward(m->nn, &attention);
    zero_model_linear(m, l, ZERO_LINEAR_PROJ, a->mid, a->attention, rows);
    norm = zero_model_norm(m, zero_model_role_param(m, l, ZERO_ROLE_NORM2_W),
                           zero_model_role_param(m, l, ZERO_ROLE_NORM2_B), a->mean2, a->rstd2, rows);
    norm.x = a->mid;
    norm.residual = x;
    norm.total = a->mid;
    norm.y = a->norm2;
    zero_nn_norm_forward(m->nn, &norm);
    activate(m, l, a, rows);
    if (out == NULL && !m->dry)
        return;
    zero_model_linear(m, l, ZERO_LINEAR_DOWN, out, a->active, rows);
    zero_nn_add(m->nn, out, out, a->mid, rows * m->config.width, m->options.dtype);
}
