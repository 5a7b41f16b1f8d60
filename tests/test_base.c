/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of zero/base: sentences, names, checked arithmetic, conversions between dtypes. */
#include "zero/base/base.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

/* For loops over very many values: Check writes to its parent at each assertion, which is slow. */
#define HOLDS(condition, at)                                                                 \
    do {                                                                                     \
        if (!(condition))                                                                    \
            ck_abort_msg("%s does not hold at %#llx", #condition, (unsigned long long)(at)); \
    } while (0)

/* ---- sentences and names ---------------------------------------------------------------------------------------- */

START_TEST(fail_sets_status_and_sentence)
{
    zero_error_t error = {.rank = 3, .reason = 5, .text = "before"};
    ck_assert_int_eq(zero_fail(&error, ZERO_ERR_IO, "cannot open '%s': %d", "x", 7), ZERO_ERR_IO);
    ck_assert_int_eq(error.status, ZERO_ERR_IO);
    ck_assert_int_eq(error.rank, -1);
    ck_assert_int_eq(error.reason, ZERO_REASON_NONE);
    ck_assert_str_eq(error.text, "cannot open 'x': 7");
    ck_assert_int_eq(zero_fail(NULL, ZERO_ERR_ARG, "nobody listens"), ZERO_ERR_ARG);
}
END_TEST

START_TEST(fail_may_quote_its_own_sentence)
{
    zero_error_t error;
    zero_fail(&error, ZERO_ERR_IO, "disk full");
    zero_fail(&error, error.status, "unit '%s': %s", "h.0", error.text);
    ck_assert_str_eq(error.text, "unit 'h.0': disk full");
}
END_TEST

START_TEST(fail_keeps_what_caused_it)
{
    zero_error_t below, error;
    ck_assert_int_eq(
        zero_fail_reason(&below, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, 3, "rank %d (pid %d) ended", 3, 71),
        ZERO_ERR_PEER);
    ck_assert_int_eq(below.status, ZERO_ERR_PEER);
    ck_assert_int_eq(zero_pass(&error, ZERO_ERR_PEER, &below), ZERO_ERR_PEER);
    ck_assert_mem_eq(&error, &below, offsetof(zero_error_t, text) + strlen(below.text) + 1);
    ck_assert_int_eq(zero_fail_from(&error, ZERO_ERR_IO, &error, "step %d: %s", 7, error.text), ZERO_ERR_IO);
    ck_assert_int_eq(error.status, ZERO_ERR_IO);
    ck_assert_int_eq(error.reason, ZERO_REASON_RANK_ENDED);
    ck_assert_int_eq(error.rank, 3);
    ck_assert_str_eq(error.text, "step 7: rank 3 (pid 71) ended");
    ck_assert_int_eq(zero_fail_from(NULL, ZERO_ERR_IO, &below, "nobody listens"), ZERO_ERR_IO);
}
END_TEST

START_TEST(fail_cuts_what_is_too_long)
{
    struct {
        zero_error_t error;
        char after[8];
    } guarded;
    char longer[2 * sizeof guarded.error.text];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    memset(guarded.after, 'z', sizeof guarded.after);
    zero_fail(&guarded.error, ZERO_ERR_ARG, "%s", longer);
    ck_assert_uint_eq(strlen(guarded.error.text), sizeof guarded.error.text - 1);
    for (size_t i = 0; i < sizeof guarded.after; i++)
        ck_assert_int_eq(guarded.after[i], 'z');
}
END_TEST

typedef struct heard {
    int calls;
    zero_log_level_t level;
    char text[100];
} heard_t;

static void hear(void *ctx, zero_log_level_t level, const char *text)
{
    heard_t *heard = ctx;
    heard->calls++;
    heard->level = level;
    ck_assert_uint_lt(strlen(text), sizeof heard->text);
    strcpy(heard->text, text);
}

START_TEST(log_formats_or_is_silent)
{
    heard_t heard = {0};
    zero_log(NULL, &heard, ZERO_LOG_ERROR, "%d", 1);
    ck_assert_int_eq(heard.calls, 0);
    zero_log(hear, &heard, ZERO_LOG_WARNING, "window of %d units", 2);
    ck_assert_int_eq(heard.calls, 1);
    ck_assert_int_eq(heard.level, ZERO_LOG_WARNING);
    ck_assert_str_eq(heard.text, "window of 2 units");
}
END_TEST

START_TEST(version_is_the_package)
{
    ck_assert_str_eq(zero_version(), ZERO_VERSION);
    ck_assert_str_eq(zero_version(), PACKAGE_VERSION);
    char parts[32];
    snprintf(parts, sizeof parts, "%d.%d.%d", ZERO_VERSION_MAJOR, ZERO_VERSION_MINOR, ZERO_VERSION_PATCH);
    ck_assert_str_eq(zero_version(), parts);
}
END_TEST

/* Values below count have different names. Other values have the name of unknown values. */
#define CHECK_NAMES(function, type, count, unknown)                     \
    do {                                                                \
        for (int i = 0; i < (int)(count); i++) {                        \
            ck_assert_str_ne(function((type)i), unknown);               \
            ck_assert_str_ne(function((type)i), "");                    \
            for (int j = 0; j < i; j++)                                 \
                ck_assert_str_ne(function((type)i), function((type)j)); \
        }                                                               \
        ck_assert_str_eq(function((type)(count)), unknown);             \
        ck_assert_str_eq(function((type)1000), unknown);                \
        ck_assert_str_eq(function((type)-1), unknown);                  \
    } while (0)

START_TEST(names_are_complete_and_distinct)
{
    CHECK_NAMES(zero_status_name, zero_status_t, ZERO_ERR_SYSTEM + 1, "unknown status");
    CHECK_NAMES(zero_dtype_name, zero_dtype_t, ZERO_DTYPE_COUNT, "?");
    CHECK_NAMES(zero_tier_name, zero_tier_t, ZERO_TIER_COUNT, "?");
    CHECK_NAMES(zero_kind_name, zero_kind_t, ZERO_KIND_COUNT, "?");
    ck_assert_str_eq(zero_status_name(ZERO_OK), "ok");
    ck_assert_str_eq(zero_dtype_name(ZERO_BF16), "bf16");
    ck_assert_str_eq(zero_tier_name(ZERO_TIER_HOST), "host");
    ck_assert_str_eq(zero_kind_name(ZERO_KIND_MOMENTS), "moments");
}
END_TEST

START_TEST(dtype_sizes)
{
    ck_assert_uint_eq(zero_dtype_size(ZERO_FP32), 4);
    ck_assert_uint_eq(zero_dtype_size(ZERO_BF16), 2);
    ck_assert_uint_eq(zero_dtype_size(ZERO_FP16), 2);
    ck_assert_uint_eq(zero_dtype_size(ZERO_DTYPE_COUNT), 0);
    ck_assert_uint_eq(zero_dtype_size((zero_dtype_t)1000), 0);
}
END_TEST

/* ---- checked arithmetic ----------------------------------------------------------------------------------------- */

START_TEST(arithmetic_notices_overflow)
{
    uint64_t u;
    ck_assert(zero_add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX);
    ck_assert(!zero_add_u64(UINT64_MAX, 1, &u));
    ck_assert(zero_mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &u) && u == UINT64_MAX - UINT32_MAX);
    ck_assert(!zero_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u));
    int64_t i;
    ck_assert(zero_mul_i64(INT64_MAX, 1, &i) && i == INT64_MAX);
    ck_assert(zero_mul_i64(0, INT64_MAX, &i) && i == 0);
    ck_assert(!zero_mul_i64(INT64_C(1) << 62, 2, &i));
    ck_assert(!zero_mul_i64(INT64_C(1) << 32, INT64_C(1) << 32, &i));
}
END_TEST

