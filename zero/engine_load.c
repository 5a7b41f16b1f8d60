/* SPDX-License-Identifier: Apache-2.0 */
/* engine_load.c - zero_load: each rank reads the ranges that it keeps, whatever world and placement they were saved
 * from. */
#include "optim/rules.h"
#include "zero/checkpoint/checkpoint.h"
#include "zero/engine_pieces.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- does it fit ------------------------------------------------------------------------------------------------ */

static const zero_manifest_param_t *find_param(const zero_manifest_t *m, const char *name)
{
    for (int i = 0; i < m->param_count; i++)
        if (strcmp(m->params[i].name, name) == 0)
            return &m->params[i];
    return NULL;
}

typedef struct shape_text {
    char s[160];
} shape_text_t;
static shape_text_t shape_of(int32_t ndim, const int64_t *shape)
{
    shape_text_t t = {"("};
    size_t used = 1;
    for (int32_t d = 0; d < ndim && used < sizeof t.s - 24; d++)
        used += (size_t)snprintf(t.s + used, sizeof t.s - used, d > 0 ? ", %lld" : "%lld", (long long)shape[d]);
    snprintf(t.s + used, sizeof t.s - used, ")");
    return t;
}

/* Rules whose state can be converted into each other: AdamW, whose moments may be in 8 bits. */
static const char *family_of(const char *rule)
{
    return strcmp(rule, zero_rule(ZERO_RULE_ADAMW8)->name) == 0 ? zero_rule(ZERO_RULE_ADAMW)->name : rule;
}

static zero_status_t check_params(zero_engine_t *engine, const zero_manifest_t *m, const char *path)
{
    for (int32_t p = 0; p < engine->spec.param_count; p++) {
        const zero_spec_param_t *own = &engine->spec.params[p];
        const zero_manifest_param_t *there = find_param(m, own->name);
        if (!there)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "the checkpoint '%s' has no parameter '%s': load it into the model that it was saved from",
                             path, own->name);
        bool same = there->ndim == own->ndim;
        for (int32_t d = 0; d < own->ndim && same; d++)
            same = there->shape[d] == own->shape[d];
        if (!same)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "parameter '%s' has the shape %s in the checkpoint '%s', but %s in the engine", own->name,
                             shape_of(there->ndim, there->shape).s, path, shape_of(own->ndim, own->shape).s);
    }
    if (m->param_count == engine->spec.param_count)
        return ZERO_OK;
    for (int i = 0; i < m->param_count; i++) {
        bool found = false;
        for (int32_t p = 0; p < engine->spec.param_count && !found; p++)
            found = strcmp(m->params[i].name, engine->spec.params[p].name) == 0;
        if (!found)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "the checkpoint '%s' has a parameter '%s', which the engine lacks: load it into the model "
                             "that it was saved from",
                             path, m->params[i].name);
    }
    return ZERO_OK;
}

/* Every state that the engine keeps is in the checkpoint. */
static zero_status_t check_states(zero_engine_t *engine, const zero_checkpoint_t *c, const char *path)
{
    for (int32_t p = 0; p < engine->spec.param_count; p++) {
        int32_t s = engine->plan->placed[p].segment;
        int count = s >= 0 && engine->plan->segments[s].trainable ? zero_plan_state(engine->plan, s)->count : 0;
        for (int i = 0; i < count; i++) {
            zero_state_t state = i == 0 ? ZERO_STATE_MOMENT1 : ZERO_STATE_MOMENT2;
            if (!zero_checkpoint_find(c, state, engine->spec.params[p].name))
                return zero_fail(&engine->error, ZERO_ERR_ARG,
                                 "the checkpoint '%s' has no %s of parameter '%s': it was not trained there, or by an "
                                 "optimizer with other state",
                                 path, zero_checkpoint_state_name(state), engine->spec.params[p].name);
        }
    }
    return ZERO_OK;
}

static zero_status_t check_fits(zero_engine_t *engine, const zero_checkpoint_t *c)
{
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_status_t status = zero_checkpoint_info(c, &info);
    const char *rule = zero_rule(engine->config.rule)->name;
    if (status != ZERO_OK)
        return zero_fail(&engine->error, status, "zero_load has no checkpoint");
    if (strcmp(family_of(info.optimizer), family_of(rule)) != 0)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "the checkpoint '%s' has the state of optimizer '%s', but the engine's is '%s': use the same",
                         info.path, info.optimizer, rule);
    if ((status = check_params(engine, zero_checkpoint_manifest(c), info.path)) != ZERO_OK)
        return status;
    return check_states(engine, c, info.path);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* How a tensor is stored. */
