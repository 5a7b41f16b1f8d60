/* SPDX-License-Identifier: Apache-2.0 */
/* flat.c - the flat kernels in plain C, the reference. Tests compare the other implementations with it bit for bit. The
 * code aims to be easy to read. The optimizers are in update.c, blocks of codecs in codes.c. */
#include "kernels/flat/kernels.h"

static void cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        zero_element_set(dst, i, dst_dtype, zero_element(src, i, src_dtype));
}

static void accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        dst[i] += zero_element(src, i, src_dtype);
}

static void sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        float s = zero_element(src[0], i, dtype);
        for (int k = 1; k < sources; k++)
            s += zero_element(src[k], i, dtype);
        zero_element_set(dst, i, dtype, s);
    }
}

static void square_blocks(double *out, const void *x, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    for (int64_t first = begin; first < end; first += ZERO_NORM_BLOCK) {
        int64_t last = first + ZERO_NORM_BLOCK < end ? first + ZERO_NORM_BLOCK : end;
        double lanes[16] = {0};
        for (int64_t i = first; i < last; i++) {
            double e = zero_element(x, i, dtype);
            lanes[(i - first) % 16] += e * e; /* fma(e, e, lane): the square of a 24-bit number is exact in fp64 */
        }
        out[first / ZERO_NORM_BLOCK] = zero_flat_lane_tree(lanes);
    }
}

const zero_flat_kernels_t zero_flat_ref_kernels = {.cast = cast,
                                                   .accumulate = accumulate,
                                                   .sum = sum,
                                                   .square_blocks = square_blocks,
                                                   .encode = zero_flat_ref_encode,
                                                   .decode = zero_flat_ref_decode,
                                                   .update = zero_flat_ref_update};

/* The table. It uses one thread and ignores threads. */

static void ref_fill_zero(void *dst, uint64_t bytes, int threads, void *native)
{
    (void)threads, (void)native;
    if (bytes > 0)
        memset(dst, 0, bytes);
}

static void ref_copy(void *dst, const void *src, uint64_t bytes, int threads, void *native)
{
    (void)threads, (void)native;
    if (bytes > 0 && dst != src)
        memcpy(dst, src, bytes);
}

static void ref_cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count,
                     int threads, void *native)
{
    if (dst_dtype == src_dtype)
        ref_copy(dst, src, (uint64_t)count * zero_dtype_size(src_dtype), threads, native);
    else
        cast(dst, dst_dtype, src, src_dtype, 0, count);
}

static void ref_accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                           void *native)
{
    (void)threads, (void)native;
    accumulate(dst, src, src_dtype, 0, count);
}

static void ref_sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count, int threads,
                    void *native)
{
    (void)threads, (void)native;
    sum(dst, src, sources, dtype, 0, count);
}

static void ref_square_sum(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads,
                           void *native)
{
    (void)threads, (void)native;
    square_blocks(scratch, x, dtype, 0, count);
    double total = 0;
    for (int64_t b = 0; b * ZERO_NORM_BLOCK < count; b++)
        total += scratch[b];
    *out = total;
}

static void ref_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t count,
                       int threads, void *native)
{
    (void)threads, (void)native;
    zero_flat_ref_encode(dst, codec, src, src_dtype, 0, count);
}

static void ref_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                       int64_t count, int threads, void *native)
{
    (void)threads, (void)native;
    zero_flat_ref_decode(dst, dst_dtype, src, codec, sources, count, 0, count);
}

static void ref_update(const zero_update_t *u, int count, int threads, void *native)
{
    (void)threads, (void)native;
    for (int k = 0; k < count; k++)
        zero_flat_ref_update(&u[k], 0, u[k].count);
}

const zero_flat_ops_t *zero_flat_ref(void)
{
    static const zero_flat_ops_t ops = {.name = "ref",
                                        .fill_zero = ref_fill_zero,
                                        .copy = ref_copy,
                                        .cast = ref_cast,
                                        .accumulate = ref_accumulate,
                                        .sum = ref_sum,
                                        .encode = ref_encode,
                                        .decode = ref_decode,
                                        .square_sum = ref_square_sum,
                                        .update = ref_update};
    return &ops;
}
