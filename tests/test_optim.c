/* SPDX-License-Identifier: Apache-2.0 */
/* test_optim.c - AdamW's scalars and update against its published formula in long double, the other rules' scalars and
 * state, the norm and the clip factor. */
#include "optim/norm.h"
#include "optim/rules.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static const zero_rule_options_t usual = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .momentum = 0.9};

/* ---- power ------------------------------------------------------------------------------------------------------ */

START_TEST(test_power)
{
    ck_assert_double_eq(zero_power(0.9, 0), 1);
    ck_assert_double_eq(zero_power(0, 0), 1);
    ck_assert_double_eq(zero_power(0, 5), 0);
    ck_assert_double_eq(zero_power(0.9, 1), 0.9);
    ck_assert_double_eq(zero_power(3, 13), 1594323);
    ck_assert_double_eq(zero_power(1, INT64_MAX), 1);
    ck_assert_double_eq(zero_power(0.999, INT64_MAX), 0);
    const double betas[] = {0.5, 0.9, 0.95, 0.99, 0.999, 0.9999};
    for (int b = 0; b < 6; b++)
        for (int64_t t = 1; t < 200000; t += 1 + t / 3) {
            long double exact = powl((long double)betas[b], (long double)t);
            ck_assert_msg(fabsl(zero_power(betas[b], t) - exact) <= 0x1p-52L * (long double)t * exact + 0x1p-1000L,
                          "%g^%lld", betas[b], (long long)t);
        }
}
END_TEST

/* ---- scalars ---------------------------------------------------------------------------------------------------- */

/* x is want rounded to fp32, except for one earlier rounding in fp64. */
static void rounded(float x, long double want, const char *what, int64_t t)
{
    float low = (float)(want * (1 - 0x1p-45L)), high = (float)(want * (1 + 0x1p-45L));
    ck_assert_msg(x == low || x == high, "%s at t = %lld: %a, wanted %a", what, (long long)t, (double)x,
                  (double)(float)want);
}

START_TEST(test_scalars)
{
    const int64_t steps[] = {1, 2, 3, 10, 1000, 123456, 100000000};
    for (int k = 0; k < 7; k++) {
        int64_t t = steps[k];
        zero_rule_scalars_t s = zero_rule_scalars(ZERO_RULE_ADAMW, &usual, 3e-4, 2, 0.5, t, 0.125);
        long double rate = 6e-4L, bc1 = 1 - powl(0.9, (long double)t), bc2 = 1 - powl(0.95, (long double)t);
        ck_assert_float_eq(s.grad_factor, 0.125f);
        ck_assert_float_eq(s.beta1, 0.9f);
        ck_assert_float_eq(s.beta2, 0.95f);
        ck_assert_float_eq(s.eps, 1e-8f);
        rounded(s.one_minus_beta1, 1 - (long double)0.9, "1 - beta1", t);
        rounded(s.one_minus_beta2, 1 - (long double)0.95, "1 - beta2", t);
        rounded(s.decay_factor, 1 - rate * 0.05L, "decay factor", t);
        rounded(s.step_size, rate / bc1, "step size", t);
        rounded(s.inv_sqrt_bc2, 1 / sqrtl(bc2), "bias correction", t);
    }
    /* Without decay the factor is exactly 1. Without a rate nothing moves. */
    ck_assert_float_eq(zero_rule_scalars(ZERO_RULE_ADAMW, &usual, 1e-3, 1, 0, 1, 1).decay_factor, 1);
    ck_assert_float_eq(zero_rule_scalars(ZERO_RULE_ADAMW, &usual, 0, 1, 1, 1, 1).decay_factor, 1);
    ck_assert_float_eq(zero_rule_scalars(ZERO_RULE_ADAMW, &usual, 0, 1, 1, 1, 1).step_size, 0);
    ck_assert_float_eq(zero_rule_scalars(ZERO_RULE_ADAMW, &usual, 1e-3, 0, 1, 1, 1).step_size, 0);
}
END_TEST

/* ---- the other rules -------------------------------------------------------------------------------------------- */

