/* SPDX-License-Identifier: Apache-2.0 */
/* engine_options.c - the sentences of zero_create and zero_commit about options and declarations. */
#include "tests/expect.h"
#include "tests/engine_suites.h"
#include "zero/device/device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define OK(call) ck_assert_int_eq(call, ZERO_OK)
#define FAILS(engine, call, status, part)                                                                              \
    do {                                                                                                               \
        ck_assert_int_eq(call, status);                                                                                \
        ck_assert_msg(has_names(zero_last_error(engine), part), "'%s' is not in '%s'", part, zero_last_error(engine)); \
    } while (0)

/* ---- options
 * --------------------------------------------------------------------------------------------------------- */

static int no_update(void *ctx, const zero_update_args_t *args)
{
    (void)ctx, (void)args;
    return 0;
}

/* zero_create finds each wrong option. The sentence begins with the member's name. */
START_TEST(wrong_options_are_named_at_once)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_engine_t *engine = NULL;
    zero_error_t error;
    zero_config_t good, c;
    OK(zero_comm_self(&comm, NULL));
    OK(zero_device_cpu(&device, NULL, NULL));
    zero_config_init(&good);
    ck_assert_int_eq(zero_config_stage(&good, 4), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_config_stage(&good, -1), ZERO_ERR_ARG);
    good.comm = comm;
    good.device = device;
