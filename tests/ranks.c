/* SPDX-License-Identifier: Apache-2.0 */
/* ranks.c - see ranks.h. The bootstrap is a table in shared memory behind a barrier, made of a robust mutex and polled
 * counters. If a rank dies, the all_gather of the others fails at its time limit, or at once if the rank held the
 * mutex. It never hangs. */
#define _GNU_SOURCE
#include "tests/ranks.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_COVERAGE
void __gcov_dump(void);
#endif

enum { RANKS_SLOT_BYTES = 1 << 16, RANKS_MAX = 256 };

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t generation;
    int arrived;
} ranks_barrier_t;

typedef struct {
    ranks_barrier_t *barrier;
    unsigned char *slots; /* world slots of RANKS_SLOT_BYTES */
    int rank, world;
    double timeout_s;
} ranks_ctx_t;

static double ranks_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *ranks_shared(size_t bytes)
{
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "ranks: mmap of %zu bytes: %s\n", bytes, strerror(errno));
        abort();
    }
    return p;
}

void ranks_unshare(void *memory, size_t bytes)
{
    if (memory)
        munmap(memory, bytes ? bytes : 1);
}

static int barrier_lock(ranks_barrier_t *b)
{
    int e = pthread_mutex_lock(&b->mutex);
    if (e == EOWNERDEAD) {
        pthread_mutex_consistent(&b->mutex);
        pthread_mutex_unlock(&b->mutex);
        return -1;
    }
    return e ? -1 : 0;
}

static int barrier_wait(ranks_barrier_t *b, int world, double timeout_s)
{
    double end = ranks_now() + timeout_s;
    struct timespec until = {.tv_sec = (time_t)end, .tv_nsec = (long)((end - (double)(time_t)end) * 1e9)};
    int result = 0;
    if (barrier_lock(b))
        return -1;
    uint64_t generation = b->generation;
    if (++b->arrived == world) {
        b->arrived = 0;
        b->generation++;
        pthread_cond_broadcast(&b->changed);
    }
    while (generation == b->generation && !result) {
        int e = pthread_cond_timedwait(&b->changed, &b->mutex, &until);
        if (e == EOWNERDEAD)
            pthread_mutex_consistent(&b->mutex);
        if (e)
            result = -1;
    }
    pthread_mutex_unlock(&b->mutex);
    return result;
}

static int ranks_all_gather(void *ctx, const void *send, void *recv, size_t bytes)
{
    ranks_ctx_t *c = ctx;
    for (size_t done = 0; done < bytes || done == 0; done += RANKS_SLOT_BYTES) {
        size_t n = bytes - done < RANKS_SLOT_BYTES ? bytes - done : RANKS_SLOT_BYTES;
        if (n)
            memcpy(c->slots + (size_t)c->rank * RANKS_SLOT_BYTES, (const char *)send + done, n);
        if (barrier_wait(c->barrier, c->world, c->timeout_s))
            return -1;
        for (int r = 0; n && r < c->world; r++)
            memcpy((char *)recv + (size_t)r * bytes + done, c->slots + (size_t)r * RANKS_SLOT_BYTES, n);
        if (barrier_wait(c->barrier, c->world, c->timeout_s))
            return -1;
    }
    return 0;
}

/* What Check multiplies the time limits of its tests with. */
static double patience(void)
{
    const char *text = getenv("CK_TIMEOUT_MULTIPLIER");
    double factor = text ? strtod(text, NULL) : 1;
    return factor > 0 ? factor : 1;
}

int ranks_run_status(int world, double timeout_s, ranks_fn fn, void *arg, int *status)
{
    pid_t pid[RANKS_MAX], parent = getpid();
    int started = 0, left, timed_out = 0;
    if (world < 1 || world > RANKS_MAX)
        return -1;
    ranks_barrier_t *barrier = ranks_shared(sizeof *barrier);
    unsigned char *slots = ranks_shared((size_t)world * RANKS_SLOT_BYTES);
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&barrier->mutex, &ma);
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&barrier->changed, &ca);
    pthread_mutexattr_destroy(&ma);
    pthread_condattr_destroy(&ca);

    fflush(NULL); /* otherwise the children would print the parent's buffered output */
    for (; started < world; started++) {
        pid[started] = fork();
        if (pid[started] < 0)
            break;
        if (pid[started] == 0) {
            ranks_ctx_t ctx = {barrier, slots, started, world, timeout_s};
            zero_bootstrap_t bootstrap = {sizeof bootstrap, started, world, ranks_all_gather, &ctx};
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent)
                _exit(125);
            int result = fn(started, world, &bootstrap, arg);
            fflush(NULL);
#ifdef HAVE_COVERAGE
            __gcov_dump(); /* _exit does not call it */
#endif
            _exit(result == 0 ? 0 : result > 0 && result < 125 ? result : 124);
        }
    }
    for (int r = 0; r < world; r++)
        status[r] = SIGKILL;
    if (started < world) {
        fprintf(stderr, "ranks: fork of rank %d: %s\n", started, strerror(errno));
        timed_out = 1;
    }
    double end = ranks_now() + timeout_s * patience();
    for (left = started; left > 0;) {
        if (!timed_out && ranks_now() > end)
            timed_out = 1;
        for (int r = 0; r < started; r++) {
            if (pid[r] == 0)
                continue;
            if (timed_out)
                kill(pid[r], SIGKILL);
            if (waitpid(pid[r], &status[r], timed_out ? 0 : WNOHANG) == pid[r]) {
                pid[r] = 0;
                left--;
            }
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    /* Do not destroy a robust mutex that a killed child held, or a condition that it waited on: unmapping is enough. */
    ranks_unshare(slots, (size_t)world * RANKS_SLOT_BYTES);
    ranks_unshare(barrier, sizeof *barrier);
    return timed_out ? -1 : 0;
}

int ranks_run(int world, double timeout_s, ranks_fn fn, void *arg)
{
    int status[RANKS_MAX] = {0};
    int result = ranks_run_status(world, timeout_s, fn, arg, status);
    if (result)
        fprintf(stderr, "ranks: %d ranks ran past %g s (or could not start); what still ran was killed\n", world,
                timeout_s * patience());
    for (int r = 0; r < world && r < RANKS_MAX; r++) {
        if (status[r] == 0)
            continue;
        if (WIFSIGNALED(status[r]))
            fprintf(stderr, "ranks: rank %d of %d ended by signal %d (%s)\n", r, world, WTERMSIG(status[r]),
                    strsignal(WTERMSIG(status[r])));
        else
            fprintf(stderr, "ranks: rank %d of %d ended with %d\n", r, world, WEXITSTATUS(status[r]));
        result = -1;
    }
    return result;
}
