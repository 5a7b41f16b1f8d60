/* SPDX-License-Identifier: Apache-2.0 */
/* ref.c - the reference: plain C, one thread, fp32 sums in index order, libm. It aims to be easy to read, not fast. */
#include "kernels/nn/ref/ref.h"

#include <math.h>

static zero_status_t ref_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    (void)nn;
    (void)error;
    const int64_t *d = plan->shape.d;
    switch (plan->shape.op) {
    case ZERO_NN_EMBED_BACKWARD: /* order and scratch */
        plan->workspace = 2 * (uint64_t)(d[0] * d[1]) * sizeof(int32_t);
        break;
    case ZERO_NN_NORMALIZE: /* sums of squares */
        plan->workspace = (uint64_t)zero_nn_square_blocks(d[0]) * sizeof(double);
        break;
    case ZERO_NN_NORM_BACKWARD: /* dw, db (C) */
        plan->workspace = 2 * (uint64_t)d[1] * sizeof(float);
        break;
    case ZERO_NN_ATTN_FORWARD: /* a row of scores (S), a row of out (D) */
        plan->workspace = (uint64_t)(d[8] + d[4]) * sizeof(float);
        break;
    case ZERO_NN_ATTN_BACKWARD: /* dk, dv (S, D), dq (D) */
        plan->workspace = (uint64_t)((2 * d[8] + 1) * d[4]) * sizeof(float);
        break;
    default:
        plan->workspace = 0;
    }
    return ZERO_OK;
}

static void ref_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    (void)nn;
    const zero_dtype_t c_dtype = g->wide ? ZERO_FP32 : g->dtype;
    int64_t a_row = g->trans_a ? 1 : g->lda, a_col = g->trans_a ? g->lda : 1;
    int64_t b_row = g->trans_b ? 1 : g->ldb, b_col = g->trans_b ? g->ldb : 1;
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            float sum = 0;
            for (int64_t l = 0; l < g->k; l++)
                sum += zero_element(g->a, i * a_row + l * a_col, g->dtype) *
                       zero_element(g->b, l * b_row + j * b_col, g->dtype);
            if (g->bias != NULL)
                sum += zero_element(g->bias, j, g->dtype);
            if (g->accumulate)
                sum += zero_element(g->c, i * g->ldc + j, c_dtype);
            zero_element_set(g->c, i * g->ldc + j, c_dtype, sum);
        }
    }
}

void zero_nn_ref_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype)
{
    (void)nn;
    for (int64_t j = 0; j < n; j++) {
        float sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += zero_element(dy, r * n + j, dtype);
        zero_element_set(dbias, j, dtype, zero_element(dbias, j, dtype) + sum);
    }
}

static void ref_embedding_forward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    (void)nn;
    for (int64_t r = 0; r < e->B * e->T; r++) {
        for (int64_t c = 0; c < e->C && zero_nn_has_token(&e->tile, e->tokens[r]); c++) {
            float value = zero_element(e->wte, (e->tokens[r] - e->tile.first) * e->C + c, e->dtype);
            if (e->wpe != NULL)
                value += zero_element(e->wpe, r % e->T * e->C + c, e->dtype);
            zero_element_set(e->y, r * e->C + c, e->dtype, value);
        }
    }
}

static void ref_embedding_backward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    int64_t rows = e->B * e->T, C = e->C;
    int32_t *order = (int32_t *)nn->workspace;
    zero_nn_sort_tokens(order, order + rows, e->tokens, rows);
    for (int64_t i = 0, end; i < rows; i = end) {
        int64_t token = e->tokens[order[i]];
        for (end = i + 1; end < rows && e->tokens[order[end]] == token; end++)
            continue;
        const int64_t row = token - e->tile.first;
        for (int64_t c = 0; c < C && zero_nn_has_token(&e->tile, token); c++) {
            float sum = zero_element(e->dwte, row * C + c, e->dtype);
            for (int64_t j = i; j < end; j++)
                sum += zero_element(e->dy, order[j] * C + c, e->dtype);
            zero_element_set(e->dwte, row * C + c, e->dtype, sum);
        }
    }
    for (int64_t i = 0; i < e->T * C && e->dwpe != NULL; i++) {
        float sum = zero_element(e->dwpe, i, e->dtype);
        for (int64_t b = 0; b < e->B; b++)
            sum += zero_element(e->dy, b * e->T * C + i, e->dtype);
        zero_element_set(e->dwpe, i, e->dtype, sum);
    }
}

static void ref_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    (void)nn;
    for (int64_t i = 0; i < count; i++)
        zero_element_set(y, i, dtype, zero_element(a, i, dtype) + zero_element(b, i, dtype));
}

