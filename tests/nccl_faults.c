/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_faults.c - failures of NCCL end on every rank, in time, with a sentence. Tests depend on time only through
 * limits that are far away. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/emulator/include/cuda_runtime_api.h"
#include "tests/nccl_tests.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const modes[] = {"inline", "threads"};

/* What each rank observed. */
typedef struct shared {
    const char *mode;
    zero_error_t why[4];
} shared_t;

static zero_status_t keep(shared_t *s, int rank, zero_status_t status, const zero_error_t *e)
{
    s->why[rank] = status ? *e : (zero_error_t){0};
    s->why[rank].status = status;
    return status;
}

/* Queues one gather of c on stream i. */
static zero_status_t gather(nccl_rank_t *r, zero_comm_t *c, int i, zero_error_t *e)
{
    char *own = r->room[i] + (size_t)c->rank * NCCL_SLICE;
    return zero_comm_all_gather(c, own, r->room[i], NCCL_SLICE, r->native[i], e);
}

/* Works as a trainer does: queues work on both streams, waits for them, then checks whether the results are valid. */
static zero_status_t work(nccl_rank_t *r, zero_comm_t *other, zero_error_t *e)
{
    zero_status_t status = gather(r, r->c, 0, e);
    if (status == ZERO_OK)
        status = gather(r, other, 1, e);
    for (int i = 0; i < NCCL_STREAMS; i++) {
        zero_error_t why = {0};
        zero_status_t dry = r->device->ops->finish(r->device, r->native[i], 50, &why);
        if (dry) {
            fprintf(stderr, "stream %d did not run dry: %s\n", i, why.text);
            return zero_fail(e, ZERO_ERR_PLAN, "%s", why.text);
        }
    }
    return status ? status : zero_comm_check(r->c, e);
}

/* Checks that no work runs on either communicator any more. */
static int is_over(nccl_rank_t *r, zero_comm_t *other, zero_status_t expected)
{
    zero_error_t e = {0};
    char byte = 0, all[8];
    EXPECT(gather(r, r->c, 0, &e) == expected);
    EXPECT(zero_comm_reduce_scatter(other, r->room[1], r->room[1], 0, ZERO_FP32, r->native[1], &e) == expected);
    EXPECT(zero_comm_all_gather(other, r->room[1], r->room[1], 4, r->native[1], &e) == expected);
    EXPECT(zero_comm_check(other, &e) == expected);
    EXPECT(zero_comm_exchange(other, &byte, all, 1, &e) == expected);
    return 0;
}

static void set_up(nccl_setup_t *setup, const shared_t *s, const char *faults, double timeout_s)
{
    *setup = (nccl_setup_t){.mode = s->mode, .faults = faults, .timeout_s = timeout_s};
}

/* Opens r with a second communicator, and works once on every rank. */
static int begin(nccl_rank_t *r, zero_comm_t **other, const zero_bootstrap_t *b, const nccl_setup_t *setup)
{
    char done = 0, all[4];
    if (nccl_rank_open(r, b, setup))
        return 1;
    EXPECT_OK(zero_comm_split(r->c, 0, b->rank, other, error));
    EXPECT_OK(work(r, *other, error));
    EXPECT(b->all_gather(b->ctx, &done, all, 1) == 0);
    return 0;
}

static void end(nccl_rank_t *r, zero_comm_t *other)
{
    zero_comm_destroy(other);
    nccl_rank_close(r);
}

/* ---- a rank dies ------------------------------------------------------------------------------------------------ */

static int killed_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    /* The other ranks' NCCL may report the failure itself, with fewer details: rank 1's does. */
    set_up(&setup, s, rank == 1 ? "async=3:6" : NULL, 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    if (rank == world - 1)
        raise(SIGKILL);
    keep(s, rank, work(&r, other, &e), &e);
    if (is_over(&r, other, ZERO_ERR_PEER))
        return 1;
    end(&r, other);
    EXPECT(nccl_counts().comms == 0 && nccl_counts().aborted == 2);
    return 0;
}

