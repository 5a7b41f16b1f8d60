/* SPDX-License-Identifier: Apache-2.0 */
/* act.cu - see kernels.h. Activations, alone and gated. One thread per pack of 16 bytes. */
#include "kernels/nn/cuda/act.h"
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { THREADS = 256 };

/* y = act(x); with BACKWARD y = dy * act'(x). y may be x or dy. */
template <typename T, int ACT, bool BACKWARD>
static __global__ void __launch_bounds__(THREADS) activate(T *y, const T *dy, const T *x, int64_t count, bool wide)
{
    const int N = zero_pack<T>::N;
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;
    float v[N], d[N];
    if (i >= count)
        return;
    zero_load(v, x + i, count - i, wide);
    if (BACKWARD)
        zero_load(d, dy + i, count - i, wide);
    for (int j = 0; j < N; j++)
        v[j] = BACKWARD ? d[j] * zero_act_slope<ACT>(v[j]) : zero_act<ACT>(v[j]);
    zero_store(y + i, v, count - i, wide);
}

/* Where a thread's pack of a gated activation lies: column c of row r. Rows have `packs` packs. The division is much
 * faster in 32 bits. */
struct gated_place {
    int64_t r, c;
};

template <typename T> static __device__ __forceinline__ gated_place gated_at(int64_t packs, bool small)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t r = small ? (int64_t)((uint32_t)i / (uint32_t)packs) : i / packs;
    return {r, (i - r * packs) * zero_pack<T>::N};
}

/* y = act(gate) * up. */
template <typename T, int ACT>
static __global__ void __launch_bounds__(THREADS)
    gated_forward(T *y, const T *gu, int64_t rows, int64_t F, int64_t packs, bool small, bool wide)
{
    const int N = zero_pack<T>::N;
    const gated_place p = gated_at<T>(packs, small);
    float gate[N], up[N];
    if (p.r >= rows)
        return;
    gu += 2 * p.r * F + p.c;
    zero_load(gate, gu, F - p.c, wide);
    zero_load(up, gu + F, F - p.c, wide);
    for (int j = 0; j < N; j++)
        up[j] *= zero_act<ACT>(gate[j]);
    zero_store(y + p.r * F + p.c, up, F - p.c, wide);
}

/* dgu = dy * up * act'(gate), dy * act(gate). dgu may be gu: a thread writes only what it alone has read. */
template <typename T, int ACT>
static __global__ void __launch_bounds__(THREADS)
    gated_backward(T *dgu, const T *dy, const T *gu, int64_t rows, int64_t F, int64_t packs, bool small, bool wide)
{
    const int N = zero_pack<T>::N;
    const gated_place p = gated_at<T>(packs, small);
    float gate[N], up[N], d[N];
    if (p.r >= rows)
        return;
    const int64_t at = 2 * p.r * F + p.c;
    zero_load(gate, gu + at, F - p.c, wide);
    zero_load(up, gu + at + F, F - p.c, wide);
    zero_load(d, dy + p.r * F + p.c, F - p.c, wide);
    for (int j = 0; j < N; j++) {
        up[j] = d[j] * up[j] * zero_act_slope<ACT>(gate[j]);
        d[j] *= zero_act<ACT>(gate[j]);
    }
    zero_store(dgu + at, up, F - p.c, wide);
    zero_store(dgu + at + F, d, F - p.c, wide);
}

/* Blocks for `packs` threads; 0: more than a grid allows. */
static unsigned blocks_of(int64_t packs)
{
    int64_t blocks = (packs + THREADS - 1) / THREADS;
    return blocks > INT32_MAX ? 0 : (unsigned)blocks;
}

template <typename T, int ACT, bool BACKWARD>
static cudaError_t launch_act(void *y, const void *dy, const void *x, int64_t count, cudaStream_t stream)
{
    const unsigned blocks = blocks_of((count + zero_pack<T>::N - 1) / zero_pack<T>::N);
    bool wide = ((uintptr_t)y | (uintptr_t)dy | (uintptr_t)x) % 16 == 0;
    if (blocks == 0)
        return cudaErrorInvalidConfiguration;
    ZERO_LAUNCH((activate<T, ACT, BACKWARD>), dim3(blocks), dim3(THREADS), 0, stream, (T *)y, (const T *)dy,
                (const T *)x, count, wide);
    return cudaGetLastError();
}