#define REFUSED(change, status, begin, part)                                                                \
    do {                                                                                                    \
        c = good;                                                                                           \
        change;                                                                                             \
        error.text[0] = '\0';                                                                               \
        ck_assert_msg(zero_create(&engine, &c, &error) == status, "%s: %s", #change, error.text);           \
        ck_assert_ptr_null(engine);                                                                         \
        ck_assert_msg(strncmp(error.text, begin, strcspn(begin, " ")) == 0 && has_names(error.text, begin), \
                      "'%s' does not begin with '%s'", error.text, begin);                                  \
        ck_assert_msg(has_names(error.text, part), "'%s' is not in '%s'", part, error.text);                \
    } while (0)
#define BAD(change, begin) REFUSED(change, ZERO_ERR_ARG, begin, "")
    BAD(c.size = 8, "zero_config_t 8");
    REFUSED(c.size = 0, ZERO_ERR_ARG, "zero_config_t 0", "zero_config_init");
    BAD(c.comm = NULL, "config.comm NULL");
    BAD(c.device = NULL, "config.device NULL");
    BAD(c.plan_world = -1, "config.plan_world -1");
    BAD(c.parameters.sharding = 5, "config.parameters.sharding 5 ZERO_FULL ZERO_SHARDED");
    BAD(c.gradients.sharding = -1, "config.gradients.sharding -1");
    BAD(c.optimizer.group = 1, "config.optimizer.group 1");
    BAD(c.parameters.window = 2, "config.parameters.window 2");
    BAD(c.optimizer.sharding = 2, "config.optimizer.sharding 2");
    REFUSED(c.optimizer.sharding = ZERO_FULL, ZERO_ERR_ARG, "config.parameters.sharding ZERO_SHARDED",
            "config.optimizer.sharding ZERO_FULL");
    REFUSED((zero_config_stage(&c, 2), c.optimizer.sharding = ZERO_FULL), ZERO_ERR_ARG,
            "config.gradients.sharding ZERO_SHARDED", "config.optimizer.sharding ZERO_FULL");
    BAD(c.parameters.tier = 7, "config.parameters.tier 7");
    BAD(c.gradients.tier = -1, "config.gradients.tier -1");
    BAD(c.optimizer.tier = ZERO_TIER_COUNT, "config.optimizer.tier 3");
    REFUSED((c.gradients.tier = ZERO_TIER_NVME, c.optimizer.tier = ZERO_TIER_HOST), ZERO_ERR_UNSUPPORTED,
            "config.gradients.tier ZERO_TIER_NVME", "ZERO_TIER_DEVICE ZERO_TIER_HOST");
    REFUSED(c.gradients.tier = ZERO_TIER_HOST, ZERO_ERR_ARG, "config.gradients.tier ZERO_TIER_HOST",
            "config.optimizer.tier ZERO_TIER_DEVICE");
    REFUSED((c.parameters.tier = ZERO_TIER_NVME, c.nvme_path = "."), ZERO_ERR_ARG,
            "config.parameters.tier ZERO_TIER_NVME", "config.optimizer.tier ZERO_TIER_DEVICE");
    REFUSED((c.parameters.tier = c.optimizer.tier = ZERO_TIER_NVME, c.nvme_path = ".", c.offload_ratio = 0.5),
            ZERO_ERR_ARG, "config.parameters.tier ZERO_TIER_NVME", "config.offload_ratio 0.5");
    REFUSED(c.optimizer.tier = ZERO_TIER_NVME, ZERO_ERR_ARG, "config.optimizer.tier ZERO_TIER_NVME",
            "config.nvme_path");
    REFUSED((c.optimizer.tier = ZERO_TIER_NVME, c.nvme_path = ""), ZERO_ERR_ARG, "config.optimizer.tier ZERO_TIER_NVME",
            "config.nvme_path");
    BAD(c.offload_ratio = 2, "config.offload_ratio 2");
    BAD(c.offload_ratio = -0.1, "config.offload_ratio -0.1");
    BAD(c.offload_ratio = NAN, "config.offload_ratio");
    BAD(c.window = 0, "config.window 0");
    BAD(c.reduce = 2, "config.reduce 2");
    BAD(c.micro_steps = 0, "config.micro_steps 0");
    BAD(c.micro_steps = -3, "config.micro_steps -3");
    BAD(c.reduce_dtype = ZERO_FP16, "config.reduce_dtype 2 fp16 ZERO_FP32 ZERO_BF16");
    BAD(c.reduce_dtype = 9, "config.reduce_dtype 9");
    BAD(c.persist_bytes = -1, "config.persist_bytes -1");
    BAD(c.clip = -1, "config.clip -1");
    BAD(c.clip = NAN, "config.clip");
    BAD(c.grad_scale = 0, "config.grad_scale 0");
    BAD(c.rule = ZERO_RULES, "config.rule 7");
    BAD(c.rule = ZERO_RULE_MUON, "config.rule 'muon' config.matrix NULL");
    BAD(c.momentum = 1, "config.momentum 1");
    BAD(c.rule = ZERO_RULE_CUSTOM, "config.rule 'custom' config.update NULL");
    BAD(c.update = no_update, "config.rule 'adamw' config.update");
    BAD((c.rule = ZERO_RULE_CUSTOM, c.update = no_update, c.update_states = 3), "config.update_states 3");
    BAD(c.update_states = 1, "config.update_states 1");
    BAD(c.beta1 = 1, "config.beta1 1");
    BAD(c.beta2 = -0.5, "config.beta2 -0.5");
    BAD(c.eps = 0, "config.eps 0");
    BAD(c.eps = INFINITY, "config.eps");
    BAD(c.weight_decay = -1, "config.weight_decay -1");
    BAD(c.timeout_s = 0, "config.timeout_s 0");
    BAD(c.loss_scale = 0, "config.loss_scale 0 fp32");
    BAD(c.loss_scale = 1e39, "config.loss_scale 1e+39 fp32");
    BAD(c.loss_scale = NAN, "config.loss_scale");
    BAD(c.growth_interval = -1, "config.growth_interval -1");
    BAD(c.growth_factor = 1, "config.growth_factor 1");
    BAD(c.backoff_factor = 1, "config.backoff_factor 1");
    BAD(c.backoff_factor = 0, "config.backoff_factor 0");
    BAD(c.hysteresis = 0, "config.hysteresis 0");
    BAD(c.min_loss_scale = 0, "config.min_loss_scale 0 fp32");
    BAD((c.growth_interval = 9, c.min_loss_scale = 2), "config.loss_scale 1 config.min_loss_scale 2");
    good.comm = NULL;
    good.device = NULL;
    REFUSED(c.plan_world = (1 << 20) + 1, ZERO_ERR_ARG, "config.plan_world 1048577", "");
    good.plan_world = 2;
    zero_device_t far_away = {.caps = {.name = "far"}};
    REFUSED((c.guard = true, c.device = &far_away), ZERO_ERR_UNSUPPORTED, "config.guard", "'far'");
    BAD(c.window = 0, "config.window 0");
    c = good; /* an engine that only plans needs no folder */
    c.optimizer.tier = ZERO_TIER_NVME;
    OK(zero_create(&engine, &c, &error));
    zero_destroy(engine);
    c = good; /* eps matters only to rules that use it */
    c.rule = ZERO_RULE_SGD;
    c.beta2 = c.eps = 0;
    OK(zero_create(&engine, &c, &error));
    zero_destroy(engine);
    ck_assert_int_eq(zero_create(NULL, &good, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_create(&engine, NULL, NULL), ZERO_ERR_ARG);
    zero_destroy(NULL);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
}
END_TEST

/* ---- declarations ----------------------------------------------------------------------------------------------- */

/* Collects warnings, one per line. */
static void collect(void *ctx, zero_log_level_t level, const char *text)
{
    char *said = ctx;
    size_t at = strlen(said);
    if (level == ZERO_LOG_WARNING)
        snprintf(said + at, 2000 - at, "%s\n", text);
}

/* An engine with two units, 'a' (trained) and 'f' (frozen), that plans for two ranks. said: 2000 bytes for warnings. */
static zero_engine_t *two_units(char *said, zero_pass_t *pass)
{
    static const char *const names[] = {"a", "f"};
    zero_engine_t *e = NULL;
    zero_config_t config;
    zero_param_desc_t desc;
    zero_unit_t unit;
    zero_param_t param;
    zero_config_init(&config);
    config.plan_world = 2;
    config.log = collect;
    config.log_ctx = said;
    said[0] = '\0';
    OK(zero_create(&e, &config, NULL));
    for (int u = 0; u < 2; u++) {
        zero_param_desc_init(&desc);
        desc.name = u == 0 ? "a.w" : "f.w";
        desc.ndim = 1;
        desc.shape[0] = 10;
        desc.trainable = u == 0;
        OK(zero_unit_add(e, names[u], &unit));
        OK(zero_param_add(e, unit, &desc, &param));
    }
    OK(zero_pass_add(e, "train", ZERO_PASS_TRAIN, pass));
    return e;
}

/* A trainable parameter without gradients is refused. Unusual declarations only cause a warning. */
START_TEST(uses_fit_what_is_trained)
{
    static const struct {
        uint32_t a, f; /* flags of the units' uses; 0: no use */
        bool any;
        const char *refusal, *warnings; /* parts of the sentences */
    } ways[] = {
        {ZERO_READ | ZERO_GRAD, ZERO_READ, false, NULL, ""},
        {ZERO_GRAD, ZERO_READ, false, NULL, ""},
        {ZERO_READ, ZERO_READ, false, "'a.w' 'a' 'train' ZERO_GRAD", NULL},
        {0, ZERO_READ, true, "'a.w' ZERO_GRAD trainable", NULL},
        {0, 0, false, "'a.w'", NULL},
        {ZERO_GRAD, ZERO_READ | ZERO_GRAD, false, NULL, "'f' ZERO_GRAD 'train'"},
        {ZERO_GRAD, 0, false, NULL, "'f'"},
        {ZERO_GRAD, 0, true, NULL, ""},
    };
    char said[2000];
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        zero_pass_t pass, any;
        zero_engine_t *e = two_units(said, &pass);
        if (ways[i].a)
            OK(zero_use_add(e, pass, 0, ways[i].a));
        if (ways[i].f)
            OK(zero_use_add(e, pass, 1, ways[i].f));
        if (ways[i].any)
            OK(zero_pass_add(e, "any", ZERO_PASS_ANY_ORDER, &any));
        if (ways[i].refusal)
            FAILS(e, zero_commit(e), ZERO_ERR_ARG, ways[i].refusal);
        else
            OK(zero_commit(e));
        const char *wanted = ways[i].warnings ? ways[i].warnings : "";
        ck_assert_msg(*wanted ? has_names(said, wanted) && strchr(said, '\n')[1] == '\0' : said[0] == '\0',
                      "way %zu: warned '%s'", i, said);
        zero_destroy(e);
    }
}
END_TEST

