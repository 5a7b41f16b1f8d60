/* SPDX-License-Identifier: Apache-2.0 */
/* engine_misuse.c - wrong calls say so and change nothing. If ranks disagree or fail, all ranks end, each with one
 * clear sentence. */
#include "tests/expect.h"
#include "tests/engine_suites.h"
#include "tests/engine_toy.h"
#include "tests/ranks.h"
#include "zero/comm/comm.h"
#include "zero/exec/exec.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const toy_case_t plain = {
    .world = 1, .stage = 3, .window = 2, .micro_steps = 2, .dtype = ZERO_FP32, .steps = 1, .bad_step = -1};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The call fails with this status, and its sentence contains part. */
#define FAILS(engine, call, status, part)                                                        \
    do {                                                                                         \
        ck_assert_int_eq((call), (status));                                                      \
        ck_assert_msg(has_names(zero_last_error(engine), (part)), "'%s' is not in '%s'", (part), \
                      zero_last_error(engine));                                                  \
    } while (0)
#define OK(call) ck_assert_int_eq((call), ZERO_OK)

static int no_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx, (void)param, (void)begin, (void)count, (void)out;
    return -1;
}

static int take(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)param, (void)begin, (void)count, (void)values;
    return ctx ? -1 : 0;
}

/* ---- one rank --------------------------------------------------------------------------------------------------- */

static zero_comm_t *alone(void)
{
    zero_comm_t *comm = NULL;
    OK(zero_comm_self(&comm, NULL));
    return comm;
}

