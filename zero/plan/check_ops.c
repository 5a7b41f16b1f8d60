/* SPDX-License-Identifier: Apache-2.0 */
/* check_ops.c - what each operation needs to find, and what it writes. check_step.c has those of zero_step. */
#include "zero/plan/check.h"

static void tick(zero_checker_t *c, int party)
{
    c->clock[party].at[party]++;
}

static void join(zero_clock_t *into, const zero_clock_t *from)
{
    for (int p = 0; p < ZERO_CHECK_PARTIES; p++)
        if (from->at[p] > into->at[p])
            into->at[p] = from->at[p];
}

zero_status_t zero_check_ordered(const zero_checker_t *c, int stream, const zero_operand_t *src,
                                 const zero_operand_t *dst)
{
    zero_status_t status = src != NULL ? zero_check_may_read(c, stream, src) : ZERO_OK;
    return status == ZERO_OK && dst != NULL ? zero_check_may_write(c, stream, dst) : status;
}

/* ---- gradients -------------------------------------------------------------------------------------------------- */

zero_status_t zero_check_codec(const zero_checker_t *c, const zero_content_t *x, zero_codec_t codec, const char *what)
{
    return x->coded == (uint8_t)codec
               ? ZERO_OK
               : zero_check_fail(c, "%s went through codec %s instead of %s", what,
                                 zero_codec_name((zero_codec_t)x->coded), zero_codec_name(codec));
}

bool zero_check_is_complete(const zero_checker_t *c, const zero_content_t *x)
{
    return x->uses == c->grad_total[zero_check_unit(c, x->segment)];
}

zero_status_t zero_check_read_gradient(const zero_checker_t *c, const zero_operand_t *x, zero_content_t *content)
{
    zero_status_t status = zero_check_content(c, x, content);
    if (status != ZERO_OK)
        return status;
    if (content->kind != ZERO_HOLDS_GRADIENT)
        return zero_check_fail(c, "it reads %s, which holds no gradients", zero_check_buffer_name(c, x->buffer).s);
    if (content->version != c->step)
        return zero_check_fail(c, "it reads %s, whose gradients are of another step",
                               zero_check_buffer_name(c, x->buffer).s);
    return ZERO_OK;
}

/* ---- moving ----------------------------------------------------------------------------------------------------- */

bool zero_check_is_direction(const zero_checker_t *c, int32_t segment, const zero_content_t *x,
                             zero_direction_t as_far_as)
{
    return x->kind == ZERO_HOLDS_DIRECTION && x->segment == segment && x->version == c->step &&
           x->first == (int32_t)as_far_as;
}

static zero_status_t do_gather(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, -1),
                   dst = zero_check_operand(c, op->dst, op->dst_own, -1);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_content(c, &src, &content)) != ZERO_OK)
        return status;
    if (!zero_format_same(&plan->buffers[op->src].format, &plan->buffers[op->dst].format))
        return zero_check_fail(c, "it gathers into a buffer of another dtype");
    if (content.kind == ZERO_HOLDS_DIRECTION) {
        if (!zero_check_is_direction(c, op->segment, &content, ZERO_DIRECTION_SPREAD))
            return zero_check_fail(c, "it gathers %s, which is not the owners' result",
                                   zero_check_buffer_name(c, op->src).s);
    } else if (content.kind == ZERO_HOLDS_PARAM ? content.version != c->version[op->segment]
                                                : content.kind != ZERO_HOLDS_GRADIENT)
        return zero_check_fail(c, "it gathers %s, which does not hold the current parameters",
                               zero_check_buffer_name(c, op->src).s);
    if (content.kind == ZERO_HOLDS_GRADIENT && content.reduced != zero_check_axes(c, op->segment))
        return zero_check_fail(c, "it gathers %s, which is not reduced", zero_check_buffer_name(c, op->src).s);
    content.base = dst.base;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}

static zero_status_t do_reduce_scatter(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    uint8_t axes = plan->spec->groups[op->group].axes;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, -1),
                   dst = zero_check_operand(c, op->dst, op->dst_own, -1);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_read_gradient(c, &src, &content)) != ZERO_OK)
        return status;
    if (content.reduced & axes)
        return zero_check_fail(c, "it reduces gradients that are reduced already");
    if (content.dtype != zero_check_segment(c, op)->wire || plan->buffers[op->dst].format.dtype != content.dtype)
        return zero_check_fail(c, "it reduces in a dtype other than the wire's");
    content.reduced |= axes;
    content.base = dst.base;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}

