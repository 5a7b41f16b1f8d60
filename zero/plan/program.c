/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - the operations of each program, in the order in which they are issued, as if there were one stream.
 * sync.c makes that order hold where it matters. */
#include "zero/plan/build.h"

#include <stdlib.h>

/* A program while it grows. The first failure sticks, so that callers append without asking. */
typedef struct writer {
    zero_builder_t *b;
    zero_program_t *program;
    int32_t capacity;
    zero_status_t status;
} writer_t;

static void append(writer_t *w, zero_op_t op)
{
    zero_program_t *p = w->program;
    if (w->status != ZERO_OK)
        return;
    if (p->op_count == w->capacity) {
        int32_t capacity = w->capacity > 0 ? 2 * w->capacity : 64;
        zero_op_t *grown = realloc(p->ops, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            w->status = zero_fail(w->b->error, ZERO_ERR_MEMORY, "no memory for a plan: %d operations", capacity);
            return;
        }
        p->ops = grown;
        w->capacity = capacity;
    }
    op.program = (int32_t)(p - w->b->plan->programs);
    p->ops[p->op_count++] = op;
}

/* An operation on one segment's buffers. Slices of full buffers are this rank's own. */
typedef enum extent { WHOLE, SLICE } extent_t;

static void append_segment(writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment, int32_t use,
                           int32_t src, extent_t src_extent, int32_t dst, extent_t dst_extent)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *s = &b->plan->segments[segment];
    bool collective = kind == ZERO_OP_GATHER || kind == ZERO_OP_REDUCE_SCATTER;
    bool slice = collective || (dst >= 0 ? dst_extent : src_extent) == SLICE;
    zero_op_t op = {
        .kind = (uint8_t)kind,
        .stream = (uint8_t)stream,
        .unit = s->unit,
        .segment = segment,
        .part = -1,
        .use = use,
        .event = -1,
        .src = src,
        .dst = dst,
        .src_own = src >= 0 && src_extent == SLICE && zero_build_is_full(b, src),
        .dst_own = dst >= 0 && dst_extent == SLICE && zero_build_is_full(b, dst),
        .count = slice ? s->slice : s->elements,
    };
    if (collective)
        op.bytes = zero_format_bytes(&b->plan->buffers[src].format, s->elements - s->slice);
    else if ((kind == ZERO_OP_COPY || kind == ZERO_OP_READ) && b->plan->buffers[src].tier != b->plan->buffers[dst].tier)
        op.bytes = zero_format_bytes(&b->plan->buffers[src].format, op.count);
    append(w, op);
}

/* An operation on a part: of the segment's buffers it takes that part of what the rank updates. */
static void append_part(writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t part, int32_t use,
                        int32_t src, int32_t dst)
{
    const zero_builder_t *b = w->b;
    const zero_part_t *p = &b->plan->parts[part];
    const zero_buffer_t *from = &b->plan->buffers[src], *to = &b->plan->buffers[dst];
    int64_t count = p->end - p->begin;
    bool moves = (kind == ZERO_OP_COPY || kind == ZERO_OP_READ || kind == ZERO_OP_WRITE) && from->tier != to->tier;
    append(w, (zero_op_t){.kind = (uint8_t)kind,
                          .stream = (uint8_t)stream,
                          .unit = b->plan->segments[p->segment].unit,
                          .segment = p->segment,
                          .part = part,
                          .use = use,
                          .event = -1,
                          .src = src,
                          .dst = dst,
                          .src_own = p->own && from->part < 0 && zero_build_is_full(b, src),
                          .dst_own = p->own && to->part < 0 && zero_build_is_full(b, dst),
                          .count = count,
                          .bytes = moves ? zero_format_bytes(&from->format, count) : 0});
}

/* The squares of src, of the own slice where it is a whole segment's; behind those of the slice's elements before,
 * where it begins later. */
