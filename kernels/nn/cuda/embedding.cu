/* SPDX-License-Identifier: Apache-2.0 */
/* embedding.cu - see kernels.h. Gradients are added row by row, with the bits of the CPU backend. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum {
    THREADS = 128,
    TOGETHER = 8, /* rows per block, forward: their tokens are 32 bytes, the smallest read */
    AHEAD = 4     /* rows that are read before the first of them is added */
};

/* A block reads the tokens of its rows once, because they are in host memory. Rows whose tokens are not in [begin,
 * begin + count) stay. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    embedding_forward(T *y, const T *wte, const T *wpe, const int32_t *tokens, int64_t begin, int64_t count,
                      int64_t rows, int64_t time, int64_t C, int64_t packs, bool wide)
{
    const int N = zero_pack<T>::N;
    const int64_t most = TOGETHER, first = (int64_t)blockIdx.x * most, have = rows - first < most ? rows - first : most;
    __shared__ int32_t own[TOGETHER];
    float x[N], position[N];
    if ((int64_t)threadIdx.x < have)
        own[threadIdx.x] = tokens[first + threadIdx.x];
    __syncthreads();
    for (int64_t i = threadIdx.x; i < have * packs; i += THREADS) {
        int64_t r = first + i / packs, c = i % packs * N, row = own[i / packs] - begin;
        if (row < 0 || row >= count)
            continue;
        zero_load(x, wte + row * C + c, C - c, wide);
        if (wpe != NULL) {
            zero_load(position, wpe + r % time * C + c, C - c, wide);
            for (int j = 0; j < N; j++)
                x[j] += position[j];
        }
        zero_store(y + r * C + c, x, C - c, wide);
    }
}

/* Block (i, tile): if the run of a token starts at place i of the sorted rows, add its rows of dy to a part of its row
 * of dwte, which has the tokens [first, first + count). */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    embedding_backward(T *dwte, const T *dy, const int32_t *tokens, const int32_t *order, int64_t first, int64_t count,
                       int64_t rows, int64_t C, int64_t tiles, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = blockIdx.x / tiles, c = ((int64_t)(blockIdx.x % tiles) * THREADS + threadIdx.x) * N;
    int32_t token = tokens[i];
    float sum[N], x[AHEAD][N] = {};
    if ((i > 0 && tokens[i - 1] == token) || c >= C || token < first || token - first >= count)
        return;
    T *out = dwte + (token - first) * C + c;
    zero_load(sum, out, C - c, wide);
    while (i < rows && tokens[i] == token) {
        bool there[AHEAD];
        for (int j = 0; j < AHEAD; j++) {
            there[j] = i + j < rows && tokens[i + j] == token;
            if (there[j])
                zero_load(x[j], dy + (int64_t)order[i + j] * C + c, C - c, wide);
        }
        for (int j = 0; j < AHEAD; j++)
            for (int k = 0; k < N && there[j]; k++)
                sum[k] += x[j][k];
        i += AHEAD;
    }
    zero_store(out, sum, C - c, wide);
}

/* dwpe (count elements) += dy (B, count) over B. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    position_backward(T *dwpe, const T *dy, int64_t B, int64_t count, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float sum[N], x[N];
    if (i >= count)
        return;
    zero_load(sum, dwpe + i, count - i, wide);
    for (int64_t b = 0; b < B; b++) {
        zero_load(x, dy + b * count + i, count - i, wide);
        for (int j = 0; j < N; j++)
            sum[j] += x[j];
    }
    zero_store(dwpe + i, sum, count - i, wide);
}

/* Whether rows of `row` elements at these addresses are all multiples of 16 bytes. */
static bool wide_rows(const void *a, const void *b, const void *c, int64_t row, zero_dtype_t dtype)
{
    return ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)(row * (int64_t)zero_dtype_size(dtype))) % 16 == 0;
}

static int64_t divide_up(int64_t x, int64_t by)
{
    return (x + by - 1) / by;
}

template <typename T> static cudaError_t forward(const zero_nn_embedding_t *e, cudaStream_t stream)
{
    int64_t packs = divide_up(e->C, zero_pack<T>::N), rows = e->B * e->T, blocks = divide_up(rows, TOGETHER);
    if (blocks > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((embedding_forward<T>), dim3((unsigned)blocks), dim3(THREADS), 0, stream, (T *)e->y, (const T *)e->wte,
                (const T *)e->wpe, e->tokens, e->tile.first, e->tile.count, rows, e->T, e->C, packs,
                wide_rows(e->y, e->wte, e->wpe, e->C, e->dtype));
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_embedding_forward(const zero_nn_embedding_t *e, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(e->dtype, T, status = forward<T>(e, stream))
    return status;
}

template <typename T>
static cudaError_t backward(const zero_nn_embedding_t *e, const int32_t *tokens, const int32_t *order,
                            cudaStream_t stream)
{
    int64_t rows = e->B * e->T, tiles = divide_up(e->C, THREADS * zero_pack<T>::N), blocks = rows * tiles;
    int64_t count = e->T * e->C, more = divide_up(count, THREADS * zero_pack<T>::N);
    if (blocks > INT32_MAX || more > INT32_MAX)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((embedding_backward<T>), dim3((unsigned)blocks), dim3(THREADS), 0, stream, (T *)e->dwte,
                (const T *)e->dy, tokens, order, e->tile.first, e->tile.count, rows, e->C, tiles,
                wide_rows(e->dwte, e->dy, NULL, e->C, e->dtype));
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess || e->dwpe == NULL)
        return status;
    ZERO_LAUNCH((position_backward<T>), dim3((unsigned)more), dim3(THREADS), 0, stream, (T *)e->dwpe, (const T *)e->dy,
                e->B, count, wide_rows(e->dwpe, e->dy, NULL, count, e->dtype));
    return cudaGetLastError();
}

cudaError_t zero_nn_cuda_embedding_backward(const zero_nn_embedding_t *e, const int32_t *tokens, const int32_t *order,
                                            cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(e->dtype, T, status = backward<T>(e, tokens, order, stream))
    return status;
}
