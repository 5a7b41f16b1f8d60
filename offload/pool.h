/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h - where host memory lies: on the NUMA node of those who use it, and out of reach of swapping. Both are
 * improvements that not every system grants: where one does not, that is logged and said in the result, and is no
 * error. */
#ifndef ZERO_OFFLOAD_POOL_H
#define ZERO_OFFLOAD_POOL_H

#include "zero/base/base.h"

/* Moves the pages of [base, base + bytes), both multiples of the system's page, to where they are used: beside the
 * device at pci ("0000:3b:00.0"), or, with NULL, to the nodes of the CPUs on which the calling thread may run. One node
 * is preferred and, when it is full, others help; several share the pages in turns. *nodes: how many nodes hold them
 * now by that rule; 0: they stay where they are (logged: no hwloc in this build, a container that refuses, a device
 * that is not there). A machine with a single node has nothing to do and gives 1. The contents stay. */
zero_status_t zero_host_place(void *base, uint64_t bytes, const char *pci, int *nodes, zero_log_fn log, void *log_ctx,
                              zero_error_t *error);

/* Locks the pages of [base, base + bytes) in memory, whole and resident. *locked: false where the limit on locked
 * memory forbids it (logged, with the limit). ZERO_ERR_ARG: the range is not all mapped. */
zero_status_t zero_host_lock(void *base, uint64_t bytes, bool *locked, zero_log_fn log, void *log_ctx,
                             zero_error_t *error);
/* Undoes zero_host_lock. Unmapping does, too. */
void zero_host_unlock(void *base, uint64_t bytes);

#endif