static void append_norm(writer_t *w, zero_stream_id_t stream, int32_t segment, int32_t use, int32_t src)
{
    const zero_segment_t *s = &w->b->plan->segments[segment];
    const zero_buffer_t *x = &w->b->plan->buffers[src];
    bool full = zero_build_is_full(w->b, src);
    append(w, (zero_op_t){.kind = ZERO_OP_NORM,
                          .stream = (uint8_t)stream,
                          .unit = s->unit,
                          .segment = segment,
                          .part = x->part,
                          .use = use,
                          .event = -1,
                          .src = src,
                          .dst = -1,
                          .src_own = full,
                          .flags = x->begin > 0 ? ZERO_NORM_GOES_ON : 0,
                          .count = full ? s->slice : x->elements});
}

static void append_plain(writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t unit, int32_t use,
                         uint32_t flags)
{
    append(w, (zero_op_t){.kind = (uint8_t)kind,
                          .stream = (uint8_t)stream,
                          .unit = unit,
                          .segment = -1,
                          .part = -1,
                          .use = use,
                          .event = -1,
                          .src = -1,
                          .dst = -1,
                          .flags = (uint8_t)(flags & (ZERO_READ | ZERO_GRAD))});
}

#define FOR_PARTS(b, s, p)                              \
    for (int32_t p = (b)->plan->segments[s].first_part; \
         p < (b)->plan->segments[s].first_part + (b)->plan->segments[s].part_count; p++)

#define FOR_SEGMENTS(b, u, s) \
    for (int32_t s = (b)->units[u].first_segment; s < (b)->units[u].first_segment + (b)->units[u].segment_count; s++)

static void gather_unit(writer_t *w, int32_t unit, int32_t use)
{
    const zero_builder_t *b = w->b;
    FOR_SEGMENTS(b, unit, s)
    {
        int32_t param = b->plan->segments[s].buffer[ZERO_ROLE_PARAM],
                from = b->plan->segments[s].buffer[ZERO_ROLE_PARAM_SHARD];
        if (b->plan->segments[s].buffer[ZERO_ROLE_STAGED_PARAM] >= 0) {
            int32_t staged = b->plan->segments[s].buffer[ZERO_ROLE_STAGED_PARAM];
            append_segment(w, ZERO_OP_READ, ZERO_STREAM_IO, s, use, from, b->shard_parameters ? SLICE : WHOLE, staged,
                           b->shard_parameters ? SLICE : WHOLE);
            from = staged;
        }
        if (b->offload_parameters) {
            extent_t extent = b->shard_parameters ? SLICE : WHOLE;
            append_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, from, extent, param, extent);
            from = param;
        }
        if (b->shard_parameters)
            append_segment(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, from, SLICE, param, WHOLE);
    }
}

/* Where a micro-step stands in its step. */
typedef struct micro {
    bool first, last;
} micro_t;

/* Gradients are zero at the unit's first GRAD use, or hold the local sum so far. */
static void open_gradients(writer_t *w, int32_t unit, int32_t use, micro_t micro)
{
    FOR_SEGMENTS(w->b, unit, s)
    {
        const zero_segment_t *segment = &w->b->plan->segments[s];
        int32_t grad = segment->buffer[ZERO_ROLE_GRAD], sum = segment->buffer[ZERO_ROLE_SUM];
        bool sums = w->b->sum_locally && segment->dtype == ZERO_FP32; /* what is written is added to the sum so far */
        if (grad >= 0 && (micro.first || !sums))
            append_segment(w, ZERO_OP_FILL, ZERO_STREAM_COMPUTE, s, use, -1, WHOLE, grad, WHOLE);
        else if (grad >= 0 && sum >= 0)
            append_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, sum, WHOLE, grad, WHOLE);
    }
}

/* To the memory of updates elsewhere, as soon as they are whole. */
static void send_gradients(writer_t *w, int32_t s, int32_t use)
{
    FOR_PARTS(w->b, s, p)
    {
        int32_t to = w->b->plan->parts[p].grad;
        if (to >= 0)
            append_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, w->b->plan->segments[s].buffer[ZERO_ROLE_FINAL], to);
    }
}

/* FINAL is complete on this rank's slice: its part of the norm, and where updates are full, everybody's slices. */
static void finish_segment(writer_t *w, int32_t s, int32_t use)
{
    int32_t final = w->b->plan->segments[s].buffer[ZERO_ROLE_FINAL];
    append_norm(w, ZERO_STREAM_REDUCE, s, use, final);
    if (w->b->gather_gradients)
        append_segment(w, ZERO_OP_GATHER, ZERO_STREAM_REDUCE, s, use, final, SLICE, final, WHOLE);
    send_gradients(w, s, use);
}

