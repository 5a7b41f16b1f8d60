/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - records when each operation begins and ends.
 *
 * Each stream has a ring of spans. The calling thread reserves a span when it issues an operation; the thread that runs
 * the operation writes the times. A span has one writer, and the calling thread reads it only after the stream's
 * counter has passed it, so there are no locks. If an operation launches work on a native stream, its times are marks
 * of the device's clock, which the calling thread reads later.
 */
#include "zero/exec/internal.h"

#include <limits.h>
#include <stdlib.h>

/* Waits of the calling thread, and tasks, have their own tracks, after those of the streams. */
enum { TRACK_CALLER = ZERO_STREAM_COUNT, TRACK_TASKS, TRACKS };

struct zero_exec_span {
    const zero_op_t *op;
    int64_t step;
    int32_t micro;
    bool marked; /* the times are marks of the clock, copied to begin and end when they are read */
    uint64_t begin, end;
};

typedef struct track {
    zero_exec_span_t *spans; /* (room) */
    int32_t room;
    int32_t first_mark;     /* of the 2 * room marks of a native stream */
    uint64_t issued, taken; /* used by the calling thread alone */
    _Atomic uint64_t ended; /* spans with both times, in order; written by the stream's thread */
} track_t;

struct zero_exec_trace {
    track_t tracks[TRACKS];
    zero_exec_span_t **open; /* by unit: the use that the caller holds, or NULL */
    zero_clock_t *clock;     /* NULL: no stream is native */
    zero_exec_span_t *task;  /* the task that runs, or NULL */
    int32_t micro;           /* the micro-step of the last training program or task, from 1 */
    uint64_t lost;           /* operations without room since the last read */
};

/* ---- begin and end ---------------------------------------------------------------------------------------------- */

/* The track of an operation; -1: it is not traced. RECORD and RELEASE take no time. Waits of streams other than compute
 * are their idle time. */
static int track_of(const zero_op_t *op)
{
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_RECORD:
    case ZERO_OP_RELEASE:
    case ZERO_OP_TASK_END:
        return -1;
    case ZERO_OP_TASK:
        return TRACK_TASKS;
    case ZERO_OP_WAIT:
        return op->stream == ZERO_STREAM_COMPUTE ? ZERO_STREAM_COMPUTE : -1;
    case ZERO_OP_HOST_WAIT:
        return TRACK_CALLER;
    default:
        return op->stream;
    }
}

/* The task of a TASK, TASK_END, SEND or RECV; NULL: the operation is another one. */
static const zero_plan_task_t *task_of(const zero_plan_t *plan, const zero_op_t *op)
{
    return zero_op_is_of_task(op) ? &plan->passes[plan->programs[op->program].pass].tasks[op->use] : NULL;
}

/* The most operations on each track in a step or in one run of another program. */
static void count_operations(const zero_plan_t *plan, int64_t most[TRACKS])
{
    int64_t step[TRACKS] = {0};
    memset(most, 0, TRACKS * sizeof *most);
    for (int32_t p = 0; p < plan->program_count; p++) {
        const zero_program_t *program = &plan->programs[p];
        int64_t here[TRACKS] = {0}, times = 0;
        int micros = plan->spec->micro_steps;
        for (int32_t i = 0; i < program->op_count; i++)
            if (track_of(&program->ops[i]) >= 0)
                here[track_of(&program->ops[i])]++;
        if (program->kind == ZERO_PROGRAM_MIDDLE)
            times = micros > 2 ? micros - 2 : 0;
        else if (program->kind == ZERO_PROGRAM_FIRST || program->kind == ZERO_PROGRAM_LAST ||
                 program->kind == ZERO_PROGRAM_STEP)
            times = 1;
        else if (program->kind == ZERO_PROGRAM_ONLY)
            times = micros == 1 || plan->spec->chunk_count > 0; /* tasks are those of all micro-steps */
        for (int t = 0; t < TRACKS; t++) {
            step[t] += times * here[t];
            most[t] = here[t] > most[t] ? here[t] : most[t];
        }
    }
    for (int t = 0; t < TRACKS; t++)
        most[t] = step[t] > most[t] ? step[t] : most[t];
}

static void trace_free(zero_exec_t *x, zero_exec_trace_t *trace)
{
    if (!trace)
        return;
    for (int t = 0; t < TRACKS; t++)
        free(trace->tracks[t].spans);
    if (trace->clock)
        x->device->ops->clock_destroy(trace->clock);
    free(trace->open);
    free(trace);
}

void zero_exec_trace_destroy(zero_exec_t *x)
{
    trace_free(x, x->trace);
    x->trace = NULL;
}

/* Whether the device's clock times the stream. */
static bool is_native(const zero_exec_t *x, int track)
{
    const int stream = track == TRACK_TASKS ? ZERO_STREAM_COMPUTE : track;
    return stream < ZERO_STREAM_COUNT && x->streams[stream] && x->device->ops->clock_create &&
           x->device->ops->native(x->streams[stream]);
}