/* A training pass without uses, in a model without trainable parameters. */
START_TEST(empty_training_passes_are_told)
{
    char said[2000] = "";
    zero_config_t config;
    zero_engine_t *e = NULL;
    zero_pass_t pass;
    zero_config_init(&config);
    config.plan_world = 1;
    config.log = collect;
    config.log_ctx = said;
    OK(zero_create(&e, &config, NULL));
    OK(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    OK(zero_commit(e));
    ck_assert_str_eq(said,
                     "training pass 'train' has no uses and trains nothing: declare each acquire with zero_use_add\n");
    zero_destroy(e);
}
END_TEST

/* After zero_commit has refused a plan, only zero_destroy works, and other calls return the reason. */
START_TEST(what_was_refused_stays_refused)
{
    char said[2000];
    zero_pass_t pass;
    zero_engine_t *e = two_units(said, &pass);
    OK(zero_use_add(e, pass, 0, ZERO_READ));
    FAILS(e, zero_commit(e), ZERO_ERR_ARG, "ZERO_GRAD");
    FAILS(e, zero_commit(e), ZERO_ERR_ARG, "ZERO_GRAD");
    ck_assert_uint_eq(zero_plan_hash(e), 0);
    zero_destroy(e);
}
END_TEST

/* ---- acquires in an order other than declared
 * ---------------------------------------------------------------------- */

typedef struct running {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
} running_t;

/* Frozen units a, b and c, which pass 'eval' uses in that order, with these flags besides ZERO_READ. The pass has
 * begun. */
static running_t run_three(uint32_t a, uint32_t b, uint32_t c)
{
    static const char *const names[] = {"a", "b", "c"};
    const uint32_t flags[] = {a, b, c};
    running_t r = {NULL, NULL, NULL};
    zero_config_t config;
    zero_param_desc_t desc;
    zero_unit_t unit;
    zero_param_t param;
    zero_pass_t pass;
    OK(zero_comm_self(&r.comm, NULL));
    OK(zero_device_cpu(&r.device, NULL, NULL));
    zero_config_init(&config);
    config.comm = r.comm;
    config.device = r.device;
    config.window = 3;
    OK(zero_create(&r.engine, &config, NULL));
    OK(zero_pass_add(r.engine, "eval", ZERO_PASS_EVAL, &pass));
    for (int u = 0; u < 3; u++) {
        zero_param_desc_init(&desc);
        desc.name = names[u];
        desc.trainable = false;
        OK(zero_unit_add(r.engine, names[u], &unit));
        OK(zero_param_add(r.engine, unit, &desc, &param));
        OK(zero_use_add(r.engine, pass, unit, ZERO_READ | flags[u]));
    }
    OK(zero_commit(r.engine));
    OK(zero_micro_begin(r.engine, pass, 0));
    return r;
}

static void run_end(running_t *r)
{
    zero_destroy(r->engine);
    zero_device_destroy(r->device);
    zero_comm_destroy(r->comm);
}

START_TEST(held_too_long)
{
    enum { A, B, C };
    running_t r = run_three(0, 0, 0);
    OK(zero_acquire(r.engine, A));
    FAILS(r.engine, zero_acquire(r.engine, B), ZERO_ERR_ORDER, "'a' 'b' ZERO_HOLD");
    FAILS(r.engine, zero_acquire(r.engine, C), ZERO_ERR_ORDER, "'a' 'c'");
    ck_assert(!has_names(zero_last_error(r.engine), "ZERO_HOLD")); /* ZERO_HOLD would not help */
    run_end(&r);
    r = run_three(ZERO_HOLD, 0, 0);
    OK(zero_acquire(r.engine, A));
    OK(zero_acquire(r.engine, B));
    OK(zero_release(r.engine, B));
    FAILS(r.engine, zero_acquire(r.engine, C), ZERO_ERR_ORDER, "'a' 'c' ZERO_HOLD 1 'b'");
    OK(zero_release(r.engine, A));
    OK(zero_acquire(r.engine, C));
    OK(zero_release(r.engine, C));
    OK(zero_micro_end(r.engine));
    run_end(&r);
}
END_TEST

START_TEST(acquired_too_often)
{
    enum { A, B, C };
    running_t r = run_three(0, 0, 0);
    OK(zero_acquire(r.engine, A));
    OK(zero_release(r.engine, A));
    FAILS(r.engine, zero_acquire(r.engine, A), ZERO_ERR_ORDER, "'a' 'eval' 1 0 zero_use_add 'b'");
    OK(zero_acquire(r.engine, C));
    FAILS(r.engine, zero_acquire(r.engine, B), ZERO_ERR_ORDER, "'b' 'eval' 1");
    run_end(&r);
}
END_TEST

Suite *engine_options_suite(void)
{
    Suite *suite = suite_create("options");
    TCase *t = tcase_create("declarations");
    tcase_add_test(t, wrong_options_are_named_at_once);
    tcase_add_test(t, what_was_refused_stays_refused);
    tcase_add_test(t, held_too_long);
    tcase_add_test(t, acquired_too_often);
    tcase_add_test(t, uses_fit_what_is_trained);
    tcase_add_test(t, empty_training_passes_are_told);
    suite_add_tcase(suite, t);
    return suite;
}
