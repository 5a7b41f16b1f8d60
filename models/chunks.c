/* SPDX-License-Identifier: Apache-2.0 */
/* chunks.c - a model in chunks, which the stages of a pipeline run: the map of layers to chunks, what chunks hand over
 * and keep, and the buffers of each task. */
#include "models/decoder.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- the map ---------------------------------------------------------------------------------------------------- */

static int64_t all_layers(const zero_model_config_t *c)
{
    return c->encoder_layers + c->layers;
}

static zero_status_t too_few(int64_t layers, int chunks, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_ARG,
                     "%d chunks of a pipeline for a model of %" PRId64 " layers: each takes one layer or more, so use "
                     "at most %" PRId64 " chunks",
                     chunks, layers, layers);
}

zero_status_t zero_model_map(const zero_model_config_t *c, int64_t seq_len, int chunks, int32_t *chunk_of,
                             zero_error_t *error)
{
    const int64_t first = c->encoder_layers, layers = first > 0 ? first : c->layers;
    const int cut = first > 0 ? chunks - 1 : chunks;
    zero_model_config_t one = *c;

    if (chunks < 1 || chunks > all_layers(c))
        return too_few(all_layers(c), chunks, error);
    for (int64_t l = 0; l < all_layers(c); l++)
        chunk_of[l] = l < first ? 0 : chunks - 1;
    if (first > 0 && chunks == 1)
        return ZERO_OK;
    if (cut > layers)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "%d chunks of a pipeline for a model with an encoder of %" PRId64
                         " layers: the decoder is one chunk, so use 2 to %" PRId64,
                         chunks, first, first + 1);
    /* Without layers, only the head is left. */
    one.layers = 1;
    const double with = zero_model_flops_per_token(&one, NULL, seq_len, 0);
    one.layers = 2;
    const double layer = zero_model_flops_per_token(&one, NULL, seq_len, 0) - with;
    const double head = first > 0 ? 0 : (with - layer) / layer;
    const zero_status_t status = zero_map_even((int32_t)layers, cut, NULL, 0, head, chunk_of);

    return status == ZERO_OK ? ZERO_OK : zero_fail(error, status, "no memory for a map of %" PRId64 " layers", layers);
}

static zero_status_t check_map(const zero_model_config_t *c, const int32_t *chunk_of, int chunks, zero_error_t *error)
{
    for (int64_t l = 0; l < all_layers(c); l++) {
        const int32_t before = l > 0 ? chunk_of[l - 1] : -1;

        if ((l == 0 && chunk_of[l] != 0) || (chunk_of[l] != before && chunk_of[l] != before + 1))
            return zero_fail(error, ZERO_ERR_ARG,
                             "layer %" PRId64 " is in chunk %" PRId32 ", but the layer before it in chunk %" PRId32
                             ": chunks are consecutive layers, in order",
                             l, chunk_of[l], before);
        if (l > c->encoder_layers && c->encoder_layers > 0 && chunk_of[l] != before)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "layer %" PRId64 " of the decoder begins a chunk: a decoder with an encoder is one chunk",
                             l - c->encoder_layers);
    }
    if (chunk_of[all_layers(c) - 1] != chunks - 1)
        return zero_fail(error, ZERO_ERR_ARG, "the last layer is in chunk %" PRId32 " of %d: it is in the last one",
                         chunk_of[all_layers(c) - 1], chunks);
    return ZERO_OK;
}

zero_status_t zero_model_cut(zero_model_t *m, zero_error_t *error)
{
    const zero_model_options_t *o = &m->options;
    const int64_t layers = all_layers(&m->config);
    int32_t *map = NULL;
    zero_status_t status = ZERO_OK;

    m->part = (zero_model_chunk_t){0, layers};
    if (o->chunks == 0)
        return ZERO_OK;
    const bool samples = o->sample_len > 0 && m->encoder.layers > 0;
    if (samples || o->untrained || o->offload_activations)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "a model in chunks %s",
                         samples        ? "that has an encoder cannot make samples: use sample_len 0"
                         : o->untrained ? "is for training: leave out untrained"
                                        : "cannot offload activations: leave out offload_activations");
    if (o->chunks < 1 || o->chunks > layers)
        return too_few(layers, o->chunks, error);
    m->chunks = calloc((size_t)o->chunks, sizeof *m->chunks);
    map = calloc((size_t)layers, sizeof *map);
    if (m->chunks == NULL || map == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d chunks of a model", o->chunks);
    else if (o->chunk_of == NULL)
        status = zero_model_map(&m->config, o->seq_len, o->chunks, map, error);
    else {
        memcpy(map, o->chunk_of, (size_t)layers * sizeof *map);
        status = check_map(&m->config, map, o->chunks, error);
    }
    for (int64_t l = 0; l < layers && status == ZERO_OK; l++) {
        zero_model_chunk_t *chunk = &m->chunks[map[l]];

        if (chunk->end == 0)
            chunk->begin = l;
        chunk->end = l + 1;
    }
    m->chunk_count = o->chunks;
    m->options.chunk_of = NULL; /* the caller's array may be gone later */
    free(map);
    return status;
}

/* The stage of a layer. */
static int stage_of(const zero_model_t *m, int64_t l)
{
    for (int c = 0; c < m->chunk_count; c++)
        if (m->chunks[c].begin <= l && l < m->chunks[c].end)
            return c % zero_pipe_size(m->engine);
    return 0;
}

