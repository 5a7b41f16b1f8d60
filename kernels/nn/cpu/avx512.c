/* SPDX-License-Identifier: Apache-2.0 */
/* avx512.c - the kernels of simd.h for AVX-512: 32 registers of 16 floats. */
#if defined(__x86_64__)

#include <immintrin.h>

#define SIMD_TABLE zero_nn_simd_avx512
#define SIMD_NAME "avx512"
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define LANES 16
#define BLOCK_M 8
#define TILE_M 12
#define TILE_V 2
#define FP16_WIDEN(h) _mm512_cvtph_ps((__m256i)(h))
#define FP16_ROUND(v) _mm512_cvtps_ph((__m512)(v), _MM_FROUND_TO_NEAREST_INT)

typedef float vf __attribute__((vector_size(64)));
typedef int vi __attribute__((vector_size(64)));

static inline __attribute__((always_inline)) TARGET vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

static inline __attribute__((always_inline)) TARGET vf vf_max(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}

#include "kernels/nn/cpu/simd_rows.h"

#endif
