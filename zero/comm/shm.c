/* SPDX-License-Identifier: Apache-2.0 */
/* shm.c - a communicator of ranks that share one node. */
#include "zero/comm/backend.h"

#include <stdlib.h>

/* ---- for mpi.c too ---------------------------------------------------------------------------------------------- */

zero_status_t zero_local_ready(const zero_local_t *l, zero_error_t *error)
{
    return l->failed.status ? zero_fail(error, l->failed.status, "%s", l->failed.text) : ZERO_OK;
}

zero_status_t zero_local_done(zero_local_t *l, zero_status_t status, const zero_error_t *why, zero_error_t *error)
{
    if (status == ZERO_OK)
        return status;
    l->failed = *why;
    l->failed.status = status;
    atomic_store(&l->family->broken, true);
    return zero_fail(error, status, "%s", why->text);
}

void zero_local_abort(zero_comm_t *c, const char *sentence)
{
    zero_family_abort(((zero_local_t *)c)->family, sentence);
}

zero_status_t zero_local_check(zero_comm_t *c, zero_error_t *error)
{
    return zero_family_watch(((zero_local_t *)c)->family, "a check", error);
}

void zero_local_tell(zero_comm_t *c, uint64_t word)
{
    zero_family_tell(((zero_local_t *)c)->family, word);
}

uint64_t zero_local_told(const zero_comm_t *c, int rank)
{
    const zero_local_t *l = (const zero_local_t *)c;
    return zero_family_told(l->family, l->world[rank]);
}

int zero_family_seat(const zero_family_t *family, int rank)
{
    for (int i = 0; i < family->seats; i++)
        if (family->member[i] == rank)
            return i;
    return -1;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static zero_status_t shm_gather(zero_comm_t *c, zero_call_t call, const void *send, void *recv, uint64_t bytes,
                                zero_error_t *error)
{
    zero_local_t *l = (zero_local_t *)c;
    zero_error_t why = {0};
    zero_status_t status = zero_local_ready(l, error);
    if (status)
        return status;
    status = zero_node_gather(&l->node, &call, send, recv, bytes, NULL, NULL, &why);
    return zero_local_done(l, status, &why, error);
}

static zero_status_t shm_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                    zero_error_t *error)
{
    zero_status_t status = shm_gather(c, zero_call_gather(c, bytes), send, recv, bytes, error);
    (void)native;
    if (status == ZERO_OK)
        c->bytes_received += (uint64_t)(c->size - 1) * bytes;
    return status;
}

static zero_status_t shm_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    return shm_gather(c, zero_call_exchange(c, bytes), send, recv, bytes, error);
}

static zero_status_t shm_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                        void *native, zero_error_t *error)
{
    zero_local_t *l = (zero_local_t *)c;
    zero_call_t call = zero_call_reduce(c, count, dtype);
    zero_error_t why = {0};
    zero_status_t status = zero_local_ready(l, error);
    (void)native;
    if (status)
        return status;
    status = zero_node_reduce(&l->node, &call, send, recv, count, dtype, c->rank, c->size, NULL, &why);
    if (status == ZERO_OK)
        c->bytes_reduced += (uint64_t)(c->size - 1) * (uint64_t)count * zero_dtype_size(dtype);
    return zero_local_done(l, status, &why, error);
}

static zero_status_t shm_split(zero_comm_t *c, int color, int key, zero_comm_t **out, zero_error_t *error)
{
    zero_local_t *l = (zero_local_t *)c;
    zero_meet_t meet = zero_comm_meet(c);
    int *members, *world, count, index;
    zero_status_t status = zero_split_members(c, color, key, &members, &count, &index, error);
    if (status)
        return status;
    world = calloc((size_t)count, sizeof *world);
    for (int i = 0; i < count && world; i++)
        world[i] = l->world[members[i]];
    status = zero_shm_open(out, c->caps.name, zero_family_hold(l->family), &meet, members, world, count, index,
                           &c->options, error);
    free(world);
    free(members);
    return status;
}

static uint64_t shm_ring_resident(const zero_comm_t *c)
{
    return zero_node_resident(&((const zero_local_t *)c)->node);
}

static uint64_t shm_peers_resident(const zero_comm_t *c)
{
    return zero_node_peers_resident(&((const zero_local_t *)c)->node);
}

static void shm_destroy(zero_comm_t *c)
{
    zero_local_t *l = (zero_local_t *)c;
    zero_node_close(&l->node);
    zero_family_drop(l->family);
    free(l->world);
    free(l);
}

