/* SPDX-License-Identifier: Apache-2.0 */
/* test_update.c - the optimizers' updates. Every table must have the bits of plain C; plain C must match its definition
 * and PyTorch. If a result is NaN, only that must agree. */
#include "optim/rules.h"
#include "tests/flat_levels.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { GUARD = 64, BLOCK = ZERO_BLOCK8 };

/* The last size is large enough for four threads. */
static const int64_t sizes[] = {0, 1, 31, 32, 33, 127, 128, 129, 300, 4097, 20011, 40960};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static const zero_dtype_t dtypes[] = {ZERO_FP32, ZERO_BF16, ZERO_FP16};

/* ---- operands of an update -------------------------------------------------------------------------------------- */

static int64_t blocks(int64_t count)
{
    return (count + BLOCK - 1) / BLOCK;
}

static uint64_t state_bytes(zero_rule_t rule, int64_t count)
{
    return rule == ZERO_RULE_ADAMW8 ? (uint64_t)blocks(count) * sizeof(zero_block8_t) : (uint64_t)count * 4;
}

/* bytes at a 128-byte boundary, between guard bytes. */
static void *buffer(uint64_t bytes)
{
    size_t whole = (bytes + GUARD + 127) / 128 * 128;
    char *x = aligned_alloc(128, whole);
    ck_assert_ptr_nonnull(x);
    memset(x, 0xa5, whole);
    return x;
}

static void *clone(const void *x, uint64_t bytes)
{
    return memcpy(buffer(bytes), x, bytes);
}

static const uint32_t special[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001,
    0x007fffff, 0x00800000, /* +-0, the smallest and largest subnormal, the smallest normal */
    0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
    0x7fc00000, 0xffc12345,                         /* the largest, infinite, NaN */
    0x3f800000, 0x3f808000, 0x3f818000, 0x7f7f8000, /* one, ties of bf16, its overflow */
    0x477fefff, 0x477ff000, 0x387fc000, 0x33000001, /* fp16's overflow, its subnormals */
};

/* A number of any size that training has. wild: sometimes random bits or special values. */
static float number(uint64_t *state, bool wild)
{
    uint64_t r = zero_splitmix64(++*state);
    uint32_t any = (uint32_t)(r >> 32);
    float f = ldexpf((float)(int32_t)any, -31 - (int)(r >> 8) % 20);
    if (r % 16 == 0)
        f = 0;
    else if (wild && r % 16 == 1)
        memcpy(&f, &any, sizeof f);
    else if (wild && r % 16 == 2)
        memcpy(&f, &special[any % (sizeof special / sizeof special[0])], sizeof f);
    return f;
}

static void put(void *x, zero_dtype_t dtype, int64_t i, float value)
{
    if (dtype == ZERO_FP32)
        ((float *)x)[i] = value;
    else
        ((uint16_t *)x)[i] = dtype == ZERO_BF16 ? zero_fp32_to_bf16(value) : zero_fp32_to_fp16(value);
}

/* Allocates operands for u->count elements of its rule and dtypes, with a separate param. */
static void operands_create(zero_update_t *u, uint64_t seed, bool wild)
{
    uint64_t state = seed << 32, bytes = state_bytes(u->rule, u->count), size = zero_dtype_size(u->grad_dtype);
    void *grad;

    u->master = buffer((uint64_t)u->count * 4);
    u->grad = grad = buffer((uint64_t)u->count * size);
    u->param = buffer((uint64_t)u->count * zero_dtype_size(u->param_dtype));
    u->state[0] = buffer(bytes);
    u->state[1] = buffer(bytes);
    for (int64_t i = 0; i < u->count; i++) {
        u->master[i] = number(&state, wild);
        put(grad, u->grad_dtype, i, number(&state, wild));
    }
    if (u->rule == ZERO_RULE_ADAMW8) {
        for (int s = 0; s < 2; s++)
            for (int64_t b = 0; b < blocks(u->count); b++) {
                zero_block8_t *block = (zero_block8_t *)u->state[s] + b;
                block->scale = fabsf(number(&state, wild)); /* of any size, including 0 */
                for (int k = 0; k < BLOCK; k++)
                    block->code[k] = (uint8_t)zero_splitmix64(++state);
            }
    } else
        for (int64_t i = 0; i < u->count; i++) {
            ((float *)u->state[0])[i] = number(&state, wild);
            float v = number(&state, wild);
            ((float *)u->state[1])[i] = wild && i % 64 == 0 ? v : fabsf(v);
        }
}

