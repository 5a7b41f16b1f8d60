/* SPDX-License-Identifier: Apache-2.0 */
/* mpi.c - ranks of any number of nodes: shared memory (node.c) inside a node, MPI messages between nodes.
 *
 * Gather: each slice crosses to each other node once. The receiver is the rank whose place among its node's ranks is
 * the sender's place modulo their number; then the ranks of a node share what they received. Reduce: sums are in rank
 * order, so each rank needs every operand: slice j goes directly to rank j, part by part, into one of two halves of a
 * fixed staging buffer. An all-to-all moves the same operands, and sums nothing.
 *
 * Before its data a rank sends a description of its call (compare.h) to the same ranks. They compare it before they
 * post receives for the data. A rank does not wait for the other descriptions before it sends data, so this costs a
 * message but no extra round trip.
 */
#define _GNU_SOURCE
#include "zero/comm/backend.h"

#if !defined(HAVE_MPI)
zero_status_t zero_comm_mpi(zero_comm_t **comm, const void *mpi_comm, const zero_comm_options_t *options,
                            zero_error_t *error)
{
    (void)mpi_comm, (void)options;
    zero_status_t status = zero_comm_clear_out(comm, "zero_comm_mpi", error);
    if (status != ZERO_OK)
        return status;
    return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_MPI, -1,
                            "this build has no MPI: build with MPI, or start ranks of one machine with torchrun");
}
#else
#include "zero/comm/mpi_base.h"
#include "zero/device/host.h"

#include <stdlib.h>
#include <sys/mman.h>

typedef struct mpi_comm {
    zero_local_t local; /* node: the ranks of this communicator on this rank's node */
    zero_mpi_t *mpi;    /* owned by the peers */
    int tag;
    int here, far;         /* number of ranks on this node, and on other nodes */
    int *far_rank;         /* [far] increasing */
    int *home;             /* [size] node of each rank */
    int **lists, *lengths; /* [here] for each rank of this node, the ranks of other nodes whose slices it receives */
    int *carrier;          /* [carriers] the ranks of other nodes that receive this rank's slice */
    int carriers;
    zero_call_info_t *infos; /* [1 + far] of this rank's call, and received ones */
    MPI_Request *requests;   /* 3 sets of 2 * far: one for each half, and one for infos */
    int pending[3];
    char *staging; /* 2 halves of far parts each */
    uint64_t staging_bytes, part_bytes;
    /* The reduction or all-to-all in progress. */
    const zero_call_t *call;
    const char *send;
    int64_t count;
    uint64_t element;
} mpi_comm_t;

/* The length of a message is an int, so long messages are divided. */
enum { PIECE_BYTES = 1 << 30 };
/* Sets of requests: 0 and 1 are for the halves. */
enum { INFOS = 2, SETS };

/* ---- messages --------------------------------------------------------------------------------------------------- */

static zero_status_t isend(mpi_comm_t *c, const void *buffer, uint64_t bytes, int rank, MPI_Request *request,
                           zero_error_t *error)
{
    int code = MPI_Isend(buffer, (int)bytes, MPI_BYTE, c->local.control.world[rank], c->tag, c->mpi->comm, request);
    return code == MPI_SUCCESS ? ZERO_OK : zero_mpi_fail(error, "MPI_Isend", code);
}

static zero_status_t irecv(mpi_comm_t *c, void *buffer, uint64_t bytes, int rank, MPI_Request *request,
                           zero_error_t *error)
{
    int code = MPI_Irecv(buffer, (int)bytes, MPI_BYTE, c->local.control.world[rank], c->tag, c->mpi->comm, request);
    return code == MPI_SUCCESS ? ZERO_OK : zero_mpi_fail(error, "MPI_Irecv", code);
}

static MPI_Request *requests(const mpi_comm_t *c, int set)
{
    return c->requests + (size_t)set * 2 * (size_t)c->far;
}

