/* SPDX-License-Identifier: Apache-2.0 */
/* comm_tcp.c - ranks that meet as torchrun's ranks do on several nodes. Here each rank is a node, at an address of this
 * machine. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_tcp.h"
#include "tests/comm_cases.h"
#include "tests/ranks.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ADDRESS "127.0.0.7"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void nap(double seconds)
{
    nanosleep(
        &(struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)},
        NULL);
}

static void set_number(const char *name, long value)
{
    char text[32];
    snprintf(text, sizeof text, "%ld", value);
    setenv(name, text, 1);
}

/* A different port for each running test program, with room for the ports after it. */
static int first_port(void)
{
    return 10000 + 16 * (int)(getppid() % 1300);
}

static zero_status_t meet(zero_comm_t **c, int rank, int world, double timeout_s, zero_error_t *error)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = timeout_s;
    set_number("RANK", rank);
    set_number("WORLD_SIZE", world);
    set_number("LOCAL_WORLD_SIZE", 1);
    setenv("MASTER_ADDR", ADDRESS, 1);
    set_number("MASTER_PORT", first_port());
    setenv("TORCHELASTIC_RUN_ID", "a run", 1);
    return zero_comm_torchrun(c, &o, error);
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* Exchanges bytes that depend on the rank, on seed and on the position. */
static int exchange_case(zero_comm_t *c, size_t bytes, unsigned seed)
{
    unsigned char *own = malloc(bytes + 1), *all = malloc(bytes * (size_t)c->size + 1);
    EXPECT(own && all);
    for (size_t i = 0; i < bytes; i++)
        own[i] = (unsigned char)((unsigned)c->rank * 7 + seed + i * 13 + (i >> 8));
    EXPECT_OK(zero_comm_exchange(c, own, all, bytes, error));
    for (int r = 0; r < c->size; r++)
        for (size_t i = 0; i < bytes; i++)
            EXPECT(all[(size_t)r * bytes + i] == (unsigned char)((unsigned)r * 7 + seed + i * 13 + (i >> 8)));
    free(own);
    free(all);
    return 0;
}

static int exchange_cases(zero_comm_t *c, unsigned seed)
{
    static const size_t sizes[] = {8, 0, 1, 65536, 300001, 3};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (exchange_case(c, sizes[i], seed + (unsigned)i))
            return 1;
    return 0;
}

static int no_data(zero_comm_t *c)
{
    zero_error_t e = {0};
    char byte[64] = {0};
    EXPECT(!zero_comm_has_data(c) && !c->caps.host_pointers && !c->caps.device_pointers &&
           strcmp(zero_comm_name(c), "tcp") == 0 && c->caps.node_ranks == c->size);
    EXPECT(zero_comm_all_gather(c, byte, byte, 1, NULL, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "mpiexec"));
    EXPECT(zero_comm_reduce_scatter(c, byte, byte, 1, ZERO_FP32, NULL, &e) == ZERO_ERR_UNSUPPORTED &&
           has_names(e.text, "mpiexec"));
    zero_device_t *device;
    zero_engine_t *engine = NULL;
    zero_comm_t *staged = NULL;
    zero_config_t config;
    EXPECT_OK(zero_device_cpu(&device, NULL, error));
    zero_config_init(&config);
    config.comm = c;
    config.device = device;
    EXPECT(zero_create(&engine, &config, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "mpiexec") && !engine);
    EXPECT(zero_comm_staged(&staged, c, device, 0, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "mpiexec") &&
           !staged);
    zero_device_destroy(device);
    return 0;
}

static int split_cases(zero_comm_t *c)
{
    zero_comm_t *part, *again;
    EXPECT_OK(zero_comm_split(c, c->rank & 1, -c->rank, &part, error));
    EXPECT(part->size == (c->size + 1 - (c->rank & 1)) / 2 && part->rank == part->size - 1 - c->rank / 2);
    if (exchange_cases(part, 100 + (unsigned)(c->rank & 1)) || exchange_cases(c, 3))
        return 1;
    EXPECT_OK(zero_comm_split(part, 7, 0, &again, error));
    EXPECT(again->rank == part->rank && again->size == part->size);
    zero_comm_destroy(part);
    if (exchange_cases(again, 200 + (unsigned)(c->rank & 1)))
        return 1;
    zero_comm_destroy(again);
    return exchange_cases(c, 5);
}

