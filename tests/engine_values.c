/* SPDX-License-Identifier: Apache-2.0 */
/* engine_values.c - whole parameters, gradients and moments through zero_param_get and zero_param_set, for every
 * placement of the state. */
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/engine_small.h"
#include "tests/engine_suites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) SMALL_TRY(call)
#define IS(condition) SMALL_IS(condition)

/* ---- there and back --------------------------------------------------------------------------------------------- */

/* Copies all states from one engine to another. */
static int write_states(small_t *s, const small_states_t *states)
{
    for (int p = SMALL_PARAMS - 1; p >= 0; p--)
        for (int state = ZERO_STATE_MOMENT2; state >= 0; state--)
            if (states->values[p][state] && (state != ZERO_STATE_PARAM || !small_params[p].trainable))
                TRY(zero_param_set(s->engine, s->param[p], (zero_state_t)state, ZERO_FP32, states->values[p][state]));
    return 0;
}

static int same_stats(small_t *s, small_t *other)
{
    zero_stats_t a, b;
    if (small_stats(s, &a) || small_stats(other, &b))
        return -1;
    IS(a.step == b.step && a.skipped == b.skipped && a.applied == b.applied);
    IS(memcmp(&a.grad_norm, &b.grad_norm, sizeof a.grad_norm) == 0 &&
       memcmp(&a.clip_factor, &b.clip_factor, sizeof a.clip_factor) == 0);
    return 0;
}

static int same_states(small_t *s, small_t *other, const char *when)
{
    small_states_t a, b;
    int result = small_read(s, &a) || small_read(other, &b) ? -1 : small_compare(s, &a, &b, when);
    small_forget(&a);
    small_forget(&b);
    return result;
}

/* Initial values that are set equal those that are filled. */
static int set_is_fill(small_t *s, small_t *filled)
{
    static float values[SMALL_ELEMENTS];
    for (int p = 0; p < SMALL_PARAMS; p++) {
        for (int64_t i = 0; i < small_params[p].count; i++)
            values[i] = small_initial(p, i);
        TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_FP32, small_params[p].count ? values : NULL));
        memset(values, 0xff, sizeof values); /* the engine has kept no pointer to them */
    }
    return same_states(filled, s, "after the values were set, not filled") || small_step(s, 1) ||
                   small_step(filled, 1) || same_stats(filled, s) ||
                   same_states(filled, s, "a step after the values were set, not filled")
               ? -1
               : 0;
}

/* Reads each gradient, sets it to other values, and sets it back. */
static int gradients_there_and_back(small_t *s)
{
    static float values[SMALL_PARAMS][SMALL_ELEMENTS], other[SMALL_ELEMENTS];
    for (int p = 0; p < SMALL_PARAMS; p++)
        if (small_params[p].trainable)
            TRY(zero_param_get(s->engine, s->param[p], ZERO_STATE_GRAD, ZERO_FP32, values[p]));
    for (int i = 0; i < SMALL_ELEMENTS; i++)
        other[i] = 3;
    for (int p = 0; p < SMALL_PARAMS; p++)
        if (small_params[p].trainable)
            TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_GRAD, ZERO_FP32, other));
    TRY(zero_param_get(s->engine, s->param[SMALL_BIG], ZERO_STATE_GRAD, ZERO_FP32, other));
    for (int64_t i = 0; i < small_params[SMALL_BIG].count; i++)
        IS(other[i] == 3);
    for (int p = SMALL_PARAMS - 1; p >= 0; p--)
        if (small_params[p].trainable)
            TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_GRAD, ZERO_FP32, values[p]));
    return 0;
}

