/* SPDX-License-Identifier: Apache-2.0 */
/* engine_scale.c - the loss scale: the numbers of PyTorch's GradScaler, the bits of an engine without one, real
 * overflows of fp16, and the end of a scale that cannot shrink. */
#include "tests/emulated.h"
#include "tests/engine_small.h"
#include "tests/engine_suites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/golden/scaler.h"

/* Runs two engines of the same ranks side by side, or one if the second case is NULL. */
typedef struct both {
    const small_case_t *first, *second;
    int (*body)(small_t *a, small_t *b, void *arg);
    void *arg;
} both_t;

static int run_both(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const both_t *both = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t a = {0}, b = {0};
    (void)rank, (void)world;
    int result = !comm || small_start(&a, both->first, comm) || (both->second && small_start(&b, both->second, comm)) ||
                 both->body(&a, &b, both->arg);
    small_destroy(&b);
    small_destroy(&a);
    zero_comm_destroy(comm);
    return result;
}

static void try_both(const small_case_t *first, const small_case_t *second, int (*body)(small_t *, small_t *, void *),
                     void *arg)
{
    both_t both = {first, second, body, arg};
    ck_assert_int_eq(ranks_run(first->world, 120, run_both, &both), 0);
}

/* ---- PyTorch's numbers ------------------------------------------------------------------------------------------ */

static void golden_config(zero_config_t *config, void *ctx)
{
    const golden_t *g = ctx;
    config->loss_scale = g->loss_scale;
    config->growth_factor = g->growth_factor;
    config->backoff_factor = g->backoff_factor;
    config->growth_interval = g->growth_interval;
}

/* A step without gradients, but for an infinite one of the last rank. */
static int bare_step(small_t *s, bool infinite)
{
    const float bad = infinite && s->rank == s->c.world - 1 ? INFINITY : 0;
    SMALL_TRY(zero_micro_begin(s->engine, s->train, ZERO_LAST));
    for (int use = 0; use < 2; use++) { /* the second one has gradients */
        SMALL_TRY(zero_acquire(s->engine, s->unit[0]));
        if (use == 1 && small_copy(s, zero_param_grad(s->engine, s->param[0]), &bad, sizeof bad))
            return -1;
        SMALL_TRY(zero_release(s->engine, s->unit[0]));
    }
    SMALL_TRY(zero_micro_end(s->engine));
    SMALL_TRY(zero_step(s->engine, 0.01));
    return 0;
}

static int follow_golden(small_t *s, small_t *unused, void *arg)
{
    const golden_t *g = arg;
    zero_stats_t stats;
    int64_t skipped = 0;
    (void)unused;
    for (int step = 0; step < STEPS; step++) {
        float scale, again;
        const bool bad = g->skipped[step] == 'x';
        skipped += bad;
        SMALL_TRY(zero_loss_scale(s->engine, &scale));
        if (bare_step(s, bad) || small_stats(s, &stats))
            return -1;
        if (scale != g->scale[step] || stats.loss_scale != g->scale[step] || stats.applied == bad ||
            stats.skipped != skipped)
            return small_complain(s, "%s, step %d: the scale is %a, and %a in the statistics, not %a; applied %d",
                                  g->name, step, scale, stats.loss_scale, g->scale[step], stats.applied);
        SMALL_TRY(zero_loss_scale(s->engine, &again));
        SMALL_IS(step + 1 == STEPS || again == g->scale[step + 1]);
    }
    return 0;
}

/* Every stage with every placement. */
START_TEST(scales_are_pytorchs)
{
    const bool emulated = emulated_plugins();
    setenv("ZERO_EMULATOR", "threads", 1);
    for (int where = 0; where < SMALL_PLACES; where++) {
        const golden_t *g = &goldens[where % 2];
        small_case_t c = {.world = 1 + (_i + where) % 4,
                          .stage = _i,
                          .threaded = (_i + where / 2) % 4,
                          .micro_steps = 1,
                          .place = (small_place_t)where,
                          .edit = golden_config,
                          .ctx = (void *)(uintptr_t)g};
        if (c.threaded < SMALL_CUDA || emulated)
            try_both(&c, NULL, follow_golden, c.ctx);
    }
}
END_TEST

