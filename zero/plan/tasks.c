/* SPDX-License-Identifier: Apache-2.0 */
/* tasks.c - pipelines: which stages have a unit, what a stage does of each pass, and the buffers of its tasks. Without
 * chunks there is one stage, which does all. */
#include "zero/plan/build.h"

#include <stdlib.h>

/* ---- declarations ----------------------------------------------------------------------------------------------- */

static zero_status_t check_chunks(const zero_spec_t *spec, zero_error_t *error)
{
    int32_t pipes = spec->mesh.pipe, count = spec->chunk_count;
    bool interleaved = spec->schedule == ZERO_SCHEDULE_INTERLEAVED;
    if ((unsigned)spec->schedule >= ZERO_SCHEDULES)
        return zero_fail(error, ZERO_ERR_ARG, "config.schedule is %d, which does not exist", (int)spec->schedule);
    if (count == 0)
        return pipes == 1 ? ZERO_OK
                          : zero_fail(error, ZERO_ERR_ARG,
                                      "config.mesh.pipe is %d, but the model is not cut into chunks: declare them "
                                      "with zero_chunks and zero_task_add, or set config.mesh.pipe to 1",
                                      pipes);
    if (count < 0 || (interleaved && pipes > 1 ? count % pipes != 0 : count != pipes))
        return zero_fail(error, ZERO_ERR_ARG, "there are %d chunks for %d stage%s and the schedule %s: use %s%d", count,
                         pipes, pipes > 1 ? "s" : "", zero_schedule_name(spec->schedule),
                         interleaved && pipes > 1 ? "a multiple of " : "", pipes);
    if (count > pipes && spec->micro_steps > pipes && spec->micro_steps % pipes != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.micro_steps is %d, but the schedule interleaved takes them in groups of the %d "
                         "stages: use %d or %d",
                         spec->micro_steps, pipes, spec->micro_steps / pipes * pipes,
                         (spec->micro_steps / pipes + 1) * pipes);
    for (int32_t c = 0; c < count; c++)
        if ((c + 1 < count && spec->chunks[c].link < 1) || (c + 1 == count && spec->chunks[c].link != 0))
            return zero_fail(error, ZERO_ERR_ARG,
                             "chunk %d of %d hands %lld elements to the next one: %s (zero_chunk_link)", c, count,
                             (long long)spec->chunks[c].link,
                             c + 1 < count ? "it hands at least 1" : "there is none behind it");
    return ZERO_OK;
}

/* Refuses tasks that are not those of every chunk, in the order of their data, and uses outside of them. */
static zero_status_t check_tasks(const zero_spec_t *spec, const zero_spec_pass_t *pass, zero_error_t *error)
{
    int32_t chunks = spec->chunk_count, wanted = pass->kind == ZERO_PASS_TRAIN  ? 2 * chunks
                                                 : pass->kind == ZERO_PASS_EVAL ? chunks
                                                                                : 0;
    if (pass->task_count != wanted)
        return zero_fail(error, ZERO_ERR_ARG, "pass '%s' has %d tasks, but %d chunks need %d (zero_task_add)",
                         pass->name, pass->task_count, chunks, wanted);
    for (int32_t t = 0; t < wanted; t++) {
        const zero_spec_task_t *task = &pass->tasks[t];
        bool forward = t < chunks;
        int32_t chunk = forward ? t : 2 * chunks - 1 - t, end = t + 1 < wanted ? task[1].first_use : pass->use_count;
        if (task->chunk != chunk || task->phase != (forward ? ZERO_FORWARD : ZERO_BACKWARD))
            return zero_fail(error, ZERO_ERR_ARG,
                             "task %d of pass '%s' is %s of chunk %d, but comes at the place of %s "
                             "of chunk %d",
                             t, pass->name, task->phase == ZERO_FORWARD ? "forward" : "backward", task->chunk,
                             forward ? "forward" : "backward", chunk);
        if (task->first_use < (t > 0 ? task[-1].first_use : 0) || (t == 0 && task->first_use != 0) ||
            task->first_use > pass->use_count)
            return zero_fail(error, ZERO_ERR_ARG, "task %d of pass '%s' begins at use %d of %d", t, pass->name,
                             task->first_use, pass->use_count);
        if (end > task->first_use && (pass->uses[end - 1].flags & ZERO_HOLD))
            return zero_fail(error, ZERO_ERR_ARG,
                             "use %d of pass '%s' (unit '%s') is held until the next use, but it is the last of its "
                             "task",
                             end - 1, pass->name, spec->units[pass->uses[end - 1].unit].name);
    }
    return ZERO_OK;
}

