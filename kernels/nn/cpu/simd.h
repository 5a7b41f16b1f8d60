/* SPDX-License-Identifier: Apache-2.0 */
/* simd.h - the row and block kernels of the CPU backend, serial, one table per instruction set. simd_rows.h holds them
 * once; avx512.c, avx2.c and base.c compile it for their vectors. Callers split the work over threads; no function here
 * depends on how. Sums run over lanes and are then added lane by lane in a fixed tree: the same bits for the same
 * instruction set. */
#ifndef ZERO_NN_SIMD_H
#define ZERO_NN_SIMD_H

#include "zero/base/base.h"

/* Side of a block of attention scores, and leading dimension of the buffers that hold blocks. */
#define ZERO_NN_BLOCK 64
/* Rows of packed buffers are padded with zeros to a multiple of this: no kernel on blocks has a tail. */
#define ZERO_NN_LANES 16

typedef struct zero_nn_simd {
    const char *name; /* "avx512", "avx2", "base" */

    /* Rows of n elements between fp32 and dtype: y = x; y += x; y = x rounded once. */
    void (*load)(float *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*add)(float *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*store)(void *y, const float *x, int64_t n, zero_dtype_t dtype);
    /* y = s x, fp32, n elements. y may be x. */
    void (*scale)(float *y, const float *x, float s, int64_t n);

    /* y = a + b; y = gelu(x); dx = dy gelu'(x). In place allowed. */
    void (*sum)(void *y, const void *a, const void *b, int64_t n, zero_dtype_t dtype);
    void (*gelu)(void *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*gelu_grad)(void *dx, const void *dy, const void *x, int64_t n, zero_dtype_t dtype);

    /* One row of a layer norm. The gradient adds this row's part to dw, db (C) fp32; residual may be NULL. */
    void (*norm)(void *y, float *mean, float *rstd, const void *x, const void *w, const void *b, int64_t C, float eps,
                 zero_dtype_t dtype);
    void (*norm_grad)(void *dx, float *dw, float *db, const void *residual, const void *dy, const void *x,
                      const void *w, float mean, float rstd, int64_t C, zero_dtype_t dtype);

    /* One row of logits (V): returns its loss; with grad overwrites it by softmax - onehot. */
    float (*entropy)(void *logits, int64_t target, int64_t V, bool grad, zero_dtype_t dtype);

    /* C (m, n) = A (m, k) B (k, n), + C where add. fp32; n is a multiple of ZERO_NN_LANES and every row of b and c
     * aligned to so many floats. A is (m, k) with rows of ZERO_NN_BLOCK floats, or with trans_a stored transposed: (k,
     * m) with such rows. */
    void (*block)(float *c, int64_t ldc, const float *a, bool trans_a, const float *b, int64_t ldb, int64_t m,
                  int64_t n, int64_t k, bool add);
    /* A step of the online softmax. s (keys, queries) are scores, in rows of ZERO_NN_BLOCK, and become exp(s - max);
     * max and sum (queries) are brought up to date; factor (queries) is what the output so far must be multiplied by.
     * Where diagonal, key i is hidden from queries < i: its score becomes 0. */
    void (*softmax)(float *s, float *max, float *sum, float *factor, int64_t keys, bool diagonal);
    /* p = exp(s - lse) in place of s, ds = p (dp - delta) in place of dp; lse and delta (queries). Hidden ones become
     * 0. */
    void (*softmax_grad)(float *s, float *dp, const float *lse, const float *delta, int64_t keys, bool diagonal);

    /* C (tile_m, tile_n), rows ldc apart, = A B, or += where add. A is packed (k, tile_m), B packed (k, tile_n). */
    int tile_m, tile_n;
    void (*tile)(float *c, int64_t ldc, const float *a, const float *b, int64_t k, bool add);
} zero_nn_simd_t;

extern const zero_nn_simd_t zero_nn_simd_base;
#if defined(__x86_64__)
extern const zero_nn_simd_t zero_nn_simd_avx2, zero_nn_simd_avx512;
#endif

/* The best that this processor has. */
const zero_nn_simd_t *zero_nn_simd_best(void);

#endif
