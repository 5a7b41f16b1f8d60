/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - moves data between the ranks of one communicator that share a node, through a ring of slots in shared memory
 * for each rank, or straight from one process's memory to another's.
 *
 * Every collective is a sequence of steps that all ranks of the node count alike. In a step a rank fills its slot (step
 * modulo NODE_SLOTS), publishes the step, reads the slots of the others and says that it has consumed the step. A slot
 * is filled again when everyone has consumed its last use. So each rank writes two counters and polls those of the
 * others. Beside the counter of a collective's first step stands which collective it is: whoever sees the step compares
 * that before it goes on. Filling runs one step ahead of reading, so that a rank that is late for a moment does not
 * stop the rest.
 *
 * A gather of long slices copies each byte once where the system lets ranks read each other's memory
 * (process_vm_readv): in a single step a rank's slot holds the address of its slice, the others read it there into
 * their buffers, and the step ends when everyone has consumed everyone's. That is tried when a node is opened, and
 * ranks do it all or none.
 */
#ifndef ZERO_COMM_NODE_H
#define ZERO_COMM_NODE_H

#include "kernels/flat/flat.h"
#include "zero/comm/compare.h"
#include "zero/comm/peers.h"

enum { ZERO_NODE_SLOTS = 4 };

typedef struct zero_node {
    int count, index;    /* ranks of the communicator on this node, and which is this one */
    int *rank;           /* [count] their ranks in the communicator, increasing */
    int *peer;           /* [count] their indices in peers */
    zero_peers_t *peers; /* borrowed */
    zero_shared_t shared;
    uint64_t slot_bytes; /* a multiple of 128; 0 where count is 1 */
    uint32_t step;       /* of the next collective's first step */
    uint32_t *consumed;  /* [count] the least that each is known to have consumed */
    const void **source; /* [communicator's size] operands of a sum */
    const zero_flat_ops_t *flat;
    uint64_t large_bytes;  /* gathers that receive at least this much bypass the caches */
    uint64_t direct_bytes; /* gathers of at least this much a rank read each other's memory, not the rings; the same on
                              all */
    double cost[2];        /* seconds a byte of filling a slot, by plain stores and past the caches; 0: not known */
    uint32_t fills;
    double timeout_s;
    int spins; /* looks at a counter before giving the processor away */
} zero_node_t;

/* Sets node->peers, timeout_s and makes the shared rings of ring_bytes bytes a rank. Collective over oob. rank,
 * peer: copied. */
zero_status_t zero_node_open(zero_node_t *node, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                             const int *rank, const int *peer, int count, int index, int size, uint64_t ring_bytes,
                             double timeout_s, zero_error_t *error);
/* Tells the others that this rank left. */
void zero_node_close(zero_node_t *node);

/* The least ring that count ranks of one node can work with, bytes. */
uint64_t zero_node_least(int count);

/* Collectives. They compare call on the ranks of the node; a gather with lists does not: it belongs to one without.
 *
 * recv + r * bytes gets the bytes bytes of communicator rank r, for all ranks r of lists[j][0 .. lengths[j]), which
 * rank j of the node has; own is where this rank's own slice (rank[index]) comes from, its other slices are in recv
 * already. lists NULL: each has its own alone. */
zero_status_t zero_node_gather(zero_node_t *node, const zero_call_t *call, const void *own, char *recv, uint64_t bytes,
                               const int *const *lists, const int *lengths, zero_error_t *error);

/* Ranks of other nodes in a sum: start begins to move elements [begin, begin + count) of every slice, finish waits for
 * them and sets source[r] for the communicator ranks r that are elsewhere. start of a part comes before finish of the
 * part before it. */
typedef struct zero_node_far {
    zero_status_t (*start)(void *ctx, int64_t part, int64_t begin, int64_t count, zero_error_t *error);
    zero_status_t (*finish)(void *ctx, int64_t part, const void **source, zero_error_t *error);
    void *ctx;
    uint64_t part_bytes; /* the most that a part may have, the same on every rank */
} zero_node_far_t;

/* recv (count) = sum over the communicator's size ranks r of send_r[rank * count ...], in rank order. far: NULL on a
 * single node. */
zero_status_t zero_node_reduce(zero_node_t *node, const zero_call_t *call, const void *send, void *recv, int64_t count,
                               zero_dtype_t dtype, int rank, int size, const zero_node_far_t *far, zero_error_t *error);

/* Bytes of a slot that can go to one other rank. */
uint64_t zero_node_part_bytes(const zero_node_t *node);
/* Resident bytes of this rank's ring. */
uint64_t zero_node_resident(const zero_node_t *node);
/* The same of the others' rings as mapped here. */
uint64_t zero_node_peers_resident(const zero_node_t *node);

#endif
