/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_watch.c - see nccl_watch.h. */
#define _GNU_SOURCE
#include "zero/comm/nccl_state.h"
#include "zero/device/host.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { SPINS = 200 };
#define STUCK_CALL 5.0 /* s: after a failure, how long the thread waits for another thread to return from NCCL */
#define PUBLISH_AFTER \
    15.0 /* s: after a failure, how long the thread leaves publishing to callers, who know more about it */

void zero_nccl_wake(zero_nccl_watch_t *w)
{
    atomic_fetch_add(&w->wakes, 1);
    zero_host_wake(&w->wakes, false);
}

static const zero_error_t no_return = {
    .status = ZERO_ERR_TIMEOUT, .rank = -1, .text = "a call of NCCL or CUDA that should return at once did not return"};

/* ---- the failure ------------------------------------------------------------------------------------------------ */

zero_status_t zero_nccl_check(zero_nccl_watch_t *w, zero_error_t *error)
{
    return zero_latch_check(&w->failed, error);
}

void zero_nccl_fail(zero_nccl_watch_t *w, zero_status_t status, const zero_error_t *why)
{
    zero_error_t failure;
    zero_pass(&failure, status, why);
    if (zero_latch_set(&w->failed, &failure))
        zero_nccl_wake(w);
}

bool zero_nccl_has_failed(zero_nccl_watch_t *w)
{
    return zero_nccl_check(w, NULL) != ZERO_OK;
}

/* Notes an NCCL error. It becomes the failure after ZERO_NCCL_GRACE_S, unless the host communicator finds another one.
 */
static void note_error(zero_nccl_watch_t *w, const zero_error_t *error)
{
    pthread_mutex_lock(&w->mutex);
    if (!w->noted.status) {
        w->noted = *error;
        w->noted.status = ZERO_ERR_SYSTEM;
        w->noted_since = zero_now();
    }
    pthread_mutex_unlock(&w->mutex);
    zero_nccl_wake(w);
}

/* Makes the noted error the failure once ZERO_NCCL_GRACE_S has passed. Returns whether there is a noted error. */
static bool report_noted_error(zero_nccl_watch_t *w)
{
    pthread_mutex_lock(&w->mutex);
    bool there = w->noted.status, enough = there && zero_now() - w->noted_since > ZERO_NCCL_GRACE_S;
    pthread_mutex_unlock(&w->mutex);
    if (enough)
        zero_nccl_fail(w, ZERO_ERR_SYSTEM, &w->noted); /* noted is written only once, so no lock is needed */
    return there;
}