/* ---- the same bits ---------------------------------------------------------------------------------------------- */

typedef struct variant {
    zero_reduce_t reduce;
    zero_dtype_t wire;
    double scale; /* 1: none */
} variant_t;

static void edit(zero_config_t *config, void *ctx)
{
    const variant_t *v = ctx;
    config->reduce = v->reduce;
    config->reduce_dtype = v->wire;
    config->clip = 0.5;
    config->loss_scale = v->scale;
    if (v->scale != 1)
        config->growth_interval = 2;
}

/* Some steps have infinite gradients, and some have weights. */
static int equal_bits(small_t *a, small_t *b, void *arg)
{
    small_states_t states[2];
    zero_stats_t stats[2];
    small_t *both[2] = {a, b}, *s = b;
    int result = 0;
    (void)arg;
    for (int step = 0; step < 6; step++) {
        for (int k = 0; k < 2; k++) {
            both[k]->infinite = step == 1;
            if (small_micros(both[k], step) ||
                (step >= 3 && zero_step_weight(both[k]->engine, step == 5 ? 0 : 3 + a->rank) != ZERO_OK) ||
                zero_step(both[k]->engine, 0.01) != ZERO_OK || small_stats(both[k], &stats[k]))
                return small_complain(both[k], "step %d: %s", step, zero_last_error(both[k]->engine));
        }
        SMALL_IS(memcmp(&stats[0].grad_norm, &stats[1].grad_norm, sizeof(double)) == 0);
        SMALL_IS(stats[0].clip_factor == stats[1].clip_factor && stats[0].applied == stats[1].applied);
        SMALL_IS(stats[0].loss_scale == 1 && stats[1].loss_scale > 1);
        SMALL_IS(step == 1 || step == 5 || stats[0].clip_factor < 1);
    }
    SMALL_IS(stats[0].skipped == 1 && stats[1].skipped == 1);
    /* 2^20, halved at step 1, doubled after steps 3 and 5 */
    SMALL_IS(stats[1].loss_scale == 0x1p20);
    if (small_read(a, &states[0]))
        return -1;
    result = small_read(b, &states[1]) || small_compare(b, &states[0], &states[1], "with and without a loss scale");
    for (int k = 0; k < 2; k++)
        small_forget(&states[k]);
    return result;
}

START_TEST(powers_of_two_change_no_bits)
{
    static const zero_rule_t rules[] = {ZERO_RULE_ADAMW, ZERO_RULE_SGD, ZERO_RULE_ADAMW8, ZERO_RULE_LION};
    const bool emulated = emulated_plugins();
    setenv("ZERO_EMULATOR", "inline", 1);
    for (int where = 0; where < SMALL_PLACES; where++) {
        const int turn = _i + where;
        variant_t none = {turn / 2 % 2, turn % 3 == 1 ? ZERO_BF16 : ZERO_FP32, 1}, scaled = none;
        scaled.scale = 0x1p20;
        small_case_t c = {.world = 1 + (turn + _i) % 4,
                          .stage = _i,
                          .threaded = (turn / 2) % 4,
                          .micro_steps = 1 + turn % 2,
                          .dtype = where % 3 == 2 ? ZERO_BF16 : ZERO_FP32,
                          .rule = rules[turn % 4],
                          .momentum = 0.9,
                          .place = (small_place_t)where,
                          .edit = edit,
                          .ctx = &none};
        small_case_t d = c;
        d.ctx = &scaled;
        d.folder = "scale.nvme";
        if (c.threaded < SMALL_CUDA || emulated)
            try_both(&c, &d, equal_bits, NULL);
    }
}
END_TEST

