/* SPDX-License-Identifier: Apache-2.0 */
/* train.h - the two things that ranks do: train, and compare the stages. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "train/launch.h"
#include "train/log.h"
#include "train/run.h"

#include <stdatomic.h>

typedef struct session session_t;
struct session {
    const job_t *job;
    place_t place;
    launch_t *launch;                   /* NULL: the parent is not ours */
    atomic_int *stop;                   /* the signal that asked this rank to stop, 0: none */
    void (*catch_signals)(session_t *); /* called when training starts: before, a signal just ends the process */
    bool terminal;
    log_t *log;       /* open from the first step on; rank 0's alone has a file */
    bool training;    /* false: what fails was found before */
    int signal;       /* that ended the run, 0: none */
    char cursor[400]; /* where the engine stopped */
};

/* Trains to the last step, or to the one after which a rank was asked to stop. Collective. */
zero_status_t train(session_t *session, zero_error_t *error);
/* Stages 0 to 3 on the same steps; ZERO_ERR_MISMATCH where numbers that must be equal are not. Collective. */
zero_status_t compare_stages(session_t *session, zero_error_t *error);

/* Opens the log and writes the start event. */
zero_status_t session_start(session_t *session, const run_t *run, zero_error_t *error);

#endif