void zero_nccl_sleep(double seconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

void zero_nccl_check_host(zero_nccl_watch_t *w)
{
    zero_error_t error = {0};
    zero_status_t status =
        w->host->control->one_thread || zero_nccl_has_failed(w) ? ZERO_OK : zero_comm_check(w->host, &error);
    if (status)
        zero_nccl_fail(w, status, &error);
}

/* Usually the owner publishes this rank's own failure, since it can say in which operation. But an owner that waits for
 * other ranks, while they wait for it, never does; so the thread publishes it after a while. */
static void publish(zero_nccl_watch_t *w)
{
    zero_error_t failure;
    double now = zero_now();
    w->failed_since = w->failed_since > 0 ? w->failed_since : now;
    if (w->published || w->host->control->one_thread || w->failed.error.status == ZERO_ERR_PEER ||
        now - w->failed_since < PUBLISH_AFTER)
        return;
    w->published = true;
    zero_fail_from(&failure, w->failed.error.status, &w->failed.error, "rank %d of %d: %s", w->host->rank,
                   w->host->size, w->failed.error.text);
    zero_comm_fail(w->host, &failure);
}

/* ---- calls of NCCL's -------------------------------------------------------------------------------------------- */

static struct timespec after(clockid_t clock, double seconds)
{
    struct timespec t;
    clock_gettime(clock, &t);
    double end = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec + seconds;
    return (struct timespec){.tv_sec = (time_t)end, .tv_nsec = (long)((end - (double)(time_t)end) * 1e9)};
}

zero_status_t zero_nccl_lock_calls(zero_nccl_watch_t *w, zero_error_t *error)
{
    struct timespec end = after(CLOCK_REALTIME, w->options.timeout_s);
    int e = pthread_mutex_timedlock(&w->calls, &end);
    if (e)
        zero_nccl_fail(w, ZERO_ERR_TIMEOUT, &no_return);
    zero_status_t status = zero_nccl_check(w, error);
    if (status && !e)
        pthread_mutex_unlock(&w->calls);
    return status;
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

/* late: the rank that is late, or -1. */
static void fail_late(int rank, int late, double timeout_s, const char *what, zero_error_t *why)
{
    char who[20] = "another rank";
    if (late >= 0)
        snprintf(who, sizeof who, "rank %d", late);
    zero_fail_reason(why, ZERO_ERR_TIMEOUT, late < 0 ? ZERO_REASON_NONE : ZERO_REASON_RANK_LATE, late,
                     "rank %d waited %g s for %s: %s is late", rank, timeout_s, what, who);
}

void zero_nccl_retire(zero_nccl_member_t *m)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t error = {0};
    for (; m->retired < m->issued; m->retired++) {
        zero_nccl_op_t *op = &m->ops[m->retired % ZERO_NCCL_OPS];
        bool yes = false;
        zero_status_t status = w->api->happened(op->done, &yes, &error);
        if (status == ZERO_OK && yes)
            continue;
        if (status == ZERO_OK && op->since == 0)
            status = w->api->happened(op->begun, &yes, &error);
        if (status)
            note_error(w, &error);
        else if (op->since == 0 && yes)
            op->since = zero_now();
        else if (op->since > 0 && zero_now() - op->since > op->timeout_s) {
            char what[120];
            zero_error_t why;
            snprintf(what, sizeof what, "%s of %llu bytes on the GPU (number %llu of its communicator)", op->what,
                     (unsigned long long)op->bytes, (unsigned long long)m->retired + 1);
            fail_late(op->rank, op->late, op->timeout_s, what, &why);
            zero_nccl_fail(w, ZERO_ERR_TIMEOUT, &why);
        }
        return;
    }
}

/* Reports an NCCL error and waits until the thread has set the failure. */
static zero_status_t await_failure(zero_nccl_watch_t *w, const zero_error_t *why, zero_error_t *error)
{
    note_error(w, why);
    for (double end = zero_now() + ZERO_NCCL_GRACE_S + ZERO_NCCL_MARGIN_S;
         !zero_nccl_has_failed(w) && zero_now() < end;)
        zero_nccl_sleep(ZERO_NCCL_POLL_SOON_S);
    zero_nccl_fail(w, ZERO_ERR_SYSTEM, why);
    return zero_nccl_check(w, error);
}

static zero_status_t too_late(const zero_nccl_member_t *m, const zero_nccl_call_t *call, const char *before,
                              zero_error_t *error)
{
    char what[120];
    zero_error_t why;
    snprintf(what, sizeof what, "%s %s of %llu bytes", before, call->what, (unsigned long long)call->bytes);
    fail_late(call->rank, call->late, call->timeout_s, what, &why);
    zero_nccl_fail(m->watch, ZERO_ERR_TIMEOUT, &why);
    return zero_nccl_check(m->watch, error);
}

/* Waits until another collective may be in flight. */
static zero_status_t wait_for_room(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_nccl_op_t **op,
                                   zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    for (double start = 0;; zero_nccl_sleep(1e-4)) {
        zero_status_t status = zero_nccl_lock_calls(w, error);
        if (status)
            return status;
        if (m->issued - m->retired == ZERO_NCCL_OPS)
            zero_nccl_retire(m);
        bool room = m->issued - m->retired < ZERO_NCCL_OPS;
        *op = &m->ops[m->issued % ZERO_NCCL_OPS];
        pthread_mutex_unlock(&w->calls);
        if (room)
            return ZERO_OK;
        if (start == 0)
            start = zero_now();
        if (zero_now() - start > call->timeout_s)
            return too_late(m, call, "earlier collectives before", error);
    }
}

/* Issues the call with NCCL and waits until it is on the stream. */
static zero_status_t enqueue(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_error_t *why,
                             zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    bool issued = false, busy = true;
    double start = 0;
    for (int turn = 0;; turn++) {
        zero_status_t status = zero_nccl_lock_calls(w, error);
        if (status)
            return status;
        pthread_mutex_lock(&w->mutex);
        void *comm = m->comm; /* valid while this thread holds calls and there is no failure */
        pthread_mutex_unlock(&w->mutex);
        if (!issued)
            status = call->issue(w->api, w->nccl, comm, call, why);
        if (status == ZERO_OK)
            status = w->api->state(w->nccl, comm, &busy, why);
        pthread_mutex_unlock(&w->calls);
        issued = true;
        if (status)
            return await_failure(w, why, error);
        if (!busy)
            return ZERO_OK;
        if (turn < SPINS) {
            sched_yield();
            continue;
        }
        if (start == 0)
            start = zero_now();
        if (zero_now() - start > call->timeout_s)
            return too_late(m, call, "NCCL to begin", error);
        zero_nccl_sleep(2e-5);
    }
}

static bool member_ended(const void *what)
{
    return !((const zero_nccl_member_t *)what)->open;
}

/* NCCL may still be about to put the call on the stream, and the caller may destroy the stream once it knows of the
 * failure. */
static void wait_for_abort(zero_nccl_member_t *m)
{
    pthread_mutex_lock(&m->watch->mutex);
    zero_nccl_await(m->watch, member_ended, m, 0);
    pthread_mutex_unlock(&m->watch->mutex);
}

zero_status_t zero_nccl_issue(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t why = {0};
    zero_nccl_op_t *op = NULL;
    zero_status_t status = wait_for_room(m, call, &op, error);
    if (status == ZERO_OK && w->api->record(op->begun, call->stream, &why))
        status = await_failure(w, &why, error);
    if (status == ZERO_OK && (status = enqueue(m, call, &why, error)) != ZERO_OK)
        wait_for_abort(m);
    if (status == ZERO_OK && w->api->record(op->done, call->stream, &why))
        status = await_failure(w, &why, error);
    if (status == ZERO_OK)
        status = zero_nccl_lock_calls(w, error);
    if (status)
        return status;
    op->what = call->what;
    op->bytes = call->bytes;
    op->rank = call->rank;
    op->late = call->late;
    op->timeout_s = call->timeout_s;
    op->since = 0;
    m->issued++;
    pthread_mutex_unlock(&w->calls);
    return ZERO_OK;
}

/* ---- the thread ------------------------------------------------------------------------------------------------- */

/* The first open member (m NULL), or the next one after m. An open member stays, since only this thread ends members.
 */
static zero_nccl_member_t *next_open(zero_nccl_watch_t *w, zero_nccl_member_t *m)
{
    pthread_mutex_lock(&w->mutex);
    for (m = m ? m->next : w->members; m && !m->open;)
        m = m->next;
    pthread_mutex_unlock(&w->mutex);
    return m;
}

/* Checks every member. Call it with calls locked. Returns whether to check again soon. */
static bool check_members(zero_nccl_watch_t *w)
{
    zero_error_t error = {0};
    bool soon = false, busy;
    for (zero_nccl_member_t *m = next_open(w, NULL); m; m = next_open(w, m)) {
        if (atomic_load(&m->closing)) {
            zero_nccl_step_closing(m);
            soon = true;
            continue;
        }
        if (w->api->state(w->nccl, m->comm, &busy, &error))
            note_error(w, &error);
        zero_nccl_retire(m);
    }
    return soon;
}

/* After a failure: takes the communicators from all members, so that no call on them begins, and ends their kernels.
 * calls: whether calls is locked; then this unlocks it. */
static void abort_members(zero_nccl_watch_t *w, bool calls)
{
    enum { MANY = 64 };
    void *comms[MANY];
    int count = 0;
    zero_error_t error = {0};
    pthread_mutex_lock(&w->mutex);
    for (zero_nccl_member_t *m = w->members; m && count < MANY; m = m->next)
        if (m->open && m->comm) {
            comms[count++] = m->comm;
            m->comm = NULL;
        }
    pthread_mutex_unlock(&w->mutex);
    if (calls)
        pthread_mutex_unlock(&w->calls);
    if (count && w->api->abort(w->nccl, comms, count, &error))
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING, "%s", error.text);
    pthread_mutex_lock(&w->mutex);
    for (zero_nccl_member_t *m = w->members; m; m = m->next)
        m->open = m->open && m->comm;
    pthread_cond_broadcast(&w->news);
    pthread_mutex_unlock(&w->mutex);
}