START_TEST(round_up_is_the_least_multiple)
{
    for (uint64_t unit = 1; unit <= 130; unit++) {
        for (uint64_t x = 0; x <= 300; x++) {
            uint64_t r;
            HOLDS(zero_round_up(x, unit, &r), x);
            HOLDS(r >= x && r - x < unit && r % unit == 0, x);
        }
    }
    uint64_t r;
    ck_assert(zero_round_up(UINT64_MAX - 127, 128, &r) && r == UINT64_MAX - 127);
    ck_assert(!zero_round_up(UINT64_MAX - 126, 128, &r));
}
END_TEST

/* ---- conversions ------------------------------------------------------------------------------------------------ */

/* The value of a 16-bit float with the given number of mantissa bits, from its definition; infinity counts as the next
 * power of two, which is how rounding to nearest treats it. */
static double value_of(uint16_t h, int mantissa_bits)
{
    int exponent_bits = 15 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = h >> mantissa_bits & ((1 << exponent_bits) - 1), mantissa = h & ((1 << mantissa_bits) - 1);
    double magnitude = exponent == 0 ? ldexp(mantissa, 1 - bias - mantissa_bits)
                                     : ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    return h & 0x8000 ? -magnitude : magnitude;
}

typedef struct half_format {
    int mantissa_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
} half_format_t;

