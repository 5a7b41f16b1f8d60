/* SPDX-License-Identifier: Apache-2.0 */
/* node_open.c - opens and closes the rings of a node: sizes, and what the ranks find out about the machine. */
#define _GNU_SOURCE
#include "zero/comm/node_ring.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    SPIN_LOOKS = 200, /* about 10 microseconds */
    DIRECT = 65536, /* shorter slices go through the rings: the second copy costs less than a system call and a wait */
    DIRECT_IN_TURNS = 8 * DIRECT /* if ranks outnumber processors */
};

/* What each rank sends to the others while they open the node. */
typedef struct info {
    cpu_set_t cpus;
    uint64_t nonce, address; /* a random word, and its address in this rank's memory */
    bool reads;              /* it could read the words of all other ranks */
} info_t;

uint64_t zero_node_least(int count)
{
    uint64_t page = zero_host_page(), data = (uint64_t)ZERO_NODE_SLOTS * ZERO_NODE_LINES * (uint64_t)count;
    return page + (data + page - 1) / page * page;
}

uint64_t zero_node_part_bytes(const zero_node_t *n)
{
    return n->count > 1 ? n->slot_bytes / (uint64_t)(n->count - 1) / ZERO_NODE_LINES * ZERO_NODE_LINES
                        : UINT64_MAX / ZERO_NODE_LINES * ZERO_NODE_LINES;
}

uint64_t zero_node_resident(const zero_node_t *n)
{
    uint64_t resident = 0;
    if (n->count > 1)
        zero_host_resident(n->shared.part[n->shared.index], n->shared.bytes, &resident, NULL);
    return resident;
}

uint64_t zero_node_peers_resident(const zero_node_t *n)
{
    uint64_t total = 0, resident = 0;
    for (int i = 0; i < n->shared.count && n->count > 1; i++)
        if (i != n->shared.index && zero_host_resident(n->shared.part[i], n->shared.bytes, &resident, NULL) == ZERO_OK)
            total += resident;
    return total;
}

/* Bytes of the last-level cache. Not sysconf's number, which some processors add up over all sockets and threads. */
static uint64_t shared_cache(void)
{
    unsigned long long kib = 0;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    if (f) {
        if (fscanf(f, "%lluK", &kib) != 1)
            kib = 0;
        fclose(f);
    }
    return kib ? kib * 1024 : 32 << 20;
}

/* Whether this rank can read the memory of each other rank. Only a test shows it: hardened kernels, seccomp filters and
 * containers refuse it. */
static bool can_read(const zero_node_t *n, const int *members, const info_t *all)
{
    for (int j = 0; j < n->count; j++) {
        uint64_t nonce = 0;
        if (j != n->index &&
            (n->shared.pid[j] == 0 ||
             zero_node_peer_read(n, j, &nonce, all[members[j]].address, sizeof nonce) != sizeof nonce ||
             nonce != all[members[j]].nonce))
            return false;
    }
    return true;
}

zero_status_t zero_node_open(zero_node_t *n, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                             const int *rank, const int *peer, int count, int index, int size, uint64_t ring_bytes,
                             double timeout_s, zero_status_t status, zero_error_t *error)
{
    zero_error_t why = {0};
    info_t own = {.nonce = zero_splitmix64((uint64_t)getpid() ^ (uint64_t)(zero_now() * 1e9)),
                  .address = (uintptr_t)&own.nonce},
           *all;
    *n = (zero_node_t){.count = count, .index = index, .peers = peers, .timeout_s = timeout_s, .direct_bytes = DIRECT};
    n->rank = calloc((size_t)count, sizeof *n->rank);
    n->peer = calloc((size_t)count, sizeof *n->peer);
    n->consumed = calloc((size_t)count, sizeof *n->consumed);
    n->source = calloc((size_t)size, sizeof *n->source);
    n->large_bytes = shared_cache() / 4;
    n->flat =
        zero_flat_cpu(); /* kept, because it asks for the type of the processor, which is slow in a virtual machine */
    all = calloc((size_t)oob->world, sizeof *all);
    if (status)
        zero_pass(&why, status, error);
    else if (!n->rank || !n->peer || !n->consumed || !n->source || !all)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
    else {
        memcpy(n->rank, rank, (size_t)count * sizeof *rank);
        memcpy(n->peer, peer, (size_t)count * sizeof *peer);
    }
    status = zero_shared_open(&n->shared, oob, members, count, index, ring_bytes, status, &why);
    sched_getaffinity(0, sizeof own.cpus, &own.cpus);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, &own, all, sizeof own, &why);
    /* The second exchange ends after all ranks have read own.nonce, so own may go then. */
    if (status == ZERO_OK) {
        own.reads = can_read(n, members, all);
        status = oob->all_gather(oob->ctx, &own, all, sizeof own, &why);
    }
    for (int i = 0; i < count && status == ZERO_OK; i++) {
        CPU_OR(&own.cpus, &own.cpus, &all[members[i]].cpus);
        if (!all[members[i]].reads)
            n->direct_bytes = UINT64_MAX;
    }
    free(all);
    if (status) {
        zero_node_close(n);
        return zero_pass(error, status, &why);
    }
    if (count > 1)
        n->slot_bytes = (ring_bytes - zero_host_page()) / ZERO_NODE_SLOTS / ZERO_NODE_LINES * ZERO_NODE_LINES;
    /* If ranks outnumber processors, a rank that spins may keep the rank that it waits for from running. */
    n->spins = CPU_COUNT(&own.cpus) < peers->count ? 1 : SPIN_LOOKS;
    /* The waits at both ends of a direct gather then cost more. */
    if (n->spins == 1 && n->direct_bytes == DIRECT)
        n->direct_bytes = DIRECT_IN_TURNS;
    return ZERO_OK;
}

void zero_node_close(zero_node_t *n)
{
    if (n->count > 1 && n->shared.part && n->shared.part[n->index])
        atomic_store(&zero_node_head(n, n->index)->left, 1);
    zero_shared_close(&n->shared);
    free(n->rank);
    free(n->peer);
    free(n->consumed);
    free(n->source);
    *n = (zero_node_t){0};
}