/* ---- gradients that are away ------------------------------------------------------------------------------------ */

/* Of src, on the device, to dst, in host memory: into what is there (begins: in place of it), piece by piece. */
static void take_away(writer_t *w, int32_t use, zero_pieces_t pieces, int32_t src, int32_t dst, bool begins)
{
    const zero_plan_t *plan = w->b->plan;
    bool as_it_is = begins && plan->buffers[src].format.dtype == plan->buffers[dst].format.dtype;
    for (int32_t p = pieces.first; p < pieces.first + pieces.count; p++) {
        int32_t staged = plan->parts[p].staged_grad;
        append_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, src, as_it_is ? dst : staged);
        if (!as_it_is)
            append_part(w, begins ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_HOST, p, use, staged, dst);
    }
}

/* The local sum in the wire's dtype: to dst, on the device; or rounded where it is. */
static void bring_sum(writer_t *w, int32_t s, int32_t use, int32_t dst)
{
    const zero_plan_t *plan = w->b->plan;
    zero_pieces_t pieces = w->b->segments[s].sum;
    int32_t sum = plan->segments[s].buffer[ZERO_ROLE_SUM];
    if (pieces.count == 0 && dst != sum)
        append_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, sum, WHOLE, dst, WHOLE);
    for (int32_t p = pieces.first; p < pieces.first + pieces.count; p++) {
        int32_t staged = plan->parts[p].staged_grad;
        append_part(w, ZERO_OP_CAST, ZERO_STREAM_HOST, p, use, sum, staged);
        append_part(w, dst == sum ? ZERO_OP_CAST : ZERO_OP_COPY, dst == sum ? ZERO_STREAM_HOST : ZERO_STREAM_COPY, p,
                    use, staged, dst);
    }
}

/* Reduced gradients, on the device or in FINAL, to where each part's update reads them. */
static void deliver(writer_t *w, int32_t s, int32_t use, int32_t from)
{
    const zero_plan_t *plan = w->b->plan;
    int32_t final = plan->segments[s].buffer[ZERO_ROLE_FINAL];
    bool same = plan->buffers[from].format.dtype == plan->segments[s].final;
    FOR_PARTS(w->b, s, p)
    {
        int32_t stays = plan->parts[p].grad;
        if (stays >= 0 && from == final)
            append_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, from, stays);
        else if (stays >= 0)
            append_part(w, same ? ZERO_OP_COPY : ZERO_OP_CAST, ZERO_STREAM_REDUCE, p, use, from, stays);
        else if (same && from != final)
            append_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, from, final);
    }
    if (!same)
        take_away(w, use, w->b->segments[s].reduced, from, final, true);
}

/* The own slice of `from`, on the device, is reduced: its part of the norm, everybody's slices where updates are full,
 * and away. */
static void finish_away(writer_t *w, int32_t s, int32_t use, int32_t from)
{
    append_norm(w, ZERO_STREAM_REDUCE, s, use, from);
    if (w->b->gather_gradients)
        append_segment(w, ZERO_OP_GATHER, ZERO_STREAM_REDUCE, s, use, from, SLICE, from, WHOLE);
    deliver(w, s, use, from);
}

/* A micro-step's reduced gradients are added up where the update reads them. */
static void accumulate_away(writer_t *w, int32_t s, int32_t use, micro_t micro, int32_t from)
{
    const zero_builder_t *b = w->b;
    const int32_t *buffer = b->plan->segments[s].buffer;
    int32_t whole = buffer[ZERO_ROLE_WHOLE], final = buffer[ZERO_ROLE_FINAL];

    FOR_PARTS(b, s, p)
    {
        int32_t stays = b->plan->parts[p].grad;
        if (stays >= 0 && whole < 0)
            append_part(w, micro.first ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, p, use, from, stays);
        if (stays >= 0 && whole < 0 && micro.last)
            append_norm(w, ZERO_STREAM_REDUCE, s, use, stays);
    }
    take_away(w, use, b->segments[s].written, from, final, micro.first);
    if (micro.last && whole >= 0) {
        append_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, final, SLICE, whole, SLICE);
        finish_away(w, s, use, whole);
    } else if (micro.last) {
        append_norm(w, ZERO_STREAM_HOST, s, use, final);
    }
}

