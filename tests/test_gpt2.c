/* SPDX-License-Identifier: Apache-2.0 */
/* test_gpt2.c - GPT-2 at every stage against PyTorch's results (tests/golden/generate.py), and the same bits wherever
 * they are promised. `make check` runs a covering sample of the settings; ZERO_CHECK_FULL=1 runs all. */
#include "tests/expect.h"
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool full(void)
{
    const char *value = getenv("ZERO_CHECK_FULL");

    return value && *value && strcmp(value, "0") != 0;
}

/* Settings that change bits: each has its own base run. */
static const struct {
    int world;
    int64_t micro_batch;
    zero_reduce_t reduce;
} groups[] = {
    {1, 12, ZERO_REDUCE_EVERY}, {1, 4, ZERO_REDUCE_LAST},  {2, 6, ZERO_REDUCE_EVERY}, {2, 3, ZERO_REDUCE_EVERY},
    {2, 1, ZERO_REDUCE_LAST},   {3, 4, ZERO_REDUCE_EVERY}, {3, 2, ZERO_REDUCE_LAST},  {3, 1, ZERO_REDUCE_EVERY},
    {4, 3, ZERO_REDUCE_LAST},   {4, 1, ZERO_REDUCE_EVERY},
};
enum { GROUPS = sizeof groups / sizeof *groups, STAGES = 4, RECOMPUTES = 3 };
static const int windows[] = {2, 1, 3, 9};
static const int64_t persists[] = {0, 65536, 20000};

static model_golden_t golden;
static model_result_t base, result;

static model_case_t group_base(int group)
{
    return (model_case_t){.golden = &golden,
                          .folder = "gpt2",
                          .world = groups[group].world,
                          .window = 2,
                          .threads = 1,
                          .backend = "cpu",
                          .micro_batch = groups[group].micro_batch,
                          .reduce = groups[group].reduce,
                          .steps = golden.steps};
}

/* Each group runs every stage with every recompute mode. Window, device and persistence go through all their pairs as
 * the case numbers increase. */
START_TEST(test_matrix)
{
    const int group = _i;
    model_case_t c;
    int n = 0;

    model_read_golden(&golden, "cosine");
    c = group_base(group);
    model_check_run(&c, &base);
    for (int stage = 0; stage < STAGES; stage++)
        for (int recompute = 0; recompute < RECOMPUTES; recompute++)
            for (int window = 0; window < (full() ? 4 : 1); window++)
                for (int persist = 0; persist < (full() ? 3 : 1); persist++)
                    for (int threaded = 0; threaded < (full() ? 2 : 1); threaded++, n++) {
                        c.stage = stage;
                        c.recompute = (zero_recompute_t)recompute;
                        c.window = windows[full() ? window : (n + group) % 4];
                        c.persist_bytes = persists[full() ? persist : (n / 4 + stage + group) % 3];
                        c.threaded = full() ? threaded : (n / 3 + recompute + group / 4) % 2;
                        model_check_run(&c, &result);
                        model_check_same(&c, &result, &base);
                    }
}
END_TEST

/* Other sequence lengths, schedules, betas, weight decay; no clipping; bf16; the head in chunks; plain C kernels;
 * threads. */
static const struct {
    const char *name;
    int world;
    int64_t micro_batch, head_rows, head_columns;
    int threads;
    const char *backend;
    int64_t tile_bytes;
} others[] = {
    {"noam", 2, 3, 0, 0, 1, "cpu", 0},       {"noam", 3, 2, 40, 0, 1, "cpu", 0},   {"linear", 4, 2, 0, 31, 1, "cpu", 0},
    {"linear", 1, 24, 64, 96, 2, "cpu", 0},  {"bf16", 2, 2, 0, 0, 1, "cpu", 0},    {"bf16", 3, 4, 0, 50, 1, "cpu", 0},
    {"cosine", 1, 2, 13, 7, 2, "cpu", 0},    {"cosine", 3, 4, 0, 0, 1, "ref", 0},  {"bf16", 2, 6, 30, 20, 1, "ref", 0},
    {"cosine", 3, 4, 20, 0, 1, "cpu", 2000}, {"bf16", 2, 6, 0, 0, 1, "ref", 2000},
};
enum { OTHERS = sizeof others / sizeof *others };

