/* SPDX-License-Identifier: Apache-2.0 */
/* test_flat.c - the flat kernels. Every SIMD level and CUDA must have the bits of plain C, for odd sizes, thread counts
 * and special values; plain C must match its definition. If a result is NaN, only that must agree. */
#include "tests/flat_levels.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

/* The last size is large enough for four threads in every kernel. */
static const int64_t sizes[] = {0, 1, 15, 16, 17, 127, 128, 4095, 4096, 4097, 12305, 100003, 270001};
enum { SIZES = sizeof sizes / sizeof sizes[0], GUARD = 64 };

static const zero_dtype_t dtypes[] = {ZERO_FP32, ZERO_BF16, ZERO_FP16};

static const uint32_t special[] = {
    0x00000000, 0x80000000, /* +-0 */
    0x00000001, 0x80000001,
    0x007fffff, 0x00800000, /* smallest and largest subnormal, smallest normal */
    0x7f7fffff, 0xff7fffff,
    0x7f800000, 0xff800000, /* largest, infinite */
    0x7fc00000, 0x7f800001,
    0xffc12345, 0x7fffffff, /* NaN: quiet, signalling, with a payload, all ones */
    0x3f800000, 0x3f808000,
    0x3f818000, 0x3f807fff, /* one, ties of bf16, just below one */
    0x477fe000, 0x477fefff,
    0x477ff000, 0x38800000, /* 65504, just below and at the overflow of fp16, its smallest normal */
    0x387fc000, 0x33800000,
    0x33000000, 0x33000001, /* subnormals of fp16, half of its smallest and just above */
    0x7f7f8000, 0x7f7f7fff,
    0x00008000, 0x00018000, /* overflow of bf16, ties among its subnormals */
};

/* Special 16-bit values: halves of the list above, and fp16's own. */
static const uint16_t special16[] = {0x0000, 0x8000, 0x0001, 0x03ff, 0x0400, 0x7bff, 0xfbff,
                                     0x7c00, 0xfc00, 0x7c01, 0x7e00, 0x7f80, 0x7f81, 0xffff};

