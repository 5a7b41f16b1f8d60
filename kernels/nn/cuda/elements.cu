/* SPDX-License-Identifier: Apache-2.0 */
/* elements.cu - see kernels.h. One thread per pack of 16 bytes. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { THREADS = 256 };

/* y = a + b; y may be a or b. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) add(T *y, const T *a, const T *b, int64_t count, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float x[N], z[N];
    if (i >= count)
        return;
    zero_load(x, a + i, count - i, wide);
    zero_load(z, b + i, count - i, wide);
    for (int j = 0; j < N; j++)
        x[j] += z[j];
    zero_store(y + i, x, count - i, wide);
}

/* y = factor x, rounded once; y may be x. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) scale(T *y, const T *x, float factor, int64_t count, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float v[N];
    if (i >= count)
        return;
    zero_load(v, x + i, count - i, wide);
    for (int j = 0; j < N; j++)
        v[j] *= factor;
    zero_store(y + i, v, count - i, wide);
}

/* y += sums, rounded once. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) add_sums(T *y, const float *sums, int64_t count, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float x[N], z[N];
    if (i >= count)
        return;
    zero_load(x, y + i, count - i, wide);
    for (int j = 0; j < N; j += zero_pack<float>::N)
        zero_load(z + j, sums + i + j, count - i - j, wide);
    for (int j = 0; j < N; j++)
        x[j] += z[j];
    zero_store(y + i, x, count - i, wide);
}

/* Blocks for count elements; 0: more than a grid allows. */
static unsigned blocks_of(int64_t count, zero_dtype_t dtype)
{
    int64_t pack = 16 / (int64_t)zero_dtype_size(dtype), blocks = (count + pack * THREADS - 1) / (pack * THREADS);
    return blocks > INT32_MAX ? 0 : (unsigned)blocks;
}

cudaError_t zero_nn_cuda_add(void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype,
                             cudaStream_t stream)
{
    const unsigned blocks = blocks_of(count, dtype);
    bool wide = ((uintptr_t)y | (uintptr_t)a | (uintptr_t)b) % 16 == 0;
    if (blocks == 0)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(
        dtype, T,
        ZERO_LAUNCH((add<T>), dim3(blocks), dim3(THREADS), 0, stream, (T *)y, (const T *)a, (const T *)b, count, wide))
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_scale(void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype,
                               cudaStream_t stream)
{
    const unsigned blocks = blocks_of(count, dtype);
    bool wide = ((uintptr_t)y | (uintptr_t)x) % 16 == 0;
    if (blocks == 0)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(
        dtype, T,
        ZERO_LAUNCH((scale<T>), dim3(blocks), dim3(THREADS), 0, stream, (T *)y, (const T *)x, factor, count, wide))
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_add_sums(void *y, const float *sums, int64_t count, zero_dtype_t dtype, cudaStream_t stream)
{
    const unsigned blocks = blocks_of(count, dtype);
    bool wide = ((uintptr_t)y | (uintptr_t)sums) % 16 == 0;
    if (blocks == 0)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(dtype, T,
                   ZERO_LAUNCH((add_sums<T>), dim3(blocks), dim3(THREADS), 0, stream, (T *)y, sums, count, wide))
    return cudaGetLastError();
}

/* One block per row. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    put_rows(T *y, const T *x, const int32_t *at, int64_t C, int64_t ldx, int64_t ldy, int64_t places)
{
    __shared__ int32_t place; /* it is in host memory */
    if (threadIdx.x == 0)
        place = at[blockIdx.x];
    __syncthreads();
    if (place < 0 || place >= places)
        return;
    for (int64_t c = threadIdx.x; c < C; c += THREADS)
        y[place * ldy + c] = x[blockIdx.x * ldx + c];
}

cudaError_t zero_nn_cuda_put_rows(const zero_nn_put_t *p, cudaStream_t stream)
{
    const dim3 blocks((unsigned)p->rows), threads(THREADS);
    if (p->rows > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(p->dtype, T,
                   ZERO_LAUNCH((put_rows<T>), blocks, threads, 0, stream, (T *)p->y, (const T *)p->x, p->at, p->C,
                               p->ldx, p->ldy, p->places))
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(THREADS)
    combine(float *y, float alpha, const float *a, float beta, const float *b, int64_t count)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        y[i] = alpha * a[i] + beta * b[i];
}

cudaError_t zero_nn_cuda_combine(float *y, float alpha, const float *a, float beta, const float *b, int64_t count,
                                 cudaStream_t stream)
{
    int64_t blocks = (count + THREADS - 1) / THREADS;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((combine), dim3((unsigned)blocks), dim3(THREADS), 0, stream, y, alpha, a, beta, b, count);
    return cudaGetLastError();
}

/* partial[block] = the sum of the squares of the block's run of x: threads take turns, then their sums are added as a
 * tree. */
static __global__ void __launch_bounds__(THREADS) square_parts(double *partial, const float *x, int64_t count)
{
    __shared__ double sums[THREADS];
    const int64_t each = (count + ZERO_NN_CUDA_SQUARES - 1) / ZERO_NN_CUDA_SQUARES, begin = (int64_t)blockIdx.x * each,
                  end = begin + each < count ? begin + each : count;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS)
        sum += (double)x[i] * (double)x[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        partial[blockIdx.x] = sums[0];
}

/* Each block adds the partial sums anew, in order. */
static __global__ void __launch_bounds__(THREADS)
    divide_by_norm(float *y, const double *partial, const float *x, int64_t count, float least)
{
    __shared__ float inverse;
    if (threadIdx.x == 0) {
        double sum = 0;
        for (int p = 0; p < ZERO_NN_CUDA_SQUARES; p++)
            sum += partial[p];
        double norm = sqrt(sum);
        inverse = (float)(1 / (norm > (double)least ? norm : (double)least));
    }
    __syncthreads();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count)
        y[i] = x[i] * inverse;
}

cudaError_t zero_nn_cuda_normalize(float *y, double *partial, const float *x, int64_t count, float least,
                                   cudaStream_t stream)
{
    int64_t blocks = (count + THREADS - 1) / THREADS;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((square_parts), dim3(ZERO_NN_CUDA_SQUARES), dim3(THREADS), 0, stream, partial, x, count);
    ZERO_LAUNCH((divide_by_norm), dim3((unsigned)blocks), dim3(THREADS), 0, stream, y, (const double *)partial, x,
                count, least);
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_load_kernels(void)
{
    return zero_load_kernels();
}
