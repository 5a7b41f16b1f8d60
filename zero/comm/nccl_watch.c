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
#define STUCK_CALL 5.0      /* s: after a failure, how long the thread waits for another one to return from NCCL */

void zero_nccl_ring(zero_nccl_watch_t *w)
{
    atomic_fetch_add(&w->bell, 1);
    zero_host_wake(&w->bell, false);
}

/* ---- the failure ------------------------------------------------------------------------------------------------- */

zero_status_t zero_nccl_check(zero_nccl_watch_t *w, zero_error_t *error)
{
    int failing = atomic_load_explicit(&w->failing, memory_order_acquire);
    if (failing == 0)
        return ZERO_OK;
    while (failing != 2) {
        sched_yield();
        failing = atomic_load_explicit(&w->failing, memory_order_acquire);
    }
    return zero_fail(error, w->failure.status, "%s", w->failure.text);
}

void zero_nccl_fail(zero_nccl_watch_t *w, zero_status_t status, const char *sentence)
{
    int none = 0;
    if (!atomic_compare_exchange_strong(&w->failing, &none, 1))
        return;
    zero_fail(&w->failure, status, "%s", sentence);
    atomic_store_explicit(&w->failing, 2, memory_order_release);
    zero_nccl_ring(w);
}

bool zero_nccl_has_failed(zero_nccl_watch_t *w)
{
    return zero_nccl_check(w, NULL) != ZERO_OK;
}

/* An error of NCCL's becomes the failure after a while, unless the host communicator comes up with a better one. */
static void suspect(zero_nccl_watch_t *w, const zero_error_t *error)
{
    if (w->suspect.status)
        return;
    w->suspect = *error;
    w->suspect.status = ZERO_ERR_SYSTEM;
    w->suspect_since = zero_host_now();
    zero_nccl_ring(w);
}

void zero_nccl_nap(double seconds)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)(seconds * 1e9)}, NULL);
}

/* The host communicator's word. */
void zero_nccl_look_at_host(zero_nccl_watch_t *w)
{
    zero_error_t error = {0};
    zero_status_t status = w->host->one_thread || zero_nccl_has_failed(w) ? ZERO_OK : w->host->ops->check(w->host, &error);
    if (status)
        zero_nccl_fail(w, status, error.text);
}

/* ---- collectives ------------------------------------------------------------------------------------------------- */

/* Lets go of the collectives that are done, and finds the oldest that is not to have run for too long. With the mutex. */
static void retire(zero_nccl_member_t *m)
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
            suspect(w, &error);
        else if (op->since == 0 && yes)
            op->since = zero_host_now();
        else if (op->since > 0 && zero_host_now() - op->since > w->options.timeout_s) {
            char text[300];
            snprintf(text, sizeof text, "rank %d of %d waited %g s for %s of %llu bytes on the GPU (number %llu of its communicator): another rank "
                     "is late", m->rank, m->size, w->options.timeout_s, op->what, (unsigned long long)op->bytes, (unsigned long long)m->retired + 1);
            zero_nccl_fail(w, ZERO_ERR_TIMEOUT, text);
        }
        return;
    }
}

/* Waits until the thread made the failure of what this one found. */
static zero_status_t blame(zero_nccl_watch_t *w, const zero_error_t *why, zero_error_t *error)
{
    pthread_mutex_lock(&w->mutex);
    suspect(w, why);
    pthread_mutex_unlock(&w->mutex);
    for (double end = zero_host_now() + ZERO_NCCL_GRACE + ZERO_NCCL_BEYOND; !zero_nccl_has_failed(w) && zero_host_now() < end;)
        zero_nccl_nap(ZERO_NCCL_LOOK_SOON);
    zero_nccl_fail(w, ZERO_ERR_SYSTEM, why->text);
    return zero_nccl_check(w, error);
}

static zero_status_t too_late(const zero_nccl_member_t *m, const zero_nccl_call_t *call, const char *what, zero_error_t *error)
{
    char text[300];
    snprintf(text, sizeof text, "rank %d of %d waited %g s for %s %s of %llu bytes: another rank is late", m->rank, m->size,
             m->watch->options.timeout_s, what, call->what, (unsigned long long)call->bytes);
    zero_nccl_fail(m->watch, ZERO_ERR_TIMEOUT, text);
    return zero_nccl_check(m->watch, error);
}

