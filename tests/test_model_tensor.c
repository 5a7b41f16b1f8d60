/* SPDX-License-Identifier: Apache-2.0 */
/* test_model_tensor.c - tensor and context parallelism in models: every family against PyTorch's results, and against a
 * run of one rank for each layer; with and without sequence parallelism, in pipelines, with adapters; samples; what is
 * refused. */
#include "tests/expect.h"
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAGES = 4, RECOMPUTES = 3 };

static model_golden_t golden;
static model_result_t base, result;

/* ---- against PyTorch -------------------------------------------------------------------------------------------- */

/* tensor divides the heads of the golden model. whole_rows: it does not divide the rows of a micro-batch. */
static const struct {
    const char *name;
    int tensor;
    bool whole_rows;
} runs[] = {
    {"cosine", 5, true},
    {"noam", 5, true},
    {"llama", 2, false},
    {"mistral", 2, false},
    {"qwen2", 2, false},
    {"qwen3", 2, false},
    {"transformer", 2, false},
    {"transformer-pre", 2, false},
    {"lora-gpt2", 5, true},
    {"lora-llama", 2, false},
    {"lora-gpt2-all", 5, true},
    {"lora-qwen2", 2, false},
    {"llama-bf16", 2, false},
    {"bf16", 5, true},
    {"transformer-bf16", 2, false},
    {"lora-qwen2-bf16", 2, false},
};
enum { RUNS = sizeof runs / sizeof *runs };

/* Every stage and recompute mode gives the same bits. */
START_TEST(test_golden)
{
    model_case_t c =
        model_golden_case(&golden, runs[_i].name, runs[_i].tensor * (runs[_i].tensor == 2 ? 1 + _i % 2 : 1), 2, "cpu");

    c.tensor = runs[_i].tensor;
    c.whole_rows = runs[_i].whole_rows;
    c.head_rows = _i % 3 * 10;
    model_check_run(&c, &base);
    for (int i = 1; i < STAGES; i++) {
        c.stage = i;
        c.recompute = (zero_recompute_t)(i % RECOMPUTES);
        c.window = i;
        c.offload = i == 3;
        c.offload_activations = c.recompute == ZERO_RECOMPUTE_FULL && _i % 2;
        model_check_run(&c, &result);
        model_check_same(&c, &result, &base);
    }
    if (!c.whole_rows && _i % 2) {
        c.whole_rows = true;
        model_check_run(&c, &result);
    }
}
END_TEST

/* ---- against a run without it ----------------------------------------------------------------------------------- */

/* A model whose heads four ranks divide. Its vocabulary of 50 tokens ends in a short part. */
static zero_model_config_t config_of(const char *family, bool tied)
{
    zero_model_config_t c;
    zero_error_t error;

    ck_assert_int_eq(zero_model_family(&c, family, &error), ZERO_OK);
    c.layers = 2;
    c.width = 24;
    c.hidden = 36;
    c.vocab = 50;
    c.positions = 40;
    c.heads = 4;
    c.kv_heads = 4;
    c.head_dim = 6;
    c.tied = tied;
    c.init_std = 0.3; /* so that queries and keys matter */
    if (strcmp(family, "gpt2") != 0) {
        c.heads = 8;
        c.head_dim = 8;
    }
    return c;
}

/* Its steps. A large eps keeps the updates of elements small whose gradients are nothing but rounding errors, as those
 * of the biases of keys. */
static model_case_t case_of(const zero_model_config_t *config, int tensor)
{
    model_case_t c = model_golden_case(&golden, "linear", 1, 2, "cpu");

    golden.batch = 8;
    golden.seq_len = 12;
    golden.eps = 0.01;
    for (int s = 0; s < golden.steps; s++)
        golden.rates[s] = 0.05;
    golden.steps = c.steps = 4;
    snprintf(golden.name, sizeof golden.name, "%s", config->family);
    c.config = config;
    c.tensor = tensor;
    c.world = tensor;
    return c;
}

