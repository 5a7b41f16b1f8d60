/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - the plan's checker: first that every number in the plan is in its range and that buffers lie apart, then a
 * walk over the programs as steps and evaluations would run them, as the first rank and as the last. */
#include "zero/plan/check.h"

#include <stdio.h>
#include <stdlib.h>

zero_status_t zero_check_fail(const zero_checker_t *c, const char *format, ...)
{
    char sentence[600], where[200] = "the plan";
    va_list args;
    va_start(args, format);
    if (vsnprintf(sentence, sizeof sentence, format, args) < 0)
        sentence[0] = '\0';
    va_end(args);
    if (c->program != NULL && c->op >= 0 && c->op < c->program->op_count) {
        const zero_op_t *op = &c->program->ops[c->op];
        bool known = op->unit >= 0 && op->unit < c->plan->spec->unit_count;
        snprintf(where, sizeof where, "program %s, operation %d (%s%s%s%s)", zero_program_name(c->program->kind), c->op,
                 zero_op_name((zero_op_kind_t)op->kind), known ? " of unit '" : "",
                 known ? c->plan->spec->units[op->unit].name : "", known ? "'" : "");
    } else if (c->program != NULL) {
        snprintf(where, sizeof where, "program %s, at its end", zero_program_name(c->program->kind));
    }
    return zero_fail(c->error, ZERO_ERR_PLAN, "%s: %s", where, sentence);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

static zero_status_t check_segments(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const zero_segment_t *s = &plan->segments[i];
        if (s->unit < 0 || s->unit >= plan->spec->unit_count || (i > 0 && s->unit < plan->segments[i - 1].unit))
            return zero_check_fail(c, "segment %d is of unit %d, out of order or of none", i, s->unit);
        if (s->elements <= 0 || s->slice % ZERO_ALIGN_ELEMENTS != 0 || s->slice * plan->spec->world != s->elements)
            return zero_check_fail(c, "segment %d has %lld elements in slices of %lld", i, (long long)s->elements,
                                   (long long)s->slice);
        for (int r = 0; r < ZERO_SEGMENT_ROLES; r++) {
            int32_t b = s->buffer[r];
            if (b < -1 || b >= plan->buffer_count || (b >= 0 && plan->buffers[b].segment != i))
                return zero_check_fail(c, "segment %d has buffer %d as its %s", i, b,
                                       zero_role_name((zero_role_t)r, 0));
        }
        bool lacks = s->buffer[ZERO_ROLE_PARAM] < 0;
        lacks = lacks || (s->trainable && (s->buffer[ZERO_ROLE_FINAL] < 0 || s->buffer[ZERO_ROLE_GRAD] < 0));
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
    }
    return ZERO_OK;
}

/* A buffer of a part: the part's own, or the segment's where it may be shared. */
static zero_status_t check_part_buffer(const zero_checker_t *c, int32_t part, int32_t buffer, zero_role_t role,
                                       int state, bool needed)
{
    const zero_plan_t *plan = c->plan;
    int32_t segment = plan->parts[part].segment;
    const zero_buffer_t *x = buffer >= 0 && buffer < plan->buffer_count ? &plan->buffers[buffer] : NULL;
    if (x == NULL ? buffer == -1 && !needed
                  : x->segment == segment && (x->part == part || (role == ZERO_ROLE_MASTER && x->part < 0)))
        return ZERO_OK;
    return zero_check_fail(c, "part %d of segment %d has buffer %d as its %s",
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
        bool kept = i < c->plan->spec->state.count;
        status = check_part_buffer(c, index, part->state[i], ZERO_ROLE_STATE, i, kept);
        if (status == ZERO_OK)
            status = check_part_buffer(c, index, part->staged[1 + i], ZERO_ROLE_STAGED_STATE, i, kept && staged);
    }
    if (status == ZERO_OK)
        status = check_part_buffer(c, index, part->grad, ZERO_ROLE_UPDATE_GRAD, 0, false);
    return status == ZERO_OK ? check_part_buffer(c, index, part->param, ZERO_ROLE_UPDATE_PARAM, 0, false) : status;
}