START_TEST(declarations_are_checked)
{
    zero_comm_t *comm = alone();
    toy_t toy;
    zero_unit_t unit;
    zero_param_t param;
    zero_pass_t pass;
    zero_reserve_t reserve;
    zero_param_desc_t desc;
    zero_memory_t memory = {.size = sizeof memory};
    ck_assert_int_eq(toy_create(&toy, &plain, comm, NULL), 0);
    zero_engine_t *e = toy.engine;
    ck_assert_int_eq(zero_unit_add(NULL, "x", &unit), ZERO_ERR_ARG);
    FAILS(e, zero_unit_add(e, "", &unit), ZERO_ERR_ARG, "");
    FAILS(e, zero_unit_add(e, NULL, &unit), ZERO_ERR_ARG, "");
    FAILS(e, zero_unit_add(e, "mixed", &unit), ZERO_ERR_ARG, "'mixed'");
    FAILS(e, zero_unit_add(e, "x", NULL), ZERO_ERR_ARG, "");
    zero_param_desc_init(&desc);
    desc.name = "big.w";
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "'big.w'");
    desc.name = "x";
    FAILS(e, zero_param_add(e, 99, &desc, &param), ZERO_ERR_ARG, "`unit 99`");
    FAILS(e, zero_param_add(e, toy.unit[0], NULL, &param), ZERO_ERR_ARG, "zero_param_desc_t NULL");
    desc.ndim = 9;
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "9");
    desc.ndim = 2;
    desc.shape[0] = desc.shape[1] = (int64_t)1 << 40;
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "2^63");
    desc.shape[1] = -1;
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "1");
    desc.shape[0] = desc.shape[1] = 2;
    desc.dtype = ZERO_DTYPE_COUNT;
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "");
    desc.dtype = ZERO_FP32;
    desc.lr_scale = -1;
    FAILS(e, zero_param_add(e, toy.unit[0], &desc, &param), ZERO_ERR_ARG, "lr_scale");
    FAILS(e, zero_pass_add(e, "train2", ZERO_PASS_TRAIN, &pass), ZERO_ERR_ARG, "");
    FAILS(e, zero_pass_add(e, "eval", ZERO_PASS_EVAL, &pass), ZERO_ERR_ARG, "'eval'");
    FAILS(e, zero_pass_add(e, "x", (zero_pass_kind_t)7, &pass), ZERO_ERR_ARG, "");
    FAILS(e, zero_use_add(e, 9, toy.unit[0], ZERO_READ), ZERO_ERR_ARG, "`pass 9`");
    FAILS(e, zero_use_add(e, toy.train, -1, ZERO_READ), ZERO_ERR_ARG, "`unit -1`");
    FAILS(e, zero_use_add(e, toy.train, toy.unit[0], ZERO_HOLD), ZERO_ERR_ARG, "0x4");
    FAILS(e, zero_use_add(e, toy.eval, toy.unit[0], ZERO_READ | ZERO_GRAD), ZERO_ERR_ARG, "");
    FAILS(e, zero_use_add(e, toy.any, toy.unit[0], ZERO_READ), ZERO_ERR_ARG, "any-order");
    FAILS(e, zero_reserve(e, ZERO_KIND_MASTER, ZERO_TIER_DEVICE, 1, &reserve), ZERO_ERR_ARG, "");
    FAILS(e, zero_reserve(e, ZERO_KIND_WORKSPACE, (zero_tier_t)7, 1, &reserve), ZERO_ERR_ARG, "7");
    /* Unsupported calls are refused before commit, and commit then works. */
    FAILS(e, zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_NVME, 1, &reserve), ZERO_ERR_UNSUPPORTED, "");
    ck_assert_int_eq(reserve, -1);
    /* Before commit, training calls are refused. */
    FAILS(e, zero_micro_begin(e, toy.train, 0), ZERO_ERR_ORDER, "zero_commit");
    FAILS(e, zero_acquire(e, toy.unit[0]), ZERO_ERR_ORDER, "zero_commit");
    FAILS(e, zero_step(e, 1), ZERO_ERR_ORDER, "zero_commit");
    FAILS(e, zero_param_fill(e, toy.param[0], no_values, NULL), ZERO_ERR_ORDER, "zero_commit");
    FAILS(e, zero_forecast(e, &memory), ZERO_ERR_ORDER, "zero_commit");
    ck_assert_ptr_null(zero_param_data(e, toy.param[0]));
    ck_assert_ptr_null(zero_reserved(e, toy.reserve));
    OK(zero_commit(e));
    FAILS(e, zero_commit(e), ZERO_ERR_ORDER, "");
    FAILS(e, zero_unit_add(e, "late2", &unit), ZERO_ERR_ORDER, "zero_commit");
    FAILS(e, zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 1, &reserve), ZERO_ERR_ORDER, "zero_commit");
    /* A caller that ignores the status does not get a valid id. */
    zero_param_t late = 0, found = 0;
    pass = 0;
    unit = reserve = 0;
    ck_assert(zero_unit_add(e, "late3", &unit) != ZERO_OK && zero_param_add(e, 0, NULL, &late) != ZERO_OK &&
              zero_pass_add(e, "late", ZERO_PASS_EVAL, &pass) != ZERO_OK &&
              zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 1, &reserve) != ZERO_OK &&
              zero_param_find(e, NULL, &found) != ZERO_OK);
    ck_assert(unit == -1 && late == -1 && pass == -1 && reserve == -1 && found == -1);
    unit = found = 0;
    ck_assert(zero_unit_add(NULL, "nowhere", &unit) != ZERO_OK && zero_param_find(NULL, "nowhere", &found) != ZERO_OK &&
              unit == -1 && found == -1);
    memory.size = 3;
    FAILS(e, zero_forecast(e, &memory), ZERO_ERR_ARG, "zero_memory_t 3");
    toy_destroy(&toy);
    zero_comm_destroy(comm);
}
END_TEST

