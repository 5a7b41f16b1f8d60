/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2.c - GPT-2 on an engine: sizes, declaration, memory, and the public calls. */
#include "models/gpt2.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Micro-steps that the host may run ahead of a device. */
#define PLACES_MOST 16
/* The shortest length to which a sample is padded. The other lengths are its multiples by powers of two. */
#define SAMPLE_SHAPE_LEAST 16

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

int zero_gpt2_tensor_count(const zero_model_config_t *config)
{
    return (int)(2 + config->layers * GPT2_LAYER_TENSORS + 2);
}

void zero_gpt2_tensor(const zero_model_config_t *config, int index, zero_gpt2_tensor_t *t)
{
    const int64_t C = config->width, F = config->hidden;
    const double std = config->init_std, residual = std / sqrt(2.0 * (double)config->layers);
    const struct {
        const char *name;
        int64_t rows, cols;
        zero_gpt2_init_t init;
        double std;
    } table[GPT2_LAYER_TENSORS] = {
        [GPT2_LN1_W] = {"ln_1.weight", 0, C, GPT2_INIT_ONE, 0},
        [GPT2_LN1_B] = {"ln_1.bias", 0, C, GPT2_INIT_ZERO, 0},
        [GPT2_QKV_W] = {"attn.c_attn.weight", C, 3 * C, GPT2_INIT_NORMAL, std},
        [GPT2_QKV_B] = {"attn.c_attn.bias", 0, 3 * C, GPT2_INIT_ZERO, 0},
        [GPT2_PROJ_W] = {"attn.c_proj.weight", C, C, GPT2_INIT_NORMAL, residual},
        [GPT2_PROJ_B] = {"attn.c_proj.bias", 0, C, GPT2_INIT_ZERO, 0},
        [GPT2_LN2_W] = {"ln_2.weight", 0, C, GPT2_INIT_ONE, 0},
        [GPT2_LN2_B] = {"ln_2.bias", 0, C, GPT2_INIT_ZERO, 0},
        [GPT2_FC_W] = {"mlp.c_fc.weight", C, F, GPT2_INIT_NORMAL, std},
        [GPT2_FC_B] = {"mlp.c_fc.bias", 0, F, GPT2_INIT_ZERO, 0},
        [GPT2_OUT_W] = {"mlp.c_proj.weight", F, C, GPT2_INIT_NORMAL, residual},
        [GPT2_OUT_B] = {"mlp.c_proj.bias", 0, C, GPT2_INIT_ZERO, 0},
    };
    const int last = zero_gpt2_tensor_count(config) - 1;

    *t = (zero_gpt2_tensor_t){.ndim = 2, .init = GPT2_INIT_NORMAL, .std = std};
    if (index < 2) {
        snprintf(t->name, sizeof t->name, "%s.weight", index == 0 ? "wte" : "wpe");
        t->shape[0] = index == 0 ? config->vocab : config->positions;
        t->shape[1] = C;
    } else if (index >= last - 1) {
        snprintf(t->name, sizeof t->name, "ln_f.%s", index == last ? "bias" : "weight");
        t->ndim = 1;
        t->shape[0] = C;
        t->init = index == last ? GPT2_INIT_ZERO : GPT2_INIT_ONE;
    } else {
        const int l = (index - 2) / GPT2_LAYER_TENSORS, k = (index - 2) % GPT2_LAYER_TENSORS;

        snprintf(t->name, sizeof t->name, "h.%d.%s", l, table[k].name);
        t->ndim = table[k].rows ? 2 : 1;
        t->shape[0] = table[k].rows ? table[k].rows : table[k].cols;
        t->shape[1] = table[k].rows ? table[k].cols : 0;
        t->init = table[k].init;
        t->std = table[k].std;
    }
    t->count = t->ndim == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

int64_t zero_model_parameters(const zero_model_config_t *config)
{
    zero_gpt2_tensor_t t;
    int64_t sum = 0;

    for (int i = 0; i < zero_gpt2_tensor_count(config); i++) {
        zero_gpt2_tensor(config, i, &t);
        sum += t.count;
    }
    return sum;
}

double zero_model_flops_per_token(const zero_model_config_t *config, int64_t seq_len)
{
    const double C = (double)config->width, F = (double)config->hidden, L = (double)config->layers;
    const double weights = L * (4 * C * C + 2 * C * F) + (double)config->vocab * C;

    return 6 * weights + 12 * L * C * (double)seq_len; /* heads * head_dim = C */
}

int64_t zero_gpt2_sample_shape(const zero_model_t *m, int64_t n)
{
    int64_t shape = SAMPLE_SHAPE_LEAST;

    while (shape < n)
        shape *= 2;
    return shape < m->options.sample_len ? shape : m->options.sample_len;
}

/* ---- create, declare, bind -------------------------------------------------------------------------------------- */

zero_status_t zero_gpt2_engine_error(zero_model_t *m, zero_status_t status, zero_error_t *error)
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
    if (o->sample_len < 0 || o->sample_len > c->positions)
        return zero_fail(error, ZERO_ERR_ARG,
                         "samples of %" PRId64 " tokens do not fit the model's %" PRId64
                         " positions: use 0 to %" PRId64,
                         o->sample_len, c->positions, c->positions);
    if (!zero_mul_i64(o->micro_batch, o->seq_len, &rows) || rows > INT32_MAX)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a micro-batch of %" PRId64 " sequences of %" PRId64
                         " tokens is more than %d tokens at a time",
                         o->micro_batch, o->seq_len, INT32_MAX);
    if (o->dtype != ZERO_FP32 && o->dtype != ZERO_BF16)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s models are not supported yet: use fp32 or bf16",
                         zero_dtype_name(o->dtype));
    if (o->offload_activations && o->recompute != ZERO_RECOMPUTE_FULL)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "only layers' inputs can be in the host's memory until the backward pass: use ZERO_RECOMPUTE_FULL, which "
            "keeps nothing else");
    if (o->threads < 1)
        return zero_fail(error, ZERO_ERR_ARG, "%d threads for a model: at least 1 is needed", o->threads);
    if (o->micro_steps < 0)
        return zero_fail(error, ZERO_ERR_ARG, "%" PRId64 " micro-steps in a step: use 0 (which is 1) or more",
                         o->micro_steps);
    if (o->head_rows < 0 || o->head_columns < 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%" PRId64 " rows of logits at once, %" PRId64
                         " tokens of the vocabulary: use 0 (chosen by size) or more",
                         o->head_rows, o->head_columns);
    return ZERO_OK;
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
    const int64_t rows = m->options.micro_batch * m->options.seq_len, V = m->config.vocab;
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
    m->head_sums = sizes->wide_sums && m->options.dtype != ZERO_FP32 && m->head_rows < rows;
}

