/* SPDX-License-Identifier: Apache-2.0 */
/* check_step.c - what the operations of zero_step need to find, and what they write: norms, their exchange, updates. */
#include "zero/plan/check.h"

/* What norm and update read: all of the step's gradients, of all ranks. An update reads them from FINAL or from its
 * part's own buffer. */
static zero_status_t read_final(const zero_checker_t *c, int32_t segment, int32_t part, bool norm,
                                const zero_operand_t *x)
{
    const zero_plan_t *plan = c->plan;
    zero_content_t content;
    zero_status_t status;

    if (!norm && x->buffer != plan->segments[segment].buffer[ZERO_ROLE_FINAL] &&
        (part < 0 || x->buffer != plan->parts[part].grad))
        return zero_check_fail(c, "it reads %s, which is not the buffer that the update reads",
                               zero_check_buffer_name(c, x->buffer).s);
    if ((status = zero_check_read_gradient(c, x, &content)) != ZERO_OK)
        return status;
    if (content.reduced != zero_check_axes(c, segment))
        return zero_check_fail(c, "it reads %s, which is not reduced over all ranks",
                               zero_check_buffer_name(c, x->buffer).s);
    if (content.skipped > 0 || !zero_check_is_complete(c, &content))
        return zero_check_fail(c, "it reads %s, which lacks gradients of some uses",
                               zero_check_buffer_name(c, x->buffer).s);
    int32_t end = c->program->kind == ZERO_PROGRAM_STEP ? c->micro : c->micro + 1;
    if (content.first != 0 || content.end != end)
        return zero_check_fail(c, "it reads %s, which has gradients of micro-steps %d to %d instead of 1 to %d",
                               zero_check_buffer_name(c, x->buffer).s, content.first + 1, content.end, end);
    zero_codec_t codec = zero_plan_is_shared(&plan->segments[segment]) ? plan->spec->reduce_codec : ZERO_CODEC_NONE;
    if ((status = zero_check_codec(c, &content, codec, "what it reads")) != ZERO_OK)
        return status;
    /* A norm may also read the source that FINAL is cast from: the values are the same. */
    return content.dtype == plan->segments[segment].final || (norm && content.dtype == plan->segments[segment].wire)
               ? ZERO_OK
               : zero_check_fail(c, "it reads %s, which has the wrong dtype", zero_check_buffer_name(c, x->buffer).s);
}

zero_status_t zero_check_norm(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    int32_t room = op->stream == ZERO_STREAM_HOST ? plan->host_scratch : plan->scratch;
    if (room < 0 || plan->buffers[room].tier != (op->stream == ZERO_STREAM_HOST ? ZERO_TIER_HOST : ZERO_TIER_DEVICE))
        return zero_check_fail(c, "it has no scratch where it runs");
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, op->part),
                   scratch = zero_check_operand(c, room, false, -1);
    zero_operand_t norm = {.cells = c->norm[op->segment], .buffer = plan->norms};
    int64_t slice = zero_check_slice(c, op->segment), at = slice; /* where the slice, or the rest of it, begins */
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &norm)) != ZERO_OK ||
        (status = zero_check_ordered(c, op->stream, NULL, &scratch)) != ZERO_OK ||
        (status = read_final(c, op->segment, op->part, true, &src)) != ZERO_OK)
        return status;
    if (op->flags & ZERO_NORM_CONTINUES) {
        const zero_content_t *so_far = &c->cells[norm.cells.begin].content;
        if (op->stream != ZERO_STREAM_HOST)
            return zero_check_fail(c, "it continues a norm on a stream other than the host's");
        if ((status = zero_check_may_read(c, op->stream, &norm)) != ZERO_OK)
            return status;
        if (so_far->kind != ZERO_HOLDS_NORM || so_far->segment != op->segment || so_far->version != c->step ||
            so_far->end != c->micro + 1 || so_far->base % ZERO_NORM_BLOCK != 0)
            return zero_check_fail(c, "it continues a norm of other gradients, or one that does not end at a block");
        at += so_far->base;
    }
    if (src.begin != at || src.begin + src.count > slice + zero_check_segment(c, op)->slice)
        return zero_check_fail(c, "it squares something other than this rank's slice");
    int64_t blocks = (op->count + ZERO_NORM_BLOCK - 1) / ZERO_NORM_BLOCK;
    if ((uint64_t)blocks * sizeof(double) > plan->buffers[room].bytes)
        return zero_check_fail(c, "it needs %lld blocks of scratch, more than there are", (long long)blocks);
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &scratch, (zero_content_t){.kind = ZERO_HOLDS_NOTHING});
    zero_check_did_write(c, op->stream, &norm,
                         (zero_content_t){.kind = ZERO_HOLDS_NORM,
                                          .segment = op->segment,
                                          .version = c->step,
                                          .end = c->micro + 1,
                                          .base = src.begin + src.count - slice});
    return ZERO_OK;
}

