/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_links.c - transfers through NCCL. Ranks 1 and 2 of three have a link, in which they are ranks 0 and 1; sentences
 * name them by their numbers of the first communicator. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/nccl_tests.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static const char *const modes[] = {"inline", "threads"};

enum { WORLD = 3 };

typedef enum what { SEND_EARLY, KILLED, LATE, NEVER_MEET, CASES } what_t;

typedef struct shared {
    const char *mode;
    what_t what;
    zero_error_t why[WORLD];
} shared_t;

static int links_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = *(const char *const *)arg};
    nccl_rank_t r;
    (void)rank, (void)world;
    if (nccl_rank_open(&r, b, &setup) || comm_link_cases(r.c, r.device))
        return 1;
    nccl_rank_close(&r);
    EXPECT(nccl_counts().comms == 0 && nccl_counts().aborted == 0 && !r.aborted);
    return 0;
}

START_TEST(links_work_side_by_side)
{
    ck_assert_int_eq(ranks_run(WORLD, 200, links_rank, (void *)&modes[_i]), 0);
}
END_TEST

/* A transfer, the wait for its stream and the check of its result, as a trainer does. */
static zero_status_t transfer(nccl_rank_t *r, zero_comm_t *link, bool sends, zero_error_t *e)
{
    zero_status_t status = sends ? zero_comm_send(link, r->room[0], NCCL_SLICE, r->native[0], e)
                                 : zero_comm_recv(link, r->room[0], NCCL_SLICE, r->native[0], e);
    zero_error_t why = {0};
    if (r->device->ops->finish(r->device, r->native[0], 50, &why))
        return zero_fail(e, ZERO_ERR_PLAN, "the stream did not run dry: %s", why.text);
    return status ? status : zero_comm_check(link, e);
}

static int wait_for_all(const zero_bootstrap_t *b)
{
    char done = 0, all[WORLD];
    return b->all_gather(b->ctx, &done, all, 1);
}

/* The call of a send returns before the other rank calls recv. */
static int send_early(nccl_rank_t *r, zero_comm_t *link, int rank, const zero_bootstrap_t *b)
{
    const zero_device_ops_t *d = r->device->ops;
    static char data[NCCL_SLICE];
    zero_error_t e = {0};
    memset(data, 3, sizeof data);
    if (rank == 1) {
        EXPECT_OK(d->copy(r->device, r->native[0], r->room[0], data, sizeof data, error));
        EXPECT_OK(zero_comm_send(link, r->room[0], sizeof data, r->native[0], error));
    }
    EXPECT(wait_for_all(b) == 0);
    if (rank == 2) {
        EXPECT(transfer(r, link, false, &e) == ZERO_OK);
        memset(data, 0, sizeof data);
        EXPECT_OK(d->copy(r->device, r->native[0], data, r->room[0], sizeof data, error));
        EXPECT_OK(d->finish(r->device, r->native[0], 60, error));
        for (size_t i = 0; i < sizeof data; i++)
            EXPECT(data[i] == 3);
    }
    EXPECT_OK(d->finish(r->device, r->native[0], 60, error));
    EXPECT(wait_for_all(b) == 0); /* a rank that leaves early is no failure of a rank that has waited */
    return 0;
}

static int case_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    shared_t *s = arg;
    nccl_setup_t setup = {.mode = s->mode};
    nccl_rank_t r;
    zero_comm_t *link;
    zero_error_t e = {0};
    zero_status_t status = ZERO_OK;
    (void)world;
    if (nccl_rank_open(&r, b, &setup))
        return 1;
    EXPECT_OK(zero_comm_link(r.c, rank ? 0 : -1, rank, &link, error));
    EXPECT((link == NULL) == (rank == 0) && wait_for_all(b) == 0);
    if (s->what == SEND_EARLY && send_early(&r, link, rank, b))
        return 1;
    if (s->what == KILLED && rank == 2)
        raise(SIGKILL);
    if (link && (s->what == LATE || s->what == NEVER_MEET))
        link->options.timeout_s = 1;
    if (s->what != SEND_EARLY && (rank == 1 || (rank == 2 && s->what == NEVER_MEET)))
        status = transfer(&r, link, true, &e);
    if (status && s->what != KILLED)
        zero_comm_fail(r.c, &e);
    if (s->what == LATE)
        EXPECT(wait_for_all(b) == 0); /* until here rank 2 is late */
    s->why[rank] = e;
    s->why[rank].status = status;
    zero_comm_destroy(link);
    nccl_rank_close(&r);
    EXPECT(nccl_counts().comms == 0 && (status || s->what != SEND_EARLY || nccl_counts().aborted == 0));
    return 0;
}

START_TEST(transfers_keep_their_promises)
{
    shared_t *s = ranks_shared(sizeof *s);
    int status[WORLD];
    s->mode = "threads";
    s->what = (what_t)_i;
    ck_assert_int_eq(ranks_run_status(WORLD, 100, case_rank, s, status), 0);
    ck_assert(status[0] == 0 && status[1] == 0);
    ck_assert(s->what == KILLED ? WIFSIGNALED(status[2]) : status[2] == 0);
    if (s->what == KILLED)
        EXPECT_ERROR(&s->why[1], ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, 2, "`rank 2`");
    if (s->what == LATE)
        EXPECT_ERROR(&s->why[1], ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, 2, "`rank 1` 1 send 100000 `rank 2`");
    /* NCCL compares nothing, so the time limit ends these. */
    for (int r = 1; r < WORLD && s->what == NEVER_MEET; r++)
        ck_assert_msg(s->why[r].status == ZERO_ERR_TIMEOUT || s->why[r].status == ZERO_ERR_PEER, "%s", s->why[r].text);
    if (s->what == SEND_EARLY)
        ck_assert_msg(s->why[1].status == ZERO_OK && s->why[2].status == ZERO_OK, "%s", s->why[2].text);
}
END_TEST

TCase *nccl_links_case(void)
{
    TCase *t = tcase_create("links");
    tcase_set_timeout(t, 220);
    tcase_add_loop_test(t, links_work_side_by_side, 0, 2);
    tcase_add_loop_test(t, transfers_keep_their_promises, 0, CASES);
    return t;
}
