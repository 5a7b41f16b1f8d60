/* SPDX-License-Identifier: Apache-2.0 */
/* step.c - the operations of the step's program: the exchange of norms, the updates, and the gathers of updated
 * parameters. */
#include "zero/plan/writer.h"

#include <stdlib.h>

/* One update of a part. A part that is updated whole has two: of its state, then of its master weights. */
typedef struct task {
    int32_t part, next; /* next: the following task with state on nvme, if this one has such state; else -1 */
    int first, end;     /* works on zero_part_memory(part, i) for i in [first, end) */
    bool is_there;      /* its state on nvme has been read */
} task_t;

typedef struct tasks {
    task_t *list;
    int32_t count, done;
} tasks_t;

/* Appends the tasks of a segment, one per part, or two if it is updated whole. *last: the last task with state on
 * nvme. */
static void add_tasks(const zero_builder_t *b, tasks_t *tasks, int32_t segment, int32_t *last)
{
    const zero_plan_t *plan = b->plan;
    bool whole = plan->segments[segment].whole;
    int turns = whole ? 2 : 1;
    for (int turn = 0; turn < turns; turn++)
        FOR_PARTS(b, segment, p)
        {
            int32_t t = tasks->count++;
            tasks->list[t] = (task_t){.part = p,
                                      .next = -1,
                                      .first = whole && turn == 0 ? 1 : 0,
                                      .end = turn == 1 ? 1 : 1 + zero_plan_state(plan, segment)->count};
            if (plan->parts[p].tier != ZERO_TIER_NVME)
                continue;
            if (*last >= 0)
                tasks->list[*last].next = t;
            *last = t;
        }
}

static zero_status_t list_tasks(zero_program_writer_t *w, tasks_t *tasks)
{
    zero_builder_t *b = w->b;
    int32_t last = -1;
    *tasks = (tasks_t){0};
    zero_status_t status = zero_build_alloc(b, &tasks->list, 2 * (size_t)b->plan->part_count, sizeof *tasks->list);
    for (int32_t i = 0; i < b->spec->unit_count && status == ZERO_OK; i++)
        FOR_SEGMENTS(b, b->order[i], s)
        {
            add_tasks(b, tasks, s, &last);
        }
    return status;
}

/* Moves a task's state between nvme and memory. */
static void move_state(zero_program_writer_t *w, zero_op_kind_t kind, const task_t *task)
{
    const zero_part_t *p = &w->b->plan->parts[task->part];
    int32_t use = w->b->units[w->b->plan->segments[p->segment].unit].first_use;
    for (int i = task->first; i < task->end && p->tier == ZERO_TIER_NVME; i++) {
        int32_t state = zero_part_kept(p, i), staged = p->staged[i];
        zero_write_part(w, kind, ZERO_STREAM_IO, task->part, use, kind == ZERO_OP_READ ? state : staged,
                        kind == ZERO_OP_READ ? staged : state);
    }
}

static void bring_state(zero_program_writer_t *w, task_t *task)
{
    if (!task->is_there)
        move_state(w, ZERO_OP_READ, task);
    task->is_there = true;
}

/* Begins the next task: reads its state if needed, and prefetches the following one's if that has another slot. */
static task_t *begin_task(zero_program_writer_t *w, tasks_t *tasks)
{
    const zero_plan_t *plan = w->b->plan;
    task_t *task = &tasks->list[tasks->done++], *next = task->next >= 0 ? &tasks->list[task->next] : NULL;
    bring_state(w, task);
    if (next != NULL &&
        plan->buffers[plan->parts[next->part].staged[0]].slot != plan->buffers[plan->parts[task->part].staged[0]].slot)
        bring_state(w, next);
    return task;
}

static zero_stream_id_t update_stream(const zero_part_t *part)
{
    return part->tier == ZERO_TIER_DEVICE ? ZERO_STREAM_UPDATE : ZERO_STREAM_HOST;
}

/* UPDATE or APPLY from src to the segment's parameters. */
static void move_params(zero_program_writer_t *w, zero_op_kind_t kind, int32_t p, int32_t use, int32_t src)
{
    const zero_plan_t *plan = w->b->plan;
    const zero_part_t *part = &plan->parts[p];
    const int32_t *buffer = plan->segments[part->segment].buffer;
    int32_t param = part->param,
            target = buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM];
    zero_write_part(w, kind, update_stream(part), p, use, src, param >= 0 ? param : target);
    if (param >= 0 && plan->buffers[target].tier == ZERO_TIER_NVME) {
        if (part->master != target) /* otherwise it is written with the state */
            zero_write_part(w, ZERO_OP_WRITE, ZERO_STREAM_IO, p, use, param, target);
    } else if (param >= 0)
        zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, param, target);
}

static int32_t update_grad(const zero_builder_t *b, int32_t p)
{
    const zero_part_t *part = &b->plan->parts[p];
    return part->grad >= 0 ? part->grad : b->plan->segments[part->segment].buffer[ZERO_ROLE_FINAL];
}

