/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - SAVE and SYNC: this rank's own elements of a buffer go to a sink, parameter by parameter.
 *
 * Only the thread of the save stream touches a running save. Whoever finds it done may read its outcome. */
#include "zero/exec/internal.h"
#include "zero/plan/split.h"

#include <stdlib.h>

typedef struct zero_exec_save {
    zero_exec_sink_t sink;
    zero_status_t status; /* the first failure */
    zero_error_t error;
    atomic_bool done;
    _Atomic uint64_t progress; /* calls of the sink that have returned */
    uint64_t seen;             /* of progress, by the thread that waits for the end */
    double seen_at;            /* when it last saw some */
    zero_stream_t *copies;     /* from the memory of a device that the host cannot read; NULL: it can */
} zero_exec_save_t;

zero_status_t zero_exec_save_create(zero_exec_t *x, zero_error_t *error)
{
    if (!x->plan->spec->saves)
        return ZERO_OK;
    x->save = calloc(1, sizeof *x->save);
    if (!x->save)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for saves: %zu bytes", sizeof *x->save);
    atomic_store_explicit(&x->save->done, true, memory_order_relaxed);
    return x->device->caps.host_memory
               ? ZERO_OK
               : x->device->ops->stream_create(x->device, ZERO_STREAM_COPY, &x->save->copies, error);
}

void zero_exec_save_destroy(zero_exec_t *x)
{
    if (x->save && x->save->copies)
        x->device->ops->stream_destroy(x->save->copies);
    free(x->save);
    x->save = NULL;
}

zero_status_t zero_exec_save(zero_exec_t *x, const zero_exec_sink_t *sink, zero_error_t *error)
{
    zero_exec_save_t *s = x->save;
    if (!s || !atomic_load_explicit(&s->done, memory_order_acquire))
        return zero_fail(error, ZERO_ERR_ORDER, s ? "a save is still running" : "the plan has no program that saves");
    s->sink = *sink;
    s->status = ZERO_OK;
    s->seen_at = zero_now();
    atomic_store_explicit(&s->done, false, memory_order_relaxed); /* the stream's queue publishes it */
    zero_status_t status = zero_exec_begin(x, zero_plan_program(x->plan, ZERO_PROGRAM_SAVE, -1, -1), error);
    return status == ZERO_OK ? zero_exec_end(x, error) : status;
}

bool zero_exec_saved(zero_exec_t *x, zero_status_t *status, zero_error_t *why)
{
    if (!atomic_load_explicit(&x->save->done, memory_order_acquire))
        return false;
    *status = x->save->status;
    if (*status != ZERO_OK)
        *why = x->save->error;
    return true;
}

zero_status_t zero_exec_wait_saved(zero_exec_t *x, double seconds, zero_error_t *error)
{
    zero_exec_save_t *s = x->save;
    zero_error_t local = {.text = ""};
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    uint64_t now = atomic_load_explicit(&s->progress, memory_order_relaxed);
    if (now != s->seen)
        s->seen_at = zero_now();
    s->seen = now;
    status = x->device->ops->sync(x->streams[ZERO_STREAM_SAVE], seconds, &local);
    /* a slow drive is no failure as long as it takes bytes */
    if (status == ZERO_OK || (status == ZERO_ERR_TIMEOUT && zero_now() - s->seen_at < x->options.timeout_s))
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, NULL, &local);
    return zero_pass(error, status, &local);
}

static zero_state_t state_of(const zero_buffer_t *buffer)
{
    return buffer->role == ZERO_ROLE_MASTER  ? ZERO_STATE_MASTER
           : buffer->role == ZERO_ROLE_STATE ? (zero_state_t)((int)ZERO_STATE_MOMENT1 + buffer->state)
                                             : ZERO_STATE_PARAM;
}

static zero_status_t give(zero_exec_t *x, int32_t param, zero_state_t state, int64_t begin, int64_t count,
                          const void *values, zero_error_t *error)
{
    const zero_exec_sink_t *sink = &x->save->sink;
    zero_status_t status = sink->write(sink->ctx, param, state, begin, count, values, error);
    atomic_fetch_add_explicit(&x->save->progress, 1, memory_order_relaxed);
    return status;
}

