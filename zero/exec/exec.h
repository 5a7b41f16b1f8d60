/* SPDX-License-Identifier: Apache-2.0 */
/* exec.h - runs a plan: one loop over operations with a cursor. It has no policy and never asks what is sharded. */
#ifndef ZERO_EXEC_EXEC_H
#define ZERO_EXEC_EXEC_H

#include "kernels/flat/flat.h"
#include "optim/scale.h"
#include "zero/comm/comm.h"
#include "zero/device/device.h"
#include "zero/plan/plan.h"

typedef struct zero_exec zero_exec_t;

/* A call that every rank makes in the same order as its other calls. */
typedef enum zero_exec_call_kind {
    ZERO_CALL_PASS = 0,
    ZERO_CALL_STEP,
    ZERO_CALL_SUM,
    ZERO_CALL_WHOLE,
    ZERO_CALL_FILL,
    ZERO_CALL_SAVE_OPEN,
    ZERO_CALL_SAVE,
    ZERO_CALL_SAVE_END,
    ZERO_CALL_LOAD
} zero_exec_call_kind_t;
typedef struct zero_exec_call {
    int32_t kind;
    int32_t index;   /* PASS: its index; SUM: the number of values; WHOLE, FILL: the parameter (-1: an invalid one) */
    int32_t detail;  /* PASS: the unit of an any-order pass, or -1; WHOLE: 1 for set, 0 for get */
    int32_t program; /* PASS, STEP: its index; else -1 */
} zero_exec_call_t;

/* Creates arenas, streams, events and channels for this rank's plan among those of all pipeline stages. Collective over
 * config->comm (duplicated by split, one per group and channel, and one per link). *config is copied; plans, device and
 * comm are borrowed. If a plan does not fit, every rank gets ZERO_ERR_MEMORY with the numbers before anything is
 * reserved. */
zero_status_t zero_exec_create(zero_exec_t **exec, const zero_plan_t *const *plans, const zero_config_t *config,
                               zero_error_t *error);
void zero_exec_destroy(zero_exec_t *exec);

/* The address of a buffer on this rank. */
void *zero_exec_address(zero_exec_t *exec, int32_t buffer);

/* Puts the cursor at the start of a program and runs its operations up to the first USE, or to one that would make the
 * caller wait. The previous program must have ended. */
zero_status_t zero_exec_begin(zero_exec_t *exec, int32_t program, zero_error_t *error);
/* Runs every operation up to and including the next USE of the unit (gradients of skipped uses stay zero). */
zero_status_t zero_exec_use(zero_exec_t *exec, int32_t unit, zero_error_t *error);
/* Runs the RELEASE of that use (once earlier ones in the plan are released too) and the operations after it, up to the
 * next USE, the RELEASE of a held use, or an operation that would make the caller wait. */
zero_status_t zero_exec_release(zero_exec_t *exec, int32_t unit, zero_error_t *error);
/* Runs the next collective of a use that is held. It must be the given one: ZERO_ERR_ORDER says which is declared. */
zero_status_t zero_exec_collective(zero_exec_t *exec, const zero_spec_collective_t *given, const void *send, void *recv,
                                   zero_error_t *error);
/* Runs the rest of the task that has begun, and operations up to and including the next TASK. No unit may be held. */
zero_status_t zero_exec_next_task(zero_exec_t *exec, zero_error_t *error);
/* Runs the rest of the program. */
zero_status_t zero_exec_end(zero_exec_t *exec, zero_error_t *error);

/* The compute stream in the form that kernels take. */
void *zero_exec_stream(zero_exec_t *exec);
/* The host waits for everything queued on the compute stream. */
zero_status_t zero_exec_wait(zero_exec_t *exec, zero_error_t *error);
/* Copies host bytes into a buffer at a byte offset, or back; complete on return. The streams must be idle. */
zero_status_t zero_exec_write(zero_exec_t *exec, int32_t buffer, uint64_t offset, const void *src, uint64_t bytes,
                              zero_error_t *error);
zero_status_t zero_exec_read(zero_exec_t *exec, int32_t buffer, uint64_t offset, void *dst, uint64_t bytes,
                             zero_error_t *error);
/* The host waits until every stream is idle. */
zero_status_t zero_exec_sync(zero_exec_t *exec, zero_error_t *error);

