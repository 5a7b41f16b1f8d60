/* SPDX-License-Identifier: Apache-2.0 */
/* engine_trace.c - when operations ran. */
#include "zero/engine.h"

enum { MOST_STEPS = 1000000 };

zero_status_t zero_trace_begin(zero_engine_t *engine, int steps)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_trace_begin");
    if (status != ZERO_OK)
        return status;
    if (steps < 1 || steps > MOST_STEPS)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_trace_begin has room for %d steps, but takes 1 to %d",
                         steps, MOST_STEPS);
    if (engine->traced)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "a trace is on already: call zero_trace_end first");
    if (engine->pass >= 0 || engine->micro_done > 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_trace_begin is called in the middle of a step: call zero_step first");
    status = zero_exec_trace_begin(engine->exec, steps, &engine->error);
    engine->traced = status == ZERO_OK;
    zero_engine_leave(engine, status == ZERO_ERR_MEMORY ? ZERO_OK : status);
    return status;
}

/* zero_trace_read, and with end zero_trace_end. */
static zero_status_t read_trace(zero_engine_t *engine, const char *what, bool end, zero_trace_fn fn, void *ctx,
                                uint64_t *lost)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, what);
    if (status != ZERO_OK)
        return status;
    if (!engine->traced)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "%s is called without a trace: call zero_trace_begin first",
                         what);
    if (engine->pass >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "%s is called while pass '%s' is open: call zero_micro_end "
                         "first",
                         what, engine->spec.passes[engine->pass].name);
    status = (end ? zero_exec_trace_end : zero_exec_trace_read)(engine->exec, fn, ctx, lost, &engine->error);
    engine->traced = !end || status != ZERO_OK;
    return zero_engine_leave(engine, status);
}

zero_status_t zero_trace_read(zero_engine_t *engine, zero_trace_fn fn, void *ctx, uint64_t *lost)
{
    return read_trace(engine, "zero_trace_read", false, fn, ctx, lost);
}

zero_status_t zero_trace_end(zero_engine_t *engine, zero_trace_fn fn, void *ctx, uint64_t *lost)
{
    return read_trace(engine, "zero_trace_end", true, fn, ctx, lost);
}
