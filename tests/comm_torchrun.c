/* SPDX-License-Identifier: Apache-2.0 */
/* comm_torchrun.c - ranks that meet as torchrun's ranks do. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_torchrun.h"
#include "tests/comm_cases.h"
#include "tests/ranks.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void set_number(const char *name, long value)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    setenv(name, text, 1);
}

static int torchrun_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_options_t o;
    zero_comm_t *c;
    zero_error_t e = {0};
    (void)b;
    zero_comm_options_init(&o);
    o.timeout_s = 30;
    set_number("RANK", rank);
    set_number("WORLD_SIZE", world);
    set_number("LOCAL_RANK", rank);
    set_number("LOCAL_WORLD_SIZE", world);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", *(int *)arg);
    setenv("TORCHELASTIC_RUN_ID",
           "a run with a very long name, longer than the name of a socket may be: 0123456789 0123456789 "
           "0123456789 0123456789",
           1);
    /* Twice at the same address. */
    for (int i = 0; i < 2; i++) {
        EXPECT_OK(zero_comm_torchrun(&c, &o, error));
        EXPECT(c->rank == rank && c->size == world);
        if (comm_ring_cases(c) || comm_cases(c, 7))
            return 1;
        zero_comm_destroy(c);
    }
    set_number("LOCAL_WORLD_SIZE", world + 1);
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_ARG && has_names(e.text, "LOCAL_WORLD_SIZE"));
    setenv("RANK", "two", 1);
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_ARG && has_names(e.text, "RANK"));
    set_number("RANK", world);
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_ARG);
    unsetenv("WORLD_SIZE");
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_ARG && has_names(e.text, "WORLD_SIZE"));
    set_number("WORLD_SIZE", 2);
    set_number("LOCAL_WORLD_SIZE", 2);
    set_number("RANK", 1);
    set_number("MASTER_PORT", *(int *)arg + 1);
    o.timeout_s = 0.1; /* no rank listens there */
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_TIMEOUT);
    return 0;
}

START_TEST(torchrun_ranks_meet)
{
    int port = 1024 + (int)getpid() % 60000;
    ck_assert_int_eq(ranks_run(_i, 100, torchrun_rank, &port), 0);
}
END_TEST

static void torchrun_environment(int rank, int world, int port)
{
    set_number("RANK", rank);
    set_number("WORLD_SIZE", world);
    set_number("LOCAL_WORLD_SIZE", world);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", port);
    setenv("TORCHELASTIC_RUN_ID", "a run", 1);
    setenv("TORCHELASTIC_RESTART_COUNT", "0", 1);
}

/* Connects to the socket where the ranks meet. torchrun.c defines its name. */
static int connect_to_meeting(int port)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint64_t h = 0xcbf29ce484222325u;
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    const char *parts[] = {"127.0.0.1", text, "a run", "0"};
    for (int i = 0; i < 4; i++) {
        for (const char *p = parts[i]; *p; p++)
            h = (h ^ (unsigned char)*p) * 0x100000001b3u;
        h = (h ^ 0xff) * 0x100000001b3u;
    }
    int n = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "zero-%u-%016llx", (unsigned)getuid(),
                     (unsigned long long)h);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    for (double end = now() + 30; now() < end; nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL)) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&address, length) == 0)
            return fd;
        close(fd);
    }
    return -1;
}

typedef struct silence {
    int port;
    atomic_bool there;
} silence_t;

/* Ranks 0 and 1 meet although "rank 2", which connected before rank 1, never sends anything. Rank 0 drops that
 * connection. */
static int silent_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    silence_t *s = arg;
    zero_comm_options_t o;
    zero_comm_t *c;
    char byte;
    (void)world, (void)b;
    zero_comm_options_init(&o);
    o.timeout_s = 40;
    if (rank == 2) {
        int fd = connect_to_meeting(s->port);
        EXPECT(fd >= 0);
        atomic_store(&s->there, true);
        EXPECT(recv(fd, &byte, 1, 0) == 0);
        return 0;
    }
    for (double end = now() + 30; rank == 1 && !atomic_load(&s->there) && now() < end;)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    torchrun_environment(rank, 2, s->port);
    EXPECT_OK(zero_comm_torchrun(&c, &o, error));
    zero_comm_destroy(c);
    return 0;
}

START_TEST(torchrun_ranks_meet_beside_a_silent_one)
{
    silence_t *s = ranks_shared(sizeof *s);
    s->port = 1024 + (int)getpid() % 60000;
    ck_assert_int_eq(ranks_run(3, 100, silent_rank, s), 0);
}
END_TEST

typedef struct endings {
    int status[3];
    char text[3][1000];
} endings_t;

/* Two ranks claim to be the same rank: both, and rank 0, get the error long before the time limit. */
static int twice_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_options_t o;
    zero_comm_t *c;
    endings_t *s = arg;
    zero_error_t e = {0};
    (void)b;
    zero_comm_options_init(&o);
    o.timeout_s = 300; /* longer than ranks_run below waits */
    torchrun_environment(rank == 2 ? 1 : rank, world, 1024 + (int)getppid() % 60000);
    s->status[rank] = (int)zero_comm_torchrun(&c, &o, &e);
    snprintf(s->text[rank], sizeof s->text[rank], "%s", e.text);
    EXPECT(c == NULL);
    return 0;
}

START_TEST(torchrun_ranks_hear_why_they_are_refused)
{
    endings_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(3, 100, twice_rank, s), 0);
    for (int r = 0; r < 3; r++) {
        ck_assert_int_eq(s->status[r], ZERO_ERR_MISMATCH);
        ck_assert_str_eq(s->text[r], "a rank connected as 1 of 3, but rank 0 expects each of 1 to 2 of 3 once");
    }
}
END_TEST

/* Rank _i of two hosts gets an unresolvable name for rank 0's host: an error long before the ranks' time limit. */
START_TEST(torchrun_names_that_are_unknown)
{
    zero_comm_options_t o;
    zero_comm_t *c;
    zero_error_t e = {0};
    zero_comm_options_init(&o);
    o.timeout_s = 600; /* the test's own limit is a fifth of it */
    torchrun_environment(_i, 2, 1024 + (int)getpid() % 60000);
    set_number("LOCAL_WORLD_SIZE", 1);
    setenv("MASTER_ADDR", "no such host", 1);
    ck_assert_int_eq(zero_comm_torchrun(&c, &o, &e), ZERO_ERR_SYSTEM);
    ck_assert_ptr_null(c);
    ck_assert_msg(has_names(e.text, "MASTER_ADDR 'no such host'"), "%s", e.text);
}
END_TEST

TCase *comm_torchrun_case(void)
{
    TCase *t = tcase_create("torchrun");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, torchrun_ranks_meet, 1, 4);
    tcase_add_test(t, torchrun_ranks_meet_beside_a_silent_one);
    tcase_add_test(t, torchrun_ranks_hear_why_they_are_refused);
    tcase_add_loop_test(t, torchrun_names_that_are_unknown, 0, 2);
    return t;
}
