/* SPDX-License-Identifier: Apache-2.0 */
/* nccl.c - a communicator of GPUs that exchange data through NCCL. A communicator of host memory does everything else:
 * meeting, small exchanges, failures and progress. nccl_watch.h keeps it from hanging.
 *
 * Sums are in NCCL's order, and 16-bit types are rounded in between. The same call with the same sizes gives the same
 * bits.
 */
#include "zero/comm/backend.h"
#include "zero/comm/nccl_watch.h"
#include "zero/device/device.h"
#include "zero/device/host.h"

#include <stdio.h>
#include <stdlib.h>

/* A communicator's state. */
typedef struct nccl {
    zero_nccl_watch_t *watch;
    zero_nccl_member_t *member;
} nccl_t;

/* ---- collectives and transfers ---------------------------------------------------------------------------------- */

static zero_status_t issue_all_gather(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm,
                                      const zero_nccl_call_t *c, zero_error_t *error)
{
    return api->all_gather(nccl, comm, c->send, c->recv, c->bytes, c->stream, error);
}

static zero_status_t issue_reduce_scatter(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm,
                                          const zero_nccl_call_t *c, zero_error_t *error)
{
    return api->reduce_scatter(nccl, comm, c->send, c->recv, c->count, c->dtype, c->stream, error);
}

static zero_status_t issue_all_to_all(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm,
                                      const zero_nccl_call_t *c, zero_error_t *error)
{
    return api->all_to_all(nccl, comm, c->send, c->recv, c->bytes, (int)c->count, c->stream, error);
}

static zero_status_t issue_send(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm, const zero_nccl_call_t *c,
                                zero_error_t *error)
{
    return api->send(nccl, comm, c->send, c->bytes, c->peer, c->stream, error);
}

static zero_status_t issue_recv(const zero_cuda_nccl_t *api, zero_nccl_t *nccl, void *comm, const zero_nccl_call_t *c,
                                zero_error_t *error)
{
    return api->recv(nccl, comm, c->recv, c->bytes, c->peer, c->stream, error);
}

/* A call of no bytes does not call NCCL, but still returns the failure. */
static zero_status_t issue(zero_comm_t *c, zero_nccl_call_t *call, zero_error_t *error)
{
    nccl_t *n = c->state;
    call->timeout_s = c->options.timeout_s;
    call->rank = c->control->world[c->rank];
    call->late = c->size == 2 ? c->control->world[1 - c->rank] : -1;
    return call->bytes ? zero_nccl_issue(n->member, call, error) : zero_nccl_check(n->watch, error);
}

static zero_status_t nccl_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                     zero_error_t *error)
{
    zero_nccl_call_t call = {
        .issue = issue_all_gather, .what = "all-gather", .bytes = bytes, .stream = native, .send = send, .recv = recv};
    return issue(c, &call, error);
}

static zero_status_t nccl_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count,
                                         zero_dtype_t dtype, void *native, zero_error_t *error)
{
    zero_nccl_call_t call = {.issue = issue_reduce_scatter,
                             .what = "reduce-scatter",
                             .bytes = (uint64_t)count * zero_dtype_size(dtype),
                             .stream = native,
                             .send = send,
                             .recv = recv,
                             .count = count,
                             .dtype = dtype};
    return issue(c, &call, error);
}

static zero_status_t nccl_all_to_all(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                     zero_error_t *error)
{
    zero_nccl_call_t call = {.issue = issue_all_to_all,
                             .what = "all-to-all",
                             .bytes = bytes,
                             .stream = native,
                             .send = send,
                             .recv = recv,
                             .count = c->size};
    return issue(c, &call, error);
}

static zero_status_t nccl_send(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_nccl_call_t call = {
        .issue = issue_send, .what = "send", .bytes = bytes, .stream = native, .send = buf, .peer = 1 - c->rank};
    return issue(c, &call, error);
}

static zero_status_t nccl_recv(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_nccl_call_t call = {
        .issue = issue_recv, .what = "recv", .bytes = bytes, .stream = native, .recv = buf, .peer = 1 - c->rank};
    return issue(c, &call, error);
}

/* NCCL would let the other ranks wait for one that failed. Aborting the control notifies them. */
static zero_status_t abort_on_failure(zero_comm_t *c, zero_status_t status, const zero_error_t *error)
{
    zero_error_t failure;
    if (status && status != ZERO_ERR_PEER) {
        zero_fail_reason(&failure, ZERO_ERR_PEER, (zero_reason_t)error->reason, c->rank, "rank %d of %d: %s", c->rank,
                         c->size, error->text);
        c->control->ops->abort(c, &failure);
    }
    return status;
}

static zero_status_t nccl_attach(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = abort_on_failure(
        c, zero_nccl_attach(((nccl_t *)c->state)->member, base, bytes, c->caps.windows, c->options.timeout_s, &why),
        &why);
    return zero_pass(error, status, &why);
}

/* The watch's thread checks the control too. *found serves callers that wait, and an MPI that only its own thread may
 * use. */
