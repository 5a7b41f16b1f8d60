/* SPDX-License-Identifier: Apache-2.0 */
/* simd.h - the row and block kernels of the CPU backend. They are serial, one table per instruction set. simd_rows.h
 * has the source; avx512.c, avx2.c and base.c compile it for their vectors. Callers divide the work among threads; no
 * function here depends on the division. Sums run in lanes, and a fixed tree then adds the lanes. So one instruction
 * set always gives the same bits. */
#ifndef ZERO_NN_SIMD_H
#define ZERO_NN_SIMD_H

#include "kernels/nn/nn.h"

/* Side of a block of attention scores, and leading dimension of the buffers that hold blocks. */
#define ZERO_NN_BLOCK 64
/* Rows of packed buffers are padded with zeros to a multiple of this, so no block kernel has a tail. */
#define ZERO_NN_LANES 16

/* The keys that each query of a block sees, of a block of `keys` keys: [begin, end), empty if end <= begin. 0 <= begin,
 * end <= keys; neither decreases from query to query. In calls NULL: all keys. */
typedef struct zero_nn_seen {
    int32_t begin[ZERO_NN_BLOCK], end[ZERO_NN_BLOCK];
} zero_nn_seen_t;

typedef struct zero_nn_simd {
    const char *name; /* "avx512", "avx2", "base" */

    /* Rows of n elements between fp32 and dtype: y = x; y += x; y = x rounded once. */
    void (*load)(float *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*add)(float *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*store)(void *y, const float *x, int64_t n, zero_dtype_t dtype);
    /* y = s x, fp32, n elements. y may be x. */
    void (*scale)(float *y, const float *x, float s, int64_t n);

    /* y = a + b; y = act(x); dx = dy act'(x). They may run in place. */
    void (*sum)(void *y, const void *a, const void *b, int64_t n, zero_dtype_t dtype);
    void (*act)(zero_nn_activation_t act, void *y, const void *x, int64_t n, zero_dtype_t dtype);
    void (*act_grad)(zero_nn_activation_t act, void *dx, const void *dy, const void *x, int64_t n, zero_dtype_t dtype);
    /* y = act(gate) up; dgate = dy up act'(gate), dup = dy act(gate). dgate may be gate, and dup may be up. */
    void (*gated)(zero_nn_activation_t act, void *y, const void *gate, const void *up, int64_t n, zero_dtype_t dtype);
    void (*gated_grad)(zero_nn_activation_t act, void *dgate, void *dup, const void *dy, const void *gate,
                       const void *up, int64_t n, zero_dtype_t dtype);
    /* Rotates the points (a[i], b[i]), i < n, by angles with these cosines and sines. */
    void (*rotate)(void *a, void *b, const float *cosine, const float *sine, int64_t n, zero_dtype_t dtype);

    /* One vector of a layer norm. The gradient adds its contribution to dw, db (C) fp32; residual may be NULL. */
    void (*norm)(void *y, float *mean, float *rstd, const void *x, const void *w, const void *b, int64_t C, float eps,
                 zero_dtype_t dtype);
    void (*norm_grad)(void *dx, float *dw, float *db, const void *residual, const void *dy, const void *x,
                      const void *w, float mean, float rstd, int64_t C, zero_dtype_t dtype);

    /* The same for RMS norm. */
    void (*rms)(void *y, float *rstd, const void *x, const void *w, int64_t C, float eps, zero_dtype_t dtype);
    void (*rms_grad)(void *dx, float *dw, const void *residual, const void *dy, const void *x, const void *w,
                     float rstd, int64_t C, zero_dtype_t dtype);

    /* One row of logits (V); V may be 0. entropy_sum returns the sum of exp(logit - max), with max the largest logit; 0
     * and -infinity if no logit is larger than that. entropy_grad: scale * (softmax - onehot) overwrites the logits,
     * with the softmax of this max and sum; target: the column of the one, or -1 for none. */
    float (*entropy_sum)(const void *logits, int64_t V, float *max, zero_dtype_t dtype);
    void (*entropy_grad)(void *logits, int64_t target, int64_t V, float max, float sum, float scale,
                         zero_dtype_t dtype);

    /* C (m, n) = A (m, k) B (k, n), + C with add. fp32. n is a multiple of ZERO_NN_LANES, and every row of b and c is
     * aligned to ZERO_NN_LANES floats. A is (m, k) with rows of ZERO_NN_BLOCK floats, or with trans_a its transpose (k,
     * m) with such rows. */
    void (*block)(float *c, int64_t ldc, const float *a, bool trans_a, const float *b, int64_t ldb, int64_t m,
                  int64_t n, int64_t k, bool add);
    /* One step of the online softmax. s (keys, queries) holds scores in rows of ZERO_NN_BLOCK. They become exp(s -
     * max), and 0 for keys that a query does not see. Updates max and sum (queries). The caller must multiply the
     * output so far by factor (queries). */
    void (*softmax)(float *s, float *max, float *sum, float *factor, int64_t keys, const zero_nn_seen_t *seen);
    /* p = exp(s - lse) replaces s, and ds = p (dp - delta) replaces dp; lse and delta (queries). They are 0 for keys
     * that a query does not see. */
    void (*softmax_grad)(float *s, float *dp, const float *lse, const float *delta, int64_t keys,
                         const zero_nn_seen_t *seen);

    /* Products of one row x with a matrix B in dtype, whose rows are ldb elements apart. x and y are fp32. into: y (n)
     * += x (k) B (k, n). dots: y (n) = B (n, k) x (k). */
    void (*into)(float *y, const float *x, const void *b, int64_t ldb, int64_t k, int64_t n, zero_dtype_t dtype);
    void (*dots)(float *y, const float *x, const void *b, int64_t ldb, int64_t n, int64_t k, zero_dtype_t dtype);
    /* s (n) becomes exp(s - max), with max the largest element; n is at least 1. Returns the sum. */
    float (*softmax_row)(float *s, int64_t n, float *max);

    /* C (tile_m, tile_n), rows ldc apart, = A B, or += A B with add. A is packed (k, tile_m), B packed (k, tile_n). */
    int tile_m, tile_n;
    void (*tile)(float *c, int64_t ldc, const float *a, const float *b, int64_t k, bool add);
} zero_nn_simd_t;

extern const zero_nn_simd_t zero_nn_simd_base;
#if defined(__x86_64__)
extern const zero_nn_simd_t zero_nn_simd_avx2, zero_nn_simd_avx512;
#endif

/* The best table for this processor. */
const zero_nn_simd_t *zero_nn_simd_best(void);

#endif
