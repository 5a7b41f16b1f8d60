/* SPDX-License-Identifier: Apache-2.0 */
/* tune.h - inside kernels/nn/cuda: the choice of cuBLASLt's algorithm for a product, read from a text or measured. */
#ifndef ZERO_NN_CUDA_TUNE_H
#define ZERO_NN_CUDA_TUNE_H

#include "kernels/nn/backend.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

/* The choice for one product, with or without bias. An algorithm's bytes are valid for one GPU and one version of
 * cuBLASLt. */
typedef struct zero_choice {
    int64_t d[ZERO_NN_DIMS]; /* of the product's shape */
    int32_t dtype, bias;
    cublasLtMatmulAlgo_t algo;
} zero_choice_t;

typedef struct zero_choices {
    char machine[320]; /* "NVIDIA H200, cuBLASLt 13.0.2" */
    bool measure;
    zero_choice_t *all;
    int count, room;
} zero_choices_t;

/* Reads the lines of text. A ZERO_ERR_ARG error names the bad line. */
zero_status_t zero_choices_read(zero_choices_t *choices, const char *text, zero_error_t *error);
/* Writes the same lines. The caller frees them. NULL: out of memory. */
char *zero_choices_write(const zero_choices_t *choices);
/* The choice for a product, or NULL. */
const zero_choice_t *zero_choices_find(const zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias);
/* Adds a choice. Returns false if out of memory. */
bool zero_choices_add(zero_choices_t *choices, const zero_nn_shape_t *shape, bool bias,
                      const cublasLtMatmulAlgo_t *algo);

/* A product in cuBLASLt's terms, with the bytes from an operand's first element to its last. */
typedef struct zero_timed {
    cublasLtHandle_t blas;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    uint64_t a_bytes, b_bytes, c_bytes, vector_bytes; /* vector_bytes: of a bias; 0: no bias */
    bool aux;                                         /* there is another operand with c's layout */
    float beta;
} zero_timed_t;

/* Runs each of count algorithms several times on temporary memory. *best is the index of the algorithm with the fastest
 * run. Algorithms that cannot run are skipped. */
cudaError_t zero_choices_measure(const zero_timed_t *product, const cublasLtMatmulHeuristicResult_t *found, int count,
                                 int *best);

#endif