typedef struct thread_arg {
    zero_comm_t *comm;
    unsigned seed;
    int result;
} thread_arg_t;

static void *thread_main(void *p)
{
    thread_arg_t *a = p;
    a->result = 0;
    for (unsigned i = 0; i < 40 && !a->result; i++)
        a->result = exchange_case(a->comm, 1000 * (i % 5), a->seed + i);
    return NULL;
}

/* Several communicators at the same time, while this thread checks for failures. */
static int thread_cases(zero_comm_t *c)
{
    enum { THREADS = 3 };
    thread_arg_t a[THREADS];
    pthread_t threads[THREADS];
    int result = 0;
    for (int i = 0; i < THREADS; i++) {
        a[i] = (thread_arg_t){.seed = 1000 + (unsigned)i};
        EXPECT_OK(zero_comm_split(c, i == 1 ? c->rank & 1 : 0, i & 1 ? -c->rank : c->rank, &a[i].comm, error));
    }
    for (int i = 0; i < THREADS; i++)
        EXPECT(pthread_create(&threads[i], NULL, thread_main, &a[i]) == 0);
    for (int i = 0; i < 200; i++) {
        EXPECT_OK(zero_comm_check(c, error));
        nap(1e-4);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        result |= a[i].result;
        zero_comm_destroy(a[i].comm);
    }
    return result;
}

static int cases_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)b, (void)arg;
    /* Twice at the same address. */
    for (int i = 0; i < 2; i++) {
        EXPECT_OK(meet(&c, rank, world, 60, error));
        EXPECT(c->rank == rank && c->size == world);
        if (exchange_cases(c, 1) || no_data(c) || split_cases(c) || thread_cases(c))
            return 1;
        zero_comm_destroy(c);
    }
    return 0;
}

START_TEST(nodes_exchange_and_split)
{
    ck_assert_int_eq(ranks_run(_i, 100, cases_rank, NULL), 0);
}
END_TEST

/* Some ranks destroy the communicator early. Rank 0 serves the others until they are done. */
static int early_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c, *part;
    (void)b, (void)arg;
    EXPECT_OK(meet(&c, rank, world, 60, error));
    EXPECT_OK(zero_comm_split(c, rank == 0, 0, &part, error));
    zero_comm_destroy(c);
    for (unsigned i = 0; i < 20 && rank; i++) {
        nap(0.01);
        if (exchange_case(part, 100, i))
            return 1;
    }
    zero_comm_destroy(part);
    return 0;
}

START_TEST(the_first_rank_leaves_last)
{
    ck_assert_int_eq(ranks_run(4, 100, early_rank, NULL), 0);
}
END_TEST

/* ---- meeting ---------------------------------------------------------------------------------------------------- */

static int listener_at(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, ADDRESS, &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 8) != 0)
        return -1;
    return fd;
}

/* "Rank 2" is not a rank here. It listens at the port without ever sending, as torchrun's store does. It receives
 * nothing. */
static int taken_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    char byte = 0;
    int listener = -1;
    (void)world, (void)arg;
    if (rank == 2)
        EXPECT((listener = listener_at(first_port())) >= 0);
    EXPECT(b->all_gather(b->ctx, &byte, (char[3]){0}, 1) == 0);
    if (rank == 2) {
        int fd = accept(listener, NULL, NULL);
        EXPECT(fd >= 0 && recv(fd, &byte, 1, 0) == 0);
        EXPECT(b->all_gather(b->ctx, &byte, (char[3]){0}, 1) == 0);
        return 0;
    }
    EXPECT_OK(meet(&c, rank, 2, 60, error));
    EXPECT(b->all_gather(b->ctx, &byte, (char[3]){0}, 1) == 0);
    if (exchange_cases(c, 1))
        return 1;
    zero_comm_destroy(c);
    /* If torchrun says that it uses the port itself, the ranks do not connect to it. */
    setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
    EXPECT_OK(meet(&c, rank, 2, 60, error));
    zero_comm_destroy(c);
    return 0;
}