/* Sets gradients with a known norm: 0.5 in one parameter, 0.25 in another, 0 in the others. */
static int gradients_of_ones_own(small_t *s, int64_t step)
{
    static float values[SMALL_ELEMENTS];
    zero_stats_t stats;
    double squares = 0;
    if (small_micros(s, step))
        return -1;
    for (int p = 0; p < SMALL_PARAMS; p++) {
        float x = p == SMALL_BIG ? 0.5f : p == 1 ? 0.25f : 0;
        for (int i = 0; i < SMALL_ELEMENTS; i++)
            values[i] = x;
        squares += (double)small_params[p].count * x * x;
        if (small_params[p].trainable)
            TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_GRAD, ZERO_FP32, values));
    }
    /* with grad_scale; squares is exact. Weights 1, 2, 3 ... divide it by their sum; in one step all are 0 */
    const double sum = s->c.world * (s->c.world + 1) / 2.0;
    const double scale = step % 3 == 0 ? 0.5 : step % 3 == 1 ? 0.5 / sum : 0;
    const double weight = step % 3 == 0 ? -1 : step % 3 == 1 ? sum : 0;
    if (step % 3 > 0)
        TRY(zero_step_weight(s->engine, step % 3 == 1 ? s->rank + 1 : 0));
    TRY(zero_step(s->engine, 0.01));
    if (small_stats(s, &stats))
        return -1;
    if (stats.grad_norm != sqrt(squares) * scale || stats.weight != weight)
        return small_complain(s, "the norm of gradients that were set is %.17g, not %.17g; the weight is %g, not %g",
                              stats.grad_norm, sqrt(squares) * scale, stats.weight, weight);
    return 0;
}

/* Reads narrower dtypes, one of them on the last rank only. Values that are read as a narrow dtype and set again give
 * these values. */
static int narrow_values(small_t *s)
{
    static float wide[SMALL_ELEMENTS];
    static uint16_t bf16[SMALL_ELEMENTS], fp16[SMALL_ELEMENTS];
    bool wanted = s->rank == s->c.world - 1;
    for (int p = 0; p < SMALL_PARAMS; p++) {
        int64_t count = small_params[p].count;
        TRY(zero_param_get(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_FP32, wide));
        TRY(zero_param_get(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_BF16, wanted ? bf16 : NULL));
        TRY(zero_param_get(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_FP16, wanted ? NULL : fp16));
        for (int64_t i = 0; i < count; i++)
            IS(wanted ? bf16[i] == zero_fp32_to_bf16(wide[i]) : fp16[i] == zero_fp32_to_fp16(wide[i]));
        for (int64_t i = 0; i < count; i++)
            fp16[i] = zero_fp32_to_fp16(wide[i]);
        TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_FP16, fp16));
        TRY(zero_param_get(s->engine, s->param[p], small_params[p].trainable ? ZERO_STATE_MASTER : ZERO_STATE_PARAM,
                           ZERO_FP32, wide));
        for (int64_t i = 0; i < count; i++) {
            float x = zero_fp16_to_fp32(fp16[i]);
            IS(wide[i] == (small_params[p].trainable || small_params[p].fp32 || s->c.dtype == ZERO_FP32
                               ? x
                               : zero_bf16_to_fp32(zero_fp32_to_bf16(x))));
        }
    }
    return 0;
}

/* The next pass reads the values that were set. */
static int passes_read_what_was_set(small_t *s)
{
    static float values[SMALL_ELEMENTS];
    static char there[sizeof values];
    for (int i = 0; i < SMALL_ELEMENTS; i++)
        values[i] = (float)(i % 200) / 4;
    for (int p = 0; p < SMALL_PARAMS; p++)
        TRY(zero_param_set(s->engine, s->param[p], ZERO_STATE_PARAM, ZERO_FP32, values));
    TRY(zero_micro_begin(s->engine, s->eval, 0));
    for (int u = 0; u < SMALL_UNITS; u++) {
        TRY(zero_acquire(s->engine, s->unit[u]));
        for (int p = 0; p < SMALL_PARAMS; p++) {
            bool bf16 = s->c.dtype == ZERO_BF16 && !small_params[p].fp32;
            int64_t count = small_params[p].unit == u ? small_params[p].count : 0;
            if (count > 0 &&
                small_copy(s, there, zero_param_data(s->engine, s->param[p]), (size_t)count * (bf16 ? 2 : 4)))
                return -1;
            for (int64_t i = 0; i < count; i++)
                IS((bf16 ? zero_bf16_to_fp32(((const uint16_t *)(const void *)there)[i])
                         : ((const float *)(const void *)there)[i]) == values[i]);
        }
        TRY(zero_release(s->engine, s->unit[u]));
    }
    TRY(zero_micro_end(s->engine));
    return 0;
}

