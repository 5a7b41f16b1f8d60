/* SPDX-License-Identifier: Apache-2.0 */
/* tile.h - inside kernels/nn/cuda, for .cu files: products of tiles of 64 rows in shared memory, for attention. A block
 * has 16 x 16 threads. Thread (tx, ty) holds a square of 4 x 4 sums of each tile of 64 x 64: rows 4 ty + i, columns 4
 * tx + j. */
#ifndef ZERO_NN_CUDA_TILE_H
#define ZERO_NN_CUDA_TILE_H

#include "kernels/nn/cuda/vector.h"

#define ZERO_TILE 64
#define ZERO_TILE_SIDE 16
#define ZERO_TILE_THREADS (ZERO_TILE_SIDE * ZERO_TILE_SIDE)
#define ZERO_TILE_DEPTH 32
#define ZERO_TILE_ROW \
    (ZERO_TILE + 4) /* floats per row in shared memory: rows start in different banks, at multiples of 16 bytes */

/* Rows of one head: element c of row r is p[r * stride + c], for r < rows and c < D. wide: each row starts at a
 * multiple of 16 bytes. */
template <typename T> struct zero_head {
    const T *p;
    int64_t stride, rows, D;
    bool wide;
};

/* to (columns, rows) = columns [c0, c0 + 32) of rows [r0, r0 + 64), transposed. Missing elements are 0. */
template <typename T>
__device__ __forceinline__ void zero_tile_across(float (*to)[ZERO_TILE_ROW], const zero_head<T> &h, int64_t r0,
                                                 int64_t c0)
{
    const int N = zero_pack<T>::N, thread = (int)(threadIdx.y * ZERO_TILE_SIDE + threadIdx.x);
    for (int i = thread; i < ZERO_TILE * ZERO_TILE_DEPTH / N; i += ZERO_TILE_THREADS) {
        int row = i % ZERO_TILE, column = i / ZERO_TILE * N;
        int64_t have = r0 + row < h.rows ? h.D - c0 - column : 0;
        float x[N];
        zero_load(x, h.p + (have > 0 ? (r0 + row) * h.stride + c0 + column : 0), have, h.wide);
        for (int j = 0; j < N; j++)
            to[column + j][row] = x[j];
    }
}

/* to (rows, columns) = columns [c0, c0 + 64) of rows [r0, r0 + 64). Missing elements are 0. */
template <typename T>
__device__ __forceinline__ void zero_tile_along(float (*to)[ZERO_TILE_ROW], const zero_head<T> &h, int64_t r0,
                                                int64_t c0)
{
    const int N = zero_pack<T>::N, across = ZERO_TILE / N, thread = (int)(threadIdx.y * ZERO_TILE_SIDE + threadIdx.x);
    for (int i = thread; i < ZERO_TILE * across; i += ZERO_TILE_THREADS) {
        int row = i / across, column = i % across * N;
        int64_t have = r0 + row < h.rows ? h.D - c0 - column : 0;
        float x[N];
        zero_load(x, h.p + (have > 0 ? (r0 + row) * h.stride + c0 + column : 0), have, h.wide);
        for (int j = 0; j < N; j += 4) {
            float4 v = {x[j], x[j + 1], x[j + 2], x[j + 3]};
            *(float4 *)&to[row][column + j] = v;
        }
    }
}

/* sum (rows, columns) += a (depth, rows)^T b (depth, columns). */
template <int DEPTH>
__device__ __forceinline__ void zero_tile_product(float sum[4][4], const float (*a)[ZERO_TILE_ROW],
                                                  const float (*b)[ZERO_TILE_ROW])
{
    for (int k = 0; k < DEPTH; k++) {
        float4 x = *(const float4 *)&a[k][4 * threadIdx.y], y = *(const float4 *)&b[k][4 * threadIdx.x];
        const float down[4] = {x.x, x.y, x.z, x.w}, along[4] = {y.x, y.y, y.z, y.w};
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                sum[i][j] = fmaf(down[i], along[j], sum[i][j]);
    }
}

/* sum (rows of a, rows of b) = a b^T over the full width of the heads, for 64 rows each from a0 and b0. buffer: 64 rows
 * of shared memory. */
template <typename T>
__device__ __forceinline__ void zero_tile_scores(float sum[4][4], float (*buffer)[ZERO_TILE_ROW], const zero_head<T> &a,
                                                 int64_t a0, const zero_head<T> &b, int64_t b0)
{
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            sum[i][j] = 0;
    for (int64_t c = 0; c < a.D; c += ZERO_TILE_DEPTH) {
        __syncthreads();
        zero_tile_across(buffer, a, a0, c);
        zero_tile_across(buffer + ZERO_TILE_DEPTH, b, b0, c);
        __syncthreads();
        zero_tile_product<ZERO_TILE_DEPTH>(sum, buffer, buffer + ZERO_TILE_DEPTH);
    }
}

/* weights (columns, rows) = the squares of the block, transposed for zero_tile_add. */
__device__ __forceinline__ void zero_tile_keep(float (*weights)[ZERO_TILE_ROW], const float square[4][4])
{
    for (int j = 0; j < 4; j++) {
        float4 v = {square[0][j], square[1][j], square[2][j], square[3][j]};
        *(float4 *)&weights[4 * threadIdx.x + j][4 * threadIdx.y] = v;
    }
}

/* sums (rows, D in parts of 64) += weights (b's 64 rows, rows)^T b (64 rows from b0, D). It begins with a barrier, so
 * threads that wrote weights need not synchronize. */
template <typename T, int PARTS>
__device__ __forceinline__ void zero_tile_add(float sums[PARTS][4][4], const float (*weights)[ZERO_TILE_ROW],
                                              float (*buffer)[ZERO_TILE_ROW], const zero_head<T> &b, int64_t b0)
{
    ZERO_UNROLL
    for (int part = 0; part < PARTS; part++) {
        if (part * ZERO_TILE >= b.D)
            break;
        __syncthreads();
        zero_tile_along(buffer, b, b0, part * ZERO_TILE);
        __syncthreads();
        zero_tile_product<ZERO_TILE>(sums[part], weights, (const float(*)[ZERO_TILE_ROW])buffer);
    }
}

#endif
