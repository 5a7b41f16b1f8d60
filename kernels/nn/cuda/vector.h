/* SPDX-License-Identifier: Apache-2.0 */
/* vector.h - inside kernels/nn/cuda, for .cu files: elements of any dtype in packs of 16 bytes, sums over a warp.
 *
 * A thread owns whole packs. It reads a pack with one access of 16 bytes, or element by element if addresses or rows
 * are not multiples of 16 bytes. So the order of a sum, and its bits, depend on the shape and never on an address. */
#ifndef ZERO_NN_CUDA_VECTOR_H
#define ZERO_NN_CUDA_VECTOR_H

#include "kernels/cuda/convert.h"

#include <math.h>

#define ZERO_WARP 32

/* Put it before a loop over an array that must stay in registers. */
#if defined(__CUDACC__)
#define ZERO_UNROLL _Pragma("unroll")
#else
#define ZERO_UNROLL
#endif

/* x (a pack) = the elements at p, of which `have` exist (all if `have` exceeds a pack). The rest reads 0. wide: p is a
 * multiple of 16 bytes. */
template <typename T> __device__ __forceinline__ void zero_load(float *x, const T *p, int64_t have, bool wide)
{
    if (wide && have >= zero_pack<T>::N) {
        zero_pack<T> pack = *reinterpret_cast<const zero_pack<T> *>(p);
        for (int i = 0; i < zero_pack<T>::N; i++)
            x[i] = zero_widen(pack.e[i]);
        return;
    }
    for (int i = 0; i < zero_pack<T>::N; i++)
        x[i] = i < have ? zero_widen(p[i]) : 0.0f;
}

/* The existing elements at p = x (a pack), rounded once. */
template <typename T> __device__ __forceinline__ void zero_store(T *p, const float *x, int64_t have, bool wide)
{
    if (wide && have >= zero_pack<T>::N) {
        zero_pack<T> pack;
        for (int i = 0; i < zero_pack<T>::N; i++)
            pack.e[i] = zero_narrow<T>(x[i]);
        *reinterpret_cast<zero_pack<T> *>(p) = pack;
        return;
    }
    for (int i = 0; i < zero_pack<T>::N; i++)
        if (i < have)
            p[i] = zero_narrow<T>(x[i]);
}

/* The sum or maximum over aligned groups of `lanes` lanes of a warp (a power of two). All lanes of a group get the same
 * bits. */
__device__ __forceinline__ float zero_lanes_sum(float value, int lanes)
{
    for (int i = lanes / 2; i > 0; i /= 2)
        value += __shfl_xor_sync(ZERO_FULL_WARP, value, i);
    return value;
}
__device__ __forceinline__ float zero_lanes_max(float value, int lanes)
{
    for (int i = lanes / 2; i > 0; i /= 2)
        value = fmaxf(value, __shfl_xor_sync(ZERO_FULL_WARP, value, i));
    return value;
}

#endif
