/* SPDX-License-Identifier: Apache-2.0 */
/* check_numbers.c - checks that every number in a plan is in its range, and that buffers do not overlap. */
#include "zero/plan/check.h"

#include <stdlib.h>

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static zero_status_t check_segments(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const zero_segment_t *s = &plan->segments[i];
        if (s->unit < 0 || s->unit >= plan->spec->unit_count || (i > 0 && s->unit < plan->segments[i - 1].unit))
            return zero_check_fail(c, "segment %d belongs to unit %d, which does not exist or is out of order", i,
                                   s->unit);
        int64_t stages = zero_check_tied(c, i) ? 2 : 1,
                sharing = stages * plan->spec->mesh.replicas * (zero_check_summed(c, i) ? plan->spec->mesh.tensor : 1);
        if ((unsigned)s->spread >= ZERO_SPREADS || (plan->spec->mesh.tensor == 1 && s->spread != ZERO_SPREAD_PARTS))
            return zero_check_fail(c, "segment %d is spread in way %d over the ranks of tensor parallelism", i,
                                   (int)s->spread);
        if (s->pipe[0] < 0 || s->pipe[0] > s->pipe[1] || s->pipe[1] >= plan->spec->mesh.pipe ||
            (stages > 1 && (s->pipe[0] != plan->spec->tied[0] || s->pipe[1] != plan->spec->tied[1])))
            return zero_check_fail(c, "segment %d is on stages %d and %d", i, s->pipe[0], s->pipe[1]);
        if (s->elements <= 0 || s->slice % ZERO_ALIGN_ELEMENTS != 0 ||
            s->slice * sharing * zero_check_shards(c) != s->elements || s->shard != s->slice * sharing ||
            s->node <= 0 || s->elements % s->node != 0 ||
            (s->node != s->elements && s->elements / s->node != plan->spec->mesh.node))
            return zero_check_fail(c, "segment %d has %lld elements, but shards of %lld and slices of %lld", i,
                                   (long long)s->elements, (long long)s->shard, (long long)s->slice);
        for (int r = 0; r < ZERO_SEGMENT_ROLES; r++) {
            int32_t b = s->buffer[r];
            if (b < -1 || b >= plan->buffer_count || (b >= 0 && plan->buffers[b].segment != i))
                return zero_check_fail(c, "segment %d has buffer %d as its %s, which is not one of its buffers", i, b,
                                       zero_role_name((zero_role_t)r, 0));
        }
        if (!zero_plan_has(plan, s)) {
            for (int r = 0; r < ZERO_SEGMENT_ROLES; r++)
                if (s->buffer[r] != -1)
                    return zero_check_fail(c, "segment %d has buffers, but is not of this stage", i);
            continue;
        }
        bool lacks = s->buffer[ZERO_ROLE_PARAM] < 0;
        lacks = lacks || (s->trainable && (s->buffer[ZERO_ROLE_FINAL] < 0 || s->buffer[ZERO_ROLE_GRAD] < 0));
        const zero_buffer_t *m =
            s->buffer[ZERO_ROLE_MATRICES] >= 0 ? &plan->buffers[s->buffer[ZERO_ROLE_MATRICES]] : NULL;
        lacks = lacks || (s->whole && (m == NULL || m->format.dtype != ZERO_FP32 || m->elements != s->elements));
        if (lacks)
            return zero_check_fail(c, "segment %d lacks a buffer that it needs", i);
    }
    for (int32_t i = 0; i < plan->spec->param_count; i++) {
        const zero_spec_param_t *p = &plan->spec->params[i];
        const zero_placed_t *at = &plan->placed[i];
        if (p->count == 0
                ? at->segment != -1
                : at->segment < 0 || at->segment >= plan->segment_count ||
                      plan->segments[at->segment].unit != p->unit || plan->segments[at->segment].dtype != p->dtype ||
                      at->offset < 0 || at->offset % ZERO_ALIGN_ELEMENTS != 0 ||
                      p->count > plan->segments[at->segment].elements - at->offset)
            return zero_check_fail(c, "parameter '%s' lies outside of its unit's segments", p->name);
        bool whole = at->segment >= 0 && plan->segments[at->segment].whole;
        if (whole
                ? at->owner < 0 || at->owner >= plan->segments[at->segment].elements / plan->segments[at->segment].slice
                : at->owner != -1)
            return zero_check_fail(c, "parameter '%s' has owner %d, which it must not have", p->name, at->owner);
    }
    return ZERO_OK;
}

