/* SPDX-License-Identifier: Apache-2.0 */
/* check_pipe.c - runs the programs of all stages against each other. Each stream is a queue. What a stage does not do
 * by itself is a transfer, or a collective of two stages that share a unit: both ends wait for the other. If no queue
 * can go on, what they wait for is a circle, or an end without another. */
#include "zero/plan/check.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct stage {
    const zero_plan_t *plan;
    const zero_program_t *program;
    int32_t next[ZERO_STREAM_COUNT]; /* by stream: no operation before this one is left */
    int32_t *latest;                 /* by operation, for a WAIT: the record before it in the program; -1: none */
    bool *recorded; /* by operation: it is a record that has run. An event's records run in any order */
} stage_t;

static int stage_after(int stage, int count, int step)
{
    return (stage + step + count) % count;
}

/* The queue at the other end of a link. */
static int other_end(int stage, int stream, int count, int *other)
{
    bool down = stream == ZERO_STREAM_FROM_PREV || stream == ZERO_STREAM_TO_NEXT,
         sends = stream == ZERO_STREAM_TO_NEXT || stream == ZERO_STREAM_TO_PREV;
    *other = stage_after(stage, count, down == sends ? 1 : -1);
    return down ? (sends ? ZERO_STREAM_FROM_PREV : ZERO_STREAM_TO_NEXT)
                : (sends ? ZERO_STREAM_FROM_NEXT : ZERO_STREAM_TO_PREV);
}

/* The next operation of a stream; NULL: it has none left. */
static const zero_op_t *next_of(stage_t *s, int stream)
{
    int32_t *next = &s->next[stream];
    while (*next < s->program->op_count && s->program->ops[*next].stream != stream)
        (*next)++;
    return *next < s->program->op_count ? &s->program->ops[*next] : NULL;
}

static bool transfers(const zero_op_t *op)
{
    return op->kind == ZERO_OP_SEND || op->kind == ZERO_OP_RECV;
}

/* Whether it is a collective of two stages. */
static bool is_tied(const stage_t *s, const zero_op_t *op)
{
    return zero_op_collects(op) && (s->plan->spec->groups[op->group].axes & ZERO_ALONG_TIE);
}

/* Whether the calling thread works itself on a stream, and so issues nothing behind it before that is done. */
static bool is_callers(const stage_t *s, int stream)
{
    bool apart = stream == ZERO_STREAM_IO || stream == ZERO_STREAM_SAVE || stream >= ZERO_STREAM_FROM_PREV;
    return stream == ZERO_STREAM_COMPUTE || (!s->plan->spec->device.asynchronous && !apart);
}

/* Whether the calling thread has come to an operation. On a GPU it is ahead of COMPUTE; then less can be stuck. */
static bool is_issued(stage_t *s, const zero_op_t *op)
{
    for (int stream = 0; stream < ZERO_STREAM_COUNT; stream++) {
        const zero_op_t *at = is_callers(s, stream) ? next_of(s, stream) : NULL;
        if (at != NULL && op > at)
            return false;
    }
    return true;
}

/* Whether the next operation of a stream can run by itself. */
static bool can_run(stage_t *s, const zero_op_t *op)
{
    int32_t index = (int32_t)(op - s->program->ops);
    if (!is_issued(s, op))
        return false;
    return op->kind != ZERO_OP_WAIT || s->latest[index] < 0 || s->recorded[s->latest[index]];
}

static void advance(stage_t *s, const zero_op_t *op)
{
    if (op->kind == ZERO_OP_RECORD)
        s->recorded[op - s->program->ops] = true;
    s->next[op->stream]++;
}

static const zero_plan_task_t *task_of(const stage_t *s, const zero_op_t *op)
{
    return &s->plan->passes[s->program->pass].tasks[op->use];
}