static zero_status_t nccl_failure(zero_comm_t *c, const zero_error_t *found, zero_error_t *error)
{
    nccl_t *n = c->state;
    if (found)
        zero_nccl_fail(n->watch, found->status, found);
    return zero_nccl_check(n->watch, error);
}

static void nccl_destroy(zero_comm_t *c)
{
    nccl_t *n = c->state;
    zero_nccl_member_close(n->member, c->options.timeout_s);
    free(n);
}

static zero_status_t nccl_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);

static const zero_data_ops_t nccl_data = {
    .all_gather = nccl_all_gather,
    .reduce_scatter = nccl_reduce_scatter,
    .all_to_all = nccl_all_to_all,
    .send = nccl_send,
    .recv = nccl_recv,
    .attach = nccl_attach,
    .failure = nccl_failure,
    .split = nccl_split,
    .destroy = nccl_destroy,
};

/* ---- set-up ----------------------------------------------------------------------------------------------------- */

static zero_status_t open_member(zero_comm_t *c, nccl_t *n, zero_nccl_watch_t *watch, const zero_nccl_origin_t *origin,
                                 zero_error_t *error)
{
    zero_status_t status =
        zero_nccl_member_open(&n->member, watch, origin, c->size, c->rank, c->options.timeout_s, error);
    n->watch = watch;
    return abort_on_failure(c, status, error);
}

/* Makes NCCL move c's data. */
static void use_nccl(zero_comm_t *c, nccl_t *n)
{
    uint64_t ring_bytes = c->caps.ring_bytes;
    int node_ranks = c->caps.node_ranks;
    c->data = &nccl_data;
    c->state = n;
    c->uncompared = true;
    zero_comm_caps_set(c, "nccl", ring_bytes);
    c->caps.node_ranks = node_ranks;
    c->caps.windows = c->options.nccl_windows && !c->link; /* windows are for collectives */
}

static zero_status_t nccl_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    nccl_t *n = c->state, *child = calloc(1, sizeof *child);
    zero_oob_t oob = zero_comm_oob(c);
    zero_error_t why = {0};
    zero_status_t status =
        child ? ZERO_OK : zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *child);
    /* The rank of a part's first member is unique to the part. */
    zero_nccl_origin_t origin = {.parent = n->member, .color = part->members[0], .key = part->rank, .link = part->link};
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK)
        status = zero_oob_agree(&oob, open_member(out, child, n->watch, &origin, &why), &why);
    if (status == ZERO_OK) {
        use_nccl(out, child);
        return ZERO_OK;
    }
    if (child)
        zero_nccl_member_close(child->member, c->options.timeout_s);
    free(child);
    return zero_pass(error, status, &why);
}

/* What the ranks exchange before NCCL starts. */
typedef struct info {
    uint64_t machine, gpu;
    int32_t number, windows; /* NCCL's version; whether the rank wants windows */
} info_t;