int64_t zero_model_cache_index(const zero_model_t *m, int64_t l)
{
    int64_t index = 0;

    for (int64_t before = m->decoder.first; before < l; before++)
        index += stage_of(m, before) == stage_of(m, l);
    return index;
}

int64_t zero_model_cache_layers(const zero_model_t *m)
{
    int64_t most = 0;

    for (int64_t l = m->decoder.first; l < m->decoder.first + m->decoder.layers; l++)
        if (zero_model_cache_index(m, l) >= most)
            most = zero_model_cache_index(m, l) + 1;
    return most;
}

/* ---- declarations ----------------------------------------------------------------------------------------------- */

/* Whether chunks meet here at the encoder's output, and not in a residual stream. l: the first layer behind. */
static bool is_between_stacks(const zero_model_t *m, int64_t l)
{
    return m->encoder.layers > 0 && l == m->decoder.first;
}

/* The elements that are handed over before layer l. */
static int64_t link_elements(const zero_model_t *m, int64_t l)
{
    const int64_t rows = m->options.micro_batch * (l <= m->decoder.first ? m->encoder.T : m->decoder.T);

    return (is_between_stacks(m, l) ? rows : zero_model_kept_rows(m, rows)) * m->config.width;
}

zero_status_t zero_model_declare_chunks(zero_model_t *m, uint64_t *host, zero_error_t *error)
{
    const zero_model_chunk_t all = m->part;
    zero_status_t status = zero_chunks(m->engine, m->chunk_count);

    for (int c = 0; c < m->chunk_count && status == ZERO_OK; c++) {
        zero_model_memory_t at[ZERO_REGIONS] = {{NULL, 0}};

        m->part = m->chunks[c];
        if (!zero_model_layout(m, at, 0))
            return zero_fail(error, ZERO_ERR_MEMORY,
                             "the activations of chunk %d need more bytes than a 64-bit number can hold: use a smaller "
                             "micro-batch",
                             c);
        if (c + 1 < m->chunk_count)
            status = zero_chunk_link(m->engine, c, link_elements(m, m->part.end), m->options.dtype);
        if (status == ZERO_OK)
            status =
                zero_chunk_reserve(m->engine, c, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, at[ZERO_REGION_KEPT].bytes);
        if (status == ZERO_OK)
            status =
                zero_chunk_reserve(m->engine, c, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, at[ZERO_REGION_DEVICE].bytes);
        *host = at[ZERO_REGION_HOST].bytes;
    }
    m->part = all;
    return zero_model_engine_error(m, status, error);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

void zero_model_set_micro(zero_model_t *m, int64_t micro)
{
    zero_model_memory_t at[ZERO_REGIONS] = {[ZERO_REGION_HOST] = {zero_reserved(m->engine, m->shared), 0}};

    zero_model_layout(m, at, micro);
}

/* Sets what a task receives and sends. */
static void set_links(zero_model_t *m, const zero_task_t *task)
{
    const zero_model_chunk_t *part = &m->part;
    const int64_t last = m->decoder.first + m->decoder.layers;
    const bool receives = part->begin > 0, sends = part->end < last;
    void *input = (void *)(uintptr_t)task->input, *output_grad = (void *)(uintptr_t)task->output_grad;
    zero_model_stack_t *first = part->begin < m->decoder.first ? &m->encoder : &m->decoder,
                       *final = part->end <= m->decoder.first ? &m->encoder : &m->decoder;

    if (receives && is_between_stacks(m, part->begin)) {
        m->encoder.out = input;
        m->encoder.dout = task->input_grad;
    } else if (receives) {
        first->x[part->begin - first->first] = input;
        if (task->input_grad)
            m->dx = task->input_grad;
    }
    if (sends && is_between_stacks(m, part->end)) {
        m->encoder.out = task->output;
        m->encoder.dout = output_grad;
    } else if (sends) {
        final->x[part->end - final->first] = task->output;
        if (output_grad)
            zero_nn_copy(m->nn, m->dx, output_grad, (uint64_t)link_elements(m, part->end) * m->element);
    }
}

/* An evaluation has the residual stream of each stack in one place: where it leaves the chunk. */
static void set_stream(zero_model_t *m, const zero_task_t *task)
{
    zero_model_stack_t *first = m->part.begin < m->decoder.first ? &m->encoder : &m->decoder;

    if (zero_model_begins(m, &m->decoder))
        m->decoder.x[0] = zero_model_stream(m, &m->decoder);
    if (m->encoder.layers > 0 && zero_model_begins(m, &m->encoder))
        m->encoder.x[0] = zero_model_stream(m, &m->encoder);
    if (m->part.begin > first->first)
        zero_nn_copy(m->nn, zero_model_stream(m, first), task->input,
                     (uint64_t)link_elements(m, m->part.begin) * m->element);
}

zero_status_t zero_model_set_task(zero_model_t *m, const zero_task_t *task, bool trains, zero_error_t *error)
{
    zero_model_memory_t at[ZERO_REGIONS] = {
        [ZERO_REGION_DEVICE] = {task->workspace, 0},
        [ZERO_REGION_HOST] = {m->dry ? NULL : zero_reserved(m->engine, m->shared), 0},
        [ZERO_REGION_KEPT] = {task->kept, 0},
    };

    m->part = m->chunks[task->chunk];
    zero_model_layout(m, at, task->micro);
    if (m->dry)
        return ZERO_OK;
    set_links(m, task);
    if (!trains)
        set_stream(m, task);
    if (m->prepared)
        return ZERO_OK;
    m->prepared = true;
    return zero_model_prepare(m, error);
}
