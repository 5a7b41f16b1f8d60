/* SPDX-License-Identifier: Apache-2.0 */
/* pipe_toy.c - see pipe_toy.h. */
#include "tests/pipe_toy.h"
#include "tests/engine_reference.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) PIPE_TRY(call)
#define IS(condition) PIPE_IS(condition)

enum { EVAL_MICRO = 100, KEPT = (PIPE_LAYERS + 1) * PIPE_WIDTH + 2, WORK = 64 };

int pipe_complain(const pipe_toy_t *t, const char *format, ...)
{
    const pipe_case_t *c = &t->c;
    char text[1300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr,
            "rank %d of case {pipe %d, chunks %d, ranks %d, replicas %d, %s, stage %d, reduce %s, micro-steps %d, %s, "
            "device %d, tied %d, skips %d, weighted %d, place %d, rule %d}: %s\n",
            t->rank, c->pipe, c->chunks, c->ranks, c->replicas, zero_schedule_name(c->schedule), c->stage,
            c->reduce ? "last" : "every", c->micros, zero_dtype_name(c->dtype), c->threaded, c->tied, c->skips,
            c->weighted, c->place, c->rule, text);
    return -1;
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

pipe_param_t pipe_param(int param)
{
    if (param == 0)
        return (pipe_param_t){PIPE_EMBED, 10, PIPE_TABLE / 10, true, true};
    if (param == PIPE_PARAM_HEAD)
        return (pipe_param_t){PIPE_HEAD, 10, PIPE_TABLE / 10, true, true};
    if (param == PIPE_PARAM_FROZEN)
        return (pipe_param_t){PIPE_FROZEN, 1, PIPE_SCALES, false, false};
    int layer = (param - PIPE_PARAM_LAYER) / 2;
    bool bias = (param - PIPE_PARAM_LAYER) % 2 == 1;
    return (pipe_param_t){PIPE_LAYER + layer, bias ? 1 : 10, bias ? PIPE_WIDTH : PIPE_WIDTH / 10, true, bias};
}

static int64_t count_of(int param)
{
    pipe_param_t p = pipe_param(param);
    return p.rows * p.cols;
}

int64_t pipe_first(int param)
{
    int64_t first = 0;
    for (int p = 0; p < param; p++)
        first += count_of(p);
    return first;
}

/* Multiples of 1/128 below 2 are the same in all dtypes. */
float pipe_initial(int param, int64_t i)
{
    float x = (float)(toy_hash(1, (uint64_t)param, (uint64_t)i, 0) % 64) / 128;
    return param == PIPE_PARAM_FROZEN || (param % 2 == PIPE_PARAM_LAYER % 2 && param < PIPE_PARAM_FROZEN) ? x + 0.75f
                                                                                                          : x - 0.25f;
}

double pipe_rate(int64_t step)
{
    return 0.02 / (double)(1 + step);
}

double pipe_scale(const pipe_case_t *c)
{
    return 1.0 / (c->ranks * c->micros * 64);
}

int pipe_token(int i, int rank, int micro, int64_t step)
{
    return (i * 7 + rank * 13 + micro * 5 + (int)step * 3) % PIPE_TABLE;
}

float pipe_target(int i, int rank, int micro, int64_t step)
{
    return (float)((i * 11 + rank * 3 + micro * 5 + (int)step * 7) % 23) / 23 - 0.5f;
}

bool pipe_skips(const pipe_case_t *c, int layer, int micro, int64_t step)
{
    return c->skips && (micro + layer + step) % 3 == 0;
}

static float rounded(const pipe_toy_t *t, float x)
{
    uint16_t two[2];
    if (t->c.dtype == ZERO_FP32)
        return x;
    toy_store(two, t->c.dtype, 0, x);
    return toy_load(two, t->c.dtype, 0);
}

static float param_at(pipe_toy_t *t, int param, int64_t i)
{
    return toy_load(zero_param_data(t->engine, t->param[param]), t->c.dtype, i);
}

static void add_grad(pipe_toy_t *t, int param, int64_t i, float g)
{
    void *grad = zero_param_grad(t->engine, t->param[param]);
    toy_store(grad, t->c.dtype, i, toy_load(grad, t->c.dtype, i) + g);
}

static int head_param(const pipe_toy_t *t)
{
    return t->c.tied ? 0 : PIPE_PARAM_HEAD;
}

static int layer_begin(const pipe_toy_t *t, int chunk)
{
    return t->c.chunks > 0 ? PIPE_LAYERS / t->c.chunks * chunk : 0;
}

static int layer_end(const pipe_toy_t *t, int chunk)
{
    return t->c.chunks > 0 ? layer_begin(t, chunk + 1) : PIPE_LAYERS;
}

/* The loss, and in training its gradients: of the head in place, of what the head reads to h. */
static int head(pipe_toy_t *t, int micro, bool train, float *h)
{
    const int p = head_param(t), rank = zero_data_index(t->engine);
    const zero_unit_t unit = t->unit[t->c.tied ? PIPE_EMBED : PIPE_HEAD];
    TRY(zero_acquire(t->engine, unit));
    for (int i = 0; i < PIPE_WIDTH; i++) {
        float w = param_at(t, p, i % PIPE_TABLE), d = h[i] * w - pipe_target(i, rank, micro, t->step);
        t->loss += 0.5 * (double)d * (double)d;
        if (train)
            add_grad(t, p, i % PIPE_TABLE, d * h[i]);
        h[i] = rounded(t, d * w);
    }
    TRY(zero_release(t->engine, unit));
    return 0;
}

/* Layer 1 reads the frozen factors, which are held while its own unit is acquired. */
static int take(pipe_toy_t *t, int layer)
{
    if (layer == 1)
        TRY(zero_acquire(t->engine, t->unit[PIPE_FROZEN]));
    TRY(zero_acquire(t->engine, t->unit[PIPE_LAYER + layer]));
    return 0;
}

static int give(pipe_toy_t *t, int layer)
{
    TRY(zero_release(t->engine, t->unit[PIPE_LAYER + layer]));
    if (layer == 1)
        TRY(zero_release(t->engine, t->unit[PIPE_FROZEN]));
    return 0;
}

static float factor(pipe_toy_t *t, int layer, int i)
{
    return layer == 1 ? param_at(t, PIPE_PARAM_FROZEN, i % PIPE_SCALES) : 1;
}

static int forward(pipe_toy_t *t, const zero_task_t *task, bool train)
{
    const int begin = layer_begin(t, task->chunk), end = layer_end(t, task->chunk), rank = zero_data_index(t->engine);
    const int micro = train ? task->micro : EVAL_MICRO;
    float h[PIPE_WIDTH], *kept = task->kept, *work = task->workspace;
    IS((task->input == NULL) == (begin == 0) && (task->output == NULL) == (end == PIPE_LAYERS));
    if (begin == 0) {
        TRY(zero_acquire(t->engine, t->unit[PIPE_EMBED]));
        for (int i = 0; i < PIPE_WIDTH; i++)
            h[i] = param_at(t, 0, pipe_token(i, rank, micro, t->step));
        TRY(zero_release(t->engine, t->unit[PIPE_EMBED]));
    }
    for (int i = 0; i < PIPE_WIDTH && begin > 0; i++)
        h[i] = toy_load(task->input, t->c.dtype, i);
    for (int l = begin; l < end; l++) {
        if (take(t, l))
            return -1;
        for (int i = 0; i < PIPE_WIDTH; i++) {
            if (train)
                kept[(l - begin) * PIPE_WIDTH + i] = h[i];
            h[i] = rounded(t, h[i] * param_at(t, PIPE_PARAM_LAYER + 2 * l, i) * factor(t, l, i) +
                                  param_at(t, PIPE_PARAM_LAYER + 2 * l + 1, i));
        }
        if (give(t, l))
            return -1;
    }
    if (end == PIPE_LAYERS && head(t, micro, train, h))
        return -1;
    for (int i = 0; i < PIPE_WIDTH && end == PIPE_LAYERS && train; i++)
        kept[(end - begin) * PIPE_WIDTH + i] = h[i];
    for (int i = 0; i < PIPE_WIDTH && end < PIPE_LAYERS; i++)
        toy_store(task->output, t->c.dtype, i, h[i]);
    if (train) {
        kept[KEPT - 2] = (float)task->chunk, kept[KEPT - 1] = (float)micro;
        IS(task->chunk > 0 || t->c.chunks == 0 || work != NULL);
    }
    return 0;
}

static int backward(pipe_toy_t *t, const zero_task_t *task)
{
    const int begin = layer_begin(t, task->chunk), end = layer_end(t, task->chunk), rank = zero_data_index(t->engine);
    const float *kept = task->kept;
    float d[PIPE_WIDTH];
    IS(kept[KEPT - 2] == (float)task->chunk && kept[KEPT - 1] == (float)task->micro);
    IS((task->output_grad == NULL) == (end == PIPE_LAYERS) && (task->input_grad == NULL) == (begin == 0));
    for (int i = 0; i < PIPE_WIDTH; i++) {
        d[i] = end == PIPE_LAYERS ? kept[(end - begin) * PIPE_WIDTH + i] : toy_load(task->output_grad, t->c.dtype, i);
        IS(begin == 0 || toy_load(task->input, t->c.dtype, i) == kept[i]);
    }
    for (int l = end - 1; l >= begin; l--) {
        if (pipe_skips(&t->c, l, task->micro, t->step))
            continue;
        if (take(t, l))
            return -1;
        const int w = PIPE_PARAM_LAYER + 2 * l;
        for (int i = 0; i < PIPE_WIDTH; i++) {
            float f = factor(t, l, i);
            add_grad(t, w, i, d[i] * kept[(l - begin) * PIPE_WIDTH + i] * f);
            add_grad(t, w + 1, i, d[i]);
            d[i] = rounded(t, d[i] * param_at(t, w, i) * f);
        }
        if (give(t, l))
            return -1;
    }
    if (begin == 0) {
        TRY(zero_acquire(t->engine, t->unit[PIPE_EMBED]));
        for (int i = 0; i < PIPE_WIDTH; i++)
            add_grad(t, 0, pipe_token(i, rank, task->micro, t->step), d[i]);
        TRY(zero_release(t->engine, t->unit[PIPE_EMBED]));
    }
    for (int i = 0; i < PIPE_WIDTH && begin > 0; i++)
        toy_store(task->input_grad, t->c.dtype, i, d[i]);
    return 0;
}

int pipe_task(pipe_toy_t *t, const zero_task_t *task, bool train)
{
    return task->phase == ZERO_FORWARD ? forward(t, task, train) : backward(t, task);
}

static int by_tasks(pipe_toy_t *t, bool train)
{
    int begun[2] = {0, 0};
    TRY(zero_tasks_begin(t->engine, train ? t->train : t->eval));
    for (zero_task_t task = {.size = sizeof task};;) {
        TRY(zero_task_next(t->engine, &task));
        if (task.phase == ZERO_TASKS_END)
            break;
        begun[task.phase]++;
        IS(task.chunk % t->c.pipe == zero_pipe_index(t->engine));
        if (pipe_task(t, &task, train))
            return -1;
        if (t->c.weighted && train && task.chunk == t->c.chunks - 1)
            TRY(zero_step_weight(t->engine, 1 + zero_data_index(t->engine)));
    }
    const int wanted = t->c.chunks / t->c.pipe * (train ? t->c.micros : 1);
    IS(begun[0] == wanted && begun[1] == (train ? wanted : 0));
    return 0;
}

static int by_micros(pipe_toy_t *t, bool train)
{
    for (int micro = 0; micro < (train ? t->c.micros : 1); micro++) {
        zero_task_t task = {.micro = micro, .kept = t->kept};
        TRY(zero_micro_begin(t->engine, train ? t->train : t->eval, train && micro + 1 == t->c.micros ? ZERO_LAST : 0));
        if (forward(t, &task, train) || (train && backward(t, &task)))
            return -1;
        TRY(zero_micro_end(t->engine));
    }
    if (t->c.weighted && train)
        TRY(zero_step_weight(t->engine, 1 + zero_data_index(t->engine)));
    return 0;
}

int pipe_pass(pipe_toy_t *t, bool train)
{
    t->loss = 0;
    if (t->c.weighted && t->c.chunks > 0 && train) /* the last stage sets its weight anew */
        TRY(zero_step_weight(t->engine, 0));
    return t->c.chunks > 0 ? by_tasks(t, train) : by_micros(t, train);
}

/* ---- declarations ----------------------------------------------------------------------------------------------- */

/* A custom optimizer, and a stand-in for an orthogonalization. */
static int update(void *ctx, const zero_update_args_t *a)
{
    (void)ctx;
    for (int64_t i = 0; i < a->count; i++) {
        a->state[0][i] = 0.9f * a->state[0][i] + toy_load(a->grad, a->grad_dtype, i) * (float)a->grad_factor;
        a->master[i] -= 50 * (float)a->lr * a->state[0][i];
    }
    return 0;
}

static int matrix(void *ctx, const zero_matrix_args_t *a)
{
    float most = 1e-6f;
    (void)ctx;
    for (int64_t i = 0; i < a->rows * a->cols; i++)
        most = fmaxf(most, fabsf(a->values[i]));
    for (int64_t i = 0; i < a->rows * a->cols; i++)
        a->values[i] /= most;
    return 0;
}

static void configure(zero_config_t *config, const pipe_case_t *c)
{
    config->mesh.pipe = c->pipe;
    config->mesh.replicas = c->replicas > 0 ? c->replicas : 1;
    config->schedule = c->schedule;
    config->reduce = c->reduce;
    config->micro_steps = c->micros;
    config->grad_scale = c->weighted ? 1.0 / 64 : pipe_scale(c);
    config->clip = PIPE_CLIP;
    config->eps = 1e-3;
    config->weight_decay = 0.1;
    config->persist_bytes = 1000; /* the embedding, the head and layers of fp32 are larger */
    config->timeout_s = 60;
    config->saves = c->save != NULL;
    config->rule = c->rule;
    config->update = c->rule == ZERO_RULE_CUSTOM ? update : NULL;
    config->update_states = c->rule == ZERO_RULE_CUSTOM ? 1 : 0;
    config->matrix = c->rule == ZERO_RULE_MUON ? matrix : NULL;
    config->nvme_path = ".";
    if (c->place != PIPE_DEVICE) {
        config->optimizer.tier = c->place == PIPE_NVME ? ZERO_TIER_NVME : ZERO_TIER_HOST;
        config->gradients.tier = ZERO_TIER_HOST;
    }
    if (c->place >= PIPE_PARAMETERS)
        config->parameters.tier = config->optimizer.tier;
}

static int declare_params(pipe_toy_t *t)
{
    static const char *const units[] = {"embed", "layer.0", "layer.1", "layer.2", "layer.3", "frozen", "head"};
    char name[32];
    for (int u = 0; u < PIPE_UNITS - t->c.tied; u++)
        TRY(zero_unit_add(t->engine, units[u], &t->unit[u]));
    for (int p = 0; p < PIPE_PARAMS - t->c.tied; p++) {
        zero_param_desc_t desc;
        pipe_param_t param = pipe_param(p);
        zero_param_desc_init(&desc);
        snprintf(name, sizeof name, "%s.%s", units[param.unit],
                 param.unit >= PIPE_LAYER && param.unit < PIPE_FROZEN && param.elementwise ? "b" : "w");
        desc.name = name;
        desc.ndim = 2;
        desc.shape[0] = param.rows;
        desc.shape[1] = param.cols;
        desc.dtype = t->c.dtype;
        desc.trainable = param.trainable;
        desc.elementwise = param.elementwise;
        TRY(zero_param_add(t->engine, t->unit[param.unit], &desc, &t->param[p]));
    }
    return 0;
}

static int declare_layer(pipe_toy_t *t, zero_pass_t pass, int layer, uint32_t flags)
{
    if (layer == 1)
        TRY(zero_use_add(t->engine, pass, t->unit[PIPE_FROZEN], ZERO_READ | ZERO_HOLD));
    TRY(zero_use_add(t->engine, pass, t->unit[PIPE_LAYER + layer], flags));
    return 0;
}

static int declare_task(pipe_toy_t *t, zero_pass_t pass, int chunk, zero_phase_t phase)
{
    const int begin = layer_begin(t, chunk), end = layer_end(t, chunk);
    if (t->c.chunks > 0)
        TRY(zero_task_add(t->engine, pass, chunk, phase));
    if (begin == 0 && phase == ZERO_FORWARD)
        TRY(zero_use_add(t->engine, pass, t->unit[PIPE_EMBED], ZERO_READ));
    for (int l = begin; l < end && phase == ZERO_FORWARD; l++)
        if (declare_layer(t, pass, l, ZERO_READ))
            return -1;
    if (end == PIPE_LAYERS && phase == ZERO_FORWARD)
        TRY(zero_use_add(t->engine, pass, t->unit[t->c.tied ? PIPE_EMBED : PIPE_HEAD],
                         ZERO_READ | (pass == t->train ? ZERO_GRAD : 0u)));
    for (int l = end - 1; l >= begin && phase == ZERO_BACKWARD; l--)
        if (declare_layer(t, pass, l, ZERO_READ | ZERO_GRAD))
            return -1;
    if (begin == 0 && phase == ZERO_BACKWARD)
        TRY(zero_use_add(t->engine, pass, t->unit[PIPE_EMBED], ZERO_GRAD));
    return 0;
}

static int declare_passes(pipe_toy_t *t)
{
    const int chunks = t->c.chunks > 0 ? t->c.chunks : 1;
    if (t->c.chunks > 0)
        TRY(zero_chunks(t->engine, chunks));
    for (int c = 0; c < t->c.chunks; c++) {
        if (c + 1 < chunks)
            TRY(zero_chunk_link(t->engine, c, PIPE_WIDTH, t->c.dtype));
        TRY(zero_chunk_reserve(t->engine, c, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, KEPT * sizeof(float)));
        TRY(zero_chunk_reserve(t->engine, c, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, WORK * (uint64_t)(1 + c)));
        TRY(zero_chunk_reserve(t->engine, c, ZERO_KIND_ACTIVATIONS, ZERO_TIER_HOST, WORK));
    }
    TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->train));
    TRY(zero_pass_add(t->engine, "eval", ZERO_PASS_EVAL, &t->eval));
    TRY(zero_pass_add(t->engine, "any", ZERO_PASS_ANY_ORDER, &t->any));
    for (int c = 0; c < chunks; c++)
        if (declare_task(t, t->train, c, ZERO_FORWARD) || declare_task(t, t->eval, c, ZERO_FORWARD))
            return -1;
    for (int c = chunks - 1; c >= 0; c--)
        if (declare_task(t, t->train, c, ZERO_BACKWARD))
            return -1;
    return 0;
}