/* Waits for a place among the collectives on their way. */
static zero_status_t find_room(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_nccl_op_t **op, zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    for (double start = 0;; zero_nccl_nap(1e-4)) {
        pthread_mutex_lock(&w->mutex);
        if (m->issued - m->retired == ZERO_NCCL_OPS)
            retire(m);
        bool room = m->issued - m->retired < ZERO_NCCL_OPS;
        pthread_mutex_unlock(&w->mutex);
        zero_status_t status = zero_nccl_check(w, error);
        if (status || room) {
            *op = &m->ops[m->issued % ZERO_NCCL_OPS];
            return status;
        }
        if (start == 0)
            start = zero_host_now();
        if (zero_host_now() - start > w->options.timeout_s)
            return too_late(m, call, "earlier collectives before", error);
    }
}

/* Hands the call to NCCL and waits until it is on the stream. */
static zero_status_t hand_over(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_error_t *why, zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    bool issued = false, busy = true;
    double start = 0;
    for (int turn = 0;; turn++) {
        pthread_mutex_lock(&w->mutex);
        zero_status_t status = zero_nccl_check(w, error), called = ZERO_OK;
        if (status == ZERO_OK && !issued)
            called = call->issue(w->api, w->nccl, m->comm, call, why);
        if (status == ZERO_OK && called == ZERO_OK)
            called = w->api->state(w->nccl, m->comm, &busy, why);
        pthread_mutex_unlock(&w->mutex);
        issued = true;
        if (status || called)
            return status ? status : blame(w, why, error);
        if (!busy)
            return ZERO_OK;
        if (turn < SPINS) {
            sched_yield();
            continue;
        }
        if (start == 0)
            start = zero_host_now();
        if (zero_host_now() - start > w->options.timeout_s)
            return too_late(m, call, "NCCL to begin", error);
        zero_nccl_nap(2e-5);
    }
}

zero_status_t zero_nccl_issue(zero_nccl_member_t *m, const zero_nccl_call_t *call, zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t why = {0};
    zero_nccl_op_t *op = NULL;
    zero_status_t status = find_room(m, call, &op, error);
    if (status == ZERO_OK && w->api->record(op->begun, call->stream, &why))
        status = blame(w, &why, error);
    if (status == ZERO_OK)
        status = hand_over(m, call, &why, error);
    if (status == ZERO_OK && w->api->record(op->done, call->stream, &why))
        status = blame(w, &why, error);
    if (status)
        return status;
    pthread_mutex_lock(&w->mutex);
    op->what = call->what;
    op->bytes = call->bytes;
    op->since = 0;
    m->issued++;
    pthread_mutex_unlock(&w->mutex);
    return ZERO_OK;
}

/* ---- the thread -------------------------------------------------------------------------------------------------- */

/* Looks after every member. With the mutex. Returns whether to look again soon. */
static bool look_at_members(zero_nccl_watch_t *w)
{
    zero_error_t error = {0};
    bool soon = false, busy;
    for (zero_nccl_member_t *m = w->members; m;) {
        if (m->open && m->closing && m->comm) {
            soon = true;
            if (zero_nccl_step_closing(m)) {
                m = w->members; /* others may have left meanwhile */
                continue;
            }
        } else if (m->open && m->comm) {
            if (w->api->state(w->nccl, m->comm, &busy, &error))
                suspect(w, &error);
            retire(m);
        }
        m = m->next;
    }
    if (w->suspect.status && zero_host_now() - w->suspect_since > ZERO_NCCL_GRACE)
        zero_nccl_fail(w, ZERO_ERR_SYSTEM, w->suspect.text);
    return soon || w->suspect.status;
}

/* After a failure: ends all kernels. With the mutex where held, which it lets go of meanwhile. */
static void abort_members(zero_nccl_watch_t *w, bool held)
{
    enum { MANY = 64 };
    void *comms[MANY];
    int count = 0;
    zero_error_t error = {0};
    for (zero_nccl_member_t *m = w->members; m && count < MANY; m = m->next)
        if (m->open && m->comm) {
            comms[count++] = m->comm;
            m->comm = NULL;
        }
    if (!count)
        return;
    if (held)
        pthread_mutex_unlock(&w->mutex);
    if (w->api->abort(w->nccl, comms, count, &error))
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING, "%s", error.text);
    if (held)
        pthread_mutex_lock(&w->mutex);
}