static zero_status_t wait(mpi_comm_t *c, int set, const char *operation, zero_error_t *error)
{
    int count = c->pending[set];
    c->pending[set] = 0;
    if (count == 0)
        return ZERO_OK;
    return zero_mpi_wait(requests(c, set), count, c->local.control.options.timeout_s, c->local.peers, operation, error);
}

/* Messages of a failed operation must not write into memory that has been freed. */
static void drop_requests(mpi_comm_t *c)
{
    for (int set = 0; set < SETS; set++) {
        zero_mpi_drop(requests(c, set), c->pending[set]);
        c->pending[set] = 0;
    }
}

/* The ranks of other nodes that a collective exchanges messages with. */
typedef struct partners {
    const int *from, *to;
    int from_count, to_count;
} partners_t;

/* Sends the info of this rank's call to p->to, and posts receives for those of p->from. */
static zero_status_t send_infos(mpi_comm_t *c, const zero_call_t *call, const partners_t *p, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    zero_call_info(call, &c->infos[0]);
    for (int i = 0; i < p->from_count && status == ZERO_OK; i++) {
        status =
            irecv(c, &c->infos[1 + i], sizeof *c->infos, p->from[i], &requests(c, INFOS)[c->pending[INFOS]], error);
        c->pending[INFOS] += status == ZERO_OK;
    }
    for (int i = 0; i < p->to_count && status == ZERO_OK; i++) {
        status = isend(c, &c->infos[0], sizeof *c->infos, p->to[i], &requests(c, INFOS)[c->pending[INFOS]], error);
        c->pending[INFOS] += status == ZERO_OK;
    }
    return status;
}

/* Waits for the infos, and checks that the ranks of p->from make the same call. */
static zero_status_t check_infos(mpi_comm_t *c, const zero_call_t *call, const partners_t *p, zero_error_t *error)
{
    zero_status_t status = wait(c, INFOS, call->operation, error);
    for (int i = 0; i < p->from_count && status == ZERO_OK; i++)
        status = zero_call_compare(call, p->from[i], &c->infos[1 + i].id, c->infos[1 + i].words, error);
    return status;
}

/* ---- gather ----------------------------------------------------------------------------------------------------- */

/* Starts the messages of bytes [begin, begin + size) of every slice. Finds a rank that makes another call before it
 * posts receives for that rank's data. */
static zero_status_t start_slices(mpi_comm_t *c, const zero_call_t *call, const partners_t *p, const char *send,
                                  char *recv, uint64_t bytes, uint64_t begin, uint64_t size, zero_error_t *error)
{
    zero_status_t status = begin == 0 ? send_infos(c, call, p, error) : ZERO_OK;
    for (int i = 0; i < p->to_count && size && status == ZERO_OK; i++) {
        status = isend(c, send + begin, size, p->to[i], &c->requests[c->pending[0]], error);
        c->pending[0] += status == ZERO_OK;
    }
    if (status == ZERO_OK && begin == 0)
        status = check_infos(c, call, p, error);
    for (int i = 0; i < p->from_count && size && status == ZERO_OK; i++) {
        status =
            irecv(c, recv + (uint64_t)p->from[i] * bytes + begin, size, p->from[i], &c->requests[c->pending[0]], error);
        c->pending[0] += status == ZERO_OK;
    }
    return status;
}

static zero_status_t gather(zero_comm_t *comm, zero_call_t call, const void *send, void *recv, uint64_t bytes,
                            zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_node_t *n = &c->local.node;
    const partners_t p = {c->lists[n->index], c->carrier, c->lengths[n->index], c->carriers};
    zero_status_t status = zero_peers_check(c->local.peers, error);
    for (uint64_t begin = 0; (begin == 0 || begin < bytes) && status == ZERO_OK; begin += PIECE_BYTES) {
        status = start_slices(c, &call, &p, send, recv, bytes, begin,
                              bytes - begin < PIECE_BYTES ? bytes - begin : PIECE_BYTES, error);
        /* Meanwhile gather the slices of this node. */
        if (begin == 0 && status == ZERO_OK)
            status = zero_node_gather(n, &call, send, recv, bytes, NULL, NULL, error);
        if (status == ZERO_OK)
            status = wait(c, 0, call.operation, error);
    }
    if (status == ZERO_OK && c->far && n->count > 1 && bytes)
        status = zero_node_gather(n, &call, send, recv, bytes, (const int *const *)c->lists, c->lengths, error);
    if (status)
        drop_requests(c);
    return status;
}

