/* SPDX-License-Identifier: Apache-2.0 */
/* ref.h - inside kernels/nn/ref: functions of rows.c and ref.c. */
#ifndef ZERO_NN_REF_H
#define ZERO_NN_REF_H

#include "kernels/nn/backend.h"

void zero_nn_ref_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);
void zero_nn_ref_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l);
void zero_nn_ref_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l);
void zero_nn_ref_gelu_forward(zero_nn_t *nn, void *y, const void *x, int64_t count, zero_dtype_t dtype);
void zero_nn_ref_gelu_backward(zero_nn_t *nn, void *dx, void *dbias, const void *dy, const void *x, int64_t rows,
                               int64_t n, zero_dtype_t dtype);

#endif
