/* SPDX-License-Identifier: Apache-2.0 */
/* test_comm_mpi.c - MPI communicators: one node, and one machine's ranks split into several nodes, equal and not.
 * Without arguments it starts itself under mpiexec for each case; `test_comm_mpi CASE RANKS_PER_NODE` runs one rank. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_cases.h"
#include "tests/order_case.h"

#include <stdio.h>
#include <stdlib.h>

#if !defined(HAVE_MPI)
int main(void)
{
    printf("no MPI in this build\n");
    return 77;
}
#else
#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int all_cases(const zero_comm_options_t *o)
{
    zero_comm_t *c, *second;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    /* A second communicator of the same MPI; the last one that is destroyed finalises MPI. */
    EXPECT_OK(zero_comm_mpi(&second, NULL, o, error));
    EXPECT(strcmp(zero_comm_name(c), "mpi") == 0);
    if (comm_ring_cases(c) || comm_cases(c, 1) || comm_split_cases(c) || comm_pair_cases(c, 2))
        return 1;
    zero_comm_destroy(c);
    if (comm_cases(second, 2))
        return 1;
    zero_comm_destroy(second);
    zero_error_t e = {0};
    EXPECT(zero_comm_mpi(&c, NULL, o, &e) ==
           ZERO_ERR_ORDER); /* the library had initialised MPI, and has finalised it */
    return 0;
}

static int thread_cases(const zero_comm_options_t *o)
{
    zero_comm_t *c;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    int result = comm_thread_cases(c) || comm_link_cases(c, NULL);
    zero_comm_destroy(c);
    return result;
}

static int differ_cases(const zero_comm_options_t *o, int kind)
{
    zero_comm_t *c;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    double start = now();
    if (comm_differ_cases(c, kind))
        return 1;
    zero_comm_destroy(c);
    EXPECT(now() - start < 40);
    return 0;
}

/* The first and the last rank, which may be on different nodes, have a link. */
static int unmet_cases(const zero_comm_options_t *o, int kind)
{
    zero_comm_t *c, *link;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    const bool ends = c->rank == 0 || c->rank == c->size - 1;
    double start = now();
    EXPECT_OK(zero_comm_link(c, ends ? 0 : -1, c->rank, &link, error));
    MPI_Barrier(MPI_COMM_WORLD); /* an abort would reach a rank that is still in the call */
    if (link && comm_unmet_cases(link, kind, 0, c->size - 1))
        return 1;
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    EXPECT(now() - start < 40);
    return 0;
}

/* The last rank does not take part in the transfer with the first one. */
static int late_case(zero_comm_options_t *o, bool sends)
{
    zero_comm_t *c, *link;
    zero_error_t e = {0};
    char byte = 0, wanted[80];
    o->timeout_s = 1;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    EXPECT_OK(zero_comm_link(c, c->rank == 0 || c->rank == c->size - 1 ? 0 : -1, c->rank, &link, error));
    MPI_Barrier(MPI_COMM_WORLD);
    if (c->rank == 0) {
        snprintf(wanted, sizeof wanted, "`rank 0` 1 `rank %d` %s", c->size - 1, sends ? "send" : "recv");
        EXPECT((sends ? zero_comm_send(link, &byte, 1, NULL, &e) : zero_comm_recv(link, &byte, 1, NULL, &e)) ==
               ZERO_ERR_TIMEOUT);
        EXPECT(e.reason == ZERO_REASON_RANK_LATE && e.rank == c->size - 1 && has_names(e.text, wanted));
        zero_comm_abort(c, "too late");
    } else
        while (zero_comm_check(c, &e) == ZERO_OK)
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    return 0;
}

/* digits: scene, stage, reduction. */
static int order_cases(const zero_comm_options_t *o, const char *digits)
{
    zero_comm_t *c;
    order_case_t order = {.scene = (order_scene_t)(digits[0] - '0'),
                          .stage = digits[1] - '0',
                          .reduce = (zero_reduce_t)(digits[2] - '0')};
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    int result = order_case(&order, c);
    zero_comm_destroy(c);
    return result;
}

