/* SPDX-License-Identifier: Apache-2.0 */
/* staged.c - see staged.h.
 *
 * A collective goes in pieces through two halves of pinned memory. While the inner communicator works on one piece, the
 * next one comes from the device into the other half and the one before it returns to the device. All copies are on the
 * caller's stream, whose order alone makes a half free for the next fetch; the host touches a half only after it waited
 * for the stream.
 */
#include "zero/comm/staged.h"
#include "zero/comm/backend.h"

#include <stdlib.h>

enum { LINE = 128 }; /* pieces are multiples of it, so that elements are never cut */
#define STAGING_DEFAULT \
    (8u << 20) /* 2 MiB pieces for 2 ranks; copies of 512 KiB, for 8 ranks, still have the link's rate */

typedef struct staged {
    zero_comm_t base;
    zero_comm_t *inner;
    zero_device_t *device;  /* borrowed */
    uint64_t staging_bytes; /* as asked for */
    zero_arena_t *arena;    /* NULL where there is one rank */
    char *half[2];
    uint64_t half_bytes;
    bool used;
    void *native;        /* once used: the stream that the last collective left copies on */
    zero_error_t failed; /* of the first collective that failed: ranks are out of step, so the later ones fail alike */
} staged_t;

/* A collective on its way. Slices of total bytes, of which pieces of at most piece bytes move at a time. */
typedef struct job {
    enum { GATHER, REDUCE } kind;
    const char *send;
    char *recv;
    uint64_t total, piece;
    zero_dtype_t dtype; /* REDUCE */
    void *native;
} job_t;

static zero_status_t copy(const staged_t *s, const job_t *j, void *to, const void *from, uint64_t bytes,
                          zero_error_t *error)
{
    return bytes ? s->device->ops->copy(s->device, j->native, to, from, bytes, error) : ZERO_OK;
}

/* Between the slices of ranks [begin, end) on the device, of which it is the bytes from at on, and their places in a
 * half. */
static zero_status_t copy_slices(const staged_t *s, const job_t *j, char *device, char *half, bool fetch, int begin,
                                 int end, uint64_t at, uint64_t size, zero_error_t *error)
{
    uint64_t run = size;
    if (size == j->total && begin < end) { /* whole slices lie side by side in both */
        run = (uint64_t)(end - begin) * size;
        end = begin + 1;
    }
    for (int r = begin; r < end; r++) {
        char *there = device + (uint64_t)r * j->total + at, *here = half + (uint64_t)r * size;
        zero_status_t status = fetch ? copy(s, j, here, there, run, error) : copy(s, j, there, here, run, error);
        if (status)
            return status;
    }
    return ZERO_OK;
}

static uint64_t size_of(const job_t *j, uint64_t at)
{
    return j->total - at < j->piece ? j->total - at : j->piece;
}

/* Queues the copies of a piece from the device. */
static zero_status_t fetch(const staged_t *s, const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    uint64_t size = size_of(j, at);
    if (j->kind == GATHER)
        return copy(s, j, half + (uint64_t)s->base.rank * size, j->send + at, size, error);
    return copy_slices(s, j, (char *)j->send, half, true, 0, s->base.size, at, size, error);
}

/* The inner collective on a piece, in place. */
static zero_status_t collect(const staged_t *s, const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    zero_comm_t *c = s->inner;
    uint64_t size = size_of(j, at);
    c->note = s->base.note;
    char *own = half + (uint64_t)s->base.rank * size;
    if (j->kind == GATHER)
        return c->ops->all_gather(c, own, half, size, NULL, error);
    return c->ops->reduce_scatter(c, half, own, (int64_t)(size / zero_dtype_size(j->dtype)), j->dtype, NULL, error);
}

/* Queues the copies of a piece's result to the device. */
static zero_status_t deliver(const staged_t *s, const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    uint64_t size = size_of(j, at);
    int rank = s->base.rank;
    if (j->kind == REDUCE)
        return copy(s, j, j->recv + at, half + (uint64_t)rank * size, size, error);
    zero_status_t status = copy_slices(s, j, j->recv, half, false, 0, rank, at, size, error);
    return status ? status : copy_slices(s, j, j->recv, half, false, rank + 1, s->base.size, at, size, error);
}

static zero_status_t finish(const staged_t *s, void *native, zero_error_t *error)
{
    return s->device->ops->finish(s->device, native, s->base.options.timeout_s, error);
}