/* A random float: a special value, random bits, or an ordinary number. */
static uint32_t random32(uint64_t *state)
{
    uint64_t r = zero_splitmix64(++*state);
    if (r % 16 == 0)
        return special[(r >> 8) % (sizeof special / sizeof special[0])];
    if (r % 16 < 4)
        return (uint32_t)(r >> 32);
    float f = ldexpf((float)(int32_t)(r >> 32), -31 - (int)(r >> 8) % 24);
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static uint16_t random16(uint64_t *state, zero_dtype_t dtype)
{
    uint64_t r = zero_splitmix64(++*state);
    if (r % 16 == 0)
        return special16[(r >> 8) % (sizeof special16 / sizeof special16[0])];
    if (r % 16 < 4)
        return (uint16_t)(r >> 32);
    float f = ldexpf((float)(int32_t)(r >> 32), -31 - (int)(r >> 8) % 24);
    return dtype == ZERO_BF16 ? zero_fp32_to_bf16(f) : zero_fp32_to_fp16(f);
}

/* count elements at a 128-byte boundary, with GUARD bytes after them. */
static void *buffer(int64_t count, zero_dtype_t dtype)
{
    size_t bytes = (size_t)count * zero_dtype_size(dtype) + GUARD;
    char *x = aligned_alloc(128, (bytes + 127) / 128 * 128);
    ck_assert_ptr_nonnull(x);
    memset(x, 0xa5, (bytes + 127) / 128 * 128);
    return x;
}

static void *random_buffer(int64_t count, zero_dtype_t dtype, uint64_t seed)
{
    void *x = buffer(count, dtype);
    uint64_t state = seed << 32;
    for (int64_t i = 0; i < count; i++)
        if (dtype == ZERO_FP32)
            ((uint32_t *)x)[i] = random32(&state);
        else
            ((uint16_t *)x)[i] = random16(&state, dtype);
    return x;
}

static void *clone(const void *x, int64_t count, zero_dtype_t dtype)
{
    void *y = buffer(count, dtype);
    memcpy(y, x, (size_t)count * zero_dtype_size(dtype));
    return y;
}

static bool is_nan(const void *x, zero_dtype_t dtype, int64_t i)
{
    if (dtype == ZERO_FP32)
        return isnan(((const float *)x)[i]);
    uint16_t h = ((const uint16_t *)x)[i] & 0x7fff;
    return h > (dtype == ZERO_BF16 ? 0x7f80 : 0x7c00);
}

/* The bits are the same, or both are NaN, and nothing is written after the end of got. */
static void same(const void *want, const void *got, int64_t count, zero_dtype_t dtype, const char *what,
                 const char *level, int threads)
{
    size_t size = zero_dtype_size(dtype);
    for (int64_t i = 0; i < count; i++)
        if (memcmp((const char *)want + (size_t)i * size, (const char *)got + (size_t)i * size, size) != 0 &&
            !(is_nan(want, dtype, i) && is_nan(got, dtype, i))) {
            uint32_t w = 0, g = 0;
            memcpy(&w, (const char *)want + (size_t)i * size, size);
            memcpy(&g, (const char *)got + (size_t)i * size, size);
            ck_abort_msg("%s, %s, %d threads, %lld elements of %s: element %lld is %08x, wanted %08x", what, level,
                         threads, (long long)count, zero_dtype_name(dtype), (long long)i, g, w);
        }
    for (int k = 0; k < GUARD; k++)
        ck_assert_msg(((const uint8_t *)got)[(size_t)count * size + (size_t)k] == 0xa5,
                      "%s, %s, %d threads, %lld elements of %s: byte %d behind the end", what, level, threads,
                      (long long)count, zero_dtype_name(dtype), k);
}

/* Each test of a level runs once for each of levels, as a loop test; it passes if the processor lacks the level. */
#define OPS                                         \
    const char *level = flat_levels[_i];            \
    const zero_flat_ops_t *ops = flat_level(level); \
    if (!ops)                                       \
        return;                                     \
    const zero_flat_ops_t *ref = zero_flat_ref();   \
    (void)ref

START_TEST(test_choice)
{
    ck_assert_ptr_eq(zero_flat_find("ref"), zero_flat_ref());
    ck_assert_ptr_nonnull(zero_flat_find("scalar"));
    ck_assert_ptr_null(zero_flat_find("avx1024"));
    ck_assert_ptr_null(zero_flat_find(""));
    ck_assert_ptr_nonnull(zero_flat_cpu());
    const zero_flat_ops_t *best = NULL;
    static const char *const levels[] = {"ref", "scalar", "avx2", "avx512"};
    for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
        const zero_flat_ops_t *ops = zero_flat_find(levels[l]);
        if (ops) {
            ck_assert_str_eq(ops->name, levels[l]);
            best = ops;
        }
    }
    ck_assert_ptr_eq(zero_flat_cpu(), best);
#if defined(__x86_64__)
    ck_assert_int_eq(zero_flat_find("avx512") != NULL,
                     __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"));
#endif
}
END_TEST

START_TEST(test_fill_copy)
{
    OPS;
    for (int s = 0; s < SIZES; s++)
        for (int threads = 0; threads <= flat_most_threads; threads++) {
            int64_t n = sizes[s];
            uint8_t *x = random_buffer(n, ZERO_FP32, 1), *y = buffer(n, ZERO_FP32),
                    *zero = calloc((size_t)n * 4 + 1, 1);
            for (uint64_t cut = 0; cut < 4 && cut <= (uint64_t)n * 4; cut++) { /* any number of bytes */
                uint64_t bytes = (uint64_t)n * 4 - cut;
                memset(y, 0xa5, (size_t)n * 4);
                ops->copy(y, x, bytes, threads, NULL);
                ck_assert(memcmp(x, y, bytes) == 0);
                same(y, y, n, ZERO_FP32, "copy", level, threads);
                for (uint64_t k = bytes; k < (uint64_t)n * 4; k++)
                    ck_assert_uint_eq(y[k], 0xa5);
                ops->fill_zero(y, bytes, threads, NULL);
                ck_assert(memcmp(y, zero, bytes) == 0);
                for (uint64_t k = bytes; k < (uint64_t)n * 4 + GUARD; k++)
                    ck_assert_uint_eq(y[k], 0xa5);
            }
            ops->copy(x, x, (uint64_t)n * 4, threads, NULL);
            free(x), free(y), free(zero);
        }
}
END_TEST

START_TEST(test_cast)
{
    OPS;
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++)
            for (int s = 0; s < SIZES; s++) {
                zero_dtype_t from = dtypes[a], to = dtypes[b];
                int64_t n = sizes[s];
                void *x = random_buffer(n, from, 7 + (uint64_t)s), *want = buffer(n, to);
                ref->cast(want, to, x, from, n, 1, NULL);
                for (int threads = 0; threads <= flat_most_threads; threads++) {
                    void *got = buffer(n, to);
                    ops->cast(got, to, x, from, n, threads, NULL);
                    same(want, got, n, to, "cast", level, threads);
                    if (from == to) /* a copy, including NaN payloads */
                        ck_assert(memcmp(x, got, (size_t)n * zero_dtype_size(to)) == 0);
                    free(got);
                }
                if (from == to)
                    ops->cast(x, to, x, from, n, 2, NULL);
                free(x), free(want);
            }
}
END_TEST

