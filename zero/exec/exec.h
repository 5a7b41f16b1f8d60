/* SPDX-License-Identifier: Apache-2.0 */
/* exec.h - runs a plan: one loop over operations with a cursor. No policy of its own; it never asks what is sharded. */
#ifndef ZERO_EXEC_EXEC_H
#define ZERO_EXEC_EXEC_H

#include "kernels/flat/flat.h"
#include "zero/comm/comm.h"
#include "zero/device/device.h"
#include "zero/plan/plan.h"

typedef struct zero_exec zero_exec_t;

/* A call that every rank makes at the same place among its calls. */
typedef enum zero_exec_call_kind {
    ZERO_CALL_PASS = 0,
    ZERO_CALL_STEP,
    ZERO_CALL_SUM,
    ZERO_CALL_WHOLE,
    ZERO_CALL_FILL
} zero_exec_call_kind_t;
typedef struct zero_exec_call {
    int32_t kind;
    int32_t index;   /* PASS: which; SUM: how many values; WHOLE, FILL: the parameter (-1: one that there is not) */
    int32_t detail;  /* PASS: the unit of an any-order pass, or -1; WHOLE: 1 for set, 0 for get */
    int32_t program; /* PASS, STEP: which; else -1 */
} zero_exec_call_t;

/* Arenas, streams, events and channels for a plan that was checked. Collective over config->comm (duplicated by split,
 * one per group and channel). *config is copied; plan, device and comm are borrowed. ZERO_ERR_MEMORY with the numbers,
 * before anything is reserved, on every rank alike. */
zero_status_t zero_exec_create(zero_exec_t **exec, const zero_plan_t *plan, const zero_config_t *config,
                               zero_error_t *error);
void zero_exec_destroy(zero_exec_t *exec);

/* Address of a buffer on this rank. */
void *zero_exec_address(zero_exec_t *exec, int32_t buffer);

/* Puts the cursor at the start of a program and runs its operations up to the first USE, or to one that would make the
 * caller wait. The program before must have ended. */
zero_status_t zero_exec_begin(zero_exec_t *exec, int32_t program, zero_error_t *error);
/* Runs every operation up to and including the next USE of the unit (grad uses that are passed over stay zero). */
zero_status_t zero_exec_use(zero_exec_t *exec, int32_t unit, zero_error_t *error);
/* Runs the RELEASE of that use (once those that come before it in the plan are released too) and the operations after
 * it, up to the next USE, the RELEASE of a use that is held, or one that would make the caller wait. */
zero_status_t zero_exec_release(zero_exec_t *exec, int32_t unit, zero_error_t *error);
/* Runs what is left of the program. */
zero_status_t zero_exec_end(zero_exec_t *exec, zero_error_t *error);

/* The compute stream as kernels take it. */
void *zero_exec_stream(zero_exec_t *exec);
/* Host waits for what is queued on the compute stream. */
zero_status_t zero_exec_wait(zero_exec_t *exec, zero_error_t *error);
/* Bytes of the host into a buffer, from its byte offset on, or back; done on return. The streams must have run dry. */
zero_status_t zero_exec_write(zero_exec_t *exec, int32_t buffer, uint64_t offset, const void *src, uint64_t bytes,
                              zero_error_t *error);
zero_status_t zero_exec_read(zero_exec_t *exec, int32_t buffer, uint64_t offset, void *dst, uint64_t bytes,
                             zero_error_t *error);
/* Host waits until every stream has run dry. */
zero_status_t zero_exec_sync(zero_exec_t *exec, zero_error_t *error);

/* Rate and signal bits for the next step's exchange; the outcome of the last one (waits for it). */
void zero_exec_set_rate(zero_exec_t *exec, double lr);
void zero_exec_signal(zero_exec_t *exec, uint32_t bits);
zero_status_t zero_exec_stats(zero_exec_t *exec, zero_stats_t *stats, zero_error_t *error);
/* Numbers of steps taken and of updates applied. Not while a step runs. */
zero_status_t zero_exec_set_step(zero_exec_t *exec, int64_t step, int64_t applied, zero_error_t *error);

/* Resident bytes of each kind's range, as the device and the communicator read them from the system; external: process
 * RSS minus those. */
zero_status_t zero_exec_measure(zero_exec_t *exec, zero_memory_t *memory, zero_error_t *error);

/* values[i] becomes the sum over the ranks, in rank order; n, 0 to 64, is the same on every rank (ZERO_ERR_MISMATCH).
 * Collective. */
zero_status_t zero_exec_sum(zero_exec_t *exec, double *values, int n, zero_error_t *error);
/* A call begins that is no program: what is exchanged from now on is compared as its part. Ranks that make different
 * calls get ZERO_ERR_MISMATCH (or ZERO_ERR_PEER with the sentence of the first that saw it), here or in a later
 * collective. */
zero_status_t zero_exec_call(zero_exec_t *exec, const zero_exec_call_t *call, zero_error_t *error);
/* recv (world * bytes) gets every rank's bytes of host memory, in rank order; part of the call that began last.
 * Collective. */
zero_status_t zero_exec_exchange(zero_exec_t *exec, const void *send, void *recv, uint64_t bytes, zero_error_t *error);
/* Publishes a failure that is not of the exec's own making. Everything but destroy fails after. */
void zero_exec_abort(zero_exec_t *exec, const zero_error_t *why);

/* Tells the other ranks, which would wait for this one, that it cannot allocate so many bytes. Returns ZERO_ERR_MEMORY.
 */
zero_status_t zero_exec_no_memory(zero_comm_t *comm, size_t bytes, zero_error_t *error);

/* The same outcome on every rank: status where it is a failure; else the first rank's that failed, with its sentence
 * (ZERO_ERR_MEMORY as it is, anything else as ZERO_ERR_PEER); else ZERO_OK. Collective, whatever status is. */
zero_status_t zero_exec_agree(zero_comm_t *comm, zero_status_t status, zero_error_t *error);

#endif
