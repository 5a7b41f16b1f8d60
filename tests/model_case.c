/* SPDX-License-Identifier: Apache-2.0 */
/* model_case.c - see model_case.h. The training loop uses only the public API, as a user's would. */
#include "tests/model_case.h"

#include "tests/ranks.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASE_SECONDS 120

/* ---- golden files ----------------------------------------------------------------------------------------------- */

static void need(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "tests/golden: %s\n", what);
        exit(1);
    }
}

const char *model_path(const char *name)
{
    static char path[4096];
    const char *root = getenv("srcdir");

    snprintf(path, sizeof path, "%s/tests/golden/%s", root ? root : ".", name);
    return path;
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    need(json_is_number(value), key);
    return json_number_value(value);
}

static void numbers(const json_t *object, const char *key, double *out, int count)
{
    const json_t *array = json_object_get(object, key);

    need(json_array_size(array) == (size_t)count, key);
    for (int i = 0; i < count; i++)
        out[i] = json_number_value(json_array_get(array, (size_t)i));
}

static json_t *read_json(const char *name)
{
    json_error_t where;
    json_t *root = json_load_file(model_path(name), 0, &where);

    need(root != NULL, where.text);
    return root;
}

/* The run of that name in a file; NULL: it has none. *root is the file's, to be released. */
static json_t *find_run(const char *file, const char *name, json_t **root)
{
    json_t *each;
    size_t i;

    *root = read_json(file);
    json_array_foreach(json_object_get(*root, "runs"), i,
                       each) if (!strcmp(json_string_value(json_object_get(each, "name")), name)) return each;
    json_decref(*root);
    return NULL;
}

