/* SPDX-License-Identifier: Apache-2.0 */
/* flat.h - what the runtime does to flat buffers. One table per implementation; `ref` is plain C and the truth, the
 * others give the same bits (IEEE + - * / sqrt, fma only where written; -ffp-contract=off; no fast-math; no flush to
 * zero). All are element-wise or reduce in a fixed order, so that the number of threads never changes a bit. Buffers
 * are 128-byte aligned unless said otherwise; counts are elements and may be any number >= 0. native is the device's
 * stream (NULL on CPU, where a function returns when it is done).
 */
#ifndef ZERO_FLAT_FLAT_H
#define ZERO_FLAT_FLAT_H

#include "zero/base/base.h"

/* Scalars of one step of a rule, computed once in fp64 and rounded to fp32 (optim/rules.h). */
typedef struct zero_rule_scalars {
    float grad_factor, beta1, one_minus_beta1, beta2, one_minus_beta2, decay_factor, step_size, inv_sqrt_bc2, eps;
    float l2; /* weight decay that is added to the gradient */
} zero_rule_scalars_t;

/* How an optimizer (zero_rule_t) moves a parameter p, given its gradient. Per element, in this order, each line rounded
 * once per operation, with g = (float)grad * grad_factor first and buffers of state that begin as zeros:
 * ZERO_RULE_ADAMW: Loshchilov and Hutter 2019. decay_factor = 1 - lr * wd, step_size = lr / (1 - beta1^t), inv_sqrt_bc2
 * = 1 / sqrt(1 - beta2^t). m = fma(beta1, m, (1 - beta1) * g) v = fma(beta2, v, ((1 - beta2) * g) * g) p = p *
 * decay_factor p = fma(-step_size, m / fma(sqrt(v), inv_sqrt_bc2, eps), p) ZERO_RULE_ADAM: Kingma and Ba 2015, with
 * weight decay as PyTorch's Adam has it: l2 = wd. g = fma(l2, p, g) m, v and the last line as AdamW's ZERO_RULE_SGD:
 * PyTorch's SGD, without dampening and Nesterov: l2 = wd, beta1 = momentum, step_size = lr. state[0] NULL: no momentum,
 * b = g. g = fma(l2, p, g) b = beta1 * b + g p = fma(-step_size, b, p) ZERO_RULE_LION: Chen et al. 2023, algorithm 2.
 * decay_factor = 1 - lr * wd, step_size = lr; sign(0) = 0. c = fma(beta1, m, (1 - beta1) * g) m = fma(beta2, m, (1 -
 * beta2) * g) p = p * decay_factor p = p - step_size * sign(c) ZERO_RULE_ADAMW8: AdamW whose m and v are kept in 8
 * bits, in blocks (zero_block8_t): decoded to fp32, updated and used as AdamW's, encoded. */

/* Moments in 8 bits, by blocks of ZERO_BLOCK8 elements from the buffer's first, each with a scale of its own (the
 * block-wise quantization of Dettmers et al. 2022). Their code is a small floating-point number, its exponent below the
 * largest element's: a relative error of at most 1/16 wherever it reaches is what a quotient of two moments asks for,
 * and no table is needed. With scale   = the largest |x| of the block (of all their bits as integers: NaN is largest)
 *   bits(n) = the fp32 number whose bits are n * 2^20: three bits of mantissa; bits(1016) = 1
 * m has a sign in bit 7 of its code and a magnitude k below it, v is k alone:
 *   m = 0 where k = 0, or +-bits(889 + k) * scale: from 1.25 * 2^-16 of the scale up, zero below
 *   v = 0 where k = 0, or   bits(761 + k) * scale: from 1.25 * 2^-32 of the scale up; what is more than zero stays so
 * (k >= 1), since an update divides by it To encode x, with inv = 1 / scale, or 0 where scale is below 2^-126: k =
 * floor((bits of |x * inv| + 2^19) / 2^20) - 889 or - 761, between the smallest and the largest k (127, 255). Codes of
 * a block whose scale is not finite are unspecified. */
enum { ZERO_BLOCK8 = 128 };
typedef struct zero_block8 {
    float scale;
    uint8_t code[ZERO_BLOCK8];
} zero_block8_t; /* 132 bytes */

/* Elements [begin, begin + count) of state[0] (m) or state[1] (v), decoded. */
void zero_block8_read(float *out, const zero_block8_t *blocks, int state, int64_t begin, int64_t count);
/* Its inverse: count elements from the first block's start, encoded. Of the last block, only the codes of elements that
 * there are change. */
void zero_block8_write(zero_block8_t *blocks, int state, const float *values, int64_t count);

/* One step of count elements. What it reads and writes is as large as count says: master, grad and param count
 * elements, state[] as the rule has it: AdamW, Adam {m, v}, SGD {b} and Lion {m} in fp32; 8-bit AdamW {m, v} of
 * ceil(count / ZERO_BLOCK8) blocks, of the last of which only the codes of elements that there are change. */
typedef struct zero_update {
    zero_rule_t rule;
    zero_dtype_t grad_dtype, param_dtype;
    int64_t count;
    float *master;
    void *state[2];
    const void *grad;
    void *param; /* where not NULL and not master, it gets master rounded to param_dtype in the same pass */
    zero_rule_scalars_t scalars;
} zero_update_t;

typedef struct zero_flat_ops {
    const char *name; /* "ref", "avx2", "avx512", "cuda" */

    /* bytes zero bytes. */
    void (*fill_zero)(void *dst, uint64_t bytes, int threads, void *native);
    /* memcpy by threads. */
    void (*copy)(void *dst, const void *src, uint64_t bytes, int threads, void *native);
    /* dst[i] = src[i], rounded to nearest even. dst and src may be the same only where the dtypes are. */
    void (*cast)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                 void *native);
    /* dst[i] += src[i], dst fp32. */
    void (*accumulate)(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *native);
    /* dst[i] = src[0][i] + src[1][i] + ... in that order in fp32, rounded once to dtype. dst may be one of the sources.
     * sources >= 1. */
    void (*sum)(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count, int threads,
                void *native);
    /* *out = sum of squares in fp64: blocks of ZERO_NORM_BLOCK elements from x[0], within a block 16 lanes (lane l
     * takes elements l, l+16, ..., sum = fma(x, x, sum)), lanes added as a binary tree (l and l+8, l+4, l+2, l+1),
     * blocks added in index order, which is the order in which a norm goes on behind another one. scratch gets the sums
     * of the blocks, ceil(count / ZERO_NORM_BLOCK) doubles. count 0 gives 0. */
    void (*square_sum)(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads,
                       void *native);
    /* count updates in place, which have rule and dtypes in common and share no element. u is the caller's and free
     * again when the call returns. */
    void (*update)(const zero_update_t *u, int count, int threads, void *native);
} zero_flat_ops_t;

/* Plain C, one thread whatever threads says. */
const zero_flat_ops_t *zero_flat_ref(void);
/* OpenMP and the best SIMD that this processor has; threads 0: OpenMP's default. Never NULL. */
const zero_flat_ops_t *zero_flat_cpu(void);
/* By name ("ref", "scalar", "avx2", "avx512"): NULL where this processor or build has not got it (tests). */
const zero_flat_ops_t *zero_flat_find(const char *name);
/* What works on a device's memory and streams: zero_flat_cpu(), or for a GPU the plugin's table (kernels/flat/cuda.h;
 * ZERO_ERR_UNSUPPORTED where the plugin is absent or another version's). Valid for the process's life. */
zero_status_t zero_flat_of(const zero_device_t *device, const zero_flat_ops_t **ops, zero_error_t *error);

#endif
