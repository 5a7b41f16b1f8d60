/* SPDX-License-Identifier: Apache-2.0 */
/* node.c - see node.h. */
#define _GNU_SOURCE
#include "zero/comm/node.h"
#include "zero/device/host.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum {
    LINES = 128,      /* processors fetch lines of 64 bytes in pairs */
    SPIN_LOOKS = 200, /* some 10 microseconds */
    YIELDS = 500,
    MEASURED = 16384, /* fills of so many bytes are timed */
    TRY_EVERY = 32,
    DIRECT = 65536, /* slices of so many bytes: below, a system call and one more wait cost what the second copy does */
    DIRECT_IN_TURNS = 8 * DIRECT, /* where ranks outnumber processors */
    PIECE = 16 << 20,             /* bytes read between two looks for an abort */
    GRACE_S = 30
};

/* A counter with one writer, alone in its lines. */
typedef struct counter {
    _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
    /* Of published steps: the collective that begins with the step in a slot. Who reads the value has it, too. */
    zero_call_id_t id[ZERO_NODE_SLOTS];
    char pad[LINES - 8 - ZERO_NODE_SLOTS * sizeof(zero_call_id_t)];
} counter_t;

/* First page of a part; the slots follow. */
typedef struct head {
    counter_t published, consumed;
    uint64_t words[ZERO_NODE_SLOTS][ZERO_COMM_WORDS]; /* of the same collectives: read where they differ */
    _Atomic uint32_t left;
} head_t;
_Static_assert(sizeof(head_t) <= ZERO_PAGE, "the head of a part fits its page");

/* What a rank tells the others while they open. */
typedef struct info {
    cpu_set_t cpus;
    uint64_t nonce, address; /* which word stands where in this rank's own memory */
    bool reads;              /* it could read everyone's */
} info_t;

static head_t *head(const zero_node_t *n, int i)
{
    return n->shared.part[i];
}

static char *slot(const zero_node_t *n, int i, uint32_t step)
{
    return (char *)n->shared.part[i] + zero_host_page() + step % ZERO_NODE_SLOTS * n->slot_bytes;
}

/* Steps wrap around; they are never further apart than the slots. */
static bool reached(uint32_t value, uint32_t step)
{
    return (int32_t)(value - step) >= 0;
}

uint64_t zero_node_least(int count)
{
    uint64_t page = zero_host_page(), data = (uint64_t)ZERO_NODE_SLOTS * LINES * (uint64_t)count;
    return page + (data + page - 1) / page * page;
}

uint64_t zero_node_part_bytes(const zero_node_t *n)
{
    return n->count > 1 ? n->slot_bytes / (uint64_t)(n->count - 1) / LINES * LINES : UINT64_MAX / LINES * LINES;
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

/* Bytes of the last-level cache. Not sysconf's, which adds up the caches of all sockets and threads of some processors.
 */
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

/* Reads up to size bytes at from in the memory of the node's rank j; returns how many, or -1 with errno set. */
static ssize_t peer_read(const zero_node_t *n, int j, void *to, uint64_t from, uint64_t size)
{
    struct iovec here = {to, size}, there = {(void *)(uintptr_t)from, size};
    return process_vm_readv(n->shared.pid[j], &here, 1, &there, 1, 0);
}

/* Only trying tells: hardened kernels, seccomp filters and containers refuse it. */
static bool can_read(const zero_node_t *n, const int *members, const info_t *all)
{
    for (int j = 0; j < n->count; j++) {
        uint64_t nonce = 0;
        if (j != n->index &&
            (n->shared.pid[j] == 0 || peer_read(n, j, &nonce, all[members[j]].address, sizeof nonce) != sizeof nonce ||
             nonce != all[members[j]].nonce))
            return false;
    }
    return true;
}

zero_status_t zero_node_open(zero_node_t *n, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                             const int *rank, const int *peer, int count, int index, int size, uint64_t ring_bytes,
                             double timeout_s, zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    info_t own = {.nonce = zero_splitmix64((uint64_t)getpid() ^ (uint64_t)(zero_now() * 1e9)),
                  .address = (uintptr_t)&own.nonce},
           *all;
    *n = (zero_node_t){.count = count, .index = index, .peers = peers, .timeout_s = timeout_s, .direct_bytes = DIRECT};
    n->rank = calloc((size_t)count, sizeof *n->rank);
    n->peer = calloc((size_t)count, sizeof *n->peer);
    n->consumed = calloc((size_t)count, sizeof *n->consumed);
    n->source = calloc((size_t)size, sizeof *n->source);
    n->large_bytes = shared_cache() / 4;
    n->flat = zero_flat_cpu(); /* once: it asks the processor what it is, which is slow in a virtual machine */
    all = calloc((size_t)oob->world, sizeof *all);
    if (!n->rank || !n->peer || !n->consumed || !n->source || !all)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
    else {
        memcpy(n->rank, rank, (size_t)count * sizeof *rank);
        memcpy(n->peer, peer, (size_t)count * sizeof *peer);
    }
    status = zero_oob_agree(oob, status, &why);
    if (status == ZERO_OK)
        status = zero_shared_open(&n->shared, oob, members, count, index, ring_bytes, &why);
    sched_getaffinity(0, sizeof own.cpus, &own.cpus);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, &own, all, sizeof own, &why);
    /* Once everyone has answered, everyone has looked: own need not stay. */
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
        n->slot_bytes = (ring_bytes - zero_host_page()) / ZERO_NODE_SLOTS / LINES * LINES;
    /* Where ranks outnumber processors, whoever spins keeps the one it waits for from running. */
    n->spins = CPU_COUNT(&own.cpus) < peers->count ? 1 : SPIN_LOOKS;
    /* The waits at both ends of a direct gather cost more there. */
    if (n->spins == 1 && n->direct_bytes == DIRECT)
        n->direct_bytes = DIRECT_IN_TURNS;
    return ZERO_OK;
}