/* A collective of no bytes still ends with an abort's sentence, and keeps the ranks in step. */
static zero_status_t pipeline(staged_t *s, job_t *j, zero_error_t *error)
{
    j->piece = s->half_bytes / (uint64_t)s->base.size / LINE * LINE;
    zero_status_t status = s->used && s->native != j->native ? finish(s, s->native, error) : ZERO_OK;
    s->native = j->native;
    s->used = true;
    if (status == ZERO_OK)
        status = fetch(s, j, s->half[0], 0, error);
    if (status == ZERO_OK)
        status = finish(s, j->native, error);
    uint64_t at = 0;
    for (int h = 0; status == ZERO_OK; h = !h) {
        uint64_t next = at + size_of(j, at);
        bool more = next < j->total;
        if (more)
            status = fetch(s, j, s->half[!h], next, error);
        if (status == ZERO_OK)
            status = collect(s, j, s->half[h], at, error);
        if (status == ZERO_OK && more)
            status = finish(s, j->native, error);
        if (status == ZERO_OK)
            status = deliver(s, j, s->half[h], at, error);
        if (!more)
            break;
        at = next;
    }
    return status;
}

/* One rank: at most a copy on the device, after a look at whether there was an abort. */
static zero_status_t alone(staged_t *s, const job_t *j, zero_error_t *error)
{
    char nothing = 0;
    zero_status_t status = s->inner->ops->all_gather(s->inner, &nothing, &nothing, 0, NULL, error);
    return status || j->send == j->recv ? status : copy(s, j, j->recv, j->send, j->total, error);
}

static zero_status_t run(staged_t *s, job_t *j, zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    if (s->failed.status)
        return zero_fail(error, s->failed.status, "%s", s->failed.text);
    if (s->base.size == 1)
        status = alone(s, j, &why);
    else {
        /* What is gathered of this rank itself stays on the device. */
        char *own = j->kind == GATHER ? j->recv + (uint64_t)s->base.rank * j->total : NULL;
        if (own && own != j->send)
            status = copy(s, j, own, j->send, j->total, &why);
        if (status == ZERO_OK)
            status = pipeline(s, j, &why);
    }
    s->base.bytes_received = s->inner->bytes_received;
    s->base.bytes_reduced = s->inner->bytes_reduced;
    if (status == ZERO_OK)
        return ZERO_OK;
    s->failed = why;
    s->failed.status = status;
    s->base.other = s->inner->other;
    return zero_fail(error, status, "%s", why.text);
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static zero_status_t staged_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                       zero_error_t *error)
{
    job_t j = {.kind = GATHER, .send = send, .recv = recv, .total = bytes, .native = native};
    return run((staged_t *)c, &j, error);
}

static zero_status_t staged_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count,
                                           zero_dtype_t dtype, void *native, zero_error_t *error)
{
    job_t j = {.kind = REDUCE,
               .send = send,
               .recv = recv,
               .total = (uint64_t)count * zero_dtype_size(dtype),
               .dtype = dtype,
               .native = native};
    return run((staged_t *)c, &j, error);
}

static zero_status_t staged_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    staged_t *s = (staged_t *)c;
    if (s->failed.status)
        return zero_fail(error, s->failed.status, "%s", s->failed.text);
    s->inner->note = c->note;
    zero_status_t status = s->inner->ops->exchange(s->inner, send, recv, bytes, error);
    if (status != ZERO_OK)
        c->other = s->inner->other;
    return status;
}

static zero_status_t staged_split(zero_comm_t *c, int color, int key, zero_comm_t **out, zero_error_t *error)
{
    staged_t *s = (staged_t *)c;
    zero_comm_t *part;
    zero_status_t status = s->inner->ops->split(s->inner, color, key, &part, error);
    if (status)
        return status;
    status = zero_comm_staged(out, part, s->device, s->staging_bytes, error);
    if (status)
        zero_comm_destroy(part);
    return status;
}

static void staged_abort(zero_comm_t *c, const char *sentence)
{
    zero_comm_t *inner = ((staged_t *)c)->inner;
    inner->ops->abort(inner, sentence);
}

static zero_status_t staged_check(zero_comm_t *c, zero_error_t *error)
{
    zero_comm_t *inner = ((staged_t *)c)->inner;
    return inner->ops->check(inner, error);
}

static uint64_t staged_ring_resident(const zero_comm_t *c)
{
    const staged_t *s = (const staged_t *)c;
    uint64_t staging = 0;
    if (s->arena)
        s->device->ops->arena_resident(s->arena, 0, 2 * s->half_bytes, &staging, NULL);
    return s->inner->ops->ring_resident(s->inner) + staging;
}

static uint64_t staged_peers_resident(const zero_comm_t *c)
{
    const zero_comm_t *inner = ((const staged_t *)c)->inner;
    return inner->ops->peers_resident(inner);
}

static void staged_tell(zero_comm_t *c, uint64_t word)
{
    zero_comm_t *inner = ((staged_t *)c)->inner;
    inner->ops->tell(inner, word);
}

static uint64_t staged_told(const zero_comm_t *c, int rank)
{
    const zero_comm_t *inner = ((const staged_t *)c)->inner;
    return inner->ops->told(inner, rank);
}

