/* SPDX-License-Identifier: Apache-2.0 */
/* staged.c - see staged.h.
 *
 * A collective or transfer goes in pieces through two halves of pinned memory. While the inner communicator works on
 * one piece, the next piece is copied from the device into the other half, and the previous one back to the device. All
 * copies are on the caller's stream, whose order ensures that a half is free before the next fetch. The host accesses a
 * half only after it has waited for the stream. In an all-to-all, which is not in place, one half is sent and the other
 * received.
 */
#include "zero/comm/staged.h"
#include "zero/comm/backend.h"

#include <stdlib.h>

enum { LINE = 128 }; /* pieces are multiples of it, so that no element is split */
#define STAGING_DEFAULT \
    (8u << 20) /* 2 MiB pieces for 2 ranks; for 8 ranks copies of 512 KiB, which still reach the link's bandwidth */

/* The communicator's state; it uses the control's data. */
typedef struct staged {
    zero_device_t *device;  /* borrowed */
    uint64_t staging_bytes; /* as passed to zero_comm_staged */
    zero_arena_t *arena;    /* NULL for one rank */
    char *half[2];
    uint64_t half_bytes;
    bool used;
    void *native; /* if used: the stream of the last call's copies */
} staged_t;

/* A call that is running. Slices have total bytes; pieces of at most piece bytes of each move at a time. A transfer has
 * one slice. */
typedef struct job {
    zero_comm_t *c;
    staged_t *s; /* c's */
    enum { GATHER, REDUCE, TRADE, SEND, RECV } kind;
    const char *send;
    char *recv;
    uint64_t total, piece;
    zero_dtype_t dtype; /* REDUCE */
    void *native;
} job_t;

static zero_status_t copy(const job_t *j, void *to, const void *from, uint64_t bytes, zero_error_t *error)
{
    return bytes ? j->s->device->ops->copy(j->s->device, j->native, to, from, bytes, error) : ZERO_OK;
}

/* Copies size bytes from offset at of the slices of ranks [begin, end) between the device and a half: to the half if
 * fetch is set, otherwise to the device. */
