/* SPDX-License-Identifier: Apache-2.0 */
/* engine_toy.c - see engine_toy.h. */
#include "tests/engine_reference.h"
#include "zero/engine.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { RESERVED = 12345 }; /* bytes */

#define TRY(call)                          \
    do {                                   \
        if ((call) != ZERO_OK)             \
            return toy_failed(toy, #call); \
    } while (0)

static int complain(const toy_t *toy, const char *format, ...)
{
    const toy_case_t *c = &toy->c;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr,
            "rank %d of case {world %d, stage %d, window %d, reduce %s, micro-steps %d, %s, wire %s, device %d, "
            "persist %lld, "
            "interleave %d, "
            "quiet %d, offload %d, replicas %d, node %d, codecs %s and %s}: %s\n",
            toy->rank, c->world, c->stage, c->window, c->reduce ? "last" : "every", c->micro_steps,
            zero_dtype_name(c->dtype), zero_dtype_name(c->reduce_dtype), c->threaded, (long long)c->persist_bytes,
            c->interleave, c->quiet, c->offload, c->replicas, c->node, zero_codec_name(c->gather_codec),
            zero_codec_name(c->reduce_codec), text);
    return -1;
}

int toy_failed(const toy_t *toy, const char *what)
{
    return complain(toy, "%s failed: %s", what, toy->engine ? zero_last_error(toy->engine) : "");
}

/* ---- the trainer ------------------------------------------------------------------------------------------------ */

static void place(zero_config_t *config, toy_offload_t offload)
{
    bool nvme = offload >= TOY_NVME;
    if (offload == TOY_NONE)
        return;
    if (offload != TOY_PARAMETERS) {
        config->optimizer.tier = nvme ? ZERO_TIER_NVME : ZERO_TIER_HOST;
        config->gradients.tier = offload == TOY_SHARE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    }
    if (offload == TOY_PARAMETERS || offload == TOY_ALL || offload == TOY_NVME_SHARE)
        config->parameters.tier = ZERO_TIER_HOST;
    if (offload == TOY_NVME_ALL)
        config->parameters.tier = ZERO_TIER_NVME;
    if (offload == TOY_SHARE || offload == TOY_NVME_SHARE)
        config->offload_ratio = 0.37;
    config->nvme_path = ".";
}

