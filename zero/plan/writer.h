/* SPDX-License-Identifier: Apache-2.0 */
/* writer.h - appends operations to a program that is being written. */
#ifndef ZERO_PLAN_WRITER_H
#define ZERO_PLAN_WRITER_H

#include "zero/plan/build.h"

/* A program while it grows. The first failure sticks, so that callers append without asking. */
typedef struct zero_writer {
    zero_builder_t *b;
    zero_program_t *program;
    int32_t capacity;
    zero_status_t status;
} zero_writer_t;

/* What of a segment's buffer an operand is. Slices of full buffers are this rank's own. */
typedef enum zero_extent { ZERO_EXTENT_WHOLE, ZERO_EXTENT_SLICE } zero_extent_t;

void zero_write_op(zero_writer_t *w, zero_op_t op);
/* An operation on one segment's buffers. */
void zero_write_segment(zero_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment, int32_t use,
                        int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent);
/* An operation on a part: of the segment's buffers it takes that part of what the rank updates. */
void zero_write_part(zero_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t part, int32_t use,
                     int32_t src, int32_t dst);
/* The squares of src, of the own slice where it is a whole segment's; behind those of the slice's elements before,
 * where it begins later. */
void zero_write_norm(zero_writer_t *w, zero_stream_id_t stream, int32_t segment, int32_t use, int32_t src);
/* An operation without operands. */
void zero_write_plain(zero_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t unit, int32_t use,
                      uint32_t flags);
/* All of the step's program: norm, updates, what makes parameters whole (step.c). */
void zero_write_step(zero_writer_t *w);

#define FOR_PARTS(b, s, p)                              \
    for (int32_t p = (b)->plan->segments[s].first_part; \
         p < (b)->plan->segments[s].first_part + (b)->plan->segments[s].part_count; p++)

#define FOR_SEGMENTS(b, u, s) \
    for (int32_t s = (b)->units[u].first_segment; s < (b)->units[u].first_segment + (b)->units[u].segment_count; s++)

#endif
