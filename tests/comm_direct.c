/* SPDX-License-Identifier: Apache-2.0 */
/* comm_direct.c - see comm_direct.h. If the system does not let ranks read each other's memory, all transfers use the
 * ring, which test_comm.c tests. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_direct.h"
#include "tests/comm_cases.h"
#include "tests/ranks.h"
#include "zero/comm/backend.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORLD_MOST = 4, LEAST = 65536 };

static zero_node_t *node_of(zero_comm_t *c)
{
    return &((zero_local_t *)c->control)->node;
}

static int open_shm(zero_comm_t **c, const zero_bootstrap_t *b, double timeout_s)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = timeout_s;
    EXPECT_OK(zero_comm_shm(c, b, &o, error));
    return 0;
}

/* Sets *yes to whether every rank can read a word of every other rank's memory. */
static int all_readable(const zero_bootstrap_t *b, bool *yes)
{
    struct info {
        uint64_t value, address;
        int pid, reads;
    } own = {.value = 77 + (uint64_t)b->rank, .address = (uintptr_t)&own.value, .pid = (int)getpid(), .reads = 1},
      all[WORLD_MOST];
    EXPECT(b->all_gather(b->ctx, &own, all, sizeof own) == 0);
    for (int r = 0; r < b->world; r++) {
        uint64_t word = 0;
        struct iovec here = {&word, sizeof word}, there = {(void *)(uintptr_t)all[r].address, sizeof word};
        own.reads &= process_vm_readv(all[r].pid, &here, 1, &there, 1, 0) == sizeof word && word == 77 + (uint64_t)r;
    }
    EXPECT(b->all_gather(b->ctx, &own, all, sizeof own) == 0);
    *yes = true;
    for (int r = 0; r < b->world; r++)
        *yes = *yes && all[r].reads;
    return 0;
}

/* Makes every later process_vm_readv in this process fail. Returns false if the kernel has no system call filters. */
static bool refuse_reading(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

/* The slices are longer than one read, and not a multiple of its size. */
static int long_slices(zero_comm_t *c, bool in_place)
{
    size_t words = (33u << 20) / 8 + 5;
    uint64_t *recv = malloc((size_t)c->size * words * 8),
             *send = in_place && recv ? recv + (size_t)c->rank * words : malloc(words * 8);
    EXPECT(recv && send);
    memset(recv, 0xee, (size_t)c->size * words * 8);
    for (size_t i = 0; i < words; i++)
        send[i] = zero_splitmix64((uint64_t)c->rank << 40 | i);
    EXPECT_OK(zero_comm_all_gather(c, send, recv, words * 8, NULL, error));
    for (int r = 0; r < c->size; r++)
        for (size_t i = 0; i < words; i++)
            EXPECT(recv[(size_t)r * words + i] == zero_splitmix64((uint64_t)r << 40 | i));
    if (!in_place)
        free(send);
    free(recv);
    return 0;
}

static int cases_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    cpu_set_t cpus;
    bool readable;
    (void)rank, (void)arg;
    if (all_readable(b, &readable) || open_shm(&c, b, 60))
        return 1;
    EXPECT(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
    EXPECT(node_of(c)->direct_bytes == (!readable ? UINT64_MAX : CPU_COUNT(&cpus) < world ? 8 * LEAST : LEAST));
    if (readable) {
        node_of(c)->direct_bytes = 5000; /* so that only some of the cases use the ring */
        if (comm_cases(c, 1))
            return 1;
        node_of(c)->direct_bytes = 1;
        if (comm_cases(c, 50) || (world == 2 && (long_slices(c, false) || long_slices(c, true))))
            return 1;
    }
    zero_comm_destroy(c);
    return 0;
}

START_TEST(direct_does_all)
{
    ck_assert_int_eq(ranks_run(_i, 100, cases_rank, NULL), 0);
}
END_TEST

/* If one rank may not read, all ranks use the ring. */
static int refused_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    (void)arg;
    if (rank == world - 1 && !refuse_reading())
        EXPECT(errno == EINVAL);
    bool readable;
    if (all_readable(b, &readable) || open_shm(&c, b, 60))
        return 1;
    EXPECT(readable || node_of(c)->direct_bytes == UINT64_MAX);
    if (comm_cases(c, 7))
        return 1;
    zero_comm_destroy(c);
    return 0;
}