static zero_status_t copy_slices(const job_t *j, char *device, char *half, bool fetch, int begin, int end, uint64_t at,
                                 uint64_t size, zero_error_t *error)
{
    uint64_t run = size;
    if (size == j->total && begin < end) { /* whole slices are contiguous in both */
        run = (uint64_t)(end - begin) * size;
        end = begin + 1;
    }
    for (int r = begin; r < end; r++) {
        char *there = device + (uint64_t)r * j->total + at, *here = half + (uint64_t)r * size;
        zero_status_t status = fetch ? copy(j, here, there, run, error) : copy(j, there, here, run, error);
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
static zero_status_t fetch(const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    uint64_t size = size_of(j, at);
    if (j->kind == RECV)
        return ZERO_OK;
    if (j->kind == SEND)
        return copy(j, half, j->send + at, size, error);
    if (j->kind == GATHER)
        return copy(j, half + (uint64_t)j->c->rank * size, j->send + at, size, error);
    return copy_slices(j, (char *)j->send, half, true, 0, j->c->size, at, size, error);
}

/* The host's call on a piece, in place. */
static zero_status_t collect(const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    const zero_data_ops_t *host = j->c->control->host;
    uint64_t size = size_of(j, at);
    char *own = half + (uint64_t)j->c->rank * size;
    if (j->kind == SEND)
        return host->send(j->c, half, size, NULL, error);
    if (j->kind == RECV)
        return host->recv(j->c, half, size, NULL, error);
    if (j->kind == GATHER)
        return host->all_gather(j->c, own, half, size, NULL, error);
    return host->reduce_scatter(j->c, half, own, (int64_t)(size / zero_dtype_size(j->dtype)), j->dtype, NULL, error);
}

/* Queues the copies of a piece's result to the device. */
static zero_status_t deliver(const job_t *j, char *half, uint64_t at, zero_error_t *error)
{
    uint64_t size = size_of(j, at);
    int rank = j->c->rank;
    if (j->kind == SEND)
        return ZERO_OK;
    if (j->kind == RECV)
        return copy(j, j->recv + at, half, size, error);
    if (j->kind == REDUCE)
        return copy(j, j->recv + at, half + (uint64_t)rank * size, size, error);
    zero_status_t status = copy_slices(j, j->recv, half, false, 0, rank, at, size, error);
    return status ? status : copy_slices(j, j->recv, half, false, rank + 1, j->c->size, at, size, error);
}

static zero_status_t finish(const job_t *j, void *native, zero_error_t *error)
{
    return j->s->device->ops->finish(j->s->device, native, j->c->options.timeout_s, error);
}

/* Waits until the copies of the last call are done, and sets the size of a piece. */
static zero_status_t take_halves(job_t *j, zero_error_t *error)
{
    staged_t *s = j->s;
    j->piece = s->half_bytes / (uint64_t)j->c->size / LINE * LINE;
    zero_status_t status = s->used && s->native != j->native ? finish(j, s->native, error) : ZERO_OK;
    s->native = j->native;
    s->used = true;
    return status;
}

/* An all-to-all, piece by piece. */
static zero_status_t trade(job_t *j, zero_error_t *error)
{
    char *const *half = j->s->half;
    zero_status_t status = take_halves(j, error);
    for (uint64_t at = 0; status == ZERO_OK; at += j->piece) {
        uint64_t size = size_of(j, at);
        status = copy_slices(j, (char *)j->send, half[0], true, 0, j->c->size, at, size, error);
        if (status == ZERO_OK)
            status = finish(j, j->native, error);
        if (status == ZERO_OK)
            status = j->c->control->host->all_to_all(j->c, half[0], half[1], size, NULL, error);
        if (status == ZERO_OK)
            status = copy_slices(j, j->recv, half[1], false, 0, j->c->size, at, size, error);
        if (at + size >= j->total)
            break;
    }
    return status;
}

/* A collective of no bytes still returns an abort's sentence, and keeps the ranks in step. */
static zero_status_t pipeline(job_t *j, zero_error_t *error)
{
    staged_t *s = j->s;
    zero_status_t status = take_halves(j, error);
    if (status == ZERO_OK)
        status = fetch(j, s->half[0], 0, error);
    if (status == ZERO_OK)
        status = finish(j, j->native, error);
    uint64_t at = 0;
    for (int h = 0; status == ZERO_OK; h = !h) {
        uint64_t next = at + size_of(j, at);
        bool more = next < j->total;
        if (more)
            status = fetch(j, s->half[!h], next, error);
        if (status == ZERO_OK)
            status = collect(j, s->half[h], at, error);
        if (status == ZERO_OK && more)
            status = finish(j, j->native, error);
        if (status == ZERO_OK)
            status = deliver(j, s->half[h], at, error);
        if (!more)
            break;
        at = next;
    }
    return status;
}

static zero_status_t run(job_t *j, zero_error_t *error)
{
    if (j->c->size == 1) { /* checks for an abort; then at most a copy on the device */
        char nothing = 0;
        zero_status_t status = j->c->control->host->all_gather(j->c, &nothing, &nothing, 0, NULL, error);
        return status || j->send == j->recv ? status : copy(j, j->recv, j->send, j->total, error);
    }
    /* A gather copies this rank's own slice on the device. */
    char *own = j->kind == GATHER ? j->recv + (uint64_t)j->c->rank * j->total : NULL;
    zero_status_t status = own && own != j->send ? copy(j, own, j->send, j->total, error) : ZERO_OK;
    if (status)
        return status;
    j->c->whole = j->total;
    status = j->kind == TRADE ? trade(j, error) : pipeline(j, error);
    j->c->whole = 0;
    return status;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static zero_status_t staged_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                       zero_error_t *error)
{
    job_t j = {.c = c, .s = c->state, .kind = GATHER, .send = send, .recv = recv, .total = bytes, .native = native};
    return run(&j, error);
}

static zero_status_t staged_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count,
                                           zero_dtype_t dtype, void *native, zero_error_t *error)
{
    job_t j = {.c = c,
               .s = c->state,
               .kind = REDUCE,
               .send = send,
               .recv = recv,
               .total = (uint64_t)count * zero_dtype_size(dtype),
               .dtype = dtype,
               .native = native};
    return run(&j, error);
}

static zero_status_t staged_all_to_all(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                       zero_error_t *error)
{
    job_t j = {.c = c, .s = c->state, .kind = TRADE, .send = send, .recv = recv, .total = bytes, .native = native};
    return run(&j, error);
}

static zero_status_t staged_send(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    job_t j = {.c = c, .s = c->state, .kind = SEND, .send = buf, .total = bytes, .native = native};
    return run(&j, error);
}

static zero_status_t staged_recv(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    job_t j = {.c = c, .s = c->state, .kind = RECV, .recv = buf, .total = bytes, .native = native};
    return run(&j, error);
}

static zero_status_t staged_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    const staged_t *s = c->state;
    (void)part;
    return zero_comm_staged(&out, out, s->device, s->staging_bytes, error);
}