/* The parts of a segment cover what a rank updates of it, one after the other, and have the buffers of their state. */
static zero_status_t check_parts(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    int32_t next = 0;
    zero_status_t status;
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const zero_segment_t *s = &plan->segments[i];
        int64_t end = 0, updated = plan->spec->optimizer.sharding == ZERO_FULL ? s->elements : s->slice;
        if (s->trainable && s->first_part != next)
            return zero_check_fail(c, "the parts of segment %d are out of order", i);
        for (int32_t p = next; s->trainable && p < next + s->part_count && p < plan->part_count; p++) {
            const zero_part_t *part = &plan->parts[p];
            if (part->segment != i || part->begin != end || part->end <= part->begin ||
                part->begin % ZERO_NORM_BLOCK != 0 || (part->own && updated != s->slice) ||
                (!part->own && updated != s->elements))
                return zero_check_fail(c, "part %d of segment %d begins at %lld, where %lld is next", p - next, i,
                                       (long long)part->begin, (long long)end);
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

/* What parts, pieces and buffers have of their segment is there. */
static zero_status_t check_bounds(const zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t p = plan->part_count; p < plan->part_count + plan->piece_count; p++) {
        const zero_part_t *piece = &plan->parts[p];
        bool known = piece->segment >= 0 && piece->segment < plan->segment_count;
        const zero_segment_t *s = known ? &plan->segments[piece->segment] : NULL;
        if (!known || piece->begin < 0 || piece->end <= piece->begin ||
            piece->end > (piece->own ? s->slice : s->elements))
            return zero_check_fail(c, "piece %d is of elements that its segment has not", p - plan->part_count);
    }
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        const zero_segment_t *s =
            x->segment >= 0 && x->segment < plan->segment_count ? &plan->segments[x->segment] : NULL;
        if (s != NULL &&
            (x->begin < 0 || x->elements < 0 || x->elements > (x->own ? s->slice : s->elements) - x->begin))
            return zero_check_fail(c, "buffer %d has elements that its segment has not", i);
        if (x->part < -1 || x->part >= plan->part_count + plan->piece_count)
            return zero_check_fail(c, "buffer %d is of part %d, out of range", i, x->part);
        const zero_part_t *part = x->part >= 0 ? &plan->parts[x->part] : NULL;
        if (part != NULL && (part->segment != x->segment || x->own != part->own || x->begin != part->begin ||
                             x->elements != part->end - part->begin))
            return zero_check_fail(c, "buffer %d is of part %d, but of another segment or of other elements", i,
                                   x->part);
    }
    return ZERO_OK;
}

static bool is_collective(const zero_op_t *op)
{
    return op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_REDUCE_SCATTER;
}

static zero_status_t check_op_ranges(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    if (op->kind >= ZERO_OP_COUNT || op->stream >= ZERO_STREAM_COUNT || op->unit < -1 ||
        op->unit >= plan->spec->unit_count || op->segment < -1 || op->segment >= plan->segment_count || op->part < -1 ||
        op->part >= plan->part_count + plan->piece_count ||
        (op->kind == ZERO_OP_UPDATE && op->part >= plan->part_count) || op->src < -1 || op->src >= plan->buffer_count ||
        op->dst < -1 || op->dst >= plan->buffer_count)
        return zero_check_fail(c, "a number of it is out of range");
    if (op->program != (int32_t)(c->program - plan->programs))
        return zero_check_fail(c, "it says that it is in program %d", op->program);
    if (op->group != 0 && (!is_collective(op) || op->group >= plan->spec->group_count))
        return zero_check_fail(c, "it is of group %d: there are %d, and only collectives are of others than the first",
                               op->group, plan->spec->group_count);
    return ZERO_OK;
}

/* A collective has all slices of its segment, and a communicator. */
static zero_status_t check_collective(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_segment_t *s = &c->plan->segments[op->segment];
    int ranks = c->plan->spec->groups[op->group].size;
    if (s->slice * ranks != s->elements)
        return zero_check_fail(c, "its group of %d ranks does not have all slices of the segment", ranks);
    return op->stream == ZERO_STREAM_GATHER || op->stream == ZERO_STREAM_REDUCE
               ? ZERO_OK
               : zero_check_fail(c, "it communicates on a stream without a communicator");
}

