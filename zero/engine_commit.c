/* SPDX-License-Identifier: Apache-2.0 */
/* engine_commit.c - turns declarations into a plan that runs; memory, traffic and text of the plan. */
#include "zero/engine_tensors.h"

#include <stdlib.h>

void zero_engine_free_plans(zero_engine_t *engine)
{
    for (int p = 0; p < engine->spec.mesh.pipe && engine->plans; p++)
        zero_plan_destroy(engine->plans[p]);
    free(engine->plans);
    engine->plans = NULL;
    engine->plan = NULL;
    engine->plan_hash = 0;
}

/* Every rank builds and checks the plans of all stages. */
static zero_status_t plan(zero_engine_t *engine, zero_error_t *error)
{
    const int pipes = engine->spec.mesh.pipe;
    zero_status_t status = zero_engine_find_tensors(engine, error);
    if (status == ZERO_OK)
        status = zero_plan_set_tied(&engine->spec, error);
    if (status == ZERO_OK && !(engine->plans = calloc((size_t)pipes, sizeof *engine->plans)))
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d plans", pipes);
    uint64_t hash = 0;
    for (int p = 0; p < pipes && status == ZERO_OK; p++) {
        status = zero_plan_build(&engine->plans[p], &engine->spec, p, error);
        if (status == ZERO_OK)
            status = zero_plan_check(engine->plans[p], error);
        if (status == ZERO_OK)
            zero_hash_word(&hash, engine->plans[p]->hash);
    }
    if (status != ZERO_OK)
        return status;
    engine->plan = engine->plans[zero_plan_pipe(&engine->spec, engine->rank)];
    engine->plan_hash = pipes == 1 ? engine->plan->hash : hash;
    return zero_plan_check_pipe((const zero_plan_t *const *)engine->plans, pipes, error);
}

static bool pass_uses(const zero_spec_pass_t *pass, int32_t unit, uint32_t flags)
{
    for (int32_t u = 0; u < pass->use_count; u++)
        if (pass->uses[u].unit == unit && (pass->uses[u].flags & flags) == flags)
            return true;
    return false;
}

/* Whether the unit has parameters and none of them is trainable. */
static bool is_frozen(const zero_spec_t *spec, int32_t unit)
{
    bool any = false;
    for (int32_t p = 0; p < spec->param_count; p++)
        if (spec->params[p].unit == unit) {
            if (spec->params[p].trainable)
                return false;
            any = true;
        }
    return any;
}

/* Logs declarations that can be planned, but are probably mistakes. */
static void warn(const zero_engine_t *engine)
{
    const zero_spec_t *spec = &engine->spec;
    const zero_config_t *c = &engine->config;
    bool any_order = false;
    if (engine->rank != 0)
        return;
    for (int32_t p = 0; p < spec->pass_count; p++) {
        const zero_spec_pass_t *pass = &spec->passes[p];
        any_order |= pass->kind == ZERO_PASS_ANY_ORDER;
        if (pass->kind != ZERO_PASS_TRAIN)
            continue;
        if (pass->use_count == 0)
            zero_log(c->log, c->log_ctx, ZERO_LOG_WARNING,
                     "training pass '%s' has no uses and trains nothing: declare each acquire with zero_use_add",
                     pass->name);
        for (int32_t u = 0; u < spec->unit_count; u++)
            if (pass_uses(pass, u, ZERO_GRAD) && is_frozen(spec, u))
                zero_log(c->log, c->log_ctx, ZERO_LOG_WARNING,
                         "unit '%s' is used with ZERO_GRAD in pass '%s', but none of its parameters is trainable: "
                         "remove ZERO_GRAD, or set trainable",
                         spec->units[u].name, pass->name);
    }
    for (int32_t u = 0; u < spec->unit_count && spec->pass_count > 0 && !any_order; u++) {
        bool used = false;
        for (int32_t p = 0; p < spec->pass_count && !used; p++)
            used = pass_uses(&spec->passes[p], u, 0);
        if (!used)
            zero_log(c->log, c->log_ctx, ZERO_LOG_WARNING,
                     "no pass uses unit '%s', so it cannot be acquired: declare its uses with zero_use_add",
                     spec->units[u].name);
    }
}

/* Callbacks that work on the host (args->stream is NULL) run one at a time, perhaps on a device's thread, and must not
 * call the engine. Callbacks that queue work run inside a call on the engine already. They take no lock, because they
 * may wait for a stream that waits for a host callback. */
static void begin_callback(zero_engine_t *engine)
{
    pthread_mutex_lock(&engine->callback_lock);
    atomic_store(&engine->callback_thread, (uintptr_t)pthread_self());
}

static void end_callback(zero_engine_t *engine)
{
    atomic_store(&engine->callback_thread, 0);
    pthread_mutex_unlock(&engine->callback_lock);
}

static int update(void *ctx, const zero_update_args_t *args)
{
    zero_engine_t *engine = ctx;
    if (args->stream)
        return engine->config.update(engine->config.update_ctx, args);
    begin_callback(engine);
    int result = engine->config.update(engine->config.update_ctx, args);
    end_callback(engine);
    return result;
}

static int matrix(void *ctx, const zero_matrix_args_t *args)
{
    zero_engine_t *engine = ctx;
    if (args->stream)
        return engine->config.matrix(engine->config.matrix_ctx, args);
    begin_callback(engine);
    int result = engine->config.matrix(engine->config.matrix_ctx, args);
    end_callback(engine);
    return result;
}