zero_status_t zero_exec_trace_begin(zero_exec_t *x, int steps, zero_error_t *error)
{
    int64_t most[TRACKS], total = 0, marks = 0;
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    count_operations(x->plan, most);
    for (int t = 0; t < TRACKS; t++) {
        total += most[t] * steps;
        marks += is_native(x, t) ? 2 * most[t] * steps : 0;
    }
    if (total > INT32_MAX / 2)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a trace with room for %d steps would hold %lld operations, but at most %d: use less room",
                         steps, (long long)total, INT32_MAX / 2);
    zero_exec_trace_t *trace = calloc(1, sizeof *trace);
    if (!trace || !(trace->open = calloc((size_t)x->plan->spec->unit_count + 1, sizeof *trace->open)))
        goto no_memory;
    int32_t mark = 0;
    for (int t = 0; t < TRACKS; t++) {
        track_t *track = &trace->tracks[t];
        track->room = (int32_t)(most[t] * steps);
        if (track->room > 0 && !(track->spans = calloc((size_t)track->room, sizeof *track->spans)))
            goto no_memory;
        track->first_mark = mark;
        mark += is_native(x, t) ? 2 * track->room : 0;
    }
    if (marks > 0 &&
        (status = x->device->ops->clock_create(x->device, (int32_t)marks, &trace->clock, error)) != ZERO_OK) {
        trace_free(x, trace);
        return status;
    }
    x->trace = trace;
    return ZERO_OK;

no_memory:
    trace_free(x, trace);
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a trace of %lld operations (%lld bytes): use less room",
                     (long long)total, (long long)total * (long long)sizeof(zero_exec_span_t));
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

void zero_exec_trace_program(zero_exec_t *x, int32_t program)
{
    switch (x->plan->programs[program].kind) {
    case ZERO_PROGRAM_FIRST:
    case ZERO_PROGRAM_ONLY:
        x->trace->micro = 1;
        break;
    case ZERO_PROGRAM_MIDDLE:
    case ZERO_PROGRAM_LAST:
        x->trace->micro++;
        break;
    default:
        break;
    }
}

zero_exec_span_t *zero_exec_trace_issue(zero_exec_t *x, const zero_op_t *op)
{
    zero_exec_trace_t *trace = x->trace;
    int t = track_of(op);
    if (t < 0)
        return NULL;
    track_t *track = &trace->tracks[t];
    if (track->issued - track->taken >= (uint64_t)track->room) {
        trace->lost++;
        return NULL;
    }
    zero_exec_span_t *span = &track->spans[track->issued++ % (uint64_t)track->room];
    zero_program_kind_t kind = x->plan->programs[op->program].kind;
    bool trains = kind >= ZERO_PROGRAM_FIRST && kind <= ZERO_PROGRAM_ONLY;
    const zero_plan_task_t *task = task_of(x->plan, op);
    *span = (zero_exec_span_t){.op = op,
                               .step = atomic_load_explicit(&x->step, memory_order_relaxed) +
                                       (trains || kind == ZERO_PROGRAM_STEP),
                               .micro = !trains ? 0
                                        : task  ? task->micro + 1
                                                : trace->micro};
    return span;
}

/* Records the begin (0) or the end (1) of the span. */
static zero_status_t stamp(zero_exec_t *x, zero_exec_span_t *span, int which, void *native, zero_error_t *error)
{
    const track_t *track = &x->trace->tracks[track_of(span->op)];
    span->marked = native != NULL && x->trace->clock != NULL;
    if (span->marked)
        return x->device->ops->clock_mark(
            x->trace->clock, track->first_mark + 2 * (int32_t)(span - track->spans) + which, native, error);
    *(which ? &span->end : &span->begin) = zero_now_ns();
    return ZERO_OK;
}

zero_status_t zero_exec_trace_task(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    zero_exec_t *x = ctx;
    zero_exec_span_t *span = (zero_exec_span_t *)(uintptr_t)arg; /* arg is not const: it is in the ring */
    track_t *track = &x->trace->tracks[track_of(span->op)];
    zero_status_t status = stamp(x, span, 0, native, error);
    if (status == ZERO_OK)
        status = zero_exec_task(x, span->op, native, error);
    if (status == ZERO_OK)
        status = stamp(x, span, 1, native, error);
    atomic_store_explicit(&track->ended, atomic_load_explicit(&track->ended, memory_order_relaxed) + 1,
                          memory_order_release);
    return status;
}

/* The native stream of an operation that is not a task; NULL: the host's clock times it. */
static void *native_of(const zero_exec_t *x, const zero_op_t *op)
{
    return op->kind == ZERO_OP_HOST_WAIT ? NULL : x->device->ops->native(x->streams[ZERO_STREAM_COMPUTE]);
}

zero_status_t zero_exec_trace_stamp(zero_exec_t *x, zero_exec_span_t *span, int which, zero_error_t *error)
{
    track_t *track = &x->trace->tracks[track_of(span->op)];
    if (which)
        atomic_fetch_add_explicit(&track->ended, 1, memory_order_relaxed);
    return stamp(x, span, which, native_of(x, span->op), error);
}

