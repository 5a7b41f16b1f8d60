/* SPDX-License-Identifier: Apache-2.0 */
/* links.c - the links between the stages of a pipeline: communicators of two ranks, each for one direction of
 * activations or of their gradients. Each has a stream of its own, so that no transfer waits behind another one. */
#include "zero/exec/internal.h"

/* Ranks of neighbouring stages are pairs. A split makes disjoint communicators, so pairs with a stage in common are in
 * different ones: those after even stages, those after odd stages, and with an odd number of stages the one from the
 * last to the first. */
static int turn_of(int pipes, int pair)
{
    return pair == pipes - 1 && pipes % 2 == 1 ? 2 : pair % 2;
}

/* The pairs of this rank's stage: with the stage before, and with the next one. */
static zero_status_t split(zero_exec_t *x, int turn, zero_stream_id_t from, zero_stream_id_t to, zero_error_t *error)
{
    const zero_spec_t *spec = x->plan->spec;
    const int pipes = spec->mesh.pipe, own = x->plan->pipe, before = (own + pipes - 1) % pipes;
    const int local = x->rank % zero_plan_copies(spec);
    const bool down = to == ZERO_STREAM_TO_NEXT; /* from the stage before to the next one */
    const int pair = turn_of(pipes, own) == turn ? own : turn_of(pipes, before) == turn ? before : -1;
    /* The first of a pair is the stage before. Its end sends if the link goes down. */
    const zero_stream_id_t stream = (pair == own) == down ? to : from;
    const bool used = pair >= 0 && zero_plan_uses(x->plan, stream);
    zero_comm_t *link = NULL;
    zero_status_t status =
        zero_comm_link(x->comm, used ? pair * zero_plan_copies(spec) + local : -1, pair == own ? 0 : 1, &link, error);
    if (link)
        x->links[stream - ZERO_STREAM_FROM_PREV] = link;
    return status;
}

zero_status_t zero_exec_open_links(zero_exec_t *x, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    const int pipes = x->plan->spec->mesh.pipe;
    /* Links of host memory have threads of their own. */
    if (pipes > 1 && x->comm->caps.host_pointers && x->comm->control->one_thread)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "a pipeline of %d stages on several nodes needs MPI with MPI_THREAD_MULTIPLE, which this MPI "
                         "does not provide: set config.mesh.pipe to 1, or use another MPI",
                         pipes);
    /* A data half without failures in flight works on the calling thread, where a receive blocks the sends after it. */
    if (pipes > 1 && !x->comm->caps.host_pointers && x->comm->data->failure == NULL)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "a pipeline of %d stages on GPUs needs NCCL, with a GPU for each rank, but config.comm moves "
                         "data through host memory: set config.mesh.pipe to 1, or use zero_comm_nccl",
                         pipes);
    for (int turn = 0; turn < 2 + pipes % 2 && pipes > 1 && status == ZERO_OK; turn++) {
        status = split(x, turn, ZERO_STREAM_FROM_PREV, ZERO_STREAM_TO_NEXT, error);
        if (status == ZERO_OK)
            status = split(x, turn, ZERO_STREAM_FROM_NEXT, ZERO_STREAM_TO_PREV, error);
    }
    return status;
}

zero_status_t zero_exec_transfer(zero_exec_t *x, const zero_op_t *op, void *native, zero_error_t *error)
{
    zero_comm_t *link = x->links[op->stream - ZERO_STREAM_FROM_PREV];
    const zero_buffer_t *buffer = &x->plan->buffers[op->kind == ZERO_OP_SEND ? op->src : op->dst];
    void *memory = x->base[op->kind == ZERO_OP_SEND ? op->src : op->dst];
    if (op->kind == ZERO_OP_SEND)
        return zero_comm_send(link, memory, buffer->bytes, native, error);
    zero_status_t status = zero_comm_recv(link, memory, buffer->bytes, native, error);
    if (status == ZERO_OK)
        zero_exec_count(x, op->stream,
                        op->stream == ZERO_STREAM_FROM_PREV ? ZERO_COUNT_ACTIVATIONS_RECEIVED
                                                            : ZERO_COUNT_GRADIENTS_RECEIVED,
                        op->bytes);
    return status;
}
