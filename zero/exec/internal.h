/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of exec/ share. */
#ifndef ZERO_EXEC_INTERNAL_H
#define ZERO_EXEC_INTERNAL_H

#include "offload/nvme.h"
#include "zero/exec/exec.h"

#include <stdatomic.h>

/* The most values of zero_exec_sum. */
enum { ZERO_EXEC_SUM = 64 };

/* The streams of links, from the first one. */
enum { ZERO_EXEC_LINKS = ZERO_STREAM_COUNT - ZERO_STREAM_FROM_PREV };

/* Equal consecutive calls: a zero_exec_call_t and their number. */
typedef struct zero_exec_run {
    int32_t kind, index, detail;
    uint32_t count;
} zero_exec_run_t;

/* A rank's calls, as the other ranks get them: the words of a note. */
enum { ZERO_EXEC_RUNS = 9 };
typedef struct zero_exec_report {
    uint64_t digest;                     /* of all calls */
    int64_t step, applied;               /* the current step, from 1; applied: set at EXCHANGE */
    int32_t program, cursor;             /* -1: no program; its start */
    int32_t micro;                       /* of the last training program, from 1 */
    int32_t runs, omitted, unused;       /* omitted: calls before the last run that did not fit */
    zero_exec_run_t run[ZERO_EXEC_RUNS]; /* since the ranks last agreed, or only the current call */
} zero_exec_report_t;

/* The calls that a channel's stream has recorded so far. */
typedef struct zero_exec_channel_calls {
    zero_comm_note_t note;
    zero_exec_report_t report;
    bool agreed, is_step; /* the ranks have agreed during the current call; it is zero_step */
    int group;            /* of the last collective */
} zero_exec_channel_calls_t;

/* The most calls that the caller may be ahead of a stream. */
enum { ZERO_EXEC_CALLS = 256 };

/* The contents of plan->scalars: written by EXCHANGE, read by UPDATE in the same step. The counters are here too,
 * because only the exchange knows whether a step's update is applied. */
typedef struct zero_exec_scalars {
    double norm;        /* of the summed gradients, divided by loss_scale, times grad_scale, before clipping */
    double clip_factor; /* factor of clipping; 1 if it is off */
    double grad_factor; /* clip_factor * grad_scale / loss_scale, divided by weight if that is set */
    double weight;      /* the sum of the ranks'; -1: not set */
    double loss_scale;  /* of this step */
    zero_scale_t scale; /* of the next one */
    double rate;
    int64_t step;    /* steps taken, this one included */
    int64_t applied; /* updates applied, which bias corrections use */
    int64_t skipped;
    uint32_t apply;     /* whether this step's UPDATEs change anything */
    uint32_t signals;   /* union over all ranks, since the start */
    int32_t not_finite; /* 1 + the unit whose gradients were first not finite; 0: none */
} zero_exec_scalars_t;
_Static_assert(sizeof(zero_exec_scalars_t) <= ZERO_SCALARS_BYTES, "the step's scalars fit their buffer");

/* The most consecutive READs or WRITEs in flight. */
enum { ZERO_EXEC_TRANSFERS = 8 };

/* The state of a use in the running program. */
typedef enum zero_use_state { ZERO_USE_AHEAD = 0, ZERO_USE_OPEN, ZERO_USE_DONE, ZERO_USE_PASSED_OVER } zero_use_state_t;

/* Closes memory to the caller, see guard.c. */
typedef struct zero_exec_guard zero_exec_guard_t;

/* Begin and end of operations, see trace.c. */
typedef struct zero_exec_trace zero_exec_trace_t;
typedef struct zero_exec_span zero_exec_span_t;

/* Counters of each stream: time on its thread, and bytes. */
typedef enum zero_exec_count {
    ZERO_COUNT_COMM_NS = 0,
    ZERO_COUNT_KERNEL_NS,
    ZERO_COUNT_GATHERED,
    ZERO_COUNT_REDUCED,
    ZERO_COUNT_TO_HOST,
    ZERO_COUNT_TO_DEVICE,
    ZERO_COUNT_READ,
    ZERO_COUNT_WRITTEN,
    ZERO_COUNT_REPLICA_GATHERED,
    ZERO_COUNT_REPLICA_REDUCED,
    ZERO_COUNT_NODE_GATHERED,
    ZERO_COUNT_ACTIVATIONS_RECEIVED,
    ZERO_COUNT_GRADIENTS_RECEIVED,
    ZERO_COUNT_COLLECTED,
    ZERO_COUNTS
} zero_exec_count_t;

