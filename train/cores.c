/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/cores.h"
#include "train/cgroup.h"
#include "kernels/nn/nn.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* Cores on which the scheduler may run this process. */
static int affinity(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* the machine has more cores than a cpu_set_t holds */
    return online > 0 ? (int)online : 1;
}

/* The number of cores for a quota: 1.5 processors give 2 cores, 1.4 give one. */
static int worth(double processors)
{
    return processors < 1.5 ? 1 : processors > 1 << 20 ? 1 << 20 : (int)lround(processors);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

int cores_here(void)
{
    return least(affinity(), worth(cgroup_processors("")));
}

/* Threads of a rank if on_cores ranks may run on the same cores and on_quota ranks share a quota. */
static int threads_of(int on_cores, int on_quota)
{
    char why[96];
    int each = affinity() / on_cores > 1 ? affinity() / on_cores : 1;
    return least(least(each, worth(cgroup_processors("") / on_quota)), zero_nn_threads_most(why, sizeof why));
}

int cores_threads(int ranks)
{
    return threads_of(ranks, ranks);
}

zero_status_t cores_check(int64_t threads, zero_error_t *error)
{
    char why[96];
    int most = zero_nn_threads_most(why, sizeof why);
    if (threads <= most)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_ARG,
        "--threads is %lld, but OpenMP allows a rank %d, because %s: use --threads %d, or change that setting",
        (long long)threads, most, why, most);
}

/* An identity of the kernel: equal for all processes under it, whatever the host names of their containers. */
static uint64_t machine(void)
{
    char text[256] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f == NULL || fgets(text, sizeof text, f) == NULL)
        gethostname(text, sizeof text - 1);
    if (f != NULL)
        fclose(f);
    return XXH64(text, strlen(text), 0);
}

zero_status_t cores_neighbours(zero_comm_t *comm, int *threads, int *local, zero_error_t *error)
{
    /* Ranks share cores if they are on the same machine and may run on the same cores. If a launcher bound each rank to
     * its own cores, it has already divided them. Ranks in the same control groups share a quota. */
    struct where {
        uint64_t machine, cores, groups;
    } own, *all;
    cpu_set_t set;
    int world = zero_comm_size(comm), on_cores = 0, on_quota = 0;
    memset(&set, 0, sizeof set);
    sched_getaffinity(0, sizeof set, &set);
    own = (struct where){machine(), XXH64(&set, sizeof set, 0), cgroup_identity()};
    if ((all = calloc((size_t)world, sizeof *all)) == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the machines of %d ranks", world);
    zero_status_t status = zero_comm_exchange(comm, &own, all, sizeof own, error);
    *local = 0;
    for (int r = 0; r < world && status == ZERO_OK; r++) {
        bool here = all[r].machine == own.machine;
        on_cores += here && all[r].cores == own.cores;
        on_quota += here && all[r].groups == own.groups;
        *local += here && r < zero_comm_rank(comm);
    }
    free(all);
    if (status == ZERO_OK)
        *threads = threads_of(on_cores, on_quota);
    return status;
}

int cores_spread(const uint64_t *machines, int world, int group)
{
    int most = 0;
    for (int first = 0; first < world; first += group) {
        int count = 0;
        for (int r = first; r < first + group; r++) {
            int before = first;
            while (before < r && machines[before] != machines[r])
                before++;
            count += before == r;
        }
        most = count > most ? count : most;
    }
    return most;
}

zero_status_t cores_machines(zero_comm_t *comm, int group, int *most, zero_error_t *error)
{
    const int world = zero_comm_size(comm);
    const uint64_t own = machine();
    uint64_t *all = calloc((size_t)world, sizeof *all);
    if (all == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the machines of %d ranks", world);
    zero_status_t status = zero_comm_exchange(comm, &own, all, sizeof own, error);
    if (status == ZERO_OK)
        *most = cores_spread(all, world, group);
    free(all);
    return status;
}
