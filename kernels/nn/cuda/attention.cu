/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cu - see kernels.h. Attention forward, after Dao et al. (2022). A block has 64 queries of a head and
 * goes over the keys 64 at a time, with a running maximum and sum. All arithmetic is fp32. */
#include "kernels/nn/cuda/attention.h"

template <typename T, int PARTS>
static __global__ void __launch_bounds__(ZERO_TILE_THREADS) attention_forward(zero_attention<T> a, T *out, float *lse)
{
    __shared__ __align__(16) float weights[ZERO_TILE][ZERO_TILE_ROW], buffer[ZERO_TILE][ZERO_TILE_ROW];
    const zero_attention_block block = zero_attention_find(a, a.H, blockIdx.x);
    const int64_t q0 = (a.tiles - 1 - block.tile) * ZERO_TILE; /* the longest first */
    const zero_head<T> q = zero_attention_head(a, a.q, a.T, a.q_stride, block.b, block.head);
    const zero_head<T> k = zero_attention_head(a, a.k, a.S, a.k_stride, block.b, block.head / a.group);
    const zero_head<T> v = zero_attention_head(a, a.v, a.S, a.v_stride, block.b, block.head / a.group);
    const zero_attention_keys all = zero_attention_seen_by_tile(a, block.b, q0);
    zero_attention_keys seen[4];
    float max[4], sum[4], s[4][4], sums[PARTS][4][4];
    ZERO_UNROLL
    for (int i = 0; i < 4; i++) {
        seen[i] = zero_attention_seen(a, block.b, q0 + 4 * threadIdx.y + i);
        max[i] = -INFINITY;
        sum[i] = 0;
        ZERO_UNROLL
        for (int j = 0; j < 4 * PARTS; j++)
            sums[j / 4][i][j % 4] = 0;
    }
    for (int64_t k0 = all.begin; k0 < all.end; k0 += ZERO_TILE) {
        zero_tile_scores(s, buffer, q, q0, k, k0);
        ZERO_UNROLL
        for (int i = 0; i < 4; i++) {
            float most = -INFINITY, part = 0;
            for (int j = 0; j < 4; j++) {
                const int64_t key = k0 + 4 * threadIdx.x + j;
                s[i][j] = key >= seen[i].begin && key < seen[i].end ? a.scale * s[i][j] : -INFINITY;
                most = fmaxf(most, s[i][j]);
            }
            most = fmaxf(max[i], zero_lanes_max(most, ZERO_TILE_SIDE));
            /* a query that has seen no key yet: -inf - -inf is not a number */
            const float less = most == -INFINITY ? 0.0f : most;
            for (int j = 0; j < 4; j++) {
                s[i][j] = expf(s[i][j] - less);
                part += s[i][j];
            }
            const float shrink = expf(max[i] - less);
            max[i] = most;
            sum[i] = sum[i] * shrink + zero_lanes_sum(part, ZERO_TILE_SIDE);
            ZERO_UNROLL
            for (int j = 0; j < 4 * PARTS; j++)
                sums[j / 4][i][j % 4] *= shrink;
        }
        /* A barrier in zero_tile_scores guarantees that all threads have read the old weights. */
        zero_tile_keep(weights, s);
        zero_tile_add<T, PARTS>(sums, weights, buffer, v, k0);
    }
    ZERO_UNROLL
    for (int i = 0; i < 4; i++) {
        const int64_t query = q0 + 4 * threadIdx.y + i;
        if (query >= a.T)
            continue;
        const bool any = seen[i].begin < seen[i].end;
        ZERO_UNROLL
        for (int part = 0; part < PARTS; part++) {
            for (int j = 0; j < 4; j++) {
                int64_t c = part * ZERO_TILE + 4 * threadIdx.x + j;
                if (c < a.D)
                    out[((block.b * a.T + query) * a.H + block.head) * a.D + c] =
                        zero_narrow<T>(any ? sums[part][i][j] / sum[i] : 0.0f);
            }
        }
        if (threadIdx.x == 0 && lse != NULL)
            lse[(block.b * a.H + block.head) * a.T + query] = max[i] + logf(sum[i]);
    }
}

template <typename T> static cudaError_t launch(const zero_nn_attention_t *given, cudaStream_t stream)
{
    const zero_attention<T> a = zero_attention_of<T>(given);
    const int64_t blocks = a.tiles * a.B * a.H;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    const dim3 grid((unsigned)blocks), threads(ZERO_TILE_SIDE, ZERO_TILE_SIDE);
    T *out = (T *)given->out;
    if (a.D <= ZERO_TILE)
        ZERO_LAUNCH((attention_forward<T, 1>), grid, threads, 0, stream, a, out, given->lse);
    else if (a.D <= 2 * ZERO_TILE)
        ZERO_LAUNCH((attention_forward<T, 2>), grid, threads, 0, stream, a, out, given->lse);
    else
        ZERO_LAUNCH((attention_forward<T, 4>), grid, threads, 0, stream, a, out, given->lse);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_attention_forward(const zero_nn_attention_t *a, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(a->dtype, T, status = launch<T>(a, stream))
    return status;
}