static zero_status_t mpi_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                    zero_error_t *error)
{
    (void)native;
    return gather(c, zero_call_gather(c, bytes), send, recv, bytes, error);
}

static zero_status_t mpi_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    return gather(c, zero_call_exchange(c, bytes), send, recv, bytes, error);
}

/* ---- reduce ----------------------------------------------------------------------------------------------------- */

static zero_status_t far_start(void *ctx, int64_t part, int64_t begin, int64_t elements, zero_error_t *error)
{
    mpi_comm_t *c = ctx;
    int half = (int)(part & 1);
    const partners_t all = {c->far_rank, c->far_rank, c->far, c->far};
    zero_status_t status = part == 0 ? send_infos(c, c->call, &all, error) : ZERO_OK;
    /* Starts with the next higher rank, so that the ranks do not all send to the same one. */
    int first = 0;
    while (first < c->far && c->far_rank[first] < c->call->comm->rank)
        first++;
    for (int k = 0; k < c->far && status == ZERO_OK; k++) {
        int r = c->far_rank[(first + k) % c->far];
        const char *from = c->send + ((uint64_t)r * (uint64_t)c->count + (uint64_t)begin) * c->element;
        status = isend(c, from, (uint64_t)elements * c->element, r, &requests(c, half)[c->pending[half]], error);
        c->pending[half] += status == ZERO_OK;
    }
    if (status == ZERO_OK && part == 0)
        status = check_infos(c, c->call, &all, error);
    for (int i = 0; i < c->far && status == ZERO_OK; i++) {
        status = irecv(c, c->staging + ((uint64_t)half * (uint64_t)c->far + (uint64_t)i) * c->part_bytes,
                       (uint64_t)elements * c->element, c->far_rank[i], &requests(c, half)[c->pending[half]], error);
        c->pending[half] += status == ZERO_OK;
    }
    return status;
}

static zero_status_t far_finish(void *ctx, int64_t part, const void **source, zero_error_t *error)
{
    mpi_comm_t *c = ctx;
    int half = (int)(part & 1);
    zero_status_t status = wait(c, half, c->call->operation, error);
    for (int i = 0; i < c->far; i++)
        source[c->far_rank[i]] = c->staging + ((uint64_t)half * (uint64_t)c->far + (uint64_t)i) * c->part_bytes;
    return status;
}

/* Sets what far_start and far_finish need of a collective. */
static zero_node_far_t begin_far(mpi_comm_t *c, const zero_call_t *call, const void *send, int64_t count,
                                 uint64_t element)
{
    c->call = call;
    c->send = send;
    c->count = count;
    c->element = element;
    return (zero_node_far_t){.start = far_start, .finish = far_finish, .ctx = c, .part_bytes = c->part_bytes};
}

static zero_status_t mpi_reduce_scatter(zero_comm_t *comm, const void *send, void *recv, int64_t count,
                                        zero_dtype_t dtype, void *native, zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_call_t call = zero_call_reduce(comm, count, dtype);
    zero_node_far_t far = begin_far(c, &call, send, count, zero_dtype_size(dtype));
    (void)native;
    zero_status_t status =
        zero_node_reduce(&c->local.node, &call, send, recv, count, dtype, comm->rank, comm->size, &far, error);
    if (status)
        drop_requests(c);
    return status;
}