START_TEST(killed_rank_is_named)
{
    shared_t *s = ranks_shared(sizeof *s);
    int status[4];
    s->mode = modes[_i];
    ck_assert_int_eq(ranks_run_status(3, 100, killed_rank, s, status), 0);
    ck_assert(WIFSIGNALED(status[2]) && WTERMSIG(status[2]) == SIGKILL);
    for (int r = 0; r < 2; r++) {
        ck_assert_int_eq(status[r], 0);
        EXPECT_ERROR(&s->why[r], ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, 2, "`rank 2`");
    }
}
END_TEST

/* ---- a rank aborts ---------------------------------------------------------------------------------------------- */

static int abort_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    (void)world;
    set_up(&setup, s, NULL, 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    if (rank == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        zero_comm_abort(other, "rank 1: the disk is full");
        zero_comm_abort(r.c, "another sentence");
        keep(s, rank, zero_comm_check(r.c, &e), &e);
    } else
        keep(s, rank, work(&r, other, &e), &e);
    if (is_over(&r, other, ZERO_ERR_PEER))
        return 1;
    end(&r, other);
    return 0;
}

START_TEST(abort_reaches_everyone)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->mode = modes[_i];
    ck_assert_int_eq(ranks_run(3, 100, abort_rank, s), 0);
    for (int r = 0; r < 3; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_PEER);
        ck_assert_str_eq(s->why[r].text, "rank 1: the disk is full");
    }
}
END_TEST

/* ---- a rank is late --------------------------------------------------------------------------------------------- */

/* Rank 0 notices, and reports it. Only rank 0 has a short time limit. */
static int late_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    char done = 0, all[4];
    (void)world;
    set_up(&setup, s, NULL, 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    if (rank == 0) {
        r.c->options.timeout_s = other->options.timeout_s = 1;
        keep(s, rank, work(&r, other, &e), &e);
        if (is_over(&r, other, ZERO_ERR_TIMEOUT))
            return 1;
        zero_comm_abort(r.c, "rank 0: all is lost");
        /* Rank 0 keeps its own error. */
        EXPECT(zero_comm_check(r.c, &e) == ZERO_ERR_TIMEOUT);
    }
    if (rank == 1)
        keep(s, rank, work(&r, other, &e), &e);
    if (b->all_gather(b->ctx, &done, all, 1)) /* until here rank 2 is late for the collectives */
        return 1;
    if (rank == 2)
        keep(s, rank, work(&r, other, &e), &e);
    end(&r, other);
    return 0;
}

START_TEST(late_rank_is_a_timeout)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->mode = modes[_i];
    ck_assert_int_eq(ranks_run(3, 100, late_rank, s), 0);
    ck_assert_msg(s->why[0].status == ZERO_ERR_TIMEOUT && has_names(s->why[0].text, "`rank 0` 1 all-gather 100000"),
                  "%d %s", s->why[0].status, s->why[0].text);
    for (int r = 1; r < 3; r++)
        ck_assert_msg(s->why[r].status == ZERO_ERR_PEER && strcmp(s->why[r].text, "rank 0: all is lost") == 0, "%d %s",
                      s->why[r].status, s->why[r].text);
}
END_TEST

/* ---- NCCL fails ------------------------------------------------------------------------------------------------- */

static int error_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    (void)world;
    set_up(&setup, s, rank == 0 ? "async=3:2" : NULL, 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    zero_status_t status = keep(s, rank, work(&r, other, &e), &e);
    if (is_over(&r, other, status))
        return 1;
    if (rank == 0)
        zero_comm_abort(r.c, e.text);
    end(&r, other);
    return 0;
}