zero_status_t zero_commit(zero_engine_t *engine)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter(&entry, engine);
    if (status != ZERO_OK)
        return status;
    if (engine->commit_tried)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "zero_commit was already called: commit an engine only once");
    engine->commit_tried = true;

    const zero_config_t *config = &engine->config;
    zero_error_t error = {0};
    status = plan(engine, &error);
    if (config->plan_world == 0)
        status = zero_engine_compare(engine, status, &error);
    if (status == ZERO_OK && config->plan_world == 0) {
        zero_config_t own = *config;
        own.update = update;
        own.update_ctx = engine;
        own.matrix = matrix;
        own.matrix_ctx = engine;
        status = zero_exec_create(&engine->exec, (const zero_plan_t *const *)engine->plans, &own, &error);
    }
    atomic_store(&engine->committed, engine->exec);
    if (status == ZERO_OK) {
        warn(engine);
        return zero_engine_leave(engine, ZERO_OK);
    }
    zero_engine_free_plans(engine);
    engine->failed = zero_pass(&engine->error, status, &error);
    return status;
}

static zero_status_t enter_planned(zero_entry_t *entry, zero_engine_t *engine, const char *what)
{
    zero_status_t status = zero_engine_enter(entry, engine);
    if (status == ZERO_OK && !engine->plan)
        status =
            zero_fail(&engine->error, ZERO_ERR_ORDER, "%s is called before zero_commit: commit the engine first", what);
    return status;
}

_Static_assert((int)ZERO_TIER_COUNT <= (int)ZERO_MAX_TIERS && (int)ZERO_KIND_COUNT <= (int)ZERO_MAX_KINDS,
               "zero_memory_t has room for every tier and kind");

static zero_status_t check_memory(zero_engine_t *engine, const zero_memory_t *memory)
{
    return zero_struct_check(memory, ZERO_UP_TO(zero_memory_t, external), "zero_memory_t", &engine->error);
}

static zero_status_t check_rank(zero_engine_t *engine, const char *what, int rank)
{
    return rank >= 0 && rank < engine->world
               ? ZERO_OK
               : zero_fail(&engine->error, ZERO_ERR_ARG, "%s of rank %d: there are ranks 0 to %d", what, rank,
                           engine->world - 1);
}

zero_status_t zero_forecast(zero_engine_t *engine, zero_memory_t *memory)
{
    return zero_forecast_at(engine, engine ? engine->rank : 0, memory);
}

zero_status_t zero_forecast_at(zero_engine_t *engine, int rank, zero_memory_t *memory)
{
    ZERO_ENTRY(entry);
    zero_status_t status = enter_planned(&entry, engine, "zero_forecast");
    if (status != ZERO_OK || (status = check_memory(engine, memory)) != ZERO_OK ||
        (status = check_rank(engine, "zero_forecast", rank)) != ZERO_OK)
        return status;
    const zero_plan_t *plan = engine->plans[zero_plan_pipe(&engine->spec, rank)];
    zero_memory_t own = {.size = sizeof own};
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        memcpy(own.bytes[tier], plan->kind_bytes[tier], sizeof plan->kind_bytes[tier]);
    zero_struct_init(memory, memory->size, &own, sizeof own);
    return ZERO_OK;
}

zero_status_t zero_measure(zero_engine_t *engine, zero_memory_t *memory)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_measure");
    if (status != ZERO_OK || (status = check_memory(engine, memory)) != ZERO_OK)
        return status;
    zero_memory_t own = {.size = sizeof own};
    status = zero_engine_leave(engine, zero_exec_measure(engine->exec, &own, &engine->error));
    zero_struct_init(memory, memory->size, &own, sizeof own);
    return status;
}

zero_status_t zero_forecast_traffic(zero_engine_t *engine, int micro_steps, zero_traffic_t *traffic)
{
    return zero_forecast_traffic_at(engine, engine ? engine->rank : 0, micro_steps, traffic);
}

zero_status_t zero_forecast_traffic_at(zero_engine_t *engine, int rank, int micro_steps, zero_traffic_t *traffic)
{
    ZERO_ENTRY(entry);
    zero_status_t status = enter_planned(&entry, engine, "zero_forecast_traffic");
    if (status != ZERO_OK || (status = check_rank(engine, "zero_forecast_traffic", rank)) != ZERO_OK)
        return status;
    if (!traffic)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_forecast_traffic has no address for the result");
    return zero_plan_traffic(engine->plans[zero_plan_pipe(&engine->spec, rank)], micro_steps, traffic, &engine->error);
}

zero_status_t zero_explain(zero_engine_t *engine, zero_write_fn write, void *ctx)
{
    ZERO_ENTRY(entry);
    zero_status_t status = enter_planned(&entry, engine, "zero_explain");
    if (status != ZERO_OK)
        return status;
    if (!write)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_explain has no write function");
    const int pipes = engine->spec.mesh.pipe;
    if (pipes > 1)
        status = zero_plan_explain_pipe((const zero_plan_t *const *)engine->plans, pipes, write, ctx, &engine->error);
    if (status != ZERO_OK)
        return zero_engine_leave(engine, status);
    for (int p = 0; p < pipes; p++)
        zero_plan_explain(engine->plans[p], write, ctx);
    return ZERO_OK;
}

uint64_t zero_plan_hash(const zero_engine_t *engine)
{
    return engine ? engine->plan_hash : 0;
}
