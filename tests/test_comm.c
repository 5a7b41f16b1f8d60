/* SPDX-License-Identifier: Apache-2.0 */
/* test_comm.c - communicators of one machine: self, shm; more of shm in comm_direct.c and comm_links.c, torchrun's in
 * comm_torchrun.c and comm_tcp.c, MPI's in test_comm_mpi.c. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_cases.h"
#include "tests/comm_direct.h"
#include "tests/comm_links.h"
#include "tests/comm_tcp.h"
#include "tests/comm_torchrun.h"
#include "tests/ranks.h"
#include "zero/comm/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int open_shm(zero_comm_t **c, const zero_bootstrap_t *b, double timeout_s, size_t ring_bytes)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = timeout_s;
    o.ring_bytes = ring_bytes;
    EXPECT_OK(zero_comm_shm(c, b, &o, error));
    return 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

START_TEST(self_does_all)
{
    zero_comm_t *c, *part;
    zero_error_t e = {0};
    ck_assert(zero_comm_self(&c, &e) == ZERO_OK);
    ck_assert_str_eq(zero_comm_name(c), "self");
    ck_assert_int_eq(comm_cases(c, 1), 0);
    ck_assert_int_eq(comm_ring_cases(c), 0);
    ck_assert_int_eq(comm_split_cases(c), 0);
    ck_assert_int_eq(comm_pair_cases(c, 2), 0);
    ck_assert(zero_comm_split(c, 5, 9, &part, &e) == ZERO_OK);
    zero_comm_abort(part, "a sentence");
    zero_comm_abort(c, "a later one");
    zero_comm_destroy(part);
    ck_assert(zero_comm_exchange(c, &e, &e, 0, &e) == ZERO_ERR_PEER);
    ck_assert_str_eq(e.text, "a sentence");
    zero_comm_destroy(c);
    zero_comm_destroy(NULL);
}
END_TEST

static int cases_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    if (open_shm(&c, b, 60, *(size_t *)arg))
        return 1;
    EXPECT(c->rank == rank && c->size == world && strcmp(zero_comm_name(c), "shm") == 0);
    EXPECT(*(size_t *)arg == 0 || world == 1 || c->caps.ring_bytes >= *(size_t *)arg);
    if (comm_ring_cases(c) || comm_cases(c, 1) || comm_split_cases(c) || comm_pair_cases(c, 2))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(shm_does_all)
{
    size_t ring_bytes = 0;
    ck_assert_int_eq(ranks_run(_i, 100, cases_rank, &ring_bytes), 0);
}
END_TEST

/* With the smallest ring, every transfer needs many pieces; the results have the same bits. */
START_TEST(shm_does_all_with_the_least_ring)
{
    zero_comm_options_t o;
    zero_comm_caps_t caps;
    zero_error_t e = {0};
    size_t least = 1;
    zero_comm_options_init(&o);
    o.ring_bytes = 1;
    ck_assert(zero_comm_describe("shm", 3, &o, &caps, &e) == ZERO_ERR_ARG);
    /* The sentence names a value that would work. */
    const char *said = strrchr(e.text, ' '); /* its last word */
    ck_assert_ptr_nonnull(said);
    least = strtoull(said, NULL, 10);
    ck_assert_int_eq(ranks_run(3, 100, cases_rank, &least), 0);
    o.ring_bytes = least - 1;
    ck_assert(zero_comm_describe("shm", 3, &o, &caps, &e) == ZERO_ERR_ARG);
    ck_assert(zero_comm_describe("self", 2, NULL, &caps, &e) == ZERO_ERR_ARG);
    ck_assert(zero_comm_describe("carrier", 2, NULL, &caps, &e) == ZERO_ERR_ARG);
    ck_assert(zero_comm_describe("mpi", 1024, NULL, &caps, &e) == ZERO_OK);
    ck_assert_uint_gt(caps.ring_bytes, 0);
}
END_TEST

