/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2_forward.c - the forward pass of GPT-2 (Radford et al. 2019). It computes the same as Hugging Face's
 * GPT2LMHeadModel without dropout. */
#include "models/gpt2.h"

#include <math.h>

void zero_gpt2_linear(zero_model_t *m, void *y, const void *x, const zero_gpt2_param_t *w, const zero_gpt2_param_t *b,
                      int64_t rows, int64_t in, int64_t out)
{
    zero_nn_gemm(
        m->nn,
        &(zero_nn_gemm_t){
            .m = rows, .n = out, .k = in, .dtype = m->options.dtype, .a = x, .b = w->data, .bias = b->data, .c = y});
}

void zero_gpt2_layer_forward(zero_model_t *m, int64_t l, const zero_gpt2_layer_t *a, const void *x, void *out,
                             int64_t B, int64_t T)
{
    const zero_model_config_t *c = &m->config;
    const int64_t rows = B * T, C = c->width, F = c->hidden, D = C / c->heads;
    const zero_dtype_t dtype = m->options.dtype;
    const zero_gpt2_param_t *p = zero_gpt2_layer_param(m, l, 0);

    zero_nn_norm_forward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                  .C = C,
                                                  .eps = c->norm_eps,
                                                  .dtype = dtype,
                                                  .x = x,
                                                  .w = p[GPT2_LN1_W].data,
                                                  .b = p[GPT2_LN1_B].data,
                                                  .y = a->norm1,
                                                  .mean = a->mean1,
                                                  .rstd = a->rstd1});
    zero_gpt2_linear(m, a->qkv, a->norm1, &p[GPT2_QKV_W], &p[GPT2_QKV_B], rows, C, 3 * C);
    zero_nn_attention_forward(m->nn, &(zero_nn_attention_t){.B = B,
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
                                                            .lse = a->lse});
    zero_gpt2_linear(m, a->mid, a->attention, &p[GPT2_PROJ_W], &p[GPT2_PROJ_B], rows, C, C);
    zero_nn_norm_forward(m->nn, &(zero_nn_norm_t){.rows = rows,
                                                  .C = C,
                                                  .eps = c->norm_eps,
                                                  .dtype = dtype,
                                                  .x = a->mid,
                                                  .w = p[GPT2_LN2_W].data,
                                                  .b = p[GPT2_LN2_B].data,
                                                  .residual = x,
                                                  .total = a->mid,
                                                  .y = a->norm2,
                                                  .mean = a->mean2,
                                                  .rstd = a->rstd2});
    if (m->options.recompute == ZERO_RECOMPUTE_SELECTIVE) { /* as the backward pass recomputes it */
        zero_gpt2_linear(m, a->fc, a->norm2, &p[GPT2_FC_W], &p[GPT2_FC_B], rows, C, F);
        zero_nn_act_forward(m->nn, ZERO_NN_GELU_NEW, a->gelu, a->fc, rows * F, dtype);
    } else {
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                              .n = F,
                                              .k = C,
                                              .dtype = dtype,
                                              .a = a->norm2,
                                              .b = p[GPT2_FC_W].data,
                                              .bias = p[GPT2_FC_B].data,
                                              .c = a->gelu,
                                              .epilogue = ZERO_NN_EPILOGUE_GELU_NEW,
                                              .aux = a->fc});
    }
    if (out == NULL && !m->dry)
        return;
    zero_gpt2_linear(m, out, a->gelu, &p[GPT2_OUT_W], &p[GPT2_OUT_B], rows, F, C);
    zero_nn_add(m->nn, out, out, a->mid, rows * C, dtype);
}

/* Products over the vocabulary take a part of it at a time if the backend prefers this (zero_nn_sizes). */

void zero_gpt2_logits(zero_model_t *m, const void *x, int64_t rows)
{
    const int64_t C = m->config.width, V = m->config.vocab;

    for (int64_t v = 0; v < V; v += m->head_columns)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                              .n = V - v < m->head_columns ? V - v : m->head_columns,
                                              .k = C,
                                              .trans_b = true,
                                              .ldc = m->logits_ld,
                                              .dtype = m->options.dtype,
                                              .a = x,
                                              .b = zero_gpt2_at(m, GPT2_WTE(m)->data, v * C),
                                              .c = zero_gpt2_at(m, m->logits, v)});
}

/* wte's gradient (V, C) += dlogits^T x, with dlogits (rows, V; logits_ld) in m->logits. With head_sums m->dwte receives
 * it instead, and the first rows overwrite m->dwte. */
static void head_weight_backward(zero_model_t *m, const void *x, int64_t rows, bool first)
{
    const int64_t C = m->config.width, V = m->config.vocab;

    for (int64_t v = 0; v < V; v += m->head_columns)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = V - v < m->head_columns ? V - v : m->head_columns,
                                              .n = C,
                                              .k = rows,
                                              .trans_a = true,
                                              .accumulate = !m->head_sums || !first,
                                              .wide = m->head_sums,
                                              .lda = m->logits_ld,
                                              .dtype = m->options.dtype,
                                              .a = zero_gpt2_at(m, m->logits, v),
                                              .b = x,
                                              .c = !m->head_sums ? zero_gpt2_at(m, GPT2_WTE(m)->grad, v * C)
                                                   : m->dwte     ? m->dwte + v * C
                                                                 : NULL});
}

void zero_gpt2_head(zero_model_t *m, float *losses, const int32_t *targets, int64_t rows, bool grad)
{
    const int64_t C = m->config.width, V = m->config.vocab, ld = m->logits_ld;
    const zero_dtype_t dtype = m->options.dtype;

    for (int64_t r = 0; r < rows; r += m->head_rows) {
        const int64_t n = rows - r < m->head_rows ? rows - r : m->head_rows;
        void *x = zero_gpt2_at(m, m->narrow, r * C); /* (n, C) */

        zero_gpt2_logits(m, x, n);
        zero_nn_cross_entropy(m->nn, losses ? losses + r : NULL, m->logits, targets ? targets + r : NULL, n, V, ld,
                              grad, dtype);
        if (!grad)
            continue;
        head_weight_backward(m, x, n, r == 0);
        /* This was the last read of x: dx = dlogits wte replaces it. */
        zero_nn_gemm(
            m->nn,
            &(zero_nn_gemm_t){
                .m = n, .n = C, .k = V, .lda = ld, .dtype = dtype, .a = m->logits, .b = GPT2_WTE(m)->data, .c = x});
    }
    if (grad && m->head_sums)
        zero_nn_add_sums(m->nn, GPT2_WTE(m)->grad, m->dwte, V * C, dtype);
}
