/* SPDX-License-Identifier: Apache-2.0 */
/* flat_cpu.c - see flat_levels.h. */
#include "tests/flat_levels.h"

const char *const flat_levels[] = {"ref", "scalar", "avx2", "avx512"};
const int flat_level_count = sizeof flat_levels / sizeof flat_levels[0], flat_most_threads = 4;

const zero_flat_ops_t *flat_level(const char *name)
{
    return zero_flat_find(name);
}

int flat_start(void)
{
    return 1;
}