static int thread_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)rank, (void)world, (void)arg;
    if (open_shm(&c, b, 60, 0) || comm_thread_cases(c))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(communicators_work_side_by_side)
{
    ck_assert_int_eq(ranks_run(_i, 100, thread_rank, NULL), 0);
}
END_TEST

static int differ_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)rank, (void)world;
    if (open_shm(&c, b, 60, 0) || comm_differ_cases(c, *(int *)arg))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(ranks_that_differ_are_told)
{
    int kind = _i / 2;
    ck_assert_int_eq(ranks_run(2 + _i % 2, 50, differ_rank, &kind), 0);
}
END_TEST

enum { TOGETHER_ROUNDS = 40 };

/* A bootstrap that returns zeros for every rank's data. */
static int forgetful(void *ctx, const void *send, void *recv, size_t bytes)
{
    (void)send;
    memset(recv, 0, (size_t) * (int *)ctx * bytes);
    return 0;
}

static zero_status_t forgetful_oob(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    (void)error;
    return forgetful(ctx, send, recv, bytes) ? ZERO_ERR_PEER : ZERO_OK;
}

/* A rank's own failure remains, whatever the other ranks' statuses look like. */
START_TEST(failures_here_stay_failures)
{
    int world = 2;
    zero_oob_t oob = {.world = world, .all_gather = forgetful_oob, .ctx = &world};
    zero_bootstrap_t b = {.size = sizeof b, .world = world, .all_gather = forgetful, .ctx = &world};
    zero_comm_options_t o;
    zero_comm_t *c;
    zero_error_t e = {.text = "no memory"};
    ck_assert_int_eq(zero_oob_agree(&oob, ZERO_ERR_MEMORY, &e), ZERO_ERR_MEMORY);
    ck_assert_str_eq(e.text, "no memory");
    ck_assert_int_eq(zero_oob_agree(&oob, ZERO_OK, &e), ZERO_OK);
    zero_comm_options_init(&o);
    o.timeout_s = -1;
    ck_assert_int_eq(zero_comm_shm(&c, &b, &o, &e), ZERO_ERR_ARG);
    ck_assert_msg(has_names(e.text, "-1"), "'%s'", e.text);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

typedef struct shared {
    zero_error_t why[8];
    double seconds[8];
} shared_t;

static void keep(shared_t *s, int rank, zero_status_t status, const zero_error_t *e, double start)
{
    s->why[rank] = *e;
    s->why[rank].status = status;
    s->seconds[rank] = now() - start;
}

/* *arg: if bit r is set, rank r fails. */
static int agree_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    int failing = *(int *)arg, failed = 7, lowest = -1;
    zero_comm_t *c;
    zero_error_t e = {0};
    EXPECT_OK(zero_comm_shm(&c, b, NULL, error));
    for (int r = world - 1; r >= 0; r--)
        lowest = failing >> r & 1 ? r : lowest;
    zero_status_t own = ZERO_OK;
    if (failing >> rank & 1)
        own = zero_fail(&e, rank == 1 ? ZERO_ERR_IO : ZERO_ERR_ARG, "file of rank %d", rank);
    zero_status_t status = zero_comm_agree(c, own, &failed, &e);
    EXPECT(failed == lowest && status == (lowest < 0 ? ZERO_OK : lowest == 1 ? ZERO_ERR_IO : ZERO_ERR_ARG));
    if (lowest >= 0)
        EXPECT(e.status == status && e.text[strlen(e.text) - 1] == '0' + lowest);
    /* If the exchange fails, this rank's own failure remains. After the following exchange, every rank has completed
     * the calls above. */
    char byte = 0, bytes[8];
    zero_comm_exchange(c, &byte, bytes, 1, NULL);
    zero_comm_abort(c, "enough");
    EXPECT(zero_comm_agree(c, ZERO_OK, &failed, &e) == ZERO_ERR_PEER && failed == -1 && strstr(e.text, "enough"));
    zero_fail(&e, ZERO_ERR_IO, "a file");
    EXPECT(zero_comm_agree(c, ZERO_ERR_IO, NULL, &e) == ZERO_ERR_IO && strcmp(e.text, "a file") == 0);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(ranks_agree_on_an_outcome)
{
    static int failing[] = {0, 1, 2, 4, 6, 7};
    ck_assert_int_eq(ranks_run(3, 60, agree_rank, &failing[_i]), 0);
}
END_TEST

static int bad_options_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_options_t o;
    zero_comm_t *c;
    zero_error_t e = {0};
    zero_comm_options_init(&o);
    o.timeout_s = 20;
    o.ring_bytes = rank == 1 ? 100 : 0;
    keep(arg, rank, zero_comm_shm(&c, b, &o, &e), &e, now());
    EXPECT(c == NULL);
    o.ring_bytes = rank == 1 ? (size_t)1 << 50 : 0; /* more than any machine has */
    EXPECT(zero_comm_shm(&c, b, &o, &e) == ZERO_ERR_MEMORY && has_names(e.text, "1125899906842624"));
    o.ring_bytes = rank == 1 ? 1 << 20 : 2 << 20;
    EXPECT(zero_comm_shm(&c, b, &o, &e) == ZERO_ERR_MISMATCH);
    o.ring_bytes = 0;
    o.ranks_per_node = 1;
    EXPECT(zero_comm_shm(&c, b, &o, &e) == (world > 1 ? ZERO_ERR_ARG : ZERO_OK));
    o.ranks_per_node = 0;
    o.timeout_s = rank ? 20 : 0;
    EXPECT(zero_comm_shm(&c, b, &o, &e) == ZERO_ERR_ARG);
    return 0;
}

