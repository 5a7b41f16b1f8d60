/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - a model on an engine: steps, evaluations, samples, memory, and the hash of its parameters. */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "train/place.h"

#include <stdatomic.h>

typedef struct run {
    const job_t *job;
    place_t place; /* borrowed, but the device of a plan */
    int rank;
    zero_engine_t *engine;
    zero_model_t *model;
    int32_t *tokens, *targets; /* (micro_batch, T) */
    double own_loss;           /* of the last step: the mean over this rank's targets */
    struct {                   /* steps that were skipped since the last one that was not */
        int64_t count, first;
        double own_loss; /* of the first */
        char unit[64];   /* where it was first not finite */
    } skipped;
    char cursor[400]; /* where the engine stopped, in its own words */
} run_t;

/* Plans job at a stage for job->world ranks; nothing runs. For GPUs it needs one, whose libraries say what workspace
 * their kernels take. */
zero_status_t run_plan(run_t *run, const job_t *job, int stage, zero_error_t *error);
/* The same with everything allocated and initial values in place. Collective. */
zero_status_t run_open(run_t *run, const job_t *job, const place_t *place, int stage, zero_error_t *error);
/* Accepts what run_plan and run_open left, also when they failed. Collective unless something failed. */
void run_close(run_t *run);

/* *error = what the engine said; returns status. */
zero_status_t run_engine_error(const run_t *run, zero_status_t status, zero_error_t *error);

/* Step s (from 0) at a rate: loss is the mean over all ranks' targets. *stop: the signal that asked this rank to stop,
 * 0: none; all ranks learn of it as that bit of stats->signals. */
zero_status_t run_step(run_t *run, int64_t s, double lr, const atomic_int *stop, double *loss, zero_stats_t *stats,
                       zero_error_t *error);
/* Fails where --max-skipped steps in a row were skipped, or all of --steps; step: from 1, the last one taken.
 * Collective. */
zero_status_t run_check_skipped(run_t *run, int64_t step, const zero_stats_t *stats, zero_error_t *error);
/* Mean loss of windows 0 ... min(W, eval-batches * G) - 1 of the evaluation data. */
zero_status_t run_eval(run_t *run, double *loss, zero_error_t *error);

/* What a rank's arenas hold by the plan, and as measured: the largest over the ranks. equal: whether the two are the
 * same for every kind on every rank. */
zero_status_t run_memory(run_t *run, zero_memory_t *forecast, zero_memory_t *measured, bool *equal,
                         zero_error_t *error);

/* XXH64 (seed 0) of the fp32 master weights in order of names, elements in order: the same for every stage and world
 * size that trained the same. Only the state of the hash travels between the ranks: each adds what it owns. Collective.
 */
zero_status_t run_hash(run_t *run, uint64_t *hash, zero_error_t *error);

/* Prints samples under a heading (rank 0 only, unless quiet). Collective. */
zero_status_t run_sample(run_t *run, const char *heading, zero_error_t *error);

#endif