/* Widens each 16-bit number, and narrows values on, between and just beside 16-bit numbers. The results, including NaN
 * bits, must match base.h. */
START_TEST(test_cast_all)
{
    OPS;
    for (int b = 1; b < 3; b++) {
        zero_dtype_t to = dtypes[b];
        enum { N = 65536 };
        uint16_t *h = buffer(N, to), *narrow = buffer(4 * N, to);
        float *wide = buffer(N, ZERO_FP32), *x = buffer(4 * N, ZERO_FP32);
        for (int i = 0; i < N; i++)
            h[i] = (uint16_t)i;
        ops->cast(wide, ZERO_FP32, h, to, N, 2, NULL);
        for (int i = 0; i < N; i++) {
            float want = to == ZERO_BF16 ? zero_bf16_to_fp32(h[i]) : zero_fp16_to_fp32(h[i]);
            ck_assert_msg(memcmp(&want, &wide[i], 4) == 0, "%s %04x to fp32 by %s", zero_dtype_name(to), (unsigned)i,
                          level);
            uint32_t u,
                half = to == ZERO_BF16 ? 0x8000 : 0x1000; /* half a unit of the last place, for normal numbers */
            memcpy(&u, &wide[i], 4);
            for (uint32_t k = 0; k < 4; k++) {
                uint32_t v = k == 0 ? u : u + half - 2 + k;
                memcpy(&x[4 * i + (int)k], &v, 4);
            }
        }
        ops->cast(narrow, to, x, ZERO_FP32, 4 * N, 2, NULL);
        for (int i = 0; i < 4 * N; i++) {
            uint16_t want = to == ZERO_BF16 ? zero_fp32_to_bf16(x[i]) : zero_fp32_to_fp16(x[i]);
            ck_assert_msg(want == narrow[i], "%a to %s by %s: %04x, wanted %04x", (double)x[i], zero_dtype_name(to),
                          level, narrow[i], want);
        }
        free(h), free(narrow), free(wide), free(x);
    }
}
END_TEST

START_TEST(test_accumulate)
{
    OPS;
    for (int a = 0; a < 3; a++)
        for (int s = 0; s < SIZES; s++) {
            int64_t n = sizes[s];
            void *x = random_buffer(n, dtypes[a], 3), *start = random_buffer(n, ZERO_FP32, 4),
                 *want = clone(start, n, ZERO_FP32);
            ref->accumulate(want, x, dtypes[a], n, 1, NULL);
            for (int threads = 0; threads <= flat_most_threads; threads++) {
                void *got = clone(start, n, ZERO_FP32);
                ops->accumulate(got, x, dtypes[a], n, threads, NULL);
                same(want, got, n, ZERO_FP32, "accumulate", level, threads);
                free(got);
            }
            free(x), free(start), free(want);
        }
}
END_TEST

START_TEST(test_sum)
{
    OPS;
    for (int a = 0; a < 3; a++)
        for (int s = 0; s < SIZES; s++)
            for (int sources = 1; sources <= 5; sources++) {
                zero_dtype_t dtype = dtypes[a];
                int64_t n = sizes[s];
                void *x[5], *want = buffer(n, dtype);
                for (int k = 0; k < sources; k++)
                    x[k] = random_buffer(n, dtype, 10 + (uint64_t)k);
                ref->sum(want, (const void *const *)x, sources, dtype, n, 1, NULL);
                for (int threads = 0; threads <= flat_most_threads; threads++) {
                    void *got = buffer(n, dtype);
                    ops->sum(got, (const void *const *)x, sources, dtype, n, threads, NULL);
                    same(want, got, n, dtype, "sum", level, threads);
                    free(got);
                }
                /* In place, over the last source. */
                ops->sum(x[sources - 1], (const void *const *)x, sources, dtype, n, 2, NULL);
                same(want, x[sources - 1], n, dtype, "sum in place", level, 2);
                for (int k = 0; k < sources; k++)
                    free(x[k]);
                free(want);
            }
}
END_TEST