/* Collects the slices of directions into whole matrices on their owners, calls the caller's function there, and sends
 * the results back to the slices. */
static void update_whole(zero_program_writer_t *w, int32_t s, int32_t use, tasks_t *tasks)
{
    const zero_builder_t *b = w->b;
    const zero_placement_t *at = zero_build_at(b, &b->plan->segments[s]);
    int32_t matrices = b->plan->segments[s].buffer[ZERO_ROLE_MATRICES];
    FOR_PARTS(b, s, p)
    {
        const zero_part_t *part = &b->plan->parts[p];
        const task_t *task = begin_task(w, tasks);
        zero_write_part(w, ZERO_OP_UPDATE, update_stream(part), p, use, update_grad(b, p),
                        part->direction >= 0 ? part->direction : matrices);
        if (part->direction >= 0)
            zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, part->direction, matrices);
        move_state(w, ZERO_OP_WRITE, task);
    }
    if (at->shard_optimizer)
        zero_write_gather(w, ZERO_OP_COLLECT, ZERO_STREAM_REDUCE, s, use, matrices, ZERO_EXTENT_SLICE, matrices);
    zero_write_segment(w, ZERO_OP_WHOLE, ZERO_STREAM_UPDATE, s, use, matrices, ZERO_EXTENT_WHOLE, matrices,
                       ZERO_EXTENT_WHOLE);
    if (zero_plan_is_shared(&b->plan->segments[s]))
        zero_write_reduce(w, ZERO_OP_SPREAD, s, use, matrices, ZERO_EXTENT_WHOLE, matrices);
    if (at->gather_gradients)
        zero_write_gather(w, ZERO_OP_GATHER, ZERO_STREAM_REDUCE, s, use, matrices, ZERO_EXTENT_SLICE, matrices);
    FOR_PARTS(b, s, p)
    {
        const zero_part_t *part = &b->plan->parts[p];
        const task_t *task = begin_task(w, tasks);
        if (part->direction >= 0)
            zero_write_part(w, ZERO_OP_COPY, ZERO_STREAM_COPY, p, use, matrices, part->direction);
        move_params(w, ZERO_OP_APPLY, p, use, part->direction >= 0 ? part->direction : matrices);
        move_state(w, ZERO_OP_WRITE, task);
    }
}

/* Updates one unit, then gathers its parameters on every rank. */
static void update_unit(zero_program_writer_t *w, int32_t unit, tasks_t *tasks)
{
    const zero_builder_t *b = w->b;
    int32_t use = b->units[unit].first_use;

    FOR_SEGMENTS(b, unit, s)
    {
        if (b->plan->segments[s].whole) {
            update_whole(w, s, use, tasks);
            continue;
        }
        FOR_PARTS(b, s, p)
        {
            const task_t *task = begin_task(w, tasks);
            move_params(w, ZERO_OP_UPDATE, p, use, update_grad(b, p));
            move_state(w, ZERO_OP_WRITE, task);
        }
    }
    FOR_SEGMENTS(b, unit, s)
    {
        const zero_segment_t *segment = &b->plan->segments[s];
        int32_t param = segment->buffer[ZERO_ROLE_PARAM], shard = segment->buffer[ZERO_ROLE_PARAM_SHARD];
        const zero_placement_t *at = zero_build_at(b, segment);
        if (segment->trainable && at->shard_optimizer && !b->units[unit].slotted)
            zero_write_gather(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, param, ZERO_EXTENT_SLICE, param);
        else if (segment->trainable && at->keeps == ZERO_EXTENT_SHARD)
            zero_write_collective(w, ZERO_OP_GATHER, ZERO_STREAM_GATHER, s, use, zero_plan_inner(b->spec, segment),
                                  shard, ZERO_EXTENT_SLICE, shard, ZERO_EXTENT_SHARD);
    }
}

void zero_write_step(zero_program_writer_t *w)
{
    zero_builder_t *b = w->b;
    tasks_t tasks;

    zero_write_plain(w, ZERO_OP_HOST_WAIT, ZERO_STREAM_REDUCE, -1, -1, 0);
    uint64_t words = (uint64_t)b->plan->segment_count + ZERO_EXCHANGE_WORDS;
    zero_write_op(w, (zero_op_t){.kind = ZERO_OP_EXCHANGE,
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
    if (w->status != ZERO_OK || (w->status = list_tasks(w, &tasks)) != ZERO_OK)
        return;
    for (int32_t t = 0; t < tasks.count; t++)
        if (b->plan->parts[tasks.list[t].part].tier == ZERO_TIER_NVME) {
            bring_state(w, &tasks.list[t]); /* the first one; each task prefetches the next */
            break;
        }
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        update_unit(w, b->order[i], &tasks);
    free(tasks.list);
}
