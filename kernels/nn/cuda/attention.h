/* SPDX-License-Identifier: Apache-2.0 */
/* attention.h - inside kernels/nn/cuda, for attention.cu and attention_grad.cu: the arguments of their kernels, and the
 * division of work. */
#ifndef ZERO_NN_CUDA_ATTENTION_H
#define ZERO_NN_CUDA_ATTENTION_H

#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/tile.h"

/* zero_nn_attention_t with elements of type E. wide: every row of a head in q, k and v starts at a multiple of 16
 * bytes. */
template <typename E> struct zero_attention {
    int64_t B, T, H, KV, D, group, tiles; /* group: heads that share a key; tiles: of 64 rows in T */
    int64_t q_stride, k_stride, v_stride;
    float scale;
    bool wide, causal;
    const E *q, *k, *v;
};

template <typename E> static zero_attention<E> zero_attention_of(const zero_nn_attention_t *a)
{
    zero_attention<E> x;
    const int64_t bytes = (int64_t)sizeof(E);
    x.B = a->B, x.T = a->T, x.H = a->H, x.KV = a->KV, x.D = a->D;
    x.group = a->H / a->KV;
    x.tiles = (a->T + ZERO_TILE - 1) / ZERO_TILE;
    x.q_stride = a->q_stride, x.k_stride = a->k_stride, x.v_stride = a->v_stride;
    x.scale = (float)a->scale;
    x.causal = a->causal;
    x.q = (const E *)a->q, x.k = (const E *)a->k, x.v = (const E *)a->v;
    x.wide = ((uintptr_t)a->q | (uintptr_t)a->k | (uintptr_t)a->v |
              (uintptr_t)((a->q_stride | a->k_stride | a->v_stride | a->D) * bytes)) %
                 16 ==
             0;
    return x;
}

/* Rows of a head of sequence b in a buffer with `stride` elements from row to row. */
template <typename E>
__device__ __forceinline__ zero_head<E> zero_attention_head(const zero_attention<E> &a, const E *p, int64_t stride,
                                                            int64_t b, int64_t head)
{
    zero_head<E> h = {p + b * a.T * stride + head * a.D, stride, a.T, a.D, a.wide};
    return h;
}

/* The end of the keys that a query of row `query` sees. */
template <typename E> __device__ __forceinline__ int64_t zero_attention_end(const zero_attention<E> &a, int64_t query)
{
    return a.causal ? query + 1 : a.T;
}

/* Block `index` of tiles * B * heads. Blocks of the same tile number are adjacent. */
struct zero_attention_block {
    int64_t tile, b, head;
};
template <typename E>
__device__ __forceinline__ zero_attention_block zero_attention_find(const zero_attention<E> &a, int64_t heads,
                                                                    int64_t index)
{
    zero_attention_block block = {index / (a.B * heads), index / heads % a.B, index % heads};
    return block;
}

#endif
