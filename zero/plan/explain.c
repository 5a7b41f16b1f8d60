/* SPDX-License-Identifier: Apache-2.0 */
/* explain.c - the plan as text. Golden files contain it byte for byte, so the output depends on the plan alone. */
#include "zero/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>

/* The buffers of tasks, in the order of zero_plan_task_t. */
static const char *const task_buffers[ZERO_TASK_BUFFERS] = {"input",      "output", "output-grad",
                                                            "input-grad", "kept",   "host-kept"};

/* A buffer of tasks: which of them, and its number among those of its chunk. */
typedef struct task_buffer {
    bool used;
    int what;
    int32_t chunk, number;
} task_buffer_t;

typedef struct out {
    zero_write_fn write;
    void *ctx;
    task_buffer_t *tasks; /* by buffer; NULL: no memory for them */
} out_t;

static void print(const out_t *o, const char *format, ...) ZERO_PRINTF(2, 3);
static void print(const out_t *o, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0)
        return;
    size_t bytes = (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    o->write(o->ctx, line, bytes);
}

typedef struct sharding {
    char s[40];
} sharding_t;

static void list_of_task(const zero_plan_task_t *t, int32_t list[ZERO_TASK_BUFFERS])
{
    const int32_t buffers[ZERO_TASK_BUFFERS] = {
        t->input, t->output, t->output_grad, t->input_grad, t->kept[ZERO_TIER_DEVICE], t->kept[ZERO_TIER_HOST]};
    memcpy(list, buffers, sizeof buffers);
}

/* Finds the buffers of tasks. They are numbered in the order of their indices. */
static task_buffer_t *find_task_buffers(const zero_plan_t *plan)
{
    const size_t chunks = (size_t)plan->spec->chunk_count;
    task_buffer_t *tasks = calloc((size_t)plan->buffer_count + 1, sizeof *tasks);
    int32_t *numbers = calloc(chunks * ZERO_TASK_BUFFERS + 1, sizeof *numbers), list[ZERO_TASK_BUFFERS];
    for (int32_t i = 0; i < plan->spec->pass_count && tasks && numbers; i++)
        for (int32_t t = 0; t < plan->passes[i].task_count; t++) {
            list_of_task(&plan->passes[i].tasks[t], list);
            for (int k = 0; k < ZERO_TASK_BUFFERS; k++)
                if (list[k] >= 0)
                    tasks[list[k]] = (task_buffer_t){true, k, plan->passes[i].tasks[t].chunk, 0};
        }
    for (int32_t i = 0; i < plan->buffer_count && tasks && numbers; i++)
        if (tasks[i].used)
            tasks[i].number = numbers[tasks[i].chunk * ZERO_TASK_BUFFERS + tasks[i].what]++;
    free(numbers);
    return tasks;
}

/* ranks: over how many the row is sharded; in a mesh of several replicas or stages they may be fewer than all. */
static sharding_t sharding(const zero_spec_t *spec, const zero_row_t *row, int ranks)
{
    sharding_t t = {"sharded"};
    if (row->sharding == ZERO_FULL)
        snprintf(t.s, sizeof t.s, "full");
    else if (ranks == 1)
        snprintf(t.s, sizeof t.s, "sharded over 1 rank: full");
    else if (spec->mesh.replicas > 1 || spec->mesh.pipe > 1 || spec->mesh.tensor > 1)
        snprintf(t.s, sizeof t.s, "sharded over %d ranks", ranks);
    return t;
}

/* The stage, and its chunks. */
static void explain_stage(const out_t *o, const zero_plan_t *plan)
{
    const zero_spec_t *spec = plan->spec;
    int32_t own = spec->chunk_count / spec->mesh.pipe;
    print(o, "  pipeline    stage %d of %d, schedule %s, chunk%s", plan->pipe, spec->mesh.pipe,
          zero_schedule_name(spec->schedule), own == 1 ? "" : "s");
    for (int32_t i = 0; i < own; i++)
        print(o, "%s %d", i > 0 ? "," : "", i * spec->mesh.pipe + plan->pipe);
    print(o, " of %d\n", spec->chunk_count);
}

