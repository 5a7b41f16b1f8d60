/* SPDX-License-Identifier: Apache-2.0 */
/* entropy.cu - see kernels.h. One block per row. One pass reads the row for its maximum and the sum of exponentials
 * together; one pass writes. For a part of the vocabulary these are two kernels. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { THREADS = 512, WARPS = THREADS / ZERO_WARP };

/* The maximum of some values and the sum of e^(value - max). A NaN affects only the sum. Without values max is -inf. */
typedef struct online {
    float max, sum;
} online_t;

/* The value to subtract. It avoids inf - inf, which would create a NaN. */
static __device__ __forceinline__ float below(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

static __device__ __forceinline__ online_t join(online_t a, online_t b)
{
    online_t both = {fmaxf(a.max, b.max), 0};
    float base = below(both.max);
    both.sum = a.sum * expf(a.max - base) + b.sum * expf(b.max - base);
    return both;
}

/* Joins the values of a row's part that each warp reads; warps receives them. */
template <typename T>
static __device__ __forceinline__ void sum_warps(online_t *warps, const T *logits, int64_t V, bool wide)
{
    const int N = zero_pack<T>::N;
    float x[N];
    online_t all = {-INFINITY, 0};
    for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += THREADS * N) {
        float max = all.max;
        zero_load(x, logits + c, V - c, wide);
        for (int i = 0; i < N; i++)
            max = c + i < V ? fmaxf(max, x[i]) : max;
        float base = below(max);
        all.sum *= expf(all.max - base);
        for (int i = 0; i < N; i++)
            all.sum += c + i < V ? expf(x[i] - base) : 0.0f;
        all.max = max;
    }
    for (int i = ZERO_WARP / 2; i > 0; i /= 2) {
        online_t other = {__shfl_xor_sync(ZERO_FULL_WARP, all.max, i), __shfl_xor_sync(ZERO_FULL_WARP, all.sum, i)};
        all = join(all, other);
    }
    if (threadIdx.x % ZERO_WARP == 0)
        warps[threadIdx.x / ZERO_WARP] = all;
}

static __device__ __forceinline__ online_t join_warps(const online_t *warps)
{
    online_t all = warps[0];
    for (int i = 1; i < WARPS; i++)
        all = join(all, warps[i]);
    return all;
}

/* The gradient of a row replaces its logits. target: its column, which may be outside [0, V). */
template <typename T>
static __device__ __forceinline__ void put_gradient(T *logits, int64_t target, int64_t V, online_t all, bool ignore,
                                                    float scale, bool wide)
{
    const int N = zero_pack<T>::N;
    const float inverse = 1.0f / all.sum;
    float x[N];
    for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += THREADS * N) {
        zero_load(x, logits + c, V - c, wide);
        for (int i = 0; i < N; i++) {
            float p = expf(x[i] - all.max) * inverse;
            x[i] = ignore ? 0.0f : (c + i == target ? p - 1.0f : p) * scale;
        }
        zero_store(logits + c, x, V - c, wide);
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    entropy(T *logits, float *losses, const int32_t *targets, int64_t V, int64_t ld, bool grad, float scale, bool wide)
{
    __shared__ online_t warps[WARPS];
    __shared__ float right;    /* the target's logit, which is overwritten later */
    __shared__ int32_t target; /* one thread reads it, because it is in host memory */
    logits += (int64_t)blockIdx.x * ld;
    if (threadIdx.x == 0)
        target = targets[blockIdx.x];
    sum_warps(warps, logits, V, wide);
    if (threadIdx.x == 0)
        right = target == ZERO_NN_IGNORE ? 0.0f : zero_widen(logits[target]);
    __syncthreads();
    const online_t all = join_warps(warps);
    const bool ignore =
        target == ZERO_NN_IGNORE; /* known only now: waiting for it would cost every row a trip to the host */
    if (threadIdx.x == 0)
        losses[blockIdx.x] = ignore ? 0.0f : logf(all.sum) + all.max - right;
    if (grad)
        put_gradient(logits, target, V, all, ignore, scale, wide);
}

/* stats (rows, 3) of the columns [first, first + V). */
template <typename T>
static __global__ void __launch_bounds__(THREADS) entropy_local(const T *logits, float *stats, const int32_t *targets,
                                                                int64_t first, int64_t V, int64_t ld, bool wide)
{
    __shared__ online_t warps[WARPS];
    const int32_t target = threadIdx.x == 0 ? targets[blockIdx.x] : 0; /* in host memory */
    logits += (int64_t)blockIdx.x * ld;
    stats += (int64_t)blockIdx.x * 3;
    sum_warps(warps, logits, V, wide);
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    const online_t all = join_warps(warps);
    const bool ignore = target == ZERO_NN_IGNORE, here = target >= first && target - first < V;
    stats[0] = ignore ? -INFINITY : all.max;
    stats[1] = ignore ? 0.0f : all.sum;
    stats[2] = here ? zero_widen(logits[target - first]) : 0.0f;
}

/* stats (parts, rows, 3): every thread adds its row's parts, in their order. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    entropy_combine(T *logits, float *losses, const float *stats, int64_t parts, const int32_t *targets, int64_t first,
                    int64_t V, int64_t ld, bool grad, float scale, bool wide)
{
    __shared__ int32_t target; /* one thread reads it, because it is in host memory */
    const int64_t part = (int64_t)gridDim.x * 3;
    online_t all = {-INFINITY, 0};
    float right = 0;
    if (threadIdx.x == 0)
        target = targets[blockIdx.x];
    stats += (int64_t)blockIdx.x * 3;
    for (int64_t p = 0; p < parts; p++)
        all.max = fmaxf(all.max, stats[p * part]);
    for (int64_t p = 0; p < parts; p++) {
        all.sum += stats[p * part + 1] * expf(stats[p * part] - all.max);
        right += stats[p * part + 2];
    }
    __syncthreads();
    const bool ignore = target == ZERO_NN_IGNORE;
    if (threadIdx.x == 0)
        losses[blockIdx.x] = ignore ? 0.0f : logf(all.sum) + all.max - right;
    if (grad)
        put_gradient(logits + (int64_t)blockIdx.x * ld, target - first, V, all, ignore, scale, wide);
}

/* Whether every row starts at a multiple of 16 bytes. */
template <typename T> static bool is_wide(const zero_nn_entropy_t *e)
{
    return ((uintptr_t)e->logits | (uintptr_t)e->ld * sizeof(T)) % 16 == 0;
}

template <typename T> static cudaError_t launch(const zero_nn_entropy_t *e, cudaStream_t stream)
{
    const dim3 rows((unsigned)e->rows), threads(THREADS);
    T *const logits = (T *)e->logits;
    if (e->stats != NULL)
        ZERO_LAUNCH((entropy_local<T>), rows, threads, 0, stream, logits, e->stats, e->targets, e->first, e->V, e->ld,
                    is_wide<T>(e));
    else if (e->all != NULL)
        ZERO_LAUNCH((entropy_combine<T>), rows, threads, 0, stream, logits, e->losses, e->all, e->parts, e->targets,
                    e->first, e->V, e->ld, e->grad, e->scale, is_wide<T>(e));
    else
        ZERO_LAUNCH((entropy<T>), rows, threads, 0, stream, logits, e->losses, e->targets, e->V, e->ld, e->grad,
                    e->scale, is_wide<T>(e));
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_entropy(const zero_nn_entropy_t *e, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    if (e->rows > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(e->dtype, T, status = launch<T>(e, stream))
    return status;
}
