/* SPDX-License-Identifier: Apache-2.0 */
/* simd_rows.h - the kernels of simd.h, compiled once per instruction set. The including file defines: SIMD_TABLE,
 * SIMD_NAME, TARGET (a function attribute), LANES, vf and vi (vectors of LANES floats and int32), vf_fma, vf_max
 * (returns the second operand if one is NaN), and the tile sizes BLOCK_M, TILE_M, TILE_V (rows and vectors that the
 * registers hold). If the processor has instructions for fp16, it also defines FP16_WIDEN and FP16_ROUND. */
#include "kernels/nn/cpu/simd.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline)) TARGET
#define KERNEL static TARGET

typedef uint16_t vh __attribute__((vector_size(2 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef float vf_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int vi_u __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t vh_u __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE vf vf_set(float x)
{
    return x - (vf){0}; /* x + 0 would be an addition, which turns -0 into 0 */
}

INLINE vf vf_get(const float *p)
{
    return *(const vf_u *)p;
}

INLINE void vf_put(float *p, vf v)
{
    *(vf_u *)p = v;
}

/* mask ? a : b, lane by lane. */
INLINE vf vf_select(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

/* A mask: lanes below n are all ones, the others zero. */
INLINE vi vi_below(int64_t n)
{
    vi index;
    for (int i = 0; i < LANES; i++)
        index[i] = i;
    return index < (vi){0} + (int32_t)n;
}

INLINE float vf_sum(vf v)
{
    float lane[LANES];
    memcpy(lane, &v, sizeof lane);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

INLINE float vf_top(vf v)
{
    float lane[LANES];
    memcpy(lane, &v, sizeof lane);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
    return lane[0];
}

INLINE vf bf16_widen(vh h)
{
    return (vf)(__builtin_convertvector(h, vu) << 16);
}

INLINE vh bf16_round(vf v)
{
    vu u = (vu)v, even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    vu is_nan = (vu)(v != v);
    return __builtin_convertvector((is_nan & nan) | (~is_nan & even), vh);
}

#if defined(FP16_WIDEN)
INLINE vf fp16_widen(vh h)
{
    return (vf)FP16_WIDEN(h);
}

INLINE vh fp16_round(vf v)
{
    return (vh)FP16_ROUND(v);
}
#else
/* The same in integer and exact fp32 arithmetic, lane by lane without branches, as in kernels/cuda/convert.h. */
INLINE vu vu_select(vi mask, vu a, vu b)
{
    return ((vu)mask & a) | (~(vu)mask & b);
}

INLINE vf fp16_widen(vh h)
{
    vu u = __builtin_convertvector(h, vu), magnitude = u & 0x7fffu;
    vu finite = (vu)((vf)(magnitude << 13) * 0x1p112f); /* the shifted bits are the number times 2^-112 */
    vu other = 0x7f800000u | magnitude << 13 | ((vu)(magnitude > 0x7c00u) & 0x00400000u);
    return (vf)((u & 0x8000u) << 16 | vu_select((vi)(magnitude < 0x7c00u), finite, other));
}

INLINE vh fp16_round(vf v)
{
    vu u = (vu)v, magnitude = u & 0x7fffffffu;
    vu normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    /* Below 2^-14: fp32 numbers in [0.5, 1) have the spacing 2^-24 of fp16's subnormals, so the addition rounds. */
    vu subnormal = (vu)((vf)magnitude + 0.5f) - 0x3f000000u;
    vu nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    vu result = vu_select((vi)(magnitude < 0x38800000u), subnormal, normal);
    result = vu_select((vi)(magnitude >= 0x477ff000u), 0x7c00u - (vu){0}, result); /* from 65520 on: infinity */
    result = vu_select((vi)(magnitude > 0x7f800000u), nan, result);
    return __builtin_convertvector(((u >> 16) & 0x8000u) | result, vh);
}
#endif

/* Elements of 16 bits. dtype is a constant after inlining, here and below. */
INLINE vf half_widen(vh h, const zero_dtype_t dtype)
{
    return dtype == ZERO_BF16 ? bf16_widen(h) : fp16_widen(h);
}

INLINE vh half_round(vf v, const zero_dtype_t dtype)
{
    return dtype == ZERO_BF16 ? bf16_round(v) : fp16_round(v);
}

/* LANES elements from element i. */
INLINE vf row_get(const void *p, int64_t i, const zero_dtype_t dtype)
{
    return dtype == ZERO_FP32 ? vf_get((const float *)p + i)
                              : half_widen(*(const vh_u *)((const uint16_t *)p + i), dtype);
}

INLINE void row_put(void *p, int64_t i, const zero_dtype_t dtype, vf v)
{
    if (dtype == ZERO_FP32)
        vf_put((float *)p + i, v);
    else
        *(vh_u *)((uint16_t *)p + i) = half_round(v, dtype);
}

/* The same for the n < LANES elements at the end of a row. The upper lanes are 0. */
INLINE vf row_get_part(const void *p, int64_t i, int64_t n, const zero_dtype_t dtype)
{
    if (dtype == ZERO_FP32) {
        float lane[LANES] = {0};
        memcpy(lane, (const float *)p + i, (size_t)n * sizeof *lane);
        return vf_get(lane);
    }
    uint16_t lane[LANES] = {0};
    memcpy(lane, (const uint16_t *)p + i, (size_t)n * sizeof *lane);
    return half_widen(*(const vh_u *)lane, dtype);
}

INLINE void row_put_part(void *p, int64_t i, int64_t n, const zero_dtype_t dtype, vf v)
{
    if (dtype == ZERO_FP32) {
        memcpy((float *)p + i, &v, (size_t)n * sizeof(float));
    } else {
        vh h = half_round(v, dtype);
        memcpy((uint16_t *)p + i, &h, (size_t)n * sizeof(uint16_t));
    }
}

/* LANES elements, or at the end the rest of n. */
INLINE vf row_get_to(const void *p, int64_t i, int64_t n, const zero_dtype_t dtype)
{
    return i + LANES <= n ? row_get(p, i, dtype) : row_get_part(p, i, n - i, dtype);
}

INLINE void row_put_to(void *p, int64_t i, int64_t n, const zero_dtype_t dtype, vf v)
{
    if (i + LANES <= n)
        row_put(p, i, dtype, v);
    else
        row_put_part(p, i, n - i, dtype, v);
}

/* Compiles body(dtype) for every dtype, so no loop tests dtype. */
#define FOR_DTYPE(dtype, body) \
    do {                       \
        switch (dtype) {       \
        case ZERO_BF16:        \
            body(ZERO_BF16);   \
            break;             \
        case ZERO_FP16:        \
            body(ZERO_FP16);   \
            break;             \
        default:               \
            body(ZERO_FP32);   \
        }                      \
    } while (0)

/* e^x for x <= 88. The error is at most 1 ulp for x >= -87.33; below, the result is 0 (it would be subnormal). NaN
 * stays NaN. With x = n ln 2 + r, the result is a polynomial in r (coefficients: Cephes' expf) times 2^n, set in the
 * exponent's bits. Adding 1.5 * 2^23 rounds to an integer. */
INLINE vf vf_exp(vf x)
{
    const float shift = 12582912.0f;
    vf t = vf_fma(x, vf_set(1.44269504088896341f), vf_set(shift)), n = t - shift;
    vf r = vf_fma(n, vf_set(-0.693359375f), x);
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(p, r * r, r) + 1.0f;
    vf power = (vf)(((vu)t + (127u - 0x4b400000u)) << 23);
    vi tiny = x < vf_set(-87.33654f);
    return (vf)(~tiny & (vi)(p * power));
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

KERNEL void rows_load(float *y, const void *x, int64_t n, zero_dtype_t dtype)
{
#define BODY(dt)                           \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, ZERO_FP32, row_get_to(x, i, n, dt))
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

KERNEL void rows_add(float *y, const void *x, int64_t n, zero_dtype_t dtype)
{
#define BODY(dt)                           \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, ZERO_FP32, row_get_to(y, i, n, ZERO_FP32) + row_get_to(x, i, n, dt))
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

KERNEL void rows_store(void *y, const float *x, int64_t n, zero_dtype_t dtype)
{
#define BODY(dt)                           \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, dt, row_get_to(x, i, n, ZERO_FP32))
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

KERNEL void rows_scale(float *y, const float *x, float s, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        row_put_to(y, i, n, ZERO_FP32, row_get_to(x, i, n, ZERO_FP32) * s);
}

KERNEL void rows_sum(void *y, const void *a, const void *b, int64_t n, zero_dtype_t dtype)
{
#define BODY(dt)                           \
    for (int64_t i = 0; i < n; i += LANES) \
    row_put_to(y, i, n, dt, row_get_to(a, i, n, dt) + row_get_to(b, i, n, dt))
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

#include "kernels/nn/cpu/simd_norm.h"
#include "kernels/nn/cpu/simd_act.h"

/* The row stays in cache between its three passes: maximum, sum of exponentials, gradient. The maximum ignores a NaN,
 * but the sum does not. */
INLINE float entropy_sum(const void *logits, int64_t V, float *max, const zero_dtype_t dtype)
{
    vf top[4], sum[4];
    for (int j = 0; j < 4; j++) {
        top[j] = vf_set(-INFINITY);
        sum[j] = (vf){0};
    }
    int64_t i = 0;
    for (; i + 4 * LANES <= V; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            top[j] = vf_max(row_get(logits, i + j * LANES, dtype), top[j]);
    for (; i < V; i += LANES)
        top[0] = vf_max(vf_select(vi_below(V - i), row_get_to(logits, i, V, dtype), top[0]), top[0]);
    *max = vf_top(vf_max(vf_max(top[0], top[1]), vf_max(top[2], top[3])));

    const float base = *max == -INFINITY ? 0 : *max; /* -inf - -inf would be a NaN */
    for (i = 0; i + 4 * LANES <= V; i += 4 * LANES)
        for (int j = 0; j < 4; j++)
            sum[j] += vf_exp(row_get(logits, i + j * LANES, dtype) - base);
    for (; i < V; i += LANES)
        sum[0] += (vf)(vi_below(V - i) & (vi)vf_exp(row_get_to(logits, i, V, dtype) - base));
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

KERNEL float rows_entropy_sum(const void *logits, int64_t V, float *max, zero_dtype_t dtype)
{
    float sum;
#define BODY(dt) sum = entropy_sum(logits, V, max, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
    return sum;
}

INLINE void entropy_grad(void *logits, int64_t target, int64_t V, float max, float sum, float scale,
                         const zero_dtype_t dtype)
{
    const float inverse = 1.0f / sum, factor = inverse * scale;
    const float at_target = target < 0 ? 0 : row_get_part(logits, target, 1, dtype)[0];
    int64_t i = 0;
    for (; i + LANES <= V; i += LANES)
        row_put(logits, i, dtype, vf_exp(row_get(logits, i, dtype) - max) * factor);
    if (i < V) /* a loop with this call of memcpy would keep its constants in memory */
        row_put_part(logits, i, V - i, dtype, vf_exp(row_get_part(logits, i, V - i, dtype) - max) * factor);
    if (target < 0)
        return;
    /* in fp32, so scale * (p - 1) is rounded once */
    float p = (vf_exp(vf_set(at_target - max))[0] * inverse - 1.0f) * scale;
    row_put_part(logits, target, 1, dtype, vf_set(p));
}

KERNEL void rows_entropy_grad(void *logits, int64_t target, int64_t V, float max, float sum, float scale,
                              zero_dtype_t dtype)
{
#define BODY(dt) entropy_grad(logits, target, V, max, sum, scale, dt)
    FOR_DTYPE(dtype, BODY);
#undef BODY
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* A tile of ROWS x VECTORS of C in registers. A (i, l) is at a[i * a_row + l * a_col]. Where speed matters, these are
 * constants after inlining. */
#define DEFINE_TILE(name, ROWS, VECTORS)                                                                               \
    INLINE void name(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_col, const float *b, int64_t ldb, \
                     int64_t k, bool add)                                                                              \
    {                                                                                                                  \
        vf sum[ROWS][VECTORS];                                                                                         \
        _Pragma("GCC unroll 16") for (int i = 0; i < (ROWS); i++)                                                      \
            _Pragma("GCC unroll 4") for (int j = 0; j < (VECTORS); j++) sum[i][j] =                                    \
                add ? vf_get(c + i * ldc + j * LANES) : (vf){0};                                                       \
        for (int64_t l = 0; l < k; l++) {                                                                              \
            vf bl[VECTORS];                                                                                            \
            _Pragma("GCC unroll 4") for (int j = 0; j < (VECTORS); j++) bl[j] = vf_get(b + l * ldb + j * LANES);       \
            _Pragma("GCC unroll 16") for (int i = 0; i < (ROWS); i++)                                                  \
            {                                                                                                          \
                vf ai = vf_set(a[i * a_row + l * a_col]);                                                              \
                _Pragma("GCC unroll 4") for (int j = 0; j < (VECTORS); j++) sum[i][j] = vf_fma(ai, bl[j], sum[i][j]);  \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 16") for (int i = 0; i < (ROWS); i++)                                                      \
            _Pragma("GCC unroll 4") for (int j = 0; j < (VECTORS); j++) vf_put(c + i * ldc + j * LANES, sum[i][j]);    \
    }

DEFINE_TILE(tile_many_2, BLOCK_M, 2)
DEFINE_TILE(tile_many_1, BLOCK_M, 1)
DEFINE_TILE(tile_one_2, 1, 2)
DEFINE_TILE(tile_one_1, 1, 1)

INLINE void block_product(float *c, int64_t ldc, const float *a, const int64_t a_row, const int64_t a_col,
                          const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, bool add)
{
    int64_t i = 0;
    for (; i + BLOCK_M <= m; i += BLOCK_M) {
        int64_t j = 0;
        for (; j + 2 * LANES <= n; j += 2 * LANES)
            tile_many_2(c + i * ldc + j, ldc, a + i * a_row, a_row, a_col, b + j, ldb, k, add);
        for (; j < n; j += LANES)
            tile_many_1(c + i * ldc + j, ldc, a + i * a_row, a_row, a_col, b + j, ldb, k, add);
    }
    for (; i < m; i++) {
        int64_t j = 0;
        for (; j + 2 * LANES <= n; j += 2 * LANES)
            tile_one_2(c + i * ldc + j, ldc, a + i * a_row, a_row, a_col, b + j, ldb, k, add);
        for (; j < n; j += LANES)
            tile_one_1(c + i * ldc + j, ldc, a + i * a_row, a_row, a_col, b + j, ldb, k, add);
    }
}

KERNEL void rows_block(float *c, int64_t ldc, const float *a, bool trans_a, const float *b, int64_t ldb, int64_t m,
                       int64_t n, int64_t k, bool add)
{
    if (trans_a)
        block_product(c, ldc, a, 1, ZERO_NN_BLOCK, b, ldb, m, n, k, add);
    else
        block_product(c, ldc, a, ZERO_NN_BLOCK, 1, b, ldb, m, n, k, add);
}

/* Prefetches C while the products are summed, and reads it only after that. */
KERNEL void rows_tile(float *c, int64_t ldc, const float *a, const float *b, int64_t k, bool add)
{
    vf sum[TILE_M][TILE_V];
    for (int i = 0; i < TILE_M; i++)
        for (int j = 0; j < TILE_V * LANES; j += 16)
            __builtin_prefetch(c + i * ldc + j, 1);
    _Pragma("GCC unroll 16") for (int i = 0; i < TILE_M; i++) _Pragma("GCC unroll 4") for (int j = 0; j < TILE_V; j++)
        sum[i][j] = (vf){0};
    for (int64_t l = 0; l < k; l++, a += TILE_M, b += TILE_V * LANES) {
        vf bl[TILE_V];
        _Pragma("GCC unroll 4") for (int j = 0; j < TILE_V; j++) bl[j] = vf_get(b + j * LANES);
        _Pragma("GCC unroll 16") for (int i = 0; i < TILE_M; i++)
        {
            vf ai = vf_set(a[i]);
            _Pragma("GCC unroll 4") for (int j = 0; j < TILE_V; j++) sum[i][j] = vf_fma(ai, bl[j], sum[i][j]);
        }
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < TILE_M; i++) _Pragma("GCC unroll 4") for (int j = 0; j < TILE_V; j++)
    {
        float *at = c + i * ldc + j * LANES;
        vf_put(at, add ? vf_get(at) + sum[i][j] : sum[i][j]);
    }
}

#include "kernels/nn/cpu/simd_attention.h"
#include "kernels/nn/cpu/simd_row.h"

const zero_nn_simd_t SIMD_TABLE = {
    .name = SIMD_NAME,
    .load = rows_load,
    .add = rows_add,
    .store = rows_store,
    .scale = rows_scale,
    .sum = rows_sum,
    .act = rows_act,
    .act_grad = rows_act_grad,
    .gated = rows_gated,
    .gated_grad = rows_gated_grad,
    .rotate = rows_rotate,
    .norm = rows_norm,
    .norm_grad = rows_norm_grad,
    .rms = rows_rms,
    .rms_grad = rows_rms_grad,
    .entropy_sum = rows_entropy_sum,
    .entropy_grad = rows_entropy_grad,
    .block = rows_block,
    .softmax = rows_softmax,
    .softmax_grad = rows_softmax_grad,
    .into = rows_into,
    .dots = rows_dots,
    .softmax_row = rows_softmax_row,
    .tile_m = TILE_M,
    .tile_n = TILE_V * LANES,
    .tile = rows_tile,
};
