/* vector.h - the flat kernels over vectors of any width, included once by the file of each SIMD level, which first defines
 *
 *   SIMD                   the target attribute of its functions
 *   WIDTH                  floats in a vector: 8 or 16
 *   vec, dvec              a vector of WIDTH floats; of WIDTH / 2 doubles. The compiler's own operators work on both
 *   v_load_fp32/bf16/fp16  WIDTH elements at an address of any alignment, in fp32
 *   v_store_fp32/bf16/fp16 their inverse, rounded to nearest even
 *   v_set, v_fma, v_sqrt   broadcast; a * b + c rounded once; square root
 *   d_low, d_high          the two halves of a vec as doubles
 *   d_fma, d_store         on dvec
 *
 * and then names its table of kernels_* functions. dtypes are constants wherever they are passed below, so every switch folds
 * away. */
#include "kernels/flat/kernels.h"

#define INLINE static inline SIMD __attribute__((always_inline))

/* CALL(dtype) with dtype as a constant. */
#define BY_DTYPE(dtype, CALL) \
    switch (dtype) {          \
    case ZERO_BF16:           \
        CALL(ZERO_BF16);      \
        break;                \
    case ZERO_FP16:           \
        CALL(ZERO_FP16);      \
        break;                \
    default:                  \
        CALL(ZERO_FP32);      \
    }

INLINE vec v_load(const void *x, zero_dtype_t dtype, int64_t i)
{
    if (dtype == ZERO_BF16)
        return v_load_bf16((const uint16_t *)x + i);
    if (dtype == ZERO_FP16)
        return v_load_fp16((const uint16_t *)x + i);
    return v_load_fp32((const float *)x + i);
}

INLINE void v_store(void *x, zero_dtype_t dtype, int64_t i, vec value)
{
    if (dtype == ZERO_BF16)
        v_store_bf16((uint16_t *)x + i, value);
    else if (dtype == ZERO_FP16)
        v_store_fp16((uint16_t *)x + i, value);
    else
        v_store_fp32((float *)x + i, value);
}

/* The end of the whole vectors in [begin, end). */
INLINE int64_t whole(int64_t begin, int64_t end)
{
    return begin + (end - begin) / WIDTH * WIDTH;
}

INLINE void cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += WIDTH)
        v_store(dst, dst_dtype, i, v_load(src, src_dtype, i));
}

static SIMD void kernels_cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t begin,
                              int64_t end)
{
    int64_t mid = whole(begin, end);
#define FROM_BF16(dtype) cast(dst, dtype, src, ZERO_BF16, begin, mid)
#define FROM_FP16(dtype) cast(dst, dtype, src, ZERO_FP16, begin, mid)
#define FROM_FP32(dtype) cast(dst, dtype, src, ZERO_FP32, begin, mid)
    if (src_dtype == ZERO_BF16)
        BY_DTYPE(dst_dtype, FROM_BF16)
    else if (src_dtype == ZERO_FP16)
        BY_DTYPE(dst_dtype, FROM_FP16)
    else
        BY_DTYPE(dst_dtype, FROM_FP32)
    zero_flat_ref_kernels.cast(dst, dst_dtype, src, src_dtype, mid, end);
}

INLINE void accumulate(float *dst, const void *src, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += WIDTH)
        v_store_fp32(dst + i, v_load_fp32(dst + i) + v_load(src, dtype, i));
}

static SIMD void kernels_accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end)
{
    int64_t mid = whole(begin, end);
#define ACCUMULATE(dtype) accumulate(dst, src, dtype, begin, mid)
    BY_DTYPE(src_dtype, ACCUMULATE)
    zero_flat_ref_kernels.accumulate(dst, src, src_dtype, mid, end);
}

/* Two and four sources, the usual node of this kind, keep their sum in one pass without an inner loop of unknown length. */
INLINE void sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += WIDTH) {
        vec s = v_load(src[0], dtype, i);
        for (int k = 1; k < sources; k++)
            s = s + v_load(src[k], dtype, i);
        v_store(dst, dtype, i, s);
    }
}

INLINE void sum_any(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    if (sources == 2)
        sum(dst, (const void *[]){src[0], src[1]}, 2, dtype, begin, end);
    else if (sources == 4)
        sum(dst, (const void *[]){src[0], src[1], src[2], src[3]}, 4, dtype, begin, end);
    else
        sum(dst, src, sources, dtype, begin, end);
}

static SIMD void kernels_sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    int64_t mid = whole(begin, end);
#define SUM(dtype) sum_any(dst, src, sources, dtype, begin, mid)
    BY_DTYPE(dtype, SUM)
    zero_flat_ref_kernels.sum(dst, src, sources, dtype, mid, end);
}

