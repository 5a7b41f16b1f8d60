/* SPDX-License-Identifier: Apache-2.0 */
/* api_calls.c - calls on one engine from its own callbacks, and from several threads. */
#include "tests/expect.h"
#include "tests/api_suites.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call) ck_assert_int_eq((call), ZERO_OK)

/* ---- from inside ------------------------------------------------------------------------------------------------ */

typedef struct inside {
    zero_engine_t *engine;
    int calls, refused, logged, result;
} inside_t;

/* Makes every call on the engine whose callback this is, and checks which of them are allowed there. */
static void call_back(inside_t *in)
{
    in->calls++;
    for (int i = 0; i < API_CALLS; i++) {
        if (api_calls[i].call(in->engine) != ZERO_ERR_ORDER)
            return;
        zero_error_t why;
        if (zero_last_failure(in->engine, &why) != ZERO_ERR_ORDER || why.reason != ZERO_REASON_ENGINE_BUSY)
            return;
    }
    zero_destroy(in->engine);
    zero_signal(in->engine, 4);
    if (zero_param_count(in->engine) == 1 && strcmp(zero_param_name(in->engine, 0), "w") == 0)
        in->refused++;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)param;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(begin + i);
    call_back(ctx);
    return ((inside_t *)ctx)->result;
}
static int take(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)param, (void)begin, (void)count, (void)values;
    call_back(ctx);
    return ((inside_t *)ctx)->result;
}
static void write_text(void *ctx, const char *text, size_t bytes)
{
    (void)text, (void)bytes;
    call_back(ctx);
}
static int update(void *ctx, const zero_update_args_t *args)
{
    for (int64_t i = 0; i < args->count; i++)
        args->master[i] -= (float)args->lr * ((const float *)args->grad)[i];
    call_back(ctx);
    return 0;
}
static void log_line(void *ctx, zero_log_level_t level, const char *text)
{
    inside_t *in = ctx;
    in->logged += level == ZERO_LOG_ERROR && has_names(text, "zero_destroy");
}

static void own_update(zero_config_t *config, void *ctx)
{
    config->rule = ZERO_RULE_CUSTOM;
    config->update = update;
    config->update_ctx = ctx;
    config->log = log_line;
    config->log_ctx = ctx;
}

/* The calls from the callback were refused, and the call that ran the callback was not. */
static void expect(inside_t *in, int at_least)
{
    ck_assert_int_ge(in->calls, at_least);
    ck_assert_int_eq(in->refused, in->calls);
    ck_assert_int_eq(in->logged, in->calls);
    ck_assert_str_eq(zero_last_error(in->engine), "");
    in->calls = in->refused = in->logged = 0;
}

START_TEST(functions_that_are_called_do_not_call_back)
{
    inside_t in = {.engine = NULL};
    api_engine_t a = api_make(0, own_update, &in);
    zero_engine_t *e = in.engine = a.engine;
    zero_stats_t stats = {.size = sizeof stats};
    OK(zero_commit(e));
    OK(zero_param_fill(e, 0, fill, &in));
    expect(&in, 1);
    OK(zero_param_read(e, 0, ZERO_STATE_PARAM, take, &in));
    expect(&in, 1);
    OK(zero_explain(e, write_text, &in));
    expect(&in, 3);
    OK(zero_micro_begin(e, 0, ZERO_LAST));
    OK(zero_micro_end(e));
    OK(zero_step(e, 0.1));
    expect(&in, 1);
    OK(zero_step_stats(e, &stats));
    ck_assert_uint_eq(stats.signals, 4);
    ck_assert(stats.applied && stats.step == 1);
    /* The callback calls the engine and then fails: the outer call's error remains. */
    in.result = -1;
    ck_assert_int_eq(zero_param_read(e, 0, ZERO_STATE_PARAM, take, &in), ZERO_ERR_IO);
    zero_error_t why;
    ck_assert_int_eq(zero_last_failure(e, &why), ZERO_ERR_IO);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_CALLBACK_FAILED, -1, "'w'");
    api_free(&a);
}
END_TEST

static int abort_inside(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)param, (void)begin;
    memset(out, 0, (size_t)count * sizeof *out);
    zero_abort(ctx, "enough");
    return 0;
}

/* zero_abort works inside a callback: the next call that talks to other ranks fails. */
START_TEST(callers_give_up_from_anywhere)
{
    api_engine_t a = api_make(0, NULL, NULL);
    double one = 1;
    OK(zero_commit(a.engine));
    zero_status_t status = zero_param_fill(a.engine, 0, abort_inside, a.engine);
    ck_assert(status == ZERO_OK || status == ZERO_ERR_PEER);
    ck_assert_int_eq(zero_sum(a.engine, &one, 1), ZERO_ERR_PEER);
    API_SAYS(zero_last_error(a.engine), "`rank 0`");
    ck_assert_int_eq(zero_wait(a.engine), ZERO_ERR_PEER);
    api_free(&a);
}
END_TEST

