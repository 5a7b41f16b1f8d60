/* SPDX-License-Identifier: Apache-2.0 */
/* train.h - the two jobs of the ranks: train, and compare the stages. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "train/launch.h"
#include "train/log.h"
#include "train/progress.h"
#include "train/run.h"
#include "train/tensorboard.h"
#include "train/trace.h"

#include <stdatomic.h>

typedef struct saves {
    bool running;      /* one is being written */
    int64_t step;      /* of the last one that began; before that, of the checkpoint that the run began from */
    uint64_t base;     /* adapters_base of a run with adapters, on rank 0 */
    double begun_at;   /* when; before that, when training began */
    char path[4096];   /* of the last one that is whole; "": none */
    char failure[800]; /* the sentence of the last one, if it failed; else "" */
} saves_t;

typedef struct session session_t;
struct session {
    const job_t *job;
    place_t place;
    launch_t *launch;                   /* NULL: another program is the parent */
    atomic_int *stop;                   /* the signal that asked this rank to stop, 0: none */
    void (*catch_signals)(session_t *); /* called when training starts; before, a signal ends the process at once */
    log_t *log;                         /* open from the first step on; only rank 0's log has a file */
    tensorboard_t *board;               /* as the log; NULL: none */
    trace_t *trace;                     /* open from the first step on; NULL: none */
    zero_checkpoint_t *checkpoint;      /* to load before the first step; NULL: none, or it is loaded */
    saves_t saves;
    bool training;    /* false: a failure happened before training */
    int signal;       /* that ended the run, 0: none */
    char cursor[400]; /* the point where the engine stopped */
};

/* Trains to the last step, or to the step after which a rank was asked to stop. Collective. */
zero_status_t train(session_t *session, zero_error_t *error);
/* Runs stages 0 to 3 on the same steps. ZERO_ERR_MISMATCH if numbers that must be equal differ. Collective. */
zero_status_t compare_stages(session_t *session, zero_error_t *error);

/* Writes the model to --export, prints a line and logs the event. step: the steps taken. Collective. */
zero_status_t export_model(session_t *session, run_t *run, int64_t step, progress_t *progress, zero_error_t *error);

/* Opens the log and writes the start event. */
zero_status_t session_start(session_t *session, const run_t *run, zero_error_t *error);

#endif