START_TEST(nodes_meet_beside_a_taken_port)
{
    ck_assert_int_eq(ranks_run(3, 100, taken_rank, NULL), 0);
}
END_TEST

/* "Rank 2" is not a rank here. It connects to rank 0 and sends bytes that no rank sends. */
static int stray_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)world, (void)b, (void)arg;
    if (rank == 2) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)first_port())};
        char text[400] = "GET / HTTP/1.1\r\n";
        int fd = -1;
        inet_pton(AF_INET, ADDRESS, &address.sin_addr);
        for (double end = now() + 30; now() < end; nap(0.002)) {
            fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
                break;
            close(fd);
        }
        EXPECT(send(fd, text, sizeof text, MSG_NOSIGNAL) == (ssize_t)sizeof text);
        while (recv(fd, text, sizeof text, 0) > 0) /* until rank 0 closes the connection */
            ;
        return 0;
    }
    if (rank == 1)
        nap(0.5); /* so that the stray connects first */
    EXPECT_OK(meet(&c, rank, 2, 60, error));
    if (exchange_cases(c, 1))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(nodes_meet_beside_a_stray)
{
    ck_assert_int_eq(ranks_run(3, 100, stray_rank, NULL), 0);
}
END_TEST

typedef struct endings {
    zero_error_t why[4];
    double seconds[4];
    _Atomic int ready;
} endings_t;

static void note(endings_t *s, int rank, zero_status_t status, const zero_error_t *e, double since)
{
    s->why[rank] = *e;
    s->why[rank].status = status;
    s->seconds[rank] = now() - since;
}

/* Two ranks claim to be rank 1: all ranks get the error long before the time limit. */
static int twice_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    double start = now();
    (void)b;
    note(arg, rank, meet(&c, rank == 2 ? 1 : rank, world, rank == 2 ? 3 : 300, &e), &e, start);
    EXPECT(c == NULL);
    return 0;
}

START_TEST(nodes_hear_why_they_are_refused)
{
    endings_t *s = ranks_shared(sizeof *s);
    int mismatches = 0;
    ck_assert_int_eq(ranks_run(3, 100, twice_rank, s), 0);
    for (int r = 0; r < 3; r++)
        mismatches += s->why[r].status == ZERO_ERR_MISMATCH && has_names(s->why[r].text, "1 3");
    ck_assert_msg(mismatches == 3, "'%s', '%s', '%s'", s->why[0].text, s->why[1].text, s->why[2].text);
}
END_TEST

/* Rank 2 never arrives. */
static int absent_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    double start = now();
    (void)b;
    if (rank != 2)
        note(arg, rank, meet(&c, rank, world, 1, &e), &e, start);
    return 0;
}

START_TEST(nodes_do_not_wait_for_ever_to_meet)
{
    endings_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(3, 100, absent_rank, s), 0);
    for (int r = 0; r < 2; r++)
        ck_assert_msg(s->why[r].status == ZERO_ERR_TIMEOUT && s->seconds[r] < 20, "rank %d: %d '%s' after %g s", r,
                      s->why[r].status, s->why[r].text, s->seconds[r]);
    ck_assert_msg(has_names(s->why[0].text, "`rank 0` 1 3 2"), "'%s'", s->why[0].text);
}
END_TEST

static int environment_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    (void)b, (void)arg, (void)world;
    meet(&c, rank, 1, 1, &e); /* sets the environment */
    set_number("LOCAL_WORLD_SIZE", 2);
    EXPECT(zero_comm_torchrun(&c, NULL, &e) == ZERO_ERR_ARG && has_names(e.text, "LOCAL_WORLD_SIZE 2 WORLD_SIZE 1"));
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = 0.2;
    set_number("RANK", 1);
    set_number("WORLD_SIZE", 2);
    set_number("LOCAL_WORLD_SIZE", 1);
    setenv("MASTER_ADDR", "no-such-machine.invalid", 1);
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_SYSTEM &&
           has_names(e.text, "MASTER_ADDR 'no-such-machine.invalid'"));
    set_number("RANK", 0);
    EXPECT(zero_comm_torchrun(&c, &o, &e) == ZERO_ERR_SYSTEM &&
           has_names(e.text, "MASTER_ADDR 'no-such-machine.invalid'"));
    return 0;
}

