/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - inside kernels/nn/cuda, for .c files: the state of a context, and errors. */
#ifndef ZERO_NN_CUDA_CUDA_H
#define ZERO_NN_CUDA_CUDA_H

#include "kernels/nn/cuda/cudnn.h"
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/tune.h"

#include <cublasLt.h>

/* The largest workspace for a product: cuBLAS recommends it for Hopper. */
#define ZERO_NN_CUDA_BLAS_WORKSPACE ((uint64_t)32 << 20)

typedef struct zero_nn_slot zero_nn_slot_t;

typedef struct zero_nn_cuda {
    cublasLtHandle_t blas;
    zero_choices_t choices;
    bool gelu;             /* whether cuBLASLt computes GELU fast on this GPU (gemm.c) */
    bool cudnn_asked;      /* whether cuDNN was looked for, which the first attention in 16 bits does */
    zero_cudnn_t *cudnn;   /* NULL: not looked for, or missing */
    bool told[2];          /* whether the log says why our own kernels compute attention, forward and backward */
    bool told_ranges[2];   /* whether the log says that cuDNN does not compute attention with ranges */
    zero_nn_slot_t *slots; /* of zero_nn_repeat (graph.c) */
    int slot_count;
    bool capturing;      /* the stream is being captured: a failed call must not change the choice of implementation */
    bool graphs_refused; /* a capture failed: make no more */
    int label_end;       /* the end of nn->label before the part about cuDNN */
} zero_nn_cuda_t;

static inline cudaStream_t zero_nn_cuda_stream(const zero_nn_t *nn)
{
    return (cudaStream_t)nn->stream;
}

/* Keeps the error of a call that failed in nn->plan: "add (5) in fp32: its kernel: out of memory
 * (cudaErrorMemoryAllocation)". */
void zero_nn_cuda_check(zero_nn_t *nn, const char *call, cudaError_t status);

/* Products (gemm.c). open and close manage the library's handle. plan creates descriptors and selects an algorithm for
 * the shape, with and without a bias. It returns ZERO_ERR_UNSUPPORTED for an epilogue that is faster as a separate
 * call. unplan frees them. */
zero_status_t zero_nn_cuda_blas_open(zero_nn_cuda_t *cuda, zero_error_t *error);
void zero_nn_cuda_blas_close(zero_nn_cuda_t *cuda);
zero_status_t zero_nn_cuda_gemm_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error);
void zero_nn_cuda_gemm_unplan(zero_nn_plan_t *plan);
/* The name of the implementation of a product's plan. */
const char *zero_nn_cuda_gemm_maker(const zero_nn_plan_t *plan);
void zero_nn_cuda_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g);

/* CUDA graphs (graph.c): zero_nn_repeat, and its cleanup. */
void zero_nn_cuda_repeat(zero_nn_t *nn, int slot, void (*calls)(void *ctx), void *ctx);
void zero_nn_cuda_drop_graphs(zero_nn_cuda_t *cuda);

#endif
