/* SPDX-License-Identifier: Apache-2.0 */
/* ranks.h - runs a function on several ranks. Each rank is a process that shares a bootstrap with the others. */
#ifndef ZERO_TESTS_RANKS_H
#define ZERO_TESTS_RANKS_H

#include "zero/zero.h"

#include <stddef.h>

/* The function of one rank. Returns 0 on success. The bootstrap lives until it returns. */
typedef int (*ranks_fn)(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg);

/* Forks world children, which call fn and exit with its result (_exit: no handlers of the parent run). Returns 0 if
 * every child exits with 0; otherwise prints to stderr which rank failed and how (result, signal, timeout), and returns
 * -1. After timeout_s seconds (times CK_TIMEOUT_MULTIPLIER, if the environment has it) it kills the remaining children.
 * A failed child does not end the others: they must notice the failure themselves. A child dies with its parent. */
int ranks_run(int world, double timeout_s, ranks_fn fn, void *arg);

/* As ranks_run, for tests in which ranks fail on purpose. Writes each rank's wait status (as from waitpid; SIGKILL
 * after a timeout) to status[world] and prints nothing. Returns 0, or -1 after a timeout. */
int ranks_run_status(int world, double timeout_s, ranks_fn fn, void *arg, int *status);

/* Zeroed memory that the parent shares with the children of later ranks_run calls. Ends the test program if it cannot
 * be allocated. */
void *ranks_shared(size_t bytes);
void ranks_unshare(void *memory, size_t bytes);

#endif