START_TEST(bad_options_fail_together)
{
    shared_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(3, 60, bad_options_rank, s), 0);
    for (int r = 0; r < 3; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_ARG);
        ck_assert_str_eq(s->why[r].text, s->why[1].text);
        ck_assert(has_names(s->why[r].text, "100"));
    }
}
END_TEST

static int abort_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c, *part;
    zero_error_t e = {0};
    char buffer[64] = {0};
    (void)world;
    if (open_shm(&c, b, 50, 0))
        return 1;
    EXPECT_OK(zero_comm_split(c, 0, 0, &part, error));
    double start = now();
    if (rank == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        zero_comm_abort(c, "rank 1: the disk is full");
        zero_comm_abort(c, "another sentence");
        keep(arg, rank, zero_comm_check(c, &e), &e, start);
    } else /* it waits on the split communicator */
        keep(arg, rank, zero_comm_all_gather(part, buffer, buffer + 32, 8, NULL, &e), &e, start);
    /* A failed communicator stays failed. */
    EXPECT(zero_control_exchange(c, buffer, buffer, 0, &e) == ZERO_ERR_PEER);
    EXPECT(zero_comm_reduce_scatter(c, buffer, buffer, 1, ZERO_FP32, NULL, &e) == ZERO_ERR_PEER);
    zero_comm_destroy(part);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(abort_reaches_everyone)
{
    shared_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(4, 60, abort_rank, s), 0);
    for (int r = 0; r < 4; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_PEER);
        ck_assert_str_eq(s->why[r].text, "rank 1: the disk is full");
        ck_assert(s->seconds[r] < 40);
    }
}
END_TEST

/* Every rank aborts at once. All ranks end with the sentence of one rank. */
static int together_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    atomic_int *ready = arg; /* by round */
    zero_comm_t *c;
    for (int round = 0; round < TOGETHER_ROUNDS; round++) {
        char own[1000] = "", all[4 * sizeof own];
        zero_error_t e = {0};
        if (open_shm(&c, b, 50, 0))
            return 1;
        snprintf(own, sizeof own, "rank %d: %0900d", rank, rank); /* long, so that two ranks write at the same time */
        atomic_fetch_add(&ready[round], 1);
        for (double end = now() + 30; atomic_load(&ready[round]) < world && now() < end;)
            ;
        zero_comm_abort(c, own);
        EXPECT(zero_comm_check(c, &e) == ZERO_ERR_PEER);
        EXPECT(b->all_gather(b->ctx, e.text, all, sizeof own) == 0);
        for (int r = 0; r < world; r++)
            EXPECT(strcmp(all + (size_t)r * sizeof own, e.text) == 0);
        zero_comm_destroy(c);
    }
    return 0;
}

