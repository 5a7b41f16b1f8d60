/* SPDX-License-Identifier: Apache-2.0 */
/* check.h - what the files of the plan's checker share. The checker uses plan.h, and nothing of the builder. */
#ifndef ZERO_PLAN_CHECK_H
#define ZERO_PLAN_CHECK_H

#include "zero/plan/plan.h"

#define ZERO_CHECK_HOST ZERO_STREAM_COUNT /* the calling thread counts as a party too */
#define ZERO_CHECK_PARTIES (ZERO_STREAM_COUNT + 1)
#define ZERO_CHECK_SAVED (2 + ZERO_MAX_STATES) /* parameters, master weights, states */

/* Vector clock: how many operations of each party are known to be done. */
typedef struct zero_clock {
    int32_t at[ZERO_CHECK_PARTIES];
} zero_clock_t;

typedef enum zero_content_kind {
    ZERO_HOLDS_NOTHING = 0, /* undefined contents, which must not be read */
    ZERO_HOLDS_ZERO,
    ZERO_HOLDS_PARAM, /* parameters of a segment after `version` updates (fp32: also its master weights) */
    ZERO_HOLDS_MASTER,
    ZERO_HOLDS_STATE,     /* of the optimizer; `state`: which */
    ZERO_HOLDS_DIRECTION, /* of parameters that are updated whole, in step `version`; `first`, a zero_direction_t:
                           * how far */
    ZERO_HOLDS_GRADIENT,  /* of micro-steps [first, end) of step `version`; of the last one, the first `uses` uses; of
                           * the first one, not the first `skipped` uses */
    ZERO_HOLDS_SHARES, /* as GRADIENT, of each rank that differs on the axes `state`, in their order: the elements that
                        * are this rank's share among them */
    ZERO_HOLDS_NORM, /* of the first `base` elements of a segment's slice, in step `version`, after `end` micro-steps */
    ZERO_HOLDS_SCALARS,         /* of step `version` */
    ZERO_HOLDS_ACTIVATION,      /* what chunk `segment` hands to the next one, of micro-step `first` */
    ZERO_HOLDS_ACTIVATION_GRAD, /* its gradient */
    ZERO_HOLDS_KEPT             /* what the forward task of the chunk and micro-step has left for the backward task */
} zero_content_kind_t;

/* How far the directions of parameters that are updated whole have come. */
typedef enum zero_direction {
    ZERO_DIRECTION_UPDATED = 0, /* elements, written by UPDATE */
    ZERO_DIRECTION_COLLECTED,   /* whole matrices, each on its owner */
    ZERO_DIRECTION_MADE,        /* the caller's results, each on its owner; zero elsewhere */
    ZERO_DIRECTION_SPREAD       /* the caller's results, on every rank that applies them */
} zero_direction_t;

/* What a range of bytes holds. base: where element 0 of the segment would lie, so that shifted copies differ. */
typedef struct zero_content {
    uint8_t kind, dtype, state;
    uint8_t reduced; /* the axes over which it is summed */
    uint8_t coded;   /* the codec that has rounded it */
    int32_t segment, version;
    int32_t first, end, uses, skipped;
    int64_t base;
} zero_content_t;

/* The bytes between two neighbouring bounds of operands. */
typedef struct zero_cell {
    zero_content_t content;
    int32_t write_time, read_time[ZERO_CHECK_PARTIES];
    uint16_t readers; /* mask of the parties whose read_time counts */
    uint8_t writer;
    bool in_slot;
    int32_t run;   /* of the program that wrote the content: what a program leaves in a slot is invalid for the next */
    int32_t saved; /* the last trial that saved this cell */
    int16_t open_reads, open_writes; /* uses that have begun and not ended */
} zero_cell_t;

typedef struct zero_cells {
    int32_t begin, end;
} zero_cells_t;

/* An operand: its cells, its elements, and the base of its content. */
typedef struct zero_operand {
    zero_cells_t cells;
    int32_t buffer;
    int64_t base, begin, count;
} zero_operand_t;