/* The last rank aborts. Every other rank, on its node or not, gets the sentence, although it waits for others. */
static int abort_case(const zero_comm_options_t *o)
{
    zero_comm_t *c, *part;
    zero_error_t e = {0};
    float values[64] = {0};
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    EXPECT_OK(zero_comm_split(c, 0, -c->rank, &part, error));
    double start = now();
    if (c->rank == c->size - 1) {
        zero_comm_abort(c, "the last rank: no such file");
        EXPECT(zero_comm_check(c, &e) == ZERO_ERR_PEER);
    } else {
        zero_status_t status = c->size & 1
                                   ? zero_comm_all_gather(part, values, values + 8, 4, NULL, &e)
                                   : zero_comm_reduce_scatter(part, values, values + 60, 1, ZERO_FP32, NULL, &e);
        EXPECT(status == ZERO_ERR_PEER);
    }
    EXPECT(strcmp(e.text, "the last rank: no such file") == 0);
    EXPECT(now() - start < 30);
    EXPECT(zero_comm_reduce_scatter(c, values, values, 1, ZERO_FP32, NULL, &e) == ZERO_ERR_PEER);
    zero_comm_destroy(part);
    zero_comm_destroy(c);
    EXPECT(now() - start < 40);
    return 0;
}

/* The last rank does not make the call. */
static int timeout_case(zero_comm_options_t *o)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    float values[64] = {0};
    o->timeout_s = 2;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    if (c->rank != c->size - 1) {
        zero_status_t status = zero_comm_reduce_scatter(c, values, values + 60, 1, ZERO_FP32, NULL, &e);
        /* The first rank that times out tells the others, and some get that error before their own time limit. */
        EXPECT(status == ZERO_ERR_TIMEOUT ? has_names(e.text, "reduce-scatter")
                                          : status == ZERO_ERR_PEER && !strcmp(e.text, "too late"));
        zero_comm_abort(c, "too late");
        zero_comm_destroy(c);
        return 0;
    }
    while (zero_comm_check(c, &e) == ZERO_OK)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    EXPECT(strcmp(e.text, "too late") == 0);
    zero_comm_destroy(c);
    return 0;
}

/* Ranks time out and destroy everything, without an abort. They do not wait for the last rank in MPI_Finalize
 * either. */
static int leave_case(zero_comm_options_t *o)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    float values[64] = {0};
    o->timeout_s = 1;
    EXPECT_OK(zero_comm_mpi(&c, NULL, o, error));
    bool last = c->rank == c->size - 1;
    if (!last) {
        zero_status_t status = zero_control_exchange(c, values, values + 32, 4, &e);
        /* The first rank that times out may be gone before the others reach their own limit. */
        EXPECT(status == ZERO_ERR_TIMEOUT ? has_names(e.text, "exchange")
                                          : status == ZERO_ERR_PEER && e.reason == ZERO_REASON_RANK_LEFT);
        zero_comm_destroy(c);
    }
    MPI_Barrier(MPI_COMM_WORLD); /* the last rank destroys its communicator after all others */
    if (last)
        zero_comm_destroy(c);
    return 0;
}

enum { MEET_ENDS = 3 }; /* the exit status */

/* If the ranks do not meet, the library reports it. It is not an MPI error that ends the process. */
static int meet_case(zero_comm_options_t *o)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    int provided, rank, size;
    o->timeout_s = 1;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (rank != size - 1)
        EXPECT(zero_comm_mpi(&c, NULL, o, &e) == ZERO_ERR_TIMEOUT && c == NULL && has_names(e.text, "1"));
    MPI_Barrier(MPI_COMM_WORLD);
    fflush(NULL);
    _exit(MPI_Abort(MPI_COMM_WORLD, MEET_ENDS)); /* MPI cannot finalise after half a duplication */
}

/* Bad options of one rank are an error on every rank. */
static int options_case(zero_comm_options_t *o)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    o->ring_bytes = rank && !strcmp(rank, "1") ? 100 : 0;
    EXPECT(zero_comm_mpi(&c, NULL, o, &e) == ZERO_ERR_ARG && c == NULL);
    EXPECT(has_names(e.text, "100"));
    return 0;
}

static int run(int argc, char **argv)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = 60;
    o.ranks_per_node = argc > 2 ? atoi(argv[2]) : 0;
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "all"))
        return all_cases(&o);
    if (!strcmp(name, "small")) {
        o.ring_bytes = 65536;
        return all_cases(&o);
    }
    if (!strcmp(name, "threads"))
        return thread_cases(&o);
    if (!strncmp(name, "differ", 6))
        return differ_cases(&o, name[6] - '0');
    if (!strncmp(name, "unmet", 5))
        return unmet_cases(&o, name[5] - '0');
    if (!strcmp(name, "late-send") || !strcmp(name, "late-recv"))
        return late_case(&o, !strcmp(name, "late-send"));
    if (!strncmp(name, "order", 5) && strlen(name) == 8)
        return order_cases(&o, name + 5);
    if (!strcmp(name, "abort"))
        return abort_case(&o);
    if (!strcmp(name, "timeout"))
        return timeout_case(&o);
    if (!strcmp(name, "leave"))
        return leave_case(&o);
    if (!strcmp(name, "meet"))
        return meet_case(&o);
    if (!strcmp(name, "options"))
        return options_case(&o);
    fprintf(stderr, "usage: test_comm_mpi [all|small|threads|differ0-5|unmet0-8|order000-731|abort|timeout|late-send|"
                    "late-recv|leave|meet|options RANKS_PER_NODE]\n");
    return 2;
}

