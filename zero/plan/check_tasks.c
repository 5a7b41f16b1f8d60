/* SPDX-License-Identifier: Apache-2.0 */
/* check_tasks.c - the tasks of a pipeline stage: they are those that were declared, each once for each micro-step, and
 * each finds the buffers of its own chunk and micro-step. */
#include "zero/plan/check.h"

#include <stdlib.h>

/* ---- what a stage does ------------------------------------------------------------------------------------------ */

static const zero_spec_task_t *declared(const zero_spec_pass_t *pass, const zero_plan_task_t *task)
{
    for (int32_t t = 0; t < pass->task_count; t++)
        if (pass->tasks[t].chunk == task->chunk && pass->tasks[t].phase == task->phase)
            return &pass->tasks[t];
    return NULL;
}

static bool same_uses(const zero_spec_use_t *a, const zero_spec_use_t *b, int32_t count)
{
    for (int32_t i = 0; i < count; i++)
        if (a[i].unit != b[i].unit || a[i].flags != b[i].flags)
            return false;
    return true;
}

/* Whether it has a buffer of so many bytes exactly if it needs one. */
static bool is_fit(const zero_plan_t *plan, int32_t buffer, zero_tier_t tier, uint64_t bytes)
{
    if (buffer < 0 || bytes == 0)
        return buffer == -1 && bytes == 0;
    const zero_buffer_t *x = buffer < plan->buffer_count ? &plan->buffers[buffer] : NULL;
    return x != NULL && x->segment < 0 && x->part < 0 && x->tier == tier && x->kind == ZERO_KIND_ACTIVATIONS &&
           x->bytes >= bytes && x->slot >= 0;
}

/* The bytes that a chunk hands to the next one. */
static uint64_t link_bytes(const zero_spec_t *spec, int32_t chunk)
{
    return chunk < 0 ? 0
                     : (uint64_t)spec->chunks[chunk].link * (uint64_t)zero_dtype_size(spec->chunks[chunk].link_dtype);
}

static zero_status_t check_buffers(const zero_checker_t *c, const zero_plan_task_t *t)
{
    const zero_spec_t *spec = c->plan->spec;
    uint64_t in = link_bytes(spec, t->chunk - 1), out = link_bytes(spec, t->chunk);
    bool forward = t->phase == ZERO_FORWARD;
    if (!is_fit(c->plan, t->input, ZERO_TIER_DEVICE, in) ||
        !is_fit(c->plan, t->output, ZERO_TIER_DEVICE, forward ? out : 0) ||
        !is_fit(c->plan, t->output_grad, ZERO_TIER_DEVICE, forward ? 0 : out) ||
        !is_fit(c->plan, t->input_grad, ZERO_TIER_DEVICE, forward ? 0 : in) ||
        !is_fit(c->plan, t->kept[ZERO_TIER_DEVICE], ZERO_TIER_DEVICE, spec->chunks[t->chunk].kept[ZERO_TIER_DEVICE]) ||
        !is_fit(c->plan, t->kept[ZERO_TIER_HOST], ZERO_TIER_HOST, spec->chunks[t->chunk].kept[ZERO_TIER_HOST]))
        return zero_check_fail(c, "a task of chunk %d lacks a buffer, or has one that it must not have", t->chunk);
    return ZERO_OK;
}

/* Checks that the tasks of a pass are those of its chunks, each once for each micro-step, with a forward task before
 * its backward task. seen: [chunks of the stage][micro-steps]: phases so far. */
static zero_status_t check_pass(const zero_checker_t *c, int32_t index, uint8_t *seen)
{
    const zero_spec_t *spec = c->plan->spec;
    const zero_spec_pass_t *pass = &spec->passes[index];
    const zero_plan_pass_t *own = &c->plan->passes[index];
    const bool trains = pass->kind == ZERO_PASS_TRAIN;
    int32_t micros = trains ? spec->micro_steps : 1, next = 0, pipes = spec->mesh.pipe,
            chunks = spec->chunk_count / pipes;
    zero_status_t status = ZERO_OK;
    if (own->task_count != chunks * micros * (trains ? 2 : 1))
        return zero_check_fail(c, "pass '%s' has %d tasks", pass->name, own->task_count);
    for (int32_t i = 0; i < own->task_count && status == ZERO_OK; i++) {
        const zero_plan_task_t *t = &own->tasks[i];
        bool known = t->chunk >= 0 && t->chunk < spec->chunk_count && t->chunk % pipes == c->plan->pipe &&
                     t->micro >= 0 && t->micro < micros;
        const zero_spec_task_t *from = known ? declared(pass, t) : NULL;
        uint8_t *phases = known ? &seen[t->chunk / pipes * micros + t->micro] : NULL;
        if (from == NULL || *phases != (t->phase == ZERO_FORWARD ? 0 : 1))
            return zero_check_fail(c, "task %d of pass '%s' is not one of the stage's, or comes twice or too early", i,
                                   pass->name);
        (*phases)++;
        int32_t end = from + 1 < pass->tasks + pass->task_count ? from[1].first_use : pass->use_count;
        if (t->first_use != next || t->use_count != end - from->first_use || t->use_count > own->use_count - next ||
            !same_uses(&own->uses[next], &pass->uses[from->first_use], t->use_count))
            return zero_check_fail(c, "task %d of pass '%s' has other uses than were declared", i, pass->name);
        next += t->use_count;
        status = check_buffers(c, t);
    }
    return status == ZERO_OK && next != own->use_count
               ? zero_check_fail(c, "pass '%s' has uses outside of its tasks", pass->name)
               : status;
}

