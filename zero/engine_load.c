/* SPDX-License-Identifier: Apache-2.0 */
/* engine_load.c - zero_load: each rank reads the ranges that it keeps, whatever world and placement they were saved
 * from. */
#include "optim/rules.h"
#include "zero/checkpoint/ahead.h"
#include "zero/engine_pieces.h"
#include "zero/engine_tensors.h"
#include "zero/plan/split.h"

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
    int found_there = 0;
    for (int32_t t = 0; t < engine->tensor_count; t++) {
        const struct zero_tensor *own = &engine->tensors[t];
        const zero_manifest_param_t *there = find_param(m, own->name);
        if (!there && !engine->spec.params[zero_tensor_param(engine, own)].trainable && !engine->config.saves_frozen)
            continue; /* it stays as it is */
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
        found_there++;
    }
    if (found_there == m->param_count)
        return ZERO_OK;
    for (int i = 0; i < m->param_count; i++) {
        bool found = false;
        for (int32_t t = 0; t < engine->tensor_count && !found; t++)
            found = strcmp(m->params[i].name, engine->tensors[t].name) == 0;
        if (!found)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "the checkpoint '%s' has a parameter '%s', which the engine lacks: load it into the model "
                             "that it was saved from",
                             path, m->params[i].name);
    }
    return ZERO_OK;
}

/* Whether values of a parameter can be read from a tensor, whose shape is the parameter's, or of bytes. */
static bool is_readable(const zero_tensor_entry_t *tensor, const struct zero_tensor *param, zero_state_t state)
{
    const zero_tensor_info_t *info = &tensor->info;
    if (strcmp(info->dtype, "F32") == 0 || strcmp(info->dtype, "BF16") == 0 || strcmp(info->dtype, "F16") == 0)
        return true;
    return (state == ZERO_STATE_MOMENT1 || state == ZERO_STATE_MOMENT2) && strcmp(info->dtype, "U8") == 0 &&
           info->ndim == 2 && info->shape[0] == (param->count + ZERO_BLOCK8 - 1) / ZERO_BLOCK8 &&
           info->shape[1] == (int64_t)sizeof(zero_block8_t);
}