struct zero_exec {
    const zero_plan_t *const *plans; /* of all stages */
    const zero_plan_t *plan;         /* of this rank's */
    zero_device_t *device;
    zero_comm_t *comm; /* the caller's; used only at creation */
    const zero_flat_ops_t *flat;
    zero_config_t options;
    int rank, world;

    zero_arena_t *arenas[ZERO_TIER_COUNT];             /* none on nvme */
    zero_nvme_t *nvme;                                 /* NULL: nothing is on nvme */
    zero_nvme_ticket_t transfers[ZERO_EXEC_TRANSFERS]; /* started, not waited for; used by the thread of their stream */
    int transfer_count;
    zero_stream_t *streams[ZERO_STREAM_COUNT];
    zero_event_t **events; /* plan->event_count */
    zero_event_t *exchanged;
    zero_comm_t *comms[ZERO_MAX_GROUPS][ZERO_CHANNELS]; /* [0][0] also carries failures and progress */
    zero_comm_t *links[ZERO_EXEC_LINKS];                /* by stream; NULL: the stage has no such link */
    int channel_count;                                  /* of each group; if 1, gathers share it with everything else */
    char **base;                                        /* plan->buffer_count: addresses; NULL on nvme */
    double *addends;                                    /* (world, ZERO_EXEC_SUM) */
    zero_exec_guard_t *guard;                           /* NULL: all memory is open */
    zero_exec_trace_t *trace;                           /* NULL: no trace is on */
    zero_exec_scalars_t *scalars;

    /* Used by the calling thread alone. */
    int32_t program, cursor; /* -1: none runs */
    int32_t task;            /* the task of the program's pass that runs; -1: none */
    uint8_t *use_states;     /* zero_use_state_t of each use of the pass */
    int32_t use_capacity;
    int32_t *open_use; /* by unit: the use that the caller holds, or -1 */
    int32_t open_count;
    double pending_rate, pending_weight; /* weight: -1 if zero_step_weight was not called */
    uint32_t pending_signals;
    bool exchange_issued;
    struct {
        const void *send;
        void *recv;
        zero_comm_note_t note;
    } collective;        /* that the caller runs; read on the compute stream, which is the caller's own */
    uint64_t exposed_ns; /* waits of the compute stream; if it is a native stream, only while a trace is on */

    /* The caller appends calls, the streams record them (calls.c). */
    zero_exec_call_t calls[ZERO_EXEC_CALLS];
    uint64_t calls_issued;
    zero_exec_channel_calls_t channel_calls[ZERO_CHANNELS];
    _Atomic uint64_t calls_recorded[ZERO_CHANNELS];

    /* What EXCHANGE sends. The calling thread sets it when it issues EXCHANGE, which is ordered after the previous
     * one. */
    double rate, weight;
    uint32_t signals;

    _Atomic int64_t step;                                    /* steps taken, for error sentences */
    _Atomic uint64_t counts[ZERO_STREAM_COUNT][ZERO_COUNTS]; /* one thread writes each row */

    struct zero_exec_save *save; /* NULL: the plan has no saves */

    zero_latch_t failed;
};

/* COLLECTIVE, with the buffers of x->collective. */
zero_status_t zero_exec_run_collective(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error);
/* "reduce-scatter of 1024 elements of fp32" */
typedef struct zero_exec_collective_text {
    char s[80];
} zero_exec_collective_text_t;
zero_exec_collective_text_t zero_exec_collective_text(const zero_spec_collective_t *collective);

/* Adds to a counter. Only on the stream's own thread. */
void zero_exec_count(zero_exec_t *x, int stream, zero_exec_count_t which, uint64_t more);

/* Gives each link that the plan has its communicator of two ranks. Collective over x->comm. */
zero_status_t zero_exec_open_links(zero_exec_t *x, zero_error_t *error);
/* SEND and RECV. */
zero_status_t zero_exec_transfer(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error);

/* A cursor as one word that is not 0: the current step, program, operation (the program's length: after its end). */
uint64_t zero_exec_word(const zero_exec_t *x, int32_t program, int32_t cursor);

/* Sets the note of a channel's next collective: for this operation, or with op NULL for a call without a program. Runs
 * on the thread of the collective. Returns its communicator. */
zero_comm_t *zero_exec_note(zero_exec_t *x, int channel, const zero_op_t *op);
/* Ends that collective: returns its status; on a mismatch, the error says what each rank was doing. compared: the
 * collective compares notes. */
zero_status_t zero_exec_note_done(zero_exec_t *x, int channel, bool compared, zero_status_t status,
                                  zero_error_t *error);
/* zero_exec_call for the start of a program. */
zero_status_t zero_exec_call_program(zero_exec_t *x, int32_t program, zero_error_t *error);

/* The task of every operation with work (ctx: the exec, arg: the zero_op_t). */
zero_status_t zero_exec_task(void *ctx, const void *arg, void *native, zero_error_t *error);

