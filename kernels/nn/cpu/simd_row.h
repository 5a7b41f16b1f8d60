/* SPDX-License-Identifier: Apache-2.0 */
/* simd_row.h - products of one row, compiled once per instruction set: a part of simd_rows.h. They read a matrix once
 * and do little with it, so memory limits them. */

/* The rows of a matrix that are read side by side: several streams keep the memory busy. */
#define ROW_STREAMS 8
#define ROW_DOTS 4

INLINE const void *row_at(const void *p, int64_t i, zero_dtype_t dtype)
{
    return (const char *)p + (size_t)i * zero_dtype_size(dtype);
}

/* y (n) += x (rows) B (rows, n). An element of y takes its rows in order, whatever `rows` is. */
INLINE void row_into(float *y, const float *x, const void *b, int64_t ldb, const int rows, int64_t n,
                     const zero_dtype_t dtype)
{
    const void *row[ROW_STREAMS];
    vf factor[ROW_STREAMS];
    int64_t j = 0;
    for (int i = 0; i < rows; i++) {
        row[i] = row_at(b, i * ldb, dtype);
        factor[i] = vf_set(x[i]);
    }
    for (; j + LANES <= n; j += LANES) {
        vf sum = vf_get(y + j);
        for (int i = 0; i < rows; i++)
            sum = vf_fma(factor[i], row_get(row[i], j, dtype), sum);
        vf_put(y + j, sum);
    }
    if (j < n) {
        vf sum = row_get_part(y, j, n - j, ZERO_FP32);
        for (int i = 0; i < rows; i++)
            sum = vf_fma(factor[i], row_get_part(row[i], j, n - j, dtype), sum);
        row_put_part(y, j, n - j, ZERO_FP32, sum);
    }
}

KERNEL void rows_into(float *y, const float *x, const void *b, int64_t ldb, int64_t k, int64_t n, zero_dtype_t dtype)
{
    int64_t l = 0;
#define BODY(dt)                                                             \
    for (; l + ROW_STREAMS <= k; l += ROW_STREAMS)                           \
        row_into(y, x + l, row_at(b, l * ldb, dt), ldb, ROW_STREAMS, n, dt); \
    for (; l < k; l++)                                                       \
    row_into(y, x + l, row_at(b, l * ldb, dt), ldb, 1, n, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

/* y (rows) = B (rows, k) x (k). A row has two sums, which take turns, whatever `rows` is. */
INLINE void row_dots(float *y, const float *x, const void *b, int64_t ldb, const int rows, int64_t k,
                     const zero_dtype_t dtype)
{
    const void *row[ROW_DOTS];
    vf even[ROW_DOTS], odd[ROW_DOTS];
    int64_t l = 0;
    for (int i = 0; i < rows; i++) {
        row[i] = row_at(b, i * ldb, dtype);
        even[i] = odd[i] = (vf){0};
    }
    for (; l + 2 * LANES <= k; l += 2 * LANES) {
        const vf first = vf_get(x + l), second = vf_get(x + l + LANES);
        for (int i = 0; i < rows; i++) {
            even[i] = vf_fma(first, row_get(row[i], l, dtype), even[i]);
            odd[i] = vf_fma(second, row_get(row[i], l + LANES, dtype), odd[i]);
        }
    }
    for (; l < k; l += LANES) {
        const vf rest = row_get_to(x, l, k, ZERO_FP32);
        for (int i = 0; i < rows; i++)
            even[i] = vf_fma(rest, row_get_to(row[i], l, k, dtype), even[i]);
    }
    for (int i = 0; i < rows; i++)
        y[i] = vf_sum(even[i] + odd[i]);
}

KERNEL void rows_dots(float *y, const float *x, const void *b, int64_t ldb, int64_t n, int64_t k, zero_dtype_t dtype)
{
    int64_t j = 0;
#define BODY(dt)                                                          \
    for (; j + ROW_DOTS <= n; j += ROW_DOTS)                              \
        row_dots(y + j, x, row_at(b, j * ldb, dt), ldb, ROW_DOTS, k, dt); \
    for (; j < n; j++)                                                    \
    row_dots(y + j, x, row_at(b, j * ldb, dt), ldb, 1, k, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

KERNEL float rows_softmax_row(float *s, int64_t n, float *max)
{
    vf top = vf_set(-INFINITY), sum = (vf){0};
    for (int64_t i = 0; i < n; i += LANES)
        top = vf_max(vf_select(vi_below(n - i), row_get_to(s, i, n, ZERO_FP32), top), top);
    *max = vf_top(top);
    for (int64_t i = 0; i < n; i += LANES) {
        const vf p = vf_exp(row_get_to(s, i, n, ZERO_FP32) - *max);
        sum += (vf)(vi_below(n - i) & (vi)p);
        row_put_to(s, i, n, ZERO_FP32, p);
    }
    return vf_sum(sum);
}
