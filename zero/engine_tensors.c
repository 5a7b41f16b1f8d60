/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tensors.c - see engine_tensors.h. */
#include "zero/engine_tensors.h"
#include "zero/plan/split.h"

#include <stdlib.h>

static const char *tensor_name(const zero_spec_param_t *p)
{
    return p->piece_of ? p->piece_of : p->name;
}

/* The tensor that parameter p is a tile of, among those found so far, or -1. */
static int32_t find(const zero_engine_t *engine, const zero_spec_param_t *p)
{
    for (int32_t t = 0; p->piece_of && t < engine->tensor_count; t++)
        if (strcmp(engine->tensors[t].name, p->piece_of) == 0)
            return t;
    return -1;
}

/* Refuses a tensor of tiles that has the name of a parameter. */
static zero_status_t check_name(const zero_spec_t *spec, const zero_spec_param_t *p, zero_error_t *error)
{
    for (int32_t i = 0; p->piece_of && i < spec->param_count; i++)
        if (strcmp(spec->params[i].name, p->piece_of) == 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "'%s' is a parameter, and a tensor of which '%s' is a tile: give one of them another name",
                             p->piece_of, p->name);
    return ZERO_OK;
}

/* Sorts the tiles of a tensor by their first row; there are few. */
static void sort(zero_engine_t *engine, const struct zero_tensor *tensor)
{
    int32_t *tiles = engine->tiles + tensor->first_tile;
    for (int32_t i = 1; i < tensor->tile_count; i++)
        for (int32_t k = i;
             k > 0 && engine->spec.params[tiles[k - 1]].piece_begin > engine->spec.params[tiles[k]].piece_begin; k--) {
            int32_t swap = tiles[k];
            tiles[k] = tiles[k - 1];
            tiles[k - 1] = swap;
        }
}

static bool alike(const zero_spec_param_t *a, const zero_spec_param_t *b)
{
    bool same = a->dtype == b->dtype && a->trainable == b->trainable && a->elementwise == b->elementwise &&
                a->decay_scale == b->decay_scale && a->lr_scale == b->lr_scale && a->partial == b->partial &&
                a->ndim == b->ndim;
    for (int32_t d = 1; d < a->ndim && same; d++)
        same = a->whole[d] == b->whole[d];
    return same;
}

/* Refuses a part of which coded blocks would have elements that are apart in the whole parameter: checkpoints would
 * depend on the number of parts. */
static zero_status_t check_blocks(const zero_spec_t *spec, const zero_spec_param_t *p, zero_error_t *error)
{
    for (int i = 0; i < spec->state.count && p->trainable && zero_split_is(p); i++)
        if (p->run % spec->state.format[i].block != 0)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "config.mesh.tensor = %d cuts dimension %d of parameter '%s' into runs of %lld elements, "
                             "but the optimizer keeps its state in blocks of %d elements: let the runs be multiples of "
                             "that, or use an optimizer with fp32 state",
                             spec->mesh.tensor, p->split_dim, p->name, (long long)p->run, spec->state.format[i].block);
    return ZERO_OK;
}

/* Sets the shape of a tensor from its tiles. */
static zero_status_t join(zero_engine_t *engine, struct zero_tensor *tensor, zero_error_t *error)
{
    const zero_spec_param_t *params = engine->spec.params;
    const int32_t *tiles = engine->tiles + tensor->first_tile;
    const zero_spec_param_t *first = &params[tiles[0]];
    tensor->ndim = first->ndim;
    memcpy(tensor->shape, first->whole, sizeof tensor->shape);
    tensor->count = first->total;
    if (!first->piece_of)
        return check_blocks(&engine->spec, first, error);
    if (engine->spec.whole && first->trainable && first->ndim == 2 && !first->elementwise)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "tensor '%s' is declared in tiles, but the optimizer updates matrices whole: declare it as "
                         "one parameter, or set elementwise",
                         tensor->name);
    tensor->shape[0] = tensor->count = 0;
    for (int32_t i = 0; i < tensor->tile_count; i++) {
        const zero_spec_param_t *p = &params[tiles[i]];
        if (!alike(first, p))
            return zero_fail(error, ZERO_ERR_ARG,
                             "tiles '%s' and '%s' of tensor '%s' differ in more than their first dimension: give them "
                             "the same dtype, other dimensions, scales and flags",
                             first->name, p->name, tensor->name);
        if (p->piece_begin != tensor->shape[0])
            return zero_fail(error, ZERO_ERR_ARG,
                             "tile '%s' of tensor '%s' begins at row %lld, but the tiles before it end at row %lld: "
                             "let each tile begin where another one ends, and the first at 0",
                             p->name, tensor->name, (long long)p->piece_begin, (long long)tensor->shape[0]);
        if (tensor->count % ZERO_ALIGN_ELEMENTS != 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "tile '%s' of tensor '%s' begins at element %lld: let it begin at a multiple of %d",
                             p->name, tensor->name, (long long)tensor->count, ZERO_ALIGN_ELEMENTS);
        if (p->total > INT64_MAX - tensor->count)
            return zero_fail(error, ZERO_ERR_ARG, "the tiles of tensor '%s' have more than 2^63 - 1 elements",
                             tensor->name);
        tensor->shape[0] += p->whole[0];
        tensor->count += p->total;
    }
    return ZERO_OK;
}

