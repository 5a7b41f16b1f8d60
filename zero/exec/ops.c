/* SPDX-License-Identifier: Apache-2.0 */
/* ops.c - what each operation does, on its stream's thread. */
#include "zero/exec/internal.h"

#include "optim/norm.h"
#include "optim/rules.h"
#include "zero/plan/split.h"

#include <math.h>
#include <stdio.h>

/* The address of an operand. NULL if the operation has none, or if the operand is on the nvme tier: READ and WRITE find
 * it in its file. */
static char *operand(const zero_exec_t *x, const zero_op_t *op, int32_t buffer, zero_extent_t own)
{
    if (buffer < 0 || x->base[buffer] == NULL)
        return NULL;
    return x->base[buffer] + zero_plan_span(x->plan, x->rank, buffer, own, op->part).offset;
}

void zero_exec_count(zero_exec_t *x, int stream, zero_exec_count_t which, uint64_t more)
{
    _Atomic uint64_t *total = &x->counts[stream][which];
    atomic_store_explicit(total, atomic_load_explicit(total, memory_order_relaxed) + more, memory_order_relaxed);
}

static int channel_of(const zero_exec_t *x, const zero_op_t *op)
{
    return op->stream == ZERO_STREAM_GATHER ? 0 : x->channel_count - 1;
}

static zero_status_t collective(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error)
{
    int channel = channel_of(x, op);
    zero_comm_t *comm = zero_exec_note(x, channel, op);
    uint64_t before = comm->bytes_received + comm->bytes_reduced;
    const zero_format_t *format = &x->plan->buffers[op->dst].format;
    void *dst = operand(x, op, op->dst, op->dst_own), *src = operand(x, op, op->src, op->src_own);
    bool gathers = op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_COLLECT;
    zero_status_t status =
        gathers ? zero_comm_all_gather(comm, src, dst, zero_format_bytes(format, op->count), native, error)
        : op->kind == ZERO_OP_ALL_TO_ALL
            ? zero_comm_all_to_all(comm, src, dst, zero_format_bytes(format, op->count), native, error)
            : zero_comm_reduce_scatter(comm, src, dst, op->count, format->dtype, native, error);
    uint64_t bytes = comm->bytes_received + comm->bytes_reduced - before;
    zero_exec_count(x, op->stream, gathers ? ZERO_COUNT_GATHERED : ZERO_COUNT_REDUCED, bytes);
    if (x->plan->spec->groups[op->group].axes == ZERO_ALONG_NODE)
        zero_exec_count(x, op->stream, ZERO_COUNT_NODE_GATHERED, bytes);
    if (x->plan->spec->groups[op->group].axes == ZERO_ALONG_REPLICA)
        zero_exec_count(x, op->stream, gathers ? ZERO_COUNT_REPLICA_GATHERED : ZERO_COUNT_REPLICA_REDUCED, bytes);
    return zero_exec_note_done(x, channel, !comm->uncompared, status, error);
}

/* Waits until the stream's results are visible to the host. They already are if native is NULL: on a CPU, and for a
 * GPU's streams of host work, which wait for what comes before. */
static zero_status_t wait_native(zero_exec_t *x, void *native, zero_error_t *error)
{
    zero_status_t status = native ? x->device->ops->finish(x->device, native, x->options.timeout_s, error) : ZERO_OK;
    /* Aborted collectives end too. */
    return status == ZERO_OK && x->device->caps.launches ? zero_comm_check(x->comms[0][0], error) : status;
}

/* 1 + the unit of the first norm that is not finite; 0: each is finite, and only their sum is not. Programs compute
 * norms in the order in which the backward pass finishes units, and it goes from the last stage to the first, so later
 * units may have got it from that one. */
static int32_t first_not_finite(const zero_exec_t *x, const double *rows, int32_t width)
{
    for (int stage = x->plan->spec->mesh.pipe - 1; stage >= 0; stage--)
        for (int32_t p = 0; p < x->plans[stage]->program_count; p++)
            for (int32_t i = 0; i < x->plans[stage]->programs[p].op_count; i++) {
                const zero_op_t *op = &x->plans[stage]->programs[p].ops[i];
                for (int r = 0; r < x->world && op->kind == ZERO_OP_NORM; r++)
                    if (!isfinite(rows[(size_t)r * (size_t)width + (size_t)op->segment]))
                        return 1 + op->unit;
            }
    return 0;
}