static int rank_main(int argc, char **argv)
{
    int result = run(argc, argv), initialised = 0, finalised = 0;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    /* After an abort the library does not finalise MPI, because some rank might never do so. Here all ranks do, and
     * mpiexec requires it. */
    if (initialised && !finalised && result == 0)
        MPI_Finalize();
    return result;
}

/* ---- the parent ------------------------------------------------------------------------------------------------- */

static void set_environment(void)
{
    static const char *const set[][2] = {{"OMPI_ALLOW_RUN_AS_ROOT", "1"},
                                         {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
                                         {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
                                         {"OMPI_MCA_hwloc_base_binding_policy", "none"},
                                         {"OMPI_MCA_pml", "ob1"},
                                         {"OMPI_MCA_btl", "self,vader"},
                                         {"OMPI_MCA_plm", "isolated"}};
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        setenv(set[i][0], set[i][1], 1);
}

/* Returns 0 if all ranks ended as they should in time, 77 if mpiexec is missing. */
static int start(const char *self, int ranks, const char *name, int ranks_per_node)
{
    char count[16], per_node[16];
    int status = 0;
    snprintf(count, sizeof count, "%d", ranks);
    snprintf(per_node, sizeof per_node, "%d", ranks_per_node);
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("mpiexec", "mpiexec", "-q", "-n", count, self, name, per_node, (char *)NULL);
        _exit(errno == ENOENT ? 77 : 1);
    }
    double end = now() + 200;
    pid_t ended;
    while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && now() < end)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    if (ended == 0) {
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    int result = ended > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1,
        wanted = strcmp(name, "meet") ? 0 : MEET_ENDS;
    result = result == wanted ? 0 : result ? result : 1;
    printf("%s: %d ranks: %s %d\n", result ? "failed" : "ok", ranks, name, ranks_per_node);
    return result;
}

int main(int argc, char **argv)
{
    static const struct {
        int ranks;
        const char *name;
        int ranks_per_node;
    } cover[] = {{1, "all", 0},       {2, "all", 0},       {3, "all", 1},       {3, "all", 2},      {4, "all", 2},
                 {3, "small", 2},     {2, "small", 1},     {3, "threads", 0},   {3, "threads", 2},  {3, "differ0", 2},
                 {2, "differ1", 1},   {4, "differ2", 2},   {2, "differ3", 1},   {3, "differ4", 1},  {3, "differ5", 2},
                 {2, "unmet0", 1},    {3, "unmet1", 2},    {2, "unmet2", 1},    {3, "unmet3", 2},   {2, "unmet4", 1},
                 {3, "unmet5", 2},    {2, "unmet6", 1},    {3, "unmet7", 2},    {2, "unmet8", 1},   {3, "unmet8", 0},
                 {3, "late-send", 2}, {2, "late-recv", 1}, {3, "late-send", 0}, {2, "order030", 1}, {4, "order101", 2},
                 {3, "order220", 1},  {3, "order330", 2},  {4, "order511", 2},  {2, "order700", 1}, {3, "abort", 0},
                 {4, "abort", 2},     {3, "abort", 1},     {3, "timeout", 0},   {3, "timeout", 2},  {3, "leave", 0},
                 {3, "leave", 2},     {3, "meet", 0},      {3, "options", 2}};
    static const char *const names[] = {"all", "small", "threads", "abort"};
    char self[4096] = "";
    int result = 0;
    if (argc > 1)
        return rank_main(argc, argv);
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return 1;
    set_environment();
    for (size_t i = 0; i < sizeof cover / sizeof *cover; i++) {
        int one = start(self, cover[i].ranks, cover[i].name, cover[i].ranks_per_node);
        if (one == 77) {
            printf("there is no mpiexec here\n");
            return 77;
        }
        result |= one;
    }
    for (int ranks = 2; ranks <= 5 && getenv("ZERO_CHECK_FULL"); ranks++)
        for (int per_node = 0; per_node <= 4; per_node++)
            for (size_t i = 0; i < sizeof names / sizeof *names; i++)
                result |= start(self, ranks, names[i], per_node);
    return result ? 1 : 0;
}
#endif