void zero_node_close(zero_node_t *n)
{
    if (n->count > 1 && n->shared.part && n->shared.part[n->index])
        atomic_store(&head(n, n->index)->left, 1);
    zero_shared_close(&n->shared);
    free(n->rank);
    free(n->peer);
    free(n->consumed);
    free(n->source);
    *n = (zero_node_t){0};
}

/* ---- counters --------------------------------------------------------------------------------------------------- */

/* Everything that this rank wrote or read before is done for whoever sees the new value. */
static void advance(counter_t *c, uint32_t value)
{
    /* Sequentially consistent with the sleeper's add and look, so that one of the two sees the other. */
    atomic_store(&c->value, value);
    if (atomic_load(&c->sleepers))
        zero_host_wake(&c->value, true);
}

/* The sentence of a wait that ran too long names everyone who is late. */
static zero_status_t too_late(const zero_node_t *n, bool consumed, uint32_t step, const char *operation,
                              zero_error_t *error)
{
    char late[300] = "";
    int first = -1;
    for (int j = 0; j < n->count; j++) {
        counter_t *c = consumed ? &head(n, j)->consumed : &head(n, j)->published;
        size_t used = strlen(late);
        if (j == n->index || reached(atomic_load(&c->value), step))
            continue;
        if (first < 0)
            first = n->rank[j];
        snprintf(late + used, sizeof late - used, "%s%d (pid %d)", used ? ", " : "", n->rank[j], n->shared.pid[j]);
    }
    return zero_fail_reason(error, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, first,
                            "rank %d waited %g s in %s; late: rank %s", n->rank[n->index], n->timeout_s, operation,
                            late[0] ? late : "none any more");
}

static zero_status_t has_left(const zero_node_t *n, int j, const char *operation, zero_error_t *error)
{
    return zero_fail_reason(error, ZERO_ERR_PEER, ZERO_REASON_RANK_LEFT, n->rank[j],
                            "rank %d (pid %d) has left, but rank %d waits for it in %s", n->rank[j], n->shared.pid[j],
                            n->rank[n->index], operation);
}

static __attribute__((noinline)) zero_status_t wait_long(zero_node_t *n, int j, bool consumed, uint32_t step,
                                                         const char *operation, zero_error_t *error)
{
    counter_t *c = consumed ? &head(n, j)->consumed : &head(n, j)->published;
    double start = zero_now();
    for (int turn = 0;; turn++) {
        uint32_t value = atomic_load(&c->value);
        if (reached(value, step))
            return ZERO_OK;
        if (turn < YIELDS) {
            sched_yield();
            continue;
        }
        zero_status_t status = zero_peers_watch(n->peers, operation, error);
        bool gone = atomic_load(&head(n, j)->left) || zero_peers_is_dead(n->peers, n->peer[j]);
        if (status)
            return status;
        /* What it did before it left counts. */
        if (gone && !reached(atomic_load(&c->value), step))
            return has_left(n, j, operation, error);
        if (zero_now() - start > n->timeout_s)
            return too_late(n, consumed, step, operation, error);
        atomic_fetch_add(&c->sleepers, 1);
        if (atomic_load(&c->value) == value)
            zero_host_sleep_on(&c->value, value, n->timeout_s < 0.02 ? n->timeout_s : 0.02, true);
        atomic_fetch_sub(&c->sleepers, 1);
    }
}

