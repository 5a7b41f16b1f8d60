/* SPDX-License-Identifier: Apache-2.0 */
/* team.c - the number of threads that OpenMP gives a parallel region. A region may have fewer than num_threads
 * requests: OpenMP's settings limit it, and inside another region it has one. */
#include "kernels/nn/cpu/cpu.h"

#include <omp.h>
#include <stdio.h>

int zero_nn_threads_most(char *why, size_t size)
{
    int limit = omp_get_thread_limit();
    if (omp_in_parallel()) { /* even with nested regions enabled: oneDNN then uses one thread */
        snprintf(why, size, "the call comes from inside an OpenMP parallel region");
        return 1;
    }
    if (omp_get_max_active_levels() < 1) {
        snprintf(why, size, "OMP_MAX_ACTIVE_LEVELS is %d", omp_get_max_active_levels());
        return 1;
    }
    snprintf(why, size, "OMP_THREAD_LIMIT is %d", limit);
    return limit;
}

zero_nn_team_t zero_nn_team_begin(int threads)
{
    zero_nn_team_t before = {.dynamic = omp_get_dynamic(), .threads = omp_get_max_threads()};
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
    return before;
}

void zero_nn_team_end(zero_nn_team_t before)
{
    omp_set_num_threads(before.threads);
    omp_set_dynamic(before.dynamic);
}

int zero_nn_team_count(int threads)
{
    int count = 1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        count = omp_get_num_threads();
    }
    return count;
}
