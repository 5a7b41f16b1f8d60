/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - SAVE and SYNC: this rank's own elements of a buffer go to a sink, parameter by parameter.
 *
 * Only the thread of the save stream touches a running save. Whoever finds it done may read its outcome. */
#include "zero/exec/internal.h"

#include <stdlib.h>

typedef struct zero_exec_save {
    zero_exec_sink_t sink;
    zero_status_t status; /* the first failure */
    zero_error_t error;
    atomic_bool done;
} zero_exec_save_t;

zero_status_t zero_exec_save_create(zero_exec_t *x, zero_error_t *error)
{
    if (!x->plan->spec->saves)
        return ZERO_OK;
    x->save = calloc(1, sizeof *x->save);
    if (!x->save)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for saves: %zu bytes", sizeof *x->save);
    atomic_store_explicit(&x->save->done, true, memory_order_relaxed);
    return ZERO_OK;
}

void zero_exec_save_destroy(zero_exec_t *x)
{
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

zero_status_t zero_exec_wait_saved(zero_exec_t *x, zero_error_t *error)
{
    zero_error_t local = {.text = ""};
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    status = zero_exec_wait_for(x, x->streams[ZERO_STREAM_SAVE], NULL, &local);
    if (status == ZERO_OK)
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

/* Elements of the nvme tier, in pieces through the scratch. offset: where they begin in the tier. */
static zero_status_t save_nvme(zero_exec_t *x, const zero_buffer_t *buffer, int32_t param, int64_t begin, int64_t count,
                               uint64_t offset, zero_error_t *error)
{
    uintptr_t base = (uintptr_t)x->base[x->plan->save_scratch];
    char *scratch = x->base[x->plan->save_scratch] + (ZERO_PAGE - base % ZERO_PAGE) % ZERO_PAGE;
    int64_t most = ZERO_SAVE_PIECE / buffer->format.block_bytes * buffer->format.block;
    zero_status_t status = ZERO_OK;
    for (int64_t done = 0, piece; done < count && status == ZERO_OK; done += piece) {
        char *values;
        piece = count - done < most ? count - done : most;
        status = zero_exec_read_nvme(x, offset + zero_format_bytes(&buffer->format, done),
                                     zero_format_bytes(&buffer->format, piece), scratch, &values, error);
        if (status == ZERO_OK)
            status =
                x->save->sink.write(x->save->sink.ctx, param, state_of(buffer), begin + done, piece, values, error);
    }
    return status;
}

static zero_status_t save_buffer(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    const zero_buffer_t *buffer = &plan->buffers[op->src];
    const zero_span_t span = zero_plan_span(plan, x->rank, op->src, true, op->part);
    const zero_exec_sink_t *sink = &x->save->sink;
    zero_status_t status = ZERO_OK;
    for (int32_t p = 0; p < plan->spec->param_count && status == ZERO_OK; p++) {
        const zero_placed_t *placed = &plan->placed[p];
        int64_t end = placed->offset + plan->spec->params[p].count, begin = placed->offset;
        begin = begin > span.begin ? begin : span.begin;
        end = end < span.begin + span.count ? end : span.begin + span.count;
        if (placed->segment != op->segment || begin >= end)
            continue;
        uint64_t offset = span.offset + zero_format_bytes(&buffer->format, begin - span.begin);
        status = buffer->tier == ZERO_TIER_NVME
                     ? save_nvme(x, buffer, p, begin - placed->offset, end - begin, buffer->offset + offset, error)
                     : sink->write(sink->ctx, p, state_of(buffer), begin - placed->offset, end - begin,
                                   x->base[op->src] + offset, error);
    }
    return status;
}

zero_status_t zero_exec_save_op(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_exec_save_t *s = x->save;
    /* After a failure nothing more is written, but the operations run, so that updates go on. */
    if (s->status == ZERO_OK)
        s->status = op->kind == ZERO_OP_SAVE ? save_buffer(x, op, &s->error) : s->sink.sync(s->sink.ctx, &s->error);
    if (op->kind == ZERO_OP_SYNC)
        atomic_store_explicit(&s->done, true, memory_order_release);
    (void)error;
    return ZERO_OK;
}