START_TEST(error_of_nccl_is_told)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->mode = modes[_i];
    ck_assert_int_eq(ranks_run(3, 100, error_rank, s), 0);
    ck_assert_msg(s->why[0].status == ZERO_ERR_SYSTEM && has_names(s->why[0].text, "`as the test wanted` NCCL"),
                  "%d %s", s->why[0].status, s->why[0].text);
    for (int r = 1; r < 3; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_PEER);
        ck_assert_str_eq(s->why[r].text, s->why[0].text);
    }
}
END_TEST

static void CUDART_CB hold(void *open)
{
    while (!atomic_load((atomic_bool *)open))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* Rank 0 would publish the error, but it waits for the others in a collective call. Rank 1 waits for its GPU, which
 * waits for rank 0's. Rank 2 is in no call. The error comes after rank 0 has enqueued the failing work, whose stream is
 * held until then; otherwise that call might report it. */
static int unpublished_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    static atomic_bool open;
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    char byte = 0, all[4];
    (void)world;
    set_up(&setup, s, rank == 0 ? "async=3:2" : NULL, 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    if (rank == 0) {
        EXPECT(((__typeof__(cudaLaunchHostFunc) *)nccl_symbol("cudaLaunchHostFunc"))(r.native[0], hold, &open) ==
               cudaSuccess);
        EXPECT_OK(gather(&r, r.c, 0, error));
        atomic_store(&open, true);
        keep(s, rank, zero_comm_exchange(r.host, &byte, all, 1, &e), &e);
        EXPECT(zero_comm_check(r.c, &e) == ZERO_ERR_SYSTEM);
    } else if (rank == 1)
        keep(s, rank, work(&r, other, &e), &e);
    EXPECT(b->all_gather(b->ctx, &byte, all, 1) == 0);
    if (rank == 2)
        keep(s, rank, zero_comm_exchange(r.c, &byte, all, 1, &e), &e);
    end(&r, other);
    return 0;
}

START_TEST(error_that_nobody_asks_for_is_told)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->mode = "threads";
    ck_assert_int_eq(ranks_run(3, 100, unpublished_rank, s), 0);
    ck_assert_msg(s->why[0].status == ZERO_ERR_PEER && strncmp(s->why[0].text, "rank 0 of 3: NCCL: ", 19) == 0, "%d %s",
                  s->why[0].status, s->why[0].text);
    for (int r = 1; r < 3; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_PEER);
        ck_assert_str_eq(s->why[r].text, s->why[0].text);
    }
}
END_TEST

/* A call that should return at once does not return. */
static int stuck_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup;
    nccl_rank_t r;
    zero_comm_t *other;
    zero_error_t e = {0};
    (void)world;
    set_up(&setup, s, rank == 0 ? "call-hangs=3" : NULL, rank == 0 ? 10 : 0);
    if (begin(&r, &other, b, &setup))
        return 1;
    keep(s, rank, work(&r, other, &e), &e);
    if (rank == 0)
        zero_comm_abort(r.c, e.text);
    end(&r, other);
    return 0;
}

START_TEST(call_that_does_not_return)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->mode = "threads";
    ck_assert_int_eq(ranks_run(2, 100, stuck_rank, s), 0);
    ck_assert_msg(s->why[0].status == ZERO_ERR_TIMEOUT, "%d %s", s->why[0].status, s->why[0].text);
    ck_assert_int_eq(s->why[1].status, ZERO_ERR_PEER);
    ck_assert_str_eq(s->why[1].text, s->why[0].text);
}
END_TEST

/* ---- communicators that fail to start or end -------------------------------------------------------------------- */

typedef struct start_case {
    const char *faults; /* rank 1's faults */
    const char *sentence;
    double timeout_s; /* limit for the start, if it is to time out */
    bool split;       /* the split fails, not the start */
} start_case_t;

static const start_case_t start_cases[] = {
    {.faults = "init-hangs", .sentence = "starting NCCL 3", .timeout_s = 3},
    {.faults = "init-fails", .sentence = "starting NCCL `a socket was refused`"},
    {.faults = "split-hangs", .sentence = "splitting NCCL 1", .split = true},
};

