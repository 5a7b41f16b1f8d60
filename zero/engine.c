/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - an engine's life: creation, failure, destruction. */
#include "optim/rules.h"
#include "zero/comm/staged.h"
#include "zero/config.h"
#include "zero/engine_tensors.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- creation ---------------------------------------------------------------------------------------------------- */

zero_status_t zero_create(zero_engine_t **engine, const zero_config_t *config, zero_error_t *error)
{
    if (!engine)
        return zero_fail(error, ZERO_ERR_ARG, "zero_create has no address for the engine");
    *engine = NULL;
    zero_config_t own;
    zero_config_init(&own);
    zero_status_t status = zero_struct_take(&own, sizeof own, config, ZERO_UP_TO(zero_config_t, update_states),
                                            "zero_config_t", "zero_config_init", error);
    if (status != ZERO_OK)
        return status;
    config = &own;
    status = zero_config_check(config, error);
    if (status != ZERO_OK)
        return status;

    zero_engine_t *e = calloc(1, sizeof *e);
    if (!e || pthread_mutex_init(&e->callback_lock, NULL) != 0) {
        free(e);
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot allocate an engine of %zu bytes", sizeof *e);
    }
    e->config = *config;
    e->pass = e->any_unit = e->use_pass = e->collective_pass = e->task = -1;
    zero_spec_t *spec = &e->spec;
    zero_comm_caps_t *caps = &spec->groups[0].caps;
    if (config->plan_world > 0) {
        e->world = config->plan_world;
        spec->device = config->device ? config->device->caps
                                      : (zero_device_caps_t){.name = "cpu", .host_memory = true, .page = ZERO_PAGE};
        bool host = spec->device.host_memory;
        status = zero_comm_describe(e->world == 1 ? "self" : host ? "shm" : "nccl", e->world, NULL, caps, error);
        if (status == ZERO_OK && e->world == 1 && !host)
            status = zero_comm_staged_caps(caps, 1, 0, error);
        if (status != ZERO_OK)
            goto fail;
    } else {
        e->world = config->comm->size;
        e->rank = config->comm->rank;
        *caps = config->comm->caps;
        spec->device = config->device->caps;
    }
    spec->world = e->world;
    spec->channels = spec->device.asynchronous ? 2 : 1;
    spec->piece = ZERO_PIECE;
    zero_config_to_spec(config, spec);
    if (e->world % ((int64_t)spec->mesh.pipe * spec->mesh.tensor) == 0 &&
        e->world / spec->mesh.pipe / spec->mesh.tensor % spec->mesh.replicas == 0)
        zero_plan_set_groups(spec); /* otherwise refused below */
    const zero_rule_options_t numbers = zero_rule_options(config);
    zero_rule_t rule = zero_rule_of(config->rule, false);
    spec->state.count = rule == ZERO_RULE_CUSTOM ? config->update_states : zero_rule_states(rule, &numbers);
    memcpy(spec->state.format, zero_rule(rule)->format, sizeof spec->state.format);
    spec->whole = zero_rule(config->rule)->reach == ZERO_REACH_PARAMETER;
    if (spec->whole) {
        spec->whole_state.count = zero_rule(config->rule)->states;
        memcpy(spec->whole_state.format, zero_rule(config->rule)->format, sizeof spec->whole_state.format);
    }
    if ((status = zero_plan_check_options(spec, error)) != ZERO_OK)
        goto fail;
    *engine = e;
    return ZERO_OK;

fail:
    zero_destroy(e);
    return status;
}

static void destroy_spec(zero_spec_t *spec)
{
    for (int32_t i = 0; i < spec->unit_count; i++)
        free(spec->units[i].name);
    for (int32_t i = 0; i < spec->param_count; i++) {
        free(spec->params[i].name);
        free(spec->params[i].piece_of);
    }
    for (int32_t i = 0; i < spec->pass_count; i++) {
        free(spec->passes[i].name);
        free(spec->passes[i].uses);
        free(spec->passes[i].tasks);
        free(spec->passes[i].collectives);
    }
    free(spec->chunks);
    free(spec->units);
    free(spec->params);
    free(spec->passes);
    free(spec->reserves);
}

static uintptr_t this_thread(void)
{
    return (uintptr_t)pthread_self();
}

/* Whether this thread runs config.update or config.matrix, perhaps on a device's thread and outside any call. */
static bool in_callback(const zero_engine_t *engine)
{
    return atomic_load(&engine->callback_thread) == this_thread();
}

