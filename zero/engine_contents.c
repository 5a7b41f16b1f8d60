/* SPDX-License-Identifier: Apache-2.0 */
/* engine_contents.c - reads and writes contents: initial parameters, state, addresses. */
#include "optim/rules.h"
#include "zero/engine_pieces.h"
#include "zero/engine_tensors.h"
#include "zero/plan/split.h"

#include <stdlib.h>

/* Elements of a fill that are converted at a time. Their values stay in a core's cache until they are written. */
enum { FILL_PIECE = 1 << 17 };

/* The caller's function, for a parameter that may be a tile of a tensor. */
typedef struct call {
    zero_engine_t *engine;
    zero_fill_fn fill;
    zero_read_fn read;
    void *ctx;
    zero_param_t id; /* that the caller gave */
    int64_t first;   /* the tensor's elements before the tile */
} call_t;

static zero_status_t callback_failed(zero_engine_t *engine, zero_param_t param, const char *what,
                                     const zero_split_run_t *run)
{
    return zero_fail_reason(&engine->error, ZERO_ERR_IO, ZERO_REASON_CALLBACK_FAILED, -1,
                            "the %s callback failed for elements [%lld, %lld) of parameter '%s'", what,
                            (long long)run->begin, (long long)(run->begin + run->count),
                            engine->spec.params[param].name);
}

/* Has the caller fill elements [begin, end) of this rank's part of a parameter. Padding becomes zero. */
static zero_status_t call_fill(const call_t *c, zero_param_t param, int64_t begin, int64_t end, float *out)
{
    const zero_spec_t *spec = &c->engine->spec;
    zero_split_run_t run;
    for (int64_t at = begin; at < end; at = run.next) {
        run = zero_split_run(spec, &spec->params[param], c->engine->rank, at, end);
        if (run.count > 0 && c->fill(c->ctx, c->id, c->first + run.begin, run.count, out + (at - begin)) != 0)
            return callback_failed(c->engine, param, "fill", &run);
        memset(out + (at - begin + run.count), 0, (size_t)(run.next - at - run.count) * sizeof *out);
    }
    return ZERO_OK;
}

static zero_status_t fill(const call_t *c, zero_param_t param)
{
    zero_engine_t *engine = c->engine;
    const zero_placed_t *placed = &engine->plan->placed[param];
    zero_status_t status =
        zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_FILL, param, 0, -1}, &engine->error);
    if (status == ZERO_OK)
        status = zero_exec_sync(engine->exec, &engine->error);
    if (status != ZERO_OK || placed->segment < 0)
        return status;
    const zero_segment_t *segment = &engine->plan->segments[placed->segment];
    /* If parameters or master weights are full, every rank fills all of them, with the same values. */
    zero_range_t mine = zero_range_both(zero_engine_range(engine, param), zero_engine_kept(engine, segment));
    if (mine.begin >= mine.end)
        return ZERO_OK;
    float *rounded, *values = zero_engine_buffers(engine, mine.end - mine.begin, &rounded);
    if (!values) {
        zero_exec_abort(engine->exec, &engine->error);
        return ZERO_ERR_MEMORY;
    }
    for (int64_t at = mine.begin; at < mine.end && status == ZERO_OK; at += FILL_PIECE) {
        zero_range_t range = {at, mine.end - at < FILL_PIECE ? mine.end : at + FILL_PIECE};
        status = call_fill(c, param, range.begin - placed->offset, range.end - placed->offset, values);
        if (status != ZERO_OK) {
            zero_exec_abort(engine->exec, &engine->error);
            break;
        }
        status = zero_engine_put_all(engine, segment, range, values, rounded);
    }
    free(values);
    return status;
}

zero_status_t zero_param_fill(zero_engine_t *engine, zero_param_t param, zero_fill_fn fn, void *ctx)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_param_fill");
    if (status != ZERO_OK)
        return status;
    const zero_tiles_t tiles = zero_engine_tiles(engine, param);
    if (tiles.count == 0)
        return ZERO_ERR_ARG;
    if (!fn)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_fill of parameter '%s' has no function",
                         zero_param_name(engine, param));
    if (engine->pass >= 0)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "parameter '%s' is filled inside pass '%s': end it first",
                         zero_param_name(engine, param), engine->spec.passes[engine->pass].name);
    call_t call = {.engine = engine, .fill = fn, .ctx = ctx, .id = param};
    for (int32_t i = 0; i < tiles.count && status == ZERO_OK; i++) {
        status = fill(&call, tiles.params[i]);
        call.first += engine->spec.params[tiles.params[i]].total;
    }
    return zero_engine_leave(engine, status);
}