/* Checks a buffer of a part: it is the part's own or, for MASTER, may be the segment's. */
static zero_status_t check_part_buffer(const zero_checker_t *c, int32_t part, int32_t buffer, zero_role_t role,
                                       int state, bool needed)
{
    const zero_plan_t *plan = c->plan;
    int32_t segment = plan->parts[part].segment;
    const zero_buffer_t *x = buffer >= 0 && buffer < plan->buffer_count ? &plan->buffers[buffer] : NULL;
    if (x == NULL ? buffer == -1 && !needed
                  : x->segment == segment && (x->part == part || (role == ZERO_ROLE_MASTER && x->part < 0)))
        return ZERO_OK;
    return zero_check_fail(c, "part %d of segment %d has buffer %d as its %s, which it must not have",
                           part - plan->segments[segment].first_part, segment, buffer, zero_role_name(role, state));
}

static zero_status_t check_part_buffers(const zero_checker_t *c, int32_t index)
{
    const zero_part_t *part = &c->plan->parts[index];
    bool staged = part->tier == ZERO_TIER_NVME;
    zero_status_t status = check_part_buffer(c, index, part->master, ZERO_ROLE_MASTER, 0, true);
    if (status == ZERO_OK)
        status = check_part_buffer(c, index, part->staged[0], ZERO_ROLE_STAGED_MASTER, 0, staged);
    for (int i = 0; i < ZERO_MAX_STATES && status == ZERO_OK; i++) {
        bool kept = i < zero_plan_state(c->plan, part->segment)->count;
        status = check_part_buffer(c, index, part->state[i], ZERO_ROLE_STATE, i, kept);
        if (status == ZERO_OK)
            status = check_part_buffer(c, index, part->staged[1 + i], ZERO_ROLE_STAGED_STATE, i, kept && staged);
    }
    if (status == ZERO_OK)
        status = check_part_buffer(c, index, part->grad, ZERO_ROLE_UPDATE_GRAD, 0, false);
    if (status == ZERO_OK)
        status = check_part_buffer(c, index, part->direction, ZERO_ROLE_DIRECTION, 0, false);
    return status == ZERO_OK ? check_part_buffer(c, index, part->param, ZERO_ROLE_UPDATE_PARAM, 0, false) : status;
}

/* The number of elements of an extent; 0 for none that exists. */
static int64_t most_of(const zero_segment_t *s, zero_extent_t extent)
{
    const int64_t most[ZERO_EXTENTS] = {s->elements, s->slice, s->shard, s->node};
    return (unsigned)extent < sizeof most / sizeof *most ? most[extent] : 0;
}

/* Checks that the parts of a segment are consecutive, cover what a rank updates, and have the buffers of their
 * state. */
static zero_status_t check_parts(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    int32_t next = 0;
    zero_status_t status;
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const zero_segment_t *s = &plan->segments[i];
        if (!zero_plan_has(plan, s))
            continue;
        int64_t end = 0, updated = plan->spec->optimizer.sharding == ZERO_FULL ? s->elements : s->slice;
        if (s->trainable && s->first_part != next)
            return zero_check_fail(c, "the parts of segment %d are out of order", i);
        for (int32_t p = next; s->trainable && p < next + s->part_count && p < plan->part_count; p++) {
            const zero_part_t *part = &plan->parts[p];
            if (part->segment != i || part->begin != end || part->end <= part->begin ||
                part->begin % ZERO_NORM_BLOCK != 0 || updated != most_of(s, part->own))
                return zero_check_fail(c, "part %d of segment %d begins at %lld instead of %lld, or has wrong bounds",
                                       p - next, i, (long long)part->begin, (long long)end);
            end = part->end;
            if ((status = check_part_buffers(c, p)) != ZERO_OK)
                return status;
        }
        if (s->trainable && end != updated)
            return zero_check_fail(c, "the parts of segment %d end at %lld of %lld elements", i, (long long)end,
                                   (long long)updated);
        next += s->trainable ? s->part_count : 0;
    }
    return ZERO_OK;
}