/* Operands are of the operation's segment and part, in memory that its stream works on; it counts their elements. */
static zero_status_t check_operands(const zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    const int32_t buffers[] = {op->src, op->dst};
    const bool wanted[] = {op->kind != ZERO_OP_FILL, op->kind != ZERO_OP_NORM}, own[] = {op->src_own, op->dst_own};
    const zero_part_t *part = op->part >= 0 ? &plan->parts[op->part] : NULL;
    zero_tier_t memory = op->stream == ZERO_STREAM_HOST ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
    bool computes = is_collective(op) || op->kind == ZERO_OP_CAST || op->kind == ZERO_OP_FILL ||
                    op->kind == ZERO_OP_ACCUMULATE || op->kind == ZERO_OP_NORM;
    int64_t count = 0;
    if (part != NULL ? part->segment != op->segment : op->kind == ZERO_OP_UPDATE)
        return zero_check_fail(c, "it is of no part of its segment");
    for (int i = 0; i < 2; i++) {
        if (!wanted[i])
            continue;
        const zero_buffer_t *x = buffers[i] >= 0 ? &plan->buffers[buffers[i]] : NULL;
        if (op->segment < 0 || x == NULL || x->segment != op->segment || (x->part >= 0 && x->part != op->part))
            return zero_check_fail(c, "an operand is missing or of another segment or part");
        if (own[i] && part != NULL && !part->own && zero_plan_is_shared(&plan->segments[op->segment]))
            return zero_check_fail(c, "it takes the own slice of a part that is counted from the segment");
        if (computes && x->tier != memory)
            return zero_check_fail(c, "it works on the %s tier from the other memory's stream",
                                   zero_tier_name(x->tier));
        count = zero_check_span(c, buffers[i], own[i], op->part).count;
    }
    if (op->kind == ZERO_OP_GATHER)
        count = plan->segments[op->segment].slice;
    return op->count == count ? ZERO_OK
                              : zero_check_fail(c, "it counts %lld elements; its operand has %lld",
                                                (long long)op->count, (long long)count);
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
                                                : zero_check_fail(c, "it exchanges on another stream than reductions");
    default:
        break;
    }
    if ((status = check_operands(c, op)) != ZERO_OK ||
        (is_collective(op) && (status = check_collective(c, op)) != ZERO_OK))
        return status;
    bool moves = op->kind == ZERO_OP_COPY || op->kind == ZERO_OP_READ || op->kind == ZERO_OP_WRITE;
    int64_t count = 0;
    if (is_collective(op)) /* of the others, all slices but the own one */
        count = plan->segments[op->segment].elements - op->count;
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

/* Buffers lie in their kind's range, aligned, and overlap only in one slot. */
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
            (zero_format_is_coded(&x->format) && x->part < 0))
            status =
                zero_check_fail(c, "buffer %d lies outside of its kind's range, unaligned, or has a wrong size", i);
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

static zero_status_t check_numbers(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    zero_status_t status;

    const int32_t others[] = {plan->norms, plan->exchange, plan->scalars, plan->scratch, plan->host_scratch};
    for (int i = 0; i < 5; i++)
        if (others[i] < (i == 4 ? -1 : 0) || others[i] >= plan->buffer_count ||
            (others[i] >= 0 && plan->buffers[others[i]].segment >= 0))
            return zero_check_fail(c, "it lacks a staging buffer");
    if (plan->buffers[plan->norms].bytes < (uint64_t)plan->segment_count * sizeof(double) ||
        plan->buffers[plan->scalars].bytes < ZERO_SCALARS_BYTES ||
        plan->buffers[plan->exchange].bytes / sizeof(double) / ((uint64_t)plan->segment_count + ZERO_EXCHANGE_WORDS) <
            (uint64_t)plan->spec->world)
        return zero_check_fail(c, "a staging buffer is too small");
    if (plan->spec->groups[0].size != plan->spec->world)
        return zero_check_fail(c, "the ranks of the first group, which exchange norms, are not the world");
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

/* ---- the walk --------------------------------------------------------------------------------------------------- */

static zero_status_t end_of_step(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        const zero_segment_t *segment = &plan->segments[s];
        if (!segment->trainable)
            continue;
        for (int32_t p = segment->first_part; p < segment->first_part + segment->part_count; p++)
            if (c->updated[p] != c->step + 1)
                return zero_check_fail(c, "unit '%s' was not updated", plan->spec->units[segment->unit].name);
        zero_operand_t param = zero_check_operand(
            c, segment->buffer[segment->buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM],
            false, -1);
        for (int32_t i = param.cells.begin; i < param.cells.end; i++)
            if (c->cells[i].content.kind != ZERO_HOLDS_PARAM || c->cells[i].content.version != c->version[s])
                return zero_check_fail(c, "the new parameters of unit '%s' were not published",
                                       plan->spec->units[segment->unit].name);
    }
    c->step++;
    c->micro = 0;
    return ZERO_OK;
}