static const zero_comm_ops_t shm_ops = {
    .all_gather = shm_all_gather,
    .reduce_scatter = shm_reduce_scatter,
    .exchange = shm_exchange,
    .split = shm_split,
    .abort = zero_local_abort,
    .check = zero_local_check,
    .ring_resident = shm_ring_resident,
    .peers_resident = shm_peers_resident,
    .tell = zero_local_tell,
    .told = zero_local_told,
    .destroy = shm_destroy,
};

zero_status_t zero_shm_open(zero_comm_t **comm, const char *name, zero_family_t *family, const zero_meet_t *meet,
                            const int *members, const int *world, int size, int rank,
                            const zero_comm_options_t *options, zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status;
    uint64_t ring_bytes = 0;
    int *ranks = calloc((size_t)size, sizeof *ranks), *seats = calloc((size_t)size, sizeof *seats);
    zero_local_t *l = calloc(1, sizeof *l);
    *comm = NULL;
    if (!l || !ranks || !seats || !world || !(l->world = calloc((size_t)size, sizeof *l->world)))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
    else {
        l->base.ops = &shm_ops;
        l->base.options = *options;
        l->base.rank = rank;
        l->base.size = size;
        for (int i = 0; i < size; i++) {
            l->world[i] = world[i];
            ranks[i] = i;
            seats[i] = zero_family_seat(family, world[i]);
        }
        status = zero_ring_budget(options, size, &ring_bytes, &why);
        zero_comm_caps_set(&l->base, name, ring_bytes);
        l->base.caps.node_ranks = size;
    }
    status = zero_meet_agree(meet, status, &why);
    if (status == ZERO_OK)
        status = zero_node_open(&l->node, family, meet, members, ranks, seats, size, rank, size, ring_bytes,
                                options->timeout_s, &why);
    free(ranks);
    free(seats);
    if (status) {
        zero_family_drop(family);
        if (l)
            free(l->world);
        free(l);
        return zero_fail(error, status, "%s", why.text);
    }
    l->family = family;
    *comm = &l->base;
    return ZERO_OK;
}

/* ---- bootstrapped by the caller --------------------------------------------------------------------------------- */

static zero_status_t bootstrap_meet(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    const zero_bootstrap_t *b = ctx;
    if (b->all_gather(b->ctx, send, recv, bytes) == 0)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_PEER,
        "rank %d of %d could not exchange %zu bytes with the others while the ranks met (the bootstrap failed)",
        b->rank, b->world, bytes);
}

zero_status_t zero_comm_shm(zero_comm_t **comm, const zero_bootstrap_t *bootstrap, const zero_comm_options_t *options,
                            zero_error_t *error)
{
    zero_bootstrap_t b = {0};
    zero_comm_options_t o;
    zero_family_t *family = NULL;
    zero_error_t why = {0};
    zero_status_t status = zero_comm_place(comm, "zero_comm_shm", error);
    if (status != ZERO_OK)
        return status;
    status =
        zero_struct_take(&b, sizeof b, bootstrap, ZERO_UP_TO(zero_bootstrap_t, ctx), "zero_bootstrap_t", NULL, error);
    if (status != ZERO_OK)
        return status;
    if (!b.all_gather)
        return zero_fail(error, ZERO_ERR_ARG,
                         "the bootstrap of rank %d has no all_gather: give the function by which the ranks meet",
                         b.rank);
    if (b.world < 1 || b.rank < 0 || b.rank >= b.world)
        return zero_fail(error, ZERO_ERR_ARG, "the bootstrap says rank %d of %d: give a rank below a positive world",
                         b.rank, b.world);
    zero_meet_t meet = {.rank = b.rank, .world = b.world, .all_gather = bootstrap_meet, .ctx = &b};
    status = zero_comm_options_take(&o, options, &why);
    if (status == ZERO_OK && o.ranks_per_node && o.ranks_per_node < b.world)
        status = zero_fail(&why, ZERO_ERR_ARG,
                           "shared memory cannot split %d ranks into nodes of %d: use MPI (zero_comm_mpi)", b.world,
                           o.ranks_per_node);
    int *all = calloc((size_t)b.world, sizeof *all);
    if (status == ZERO_OK && !all)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", b.world);
    for (int i = 0; i < b.world && all; i++)
        all[i] = i;
    status = zero_meet_agree(&meet, status, &why);
    if (status == ZERO_OK)
        status = zero_family_open(&family, &meet, all, b.world, b.rank, &why);
    if (status == ZERO_OK)
        status = zero_shm_open(comm, "shm", family, &meet, all, all, b.world, b.rank, &o, &why);
    free(all);
    return status ? zero_fail(error, status, "%s", why.text) : ZERO_OK;
}