/* Makes *error the exec's failure, unless another one came first, which replaces *error. Adds rank, step, operation and
 * unit, and publishes the sentence to the other ranks. op may be NULL. From any thread. Returns the status. */
zero_status_t zero_exec_failed(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* Returns ZERO_OK, or the failure, with *error. */
zero_status_t zero_exec_check(zero_exec_t *x, zero_error_t *error);

/* The host waits for a stream, or if stream is NULL for an event. A collective on a device does not end by itself if
 * another rank is gone, so the wait is cut into pieces, with a check of the communicator after each. */
zero_status_t zero_exec_wait_for(zero_exec_t *x, zero_stream_t *stream, zero_event_t *event, zero_error_t *error);

/* Creates x->guard if the plan or the process needs one, and closes the guarded memory. After the arenas exist. */
zero_status_t zero_exec_guard_create(zero_exec_t *x, zero_error_t *error);
/* Opens everything. Does nothing without a guard. */
void zero_exec_guard_destroy(zero_exec_t *x);
/* The next functions need x->guard. Each open needs a matching close. From any thread. */
zero_status_t zero_exec_guard_op(zero_exec_t *x, const zero_op_t *op, bool open, zero_error_t *error);
zero_status_t zero_exec_guard_buffer(zero_exec_t *x, int32_t buffer, bool open, zero_error_t *error);
/* The caller holds the unit's parameters (ZERO_READ) and gradients (ZERO_GRAD) as flags say; 0: neither. */
zero_status_t zero_exec_guard_unit(zero_exec_t *x, int32_t unit, uint32_t flags, zero_error_t *error);
/* The buffers of a task, which begins (open) or ends. */
zero_status_t zero_exec_guard_task(zero_exec_t *x, const zero_plan_task_t *task, bool open, zero_error_t *error);

/* SAVE and SYNC. */
zero_status_t zero_exec_save_create(zero_exec_t *x, zero_error_t *error);
void zero_exec_save_destroy(zero_exec_t *x);
zero_status_t zero_exec_save_op(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* The next functions need x->trace. The calling thread calls them, except the task. A program begins. */
void zero_exec_trace_program(zero_exec_t *x, int32_t program);
/* Returns the span of an operation that is about to be issued. NULL: there is no room, or this kind is not traced. */
zero_exec_span_t *zero_exec_trace_issue(zero_exec_t *x, const zero_op_t *op);
/* Runs zero_exec_task and records its begin and end. arg is the zero_exec_span_t. */
zero_status_t zero_exec_trace_task(void *ctx, const void *arg, void *native, zero_error_t *error);
/* Records the begin (0) or the end (1) of a wait of the compute stream or of the calling thread. */
zero_status_t zero_exec_trace_stamp(zero_exec_t *x, zero_exec_span_t *span, int which, zero_error_t *error);
/* The caller's work on a unit begins, and ends. */
zero_status_t zero_exec_trace_use(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
zero_status_t zero_exec_trace_release(zero_exec_t *x, int32_t unit, zero_error_t *error);
/* A task begins or ends. */
zero_status_t zero_exec_trace_turn(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* Frees the trace, if there is one. After the streams are destroyed. */
void zero_exec_trace_destroy(zero_exec_t *x);

/* Opens the file of the nvme tier, if the plan uses the tier. Collective. */
zero_status_t zero_exec_open_nvme(zero_exec_t *x, zero_error_t *error);
/* After the arenas exist: registers the memory that transfers use. */
zero_status_t zero_exec_register_nvme(zero_exec_t *x, zero_error_t *error);
/* READ and WRITE, on the thread of their stream. Returns when this transfer and those started before it have ended; if
 * an operation of the same kind follows directly, it may only start the transfer. */
zero_status_t zero_exec_move(zero_exec_t *x, const zero_op_t *op, zero_error_t *error);
/* Transfers any bytes of the tier, to or from host memory. */
zero_status_t zero_exec_access_nvme(zero_exec_t *x, bool write, uint64_t offset, void *host, uint64_t bytes,
                                    zero_error_t *error);

/* Reads bytes of the tier into scratch (aligned to ZERO_PAGE, with ZERO_FILE_ALIGN more on either side), and says where
 * in it they begin. */
zero_status_t zero_exec_read_nvme(zero_exec_t *x, uint64_t offset, uint64_t bytes, char *scratch, char **begin,
                                  zero_error_t *error);

/* Compares what the ranks of a node need together with what is available, and what each rank needs with its limit.
 * Every rank gets the same result. Collective. */
zero_status_t zero_exec_fits(const zero_exec_t *x, zero_error_t *error);

#endif