zero_status_t zero_exec_trace_use(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_exec_span_t *span = zero_exec_trace_issue(x, op);
    x->trace->open[op->unit] = span;
    return span ? zero_exec_trace_stamp(x, span, 0, error) : ZERO_OK;
}

zero_status_t zero_exec_trace_release(zero_exec_t *x, int32_t unit, zero_error_t *error)
{
    zero_exec_span_t *span = x->trace->open[unit];
    x->trace->open[unit] = NULL;
    return span ? zero_exec_trace_stamp(x, span, 1, error) : ZERO_OK;
}

zero_status_t zero_exec_trace_turn(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_exec_trace_t *trace = x->trace;
    zero_exec_span_t *ended = trace->task;
    trace->task = NULL;
    if (op->kind == ZERO_OP_TASK_END)
        return ended ? zero_exec_trace_stamp(x, ended, 1, error) : ZERO_OK;
    trace->micro = task_of(x->plan, op)->micro + 1;
    trace->task = zero_exec_trace_issue(x, op);
    return trace->task ? zero_exec_trace_stamp(x, trace->task, 0, error) : ZERO_OK;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Sets *over to whether the span has ended; then its times are valid. */
static zero_status_t settle(zero_exec_t *x, const track_t *track, zero_exec_span_t *span, bool *over,
                            zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    *over = true;
    if (!span->marked)
        return ZERO_OK;
    int32_t mark = track->first_mark + 2 * (int32_t)(span - track->spans);
    if ((status = x->device->ops->clock_read(x->trace->clock, mark + 1, &span->end, error)) == ZERO_OK &&
        (*over = span->end > 0))
        status = x->device->ops->clock_read(x->trace->clock, mark, &span->begin, error);
    /* the time for which a native stream waited is known only now */
    if (status == ZERO_OK && *over && span->op->kind == ZERO_OP_WAIT && span->end > span->begin)
        x->exposed_ns += span->end - span->begin;
    return status;
}

static void hand_over(const zero_exec_t *x, const zero_exec_span_t *span, zero_trace_fn fn, void *fn_ctx)
{
    const zero_plan_t *plan = x->plan;
    const zero_op_t *op = span->op;
    const zero_program_t *program = &plan->programs[op->program];
    int t = track_of(op);
    const zero_plan_task_t *task = task_of(plan, op);
    const uint32_t flags = op->kind == ZERO_OP_USE ? op->flags : task && task->phase != ZERO_FORWARD ? ZERO_GRAD : 0;
    zero_trace_span_t out = {.size = sizeof out,
                             .stream = t == TRACK_CALLER  ? "caller"
                                       : t == TRACK_TASKS ? "tasks"
                                                          : zero_stream_name((zero_stream_id_t)t),
                             .operation = zero_op_name((zero_op_kind_t)op->kind),
                             .unit = op->unit >= 0 ? plan->spec->units[op->unit].name : NULL,
                             .program = zero_program_name(program->kind),
                             .pass = program->pass >= 0 ? plan->spec->passes[program->pass].name : NULL,
                             .index = (int32_t)(op - program->ops),
                             .flags = flags,
                             .bytes = op->bytes,
                             .step = span->step,
                             .micro = span->micro,
                             .begin_ns = span->begin,
                             .end_ns = span->end,
                             .chunk = task ? task->chunk : -1};
    if (fn)
        fn(fn_ctx, &out);
}

zero_status_t zero_exec_trace_read(zero_exec_t *x, zero_trace_fn fn, void *fn_ctx, uint64_t *lost, zero_error_t *error)
{
    zero_exec_trace_t *trace = x->trace;
    zero_status_t status = zero_exec_check(x, error);
    for (int t = 0; t < TRACKS && status == ZERO_OK; t++) {
        track_t *track = &trace->tracks[t];
        uint64_t ended = atomic_load_explicit(&track->ended, memory_order_acquire);
        for (bool over = true; track->taken < ended; track->taken++) {
            zero_exec_span_t *span = &track->spans[track->taken % (uint64_t)track->room];
            if ((status = settle(x, track, span, &over, error)) != ZERO_OK || !over)
                break;
            hand_over(x, span, fn, fn_ctx);
        }
    }
    if (lost)
        *lost = trace->lost;
    if (trace->lost > 0)
        zero_log(x->options.log, x->options.log_ctx, ZERO_LOG_WARNING,
                 "the trace lost %llu operations, for which it had no room: call zero_trace_read more often, or give "
                 "zero_trace_begin more steps",
                 (unsigned long long)trace->lost);
    trace->lost = 0;
    return status == ZERO_OK && trace->clock ? x->device->ops->clock_set(trace->clock, error) : status;
}

zero_status_t zero_exec_trace_end(zero_exec_t *x, zero_trace_fn fn, void *fn_ctx, uint64_t *lost, zero_error_t *error)
{
    zero_status_t status = zero_exec_sync(x, error);
    if (status == ZERO_OK)
        status = zero_exec_trace_read(x, fn, fn_ctx, lost, error);
    if (status == ZERO_OK)
        zero_exec_trace_destroy(x);
    return status;
}
