/* SPDX-License-Identifier: Apache-2.0 */
/* node.c - collectives and transfers among the ranks of a node; see node.h. */
#define _GNU_SOURCE
#include "zero/comm/node_ring.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum {
    YIELDS = 500,
    MEASURED = 16384, /* fills of at least this many bytes are timed */
    TRY_EVERY = 32,   /* of this many timed fills, one tries the way that seems slower */
    PIECE = 16 << 20, /* bytes read between two checks for an abort */
    GRACE_S = 30
};

/* Steps wrap around; their distance never exceeds the number of slots. */
static bool reached(uint32_t value, uint32_t step)
{
    return (int32_t)(value - step) >= 0;
}

/* A node rank's number in the first communicator, for sentences. */
static int world_rank(const zero_node_t *n, int j)
{
    return n->peers->member[n->peer[j]];
}

/* ---- counters --------------------------------------------------------------------------------------------------- */

/* A rank that sees the new value also sees what this rank wrote before, and this rank has read what it read before. */
static void advance(zero_node_counter_t *c, uint32_t value)
{
    /* Sequentially consistent with the sleeper's increment and load, so that either this rank sees the sleeper, or the
     * sleeper sees the value. */
    atomic_store(&c->value, value);
    if (atomic_load(&c->sleepers))
        zero_host_wake(&c->value, true);
}

/* Fails a wait that took too long. The sentence names all ranks that are late. */
static zero_status_t too_late(const zero_node_t *n, bool consumed, uint32_t step, const char *operation,
                              zero_error_t *error)
{
    char late[300] = "";
    int first = -1;
    for (int j = 0; j < n->count; j++) {
        zero_node_counter_t *c = consumed ? &zero_node_head(n, j)->consumed : &zero_node_head(n, j)->published;
        size_t used = strlen(late);
        if (j == n->index || reached(atomic_load(&c->value), step))
            continue;
        if (first < 0)
            first = world_rank(n, j);
        snprintf(late + used, sizeof late - used, "%s%d (pid %d)", used ? ", " : "", world_rank(n, j),
                 n->shared.pid[j]);
    }
    return zero_fail_reason(error, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, first,
                            "rank %d waited %g s in %s; late: rank %s", world_rank(n, n->index), n->timeout_s,
                            operation, late[0] ? late : "none any more");
}

static zero_status_t has_left(const zero_node_t *n, int j, const char *operation, zero_error_t *error)
{
    return zero_fail_reason(error, ZERO_ERR_PEER, ZERO_REASON_RANK_LEFT, world_rank(n, j),
                            "rank %d (pid %d) has left, but rank %d waits for it in %s", world_rank(n, j),
                            n->shared.pid[j], world_rank(n, n->index), operation);
}

