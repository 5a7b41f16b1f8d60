/* SPDX-License-Identifier: Apache-2.0 */
/* flat.h - operations on flat buffers. Each implementation is one table. `ref` is plain C and the reference; the others
 * give the same bits (IEEE + - * / sqrt; fma only where written; -ffp-contract=off; no fast-math; no flush to zero).
 * All operations are element-wise or reduce in a fixed order, so the number of threads never changes a bit.
 *
 * Unless stated otherwise, buffers are 128-byte aligned. Counts are elements and may be any number >= 0. native is the
 * device's stream (NULL on CPU, where a function returns when the work is done). */
#ifndef ZERO_FLAT_FLAT_H
#define ZERO_FLAT_FLAT_H

#include "zero/base/base.h"

/* The scalars of one step of a rule, computed once in fp64 and rounded to fp32 (optim/rules.h). */
typedef struct zero_rule_scalars {
    float grad_factor, beta1, one_minus_beta1, beta2, one_minus_beta2, decay_factor, step_size, inv_sqrt_bc2, eps;
    float l2; /* weight decay that the rule adds to the gradient */
} zero_rule_scalars_t;

/* How an optimizer (zero_rule_t) updates a parameter p from its gradient. The lines run in this order for each element.
 * Each operation rounds once. First g = (float)grad * grad_factor. Buffers of state start as zeros.
 *
 * ZERO_RULE_ADAMW: Loshchilov and Hutter 2019.
 *   decay_factor = 1 - lr * wd, step_size = lr / (1 - beta1^t), inv_sqrt_bc2 = 1 / sqrt(1 - beta2^t).
 *     m = fma(beta1, m, (1 - beta1) * g)
 *     v = fma(beta2, v, ((1 - beta2) * g) * g)
 *     p = p * decay_factor
 *     p = fma(-step_size, m / fma(sqrt(v), inv_sqrt_bc2, eps), p)
 * ZERO_RULE_ADAM: Kingma and Ba 2015, with the weight decay of PyTorch's Adam: l2 = wd.
 *     g = fma(l2, p, g)
 *     m, v and the last line are those of AdamW
 * ZERO_RULE_SGD: PyTorch's SGD without dampening and Nesterov: l2 = wd, beta1 = momentum, step_size = lr.
 *   Without momentum state[0] is NULL and b = g.
 *     g = fma(l2, p, g)
 *     b = beta1 * b + g
 *     p = fma(-step_size, b, p)
 * ZERO_RULE_LION: Chen et al. 2023, algorithm 2. decay_factor = 1 - lr * wd, step_size = lr; sign(0) = 0.
 *     c = fma(beta1, m, (1 - beta1) * g)
 *     m = fma(beta2, m, (1 - beta2) * g)
 *     p = p * decay_factor
 *     p = p - step_size * sign(c)
 * ZERO_RULE_ADAMW8: AdamW with m and v in 8 bits, in blocks (zero_block8_t). The rule decodes them to fp32, updates and
 * uses them as AdamW does, and encodes them.
 * ZERO_RULE_MUON: Jordan et al. 2024, in two calls; between them the caller makes whole matrices orthogonal. beta1 =
 *   momentum. With state[0] the call computes the direction and does not read p:
 *     m = fma(beta1, m, (1 - beta1) * g)
 *     p = fma(beta1, m, (1 - beta1) * g)
 *   With state[0] NULL, grad is the orthogonal matrix; decay_factor = 1 - lr * wd.
 *     p = p * decay_factor
 *     p = fma(-step_size, g, p) */

/* Moments in 8 bits. A block holds ZERO_BLOCK8 elements, counted from the start of the buffer, and has its own scale
 * (block-wise quantization, Dettmers et al. 2022). The code of an element is a small floating-point number with an
 * exponent relative to the largest element. Its relative error is at most 1/16 within its range, which suffices for a
 * quotient of two moments, and it needs no table. With
 *   scale   = the largest |x| of the block (compared by bits as integers: NaN is largest)
 *   bits(n) = the fp32 number whose bits are n * 2^20: three bits of mantissa; bits(1016) = 1
 * the code of m has a sign in bit 7 and a magnitude k below it; the code of v is k alone:
 *   m = 0 if k = 0, else +-bits(889 + k) * scale: from 1.25 * 2^-16 of the scale up, zero below
 *   v = 0 if k = 0, else   bits(761 + k) * scale: from 1.25 * 2^-32 of the scale up
 * A v above zero keeps k >= 1, since an update divides by it. To encode x, with inv = 1 / scale (0 if scale < 2^-126):
 *   k = floor((bits of |x * inv| + 2^19) / 2^20) - 889 (m) or - 761 (v), clamped to the smallest and largest k
 *       (127, 255)
 * Codes of a block with a scale that is not finite are unspecified. */
enum { ZERO_BLOCK8 = 128 };
typedef struct zero_block8 {
    float scale;
    uint8_t code[ZERO_BLOCK8];
} zero_block8_t; /* 132 bytes */