static zero_update_t operands_clone(const zero_update_t *u)
{
    zero_update_t c = *u;
    uint64_t n = (uint64_t)u->count;
    c.master = clone(u->master, n * 4);
    c.grad = clone(u->grad, n * zero_dtype_size(u->grad_dtype));
    c.param = u->param ? clone(u->param, n * zero_dtype_size(u->param_dtype)) : NULL;
    for (int s = 0; s < 2; s++)
        c.state[s] = u->state[s] ? clone(u->state[s], state_bytes(u->rule, u->count)) : NULL;
    return c;
}

static void operands_destroy(zero_update_t *u)
{
    free(u->master), free((void *)u->grad), free(u->param), free(u->state[0]), free(u->state[1]);
}

static bool is_nan(const void *x, zero_dtype_t dtype, int64_t i)
{
    if (dtype == ZERO_FP32)
        return isnan(((const float *)x)[i]);
    return (((const uint16_t *)x)[i] & 0x7fff) > (dtype == ZERO_BF16 ? 0x7f80 : 0x7c00);
}

/* The bits are the same, or both are NaN, and nothing is written after the end. */
static void same(const void *want, const void *got, int64_t count, zero_dtype_t dtype, const char *what)
{
    size_t size = zero_dtype_size(dtype);
    for (int64_t i = 0; i < count; i++)
        if (memcmp((const char *)want + (size_t)i * size, (const char *)got + (size_t)i * size, size) != 0 &&
            !(is_nan(want, dtype, i) && is_nan(got, dtype, i))) {
            uint32_t w = 0, g = 0;
            memcpy(&w, (const char *)want + (size_t)i * size, size);
            memcpy(&g, (const char *)got + (size_t)i * size, size);
            ck_abort_msg("%s: element %lld of %lld is %08x, wanted %08x", what, (long long)i, (long long)count, g, w);
        }
    for (int k = 0; k < GUARD; k++)
        if (((const uint8_t *)got)[(size_t)count * size + (size_t)k] != 0xa5)
            ck_abort_msg("%s: byte %d behind %lld elements was written", what, k, (long long)count);
}

/* The blocks are the same. For blocks without a finite scale, only that must agree. */
static void same_blocks(const void *want, const void *got, int64_t count, const char *what)
{
    for (int64_t b = 0; b < blocks(count); b++) {
        const zero_block8_t *w = (const zero_block8_t *)want + b, *g = (const zero_block8_t *)got + b;
        if (isnan(w->scale) ? isnan(g->scale) : isinf(w->scale) ? isinf(g->scale) : memcmp(w, g, sizeof *w) == 0)
            continue;
        int k = 0;
        while (k < BLOCK - 1 && w->code[k] == g->code[k])
            k++;
        ck_abort_msg("%s: block %lld has scale %a, wanted %a; code %d is %d, wanted %d", what, (long long)b,
                     (double)g->scale, (double)w->scale, k, g->code[k], w->code[k]);
    }
    for (int k = 0; k < GUARD; k++)
        if (((const uint8_t *)got)[(size_t)blocks(count) * sizeof(zero_block8_t) + (size_t)k] != 0xa5)
            ck_abort_msg("%s: byte %d behind %lld blocks was written", what, k, (long long)blocks(count));
}

static void same_update(const zero_update_t *want, const zero_update_t *got, const char *what)
{
    char name[200];
    for (int s = 0; s < 2; s++) {
        snprintf(name, sizeof name, "%s's state %d", what, s);
        if (want->state[s] && want->rule == ZERO_RULE_ADAMW8)
            same_blocks(want->state[s], got->state[s], want->count, name);
        else if (want->state[s])
            same(want->state[s], got->state[s], want->count, ZERO_FP32, name);
    }
    snprintf(name, sizeof name, "%s's master", what);
    same(want->master, got->master, want->count, ZERO_FP32, name);
    snprintf(name, sizeof name, "%s's param", what);
    if (want->param)
        same(want->param, got->param, want->count, want->param_dtype, name);
    snprintf(name, sizeof name, "%s's gradient", what);
    same(want->grad, got->grad, want->count, want->grad_dtype, name);
}