START_TEST(ranks_that_abort_at_once_agree_why)
{
    atomic_int *ready = ranks_shared(TOGETHER_ROUNDS * sizeof *ready);
    ck_assert_int_eq(ranks_run(4, 100, together_rank, ready), 0);
}
END_TEST

static int killed_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    char *buffer = calloc((size_t)world, 4 << 20);
    if (open_shm(&c, b, 50, 0) || !buffer)
        return 1;
    double start = now();
    for (int i = 0; i < 1000; i++) {
        if (rank == world - 1 && i == 3)
            raise(SIGKILL);
        zero_status_t status = zero_comm_all_gather(c, buffer + (size_t)rank * (4 << 20), buffer, 4 << 20, NULL, &e);
        if (status) {
            keep(arg, rank, status, &e, start);
            zero_comm_destroy(c);
            free(buffer);
            return 0;
        }
    }
    return 1;
}

START_TEST(killed_rank_is_named)
{
    shared_t *s = ranks_shared(sizeof *s);
    int status[4];
    int world = _i;
    ck_assert_int_eq(ranks_run_status(world, 60, killed_rank, s, status), 0);
    ck_assert(WIFSIGNALED(status[world - 1]) && WTERMSIG(status[world - 1]) == SIGKILL);
    for (int r = 0; r < world - 1; r++) {
        ck_assert_int_eq(status[r], 0);
        EXPECT_ERROR(&s->why[r], ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, world - 1, "all-gather");
        ck_assert(s->seconds[r] < 40);
    }
}
END_TEST

/* Leaving in order is not an error, until another rank waits for the one that left. */
static int left_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    uint64_t value = (uint64_t)rank, all[8];
    (void)world;
    if (open_shm(&c, b, 50, 0))
        return 1;
    EXPECT_OK(zero_comm_exchange(c, &value, all, sizeof value, error));
    double start = now();
    if (rank == 0) {
        zero_comm_destroy(c);
        return 0; /* the process ends, too */
    }
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    EXPECT_OK(zero_comm_check(c, error));
    keep(arg, rank, zero_comm_exchange(c, &value, all, sizeof value, &e), &e, start);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(left_rank_is_an_error_only_for_who_waits)
{
    shared_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(3, 60, left_rank, s), 0);
    for (int r = 1; r < 3; r++) {
        EXPECT_ERROR(&s->why[r], ZERO_ERR_PEER, ZERO_REASON_RANK_LEFT, 0, "exchange");
    }
}
END_TEST

static int late_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    float values[4] = {0};
    (void)world;
    if (open_shm(&c, b, 0.3, 0))
        return 1;
    double start = now();
    if (rank != 2) {
        keep(arg, rank, zero_comm_reduce_scatter(c, values, values + 3, 1, ZERO_FP32, NULL, &e), &e, start);
        /* The ranks are out of step now: no collective may run. */
        EXPECT(zero_comm_exchange(c, values, values, 0, &e) == ZERO_ERR_TIMEOUT);
    }
    char done = 0, all[8];
    if (b->all_gather(b->ctx, &done, all, 1))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(timeout_names_who_is_late)
{
    shared_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(3, 60, late_rank, s), 0);
    for (int r = 0; r < 2; r++) {
        EXPECT_ERROR(&s->why[r], ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, 2, "reduce-scatter");
        ck_assert(s->seconds[r] >= 0.3);
    }
}
END_TEST

static int no_leak_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    int first, last;
    (void)rank, (void)world, (void)arg;
    for (int i = 0; i < 3; i++) {
        if (open_shm(&c, b, 20, 0))
            return 1;
        zero_comm_destroy(c);
        last = open("/dev/null", O_RDONLY);
        EXPECT(last >= 0 && close(last) == 0);
        if (i == 0)
            first = last;
        EXPECT(first == last);
    }
    return 0;
}

