/* SPDX-License-Identifier: Apache-2.0 */
/* positions.c - the frequencies of rotary positions, and sinusoidal positions. transformers computes the frequencies in
 * fp32, and so does this: a position of some thousands multiplies any difference. */
#include "models/decoder.h"

#include <math.h>

#define TAU 6.283185307179586476925286766559f

/* Llama 3.1's scaling: wavelengths above original / low are stretched by factor, those below original / high stay, and
 * those between are blended (transformers, modeling_rope_utils). */
static float llama3(const zero_rope_t *rope, float frequency)
{
    const float factor = (float)rope->factor, low = (float)rope->low_freq_factor, high = (float)rope->high_freq_factor;
    const float original = (float)rope->original_positions, wavelength = TAU / frequency;

    if (wavelength > original / low)
        return frequency / factor;
    if (wavelength < original / high)
        return frequency;
    const float smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
}

void zero_model_frequencies(const zero_rope_t *rope, int64_t head_dim, float *out)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        const float power = (float)(2 * i) / (float)head_dim;
        const float frequency = 1.0f / (float)pow(rope->theta, (double)power);

        out[i] = rope->scaling == ZERO_ROPE_LINEAR   ? frequency / (float)rope->factor
                 : rope->scaling == ZERO_ROPE_LLAMA3 ? llama3(rope, frequency)
                                                     : frequency;
    }
}

void zero_model_waves(int64_t T, int64_t width, double scale, zero_dtype_t dtype, void *out)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < width; i++) {
            const double angle = (double)t * pow(10000, -(double)(i / 2 * 2) / (double)width);

            zero_element_set(out, t * width + i, dtype, (float)((i % 2 ? cos(angle) : sin(angle)) / scale));
        }
}
