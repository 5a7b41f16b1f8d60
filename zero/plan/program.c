/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - the operations of each program, in the order of issue, as if there were one stream. sync.c enforces that
 * order where it matters. */
#include "zero/plan/writer.h"

/* Which gather of a unit it is, in a micro-step; in other passes each is the only one. */
typedef enum turn { ONLY, FIRST, AGAIN } turn_t;

/* Turns what was gathered into parameters, if it is codes. */
static void decode_params(zero_program_writer_t *w, int32_t s, int32_t use)
{
    const int32_t *buffer = w->b->plan->segments[s].buffer;
    if (buffer[ZERO_ROLE_PARAM_CODES] >= 0)
        zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_GATHER, s, use, buffer[ZERO_ROLE_PARAM_CODES],
                           ZERO_EXTENT_WHOLE, buffer[ZERO_ROLE_PARAM], ZERO_EXTENT_WHOLE);
}

static void gather_unit(zero_program_writer_t *w, int32_t unit, int32_t use, turn_t turn)
{
    const zero_builder_t *b = w->b;
    FOR_SEGMENTS(b, unit, s)
    {
        const zero_placement_t *at = zero_build_at(b, &b->plan->segments[s]);
        const int32_t *buffer = b->plan->segments[s].buffer;
        int32_t node = buffer[ZERO_ROLE_NODE_SHARD], codes = buffer[ZERO_ROLE_PARAM_CODES],
                param = buffer[ZERO_ROLE_PARAM], from = buffer[ZERO_ROLE_PARAM_SHARD],
                gathered = codes >= 0 ? codes : param;
        if (node >= 0 && turn == AGAIN) {
            zero_write_collective(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, ZERO_ALONG_NODE, node,
                                  ZERO_EXTENT_NODE, gathered, ZERO_EXTENT_WHOLE);
            decode_params(w, s, use);
            continue;
        }
        if (buffer[ZERO_ROLE_STAGED_PARAM] >= 0) {
            int32_t staged = buffer[ZERO_ROLE_STAGED_PARAM];
            zero_write_segment(w, ZERO_OP_READ, ZERO_STREAM_IO, s, use, from, at->keeps, staged, at->keeps);
            from = staged;
        }
        if (b->offload_parameters) {
            zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, from, at->keeps, param, at->keeps);
            from = param;
        }
        if (codes >= 0) {
            zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_GATHER, s, use, from, at->keeps, codes, at->keeps);
            from = codes;
        }
        if (at->shard_parameters)
            zero_write_gather(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, from, at->keeps, gathered);
        if (node >= 0 && turn == FIRST)
            zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_GATHER, s, use, gathered, ZERO_EXTENT_NODE, node,
                               ZERO_EXTENT_NODE);
        decode_params(w, s, use);
    }
}

/* The position of a micro-step in its step. */
typedef struct micro {
    bool first, last;
} micro_t;

/* Makes gradients zero at the use that opens them, or the local sum so far. */
static void open_gradients(zero_program_writer_t *w, int32_t unit, int32_t use, micro_t micro)
{
    bool first = micro.first && w->b->grads[use].first;
    FOR_SEGMENTS(w->b, unit, s)
    {
        const zero_segment_t *segment = &w->b->plan->segments[s];
        int32_t grad = segment->buffer[ZERO_ROLE_GRAD], sum = segment->buffer[ZERO_ROLE_SUM];
        bool sums = zero_build_at(w->b, segment)->sum_locally &&
                    segment->dtype == ZERO_FP32; /* the caller adds to the sum so far */
        if (grad >= 0 && (first || !sums))
            zero_write_segment(w, ZERO_OP_FILL, ZERO_STREAM_COMPUTE, s, use, -1, ZERO_EXTENT_WHOLE, grad,
                               ZERO_EXTENT_WHOLE);
        else if (grad >= 0 && sum >= 0)
            zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, sum, ZERO_EXTENT_WHOLE, grad,
                               ZERO_EXTENT_WHOLE);
    }
}

