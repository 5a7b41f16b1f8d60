/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - a model on an engine: creation, declaration, memory. */
#include "models/decoder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Micro-steps that the host may run ahead of a device. With chunks, all of a step are in flight. */
#define PLACES_MOST 16

/* ---- create, declare, bind -------------------------------------------------------------------------------------- */

zero_status_t zero_model_engine_error(zero_model_t *m, zero_status_t status, zero_error_t *error)
{
    if (status == ZERO_OK)
        return ZERO_OK;
    zero_error_t failure;
    zero_last_failure(m->engine, &failure);
    return zero_pass(error, status, &failure);
}

static zero_status_t check_options(const zero_model_config_t *c, const zero_model_options_t *o, zero_error_t *error)
{
    int64_t rows;

    if (o->micro_batch < 1 || o->seq_len < 1)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a micro-batch of %" PRId64 " sequences of %" PRId64 " tokens: both must be at least 1",
                         o->micro_batch, o->seq_len);
    if (o->seq_len > c->positions)
        return zero_fail(error, ZERO_ERR_ARG,
                         "sequences of %" PRId64 " tokens are longer than the model's %" PRId64
                         " positions: use at most %" PRId64,
                         o->seq_len, c->positions, c->positions);
    if (c->encoder_layers > 0 ? o->source_len < 1 || o->source_len > c->positions : o->source_len != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "sources of %" PRId64 " tokens for a model with %" PRId64 " layers of an encoder and %" PRId64
                         " positions: use %s",
                         o->source_len, c->encoder_layers, c->positions,
                         c->encoder_layers > 0 ? "at least 1, and no more than positions" : "0");
    if (c->encoder_layers > 0 && o->packed)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "packed documents for a model with an encoder are not supported: leave out packed");
    if (c->sliding_window > 0 && (o->seq_len > c->sliding_window || o->sample_len > c->sliding_window))
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "sequences of %" PRId64 " tokens are longer than the model's sliding window of %" PRId64
                         ", which is not supported: use at most %" PRId64,
                         o->seq_len > o->sample_len ? o->seq_len : o->sample_len, c->sliding_window, c->sliding_window);
    if (o->sample_len < 0 || o->sample_len > c->positions)
        return zero_fail(error, ZERO_ERR_ARG,
                         "samples of %" PRId64 " tokens do not fit the model's %" PRId64
                         " positions: use 0 to %" PRId64,
                         o->sample_len, c->positions, c->positions);
    const int64_t longest = o->seq_len > o->source_len ? o->seq_len : o->source_len;
    if (!zero_mul_i64(o->micro_batch, longest, &rows) || rows > INT32_MAX)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a micro-batch of %" PRId64 " sequences of %" PRId64
                         " tokens is more than %d tokens at a time",
                         o->micro_batch, longest, INT32_MAX);
    if ((unsigned)o->dtype >= ZERO_DTYPE_COUNT)
        return zero_fail(error, ZERO_ERR_ARG, "dtype %d of a model is unknown: choose a zero_dtype_t", (int)o->dtype);
    if (o->offload_activations && o->recompute != ZERO_RECOMPUTE_FULL)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "only layers' inputs can be in the host's memory until the backward pass: use ZERO_RECOMPUTE_FULL, which "
            "keeps nothing else");
    if (o->lora.rank != 0 && o->lora.targets == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "adapters of rank %" PRId64 " for no weight: set options.lora by zero_model_lora",
                         o->lora.rank);
    if (o->threads < 1)
        return zero_fail(error, ZERO_ERR_ARG, "%d threads for a model: at least 1 is needed", o->threads);
    if (o->tile_bytes < 0)
        return zero_fail(error, ZERO_ERR_ARG, "tiles of %" PRId64 " bytes: use 0 (none) or more", o->tile_bytes);
    if (o->micro_steps < 0)
        return zero_fail(error, ZERO_ERR_ARG, "%" PRId64 " micro-steps in a step: use 0 (which is 1) or more",
                         o->micro_steps);
    if (o->head_rows < 0 || o->head_columns < 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%" PRId64 " rows of logits at once, %" PRId64
                         " tokens of the vocabulary: use 0 (chosen by size) or more",
                         o->head_rows, o->head_columns);
    const zero_status_t status = zero_model_check_context(c, o, error);

    return status == ZERO_OK ? zero_model_check_tensor(c, o, error) : status;
}