zero_status_t zero_check_exchange(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    zero_operand_t norms = zero_check_operand(c, plan->norms, false, -1),
                   exchange = zero_check_operand(c, plan->exchange, false, -1);
    zero_operand_t scalars = zero_check_operand(c, plan->scalars, false, -1);
    zero_status_t status;

    if (op->src != plan->norms || op->dst != plan->scalars || c->program->kind != ZERO_PROGRAM_STEP)
        return zero_check_fail(c, "it does not turn norms into scalars, or is outside of a step");
    if ((status = zero_check_ordered(c, op->stream, &norms, &exchange)) != ZERO_OK ||
        (status = zero_check_ordered(c, op->stream, NULL, &scalars)) != ZERO_OK)
        return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        for (int32_t i = c->norm[s].begin;
             i < c->norm[s].end && plan->segments[s].trainable && zero_plan_has(plan, &plan->segments[s]); i++) {
            const zero_content_t *x = &c->cells[i].content;
            if (x->kind != ZERO_HOLDS_NORM || x->segment != s || x->version != c->step || x->end != c->micro ||
                x->base != plan->segments[s].slice)
                return zero_check_fail(
                    c, "it reads the norm of unit '%s', which is of another step, or not of all its gradients",
                    plan->spec->units[zero_check_unit(c, s)].name);
        }
    if (c->rate.content.version != c->step + 1)
        return zero_check_fail(c, "it reads the rate, which the host has not written for this step");
    c->rate.read_time[op->stream] = c->clock[op->stream].at[op->stream];
    zero_check_did_read(c, op->stream, &norms);
    zero_check_did_write(c, op->stream, &exchange, (zero_content_t){.kind = ZERO_HOLDS_NOTHING});
    zero_check_did_write(c, op->stream, &scalars,
                         (zero_content_t){.kind = ZERO_HOLDS_SCALARS, .version = c->step, .base = scalars.base});
    return ZERO_OK;
}

/* Checks master weights or state: they must be those of the update before *next, and have the operation's size. */
static zero_status_t read_state(const zero_checker_t *c, const zero_op_t *op, const zero_operand_t *x,
                                const zero_content_t *next)
{
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, x, x)) != ZERO_OK ||
        (status = zero_check_content(c, x, &content)) != ZERO_OK)
        return status;
    if (content.kind != next->kind || content.state != next->state || content.version + 1 != next->version)
        return zero_check_fail(c, "it updates %s, which does not hold the result of the last update",
                               zero_check_buffer_name(c, x->buffer).s);
    return x->count == op->count
               ? ZERO_OK
               : zero_check_fail(c, "it updates %s, which has another size", zero_check_buffer_name(c, x->buffer).s);
}

/* Where the parameters of a part are written. */
static int32_t target_of(const zero_checker_t *c, const zero_op_t *op)
{
    const int32_t *buffer = zero_check_segment(c, op)->buffer;
    int32_t param = c->plan->parts[op->part].param;
    return param >= 0 ? param : buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM];
}