static void explain_group(const out_t *o, const zero_spec_t *spec, int g)
{
    const zero_spec_group_t *group = &spec->groups[g];
    const bool tensor = group->axes & ZERO_ALONG_TENSOR, context = group->axes & ZERO_ALONG_CONTEXT,
               replica = group->axes & ZERO_ALONG_REPLICA;
    print(o, "  group %d of %d ranks, the %s", g, group->size,
          group->axes & ZERO_ALONG_SHARD  ? "shards of a replica"
          : group->axes & ZERO_ALONG_NODE ? "shards of a node"
          : tensor                        ? "places of tensor parallelism"
          : context                       ? "parts of the same sequences"
          : replica                       ? "replicas of a shard"
                                          : "ranks of a shard");
    if (tensor && replica)
        print(o, " of all replicas of a shard");
    if (group->axes & ZERO_ALONG_TIE)
        print(o, " on stages %d and %d", spec->tied[0], spec->tied[1]);
    if (group->axes & ZERO_ALONG_CALLS)
        print(o, ", for the program's collectives");
    print(o, ", communicator %s\n", group->caps.name);
}

static void explain_table(const out_t *o, const zero_plan_t *plan)
{
    const zero_spec_t *spec = plan->spec;
    int copies = zero_plan_copies(spec) / spec->mesh.tensor, shards = zero_plan_shards(spec);
    print(o, "plan for %d rank%s", spec->world, spec->world == 1 ? "" : "s");
    if (spec->mesh.pipe > 1)
        print(o, ": %d stages", spec->mesh.pipe);
    if (spec->mesh.replicas > 1)
        print(o, "%s %d replicas", spec->mesh.pipe > 1 ? " of" : ":", spec->mesh.replicas);
    bool of = spec->mesh.pipe > 1 || spec->mesh.replicas > 1;
    if (of || spec->mesh.tensor > 1)
        print(o, "%s %d shard%s", of ? " of" : ":", shards, shards == 1 ? "" : "s");
    if (spec->mesh.tensor > 1)
        print(o, " of %d ranks", spec->mesh.tensor);
    print(o, "\n");
    if (spec->chunk_count > 0)
        explain_stage(o, plan);
    print(o, "  parameters  %s, %s, window %d, units below %lld bytes stay full",
          sharding(spec, &spec->parameters, spec->parameters.tier == ZERO_TIER_DEVICE ? shards : copies).s,
          zero_tier_name(spec->parameters.tier), spec->window, (long long)spec->persist_bytes);
    if (spec->gather_codec != ZERO_CODEC_NONE && zero_plan_shards(spec) > 1)
        print(o, ", gathered as %s codes", zero_codec_name(spec->gather_codec));
    print(o, "\n");
    bool coded = spec->reduce_codec != ZERO_CODEC_NONE && spec->world > 1;
    print(o, "  gradients   %s, %s, %s%s on the wire\n", sharding(spec, &spec->gradients, copies).s,
          zero_tier_name(spec->gradients.tier),
          coded ? zero_codec_name(spec->reduce_codec) : zero_dtype_name(spec->reduce_dtype), coded ? " codes" : "");
    print(o, "  optimizer   %s, %s", sharding(spec, &spec->optimizer, copies).s, zero_tier_name(spec->optimizer.tier));
    if (spec->optimizer.tier != ZERO_TIER_DEVICE && spec->offload_ratio < 1)
        print(o, " for %g of it", spec->offload_ratio);
    print(o, "\n");
    print(o, "  micro-steps at most %d, reduced %s\n", spec->micro_steps,
          spec->reduce == ZERO_REDUCE_EVERY ? "every micro-step" : "once a step");
    print(o, "  communicator %s, %d channel%s; device %s\n", spec->groups[0].caps.name, spec->channels,
          spec->channels == 1 ? "" : "s", spec->device.name);
    for (int g = 1; g < spec->group_count; g++)
        explain_group(o, spec, g);
}