static __attribute__((noinline)) zero_status_t wait_long(zero_node_t *n, int j, bool consumed, uint32_t step,
                                                         const char *operation, zero_error_t *error)
{
    zero_node_counter_t *c = consumed ? &zero_node_head(n, j)->consumed : &zero_node_head(n, j)->published;
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
        bool gone = atomic_load(&zero_node_head(n, j)->left) || zero_peers_is_dead(n->peers, n->peer[j]);
        if (status)
            return status;
        /* It may have advanced the counter before it left. */
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
    zero_node_counter_t *c = consumed ? &zero_node_head(n, j)->consumed : &zero_node_head(n, j)->published;
    for (int look = 0; look < n->spins; look++) {
        if (reached(atomic_load_explicit(&c->value, memory_order_acquire), step))
            return ZERO_OK;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return wait_long(n, j, consumed, step, operation, error);
}

/* Publishes the identity of the collective that begins with a step. The step's slot must be free. */
static void announce(const zero_node_t *n, const zero_call_t *call, uint32_t step)
{
    zero_node_head_t *mine = zero_node_head(n, n->index);
    mine->published.id[step % ZERO_NODE_SLOTS] = call->id;
    zero_call_words(call, mine->words[step % ZERO_NODE_SLOTS]);
}

/* Waits until rank j has published the first step of a collective. Fails if it is another collective. */
static zero_status_t compare_first(zero_node_t *n, int j, const zero_call_t *call, uint32_t step, zero_error_t *error)
{
    zero_status_t status = wait_for(n, j, false, step + 1, call->operation, error);
    return status ? status
                  : zero_call_compare(call, n->rank[j], &zero_node_head(n, j)->published.id[step % ZERO_NODE_SLOTS],
                                      zero_node_head(n, j)->words[step % ZERO_NODE_SLOTS], error);
}

/* Waits until this rank may fill its slot of the step. */
static zero_status_t wait_room(zero_node_t *n, uint32_t step, const char *operation, zero_error_t *error)
{
    uint32_t needed = step + 1 - ZERO_NODE_SLOTS;
    for (int j = 0; j < n->count; j++) {
        if (j == n->index || reached(n->consumed[j], needed))
            continue;
        zero_status_t status = wait_for(n, j, true, needed, operation, error);
        if (status)
            return status;
        n->consumed[j] = atomic_load_explicit(&zero_node_head(n, j)->consumed.value, memory_order_acquire);
    }
    return ZERO_OK;
}

/* memcpy that bypasses the caches: data that exceeds them would only evict the slots. */
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

/* Copies to a buffer; large: past the caches. */
static void deliver(char *to, const char *from, uint64_t size, bool large)
{
    if (large)
        copy_past_caches(to, from, size);
    else
        memcpy(to, from, size);
}

/* Orders the stores of copy_past_caches before all later stores. */
static void delivered(void)
{
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

/* Whether to fill a slot past the caches: the way that was faster so far, and sometimes the other one, to measure it.
 * Plain stores are faster between cores that share a cache. Between other cores (of two sockets, or of two parts of a
 * processor), each plain store first fetches a line from the reader's cache, and stores past the caches are several
 * times faster. A hypervisor may move a rank from one core to the other at any time. */
static bool choose(zero_node_t *n)
{
    bool best = n->cost[true] < n->cost[false];
    return n->fills++ % TRY_EVERY == TRY_EVERY - 1 ? !best : best;
}

static void learn(zero_node_t *n, bool past, double seconds, uint64_t size)
{
    double cost = seconds / (double)size, *known = &n->cost[past];
    if (*known > 0 && cost > 2 * *known)
        cost = 2 * *known; /* perhaps this rank was interrupted */
    *known = *known > 0 ? 0.75 * *known + 0.25 * cost : cost;
}

/* Copies size bytes to a slot, and also to also, unless that is NULL. It copies block by block, so that the second copy
 * reads the nearest cache. */
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

/* ---- reading the memory of other ranks --------------------------------------------------------------------------- */

/* Reads bytes bytes at from in the memory of rank j, which waits until this rank has read them. */
static zero_status_t pull(zero_node_t *n, int j, char *to, uint64_t from, uint64_t bytes, const char *operation,
                          zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    int failure = 0;
    for (uint64_t at = 0; at < bytes && !failure && status == ZERO_OK;) {
        ssize_t got = zero_node_peer_read(n, j, to + at, from + at, bytes - at < PIECE ? bytes - at : PIECE);
        if (got > 0)
            at += (uint64_t)got;
        else if (got == 0 || errno != EINTR)
            failure = got == 0 ? EFAULT : errno;
        status = zero_peers_check(n->peers, error);
    }
    /* If rank j has ended, another process may have its pid by now, and the bytes may be that process's. */
    if (!failure && zero_peers_is_dead(n->peers, n->peer[j]))
        failure = ESRCH;
    if (!failure || status)
        return status;
    /* A process that ends loses its memory first, so wait for a sign that rank j ended or failed: that is the better
     * reason. */
    double end = zero_now() + (n->timeout_s < GRACE_S ? n->timeout_s : GRACE_S);
    do {
        status = zero_peers_watch(n->peers, operation, error);
        if (status)
            return status;
        if (atomic_load(&zero_node_head(n, j)->left))
            return has_left(n, j, operation, error);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    } while (zero_now() < end);
    return zero_fail(error, ZERO_ERR_SYSTEM,
                     "rank %d cannot read %llu bytes of rank %d (pid %d) in %s: %s (check that both buffers are "
                     "mapped; a process that drops privileges must do so before it creates a communicator)",
                     world_rank(n, n->index), (unsigned long long)bytes, world_rank(n, j), n->shared.pid[j], operation,
                     strerror(failure));
}

/* A gather in one step: the slots hold the addresses of the slices. */
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
    memcpy(zero_node_slot(n, n->index, step), &from, sizeof from);
    announce(n, call, step);
    advance(&zero_node_head(n, n->index)->published, step + 1);
    if (own != own_recv)
        deliver(own_recv, own, bytes, large);
    for (int d = 1; d < n->count && status == ZERO_OK; d++) {
        int j = (n->index + d) % n->count;
        status = compare_first(n, j, call, step, error);
        if (status)
            break;
        memcpy(&from, zero_node_slot(n, j, step), sizeof from);
        status = pull(n, j, recv + (uint64_t)n->rank[j] * bytes, from, bytes, operation, error);
    }
    delivered();
    if (status == ZERO_OK)
        advance(&zero_node_head(n, n->index)->consumed, step + 1);
    /* The caller may change own after the return, so the other ranks must have read it. */
    for (int d = 1; d < n->count && status == ZERO_OK; d++)
        status = wait_for(n, (n->index + d) % n->count, true, step + 1, operation, error);
    return status;
}

/* The slots that bytes bytes need. No bytes need one too, because ranks compare their calls in it. */
static uint64_t parts_of(const zero_node_t *n, uint64_t bytes)
{
    return bytes ? (bytes + n->slot_bytes - 1) / n->slot_bytes : 1;
}

/* ---- transfers -------------------------------------------------------------------------------------------------- */

zero_status_t zero_node_send(zero_node_t *n, const zero_call_t *call, const char *from, uint64_t bytes,
                             zero_error_t *error)
{
    const char *operation = call->operation;
    const int other = 1 - n->index;
    const bool direct = bytes >= n->direct_bytes;
    const uint64_t address = (uintptr_t)from, parts = direct ? 1 : parts_of(n, bytes);
    const uint32_t base = n->step;
    zero_status_t status = zero_peers_check(n->peers, error);
    for (uint64_t t = 0; t < parts && status == ZERO_OK; t++) {
        const uint32_t step = base + (uint32_t)t;
        const uint64_t at = t * n->slot_bytes, rest = bytes - at;
        char *slot = zero_node_slot(n, n->index, step);
        status = wait_room(n, step, operation, error);
        if (status)
            return status;
        if (direct)
            memcpy(slot, &address, sizeof address);
        else if (bytes)
            fill(n, slot, NULL, from + at, rest < n->slot_bytes ? rest : n->slot_bytes, false);
        if (t == 0)
            announce(n, call, step);
        advance(&zero_node_head(n, n->index)->published, step + 1);
        if (t == 0)
            status = compare_first(n, other, call, step, error);
    }
    if (status)
        return status;
    n->step = base + (uint32_t)parts;
    advance(&zero_node_head(n, n->index)->consumed, n->step);
    return direct ? wait_for(n, other, true, n->step, operation, error) : ZERO_OK;
}

zero_status_t zero_node_recv(zero_node_t *n, const zero_call_t *call, char *to, uint64_t bytes, zero_error_t *error)
{
    const char *operation = call->operation;
    const int other = 1 - n->index;
    const bool direct = bytes >= n->direct_bytes;
    const uint64_t parts = direct ? 1 : parts_of(n, bytes);
    const uint32_t base = n->step;
    uint64_t from = 0;
    zero_status_t status = zero_peers_check(n->peers, error);
    if (status == ZERO_OK)
        status = wait_room(n, base, operation, error);
    if (status)
        return status;
    announce(n, call, base);
    advance(&zero_node_head(n, n->index)->published, base + 1);
    status = compare_first(n, other, call, base, error);
    for (uint64_t t = 0; t < parts && status == ZERO_OK; t++) {
        const uint32_t step = base + (uint32_t)t;
        const uint64_t at = t * n->slot_bytes, rest = bytes - at;
        const char *slot = zero_node_slot(n, other, step);
        status = wait_for(n, other, false, step + 1, operation, error);
        if (status == ZERO_OK && direct) {
            memcpy(&from, slot, sizeof from);
            status = pull(n, other, to, from, bytes, operation, error);
        } else if (status == ZERO_OK && bytes)
            deliver(to + at, slot, rest < n->slot_bytes ? rest : n->slot_bytes, bytes >= n->large_bytes);
        if (status == ZERO_OK)
            advance(&zero_node_head(n, n->index)->consumed, step + 1);
    }
    delivered();
    n->step = base + (uint32_t)parts;
    advance(&zero_node_head(n, n->index)->published, n->step);
    return status;
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

/* A gather through the slots. Its steps move part 0, 1, ... of the first slice of every rank, then of the second. */
typedef struct gather {
    const zero_call_t *call;
    const char *own;
    char *recv, *own_recv; /* own_recv: the place of own in recv */
    uint64_t bytes, parts; /* of a slice */
    const int *const *lists;
    const int *lengths;
    uint32_t base; /* its first step */
    bool large;
} gather_t;

/* What one step moves: bytes [begin, begin + size) of slice number which of each rank. */
typedef struct piece {
    uint64_t which, begin, size;
} piece_t;

static piece_t piece_of(const zero_node_t *n, const gather_t *g, uint64_t t)
{
    piece_t p = {.which = t / g->parts, .begin = t % g->parts * n->slot_bytes};
    p.size = g->bytes - p.begin < n->slot_bytes ? g->bytes - p.begin : n->slot_bytes;
    return p;
}

/* The number of slices that node rank j holds. */
static uint64_t slices_of(const gather_t *g, int j)
{
    return g->lists ? (uint64_t)g->lengths[j] : 1;
}

/* The communicator rank to which slice number which of node rank j belongs; -1: j holds fewer slices. */
static int rank_of_slice(const zero_node_t *n, const gather_t *g, int j, uint64_t which)
{
    if (which >= slices_of(g, j))
        return -1;
    return g->lists ? g->lists[j][which] : n->rank[j];
}

/* Fills this rank's slot for step t and publishes it. */
static zero_status_t gather_fill(zero_node_t *n, const gather_t *g, uint64_t t, zero_error_t *error)
{
    const piece_t p = piece_of(n, g, t);
    const uint32_t step = g->base + (uint32_t)t;
    const int r = rank_of_slice(n, g, n->index, p.which);
    const bool is_own = r == n->rank[n->index];
    const char *from = r < 0 ? NULL : is_own ? g->own : g->recv + (uint64_t)r * g->bytes;
    zero_status_t status = wait_room(n, step, g->call->operation, error);
    if (status)
        return status;
    if (from)
        fill(n, zero_node_slot(n, n->index, step), is_own && g->own != g->own_recv ? g->own_recv + p.begin : NULL,
             from + p.begin, p.size, g->large);
    if (t == 0 && !g->lists)
        announce(n, g->call, step);
    advance(&zero_node_head(n, n->index)->published, step + 1);
    return ZERO_OK;
}

/* Copies the other ranks' slots of step t to recv and marks the step as consumed. */
static zero_status_t gather_read(zero_node_t *n, const gather_t *g, uint64_t t, zero_error_t *error)
{
    const piece_t p = piece_of(n, g, t);
    const uint32_t step = g->base + (uint32_t)t;
    const bool compares = t == 0 && !g->lists;
    for (int d = 1; d < n->count; d++) {
        const int j = (n->index + d) % n->count, r = rank_of_slice(n, g, j, p.which);
        if (r < 0)
            continue;
        zero_status_t status = compares ? compare_first(n, j, g->call, step, error)
                                        : wait_for(n, j, false, step + 1, g->call->operation, error);
        if (status)
            return status;
        if (p.size)
            deliver(g->recv + (uint64_t)r * g->bytes + p.begin, zero_node_slot(n, j, step), p.size, g->large);
    }
    advance(&zero_node_head(n, n->index)->consumed, step + 1);
    return ZERO_OK;
}

zero_status_t zero_node_gather(zero_node_t *n, const zero_call_t *call, const void *own, char *recv, uint64_t bytes,
                               const int *const *lists, const int *lengths, zero_error_t *error)
{
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
    const gather_t g = {.call = call,
                        .own = own,
                        .recv = recv,
                        .own_recv = own_recv,
                        .bytes = bytes,
                        .parts = parts_of(n, bytes),
                        .lists = lists,
                        .lengths = lengths,
                        .base = n->step,
                        .large = large};
    uint64_t slices = 0;
    for (int j = 0; j < n->count; j++)
        slices = slices_of(&g, j) > slices ? slices_of(&g, j) : slices;
    const uint64_t steps = slices * g.parts;
    for (uint64_t t = 0; t <= steps && status == ZERO_OK; t++) {
        if (t < steps)
            status = gather_fill(n, &g, t, error);
        if (t > 0 && status == ZERO_OK)
            status = gather_read(n, &g, t - 1, error);
    }
    delivered();
    n->step = g.base + (uint32_t)steps;
    return status;
}

/* A sum, or an all-to-all, whose elements are bytes. Step t is of elements [t * part, (t + 1) * part) of every slice.
 */
typedef struct reduce {
    const zero_call_t *call;
    const char *send;
    char *recv;
    int64_t count, part;    /* elements of a slice and of a step */
    bool sums;              /* recv gets the sum of the operands of all ranks; otherwise each of them */
    zero_dtype_t dtype;     /* of a sum */
    uint64_t element, room; /* bytes of an element, and of a slot for one other rank */
    int rank, size;         /* in the communicator */
    const zero_node_far_t *far;
    uint32_t base; /* its first step */
} reduce_t;

static int64_t elements_of(const reduce_t *r, int64_t t)
{
    return r->count - t * r->part < r->part ? r->count - t * r->part : r->part;
}

/* This rank's operand for the sum of communicator rank to, from the first element of step t on. */
static const char *operand_for(const reduce_t *r, int to, int64_t t)
{
    return r->send + ((uint64_t)to * (uint64_t)r->count + (uint64_t)(t * r->part)) * r->element;
}

/* Fills this rank's slot for step t with its operands for the other ranks, and publishes it. */
static zero_status_t reduce_fill(zero_node_t *n, const reduce_t *r, int64_t t, zero_error_t *error)
{
    const uint32_t step = r->base + (uint32_t)t;
    const int64_t elements = elements_of(r, t);
    zero_status_t status = r->far ? r->far->start(r->far->ctx, t, t * r->part, elements, error) : ZERO_OK;
    if (status || n->count == 1)
        return status;
    status = wait_room(n, step, r->call->operation, error);
    if (status)
        return status;
    for (int d = 1; d < n->count; d++) {
        const int j = (n->index + d) % n->count, place = j < n->index ? j : j - 1;
        fill(n, zero_node_slot(n, n->index, step) + (uint64_t)place * r->room, NULL, operand_for(r, n->rank[j], t),
             (uint64_t)elements * r->element, false);
    }
    if (t == 0)
        announce(n, r->call, step);
    advance(&zero_node_head(n, n->index)->published, step + 1);
    return ZERO_OK;
}

/* Takes the operands of all ranks for step t, and marks the step as consumed. */
static zero_status_t reduce_take(zero_node_t *n, const reduce_t *r, int64_t t, zero_error_t *error)
{
    const uint32_t step = r->base + (uint32_t)t;
    const int64_t elements = elements_of(r, t);
    zero_status_t status = ZERO_OK;
    for (int d = 1; d < n->count && status == ZERO_OK; d++) {
        const int j = (n->index + d) % n->count, place = n->index < j ? n->index : n->index - 1;
        status = t == 0 ? compare_first(n, j, r->call, step, error)
                        : wait_for(n, j, false, step + 1, r->call->operation, error);
        n->source[n->rank[j]] = zero_node_slot(n, j, step) + (uint64_t)place * r->room;
    }
    if (r->far && status == ZERO_OK)
        status = r->far->finish(r->far->ctx, t, n->source, error);
    if (status)
        return status;
    n->source[r->rank] = operand_for(r, r->rank, t);
    for (int k = 0; k < r->size && elements && !r->sums; k++)
        memcpy(r->recv + ((uint64_t)k * (uint64_t)r->count + (uint64_t)(t * r->part)) * r->element, n->source[k],
               (uint64_t)elements * r->element);
    if (elements && r->sums)
        n->flat->sum(r->recv + (uint64_t)(t * r->part) * r->element, n->source, r->size, r->dtype, elements, 1, NULL);
    if (n->count > 1)
        advance(&zero_node_head(n, n->index)->consumed, step + 1);
    return ZERO_OK;
}

/* Runs the steps. The other members of r are set. */
static zero_status_t reduce_all(zero_node_t *n, reduce_t r, zero_error_t *error)
{
    r.room = zero_node_part_bytes(n);
    r.base = n->step;
    const uint64_t most = (r.far ? r.far->part_bytes : r.room) / r.element;
    r.part = (uint64_t)r.count < most ? r.count : (int64_t)most;
    /* a collective of no elements has a step too, because ranks compare their calls in it */
    const int64_t steps = r.count == 0 ? 1 : (r.count + r.part - 1) / r.part;
    zero_status_t status = zero_peers_check(n->peers, error);
    for (int64_t t = 0; t <= steps && status == ZERO_OK; t++) {
        if (t < steps)
            status = reduce_fill(n, &r, t, error);
        if (t > 0 && status == ZERO_OK)
            status = reduce_take(n, &r, t - 1, error);
    }
    n->step = r.base + (uint32_t)steps;
    return status;
}

zero_status_t zero_node_reduce(zero_node_t *n, const zero_call_t *call, const void *send, void *recv, int64_t count,
                               zero_dtype_t dtype, int rank, int size, const zero_node_far_t *far, zero_error_t *error)
{
    return reduce_all(n,
                      (reduce_t){.call = call,
                                 .send = send,
                                 .recv = recv,
                                 .count = count,
                                 .sums = true,
                                 .dtype = dtype,
                                 .element = zero_dtype_size(dtype),
                                 .rank = rank,
                                 .size = size,
                                 .far = far},
                      error);
}

zero_status_t zero_node_trade(zero_node_t *n, const zero_call_t *call, const void *send, void *recv, uint64_t bytes,
                              int rank, int size, const zero_node_far_t *far, zero_error_t *error)
{
    return reduce_all(n,
                      (reduce_t){.call = call,
                                 .send = send,
                                 .recv = recv,
                                 .count = (int64_t)bytes,
                                 .element = 1,
                                 .rank = rank,
                                 .size = size,
                                 .far = far},
                      error);
}