static int there_and_back(small_t *s, small_t *other)
{
    small_states_t states = {0};
    if (zero_commit(other->engine) != ZERO_OK || set_is_fill(other, s) || small_step(s, 2) || small_step(s, 3) ||
        small_read(s, &states))
        goto fail;
    /* the other engine has taken one step, and continues from these states */
    if (write_states(other, &states) || zero_set_step(other->engine, 3, 3) != ZERO_OK ||
        same_states(s, other, "after the states were copied"))
        goto fail;
    small_forget(&states);
    if (small_step(s, 4) || small_step(other, 4) || same_stats(s, other) ||
        same_states(s, other, "a step after the states were copied") || small_step(s, 5) || small_micros(other, 5) ||
        gradients_there_and_back(other) || zero_step(other->engine, 0.01) != ZERO_OK || same_stats(s, other) ||
        same_states(s, other, "a step whose gradients were set") || gradients_of_ones_own(s, 6) ||
        gradients_of_ones_own(s, 7) || gradients_of_ones_own(s, 8) || narrow_values(s) || passes_read_what_was_set(s))
        goto fail;
    return 0;
fail:
    small_forget(&states);
    return small_complain(other, "so far, and: %s", zero_last_error(other->engine));
}

static int run_pair(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0}, other = {0};
    small_case_t c = *(const small_case_t *)arg, d = c;
    d.folder = "values.nvme";
    (void)rank, (void)world;
    int result = !comm || small_start(&s, &c, comm) || small_create(&other, &d, comm) || there_and_back(&s, &other);
    small_destroy(&other);
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

/* Every stage with every placement; ranks, dtypes, rules, threads and micro-steps vary so that any two levels meet. */
enum { CHUNKS = 8 };
START_TEST(states_go_there_and_back)
{
    static const struct {
        zero_rule_t rule;
        double momentum;
    } rules[] = {{ZERO_RULE_ADAMW, 0}, {ZERO_RULE_ADAMW8, 0}, {ZERO_RULE_SGD, 0}, {ZERO_RULE_SGD, 0.9}};
    bool emulated = emulated_plugins();
    setenv("ZERO_EMULATOR", _i % 2 ? "threads" : "inline", 1);
    for (int i = _i; i < 4 * SMALL_PLACES * 4; i += CHUNKS) {
        int stage = i % 4, where = i / 4 % SMALL_PLACES, turn = i / (4 * SMALL_PLACES),
            rule = (turn + stage + where) % 4;
        small_case_t c = {.world = 1 + (turn + where + stage / 2) % 3,
                          .stage = stage,
                          .threaded = (turn + 2 * stage + where) % 4,
                          .micro_steps = 1 + (turn / 2 + stage) % 2,
                          .dtype = (turn + where / 2) % 2 ? ZERO_BF16 : ZERO_FP32,
                          .rule = rules[rule].rule,
                          .momentum = rules[rule].momentum,
                          .place = (small_place_t)where};
        if (c.threaded < SMALL_CUDA || emulated)
            ck_assert_int_eq(ranks_run(c.world, 100, run_pair, &c), 0);
    }
}
END_TEST

