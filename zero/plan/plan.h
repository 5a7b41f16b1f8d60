/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - from declarations to a list of operations: pure computation, no I/O, no device, no rank.
 *
 * A plan is the same on every rank of a pipeline stage: a flag marks an operand that means "this rank's slice", and the
 * executor resolves it. Without a pipeline there is one plan.
 *
 * The life of a unit's parameters and gradients, and the operations of each program, follow from the placement table
 * alone: sharding over a group of one rank is the same as full. A plan has no notion of a ZeRO stage.
 */
#ifndef ZERO_PLAN_PLAN_H
#define ZERO_PLAN_PLAN_H

#include "zero/base/base.h"

/* ---- declarations ----------------------------------------------------------------------------------------------- */

typedef struct zero_spec_param {
    char *name;
    int32_t unit;
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS]; /* of a rank's part of it (split.h), which is all of it unless it is split */
    int64_t count;                /* elements of that, may be 0 */
    int64_t whole[ZERO_MAX_DIMS]; /* the shape of all parts together */
    int64_t total;                /* elements of that */
    int64_t run;                  /* elements of a part that lie one behind another in the whole */
    int32_t split_dim, split_blocks;
    bool partial; /* not split: gradients are parts of a sum over the ranks of tensor parallelism */
    zero_dtype_t dtype;
    bool trainable;
    bool elementwise; /* never updated whole */
    double decay_scale, lr_scale;
    char *piece_of;      /* the tensor of which it is a tile; NULL: it is none */
    int64_t piece_begin; /* its first row there */
} zero_spec_param_t;

typedef struct zero_spec_unit {
    char *name;
} zero_spec_unit_t;

/* A collective that the caller runs while it holds a unit. */
typedef struct zero_spec_collective {
    zero_axis_t axis; /* TENSOR or CONTEXT */
    zero_collective_kind_t kind;
    int64_t count;
    zero_dtype_t dtype;
} zero_spec_collective_t;

enum { ZERO_USE_COLLECTIVES = UINT8_MAX }; /* the most of a use */

typedef struct zero_spec_use {
    int32_t unit;
    uint32_t flags;                             /* ZERO_READ | ZERO_GRAD | ZERO_HOLD | ZERO_REDUCE */
    int32_t first_collective, collective_count; /* of the pass's */
} zero_spec_use_t;

/* A task of a pass: the uses from first_use up to that of the next task. */
typedef struct zero_spec_task {
    int32_t chunk;
    zero_phase_t phase;
    int32_t first_use;
} zero_spec_task_t;

typedef struct zero_spec_pass {
    char *name;
    zero_pass_kind_t kind;
    zero_spec_use_t *uses;
    int32_t use_count;
    zero_spec_task_t *tasks; /* of one micro-step, in the order of their data */
    int32_t task_count;      /* 0: the pass is not divided into tasks */
    zero_spec_collective_t *collectives;
    int32_t collective_count;
} zero_spec_pass_t;

/* A part of the model that one pipeline stage computes: chunk c is on stage c % mesh.pipe. */
typedef struct zero_spec_chunk {
    int64_t link; /* elements that it hands to the next chunk, and whose gradient comes back; 0: none */
    zero_dtype_t link_dtype;
    /* Bytes on the device and the host tier: for each micro-step in flight; once for a stage. */
    uint64_t kept[ZERO_TIER_NVME], workspace[ZERO_TIER_NVME];
} zero_spec_chunk_t;

typedef struct zero_spec_reserve {
    zero_kind_t kind;
    zero_tier_t tier;
    uint64_t bytes;
} zero_spec_reserve_t;
/* Whether memory of a kind is the caller's (zero_reserve). */
static inline bool zero_kind_is_reserved(zero_kind_t kind)
{
    return kind == ZERO_KIND_ACTIVATIONS || kind == ZERO_KIND_WORKSPACE || kind == ZERO_KIND_CACHE;
}

/* The buffers that an optimizer keeps besides the master weights. */
typedef struct zero_spec_state {
    int count;
    zero_format_t format[ZERO_MAX_STATES]; /* ZERO_ALIGN_ELEMENTS is a multiple of its block */
} zero_spec_state_t;

/* The axes of the mesh, as bits. The rank is ((pipe * replicas + replica) * shards + shard) * tensor + place; shards
 * that follow each other are those of context parallelism. Ranks along SHARD and REPLICA hold the same elements; along
 * TENSOR those of segments that are not split. CONTEXT: the part of SHARD that has the same sequences. NODE: the part
 * of SHARD inside a node. TIE: the two stages that share a unit. CALLS: not an axis; the group is for COLLECTIVE alone,
 * which may run at the same time as all others. */
