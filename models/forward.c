/* SPDX-License-Identifier: Apache-2.0 */
/* forward.c - the forward pass of a layer: attention, in a decoder with an encoder attention to its output, and MLP,
 * each with a norm and a residual connection. It computes the same as Hugging Face's model of the family, or as
 * PyTorch's nn.Transformer, without dropout. */
#include "models/decoder.h"

#include <math.h>

zero_nn_attention_t zero_model_attention(const zero_model_t *m, const zero_model_stack_t *s,
                                         const zero_model_layer_t *a, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->own;
    const int64_t D = c->head_dim, keys = c->heads * D, values = keys + c->kv_heads * D;
    void *qk = c->qk_norm ? a->qk : a->qkv;
    const int64_t ld = c->qk_norm ? values : m->qkv_width;

    zero_nn_attention_t attention = {.B = B,
                                     .T = T,
                                     .H = c->heads,
                                     .KV = c->kv_heads,
                                     .D = D,
                                     .causal = !s->encoder,
                                     .ranges = a->cache.length > 0 ? NULL : s->ranges,
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

    if (a->cache.read) {
        attention.causal = false;
        attention.ranges = a->cache.ranges;
        attention.S = a->cache.length;
        attention.k = a->cache.keys;
        attention.v = a->cache.values;
        attention.k_stride = attention.v_stride = c->kv_heads * D;
    } else if (m->context > 1 && a->cache.length == 0) { /* ranges are causal */
        attention.causal = false;
        attention.S = m->options.seq_len;
        attention.k = m->kv;
        attention.v = zero_model_at(m, m->kv, c->kv_heads * D);
        attention.k_stride = attention.v_stride = 2 * c->kv_heads * D;
    }
    return attention;
}

zero_nn_attention_t zero_model_cross_attention(const zero_model_t *m, const zero_model_layer_t *a, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->own;
    const int64_t D = c->head_dim, keys = c->kv_heads * D;
    void *kv = a->cache.length > 0 ? a->cache.cross_kv : a->cross_kv;

    return (zero_nn_attention_t){.B = B,
                                 .T = T,
                                 .S = m->encoder.T,
                                 .H = c->heads,
                                 .KV = c->kv_heads,
                                 .D = D,
                                 .ranges = m->cross_ranges,
                                 .q_stride = c->heads * D,
                                 .k_stride = 2 * keys,
                                 .v_stride = 2 * keys,
                                 .scale = 1.0 / sqrt((double)D),
                                 .dtype = m->options.dtype,
                                 .q = a->cross_q,
                                 .k = kv,
                                 .v = zero_model_at(m, kv, keys),
                                 .out = a->cross_attention,
                                 .lse = a->cross_lse};
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

zero_nn_norm_t zero_model_sublayer_norm(const zero_model_t *m, int64_t l, const zero_model_layer_t *a,
                                        zero_sublayer_t k, int64_t rows)
{
    static const zero_model_role_t w[] = {ZERO_ROLE_NORM1_W, ZERO_ROLE_CROSS_NORM_W, ZERO_ROLE_NORM2_W},
                                   b[] = {ZERO_ROLE_NORM1_B, ZERO_ROLE_CROSS_NORM_B, ZERO_ROLE_NORM2_B};

    return zero_model_norm(m, zero_model_role_param(m, l, w[k]), zero_model_role_param(m, l, b[k]), a->mean[k],
                           a->rstd[k], rows);
}

zero_nn_norm_t zero_model_head_norm(const zero_model_t *m, int64_t l, const zero_model_layer_t *a, bool key,
                                    int64_t rows)
{
    const zero_model_config_t *c = &m->own;
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

zero_nn_rotary_t zero_model_rotary(const zero_model_t *m, const zero_model_layer_t *a, void *x, int64_t ld, int64_t B,
                                   int64_t T)
{
    return (zero_nn_rotary_t){.rows = B * T,
                              .T = T,
                              .heads = m->own.heads + m->own.kv_heads,
                              .D = m->config.head_dim,
                              .ld = ld,
                              .frequencies = m->frequencies,
                              .positions = a->cache.length > 0 ? a->cache.positions : m->positions_in,
                              .dtype = m->options.dtype,
                              .x = x};
}

/* Adds keys, or values, of the call's rows to the cache. */
static void keep(zero_model_t *m, const zero_model_cache_t *cache, void *kept, const void *x, int64_t ld)
{
    zero_nn_put_rows(m->nn, &(zero_nn_put_t){.rows = cache->added,
                                             .C = m->own.kv_heads * m->config.head_dim,
                                             .ldx = ld,
                                             .places = cache->length,
                                             .dtype = m->options.dtype,
                                             .at = cache->positions,
                                             .x = x,
                                             .y = kept});
}

void zero_model_layer_keys(zero_model_t *m, const zero_model_layer_t *a)
{
    const zero_model_config_t *c = &m->own;
    const int64_t keys = c->heads * c->head_dim, values = keys + c->kv_heads * c->head_dim;
    const bool apart = c->qk_norm;

    zero_model_gather_keys(m, zero_model_at(m, apart ? a->qk : a->qkv, keys), apart ? values : m->qkv_width,
                           zero_model_at(m, a->qkv, values), m->qkv_width);
}

/* Queries, keys and values of in, and attention. */
static void attend(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *in, int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->own;
    const zero_nn_attention_t at = zero_model_attention(m, zero_model_stack(m, l), a, B, T);
    const int64_t keys = c->heads * c->head_dim, values = keys + c->kv_heads * c->head_dim;

    zero_model_linear(m, l, ZERO_LINEAR_QKV, a->qkv, in, B * T);
    for (int key = 0; key < 2 && c->qk_norm; key++) {
        const zero_nn_norm_t norm = zero_model_head_norm(m, l, a, key, B * T);

        zero_nn_norm_forward(m->nn, &norm);
    }
    if (c->rope.theta > 0) {
        const zero_nn_rotary_t rotary = zero_model_rotary(m, a, (void *)at.q, at.q_stride, B, T);

        zero_nn_rotary(m->nn, &rotary);
    }
    if (m->context > 1 && a->cache.length == 0)
        zero_model_layer_keys(m, a);
    if (a->cache.length > 0) {
        keep(m, &a->cache, a->cache.keys, zero_model_at(m, (void *)at.q, keys), at.q_stride);
        keep(m, &a->cache, a->cache.values, zero_model_at(m, a->qkv, values), m->qkv_width);
    }
    zero_nn_attention_forward(m->nn, &at);
}

/* Queries of in, keys and values of the encoder's output unless a sample has them, and attention. */
static void attend_to_source(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *in, int64_t B,
                             int64_t T)
{
    const zero_nn_attention_t at = zero_model_cross_attention(m, a, B, T);

    zero_model_linear(m, l, ZERO_LINEAR_CROSS_Q, a->cross_q, in, B * T);
    if (a->cache.length == 0)
        zero_model_linear(m, l, ZERO_LINEAR_CROSS_KV, a->cross_kv, m->encoder.out, B * m->encoder.T);
    zero_nn_attention_forward(m->nn, &at);
}

/* The MLP of in up to its activation. */
static void activate(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *in, int64_t rows)
{
    const zero_model_config_t *c = &m->own;
    const zero_dtype_t dtype = m->options.dtype;

    /* selective: as the backward pass recomputes it */
    if (!c->gated && c->activation == ZERO_NN_GELU_NEW && m->options.recompute != ZERO_RECOMPUTE_SELECTIVE) {
        zero_model_linear_gelu(m, l, ZERO_LINEAR_UP, a->active, a->up, in, rows);
        return;
    }
    zero_model_linear(m, l, ZERO_LINEAR_UP, a->up, in, rows);
    if (c->gated)
        zero_nn_gated_forward(m->nn, c->activation, a->active, a->up, rows, c->hidden, dtype);
    else
        zero_nn_act_forward(m->nn, c->activation, a->active, a->up, rows * c->hidden, dtype);
}

/* Runs a sublayer from in to out; ends: with the last product. */
static void run_sublayer(zero_model_t *m, int64_t l, const zero_model_layer_t *a, zero_sublayer_t k, const void *in,
                         void *out, int64_t B, int64_t T, bool ends)
{
    const void *x = zero_model_gather(m, in, B * T);
    void *y = zero_model_sums(m, out);

    switch (k) {
    case ZERO_SUBLAYER_ATTENTION:
        attend(m, l, a, x, B, T);
        zero_model_linear(m, l, ZERO_LINEAR_PROJ, y, a->attention, B * T);
        break;
    case ZERO_SUBLAYER_CROSS:
        attend_to_source(m, l, a, x, B, T);
        zero_model_linear(m, l, ZERO_LINEAR_CROSS_PROJ, y, a->cross_attention, B * T);
        break;
    default:
        activate(m, l, a, x, B * T);
        if (!ends)
            return;
        zero_model_linear(m, l, ZERO_LINEAR_DOWN, y, a->active, B * T);
    }
    zero_model_reduce(m, out, y, B * T);
}

/* sum (rows, C), the output of a sublayer, becomes its sum with the stream, and y the norm k of this. */
static void add_and_norm(zero_model_t *m, int64_t l, const zero_model_layer_t *a, zero_sublayer_t k, void *sum,
                         const void *stream, void *y, int64_t rows)
{
    zero_nn_norm_t norm = zero_model_sublayer_norm(m, l, a, k, rows);

    norm.x = norm.total = sum;
    norm.residual = stream;
    norm.y = y;
    zero_nn_norm_forward(m->nn, &norm);
}

/* The norms are before the sublayers, so each but the first is computed with the sum before it. ends: with the last
 * product; else there is no out. */
static void forward_pre(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, void *out, int64_t B,
                        int64_t T, bool ends)
{
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const int64_t rows = zero_model_own_rows(m, B * T);
    zero_nn_norm_t first = zero_model_sublayer_norm(m, l, a, s->sublayers[0], rows);
    const void *stream = x;

    first.x = x;
    first.y = a->norm[s->sublayers[0]];
    zero_nn_norm_forward(m->nn, &first);
    for (int i = 0; i < s->sublayer_count; i++) {
        const zero_sublayer_t k = s->sublayers[i];
        const bool last = i + 1 == s->sublayer_count;

        if (i > 0) {
            void *sum = a->sum[s->sublayers[i - 1]];

            add_and_norm(m, l, a, k, sum, stream, a->norm[k], rows);
            stream = sum;
        }
        run_sublayer(m, l, a, k, a->norm[k], last ? out : a->sum[k], B, T, !last || ends);
    }
    if (ends)
        zero_nn_add(m->nn, out, out, stream, rows * m->config.width, m->options.dtype);
}

/* The norms follow the sums. */
static void forward_post(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, void *out, int64_t B,
                         int64_t T)
{
    const zero_model_stack_t *s = zero_model_stack(m, l);
    const void *stream = x;

    for (int i = 0; i < s->sublayer_count; i++) {
        const zero_sublayer_t k = s->sublayers[i];
        void *y = i + 1 < s->sublayer_count ? a->norm[k] : out;

        run_sublayer(m, l, a, k, stream, a->sum[k], B, T, true);
        add_and_norm(m, l, a, k, a->sum[k], stream, y, zero_model_own_rows(m, B * T));
        stream = y;
    }
}

void zero_model_layer_forward(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, void *out,
                              int64_t B, int64_t T)
{
    if (m->config.post_norm)
        forward_post(m, l, a, x, out, B, T);
    else
        forward_pre(m, l, a, x, out, B, T, true);
}

void zero_model_layer_again(zero_model_t *m, int64_t l, const zero_model_layer_t *a, const void *x, int64_t B,
                            int64_t T)
{
    if (m->config.post_norm)
        forward_post(m, l, a, x, m->narrow, B, T);
    else
        forward_pre(m, l, a, x, NULL, B, T, false);
}
