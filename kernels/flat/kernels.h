/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - the single-threaded kernels under the CPU tables of flat.h. Each SIMD level has one table; all give the
 * same bits. A kernel works on elements [begin, end). Buffers are passed by their first element, so the threads of a
 * call differ in these two numbers only. */
#ifndef ZERO_FLAT_KERNELS_H
#define ZERO_FLAT_KERNELS_H

#include "kernels/flat/flat.h"

typedef struct zero_flat_kernels {
    /* As in flat.h, but the dtypes differ: equal dtypes are a copy. */
    void (*cast)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t begin,
                 int64_t end);
    void (*accumulate)(float *dst, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end);
    void (*sum)(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end);
    /* out[b] = the sum of squares of the block of ZERO_NORM_BLOCK elements at element b * ZERO_NORM_BLOCK, for the
     * blocks in [begin, end). begin is the first element of a block. The last block may be short. */
    void (*square_blocks)(double *out, const void *x, zero_dtype_t dtype, int64_t begin, int64_t end);
    /* begin and end are multiples of ZERO_CODEC_BLOCK. decode: source k begins k * count elements after src. */
    void (*encode)(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end);
    void (*decode)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources, int64_t count,
                   int64_t begin, int64_t end);
    /* begin is a multiple of ZERO_BLOCK8. end is a multiple too, or u->count. */
    void (*update)(const zero_update_t *u, int64_t begin, int64_t end);
} zero_flat_kernels_t;

/* Plain C. The SIMD kernels also call these for the last few elements, which do not fill a vector. */
extern const zero_flat_kernels_t zero_flat_ref_kernels;
void zero_flat_ref_update(const zero_update_t *u, int64_t begin, int64_t end);
void zero_flat_ref_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t begin,
                          int64_t end);
void zero_flat_ref_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                          int64_t count, int64_t begin, int64_t end);
#if defined(__x86_64__)
extern const zero_flat_kernels_t zero_flat_avx2_kernels;   /* AVX2, FMA, F16C */
extern const zero_flat_kernels_t zero_flat_avx512_kernels; /* AVX-512 F, BW, DQ, VL */
#endif

/* The offsets of k in a zero_block8_t, for m and v. */
enum { ZERO_BLOCK8_M = 889, ZERO_BLOCK8_V = 761 };

/* 1 / scale, the factor that encodes a block of the 8-bit moments or of a codec. */
static inline float zero_scale_inverse(float scale)
{
    return scale < 0x1p-126f ? 0 : 1 / scale;
}

/* The largest code of a codec. */
static inline float zero_codec_most(zero_codec_t codec)
{
    return codec == ZERO_CODEC_INT4 ? 7 : 127;
}

/* The bytes of count elements in blocks of a codec. */
static inline int64_t zero_codec_bytes(zero_codec_t codec, int64_t count)
{
    const zero_format_t format = zero_format_codes(codec);
    return count / ZERO_CODEC_BLOCK * format.block_bytes;
}

/* Adds the 16 lanes of a block's sum of squares as a binary tree: l and l+8, l+4, l+2, l+1. */
static inline double zero_flat_lane_tree(const double lanes[16])
{
    double s[8];
    for (int l = 0; l < 8; l++)
        s[l] = lanes[l] + lanes[l + 8];
    for (int l = 0; l < 4; l++)
        s[l] += s[l + 4];
    s[0] += s[2];
    s[1] += s[3];
    return s[0] + s[1];
}

#endif