/* Whether the host cannot read the buffer where it is. */
static bool is_away(const zero_exec_t *x, const zero_buffer_t *buffer)
{
    return buffer->tier == ZERO_TIER_NVME || (buffer->tier == ZERO_TIER_DEVICE && !x->device->caps.host_memory);
}

/* Brings bytes of a buffer that is away into the scratch, and says where in it they begin. */
static zero_status_t fetch(zero_exec_t *x, int32_t buffer, uint64_t offset, uint64_t bytes, char *scratch,
                           char **values, zero_error_t *error)
{
    const zero_device_ops_t *device = x->device->ops;
    zero_stream_t *copies = x->save->copies;
    if (x->plan->buffers[buffer].tier == ZERO_TIER_NVME)
        return zero_exec_read_nvme(x, x->plan->buffers[buffer].offset + offset, bytes, scratch, values, error);
    *values = scratch;
    zero_status_t status =
        device->copy(x->device, device->native(copies), scratch, x->base[buffer] + offset, bytes, error);
    return status == ZERO_OK ? device->sync(copies, x->options.timeout_s, error) : status;
}

/* Saves elements of a buffer that is away, in pieces. offset: of the first one in the buffer. */
static zero_status_t save_away(zero_exec_t *x, int32_t buffer, int32_t param, int64_t begin, int64_t count,
                               uint64_t offset, zero_error_t *error)
{
    const zero_buffer_t *b = &x->plan->buffers[buffer];
    uintptr_t base = (uintptr_t)x->base[x->plan->save_scratch];
    char *scratch = x->base[x->plan->save_scratch] + (ZERO_PAGE - base % ZERO_PAGE) % ZERO_PAGE;
    const int64_t most = ZERO_SAVE_PIECE / b->format.block_bytes * b->format.block,
                  run = x->plan->spec->params[param].run;
    zero_status_t status = ZERO_OK;
    for (int64_t done = 0, piece; done < count && status == ZERO_OK; done += piece) {
        char *values;
        piece = count - done < most ? count - done : most;
        /* The sink takes whole runs best. */
        const int64_t at = begin + done, whole = (at + piece) / run * run;
        if (done + piece < count && whole > at)
            piece = whole - at;
        status = fetch(x, buffer, offset + zero_format_bytes(&b->format, done), zero_format_bytes(&b->format, piece),
                       scratch, &values, error);
        if (status == ZERO_OK)
            status = give(x, param, state_of(b), begin + done, piece, values, error);
    }
    return status;
}

static zero_status_t save_buffer(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    const zero_buffer_t *buffer = &plan->buffers[op->src];
    const zero_span_t span = zero_plan_span(plan, x->rank, op->src, ZERO_EXTENT_SLICE, op->part);
    zero_status_t status = ZERO_OK;
    if (!zero_split_owns(plan, op->segment, x->rank)) /* place 0 writes the same elements */
        return ZERO_OK;
    for (int32_t p = 0; p < plan->spec->param_count && status == ZERO_OK; p++) {
        const zero_placed_t *placed = &plan->placed[p];
        int64_t end = placed->offset + plan->spec->params[p].count, begin = placed->offset;
        begin = begin > span.begin ? begin : span.begin;
        end = end < span.begin + span.count ? end : span.begin + span.count;
        if (placed->segment != op->segment || begin >= end)
            continue;
        uint64_t offset = span.offset + zero_format_bytes(&buffer->format, begin - span.begin);
        status = is_away(x, buffer) ? save_away(x, op->src, p, begin - placed->offset, end - begin, offset, error)
                                    : give(x, p, state_of(buffer), begin - placed->offset, end - begin,
                                           x->base[op->src] + offset, error);
    }
    return status;
}

zero_status_t zero_exec_save_op(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_exec_save_t *s = x->save;
    /* After a failure, also of the engine, nothing more is written, but the operations run, so that updates go on. */
    if (s->status == ZERO_OK)
        s->status = zero_exec_check(x, &s->error);
    if (s->status == ZERO_OK)
        s->status = op->kind == ZERO_OP_SAVE ? save_buffer(x, op, &s->error) : s->sink.sync(s->sink.ctx, &s->error);
    if (op->kind == ZERO_OP_SYNC)
        atomic_store_explicit(&s->done, true, memory_order_release);
    (void)error;
    return ZERO_OK;
}
