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

/* Where buffers go: those that are kept until the backward pass, the others, and those that the host accesses. */
typedef struct carves {
    carve_t *kept, *shared, *host;
} carves_t;

/* The first layer of a stack in m->part. */
static int64_t first_layer(const zero_model_t *m, const zero_model_stack_t *s)
{
    return m->part.begin > s->first ? m->part.begin : s->first;
}

/* What the norm and the sum of the i-th sublayer of a layer keep, for n rows. */
static void take_sublayer(zero_model_t *m, const carves_t *to, const zero_model_stack_t *s, zero_model_layer_t *a,
                          int i, int64_t n)
{
    const zero_model_layer_t *first = &m->layers[first_layer(m, s)];
    carve_t *c = m->options.recompute == ZERO_RECOMPUTE_FULL ? to->shared : to->kept;
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
    a->norm[k] = last && post                ? NULL
                 : keeps_norm(m, k)          ? take(c, n, C, e)
                 : a == first && shared == i ? take(to->shared, n, C, e)
                                             : first->norm[s->sublayers[shared]];
}

/* The buffers of layer l of a stack for n rows. Some of them are those of the stack's first layer. */
static void take_layer(zero_model_t *m, const carves_t *to, const zero_model_stack_t *s, int64_t l, int64_t n)
{
    const zero_model_config_t *g = &m->own;
    const int64_t H = g->heads, KV = g->kv_heads, D = g->head_dim, sources = m->options.micro_batch * m->encoder.T;
    const size_t e = m->element, f = sizeof(float);
    const bool cross = s->sublayers[1] == ZERO_SUBLAYER_CROSS;
    const bool full = m->options.recompute == ZERO_RECOMPUTE_FULL;
    zero_model_layer_t *a = &m->layers[l], *first = &m->layers[first_layer(m, s)];
    carve_t *c = full ? to->shared : to->kept;

    if (a != first && full) {
        *a = *first;
        return;
    }
    for (int i = 0; i < s->sublayer_count; i++)
        take_sublayer(m, to, s, a, i, zero_model_kept_rows(m, n));
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
    a->active = keeps_input(m, ZERO_LINEAR_DOWN) ? take(c, n, g->hidden, e)
                : a == first                     ? take(to->shared, n, g->hidden, e)
                                                 : first->active;
}

/* The residual stream and the layers of a stack in m->part, for n rows. The streams into a chunk and out of it are
 * those of its task. */
static void take_stack(zero_model_t *m, zero_model_stack_t *s, const carves_t *to, int64_t n)
{
    const int64_t C = m->config.width, begin = first_layer(m, s), last = s->first + s->layers,
                  end = m->part.end < last ? m->part.end : last, own = zero_model_kept_rows(m, n);
    const bool offload = m->options.offload_activations, untrained = m->options.untrained;
    const size_t e = m->element, f = sizeof(float);

    for (int64_t l = begin; l <= end && begin < end; l++) {
        const bool received = l == begin && l > s->first, sent = l == end && l < last;
        const int64_t at = l - s->first;

        s->x[at] = received || sent      ? NULL
                   : untrained && at > 0 ? s->x[0]
                   : offload && at >= 2  ? s->x[at - 2]
                                         : take(to->kept, own, C, e);
    }
    for (int64_t l = 0; offload && l < s->layers - 1; l++) /* the last layer's input stays in x */
        m->kept[s->first + l] = take(to->host, own, C, e);
    for (int64_t l = begin; l < end; l++)
        take_layer(m, to, s, l, n);
    s->mean = m->config.norm == ZERO_MODEL_LAYER_NORM ? take(to->kept, own, 1, f) : NULL;
    s->rstd = take(to->kept, own, 1, f);
    s->tokens = take(to->host, m->places, n, sizeof(int32_t));
    s->ranges = zero_model_lists(m) || s->encoder ? take(to->host, m->places, 2 * n, sizeof(int32_t)) : NULL;
    s->counted = m->tensor > 1 && zero_model_adds_positions(m) ? take(to->host, n, 1, sizeof(int32_t)) : NULL;
}

/* The encoder, and what the decoder needs for it. rows: of the decoder. */
static void take_encoder(zero_model_t *m, const carves_t *to, int64_t rows)
{
    const int64_t C = m->config.width, sources = m->options.micro_batch * m->encoder.T;
    const bool trained = !m->options.untrained;
    const size_t e = m->element;

    take_stack(m, &m->encoder, to, sources);
    m->encoder.out = take(to->kept, sources, C, e);
    m->encoder.dout = trained ? take(to->shared, sources, C, e) : NULL;
    m->dkv = trained ? take(to->shared, sources, 2 * m->own.kv_heads * m->config.head_dim, e) : NULL;
    m->cross_ranges = take(to->host, m->places, 2 * rows, sizeof(int32_t));
}

