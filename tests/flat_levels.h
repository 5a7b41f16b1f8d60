/* SPDX-License-Identifier: Apache-2.0 */
/* flat_levels.h - the tables that test_flat.c tests: the processor's (flat_cpu.c) or CUDA's (flat_cuda.c). */
#ifndef ZERO_TESTS_FLAT_LEVELS_H
#define ZERO_TESTS_FLAT_LEVELS_H

#include "kernels/flat/flat.h"

extern const char *const flat_levels[];
extern const int flat_level_count;
/* Tests use 0 to this many threads. */
extern const int flat_most_threads;

/* The table of that name; NULL if this machine lacks it. Its functions take host memory and return after the work is
 * done. */
const zero_flat_ops_t *flat_level(const char *name);
/* Whether there are tables to test. */
int flat_start(void);

#endif