/* reduce_segment() where gradients are summed up and updated on another tier. */
static void reduce_away(writer_t *w, int32_t s, int32_t use, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *segment = &b->plan->segments[s];
    const int32_t *buffer = segment->buffer;
    int32_t source = buffer[ZERO_ROLE_GRAD], sum = buffer[ZERO_ROLE_SUM];
    bool there = zero_build_sums_there(b, segment);

    if (there)
        take_away(w, use, b->segments[s].written, source, sum, micro.first);
    else if (b->sum_locally && !micro.last)
        append_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, source, WHOLE, sum, WHOLE);
    if (b->sum_locally && !micro.last)
        return;
    if (there && !zero_plan_is_shared(segment)) {
        bring_sum(w, s, use, sum);
        append_norm(w, ZERO_STREAM_HOST, s, use, sum);
        deliver(w, s, use, sum);
        return;
    }
    source = buffer[ZERO_ROLE_WIRE_SHARD];
    if (there)
        bring_sum(w, s, use, source);
    else if (buffer[ZERO_ROLE_WIRE] >= 0)
        append_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, buffer[ZERO_ROLE_GRAD], WHOLE, source, WHOLE);
    if (zero_plan_is_shared(segment))
        append_segment(w, ZERO_OP_REDUCE_SCATTER, ZERO_STREAM_REDUCE, s, use, source, WHOLE, source, SLICE);
    if (b->spec->micro_steps > 1 && !b->sum_locally)
        accumulate_away(w, s, use, micro, source);
    else
        finish_away(w, s, use, source);
}

/* ---- reductions ------------------------------------------------------------------------------------------------- */

/* After the last GRAD use of a micro-step: what was written goes into FINAL, by way of SUM, WIRE and the wire where
 * there are such. */
static void reduce_segment(writer_t *w, int32_t s, int32_t use, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *segment = &b->plan->segments[s];
    const int32_t *buffer = segment->buffer;
    int32_t source = buffer[ZERO_ROLE_GRAD], final = buffer[ZERO_ROLE_FINAL];

    if (buffer[ZERO_ROLE_SUM] >= 0) {
        append_segment(w, micro.first ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, s, use, source, WHOLE,
                       buffer[ZERO_ROLE_SUM], WHOLE);
        source = buffer[ZERO_ROLE_SUM];
    }
    if (b->sum_locally && !micro.last)
        return;
    if (buffer[ZERO_ROLE_WIRE] >= 0) {
        append_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, source, WHOLE, buffer[ZERO_ROLE_WIRE], WHOLE);
        source = buffer[ZERO_ROLE_WIRE];
    }
    bool begins = b->sum_locally || micro.first; /* nothing is in FINAL yet */
    if (begins && segment->final == segment->wire) {
        if (zero_plan_is_shared(segment))
            append_segment(w, ZERO_OP_REDUCE_SCATTER, ZERO_STREAM_REDUCE, s, use, source, WHOLE, final, SLICE);
        else if (source != final)
            append_segment(w, ZERO_OP_COPY, ZERO_STREAM_REDUCE, s, use, source, SLICE, final, SLICE);
    } else {
        if (zero_plan_is_shared(segment))
            append_segment(w, ZERO_OP_REDUCE_SCATTER, ZERO_STREAM_REDUCE, s, use, source, WHOLE, source, SLICE);
        append_segment(w, begins ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, s, use, source, SLICE, final,
                       SLICE);
    }
    if (micro.last)
        finish_segment(w, s, use);
}

static void reduce_unit(writer_t *w, int32_t unit, int32_t use, micro_t micro)
{
    FOR_SEGMENTS(w->b, unit, s)
    {
        if (w->b->segments[s].away)
            reduce_away(w, s, use, micro);
        else if (w->b->plan->segments[s].trainable)
            reduce_segment(w, s, use, micro);
    }
}

