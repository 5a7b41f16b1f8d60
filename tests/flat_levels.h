/* SPDX-License-Identifier: Apache-2.0 */
/* flat_levels.h - which tables test_flat.c is about: those of the processor's (flat_cpu.c), or CUDA's (flat_cuda.c). */
#ifndef ZERO_TESTS_FLAT_LEVELS_H
#define ZERO_TESTS_FLAT_LEVELS_H

#include "kernels/flat/flat.h"

extern const char *const flat_levels[];
extern const int flat_level_count;
/* Numbers of threads that calls are tried with: 0 to this. */
extern const int flat_most_threads;

/* The table of that name: NULL where this machine has not got it. Its functions take the host's memory and return when
 * they are done. */
const zero_flat_ops_t *flat_level(const char *name);
/* Whether there is anything to test. */
int flat_start(void);

#endif
