/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - inside kernels/nn/cuda: the kernels of the .cu files, for cuda.c and gemm.c. Each function launches on a
 * stream and returns at once with the status of the launch. nn.c has checked the sizes. Buffers are in device memory.
 * Tokens, targets and losses may also be in page-locked host memory, at its device address. The order of a sum depends
 * only on the shape. */
#ifndef ZERO_NN_CUDA_KERNELS_H
#define ZERO_NN_CUDA_KERNELS_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/nn/backend.h"

/* Loads the plugin's kernels on the current GPU (kernels/cuda/launch.h). */
cudaError_t zero_nn_cuda_load_kernels(void);

/* act.cu. The backward passes ignore dbias. */
cudaError_t zero_nn_cuda_act_forward(zero_nn_activation_t act, void *y, const void *x, int64_t count,
                                     zero_dtype_t dtype, cudaStream_t stream);
cudaError_t zero_nn_cuda_act_backward(const zero_nn_act_grad_t *a, cudaStream_t stream);
cudaError_t zero_nn_cuda_gated_forward(const zero_nn_gated_t *g, cudaStream_t stream);
cudaError_t zero_nn_cuda_gated_backward(const zero_nn_gated_t *g, cudaStream_t stream);

/* rotary.cu */
cudaError_t zero_nn_cuda_rotary(const zero_nn_rotary_t *r, cudaStream_t stream);

/* elements.cu */
cudaError_t zero_nn_cuda_add(void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype,
                             cudaStream_t stream);
/* y = factor * x. */
cudaError_t zero_nn_cuda_scale(void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype,
                               cudaStream_t stream);
/* y = alpha * a + beta * b. */
cudaError_t zero_nn_cuda_combine(float *y, float alpha, const float *a, float beta, const float *b, int64_t count,
                                 cudaStream_t stream);
/* y = x / max(|x|, least); partial: ZERO_NN_CUDA_SQUARES sums. */
enum { ZERO_NN_CUDA_SQUARES = 256 };
cudaError_t zero_nn_cuda_normalize(float *y, double *partial, const float *x, int64_t count, float least,
                                   cudaStream_t stream);
/* A row whose place is not in y goes nowhere: a graph that runs again reads places that nothing has checked. */
cudaError_t zero_nn_cuda_put_rows(const zero_nn_put_t *p, cudaStream_t stream);
cudaError_t zero_nn_cuda_add_sums(void *y, const float *sums, int64_t count, zero_dtype_t dtype, cudaStream_t stream);

/* product.cu: any product, slowly. */
cudaError_t zero_nn_cuda_product(const zero_nn_gemm_t *g, cudaStream_t stream);

/* sums.cu: a sum of (rows, n) over rows goes through partial sums in fp32, one for each part of the rows: partial
 * (parts, n). */
int64_t zero_nn_cuda_sum_parts(int64_t rows);
/* dbias (n) += column sums of dy, in two launches. */
cudaError_t zero_nn_cuda_bias_backward(void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype,
                                       float *partial, cudaStream_t stream);
/* The first of these launches also computes dx (rows, n) = dy * act'(x). dbias += column sums of dx. */
cudaError_t zero_nn_cuda_act_bias_backward(const zero_nn_act_grad_t *a, float *partial, cudaStream_t stream);
/* Each of outs (n) += the sum over parts of its n columns of partial (parts, count, n), rounded once. NULL: skip. */
#define ZERO_NN_CUDA_SUMS 4 /* the largest number of outs */
cudaError_t zero_nn_cuda_add_parts(void *const *outs, int count, const float *partial, int64_t parts, int64_t n,
                                   zero_dtype_t dtype, cudaStream_t stream);

/* norm.cu. The backward pass needs parts (as above) of ZERO_NN_CUDA_SUMS C floats: sums for dw, db, dbias_residual and
 * dbias. Without the two biases it needs only the first two, or for RMS norm one. */
cudaError_t zero_nn_cuda_norm_forward(const zero_nn_norm_t *l, cudaStream_t stream);
int64_t zero_nn_cuda_norm_parts(int64_t rows, int64_t C, int64_t groups); /* groups may be 0 */
cudaError_t zero_nn_cuda_norm_backward(const zero_nn_norm_t *l, float *partial, cudaStream_t stream);

/* embedding.cu */
cudaError_t zero_nn_cuda_embedding_forward(const zero_nn_embedding_t *e, cudaStream_t stream);
/* tokens, order: the results of zero_nn_cuda_sort for e->tokens. */
cudaError_t zero_nn_cuda_embedding_backward(const zero_nn_embedding_t *e, const int32_t *tokens, const int32_t *order,
                                            cudaStream_t stream);

/* sort.cu: a stable radix sort of rows by token. The tokens are in from (rows), in [0, bound). *tokens (rows) receives
 * the sorted tokens and *order (rows) the row of each. Both are in the workspace. */
uint64_t zero_nn_cuda_sort_workspace(int64_t rows);
cudaError_t zero_nn_cuda_sort(void *workspace, const int32_t *from, int64_t rows, int64_t bound, const int32_t **tokens,
                              const int32_t **order, cudaStream_t stream);

/* entropy.cu: all three calls; local has stats, combine has all. */
cudaError_t zero_nn_cuda_entropy(const zero_nn_entropy_t *e, cudaStream_t stream);

/* attention.cu, attention_one.cu (if T is 1), attention_grad.cu: our own kernels, for heads of up to ZERO_NN_CUDA_HEAD
 * elements. ranges, if not NULL, are a copy on the GPU. Backward needs a workspace of this many floats. */
#define ZERO_NN_CUDA_HEAD 256
cudaError_t zero_nn_cuda_attention_forward(const zero_nn_attention_t *a, cudaStream_t stream);
cudaError_t zero_nn_cuda_attention_one(const zero_nn_attention_t *a, cudaStream_t stream);
int64_t zero_nn_cuda_attention_workspace(int64_t B, int64_t T, int64_t H, int64_t KV, int64_t D);
cudaError_t zero_nn_cuda_attention_backward(const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                                            float *workspace, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
