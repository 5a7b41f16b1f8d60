/* SPDX-License-Identifier: Apache-2.0 */
/* gelu.h - inside kernels/nn/cuda, for .cu files: GELU of one element, and its derivative. */
#ifndef ZERO_NN_CUDA_GELU_H
#define ZERO_NN_CUDA_GELU_H

#include "kernels/cuda/launch.h"

#include <math.h>

/* gelu(x) = x g with g = 1 / (1 + e^-2u) and u = sqrt(2 / pi) (x + 0.044715 x^3). This form has no cancellation for x
 * far below 0. */
#define ZERO_GELU_SCALE 0.79788456080286535588f
#define ZERO_GELU_CUBE 0.044715f

__device__ __forceinline__ float zero_gelu_argument(float x)
{
    return ZERO_GELU_SCALE * (x + ZERO_GELU_CUBE * x * x * x);
}

__device__ __forceinline__ float zero_gelu(float x)
{
    return x / (1.0f + expf(-2.0f * zero_gelu_argument(x)));
}

/* (x g)' = g + x 2 g (1 - g) u'. */
__device__ __forceinline__ float zero_gelu_slope(float x)
{
    float u = zero_gelu_argument(x), g = 1.0f / (1.0f + expf(-2.0f * u)), other = 1.0f / (1.0f + expf(2.0f * u));
    return g + 2.0f * x * g * other * ZERO_GELU_SCALE * (1.0f + 3.0f * ZERO_GELU_CUBE * x * x);
}

#endif