/* Splits total into parts of at most `most` and returns the length of a part; all have about equal length. */
static int64_t even_part(int64_t total, int64_t most)
{
    const int64_t parts = (total + most - 1) / most;

    return (total + parts - 1) / parts;
}

static int64_t round_up(int64_t x, int64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* Chooses the rows in a block of logits and the tokens of the vocabulary in one product, as suits the backend. */
static void head_shape(zero_model_t *m)
{
    const zero_nn_sizes_t *sizes = zero_nn_sizes(m->nn);
    const int64_t rows = m->options.micro_batch * m->decoder.T, V = m->own.vocab;
    int64_t most_rows = m->options.head_rows, most_columns = m->options.head_columns;

    m->logits_ld = round_up(V, sizes->columns);
    if (most_rows == 0) {
        most_rows = (int64_t)(sizes->logits_bytes / ((uint64_t)m->logits_ld * m->element)) / sizes->rows * sizes->rows;
        if (most_rows < sizes->least_rows)
            most_rows = sizes->least_rows;
    }
    m->head_rows = even_part(rows, most_rows);
    if (m->options.head_rows == 0 && m->head_rows < rows)
        m->head_rows = round_up(m->head_rows, sizes->rows);
    if (most_columns == 0)
        most_columns = sizes->weights_bytes == 0
                           ? V
                           : round_up((int64_t)(sizes->weights_bytes / ((uint64_t)m->config.width * sizeof(float))) + 1,
                                      sizes->columns);
    m->head_columns = even_part(V, most_columns);
    if (m->options.head_columns == 0)
        m->head_columns = round_up(m->head_columns, sizes->columns);
    m->head_sums = sizes->wide_sums && m->options.dtype != ZERO_FP32 && m->head_rows < rows && !m->options.untrained &&
                   !zero_model_is_frozen(m) && m->head_tiles->count == 0;
}

/* Describes a stack, whose layers follow those of the one before it. */
static void init_stack(zero_model_t *m, zero_model_stack_t *s, bool encoder)
{
    const zero_model_config_t *c = &m->config;

    s->encoder = encoder;
    s->first = encoder ? 0 : m->encoder.layers;
    s->layers = encoder ? c->encoder_layers : c->layers;
    s->T = encoder ? m->options.source_len : m->options.seq_len / m->context;
    s->sublayers[s->sublayer_count++] = ZERO_SUBLAYER_ATTENTION;
    if (!encoder && c->encoder_layers > 0)
        s->sublayers[s->sublayer_count++] = ZERO_SUBLAYER_CROSS;
    s->sublayers[s->sublayer_count++] = ZERO_SUBLAYER_MLP;
    for (int role = 0; role < ZERO_ROLE_COUNT; role++)
        s->role[role] = zero_model_has(c, encoder, (zero_model_role_t)role) ? s->layer_tensors++ : -1;
}

/* Fills the table of parameters, and points at those outside the layers. */
static void name_params(zero_model_t *m)
{
    for (int i = m->param_count - 1; i >= 0; i--) {
        zero_model_param_t *p = &m->params[i];
        zero_model_tensor_t t;

        zero_model_param_tensor(m, i, &t);
        zero_model_stack_t *s = t.encoder ? &m->encoder : &m->decoder;
        zero_model_param_t **at[ZERO_PLACE_COUNT] = {[ZERO_PLACE_EMBEDDING] = &s->embed,
                                                     [ZERO_PLACE_POSITIONS] = &m->positions,
                                                     [ZERO_PLACE_NORM_W] = &s->norm_w,
                                                     [ZERO_PLACE_NORM_B] = &s->norm_b,
                                                     [ZERO_PLACE_HEAD] = &m->head};

        memcpy(p->name, t.name, sizeof t.name);
        p->count = p->own = t.count;
        p->id = -1;
        if (at[t.place])
            *at[t.place] = p;
        else
            s->params = i; /* the first one at last */
    }
    if (m->head == NULL)
        m->head = m->decoder.embed;
}

zero_status_t zero_model_create(zero_model_t **model, const zero_model_config_t *config,
                                const zero_model_options_t *options, zero_error_t *error)
{
    zero_model_t *m = NULL;
    zero_status_t status;

    *model = NULL;
    status = zero_model_check_config(config, error);
    if (status == ZERO_OK)
        status = check_options(config, options, error);
    if (status != ZERO_OK)
        return status;
    m = calloc(1, sizeof *m);
    if (m == NULL)
        goto memory;
    m->config = *config;
    m->options = *options;
    if (options->untrained) { /* all layers then share their buffers */
        m->options.recompute = ZERO_RECOMPUTE_FULL;
        m->options.offload_activations = m->options.muon = false;
    }
    /* A CPU call has finished when it returns, so it needs only one place. So do packed batches: the layers' calls,
     * which are repeated as they are, read where the documents begin; likewise where a source ends. */
    m->places = options->backend == NULL || strcmp(options->backend, "cuda") != 0 || options->micro_steps < 1 ||
                        options->packed || options->context > 1 || config->encoder_layers > 0
                    ? 1
                    : options->micro_steps;
    if (m->places > PLACES_MOST)
        m->places = PLACES_MOST;
    if (options->chunks > 0)
        m->places = options->micro_steps > 0 ? options->micro_steps : 1;
    m->element = zero_dtype_size(options->dtype);
    m->family = zero_family_find(config->family);
    zero_model_init_tensor(m);
    m->qkv_width = (m->own.heads + 2 * m->own.kv_heads) * config->head_dim;
    m->up_width = config->gated ? 2 * m->own.hidden : m->own.hidden;
    m->base_count = zero_model_tensor_count(config);
    m->layer_adapters = zero_model_adapter_count(config, &options->lora) / (int)config->layers;
    m->param_count = m->base_count + (int)config->layers * m->layer_adapters;
    m->params = calloc((size_t)m->param_count, sizeof *m->params);
    const size_t layers = (size_t)(config->encoder_layers + config->layers);
    init_stack(m, &m->encoder, true);
    init_stack(m, &m->decoder, false);
    m->encoder.x = calloc((size_t)config->encoder_layers + 1, sizeof *m->encoder.x);
    m->decoder.x = calloc((size_t)config->layers + 1, sizeof *m->decoder.x);
    m->units = calloc(layers, sizeof *m->units);
    m->kept = calloc(layers, sizeof *m->kept);
    m->layers = calloc(layers, sizeof *m->layers);
    if (!m->params || !m->units || !m->encoder.x || !m->decoder.x || !m->kept || !m->layers)
        goto memory;
    name_params(m);
    if (!zero_model_tiles_make(m))
        goto memory;
    if ((status = zero_model_cut(m, error)) != ZERO_OK)
        goto fail;
    zero_model_linears(&m->own, m->linears);
    zero_model_lora_linears(&options->lora, m->linears);
    if (config->rope.theta > 0)
        zero_model_frequencies(&config->rope, config->head_dim, m->frequencies);
    status = zero_nn_create(&m->nn, options->backend ? options->backend : "auto", options->threads, NULL, error);
    if (status != ZERO_OK)
        goto fail;
    zero_nn_set_log(m->nn, options->log, options->log_ctx);
    if (options->choices != NULL || options->measure)
        status = zero_nn_set_choices(m->nn, options->choices, options->measure, error);
    if (status != ZERO_OK)
        goto fail;
    m->options.choices = NULL; /* the caller's string may be gone later */
    head_shape(m);
    *model = m;
    return ZERO_OK;
memory:
    status = zero_fail(error, ZERO_ERR_MEMORY, "out of memory for the tables of a model of %" PRId64 " layers",
                       config->layers);
fail:
    zero_model_destroy(m);
    return status;
}

void zero_model_destroy(zero_model_t *m)
{
    if (m == NULL)
        return;
    zero_nn_destroy(m->nn);
    zero_nn_destroy(m->muon);
    zero_model_tiles_free(m);
    free(m->chunks);
    free(m->layers);
    free(m->kept);
    free(m->encoder.x);
    free(m->decoder.x);
    free(m->units);
    free(m->params);
    free(m);
}

/* Adds the unit that begins with tensor t, named as the tensor without its ending; NULL: t is in the unit before it. */
static zero_unit_t *unit_of(zero_model_t *m, const zero_model_tensor_t *t, char *name, size_t size)
{
    const char *place = (t->encoder ? m->family->encoder_places : m->family->places)[t->place];
    zero_model_stack_t *s = t->encoder ? &m->encoder : &m->decoder;

    switch (t->place) {
    case ZERO_PLACE_EMBEDDING:
        snprintf(name, size, t->encoder ? "source" : "embed");
        return &s->embed_unit;
    case ZERO_PLACE_LAYER:
        if (s->role[t->role] > 0)
            return NULL;
        snprintf(name, size, place, (long long)t->layer);
        name[strlen(name) - 1] = '\0'; /* the dot */
        return &m->units[s->first + t->layer];
    case ZERO_PLACE_NORM_W:
        snprintf(name, size, "%.*s", (int)(strlen(place) - strlen(".weight")), place);
        return &s->norm_unit;
    case ZERO_PLACE_HEAD:
        snprintf(name, size, "head");
        return &m->head_unit;
    case ZERO_PLACE_POSITIONS:
        snprintf(name, size, "positions");
        return s->tiles.count > 0 ? &m->positions_unit : NULL;
    default:
        return NULL;
    }
}

static zero_status_t add_units(zero_model_t *m, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    zero_unit_t unit = -1;

    for (int i = 0; i < m->param_count && status == ZERO_OK; i++) {
        zero_param_desc_t desc;
        zero_model_tensor_t t;
        char name[ZERO_MODEL_NAME_BYTES];

        zero_model_param_tensor(m, i, &t);
        zero_unit_t *begins = t.adapter == ZERO_ADAPTER_NONE ? unit_of(m, &t, name, sizeof name) : NULL;
        zero_model_tiles_t *tiles = zero_model_tiles_of(m, &m->params[i]);
        if (begins && !tiles) {
            status = zero_unit_add(m->engine, name, begins);
            unit = *begins;
        } else if (t.adapter != ZERO_ADAPTER_NONE)
            unit = m->units[t.layer];
        if (status != ZERO_OK)
            break;
        zero_param_desc_init(&desc);
        desc.name = t.name;
        desc.ndim = t.ndim;
        memcpy(desc.shape, t.shape, sizeof t.shape);
        desc.dtype = m->options.dtype;
        desc.trainable = t.adapter != ZERO_ADAPTER_NONE || !zero_model_is_frozen(m);
        desc.decay_scale = t.ndim >= 2 ? 1 : 0;
        zero_model_split(m, &t, &desc);
        desc.elementwise =
            t.place == ZERO_PLACE_EMBEDDING || t.place == ZERO_PLACE_POSITIONS || t.place == ZERO_PLACE_HEAD;
        status = tiles ? zero_model_tiles_add(m, tiles, name, &desc)
                       : zero_param_add(m->engine, unit, &desc, &m->params[i].id);
    }
    if (m->config.tied)
        m->head_unit = m->decoder.embed_unit;
    return zero_model_engine_error(m, status, error);
}

/* Runs every call of every pass without buffers. This declares the uses and finds the workspace of the kernels. */
static zero_status_t dry_run(zero_model_t *m, zero_error_t *error)
{
    zero_status_t status;

    m->dry = true;
    zero_nn_set_dry(m->nn, true);
    status = m->chunk_count > 0     ? zero_model_pass_tasks(m, error)
             : m->options.untrained ? ZERO_OK
                                    : zero_model_pass_train(m, NULL, NULL, NULL, 0, error);
    if (status == ZERO_OK && m->options.eval)
        status = zero_model_pass_eval(m, NULL, NULL, NULL, m->options.micro_batch, error);
    if (status == ZERO_OK && m->encoder.layers > 0 && m->options.sample_len > 0)
        status = zero_model_pass_encode(m, error);
    /* prompts, whose rows end with those of a micro-step; then tokens behind them */
    for (int64_t n = 1, rows = 0; status == ZERO_OK && n <= m->options.sample_len; n = rows + 1) {
        const zero_model_append_t s = zero_model_append(m, n, 0);

        if (s.rows == rows)
            break;
        rows = s.rows;
        status = zero_model_pass_sample(m, &s, error);
    }
    if (status == ZERO_OK && m->options.sample_len > 1) {
        const zero_model_append_t s = zero_model_append(m, m->options.sample_len - 1, 1);

        status = zero_model_pass_sample(m, &s, error);
    }
    zero_nn_set_dry(m->nn, false);
    m->dry = false;
    return status;
}

/* Computes the bytes of the keys and values of a sample and of its source. Returns false on overflow. */
static bool cache_size(zero_model_t *m)
{
    const zero_model_config_t *c = &m->own;
    const int64_t sources = m->options.sample_len > 0 ? m->encoder.T : 0;
    uint64_t rows, bytes;

    return zero_mul_u64((uint64_t)zero_model_cache_layers(m) * 2, (uint64_t)(m->options.sample_len + sources), &rows) &&
           zero_mul_u64(rows, (uint64_t)(c->kv_heads * c->head_dim), &bytes) &&
           zero_mul_u64(bytes, m->element, &m->cache_bytes);
}

zero_status_t zero_model_declare(zero_model_t *m, zero_engine_t *engine, zero_error_t *error)
{
    zero_status_t status;
    zero_model_memory_t at[ZERO_REGIONS] = {{NULL, 0}};

    if (m->engine != NULL)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "the model is already declared on an engine: create another model for another engine");
    if (!zero_model_layout(m, at, 0))
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "the activations of %" PRId64 " sequences of %" PRId64
                         " tokens need more bytes than a 64-bit number can hold: use a smaller micro-batch",
                         m->options.micro_batch, m->options.seq_len);
    m->engine = engine;
    if ((status = zero_model_join(m, error)) != ZERO_OK)
        return status;
    if (!cache_size(m))
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "keys and values of samples of %" PRId64
                         " tokens need more bytes than a 64-bit number can hold: use shorter samples",
                         m->options.sample_len);
    if (m->chunk_count > 0 && (status = zero_model_declare_chunks(m, &at[ZERO_REGION_HOST].bytes, error)) != ZERO_OK)
        return status;
    status = add_units(m, error);
    if (status != ZERO_OK)
        return status;
    if (!m->options.untrained)
        status = zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &m->train);
    if (status == ZERO_OK && m->options.eval)
        status = zero_pass_add(engine, "eval", ZERO_PASS_EVAL, &m->eval);
    if (status == ZERO_OK && m->options.sample_len > 0)
        status =
            zero_pass_add(engine, "sample", m->chunk_count > 0 || m->tensor > 1 ? ZERO_PASS_EVAL : ZERO_PASS_ANY_ORDER,
                          &m->sample[0]);
    if (status == ZERO_OK && m->tensor > 1 && zero_model_append(m, m->options.sample_len, 0).rows > 1)
        status = zero_pass_add(engine, "prompt", ZERO_PASS_EVAL, &m->sample[1]);
    if (status != ZERO_OK)
        return zero_model_engine_error(m, status, error);
    status = dry_run(m, error);
    if (status != ZERO_OK)
        return status;
    m->workspace_bytes = zero_nn_workspace_bytes(m->nn);
    if (m->chunk_count == 0)
        status = zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, at[ZERO_REGION_DEVICE].bytes,
                              &m->activations);
    if (status == ZERO_OK)
        status = zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_HOST, at[ZERO_REGION_HOST].bytes, &m->shared);
    if (status == ZERO_OK && m->cache_bytes > 0)
        status = zero_reserve(engine, ZERO_KIND_CACHE, ZERO_TIER_DEVICE, m->cache_bytes, &m->cache);
    if (status == ZERO_OK && m->workspace_bytes > 0)
        status = zero_reserve(engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, m->workspace_bytes + ZERO_NN_ALIGN,
                              &m->workspace);
    if (status == ZERO_OK)
        return zero_model_declare_muon(m, error);
    return zero_model_engine_error(m, status, error);
}

