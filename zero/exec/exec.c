/* SPDX-License-Identifier: Apache-2.0 */
/* exec.c - what a plan needs to run: arenas, streams, events, channels; failures; sums and statistics. */
#include "offload/pool.h"
#include "zero/exec/internal.h"

#include <stdio.h>
#include <stdlib.h>

zero_status_t zero_exec_check(zero_exec_t *x, zero_error_t *error)
{
    return zero_latch_check(&x->failed, error);
}

typedef struct place_text {
    char s[240];
} place_text_t;

/* " of the forward task of chunk 1, micro-step 3"; "": the operation is of no task */
static place_text_t task_of(const zero_plan_t *plan, const zero_program_t *p, const zero_op_t *op)
{
    place_text_t t = {""};
    if (!zero_op_is_of_task(op))
        return t;
    const zero_plan_task_t *task = &plan->passes[p->pass].tasks[op->use];
    snprintf(t.s, sizeof t.s, " of the %s task of chunk %d, micro-step %d",
             task->phase == ZERO_FORWARD ? "forward" : "backward", task->chunk, task->micro + 1);
    return t;
}

/* "REDUCE_SCATTER of unit 'h3' (operation 12 of 80 of program 'last')" or "after program 'last'" */
static place_text_t place_of(const zero_plan_t *plan, int32_t program, int32_t cursor)
{
    const zero_program_t *p = &plan->programs[program];
    const zero_op_t *op = &p->ops[cursor];
    char stage[32] = "";
    place_text_t t;
    if (plan->spec->mesh.pipe > 1)
        snprintf(stage, sizeof stage, " of stage %d", plan->pipe);
    if (cursor == p->op_count) {
        snprintf(t.s, sizeof t.s, "after program '%s'%s", zero_program_name(p->kind), stage);
        return t;
    }
    bool unit = op->unit >= 0 && op->unit < plan->spec->unit_count;
    snprintf(t.s, sizeof t.s, "%s%s%.60s%s%.80s (operation %d of %d of program '%s'%s)",
             zero_op_name((zero_op_kind_t)op->kind), unit ? " of unit '" : "",
             unit ? plan->spec->units[op->unit].name : "", unit ? "'" : "", task_of(plan, p, op).s, cursor + 1,
             p->op_count, zero_program_name(p->kind), stage);
    return t;
}

/* Sizes of the word's fields. The step wraps; program and operation are checked when the word is read. */
enum { WORD_PROGRAM_BITS = 20, WORD_CURSOR_BITS = 24 };

uint64_t zero_exec_word(const zero_exec_t *x, int32_t program, int32_t cursor)
{
    uint64_t step = (uint64_t)atomic_load_explicit(&x->step, memory_order_relaxed) + 1;
    return step << (WORD_PROGRAM_BITS + WORD_CURSOR_BITS) | (uint64_t)program << WORD_CURSOR_BITS | (uint64_t)cursor;
}

/* Appends "; rank 2 is in step 7 at REDUCE_SCATTER of unit 'h3' (...)" for every rank that published a word, if there
 * is room; logs it if error is NULL. */
static void add_cursors(const zero_exec_t *x, zero_error_t *error)
{
    const zero_comm_t *comm = x->comms[0][0];
    for (int r = 0; r < x->world; r++) {
        uint64_t word = zero_comm_progress(comm, r);
        int32_t program = (int32_t)(word >> WORD_CURSOR_BITS) & ((1 << WORD_PROGRAM_BITS) - 1),
                cursor = (int32_t)word & ((1 << WORD_CURSOR_BITS) - 1);
        char text[320];
        const zero_plan_t *plan = x->plans[zero_plan_pipe(x->plan->spec, r)];
        if (word == 0 || program >= plan->program_count || cursor > plan->programs[program].op_count)
            continue;
        snprintf(text, sizeof text, "rank %d is in step %llu %s%s", r,
                 (unsigned long long)(word >> (WORD_PROGRAM_BITS + WORD_CURSOR_BITS)),
                 cursor == plan->programs[program].op_count ? "" : "at ", place_of(plan, program, cursor).s);
        if (!error)
            zero_log(x->options.log, x->options.log_ctx, ZERO_LOG_ERROR, "%s", text);
        else if (strlen(error->text) + strlen(text) + 2 < sizeof error->text)
            zero_fail_from(error, error->status, error, "%s; %s", error->text, text);
    }
}

