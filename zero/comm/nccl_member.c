/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_member.c - the life of NCCL communicators, from start to end (nccl_watch.h). */
#include "zero/comm/nccl_state.h"
#include "zero/device/host.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- what the thread does --------------------------------------------------------------------------------------- */

/* Waits until NCCL has completed the last call on comm. No other thread uses comm: it is new, or its owner waits for
 * this thread. */
static zero_status_t wait_ready(zero_nccl_watch_t *w, void *comm, const zero_nccl_job_t *j, double start,
                                const char *what, zero_error_t *error)
{
    zero_error_t why = {0};
    double looked = 0, failed_at = 0;
    for (;; zero_nccl_sleep(ZERO_NCCL_POLL_SOON_S)) {
        bool busy = false;
        double now = zero_now();
        if (now - looked > ZERO_NCCL_POLL_S) {
            looked = now;
            zero_nccl_check_host(w);
        }
        zero_status_t status = zero_nccl_check(w, error);
        if (status)
            return status;
        if (failed_at == 0 && w->api->state(w->nccl, comm, &busy, &why))
            failed_at = now;
        if (failed_at == 0 && !busy)
            return ZERO_OK;
        if (failed_at > 0 && now - failed_at > ZERO_NCCL_GRACE_S)
            return zero_fail_from(error, ZERO_ERR_SYSTEM, &why, "%s: %s", what, why.text);
        if (now - start > j->timeout_s)
            return zero_fail(
                error, ZERO_ERR_TIMEOUT,
                "%s did not end within %g s: another rank is late or unreachable (NCCL_DEBUG=INFO tells more)", what,
                j->timeout_s);
    }
}

static zero_status_t make_events(zero_nccl_watch_t *w, zero_nccl_member_t *m, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int i = 0; i < ZERO_NCCL_OPS && status == ZERO_OK; i++) {
        status = w->api->event_create(&m->ops[i].begun, error);
        if (status == ZERO_OK)
            status = w->api->event_create(&m->ops[i].done, error);
    }
    return status;
}

static zero_status_t make_comm(zero_nccl_watch_t *w, zero_nccl_job_t *j, zero_error_t *error)
{
    zero_nccl_member_t *m = j->member;
    void *parent = j->origin.callers ? j->origin.callers : j->origin.parent ? j->origin.parent->comm : NULL;
    const char *what = j->origin.id ? "starting NCCL" : "splitting an NCCL communicator";
    double start = zero_now();
    zero_error_t ignored;
    zero_status_t status = make_events(w, m, error);
    if (status == ZERO_OK && j->origin.id)
        status = w->api->start(w->nccl, &m->comm, m->size, m->rank, j->id, error);
    else if (status == ZERO_OK) {
        status = w->api->split(w->nccl, parent, j->origin.color, j->origin.key, j->origin.link, &m->comm, error);
        m->lost = status == ZERO_OK; /* NCCL may write m->comm until the parent is ready again */
        if (status == ZERO_OK)
            status = wait_ready(w, parent, j, start, what, error);
        if (status == ZERO_OK)
            m->lost = false;
    }
    if (status == ZERO_OK)
        status = wait_ready(w, m->comm, j, start, what, error);
    if (status == ZERO_OK && j->origin.link)
        status = w->api->connect(w->nccl, m->comm, error);
    if (status == ZERO_OK && j->origin.link)
        status = wait_ready(w, m->comm, j, start, "connecting two ranks by NCCL", error);
    if (status && m->comm && !m->lost) {
        w->api->abort(w->nccl, &m->comm, 1, &ignored);
        m->comm = NULL;
    }
    return status;
}

/* Does not lock calls: the member's owner waits for this thread, so no other thread calls NCCL with it. */
static zero_status_t make_window(zero_nccl_watch_t *w, zero_nccl_job_t *j, zero_error_t *error)
{
    zero_nccl_memory_t *k = j->memory;
    double start = zero_now();
    char what[80];
    zero_status_t status = w->api->window(w->nccl, j->member->comm, k->base, k->bytes, &k->handle, error);
    snprintf(what, sizeof what, "making an NCCL window of %llu bytes", (unsigned long long)k->bytes);
    return status ? status : wait_ready(w, j->member->comm, j, start, what, error);
}

