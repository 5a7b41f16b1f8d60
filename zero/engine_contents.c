/* engine_contents.c - values in and out: initial parameters, state, addresses. */
#include "zero/engine.h"

#include <stdlib.h>

/* Elements that pass through the caller's function at a time: on the stack, so that nothing is allocated. */
enum { PIECE = 16384 };

typedef struct range {
    int64_t begin, end;
} range_t;
static range_t intersection(range_t a, range_t b)
{
    return (range_t){a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

static zero_role_t role_of(zero_state_t state)
{
    static const zero_role_t roles[] = {ZERO_ROLE_PARAM, ZERO_ROLE_FINAL, ZERO_ROLE_MASTER, ZERO_ROLE_MOMENT1, ZERO_ROLE_MOMENT2};
    return roles[state];
}

/* The buffer that holds the segment's role for this rank: its slice of the parameters where they are sharded. */
static int32_t buffer_of(const zero_segment_t *segment, zero_role_t role)
{
    if (role == ZERO_ROLE_PARAM && segment->buffer[ZERO_ROLE_PARAM_SHARD] >= 0)
        return segment->buffer[ZERO_ROLE_PARAM_SHARD];
    return segment->buffer[role];
}

static range_t slice_of(const zero_engine_t *engine, const zero_segment_t *segment)
{
    return (range_t){engine->rank * segment->slice, (engine->rank + 1) * segment->slice};
}

/* Elements of the segment that the buffer holds here. */
static range_t held_by(const zero_engine_t *engine, const zero_segment_t *segment, int32_t buffer)
{
    bool full = engine->plan->buffers[buffer].elements == segment->elements;
    return full ? (range_t){0, segment->elements} : slice_of(engine, segment);
}

static void *element(const zero_engine_t *engine, const zero_segment_t *segment, int32_t buffer, int64_t at)
{
    range_t held = held_by(engine, segment, buffer);
    char *base = zero_exec_address(engine->exec, buffer, false);
    return base + (size_t)(at - held.begin) * zero_dtype_size(engine->plan->buffers[buffer].dtype);
}

/* Rounds values of segment elements [piece) into what of them the buffer holds. */
static zero_status_t put(zero_engine_t *engine, const zero_segment_t *segment, int32_t buffer, range_t piece, const float *values)
{
    zero_dtype_t dtype = engine->plan->buffers[buffer].dtype;
    range_t part = intersection(piece, held_by(engine, segment, buffer));
    int64_t count = part.end - part.begin;
    float rounded[PIECE];
    if (count <= 0)
        return ZERO_OK;
    zero_flat_ref()->cast(rounded, dtype, values + (part.begin - piece.begin), ZERO_FP32, count, 1, NULL);
    return zero_exec_copy(engine->exec, element(engine, segment, buffer, part.begin), rounded, (uint64_t)count * zero_dtype_size(dtype),
                          &engine->error);
}

static zero_status_t fill(zero_engine_t *engine, zero_param_t param, zero_fill_fn fn, void *ctx)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    const zero_placed_t *placed = &engine->plan->placed[param];
    float values[PIECE];
    zero_status_t status = zero_exec_sync(engine->exec, &engine->error);
    if (status != ZERO_OK || placed->segment < 0)
        return status;
    const zero_segment_t *segment = &engine->plan->segments[placed->segment];
    int32_t data = buffer_of(segment, ZERO_ROLE_PARAM), master = segment->buffer[ZERO_ROLE_MASTER];
    range_t whole = {placed->offset, placed->offset + p->count};
    /* Where the parameters or their master weights are full, every rank fills all of them, with the same values. */
    range_t mine = intersection(whole, held_by(engine, segment, data));
    if (master >= 0 && master != data) {
        range_t also = intersection(whole, held_by(engine, segment, master));
        if (also.end - also.begin > mine.end - mine.begin)
            mine = also;
    }
    for (int64_t at = mine.begin; at < mine.end; at += PIECE) {
        range_t piece = {at, mine.end - at < PIECE ? mine.end : at + PIECE};
        if (fn(ctx, param, piece.begin - placed->offset, piece.end - piece.begin, values) != 0) {
            status = zero_fail(&engine->error, ZERO_ERR_IO,
                               "the values of elements %lld to %lld of parameter '%s' could not be had",
                               (long long)(piece.begin - placed->offset), (long long)(piece.end - placed->offset), p->name);
            zero_exec_abort(engine->exec, engine->error.text);
            return status;
        }
        status = put(engine, segment, data, piece, values);
        if (status == ZERO_OK && master >= 0 && master != data)
            status = put(engine, segment, master, piece, values);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

zero_status_t zero_param_fill(zero_engine_t *engine, zero_param_t param, zero_fill_fn fn, void *ctx)
{
    zero_status_t status = zero_engine_enter_running(engine, "zero_param_fill");
    if (status != ZERO_OK)
        return status;
    if (!zero_engine_has_param(engine, param))
        return ZERO_ERR_ARG;
    if (!fn)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_fill of parameter '%s' has no function",
                         engine->spec.params[param].name);
    if (engine->pass >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "parameter '%s' is filled inside pass '%s': end it first",
                         engine->spec.params[param].name, engine->spec.passes[engine->pass].name);
    return zero_engine_leave(engine, fill(engine, param, fn, ctx));
}

static zero_status_t read_state(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_read_fn fn, void *ctx)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    const zero_placed_t *placed = &engine->plan->placed[param];
    float values[PIECE], stored[PIECE];
    zero_status_t status = zero_exec_sync(engine->exec, &engine->error);
    if (status != ZERO_OK || placed->segment < 0)
        return zero_engine_leave(engine, status);
    const zero_segment_t *segment = &engine->plan->segments[placed->segment];
    int32_t buffer = buffer_of(segment, role_of(state));
    zero_dtype_t dtype = engine->plan->buffers[buffer].dtype;
    range_t mine = intersection((range_t){placed->offset, placed->offset + p->count}, slice_of(engine, segment));
    for (int64_t at = mine.begin; at < mine.end; at += PIECE) {
        int64_t count = mine.end - at < PIECE ? mine.end - at : PIECE;
        status = zero_exec_copy(engine->exec, stored, element(engine, segment, buffer, at), (uint64_t)count * zero_dtype_size(dtype),
                                &engine->error);
        if (status != ZERO_OK)
            return zero_engine_leave(engine, status);
        zero_flat_ref()->cast(values, ZERO_FP32, stored, dtype, count, 1, NULL);
        if (fn(ctx, param, at - placed->offset, count, values) != 0)
            return zero_fail(&engine->error, ZERO_ERR_IO, "elements %lld to %lld of parameter '%s' were not taken",
                             (long long)(at - placed->offset), (long long)(at - placed->offset + count), p->name);
    }
    return zero_engine_leave(engine, ZERO_OK);
}

zero_status_t zero_param_read(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_read_fn fn, void *ctx)
{
    zero_status_t status = zero_engine_enter_running(engine, "zero_param_read");
    if (status != ZERO_OK)
        return status;
    if (!zero_engine_has_param(engine, param))
        return ZERO_ERR_ARG;
    const zero_spec_param_t *p = &engine->spec.params[param];
    if ((unsigned)state > ZERO_STATE_MOMENT2 || !fn)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_read of parameter '%s' has %s", p->name,
                         fn ? "an unknown state" : "no function");
    int32_t placed = engine->plan->placed[param].segment;
    if (state != ZERO_STATE_PARAM && (!p->trainable || (placed >= 0 && !engine->plan->segments[placed].trainable)))
        return zero_fail(&engine->error, ZERO_ERR_ARG, "parameter '%s' is %s: only ZERO_STATE_PARAM can be read", p->name,
                         p->trainable ? "not trained, because the engine has no training pass" : "frozen");
    if (state == ZERO_STATE_GRAD && !engine->gradients_complete)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "the gradient of parameter '%s' is complete only between zero_micro_end of a step's last "
                         "micro-step and the next training micro-step",
                         p->name);
    return read_state(engine, param, state, fn, ctx); /* leaves; a caller that does not take the values does not end the engine */
}