zero_status_t zero_exec_failed(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    if (!zero_latch_claim(&x->failed))
        return zero_exec_check(x, error);
    long long step = (long long)atomic_load_explicit(&x->step, memory_order_relaxed) + 1;
    place_text_t where = {""};
    zero_error_t why = *error, *failure = &x->failed.error;
    if (op)
        where = place_of(x->plan, op->program, (int32_t)(op - x->plan->programs[op->program].ops));
    if (error->status == ZERO_ERR_PEER || error->status == ZERO_ERR_MISMATCH) /* these name their ranks */
        *failure = why;
    else
        zero_fail_reason(failure, error->status, (zero_reason_t)error->reason, error->rank >= 0 ? error->rank : x->rank,
                         "rank %d, step %lld%s%s: %s", x->rank, step, where.s[0] ? ", " : "", where.s, error->text);
    if (error->status == ZERO_ERR_TIMEOUT)
        add_cursors(x, failure);
    *error = *failure;
    zero_latch_publish(&x->failed);
    if (error->status != ZERO_ERR_PEER && x->comms[0][0])
        zero_comm_fail(x->comms[0][0], error);
    /* The caller's log function comes last: it may be slow, or wait for a thread that waits for the sentence above. */
    zero_log(x->options.log, x->options.log_ctx, ZERO_LOG_ERROR, "rank %d stops in step %lld%s%s: %s", x->rank, step,
             where.s[0] ? " at " : "", where.s, why.text);
    if (why.status == ZERO_ERR_TIMEOUT)
        add_cursors(x, NULL);
    return error->status;
}

void zero_exec_abort(zero_exec_t *x, const zero_error_t *why)
{
    zero_error_t error;
    zero_fail_reason(&error, ZERO_ERR_PEER, (zero_reason_t)why->reason, x->rank, "rank %d: %s", x->rank, why->text);
    if (zero_latch_set(&x->failed, &error) && x->comms[0][0])
        zero_comm_fail(x->comms[0][0], &error);
}

/* Computes the addresses of buffers. Buffers of kind rings have none: the communicator owns the rings. */
static void resolve(zero_exec_t *x)
{
    const zero_plan_t *plan = x->plan;
    for (int32_t b = 0; b < plan->buffer_count; b++) {
        const zero_buffer_t *buffer = &plan->buffers[b];
        if (buffer->kind == ZERO_KIND_RINGS || !x->arenas[buffer->tier])
            continue;
        x->base[b] = (char *)x->device->ops->arena_base(x->arenas[buffer->tier]) + buffer->offset;
    }
    x->scalars = (zero_exec_scalars_t *)x->base[plan->scalars];
    if (x->scalars != NULL) {
        x->scalars->weight = -1;
        x->scalars->loss_scale = 1;
        x->scalars->scale = zero_scale_first(&x->options);
    }
}

/* Creates no streams without work, because each may be a thread. */
static bool uses_stream(const zero_plan_t *plan, int stream)
{
    if (stream == ZERO_STREAM_COMPUTE || stream == ZERO_STREAM_REDUCE)
        return true;
    if (stream == ZERO_STREAM_GATHER && plan->spec->channels > 1 && plan->spec->world > 1)
        return true; /* calls are compared there */
    return zero_plan_uses(plan, (zero_stream_id_t)stream);
}

/* Moves host memory near the cores that use it, and locks offloaded state so that it is not swapped out. Devices other
 * than the CPU do this themselves; a caller's allocator does not need it. */
