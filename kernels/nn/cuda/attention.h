/* SPDX-License-Identifier: Apache-2.0 */
/* attention.h - inside kernels/nn/cuda, for attention.cu and attention_grad.cu: the arguments of their kernels, and the
 * division of work. */
#ifndef ZERO_NN_CUDA_ATTENTION_H
#define ZERO_NN_CUDA_ATTENTION_H

#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/tile.h"

/* zero_nn_attention_t with elements of type E. tiles: of 64 rows in T; key_tiles: in S. wide: every row of a head in q,
 * k and v starts at a multiple of 16 bytes. ranges: a copy on the GPU, or NULL. */
template <typename E> struct zero_attention {
    int64_t B, T, S, H, KV, D, group, tiles, key_tiles; /* group: heads that share a key */
    int64_t q_stride, k_stride, v_stride;
    float scale;
    bool wide, causal;
    const int2 *ranges;
    const E *q, *k, *v;
};

template <typename E> static zero_attention<E> zero_attention_of(const zero_nn_attention_t *a)
{
    zero_attention<E> x;
    const int64_t bytes = (int64_t)sizeof(E);
    x.B = a->B, x.T = a->T, x.S = a->S, x.H = a->H, x.KV = a->KV, x.D = a->D;
    x.group = a->H / a->KV;
    x.tiles = (a->T + ZERO_TILE - 1) / ZERO_TILE;
    x.key_tiles = (a->S + ZERO_TILE - 1) / ZERO_TILE;
    x.q_stride = a->q_stride, x.k_stride = a->k_stride, x.v_stride = a->v_stride;
    x.scale = (float)a->scale;
    x.causal = a->causal;
    x.ranges = (const int2 *)a->ranges;
    x.q = (const E *)a->q, x.k = (const E *)a->k, x.v = (const E *)a->v;
    x.wide = ((uintptr_t)a->q | (uintptr_t)a->k | (uintptr_t)a->v |
              (uintptr_t)((a->q_stride | a->k_stride | a->v_stride | a->D) * bytes)) %
                 16 ==
             0;
    return x;
}

/* A head of sequence b in a buffer of `rows` rows per sequence, with `stride` elements from row to row. */
template <typename E>
__device__ __forceinline__ zero_head<E> zero_attention_head(const zero_attention<E> &a, const E *p, int64_t rows,
                                                            int64_t stride, int64_t b, int64_t head)
{
    zero_head<E> h = {p + b * rows * stride + head * a.D, stride, rows, a.D, a.wide};
    return h;
}

/* The keys [begin, end) that row t of sequence b sees; end may be less than begin. The numbers are in [0, S] for any
 * ranges, because a graph that runs again reads ranges that nothing has checked. A row beyond the last repeats it. */
struct zero_attention_keys {
    int begin, end;
};
template <typename E>
__device__ __forceinline__ zero_attention_keys zero_attention_seen(const zero_attention<E> &a, int64_t b, int64_t t)
{
    t = t < a.T ? t : a.T - 1;
    zero_attention_keys keys = {0, (int)(a.causal ? t + 1 : a.S)};
    if (a.ranges != NULL) {
        const int2 range = a.ranges[b * a.T + t];
        keys.begin = range.x < 0 ? 0 : range.x < (int)a.S ? range.x : (int)a.S;
        keys.end = range.y < 0 ? 0 : range.y < keys.end ? range.y : keys.end;
    }
    return keys;
}

/* The keys that a tile of queries from row q0 may see, from a multiple of 64. */
template <typename E>
__device__ __forceinline__ zero_attention_keys zero_attention_seen_by_tile(const zero_attention<E> &a, int64_t b,
                                                                           int64_t q0)
{
    zero_attention_keys keys = {zero_attention_seen(a, b, q0).begin / ZERO_TILE * ZERO_TILE,
                                zero_attention_seen(a, b, q0 + ZERO_TILE - 1).end};
    return keys;
}

/* The first row of sequence b from which on queries see a key at or after k (after = false), or see no key before k
 * (after = true); T if there is none. */
template <typename E>
__device__ __forceinline__ int64_t zero_attention_row(const zero_attention<E> &a, int64_t b, int64_t k, bool after)
{
    int64_t low = 0, high = a.T;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        const zero_attention_keys keys = zero_attention_seen(a, b, middle);
        if (after ? keys.begin >= k : keys.end > k)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
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