START_TEST(test_rules)
{
    static const struct {
        const char *name;
        int states;
        unsigned bytes;
        bool coupled, corrected; /* decay is added to the gradient; the bias of the moments is corrected */
    } want[ZERO_RULE_CUSTOM] = {{"adamw", 2, 512, false, true},     {"adam", 2, 512, true, true},
                                {"sgd", 1, 512, true, false},       {"lion", 1, 512, false, false},
                                {"adamw8bit", 2, 132, false, true}, {"muon", 1, 512, false, false}};
    const zero_rule_options_t still = {.beta1 = 0};
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++) { /* ends before the caller's rule */
        zero_rule_t rule = (zero_rule_t)r;
        ck_assert_str_eq(zero_rule(rule)->name, want[r].name);
        ck_assert_int_eq(zero_rule_states(rule, &usual), want[r].states);
        ck_assert_int_eq(zero_rule_states(rule, &still), rule == ZERO_RULE_SGD ? 0 : want[r].states);
        zero_format_t format = zero_rule(rule)->format[0];
        ck_assert_uint_eq(zero_format_bytes(&format, 128), want[r].bytes);

        zero_rule_scalars_t s = zero_rule_scalars(rule, &usual, 3e-4, 2, 0.5, 3, 0.125);
        rounded(s.decay_factor, want[r].coupled ? 1 : 1 - 6e-4L * 0.05L, want[r].name, 3);
        rounded(s.l2, want[r].coupled ? 0.05L : 0, want[r].name, 3);
        rounded(s.step_size, want[r].corrected ? 6e-4L / (1 - powl(0.9, 3)) : 6e-4L, want[r].name, 3);
        rounded(s.one_minus_beta2, 1 - (long double)0.95, want[r].name, 3);
        ck_assert_float_eq(s.beta1, 0.9f);
        ck_assert_float_eq(s.beta2, 0.95f);
        ck_assert_float_eq(s.grad_factor, 0.125f);
    }
}
END_TEST

/* Muon updates only matrices; AdamW updates the other parameters. Muon's updates have the size of AdamW's. */
START_TEST(test_whole_rules)
{
    for (int r = 0; r < ZERO_RULES; r++) {
        zero_rule_t rule = (zero_rule_t)r;
        bool whole = rule == ZERO_RULE_MUON;
        ck_assert_int_eq(zero_rule(rule)->reach, whole ? ZERO_REACH_PARAMETER : ZERO_REACH_ELEMENTS);
        ck_assert_int_eq(zero_rule_of(rule, true), rule);
        ck_assert_int_eq(zero_rule_of(rule, false), whole ? ZERO_RULE_ADAMW : rule);
    }
    ck_assert_double_eq(zero_rule_matrix_scale(64, 16), 0.2 * 8);
    ck_assert_double_eq(zero_rule_matrix_scale(16, 64), 0.2 * 8);
}
END_TEST

/* ---- many updates, against PyTorch's formula in long double ----------------------------------------------------- */

enum { ELEMENTS = 200, UPDATES = 120 };

typedef struct exact {
    long double p, m, v;
} exact_t;

/* torch.optim.AdamW: one element of one step, as in its single-tensor implementation. */
static void torch_adamw(exact_t *x, long double g, const zero_rule_options_t *o, long double lr, int64_t t)
{
    x->p *= 1 - lr * (long double)o->weight_decay;
    x->m += (g - x->m) * (1 - (long double)o->beta1); /* lerp_ */
    x->v = x->v * (long double)o->beta2 + (1 - (long double)o->beta2) * g * g;
    long double step_size = lr / (1 - powl((long double)o->beta1, (long double)t));
    long double denominator =
        sqrtl(x->v) / sqrtl(1 - powl((long double)o->beta2, (long double)t)) + (long double)o->eps;
    x->p -= step_size * x->m / denominator;
}

