/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.h - the nvme tier: a rank's state in a file.
 *
 * Each rank has one file in a folder on a local drive. The tier's own threads transfer it past the page cache
 * (O_DIRECT), through io_uring, or with pread and pwrite if io_uring is refused (Docker, old kernels). Like an arena,
 * the file reads as zeros until it is written.
 *
 * The file does not outlive the process. It is unlinked as soon as it exists. So neither a crash nor a kill leaves
 * state that a later run could mistake for its own, or space that is never freed: `df` shows the space, `ls` does not.
 * Opening allocates all of the space. During a run the folder contains only `zero-nvme.lock`, which keeps a second run
 * out. The last rank removes it. A lock that a crash left behind blocks nobody.
 *
 * The file consists of blocks of ZERO_NVME_BLOCK bytes. A block is transferred and checked as a whole. Memory holds the
 * checksum (XXH3) of each block, so the next read detects flipped bits, lost writes and misplaced blocks.
 *
 * The first failure (a failed transfer, a wrong checksum) fails the handle: it starts nothing further, and every call
 * returns that error. Any thread may call. The memory of a request belongs to the request from its start until
 * zero_nvme_wait returns anything but ZERO_ERR_TIMEOUT. */
#ifndef ZERO_OFFLOAD_NVME_H
#define ZERO_OFFLOAD_NVME_H

#include "zero/base/base.h"

/* Bytes. Every offset is a multiple. A piece whose length is not a multiple takes all of its last block. */
#define ZERO_NVME_BLOCK 16384
/* Bytes. Every buffer starts at a multiple. */
#define ZERO_NVME_ALIGN 4096
/* The largest number of tickets that may be open at a time. */
#define ZERO_NVME_REQUESTS 64

typedef struct zero_nvme zero_nvme_t;
typedef uint64_t zero_nvme_ticket_t; /* identifies a request; never 0 */

typedef enum zero_nvme_engine {
    ZERO_NVME_ANY = 0, /* io_uring; if refused, threads (logged) */
    ZERO_NVME_URING,   /* io_uring, or ZERO_ERR_UNSUPPORTED */
    ZERO_NVME_THREADS  /* pread and pwrite on threads */
} zero_nvme_engine_t;

typedef struct zero_nvme_options {
    size_t size;
    uint64_t run; /* identifies a run: its ranks share the number and the folder, and no other run has it. 0: this rank
                     is alone */
    zero_nvme_engine_t engine;
    int depth;         /* transfers in flight on the drive; default 16 */
    uint64_t transfer; /* bytes of one transfer, a multiple of ZERO_NVME_BLOCK; default 1 MiB */
    double timeout_s;  /* how long zero_nvme_destroy waits for transfers that do not end; default 600 */
    zero_log_fn log;
    void *log_ctx;
    const struct zero_nvme_system *system; /* tests replace system calls (nvme_system.h); NULL: the real ones */
} zero_nvme_options_t;
void zero_nvme_options_init(zero_nvme_options_t *options);

/* Bytes of host memory that a handle takes besides the caller's buffers: checksums, and one block per transfer. */
uint64_t zero_nvme_memory(uint64_t bytes, const zero_nvme_options_t *options);

/* Creates this rank's file of bytes (> 0) in folder. It reads as zeros. options may be NULL. It is an error if the
 * folder is missing, not writable, in use by another run (the error names the process), in memory (tmpfs, ramfs), too
 * full (with the numbers), or lacks O_DIRECT. Each error says what to do. */
zero_status_t zero_nvme_open(zero_nvme_t **n, const char *folder, int rank, uint64_t bytes,
                             const zero_nvme_options_t *options, zero_error_t *error);

/* Optional, before the first request: the kernel maps [base, base + bytes) once instead of at each transfer, which
 * saves processor time. If it cannot (threads; a limit on locked memory), this is logged and transfers work as before.
 * The range must stay mapped until destroy. */
zero_status_t zero_nvme_register(zero_nvme_t *n, void *base, uint64_t bytes, zero_error_t *error);

/* Start to read [offset, offset + bytes) into buffer, or to write it from buffer, and return at once. A write fills the
 * rest of its last block with zeros. A read does not touch memory after bytes. ZERO_ERR_ORDER: the range overlaps an
 * unfinished request and one of the two is a write, or ZERO_NVME_REQUESTS tickets are open. Wait for every ticket
 * exactly once. */
zero_status_t zero_nvme_read(zero_nvme_t *n, uint64_t offset, void *buffer, uint64_t bytes, zero_nvme_ticket_t *ticket,
                             zero_error_t *error);
zero_status_t zero_nvme_write(zero_nvme_t *n, uint64_t offset, const void *buffer, uint64_t bytes,
                              zero_nvme_ticket_t *ticket, zero_error_t *error);

/* Waits until a request has ended and closes its ticket. ZERO_ERR_TIMEOUT: it has not ended within timeout_s seconds;
 * the ticket stays open. */
zero_status_t zero_nvme_wait(zero_nvme_t *n, zero_nvme_ticket_t ticket, double timeout_s, zero_error_t *error);

typedef struct zero_nvme_counts {
    const char *engine;     /* "io_uring", "threads" */
    uint64_t read, written; /* bytes that callers requested, in requests that succeeded */
    uint64_t registered;    /* bytes that zero_nvme_register mapped */
} zero_nvme_counts_t;
void zero_nvme_counts(zero_nvme_t *n, zero_nvme_counts_t *counts);

/* Bytes that the file takes on the drive, according to the file system. */
uint64_t zero_nvme_allocated(zero_nvme_t *n);

/* Accepts NULL. Waits for the transfers on the drive, drops the others, and frees everything, including the space on
 * the drive. It leaves transfers that do not end within timeout_s to the system (logged). Their memory may then be
 * unmapped, but not reused. */
void zero_nvme_destroy(zero_nvme_t *n);

#endif
