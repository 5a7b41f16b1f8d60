/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of exec/ share. */
#ifndef ZERO_EXEC_INTERNAL_H
#define ZERO_EXEC_INTERNAL_H

#include "offload/nvme.h"
#include "zero/exec/exec.h"

#include <stdatomic.h>

/* The most values of zero_exec_sum. */
enum { ZERO_EXEC_SUM = 64 };

/* Equal calls in a row: a zero_exec_call_t, and how many. */
typedef struct zero_exec_run {
    int32_t kind, index, detail;
    uint32_t count;
} zero_exec_run_t;

/* What a rank tells the others of its calls: the words of a note. */
enum { ZERO_EXEC_RUNS = 9 };
typedef struct zero_exec_tale {
    uint64_t digest;                     /* of all calls */
    int64_t step, applied;               /* the step that is on its way, from 1; applied: at EXCHANGE */
    int32_t program, cursor;             /* -1: none, its begin */
    int32_t micro;                       /* of the last training program, from 1 */
    int32_t runs, lost, unused;          /* lost: calls before the last run for which there was no room */
    zero_exec_run_t run[ZERO_EXEC_RUNS]; /* since the ranks last agreed, or only the call on its way */
} zero_exec_tale_t;

/* A channel's calls so far: its stream's. */
typedef struct zero_exec_course {
    zero_comm_note_t note;
    zero_exec_tale_t tale;
    bool met, stepped; /* the ranks have agreed in the call on its way; it is a step's */
    zero_comm_t *comm; /* of the last collective */
} zero_exec_course_t;

/* Calls that streams may have yet to read. */
enum { ZERO_EXEC_CALLS = 256 };

/* What plan->scalars holds: written by EXCHANGE, read by UPDATE on the same step. The counters live here too, because
 * only the exchange knows whether a step's update is applied. */
typedef struct zero_exec_scalars {
    double norm;        /* of the summed gradients, times grad_scale, before clipping */
    double clip_factor; /* what clipping multiplies by; 1 where it is off */
    double grad_factor; /* clip_factor * grad_scale */
    double rate;
    int64_t step;    /* steps taken, this one included */
    int64_t applied; /* updates applied: the bias corrections' count */
    int64_t skipped;
    uint32_t apply;     /* whether this step's UPDATEs do anything */
    uint32_t signals;   /* of all ranks, since the start */
    int32_t not_finite; /* 1 + the unit whose gradients were first not finite; 0: none's */
} zero_exec_scalars_t;
_Static_assert(sizeof(zero_exec_scalars_t) <= ZERO_SCALARS_BYTES, "the step's scalars fit their buffer");

/* READs or WRITEs in a row that a drive has at a time. */
enum { ZERO_EXEC_TRANSFERS = 8 };

/* What happened to a use of the running program. */
typedef enum zero_use_state { ZERO_USE_AHEAD = 0, ZERO_USE_OPEN, ZERO_USE_DONE, ZERO_USE_PASSED_OVER } zero_use_state_t;

/* What closes memory to the caller, see guard.c. */
typedef struct zero_exec_guard zero_exec_guard_t;

/* What is counted of each stream: time on its thread, and bytes. */
typedef enum zero_exec_count {
    ZERO_COUNT_COMM_NS = 0,
    ZERO_COUNT_KERNEL_NS,
    ZERO_COUNT_GATHERED,
    ZERO_COUNT_REDUCED,
    ZERO_COUNT_TO_HOST,
    ZERO_COUNT_TO_DEVICE,
    ZERO_COUNT_READ,
    ZERO_COUNT_WRITTEN,
    ZERO_COUNTS
} zero_exec_count_t;

struct zero_exec {
    const zero_plan_t *plan;
    zero_device_t *device;
    zero_comm_t *comm; /* the caller's: only at creation */
    const zero_flat_ops_t *flat;
    zero_config_t options;
    int rank, world;

    zero_arena_t *arenas[ZERO_TIER_COUNT];             /* none on nvme */
    zero_nvme_t *nvme;                                 /* NULL: nothing is there */
    zero_nvme_ticket_t transfers[ZERO_EXEC_TRANSFERS]; /* started, not waited for: the thread's of their stream */
    int transfer_count;
    zero_stream_t *streams[ZERO_STREAM_COUNT];
    zero_event_t **events; /* plan->event_count */
    zero_event_t *exchanged;
    zero_comm_t *comms[ZERO_MAX_GROUPS][ZERO_CHANNELS]; /* [0][0]: also of failures and of what ranks tell */
    int channel_count;        /* of each group; where it is 1, gathers and all else share it */
    char **base;              /* plan->buffer_count: addresses; NULL on nvme */
    double *addends;          /* (world, ZERO_EXEC_SUM) */
    zero_exec_guard_t *guard; /* NULL: all memory is open */
    zero_exec_scalars_t *scalars;

