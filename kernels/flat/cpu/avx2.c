/* SPDX-License-Identifier: Apache-2.0 */
/* avx2.c - the flat kernels with AVX2, FMA and F16C. */
#if defined(__x86_64__)

#include "zero/base/base.h"

#include <float.h>
#include <immintrin.h>

#define SIMD __attribute__((target("avx2,fma,f16c")))
#define WIDTH 8

typedef __m256 vec;
typedef __m256d dvec;
typedef __m128i hvec;
typedef int32_t ivec __attribute__((vector_size(32)));

static inline SIMD vec v_load_fp32(const float *x)
{
    return _mm256_loadu_ps(x);
}

static inline SIMD vec v_load_bf16(const uint16_t *x)
{
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

static inline SIMD vec v_load_fp16(const uint16_t *x)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
}

static inline SIMD void v_store_fp32(float *x, vec value)
{
    _mm256_storeu_ps(x, value);
}

static inline SIMD void v_stream_fp32(float *x, vec value)
{
    _mm256_stream_ps(x, value);
}

/* As zero_fp32_to_bf16. */
static inline SIMD hvec v_to_bf16(vec value)
{
    __m256i u = _mm256_castps_si256(value);
    __m256i high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    __m256i h = _mm256_blendv_epi8(rounded, quiet, is_nan);
    h = _mm256_packus_epi32(h, h); /* each half packed twice: the results are words 0 and 2 */
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(h, 0x08));
}

static inline SIMD hvec v_to_fp16(vec value)
{
    return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}

static inline SIMD void h_store(uint16_t *x, hvec value)
{
    _mm_storeu_si128((__m128i *)x, value);
}

static inline SIMD void h_stream(uint16_t *x, hvec value)
{
    _mm_stream_si128((__m128i *)x, value);
}

static inline SIMD ivec b_load(const uint8_t *x)
{
    return (ivec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)x));
}

static inline SIMD void b_store(uint8_t *x, ivec value)
{
    __m128i h = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)value), _mm256_extracti128_si256((__m256i)value, 1));
    _mm_storel_epi64((__m128i *)x, _mm_packus_epi16(h, h));
}

static inline SIMD vec i_to_v(ivec x)
{
    return _mm256_cvtepi32_ps((__m256i)x);
}

static inline SIMD ivec i_max(ivec a, ivec b)
{
    return (ivec)_mm256_max_epi32((__m256i)a, (__m256i)b);
}

static inline SIMD ivec i_min(ivec a, ivec b)
{
    return (ivec)_mm256_min_epi32((__m256i)a, (__m256i)b);
}

static inline SIMD vec v_set(float value)
{
    return _mm256_set1_ps(value);
}

static inline SIMD vec v_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline SIMD vec v_sqrt(vec a)
{
    return _mm256_sqrt_ps(a);
}

static inline SIMD dvec d_low(vec a)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(a));
}

static inline SIMD dvec d_high(vec a)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}

static inline SIMD dvec d_fma(dvec a, dvec b, dvec c)
{
    return _mm256_fmadd_pd(a, b, c);
}

static inline SIMD void d_store(double *x, dvec value)
{
    _mm256_storeu_pd(x, value);
}

#include "kernels/flat/cpu/vector.h"
#include "kernels/flat/cpu/update.h"
#include "kernels/flat/cpu/codes.h"

const zero_flat_kernels_t zero_flat_avx2_kernels = {.cast = kernels_cast,
                                                    .accumulate = kernels_accumulate,
                                                    .sum = kernels_sum,
                                                    .square_blocks = kernels_square_blocks,
                                                    .encode = kernels_encode,
                                                    .decode = kernels_decode,
                                                    .update = kernels_update};

#endif

typedef int zero_flat_avx2_not_empty_t; /* ISO C forbids an empty file, as this would be on other processors */