START_TEST(no_descriptor_stays_open)
{
    ck_assert_int_eq(ranks_run(2, 60, no_leak_rank, NULL), 0);
}
END_TEST

/* If processes may not access each other, as between containers, they meet in /dev/shm. */
static int closed_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    const char *shm_size = arg;
    zero_comm_t *c;
    zero_error_t e = {0};
    char entry[64], link[64];
    if (shm_size) {
        /* Mounts a separate /dev/shm for this rank, unless this is a container whose root may not mount. The mount must
         * not propagate. So the innermost of these paths that is a mount point becomes private (in a chroot, / is
         * none). */
        if (unshare(CLONE_NEWNS) != 0 && errno == EPERM)
            return 0;
        EXPECT(mount("none", "/dev/shm", NULL, MS_PRIVATE, NULL) == 0 ||
               mount("none", "/dev", NULL, MS_PRIVATE, NULL) == 0 || mount("none", "/", NULL, MS_PRIVATE, NULL) == 0);
        EXPECT(mount("none", "/dev/shm", "tmpfs", 0, shm_size) == 0);
    }
    if (geteuid() == 0) /* root may access every process */
        EXPECT(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
    EXPECT(prctl(PR_SET_DUMPABLE, 0) == 0);
    int pids[8], pid = (int)getpid();
    EXPECT(b->all_gather(b->ctx, &pid, pids, sizeof pid) == 0);
    snprintf(entry, sizeof entry, "/proc/%d/fd/0", pids[(rank + 1) % world]);
    EXPECT(readlink(entry, link, sizeof link) < 0 && errno == EACCES);
    if (shm_size) {
        EXPECT(zero_comm_shm(&c, b, NULL, &e) == ZERO_ERR_MEMORY);
        EXPECT(has_names(e.text, "/dev/shm") && has_names(e.text, "--shm-size"));
        return 0;
    }
    if (open_shm(&c, b, 30, 0) || comm_ring_cases(c) || comm_cases(c, 5))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(closed_processes_meet_in_dev_shm)
{
    glob_t g;
    ck_assert_int_eq(ranks_run(3, 60, closed_rank, NULL), 0);
    char pattern[64];
    snprintf(pattern, sizeof pattern, "/dev/shm/zero-%u-*", geteuid() == 0 ? 65534 : (unsigned)geteuid());
    ck_assert_int_eq(glob(pattern, 0, NULL, &g), GLOB_NOMATCH);
}
END_TEST

START_TEST(small_dev_shm_is_an_error)
{
    if (geteuid() != 0)
        return; /* mounting needs root */
    ck_assert_int_eq(ranks_run(2, 60, closed_rank, "size=4k"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("comm");
    TCase *t = tcase_create("comm");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, self_does_all);
    tcase_add_loop_test(t, shm_does_all, 1, 5);
    tcase_add_test(t, shm_does_all_with_the_least_ring);
    tcase_add_test(t, failures_here_stay_failures);
    tcase_add_loop_test(t, ranks_that_differ_are_told, 0, 2 * COMM_DIFFER_KINDS);
    tcase_add_loop_test(t, communicators_work_side_by_side, 2, 4);
    tcase_add_loop_test(t, ranks_agree_on_an_outcome, 0, 6);
    tcase_add_test(t, bad_options_fail_together);
    tcase_add_test(t, abort_reaches_everyone);
    tcase_add_test(t, ranks_that_abort_at_once_agree_why);
    tcase_add_loop_test(t, killed_rank_is_named, 2, 5);
    tcase_add_test(t, left_rank_is_an_error_only_for_who_waits);
    tcase_add_test(t, timeout_names_who_is_late);
    tcase_add_test(t, no_descriptor_stays_open);
    tcase_add_test(t, closed_processes_meet_in_dev_shm);
    tcase_add_test(t, small_dev_shm_is_an_error);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, comm_direct_case());
    suite_add_tcase(suite, comm_links_case());
    suite_add_tcase(suite, comm_torchrun_case());
    suite_add_tcase(suite, comm_tcp_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