static zero_status_t run_program(zero_checker_t *c, const zero_program_t *program)
{
    zero_status_t status;

    c->program = program;
    c->run++;
    memset(c->recorded, 0, (size_t)c->plan->event_count * sizeof *c->recorded);
    c->next_use = c->opened = 0;
    memset(c->grad_done, 0, (size_t)c->plan->spec->unit_count * sizeof *c->grad_done);
    for (c->op = 0; c->op < program->op_count; c->op++)
        if ((status = zero_check_op(c, &program->ops[c->op])) != ZERO_OK)
            return status;
    int32_t uses = program->kind == ZERO_PROGRAM_STEP  ? 0
                   : program->kind == ZERO_PROGRAM_ANY ? 1
                                                       : c->plan->spec->passes[program->pass].use_count;
    if (c->opened > 0 || c->next_use != uses)
        return zero_check_fail(c, "%d of %d uses have begun, %d have not ended", c->next_use, uses, c->opened);
    if (program->kind == ZERO_PROGRAM_STEP)
        return end_of_step(c);
    if (program->kind != ZERO_PROGRAM_EVAL && program->kind != ZERO_PROGRAM_ANY)
        c->micro++;
    return ZERO_OK;
}

/* Runs a program twice, next to itself. */
static zero_status_t run_twice(zero_checker_t *c, const zero_program_t *program)
{
    zero_status_t status = run_program(c, program);
    return status == ZERO_OK ? run_program(c, program) : status;
}

/* Every program of one kind right after what ran last, each as if it were the only one. */
static zero_status_t try_each(zero_checker_t *c, zero_program_kind_t kind)
{
    zero_clock_t clocks[ZERO_CHECK_PARTIES];
    zero_status_t status = ZERO_OK;

    memcpy(clocks, c->clock, sizeof clocks);
    memcpy(c->events_before, c->events, (size_t)c->plan->event_count * sizeof *c->events);
    for (int32_t i = 0; i < c->plan->program_count && status == ZERO_OK; i++) {
        if (c->plan->programs[i].kind != kind)
            continue;
        zero_check_trial_begin(c);
        status = run_twice(c, &c->plan->programs[i]);
        zero_check_trial_undo(c);
        memcpy(c->clock, clocks, sizeof clocks);
        const zero_program_t *p = &c->plan->programs[i];
        for (int32_t o = 0; o < p->op_count; o++)
            if (p->ops[o].kind == ZERO_OP_RECORD)
                c->events[p->ops[o].event] = c->events_before[p->ops[o].event];
    }
    return status;
}

/* Every program of one kind, one after the other. */
static zero_status_t run_kind(zero_checker_t *c, zero_program_kind_t kind)
{
    zero_status_t status = ZERO_OK;
    for (int32_t i = 0; i < c->plan->program_count && status == ZERO_OK; i++)
        if (c->plan->programs[i].kind == kind)
            status = run_program(c, &c->plan->programs[i]);
    return status;
}

/* Every evaluation and every unit on demand. */
static zero_status_t try_others(zero_checker_t *c)
{
    zero_status_t status = try_each(c, ZERO_PROGRAM_EVAL);
    return status == ZERO_OK ? try_each(c, ZERO_PROGRAM_ANY) : status;
}

/* What else runs beside a step: nothing; nothing, but every other program is tried after each of the step's; one
 * program before each of them; all units on demand before each. */
typedef enum beside { NOTHING, TRIALS, ONE_BEFORE, ALL_UNITS_BEFORE } beside_t;

/* A step of each length. */
static zero_status_t walk_steps(zero_checker_t *c, beside_t beside, const zero_program_t *other)
{
    static const zero_program_kind_t several[] = {
        ZERO_PROGRAM_FIRST, ZERO_PROGRAM_MIDDLE, ZERO_PROGRAM_MIDDLE, ZERO_PROGRAM_LAST, ZERO_PROGRAM_STEP,
        ZERO_PROGRAM_FIRST, ZERO_PROGRAM_LAST,   ZERO_PROGRAM_STEP,   ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP};
    static const zero_program_kind_t one[] = {ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP};
    bool micro_steps = c->plan->spec->micro_steps > 1;
    const zero_program_kind_t *order = micro_steps ? several : one;
    size_t count = micro_steps ? sizeof several / sizeof *several : sizeof one / sizeof *one;
    zero_status_t status = ZERO_OK;

    for (size_t i = 0; i < count && status == ZERO_OK; i++) {
        if (beside == ONE_BEFORE)
            status = run_program(c, other);
        else if (beside == ALL_UNITS_BEFORE)
            status = run_kind(c, ZERO_PROGRAM_ANY);
        if (status == ZERO_OK)
            status = run_kind(c, order[i]);
        if (status == ZERO_OK && beside == TRIALS)
            status = try_others(c);
    }
    return status;
}

