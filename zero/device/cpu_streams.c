/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_streams.c - streams and events of the CPU device.
 *
 * A stream without a worker runs each item at once on the calling thread. A worker takes items from a ring that the
 * calling thread fills. The two share only counters with a single writer: the caller publishes `issued`, the worker
 * publishes `done`, and a thread that waits for an event reads `done`. So enqueue and wait alone order the two: tasks
 * that no event orders stay unordered for ThreadSanitizer too, as they would be on a GPU. A mutex would order them by
 * accident.
 */
#define _GNU_SOURCE
#include "zero/device/cpu.h"
#include "zero/device/host.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The progress of a stream. Outlives the stream while events or queued waits refer to it. */
typedef struct progress {
    _Atomic uint64_t done; /* items that ran or were skipped */
    _Atomic uint32_t tick; /* changes after each change of done; waiting threads sleep on it */
    atomic_bool failed;    /* error is set and constant */
    atomic_int refs;
    zero_stream_id_t id;
    bool alone; /* inline device: no thread can be asleep, so none is woken */
    zero_error_t error;
} progress_t;

struct zero_event {
    progress_t *progress; /* NULL: never recorded */
    uint64_t target;      /* complete when progress->done reaches this */
};

typedef struct item {
    enum { ITEM_TASK, ITEM_WAIT, ITEM_QUIT } kind;
    zero_task_fn fn;
    void *ctx;
    const void *arg;
    progress_t *progress; /* ITEM_WAIT: holds a reference */
    uint64_t target;
    double timeout_s;
} item_t;

enum { RING_ITEMS = 4096 };

struct zero_stream {
    progress_t *progress;
    uint64_t issued; /* items enqueued; only the caller uses it */
    uint64_t delay_seed;
    bool worker;
    pthread_t thread;
    item_t *ring;        /* RING_ITEMS, worker only */
    uint64_t free_until; /* the caller may fill items below this without reading the worker's counter */
    _Atomic uint64_t posted;
    _Atomic uint32_t post_tick;
    void (*on_failure)(void *ctx); /* set before anything is enqueued */
    void *on_failure_ctx;
};

static progress_t *progress_hold(progress_t *p)
{
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}

static void progress_drop(progress_t *p)
{
    /* Only the last reference acquires, to free: dropping an event must not order the caller after the worker. */
    if (p && atomic_fetch_sub_explicit(&p->refs, 1, memory_order_release) == 1) {
        atomic_load_explicit(&p->refs, memory_order_acquire);
        free(p);
    }
}

static void progress_fail(progress_t *p, zero_status_t status, const zero_error_t *error)
{
    p->error = *error;
    p->error.status = status;
    atomic_store_explicit(&p->failed, true, memory_order_release);
}

static void progress_advance(progress_t *p)
{
    uint64_t done = atomic_load_explicit(&p->done, memory_order_relaxed) + 1;
    atomic_store_explicit(&p->done, done, memory_order_release);
    if (p->alone)
        return;
    atomic_store_explicit(&p->tick, (uint32_t)done, memory_order_release);
    zero_host_wake(&p->tick, false);
}

static zero_status_t progress_status(const progress_t *p, zero_error_t *error)
{
    if (!atomic_load_explicit(&p->failed, memory_order_acquire))
        return ZERO_OK;
    return zero_pass(error, p->error.status, &p->error);
}

/* Waits until done reaches target. Returns an error of the stream as soon as it is known. */
static zero_status_t progress_wait(progress_t *p, uint64_t target, double timeout_s, zero_error_t *error)
{
    double end = zero_now() + timeout_s;
    for (;;) {
        uint32_t tick = atomic_load_explicit(&p->tick, memory_order_acquire);
        uint64_t done = atomic_load_explicit(&p->done, memory_order_acquire);
        zero_status_t status = progress_status(p, error);
        if (status || done >= target)
            return status;
        double left = end - zero_now();
        if (left <= 0)
            return zero_fail(error, ZERO_ERR_TIMEOUT,
                             "stream '%s' did not reach operation %llu within %g s (it is at %llu)",
                             zero_stream_name(p->id), (unsigned long long)target, timeout_s, (unsigned long long)done);
        zero_host_sleep_on(&p->tick, tick, left < 0.1 ? left : 0.1, false);
    }
}