static zero_status_t mpi_all_to_all(zero_comm_t *comm, const void *send, void *recv, uint64_t bytes, void *native,
                                    zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_call_t call = zero_call_trade(comm, bytes);
    zero_node_far_t far = begin_far(c, &call, send, (int64_t)bytes, 1);
    (void)native;
    zero_status_t status =
        zero_node_trade(&c->local.node, &call, send, recv, bytes, comm->rank, comm->size, &far, error);
    if (status)
        drop_requests(c);
    return status;
}

/* ---- transfers -------------------------------------------------------------------------------------------------- */

/* The sentence of a transfer that took too long. */
static zero_status_t too_late(mpi_comm_t *c, const zero_call_t *call, zero_error_t *error)
{
    const zero_comm_t *comm = call->comm;
    const int *world = c->local.control.world;
    return zero_fail_reason(error, ZERO_ERR_TIMEOUT, ZERO_REASON_RANK_LATE, world[1 - comm->rank],
                            "rank %d waited %g s in %s; late: rank %d (another node)", world[comm->rank],
                            c->local.control.options.timeout_s, call->operation, world[1 - comm->rank]);
}

/* One of send and recv is NULL, or bytes is 0. */
static zero_status_t transfer(mpi_comm_t *c, const zero_call_t *call, const char *send, char *recv, uint64_t bytes,
                              zero_error_t *error)
{
    const partners_t other = {c->far_rank, c->far_rank, 1, 1};
    MPI_Request *request = requests(c, 0);
    zero_status_t status = zero_peers_check(c->local.peers, error);
    if (status == ZERO_OK)
        status = send_infos(c, call, &other, error);
    for (uint64_t begin = 0; (begin == 0 || begin < bytes) && status == ZERO_OK; begin += PIECE_BYTES) {
        const uint64_t size = bytes - begin < PIECE_BYTES ? bytes - begin : PIECE_BYTES;
        if (send && size) {
            status = isend(c, send + begin, size, *c->far_rank, request, error);
            c->pending[0] += status == ZERO_OK;
        }
        if (status == ZERO_OK && begin == 0)
            status = check_infos(c, call, &other, error);
        if (recv && size && status == ZERO_OK) {
            status = irecv(c, recv + begin, size, *c->far_rank, request, error);
            c->pending[0] += status == ZERO_OK;
        }
        if (status == ZERO_OK)
            status = wait(c, 0, call->operation, error);
    }
    if (status)
        drop_requests(c);
    return status == ZERO_ERR_TIMEOUT ? too_late(c, call, error) : status;
}

static zero_status_t mpi_send(zero_comm_t *comm, const void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_call_t call = zero_call_transfer(comm, true, bytes);
    (void)native;
    return c->far ? transfer(c, &call, buf, NULL, bytes, error)
                  : zero_node_send(&c->local.node, &call, buf, bytes, error);
}

static zero_status_t mpi_recv(zero_comm_t *comm, void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_call_t call = zero_call_transfer(comm, false, bytes);
    (void)native;
    return c->far ? transfer(c, &call, NULL, buf, bytes, error)
                  : zero_node_recv(&c->local.node, &call, buf, bytes, error);
}

static const zero_data_ops_t mpi_data = {.all_gather = mpi_all_gather,
                                         .reduce_scatter = mpi_reduce_scatter,
                                         .all_to_all = mpi_all_to_all,
                                         .send = mpi_send,
                                         .recv = mpi_recv};

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

static void mpi_destroy(zero_control_t *control)
{
    mpi_comm_t *c = (mpi_comm_t *)control;
    for (int j = 0; j < c->here && c->lists; j++)
        free(c->lists[j]);
    if (c->staging)
        munmap(c->staging, c->staging_bytes);
    free(c->lists);
    free(c->lengths);
    free(c->carrier);
    free(c->far_rank);
    free(c->home);
    free(c->requests);
    free(c->infos);
    zero_local_close(&c->local);
}