/* The end of a task's uses. */
static int32_t end_of(const zero_spec_pass_t *pass, int32_t task)
{
    return task + 1 < pass->task_count ? pass->tasks[task + 1].first_use : pass->use_count;
}

/* ---- which stages have a unit ----------------------------------------------------------------------------------- */

static zero_status_t find_stages(const zero_spec_t *spec, zero_unit_plan_t *units, zero_error_t *error)
{
    for (int32_t u = 0; u < spec->unit_count; u++)
        units[u].pipe[0] = units[u].pipe[1] = -1;
    for (int32_t p = 0; p < spec->pass_count; p++)
        for (int32_t t = 0; t < spec->passes[p].task_count; t++) {
            const zero_spec_pass_t *pass = &spec->passes[p];
            int32_t stage = pass->tasks[t].chunk % spec->mesh.pipe;
            for (int32_t i = pass->tasks[t].first_use; i < end_of(pass, t); i++) {
                int32_t *pipe = units[pass->uses[i].unit].pipe;
                if (pipe[0] < 0)
                    pipe[0] = pipe[1] = stage;
                else if (stage != pipe[0] && stage != pipe[1] && pipe[0] != pipe[1])
                    return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                                     "stages %d, %d and %d use unit '%s', but at most two stages can share one: use "
                                     "fewer stages, or put its uses on two of them",
                                     pipe[0], pipe[1], stage, spec->units[pass->uses[i].unit].name);
                else if (stage < pipe[0])
                    pipe[0] = stage;
                else if (stage > pipe[1])
                    pipe[1] = stage;
            }
        }
    for (int32_t u = 0; u < spec->unit_count; u++)
        if (units[u].pipe[0] < 0) /* no task uses it */
            units[u].pipe[0] = units[u].pipe[1] = 0;
    return ZERO_OK;
}

/* Refuses units that other stages share than those of spec->tied. */
static zero_status_t check_tied(const zero_spec_t *spec, const zero_unit_plan_t *units, zero_error_t *error)
{
    for (int32_t u = 0; u < spec->unit_count; u++) {
        const int32_t *pipe = units[u].pipe;
        if (pipe[0] == pipe[1])
            continue;
        if (pipe[0] != spec->tied[0] || pipe[1] != spec->tied[1])
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "stages %d and %d share unit '%s', but stages %d and %d share another one: all such units "
                             "must be on the same two stages",
                             pipe[0], pipe[1], spec->units[u].name, spec->tied[0], spec->tied[1]);
        if (spec->parameters.tier != ZERO_TIER_DEVICE)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "stages %d and %d share unit '%s', but config.parameters.tier is %s: keep parameters on "
                             "the device tier, or use a model in which no stages share a unit",
                             pipe[0], pipe[1], spec->units[u].name, zero_tier_name(spec->parameters.tier));
    }
    return ZERO_OK;
}