/* Logs that the step is skipped, and what a dynamic loss scale does then. */
static void warn_skipped(const zero_exec_t *x)
{
    const zero_exec_scalars_t *s = x->scalars;
    const bool shrinks = s->scale.value<s->loss_scale, named = s->not_finite> 0;
    char then[64] = "";
    if (x->options.growth_interval > 0)
        snprintf(then, sizeof then, "; the loss scale %s %g", shrinks ? "shrinks to" : "stays at", s->scale.value);
    zero_log(x->options.log, x->options.log_ctx, ZERO_LOG_WARNING,
             "step %lld is skipped: the gradient norm is not finite (%g)%s%s%s; parameters and optimizer state are "
             "unchanged%s",
             (long long)s->step, fabs(s->norm), named ? ", in the backward pass first in unit '" : "",
             named ? x->plan->spec->units[s->not_finite - 1].name : "", named ? "'" : "", then);
}

/* Exchanges the ranks' partial norms, rates and signals. From them every rank computes the same norm, clip factor and
 * decision to update. */
static zero_status_t exchange(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    int32_t segments = plan->segment_count, width = segments + ZERO_EXCHANGE_WORDS;
    double *rows = (double *)x->base[plan->exchange]; /* (world, segments + words) */
    double *mine = rows + (size_t)x->rank * (size_t)width;
    zero_exec_scalars_t *s = x->scalars;
    int channel = channel_of(x, op);
    zero_status_t status = wait_native(x, native, error);
    if (status != ZERO_OK)
        return status;
    memcpy(mine, x->base[plan->norms], (size_t)segments * sizeof *mine);
    for (int32_t i = 0; i < segments && zero_split_place(plan->spec, x->rank) > 0; i++)
        if (plan->segments[i].spread == ZERO_SPREAD_SAME) /* place 0 has the same norm */
            mine[i] = 0;
    mine[segments] = x->rate;
    mine[segments + 1] = x->signals;
    mine[segments + 2] = x->weight;
    zero_comm_t *comm = zero_exec_note(x, channel, op);
    status = zero_exec_note_done(x, channel, true,
                                 zero_control_exchange(comm, mine, rows, (uint64_t)width * sizeof *mine, error), error);
    if (status != ZERO_OK)
        return status;

    uint32_t signals = 0;
    double weight = x->weight < 0 ? -1 : 0;
    for (int r = 0; r < x->world; r++) {
        const double *row = rows + (size_t)r * (size_t)width;
        if (row[segments] != rows[segments])
            return zero_fail_reason(
                error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, r,
                "zero_step has the learning rate %.17g on rank 0, but %.17g on rank %d: pass the same "
                "rate on every rank",
                rows[segments], row[segments], r);
        signals |= (uint32_t)row[segments + 1];
        if ((row[segments + 2] < 0) != (rows[segments + 2] < 0))
            return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, r,
                                    "rank %d has called zero_step_weight before zero_step, but rank %d has not: call "
                                    "it on every rank or on none",
                                    row[segments + 2] < 0 ? 0 : r, row[segments + 2] < 0 ? r : 0);
        if (weight >= 0)
            weight += row[segments + 2];
    }
    s->weight = weight;
    s->loss_scale = (double)s->scale.value;
    const double scale = weight < 0 ? x->options.grad_scale : weight > 0 ? x->options.grad_scale / weight : 0;
    zero_norm_t norm = zero_norm_combine(rows, segments, x->world, width, scale / s->loss_scale, x->options.clip);
    s->norm = norm.norm;
    s->clip_factor = norm.clip_factor;
    s->grad_factor = norm.grad_factor;
    s->apply = norm.finite;
    s->not_finite = norm.finite ? 0 : first_not_finite(x, rows, width);
    s->rate = x->rate;
    s->signals |= signals;
    s->step++;
    zero_scale_next(&s->scale, &x->options, s->apply);
    if (s->apply) {
        s->applied++;
    } else {
        s->skipped++;
        if (x->rank == 0)
            warn_skipped(x);
    }
    return ZERO_OK;
}

/* What an update works on: the elements of span. */
typedef struct operands {
    const zero_segment_t *segment;
    zero_span_t span;
    float *master;
    char *grad, *param, *state[ZERO_MAX_STATES]; /* param may be master */
} operands_t;

/* The caller's own optimizer, for elements [begin, end) of this rank's part of a parameter: one call for those that lie
 * one behind another in the whole. */