START_TEST(test_others)
{
    model_case_t c;

    model_read_golden(&golden, others[_i].name);
    c = (model_case_t){.golden = &golden,
                       .folder = "gpt2",
                       .world = others[_i].world,
                       .window = 2,
                       .threads = others[_i].threads,
                       .backend = others[_i].backend,
                       .micro_batch = others[_i].micro_batch,
                       .head_rows = others[_i].head_rows,
                       .head_columns = others[_i].head_columns,
                       .tile_bytes = others[_i].tile_bytes,
                       .steps = golden.steps};
    model_check_run(&c, &base);
    for (int stage = 1; stage < STAGES; stage++) {
        c.stage = stage;
        c.recompute = (zero_recompute_t)(stage % RECOMPUTES);
        c.window = windows[stage];
        model_check_run(&c, &result);
        model_check_same(&c, &result, &base);
    }
}
END_TEST

/* One model in all existing naming variants: each folder gives PyTorch's evaluation loss for the weights with the same
 * rounding. */
static const char *const folders[] = {"gpt2", "gpt2-sharded", "gpt2-bf16", "gpt2-old"};

START_TEST(test_folder)
{
    double loss;
    model_case_t c;

    model_read_golden(&golden, "cosine");
    c = group_base(5);
    c.folder = folders[_i];
    c.stage = 3;
    c.steps = 0;
    loss = model_read_eval(c.folder, &golden.seq_len);
    golden.eval_before = loss;
    model_check_run(&c, &result);
    for (int i = 0; i < 4; i++) { /* the losses differ between the folders, except for the first two */
        int64_t seq_len;

        if (i != _i && i + _i != 1)
            ck_assert(fabs(model_read_eval(folders[i], &seq_len) - result.eval_before) >
                      MODEL_FP32_TOLERANCE / 2 * loss);
    }
}
END_TEST

/* Losses from sampled logits, for one length after the other, equal those of an evaluation of the whole sequence. */
static int logits_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    const int64_t T = c->golden->seq_len;
    double sum = 0, loss = 0;
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    model_rank_t r;
    int failed = model_rank_open(&r, c, bootstrap);

    (void)world;
    for (int64_t n = 1; n <= T && !failed; n++) {
        float *logits = malloc((size_t)r.config.vocab * sizeof *logits);
        double z = 0;

        failed = zero_model_logits(r.model, tokens, n, 0, logits, &r.error) != ZERO_OK;
        for (int64_t v = 0; v < r.config.vocab && !failed; v++)
            z += exp(logits[v]);
        if (!failed)
            sum += log(z) - logits[tokens[n]];
        free(logits);
    }
    if (!failed)
        failed = zero_model_eval(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens + 1}, 1, &loss,
                                 &r.error) != ZERO_OK;
    if (failed)
        fprintf(stderr, "rank %d: %s\n", rank, r.error.text);
    else if (!(fabs(sum - loss) <= c->golden->tolerance * loss)) {
        fprintf(stderr, "rank %d: losses from logits sum to %.12g, those of an evaluation to %.12g\n", rank, sum, loss);
        failed = 1;
    }
    model_rank_close(&r);
    free(tokens);
    return failed;
}

START_TEST(test_logits)
{
    static const double tolerances[ZERO_DTYPE_COUNT] = {[ZERO_FP32] = 1e-5, [ZERO_BF16] = 2e-3, [ZERO_FP16] = 3e-4};
    model_case_t c;

    model_read_golden(&golden, "noam"); /* 33 tokens: all positions, and a last shape that is not a power of two */
    golden.dtype = (zero_dtype_t)_i;
    golden.tolerance = tolerances[_i];
    c = (model_case_t){.golden = &golden,
                       .folder = "gpt2",
                       .world = 2,
                       .stage = 3,
                       .window = 2,
                       .threads = 1,
                       .backend = "cpu",
                       .micro_batch = 2};
    ck_assert_int_eq(ranks_run(2, 60, logits_rank, &c), 0);
}
END_TEST

