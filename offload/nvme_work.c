/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_work.c - the threads that execute requests: see nvme.c. */
#define _GNU_SOURCE
#include "offload/nvme_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <xxhash.h>

enum { MOST_TRIES = 1000 }; /* for a transfer that the system asks to retry, or that makes no progress */

void zero_nvme_drop_queued(zero_nvme_t *n)
{
    for (; n->queued_count; n->queued_count--) {
        zero_nvme_request_t *r = n->queued[n->queued_first++ % ZERO_NVME_REQUESTS];
        r->ended = r->active == 0;
    }
}

/* Sets the handle's error, if it is the first, and drops the queued requests. */
static void fail_all(zero_nvme_t *n, zero_status_t status, const char *format, ...) ZERO_PRINTF(3, 4);
static void fail_all(zero_nvme_t *n, zero_status_t status, const char *format, ...)
{
    va_list args;
    pthread_mutex_lock(&n->mutex);
    if (!n->failed) {
        n->failed = true;
        n->error.status = status;
        va_start(args, format);
        vsnprintf(n->error.text, sizeof n->error.text, format, args);
        va_end(args);
        zero_nvme_drop_queued(n);
    }
    pthread_cond_broadcast(&n->change);
    pthread_mutex_unlock(&n->mutex);
}

/* Between touch and untouch a worker accesses callers' memory. zero_nvme_destroy always waits for untouch, even after
 * its timeout. Returns false if the worker may no longer access that memory. */
static bool touch(zero_nvme_t *n)
{
    pthread_mutex_lock(&n->mutex);
    bool may = !n->stop;
    n->touching += may;
    pthread_mutex_unlock(&n->mutex);
    return may;
}

static void untouch(zero_nvme_t *n)
{
    pthread_mutex_lock(&n->mutex);
    n->touching--;
    pthread_cond_broadcast(&n->change);
    pthread_mutex_unlock(&n->mutex);
}

/* Takes the next transfer of the first request in the queue. The caller holds the mutex. */
static void take(zero_nvme_worker_t *w, zero_nvme_lane_t *lane)
{
    zero_nvme_t *n = w->n;
    zero_nvme_request_t *r = n->queued[n->queued_first % ZERO_NVME_REQUESTS];
    uint64_t left = r->bytes - r->taken, whole = left / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK;
    lane->request = r;
    lane->offset = r->offset + r->taken;
    lane->wants = r->buffer + r->taken;
    if (whole) {
        lane->bytes = lane->wanted = whole < n->options.transfer ? whole : n->options.transfer;
        lane->memory = lane->wants;
    } else {
        lane->bytes = ZERO_NVME_BLOCK;
        lane->wanted = left;
        lane->memory = lane->block;
    }
    lane->done = 0;
    lane->tries = 0;
    r->taken += lane->wanted;
    r->active++;
    w->active++;
    if (r->taken == r->bytes) {
        n->queued_first++;
        n->queued_count--;
    }
}

/* Frees the lane after its transfer is done or given up. */
static void leave(zero_nvme_worker_t *w, zero_nvme_lane_t *lane)
{
    zero_nvme_t *n = w->n;
    pthread_mutex_lock(&n->mutex);
    zero_nvme_request_t *r = lane->request;
    lane->request = NULL;
    w->active--;
    r->active--;
    if (r->active == 0 && (r->taken == r->bytes || n->failed || n->stop)) {
        r->ended = true;
        if (!n->failed && r->taken == r->bytes)
            *(r->write ? &n->written : &n->read) += r->bytes;
        pthread_cond_broadcast(&n->change);
    }
    pthread_mutex_unlock(&n->mutex);
}

/* The queue has failed and reports no more transfers. */
static void give_up(zero_nvme_worker_t *w, int e)
{
    zero_nvme_t *n = w->n;
    fail_all(n, ZERO_ERR_SYSTEM, "rank %d: %s failed while transfers of its file in '%s' were under way: %s",
             n->file.rank, n->ops->name, n->file.path, strerror(-e));
    pthread_mutex_lock(&n->mutex);
    zero_nvme_queue_t *queue = w->queue;
    w->queue = NULL;
    pthread_mutex_unlock(&n->mutex);
    n->ops->destroy(queue);
    for (int i = 0; i < n->lanes; i++)
        if (w->lanes[i].request)
            leave(w, &w->lanes[i]);
}

/* Starts the rest of a lane's transfer. */
static void start(zero_nvme_worker_t *w, zero_nvme_lane_t *lane)
{
    zero_nvme_t *n = w->n;
    zero_nvme_transfer_t t = {.write = lane->request->write,
                              .fd = n->file.fd,
                              .registered = -1,
                              .buffer = lane->memory + lane->done,
                              .bytes = (uint32_t)(lane->bytes - lane->done),
                              .offset = lane->offset + lane->done};
    for (int i = 0; i < n->range_count && t.registered < 0; i++) {
        const char *base = n->ranges[i].iov_base;
        if (t.buffer >= base && t.buffer + t.bytes <= base + n->ranges[i].iov_len)
            t.registered = i;
    }
    int e = n->ops->start(w->queue, (int)(lane - w->lanes), &t);
    if (e < 0)
        give_up(w, e);
}

static void begin(zero_nvme_worker_t *w, zero_nvme_lane_t *lane)
{
    zero_nvme_t *n = w->n;
    if (lane->request->write) {
        if (!touch(n)) {
            leave(w, lane);
            return;
        }
        if (lane->memory == lane->block) {
            memcpy(lane->block, lane->wants, lane->wanted);
            memset(lane->block + lane->wanted, 0, lane->bytes - lane->wanted);
        }
        for (uint64_t at = 0; at < lane->bytes; at += ZERO_NVME_BLOCK)
            n->sums[(lane->offset + at) / ZERO_NVME_BLOCK] = XXH3_64bits(lane->memory + at, ZERO_NVME_BLOCK);
        untouch(n);
    }
    start(w, lane);
}