static zero_status_t do_copy(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, op->part),
                   dst = zero_check_operand(c, op->dst, op->dst_own, op->part);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_content(c, &src, &content)) != ZERO_OK)
        return status;
    bool reads = plan->buffers[op->src].tier == ZERO_TIER_NVME, writes = plan->buffers[op->dst].tier == ZERO_TIER_NVME;
    if (op->kind == ZERO_OP_READ ? !reads || writes : op->kind == ZERO_OP_WRITE ? reads || !writes : reads || writes)
        return zero_check_fail(c, "it moves between the %s and the %s tier, which takes another kind of operation",
                               zero_tier_name(plan->buffers[op->src].tier),
                               zero_tier_name(plan->buffers[op->dst].tier));
    for (int i = 0; i < 2 && (reads || writes); i++) {
        bool file = i == 0 ? reads : writes;
        uint64_t at =
            plan->buffers[i == 0 ? op->src : op->dst].offset +
            zero_check_span(c, i == 0 ? op->src : op->dst, i == 0 ? op->src_own : op->dst_own, op->part).offset;
        if (at % (file ? ZERO_FILE_ALIGN : ZERO_PAGE) != 0)
            return zero_check_fail(c, "it moves %s that begin at %llu, which is not aligned",
                                   file ? "blocks of the file" : "pages of memory", (unsigned long long)at);
    }
    const zero_format_t *from = &plan->buffers[op->src].format, *to = &plan->buffers[op->dst].format;
    bool codes = to->codec != ZERO_CODEC_NONE, decodes = from->codec != ZERO_CODEC_NONE;
    if (op->kind == ZERO_OP_CAST
            ? (codes && decodes) || zero_format_is_coded(from) != decodes || zero_format_is_coded(to) != codes
            : !zero_format_same(from, to))
        return zero_check_fail(c, "it copies between different formats");
    if (src.count != op->count || src.begin != dst.begin)
        return zero_check_fail(c, "its operands differ in size, or are of different elements");
    if (op->kind == ZERO_OP_CAST && codes)
        content.coded = (uint8_t)to->codec;
    content.dtype = (uint8_t)to->dtype;
    content.base = dst.base;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}

static zero_status_t do_fill(zero_checker_t *c, const zero_op_t *op)
{
    zero_operand_t dst = zero_check_operand(c, op->dst, op->dst_own, op->part);
    zero_status_t status = zero_check_ordered(c, op->stream, NULL, &dst);
    if (status == ZERO_OK)
        zero_check_did_write(c, op->stream, &dst, (zero_content_t){.kind = ZERO_HOLDS_ZERO});
    return status;
}

static zero_status_t do_accumulate(zero_checker_t *c, const zero_op_t *op)
{
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, op->part),
                   dst = zero_check_operand(c, op->dst, op->dst_own, op->part);
    zero_content_t more, sum;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_read_gradient(c, &src, &more)) != ZERO_OK ||
        (status = zero_check_read_gradient(c, &dst, &sum)) != ZERO_OK)
        return status;
    if (src.count != op->count || c->plan->buffers[op->dst].format.dtype != ZERO_FP32)
        return zero_check_fail(c, "its operands differ in size, or the sum is not fp32");
    bool follows = zero_check_is_complete(c, &sum) ? more.first == sum.end && more.skipped == 0
                                                   : more.first == sum.end - 1 && more.skipped == sum.uses;
    if (more.coded != sum.coded)
        return zero_check_fail(c, "it adds gradients of codec %s to others of codec %s",
                               zero_codec_name((zero_codec_t)more.coded), zero_codec_name((zero_codec_t)sum.coded));
    if (more.reduced != sum.reduced || more.segment != sum.segment || !follows)
        return zero_check_fail(
            c,
            "it adds gradients of micro-steps %d to %d, without %d uses, to those of %d to %d, whose "
            "last has %d uses",
            more.first + 1, more.end, more.skipped, sum.first + 1, sum.end, sum.uses);
    sum.end = more.end;
    sum.uses = more.uses;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, sum);
    return ZERO_OK;
}