START_TEST(nodes_say_what_they_do_not_find)
{
    ck_assert_int_eq(ranks_run(1, 100, environment_rank, NULL), 0);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

enum { KILL, STOP, LATE, LEAVE, ABORT, SIZES };

typedef struct fault {
    int kind, rank;
    pid_t process; /* the faulty rank's */
    endings_t endings;
} fault_t;

/* Ranks exchange until the faulty rank misbehaves. The other ranks record how their calls end. Each rank also uses a
 * part without rank 0, which ends as well. */
static int faulty_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    fault_t *f = arg;
    zero_comm_t *c, *part;
    zero_error_t e = {0};
    char own[8] = {0}, all[4 * 8];
    zero_status_t status = ZERO_OK;
    bool faulty = rank == f->rank;
    EXPECT_OK(meet(&c, rank, world, f->kind == LATE || f->kind == STOP ? 1 : 60, error));
    EXPECT_OK(zero_comm_split(c, rank > 0, 0, &part, error));
    for (unsigned i = 0; i < 3; i++)
        if (exchange_case(c, 8, i) || exchange_case(part, 8, i))
            return 1;
    if (faulty)
        f->process = getpid();
    EXPECT(b->all_gather(b->ctx, own, all, 1) == 0);
    double start = now();
    if (faulty && f->kind == KILL)
        raise(SIGKILL);
    if (faulty && f->kind == STOP)
        raise(SIGSTOP);
    if (faulty && f->kind == LATE)
        nap(3);
    if (faulty && f->kind == ABORT)
        zero_comm_abort(part, "the faulty rank's sentence");
    if (faulty && f->kind == LEAVE)
        zero_comm_destroy(part), zero_comm_destroy(c);
    else {
        status = zero_comm_exchange(c, own, all, faulty && f->kind == SIZES ? 4 : 8, &e);
        note(&f->endings, rank, status, &e, start);
        EXPECT(status != ZERO_OK && zero_comm_exchange(c, own, all, 8, &e) == status &&
               strcmp(e.text, f->endings.why[rank].text) == 0);
    }
    atomic_fetch_add(&f->endings.ready, 1);
    if (f->kind == LEAVE && faulty)
        return 0;
    for (double end = now() + 20;
         atomic_load(&f->endings.ready) < world - (f->kind == KILL || f->kind == STOP) && now() < end;)
        nap(0.01);
    if (f->kind == STOP && rank == (f->rank == 0))
        kill(f->process, SIGKILL);
    /* The abort also reaches ranks that are not waiting, and through each of their communicators. */
    if (f->kind == KILL || f->kind == ABORT) {
        EXPECT(zero_comm_exchange(part, own, all, 8, &e) == ZERO_ERR_PEER &&
               strcmp(e.text, f->endings.why[rank].text) == 0);
        EXPECT(zero_comm_check(part, &e) == ZERO_ERR_PEER && strcmp(e.text, f->endings.why[rank].text) == 0);
    }
    if (f->kind == LATE || f->kind == SIZES || f->kind == LEAVE || f->kind == STOP)
        zero_comm_abort(c, "as after any failure"); /* so that no rank waits for others to leave */
    zero_comm_destroy(c);
    zero_comm_destroy(part);
    return 0;
}

typedef struct expectation {
    int kind, rank;
    zero_status_t status;
    zero_reason_t reason;
    const char *text; /* names in the sentence */
    double within;
} expectation_t;

