/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_watch.h - sees to it that NCCL never makes a rank wait for ever.
 *
 * A collective of NCCL's is a kernel, which waits on the GPU for the other ranks, and whoever waits for its stream (the
 * trainer itself, perhaps, in a call of CUDA's that knows no time limit) waits along. So a communicator, and all that
 * was split from it, has a thread. It looks at the host communicator (aborts, ranks that are gone), at NCCL's errors,
 * and at how long the oldest collective has run. What it finds becomes the failure of all these communicators; then it
 * aborts them, which ends their kernels, so that the streams run dry. The failure is there before that: whoever finds a
 * stream dry asks zero_nccl_check whether its contents count. Whoever asks publishes what only this rank knows; where
 * nobody asks, the thread does it after a while, unless the host communicator is not for other threads.
 *
 * The thread also makes, ends and aborts communicators for the others, who wait for it with a bound: whatever NCCL
 * should hang in, it is this thread that hangs.
 */
#ifndef ZERO_COMM_NCCL_WATCH_H
#define ZERO_COMM_NCCL_WATCH_H

#include "zero/comm/comm.h"
#include "zero/comm/nccl.h"

typedef struct zero_nccl_watch zero_nccl_watch_t;
typedef struct zero_nccl_member zero_nccl_member_t; /* one NCCL communicator */

/* Starts the thread, which ends with the last member, after zero_nccl_watch_drop. Takes over nccl on success; host is
 * borrowed. */
zero_status_t zero_nccl_watch_open(zero_nccl_watch_t **watch, const zero_cuda_nccl_t *api, zero_nccl_t *nccl,
                                   zero_comm_t *host, int device, const zero_comm_options_t *options,
                                   zero_error_t *error);
void zero_nccl_watch_drop(zero_nccl_watch_t *watch);

/* NCCL's name for a new communicator: ZERO_NCCL_ID_BYTES. */
zero_status_t zero_nccl_watch_id(zero_nccl_watch_t *watch, void *id, zero_error_t *error);

/* What a member is made from: an id, or (id NULL) the caller's communicator, or (that NULL, too) a member, and then by
 * color and key. */
typedef struct zero_nccl_origin {
    const void *id;
    void *callers;
    zero_nccl_member_t *parent;
    int color, key;
} zero_nccl_origin_t;
/* Rank rank of size ranks, which all call it at about the same time. Returns when it is ready. After a failure of this
 * only aborting helps. */
zero_status_t zero_nccl_member_open(zero_nccl_member_t **member, zero_nccl_watch_t *watch,
                                    const zero_nccl_origin_t *origin, int size, int rank, double timeout_s,
                                    zero_error_t *error);
/* Waits for what is in flight, and aborts it when the time is up. Accepts NULL. */
void zero_nccl_member_close(zero_nccl_member_t *member, double timeout_s);

/* A collective: call(call) issues it on comm and stream. */
typedef struct zero_nccl_call zero_nccl_call_t;
struct zero_nccl_call {
    zero_status_t (*issue)(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm, const zero_nccl_call_t *call,
                           zero_error_t *error);
    const char *what; /* "all-gather" */
    uint64_t bytes;   /* that a rank gives or gets, for sentences */
    void *stream;
    double timeout_s; /* from when it begins */
    /* issue's own */
    const void *send;
    void *recv;
    int64_t count;
    zero_dtype_t dtype;
};
/* Returns when it is on the stream. */
zero_status_t zero_nccl_issue(zero_nccl_member_t *member, const zero_nccl_call_t *call, zero_error_t *error);

/* Registers memory; if NCCL refuses, the log says so. window: as a symmetric window. Then all ranks call it at about
 * the same time, and after a failure only an abort helps. If NCCL makes no window for these ranks, the log says so, and
 * the memory is registered without. */
zero_status_t zero_nccl_attach(zero_nccl_member_t *member, void *base, uint64_t bytes, bool window, double timeout_s,
                               zero_error_t *error);

/* The failure, or ZERO_OK. Cheap. */
zero_status_t zero_nccl_check(zero_nccl_watch_t *watch, zero_error_t *error);
/* Makes it the failure, unless there is one already. */
void zero_nccl_fail(zero_nccl_watch_t *watch, zero_status_t status, const zero_error_t *why);

#endif
