/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - a model on an engine: steps, evaluations, samples, memory, and the hash of its parameters. */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "train/place.h"
#include "train/trace.h"

#include <stdatomic.h>

typedef struct run {
    const job_t *job;
    place_t place; /* borrowed, except the device of a plan */
    int rank;
    zero_engine_t *engine;
    zero_model_t *model;
    int part;                           /* this rank's place among those with different data */
    bool counts;                        /* it has the losses, as the first of the ranks of the last stage that work on
                                           the same data; others add 0 */
    bool counts_tokens;                 /* the same, of tokens: ranks with parts of the same sequences read the same */
    zero_model_batch_t *batches;        /* of a pipeline: (micro_steps) */
    int32_t *tokens, *targets, *starts; /* (micro_batch, T); of a pipeline for each micro-step of a step */
    int32_t *source, *source_lengths;   /* of numbers: (micro_batch, digits), (micro_batch); likewise */
    double own_loss;                    /* of the last step: the sum over this rank's targets */
    bool ask, asked; /* the caller wants to save after the next step; a rank wanted it when the last one ended */
    struct {         /* steps skipped since the last step that was not skipped */
        int64_t count, first;
        char unit[64];   /* the unit with the first non-finite value */
        char losses[96]; /* whose loss was not finite at the first, for a sentence */
    } skipped;
    trace_t *trace;   /* NULL: none; borrowed */
    char advice[80];  /* what name_change returned last */
    char cursor[400]; /* the engine's own description of the point where it stopped */
} run_t;

/* Plans job at a stage for job->world ranks; nothing runs. A plan for GPUs requires a GPU, because its libraries report
 * the workspace of their kernels. */
zero_status_t run_plan(run_t *run, const job_t *job, int stage, zero_error_t *error);
/* Like run_plan, but allocates everything and sets the initial values, unless the job resumes a checkpoint. Collective.
 */
zero_status_t run_open(run_t *run, const job_t *job, const place_t *place, int stage, zero_error_t *error);
/* Accepts the result of run_plan and run_open, even if they failed. Collective unless something failed. */
void run_close(run_t *run);

/* Copies the engine's error to *error and returns status. */
zero_status_t run_engine_error(const run_t *run, zero_status_t status, zero_error_t *error);

/* The results of a step, over all ranks. */
typedef struct step {
    double loss;            /* the mean over targets */
    double tokens, targets; /* tokens without padding; targets that count */
    double sources;         /* of the tokens: those that an encoder reads */
    zero_stats_t stats;
} step_t;

/* Runs step s (from 0) at a rate. *stop: the signal that asked this rank to stop, 0: none. All ranks learn it as that
 * bit of step->stats.signals. */
zero_status_t run_step(run_t *run, int64_t s, double lr, const atomic_int *stop, step_t *step, zero_error_t *error);
/* Fails if --max-skipped steps in a row, or all of --steps, were skipped, or one at the smallest dynamic loss scale.
 * step: the last step taken, from 1. Collective. */
zero_status_t run_check_skipped(run_t *run, int64_t step, const zero_stats_t *stats, zero_error_t *error);
/* Mean loss of the targets of rows 0 ... min(W, eval-batches * G) - 1 of the evaluation data, or of the first
 * eval-batches * G numbers that are held out. */
zero_status_t run_eval(run_t *run, double *loss, zero_error_t *error);

/* The bytes in a rank's arenas, planned and measured: the largest over the ranks. equal: whether both agree for each
 * kind on each rank. */
zero_status_t run_memory(run_t *run, zero_memory_t *forecast, zero_memory_t *measured, bool *equal,
                         zero_error_t *error);

/* XXH64 (seed 0) of the fp32 master weights and of frozen parameters, in order of names, elements in order. The hash is
 * the same for all meshes, stages and world sizes with the same values. Only the state of the hash travels between
 * ranks: each rank adds the elements that it owns. Parameters of which a rank owns several ranges are gathered instead,
 * one at a time. Collective. */
zero_status_t run_hash(run_t *run, uint64_t *hash, zero_error_t *error);

/* What sampling took: tokens of all samples, without prompts; seconds, with the prompts. */
typedef struct run_sampled {
    int64_t tokens;
    double seconds;
} run_sampled_t;
/* Prints samples under a heading (on rank 0, unless quiet); no samples if --sample is 0. Collective. */
zero_status_t run_sample(run_t *run, const char *heading, run_sampled_t *sampled, zero_error_t *error);

#endif
