/* SPDX-License-Identifier: Apache-2.0 */
/* sums.cu - see kernels.h. Each thread of a block sums its own rows. Then the sums of the block's rows of threads are
 * added in order. */
#include "kernels/nn/cuda/act.h"
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

/* Rows of threads for adding rows, and for adding parts; the largest number of parts. */
enum { HIGH = 8, HIGH_PARTS = 32, PARTS = 256 };

/* Rows in a part: several for each row of threads. */
static int64_t rows_of_part(int64_t rows)
{
    int64_t each = (rows + PARTS - 1) / PARTS;
    return each < 4 * HIGH ? 4 * HIGH : each;
}

int64_t zero_nn_cuda_sum_parts(int64_t rows)
{
    int64_t each = rows_of_part(rows);
    return (rows + each - 1) / each;
}

/* Reduces the N sums of each column of the block to the thread in row 0. The block has ROWS rows of 32 threads. */
template <int N, int ROWS> static __device__ __forceinline__ void sum_down(float out[N])
{
    __shared__ float tile[ROWS][ZERO_WARP * N];
    for (int i = 0; i < N; i++)
        tile[threadIdx.y][i * ZERO_WARP + (int)threadIdx.x] = out[i];
    __syncthreads();
    if (threadIdx.y > 0)
        return;
    for (int y = 1; y < ROWS; y++)
        for (int i = 0; i < N; i++)
            out[i] += tile[y][i * ZERO_WARP + (int)threadIdx.x];
}

/* Sums of dy; or, with an activation, of dx = dy * act'(x), rounded as stored. dx may be dy. */
enum { PLAIN = -1 };
template <typename T, int ACT>
static __global__ void __launch_bounds__(ZERO_WARP *HIGH)
    column_sums(float *partial, T *dx, const T *dy, const T *x, int64_t rows, int64_t n, int64_t each, int64_t tiles,
                bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t column = ((int64_t)(blockIdx.x % tiles) * ZERO_WARP + threadIdx.x) * N, part = blockIdx.x / tiles;
    int64_t begin = part * each, end = begin + each < rows ? begin + each : rows;
    float sum[N], d[N], z[N];
    for (int i = 0; i < N; i++)
        sum[i] = 0;
    for (int64_t r = begin + threadIdx.y; r < end && column < n; r += HIGH) {
        zero_load(d, dy + r * n + column, n - column, wide);
        if (ACT != PLAIN) {
            zero_load(z, x + r * n + column, n - column, wide);
            for (int i = 0; i < N; i++)
                d[i] = zero_widen(zero_narrow<T>(d[i] * zero_act_slope<ACT>(z[i])));
            zero_store(dx + r * n + column, d, n - column, wide);
        }
        for (int i = 0; i < N; i++)
            sum[i] += d[i];
    }
    sum_down<N, HIGH>(sum);
    for (int i = 0; i < N && threadIdx.y == 0; i++)
        if (column + i < n)
            partial[part * n + column + i] = sum[i];
}

template <int ACT>
static cudaError_t launch_sums(void *dx, void *dbias, const void *dy, const void *x, int64_t rows, int64_t n,
                               zero_dtype_t dtype, float *partial, cudaStream_t stream)
{
    int64_t size = (int64_t)zero_dtype_size(dtype), width = ZERO_WARP * 16 / size, tiles = (n + width - 1) / width;
    int64_t each = rows_of_part(rows), parts = (rows + each - 1) / each, blocks = tiles * parts;
    bool wide = ((uintptr_t)dx | (uintptr_t)dy | (uintptr_t)x | (uintptr_t)(n * size)) % 16 == 0;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_WITH_TYPE(dtype, T,
                   ZERO_LAUNCH((column_sums<T, ACT>), dim3((unsigned)blocks), dim3(ZERO_WARP, HIGH), 0, stream, partial,
                               (T *)dx, (const T *)dy, (const T *)x, rows, n, each, tiles, wide))
    cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? zero_nn_cuda_add_parts(&dbias, 1, partial, parts, n, dtype, stream) : status;
}

cudaError_t zero_nn_cuda_bias_backward(void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype,
                                       float *partial, cudaStream_t stream)
{
    return launch_sums<PLAIN>(NULL, dbias, dy, NULL, rows, n, dtype, partial, stream);
}

cudaError_t zero_nn_cuda_act_bias_backward(const zero_nn_act_grad_t *a, float *partial, cudaStream_t stream)
{
    switch (a->act) {
    case ZERO_NN_GELU_NEW:
        return launch_sums<ZERO_NN_GELU_NEW>(a->dx, a->dbias, a->dy, a->x, a->rows, a->n, a->dtype, partial, stream);
    case ZERO_NN_GELU:
        return launch_sums<ZERO_NN_GELU>(a->dx, a->dbias, a->dy, a->x, a->rows, a->n, a->dtype, partial, stream);
    case ZERO_NN_RELU:
        return launch_sums<ZERO_NN_RELU>(a->dx, a->dbias, a->dy, a->x, a->rows, a->n, a->dtype, partial, stream);
    default:
        return launch_sums<ZERO_NN_SILU>(a->dx, a->dbias, a->dy, a->x, a->rows, a->n, a->dtype, partial, stream);
    }
}

struct outs {
    void *p[ZERO_NN_CUDA_SUMS];
};

/* One row of blocks for each of the outs. */
template <typename T>
static __global__ void __launch_bounds__(ZERO_WARP *HIGH_PARTS)
    add_parts(outs all, const float *partial, int64_t parts, int64_t stride, int64_t n)
{
    T *out = (T *)all.p[blockIdx.y];
    partial += blockIdx.y * n;
    int64_t column = (int64_t)blockIdx.x * ZERO_WARP + threadIdx.x;
    float sum[1] = {0};
    if (out == NULL)
        return;
    for (int64_t p = threadIdx.y; p < parts && column < n; p += HIGH_PARTS)
        sum[0] += partial[p * stride + column];
    sum_down<1, HIGH_PARTS>(sum);
    if (threadIdx.y == 0 && column < n)
        out[column] = zero_narrow<T>(zero_widen(out[column]) + sum[0]);
}

cudaError_t zero_nn_cuda_add_parts(void *const *given, int count, const float *partial, int64_t parts, int64_t n,
                                   zero_dtype_t dtype, cudaStream_t stream)
{
    int64_t blocks = (n + ZERO_WARP - 1) / ZERO_WARP;
    outs all = {};
    for (int i = 0; i < count; i++)
        all.p[i] = given[i];
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    const dim3 grid((unsigned)blocks, (unsigned)count), block(ZERO_WARP, HIGH_PARTS);
    ZERO_WITH_TYPE(dtype, T, ZERO_LAUNCH((add_parts<T>), grid, block, 0, stream, all, partial, parts, count * n, n))
    return cudaGetLastError();
}