/* A pass with declared uses: a micro-step of training, or an evaluation (no use of it has ZERO_GRAD). */
static void write_pass(writer_t *w, int32_t index, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_spec_pass_t *pass = &b->spec->passes[index];
    const zero_pass_plan_t *plan = &b->passes[index];
    int32_t chain = 0;

    for (int32_t i = 0; i < pass->use_count; i++) {
        const zero_spec_use_t *use = &pass->uses[i];
        for (int32_t e = plan->enter_begin[i]; e < plan->enter_begin[i + 1]; e++)
            gather_unit(w, plan->enter[e], plan->enter_use[e]);
        /* Reductions of what the position before released: after the gathers, which the next use waits for. */
        for (int32_t j = chain; j < i && plan->release_at[j] < i; j++)
            if ((pass->uses[j].flags & ZERO_GRAD) && b->units[pass->uses[j].unit].last_grad == j)
                reduce_unit(w, pass->uses[j].unit, j, micro);
        if (plan->release_at[chain] < i)
            chain = i;
        if ((use->flags & ZERO_GRAD) && b->units[use->unit].first_grad == i)
            open_gradients(w, use->unit, i, micro);
        append_plain(w, ZERO_OP_USE, ZERO_STREAM_COMPUTE, use->unit, i, use->flags);
        for (int32_t j = i; j >= chain && plan->release_at[i] == i; j--)
            append_plain(w, ZERO_OP_RELEASE, ZERO_STREAM_COMPUTE, pass->uses[j].unit, j, pass->uses[j].flags);
    }
    for (int32_t j = chain; j < pass->use_count; j++)
        if ((pass->uses[j].flags & ZERO_GRAD) && b->units[pass->uses[j].unit].last_grad == j)
            reduce_unit(w, pass->uses[j].unit, j, micro);
}

static void write_any(writer_t *w, int32_t unit)
{
    if (w->b->units[unit].slotted)
        gather_unit(w, unit, 0);
    append_plain(w, ZERO_OP_USE, ZERO_STREAM_COMPUTE, unit, 0, ZERO_READ);
    append_plain(w, ZERO_OP_RELEASE, ZERO_STREAM_COMPUTE, unit, 0, ZERO_READ);
}

/* The state of a part that is not in memory is read ahead of its update, and written behind it. */
static void move_state(writer_t *w, zero_op_kind_t kind, int32_t part)
{
    const zero_part_t *p = &w->b->plan->parts[part];
    int32_t use = w->b->units[w->b->plan->segments[p->segment].unit].first_use;
    for (int i = 0; i <= w->b->spec->state.count && p->tier == ZERO_TIER_NVME; i++) {
        int32_t state = zero_part_kept(p, i), staged = p->staged[i];
        append_part(w, kind, ZERO_STREAM_IO, part, use, kind == ZERO_OP_READ ? state : staged,
                    kind == ZERO_OP_READ ? staged : state);
    }
}

/* Updates of one unit, then what makes its parameters whole on every rank. next: the part on nvme that is updated after
 * each, or -1. */
static void update_unit(writer_t *w, int32_t unit, const int32_t *next)
{
    const zero_builder_t *b = w->b;
    bool slotted = b->units[unit].slotted;
    int32_t use = b->units[unit].first_use;

    FOR_SEGMENTS(b, unit, s)
    {
        const int32_t *buffer = b->plan->segments[s].buffer;
        FOR_PARTS(b, s, p)
        {
            const zero_part_t *part = &b->plan->parts[p];
            int32_t grad = part->grad, param = part->param;
            int32_t target = buffer[slotted ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM];
            if (next[p] >= 0)
                move_state(w, ZERO_OP_READ, next[p]);
            append_part(w, ZERO_OP_UPDATE, part->tier == ZERO_TIER_DEVICE ? ZERO_STREAM_UPDATE : ZERO_STREAM_HOST, p,
                        use, grad >= 0 ? grad : buffer[ZERO_ROLE_FINAL], param >= 0 ? param : target);
            if (param >= 0 && b->plan->buffers[target].tier == ZERO_TIER_NVME) {
                if (part->master != target) /* or else it is written with the rest of the state */
                    append_part(w, ZERO_OP_WRITE, ZERO_STREAM_IO, p, use, param, target);
            } else if (param >= 0)
                append_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, param, target);
            move_state(w, ZERO_OP_WRITE, p);
        }
    }
    FOR_SEGMENTS(b, unit, s)
    {
        const zero_segment_t *segment = &b->plan->segments[s];
        if (segment->trainable && b->shard_optimizer && !slotted)
            append_segment(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, segment->buffer[ZERO_ROLE_PARAM], SLICE,
                           segment->buffer[ZERO_ROLE_PARAM], WHOLE);
    }
}

