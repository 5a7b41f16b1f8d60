/* SPDX-License-Identifier: Apache-2.0 */
/* dtype.c - sizes of dtypes, and half precision (IEEE 754 binary16). bf16 is inline in base.h. */
#include "zero/base/base.h"

size_t zero_dtype_size(zero_dtype_t dtype)
{
    switch (dtype) {
    case ZERO_FP32:
        return 4;
    case ZERO_BF16:
    case ZERO_FP16:
        return 2;
    case ZERO_DTYPE_COUNT:
        break;
    }
    return 0;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Both conversions match the processor's own (vcvtph2ps, vcvtps2ph) and also make a signalling NaN quiet, so that
 * kernels that use those instructions give the same bits. */
float zero_fp16_to_fp32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 0x1f)
        return float_of(sign | 0x7f800000u | mantissa << 13 | (mantissa != 0 ? 0x00400000u : 0));
    if (exponent != 0)
        return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    /* Zero or subnormal: mantissa * 2^-24, exact in fp32. */
    return float_of(sign | bits_of((float)mantissa * 0x1p-24f));
}

/* x / 2^shift rounded to nearest, ties to even; 0 < shift < 32. */
static uint32_t shift_round(uint32_t x, unsigned shift)
{
    uint32_t half = (1u << (shift - 1)) - 1u;
    return (x + half + (x >> shift & 1u)) >> shift;
}

uint16_t zero_fp32_to_fp16(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu, exponent = magnitude >> 23, result;
    if (magnitude > 0x7f800000u) /* NaN: made quiet, with the upper bits of its payload */
        result = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    else if (magnitude >= 0x477ff000u) /* from 65520 on, closer to 65536 than to 65504 */
        result = 0x7c00u;
    else if (exponent >= 113) /* from 2^-14 on: normal; a carry goes into the exponent, as it should */
        result = shift_round(magnitude - 0x38000000u, 13);
    else if (exponent >= 102) /* from 2^-25 on: subnormal, in units of 2^-24 */
        result = shift_round((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent);
    else
        result = 0;
    return (uint16_t)(sign | result);
}
