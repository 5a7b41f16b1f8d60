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
    zero_spec_t spec; /* complete at commit; owned */
    int32_t unit_capacity, param_capacity, pass_capacity, reserve_capacity;
    int32_t use_capacity; /* of the pass to which a use was last added */
    int32_t use_pass;
    int32_t collective_capacity; /* of the pass to which a collective was last added */
    int32_t collective_pass;

    /* engine_tensors.h; NULL before commit */
    struct zero_tensor *tensors;
    int32_t tensor_count, *tiles, *tile_of; /* tile_of: by parameter, its place in tiles */

    zero_plan_t **plans;            /* of the stages of the pipeline, or one; NULL before commit */
    zero_plan_t *plan;              /* of this rank's stage: one of them */
    uint64_t plan_hash;             /* of all plans; 0 before commit */
    zero_exec_t *exec;              /* NULL before commit, and with plan_world */
    zero_exec_t *_Atomic committed; /* exec, for zero_abort during another call */
    bool commit_tried;

    /* The position in training. */
    int32_t pass;             /* of the open micro-step, or -1 */
    int32_t any_unit;         /* the unit held in an any-order pass, or -1 */
    int micro_done;           /* micro-steps of this step that have ended */
    bool last_open, step_due; /* the open micro-step is the last of its step; the last one has ended and zero_step is
                               * due */
    int32_t task;             /* the task of the pass that has begun; -1: none has, or the pass is not run by tasks */
    bool by_tasks;            /* the open pass began with zero_tasks_begin */
    bool gradients_complete;  /* reduced, and not yet overwritten by the next step or an update */

    atomic_uintptr_t busy;            /* the thread inside a public function, or 0 */
    atomic_uintptr_t refused_thread;  /* the last thread whose call was refused while busy, or 0; for zero_last_error */
    pthread_mutex_t callback_lock;    /* taken by config.update and config.matrix if they work on the host, perhaps on a
                                       * device's thread */
    atomic_uintptr_t callback_thread; /* the thread that holds callback_lock, or 0 */
    _Atomic uint32_t signals;
    uint64_t entered_ns, total_ns;
    bool traced;              /* a trace is on */
    struct zero_saver *saver; /* NULL before zero_save_open */
    zero_status_t failed;     /* if not ZERO_OK, only destroy works; error says why */
    zero_error_t error;       /* the last failure */
};

/* Only one public function at a time works on an engine. ZERO_ENTRY(entry) keeps what zero_engine_enter takes until the
 * scope ends. */
typedef struct zero_entry {
    zero_engine_t *engine; /* NULL: not entered */
} zero_entry_t;
void zero_entry_end(zero_entry_t *entry);
#define ZERO_ENTRY(entry) __attribute__((cleanup(zero_entry_end))) zero_entry_t entry = {NULL}

/* Begins a public call. Returns ZERO_OK, the failure that ended this engine before, or ZERO_ERR_ORDER if another call
 * is running. engine may be NULL (ZERO_ERR_ARG). */
zero_status_t zero_engine_enter(zero_entry_t *entry, zero_engine_t *engine);
/* The same for declarations, which come before zero_commit. what: the function's name. */
zero_status_t zero_engine_enter_declaring(zero_entry_t *entry, zero_engine_t *engine, const char *what);
/* The same for calls that need a committed engine that can run. what: the function's name. */
zero_status_t zero_engine_enter_running(zero_entry_t *entry, zero_engine_t *engine, const char *what);
/* The same for calls with a unit, which is checked too. did: what the call does to it, such as "acquired". */
zero_status_t zero_engine_enter_unit(zero_entry_t *entry, zero_engine_t *engine, const char *what, const char *did,
                                     zero_unit_t unit);
/* Ends a public call: counts its time, and ends the engine if status is more than misuse. Returns status. */
zero_status_t zero_engine_leave(zero_engine_t *engine, zero_status_t status);

/* Whether the id exists; if not, sets engine->error. */
bool zero_engine_has_unit(zero_engine_t *engine, zero_unit_t unit);
bool zero_engine_has_pass(zero_engine_t *engine, zero_pass_t pass);

/* Begins a pass, by tasks or by units; ends it. */
zero_status_t zero_engine_begin(zero_engine_t *engine, zero_pass_t pass, uint32_t flags, bool by_tasks);
zero_status_t zero_engine_end(zero_engine_t *engine);

/* ZERO_ERR_ORDER in the middle of a step. what is the function's name. */
zero_status_t zero_engine_between_steps(zero_engine_t *engine, const char *what);

/* Frees the plans. */
void zero_engine_free_plans(zero_engine_t *engine);

/* Frees what zero_save_open made. Accepts NULL. Once the exec is destroyed. */
void zero_saver_destroy(struct zero_saver *saver);

/* Compares the ranks' declarations, options and results of planning (status, with *error). Every rank gets the same
 * outcome. */
zero_status_t zero_engine_compare(zero_engine_t *engine, zero_status_t status, zero_error_t *error);

#endif