static void write_step(writer_t *w)
{
    zero_builder_t *b = w->b;
    const int32_t *order = b->order;
    int32_t *next = NULL, last = -1;

    append_plain(w, ZERO_OP_HOST_WAIT, ZERO_STREAM_REDUCE, -1, -1, 0);
    uint64_t words = (uint64_t)b->plan->segment_count + ZERO_EXCHANGE_WORDS;
    append(w, (zero_op_t){.kind = ZERO_OP_EXCHANGE,
                          .stream = ZERO_STREAM_REDUCE,
                          .unit = -1,
                          .segment = -1,
                          .part = -1,
                          .use = -1,
                          .event = -1,
                          .src = b->plan->norms,
                          .dst = b->plan->scalars,
                          .count = (int64_t)words,
                          .bytes = (uint64_t)(b->spec->world - 1) * words * sizeof(double)});
    if (w->status != ZERO_OK ||
        (w->status = zero_build_alloc(b, &next, (size_t)b->plan->part_count, sizeof *next)) != ZERO_OK)
        return;
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        FOR_SEGMENTS(b, order[i], s)
    FOR_PARTS(b, s, p)
    {
        next[p] = -1;
        if (b->plan->parts[p].tier != ZERO_TIER_NVME)
            continue;
        if (last >= 0)
            next[last] = p;
        else
            move_state(w, ZERO_OP_READ, p); /* the first one; the others are read while the one before is updated */
        last = p;
    }
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        update_unit(w, order[i], next);
    free(next);
}

/* Begins the next program; the plan's array has room for it. */
static writer_t begin(zero_builder_t *b, zero_program_kind_t kind, int32_t pass, int32_t unit)
{
    zero_program_t *program = &b->plan->programs[b->plan->program_count++];
    *program = (zero_program_t){.kind = kind, .pass = pass, .unit = unit};
    return (writer_t){.b = b, .program = program};
}

static zero_status_t write_training(zero_builder_t *b)
{
    static const struct {
        zero_program_kind_t kind;
        micro_t micro;
    } micros[] = {
        {ZERO_PROGRAM_FIRST, {true, false}},
        {ZERO_PROGRAM_MIDDLE, {false, false}},
        {ZERO_PROGRAM_LAST, {false, true}},
        {ZERO_PROGRAM_ONLY, {true, true}},
    };
    for (size_t i = b->spec->micro_steps > 1 ? 0 : 3; i < 4; i++) {
        writer_t w = begin(b, micros[i].kind, b->train, -1);
        write_pass(&w, b->train, micros[i].micro);
        if (w.status != ZERO_OK)
            return w.status;
    }
    writer_t w = begin(b, ZERO_PROGRAM_STEP, -1, -1);
    write_step(&w);
    return w.status;
}

zero_status_t zero_build_programs(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    size_t count = 5;
    zero_status_t status;

    for (int32_t p = 0; p < spec->pass_count; p++)
        count += spec->passes[p].kind == ZERO_PASS_ANY_ORDER ? (size_t)spec->unit_count : 1;
    if ((status = zero_build_alloc(b, &b->plan->programs, count, sizeof *b->plan->programs)) != ZERO_OK)
        return status;
    for (int32_t p = 0; p < spec->pass_count; p++) {
        if (spec->passes[p].kind == ZERO_PASS_EVAL) {
            writer_t w = begin(b, ZERO_PROGRAM_EVAL, p, -1);
            write_pass(&w, p, (micro_t){false, false});
            status = w.status;
        } else if (spec->passes[p].kind == ZERO_PASS_ANY_ORDER) {
            for (int32_t u = 0; u < spec->unit_count && status == ZERO_OK; u++) {
                writer_t w = begin(b, ZERO_PROGRAM_ANY, p, u);
                write_any(&w, u);
                status = w.status;
            }
        }
        if (status != ZERO_OK)
            return status;
    }
    return b->train >= 0 ? write_training(b) : ZERO_OK;
}