static zero_status_t place_arena(zero_exec_t *x, int tier, zero_error_t *error)
{
    void *base = x->device->ops->arena_base(x->arenas[tier]);
    uint64_t bytes = x->plan->arena_bytes[tier];
    int nodes;
    bool locked;
    if (!x->device->caps.host_memory || x->device->options.allocator)
        return ZERO_OK;
    zero_status_t status = zero_host_place(base, bytes, NULL, &nodes, x->options.log, x->options.log_ctx, error);
    if (status == ZERO_OK && tier == ZERO_TIER_HOST)
        status = zero_host_lock(base, bytes, &locked, x->options.log, x->options.log_ctx, error);
    return status;
}

static zero_status_t create_arena(zero_exec_t *x, zero_tier_t tier, zero_error_t *error)
{
    const zero_device_ops_t *device = x->device->ops;
    uint64_t bytes = x->plan->arena_bytes[tier];
    bool shareable = tier == ZERO_TIER_DEVICE && x->comm->caps.windows && device->arena_create_shareable;
    zero_status_t status = shareable ? device->arena_create_shareable(x->device, bytes, &x->arenas[tier], error)
                                     : device->arena_create(x->device, tier, bytes, &x->arenas[tier], error);
    return status ? status : place_arena(x, tier, error);
}

/* Allocates what needs no other rank. */
static zero_status_t allocate(zero_exec_t *x, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    const zero_spec_t *spec = plan->spec;
    const zero_device_ops_t *device = x->device->ops;
    zero_status_t status;

    x->use_capacity = 1;
    for (int32_t p = 0; p < spec->pass_count; p++)
        if (plan->passes[p].use_count > x->use_capacity)
            x->use_capacity = plan->passes[p].use_count;
    x->events = calloc((size_t)plan->event_count + 1, sizeof *x->events);
    x->base = calloc((size_t)plan->buffer_count + 1, sizeof *x->base);
    x->addends = calloc((size_t)x->world * ZERO_EXEC_SUM, sizeof *x->addends);
    x->use_states = calloc((size_t)x->use_capacity, sizeof *x->use_states);
    x->open_use = calloc((size_t)spec->unit_count + 1, sizeof *x->open_use);
    if (!x->events || !x->base || !x->addends || !x->use_states || !x->open_use)
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot allocate the tables of a plan of %d buffers and %d events",
                         plan->buffer_count, plan->event_count);
    for (int32_t u = 0; u < spec->unit_count; u++)
        x->open_use[u] = -1;

    for (int t = 0; t < ZERO_TIER_NVME; t++)
        if (plan->arena_bytes[t] > 0 && (status = create_arena(x, (zero_tier_t)t, error)) != ZERO_OK)
            return status;
    resolve(x);
    if ((status = zero_exec_register_nvme(x, error)) != ZERO_OK ||
        (status = zero_exec_save_create(x, error)) != ZERO_OK || (status = zero_exec_guard_create(x, error)) != ZERO_OK)
        return status;
    for (int s = 0; s < ZERO_STREAM_COUNT; s++)
        if (uses_stream(plan, s) &&
            (status = device->stream_create(x->device, (zero_stream_id_t)s, &x->streams[s], error)) != ZERO_OK)
            return status;
    for (int32_t e = 0; e < plan->event_count; e++)
        if ((status = device->event_create(x->device, &x->events[e], error)) != ZERO_OK)
            return status;
    return device->event_create(x->device, &x->exchanged, error);
}

/* Announces the memory of collectives to the communicators, which then copy less. The ranks agree after each channel,
 * so that none waits for another in the next one. */
static zero_status_t attach(zero_exec_t *x, zero_error_t *error)
{
    zero_arena_t *arena = x->arenas[ZERO_TIER_DEVICE];
    uint64_t bytes = x->plan->arena_bytes[ZERO_TIER_DEVICE];
    zero_status_t status = ZERO_OK;
    for (int g = 0; g < x->plan->spec->group_count && arena; g++)
        for (int c = 0; c < x->channel_count && status == ZERO_OK; c++) {
            if (x->comms[g][c])
                status = zero_comm_attach(x->comms[g][c], x->device->ops->arena_base(arena), bytes, error);
            status = zero_exec_agree(x->comm, status, error);
        }
    return status;
}

