/* SPDX-License-Identifier: Apache-2.0 */
/* engine_train.c - micro-steps, acquire and release, the step, and sums of small values over ranks. */
#include "zero/engine.h"

#include <math.h>

static const char *unit_name(const zero_engine_t *engine, int32_t unit)
{
    return engine->spec.units[unit].name;
}
static const char *pass_name(const zero_engine_t *engine)
{
    return engine->spec.passes[engine->pass].name;
}

static bool any_order(const zero_engine_t *engine)
{
    return engine->spec.passes[engine->pass].kind == ZERO_PASS_ANY_ORDER;
}

/* The training program of this micro-step. */
static zero_program_kind_t training_program(const zero_engine_t *engine, bool last)
{
    if (engine->micro_done == 0)
        return last ? ZERO_PROGRAM_ONLY : ZERO_PROGRAM_FIRST;
    return last ? ZERO_PROGRAM_LAST : ZERO_PROGRAM_MIDDLE;
}

zero_status_t zero_engine_begin(zero_engine_t *engine, zero_pass_t pass, uint32_t flags, bool by_tasks)
{
    if (!zero_engine_has_pass(engine, pass))
        return ZERO_ERR_ARG;
    if (engine->pass >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "pass '%s' is still open: call %s first", pass_name(engine),
                         engine->by_tasks ? "zero_task_next until ZERO_TASKS_END" : "zero_micro_end");
    const zero_spec_pass_t *p = &engine->spec.passes[pass];
    bool train = p->kind == ZERO_PASS_TRAIN, last = flags & ZERO_LAST;
    if (p->task_count > 0 && !by_tasks)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "pass '%s' has tasks: begin it with zero_tasks_begin",
                         p->name);
    if (flags & ~(uint32_t)(train ? ZERO_LAST : 0))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "pass '%s' begins with flags 0x%x: only ZERO_LAST exists, and only for a training pass",
                         p->name, flags);
    zero_program_kind_t kind = ZERO_PROGRAM_EVAL;
    if (train) {
        if (engine->step_due)
            return zero_fail(&engine->error, ZERO_ERR_ORDER,
                             "the step's last micro-step has ended: call zero_step before the next one begins");
        if (!last && engine->micro_done + 1 >= engine->config.micro_steps)
            return zero_fail(&engine->error, ZERO_ERR_ORDER,
                             "micro-step %d of at most %d begins without ZERO_LAST: pass it, or raise "
                             "config.micro_steps",
                             engine->micro_done + 1, engine->config.micro_steps);
        kind = training_program(engine, last);
    }
    if (p->kind != ZERO_PASS_ANY_ORDER) {
        zero_status_t status =
            zero_exec_begin(engine->exec, zero_plan_program(engine->plan, kind, pass, -1), &engine->error);
        if (status != ZERO_OK)
            return status;
    }
    engine->pass = pass;
    engine->by_tasks = by_tasks;
    engine->task = -1;
    engine->last_open = last;
    if (train)
        engine->gradients_complete = false;
    return ZERO_OK;
}

zero_status_t zero_micro_begin(zero_engine_t *engine, zero_pass_t pass, uint32_t flags)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_micro_begin");
    return status == ZERO_OK ? zero_engine_leave(engine, zero_engine_begin(engine, pass, flags, false)) : status;
}

/* Whether this rank's stage has the unit's parameters. */
static bool is_here(const zero_engine_t *engine, zero_unit_t unit)
{
    for (int32_t s = 0; s < engine->plan->segment_count; s++)
        if (engine->plan->segments[s].unit == unit && !zero_plan_has(engine->plan, &engine->plan->segments[s]))
            return false;
    return true;
}

static zero_status_t acquire(zero_engine_t *engine, zero_unit_t unit)
{
    if (engine->pass < 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "unit '%s' is acquired outside a micro-step: call zero_micro_begin first",
                         unit_name(engine, unit));
    if (engine->by_tasks && engine->task < 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "unit '%s' is acquired before the first task: call zero_task_next first",
                         unit_name(engine, unit));
    if (!any_order(engine))
        return zero_exec_use(engine->exec, unit, &engine->error);
    if (!is_here(engine, unit))
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "unit '%s' is acquired on rank %d, whose pipeline stage %d does not use it",
                         unit_name(engine, unit), engine->rank, engine->plan->pipe);
    if (engine->any_unit >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "unit '%s' is acquired while unit '%s' is held: pass '%s' holds one unit at a time",
                         unit_name(engine, unit), unit_name(engine, engine->any_unit), pass_name(engine));
    zero_status_t status = zero_exec_begin(
        engine->exec, zero_plan_program(engine->plan, ZERO_PROGRAM_ANY, engine->pass, unit), &engine->error);
    if (status == ZERO_OK)
        status = zero_exec_use(engine->exec, unit, &engine->error);
    if (status == ZERO_OK)
        engine->any_unit = unit;
    return status;
}