/* Copies complete gradients to the parts that are updated in another memory. */
static void send_gradients(zero_program_writer_t *w, int32_t s, int32_t use)
{
    FOR_PARTS(w->b, s, p)
    {
        int32_t to = w->b->plan->parts[p].grad;
        if (to >= 0)
            zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, w->b->plan->segments[s].buffer[ZERO_ROLE_FINAL],
                            to);
    }
}

/* FINAL is complete on this rank's slice: writes its part of the norm and, if updates are full, gathers all slices. */
static void finish_segment(zero_program_writer_t *w, int32_t s, int32_t use)
{
    const zero_segment_t *segment = &w->b->plan->segments[s];
    int32_t final = segment->buffer[ZERO_ROLE_FINAL];
    zero_write_norm(w, ZERO_STREAM_REDUCE, s, use, final);
    if (zero_build_at(w->b, segment)->gather_gradients)
        zero_write_gather(w, ZERO_OP_GATHER, ZERO_STREAM_REDUCE, s, use, final, ZERO_EXTENT_SLICE, final);
    send_gradients(w, s, use);
}

/* ---- gradients on the host tier ---------------------------------------------------------------------------------- */

/* Moves src, on the device, into dst, in host memory, piece by piece: adds it, or replaces dst if begins. */
static void take_away(zero_program_writer_t *w, int32_t use, zero_pieces_t pieces, int32_t src, int32_t dst,
                      bool begins)
{
    const zero_plan_t *plan = w->b->plan;
    bool as_it_is = begins && plan->buffers[src].format.dtype == plan->buffers[dst].format.dtype;
    for (int32_t p = pieces.first; p < pieces.first + pieces.count; p++) {
        int32_t staged = plan->parts[p].staged_grad;
        zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, src, as_it_is ? dst : staged);
        if (!as_it_is)
            zero_write_part(w, begins ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_HOST, p, use, staged, dst);
    }
}

/* Converts the sum over micro-steps (of the whole segment, or of a shard) to the wire's dtype, into dst on the device,
 * or in place if dst is the sum. */
static void bring_sum(zero_program_writer_t *w, int32_t s, int32_t use, int32_t dst)
{
    const zero_plan_t *plan = w->b->plan;
    zero_pieces_t pieces = w->b->segments[s].sum;
    bool shards = zero_build_at(w->b, &plan->segments[s])->sum_shards;
    int32_t sum = plan->segments[s].buffer[shards ? ZERO_ROLE_FINAL : ZERO_ROLE_SUM];
    zero_extent_t extent = shards ? ZERO_EXTENT_SHARD : ZERO_EXTENT_WHOLE;
    if (pieces.count == 0 && dst != sum)
        zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, sum, extent, dst, extent);
    for (int32_t p = pieces.first; p < pieces.first + pieces.count; p++) {
        int32_t staged = plan->parts[p].staged_grad;
        zero_write_part(w, ZERO_OP_CAST, ZERO_STREAM_HOST, p, use, sum, staged);
        zero_write_part(w, dst == sum ? ZERO_OP_CAST : ZERO_OP_COPY, dst == sum ? ZERO_STREAM_HOST : ZERO_STREAM_COPY,
                        p, use, staged, dst);
    }
}

/* Moves reduced gradients, on the device or in FINAL, to where each part's update reads them. */
static void deliver(zero_program_writer_t *w, int32_t s, int32_t use, int32_t from)
{
    const zero_plan_t *plan = w->b->plan;
    int32_t final = plan->segments[s].buffer[ZERO_ROLE_FINAL];
    bool same = plan->buffers[from].format.dtype == plan->segments[s].final;
    FOR_PARTS(w->b, s, p)
    {
        int32_t stays = plan->parts[p].grad;
        if (stays >= 0 && from == final)
            zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, from, stays);
        else if (stays >= 0)
            zero_write_part(w, same ? ZERO_OP_COPY : ZERO_OP_CAST, ZERO_STREAM_REDUCE, p, use, from, stays);
        else if (same && from != final)
            zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, from, final);
    }
    if (!same)
        take_away(w, use, w->b->segments[s].reduced, from, final, true);
}

