/* SPDX-License-Identifier: Apache-2.0 */
/* backward.c - the backward pass of a layer. It recomputes the activations that the recompute mode dropped, with the
 * kernels of the forward pass, so every mode gives the same bits. There is one exception: if a GPU computes GELU within
 * a product, the selective mode rounds the input of GELU first and gives other bits. */
#include "models/decoder.h"

/* The gradient of a bias is the sum of its dy over rows. Where a call processes this dy anyway, it adds it up: the
 * activation's gradient writes the dy of the MLP's first linear layer, and attention's gradient may write the dy of
 * queries, keys and values. The gradient of a norm writes the dy of the sublayer before it, or with post_norm of its
 * own. Without post_norm, the last norm's reads the dy of the last sublayer. */

/* Whether the selective mode has to compute the input of a linear layer again. */
static bool computes_again(const zero_model_t *m, zero_model_linear_id_t id)
{
    return m->options.recompute == ZERO_RECOMPUTE_SELECTIVE && zero_model_reads_input(m, id);
}

/* What the i-th sublayer of layer l reads: the output of a norm, which the selective mode recomputes, or the layer's
 * input. */
static const void *sublayer_input(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int i, int64_t rows)
{
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const void *x = s->x[l - s->first];
    const int n = m->config.post_norm ? i - 1 : i; /* whose norm */

    if (n < 0)
        return x;
    if (computes_again(m, zero_model_first_linear(s->sublayers[i]))) {
        zero_nn_norm_t norm = zero_model_sublayer_norm(m, l, a, s->sublayers[n], rows);

        norm.x = i > 0 ? a->sum[s->sublayers[i - 1]] : x;
        norm.y = a->norm[s->sublayers[n]];
        norm.mean = norm.rstd = NULL;
        zero_nn_norm_forward(m->nn, &norm);
    }
    return a->norm[s->sublayers[n]];
}

/* dy, the gradient of the MLP's output -> that of its first linear layer's output, which is returned: (rows, F), or
 * (rows, 2 F) in place of gate and up. */
static const void *mlp_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *dy, int64_t rows)
{
    const zero_model_config_t *c = &m->own;
    const zero_dtype_t dtype = m->options.dtype;
    void *dbias = zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_UP_B));

    if (c->gated) {
        if (computes_again(m, ZERO_LINEAR_DOWN))
            zero_nn_gated_forward(m->nn, c->activation, a->active, a->up, rows, c->hidden, dtype);
        zero_model_linear_backward(m, l, ZERO_LINEAR_DOWN, m->wide, dy, a->active, rows);
        zero_nn_gated_backward(m->nn, c->activation, a->up, m->wide, a->up, rows, c->hidden, dtype);
        zero_model_linear_bias(m, l, ZERO_LINEAR_UP, a->up, rows);
        return a->up;
    }
    if (computes_again(m, ZERO_LINEAR_DOWN))
        zero_nn_act_forward(m->nn, c->activation, a->active, a->up, rows * c->hidden, dtype);
    if (c->activation == ZERO_NN_GELU_NEW)
        zero_model_linear_gelu_backward(m, l, ZERO_LINEAR_DOWN, m->wide, dy, a->active, a->up, dbias, rows);
    else {
        zero_model_linear_backward(m, l, ZERO_LINEAR_DOWN, m->wide, dy, a->active, rows);
        zero_nn_act_backward(m->nn, c->activation, m->wide, dbias, m->wide, a->up, rows, c->hidden, dtype);
    }
    return m->wide;
}

/* The gradient of attention's output, in narrow, -> that of queries, keys and values, in wide. */
static void attention_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->own;
    const int64_t keys = c->heads * c->head_dim, values = keys + c->kv_heads * c->head_dim;
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const zero_nn_attention_t attention = zero_model_attention(m, s, a, m->options.micro_batch, s->T);
    const bool rotary = c->rope.theta > 0, apart = m->context > 1,
               direct = !rotary && !c->qk_norm && m->linears[ZERO_LINEAR_QKV].parts == 1 && !apart;
    void *dqk = c->qk_norm ? m->dqk : m->wide, *dk = zero_model_at(m, dqk, keys),
         *dv = zero_model_at(m, m->wide, values);

    if (apart && m->options.recompute != ZERO_RECOMPUTE_FULL) /* else they have just been gathered */
        zero_model_layer_keys(m, a);
    zero_nn_attention_backward(m->nn, &attention, m->narrow, dqk, apart ? m->dkv : dk,
                               apart ? zero_model_at(m, m->dkv, values - keys) : dv,
                               direct ? zero_model_grad(zero_model_role_param(m, l, ZERO_ROLE_QKV_B)) : NULL);
    if (apart)
        zero_model_reduce_keys(m, dk, attention.q_stride, dv, m->qkv_width);
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

/* The gradient of the attention's output, in narrow, -> that of queries, in wide, and of keys and values, in dkv. Adds
 * to that of the encoder's output; the last layer, which is the first here, writes it. */