void zero_model_describe(const zero_model_t *m, char *text, size_t size)
{
    const int used = snprintf(text, size, "%s; ", zero_nn_backend(m->nn));

    zero_nn_describe(m->nn, text + used, size - (size_t)used);
}

char *zero_model_choices(const zero_model_t *m)
{
    return zero_nn_choices(m->nn);
}

/* The copy is made before the first pass reads it, as both are on the engine's stream. */
static void make_waves(zero_model_t *m)
{
    const int64_t T = zero_model_longest(m), C = m->config.width;

    zero_model_waves(T, C, m->config.scaled_embedding ? sqrt((double)C) : 1, m->options.dtype, m->host_waves);
    zero_nn_copy(m->nn, m->waves, m->host_waves, (uint64_t)(T * C) * m->element);
}

static void count_rows(zero_model_t *m, zero_model_stack_t *s)
{
    for (int64_t i = 0; s->counted != NULL && i < m->options.micro_batch * s->T; i++)
        s->counted[i] = (int32_t)(i % s->T);
}

zero_status_t zero_model_prepare(zero_model_t *m, zero_error_t *error)
{
    if (!zero_model_linears_fit(m))
        return zero_fail(error, ZERO_ERR_PLAN,
                         "parts of a linear layer do not lie one behind another: their tensors do "
                         "not begin at the next multiple of 128 elements");
    if (m->waves != NULL)
        make_waves(m);
    count_rows(m, &m->encoder);
    count_rows(m, &m->decoder);
    zero_model_list_rows(m);
    return ZERO_OK;
}

