/* SPDX-License-Identifier: Apache-2.0 */
/* engine_declare.c - units, parameters, passes, uses and reserves. */
#include "zero/engine.h"
#include "zero/plan/split.h"

#include <math.h>
#include <stdlib.h>

/* Makes room for one more element of an array; false if memory is short. */
static bool grow(void **array, int32_t count, int32_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    if (*capacity > INT32_MAX / 2)
        return false;
    int32_t wanted = *capacity ? 2 * *capacity : 16;
    void *larger = realloc(*array, (size_t)wanted * size);
    if (!larger)
        return false;
    *array = larger;
    *capacity = wanted;
    return true;
}

static zero_status_t no_memory(zero_engine_t *engine, const char *what)
{
    return zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for another %s", what);
}

/* The result until a declaration has succeeded. */
static void clear_id(int32_t *id)
{
    if (id)
        *id = -1;
}

static zero_status_t check_name(zero_engine_t *engine, const char *what, const char *name)
{
    if (!name || !*name)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "a %s has no name: give it a unique name", what);
    return ZERO_OK;
}

zero_status_t zero_unit_add(zero_engine_t *engine, const char *name, zero_unit_t *unit)
{
    clear_id(unit);
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_unit_add");
    if (status != ZERO_OK)
        return status;
    zero_spec_t *spec = &engine->spec;
    if (!unit)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_unit_add has no address for the unit's id");
    if ((status = check_name(engine, "unit", name)) != ZERO_OK)
        return status;
    for (int32_t i = 0; i < spec->unit_count; i++)
        if (strcmp(spec->units[i].name, name) == 0)
            return zero_fail(&engine->error, ZERO_ERR_ARG, "unit '%s' already exists: names must be unique", name);
    char *copy = strdup(name);
    if (!copy || !grow((void **)&spec->units, spec->unit_count, &engine->unit_capacity, sizeof *spec->units)) {
        free(copy);
        return zero_engine_leave(engine, no_memory(engine, "unit"));
    }
    spec->units[spec->unit_count].name = copy;
    *unit = spec->unit_count++;
    return ZERO_OK;
}

static const zero_param_desc_t default_desc = {
    .size = sizeof default_desc,
    .dtype = ZERO_FP32,
    .trainable = true,
    .decay_scale = 1,
    .lr_scale = 1,
    .split_dim = -1,
    .split_blocks = 1,
};

void zero_param_desc_init_size(zero_param_desc_t *desc, size_t size)
{
    zero_struct_init(desc, size, &default_desc, sizeof default_desc);
}

static zero_status_t check_desc(zero_engine_t *engine, const zero_param_desc_t *desc, int64_t *count)
{
    zero_status_t status;
    if ((status = check_name(engine, "parameter", desc->name)) != ZERO_OK)
        return status;
    if (desc->ndim < 0 || desc->ndim > ZERO_MAX_DIMS)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "parameter '%s' has %d dimensions, but must have 0 to %d",
                         desc->name, desc->ndim, ZERO_MAX_DIMS);
    *count = 1;
    bool empty = false, overflow = false;
    for (int d = 0; d < desc->ndim; d++) {
        if (desc->shape[d] < 0)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "dimension %d of parameter '%s' is %lld, but must be at least 0", d, desc->name,
                             (long long)desc->shape[d]);
        empty |= desc->shape[d] == 0;
        overflow |= !overflow && desc->shape[d] != 0 && !zero_mul_i64(*count, desc->shape[d], count);
    }
    if (empty)
        *count = 0;
    else if (overflow)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "the shape of parameter '%s' has more than 2^63 - 1 elements",
                         desc->name);
    if (desc->piece_of && (desc->piece_dim != 0 || desc->ndim < 1 || *count == 0 || desc->piece_begin < 0))
        return zero_fail(&engine->error, desc->piece_dim != 0 ? ZERO_ERR_UNSUPPORTED : ZERO_ERR_ARG,
                         "parameter '%s' is a tile of tensor '%s' from row %lld of dimension %d on, with %d dimensions "
                         "and %lld elements: tiles divide dimension 0, from row 0 on, and are not empty",
                         desc->name, desc->piece_of, (long long)desc->piece_begin, desc->piece_dim, desc->ndim,
                         (long long)*count);
    if (desc->split_dim < -1 || desc->split_dim >= (desc->ndim > 0 ? desc->ndim : 0) || desc->split_blocks < 1)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "parameter '%s' with %d dimensions is split along dimension %d in %d blocks: use one of its "
                         "dimensions or -1, and at least 1 block",
                         desc->name, desc->ndim, desc->split_dim, desc->split_blocks);
    if (desc->split_dim >= 0 && (desc->piece_of || desc->partial))
        return zero_fail(&engine->error, desc->piece_of ? ZERO_ERR_UNSUPPORTED : ZERO_ERR_ARG,
                         "parameter '%s' is split, and %s: leave one of them out", desc->name,
                         desc->piece_of ? "a tile of a larger tensor" : "partial, which only others are");
    if (zero_dtype_size(desc->dtype) == 0)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "parameter '%s' has the unknown dtype %d", desc->name,
                         (int)desc->dtype);
    if (!(desc->decay_scale >= 0) || !isfinite(desc->decay_scale) || !(desc->lr_scale >= 0) ||
        !isfinite(desc->lr_scale))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "parameter '%s' has decay_scale %g and lr_scale %g, but both must be at least 0", desc->name,
                         desc->decay_scale, desc->lr_scale);
    return ZERO_OK;
}