/* The order of the sum matters: 1 + 2^-24 + 2^-24 is 1 from the left, and more from the right. */
START_TEST(test_sum_order)
{
    OPS;
    enum { N = 35 };
    float *one = buffer(N, ZERO_FP32), *small = buffer(N, ZERO_FP32), *out = buffer(N, ZERO_FP32);
    for (int i = 0; i < N; i++) {
        one[i] = 1;
        small[i] = 0x1p-24f;
    }
    ops->sum(out, (const void *[]){one, small, small}, 3, ZERO_FP32, N, 1, NULL);
    for (int i = 0; i < N; i++)
        ck_assert_float_eq(out[i], 1);
    ops->sum(out, (const void *[]){small, small, one}, 3, ZERO_FP32, N, 1, NULL);
    for (int i = 0; i < N; i++)
        ck_assert_float_eq(out[i], 1 + 0x1p-23f);
    /* bf16: rounded once, at the end. 1 + 2^-8 + 2^-8 is 1 + 2^-7, though 1 + 2^-8 alone rounds to 1. */
    uint16_t *h = buffer(N, ZERO_BF16), *e = buffer(N, ZERO_BF16);
    for (int i = 0; i < N; i++) {
        h[i] = zero_fp32_to_bf16(1);
        e[i] = zero_fp32_to_bf16(0x1p-8f);
    }
    ops->sum(h, (const void *[]){h, e, e}, 3, ZERO_BF16, N, 1, NULL);
    for (int i = 0; i < N; i++)
        ck_assert_float_eq(zero_bf16_to_fp32(h[i]), 1 + 0x1p-7f);
    free(one), free(small), free(out), free(h), free(e);
}
END_TEST

static float element(const void *x, zero_dtype_t dtype, int64_t i)
{
    return dtype == ZERO_FP32 ? ((const float *)x)[i]
                              : (dtype == ZERO_BF16 ? zero_bf16_to_fp32 : zero_fp16_to_fp32)(((const uint16_t *)x)[i]);
}

/* The definition in flat.h, lane by lane. */
static double square_sum_by_definition(const void *x, zero_dtype_t dtype, int64_t count)
{
    double total = 0;
    for (int64_t block = 0; block < count; block += 4096) {
        double lane[16];
        for (int l = 0; l < 16; l++) {
            lane[l] = 0;
            for (int64_t i = block + l; i < count && i < block + 4096; i += 16) {
                double e = (double)element(x, dtype, i);
                lane[l] = fma(e, e, lane[l]);
            }
        }
        for (int width = 8; width > 0; width /= 2)
            for (int l = 0; l < width; l++)
                lane[l] += lane[l + width];
        total += lane[0];
    }
    return total;
}

START_TEST(test_square_sum)
{
    OPS;
    for (int a = 0; a < 3; a++)
        for (int s = 0; s < SIZES; s++)
            for (int wild = 0; wild < 2; wild++) {
                int64_t n = sizes[s];
                void *x = random_buffer(n, dtypes[a], 20);
                for (int64_t i = 0; !wild && i < n;
                     i++) /* finite and of similar size, so that every rounding matters */
                    if (dtypes[a] == ZERO_FP32)
                        ((float *)x)[i] = 1 + ldexpf((float)(zero_splitmix64((uint64_t)i) >> 40), -24);
                    else
                        ((uint16_t *)x)[i] = (uint16_t)(0x3c00 + zero_splitmix64((uint64_t)i) % 512);
                double want = square_sum_by_definition(x, dtypes[a], n),
                       *scratch = malloc(sizeof(double) * (size_t)(n / 4096 + 2));
                long double exact = 0;
                for (int64_t i = 0; i < n; i++)
                    exact += (long double)element(x, dtypes[a], i) * element(x, dtypes[a], i);
                for (int threads = 0; threads <= flat_most_threads; threads++) {
                    double got = -1;
                    scratch[(n + 4095) / 4096] = 12345;
                    ops->square_sum(&got, scratch, x, dtypes[a], n, threads, NULL);
                    ck_assert_msg(memcmp(&got, &want, 8) == 0 || (isnan(got) && isnan(want)),
                                  "square_sum, %s, %d threads, %lld of %s: %a, wanted %a", level, threads, (long long)n,
                                  zero_dtype_name(dtypes[a]), got, want);
                    ck_assert_double_eq(scratch[(n + 4095) / 4096], 12345);
                    if (!wild)
                        ck_assert_double_le(fabs(got - (double)exact), 1e-13 * (double)exact);
                }
                free(x), free(scratch);
            }
}
END_TEST

