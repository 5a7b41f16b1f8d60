/* SPDX-License-Identifier: Apache-2.0 */
/* graph.c - turns repeated calls into CUDA graphs. The first run enqueues the calls: libraries then load their kernels
 * and find out which calls they refuse. The second run captures them. Every later run launches the graph. */
#include "kernels/nn/cuda/cuda.h"

#include <stdlib.h>

struct zero_nn_slot {
    bool warm;             /* the calls have run once */
    const void *workspace; /* that the graph's kernels use */
    cudaGraphExec_t graph; /* NULL: not captured */
};

/* Returns the slot, which it creates if new; NULL with the context's error. */
static zero_nn_slot_t *slot_of(zero_nn_t *nn, int number)
{
    zero_nn_cuda_t *cuda = nn->state;
    if (number < 0) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "slot %d of calls that repeat: slots count from 0", number);
        return NULL;
    }
    if (number >= cuda->slot_count) {
        const size_t count = (size_t)number + 1, old = (size_t)cuda->slot_count;
        zero_nn_slot_t *slots = realloc(cuda->slots, count * sizeof *slots);
        if (slots == NULL) {
            zero_nn_fail(nn, ZERO_ERR_MEMORY, "no memory for %zu slots of calls that repeat", count);
            return NULL;
        }
        memset(slots + old, 0, (count - old) * sizeof *slots);
        cuda->slots = slots;
        cuda->slot_count = number + 1;
    }
    return &cuda->slots[number];
}

static void drop(zero_nn_slot_t *slot)
{
    if (slot->graph != NULL)
        cudaGraphExecDestroy(slot->graph);
    slot->graph = NULL;
}

/* Captures the calls into slot->graph. On failure nothing is enqueued, the context has no error, and the log receives
 * the reason. There is no other capture, since it would fail the same way. */
static void capture(zero_nn_t *nn, zero_nn_slot_t *slot, void (*calls)(void *ctx), void *ctx)
{
    zero_nn_cuda_t *cuda = nn->state;
    cudaGraph_t graph = NULL;
    cudaError_t status = cudaStreamBeginCapture(zero_nn_cuda_stream(nn), cudaStreamCaptureModeThreadLocal);
    if (status == cudaSuccess) {
        cuda->capturing = true;
        calls(ctx);
        cuda->capturing = false;
        status = cudaStreamEndCapture(zero_nn_cuda_stream(nn), &graph);
    }
    if (status == cudaSuccess && nn->error.status == ZERO_OK)
        status = cudaGraphInstantiate(&slot->graph, graph, 0);
    if (graph != NULL)
        cudaGraphDestroy(graph);
    if (status == cudaSuccess && nn->error.status == ZERO_OK) {
        slot->workspace = nn->workspace;
        return;
    }
    slot->graph = NULL;
    cuda->graphs_refused = true;
    zero_nn_warn(nn, "the host launches kernels one by one, not as CUDA graphs, since a capture failed: %s",
                 nn->error.status != ZERO_OK ? nn->error.text : cudaGetErrorString(status));
    zero_nn_status(nn, NULL);
    cudaGetLastError(); /* otherwise the next launch would report it */
}

void zero_nn_cuda_repeat(zero_nn_t *nn, int number, void (*calls)(void *ctx), void *ctx)
{
    zero_nn_cuda_t *cuda = nn->state;
    zero_nn_slot_t *slot = slot_of(nn, number);
    if (slot == NULL || nn->dry || nn->error.status != ZERO_OK) {
        calls(ctx);
        return;
    }
    if (slot->graph != NULL && slot->workspace != nn->workspace)
        drop(slot);
    if (slot->graph == NULL && slot->warm && !cuda->graphs_refused)
        capture(nn, slot, calls, ctx);
    if (slot->graph == NULL) {
        calls(ctx);
        slot->warm = nn->error.status == ZERO_OK;
        return;
    }
    const cudaError_t status = cudaGraphLaunch(slot->graph, zero_nn_cuda_stream(nn));
    if (status != cudaSuccess)
        zero_nn_fail(nn, ZERO_ERR_SYSTEM, "the graph of slot %d of calls that repeat: cudaGraphLaunch: %s (%s)", number,
                     cudaGetErrorString(status), cudaGetErrorName(status));
}

void zero_nn_cuda_drop_graphs(zero_nn_cuda_t *cuda)
{
    for (int i = 0; i < cuda->slot_count; i++)
        drop(&cuda->slots[i]);
    free(cuda->slots);
    cuda->slots = NULL;
    cuda->slot_count = 0;
}