/* Rate, weight and signal bits for the next step's exchange; the result of the last one (waits for it). */
void zero_exec_set_rate(zero_exec_t *exec, double lr);
void zero_exec_set_weight(zero_exec_t *exec, double weight);
void zero_exec_signal(zero_exec_t *exec, uint32_t bits);
zero_status_t zero_exec_stats(zero_exec_t *exec, zero_stats_t *stats, zero_error_t *error);
/* The loss scale of the next step (waits for the last exchange); sets it. Not while a step runs. */
zero_status_t zero_exec_scale(zero_exec_t *exec, zero_scale_t *scale, zero_error_t *error);
zero_status_t zero_exec_set_scale(zero_exec_t *exec, const zero_scale_t *scale, zero_error_t *error);
/* Sets the numbers of steps taken and of updates applied. Not while a step runs. */
zero_status_t zero_exec_set_step(zero_exec_t *exec, int64_t step, int64_t applied, zero_error_t *error);

/* Starts to record when each operation begins and ends, with room for steps steps. After ZERO_ERR_MEMORY the exec is
 * still usable. */
zero_status_t zero_exec_trace_begin(zero_exec_t *exec, int steps, zero_error_t *error);
/* Calls fn for each operation that has ended, stream by stream, and frees their room. *lost: the operations since the
 * last call for which there was no room. fn and lost may be NULL. Not while the caller holds a unit. */
zero_status_t zero_exec_trace_read(zero_exec_t *exec, zero_trace_fn fn, void *ctx, uint64_t *lost, zero_error_t *error);
/* Waits for all streams, does the same, and ends the trace. */
zero_status_t zero_exec_trace_end(zero_exec_t *exec, zero_trace_fn fn, void *ctx, uint64_t *lost, zero_error_t *error);

/* Resident bytes of each kind's range, as the device and the communicator read them from the system; external: process
 * RSS minus those. */
zero_status_t zero_exec_measure(zero_exec_t *exec, zero_memory_t *memory, zero_error_t *error);

/* values[i] becomes the sum over ranks, in rank order. n, 0 to 64, must be the same on every rank (ZERO_ERR_MISMATCH).
 * Collective. */
zero_status_t zero_exec_sum(zero_exec_t *exec, double *values, int n, zero_error_t *error);
/* Begins a call that is not a program: later exchanges are compared as part of it. Ranks that make different calls get
 * ZERO_ERR_MISMATCH (or ZERO_ERR_PEER with the sentence of the first rank that noticed), here or in a later
 * collective. */
zero_status_t zero_exec_call(zero_exec_t *exec, const zero_exec_call_t *call, zero_error_t *error);
/* recv (world * bytes) gets every rank's bytes of host memory, in rank order. Belongs to the last call that began.
 * Collective. */
zero_status_t zero_exec_exchange(zero_exec_t *exec, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
/* Where a save goes. Both functions run on the save stream's thread. A failure ends the save, and not the exec. */
typedef struct zero_exec_sink {
    void *ctx;
    /* Takes elements [begin, begin + count) of a parameter's state, as its buffer stores them; the last block of a
     * coded format is whole. */
    zero_status_t (*write)(void *ctx, int32_t param, zero_state_t state, int64_t begin, int64_t count,
                           const void *values, zero_error_t *error);
    /* Returns when everything is on the drive. */
    zero_status_t (*sync)(void *ctx, zero_error_t *error);
} zero_exec_sink_t;
/* Runs the plan's program that saves: this rank's own elements go to the sink while training goes on. *sink is copied;
 * one save runs at a time. */
zero_status_t zero_exec_save(zero_exec_t *exec, const zero_exec_sink_t *sink, zero_error_t *error);
/* Whether the save has ended; then *status and *why are its outcome. */
bool zero_exec_saved(zero_exec_t *exec, zero_status_t *status, zero_error_t *why);
/* Host waits until it has ended, or for so many seconds. Fails if nothing has been written for the options' timeout. */
zero_status_t zero_exec_wait_saved(zero_exec_t *exec, double seconds, zero_error_t *error);

/* Gives what each rank did alone the same outcome on all of them: *status and *error, in and out, become those of the
 * lowest rank that failed, which the sentence names. Part of the call that began last. Collective. Returns the status
 * of the exchange itself; a failure of it ends the exec. */
zero_status_t zero_exec_agree_on(zero_exec_t *exec, zero_status_t *status, zero_error_t *error);
/* Publishes a failure from outside the exec. Afterwards everything but destroy fails. */
void zero_exec_abort(zero_exec_t *exec, const zero_error_t *why);

/* Tells the other ranks, which would wait for this one, that it cannot allocate these bytes. Returns
 * ZERO_ERR_MEMORY. */
zero_status_t zero_exec_no_memory(zero_comm_t *comm, size_t bytes, zero_error_t *error);

/* Agrees on an outcome: a rank that failed keeps its status; the others get the sentence of the first rank that failed
 * (with ZERO_ERR_MEMORY if it has that, else ZERO_ERR_PEER); ZERO_OK if none failed. Collective, whatever status is. */
zero_status_t zero_exec_agree(zero_comm_t *comm, zero_status_t status, zero_error_t *error);

#endif
