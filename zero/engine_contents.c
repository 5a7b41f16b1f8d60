/* engine_contents.c - values in and out: initial parameters, state, addresses. */
#include "optim/rules.h"
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

/* What of a segment's state this rank holds in one buffer: elements [begin, end) from bytes offset on. */
typedef struct piece {
    int32_t buffer;
    range_t range;
    uint64_t offset;
} piece_t;

static piece_t piece_of(const zero_engine_t *engine, int32_t buffer, bool own, int32_t part)
{
    zero_span_t span = zero_plan_span(engine->plan, engine->rank, buffer, own, part);
    return (piece_t){buffer, {span.begin, span.begin + span.count}, span.offset};
}

/* The i-th piece of a state of a segment; false: there are no more. own: what this rank owns alone, else all that it holds. */
static bool next_piece(const zero_engine_t *engine, const zero_segment_t *segment, zero_state_t state, bool own, int32_t i, piece_t *piece)
{
    const int32_t *buffer = segment->buffer;
    if (state == ZERO_STATE_PARAM) {
        *piece = piece_of(engine, buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM], own, -1);
        return i == 0;
    }
    if (i >= segment->part_count)
        return false;
    int32_t index = segment->first_part + i;
    const int32_t *of_part = engine->plan->parts[index].buffer;
    switch (state) {
    case ZERO_STATE_GRAD: /* where the update reads it: elsewhere it may be gone */
        *piece = piece_of(engine, of_part[ZERO_ROLE_UPDATE_GRAD] >= 0 ? of_part[ZERO_ROLE_UPDATE_GRAD] : buffer[ZERO_ROLE_FINAL], own, index);
        return true;
    case ZERO_STATE_MASTER:
        *piece = piece_of(engine, of_part[ZERO_ROLE_MASTER], own, index);
        return true;
    default:
        *piece = piece_of(engine, of_part[state == ZERO_STATE_MOMENT1 ? ZERO_ROLE_MOMENT1 : ZERO_ROLE_MOMENT2], own, index);
        return true;
    }
}

/* Rounds values of segment elements [range) into what of them the piece holds. */
static zero_status_t put(zero_engine_t *engine, const piece_t *piece, range_t range, const float *values)
{
    zero_dtype_t dtype = engine->plan->buffers[piece->buffer].dtype;
    range_t both = intersection(range, piece->range);
    int64_t count = both.end - both.begin;
    float rounded[PIECE];
    if (count <= 0)
        return ZERO_OK;
    zero_flat_ref()->cast(rounded, dtype, values + (both.begin - range.begin), ZERO_FP32, count, 1, NULL);
    return zero_exec_write(engine->exec, piece->buffer, piece->offset + (uint64_t)(both.begin - piece->range.begin) * zero_dtype_size(dtype), rounded,
                           (uint64_t)count * zero_dtype_size(dtype), &engine->error);
}

/* Into the parameters, and into master weights of their own. */
static zero_status_t put_all(zero_engine_t *engine, const zero_segment_t *segment, range_t range, const float *values)
{
    piece_t piece;
    zero_status_t status = ZERO_OK;
    for (int32_t i = 0; status == ZERO_OK && next_piece(engine, segment, ZERO_STATE_PARAM, false, i, &piece); i++)
        status = put(engine, &piece, range, values);
    for (int32_t i = 0; status == ZERO_OK && next_piece(engine, segment, ZERO_STATE_MASTER, false, i, &piece); i++)
        if (engine->plan->buffers[piece.buffer].part >= 0)
            status = put(engine, &piece, range, values);
    return status;
}

