/* SPDX-License-Identifier: Apache-2.0 */
/* shm.c - a communicator of ranks that share one node. */
#include "zero/comm/backend.h"

#include <stdlib.h>

/* ---- for mpi.c too ---------------------------------------------------------------------------------------------- */

void zero_local_abort(zero_comm_t *c, const zero_error_t *failure)
{
    zero_peers_abort(((zero_local_t *)c->control)->peers, failure);
}

zero_status_t zero_local_check(zero_comm_t *c, zero_error_t *error)
{
    return zero_peers_watch(((zero_local_t *)c->control)->peers, "a check", error);
}

void zero_local_publish(zero_comm_t *c, uint64_t word)
{
    zero_peers_publish(((zero_local_t *)c->control)->peers, word);
}

uint64_t zero_local_progress(const zero_comm_t *c, int rank)
{
    const zero_local_t *l = (const zero_local_t *)c->control;
    return zero_peers_progress(l->peers, l->control.world[rank]);
}

void zero_local_close(zero_local_t *l)
{
    if (zero_latch_check(&l->control.failed, NULL))
        atomic_store(&l->peers->broken, true);
    zero_node_close(&l->node);
    zero_peers_drop(l->peers);
    free(l->control.world);
    free(l);
}

int zero_peers_index(const zero_peers_t *peers, int rank)
{
    for (int i = 0; i < peers->count; i++)
        if (peers->member[i] == rank)
            return i;
    return -1;
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static zero_node_t *node_of(const zero_comm_t *c)
{
    return &((zero_local_t *)c->control)->node;
}

static zero_status_t shm_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                    zero_error_t *error)
{
    zero_call_t call = zero_call_gather(c, bytes);
    (void)native;
    return zero_node_gather(node_of(c), &call, send, recv, bytes, NULL, NULL, error);
}

static zero_status_t shm_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    zero_call_t call = zero_call_exchange(c, bytes);
    return zero_node_gather(node_of(c), &call, send, recv, bytes, NULL, NULL, error);
}

static zero_status_t shm_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                        void *native, zero_error_t *error)
{
    zero_call_t call = zero_call_reduce(c, count, dtype);
    (void)native;
    return zero_node_reduce(node_of(c), &call, send, recv, count, dtype, c->rank, c->size, NULL, error);
}

static zero_status_t shm_all_to_all(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                    zero_error_t *error)
{
    zero_call_t call = zero_call_trade(c, bytes);
    (void)native;
    return zero_node_trade(node_of(c), &call, send, recv, bytes, c->rank, c->size, NULL, error);
}

static zero_status_t shm_send(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_call_t call = zero_call_transfer(c, true, bytes);
    (void)native;
    return zero_node_send(node_of(c), &call, buf, bytes, error);
}

static zero_status_t shm_recv(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_call_t call = zero_call_transfer(c, false, bytes);
    (void)native;
    return zero_node_recv(node_of(c), &call, buf, bytes, error);
}

static const zero_data_ops_t shm_data = {.all_gather = shm_all_gather,
                                         .reduce_scatter = shm_reduce_scatter,
                                         .all_to_all = shm_all_to_all,
                                         .send = shm_send,
                                         .recv = shm_recv};

static zero_status_t shm_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    zero_local_t *l = (zero_local_t *)c->control;
    zero_oob_t oob = zero_comm_oob(c);
    int *world = calloc((size_t)part->size, sizeof *world);
    for (int i = 0; i < part->size && world; i++)
        world[i] = l->control.world[part->members[i]];
    zero_status_t status =
        zero_shm_open(out, zero_peers_hold(l->peers), &oob, part->members, world, &l->control.options, error);
    free(world);
    return status;
}

static void shm_resident(const zero_comm_t *c, uint64_t *own, uint64_t *others)
{
    *own = zero_node_resident(node_of(c));
    *others = zero_node_peers_resident(node_of(c));
}

static void shm_destroy(zero_control_t *control)
{
    zero_local_close((zero_local_t *)control);
}

static const zero_control_ops_t shm_control = {
    .exchange = shm_exchange,
    .split = shm_split,
    .abort = zero_local_abort,
    .check = zero_local_check,
    .publish = zero_local_publish,
    .progress = zero_local_progress,
    .resident = shm_resident,
    .destroy = shm_destroy,
};

