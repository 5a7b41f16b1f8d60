/* SPDX-License-Identifier: Apache-2.0 */
/* attention_one.cu - see kernels.h. Attention of one query per sequence, as sampling with a cache has it. A block
 * computes a head. Its warps take keys in turns, each with its own maximum and sums (Dao et al. 2022), and the results
 * of the warps are joined in their order. All arithmetic is fp32. */
#include "kernels/nn/cuda/attention.h"

enum { WARPS = 8, LANE_MOST = ZERO_NN_CUDA_HEAD / ZERO_WARP };

/* Lane i of a warp has elements i, i + 32, ... of a head; ELEMENTS of them. */
template <typename T, int ELEMENTS>
static __global__ void __launch_bounds__(WARPS *ZERO_WARP) attention_one(zero_attention<T> a, T *out, float *lse)
{
    __shared__ float all_max[WARPS], all_sum[WARPS], all_out[WARPS][ELEMENTS * ZERO_WARP];
    const int lane = (int)threadIdx.x % ZERO_WARP, warp = (int)threadIdx.x / ZERO_WARP, D = (int)a.D;
    const int64_t b = blockIdx.x / a.H, head = blockIdx.x % a.H;
    const T *q = a.q + b * a.q_stride + head * D, *k = a.k + b * a.S * a.k_stride + head / a.group * D,
            *v = a.v + b * a.S * a.v_stride + head / a.group * D;
    const zero_attention_keys seen = zero_attention_seen(a, b, 0);
    float query[ELEMENTS], sums[ELEMENTS], max = -INFINITY, sum = 0;
    ZERO_UNROLL
    for (int i = 0; i < ELEMENTS; i++) {
        const int c = lane + i * ZERO_WARP;
        query[i] = c < D ? a.scale * zero_widen(q[c]) : 0.0f;
        sums[i] = 0;
    }
    for (int64_t key = seen.begin + warp; key < seen.end; key += WARPS) {
        float score = 0;
        ZERO_UNROLL
        for (int i = 0; i < ELEMENTS; i++) {
            const int c = lane + i * ZERO_WARP;
            score = c < D ? fmaf(query[i], zero_widen(k[key * a.k_stride + c]), score) : score;
        }
        score = zero_lanes_sum(score, ZERO_WARP);
        /* if all scores are -inf: -inf - -inf is not a number */
        const float most = fmaxf(max, score), less = most == -INFINITY ? 0.0f : most, shrink = expf(max - less),
                    p = expf(score - less);
        max = most;
        sum = sum * shrink + p;
        ZERO_UNROLL
        for (int i = 0; i < ELEMENTS; i++) {
            const int c = lane + i * ZERO_WARP;
            sums[i] = sums[i] * shrink + (c < D ? p * zero_widen(v[key * a.v_stride + c]) : 0.0f);
        }
    }
    all_max[warp] = max;
    all_sum[warp] = sum;
    ZERO_UNROLL
    for (int i = 0; i < ELEMENTS; i++)
        all_out[warp][lane + i * ZERO_WARP] = sums[i];
    __syncthreads();
    max = -INFINITY;
    sum = 0;
    for (int w = 0; w < WARPS; w++)
        max = fmaxf(max, all_max[w]);
    for (int w = 0; w < WARPS; w++) /* a warp without keys has a maximum of -inf and a sum of 0 */
        sum += all_sum[w] > 0 || all_sum[w] != all_sum[w] ? all_sum[w] * expf(all_max[w] - max) : 0.0f;
    for (int c = (int)threadIdx.x; c < D; c += WARPS * ZERO_WARP) {
        float x = 0;
        for (int w = 0; w < WARPS; w++)
            x += all_sum[w] > 0 || all_sum[w] != all_sum[w] ? all_out[w][c] * expf(all_max[w] - max) : 0.0f;
        out[(b * a.H + head) * D + c] = zero_narrow<T>(seen.begin < seen.end ? x / sum : 0.0f);
    }
    if (threadIdx.x == 0 && lse != NULL)
        lse[b * a.H + head] = max + logf(sum);
}

template <typename T> static cudaError_t launch(const zero_nn_attention_t *given, cudaStream_t stream)
{
    const zero_attention<T> a = zero_attention_of<T>(given);
    if (a.B * a.H > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    const dim3 grid((unsigned)(a.B * a.H)), threads(WARPS * ZERO_WARP);
    T *out = (T *)given->out;
    if (a.D <= 2 * ZERO_WARP)
        ZERO_LAUNCH((attention_one<T, 2>), grid, threads, 0, stream, a, out, given->lse);
    else if (a.D <= 4 * ZERO_WARP)
        ZERO_LAUNCH((attention_one<T, 4>), grid, threads, 0, stream, a, out, given->lse);
    else
        ZERO_LAUNCH((attention_one<T, LANE_MOST>), grid, threads, 0, stream, a, out, given->lse);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_attention_one(const zero_nn_attention_t *a, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(a->dtype, T, status = launch<T>(a, stream))
    return status;
}
