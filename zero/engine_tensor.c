/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tensor.c - the mesh, and tensor parallelism: collectives of activations, as they are declared and as they run,
 * and the shapes of parts. */
#include "zero/engine.h"
#include "zero/plan/split.h"

#include <stdlib.h>

/* ---- the mesh --------------------------------------------------------------------------------------------------- */

int zero_axis_size(const zero_engine_t *engine, zero_axis_t axis)
{
    if (!engine)
        return 0;
    switch (axis) {
    case ZERO_AXIS_PIPE:
        return engine->spec.mesh.pipe;
    case ZERO_AXIS_REPLICA:
        return engine->spec.mesh.replicas;
    case ZERO_AXIS_SHARD:
        return zero_plan_shards(&engine->spec) / engine->spec.mesh.context;
    case ZERO_AXIS_CONTEXT:
        return engine->spec.mesh.context;
    case ZERO_AXIS_TENSOR:
        return engine->spec.mesh.tensor;
    case ZERO_AXES:
        break;
    }
    return 0;
}

int zero_axis_index(const zero_engine_t *engine, zero_axis_t axis)
{
    if (!engine)
        return -1;
    const int tensor = engine->spec.mesh.tensor, shards = zero_plan_shards(&engine->spec),
              local = engine->rank % zero_plan_copies(&engine->spec);
    switch (axis) {
    case ZERO_AXIS_PIPE:
        return zero_plan_pipe(&engine->spec, engine->rank);
    case ZERO_AXIS_REPLICA:
        return local / tensor / shards;
    case ZERO_AXIS_SHARD:
        return local / tensor % shards / engine->spec.mesh.context;
    case ZERO_AXIS_CONTEXT:
        return local / tensor % engine->spec.mesh.context;
    case ZERO_AXIS_TENSOR:
        return zero_split_place(&engine->spec, engine->rank);
    case ZERO_AXES:
        break;
    }
    return -1;
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

/* Refuses what no mesh can run. */
static zero_status_t check_collective(zero_engine_t *engine, zero_axis_t axis, zero_collective_kind_t kind,
                                      int64_t count, zero_dtype_t dtype)
{
    if (axis != ZERO_AXIS_TENSOR && axis != ZERO_AXIS_CONTEXT)
        return zero_fail(&engine->error, ZERO_ERR_UNSUPPORTED,
                         "a collective along axis %d of the mesh: use ZERO_AXIS_TENSOR or ZERO_AXIS_CONTEXT",
                         (int)axis);
    const int ranks = zero_axis_size(engine, axis);
    if ((unsigned)kind > ZERO_COLLECTIVE_SUM)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "a collective has the unknown kind %d: use one of zero_collective_kind_t", (int)kind);
    if (count < 1 || count > INT64_MAX / 8 / ranks || zero_dtype_size(dtype) == 0)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "a collective has %lld elements of dtype %d: it has at least 1 element of a zero_dtype_t",
                         (long long)count, (int)dtype);
    if (kind == ZERO_COLLECTIVE_SUM && count % ranks != 0)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "a sum over %d ranks has %lld elements: use a multiple of the number of ranks", ranks,
                         (long long)count);
    return ZERO_OK;
}

