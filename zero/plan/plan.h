/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - from declarations to a list of operations: pure computation, no I/O, no device, no rank.
 *
 * A plan is the same on every rank: an operand that means "this rank's slice" says so by a flag, and whoever runs the
 * plan resolves it.
 *
 * Life of a unit's parameters and gradients, and which operations a program holds, follow from the placement table
 * alone: sharding over a group of one rank is the same as full. Nothing here knows what a stage is.
 */
#ifndef ZERO_PLAN_PLAN_H
#define ZERO_PLAN_PLAN_H

#include "zero/base/base.h"

/* ---- what is declared ------------------------------------------------------------------------------------------- */

typedef struct zero_spec_param {
    char *name;
    int32_t unit;
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS];
    int64_t count; /* elements, may be 0 */
    zero_dtype_t dtype;
    bool trainable;
    bool elementwise; /* never updated whole */
    double decay_scale, lr_scale;
} zero_spec_param_t;

typedef struct zero_spec_unit {
    char *name;
} zero_spec_unit_t;

typedef struct zero_spec_use {
    int32_t unit;
    uint32_t flags; /* ZERO_READ | ZERO_GRAD | ZERO_HOLD */
} zero_spec_use_t;

typedef struct zero_spec_pass {
    char *name;
    zero_pass_kind_t kind;
    zero_spec_use_t *uses;
    int32_t use_count;
} zero_spec_pass_t;

typedef struct zero_spec_reserve {
    zero_kind_t kind;
    zero_tier_t tier;
    uint64_t bytes;
} zero_spec_reserve_t;

/* The buffers that an optimizer keeps beside the master weights. */
typedef struct zero_spec_state {
    int count;
    zero_format_t format[ZERO_MAX_STATES]; /* ZERO_ALIGN_ELEMENTS is a multiple of its block */
} zero_spec_state_t;

/* Ranks that communicate by themselves: so many neighbours, and their communicators' capabilities. */
typedef struct zero_spec_group {
    int size;
    zero_comm_caps_t caps;
} zero_spec_group_t;
enum { ZERO_MAX_GROUPS = 8 };
/* Communicators that a group has at most: one for gathers, and one for all else, which may run beside them. */
enum { ZERO_CHANNELS = 2 };

typedef struct zero_spec {
    int world;
    zero_row_t parameters, gradients, optimizer;
    int window;
    zero_reduce_t reduce;
    int micro_steps;
    zero_dtype_t reduce_dtype;
    int64_t persist_bytes;
    zero_spec_state_t state;
    bool whole; /* the optimizer updates matrices whole, with state of their own */
    zero_spec_state_t whole_state;
    int64_t piece;        /* elements of a part off the device, and of what is staged at a time: a multiple of
                             ZERO_PIECE_QUANTUM */
    bool guard;           /* buffers of the device tier share no pages of memory, so that each can be protected */
    double offload_ratio; /* share of the optimizer state that lies on its row's tier where that is not the device */
    uint64_t options;     /* a hash of the options that members of this struct are copies of */
    zero_spec_group_t groups[ZERO_MAX_GROUPS]; /* the first is the world: it shares segments and sums up norms */
    int group_count;
    int channels; /* of each group: 1 where the device is not asynchronous */
    zero_device_caps_t device;
    zero_spec_unit_t *units;
    int32_t unit_count;
    zero_spec_param_t *params;
    int32_t param_count;
    zero_spec_pass_t *passes;
    int32_t pass_count;
    zero_spec_reserve_t *reserves;
    int32_t reserve_count;
} zero_spec_t;

/* Ranks of one plan: enough for any machine, small enough that world * 128 elements of padding cannot overflow. */
#define ZERO_MAX_WORLD (1 << 20)

/* spec->piece of an engine: enough for large transfers, little enough that a ring of pieces is small. */
#define ZERO_PIECE (1 << 20)
/* Parts begin with whole blocks of files, in every dtype, and of the norm. */
#define ZERO_PIECE_QUANTUM (ZERO_FILE_ALIGN / 2)

/* ---- what is planned -------------------------------------------------------------------------------------------- */

/* What a buffer holds for its segment. "full": elements of the whole segment; "slice": what one rank owns. Roles that a
 * segment does not need are -1. Several roles may name the same buffer (fp32: the parameter is its own master weight).
 */
