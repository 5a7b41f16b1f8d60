/* SPDX-License-Identifier: Apache-2.0 */
/* avx512.c - the flat kernels with AVX-512 F, BW, DQ and VL. They do not use VCVTNEPS2BF16 (avx512_bf16): it flushes
 * subnormals to zero, which would give different bits. */
#if defined(__x86_64__)

#include "zero/base/base.h"

#include <float.h>
#include <immintrin.h>

#define SIMD __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define WIDTH 16

typedef __m512 vec;
typedef __m512d dvec;
typedef __m256i hvec;
typedef int32_t ivec __attribute__((vector_size(64)));

static inline SIMD vec v_load_fp32(const float *x)
{
    return _mm512_loadu_ps(x);
}

static inline SIMD vec v_load_bf16(const uint16_t *x)
{
    __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
}

static inline SIMD vec v_load_fp16(const uint16_t *x)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

static inline SIMD void v_store_fp32(float *x, vec value)
{
    _mm512_storeu_ps(x, value);
}

static inline SIMD void v_stream_fp32(float *x, vec value)
{
    _mm512_stream_ps(x, value);
}

/* As zero_fp32_to_bf16. */
static inline SIMD hvec v_to_bf16(vec value)
{
    __m512i u = _mm512_castps_si512(value);
    __m512i high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i h = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    h = _mm512_mask_or_epi32(h, is_nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(h);
}

static inline SIMD hvec v_to_fp16(vec value)
{
    return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}

static inline SIMD void h_store(uint16_t *x, hvec value)
{
    _mm256_storeu_si256((__m256i *)x, value);
}

static inline SIMD void h_stream(uint16_t *x, hvec value)
{
    _mm256_stream_si256((__m256i *)x, value);
}

static inline SIMD ivec b_load(const uint8_t *x)
{
    return (ivec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)x));
}

static inline SIMD void b_store(uint8_t *x, ivec value)
{
    _mm_storeu_si128((__m128i *)x, _mm512_cvtepi32_epi8((__m512i)value));
}

static inline SIMD vec i_to_v(ivec x)
{
    return _mm512_cvtepi32_ps((__m512i)x);
}

static inline SIMD ivec i_max(ivec a, ivec b)
{
    return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b);
}

static inline SIMD ivec i_min(ivec a, ivec b)
{
    return (ivec)_mm512_min_epi32((__m512i)a, (__m512i)b);
}

static inline SIMD vec v_set(float value)
{
    return _mm512_set1_ps(value);
}

static inline SIMD vec v_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline SIMD vec v_sqrt(vec a)
{
    return _mm512_sqrt_ps(a);
}

static inline SIMD dvec d_low(vec a)
{
    return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}

static inline SIMD dvec d_high(vec a)
{
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}

static inline SIMD dvec d_fma(dvec a, dvec b, dvec c)
{
    return _mm512_fmadd_pd(a, b, c);
}

static inline SIMD void d_store(double *x, dvec value)
{
    _mm512_storeu_pd(x, value);
}

#include "kernels/flat/cpu/vector.h"
#include "kernels/flat/cpu/update.h"
#include "kernels/flat/cpu/codes.h"

const zero_flat_kernels_t zero_flat_avx512_kernels = {.cast = kernels_cast,
                                                      .accumulate = kernels_accumulate,
                                                      .sum = kernels_sum,
                                                      .square_blocks = kernels_square_blocks,
                                                      .encode = kernels_encode,
                                                      .decode = kernels_decode,
                                                      .update = kernels_update};

#endif

typedef int zero_flat_avx512_not_empty_t; /* ISO C forbids an empty file, as this would be on other processors */