zero_status_t zero_exec_create(zero_exec_t **exec, const zero_plan_t *const *plans, const zero_config_t *config,
                               zero_error_t *error)
{
    zero_device_t *device = config->device;
    zero_comm_t *comm = config->comm;
    zero_error_t local = {0};
    zero_status_t status;
    zero_exec_t *x = calloc(1, sizeof *x);
    *exec = NULL;
    if (!x)
        return zero_exec_no_memory(comm, sizeof *x, error);
    x->plans = plans;
    x->plan = plans[zero_plan_pipe(plans[0]->spec, comm->rank)];
    x->device = device;
    x->comm = comm;
    x->options = *config;
    x->rank = comm->rank;
    x->world = comm->size;
    x->program = x->task = -1;
    x->pending_weight = -1;
    x->channel_count = x->plan->spec->channels;
    for (int c = 0; c < ZERO_CHANNELS; c++)
        x->channel_calls[c].report.step = 1;

    if ((status = zero_exec_agree(comm, zero_flat_of(device, &x->flat, &local), &local)) != ZERO_OK)
        goto fail;
    if ((status = zero_exec_fits(x, &local)) != ZERO_OK)
        goto fail;
    if ((status = zero_exec_open_nvme(x, &local)) != ZERO_OK)
        goto fail;
    if ((status = zero_exec_agree(comm, allocate(x, &local), &local)) != ZERO_OK)
        goto fail;
    for (int g = 0; g < x->plan->spec->group_count; g++)
        for (int c = 0; c < x->channel_count && status == ZERO_OK; c++)
            status =
                zero_comm_split(comm, zero_plan_member(x->plan->spec, g, x->rank, 0), x->rank, &x->comms[g][c], &local);
    if (status == ZERO_OK)
        status = zero_exec_open_links(x, &local);
    if ((status = zero_exec_agree(comm, status, &local)) != ZERO_OK)
        goto fail;
    if ((status = attach(x, &local)) != ZERO_OK)
        goto fail;
    *exec = x;
    return ZERO_OK;

fail:
    status = zero_pass(error, status, &local);
    zero_exec_destroy(x);
    return status;
}

void zero_exec_destroy(zero_exec_t *x)
{
    if (!x)
        return;
    const zero_device_ops_t *device = x->device->ops;
    zero_error_t ignored;
    /* A drain that times out aborts the ranks, and then the queued operations are dropped. */
    if (x->comms[0][0] && zero_exec_check(x, &ignored) == ZERO_OK)
        zero_exec_sync(x, &ignored);
    for (int s = 0; s < ZERO_STREAM_COUNT; s++)
        if (x->streams[s])
            device->stream_destroy(x->streams[s]);
    zero_exec_trace_destroy(x);
    for (int32_t e = 0; x->events && e < x->plan->event_count; e++)
        if (x->events[e])
            device->event_destroy(x->events[e]);
    if (x->exchanged)
        device->event_destroy(x->exchanged);
    for (int g = 0; g < ZERO_MAX_GROUPS; g++)
        for (int c = 0; c < ZERO_CHANNELS; c++)
            zero_comm_destroy(x->comms[g][c]);
    for (int l = 0; l < ZERO_EXEC_LINKS; l++)
        zero_comm_destroy(x->links[l]);
    zero_nvme_destroy(x->nvme);
    zero_exec_guard_destroy(x);
    zero_exec_save_destroy(x);
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        if (x->arenas[t])
            device->arena_destroy(x->arenas[t]);
    free(x->open_use);
    free(x->use_states);
    free(x->addends);
    free(x->base);
    free(x->events);
    free(x);
}

void *zero_exec_address(zero_exec_t *x, int32_t buffer)
{
    return x->base[buffer];
}