/* Receives elements [begin, end) of this rank's part of a parameter. A failure has its sentence in engine->error. */
typedef zero_status_t (*take_fn)(void *ctx, zero_param_t param, int64_t begin, int64_t end, const float *values);

/* Passes those of segment elements [range) that the piece holds to take. */
static zero_status_t read_piece(zero_engine_t *engine, zero_param_t param, const zero_engine_piece_t *piece,
                                zero_range_t range, take_fn take, void *ctx)
{
    int64_t first = engine->plan->placed[param].offset;
    const zero_buffer_t *buffer = &engine->plan->buffers[piece->buffer];
    zero_range_t mine = zero_range_both(range, piece->range);
    zero_status_t status = ZERO_OK;
    if (mine.begin >= mine.end)
        return ZERO_OK;
    float *stored, *values = zero_engine_buffers(engine, mine.end - mine.begin, &stored);
    if (!values)
        return ZERO_ERR_MEMORY;
    for (int64_t at = mine.begin; at < mine.end && status == ZERO_OK; at += ZERO_ENGINE_PIECE) {
        int64_t count = mine.end - at < ZERO_ENGINE_PIECE ? mine.end - at : ZERO_ENGINE_PIECE,
                from = at - piece->range.begin;
        /* Whole blocks, which tensors do not share. */
        status = zero_exec_read(engine->exec, piece->buffer, piece->offset + zero_format_bytes(&buffer->format, from),
                                stored, zero_format_bytes(&buffer->format, count), &engine->error);
        if (status != ZERO_OK) {
            status = zero_engine_leave(engine, status);
            break;
        }
        if (zero_format_is_coded(&buffer->format))
            zero_block8_read(values, (const zero_block8_t *)(const void *)stored, buffer->state, 0, count);
        else
            zero_flat_cpu()->cast(values, ZERO_FP32, stored, buffer->format.dtype, count, 1, NULL);
        status = take(ctx, param, at - first, at - first + count, values);
    }
    free(values);
    return status;
}

/* The elements of a segment that are in a rank's slice; none if its stage lacks the segment. */
static zero_range_t slice_of(const zero_engine_t *engine, int32_t segment, int rank)
{
    const int64_t slice = engine->plan->segments[segment].slice;
    const int index = zero_plan_index(engine->plan, segment, rank);
    return index < 0 ? (zero_range_t){0, 0} : (zero_range_t){index * slice, (index + 1) * slice};
}

/* The elements of a parameter's segment that it has, and that a rank owns. */
static zero_range_t owned_by(const zero_engine_t *engine, zero_param_t param, int rank)
{
    const int32_t segment = engine->plan->placed[param].segment;
    return zero_split_owns(engine->plan, segment, rank)
               ? zero_range_both(zero_engine_range(engine, param), slice_of(engine, segment, rank))
               : (zero_range_t){0, 0};
}

/* Passes segment elements [range) to take. They are this rank's, and the parameter's. */
static zero_status_t read_range(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_range_t range,
                                take_fn take, void *ctx)
{
    int32_t segment = engine->plan->placed[param].segment;
    zero_status_t status;
    zero_engine_piece_t piece;
    for (int32_t i = 0; zero_engine_next_piece(engine, &engine->plan->segments[segment], state, true, i, &piece); i++)
        if ((status = read_piece(engine, param, &piece, range, take, ctx)) != ZERO_OK)
            return status; /* a failure of the caller's function does not end the engine */
    return ZERO_OK;
}

