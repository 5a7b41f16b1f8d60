/* SPDX-License-Identifier: Apache-2.0 */
/* writer.c - see writer.h. */
#include "zero/plan/writer.h"

#include <stdlib.h>

void zero_write_op(zero_program_writer_t *w, zero_op_t op)
{
    zero_program_t *p = w->program;
    if (w->status != ZERO_OK)
        return;
    if (p->op_count == w->capacity) {
        int32_t capacity = w->capacity > 0 ? 2 * w->capacity : 64;
        zero_op_t *grown = realloc(p->ops, (size_t)capacity * sizeof *grown);
        if (grown == NULL) {
            w->status = zero_fail(w->b->error, ZERO_ERR_MEMORY, "no memory for a plan: %d operations", capacity);
            return;
        }
        p->ops = grown;
        w->capacity = capacity;
    }
    op.program = (int32_t)(p - w->b->plan->programs);
    p->ops[p->op_count++] = op;
}

/* An operation on extents of a segment's buffers; src or dst may be -1. Its count is the caller's to set. */
static zero_op_t on_segment(const zero_builder_t *b, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                            int32_t use, int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent)
{
    return (zero_op_t){.kind = (uint8_t)kind,
                       .stream = (uint8_t)stream,
                       .unit = b->plan->segments[segment].unit,
                       .segment = segment,
                       .part = -1,
                       .use = use,
                       .event = -1,
                       .src = src,
                       .dst = dst,
                       .src_own = src >= 0 ? (uint8_t)zero_build_own(b, src, src_extent) : 0,
                       .dst_own = dst >= 0 ? (uint8_t)zero_build_own(b, dst, dst_extent) : 0};
}

void zero_write_segment(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                        int32_t use, int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent)
{
    const zero_builder_t *b = w->b;
    zero_op_t op = on_segment(b, kind, stream, segment, use, src, src_extent, dst, dst_extent);
    op.count = zero_build_elements(&b->plan->segments[segment], dst >= 0 ? dst_extent : src_extent);
    if ((kind == ZERO_OP_COPY || kind == ZERO_OP_READ) && b->plan->buffers[src].tier != b->plan->buffers[dst].tier)
        op.bytes = zero_format_bytes(&b->plan->buffers[src].format, op.count);
    zero_write_op(w, op);
}

void zero_write_collective(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                           int32_t use, uint8_t axes, int32_t src, zero_extent_t src_extent, int32_t dst,
                           zero_extent_t dst_extent)
{
    const zero_builder_t *b = w->b;
    const zero_segment_t *s = &b->plan->segments[segment];
    int group = zero_plan_group(b->spec, axes), size = b->spec->groups[group].size;
    int64_t from = zero_build_elements(s, src_extent), to = zero_build_elements(s, dst_extent);
    zero_op_t op = on_segment(b, kind, stream, segment, use, src, src_extent, dst, dst_extent);
    op.group = (uint8_t)group;
    op.count = kind == ZERO_OP_ALL_TO_ALL ? from / size : from < to ? from : to;
    if (zero_op_collects(&op))
        op.bytes = zero_format_bytes(&b->plan->buffers[src].format, (size - 1) * op.count);
    zero_write_op(w, op);
}

void zero_write_gather(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t segment,
                       int32_t use, int32_t src, zero_extent_t src_extent, int32_t dst)
{
    uint8_t outer = zero_plan_outer(w->b->spec), inner = zero_plan_inner(w->b->spec, &w->b->plan->segments[segment]);
    bool both = outer != 0 && inner != 0;
    if (both && src_extent == ZERO_EXTENT_SLICE)
        zero_write_collective(w, kind, stream, segment, use, inner, src, ZERO_EXTENT_SLICE, dst, ZERO_EXTENT_SHARD);
    zero_write_collective(w, kind, stream, segment, use, outer != 0 ? outer : inner,
                          both && src_extent == ZERO_EXTENT_SLICE ? dst : src, both ? ZERO_EXTENT_SHARD : src_extent,
                          dst, ZERO_EXTENT_WHOLE);
}