/* Reports a failure of the calling thread that belongs to no operation. */
static zero_status_t failed_outside(zero_exec_t *x, zero_status_t status, zero_error_t *local, zero_error_t *error)
{
    local->status = status;
    status = zero_exec_failed(x, NULL, local);
    return zero_pass(error, status, local);
}

zero_status_t zero_exec_wait_for(zero_exec_t *x, zero_stream_t *stream, zero_event_t *event, zero_error_t *error)
{
    const double piece = 0.05;
    double left = x->options.timeout_s;
    zero_comm_t *comm = x->comms[0][0];
    for (;;) {
        double bound = x->device->caps.launches && comm && left > piece ? piece : left;
        zero_status_t status =
            stream ? x->device->ops->sync(stream, bound, error) : x->device->ops->host_wait(event, bound, error);
        /* Aborted collectives on a device end too, with undefined contents. */
        zero_error_t why = {0};
        zero_status_t failed = x->device->caps.launches && comm ? zero_comm_check(comm, &why) : ZERO_OK;
        if (failed != ZERO_OK)
            return zero_pass(error, failed, &why);
        left -= bound;
        if (status != ZERO_ERR_TIMEOUT || left <= 0)
            return status;
    }
}

zero_status_t zero_exec_sync(zero_exec_t *x, zero_error_t *error)
{
    zero_error_t local = {0};
    zero_status_t status = zero_exec_check(x, error);
    for (int s = 0; status == ZERO_OK && s < ZERO_STREAM_COUNT; s++)
        if (x->streams[s] && (status = zero_exec_wait_for(x, x->streams[s], NULL, &local)) != ZERO_OK)
            status = failed_outside(x, status, &local, error);
    return status;
}

void *zero_exec_stream(zero_exec_t *x)
{
    return x->device->ops->native(x->streams[ZERO_STREAM_COMPUTE]);
}

zero_status_t zero_exec_wait(zero_exec_t *x, zero_error_t *error)
{
    zero_error_t local = {0};
    zero_status_t status = zero_exec_check(x, error);
    if (status == ZERO_OK && (status = zero_exec_wait_for(x, x->streams[ZERO_STREAM_COMPUTE], NULL, &local)) != ZERO_OK)
        status = failed_outside(x, status, &local, error);
    return status;
}

/* Copies to or from the buffer on the compute stream. */
static zero_status_t copy(zero_exec_t *x, int32_t buffer, void *dst, const void *src, uint64_t bytes,
                          zero_error_t *error)
{
    const zero_device_ops_t *device = x->device->ops;
    void *native = zero_exec_stream(x);
    zero_error_t local = {0};
    zero_status_t status = x->guard ? zero_exec_guard_buffer(x, buffer, true, &local) : ZERO_OK;
    if (status == ZERO_OK)
        status = device->copy(x->device, native, dst, src, bytes, &local);
    if (status == ZERO_OK)
        status = device->finish(x->device, native, x->options.timeout_s, &local);
    if (status == ZERO_OK && x->guard)
        status = zero_exec_guard_buffer(x, buffer, false, &local);
    return status == ZERO_OK ? ZERO_OK : failed_outside(x, status, &local, error);
}

zero_status_t zero_exec_write(zero_exec_t *x, int32_t buffer, uint64_t offset, const void *src, uint64_t bytes,
                              zero_error_t *error)
{
    if (x->plan->buffers[buffer].tier != ZERO_TIER_NVME)
        return copy(x, buffer, x->base[buffer] + offset, src, bytes, error);
    zero_error_t local = {0};
    zero_status_t status =
        zero_exec_access_nvme(x, true, x->plan->buffers[buffer].offset + offset, (void *)(uintptr_t)src, bytes, &local);
    return status == ZERO_OK ? ZERO_OK : failed_outside(x, status, &local, error);
}

zero_status_t zero_exec_read(zero_exec_t *x, int32_t buffer, uint64_t offset, void *dst, uint64_t bytes,
                             zero_error_t *error)
{
    if (x->plan->buffers[buffer].tier != ZERO_TIER_NVME)
        return copy(x, buffer, dst, x->base[buffer] + offset, bytes, error);
    zero_error_t local = {0};
    zero_status_t status =
        zero_exec_access_nvme(x, false, x->plan->buffers[buffer].offset + offset, dst, bytes, &local);
    return status == ZERO_OK ? ZERO_OK : failed_outside(x, status, &local, error);
}