typedef enum zero_along {
    ZERO_ALONG_SHARD = 1,
    ZERO_ALONG_REPLICA = 2,
    ZERO_ALONG_NODE = 4,
    ZERO_ALONG_PIPE = 8,
    ZERO_ALONG_TIE = 16,
    ZERO_ALONG_TENSOR = 32,
    ZERO_ALONG_CONTEXT = 64,
    ZERO_ALONG_CALLS = 128
} zero_along_t;

/* Ranks that communicate with each other: those that differ on these axes alone. How many there are, and what their
 * communicators can do. */
typedef struct zero_spec_group {
    int size;
    uint8_t axes; /* those with several ranks; 0 in a world of one rank */
    zero_comm_caps_t caps;
} zero_spec_group_t;
enum { ZERO_MAX_GROUPS = 12 };
/* The most communicators of a group: one for gathers, and one for everything else, which may run at the same time. */
enum { ZERO_CHANNELS = 2 };

typedef struct zero_spec {
    int world;
    zero_mesh_t mesh;
    zero_row_t parameters, gradients, optimizer;
    int window;
    zero_reduce_t reduce;
    zero_schedule_t schedule;
    int micro_steps;
    zero_dtype_t reduce_dtype;
    zero_codec_t gather_codec, reduce_codec;
    int64_t persist_bytes;
    zero_spec_state_t state;
    bool whole; /* the optimizer updates matrices whole, and keeps other state for them */
    zero_spec_state_t whole_state;
    int64_t piece;        /* elements of a part that is not on the device, and of one staging buffer: a multiple of
                           * ZERO_PIECE_QUANTUM */
    bool saves;           /* the plan has a program that writes checkpoints */
    bool saves_frozen;    /* which contain frozen segments, too */
    bool guard;           /* buffers of the device tier share no memory pages, so that each can be protected */
    double offload_ratio; /* share of the optimizer state that lies on its row's tier, if that is not the device */
    uint64_t options;     /* hash of the options that have a copy in this struct */
    zero_spec_group_t groups[ZERO_MAX_GROUPS]; /* the first is the world, which sums norms. Others follow if the mesh
                                                * has several axes (zero_plan_set_groups) */
    int group_count;
    int32_t tied[2]; /* the stages that share units; equal if no two do */
    int channels;    /* per group: 1 if the device is not asynchronous */
    zero_device_caps_t device;
    zero_spec_unit_t *units;
    int32_t unit_count;
    zero_spec_param_t *params;
    int32_t param_count;
    zero_spec_pass_t *passes;
    int32_t pass_count;
    zero_spec_reserve_t *reserves;
    int32_t reserve_count;
    zero_spec_chunk_t *chunks;
    int32_t chunk_count; /* 0 without a pipeline */
} zero_spec_t;

/* The most ranks of a plan: enough for any machine, and world * 128 elements of padding cannot overflow. */
#define ZERO_MAX_WORLD (1 << 20)

/* spec->piece as engines set it: large enough for efficient transfers, small enough for a ring of pieces. */
#define ZERO_PIECE (1 << 20)
/* Parts begin at block boundaries of files, in every dtype, and of the norm. */
#define ZERO_PIECE_QUANTUM (ZERO_FILE_ALIGN / 2)

/* ---- the plan --------------------------------------------------------------------------------------------------- */

/* Which elements of a segment an operand or a buffer has on a rank: all ("full"), the slice that the rank owns, or the
 * shard, which is the consecutive slices of the ranks that differ in their replica alone. With one replica a shard is a
 * slice; with one shard it is the whole segment. The ranks of a node cut the whole segment once more, into NODE. */
typedef enum zero_extent {
    ZERO_EXTENT_WHOLE = 0,
    ZERO_EXTENT_SLICE,
    ZERO_EXTENT_SHARD,
    ZERO_EXTENT_NODE,
    ZERO_EXTENTS
} zero_extent_t;

/* What a buffer holds for its segment. "full": elements of the whole segment; "slice": those that one rank owns. A role
 * that a segment does not need is -1. Several roles may name the same buffer (fp32: the parameter is its own master
 * weight). */