static const half_format_t formats[] = {
    {7, zero_bf16_to_fp32, zero_fp32_to_bf16},
    {10, zero_fp16_to_fp32, zero_fp32_to_fp16},
};

static bool is_nan16(uint16_t h, int mantissa_bits)
{
    return (h & 0x7fff) > (0x7fff >> mantissa_bits << mantissa_bits);
}
static uint16_t infinity16(int mantissa_bits)
{
    return (uint16_t)(0x7fff >> mantissa_bits << mantissa_bits);
}

/* All 65,536 values: widening gives the value, and narrowing gives it back. */
START_TEST(every_half_widens_exactly_and_comes_back)
{
    const half_format_t *format = &formats[_i];
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = format->widen((uint16_t)h);
        if (is_nan16((uint16_t)h, format->mantissa_bits)) {
            HOLDS(isnan(f) && (bits_of(f) >> 31) == h >> 15, h);
            HOLDS(format->narrow(f) == (h | 1u << (format->mantissa_bits - 1)), h);
            continue;
        }
        if ((h & 0x7fff) == infinity16(format->mantissa_bits))
            HOLDS(isinf(f) && (bits_of(f) >> 31) == h >> 15, h);
        else
            HOLDS((double)f == value_of((uint16_t)h, format->mantissa_bits) && (bits_of(f) >> 31) == h >> 15, h);
        HOLDS(format->narrow(f) == h, h);
    }
}
END_TEST

/* Between each two neighbours: just below, exactly at, and just above the middle. */
START_TEST(narrowing_rounds_to_nearest_even)
{
    const half_format_t *format = &formats[_i];
    for (uint32_t h = 0; h < infinity16(format->mantissa_bits); h++) {
        double below = value_of((uint16_t)h, format->mantissa_bits),
               above = value_of((uint16_t)(h + 1), format->mantissa_bits);
        double middle = below + (above - below) / 2;
        HOLDS((double)(float)middle == middle, h);
        uint32_t bits = bits_of((float)middle), even = h & 1 ? h + 1 : h;
        for (uint32_t sign = 0; sign < 2; sign++) {
            HOLDS(format->narrow(float_of(sign << 31 | (bits - 1))) == (sign << 15 | h), h);
            HOLDS(format->narrow(float_of(sign << 31 | bits)) == (sign << 15 | even), h);
            HOLDS(format->narrow(float_of(sign << 31 | (bits + 1))) == (sign << 15 | (h + 1)), h);
        }
    }
}
END_TEST