void zero_destroy(zero_engine_t *engine)
{
    if (!engine)
        return;
    if (atomic_load(&engine->busy) || in_callback(engine)) { /* leaking memory is better than freeing memory in use */
        zero_log(engine->config.log, engine->config.log_ctx, ZERO_LOG_ERROR,
                 "zero_destroy was called inside another call on the same engine and did nothing: call it after that "
                 "call has returned");
        return;
    }
    /* Ranks that are still in this step would wait for this one. */
    if (engine->exec && engine->failed == ZERO_OK &&
        (engine->pass >= 0 || engine->micro_done > 0 || engine->step_due)) {
        zero_error_t why;
        zero_fail_reason(&why, ZERO_ERR_PEER, ZERO_REASON_ABORTED, engine->rank,
                         "the engine was destroyed in the middle of a step (%d of at most %d micro-steps done)",
                         engine->micro_done, engine->config.micro_steps);
        zero_exec_abort(engine->exec, &why);
    }
    zero_exec_destroy(engine->exec);
    zero_saver_destroy(engine->saver);
    zero_engine_free_plans(engine);
    zero_engine_free_tensors(engine);
    destroy_spec(&engine->spec);
    pthread_mutex_destroy(&engine->callback_lock);
    free(engine);
}

/* ---- calls and failures ----------------------------------------------------------------------------------------- */

/* Clears the mark of a refused call if it is this thread's. */
static void clear_refusal(zero_engine_t *engine)
{
    uintptr_t own = this_thread();
    atomic_compare_exchange_strong(&engine->refused_thread, &own, 0);
}

void zero_entry_end(zero_entry_t *entry)
{
    zero_engine_t *engine = entry->engine;
    if (!engine)
        return;
    clear_refusal(engine); /* of a call from inside this one, whose result is newer */
    atomic_store_explicit(&engine->busy, 0, memory_order_release);
}

static bool take(zero_entry_t *entry, zero_engine_t *engine)
{
    uintptr_t nobody = 0;
    if (in_callback(engine) || !atomic_compare_exchange_strong_explicit(&engine->busy, &nobody, this_thread(),
                                                                        memory_order_acquire, memory_order_relaxed))
        return false;
    entry->engine = engine;
    engine->entered_ns = zero_now_ns();
    return true;
}

zero_status_t zero_engine_enter(zero_entry_t *entry, zero_engine_t *engine)
{
    if (!engine)
        return ZERO_ERR_ARG;
    if (!take(entry, engine)) {
        atomic_store(&engine->refused_thread, this_thread());
        return ZERO_ERR_ORDER;
    }
    clear_refusal(engine);
    return engine->failed;
}

static zero_status_t enter_committed(zero_entry_t *entry, zero_engine_t *engine, const char *what)
{
    zero_status_t status = zero_engine_enter(entry, engine);
    if (status != ZERO_OK)
        return status;
    if (engine->plan && !engine->exec)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "%s cannot run: this engine only plans (config.plan_world is %d)", what,
                         engine->config.plan_world);
    if (!engine->exec)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "%s is called before zero_commit: commit the engine first",
                         what);
    return ZERO_OK;
}

/* In a captured stream, the call's work would become part of the caller's graph, and a wait for it would never end. */
static bool is_captured(const zero_engine_t *engine)
{
    const zero_device_t *device = engine->config.device;
    return device->ops->capturing && device->ops->capturing(device, zero_exec_stream(engine->exec));
}

zero_status_t zero_engine_enter_declaring(zero_entry_t *entry, zero_engine_t *engine, const char *what)
{
    zero_status_t status = zero_engine_enter(entry, engine);
    if (status == ZERO_OK && engine->commit_tried)
        status = zero_fail(&engine->error, ZERO_ERR_ORDER,
                           "%s is called after zero_commit: declare everything before it", what);
    return status;
}

zero_status_t zero_engine_enter_running(zero_entry_t *entry, zero_engine_t *engine, const char *what)
{
    zero_status_t status = enter_committed(entry, engine, what);
    if (status == ZERO_OK && is_captured(engine))
        return zero_fail_reason(
            &engine->error, ZERO_ERR_ORDER, ZERO_REASON_STREAM_CAPTURED, -1,
            "%s is called while the engine's compute stream is captured into a CUDA graph: end the capture "
            "first",
            what);
    return status;
}

