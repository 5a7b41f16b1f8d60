/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - the reference: norms, activations, rotary embedding, rows that are put elsewhere. */
#include "kernels/nn/ref/ref.h"

#include <math.h>

/* x rounded to dtype. */
static float rounded(float x, zero_dtype_t dtype)
{
    return dtype == ZERO_BF16   ? zero_bf16_to_fp32(zero_fp32_to_bf16(x))
           : dtype == ZERO_FP16 ? zero_fp16_to_fp32(zero_fp32_to_fp16(x))
                                : x;
}

/* total = x + residual for the vector at element `from`. */
static void add_residual(const zero_nn_norm_t *l, int64_t from)
{
    for (int64_t c = from; c < from + l->C; c++)
        zero_element_set(l->total, c, l->dtype,
                         zero_element(l->x, c, l->dtype) + zero_element(l->residual, c, l->dtype));
}

void zero_nn_ref_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    (void)nn;
    const void *x = l->residual != NULL ? l->total : l->x;
    for (int64_t i = 0; i < l->rows * l->groups; i++) {
        int64_t from = zero_nn_norm_at(l, l->ldx, i), to = zero_nn_norm_at(l, l->ldy, i);
        float mean = 0, square = 0;
        if (l->residual != NULL)
            add_residual(l, from);
        for (int64_t c = 0; c < l->C && !l->rms; c++)
            mean += zero_element(x, from + c, l->dtype);
        mean /= (float)l->C;
        for (int64_t c = 0; c < l->C; c++) {
            float off = zero_element(x, from + c, l->dtype) - mean;
            square += off * off;
        }
        float rstd = 1.0f / sqrtf(square / (float)l->C + (float)l->eps);
        for (int64_t c = 0; c < l->C; c++) {
            float n = (zero_element(x, from + c, l->dtype) - mean) * rstd, w = zero_element(l->w, c, l->dtype);
            zero_element_set(l->y, to + c, l->dtype,
                             l->rms ? rounded(n, l->dtype) * w : n * w + zero_element(l->b, c, l->dtype));
        }
        if (l->mean != NULL && !l->rms)
            l->mean[i] = mean;
        if (l->rstd != NULL)
            l->rstd[i] = rstd;
    }
}

/* With n = (x - mean) rstd and g = dy w: dx = rstd (g - mean(g) - n mean(g n)); dw = sum of dy n, db = sum of dy over
 * vectors. RMS norm has a mean and a mean(g) of 0. */
void zero_nn_ref_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    int64_t C = l->C;
    float *dw = (float *)nn->workspace, *db = dw + C; /* (C) */
    if (l->dbias_residual != NULL)                    /* before dx overwrites it */
        zero_nn_ref_bias_backward(nn, l->dbias_residual, l->dresidual, l->rows, C, l->dtype);
    memset(dw, 0, 2 * (size_t)C * sizeof *dw);
    for (int64_t i = 0; i < l->rows * l->groups; i++) {
        int64_t x_at = zero_nn_norm_at(l, l->ldx, i), y_at = zero_nn_norm_at(l, l->ldy, i);
        float mean = l->rms ? 0 : l->mean[i], rstd = l->rstd[i], sum_g = 0, sum_gn = 0;
        for (int64_t c = 0; c < C; c++) {
            float dy = zero_element(l->dy, y_at + c, l->dtype), g = dy * zero_element(l->w, c, l->dtype);
            float n = (zero_element(l->x, x_at + c, l->dtype) - mean) * rstd;
            sum_g += l->rms ? 0 : g;
            sum_gn += g * n;
            dw[c] += dy * n;
            db[c] += dy;
        }
        sum_g /= (float)C;
        sum_gn /= (float)C;
        for (int64_t c = 0; c < C; c++) {
            float g = zero_element(l->dy, y_at + c, l->dtype) * zero_element(l->w, c, l->dtype);
            float n = (zero_element(l->x, x_at + c, l->dtype) - mean) * rstd;
            float dx = rstd * (g - sum_g - n * sum_gn);
            if (l->dresidual != NULL)
                dx += zero_element(l->dresidual, x_at + c, l->dtype);
            zero_element_set(l->dx, x_at + c, l->dtype, dx);
        }
    }
    for (int64_t c = 0; c < C; c++) {
        if (l->dw != NULL)
            zero_element_set(l->dw, c, l->dtype, zero_element(l->dw, c, l->dtype) + dw[c]);
        if (!l->rms && l->db != NULL)
            zero_element_set(l->db, c, l->dtype, zero_element(l->db, c, l->dtype) + db[c]);
    }
    if (l->dbias != NULL)
        zero_nn_ref_bias_backward(nn, l->dbias, l->dx, l->rows, C, l->dtype);
}

/* ---- activations ------------------------------------------------------------------------------------------------ */

/* gelu_new(x) = x / 2 (1 + tanh u) = x g with g = 1 / (1 + e^-2u) and u = sqrt(2 / pi) (x + 0.044715 x^3). This form
 * has no cancellation for x far below 0. */
#define GELU_SCALE 0.79788456080286535588f
#define GELU_CUBE 0.044715f

