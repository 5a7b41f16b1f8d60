/* SPDX-License-Identifier: Apache-2.0 */
/* tcp.h - internals of tcp.c, tcp_bootstrap.c and tcp_hub.c: a communicator of ranks on several nodes that moves no
 * data. Ranks meet, exchange small values, split and learn of failures, so that NCCL can move the data.
 *
 * The topology is a star: rank 0 has a connection to each rank, including itself. A thread of rank 0, the hub, reads
 * frames and answers them. The other ranks have no thread: calls that wait or check read what has arrived. A connection
 * that ends without a ZERO_TCP_BYE means that its rank vanished.
 */
#ifndef ZERO_COMM_TCP_H
#define ZERO_COMM_TCP_H

#include "zero/comm/backend.h"
#include "zero/comm/compare.h"

/* Where the ranks meet, and which of them this one is. */
typedef struct zero_tcp_master {
    const char *host; /* a name or address of rank 0's node */
    int port;         /* the first of the ZERO_TCP_PORTS ports to try */
    bool taken;       /* another process uses the first port */
    uint64_t job;     /* equal for the ranks of one job, different between jobs */
    int rank, world;
} zero_tcp_master_t;

enum { ZERO_TCP_PORTS = 8 };

/* Makes the communicator: it exchanges host memory and moves no data. Collective. options must be complete. */
zero_status_t zero_tcp_open(zero_comm_t **comm, const zero_tcp_master_t *master, const zero_comm_options_t *options,
                            zero_error_t *error);

/* What each rank tells the others when they meet. */
typedef struct zero_tcp_info {
    uint64_t node; /* equal for ranks under one kernel */
    int32_t pid, unused;
    char host[64];
} zero_tcp_info_t;

/* Connects the ranks. Fills infos [world] with the infos of all ranks. On rank 0, sets peers[1 .. world) to the
 * connections of the other ranks; on other ranks, sets peers[0] to the connection to rank 0; other elements are -1. The
 * caller closes the connections, also after a failure. Returns within timeout_s seconds. Collective. */
zero_status_t zero_tcp_bootstrap(const zero_tcp_master_t *master, double timeout_s, zero_tcp_info_t *infos, int *peers,
                                 zero_error_t *error);

/* ---- frames: this, and bytes bytes ------------------------------------------------------------------------------ */

typedef enum zero_tcp_kind {
    ZERO_TCP_OPEN = 1, /* to the hub: communicator id has size ranks, which follow as int32_t */
    ZERO_TCP_PART,     /* to the hub: the info of this rank's call (compare.h), and its part of an exchange */
    ZERO_TCP_RESULT, /* from the hub: all parts; or, by status, a zero_tcp_differ_t (ZERO_ERR_MISMATCH) or a failure */
    ZERO_TCP_ABORT,  /* to and from the hub: a failure */
    ZERO_TCP_LEAVE,  /* to the hub: this rank no longer uses communicator id */
    ZERO_TCP_BYE,    /* to the hub: this rank no longer uses any communicator */
} zero_tcp_kind_t;

typedef struct zero_tcp_frame {
    int32_t kind, index, size, status;
    uint64_t id, bytes;
    double timeout_s; /* of an exchange, counted from its first part */
} zero_tcp_frame_t;

/* Two ranks of a communicator that make different calls. */
typedef struct zero_tcp_differ {
    int32_t rank[2];
    zero_call_info_t info[2];
} zero_tcp_differ_t;

/* Converts a failure to a payload, and back. */
static inline uint64_t zero_tcp_failure_bytes(const zero_error_t *failure)
{
    return offsetof(zero_error_t, text) + strlen(failure->text);
}
static inline zero_error_t zero_tcp_failure(const char *payload, uint64_t bytes)
{
    zero_error_t failure = {.rank = -1};
    memcpy(&failure, payload, bytes < sizeof failure ? bytes : sizeof failure - 1);
    return failure;
}

/* The maximum payload; a longer frame is invalid. */
#define ZERO_TCP_MOST ((uint64_t)1 << 30)

/* Received bytes, or bytes to send: data[0 .. used). */
typedef struct zero_tcp_buffer {
    char *data;
    size_t used, room;
} zero_tcp_buffer_t;

/* Appends bytes; returns false if memory is short. */
bool zero_tcp_add(zero_tcp_buffer_t *b, const void *data, size_t bytes);
/* Removes the first bytes. */
void zero_tcp_drop(zero_tcp_buffer_t *b, size_t bytes);
/* Appends what a socket has now. Returns 1: there may be more; 0: nothing now; -1: it has ended (errno 0) or failed. */
int zero_tcp_receive(zero_tcp_buffer_t *b, int fd);
/* Whether the buffer begins with a complete frame. Sets *frame, and *payload to its place in the buffer. *bad: the
 * buffer begins with an invalid frame. */
bool zero_tcp_next(const zero_tcp_buffer_t *b, zero_tcp_frame_t *frame, const char **payload, bool *bad);

/* ---- the hub ---------------------------------------------------------------------------------------------------- */

typedef struct zero_tcp_hub zero_tcp_hub_t;

/* Starts the thread of rank 0. It takes over peers[0 .. world), the hub's ends of the connections, and closes them on
 * failure too. Copies infos. */
zero_status_t zero_tcp_hub_open(zero_tcp_hub_t **hub, int world, const int *peers, const zero_tcp_info_t *infos,
                                double timeout_s, zero_error_t *error);
/* Waits until every rank has left, at most timeout_s after rank 0 (2 s after an abort). Then ends the thread. */
void zero_tcp_hub_close(zero_tcp_hub_t *hub);

#endif