static inline zero_status_t wait_for(zero_node_t *n, int j, bool consumed, uint32_t step, const char *operation,
                                     zero_error_t *error)
{
    counter_t *c = consumed ? &head(n, j)->consumed : &head(n, j)->published;
    for (int look = 0; look < n->spins; look++) {
        if (reached(atomic_load_explicit(&c->value, memory_order_acquire), step))
            return ZERO_OK;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return wait_long(n, j, consumed, step, operation, error);
}

/* Leaves word of the collective that begins with a step, whose slot may be filled. */
static void announce(const zero_node_t *n, const zero_call_t *call, uint32_t step)
{
    head_t *mine = head(n, n->index);
    mine->published.id[step % ZERO_NODE_SLOTS] = call->id;
    zero_call_words(call, mine->words[step % ZERO_NODE_SLOTS]);
}

/* Until rank j has published a collective's first step, and whether that is the same collective. */
static zero_status_t compare_first(zero_node_t *n, int j, const zero_call_t *call, uint32_t step, zero_error_t *error)
{
    zero_status_t status = wait_for(n, j, false, step + 1, call->operation, error);
    return status ? status
                  : zero_call_compare(call, n->rank[j], &head(n, j)->published.id[step % ZERO_NODE_SLOTS],
                                      head(n, j)->words[step % ZERO_NODE_SLOTS], error);
}

/* Until this rank's slot of the step may be filled. */
static zero_status_t wait_room(zero_node_t *n, uint32_t step, const char *operation, zero_error_t *error)
{
    uint32_t needed = step + 1 - ZERO_NODE_SLOTS;
    for (int j = 0; j < n->count; j++) {
        if (j == n->index || reached(n->consumed[j], needed))
            continue;
        zero_status_t status = wait_for(n, j, true, needed, operation, error);
        if (status)
            return status;
        n->consumed[j] = atomic_load_explicit(&head(n, j)->consumed.value, memory_order_acquire);
    }
    return ZERO_OK;
}

/* memcpy that leaves the caches alone: what is larger than them would only push out the slots. */
static void copy_past_caches(char *to, const char *from, uint64_t size)
{
#if defined(__SSE2__)
    uint64_t head = (uint64_t)(-(uintptr_t)to % 16);
    head = head < size ? head : size;
    memcpy(to, from, head);
    uint64_t at = head;
    for (; at + 64 <= size; at += 64)
        for (int i = 0; i < 64; i += 16)
            _mm_stream_si128((__m128i *)(void *)(to + at + i),
                             _mm_loadu_si128((const __m128i *)(const void *)(from + at + i)));
    memcpy(to + at, from + at, size - at);
#else
    memcpy(to, from, size);
#endif
}

/* To the buffer that the caller gets. */
static void deliver(char *to, const char *from, uint64_t size, bool large)
{
    if (large)
        copy_past_caches(to, from, size);
    else
        memcpy(to, from, size);
}

/* Streamed stores are not ordered by what follows. */
static void delivered(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Which way of writing a slot is faster, by the times of past ones; every so often the other is tried. Between cores
 * that share a cache plain stores win. Where they do not (other sockets, other parts of a processor), each plain store
 * first fetches a line that the reader holds, and stores past the caches are several times faster. A hypervisor may
 * move a rank from the one to the other. */
static bool choose(zero_node_t *n)
{
    bool best = n->cost[true] < n->cost[false];
    return n->fills++ % TRY_EVERY == TRY_EVERY - 1 ? !best : best;
}

static void learn(zero_node_t *n, bool past, double seconds, uint64_t size)
{
    double cost = seconds / (double)size, *known = &n->cost[past];
    if (*known > 0 && cost > 2 * *known)
        cost = 2 * *known; /* this rank was interrupted, perhaps */
    *known = *known > 0 ? 0.75 * *known + 0.25 * cost : cost;
}

/* Copies size bytes to the slot, and to also where it is not NULL: block by block, so that the second copy reads the
 * nearest cache. */
static void fill(zero_node_t *n, char *to, char *also, const char *from, uint64_t size, bool large)
{
    const uint64_t block = 8192;
    bool measured = size >= MEASURED, past = measured ? choose(n) : n->cost[true] < n->cost[false];
    double start = measured ? zero_now() : 0;
    for (uint64_t at = 0; at < size; at += block) {
        uint64_t bytes = size - at < block ? size - at : block;
        deliver(to + at, from + at, bytes, past);
        if (also)
            deliver(also + at, from + at, bytes, large);
    }
    if (past)
        delivered();
    if (measured)
        learn(n, past, zero_now() - start, size);
}

/* ---- reading where the others have it --------------------------------------------------------------------------- */

/* bytes bytes at from in the memory of rank j, which waits until this rank has them. */
static zero_status_t pull(zero_node_t *n, int j, char *to, uint64_t from, uint64_t bytes, const char *operation,
                          zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    int failure = 0;
    for (uint64_t at = 0; at < bytes && !failure && status == ZERO_OK;) {
        ssize_t got = peer_read(n, j, to + at, from + at, bytes - at < PIECE ? bytes - at : PIECE);
        if (got > 0)
            at += (uint64_t)got;
        else if (got == 0 || errno != EINTR)
            failure = got == 0 ? EFAULT : errno;
        status = zero_peers_check(n->peers, error);
    }
    /* If it ended, what was read may be another process's that got its number. */
    if (!failure && zero_peers_is_dead(n->peers, n->peer[j]))
        failure = ESRCH;
    if (!failure || status)
        return status;
    /* Memory goes before the process does, and what failed first is the better reason: time for either to show. */
    double end = zero_now() + (n->timeout_s < GRACE_S ? n->timeout_s : GRACE_S);
    do {
        status = zero_peers_watch(n->peers, operation, error);
        if (status)
            return status;
        if (atomic_load(&head(n, j)->left))
            return has_left(n, j, operation, error);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (zero_now() < end);
    return zero_fail(error, ZERO_ERR_SYSTEM,
                     "rank %d cannot read %llu bytes of rank %d (pid %d) in %s: %s (check that both buffers are "
                     "mapped; a process that drops privileges must do so before it creates a communicator)",
                     n->rank[n->index], (unsigned long long)bytes, n->rank[j], n->shared.pid[j], operation,
                     strerror(failure));
}

/* One step, in which the slots say where the slices are. */
static zero_status_t gather_direct(zero_node_t *n, const zero_call_t *call, const void *own, char *recv, uint64_t bytes,
                                   bool large, zero_error_t *error)
{
    const char *operation = call->operation;
    uint64_t from = (uintptr_t)own;
    char *own_recv = recv + (uint64_t)n->rank[n->index] * bytes;
    uint32_t step = n->step++;
    zero_status_t status = wait_room(n, step, operation, error);
    if (status)
        return status;
    memcpy(slot(n, n->index, step), &from, sizeof from);
    announce(n, call, step);
    advance(&head(n, n->index)->published, step + 1);
    if (own != own_recv)
        deliver(own_recv, own, bytes, large);
    for (int d = 1; d < n->count && status == ZERO_OK; d++) {
        int j = (n->index + d) % n->count;
        status = compare_first(n, j, call, step, error);
        if (status)
            break;
        memcpy(&from, slot(n, j, step), sizeof from);
        status = pull(n, j, recv + (uint64_t)n->rank[j] * bytes, from, bytes, operation, error);
    }
    delivered();
    if (status == ZERO_OK)
        advance(&head(n, n->index)->consumed, step + 1);
    /* The caller may change own once the others have it. */
    for (int d = 1; d < n->count && status == ZERO_OK; d++)
        status = wait_for(n, (n->index + d) % n->count, true, step + 1, operation, error);
    return status;
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

zero_status_t zero_node_gather(zero_node_t *n, const zero_call_t *call, const void *own, char *recv, uint64_t bytes,
                               const int *const *lists, const int *lengths, zero_error_t *error)
{
    const char *operation = call->operation;
    zero_status_t status = zero_peers_check(n->peers, error);
    char *own_recv = recv + (uint64_t)n->rank[n->index] * bytes;
    if (n->count == 1) {
        if (status == ZERO_OK && own != own_recv && bytes)
            memcpy(own_recv, own, bytes);
        return status;
    }
    bool large = bytes >= n->large_bytes / (uint64_t)n->count;
    if (status == ZERO_OK && !lists && bytes >= n->direct_bytes)
        return gather_direct(n, call, own, recv, bytes, large, error);
    /* One of no bytes has a step, too: it is compared. */
    uint64_t parts = bytes ? (bytes + n->slot_bytes - 1) / n->slot_bytes : 1, steps = 0;
    for (int j = 0; j < n->count; j++)
        if (steps < parts * (uint64_t)(lists ? lengths[j] : 1))
            steps = parts * (uint64_t)(lists ? lengths[j] : 1);
    uint32_t base = n->step;
    head_t *mine = head(n, n->index);

    for (uint64_t t = 0; t <= steps && status == ZERO_OK; t++) {
        if (t < steps) {
            uint64_t which = t / parts, begin = t % parts * n->slot_bytes;
            uint64_t size = bytes - begin < n->slot_bytes ? bytes - begin : n->slot_bytes;
            int r = !lists ? n->rank[n->index] : which < (uint64_t)lengths[n->index] ? lists[n->index][which] : -1;
            const char *from = r < 0 ? NULL : r == n->rank[n->index] ? own : recv + (uint64_t)r * bytes;
            status = wait_room(n, base + (uint32_t)t, operation, error);
            if (status)
                break;
            if (from)
                fill(n, slot(n, n->index, base + (uint32_t)t), from == own && own != own_recv ? own_recv + begin : NULL,
                     from + begin, size, large);
            if (t == 0 && !lists)
                announce(n, call, base);
            advance(&mine->published, base + (uint32_t)t + 1);
        }
        if (t == 0)
            continue;
        uint32_t step = base + (uint32_t)t - 1;
        uint64_t which = (t - 1) / parts, begin = (t - 1) % parts * n->slot_bytes;
        uint64_t size = bytes - begin < n->slot_bytes ? bytes - begin : n->slot_bytes;
        for (int d = 1; d < n->count && status == ZERO_OK; d++) {
            int j = (n->index + d) % n->count;
            if (lists && which >= (uint64_t)lengths[j])
                continue;
            int r = lists ? lists[j][which] : n->rank[j];
            status = t == 1 && !lists ? compare_first(n, j, call, step, error)
                                      : wait_for(n, j, false, step + 1, operation, error);
            if (status == ZERO_OK && size)
                deliver(recv + (uint64_t)r * bytes + begin, slot(n, j, step), size, large);
        }
        if (status == ZERO_OK)
            advance(&mine->consumed, step + 1);
    }
    delivered();
    n->step = base + (uint32_t)steps;
    return status;
}

zero_status_t zero_node_reduce(zero_node_t *n, const zero_call_t *call, const void *send, void *recv, int64_t count,
                               zero_dtype_t dtype, int rank, int size, const zero_node_far_t *far, zero_error_t *error)
{
    const char *operation = call->operation;
    uint64_t element = zero_dtype_size(dtype), room = zero_node_part_bytes(n);
    uint64_t part_bytes = far ? far->part_bytes : room;
    int64_t part = count < (int64_t)(part_bytes / element) ? count : (int64_t)(part_bytes / element);
    int64_t steps = count == 0 ? 1 : (count + part - 1) / part; /* one of nothing is compared, too */
    uint32_t base = n->step;
    head_t *mine = n->count > 1 ? head(n, n->index) : NULL;
    zero_status_t status = zero_peers_check(n->peers, error);

    for (int64_t t = 0; t <= steps && status == ZERO_OK; t++) {
        if (t < steps) {
            int64_t begin = t * part, elements = count - begin < part ? count - begin : part;
            if (far)
                status = far->start(far->ctx, t, begin, elements, error);
            if (status == ZERO_OK && mine)
                status = wait_room(n, base + (uint32_t)t, operation, error);
            if (status)
                break;
            for (int d = 1; d < n->count; d++) {
                int j = (n->index + d) % n->count, place = j < n->index ? j : j - 1;
                fill(n, slot(n, n->index, base + (uint32_t)t) + (uint64_t)place * room, NULL,
                     (const char *)send + ((uint64_t)n->rank[j] * (uint64_t)count + (uint64_t)begin) * element,
                     (uint64_t)elements * element, false);
            }
            if (mine && t == 0)
                announce(n, call, base);
            if (mine)
                advance(&mine->published, base + (uint32_t)t + 1);
        }
        if (t == 0)
            continue;
        uint32_t step = base + (uint32_t)t - 1;
        int64_t begin = (t - 1) * part, elements = count - begin < part ? count - begin : part;
        for (int d = 1; d < n->count && status == ZERO_OK; d++) {
            int j = (n->index + d) % n->count, place = n->index < j ? n->index : n->index - 1;
            status =
                t == 1 ? compare_first(n, j, call, step, error) : wait_for(n, j, false, step + 1, operation, error);
            n->source[n->rank[j]] = slot(n, j, step) + (uint64_t)place * room;
        }
        if (far && status == ZERO_OK)
            status = far->finish(far->ctx, t - 1, n->source, error);
        if (status)
            break;
        n->source[rank] = (const char *)send + ((uint64_t)rank * (uint64_t)count + (uint64_t)begin) * element;
        if (elements)
            n->flat->sum((char *)recv + (uint64_t)begin * element, n->source, size, dtype, elements, 1, NULL);
        if (mine)
            advance(&mine->consumed, step + 1);
    }
    n->step = base + (uint32_t)steps;
    return status;
}