static int start_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    const start_case_t *t = arg;
    nccl_setup_t setup = {.mode = "threads", .faults = rank == 1 ? t->faults : NULL, .timeout_s = t->timeout_s};
    nccl_rank_t r;
    zero_comm_t *other = NULL;
    zero_error_t e = {0};
    char byte = 0, all[8];
    if (nccl_rank_begin(&r, rank, world, b, &setup))
        return 1;
    zero_status_t status = nccl_open(&r, &setup, NULL, &e);
    if (t->split) {
        EXPECT(status == ZERO_OK);
        r.c->options.timeout_s = 1;
        status = zero_comm_split(r.c, 0, 0, &other, &e);
        EXPECT(gather(&r, r.c, 0, &e) != ZERO_OK);
        EXPECT(zero_comm_split(r.c, 0, 0, &other, &e) != ZERO_OK);
    } else
        EXPECT(r.c == NULL);
    EXPECT(status != ZERO_OK && other == NULL);
    if (!has_names(e.text, t->sentence)) {
        fprintf(stderr, "rank %d: '%s' and not '%s'\n", rank, e.text, t->sentence);
        return 1;
    }
    /* Ranks that waited for it must get the error. */
    EXPECT(zero_comm_exchange(r.host, &byte, all, 1, &e) == ZERO_ERR_PEER);
    nccl_rank_close(&r);
    return 0;
}

START_TEST(communicator_that_does_not_come_about)
{
    ck_assert_int_eq(ranks_run(3, 100, start_rank, (void *)&start_cases[_i]), 0);
}
END_TEST

/* ---- windows that cannot be made -------------------------------------------------------------------------------- */

/* What rank 1 does while the others make a window. */
typedef struct window_case {
    enum { HANGS, STAYS_AWAY, DIES, HAS_LESS, HAS_PLAIN_MEMORY, WINDOW_CASES } what;
    zero_status_t status[2]; /* of ranks 0 and 1 */
    const char *sentence;    /* rank 0's */
    double timeout_s;        /* rank 0's */
    shared_t *shared;
} window_case_t;

static const window_case_t window_cases[WINDOW_CASES] = {
    {HANGS, {ZERO_ERR_TIMEOUT, ZERO_ERR_PEER}, "NCCL window 600000 2", 2, NULL},
    {STAYS_AWAY, {ZERO_ERR_TIMEOUT, ZERO_ERR_PEER}, "NCCL window 600000 2", 2, NULL},
    {DIES, {ZERO_ERR_PEER, ZERO_OK}, "`rank 1`", 60, NULL},
    {HAS_LESS, {ZERO_ERR_SYSTEM, ZERO_ERR_SYSTEM}, "`memory of ncclCommWindowRegister`", 60, NULL},
    {HAS_PLAIN_MEMORY,
     {ZERO_ERR_PEER, ZERO_ERR_SYSTEM},
     "`rank 1` window 600000 `memory of ncclCommWindowRegister`",
     60,
     NULL},
};