/* The checkpoint has every state that the engine keeps, and no other, unless the engine keeps none. */
static zero_status_t check_states(zero_engine_t *engine, const zero_checkpoint_t *c, const char *path)
{
    static const zero_state_t states[] = {ZERO_STATE_MASTER, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    for (int32_t t = 0; t < engine->tensor_count; t++) {
        const struct zero_tensor *param = &engine->tensors[t];
        int32_t s = engine->plan->placed[zero_tensor_param(engine, param)].segment;
        int count = s >= 0 && engine->plan->segments[s].trainable ? zero_plan_state(engine->plan, s)->count : 0;
        for (int i = 0; i < 3; i++) {
            const zero_tensor_entry_t *tensor = zero_checkpoint_find(c, states[i], param->name);
            const char *what = zero_checkpoint_state_name(states[i]);
            if (tensor && !is_readable(tensor, param, states[i]))
                return zero_fail(
                    &engine->error, ZERO_ERR_FORMAT,
                    "the checkpoint '%s' has %s of parameter '%s' as '%.7s', in a shape that is not for it", path, what,
                    param->name, tensor->info.dtype);
            if (i > 0 && i <= count && !tensor)
                return zero_fail(&engine->error, ZERO_ERR_ARG,
                                 "the checkpoint '%s' has no %s of parameter '%s': it was not trained there, or by an "
                                 "optimizer with other state",
                                 path, what, param->name);
            if (i > count && count > 0 && tensor)
                return zero_fail(&engine->error, ZERO_ERR_ARG,
                                 "the checkpoint '%s' has %s of parameter '%s', which the engine does not keep: it was "
                                 "trained there by an optimizer with other state",
                                 path, what, param->name);
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

/* A load walks over everything twice: first it lists what will be read, so that threads can read ahead of the second
 * walk. */
typedef struct load {
    zero_engine_t *engine;
    const zero_checkpoint_t *checkpoint;
    zero_ahead_t *ahead;
    bool lists;              /* the first walk */
    float *values, *scratch; /* room for the elements of a window */
} load_t;

/* How a tensor is stored. */
static zero_format_t format_of(const zero_tensor_entry_t *tensor)
{
    const char *dtype = tensor->info.dtype;
    if (strcmp(dtype, "U8") == 0)
        return (zero_format_t){.dtype = ZERO_FP32, .block = ZERO_BLOCK8, .block_bytes = (int32_t)sizeof(zero_block8_t)};
    return zero_format_plain(strcmp(dtype, "BF16") == 0  ? ZERO_BF16
                             : strcmp(dtype, "F16") == 0 ? ZERO_FP16
                                                         : ZERO_FP32);
}

/* What is read at once: elements of a parameter's segment, and the elements of the tensor from the first of them to the
 * last. Those of other ranks' parts may lie between them. */
typedef struct window {
    zero_range_t range;   /* of the segment */
    int64_t begin, count; /* of the tensor; count 0: the range is padding, which no checkpoint has */
} window_t;

/* The parameter that is read, and its place in its tensor. */
typedef struct source {
    zero_param_t param;
    int64_t offset, first; /* in the segment; in the tensor */
    const zero_tensor_entry_t *tensor;
    zero_format_t format; /* as it is stored */
} source_t;

static source_t source_of(const load_t *l, zero_param_t param, zero_state_t state)
{
    const zero_tile_t tile = zero_engine_tile(l->engine, param);
    const char *name = l->engine->tensors[tile.tensor].name;
    source_t s = {param, l->engine->plan->placed[param].offset, tile.first,
                  zero_checkpoint_find(l->checkpoint, state, name), zero_format_plain(ZERO_FP32)};
    if (!s.tensor && state == ZERO_STATE_MASTER)
        s.tensor = zero_checkpoint_find(l->checkpoint, ZERO_STATE_PARAM, name);
    if (s.tensor)
        s.format = format_of(s.tensor);
    return s;
}

/* The element of the tensor up to which to read at once from element begin, which is the first of its block. Where it
 * can, that is where one of the checkpoint's windows ends, so that each is read once. Otherwise it is any multiple of
 * own, the block of the format in which the engine keeps the elements. */
static int64_t limit_of(const load_t *l, const source_t *s, int64_t begin, int64_t own)
{
    /* a coded tensor is one of bytes */
    const int64_t block = s->format.block, bytes = zero_format_is_coded(&s->format) ? s->format.block_bytes : 1,
                  first = begin / block * bytes,
                  fit = zero_checkpoint_fit(l->checkpoint, s->tensor, first, ZERO_ENGINE_PIECE / block * bytes),
                  limit = begin + fit / bytes * block;
    if (first + fit == s->tensor->info.count)
        return limit;
    return (limit / own * own > begin ? limit : begin + ZERO_ENGINE_PIECE) / own * own;
}

/* The window that begins with segment element `at`, up to `end`. In a coded tensor it begins with a block; it ends with
 * one of own elements. */
static window_t window_at(const load_t *l, const source_t *s, int64_t at, int64_t end, int64_t own)
{
    const zero_spec_t *spec = &l->engine->spec;
    const zero_spec_param_t *p = &spec->params[s->param];
    const int rank = l->engine->rank;
    const zero_split_run_t run = zero_split_run(spec, p, rank, at - s->offset, end - s->offset);
    if (run.count == 0)
        return (window_t){.range = {at, s->offset + run.next}};
    const int64_t block = (s->first + run.begin) / s->format.block * s->format.block,
                  limit = limit_of(l, s, block, own) - s->first,
                  most = zero_split_below(spec, p, rank, limit < p->total ? limit : p->total) + s->offset,
                  until = most < end ? most : end;
    const int64_t last = zero_split_run(spec, p, rank, until - 1 - s->offset, until - s->offset).begin;
    return (window_t){{at, until}, block, s->first + last + 1 - block};
}

/* A window as it is stored. NULL in the first walk. */
static zero_status_t read_stored(const load_t *l, const source_t *s, const window_t *w, const void **stored)
{
    int64_t begin = w->begin, count = w->count;
    *stored = NULL;
    if (!l->lists)
        return zero_ahead_next(l->ahead, stored, &l->engine->error);
    if (zero_format_is_coded(&s->format)) { /* then the tensor is one of bytes */
        begin = (int64_t)zero_format_bytes(&s->format, begin);
        count = (int64_t)zero_format_bytes(&s->format, count);
    }
    return zero_ahead_add(l->ahead, s->tensor, begin, count, &l->engine->error);
}

/* Of a window that was read, in a format, the elements of the range alone: where they are, or in l->values. There, the
 * window may be too. */
static const void *pick(const load_t *l, const source_t *s, const window_t *w, const zero_format_t *format,
                        const void *read)
{
    const zero_spec_t *spec = &l->engine->spec;
    const int64_t begin = w->range.begin - s->offset, end = w->range.end - s->offset;
    zero_split_run_t run = {.next = begin};
    for (int64_t at = begin; at < end; at = run.next) {
        run = zero_split_run(spec, &spec->params[s->param], l->engine->rank, at, end);
        const char *from = (const char *)read + zero_format_bytes(format, s->first + run.begin - w->begin);
        if (run.next - at == end - begin)
            return from;
        memmove((char *)l->values + zero_format_bytes(format, at - begin), from, zero_format_bytes(format, run.count));
    }
    return l->values;
}

/* The elements of a window's range in fp32. state: which of a rule's states it is. NULL in the first walk. */
static zero_status_t read_values(const load_t *l, const source_t *s, const window_t *w, int state, const float **values)
{
    const zero_format_t fp32 = zero_format_plain(ZERO_FP32);
    const void *stored;
    zero_status_t status = read_stored(l, s, w, &stored);
    *values = NULL;
    if (!stored || status != ZERO_OK)
        return status;
    if (zero_format_is_coded(&s->format))
        zero_block8_read(l->values, stored, state, 0, w->count);
    else if (s->format.dtype != ZERO_FP32)
        zero_flat_cpu()->cast(l->values, ZERO_FP32, stored, s->format.dtype, w->count, 1, NULL);
    *values = pick(l, s, w, &fp32, zero_format_same(&s->format, &fp32) ? stored : l->values);
    return ZERO_OK;
}

/* Parameters, and master weights: from the checkpoint's master weights if it has them. */
static zero_status_t load_values(const load_t *l, zero_param_t param)
{
    zero_engine_t *engine = l->engine;
    const zero_segment_t *segment = &engine->plan->segments[engine->plan->placed[param].segment];
    const source_t s = source_of(l, param, ZERO_STATE_MASTER);
    zero_range_t mine = zero_range_both(zero_engine_range(engine, param), zero_engine_kept(engine, segment));
    zero_status_t status = ZERO_OK;
    window_t w = {.range.end = mine.begin};
    while (s.tensor && w.range.end < mine.end && status == ZERO_OK) {
        const float *values = NULL;
        w = window_at(l, &s, w.range.end, mine.end, 1);
        if (w.count > 0)
            status = read_values(l, &s, &w, 0, &values);
        if (status == ZERO_OK && values)
            status = zero_engine_put_all(engine, segment, w.range, values, l->scratch);
    }
    return status;
}

/* A window of a moment. Where the formats are the same, as it is stored. */
static zero_status_t load_window(const load_t *l, const source_t *s, const window_t *w, int i,
                                 const zero_engine_piece_t *piece)
{
    zero_engine_t *engine = l->engine;
    const zero_format_t *own = &engine->plan->buffers[piece->buffer].format;
    const void *stored = NULL;
    const float *values = NULL;
    if (!zero_format_same(own, &s->format)) {
        zero_status_t status = read_values(l, s, w, i, &values);
        return status == ZERO_OK && values ? zero_engine_put(engine, piece, w->range, values, l->scratch) : status;
    }
    zero_status_t status = read_stored(l, s, w, &stored);
    if (status != ZERO_OK || !stored)
        return status;
    return zero_exec_write(
        engine->exec, piece->buffer, piece->offset + zero_format_bytes(own, w->range.begin - piece->range.begin),
        pick(l, s, w, own, stored), zero_format_bytes(own, w->range.end - w->range.begin), &engine->error);
}

/* One moment. */
static zero_status_t load_moment(const load_t *l, zero_param_t param, int i)
{
    zero_engine_t *engine = l->engine;
    zero_state_t state = i == 0 ? ZERO_STATE_MOMENT1 : ZERO_STATE_MOMENT2;
    const zero_segment_t *segment = &engine->plan->segments[engine->plan->placed[param].segment];
    const source_t s = source_of(l, param, state);
    zero_engine_piece_t piece;
    zero_status_t status = ZERO_OK;
    for (int32_t k = 0; zero_engine_next_piece(engine, segment, state, false, k, &piece); k++) {
        zero_range_t mine = zero_range_both(zero_engine_range(engine, param), piece.range);
        window_t w = {.range.end = mine.begin};
        while (w.range.end < mine.end && status == ZERO_OK) {
            w = window_at(l, &s, w.range.end, mine.end, engine->plan->buffers[piece.buffer].format.block);
            if (w.count > 0)
                status = load_window(l, &s, &w, i, &piece);
        }
    }
    return status;
}

static zero_status_t load_param(const load_t *l, zero_param_t param)
{
    zero_engine_t *engine = l->engine;
    int32_t s = engine->plan->placed[param].segment;
    if (s < 0) /* it has no elements */
        return ZERO_OK;
    int count = engine->plan->segments[s].trainable ? zero_plan_state(engine->plan, s)->count : 0;
    zero_status_t status = load_values(l, param);
    for (int i = 0; i < count && status == ZERO_OK; i++)
        status = load_moment(l, param, i);
    return status;
}

static zero_status_t load_params(zero_engine_t *engine, const zero_checkpoint_t *c)
{
    load_t l = {.engine = engine, .checkpoint = c, .lists = true};
    int64_t most = 0;
    for (zero_param_t p = 0; p < engine->spec.param_count; p++)
        most = engine->spec.params[p].total > most ? engine->spec.params[p].total : most;
    most = most < ZERO_ENGINE_PIECE ? most : ZERO_ENGINE_PIECE;
    l.values = zero_engine_buffers(engine, most, &l.scratch);
    zero_status_t status = l.values ? ZERO_OK : ZERO_ERR_MEMORY;
    if (status == ZERO_OK)
        status = zero_ahead_make(&l.ahead, c, (uint64_t)most * sizeof(float) + sizeof(zero_block8_t), &engine->error);
    for (int walk = 0; walk < 2 && status == ZERO_OK; walk++) {
        l.lists = walk == 0;
        for (zero_param_t p = 0; p < engine->spec.param_count && status == ZERO_OK; p++)
            status = load_param(&l, p);
    }
    zero_ahead_destroy(l.ahead);
    free(l.values);
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

/* The loss scale with which training continues. */
static zero_scale_t scale_of(const zero_engine_t *engine, const zero_manifest_t *m)
{
    zero_scale_t scale = zero_scale_first(&engine->config);
    if (engine->config.growth_interval == 0 || m->loss_scale == 0)
        return scale;
    return (zero_scale_t){.value = m->loss_scale,
                          .good = (int32_t)m->good_steps,
                          .left = m->overflows < scale.left ? (int32_t)m->overflows : scale.left};
}

static zero_status_t load(zero_engine_t *engine, const zero_checkpoint_t *c, zero_status_t *status)
{
    zero_status_t failed = zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_LOAD, 0, 0, -1}, &engine->error);
    if (failed == ZERO_OK)
        failed = zero_exec_sync(engine->exec, &engine->error);
    if (failed != ZERO_OK)
        return failed;
    *status = c ? check_fits(engine, c) : zero_fail(&engine->error, ZERO_ERR_ARG, "zero_load has no checkpoint");
    if ((failed = zero_exec_agree_on(engine->exec, status, &engine->error)) != ZERO_OK || *status != ZERO_OK ||
        (failed = check_same(engine, c, status)) != ZERO_OK || *status != ZERO_OK)
        return failed;
    *status = load_params(engine, c);
    if ((failed = zero_exec_agree_on(engine->exec, status, &engine->error)) != ZERO_OK)
        return failed;
    if (*status != ZERO_OK) /* half of it is loaded */
        return *status;
    const zero_manifest_t *m = zero_checkpoint_manifest(c);
    const zero_scale_t scale = scale_of(engine, m);
    failed = zero_exec_set_scale(engine->exec, &scale, &engine->error);
    return failed == ZERO_OK ? zero_exec_set_step(engine->exec, m->step, m->applied, &engine->error) : failed;
}

zero_status_t zero_load(zero_engine_t *engine, const zero_checkpoint_t *checkpoint)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_load"), failed;
    if (status != ZERO_OK)
        return status;
    if ((status = zero_engine_between_steps(engine, "zero_load")) != ZERO_OK)
        return status;
    failed = zero_engine_leave(engine, load(engine, checkpoint, &status));
    return failed == ZERO_OK ? status : failed;
}
