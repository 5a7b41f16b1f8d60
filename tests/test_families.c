/* SPDX-License-Identifier: Apache-2.0 */
/* test_families.c - a model of each family at every stage against transformers' results (tests/golden/families.py), and
 * the same bits at every stage and in every recompute mode. */
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const models[] = {"llama", "llama-biased", "mistral", "qwen2", "qwen3"};
enum { MODELS = sizeof models / sizeof *models, STAGES = 4, RECOMPUTES = 3 };

static model_golden_t golden;
static model_result_t base, result;

static model_case_t case_of(const char *name, int world, int64_t micro_batch, const char *backend)
{
    model_read_golden(&golden, name);
    return (model_case_t){.golden = &golden,
                          .folder = golden.model,
                          .world = world,
                          .window = 2,
                          .threads = 1,
                          .backend = backend,
                          .micro_batch = micro_batch,
                          .reduce = ZERO_REDUCE_EVERY,
                          .steps = golden.steps};
}

/* Stage 0 keeps all activations; each stage and each recompute mode is then run at least once. */
static void check_stages(model_case_t *c)
{
    model_check_run(c, &base);
    for (int i = 1; i < STAGES; i++) {
        c->stage = i;
        c->recompute = (zero_recompute_t)(i % RECOMPUTES);
        c->window = i;
        model_check_run(c, &result);
        model_check_same(c, &result, &base);
    }
}

START_TEST(test_fp32)
{
    model_case_t c = case_of(models[_i], 2 + _i % 2, 2, "cpu");

    check_stages(&c);
}
END_TEST

START_TEST(test_bf16)
{
    char name[64];

    snprintf(name, sizeof name, "%s-bf16", models[_i]);
    model_case_t c = case_of(name, 3 - _i % 2, 2, "cpu");

    check_stages(&c);
}
END_TEST

/* Plain C kernels, and one rank with the whole batch. */
START_TEST(test_ref)
{
    model_case_t c = case_of(models[_i], 1, 12, "ref");

    c.stage = 3;
    model_check_run(&c, &base);
    c.backend = "cpu";
    c.head_rows = 40;
    c.head_columns = 31;
    model_check_run(&c, &result);
}
END_TEST

/* ---- packed documents ------------------------------------------------------------------------------------------- */

static int starts_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    static const int32_t bad[][4] = {{1, 1, 1, 1}, {0, 0, 1, 1}, {0, 0, 3, 3}, {0, 1, 0, 0}, {0, -1, -1, -1}};
    int32_t tokens[64] = {0}, starts[64];
    model_rank_t r;
    double loss;
    int failed = model_rank_open(&r, c, bootstrap);

    (void)rank;
    (void)world;
    for (size_t k = 0; k < sizeof bad / sizeof *bad && !failed; k++) {
        for (int i = 0; i < 64; i++)
            starts[i] = i < 4 ? bad[k][i] : bad[k][3];
        failed = zero_model_train(r.model, &(zero_model_batch_t){tokens, tokens, starts}, ZERO_LAST, &loss, &r.error) !=
                 (c->packed ? ZERO_ERR_ARG : ZERO_ERR_ORDER);
    }
    model_rank_close(&r);
    return failed;
}

/* Starts that no documents have, and starts for a model that was created without them. */
START_TEST(test_bad_starts)
{
    model_case_t c = case_of("llama", 1, 1, "cpu");

    c.packed = _i == 0;
    ck_assert_int_eq(ranks_run(1, 60, starts_rank, &c), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("families");
    TCase *tc = tcase_create("families");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_fp32, 0, MODELS);
    tcase_add_loop_test(tc, test_bf16, 0, MODELS);
    tcase_add_loop_test(tc, test_ref, 0, MODELS);
    tcase_add_loop_test(tc, test_bad_starts, 1, 2);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