static float gelu_argument(float x)
{
    return GELU_SCALE * (x + GELU_CUBE * x * x * x);
}

/* (x g)' = g + x 2 g (1 - g) u'. */
static float gelu_new_slope(float x)
{
    float u = gelu_argument(x);
    float g = 1.0f / (1.0f + expf(-2.0f * u)), other = 1.0f / (1.0f + expf(2.0f * u));
    return g + 2.0f * x * g * other * GELU_SCALE * (1.0f + 3.0f * GELU_CUBE * x * x);
}

/* The normal distribution function: (1 + erf(x / sqrt 2)) / 2. */
static float normal(float x)
{
    return 0.5f * erfcf(x * -0.70710678118654752440f);
}

/* Its derivative. */
static float normal_density(float x)
{
    return 0.39894228040143267794f * expf(-0.5f * x * x);
}

/* ReLU keeps NaN. */
static float act_value(zero_nn_activation_t act, float x)
{
    switch (act) {
    case ZERO_NN_GELU_NEW:
        return x / (1.0f + expf(-2.0f * gelu_argument(x)));
    case ZERO_NN_GELU:
        return x * normal(x);
    case ZERO_NN_RELU:
        return x <= 0 ? 0 : x;
    default:
        return x / (1.0f + expf(-x));
    }
}

static float act_slope(zero_nn_activation_t act, float x)
{
    switch (act) {
    case ZERO_NN_GELU_NEW:
        return gelu_new_slope(x);
    case ZERO_NN_GELU:
        return normal(x) + x * normal_density(x);
    case ZERO_NN_RELU:
        return x <= 0 ? 0 : 1;
    default: { /* with s = 1 / (1 + e^-x): s + x s (1 - s) */
        float s = 1.0f / (1.0f + expf(-x)), other = 1.0f / (1.0f + expf(x));
        return s + x * s * other;
    }
    }
}

void zero_nn_ref_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                             zero_dtype_t dtype)
{
    (void)nn;
    for (int64_t i = 0; i < count; i++)
        zero_element_set(y, i, dtype, act_value(act, zero_element(x, i, dtype)));
}

void zero_nn_ref_act_backward(zero_nn_t *nn, const zero_nn_act_grad_t *a)
{
    for (int64_t i = 0; i < a->rows * a->n; i++)
        zero_element_set(a->dx, i, a->dtype,
                         zero_element(a->dy, i, a->dtype) * act_slope(a->act, zero_element(a->x, i, a->dtype)));
    if (a->dbias != NULL)
        zero_nn_ref_bias_backward(nn, a->dbias, a->dx, a->rows, a->n, a->dtype);
}

void zero_nn_ref_gated_forward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    (void)nn;
    for (int64_t r = 0; r < g->rows; r++) {
        for (int64_t c = 0; c < g->F; c++) {
            float gate = zero_element(g->gu, 2 * r * g->F + c, g->dtype);
            float up = zero_element(g->gu, (2 * r + 1) * g->F + c, g->dtype);
            zero_element_set(g->y, r * g->F + c, g->dtype, act_value(g->act, gate) * up);
        }
    }
}

void zero_nn_ref_gated_backward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    (void)nn;
    for (int64_t r = 0; r < g->rows; r++) {
        for (int64_t c = 0; c < g->F; c++) {
            const int64_t gate_at = 2 * r * g->F + c, up_at = gate_at + g->F;
            float gate = zero_element(g->gu, gate_at, g->dtype), up = zero_element(g->gu, up_at, g->dtype);
            float dy = zero_element(g->dy, r * g->F + c, g->dtype);
            zero_element_set(g->dgu, gate_at, g->dtype, dy * up * act_slope(g->act, gate));
            zero_element_set(g->dgu, up_at, g->dtype, dy * act_value(g->act, gate));
        }
    }
}

/* ---- rotary embedding ------------------------------------------------------------------------------------------- */

void zero_nn_ref_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r)
{
    (void)nn;
    for (int64_t row = 0; row < r->rows; row++) {
        const float position = (float)(r->positions != NULL ? r->positions[row] : row % r->T);
        for (int64_t h = 0; h < r->heads; h++) {
            for (int64_t i = 0; i < r->R / 2; i++) {
                const int64_t a_at = row * r->ld + h * r->D + i, b_at = a_at + r->R / 2;
                float angle = position * r->frequencies[i];
                float cosine = cosf(angle) * (float)r->scale, sine = sinf(angle) * (float)r->scale;
                float a = zero_element(r->x, a_at, r->dtype), b = zero_element(r->x, b_at, r->dtype);
                sine = r->backward ? -sine : sine;
                zero_element_set(r->x, a_at, r->dtype, a * cosine - b * sine);
                zero_element_set(r->x, b_at, r->dtype, b * cosine + a * sine);
            }
        }
    }
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

void zero_nn_ref_put_rows(zero_nn_t *nn, const zero_nn_put_t *p)
{
    (void)nn;
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t c = 0; c < p->C; c++)
            zero_element_set(p->y, p->at[r] * p->ldy + c, p->dtype, zero_element(p->x, r * p->ldx + c, p->dtype));
}
