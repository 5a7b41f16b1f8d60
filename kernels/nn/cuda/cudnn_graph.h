/* SPDX-License-Identifier: Apache-2.0 */
/* cudnn_graph.h - inside kernels/nn/cuda, for cudnn.c and sdpa.c: graphs of cuDNN's backend interface. */
#ifndef ZERO_NN_CUDA_CUDNN_GRAPH_H
#define ZERO_NN_CUDA_CUDNN_GRAPH_H

#include "kernels/nn/cuda/cudnn.h"

#include <cudnn.h>

/* The descriptors of a graph under construction. After the first failed call the others do nothing. */
typedef struct zero_graph {
    zero_cudnn_t *cudnn;
    cudnnBackendDescriptor_t all[128], operations[40];
    int count, operation_count;
    int64_t virtuals;     /* number of the last tensor that exists only inside the graph */
    cudnnDataType_t type; /* of the tensors that are not fp32 */
    cudnnStatus_t status;
    const char *call; /* the call that failed */
} zero_graph_t;

typedef struct zero_graph_dims {
    int64_t size[4], stride[4];
} zero_graph_dims_t;

/* Creates a tensor. number identifies it in calls; 0: it exists only inside the graph. by_value: an fp32 in host
 * memory. */
cudnnBackendDescriptor_t zero_graph_tensor(zero_graph_t *g, int64_t number, cudnnDataType_t type,
                                           zero_graph_dims_t dims, bool by_value);
/* y = mode(x, b). CUDNN_POINTWISE_BINARY_SELECT also takes t (t ? x : b). Unused arguments are NULL. precision: of the
 * computation. axis: of CUDNN_POINTWISE_GEN_INDEX, otherwise -1. */
void zero_graph_pointwise(zero_graph_t *g, cudnnPointwiseMode_t mode, cudnnDataType_t precision,
                          cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t t,
                          cudnnBackendDescriptor_t y, int64_t axis);
/* y = x reduced over the dimensions in which y has size 1 (or a divisor of x's size). */
void zero_graph_reduce(zero_graph_t *g, cudnnReduceTensorOp_t operation, cudnnBackendDescriptor_t x,
                       cudnnBackendDescriptor_t y);
void zero_graph_matmul(zero_graph_t *g, cudnnBackendDescriptor_t a, cudnnBackendDescriptor_t b,
                       cudnnBackendDescriptor_t c);
/* y = x with other sizes and strides. */
void zero_graph_reshape(zero_graph_t *g, cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t y);

/* Creates the first plan from cuDNN's heuristic that this GPU can run and that is not known to change bits from run to
 * run. Always frees the graph. */
zero_status_t zero_graph_plan(zero_graph_t *g, cudnnBackendDescriptor_t *plan, int64_t *workspace, zero_error_t *error);
void zero_graph_plan_destroy(zero_cudnn_t *cudnn, cudnnBackendDescriptor_t plan);
/* Enqueues the plan with the addresses of its tensors, by number. */
zero_status_t zero_graph_run(zero_cudnn_t *cudnn, cudnnBackendDescriptor_t plan, int count, const int64_t *numbers,
                             void *const *addresses, void *workspace, zero_error_t *error);

#endif
