/* SPDX-License-Identifier: Apache-2.0 */
/* act.h - inside kernels/nn/cuda, for .cu files: activations of one element, and their derivatives. */
#ifndef ZERO_NN_CUDA_ACT_H
#define ZERO_NN_CUDA_ACT_H

#include "kernels/cuda/launch.h"
#include "kernels/nn/nn.h"

#include <math.h>

/* gelu_new(x) = x g with g = 1 / (1 + e^-2u) and u = sqrt(2 / pi) (x + 0.044715 x^3). This form has no cancellation for
 * x far below 0. */
#define ZERO_GELU_SCALE 0.79788456080286535588f
#define ZERO_GELU_CUBE 0.044715f

__device__ __forceinline__ float zero_gelu_argument(float x)
{
    return ZERO_GELU_SCALE * (x + ZERO_GELU_CUBE * x * x * x);
}

/* (x g)' = g + x 2 g (1 - g) u'. */
__device__ __forceinline__ float zero_gelu_new_slope(float x)
{
    float u = zero_gelu_argument(x), g = 1.0f / (1.0f + expf(-2.0f * u)), other = 1.0f / (1.0f + expf(2.0f * u));
    return g + 2.0f * x * g * other * ZERO_GELU_SCALE * (1.0f + 3.0f * ZERO_GELU_CUBE * x * x);
}

/* The normal distribution function: (1 + erf(x / sqrt 2)) / 2. */
__device__ __forceinline__ float zero_normal(float x)
{
    return 0.5f * erfcf(x * -0.70710678118654752440f);
}

/* The activation ACT, a zero_nn_activation_t. ReLU keeps NaN. */
template <int ACT> __device__ __forceinline__ float zero_act(float x)
{
    if (ACT == ZERO_NN_GELU_NEW)
        return x / (1.0f + expf(-2.0f * zero_gelu_argument(x)));
    if (ACT == ZERO_NN_GELU)
        return x * zero_normal(x);
    if (ACT == ZERO_NN_RELU)
        return x <= 0.0f ? 0.0f : x;
    return x / (1.0f + expf(-x));
}

/* Its derivative. SiLU's is s + x s (1 - s) with s = 1 / (1 + e^-x). */
template <int ACT> __device__ __forceinline__ float zero_act_slope(float x)
{
    if (ACT == ZERO_NN_GELU_NEW)
        return zero_gelu_new_slope(x);
    if (ACT == ZERO_NN_GELU)
        return zero_normal(x) + x * 0.39894228040143267794f * expf(-0.5f * x * x);
    if (ACT == ZERO_NN_RELU)
        return x <= 0.0f ? 0.0f : 1.0f;
    float e = expf(-fabsf(x)), q = 1.0f / (1.0f + e), eq = e * q;
    return fmaf(x * q, eq, x < 0.0f ? eq : q);
}

#endif
