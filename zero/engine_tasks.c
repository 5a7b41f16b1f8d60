/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tasks.c - pipelines: chunks and tasks, as they are declared and as they run. */
#include "zero/engine.h"

#include <stdlib.h>

/* ---- declarations ----------------------------------------------------------------------------------------------- */

static zero_status_t check_chunk(zero_engine_t *engine, int32_t chunk)
{
    int32_t count = engine->spec.chunk_count;
    if (chunk >= 0 && chunk < count)
        return ZERO_OK;
    return zero_fail(
        &engine->error, ZERO_ERR_ARG, "there is no chunk %d: %s%d", chunk,
        count > 0 ? "zero_chunks has declared " : "declare them with zero_chunks first, which has declared ", count);
}

zero_status_t zero_chunks(zero_engine_t *engine, int32_t count)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_chunks");
    if (status != ZERO_OK)
        return status;
    zero_spec_t *spec = &engine->spec;
    if (spec->chunk_count > 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "zero_chunks was already called: it has declared %d chunks",
                         spec->chunk_count);
    if (count < 1 || count > ZERO_MAX_WORLD)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_chunks has %d chunks: 1 to %d are possible", count,
                         ZERO_MAX_WORLD);
    if (!(spec->chunks = calloc((size_t)count, sizeof *spec->chunks)))
        return zero_engine_leave(engine, zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for %d chunks", count));
    spec->chunk_count = count;
    return ZERO_OK;
}

zero_status_t zero_chunk_link(zero_engine_t *engine, int32_t chunk, int64_t elements, zero_dtype_t dtype)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_chunk_link");
    if (status != ZERO_OK || (status = check_chunk(engine, chunk)) != ZERO_OK)
        return status;
    if (elements < 1 || elements > INT64_MAX / 8 || zero_dtype_size(dtype) == 0)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "the link of chunk %d has %lld elements of dtype %d: it has at least 1 element of a "
                         "zero_dtype_t",
                         chunk, (long long)elements, (int)dtype);
    engine->spec.chunks[chunk].link = elements;
    engine->spec.chunks[chunk].link_dtype = dtype;
    return ZERO_OK;
}

zero_status_t zero_chunk_reserve(zero_engine_t *engine, int32_t chunk, zero_kind_t kind, zero_tier_t tier,
                                 uint64_t bytes)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_chunk_reserve");
    if (status != ZERO_OK || (status = check_chunk(engine, chunk)) != ZERO_OK)
        return status;
    if (tier != ZERO_TIER_DEVICE && tier != ZERO_TIER_HOST)
        return zero_fail(&engine->error, ZERO_ERR_UNSUPPORTED,
                         "chunk %d cannot reserve memory on tier %d: use the device or host tier", chunk, (int)tier);
    if (kind != ZERO_KIND_ACTIVATIONS && kind != ZERO_KIND_WORKSPACE)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "chunk %d cannot reserve memory of kind %s: use activations or workspace", chunk,
                         zero_kind_name(kind));
    zero_spec_chunk_t *c = &engine->spec.chunks[chunk];
    uint64_t *kept = kind == ZERO_KIND_ACTIVATIONS ? &c->kept[tier] : &c->workspace[tier];
    if (!zero_add_u64(*kept, bytes, &bytes) || bytes > INT64_MAX / 2)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "chunk %d cannot reserve %llu bytes: no machine has that much memory", chunk,
                         (unsigned long long)bytes);
    *kept = bytes;
    return ZERO_OK;
}