zero_status_t zero_model_bind(zero_model_t *m, zero_error_t *error)
{
    void *shared = m->engine ? zero_reserved(m->engine, m->shared) : NULL;
    zero_model_memory_t at[ZERO_REGIONS] = {[ZERO_REGION_HOST] = {shared, 0}};

    if (shared == NULL)
        return zero_fail(error, ZERO_ERR_ORDER, "a model has addresses only after zero_model_declare and zero_commit");
    if (m->chunk_count == 0) {
        at[ZERO_REGION_DEVICE].base = zero_reserved(m->engine, m->activations);
        zero_model_layout(m, at, 0);
    }
    zero_nn_set_stream(m->nn, zero_stream(m->engine));
    if (m->cache_bytes > 0)
        m->cached = zero_reserved(m->engine, m->cache);
    if (m->workspace_bytes > 0)
        zero_nn_set_workspace(m->nn, zero_nn_aligned(zero_reserved(m->engine, m->workspace)), m->workspace_bytes);
    zero_model_tiles_bind(m, &m->encoder.tiles);
    zero_model_tiles_bind(m, &m->decoder.tiles);
    zero_model_tiles_bind(m, &m->own_head_tiles);
    for (int i = 0; i < m->param_count; i++) {
        if (zero_model_tiles_of(m, &m->params[i])) { /* the id of the whole */
            zero_status_t status = zero_param_find(m->engine, m->params[i].name, &m->params[i].id);
            if (status != ZERO_OK)
                return zero_model_engine_error(m, status, error);
            continue;
        }
        m->params[i].data = zero_param_data(m->engine, m->params[i].id);
        m->params[i].grad = zero_param_grad(m->engine, m->params[i].id);
        zero_status_t status = zero_model_find_part(m, &m->params[i], error);
        if (status != ZERO_OK)
            return status;
    }
    zero_model_bind_muon(m);
    m->bound = true;
    return m->chunk_count > 0 ? ZERO_OK : zero_model_prepare(m, error); /* with chunks in the first task */
}
