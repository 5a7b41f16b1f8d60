/* SPDX-License-Identifier: Apache-2.0 */
/* codes.h - blocks of a codec over vectors of any width. The file of each SIMD level includes it once, after update.h.
 */

/* The vectors of a block. */
enum { BLOCK_VECS = ZERO_CODEC_BLOCK / WIDTH };

/* Rounds |x| <= 127 to the nearest integers: the sum with 1.5 * 2^23 has no bits below one. */
INLINE ivec rounded(vec x)
{
    return (ivec)(x + v_set(0x1.8p23f)) - 0x4b400000;
}

/* Codes of the vectors of a block, from codes. codec is a constant. */
INLINE void load_codes(ivec code[BLOCK_VECS], zero_codec_t codec, const uint8_t *codes)
{
    for (int k = 0; k < BLOCK_VECS; k++) {
        int half = k % (BLOCK_VECS / 2);
        if (codec != ZERO_CODEC_INT4)
            code[k] = b_load(codes + k * WIDTH) << 24 >> 24;
        else
            code[k] = b_load(codes + half * WIDTH) << (k == half ? 28 : 24) >> 28;
    }
}

INLINE void store_codes(uint8_t *codes, zero_codec_t codec, const ivec code[BLOCK_VECS])
{
    if (codec != ZERO_CODEC_INT4)
        for (int k = 0; k < BLOCK_VECS; k++)
            b_store(codes + k * WIDTH, code[k] & 0xff);
    else
        for (int k = 0; k < BLOCK_VECS / 2; k++)
            b_store(codes + k * WIDTH, (code[k] & 15) | (code[k + BLOCK_VECS / 2] & 15) << 4);
}

INLINE void encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t dtype, int64_t begin, int64_t end)
{
    char *block = (char *)dst + zero_codec_bytes(codec, begin);
    for (int64_t i = begin; i < end; i += ZERO_CODEC_BLOCK, block += zero_codec_bytes(codec, ZERO_CODEC_BLOCK)) {
        vec x[BLOCK_VECS];
        ivec most = {0}, code[BLOCK_VECS];
        for (int k = 0; k < BLOCK_VECS; k++) {
            x[k] = v_load(src, dtype, i + k * WIDTH);
            most = i_max(most, (ivec)absolute(x[k]));
        }
        float scale = largest(most);
        bool finite = scale <= FLT_MAX;
        scale = finite ? scale / zero_codec_most(codec) : scale;
        vec inv = v_set(zero_scale_inverse(scale));
        for (int k = 0; k < BLOCK_VECS; k++)
            code[k] = finite ? rounded(x[k] * inv) : (ivec){0};
        memcpy(block, &scale, sizeof scale);
        store_codes((uint8_t *)block + sizeof scale, codec, code);
    }
}

INLINE void decode(void *dst, zero_dtype_t dtype, const void *src, zero_codec_t codec, int sources, int64_t count,
                   int64_t begin, int64_t end)
{
    const char *block = (const char *)src + zero_codec_bytes(codec, begin);
    for (int64_t i = begin; i < end; i += ZERO_CODEC_BLOCK, block += zero_codec_bytes(codec, ZERO_CODEC_BLOCK)) {
        vec sum[BLOCK_VECS] = {0};
        for (int s = 0; s < sources; s++) {
            const char *here = block + s * zero_codec_bytes(codec, count);
            ivec code[BLOCK_VECS];
            float scale;
            memcpy(&scale, here, sizeof scale);
            load_codes(code, codec, (const uint8_t *)here + sizeof scale);
            for (int k = 0; k < BLOCK_VECS; k++)
                sum[k] = sum[k] + i_to_v(code[k]) * v_set(scale);
        }
        for (int k = 0; k < BLOCK_VECS; k++)
            v_store(dst, dtype, i + k * WIDTH, sum[k]);
    }
}

static SIMD void kernels_encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t begin,
                                int64_t end)
{
#define ENCODE8(dtype) encode(dst, ZERO_CODEC_INT8, src, dtype, begin, end)
#define ENCODE4(dtype) encode(dst, ZERO_CODEC_INT4, src, dtype, begin, end)
    if (codec == ZERO_CODEC_INT4)
        BY_DTYPE(src_dtype, ENCODE4)
    else
        BY_DTYPE(src_dtype, ENCODE8)
}

static SIMD void kernels_decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources,
                                int64_t count, int64_t begin, int64_t end)
{
#define DECODE8(dtype) decode(dst, dtype, src, ZERO_CODEC_INT8, sources, count, begin, end)
#define DECODE4(dtype) decode(dst, dtype, src, ZERO_CODEC_INT4, sources, count, begin, end)
    if (codec == ZERO_CODEC_INT4)
        BY_DTYPE(dst_dtype, DECODE4)
    else
        BY_DTYPE(dst_dtype, DECODE8)
}