static int64_t read_sequence(const json_t *example, const char *key, int64_t most, int32_t *out)
{
    const json_t *array = json_object_get(example, key);
    const size_t count = json_array_size(array);

    need(count >= 1 && count <= (size_t)most, key);
    for (size_t i = 0; i < count; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return (int64_t)count;
}

static void read_examples(model_golden_t *g, const json_t *array)
{
    g->example_count = (int64_t)json_array_size(array);
    need(g->example_count >= 1 && g->example_count <= MODEL_EXAMPLES_MOST, "examples");
    need(g->source_len <= MODEL_LENGTH_MOST && g->seq_len <= MODEL_LENGTH_MOST, "lengths");
    for (int64_t i = 0; i < g->example_count; i++) {
        const json_t *example = json_array_get(array, (size_t)i);
        model_example_t *e = &g->examples[i];

        e->source_count = read_sequence(example, "source", g->source_len, e->source);
        e->target_count = read_sequence(example, "target", g->seq_len - 1, e->target);
    }
}

void model_read_golden(model_golden_t *g, const char *name)
{
    json_t *root, *run = find_run("gpt2.json", name, &root);
    const bool gpt2 = run != NULL;
    const json_t *betas;

    if (run == NULL)
        run = find_run("families.json", name, &root);
    if (run == NULL)
        run = find_run("lora.json", name, &root);
    if (run == NULL)
        run = find_run("seq2seq.json", name, &root);
    need(run != NULL, name);
    memset(g, 0, sizeof *g);
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(g->model, sizeof g->model, "%s", json_string_value(json_object_get(run, "model")));
    if (json_object_get(run, "adapters") != NULL) {
        snprintf(g->adapters, sizeof g->adapters, "%s", json_string_value(json_object_get(run, "adapters")));
        snprintf(g->targets, sizeof g->targets, "%s", json_string_value(json_object_get(run, "targets")));
        g->rank = (int64_t)number(run, "rank");
        g->alpha = number(run, "alpha");
    }
    g->dtype = strcmp(json_string_value(json_object_get(run, "dtype")), "bf16") == 0 ? ZERO_BF16 : ZERO_FP32;
    g->tolerance = g->dtype == ZERO_FP32 ? MODEL_FP32_TOLERANCE : gpt2 ? 2e-2 : 5e-3;
    g->seq_len = (int64_t)number(run, "seq_len");
    g->batch = (int64_t)number(run, "batch");
    if (json_object_get(run, "source_len") != NULL) {
        g->source_len = (int64_t)number(run, "source_len");
        read_examples(g, json_object_get(root, "examples"));
    }
    g->steps = (int)number(run, "steps");
    need(g->steps >= 1 && g->steps <= MODEL_STEPS_MOST, "steps");
    betas = json_object_get(run, "betas");
    g->beta1 = json_number_value(json_array_get(betas, 0));
    g->beta2 = json_number_value(json_array_get(betas, 1));
    g->eps = number(run, "eps");
    g->weight_decay = number(run, "weight_decay");
    g->clip = number(run, "clip");
    numbers(run, "losses", g->losses, g->steps);
    numbers(run, "norms", g->norms, g->steps);
    numbers(run, "rates", g->rates, g->steps);
    g->eval_before = number(run, "eval_before");
    g->eval_after = number(run, "eval_after");
    json_decref(root);
}

model_case_t model_golden_case(model_golden_t *golden, const char *name, int world, int64_t micro_batch,
                               const char *backend)
{
    model_read_golden(golden, name);
    return (model_case_t){.golden = golden,
                          .folder = golden->model,
                          .world = world,
                          .window = 2,
                          .threads = 1,
                          .backend = backend,
                          .micro_batch = micro_batch,
                          .reduce = ZERO_REDUCE_EVERY,
                          .steps = golden->steps};
}

double model_read_eval(const char *folder, int64_t *seq_len)
{
    json_t *root = read_json("gpt2.json");
    const double loss = number(json_object_get(root, "eval_losses"), folder);

    *seq_len = (int64_t)number(root, "eval_seq_len");
    json_decref(root);
    return loss;
}

int32_t *model_read_tokens(int64_t *count)
{
    int32_t header[256], *tokens;
    FILE *file = fopen(model_path("gpt2.bin"), "rb");

    need(file && fread(header, sizeof header, 1, file) == 1 && header[0] == 20240520 && header[1] == 1 && header[2] > 0,
         "gpt2.bin");
    *count = header[2];
    tokens = malloc((size_t)*count * sizeof *tokens);
    need(tokens != NULL, "memory");
    for (int64_t i = 0; i < *count; i++) {
        uint16_t t;

        need(fread(&t, sizeof t, 1, file) == 1, "gpt2.bin is short");
        tokens[i] = t;
    }
    fclose(file);
    return tokens;
}

/* ---- one rank --------------------------------------------------------------------------------------------------- */

/* Ranks that need different data. */
static int64_t data_of(const model_case_t *c)
{
    return c->world / (c->tensor > 1 ? c->tensor : 1) / (c->context > 1 ? c->context : 1) / (c->pipe > 1 ? c->pipe : 1);
}

static zero_status_t declare(model_rank_t *r, const model_case_t *c, const zero_bootstrap_t *bootstrap)
{
    const model_golden_t *g = c->golden;
    const int64_t data = data_of(c);
    zero_model_options_t options = {.micro_batch = c->micro_batch,
                                    .seq_len = g->seq_len,
                                    .source_len = g->source_len,
                                    .sample_len = c->tensor > 1 && g->source_len > 0 ? 0 : r->config.positions,
                                    .micro_steps = g->batch / (c->micro_batch * data),
                                    .dtype = g->dtype,
                                    .recompute = c->recompute,
                                    .offload_activations = c->offload_activations,
                                    .threads = c->threads,
                                    .backend = c->backend,
                                    .eval = true,
                                    .packed = c->packed,
                                    .untrained = c->untrained,
                                    .chunks = c->pipe > 1 ? c->pipe : 0,
                                    .tensor = c->tensor,
                                    .context = c->context,
                                    .whole_rows = c->whole_rows,
                                    .head_rows = c->head_rows,
                                    .head_columns = c->head_columns,
                                    .tile_bytes = c->tile_bytes};
    zero_device_options_t device;
    zero_config_t config;
    zero_status_t status;

    if (g->rank > 0 &&
        (status = zero_model_lora(&options.lora, &r->config, g->rank, g->alpha, g->targets, &r->error)) != ZERO_OK)
        return status;
    zero_device_options_init(&device);
    device.threaded = c->threaded;
    device.delay_seed = c->threaded ? 1 + (uint64_t)c->stage * 7 + (uint64_t)bootstrap->rank : 0;
    device.threads = 1;
    status = zero_device_cpu(&r->device, &device, &r->error);
    if (status == ZERO_OK)
        status =
            c->world == 1 ? zero_comm_self(&r->comm, &r->error) : zero_comm_shm(&r->comm, bootstrap, NULL, &r->error);
    if (status != ZERO_OK)
        return status;
    zero_config_init(&config);
    status = zero_config_stage(&config, c->stage);
    if (status != ZERO_OK)
        return status;
    if (c->offload)
        config.parameters.tier = config.gradients.tier = config.optimizer.tier = ZERO_TIER_HOST;
    config.comm = r->comm;
    config.device = r->device;
    config.window = c->window;
    config.reduce = c->reduce;
    config.micro_steps = (int)(g->batch / (data * c->micro_batch));
    config.mesh.tensor = c->tensor > 1 ? c->tensor : 1;
    config.mesh.context = c->context > 1 ? c->context : 1;
    config.mesh.pipe = c->pipe > 1 ? c->pipe : 1;
    config.persist_bytes = c->persist_bytes;
    config.clip = g->clip;
    if (g->source_len == 0) /* else targets are counted in each step */
        config.grad_scale = 1.0 / (double)(g->batch * g->seq_len);
    config.beta1 = g->beta1;
    config.beta2 = g->beta2;
    config.eps = g->eps;
    config.weight_decay = g->weight_decay;
    config.timeout_s = CASE_SECONDS / 2;
    status = zero_create(&r->engine, &config, &r->error);
    if (status == ZERO_OK)
        status = zero_model_create(&r->model, &r->config, &options, &r->error);
    if (status == ZERO_OK)
        status = zero_model_declare(r->model, r->engine, &r->error);
    if (status == ZERO_OK && (status = zero_commit(r->engine)) != ZERO_OK)
        snprintf(r->error.text, sizeof r->error.text, "%s", zero_last_error(r->engine));
    if (status == ZERO_OK)
        status = zero_model_bind(r->model, &r->error);
    return status;
}

int model_rank_open(model_rank_t *r, const model_case_t *c, const zero_bootstrap_t *bootstrap)
{
    zero_status_t status;

    memset(r, 0, sizeof *r);
    status = c->config ? ZERO_OK : zero_model_read_config(&r->config, model_path(c->folder), &r->error);
    if (c->config)
        r->config = *c->config;
    if (status == ZERO_OK)
        status = declare(r, c, bootstrap);
    if (status == ZERO_OK && c->config)
        status = zero_model_init(r->model, 1, &r->error);
    else if (status == ZERO_OK)
        status = zero_model_load(r->model, model_path(c->folder), &r->error);
    if (status == ZERO_OK && c->golden->rank > 0 && !c->config)
        status = zero_model_load_adapters(r->model, model_path(c->golden->adapters), &r->error);
    if (status != ZERO_OK)
        fprintf(stderr, "rank %d: %s: %s\n", bootstrap->rank, zero_status_name(status), r->error.text);
    return status == ZERO_OK ? 0 : -1;
}

void model_rank_close(model_rank_t *r)
{
    zero_destroy(r->engine);
    zero_model_destroy(r->model);
    zero_comm_destroy(r->comm);
    zero_device_destroy(r->device);
}

static void fill_window(const int32_t *tokens, int64_t count, int64_t T, int64_t i, int32_t *x, int32_t *y)
{
    const int32_t *from = tokens + i % ((count - 1) / T) * T;

    memcpy(x, from, (size_t)T * sizeof *x);
    memcpy(y, from + 1, (size_t)T * sizeof *y);
}

/* The decoder reads token 0 and the target, and is to write the target and token 0. */
static int64_t fill_example(const model_case_t *c, int64_t i, int32_t *x, int32_t *y, int32_t *source, int32_t *length)
{
    const model_golden_t *g = c->golden;
    const model_example_t *e = &g->examples[i % g->example_count];
    const int64_t n = e->target_count;

    for (int64_t t = 0; t < g->seq_len; t++) {
        x[t] = t == 0 ? 0 : t <= n ? e->target[t - 1] : c->padding;
        y[t] = t < n ? e->target[t] : t == n ? 0 : ZERO_NN_IGNORE;
    }
    for (int64_t s = 0; s < g->source_len; s++)
        source[s] = s < e->source_count ? e->source[s] : c->padding;
    *length = (int32_t)e->source_count;
    return n + 1;
}

void model_fill_rows(model_rows_t *r, const model_case_t *c, const int32_t *tokens, int64_t count, int64_t first,
                     int64_t n)
{
    const int64_t T = c->golden->seq_len, S = c->golden->source_len;
    int32_t *x = malloc((size_t)(n * (2 * T + S + 1) + 1) * sizeof *x), *y = x + n * T, *source = y + n * T,
            *lengths = source + n * S;

    need(x != NULL, "memory");
    *r = (model_rows_t){.memory = x, .counted = S > 0 ? 0 : n * T, .batch = {.tokens = x, .targets = y}};
    for (int64_t i = 0; i < n; i++)
        if (S > 0)
            r->counted += fill_example(c, first + i, x + i * T, y + i * T, source + i * S, lengths + i);
        else
            fill_window(tokens, count, T, first + i, x + i * T, y + i * T);
    if (S > 0) {
        r->batch.source = source;
        r->batch.source_lengths = lengths;
    }
}

/* Whether the targets of a rank count: one of those with the same data. */
static bool counts(const model_rank_t *r)
{
    return zero_axis_index(r->engine, ZERO_AXIS_TENSOR) == 0 && zero_axis_index(r->engine, ZERO_AXIS_CONTEXT) == 0 &&
           zero_pipe_index(r->engine) == 0;
}

double model_rank_eval(model_rank_t *r, const model_case_t *c, const int32_t *tokens, int64_t count)
{
    const model_golden_t *g = c->golden;
    const int64_t B = c->micro_batch, rank = zero_data_index(r->engine), data = data_of(c);
    const int64_t all = g->source_len > 0 ? g->example_count : (count - 1) / g->seq_len;
    double sums[2] = {0}; /* of losses; targets */

    for (int64_t first = rank * B; first - rank * B < all && !isnan(sums[0]); first += data * B) {
        const int64_t left = all - first, n = left < 0 ? 0 : left < B ? left : B;
        model_rows_t rows;
        double loss = 0;

        model_fill_rows(&rows, c, tokens, count, first, n);
        if (zero_model_eval(r->model, &rows.batch, n, &loss, &r->error) != ZERO_OK) {
            fprintf(stderr, "rank %d: evaluation: %s\n", zero_comm_rank(r->comm), r->error.text);
            zero_abort(r->engine, r->error.text);
            loss = NAN;
        }
        free(rows.memory);
        sums[0] += loss;
        sums[1] += counts(r) ? (double)rows.counted : 0;
    }
    if (!isnan(sums[0]) && zero_sum(r->engine, sums, 2) != ZERO_OK)
        return NAN;
    return sums[0] / sums[1];
}

/* One step over this rank's rows. Returns 0, or -1 after printing. */
static int step(model_rank_t *r, const model_case_t *c, const int32_t *tokens, int64_t count, int s, double *loss,
                double *norm)
{
    const model_golden_t *g = c->golden;
    const int64_t mine = g->batch / data_of(c), rank = zero_data_index(r->engine), micros = mine / c->micro_batch;
    model_rows_t *rows = calloc((size_t)micros, sizeof *rows);
    zero_model_batch_t *batches = calloc((size_t)micros, sizeof *batches);
    zero_stats_t stats = {.size = sizeof stats};
    double sum = 0, part = 0, counted = 0;
    zero_status_t status = ZERO_OK;

    need(rows && batches, "memory");
    for (int64_t j = 0; j < micros; j++) {
        model_fill_rows(&rows[j], c, tokens, count, s * g->batch + rank * mine + j * c->micro_batch, c->micro_batch);
        batches[j] = rows[j].batch;
        counted += counts(r) ? (double)rows[j].counted : 0;
    }
    if (c->pipe > 1)
        status = zero_model_train_step(r->model, batches, &sum, &r->error);
    for (int64_t j = 0; j < micros && c->pipe <= 1 && status == ZERO_OK; j++) {
        status = zero_model_train(r->model, &batches[j], j + 1 == micros ? ZERO_LAST : 0, &part, &r->error);
        sum += part;
    }
    for (int64_t j = 0; j < micros; j++)
        free(rows[j].memory);
    free(rows);
    free(batches);
    if (status != ZERO_OK) {
        fprintf(stderr, "rank %d, step %d: %s\n", zero_comm_rank(r->comm), s + 1, r->error.text);
        zero_abort(r->engine, r->error.text);
        return -1;
    }
    if ((g->source_len > 0 && zero_step_weight(r->engine, counted) != ZERO_OK) ||
        zero_step(r->engine, g->rates[s]) != ZERO_OK || zero_step_stats(r->engine, &stats) != ZERO_OK ||
        zero_sum(r->engine, &sum, 1) != ZERO_OK) {
        fprintf(stderr, "rank %d, step %d: %s\n", zero_comm_rank(r->comm), s + 1, zero_last_error(r->engine));
        return -1;
    }
    *loss = sum / (g->source_len > 0 ? stats.weight : (double)(g->batch * g->seq_len));
    *norm = stats.grad_norm;
    return 0;
}

typedef struct shared {
    model_case_t c;
    model_result_t result;
    double seen[8][2 * MODEL_STEPS_MOST + 2]; /* by rank: losses, norms, evaluations */
} shared_t;

typedef struct reader {
    shared_t *shared;
    int64_t offset;
} reader_t;

static int take(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    reader_t *reader = ctx;

    (void)param;
    for (int64_t i = 0; i < count; i++) {
        reader->shared->result.values[reader->offset + begin + i] = values[i];
        __atomic_add_fetch(&reader->shared->result.owners[reader->offset + begin + i], 1, __ATOMIC_RELAXED);
    }
    return 0;
}

static int rank_main(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    shared_t *shared = arg;
    const model_case_t *c = &shared->c;
    double *losses = shared->seen[rank], *norms = losses + MODEL_STEPS_MOST, *evals = norms + MODEL_STEPS_MOST;
    reader_t reader = {shared, 0};
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    model_rank_t r;
    int result = model_rank_open(&r, c, bootstrap);

    for (int64_t i = 0; c->config && i < count; i++)
        tokens[i] %= (int32_t)c->config->vocab;
    (void)world;
    if (result != 0)
        goto end;
    evals[0] = model_rank_eval(&r, c, tokens, count);
    for (int s = 0; s < c->steps && result == 0; s++)
        result = step(&r, c, tokens, count, s, &losses[s], &norms[s]);
    if (result != 0)
        goto end;
    evals[1] = model_rank_eval(&r, c, tokens, count);
    for (int i = 0; i < zero_model_param_count(r.model) && result == 0; i++) {
        const zero_state_t state = zero_model_param_state(r.model, i);

        if (zero_param_read(r.engine, zero_model_param(r.model, i), state, take, &reader) != ZERO_OK) {
            fprintf(stderr, "rank %d: %s\n", rank, zero_last_error(r.engine));
            result = -1;
        }
        reader.offset += zero_model_param_elements(r.model, i);
        if (rank == 0 && state == ZERO_STATE_PARAM)
            shared->result.frozen = reader.offset;
    }
    if (rank == 0)
        shared->result.params = reader.offset;
end:
    model_rank_close(&r);
    free(tokens);
    return result;
}

int model_run(const model_case_t *c, model_result_t *result)
{
    shared_t *shared = ranks_shared(sizeof *shared);
    int status;

    shared->c = *c;
    status = ranks_run(c->world, CASE_SECONDS, rank_main, shared);
    shared->result.same_on_ranks = true;
    for (int r = 1; r < c->world; r++)
        if (memcmp(shared->seen[0], shared->seen[r], sizeof shared->seen[0]) != 0)
            shared->result.same_on_ranks = false;
    memcpy(shared->result.losses, shared->seen[0], sizeof shared->result.losses);
    memcpy(shared->result.norms, shared->seen[0] + MODEL_STEPS_MOST, sizeof shared->result.norms);
    shared->result.eval_before = shared->seen[0][2 * MODEL_STEPS_MOST];
    shared->result.eval_after = shared->seen[0][2 * MODEL_STEPS_MOST + 1];
    *result = shared->result;
    ranks_unshare(shared, sizeof *shared);
    return status;
}
