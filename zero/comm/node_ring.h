/* SPDX-License-Identifier: Apache-2.0 */
/* node_ring.h - the layout of a rank's ring in shared memory, for the files that implement node.h. */
#ifndef ZERO_COMM_NODE_RING_H
#define ZERO_COMM_NODE_RING_H

#include "zero/comm/node.h"
#include "zero/device/host.h"

#include <sys/uio.h>

enum { ZERO_NODE_LINES = 128 }; /* bytes that processors fetch together: two lines of 64 */

/* A counter with one writer. No other data shares its lines. */
typedef struct zero_node_counter {
    _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
    /* In published: the collective that begins with the step in a slot. A reader of value sees it too. */
    zero_call_id_t id[ZERO_NODE_SLOTS];
    char pad[ZERO_NODE_LINES - 8 - ZERO_NODE_SLOTS * sizeof(zero_call_id_t)];
} zero_node_counter_t;

/* The first page of a ring; the slots follow. */
typedef struct zero_node_head {
    zero_node_counter_t published, consumed;
    uint64_t words[ZERO_NODE_SLOTS]
                  [ZERO_COMM_WORDS]; /* of the same collectives; read only if their identities differ */
    _Atomic uint32_t left;
} zero_node_head_t;
_Static_assert(sizeof(zero_node_head_t) <= ZERO_PAGE, "the head of a ring fits its page");

static inline zero_node_head_t *zero_node_head(const zero_node_t *n, int i)
{
    return n->shared.part[i];
}

static inline char *zero_node_slot(const zero_node_t *n, int i, uint32_t step)
{
    return (char *)n->shared.part[i] + zero_host_page() + step % ZERO_NODE_SLOTS * n->slot_bytes;
}

/* Reads up to size bytes at from in the memory of the node's rank j. Returns their number, or -1 with errno set. */
static inline ssize_t zero_node_peer_read(const zero_node_t *n, int j, void *to, uint64_t from, uint64_t size)
{
    struct iovec here = {to, size}, there = {(void *)(uintptr_t)from, size};
    return process_vm_readv(n->shared.pid[j], &here, 1, &there, 1, 0);
}

#endif