zero_status_t zero_plan_set_tied(zero_spec_t *spec, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    spec->tied[0] = spec->tied[1] = 0;
    if (spec->mesh.pipe == 1)
        return ZERO_OK;
    zero_unit_plan_t *units = calloc((size_t)spec->unit_count + 1, sizeof *units);
    if (units == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a plan of %d units", spec->unit_count);
    status = find_stages(spec, units, error);
    for (int32_t u = 0; u < spec->unit_count && status == ZERO_OK && spec->tied[0] == spec->tied[1]; u++)
        memcpy(spec->tied, units[u].pipe, sizeof spec->tied);
    if (status == ZERO_OK && spec->tied[0] == spec->tied[1])
        spec->tied[0] = spec->tied[1] = 0;
    free(units);
    zero_plan_set_groups(spec);
    return status;
}

zero_placement_t zero_build_place(const zero_builder_t *b, const zero_segment_t *segment)
{
    const zero_spec_t *spec = b->spec;
    bool shards = zero_plan_shards(spec) > 1, replicas = zero_plan_inner(spec, segment) != 0,
         shared = shards || replicas, offload = b->offload_parameters;
    zero_placement_t at = {0};
    /* Parameters off the device come in unit by unit anyway, so each rank keeps only those that it updates. */
    at.shard_parameters = offload ? shared && spec->optimizer.sharding == ZERO_SHARDED
                                  : shards && spec->parameters.sharding == ZERO_SHARDED;
    /* Communicators do not reach other tiers, so there each replica keeps only its own slices too. */
    at.keeps = !at.shard_parameters ? ZERO_EXTENT_WHOLE : offload || !replicas ? ZERO_EXTENT_SLICE : ZERO_EXTENT_SHARD;
    at.shard_gradients = shared && spec->gradients.sharding == ZERO_SHARDED;
    at.shard_optimizer = shared && spec->optimizer.sharding == ZERO_SHARDED;
    at.gather_gradients = shared && !at.shard_optimizer;
    /* Replicas of one shard have nothing to reduce in a micro-step. */
    at.sum_locally = spec->micro_steps > 1 && (spec->reduce == ZERO_REDUCE_LAST || (replicas && !shards));
    at.sum_shards = spec->micro_steps > 1 && !at.sum_locally && replicas;
    return at;
}

/* ---- what a stage does of a pass -------------------------------------------------------------------------------- */

static int32_t find_task(const zero_spec_pass_t *pass, int32_t chunk, zero_phase_t phase)
{
    for (int32_t t = 0; t < pass->task_count; t++)
        if (pass->tasks[t].chunk == chunk && pass->tasks[t].phase == phase)
            return t;
    return -1;
}

/* Fills the plan's pass with these tasks. */
static zero_status_t unroll(zero_builder_t *b, int32_t index, const zero_turn_t *turns, int32_t count)
{
    const zero_spec_pass_t *pass = &b->spec->passes[index];
    zero_plan_pass_t *out = &b->plan->passes[index];
    size_t uses = 0;
    zero_status_t status = zero_build_alloc(b, &out->tasks, (size_t)count, sizeof *out->tasks);
    for (int32_t i = 0; i < count && status == ZERO_OK; i++) {
        int32_t t = find_task(pass, turns[i].chunk, turns[i].phase);
        zero_plan_task_t *task = &out->tasks[i];
        *task = (zero_plan_task_t){.chunk = turns[i].chunk,
                                   .micro = turns[i].micro,
                                   .phase = turns[i].phase,
                                   .first_use = (int32_t)uses,
                                   .use_count = end_of(pass, t) - pass->tasks[t].first_use,
                                   .input = -1,
                                   .output = -1,
                                   .output_grad = -1,
                                   .input_grad = -1,
                                   .kept = {-1, -1}};
        uses += (size_t)task->use_count;
        if (uses > INT32_MAX)
            return zero_fail(b->error, ZERO_ERR_MEMORY, "pass '%s' has more than 2^31 uses in a step", pass->name);
    }
    if (status != ZERO_OK || (status = zero_build_alloc(b, &out->uses, uses, sizeof *out->uses)) != ZERO_OK)
        return status;
    for (int32_t i = 0; i < count; i++) {
        const zero_plan_task_t *task = &out->tasks[i];
        const zero_spec_use_t *from = pass->uses + pass->tasks[find_task(pass, task->chunk, task->phase)].first_use;
        for (int32_t u = 0; u < task->use_count; u++)
            out->uses[out->use_count++] = from[u];
    }
    out->task_count = count;
    return ZERO_OK;
}

static zero_status_t make_pass(zero_builder_t *b, int32_t index)
{
    const zero_spec_t *spec = b->spec;
    const zero_spec_pass_t *pass = &spec->passes[index];
    zero_plan_pass_t *out = &b->plan->passes[index];
    int32_t own = spec->chunk_count / spec->mesh.pipe, count = 0;
    zero_turn_t *turns = NULL;
    zero_status_t status;
    if (spec->chunk_count == 0 || pass->kind == ZERO_PASS_ANY_ORDER) {
        if ((status = zero_build_alloc(b, &out->uses, (size_t)pass->use_count, sizeof *out->uses)) != ZERO_OK)
            return status;
        for (; out->use_count < pass->use_count; out->use_count++)
            out->uses[out->use_count] = pass->uses[out->use_count];
        return ZERO_OK;
    }
    if (spec->micro_steps > INT32_MAX / 4 / own)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "%d micro-steps of %d chunks are too many tasks", spec->micro_steps,
                         own);
    status = zero_build_alloc(b, &turns, 2 * (size_t)own * (size_t)spec->micro_steps, sizeof *turns);
    if (status == ZERO_OK && pass->kind == ZERO_PASS_TRAIN) {
        zero_build_turns(spec, b->plan->pipe, turns);
        count = 2 * own * spec->micro_steps;
    }
    for (; status == ZERO_OK && pass->kind == ZERO_PASS_EVAL && count < own; count++)
        turns[count] = (zero_turn_t){.chunk = count * spec->mesh.pipe + b->plan->pipe, .phase = ZERO_FORWARD};
    if (status == ZERO_OK)
        status = unroll(b, index, turns, count);
    free(turns);
    return status;
}

