/* SPDX-License-Identifier: Apache-2.0 */
/* save_kept.c - what a run saves is loaded again: the state of every optimizer, into another world, and while a save
 * runs; and it is in the way of a run that is not so far. */
#include "tests/save_suites.h"

#include <stdio.h>
#include <unistd.h>

/* ---- every optimizer -------------------------------------------------------------------------------------------- */

static int save_and_go_on(small_t *s)
{
    for (int i = 0; i < 2; i++)
        if (save_step(s, i))
            return -1;
    if (save_open(s) || save_look(s, save_before, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    for (int i = 2; i < 4; i++)
        if (save_step(s, i))
            return -1;
    return save_look(s, save_after, false) || save_finish(s, 2) ? -1 : 0;
}

static int load_only(small_t *s)
{
    SMALL_TRY(save_load(s));
    return save_look(s, save_before, true);
}

static int load_and_go_on(small_t *s)
{
    if (load_only(s))
        return -1;
    for (int i = 2; i < 4; i++)
        if (save_step(s, i))
            return -1;
    return save_look(s, save_after, true);
}

START_TEST(test_rules)
{
    static const save_run_t rules[] = {
        {.rule = ZERO_RULE_ADAMW, .beta1 = 0.9},
        {.rule = ZERO_RULE_ADAM, .beta1 = 0.9},
        {.rule = ZERO_RULE_SGD, .beta1 = 0},
        {.rule = ZERO_RULE_SGD, .beta1 = 0.9},
        {.rule = ZERO_RULE_LION, .beta1 = 0.9},
        {.rule = ZERO_RULE_ADAMW8, .beta1 = 0.9},
        {.rule = ZERO_RULE_MUON, .beta1 = 0.9},
        {.rule = ZERO_RULE_MUON, .beta1 = 0.9, .elementwise = true},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9, .update_states = 1},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9, .update_states = 2},
    };
    for (int i = 0; i < (int)(sizeof rules / sizeof rules[0]); i++) {
        save_run_t r = rules[i], other = rules[i];
        r.world = 2 + i % 2;
        r.stage = i % 4;
        r.threaded = i % 3;
        r.dtype = i % 2 ? ZERO_BF16 : ZERO_FP32;
        r.guard = i % 3 == 1;
        other.dtype = r.dtype;
        other.world = 1 + (r.world + 1) % 4;
        other.stage = 3 - r.stage;
        save_run(&r, save_and_go_on);
        save_run(&r, load_and_go_on);
        r.scaled = true; /* by powers of two, which change no bits */
        save_run(&r, load_and_go_on);
        save_run(&other, load_only);
        save_teardown();
        save_setup();
    }
}
END_TEST

static int save_only(small_t *s)
{
    if (save_look(s, save_before, false) || save_open(s))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    return save_finish(s, 0);
}

/* A load that does not fit changes nothing. */
static int refuse(small_t *s, const char *part)
{
    if (save_look(s, save_after, false))
        return -1;
    SMALL_FAILS(save_load(s), ZERO_ERR_ARG, part);
    return save_look(s, save_after, true) || save_step(s, 0) ? -1 : 0;
}
static int refuse_second(small_t *s)
{
    return refuse(s, "moment2");
}
static int refuse_first(small_t *s)
{
    return refuse(s, "moment1");
}

/* A model that is only evaluated has parameters and no other state. */
START_TEST(test_evaluates)
{
    save_run_t r = {.world = 3, .stage = 3, .beta1 = 0.9, .dtype = ZERO_BF16, .evaluates = true};
    save_run(&r, save_only);
    r.world = 2, r.stage = 0;
    save_run(&r, load_only);
    r.evaluates = false;
    save_run(&r, refuse_first);
}
END_TEST

START_TEST(test_other_states)
{
    save_run_t r = {.world = 2, .stage = 3, .rule = ZERO_RULE_MUON, .beta1 = 0.9, .elementwise = true};
    save_run(&r, save_and_go_on);
    r.elementwise = false; /* its momentum is not AdamW's */
    save_run(&r, refuse_second);
    save_teardown();
    save_setup();
    save_run(&r, save_and_go_on);
    r.elementwise = true;
    save_run(&r, refuse_second);
    save_teardown();
    save_setup();
    r = (save_run_t){.world = 2, .stage = 1, .rule = ZERO_RULE_SGD, .beta1 = 0};
    save_run(&r, save_and_go_on);
    r.beta1 = 0.9;
    save_run(&r, refuse_first);
    save_teardown();
    save_setup();
    save_run(&r, save_and_go_on);
    r.beta1 = 0; /* needs none */
    r.evaluates = true;
    save_run(&r, save_load_it);
}
END_TEST

/* ---- frozen parameters that are kept elsewhere ------------------------------------------------------------------ */

/* Loads, with other values of the frozen parameter before. Sets *stays: they are still there after it. */
static int load_over(small_t *s, bool *stays)
{
    float values[40], found[40];
    for (int i = 0; i < 40; i++)
        values[i] = 3;
    SMALL_TRY(zero_param_set(s->engine, s->param[F], ZERO_STATE_PARAM, ZERO_FP32, values));
    SMALL_TRY(save_load(s));
    SMALL_TRY(zero_param_get(s->engine, s->param[F], ZERO_STATE_PARAM, ZERO_FP32, found));
    *stays = memcmp(found, values, sizeof values) == 0;
    return 0;
}