void zero_write_reduce(zero_program_writer_t *w, zero_op_kind_t kind, int32_t segment, int32_t use, int32_t src,
                       zero_extent_t src_extent, int32_t dst)
{
    const int32_t *buffer = w->b->plan->segments[segment].buffer;
    uint8_t outer = zero_plan_outer(w->b->spec), inner = zero_plan_inner(w->b->spec, &w->b->plan->segments[segment]);
    bool both = outer != 0 && inner != 0, coded = buffer[ZERO_ROLE_GRAD_CODES] >= 0 && kind == ZERO_OP_REDUCE_SCATTER;
    if (both && src_extent == ZERO_EXTENT_WHOLE) {
        int32_t between = coded ? buffer[ZERO_ROLE_WIRE_SHARD] : src;
        zero_write_sum(w, kind, segment, use, outer, src, ZERO_EXTENT_WHOLE, between, ZERO_EXTENT_SHARD);
        src = between;
    }
    zero_write_sum(w, kind, segment, use, inner != 0 ? inner : outer, src, both ? ZERO_EXTENT_SHARD : ZERO_EXTENT_WHOLE,
                   dst, ZERO_EXTENT_SLICE);
}

void zero_write_part(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t part, int32_t use,
                     int32_t src, int32_t dst)
{
    const zero_builder_t *b = w->b;
    const zero_part_t *p = &b->plan->parts[part];
    const zero_buffer_t *from = &b->plan->buffers[src], *to = &b->plan->buffers[dst];
    int64_t count = p->end - p->begin;
    bool moves = (kind == ZERO_OP_COPY || kind == ZERO_OP_READ || kind == ZERO_OP_WRITE) && from->tier != to->tier;
    zero_write_op(w, (zero_op_t){.kind = (uint8_t)kind,
                                 .stream = (uint8_t)stream,
                                 .unit = b->plan->segments[p->segment].unit,
                                 .segment = p->segment,
                                 .part = part,
                                 .use = use,
                                 .event = -1,
                                 .src = src,
                                 .dst = dst,
                                 .src_own = from->part < 0 ? (uint8_t)zero_build_own(b, src, p->own) : 0,
                                 .dst_own = to->part < 0 ? (uint8_t)zero_build_own(b, dst, p->own) : 0,
                                 .count = count,
                                 .bytes = moves ? zero_format_bytes(&from->format, count) : 0});
}

void zero_write_norm(zero_program_writer_t *w, zero_stream_id_t stream, int32_t segment, int32_t use, int32_t src)
{
    const zero_segment_t *s = &w->b->plan->segments[segment];
    const zero_buffer_t *x = &w->b->plan->buffers[src];
    bool larger = zero_build_own(w->b, src, ZERO_EXTENT_SLICE) != ZERO_EXTENT_WHOLE;
    zero_write_op(w, (zero_op_t){.kind = ZERO_OP_NORM,
                                 .stream = (uint8_t)stream,
                                 .unit = s->unit,
                                 .segment = segment,
                                 .part = x->part,
                                 .use = use,
                                 .event = -1,
                                 .src = src,
                                 .dst = -1,
                                 .src_own = larger ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE,
                                 .flags = x->begin > 0 ? ZERO_NORM_CONTINUES : 0,
                                 .count = larger ? s->slice : x->elements});
}

void zero_write_plain(zero_program_writer_t *w, zero_op_kind_t kind, zero_stream_id_t stream, int32_t unit, int32_t use,
                      uint32_t flags)
{
    zero_write_op(w, (zero_op_t){.kind = (uint8_t)kind,
                                 .stream = (uint8_t)stream,
                                 .unit = unit,
                                 .segment = -1,
                                 .part = -1,
                                 .use = use,
                                 .event = -1,
                                 .src = -1,
                                 .dst = -1,
                                 .flags = (uint8_t)(flags & (ZERO_READ | ZERO_GRAD))});
}