/* Checks that parts, pieces and buffers lie inside their segments. */
static zero_status_t check_bounds(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t p = plan->part_count; p < plan->part_count + plan->piece_count; p++) {
        const zero_part_t *piece = &plan->parts[p];
        bool known = piece->segment >= 0 && piece->segment < plan->segment_count;
        const zero_segment_t *s = known ? &plan->segments[piece->segment] : NULL;
        if (!known || piece->begin < 0 || piece->end <= piece->begin || piece->end > most_of(s, piece->own))
            return zero_check_fail(c, "piece %d has elements outside of its segment", p - plan->part_count);
    }
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        const zero_segment_t *s =
            x->segment >= 0 && x->segment < plan->segment_count ? &plan->segments[x->segment] : NULL;
        if (s != NULL && (x->begin < 0 || x->elements < 0 || x->elements > most_of(s, x->own) - x->begin))
            return zero_check_fail(c, "buffer %d has elements outside of its segment", i);
        if (x->part < -1 || x->part >= plan->part_count + plan->piece_count)
            return zero_check_fail(c, "buffer %d belongs to part %d, which is out of range", i, x->part);
        const zero_part_t *part = x->part >= 0 ? &plan->parts[x->part] : NULL;
        if (part != NULL && (part->segment != x->segment || x->own != part->own || x->begin != part->begin ||
                             x->elements != part->end - part->begin))
            return zero_check_fail(c, "buffer %d belongs to part %d, which has another segment or other elements", i,
                                   x->part);
    }
    return ZERO_OK;
}

/* Whether it changes the state of a part. */
static bool updates(const zero_op_t *op)
{
    return op->kind == ZERO_OP_UPDATE || op->kind == ZERO_OP_APPLY;
}

static zero_status_t check_op_ranges(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    if (op->kind >= ZERO_OP_COUNT || op->stream >= ZERO_STREAM_COUNT || op->unit < -1 ||
        op->unit >= plan->spec->unit_count || op->segment < -1 || op->segment >= plan->segment_count || op->part < -1 ||
        op->part >= plan->part_count + plan->piece_count || (updates(op) && op->part >= plan->part_count) ||
        op->src < -1 || op->src >= plan->buffer_count || op->dst < -1 || op->dst >= plan->buffer_count ||
        op->src_own >= ZERO_EXTENTS || op->dst_own >= ZERO_EXTENTS)
        return zero_check_fail(c, "one of its numbers is out of range");
    if (op->program != (int32_t)(c->program - plan->programs))
        return zero_check_fail(c, "it names program %d as its own", op->program);
    bool of_group = zero_op_collects(op) || op->kind == ZERO_OP_SUM || op->kind == ZERO_OP_COLLECTIVE;
    if (op->group != 0 && (!of_group || op->group >= plan->spec->group_count))
        return zero_check_fail(c, "it uses group %d: there are %d, and only collectives use another than the first",
                               op->group, plan->spec->group_count);
    return ZERO_OK;
}