/* Checks the data that was read, and copies the end of a piece to the caller. */
static void receive(zero_nvme_worker_t *w, zero_nvme_lane_t *lane)
{
    zero_nvme_t *n = w->n;
    if (!touch(n))
        return;
    for (uint64_t at = 0; at < lane->bytes; at += ZERO_NVME_BLOCK) {
        uint64_t found = XXH3_64bits(lane->memory + at, ZERO_NVME_BLOCK),
                 wanted = n->sums[(lane->offset + at) / ZERO_NVME_BLOCK];
        if (found == wanted)
            continue;
        fail_all(n, ZERO_ERR_IO,
                 "rank %d: %d bytes at offset %llu of its file in '%s' are not what was written there (checksum "
                 "%016llx, written "
                 "%016llx): the drive or the memory is faulty. Test both, and continue from the last checkpoint",
                 n->file.rank, ZERO_NVME_BLOCK, (unsigned long long)(lane->offset + at), n->file.path,
                 (unsigned long long)found, (unsigned long long)wanted);
        break;
    }
    if (lane->memory == lane->block)
        memcpy(lane->wants, lane->block, lane->wanted);
    untouch(n);
}

static const char *advice(int e)
{
    switch (e) {
    case ENOSPC:
    case EDQUOT:
        return ". Make room there, or name another folder; then continue from the last checkpoint";
    case EIO:
        return ". Look for the drive in the system's log (dmesg)";
    default:
        return "";
    }
}

/* Handles the result of a transfer: bytes, or a negative errno. */
static void finish(zero_nvme_worker_t *w, zero_nvme_lane_t *lane, int64_t result)
{
    zero_nvme_t *n = w->n;
    const char *what = lane->request->write ? "writing" : "reading";
    uint64_t left = lane->bytes - lane->done, offset = lane->offset + lane->done;
    bool again = result == -EAGAIN || result == -EINTR;
    if (result < 0 && (!again || lane->tries >= MOST_TRIES)) {
        fail_all(n, ZERO_ERR_IO, "rank %d: %s %llu bytes at offset %llu of its file in '%s' failed: %s%s", n->file.rank,
                 what, (unsigned long long)left, (unsigned long long)offset, n->file.path, strerror((int)-result),
                 advice((int)-result));
        leave(w, lane);
        return;
    }
    if (result >= 0) {
        /* The rest starts at a multiple that O_DIRECT accepts. */
        uint64_t moved = (uint64_t)result >= left ? left : (uint64_t)result / ZERO_NVME_ALIGN * ZERO_NVME_ALIGN;
        lane->done += moved;
        again = moved == 0;
    }
    if (lane->done == lane->bytes) {
        if (!lane->request->write)
            receive(w, lane);
        leave(w, lane);
        return;
    }
    if (again && (result == 0 || lane->tries++ >= MOST_TRIES)) {
        fail_all(n, ZERO_ERR_IO,
                 "rank %d: %s %llu bytes at offset %llu of its file in '%s' came to an end: was the file truncated?",
                 n->file.rank, what, (unsigned long long)left, (unsigned long long)offset, n->file.path);
        leave(w, lane);
        return;
    }
    if (result == -EAGAIN)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    start(w, lane);
}

static void handle_next_result(zero_nvme_worker_t *w)
{
    int lane;
    int64_t result;
    int found = w->n->ops->next(w->queue, &lane, &result);
    if (found < 0)
        give_up(w, found);
    else if (found)
        finish(w, &w->lanes[lane], result);
}

static zero_nvme_lane_t *free_lane(const zero_nvme_worker_t *w)
{
    for (int i = 0; i < w->n->lanes && w->active < w->n->lanes; i++)
        if (!w->lanes[i].request)
            return &w->lanes[i];
    return NULL;
}

static void *worker_main(void *arg)
{
    zero_nvme_worker_t *w = arg;
    zero_nvme_t *n = w->n;
    pthread_mutex_lock(&n->mutex);
    while (!n->abandoned && !(n->stop && w->active == 0)) {
        zero_nvme_lane_t *lane = n->queued_count && w->queue ? free_lane(w) : NULL;
        if (!lane && w->active == 0) {
            pthread_cond_wait(&n->work, &n->mutex);
            continue;
        }
        if (lane)
            take(w, lane);
        pthread_mutex_unlock(&n->mutex);
        if (lane)
            begin(w, lane);
        else
            handle_next_result(w);
        pthread_mutex_lock(&n->mutex);
    }
    w->ended = true;
    bool last = --n->running == 0 && n->abandoned;
    pthread_cond_broadcast(&n->change);
    pthread_mutex_unlock(&n->mutex);
    if (last)
        zero_nvme_free(n);
    return NULL;
}

zero_status_t zero_nvme_workers_start(zero_nvme_t *n, zero_error_t *error)
{
    sigset_t all, old;
    int e = 0;
    /* Only the caller's own threads handle signals. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_mutex_lock(&n->mutex);
    for (int i = 0; i < n->worker_count && !e; i++) {
        zero_nvme_worker_t *w = &n->workers[i];
        e = pthread_create(&w->thread, NULL, worker_main, w);
        w->started = e == 0;
        n->running += w->started;
        if (w->started)
            pthread_setname_np(w->thread, "zero-nvme");
    }
    pthread_mutex_unlock(&n->mutex);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e ? zero_fail(error, ZERO_ERR_SYSTEM, "cannot start a thread for the nvme tier: %s", strerror(e)) : ZERO_OK;
}
