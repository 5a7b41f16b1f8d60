/* SPDX-License-Identifier: Apache-2.0 */
/* build.h - what the files that build a plan share. The checker does not include it: it uses plan.h alone. */
#ifndef ZERO_PLAN_BUILD_H
#define ZERO_PLAN_BUILD_H

#include "zero/plan/plan.h"

/* The table, as it applies to a segment with its number of copies. */
typedef struct zero_placement {
    bool shard_parameters, shard_gradients, shard_optimizer; /* over more than one rank */
    zero_extent_t keeps;                                     /* what a rank keeps of parameters that are in slots */
    bool sum_locally;      /* each rank sums its micro-steps, and the sums are reduced once per step */
    bool sum_shards;       /* each micro-step is reduced over shards; the sums are reduced over replicas once per
                            * step */
    bool gather_gradients; /* there are several ranks, and each updates everything */
} zero_placement_t;

/* A unit as the table places it. Positions are indices of uses in the training pass; -1: none. */
typedef struct zero_unit_plan {
    int32_t pipe[2]; /* the stages that have it: the same twice, or two that share it */
    int32_t first_segment, segment_count;
    bool slotted;   /* its parameters are gathered or fetched for each use: PARAM is in a slot */
    bool grad_slot; /* its GRAD buffers are in a slot */
    bool several;   /* its gradients are reduced more than once in a step */
    int32_t first_use;
} zero_unit_plan_t;

/* Pieces of a segment: indices of plan->parts. */
typedef struct zero_pieces {
    int32_t first, count;
} zero_pieces_t;

/* A segment as the table places it. */
typedef struct zero_segment_plan {
    zero_placement_t at;
    int64_t stays;                       /* how many elements keep their state on the device, among those that a rank
                                          * updates: the first ones */
    bool away;                           /* gradients of the other elements, and their sums, are on the host tier */
    zero_pieces_t written, sum, reduced; /* pieces that stage: the gradients of each micro-step; the local sum; the
                                          * reduced gradients */
} zero_segment_plan_t;

/* What one pass gathers, and when. */
typedef struct zero_pass_plan {
    int32_t *enter;       /* units to gather, in the order of their next use */
    int32_t *enter_use;   /* the use that needs each of them */
    int32_t *enter_begin; /* [use_count + 1]: enter[enter_begin[i] .. enter_begin[i + 1]) are
                           * gathered before use i */
    int32_t *release_at;  /* [use_count]: the position whose release also releases this use (its own
                           * if it is not held) */
} zero_pass_plan_t;

/* What a use of the training pass with ZERO_GRAD means for its unit's gradients. Those of several uses of a task are
 * reduced together, after the last of them. A pass without tasks counts as one. */
typedef struct zero_grad_plan {
    bool opens;     /* it is the first of such uses: gradients are zero before it, or the local sum so far */
    int32_t closes; /* of a use that opens: the last of them; else -1 */
    bool reduces;   /* it is the last of them */
    bool first,
        last; /* of a use that opens or reduces: these are the unit's first gradients of the program; of one that
                       * reduces: its last ones */
} zero_grad_plan_t;

/* A task of a stage in the order of its schedule. */
typedef struct zero_turn {
    int32_t chunk, micro;
    zero_phase_t phase;
} zero_turn_t;

typedef struct zero_slot {
    uint64_t offset, bytes;
    zero_tier_t tier;
    zero_kind_t kind;
} zero_slot_t;

typedef struct zero_builder {
    const zero_spec_t *spec;
    zero_plan_t *plan;
    zero_error_t *error;
    int32_t train;           /* the training pass, -1: none */
    bool offload_parameters; /* parameters live on a tier other than the device */
    zero_unit_plan_t *units;
    zero_segment_plan_t *segments;
    int32_t *order; /* units in the order of their updates, which is that of first use: the next
                     * step begins with what is updated first */
    zero_pass_plan_t *passes;
    zero_grad_plan_t *grads; /* by use of the training pass */
    zero_slot_t *slots;
    int32_t slot_count;
    int32_t buffer_capacity;
} zero_builder_t;

/* Refuses what cannot be planned. Sets train and the flags of the builder. */
zero_status_t zero_build_declare(zero_builder_t *b);
/* Fills turns with the tasks of all micro-steps of a step, two for each micro-step and chunk of the stage. */
void zero_build_turns(const zero_spec_t *spec, int pipe, zero_turn_t *turns);
/* Refuses chunks and tasks that cannot be planned. Sets the stages of each unit, and the plan's passes: what its stage
 * does of each pass. */
zero_status_t zero_build_tasks(zero_builder_t *b);
/* The buffers of the stage's tasks, each in a slot of its own; the most slots that they take. */
zero_status_t zero_build_links(zero_builder_t *b);
int32_t zero_build_link_slots(const zero_spec_t *spec);
/* Segments, the place of each parameter, runs, and the buffers of every segment (without offsets, and slot is -1). */
zero_status_t zero_build_segments(zero_builder_t *b);
/* The parts of every trainable segment, the buffers of their state, and the buffers that belong to no segment. */
zero_status_t zero_build_parts(zero_builder_t *b);
/* Which units are resident at each use, and the slots of parameters, gradients and wire buffers. Sets the slots of
 * buffers, and their offsets within them. */