zero_status_t zero_engine_find_tensors(zero_engine_t *engine, zero_error_t *error)
{
    const zero_spec_t *spec = &engine->spec;
    size_t params = (size_t)spec->param_count;
    int32_t *tensor_of = calloc(params + 1, sizeof *tensor_of), used = 0;
    zero_status_t status = ZERO_OK;

    engine->tensors = calloc(params + 1, sizeof *engine->tensors);
    engine->tiles = calloc(params + 1, sizeof *engine->tiles);
    engine->tile_of = calloc(params + 1, sizeof *engine->tile_of);
    if (!tensor_of || !engine->tensors || !engine->tiles || !engine->tile_of) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a table of %zu tensors", params);
        goto out;
    }
    for (int32_t p = 0; p < spec->param_count && status == ZERO_OK; p++) {
        int32_t t = find(engine, &spec->params[p]);
        if (t < 0) {
            status = check_name(spec, &spec->params[p], error);
            t = engine->tensor_count++;
            engine->tensors[t].name = tensor_name(&spec->params[p]);
        }
        tensor_of[p] = t;
        engine->tensors[t].tile_count++;
    }
    if (status != ZERO_OK)
        goto out;
    for (int32_t t = 0; t < engine->tensor_count; t++) {
        engine->tensors[t].first_tile = used;
        used += engine->tensors[t].tile_count;
        engine->tensors[t].tile_count = 0;
    }
    for (int32_t p = 0; p < spec->param_count; p++) {
        struct zero_tensor *tensor = &engine->tensors[tensor_of[p]];
        engine->tiles[tensor->first_tile + tensor->tile_count++] = p;
    }
    for (int32_t t = 0; t < engine->tensor_count && status == ZERO_OK; t++) {
        sort(engine, &engine->tensors[t]);
        status = join(engine, &engine->tensors[t], error);
    }
    for (int32_t i = 0; i < spec->param_count; i++)
        engine->tile_of[engine->tiles[i]] = i;
out:
    free(tensor_of);
    return status;
}

void zero_engine_free_tensors(zero_engine_t *engine)
{
    free(engine->tensors);
    free(engine->tiles);
    free(engine->tile_of);
}

zero_tile_t zero_engine_tile(const zero_engine_t *engine, int32_t param)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    const int32_t at = engine->tile_of[param];
    int32_t t = 0;
    while (at >= engine->tensors[t].first_tile + engine->tensors[t].tile_count)
        t++;
    return (zero_tile_t){t, p->piece_of ? p->piece_begin * (p->total / p->whole[0]) : 0};
}

const struct zero_tensor *zero_engine_tiled(const zero_engine_t *engine, zero_param_t id)
{
    if (!engine || id < engine->spec.param_count || id - engine->spec.param_count >= engine->tensor_count)
        return NULL;
    const struct zero_tensor *tensor = &engine->tensors[id - engine->spec.param_count];
    return engine->spec.params[zero_tensor_param(engine, tensor)].piece_of ? tensor : NULL;
}

zero_tiles_t zero_engine_tiles(zero_engine_t *engine, zero_param_t id)
{
    const int32_t params = engine->spec.param_count;
    if (engine->tiles && id >= 0 && id < params)
        return (zero_tiles_t){&engine->tiles[engine->tile_of[id]], 1};
    const struct zero_tensor *tensor = zero_engine_tiled(engine, id);
    if (tensor)
        return (zero_tiles_t){engine->tiles + tensor->first_tile, tensor->tile_count};
    zero_fail(&engine->error, ZERO_ERR_ARG, "there is no parameter %d: this engine has %d", id, params);
    return (zero_tiles_t){NULL, 0};
}