typedef enum zero_role {
    ZERO_ROLE_PARAM = 0,    /* full: what the caller reads; a buffer of its own, or a slot if parameters are sharded or
                             * on another tier */
    ZERO_ROLE_PARAM_SHARD,  /* the source of a PARAM in a slot: a shard, on another tier a slice or the whole
                             * segment */
    ZERO_ROLE_STAGED_PARAM, /* PARAM_SHARD in host memory (a slot), if PARAM_SHARD is on nvme */
    ZERO_ROLE_NODE_SHARD,   /* this rank's part of PARAM (if there are such, of PARAM_CODES) among the ranks of its
                             * node, from the first gather of a micro-step for the later ones */
    ZERO_ROLE_GRAD,         /* full: what the caller writes; a buffer of its own, or a slot */
    ZERO_ROLE_WIRE, /* full: gradients in the wire's dtype, if it differs from GRAD's; a slot, or FINAL if FINAL is
                     * full */
    ZERO_ROLE_WIRE_SHARD, /* a reduced slice that is still to be cast, accumulated or moved; it was reduced in place:
                           * WIRE, or GRAD. If gradients are coded: fp32, in a slot; also a shard that is still to be
                           * reduced over replicas */
    ZERO_ROLE_SUM,   /* full, fp32: local sum over micro-steps, if gradients are reduced once per step and GRAD is not
                      * the sum */
    ZERO_ROLE_WHOLE, /* full, fp32, a slot: where FINAL is gathered if it is on the host tier and updates are full */
    ZERO_ROLE_FINAL, /* what norm and update read: a slice, or full (the own slice is this rank's; if updates are
                      * full, all of it is valid). On the host tier it may begin after the elements whose state
                      * stays on the device. If micro-steps are reduced over shards, and their sum over replicas:
                      * at least a shard, which is that sum first */
    ZERO_ROLE_MATRICES,      /* full, fp32, a slot: directions of parameters that are updated whole, on their way to and
                         * from the owners */
    ZERO_ROLE_PARAM_CODES,   /* full, coded by gather_codec, a slot: parameters on their way to PARAM */
    ZERO_ROLE_GRAD_CODES,    /* full, coded by reduce_codec, a slot: this rank's gradients */
    ZERO_ROLE_ARRIVED_CODES, /* the same size, a slot: of the ranks of a group in their order, each one's codes of this
                              * rank's share */
    ZERO_SEGMENT_ROLES,
    /* Roles of a part, see zero_part_t: */
    ZERO_ROLE_MASTER = ZERO_SEGMENT_ROLES,
    ZERO_ROLE_STATE,
    ZERO_ROLE_STAGED_MASTER,
    ZERO_ROLE_STAGED_STATE,
    ZERO_ROLE_UPDATE_GRAD,
    ZERO_ROLE_UPDATE_PARAM,
    ZERO_ROLE_DIRECTION,
    ZERO_ROLE_STAGED_GRAD,
    ZERO_ROLE_COUNT
} zero_role_t;
/* state: the index of the state buffer, for STATE and STAGED_STATE. */
const char *zero_role_name(zero_role_t role, int state);

/* What the ranks of tensor parallelism have of a segment. */
typedef enum zero_spread {
    ZERO_SPREAD_PARTS = 0, /* other elements each: its parameters are split. Also without tensor parallelism */
    ZERO_SPREAD_SUMMED,    /* the same elements, with parts of their gradients: they share the segment as replicas do */
    ZERO_SPREAD_SAME, /* the same elements and gradients: each does the same with them, and that of place 0 counts */
    ZERO_SPREADS
} zero_spread_t;

/* One unit's parameters of one dtype, trainable or frozen, as one flat range. Frozen segments have only PARAM and
 * PARAM_SHARD; without a training pass every segment is frozen. Segments are in the order of their units. */
typedef struct zero_segment {
    int32_t unit;
    int32_t pipe[2]; /* the stages that have it: one, or two that share it. On the others it has no buffers */
    zero_dtype_t dtype;
    bool trainable;
    bool whole;               /* its parameters are matrices that are updated whole */
    zero_spread_t spread;     /* over the ranks of tensor parallelism */
    int64_t elements;         /* a multiple of slice; the padding is zero and stays zero */
    int64_t slice;            /* elements that each rank owns: a multiple of ZERO_ALIGN_ELEMENTS */
    int64_t shard;            /* elements of a shard: slice times the number of replicas, on all stages that have it;
                               * SUMMED: times the ranks of tensor parallelism */
    int64_t node;             /* elements of a rank's part among those of its node; all without nodes */
    zero_dtype_t wire, final; /* dtypes of gradients: on the wire (of codes: decoded), and as norm and update read
                               * them */
    int32_t buffer[ZERO_SEGMENT_ROLES];
    int32_t first_run, run_count;
    int32_t first_part, part_count;
    int32_t first_piece, piece_count; /* indices of plan->parts */
} zero_segment_t;

