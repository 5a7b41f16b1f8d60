/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_state.h - internals that nccl_watch.c and nccl_member.c share. */
#ifndef ZERO_COMM_NCCL_STATE_H
#define ZERO_COMM_NCCL_STATE_H

#include "zero/comm/nccl_watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { ZERO_NCCL_OPS = 128 };

#define ZERO_NCCL_POLL_S 0.05       /* s: interval of the thread's checks */
#define ZERO_NCCL_POLL_SOON_S 0.001 /* s: the same while something is about to happen */
#define ZERO_NCCL_GRACE_S \
    1.0 /* s: an NCCL error may be a symptom of another rank's end, which the host communicator then explains */
#define ZERO_NCCL_MARGIN_S \
    15.0 /* s: how long callers wait for the thread beyond the time limit that the thread itself keeps */

/* A collective or transfer in flight. */
typedef struct zero_nccl_op {
    void *begun, *done; /* events before and after it */
    const char *what;
    uint64_t bytes;
    int rank, late;
    double timeout_s, since; /* since: when the thread saw that it had begun; 0: not yet */
} zero_nccl_op_t;

/* Memory to register with NCCL. It lives as long as the member, since NCCL sets a window's handle later. */
typedef struct zero_nccl_memory {
    struct zero_nccl_memory *next;
    void *base;
    uint64_t bytes;
    bool window;
    void *handle; /* NULL: not registered */
} zero_nccl_memory_t;

struct zero_nccl_member {
    zero_nccl_watch_t *watch;
    int size, rank;
    /* Protected by the watch's mutex. Only the thread writes comm and open, so it reads them without. */
    zero_nccl_member_t *next;
    void *comm;       /* NULL before it is made, and once its end has begun */
    bool open;        /* made and not ended; closing waits until this is false */
    double timeout_s; /* of closing */
    atomic_bool closing;
    /* Used by the thread only. */
    bool lost; /* NCCL may still write comm, so this struct must not be freed */
    bool finalizing, over, given_up;
    double since; /* start of finalizing */
    /* Protected by the watch's calls. */
    zero_nccl_memory_t *memory;
    zero_nccl_op_t ops[ZERO_NCCL_OPS];
    uint64_t issued, retired;
};

/* An object that the thread has to make. */
typedef struct zero_nccl_job {
    enum { ZERO_NCCL_NO_JOB, ZERO_NCCL_MAKE_ID, ZERO_NCCL_MAKE_MEMBER, ZERO_NCCL_MAKE_WINDOW } kind;
    double timeout_s;
    char id[ZERO_NCCL_ID_BYTES];
    zero_nccl_origin_t origin;
    zero_nccl_member_t *member;
    zero_nccl_memory_t *memory; /* of the window */
    zero_status_t status;
    zero_error_t error;
    bool done;
} zero_nccl_job_t;

struct zero_nccl_watch {
    const zero_cuda_nccl_t *api;
    zero_nccl_t *nccl;
    zero_comm_t *host;
    zero_comm_options_t options;
    int device;
    pthread_t thread;
    pthread_mutex_t calls; /* held during every NCCL call on a member's communicator except abort and destroy. Such a
                              call should be short */
    pthread_mutex_t mutex; /* protects the members below; never held during calls of NCCL or CUDA. Lock calls first */
    pthread_cond_t news;   /* signaled by the thread */
    _Atomic uint32_t
        wakes; /* counts wake-ups of the thread, which sleeps on it without the mutex, so that nobody can block it */
    zero_nccl_member_t *members;
    int refs;
    bool quit, stuck; /* stuck: the thread did not answer in time, so its memory is leaked */
    zero_nccl_job_t job;
    zero_error_t noted; /* the first NCCL error, since noted_since; status ZERO_OK: none */
    double noted_since;
    zero_latch_t failed;
    double failed_since; /* when the thread saw the failure; 0: not yet. Used by the thread only */
    bool published;
};

/* ---- nccl_watch.c ----------------------------------------------------------------------------------------------- */

bool zero_nccl_has_failed(zero_nccl_watch_t *watch);
/* Checks the host communicator; its failure becomes the watch's. */
void zero_nccl_check_host(zero_nccl_watch_t *watch);
/* Wakes the thread and waits until test(what) is true; returns false after timeout_s + ZERO_NCCL_MARGIN_S. Call it with
 * the mutex locked. */
bool zero_nccl_await(zero_nccl_watch_t *watch, bool (*test)(const void *what), const void *what, double timeout_s);
/* Locks calls, unless there is a failure. If another thread does not return from NCCL in time, ZERO_ERR_TIMEOUT becomes
 * the failure. */
zero_status_t zero_nccl_lock_calls(zero_nccl_watch_t *watch, zero_error_t *error);
/* Retires collectives that are done. Fails if the oldest one in flight exceeds its time limit. Call it with calls
 * locked. */
void zero_nccl_retire(zero_nccl_member_t *member);
void zero_nccl_wake(zero_nccl_watch_t *watch);
void zero_nccl_sleep(double seconds);

/* ---- nccl_member.c: what the thread does for the others --------------------------------------------------------- */

/* Does the requested job. Call it without the mutex. */
void zero_nccl_run_job(zero_nccl_watch_t *watch);
/* The next step of closing a member; sets over after the last one. Call it with calls locked. */
void zero_nccl_step_closing(zero_nccl_member_t *member);
/* Ends a member whose communicator is over. */
void zero_nccl_end_member(zero_nccl_member_t *member);

#endif