START_TEST(test_trajectory)
{
    const zero_rule_options_t options[] = {usual,
                                           {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-6, .weight_decay = 0.01},
                                           {.beta1 = 0, .beta2 = 0.5, .eps = 1e-3}};
    const zero_rule_options_t *o = &options[_i];
    static float p[ELEMENTS], m[ELEMENTS], v[ELEMENTS], g[ELEMENTS];
    static exact_t exact[ELEMENTS];
    for (int i = 0; i < ELEMENTS; i++) {
        p[i] = sinf((float)i) * 0.5f;
        exact[i] = (exact_t){.p = (long double)p[i]};
    }
    for (int64_t t = 1; t <= UPDATES; t++) {
        double lr = 1e-3 * (double)(t < 10 ? t : 10) / 10, factor = t % 3 ? 1 : 0.25;
        for (int i = 0; i < ELEMENTS; i++) { /* gradients of very different sizes, with changing signs */
            g[i] = ldexpf(cosf((float)(i * 7 + (int)t * (i % 5))), -(i % 30));
            torch_adamw(&exact[i], (long double)g[i] * factor, o, lr, t);
        }
        zero_rule_scalars_t s = zero_rule_scalars(ZERO_RULE_ADAMW, o, lr, 1, 1, t, factor);
        zero_update_t u = {
            .rule = ZERO_RULE_ADAMW, .count = ELEMENTS, .master = p, .state = {m, v}, .grad = g, .scalars = s};
        zero_flat_cpu()->update(&u, 1, 1, NULL);
    }
    /* One rounding of the parameter per update, and a relative error of a few roundings in the update itself. */
    long double moved = 0;
    for (int i = 0; i < ELEMENTS; i++) {
        long double error = fabsl(p[i] - exact[i].p), bound = UPDATES * (0x1p-24L * 0.6L + 1e-3L * 0x1p-19L);
        ck_assert_msg(error <= bound, "element %d: %a, wanted %La", i, (double)p[i], exact[i].p);
        ck_assert_msg(fabsl(v[i] - exact[i].v) <= 1e-5L * exact[i].v + 1e-40L, "v %d", i);
        /* m may cancel: its error is relative to the gradients. */
        ck_assert_msg(fabsl(m[i] - exact[i].m) <= 1e-6L * ldexpl(1, -(i % 30)), "m %d", i);
        moved += fabsl(exact[i].p - sinl(i) * 0.5L);
    }
    ck_assert(moved > ELEMENTS * 1e-3L);
}
END_TEST

/* The first update moves each parameter by the rate against its gradient's sign, whatever the gradient's size (except
 * for eps). */
START_TEST(test_first_update)
{
    float p[3] = {1, 1, 1}, m[3] = {0}, v[3] = {0};
    const float g[3] = {1e-3f, -50, 0};
    zero_rule_options_t o = {.beta1 = 0.9, .beta2 = 0.95, .eps = 0x1p-60, .weight_decay = 0};
    zero_rule_scalars_t s = zero_rule_scalars(ZERO_RULE_ADAMW, &o, 0x1p-10, 1, 1, 1, 1);
    zero_update_t u = {.rule = ZERO_RULE_ADAMW, .count = 3, .master = p, .state = {m, v}, .grad = g, .scalars = s};
    zero_flat_ref()->update(&u, 1, 1, NULL);
    ck_assert_float_eq_tol(p[0], 1 - 0x1p-10f, 3e-7f);
    ck_assert_float_eq_tol(p[1], 1 + 0x1p-10f, 3e-7f);
    ck_assert_float_eq(p[2], 1);
}
END_TEST

/* ---- norm ------------------------------------------------------------------------------------------------------- */