zero_status_t zero_engine_enter_unit(zero_entry_t *entry, zero_engine_t *engine, const char *what, const char *did,
                                     zero_unit_t unit)
{
    zero_status_t status = enter_committed(entry, engine, what);
    if (status == ZERO_OK && !zero_engine_has_unit(engine, unit))
        return ZERO_ERR_ARG;
    if (status == ZERO_OK && is_captured(engine))
        return zero_fail_reason(
            &engine->error, ZERO_ERR_ORDER, ZERO_REASON_STREAM_CAPTURED, -1,
            "unit '%s' is %s while the engine's compute stream is captured into a CUDA graph: end the "
            "capture, acquire the unit, then launch the graph, and release the unit after it",
            engine->spec.units[unit].name, did);
    return status;
}

zero_status_t zero_engine_leave(zero_engine_t *engine, zero_status_t status)
{
    engine->total_ns += zero_now_ns() - engine->entered_ns;
    if (status == ZERO_OK || status == ZERO_ERR_ARG || status == ZERO_ERR_ORDER || engine->failed != ZERO_OK)
        return status;
    engine->failed = status;
    return status;
}

bool zero_engine_has_unit(zero_engine_t *engine, zero_unit_t unit)
{
    if (unit >= 0 && unit < engine->spec.unit_count)
        return true;
    zero_fail(&engine->error, ZERO_ERR_ARG, "there is no unit %d: this engine has %d", unit, engine->spec.unit_count);
    return false;
}

bool zero_engine_has_pass(zero_engine_t *engine, zero_pass_t pass)
{
    if (pass >= 0 && pass < engine->spec.pass_count)
        return true;
    zero_fail(&engine->error, ZERO_ERR_ARG, "there is no pass %d: this engine has %d", pass, engine->spec.pass_count);
    return false;
}

static const zero_error_t *last_failure(const zero_engine_t *engine)
{
    static const zero_error_t no_engine = {.status = ZERO_ERR_ARG, .rank = -1, .text = "the engine is NULL"};
    static const zero_error_t none = {.status = ZERO_OK, .rank = -1};
    static const zero_error_t engine_busy = {
        .status = ZERO_ERR_ORDER,
        .rank = -1,
        .reason = ZERO_REASON_ENGINE_BUSY,
        .text = "this call was made while another one on the same engine was running, in another thread or around a "
                "function that the library called: make one call at a time, and none from inside such functions"};
    if (!engine)
        return &no_engine;
    /* The thread inside a call may be writing engine->error. */
    uintptr_t inside = atomic_load(&engine->busy), self = this_thread();
    if (atomic_load(&engine->refused_thread) == self || (inside != 0 && inside != self) || in_callback(engine))
        return &engine_busy;
    return engine->error.status == ZERO_OK ? &none : &engine->error;
}

const char *zero_last_error(const zero_engine_t *engine)
{
    return last_failure(engine)->text;
}

zero_status_t zero_last_failure(const zero_engine_t *engine, zero_error_t *failure)
{
    const zero_error_t *last = last_failure(engine);
    if (failure)
        *failure = *last;
    return last->status;
}

void zero_signal(zero_engine_t *engine, uint32_t bits)
{
    if (engine)
        atomic_fetch_or_explicit(&engine->signals, bits, memory_order_relaxed);
}

void zero_abort(zero_engine_t *engine, const char *sentence)
{
    if (!engine)
        return;
    ZERO_ENTRY(entry);
    const char *text = sentence && *sentence ? sentence : "the trainer gave up without a reason";
    bool alone = take(&entry, engine); /* otherwise the running call, or the next one, fails with this error */
    if (alone && engine->failed != ZERO_OK)
        return;
    zero_exec_t *exec = atomic_load(&engine->committed);
    zero_error_t why, error;
    zero_fail_reason(&why, ZERO_ERR_PEER, ZERO_REASON_ABORTED, engine->rank, "%s", text);
    zero_fail_from(&error, ZERO_ERR_PEER, &why, "rank %d: %s", engine->rank, text);
    if (exec)
        zero_exec_abort(exec, &why);
    else if (engine->config.comm)
        zero_comm_fail(engine->config.comm, &error);
    if (!alone)
        return;
    engine->error = error;
    engine->failed = ZERO_ERR_PEER;
}