static void ref_scale(zero_nn_t *nn, void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype)
{
    (void)nn;
    for (int64_t i = 0; i < count; i++)
        zero_element_set(y, i, dtype, factor * zero_element(x, i, dtype));
}

static void ref_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype)
{
    (void)nn;
    for (int64_t i = 0; i < count; i++)
        zero_element_set(y, i, dtype, zero_element(y, i, dtype) + sums[i]);
}

static float dot(const void *a, int64_t a_at, const void *b, int64_t b_at, int64_t n, zero_dtype_t dtype)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += zero_element(a, a_at + i, dtype) * zero_element(b, b_at + i, dtype);
    return sum;
}

static void ref_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    int64_t T = a->T, S = a->S, D = a->D, group = a->H / a->KV, begin, end;
    float *score = (float *)nn->workspace, *out = score + S; /* (S), (D) */
    for (int64_t b = 0; b < a->B; b++) {
        for (int64_t h = 0; h < a->H; h++) {
            for (int64_t t = 0; t < T; t++) {
                int64_t q = (b * T + t) * a->q_stride + h * D;
                float max = -INFINITY, sum = 0;
                zero_nn_attention_seen(a, b, t, &begin, &end);
                for (int64_t s = begin; s < end; s++) {
                    score[s] =
                        (float)a->scale * dot(a->q, q, a->k, (b * S + s) * a->k_stride + h / group * D, D, a->dtype);
                    max = score[s] > max || isnan(score[s]) ? score[s] : max;
                }
                memset(out, 0, (size_t)D * sizeof *out);
                for (int64_t s = begin; s < end; s++) {
                    float p = expf(score[s] - max);
                    sum += p;
                    for (int64_t i = 0; i < D; i++)
                        out[i] += p * zero_element(a->v, (b * S + s) * a->v_stride + h / group * D + i, a->dtype);
                }
                for (int64_t i = 0; i < D; i++)
                    zero_element_set(a->out, ((b * T + t) * a->H + h) * D + i, a->dtype,
                                     begin < end ? out[i] / sum : 0);
                if (a->lse != NULL)
                    a->lse[(b * a->H + h) * T + t] = max + logf(sum);
            }
        }
    }
}

/* With P the softmax of the scores and dP = dout v': dv = P' dout, dS = P (dP - sum of dout * out), dq = scale dS k, dk
 * = scale dS' q. */
static void ref_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    int64_t T = a->T, S = a->S, D = a->D, group = a->H / a->KV, begin, end;
    float scale = (float)a->scale;
    float *dk = (float *)nn->workspace, *dv = dk + S * D, *dq = dv + S * D; /* (S, D), (S, D), (D) */
    for (int64_t b = 0; b < a->B; b++) {
        for (int64_t kv = 0; kv < a->KV; kv++) {
            memset(dk, 0, 2 * (size_t)(S * D) * sizeof *dk);
            for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
                for (int64_t t = 0; t < T; t++) {
                    int64_t q = (b * T + t) * a->q_stride + h * D, o = ((b * T + t) * a->H + h) * D;
                    float delta = dot(g->dout, o, a->out, o, D, a->dtype), lse = a->lse[(b * a->H + h) * T + t];
                    zero_nn_attention_seen(a, b, t, &begin, &end);
                    memset(dq, 0, (size_t)D * sizeof *dq);
                    for (int64_t s = begin; s < end; s++) {
                        int64_t k = (b * S + s) * a->k_stride + kv * D, v = (b * S + s) * a->v_stride + kv * D;
                        float p = expf(scale * dot(a->q, q, a->k, k, D, a->dtype) - lse);
                        float ds = scale * p * (dot(g->dout, o, a->v, v, D, a->dtype) - delta);
                        for (int64_t i = 0; i < D; i++) {
                            dv[s * D + i] += p * zero_element(g->dout, o + i, a->dtype);
                            dk[s * D + i] += ds * zero_element(a->q, q + i, a->dtype);
                            dq[i] += ds * zero_element(a->k, k + i, a->dtype);
                        }
                    }
                    for (int64_t i = 0; i < D; i++)
                        zero_element_set(g->dq, q + i, a->dtype, dq[i]);
                }
            }
            for (int64_t s = 0; s < S; s++) {
                for (int64_t i = 0; i < D; i++) {
                    zero_element_set(g->dk, (b * S + s) * a->k_stride + kv * D + i, a->dtype, dk[s * D + i]);
                    zero_element_set(g->dv, (b * S + s) * a->v_stride + kv * D + i, a->dtype, dv[s * D + i]);
                }
            }
        }
    }
    if (g->dbias != NULL)
        zero_nn_ref_bias_backward(nn, g->dbias, g->dq, a->B * T, zero_nn_attention_width(a->H, a->KV, D), a->dtype);
}

