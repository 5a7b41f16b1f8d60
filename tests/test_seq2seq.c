/* SPDX-License-Identifier: Apache-2.0 */
/* test_seq2seq.c - models with an encoder and a decoder at every stage against PyTorch's nn.Transformer
 * (tests/golden/seq2seq.py): sources and targets of several lengths, norms behind and before the sublayers; the same
 * bits at every stage, in every recompute mode and with any padding; samples. */
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const models[] = {"transformer", "transformer-pre"};
enum { MODELS = sizeof models / sizeof *models, STAGES = 4 };

static model_golden_t golden;
static model_result_t base, result;

/* Stage 0 keeps all activations. Every recompute mode is then run, and activations are offloaded. */
static void check_stages(model_case_t *c)
{
    model_check_run(c, &base);
    for (int i = 1; i < STAGES; i++) {
        c->stage = i;
        c->recompute = (zero_recompute_t)(i % 3);
        c->offload_activations = c->recompute == ZERO_RECOMPUTE_FULL;
        c->window = i;
        model_check_run(c, &result);
        model_check_same(c, &result, &base);
    }
}

START_TEST(test_fp32)
{
    model_case_t c = model_golden_case(&golden, models[_i % MODELS], 1 + _i / MODELS, 2, "cpu");

    check_stages(&c);
}
END_TEST

START_TEST(test_bf16)
{
    char name[64];

    snprintf(name, sizeof name, "%s-bf16", models[_i]);
    model_case_t c = model_golden_case(&golden, name, 3 - _i, 2, "cpu");

    check_stages(&c);
}
END_TEST

/* fp16 stays near the results in fp32. */
START_TEST(test_fp16)
{
    model_case_t c = model_golden_case(&golden, models[_i], 2 + _i, 2, "cpu");

    golden.dtype = ZERO_FP16;
    golden.tolerance = 2e-3;
    check_stages(&c);
}
END_TEST

/* The decoder's table, which is also the head, in tiles of 16 rows; the source's is too small for that. */
START_TEST(test_tiles)
{
    model_case_t c = model_golden_case(&golden, models[_i], 2 + _i, 2, "cpu");

    c.tile_bytes = c.persist_bytes = 1;
    check_stages(&c);
}
END_TEST

/* Plain C kernels, and one rank with the whole batch. */
START_TEST(test_ref)
{
    model_case_t c = model_golden_case(&golden, models[_i], 1, 12, "ref");

    c.stage = 3;
    model_check_run(&c, &result);
}
END_TEST

/* Other tokens in the padding of sources and targets give the same bits. */
START_TEST(test_padding)
{
    model_case_t c = model_golden_case(&golden, models[_i % MODELS], 2, 6, "cpu");

    c.recompute = _i < MODELS ? ZERO_RECOMPUTE_NONE : ZERO_RECOMPUTE_SELECTIVE;
    model_check_run(&c, &base);
    c.padding = 7;
    model_check_run(&c, &result);
    model_check_same(&c, &result, &base);
}
END_TEST

/* ---- samples, bad batches --------------------------------------------------------------------------------------- */

/* The loss of a target by the logits of samples: the same as that of an evaluation, up to rounding. */
static int sample_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    double wanted = 0, sum = 0;
    float logits[64];
    model_rank_t r;
    model_rows_t rows;
    int failed = model_rank_open(&r, c, bootstrap);

    (void)rank;
    (void)world;
    model_fill_rows(&rows, c, NULL, 0, 3, 1);
    const model_example_t *e = &c->golden->examples[3];
    if (!failed)
        failed = zero_model_logits(r.model, rows.batch.tokens, 1, 0, logits, &r.error) != ZERO_ERR_ORDER ||
                 zero_model_eval(r.model, &rows.batch, 1, &wanted, &r.error) != ZERO_OK ||
                 zero_model_encode(r.model, e->source, e->source_count, &r.error) != ZERO_OK;
    for (int64_t t = 0; t <= e->target_count && !failed; t++) {
        const int64_t past = t % 3 == 2 ? 0 : t; /* also all of it anew */
        double all = 0;

        failed = zero_model_logits(r.model, rows.batch.tokens + past, t + 1 - past, past, logits, &r.error) != ZERO_OK;
        for (int64_t v = 0; v < r.config.vocab; v++)
            all += exp((double)logits[v]);
        sum += log(all) - (double)logits[rows.batch.targets[t]];
    }
    /* an evaluation takes the place of the source */
    if (!failed)
        failed = zero_model_eval(r.model, &rows.batch, 1, &wanted, &r.error) != ZERO_OK ||
                 zero_model_logits(r.model, rows.batch.tokens, 1, 0, logits, &r.error) != ZERO_ERR_ORDER;
    if (!failed && !(fabs(sum - wanted) <= 1e-5 * wanted)) {
        fprintf(stderr, "%s: loss %.9g by samples, %.9g by an evaluation\n", c->folder, sum, wanted);
        failed = -1;
    }
    free(rows.memory);
    model_rank_close(&r);
    return failed;
}

START_TEST(test_samples)
{
    model_case_t c = model_golden_case(&golden, models[_i % MODELS], 1, 2, "cpu");

    c.untrained = _i >= MODELS;
    ck_assert_int_eq(ranks_run(1, 60, sample_rank, &c), 0);
}
END_TEST

static int bad_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    const int32_t large[16] = {[4] = 11}; /* a token that only the decoder has */
    model_rank_t r;
    double loss;
    int failed = model_rank_open(&r, c, bootstrap);

    (void)rank;
    (void)world;
    for (int k = 0; k < 5 && !failed; k++) {
        model_rows_t rows;

        model_fill_rows(&rows, c, NULL, 0, 0, 1);
        int32_t length = k == 0 ? 0 : k == 1 ? 10 : 9;
        rows.batch.source_lengths = k == 4 ? NULL : &length;
        rows.batch.source = k == 2 ? NULL : k == 3 ? large : rows.batch.source;
        failed = zero_model_train(r.model, &rows.batch, ZERO_LAST, &loss, &r.error) != ZERO_ERR_ARG;
        failed |= zero_model_encode(r.model, k == 3 ? large : c->golden->examples[0].source, length, &r.error) !=
                  (k == 2 || k == 4 ? ZERO_OK : ZERO_ERR_ARG);
        free(rows.memory);
    }
    model_rank_close(&r);
    return failed;
}

/* Lengths and tokens that no source has, and batches without a source. */
START_TEST(test_bad_sources)
{
    model_case_t c = model_golden_case(&golden, "transformer", 1, 1, "cpu");

    ck_assert_int_eq(ranks_run(1, 60, bad_rank, &c), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("seq2seq");
    TCase *tc = tcase_create("seq2seq");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_fp32, 0, 3 * MODELS);
    tcase_add_loop_test(tc, test_bf16, 0, MODELS);
    tcase_add_loop_test(tc, test_fp16, 0, MODELS);
    tcase_add_loop_test(tc, test_tiles, 0, MODELS);
    tcase_add_loop_test(tc, test_ref, 0, MODELS);
    tcase_add_loop_test(tc, test_padding, 0, 2 * MODELS);
    tcase_add_loop_test(tc, test_samples, 0, 2 * MODELS);
    tcase_add_test(tc, test_bad_sources);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
