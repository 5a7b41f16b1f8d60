/* SPDX-License-Identifier: Apache-2.0 */
/* job.h - what is to be trained: options with every default resolved, the model's shape, the data. Checked before
 * anything runs. */
#ifndef TRAIN_JOB_H
#define TRAIN_JOB_H

#include "train/config.h"
#include "train/data.h"
#include "train/options.h"
#include "train/schedule.h"

typedef struct job {
    options_t o;            /* resolved: what is still unset has no value */
    const config_t *config; /* what o was read from; NULL: the command line alone */
    int world;
    bool folder; /* --model is a Hugging Face folder */
    bool shape;  /* --model is a config.json alone: values from --seed */
    bool corpus; /* the built-in corpus */
    bool eval;   /* there are evaluations */
    bool logs;   /* rank 0 writes a log: all measure for it. Known after job_agree */
    zero_model_config_t model;
    data_t *data, *eval_data; /* eval_data NULL: none */
    int64_t windows;          /* of data */
    int64_t local;            /* sequences of a step on this rank, in micro_steps of o.micro_batch */
    int micro_steps;
    schedule_t schedule;
} job_t;

/* Resolves job->o for world ranks of threads threads (where --threads does not say) and opens the data. Errors name the
 * option, the value found and the value wanted. The parent checks what costs time (every token used, the tensors of a
 * model's folder); ranks that it starts need not again. */
zero_status_t job_resolve(job_t *job, int world, int threads, bool thorough, zero_error_t *error);
void job_close(job_t *job);

/* Compares options, model and data over the ranks: ZERO_ERR_MISMATCH names the first rank and the option that differ.
 * Collective. */
zero_status_t job_agree(job_t *job, zero_comm_t *comm, zero_error_t *error);

/* Ranks to start: what --ranks says, or one for each GPU that the options would use, or 2. */
int job_ranks(const options_t *options);

#endif