static bool has_steps(const zero_plan_t *plan)
{
    for (int32_t i = 0; i < plan->program_count; i++)
        if (plan->programs[i].kind == ZERO_PROGRAM_STEP)
            return true;
    return false;
}

/* Lists what may run between the programs of steps: every evaluation, and of the units on demand that share a slot the
 * first, since they do alike to what comes after. others has room for all programs; seen for all buffers, which no
 * slot's number exceeds. */
static int32_t list_others(const zero_checker_t *c, const zero_program_t **others, bool *seen)
{
    const zero_plan_t *plan = c->plan;
    int32_t n = 0;
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        if (p->kind == ZERO_PROGRAM_EVAL)
            others[n++] = p;
        if (p->kind != ZERO_PROGRAM_ANY)
            continue;
        int32_t slot = -1;
        for (int32_t s = c->unit_segment[p->unit]; s < c->unit_segment[p->unit + 1]; s++)
            slot = plan->buffers[plan->segments[s].buffer[ZERO_ROLE_PARAM]].slot;
        if (slot < 0 || slot >= plan->buffer_count || seen[slot])
            continue;
        seen[slot] = true;
        others[n++] = p;
    }
    return n;
}

/* Steps by themselves; and, only as rank 0, each other program after each other, and steps with one of them before each
 * program: what differs between ranks is where their slices lie, and not which programs touch them. */
static zero_status_t walk(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    const zero_program_t **others = calloc((size_t)plan->program_count + 1, sizeof *others);
    bool *seen = calloc((size_t)plan->buffer_count + 1, sizeof *seen);
    bool first_rank = c->index == 0;
    zero_status_t status = ZERO_OK;

    if (others == NULL || seen == NULL) {
        status = zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %d programs", plan->program_count);
        goto out;
    }
    int32_t count = first_rank ? list_others(c, others, seen) : 0;
    if ((status = try_others(c)) != ZERO_OK)
        goto out;
    for (int32_t i = 0; i < count; i++)
        if ((status = run_program(c, others[i])) != ZERO_OK || (status = try_others(c)) != ZERO_OK)
            goto out;
    if (!has_steps(plan))
        goto out;
    if ((status = walk_steps(c, NOTHING, NULL)) != ZERO_OK ||
        (status = walk_steps(c, first_rank ? TRIALS : NOTHING, NULL)) != ZERO_OK)
        goto out;
    for (int32_t i = 0; i < count && status == ZERO_OK; i++)
        status = walk_steps(c, ONE_BEFORE, others[i]);
    if (status == ZERO_OK && first_rank)
        status = walk_steps(c, ALL_UNITS_BEFORE, NULL);
out:
    free(others);
    free(seen);
    return status;
}

/* Every program that the walk relies on is there, once. */
static zero_status_t check_programs(const zero_checker_t *c)
{
    const zero_spec_t *spec = c->plan->spec;
    int32_t found[ZERO_PROGRAM_STEP + 1] = {0}, wanted[ZERO_PROGRAM_STEP + 1] = {0};
    for (int32_t i = 0; i < c->plan->program_count; i++) {
        const zero_program_t *p = &c->plan->programs[i];
        bool in_range = (unsigned)p->kind <= ZERO_PROGRAM_STEP &&
                        (p->kind == ZERO_PROGRAM_STEP ? p->pass == -1 : p->pass >= 0 && p->pass < spec->pass_count) &&
                        (p->kind == ZERO_PROGRAM_ANY ? p->unit >= 0 && p->unit < spec->unit_count : p->unit == -1);
        if (!in_range)
            return zero_check_fail(c, "program %d is of no pass or unit", i);
        found[p->kind]++;
    }
    for (int32_t i = 0; i < spec->pass_count; i++) {
        if (spec->passes[i].kind == ZERO_PASS_EVAL)
            wanted[ZERO_PROGRAM_EVAL]++;
        else if (spec->passes[i].kind == ZERO_PASS_ANY_ORDER)
            wanted[ZERO_PROGRAM_ANY] += spec->unit_count;
        else
            wanted[ZERO_PROGRAM_ONLY] = wanted[ZERO_PROGRAM_STEP] = 1;
    }
    if (spec->micro_steps > 1)
        wanted[ZERO_PROGRAM_FIRST] = wanted[ZERO_PROGRAM_MIDDLE] = wanted[ZERO_PROGRAM_LAST] =
            wanted[ZERO_PROGRAM_ONLY];
    for (int k = 0; k <= ZERO_PROGRAM_STEP; k++)
        if (found[k] != wanted[k])
            return zero_check_fail(c, "there are %d programs of kind %s instead of %d", found[k],
                                   zero_program_name((zero_program_kind_t)k), wanted[k]);
    return ZERO_OK;
}