static const struct {
    const char *family;
    bool tied;
    int64_t vocab; /* four ranks have parts of different lengths: 13, 13, 13, 11; 3, 3, 3, 0; 2, 2, 1, 0 */
    bool packed, qkv_bias;
} models[] = {
    {"gpt2", true, 50, false, true}, {"gpt2", false, 9, true, true},    {"llama", false, 50, true, false},
    {"qwen2", true, 5, false, true}, {"qwen3", false, 9, false, false}, {"llama", true, 50, false, true},
};
enum { MODELS = sizeof models / sizeof *models };

START_TEST(test_near)
{
    zero_model_config_t config = config_of(models[_i].family, models[_i].tied);
    model_case_t c = case_of(&config, 1);

    config.vocab = models[_i].vocab;
    c.packed = models[_i].packed;
    model_check_near(&c, &base, NULL, 0);
    for (int i = 0; i < 6; i++) {
        c.tensor = c.world = i % 2 ? 2 : 4;
        c.whole_rows = i / 2 == 1;
        c.recompute = (zero_recompute_t)((_i + i) % RECOMPUTES);
        c.stage = i % STAGES;
        c.head_rows = i / 2 == 2 ? 10 : 0;
        model_check_near(&c, &result, &base, 1e-5);
    }
}
END_TEST

/* ---- parts of sequences ----------------------------------------------------------------------------------------- */

/* With packed documents, with tensor parallelism, in a pipeline; chunks of 1 to 3 tokens. */
START_TEST(test_context)
{
    static const struct {
        int context, tensor, pipe, world;
    } meshes[] = {{2, 1, 1, 2}, {3, 1, 1, 3}, {6, 1, 1, 6}, {2, 2, 1, 4}, {2, 1, 2, 4}, {2, 2, 2, 8}};
    zero_model_config_t config = config_of(models[_i].family, models[_i].tied);
    model_case_t c = case_of(&config, 1);

    c.packed = models[_i].packed;
    model_check_near(&c, &base, NULL, 0);
    for (int i = 0; i < (int)(sizeof meshes / sizeof *meshes); i++) {
        c.context = meshes[i].context;
        c.tensor = meshes[i].tensor;
        c.pipe = meshes[i].pipe;
        c.world = meshes[i].world;
        c.recompute = (zero_recompute_t)((_i + i) % RECOMPUTES);
        c.stage = i % STAGES;
        model_check_near(&c, &result, &base, 1e-5);
    }
}
END_TEST

/* ---- in pipelines ----------------------------------------------------------------------------------------------- */

/* Tensor parallelism in each stage, with data parallelism if there are more ranks. */
START_TEST(test_pipe)
{
    const zero_model_config_t config = config_of(_i % 2 ? "gpt2" : "qwen3", _i / 2 % 2);
    model_case_t c = case_of(&config, 1);

    model_check_near(&c, &base, NULL, 0);
    for (int i = 0; i < 2; i++) {
        c.tensor = 2;
        c.pipe = 2;
        c.world = i % 2 ? 8 : 4;
        c.whole_rows = i == _i % 2;
        c.stage = i % 2;
        c.recompute = (zero_recompute_t)((_i + i) % RECOMPUTES);
        model_check_near(&c, &result, &base, 1e-5);
    }
}
END_TEST

/* An encoder whose output, and its gradient, go from stage to stage; or a residual stream that does. */
START_TEST(test_pipe_encoder)
{
    model_case_t c = model_golden_case(&golden, _i % 2 ? "transformer" : "transformer-pre", 4 + 2 * (_i / 2), 2, "cpu");

    c.tensor = 2;
    c.pipe = c.world / 2;
    c.whole_rows = _i == 3;
    model_check_run(&c, &result);
}
END_TEST

/* ---- what is refused -------------------------------------------------------------------------------------------- */