/* "stage 1 waits in RECV of activations of chunk 0, micro-step 4" */
static void describe(const stage_t *s, const zero_op_t *op, char *text, size_t size)
{
    const zero_plan_task_t *task = task_of(s, op);
    bool down = op->stream == ZERO_STREAM_FROM_PREV || op->stream == ZERO_STREAM_TO_NEXT;
    int32_t chunk = op->kind == ZERO_OP_SEND ? task->chunk : down ? task->chunk - 1 : task->chunk + 1;
    snprintf(text, size, "stage %d in %s of %s of chunk %d, micro-step %d", s->plan->pipe,
             zero_op_name((zero_op_kind_t)op->kind), down ? "the output" : "the input's gradient", chunk,
             task->micro + 1);
}

static zero_status_t differ(const stage_t *a, const zero_op_t *x, const stage_t *b, const zero_op_t *y,
                            zero_error_t *error)
{
    char one[120], two[120];
    describe(a, x, one, sizeof one);
    describe(b, y, two, sizeof two);
    return zero_fail(error, ZERO_ERR_PLAN, "%s meets %s: they are not the same transfer", one, two);
}

/* Runs the transfer that op, the next one of its stream, is one end of. *ran: the other end is there, too. */
static zero_status_t meet(stage_t *stages, int count, int at, const zero_op_t *op, bool *ran, zero_error_t *error)
{
    int other, stream = other_end(at, op->stream, count, &other);
    stage_t *a = &stages[at], *b = &stages[other];
    const zero_op_t *peer = next_of(b, stream);
    *ran = peer != NULL && transfers(peer) && can_run(b, peer);
    if (!*ran)
        return ZERO_OK;
    const zero_plan_task_t *x = task_of(a, op), *y = task_of(b, peer);
    bool sends = op->kind == ZERO_OP_SEND,
         down = op->stream == ZERO_STREAM_TO_NEXT || op->stream == ZERO_STREAM_FROM_PREV;
    const zero_plan_task_t *from = sends ? x : y, *to = sends ? y : x;
    const zero_buffer_t *out = sends ? &a->plan->buffers[op->src] : &b->plan->buffers[peer->src],
                        *in = sends ? &b->plan->buffers[peer->dst] : &a->plan->buffers[op->dst];
    if (from->micro != to->micro || from->phase != to->phase || to->chunk != from->chunk + (down ? 1 : -1) ||
        from->phase != (down ? ZERO_FORWARD : ZERO_BACKWARD) || out->elements != in->elements ||
        out->format.dtype != in->format.dtype || op->kind == peer->kind)
        return differ(a, op, b, peer, error);
    advance(a, op);
    advance(b, peer);
    return ZERO_OK;
}

/* Runs the collective of two stages that op is one end of. */
static zero_status_t meet_tied(stage_t *stages, int at, const zero_op_t *op, bool *ran, zero_error_t *error)
{
    const int32_t *tied = stages[at].plan->spec->tied;
    stage_t *a = &stages[at], *b = &stages[tied[0] == at ? tied[1] : tied[0]];
    const zero_op_t *peer = next_of(b, op->stream);
    *ran = peer != NULL && is_tied(b, peer) && can_run(b, peer);
    if (!*ran)
        return ZERO_OK;
    if (peer->kind != op->kind || peer->segment != op->segment || peer->count != op->count)
        return zero_fail(error, ZERO_ERR_PLAN, "stages %d and %d are in different collectives of units that they share",
                         a->plan->pipe, b->plan->pipe);
    advance(a, op);
    advance(b, peer);
    return ZERO_OK;
}

/* Names the transfers at which stages stand. */
static zero_status_t stuck(stage_t *stages, int count, zero_error_t *error)
{
    char text[800];
    size_t used = 0;
    for (int p = 0; p < count; p++)
        for (int s = ZERO_STREAM_FROM_PREV; s < ZERO_STREAM_COUNT; s++) {
            const zero_op_t *op = next_of(&stages[p], s);
            if (op == NULL || !transfers(op) || !can_run(&stages[p], op) || used + 130 > sizeof text)
                continue;
            char one[120];
            describe(&stages[p], op, one, sizeof one);
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used > 0 ? ", " : "", one);
        }
    return zero_fail(error, ZERO_ERR_PLAN, "the stages of the pipeline wait for each other forever: %s",
                     used > 0 ? text : "none of them at a transfer");
}

