/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2_memory.c - the placement of a GPT-2's buffers. Buffers that only kernels access are in device memory. Buffers
 * that the host also accesses are in memory that both reach. */
#include "models/gpt2.h"

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

bool zero_gpt2_layout(zero_model_t *m, void *device, void *host, uint64_t *device_bytes, uint64_t *host_bytes)
{
    const zero_model_options_t *o = &m->options;
    const int64_t C = m->config.width, F = m->config.hidden, H = m->config.heads, L = m->config.layers;
    const int64_t rows = o->micro_batch * o->seq_len, most = rows > o->sample_len ? rows : o->sample_len;
    const size_t e = m->element, f = sizeof(float);
    const bool selective = o->recompute == ZERO_RECOMPUTE_SELECTIVE, full = o->recompute == ZERO_RECOMPUTE_FULL;
    carve_t c = {device, 0, true}, h = {host, 0, true};

    for (int64_t l = 0; l <= L; l++)
        m->x[l] = o->offload_activations && l >= 2 ? m->x[l - 2] : take(&c, l == 0 ? most : rows, C, e);
    for (int64_t l = 0; o->offload_activations && l < L - 1; l++) /* the last layer's input stays in x */
        m->kept[l] = take(&h, rows, C, e);
    for (int64_t l = 0; l < L; l++) {
        zero_gpt2_layer_t *a = &m->layers[l];
        const int64_t n = l == 0 ? most : rows; /* evaluation and sampling use the first layer's buffers too */

        if (l > 0 && full) {
            *a = m->layers[0];
            continue;
        }
        a->mean1 = take(&c, n, 1, f);
        a->rstd1 = take(&c, n, 1, f);
        a->qkv = take(&c, n, 3 * C, e);
        a->attention = take(&c, n, C, e);
        a->lse = take(&c, n, H, f);
        a->mid = take(&c, n, C, e);
        a->mean2 = take(&c, n, 1, f);
        a->rstd2 = take(&c, n, 1, f);
        a->fc = take(&c, n, F, e);
        if (l > 0 && selective) {
            a->norm1 = a->norm2 = m->layers[0].norm1;
            a->gelu = m->layers[0].gelu;
            continue;
        }
        a->norm1 = take(&c, n, C, e);
        a->norm2 = selective ? a->norm1 : take(&c, n, C, e);
        a->gelu = take(&c, n, F, e);
    }
    m->mean_f = take(&c, most, 1, f);
    m->rstd_f = take(&c, most, 1, f);
    m->logits = take(&c, m->head_rows, m->logits_ld, e);
    m->dwte = m->head_sums ? take(&c, m->config.vocab, C, f) : NULL;
    m->dx = take(&c, rows, C, e);
    m->narrow = take(&c, most, C, e);
    m->wide = take(&c, rows, F > 3 * C ? F : 3 * C, e);
    m->tokens = take(&h, m->places, most, sizeof(int32_t));
    m->targets = take(&h, m->places, rows, sizeof(int32_t));
    m->losses = take(&h, m->places, rows, f);
    m->sampled = o->sample_len > 0 ? take(&h, m->config.vocab, 1, e) : NULL;
    *device_bytes = c.used;
    *host_bytes = h.used;
    return c.ok && h.ok;
}
