/* SPDX-License-Identifier: Apache-2.0 */
/* adapters.h - low-rank adapters of a frozen base: their options, and what checkpoints say about them. A checkpoint has
 * the adapters, and a hash of the base, whose values it leaves out. */
#ifndef TRAIN_ADAPTERS_H
#define TRAIN_ADAPTERS_H

#include "train/job.h"

#include <jansson.h>

/* If --model is a folder of adapters (peft's), it becomes job->adapters, and the folder of their base --model. */
zero_status_t adapters_open(job_t *job, zero_error_t *error);
/* Resolves the options, for the model that was read: sets job->lora. */
zero_status_t adapters_resolve(job_t *job, zero_error_t *error);
/* Whether the checkpoint of --resume, if there is one, has adapters as the options say, and of the same base. */
zero_status_t adapters_check(const job_t *job, zero_error_t *error);

/* A hash of some numbers from the middle of each tensor in --model's folder, and in that of the adapters. */
zero_status_t adapters_contents(const job_t *job, uint64_t *hash, zero_error_t *error);
/* A hash of what the base is: its configuration, and some of its values or the seed that they follow from. It is the
 * same for every dtype. */
zero_status_t adapters_base(const job_t *job, uint64_t *hash, zero_error_t *error);
/* What a checkpoint says about its adapters, for adapters_check. NULL: no memory, or the run has none. */
json_t *adapters_record(const job_t *job, uint64_t base);

#endif