/* Decodes elements [begin, begin + count) of state[0] (m) or state[1] (v). */
void zero_block8_read(float *out, const zero_block8_t *blocks, int state, int64_t begin, int64_t count);
/* The inverse: encodes count elements, starting at the first block. In the last block only the codes of these elements
 * change. */
void zero_block8_write(zero_block8_t *blocks, int state, const float *values, int64_t count);

/* Blocks that a codec codes (zero_format_codes): what quantized collectives send (ZeRO++: Wang et al. 2023,
 * arXiv:2306.10209, whose blocks have more elements). A block is the scale, then the codes. With
 *   largest = the largest |x| of the block (compared by bits as integers: NaN is largest)
 *   scale   = largest / 127 (int8) or largest / 7 (int4)
 *   inv     = 1 / scale; 0 if scale < 2^-126
 *   code    = x * inv, rounded to the nearest integer, to even if two are as near
 * an element decodes to code * scale, which is never -0. Each operation rounds once. If largest is not finite, it is
 * the scale, and the codes are 0: all elements decode to NaN. Codes are two's complement: of int8, byte i is element i;
 * of int4, byte i has element i in its lower half and element i + 64 in its upper half. */

/* One step of count elements. master, grad and param have count elements. state[] depends on the rule: AdamW and Adam
 * {m, v}, SGD {b} and Lion {m} in fp32; 8-bit AdamW {m, v} in ceil(count / ZERO_BLOCK8) blocks. In the last block only
 * the codes of the count elements change. */
typedef struct zero_update {
    zero_rule_t rule;
    zero_dtype_t grad_dtype, param_dtype;
    int64_t count;
    float *master;
    void *state[2];
    const void *grad;
    void *param; /* if neither NULL nor master: receives master rounded to param_dtype in the same pass */
    zero_rule_scalars_t scalars;
} zero_update_t;

typedef struct zero_flat_ops {
    const char *name; /* "ref", "avx2", "avx512", "cuda" */

    /* Writes zero bytes. */
    void (*fill_zero)(void *dst, uint64_t bytes, int threads, void *native);
    /* memcpy with several threads. */
    void (*copy)(void *dst, const void *src, uint64_t bytes, int threads, void *native);
    /* dst[i] = src[i], rounded to nearest even. dst and src may be the same buffer only if the dtypes are equal. */
    void (*cast)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                 void *native);
    /* dst[i] += src[i]; dst is fp32. */
    void (*accumulate)(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *native);
    /* dst[i] = src[0][i] + src[1][i] + ... in this order in fp32, rounded once to dtype. dst may be one of the sources.
     * sources >= 1. */
    void (*sum)(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count, int threads,
                void *native);
    /* dst becomes count elements of src in blocks of the codec. count is a multiple of ZERO_CODEC_BLOCK. dst is aligned
     * to 4 bytes. */
    void (*encode)(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                   void *native);
    /* dst[i] = x0[i] + x1[i] + ... in this order in fp32, rounded once to dst_dtype, where xk are the decoded elements
     * of source k. src has the blocks of the sources, one after the other, count elements each; count is a multiple of
     * ZERO_CODEC_BLOCK. sources >= 1: one source is only decoded. src is aligned to 4 bytes. */
    void (*decode)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources, int64_t count,
                   int threads, void *native);
    /* *out = the sum of squares in fp64, in blocks of ZERO_NORM_BLOCK elements from x[0]. A block has 16 lanes: lane l
     * takes elements l, l+16, ...: sum = fma(x, x, sum). The lanes are added as a binary tree (l and l+8, l+4, l+2,
     * l+1), and the blocks in index order, so a norm can continue after another buffer. scratch receives the sums of
     * the blocks, ceil(count / ZERO_NORM_BLOCK) doubles. count 0 gives 0. */
    void (*square_sum)(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads,
                       void *native);
    /* Applies count updates in place. They have the same rule and dtypes and share no element. The caller may reuse u
     * as soon as the call returns. */
    void (*update)(const zero_update_t *u, int count, int threads, void *native);
} zero_flat_ops_t;

/* Plain C on one thread; ignores threads. */
const zero_flat_ops_t *zero_flat_ref(void);
/* OpenMP and the best SIMD level of this processor. threads 0 means OpenMP's default. Never NULL. */
const zero_flat_ops_t *zero_flat_cpu(void);
/* The table of this name ("ref", "scalar", "avx2", "avx512"), for tests. NULL if this processor or build lacks it. */
const zero_flat_ops_t *zero_flat_find(const char *name);
/* The table for a device's memory and streams: zero_flat_cpu(), or for a GPU the plugin's table (kernels/flat/cuda.h).
 * ZERO_ERR_UNSUPPORTED: the plugin is absent or has another version. The table stays valid until the process ends. */
zero_status_t zero_flat_of(const zero_device_t *device, const zero_flat_ops_t **ops, zero_error_t *error);

#endif