/* Finishes a segment whose own slice of `from`, on the device, is reduced: writes its part of the norm, gathers all
 * slices if updates are full, and delivers them. */
static void finish_away(zero_program_writer_t *w, int32_t s, int32_t use, int32_t from)
{
    zero_write_norm(w, ZERO_STREAM_REDUCE, s, use, from);
    if (zero_build_at(w->b, &w->b->plan->segments[s])->gather_gradients)
        zero_write_gather(w, ZERO_OP_GATHER, ZERO_STREAM_REDUCE, s, use, from, ZERO_EXTENT_SLICE, from);
    deliver(w, s, use, from);
}

/* Adds a micro-step's reduced gradients to the buffers that the update reads. */
static void accumulate_away(zero_program_writer_t *w, int32_t s, int32_t use, micro_t micro, int32_t from)
{
    const zero_builder_t *b = w->b;
    const int32_t *buffer = b->plan->segments[s].buffer;
    int32_t whole = buffer[ZERO_ROLE_WHOLE], final = buffer[ZERO_ROLE_FINAL];

    FOR_PARTS(b, s, p)
    {
        int32_t stays = b->plan->parts[p].grad;
        if (stays >= 0 && whole < 0)
            zero_write_part(w, micro.first ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, p, use, from,
                            stays);
        if (stays >= 0 && whole < 0 && micro.last)
            zero_write_norm(w, ZERO_STREAM_REDUCE, s, use, stays);
    }
    take_away(w, use, b->segments[s].written, from, final, micro.first);
    if (micro.last && whole >= 0) {
        zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, final, ZERO_EXTENT_SLICE, whole,
                           ZERO_EXTENT_SLICE);
        finish_away(w, s, use, whole);
    } else if (micro.last) {
        zero_write_norm(w, ZERO_STREAM_HOST, s, use, final);
    }
}

/* Reduces a micro-step's gradients over shards and adds them to FINAL, which is reduced over replicas after the last
 * one. */
static void sum_shards_away(zero_program_writer_t *w, int32_t s, int32_t use, micro_t micro, int32_t source)
{
    const int32_t *buffer = w->b->plan->segments[s].buffer;
    int32_t reduced = buffer[ZERO_ROLE_WIRE_SHARD];
    zero_write_sum(w, ZERO_OP_REDUCE_SCATTER, s, use, ZERO_ALONG_SHARD, source, ZERO_EXTENT_WHOLE, reduced,
                   ZERO_EXTENT_SHARD);
    take_away(w, use, w->b->segments[s].written, reduced, buffer[ZERO_ROLE_FINAL], micro.first);
    if (!micro.last)
        return;
    bring_sum(w, s, use, reduced);
    zero_write_reduce(w, ZERO_OP_REDUCE_SCATTER, s, use, reduced, ZERO_EXTENT_SHARD, reduced);
    finish_away(w, s, use, reduced);
}