template <typename T, bool BACKWARD>
static cudaError_t choose_act(zero_nn_activation_t act, void *y, const void *dy, const void *x, int64_t count,
                              cudaStream_t stream)
{
    switch (act) {
    case ZERO_NN_GELU_NEW:
        return launch_act<T, ZERO_NN_GELU_NEW, BACKWARD>(y, dy, x, count, stream);
    case ZERO_NN_GELU:
        return launch_act<T, ZERO_NN_GELU, BACKWARD>(y, dy, x, count, stream);
    case ZERO_NN_RELU:
        return launch_act<T, ZERO_NN_RELU, BACKWARD>(y, dy, x, count, stream);
    default:
        return launch_act<T, ZERO_NN_SILU, BACKWARD>(y, dy, x, count, stream);
    }
}

cudaError_t zero_nn_cuda_act_forward(zero_nn_activation_t act, void *y, const void *x, int64_t count,
                                     zero_dtype_t dtype, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(dtype, T, status = choose_act<T, false>(act, y, NULL, x, count, stream))
    return status;
}

cudaError_t zero_nn_cuda_act_backward(const zero_nn_act_grad_t *a, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(a->dtype, T, status = choose_act<T, true>(a->act, a->dx, a->dy, a->x, a->rows * a->n, stream))
    return status;
}

template <typename T, int ACT> static cudaError_t launch_gated(const zero_nn_gated_t *g, cudaStream_t stream)
{
    const int64_t N = zero_pack<T>::N, packs = (g->F + N - 1) / N;
    const unsigned blocks = blocks_of(packs * g->rows);
    const bool small = packs * g->rows <= INT32_MAX - THREADS;
    bool wide = ((uintptr_t)g->gu | (uintptr_t)g->y | (uintptr_t)g->dy | (uintptr_t)g->dgu |
                 (uintptr_t)(g->F * (int64_t)sizeof(T))) %
                    16 ==
                0;
    if (blocks == 0)
        return cudaErrorInvalidConfiguration;
    if (g->dgu == NULL)
        ZERO_LAUNCH((gated_forward<T, ACT>), dim3(blocks), dim3(THREADS), 0, stream, (T *)g->y, (const T *)g->gu,
                    g->rows, g->F, packs, small, wide);
    else
        ZERO_LAUNCH((gated_backward<T, ACT>), dim3(blocks), dim3(THREADS), 0, stream, (T *)g->dgu, (const T *)g->dy,
                    (const T *)g->gu, g->rows, g->F, packs, small, wide);
    return cudaGetLastError();
}

template <typename T> static cudaError_t choose_gated(const zero_nn_gated_t *g, cudaStream_t stream)
{
    switch (g->act) {
    case ZERO_NN_GELU_NEW:
        return launch_gated<T, ZERO_NN_GELU_NEW>(g, stream);
    case ZERO_NN_GELU:
        return launch_gated<T, ZERO_NN_GELU>(g, stream);
    case ZERO_NN_RELU:
        return launch_gated<T, ZERO_NN_RELU>(g, stream);
    default:
        return launch_gated<T, ZERO_NN_SILU>(g, stream);
    }
}

/* Backward if dgu is not NULL. */
static cudaError_t gated(const zero_nn_gated_t *g, cudaStream_t stream)
{
    cudaError_t status = cudaErrorInvalidValue;
    ZERO_WITH_TYPE(g->dtype, T, status = choose_gated<T>(g, stream))
    return status;
}

cudaError_t zero_nn_cuda_gated_forward(const zero_nn_gated_t *g, cudaStream_t stream)
{
    return gated(g, stream);
}

cudaError_t zero_nn_cuda_gated_backward(const zero_nn_gated_t *g, cudaStream_t stream)
{
    return gated(g, stream);
}