/* A range of the elements of a segment that a rank updates (its slice, or the whole segment if the optimizer is full).
 * Its state lies on one tier, and one operation updates it. The parts of a segment are consecutive and cover these
 * elements, with those that stay on the device first; all bounds but the last are multiples of ZERO_NORM_BLOCK. Pieces
 * are parts that are not updated: they limit how much is staged in host memory at once. */
typedef struct zero_part {
    int32_t segment;
    zero_extent_t own;  /* counted from the first element of this. A part has WHOLE or SLICE */
    int64_t begin, end; /* elements */
    zero_tier_t tier;
    /* Buffers; -1: none. */
    int32_t master; /* fp32. May be a part of the parameters' own buffer (fp32 on one tier) */
    int32_t state[ZERO_MAX_STATES];
    int32_t staged[1 + ZERO_MAX_STATES]; /* master and state in memory, in a slot, if the tier is nvme */
    int32_t grad;                        /* this part of FINAL, in the memory of the update, if FINAL is in another
                                          * memory */
    int32_t param;     /* where the update writes parameters that live in another memory; then they are copied there */
    int32_t direction; /* parameters that are updated whole: this part of MATRICES, if the update runs in another
                        * memory */
    int32_t staged_grad; /* pieces: gradients on their way between the device and the host tier, in a slot of the
                          * host tier */
} zero_part_t;

/* The i-th buffer that an update of the part works on: master weights (0), then state. kept: where it is stored;
 * memory: where it is while it is updated. */
static inline int32_t zero_part_kept(const zero_part_t *part, int i)
{
    return i == 0 ? part->master : part->state[i - 1];
}
static inline int32_t zero_part_memory(const zero_part_t *part, int i)
{
    return part->staged[0] >= 0 ? part->staged[i] : zero_part_kept(part, i);
}
/* All buffers of a part, including those that are -1. */
enum { ZERO_PART_BUFFERS = 2 * (1 + ZERO_MAX_STATES) + 4 };
void zero_part_buffers(const zero_part_t *part, int32_t list[ZERO_PART_BUFFERS]);

/* Where a parameter lies. segment is -1 for an empty parameter. offset: elements from the segment's start, a multiple
 * of 128. */
typedef struct zero_placed {
    int32_t segment;
    int64_t offset;
    int32_t owner; /* parameters that are updated whole: the index of the slice of the rank that computes the update;
                    * else -1 */
} zero_placed_t;

/* Neighbouring parameters of a segment with the same decay and rate, and the padding after them: one call of the update
 * kernel. */
typedef struct zero_run {
    int64_t begin, end; /* elements of the segment */
    double decay_scale, lr_scale;
    int64_t rows, cols; /* of the run's single matrix, in a segment whose parameters are updated whole; else 0 */
} zero_run_t;

typedef struct zero_buffer {
    int32_t segment; /* -1: of no segment (norms, exchange words, scalars, reserves) */
    int32_t part;    /* -1: of no part */
    zero_role_t role;
    int32_t state; /* STATE and STAGED_STATE: the index of the state buffer */
    zero_kind_t kind;
    zero_tier_t tier;
    zero_format_t format;
    zero_extent_t own;       /* begin counts from the first element of this */
    int64_t begin, elements; /* the first element, and their number */
    uint64_t offset, bytes;  /* in the tier's arena. Buffers overlap only if they share a slot */
    int32_t slot;            /* -1: a buffer of its own */
} zero_buffer_t;