zero_status_t zero_collective_add(zero_engine_t *engine, zero_pass_t pass, zero_axis_t axis,
                                  zero_collective_kind_t kind, int64_t count, zero_dtype_t dtype)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_collective_add");
    if (status != ZERO_OK || (status = check_collective(engine, axis, kind, count, dtype)) != ZERO_OK)
        return status;
    if (!zero_engine_has_pass(engine, pass))
        return ZERO_ERR_ARG;
    zero_spec_pass_t *p = &engine->spec.passes[pass];
    int32_t first = p->task_count > 0 ? p->tasks[p->task_count - 1].first_use : 0;
    if (p->use_count <= first)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "a collective of pass '%s' is declared before a use%s: call zero_use_add first", p->name,
                         p->task_count > 0 ? " of its task" : "");
    if (zero_axis_size(engine, axis) == 1)
        return ZERO_OK;
    if (engine->collective_pass != pass) {
        engine->collective_pass = pass;
        engine->collective_capacity = p->collective_count;
    }
    if (p->collective_count == engine->collective_capacity) {
        int32_t wanted = p->collective_count < INT32_MAX / 4 ? 2 * p->collective_count + 16 : 0;
        zero_spec_collective_t *larger = wanted > 0 ? realloc(p->collectives, (size_t)wanted * sizeof *larger) : NULL;
        if (!larger)
            return zero_engine_leave(engine,
                                     zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for another collective"));
        p->collectives = larger;
        engine->collective_capacity = wanted;
    }
    zero_spec_use_t *use = &p->uses[p->use_count - 1];
    if (use->collective_count == ZERO_USE_COLLECTIVES)
        return zero_fail(&engine->error, ZERO_ERR_UNSUPPORTED,
                         "use %d of pass '%s' has more than %d collectives: exchange more at once, or divide the use",
                         p->use_count - 1, p->name, ZERO_USE_COLLECTIVES);
    if (use->collective_count++ == 0)
        use->first_collective = p->collective_count;
    p->collectives[p->collective_count++] =
        (zero_spec_collective_t){.axis = axis, .kind = kind, .count = count, .dtype = dtype};
    return ZERO_OK;
}

/* The bytes of the smaller buffer of a collective, or of both of a sum. */
static uint64_t bytes_of(int64_t count, zero_dtype_t dtype)
{
    return (uint64_t)count * zero_dtype_size(dtype);
}

/* Refuses buffers that overlap otherwise than in place. */
static zero_status_t check_buffers(zero_engine_t *engine, const zero_spec_collective_t *c, const void *send, void *recv)
{
    const uint64_t small = bytes_of(c->count, c->dtype), large = small * (uint64_t)zero_axis_size(engine, c->axis);
    const uint64_t place = (uint64_t)zero_axis_index(engine, c->axis);
    const uintptr_t from = (uintptr_t)send, to = (uintptr_t)recv;
    const bool gathers = c->kind == ZERO_COLLECTIVE_GATHER, sums = c->kind == ZERO_COLLECTIVE_SUM;
    if (!send || !recv)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "a collective has no memory to %s", send ? "receive" : "send");
    const bool in_place = sums ? from == to : gathers ? from == to + place * small : to == from + place * small;
    const bool apart = from + (gathers || sums ? small : large) <= to || to + (gathers ? large : small) <= from;
    if (!in_place && !apart)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "the buffers of a collective overlap: use separate ones, or the part of place %d for both",
                         (int)place);
    return ZERO_OK;
}

zero_status_t zero_collective(zero_engine_t *engine, zero_axis_t axis, zero_collective_kind_t kind, const void *send,
                              void *recv, int64_t count, zero_dtype_t dtype)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_collective");
    const zero_spec_collective_t given = {.axis = axis, .kind = kind, .count = count, .dtype = dtype};
    if (status != ZERO_OK || (status = check_collective(engine, axis, kind, count, dtype)) != ZERO_OK ||
        (status = check_buffers(engine, &given, send, recv)) != ZERO_OK)
        return status;
    return zero_engine_leave(engine, zero_exec_collective(engine->exec, &given, send, recv, &engine->error));
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

zero_status_t zero_param_local(zero_engine_t *engine, zero_param_t param, int64_t shape[ZERO_MAX_DIMS])
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter(&entry, engine);
    if (status != ZERO_OK)
        return status;
    if (param < 0 || param >= engine->spec.param_count || !shape)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_local has %s %d: this engine has %d parameters",
                         shape ? "the unknown parameter" : "no address for the shape of parameter", param,
                         engine->spec.param_count);
    const zero_spec_param_t *p = &engine->spec.params[param];
    for (int32_t d = 0; d < ZERO_MAX_DIMS; d++)
        shape[d] = d < p->ndim ? p->shape[d] : 1;
    return ZERO_OK;
}