static int window_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    const window_case_t *t = arg;
    bool odd = rank == 1;
    nccl_setup_t setup = {
        .mode = "threads", .faults = odd && t->what == HANGS ? "window-hangs" : NULL, .windows = true};
    nccl_rank_t r;
    zero_comm_t *other;
    zero_arena_t *plain;
    zero_error_t e = {0};
    char done = 0, all[4];
    if (nccl_rank_open(&r, b, &setup))
        return 1;
    EXPECT_OK(zero_comm_split(r.c, 0, rank, &other, error));
    EXPECT_OK(r.device->ops->arena_create(r.device, ZERO_TIER_DEVICE, NCCL_STREAMS * r.room_bytes, &plain, error));
    if (odd && t->what == DIES)
        raise(SIGKILL);
    if (rank == 0)
        other->options.timeout_s = t->timeout_s;
    void *memory = odd && t->what == HAS_PLAIN_MEMORY ? r.device->ops->arena_base(plain) : r.room[0];
    uint64_t bytes = NCCL_STREAMS * r.room_bytes - (odd && t->what == HAS_LESS ? 4096 : 0);
    if (!(odd && t->what == STAYS_AWAY))
        keep(t->shared, rank, zero_comm_attach(other, memory, bytes, &e), &e);
    else {
        EXPECT(b->all_gather(b->ctx, &done, all, 1) == 0);
        keep(t->shared, rank, zero_comm_attach(other, memory, bytes, &e), &e);
    }
    if (!odd && t->what == STAYS_AWAY)
        EXPECT(b->all_gather(b->ctx, &done, all, 1) == 0);
    if (is_over(&r, other, (zero_status_t)t->shared->why[rank].status))
        return 1;
    r.device->ops->arena_destroy(plain);
    end(&r, other);
    EXPECT(nccl_counts().comms == 0 && nccl_counts().aborted == 2 && nccl_windows() == 0);
    (void)world;
    return 0;
}

START_TEST(window_that_does_not_come_about)
{
    window_case_t t = window_cases[_i];
    int status[3];
    t.shared = ranks_shared(sizeof *t.shared);
    ck_assert_int_eq(ranks_run_status(3, 100, window_rank, &t, status), 0);
    for (int r = 0; r < 3; r++)
        ck_assert(r == 1 && t.what == DIES ? WIFSIGNALED(status[r]) : status[r] == 0);
    for (int r = 0; r < 2; r++) /* with less memory all ranks fail, and the first of them may tell the others */
        ck_assert_msg(t.shared->why[r].status == t.status[r] ||
                          (t.what == HAS_LESS && t.shared->why[r].status == ZERO_ERR_PEER),
                      "rank %d: %d %s", r, t.shared->why[r].status, t.shared->why[r].text);
    ck_assert_msg(has_names(t.shared->why[0].text, t.sentence), "%s", t.shared->why[0].text);
    ck_assert_msg(t.shared->why[2].status != ZERO_OK && t.shared->why[2].text[0], "%s", t.shared->why[2].text);
}
END_TEST

static int endless_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = "threads", .faults = rank == 1 ? "finalize-hangs" : NULL};
    nccl_rank_t r;
    zero_comm_t *other;
    (void)world, (void)arg;
    if (begin(&r, &other, b, &setup))
        return 1;
    r.c->options.timeout_s = other->options.timeout_s = 1;
    end(&r, other);
    nccl_counts_t n = nccl_counts();
    EXPECT(n.comms == 0 && n.aborted == (rank == 1 ? 2 : 0) && n.destroyed == (rank == 1 ? 0 : 2) &&
           r.aborted == (rank == 1));
    return 0;
}

START_TEST(communicator_that_does_not_end)
{
    ck_assert_int_eq(ranks_run(2, 100, endless_rank, NULL), 0);
}
END_TEST

TCase *nccl_faults_case(void)
{
    TCase *t = tcase_create("faults");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, killed_rank_is_named, 0, 2);
    tcase_add_loop_test(t, abort_reaches_everyone, 0, 2);
    tcase_add_loop_test(t, late_rank_is_a_timeout, 0, 2);
    tcase_add_loop_test(t, error_of_nccl_is_told, 0, 2);
    tcase_add_test(t, error_that_nobody_asks_for_is_told);
    tcase_add_test(t, call_that_does_not_return);
    tcase_add_loop_test(t, communicator_that_does_not_come_about, 0, (int)(sizeof start_cases / sizeof *start_cases));
    tcase_add_loop_test(t, window_that_does_not_come_about, 0, WINDOW_CASES);
    tcase_add_test(t, communicator_that_does_not_end);
    return t;
}
