/* SPDX-License-Identifier: Apache-2.0 */
/* engine_small.c - see engine_small.h. */
#include "tests/engine_small.h"
#include "zero/device/device.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const small_param_t small_params[SMALL_PARAMS] = {
    {"a.w", 0, 1000, true, false, 1, 1}, {"a.b", 0, 7, true, false, 0, 0.5},     {"a.none", 0, 0, true, false, 1, 1},
    {"f.w", 1, 300, false, false, 1, 1}, {"m.w", 2, 5000, true, false, 1, 1},    {"m.s", 2, 130, true, true, 0, 2},
    {"m.f", 2, 33, false, false, 1, 1},  {"b.w", 3, 60000, true, false, 0.5, 1},
};
static const char *const units[SMALL_UNITS] = {"a", "f", "m", "b"};

static const struct use {
    int unit;
    uint32_t flags;
} uses[] = {{0, ZERO_READ},
            {1, ZERO_READ},
            {2, ZERO_READ},
            {3, ZERO_READ | ZERO_GRAD},
            {2, ZERO_READ | ZERO_GRAD},
            {0, ZERO_READ | ZERO_GRAD}};
enum { USES = sizeof uses / sizeof *uses, FORWARD = 4 };

int small_complain(const small_t *s, const char *format, ...)
{
    char text[1400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(
        stderr,
        "rank %d of case {world %d, stage %d, %s, rule %d, momentum %g, place %d, threaded %d, micro-steps %d}: %s\n",
        s->rank, s->c.world, s->c.stage, zero_dtype_name(s->c.dtype), s->c.rule, s->c.momentum, s->c.place,
        s->c.threaded, s->c.micro_steps, text);
    return -1;
}

zero_comm_t *small_comm(const zero_bootstrap_t *bootstrap)
{
    zero_comm_t *comm = NULL;
    zero_error_t error;
    zero_comm_options_t options;
    zero_comm_options_init(&options);
    options.timeout_s = 30;
    if (zero_comm_shm(&comm, bootstrap, &options, &error) != ZERO_OK)
        fprintf(stderr, "no communicator: %s\n", error.text);
    return comm;
}

/* A number from -1 to 1, of few bits. */
static float noise(uint64_t a, uint64_t b, uint64_t c)
{
    return (float)(int)(zero_splitmix64(zero_splitmix64(zero_splitmix64(a) ^ b) ^ c) % 2001) / 1000 - 1;
}

float small_initial(int param, int64_t i)
{
    return noise(77, (uint64_t)param, (uint64_t)i);
}

static zero_dtype_t dtype_of(const small_t *s, int param)
{
    return small_params[param].fp32 ? ZERO_FP32 : s->c.dtype;
}

/* ---- making it -------------------------------------------------------------------------------------------------- */

static void place(zero_config_t *config, small_place_t where, const char *folder)
{
    zero_tier_t tier = where >= SMALL_NVME ? ZERO_TIER_NVME : ZERO_TIER_HOST;
    if (where == SMALL_DEVICE)
        return;
    config->optimizer.tier = tier;
    config->gradients.tier = where == SMALL_SHARE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    if (where == SMALL_HOST_ALL || where == SMALL_NVME_SHARE)
        config->parameters.tier = ZERO_TIER_HOST;
    if (where == SMALL_SHARE || where == SMALL_NVME_SHARE)
        config->offload_ratio = 0.37;
    config->nvme_path = folder ? folder : ".";
    if (folder)
        mkdir(folder, 0700);
}

static int make_device(small_t *s, zero_comm_t *comm)
{
    zero_device_options_t options;
    zero_comm_t *inner = NULL;
    zero_error_t error = {0};
    zero_device_options_init(&options);
    options.threads = 1;
    options.allocator = s->c.allocator;
    if (s->c.threaded < SMALL_CUDA) {
        options.threaded = s->c.threaded > 0;
        options.delay_seed = s->c.threaded > 1 ? (uint64_t)(1 + s->rank) : 0;
        return zero_device_cpu(&s->device, &options, &error) == ZERO_OK
                   ? 0
                   : small_complain(s, "no device: %s", error.text);
    }
    if (s->c.threaded >= SMALL_NCCL) {
        zero_comm_options_t o;
        zero_comm_options_init(&o);
        o.nccl_windows = s->c.threaded == SMALL_NCCL_WINDOWS;
        options.index = s->rank;
        if (zero_device_cuda(&s->device, &options, &error) == ZERO_OK &&
            zero_comm_nccl(&s->wire, comm, s->device, NULL, &o, &error) == ZERO_OK)
            return 0;
    } else if (zero_device_cuda(&s->device, &options, &error) == ZERO_OK &&
               zero_comm_split(comm, 0, s->rank, &inner, &error) == ZERO_OK &&
               zero_comm_staged(&s->wire, inner, s->device, SMALL_STAGING, &error) == ZERO_OK)
        return 0;
    zero_comm_destroy(inner);
    return small_complain(s, "no GPU: %s", error.text);
}

int small_create(small_t *s, const small_case_t *c, zero_comm_t *comm)
{
    zero_config_t config;
    zero_error_t error = {0};
    *s = (small_t){.c = *c, .rank = zero_comm_rank(comm)};
    if (make_device(s, comm))
        return -1;
    zero_config_init(&config);
    config.comm = s->wire ? s->wire : comm;
    config.device = s->device;
    config.micro_steps = c->micro_steps;
    config.persist_bytes = 1500;
    config.timeout_s = 30;
    config.grad_scale = 0.5;
    config.rule = c->rule;
    if (c->rule == ZERO_RULE_SGD)
        config.beta1 = c->momentum;
    if (zero_config_stage(&config, c->stage) != ZERO_OK)
        return small_complain(s, "no stage %d", c->stage);
    place(&config, c->place, c->folder);
    if (c->edit)
        c->edit(&config, c->ctx);
    if (zero_create(&s->engine, &config, &error) != ZERO_OK)
        return small_complain(s, "zero_create: %s", error.text);
    for (int u = 0; u < SMALL_UNITS; u++)
        SMALL_TRY(zero_unit_add(s->engine, units[u], &s->unit[u]));
    for (int p = 0; p < SMALL_PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = small_params[p].name;
        desc.ndim = 1;
        desc.shape[0] = small_params[p].count;
        desc.dtype = dtype_of(s, p);
        desc.trainable = small_params[p].trainable;
        desc.decay_scale = small_params[p].decay;
        desc.lr_scale = small_params[p].rate;
        SMALL_TRY(zero_param_add(s->engine, s->unit[small_params[p].unit], &desc, &s->param[p]));
    }
    SMALL_TRY(zero_pass_add(s->engine, "train", ZERO_PASS_TRAIN, &s->train));
    SMALL_TRY(zero_pass_add(s->engine, "eval", ZERO_PASS_EVAL, &s->eval));
    for (int u = 0; u < USES; u++)
        SMALL_TRY(zero_use_add(s->engine, s->train, s->unit[uses[u].unit], uses[u].flags));
    for (int u = 0; u < FORWARD; u++)
        SMALL_TRY(zero_use_add(s->engine, s->eval, s->unit[uses[u].unit], ZERO_READ));
    return 0;
}

void small_destroy(small_t *s)
{
    zero_destroy(s->engine);
    zero_comm_destroy(s->wire);
    zero_device_destroy(s->device);
    if (s->c.folder)
        rmdir(s->c.folder); /* the last rank that has files there removes it */
    s->engine = NULL;
    s->wire = NULL;
    s->device = NULL;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const small_t *s = ctx;
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int64_t i = 0; s->param[p] == param && i < count; i++)
            out[i] = small_initial(p, begin + i);
    return 0;
}