/* Checks that the parameter has this state and that it is valid now. what: "read" or "set". */
static zero_status_t check_state(zero_engine_t *engine, zero_param_t param, zero_state_t state, const char *what)
{
    const zero_tiles_t tiles = zero_engine_tiles(engine, param);
    if (tiles.count == 0)
        return ZERO_ERR_ARG;
    param = tiles.params[0]; /* its other tiles have the same state */
    const zero_spec_param_t *p = &engine->spec.params[param];
    if ((unsigned)state > ZERO_STATE_MOMENT2)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "state %d of parameter '%s' cannot be %s: use one of zero_state_t", (int)state, p->name, what);
    int32_t placed = engine->plan->placed[param].segment;
    if (state != ZERO_STATE_PARAM && (!p->trainable || (placed >= 0 && !engine->plan->segments[placed].trainable)))
        return zero_fail(&engine->error, ZERO_ERR_ARG, "parameter '%s' is %s: only ZERO_STATE_PARAM can be %s", p->name,
                         p->trainable ? "not trained, because the engine has no training pass" : "frozen", what);
    bool whole = placed >= 0 && engine->plan->segments[placed].whole;
    int states = whole ? engine->spec.whole_state.count : engine->spec.state.count;
    if ((state == ZERO_STATE_MOMENT1 && states < 1) || (state == ZERO_STATE_MOMENT2 && states < 2))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "optimizer '%s' keeps %d buffers of state besides the master weights: there is no moment %d",
                         zero_rule(zero_rule_of(engine->config.rule, whole))->name, states,
                         state == ZERO_STATE_MOMENT1 ? 1 : 2);
    if (state == ZERO_STATE_GRAD && !engine->gradients_complete)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "the gradient of parameter '%s' is complete only between zero_micro_end of a step's last "
                         "micro-step and the next training micro-step",
                         p->name);
    return ZERO_OK;
}

/* Has the caller read them. */
static zero_status_t call_read(void *ctx, zero_param_t param, int64_t begin, int64_t end, const float *values)
{
    const call_t *c = ctx;
    const zero_spec_t *spec = &c->engine->spec;
    zero_split_run_t run;
    for (int64_t at = begin; at < end; at = run.next) {
        run = zero_split_run(spec, &spec->params[param], c->engine->rank, at, end);
        if (run.count > 0 && c->read(c->ctx, c->id, c->first + run.begin, run.count, values + (at - begin)) != 0)
            return callback_failed(c->engine, param, "read", &run);
    }
    return ZERO_OK;
}

zero_status_t zero_param_read(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_read_fn fn, void *ctx)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_param_read");
    if (status == ZERO_OK)
        status = check_state(engine, param, state, "read");
    if (status != ZERO_OK)
        return status;
    if (!fn)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_read of parameter '%s' has no function",
                         zero_param_name(engine, param));
    status = zero_engine_leave(engine, zero_exec_sync(engine->exec, &engine->error));
    const zero_tiles_t tiles = zero_engine_tiles(engine, param);
    call_t call = {.engine = engine, .read = fn, .ctx = ctx, .id = param};
    for (int32_t i = 0; i < tiles.count && status == ZERO_OK; i++) {
        const zero_param_t tile = tiles.params[i];
        if (engine->plan->placed[tile].segment >= 0)
            status = read_range(engine, tile, state, owned_by(engine, tile, engine->rank), call_read, &call);
        call.first += engine->spec.params[tile].total;
    }
    return status;
}

/* ---- whole tensors ---------------------------------------------------------------------------------------------- */

/* The call that a rank makes. */
typedef struct request {
    int32_t refused, param, state, set;
} request_t;

static const char *name_of(const request_t *r)
{
    return r->set ? "zero_param_set" : "zero_param_get";
}

/* Checks that every rank makes the same call and that none refuses it. Collective. */
static zero_status_t agree_on_request(zero_engine_t *engine, zero_status_t status, const request_t *own)
{
    static const char *const states[] = {"values", "gradient", "master weights", "first moment", "second moment"};
    const char *what = name_of(own), *param = status == ZERO_OK ? zero_param_name(engine, own->param) : "";
    zero_error_t error = engine->error;
    request_t *all = malloc((size_t)engine->world * sizeof *all);
    if (!all) {
        status = zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for %s: %zu bytes", what,
                           (size_t)engine->world * sizeof *all);
        zero_exec_abort(engine->exec, &engine->error);
        return zero_engine_leave(engine, status);
    }
    const int32_t first = status == ZERO_OK ? zero_engine_tiles(engine, own->param).params[0] : -1;
    const zero_exec_call_t call = {ZERO_CALL_WHOLE, first, own->set, -1};
    zero_status_t agreed = zero_exec_call(engine->exec, &call, &engine->error);
    if (agreed == ZERO_OK)
        agreed = zero_exec_exchange(engine->exec, own, all, sizeof *own, &engine->error);
    if (agreed != ZERO_OK)
        status = zero_engine_leave(engine, agreed);
    else if (status != ZERO_OK)
        engine->error = error;
    for (int r = 0; r < engine->world && status == ZERO_OK; r++)
        if (all[r].refused)
            status = zero_fail(
                &engine->error, ZERO_ERR_ARG,
                "%s of parameter '%s' was refused on rank %d, which has the sentence: make the same call on every "
                "rank",
                what, param, r);
    for (int r = 0; r < engine->world && status == ZERO_OK; r++)
        if (memcmp(&all[r], own, sizeof *own) != 0)
            status = zero_fail(
                &engine->error, ZERO_ERR_ARG,
                "rank %d calls %s of parameter '%s' (%s), but rank %d %s of parameter '%s' (%s): make the same call "
                "on every rank",
                engine->rank, what, param, states[own->state], r, name_of(&all[r]),
                zero_param_name(engine, all[r].param), states[all[r].state]);
    free(all);
    return status;
}