/* Misuse while training changes nothing: after each of these calls, a step still gives the serial trajectory. */
START_TEST(training_calls_are_checked)
{
    zero_comm_t *comm = alone();
    toy_t toy;
    double values[65] = {0};
    zero_stats_t stats = {.size = 1};
    int anything;
    ck_assert_int_eq(toy_create(&toy, &plain, comm, NULL), 0);
    zero_engine_t *e = toy.engine;
    OK(zero_commit(e));
    ck_assert_int_eq(toy_fill(&toy), 0);
    ck_assert_int_eq(zero_acquire(NULL, 0), ZERO_ERR_ARG);
    FAILS(e, zero_micro_begin(e, 17, 0), ZERO_ERR_ARG, "`pass 17`");
    FAILS(e, zero_micro_begin(e, toy.train, 2), ZERO_ERR_ARG, "0x2");
    FAILS(e, zero_micro_begin(e, toy.eval, ZERO_LAST), ZERO_ERR_ARG, "0x1");
    FAILS(e, zero_acquire(e, toy.unit[TOY_BIG]), ZERO_ERR_ORDER, "zero_micro_begin");
    FAILS(e, zero_release(e, toy.unit[TOY_BIG]), ZERO_ERR_ORDER, "");
    FAILS(e, zero_micro_end(e), ZERO_ERR_ORDER, "");
    FAILS(e, zero_step(e, 0.1), ZERO_ERR_ORDER, "ZERO_LAST");
    FAILS(e, zero_sum(e, values, 65), ZERO_ERR_ARG, "65");
    FAILS(e, zero_sum(e, NULL, 1), ZERO_ERR_ARG, "NULL");
    FAILS(e, zero_step_stats(e, &stats), ZERO_ERR_ARG, "zero_stats_t 1");
    FAILS(e, zero_set_step(e, 3, 4), ZERO_ERR_ARG, "4");
    FAILS(e, zero_param_read(e, toy.param[0], ZERO_STATE_GRAD, take, NULL), ZERO_ERR_ORDER, "");
    FAILS(e, zero_param_read(e, toy.param[2], ZERO_STATE_MASTER, take, NULL), ZERO_ERR_ARG, "frozen");
    FAILS(e, zero_param_read(e, toy.param[0], ZERO_STATE_PARAM, NULL, NULL), ZERO_ERR_ARG, "");
    FAILS(e, zero_param_read(e, toy.param[0], ZERO_STATE_PARAM, take, &anything), ZERO_ERR_IO, "");
    FAILS(e, zero_param_fill(e, 55, no_values, NULL), ZERO_ERR_ARG, "`parameter 55`");

    OK(zero_micro_begin(e, toy.eval, 0));
    FAILS(e, zero_micro_begin(e, toy.train, 0), ZERO_ERR_ORDER, "'eval'");
    OK(zero_acquire(e, toy.unit[TOY_FROZEN]));
    FAILS(e, zero_acquire(e, toy.unit[TOY_FROZEN]), ZERO_ERR_ORDER, "");
    FAILS(e, zero_acquire(e, toy.unit[TOY_MIXED]), ZERO_ERR_ORDER, "'frozen'");
    FAILS(e, zero_micro_end(e), ZERO_ERR_ORDER, "'frozen'");
    FAILS(e, zero_release(e, toy.unit[TOY_MIXED]), ZERO_ERR_ORDER, "");
    OK(zero_release(e, toy.unit[TOY_FROZEN]));
    FAILS(e, zero_release(e, toy.unit[TOY_FROZEN]), ZERO_ERR_ORDER, "");
    FAILS(e, zero_acquire(e, toy.unit[TOY_EMBED]), ZERO_ERR_ORDER, "4 'mixed'");
    FAILS(e, zero_acquire(e, toy.unit[TOY_LATE]), ZERO_ERR_ORDER, "'eval'");
    FAILS(e, zero_step(e, 0.1), ZERO_ERR_ORDER, "");
    FAILS(e, zero_param_fill(e, toy.param[0], no_values, NULL), ZERO_ERR_ORDER, "'eval'");
    OK(zero_micro_end(e));

    OK(zero_micro_begin(e, toy.any, 0));
    OK(zero_acquire(e, toy.unit[TOY_BIG]));
    FAILS(e, zero_acquire(e, toy.unit[TOY_MIXED]), ZERO_ERR_ORDER, "");
    FAILS(e, zero_micro_end(e), ZERO_ERR_ORDER, "'big'");
    FAILS(e, zero_release(e, toy.unit[TOY_MIXED]), ZERO_ERR_ORDER, "");
    OK(zero_release(e, toy.unit[TOY_BIG]));
    OK(zero_micro_end(e));

    ck_assert_int_eq(toy_step(&toy, 2), 0);
    OK(zero_set_step(e, 1, 1));
    OK(zero_micro_begin(e, toy.train, 0));
    OK(zero_micro_end(e));
    FAILS(e, zero_micro_begin(e, toy.train, 0), ZERO_ERR_ORDER, "2");
    FAILS(e, zero_set_step(e, 0, 0), ZERO_ERR_ORDER, "");
    OK(zero_micro_begin(e, toy.train, ZERO_LAST));
    OK(zero_micro_end(e));
    FAILS(e, zero_micro_begin(e, toy.train, 0), ZERO_ERR_ORDER, "zero_step");
    FAILS(e, zero_step(e, NAN), ZERO_ERR_ARG, "");
    FAILS(e, zero_step(e, -1), ZERO_ERR_ARG, "");
    OK(zero_step(e, 0.1));
    FAILS(e, zero_param_fill(e, toy.param[0], no_values, NULL), ZERO_ERR_IO, "embed.w");
    /* This was a failure, not misuse: now only destroy works, and every other call returns the reason. */
    FAILS(e, zero_micro_begin(e, toy.eval, 0), ZERO_ERR_IO, "embed.w");
    toy_destroy(&toy);
    zero_comm_destroy(comm);
}
END_TEST