/* A random delay before operation n of a stream: none, a short one, or up to 200 microseconds. */
static void delay(const zero_stream_t *s, uint64_t n)
{
    if (s->delay_seed == 0)
        return;
    uint64_t random = zero_splitmix64(s->delay_seed ^ zero_splitmix64(n * ZERO_STREAM_COUNT + s->progress->id));
    if (random & 1)
        nanosleep(&(struct timespec){.tv_nsec = (long)(random >> 32) % 200000}, NULL);
}

static void run(zero_stream_t *s, const item_t *item)
{
    progress_t *p = s->progress;
    zero_error_t error; /* about a thousand bytes; only status is set unless something fails */
    zero_status_t status = ZERO_OK;
    error.status = ZERO_OK;
    error.text[0] = '\0';
    if (!atomic_load_explicit(&p->failed, memory_order_relaxed)) {
        if (item->kind == ITEM_WAIT)
            status = progress_wait(item->progress, item->target, item->timeout_s, &error);
        else {
            delay(s, atomic_load_explicit(&p->done, memory_order_relaxed));
            status = item->fn(item->ctx, item->arg, NULL, &error);
        }
        if (status) {
            progress_fail(p, status, &error);
            if (s->on_failure)
                s->on_failure(s->on_failure_ctx);
        }
    }
    if (item->kind == ITEM_WAIT)
        progress_drop(item->progress);
    progress_advance(p);
}

static void *worker_main(void *arg)
{
    zero_stream_t *s = arg;
    for (uint64_t next = 0;;) {
        uint32_t tick = atomic_load_explicit(&s->post_tick, memory_order_acquire);
        uint64_t posted = atomic_load_explicit(&s->posted, memory_order_acquire);
        if (next == posted)
            zero_host_sleep_on(&s->post_tick, tick, 0.1, false);
        for (; next < posted; next++) {
            item_t item = s->ring[next % RING_ITEMS];
            if (item.kind == ITEM_QUIT)
                return NULL;
            run(s, &item);
        }
    }
}

/* Puts an item into the worker's ring. Waits while the ring is full; the worker's own waits are bounded. */
static void post(zero_stream_t *s, const item_t *item)
{
    while (s->issued >= s->free_until) {
        uint32_t tick = atomic_load_explicit(&s->progress->tick, memory_order_acquire);
        s->free_until = atomic_load_explicit(&s->progress->done, memory_order_acquire) + RING_ITEMS;
        if (s->issued >= s->free_until)
            zero_host_sleep_on(&s->progress->tick, tick, 0.1, false);
    }
    s->ring[s->issued % RING_ITEMS] = *item;
    s->issued++;
    atomic_store_explicit(&s->posted, s->issued, memory_order_release);
    atomic_store_explicit(&s->post_tick, (uint32_t)s->issued, memory_order_release);
    zero_host_wake(&s->post_tick, false);
}