/* The address of a parameter's element 0 in the segment's full buffer of this role, or NULL. */
static void *address(zero_engine_t *engine, zero_param_t param, zero_role_t role)
{
    if (!engine || !engine->exec || param < 0 || param >= engine->spec.param_count)
        return NULL;
    const zero_placed_t *placed = &engine->plan->placed[param];
    if (placed->segment < 0)
        return NULL;
    int32_t buffer = engine->plan->segments[placed->segment].buffer[role];
    if (buffer < 0)
        return NULL;
    char *base = zero_exec_address(engine->exec, buffer, false);
    return base + (size_t)placed->offset * zero_dtype_size(engine->plan->buffers[buffer].dtype);
}

void *zero_param_data(zero_engine_t *engine, zero_param_t param)
{
    return address(engine, param, ZERO_ROLE_PARAM);
}

void *zero_param_grad(zero_engine_t *engine, zero_param_t param)
{
    return address(engine, param, ZERO_ROLE_GRAD);
}

void *zero_reserved(zero_engine_t *engine, zero_reserve_t reserve)
{
    if (!engine || !engine->exec || reserve < 0 || reserve >= engine->spec.reserve_count)
        return NULL;
    return zero_exec_address(engine->exec, engine->plan->reserve_buffer[reserve], false);
}