/* The i-th rank of a group that has this rank; -1 if they are not in the order of their slices. */
static int member_of(const zero_checker_t *c, const zero_spec_group_t *group, int i)
{
    int shards = zero_check_shards(c), tensor = c->plan->spec->mesh.tensor, ranks = zero_check_ranks(c),
        place = c->rank % tensor, local = c->rank % ranks / tensor, shard = local % shards, replica = local / shards,
        pipe = c->rank / ranks;
    if (group->size == 1)
        return c->rank;
    if (group->axes & ZERO_ALONG_TENSOR) {
        place = i % tensor;
        i /= tensor;
    }
    if (group->axes & ZERO_ALONG_TIE) {
        pipe = c->plan->spec->tied[i % 2];
        i /= 2;
    }
    switch (group->axes & ~(ZERO_ALONG_TENSOR | ZERO_ALONG_TIE)) {
    case 0:
        break;
    case ZERO_ALONG_REPLICA:
        replica = i;
        break;
    case ZERO_ALONG_SHARD:
        shard = i;
        break;
    case ZERO_ALONG_NODE: /* consecutive shards */
        shard += i - shard % group->size;
        break;
    default:
        return -1;
    }
    return ((pipe * c->plan->spec->mesh.replicas + replica) * shards + shard) * tensor + place;
}

/* Checks that the ranks of a collective, or of the SUM after one, work on the same elements, and that each has the next
 * ones of them; in an all-to-all, all of them. */
static zero_status_t check_collective(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_spec_group_t *group = &c->plan->spec->groups[op->group];
    bool gathers = op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_COLLECT, trades = op->kind == ZERO_OP_ALL_TO_ALL;
    zero_span_t all = zero_check_span(c, gathers ? op->dst : op->src, gathers ? op->dst_own : op->src_own, -1);
    for (int i = 0; i<group->size; i += group->size> 2 ? group->size - 1 : 1) {
        zero_checker_t other = {.plan = c->plan, .rank = member_of(c, group, i)};
        zero_span_t its = {0}, same = {0};
        if (other.rank >= 0) {
            its = zero_check_span(&other, gathers ? op->src : op->dst, gathers ? op->src_own : op->dst_own, -1);
            same = zero_check_span(&other, gathers ? op->dst : op->src, gathers ? op->dst_own : op->src_own, -1);
        }
        int shares = trades ? 1 : group->size;
        if (other.rank < 0 || its.count * shares != all.count ||
            its.begin != all.begin + (trades ? 0 : i * its.count) || all.count % group->size != 0 ||
            same.begin != all.begin || same.count != all.count)
            return zero_check_fail(c,
                                   "rank %d of its group of %d has %lld elements from %lld, which are not its share "
                                   "of the %lld from %lld",
                                   i, group->size, (long long)its.count, (long long)its.begin, (long long)all.count,
                                   (long long)all.begin);
    }
    return op->stream == ZERO_STREAM_GATHER || op->stream == ZERO_STREAM_REDUCE || !zero_op_collects(op)
               ? ZERO_OK
               : zero_check_fail(c, "it communicates on a stream without a communicator");
}

/* Checks that operands belong to the operation's segment and part and lie in its stream's memory, and its count. */
static zero_status_t check_operands(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    const int32_t buffers[] = {op->src, op->dst};
    const bool wanted[] = {op->kind != ZERO_OP_FILL, op->kind != ZERO_OP_NORM};
    const zero_extent_t own[] = {op->src_own, op->dst_own};
    const zero_part_t *part = op->part >= 0 ? &plan->parts[op->part] : NULL;
    zero_tier_t memory = op->stream == ZERO_STREAM_HOST ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
    bool computes = zero_op_collects(op) || op->kind == ZERO_OP_SUM || op->kind == ZERO_OP_CAST ||
                    op->kind == ZERO_OP_FILL || op->kind == ZERO_OP_ACCUMULATE || op->kind == ZERO_OP_NORM ||
                    op->kind == ZERO_OP_WHOLE;
    int64_t count = 0;
    if (part != NULL ? part->segment != op->segment : updates(op))
        return zero_check_fail(c, "it names no part of its segment");
    for (int i = 0; i < 2; i++) {
        if (!wanted[i])
            continue;
        const zero_buffer_t *x = buffers[i] >= 0 ? &plan->buffers[buffers[i]] : NULL;
        if (op->segment < 0 || x == NULL || x->segment != op->segment || (x->part >= 0 && x->part != op->part))
            return zero_check_fail(c, "an operand is missing, or belongs to another segment or part");
        if (own[i] && part != NULL && part->own != own[i] && zero_plan_is_shared(&plan->segments[op->segment]))
            return zero_check_fail(c, "it uses the own slice of a part that is counted from the segment");
        if (computes && x->tier != memory)
            return zero_check_fail(c, "it works on the %s tier, but runs on the stream of another memory",
                                   zero_tier_name(x->tier));
        count = zero_check_span(c, buffers[i], own[i], op->part).count;
    }
    if (op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_COLLECT)
        count = zero_check_span(c, op->src, op->src_own, -1).count;
    else if (op->kind == ZERO_OP_ALL_TO_ALL)
        count /= plan->spec->groups[op->group].size;
    return op->count == count ? ZERO_OK
                              : zero_check_fail(c, "it counts %lld elements; its operand has %lld",
                                                (long long)op->count, (long long)count);
}

