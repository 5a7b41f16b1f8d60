/* SPDX-License-Identifier: Apache-2.0 */
/* pool.h - places host memory on the NUMA node of its users and locks it against swapping. Both are optimizations that
 * a system may refuse. A refusal is not an error: it is logged and reported in the result. */
#ifndef ZERO_OFFLOAD_POOL_H
#define ZERO_OFFLOAD_POOL_H

#include "zero/base/base.h"

/* Moves the pages of [base, base + bytes), both multiples of the page size, near the device at pci ("0000:3b:00.0"). If
 * pci is NULL, moves them to the nodes of the CPUs on which the calling thread may run. One node is preferred; when it
 * is full, others take the rest. Several nodes share the pages in turns. *nodes receives the number of nodes that then
 * hold them, or 0 if they did not move (logged: no hwloc in this build, a container that refuses, a missing device). On
 * a machine with one node it does nothing and gives 1. The contents stay. */
zero_status_t zero_host_place(void *base, uint64_t bytes, const char *pci, int *nodes, zero_log_fn log, void *log_ctx,
                              zero_error_t *error);

/* Locks the pages of [base, base + bytes) in memory, all resident. *locked is false if the limit on locked memory
 * forbids it (logged with the limit). ZERO_ERR_ARG: part of the range is not mapped. */
zero_status_t zero_host_lock(void *base, uint64_t bytes, bool *locked, zero_log_fn log, void *log_ctx,
                             zero_error_t *error);
/* Undoes zero_host_lock. Unmapping does, too. */
void zero_host_unlock(void *base, uint64_t bytes);

#endif