START_TEST(refused_rank_leaves_the_ring_to_all)
{
    ck_assert_int_eq(ranks_run(_i, 100, refused_rank, NULL), 0);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

/* A rank that can no longer read reports it. The other rank does not return from the gather, because its slice has not
 * been read. */
static int unread_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_error_t e = {0};
    char buffer[2 * 5000] = "", all[2];
    bool readable;
    (void)world, (void)arg;
    if (all_readable(b, &readable) || open_shm(&c, b, 0.3))
        return 1;
    bool refused = rank == 1 && readable && refuse_reading();
    EXPECT(b->all_gather(b->ctx, &refused, all, 1) == 0);
    if (all[1]) {
        node_of(c)->direct_bytes = 1;
        zero_status_t status = zero_comm_all_gather(c, buffer + rank * 5000, buffer, 5000, NULL, &e);
        EXPECT(status == (rank == 1 ? ZERO_ERR_SYSTEM : ZERO_ERR_TIMEOUT));
        EXPECT(has_names(e.text, rank == 1 ? "`rank 1` `rank 0` 5000" : "`rank 1`"));
        EXPECT(rank == 0 || has_names(e.text, "`Operation not permitted`"));
    }
    EXPECT(b->all_gather(b->ctx, &refused, all, 1) == 0);
    zero_comm_destroy(c);
    return 0;
}

START_TEST(unreadable_memory_is_an_error)
{
    ck_assert_int_eq(ranks_run(2, 60, unread_rank, NULL), 0);
}
END_TEST

static void die(int signal)
{
    (void)signal;
    raise(SIGKILL);
}

typedef struct killed {
    bool early; /* the other ranks begin after the victim is dead; otherwise at any time */
    bool tried;
} killed_t;

/* The last rank publishes the address of its slice and dies when it copies the slice. */
static int killed_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    killed_t *k = arg;
    zero_comm_t *c;
    zero_error_t e = {0};
    char wanted[64];
    size_t bytes = 1 << 20;
    bool readable, victim = rank == world - 1;
    int pids[WORLD_MOST], pid = (int)getpid();
    char *send = calloc(1, bytes),
         *recv = mmap(NULL, (size_t)world * bytes, victim ? PROT_NONE : PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(send && recv != MAP_FAILED);
    if (all_readable(b, &readable) || open_shm(&c, b, 50))
        return 1;
    EXPECT(b->all_gather(b->ctx, &pid, pids, sizeof pid) == 0);
    if (readable) {
        k->tried = true;
        node_of(c)->direct_bytes = 1;
        if (victim)
            signal(SIGSEGV, die);
        while (!victim && k->early && !zero_peers_is_dead(node_of(c)->peers, world - 1))
            usleep(1000);
        EXPECT(zero_comm_all_gather(c, send, recv, bytes, NULL, &e) == ZERO_ERR_PEER);
        snprintf(wanted, sizeof wanted, "`rank %d` %d all-gather", world - 1, pids[world - 1]);
        EXPECT(e.reason == ZERO_REASON_RANK_ENDED && e.rank == world - 1 && has_names(e.text, wanted));
    }
    zero_comm_destroy(c);
    munmap(recv, (size_t)world * bytes);
    free(send);
    return 0;
}

START_TEST(rank_killed_while_it_is_read_is_named)
{
    killed_t *k = ranks_shared(sizeof *k);
    int status[WORLD_MOST], world = 2 + _i / 2;
    k->early = _i & 1;
    ck_assert_int_eq(ranks_run_status(world, 60, killed_rank, k, status), 0);
    for (int r = 0; r < world - 1; r++)
        ck_assert_int_eq(status[r], 0);
    ck_assert(!k->tried || (WIFSIGNALED(status[world - 1]) && WTERMSIG(status[world - 1]) == SIGKILL));
}
END_TEST

TCase *comm_direct_case(void)
{
    TCase *t = tcase_create("direct");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, direct_does_all, 2, WORLD_MOST + 1);
    tcase_add_loop_test(t, refused_rank_leaves_the_ring_to_all, 2, WORLD_MOST);
    tcase_add_test(t, unreadable_memory_is_an_error);
    tcase_add_loop_test(t, rank_killed_while_it_is_read_is_named, 0, 2 * (WORLD_MOST - 1));
    return t;
}