zero_status_t zero_shm_open(zero_comm_t *c, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                            const int *world, const zero_comm_options_t *options, zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status;
    uint64_t ring_bytes = 0;
    int size = c->size, *ranks = calloc((size_t)size, sizeof *ranks), *indices = calloc((size_t)size, sizeof *indices);
    zero_local_t *l = calloc(1, sizeof *l);
    zero_node_t node;
    if (!l || !ranks || !indices || !world || !(l->control.world = calloc((size_t)size, sizeof *world)))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
    else {
        l->control.ops = &shm_control;
        l->control.host = &shm_data;
        l->control.options = *options;
        for (int i = 0; i < size; i++) {
            l->control.world[i] = world[i];
            ranks[i] = i;
            indices[i] = zero_peers_index(peers, world[i]);
        }
        status = zero_ring_budget(options, size, &ring_bytes, &why);
        zero_comm_caps_set(c, "shm", ring_bytes);
        c->caps.node_ranks = size;
    }
    status = zero_node_open(&node, peers, oob, members, ranks, indices, size, c->rank, size, ring_bytes,
                            options->timeout_s, status, &why);
    free(ranks);
    free(indices);
    if (status) {
        zero_peers_drop(peers);
        if (l)
            free(l->control.world);
        free(l);
        return zero_pass(error, status, &why);
    }
    l->peers = peers;
    l->node = node;
    c->control = &l->control;
    c->data = &shm_data;
    return ZERO_OK;
}

/* ---- bootstrapped by the caller --------------------------------------------------------------------------------- */

static zero_status_t bootstrap_oob(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    const zero_bootstrap_t *b = ctx;
    if (b->all_gather(b->ctx, send, recv, bytes) == 0)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_PEER,
        "rank %d of %d could not exchange %zu bytes with the others during bootstrap (the caller's all_gather failed)",
        b->rank, b->world, bytes);
}

zero_status_t zero_comm_shm(zero_comm_t **comm, const zero_bootstrap_t *bootstrap, const zero_comm_options_t *options,
                            zero_error_t *error)
{
    zero_bootstrap_t b = {0};
    zero_comm_options_t o;
    zero_peers_t *peers = NULL;
    zero_error_t why = {0};
    zero_status_t status = zero_comm_clear_out(comm, "zero_comm_shm", error);
    if (status != ZERO_OK)
        return status;
    status =
        zero_struct_take(&b, sizeof b, bootstrap, ZERO_UP_TO(zero_bootstrap_t, ctx), "zero_bootstrap_t", NULL, error);
    if (status != ZERO_OK)
        return status;
    if (!b.all_gather)
        return zero_fail(error, ZERO_ERR_ARG, "the bootstrap of rank %d has no all_gather: set it", b.rank);
    if (b.world < 1 || b.rank < 0 || b.rank >= b.world)
        return zero_fail(error, ZERO_ERR_ARG, "the bootstrap has rank %d of %d: use a rank from 0 to world - 1", b.rank,
                         b.world);
    zero_oob_t oob = {.rank = b.rank, .world = b.world, .all_gather = bootstrap_oob, .ctx = &b};
    status = zero_comm_options_take(&o, options, &why);
    if (status == ZERO_OK && o.ranks_per_node && o.ranks_per_node < b.world)
        status = zero_fail(&why, ZERO_ERR_ARG,
                           "shared memory cannot split %d ranks into nodes of %d: use MPI (zero_comm_mpi)", b.world,
                           o.ranks_per_node);
    int *all = calloc((size_t)b.world, sizeof *all);
    zero_comm_t *c = calloc(1, sizeof *c);
    if (status == ZERO_OK && (!all || !c))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", b.world);
    for (int i = 0; i < b.world && all; i++)
        all[i] = i;
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK)
        status = zero_peers_open(&peers, &oob, all, b.world, b.rank, &why);
    if (status == ZERO_OK) {
        *c = (zero_comm_t){.options = o, .rank = b.rank, .size = b.world};
        status = zero_shm_open(c, peers, &oob, all, all, &o, &why);
    }
    free(all);
    if (status == ZERO_OK)
        *comm = c;
    else
        free(c);
    return zero_pass(error, status, &why);
}
