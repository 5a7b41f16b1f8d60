/* SPDX-License-Identifier: Apache-2.0 */
/* comm_links.c - see comm_links.h. Ranks 1 and 2 of three have a link, in which they are ranks 0 and 1; sentences name
 * them by their numbers of the first communicator. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_links.h"
#include "tests/comm_cases.h"
#include "tests/ranks.h"
#include "zero/comm/backend.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { WORLD = 3 };

typedef struct shared {
    bool direct; /* transfers read the other rank's memory, if the system lets them */
    int victim;  /* the rank that dies, or is late */
    int kind;    /* of calls that do not meet */
    zero_error_t why[WORLD];
    double seconds[WORLD];
} shared_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Makes c, and link, which is NULL on rank 0. */
static int open_link(zero_comm_t **c, zero_comm_t **link, const zero_bootstrap_t *b, double timeout_s, bool direct)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = timeout_s;
    EXPECT_OK(zero_comm_shm(c, b, &o, error));
    EXPECT_OK(zero_comm_link(*c, b->rank == 0 ? -1 : 0, b->rank, link, error));
    char done = 0, all[WORLD];
    EXPECT(b->all_gather(b->ctx, &done, all, 1) == 0); /* an abort would reach a rank that is still in the call */
    if (*link) {
        zero_node_t *n = &((zero_local_t *)(*link)->control)->node;
        if (!direct)
            n->direct_bytes = UINT64_MAX;
        else if (n->direct_bytes != UINT64_MAX)
            n->direct_bytes = 1;
    }
    return 0;
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static int contents_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c, *link;
    (void)rank, (void)world;
    if (open_link(&c, &link, b, 60, *(int *)arg) || (link && comm_transfer_cases(link, 8)))
        return 1;
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(transfers_arrive)
{
    ck_assert_int_eq(ranks_run(WORLD, 60, contents_rank, &_i), 0);
}
END_TEST

static int ring_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)rank, (void)world, (void)arg;
    EXPECT_OK(zero_comm_shm(&c, b, NULL, error));
    if (comm_link_cases(c, NULL))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(links_work_side_by_side)
{
    ck_assert_int_eq(ranks_run(_i, 100, ring_rank, NULL), 0);
}
END_TEST

/* Many splits leave nothing behind: neither memory that ranks share nor ranks that do not agree. */
static int splits_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c, *part;
    (void)arg;
    EXPECT_OK(zero_comm_shm(&c, b, NULL, error));
    for (int i = 0; i < 100; i++) {
        EXPECT_OK(zero_comm_split(c, rank == i % world ? -1 : i, rank, &part, error));
        EXPECT((part == NULL) == (rank == i % world) && (!part || part->size == world - 1));
        zero_comm_destroy(part);
    }
    EXPECT_OK(zero_comm_split(c, -1, rank, &part, error));
    EXPECT(part == NULL);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(ranks_may_be_in_no_part)
{
    ck_assert_int_eq(ranks_run(_i, 60, splits_rank, NULL), 0);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

static int unmet_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    const shared_t *s = arg;
    zero_comm_t *c, *link;
    (void)rank, (void)world;
    if (open_link(&c, &link, b, 60, s->direct))
        return 1;
    if (link && comm_unmet_cases(link, s->kind, 1, 2))
        return 1;
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(transfers_that_do_not_meet_are_told)
{
    shared_t s = {.direct = _i & 1, .kind = _i / 2};
    ck_assert_int_eq(ranks_run(WORLD, 60, unmet_rank, &s), 0);
}
END_TEST

static void die(int signal)
{
    (void)signal;
    raise(SIGKILL);
}

/* Rank 1 sends to rank 2 until one of them dies: in the fourth transfer when it reaches the second half of its buffer,
 * or, if the other one accesses its memory, between two transfers. */
static int killed_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    zero_comm_t *c, *link;
    zero_error_t e = {0};
    const uint64_t bytes = 8 << 20;
    char *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)world;
    EXPECT(buffer != MAP_FAILED);
    if (open_link(&c, &link, b, 50, s->direct))
        return 1;
    double start = now();
    zero_status_t status = ZERO_OK;
    for (int i = 0; i < 1000 && link && status == ZERO_OK; i++) {
        if (rank == s->victim && i == 3) {
            signal(SIGSEGV, die);
            if (s->direct)
                raise(SIGKILL);
            EXPECT(mprotect(buffer + bytes / 2, bytes / 2, PROT_NONE) == 0);
        }
        status =
            rank == 1 ? zero_comm_send(link, buffer, bytes, NULL, &e) : zero_comm_recv(link, buffer, bytes, NULL, &e);
    }
    s->why[rank] = e;
    s->why[rank].status = status;
    s->seconds[rank] = now() - start;
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    munmap(buffer, bytes);
    return 0;
}

START_TEST(killed_rank_is_named)
{
    shared_t *s = ranks_shared(sizeof *s);
    int status[WORLD];
    s->direct = _i & 1;
    s->victim = 1 + _i / 2;
    ck_assert_int_eq(ranks_run_status(WORLD, 60, killed_rank, s, status), 0);
    ck_assert(WIFSIGNALED(status[s->victim]) && WTERMSIG(status[s->victim]) == SIGKILL);
    const int lives = 3 - s->victim;
    ck_assert(status[0] == 0 && status[lives] == 0);
    EXPECT_ERROR(&s->why[lives], ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, s->victim, lives == 1 ? "send" : "recv");
    ck_assert(s->seconds[lives] < 10);
}
END_TEST

static int late_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    zero_comm_t *c, *link;
    zero_error_t e = {0};
    static char buffer[100000];
    char done = 0, all[WORLD];
    (void)world;
    if (open_link(&c, &link, b, 0.3, s->direct))
        return 1;
    double start = now();
    if (link && rank != s->victim) {
        zero_status_t status = rank == 1 ? zero_comm_send(link, buffer, sizeof buffer, NULL, &e)
                                         : zero_comm_recv(link, buffer, sizeof buffer, NULL, &e);
        s->why[rank] = e;
        s->why[rank].status = status;
        s->seconds[rank] = now() - start;
    }
    EXPECT(b->all_gather(b->ctx, &done, all, 1) == 0);
    zero_comm_destroy(link);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(timeout_names_who_is_late)
{
    shared_t *s = ranks_shared(sizeof *s);
    s->direct = _i & 1;
    s->victim = 1 + _i / 2;
    const int waits = 3 - s->victim;
    ck_assert_int_eq(ranks_run(WORLD, 60, late_rank, s), 0);
    EXPECT_ERROR(&s->why[waits], ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, s->victim,
                 waits == 1 ? "`rank 1` `rank 2` send" : "`rank 1` `rank 2` recv");
    ck_assert(s->seconds[waits] >= 0.3);
}
END_TEST

TCase *comm_links_case(void)
{
    TCase *t = tcase_create("links");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, transfers_arrive, 0, 2);
    tcase_add_loop_test(t, links_work_side_by_side, 2, 4);
    tcase_add_loop_test(t, ranks_may_be_in_no_part, 1, 4);
    tcase_add_loop_test(t, transfers_that_do_not_meet_are_told, 0, 2 * COMM_UNMET_KINDS);
    tcase_add_loop_test(t, killed_rank_is_named, 0, 4);
    tcase_add_loop_test(t, timeout_names_who_is_late, 0, 4);
    return t;
}
