/* SPDX-License-Identifier: Apache-2.0 */
/* common.c - the public functions on communicators, and functions that the backends share. */
#include "zero/comm/backend.h"

#include <stdlib.h>

/* Four slots of 256 KiB and a page. Smaller slots are slower, because they are read while they are still in the
 * writer's private cache, not yet in the shared cache. Larger ones do not fit in the shared cache. */
#define RING_DEFAULT (4 * 262144 + 4096)

void zero_comm_options_init_size(zero_comm_options_t *options, size_t size)
{
    const zero_comm_options_t defaults = {.size = sizeof defaults, .timeout_s = 600};
    zero_struct_init(options, size, &defaults, sizeof defaults);
}

zero_status_t zero_comm_options_take(zero_comm_options_t *out, const zero_comm_options_t *options, zero_error_t *error)
{
    zero_comm_options_init(out);
    if (!options)
        return ZERO_OK;
    zero_status_t status = zero_struct_take(out, sizeof *out, options, ZERO_UP_TO(zero_comm_options_t, log_ctx),
                                            "zero_comm_options_t", "zero_comm_options_init", error);
    if (status != ZERO_OK)
        return status;
    if (!(out->timeout_s > 0 && out->timeout_s <= 1e9))
        return zero_fail(error, ZERO_ERR_ARG, "the communicator's timeout is %g s, but must be above 0",
                         out->timeout_s);
    if (out->ranks_per_node < 0)
        return zero_fail(error, ZERO_ERR_ARG, "ranks_per_node is %d, but must be 0 (the real nodes) or positive",
                         out->ranks_per_node);
    return ZERO_OK;
}

zero_status_t zero_ring_budget(const zero_comm_options_t *options, int world, uint64_t *bytes, zero_error_t *error)
{
    /* mpi.c uses one half for the ring and one for its staging. */
    uint64_t floor = 2 * zero_node_least(world), rounded;
    *bytes = 0;
    if (world == 1)
        return ZERO_OK;
    if (options->ring_bytes && options->ring_bytes < floor)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a ring of %zu bytes is too small for %d ranks: use 0 (the default) or at least %llu",
                         options->ring_bytes, world, (unsigned long long)floor);
    uint64_t wanted = options->ring_bytes ? options->ring_bytes : RING_DEFAULT;
    if (wanted < floor)
        wanted = floor;
    if (!zero_round_up(wanted, ZERO_PAGE, &rounded) || rounded > INT64_MAX / 2)
        return zero_fail(error, ZERO_ERR_ARG, "a ring of %zu bytes is larger than any memory", options->ring_bytes);
    *bytes = rounded;
    return ZERO_OK;
}

void zero_comm_caps_set(zero_comm_t *c, const char *name, uint64_t ring_bytes)
{
    bool device = strcmp(name, "nccl") == 0; /* its rings belong to the host communicator */
    c->caps = (zero_comm_caps_t){
        .in_place = true, .host_pointers = !device, .device_pointers = device, .ring_bytes = ring_bytes};
    memcpy(c->caps.name, name, strlen(name) + 1);
}

zero_status_t zero_comm_describe(const char *name, int world, const zero_comm_options_t *options,
                                 zero_comm_caps_t *caps, zero_error_t *error)
{
    zero_comm_options_t o;
    zero_comm_t c = {0};
    uint64_t ring_bytes = 0;
    zero_status_t status = zero_comm_options_take(&o, options, error);
    if (status)
        return status;
    if (strcmp(name, "self") && strcmp(name, "shm") && strcmp(name, "mpi") && strcmp(name, "nccl"))
        return zero_fail(error, ZERO_ERR_ARG, "there is no communicator '%s': use self, shm, mpi or nccl", name);
    if (world < 1 || (!strcmp(name, "self") && world > 1))
        return zero_fail(error, ZERO_ERR_ARG, "a communicator '%s' cannot have %d ranks: %s", name, world,
                         world < 1 ? "give 1 or more" : "use shm or mpi, or 1 rank");
    status = zero_ring_budget(&o, world, &ring_bytes, error);
    zero_comm_caps_set(&c, name, ring_bytes);
    *caps = c.caps;
    return status;
}