int toy_create(toy_t *toy, const toy_case_t *c, zero_comm_t *comm, void (*edit)(zero_config_t *config))
{
    zero_error_t error = {0};
    zero_device_options_t device;
    zero_config_t config;
    *toy = (toy_t){.c = *c, .rank = zero_comm_rank(comm)};
    zero_device_options_init(&device);
    device.threaded = c->threaded > 0;
    device.delay_seed = c->threaded > 1 ? (uint64_t)(1 + toy->rank) : 0;
    device.threads = 1 + c->window % 2; /* never changes a bit */
    if (c->threaded >= TOY_CUDA ? toy_gpu(toy, comm, &device, &error) != 0
                                : zero_device_cpu(&toy->device, &device, &error) != ZERO_OK)
        return complain(toy, "no device: %s", error.text);
    zero_config_init(&config);
    config.comm = toy->wire ? toy->wire : comm;
    config.device = toy->device;
    config.window = c->window;
    config.reduce = c->reduce;
    config.micro_steps = c->micro_steps;
    config.reduce_dtype = c->reduce_dtype;
    config.persist_bytes = c->persist_bytes;
    config.clip = toy_clip;
    config.grad_scale = toy_grad_scale;
    config.beta1 = toy_adamw.beta1;
    config.beta2 = toy_adamw.beta2;
    config.eps = toy_adamw.eps;
    config.weight_decay = toy_adamw.weight_decay;
    config.timeout_s = 60;
    config.guard = c->guard;
    config.mesh.replicas = c->replicas > 0 ? c->replicas : 1;
    config.mesh.node = c->node;
    config.gather_codec = c->gather_codec;
    config.reduce_codec = c->reduce_codec;
    if (zero_config_stage(&config, c->stage) != ZERO_OK)
        return complain(toy, "zero_config_stage(%d) failed", c->stage);
    place(&config, c->offload);
    if (edit)
        edit(&config);
    if (zero_create(&toy->engine, &config, &error) != ZERO_OK)
        return complain(toy, "zero_create: %s", error.text);
    toy->engine->spec.piece = ZERO_PIECE_QUANTUM; /* so that a unit has several pieces */
    if (!(toy->reference = toy_reference_create(c)))
        return complain(toy, "no memory");
    for (int u = 0; u < TOY_UNITS; u++)
        TRY(zero_unit_add(toy->engine, toy_units[u], &toy->unit[u]));
    for (int p = 0; p < TOY_PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = toy_params[p].name;
        desc.ndim = 1;
        desc.shape[0] = toy_params[p].count;
        desc.dtype = toy_dtype(c, p);
        desc.trainable = toy_params[p].trainable;
        desc.decay_scale = toy_params[p].decay;
        desc.lr_scale = toy_params[p].rate;
        TRY(zero_param_add(toy->engine, toy->unit[toy_params[p].unit], &desc, &toy->param[p]));
    }
    TRY(zero_pass_add(toy->engine, "train", ZERO_PASS_TRAIN, &toy->train));
    TRY(zero_pass_add(toy->engine, "eval", ZERO_PASS_EVAL, &toy->eval));
    TRY(zero_pass_add(toy->engine, "any", ZERO_PASS_ANY_ORDER, &toy->any));
    for (int u = 0; u < TOY_USES; u++) /* two units that are held together need a window of two */
        TRY(zero_use_add(toy->engine, toy->train, toy->unit[toy_uses[u].unit],
                         toy_uses[u].flags & (c->window > 1 ? ~0u : ~(uint32_t)ZERO_HOLD)));
    for (int u = 0; u < 6; u++)
        TRY(zero_use_add(toy->engine, toy->eval, toy->unit[toy_uses[u].unit], ZERO_READ));
    TRY(zero_reserve(toy->engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, RESERVED, &toy->reserve));
    if (toy_mirrored(toy))
        TRY(zero_reserve(toy->engine, ZERO_KIND_WORKSPACE, ZERO_TIER_HOST, toy_mirrors_bytes(), &toy->mirrors));
    return 0;
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static int compare_unit(const toy_t *toy, int unit)
{
    for (int p = 0; p < TOY_PARAMS; p++) {
        if (toy_params[p].unit != unit || toy_params[p].count == 0)
            continue;
        const void *data = toy_mirrored(toy) ? toy_mirror(toy, p, false) : toy->data[p];
        for (int64_t i = 0; i < toy_params[p].count; i++) {
            float found = toy_load(data, toy_dtype(&toy->c, p), i), wanted = toy->reference->used[p][i];
            if (!same_bits(found, wanted))
                return complain(toy, "step %lld: element %lld of %s is %.9g when acquired, not %.9g",
                                (long long)toy->reference->step, (long long)i, toy_params[p].name, found, wanted);
        }
    }
    return 0;
}

/* Waits for copies to the mirrors, and compares those that have not been compared. */
static int settle(toy_t *toy)
{
    if (!toy_mirrored(toy))
        return 0;
    TRY(zero_wait(toy->engine));
    for (int u = 0; u < TOY_UNITS; u++)
        if (toy->looked[u]) {
            toy->looked[u] = false;
            if (compare_unit(toy, u))
                return -1;
        }
    return 0;
}

static int fill_initial(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const toy_t *toy = ctx;
    for (int p = 0; p < TOY_PARAMS; p++)
        for (int64_t i = 0; toy->param[p] == param && i < count; i++)
            out[i] = toy_initial(p, begin + i);
    return 0;
}

int toy_fill(toy_t *toy)
{
    for (int p = 0; p < TOY_PARAMS; p++) {
        TRY(zero_param_fill(toy->engine, toy->param[p], fill_initial, toy));
        toy->data[p] = zero_param_data(toy->engine, toy->param[p]);
        toy->grad[p] = zero_param_grad(toy->engine, toy->param[p]);
        if ((toy->data[p] == NULL) != (toy_params[p].count == 0))
            return complain(toy, "parameter %s has address %p", toy_params[p].name, toy->data[p]);
        if (!toy_params[p].trainable && toy->grad[p])
            return complain(toy, "frozen parameter %s has a gradient", toy_params[p].name);
    }
    void *reserved = zero_reserved(toy->engine, toy->reserve),
         *filled = toy_mirrored(toy) ? toy_mirror(toy, 0, false) : reserved;
    memset(filled, 0xa5, RESERVED);
    return filled == reserved ? 0 : toy_copy(toy, reserved, filled, RESERVED) || settle(toy) ? -1 : 0;
}

/* Between acquire and release, a unit holds the current parameters, at the same address as at the start. */
static int check_values(toy_t *toy, int unit)
{
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == unit && zero_param_data(toy->engine, toy->param[p]) != toy->data[p])
            return complain(toy, "parameter %s has moved", toy_params[p].name);
    if (!toy_mirrored(toy))
        return compare_unit(toy, unit);
    if ((toy->looked[unit] && settle(toy)) || toy_fetch(toy, unit, false))
        return -1;
    toy->looked[unit] = true;
    return 0;
}