/* After a failure, with the mutex. */
static void bury_members(zero_nccl_watch_t *w)
{
    abort_members(w, true);
    for (zero_nccl_member_t *m = w->members; m; m = m->next)
        m->open = m->open && m->comm;
    pthread_cond_broadcast(&w->news);
}

static struct timespec after(clockid_t clock, double seconds)
{
    struct timespec t;
    clock_gettime(clock, &t);
    double end = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec + seconds;
    return (struct timespec){.tv_sec = (time_t)end, .tv_nsec = (long)((end - (double)(time_t)end) * 1e9)};
}

/* A thread that has the mutex is in a call of NCCL's or CUDA's that should return at once. Where one does not, this one goes on without. */
static bool take(zero_nccl_watch_t *w, double *since)
{
    struct timespec end = after(CLOCK_REALTIME, ZERO_NCCL_LOOK_EVERY);
    if (pthread_mutex_timedlock(&w->mutex, &end) == 0) {
        *since = 0;
        return true;
    }
    double now = zero_host_now();
    *since = *since > 0 ? *since : now;
    if (zero_nccl_has_failed(w)) {
        if (now - *since > STUCK_CALL)
            abort_members(w, false);
    } else if (now - *since > w->options.timeout_s)
        zero_nccl_fail(w, ZERO_ERR_TIMEOUT, "a call of NCCL's or CUDA's that should return at once did not return");
    return false;
}

static void *watch_main(void *arg)
{
    zero_nccl_watch_t *w = arg;
    zero_error_t entered = {0};
    double since = 0;
    zero_status_t status = w->api->enter(w->device, &entered);
    if (status)
        zero_nccl_fail(w, status, entered.text);
    for (bool quit = false; !quit;) {
        uint32_t rung = atomic_load(&w->bell);
        zero_nccl_look_at_host(w);
        if (!take(w, &since))
            continue;
        bool soon = false;
        if (w->job.kind && !w->job.done) {
            pthread_mutex_unlock(&w->mutex);
            zero_nccl_run_job(w);
            pthread_mutex_lock(&w->mutex);
            if (w->job.member && w->job.status == ZERO_OK)
                w->job.member->open = true;
            w->job.done = true;
            pthread_cond_broadcast(&w->news);
        }
        if (!zero_nccl_has_failed(w))
            soon = look_at_members(w);
        if (zero_nccl_has_failed(w))
            bury_members(w);
        quit = w->quit;
        pthread_mutex_unlock(&w->mutex);
        if (!quit)
            zero_host_sleep_on(&w->bell, rung, soon ? ZERO_NCCL_LOOK_SOON : ZERO_NCCL_LOOK_EVERY, false);
    }
    return NULL;
}

/* ---- its start and end ------------------------------------------------------------------------------------------- */

bool zero_nccl_await(zero_nccl_watch_t *w, bool (*so)(const void *what), const void *what)
{
    struct timespec end = after(CLOCK_MONOTONIC, w->options.timeout_s + ZERO_NCCL_BEYOND);
    zero_nccl_ring(w);
    while (!so(what))
        if (pthread_cond_timedwait(&w->news, &w->mutex, &end) == ETIMEDOUT)
            return so(what);
    return true;
}

/* Ends the thread, and frees what it used, or leaves it all where the thread is stuck. */
static void end_thread(zero_nccl_watch_t *w, bool stuck)
{
    struct timespec end = after(CLOCK_REALTIME, ZERO_NCCL_BEYOND);
    if (stuck || pthread_timedjoin_np(w->thread, NULL, &end) != 0) {
        pthread_detach(w->thread);
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING, "NCCL does not return from a call: a thread and its memory stay behind");
        return;
    }
    w->api->close(w->nccl);
    pthread_cond_destroy(&w->news);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

void zero_nccl_watch_drop(zero_nccl_watch_t *w)
{
    pthread_mutex_lock(&w->mutex);
    bool stuck = w->stuck, last = --w->refs == 0;
    w->quit = last;
    zero_nccl_ring(w);
    pthread_mutex_unlock(&w->mutex);
    if (last)
        end_thread(w, stuck);
}

zero_status_t zero_nccl_watch_open(zero_nccl_watch_t **out, const zero_cuda_nccl_t *api, zero_nccl_t *nccl, zero_comm_t *host, int device,
                                   const zero_comm_options_t *options, zero_error_t *error)
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
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->news, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all); /* signals are the other threads' */
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