START_TEST(test_norm_order)
{
    /* (rank, segment) with a stride of 3, one word of each rank not a sum of squares. Only segment by segment, ranks in
     * order, gives 2^53 + 4. */
    const double big = 0x1p53;
    const double sums[2 * 3] = {1, big, NAN, 1, 2, NAN};
    double want = 0;
    for (int s = 0; s < 2; s++)
        for (int r = 0; r < 2; r++)
            want += sums[r * 3 + s];
    ck_assert_double_eq(want, 0x1p53 + 4);
    ck_assert_double_ne(((1 + big) + 1) + 2, want); /* the order rank by rank gives another number */
    zero_norm_t n = zero_norm_combine(sums, 2, 2, 3, 1, 0);
    ck_assert_double_eq(n.norm, sqrt(want));
    ck_assert(n.finite);

    double many[5 * 7];
    long double exact = 0;
    for (int i = 0; i < 35; i++) {
        many[i] = ldexp(1 + (double)(i * i % 11) / 7, i % 9);
        exact += many[i];
    }
    n = zero_norm_combine(many, 7, 5, 7, 0.25, 0);
    ck_assert_double_eq_tol(n.norm, (double)(0.25L * sqrtl(exact)), 1e-14 * n.norm);
    ck_assert_double_eq(zero_norm_combine(many, 0, 5, 7, 1, 1).norm, 0);
    ck_assert_double_eq(zero_norm_combine(many, 7, 5, 7, -0.25, 0).norm, n.norm);
}
END_TEST

START_TEST(test_clip)
{
    double sum = 16; /* norm 4 */
    zero_norm_t n = zero_norm_combine(&sum, 1, 1, 1, 1, 1);
    ck_assert_double_eq(n.norm, 4);
    ck_assert_double_eq(n.clip_factor, 1 / (4 + 1e-6));
    ck_assert_double_eq(n.grad_factor, n.clip_factor);
    n = zero_norm_combine(&sum, 1, 1, 1, 0.5, 1);
    ck_assert_double_eq(n.norm, 2);
    ck_assert_double_eq(n.clip_factor, 1 / (2 + 1e-6));
    ck_assert_double_eq(n.grad_factor, 0.5 * n.clip_factor);
    ck_assert_double_eq(zero_norm_combine(&sum, 1, 1, 1, 1, 5).clip_factor, 1);
    ck_assert_double_eq(zero_norm_combine(&sum, 1, 1, 1, 1, 4).clip_factor, 4 / (4 + 1e-6)); /* as PyTorch's */
    ck_assert_double_eq(zero_norm_combine(&sum, 1, 1, 1, 3, 0).clip_factor, 1);              /* off */
    ck_assert_double_eq(zero_norm_combine(&sum, 1, 1, 1, 3, 0).grad_factor, 3);
    sum = 0;
    ck_assert_double_eq(zero_norm_combine(&sum, 1, 1, 1, 1, 1).clip_factor, 1);
    ck_assert(zero_norm_combine(&sum, 1, 1, 1, 1, 1).finite);
}
END_TEST

START_TEST(test_not_finite)
{
    const double bad[] = {NAN, INFINITY};
    for (int b = 0; b < 2; b++)
        for (int at = 0; at < 4; at++) {
            double sums[4] = {1, 1, 1, 1};
            sums[at] = bad[b];
            zero_norm_t n = zero_norm_combine(sums, 2, 2, 2, 1, 1);
            ck_assert(!n.finite && !isfinite(n.norm));
            ck_assert_double_eq(n.clip_factor, 1);
        }
    /* Large gradients do not overflow: fp32's largest value, squared, thousands of times. */
    double large[1000];
    for (int i = 0; i < 1000; i++)
        large[i] = 1e9 * 0x1p127 * 0x1p127;
    zero_norm_t n = zero_norm_combine(large, 1000, 1, 1000, 1, 1);
    ck_assert(n.finite && n.clip_factor > 0 && n.clip_factor < 1e-40);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optim");
    TCase *tcase = tcase_create("optim");
    tcase_add_test(tcase, test_power);
    tcase_add_test(tcase, test_scalars);
    tcase_add_test(tcase, test_rules);
    tcase_add_test(tcase, test_whole_rules);
    tcase_add_loop_test(tcase, test_trajectory, 0, 3);
    tcase_add_test(tcase, test_first_update);
    tcase_add_test(tcase, test_norm_order);
    tcase_add_test(tcase, test_clip);
    tcase_add_test(tcase, test_not_finite);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
