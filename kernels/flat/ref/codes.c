/* SPDX-License-Identifier: Apache-2.0 */
/* codes.c - blocks of a codec in plain C, the reference. Tests compare the other implementations with it bit for
 * bit. */
#include "kernels/flat/kernels.h"

#include <math.h>

/* The code of element i of a block. */
static int code_of(const uint8_t *codes, zero_codec_t codec, int i)
{
    if (codec != ZERO_CODEC_INT4)
        return (int8_t)codes[i];
    int half = i < ZERO_CODEC_BLOCK / 2 ? codes[i] & 15 : codes[i - ZERO_CODEC_BLOCK / 2] >> 4;
    return half < 8 ? half : half - 16;
}

/* Sets the code of element i. The codes of the elements before it are set already. */
static void set_code(uint8_t *codes, zero_codec_t codec, int i, int code)
{
    if (codec != ZERO_CODEC_INT4)
        codes[i] = (uint8_t)code;
    else if (i < ZERO_CODEC_BLOCK / 2)
        codes[i] = (uint8_t)(code & 15);
    else
        codes[i - ZERO_CODEC_BLOCK / 2] |= (uint8_t)((code & 15) << 4);
}

static void encode_block(char *block, zero_codec_t codec, const void *src, zero_dtype_t dtype, int64_t first)
{
    uint8_t *codes = (uint8_t *)block + sizeof(float);
    uint32_t largest = 0, bits;
    float scale;
    for (int i = 0; i < ZERO_CODEC_BLOCK; i++) {
        float x = fabsf(zero_element(src, first + i, dtype));
        memcpy(&bits, &x, sizeof bits);
        largest = bits > largest ? bits : largest;
    }
    memcpy(&scale, &largest, sizeof scale);
    bool finite = isfinite(scale);
    scale = finite ? scale / zero_codec_most(codec) : scale;
    float inv = zero_scale_inverse(scale);
    memcpy(block, &scale, sizeof scale);
    for (int i = 0; i < ZERO_CODEC_BLOCK; i++)
        set_code(codes, codec, i, finite ? (int)rintf(zero_element(src, first + i, dtype) * inv) : 0);
}

void zero_flat_ref_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t begin,
                          int64_t end)
{
    for (int64_t i = begin; i < end; i += ZERO_CODEC_BLOCK)
        encode_block((char *)dst + zero_codec_bytes(codec, i), codec, src, src_dtype, i);
}

void zero_flat_ref_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                          int64_t count, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        float sum = 0;
        for (int k = 0; k < sources; k++) {
            const char *block =
                (const char *)src + zero_codec_bytes(codec, k * count + i / ZERO_CODEC_BLOCK * ZERO_CODEC_BLOCK);
            float scale;
            memcpy(&scale, block, sizeof scale);
            sum += (float)code_of((const uint8_t *)block + sizeof scale, codec, (int)(i % ZERO_CODEC_BLOCK)) * scale;
        }
        zero_element_set(dst, i, dst_dtype, sum);
    }
}