static const expectation_t faults[] = {
    {KILL, 2, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, "`rank 2` pid", 10},
    {KILL, 0, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, "`rank 0` pid", 10},
    {STOP, 0, ZERO_ERR_TIMEOUT, ZERO_REASON_NONE, "exchange `rank 0` pid", 20},
    {STOP, 1, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, "exchange `rank 1` 1", 20},
    {LATE, 2, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, "exchange `rank 2` 1", 20},
    {LATE, 0, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, "exchange `rank 0` 1", 20},
    {LEAVE, 1, ZERO_ERR_PEER, ZERO_REASON_RANK_LEFT, "exchange `rank 1`", 10},
    {ABORT, 1, ZERO_ERR_PEER, ZERO_REASON_ABORTED, "`the faulty rank's sentence`", 10},
    {ABORT, 0, ZERO_ERR_PEER, ZERO_REASON_ABORTED, "`the faulty rank's sentence`", 10},
    {SIZES, 2, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, "`rank 2` 4 8", 10},
};

START_TEST(nodes_hear_of_failures)
{
    const expectation_t *x = &faults[_i];
    enum { WORLD = 4 };
    int status[WORLD];
    fault_t *f = ranks_shared(sizeof *f);
    f->kind = x->kind;
    f->rank = x->rank;
    ck_assert_int_eq(ranks_run_status(WORLD, 60, faulty_rank, f, status), 0);
    for (int r = 0; r < WORLD; r++) {
        bool faulty = r == x->rank;
        ck_assert_msg(faulty && (x->kind == KILL || x->kind == STOP)
                          ? WIFSIGNALED(status[r])
                          : WIFEXITED(status[r]) && WEXITSTATUS(status[r]) == 0,
                      "rank %d ended with wait status %d", r, status[r]);
        if (faulty && (x->kind == KILL || x->kind == STOP || x->kind == LEAVE))
            continue;
        /* The first rank that finds a difference aborts the others, which then fail with ZERO_ERR_PEER. */
        zero_status_t status = x->kind == SIZES && f->endings.why[r].status == ZERO_ERR_PEER ? ZERO_ERR_MISMATCH
                                                                                             : f->endings.why[r].status;
        ck_assert_msg(status == x->status && f->endings.why[r].reason == (int32_t)x->reason &&
                          has_names(f->endings.why[r].text, x->text) && f->endings.seconds[r] < x->within &&
                          (x->kind == SIZES || x->reason == ZERO_REASON_NONE || f->endings.why[r].rank == x->rank),
                      "rank %d: status %d, '%s' after %g s", r, f->endings.why[r].status, f->endings.why[r].text,
                      f->endings.seconds[r]);
    }
}
END_TEST

/* All ranks abort at once. All of them report the same sentence. */
static int chorus_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    endings_t *s = arg;
    zero_comm_t *c;
    zero_error_t e = {0};
    char sentence[40];
    double start = now();
    (void)b;
    EXPECT_OK(meet(&c, rank, world, 60, error));
    if (exchange_case(c, 8, 1))
        return 1;
    snprintf(sentence, sizeof sentence, "the sentence of rank %d", rank);
    zero_comm_abort(c, sentence);
    note(s, rank, zero_comm_check(c, &e), &e, start);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(nodes_have_one_sentence)
{
    endings_t *s = ranks_shared(sizeof *s);
    ck_assert_int_eq(ranks_run(4, 60, chorus_rank, s), 0);
    ck_assert_int_eq(strncmp(s->why[0].text, "the sentence of rank ", 21), 0);
    for (int r = 0; r < 4; r++) {
        ck_assert_int_eq(s->why[r].status, ZERO_ERR_PEER);
        ck_assert_str_eq(s->why[r].text, s->why[0].text);
    }
}
END_TEST

TCase *comm_tcp_case(void)
{
    TCase *t = tcase_create("tcp");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, nodes_exchange_and_split, 2, 6);
    tcase_add_test(t, the_first_rank_leaves_last);
    tcase_add_test(t, nodes_meet_beside_a_taken_port);
    tcase_add_test(t, nodes_meet_beside_a_stray);
    tcase_add_test(t, nodes_hear_why_they_are_refused);
    tcase_add_test(t, nodes_do_not_wait_for_ever_to_meet);
    tcase_add_test(t, nodes_say_what_they_do_not_find);
    tcase_add_loop_test(t, nodes_hear_of_failures, 0, (int)(sizeof faults / sizeof *faults));
    tcase_add_test(t, nodes_have_one_sentence);
    return t;
}
