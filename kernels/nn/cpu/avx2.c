/* SPDX-License-Identifier: Apache-2.0 */
/* avx2.c - the kernels of simd.h for AVX2 with FMA and F16C: 16 registers of 8 floats. */
#if defined(__x86_64__)

#include <immintrin.h>

#define SIMD_TABLE zero_nn_simd_avx2
#define SIMD_NAME "avx2"
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define BLOCK_M 4
#define TILE_M 6
#define TILE_V 2
#define FP16_WIDEN(h) _mm256_cvtph_ps((__m128i)(h))
#define FP16_ROUND(v) _mm256_cvtps_ph((__m256)(v), _MM_FROUND_TO_NEAREST_INT)

typedef float vf __attribute__((vector_size(32)));
typedef int vi __attribute__((vector_size(32)));

static inline __attribute__((always_inline)) TARGET vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

static inline __attribute__((always_inline)) TARGET vf vf_max(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}

#include "kernels/nn/cpu/simd_rows.h"

#endif
