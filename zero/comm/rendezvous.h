/* SPDX-License-Identifier: Apache-2.0 */
/* rendezvous.h - how ranks that were started alike find each other and exchange their first bytes, over any kind of
 * stream sockets.
 *
 * Rank 0 listens. Each other rank connects and sends a hello, which says who it is. When all ranks have connected, rank
 * 0 answers that the rendezvous succeeded; if they cannot all connect, it answers why. In an all-gather, each rank
 * sends its bytes to rank 0, which sends the bytes of all ranks back.
 */
#ifndef ZERO_COMM_RENDEZVOUS_H
#define ZERO_COMM_RENDEZVOUS_H

#include "zero/base/base.h"

/* The kind of sockets. ctx is the first argument of each function that has one. */
typedef struct zero_transport {
    /* Rank 0: opens a listening socket for the connections of world ranks. Tries until end. */
    zero_status_t (*listen)(void *ctx, int world, double end, int *listener, zero_error_t *error);
    /* Other ranks: connects to the i-th address at which rank 0 may listen. Sets *fd to -1 if nobody listens there. A
     * failure ends the rendezvous. */
    zero_status_t (*connect)(void *ctx, int i, double end, int *fd, zero_error_t *error);
    /* Returns the failure of a rank that did not find rank 0 in time. */
    zero_status_t (*not_found)(void *ctx, int rank, zero_error_t *error);
    /* Whether the system knows that the process at the other end may take part. NULL: the system does not know, so rank
     * 0 sends a hello first, and a foreign listener receives nothing from a rank. */
    bool (*trusted)(int fd);
    /* Sets options of a connection; may be NULL. */
    void (*set_options)(int fd);
    long pause_ns; /* between two rounds of connecting */
} zero_transport_t;

typedef struct zero_rendezvous {
    const zero_transport_t *transport;
    void *ctx;
    int addresses; /* number of addresses for connect */
    uint64_t job;  /* equal for the ranks of one job, different between jobs */
    int rank, world;
    double end; /* of the rendezvous and of its all-gathers, in zero_now's seconds */
    int *peers; /* [world], set by zero_rendezvous_open. Rank 0: [1 .. world) the connections of the other ranks; other
                   ranks: [0] the connection to rank 0; other elements are -1 */
} zero_rendezvous_t;

/* Connects the ranks. The caller fills in all members; peers has room for world sockets, which the caller closes, also
 * after a failure. Collective. */
zero_status_t zero_rendezvous_open(zero_rendezvous_t *r, zero_error_t *error);
/* Closes the connections. */
void zero_rendezvous_close(zero_rendezvous_t *r);
/* Fills recv (world, bytes) with the bytes of all ranks. Collective. */
zero_status_t zero_rendezvous_all_gather(zero_rendezvous_t *r, const void *send, void *recv, size_t bytes,
                                         zero_error_t *error);

#endif
