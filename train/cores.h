/* SPDX-License-Identifier: Apache-2.0 */
/* cores.h - the number of threads of a rank, from the cores that it may run on, the quota of its control groups, and
 * OpenMP's settings. */
#ifndef TRAIN_CORES_H
#define TRAIN_CORES_H

#include "zero/zero.h"

/* The number of cores that this process may use, at least 1: its CPU affinity, limited by the quota of its control
 * groups. */
int cores_here(void);
/* Threads of each rank if this many ranks share the cores: at least 1, and at most the limit in OpenMP's settings. */
int cores_threads(int ranks);
/* ZERO_ERR_ARG if OpenMP's settings do not allow a rank this many threads. */
zero_status_t cores_check(int64_t threads, zero_error_t *error);
/* Threads of this rank: cores and quota, divided by the ranks that share them. local: this rank's index among the ranks
 * of its machine. Collective. */
zero_status_t cores_neighbours(zero_comm_t *comm, int *threads, int *local, zero_error_t *error);
/* Divides the ranks into groups of consecutive ones. *most: the most machines that a group is on. Collective. */
zero_status_t cores_machines(zero_comm_t *comm, int group, int *most, zero_error_t *error);
/* The same for the machine of each rank. group divides world. */
int cores_spread(const uint64_t *machines, int world, int group);

#endif