typedef enum zero_op_kind {
    ZERO_OP_GATHER = 0,     /* dst (full, or a shard) = the src of every rank of the group (a slice, or a shard; or
                             * that of dst: in place) */
    ZERO_OP_RELEASE,        /* ends the caller's access that USE began: all its reads and writes lie between the two.
                             * On COMPUTE */
    ZERO_OP_REDUCE_SCATTER, /* dst (slice or shard, or that of a larger buffer) = sum over the ranks of the group of
                             * these elements of src */
    ZERO_OP_COPY,           /* dst = src, the same bytes */
    ZERO_OP_CAST,           /* dst = src, rounded; either may be coded by a codec */
    ZERO_OP_FILL,           /* dst = 0 */
    ZERO_OP_ACCUMULATE,     /* dst (fp32) += src */
    ZERO_OP_NORM,           /* norms[segment] of this rank = sum of squares of src (FINAL's values, own slice). With
                             * ZERO_NORM_CONTINUES it adds to the sum of the elements before */
    ZERO_OP_EXCHANGE,   /* sends norms (src) and status words to all ranks, through the exchange buffer; computes the
                       * step's scalars, dst */
    ZERO_OP_UPDATE,     /* of a part: FINAL or UPDATE_GRAD (src) and scalars -> MASTER, state (STAGED if there is
                       * such), and the parameter or UPDATE_PARAM (dst). Of parameters that are updated whole: ->
                       * state, and MATRICES or DIRECTION (dst) */
    ZERO_OP_COLLECT,    /* parameters that are updated whole: as GATHER, in MATRICES */
    ZERO_OP_WHOLE,      /* MATRICES: calls the caller's function on each matrix that this rank owns, and zeroes the
                       * others */
    ZERO_OP_SPREAD,     /* the owners' results, summed over ranks: as REDUCE_SCATTER, in MATRICES */
    ZERO_OP_APPLY,      /* of a part of parameters that are updated whole: MATRICES or DIRECTION (src) and scalars ->
                       * MASTER, and dst as for UPDATE */
    ZERO_OP_ALL_TO_ALL, /* dst = for each rank of the group, in order, the share of its src that is this rank's. src and
                         * dst have the same elements, and the shares are equal */
    ZERO_OP_SUM,        /* of what ALL_TO_ALL brought (src), for the same group: dst (this rank's share) = the sum over
                         * the ranks in their order, decoded and added in fp32 */
    ZERO_OP_READ,
    ZERO_OP_WRITE,      /* dst = src, one of which is on the nvme tier. On IO */
    ZERO_OP_SAVE,       /* writes this rank's own elements of src (parameters, master weights or optimizer state) to the
                        * checkpoint's files. On SAVE */
    ZERO_OP_SYNC,       /* waits until what SAVE has written is on the drive. On SAVE */
    ZERO_OP_RECORD,     /* event = this stream's position */
    ZERO_OP_WAIT,       /* this stream waits for the event's latest record; without a record it does not wait */
    ZERO_OP_HOST_WAIT,  /* the calling thread waits for the event's latest record */
    ZERO_OP_USE,        /* begins the caller's access to a unit: reads PARAM, adds to GRAD, as flags say. On COMPUTE */
    ZERO_OP_TASK,       /* begins the caller's access to the buffers of a task: reads those that it receives, writes
                        * those that it sends, both on the kept ones. On COMPUTE */
    ZERO_OP_TASK_END,   /* ends it */
    ZERO_OP_SEND,       /* sends src to the next stage or the one before. On a stream of a link */
    ZERO_OP_RECV,       /* receives dst from there */
    ZERO_OP_COLLECTIVE, /* of the caller's memory, while it holds the use's unit. On COMPUTE */
    ZERO_OP_COUNT
} zero_op_kind_t;
const char *zero_op_name(zero_op_kind_t kind);
#define ZERO_NORM_CONTINUES 1

/* Operands are buffers. *_own: only these elements of the buffer, as a zero_extent_t. An operation on a part takes only
 * that part (zero_plan_span). */
typedef struct zero_op {
    uint8_t kind, stream;
    uint8_t src_own, dst_own;
    uint8_t group;               /* collectives, SUM, EXCHANGE: an index of spec->groups; else 0 */
    uint8_t flags;               /* USE, RELEASE: ZERO_READ | ZERO_GRAD; NORM: ZERO_NORM_CONTINUES; COLLECTIVE: its
                                  * place among those of the use */
    int32_t unit, segment, part; /* -1: none */
    int32_t use;                 /* USE, RELEASE: index in the plan's pass; TASK, TASK_END, SEND, RECV: index of the
                                  * task in it; else the use that the operation serves, or -1 */
    int32_t event;               /* RECORD, WAIT, HOST_WAIT */
    int32_t src, dst;            /* buffers, -1: none */
    int32_t program;             /* index of the program that contains it */
    int64_t count;               /* elements: GATHER and REDUCE_SCATTER: of the smaller operand; ALL_TO_ALL: of a share;
                                  * SUM: of dst; COLLECTIVE: as it was declared; SAVE: of src, before those of other
                                  * ranks are left out; else those it touches */
    uint64_t bytes; /* collectives: what a rank receives from others; copies between tiers, reads and writes: what they
                     * move */
} zero_op_t;
_Static_assert(sizeof(zero_op_t) == 56, "operations are compact");

