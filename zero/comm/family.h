/* SPDX-License-Identifier: Apache-2.0 */
/* family.h - what a communicator and all that was split from it share: the abort word with its sentence, and who is
 * still alive.
 *
 * Each rank of a node has one page of shared memory (its seat) that every other rank of the node can write. An abort
 * writes its failure into its own seat, makes it the node's unless another is already, and then a word into every
 * seat, so that a waiting rank polls nothing but its own. Ranks of other nodes are reached through `far`.
 */
#ifndef ZERO_COMM_FAMILY_H
#define ZERO_COMM_FAMILY_H

#include "zero/comm/comm.h"
#include "zero/comm/shared.h"

#include <stdatomic.h>

typedef struct zero_family zero_family_t;

/* How to reach the ranks of other nodes. */
typedef struct zero_far_ops {
    void (*abort)(void *ctx, const zero_error_t *failure);
    /* Receives failures of other nodes and passes them to zero_family_aborted. */
    void (*poll)(void *ctx, zero_family_t *family);
    void (*close)(void *ctx, bool aborted);
} zero_far_ops_t;

struct zero_family {
    atomic_int refs;
    atomic_bool broken;    /* a collective failed here, perhaps not everywhere: others may not come to the end */
    int rank, size;        /* of this process in the first communicator, "family rank" */
    int seat, seats;       /* this process among the ranks of its node */
    zero_shared_t pages;   /* one zero_seat_t for each of the node's ranks */
    struct zero_seat *own; /* = pages.part[seat]; of a family of one, plain memory */
    int *member;           /* [seats] family ranks */
    int *pidfd;            /* [seats] -1: not watched */
    const zero_far_ops_t *far;
    void *far_ctx;
};

/* A family of the meet's ranks members[0 .. count), of which this is members[index]. Collective over the meet. */
zero_status_t zero_family_open(zero_family_t **family, const zero_meet_t *meet, const int *members, int count,
                               int index, zero_error_t *error);
zero_family_t *zero_family_hold(zero_family_t *family);
void zero_family_drop(zero_family_t *family);

/* Publishes a failure to every rank; the first one stays. */
void zero_family_abort(zero_family_t *family, const zero_error_t *failure);
/* The same within this node. */
void zero_family_aborted(zero_family_t *family, const zero_error_t *failure);
bool zero_family_is_aborted(const zero_family_t *family);
/* ZERO_ERR_PEER with what was published once there was an abort. Cheap: one load. */
zero_status_t zero_family_check(const zero_family_t *family, zero_error_t *error);
/* The same after a look at other nodes and at whether every rank of this node that has not left still lives; a dead one
 * is an abort. operation is for the sentence. A system call or two: for waits that last. */
zero_status_t zero_family_watch(zero_family_t *family, const char *operation, zero_error_t *error);
/* The process of a seat is gone (false where that cannot be known). */
bool zero_family_is_dead(const zero_family_t *family, int seat);
int zero_family_pid(const zero_family_t *family, int seat);

/* tell and told of comm.h; rank is a family rank. */
void zero_family_tell(zero_family_t *family, uint64_t word);
uint64_t zero_family_told(const zero_family_t *family, int rank);

#endif
