/* SPDX-License-Identifier: Apache-2.0 */
/* room.h - checks that this machine has room for the ranks to start: memory and processes. */
#ifndef TRAIN_ROOM_H
#define TRAIN_ROOM_H

#include "train/job.h"

/* ZERO_ERR_MEMORY if job->world ranks do not fit; the sentence names the largest number that fits. given: the options
 * before job_resolve chose values for this number of ranks. Limits that cannot be read count as unlimited. */
zero_status_t room_check(const options_t *given, const job_t *job, zero_error_t *error);

#endif