static void staged_destroy(zero_comm_t *c)
{
    staged_t *s = (staged_t *)c;
    s->device->ops->arena_destroy(s->arena);
    zero_comm_destroy(s->inner);
    free(s);
}

static const zero_comm_ops_t staged_ops = {
    .all_gather = staged_all_gather,
    .reduce_scatter = staged_reduce_scatter,
    .exchange = staged_exchange,
    .split = staged_split,
    .abort = staged_abort,
    .check = staged_check,
    .ring_resident = staged_ring_resident,
    .peers_resident = staged_peers_resident,
    .tell = staged_tell,
    .told = staged_told,
    .destroy = staged_destroy,
};

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

/* Bytes of a half for world ranks: whole pages. */
static zero_status_t half_of(int world, uint64_t staging_bytes, uint64_t *half, zero_error_t *error)
{
    uint64_t least = (uint64_t)LINE * (uint64_t)world, wanted = staging_bytes ? staging_bytes / 2 : STAGING_DEFAULT / 2;
    *half = 0;
    if (world == 1)
        return ZERO_OK;
    if (staging_bytes && wanted < least)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "%llu bytes of pinned memory are too few for %d ranks to go through: give 0 (the default) or at least "
            "%llu",
            (unsigned long long)staging_bytes, world, (unsigned long long)(2 * least));
    if (!zero_round_up(wanted < least ? least : wanted, ZERO_PAGE, half) || *half > INT64_MAX / 2)
        return zero_fail(error, ZERO_ERR_ARG, "%llu bytes of pinned memory are more than any machine has",
                         (unsigned long long)staging_bytes);
    return ZERO_OK;
}

zero_status_t zero_comm_staged_caps(zero_comm_caps_t *caps, int world, uint64_t staging_bytes, zero_error_t *error)
{
    uint64_t half;
    zero_status_t status = half_of(world, staging_bytes, &half, error);
    if (status == ZERO_OK && !zero_add_u64(caps->ring_bytes, 2 * half, &caps->ring_bytes))
        status = zero_fail(error, ZERO_ERR_ARG, "rings and pinned memory of %llu bytes are more than any machine has",
                           (unsigned long long)staging_bytes);
    caps->host_pointers = false;
    caps->device_pointers = true;
    return status;
}

static zero_status_t make(staged_t *s, zero_error_t *error)
{
    zero_status_t status = half_of(s->base.size, s->staging_bytes, &s->half_bytes, error);
    if (status == ZERO_OK)
        status = zero_comm_staged_caps(&s->base.caps, s->base.size, s->staging_bytes, error);
    if (status || !s->half_bytes)
        return status;
    status = s->device->ops->arena_create(s->device, ZERO_TIER_HOST, 2 * s->half_bytes, &s->arena, error);
    if (status)
        return status;
    s->half[0] = s->device->ops->arena_base(s->arena);
    s->half[1] = s->half[0] + s->half_bytes;
    return ZERO_OK;
}

zero_status_t zero_comm_staged(zero_comm_t **out, zero_comm_t *inner, zero_device_t *device, uint64_t staging_bytes,
                               zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = zero_comm_place(out, "zero_comm_staged", error);
    if (status != ZERO_OK || !inner)
        return status != ZERO_OK ? status
                                 : zero_fail(error, ZERO_ERR_ARG, "zero_comm_staged has no communicator to wrap");
    zero_meet_t meet = zero_comm_meet(inner);
    staged_t *s = calloc(1, sizeof *s);
    if (!device) /* the others have to be told */
        status = zero_fail(&why, ZERO_ERR_ARG, "zero_comm_staged has no device");
    else if (!inner->caps.host_pointers)
        status = zero_fail(
            &why, ZERO_ERR_UNSUPPORTED,
            "data cannot go by way of host memory, since communicator '%s' moves none: between machines that needs "
            "ranks that mpiexec starts (zero_comm_mpi)",
            inner->caps.name);
    else if (s) {
        s->base = (zero_comm_t){.ops = &staged_ops,
                                .caps = inner->caps,
                                .options = inner->options,
                                .rank = inner->rank,
                                .size = inner->size,
                                .one_thread = inner->one_thread,
                                .bytes_received = inner->bytes_received,
                                .bytes_reduced = inner->bytes_reduced};
        s->inner = inner;
        s->device = device;
        s->staging_bytes = staging_bytes;
        status = make(s, &why);
    } else
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *s);
    status = zero_meet_agree(&meet, status, &why);
    if (status == ZERO_OK) {
        *out = &s->base;
        return ZERO_OK;
    }
    if (s && device)
        device->ops->arena_destroy(s->arena);
    free(s);
    return zero_fail(error, status, "%s", why.text);
}
