/* SPDX-License-Identifier: Apache-2.0 */
/* vector.h - the flat kernels over vectors of any width. The file of each SIMD level includes it once, after it defines
 *
 *   SIMD                   the target attribute of its functions
 *   WIDTH                  floats in a vector: 8 or 16
 *   vec, dvec              a vector of WIDTH floats; of WIDTH / 2 doubles. The compiler's operators work on both
 *   v_load_fp32/bf16/fp16  WIDTH elements at an address of any alignment, in fp32
 *   v_store_fp32           its inverse; v_stream_fp32: the same past the caches, to an address that is a multiple of
 *                          the vector's size
 *   hvec, v_to_bf16/fp16   WIDTH elements of 16 bits, rounded to nearest even; h_store and h_stream store them likewise
 *   v_set, v_fma, v_sqrt   broadcast; a * b + c rounded once; square root
 *   ivec, i_min, i_max     a vector of WIDTH int32; the compiler's operators work on it. i_to_v: the same numbers in
 *                          fp32
 *   b_load, b_store        WIDTH bytes at an address of any alignment, as ints of 0 to 255
 *   d_low, d_high          the two halves of a vec as doubles
 *   d_fma, d_store         for dvec
 *
 * The file then includes update.h and codes.h, and names its table of kernels_* functions. The dtypes passed below are
 * constants, so every switch folds away. */
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
        h_store((uint16_t *)x + i, v_to_bf16(value));
    else if (dtype == ZERO_FP16)
        h_store((uint16_t *)x + i, v_to_fp16(value));
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

/* Two and four sources, the usual ranks of this kind of node, are summed in one pass without an inner loop of unknown
 * length. */
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

static SIMD void kernels_sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin,
                             int64_t end)
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

/* The whole blocks of [begin, end). Returns their end. */
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