zero_status_t zero_model_create(zero_model_t **model, const zero_model_config_t *config,
                                const zero_model_options_t *options, zero_error_t *error)
{
    zero_model_t *m = NULL;
    zero_status_t status;

    *model = NULL;
    status = zero_gpt2_check_config(config, error);
    if (status == ZERO_OK)
        status = check_options(config, options, error);
    if (status != ZERO_OK)
        return status;
    m = calloc(1, sizeof *m);
    if (m == NULL)
        goto memory;
    m->config = *config;
    m->options = *options;
    /* A CPU call has finished when it returns, so it needs only one place. */
    m->places = options->backend == NULL || strcmp(options->backend, "cuda") != 0 || options->micro_steps < 1
                    ? 1
                    : options->micro_steps;
    if (m->places > PLACES_MOST)
        m->places = PLACES_MOST;
    m->element = zero_dtype_size(options->dtype);
    m->param_count = zero_gpt2_tensor_count(config);
    m->params = calloc((size_t)m->param_count, sizeof *m->params);
    m->units = calloc((size_t)config->layers, sizeof *m->units);
    m->x = calloc((size_t)config->layers + 1, sizeof *m->x);
    m->kept = calloc((size_t)config->layers, sizeof *m->kept);
    m->layers = calloc((size_t)config->layers, sizeof *m->layers);
    if (!m->params || !m->units || !m->x || !m->kept || !m->layers)
        goto memory;
    for (int i = 0; i < m->param_count; i++) {
        zero_gpt2_tensor_t t;

        zero_gpt2_tensor(config, i, &t);
        memcpy(m->params[i].name, t.name, sizeof t.name);
        m->params[i].count = t.count;
        m->params[i].id = -1;
    }
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
    free(m->layers);
    free(m->kept);
    free(m->x);
    free(m->units);
    free(m->params);
    free(m);
}