static zero_status_t update_param(zero_exec_t *x, const operands_t *o, int32_t p, int64_t begin, int64_t end,
                                  void *native, zero_error_t *error)
{
    const zero_exec_scalars_t *s = x->scalars;
    const zero_spec_t *spec = x->plan->spec;
    zero_split_run_t run;
    for (int64_t element = begin; element < end; element = run.next) {
        const int64_t at = x->plan->placed[p].offset + element - o->span.begin;
        run = zero_split_run(spec, &spec->params[p], x->rank, element, end);
        if (run.count == 0) /* padding */
            continue;
        zero_update_args_t args = {.size = sizeof args,
                                   .param = p,
                                   .name = spec->params[p].name,
                                   .begin = run.begin,
                                   .count = run.count,
                                   .step = s->applied,
                                   .lr = s->rate * spec->params[p].lr_scale,
                                   .decay_scale = spec->params[p].decay_scale,
                                   .grad_factor = s->grad_factor,
                                   .grad_dtype = o->segment->final,
                                   .grad = o->grad + (size_t)at * zero_dtype_size(o->segment->final),
                                   .master = o->master + at,
                                   .threads = x->device->options.threads,
                                   .stream = native};
        for (int i = 0; i < spec->state.count; i++)
            args.state[i] = (float *)(void *)o->state[i] + at;
        if (x->options.update(x->options.update_ctx, &args) != 0)
            return zero_fail_reason(error, ZERO_ERR_SYSTEM, ZERO_REASON_CALLBACK_FAILED, -1,
                                    "config.update failed for elements [%lld, %lld) of parameter '%s'",
                                    (long long)args.begin, (long long)(args.begin + args.count), args.name);
    }
    return ZERO_OK;
}

/* The same for each parameter of the part. */
static zero_status_t update_custom(zero_exec_t *x, const zero_op_t *op, const operands_t *o,
                                   const zero_flat_ops_t *flat, void *native, zero_error_t *error)
{
    const zero_spec_t *spec = x->plan->spec;
    for (int32_t p = 0; p < spec->param_count; p++) {
        const zero_placed_t *placed = &x->plan->placed[p];
        int64_t last = placed->offset + spec->params[p].count, until = o->span.begin + o->span.count;
        int64_t begin = placed->offset > o->span.begin ? placed->offset : o->span.begin,
                end = last < until ? last : until;
        if (placed->segment != op->segment || begin >= end)
            continue;
        zero_status_t status = update_param(x, o, p, begin - placed->offset, end - placed->offset, native, error);
        if (status != ZERO_OK)
            return status;
    }
    if (o->param != (char *)o->master)
        flat->cast(o->param, o->segment->dtype, o->master, ZERO_FP32, o->span.count, x->device->options.threads,
                   native);
    return ZERO_OK;
}

/* Whether it computes a direction and moves no parameters. */
static bool is_direction_only(const zero_plan_t *plan, const zero_op_t *op)
{
    return op->kind == ZERO_OP_UPDATE && plan->segments[op->segment].whole;
}

/* The scalars of a run in this step. */
static zero_rule_scalars_t scalars_of(const zero_exec_t *x, zero_rule_t rule, const zero_op_t *op,
                                      const zero_run_t *run)
{
    const zero_exec_scalars_t *s = x->scalars;
    const zero_rule_options_t numbers = zero_rule_options(&x->options);
    zero_rule_scalars_t out = zero_rule_scalars(rule, &numbers, s->rate, run->lr_scale, run->decay_scale, s->applied,
                                                op->kind == ZERO_OP_APPLY ? 1 : s->grad_factor);
    if (run->rows > 0)
        out.step_size = (float)(s->rate * run->lr_scale * zero_rule_matrix_scale(run->rows, run->cols));
    return out;
}

