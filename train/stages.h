/* SPDX-License-Identifier: Apache-2.0 */
/* stages.h - the options of a pipeline. */
#ifndef TRAIN_STAGES_H
#define TRAIN_STAGES_H

#include "train/job.h"

/* Refuses options that do not go with a pipeline, or need one. Sets --chunks. */
zero_status_t stages_check(options_t *o, zero_error_t *error);
/* Sets job->chunk_of from --device-map. Needs the model, --seq-len and job->micro_steps. */
zero_status_t stages_resolve(job_t *job, zero_error_t *error);

#endif
