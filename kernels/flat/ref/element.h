/* SPDX-License-Identifier: Apache-2.0 */
/* element.h - access to an element of a buffer of any dtype, for the flat kernels in plain C. */
#ifndef ZERO_FLAT_REF_ELEMENT_H
#define ZERO_FLAT_REF_ELEMENT_H

#include "zero/base/base.h"

/* x[i] in fp32: exact for every dtype. */
static inline float load(const void *x, zero_dtype_t dtype, int64_t i)
{
    switch (dtype) {
    case ZERO_BF16:
        return zero_bf16_to_fp32(((const uint16_t *)x)[i]);
    case ZERO_FP16:
        return zero_fp16_to_fp32(((const uint16_t *)x)[i]);
    default:
        return ((const float *)x)[i];
    }
}

/* x[i] = value, rounded once to nearest even. */
static inline void store(void *x, zero_dtype_t dtype, int64_t i, float value)
{
    switch (dtype) {
    case ZERO_BF16:
        ((uint16_t *)x)[i] = zero_fp32_to_bf16(value);
        break;
    case ZERO_FP16:
        ((uint16_t *)x)[i] = zero_fp32_to_fp16(value);
        break;
    default:
        ((float *)x)[i] = value;
    }
}

#endif