zero_status_t zero_cpu_stream_create(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream, zero_error_t *error)
{
    zero_stream_t *s = calloc(1, sizeof *s);
    char name[16];
    sigset_t all, old;
    *stream = NULL;
    if (!s || !(s->progress = calloc(1, sizeof *s->progress)))
        goto no_memory;
    atomic_store(&s->progress->refs, 1);
    s->progress->id = id;
    /* These streams have threads on an inline device too, so that I/O overlaps with other work, and no transfer to or
     * from another rank keeps the caller from the next one. The threads never wait for the other streams: their work is
     * complete when an item is queued here. */
    bool apart = id == ZERO_STREAM_IO || id == ZERO_STREAM_SAVE || id >= ZERO_STREAM_FROM_PREV,
         worker = d->options.threaded ? id != ZERO_STREAM_COMPUTE : apart;
    s->progress->alone = !d->options.threaded && !worker;
    s->delay_seed = d->options.delay_seed;
    if (worker) {
        if (!(s->ring = calloc(RING_ITEMS, sizeof *s->ring)))
            goto no_memory;
        s->free_until = RING_ITEMS;
        /* Signals are for the caller's threads. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        int e = pthread_create(&s->thread, NULL, worker_main, s);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (e) {
            zero_fail(error, ZERO_ERR_SYSTEM, "cannot start the thread of stream '%s': %s", zero_stream_name(id),
                      strerror(e));
            zero_cpu_stream_destroy(s);
            return ZERO_ERR_SYSTEM;
        }
        s->worker = true;
        snprintf(name, sizeof name, "zero-%s", zero_stream_name(id));
        pthread_setname_np(s->thread, name);
    }
    *stream = s;
    return ZERO_OK;
no_memory:
    zero_cpu_stream_destroy(s);
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a stream's queue (%zu bytes)",
                     RING_ITEMS * sizeof *s->ring);
}

void zero_cpu_stream_destroy(zero_stream_t *s)
{
    if (!s)
        return;
    if (s->worker) {
        post(s, &(item_t){.kind = ITEM_QUIT});
        pthread_join(s->thread, NULL);
    }
    progress_drop(s->progress);
    free(s->ring);
    free(s);
}

void zero_cpu_stream_on_failure(zero_stream_t *s, void (*fn)(void *ctx), void *ctx)
{
    s->on_failure = fn;
    s->on_failure_ctx = ctx;
}

zero_status_t zero_cpu_enqueue(zero_stream_t *s, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error)
{
    item_t item = {.kind = ITEM_TASK, .fn = fn, .ctx = ctx, .arg = arg};
    zero_status_t status = progress_status(s->progress, error);
    if (status)
        return status;
    if (s->worker) {
        post(s, &item);
        return ZERO_OK;
    }
    s->issued++;
    run(s, &item);
    return progress_status(s->progress, error);
}

zero_status_t zero_cpu_sync(zero_stream_t *s, double timeout_s, zero_error_t *error)
{
    return progress_wait(s->progress, s->issued, timeout_s, error);
}

void *zero_cpu_native(zero_stream_t *s)
{
    (void)s;
    return NULL;
}

zero_status_t zero_cpu_event_create(zero_device_t *d, zero_event_t **event, zero_error_t *error)
{
    (void)d;
    *event = calloc(1, sizeof **event);
    return *event ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory for an event (%zu bytes)", sizeof **event);
}

void zero_cpu_event_destroy(zero_event_t *event)
{
    if (!event)
        return;
    progress_drop(event->progress);
    free(event);
}

zero_status_t zero_cpu_record(zero_event_t *event, zero_stream_t *s, zero_error_t *error)
{
    if (event->progress != s->progress) {
        progress_drop(event->progress);
        event->progress = progress_hold(s->progress);
    }
    event->target = s->issued;
    return progress_status(s->progress, error);
}

zero_status_t zero_cpu_wait(zero_stream_t *s, zero_event_t *event, double timeout_s, zero_error_t *error)
{
    zero_status_t status = progress_status(s->progress, error);
    if (status || !event->progress || event->progress == s->progress)
        return status;
    if (!s->worker)
        return progress_wait(event->progress, event->target, timeout_s, error);
    post(s, &(item_t){.kind = ITEM_WAIT,
                      .progress = progress_hold(event->progress),
                      .target = event->target,
                      .timeout_s = timeout_s});
    return ZERO_OK;
}

zero_status_t zero_cpu_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error)
{
    return event->progress ? progress_wait(event->progress, event->target, timeout_s, error) : ZERO_OK;
}