typedef struct zero_checker {
    const zero_plan_t *plan;
    zero_error_t *error;
    int rank; /* the simulated one */
    uint64_t *bounds;
    int32_t bound_count; /* sorted; cell i is [bounds[i], bounds[i + 1]) */
    zero_cell_t *cells;
    struct zero_operand *operands; /* three per buffer, by zero_extent_t: all of it, this rank's slice, its shard */
    zero_cells_t *norm;            /* by segment: the cells of its norm */
    zero_cell_t rate;              /* written by the host before each exchange */
    struct zero_saved_cell *saved;
    int32_t saved_count, trial;
    bool trying; /* cells are saved before they change */
    int32_t run; /* programs run so far */
    zero_clock_t clock[ZERO_CHECK_PARTIES];
    zero_clock_t *events, *events_before;
    bool *recorded; /* by event: in this program */
    /* the position of the walk */
    const zero_program_t *program;
    int32_t op;
    int32_t step, micro; /* steps done; micro-steps of this step that have ended */

    int32_t next_use, opened;        /* uses of the pass that have begun; those of them that have not ended */
    int32_t collectives;             /* of the use that has begun last, that have run */
    int32_t next_task, transfers;    /* tasks of the pass that have ended; sends and receives */
    bool in_task;                    /* the next task has begun */
    int32_t *version;                /* by segment: updates so far */
    int32_t *updates, *updated;      /* by part: the same; the step of the last update */
    int32_t *unit_segment;           /* [unit_count + 1] */
    int32_t *grad_total, *grad_done; /* by unit: GRAD uses in the training pass; those that have ended in this
                                      * program */
    bool *open;                      /* by unit: acquired */
    int64_t *written; /* [segment][ZERO_CHECK_SAVED]: elements of parameters, master weights and each state that this
                         program has saved */
} zero_checker_t;

/* Fails with "program P, operation N (KIND of unit 'U'): ...". */
zero_status_t zero_check_fail(const zero_checker_t *c, const char *format, ...) ZERO_PRINTF(2, 3);
/* The buffer for people: "param of 'block.0'". */
typedef struct zero_check_name {
    char s[200];
} zero_check_name_t;
zero_check_name_t zero_check_buffer_name(const zero_checker_t *c, int32_t buffer);

/* The ranks of a stage; those of a replica in it. */
static inline int zero_check_ranks(const zero_checker_t *c)
{
    return c->plan->spec->world / c->plan->spec->mesh.pipe;
}
static inline int zero_check_shards(const zero_checker_t *c)
{
    return zero_check_ranks(c) / c->plan->spec->mesh.replicas / c->plan->spec->mesh.tensor;
}
/* Whether two stages share the segment. */
static inline bool zero_check_tied(const zero_checker_t *c, int32_t segment)
{
    return c->plan->segments[segment].pipe[0] != c->plan->segments[segment].pipe[1];
}
/* Whether the ranks of tensor parallelism share the segment. */
static inline bool zero_check_summed(const zero_checker_t *c, int32_t segment)
{
    return c->plan->segments[segment].spread == ZERO_SPREAD_SUMMED && c->plan->spec->mesh.tensor > 1;
}
/* The first element of a segment that this rank owns. */
static inline int64_t zero_check_slice(const zero_checker_t *c, int32_t segment)
{
    const zero_segment_t *s = &c->plan->segments[segment];
    int tensor = c->plan->spec->mesh.tensor, local = c->rank % zero_check_ranks(c) / tensor,
        shards = zero_check_shards(c), index = local % shards * c->plan->spec->mesh.replicas + local / shards;
    if (zero_check_tied(c, segment))
        index = 2 * index + (c->rank / zero_check_ranks(c) == s->pipe[1] ? 1 : 0);
    if (zero_check_summed(c, segment))
        index = index * tensor + c->rank % tensor;
    return index * s->slice;
}
/* The axes of several ranks that have the segment: gradients are summed over all of them. */
static inline uint8_t zero_check_axes(const zero_checker_t *c, int32_t segment)
{
    return (uint8_t)((zero_check_shards(c) > 1 ? ZERO_ALONG_SHARD : 0) |
                     (c->plan->spec->mesh.replicas > 1 ? ZERO_ALONG_REPLICA : 0) |
                     (zero_check_tied(c, segment) ? ZERO_ALONG_TIE : 0) |
                     (zero_check_summed(c, segment) ? ZERO_ALONG_TENSOR : 0));
}
/* The same as zero_plan_span, computed independently. */
zero_span_t zero_check_span(const zero_checker_t *c, int32_t buffer, zero_extent_t own, int32_t part);