typedef enum zero_program_kind {
    ZERO_PROGRAM_EVAL = 0, /* one per pass of kind EVAL */
    ZERO_PROGRAM_ANY,      /* one per unit for each pass of kind ANY_ORDER */
    ZERO_PROGRAM_FIRST,
    ZERO_PROGRAM_MIDDLE,
    ZERO_PROGRAM_LAST, /* FIRST, MIDDLE, LAST: micro-steps of a step of several; exist only if micro_steps > 1 */
    ZERO_PROGRAM_ONLY, /* the only micro-step of a step */
    ZERO_PROGRAM_STEP, /* norm, clip, update, publish */
    ZERO_PROGRAM_SAVE, /* between steps; only if spec->saves */
    ZERO_PROGRAM_KINDS
} zero_program_kind_t;
const char *zero_program_name(zero_program_kind_t kind);

typedef struct zero_program {
    zero_program_kind_t kind;
    int32_t pass, unit; /* -1: none */
    zero_op_t *ops;
    int32_t op_count;
} zero_program_t;

/* One task of a stage. */
typedef struct zero_plan_task {
    int32_t chunk, micro; /* micro: from 0 */
    zero_phase_t phase;
    int32_t first_use, use_count;
    /* Buffers; -1: none. A forward task reads input and writes output, a backward task reads input and output_grad and
     * writes input_grad. Both work on kept. */
    int32_t input, output, output_grad, input_grad, kept[ZERO_TIER_NVME];
} zero_plan_task_t;
enum { ZERO_TASK_BUFFERS = 4 + ZERO_TIER_NVME };

/* What a stage does of a pass. With several stages a training pass has the tasks of all micro-steps of a step, in the
 * order of the schedule. */
typedef struct zero_plan_pass {
    zero_spec_use_t *uses;
    int32_t use_count;
    zero_plan_task_t *tasks;
    int32_t task_count;
} zero_plan_pass_t;

typedef struct zero_plan {
    const zero_spec_t *spec;  /* borrowed: outlives the plan */
    int pipe;                 /* the stage that it is for */
    zero_plan_pass_t *passes; /* spec->pass_count */
    zero_segment_t *segments;
    int32_t segment_count;
    zero_placed_t *placed; /* spec->param_count */
    zero_run_t *runs;
    int32_t run_count;
    zero_part_t *parts;
    int32_t part_count, piece_count; /* pieces follow the parts */
    zero_buffer_t *buffers;
    int32_t buffer_count;
    zero_program_t *programs;
    int32_t program_count;
    int32_t event_count;
    int32_t lasting_event_count;       /* any program may wait for the events below this one. The others are local: the
                                  * program that waits for one has recorded it before */
    int32_t *reserve_buffer;           /* spec->reserve_count */
    int32_t workspace[ZERO_TIER_NVME]; /* of the stage's tasks; -1: none */
    int32_t norms, exchange, scalars, scratch; /* buffers of kind staging: doubles [segments]; doubles [world *
                                                * (segments + words)]; bytes; norm scratch */
    int32_t host_scratch;                      /* scratch of norms that run on the host stream; -1: none does */
    int32_t save_scratch;                  /* of SAVE, for what the host cannot read where it is; -1: it reads all */
    uint64_t arena_bytes[ZERO_TIER_COUNT]; /* reserved at commit */
    uint64_t kind_offset[ZERO_TIER_COUNT][ZERO_KIND_COUNT]; /* each kind is one page-aligned range of the arena */
    uint64_t kind_bytes[ZERO_TIER_COUNT][ZERO_KIND_COUNT];  /* page multiples. RINGS: outside the arena, on the host
                                                             * tier: channels * ring_bytes of each group of several
                                                             * ranks, and ring_bytes of each link */
    uint64_t hash; /* of everything that ranks must agree on: declarations, table, programs, layout */
} zero_plan_t;

/* The format of the optimizer state of a segment's parameters. */
static inline const zero_spec_state_t *zero_plan_state(const zero_plan_t *plan, int32_t segment)
{
    return plan->segments[segment].whole ? &plan->spec->whole_state : &plan->spec->state;
}

/* The buffers of its part that UPDATE or APPLY modifies: zero_part_memory(part, i) for i in [*first, end). Returns
 * end. */
static inline int zero_plan_works_on(const zero_plan_t *plan, const zero_op_t *op, int *first)
{
    *first = op->kind == ZERO_OP_UPDATE && plan->segments[op->segment].whole;
    return op->kind == ZERO_OP_APPLY ? 1 : 1 + zero_plan_state(plan, op->segment)->count;
}