/* With this many blocks, a GPU does not read all their sums at once. */
START_TEST(test_square_sum_of_many)
{
    OPS;
    static const int64_t counts[] = {64 * 4096,      64 * 4096 + 1, 101 * 4096 + 5, 512 * 4096 - 1,  512 * 4096,
                                     512 * 4096 + 1, 576 * 4096,    1024 * 4096,    1025 * 4096 + 77};
    int count = sizeof counts / sizeof counts[0];
    int64_t most = counts[count - 1];
    uint16_t *x = buffer(most, ZERO_BF16);
    double *scratch = malloc(sizeof(double) * (size_t)(most / 4096 + 1));
    for (int64_t i = 0; i < most; i++) /* of very different sizes, so that sums are rounded and their order matters */
        x[i] = (uint16_t)(0x3000 + (zero_splitmix64((uint64_t)i) & 0x1fff));
    for (int c = 0; c < count; c++) {
        double got = -1, want = square_sum_by_definition(x, ZERO_BF16, counts[c]);
        ops->square_sum(&got, scratch, x, ZERO_BF16, counts[c], flat_most_threads, NULL);
        ck_assert_msg(memcmp(&got, &want, 8) == 0, "square_sum, %s, %lld elements: %a, wanted %a", level,
                      (long long)counts[c], got, want);
    }
    free(x), free(scratch);
}
END_TEST

/* ---- blocks of a codec ------------------------------------------------------------------------------------------ */

static const zero_codec_t codecs[] = {ZERO_CODEC_INT8, ZERO_CODEC_INT4};

/* The last size is large enough for four threads. */
static const int64_t block_sizes[] = {0, 128, 256, 4096, 4224, 12416, 270080};
enum { BLOCK_SIZES = sizeof block_sizes / sizeof block_sizes[0] };

/* Room for blocks of count elements, counted in fp32 elements so that the functions above serve. */
static int64_t words_of(zero_codec_t codec, int64_t count)
{
    const zero_format_t format = zero_format_codes(codec);
    return (int64_t)zero_format_bytes(&format, count) / 4;
}

START_TEST(test_codes)
{
    OPS;
    for (int c = 0; c < 2; c++)
        for (int a = 0; a < 3; a++)
            for (int s = 0; s < BLOCK_SIZES; s++) {
                int64_t n = block_sizes[s], words = words_of(codecs[c], n);
                void *x = random_buffer(n, dtypes[a], 30 + (uint64_t)s), *want = buffer(words, ZERO_FP32);
                ref->encode(want, codecs[c], x, dtypes[a], n, 1, NULL);
                for (int threads = 0; threads <= flat_most_threads; threads++) {
                    void *got = buffer(words, ZERO_FP32);
                    ops->encode(got, codecs[c], x, dtypes[a], n, threads, NULL);
                    same(want, got, words, ZERO_FP32, "encode", level, threads);
                    free(got);
                }
                free(x), free(want);
            }
}
END_TEST

START_TEST(test_decode)
{
    OPS;
    for (int c = 0; c < 2; c++)
        for (int b = 0; b < 3; b++)
            for (int s = 0; s < BLOCK_SIZES; s++)
                for (int sources = 1; sources <= 5; sources++) {
                    zero_dtype_t to = dtypes[b];
                    int64_t n = block_sizes[s], words = words_of(codecs[c], sources * n);
                    void *x = random_buffer(sources * n, ZERO_FP32, 50 + (uint64_t)s), *want = buffer(n, to),
                         *codes = buffer(words, ZERO_FP32);
                    ref->encode(codes, codecs[c], x, ZERO_FP32, sources * n, 1, NULL);
                    ref->decode(want, to, codes, codecs[c], sources, n, 1, NULL);
                    for (int threads = 0; threads <= flat_most_threads; threads++) {
                        void *got = buffer(n, to);
                        ops->decode(got, to, codes, codecs[c], sources, n, threads, NULL);
                        same(want, got, n, to, "decode", level, threads);
                        free(got);
                    }
                    free(x), free(codes), free(want);
                }
}
END_TEST

