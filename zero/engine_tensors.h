/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tensors.h - the tensors that parameters are tiles of. Checkpoints and calls for whole tensors see these; a
 * parameter that is no tile is a tensor by itself. */
#ifndef ZERO_ENGINE_TENSORS_H
#define ZERO_ENGINE_TENSORS_H

#include "zero/engine.h"

/* Its tiles divide the first dimension. They agree in all that a tensor has but the shape. */
struct zero_tensor {
    const char *name; /* borrowed from the spec */
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS];
    int64_t count;
    int32_t first_tile, tile_count; /* engine->tiles, in the order of their elements */
};

/* Finds the tensors, in the order of their first parameters, and checks that tiles cover each of them once. */
zero_status_t zero_engine_find_tensors(zero_engine_t *engine, zero_error_t *error);
void zero_engine_free_tensors(zero_engine_t *engine);

/* The tensor that an id of zero.h stands for; NULL: the id is a parameter's, or nobody's. Only tensors in tiles have
 * their own ids. */
const struct zero_tensor *zero_engine_tiled(const zero_engine_t *engine, zero_param_t id);

/* The parameters that an id of zero.h stands for: the tiles of a tensor, or one parameter. count 0, with engine->error:
 * there is no such id. */
typedef struct zero_tiles {
    const int32_t *params;
    int32_t count;
} zero_tiles_t;
zero_tiles_t zero_engine_tiles(zero_engine_t *engine, zero_param_t id);

/* Where a parameter is: its tensor, and that tensor's elements before it. */
typedef struct zero_tile {
    int32_t tensor;
    int64_t first;
} zero_tile_t;
zero_tile_t zero_engine_tile(const zero_engine_t *engine, int32_t param);

/* A parameter of a tensor; all of its parameters have the same dtype, and so on. */
static inline int32_t zero_tensor_param(const zero_engine_t *engine, const struct zero_tensor *tensor)
{
    return engine->tiles[tensor->first_tile];
}

#endif