    /* The calling thread's. */
    int32_t program, cursor; /* -1: none runs */
    uint8_t *use_states;     /* zero_use_state_t of each use of the pass */
    int32_t use_capacity;
    int32_t *open_use; /* by unit: the use that the caller holds, or -1 */
    int32_t open_count;
    double pending_rate;
    uint32_t pending_signals;
    bool exchange_issued;

    /* Calls: the calling thread's, which streams follow (calls.c). */
    zero_exec_call_t calls[ZERO_EXEC_CALLS];
    uint64_t called;
    zero_exec_course_t courses[ZERO_CHANNELS];
    _Atomic uint64_t followed[ZERO_CHANNELS];

    /* What EXCHANGE sends: staged by the calling thread when it issues it, which is ordered after the exchange before.
     */
    double rate;
    uint32_t signals;

    _Atomic int64_t step;                                    /* steps taken, for sentences */
    _Atomic uint64_t counts[ZERO_STREAM_COUNT][ZERO_COUNTS]; /* each row is written by one thread */

    zero_latch_t failed;
};

/* A cursor as one word that is not 0: steps taken, program, operation (the program's length: after its end). */
uint64_t zero_exec_word(const zero_exec_t *x, int32_t program, int32_t cursor);

/* The next collective of a channel is this operation, or with op NULL one of a call that is no program; on the thread
 * that runs it. Returns the communicator that it is on. */
zero_comm_t *zero_exec_note(zero_exec_t *x, int channel, const zero_op_t *op);
/* It came to this status, which is returned: where ranks differ, with what each was doing. compared: it is one that
 * compares. */
zero_status_t zero_exec_noted(zero_exec_t *x, int channel, bool compared, zero_status_t status, zero_error_t *error);
/* zero_exec_call for a program that begins. */
zero_status_t zero_exec_call_program(zero_exec_t *x, int32_t program, zero_error_t *error);

/* The task of every operation that does work (ctx: the exec, arg: the zero_op_t). */
zero_status_t zero_exec_task(void *ctx, const void *arg, void *native, zero_error_t *error);

/* Makes *error the exec's failure (or the failure that came first *error): adds rank, step, operation and unit,
 * publishes the sentence to the other ranks. op may be NULL. From any thread. Returns the status. */
zero_status_t zero_exec_failed(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* ZERO_OK, or the failure into *error. */
zero_status_t zero_exec_check(zero_exec_t *x, zero_error_t *error);

/* The host waits for a stream, or where stream is NULL for an event. A collective that a device runs ends no wait by
 * itself where another rank is gone, so the wait goes in pieces with a look at the ranks between them. */
zero_status_t zero_exec_wait_for(zero_exec_t *x, zero_stream_t *stream, zero_event_t *event, zero_error_t *error);

/* Makes x->guard where the plan or the process asks for one, and closes what it guards. Once the arenas are there. */
zero_status_t zero_exec_guard_create(zero_exec_t *x, zero_error_t *error);
/* Opens all. Accepts that there is none. */
void zero_exec_guard_destroy(zero_exec_t *x);
/* The rest needs x->guard. Each open has a close of the same. From any thread. */
zero_status_t zero_exec_guard_op(zero_exec_t *x, const zero_op_t *op, bool open, zero_error_t *error);
zero_status_t zero_exec_guard_buffer(zero_exec_t *x, int32_t buffer, bool open, zero_error_t *error);
/* The caller holds the unit's parameters (ZERO_READ) and gradients (ZERO_GRAD) as flags say; 0: it holds neither. */
zero_status_t zero_exec_guard_unit(zero_exec_t *x, int32_t unit, uint32_t flags, zero_error_t *error);

/* Opens the file of the nvme tier, where the plan has anything there. Collective. */
zero_status_t zero_exec_open_nvme(zero_exec_t *x, zero_error_t *error);
/* Once the arenas are there: tells it of the memory that it will read into. */
zero_status_t zero_exec_register_nvme(zero_exec_t *x, zero_error_t *error);
/* READ and WRITE, on the thread of their stream. Returns when the transfer ended, and all that were started before it;
 * where operations of the same kind follow right behind it, it may only be started. */
zero_status_t zero_exec_move(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* Any bytes of the tier, to or from host memory. */
zero_status_t zero_exec_touch_nvme(zero_exec_t *x, bool write, uint64_t offset, void *host, uint64_t bytes,
                                   zero_error_t *error);

/* Compares what the ranks of this node need together with what is there, and this rank's with its limit; every rank
 * gets the same answer. Collective. */
zero_status_t zero_exec_fits(const zero_exec_t *x, zero_error_t *error);

#endif
