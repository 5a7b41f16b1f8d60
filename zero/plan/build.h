/* SPDX-License-Identifier: Apache-2.0 */
/* build.h - what the files that build a plan share. The checker does not include it: it judges the plan by plan.h
 * alone. */
#ifndef ZERO_PLAN_BUILD_H
#define ZERO_PLAN_BUILD_H

#include "zero/plan/plan.h"

/* A unit as the table places it. Positions are indices of uses in the training pass, -1 for none. */
typedef struct zero_unit_plan {
    int32_t first_segment, segment_count;
    bool slotted;   /* its parameters are brought in for use: PARAM is in a slot */
    bool grad_slot; /* its GRAD buffers are in a slot */
    int32_t first_use, first_grad, last_grad;
} zero_unit_plan_t;

/* Pieces of a segment: indices of plan->parts. */
typedef struct zero_pieces {
    int32_t first, count;
} zero_pieces_t;

/* A trainable segment as the table places it. */
typedef struct zero_segment_plan {
    int64_t stays; /* elements of what a rank updates whose state is on the device: the first ones */
    bool away;     /* gradients of the others are on the host tier, with what is summed up for them */
    zero_pieces_t written, sum,
        reduced; /* in which what every micro-step brings, the local sum, and the reduced gradients are staged */
} zero_segment_plan_t;

/* What one pass gathers, and when. */
typedef struct zero_pass_plan {
    int32_t *enter;       /* units that are gathered, in the order of their next use */
    int32_t *enter_use;   /* the use that each serves */
    int32_t *enter_begin; /* [use_count + 1]: enter[enter_begin[i] .. enter_begin[i + 1]) are gathered before use i */
    int32_t
        *release_at; /* [use_count]: the position whose release also releases this use (itself where it is not held) */
} zero_pass_plan_t;

typedef struct zero_slot {
    uint64_t offset, bytes;
    zero_tier_t tier;
    zero_kind_t kind;
} zero_slot_t;

typedef struct zero_builder {
    const zero_spec_t *spec;
    zero_plan_t *plan;
    zero_error_t *error;
    int32_t train;                                           /* the training pass, -1: none */
    bool shard_parameters, shard_gradients, shard_optimizer; /* over more than one rank */
    bool offload_parameters;                                 /* parameters live on another tier than the device */
    bool sum_locally;      /* micro-steps are summed on each rank and reduced once a step */
    bool gather_gradients; /* there are several ranks, and each updates everything */
    zero_unit_plan_t *units;
    zero_segment_plan_t *segments;
    int32_t *order; /* units in the order in which they are updated: of their first use, so that the next step begins
                     * with what is updated first */
    zero_pass_plan_t *passes;
    zero_slot_t *slots;
    int32_t slot_count;
    int32_t buffer_capacity;
} zero_builder_t;

/* Refuses what cannot be planned; fills train, shard_* and sum_locally. */
zero_status_t zero_build_declare(zero_builder_t *b);
/* Segments, where each parameter lies, runs, and the buffers of every segment (no offsets, slots not chosen: slot is
 * -1). */
zero_status_t zero_build_segments(zero_builder_t *b);
/* The parts of every trainable segment, with the buffers of their state, and what is neither of a segment nor of a
 * part. */
zero_status_t zero_build_parts(zero_builder_t *b);
/* Which units are resident at each use, and the slots of parameters, gradients and wire buffers. Sets buffer slots and
 * offsets within them. */
zero_status_t zero_build_window(zero_builder_t *b);
/* The programs, without RECORD and WAIT. */
zero_status_t zero_build_programs(zero_builder_t *b);
/* Inserts RECORD and WAIT, gives HOST_WAIT its event. */
zero_status_t zero_build_sync(zero_builder_t *b);
/* Offsets of all buffers, bytes of kinds and arenas. */
zero_status_t zero_build_layout(zero_builder_t *b);
/* plan->hash. */
void zero_build_hash(zero_builder_t *b);

/* What buffers of a tier in memory begin at multiples of, at least. */
static inline uint64_t zero_build_align(const zero_spec_t *spec, zero_tier_t tier)
{
    uint64_t page = spec->device.page > ZERO_PAGE ? spec->device.page : ZERO_PAGE;
    return tier == ZERO_TIER_DEVICE && spec->guard ? page : ZERO_ALIGN_BYTES;
}

/* Appends a buffer of elements in this format (overflow: ZERO_ERR_MEMORY). *out is its index. */
zero_status_t zero_build_buffer(zero_builder_t *b, int32_t segment, zero_role_t role, zero_kind_t kind,
                                zero_tier_t tier, zero_format_t format, int64_t elements, int32_t *out);
/* Refuses groups of ranks that cannot be planned with. */
zero_status_t zero_build_check_groups(const zero_spec_t *spec, zero_error_t *error);
/* The segment has so many elements: rounded up, so that slices are whole and aligned. False: too many. */
bool zero_build_slices(const zero_spec_t *spec, zero_segment_t *segment, uint64_t elements);
/* The ranks that make what whole parameters are moved by. */
zero_status_t zero_build_owners(zero_builder_t *b);
/* Whether the buffer holds the whole segment (its own slice is then a part of it). */
bool zero_build_is_full(const zero_builder_t *b, int32_t buffer);
/* Whether a segment's micro-steps are summed on the host tier from what each of them writes. Otherwise, where a local
 * sum is away, it comes to the device before more is added to it. */
static inline bool zero_build_sums_there(const zero_builder_t *b, const zero_segment_t *s)
{
    return b->sum_locally && s->dtype != ZERO_FP32;
}
/* Whether a segment's norm is taken on the host tier, as far as its gradients are there: what reduces them leaves
 * nothing whole on the device. */
static inline bool zero_build_norm_away(const zero_builder_t *b, int32_t segment)
{
    const zero_segment_t *s = &b->plan->segments[segment];
    bool there = zero_build_sums_there(b, s) && !zero_plan_is_shared(s);
    return b->segments[segment].away && b->spec->micro_steps > 1 &&
           (there || (!b->sum_locally && !b->gather_gradients));
}
/* calloc that reports; n 0 gives memory too. *out is NULL on failure. */
zero_status_t zero_build_alloc(zero_builder_t *b, void *out, size_t n, size_t size);

#endif
