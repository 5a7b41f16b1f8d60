/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - the placement of a model's buffers. Buffers that only kernels access are in device memory. Buffers
 * that the host also accesses are in memory that both reach. */
#include "models/decoder.h"

typedef struct carve {
    char *base;
    uint64_t used;
    bool ok;
} carve_t;

static void *take(carve_t *c, int64_t rows, int64_t columns, size_t element)
{
    uint64_t bytes, at = c->used;

    c->ok = c->ok && zero_mul_u64((uint64_t)rows, (uint64_t)columns, &bytes) && zero_mul_u64(bytes, element, &bytes) &&
            zero_round_up(bytes, ZERO_ALIGN_BYTES, &bytes) && zero_add_u64(c->used, bytes, &c->used);
    return c->ok && c->base ? c->base + at : NULL;
}

/* Whether layers keep the input of a linear layer for the backward pass. */
static bool keeps_input(const zero_model_t *m, zero_model_linear_id_t id)
{
    return m->options.recompute != ZERO_RECOMPUTE_SELECTIVE && zero_model_reads_input(m, id);
}

/* Whether layers keep the output of a sublayer's norm. */
static bool keeps_norm(const zero_model_t *m, zero_sublayer_t k)
{
    return m->config.post_norm ? m->options.recompute != ZERO_RECOMPUTE_SELECTIVE
                               : keeps_input(m, zero_model_first_linear(k));
}

/* What the norm and the sum of the i-th sublayer of a layer keep. */
static void take_sublayer(zero_model_t *m, carve_t *c, const zero_model_stack_t *s, zero_model_layer_t *a, int i,
                          int64_t n)
{
    const zero_model_layer_t *first = &m->layers[s->first];
    const zero_sublayer_t k = s->sublayers[i];
    const int64_t C = m->config.width;
    const size_t e = m->element, f = sizeof(float);
    const bool post = m->config.post_norm, last = i + 1 == s->sublayer_count;

    /* Outputs of norms that are not kept have one place for all layers, and one together. With post_norm each has its
     * own, because it is in use until the next. */
    int shared = post ? i : 0;

    while (!post && shared < i && keeps_norm(m, s->sublayers[shared]))
        shared++;
    a->mean[k] = m->config.norm == ZERO_MODEL_LAYER_NORM ? take(c, n, 1, f) : NULL;
    a->rstd[k] = take(c, n, 1, f);
    a->sum[k] = last && !post ? NULL : take(c, n, C, e);
    a->norm[k] = last && post                                      ? NULL
                 : keeps_norm(m, k) || (a == first && shared == i) ? take(c, n, C, e)
                                                                   : first->norm[s->sublayers[shared]];
}

/* The buffers of layer l of a stack for n rows. Some of them are those of the stack's first layer. */
static void take_layer(zero_model_t *m, carve_t *c, const zero_model_stack_t *s, int64_t l, int64_t n)
{
    const zero_model_config_t *g = &m->config;
    const int64_t H = g->heads, KV = g->kv_heads, D = g->head_dim, sources = m->options.micro_batch * m->encoder.T;
    const size_t e = m->element, f = sizeof(float);
    const bool cross = s->sublayers[1] == ZERO_SUBLAYER_CROSS;
    zero_model_layer_t *a = &m->layers[l], *first = &m->layers[s->first];

    if (a != first && m->options.recompute == ZERO_RECOMPUTE_FULL) {
        *a = *first;
        return;
    }
    for (int i = 0; i < s->sublayer_count; i++)
        take_sublayer(m, c, s, a, i, n);
    a->qkv = take(c, n, m->qkv_width, e);
    a->qk = g->qk_norm ? take(c, n, (H + KV) * D, e) : NULL;
    a->rstd_q = g->qk_norm ? take(c, n, H, f) : NULL;
    a->rstd_k = g->qk_norm ? take(c, n, KV, f) : NULL;
    a->attention = take(c, n, H * D, e);
    a->lse = take(c, n, H, f);
    a->cross_q = cross ? take(c, n, H * D, e) : NULL;
    a->cross_kv = cross ? take(c, sources, 2 * KV * D, e) : NULL;
    a->cross_attention = cross ? take(c, n, H * D, e) : NULL;
    a->cross_lse = cross ? take(c, n, H, f) : NULL;
    a->up = take(c, n, m->up_width, e);
    a->active = a == first || keeps_input(m, ZERO_LINEAR_DOWN) ? take(c, n, g->hidden, e) : first->active;
}