/* SAVE: this rank's own part of parameters, master weights or state, all of them after the last update. */
static zero_status_t do_save(zero_checker_t *c, const zero_op_t *op)
{
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, op->part);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, NULL)) != ZERO_OK ||
        (status = zero_check_content(c, &src, &content)) != ZERO_OK)
        return status;
    if (src.count == 0) /* a part of which this rank owns nothing */
        return ZERO_OK;
    bool kept =
        content.kind == ZERO_HOLDS_PARAM || content.kind == ZERO_HOLDS_MASTER || content.kind == ZERO_HOLDS_STATE;
    if (!kept || content.version != c->version[op->segment])
        return zero_check_fail(c, "it saves %s, which is not that of the last update",
                               zero_check_buffer_name(c, op->src).s);
    if ((status = zero_check_codec(c, &content, ZERO_CODEC_NONE, "what it saves")) != ZERO_OK)
        return status;
    int which = content.kind == ZERO_HOLDS_PARAM ? 0 : content.kind == ZERO_HOLDS_MASTER ? 1 : 2 + content.state;
    c->written[op->segment * ZERO_CHECK_SAVED + which] += src.count;
    zero_check_did_read(c, op->stream, &src);
    return ZERO_OK;
}

/* ---- the caller's uses ------------------------------------------------------------------------------------------ */

/* The codec through which the parameters of a segment go that a use reads: they are gathered if a rank keeps only some
 * of them, and coded if replicas have several ranks. */
static zero_codec_t codec_of(const zero_checker_t *c, int32_t segment)
{
    const zero_segment_t *s = &c->plan->segments[segment];
    int32_t kept = s->buffer[ZERO_ROLE_PARAM_SHARD];
    bool gathered = kept >= 0 && c->plan->buffers[kept].elements < s->elements;
    return gathered && zero_check_shards(c) > 1 ? c->plan->spec->gather_codec : ZERO_CODEC_NONE;
}

/* The pass of this program; NULL for ANY. */
static const zero_plan_pass_t *pass_of(const zero_checker_t *c)
{
    return c->program->kind == ZERO_PROGRAM_ANY ? NULL : &c->plan->passes[c->program->pass];
}

/* GRAD must be zero, or hold what this pass, or the step so far, has added. If it is zero after other uses, those are
 * elsewhere, or the norm will miss them. */
static zero_status_t writable_gradient(const zero_checker_t *c, int32_t unit, const zero_operand_t *x)
{
    int32_t done = c->grad_done[unit];
    zero_content_t content;
    zero_status_t status = zero_check_content(c, x, &content);

    if (status != ZERO_OK)
        return status;
    if (content.kind == ZERO_HOLDS_ZERO ||
        (content.kind == ZERO_HOLDS_GRADIENT && !content.reduced && content.version == c->step &&
         (done > 0 ? content.end == c->micro + 1 && content.uses == done
                   : content.end == c->micro && zero_check_is_complete(c, &content))))
        return ZERO_OK;
    return zero_check_fail(c, "its gradients are neither zero nor the sum so far");
}

/* Whether the use that began last has run all of its collectives. */
static zero_status_t collectives_done(const zero_checker_t *c, const zero_plan_pass_t *pass)
{
    int32_t wanted = pass != NULL && c->next_use > 0 ? pass->uses[c->next_use - 1].collective_count : 0;
    return c->next_use == 0 || c->collectives == wanted
               ? ZERO_OK
               : zero_check_fail(c, "use %d has run %d of %d collectives", c->next_use - 1, c->collectives, wanted);
}

static zero_status_t do_collective(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_pass_t *pass = pass_of(c);
    if (pass == NULL || op->use != c->next_use - 1 || !c->open[op->unit] ||
        c->collectives == pass->uses[op->use].collective_count || op->flags != (uint8_t)c->collectives)
        return zero_check_fail(c, "it is not the next collective of use %d", op->use);
    const zero_spec_collective_t *declared = zero_plan_collective(c->plan, c->program->pass, op->use, c->collectives);
    const bool context = declared->axis == ZERO_AXIS_CONTEXT;
    const uint8_t axes = (uint8_t)((context ? ZERO_ALONG_CONTEXT : ZERO_ALONG_TENSOR) | ZERO_ALONG_CALLS);
    const uint64_t bytes = (uint64_t)declared->count * zero_dtype_size(declared->dtype),
                   ranks = (uint64_t)(context ? c->plan->spec->mesh.context : c->plan->spec->mesh.tensor),
                   received = (ranks - 1) * (declared->kind == ZERO_COLLECTIVE_SUM ? 2 * (bytes / ranks) : bytes);
    if (c->plan->spec->groups[op->group].axes != axes)
        return zero_check_fail(c, "its group is not that of its axis");
    if (op->count != declared->count || op->bytes != received)
        return zero_check_fail(c, "it counts %lld elements and %llu bytes instead of %lld and %llu",
                               (long long)op->count, (unsigned long long)op->bytes, (long long)declared->count,
                               (unsigned long long)received);
    c->collectives++;
    return ZERO_OK;
}

