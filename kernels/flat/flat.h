/* flat.h - what the runtime does to flat buffers. One table per implementation; `ref` is plain C and the truth, the others give
 * the same bits (IEEE + - * / sqrt, fma only where written; -ffp-contract=off; no fast-math; no flush to zero).
 * All are element-wise or reduce in a fixed order, so that the number of threads never changes a bit. Buffers are 128-byte
 * aligned unless said otherwise; counts are elements and may be any number >= 0. native is the device's stream (NULL on CPU, where a
 * function returns when it is done).
 */
#ifndef ZERO_FLAT_FLAT_H
#define ZERO_FLAT_FLAT_H

#include "zero/base/base.h"

/* Scalars of one AdamW step, computed once in fp64 and rounded to fp32 (optim/adamw.h). Per element, in this order, each line rounded once
 * per operation:
 *   g = (float)grad * grad_factor
 *   m = fma(beta1, m, (1 - beta1) * g)
 *   v = fma(beta2, v, ((1 - beta2) * g) * g)
 *   p = p * decay_factor
 *   p = fma(-step_size, m / fma(sqrt(v), inv_sqrt_bc2, eps), p)
 * decay_factor = 1 - lr * wd, step_size = lr / (1 - beta1^t), inv_sqrt_bc2 = 1 / sqrt(1 - beta2^t) (Loshchilov and Hutter 2019). */
typedef struct zero_adamw_scalars {
    float grad_factor, beta1, one_minus_beta1, beta2, one_minus_beta2, decay_factor, step_size, inv_sqrt_bc2, eps;
} zero_adamw_scalars_t;

typedef struct zero_flat_ops {
    const char *name; /* "ref", "avx2", "avx512" */

    /* bytes zero bytes. */
    void (*fill_zero)(void *dst, uint64_t bytes, int threads, void *native);
    /* memcpy by threads. */
    void (*copy)(void *dst, const void *src, uint64_t bytes, int threads, void *native);
    /* dst[i] = src[i], rounded to nearest even. dst and src may be the same only where the dtypes are. */
    void (*cast)(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *native);
    /* dst[i] += src[i], dst fp32. */
    void (*accumulate)(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *native);
    /* dst[i] = src[0][i] + src[1][i] + ... in that order in fp32, rounded once to dtype. dst may be one of the sources. sources >= 1. */
    void (*sum)(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count, int threads, void *native);
    /* *out = sum of squares in fp64: blocks of ZERO_NORM_BLOCK elements from x[0], within a block 16 lanes (lane l takes elements l, l+16, ...,
     * sum = fma(x, x, sum)), lanes added as a binary tree (l and l+8, l+4, l+2, l+1), blocks added in index order. scratch holds
     * ceil(count / ZERO_NORM_BLOCK) doubles. count 0 gives 0. */
    void (*square_sum)(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads, void *native);
    /* master (fp32) and moments in place; param, where not NULL and not master, gets master rounded to param_dtype in the same pass. */
    void (*adamw)(float *master, float *m, float *v, const void *grad, zero_dtype_t grad_dtype, void *param, zero_dtype_t param_dtype,
                  int64_t count, const zero_adamw_scalars_t *scalars, int threads, void *native);
} zero_flat_ops_t;

/* Plain C, one thread whatever threads says. */
const zero_flat_ops_t *zero_flat_ref(void);
/* OpenMP and the best SIMD that this processor has; threads 0: OpenMP's default. Never NULL. */
const zero_flat_ops_t *zero_flat_cpu(void);
/* By name ("ref", "scalar", "avx2", "avx512"): NULL where this processor or build has not got it (tests). */
const zero_flat_ops_t *zero_flat_find(const char *name);

#endif