/* Where the direction of a part is, if it is updated whole. */
static int32_t direction_of(const zero_checker_t *c, const zero_op_t *op)
{
    int32_t direction = c->plan->parts[op->part].direction;
    return direction >= 0 ? direction : zero_check_segment(c, op)->buffer[ZERO_ROLE_MATRICES];
}

static zero_status_t read_scalars(zero_checker_t *c, const zero_op_t *op)
{
    zero_operand_t scalars = zero_check_operand(c, c->plan->scalars, false, -1);
    zero_content_t content;
    zero_status_t status = zero_check_ordered(c, op->stream, &scalars, NULL);
    if (status != ZERO_OK || (status = zero_check_content(c, &scalars, &content)) != ZERO_OK)
        return status;
    if (content.kind != ZERO_HOLDS_SCALARS || content.version != c->step)
        return zero_check_fail(c, "it reads scalars of another step");
    zero_check_did_read(c, op->stream, &scalars);
    return ZERO_OK;
}

/* Advances the master weights and the state that it modifies to the part's next update. */
static zero_status_t renew_state(zero_checker_t *c, const zero_op_t *op, zero_tier_t memory)
{
    const zero_plan_t *plan = c->plan;
    int i;
    for (int end = zero_plan_works_on(plan, op, &i); i < end; i++) {
        zero_content_t kept = {.kind = i > 0                                           ? ZERO_HOLDS_STATE
                                       : zero_check_segment(c, op)->dtype == ZERO_FP32 ? ZERO_HOLDS_PARAM
                                                                                       : ZERO_HOLDS_MASTER,
                               .dtype = ZERO_FP32,
                               .state = i > 0 ? (uint8_t)(i - 1) : 0,
                               .segment = op->segment,
                               .version = c->updates[op->part] + 1};
        zero_operand_t x = zero_check_operand(c, zero_part_memory(&plan->parts[op->part], i), false, op->part);
        if (plan->buffers[x.buffer].tier != memory)
            return zero_check_fail(c, "it updates %s, which is in another memory",
                                   zero_check_buffer_name(c, x.buffer).s);
        zero_status_t status = read_state(c, op, &x, &kept);
        if (status != ZERO_OK)
            return status;
        kept.base = x.base;
        zero_check_did_write(c, op->stream, &x, kept);
    }
    return ZERO_OK;
}

/* UPDATE turns gradients and state into a direction if parameters are updated whole, and else moves the parameters.
 * APPLY moves the parameters by a direction. */