static zero_status_t add_units(zero_model_t *m, zero_error_t *error)
{
    const int64_t L = m->config.layers;
    zero_status_t status = ZERO_OK;
    zero_unit_t unit = -1;

    for (int i = 0; i < m->param_count && status == ZERO_OK; i++) {
        const int l = (i - 2) / GPT2_LAYER_TENSORS;
        zero_param_desc_t desc;
        zero_gpt2_tensor_t t;
        char name[24];

        if (i == 0) {
            status = zero_unit_add(m->engine, "embed", &m->embed);
            unit = m->embed;
        } else if (i == m->param_count - 2) {
            status = zero_unit_add(m->engine, "ln_f", &m->ln_f);
            unit = m->ln_f;
        } else if (i >= 2 && l < L && (i - 2) % GPT2_LAYER_TENSORS == 0) {
            snprintf(name, sizeof name, "h.%d", l);
            status = zero_unit_add(m->engine, name, &m->units[l]);
            unit = m->units[l];
        }
        if (status != ZERO_OK)
            break;
        zero_gpt2_tensor(&m->config, i, &t);
        zero_param_desc_init(&desc);
        desc.name = t.name;
        desc.ndim = t.ndim;
        memcpy(desc.shape, t.shape, sizeof t.shape);
        desc.dtype = m->options.dtype;
        desc.trainable = true;
        desc.decay_scale = t.ndim >= 2 ? 1 : 0;
        desc.elementwise = i < 2; /* embeddings, of which one is the head too */
        status = zero_param_add(m->engine, unit, &desc, &m->params[i].id);
    }
    return zero_gpt2_engine_error(m, status, error);
}

/* Runs every call of every pass without buffers. This declares the uses and finds the workspace of the kernels. */
static zero_status_t dry_run(zero_model_t *m, zero_error_t *error)
{
    zero_status_t status;

    m->dry = true;
    zero_nn_set_dry(m->nn, true);
    status = zero_gpt2_train(m, NULL, NULL, NULL, 0, error);
    if (status == ZERO_OK && m->options.eval)
        status = zero_gpt2_eval(m, NULL, NULL, NULL, m->options.micro_batch, error);
    for (int64_t n = 1; status == ZERO_OK && n <= m->options.sample_len; n = zero_gpt2_sample_shape(m, n) + 1)
        status = zero_gpt2_sample(m, NULL, n, error);
    zero_nn_set_dry(m->nn, false);
    m->dry = false;
    return status;
}