static void cross_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int64_t rows)
{
    const zero_model_config_t *c = &m->own;
    const int64_t B = m->options.micro_batch, keys = c->kv_heads * c->head_dim, sources = B * m->encoder.T;
    const zero_nn_attention_t attention = zero_model_cross_attention(m, a, B, m->decoder.T);
    const bool first = l + 1 == m->decoder.first + m->decoder.layers;

    zero_nn_attention_backward(m->nn, &attention, m->narrow, m->wide, m->dkv, zero_model_at(m, m->dkv, keys), NULL);
    zero_model_linear_bias(m, l, ZERO_LINEAR_CROSS_Q, m->wide, rows);
    zero_model_linear_bias(m, l, ZERO_LINEAR_CROSS_KV, m->dkv, sources);
    (first ? zero_model_linear_backward : zero_model_linear_backward_add)(m, l, ZERO_LINEAR_CROSS_KV, m->encoder.dout,
                                                                          m->dkv, m->encoder.out, sources);
}

/* The gradient of the i-th sublayer's output, in dx -> that of its input: in narrow, or with post_norm added to dx. If
 * ranks have parts of it, both products read the rows of all ranks, and narrow is a part of a sum at first. Returns
 * where this rank's rows are in narrow. */
static void *sublayer_backward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, int i, int64_t rows)
{
    const zero_sublayer_t k = zero_model_stack(m, l)->sublayers[i];
    const zero_model_linear_id_t id = zero_model_first_linear(k);
    const int64_t own = zero_model_own_rows(m, rows);
    const void *dy = zero_model_gather(m, m->dx, rows);

    switch (k) {
    case ZERO_SUBLAYER_ATTENTION:
        zero_model_linear_backward(m, l, ZERO_LINEAR_PROJ, m->narrow, dy, a->attention, rows);
        attention_backward(m, l, a, rows);
        dy = m->wide;
        break;
    case ZERO_SUBLAYER_CROSS:
        zero_model_linear_backward(m, l, ZERO_LINEAR_CROSS_PROJ, m->narrow, dy, a->cross_attention, rows);
        cross_backward(m, l, a, rows);
        dy = m->wide;
        break;
    default:
        dy = mlp_backward(m, l, a, dy, rows);
    }
    const void *x = sublayer_input(m, l, a, i, own);

    if (zero_model_reads_input(m, id))
        x = zero_model_gather(m, x, rows);
    if (m->config.post_norm && m->tensor == 1) {
        zero_model_linear_backward_add(m, l, id, m->dx, dy, x, rows);
        return m->narrow;
    }
    void *part = zero_model_part(m, m->narrow, rows);

    zero_model_linear_backward(m, l, id, m->narrow, dy, x, rows);
    zero_model_reduce(m, part, m->narrow, rows);
    if (m->config.post_norm)
        zero_nn_add(m->nn, m->dx, m->dx, part, own * m->config.width, m->options.dtype);
    return part;
}

/* The gradient of the bias that a sublayer ends with. */
static void *last_bias(const zero_model_t *m, int64_t l, zero_sublayer_t k)
{
    static const zero_model_role_t roles[] = {ZERO_ROLE_PROJ_B, ZERO_ROLE_CROSS_PROJ_B, ZERO_ROLE_DOWN_B};

    return zero_model_grad(zero_model_role_param(m, l, roles[k]));
}

void zero_model_layer_backward(zero_model_t *m, int64_t l)
{
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const int64_t B = m->options.micro_batch, rows = B * s->T;
    const zero_model_layer_t *a = &m->layers[l];
    const void *input = s->x[l - s->first];
    const bool post = m->config.post_norm;
    const int last = s->sublayer_count - 1;

    if (m->options.recompute == ZERO_RECOMPUTE_FULL)
        zero_model_layer_again(m, l, a, input, B, s->T);
    for (int i = last; i >= 0; i--) {
        const zero_sublayer_t k = s->sublayers[i];
        zero_nn_norm_t norm = zero_model_sublayer_norm(m, l, a, k, zero_model_own_rows(m, rows));

        norm.dx = m->dx;
        if (post) {
            norm.x = a->sum[k];
            norm.dy = m->dx;
            norm.dbias = last_bias(m, l, k);
            zero_nn_norm_backward(m->nn, &norm);
            sublayer_backward(m, l, a, i, rows);
            continue;
        }
        norm.dy = sublayer_backward(m, l, a, i, rows);
        norm.x = i > 0 ? a->sum[s->sublayers[i - 1]] : input;
        norm.dresidual = m->dx;
        norm.dbias = i > 0 ? last_bias(m, l, s->sublayers[i - 1]) : NULL;
        norm.dbias_residual = i == last ? last_bias(m, l, k) : NULL;
        zero_nn_norm_backward(m->nn, &norm);
    }
}