/* Runs the optimizer on a part: one update for each run of equal scales, in calls of up to 32 updates. */
static zero_status_t update(zero_exec_t *x, const zero_op_t *op, const zero_flat_ops_t *flat, void *native,
                            zero_error_t *error)
{
    const zero_exec_scalars_t *s = x->scalars;
    const zero_plan_t *plan = x->plan;
    const zero_segment_t *segment = &plan->segments[op->segment];
    const zero_part_t *part = &plan->parts[op->part];
    const zero_spec_state_t *kept = zero_plan_state(plan, op->segment);
    zero_dtype_t grad_dtype = plan->buffers[op->src].format.dtype;
    zero_span_t span = zero_plan_span(plan, x->rank, op->src, op->src_own, op->part);
    char *grad = operand(x, op, op->src, op->src_own), *param = operand(x, op, op->dst, op->dst_own);
    bool direction_only = is_direction_only(plan, op);
    float *master = (float *)(direction_only ? param : operand(x, op, zero_part_memory(part, 0), false));
    char *states[ZERO_MAX_STATES] = {NULL};
    for (int i = 0; i < kept->count && op->kind == ZERO_OP_UPDATE; i++)
        states[i] = operand(x, op, zero_part_memory(part, 1 + i), false);

    if (!s->apply) {
        /* Later operations copy dst to the parameters, so it must have their present values. */
        if (plan->buffers[op->dst].part >= 0 && param != (char *)master)
            flat->cast(param, segment->dtype, master, ZERO_FP32, span.count, x->device->options.threads, native);
        return ZERO_OK;
    }
    if (x->options.rule == ZERO_RULE_CUSTOM) {
        operands_t o = {.segment = segment,
                        .span = span,
                        .master = master,
                        .grad = grad,
                        .param = param,
                        .state = {states[0], states[1]}};
        return update_custom(x, op, &o, flat, native, error);
    }

    zero_rule_t rule = zero_rule_of(x->options.rule, segment->whole);
    zero_update_t updates[32];
    int count = 0, room = sizeof updates / sizeof *updates;
    for (int32_t r = 0; r < segment->run_count; r++) {
        const zero_run_t *run = &plan->runs[segment->first_run + r];
        int64_t begin = run->begin > span.begin ? run->begin : span.begin,
                end = run->end < span.begin + span.count ? run->end : span.begin + span.count, at = begin - span.begin;
        if (begin >= end)
            continue;
        if (count == room) {
            flat->update(updates, count, x->device->options.threads, native);
            count = 0;
        }
        zero_update_t *u = &updates[count++];
        *u = (zero_update_t){.rule = rule,
                             .grad_dtype = grad_dtype,
                             .param_dtype = segment->dtype,
                             .count = end - begin,
                             .master = master + at,
                             .grad = grad + (size_t)at * zero_dtype_size(grad_dtype),
                             .scalars = scalars_of(x, rule, op, run)};
        if (param != (char *)master)
            u->param = param + (size_t)at * zero_dtype_size(segment->dtype);
        for (int i = 0; i < ZERO_MAX_STATES && states[i]; i++)
            u->state[i] = states[i] + zero_format_bytes(&kept->format[i], at);
    }
    if (count > 0)
        flat->update(updates, count, x->device->options.threads, native);
    return ZERO_OK;
}

/* Calls the caller's function on each matrix of the segment that this rank owns, and zeroes the others, so that the sum
 * over ranks is the result. */
static zero_status_t call_matrix(zero_exec_t *x, const zero_op_t *op, const zero_flat_ops_t *flat, void *native,
                                 zero_error_t *error)
{
    const zero_spec_t *spec = x->plan->spec;
    float *matrices = (float *)operand(x, op, op->dst, false);
    int threads = x->device->options.threads;
    for (int32_t p = 0; p < spec->param_count; p++) {
        const zero_placed_t *placed = &x->plan->placed[p];
        if (placed->segment != op->segment)
            continue;
        const zero_spec_param_t *param = &spec->params[p];
        float *values = matrices + placed->offset;
        if (placed->owner != zero_plan_index(x->plan, op->segment, x->rank)) {
            flat->fill_zero(values, (uint64_t)param->count * sizeof *values, threads, native);
            continue;
        }
        zero_matrix_args_t args = {.size = sizeof args,
                                   .param = p,
                                   .name = param->name,
                                   .rows = param->shape[0],
                                   .cols = param->shape[1],
                                   .values = values,
                                   .threads = threads,
                                   .stream = native};
        if (x->scalars->apply && x->options.matrix(x->options.matrix_ctx, &args) != 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "config.matrix refused parameter '%s', a matrix of %lld x %lld",
                             param->name, (long long)args.rows, (long long)args.cols);
    }
    return ZERO_OK;
}

/* A continued norm, which only the host computes, adds its blocks to the sum of those before. So it has the same bits
 * wherever it is cut. */
static void norm(zero_exec_t *x, const zero_op_t *op, const void *src, zero_dtype_t dtype, void *native)
{
    bool on_host = op->stream == ZERO_STREAM_HOST;
    double *out = (double *)x->base[x->plan->norms] + op->segment, so_far = on_host ? *out : 0;
    double *blocks = (double *)x->base[on_host ? x->plan->host_scratch : x->plan->scratch];
    (on_host ? zero_flat_cpu() : x->flat)
        ->square_sum(out, blocks, src, dtype, op->count, x->device->options.threads, native);
    if (!(op->flags & ZERO_NORM_CONTINUES))
        return;
    for (int64_t i = 0; i * ZERO_NORM_BLOCK < op->count; i++)
        so_far += blocks[i];
    *out = so_far;
}