zero_status_t zero_acquire(zero_engine_t *engine, zero_unit_t unit)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_unit(&entry, engine, "zero_acquire", "acquired", unit);
    return status == ZERO_OK ? zero_engine_leave(engine, acquire(engine, unit)) : status;
}

static zero_status_t release(zero_engine_t *engine, zero_unit_t unit)
{
    if (engine->pass < 0 || (any_order(engine) && engine->any_unit != unit))
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "unit '%s' is released but not held: acquire it first",
                         unit_name(engine, unit));
    zero_status_t status = zero_exec_release(engine->exec, unit, &engine->error);
    if (status == ZERO_OK && any_order(engine)) {
        engine->any_unit = -1;
        status = zero_exec_end(engine->exec, &engine->error);
    }
    return status;
}

zero_status_t zero_release(zero_engine_t *engine, zero_unit_t unit)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_unit(&entry, engine, "zero_release", "released", unit);
    return status == ZERO_OK ? zero_engine_leave(engine, release(engine, unit)) : status;
}

zero_status_t zero_engine_end(zero_engine_t *engine)
{
    if (engine->pass < 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "no micro-step is open: call zero_micro_begin first");
    if (engine->any_unit >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "unit '%s' is still held: release it first",
                         unit_name(engine, engine->any_unit));
    if (!any_order(engine)) {
        zero_status_t status = zero_exec_end(engine->exec, &engine->error);
        if (status != ZERO_OK)
            return status;
    }
    if (engine->spec.passes[engine->pass].kind == ZERO_PASS_TRAIN) {
        engine->micro_done++;
        engine->step_due = engine->gradients_complete = engine->last_open;
    }
    engine->pass = -1;
    return ZERO_OK;
}

zero_status_t zero_micro_end(zero_engine_t *engine)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_micro_end");
    if (status == ZERO_OK && engine->pass >= 0 && engine->by_tasks)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_micro_end is called in pass '%s', which runs by tasks: zero_task_next ends it",
                         pass_name(engine));
    return status == ZERO_OK ? zero_engine_leave(engine, zero_engine_end(engine)) : status;
}

static zero_status_t step(zero_engine_t *engine, double lr)
{
    if (engine->pass >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "pass '%s' is still open: call %s before zero_step",
                         pass_name(engine),
                         engine->by_tasks ? "zero_task_next until ZERO_TASKS_END" : "zero_micro_end");
    if (!engine->step_due)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_step comes after a micro-step with ZERO_LAST: %d micro-steps of this step have ended, "
                         "none of them the last",
                         engine->micro_done);
    if (!(lr >= 0) || !isfinite(lr))
        return zero_fail(&engine->error, ZERO_ERR_ARG, "the learning rate is %g, but must be at least 0", lr);
    zero_exec_set_rate(engine->exec, lr);
    zero_exec_signal(engine->exec, atomic_load_explicit(&engine->signals, memory_order_relaxed));
    zero_status_t status =
        zero_exec_begin(engine->exec, zero_plan_program(engine->plan, ZERO_PROGRAM_STEP, -1, -1), &engine->error);
    if (status == ZERO_OK)
        status = zero_exec_end(engine->exec, &engine->error);
    if (status != ZERO_OK)
        return status;
    engine->micro_done = 0;
    engine->step_due = false;
    return ZERO_OK;
}

zero_status_t zero_step(zero_engine_t *engine, double lr)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_step");
    return status == ZERO_OK ? zero_engine_leave(engine, step(engine, lr)) : status;
}