static zero_format_t format_of(const zero_tensor_entry_t *tensor)
{
    const char *dtype = tensor->info.dtype;
    if (strcmp(dtype, "U8") == 0)
        return (zero_format_t){ZERO_FP32, ZERO_BLOCK8, (int32_t)sizeof(zero_block8_t)};
    return zero_format_plain(strcmp(dtype, "BF16") == 0  ? ZERO_BF16
                             : strcmp(dtype, "F16") == 0 ? ZERO_FP16
                                                         : ZERO_FP32);
}

/* Elements [begin, begin + count) of a tensor as they are stored; begin is at a block. */
static zero_status_t read_stored(zero_engine_t *engine, const zero_checkpoint_t *c, const zero_tensor_entry_t *tensor,
                                 const zero_format_t *format, int64_t begin, int64_t count, void *out)
{
    bool coded = zero_format_is_coded(format);
    int64_t bytes = (int64_t)zero_format_bytes(format, count);
    return zero_checkpoint_read(c, tensor, coded ? (int64_t)zero_format_bytes(format, begin) : begin,
                                coded ? bytes : count, out, &engine->error);
}

/* The same in fp32, through stored. state: which of a rule's states it is. */
static zero_status_t read_values(zero_engine_t *engine, const zero_checkpoint_t *c, const zero_tensor_entry_t *tensor,
                                 int state, int64_t begin, int64_t count, float *values, float *stored)
{
    const zero_format_t format = format_of(tensor);
    zero_status_t status = read_stored(engine, c, tensor, &format, begin, count, stored);
    if (status != ZERO_OK)
        return status;
    if (zero_format_is_coded(&format))
        zero_block8_read(values, (const zero_block8_t *)(const void *)stored, state, 0, count);
    else
        zero_flat_ref()->cast(values, ZERO_FP32, stored, format.dtype, count, 1, NULL);
    return ZERO_OK;
}

/* Up to where elements [at, end) of a tensor that begins at `first` are read at once. Reads end at multiples of
 * ZERO_ENGINE_PIECE from its start, as pieces of the file do, so that none is read twice. The system reads what follows
 * ahead. */
static int64_t next_end(const zero_checkpoint_t *c, const zero_tensor_entry_t *tensor, int64_t first, int64_t at,
                        int64_t end)
{
    const zero_format_t format = format_of(tensor);
    int64_t next = at + ZERO_ENGINE_PIECE - (at - first) % ZERO_ENGINE_PIECE, ahead = 2 * ZERO_ENGINE_PIECE;
    if (next >= end)
        return end;
    if (ahead > end - next)
        ahead = end - next;
    if (zero_format_is_coded(&format))
        zero_checkpoint_expect(c, tensor, (int64_t)zero_format_bytes(&format, next - first),
                               (int64_t)zero_format_bytes(&format, ahead));
    else
        zero_checkpoint_expect(c, tensor, next - first, ahead);
    return next;
}

/* Parameters, and master weights: from the checkpoint's master weights if it has them. */
static zero_status_t load_values(zero_engine_t *engine, const zero_checkpoint_t *c, zero_param_t param, float *values,
                                 float *scratch)
{
    const zero_segment_t *segment = &engine->plan->segments[engine->plan->placed[param].segment];
    const char *name = engine->spec.params[param].name;
    const zero_tensor_entry_t *tensor = zero_checkpoint_find(c, ZERO_STATE_MASTER, name);
    zero_range_t all = zero_engine_range(engine, param), mine = zero_range_both(all, zero_engine_kept(engine, segment));
    zero_status_t status = ZERO_OK;
    if (!tensor)
        tensor = zero_checkpoint_find(c, ZERO_STATE_PARAM, name);
    for (int64_t at = mine.begin, next; at < mine.end && status == ZERO_OK; at = next) {
        next = next_end(c, tensor, all.begin, at, mine.end);
        zero_range_t range = {at, next};
        status = read_values(engine, c, tensor, 0, at - all.begin, range.end - at, values, scratch);
        if (status == ZERO_OK)
            status = zero_engine_put_all(engine, segment, range, values, scratch);
    }
    return status;
}

