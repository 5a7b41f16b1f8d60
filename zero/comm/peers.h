/* SPDX-License-Identifier: Apache-2.0 */
/* peers.h - what a communicator and all that was split from it share: the abort word with its sentence, and who is
 * still alive.
 *
 * Each rank of a node has one page of shared memory (zero_peer_page_t) that every other rank of the node can write. An
 * abort writes its failure into its own page, makes it the node's unless another is already, and then a word into every
 * page, so that a waiting rank polls nothing but its own. Ranks of other nodes are reached through `far`.
 */
#ifndef ZERO_COMM_PEERS_H
#define ZERO_COMM_PEERS_H

#include "zero/comm/comm.h"
#include "zero/comm/shared.h"

#include <stdatomic.h>

typedef struct zero_peers zero_peers_t;

/* How to reach the ranks of other nodes. */
typedef struct zero_far_ops {
    void (*abort)(void *ctx, const zero_error_t *failure);
    /* Receives failures of other nodes and passes them to zero_peers_aborted. */
    void (*poll)(void *ctx, zero_peers_t *peers);
    void (*close)(void *ctx, bool aborted);
} zero_far_ops_t;

struct zero_peers {
    atomic_int refs;
    atomic_bool broken;         /* a collective failed here, perhaps not everywhere: others may not come to the end */
    int rank, size;             /* of this process in the first communicator, "world rank" */
    int index, count;           /* this process among the ranks of its node */
    zero_shared_t pages;        /* one zero_peer_page_t for each of the node's ranks */
    struct zero_peer_page *own; /* = pages.part[index]; of one rank, plain memory */
    int *member;                /* [count] world ranks */
    int *pidfd;                 /* [count] -1: not watched */
    const zero_far_ops_t *far;
    void *far_ctx;
};

/* The peers of oob's ranks members[0 .. count), of which this is members[index]. Collective over oob. */
zero_status_t zero_peers_open(zero_peers_t **peers, const zero_oob_t *oob, const int *members, int count, int index,
                              zero_error_t *error);
zero_peers_t *zero_peers_hold(zero_peers_t *peers);
void zero_peers_drop(zero_peers_t *peers);

/* Publishes a failure to every rank; the first one stays. */
void zero_peers_abort(zero_peers_t *peers, const zero_error_t *failure);
/* The same within this node. */
void zero_peers_aborted(zero_peers_t *peers, const zero_error_t *failure);
bool zero_peers_is_aborted(const zero_peers_t *peers);
/* ZERO_ERR_PEER with what was published once there was an abort. Cheap: one load. */
zero_status_t zero_peers_check(const zero_peers_t *peers, zero_error_t *error);
/* The same after a look at other nodes and at whether every rank of this node that has not left still lives; a dead one
 * is an abort. operation is for the sentence. A system call or two: for waits that last. */
zero_status_t zero_peers_watch(zero_peers_t *peers, const char *operation, zero_error_t *error);
/* The process of a page is gone (false where that cannot be known). */
bool zero_peers_is_dead(const zero_peers_t *peers, int index);
int zero_peers_pid(const zero_peers_t *peers, int index);

/* zero_comm_publish and zero_comm_progress of comm.h; rank is a world rank. */
void zero_peers_publish(zero_peers_t *peers, uint64_t word);
uint64_t zero_peers_progress(const zero_peers_t *peers, int rank);

#endif