void zero_nccl_run_job(zero_nccl_watch_t *w)
{
    zero_nccl_job_t *j = &w->job;
    j->status = zero_nccl_check(w, &j->error); /* after a failure the communicators are aborted */
    if (j->status)
        return;
    if (j->kind == ZERO_NCCL_MAKE_ID) {
        j->status = w->api->unique_id(w->nccl, j->id, &j->error);
        return;
    }
    j->status = j->kind == ZERO_NCCL_MAKE_MEMBER ? make_comm(w, j, &j->error) : make_window(w, j, &j->error);
    if (j->status) /* the communicator may never be ready again, and the other ranks wait */
        zero_nccl_fail(w, j->status, &j->error);
}

/* Makes the next call to end a communicator: first deregisters each memory, then finalizes. Memory stays registered
 * until collectives are done: without a window they would read unmapped addresses. *busy: more calls are needed. */
static zero_status_t close_next(zero_nccl_member_t *m, bool *busy, zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    zero_nccl_memory_t *k = m->memory;
    while (k && !k->handle)
        k = k->next;
    *busy = !m->finalizing;
    if (k)
        zero_nccl_retire(m);
    if (k && m->retired == m->issued) {
        void *handle = k->handle;
        k->handle = NULL;
        return k->window ? w->api->unwindow(w->nccl, m->comm, handle, error)
                         : w->api->detach(w->nccl, m->comm, handle, error);
    }
    if (k || m->finalizing)
        return ZERO_OK;
    m->finalizing = true;
    return w->api->finalize(w->nccl, m->comm, error);
}

void zero_nccl_step_closing(zero_nccl_member_t *m)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t error = {0};
    bool busy = true;
    double now = zero_now();
    m->since = m->since > 0 ? m->since : now;
    zero_status_t status = w->api->state(w->nccl, m->comm, &busy, &error);
    if (status == ZERO_OK && !busy)
        status = close_next(m, &busy, &error);
    if (status == ZERO_OK && busy && now - m->since > m->timeout_s)
        status = zero_fail(&error, ZERO_ERR_TIMEOUT, "it did not end within %g s", m->timeout_s);
    if (status)
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING, "an NCCL communicator is aborted at its end: %s",
                 error.text);
    m->given_up = status != ZERO_OK;
    m->over = m->given_up || !busy;
}

void zero_nccl_end_member(zero_nccl_member_t *m)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t ignored;
    void *comm = m->comm;
    pthread_mutex_lock(&w->mutex);
    m->comm = NULL;
    pthread_mutex_unlock(&w->mutex);
    if (m->given_up)
        w->api->abort(w->nccl, &comm, 1, &ignored);
    else
        w->api->destroy(w->nccl, comm, &ignored);
    pthread_mutex_lock(&w->mutex);
    m->open = false;
    pthread_cond_broadcast(&w->news);
    pthread_mutex_unlock(&w->mutex);
}

/* ---- asking the thread ------------------------------------------------------------------------------------------ */

static bool job_free(const void *job)
{
    return ((const zero_nccl_job_t *)job)->kind == ZERO_NCCL_NO_JOB;
}

static bool job_done(const void *job)
{
    return ((const zero_nccl_job_t *)job)->done;
}

static const char *name_of(const zero_nccl_job_t *job)
{
    return job->kind == ZERO_NCCL_MAKE_WINDOW ? "window" : "communicator";
}

/* Makes the thread do the job, and stores the result in it. */
static zero_status_t run_on_thread(zero_nccl_watch_t *w, zero_nccl_job_t *job, zero_error_t *error)
{
    zero_status_t status = zero_nccl_check(w, error);
    if (status)
        return status;
    pthread_mutex_lock(&w->mutex);
    bool answered = zero_nccl_await(w, job_free, &w->job, w->options.timeout_s);
    if (answered) {
        w->job = *job;
        answered = zero_nccl_await(w, job_done, &w->job, job->timeout_s);
    }
    if (answered) {
        *job = w->job;
        w->job = (zero_nccl_job_t){.kind = ZERO_NCCL_NO_JOB};
        pthread_cond_broadcast(&w->news);
        status = job->status ? zero_pass(error, job->status, &job->error) : ZERO_OK;
    } else {
        zero_error_t why;
        zero_fail(&why, ZERO_ERR_TIMEOUT, "NCCL did not return from making a %s", name_of(job));
        w->stuck = true;
        zero_nccl_fail(w, ZERO_ERR_TIMEOUT, &why);
        status = zero_nccl_check(w, error);
    }
    pthread_mutex_unlock(&w->mutex);
    return status;
}

zero_status_t zero_nccl_watch_id(zero_nccl_watch_t *w, void *id, zero_error_t *error)
{
    zero_nccl_job_t job = {.kind = ZERO_NCCL_MAKE_ID, .timeout_s = w->options.timeout_s};
    zero_status_t status = run_on_thread(w, &job, error);
    if (status == ZERO_OK)
        memcpy(id, job.id, ZERO_NCCL_ID_BYTES);
    return status;
}