/* SAVE takes one buffer of its segment, or of its part, without what other ranks own. */
static zero_status_t check_save(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    if (op->stream != ZERO_STREAM_SAVE || c->program->kind != ZERO_PROGRAM_SAVE || op->dst >= 0)
        return zero_check_fail(c, "it is on another stream than saves, or in another program, or has a destination");
    if (op->kind == ZERO_OP_SYNC)
        return op->src < 0 ? ZERO_OK : zero_check_fail(c, "it has an operand");
    const zero_buffer_t *x = op->src >= 0 ? &plan->buffers[op->src] : NULL;
    if (x == NULL || op->segment < 0 || x->segment != op->segment || x->part != op->part ||
        op->src_own != (x->own == ZERO_EXTENT_SLICE ? ZERO_EXTENT_WHOLE : ZERO_EXTENT_SLICE))
        return zero_check_fail(c, "its operand is missing, of another segment or part, or not cut to this rank's own");
    int64_t count = zero_check_span(c, op->src, op->part < 0 ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE, op->part).count;
    return op->count == count ? ZERO_OK
                              : zero_check_fail(c, "it counts %lld elements; its operand has %lld",
                                                (long long)op->count, (long long)count);
}

/* Operations of tasks: the task exists, and what they move is a whole buffer. */
static zero_status_t check_task(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_pass_t *pass = c->program->pass >= 0 ? &c->plan->passes[c->program->pass] : NULL;
    const int32_t buffer = op->kind == ZERO_OP_SEND ? op->src : op->dst;
    const zero_buffer_t *x = buffer >= 0 ? &c->plan->buffers[buffer] : NULL;
    bool moves = op->kind == ZERO_OP_SEND || op->kind == ZERO_OP_RECV;
    if (pass == NULL || op->use < 0 || op->use >= pass->task_count || moves != (x != NULL) ||
        (op->kind == ZERO_OP_SEND ? op->dst : op->src) >= 0)
        return zero_check_fail(c, "it is of task %d, which does not exist, or has other operands than it needs",
                               op->use);
    uint64_t bytes = op->kind == ZERO_OP_RECV ? x->bytes : 0;
    return op->count == (moves ? x->elements : 0) && op->bytes == bytes
               ? ZERO_OK
               : zero_check_fail(c, "it counts %lld elements and %llu bytes", (long long)op->count,
                                 (unsigned long long)op->bytes);
}

/* A collective of the caller's memory. */
static zero_status_t check_call(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_pass_t *pass = c->program->pass >= 0 ? &c->plan->passes[c->program->pass] : NULL;
    const zero_spec_pass_t *declared = pass ? &c->plan->spec->passes[c->program->pass] : NULL;
    const zero_spec_use_t *use = pass && op->use >= 0 && op->use < pass->use_count ? &pass->uses[op->use] : NULL;
    if (use == NULL || use->first_collective < 0 || use->collective_count < 0 ||
        use->collective_count > declared->collective_count - use->first_collective)
        return zero_check_fail(c, "it is of use %d, which does not exist, or whose collectives do not", op->use);
    return op->src < 0 && op->dst < 0 && op->unit == use->unit && op->stream == ZERO_STREAM_COMPUTE
               ? ZERO_OK
               : zero_check_fail(c, "it has operands of the plan, or another unit or stream than its use");
}

