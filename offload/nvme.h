/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.h - a rank's state in a file: the nvme tier.
 *
 * One file per rank, in a folder on a local drive, read and written past the page cache (O_DIRECT) by threads of its
 * own, through io_uring or, where that is refused (Docker, old kernels), by pread and pwrite. The file reads as zeros
 * until it is written, as an arena does.
 *
 * Nothing of it outlives the process. The file loses its name as soon as it is made, so that neither a crash nor a kill
 * leaves state behind that a later run could take for its own, or space that nobody frees: `df` shows what it takes,
 * `ls` does not. All of the space is taken when it is opened. What stays in the folder during a run is
 * `zero-nvme.lock`, which keeps a second run out and is removed at the end; one that a crash left holds nobody up.
 *
 * The file is made of blocks of ZERO_NVME_BLOCK bytes, transferred and checked whole: the checksum of each block (XXH3)
 * is kept in memory, so that bits that flip on the drive, writes that got lost and blocks that went elsewhere are all
 * found by the next read.
 *
 * The first thing that goes wrong (a failed transfer, a wrong checksum) fails the handle: nothing further is started,
 * and every call returns that error. Any thread may call; the memory of a request belongs to it from its start until
 * zero_nvme_wait has returned anything but ZERO_ERR_TIMEOUT.
 */
#ifndef ZERO_OFFLOAD_NVME_H
#define ZERO_OFFLOAD_NVME_H

#include "zero/base/base.h"

/* Bytes: every offset is a multiple. A piece whose length is none takes all of its last block. */
#define ZERO_NVME_BLOCK 16384
/* Bytes: every buffer starts at a multiple. */
#define ZERO_NVME_ALIGN 4096
/* The most requests that may be unwaited for at a time. */
#define ZERO_NVME_REQUESTS 64

typedef struct zero_nvme zero_nvme_t;
typedef uint64_t zero_nvme_ticket_t; /* of a request; never 0 */

typedef enum zero_nvme_engine {
    ZERO_NVME_ANY = 0, /* io_uring; threads where it is refused, which is logged */
    ZERO_NVME_URING,   /* io_uring, or ZERO_ERR_UNSUPPORTED */
    ZERO_NVME_THREADS  /* pread and pwrite on threads */
} zero_nvme_engine_t;

typedef struct zero_nvme_options {
    size_t size;
    uint64_t run; /* of one run: its ranks share it, and with it the folder, and no other run has it. 0: alone */
    zero_nvme_engine_t engine;
    int depth;         /* transfers that the drive has at a time; default 16 */
    uint64_t transfer; /* bytes of one transfer, a multiple of ZERO_NVME_BLOCK; default 1 MiB */
    double timeout_s;  /* how long zero_nvme_destroy waits for transfers that do not end; default 600 */
    zero_log_fn log;
    void *log_ctx;
    const struct zero_nvme_system *system; /* tests: other system calls (nvme_system.h); NULL: the system's own */
} zero_nvme_options_t;
void zero_nvme_options_init(zero_nvme_options_t *options);

/* Bytes of host memory that a handle takes beside the caller's buffers: checksums, and a block for each transfer. */
uint64_t zero_nvme_memory(uint64_t bytes, const zero_nvme_options_t *options);

/* A file of bytes (> 0) for this rank in folder, reading as zeros. options may be NULL. Errors, each with what to do: a
 * folder that is missing, not writable, in use by another run (naming its process), in memory (tmpfs, ramfs), too full
 * (with the numbers), or without O_DIRECT. */
zero_status_t zero_nvme_open(zero_nvme_t **n, const char *folder, int rank, uint64_t bytes,
                             const zero_nvme_options_t *options, zero_error_t *error);

/* Optional, before the first request: the kernel maps [base, base + bytes) once instead of at each transfer, which
 * saves processor time. Where it does not (threads; a limit on locked memory), that is logged, and transfers work as
 * they do without. The range must stay mapped until destroy. */
zero_status_t zero_nvme_register(zero_nvme_t *n, void *base, uint64_t bytes, zero_error_t *error);

/* Starts to read [offset, offset + bytes) into buffer, or to write it from there, and returns at once. A write fills
 * the rest of its last block with zeros; a read leaves the memory behind bytes alone. ZERO_ERR_ORDER where it overlaps
 * a request that has not ended and one of the two writes, or where ZERO_NVME_REQUESTS tickets are open. Every ticket is
 * waited for once. */
zero_status_t zero_nvme_read(zero_nvme_t *n, uint64_t offset, void *buffer, uint64_t bytes, zero_nvme_ticket_t *ticket,
                             zero_error_t *error);
zero_status_t zero_nvme_write(zero_nvme_t *n, uint64_t offset, const void *buffer, uint64_t bytes,
                              zero_nvme_ticket_t *ticket, zero_error_t *error);

/* Waits until a request has ended and gives its ticket back. ZERO_ERR_TIMEOUT: not within timeout_s seconds; the ticket
 * stays open. */
zero_status_t zero_nvme_wait(zero_nvme_t *n, zero_nvme_ticket_t ticket, double timeout_s, zero_error_t *error);

typedef struct zero_nvme_counts {
    const char *engine;     /* "io_uring", "threads" */
    uint64_t read, written; /* bytes that callers asked for, of requests that ended well */
    uint64_t registered;    /* bytes that zero_nvme_register mapped */
} zero_nvme_counts_t;
void zero_nvme_counts(zero_nvme_t *n, zero_nvme_counts_t *counts);

/* Bytes of the drive that the file takes, as the file system says. */
uint64_t zero_nvme_allocated(zero_nvme_t *n);

/* Accepts NULL. Waits for the transfers that the drive has, drops the others, frees everything and the drive's space.
 * Transfers that do not end within timeout_s are left to the system (logged): their memory must then not be used for
 * anything else, but it may be unmapped. */
void zero_nvme_destroy(zero_nvme_t *n);

#endif
