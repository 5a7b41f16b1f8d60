/* SPDX-License-Identifier: Apache-2.0 */
/* cores.h - how many threads a rank has: the cores that it may run on, the quota of its control groups, OpenMP's
 * settings. */
#ifndef TRAIN_CORES_H
#define TRAIN_CORES_H

#include "zero/zero.h"

/* Cores that this process may use, at least 1: those that it may run on, or fewer where its control groups have a
 * quota. */
int cores_here(void);
/* Threads of each of so many ranks that share these cores, at least 1, and at most what OpenMP's settings allow. */
int cores_threads(int ranks);
/* ZERO_ERR_ARG where OpenMP's settings do not allow a rank so many threads. */
zero_status_t cores_check(int64_t threads, zero_error_t *error);
/* Threads of this rank: cores and quota over the ranks that share them. local: its number among the ranks of its
 * machine. Collective. */
zero_status_t cores_neighbours(zero_comm_t *comm, int *threads, int *local, zero_error_t *error);

#endif
