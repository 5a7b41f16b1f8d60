/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_state.h - what nccl_watch.c and nccl_member.c share. */
#ifndef ZERO_COMM_NCCL_STATE_H
#define ZERO_COMM_NCCL_STATE_H

#include "zero/comm/nccl_watch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { ZERO_NCCL_OPS = 128 };

#define ZERO_NCCL_LOOK_EVERY 0.05 /* s: between looks of the thread */
#define ZERO_NCCL_LOOK_SOON 0.001 /* s: while something is about to happen */
#define ZERO_NCCL_GRACE \
    1.0 /* s: an error of NCCL's may be how a peer's end shows, which the host communicator then explains */
#define ZERO_NCCL_BEYOND \
    15.0 /* s: past the time limit, how long others wait for the thread, which has limits of its own */

/* A collective on its way. */
typedef struct zero_nccl_op {
    void *begun, *done; /* events around it */
    const char *what;
    uint64_t bytes;
    double timeout_s, since; /* since: when it was seen to have begun; 0: not yet */
} zero_nccl_op_t;

/* Memory that NCCL was told of. It lasts as long as the member, since NCCL sets a window's handle later. */
typedef struct zero_nccl_memory {
    struct zero_nccl_memory *next;
    void *base;
    uint64_t bytes;
    bool window;
    void *handle; /* NULL: NCCL does not have it */
} zero_nccl_memory_t;

struct zero_nccl_member {
    zero_nccl_watch_t *watch;
    int size, rank;
    /* With the watch's mutex; comm and open are written by the thread alone, which looks at them without. */
    zero_nccl_member_t *next;
    void *comm;       /* NULL before it is made, and once its end has begun */
    bool open;        /* it was made, and has not come to its end: false is what its closing waits for */
    double timeout_s; /* of its end */
    atomic_bool closing;
    /* The thread's. */
    bool lost; /* NCCL may still write comm, so that this has to stay */
    bool finalizing, over, given_up;
    double since; /* of finalizing */
    /* With the watch's calls. */
    zero_nccl_memory_t *memory;
    zero_nccl_op_t ops[ZERO_NCCL_OPS];
    uint64_t issued, retired;
};

/* What the thread is asked to make. */
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
    pthread_mutex_t calls; /* held in every call on a member's communicator but abort and destroy, and in no long one,
                              if NCCL is right */
    pthread_mutex_t mutex; /* of what follows: never held in a call of NCCL's or CUDA's. Taken after calls */
    pthread_cond_t news;   /* from the thread */
    _Atomic uint32_t
        wakes; /* for the thread, which sleeps on it without the mutex, so that nobody can keep it asleep */
    zero_nccl_member_t *members;
    int refs;
    bool quit, stuck; /* stuck: the thread did not answer in time, and all this stays */
    zero_nccl_job_t job;
    zero_error_t noted; /* an error of NCCL's, and since when; status ZERO_OK: none */
    double noted_since;
    zero_latch_t failed;
    double failed_since; /* when the thread saw it; the thread's. 0: not yet */
    bool published;
};

/* ---- nccl_watch.c ----------------------------------------------------------------------------------------------- */

bool zero_nccl_has_failed(zero_nccl_watch_t *watch);
/* Makes what the host communicator knows the failure. */
void zero_nccl_look_at_host(zero_nccl_watch_t *watch);
/* Asks the thread to look, and waits for its news until so(what); false where it takes ZERO_NCCL_BEYOND longer than it
 * may. With the mutex. */
bool zero_nccl_await(zero_nccl_watch_t *watch, bool (*so)(const void *what), const void *what, double timeout_s);
/* Takes calls. TIMEOUT: somebody did not return from NCCL in time. */
zero_status_t zero_nccl_begin_calls(zero_nccl_watch_t *watch, zero_error_t *error);
/* Lets go of the collectives that are done, and finds the oldest that is not to have run for too long. With calls. */
void zero_nccl_retire(zero_nccl_member_t *member);
/* Wakes the thread. */
void zero_nccl_wake(zero_nccl_watch_t *watch);
void zero_nccl_nap(double seconds);

/* ---- nccl_member.c: what the thread does for the others --------------------------------------------------------- */

/* Does the job that was asked for. Without the mutex. */
void zero_nccl_run_job(zero_nccl_watch_t *watch);
/* A step of a closing member's end, with calls. Then it is over, perhaps. */
void zero_nccl_step_closing(zero_nccl_member_t *member);
/* Lets go of a member that is over. */
void zero_nccl_end_member(zero_nccl_member_t *member);

#endif