static void print_param(const out_t *o, const zero_plan_t *plan, int32_t param)
{
    const zero_placed_t *placed = &plan->placed[param];
    print(o, "      %-24s %lld elements at %lld", plan->spec->params[param].name,
          (long long)plan->spec->params[param].count, (long long)placed->offset);
    if (placed->owner >= 0)
        print(o, ", made whole by rank %d", zero_plan_rank(plan, placed->segment, placed->owner));
    print(o, "\n");
}

static void print_run(const out_t *o, const zero_run_t *run)
{
    print(o, "      run %lld..%lld decay x %g, rate x %g", (long long)run->begin, (long long)run->end, run->decay_scale,
          run->lr_scale);
    if (run->rows > 0)
        print(o, ", a matrix of %lld x %lld", (long long)run->rows, (long long)run->cols);
    print(o, "\n");
}

static void explain_units(const out_t *o, const zero_plan_t *plan)
{
    int32_t s = 0;
    print(o, "\nunits\n");
    for (int32_t u = 0; u < plan->spec->unit_count; u++) {
        const zero_segment_t *first =
            s < plan->segment_count && plan->segments[s].unit == u ? &plan->segments[s] : NULL;
        print(o, "  %s", plan->spec->units[u].name);
        if (first != NULL && zero_plan_is_tied(first))
            print(o, ", shared by stages %d and %d", first->pipe[0], first->pipe[1]);
        else if (first != NULL && !zero_plan_has(plan, first))
            print(o, ", on stage %d", first->pipe[0]);
        print(o, "\n");
        if (first != NULL && !zero_plan_has(plan, first)) {
            while (s < plan->segment_count && plan->segments[s].unit == u)
                s++;
            continue;
        }
        for (; s < plan->segment_count && plan->segments[s].unit == u; s++) {
            const zero_segment_t *x = &plan->segments[s];
            print(o, "    segment %d  %s %s  %lld elements, slice %lld", s, zero_dtype_name(x->dtype),
                  x->trainable ? "trainable" : "frozen", (long long)x->elements, (long long)x->slice);
            if (plan->spec->mesh.replicas > 1 || x->spread == ZERO_SPREAD_SUMMED)
                print(o, " of shard %lld", (long long)x->shard);
            if (plan->spec->mesh.tensor > 1)
                print(o, ", %s",
                      x->spread == ZERO_SPREAD_PARTS    ? "a part for each place"
                      : x->spread == ZERO_SPREAD_SUMMED ? "gradients summed over places"
                                                        : "the same at each place");
            bool coded = plan->spec->reduce_codec != ZERO_CODEC_NONE && zero_plan_is_shared(x);
            if (x->trainable)
                print(o, ", gradients %s%s on the wire, %s for the update",
                      coded ? zero_codec_name(plan->spec->reduce_codec) : zero_dtype_name(x->wire),
                      coded ? " codes" : "", zero_dtype_name(x->final));
            print(o, "\n");
            for (int32_t p = 0; p < plan->spec->param_count; p++)
                if (plan->placed[p].segment == s)
                    print_param(o, plan, p);
            for (int32_t r = x->first_run; r < x->first_run + x->run_count; r++)
                print_run(o, &plan->runs[r]);
        }
    }
}

/* The index of the segment's first part; of its first piece, if part is a piece. */
static int32_t first_of(const zero_plan_t *plan, int32_t segment, int32_t part)
{
    return part < plan->part_count ? plan->segments[segment].first_part : plan->segments[segment].first_piece;
}

static bool is_of_many(const zero_plan_t *plan, int32_t segment, int32_t part)
{
    return (part < plan->part_count ? plan->segments[segment].part_count : plan->segments[segment].piece_count) > 1;
}