static zero_status_t do_use(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    const zero_plan_pass_t *pass = pass_of(c);
    zero_content_t content;
    zero_status_t status;

    uint32_t flags = ZERO_READ;
    if ((status = collectives_done(c, pass)) != ZERO_OK)
        return status;
    if (pass == NULL ? op->use != 0 || op->unit != c->program->unit || c->next_use > 0
                     : op->use != c->next_use || op->use >= pass->use_count || op->unit != pass->uses[op->use].unit)
        return zero_check_fail(c, "use %d is not the next one that was declared", op->use);
    if (pass != NULL)
        flags = pass->uses[op->use].flags & (ZERO_READ | ZERO_GRAD);
    if (op->flags != flags || op->stream != ZERO_STREAM_COMPUTE || c->open[op->unit])
        return zero_check_fail(c, "use %d does not begin as it was declared", op->use);
    if (pass != NULL && op->use > 0 && !(pass->uses[op->use - 1].flags & ZERO_HOLD) && c->opened > 0)
        return zero_check_fail(c, "use %d begins before the previous one has ended", op->use);
    if (pass != NULL && pass->task_count > 0 &&
        (!c->in_task || op->use >= pass->tasks[c->next_task].first_use + pass->tasks[c->next_task].use_count))
        return zero_check_fail(c, "use %d begins outside of its task", op->use);
    for (int32_t s = c->unit_segment[op->unit]; s < c->unit_segment[op->unit + 1]; s++) {
        const int32_t *buffer = plan->segments[s].buffer;
        if (!zero_plan_has(plan, &plan->segments[s])) /* only where any unit can be acquired */
            continue;
        if (op->flags & ZERO_READ) {
            zero_operand_t param = zero_check_operand(c, buffer[ZERO_ROLE_PARAM], false, -1);
            if ((status = zero_check_may_read(c, op->stream, &param)) != ZERO_OK ||
                (status = zero_check_content(c, &param, &content)) != ZERO_OK)
                return status;
            if (content.kind != ZERO_HOLDS_PARAM || content.version != c->version[s])
                return zero_check_fail(c, "its parameters are not the current ones");
            if ((status = zero_check_codec(c, &content, codec_of(c, s), "its parameters")) != ZERO_OK)
                return status;
            zero_check_set_open(c, &param, 1, 0);
        }
        if ((op->flags & ZERO_GRAD) && plan->segments[s].trainable) {
            zero_operand_t grad = zero_check_operand(c, buffer[ZERO_ROLE_GRAD], false, -1);
            if ((status = zero_check_may_write(c, op->stream, &grad)) != ZERO_OK ||
                (status = writable_gradient(c, op->unit, &grad)) != ZERO_OK)
                return status;
            zero_check_set_open(c, &grad, 0, 1);
        }
    }
    c->open[op->unit] = true;
    c->opened++;
    c->next_use++;
    c->collectives = 0;
    return ZERO_OK;
}