static zero_status_t step_weight(zero_engine_t *engine, double weight)
{
    if (!(weight >= 0 && weight <= 0x1p53)) /* sums stay finite */
        return zero_fail(&engine->error, ZERO_ERR_ARG, "the weight of a step is %g, but must be 0 to 2^53", weight);
    zero_exec_set_weight(engine->exec, weight);
    return ZERO_OK;
}

zero_status_t zero_step_weight(zero_engine_t *engine, double weight)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_step_weight");
    return status == ZERO_OK ? zero_engine_leave(engine, step_weight(engine, weight)) : status;
}

static zero_status_t loss_scale(zero_engine_t *engine, float *scale)
{
    zero_scale_t now;
    zero_stats_t stats = {.size = sizeof stats};
    zero_status_t status = zero_exec_scale(engine->exec, &now, &engine->error);
    if (status == ZERO_OK && now.exhausted)
        status = zero_exec_stats(engine->exec, &stats, &engine->error);
    if (status != ZERO_OK)
        return status;
    if (now.exhausted)
        return zero_fail_reason(
            &engine->error, ZERO_ERR_ARG, ZERO_REASON_LOSS_SCALE, -1,
            "the gradients of step %lld are not finite%s%s%s, although the loss scale is %g, which is "
            "config.min_loss_scale: use a smaller learning rate, or look for bad values in the data and the loss",
            (long long)stats.step, stats.not_finite ? ", in the backward pass first in unit '" : "",
            stats.not_finite ? stats.not_finite : "", stats.not_finite ? "'" : "", now.value);
    *scale = now.value;
    return ZERO_OK;
}

zero_status_t zero_loss_scale(zero_engine_t *engine, float *scale)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_loss_scale");
    if (status != ZERO_OK)
        return status;
    if (!scale)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_loss_scale has no address for the scale");
    return zero_engine_leave(engine, loss_scale(engine, scale));
}

void *zero_stream(zero_engine_t *engine)
{
    return engine && engine->exec ? zero_exec_stream(engine->exec) : NULL;
}

zero_status_t zero_wait(zero_engine_t *engine)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_wait");
    return status == ZERO_OK ? zero_engine_leave(engine, zero_exec_wait(engine->exec, &engine->error)) : status;
}

zero_status_t zero_step_stats(zero_engine_t *engine, zero_stats_t *stats)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_step_stats");
    if (status != ZERO_OK)
        return status;
    zero_stats_t own = {.size = sizeof own};
    status = zero_struct_check(stats, ZERO_UP_TO(zero_stats_t, total_seconds), "zero_stats_t", &engine->error);
    if (status != ZERO_OK)
        return status;
    status = zero_engine_leave(engine, zero_exec_stats(engine->exec, &own, &engine->error));
    own.total_seconds = 1e-9 * (double)engine->total_ns;
    zero_struct_init(stats, stats->size, &own, sizeof own);
    return status;
}

zero_status_t zero_sum(zero_engine_t *engine, double *values, int n)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_sum");
    if (status != ZERO_OK)
        return status;
    if (n < 0 || n > 64 || (n > 0 && !values))
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_sum has %d values%s, but takes 0 to 64", n,
                         values ? "" : " at NULL");
    if (engine->pass >= 0 && engine->by_tasks)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_sum is called in pass '%s', which runs by tasks, and ranks are in different ones: call "
                         "it after ZERO_TASKS_END",
                         pass_name(engine));
    return zero_engine_leave(engine, zero_exec_sum(engine->exec, values, n, &engine->error));
}

zero_status_t zero_engine_between_steps(zero_engine_t *engine, const char *what)
{
    if (engine->pass >= 0 || engine->micro_done > 0 || engine->step_due)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "%s is called in the middle of a step: call zero_step first",
                         what);
    return ZERO_OK;
}

zero_status_t zero_set_step(zero_engine_t *engine, int64_t step, int64_t applied)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_set_step");
    if (status != ZERO_OK)
        return status;
    if (step < 0 || applied < 0 || applied > step)
        return zero_fail(
            &engine->error, ZERO_ERR_ARG,
            "zero_set_step has %lld steps and %lld updates, but neither may be negative, nor updates exceed steps",
            (long long)step, (long long)applied);
    if ((status = zero_engine_between_steps(engine, "zero_set_step")) != ZERO_OK)
        return status;
    return zero_engine_leave(engine, zero_exec_set_step(engine->exec, step, applied, &engine->error));
}