/* The elements of the segment that any of its parameters and master weights hold here. */
static range_t held(const zero_engine_t *engine, const zero_segment_t *segment)
{
    range_t all = {segment->elements, 0};
    for (int state = 0; state < 2; state++) {
        piece_t piece;
        for (int32_t i = 0; next_piece(engine, segment, state ? ZERO_STATE_MASTER : ZERO_STATE_PARAM, false, i, &piece); i++) {
            all.begin = piece.range.begin < all.begin ? piece.range.begin : all.begin;
            all.end = piece.range.end > all.end ? piece.range.end : all.end;
        }
    }
    return all;
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
    /* Where the parameters or their master weights are full, every rank fills all of them, with the same values. */
    range_t mine = intersection((range_t){placed->offset, placed->offset + p->count}, held(engine, segment));
    for (int64_t at = mine.begin; at < mine.end; at += PIECE) {
        range_t range = {at, mine.end - at < PIECE ? mine.end : at + PIECE};
        if (fn(ctx, param, range.begin - placed->offset, range.end - range.begin, values) != 0) {
            status = zero_fail(&engine->error, ZERO_ERR_IO,
                               "the values of elements %lld to %lld of parameter '%s' could not be had",
                               (long long)(range.begin - placed->offset), (long long)(range.end - placed->offset), p->name);
            zero_exec_abort(engine->exec, engine->error.text);
            return status;
        }
        if ((status = put_all(engine, segment, range, values)) != ZERO_OK)
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

/* Hands out what of the parameter the piece holds. */
static zero_status_t read_piece(zero_engine_t *engine, zero_param_t param, const piece_t *piece, zero_read_fn fn, void *ctx)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    int64_t first = engine->plan->placed[param].offset;
    const zero_buffer_t *buffer = &engine->plan->buffers[piece->buffer];
    range_t mine = intersection((range_t){first, first + p->count}, piece->range);
    float values[PIECE], stored[PIECE];
    for (int64_t at = mine.begin; at < mine.end; at += PIECE) {
        int64_t count = mine.end - at < PIECE ? mine.end - at : PIECE, from = at - piece->range.begin;
        /* What is coded is read by whole blocks, of which tensors have their own. */
        int64_t stored_count = buffer->coded ? (count + ZERO_BLOCK8 - 1) / ZERO_BLOCK8 * ZERO_BLOCK8 : count;
        zero_status_t status = zero_exec_read(engine->exec, piece->buffer, piece->offset + zero_plan_bytes(engine->plan, buffer, from), stored,
                                              zero_plan_bytes(engine->plan, buffer, stored_count), &engine->error);
        if (status != ZERO_OK)
            return zero_engine_leave(engine, status);
        if (buffer->coded)
            zero_block8_read(values, (const zero_block8_t *)(const void *)stored, buffer->role == ZERO_ROLE_MOMENT2, 0, count);
        else
            zero_flat_ref()->cast(values, ZERO_FP32, stored, buffer->dtype, count, 1, NULL);
        if (fn(ctx, param, at - first, count, values) != 0)
            return zero_fail(&engine->error, ZERO_ERR_IO, "elements %lld to %lld of parameter '%s' were not taken",
                             (long long)(at - first), (long long)(at - first + count), p->name);
    }
    return ZERO_OK;
}

static zero_status_t read_state(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_read_fn fn, void *ctx)
{
    const zero_placed_t *placed = &engine->plan->placed[param];
    piece_t piece;
    zero_status_t status = zero_exec_sync(engine->exec, &engine->error);
    if (status != ZERO_OK || placed->segment < 0)
        return zero_engine_leave(engine, status);
    for (int32_t i = 0; next_piece(engine, &engine->plan->segments[placed->segment], state, true, i, &piece); i++)
        if ((status = read_piece(engine, param, &piece, fn, ctx)) != ZERO_OK)
            return status; /* a caller that does not take the values does not end the engine */
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
    int states = engine->spec.states;
    if ((state == ZERO_STATE_MOMENT1 && states < 1) || (state == ZERO_STATE_MOMENT2 && states < 2))
        return zero_fail(&engine->error, ZERO_ERR_ARG, "optimizer '%s' keeps %d buffers of state beside the master weights: there is no moment %d",
                         zero_rule_name(engine->config.rule), states, state == ZERO_STATE_MOMENT1 ? 1 : 2);
    if (state == ZERO_STATE_GRAD && !engine->gradients_complete)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "the gradient of parameter '%s' is complete only between zero_micro_end of a step's last "
                         "micro-step and the next training micro-step, or zero_step where optimizer state is not on the device tier",
                         p->name);
    return read_state(engine, param, state, fn, ctx);
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
