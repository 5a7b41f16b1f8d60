/* SPDX-License-Identifier: Apache-2.0 */
/* tune.h - inside kernels/nn/cuda: which of cuBLASLt's algorithms computes a product, as read from a text or measured.
 */
#ifndef ZERO_NN_CUDA_TUNE_H
#define ZERO_NN_CUDA_TUNE_H

#include "kernels/nn/backend.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

/* One product: bias counts, too. An algorithm's bytes are for one GPU and one version of cuBLASLt. */
typedef struct zero_choice {
    int64_t d[ZERO_NN_DIMS]; /* of its shape */
    int32_t dtype, bias;
    cublasLtMatmulAlgo_t algo;
} zero_choice_t;

typedef struct zero_choices {
    char machine[320]; /* "NVIDIA H200, cuBLASLt 13.0.2" */
    bool measure;
    zero_choice_t *all;
    int count, room;
} zero_choices_t;

/* The lines of text. ZERO_ERR_ARG names the line. */
zero_status_t zero_choices_read(zero_choices_t *choices, const char *text, zero_error_t *error);
/* The same lines; the caller frees them. NULL: no memory. */
char *zero_choices_write(const zero_choices_t *choices);
/* The choice for a product, or NULL. */
const zero_choice_t *zero_choices_find(const zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias);
/* Keeps a choice; false where there is no memory. */
bool zero_choices_add(zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias,
                      const cublasLtMatmulAlgo_t *algo);

/* A product as cuBLASLt has it, with the bytes from an operand's first element to its last. */
typedef struct zero_timed {
    cublasLtHandle_t blas;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    uint64_t a_bytes, b_bytes, c_bytes, vector_bytes; /* vector_bytes: of a bias, 0: none */
    bool aux;                                         /* another operand that lies as c does */
    float beta;
} zero_timed_t;

/* Runs each of count algorithms some times on memory of its own: *best is the index of the fastest, by its fastest run.
 * One that cannot run is left out. */
cudaError_t zero_choices_measure(const zero_timed_t *product, const cublasLtMatmulHeuristicResult_t *found, int count,
                                 int *best);

#endif
