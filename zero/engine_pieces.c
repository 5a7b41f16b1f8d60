/* SPDX-License-Identifier: Apache-2.0 */
/* engine_pieces.c - see engine_pieces.h. */
#include "zero/engine_pieces.h"

#include "optim/rules.h"

#include <stdlib.h>

float *zero_engine_buffers(zero_engine_t *engine, int64_t elements, float **second)
{
    int64_t most = elements < ZERO_ENGINE_PIECE ? elements : ZERO_ENGINE_PIECE;
    size_t room = ((size_t)most + ZERO_ALIGN_ELEMENTS - 1) / ZERO_ALIGN_ELEMENTS * ZERO_ALIGN_ELEMENTS;
    float *first = malloc(2 * room * sizeof *first);
    if (!first)
        zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for a buffer of %zu values", 2 * room);
    *second = first + (first ? room : 0);
    return first;
}

static zero_engine_piece_t piece_of(const zero_engine_t *engine, int32_t buffer, bool own, int32_t part)
{
    zero_span_t span =
        zero_plan_span(engine->plan, engine->rank, buffer, own ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE, part);
    return (zero_engine_piece_t){buffer, {span.begin, span.begin + span.count}, span.offset};
}

bool zero_engine_next_piece(const zero_engine_t *engine, const zero_segment_t *segment, zero_state_t state, bool own,
                            int32_t i, zero_engine_piece_t *piece)
{
    const int32_t *buffer = segment->buffer;
    if (!zero_plan_has(engine->plan, segment))
        return false;
    if (state == ZERO_STATE_PARAM) {
        *piece = piece_of(engine, buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM],
                          own, -1);
        return i == 0;
    }
    if (i >= segment->part_count)
        return false;
    int32_t index = segment->first_part + i;
    const zero_part_t *part = &engine->plan->parts[index];
    int32_t from = -1;
    switch (state) {
    case ZERO_STATE_GRAD: /* the buffer that the update reads; others may be overwritten */
        from = part->grad >= 0 ? part->grad : buffer[ZERO_ROLE_FINAL];
        break;
    case ZERO_STATE_MASTER:
        from = part->master;
        break;
    case ZERO_STATE_MOMENT1:
        from = part->state[0];
        break;
    case ZERO_STATE_MOMENT2:
        from = part->state[1];
        break;
    case ZERO_STATE_PARAM: /* handled above */
        break;
    }
    *piece = piece_of(engine, from, own, index);
    return true;
}

zero_status_t zero_engine_put(zero_engine_t *engine, const zero_engine_piece_t *piece, zero_range_t range,
                              const float *values, float *rounded)
{
    const zero_buffer_t *buffer = &engine->plan->buffers[piece->buffer];
    zero_range_t both = zero_range_both(range, piece->range);
    int64_t count = both.end - both.begin;
    if (count <= 0)
        return ZERO_OK;
    values += both.begin - range.begin;
    if (zero_format_is_coded(&buffer->format)) {
        memset((zero_block8_t *)(void *)rounded + (count - 1) / ZERO_BLOCK8, 0,
               sizeof(zero_block8_t)); /* codes of the padding in the last block */
        zero_block8_write((zero_block8_t *)(void *)rounded, buffer->state, values, count);
    } else if (buffer->format.dtype == ZERO_FP32) {
        rounded = (float *)(uintptr_t)values;
    } else {
        zero_flat_cpu()->cast(rounded, buffer->format.dtype, values, ZERO_FP32, count, 1, NULL);
    }
    return zero_exec_write(engine->exec, piece->buffer,
                           piece->offset + zero_format_bytes(&buffer->format, both.begin - piece->range.begin), rounded,
                           zero_format_bytes(&buffer->format, count), &engine->error);
}

zero_status_t zero_engine_put_all(zero_engine_t *engine, const zero_segment_t *segment, zero_range_t range,
                                  const float *values, float *rounded)
{
    zero_engine_piece_t piece;
    zero_status_t status = ZERO_OK;
    for (int32_t i = 0;
         status == ZERO_OK && zero_engine_next_piece(engine, segment, ZERO_STATE_PARAM, false, i, &piece); i++)
        status = zero_engine_put(engine, &piece, range, values, rounded);
    for (int32_t i = 0;
         status == ZERO_OK && zero_engine_next_piece(engine, segment, ZERO_STATE_MASTER, false, i, &piece); i++)
        if (engine->plan->buffers[piece.buffer].part >= 0)
            status = zero_engine_put(engine, &piece, range, values, rounded);
    return status;
}

zero_range_t zero_engine_kept(const zero_engine_t *engine, const zero_segment_t *segment)
{
    zero_range_t all = {segment->elements, 0};
    for (int state = 0; state < 2; state++) {
        zero_engine_piece_t piece;
        for (int32_t i = 0;
             zero_engine_next_piece(engine, segment, state ? ZERO_STATE_MASTER : ZERO_STATE_PARAM, false, i, &piece);
             i++) {
            all.begin = piece.range.begin < all.begin ? piece.range.begin : all.begin;
            all.end = piece.range.end > all.end ? piece.range.end : all.end;
        }
    }
    return all;
}

zero_range_t zero_engine_range(const zero_engine_t *engine, zero_param_t param)
{
    int64_t first = engine->plan->placed[param].offset;
    return (zero_range_t){first, first + engine->spec.params[param].count};
}