/* The residual stream and the layers of a stack, for n rows. */
static void take_stack(zero_model_t *m, zero_model_stack_t *s, carve_t *c, carve_t *h, int64_t n)
{
    const int64_t C = m->config.width, L = s->layers;
    const bool offload = m->options.offload_activations, untrained = m->options.untrained;
    const size_t e = m->element, f = sizeof(float);

    for (int64_t l = 0; l <= L; l++)
        s->x[l] = untrained && l > 0 ? s->x[0] : offload && l >= 2 ? s->x[l - 2] : take(c, n, C, e);
    for (int64_t l = 0; offload && l < L - 1; l++) /* the last layer's input stays in x */
        m->kept[s->first + l] = take(h, n, C, e);
    for (int64_t l = 0; l < L; l++)
        take_layer(m, c, s, s->first + l, n);
    s->mean = m->config.norm == ZERO_MODEL_LAYER_NORM ? take(c, n, 1, f) : NULL;
    s->rstd = take(c, n, 1, f);
    s->tokens = take(h, m->places, n, sizeof(int32_t));
    s->ranges = m->options.packed || s->encoder ? take(h, n, 2, sizeof(int32_t)) : NULL;
}

/* The encoder, and what the decoder needs for it. rows: of the decoder. */
static void take_encoder(zero_model_t *m, carve_t *c, carve_t *h, int64_t rows)
{
    const int64_t C = m->config.width, sources = m->options.micro_batch * m->encoder.T;
    const bool trained = !m->options.untrained;
    const size_t e = m->element;

    take_stack(m, &m->encoder, c, h, sources);
    m->encoder.out = take(c, sources, C, e);
    m->encoder.dout = trained ? take(c, sources, C, e) : NULL;
    m->dkv = trained ? take(c, sources, 2 * m->config.kv_heads * m->config.head_dim, e) : NULL;
    m->cross_ranges = take(h, rows, 2, sizeof(int32_t));
}

bool zero_model_layout(zero_model_t *m, void *device, void *host, uint64_t *device_bytes, uint64_t *host_bytes)
{
    const zero_model_options_t *o = &m->options;
    const zero_model_config_t *g = &m->config;
    const int64_t C = g->width, F = g->hidden, Q = m->qkv_width, A = g->heads * g->head_dim;
    const int64_t rows = o->micro_batch * o->seq_len, sources = o->micro_batch * m->encoder.T,
                  both = rows > sources ? rows : sources;
    const int64_t weight = zero_model_gathered(m, false), bias = zero_model_gathered(m, true),
                  low = zero_model_adapters_width(m), waves = zero_model_longest(m);
    const size_t e = m->element, f = sizeof(float);
    carve_t c = {device, 0, true}, h = {host, 0, true};

    if (m->encoder.layers > 0)
        take_encoder(m, &c, &h, rows);
    take_stack(m, &m->decoder, &c, &h, rows);
    m->logits = take(&c, m->head_rows, m->logits_ld, e);
    m->dhead = m->head_sums ? take(&c, m->config.vocab, C, f) : NULL;
    m->dx_sums = m->head_tiles->count > 0 && !o->untrained ? take(&c, m->head_rows, C, f) : NULL;
    m->dx = o->untrained ? NULL : take(&c, both, C, e);
    m->narrow = take(&c, both, C > A ? C : A, e);
    m->decoder.out = m->decoder.dout = m->narrow;
    m->wide = o->untrained ? NULL : take(&c, both, F > Q ? F : Q, e);
    m->dqk = g->qk_norm && !o->untrained ? take(&c, rows, Q - g->kv_heads * g->head_dim, e) : NULL;
    m->low = low > 0 ? take(&c, rows, low, e) : NULL;
    m->dlow = low > 0 && !o->untrained ? take(&c, rows, low, e) : NULL;
    m->waves = g->sinusoidal ? take(&c, waves, C, e) : NULL;
    m->host_waves = g->sinusoidal ? take(&h, waves, C, e) : NULL;
    m->weight = weight > 0 ? take(&c, 1, weight, e) : NULL;
    m->bias = bias > 0 ? take(&c, 1, bias, e) : NULL;
    m->targets = take(&h, m->places, rows, sizeof(int32_t));
    m->positions_in = o->packed ? take(&h, rows, 1, sizeof(int32_t)) : NULL;
    m->losses = take(&h, m->places, rows, f);
    m->sampled = o->sample_len > 0 ? take(&h, m->config.vocab, 1, e) : NULL;
    m->sample_positions = o->sample_len > 0 ? take(&h, rows, 1, sizeof(int32_t)) : NULL;
    m->sample_ranges = o->sample_len > 0 ? take(&h, rows, 2, sizeof(int32_t)) : NULL;
    *device_bytes = c.used;
    *host_bytes = h.used;
    return c.ok && h.ok;
}