static zero_status_t check_op_numbers(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    zero_status_t status = check_op_ranges(c, op);
    if (status != ZERO_OK)
        return status;
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_RECORD:
    case ZERO_OP_WAIT:
    case ZERO_OP_HOST_WAIT:
        return op->event >= 0 && op->event < plan->event_count
                   ? ZERO_OK
                   : zero_check_fail(c, "event %d is out of range", op->event);
    case ZERO_OP_USE:
    case ZERO_OP_RELEASE:
        return op->unit >= 0 ? ZERO_OK : zero_check_fail(c, "it names no unit");
    case ZERO_OP_EXCHANGE:
        return op->stream == ZERO_STREAM_REDUCE ? ZERO_OK
                                                : zero_check_fail(c, "it does not run on the stream of reductions");
    case ZERO_OP_SAVE:
    case ZERO_OP_SYNC:
        return check_save(c, op);
    case ZERO_OP_TASK:
    case ZERO_OP_TASK_END:
    case ZERO_OP_SEND:
    case ZERO_OP_RECV:
        return check_task(c, op);
    case ZERO_OP_COLLECTIVE:
        return check_call(c, op);
    default:
        break;
    }
    if ((status = check_operands(c, op)) != ZERO_OK ||
        ((zero_op_collects(op) || op->kind == ZERO_OP_SUM) && (status = check_collective(c, op)) != ZERO_OK))
        return status;
    bool moves = op->kind == ZERO_OP_COPY || op->kind == ZERO_OP_READ || op->kind == ZERO_OP_WRITE;
    int64_t count = 0;
    if (zero_op_collects(op)) /* those of the other ranks */
        count = (plan->spec->groups[op->group].size - 1) * op->count;
    else if (moves && plan->buffers[op->src].tier != plan->buffers[op->dst].tier)
        count = op->count;
    uint64_t bytes = count > 0 ? zero_format_bytes(&plan->buffers[op->src].format, count) : 0;
    if (op->bytes != bytes)
        return zero_check_fail(c, "it says that it moves %llu bytes instead of %llu", (unsigned long long)op->bytes,
                               (unsigned long long)bytes);
    return ZERO_OK;
}

/* ---- layout ----------------------------------------------------------------------------------------------------- */

static int by_offset(const void *pa, const void *pb)
{
    const zero_buffer_t *const *a = pa, *const *b = pb;
    if ((*a)->tier != (*b)->tier)
        return (*a)->tier < (*b)->tier ? -1 : 1;
    if ((*a)->offset != (*b)->offset)
        return (*a)->offset < (*b)->offset ? -1 : 1;
    return *a < *b ? -1 : *a > *b;
}

/* Checks that buffers lie in their kind's range, aligned, and overlap only in a slot. */
static zero_status_t check_layout(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    const zero_buffer_t **sorted = malloc(((size_t)plan->buffer_count + 1) * sizeof *sorted);
    int32_t n = 0;
    zero_status_t status = ZERO_OK;

    if (sorted == NULL)
        return zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %d buffers", plan->buffer_count);
    for (int32_t i = 0; i < plan->buffer_count && status == ZERO_OK; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        uint64_t begin = plan->kind_offset[x->tier][x->kind], end = begin + plan->kind_bytes[x->tier][x->kind];
        if (x->offset % ZERO_ALIGN_BYTES != 0 || x->offset < begin || x->offset > end || x->bytes > end - x->offset ||
            end > plan->arena_bytes[x->tier] || x->format.block < 1 || ZERO_ALIGN_ELEMENTS % x->format.block != 0 ||
            x->format.block_bytes < 1 || x->bytes != zero_format_bytes(&x->format, x->elements) ||
            (zero_format_is_coded(&x->format) && x->part < 0 && x->format.codec == ZERO_CODEC_NONE))
            status =
                zero_check_fail(c, "buffer %d is outside its kind's range, is not aligned, or has a wrong size", i);
        if (x->bytes > 0)
            sorted[n++] = x;
    }
    if (n > 0)
        qsort(sorted, (size_t)n, sizeof *sorted, by_offset);
    uint64_t end = 0;
    for (int32_t i = 0; i < n && status == ZERO_OK; i++) {
        if (i > 0 && sorted[i]->tier != sorted[i - 1]->tier)
            end = 0;
        if (i > 0 && sorted[i]->offset < end && (sorted[i]->slot < 0 || sorted[i]->slot != sorted[i - 1]->slot))
            status = zero_check_fail(c, "buffers %d and %d overlap", (int)(sorted[i - 1] - plan->buffers),
                                     (int)(sorted[i] - plan->buffers));
        if (sorted[i]->offset + sorted[i]->bytes > end)
            end = sorted[i]->offset + sorted[i]->bytes;
    }
    free(sorted);
    return status;
}