static int add_gradients(toy_t *toy, moment_t t)
{
    bool mirrored = toy_mirrored(toy);
    if (mirrored && (toy_fetch(toy, toy_uses[t.use].unit, true) || settle(toy)))
        return -1;
    for (int p = 0; p < TOY_PARAMS; p++) {
        if (toy_params[p].unit != toy_uses[t.use].unit || !toy_params[p].trainable || toy_params[p].count == 0)
            continue;
        zero_dtype_t dtype = toy_dtype(&toy->c, p);
        void *grad = mirrored ? toy_mirror(toy, p, true) : toy->grad[p];
        const void *data = mirrored ? toy_mirror(toy, p, false) : toy->data[p];
        for (int64_t i = 0; i < toy_params[p].count; i++) {
            float x = toy_uses[t.use].flags & ZERO_READ ? toy_load(data, dtype, i) : 0;
            toy_store(grad, dtype, i, toy_load(grad, dtype, i) + toy_gradient(&toy->c, t, p, i, x));
        }
    }
    return mirrored ? toy_send_gradients(toy, toy_uses[t.use].unit) : 0;
}

static int eval_pass(toy_t *toy)
{
    TRY(zero_micro_begin(toy->engine, toy->eval, 0));
    for (int u = 0; u < 6; u++) {
        if (toy_passed_over((moment_t){toy->rank, 100, u, toy->reference->step}))
            continue;
        TRY(zero_acquire(toy->engine, toy->unit[toy_uses[u].unit]));
        if (check_values(toy, toy_uses[u].unit))
            return -1;
        TRY(zero_release(toy->engine, toy->unit[toy_uses[u].unit]));
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

static int any_pass(toy_t *toy)
{
    TRY(zero_micro_begin(toy->engine, toy->any, 0));
    for (int k = 0; k < 5; k++) {
        int unit = (int)(toy_hash(9, (uint64_t)toy->reference->step, (uint64_t)k, 0) % TOY_UNITS);
        TRY(zero_acquire(toy->engine, toy->unit[unit]));
        if (check_values(toy, unit))
            return -1;
        TRY(zero_release(toy->engine, toy->unit[unit]));
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

static int train_micro(toy_t *toy, int micro, bool last)
{
    int64_t step = toy->reference->step;
    int held = -1; /* a use that is released after the next acquire, or while that use's work still runs */
    TRY(zero_micro_begin(toy->engine, toy->train, last ? ZERO_LAST : 0));
    for (int u = 0; u < TOY_USES; u++) {
        moment_t t = {toy->rank, micro, u, step};
        bool late = toy_moment_hash(t, 11) % 2 == 0, over = toy_passed_over(t);
        if (!over)
            TRY(zero_acquire(toy->engine, toy->unit[toy_uses[u].unit]));
        if (held >= 0 && !late) {
            TRY(zero_release(toy->engine, toy->unit[toy_uses[held].unit]));
            held = -1;
        }
        if (!over) {
            if ((toy_uses[u].flags & ZERO_READ) && check_values(toy, toy_uses[u].unit))
                return -1;
            if ((toy_uses[u].flags & ZERO_GRAD) && add_gradients(toy, t))
                return -1;
        }
        if (!over && (toy_uses[u].flags & ZERO_HOLD) && toy->c.window > 1) {
            held = u;
            continue;
        }
        if (!over)
            TRY(zero_release(toy->engine, toy->unit[toy_uses[u].unit]));
        if (held >= 0)
            TRY(zero_release(toy->engine, toy->unit[toy_uses[held].unit]));
        held = -1;
    }
    TRY(zero_micro_end(toy->engine));
    return 0;
}

typedef struct reading {
    const toy_t *toy;
    int param;
    const float *wanted;
    const char *what;
    int64_t seen;
    int result;
} reading_t;

static int compare(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    reading_t *r = ctx;
    r->seen += count;
    for (int64_t i = 0; i < count && r->result == 0; i++)
        if (param != r->toy->param[r->param] || !same_bits(values[i], r->wanted[begin + i]))
            r->result = complain(r->toy, "step %lld: %s of element %lld of %s is %.9g, not %.9g",
                                 (long long)r->toy->reference->step, r->what, (long long)(begin + i),
                                 toy_params[r->param].name, values[i], r->wanted[begin + i]);
    return r->result;
}

/* The gradients that a rank keeps before the step's update. */
static int check_gradients(toy_t *toy)
{
    for (int p = 0; p < TOY_PARAMS && toy->c.world <= TOY_MAX_RANKS; p++) {
        reading_t reading = {toy, p, toy->reference->final[p], "gradient before the update", 0, 0};
        if (toy_params[p].trainable)
            TRY(zero_param_read(toy->engine, toy->param[p], ZERO_STATE_GRAD, compare, &reading));
    }
    return 0;
}

/* Compares every state of every parameter, and checks that each element belongs to exactly one rank. */
static int check_state(toy_t *toy)
{
    toy_reference_t *r = toy->reference;
    static const char *const names[] = {"parameter", "gradient", "master", "moment 1", "moment 2"};
    for (int p = 0; p < TOY_PARAMS; p++) {
        const float *wanted[] = {r->value[p], r->final[p], r->master[p], r->m[p], r->v[p]};
        for (int s = ZERO_STATE_PARAM; s <= (toy_params[p].trainable ? ZERO_STATE_MOMENT2 : ZERO_STATE_PARAM); s++) {
            reading_t reading = {.toy = toy, .param = p, .wanted = wanted[s], .what = names[s]};
            if (!r->last_applied && s == ZERO_STATE_GRAD)
                continue; /* NaNs have no bits to compare */
            TRY(zero_param_read(toy->engine, toy->param[p], (zero_state_t)s, compare, &reading));
            double seen = (double)reading.seen;
            TRY(zero_sum(toy->engine, &seen, 1));
            if (seen != (double)toy_params[p].count)
                return complain(toy, "%s of %s was read for %g elements of %lld", names[s], toy_params[p].name, seen,
                                (long long)toy_params[p].count);
        }
    }
    return 0;
}

#define TRAFFIC(t)                                                                                          \
    {                                                                                                       \
        (t).gathered, (t).reduced, (t).to_host, (t).to_device, (t).read, (t).written, (t).replica_gathered, \
            (t).replica_reduced, (t).node_gathered                                                          \
    }

static int check_stats(toy_t *toy)
{
    const toy_reference_t *r = toy->reference;
    zero_stats_t stats = {.size = sizeof stats};
    TRY(zero_step_stats(toy->engine, &stats));
    if (stats.step != r->step || stats.skipped != r->skipped || stats.applied != r->last_applied ||
        stats.signals != r->signals)
        return complain(toy, "step %lld (skipped %lld, applied %d, signals %x) is reported as %lld (%lld, %d, %x)",
                        (long long)r->step, (long long)r->skipped, r->last_applied, r->signals, (long long)stats.step,
                        (long long)stats.skipped, stats.applied, stats.signals);
    const char *unit = r->last_applied ? NULL : toy_units[toy_uses[7].unit]; /* toy_gradient is infinite there */
    if (unit ? !stats.not_finite || strcmp(stats.not_finite, unit) != 0 : stats.not_finite != NULL)
        return complain(toy, "step %lld: gradients of unit '%s' are reported as not finite, not '%s'",
                        (long long)r->step, stats.not_finite ? stats.not_finite : "none", unit ? unit : "none");
    if (isfinite(r->norm) ? stats.grad_norm != r->norm || stats.clip_factor != r->clip_factor
                          : isfinite(stats.grad_norm))
        return complain(toy, "step %lld: norm %.17g and clip factor %.17g are reported as %.17g and %.17g",
                        (long long)r->step, r->norm, r->clip_factor, stats.grad_norm, stats.clip_factor);
    const uint64_t moved[] = TRAFFIC(stats.traffic), planned[] = TRAFFIC(toy->traffic);
    static const char *const what[] = {"gathered",
                                       "reduced",
                                       "copied to the host",
                                       "copied to the device",
                                       "read",
                                       "written",
                                       "gathered from replicas",
                                       "reduced over replicas",
                                       "gathered in a node"};
    for (int i = 0; i < 9 && !toy->c.interleave; i++)
        if (moved[i] != planned[i]) /* check_state has waited for all streams */
            return complain(toy, "step %lld: %llu bytes were %s; the plan says %llu", (long long)r->step,
                            (unsigned long long)moved[i], what[i], (unsigned long long)planned[i]);
    return 0;
}

int toy_step(toy_t *toy, int micro_steps)
{
    toy_reference_t *r = toy->reference;
    zero_traffic_t t;
    for (int micro = 0; micro < micro_steps; micro++) {
        if (toy->c.interleave && (micro + r->step) % 2 == 0 && (eval_pass(toy) || any_pass(toy)))
            return -1;
        if (train_micro(toy, micro, micro == micro_steps - 1))
            return -1;
        toy_reference_micro(&toy->c, r, micro, micro == micro_steps - 1);
    }
    if (r->step == 1 && toy->rank == toy->c.world - 1)
        zero_signal(toy->engine, 6);
    if (!toy->c.quiet && toy->c.bad_step != r->step && check_gradients(toy))
        return -1;
    TRY(zero_step(toy->engine, toy_rate(r->step)));
    r->signals |= r->step == 1 ? 6 : 0;
    if (settle(toy)) /* not earlier: the mirrors were read before the update */
        return -1;
    toy_reference_step(&toy->c, r);
    TRY(zero_forecast_traffic(toy->engine, micro_steps, &t));
    toy->traffic.gathered += t.gathered;
    toy->traffic.reduced += t.reduced;
    toy->traffic.to_host += t.to_host;
    toy->traffic.to_device += t.to_device;
    toy->traffic.read += t.read;
    toy->traffic.written += t.written;
    toy->traffic.replica_gathered += t.replica_gathered;
    toy->traffic.replica_reduced += t.replica_reduced;
    toy->traffic.node_gathered += t.node_gathered;
    return toy->c.quiet ? 0 : check_state(toy) || check_stats(toy) ? -1 : 0;
}

int toy_finish(toy_t *toy)
{
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    if (check_state(toy) || check_stats(toy))
        return -1;
    TRY(zero_forecast(toy->engine, &forecast));
    TRY(zero_measure(toy->engine, &measured));
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++)
            if (forecast.bytes[t][k] != measured.bytes[t][k])
                return complain(toy, "%s on tier %s: %llu bytes were forecast and %llu measured",
                                zero_kind_name((zero_kind_t)k), zero_tier_name((zero_tier_t)t),
                                (unsigned long long)forecast.bytes[t][k], (unsigned long long)measured.bytes[t][k]);
    const unsigned char *reserved = zero_reserved(toy->engine, toy->reserve);
    if (toy_mirrored(toy)) {
        if (toy_copy(toy, toy_mirror(toy, 0, false), reserved, RESERVED) || settle(toy))
            return -1;
        reserved = toy_mirror(toy, 0, false);
    }
    for (int i = 0; i < RESERVED; i++)
        if (reserved[i] != 0xa5)
            return complain(toy, "byte %d of the reserve was overwritten", i);
    return 0;
}

void toy_destroy(toy_t *toy)
{
    zero_destroy(toy->engine);
    zero_comm_destroy(toy->wire);
    zero_device_destroy(toy->device);
    toy_reference_destroy(toy->reference);
    *toy = (toy_t){0};
}

int toy_run(const toy_case_t *c, zero_comm_t *comm)
{
    toy_t toy;
    int result = toy_create(&toy, c, comm, NULL);
    if (result == 0 && zero_commit(toy.engine) != ZERO_OK)
        result = toy_failed(&toy, "zero_commit");
    if (result == 0)
        result = toy_fill(&toy);
    for (int s = 0; result == 0 && s < c->steps; s++)
        result = toy_step(&toy, 1 + (c->micro_steps - 1 + s) % c->micro_steps); /* all, one, two, ... */
    if (result == 0)
        result = toy_finish(&toy);
    if (result != 0 && toy.engine)
        zero_abort(toy.engine, "the toy found a difference");
    toy_destroy(&toy);
    return result;
}