/* ---- public ----------------------------------------------------------------------------------------------------- */

zero_status_t zero_comm_clear_out(zero_comm_t **comm, const char *function, zero_error_t *error)
{
    if (!comm)
        return zero_fail(error, ZERO_ERR_ARG, "%s has no address for the communicator", function);
    *comm = NULL;
    return ZERO_OK;
}

int zero_comm_rank(const zero_comm_t *comm)
{
    return comm ? comm->rank : -1;
}

int zero_comm_size(const zero_comm_t *comm)
{
    return comm ? comm->size : 0;
}

const char *zero_comm_name(const zero_comm_t *comm)
{
    return comm ? comm->caps.name : "";
}

bool zero_comm_has_data(const zero_comm_t *comm)
{
    return comm && comm->data;
}

zero_status_t zero_comm_exchange(zero_comm_t *comm, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    if (!comm || (bytes > 0 && (!send || !recv)))
        return zero_fail(error, ZERO_ERR_ARG, "zero_comm_exchange has no %s",
                         !comm  ? "communicator"
                         : send ? "buffer for the result"
                                : "bytes to send");
    zero_error_t why;
    zero_status_t status = zero_control_exchange(comm, send, recv, bytes, &why);
    /* Only some ranks may notice the difference; the others would wait for them. */
    if (status == ZERO_ERR_MISMATCH)
        zero_comm_fail(comm, &why);
    return zero_pass(error, status, &why);
}

zero_status_t zero_comm_agree(zero_comm_t *comm, zero_status_t status, int *failed, zero_error_t *error)
{
    zero_error_t why = {0};
    int first;
    if (!comm)
        return zero_fail(error, ZERO_ERR_ARG, "zero_comm_agree has no communicator");
    zero_oob_t oob = zero_comm_oob(comm);
    if (status && error)
        zero_pass(&why, status, error);
    status = zero_oob_agree_on(&oob, status, &first, &why);
    if (failed)
        *failed = first;
    /* Some of the other ranks may not notice these failures, and would wait. */
    if (first < 0 && (status == ZERO_ERR_MISMATCH || status == ZERO_ERR_MEMORY))
        zero_comm_fail(comm, &why);
    return zero_pass(error, status, &why);
}

void zero_comm_abort(zero_comm_t *comm, const char *sentence)
{
    zero_error_t failure;
    zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_ABORTED, -1, "%s",
                     sentence && *sentence ? sentence : "a rank gave up without a reason");
    if (comm)
        zero_comm_fail(comm, &failure);
}

zero_error_t zero_comm_own(const zero_error_t *failure, int rank)
{
    zero_error_t own;
    zero_pass(&own, ZERO_ERR_PEER, failure);
    if (own.rank < 0)
        own.rank = rank;
    return own;
}

void zero_comm_fail(zero_comm_t *c, const zero_error_t *failure)
{
    zero_error_t why;
    c->control->ops->abort(c, failure);
    if (!c->data || !c->data->failure)
        return;
    if (c->control->ops->check(c, &why) == ZERO_OK) /* another rank's failure may have been first */
        zero_pass(&why, ZERO_ERR_PEER, failure);
    c->data->failure(c, &why, NULL);
}

void zero_comm_destroy(zero_comm_t *comm)
{
    if (!comm)
        return;
    if (comm->data && comm->data->destroy)
        comm->data->destroy(comm);
    if (comm->control && !comm->borrowed)
        comm->control->ops->destroy(comm->control);
    free(comm);
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* After a failure the ranks are out of step. */
static zero_status_t begin(zero_comm_t *c, zero_error_t *error)
{
    zero_status_t status = zero_latch_check(&c->control->failed, error);
    return status || !c->data || !c->data->failure ? status : c->data->failure(c, NULL, error);
}

static zero_status_t begin_data(zero_comm_t *c, zero_error_t *error)
{
    return c->data ? begin(c, error)
                   : zero_fail(error, ZERO_ERR_UNSUPPORTED,
                               "ranks that torchrun started on several machines exchange data through NCCL only: start "
                               "CPU ranks, and those that share a GPU, with mpiexec");
}

/* Keeps the failure, unless the data half does that. */
static zero_status_t end_data(zero_comm_t *c, zero_status_t status, zero_error_t *why, zero_error_t *error)
{
    if (status && !c->data->failure)
        zero_latch_set(&c->control->failed, why);
    return zero_pass(error, status, why);
}

zero_status_t zero_comm_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                   zero_error_t *error)
{
    zero_error_t why; /* large, so it is written only on failure */
    zero_status_t status = begin_data(c, error);
    if (status)
        return status;
    status = c->data->all_gather(c, send, recv, bytes, native, &why);
    if (status == ZERO_OK)
        c->bytes_received += (uint64_t)(c->size - 1) * bytes;
    return end_data(c, status, &why, error);
}

