/* SPDX-License-Identifier: Apache-2.0 */
/* job.h - the training job: options with all defaults resolved, the shape of the model, the data. All are checked
 * before anything runs. */
#ifndef TRAIN_JOB_H
#define TRAIN_JOB_H

#include "train/chat.h"
#include "train/config.h"
#include "train/data.h"
#include "train/options.h"
#include "train/schedule.h"
#include "tokenizer/tokenizer.h"

typedef struct job {
    options_t o;            /* resolved: an option that is still unset has no value */
    const config_t *config; /* the source of o; NULL: only the command line */
    int world;
    bool folder;    /* --model is a Hugging Face folder */
    bool shape;     /* --model is a config.json alone: --seed determines the initial values */
    bool corpus;    /* the built-in corpus */
    bool encoder;   /* the model has one: its data are those of numbers.h, and data and eval_data are NULL */
    int64_t digits; /* with an encoder: the most digits of a number that --seq-len holds; else 0 */
    bool eval;      /* the run has evaluations */
    bool logs; /* rank 0 writes a log or a file for TensorBoard, so all ranks measure for it; valid after job_agree */
    zero_model_config_t model;
    zero_lora_t lora;                    /* rank 0: no adapters */
    char targets[ZERO_LORA_NAMES_BYTES]; /* o.lora_targets of them */
    const char *adapters;        /* the folder that they are read from; NULL: none. o.model is then their base's */
    zero_model_adapters_t given; /* of that folder */
    data_t *data, *eval_data;    /* eval_data NULL: none */
    int64_t conversations[2];    /* of data and eval_data */
    lines_t lines[2];            /* theirs that were left out */
    zero_tokenizer_t *tokenizer; /* NULL: none */
    zero_ids_t prompt;           /* the tokens that samples begin with, or that an encoder reads; empty: no prompt */
    bool untrained;              /* the run only samples: nothing is trained, saved or exported */
    bool numbers;                /* samples are numbers of the built-in corpus */
    int64_t sample_len;          /* tokens of a sample, with those that it begins with; 0: no samples */
    int stage_ranks;             /* ranks of a stage of the pipeline */
    int copies; /* ranks that work on different data: those of a stage; groups of them with --tensor or --context */
    int32_t *chunk_of; /* by layer, an encoder's first: its chunk of the pipeline; NULL: there is none */
    int64_t local;     /* sequences of a step on this rank, in micro_steps of o.micro_batch */
    int micro_steps;
    schedule_t schedule;
    int64_t save_steps;            /* --save-every in steps; 0: not in steps */
    double save_seconds;           /* --save-every in time; 0: not in time */
    bool resumed;                  /* --resume has a checkpoint */
    int64_t first;                 /* the steps of that checkpoint; 0: training begins anew */
    zero_checkpoint_t *checkpoint; /* that one; NULL: none, or it was handed on */
} job_t;

/* Resolves job->o for world ranks, each with threads threads (unless --threads is set), and opens the data. Errors name
 * the option, the value found and the value wanted. thorough: also runs the slow checks (each used token, the tensors
 * of a model folder). The parent runs these, so the ranks that it starts need not repeat them. */
zero_status_t job_resolve(job_t *job, int world, int threads, bool thorough, zero_error_t *error);
void job_close(job_t *job);
/* The longest sequence that the model can compute: its positions, or its sliding window. */
int64_t job_longest(const job_t *job);
/* The folder or config.json that the model is read from; NULL: a preset. */
const char *job_source(const job_t *job);

/* Compares options, model and data across ranks. ZERO_ERR_MISMATCH names the first rank and option that differ.
 * Collective. */
zero_status_t job_agree(job_t *job, zero_comm_t *comm, zero_error_t *error);

/* The number of ranks to start: --ranks, or one for each GPU that the options would use, or 2. */
int job_ranks(const options_t *options);

#endif
