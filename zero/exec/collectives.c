/* SPDX-License-Identifier: Apache-2.0 */
/* collectives.c - COLLECTIVE: what the caller's ranks exchange of their own memory while they hold a unit. */
#include "zero/exec/internal.h"

#include <stdio.h>

static const zero_spec_collective_t *declared(const zero_exec_t *x, const zero_op_t *op)
{
    return zero_plan_collective(x->plan, x->plan->programs[op->program].pass, op->use, op->flags);
}

zero_exec_collective_text_t zero_exec_collective_text(const zero_spec_collective_t *c)
{
    static const char *const names[] = {"gather", "reduce-scatter", "sum"};
    zero_exec_collective_text_t t;
    snprintf(t.s, sizeof t.s, "%s of %lld elements of %s%s", names[c->kind], (long long)c->count,
             zero_dtype_name(c->dtype), c->axis == ZERO_AXIS_CONTEXT ? " along context" : "");
    return t;
}

/* The address of this rank's part of a buffer that has one for each rank. */
static void *own(const zero_comm_t *comm, void *all, uint64_t bytes)
{
    return (char *)all + (uint64_t)comm->rank * bytes;
}

zero_status_t zero_exec_run_collective(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error)
{
    const zero_spec_collective_t *c = declared(x, op);
    const void *send = x->collective.send;
    void *recv = x->collective.recv;
    zero_comm_t *comm = x->comms[op->group][0];
    const uint64_t bytes = (uint64_t)c->count * zero_dtype_size(c->dtype),
                   before = comm->bytes_received + comm->bytes_reduced;
    const int64_t part = c->count / comm->size;
    zero_status_t status;
    /* Ranks of a stage have the same plan, and each rank's call is the declared one. So only their places in it can
     * differ. */
    x->collective.note.key =
        zero_splitmix64(zero_exec_word(x, op->program, (int32_t)(op - x->plan->programs[op->program].ops)));
    comm->note = &x->collective.note;
    switch (c->kind) {
    case ZERO_COLLECTIVE_GATHER:
        status = zero_comm_all_gather(comm, send, recv, bytes, native, error);
        break;
    case ZERO_COLLECTIVE_REDUCE_SCATTER:
        status = zero_comm_reduce_scatter(comm, send, recv, c->count, c->dtype, native, error);
        break;
    default: { /* each rank sums its part, in place if send is recv */
        const uint64_t share = bytes / (uint64_t)comm->size;
        status = zero_comm_reduce_scatter(comm, send, own(comm, recv, share), part, c->dtype, native, error);
        if (status == ZERO_OK)
            status = zero_comm_all_gather(comm, own(comm, recv, share), recv, share, native, error);
    }
    }
    zero_exec_count(x, op->stream, ZERO_COUNT_COLLECTED, comm->bytes_received + comm->bytes_reduced - before);
    return status;
}