/* Scalars of update number 3, all with an effect. */
static zero_rule_scalars_t some_scalars(zero_rule_t rule)
{
    const zero_rule_options_t options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    return zero_rule_scalars(rule, &options, 1e-2, 1, 1, 3, 0.3);
}

/* Extreme scalars: no memory, no decay, and nothing that keeps a quotient finite. */
static zero_rule_scalars_t bare_scalars(zero_rule_t rule)
{
    const zero_rule_options_t options = {.beta1 = 0, .beta2 = 0, .eps = 0, .weight_decay = 0};
    return zero_rule_scalars(rule, &options, 0.1, 1, 1, 1, 1);
}

/* ---- every table against plain C -------------------------------------------------------------------------------- */

#define OPS                                         \
    const char *level = flat_levels[_i];            \
    const zero_flat_ops_t *ops = flat_level(level); \
    if (!ops)                                       \
    return

/* States that a rule does not have are poisoned. */
static void check(const zero_flat_ops_t *ops, zero_update_t *u, const char *level)
{
    zero_update_t want = operands_clone(u);
    zero_flat_ref()->update(&want, 1, 1, NULL);
    for (int threads = 0; threads <= flat_most_threads; threads++) {
        char what[160];
        zero_update_t got = operands_clone(u);
        ops->update(&got, 1, threads, NULL);
        snprintf(what, sizeof what, "%s by %s, %d threads, gradients in %s, parameters in %s, %lld elements",
                 zero_rule(u->rule)->name, level, threads, zero_dtype_name(u->grad_dtype),
                 zero_dtype_name(u->param_dtype), (long long)u->count);
        same_update(&want, &got, what);
        operands_destroy(&got);
    }
    operands_destroy(&want);
}

START_TEST(test_levels)
{
    OPS;
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++)
        for (int s = 0; s < SIZES; s++)
            for (int g = 0; g < 3; g++)
                for (int p = 0; p < 3; p++) {
                    if (sizes[s] > 10000 &&
                        g != (p + s + r) % 3) /* each pair of dtypes at one of the large sizes and rules */
                        continue;
                    zero_update_t u = {
                        .rule = (zero_rule_t)r, .grad_dtype = dtypes[g], .param_dtype = dtypes[p], .count = sizes[s]};
                    u.scalars = (s + p) % 3 ? some_scalars(u.rule) : bare_scalars(u.rule);
                    operands_create(&u, (uint64_t)(r * SIZES + s), (g + p) % 2);
                    check(ops, &u, level);
                    free(u.param);
                    u.param = NULL;
                    if (p == 0)
                        check(ops, &u, level);
                    free(u.state[1]);
                    u.state[1] = NULL;
                    if (u.rule == ZERO_RULE_SGD || u.rule == ZERO_RULE_LION || u.rule == ZERO_RULE_MUON)
                        check(ops, &u, level);
                    free(u.state[0]);
                    u.state[0] = NULL;
                    if (u.rule == ZERO_RULE_SGD || u.rule == ZERO_RULE_MUON)
                        check(ops, &u, level);
                    operands_destroy(&u);
                }
}
END_TEST

/* Sizes at which kernels may write parameters in another way, at and off boundaries of cache lines. */
START_TEST(test_large)
{
    OPS;
    for (int p = 0; p < 3; p++)
        for (int off = 0; off < 2; off++) {
            zero_rule_t rule = p == 1 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW;
            zero_update_t u = {
                .rule = rule, .grad_dtype = ZERO_BF16, .param_dtype = dtypes[p], .count = (1 << 20) + 200 + off};
            u.scalars = some_scalars(rule);
            operands_create(&u, 77, false);
            zero_update_t want = operands_clone(&u), got = operands_clone(&u);
            free(got.param);
            char *param = buffer((uint64_t)(u.count + off) * zero_dtype_size(u.param_dtype));
            got.param = param + (size_t)off * zero_dtype_size(u.param_dtype);
            zero_flat_ref()->update(&want, 1, 1, NULL);
            ops->update(&got, 1, 1, NULL);
            same_update(&want, &got, level);
            got.param = param;
            operands_destroy(&u), operands_destroy(&want), operands_destroy(&got);
        }
}
END_TEST