zero_status_t zero_task_add(zero_engine_t *engine, zero_pass_t pass, int32_t chunk, zero_phase_t phase)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_task_add");
    if (status != ZERO_OK || (status = check_chunk(engine, chunk)) != ZERO_OK)
        return status;
    if (!zero_engine_has_pass(engine, pass))
        return ZERO_ERR_ARG;
    zero_spec_pass_t *p = &engine->spec.passes[pass];
    if ((phase != ZERO_FORWARD && phase != ZERO_BACKWARD) || p->kind == ZERO_PASS_ANY_ORDER ||
        (p->kind == ZERO_PASS_EVAL && phase == ZERO_BACKWARD))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "pass '%s' cannot have a task of phase %d: a training pass has tasks of ZERO_FORWARD and "
                         "ZERO_BACKWARD, an evaluation of ZERO_FORWARD, an any-order pass none",
                         p->name, (int)phase);
    /* zero_commit checks the order. A pass has at most two tasks for each chunk. */
    int32_t most = 2 * engine->spec.chunk_count;
    if (p->task_count == most)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "pass '%s' has %d tasks already, all that %d chunks can have",
                         p->name, most, engine->spec.chunk_count);
    if (p->tasks == NULL && !(p->tasks = calloc((size_t)most, sizeof *p->tasks)))
        return zero_engine_leave(engine, zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for %d tasks", most));
    p->tasks[p->task_count++] = (zero_spec_task_t){.chunk = chunk, .phase = phase, .first_use = p->use_count};
    return ZERO_OK;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static zero_status_t tasks_begin(zero_engine_t *engine, zero_pass_t pass)
{
    if (!zero_engine_has_pass(engine, pass))
        return ZERO_ERR_ARG;
    const zero_spec_pass_t *p = &engine->spec.passes[pass];
    if (engine->spec.chunk_count == 0 || p->kind == ZERO_PASS_ANY_ORDER)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_tasks_begin of pass '%s', which has no tasks: declare them with zero_chunks and "
                         "zero_task_add, or call zero_micro_begin",
                         p->name);
    return zero_engine_begin(engine, pass, p->kind == ZERO_PASS_TRAIN ? ZERO_LAST : 0, true);
}

zero_status_t zero_tasks_begin(zero_engine_t *engine, zero_pass_t pass)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_tasks_begin");
    return status == ZERO_OK ? zero_engine_leave(engine, tasks_begin(engine, pass)) : status;
}

static void *address(const zero_engine_t *engine, int32_t buffer)
{
    return buffer >= 0 ? zero_exec_address(engine->exec, buffer) : NULL;
}

static zero_status_t task_next(zero_engine_t *engine, zero_task_t *task)
{
    if (engine->pass < 0 || !engine->by_tasks)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_task_next is called outside of tasks: call zero_tasks_begin first");
    const zero_plan_pass_t *pass = &engine->plan->passes[engine->pass];
    zero_status_t status;
    if (engine->task + 1 == pass->task_count) {
        if ((status = zero_engine_end(engine)) != ZERO_OK)
            return status;
        task->phase = ZERO_TASKS_END;
        return ZERO_OK;
    }
    if ((status = zero_exec_next_task(engine->exec, &engine->error)) != ZERO_OK)
        return status;
    const zero_plan_task_t *t = &pass->tasks[++engine->task];
    *task = (zero_task_t){.size = task->size,
                          .chunk = t->chunk,
                          .micro = t->micro,
                          .phase = t->phase,
                          .input = address(engine, t->input),
                          .output = address(engine, t->output),
                          .output_grad = address(engine, t->output_grad),
                          .input_grad = address(engine, t->input_grad),
                          .kept = address(engine, t->kept[ZERO_TIER_DEVICE]),
                          .kept_host = address(engine, t->kept[ZERO_TIER_HOST]),
                          .workspace = address(engine, engine->plan->workspace[ZERO_TIER_DEVICE]),
                          .workspace_host = address(engine, engine->plan->workspace[ZERO_TIER_HOST])};
    return ZERO_OK;
}

zero_status_t zero_task_next(zero_engine_t *engine, zero_task_t *task)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_task_next");
    if (status != ZERO_OK)
        return status;
    zero_task_t own = {.size = sizeof own};
    status = zero_struct_check(task, ZERO_UP_TO(zero_task_t, workspace_host), "zero_task_t", &engine->error);
    if (status != ZERO_OK)
        return status;
    status = zero_engine_leave(engine, task_next(engine, &own));
    zero_struct_init(task, task->size, &own, sizeof own);
    return status;
}

int zero_pipe_size(const zero_engine_t *engine)
{
    return engine ? engine->spec.mesh.pipe : 0;
}

int zero_pipe_index(const zero_engine_t *engine)
{
    return engine ? zero_plan_pipe(&engine->spec, engine->rank) : -1;
}

int zero_data_size(const zero_engine_t *engine)
{
    return engine ? zero_plan_copies(&engine->spec) / engine->spec.mesh.context / engine->spec.mesh.tensor : 0;
}

int zero_data_index(const zero_engine_t *engine)
{
    return engine
               ? engine->rank % zero_plan_copies(&engine->spec) / (engine->spec.mesh.context * engine->spec.mesh.tensor)
               : -1;
}
