/* SPDX-License-Identifier: Apache-2.0 */
/* attention_grad.cu - see kernels.h. With P the softmax of the scores, dP = dout v', and delta the sum of dout * out
 * over a head (Dao et al. 2022): dv = P' dout, dS = P (dP - delta), dq = scale dS k, dk = scale dS' q. Each sum belongs
 * to one block. One kernel goes over the keys for 64 queries to compute dq; another goes over the queries for 64 keys
 * to compute dk and dv. Both recompute P. A block that writes 64 rows also stores their column sums, for the gradient
 * of a bias. There are no atomics. */
#include "kernels/nn/cuda/attention.h"

enum { WARPS = 4 };

/* Further arguments of the gradients: dout (rows, H * D) dense, lse and delta (B, H, T). wide: as in zero_attention,
 * for dout. partial (B, tiles, width): column sums of dq, dk and dv if they are one matrix (rows, width); else NULL. */
template <typename E> struct grad {
    const E *dout;
    const float *lse, *delta;
    bool wide;
    float *partial;
    int64_t width;
};

template <typename E>
static __device__ __forceinline__ zero_head<E> dout_head(const zero_attention<E> &a, const grad<E> &g, int64_t b,
                                                         int64_t head)
{
    zero_head<E> h = {g.dout + (b * a.T * a.H + head) * a.D, a.H * a.D, a.T, a.D, g.wide};
    return h;
}

/* One warp for each row of a head, in the order of out. */
template <typename E>
static __global__ void __launch_bounds__(WARPS *ZERO_WARP)
    attention_delta(float *delta, const E *dout, const E *out, int64_t rows, int64_t T, int64_t H, int64_t D)
{
    const int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.y, head = r % H, t = r / H % T, b = r / (H * T);
    float sum = 0;
    if (r >= rows)
        return;
    for (int64_t c = threadIdx.x; c < D; c += ZERO_WARP)
        sum = fmaf(zero_widen(dout[r * D + c]), zero_widen(out[r * D + c]), sum);
    sum = zero_lanes_sum(sum, ZERO_WARP);
    if (threadIdx.x == 0)
        delta[(b * H + head) * T + t] = sum;
}

/* Rows [r0, r0 + 64) of a head, in a buffer like q, k or v, = sums (rows, D in parts of 64). partial (D): column sums
 * of these rows, rounded as stored, if not NULL. buffer: as in zero_tile_scores. */
template <typename E, int PARTS>
static __device__ __forceinline__ void put_rows(E *p, int64_t stride, int64_t r0, int64_t rows, int64_t D,
                                                const float sums[PARTS][4][4], float *partial,
                                                float (*buffer)[ZERO_TILE_ROW])
{
    __syncthreads(); /* other threads may still be reading the buffer */
    ZERO_UNROLL
    for (int part = 0; part < PARTS; part++) {
        for (int j = 0; j < 4; j++) {
            const int64_t c = part * ZERO_TILE + 4 * threadIdx.x + j;
            float sum = 0;
            for (int i = 0; i < 4; i++) {
                const int64_t r = r0 + 4 * threadIdx.y + i;
                const E value = zero_narrow<E>(sums[part][i][j]);
                if (r < rows && c < D) {
                    p[r * stride + c] = value;
                    sum += zero_widen(value);
                }
            }
            buffer[part * ZERO_TILE_SIDE + (int)threadIdx.y][4 * threadIdx.x + j] = sum;
        }
    }
    if (partial == NULL)
        return;
    __syncthreads();
    for (int64_t c = threadIdx.y * ZERO_TILE_SIDE + threadIdx.x; c < D; c += ZERO_TILE_THREADS) {
        float sum = 0;
        for (int y = 0; y < ZERO_TILE_SIDE; y++)
            sum += buffer[c / ZERO_TILE * ZERO_TILE_SIDE + y][c % ZERO_TILE];
        partial[c] = sum;
    }
}

/* The start of a tile's sums, for columns from `column`. */
template <typename E>
static __device__ __forceinline__ float *partial_of(const zero_attention<E> &a, const grad<E> &g, int64_t b,
                                                    int64_t tile, int64_t column)
{
    return g.partial == NULL ? NULL : g.partial + (b * a.tiles + tile) * g.width + column;
}