/* Begins zero_param_set or zero_param_get. */
static zero_status_t enter_tensor_call(zero_entry_t *entry, zero_engine_t *engine, zero_param_t param,
                                       zero_state_t state, zero_dtype_t dtype, bool set, const void *values)
{
    const char *what = set ? "zero_param_set" : "zero_param_get";
    zero_status_t status = zero_engine_enter_running(entry, engine, what);
    if (status != ZERO_OK)
        return status;
    if (engine->pass >= 0) /* ranks may be at different uses and cannot exchange here */
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "%s inside pass '%s': end it first", what,
                         engine->spec.passes[engine->pass].name);
    status = check_state(engine, param, state, set ? "set" : "read");
    if (status == ZERO_OK && zero_dtype_size(dtype) == 0)
        status = zero_fail(&engine->error, ZERO_ERR_ARG, "%s of parameter '%s' has the unknown dtype %d", what,
                           zero_param_name(engine, param), (int)dtype);
    if (status == ZERO_OK && set && !values && zero_param_elements(engine, param) > 0)
        status = zero_fail(&engine->error, ZERO_ERR_ARG, "%s of parameter '%s' has no values", what,
                           zero_param_name(engine, param));
    return agree_on_request(engine, status, &(request_t){status != ZERO_OK, param, (int32_t)state, set});
}

typedef struct target {
    float *values;
    int64_t first; /* the element of values[0] */
} target_t;
static zero_status_t copy_values(void *ctx, zero_param_t param, int64_t begin, int64_t end, const float *values)
{
    const target_t *target = ctx;
    (void)param;
    memcpy(target->values + (begin - target->first), values, (size_t)(end - begin) * sizeof *values);
    return ZERO_OK;
}

/* Elements that a rank sends per exchange. */
enum { EXCHANGE_ELEMENTS = 16384 };

/* What a rank sends next of its elements of a parameter. sent: before. */
static zero_range_t turn_of(const zero_engine_t *engine, zero_param_t param, int rank, int64_t sent)
{
    const zero_range_t own = owned_by(engine, param, rank);
    return zero_range_both(own, (zero_range_t){own.begin + sent, own.begin + sent + EXCHANGE_ELEMENTS});
}

/* Writes elements [begin, end) of a rank's part of a parameter to where the whole, out, has them. */
static void put_part(const zero_engine_t *engine, zero_param_t param, int rank, int64_t begin, int64_t end,
                     const float *values, zero_dtype_t dtype, char *out)
{
    const zero_spec_t *spec = &engine->spec;
    zero_split_run_t run;
    for (int64_t at = begin; at < end; at = run.next) {
        run = zero_split_run(spec, &spec->params[param], rank, at, end);
        if (run.count > 0)
            zero_flat_cpu()->cast(out + (size_t)run.begin * zero_dtype_size(dtype), dtype, values + (at - begin),
                                  ZERO_FP32, run.count, 1, NULL);
    }
}