zero_status_t zero_build_tasks(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    zero_status_t status = check_chunks(spec, b->error);
    for (int32_t p = 0; p < spec->pass_count && status == ZERO_OK; p++)
        status = check_tasks(spec, &spec->passes[p], b->error);
    if (status != ZERO_OK || (status = find_stages(spec, b->units, b->error)) != ZERO_OK ||
        (status = check_tied(spec, b->units, b->error)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->plan->passes, (size_t)spec->pass_count, sizeof *b->plan->passes)) != ZERO_OK)
        return status;
    for (int32_t p = 0; p < spec->pass_count && status == ZERO_OK; p++)
        status = make_pass(b, p);
    return status;
}

/* ---- buffers ---------------------------------------------------------------------------------------------------- */

/* Buffers of one kind of a chunk, and the number of the task until whose end each is in use; -2: none yet. */
typedef struct pool {
    int32_t *buffer, *until, count;
    zero_tier_t tier;
    int64_t elements;
    zero_dtype_t dtype;
} pool_t;

/* The kinds of buffers of a chunk. */
enum { INPUT, OUTPUT, OUTPUT_GRAD, INPUT_GRAD, KEPT, KEPT_HOST, POOLS };

typedef struct pools {
    zero_builder_t *b;
    pool_t *pool; /* [own chunks][POOLS] */
    int32_t capacity;
    zero_status_t status;
} pools_t;

/* Takes a buffer until the end of task number until: the one that is free for longest. OUTPUT and INPUT_GRAD are also
 * read by a send, so that a second one lets the next task begin before that has ended. */
static int32_t take(pools_t *p, int32_t chunk, int kind, int32_t now, int32_t until)
{
    zero_builder_t *b = p->b;
    pool_t *pool = &p->pool[(size_t)(chunk / b->spec->mesh.pipe) * POOLS + (size_t)kind];
    int32_t found = -1, spare = kind == OUTPUT || kind == INPUT_GRAD ? 1 : 0;
    if (pool->elements == 0 || p->status != ZERO_OK)
        return -1;
    for (int32_t i = 0; i < pool->count; i++)
        if (pool->until[i] < now && (found < 0 || pool->until[i] < pool->until[found]))
            found = i;
    if (found < 0 || (pool->count <= spare && pool->until[found] >= 0)) {
        found = pool->count++;
        int32_t *buffer = &pool->buffer[found];
        p->status = zero_build_buffer(b, -1, ZERO_ROLE_COUNT, ZERO_KIND_ACTIVATIONS, pool->tier,
                                      zero_format_plain(pool->dtype), pool->elements, buffer);
        if (p->status != ZERO_OK)
            return -1;
        zero_buffer_t *x = &b->plan->buffers[*buffer];
        x->slot = b->slot_count++;
        b->slots[x->slot] = (zero_slot_t){.bytes = x->bytes, .tier = x->tier, .kind = x->kind};
    }
    pool->until[found] = until;
    return pool->buffer[found];
}

/* The number of the backward task of a forward task; its own if there is none. */
static int32_t backward_of(const zero_plan_pass_t *pass, int32_t forward)
{
    for (int32_t t = forward + 1; t < pass->task_count; t++)
        if (pass->tasks[t].chunk == pass->tasks[forward].chunk && pass->tasks[t].micro == pass->tasks[forward].micro)
            return t;
    return forward;
}

/* Takes what a task receives, which is received while the task before it runs. */
static void take_received(pools_t *p, zero_plan_pass_t *pass, int32_t t)
{
    zero_plan_task_t *task = t < pass->task_count ? &pass->tasks[t] : NULL;
    if (task != NULL && task->phase == ZERO_FORWARD)
        task->input = take(p, task->chunk, INPUT, t - 1, backward_of(pass, t));
    else if (task != NULL)
        task->output_grad = take(p, task->chunk, OUTPUT_GRAD, t - 1, t);
}

