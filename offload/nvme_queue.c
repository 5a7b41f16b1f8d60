/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_queue.c - transfers through io_uring, or by pread and pwrite: see nvme_system.h. */
#define _GNU_SOURCE
#include "offload/nvme_system.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- by pread and pwrite: start completes the transfer ---------------------------------------------------------- */

typedef struct threads_queue {
    bool done;
    int64_t result;
} threads_queue_t;

static int threads_create(zero_nvme_queue_t **queue, int lanes)
{
    if (lanes != 1)
        return -EINVAL;
    *queue = calloc(1, sizeof(threads_queue_t));
    return *queue ? 0 : -ENOMEM;
}

static void threads_destroy(zero_nvme_queue_t *queue)
{
    free(queue);
}

static int threads_attach(zero_nvme_queue_t *queue, const struct iovec *ranges, int count)
{
    (void)queue, (void)ranges, (void)count;
    return -EOPNOTSUPP;
}

static int threads_start(zero_nvme_queue_t *queue, int lane, const zero_nvme_transfer_t *t)
{
    threads_queue_t *q = (threads_queue_t *)queue;
    (void)lane;
    ssize_t n = t->write ? pwrite(t->fd, t->buffer, t->bytes, (off_t)t->offset)
                         : pread(t->fd, t->buffer, t->bytes, (off_t)t->offset);
    q->result = n < 0 ? -errno : n;
    q->done = true;
    return 0;
}

static int threads_next(zero_nvme_queue_t *queue, int *lane, int64_t *result)
{
    threads_queue_t *q = (threads_queue_t *)queue;
    if (!q->done)
        return 0;
    q->done = false;
    *lane = 0;
    *result = q->result;
    return 1;
}

static void threads_wake(zero_nvme_queue_t *queue)
{
    (void)queue; /* next does not wait */
}

const zero_nvme_queue_ops_t zero_nvme_threads = {
    .name = "threads",
    .blocks = true,
    .create = threads_create,
    .destroy = threads_destroy,
    .attach = threads_attach,
    .start = threads_start,
    .next = threads_next,
    .wake = threads_wake,
};

/* ---- through io_uring ------------------------------------------------------------------------------------------- */

#if defined(HAVE_LIBURING)

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>

typedef struct uring_queue {
    struct io_uring ring;
    bool made;
    int event; /* an eventfd on which next waits. The kernel writes to it when a transfer is done, and so does wake */
} uring_queue_t;

enum { WAIT_MS = 100, RETRY_MS = 1 };

static void uring_destroy(zero_nvme_queue_t *queue)
{
    uring_queue_t *q = (uring_queue_t *)queue;
    if (!q)
        return;
    if (q->made)
        io_uring_queue_exit(&q->ring);
    if (q->event >= 0)
        close(q->event);
    free(q);
}

static int uring_create(zero_nvme_queue_t **queue, int lanes)
{
    struct io_uring_probe *probe = NULL;
    int e;
    uring_queue_t *q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->event < 0) {
        e = -errno;
        goto fail;
    }
    e = io_uring_queue_init((unsigned)lanes, &q->ring, 0);
    if (e < 0)
        goto fail;
    q->made = true;
    e = -ENOSYS; /* Linux 5.6 supports all of them */
    probe = io_uring_get_probe_ring(&q->ring);
    if (!probe || !io_uring_opcode_supported(probe, IORING_OP_READ) ||
        !io_uring_opcode_supported(probe, IORING_OP_WRITE))
        goto fail;
    e = io_uring_register_eventfd(&q->ring, q->event);
    if (e < 0)
        goto fail;
    io_uring_free_probe(probe);
    *queue = (zero_nvme_queue_t *)q;
    return 0;
fail:
    if (probe)
        io_uring_free_probe(probe);
    uring_destroy((zero_nvme_queue_t *)q);
    return e;
}

static int uring_attach(zero_nvme_queue_t *queue, const struct iovec *ranges, int count)
{
    return io_uring_register_buffers(&((uring_queue_t *)queue)->ring, ranges, (unsigned)count);
}

/* Submits the prepared entries. Entries that the kernel cannot take now stay, and next retries them. */
static int uring_submit(uring_queue_t *q)
{
    int n = io_uring_submit(&q->ring);
    return n < 0 && n != -EAGAIN && n != -EBUSY && n != -EINTR ? n : 0;
}

static int uring_start(zero_nvme_queue_t *queue, int lane, const zero_nvme_transfer_t *t)
{
    uring_queue_t *q = (uring_queue_t *)queue;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
    if (!sqe)
        return -EBUSY; /* impossible: there are as many entries as lanes */
    if (t->registered >= 0 && t->write)
        io_uring_prep_write_fixed(sqe, t->fd, t->buffer, t->bytes, t->offset, t->registered);
    else if (t->registered >= 0)
        io_uring_prep_read_fixed(sqe, t->fd, t->buffer, t->bytes, t->offset, t->registered);
    else if (t->write)
        io_uring_prep_write(sqe, t->fd, t->buffer, t->bytes, t->offset);
    else
        io_uring_prep_read(sqe, t->fd, t->buffer, t->bytes, t->offset);
    io_uring_sqe_set_data64(sqe, (uint64_t)lane);
    return uring_submit(q);
}

static bool uring_take(uring_queue_t *q, int *lane, int64_t *result)
{
    struct io_uring_cqe *cqe;
    if (io_uring_peek_cqe(&q->ring, &cqe))
        return false;
    *lane = (int)io_uring_cqe_get_data64(cqe);
    *result = cqe->res;
    io_uring_cqe_seen(&q->ring, cqe);
    return true;
}

static int uring_next(zero_nvme_queue_t *queue, int *lane, int64_t *result)
{
    uring_queue_t *q = (uring_queue_t *)queue;
    struct pollfd p = {.fd = q->event, .events = POLLIN};
    uint64_t count;
    if (uring_take(q, lane, result))
        return 1;
    bool left = io_uring_sq_ready(&q->ring) > 0;
    if (left) {
        int e = uring_submit(q);
        if (e < 0)
            return e;
    }
    if (poll(&p, 1, left ? RETRY_MS : WAIT_MS) > 0 && read(q->event, &count, sizeof count) < 0 && errno != EAGAIN &&
        errno != EINTR)
        return -errno;
    return uring_take(q, lane, result);
}

static void uring_wake(zero_nvme_queue_t *queue)
{
    uint64_t one = 1;
    /* A full counter (2^64 - 2 wakes) wakes the waiter, too. */
    ssize_t written = write(((uring_queue_t *)queue)->event, &one, sizeof one);
    (void)written;
}

const zero_nvme_queue_ops_t zero_nvme_uring = {
    .name = "io_uring",
    .create = uring_create,
    .destroy = uring_destroy,
    .attach = uring_attach,
    .start = uring_start,
    .next = uring_next,
    .wake = uring_wake,
};

#endif