/* reduce_segment() for gradients that are summed and updated on another tier. */
static void reduce_away(zero_program_writer_t *w, int32_t s, int32_t use, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *segment = &b->plan->segments[s];
    const zero_placement_t *at = zero_build_at(b, segment);
    const int32_t *buffer = segment->buffer;
    int32_t source = buffer[ZERO_ROLE_GRAD], sum = buffer[ZERO_ROLE_SUM];
    bool there = zero_build_sums_there(b, segment);

    if (there)
        take_away(w, use, b->segments[s].written, source, sum, micro.first);
    else if (at->sum_locally && !micro.last)
        zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_COPY, s, use, source, ZERO_EXTENT_WHOLE, sum,
                           ZERO_EXTENT_WHOLE);
    if (at->sum_locally && !micro.last)
        return;
    if (there && !zero_plan_is_shared(segment)) {
        bring_sum(w, s, use, sum);
        zero_write_norm(w, ZERO_STREAM_HOST, s, use, sum);
        deliver(w, s, use, sum);
        return;
    }
    int32_t reduced = buffer[ZERO_ROLE_WIRE_SHARD];
    if (buffer[ZERO_ROLE_WIRE] >= 0)
        source = buffer[ZERO_ROLE_WIRE];
    if (there)
        bring_sum(w, s, use, source);
    else if (buffer[ZERO_ROLE_WIRE] >= 0)
        zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, buffer[ZERO_ROLE_GRAD], ZERO_EXTENT_WHOLE,
                           source, ZERO_EXTENT_WHOLE);
    if (at->sum_shards && !(micro.first && micro.last)) {
        sum_shards_away(w, s, use, micro, source);
        return;
    }
    if (zero_plan_is_shared(segment))
        zero_write_reduce(w, ZERO_OP_REDUCE_SCATTER, s, use, source, ZERO_EXTENT_WHOLE, reduced);
    if (b->units[segment->unit].several && !at->sum_locally && !at->sum_shards)
        accumulate_away(w, s, use, micro, reduced);
    else
        finish_away(w, s, use, reduced);
}

/* ---- reductions ------------------------------------------------------------------------------------------------- */

/* Where gradients are reduced that are not complete then: in place, or if they are coded, beside the codes. */
static int32_t reduced_in(const zero_segment_t *segment, int32_t source)
{
    return segment->buffer[ZERO_ROLE_GRAD_CODES] >= 0 ? segment->buffer[ZERO_ROLE_WIRE_SHARD] : source;
}

/* Reduces source, a micro-step's gradients, over shards and adds them to FINAL; after the last one reduces that over
 * replicas. */
static void sum_shards(zero_program_writer_t *w, int32_t s, int32_t use, micro_t micro, int32_t source)
{
    const zero_segment_t *segment = &w->b->plan->segments[s];
    int32_t final = segment->buffer[ZERO_ROLE_FINAL], reduced = reduced_in(segment, source);
    bool rounds = segment->wire != segment->final, direct = micro.first && !rounds;
    zero_write_sum(w, ZERO_OP_REDUCE_SCATTER, s, use, ZERO_ALONG_SHARD, source, ZERO_EXTENT_WHOLE,
                   direct ? final : reduced, ZERO_EXTENT_SHARD);
    if (!direct)
        zero_write_segment(w, micro.first ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, s, use, reduced,
                           ZERO_EXTENT_SHARD, final, ZERO_EXTENT_SHARD);
    if (!micro.last)
        return;
    if (rounds)
        zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, final, ZERO_EXTENT_SHARD, source,
                           ZERO_EXTENT_SHARD);
    zero_write_reduce(w, ZERO_OP_REDUCE_SCATTER, s, use, rounds ? source : final, ZERO_EXTENT_SHARD,
                      rounds ? source : final);
    if (rounds)
        zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, source, ZERO_EXTENT_SLICE, final,
                           ZERO_EXTENT_SLICE);
    finish_segment(w, s, use);
}

