/* SPDX-License-Identifier: Apache-2.0 */
/* test_contents.c - values go into an engine and come out again, for every placement of its state: tensors of more than
 * one piece, next to tensors that share a block of the drive with them. */
#include "tests/ranks.h"
#include "zero/base/base.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PARAMS = 4 };
static const int64_t counts[PARAMS] = {300, (5 << 19) + 77, 7, 50000};

typedef struct contents_case {
    int world;
    zero_dtype_t dtype;
    zero_tier_t tier;
    zero_rule_t rule;
    const char *folder; /* folder of the nvme tier; tests that run at the same time use others */
} contents_case_t;

typedef struct reading {
    const contents_case_t *c;
    zero_state_t state;
    int version;   /* version of the parameter that is read */
    int64_t found; /* elements */
    bool wrong;
} reading_t;

static float value(zero_param_t param, int64_t i, int version)
{
    return (float)((i * 31 + param * 7919 + version * 104729) % 65521 + 1) / 65536;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = value(param, begin + i, *(int *)ctx);
    return 0;
}

static int compare(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    reading_t *r = ctx;
    for (int64_t i = 0; i < count; i++) {
        float want = value(param, begin + i, r->version);
        if (r->state == ZERO_STATE_PARAM && r->c->dtype == ZERO_BF16)
            want = zero_bf16_to_fp32(zero_fp32_to_bf16(want));
        if (r->state >= ZERO_STATE_MOMENT1)
            want = 0;
        if (values[i] == want)
            continue;
        fprintf(stderr, "state %d of parameter %d: element %lld is %a, wanted %a\n", (int)r->state, param,
                (long long)(begin + i), (double)values[i], (double)want);
        r->wrong = true;
        return -1;
    }
    r->found += count;
    return 0;
}

#define TRY(call)                                                            \
    do {                                                                     \
        if ((call) != ZERO_OK) {                                             \
            fprintf(stderr, "%s: %s\n", #call, e ? zero_last_error(e) : ""); \
            return -1;                                                       \
        }                                                                    \
    } while (0)

/* Checks every state of every parameter; each element is on exactly one rank. */
static int look(zero_engine_t *e, const contents_case_t *c, const zero_param_t *param, const int *version)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    for (int p = 0; p < PARAMS; p++)
        for (int s = 0; s < 4; s++) {
            reading_t r = {.c = c, .state = states[s], .version = version[p]};
            TRY(zero_param_read(e, param[p], states[s], compare, &r));
            double found = (double)r.found;
            TRY(zero_sum(e, &found, 1));
            if (found != (double)counts[p]) {
                fprintf(stderr, "state %d of parameter %d: %g elements came, wanted %lld\n", s, p, found,
                        (long long)counts[p]);
                return -1;
            }
        }
    return 0;
}

static int train(zero_engine_t *e, const contents_case_t *c)
{
    static const char *const names[PARAMS] = {"before", "large", "few", "after"};
    zero_unit_t unit;
    zero_pass_t pass;
    zero_param_t param[PARAMS];
    int version[PARAMS] = {1, 1, 1, 1};
    TRY(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    TRY(zero_unit_add(e, "unit", &unit));
    for (int p = 0; p < PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = names[p];
        desc.dtype = c->dtype;
        desc.ndim = 1;
        desc.shape[0] = counts[p];
        TRY(zero_param_add(e, unit, &desc, &param[p]));
    }
    TRY(zero_use_add(e, pass, unit, ZERO_READ | ZERO_GRAD));
    TRY(zero_commit(e));
    for (int p = 0; p < PARAMS; p++)
        TRY(zero_param_fill(e, param[p], fill, &version[p]));
    if (look(e, c, param, version) != 0)
        return -1;
    /* Sets one parameter alone: its neighbours keep their values. */
    for (int p = PARAMS - 1; p >= 0; p--) {
        version[p] = 2 + p;
        TRY(zero_param_fill(e, param[p], fill, &version[p]));
        if (look(e, c, param, version) != 0)
            return -1;
    }
    return 0;
}

static int run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const contents_case_t *c = arg;
    zero_comm_t *comm = NULL;
    zero_device_t *cpu = NULL;
    zero_engine_t *engine = NULL;
    zero_config_t config;
    zero_error_t error = {0};
    (void)rank, (void)world;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || zero_device_cpu(&cpu, NULL, NULL) != ZERO_OK)
        return 1;
    zero_config_init(&config);
    config.comm = comm;
    config.device = cpu;
    config.timeout_s = 60;
    config.rule = c->rule;
    config.optimizer.tier = config.parameters.tier = c->tier;
    if (c->tier != ZERO_TIER_DEVICE)
        config.gradients.tier = ZERO_TIER_HOST;
    config.nvme_path = c->folder;
    if (zero_create(&engine, &config, &error) != ZERO_OK) {
        fprintf(stderr, "zero_create: %s\n", error.text);
        return 1;
    }
    int result = train(engine, c);
    zero_destroy(engine);
    zero_device_destroy(cpu);
    zero_comm_destroy(comm);
    return result != 0;
}

START_TEST(what_goes_in_comes_out)
{
    static const zero_tier_t tiers[] = {ZERO_TIER_DEVICE, ZERO_TIER_HOST, ZERO_TIER_NVME};
    char folder[] = "contents.XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (int world = 1; world <= 3; world += 2)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            contents_case_t c = {.world = world,
                                 .dtype = bf16 ? ZERO_BF16 : ZERO_FP32,
                                 .tier = tiers[_i],
                                 .rule = (world == 3) == bf16 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW,
                                 .folder = folder};
            ck_assert_msg(ranks_run(world, 120, run, &c) == 0, "%d ranks, %s, tier %s", world, zero_dtype_name(c.dtype),
                          zero_tier_name(c.tier));
        }
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("contents");
    TCase *tcase = tcase_create("contents");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, what_goes_in_comes_out, 0, 3);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
