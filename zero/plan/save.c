/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - the program that writes a checkpoint: one SAVE for each buffer that keeps parameters, master weights or
 * optimizer state.
 *
 * Nothing changes them between two updates, so SAVE reads them where they are, beside the next passes. An update of the
 * next step waits for the SAVE of what it changes (sync.c). Frozen segments are saved only if spec->saves_frozen. */
#include "zero/plan/writer.h"

static void save_buffer(zero_program_writer_t *w, int32_t segment, int32_t part, int32_t buffer)
{
    const zero_plan_t *plan = w->b->plan;
    const zero_buffer_t *x = &plan->buffers[buffer];
    zero_write_op(w, (zero_op_t){.kind = ZERO_OP_SAVE,
                                 .stream = ZERO_STREAM_SAVE,
                                 .unit = plan->segments[segment].unit,
                                 .segment = segment,
                                 .part = part,
                                 .use = -1,
                                 .event = -1,
                                 .src = buffer,
                                 .dst = -1,
                                 .src_own = x->own == ZERO_EXTENT_SLICE ? ZERO_EXTENT_WHOLE : ZERO_EXTENT_SLICE,
                                 .count = part < 0 ? plan->segments[segment].slice : x->elements});
}

static void save_segment(zero_program_writer_t *w, int32_t s)
{
    const zero_plan_t *plan = w->b->plan;
    const zero_segment_t *segment = &plan->segments[s];
    save_buffer(w, s, -1,
                segment->buffer[segment->buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM]);
    FOR_PARTS(w->b, s, p)
    {
        /* fp32 parameters are their own master weights; on another tier they have a copy there */
        if (segment->dtype != ZERO_FP32)
            save_buffer(w, s, p, plan->parts[p].master);
        for (int i = 0; i < zero_plan_state(plan, s)->count; i++)
            save_buffer(w, s, p, plan->parts[p].state[i]);
    }
}

void zero_write_save(zero_program_writer_t *w)
{
    const zero_builder_t *b = w->b;
    /* The next step updates units in this order. */
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        FOR_SEGMENTS(b, b->order[i], s)
        {
            if (b->spec->saves_frozen || b->train < 0 || b->plan->segments[s].trainable)
                save_segment(w, s);
        }
    zero_write_plain(w, ZERO_OP_SYNC, ZERO_STREAM_SAVE, -1, -1, 0);
}