INLINE double square_block(const void *x, zero_dtype_t dtype, int64_t first)
{
    dvec lanes[32 / WIDTH] = {0}; /* 16 fp64 lanes, WIDTH / 2 in each */
    for (int64_t i = first; i < first + ZERO_NORM_BLOCK; i += 16)
        for (int k = 0; k < 16 / WIDTH; k++) {
            vec e = v_load(x, dtype, i + k * WIDTH);
            lanes[2 * k] = d_fma(d_low(e), d_low(e), lanes[2 * k]);
            lanes[2 * k + 1] = d_fma(d_high(e), d_high(e), lanes[2 * k + 1]);
        }
    double out[16];
    for (int k = 0; k < 32 / WIDTH; k++)
        d_store(out + k * (WIDTH / 2), lanes[k]);
    return zero_flat_lane_tree(out);
}

/* The blocks of [begin, end) that are whole; returns where they end. */
INLINE int64_t square_whole(double *out, const void *x, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    for (; begin + ZERO_NORM_BLOCK <= end; begin += ZERO_NORM_BLOCK)
        out[begin / ZERO_NORM_BLOCK] = square_block(x, dtype, begin);
    return begin;
}

static SIMD void kernels_square_blocks(double *out, const void *x, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    int64_t mid = begin;
#define SQUARE(dtype) mid = square_whole(out, x, dtype, begin, end)
    BY_DTYPE(dtype, SQUARE)
    zero_flat_ref_kernels.square_blocks(out, x, dtype, mid, end);
}

/* Bound by memory: measured with two threads on Zen 4, this runs at 0.97 of the rate at which its four arrays can be read and
 * nothing done; unrolling and software prefetch change nothing, non-temporal stores cost a sixth. */
INLINE void adamw(float *master, float *m, float *v, const void *grad, zero_dtype_t grad_dtype, void *param,
                  zero_dtype_t param_dtype, const zero_adamw_scalars_t *c, int64_t begin, int64_t end)
{
    const vec grad_factor = v_set(c->grad_factor), beta1 = v_set(c->beta1), beta2 = v_set(c->beta2);
    const vec one_minus_beta1 = v_set(c->one_minus_beta1), one_minus_beta2 = v_set(c->one_minus_beta2);
    const vec decay_factor = v_set(c->decay_factor), step = v_set(-c->step_size);
    const vec inv_sqrt_bc2 = v_set(c->inv_sqrt_bc2), eps = v_set(c->eps);
    for (int64_t i = begin; i < end; i += WIDTH) {
        vec g = v_load(grad, grad_dtype, i) * grad_factor;
        vec m_new = v_fma(beta1, v_load_fp32(m + i), one_minus_beta1 * g);
        vec v_new = v_fma(beta2, v_load_fp32(v + i), (one_minus_beta2 * g) * g);
        vec p = v_load_fp32(master + i) * decay_factor;
        p = v_fma(step, m_new / v_fma(v_sqrt(v_new), inv_sqrt_bc2, eps), p);
        v_store_fp32(m + i, m_new);
        v_store_fp32(v + i, v_new);
        v_store_fp32(master + i, p);
        if (param)
            v_store(param, param_dtype, i, p);
    }
}

static SIMD void kernels_adamw(float *master, float *m, float *v, const void *grad, zero_dtype_t grad_dtype, void *param,
                               zero_dtype_t param_dtype, const zero_adamw_scalars_t *scalars, int64_t begin, int64_t end)
{
    int64_t mid = whole(begin, end);
#define ADAMW_ALONE(dtype) adamw(master, m, v, grad, dtype, NULL, ZERO_FP32, scalars, begin, mid)
#define ADAMW_BF16(dtype) adamw(master, m, v, grad, dtype, param, ZERO_BF16, scalars, begin, mid)
#define ADAMW_FP16(dtype) adamw(master, m, v, grad, dtype, param, ZERO_FP16, scalars, begin, mid)
#define ADAMW_FP32(dtype) adamw(master, m, v, grad, dtype, param, ZERO_FP32, scalars, begin, mid)
    if (!param)
        BY_DTYPE(grad_dtype, ADAMW_ALONE)
    else if (param_dtype == ZERO_BF16)
        BY_DTYPE(grad_dtype, ADAMW_BF16)
    else if (param_dtype == ZERO_FP16)
        BY_DTYPE(grad_dtype, ADAMW_FP16)
    else
        BY_DTYPE(grad_dtype, ADAMW_FP32)
    zero_flat_ref_kernels.adamw(master, m, v, grad, grad_dtype, param, param_dtype, scalars, mid, end);
}