/* Many updates in one call, some of them empty, each with its own scalars. */
START_TEST(test_many)
{
    OPS;
    enum { MANY = 100 };
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++) {
        zero_update_t u[MANY], want[MANY];
        for (int n = 0; n < MANY; n++) {
            u[n] = (zero_update_t){.rule = (zero_rule_t)r, .grad_dtype = ZERO_BF16, .param_dtype = ZERO_BF16};
            u[n].count = sizes[n % (n < 90 ? SIZES - 2 : SIZES)];
            u[n].scalars = some_scalars(u[n].rule);
            u[n].scalars.step_size *= (float)(n + 1);
            operands_create(&u[n], (uint64_t)(1000 * r + n), false);
            want[n] = operands_clone(&u[n]);
        }
        for (int n = 0; n < MANY; n++)
            zero_flat_ref()->update(&want[n], 1, 1, NULL);
        ops->update(u, MANY, 1, NULL);
        for (int n = 0; n < MANY; n++) {
            char what[80];
            snprintf(what, sizeof what, "%s by %s, update %d of %d", zero_rule(u[n].rule)->name, level, n, MANY);
            same_update(&want[n], &u[n], what);
            operands_destroy(&want[n]), operands_destroy(&u[n]);
        }
    }
}
END_TEST

/* A param that equals the master is not written separately, whatever param_dtype is. */
START_TEST(test_master_is_param)
{
    OPS;
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++) {
        zero_update_t u = {.rule = (zero_rule_t)r, .count = 300};
        u.scalars = some_scalars(u.rule);
        operands_create(&u, 5, false);
        zero_update_t want = operands_clone(&u), got = operands_clone(&u);
        zero_flat_ref()->update(&want, 1, 1, NULL);
        free(got.param);
        got.param = got.master;
        got.param_dtype = ZERO_BF16;
        ops->update(&got, 1, 1, NULL);
        got.param = clone(got.master, 300 * 4);
        same_update(&want, &got, level);
        operands_destroy(&u), operands_destroy(&want), operands_destroy(&got);
    }
}
END_TEST

/* Padding stays zero: if everything is zero, nothing moves. */
START_TEST(test_padding)
{
    OPS;
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++) {
        zero_update_t u = {.rule = (zero_rule_t)r, .grad_dtype = ZERO_BF16, .count = 2 * BLOCK};
        u.scalars = some_scalars(u.rule);
        operands_create(&u, 5, false);
        memset(u.master, 0, 2 * BLOCK * 4), memset((void *)u.grad, 0, 2 * BLOCK * 2), memset(u.param, 1, 2 * BLOCK * 4);
        for (int s = 0; s < 2; s++)
            memset(u.state[s], 0, state_bytes(u.rule, u.count));
        zero_update_t want = operands_clone(&u);
        memset(want.param, 0, 2 * BLOCK * 4);
        for (int t = 0; t < 3; t++)
            ops->update(&u, 1, 1, NULL);
        same_update(&want, &u, level);
        operands_destroy(&u), operands_destroy(&want);
    }
}
END_TEST

/* ---- plain C against its definition ----------------------------------------------------------------------------- */

/* The lines of flat.h. Storing each operation's result rounds it. */
static float defined(zero_rule_t rule, const zero_rule_scalars_t *c, float p, float grad, float *m, float *v)
{
    volatile float g = grad * c->grad_factor, x, y, z;
    if (rule == ZERO_RULE_ADAM || rule == ZERO_RULE_SGD)
        g = fmaf(c->l2, p, g);
    switch (rule) {
    case ZERO_RULE_SGD:
        x = c->beta1 * *m;
        *m = x + g;
        return fmaf(-c->step_size, *m, p);
    case ZERO_RULE_LION:
        x = c->one_minus_beta1 * g;
        x = fmaf(c->beta1, *m, x);
        y = c->one_minus_beta2 * g;
        *m = fmaf(c->beta2, *m, y);
        z = p * c->decay_factor;
        y = c->step_size * (float)((x > 0) - (x < 0));
        return z - y;
    case ZERO_RULE_MUON:
        x = c->one_minus_beta1 * g;
        *m = fmaf(c->beta1, *m, x);
        return fmaf(c->beta1, *m, x);
    case ZERO_RULE_ADAMW:
    case ZERO_RULE_ADAMW8:
    case ZERO_RULE_ADAM:
        x = c->one_minus_beta1 * g;
        *m = fmaf(c->beta1, *m, x);
        x = c->one_minus_beta2 * g;
        x = x * g;
        *v = fmaf(c->beta2, *v, x);
        x = sqrtf(*v);
        x = fmaf(x, c->inv_sqrt_bc2, c->eps);
        x = *m / x;
        y = p;
        if (rule != ZERO_RULE_ADAM)
            y = p * c->decay_factor;
        return fmaf(-c->step_size, x, y);
    default:
        ck_abort_msg("rule %d has no definition here", rule);
    }
}

