/* SPDX-License-Identifier: Apache-2.0 */
/* backward.c - the backward pass of a layer. It recomputes the activations that the recompute mode dropped, with the
 * kernels of the forward pass, so every mode gives the same bits. There is one exception: if a GPU computes GELU within
 * a product, the selective mode rounds the input of GELU first and gives other bits. */
#include "models/decoder.h"

/* The gradient of a bias is the sum of its dy over rows. Where a call processes this dy anyway, it adds it up: the
 * activation's gradient writes the dy of the MLP's first linear layer, and attention's gradient may write the dy of
 * queries, keys and values. The gradient of a norm writes the dy of the sublayer before it. The last norm's reads the
 * dy of the last sublayer. */

/* Whether the selective mode has to compute the input of a linear layer again. */
static bool computes_again(const zero_model_t *m, zero_model_linear_id_t id)
{
    return m->options.recompute == ZERO_RECOMPUTE_SELECTIVE && zero_model_reads_input(m, id);
}

/* What sublayer k of layer l reads: its norm's output, recomputed from x in the selective mode. */
static const void *sublayer_input(zero_model_t *m, int64_t l, const zero_model_layer_t *a, zero_sublayer_t k,
                                  const void *x, int64_t rows)
{
    if (computes_again(m, zero_model_first_linear(k))) {
        zero_nn_norm_t norm = zero_model_sublayer_norm(m, l, a, k, rows);

        norm.x = x;
        norm.y = a->norm[k];
        norm.mean = norm.rstd = NULL;
        zero_nn_norm_forward(m->nn, &norm);
    }
    return a->norm[k];
}

/* dx -> the gradient of the MLP's first linear layer's output, which is returned: (rows, F), or (rows, 2 F) in place of
 * gate and up. */
static const void *mlp_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->config;
    const zero_dtype_t dtype = m->options.dtype;
    void *dbias = zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_UP_B));

    if (c->gated) {
        if (computes_again(m, ZERO_LINEAR_DOWN))
            zero_nn_gated_forward(m->nn, c->activation, a->active, a->up, rows, c->hidden, dtype);
        zero_model_linear_backward(m, l, ZERO_LINEAR_DOWN, m->wide, m->dx, a->active, rows);
        zero_nn_gated_backward(m->nn, c->activation, a->up, m->wide, a->up, rows, c->hidden, dtype);
        zero_model_linear_bias(m, l, ZERO_LINEAR_UP, a->up, rows);
        return a->up;
    }
    if (computes_again(m, ZERO_LINEAR_DOWN))
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
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const zero_nn_attention_t attention = zero_model_attention(m, s, a, m->options.micro_batch, s->T);
    const bool rotary = c->rope.theta > 0, direct = !rotary && !c->qk_norm && m->linears[ZERO_LINEAR_QKV].parts == 1;
    void *dqk = c->qk_norm ? m->dqk : m->wide;

    zero_nn_attention_backward(m->nn, &attention, m->narrow, dqk, zero_model_at(m, dqk, keys),
                               zero_model_at(m, m->wide, values),
                               direct ? zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_QKV_B)) : NULL);
    if (rotary) {
        zero_nn_rotary_t turn = zero_model_rotary(m, a, dqk, attention.q_stride, attention.B, attention.T);

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

/* The gradient of a sublayer's output, in dx -> that of its input, in narrow. x: the residual stream before it. */
static void sublayer_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, zero_sublayer_t k, const void *x,
                              int64_t rows)
{
    const void *dy = m->wide;

    if (k == ZERO_SUBLAYER_ATTENTION) {
        zero_model_linear_backward(m, l, ZERO_LINEAR_PROJ, m->narrow, m->dx, a->attention, rows);
        attention_backward(m, l, a, rows);
    } else
        dy = mlp_backward(m, l, a, rows);
    zero_model_linear_backward(m, l, zero_model_first_linear(k), m->narrow, dy, sublayer_input(m, l, a, k, x, rows),
                               rows);
}

void zero_model_layer_backward(zero_model_t *m, int64_t l)
{
    static const zero_model_role_t biases[] = {ZERO_ROLE_PROJ_B, ZERO_ROLE_DOWN_B}; /* behind a sublayer */
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const int64_t B = m->options.micro_batch, rows = B * s->T;
    const zero_model_layer_t *a = &m->layers[l];
    const void *input = s->x[l - s->first];

    if (m->options.recompute == ZERO_RECOMPUTE_FULL)
        zero_model_layer_forward(m, l, a, input, NULL, B, s->T);
    for (int k = ZERO_SUBLAYERS - 1; k >= 0; k--) {
        const void *x = k > 0 ? a->sum[k - 1] : input;
        zero_nn_norm_t norm = zero_model_sublayer_norm(m, l, a, k, rows);

        sublayer_backward(m, l, a, k, x, rows);
        norm.x = x;
        norm.dy = m->narrow;
        norm.dx = m->dx;
        norm.dresidual = m->dx;
        if (k > 0)
            norm.dbias = zero_model_grad(zero_model_role_param(m, l, biases[k - 1]));
        if (k + 1 == ZERO_SUBLAYERS)
            norm.dbias_residual = zero_model_grad(zero_model_role_param(m, l, biases[k]));
        zero_nn_norm_backward(m->nn, &norm);
    }
}
