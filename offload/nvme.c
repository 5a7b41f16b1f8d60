/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.c - see nvme.h.
 *
 * A request is split into transfers, which workers take in order. A worker is a thread with a queue (nvme_system.h) of
 * one or more lanes; each lane carries one transfer. With io_uring one worker has all lanes; with pread and pwrite each
 * worker has one. A worker computes checksums between starting one transfer and waiting for another, so they cost the
 * drive no time. One mutex guards all shared data except the checksums. A transfer has its checksums to itself, because
 * a request that overlaps an unfinished one is rejected. */
#define _GNU_SOURCE
#include "offload/nvme_internal.h"
#include "zero/device/host.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    DEFAULT_DEPTH = 16,
    MOST_DEPTH = 256,
    DEFAULT_TRANSFER = 1 << 20,
    MOST_TRANSFER = 64 << 20,
    MOST_RANGES = 1024,
    RANGE_BYTES = 1 << 30 /* the most that io_uring registers as one range */
};

/* ---- memory ----------------------------------------------------------------------------------------------------- */

void zero_nvme_options_init(zero_nvme_options_t *options)
{
    *options = (zero_nvme_options_t){
        .size = sizeof *options, .depth = DEFAULT_DEPTH, .transfer = DEFAULT_TRANSFER, .timeout_s = 600};
}

uint64_t zero_nvme_memory(uint64_t bytes, const zero_nvme_options_t *options)
{
    uint64_t blocks = bytes / ZERO_NVME_BLOCK + (bytes % ZERO_NVME_BLOCK != 0),
             depth = options ? (uint64_t)options->depth : DEFAULT_DEPTH;
    return (blocks * sizeof(uint64_t) + ZERO_PAGE - 1) / ZERO_PAGE * ZERO_PAGE + depth * ZERO_NVME_BLOCK;
}

/* The lanes' blocks are in this mapping, not on the heap: a late write of a hung drive must not hit other data. */
static zero_status_t make_memory(zero_nvme_t *n, zero_error_t *error)
{
    uint64_t blocks = n->file.bytes / ZERO_NVME_BLOCK;
    n->memory_bytes = zero_nvme_memory(n->file.bytes, &n->options);
    n->memory = mmap(NULL, n->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (n->memory == MAP_FAILED) {
        n->memory = NULL;
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the checksums of %llu bytes in a file (%llu bytes)",
                         (unsigned long long)n->file.bytes, (unsigned long long)n->memory_bytes);
    }
    zero_status_t status = zero_host_populate(n->memory, n->memory_bytes, error);
    if (status)
        return status;
    n->sums = (uint64_t *)n->memory;
    /* The memory is still all zeros, and it holds at least one lane's block. */
    uint64_t empty = XXH3_64bits(n->memory, ZERO_NVME_BLOCK);
    for (uint64_t i = 0; i < blocks; i++)
        n->sums[i] = empty;
    return ZERO_OK;
}