template <typename E, int PARTS>
static __global__ void __launch_bounds__(ZERO_TILE_THREADS) attention_dq(zero_attention<E> a, grad<E> g, E *dq)
{
    __shared__ __align__(16) float weights[ZERO_TILE][ZERO_TILE_ROW], buffer[ZERO_TILE][ZERO_TILE_ROW];
    const zero_attention_block block = zero_attention_find(a, a.H, blockIdx.x);
    const int64_t q0 = (a.tiles - 1 - block.tile) * ZERO_TILE; /* the longest first */
    const zero_head<E> q = zero_attention_head(a, a.q, a.T, a.q_stride, block.b, block.head),
                       dout = dout_head(a, g, block.b, block.head);
    const zero_head<E> k = zero_attention_head(a, a.k, a.S, a.k_stride, block.b, block.head / a.group);
    const zero_head<E> v = zero_attention_head(a, a.v, a.S, a.v_stride, block.b, block.head / a.group);
    const zero_attention_keys all = zero_attention_seen_by_tile(a, block.b, q0);
    zero_attention_keys seen[4];
    float s[4][4], dp[4][4], sums[PARTS][4][4], lse[4], delta[4];
    for (int i = 0; i < 4; i++) {
        const int64_t query = q0 + 4 * threadIdx.y + i, at = (block.b * a.H + block.head) * a.T + query;
        seen[i] = zero_attention_seen(a, block.b, query);
        lse[i] = query < a.T ? g.lse[at] : 0.0f;
        delta[i] = query < a.T ? g.delta[at] : 0.0f;
        ZERO_UNROLL
        for (int j = 0; j < 4 * PARTS; j++)
            sums[j / 4][i][j % 4] = 0;
    }
    for (int64_t k0 = all.begin; k0 < all.end; k0 += ZERO_TILE) {
        zero_tile_scores(s, buffer, q, q0, k, k0);
        zero_tile_scores(dp, buffer, dout, q0, v, k0);
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) {
                const int64_t key = k0 + 4 * threadIdx.x + j;
                const bool sees = key >= seen[i].begin && key < seen[i].end;
                s[i][j] = sees ? a.scale * expf(a.scale * s[i][j] - lse[i]) * (dp[i][j] - delta[i]) : 0.0f;
            }
        }
        zero_tile_keep(weights, s);
        zero_tile_add<E, PARTS>(sums, weights, buffer, k, k0);
    }
    put_rows<E, PARTS>(dq + block.b * a.T * a.q_stride + block.head * a.D, a.q_stride, q0, a.T, a.D, sums,
                       partial_of(a, g, block.b, q0 / ZERO_TILE, block.head * a.D), buffer);
}

/* Rows are keys here, columns queries. The heads that share the keys follow one another. */
template <typename E, int PARTS>
static __global__ void __launch_bounds__(ZERO_TILE_THREADS) attention_dkv(zero_attention<E> a, grad<E> g, E *dk, E *dv)
{
    __shared__ __align__(16) float weights[ZERO_TILE][ZERO_TILE_ROW], buffer[ZERO_TILE][ZERO_TILE_ROW];
    const zero_attention_block block = zero_attention_find(a, a.KV, blockIdx.x);
    const int64_t k0 = block.tile * ZERO_TILE, k1 = k0 + ZERO_TILE < a.S ? k0 + ZERO_TILE : a.S; /* the longest first */
    const int64_t first = zero_attention_row(a, block.b, k0, false), last = zero_attention_row(a, block.b, k1, true);
    const zero_head<E> k = zero_attention_head(a, a.k, a.S, a.k_stride, block.b, block.head);
    const zero_head<E> v = zero_attention_head(a, a.v, a.S, a.v_stride, block.b, block.head);
    float p[4][4], ds[4][4], sums_k[PARTS][4][4], sums_v[PARTS][4][4];
    ZERO_UNROLL
    for (int i = 0; i < 16 * PARTS; i++)
        sums_k[i / 16][i / 4 % 4][i % 4] = sums_v[i / 16][i / 4 % 4][i % 4] = 0;
    for (int64_t head = block.head * a.group; head < (block.head + 1) * a.group; head++) {
        const zero_head<E> q = zero_attention_head(a, a.q, a.T, a.q_stride, block.b, head),
                           dout = dout_head(a, g, block.b, head);
        const float *lse = g.lse + (block.b * a.H + head) * a.T, *delta = g.delta + (block.b * a.H + head) * a.T;
        for (int64_t q0 = first / ZERO_TILE * ZERO_TILE; q0 < last; q0 += ZERO_TILE) {
            zero_tile_scores(p, buffer, k, k0, q, q0);
            zero_tile_scores(ds, buffer, v, k0, dout, q0);
            for (int j = 0; j < 4; j++) {
                const int64_t query = q0 + 4 * threadIdx.x + j;
                const zero_attention_keys seen = zero_attention_seen(a, block.b, query);
                const float l = query < a.T ? lse[query] : 0.0f, d = query < a.T ? delta[query] : 0.0f;
                for (int i = 0; i < 4; i++) {
                    const int64_t key = k0 + 4 * threadIdx.y + i;
                    const bool sees = query < a.T && key >= seen.begin && key < seen.end;
                    p[i][j] = sees ? expf(a.scale * p[i][j] - l) : 0.0f;
                    ds[i][j] = sees ? a.scale * p[i][j] * (ds[i][j] - d) : 0.0f;
                }
            }
            zero_tile_keep(weights, p);
            zero_tile_add<E, PARTS>(sums_v, weights, buffer, dout, q0);
            __syncthreads();
            zero_tile_keep(weights, ds);
            zero_tile_add<E, PARTS>(sums_k, weights, buffer, q, q0);
        }
    }
    put_rows<E, PARTS>(dk + block.b * a.S * a.k_stride + block.head * a.D, a.k_stride, k0, a.S, a.D, sums_k,
                       partial_of(a, g, block.b, block.tile, (a.H + block.head) * a.D), buffer);
    put_rows<E, PARTS>(dv + block.b * a.S * a.v_stride + block.head * a.D, a.v_stride, k0, a.S, a.D, sums_v,
                       partial_of(a, g, block.b, block.tile, (a.H + a.KV + block.head) * a.D), buffer);
}