/* More ranks, some of which own no element of many parameters. */
START_TEST(states_go_there_and_back_over_many_ranks)
{
    for (int world = 4; world <= 8; world++) {
        small_case_t c = {.world = world,
                          .stage = world % 4,
                          .threaded = world % 2,
                          .micro_steps = 1,
                          .dtype = world % 3 ? ZERO_BF16 : ZERO_FP32,
                          .rule = world == 7 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW,
                          .place = (small_place_t)(world % SMALL_PLACES)};
        ck_assert_int_eq(ranks_run(c.world, 100, run_pair, &c), 0);
    }
}
END_TEST

/* Setting gradients to their own values keeps the bits of the norm, even if part of the state ends inside a block of a
 * rank's slice. */
static int norms(small_t *s, small_t *other)
{
    zero_stats_t a, b;
    for (int step = 1; step <= 40; step++) {
        if (small_step(s, step) || small_micros(other, step) || gradients_there_and_back(other))
            return -1;
        TRY(zero_step(other->engine, 0.01));
        if (small_stats(s, &a) || small_stats(other, &b))
            return -1;
        if (memcmp(&a.grad_norm, &b.grad_norm, sizeof a.grad_norm) != 0)
            return small_complain(s, "step %d: the norm is %.17g, and %.17g after its gradients were set", step,
                                  a.grad_norm, b.grad_norm);
    }
    return 0;
}

/* The part ends in the second rank's slice. The first rank's slice begins at a block's boundary, as parts do. */
static void cut_second_slice(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->offload_ratio = 0.8;
}

static int run_norms(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0}, other = {0};
    const small_case_t c = {
        .world = world, .stage = 0, .micro_steps = 1, .place = SMALL_SHARE, .edit = cut_second_slice};
    (void)rank, (void)arg;
    int result = !comm || small_start(&s, &c, comm) || small_start(&other, &c, comm) || norms(&s, &other);
    small_destroy(&other);
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(norms_of_gradients_that_were_set)
{
    ck_assert_int_eq(ranks_run(2, 60, run_norms, NULL), 0);
}
END_TEST

/* ---- wrong calls ------------------------------------------------------------------------------------------------ */

#define FAILS(call, status, part) SMALL_FAILS(call, status, part)

static float some[SMALL_ELEMENTS];