/* ---- from several threads --------------------------------------------------------------------------------------- */

enum { THREADS = 3, ROUNDS = 4000 };

typedef struct crowd {
    zero_engine_t *engine;
    atomic_int wrong, started, refused;
} crowd_t;

static void *hammer(void *arg)
{
    crowd_t *c = arg;
    unsigned state = (unsigned)atomic_fetch_add(&c->started, 1) * 7919u + 1;
    for (int i = 0; i < ROUNDS; i++) {
        state = state * 1664525u + 1013904223u; /* from Numerical Recipes */
        const api_call_t *call = &api_calls[(state >> 8) % API_CALLS];
        zero_status_t status = call->call(c->engine);
        if (status != ZERO_OK && status != ZERO_ERR_ORDER && status != call->after)
            atomic_fetch_add(&c->wrong, 1);
        if (!zero_last_error(c->engine)) /* do not read the text: another thread may be writing it */
            atomic_fetch_add(&c->wrong, 1);
        atomic_fetch_add(&c->refused, status == ZERO_ERR_ORDER);
        zero_signal(c->engine, 1);
        (void)zero_param_name(c->engine, 0);
    }
    return NULL;
}

/* Each call runs or is refused, whatever the other threads call. Afterwards the engine still trains. */
START_TEST(threads_take_turns_or_are_refused)
{
    api_engine_t a = api_make(0, NULL, NULL);
    crowd_t crowd = {.engine = a.engine};
    pthread_t threads[THREADS];
    OK(zero_commit(a.engine));
    for (int t = 0; t < THREADS; t++)
        ck_assert_int_eq(pthread_create(&threads[t], NULL, hammer, &crowd), 0);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    ck_assert_int_eq(atomic_load(&crowd.wrong), 0);
    ck_assert_int_gt(atomic_load(&crowd.refused), 0);
    /* Ends the step that the threads may have left open. */
    zero_release(a.engine, 0);
    zero_micro_end(a.engine);
    zero_step(a.engine, 0.1);
    OK(zero_micro_begin(a.engine, 0, ZERO_LAST));
    OK(zero_acquire(a.engine, 0));
    OK(zero_release(a.engine, 0));
    OK(zero_micro_end(a.engine));
    OK(zero_step(a.engine, 0.1));
    api_free(&a);
}
END_TEST

/* Another thread may call as soon as this thread's call has returned. A refusal is reported only to the refused
 * thread. */
typedef struct turn {
    zero_engine_t *engine;
    zero_status_t status;
    zero_error_t why;
} turn_t;
static void *take_turn(void *arg)
{
    turn_t *t = arg;
    double one = 1;
    t->status = zero_sum(t->engine, &one, 1);
    zero_last_failure(t->engine, &t->why);
    return NULL;
}
static int visited(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    turn_t *t = ctx;
    pthread_t thread;
    (void)param, (void)begin, (void)count, (void)values;
    if (pthread_create(&thread, NULL, take_turn, t) != 0)
        return -1;
    pthread_join(thread, NULL);
    return 0;
}

START_TEST(threads_call_in_turn)
{
    api_engine_t a = api_make(0, NULL, NULL);
    turn_t turn = {.engine = a.engine};
    pthread_t thread;
    OK(zero_commit(a.engine));
    OK(zero_param_read(a.engine, 0, ZERO_STATE_PARAM, visited, &turn));
    ck_assert_int_eq(turn.status, ZERO_ERR_ORDER);
    EXPECT_ERROR(&turn.why, ZERO_ERR_ORDER, ZERO_REASON_ENGINE_BUSY, -1, "");
    ck_assert_str_eq(zero_last_error(a.engine), ""); /* no call of this thread failed */
    ck_assert_int_eq(pthread_create(&thread, NULL, take_turn, &turn), 0);
    pthread_join(thread, NULL);
    OK(turn.status);
    api_free(&a);
}
END_TEST

TCase *api_calls_case(void)
{
    TCase *t = tcase_create("calls");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, functions_that_are_called_do_not_call_back);
    tcase_add_test(t, callers_give_up_from_anywhere);
    tcase_add_test(t, threads_take_turns_or_are_refused);
    tcase_add_test(t, threads_call_in_turn);
    return t;
}