static zero_status_t kernel(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    int threads = x->device->options.threads;
    bool on_host = op->stream == ZERO_STREAM_HOST;
    const zero_flat_ops_t *flat = on_host ? zero_flat_cpu() : x->flat;
    zero_status_t status = on_host ? wait_native(x, native, error) : ZERO_OK;
    char *dst = operand(x, op, op->dst, op->dst_own), *src = operand(x, op, op->src, op->src_own);
    const zero_format_t *to = op->dst >= 0 ? &plan->buffers[op->dst].format : NULL,
                        *from = op->src >= 0 ? &plan->buffers[op->src].format : NULL;
    if (status != ZERO_OK)
        return status;
    native = on_host ? NULL : native;
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_COPY:
        flat->copy(dst, src, zero_format_bytes(to, op->count), threads, native);
        if (op->bytes > 0)
            zero_exec_count(x, op->stream,
                            plan->buffers[op->dst].tier == ZERO_TIER_HOST ? ZERO_COUNT_TO_HOST : ZERO_COUNT_TO_DEVICE,
                            op->bytes);
        return ZERO_OK;
    case ZERO_OP_CAST:
        if (to->codec != ZERO_CODEC_NONE)
            flat->encode(dst, to->codec, src, from->dtype, op->count, threads, native);
        else if (from->codec != ZERO_CODEC_NONE)
            flat->decode(dst, to->dtype, src, from->codec, 1, op->count, threads, native);
        else
            flat->cast(dst, to->dtype, src, from->dtype, op->count, threads, native);
        return ZERO_OK;
    case ZERO_OP_SUM:
        flat->decode(dst, to->dtype, src, from->codec, plan->spec->groups[op->group].size, op->count, threads, native);
        return ZERO_OK;
    case ZERO_OP_FILL:
        flat->fill_zero(dst, zero_format_bytes(to, op->count), threads, native);
        return ZERO_OK;
    case ZERO_OP_ACCUMULATE:
        flat->accumulate((float *)dst, src, from->dtype, op->count, threads, native);
        return ZERO_OK;
    case ZERO_OP_NORM:
        norm(x, op, src, from->dtype, native);
        return ZERO_OK;
    case ZERO_OP_READ:
    case ZERO_OP_WRITE:
        status = wait_native(x, native, error);
        if (status == ZERO_OK && (status = zero_exec_move(x, op, error)) == ZERO_OK)
            zero_exec_count(x, op->stream, op->kind == ZERO_OP_READ ? ZERO_COUNT_READ : ZERO_COUNT_WRITTEN, op->bytes);
        return status;
    case ZERO_OP_UPDATE:
    case ZERO_OP_APPLY:
        return update(x, op, flat, native, error);
    case ZERO_OP_WHOLE:
        return call_matrix(x, op, flat, native, error);
    default:
        return zero_fail(error, ZERO_ERR_PLAN, "the plan has an operation '%s' that cannot run on this device",
                         zero_op_name((zero_op_kind_t)op->kind));
    }
}

zero_status_t zero_exec_task(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    zero_exec_t *x = ctx;
    const zero_op_t *op = arg;
    bool collects = zero_op_collects(op), saves = op->stream == ZERO_STREAM_SAVE,
         transfers = op->kind == ZERO_OP_SEND || op->kind == ZERO_OP_RECV, called = op->kind == ZERO_OP_COLLECTIVE;
    uint64_t start = zero_now_ns();
    zero_error_t local; /* large, and written only on failure */
    local.text[0] = '\0';
    zero_status_t status = x->guard ? zero_exec_guard_op(x, op, true, &local) : ZERO_OK;
    if (status == ZERO_OK)
        status = collects                       ? collective(x, op, native, &local)
                 : op->kind == ZERO_OP_EXCHANGE ? exchange(x, op, native, &local)
                 : saves                        ? zero_exec_save_op(x, op, &local)
                 : transfers                    ? zero_exec_transfer(x, op, native, &local)
                 : called                       ? zero_exec_run_collective(x, op, native, &local)
                                                : kernel(x, op, native, &local);
    if (status == ZERO_OK && x->guard)
        status = zero_exec_guard_op(x, op, false, &local);
    if (!saves)
        zero_exec_count(x, op->stream,
                        collects || transfers || called || op->kind == ZERO_OP_EXCHANGE ? ZERO_COUNT_COMM_NS
                                                                                        : ZERO_COUNT_KERNEL_NS,
                        zero_now_ns() - start);
    if (status == ZERO_OK)
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, op, &local);
    return zero_pass(error, status, &local);
}
