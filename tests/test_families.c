/* SPDX-License-Identifier: Apache-2.0 */
/* test_families.c - a model of each family at every stage against transformers' results (tests/golden/families.py), and
 * the same bits at every stage and in every recompute mode. */
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const models[] = {"llama", "llama-biased", "mistral", "qwen2", "qwen3"};
enum { MODELS = sizeof models / sizeof *models, STAGES = 4, RECOMPUTES = 3 };

static model_golden_t golden;
static model_result_t base, result;

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
    model_case_t c = model_golden_case(&golden, models[_i], 2 + _i % 2, 2, "cpu");

    check_stages(&c);
}
END_TEST

START_TEST(test_bf16)
{
    char name[64];

    snprintf(name, sizeof name, "%s-bf16", models[_i]);
    model_case_t c = model_golden_case(&golden, name, 3 - _i % 2, 2, "cpu");

    check_stages(&c);
}
END_TEST

/* fp16 stays near the results in fp32. */
START_TEST(test_fp16)
{
    model_case_t c = model_golden_case(&golden, models[_i], 2 + _i % 2, 2, "cpu");

    golden.dtype = ZERO_FP16;
    golden.tolerance = 2e-3;
    check_stages(&c);
}
END_TEST

/* Tables in tiles, and logits in blocks, whose gradients are reduced one by one. */
START_TEST(test_tiles)
{
    model_case_t c = model_golden_case(&golden, models[_i], 2 + _i % 2, 2, "cpu");

    c.tile_bytes = 1 + 5000 * (_i % 2);
    c.head_rows = _i % 3 * 10;
    c.persist_bytes = 1;
    check_stages(&c);
}
END_TEST

/* Plain C kernels, and one rank with the whole batch. */
START_TEST(test_ref)
{
    model_case_t c = model_golden_case(&golden, models[_i], 1, 12, "ref");

    c.stage = 3;
    model_check_run(&c, &base);
    c.backend = "cpu";
    c.head_rows = 40;
    c.head_columns = 31;
    model_check_run(&c, &result);
}
END_TEST

/* ---- packed documents ------------------------------------------------------------------------------------------- */

/* Documents of a row, and of other rows: the same documents alone, each at the start of its own. */
enum { DOCUMENTS = 3 };
static const int lengths[DOCUMENTS] = {8, 1, 12}; /* 21 together */

/* Trains on rows that hold tokens of documents first to last; what is behind them does not count. Sets the sum of
 * losses, the norm of its gradient, and the loss of an evaluation before. Returns 0, or -1. */
static int train_documents(model_rank_t *r, const model_case_t *c, const int32_t *tokens, bool packed, double *loss,
                           double *norm, double *eval)
{
    const int64_t T = c->golden->seq_len, rows = c->micro_batch * T;
    int32_t *x = calloc((size_t)rows, sizeof *x), *y = malloc((size_t)rows * sizeof *y),
            *starts = calloc((size_t)rows, sizeof *starts);
    zero_stats_t stats = {.size = sizeof stats};
    const zero_model_batch_t batch = {.tokens = x, .targets = y, .starts = packed ? starts : NULL};
    int failed;

    for (int64_t i = 0; i < rows; i++)
        y[i] = ZERO_NN_IGNORE;
    for (int d = 0, first = 0; d < DOCUMENTS; first += lengths[d], d++)
        for (int i = 0; i < lengths[d]; i++) {
            const int64_t at = packed ? first + i : d * T + i;

            x[at] = tokens[first + i];
            y[at] = i + 1 < lengths[d] ? tokens[first + i + 1] : ZERO_NN_IGNORE;
            starts[at] = first;
        }
    failed = zero_model_eval(r->model, &batch, c->micro_batch, eval, &r->error) != ZERO_OK ||
             zero_model_train(r->model, &batch, ZERO_LAST, loss, &r->error) != ZERO_OK ||
             zero_step_weight(r->engine, zero_axis_index(r->engine, ZERO_AXIS_TENSOR) == 0 ? 18 : 0) != ZERO_OK ||
             zero_step(r->engine, 1e-3) != ZERO_OK || zero_step_stats(r->engine, &stats) != ZERO_OK;
    *norm = stats.grad_norm;
    if (failed)
        fprintf(stderr, "%s: %s\n", c->folder, r->error.text);
    free(x);
    free(y);
    free(starts);
    return failed ? -1 : 0;
}

static bool close_to(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fabs(b);
}

static int packed_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    model_case_t c = *(const model_case_t *)arg;
    double loss[2], norm[2], eval[2];
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    int failed = 0;

    (void)rank;
    (void)world;
    for (int packed = 0; packed < 2 && !failed; packed++) {
        model_rank_t r;

        c.packed = packed;
        failed = model_rank_open(&r, &c, bootstrap) ||
                 train_documents(&r, &c, tokens + 7, packed, &loss[packed], &norm[packed], &eval[packed]);
        model_rank_close(&r);
    }
    free(tokens);
    if (failed || (close_to(loss[1], loss[0]) && close_to(norm[1], norm[0]) && close_to(eval[1], eval[0]) &&
                   close_to(eval[0], loss[0])))
        return failed;
    fprintf(stderr, "%s: packed: loss %.9g, norm %.9g, evaluation %.9g; alone: %.9g, %.9g, %.9g\n", c.folder, loss[1],
            norm[1], eval[1], loss[0], norm[0], eval[0]);
    return -1;
}

/* Documents in one row give the losses and gradients of the same documents in rows of their own: attention does not
 * look across, and positions begin anew. */
static const struct {
    const char *name;
    zero_recompute_t recompute;
    const char *backend;
    int tensor; /* ranks that compute layers together, each of them all rows */
} packs[] = {
    {"cosine", ZERO_RECOMPUTE_NONE, "cpu", 1},     {"llama", ZERO_RECOMPUTE_FULL, "cpu", 1},
    {"qwen3", ZERO_RECOMPUTE_SELECTIVE, "cpu", 1}, {"llama", ZERO_RECOMPUTE_NONE, "ref", 1},
    {"cosine", ZERO_RECOMPUTE_NONE, "cpu", 5},     {"llama", ZERO_RECOMPUTE_FULL, "cpu", 2},
};
enum { PACKS = sizeof packs / sizeof *packs };

START_TEST(test_packed)
{
    model_case_t c = model_golden_case(&golden, packs[_i].name, packs[_i].tensor, 3, packs[_i].backend);

    c.recompute = packs[_i].recompute;
    c.tensor = packs[_i].tensor;
    c.whole_rows = true;
    ck_assert_int_eq(ranks_run(c.world, 60, packed_rank, &c), 0);
}
END_TEST

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
        failed = zero_model_train(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens, .starts = starts},
                                  ZERO_LAST, &loss, &r.error) != (c->packed ? ZERO_ERR_ARG : ZERO_ERR_ORDER);
    }
    model_rank_close(&r);
    return failed;
}

/* Starts that no documents have, and starts for a model that was created without them. */
START_TEST(test_bad_starts)
{
    model_case_t c = model_golden_case(&golden, "llama", 1, 1, "cpu");

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
    tcase_add_loop_test(tc, test_fp16, 0, MODELS);
    tcase_add_loop_test(tc, test_tiles, 0, MODELS);
    tcase_add_loop_test(tc, test_ref, 0, MODELS);
    tcase_add_loop_test(tc, test_packed, 0, PACKS);
    tcase_add_loop_test(tc, test_bad_starts, 0, 2);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
