/* SPDX-License-Identifier: Apache-2.0 */
/* cudnn.h - inside kernels/nn/cuda: cuDNN, opened on first use (cudnn.c), and attention in bf16 and fp16 as a cuDNN
 * graph (sdpa.c). In a build without cuDNN's headers zero_cudnn_open returns an error. */
#ifndef ZERO_NN_CUDA_CUDNN_H
#define ZERO_NN_CUDA_CUDNN_H

#include "kernels/nn/backend.h"

typedef struct zero_cudnn zero_cudnn_t;
typedef struct zero_sdpa zero_sdpa_t;

/* Opens the libcudnn.so of the major version at compile time, which stays open, and creates a handle for the thread's
 * current GPU and a stream (cudaStream_t). properties: NULL; or the properties of a GPU in cuDNN's JSON format, which
 * needs no GPU but can run nothing. ZERO_ERR_UNSUPPORTED: this build lacks cuDNN, or the library is missing or too
 * old. */
zero_status_t zero_cudnn_open(zero_cudnn_t **cudnn, const char *properties, void *stream, zero_error_t *error);
void zero_cudnn_close(zero_cudnn_t *cudnn);
/* Sets the stream for later work. */
zero_status_t zero_cudnn_set_stream(zero_cudnn_t *cudnn, void *stream, zero_error_t *error);
/* The version of the opened library: 91900 for 9.19.0. */
uint64_t zero_cudnn_version(const zero_cudnn_t *cudnn);

/* Creates a plan for ZERO_NN_ATTN_FORWARD or _BACKWARD of this shape in bf16 or fp16, and gives the bytes of its
 * workspace. ZERO_ERR_UNSUPPORTED: cuDNN has no plan that gives the same bits in each run, or the plan needs too much
 * workspace. */
zero_status_t zero_sdpa_create(zero_sdpa_t **sdpa, zero_cudnn_t *cudnn, const zero_nn_shape_t *shape,
                               uint64_t *workspace, zero_error_t *error);
void zero_sdpa_destroy(zero_sdpa_t *sdpa);
/* Enqueues the call. g: NULL for forward. All buffers must be multiples of 16 bytes, otherwise ZERO_ERR_ARG. */
zero_status_t zero_sdpa_run(const zero_sdpa_t *sdpa, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                            void *workspace, zero_error_t *error);

#endif