/* After a use that reduces: reduces the gradients into FINAL, through SUM and WIRE if the segment has them. */
static void reduce_segment(zero_program_writer_t *w, int32_t s, int32_t use, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *segment = &b->plan->segments[s];
    const zero_placement_t *at = zero_build_at(b, segment);
    const int32_t *buffer = segment->buffer;
    int32_t source = buffer[ZERO_ROLE_GRAD], final = buffer[ZERO_ROLE_FINAL];

    if (buffer[ZERO_ROLE_SUM] >= 0) {
        zero_write_segment(w, micro.first ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, s, use, source,
                           ZERO_EXTENT_WHOLE, buffer[ZERO_ROLE_SUM], ZERO_EXTENT_WHOLE);
        source = buffer[ZERO_ROLE_SUM];
    }
    if (at->sum_locally && !micro.last)
        return;
    if (buffer[ZERO_ROLE_WIRE] >= 0) {
        zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, s, use, source, ZERO_EXTENT_WHOLE,
                           buffer[ZERO_ROLE_WIRE], ZERO_EXTENT_WHOLE);
        source = buffer[ZERO_ROLE_WIRE];
    }
    if (at->sum_shards && !(micro.first && micro.last)) {
        sum_shards(w, s, use, micro, source);
        return;
    }
    bool begins = at->sum_locally || micro.first; /* FINAL holds nothing yet */
    if (begins && segment->final == segment->wire) {
        if (zero_plan_is_shared(segment))
            zero_write_reduce(w, ZERO_OP_REDUCE_SCATTER, s, use, source, ZERO_EXTENT_WHOLE, final);
        else if (source != final)
            zero_write_segment(w, ZERO_OP_COPY, ZERO_STREAM_REDUCE, s, use, source, ZERO_EXTENT_SLICE, final,
                               ZERO_EXTENT_SLICE);
    } else {
        int32_t reduced = reduced_in(segment, source);
        if (zero_plan_is_shared(segment))
            zero_write_reduce(w, ZERO_OP_REDUCE_SCATTER, s, use, source, ZERO_EXTENT_WHOLE, reduced);
        zero_write_segment(w, begins ? ZERO_OP_CAST : ZERO_OP_ACCUMULATE, ZERO_STREAM_REDUCE, s, use, reduced,
                           ZERO_EXTENT_SLICE, final, ZERO_EXTENT_SLICE);
    }
    if (micro.last)
        finish_segment(w, s, use);
}

/* micro: the position of the micro-step. */
static void reduce_unit(zero_program_writer_t *w, int32_t unit, int32_t use, micro_t micro)
{
    micro.first = micro.first && w->b->grads[use].first;
    micro.last = micro.last && w->b->grads[use].last;
    FOR_SEGMENTS(w->b, unit, s)
    {
        if (w->b->segments[s].away)
            reduce_away(w, s, use, micro);
        else if (w->b->plan->segments[s].trainable)
            reduce_segment(w, s, use, micro);
    }
}

/* An operation on a buffer of a task; buffer -1: none. */
static void write_task(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t task,
                       int32_t buffer)
{
    const zero_buffer_t *x = buffer >= 0 ? &w->b->plan->buffers[buffer] : NULL;
    bool task_op = kind == ZERO_OP_TASK || kind == ZERO_OP_TASK_END;
    if (x == NULL && !task_op)
        return;
    zero_write_op(w, (zero_op_t){.kind = (uint8_t)kind,
                                 .stream = (uint8_t)stream,
                                 .unit = -1,
                                 .segment = -1,
                                 .part = -1,
                                 .use = task,
                                 .event = -1,
                                 .src = kind == ZERO_OP_SEND ? buffer : -1,
                                 .dst = kind == ZERO_OP_RECV ? buffer : -1,
                                 .count = x ? x->elements : 0,
                                 .bytes = kind == ZERO_OP_RECV ? x->bytes : 0});
}

/* The caller's collectives during a use. */
static void write_collectives(zero_program_writer_t *w, int32_t index, int32_t use)
{
    const zero_plan_t *plan = w->b->plan;
    const zero_spec_use_t *u = &plan->passes[index].uses[use];
    for (int32_t i = 0; i < u->collective_count; i++) {
        const zero_spec_collective_t *c = zero_plan_collective(plan, index, use, i);
        const int group = zero_plan_calls(w->b->spec, c->axis);
        const uint64_t others = (uint64_t)w->b->spec->groups[group].size - 1;
        const uint64_t bytes = (uint64_t)c->count * zero_dtype_size(c->dtype);
        zero_write_op(w, (zero_op_t){.kind = ZERO_OP_COLLECTIVE,
                                     .stream = ZERO_STREAM_COMPUTE,
                                     .group = (uint8_t)group,
                                     .flags = (uint8_t)i,
                                     .unit = u->unit,
                                     .segment = -1,
                                     .part = -1,
                                     .use = use,
                                     .event = -1,
                                     .src = -1,
                                     .dst = -1,
                                     .count = c->count,
                                     .bytes = c->kind == ZERO_COLLECTIVE_SUM ? 2 * (bytes / (others + 1)) * others
                                                                             : bytes * others});
    }
}

