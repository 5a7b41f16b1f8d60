/* SPDX-License-Identifier: Apache-2.0 */
/* codes.cu - blocks of a codec for NVIDIA GPUs, with the bits of ref/codes.c. A warp handles a block, and a lane
 * handles LANE neighbours: one word of 8-bit codes, or one half of the halves of a word of 4-bit codes. */
extern "C" {
#include "kernels/flat/kernels.h"
}
#include "kernels/flat/cuda/each.h"

enum { LANE = ZERO_CODEC_BLOCK / 32, BLOCKS = THREADS / 32 };

/* Words from the start of a block to that of the next one: the scale, then the codes. */
template <int CODEC> struct block_of {
    static constexpr int WORDS = 1 + (CODEC == ZERO_CODEC_INT4 ? ZERO_CODEC_BLOCK / 8 : ZERO_CODEC_BLOCK / 4);
};

/* The block of this thread's warp. */
__device__ __forceinline__ int64_t own_block(void)
{
    return (int64_t)blockIdx.x * BLOCKS + threadIdx.x / 32;
}

template <int CODEC, typename S>
__global__ void __launch_bounds__(THREADS) encode_kernel(uint32_t *dst, const S *src, int64_t blocks, bool wide)
{
    const int64_t block = own_block();
    const int lane = threadIdx.x % 32;
    if (block >= blocks) /* the same for all lanes of a warp */
        return;
    const S *const from = src + block * ZERO_CODEC_BLOCK + lane * LANE;
    uint32_t *const to = dst + block * block_of<CODEC>::WORDS;
    zero_pack<S, LANE> x = {};
    if (wide)
        x = load<LANE>(from);
    else {
        ZERO_UNROLL
        for (int e = 0; e < LANE; e++)
            x.e[e] = from[e];
    }
    uint32_t largest = 0;
    ZERO_UNROLL
    for (int e = 0; e < LANE; e++) {
        const uint32_t bits = __float_as_uint(fabsf(zero_widen(x.e[e])));
        largest = bits > largest ? bits : largest;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const uint32_t other = __shfl_xor_sync(ZERO_FULL_WARP, largest, lanes);
        largest = other > largest ? other : largest;
    }
    const bool finite = largest < 0x7f800000u;
    const float most = CODEC == ZERO_CODEC_INT4 ? 7.0f : 127.0f;
    const float scale = finite ? __uint_as_float(largest) / most : __uint_as_float(largest);
    const float inv = scale < 0x1p-126f ? 0.0f : 1.0f / scale;
    uint32_t word = 0;
    ZERO_UNROLL
    for (int e = 0; e < LANE; e++) { /* the sum with 1.5 * 2^23 rounds to integers */
        const uint32_t code = __float_as_uint(zero_widen(x.e[e]) * inv + 0x1.8p23f) - 0x4b400000u;
        word |= finite ? (code & (CODEC == ZERO_CODEC_INT4 ? 0xfu : 0xffu)) << 8 * e : 0;
    }
    if (CODEC == ZERO_CODEC_INT4) /* the upper halves are of the elements behind the middle */
        word |= __shfl_xor_sync(ZERO_FULL_WARP, word, 16) << 4;
    if (lane == 0)
        to[0] = __float_as_uint(scale);
    if (CODEC != ZERO_CODEC_INT4 || lane < 16)
        to[1 + lane] = word;
}

/* stride: words from a source to the next one. */
template <int CODEC, typename D>
__global__ void __launch_bounds__(THREADS)
    decode_kernel(D *dst, const uint32_t *src, int sources, int64_t stride, int64_t blocks, bool wide)
{
    const int64_t block = own_block();
    const int lane = threadIdx.x % 32;
    if (block >= blocks)
        return;
    const uint32_t *from = src + block * block_of<CODEC>::WORDS;
    D *const to = dst + block * ZERO_CODEC_BLOCK + lane * LANE;
    float sum[LANE] = {};
    ZERO_UNROLL_BY(4)
    for (int k = 0; k < sources; k++, from += stride) {
        const float scale = __uint_as_float(from[0]);
        const uint32_t word = from[1 + (CODEC == ZERO_CODEC_INT4 ? lane % 16 : lane)];
        ZERO_UNROLL
        for (int e = 0; e < LANE; e++) {
            const uint32_t top = CODEC == ZERO_CODEC_INT4 ? word << (28 - 8 * e - lane / 16 * 4) : word << (24 - 8 * e);
            sum[e] += (float)((int32_t)top >> (CODEC == ZERO_CODEC_INT4 ? 28 : 24)) * scale;
        }
    }
    zero_pack<D, LANE> y;
    ZERO_UNROLL
    for (int e = 0; e < LANE; e++)
        y.e[e] = zero_narrow<D>(sum[e]);
    if (wide)
        store<LANE>(to, y);
    else {
        ZERO_UNROLL
        for (int e = 0; e < LANE; e++)
            to[e] = y.e[e];
    }
}

/* ---- flat.h ----------------------------------------------------------------------------------------------------- */

static unsigned grid_of(int64_t blocks)
{
    return (unsigned)((blocks + BLOCKS - 1) / BLOCKS);
}

template <int CODEC, typename S> static void launch_encode(void *dst, const S *src, int64_t blocks, cudaStream_t stream)
{
    ZERO_LAUNCH((encode_kernel<CODEC, S>), grid_of(blocks), THREADS, 0, stream, (uint32_t *)dst, src, blocks,
                fits(src, LANE));
}

template <int CODEC, typename D>
static void launch_decode(D *dst, const void *src, int sources, int64_t blocks, cudaStream_t stream)
{
    ZERO_LAUNCH((decode_kernel<CODEC, D>), grid_of(blocks), THREADS, 0, stream, dst, (const uint32_t *)src, sources,
                blocks * block_of<CODEC>::WORDS, blocks, fits(dst, LANE));
}

void zero_cuda_flat_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t count,
                           int threads, void *native)
{
    (void)threads;
    const int64_t blocks = count / ZERO_CODEC_BLOCK;
    cudaStream_t stream = (cudaStream_t)native;
    if (blocks <= 0)
        return;
    if (codec == ZERO_CODEC_INT4)
        ZERO_WITH_TYPE(src_dtype, S, launch_encode<ZERO_CODEC_INT4>(dst, (const S *)src, blocks, stream))
    else
        ZERO_WITH_TYPE(src_dtype, S, launch_encode<ZERO_CODEC_INT8>(dst, (const S *)src, blocks, stream))
}

void zero_cuda_flat_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                           int64_t count, int threads, void *native)
{
    (void)threads;
    const int64_t blocks = count / ZERO_CODEC_BLOCK;
    cudaStream_t stream = (cudaStream_t)native;
    if (blocks <= 0)
        return;
    if (codec == ZERO_CODEC_INT4)
        ZERO_WITH_TYPE(dst_dtype, D, launch_decode<ZERO_CODEC_INT4>((D *)dst, src, sources, blocks, stream))
    else
        ZERO_WITH_TYPE(dst_dtype, D, launch_decode<ZERO_CODEC_INT8>((D *)dst, src, sources, blocks, stream))
}
