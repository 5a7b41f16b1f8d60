/* SPDX-License-Identifier: Apache-2.0 */
/* each.h - inside kernels/flat/cuda: shared by its element-wise kernels.
 *
 * The kernels are memory-bound. A thread takes UNROLL packs of N elements. Consecutive packs of a thread are a block's
 * packs apart, so each access of a warp is to contiguous bytes, 16 per thread if the elements allow it. A thread loads
 * all of its packs before it computes. The blocks of a launch cover the buffer exactly once, so nothing depends on the
 * size of a GPU. */
#ifndef ZERO_FLAT_CUDA_EACH_H
#define ZERO_FLAT_CUDA_EACH_H

extern "C" {
#include "kernels/flat/flat.h"
}
#include "kernels/cuda/convert.h"

#include <math.h>

enum { THREADS = 256 };

/* update of flat.h, on a stream (update.cu). */
void zero_cuda_flat_update(const zero_update_t *u, int count, int threads, void *native);

/* encode and decode of flat.h (codes.cu). */
void zero_cuda_flat_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t count,
                           int threads, void *native);
void zero_cuda_flat_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                           int64_t count, int threads, void *native);

/* Elements in a pack: 16 bytes of the wider type. With 16 bytes of the narrower type, neighbours would read the wider
 * type 32 bytes apart, using half of each memory sector at a time. */
template <typename A, typename B> struct together {
    enum { N = sizeof(A) > sizeof(B) ? 16 / sizeof(A) : 16 / sizeof(B) };
};

template <int N, typename T> __device__ __forceinline__ zero_pack<T, N> load(const T *p)
{
    return *reinterpret_cast<const zero_pack<T, N> *>(p);
}

template <int N, typename T> __device__ __forceinline__ void store(T *p, const zero_pack<T, N> &x)
{
    *reinterpret_cast<zero_pack<T, N> *>(p) = x;
}

/* Runs op over tile number block of elements [0, count). op has N (elements in a pack), UNROLL, in (the operands of a
 * pack), load and store of the pack at element i, and single for element i alone. single handles the elements after the
 * last pack, and all elements if the buffers are not aligned (not wide). */
template <typename OP> __device__ __forceinline__ void each(const OP &op, int64_t block, int64_t count, bool wide)
{
    const int64_t tile = (int64_t)THREADS * OP::UNROLL * OP::N, begin = block * tile;
    const int64_t packed = wide ? count / OP::N * OP::N : begin, end = begin + tile < count ? begin + tile : count;
    typename OP::in in[OP::UNROLL];
    ZERO_UNROLL
    for (int u = 0; u < OP::UNROLL; u++) {
        int64_t i = begin + (int64_t)(u * THREADS + (int)threadIdx.x) * OP::N;
        if (i < packed)
            op.load(&in[u], i);
    }
    ZERO_UNROLL
    for (int u = 0; u < OP::UNROLL; u++) {
        int64_t i = begin + (int64_t)(u * THREADS + (int)threadIdx.x) * OP::N;
        if (i < packed)
            op.store(in[u], i);
    }
    ZERO_UNROLL_BY(1)
    for (int64_t i = (packed > begin ? packed : begin) + threadIdx.x; i < end; i += THREADS)
        op.single(i);
}

template <typename OP> unsigned blocks_for(int64_t count)
{
    const int64_t tile = (int64_t)THREADS * OP::UNROLL * OP::N;
    return (unsigned)((count + tile - 1) / tile);
}

/* Whether packs of n elements of T can be loaded from p. */
template <typename T> bool fits(const T *p, int n)
{
    return (uintptr_t)p % (sizeof(T) * (size_t)n) == 0;
}

#endif
