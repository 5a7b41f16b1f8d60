/* SPDX-License-Identifier: Apache-2.0 */
/* comm.c - our all-gather, reduce-scatter and transfer next to MPI's, in one run: `mpiexec -n N bench/comm [hot|cold
 * [FROM TO]]` (bytes). bench/comm.sh runs it with several settings of Open MPI and prints the ratios.
 *
 * Prints a line per case: name of the collective, ranks, bytes of the whole buffer (received by an all-gather, sent by
 * a reduce-scatter, or by each even rank to the next one), microseconds of ours and of MPI's. Each time is the median
 * over the repetitions of the slowest rank's time. Ours and MPI's alternate, and take turns in going first. Both start
 * from one barrier. Each rank writes its send buffer before the barrier, as training does. hot: the same buffers every
 * time. cold: alternating buffers, larger than the caches together and written long before. Buffers use huge pages if
 * available, as the engine's do. */
#define _GNU_SOURCE
#include "zero/comm/comm.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64 << 20, COLD = 256 << 20, HUGE = 2 << 20, REPEATS = 400 };

/* Updates gather whole parameters in place. */
static const char *const collectives[] = {"all-gather", "gather-in-place", "reduce-scatter", "send"};
enum { WHICH = 2 * sizeof collectives / sizeof *collectives }; /* for each collective ours, then MPI's */

static zero_comm_t *comm, *pair; /* pair: NULL on an odd last rank */
static zero_error_t error;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "bench/comm: %s\n", error.text);
    exit(1);
}

static void machine(int ranks)
{
    char line[512], model[256] = "?", version[MPI_MAX_LIBRARY_VERSION_STRING];
    struct utsname u;
    int length;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %255[^\n]", model) == 1)
            break;
    if (f)
        fclose(f);
    uname(&u);
    MPI_Get_library_version(version, &length);
    version[strcspn(version, ",\n")] = 0;
    printf("# %s, %ld cores, L3 %ld MiB, Linux %s, %s, %d ranks\n", model, sysconf(_SC_NPROCESSORS_ONLN),
           sysconf(_SC_LEVEL3_CACHE_SIZE) >> 20, u.release, version, ranks);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The slowest rank's time of one call. */
static double timed(int which, float *send, void *recv, size_t bytes, int cold)
{
    size_t slice = bytes / (size_t)comm->size / 4 * 4;
    double all[64], slowest = 0, start;
    if (which / 2 == 1)
        send = (float *)recv + (size_t)comm->rank * (slice / 4);
    const int to = comm->rank ^ 1;
    for (size_t i = 0; i < (which / 2 < 2 ? slice : bytes) / 4 && !cold; i++)
        send[i] += 0.25f;
    check(zero_comm_exchange(comm, &slowest, all, sizeof slowest, &error));
    start = now();
    switch (which) {
    case 0:
    case 2:
        check(zero_comm_all_gather(comm, send, recv, slice, NULL, &error));
        break;
    case 1:
        MPI_Allgather(send, (int)slice, MPI_BYTE, recv, (int)slice, MPI_BYTE, MPI_COMM_WORLD);
        break;
    case 3:
        MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, recv, (int)slice, MPI_BYTE, MPI_COMM_WORLD);
        break;
    case 4:
        check(zero_comm_reduce_scatter(comm, send, recv, (int64_t)slice / 4, ZERO_FP32, NULL, &error));
        break;
    case 5:
        MPI_Reduce_scatter_block(send, recv, (int)slice / 4, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        break;
    case 6:
        if (pair)
            check(comm->rank & 1 ? zero_comm_recv(pair, recv, bytes, NULL, &error)
                                 : zero_comm_send(pair, send, bytes, NULL, &error));
        break;
    default:
        if (pair && comm->rank & 1)
            MPI_Recv(recv, (int)bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else if (pair)
            MPI_Send(send, (int)bytes, MPI_BYTE, to, 0, MPI_COMM_WORLD);
        break;
    }
    double own = now() - start;
    check(zero_comm_exchange(comm, &own, all, sizeof own, &error));
    for (int r = 0; r < comm->size; r++)
        slowest = all[r] > slowest ? all[r] : slowest;
    return slowest;
}

int main(int argc, char **argv)
{
    int cold = argc > 1 && !strcmp(argv[1], "cold");
    size_t room = cold ? COLD : MOST, from = argc > 3 ? strtoull(argv[2], NULL, 10) : 1024,
           to = argc > 3 ? strtoull(argv[3], NULL, 10) : MOST;
    MPI_Init(&argc, &argv);
    check(zero_comm_mpi(&comm, NULL, NULL, &error));
    check(zero_comm_link(comm, (comm->rank ^ 1) < comm->size ? comm->rank / 2 : -1, 0, &pair, &error));
    float *send = aligned_alloc(HUGE, room), *recv = aligned_alloc(HUGE, room);
    if (!send || !recv || comm->size > 64) {
        fprintf(stderr, "bench/comm: no memory for two buffers of %zu bytes, or more than 64 ranks\n", room);
        return 1;
    }
    madvise(send, room, MADV_HUGEPAGE);
    madvise(recv, room, MADV_HUGEPAGE);
    for (size_t i = 0; i < room / 4; i++)
        send[i] = (float)(i % 1000) * 0.25f;
    memset(recv, 0, room);
    if (comm->rank == 0)
        machine(comm->size);
    for (size_t bytes = from < 1024 ? 1024 : from; bytes <= to && bytes <= MOST; bytes *= 2) {
        static double times[WHICH][REPEATS];
        int repeats = bytes <= 1 << 20 ? REPEATS : bytes <= 8 << 20 ? 60 : 16;
        size_t copies = room / bytes;
        for (int i = 0; i < repeats + 2; i++)
            for (int k = 0; k < WHICH; k++) {
                int which = i & 1 ? k ^ 1 : k; /* the second one finds the caches in another state */
                size_t at = cold ? (size_t)(i * WHICH + which) * 7919 % copies * (bytes / 4) : 0;
                double t = timed(which, send + at, recv + at, bytes, cold);
                if (i >= 2) /* the first two warm up */
                    times[which][i - 2] = t;
            }
        for (int which = 0; which < WHICH; which++)
            qsort(times[which], (size_t)repeats, sizeof(double), compare);
        if (comm->rank)
            continue;
        for (int which = 0; which < WHICH; which += 2)
            printf("%s %d %zu %.2f %.2f\n", collectives[which / 2], comm->size, bytes, times[which][repeats / 2] * 1e6,
                   times[which + 1][repeats / 2] * 1e6);
        fflush(stdout);
    }
    free(send);
    free(recv);
    zero_comm_destroy(pair);
    zero_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