int pipe_create(pipe_toy_t *t, const pipe_case_t *c, zero_comm_t *comm, void (*edit)(zero_config_t *config, void *ctx),
                void *ctx)
{
    zero_device_options_t device;
    zero_config_t config;
    zero_error_t error = {0};
    *t = (pipe_toy_t){.c = *c, .rank = zero_comm_rank(comm)};
    zero_device_options_init(&device);
    device.threaded = c->threaded > 0;
    device.delay_seed = c->threaded > 1 ? (uint64_t)(1 + t->rank) : 0;
    if (zero_device_cpu(&t->device, &device, &error) != ZERO_OK)
        return pipe_complain(t, "%s", error.text);
    zero_config_init(&config);
    config.comm = comm;
    config.device = t->device;
    IS(zero_config_stage(&config, c->stage) == ZERO_OK);
    configure(&config, c);
    if (edit)
        edit(&config, ctx);
    if (zero_create(&t->engine, &config, &error) != ZERO_OK)
        return pipe_complain(t, "%s", error.text);
    IS((t->kept = calloc(KEPT, sizeof(float))) != NULL);
    return declare_params(t) || declare_passes(t) ? -1 : 0;
}

void pipe_destroy(pipe_toy_t *t)
{
    zero_destroy(t->engine);
    zero_device_destroy(t->device);
    free(t->kept);
}
