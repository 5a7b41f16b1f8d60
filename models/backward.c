/* SPDX-License-Identifier: Apache-2.0 */
/* backward.c - the backward pass of a layer. It recomputes the activations that the recompute mode dropped, with the
 * kernels of the forward pass, so every mode gives the same bits. There is one exception: if a GPU computes GELU within
 * a product, the selective mode rounds the input of GELU first and gives other bits. */
#include "models/decoder.h"

/* The gradient of a bias is the sum of its dy over rows. Where a call processes this dy anyway, it adds it up: the
 * activation's gradient writes the dy of the MLP's first linear layer, and attention's gradient may write the dy of
 * queries, keys and values. Norm 2's gradient writes the dy of attention's projection and reads the dy of the MLP's. */

static void recompute_norm(zero_model_t *m, int64_t l, void *y, const void *x, zero_model_role_t w, zero_model_role_t b,
                           int64_t rows)
{
    zero_nn_norm_t norm =
        zero_model_norm(m, zero_model_role_param(m, l, w), zero_model_role_param(m, l, b), NULL, NULL, rows);

    norm.x = x;
    norm.y = y;
    zero_nn_norm_forward(m->nn, &norm);
}

/* dx -> the gradient of the MLP's first linear layer's output, which is returned: (rows, F), or (rows, 2 F) in place of
 * gate and up. */
static const void *mlp_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->config;
    const zero_dtype_t dtype = m->options.dtype;
    void *dbias = zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_UP_B));

    if (c->gated) {
        if (m->options.recompute == ZERO_RECOMPUTE_SELECTIVE)
            zero_nn_gated_forward(m->nn, c->activation, a->active, a->up, rows, c->hidden, dtype);
        zero_model_linear_backward(m, l, ZERO_LINEAR_DOWN, m->wide, m->dx, a->active, rows);
        zero_nn_gated_backward(m->nn, c->activation, a->up, m->wide, a->up, rows, c->hidden, dtype);
        zero_model_linear_bias(m, l, ZERO_LINEAR_UP, a->up, rows);
        return a->up;
    }
    if (m->options.recompute == ZERO_RECOMPUTE_SELECTIVE)
        zero_nn_act_forward(m->nn, c->activation, a->active, a->up, rows * c->hidden, dtype);
    if (c->activation == ZERO_NN_GELU_NEW)
        zero_model_linear_gelu_backward(m, l, ZERO_LINEAR_DOWN, m->wide, m->dx, a->active, a->up, dbias, rows);
    else {
        zero_model_linear_backward(m, l, ZERO_LINEAR_DOWN, m->wide, m->dx, a->active, rows);
        zero_nn_act_backward(m->nn, c->activation, m->wide, dbias, m->wide, a->up, rows, c->hidden, dtype);
    }
    return m->wide;
}

/* The gradient of attention's output, in narrow, -> that of queries, keys and values, in wide. */
static void attention_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->config;
    const int64_t keys = c->heads * c->head_dim, values = keys + c->kv_heads * c->head_dim;
    const zero_nn_attention_t attention = zero_model_attention(m, a, m->options.micro_batch, m->options.seq_len);
    const bool rotary = c->rope.theta > 0, direct = !rotary && !c->qk_norm && m->linears[ZERO_LINEAR_QKV].parts == 1;
    void *dqk = c->qk_norm ? m->dqk : m->wide;

    zero_nn_attention_backward(m->nn, &attention, m->narrow, dqk, zero_model_at(m, dqk, keys),
                               zero_model_at(m, m->wide, values),
                               direct ? zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_QKV_B)) : NULL);
    if (rotary) {
        zero_nn_rotary_t turn =
            zero_model_rotary(m, dqk, attention.q_stride, m->options.micro_batch, m->options.seq_len);

        turn.backward = true;
        zero_nn_rotary(m->nn, &turn);
    }
    for (int key = 0; key < 2 && c->qk_norm; key++) {
        zero_nn_norm_t norm = zero_model_head_norm(m, l, a, key, rows);

        norm.dy = zero_model_at(m, m->dqk, key ? keys : 0);
        norm.dx = zero_model_at(m, m->wide, key ? keys : 0);
        zero_nn_norm_backward(m->nn, &norm);
    }
    if (!direct)
        zero_model_linear_bias(m, l, ZERO_LINEAR_QKV, m->wide, rows);
}

void zero_model_layer_backward(zero_model_t *m, int64_t l)
{
    const int64_t B = m->options.micro_batch, T = m->options.seq_len, rows = B * T;
    const bool selective = m->options.recompute == ZERO_RECOMPUTE_SELECTIVE;
    const zero_model_layer_t *a = &m->layers[l];
    zero_nn_norm_t norm;

    if (m->options.recompute == ZERO_RECOMPUTE_FULL)
        zero_model_layer_forward(m, l, a, m->x[l], NULL, B, T);

    /* MLP: dx -> dup -> dnorm2 (in narrow) -> + dx */
    const void *dup = mlp_backward(m, l, a, rows);

    if (selective)
        recompute_norm(m, l, a->norm2, a->mid, ZERO_ROLE_NORM2_W, ZERO_ROLE_NORM2_B, rows);
    zero_model_linear_backward(m, l, ZERO_LINEAR_UP, m->narrow, dup, a->norm2, rows);
    norm = zero_model_norm(m, zero_model_role_param(m, l, ZERO_ROLE_NORM2_W),
                           zero_model_role_param(m, l, ZERO_ROLE_NORM2_B), a->mean2, a->rstd2, rows);
    norm.x = a->mid;
    norm.dy = m->narrow;
    norm.dx = m->dx;
    norm.dresidual = m->dx;
    norm.dbias = zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_PROJ_B));
    norm.dbias_residual = zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_DOWN_B));
    zero_nn_norm_backward(m->nn, &norm);

    /* attention: dx -> dattention (in narrow) -> dqkv (in wide) -> dnorm1 (in narrow) -> + dx */
    zero_model_linear_backward(m, l, ZERO_LINEAR_PROJ, m->narrow, m->dx, a->attention, rows);
    attention_backward(m, l, a, rows);
    if (selective)
        recompute_norm(m, l, a->norm1, m->x[l], ZERO_ROLE_NORM1_W, ZERO_ROLE_NORM1_B, rows);
    zero_model_linear_backward(m, l, ZERO_LINEAR_QKV, m->narrow, m->wide, a->norm1, rows);
    norm = zero_model_norm(m, zero_model_role_param(m, l, ZERO_ROLE_NORM1_W),
                           zero_model_role_param(m, l, ZERO_ROLE_NORM1_B), a->mean1, a->rstd1, rows);
    norm.x = m->x[l];
    norm.dy = m->narrow;
    norm.dx = m->dx;
    norm.dresidual = m->dx;
    zero_nn_norm_backward(m->nn, &norm);
}