static void receive(zero_program_writer_t *w, const zero_plan_pass_t *pass, int32_t task)
{
    const zero_plan_task_t *t = task < pass->task_count ? &pass->tasks[task] : NULL;
    if (t != NULL && t->phase == ZERO_FORWARD)
        write_task(w, ZERO_OP_RECV, ZERO_STREAM_FROM_PREV, task, t->input);
    else if (t != NULL)
        write_task(w, ZERO_OP_RECV, ZERO_STREAM_FROM_NEXT, task, t->output_grad);
}

static void end_task(zero_program_writer_t *w, const zero_plan_pass_t *pass, int32_t task)
{
    write_task(w, ZERO_OP_TASK_END, ZERO_STREAM_COMPUTE, task, -1);
    write_task(w, ZERO_OP_SEND, ZERO_STREAM_TO_NEXT, task, pass->tasks[task].output);
    write_task(w, ZERO_OP_SEND, ZERO_STREAM_TO_PREV, task, pass->tasks[task].input_grad);
}

/* Ends the tasks before use i, and begins to receive for the one after the next. Returns the task that has use i. */
static int32_t end_tasks(zero_program_writer_t *w, const zero_plan_pass_t *pass, int32_t task, int32_t i)
{
    for (; task < pass->task_count && pass->tasks[task].first_use + pass->tasks[task].use_count <= i; task++) {
        if (pass->tasks[task].use_count == 0) { /* otherwise its first use has begun it */
            receive(w, pass, task + 1);
            write_task(w, ZERO_OP_TASK, ZERO_STREAM_COMPUTE, task, -1);
        }
        end_task(w, pass, task);
    }
    return task;
}

/* Reduces what the uses [begin, end) have added, but for what comes late. */
static void reduce_uses(zero_program_writer_t *w, const zero_plan_pass_t *pass, int32_t begin, int32_t end,
                        micro_t micro)
{
    for (int32_t j = begin; j < end; j++)
        if (w->b->grads[j].reduces && !zero_build_is_late(w->b, j))
            reduce_unit(w, pass->uses[j].unit, j, micro);
}

/* Which gather of a unit entry e of what a pass gathers is. */
static turn_t turn_of(const zero_builder_t *b, int32_t index, int32_t e)
{
    const zero_pass_plan_t *plan = &b->passes[index];
    if (index != b->train || zero_plan_node(b->spec) == 0)
        return ONLY;
    return zero_build_gathers(plan, plan->enter[e], e) ? AGAIN : FIRST;
}

/* A pass with declared uses: a micro-step of training, or all tasks of its micro-steps; or an evaluation (none of whose
 * uses has ZERO_GRAD). */
