/* SPDX-License-Identifier: Apache-2.0 */
/* tcp.h - what tcp.c, tcp_bootstrap.c and tcp_hub.c share: a communicator of ranks on several nodes that moves no data.
 * Ranks meet, exchange small values, split, and hear of failures, so that NCCL can move the data.
 *
 * A star: rank 0 has a connection to each rank, itself included, and a thread, the hub, that reads frames from them and
 * answers. The others have no thread: whoever waits or checks reads what came. A connection that ends without a bye is
 * a rank that vanished.
 */
#ifndef ZERO_COMM_TCP_H
#define ZERO_COMM_TCP_H

#include "zero/comm/backend.h"
#include "zero/comm/compare.h"

/* Where ranks meet, and who this one is. */
typedef struct zero_tcp_master {
    const char *host; /* a name or address of rank 0's node */
    int port;         /* the first of ZERO_TCP_PORTS that are tried */
    bool taken;       /* the first one is another's */
    uint64_t job;     /* the same for all these ranks, and for no others */
    int rank, world;
} zero_tcp_master_t;

enum { ZERO_TCP_PORTS = 8 };

/* Ranks of several nodes: host memory is exchanged, and data is not moved. Collective. options: complete. */
zero_status_t zero_tcp_open(zero_comm_t **comm, const zero_tcp_master_t *master, const zero_comm_options_t *options,
                            zero_error_t *error);

/* What a rank tells of itself. */
typedef struct zero_tcp_info {
    uint64_t magic, job;
    uint64_t node; /* equal for ranks under one kernel */
    int32_t rank, world, pid, unused;
    char host[64];
} zero_tcp_info_t;

/* Connects the ranks: infos [world] gets everyone's; peers [world] the connections of rank 0, from 1 on, and peers[0]
 * elsewhere that to rank 0
 * (-1: none). The caller closes what is there, also after a failure. Returns in timeout_s seconds. Collective. */
zero_status_t zero_tcp_bootstrap(const zero_tcp_master_t *master, double timeout_s, zero_tcp_info_t *infos, int *peers,
                                 zero_error_t *error);

/* ---- frames: this, and bytes bytes ------------------------------------------------------------------------------ */

typedef enum zero_tcp_kind {
    ZERO_TCP_OPEN = 1, /* to the hub: there is a communicator id of size ranks, int32_t each */
    ZERO_TCP_GIVE,     /* to the hub: the info of rank index's call (compare.h), and its part of an exchange */
    ZERO_TCP_ALL, /* from it: status 0 and all parts, or why it failed: ZERO_ERR_MISMATCH and zero_tcp_differ_t, another
                     status and a failure */
    ZERO_TCP_ABORT, /* to and from it: a failure */
    ZERO_TCP_LEAVE, /* to the hub: this rank has no use for communicator id any more */
    ZERO_TCP_BYE,   /* to the hub: nor for any */
} zero_tcp_kind_t;

typedef struct zero_tcp_frame {
    int32_t kind, index, size, status;
    uint64_t id, bytes;
    double timeout_s; /* of an exchange, from its first part on */
} zero_tcp_frame_t;

/* Two ranks of a communicator that are in different calls. */
typedef struct zero_tcp_differ {
    int32_t rank[2];
    zero_call_info_t info[2];
} zero_tcp_differ_t;

/* A failure as a payload, and back. */
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

/* The longest frame: more is no frame of ours. */
#define ZERO_TCP_MOST ((uint64_t)1 << 30)

/* Bytes that came or will go: data[0 .. used). */
typedef struct zero_tcp_buffer {
    char *data;
    size_t used, room;
} zero_tcp_buffer_t;

/* Adds bytes; false: no memory. */
bool zero_tcp_add(zero_tcp_buffer_t *b, const void *data, size_t bytes);
/* Drops the first bytes. */
void zero_tcp_drop(zero_tcp_buffer_t *b, size_t bytes);
/* Adds what a socket has now. 1: there may be more, 0: not now, -1: it has ended (errno 0), or failed. */
int zero_tcp_receive(zero_tcp_buffer_t *b, int fd);
/* Whether the buffer begins with a whole frame: *frame, and *payload in the buffer. *bad: it begins with none at all.
 */
bool zero_tcp_next(const zero_tcp_buffer_t *b, zero_tcp_frame_t *frame, const char **payload, bool *bad);

/* ---- the hub ---------------------------------------------------------------------------------------------------- */

typedef struct zero_tcp_hub zero_tcp_hub_t;

/* Starts the thread of rank 0, which takes over peers[0 .. world): the connections' hub ends, closed also on failure.
 * infos: copied. */
zero_status_t zero_tcp_hub_open(zero_tcp_hub_t **hub, int world, const int *peers, const zero_tcp_info_t *infos,
                                double timeout_s, zero_error_t *error);
/* Waits until every rank has left, at most timeout_s after rank 0 did, after an abort 2 s; then ends the thread. */
void zero_tcp_hub_close(zero_tcp_hub_t *hub);

#endif