/* ---- fp16 ------------------------------------------------------------------------------------------------------- */

/* Scaled gradients of fp16 overflow until the scale is small enough. */
static void fp16_config(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->loss_scale = 0x1p20;
    config->growth_interval = 3;
    config->persist_bytes = 0;
}

enum { FP16_STEPS = 14 };
typedef struct record {
    bool there;
    float scale[FP16_STEPS];
    double norm[FP16_STEPS];
    float values[SMALL_PARAMS][ZERO_STATE_MOMENT2 + 1][SMALL_ELEMENTS];
} record_t;

/* The first case of a world writes the record, the others have the same bits. */
static int overflow(small_t *s, small_t *unused, void *arg)
{
    record_t *r = arg;
    const bool writes = !r->there;
    small_states_t states, wanted = {0};
    double sync = 0;
    zero_stats_t stats;
    int result = 0, skipped = 0;
    (void)unused;
    SMALL_TRY(zero_sum(s->engine, &sync, 1)); /* every rank has looked at r->there */
    for (int step = 0; step < FP16_STEPS; step++) {
        if (small_step(s, step) || small_stats(s, &stats))
            return -1;
        skipped += !stats.applied;
        if (writes && s->rank == 0) {
            r->scale[step] = (float)stats.loss_scale;
            r->norm[step] = stats.grad_norm;
        } else if (!writes && (r->scale[step] != stats.loss_scale || (r->norm[step] != stats.grad_norm)))
            return small_complain(s, "step %d has the scale %g and the norm %.17g, not %g and %.17g", step,
                                  stats.loss_scale, stats.grad_norm, r->scale[step], r->norm[step]);
    }
    SMALL_IS(skipped > 2 && skipped < FP16_STEPS - 6 && stats.loss_scale < 0x1p20);
    if (small_read(s, &states))
        return -1;
    for (int p = 0; p < SMALL_PARAMS && result == 0; p++)
        for (int k = 0; k <= ZERO_STATE_MOMENT2; k++) {
            if (writes && s->rank == 0 && states.values[p][k])
                memcpy(r->values[p][k], states.values[p][k], (size_t)small_params[p].count * sizeof(float));
            wanted.values[p][k] = writes || !states.values[p][k] ? NULL : r->values[p][k];
        }
    result = small_compare(s, &wanted, &states, "fp16 at another stage or place");
    small_forget(&states);
    r->there = true;
    return result;
}

START_TEST(fp16_overflows_alike_everywhere)
{
    const bool emulated = emulated_plugins();
    const int world = 1 + _i;
    setenv("ZERO_EMULATOR", "inline", 1);
    record_t *record = ranks_shared(sizeof *record);
    for (int turn = 0; turn < SMALL_PLACES + 2; turn++) {
        small_case_t c = {.world = world,
                          .stage = turn % 4,
                          .threaded = (turn + turn / 4) % 4,
                          .micro_steps = 2,
                          .dtype = ZERO_FP16,
                          .place = (small_place_t)(turn % SMALL_PLACES),
                          .edit = fp16_config};
        if (c.threaded < SMALL_CUDA || emulated)
            try_both(&c, NULL, overflow, record);
    }
    ranks_unshare(record, sizeof *record);
}
END_TEST

/* ---- a scale that cannot shrink --------------------------------------------------------------------------------- */

static void short_config(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->loss_scale = 6;
    config->growth_interval = 2;
    config->hysteresis = 2;
    config->min_loss_scale = 2;
}

static int expect_scale(small_t *s, float wanted)
{
    float scale;
    SMALL_TRY(zero_loss_scale(s->engine, &scale));
    if (scale != wanted)
        return small_complain(s, "the scale is %g, not %g", scale, wanted);
    return 0;
}