static uint64_t staged_resident(const zero_comm_t *c)
{
    const staged_t *s = c->state;
    uint64_t staging = 0;
    if (s->arena)
        s->device->ops->arena_resident(s->arena, 0, 2 * s->half_bytes, &staging, NULL);
    return staging;
}

static void staged_destroy(zero_comm_t *c)
{
    staged_t *s = c->state;
    s->device->ops->arena_destroy(s->arena);
    free(s);
}

static const zero_data_ops_t staged_data = {
    .all_gather = staged_all_gather,
    .reduce_scatter = staged_reduce_scatter,
    .all_to_all = staged_all_to_all,
    .send = staged_send,
    .recv = staged_recv,
    .split = staged_split,
    .resident = staged_resident,
    .destroy = staged_destroy,
};

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

/* The size of a half for world ranks, in whole pages. */
static zero_status_t half_of(int world, uint64_t staging_bytes, uint64_t *half, zero_error_t *error)
{
    uint64_t least = (uint64_t)LINE * (uint64_t)world, wanted = staging_bytes ? staging_bytes / 2 : STAGING_DEFAULT / 2;
    *half = 0;
    if (world == 1)
        return ZERO_OK;
    if (staging_bytes && wanted < least)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%llu bytes of pinned memory are too few to stage the data of %d ranks: use 0 (the default) "
                         "or at least %llu",
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

static zero_status_t make_halves(staged_t *s, zero_comm_caps_t *caps, int size, zero_error_t *error)
{
    zero_status_t status = half_of(size, s->staging_bytes, &s->half_bytes, error);
    if (status == ZERO_OK)
        status = zero_comm_staged_caps(caps, size, s->staging_bytes, error);
    if (status || !s->half_bytes)
        return status;
    status = s->device->ops->arena_create(s->device, ZERO_TIER_HOST, 2 * s->half_bytes, &s->arena, error);
    if (status)
        return status;
    s->half[0] = s->device->ops->arena_base(s->arena);
    s->half[1] = s->half[0] + s->half_bytes;
    return ZERO_OK;
}

/* Ranks compare whole calls, so their pieces must be alike. Collective. */
static zero_status_t compare_halves(const zero_oob_t *oob, uint64_t half_bytes, zero_error_t *error)
{
    uint64_t *all = calloc((size_t)oob->world, sizeof *all);
    zero_status_t status = zero_oob_agree(
        oob, all ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", oob->world), error);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, &half_bytes, all, sizeof half_bytes, error);
    for (int r = 1; r < oob->world && status == ZERO_OK; r++)
        if (all[r] != all[0])
            status = zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_OPTIONS_DIFFER, r,
                                      "rank 0 stages data through %llu bytes of pinned memory, and rank %d through "
                                      "%llu: give every rank the same",
                                      2 * (unsigned long long)all[0], r, 2 * (unsigned long long)all[r]);
    free(all);
    return status;
}

/* Replaces the data of inner; *comm is inner. */
zero_status_t zero_comm_staged(zero_comm_t **comm, zero_comm_t *inner, zero_device_t *device, uint64_t staging_bytes,
                               zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = zero_comm_clear_out(comm, "zero_comm_staged", error);
    if (status != ZERO_OK || !inner)
        return status != ZERO_OK ? status
                                 : zero_fail(error, ZERO_ERR_ARG, "zero_comm_staged has no communicator to wrap");
    zero_oob_t oob = zero_comm_oob(inner);
    zero_comm_caps_t caps = inner->caps;
    staged_t *s = calloc(1, sizeof *s);
    if (!device) /* reported below, so that the other ranks fail too */
        status = zero_fail(&why, ZERO_ERR_ARG, "zero_comm_staged has no device");
    else if (!inner->caps.host_pointers)
        status = zero_fail(&why, ZERO_ERR_UNSUPPORTED,
                           "cannot stage data through host memory, because communicator '%s' moves none: between "
                           "machines, start the ranks with mpiexec (zero_comm_mpi)",
                           inner->caps.name);
    else if (s) {
        *s = (staged_t){.device = device, .staging_bytes = staging_bytes};
        status = make_halves(s, &caps, inner->size, &why);
    } else
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *s);
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK)
        status = compare_halves(&oob, s->half_bytes, &why);
    if (status == ZERO_OK) {
        inner->data = &staged_data;
        inner->state = s;
        inner->caps = caps;
        *comm = inner;
        return ZERO_OK;
    }
    if (s && device)
        device->ops->arena_destroy(s->arena);
    free(s);
    return zero_pass(error, status, &why);
}
