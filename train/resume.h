/* SPDX-License-Identifier: Apache-2.0 */
/* resume.h - the options of checkpoints before training: when to save, and what to resume from. */
#ifndef TRAIN_RESUME_H
#define TRAIN_RESUME_H

#include "train/job.h"

/* Checks --save, --save-every, --keep and --resume, sets what job has of them, and opens the checkpoint to resume from,
 * which stays job's. thorough: also looks for checkpoints in --save that this run would not continue. */
zero_status_t resume_resolve(job_t *job, bool thorough, zero_error_t *error);

/* Checks that the folder of --save can hold checkpoints, or can be created. Creates nothing. */
zero_status_t resume_check_save(const options_t *options, zero_error_t *error);

/* The failure of --resume for a cause. If the checkpoint is damaged, no other one replaces it: the sentence then says
 * which whole one is the newest before it. step: of the checkpoint; INT64_MAX: it could not be opened. */
zero_status_t resume_fail(const options_t *options, int64_t step, zero_status_t status, const zero_error_t *why,
                          zero_error_t *error);

#endif