START_TEST(planning_needs_no_ranks)
{
    for (int world = 1; world <= 1024; world *= 32) {
        zero_engine_t *e = NULL;
        zero_config_t config;
        zero_unit_t unit;
        zero_param_t param;
        zero_pass_t pass;
        zero_param_desc_t desc;
        zero_memory_t memory = {.size = sizeof memory};
        zero_traffic_t traffic;
        zero_config_init(&config);
        config.plan_world = world;
        config.persist_bytes = 0;
        OK(zero_create(&e, &config, NULL));
        OK(zero_unit_add(e, "u", &unit));
        zero_param_desc_init(&desc);
        desc.name = "w";
        desc.ndim = 1;
        desc.shape[0] = 1024 * 1024;
        OK(zero_param_add(e, unit, &desc, &param));
        OK(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
        OK(zero_use_add(e, pass, unit, ZERO_READ | ZERO_GRAD));
        OK(zero_commit(e));
        ck_assert_uint_ne(zero_plan_hash(e), 0);
        OK(zero_forecast(e, &memory));
        ck_assert_uint_eq(memory.bytes[ZERO_TIER_DEVICE][ZERO_KIND_MOMENTS], 8u * 1024 * 1024 / (unsigned)world);
        OK(zero_forecast_traffic(e, 1, &traffic));
        ck_assert_uint_eq(traffic.gathered, 4u * 1024 * 1024 / (unsigned)world * (unsigned)(world - 1));
        ck_assert_uint_eq(traffic.reduced, 4u * 1024 * 1024 / (unsigned)world * (unsigned)(world - 1));
        FAILS(e, zero_micro_begin(e, pass, ZERO_LAST), ZERO_ERR_ORDER, "");
        FAILS(e, zero_measure(e, &memory), ZERO_ERR_ORDER, "");
        ck_assert_ptr_null(zero_param_data(e, param));
        zero_destroy(e);
    }
}
END_TEST

/* ---- several ranks ---------------------------------------------------------------------------------------------- */

typedef struct scene {
    int kind, threaded;
} scene_t;
enum {
    DIFFERENT_WINDOW,
    DIFFERENT_SHAPE,
    DIFFERENT_USES,
    DIFFERENT_TIER,
    TOO_LITTLE_MEMORY,
    ABORT,
    DIE,
    DESTROY,
    STOP_CALLING,
    DIFFERENT_RATE,
    SUM_OF_NONE,
    SUM_OF_MORE,
    SCENES
};

static int scene_rank, scene_kind; /* of this process, for edit() */

static void edit(zero_config_t *config)
{
    if (scene_rank != 1)
        return;
    if (scene_kind == DIFFERENT_WINDOW)
        config->window = 3;
    if (scene_kind == DIFFERENT_TIER)
        config->optimizer.tier = ZERO_TIER_HOST;
    if (scene_kind == TOO_LITTLE_MEMORY)
        config->memory_limit = 100000;
}

/* How each scene ends on rank 1 and on the others, and parts of their sentences. */
static const struct {
    zero_status_t odd, others;
    const char *odd_part, *others_part;
} endings[SCENES] = {
    [DIFFERENT_WINDOW] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 1` `rank 0` config.window 2 3",
                          "`rank 1` `rank 0` config.window 2 3"},
    [DIFFERENT_SHAPE] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 0` 'extra' fp32 5 1", "`rank 1` fp32 6 1"},
    [DIFFERENT_USES] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 0` `rank 1` 19 20", ""},
    [DIFFERENT_TIER] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 0` `rank 1` config.optimizer.tier",
                        "`rank 0` `rank 1` config.optimizer.tier"},
    [TOO_LITTLE_MEMORY] = {ZERO_ERR_MEMORY, ZERO_ERR_MEMORY, "97.66", "`rank 1`"},
    [ABORT] = {ZERO_ERR_PEER, ZERO_ERR_PEER, "`the loss is not finite` `rank 1`", "`the loss is not finite` `rank 1`"},
    [DIE] = {ZERO_OK, ZERO_ERR_PEER, "", "`rank 1`"},
    [DESTROY] = {ZERO_OK, ZERO_ERR_PEER, "", "`rank 1`"},
    [STOP_CALLING] = {ZERO_ERR_PEER, ZERO_ERR_TIMEOUT, "`rank 1` 1 'step'", "`rank 1` 1 'step'"},
    [DIFFERENT_RATE] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH,
                        "`rank 0` `rank 1` zero_step 0.10000000000000001 0.10000009999999999",
                        "`rank 0` `rank 1` zero_step 0.10000000000000001 0.10000009999999999"},
    [SUM_OF_NONE] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 1` zero_sum 0", "`rank 1` zero_sum 0"},
    [SUM_OF_MORE] = {ZERO_ERR_MISMATCH, ZERO_ERR_MISMATCH, "`rank 1` zero_sum 3", "`rank 1` zero_sum 3"},
};

static int expect(const toy_t *toy, zero_status_t status, double seconds)
{
    bool odd = toy->rank == 1;
    zero_status_t wanted = odd ? endings[scene_kind].odd : endings[scene_kind].others;
    const char *part = odd ? endings[scene_kind].odd_part : endings[scene_kind].others_part,
               *text = zero_last_error(toy->engine);
    /* If several ranks find a difference or run out of time at once, the others may report the first one's sentence. */
    bool together = wanted == ZERO_ERR_TIMEOUT || scene_kind == DIFFERENT_RATE || scene_kind == SUM_OF_NONE ||
                    scene_kind == SUM_OF_MORE;
    bool quoted = status == ZERO_ERR_PEER && together;
    if ((status == wanted || quoted) && has_names(text, part) && seconds < 40)
        return 0;
    fprintf(stderr, "rank %d, scene %d: %s after %.1f s, not %s: '%s' has no '%s'\n", toy->rank, scene_kind,
            zero_status_name(status), seconds, zero_status_name(wanted), text, part);
    return 1;
}

/* A training step without the toy's checks; returns at the first failure. */
static zero_status_t bare_step(toy_t *toy, double lr)
{
    static const int order[] = {TOY_BIG, TOY_LATE, TOY_MIXED};
    zero_status_t status = zero_micro_begin(toy->engine, toy->train, ZERO_LAST);
    for (int u = 0; status == ZERO_OK && u < 3; u++)
        if ((status = zero_acquire(toy->engine, toy->unit[order[u]])) == ZERO_OK)
            status = zero_release(toy->engine, toy->unit[order[u]]);
    if (status == ZERO_OK)
        status = zero_micro_end(toy->engine);
    if (status == ZERO_OK)
        status = zero_step(toy->engine, lr);
    zero_stats_t stats = {.size = sizeof stats};
    return status == ZERO_OK ? zero_step_stats(toy->engine, &stats) : status;
}

static int play(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const scene_t *scene = arg;
    toy_case_t c = plain;
    toy_t toy;
    zero_comm_t *comm = NULL;
    zero_comm_options_t options;
    zero_status_t status = ZERO_OK;
    scene_rank = rank;
    scene_kind = scene->kind;
    c.world = world;
    c.threaded = scene->threaded;
    zero_comm_options_init(&options);
    options.timeout_s = scene->kind == STOP_CALLING ? 3 : 30;
    if (zero_comm_shm(&comm, bootstrap, &options, NULL) != ZERO_OK || toy_create(&toy, &c, comm, edit))
        return 1;
    if (scene->kind == DIFFERENT_SHAPE) {
        zero_param_desc_t desc;
        zero_unit_t unit;
        zero_param_t param;
        zero_param_desc_init(&desc);
        desc.name = "extra";
        desc.ndim = 1;
        desc.shape[0] = rank == 1 ? 6 : 5;
        if (zero_unit_add(toy.engine, "extra", &unit) != ZERO_OK ||
            zero_param_add(toy.engine, unit, &desc, &param) != ZERO_OK ||
            zero_use_add(toy.engine, toy.train, unit, ZERO_GRAD) != ZERO_OK)
            return 1;
    }
    if (scene->kind == DIFFERENT_USES && rank == 1 &&
        zero_use_add(toy.engine, toy.eval, toy.unit[TOY_BIG], ZERO_READ) != ZERO_OK)
        return 1;
    double start = now();
    status = zero_commit(toy.engine);
    for (int s = 0; status == ZERO_OK && s < 50; s++) {
        if (s == 1 && rank == 1) {
            if (scene->kind == DIE)
                raise(SIGKILL);
            if (scene->kind == ABORT)
                zero_abort(toy.engine, "the loss is not finite");
            if (scene->kind == DESTROY) {
                /* in the middle of a step: after some of the collectives that the others wait for */
                if (zero_micro_begin(toy.engine, toy.train, ZERO_LAST) != ZERO_OK)
                    return 1;
                toy_destroy(&toy);
                zero_comm_destroy(comm);
                return 0;
            }
            /* until the others have given up on this rank */
            for (int k = 0; scene->kind == STOP_CALLING && k < 5000 && zero_comm_check(comm, NULL) == ZERO_OK; k++)
                nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        }
        start = s == 1 ? now() : start;
        if (s == 1 && (scene->kind == SUM_OF_NONE || scene->kind == SUM_OF_MORE)) {
            double values[3] = {1, 2, 3};
            status = zero_sum(toy.engine, values, rank != 1 ? 2 : scene->kind == SUM_OF_NONE ? 0 : 3);
        }
        if (status == ZERO_OK)
            status = bare_step(&toy, scene->kind == DIFFERENT_RATE && rank == 1 && s == 1 ? 0.1000001 : 0.1);
    }
    int result = expect(&toy, status, now() - start);
    /* The first failure remains. */
    if (zero_micro_begin(toy.engine, toy.train, 0) != status)
        result = 1;
    toy_destroy(&toy);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(ranks_end_together)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        scene_t scene = {.kind = _i, .threaded = threaded};
        int status[3];
        ck_assert_int_eq(ranks_run_status(3, 60, play, &scene, status), 0);
        for (int r = 0; r < 3; r++)
            if (scene.kind == DIE && r == 1)
                ck_assert_int_ne(status[r], 0);
            else
                ck_assert_msg(status[r] == 0, "scene %d, threaded %d: rank %d ended with %d", _i, threaded, r,
                              status[r]);
    }
}
END_TEST

/* A rank that cannot allocate memory reports its rank to the others. */
static int without_memory(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    zero_comm_t *comm = NULL;
    zero_error_t error = {0};
    char word = 0, all[8];
    (void)world, (void)arg;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK)
        return 1;
    zero_status_t status =
        rank == 1 ? zero_exec_no_memory(comm, 12345, &error) : zero_comm_exchange(comm, &word, all, 1, &error);
    int result = status != (rank == 1 ? ZERO_ERR_MEMORY : ZERO_ERR_PEER) ||
                 strcmp(error.text, "rank 1 cannot allocate 12345 bytes") != 0;
    zero_comm_destroy(comm);
    return result;
}

START_TEST(ranks_without_memory_are_named)
{
    ck_assert_int_eq(ranks_run(3, 60, without_memory, NULL), 0);
}
END_TEST

Suite *engine_misuse_suite(void)
{
    Suite *suite = suite_create("misuse");
    TCase *t = tcase_create("one rank"), *several = tcase_create("several ranks");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, declarations_are_checked);
    tcase_add_test(t, training_calls_are_checked);
    tcase_add_test(t, planning_needs_no_ranks);
    tcase_set_timeout(several, 120);
    tcase_add_loop_test(several, ranks_end_together, 0, SCENES);
    tcase_add_test(several, ranks_without_memory_are_named);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, several);
    return suite;
}