static int load_kept(small_t *s)
{
    bool stays;
    if (load_over(s, &stays))
        return -1;
    SMALL_IS(stays);
    SMALL_TRY(zero_param_fill(s->engine, s->param[F], save_fill, NULL));
    if (save_look(s, save_before, true))
        return -1;
    for (int i = 2; i < 4; i++)
        if (save_step(s, i))
            return -1;
    return save_look(s, save_after, true);
}

static int load_saved(small_t *s)
{
    bool stays;
    if (load_over(s, &stays))
        return -1;
    SMALL_IS(!stays);
    return save_look(s, save_before, true);
}

static int refuse_frozen(small_t *s)
{
    return refuse(s, "no parameter 'frozen'");
}

START_TEST(test_frozen_apart)
{
    save_run_t r = {.world = 2, .stage = 2 * _i, .beta1 = 0.9, .dtype = ZERO_BF16, .threaded = 2 * _i, .apart = true};
    if (_i == 2)
        r.stage = 3;
    save_run(&r, save_and_go_on);
    save_run(&r, load_kept);
    r.apart = false; /* it wants all parameters */
    save_run(&r, refuse_frozen);
    save_teardown();
    save_setup();
    save_run(&r, save_and_go_on);
    r.apart = true; /* takes what the checkpoint has */
    save_run(&r, load_saved);
}
END_TEST

/* ---- while a save runs ------------------------------------------------------------------------------------------ */

static int change_all(small_t *s)
{
    static float values[SAVE_MOST];
    for (int i = 0; i < 2; i++)
        if (save_step(s, i))
            return -1;
    if (save_open(s) || save_look(s, save_before, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, "abc", 3));
    SMALL_TRY(zero_param_set(s->engine, s->param[W], ZERO_STATE_PARAM, ZERO_FP32, values));
    SMALL_TRY(zero_param_set(s->engine, s->param[E], ZERO_STATE_MOMENT1, ZERO_FP32, values));
    SMALL_TRY(zero_param_fill(s->engine, s->param[F], save_fill, NULL));
    SMALL_TRY(zero_set_step(s->engine, 70, 60));
    if (save_step(s, 3))
        return -1;
    return save_finish(s, 2);
}

static int load_while_saving(small_t *s)
{
    zero_save_options_t options;
    char path[100];
    zero_stats_t stats = {.size = sizeof stats};
    zero_save_options_init(&options);
    options.folder = save_folder;
    options.keep = 1;
    SMALL_TRY(save_load(s));
    SMALL_TRY(zero_save_open(s->engine, &options));
    if (save_step(s, 2) || save_look(s, save_after, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    SMALL_TRY(save_load(s)); /* the older one */
    SMALL_TRY(zero_step_stats(s->engine, &stats));
    SMALL_IS(stats.step == 2);
    if (save_look(s, save_before, true) || save_finish(s, 3))
        return -1;
    snprintf(path, sizeof path, "%s/step-2", save_folder);
    SMALL_IS(access(path, F_OK) != 0); /* a call that waits also waits for the end of that */
    SMALL_TRY(save_load(s));
    return save_look(s, save_after, true);
}

START_TEST(test_beside)
{
    for (int i = 0; i < 4; i++) {
        save_run_t r = {
            .world = 1 + i, .stage = i, .threaded = i % 3, .beta1 = 0.9, .dtype = i % 2 ? ZERO_BF16 : ZERO_FP32};
        save_run(&r, change_all);
        save_run(&r, load_while_saving);
        save_teardown();
        save_setup();
    }
}
END_TEST

/* ---- a folder with a later step --------------------------------------------------------------------------------- */

static int refuse_later(small_t *s)
{
    zero_save_options_t options;
    char path[100];
    zero_save_options_init(&options);
    options.folder = save_folder;
    SMALL_FAILS(zero_save_open(s->engine, &options), ZERO_ERR_ARG, "step 2, load");
    SMALL_TRY(zero_sum(s->engine, &(double){0}, 1));
    snprintf(path, sizeof path, "%s/step-2/manifest.json", save_folder);
    SMALL_IS(s->rank > 0 || truncate(path, 10) == 0);
    SMALL_FAILS(zero_save_open(s->engine, &options), ZERO_ERR_ARG, "damaged step 2, remove");
    return 0;
}

/* A folder with a later step, which is whole, or damaged and so cannot be loaded. */
START_TEST(test_later)
{
    save_run_t r = {.world = 2, .stage = 1, .beta1 = 0.9};
    save_run(&r, save_and_go_on);
    save_run(&r, refuse_later);
}
END_TEST

Suite *save_kept_suite(void)
{
    Suite *suite = suite_create("save_kept");
    TCase *tcase = tcase_create("save_kept");
    tcase_set_timeout(tcase, 600);
    tcase_add_checked_fixture(tcase, save_setup, save_teardown);
    tcase_add_test(tcase, test_rules);
    tcase_add_test(tcase, test_evaluates);
    tcase_add_test(tcase, test_other_states);
    tcase_add_loop_test(tcase, test_frozen_apart, 0, 3);
    tcase_add_test(tcase, test_beside);
    tcase_add_test(tcase, test_later);
    suite_add_tcase(suite, tcase);
    return suite;
}