zero_status_t zero_build_window(zero_builder_t *b);
/* The parts of units in a node that the training pass gathers again (NODE_SHARD). */
zero_status_t zero_build_node(zero_builder_t *b);
/* Whether a pass has gathered the unit before this entry of what it gathers. */
bool zero_build_gathers(const zero_pass_plan_t *plan, int32_t unit, int32_t before);
/* The buffers of codes for a segment's parameters, if they are gathered for uses, and for its gradients, if they are
 * reduced; and then their slots (codes.c). */
zero_status_t zero_build_param_codes(zero_builder_t *b, int32_t segment);
zero_status_t zero_build_grad_codes(zero_builder_t *b, int32_t segment);
zero_status_t zero_build_code_slots(zero_builder_t *b);
/* The programs, without RECORD and WAIT. */
zero_status_t zero_build_programs(zero_builder_t *b);
/* Inserts RECORD and WAIT; sets the event of HOST_WAIT. */
zero_status_t zero_build_sync(zero_builder_t *b);
/* Offsets of all buffers, bytes of kinds and arenas. */
zero_status_t zero_build_layout(zero_builder_t *b);
/* Sets plan->hash. */
void zero_build_hash(zero_builder_t *b);

/* The minimum alignment of buffers on a tier in memory. */
static inline uint64_t zero_build_align(const zero_spec_t *spec, zero_tier_t tier)
{
    uint64_t page = spec->device.page > ZERO_PAGE ? spec->device.page : ZERO_PAGE;
    return tier == ZERO_TIER_DEVICE && spec->guard ? page : ZERO_ALIGN_BYTES;
}

/* Appends a buffer of elements in this format (overflow: ZERO_ERR_MEMORY). *out gets its index. */
zero_status_t zero_build_buffer(zero_builder_t *b, int32_t segment, zero_role_t role, zero_kind_t kind,
                                zero_tier_t tier, zero_format_t format, int64_t elements, int32_t *out);
/* The number of elements of an extent of a segment. */
static inline int64_t zero_build_elements(const zero_segment_t *s, zero_extent_t extent)
{
    const int64_t elements[ZERO_EXTENTS] = {s->elements, s->slice, s->shard, s->node};
    return elements[extent];
}
/* Refuses groups of ranks that cannot be planned with. */
zero_status_t zero_build_check_groups(const zero_spec_t *spec, zero_error_t *error);
/* Sets the segment's elements, rounded up so that slices are equal and aligned, its slice and its shard. Returns false
 * if there are too many. */
bool zero_build_slices(const zero_spec_t *spec, zero_segment_t *segment, uint64_t elements);
/* Chooses the rank that computes the update of each parameter that is updated whole. */
zero_status_t zero_build_owners(zero_builder_t *b);
/* How the table applies to a segment, whose stages and spread are set. */
zero_placement_t zero_build_place(const zero_builder_t *b, const zero_segment_t *segment);
/* The flag of an operand that is this extent of a buffer: WHOLE (all of it) if the buffer holds no more than that. */
zero_extent_t zero_build_own(const zero_builder_t *b, int32_t buffer, zero_extent_t extent);
/* How the table places a segment. */
static inline const zero_placement_t *zero_build_at(const zero_builder_t *b, const zero_segment_t *s)
{
    return &b->segments[s - b->plan->segments].at;
}
/* Whether the reduction after a use of the training pass comes at the end of the pass: it is the last one of a unit
 * that another stage shares, which would otherwise wait in the middle of its tasks. */
static inline bool zero_build_is_late(const zero_builder_t *b, int32_t use)
{
    const zero_unit_plan_t *unit = &b->units[b->plan->passes[b->train].uses[use].unit];
    return b->grads[use].reduces && b->grads[use].last && unit->pipe[0] != unit->pipe[1];
}
/* Whether the local sum of a segment whose gradients are on the host tier is also added up there. Otherwise it comes to
 * the device before more is added to it. */
static inline bool zero_build_sums_there(const zero_builder_t *b, const zero_segment_t *s)
{
    return zero_build_at(b, s)->sum_locally && s->dtype != ZERO_FP32;
}
/* Whether the gradients of a segment are reduced as codes. */
static inline bool zero_build_codes_gradients(const zero_builder_t *b, const zero_segment_t *s)
{
    return b->spec->reduce_codec != ZERO_CODEC_NONE && zero_plan_is_shared(s);
}
/* Whether the norm of a segment is computed on the host tier, as far as its gradients are there: the reduction leaves
 * no complete gradients on the device. */
static inline bool zero_build_norm_away(const zero_builder_t *b, int32_t segment)
{
    const zero_segment_t *s = &b->plan->segments[segment];
    const zero_placement_t *at = zero_build_at(b, s);
    bool there = zero_build_sums_there(b, s) && !zero_plan_is_shared(s);
    return b->segments[segment].away && b->units[s->unit].several &&
           (there || (!at->sum_locally && !at->sum_shards && !at->gather_gradients));
}
/* calloc that reports failure; n 0 allocates too. *out is NULL on failure. */
zero_status_t zero_build_alloc(zero_builder_t *b, void *out, size_t n, size_t size);

#endif
