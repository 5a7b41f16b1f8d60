/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_internal.h - what nvme.c (opening, requests) and nvme_work.c (workers) share. */
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
    uint64_t taken; /* bytes that lanes took */
    int active;     /* lanes that work on it */
    bool ended;
} zero_nvme_request_t;

typedef struct zero_nvme_lane {
    zero_nvme_request_t *request; /* NULL: free */
    uint64_t offset;              /* in the file */
    uint64_t bytes, wanted;       /* of whole blocks, and of those what the caller wants */
    uint64_t done;
    char *memory; /* the caller's, or block for an incomplete one */
    char *wants;  /* the caller's */
    char *block;  /* [ZERO_NVME_BLOCK] this lane's own */
    int tries;
} zero_nvme_lane_t;

typedef struct zero_nvme_worker {
    zero_nvme_t *n;
    pthread_t thread;
    bool started, ended;
    zero_nvme_queue_t *queue; /* NULL: given up */
    zero_nvme_lane_t *lanes;
    int active; /* lanes at work */
} zero_nvme_worker_t;

struct zero_nvme {
    zero_nvme_options_t options;
    zero_nvme_file_t file;
    uint64_t bytes; /* as asked for; file.bytes is whole blocks */
    const zero_nvme_queue_ops_t *ops;
    char *memory; /* one mapping: checksums, then blocks of lanes */
    uint64_t memory_bytes;
    uint64_t *sums;       /* [file.bytes / ZERO_NVME_BLOCK] XXH3 of what each block holds */
    struct iovec *ranges; /* registered */
    int range_count;
    zero_nvme_worker_t *workers;
    int worker_count, lanes; /* lanes of each worker */

    pthread_mutex_t mutex;
    pthread_cond_t work, change; /* for workers: something to do; for callers: a request or a worker ended */
    bool synced;                 /* the three above are there */
    zero_nvme_request_t requests[ZERO_NVME_REQUESTS];
    zero_nvme_request_t *queued[ZERO_NVME_REQUESTS]; /* a ring: requests with bytes that no lane took */
    unsigned queued_first, queued_count;
    uint64_t issued; /* requests so far */
    uint64_t read, written;
    int running, touching; /* workers that have not ended; of those in the callers' memory */
    bool stop, abandoned;
    bool failed;
    zero_error_t error;
};

/* Makes the threads of n->workers, which have their queues. */
zero_status_t zero_nvme_workers_start(zero_nvme_t *n, zero_error_t *error);
/* What is queued will not be done. The mutex is held. */
void zero_nvme_drop_queued(zero_nvme_t *n);
/* Frees everything. No worker runs. */
void zero_nvme_free(zero_nvme_t *n);

#endif
