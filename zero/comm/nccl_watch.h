/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_watch.h - makes sure that NCCL never blocks a rank forever.
 *
 * An NCCL collective is a kernel that waits on the GPU for the other ranks. Everything that waits for its stream waits
 * too, even the trainer in a CUDA call that has no time limit. So a communicator and its splits share a thread. The
 * thread checks the host communicator (aborts, ranks that have ended), NCCL's errors, and how long the oldest
 * collective has run. The first problem that it finds becomes the failure of all these communicators. Then it aborts
 * them, which ends their kernels, so that the streams complete. The failure is set before that: after waiting for a
 * stream, zero_nccl_check tells whether its results are valid. The caller of that check publishes a failure that only
 * this rank knows. If nobody checks, the thread publishes it after a while, unless the host communicator must not be
 * used by other threads.
 *
 * The thread also makes, ends and aborts communicators for the other threads, which wait for it with a time limit. If
 * such a call of NCCL hangs, only this thread hangs.
 */
#ifndef ZERO_COMM_NCCL_WATCH_H
#define ZERO_COMM_NCCL_WATCH_H

#include "zero/comm/comm.h"
#include "zero/comm/nccl.h"

typedef struct zero_nccl_watch zero_nccl_watch_t;
typedef struct zero_nccl_member zero_nccl_member_t; /* one NCCL communicator */

/* Starts the thread. It ends after zero_nccl_watch_drop and the close of the last member. Takes over nccl on success;
 * borrows host. */
zero_status_t zero_nccl_watch_open(zero_nccl_watch_t **watch, const zero_cuda_nccl_t *api, zero_nccl_t *nccl,
                                   zero_comm_t *host, int device, const zero_comm_options_t *options,
                                   zero_error_t *error);
void zero_nccl_watch_drop(zero_nccl_watch_t *watch);

/* Makes NCCL's id for a new communicator: ZERO_NCCL_ID_BYTES bytes. */
zero_status_t zero_nccl_watch_id(zero_nccl_watch_t *watch, void *id, zero_error_t *error);

/* Source of a new member: an id; or, if id is NULL, a split by color and key of the caller's communicator; or, if
 * callers is NULL too, such a split of the member parent. */
typedef struct zero_nccl_origin {
    const void *id;
    void *callers;
    zero_nccl_member_t *parent;
    int color, key;
    bool link; /* of two ranks, which are connected for transfers */
} zero_nccl_origin_t;
/* Makes rank number rank of size ranks, which all call this at about the same time. Returns when it is ready. After a
 * failure, abort. */
zero_status_t zero_nccl_member_open(zero_nccl_member_t **member, zero_nccl_watch_t *watch,
                                    const zero_nccl_origin_t *origin, int size, int rank, double timeout_s,
                                    zero_error_t *error);
/* Waits for collectives in flight, and aborts them at the time limit. Accepts NULL. */
void zero_nccl_member_close(zero_nccl_member_t *member, double timeout_s);

/* A collective or transfer: issue enqueues it with comm on stream. */
typedef struct zero_nccl_call zero_nccl_call_t;
struct zero_nccl_call {
    zero_status_t (*issue)(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm, const zero_nccl_call_t *call,
                           zero_error_t *error);
    /* For error messages. */
    const char *what; /* "all-gather" */
    uint64_t bytes;   /* per rank */
    int rank, late;   /* numbers in the first communicator: this rank, and the one that it waits for; -1: several */
    void *stream;
    double timeout_s; /* from the start of its kernel */
    /* Arguments of issue. */
    const void *send;
    void *recv;
    int64_t count;
    zero_dtype_t dtype;
    int peer;
};
/* Returns when the collective is on the stream. */
zero_status_t zero_nccl_issue(zero_nccl_member_t *member, const zero_nccl_call_t *call, zero_error_t *error);

/* Registers memory; if NCCL refuses, logs a warning. window: registers a symmetric window. Then all ranks call this at
 * about the same time, and after a failure the caller must abort. If NCCL makes no window for these ranks, logs a
 * warning and registers the memory without one. */
zero_status_t zero_nccl_attach(zero_nccl_member_t *member, void *base, uint64_t bytes, bool window, double timeout_s,
                               zero_error_t *error);

/* Returns the failure, or ZERO_OK. Cheap. */
zero_status_t zero_nccl_check(zero_nccl_watch_t *watch, zero_error_t *error);
/* Sets the failure, unless there is one already. */
void zero_nccl_fail(zero_nccl_watch_t *watch, zero_status_t status, const zero_error_t *why);

#endif
