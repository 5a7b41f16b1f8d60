/* SPDX-License-Identifier: Apache-2.0 */
/* simd_norm.h - a part of simd_rows.h: one vector of a norm. */

/* Four interleaved accumulators: the order of additions depends only on C. */
INLINE void norm_row(void *y, float *mean_out, float *rstd_out, const void *x, const void *w, const void *b, int64_t C,
                     float eps, const zero_dtype_t dtype)
{
    vf sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= C; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sum[j] += row_get(x, i + j * LANES, dtype);
    for (; i < C; i += LANES)
        sum[0] += row_get_to(x, i, C, dtype);
    float mean = vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)C;

    for (int j = 0; j < 4; j++)
        sum[j] = (vf){0};
    for (i = 0; i + 4 * LANES <= C; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            vf d = row_get(x, i + j * LANES, dtype) - mean;
            sum[j] = vf_fma(d, d, sum[j]);
        }
    for (; i < C; i += LANES) {
        vf d = (vf)(vi_below(C - i) & (vi)(row_get_to(x, i, C, dtype) - mean));
        sum[0] = vf_fma(d, d, sum[0]);
    }
    float rstd = 1.0f / sqrtf(vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)C + eps);

    for (i = 0; i < C; i += LANES) {
        vf n = (row_get_to(x, i, C, dtype) - mean) * rstd;
        row_put_to(y, i, C, dtype, vf_fma(n, row_get_to(w, i, C, dtype), row_get_to(b, i, C, dtype)));
    }
    if (mean_out != NULL)
        *mean_out = mean;
    if (rstd_out != NULL)
        *rstd_out = rstd;
}

KERNEL void rows_norm(void *y, float *mean, float *rstd, const void *x, const void *w, const void *b, int64_t C,
                      float eps, zero_dtype_t dtype)
{
#define BODY(dt) norm_row(y, mean, rstd, x, w, b, C, eps, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

INLINE void norm_grad_row(void *dx, float *dw, float *db, const void *residual, const void *dy, const void *x,
                          const void *w, float mean, float rstd, int64_t C, const zero_dtype_t dtype)
{
    vf sum_g[2] = {{0}, {0}}, sum_gn[2] = {{0}, {0}};
    for (int64_t i = 0; i < C; i += LANES) { /* beyond C dy is 0 and adds nothing */
        int j = (i / LANES) & 1;
        vf d = row_get_to(dy, i, C, dtype), g = d * row_get_to(w, i, C, dtype),
           n = (row_get_to(x, i, C, dtype) - mean) * rstd;
        sum_g[j] += g;
        sum_gn[j] = vf_fma(g, n, sum_gn[j]);
        row_put_to(dw, i, C, ZERO_FP32, vf_fma(d, n, row_get_to(dw, i, C, ZERO_FP32)));
        row_put_to(db, i, C, ZERO_FP32, d + row_get_to(db, i, C, ZERO_FP32));
    }
    float mean_g = vf_sum(sum_g[0] + sum_g[1]) / (float)C, mean_gn = vf_sum(sum_gn[0] + sum_gn[1]) / (float)C;
    for (int64_t i = 0; i < C; i += LANES) {
        vf g = row_get_to(dy, i, C, dtype) * row_get_to(w, i, C, dtype), n = (row_get_to(x, i, C, dtype) - mean) * rstd;
        vf d = rstd * (g - mean_g - n * mean_gn);
        if (residual != NULL)
            d += row_get_to(residual, i, C, dtype);
        row_put_to(dx, i, C, dtype, d);
    }
}

KERNEL void rows_norm_grad(void *dx, float *dw, float *db, const void *residual, const void *dy, const void *x,
                           const void *w, float mean, float rstd, int64_t C, zero_dtype_t dtype)
{
#define BODY(dt) norm_grad_row(dx, dw, db, residual, dy, x, w, mean, rstd, C, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

/* Rounded to dtype. */
INLINE vf vf_rounded(vf x, const zero_dtype_t dtype)
{
    return dtype == ZERO_FP32 ? x : half_widen(half_round(x, dtype), dtype);
}

INLINE void rms_row(void *y, float *rstd_out, const void *x, const void *w, int64_t C, float eps,
                    const zero_dtype_t dtype)
{
    vf sum[4] = {{0}, {0}, {0}, {0}};
    int64_t i = 0;
    for (; i + 4 * LANES <= C; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            vf v = row_get(x, i + j * LANES, dtype);
            sum[j] = vf_fma(v, v, sum[j]);
        }
    for (; i < C; i += LANES) {
        vf v = row_get_to(x, i, C, dtype);
        sum[0] = vf_fma(v, v, sum[0]);
    }
    float rstd = 1.0f / sqrtf(vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3])) / (float)C + eps);
    for (i = 0; i < C; i += LANES) {
        vf n = vf_rounded(row_get_to(x, i, C, dtype) * rstd, dtype);
        row_put_to(y, i, C, dtype, n * row_get_to(w, i, C, dtype));
    }
    if (rstd_out != NULL)
        *rstd_out = rstd;
}

KERNEL void rows_rms(void *y, float *rstd, const void *x, const void *w, int64_t C, float eps, zero_dtype_t dtype)
{
#define BODY(dt) rms_row(y, rstd, x, w, C, eps, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

INLINE void rms_grad_row(void *dx, float *dw, const void *residual, const void *dy, const void *x, const void *w,
                         float rstd, int64_t C, const zero_dtype_t dtype)
{
    vf sum[2] = {{0}, {0}};
    for (int64_t i = 0; i < C; i += LANES) { /* beyond C dy is 0 and adds nothing */
        int j = (i / LANES) & 1;
        vf d = row_get_to(dy, i, C, dtype), n = row_get_to(x, i, C, dtype) * rstd;
        sum[j] = vf_fma(d * row_get_to(w, i, C, dtype), n, sum[j]);
        row_put_to(dw, i, C, ZERO_FP32, vf_fma(d, n, row_get_to(dw, i, C, ZERO_FP32)));
    }
    float mean = vf_sum(sum[0] + sum[1]) / (float)C;
    for (int64_t i = 0; i < C; i += LANES) {
        vf g = row_get_to(dy, i, C, dtype) * row_get_to(w, i, C, dtype), n = row_get_to(x, i, C, dtype) * rstd;
        vf d = rstd * (g - n * mean);
        if (residual != NULL)
            d += row_get_to(residual, i, C, dtype);
        row_put_to(dx, i, C, dtype, d);
    }
}

KERNEL void rows_rms_grad(void *dx, float *dw, const void *residual, const void *dy, const void *x, const void *w,
                          float rstd, int64_t C, zero_dtype_t dtype)
{
#define BODY(dt) rms_grad_row(dx, dw, residual, dy, x, w, rstd, C, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}