/* Checks that every number in the plan is in its range, and that buffers do not overlap. The rest of the checker relies
 * on it. */
zero_status_t zero_check_numbers(zero_checker_t *c);

/* Creates the cells of all operands of this rank. Only parameters, master weights and state hold something at first. */
zero_status_t zero_check_cells_create(zero_checker_t *c);
void zero_check_cells_destroy(zero_checker_t *c);
zero_operand_t zero_check_operand(const zero_checker_t *c, int32_t buffer, zero_extent_t own, int32_t part);

/* Whether the stream's next operation is ordered after everything that its read or write of these cells conflicts
 * with. */
zero_status_t zero_check_may_read(const zero_checker_t *c, int stream, const zero_operand_t *x);
zero_status_t zero_check_may_write(const zero_checker_t *c, int stream, const zero_operand_t *x);
/* Records the access, at the stream's current time. */
void zero_check_did_read(zero_checker_t *c, int stream, const zero_operand_t *x);
void zero_check_did_write(zero_checker_t *c, int stream, const zero_operand_t *x, zero_content_t content);
/* The content of all cells, which must be the same and have the operand's base; else ZERO_ERR_PLAN. */
zero_status_t zero_check_content(const zero_checker_t *c, const zero_operand_t *x, zero_content_t *content);

/* Counts uses that begin (1) or end (-1) on these cells. */
void zero_check_set_open(zero_checker_t *c, const zero_operand_t *x, int reads, int writes);

/* Between begin and undo, cells are saved before they change; undo restores them. */
void zero_check_trial_begin(zero_checker_t *c);
void zero_check_trial_undo(zero_checker_t *c);

static inline const zero_segment_t *zero_check_segment(const zero_checker_t *c, const zero_op_t *op)
{
    return &c->plan->segments[op->segment];
}

static inline int32_t zero_check_unit(const zero_checker_t *c, int32_t segment)
{
    return c->plan->segments[segment].unit;
}

/* Whether the stream's next operation may read src and write dst; NULL: it has no such operand. */
zero_status_t zero_check_ordered(const zero_checker_t *c, int stream, const zero_operand_t *src,
                                 const zero_operand_t *dst);
/* Whether a gradient has all uses of its last micro-step. */
bool zero_check_is_complete(const zero_checker_t *c, const zero_content_t *x);
/* Whether x holds gradients of this step. */
zero_status_t zero_check_read_gradient(const zero_checker_t *c, const zero_operand_t *x, zero_content_t *content);
/* Fails unless x has been rounded by this codec alone. */
zero_status_t zero_check_codec(const zero_checker_t *c, const zero_content_t *x, zero_codec_t codec, const char *what);
/* Whether x holds this step's direction of a segment, made as far as this. */
bool zero_check_is_direction(const zero_checker_t *c, int32_t segment, const zero_content_t *x,
                             zero_direction_t as_far_as);

/* Each checks one operation, and records what it writes. */
zero_status_t zero_check_norm(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_exchange(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_update(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_whole(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_all_to_all(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_sum(zero_checker_t *c, const zero_op_t *op);
zero_status_t zero_check_op(zero_checker_t *c, const zero_op_t *op);

/* Whether the plan's passes are what the stage has to do of those that were declared. */
zero_status_t zero_check_tasks(const zero_checker_t *c);
/* TASK, TASK_END, SEND and RECV. */
zero_status_t zero_check_task_op(zero_checker_t *c, const zero_op_t *op);
/* At the end of a program: whether all tasks and their transfers have run. */
zero_status_t zero_check_tasks_done(const zero_checker_t *c);

#endif