static zero_status_t run(stage_t *stages, int count, zero_error_t *error)
{
    bool moved = true;
    while (moved) {
        moved = false;
        for (int p = 0; p < count; p++)
            for (int s = 0; s < ZERO_STREAM_COUNT; s++)
                for (const zero_op_t *op = next_of(&stages[p], s); op != NULL && can_run(&stages[p], op);
                     op = next_of(&stages[p], s)) {
                    bool ran = true;
                    zero_status_t status = ZERO_OK;
                    if (transfers(op))
                        status = meet(stages, count, p, op, &ran, error);
                    else if (is_tied(&stages[p], op))
                        status = meet_tied(stages, p, op, &ran, error);
                    else
                        advance(&stages[p], op);
                    if (status != ZERO_OK)
                        return status;
                    if (!ran)
                        break;
                    moved = true;
                }
    }
    for (int p = 0; p < count; p++)
        for (int s = 0; s < ZERO_STREAM_COUNT; s++)
            if (next_of(&stages[p], s) != NULL)
                return stuck(stages, count, error);
    return ZERO_OK;
}

/* Prepares a stage for a program. */
static zero_status_t begin(stage_t *s, const zero_plan_t *plan, const zero_program_t *program, zero_error_t *error)
{
    *s = (stage_t){.plan = plan, .program = program};
    s->recorded = calloc((size_t)program->op_count + 1, sizeof *s->recorded);
    s->latest = malloc(((size_t)program->op_count + 1) * sizeof *s->latest);
    int32_t *record = malloc(((size_t)plan->event_count + 1) * sizeof *record); /* by event: the latest so far */
    for (int32_t e = 0; e < plan->event_count && record != NULL; e++)
        record[e] = -1;
    for (int32_t i = 0; i < program->op_count && record != NULL && s->latest != NULL; i++) {
        const zero_op_t *op = &program->ops[i];
        s->latest[i] = op->kind == ZERO_OP_WAIT ? record[op->event] : -1;
        if (op->kind == ZERO_OP_RECORD)
            record[op->event] = i;
    }
    const bool good = s->recorded != NULL && s->latest != NULL && record != NULL;
    free(record);
    return good
               ? ZERO_OK
               : zero_fail(error, ZERO_ERR_MEMORY, "no memory to check a pipeline of %d operations", program->op_count);
}

zero_status_t zero_plan_check_pipe(const zero_plan_t *const *plans, int count, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    stage_t *stages = count > 1 ? calloc((size_t)count, sizeof *stages) : NULL;
    if (count <= 1)
        return ZERO_OK;
    if (stages == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to check a pipeline of %d stages", count);
    for (int32_t i = 0; i < plans[0]->program_count && status == ZERO_OK; i++) {
        zero_program_kind_t kind = plans[0]->programs[i].kind;
        if (kind != ZERO_PROGRAM_ONLY && kind != ZERO_PROGRAM_EVAL && kind != ZERO_PROGRAM_STEP)
            continue;
        for (int p = 0; p < count && status == ZERO_OK; p++) {
            if (plans[p]->program_count <= i || plans[p]->programs[i].kind != kind ||
                plans[p]->programs[i].pass != plans[0]->programs[i].pass)
                status = zero_fail(error, ZERO_ERR_PLAN, "stage %d has other programs than stage 0", p);
            else
                status = begin(&stages[p], plans[p], &plans[p]->programs[i], error);
        }
        if (status == ZERO_OK)
            status = run(stages, count, error);
        for (int p = 0; p < count; p++) {
            free(stages[p].recorded);
            free(stages[p].latest);
            stages[p] = (stage_t){0};
        }
    }
    free(stages);
    return status;
}
