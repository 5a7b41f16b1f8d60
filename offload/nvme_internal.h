/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_internal.h - shared by nvme.c (opening, requests) and nvme_work.c (workers). */
#ifndef ZERO_OFFLOAD_NVME_INTERNAL_H
#define ZERO_OFFLOAD_NVME_INTERNAL_H

#include "offload/nvme.h"
#include "offload/nvme_system.h"

#include <pthread.h>

typedef struct zero_nvme_request {
    zero_nvme_ticket_t ticket; /* 0: free */
    bool write;
    uint64_t offset, bytes;
    char *buffer;
    uint64_t taken; /* bytes that lanes have taken */
    int active;     /* lanes that work on it */
    bool ended;
} zero_nvme_request_t;

typedef struct zero_nvme_lane {
    zero_nvme_request_t *request; /* NULL: free */
    uint64_t offset;              /* in the file */
    uint64_t bytes, wanted;       /* of whole blocks; the part of them that the caller requested */
    uint64_t done;
    char *memory; /* the caller's, or block for an incomplete block */
    char *wants;  /* the caller's memory for wanted */
    char *block;  /* [ZERO_NVME_BLOCK] this lane's own */
    int tries;
} zero_nvme_lane_t;

typedef struct zero_nvme_worker {
    zero_nvme_t *n;
    pthread_t thread;
    bool started, ended;
    zero_nvme_queue_t *queue; /* NULL: the worker gave it up */
    zero_nvme_lane_t *lanes;
    int active; /* busy lanes */
} zero_nvme_worker_t;

struct zero_nvme {
    zero_nvme_options_t options;
    zero_nvme_file_t file;
    uint64_t bytes; /* as requested; file.bytes is whole blocks */
    const zero_nvme_queue_ops_t *ops;
    char *memory; /* one mapping: checksums, then the lanes' blocks */
    uint64_t memory_bytes;
    uint64_t *sums;       /* [file.bytes / ZERO_NVME_BLOCK] XXH3 of the contents of each block */
    struct iovec *ranges; /* registered */
    int range_count;
    zero_nvme_worker_t *workers;
    int worker_count, lanes; /* lanes: per worker */

    pthread_mutex_t mutex;
    pthread_cond_t work, change; /* work wakes workers; change wakes callers when a request or a worker has ended */
    bool synced;                 /* the three above exist */
    zero_nvme_request_t requests[ZERO_NVME_REQUESTS];
    zero_nvme_request_t *queued[ZERO_NVME_REQUESTS]; /* a ring: requests with bytes that no lane has taken */
    unsigned queued_first, queued_count;
    uint64_t issued; /* requests so far */
    uint64_t read, written;
    int running, touching; /* workers that have not ended; workers inside callers' memory */
    bool stop, abandoned;
    bool failed;
    zero_error_t error;
};

/* Starts the threads of n->workers. Their queues exist. */
zero_status_t zero_nvme_workers_start(zero_nvme_t *n, zero_error_t *error);
/* Drops the queued requests. The caller holds the mutex. */
void zero_nvme_drop_queued(zero_nvme_t *n);
/* Frees everything. No worker runs. */
void zero_nvme_free(zero_nvme_t *n);

#endif