zero_status_t zero_param_add(zero_engine_t *engine, zero_unit_t unit, const zero_param_desc_t *given,
                             zero_param_t *param)
{
    zero_param_desc_t own = default_desc, *desc = &own;
    clear_id(param);
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_param_add");
    if (status != ZERO_OK)
        return status;
    zero_spec_t *spec = &engine->spec;
    int64_t count = 0;
    if (!param)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_param_add has no address for the parameter's id");
    if (!zero_engine_has_unit(engine, unit))
        return ZERO_ERR_ARG;
    if ((status = zero_struct_take(&own, sizeof own, given, ZERO_UP_TO(zero_param_desc_t, lr_scale),
                                   "zero_param_desc_t", "zero_param_desc_init", &engine->error)) != ZERO_OK ||
        (status = check_desc(engine, desc, &count)) != ZERO_OK)
        return status;
    for (int32_t i = 0; i < spec->param_count; i++)
        if (strcmp(spec->params[i].name, desc->name) == 0)
            return zero_fail(&engine->error, ZERO_ERR_ARG, "parameter '%s' already exists: names must be unique",
                             desc->name);
    char *copy = strdup(desc->name), *piece_of = desc->piece_of ? strdup(desc->piece_of) : NULL;
    if (!copy || (desc->piece_of && !piece_of) ||
        !grow((void **)&spec->params, spec->param_count, &engine->param_capacity, sizeof *spec->params)) {
        free(copy);
        free(piece_of);
        return zero_engine_leave(engine, no_memory(engine, "parameter"));
    }
    zero_spec_param_t *p = &spec->params[spec->param_count];
    *p = (zero_spec_param_t){.name = copy,
                             .unit = unit,
                             .ndim = desc->ndim,
                             .total = count,
                             .split_dim = desc->split_dim,
                             .split_blocks = desc->split_blocks,
                             .partial = desc->partial,
                             .dtype = desc->dtype,
                             .trainable = desc->trainable,
                             .decay_scale = desc->decay_scale,
                             .lr_scale = desc->lr_scale,
                             .elementwise = desc->elementwise,
                             .piece_of = piece_of,
                             .piece_begin = piece_of ? desc->piece_begin : 0};
    memcpy(p->whole, desc->shape, (size_t)desc->ndim * sizeof *p->whole);
    if ((status = zero_split_set(spec, p, &engine->error)) != ZERO_OK) {
        free(copy);
        free(piece_of);
        return status;
    }
    *param = spec->param_count++;
    return ZERO_OK;
}

zero_status_t zero_pass_add(zero_engine_t *engine, const char *name, zero_pass_kind_t kind, zero_pass_t *pass)
{
    clear_id(pass);
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_pass_add");
    if (status != ZERO_OK)
        return status;
    zero_spec_t *spec = &engine->spec;
    if (!pass)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_pass_add has no address for the pass's id");
    if ((status = check_name(engine, "pass", name)) != ZERO_OK)
        return status;
    if (kind != ZERO_PASS_TRAIN && kind != ZERO_PASS_EVAL && kind != ZERO_PASS_ANY_ORDER)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "pass '%s' has the unknown kind %d", name, (int)kind);
    for (int32_t i = 0; i < spec->pass_count; i++) {
        if (strcmp(spec->passes[i].name, name) == 0)
            return zero_fail(&engine->error, ZERO_ERR_ARG, "pass '%s' already exists: names must be unique", name);
        if (kind == ZERO_PASS_TRAIN && spec->passes[i].kind == ZERO_PASS_TRAIN)
            return zero_fail(&engine->error, ZERO_ERR_ARG,
                             "pass '%s' would be a second training pass beside '%s': declare at most one", name,
                             spec->passes[i].name);
    }
    char *copy = strdup(name);
    if (!copy || !grow((void **)&spec->passes, spec->pass_count, &engine->pass_capacity, sizeof *spec->passes)) {
        free(copy);
        return zero_engine_leave(engine, no_memory(engine, "pass"));
    }
    spec->passes[spec->pass_count] = (zero_spec_pass_t){.name = copy, .kind = kind};
    *pass = spec->pass_count++;
    return ZERO_OK;
}