/* Invalid tokens are refused before anything runs; the same rank can continue. */
static int tokens_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    const int64_t rows = c->micro_batch * c->golden->seq_len;
    static const struct {
        int32_t token;
        const char *sentence;
    } bad[] = {
        {97, "5 97 0 96"},
        {-1, "5 -1 0 96"},
    };
    int32_t *x = calloc((size_t)rows, sizeof *x), *y = calloc((size_t)rows, sizeof *y);
    int failed = 0;
    model_rank_t r;
    double loss;

    (void)rank;
    (void)world;
    failed = model_rank_open(&r, c, bootstrap);
    for (int i = 0; i < 2 && !failed; i++) {
        x[5] = bad[i].token;
        failed |= zero_model_train(r.model, &(zero_model_batch_t){.tokens = x, .targets = y}, ZERO_LAST, &loss,
                                   &r.error) != ZERO_ERR_ARG ||
                  !has_names(r.error.text, bad[i].sentence);
        failed |= zero_model_train(r.model, &(zero_model_batch_t){.tokens = y, .targets = x}, ZERO_LAST, &loss,
                                   &r.error) != ZERO_ERR_ARG ||
                  !has_names(r.error.text, "5");
        failed |= zero_model_eval(r.model, &(zero_model_batch_t){.tokens = x, .targets = y}, c->micro_batch, &loss,
                                  &r.error) != ZERO_ERR_ARG;
        failed |= zero_model_logits(r.model, x, 6, 0, NULL, &r.error) != ZERO_ERR_ARG;
    }
    x[5] = 96;
    failed = failed ||
             zero_model_train(r.model, &(zero_model_batch_t){.tokens = x, .targets = y}, ZERO_LAST, &loss, &r.error) !=
                 ZERO_OK ||
             zero_step(r.engine, 1e-3) != ZERO_OK;
    if (failed)
        fprintf(stderr, "last error: %s\n", r.error.text);
    model_rank_close(&r);
    free(x);
    free(y);
    return failed;
}

START_TEST(test_tokens)
{
    model_case_t c;

    model_read_golden(&golden, "cosine");
    c = group_base(0);
    ck_assert_int_eq(ranks_run(1, 60, tokens_rank, &c), 0);
}
END_TEST

START_TEST(test_create_refuses)
{
    static const struct {
        zero_model_options_t options;
        zero_status_t status;
        const char *sentence;
    } bad[] = {
        {{.micro_batch = 1, .seq_len = 257, .threads = 1}, ZERO_ERR_ARG, "257 256"},
        {{.micro_batch = 0, .seq_len = 8, .threads = 1}, ZERO_ERR_ARG, "1"},
        {{.micro_batch = 1, .seq_len = 8, .sample_len = 257, .threads = 1}, ZERO_ERR_ARG, "256"},
        {{.micro_batch = 1, .seq_len = 8, .dtype = ZERO_DTYPE_COUNT, .threads = 1}, ZERO_ERR_ARG, "dtype 3"},
        {{.micro_batch = 1, .seq_len = 8, .threads = 0}, ZERO_ERR_ARG, "threads"},
        {{.micro_batch = 1ll << 40, .seq_len = 8, .threads = 1}, ZERO_ERR_ARG, ""},
        {{.micro_batch = 1, .seq_len = 8, .threads = 1, .backend = "abacus"}, ZERO_ERR_ARG, "abacus"},
    };
    zero_model_config_t config;
    zero_model_t *model = NULL;
    zero_error_t error;

    ck_assert_int_eq(zero_model_preset(&config, "tiny", &error), ZERO_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&error, 0, sizeof error);
        ck_assert_int_eq(zero_model_create(&model, &config, &bad[i].options, &error), bad[i].status);
        ck_assert_ptr_null(model);
        ck_assert_msg(has_names(error.text, bad[i].sentence), "%s", error.text);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gpt2");
    TCase *matrix = tcase_create("matrix"), *rest = tcase_create("rest");
    SRunner *runner;
    int failed;

    tcase_set_timeout(matrix, 7200); /* the ranks have their own time limits */
    tcase_set_timeout(rest, 600);
    tcase_add_loop_test(matrix, test_matrix, 0, GROUPS);
    tcase_add_loop_test(rest, test_others, 0, OTHERS);
    tcase_add_loop_test(rest, test_folder, 0, 4);
    tcase_add_loop_test(rest, test_logits, 0, ZERO_DTYPE_COUNT);
    tcase_add_test(rest, test_tokens);
    tcase_add_test(rest, test_create_refuses);
    suite_add_tcase(suite, rest);
    suite_add_tcase(suite, matrix);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