zero_status_t zero_nccl_member_open(zero_nccl_member_t **out, zero_nccl_watch_t *w, const zero_nccl_origin_t *origin,
                                    int size, int rank, double timeout_s, zero_error_t *error)
{
    zero_nccl_member_t *m = calloc(1, sizeof *m);
    zero_nccl_job_t job = {.kind = ZERO_NCCL_MAKE_MEMBER, .timeout_s = timeout_s, .origin = *origin, .member = m};
    *out = NULL;
    if (!m)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *m);
    m->watch = w;
    m->size = size;
    m->rank = rank;
    if (origin->id)
        memcpy(job.id, origin->id, sizeof job.id);
    /* Linked before the job, so that a failed member is closed like any other. */
    pthread_mutex_lock(&w->mutex);
    w->refs++;
    m->next = w->members;
    w->members = m;
    pthread_mutex_unlock(&w->mutex);
    zero_status_t status = run_on_thread(w, &job, error);
    if (status == ZERO_OK)
        *out = m;
    else
        zero_nccl_member_close(m, timeout_s);
    return status;
}

static bool member_gone(const void *member)
{
    return !((const zero_nccl_member_t *)member)->open;
}

static void unlink_member(zero_nccl_member_t *m)
{
    zero_nccl_member_t **at = &m->watch->members;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
}

static void free_member(zero_nccl_member_t *m)
{
    const zero_cuda_nccl_t *api = m->watch->api;
    for (int i = 0; i < ZERO_NCCL_OPS; i++) {
        if (m->ops[i].begun)
            api->event_destroy(m->ops[i].begun);
        if (m->ops[i].done)
            api->event_destroy(m->ops[i].done);
    }
    for (zero_nccl_memory_t *k = m->memory, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    free(m);
}

void zero_nccl_member_close(zero_nccl_member_t *m, double timeout_s)
{
    if (!m)
        return;
    zero_nccl_watch_t *w = m->watch;
    pthread_mutex_lock(&w->mutex);
    m->timeout_s = timeout_s;
    atomic_store(&m->closing, true);
    bool gone = !w->stuck && zero_nccl_await(w, member_gone, m, timeout_s);
    gone = gone && !m->lost;
    if (gone)
        unlink_member(m);
    w->stuck = w->stuck || !gone;
    pthread_mutex_unlock(&w->mutex);
    if (gone)
        free_member(m);
    zero_nccl_watch_drop(w);
}

/* Makes the thread create the window. The handle stays NULL if NCCL makes no window for these ranks. */
static zero_status_t make_window_on_thread(zero_nccl_member_t *m, zero_nccl_memory_t *k, double timeout_s,
                                           zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    zero_nccl_job_t job = {.kind = ZERO_NCCL_MAKE_WINDOW, .timeout_s = timeout_s, .member = m, .memory = k};
    zero_status_t status = run_on_thread(w, &job, error);
    if (status == ZERO_OK && !k->handle)
        zero_log(
            w->options.log, w->options.log_ctx, ZERO_LOG_WARNING,
            "collectives go without NCCL's windows, which NCCL does not make for these GPUs (NCCL_DEBUG=INFO tells "
            "more)");
    return status;
}

zero_status_t zero_nccl_attach(zero_nccl_member_t *m, void *base, uint64_t bytes, bool window, double timeout_s,
                               zero_error_t *error)
{
    zero_nccl_watch_t *w = m->watch;
    zero_error_t why = {0};
    zero_nccl_memory_t *k = calloc(1, sizeof *k);
    if (!k)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to register memory with NCCL (%zu bytes)", sizeof *k);
    *k = (zero_nccl_memory_t){.next = m->memory, .base = base, .bytes = bytes, .window = window};
    m->memory = k;
    zero_status_t status = window ? make_window_on_thread(m, k, timeout_s, error) : ZERO_OK;
    if (status || k->handle)
        return status;
    status = zero_nccl_lock_calls(w, error);
    if (status)
        return status;
    k->window = false;
    status = w->api->attach(w->nccl, m->comm, base, bytes, &k->handle, &why);
    pthread_mutex_unlock(&w->calls);
    if (status)
        zero_log(w->options.log, w->options.log_ctx, ZERO_LOG_WARNING, "collectives use unregistered memory: %s",
                 why.text);
    return ZERO_OK;
}
