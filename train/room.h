/* SPDX-License-Identifier: Apache-2.0 */
/* room.h - whether this machine has room for the ranks that are to be started on it: memory and processes. */
#ifndef TRAIN_ROOM_H
#define TRAIN_ROOM_H

#include "train/job.h"

/* ZERO_ERR_MEMORY where job->world ranks have no room, naming the largest number that has. given: the options before
 * job_resolve chose values for this number of ranks. What cannot be found out limits nothing. */
zero_status_t room_check(const options_t *given, const job_t *job, zero_error_t *error);

#endif