int small_fill(small_t *s)
{
    for (int p = 0; p < SMALL_PARAMS; p++)
        SMALL_TRY(zero_param_fill(s->engine, s->param[p], fill, s));
    return 0;
}

int small_start(small_t *s, const small_case_t *c, zero_comm_t *comm)
{
    if (small_create(s, c, comm))
        return -1;
    SMALL_TRY(zero_commit(s->engine));
    return small_fill(s);
}

/* ---- training --------------------------------------------------------------------------------------------------- */

int small_copy(small_t *s, void *to, const void *from, size_t bytes)
{
    zero_error_t error;
    if (s->device->caps.host_memory)
        memcpy(to, from, bytes);
    else if (s->device->ops->copy(s->device, zero_stream(s->engine), to, from, bytes, &error) != ZERO_OK)
        return small_complain(s, "copy: %s", error.text);
    else
        SMALL_TRY(zero_wait(s->engine));
    return 0;
}

static float widen(zero_dtype_t dtype, const void *values, int64_t i)
{
    return dtype == ZERO_FP32   ? ((const float *)values)[i]
           : dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)values)[i])
                                : zero_fp16_to_fp32(((const uint16_t *)values)[i]);
}

static int add_gradients(small_t *s, int p, int64_t step, int micro, float scale)
{
    static float grad[SMALL_ELEMENTS], data[SMALL_ELEMENTS];
    static char there[SMALL_ELEMENTS * sizeof(float)];
    zero_dtype_t dtype = dtype_of(s, p);
    int64_t count = small_params[p].count;
    size_t bytes = (size_t)count * zero_dtype_size(dtype);
    void *gradients = zero_param_grad(s->engine, s->param[p]);
    if (count == 0)
        return 0;
    if (small_copy(s, there, zero_param_data(s->engine, s->param[p]), bytes))
        return -1;
    for (int64_t i = 0; i < count; i++)
        data[i] = widen(dtype, there, i);
    if (small_copy(s, there, gradients, bytes))
        return -1;
    for (int64_t i = 0; i < count; i++) {
        const float own =
            0.01f * noise((uint64_t)(step * 64 + micro * 8 + s->rank), (uint64_t)p, (uint64_t)i) + 0.125f * data[i];
        grad[i] = widen(dtype, there, i) + scale * own;
        if (s->infinite && s->rank == s->c.world - 1 && i == count / 2)
            grad[i] = INFINITY;
        if (dtype == ZERO_FP32)
            ((float *)(void *)there)[i] = grad[i];
        else
            ((uint16_t *)(void *)there)[i] =
                dtype == ZERO_BF16 ? zero_fp32_to_bf16(grad[i]) : zero_fp32_to_fp16(grad[i]);
    }
    return small_copy(s, gradients, there, bytes);
}

