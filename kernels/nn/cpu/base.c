/* SPDX-License-Identifier: Apache-2.0 */
/* base.c - the kernels of simd.h for any processor, with vectors of 4 floats, which every 64-bit processor has. Also
 * selects among all tables. */
#define SIMD_TABLE zero_nn_simd_base
#define SIMD_NAME "base"
#define TARGET
#define LANES 4
#define BLOCK_M 4
#define TILE_M 4
#define TILE_V 2

typedef float vf __attribute__((vector_size(16)));
typedef int vi __attribute__((vector_size(16)));

static inline __attribute__((always_inline)) vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

static inline __attribute__((always_inline)) vf vf_max(vf a, vf b)
{
    vi above = a > b;
    return (vf)((above & (vi)a) | (~above & (vi)b));
}

#include "kernels/nn/cpu/simd_rows.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

const zero_nn_simd_t *zero_nn_simd_best(void)
{
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return &zero_nn_simd_avx512;
    /* F16C needs a direct check: some compilers' __builtin_cpu_supports does not recognize it. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) &&
        (c & bit_F16C) != 0)
        return &zero_nn_simd_avx2;
#endif
    return &zero_nn_simd_base;
}