zero_status_t zero_model_declare(zero_model_t *m, zero_engine_t *engine, zero_error_t *error)
{
    zero_status_t status;
    uint64_t device, host;

    if (m->engine != NULL)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "the model is already declared on an engine: create another model for another engine");
    if (!zero_gpt2_layout(m, NULL, NULL, &device, &host))
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "the activations of %" PRId64 " sequences of %" PRId64
                         " tokens need more bytes than a 64-bit number can hold: use a smaller micro-batch",
                         m->options.micro_batch, m->options.seq_len);
    m->engine = engine;
    status = add_units(m, error);
    if (status != ZERO_OK)
        return status;
    status = zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &m->train);
    if (status == ZERO_OK && m->options.eval)
        status = zero_pass_add(engine, "eval", ZERO_PASS_EVAL, &m->eval);
    if (status == ZERO_OK && m->options.sample_len > 0)
        status = zero_pass_add(engine, "sample", ZERO_PASS_ANY_ORDER, &m->sample);
    if (status != ZERO_OK)
        return zero_gpt2_engine_error(m, status, error);
    status = dry_run(m, error);
    if (status != ZERO_OK)
        return status;
    m->workspace_bytes = zero_nn_workspace_bytes(m->nn);
    status = zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, device, &m->activations);
    if (status == ZERO_OK)
        status = zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_HOST, host, &m->shared);
    if (status == ZERO_OK && m->workspace_bytes > 0)
        status = zero_reserve(engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, m->workspace_bytes + ZERO_NN_ALIGN,
                              &m->workspace);
    if (status == ZERO_OK)
        return zero_gpt2_declare_muon(m, error);
    return zero_gpt2_engine_error(m, status, error);
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

zero_status_t zero_model_bind(zero_model_t *m, zero_error_t *error)
{
    void *base = m->engine ? zero_reserved(m->engine, m->activations) : NULL;
    uint64_t device, host;

    if (base == NULL)
        return zero_fail(error, ZERO_ERR_ORDER, "a model has addresses only after zero_model_declare and zero_commit");
    zero_gpt2_layout(m, base, zero_reserved(m->engine, m->shared), &device, &host);
    zero_nn_set_stream(m->nn, zero_stream(m->engine));
    if (m->workspace_bytes > 0)
        zero_nn_set_workspace(m->nn, zero_nn_aligned(zero_reserved(m->engine, m->workspace)), m->workspace_bytes);
    for (int i = 0; i < m->param_count; i++) {
        m->params[i].data = zero_param_data(m->engine, m->params[i].id);
        m->params[i].grad = zero_param_grad(m->engine, m->params[i].id);
    }
    zero_gpt2_bind_muon(m);
    m->bound = true;
    return ZERO_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static zero_status_t check_bound(const zero_model_t *m, zero_error_t *error)
{
    return m->bound
               ? ZERO_OK
               : zero_fail(error, ZERO_ERR_ORDER, "call zero_model_bind after zero_commit, before the model is used");
}

/* Kernels index with tokens, so all tokens are checked before anything runs. */
static zero_status_t check_tokens(const zero_model_t *m, const char *what, const int32_t *tokens, int64_t count,
                                  zero_error_t *error)
{
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= m->config.vocab)
            return zero_fail(error, ZERO_ERR_ARG,
                             "%s %" PRId64 " is %" PRId32 ", but the model's vocabulary has tokens 0 to %" PRId64, what,
                             i, tokens[i], m->config.vocab - 1);
    return ZERO_OK;
}

/* Kernels read tokens and targets, and write losses, in memory that host and device access. Each micro-step of a step
 * has its own place there. */
static int64_t place(const zero_model_t *m, int64_t micro)
{
    return micro * m->options.micro_batch * m->options.seq_len;
}

/* Copies the first rows sequences of tokens and targets to that memory and pads with token 0: kernels have one
 * shape. */
static void copy_tokens(zero_model_t *m, int64_t at, const int32_t *tokens, const int32_t *targets, int64_t rows)
{
    const int64_t T = m->options.seq_len, used = rows * T, all = m->options.micro_batch * T;

    if (used > 0) { /* else tokens may be NULL */
        memcpy(m->tokens + at, tokens, (size_t)used * sizeof *tokens);
        memcpy(m->targets + at, targets, (size_t)used * sizeof *targets);
    }
    memset(m->tokens + at + used, 0, (size_t)(all - used) * sizeof *tokens);
    memset(m->targets + at + used, 0, (size_t)(all - used) * sizeof *targets);
}

static double sum_losses(const float *losses, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++)
        sum += (double)losses[i];
    return sum;
}