void zero_exec_set_rate(zero_exec_t *x, double lr)
{
    x->pending_rate = lr;
}

void zero_exec_set_weight(zero_exec_t *x, double weight)
{
    x->pending_weight = weight;
}

void zero_exec_signal(zero_exec_t *x, uint32_t bits)
{
    x->pending_signals |= bits;
}

/* Waits for the last exchange. The scalars may be read until the next one is issued. */
static zero_status_t wait_exchanged(zero_exec_t *x, zero_error_t *error)
{
    zero_error_t local = {0};
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK || !x->exchange_issued)
        return status;
    uint64_t begin = zero_now_ns();
    if ((status = zero_exec_wait_for(x, NULL, x->exchanged, &local)) != ZERO_OK)
        status = failed_outside(x, status, &local, error);
    if (!x->device->caps.launches)
        x->exposed_ns += zero_now_ns() - begin;
    return status;
}

static uint64_t counted(const zero_exec_t *x, zero_exec_count_t which)
{
    uint64_t sum = 0;
    for (int s = 0; s < ZERO_STREAM_COUNT; s++)
        sum += atomic_load_explicit(&x->counts[s][which], memory_order_relaxed);
    return sum;
}

zero_status_t zero_exec_stats(zero_exec_t *x, zero_stats_t *stats, zero_error_t *error)
{
    zero_status_t status = wait_exchanged(x, error);
    if (status != ZERO_OK)
        return status;
    const zero_exec_scalars_t *s = x->scalars;
    stats->step = s->step;
    stats->skipped = s->skipped;
    stats->applied = s->apply;
    stats->grad_norm = s->norm;
    stats->clip_factor = s->clip_factor;
    stats->weight = s->weight;
    stats->loss_scale = s->loss_scale;
    stats->signals = s->signals;
    stats->not_finite = s->not_finite > 0 ? x->plan->spec->units[s->not_finite - 1].name : NULL;
    stats->traffic = (zero_traffic_t){.gathered = counted(x, ZERO_COUNT_GATHERED),
                                      .reduced = counted(x, ZERO_COUNT_REDUCED),
                                      .to_host = counted(x, ZERO_COUNT_TO_HOST),
                                      .to_device = counted(x, ZERO_COUNT_TO_DEVICE),
                                      .read = counted(x, ZERO_COUNT_READ),
                                      .written = counted(x, ZERO_COUNT_WRITTEN),
                                      .replica_gathered = counted(x, ZERO_COUNT_REPLICA_GATHERED),
                                      .replica_reduced = counted(x, ZERO_COUNT_REPLICA_REDUCED),
                                      .node_gathered = counted(x, ZERO_COUNT_NODE_GATHERED),
                                      .activations_received = counted(x, ZERO_COUNT_ACTIVATIONS_RECEIVED),
                                      .gradients_received = counted(x, ZERO_COUNT_GRADIENTS_RECEIVED),
                                      .collected = counted(x, ZERO_COUNT_COLLECTED)};
    stats->comm_seconds = 1e-9 * (double)counted(x, ZERO_COUNT_COMM_NS);
    stats->kernel_seconds = 1e-9 * (double)counted(x, ZERO_COUNT_KERNEL_NS);
    /* A device that is not asynchronous runs collectives on the calling thread, but transfers on those of links. */
    uint64_t exposed = x->exposed_ns;
    for (int s = 0; s < ZERO_STREAM_FROM_PREV && !x->device->caps.asynchronous; s++)
        exposed += atomic_load_explicit(&x->counts[s][ZERO_COUNT_COMM_NS], memory_order_relaxed);
    stats->exposed_seconds = 1e-9 * (double)exposed;
    return ZERO_OK;
}

