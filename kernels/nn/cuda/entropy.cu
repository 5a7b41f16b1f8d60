/* SPDX-License-Identifier: Apache-2.0 */
/* entropy.cu - see kernels.h. One block per row. One pass reads the row for its maximum and the sum of exponentials
 * together; one pass writes. */
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

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    entropy(T *logits, float *losses, const int32_t *targets, int64_t V, int64_t ld, bool grad, float scale, bool wide)
{
    const int N = zero_pack<T>::N;
    __shared__ online_t warps[WARPS];
    __shared__ float right;    /* the target's logit, which is overwritten later */
    __shared__ int32_t target; /* one thread reads it, because it is in host memory */
    float x[N];
    online_t all = {-INFINITY, 0};
    logits += (int64_t)blockIdx.x * ld;
    if (threadIdx.x == 0)
        target = targets[blockIdx.x];
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
    if (threadIdx.x == 0)
        right = target == ZERO_NN_IGNORE ? 0.0f : zero_widen(logits[target]);
    __syncthreads();
    all = warps[0];
    for (int i = 1; i < WARPS; i++)
        all = join(all, warps[i]);
    const bool ignore =
        target == ZERO_NN_IGNORE; /* known only now: waiting for it would cost every row a trip to the host */
    if (threadIdx.x == 0)
        losses[blockIdx.x] = ignore ? 0.0f : logf(all.sum) + all.max - right;
    if (!grad)
        return;
    const float inverse = 1.0f / all.sum;
    for (int64_t c = (int64_t)threadIdx.x * N; c < V; c += THREADS * N) {
        zero_load(x, logits + c, V - c, wide);
        for (int i = 0; i < N; i++) {
            float p = expf(x[i] - all.max) * inverse;
            x[i] = ignore ? 0.0f : (c + i == target ? p - 1.0f : p) * scale;
        }
        zero_store(logits + c, x, V - c, wide);
    }
}

template <typename T> static cudaError_t launch(const zero_nn_entropy_t *e, cudaStream_t stream)
{
    bool wide = ((uintptr_t)e->logits | (uintptr_t)e->ld * sizeof(T)) % 16 == 0;
    if (e->rows > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((entropy<T>), dim3((unsigned)e->rows), dim3(THREADS), 0, stream, (T *)e->logits, e->losses, e->targets,
                e->V, e->ld, e->grad, e->scale, wide);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_entropy(const zero_nn_entropy_t *e, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(e->dtype, T, status = launch<T>(e, stream))
    return status;
}