zero_status_t zero_check_update(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    const zero_segment_t *segment = zero_check_segment(c, op);
    bool applies = op->kind == ZERO_OP_APPLY, moves = applies || !segment->whole;
    zero_tier_t memory = plan->parts[op->part].tier == ZERO_TIER_DEVICE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, op->part),
                   dst = zero_check_operand(c, op->dst, op->dst_own, op->part);
    zero_content_t content;
    zero_status_t status;

    if (c->program->kind != ZERO_PROGRAM_STEP || !segment->trainable || c->updated[op->part] > c->step ||
        (applies && !segment->whole))
        return zero_check_fail(c, "it updates a frozen segment, updates a part twice, or is outside of a step");
    if (op->dst != (moves ? target_of(c, op) : direction_of(c, op)) || dst.count != op->count ||
        src.count != op->count || src.begin != dst.begin)
        return zero_check_fail(c, "it does not update all of this rank's parameters of the part");
    if (plan->buffers[op->src].tier != memory || plan->buffers[op->dst].tier != memory ||
        op->stream != (memory == ZERO_TIER_DEVICE ? ZERO_STREAM_UPDATE : ZERO_STREAM_HOST))
        return zero_check_fail(c, "it updates state on the %s tier from another memory or stream",
                               zero_tier_name(plan->parts[op->part].tier));
    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = read_scalars(c, op)) != ZERO_OK)
        return status;
    if (!applies && (status = read_final(c, op->segment, op->part, false, &src)) != ZERO_OK)
        return status;
    if (applies && ((status = zero_check_content(c, &src, &content)) != ZERO_OK))
        return status;
    if (applies &&
        (op->src != direction_of(c, op) || !zero_check_is_direction(c, op->segment, &content, ZERO_DIRECTION_SPREAD)))
        return zero_check_fail(c, "it applies something other than the owners' results of this step");
    if ((status = renew_state(c, op, memory)) != ZERO_OK)
        return status;
    if (moves) {
        c->version[op->segment] = ++c->updates[op->part];
        c->updated[op->part] = c->step + 1;
    }
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst,
                         moves ? (zero_content_t){.kind = ZERO_HOLDS_PARAM,
                                                  .dtype = (uint8_t)segment->dtype,
                                                  .segment = op->segment,
                                                  .version = c->updates[op->part],
                                                  .base = dst.base}
                               : (zero_content_t){.kind = ZERO_HOLDS_DIRECTION,
                                                  .dtype = ZERO_FP32,
                                                  .segment = op->segment,
                                                  .version = c->step,
                                                  .first = ZERO_DIRECTION_UPDATED,
                                                  .base = dst.base});
    return ZERO_OK;
}

/* COLLECT, WHOLE and SPREAD of MATRICES, in place. */
zero_status_t zero_check_whole(zero_checker_t *c, const zero_op_t *op)
{
    const zero_segment_t *segment = zero_check_segment(c, op);
    bool collects = op->kind == ZERO_OP_COLLECT, spreads = op->kind == ZERO_OP_SPREAD,
         alone = !zero_plan_is_shared(segment);
    bool full = alone || c->plan->spec->optimizer.sharding == ZERO_FULL;
    int32_t matrices = segment->buffer[ZERO_ROLE_MATRICES];
    zero_operand_t src = zero_check_operand(c, matrices, op->src_own, -1),
                   dst = zero_check_operand(c, matrices, op->dst_own, -1);
    uint8_t axes = c->plan->spec->groups[op->group].axes;
    zero_content_t content;
    zero_status_t status;

    if (!segment->whole || c->program->kind != ZERO_PROGRAM_STEP || op->part >= 0 || op->src != matrices ||
        op->dst != matrices || (op->kind == ZERO_OP_WHOLE && (op->src_own || op->dst_own)))
        return zero_check_fail(c, "it works on something other than the directions of a step");
    if (op->kind == ZERO_OP_WHOLE && op->stream != ZERO_STREAM_UPDATE)
        return zero_check_fail(c, "it calls the caller's function on a stream other than that of updates");
    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_content(c, &src, &content)) != ZERO_OK ||
        (op->kind == ZERO_OP_WHOLE && (status = read_scalars(c, op)) != ZERO_OK))
        return status;
    zero_direction_t wanted = collects  ? ZERO_DIRECTION_UPDATED
                              : spreads ? ZERO_DIRECTION_MADE
                              : full    ? ZERO_DIRECTION_UPDATED
                                        : ZERO_DIRECTION_COLLECTED;
    if (!zero_check_is_direction(c, op->segment, &content, wanted))
        return zero_check_fail(c, "it reads directions of another step, or in another state than it needs");
    content.reduced |= spreads ? axes : 0;
    bool all = collects ? dst.count == segment->elements : content.reduced == zero_check_axes(c, op->segment);
    content.first = collects  ? all ? ZERO_DIRECTION_COLLECTED : ZERO_DIRECTION_UPDATED
                    : spreads ? all ? ZERO_DIRECTION_SPREAD : ZERO_DIRECTION_MADE
                    : alone   ? ZERO_DIRECTION_SPREAD
                              : ZERO_DIRECTION_MADE;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}