/* Locks calls. A thread that holds it should return from NCCL at once; if it does not, this thread continues without
 * the lock. */
static bool lock_calls(zero_nccl_watch_t *w, double *since)
{
    struct timespec end = after(CLOCK_REALTIME, ZERO_NCCL_POLL_S);
    if (pthread_mutex_timedlock(&w->calls, &end) == 0) {
        *since = 0;
        return true;
    }
    double now = zero_now();
    *since = *since > 0 ? *since : now;
    if (zero_nccl_has_failed(w)) {
        if (now - *since > STUCK_CALL)
            abort_members(w, false);
    } else if (now - *since > w->options.timeout_s)
        zero_nccl_fail(w, ZERO_ERR_TIMEOUT, &no_return);
    return false;
}

/* Does the requested job, if any. */
static void run_job(zero_nccl_watch_t *w)
{
    pthread_mutex_lock(&w->mutex);
    bool asked = w->job.kind && !w->job.done;
    pthread_mutex_unlock(&w->mutex);
    if (!asked)
        return;
    zero_nccl_run_job(w);
    pthread_mutex_lock(&w->mutex);
    if (w->job.member && w->job.status == ZERO_OK)
        w->job.member->open = true;
    w->job.done = true;
    pthread_cond_broadcast(&w->news);
    pthread_mutex_unlock(&w->mutex);
}