static int before_and_between(small_t *s)
{
    FAILS(zero_param_get(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER,
          "zero_param_get zero_commit");
    FAILS(zero_param_set(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER,
          "zero_param_set zero_commit");
    TRY(zero_commit(s->engine));
    if (small_fill(s))
        return -1;
    FAILS(zero_param_get(s->engine, 99, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG, "`parameter 99`");
    FAILS(zero_param_get(s->engine, -1, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG, "`parameter -1`");
    FAILS(zero_param_get(s->engine, 0, (zero_state_t)9, ZERO_FP32, some), ZERO_ERR_ARG, "9");
    FAILS(zero_param_get(s->engine, 0, (zero_state_t)-1, ZERO_FP32, some), ZERO_ERR_ARG, "-1");
    FAILS(zero_param_set(s->engine, 0, ZERO_STATE_PARAM, ZERO_DTYPE_COUNT, some), ZERO_ERR_ARG, "3");
    FAILS(zero_param_set(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, NULL), ZERO_ERR_ARG, "");
    FAILS(zero_param_get(s->engine, s->param[SMALL_FROZEN], ZERO_STATE_MASTER, ZERO_FP32, some), ZERO_ERR_ARG, "'f.w'");
    FAILS(zero_param_set(s->engine, s->param[SMALL_FROZEN], ZERO_STATE_GRAD, ZERO_FP32, some), ZERO_ERR_ARG, "'f.w'");
    FAILS(zero_param_get(s->engine, 0, ZERO_STATE_MOMENT2, ZERO_FP32, some), ZERO_ERR_ARG, "2");
    FAILS(zero_param_get(s->engine, 0, ZERO_STATE_GRAD, ZERO_FP32, some), ZERO_ERR_ORDER, "");
    FAILS(zero_param_set(s->engine, 0, ZERO_STATE_GRAD, ZERO_FP32, some), ZERO_ERR_ORDER, "");
    TRY(zero_param_get(s->engine, s->param[SMALL_EMPTY], ZERO_STATE_MASTER, ZERO_FP32, NULL));
    TRY(zero_param_set(s->engine, s->param[SMALL_EMPTY], ZERO_STATE_MASTER, ZERO_FP32, NULL));
    TRY(zero_micro_begin(s->engine, s->eval, 0));
    FAILS(zero_param_get(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER, "'eval'");
    FAILS(zero_param_set(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER, "'eval'");
    TRY(zero_micro_end(s->engine));
    return 0;
}

/* One rank's call differs from the others': the sentences say which one, and how. */
static int apart(small_t *s)
{
    zero_engine_t *e = s->engine;
    bool odd = s->rank == 1;
    const char *other = "make the same call on every rank";
    FAILS(zero_param_get(e, odd, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG, other);
    FAILS(zero_param_get(e, 0, odd ? ZERO_STATE_MASTER : ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG, other);
    FAILS(odd ? zero_param_get(e, 0, ZERO_STATE_PARAM, ZERO_FP32, some)
              : zero_param_set(e, 0, ZERO_STATE_PARAM, ZERO_FP32, some),
          ZERO_ERR_ARG, other);
    FAILS(zero_param_get(e, odd ? 99 : 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG,
          odd ? "`parameter 99`" : "`rank 1`");
    FAILS(zero_param_set(e, 0, ZERO_STATE_PARAM, ZERO_FP32, odd ? NULL : some), ZERO_ERR_ARG, odd ? "" : "`rank 1`");
    FAILS(zero_param_get(e, 0, odd ? ZERO_STATE_GRAD : ZERO_STATE_PARAM, ZERO_FP32, some),
          odd ? ZERO_ERR_ORDER : ZERO_ERR_ARG, odd ? "" : "`rank 1`");
    /* one rank's value is the mean of all, so comparing with the mean would miss it */
    static const int param[] = {4, 5, 3, 4, 4}, state[] = {ZERO_STATE_MOMENT1, ZERO_STATE_PARAM, ZERO_STATE_MASTER,
                                                           ZERO_STATE_MASTER, ZERO_STATE_MASTER};
    FAILS(zero_param_get(e, param[s->rank], ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ARG, other);
    FAILS(zero_param_get(e, 4, state[s->rank], ZERO_FP32, some), ZERO_ERR_ARG, other);
    zero_stats_t stats;
    double values[1] = {1};
    if (small_step(s, 1) || small_stats(s, &stats))
        return -1;
    TRY(zero_sum(e, values, 1));
    return 0;
}

/* Other different collective calls are a failure, not misuse: later calls fail too. */
static int sum_and_set(small_t *s)
{
    double five[5] = {1, 2, 3, 4, 5};
    zero_status_t status =
        s->rank == 1 ? zero_sum(s->engine, five, 5) : zero_param_set(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some);
    IS(status == ZERO_ERR_MISMATCH || status == ZERO_ERR_PEER);
    FAILS(zero_sum(s->engine, five, 5), status, "`rank 1` zero_sum 5");
    FAILS(zero_sum(s->engine, five, 5), status, "zero_param_set 'a.w'");
    FAILS(zero_sum(s->engine, five, 5), status, "");
    return 0;
}

/* A rank inside a pass cannot take part in the others' call; when it ends, the others fail. */
static int inside_and_gone(small_t *s)
{
    zero_status_t status = s->rank == 1 ? zero_micro_begin(s->engine, s->train, ZERO_LAST) : ZERO_OK,
                  wanted = s->rank == 1 ? ZERO_ERR_ORDER : ZERO_ERR_PEER;
    if (status == ZERO_OK)
        status = zero_param_get(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, some);
    /* the pass's first gather may also meet the others' call; the ranks notice the difference */
    IS(status == wanted || status == ZERO_ERR_MISMATCH || status == ZERO_ERR_PEER);
    return 0;
}

/* Ranks that have left a call may not fail before the others have left it, too. */
static int meet(const zero_bootstrap_t *bootstrap)
{
    char mine = 0, all[8];
    return bootstrap->all_gather(bootstrap->ctx, &mine, all, sizeof mine);
}

typedef struct wrong {
    int threaded;
    bool mixed;
} wrong_t;

static int run_wrong(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const wrong_t *wrong = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0};
    const small_case_t c = {.world = world,
                            .stage = 3,
                            .threaded = wrong->threaded,
                            .micro_steps = 1,
                            .rule = ZERO_RULE_SGD,
                            .momentum = 0.9};
    (void)rank;
    int result =
        !comm || small_create(&s, &c, comm) || before_and_between(&s) ||
        (world > 4 && (apart(&s) || meet(bootstrap) || (wrong->mixed ? sum_and_set(&s) : inside_and_gone(&s))));
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(wrong_calls_are_refused_everywhere)
{
    for (int way = 0; way < 4; way++) {
        wrong_t wrong = {.threaded = way % 2, .mixed = way / 2};
        ck_assert_int_eq(ranks_run(1, 60, run_wrong, &wrong), 0);
        ck_assert_int_eq(ranks_run(5, 60, run_wrong, &wrong), 0);
    }
}
END_TEST

/* The engine needs the communicator of its config only until zero_commit. */
static int run_without(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0};
    zero_stats_t stats;
    const small_case_t c = {.world = world, .stage = 3, .threaded = *(int *)arg, .micro_steps = 1};
    (void)rank;
    int result = !comm || small_start(&s, &c, comm);
    zero_comm_destroy(comm);
    result = result || small_step(&s, 1) || small_step(&s, 2) || small_stats(&s, &stats);
    if (result == 0 && rank == 1)
        zero_abort(s.engine, "enough");
    result =
        result || (zero_micro_begin(s.engine, s.train, ZERO_LAST) == ZERO_OK && zero_micro_end(s.engine) == ZERO_OK &&
                   zero_step(s.engine, 0.1) == ZERO_OK && zero_step_stats(s.engine, &stats) == ZERO_OK);
    result = result || !has_names(zero_last_error(s.engine), "`rank 1`");
    small_destroy(&s);
    return result;
}

START_TEST(engines_outlive_the_communicator_that_was_given)
{
    for (int threaded = 0; threaded < 2; threaded++)
        ck_assert_int_eq(ranks_run(3, 60, run_without, &threaded), 0);
}
END_TEST

START_TEST(planning_has_no_values)
{
    zero_engine_t *e;
    zero_config_t config;
    zero_config_init(&config);
    config.plan_world = 3;
    ck_assert_int_eq(zero_create(&e, &config, NULL), ZERO_OK);
    ck_assert_int_eq(zero_commit(e), ZERO_OK);
    ck_assert_int_eq(zero_param_get(e, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER);
    ck_assert(has_names(zero_last_error(e), "zero_param_get"));
    ck_assert_int_eq(zero_param_set(e, 0, ZERO_STATE_PARAM, ZERO_FP32, some), ZERO_ERR_ORDER);
    ck_assert(has_names(zero_last_error(e), "config.plan_world"));
    zero_destroy(e);
}
END_TEST

Suite *engine_values_suite(void)
{
    Suite *suite = suite_create("values");
    TCase *t = tcase_create("values");
    tcase_set_timeout(t, 150);
    tcase_add_loop_test(t, states_go_there_and_back, 0, CHUNKS);
    tcase_add_test(t, states_go_there_and_back_over_many_ranks);
    tcase_add_test(t, norms_of_gradients_that_were_set);
    tcase_add_test(t, wrong_calls_are_refused_everywhere);
    tcase_add_test(t, planning_has_no_values);
    tcase_add_test(t, engines_outlive_the_communicator_that_was_given);
    suite_add_tcase(suite, t);
    return suite;
}
