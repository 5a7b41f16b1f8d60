/* SPDX-License-Identifier: Apache-2.0 */
/* codes.c - what collectives of codes need: buffers, their slots, and the operations of one reduction.
 *
 * Parameters: each rank codes what it keeps of a unit before each gather, so that no codes are kept between gathers; it
 * decodes what it gathers, also its own, so that all ranks use the same values. Gradients: each rank codes its own,
 * ranks exchange the codes, and each decodes and sums those of its share.
 *
 * Gathers of codes come one after the other on one stream, and so do reductions: one slot of each kind serves all
 * segments. */
#include "zero/plan/writer.h"

static zero_status_t make(zero_builder_t *b, int32_t segment, zero_role_t role, zero_format_t format, int64_t elements)
{
    return zero_build_buffer(b, segment, role, ZERO_KIND_WINDOW, ZERO_TIER_DEVICE, format, elements,
                             &b->plan->segments[segment].buffer[role]);
}

zero_status_t zero_build_param_codes(zero_builder_t *b, int32_t segment)
{
    /* On another tier, replicas of one rank gather too, but not on the device: the bits would depend on the tier. */
    const zero_segment_t *s = &b->plan->segments[segment];
    if (!zero_build_at(b, s)->shard_parameters || zero_plan_shards(b->spec) == 1 ||
        b->spec->gather_codec == ZERO_CODEC_NONE)
        return ZERO_OK;
    return make(b, segment, ZERO_ROLE_PARAM_CODES, zero_format_codes(b->spec->gather_codec), s->elements);
}

zero_status_t zero_build_grad_codes(zero_builder_t *b, int32_t segment)
{
    const zero_segment_t *s = &b->plan->segments[segment];
    const zero_format_t codes = zero_format_codes(b->spec->reduce_codec);
    const zero_placement_t *at = zero_build_at(b, s);
    const bool both = zero_plan_outer(b->spec) != 0 && zero_plan_inner(b->spec, s) != 0,
               away = b->segments[segment].away, adds = b->units[s->unit].several && !at->sum_locally;
    zero_status_t status;

    if (!zero_build_codes_gradients(b, s))
        return ZERO_OK;
    if ((status = make(b, segment, ZERO_ROLE_GRAD_CODES, codes, s->elements)) != ZERO_OK ||
        (status = make(b, segment, ZERO_ROLE_ARRIVED_CODES, codes, s->elements)) != ZERO_OK)
        return status;
    /* Sums that are added, moved, or summed once more before they are in FINAL. */
    return both || away || adds ? make(b, segment, ZERO_ROLE_WIRE_SHARD, zero_format_plain(ZERO_FP32),
                                       away && at->gather_gradients ? s->elements
                                       : both                       ? s->shard
                                                                    : s->slice)
                                : ZERO_OK;
}

/* Places buffers of a segment one after the other in a slot, which all segments use in turn; *slot is -1 before the
 * first. */
static zero_status_t share(zero_builder_t *b, int32_t segment, const zero_role_t *roles, int count, int32_t *slot)
{
    uint64_t end = 0;
    for (int i = 0; i < count; i++) {
        int32_t index = b->plan->segments[segment].buffer[roles[i]];
        if (index < 0)
            continue;
        zero_buffer_t *x = &b->plan->buffers[index];
        if (*slot < 0) {
            *slot = b->slot_count++;
            b->slots[*slot] = (zero_slot_t){.tier = ZERO_TIER_DEVICE, .kind = ZERO_KIND_WINDOW};
        }
        x->slot = *slot;
        x->offset = end;
        if (!zero_add_u64(end, x->bytes, &end) ||
            !zero_round_up(end, zero_build_align(b->spec, ZERO_TIER_DEVICE), &end))
            return zero_fail(b->error, ZERO_ERR_MEMORY, "the codes of unit '%s' need more than 2^63 bytes",
                             b->spec->units[b->plan->segments[segment].unit].name);
        if (end > b->slots[*slot].bytes)
            b->slots[*slot].bytes = end;
    }
    return ZERO_OK;
}

zero_status_t zero_build_code_slots(zero_builder_t *b)
{
    static const zero_role_t params[] = {ZERO_ROLE_PARAM_CODES},
                             grads[] = {ZERO_ROLE_GRAD_CODES, ZERO_ROLE_ARRIVED_CODES, ZERO_ROLE_WIRE_SHARD};
    int32_t gathers = -1, reductions = -1;
    zero_status_t status = ZERO_OK;
    for (int32_t s = 0; s < b->plan->segment_count && status == ZERO_OK; s++) {
        status = share(b, s, params, 1, &gathers);
        if (status == ZERO_OK && b->plan->segments[s].buffer[ZERO_ROLE_GRAD_CODES] >= 0)
            status = share(b, s, grads, 3, &reductions);
    }
    return status;
}

void zero_write_sum(zero_program_writer_t *w, zero_op_kind_t kind, int32_t segment, int32_t use, uint8_t axes,
                    int32_t src, zero_extent_t src_extent, int32_t dst, zero_extent_t dst_extent)
{
    const int32_t *buffer = w->b->plan->segments[segment].buffer;
    int32_t codes = buffer[ZERO_ROLE_GRAD_CODES], arrived = buffer[ZERO_ROLE_ARRIVED_CODES];
    if (codes < 0 || kind != ZERO_OP_REDUCE_SCATTER) {
        zero_write_collective(w, kind, ZERO_STREAM_REDUCE, segment, use, axes, src, src_extent, dst, dst_extent);
        return;
    }
    zero_write_segment(w, ZERO_OP_CAST, ZERO_STREAM_REDUCE, segment, use, src, src_extent, codes, src_extent);
    zero_write_collective(w, ZERO_OP_ALL_TO_ALL, ZERO_STREAM_REDUCE, segment, use, axes, codes, src_extent, arrived,
                          src_extent);
    zero_write_collective(w, ZERO_OP_SUM, ZERO_STREAM_REDUCE, segment, use, axes, arrived, src_extent, dst, dst_extent);
}