START_TEST(narrowing_extremes)
{
    const half_format_t *format = &formats[_i];
    uint16_t infinity = infinity16(format->mantissa_bits);
    ck_assert_uint_eq(format->narrow(INFINITY), infinity);
    ck_assert_uint_eq(format->narrow(-INFINITY), infinity | 0x8000);
    ck_assert_uint_eq(format->narrow(float_of(0x7f7fffff)), infinity);
    ck_assert_uint_eq(format->narrow(0.0f), 0);
    ck_assert_uint_eq(format->narrow(-0.0f), 0x8000);
    ck_assert_uint_eq(format->narrow(float_of(1)), 0);
    ck_assert_uint_eq(format->narrow(float_of(0x80000001)), 0x8000);
    /* NaNs whose payload lies only in the dropped bits. */
    ck_assert(is_nan16(format->narrow(float_of(0x7f800001)), format->mantissa_bits));
    ck_assert(is_nan16(format->narrow(float_of(0xffbfffff)), format->mantissa_bits));
    ck_assert(is_nan16(format->narrow(float_of(0x7fffffff)), format->mantissa_bits));
}
END_TEST

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("f16c"))) static uint16_t narrow_by_processor(float f)
{
    return (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(f), _MM_FROUND_TO_NEAREST_INT), 0);
}

__attribute__((target("f16c"))) static float widen_by_processor(uint16_t h)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

/* The bits equal those of the processor's own conversions, which SIMD kernels use: for every half, and for floats over
 * the whole range. */
START_TEST(fp16_agrees_with_the_processor)
{
    if (!__builtin_cpu_supports("avx2")) /* clang 14 does not know the name f16c; processors with AVX2 have it */
        return;
    for (uint32_t h = 0; h < 0x10000; h++)
        HOLDS(bits_of(zero_fp16_to_fp32((uint16_t)h)) == bits_of(widen_by_processor((uint16_t)h)), h);
    for (uint64_t u = 0; u <= UINT32_MAX; u += 997)
        HOLDS(zero_fp32_to_fp16(float_of((uint32_t)u)) == narrow_by_processor(float_of((uint32_t)u)), u);
}
END_TEST
#endif

/* The first outputs of the generator seeded with 1234567, as its authors publish them: state advances by the golden
 * ratio. */
START_TEST(splitmix64_is_the_published_one)
{
    ck_assert_uint_eq(zero_splitmix64(1234567), UINT64_C(6457827717110365317));
    ck_assert_uint_eq(zero_splitmix64(1234567 + UINT64_C(0x9e3779b97f4a7c15)), UINT64_C(3203168211198807973));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *tc = tcase_create("sentences");
    tcase_add_test(tc, fail_sets_status_and_sentence);
    tcase_add_test(tc, fail_may_quote_its_own_sentence);
    tcase_add_test(tc, fail_keeps_what_caused_it);
    tcase_add_test(tc, fail_cuts_what_is_too_long);
    tcase_add_test(tc, log_formats_or_is_silent);
    tcase_add_test(tc, version_is_the_package);
    tcase_add_test(tc, names_are_complete_and_distinct);
    tcase_add_test(tc, dtype_sizes);
    suite_add_tcase(suite, tc);

    tc = tcase_create("arithmetic");
    tcase_add_test(tc, arithmetic_notices_overflow);
    tcase_add_test(tc, round_up_is_the_least_multiple);
    tcase_add_test(tc, splitmix64_is_the_published_one);
    suite_add_tcase(suite, tc);

    tc = tcase_create("conversions");
    tcase_set_timeout(tc, 120);
    int count = (int)(sizeof formats / sizeof *formats);
    tcase_add_loop_test(tc, every_half_widens_exactly_and_comes_back, 0, count);
    tcase_add_loop_test(tc, narrowing_rounds_to_nearest_even, 0, count);
    tcase_add_loop_test(tc, narrowing_extremes, 0, count);
#if defined(__x86_64__)
    tcase_add_test(tc, fp16_agrees_with_the_processor);
#endif
    suite_add_tcase(suite, tc);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