/* stats: the largest logit of row r, the sum of exp(logit - largest), and the target's logit, if it is there. */
static void entropy_stats(const zero_nn_entropy_t *e, int64_t r, float stats[3])
{
    const int64_t row = r * e->ld, target = zero_nn_entropy_column(e, r);
    float max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < e->V; j++) {
        float x = zero_element(e->logits, row + j, e->dtype);
        max = x > max || isnan(x) ? x : max;
    }
    for (int64_t j = 0; j < e->V && max != -INFINITY; j++)
        sum += expf(zero_element(e->logits, row + j, e->dtype) - max);
    stats[0] = max;
    stats[1] = sum;
    stats[2] = target < 0 ? 0 : zero_element(e->logits, row + target, e->dtype);
}

/* The loss of row r, and its gradient if e->grad; stats NULL: its target is ignored. */
static void entropy_end(const zero_nn_entropy_t *e, int64_t r, const float *stats)
{
    const int64_t row = r * e->ld, target = zero_nn_entropy_column(e, r);
    e->losses[r] = stats == NULL ? 0 : zero_nn_entropy_loss(stats);
    for (int64_t j = 0; j < e->V && e->grad; j++) {
        float p = stats == NULL ? 0 : expf(zero_element(e->logits, row + j, e->dtype) - stats[0]) / stats[1];
        zero_element_set(e->logits, row + j, e->dtype, (j == target ? p - 1.0f : p) * e->scale);
    }
}

static void ref_cross_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    (void)nn;
    for (int64_t r = 0; r < e->rows; r++) {
        const bool ignored = e->targets[r] == ZERO_NN_IGNORE;
        float stats[3];
        if (!ignored)
            entropy_stats(e, r, stats);
        entropy_end(e, r, ignored ? NULL : stats);
    }
}

static void ref_entropy_local(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    (void)nn;
    for (int64_t r = 0; r < e->rows; r++) {
        float *stats = e->stats + 3 * r;
        stats[0] = -INFINITY;
        stats[1] = stats[2] = 0;
        if (e->targets[r] != ZERO_NN_IGNORE)
            entropy_stats(e, r, stats);
    }
}

static void ref_entropy_combine(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    (void)nn;
    for (int64_t r = 0; r < e->rows; r++) {
        float total[3];
        zero_nn_entropy_total(e, r, total);
        entropy_end(e, r, e->targets[r] == ZERO_NN_IGNORE ? NULL : total);
    }
}

static void ref_combine(zero_nn_t *nn, float *y, float alpha, const float *a, float beta, const float *b, int64_t count)
{
    (void)nn;
    for (int64_t i = 0; i < count; i++)
        y[i] = alpha * a[i] + beta * b[i];
}

static void ref_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, float least)
{
    int64_t n = zero_nn_square_blocks(count);
    double *blocks = (double *)(void *)nn->workspace; /* (n) */
    for (int64_t b = 0; b < n; b++)
        blocks[b] = zero_nn_square_block(x, count, b);
    float inverse = zero_nn_inverse_norm(blocks, n, least);
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * inverse;
}

const zero_nn_ops_t zero_nn_ref_ops = {
    .name = "ref",
    .sizes = ZERO_NN_CPU_SIZES,
    .plan = ref_plan,
    .gemm = ref_gemm,
    .bias_backward = zero_nn_ref_bias_backward,
    .embedding_forward = ref_embedding_forward,
    .embedding_backward = ref_embedding_backward,
    .norm_forward = zero_nn_ref_norm_forward,
    .norm_backward = zero_nn_ref_norm_backward,
    .act_forward = zero_nn_ref_act_forward,
    .act_backward = zero_nn_ref_act_backward,
    .gated_forward = zero_nn_ref_gated_forward,
    .gated_backward = zero_nn_ref_gated_backward,
    .rotary = zero_nn_ref_rotary,
    .put_rows = zero_nn_ref_put_rows,
    .add = ref_add,
    .scale = ref_scale,
    .add_sums = ref_add_sums,
    .attention_forward = ref_attention_forward,
    .attention_backward = ref_attention_backward,
    .cross_entropy = ref_cross_entropy,
    .entropy_local = ref_entropy_local,
    .entropy_combine = ref_entropy_combine,
    .combine = ref_combine,
    .normalize = ref_normalize,
};