/* "block.0.param.3", "norms", ... */
static void print_buffer(const out_t *o, const zero_plan_t *plan, int32_t index)
{
    const zero_buffer_t *x = &plan->buffers[index];
    if (x->segment >= 0)
        print(o, "%s.%s.%d", plan->spec->units[plan->segments[x->segment].unit].name, zero_role_name(x->role, x->state),
              x->segment);
    if (x->part >= 0 && is_of_many(plan, x->segment, x->part))
        print(o, ".%d", x->part - first_of(plan, x->segment, x->part));
    if (x->segment >= 0)
        return;
    if (o->tasks != NULL && o->tasks[index].used)
        print(o, "%s %d of chunk %d", task_buffers[o->tasks[index].what], o->tasks[index].number,
              o->tasks[index].chunk);
    else if (index == plan->workspace[ZERO_TIER_DEVICE] || index == plan->workspace[ZERO_TIER_HOST])
        print(o, "workspace");
    else if (index == plan->norms)
        print(o, "norms");
    else if (index == plan->exchange)
        print(o, "exchange");
    else if (index == plan->scalars)
        print(o, "scalars");
    else if (index == plan->host_scratch)
        print(o, "host-scratch");
    else if (index == plan->save_scratch)
        print(o, "save-scratch");
    else
        print(o, index == plan->scratch ? "scratch" : "reserve");
}

static void explain_memory(const out_t *o, const zero_plan_t *plan)
{
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        bool empty = true;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            empty = empty && plan->kind_bytes[tier][kind] == 0;
        if (empty)
            continue;
        print(o, "\nmemory on the %s tier: an arena of %llu bytes\n", zero_tier_name((zero_tier_t)tier),
              (unsigned long long)plan->arena_bytes[tier]);
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
            if (plan->kind_bytes[tier][kind] == 0)
                continue;
            if (kind == ZERO_KIND_RINGS) {
                print(o, "  %s  %llu bytes, outside the arena\n", zero_kind_name((zero_kind_t)kind),
                      (unsigned long long)plan->kind_bytes[tier][kind]);
                continue;
            }
            print(o, "  %s  %llu bytes at %llu\n", zero_kind_name((zero_kind_t)kind),
                  (unsigned long long)plan->kind_bytes[tier][kind], (unsigned long long)plan->kind_offset[tier][kind]);
            for (int32_t i = 0; i < plan->buffer_count; i++) {
                const zero_buffer_t *x = &plan->buffers[i];
                if ((int)x->kind != kind || (int)x->tier != tier)
                    continue;
                print(o, "    %10llu  %10llu  ", (unsigned long long)x->offset, (unsigned long long)x->bytes);
                print_buffer(o, plan, i);
                if (x->segment >= 0)
                    print(o, "  %s",
                          x->format.codec != ZERO_CODEC_NONE ? zero_codec_name(x->format.codec)
                                                             : zero_dtype_name(x->format.dtype));
                if (x->slot >= 0)
                    print(o, "  slot %d", x->slot);
                print(o, "\n");
            }
        }
    }
}

static void print_operand(const out_t *o, const zero_plan_t *plan, const char *before, int32_t buffer,
                          zero_extent_t own)
{
    if (buffer < 0)
        return;
    print(o, "%s", before);
    print_buffer(o, plan, buffer);
    print(o, "%s",
          own == ZERO_EXTENT_SLICE   ? "[own]"
          : own == ZERO_EXTENT_SHARD ? "[shard]"
          : own == ZERO_EXTENT_NODE  ? "[node]"
                                     : "");
}

/* "F2.0 (task 3)", and what it works on or moves. */
static void explain_task_op(const out_t *o, const zero_plan_t *plan, const zero_op_t *op)
{
    const zero_plan_task_t *task = &plan->passes[plan->programs[op->program].pass].tasks[op->use];
    const int pipes = plan->spec->mesh.pipe;
    int32_t list[ZERO_TASK_BUFFERS];
    const char *before = ": ";
    print(o, " %c%d.%d (task %d)", task->phase == ZERO_FORWARD ? 'F' : 'B', task->chunk, task->micro, op->use);
    if (op->kind == ZERO_OP_SEND || op->kind == ZERO_OP_RECV) {
        bool sends = op->kind == ZERO_OP_SEND,
             next = op->stream == ZERO_STREAM_TO_NEXT || op->stream == ZERO_STREAM_FROM_NEXT;
        print_operand(o, plan, ": ", sends ? op->src : op->dst, ZERO_EXTENT_WHOLE);
        print(o, ", %lld, %s stage %d", (long long)op->count, sends ? "to" : "from",
              (plan->pipe + (next ? 1 : pipes - 1)) % pipes);
        if (op->bytes > 0)
            print(o, ", receives %llu bytes", (unsigned long long)op->bytes);
    }
    list_of_task(task, list);
    for (int k = 0; k < ZERO_TASK_BUFFERS && op->kind == ZERO_OP_TASK; k++)
        if (list[k] >= 0) {
            print_operand(o, plan, before, list[k], ZERO_EXTENT_WHOLE);
            before = ", ";
        }
    print(o, "\n");
}

