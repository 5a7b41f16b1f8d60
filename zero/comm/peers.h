/* SPDX-License-Identifier: Apache-2.0 */
/* peers.h - state that a communicator shares with its splits: the abort word with its sentence, and which ranks are
 * alive.
 *
 * Each rank of a node has one page of shared memory (zero_peer_page_t) that every other rank of the node can write. To
 * abort, a rank writes the failure into its own page, makes it the node's failure unless there is one already, and sets
 * a word in every page, so that a waiting rank polls its own page only. `far` reaches the ranks of other nodes.
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
    /* Receives failures of other nodes and passes them to zero_peers_abort_node. */
    void (*poll)(void *ctx, zero_peers_t *peers);
    void (*close)(void *ctx, bool aborted);
} zero_far_ops_t;

struct zero_peers {
    atomic_int refs;
    atomic_bool broken;         /* a collective failed here, perhaps not everywhere: others may not reach the close */
    int rank, size;             /* of this process in the first communicator: the "world rank" */
    int index, count;           /* this process's index among the ranks of its node; their number */
    zero_shared_t pages;        /* one zero_peer_page_t for each of the node's ranks */
    struct zero_peer_page *own; /* = pages.part[index]; ordinary memory if count is 1 */
    int *member;                /* [count] world ranks */
    int *pidfd;                 /* [count] -1: not watched */
    const zero_far_ops_t *far;
    void *far_ctx;
};

/* Makes the peers of the ranks members[0 .. count) of oob; this rank is members[index]. Collective over oob. */
zero_status_t zero_peers_open(zero_peers_t **peers, const zero_oob_t *oob, const int *members, int count, int index,
                              zero_error_t *error);
zero_peers_t *zero_peers_hold(zero_peers_t *peers);
void zero_peers_drop(zero_peers_t *peers);

/* Publishes a failure to every rank; only the first failure counts. */
void zero_peers_abort(zero_peers_t *peers, const zero_error_t *failure);
/* The same within this node. */
void zero_peers_abort_node(zero_peers_t *peers, const zero_error_t *failure);
bool zero_peers_is_aborted(const zero_peers_t *peers);
/* After an abort, returns ZERO_ERR_PEER with the published failure. Cheap: one load. */
zero_status_t zero_peers_check(const zero_peers_t *peers, zero_error_t *error);
/* The same, but first looks for failures of other nodes and for ranks of this node that died without leaving; a dead
 * rank causes an abort. operation is for the error message. Costs a few system calls: for long waits. */
zero_status_t zero_peers_watch(zero_peers_t *peers, const char *operation, zero_error_t *error);
/* Whether the process of a page has ended; false if that is unknown. */
bool zero_peers_is_dead(const zero_peers_t *peers, int index);
int zero_peers_pid(const zero_peers_t *peers, int index);

/* zero_comm_publish and zero_comm_progress of comm.h; rank is a world rank. */
void zero_peers_publish(zero_peers_t *peers, uint64_t word);
uint64_t zero_peers_progress(const zero_peers_t *peers, int rank);

#endif