zero_status_t zero_comm_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count, zero_dtype_t dtype,
                                       void *native, zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = begin_data(c, error);
    if (status)
        return status;
    status = c->data->reduce_scatter(c, send, recv, count, dtype, native, &why);
    if (status == ZERO_OK)
        c->bytes_reduced += (uint64_t)(c->size - 1) * (uint64_t)count * zero_dtype_size(dtype);
    return end_data(c, status, &why, error);
}

zero_status_t zero_comm_all_to_all(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                   zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = begin_data(c, error);
    if (status)
        return status;
    status = c->data->all_to_all(c, send, recv, bytes, native, &why);
    if (status == ZERO_OK)
        c->bytes_received += (uint64_t)(c->size - 1) * bytes;
    return end_data(c, status, &why, error);
}

static zero_status_t begin_transfer(zero_comm_t *c, const char *function, zero_error_t *error)
{
    return c->link
               ? begin_data(c, error)
               : zero_fail(error, ZERO_ERR_ARG, "%s needs a link: make the communicator with zero_comm_link", function);
}

zero_status_t zero_comm_send(zero_comm_t *c, const void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = begin_transfer(c, "zero_comm_send", error);
    if (status)
        return status;
    status = c->data->send(c, buf, bytes, native, &why);
    if (status == ZERO_OK)
        c->bytes_sent += bytes;
    return end_data(c, status, &why, error);
}

zero_status_t zero_comm_recv(zero_comm_t *c, void *buf, uint64_t bytes, void *native, zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = begin_transfer(c, "zero_comm_recv", error);
    if (status)
        return status;
    status = c->data->recv(c, buf, bytes, native, &why);
    if (status == ZERO_OK)
        c->bytes_arrived += bytes;
    return end_data(c, status, &why, error);
}

zero_status_t zero_comm_attach(zero_comm_t *c, void *base, uint64_t bytes, zero_error_t *error)
{
    return c->data && c->data->attach ? c->data->attach(c, base, bytes, error) : ZERO_OK;
}

/* ---- control ---------------------------------------------------------------------------------------------------- */

zero_status_t zero_control_exchange(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = begin(c, error);
    if (status)
        return status;
    status = c->control->ops->exchange(c, send, recv, bytes, &why);
    if (status)
        zero_latch_set(&c->control->failed, &why);
    return zero_pass(error, status, &why);
}

zero_status_t zero_comm_check(zero_comm_t *c, zero_error_t *error)
{
    zero_error_t why;
    bool own = c->data && c->data->failure;
    zero_status_t status = own ? c->data->failure(c, NULL, error) : ZERO_OK;
    if (status)
        return status;
    status = c->control->ops->check(c, &why);
    return own && status ? c->data->failure(c, &why, error) : zero_pass(error, status, &why);
}

void zero_comm_publish(zero_comm_t *c, uint64_t word)
{
    if (c->control->ops->publish)
        c->control->ops->publish(c, word);
}

uint64_t zero_comm_progress(const zero_comm_t *c, int rank)
{
    return c->control->ops->progress ? c->control->ops->progress(c, rank) : 0;
}

void zero_comm_resident(const zero_comm_t *c, uint64_t *own, uint64_t *others)
{
    *own = *others = 0;
    if (c->control->ops->resident)
        c->control->ops->resident(c, own, others);
    if (c->data && c->data->resident)
        *own += c->data->resident(c);
}

/* ---- split ------------------------------------------------------------------------------------------------------ */

static zero_status_t exchange_oob(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error)
{
    return zero_control_exchange(ctx, send, recv, bytes, error);
}