/* Checks everything once. Returns whether to check again soon. */
static bool check_all(zero_nccl_watch_t *w, double *since)
{
    bool soon = false;
    zero_nccl_check_host(w);
    run_job(w);
    if (zero_nccl_has_failed(w))
        publish(w);
    if (!lock_calls(w, since))
        return true;
    if (!zero_nccl_has_failed(w))
        soon = check_members(w);
    if (report_noted_error(w))
        soon = true;
    if (zero_nccl_has_failed(w)) {
        abort_members(w, true);
        return false;
    }
    pthread_mutex_unlock(&w->calls);
    for (zero_nccl_member_t *m = next_open(w, NULL), *next; m; m = next) {
        next = next_open(w, m);
        if (m->over)
            zero_nccl_end_member(m);
    }
    return soon;
}

static void *watch_main(void *arg)
{
    zero_nccl_watch_t *w = arg;
    zero_error_t entered = {0};
    double since = 0;
    zero_status_t status = w->api->enter(w->device, &entered);
    if (status)
        zero_nccl_fail(w, status, &entered);
    for (;;) {
        uint32_t seen = atomic_load(&w->wakes);
        bool soon = check_all(w, &since);
        pthread_mutex_lock(&w->mutex);
        bool quit = w->quit;
        pthread_mutex_unlock(&w->mutex);
        if (quit)
            return NULL;
        zero_host_sleep_on(&w->wakes, seen, soon ? ZERO_NCCL_POLL_SOON_S : ZERO_NCCL_POLL_S, false);
    }
}

/* ---- its start and end ------------------------------------------------------------------------------------------ */

bool zero_nccl_await(zero_nccl_watch_t *w, bool (*test)(const void *what), const void *what, double timeout_s)
{
    struct timespec end = after(CLOCK_MONOTONIC, timeout_s + ZERO_NCCL_MARGIN_S);
    zero_nccl_wake(w);
    while (!test(what))
        if (pthread_cond_timedwait(&w->news, &w->mutex, &end) == ETIMEDOUT)
            return test(what);
    return true;
}

/* Ends the thread and frees its memory. If the thread is stuck, or NCCL may still write to the memory, the memory is
 * leaked. In this case too the thread gets a moment to end, because it checks the host communicator, which its owner
 * destroys next. */
static void end_thread(zero_nccl_watch_t *w, bool stuck)
{
    struct timespec end = after(CLOCK_REALTIME, stuck ? 1 : ZERO_NCCL_MARGIN_S);
    bool ended = pthread_timedjoin_np(w->thread, NULL, &end) == 0;
    if (!ended)
        pthread_detach(w->thread);
    if (stuck || !ended) {
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING,
                 "NCCL did not return from a call: its thread and memory are leaked");
        return;
    }
    w->api->close(w->nccl);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->calls);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

void zero_nccl_watch_drop(zero_nccl_watch_t *w)
{
    pthread_mutex_lock(&w->mutex);
    bool stuck = w->stuck, last = --w->refs == 0;
    w->quit = last;
    zero_nccl_wake(w);
    pthread_mutex_unlock(&w->mutex);
    if (last)
        end_thread(w, stuck);
}

zero_status_t zero_nccl_watch_open(zero_nccl_watch_t **out, const zero_cuda_nccl_t *api, zero_nccl_t *nccl,
                                   zero_comm_t *host, int device, const zero_comm_options_t *options,
                                   zero_error_t *error)
{
    pthread_condattr_t attributes;
    sigset_t all, old;
    zero_nccl_watch_t *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *w);
    w->api = api;
    w->nccl = nccl;
    w->host = host;
    w->device = device;
    w->options = *options;
    w->refs = 1;
    pthread_mutex_init(&w->calls, NULL);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->news, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all); /* leaves signals to other threads */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&w->thread, NULL, watch_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e) {
        free(w);
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot start the thread that watches NCCL: %s", strerror(e));
    }
    *out = w;
    return ZERO_OK;
}