void zero_nvme_free(zero_nvme_t *n)
{
    for (int i = 0; n->workers && i < n->worker_count; i++) {
        if (n->workers[i].queue)
            n->ops->destroy(n->workers[i].queue);
        free(n->workers[i].lanes);
    }
    free(n->workers);
    free(n->ranges);
    if (n->memory)
        munmap(n->memory, n->memory_bytes);
    if (n->file.system)
        zero_nvme_file_close(&n->file);
    if (n->synced) {
        pthread_cond_destroy(&n->change);
        pthread_cond_destroy(&n->work);
        pthread_mutex_destroy(&n->mutex);
    }
    free(n);
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/* Creates workers and their lanes, each worker with a queue of ops. Returns 0, or a negative errno of the first queue
 * that failed. */
static int make_queues(zero_nvme_t *n, const zero_nvme_queue_ops_t *ops)
{
    char *block = n->memory + n->memory_bytes - (uint64_t)n->options.depth * ZERO_NVME_BLOCK;
    n->ops = ops;
    n->lanes = ops->blocks ? 1 : n->options.depth;
    n->worker_count = n->options.depth / n->lanes;
    n->workers = calloc((size_t)n->worker_count, sizeof *n->workers);
    int e = n->workers ? 0 : -ENOMEM;
    for (int i = 0; i < n->worker_count && !e; i++) {
        zero_nvme_worker_t *w = &n->workers[i];
        w->n = n;
        w->lanes = calloc((size_t)n->lanes, sizeof *w->lanes);
        e = w->lanes ? ops->create(&w->queue, n->lanes) : -ENOMEM;
        for (int k = 0; k < n->lanes && !e; k++, block += ZERO_NVME_BLOCK)
            w->lanes[k].block = block;
    }
    if (!e)
        return 0;
    for (int i = 0; n->workers && i < n->worker_count; i++) {
        ops->destroy(n->workers[i].queue);
        free(n->workers[i].lanes);
    }
    free(n->workers);
    n->workers = NULL;
    return e;
}

static zero_status_t choose_engine(zero_nvme_t *n, zero_error_t *error)
{
    const zero_nvme_system_t *s = n->file.system;
    const zero_nvme_options_t *o = &n->options;
    int e = 0;
    if (o->engine != ZERO_NVME_THREADS) {
        e = s->uring ? make_queues(n, s->uring) : -ENOSYS;
        const char *why = s->uring ? strerror(-e) : "this build has no liburing";
        const char *hint = s->uring && e == -EPERM
                               ? " (containers refuse it by default, and sysctl kernel.io_uring_disabled can)"
                               : "";
        if (e && o->engine == ZERO_NVME_URING)
            return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_IO_URING, -1,
                                    "io_uring is unavailable: %s%s. Use threads", why, hint);
        if (e)
            zero_log(o->log, o->log_ctx, ZERO_LOG_WARNING,
                     "rank %d: io_uring is unavailable: %s%s; %d threads read and write the nvme tier instead",
                     n->file.rank, why, hint, o->depth);
    }
    if (e || o->engine == ZERO_NVME_THREADS)
        e = make_queues(n, s->threads);
    if (e)
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot create queues for %d concurrent transfers: %s", o->depth,
                         strerror(-e));
    return ZERO_OK;
}

static zero_status_t read_options(zero_nvme_options_t *o, const zero_nvme_options_t *options, zero_error_t *error)
{
    zero_nvme_options_init(o);
    if (options) {
        if (options->size < sizeof *o)
            return zero_fail(error, ZERO_ERR_ARG, "zero_nvme_options_t has size %zu: call zero_nvme_options_init first",
                             options->size);
        *o = *options;
    }
    if (o->depth < 1 || o->depth > MOST_DEPTH)
        return zero_fail(error, ZERO_ERR_ARG, "depth is %d concurrent transfers, but must be 1 to %d", o->depth,
                         MOST_DEPTH);
    if (o->transfer == 0 || o->transfer % ZERO_NVME_BLOCK || o->transfer > MOST_TRANSFER)
        return zero_fail(error, ZERO_ERR_ARG, "transfers have %llu bytes, but need a multiple of %d, at most %d",
                         (unsigned long long)o->transfer, ZERO_NVME_BLOCK, MOST_TRANSFER);
    if ((unsigned)o->engine > ZERO_NVME_THREADS)
        return zero_fail(error, ZERO_ERR_ARG, "the nvme tier has no engine %d", (int)o->engine);
    if (!(o->timeout_s > 0))
        return zero_fail(error, ZERO_ERR_ARG, "the timeout is %g s, but must be positive", o->timeout_s);
    return ZERO_OK;
}

/* A number that no other run has, for a caller that passed none. */
static uint64_t own_run(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return zero_splitmix64(zero_splitmix64((uint64_t)getpid()) ^ (uint64_t)t.tv_sec * 1000000000u ^
                           (uint64_t)t.tv_nsec) |
           1;
}

zero_status_t zero_nvme_open(zero_nvme_t **out, const char *folder, int rank, uint64_t bytes,
                             const zero_nvme_options_t *options, zero_error_t *error)
{
    zero_nvme_options_t o;
    pthread_condattr_t attributes;
    *out = NULL;
    zero_status_t status = read_options(&o, options, error);
    if (status)
        return status;
    zero_nvme_t *n = calloc(1, sizeof *n);
    if (!n)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a handle of the nvme tier (%zu bytes)", sizeof *n);
    n->options = o;
    n->bytes = bytes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&n->mutex, NULL);
    pthread_cond_init(&n->work, &attributes);
    pthread_cond_init(&n->change, &attributes);
    pthread_condattr_destroy(&attributes);
    n->synced = true;
    status = zero_nvme_file_open(&n->file, o.system ? o.system : &zero_nvme_system, folder, rank, bytes,
                                 o.run ? o.run : own_run(), o.log, o.log_ctx, error);
    if (status || (status = make_memory(n, error)) || (status = choose_engine(n, error)) ||
        (status = zero_nvme_workers_start(n, error)))
        goto fail;
    zero_log(
        o.log, o.log_ctx, ZERO_LOG_INFO,
        "rank %d: %llu bytes in a file without a name in '%s', through %s, %d transfers of up to %llu bytes at a time",
        rank, (unsigned long long)n->file.bytes, folder, n->ops->name, o.depth, (unsigned long long)o.transfer);
    *out = n;
    return ZERO_OK;