zero_oob_t zero_comm_oob(zero_comm_t *c)
{
    return (zero_oob_t){.rank = c->rank, .world = c->size, .all_gather = exchange_oob, .ctx = c};
}

enum { NO_PART = -1 }; /* a color */

typedef struct choice {
    int color, key, rank, link;
} choice_t;

static int compare_choices(const void *a, const void *b)
{
    const choice_t *x = a, *y = b;
    return x->key != y->key ? (x->key < y->key ? -1 : 1) : x->rank - y->rank;
}

/* Every rank has the same choices, so all fail alike. */
static zero_status_t check_choices(const zero_comm_t *comm, const choice_t *choices, zero_error_t *error)
{
    for (int r = 0; r < comm->size; r++) {
        int alike = 0;
        if (choices[r].link != choices[0].link)
            return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, comm->control->world[r],
                                    "rank %d makes links of a communicator, and rank %d splits it: make the same call",
                                    comm->control->world[choices[0].link ? 0 : r],
                                    comm->control->world[choices[0].link ? r : 0]);
        if (choices[r].color < NO_PART)
            return zero_fail_reason(error, ZERO_ERR_ARG, ZERO_REASON_NONE, comm->control->world[r],
                                    "rank %d splits a communicator with color %d: use 0 or more, or -1 for no part",
                                    comm->control->world[r], choices[r].color);
        for (int q = 0; q < comm->size && choices[r].link; q++)
            alike += choices[q].color == choices[r].color;
        if (choices[r].link && choices[r].color != NO_PART && alike != 2)
            return zero_fail(error, ZERO_ERR_ARG, "a link has two ranks, but color %d has %d", choices[r].color, alike);
    }
    return ZERO_OK;
}

static zero_status_t split(zero_comm_t *comm, int color, int key, bool link, zero_comm_t **out, const char *function,
                           zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = zero_comm_clear_out(out, function, error);
    if (status != ZERO_OK || !comm)
        return status != ZERO_OK ? status : zero_fail(error, ZERO_ERR_ARG, "%s has no communicator to split", function);
    zero_oob_t oob = zero_comm_oob(comm);
    choice_t own = {color, key, comm->rank, link}, *choices = calloc((size_t)comm->size, sizeof *choices);
    int *members = calloc((size_t)comm->size, sizeof *members);
    zero_comm_t *c = calloc(1, sizeof *c);
    zero_subset_t part = {.members = members, .link = link && color != NO_PART};
    if (!choices || !members || !c)
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory to split a communicator of %d ranks", comm->size);
    status = zero_oob_agree(&oob, status, &why);
    if (status == ZERO_OK)
        status = zero_control_exchange(comm, &own, choices, sizeof own, &why);
    if (status == ZERO_OK)
        status = check_choices(comm, choices, &why);
    if (status)
        goto done;
    qsort(choices, (size_t)comm->size, sizeof *choices, compare_choices);
    for (int i = 0; i < comm->size; i++) {
        /* A rank of no part takes the same steps as the others, for a part of its own, which ends here. */
        if (choices[i].color != color || (color == NO_PART && choices[i].rank != comm->rank))
            continue;
        if (choices[i].rank == comm->rank)
            part.rank = part.size;
        members[part.size++] = choices[i].rank;
    }
    c->rank = part.rank;
    c->size = part.size;
    c->link = part.link;
    c->options = comm->options;
    status = comm->control->ops->split(comm, &part, c, &why);
    if (status == ZERO_OK && comm->data && comm->data->split)
        status = comm->data->split(comm, &part, c, &why);
done:
    free(choices);
    free(members);
    if (status == ZERO_OK && color != NO_PART)
        *out = c;
    else
        zero_comm_destroy(c);
    return zero_pass(error, status, &why);
}

zero_status_t zero_comm_split(zero_comm_t *comm, int color, int key, zero_comm_t **out, zero_error_t *error)
{
    return split(comm, color, key, false, out, "zero_comm_split", error);
}

zero_status_t zero_comm_link(zero_comm_t *comm, int color, int key, zero_comm_t **out, zero_error_t *error)
{
    return split(comm, color, key, true, out, "zero_comm_link", error);
}
