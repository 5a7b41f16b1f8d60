/* SPDX-License-Identifier: Apache-2.0 */
/* cudnn.h - inside kernels/nn/cuda: cuDNN, opened where it is first needed (cudnn.c), and attention in bf16 as one of
 * its graphs (sdpa.c). In a build without its headers nothing of it is there, which zero_cudnn_open says. */
#ifndef ZERO_NN_CUDA_CUDNN_H
#define ZERO_NN_CUDA_CUDNN_H

#include "kernels/nn/backend.h"

typedef struct zero_cudnn zero_cudnn_t;
typedef struct zero_sdpa zero_sdpa_t;

/* Opens libcudnn.so of the major version that this was compiled with, which stays open, and makes a handle for the
 * thread's current GPU and a stream (cudaStream_t). properties: NULL; or a GPU's properties as cuDNN writes them in
 * JSON, and then no GPU is needed, but nothing can run. ZERO_ERR_UNSUPPORTED: this build has it not, or the library is
 * not there or too old. */
zero_status_t zero_cudnn_open(zero_cudnn_t **cudnn, const char *properties, void *stream, zero_error_t *error);
void zero_cudnn_close(zero_cudnn_t *cudnn);
/* Another stream for what runs from here on. */
zero_status_t zero_cudnn_set_stream(zero_cudnn_t *cudnn, void *stream, zero_error_t *error);
/* Of the library that was opened: 91900 for 9.19.0. */
uint64_t zero_cudnn_version(const zero_cudnn_t *cudnn);

/* A plan for ZERO_NN_ATTN_FORWARD or _BACKWARD of this shape in bf16, and the bytes of workspace that it needs.
 * ZERO_ERR_UNSUPPORTED where cuDNN has none that gives the same bits in each run, or it wants too much workspace. */
zero_status_t zero_sdpa_create(zero_sdpa_t **sdpa, zero_cudnn_t *cudnn, const zero_nn_shape_t *shape,
                               uint64_t *workspace, zero_error_t *error);
void zero_sdpa_destroy(zero_sdpa_t *sdpa);
/* Queues the call. g: NULL forward. Everything begins at multiples of 16 bytes, ZERO_ERR_ARG otherwise. */
zero_status_t zero_sdpa_run(const zero_sdpa_t *sdpa, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                            void *workspace, zero_error_t *error);

#endif