static void mpi_resident(const zero_comm_t *comm, uint64_t *own, uint64_t *others)
{
    const mpi_comm_t *c = (const mpi_comm_t *)comm->control;
    uint64_t staged = 0;
    if (c->staging)
        zero_host_resident(c->staging, c->staging_bytes, &staged, NULL);
    *own = zero_node_resident(&c->local.node) + staged;
    *others = zero_node_peers_resident(&c->local.node);
}

static zero_status_t mpi_split(zero_comm_t *comm, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);

static const zero_control_ops_t mpi_control = {
    .exchange = mpi_exchange,
    .split = mpi_split,
    .abort = zero_local_abort,
    .check = zero_local_check,
    .publish = zero_local_publish,
    .progress = zero_local_progress,
    .resident = mpi_resident,
    .destroy = mpi_destroy,
};

/* Chooses which rank receives which slices. index[r]: place of rank r among its node's ranks. */
static zero_status_t route(mpi_comm_t *c, int rank, int size, const int *index, const int *local_count,
                           zero_error_t *error)
{
    int here = local_count[rank];
    c->here = here;
    c->far_rank = calloc((size_t)size, sizeof *c->far_rank);
    c->carrier = calloc((size_t)size, sizeof *c->carrier);
    c->lengths = calloc((size_t)here, sizeof *c->lengths);
    c->lists = calloc((size_t)here, sizeof *c->lists);
    c->requests = calloc(2 * SETS * (size_t)size, sizeof *c->requests);
    c->infos = calloc((size_t)size, sizeof *c->infos);
    if (!c->far_rank || !c->carrier || !c->lengths || !c->lists || !c->requests || !c->infos)
        goto no_memory;
    for (int j = 0; j < here; j++)
        if (!(c->lists[j] = calloc((size_t)size, sizeof **c->lists)))
            goto no_memory;
    for (int r = 0; r < size; r++) {
        if (c->home[r] == c->home[rank])
            continue;
        int j = index[r] % here;
        c->far_rank[c->far++] = r;
        c->lists[j][c->lengths[j]++] = r;
        if (index[r] == index[rank] % local_count[r])
            c->carrier[c->carriers++] = r;
    }
    return ZERO_OK;
no_memory:
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
}