/* ---- the checker ------------------------------------------------------------------------------------------------ */

static zero_status_t prepare(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    size_t units = (size_t)plan->spec->unit_count, segments = (size_t)plan->segment_count;

    if (plan->event_count < 0 || plan->lasting_event_count < 0 || plan->lasting_event_count > plan->event_count)
        return zero_check_fail(c, "it has %d events, %d of them lasting", plan->event_count, plan->lasting_event_count);
    c->events = calloc((size_t)plan->event_count + 1, sizeof *c->events);
    c->events_before = calloc((size_t)plan->event_count + 1, sizeof *c->events_before);
    c->recorded = calloc((size_t)plan->event_count + 1, sizeof *c->recorded);
    c->version = calloc(segments + 1, sizeof *c->version);
    c->updates = calloc((size_t)c->plan->part_count + 1, sizeof *c->updates);
    c->updated = calloc((size_t)c->plan->part_count + 1, sizeof *c->updated);
    c->unit_segment = calloc(units + 2, sizeof *c->unit_segment);
    c->grad_total = calloc(units + 1, sizeof *c->grad_total);
    c->grad_done = calloc(units + 1, sizeof *c->grad_done);
    c->open = calloc(units + 1, sizeof *c->open);
    if (c->events == NULL || c->events_before == NULL || c->recorded == NULL || c->version == NULL ||
        c->updates == NULL || c->updated == NULL || c->unit_segment == NULL || c->grad_total == NULL ||
        c->grad_done == NULL || c->open == NULL)
        return zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %zu units", units);
    for (int32_t p = 0; p < plan->spec->pass_count; p++)
        for (int32_t i = 0; i < plan->spec->passes[p].use_count && plan->spec->passes[p].kind == ZERO_PASS_TRAIN; i++)
            c->grad_total[plan->spec->passes[p].uses[i].unit] += (plan->spec->passes[p].uses[i].flags & ZERO_GRAD) != 0;
    zero_status_t status = check_programs(c);
    if (status != ZERO_OK || (status = check_numbers(c)) != ZERO_OK)
        return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        c->unit_segment[plan->segments[s].unit + 1]++;
    for (size_t u = 0; u < units; u++)
        c->unit_segment[u + 1] += c->unit_segment[u];
    return zero_check_cells_create(c);
}

static zero_status_t check_rank(const zero_plan_t *plan, int index, zero_error_t *error)
{
    zero_checker_t c = {.plan = plan, .error = error, .index = index};
    zero_status_t status = prepare(&c);

    if (status == ZERO_OK)
        status = walk(&c);
    zero_check_cells_destroy(&c);
    free(c.events);
    free(c.events_before);
    free(c.recorded);
    free(c.version);
    free(c.updates);
    free(c.updated);
    free(c.unit_segment);
    free(c.grad_total);
    free(c.grad_done);
    free(c.open);
    return status;
}

/* Ranks differ only in the index of their slice. An operand is a whole segment, or a part that is counted from the
 * segment: the same on every rank; or it lies in the own slice, at a place that does not depend on the index. So for
 * each slicing the first and the last index are enough: a rank between has nothing that these two have not. All
 * segments have one slicing, over the world. */
zero_status_t zero_plan_check(const zero_plan_t *plan, zero_error_t *error)
{
    zero_status_t status = check_rank(plan, 0, error);
    return status == ZERO_OK && plan->spec->world > 1 ? check_rank(plan, plan->spec->world - 1, error) : status;
}