START_TEST(test_definition)
{
    for (int r = 0; r < ZERO_RULE_CUSTOM; r++) {
        zero_update_t u = {.rule = (zero_rule_t)r, .count = 1000};
        if (r == ZERO_RULE_ADAMW8) /* it has a separate test */
            continue;
        u.scalars = some_scalars(u.rule);
        operands_create(&u, 9, false);
        zero_update_t want = operands_clone(&u);
        for (int64_t i = 0; i < u.count; i++) {
            want.master[i] = defined(u.rule, &u.scalars, want.master[i], ((const float *)u.grad)[i],
                                     (float *)want.state[0] + i, (float *)want.state[1] + i);
            ((float *)want.param)[i] = want.master[i];
        }
        zero_flat_ref()->update(&u, 1, 1, NULL);
        same_update(&want, &u, zero_rule(u.rule)->name);
        operands_destroy(&u), operands_destroy(&want);
    }
}
END_TEST

/* Computes the value of a code, before its scale: eight codes per octave, 1 at the top. */
static double magnitude(int k, int most)
{
    int below = most - k, octave = (below + 7) / 8, steps = octave * 8 - below; /* 2^-octave * (1 + steps / 8) */
    return k == 0 ? 0 : ldexp(1 + steps / 8.0, -octave);
}

/* The code of x in [0, 1]: the nearest magnitude, the larger one on ties. Below them follows the value that k = 0 would
 * have; there flat.h gives the code. */
static int nearest(double x, int most, int least)
{
    for (int k = most; k > 0; k--) {
        double below = k > 1 ? magnitude(k - 1, most) : ldexp(magnitude(8, most), -1);
        if (x >= (magnitude(k, most) + below) / 2)
            return k;
    }
    return least;
}

START_TEST(test_block8_definition)
{
    ck_assert_uint_eq(sizeof(zero_block8_t), 132);
    ck_assert_double_eq(magnitude(127, 127), 1);
    ck_assert_double_eq(magnitude(126, 127), 0.9375);
    ck_assert_double_eq(magnitude(1, 127), 1.25 * 0x1p-16);
    ck_assert_double_eq(magnitude(1, 255), 1.25 * 0x1p-32);

    zero_update_t u = {.rule = ZERO_RULE_ADAMW8, .count = 40 * BLOCK + 37};
    u.scalars = some_scalars(u.rule);
    operands_create(&u, 9, false);
    zero_update_t want = operands_clone(&u);
    for (int64_t b = 0; b < blocks(u.count); b++) {
        zero_block8_t *mb = (zero_block8_t *)want.state[0] + b, *vb = (zero_block8_t *)want.state[1] + b;
        int n = b < 40 ? BLOCK : 37;
        float m[BLOCK], v[BLOCK], m_most = 0, v_most = 0;
        for (int k = 0; k < n; k++) {
            int64_t i = b * BLOCK + k;
            m[k] = (float)((mb->code[k] >= 128 ? -1 : 1) * magnitude(mb->code[k] % 128, 127) * (double)mb->scale);
            v[k] = (float)(magnitude(vb->code[k], 255) * (double)vb->scale);
            want.master[i] = defined(u.rule, &u.scalars, want.master[i], ((const float *)u.grad)[i], &m[k], &v[k]);
            ((float *)want.param)[i] = want.master[i];
            m_most = fmaxf(m_most, fabsf(m[k]));
            v_most = fmaxf(v_most, v[k]);
        }
        mb->scale = m_most;
        vb->scale = v_most;
        for (int k = 0; k < n; k++) {
            mb->code[k] = (uint8_t)(nearest((double)(fabsf(m[k]) * (1 / m_most)), 127, 0) + (m[k] < 0 ? 128 : 0));
            vb->code[k] = (uint8_t)nearest((double)(v[k] * (1 / v_most)), 255, v[k] > 0);
        }
    }
    zero_flat_ref()->update(&u, 1, 1, NULL);
    same_update(&want, &u, "8-bit AdamW by definition");
    operands_destroy(&u), operands_destroy(&want);
}
END_TEST