/* Gathers a tensor: in each round, every rank sends the next elements of what it owns to all others. */
static zero_status_t gather(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_dtype_t dtype,
                            char *out)
{
    const int64_t first = engine->plan->placed[param].offset;
    int64_t longest = 0;
    size_t bytes = (size_t)(engine->world + 1) * EXCHANGE_ELEMENTS * sizeof(float);
    zero_status_t status = ZERO_OK;
    float *mine = calloc(1, bytes), *all = mine ? mine + EXCHANGE_ELEMENTS : NULL;
    if (!mine) {
        status = zero_fail(&engine->error, ZERO_ERR_MEMORY, "zero_param_get of parameter '%s' cannot have %zu bytes",
                           engine->spec.params[param].name, bytes);
        zero_exec_abort(engine->exec, &engine->error);
        return status;
    }
    for (int r = 0; r < engine->world; r++) {
        const zero_range_t theirs = owned_by(engine, param, r);
        longest = theirs.end - theirs.begin > longest ? theirs.end - theirs.begin : longest;
    }
    for (int64_t done = 0; done < longest && status == ZERO_OK; done += EXCHANGE_ELEMENTS) {
        const zero_range_t own = turn_of(engine, param, engine->rank, done);
        target_t target = {mine, own.begin - first};
        if (own.begin < own.end && (status = read_range(engine, param, state, own, copy_values, &target)) != ZERO_OK)
            zero_exec_abort(engine->exec, &engine->error); /* no memory: the other ranks wait for these elements */
        if (status == ZERO_OK)
            status = zero_exec_exchange(engine->exec, mine, all, EXCHANGE_ELEMENTS * sizeof *mine, &engine->error);
        for (int r = 0; r < engine->world && out && status == ZERO_OK; r++) {
            const zero_range_t theirs = turn_of(engine, param, r, done);
            put_part(engine, param, r, theirs.begin - first, theirs.end - first, all + (size_t)r * EXCHANGE_ELEMENTS,
                     dtype, out);
        }
    }
    free(mine);
    return status;
}

zero_status_t zero_param_get(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_dtype_t dtype,
                             void *values)
{
    ZERO_ENTRY(entry);
    zero_status_t status = enter_tensor_call(&entry, engine, param, state, dtype, false, NULL);
    if (status != ZERO_OK)
        return status;
    status = zero_exec_sync(engine->exec, &engine->error);
    const zero_tiles_t tiles = zero_engine_tiles(engine, param);
    char *out = values;
    for (int32_t i = 0; i < tiles.count && status == ZERO_OK; i++) {
        if (engine->plan->placed[tiles.params[i]].segment >= 0)
            status = gather(engine, tiles.params[i], state, dtype, out);
        if (out)
            out += (size_t)engine->spec.params[tiles.params[i]].total * zero_dtype_size(dtype);
    }
    return zero_engine_leave(engine, status);
}

/* Recomputes the squared norm of the gradients in the order of the NORM operation: blocks of this rank's slice by
 * index, across its parts. */
static zero_status_t recompute_norm(zero_engine_t *engine, int32_t s)
{
    const zero_segment_t *segment = &engine->plan->segments[s];
    const zero_range_t own = slice_of(engine, s, engine->rank);
    const size_t element = zero_dtype_size(segment->final);
    double sum = 0, square, scratch;
    zero_status_t status;
    zero_engine_piece_t piece;
    for (int64_t at = own.begin; at < own.end; at += ZERO_NORM_BLOCK) {
        zero_range_t block = zero_range_both(own, (zero_range_t){at, at + ZERO_NORM_BLOCK});
        float values[ZERO_NORM_BLOCK];
        for (int32_t i = 0; zero_engine_next_piece(engine, segment, ZERO_STATE_GRAD, true, i, &piece); i++) {
            zero_range_t both = zero_range_both(block, piece.range);
            if (both.begin >= both.end)
                continue;
            status = zero_exec_read(engine->exec, piece.buffer,
                                    piece.offset + (uint64_t)(both.begin - piece.range.begin) * element,
                                    (char *)values + (size_t)(both.begin - at) * element,
                                    (uint64_t)(both.end - both.begin) * element, &engine->error);
            if (status != ZERO_OK)
                return status;
        }
        zero_flat_ref()->square_sum(&square, &scratch, values, segment->final, block.end - block.begin, 1, NULL);
        sum += square;
    }
    return zero_exec_write(engine->exec, engine->plan->norms, (uint64_t)s * sizeof sum, &sum, sizeof sum,
                           &engine->error);
}

/* Takes elements [begin, end) of this rank's part of a parameter from the whole's values. Padding becomes zero. */
static void take_part(const zero_engine_t *engine, zero_param_t param, int64_t begin, int64_t end, zero_dtype_t dtype,
                      const char *values, float *out)
{
    const zero_spec_t *spec = &engine->spec;
    zero_split_run_t run;
    for (int64_t at = begin; at < end; at = run.next) {
        run = zero_split_run(spec, &spec->params[param], engine->rank, at, end);
        if (run.count > 0)
            zero_flat_cpu()->cast(out + (at - begin), ZERO_FP32, values + (size_t)run.begin * zero_dtype_size(dtype),
                                  dtype, run.count, 1, NULL);
        memset(out + (at - begin + run.count), 0, (size_t)(run.next - at - run.count) * sizeof *out);
    }
}