/* Whether its use is a task. */
static inline bool zero_op_is_of_task(const zero_op_t *op)
{
    return op->kind == ZERO_OP_TASK || op->kind == ZERO_OP_TASK_END || op->kind == ZERO_OP_SEND ||
           op->kind == ZERO_OP_RECV;
}

/* The i-th collective of a use of a pass. */
static inline const zero_spec_collective_t *zero_plan_collective(const zero_plan_t *plan, int32_t pass, int32_t use,
                                                                 int32_t i)
{
    return &plan->spec->passes[pass].collectives[plan->passes[pass].uses[use].first_collective + i];
}

/* Whether it is a collective that moves segment data. EXCHANGE is not. */
static inline bool zero_op_collects(const zero_op_t *op)
{
    return op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_REDUCE_SCATTER || op->kind == ZERO_OP_COLLECT ||
           op->kind == ZERO_OP_SPREAD || op->kind == ZERO_OP_ALL_TO_ALL;
}

/* The buffer's address if the tiers' arenas were consecutive. Used to compare byte ranges of buffers. */
static inline uint64_t zero_plan_place(const zero_plan_t *plan, const zero_buffer_t *buffer)
{
    uint64_t at = buffer->offset;
    for (int tier = 0; tier < (int)buffer->tier; tier++)
        at += plan->arena_bytes[tier];
    return at;
}

/* Sets the groups that follow from the world, the mesh and the units that stages share. The first one's capabilities
 * are those of all. */
void zero_plan_set_groups(zero_spec_t *spec);
/* Finds the units that stages share, sets spec->tied and the groups. ZERO_ERR_UNSUPPORTED: three stages use a unit. */
zero_status_t zero_plan_set_tied(zero_spec_t *spec, zero_error_t *error);
/* The group of a collective of the caller's. */
int zero_plan_calls(const zero_spec_t *spec, zero_axis_t axis);
/* The number of ranks of a pipeline stage; the number of shards that a segment is cut into. Needs a mesh that divides
 * the world. */
int zero_plan_copies(const zero_spec_t *spec);
int zero_plan_shards(const zero_spec_t *spec);
/* The number of ranks of a node, if each replica has several nodes; else 0. */
int zero_plan_node(const zero_spec_t *spec);
/* The pipeline stage of a rank. */
int zero_plan_pipe(const zero_spec_t *spec, int rank);
/* The index of the slice of a segment that a rank owns (slices of a shard follow each other); -1: the rank's stage does
 * not have the segment. The rank that owns a slice; of ranks whose places have slices of their own, that at place 0. */
int zero_plan_index(const zero_plan_t *plan, int32_t segment, int rank);
int zero_plan_rank(const zero_plan_t *plan, int32_t segment, int index);
/* The group whose ranks differ on these axes (at least one of several ranks); its i-th rank, for a rank of it; -1: the
 * rank is not in the group. */
int zero_plan_group(const zero_spec_t *spec, uint8_t axes);
int zero_plan_member(const zero_spec_t *spec, int group, int rank, int i);
/* Whether the plan's stage takes part in a group; whether it has operations on a stream. */
bool zero_plan_in_group(const zero_plan_t *plan, int group);
bool zero_plan_uses(const zero_plan_t *plan, zero_stream_id_t stream);
/* The axes of several ranks along which a segment is cut into shards, and a shard into slices; 0: none. */
uint8_t zero_plan_outer(const zero_spec_t *spec);
uint8_t zero_plan_inner(const zero_spec_t *spec, const zero_segment_t *segment);
/* Whether two stages share the segment; whether the plan's stage has it. */
static inline bool zero_plan_is_tied(const zero_segment_t *segment)
{
    return segment->pipe[0] != segment->pipe[1];
}
static inline bool zero_plan_has(const zero_plan_t *plan, const zero_segment_t *segment)
{
    return segment->pipe[0] == plan->pipe || segment->pipe[1] == plan->pipe;
}
/* Whether several ranks share the segment. */
static inline bool zero_plan_is_shared(const zero_segment_t *segment)
{
    return segment->slice < segment->elements;
}

/* Elements [begin, begin + count) of its segment that an operand holds on a rank, and their offset in bytes in its
 * buffer. For a buffer without a segment: all of it. */
typedef struct zero_span {
    int64_t begin, count;
    uint64_t offset;
} zero_span_t;
/* rank: one of the plan's stage. own: only these elements. part: only that part; -1: all. */
zero_span_t zero_plan_span(const zero_plan_t *plan, int rank, int32_t buffer, zero_extent_t own, int32_t part);