/* Sets *value to the minimum over all ranks. Collective. */
static zero_status_t agree_least(const zero_oob_t *oob, uint64_t *value, zero_error_t *error)
{
    uint64_t *all = calloc((size_t)oob->world, sizeof *all);
    zero_status_t status = zero_oob_agree(
        oob, all ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", oob->world), error);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, value, all, sizeof *value, error);
    for (int r = 0; r < oob->world && status == ZERO_OK; r++)
        *value = all[r] < *value ? all[r] : *value;
    free(all);
    return status;
}

/* Divides the budget between ring and staging, and makes both. */
static zero_status_t make_rings(mpi_comm_t *c, uint64_t budget, int size, const zero_oob_t *oob, const int *members,
                                const int *rank, const int *peer, int here, int place, zero_error_t *error)
{
    zero_error_t why = {0};
    uint64_t page = zero_host_page();
    uint64_t ring = here == 1 ? 0 : c->far ? budget / 2 / page * page : budget, there;
    zero_status_t status = ZERO_OK;
    c->staging_bytes = budget - ring;
    if (c->staging_bytes) {
        status = zero_host_available(&there, &why);
        if (status == ZERO_OK && there < c->staging_bytes)
            status = zero_fail(
                &why, ZERO_ERR_MEMORY,
                "a staging buffer of %llu bytes does not fit: only %llu bytes are available; use a smaller ring",
                (unsigned long long)c->staging_bytes, (unsigned long long)there);
        void *p = mmap(NULL, c->staging_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        c->staging = p == MAP_FAILED ? NULL : p;
        if (status == ZERO_OK && !c->staging)
            status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a staging buffer of %llu bytes",
                               (unsigned long long)c->staging_bytes);
        if (status == ZERO_OK)
            status = zero_host_populate(c->staging, c->staging_bytes, &why);
    }
    status = zero_node_open(&c->local.node, c->local.peers, oob, members, rank, peer, here, place, size, ring,
                            c->local.control.options.timeout_s, status, &why);
    if (status)
        return zero_pass(error, status, &why);
    /* In a split, ranks of the other parts take part too. Their value can only lower the minimum, which is safe and
     * costs little. */
    c->part_bytes = zero_node_part_bytes(&c->local.node);
    if (c->far && c->staging_bytes / 2 / (uint64_t)c->far / 128 * 128 < c->part_bytes)
        c->part_bytes = c->staging_bytes / 2 / (uint64_t)c->far / 128 * 128;
    if (c->part_bytes > PIECE_BYTES)
        c->part_bytes = PIECE_BYTES;
    return agree_least(oob, &c->part_bytes, error);
}

/* Makes the control of comm, a communicator with rank and size set. Rank i has the rank members[i] in oob and the world
 * rank world[i]. Collective over oob. Takes over the reference to peers, also on failure. */
static zero_status_t mpi_open(zero_comm_t *comm, zero_peers_t *peers, zero_mpi_t *mpi, const zero_oob_t *oob,
                              const int *members, const int *world, int tag, const zero_comm_options_t *options,
                              zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    uint64_t budget = 0;
    int size = comm->size, rank = comm->rank, here = 0, place = 0, *local_rank = NULL, *local_peer = NULL,
        *local_member = NULL, *work = calloc(5 * (size_t)size, sizeof *work);
    mpi_comm_t *c = calloc(1, sizeof *c);
    if (c) {
        c->local.control = (zero_control_t){
            .ops = &mpi_control, .host = &mpi_data, .options = *options, .one_thread = !mpi->alone && !mpi->multiple};
        c->local.peers = peers;
        c->mpi = mpi;
        c->tag = tag;
        c->home = calloc((size_t)size, sizeof *c->home);
        c->local.control.world = calloc((size_t)size, sizeof *world);
    }
    if (!work || !c || !world || !c->home || !c->local.control.world)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", size);
    else {
        int *index = work, *local_count = work + size;
        local_rank = work + 2 * size;
        local_peer = work + 3 * size;
        local_member = work + 4 * size;
        for (int i = 0; i < size; i++) {
            c->local.control.world[i] = world[i];
            c->home[i] = mpi->node[world[i]];
            for (int j = 0; j < size; j++) {
                local_count[i] += mpi->node[world[j]] == c->home[i];
                index[i] += j < i && mpi->node[world[j]] == c->home[i];
            }
            if (c->home[i] != mpi->node[world[rank]])
                continue;
            place = i == rank ? here : place;
            local_rank[here] = i;
            local_peer[here] = zero_peers_index(peers, world[i]);
            local_member[here++] = members[i];
        }
        status = route(c, rank, size, index, local_count, &why);
        if (status == ZERO_OK)
            status = zero_ring_budget(options, size, &budget, &why);
        zero_comm_caps_set(comm, "mpi", budget);
        comm->caps.node_ranks = here;
    }
    status = zero_oob_agree(oob, status, &why);
    if (status == ZERO_OK)
        status = make_rings(c, budget, size, oob, local_member, local_rank, local_peer, here, place, &why);
    free(work);
    if (status == ZERO_OK) {
        comm->control = &c->local.control;
        comm->data = &mpi_data;
        return ZERO_OK;
    }
    if (c)
        mpi_destroy(&c->local.control);
    else
        zero_peers_drop(peers);
    return zero_pass(error, status, &why);
}

/* Chooses a tag that no other communicator of these ranks has. The first rank of the part chooses it from its world
 * rank and its own count of splits. */
static zero_status_t new_tag(mpi_comm_t *c, const int *world, zero_oob_t *oob, int leader, int *tag,
                             zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    int own = 0, *all = calloc((size_t)oob->world, sizeof *all);
    if (!all)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory to connect %d ranks", oob->world);
    if (oob->rank == leader) {
        int number = atomic_fetch_add(&c->mpi->next_tag, 1);
        if (number >= (c->mpi->max_tag - ZERO_MPI_TAG_FIRST - 1 - world[0]) / c->mpi->size)
            status =
                zero_fail(&why, ZERO_ERR_UNSUPPORTED, "MPI has no tags left after %d splits of communicators", number);
        own = ZERO_MPI_TAG_FIRST + 1 + number * c->mpi->size + world[0];
    }
    status = zero_oob_agree(oob, status, &why);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, &own, all, sizeof own, &why);
    if (status == ZERO_OK)
        *tag = all[leader];
    free(all);
    return zero_pass(error, status, &why);
}