static void write_pass(zero_program_writer_t *w, int32_t index, micro_t micro)
{
    const zero_builder_t *b = w->b;
    const zero_plan_pass_t *pass = &b->plan->passes[index];
    const zero_pass_plan_t *plan = &b->passes[index];
    const bool grads = index == b->train;
    int32_t chain = 0, task = 0;

    receive(w, pass, 0);
    for (int32_t i = 0; i < pass->use_count; i++) {
        const zero_spec_use_t *use = &pass->uses[i];
        task = end_tasks(w, pass, task, i);
        bool begins = task < pass->task_count && pass->tasks[task].first_use == i;
        if (begins)
            receive(w, pass, task + 1);
        for (int32_t e = plan->enter_begin[i]; e < plan->enter_begin[i + 1]; e++)
            gather_unit(w, plan->enter[e], plan->enter_use[e], turn_of(b, index, e));
        /* Reductions of what the previous position released come after the gathers, for which the next use waits. */
        if (plan->release_at[chain] < i) {
            if (grads)
                reduce_uses(w, pass, chain, i, micro);
            chain = i;
        }
        if (begins)
            write_task(w, ZERO_OP_TASK, ZERO_STREAM_COMPUTE, task, -1);
        if (grads && b->grads[i].opens)
            open_gradients(w, use->unit, i, micro);
        zero_write_plain(w, ZERO_OP_USE, ZERO_STREAM_COMPUTE, use->unit, i, use->flags);
        write_collectives(w, index, i);
        for (int32_t j = i; j >= chain && plan->release_at[i] == i; j--)
            zero_write_plain(w, ZERO_OP_RELEASE, ZERO_STREAM_COMPUTE, pass->uses[j].unit, j, pass->uses[j].flags);
    }
    end_tasks(w, pass, task, pass->use_count);
    if (!grads)
        return;
    reduce_uses(w, pass, chain, pass->use_count, micro);
    for (int32_t u = 0; u < b->spec->unit_count; u++) /* in an order that both stages have */
        for (int32_t j = 0; j < pass->use_count && b->units[u].pipe[0] != b->units[u].pipe[1]; j++)
            if (pass->uses[j].unit == u && zero_build_is_late(b, j))
                reduce_unit(w, u, j, micro);
}

static void write_any(zero_program_writer_t *w, int32_t unit)
{
    if (w->b->units[unit].slotted)
        gather_unit(w, unit, 0, ONLY);
    zero_write_plain(w, ZERO_OP_USE, ZERO_STREAM_COMPUTE, unit, 0, ZERO_READ);
    zero_write_plain(w, ZERO_OP_RELEASE, ZERO_STREAM_COMPUTE, unit, 0, ZERO_READ);
}

/* Begins the next program; the plan's array has room for it. */
static zero_program_writer_t begin(zero_builder_t *b, zero_program_kind_t kind, int32_t pass, int32_t unit)
{
    zero_program_t *program = &b->plan->programs[b->plan->program_count++];
    *program = (zero_program_t){.kind = kind, .pass = pass, .unit = unit};
    return (zero_program_writer_t){.b = b, .program = program};
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
    for (size_t i = b->spec->micro_steps > 1 && b->spec->chunk_count == 0 ? 0 : 3; i < 4; i++) {
        zero_program_writer_t w = begin(b, micros[i].kind, b->train, -1);
        write_pass(&w, b->train, micros[i].micro);
        if (w.status != ZERO_OK)
            return w.status;
    }
    zero_program_writer_t w = begin(b, ZERO_PROGRAM_STEP, -1, -1);
    zero_write_step(&w);
    return w.status;
}

zero_status_t zero_build_programs(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    size_t count = 6;
    zero_status_t status;

    for (int32_t p = 0; p < spec->pass_count; p++)
        count += spec->passes[p].kind == ZERO_PASS_ANY_ORDER ? (size_t)spec->unit_count : 1;
    if ((status = zero_build_alloc(b, &b->plan->programs, count, sizeof *b->plan->programs)) != ZERO_OK)
        return status;
    for (int32_t p = 0; p < spec->pass_count; p++) {
        if (spec->passes[p].kind == ZERO_PASS_EVAL) {
            zero_program_writer_t w = begin(b, ZERO_PROGRAM_EVAL, p, -1);
            write_pass(&w, p, (micro_t){false, false});
            status = w.status;
        } else if (spec->passes[p].kind == ZERO_PASS_ANY_ORDER) {
            for (int32_t u = 0; u < spec->unit_count && status == ZERO_OK; u++) {
                zero_program_writer_t w = begin(b, ZERO_PROGRAM_ANY, p, u);
                write_any(&w, u);
                status = w.status;
            }
        }
        if (status != ZERO_OK)
            return status;
    }
    if (b->train >= 0 && (status = write_training(b)) != ZERO_OK)
        return status;
    if (!spec->saves)
        return ZERO_OK;
    zero_program_writer_t w = begin(b, ZERO_PROGRAM_SAVE, -1, -1);
    zero_write_save(&w);
    return w.status;
}