/* The definition in flat.h, for a block. */
static void code_block(float want[128], const float x[128], zero_codec_t codec)
{
    float largest = 0, most = codec == ZERO_CODEC_INT4 ? 7 : 127;
    for (int i = 0; i < 128; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float scale = largest / most, inv = scale < 0x1p-126f ? 0 : 1 / scale;
    for (int i = 0; i < 128; i++)
        want[i] = nearbyintf(x[i] * inv) * scale;
}

START_TEST(test_codes_by_definition)
{
    OPS;
    enum { N = 64 * 128 };
    float *x = buffer(N, ZERO_FP32), *got = buffer(N, ZERO_FP32), want[128];
    void *codes = buffer(N, ZERO_FP32);
    for (int c = 0; c < 2; c++) {
        const zero_format_t format = zero_format_codes(codecs[c]);
        uint64_t state = 5;
        for (int i = 0; i < N; i++) {
            int block = i / 128;
            x[i] = ldexpf((float)(int32_t)(zero_splitmix64(++state) >> 32), -31 - block * 3);
            if (block == 0) /* multiples of the scale 1, and ties between them */
                x[i] = i == 0 ? codecs[c] == ZERO_CODEC_INT8 ? 127 : 7 : 0.5f * (float)(i % 15 - 7);
            if (block == 1) /* zeros of both signs */
                x[i] = i % 2 ? -0.0f : 0.0f;
            if (block == 2 && i % 128 != 77) /* one element */
                x[i] = 0;
            if (block == 3) /* of which no scale is normal */
                x[i] = ldexpf((float)(i % 128), -149);
        }
        ops->encode(codes, codecs[c], x, ZERO_FP32, N, 2, NULL);
        for (int b = 0; b < N / 128; b++) {
            float scale, largest = 0;
            memcpy(&scale, (char *)codes + (size_t)b * (size_t)format.block_bytes, 4);
            for (int i = 0; i < 128; i++)
                largest = fmaxf(largest, fabsf(x[128 * b + i]));
            ck_assert_float_eq(scale, largest / (codecs[c] == ZERO_CODEC_INT4 ? 7 : 127));
        }
        ops->decode(got, ZERO_FP32, codes, codecs[c], 1, N, 2, NULL);
        for (int b = 0; b < N / 128; b++) {
            code_block(want, x + 128 * b, codecs[c]);
            for (int i = 0; i < 128; i++)
                ck_assert_msg(want[i] == got[128 * b + i], "block %d, element %d, %s: %a is %a, wanted %a", b, i, level,
                              (double)x[128 * b + i], (double)got[128 * b + i], (double)want[i]);
        }
        for (int bad = 0; bad < 2; bad++) { /* infinity and NaN leave a block of NaN, and no other */
            x[128 + 5] = bad ? NAN : -INFINITY;
            ops->encode(codes, codecs[c], x, ZERO_FP32, N, 2, NULL);
            for (int sources = 1; sources <= 2; sources++) {
                ops->decode(got, ZERO_FP32, codes, codecs[c], sources, N / sources, 1, NULL);
                for (int i = 0; i < N / sources; i++)
                    ck_assert_int_eq(isnan(got[i]) != 0, i / 128 == 1);
            }
        }
    }
    free(x), free(got), free(codes);
}
END_TEST

/* A sum of decoded sources is the sum of what each decodes to. */
START_TEST(test_decode_is_a_sum)
{
    OPS;
    enum { N = 384, SOURCES = 4 };
    for (int c = 0; c < 2; c++) {
        void *x = random_buffer(SOURCES * N, ZERO_FP32, 9), *codes = buffer(SOURCES * N, ZERO_FP32);
        float *each = buffer(SOURCES * N, ZERO_FP32), *want = buffer(N, ZERO_FP32), *got = buffer(N, ZERO_FP32);
        ops->encode(codes, codecs[c], x, ZERO_FP32, SOURCES * N, 1, NULL);
        ops->decode(each, ZERO_FP32, codes, codecs[c], 1, SOURCES * N, 1, NULL);
        ops->sum(want, (const void *[]){each, each + N, each + 2 * N, each + 3 * N}, SOURCES, ZERO_FP32, N, 1, NULL);
        ops->decode(got, ZERO_FP32, codes, codecs[c], SOURCES, N, 1, NULL);
        same(want, got, N, ZERO_FP32, "sum of decoded sources", level, 1);
        free(x), free(codes), free(each), free(want), free(got);
    }
}
END_TEST

int main(void)
{
    if (!flat_start())
        return 77;
    Suite *suite = suite_create("flat");
    TCase *tcase = tcase_create("flat");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, test_choice);
    tcase_add_loop_test(tcase, test_fill_copy, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_cast, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_cast_all, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_accumulate, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_sum, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_sum_order, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_codes, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_decode, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_codes_by_definition, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_decode_is_a_sum, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_square_sum, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_square_sum_of_many, 0, flat_level_count);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