int small_micros(small_t *s, int64_t step)
{
    float scale;
    SMALL_TRY(zero_loss_scale(s->engine, &scale));
    for (int micro = 0; micro < s->c.micro_steps; micro++) {
        SMALL_TRY(zero_micro_begin(s->engine, s->train, micro + 1 == s->c.micro_steps ? ZERO_LAST : 0));
        for (int u = 0; u < USES; u++) {
            SMALL_TRY(zero_acquire(s->engine, s->unit[uses[u].unit]));
            for (int p = 0; p < SMALL_PARAMS && (uses[u].flags & ZERO_GRAD); p++)
                if (small_params[p].unit == uses[u].unit && small_params[p].trainable &&
                    add_gradients(s, p, step, micro, scale))
                    return -1;
            SMALL_TRY(zero_release(s->engine, s->unit[uses[u].unit]));
        }
        SMALL_TRY(zero_micro_end(s->engine));
    }
    return 0;
}

int small_step(small_t *s, int64_t step)
{
    if (small_micros(s, step))
        return -1;
    SMALL_TRY(zero_step(s->engine, 0.01));
    return 0;
}

int small_stats(small_t *s, zero_stats_t *stats)
{
    *stats = (zero_stats_t){.size = sizeof *stats};
    SMALL_TRY(zero_step_stats(s->engine, stats));
    return 0;
}

/* ---- states ----------------------------------------------------------------------------------------------------- */

bool small_has(const small_t *s, int param, zero_state_t state)
{
    int moments = s->c.rule == ZERO_RULE_SGD ? s->c.momentum > 0 : s->c.rule == ZERO_RULE_LION ? 1 : 2;
    switch (state) {
    case ZERO_STATE_PARAM:
        return true;
    case ZERO_STATE_MASTER:
        return small_params[param].trainable;
    case ZERO_STATE_MOMENT1:
        return small_params[param].trainable && moments > 0;
    case ZERO_STATE_MOMENT2:
        return small_params[param].trainable && moments > 1;
    default:
        return false;
    }
}

int small_read(small_t *s, small_states_t *states)
{
    *states = (small_states_t){0};
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int state = 0; state <= ZERO_STATE_MOMENT2; state++) {
            if (!small_has(s, p, (zero_state_t)state))
                continue;
            float *values = calloc((size_t)small_params[p].count + 1, sizeof *values);
            SMALL_IS(values != NULL);
            states->values[p][state] = values;
            SMALL_TRY(zero_param_get(s->engine, s->param[p], (zero_state_t)state, ZERO_FP32, values));
        }
    return 0;
}

int small_compare(const small_t *s, const small_states_t *a, const small_states_t *b, const char *when)
{
    static const char *const names[] = {"parameter", "gradient", "master", "moment 1", "moment 2"};
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int state = 0; state <= ZERO_STATE_MOMENT2; state++)
            for (int64_t i = 0; a->values[p][state] && b->values[p][state] && i < small_params[p].count; i++)
                if (memcmp(&a->values[p][state][i], &b->values[p][state][i], sizeof(float)) != 0)
                    return small_complain(s, "%s: %s of %s, element %lld: %.9g, not %.9g", when, names[state],
                                          small_params[p].name, (long long)i, b->values[p][state][i],
                                          a->values[p][state][i]);
    return 0;
}

void small_forget(small_states_t *states)
{
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int state = 0; state <= ZERO_STATE_MOMENT2; state++)
            free(states->values[p][state]);
    *states = (small_states_t){0};
}
