/* SPDX-License-Identifier: Apache-2.0 */
/* convert.h - converts elements of the three dtypes on a GPU, with the bits of zero/base: rounded to nearest even,
 * subnormals kept, NaN with its payload (the GPU's own conversions replace the payload). All code is branch-free, in
 * integer and exact fp32 arithmetic. */
#ifndef ZERO_KERNELS_CUDA_CONVERT_H
#define ZERO_KERNELS_CUDA_CONVERT_H

#include "kernels/cuda/launch.h"

/* 16-bit elements as distinct types, so that kernels can be templates over float, zero_bf16_t and zero_fp16_t. */
typedef struct zero_bf16 {
    uint16_t bits;
} zero_bf16_t;
typedef struct zero_fp16 {
    uint16_t bits;
} zero_fp16_t;

/* An element in fp32. The conversion is exact. */
__device__ __forceinline__ float zero_widen(float x)
{
    return x;
}

__device__ __forceinline__ float zero_widen(zero_bf16_t x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

__device__ __forceinline__ float zero_widen(zero_fp16_t x)
{
    uint32_t sign = (uint32_t)(x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
    /* The shifted bits are the number times 2^-112, also for subnormals. */
    uint32_t finite = __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f);
    uint32_t other = 0x7f800000u | magnitude << 13 | (magnitude > 0x7c00u ? 0x00400000u : 0u);
    return __uint_as_float(sign | (magnitude < 0x7c00u ? finite : other));
}

/* Rounds a float once to T: zero_narrow<zero_bf16_t>(x). */
template <typename T> __device__ __forceinline__ T zero_narrow(float x);

template <> __device__ __forceinline__ float zero_narrow<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ zero_bf16_t zero_narrow<zero_bf16_t>(float x)
{
    uint32_t u = __float_as_uint(x), rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16, nan = u >> 16 | 0x40u;
    return zero_bf16_t{(uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

template <> __device__ __forceinline__ zero_fp16_t zero_narrow<zero_fp16_t>(float x)
{
    uint32_t u = __float_as_uint(x), magnitude = u & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    /* Below 2^-14: fp32 numbers in [0.5, 1) have the spacing 2^-24 of fp16's subnormals, so the addition rounds. */
    uint32_t subnormal = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t h = magnitude < 0x38800000u ? subnormal : normal;
    h = magnitude >= 0x477ff000u ? 0x7c00u : h; /* 65520 and above are closer to 65536 than to 65504 */
    h = magnitude > 0x7f800000u ? 0x7e00u | (magnitude >> 13 & 0x3ffu) : h;
    return zero_fp16_t{(uint16_t)((u >> 16 & 0x8000u) | h)};
}

/* COUNT elements, by default 16 bytes, which one instruction loads or stores. Pointers to a pack must be multiples of
 * its size. */
template <typename T, int COUNT = 16 / sizeof(T)> struct __align__(COUNT * sizeof(T)) zero_pack
{
    enum { N = COUNT };
    T e[N];
};

/* Runs the code with T as the type of dtype's elements. */
#define ZERO_WITH_TYPE(dtype, T, ...) \
    switch (dtype) {                  \
    case ZERO_FP32: {                 \
        typedef float T;              \
        __VA_ARGS__;                  \
        break;                        \
    }                                 \
    case ZERO_BF16: {                 \
        typedef zero_bf16_t T;        \
        __VA_ARGS__;                  \
        break;                        \
    }                                 \
    case ZERO_FP16: {                 \
        typedef zero_fp16_t T;        \
        __VA_ARGS__;                  \
        break;                        \
    }                                 \
    case ZERO_DTYPE_COUNT:            \
        break;                        \
    }

#endif