/* Bytes of save_scratch: a piece, the blocks of the file that it begins and ends in, and alignment. */
#define ZERO_SAVE_SCRATCH (ZERO_SAVE_PIECE + 2 * ZERO_FILE_ALIGN + ZERO_PAGE)
#define ZERO_SAVE_PIECE (1 << 20)

/* Doubles per rank that the exchange carries besides the norms: rate, signals, weight. */
#define ZERO_EXCHANGE_WORDS 3
/* Bytes of the step's scalars (exec/ defines their layout). */
#define ZERO_SCALARS_BYTES 512

/* Whether options that are valid individually can be combined, on this device and communicator. The error names the
 * member of zero_config_t. */
zero_status_t zero_plan_check_options(const zero_spec_t *spec, zero_error_t *error);

/* Checks options and declarations; builds segments, programs with their events, and the memory layout, for a pipeline
 * stage (0 if there is one). ZERO_ERR_ARG names what is wrong (if the window is too small for units that are held
 * together: their names, and the window that would be enough). Does not run the checker. */
zero_status_t zero_plan_build(zero_plan_t **plan, const zero_spec_t *spec, int pipe, zero_error_t *error);
void zero_plan_destroy(zero_plan_t *plan);

/* The program of this kind for a pass (and a unit, for ANY; otherwise -1), or -1. */
int32_t zero_plan_program(const zero_plan_t *plan, zero_program_kind_t kind, int32_t pass, int32_t unit);

/* Executes the plan symbolically with vector clocks: steps of one and of several micro-steps, alone and with
 * evaluations and on-demand units in between, as the first rank and as the last. Each byte range remembers its last
 * write, its reads, and what it holds (parameters of a segment after an update, gradients, ...). ZERO_ERR_PLAN means
 * that a read, a write or a reuse is not ordered after what it needs, or that an operation reads the wrong contents;
 * the error names program, operation, unit and buffer. Independent of how the plan was built. */
zero_status_t zero_plan_check(const zero_plan_t *plan, zero_error_t *error);

/* Runs the programs of steps and evaluations of all stages against each other, with nothing but their own waits and the
 * transfers between them, where both ends of a transfer wait for each other. ZERO_ERR_PLAN names what waits in a
 * circle, or the two ends that differ in chunk, micro-step or size. One order decides for all: streams are first in,
 * first out, so no operation that could run can be kept from it by another. */
zero_status_t zero_plan_check_pipe(const zero_plan_t *const *plans, int count, zero_error_t *error);

/* Makes the i-th of ZERO_CHANGES single changes of the options that may reduce the plan's memory. No change affects
 * results; those that cost the least time come first. change gets the members that differ. Returns false if the options
 * stay the same. A changed spec may be impossible: zero_plan_build refuses it. */
enum { ZERO_CHANGES = 11 };
bool zero_plan_change(const zero_spec_t *spec, int i, zero_spec_t *changed, zero_change_t *change);
/* The change that sets no member. */
zero_change_t zero_plan_no_change(const zero_spec_t *spec);

typedef struct zero_change_text {
    char s[400]; /* enough for a change of all members */
} zero_change_text_t;
/* The library's own words for a change: "set config.window = 1". */
zero_change_text_t zero_change_text(const zero_change_t *change);

/* Hashes of parts of a declaration: a parameter with its unit; all units and parameters; all passes with their uses. */
uint64_t zero_spec_hash_param(const zero_spec_t *spec, int32_t param);
uint64_t zero_spec_hash_params(const zero_spec_t *spec);
uint64_t zero_spec_hash_passes(const zero_spec_t *spec);

/* Bytes that a rank moves in one step of micro_steps micro-steps. */
zero_status_t zero_plan_traffic(const zero_plan_t *plan, int micro_steps, zero_traffic_t *traffic, zero_error_t *error);

/* Prints the plan as text, for people and golden files: the table, units, buffers by kind with offsets, then each
 * program, one operation per line. If memory for their names is lacking, buffers of tasks are called "reserve". */
void zero_plan_explain(const zero_plan_t *plan, zero_write_fn write, void *ctx);
/* Prints the schedule of a pipeline, whose plans zero_plan_check_pipe has accepted: a row for each stage with its tasks
 * in the order of time, the transfers, and what micro-steps in flight keep. Prints nothing if no pass has tasks. */
zero_status_t zero_plan_explain_pipe(const zero_plan_t *const *plans, int count, zero_write_fn write, void *ctx,
                                     zero_error_t *error);

#endif
