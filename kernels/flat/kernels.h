/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - the single-threaded kernels under the CPU tables of flat.h: one table of them per SIMD level, all with
 * the same bits. Each works on elements [begin, end) of buffers that are given by their first element, so that the
 * threads of a call differ in two numbers only. */
#ifndef ZERO_FLAT_KERNELS_H
#define ZERO_FLAT_KERNELS_H

#include "kernels/flat/flat.h"

typedef struct zero_flat_kernels {
    /* As in flat.h. The dtypes differ: equal ones are a copy. */
    void (*cast)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t begin,
                 int64_t end);
    void (*accumulate)(float *dst, const void *src, zero_dtype_t src_dtype, int64_t begin, int64_t end);
    void (*sum)(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t begin, int64_t end);
    /* out[b] = sum of squares of the block of ZERO_NORM_BLOCK elements that starts at element b * ZERO_NORM_BLOCK, for
     * the blocks that lie in [begin, end). begin is a block's first element; the last block may be short. */
    void (*square_blocks)(double *out, const void *x, zero_dtype_t dtype, int64_t begin, int64_t end);
    /* begin is a multiple of ZERO_BLOCK8, and end too or u->count. */
    void (*update)(const zero_update_t *u, int64_t begin, int64_t end);
} zero_flat_kernels_t;

/* Plain C. The SIMD kernels also call these for the few elements at the end that fill no vector. */
extern const zero_flat_kernels_t zero_flat_ref_kernels;
void zero_flat_ref_update(const zero_update_t *u, int64_t begin, int64_t end);
#if defined(__x86_64__)
extern const zero_flat_kernels_t zero_flat_avx2_kernels;   /* AVX2, FMA, F16C */
extern const zero_flat_kernels_t zero_flat_avx512_kernels; /* AVX-512 F, BW, DQ, VL */
#endif

/* What zero_block8_t's k of m and of v are added to. */
enum { ZERO_BLOCK8_M = 889, ZERO_BLOCK8_V = 761 };

/* 1 / scale, by which a block is encoded. */
static inline float zero_block8_inverse(float scale)
{
    return scale < 0x1p-126f ? 0 : 1 / scale;
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
