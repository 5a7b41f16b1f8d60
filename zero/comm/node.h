/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - moves data between the ranks of one communicator that share a node, through a ring of slots in shared memory
 * for each rank, or directly between the memory of two processes.
 *
 * A collective is a sequence of steps, which all ranks of the node number alike. In a step a rank fills its slot (step
 * modulo ZERO_NODE_SLOTS), publishes the step, reads the slots of the other ranks and marks the step as consumed. A
 * rank fills a slot again once all ranks have consumed its last use. So each rank writes two counters and polls those
 * of the others. The first step of a collective also publishes the identity of the call, and each rank compares it
 * before it continues. Filling runs one step ahead of reading, so that a rank that is late for a moment does not stop
 * the others.
 *
 * A gather of long slices copies each byte once if the system lets ranks read each other's memory (process_vm_readv).
 * It is a single step: a rank's slot holds the address of its slice, the other ranks read the slice from there into
 * their buffers, and the step ends when all ranks have consumed all slices. zero_node_open tests whether this works;
 * either all ranks of the node use it, or none.
 *
 * A transfer is a gather of two ranks, of which one has no slice: it fills no slot, and publishes its call.
 */
#ifndef ZERO_COMM_NODE_H
#define ZERO_COMM_NODE_H

#include "kernels/flat/flat.h"
#include "zero/comm/compare.h"
#include "zero/comm/peers.h"

enum { ZERO_NODE_SLOTS = 4 };

typedef struct zero_node {
    int count, index;    /* number of this node's ranks in the communicator; this rank's index among them */
    int *rank;           /* [count] their ranks in the communicator, increasing */
    int *peer;           /* [count] their indices in peers */
    zero_peers_t *peers; /* borrowed */
    zero_shared_t shared;
    uint64_t slot_bytes; /* a multiple of 128; 0 if count is 1 */
    uint32_t step;       /* first step of the next collective */
    uint32_t *consumed;  /* [count] a lower bound on the steps that each rank has consumed */
    const void **source; /* [communicator's size] operands of a sum */
    const zero_flat_ops_t *flat;
    uint64_t large_bytes;  /* gathers and transfers that receive at least this much use stores that bypass the caches */
    uint64_t direct_bytes; /* gathers with slices, and transfers, of at least this size read other ranks' memory instead
                              of the rings; the same on all ranks */
    double cost[2];        /* seconds per byte of filling a slot: [0] plain stores, [1] stores that bypass the caches;
                              0: unknown */
    uint32_t fills;
    double timeout_s;
    int spins; /* polls of a counter before yielding the processor */
} zero_node_t;

/* Sets node->peers and timeout_s, and makes the shared rings of ring_bytes bytes per rank. Collective over oob. Copies
 * rank and peer. status and error: as in zero_oob_agree, the outcome of what this rank did before. */
zero_status_t zero_node_open(zero_node_t *node, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                             const int *rank, const int *peer, int count, int index, int size, uint64_t ring_bytes,
                             double timeout_s, zero_status_t status, zero_error_t *error);
/* Marks this rank as having left. */
void zero_node_close(zero_node_t *node);

/* The smallest ring, in bytes, that count ranks of one node can use. */
uint64_t zero_node_least(int count);

/* Collectives. The ranks of the node compare call, except in a gather with lists, which follows a gather without.
 *
 * The gather writes the bytes bytes of communicator rank r to recv + r * bytes, for all ranks r in
 * lists[j][0 .. lengths[j]), the slices that node rank j holds. own is the source of this rank's own slice
 * (rank[index]); the other slices that it holds are in recv already. lists NULL: each rank holds its own slice only. */
zero_status_t zero_node_gather(zero_node_t *node, const zero_call_t *call, const void *own, char *recv, uint64_t bytes,
                               const int *const *lists, const int *lengths, zero_error_t *error);

/* The operands of other nodes' ranks in a sum or an all-to-all. start begins to move elements [begin, begin + count) of
 * every slice. finish waits for them and sets source[r] for each communicator rank r on another node. start of a part
 * comes before finish of the previous part. */
typedef struct zero_node_far {
    zero_status_t (*start)(void *ctx, int64_t part, int64_t begin, int64_t count, zero_error_t *error);
    zero_status_t (*finish)(void *ctx, int64_t part, const void **source, zero_error_t *error);
    void *ctx;
    uint64_t part_bytes; /* the maximum size of a part, the same on every rank */
} zero_node_far_t;

/* recv (count) = sum over the communicator's size ranks r of send_r[rank * count ...], in rank order. far: NULL on a
 * single node. */
zero_status_t zero_node_reduce(zero_node_t *node, const zero_call_t *call, const void *send, void *recv, int64_t count,
                               zero_dtype_t dtype, int rank, int size, const zero_node_far_t *far, zero_error_t *error);

/* recv + r * bytes = bytes [rank * bytes, (rank + 1) * bytes) of send_r, for each rank r of the communicator. far: as
 * above, with bytes as elements. */
zero_status_t zero_node_trade(zero_node_t *node, const zero_call_t *call, const void *send, void *recv, uint64_t bytes,
                              int rank, int size, const zero_node_far_t *far, zero_error_t *error);

/* A transfer between two ranks, the communicator's only ones: of the bytes bytes at from on the rank that sends, to to
 * on the other. The ranks compare call. The sender returns once the other rank makes the same call, and has read from
 * (slots may still hold the last bytes). */
zero_status_t zero_node_send(zero_node_t *node, const zero_call_t *call, const char *from, uint64_t bytes,
                             zero_error_t *error);
zero_status_t zero_node_recv(zero_node_t *node, const zero_call_t *call, char *to, uint64_t bytes, zero_error_t *error);

/* Bytes of a slot that are available for one other rank. */
uint64_t zero_node_part_bytes(const zero_node_t *node);
/* Resident bytes of this rank's ring. */
uint64_t zero_node_resident(const zero_node_t *node);
/* Resident bytes of the other ranks' rings, as mapped here. */
uint64_t zero_node_peers_resident(const zero_node_t *node);

#endif
