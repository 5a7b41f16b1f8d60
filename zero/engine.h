/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - what the engine's files share. */
#ifndef ZERO_ENGINE_H
#define ZERO_ENGINE_H

#include "zero/exec/exec.h"

#include <pthread.h>
#include <stdatomic.h>

struct zero_engine {
    zero_config_t config;
    int rank, world;
    zero_spec_t spec; /* grows until commit; owned */
    int32_t unit_capacity, param_capacity, pass_capacity, reserve_capacity;
    int32_t use_capacity; /* of the pass that uses were last added to */
    int32_t use_pass;

    zero_plan_t *plan;              /* NULL before commit */
    zero_exec_t *exec;              /* NULL before commit, and with plan_world */
    zero_exec_t *_Atomic committed; /* exec, for zero_abort beside a call */
    bool commit_tried;

    /* Where training is. */
    int32_t pass;             /* of the open micro-step, or -1 */
    int32_t any_unit;         /* held in an any-order pass, or -1 */
    int micro_done;           /* micro-steps of this step that have ended */
    bool last_open, step_due; /* the open micro-step is the step's last; the last one has ended and zero_step is due */
    bool gradients_complete;  /* reduced, and not yet overwritten: by the next step's, or by an update */

    atomic_uintptr_t busy; /* the thread whose public function is running, or 0 */
    atomic_uintptr_t
        intruder; /* the thread whose call was refused last because of that, or 0: zero_last_error tells it */
    pthread_mutex_t updating; /* config.update works on the host in one thread at a time, perhaps one of the device's */
    atomic_uintptr_t guest;   /* the thread that does, or 0 */
    _Atomic uint32_t signals;
    uint64_t entered_ns, total_ns;
    zero_status_t failed; /* not ZERO_OK: only destroy works; error is why */
    zero_error_t error;   /* the last failure's sentence */
};

/* One public function at a time works on an engine. ZERO_ENTRY(entry) in a function's scope holds what
 * zero_engine_enter takes, until it returns. */
typedef struct zero_entry {
    zero_engine_t *engine; /* NULL: not entered */
} zero_entry_t;
void zero_entry_end(zero_entry_t *entry);
#define ZERO_ENTRY(entry) __attribute__((cleanup(zero_entry_end))) zero_entry_t entry = {NULL}

/* Begins a public call: ZERO_OK, the failure that ended this engine before, or ZERO_ERR_ORDER where another call is
 * running. engine may be NULL (ZERO_ERR_ARG). */
zero_status_t zero_engine_enter(zero_entry_t *entry, zero_engine_t *engine);
/* The same, for calls that need a committed engine that can run. what is the function's name. */
zero_status_t zero_engine_enter_running(zero_entry_t *entry, zero_engine_t *engine, const char *what);
/* The same, for calls with a unit, which is checked too. did is what they do to it: "acquired". */
zero_status_t zero_engine_enter_unit(zero_entry_t *entry, zero_engine_t *engine, const char *what, const char *did,
                                     zero_unit_t unit);
/* Ends a public call that was entered: keeps time, and ends the engine where status is more than a misuse. Returns
 * status. */
zero_status_t zero_engine_leave(zero_engine_t *engine, zero_status_t status);

/* Whether the id was handed out; a sentence in engine->error where not. */
bool zero_engine_has_unit(zero_engine_t *engine, zero_unit_t unit);
bool zero_engine_has_param(zero_engine_t *engine, zero_param_t param);
bool zero_engine_has_pass(zero_engine_t *engine, zero_pass_t pass);

/* Compares the declarations and options of the ranks, and how planning went (status, its sentence in *error): the same
 * outcome on every rank. */
zero_status_t zero_engine_compare(zero_engine_t *engine, zero_status_t status, zero_error_t *error);

#endif
