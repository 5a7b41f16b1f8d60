/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2_backward.c - the backward pass of a GPT-2 layer. It recomputes the activations that the recompute mode dropped,
 * with the kernels of the forward pass, so every mode gives the same bits. There is one exception: if a GPU computes
 * GELU within a product, the selective mode rounds the input of GELU first and gives other bits. */
#include "models/gpt2.h"

#include <math.h>

/* dw (in, out) += x^T dy, dx (rows, in) = dy w^T; x (rows, in), dy (rows, out). With GELU_BACKWARD x is the GELU of aux
 * (rows, in), dx is the gradient of aux, and dbias (in) += column sums of dx. */
static void linear_backward(zero_model_t *m, void *dx, const void *dy, const void *x, const zero_gpt2_param_t *w,
                            int64_t rows, int64_t in, int64_t out, zero_nn_epilogue_t epilogue, void *aux, void *dbias)
{
    const zero_dtype_t dtype = m->options.dtype;

    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = in,
                                          .n = out,
                                          .k = rows,
                                          .trans_a = true,
                                          .accumulate = true,
                                          .dtype = dtype,
                                          .a = x,
                                          .b = dy,
                                          .c = w->grad});
    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                          .n = in,
                                          .k = out,
                                          .trans_b = true,
                                          .dtype = dtype,
                                          .a = dy,
                                          .b = w->data,
                                          .c = dx,
                                          .epilogue = epilogue,
                                          .aux = aux,
                                          .dbias = dbias});
}

/* The gradient of a bias is the sum of its dy over rows. A call that processes this dy anyway adds it up: GELU's
 * gradient writes the dy of fc, and attention's gradient writes the dy of qkv. Norm 2's gradient writes the dy of
 * attention's projection and reads the dy of the MLP's. */
void zero_gpt2_layer_backward(zero_model_t *m, int64_t l)
{
    const zero_model_config_t *c = &m->config;
    const int64_t B = m->options.micro_batch, T = m->options.seq_len, rows = B * T, C = c->width, F = c->hidden,
                  D = C / c->heads;
    const zero_dtype_t dtype = m->options.dtype;
    const bool selective = m->options.recompute == ZERO_RECOMPUTE_SELECTIVE;
    const zero_gpt2_layer_t *a = &m->layers[l];
    const zero_gpt2_param_t *p = zero_gpt2_layer_param(m, l, 0);

    if (m->options.recompute == ZERO_RECOMPUTE_FULL)
        zero_gpt2_layer_forward(m, l, a, m->x[l], NULL, B, T);

    /* MLP: dx -> dfc (in wide) -> dnorm2 (in narrow) -> + dx */
    if (selective)
        zero_nn_act_forward(m->nn, ZERO_NN_GELU_NEW, a->gelu, a->fc, rows * F, dtype);
    linear_backward(m, m->wide, m->dx, a->gelu, &p[GPT2_OUT_W], rows, F, C, ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD, a->fc,
                    p[GPT2_FC_B].grad);
    if (selective)
        zero_nn_norm_forward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                      .C = C,
                                                      .eps = c->norm_eps,
                                                      .dtype = dtype,
                                                      .x = a->mid,
                                                      .w = p[GPT2_LN2_W].data,
                                                      .b = p[GPT2_LN2_B].data,
                                                      .y = a->norm2});
    linear_backward(m, m->narrow, m->wide, a->norm2, &p[GPT2_FC_W], rows, C, F, ZERO_NN_EPILOGUE_NONE, NULL, NULL);
    zero_nn_norm_backward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                   .C = C,
                                                   .dtype = dtype,
                                                   .x = a->mid,
                                                   .w = p[GPT2_LN2_W].data,
                                                   .mean = a->mean2,
                                                   .rstd = a->rstd2,
                                                   .dy = m->narrow,
                                                   .dresidual = m->dx,
                                                   .dx = m->dx,
                                                   .dw = p[GPT2_LN2_W].grad,
                                                   .db = p[GPT2_LN2_B].grad,
                                                   .dbias = p[GPT2_PROJ_B].grad,
                                                   .dbias_residual = p[GPT2_OUT_B].grad});

    /* attention: dx -> dattention (in narrow) -> dqkv (in wide) -> dnorm1 (in narrow) -> + dx */
    linear_backward(m, m->narrow, m->dx, a->attention, &p[GPT2_PROJ_W], rows, C, C, ZERO_NN_EPILOGUE_NONE, NULL, NULL);
    zero_nn_attention_backward(m->nn,
                               &(zero_nn_attention_t){.B = B,
                                                      .T = T,
                                                      .H = c->heads,
                                                      .KV = c->heads,
                                                      .D = D,
                                                      .q_stride = 3 * C,
                                                      .k_stride = 3 * C,
                                                      .v_stride = 3 * C,
                                                      .scale = 1.0 / sqrt((double)D),
                                                      .causal = true,
                                                      .dtype = dtype,
                                                      .q = a->qkv,
                                                      .k = zero_gpt2_at(m, a->qkv, C),
                                                      .v = zero_gpt2_at(m, a->qkv, 2 * C),
                                                      .out = a->attention,
                                                      .lse = a->lse},
                               m->narrow, m->wide, zero_gpt2_at(m, m->wide, C), zero_gpt2_at(m, m->wide, 2 * C),
                               p[GPT2_QKV_B].grad);
    if (selective)
        zero_nn_norm_forward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                      .C = C,
                                                      .eps = c->norm_eps,
                                                      .dtype = dtype,
                                                      .x = m->x[l],
                                                      .w = p[GPT2_LN1_W].data,
                                                      .b = p[GPT2_LN1_B].data,
                                                      .y = a->norm1});
    linear_backward(m, m->narrow, m->wide, a->norm1, &p[GPT2_QKV_W], rows, C, 3 * C, ZERO_NN_EPILOGUE_NONE, NULL, NULL);
    zero_nn_norm_backward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                   .C = C,
                                                   .dtype = dtype,
                                                   .x = m->x[l],
                                                   .w = p[GPT2_LN1_W].data,
                                                   .mean = a->mean1,
                                                   .rstd = a->rstd1,
                                                   .dy = m->narrow,
                                                   .dresidual = m->dx,
                                                   .dx = m->dx,
                                                   .dw = p[GPT2_LN1_W].grad,
                                                   .db = p[GPT2_LN1_B].grad});
}
