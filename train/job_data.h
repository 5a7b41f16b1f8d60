/* SPDX-License-Identifier: Apache-2.0 */
/* job_data.h - the data of a job: files, tokenizer, conversations, rows; and what samples begin with. */
#ifndef TRAIN_JOB_DATA_H
#define TRAIN_JOB_DATA_H

#include "train/job.h"

/* Resolves the data, evaluation and sample options, and opens the data. tiny: the built-in model. thorough: as in
 * job_resolve. */
zero_status_t job_resolve_data(job_t *job, bool tiny, bool thorough, zero_error_t *error);

#endif