static zero_status_t do_release(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    const zero_plan_pass_t *pass = pass_of(c);
    zero_status_t status = collectives_done(c, pass);

    if (status != ZERO_OK)
        return status;
    if (op->stream != ZERO_STREAM_COMPUTE || op->unit < 0 || !c->open[op->unit] || op->use >= c->next_use ||
        op->use < 0 ||
        (pass != NULL &&
         (pass->uses[op->use].unit != op->unit || op->flags != (pass->uses[op->use].flags & (ZERO_READ | ZERO_GRAD)))))
        return zero_check_fail(c, "it ends use %d, which has not begun", op->use);
    if (pass != NULL && (pass->uses[op->use].flags & ZERO_HOLD) && c->next_use <= op->use + 1)
        return zero_check_fail(c, "it ends use %d, which is held until the next one", op->use);
    for (int32_t s = c->unit_segment[op->unit]; s < c->unit_segment[op->unit + 1]; s++) {
        const int32_t *buffer = plan->segments[s].buffer;
        if (!zero_plan_has(plan, &plan->segments[s])) /* only where any unit can be acquired */
            continue;
        if (op->flags & ZERO_READ) {
            zero_operand_t param = zero_check_operand(c, buffer[ZERO_ROLE_PARAM], false, -1);
            zero_check_set_open(c, &param, -1, 0);
            zero_check_did_read(c, op->stream, &param);
        }
        if ((op->flags & ZERO_GRAD) && plan->segments[s].trainable) {
            zero_operand_t grad = zero_check_operand(c, buffer[ZERO_ROLE_GRAD], false, -1);
            zero_content_t content = c->cells[grad.cells.begin].content;
            if (content.kind == ZERO_HOLDS_ZERO)
                content = (zero_content_t){.kind = ZERO_HOLDS_GRADIENT,
                                           .dtype = (uint8_t)plan->segments[s].dtype,
                                           .segment = s,
                                           .version = c->step,
                                           .first = c->micro,
                                           .skipped = c->grad_done[op->unit],
                                           .base = grad.base};
            content.end = c->micro + 1;
            content.uses = c->grad_done[op->unit] + 1;
            zero_check_set_open(c, &grad, 0, -1);
            zero_check_did_write(c, op->stream, &grad, content);
        }
    }
    c->grad_done[op->unit] += (op->flags & ZERO_GRAD) != 0;
    c->open[op->unit] = false;
    c->opened--;
    return ZERO_OK;
}

/* ---- one operation ---------------------------------------------------------------------------------------------- */

static zero_status_t do_host_wait(zero_checker_t *c, const zero_op_t *op)
{
    zero_clock_t *host = &c->clock[ZERO_CHECK_HOST];
    join(host, &c->events[op->event]);
    tick(c, ZERO_CHECK_HOST);
    if (c->rate.read_time[ZERO_STREAM_REDUCE] > host->at[ZERO_STREAM_REDUCE])
        return zero_check_fail(c, "the host rewrites the rate while the last exchange may still read it");
    c->rate.content.version = c->step + 1;
    for (int s = 0; s < ZERO_STREAM_COUNT; s++) /* everything issued later comes after */
        join(&c->clock[s], host);
    return ZERO_OK;
}

zero_status_t zero_check_op(zero_checker_t *c, const zero_op_t *op)
{
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_RECORD:
        c->events[op->event] = c->clock[op->stream];
        c->recorded[op->event] = true;
        return ZERO_OK;
    case ZERO_OP_WAIT:
        if (op->event < c->plan->lasting_event_count ||
            c->recorded[op->event]) /* otherwise it finds the record of another program */
            join(&c->clock[op->stream], &c->events[op->event]);
        return ZERO_OK;
    case ZERO_OP_HOST_WAIT:
        return do_host_wait(c, op);
    default:
        break;
    }
    tick(c, op->stream);
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_GATHER:
        return do_gather(c, op);
    case ZERO_OP_REDUCE_SCATTER:
        return do_reduce_scatter(c, op);
    case ZERO_OP_ALL_TO_ALL:
        return zero_check_all_to_all(c, op);
    case ZERO_OP_SUM:
        return zero_check_sum(c, op);
    case ZERO_OP_COPY:
    case ZERO_OP_READ:
    case ZERO_OP_WRITE:
    case ZERO_OP_CAST:
        return do_copy(c, op);
    case ZERO_OP_FILL:
        return do_fill(c, op);
    case ZERO_OP_ACCUMULATE:
        return do_accumulate(c, op);
    case ZERO_OP_NORM:
        return zero_check_norm(c, op);
    case ZERO_OP_EXCHANGE:
        return zero_check_exchange(c, op);
    case ZERO_OP_UPDATE:
    case ZERO_OP_APPLY:
        return zero_check_update(c, op);
    case ZERO_OP_COLLECT:
    case ZERO_OP_WHOLE:
    case ZERO_OP_SPREAD:
        return zero_check_whole(c, op);
    case ZERO_OP_USE:
        return do_use(c, op);
    case ZERO_OP_RELEASE:
        return do_release(c, op);
    case ZERO_OP_COLLECTIVE:
        return do_collective(c, op);
    case ZERO_OP_SAVE:
        return do_save(c, op);
    case ZERO_OP_SYNC:
        return ZERO_OK;
    case ZERO_OP_TASK:
    case ZERO_OP_TASK_END:
    case ZERO_OP_SEND:
    case ZERO_OP_RECV:
        return zero_check_task_op(c, op);
    default:
        return zero_check_fail(c, "the checker does not know operations of kind %s",
                               zero_op_name((zero_op_kind_t)op->kind));
    }
}
