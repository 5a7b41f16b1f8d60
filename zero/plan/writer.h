/* SPDX-License-Identifier: Apache-2.0 */
/* writer.h - appends operations to a program that is being written. */
#ifndef ZERO_PLAN_WRITER_H
#define ZERO_PLAN_WRITER_H

#include "zero/plan/build.h"

/* A program under construction. The first failure stays in status, so that callers need not check each call. */
typedef struct zero_program_writer {
    zero_builder_t *b;
    zero_program_t *program;
    int32_t capacity;
    zero_status_t status;
} zero_program_writer_t;

void zero_write_op(zero_program_writer_t *w, zero_op_t op);
/* An operation on buffers of one segment. A slice or a shard of a larger buffer is this rank's own. */
void zero_write_segment(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                        int32_t use, int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent);
/* A collective on these axes, or the SUM after one. The larger of src and dst has the elements of all ranks of the
 * group. */
void zero_write_collective(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                           int32_t use, uint8_t axes, int32_t src, zero_extent_t src_extent, int32_t dst,
                           zero_extent_t dst_extent);
/* dst becomes the whole segment, of which each rank has src (a slice, or a shard) in its buffer: one collective for
 * each axis of several ranks. kind: GATHER or COLLECT. */
void zero_write_gather(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                       int32_t use, int32_t src, zero_extent_t src_extent, int32_t dst);
/* The slice of dst becomes the sum over ranks of src (the whole segment; or a shard that is summed over shards), whose
 * other elements are undefined after it. kind: REDUCE_SCATTER or SPREAD. */
void zero_write_reduce(zero_program_writer_t *w, zero_op_kind_t kind, int32_t segment, int32_t use, int32_t src,
                       zero_extent_t src_extent, int32_t dst);
/* One reduction on these axes, on the stream of reductions: a collective of this kind, or if it reduces gradients that
 * are coded, what replaces it. dst is not src then (codes.c). */
void zero_write_sum(zero_program_writer_t *w, zero_op_kind_t kind, int32_t segment, int32_t use, uint8_t axes,
                    int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent);
/* An operation on a part: of a segment's buffer it takes only that part. */
void zero_write_part(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t part, int32_t use,
                     int32_t src, int32_t dst);
/* Sums the squares of src; of its own slice if src is full. If src begins inside the slice, adds to the sum of the
 * elements before. */
void zero_write_norm(zero_program_writer_t *w, zero_stream_id_t stream, int32_t segment, int32_t use, int32_t src);
/* An operation without operands. */
void zero_write_plain(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t unit, int32_t use,
                      uint32_t flags);
/* Writes the step's program: norm, updates, gathers of parameters (step.c). */
void zero_write_step(zero_program_writer_t *w);
/* All of the program that saves (save.c). */
void zero_write_save(zero_program_writer_t *w);

#define FOR_PARTS(b, s, p)                              \
    for (int32_t p = (b)->plan->segments[s].first_part; \
         p < (b)->plan->segments[s].first_part + (b)->plan->segments[s].part_count; p++)

#define FOR_SEGMENTS(b, u, s) \
    for (int32_t s = (b)->units[u].first_segment; s < (b)->units[u].first_segment + (b)->units[u].segment_count; s++)

#endif