fail:
    zero_nvme_destroy(n);
    return status;
}

zero_status_t zero_nvme_register(zero_nvme_t *n, void *base, uint64_t bytes, zero_error_t *error)
{
    if ((uintptr_t)base % ZERO_NVME_ALIGN || bytes == 0 || bytes > (uint64_t)MOST_RANGES * RANGE_BYTES)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "registered memory must start at a multiple of %d and have 1 to %llu bytes, but has %llu at %p",
            ZERO_NVME_ALIGN, (unsigned long long)MOST_RANGES * RANGE_BYTES, (unsigned long long)bytes, base);
    if (n->issued || n->ranges)
        return zero_fail(error, ZERO_ERR_ORDER, "memory can be registered only once, before the first request");
    int count = (int)((bytes + RANGE_BYTES - 1) / RANGE_BYTES), e = 0;
    struct iovec *ranges = calloc((size_t)count, sizeof *ranges);
    if (!ranges)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a list of %d ranges", count);
    for (int i = 0; i < count; i++) {
        uint64_t at = (uint64_t)i * RANGE_BYTES;
        ranges[i] = (struct iovec){.iov_base = (char *)base + at,
                                   .iov_len = bytes - at < RANGE_BYTES ? bytes - at : RANGE_BYTES};
    }
    for (int i = 0; i < n->worker_count && !e; i++)
        e = n->ops->attach(n->workers[i].queue, ranges, count);
    n->ranges = ranges;
    n->range_count = e ? 0 : count;
    if (e)
        zero_log(n->options.log, n->options.log_ctx, ZERO_LOG_INFO,
                 "rank %d: %s cannot register the %llu bytes of the nvme tier's buffers: %s%s; each transfer maps its "
                 "own buffer instead",
                 n->file.rank, n->ops->name, (unsigned long long)bytes, strerror(-e),
                 e == -ENOMEM ? " (ulimit -l limits locked memory)" : "");
    return ZERO_OK;
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

/* The caller holds the mutex. */
static zero_status_t add_request(zero_nvme_t *n, bool write, uint64_t offset, char *buffer, uint64_t bytes,
                                 zero_nvme_ticket_t *ticket, zero_error_t *error)
{
    int slot = -1;
    if (n->failed)
        return zero_pass(error, n->error.status, &n->error);
    for (int i = 0; i < ZERO_NVME_REQUESTS; i++) {
        const zero_nvme_request_t *r = &n->requests[i];
        if (r->ticket == 0)
            slot = slot < 0 ? i : slot;
        else if (!r->ended && (r->write || write) && offset < r->offset + r->bytes && r->offset < offset + bytes)
            return zero_fail(
                error, ZERO_ERR_ORDER,
                "%llu bytes at offset %llu cannot be %s while %llu bytes at %llu are being %s: wait for those first",
                (unsigned long long)bytes, (unsigned long long)offset, write ? "written" : "read",
                (unsigned long long)r->bytes, (unsigned long long)r->offset, r->write ? "written" : "read");
    }
    if (slot < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "%d requests are in flight, the most there can be: wait for one first",
                         ZERO_NVME_REQUESTS);
    zero_nvme_request_t *r = &n->requests[slot];
    *r = (zero_nvme_request_t){.ticket = ++n->issued << 8 | (uint64_t)slot,
                               .write = write,
                               .offset = offset,
                               .bytes = bytes,
                               .buffer = buffer};
    n->queued[(n->queued_first + n->queued_count++) % ZERO_NVME_REQUESTS] = r;
    *ticket = r->ticket;
    pthread_cond_broadcast(&n->work);
    for (int i = 0; i < n->worker_count; i++)
        if (n->workers[i].active && n->workers[i].queue)
            n->ops->wake(n->workers[i].queue);
    return ZERO_OK;
}