zero_status_t zero_use_add(zero_engine_t *engine, zero_pass_t pass, zero_unit_t unit, uint32_t flags)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_use_add");
    if (status != ZERO_OK)
        return status;
    if (!zero_engine_has_pass(engine, pass) || !zero_engine_has_unit(engine, unit))
        return ZERO_ERR_ARG;
    zero_spec_pass_t *p = &engine->spec.passes[pass];
    const char *name = engine->spec.units[unit].name;
    if (p->kind == ZERO_PASS_ANY_ORDER)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "pass '%s' takes no uses: an any-order pass can acquire every unit", p->name);
    if ((flags & ~(uint32_t)(ZERO_READ | ZERO_GRAD | ZERO_HOLD | ZERO_REDUCE)) != 0 ||
        (flags & (ZERO_READ | ZERO_GRAD)) == 0 || (flags & (ZERO_GRAD | ZERO_REDUCE)) == ZERO_REDUCE)
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "the use of unit '%s' in pass '%s' has flags 0x%x: use ZERO_READ, ZERO_GRAD or both, "
                         "ZERO_HOLD where it stays held, and ZERO_REDUCE only with ZERO_GRAD",
                         name, p->name, flags);
    if (p->kind == ZERO_PASS_EVAL && (flags & ZERO_GRAD))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "unit '%s' is used with ZERO_GRAD in the evaluation pass '%s': only a training pass has "
                         "gradients",
                         name, p->name);
    /* Only one pass's capacity is stored. When uses go to another pass, its capacity is assumed to be its count. */
    if (engine->use_pass != pass) {
        engine->use_pass = pass;
        engine->use_capacity = p->use_count;
    }
    if (!grow((void **)&p->uses, p->use_count, &engine->use_capacity, sizeof *p->uses))
        return zero_engine_leave(engine, no_memory(engine, "use"));
    p->uses[p->use_count++] = (zero_spec_use_t){.unit = unit, .flags = flags};
    return ZERO_OK;
}

zero_status_t zero_reserve(zero_engine_t *engine, zero_kind_t kind, zero_tier_t tier, uint64_t bytes,
                           zero_reserve_t *reserve)
{
    clear_id(reserve);
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_declaring(&entry, engine, "zero_reserve");
    if (status != ZERO_OK)
        return status;
    zero_spec_t *spec = &engine->spec;
    if (!reserve)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "zero_reserve has no address for the reserve's id");
    if (!zero_kind_is_reserved(kind))
        return zero_fail(&engine->error, ZERO_ERR_ARG,
                         "cannot reserve memory of kind %s: use activations, workspace or cache", zero_kind_name(kind));
    if ((int)tier < 0 || tier >= ZERO_TIER_COUNT)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "cannot reserve memory on tier %d: there is no such tier",
                         (int)tier);
    if (tier == ZERO_TIER_NVME)
        return zero_fail(&engine->error, ZERO_ERR_UNSUPPORTED,
                         "cannot reserve memory on the nvme tier: use the device or host tier");
    if (bytes > INT64_MAX)
        return zero_fail(&engine->error, ZERO_ERR_ARG, "cannot reserve %llu bytes: no machine has that much memory",
                         (unsigned long long)bytes);
    if (!grow((void **)&spec->reserves, spec->reserve_count, &engine->reserve_capacity, sizeof *spec->reserves))
        return zero_engine_leave(engine, no_memory(engine, "reserve"));
    spec->reserves[spec->reserve_count] = (zero_spec_reserve_t){.kind = kind, .tier = tier, .bytes = bytes};
    *reserve = spec->reserve_count++;
    return ZERO_OK;
}