/* "h.1 (use 3): gather of 1024 fp32" */
static void explain_collective(const out_t *o, const zero_plan_t *plan, const zero_op_t *op)
{
    static const char *const names[] = {"gather", "reduce-scatter", "sum"};
    const zero_spec_collective_t *c = zero_plan_collective(plan, plan->programs[op->program].pass, op->use, op->flags);
    print(o, " %s (use %d): %s of %lld %s, group %d, receives %llu bytes\n", plan->spec->units[op->unit].name, op->use,
          names[c->kind], (long long)c->count, zero_dtype_name(c->dtype), op->group, (unsigned long long)op->bytes);
}

static void explain_op(const out_t *o, const zero_plan_t *plan, const zero_op_t *op)
{
    print(o, "  %-8s %-14s", zero_stream_name((zero_stream_id_t)op->stream), zero_op_name((zero_op_kind_t)op->kind));
    if (op->kind == ZERO_OP_RECORD || op->kind == ZERO_OP_WAIT || op->kind == ZERO_OP_HOST_WAIT) {
        print(o, " event %d\n", op->event);
        return;
    }
    if (op->kind == ZERO_OP_USE || op->kind == ZERO_OP_RELEASE) {
        print(o, " %s (use %d:%s%s)\n", plan->spec->units[op->unit].name, op->use, op->flags & ZERO_READ ? " read" : "",
              op->flags & ZERO_GRAD ? " grad" : "");
        return;
    }
    if (zero_op_is_of_task(op)) {
        explain_task_op(o, plan, op);
        return;
    }
    if (op->kind == ZERO_OP_COLLECTIVE) {
        explain_collective(o, plan, op);
        return;
    }
    print_operand(o, plan, " ", op->src, op->src_own);
    print_operand(o, plan, op->src >= 0 ? " -> " : " ", op->dst, op->dst_own);
    if (op->part >= 0 && is_of_many(plan, op->segment, op->part))
        print(o, ", %s %d", op->part < plan->part_count ? "part" : "piece",
              op->part - first_of(plan, op->segment, op->part));
    print(o, ", %lld", (long long)op->count);
    if (op->group > 0)
        print(o, ", group %d", op->group);
    if (op->bytes > 0)
        print(o, ", %s %llu bytes",
              op->kind == ZERO_OP_COPY || op->kind == ZERO_OP_READ || op->kind == ZERO_OP_WRITE ? "moves" : "receives",
              (unsigned long long)op->bytes);
    print(o, "\n");
}

void zero_plan_explain(const zero_plan_t *plan, zero_write_fn write, void *ctx)
{
    const out_t out = {write, ctx, find_task_buffers(plan)}, *o = &out;

    explain_table(o, plan);
    explain_units(o, plan);
    explain_memory(o, plan);
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        print(o, "\nprogram %s", zero_program_name(p->kind));
        if (p->pass >= 0)
            print(o, " of pass '%s'", plan->spec->passes[p->pass].name);
        if (p->unit >= 0)
            print(o, ", unit '%s'", plan->spec->units[p->unit].name);
        print(o, ": %d operations\n", p->op_count);
        for (int32_t k = 0; k < p->op_count; k++)
            explain_op(o, plan, &p->ops[k]);
    }
    print(o, "\n%d events\n", plan->event_count);
    free(out.tasks);
}
