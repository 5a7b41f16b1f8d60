/* SPDX-License-Identifier: Apache-2.0 */
/* engine_pieces.h - where a rank keeps a parameter's state, and how values get there: for what reads, fills, sets and
 * loads parameters. */
#ifndef ZERO_ENGINE_PIECES_H
#define ZERO_ENGINE_PIECES_H

#include "zero/engine.h"

/* The largest number of elements that are converted at a time: enough to keep a drive busy. */
enum { ZERO_ENGINE_PIECE = 1 << 20 };

/* Elements of a segment. */
typedef struct zero_range {
    int64_t begin, end;
} zero_range_t;
static inline zero_range_t zero_range_both(zero_range_t a, zero_range_t b)
{
    return (zero_range_t){a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

/* Elements [begin, end) of a segment's state, which lie in a buffer of this rank from byte offset on. */
typedef struct zero_engine_piece {
    int32_t buffer;
    zero_range_t range;
    uint64_t offset;
} zero_engine_piece_t;

/* Fills *piece with the i-th piece of a state of a segment; false: there are fewer. own: of the elements that this rank
 * owns, else of all that it keeps. */
bool zero_engine_next_piece(const zero_engine_t *engine, const zero_segment_t *segment, zero_state_t state, bool own,
                            int32_t i, zero_engine_piece_t *piece);

/* The elements of its segment that a parameter has. */
zero_range_t zero_engine_range(const zero_engine_t *engine, zero_param_t param);

/* The elements of the segment that the parameters or master weights of this rank cover. */
zero_range_t zero_engine_kept(const zero_engine_t *engine, const zero_segment_t *segment);

/* Allocates two buffers, each for at most ZERO_ENGINE_PIECE of the elements, in fp32 or in whole coded blocks. The
 * caller frees the first. NULL with engine->error if there is no memory. */
float *zero_engine_buffers(zero_engine_t *engine, int64_t elements, float **second);

/* Rounds values of segment elements [range) to the piece's format, in room for as many, and writes those that the
 * piece has. With a coded format, range begins at a block, and ends at a block or at the tensor's end. */
zero_status_t zero_engine_put(zero_engine_t *engine, const zero_engine_piece_t *piece, zero_range_t range,
                              const float *values, float *rounded);
/* The same for the parameters, and for master weights if they have their own buffers. */
zero_status_t zero_engine_put_all(zero_engine_t *engine, const zero_segment_t *segment, zero_range_t range,
                                  const float *values, float *rounded);

#endif