/* Moments that do not change keep their codes at every scale for which they are normal numbers: each code's value is
 * nearest to itself. */
START_TEST(test_block8_kept)
{
    OPS;
    const float scales[] = {1, 3e-28f, 1.7e38f, 1e-9f, 0.77f};
    for (int s = 0; s < 5; s++) {
        zero_update_t u = {.rule = ZERO_RULE_ADAMW8, .count = 2 * BLOCK};
        u.scalars = (zero_rule_scalars_t){.beta1 = 1, .beta2 = 1, .decay_factor = 1, .inv_sqrt_bc2 = 1, .eps = 1};
        operands_create(&u, 9, false);
        for (int i = 0; i < 2 * BLOCK; i++) {
            zero_block8_t *mb = (zero_block8_t *)u.state[0] + i / BLOCK, *vb = (zero_block8_t *)u.state[1] + i / BLOCK;
            mb->scale = vb->scale = scales[s];
            mb->code[i % BLOCK] = (uint8_t)(i == 0 ? 127 : i == 128 ? 0 : i); /* -0 would become 0 */
            vb->code[i % BLOCK] = (uint8_t)(i == 0 ? 255 : i);
        }
        zero_update_t want = operands_clone(&u);
        ops->update(&u, 1, 1, NULL);
        for (int b = 0; b < 2; b++)
            ck_assert_msg(memcmp((char *)want.state[b], (char *)u.state[b], 2 * sizeof(zero_block8_t)) == 0,
                          "state %d at scale %a by %s", b, (double)scales[s], level);
        operands_destroy(&u), operands_destroy(&want);
    }
}
END_TEST

/* Moments that are too small for a division: m is subnormal, v is zero. */
START_TEST(test_block8_tiny)
{
    OPS;
    zero_update_t u = {.rule = ZERO_RULE_ADAMW8, .count = BLOCK};
    u.scalars = some_scalars(u.rule);
    operands_create(&u, 9, false);
    for (int s = 0; s < 2; s++)
        memset(u.state[s], 0, sizeof(zero_block8_t));
    for (int i = 0; i < BLOCK; i++)
        ((float *)u.grad)[i] = (float)i * 0x1p-140f;
    zero_update_t want = operands_clone(&u);
    for (int i = 0; i < BLOCK; i++) {
        float m = 0, v = 0;
        ((float *)want.param)[i] = want.master[i] =
            defined(u.rule, &u.scalars, want.master[i], ((const float *)u.grad)[i], &m, &v);
        ck_assert_float_eq(v, 0);
        ((zero_block8_t *)want.state[0])->scale = m; /* the last one is the largest; every code is 0 */
    }
    ops->update(&u, 1, 1, NULL);
    same_update(&want, &u, level);
    operands_destroy(&u), operands_destroy(&want);
}
END_TEST

/* ---- against PyTorch -------------------------------------------------------------------------------------------- */

#include "tests/golden/rules.h"