/* Whether a model is refused, with a sentence that has the names. */
static bool refuses(const zero_model_config_t *config, const zero_model_options_t *options, zero_status_t wanted,
                    const char *names)
{
    zero_error_t error = {.status = ZERO_OK};
    zero_model_t *model;
    const zero_status_t status = zero_model_create(&model, config, options, &error);

    zero_model_destroy(model);
    if (status == wanted && has_names(error.text, names))
        return true;
    fprintf(stderr, "status %d, '%s' does not say '%s'\n", (int)status, error.text, names);
    return false;
}

START_TEST(test_refused)
{
    const zero_model_config_t config = config_of("llama", false);
    zero_model_config_t other = config;
    const zero_model_options_t options = {
        .micro_batch = 6, .seq_len = 9, .dtype = ZERO_FP32, .threads = 1, .tensor = 4};
    zero_model_options_t o = options;

    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "6 9 4 whole_rows 8"));
    o.micro_batch = 3;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "3 9 4 whole_rows"));
    o = options;
    o.tensor = 3;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "3 8 heads 24 36 2 4"));
    o.tensor = 8;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "8 heads 24 36 4"));
    o.tensor = -1;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "-1"));
    o.tensor = 2;
    other.hidden = 37;
    ck_assert(refuses(&other, &o, ZERO_ERR_ARG, "2 37 1"));
    o.tile_bytes = 100;
    ck_assert(refuses(&config, &o, ZERO_ERR_UNSUPPORTED, "2 tile_bytes"));
    o.tile_bytes = 0;
    o.muon = true;
    ck_assert(refuses(&config, &o, ZERO_ERR_UNSUPPORTED, "2 ZERO_RULE_MUON"));
    o = options;
    o.tensor = 1;
    o.context = 2;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "9 2 4 12"));
    o.context = -1;
    ck_assert(refuses(&config, &o, ZERO_ERR_ARG, "-1"));
    o = (zero_model_options_t){.micro_batch = 3, .seq_len = 8, .threads = 1, .tensor = 8, .context = 4};
    other = config;
    other.heads = other.kv_heads = 8;
    other.hidden = 32;
    ck_assert(refuses(&other, &o, ZERO_ERR_ARG, "3 2 8 whole_rows 4"));
}
END_TEST

/* The model and the engine have the same tensor. */
START_TEST(test_mesh)
{
    const zero_model_config_t config = config_of("llama", false);
    zero_model_options_t o = {
        .micro_batch = 2, .seq_len = 4, .dtype = ZERO_FP32, .threads = 1, .tensor = _i == 0 ? 2 : 1};
    zero_error_t error;
    zero_engine_t *engine;
    zero_config_t engine_config;
    zero_model_t *model;

    zero_config_init(&engine_config);
    engine_config.plan_world = 4;
    engine_config.mesh.tensor = _i == 0 ? 4 : 2;
    ck_assert_int_eq(zero_create(&engine, &engine_config, &error), ZERO_OK);
    ck_assert_int_eq(zero_model_create(&model, &config, &o, &error), ZERO_OK);
    ck_assert_int_eq(zero_model_declare(model, engine, &error), ZERO_ERR_ARG);
    ck_assert_msg(has_names(error.text, _i == 0 ? "2 4 mesh.tensor" : "1 2 mesh.tensor"), "%s", error.text);
    zero_destroy(engine);
    zero_model_destroy(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model_tensor");
    TCase *tests = tcase_create("all");

    tcase_set_timeout(tests, 600);
    tcase_add_loop_test(tests, test_golden, 0, RUNS);
    tcase_add_loop_test(tests, test_near, 0, MODELS);
    tcase_add_loop_test(tests, test_context, 0, MODELS);
    tcase_add_loop_test(tests, test_pipe, 0, 4);
    tcase_add_loop_test(tests, test_pipe_encoder, 0, 4);
    tcase_add_test(tests, test_refused);
    tcase_add_loop_test(tests, test_mesh, 0, 2);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