static int exhaust(small_t *s, small_t *unused, void *arg)
{
    /* the scale after each step: it shrinks at the second overflow, and at each one that follows before it has grown */
    static const struct {
        bool infinite;
        float after; /* 0: it cannot shrink */
    } steps[] = {{true, 6},  {false, 6}, {true, 3},  {true, 2},  {true, 0}, {true, 0},
                 {false, 2}, {false, 4}, {false, 4}, {false, 8}, {true, 8}, {true, 4},
                 {false, 4}, {true, 2},  {true, 0},  {false, 2}, {false, 4}};
    zero_error_t failure;
    float scale;
    char sentence[40];
    (void)unused, (void)arg;
    if (expect_scale(s, 6))
        return -1;
    for (int i = 0; i < (int)(sizeof steps / sizeof steps[0]); i++) {
        if (bare_step(s, steps[i].infinite))
            return -1;
        if (steps[i].after > 0) {
            if (expect_scale(s, steps[i].after))
                return -1;
            continue;
        }
        snprintf(sentence, sizeof sentence, "`step %d` 'a' 2 config.min_loss_scale", i + 1);
        SMALL_FAILS(zero_loss_scale(s->engine, &scale), ZERO_ERR_ARG, sentence);
        SMALL_IS(zero_last_failure(s->engine, &failure) == ZERO_ERR_ARG && failure.reason == ZERO_REASON_LOSS_SCALE);
    }
    return 0;
}

START_TEST(a_scale_that_cannot_shrink)
{
    small_case_t c = {.world = 1 + _i, .stage = 3 * _i, .threaded = _i, .micro_steps = 1, .edit = short_config};
    try_both(&c, NULL, exhaust, NULL);
}
END_TEST

/* The usual minimum, from the usual initial scale: 2^-24 overflows, too. */
static void usual_config(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->loss_scale = 65536;
    config->growth_interval = 2000;
}

static int fall(small_t *s, small_t *unused, void *arg)
{
    float scale;
    (void)unused, (void)arg;
    for (int i = 0; i <= 40; i++)
        if (expect_scale(s, ldexpf(1, 16 - i)) || bare_step(s, true))
            return -1;
    SMALL_FAILS(zero_loss_scale(s->engine, &scale), ZERO_ERR_ARG, "`step 41` 'a' 5.96046e-08 config.min_loss_scale");
    return 0;
}

START_TEST(the_usual_minimum)
{
    small_case_t c = {.world = 2, .stage = 2, .micro_steps = 1, .edit = usual_config};
    try_both(&c, NULL, fall, NULL);
}
END_TEST

/* A fixed scale stays what it is, also one that is no power of two. */
static void fixed_config(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->loss_scale = 1000.1;
    config->min_loss_scale = 2000; /* of a dynamic scale alone */
}

static int stay(small_t *s, small_t *unused, void *arg)
{
    zero_stats_t stats;
    (void)unused, (void)arg;
    for (int i = 0; i < 5; i++) {
        if (expect_scale(s, 1000.1f) || bare_step(s, i % 2) || small_stats(s, &stats))
            return -1;
        SMALL_IS(stats.loss_scale == (double)1000.1f && stats.applied == (i % 2 == 0));
    }
    return expect_scale(s, 1000.1f);
}

START_TEST(a_fixed_scale)
{
    small_case_t c = {.world = 2, .stage = 1, .micro_steps = 1, .edit = fixed_config};
    try_both(&c, NULL, stay, NULL);
}
END_TEST

Suite *engine_scale_suite(void)
{
    Suite *suite = suite_create("scale");
    TCase *t = tcase_create("scale");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, scales_are_pytorchs, 0, 4);
    tcase_add_loop_test(t, powers_of_two_change_no_bits, 0, 4);
    tcase_add_loop_test(t, fp16_overflows_alike_everywhere, 0, 4);
    tcase_add_loop_test(t, a_scale_that_cannot_shrink, 0, 2);
    tcase_add_test(t, the_usual_minimum);
    tcase_add_test(t, a_fixed_scale);
    suite_add_tcase(suite, t);
    return suite;
}