START_TEST(test_torch)
{
    OPS;
    for (size_t c = 0; c < sizeof goldens / sizeof goldens[0]; c++) {
        const golden_t *golden = &goldens[c];
        float p[ELEMENTS], m[ELEMENTS] = {0}, v[ELEMENTS] = {0}, g[ELEMENTS];
        zero_update_t u = {.rule = golden->rule, .count = ELEMENTS, .master = p, .grad = g};
        void *state[] = {m, v};
        for (int s = 0; s < zero_rule_states(golden->rule, &golden->options); s++)
            u.state[s] = state[s];
        for (int i = 0; i < ELEMENTS; i++)
            p[i] = (float)((i * 53) % 97 - 48) / 32;
        for (int t = 1, mark = 0; mark < MARKS; t++) {
            for (int i = 0; i < ELEMENTS; i++)
                g[i] = ldexpf(((float)((i * 37 + t * 101 + i * t * 7) % 257) - 128.5f) / 64, -(i % 12));
            u.scalars = zero_rule_scalars(golden->rule, &golden->options, golden->lr, 1, 1, t, 1);
            ops->update(&u, 1, 1, NULL);
            if (t != marks[mark])
                continue;
            for (int i = 0; i < ELEMENTS; i++) {
                /* SGD has PyTorch's bits. The other references are in fp64: they allow one rounding of the parameter
                 * per operation and update. */
                double want = golden->p[mark][i],
                       bound = golden->rule == ZERO_RULE_SGD ? 0 : t * 0x1p-23 * (fabs(want) + 0.125);
                ck_assert_msg(fabs((double)p[i] - want) <= bound,
                              "%s by %s, element %d after %d updates: %a, wanted %a", golden->name, level, i, t,
                              (double)p[i], want);
            }
            mark++;
        }
    }
}
END_TEST

/* ---- 8 bits beside 32 ------------------------------------------------------------------------------------------- */

enum { WIDTH = 16 * BLOCK, STEPS = 400 };

/* Minimizes the sum over i of h_i (p_i - 1)^2 / 2 from p = 0, with noise in the gradients. The curvatures h in a block
 * span four orders of magnitude, or are equal. Returns the mean loss over the last quarter of the steps, and leaves the
 * final values in p. */
static double minimize(zero_rule_t rule, bool spread, float *p)
{
    const zero_rule_options_t options = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0};
    float *g = buffer(WIDTH * 4);
    void *m = buffer(WIDTH * 4), *v = buffer(WIDTH * 4);
    double loss = 0;
    uint64_t noise = 0;
    memset(m, 0, WIDTH * 4), memset(v, 0, WIDTH * 4), memset(p, 0, WIDTH * 4);
    for (int t = 1; t <= STEPS; t++) {
        for (int i = 0; i < WIDTH; i++) {
            double h = spread ? pow(10, -(i % 5)) : 1, r = ldexp((double)(zero_splitmix64(++noise) >> 32), -32) - 0.5,
                   e = (double)p[i] - 1;
            g[i] = (float)(h * (e + 0.5 * r));
            if (4 * t > 3 * STEPS)
                loss += h * e * e / 2 / (STEPS / 4);
        }
        zero_update_t u = {.rule = rule, .count = WIDTH, .master = p, .state = {m, v}, .grad = g};
        u.scalars = zero_rule_scalars(rule, &options, 0.02 * (1 - 0.9 * t / STEPS), 1, 1, t, 1);
        zero_flat_cpu()->update(&u, 1, 1, NULL);
    }
    free(g), free(m), free(v);
    return loss;
}

START_TEST(test_block8_quality)
{
    bool spread = _i;
    float *p = buffer(WIDTH * 4), *p8 = buffer(WIDTH * 4);
    double loss = minimize(ZERO_RULE_ADAMW, spread, p), loss8 = minimize(ZERO_RULE_ADAMW8, spread, p8), apart = 0,
           worst = 0;
    for (int i = 0; i < WIDTH; i++) {
        double d = fabs((double)p[i] - (double)p8[i]);
        apart += d * d / WIDTH;
        worst = fmax(worst, d);
    }
    ck_assert_msg(loss8 <= 1.1 * loss, "loss %g, in fp32 %g", loss8, loss);
    ck_assert_msg(sqrt(apart) < 0.005 && worst < 0.03, "parameters are %g apart, at most %g", sqrt(apart), worst);
    ck_assert_double_gt(apart, 0); /* the two computations differ */
    free(p), free(p8);
}
END_TEST

int main(void)
{
    if (!flat_start())
        return 77;
    Suite *suite = suite_create("update");
    TCase *tcase = tcase_create("update");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, test_levels, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_large, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_many, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_master_is_param, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_padding, 0, flat_level_count);
    tcase_add_test(tcase, test_definition);
    tcase_add_test(tcase, test_block8_definition);
    tcase_add_loop_test(tcase, test_block8_kept, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_block8_tiny, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_torch, 0, flat_level_count);
    tcase_add_loop_test(tcase, test_block8_quality, 0, 2);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