static zero_status_t mpi_split(zero_comm_t *comm, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    mpi_comm_t *c = (mpi_comm_t *)comm->control;
    zero_oob_t oob = zero_comm_oob(comm);
    int tag = 0, *world = calloc((size_t)part->size, sizeof *world);
    zero_error_t why = {0};
    for (int i = 0; i < part->size && world; i++)
        world[i] = c->local.control.world[part->members[i]];
    zero_status_t status = zero_oob_agree(
        &oob, world ? ZERO_OK : zero_fail(&why, ZERO_ERR_MEMORY, "no memory to split a communicator"), &why);
    if (status == ZERO_OK)
        status = new_tag(c, world, &oob, part->members[0], &tag, &why);
    if (status == ZERO_OK)
        status = mpi_open(out, zero_peers_hold(c->local.peers), c->mpi, &oob, part->members, world, tag,
                          &c->local.control.options, &why);
    free(world);
    return zero_pass(error, status, &why);
}

zero_status_t zero_comm_mpi(zero_comm_t **comm, const void *mpi_comm, const zero_comm_options_t *options,
                            zero_error_t *error)
{
    zero_comm_options_t o;
    zero_mpi_t *mpi = NULL;
    zero_peers_t *peers = NULL;
    zero_error_t why = {0}, checked = {0};
    zero_status_t valid, status = zero_comm_clear_out(comm, "zero_comm_mpi", error);
    if (status != ZERO_OK)
        return status;
    valid = zero_comm_options_take(&o, options, &checked);
    if (valid) /* reported below, so that the other ranks fail too; their options may be valid */
        zero_comm_options_init(&o);
    status = zero_mpi_open(&mpi, mpi_comm, &o, error);
    if (status)
        return status;
    zero_oob_t oob = zero_mpi_oob(mpi);
    int here = 0, place = 0, *all = calloc(2 * (size_t)mpi->size, sizeof *all), *node = all ? all + mpi->size : NULL;
    zero_comm_t *c = calloc(1, sizeof *c);
    if (valid == ZERO_OK && (!all || !c))
        valid = zero_fail(&checked, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", mpi->size);
    why = checked;
    status = zero_oob_agree(&oob, valid, &why);
    for (int r = 0; r < mpi->size && status == ZERO_OK; r++) {
        all[r] = r;
        if (mpi->node[r] != mpi->node[mpi->rank])
            continue;
        place = r == mpi->rank ? here : place;
        node[here++] = r;
    }
    if (status == ZERO_OK)
        status = zero_peers_open(&peers, &oob, node, here, place, &why);
    if (status)
        zero_mpi_close(mpi, false);
    else {
        peers->far = &zero_mpi_far_ops;
        peers->far_ctx = mpi;
        *c = (zero_comm_t){.options = o, .rank = mpi->rank, .size = mpi->size};
        status = mpi_open(c, peers, mpi, &oob, all, all, ZERO_MPI_TAG_FIRST, &o, &why);
    }
    free(all);
    if (status == ZERO_OK)
        *comm = c;
    else
        free(c);
    return zero_pass(error, status, &why);
}
#endif