static zero_status_t set(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_dtype_t dtype,
                         const char *values)
{
    zero_range_t whole = zero_engine_range(engine, param);
    int32_t s = engine->plan->placed[param].segment;
    const zero_segment_t *segment = &engine->plan->segments[s];
    zero_status_t status = ZERO_OK;
    float *rounded, *as_fp32 = zero_engine_buffers(engine, whole.end - whole.begin, &rounded);
    zero_engine_piece_t piece;
    if (!as_fp32) {
        zero_exec_abort(engine->exec, &engine->error);
        return ZERO_ERR_MEMORY;
    }
    for (int64_t at = whole.begin; at < whole.end && status == ZERO_OK; at += ZERO_ENGINE_PIECE) {
        zero_range_t range = {at, whole.end - at < ZERO_ENGINE_PIECE ? whole.end : at + ZERO_ENGINE_PIECE};
        take_part(engine, param, range.begin - whole.begin, range.end - whole.begin, dtype, values, as_fp32);
        if (state == ZERO_STATE_PARAM || state == ZERO_STATE_MASTER)
            status = zero_engine_put_all(engine, segment, range, as_fp32, rounded);
        else
            for (int32_t i = 0; status == ZERO_OK && zero_engine_next_piece(engine, segment, state, false, i, &piece);
                 i++)
                status = zero_engine_put(engine, &piece, range, as_fp32, rounded);
    }
    free(as_fp32);
    return status == ZERO_OK && state == ZERO_STATE_GRAD ? recompute_norm(engine, s) : status;
}

zero_status_t zero_param_set(zero_engine_t *engine, zero_param_t param, zero_state_t state, zero_dtype_t dtype,
                             const void *values)
{
    ZERO_ENTRY(entry);
    zero_status_t status = enter_tensor_call(&entry, engine, param, state, dtype, true, values);
    if (status != ZERO_OK)
        return status;
    status = zero_exec_sync(engine->exec, &engine->error);
    const zero_tiles_t tiles = zero_engine_tiles(engine, param);
    const char *from = values;
    for (int32_t i = 0; i < tiles.count && status == ZERO_OK; i++)
        if (engine->plan->placed[tiles.params[i]].segment >= 0) {
            status = set(engine, tiles.params[i], state, dtype, from);
            from += (size_t)engine->spec.params[tiles.params[i]].total * zero_dtype_size(dtype);
        }
    return zero_engine_leave(engine, status);
}

/* ---- names and addresses ---------------------------------------------------------------------------------------- */

zero_status_t zero_param_find(zero_engine_t *engine, const char *name, zero_param_t *param)
{
    if (param)
        *param = -1;
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter(&entry, engine);
    if (status != ZERO_OK)
        return status;
    if (!name || !param)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_find has no %s",
                         name ? "address for the parameter's id" : "name");
    for (int32_t i = 0; i < engine->spec.param_count; i++)
        if (strcmp(engine->spec.params[i].name, name) == 0) {
            *param = i;
            return ZERO_OK;
        }
    for (int32_t t = 0; t < engine->tensor_count; t++)
        if (strcmp(engine->tensors[t].name, name) == 0) { /* of tiles, or it was found above */
            *param = engine->spec.param_count + t;
            return ZERO_OK;
        }
    return zero_fail(&engine->error, ZERO_ERR_ARG, "there is no parameter '%s' among the engine's %d", name,
                     engine->spec.param_count);
}

static const zero_spec_param_t *spec_param(const zero_engine_t *engine, zero_param_t param)
{
    return engine && param >= 0 && param < engine->spec.param_count ? &engine->spec.params[param] : NULL;
}

int32_t zero_param_count(const zero_engine_t *engine)
{
    return engine ? engine->spec.param_count : 0;
}

const char *zero_param_name(const zero_engine_t *engine, zero_param_t param)
{
    const zero_spec_param_t *p = spec_param(engine, param);
    const struct zero_tensor *t = zero_engine_tiled(engine, param);
    return p ? p->name : t ? t->name : NULL;
}

int64_t zero_param_elements(const zero_engine_t *engine, zero_param_t param)
{
    const zero_spec_param_t *p = spec_param(engine, param);
    const struct zero_tensor *t = zero_engine_tiled(engine, param);
    return p ? p->total : t ? t->count : 0;
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
    char *base = zero_exec_address(engine->exec, buffer);
    return base + (size_t)placed->offset * zero_dtype_size(engine->plan->buffers[buffer].format.dtype);
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
    return zero_exec_address(engine->exec, engine->plan->reserve_buffer[reserve]);
}