zero_status_t zero_check_tasks(const zero_checker_t *c)
{
    const zero_spec_t *spec = c->plan->spec;
    zero_status_t status = ZERO_OK;
    for (int32_t p = 0; p < spec->pass_count && status == ZERO_OK; p++) {
        const zero_spec_pass_t *pass = &spec->passes[p];
        const zero_plan_pass_t *own = &c->plan->passes[p];
        if (spec->chunk_count == 0 || pass->kind == ZERO_PASS_ANY_ORDER) {
            if (own->task_count != 0 || own->use_count != pass->use_count ||
                !same_uses(own->uses, pass->uses, pass->use_count))
                status = zero_check_fail(c, "pass '%s' has other uses than were declared", pass->name);
            continue;
        }
        uint8_t *seen = calloc((size_t)spec->chunk_count * (size_t)spec->micro_steps, 1);
        status = seen ? check_pass(c, p, seen) : zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check tasks");
        free(seen);
    }
    return status;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static const zero_plan_task_t *task_of(const zero_checker_t *c, const zero_op_t *op)
{
    return &c->plan->passes[c->program->pass].tasks[op->use];
}

static zero_content_t content_of(zero_content_kind_t kind, int32_t chunk, int32_t micro)
{
    return (zero_content_t){.kind = (uint8_t)kind, .segment = chunk, .first = micro};
}

/* Checks that a buffer holds this; buffer -1 needs nothing. */
static zero_status_t expect(const zero_checker_t *c, int stream, int32_t buffer, zero_content_t wanted)
{
    zero_content_t content;
    zero_status_t status;
    if (buffer < 0)
        return ZERO_OK;
    zero_operand_t x = zero_check_operand(c, buffer, false, -1);
    if ((status = zero_check_may_read(c, stream, &x)) != ZERO_OK ||
        (status = zero_check_content(c, &x, &content)) != ZERO_OK)
        return status;
    return content.kind == wanted.kind && content.segment == wanted.segment && content.first == wanted.first
               ? ZERO_OK
               : zero_check_fail(c, "it reads a buffer that holds something else than chunk %d of micro-step %d",
                                 wanted.segment, wanted.first + 1);
}

/* What a task reads and writes, in the order of zero_plan_task_t: whether it finds something there, and whether it
 * leaves something. */
typedef struct access {
    int32_t buffer;
    bool reads, writes;
    zero_content_t before, after;
} access_t;

static int accesses_of(const zero_plan_task_t *t, access_t list[ZERO_TASK_BUFFERS])
{
    bool forward = t->phase == ZERO_FORWARD;
    zero_content_t input = content_of(ZERO_HOLDS_ACTIVATION, t->chunk - 1, t->micro),
                   output = content_of(ZERO_HOLDS_ACTIVATION, t->chunk, t->micro),
                   output_grad = content_of(ZERO_HOLDS_ACTIVATION_GRAD, t->chunk, t->micro),
                   input_grad = content_of(ZERO_HOLDS_ACTIVATION_GRAD, t->chunk - 1, t->micro),
                   kept = content_of(ZERO_HOLDS_KEPT, t->chunk, t->micro), none = content_of(ZERO_HOLDS_NOTHING, 0, 0);
    int n = 0;
    list[n++] = (access_t){t->input, true, false, input, input};
    list[n++] = (access_t){t->output, false, true, none, output};
    list[n++] = (access_t){t->output_grad, true, false, output_grad, output_grad};
    list[n++] = (access_t){t->input_grad, false, true, none, input_grad};
    for (int tier = 0; tier < ZERO_TIER_NVME; tier++)
        list[n++] = (access_t){t->kept[tier], !forward, true, kept, forward ? kept : none};
    return n;
}

static zero_status_t do_task(zero_checker_t *c, const zero_op_t *op)
{
    access_t list[ZERO_TASK_BUFFERS];
    zero_status_t status = ZERO_OK;
    if (op->use != c->next_task || c->in_task || op->stream != ZERO_STREAM_COMPUTE)
        return zero_check_fail(c, "task %d is not the next one", op->use);
    int n = accesses_of(task_of(c, op), list);
    for (int i = 0; i < n && status == ZERO_OK; i++) {
        if (list[i].buffer < 0)
            continue;
        zero_operand_t x = zero_check_operand(c, list[i].buffer, false, -1);
        if (list[i].reads)
            status = expect(c, op->stream, list[i].buffer, list[i].before);
        if (list[i].writes && status == ZERO_OK)
            status = zero_check_may_write(c, op->stream, &x);
        if (status == ZERO_OK)
            zero_check_set_open(c, &x, !list[i].writes, list[i].writes);
    }
    c->in_task = true;
    return status;
}

static zero_status_t do_task_end(zero_checker_t *c, const zero_op_t *op)
{
    access_t list[ZERO_TASK_BUFFERS];
    const zero_plan_task_t *t = task_of(c, op);
    if (op->use != c->next_task || !c->in_task || op->stream != ZERO_STREAM_COMPUTE || c->opened > 0 ||
        c->next_use != t->first_use + t->use_count)
        return zero_check_fail(c, "it ends task %d, which has not begun, or has uses that have not ended", op->use);
    int n = accesses_of(t, list);
    for (int i = 0; i < n; i++) {
        if (list[i].buffer < 0)
            continue;
        zero_operand_t x = zero_check_operand(c, list[i].buffer, false, -1);
        zero_check_set_open(c, &x, -(int)!list[i].writes, -(int)list[i].writes);
        zero_content_t content = list[i].after;
        content.base = x.base;
        if (list[i].writes)
            zero_check_did_write(c, op->stream, &x, content);
        else
            zero_check_did_read(c, op->stream, &x);
    }
    c->in_task = false;
    c->next_task++;
    return ZERO_OK;
}

static zero_status_t do_send(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_task_t *t = task_of(c, op);
    bool down = op->stream == ZERO_STREAM_TO_NEXT;
    if ((!down && op->stream != ZERO_STREAM_TO_PREV) || op->src != (down ? t->output : t->input_grad))
        return zero_check_fail(c, "it does not send what its task has written, or not on the link for it");
    zero_content_t wanted = down ? content_of(ZERO_HOLDS_ACTIVATION, t->chunk, t->micro)
                                 : content_of(ZERO_HOLDS_ACTIVATION_GRAD, t->chunk - 1, t->micro);
    zero_status_t status = expect(c, op->stream, op->src, wanted);
    if (status != ZERO_OK)
        return status;
    zero_operand_t x = zero_check_operand(c, op->src, false, -1);
    zero_check_did_read(c, op->stream, &x);
    c->transfers++;
    return ZERO_OK;
}

static zero_status_t do_recv(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_task_t *t = task_of(c, op);
    bool down = op->stream == ZERO_STREAM_FROM_PREV;
    if ((!down && op->stream != ZERO_STREAM_FROM_NEXT) || op->dst < 0 ||
        op->dst != (down ? t->input : t->output_grad) || t->phase != (down ? ZERO_FORWARD : ZERO_BACKWARD))
        return zero_check_fail(c, "it does not receive what its task reads, or not on the link for it");
    zero_operand_t x = zero_check_operand(c, op->dst, false, -1);
    zero_status_t status = zero_check_may_write(c, op->stream, &x);
    if (status != ZERO_OK)
        return status;
    zero_content_t content = down ? content_of(ZERO_HOLDS_ACTIVATION, t->chunk - 1, t->micro)
                                  : content_of(ZERO_HOLDS_ACTIVATION_GRAD, t->chunk, t->micro);
    content.base = x.base;
    zero_check_did_write(c, op->stream, &x, content);
    c->transfers++;
    return ZERO_OK;
}

zero_status_t zero_check_task_op(zero_checker_t *c, const zero_op_t *op)
{
    return op->kind == ZERO_OP_TASK       ? do_task(c, op)
           : op->kind == ZERO_OP_TASK_END ? do_task_end(c, op)
           : op->kind == ZERO_OP_SEND     ? do_send(c, op)
                                          : do_recv(c, op);
}

zero_status_t zero_check_tasks_done(const zero_checker_t *c)
{
    const zero_plan_pass_t *pass = c->program->pass >= 0 ? &c->plan->passes[c->program->pass] : NULL;
    int32_t wanted = 0;
    for (int32_t i = 0; pass != NULL && i < pass->task_count; i++) {
        const zero_plan_task_t *t = &pass->tasks[i];
        wanted += (t->output >= 0) + (t->input_grad >= 0) + (t->output_grad >= 0) +
                  (t->phase == ZERO_FORWARD && t->input >= 0);
    }
    int32_t tasks = pass != NULL ? pass->task_count : 0;
    return c->next_task == tasks && c->transfers == wanted
               ? ZERO_OK
               : zero_check_fail(c, "%d of %d tasks have ended, with %d of %d transfers", c->next_task, tasks,
                                 c->transfers, wanted);
}