static zero_status_t submit(zero_nvme_t *n, bool write, uint64_t offset, char *buffer, uint64_t bytes,
                            zero_nvme_ticket_t *ticket, zero_error_t *error)
{
    *ticket = 0;
    if (bytes == 0 || bytes > n->bytes || offset > n->bytes - bytes)
        return zero_fail(error, ZERO_ERR_ARG, "%llu bytes at offset %llu are outside the file of %llu bytes",
                         (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)n->bytes);
    if (offset % ZERO_NVME_BLOCK || (uintptr_t)buffer % ZERO_NVME_ALIGN)
        return zero_fail(error, ZERO_ERR_ARG,
                         "offset %llu or the buffer at %p is not aligned: offsets are multiples of %d, buffers of %d",
                         (unsigned long long)offset, (void *)buffer, ZERO_NVME_BLOCK, ZERO_NVME_ALIGN);
    pthread_mutex_lock(&n->mutex);
    zero_status_t status = add_request(n, write, offset, buffer, bytes, ticket, error);
    pthread_mutex_unlock(&n->mutex);
    return status;
}

zero_status_t zero_nvme_read(zero_nvme_t *n, uint64_t offset, void *buffer, uint64_t bytes, zero_nvme_ticket_t *ticket,
                             zero_error_t *error)
{
    return submit(n, false, offset, buffer, bytes, ticket, error);
}

zero_status_t zero_nvme_write(zero_nvme_t *n, uint64_t offset, const void *buffer, uint64_t bytes,
                              zero_nvme_ticket_t *ticket, zero_error_t *error)
{
    return submit(n, true, offset, (char *)buffer, bytes, ticket, error);
}

/* Waits for a change until end (zero_now). The caller holds the mutex. */
static void await(zero_nvme_t *n, double end)
{
    double left = end - zero_now(), most = 3600;
    struct timespec t;
    left = left < 0 ? 0 : left < most ? left : most;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)left;
    t.tv_nsec += (long)((left - (double)(time_t)left) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&n->change, &n->mutex, &t);
}

zero_status_t zero_nvme_wait(zero_nvme_t *n, zero_nvme_ticket_t ticket, double timeout_s, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    double end = zero_now() + timeout_s;
    zero_nvme_request_t *r = &n->requests[(ticket & 0xff) % ZERO_NVME_REQUESTS];
    pthread_mutex_lock(&n->mutex);
    if (ticket == 0 || r->ticket != ticket) {
        status = zero_fail(error, ZERO_ERR_ARG, "ticket %llu is not a request in flight", (unsigned long long)ticket);
        goto out;
    }
    while (!r->ended && zero_now() < end)
        await(n, end);
    if (!r->ended) {
        status = zero_fail(error, ZERO_ERR_TIMEOUT,
                           "rank %d: %s %llu bytes at offset %llu of its file in '%s' did not finish within %g s: "
                           "check the drive (dmesg)",
                           n->file.rank, r->write ? "writing" : "reading", (unsigned long long)r->bytes,
                           (unsigned long long)r->offset, n->file.path, timeout_s);
        goto out;
    }
    r->ticket = 0;
    if (n->failed)
        status = zero_pass(error, n->error.status, &n->error);
out:
    pthread_mutex_unlock(&n->mutex);
    return status;
}

void zero_nvme_counts(zero_nvme_t *n, zero_nvme_counts_t *counts)
{
    pthread_mutex_lock(&n->mutex);
    *counts = (zero_nvme_counts_t){.engine = n->ops->name, .read = n->read, .written = n->written};
    for (int i = 0; i < n->range_count; i++)
        counts->registered += n->ranges[i].iov_len;
    pthread_mutex_unlock(&n->mutex);
}

void zero_nvme_destroy(zero_nvme_t *n)
{
    if (!n)
        return;
    pthread_mutex_lock(&n->mutex);
    double end = zero_now() + n->options.timeout_s;
    n->stop = true;
    zero_nvme_drop_queued(n);
    pthread_cond_broadcast(&n->work);
    while (n->running && (n->touching || zero_now() < end))
        await(n, end);
    n->abandoned = n->running > 0;
    int lost = n->running;
    if (lost)
        zero_log(n->options.log, n->options.log_ctx, ZERO_LOG_ERROR,
                 "rank %d: transfers of its file in '%s' did not finish within %g s; the system will finish them",
                 n->file.rank, n->file.path, n->options.timeout_s);
    for (int i = 0; n->workers && i < n->worker_count; i++) {
        zero_nvme_worker_t *w = &n->workers[i];
        if (w->started && w->ended)
            pthread_join(w->thread, NULL);
        else if (w->started)
            pthread_detach(w->thread);
    }
    pthread_mutex_unlock(&n->mutex);
    if (!lost)
        zero_nvme_free(n); /* otherwise the last worker frees it */
}

uint64_t zero_nvme_allocated(zero_nvme_t *n)
{
    struct stat st;
    return n->file.system->fstat(n->file.fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}
