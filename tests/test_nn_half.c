/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_half.c - kernels/nn: numbers of 16 bits in every backend and instruction set: conversions to the bit, and
 * products in fp16 at the ends of its range. */
#include "tests/nn_common.h"

static const char *name_of(const way_t *way)
{
    return way == NULL ? "ref" : way->name;
}

typedef struct numbers {
    buf_t y, a, zero, sums;
} numbers_t;

static void call_conversions(zero_nn_t *nn, void *arg)
{
    numbers_t *n = arg;
    zero_nn_add(nn, n->a.data, n->a.data, n->zero.data, n->a.count, n->a.dtype);
    zero_nn_add_sums(nn, n->y.data, (const float *)n->sums.data, n->y.count, n->y.dtype);
}

static double number(int64_t bits, zero_dtype_t dtype)
{
    const uint16_t h = (uint16_t)bits;
    return dtype == ZERO_BF16 ? zero_bf16_to_fp32(h) : zero_fp16_to_fp32(h);
}

/* Every number of 16 bits keeps its bits, subnormals too. Numbers in fp32 around it, and around the middle between it
 * and the next one, become the nearest number: the even one of two, a subnormal, or an infinity. NaN stays one. */
START_TEST(conversions)
{
    enum { NUMBERS = 1 << 16, AROUND = 5, MINUS_ZERO = 0x8000 }; /* x + -0 is x */
    const way_t *way = _i < 0 ? NULL : &WAYS[_i];
    if (way != NULL && !way_runs(way))
        return;
    for (int d = 1; d < DTYPE_COUNT; d++) {
        const zero_dtype_t dtype = DTYPES[d];
        numbers_t n = {buf_new(dtype, AROUND * NUMBERS), buf_new(dtype, NUMBERS), buf_new(dtype, NUMBERS),
                       buf_new(ZERO_FP32, AROUND * NUMBERS)};
        uint16_t *a = (uint16_t *)(void *)n.a.data, *zero = (uint16_t *)(void *)n.zero.data,
                 *y = (uint16_t *)(void *)n.y.data;
        float *sums = (float *)(void *)n.sums.data;
        for (int64_t i = 0; i < NUMBERS; i++) {
            const double x = number(i, dtype), next = number(i + 1, dtype);
            const double middle = isinf(next) && !isinf(x) ? x + (x - number(i - 1, dtype)) / 2 : (x + next) / 2;
            a[i] = (uint16_t)i;
            zero[i] = MINUS_ZERO;
            sums[AROUND * i] = (float)x;
            sums[AROUND * i + 1] = (float)(x / 3);
            sums[AROUND * i + 2] = (float)middle;
            sums[AROUND * i + 3] = nextafterf((float)middle, -INFINITY);
            sums[AROUND * i + 4] = nextafterf((float)middle, INFINITY);
        }
        for (int64_t i = 0; i < AROUND * NUMBERS; i++)
            y[i] = MINUS_ZERO;
        run(way, call_conversions, &n);
        for (int64_t i = 0; i < NUMBERS; i++)
            EXPECT(a[i] == i || (isnan(number(i, dtype)) && isnan(number(a[i], dtype))), "%s: %s %04x becomes %04x",
                   name_of(way), zero_dtype_name(dtype), (unsigned)i, a[i]);
        for (int64_t i = 0; i < AROUND * NUMBERS; i++) {
            const uint16_t want = dtype == ZERO_BF16 ? zero_fp32_to_bf16(sums[i]) : zero_fp32_to_fp16(sums[i]);
            EXPECT(isnan(sums[i]) ? isnan(number(y[i], dtype)) : y[i] == want, "%s: %.9g becomes %s %04x, not %04x",
                   name_of(way), sums[i], zero_dtype_name(dtype), y[i], want);
        }
        buf_free(&n.y), buf_free(&n.a), buf_free(&n.zero), buf_free(&n.sums);
    }
}
END_TEST

/* A sum leaves fp16's range and returns, because it is fp32. A result outside is an infinity. Small results are
 * subnormal. */
START_TEST(products_at_the_ends)
{
    enum { M = 3, N = 8, K = 40 };
    static const struct {
        float even, odd, b; /* a's elements, by their place in the sum; b's, or only its eighth */
        bool eighth;
        double want;
    } CASES[] = {
        {300, -300, 300, false, 0},
        {300, 300, 300, false, INFINITY},
        {300, 300, -300, false, -INFINITY},
        {255, 255, 256, true, 65280},
        {256, 256, 256, true, INFINITY},
        {-256, -256, 256, true, -INFINITY},
        {0x1p-14f, 0, 0x1p-9f, false, 20 * 0x1p-23},
        {0, 0x1p-14f, 0x1p-10f, true, 0x1p-24},
    };
    const way_t *way = _i < 0 ? NULL : &WAYS[_i];
    if (way != NULL && !way_runs(way))
        return;
    for (size_t c = 0; c < sizeof CASES / sizeof CASES[0]; c++) {
        buf_t a = buf_new(ZERO_FP16, M * K), b = buf_new(ZERO_FP16, K * N), y = buf_new(ZERO_FP16, M * N);
        for (int64_t i = 0; i < M * K; i++)
            zero_element_set(a.data, i, ZERO_FP16, i % K % 2 ? CASES[c].odd : CASES[c].even);
        for (int64_t i = 0; i < K * N; i++)
            zero_element_set(b.data, i, ZERO_FP16, CASES[c].eighth && i / N != 7 ? 0 : CASES[c].b);
        zero_nn_gemm_t g = {.m = M, .n = N, .k = K, .dtype = ZERO_FP16, .a = a.data, .b = b.data, .c = y.data};
        run(way, call_gemm, &g);
        for (int64_t i = 0; i < M * N; i++)
            EXPECT(buf_at(&y, i) == CASES[c].want, "%s, case %d: %g, not %g", name_of(way), (int)c, buf_at(&y, i),
                   CASES[c].want);
        buf_free(&a), buf_free(&b), buf_free(&y);
    }
}
END_TEST

#if !defined(ZERO_TEST_CUDA)
/* oneDNN has no products in fp16 on CPUs: the description says what computes them. */
START_TEST(products_are_our_own)
{
    zero_nn_t *nn = context(&WAYS[0]);
    char text[256];
    zero_nn_set_dry(nn, true);
    zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 8, .n = 8, .k = 8, .dtype = ZERO_FP16});
    zero_nn_describe(nn, text, sizeof text);
    ck_assert_str_eq(text, "products: our own kernels in fp32");
    zero_nn_destroy(nn);
}
END_TEST
#endif

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_half");
    TCase *tc = tcase_create("nn_half");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, conversions, -1, WAY_COUNT);
    tcase_add_loop_test(tc, products_at_the_ends, -1, WAY_COUNT);
#if !defined(ZERO_TEST_CUDA)
    tcase_add_test(tc, products_are_our_own);
#endif
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