/* Finds ranks that NCCL could not connect, which it would notice late or never. Collective. */
static zero_status_t compare(zero_comm_t *host, const info_t *own, zero_error_t *error)
{
    zero_oob_t oob = zero_comm_oob(host);
    info_t *all = calloc((size_t)host->size, sizeof *all);
    zero_status_t status = zero_oob_agree(
        &oob, all ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", host->size), error);
    if (status == ZERO_OK)
        status = oob.all_gather(oob.ctx, own, all, sizeof *own, error);
    for (int r = 0; r < host->size && status == ZERO_OK; r++)
        if (all[r].number != all[0].number)
            status = zero_fail(error, ZERO_ERR_MISMATCH,
                               "rank 0 has NCCL %d.%d.%d and rank %d NCCL %d.%d.%d: install the same on all machines",
                               all[0].number / 10000, all[0].number / 100 % 100, all[0].number % 100, r,
                               all[r].number / 10000, all[r].number / 100 % 100, all[r].number % 100);
    for (int r = 0; r < host->size && status == ZERO_OK; r++)
        if (all[r].windows != all[0].windows)
            status = zero_fail_reason(
                error, ZERO_ERR_MISMATCH, ZERO_REASON_OPTIONS_DIFFER, r,
                "zero_comm_options_t's nccl_windows is %s on rank 0 and %s on rank %d: give every rank the "
                "same",
                all[0].windows ? "true" : "false", all[r].windows ? "true" : "false", r);
    for (int r = 0; r < host->size; r++)
        for (int q = 0; q < r && status == ZERO_OK; q++)
            if (all[q].machine == all[r].machine && all[q].gpu == all[r].gpu)
                status = zero_fail_reason(
                    error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_GPU_SHARED, r,
                    "ranks %d and %d are on one GPU, which NCCL refuses: give each rank a GPU of its own", q, r);
    free(all);
    return status;
}

/* The steps that this rank can do without the others. */
static zero_status_t prepare(const zero_cuda_nccl_t **api, zero_nccl_t **nccl, zero_comm_t *host, zero_device_t *device,
                             void *callers, bool windows, info_t *info, zero_error_t *error)
{
    const void *table = NULL;
    int number = 0, size = host->size, rank = host->rank, index = device->options.index;
    if (strcmp(device->caps.name, "cuda") != 0)
        return zero_fail(error, ZERO_ERR_ARG, "NCCL needs a CUDA device, but the device is '%s' (zero_device_cuda)",
                         device->caps.name);
    zero_status_t status = zero_plugin_table("zero_cuda", "zero_cuda_nccl", ZERO_CUDA_NCCL_VERSION, &table, error);
    if (status)
        return status;
    *api = table;
    status = (*api)->open(nccl, &number, error);
    if (status == ZERO_OK && windows && !(*api)->has_windows(*nccl))
        status =
            zero_fail(error, ZERO_ERR_UNSUPPORTED,
                      "NCCL %d.%d.%d has no windows, and 2.27 is the first that has: install a newer one, name its "
                      "file in ZERO_NCCL_LIBRARY, or set zero_comm_options_t's nccl_windows to false",
                      number / 10000, number / 100 % 100, number % 100);
    if (status == ZERO_OK && callers)
        status = (*api)->shape(*nccl, callers, &size, &rank, &index, error);
    if (status == ZERO_OK && (size != host->size || rank != host->rank || index != device->options.index))
        status = zero_fail(error, ZERO_ERR_ARG,
                           "the given NCCL communicator is rank %d of %d on GPU %d, but this is rank %d of %d on GPU "
                           "%d: pass one of the same ranks and device",
                           rank, size, index, host->rank, host->size, device->options.index);
    *info = (info_t){
        .machine = zero_host_machine(), .gpu = device->ops->identity(device), .number = number, .windows = windows};
    return status;
}

/* Gives every rank the id that rank 0 makes. Collective. */
static zero_status_t share_id(zero_nccl_watch_t *watch, zero_comm_t *host, char id[ZERO_NCCL_ID_BYTES],
                              zero_error_t *error)
{
    zero_oob_t oob = zero_comm_oob(host);
    char *all = calloc((size_t)host->size, ZERO_NCCL_ID_BYTES);
    zero_status_t status =
        all ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", host->size);
    if (status == ZERO_OK && host->rank == 0)
        status = zero_nccl_watch_id(watch, id, error);
    status = zero_oob_agree(&oob, status, error);
    if (status == ZERO_OK)
        status = oob.all_gather(oob.ctx, id, all, ZERO_NCCL_ID_BYTES, error);
    if (status == ZERO_OK)
        memcpy(id, all, ZERO_NCCL_ID_BYTES);
    free(all);
    return status;
}

zero_status_t zero_comm_nccl(zero_comm_t **comm, zero_comm_t *host, zero_device_t *device, void *nccl_comm,
                             const zero_comm_options_t *options, zero_error_t *error)
{
    const zero_cuda_nccl_t *api = NULL;
    zero_nccl_t *nccl = NULL;
    zero_nccl_watch_t *watch = NULL;
    zero_comm_options_t o;
    zero_error_t why = {0};
    info_t info = {0};
    char id[ZERO_NCCL_ID_BYTES] = {0};
    zero_status_t status = zero_comm_clear_out(comm, "zero_comm_nccl", error);
    if (status != ZERO_OK || !host)
        return status != ZERO_OK ? status : zero_fail(error, ZERO_ERR_ARG, "zero_comm_nccl has no host communicator");
    zero_oob_t oob = zero_comm_oob(host);
    zero_comm_t *c = calloc(1, sizeof *c);
    nccl_t *n = calloc(1, sizeof *n);
    status = zero_comm_options_take(&o, options, &why);
    if (status == ZERO_OK && !device) /* reported below, so that the other ranks fail too */
        status = zero_fail(&why, ZERO_ERR_ARG, "zero_comm_nccl has no device");
    if (status == ZERO_OK)
        status = prepare(&api, &nccl, host, device, nccl_comm, o.nccl_windows, &info, &why);
    if (status == ZERO_OK && (!c || !n))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *c + sizeof *n);
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK)
        status = compare(host, &info, &why);
    if (status)
        goto fail;
    *c = (zero_comm_t){.control = host->control,
                       .borrowed = true,
                       .caps = host->caps,
                       .options = o,
                       .rank = host->rank,
                       .size = host->size};
    status = zero_nccl_watch_open(&watch, api, nccl, host, device->options.index, &o, &why);
    if (status == ZERO_OK)
        nccl = NULL;
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK && !nccl_comm)
        status = share_id(watch, host, id, &why);
    if (status)
        goto fail;
    zero_nccl_origin_t origin = {.id = nccl_comm ? NULL : id, .callers = nccl_comm, .key = host->rank};
    status = zero_oob_agree(&oob, open_member(c, n, watch, &origin, &why), &why);
    if (status)
        goto fail;
    zero_nccl_watch_drop(watch);
    use_nccl(c, n);
    *comm = c;
    return ZERO_OK;
fail:
    if (n)
        zero_nccl_member_close(n->member, o.timeout_s);
    free(n);
    free(c);
    if (watch)
        zero_nccl_watch_drop(watch);
    if (nccl)
        api->close(nccl);
    return zero_pass(error, status, &why);
}
