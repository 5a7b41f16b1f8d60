/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_system.h - the system calls of nvme.c as tables of functions, so that tests can inject faults. */
#ifndef ZERO_OFFLOAD_NVME_SYSTEM_H
#define ZERO_OFFLOAD_NVME_SYSTEM_H

#include "zero/base/base.h"

#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>

/* One transfer. The buffer and bytes are multiples of ZERO_NVME_ALIGN. */
typedef struct zero_nvme_transfer {
    bool write;
    int fd;
    int registered; /* index of the registered range that contains the buffer; -1: none */
    char *buffer;
    uint32_t bytes;
    uint64_t offset; /* in the file */
} zero_nvme_transfer_t;

/* A queue of transfers, one per lane. Only one thread uses a queue, except for wake. Functions return 0 or a negative
 * errno. */
typedef struct zero_nvme_queue zero_nvme_queue_t;
typedef struct zero_nvme_queue_ops {
    const char *name;
    bool
        blocks; /* start blocks until the transfer is done: a queue has one lane, and more transfers need more queues */
    int (*create)(zero_nvme_queue_t **queue, int lanes);
    void (*destroy)(zero_nvme_queue_t *queue); /* at once, even with transfers in flight. Accepts NULL */
    /* Registers memory. Call it from any thread, before the first start. */
    int (*attach)(zero_nvme_queue_t *queue, const struct iovec *ranges, int count);
    int (*start)(zero_nvme_queue_t *queue, int lane, const zero_nvme_transfer_t *transfer); /* in a free lane */
    /* Waits for a bounded time until a transfer is done. Returns 1 with its lane and its result (bytes, or a negative
     * errno), or 0 if there is none or after wake. */
    int (*next)(zero_nvme_queue_t *queue, int *lane, int64_t *result);
    void (*wake)(zero_nvme_queue_t *queue); /* any thread */
} zero_nvme_queue_ops_t;

/* The system calls of these names. They set errno. */
typedef struct zero_nvme_system {
    int (*openat)(int folder, const char *name, int flags, mode_t mode);
    int (*unlinkat)(int folder, const char *name, int flags);
    int (*flock)(int fd, int operation);
    int (*fstatfs)(int fd, struct statfs *out);
    int (*fstat)(int fd, struct stat *out);
    int (*statx)(int fd, const char *name, int flags, unsigned mask, struct statx *out);
    int (*fallocate)(int fd, int mode, off_t offset, off_t bytes);
    int (*ftruncate)(int fd, off_t bytes);
    ssize_t (*pread)(int fd, void *buffer, size_t bytes, off_t offset);
    ssize_t (*pwrite)(int fd, const void *buffer, size_t bytes, off_t offset);
    const zero_nvme_queue_ops_t *uring; /* NULL: this build lacks it */
    const zero_nvme_queue_ops_t *threads;
} zero_nvme_system_t;
extern const zero_nvme_system_t zero_nvme_system;

/* The two queues (nvme_queue.c). */
extern const zero_nvme_queue_ops_t zero_nvme_threads;
#if defined(HAVE_LIBURING)
extern const zero_nvme_queue_ops_t zero_nvme_uring;
#endif

/* The file of one rank and the lock of its folder (nvme_file.c). If nothing is open, the descriptors are -1 and the
 * rest is zero. */
typedef struct zero_nvme_file {
    const zero_nvme_system_t *system;
    int folder, lock, fd; /* descriptors */
    char *path;           /* of the folder, as passed in */
    int rank;
    uint64_t bytes; /* a multiple of ZERO_NVME_BLOCK */
} zero_nvme_file_t;

/* Fills *f and creates its file of bytes bytes (rounded up to blocks), already unlinked. On an error nothing stays open
 * or on disk. */
zero_status_t zero_nvme_file_open(zero_nvme_file_t *f, const zero_nvme_system_t *system, const char *folder, int rank,
                                  uint64_t bytes, uint64_t run, zero_log_fn log, void *log_ctx, zero_error_t *error);
void zero_nvme_file_close(zero_nvme_file_t *f);

#endif