/* One moment. Where the formats are the same, as it is stored. */
static zero_status_t load_moment(zero_engine_t *engine, const zero_checkpoint_t *c, zero_param_t param, int i,
                                 float *values, float *scratch)
{
    zero_state_t state = i == 0 ? ZERO_STATE_MOMENT1 : ZERO_STATE_MOMENT2;
    const zero_segment_t *segment = &engine->plan->segments[engine->plan->placed[param].segment];
    const zero_tensor_entry_t *tensor = zero_checkpoint_find(c, state, engine->spec.params[param].name);
    const zero_format_t stored = format_of(tensor);
    zero_range_t all = zero_engine_range(engine, param);
    zero_engine_piece_t piece;
    zero_status_t status = ZERO_OK;
    for (int32_t k = 0; zero_engine_next_piece(engine, segment, state, false, k, &piece); k++) {
        const zero_format_t *own = &engine->plan->buffers[piece.buffer].format;
        zero_range_t mine = zero_range_both(all, piece.range);
        bool same = zero_format_same(own, &stored);
        for (int64_t at = mine.begin, next; at < mine.end && status == ZERO_OK; at = next) {
            next = next_end(c, tensor, all.begin, at, mine.end);
            zero_range_t range = {at, next};
            int64_t count = range.end - at;
            status = same ? read_stored(engine, c, tensor, own, at - all.begin, count, values)
                          : read_values(engine, c, tensor, i, at - all.begin, count, values, scratch);
            if (status == ZERO_OK)
                status = same ? zero_exec_write(engine->exec, piece.buffer,
                                                piece.offset + zero_format_bytes(own, at - piece.range.begin), values,
                                                zero_format_bytes(own, count), &engine->error)
                              : zero_engine_put(engine, &piece, range, values, scratch);
        }
    }
    return status;
}

static zero_status_t load_param(zero_engine_t *engine, const zero_checkpoint_t *c, zero_param_t param)
{
    int32_t s = engine->plan->placed[param].segment;
    if (s < 0) /* it has no elements */
        return ZERO_OK;
    int count = engine->plan->segments[s].trainable ? zero_plan_state(engine->plan, s)->count : 0;
    float *scratch, *values = zero_engine_buffers(engine, engine->spec.params[param].count, &scratch);
    zero_status_t status = values ? load_values(engine, c, param, values, scratch) : ZERO_ERR_MEMORY;
    for (int i = 0; i < count && status == ZERO_OK; i++)
        status = load_moment(engine, c, param, i, values, scratch);
    free(values);
    return status;
}

/* ---- the call --------------------------------------------------------------------------------------------------- */

/* Every rank has opened the same checkpoint. */
static zero_status_t check_same(zero_engine_t *engine, const zero_checkpoint_t *c, zero_status_t *status)
{
    const zero_manifest_t *m = zero_checkpoint_manifest(c);
    uint64_t hash = 0, *all = calloc((size_t)engine->world, sizeof *all);
    if (!all) {
        zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for zero_load");
        zero_exec_abort(engine->exec, &engine->error);
        return ZERO_ERR_MEMORY;
    }
    zero_hash_word(&hash, (uint64_t)m->step);
    for (uint64_t i = 0; i < m->piece_count; i++)
        zero_hash_word(&hash, m->pieces[i].hash);
    zero_status_t failed = zero_exec_exchange(engine->exec, &hash, all, sizeof hash, &engine->error);
    for (int r = 0; r < engine->world && failed == ZERO_OK && *status == ZERO_OK; r++)
        if (all[r] != all[0])
            *status = zero_fail(&engine->error, ZERO_ERR_ARG,
                                "rank %d loads another checkpoint than rank 0: open the same on every rank", r);
    free(all);
    return failed;
}

static zero_status_t load(zero_engine_t *engine, const zero_checkpoint_t *c, zero_status_t *status)
{
    const zero_manifest_t *m = zero_checkpoint_manifest(c);
    zero_status_t failed = zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_LOAD, 0, 0, -1}, &engine->error);
    if (failed == ZERO_OK)
        failed = zero_exec_sync(engine->exec, &engine->error);
    if (failed != ZERO_OK)
        return failed;
    *status = check_fits(engine, c);
    if ((failed = zero_engine_agree(engine, status)) != ZERO_OK || *status != ZERO_OK ||
        (failed = check_same(engine, c, status)) != ZERO_OK || *status != ZERO_OK)
        return failed;
    for (zero_param_t p = 0; p < engine->spec.param_count && *status == ZERO_OK; p++)
        *status = load_param(engine, c, p);
    if ((failed = zero_engine_agree(engine, status)) != ZERO_OK)
        return failed;
    if (*status != ZERO_OK) /* half of it is loaded */
        return *status;
    return zero_exec_set_step(engine->exec, m->step, m->applied, &engine->error);
}

zero_status_t zero_load(zero_engine_t *engine, const zero_checkpoint_t *checkpoint)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_load"), failed;
    if (status != ZERO_OK)
        return status;
    if (!checkpoint)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_load has no checkpoint");
    if (engine->pass >= 0 || engine->micro_done > 0 || engine->step_due)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_load is called in the middle of a step: call zero_step first");
    failed = zero_engine_leave(engine, load(engine, checkpoint, &status));
    return failed == ZERO_OK ? status : failed;
}