zero_status_t zero_exec_scale(zero_exec_t *x, zero_scale_t *scale, zero_error_t *error)
{
    zero_status_t status = wait_exchanged(x, error);
    if (status == ZERO_OK)
        *scale = x->scalars->scale;
    return status;
}

zero_status_t zero_exec_set_scale(zero_exec_t *x, const zero_scale_t *scale, zero_error_t *error)
{
    zero_status_t status = wait_exchanged(x, error);
    if (status == ZERO_OK)
        x->scalars->scale = *scale;
    return status;
}

zero_status_t zero_exec_set_step(zero_exec_t *x, int64_t step, int64_t applied, zero_error_t *error)
{
    zero_status_t status = wait_exchanged(x, error);
    if (status == ZERO_OK)
        status = zero_exec_sync(x, error); /* updates in flight read the count */
    if (status != ZERO_OK)
        return status;
    x->scalars->step = step;
    x->scalars->applied = applied;
    x->scalars->skipped = step - applied;
    atomic_store_explicit(&x->step, step, memory_order_relaxed);
    for (int c = 0; c < x->channel_count; c++) {
        x->channel_calls[c].report.step = step + 1;
        x->channel_calls[c].is_step = false;
    }
    return ZERO_OK;
}

zero_status_t zero_exec_exchange(zero_exec_t *x, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    /* The reductions' channel is free once their stream is idle: every rank gets here after the same calls. */
    int channel = x->channel_count - 1;
    zero_error_t local = {0};
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if ((status = zero_exec_wait_for(x, x->streams[ZERO_STREAM_REDUCE], NULL, &local)) != ZERO_OK)
        return failed_outside(x, status, &local, error);
    zero_comm_t *comm = zero_exec_note(x, channel, NULL);
    status = zero_exec_note_done(x, channel, true, zero_control_exchange(comm, send, recv, bytes, &local), &local);
    return status == ZERO_OK ? ZERO_OK : failed_outside(x, status, &local, error);
}

zero_status_t zero_exec_agree_on(zero_exec_t *x, zero_status_t *status, zero_error_t *error)
{
    int channel = x->channel_count - 1, failed;
    zero_error_t local = {0};
    zero_status_t waited = zero_exec_check(x, error);
    if (waited != ZERO_OK)
        return waited;
    if ((waited = zero_exec_wait_for(x, x->streams[ZERO_STREAM_REDUCE], NULL, &local)) != ZERO_OK)
        return failed_outside(x, waited, &local, error);
    zero_comm_t *comm = zero_exec_note(x, channel, NULL);
    if (*status != ZERO_OK)
        local = *error;
    zero_status_t agreed = zero_comm_agree(comm, *status, &failed, &local);
    bool exchanged = agreed == ZERO_OK || failed >= 0;
    zero_status_t done = zero_exec_note_done(x, channel, true, exchanged ? ZERO_OK : agreed, &local);
    if (done != ZERO_OK)
        return failed_outside(x, done, &local, error);
    *status = agreed;
    if (agreed == ZERO_OK)
        return ZERO_OK;
    local.rank = failed;
    if (x->world > 1)
        zero_fail_from(error, agreed, &local, "rank %d: %s", failed, local.text);
    else
        zero_pass(error, agreed, &local);
    return ZERO_OK;
}

zero_status_t zero_exec_sum(zero_exec_t *x, double *values, int n, zero_error_t *error)
{
    const double *all = x->addends; /* (world, n) */
    zero_status_t status = zero_exec_check(x, error);
    if (status == ZERO_OK)
        status = zero_exec_call(x, &(zero_exec_call_t){ZERO_CALL_SUM, n, 0, -1}, error);
    if (status == ZERO_OK)
        status = zero_exec_exchange(x, values, x->addends, (uint64_t)n * sizeof *values, error);
    for (int i = 0; i < n && status == ZERO_OK; i++) {
        double sum = all[i];
        for (int r = 1; r < x->world; r++)
            sum += all[r * n + i];
        values[i] = sum;
    }
    return status;
}