template <typename E, int PARTS>
static cudaError_t launch_both(const zero_attention<E> &a, const grad<E> &g, const zero_nn_attention_grad_t *out,
                               zero_dtype_t dtype, cudaStream_t stream)
{
    const dim3 threads(ZERO_TILE_SIDE, ZERO_TILE_SIDE);
    ZERO_LAUNCH((attention_dq<E, PARTS>), dim3((unsigned)(a.tiles * a.B * a.H)), threads, 0, stream, a, g,
                (E *)out->dq);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        return status;
    ZERO_LAUNCH((attention_dkv<E, PARTS>), dim3((unsigned)(a.key_tiles * a.B * a.KV)), threads, 0, stream, a, g,
                (E *)out->dk, (E *)out->dv);
    status = cudaGetLastError();
    if (status != cudaSuccess || g.partial == NULL)
        return status;
    return zero_nn_cuda_add_parts(&out->dbias, 1, g.partial, a.B * a.tiles, g.width, dtype, stream);
}

template <typename E>
static cudaError_t launch(const zero_nn_attention_t *given, const zero_nn_attention_grad_t *out, float *delta,
                          cudaStream_t stream)
{
    const zero_attention<E> a = zero_attention_of<E>(given);
    const int64_t rows = a.B * a.T * a.H, blocks = (rows + WARPS - 1) / WARPS;
    const grad<E> g = {(const E *)out->dout,
                       given->lse,
                       delta,
                       ((uintptr_t)out->dout | (uintptr_t)a.D * sizeof(E)) % 16 == 0,
                       out->dbias == NULL ? NULL : delta + rows,
                       zero_nn_attention_width(a.H, a.KV, a.D)};
    if (a.tiles * a.B * a.H > INT32_MAX || a.key_tiles * a.B * a.KV > INT32_MAX || blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((attention_delta<E>), dim3((unsigned)blocks), dim3(ZERO_WARP, WARPS), 0, stream, delta, g.dout,
                (const E *)given->out, rows, a.T, a.H, a.D);
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        return status;
    if (a.D <= ZERO_TILE)
        return launch_both<E, 1>(a, g, out, given->dtype, stream);
    if (a.D <= 2 * ZERO_TILE)
        return launch_both<E, 2>(a, g, out, given->dtype, stream);
    return launch_both<E, 4>(a, g, out, given->dtype, stream);
}

int64_t zero_nn_cuda_attention_workspace(int64_t B, int64_t T, int64_t H, int64_t KV, int64_t D)
{
    const int64_t tiles = (T + ZERO_TILE - 1) / ZERO_TILE;
    return B * T * H + B * tiles * zero_nn_attention_width(H, KV, D); /* delta, then partial, which has S = T */
}

cudaError_t zero_nn_cuda_attention_backward(const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g,
                                            float *workspace, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(a->dtype, E, status = launch<E>(a, g, workspace, stream))
    return status;
}
