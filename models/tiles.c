/* SPDX-License-Identifier: Apache-2.0 */
/* tiles.c - tables whose tiles are units of their own: embeddings and heads. A table is used tile by tile, so neither
 * it nor its gradient is ever whole in memory. libzero joins tiles in checkpoints and in calls about the whole. */
#include "models/decoder.h"

#include <stdio.h>
#include <stdlib.h>

/* Tiles begin at multiples of 128 elements, as libzero wants, and of 16 rows, so that products use whole cache lines of
 * logits. */
static int64_t quantum(int64_t width)
{
    int64_t rows = 16;

    while (rows * width % 128 != 0)
        rows *= 2;
    return rows;
}

/* Makes the tiles of a table (V, width), none if it is small enough. */
static bool make(const zero_model_t *m, zero_model_tiles_t *tiles, const zero_model_param_t *param)
{
    const int64_t C = m->config.width, V = param->count / C, most = m->options.tile_bytes / (C * (int64_t)m->element);
    const int64_t unit = quantum(C);
    int64_t rows = most < unit ? unit : most / unit * unit;

    if (m->options.tile_bytes == 0 || V <= rows)
        return true;
    const int64_t count = (V + rows - 1) / rows;

    rows = ((V + count - 1) / count + unit - 1) / unit * unit; /* about equal ones */
    tiles->count = (int)((V + rows - 1) / rows);
    tiles->list = calloc((size_t)tiles->count, sizeof *tiles->list);
    for (int i = 0; i < tiles->count && tiles->list; i++)
        tiles->list[i] =
            (zero_model_tile_t){.unit = -1, .id = -1, .rows = {i * rows, i + 1 < tiles->count ? rows : V - i * rows}};
    return tiles->list != NULL;
}

bool zero_model_tiles_make(zero_model_t *m)
{
    const bool own = m->head != m->decoder.embed;

    if ((m->encoder.embed && !make(m, &m->encoder.tiles, m->encoder.embed)) ||
        !make(m, &m->decoder.tiles, m->decoder.embed) || (own && !make(m, &m->own_head_tiles, m->head)))
        return false;
    m->head_tiles = own ? &m->own_head_tiles : &m->decoder.tiles;
    return true;
}

void zero_model_tiles_free(zero_model_t *m)
{
    free(m->encoder.tiles.list);
    free(m->decoder.tiles.list);
    free(m->own_head_tiles.list);
}

zero_model_tiles_t *zero_model_tiles_of(zero_model_t *m, const zero_model_param_t *param)
{
    zero_model_tiles_t *tiles = param == m->encoder.embed   ? &m->encoder.tiles
                                : param == m->decoder.embed ? &m->decoder.tiles
                                : param == m->head          ? &m->own_head_tiles
                                                            : NULL;

    return tiles && tiles->count > 0 ? tiles : NULL;
}

zero_status_t zero_model_tiles_add(zero_model_t *m, zero_model_tiles_t *tiles, const char *unit,
                                   const zero_param_desc_t *table)
{
    zero_status_t status = ZERO_OK;

    for (int i = 0; i < tiles->count && status == ZERO_OK; i++) {
        zero_model_tile_t *tile = &tiles->list[i];
        zero_param_desc_t desc = *table;
        char name[ZERO_MODEL_NAME_BYTES + 16];

        snprintf(name, sizeof name, "%s.%d", unit, i);
        status = zero_unit_add(m->engine, name, &tile->unit);
        if (status != ZERO_OK)
            break;
        snprintf(name, sizeof name, "%s.%d", table->name, i);
        desc.name = name;
        desc.shape[0] = tile->rows.count;
        desc.piece_of = table->name;
        desc.piece_begin = tile->rows.first;
        status = zero_param_add(m->engine, tile->unit, &desc, &tile->id);
    }
    return status;
}

void zero_model_tiles_bind(zero_model_t *m, zero_model_tiles_t *tiles)
{
    for (int i = 0; i < tiles->count; i++) {
        tiles->list[i].data = zero_param_data(m->engine, tiles->list[i].id);
        tiles->list[i].grad = zero_param_grad(m->engine, tiles->list[i].id);
    }
}