static void take_pass(pools_t *p, zero_plan_pass_t *pass)
{
    for (size_t i = 0; i < (size_t)(p->b->spec->chunk_count / p->b->spec->mesh.pipe) * POOLS; i++)
        for (int32_t k = 0; k < p->pool[i].count; k++)
            p->pool[i].until[k] = -2;
    take_received(p, pass, 0);
    for (int32_t t = 0; t < pass->task_count; t++) {
        zero_plan_task_t *task = &pass->tasks[t];
        take_received(p, pass, t + 1);
        int32_t until = backward_of(pass, t);
        if (task->phase == ZERO_FORWARD) {
            task->output = take(p, task->chunk, OUTPUT, t, t);
            task->kept[ZERO_TIER_DEVICE] = take(p, task->chunk, KEPT, t, until);
            task->kept[ZERO_TIER_HOST] = take(p, task->chunk, KEPT_HOST, t, until);
        } else {
            task->input_grad = take(p, task->chunk, INPUT_GRAD, t, t);
        }
        if (until == t)
            continue;
        pass->tasks[until].input = task->input;
        memcpy(pass->tasks[until].kept, task->kept, sizeof task->kept);
    }
}

static zero_status_t make_pools(pools_t *p)
{
    zero_builder_t *b = p->b;
    const zero_spec_t *spec = b->spec;
    int32_t own = spec->chunk_count / spec->mesh.pipe;
    size_t most = (size_t)spec->micro_steps + 2;
    zero_status_t status = zero_build_alloc(b, &p->pool, (size_t)own * POOLS, sizeof *p->pool);
    for (int32_t i = 0; i < own && status == ZERO_OK; i++) {
        int32_t c = i * spec->mesh.pipe + b->plan->pipe;
        const zero_spec_chunk_t *chunk = &spec->chunks[c], *before = c > 0 ? chunk - 1 : NULL;
        pool_t *pool = &p->pool[(size_t)i * POOLS];
        for (int kind = 0; kind < POOLS && status == ZERO_OK; kind++) {
            const zero_spec_chunk_t *linked = kind == INPUT || kind == INPUT_GRAD ? before : chunk;
            zero_tier_t tier = kind == KEPT_HOST ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
            pool[kind] = (pool_t){.tier = tier};
            if (kind >= KEPT) /* counted in words of fp32 */
                pool[kind].elements = (int64_t)((chunk->kept[tier] + 3) / 4);
            else if (linked != NULL) {
                pool[kind].elements = linked->link;
                pool[kind].dtype = linked->link_dtype;
            }
            if ((status = zero_build_alloc(b, &pool[kind].buffer, most, sizeof(int32_t))) == ZERO_OK)
                status = zero_build_alloc(b, &pool[kind].until, most, sizeof(int32_t));
        }
    }
    return status;
}

int32_t zero_build_link_slots(const zero_spec_t *spec)
{
    return spec->chunk_count / spec->mesh.pipe * POOLS * (spec->micro_steps + 2);
}

/* One workspace on each tier serves all tasks, which run one after the other. */
static zero_status_t make_workspace(zero_builder_t *b, int tier)
{
    uint64_t most = 0;
    for (int32_t c = b->plan->pipe; c < b->spec->chunk_count; c += b->spec->mesh.pipe)
        if (b->spec->chunks[c].workspace[tier] > most)
            most = b->spec->chunks[c].workspace[tier];
    b->plan->workspace[tier] = -1;
    return most == 0
               ? ZERO_OK
               : zero_build_buffer(b, -1, ZERO_ROLE_COUNT, ZERO_KIND_WORKSPACE, (zero_tier_t)tier,
                                   zero_format_plain(ZERO_FP32), (int64_t)((most + 3) / 4), &b->plan->workspace[tier]);
}

zero_status_t zero_build_links(zero_builder_t *b)
{
    pools_t p = {.b = b};
    for (int tier = 0; tier < ZERO_TIER_NVME && p.status == ZERO_OK; tier++)
        p.status = make_workspace(b, tier);
    if (b->spec->chunk_count == 0 || p.status != ZERO_OK)
        return p.status;
    p.status = make_pools(&p);
    if (p.status == ZERO_OK && b->train >= 0)
        take_pass(&p, &b->plan->passes[b->train]);
    for (int32_t i = 0; i < b->spec->pass_count && p.status == ZERO_OK; i++)
        if (i != b->train)
            take_pass(&p, &b->plan->passes[i]);
    for (size_t i = 0; p.pool && i < (size_t)(b->spec->chunk_count / b->spec->mesh.pipe) * POOLS; i++) {
        free(p.pool[i].buffer);
        free(p.pool[i].until);
    }
    free(p.pool);
    return p.status;
}