/* Waits for the micro-steps in flight. Then their losses are complete, and every place is free again. */
static zero_status_t wait_for_losses(zero_model_t *m, zero_error_t *error)
{
    zero_status_t status = zero_gpt2_engine_error(m, zero_wait(m->engine), error);

    for (int64_t k = 0; k < m->pending && status == ZERO_OK; k++)
        m->loss += sum_losses(m->losses + place(m, k), place(m, 1));
    m->pending = 0;
    return status;
}

zero_status_t zero_model_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, uint32_t flags,
                               double *loss_sum, zero_error_t *error)
{
    const int64_t count = m->options.micro_batch * m->options.seq_len;
    int64_t at;
    zero_status_t status = check_bound(m, error);

    *loss_sum = 0;
    if (status == ZERO_OK)
        status = check_tokens(m, "input token", tokens, count, error);
    if (status == ZERO_OK)
        status = check_tokens(m, "target token", targets, count, error);
    if (status == ZERO_OK && m->pending == m->places)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    at = place(m, m->pending++);
    copy_tokens(m, at, tokens, targets, m->options.micro_batch);
    status = zero_gpt2_train(m, m->tokens + at, m->targets + at, m->losses + at, flags, error);
    if (status != ZERO_OK || !(flags & ZERO_LAST))
        return status;
    status = wait_for_losses(m, error);
    *loss_sum = m->loss;
    m->loss = 0;
    return status;
}

zero_status_t zero_model_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, int64_t rows,
                              double *loss_sum, zero_error_t *error)
{
    const int64_t T = m->options.seq_len, B = m->options.micro_batch;
    zero_status_t status = check_bound(m, error);

    if (status != ZERO_OK)
        return status;
    if (!m->options.eval)
        return zero_fail(error, ZERO_ERR_ORDER, "the model was created without an evaluation pass");
    if (rows < 0 || rows > B)
        return zero_fail(error, ZERO_ERR_ARG,
                         "an evaluation of %" PRId64 " sequences at a time: 0 to %" PRId64
                         " (the micro-batch) are possible",
                         rows, B);
    status = check_tokens(m, "input token", tokens, rows * T, error);
    if (status == ZERO_OK)
        status = check_tokens(m, "target token", targets, rows * T, error);
    if (status != ZERO_OK)
        return status;
    status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    copy_tokens(m, 0, tokens, targets, rows);
    status = zero_gpt2_eval(m, m->tokens, m->targets, m->losses, rows, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status == ZERO_OK)
        *loss_sum = sum_losses(m->losses, rows * T); /* without the losses of the padding */
    return status;
}

zero_status_t zero_model_logits(zero_model_t *m, const int32_t *tokens, int64_t n, float *logits, zero_error_t *error)
{
    const int64_t V = m->config.vocab;
    zero_status_t status = check_bound(m, error);

    if (status != ZERO_OK)
        return status;
    if (n < 1 || n > m->options.sample_len)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a sample of %" PRId64 " tokens: 1 to %" PRId64
                         " (the length it was created for) are possible",
                         n, m->options.sample_len);
    status = check_tokens(m, "token", tokens, n, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    memset(m->tokens, 0, (size_t)zero_gpt2_sample_shape(m, n) * sizeof *tokens);
    memcpy(m->tokens, tokens, (size_t)n * sizeof *tokens);
    status = zero_gpt2_sample(m, m->tokens, n, error);
    if (status == ZERO_OK)
        status = wait_for_losses(m, error);
    if (status != ZERO_OK)
        return status;
    for (int64_t v = 0; v < V; v++)
        logits[v] = m->options.dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)m->sampled)[v])
                                                  : ((const float *)m->sampled)[v];
    return ZERO_OK;
}

int zero_model_param_count(const zero_model_t *model)
{
    return model->param_count;
}

const char *zero_model_param_name(const zero_model_t *model, int index)
{
    return model->params[index].name;
}

zero_param_t zero_model_param(const zero_model_t *model, int index)
{
    return model->params[index].id;
}

int64_t zero_model_param_elements(const zero_model_t *model, int index)
{
    return model->params[index].count;
}
