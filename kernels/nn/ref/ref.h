/* SPDX-License-Identifier: Apache-2.0 */
/* ref.h - inside kernels/nn/ref: functions of rows.c and ref.c. */
#ifndef ZERO_NN_REF_H
#define ZERO_NN_REF_H

#include "kernels/nn/backend.h"

void zero_nn_ref_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype);
void zero_nn_ref_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l);
void zero_nn_ref_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l);
void zero_nn_ref_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                             zero_dtype_t dtype);
void zero_nn_ref_act_backward(zero_nn_t *nn, const zero_nn_act_grad_t *a);
void zero_nn_ref_gated_forward(zero_nn_t *nn, const zero_nn_gated_t *g);
void zero_nn_ref_gated_backward(zero_nn_t *nn, const zero_nn_gated_t *g);
void zero_nn_ref_put_rows(zero_nn_t *nn, const zero_nn_put_t *p);
void zero_nn_ref_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r);

#endif