/* Moves the addresses in the host's memory to those of a micro-step. */
static void move_to(zero_model_t *m, int64_t micro)
{
    const int64_t rows = m->options.micro_batch * m->decoder.T, sources = m->options.micro_batch * m->encoder.T;

    m->decoder.tokens += micro * rows;
    m->targets += micro * rows;
    m->losses += micro * rows;
    if (m->decoder.ranges)
        m->decoder.ranges += 2 * micro * rows;
    if (m->positions_in)
        m->positions_in += micro * rows;
    if (m->encoder.layers > 0) {
        m->encoder.tokens += micro * sources;
        m->encoder.ranges += 2 * micro * sources;
        m->cross_ranges += 2 * micro * rows;
    }
}

bool zero_model_layout(zero_model_t *m, zero_model_memory_t at[ZERO_REGIONS], int64_t micro)
{
    const zero_model_options_t *o = &m->options;
    const zero_model_config_t *g = &m->own;
    const int64_t C = g->width, F = g->hidden, Q = m->qkv_width, A = g->heads * g->head_dim;
    const int64_t rows = o->micro_batch * m->decoder.T, sources = o->micro_batch * m->encoder.T,
                  both = rows > sources ? rows : sources, own = zero_model_kept_rows(m, both);
    const int64_t weight = zero_model_gathered(m, false), bias = zero_model_gathered(m, true),
                  low = zero_model_adapters_width(m), waves = zero_model_longest(m);
    const size_t e = m->element, f = sizeof(float);
    const bool whole = m->chunk_count == 0, head = zero_model_ends(m, &m->decoder);
    carve_t c = {at[ZERO_REGION_DEVICE].base, 0, true}, h = {at[ZERO_REGION_HOST].base, 0, true},
            k = {at[ZERO_REGION_KEPT].base, 0, true};
    const carves_t to = {whole ? &c : &k, &c, &h};

    m->waves = g->sinusoidal ? take(&c, waves, C, e) : NULL; /* in one place for all chunks of a stage */
    if (m->encoder.layers > 0)
        take_encoder(m, &to, rows);
    take_stack(m, &m->decoder, &to, rows);
    m->logits = head ? take(&c, m->head_rows, m->logits_ld, e) : NULL;
    m->dhead = head && m->head_sums ? take(&c, g->vocab, C, f) : NULL;
    m->dx_sums = head && m->head_tiles->count > 0 && !o->untrained ? take(&c, m->head_rows, C, f) : NULL;
    m->dx = o->untrained ? NULL : take(&c, own, C, e);
    m->narrow = take(&c, both, C > A ? C : A, e);
    m->decoder.out = m->decoder.dout = whole ? m->narrow : head ? take(&k, zero_model_kept_rows(m, rows), C, e) : NULL;
    if (m->context > 1) {
        const int64_t n = 2 * g->kv_heads * g->head_dim, all = m->context * rows;

        m->kv_parts = take(&c, all, n, e);
        m->kv = take(&c, all, n, e);
        m->dkv = o->untrained ? NULL : take(&c, all, n, e);
        m->row_of = take(&h, all, 1, sizeof(int32_t));
        m->row = take(&h, rows, 1, sizeof(int32_t));
    }
    m->whole = m->spreads ? take(&c, both, C, e) : NULL;
    m->stats = head && m->tensor > 1 ? take(&c, m->tensor * m->head_rows, 3, f) : NULL;
    m->all_logits = head && m->tensor > 1 && o->sample_len > 0 ? take(&c, m->tensor, g->vocab, e) : NULL;
    m->wide = o->untrained ? NULL : take(&c, both, F > Q ? F : Q, e);
    m->dqk = g->qk_norm && !o->untrained ? take(&c, rows, Q - g->kv_heads * g->head_dim, e) : NULL;
    m->low = low > 0 ? take(&c, rows, low, e) : NULL;
    m->dlow = low > 0 && !o->untrained ? take(&c, rows, low, e) : NULL;
    m->host_waves = g->sinusoidal ? take(&h, waves, C, e) : NULL;
    m->weight = weight > 0 ? take(&c, 1, weight, e) : NULL;
    m->bias = bias > 0 ? take(&c, 1, bias, e) : NULL;
    m->targets = take(&h, m->places, rows, sizeof(int32_t));
    m->positions_in = zero_model_lists(m) ? take(&h, m->places, rows, sizeof(int32_t)) : NULL;
    m->losses = take(&h, m->places, rows, f);
    m->sampled = o->sample_len > 0 ? take(&h, m->config.vocab, 1, e) : NULL;
    m->sample_positions = o->sample_len > 0 ? take(&h, rows, 1, sizeof(int32_t)) : NULL;
    m->sample_ranges = o->sample_len > 0 ? take(&h, rows, 2, sizeof(int32_t)) : NULL;
    at[ZERO_REGION_DEVICE].bytes = c.used;
    at[ZERO_REGION_HOST].bytes = h.used;
    at[ZERO_REGION_KEPT].bytes = k.used;
    if (h.base != NULL && h.ok)
        move_to(m, micro);
    return c.ok && h.ok && k.ok;
}