typedef enum zero_role {
    ZERO_ROLE_PARAM = 0, /* full: what the caller reads; a buffer of its own, or a slot where parameters are sharded */
    ZERO_ROLE_PARAM_SHARD,  /* where parameters are in slots, what they are filled from: a slice, or on another tier all
                               of it */
    ZERO_ROLE_STAGED_PARAM, /* PARAM_SHARD in memory, in a slot of the host tier, where it is on nvme */
    ZERO_ROLE_GRAD,         /* full: what the caller writes; its own, or a slot */
    ZERO_ROLE_WIRE, /* full: gradients cast to the wire's dtype, a slot, or FINAL where that is full; where the dtypes
                       differ */
    ZERO_ROLE_WIRE_SHARD, /* where a reduced slice waits to be cast, accumulated or moved: the own slice of what it was
                             reduced from */
    ZERO_ROLE_SUM, /* full, fp32: local sum over micro-steps, where gradients are reduced once a step and the sum is not
                      GRAD */
    ZERO_ROLE_WHOLE,    /* full, fp32, a slot: where FINAL is gathered if it is on the host tier and updates are full */
    ZERO_ROLE_FINAL,    /* what norm and update read: slice, or full (then the own slice of it is this rank's; where
                         * updates are full all of it is valid). On the host tier without what of it stays on the
                         * device */
    ZERO_ROLE_MATRICES, /* full, fp32, a slot: of whole parameters, what they are moved by, on its way to and from
                         * the ranks that make it */
    ZERO_SEGMENT_ROLES,
    /* Of a part, see zero_part_t: */
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
/* state: which of several, where the role is STATE or STAGED_STATE. */
const char *zero_role_name(zero_role_t role, int state);

/* One unit's parameters of one dtype, trainable or frozen: one flat range. Frozen segments have PARAM and PARAM_SHARD
 * only; without a training pass every segment is frozen. Segments are in the order of their units. */
typedef struct zero_segment {
    int32_t unit;
    zero_dtype_t dtype;
    bool trainable;
    bool whole;               /* its parameters are matrices that are updated whole */
    int64_t elements;         /* a multiple of slice; padding is zero and stays zero */
    int64_t slice;            /* that each rank owns: a multiple of ZERO_ALIGN_ELEMENTS */
    zero_dtype_t wire, final; /* dtypes of gradients on the wire, and as norm and update read them */
    int32_t buffer[ZERO_SEGMENT_ROLES];
    int32_t first_run, run_count;
    int32_t first_part, part_count;
    int32_t first_piece, piece_count; /* indices of plan->parts */
} zero_segment_t;

/* A part of what a rank updates of a segment (its slice, or all of it where the optimizer is full): its state lies on
 * one tier and is updated by one operation. The parts of a segment follow each other and cover it, what stays on the
 * device first; all bounds but the last are multiples of ZERO_NORM_BLOCK. Pieces are parts that are not updated: they
 * bound what is staged in host memory at a time. */
typedef struct zero_part {
    int32_t segment;
    bool own;           /* counted from the first element of this rank's slice; else from the segment's */
    int64_t begin, end; /* elements */
    zero_tier_t tier;
    /* Buffers, -1: none. */
    int32_t master; /* fp32. May be the parameters' own buffer (fp32 on one tier): then its part of it */
    int32_t state[ZERO_MAX_STATES];
    int32_t staged[1 + ZERO_MAX_STATES]; /* master and state in memory, in a slot, where the tier is nvme */
    int32_t grad;                        /* FINAL's part, where the update reads it if FINAL is in other memory */
    int32_t param;     /* what the update writes, where the parameters are in other memory than it; then copied there */
    int32_t direction; /* of whole parameters: MATRICES' part, where the update is in other memory */
    int32_t staged_grad; /* of a piece: gradients on their way between the device and the host tier, in a slot of the
                            host tier */
} zero_part_t;

/* The i-th buffer that an update of the part works on: master weights (0), then state; kept: where they stay, else
 * where they are in memory. */
static inline int32_t zero_part_kept(const zero_part_t *part, int i)
{
    return i == 0 ? part->master : part->state[i - 1];
}
static inline int32_t zero_part_memory(const zero_part_t *part, int i)
{
    return part->staged[0] >= 0 ? part->staged[i] : zero_part_kept(part, i);
}
/* All buffers of a part, -1 among them. */
enum { ZERO_PART_BUFFERS = 2 * (1 + ZERO_MAX_STATES) + 4 };
void zero_part_buffers(const zero_part_t *part, int32_t list[ZERO_PART_BUFFERS]);

/* Where a parameter lies. segment is -1 for an empty parameter. offset: elements from the segment's start, a multiple
 * of 128. */
typedef struct zero_placed {
    int32_t segment;
    int64_t offset;
    int32_t owner; /* of a whole parameter: the rank that makes what it is moved by; else -1 */
} zero_placed_t;

/* Neighbouring parameters of a segment with the same decay and rate: what an update calls the kernel for. Covers the
 * padding after them. */
typedef struct zero_run {
    int64_t begin, end; /* elements of the segment */
    double decay_scale, lr_scale;
    int64_t rows, cols; /* of the one matrix that it is in a segment of whole parameters; else 0 */
} zero_run_t;

typedef struct zero_buffer {
    int32_t segment; /* -1: not of a segment (norms, exchange words, scalars, reserves) */
    int32_t part;    /* -1: not of a part */
    zero_role_t role;
    int32_t state; /* of the roles STATE and STAGED_STATE: which */
    zero_kind_t kind;
    zero_tier_t tier;
    zero_format_t format;
    bool own;                /* its elements begin in this rank's slice; else in the segment */
    int64_t begin, elements; /* from there on: the first one, and how many */
    uint64_t offset, bytes;  /* in the tier's arena. Buffers overlap only where they share a slot */
    int32_t slot;            /* -1: a buffer of its own */
} zero_buffer_t;

typedef enum zero_op_kind {
    ZERO_OP_GATHER = 0,     /* dst (full) = every rank's src (slice; or dst itself, own slice: in place) */
    ZERO_OP_RELEASE,        /* the caller's access that USE began ends: all its reads and writes lie between the two. On
                               COMPUTE */
    ZERO_OP_REDUCE_SCATTER, /* dst (slice, or own slice of a full buffer) = sum over ranks of their src's that slice */
    ZERO_OP_COPY,           /* dst = src, bytes */
    ZERO_OP_CAST,           /* dst = src, rounded */
    ZERO_OP_FILL,           /* dst = 0 */
    ZERO_OP_ACCUMULATE,     /* dst (fp32) += src */
    ZERO_OP_NORM, /* norms[segment] of this rank = sum of squares of src (FINAL's values, own slice); ZERO_NORM_GOES_ON:
                   * the same sum goes on behind the elements that it has so far */
    ZERO_OP_EXCHANGE, /* src norms and status words of all ranks, through the exchange buffer; computes the step's
                         scalars, dst */
    ZERO_OP_UPDATE,   /* of a part: src FINAL or UPDATE_GRAD, scalars -> MASTER, state (STAGED where there are such),
                       * and dst: the parameter or UPDATE_PARAM. Of whole parameters: -> state, and dst: MATRICES or
                       * DIRECTION */
    ZERO_OP_COLLECT,  /* of whole parameters, MATRICES (full) = every rank's own slice of it */
    ZERO_OP_WHOLE,    /* MATRICES: the caller's function on each matrix that this rank owns; the others become zero */
    ZERO_OP_SPREAD,   /* MATRICES (own slice) = what the owners have made of it: the sum over ranks */
    ZERO_OP_APPLY, /* of a part of whole parameters: src MATRICES or DIRECTION, scalars -> MASTER, and dst as UPDATE's
                    */
    ZERO_OP_READ,
    ZERO_OP_WRITE,     /* dst = src, of which one is on the nvme tier. On IO */
    ZERO_OP_RECORD,    /* event = this stream's position */
    ZERO_OP_WAIT,      /* this stream waits for the event's latest record (none yet: no wait) */
    ZERO_OP_HOST_WAIT, /* the calling thread waits for the event's latest record */
    ZERO_OP_USE,       /* the caller's access to a unit begins: reads PARAM, adds to GRAD, as flags say. On COMPUTE */
    ZERO_OP_COUNT
} zero_op_kind_t;
const char *zero_op_name(zero_op_kind_t kind);
#define ZERO_NORM_GOES_ON 1

/* Operands are buffers; *_own: this rank's slice of it; of an operation on a part, the part of that
 * (zero_plan_span). */
typedef struct zero_op {
    uint8_t kind, stream;
    uint8_t src_own, dst_own;
    uint8_t group;               /* collectives, EXCHANGE: of spec->groups; else 0 */
    uint8_t flags;               /* USE, RELEASE: ZERO_READ | ZERO_GRAD; NORM: ZERO_NORM_GOES_ON */
    int32_t unit, segment, part; /* -1: none */
    int32_t use;                 /* USE, RELEASE: index in the pass; else the use that it serves, or -1 */
    int32_t event;               /* RECORD, WAIT, HOST_WAIT */
    int32_t src, dst;            /* buffers, -1: none */
    int32_t program;             /* that it is in */
    int64_t count;               /* elements: GATHER and REDUCE_SCATTER: of a slice; else of what is touched */
    uint64_t bytes; /* collectives: that a rank receives from others, all slices but its own; copies between tiers,
                     * reads and writes: that are moved */
} zero_op_t;
_Static_assert(sizeof(zero_op_t) == 56, "operations are compact");

typedef enum zero_program_kind {
    ZERO_PROGRAM_EVAL = 0, /* one per pass of kind EVAL */
    ZERO_PROGRAM_ANY,      /* one per pass of kind ANY_ORDER and unit */
    ZERO_PROGRAM_FIRST,
    ZERO_PROGRAM_MIDDLE,
    ZERO_PROGRAM_LAST, /* of a step that has several; only where micro_steps > 1 */
    ZERO_PROGRAM_ONLY, /* the one micro-step of a step */
    ZERO_PROGRAM_STEP  /* norm, clip, update, publish */
} zero_program_kind_t;
const char *zero_program_name(zero_program_kind_t kind);

typedef struct zero_program {
    zero_program_kind_t kind;
    int32_t pass, unit; /* -1: none */
    zero_op_t *ops;
    int32_t op_count;
} zero_program_t;

typedef struct zero_plan {
    const zero_spec_t *spec; /* borrowed: outlives the plan */
    zero_segment_t *segments;
    int32_t segment_count;
    zero_placed_t *placed; /* spec->param_count */
    zero_run_t *runs;
    int32_t run_count;
    zero_part_t *parts;
    int32_t part_count, piece_count; /* pieces behind the parts */
    zero_buffer_t *buffers;
    int32_t buffer_count;
    zero_program_t *programs;
    int32_t program_count;
    int32_t event_count;
    int32_t lasting_event_count; /* events below this one are waited for across programs, the others only in the program
                                  * that records them, and after it does */
    int32_t *reserve_buffer;     /* spec->reserve_count */
    int32_t norms, exchange, scalars, scratch; /* buffers of kind staging: doubles [segments]; doubles [world *
                                                * (segments + words)]; bytes; norm scratch */
    int32_t host_scratch;                      /* of norms that are taken on the host stream; -1: none is */
    uint64_t arena_bytes[ZERO_TIER_COUNT];     /* what is reserved at commit */
    uint64_t kind_offset[ZERO_TIER_COUNT][ZERO_KIND_COUNT]; /* each kind is one page-aligned range of the arena */
    uint64_t kind_bytes[ZERO_TIER_COUNT][ZERO_KIND_COUNT];  /* page multiples. RINGS: outside the arena, on the host
                                                             * tier, channels * ring_bytes of each group of
                                                             * several ranks */
    uint64_t hash; /* of all that ranks must agree on: declarations, table, programs, layout */
} zero_plan_t;

/* The state of a segment's parameters. */
static inline const zero_spec_state_t *zero_plan_state(const zero_plan_t *plan, int32_t segment)
{
    return plan->segments[segment].whole ? &plan->spec->whole_state : &plan->spec->state;
}

/* What UPDATE or APPLY works on of its part: zero_part_memory(part, i) for i in [*first, end), which is returned. */
static inline int zero_plan_works_on(const zero_plan_t *plan, const zero_op_t *op, int *first)
{
    *first = op->kind == ZERO_OP_UPDATE && plan->segments[op->segment].whole;
    return op->kind == ZERO_OP_APPLY ? 1 : 1 + zero_plan_state(plan, op->segment)->count;
}

/* Whether ranks move data together in it; EXCHANGE is apart. */
static inline bool zero_op_collects(const zero_op_t *op)
{
    return op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_REDUCE_SCATTER || op->kind == ZERO_OP_COLLECT ||
           op->kind == ZERO_OP_SPREAD;
}

/* Where a buffer lies if the tiers' arenas followed each other: what the byte ranges of two buffers are compared by. */
static inline uint64_t zero_plan_place(const zero_plan_t *plan, const zero_buffer_t *buffer)
{
    uint64_t at = buffer->offset;
    for (int tier = 0; tier < (int)buffer->tier; tier++)
        at += plan->arena_bytes[tier];
    return at;
}

/* Ranks that hold the same elements, of which each owns a slice: those of the first group. */
int zero_plan_copies(const zero_spec_t *spec);
/* Whether there is more than one such rank. */
static inline bool zero_plan_is_shared(const zero_segment_t *segment)
{
    return segment->slice < segment->elements;
}

/* Elements [begin, begin + count) of its segment that an operand holds on a rank, at bytes offset of its buffer. Of a
 * buffer without a segment: all. */
typedef struct zero_span {
    int64_t begin, count;
    uint64_t offset;
} zero_span_t;
/* index: which of the slices is the rank's, from 0. own: that slice alone. part: that part of it alone; -1: all. */
zero_span_t zero_plan_span(const zero_plan_t *plan, int index, int32_t buffer, bool own, int32_t part);
/* The index of the rank that owns an element of a segment. */
int zero_plan_owner(const zero_plan_t *plan, int32_t segment, int64_t element);

/* Doubles per rank that the exchange carries beside the norms: status, signals. */
#define ZERO_EXCHANGE_WORDS 2
/* Bytes of the step's scalars (exec/ defines what is in them). */
#define ZERO_SCALARS_BYTES 512

/* Whether options, each of which is possible by itself, can be planned with together, on such a device and
 * communicator. The sentence names the member of zero_config_t. */
zero_status_t zero_plan_check_options(const zero_spec_t *spec, zero_error_t *error);

/* Checks options and declarations, builds segments, programs with their events, and the memory layout. ZERO_ERR_ARG
 * names what is wrong (a window too small for the units that are held together: with their names and the window that
 * would do). Does not run the checker. */
zero_status_t zero_plan_build(zero_plan_t **plan, const zero_spec_t *spec, zero_error_t *error);
void zero_plan_destroy(zero_plan_t *plan);

/* The program of this kind for a pass (and unit, for ANY; -1 otherwise), or -1. */
int32_t zero_plan_program(const zero_plan_t *plan, zero_program_kind_t kind, int32_t pass, int32_t unit);

/* Walks steps of one and of several micro-steps, alone and with evaluations and units on demand between, as the first
 * rank and as the last, with vector clocks: each byte range keeps its last write and reads, and what it holds (which
 * segment's parameters of which update, which gradients). A read, write or reuse that is not ordered after what it
 * needs, and a read of contents that are not what the operation needs, is ZERO_ERR_PLAN naming program, operation, unit
 * and buffer. Independent of how the plan was built. */
zero_status_t zero_plan_check(const zero_plan_t *plan, zero_error_t *error);

/* The i-th of ZERO_CHANGES single changes of a declaration with which the plan may need less memory: nearest first, of
 * what changes no result. text says what to set in a zero_config_t. False where it would change nothing. What does not
 * go together is left to zero_plan_build. */
enum { ZERO_CHANGES = 11 };
bool zero_plan_change(const zero_spec_t *spec, int i, zero_spec_t *changed, char *text, size_t size);

/* Hashes of a declaration's parts: a parameter with its unit; all units and parameters; all passes with their uses. */
uint64_t zero_spec_hash_param(const zero_spec_t *spec, int32_t param);
uint64_t zero_spec_hash_params(const zero_spec_t *spec);
uint64_t zero_spec_hash_passes(const zero_spec_t *spec);

/* Bytes that a rank moves in one step of micro_steps micro-steps. */
zero_status_t zero_plan_traffic(const zero_plan_t *plan, int micro_steps, zero_traffic_t *traffic, zero_error_t *error);

/* The plan as text, for people and golden files: the table, units, buffers by kind with offsets, then each program, one
 * operation a line. */
void zero_plan_explain(const zero_plan_t *plan, zero_write_fn write, void *ctx);

#endif
