/* SPDX-License-Identifier: Apache-2.0 */
/* ranks.h - runs a function on several ranks, each a process of its own that shares a bootstrap with the others. */
#ifndef ZERO_TESTS_RANKS_H
#define ZERO_TESTS_RANKS_H

#include "zero/zero.h"

#include <stddef.h>

/* What one rank does. Returns 0 when all is well. The bootstrap lives until it returns. */
typedef int (*ranks_fn)(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg);

/* Forks world children, which call fn and end with its result (_exit: no handlers of the parent run). Returns 0 when
 * every child ended with 0; otherwise prints to stderr which rank failed and how (result, signal, timeout) and returns
 * -1. After timeout_s seconds what still runs is killed. A child that failed does not end the others: their own waits
 * have to notice. A child dies with its parent. */
int ranks_run(int world, double timeout_s, ranks_fn fn, void *arg);

/* As ranks_run, but writes each rank's wait status (as waitpid gives it; SIGKILL for what was killed by the timeout) to
 * status[world], prints nothing and returns 0, or -1 when the timeout ended it. For tests in which ranks are meant to
 * fail. */
int ranks_run_status(int world, double timeout_s, ranks_fn fn, void *arg, int *status);

/* Zeroed memory that the children of later ranks_run calls share with the parent. Ends the test program when there is
 * none. */
void *ranks_shared(size_t bytes);
void ranks_unshare(void *memory, size_t bytes);

#endif