zero_status_t zero_check_numbers(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    zero_status_t status;

    const int32_t others[] = {plan->norms, plan->exchange, plan->scalars, plan->scratch, plan->host_scratch};
    for (int i = 0; i < 5; i++)
        if (others[i] < (i == 4 ? -1 : 0) || others[i] >= plan->buffer_count ||
            (others[i] >= 0 && plan->buffers[others[i]].segment >= 0))
            return zero_check_fail(c, "a staging buffer is missing");
    if (plan->buffers[plan->norms].bytes < (uint64_t)plan->segment_count * sizeof(double) ||
        plan->buffers[plan->scalars].bytes < ZERO_SCALARS_BYTES ||
        plan->buffers[plan->exchange].bytes / sizeof(double) / ((uint64_t)plan->segment_count + ZERO_EXCHANGE_WORDS) <
            (uint64_t)plan->spec->world)
        return zero_check_fail(c, "a staging buffer is too small");
    int replicas = plan->spec->mesh.replicas, shards = zero_check_shards(c), pipes = plan->spec->mesh.pipe,
        tensor = plan->spec->mesh.tensor;
    if (plan->pipe < 0 || plan->pipe >= pipes || plan->spec->groups[0].size != plan->spec->world ||
        shards * replicas * pipes * tensor != plan->spec->world)
        return zero_check_fail(c, "the first group, which exchanges norms, does not have all ranks");
    for (int g = 0; g < plan->spec->group_count; g++) {
        const zero_spec_group_t *group = &plan->spec->groups[g];
        const bool context = group->axes & ZERO_ALONG_CONTEXT;
        int size = group->axes == ZERO_ALONG_NODE ? plan->spec->mesh.node
                   : context
                       ? plan->spec->mesh.context
                       : (group->axes & ZERO_ALONG_SHARD ? shards : 1) *
                             (group->axes & ZERO_ALONG_REPLICA ? replicas : 1) *
                             (group->axes & ZERO_ALONG_PIPE ? pipes : 1) * (group->axes & ZERO_ALONG_TIE ? 2 : 1) *
                             (group->axes & ZERO_ALONG_TENSOR ? tensor : 1);
        if (group->size != size || (group->axes == ZERO_ALONG_NODE && shards % size != 0))
            return zero_check_fail(c, "group %d has %d ranks on axes %d of a mesh of %d x %d", g, group->size,
                                   group->axes, shards, replicas);
    }
    if ((status = check_segments(c)) != ZERO_OK || (status = check_parts(c)) != ZERO_OK ||
        (status = check_bounds(c)) != ZERO_OK || (status = check_layout(c)) != ZERO_OK)
        return status;
    for (int32_t i = 0; i < plan->program_count; i++) {
        c->program = &plan->programs[i];
        for (c->op = 0; c->op < c->program->op_count; c->op++)
            if ((status = check_op_numbers(c, &c->program->ops[c->op])) != ZERO_OK)
                return status;
    }
    c->program = NULL;
    return ZERO_OK;
}
