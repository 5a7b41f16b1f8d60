/* SPDX-License-Identifier: Apache-2.0 */
/* test_sample.c - samples with a cache of keys and values: the logits of a sequence that grows are those of its tokens
 * computed at once, for a model of each family; and they have the same bits at every stage, offload, world and
 * recompute mode. */
#include "tests/expect.h"
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const runs[] = {"cosine", "llama", "llama-biased", "mistral", "qwen2", "qwen3"};
enum { RUNS = sizeof runs / sizeof *runs, TOKENS = 29, VOCAB = 97, STAGES = 4 };

static model_golden_t golden;

/* What the ranks found: the logits of the last of each number of tokens. */
typedef struct trial {
    model_case_t c;
    double tolerance; /* relative to the largest logit */
    float grown[8][TOKENS][VOCAB];
} trial_t;

static model_case_t case_of(const char *name, int world)
{
    model_read_golden(&golden, name);
    golden.seq_len = 7; /* a prompt then takes several passes */
    golden.batch = 6;
    return (model_case_t){.golden = &golden,
                          .folder = golden.model,
                          .world = world,
                          .window = 2,
                          .threads = 1,
                          .backend = "cpu",
                          .micro_batch = 1,
                          .reduce = ZERO_REDUCE_EVERY};
}

static bool close_to(const float *got, const float *want, double tolerance)
{
    double most = 0;

    for (int v = 0; v < VOCAB; v++)
        most = fmax(most, fabs((double)want[v]));
    for (int v = 0; v < VOCAB; v++)
        if (!(fabs((double)got[v] - (double)want[v]) <= tolerance * most))
            return false;
    return true;
}

/* Appends n tokens behind past, and compares the logits with those of the tokens at once. */
static int append(model_rank_t *r, const trial_t *t, const int32_t *tokens, int64_t n, int64_t past, float *logits,
                  const float (*whole)[VOCAB])
{
    if (zero_model_logits(r->model, tokens + past, n, past, logits, &r->error) != ZERO_OK) {
        fprintf(stderr, "%s: %s\n", t->c.folder, r->error.text);
        return -1;
    }
    if (close_to(logits, whole[past + n - 1], t->tolerance))
        return 0;
    fprintf(stderr, "%s: logits of %d tokens behind %d differ from those of all at once\n", t->c.folder, (int)n,
            (int)past);
    return -1;
}

static int sample_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    trial_t *t = arg;
    static float whole[TOKENS][VOCAB], again[VOCAB];
    float(*grown)[VOCAB] = t->grown[rank];
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    model_rank_t r;
    int failed = model_rank_open(&r, &t->c, bootstrap);

    (void)world;
    /* another sequence first, which is longer: what it leaves in the cache must not be seen */
    failed = failed || zero_model_logits(r.model, tokens + 40, TOKENS + 3, 0, again, &r.error) != ZERO_OK;
    for (int64_t n = 1; n <= TOKENS && !failed; n++)
        failed = zero_model_logits(r.model, tokens, n, 0, whole[n - 1], &r.error) != ZERO_OK;
    /* a prompt of three tokens, then one at a time */
    failed = failed || append(&r, t, tokens, 3, 0, grown[2], (const float(*)[VOCAB])whole);
    for (int64_t n = 3; n < TOKENS && !failed; n++)
        failed = append(&r, t, tokens, 1, n, grown[n], (const float(*)[VOCAB])whole);
    /* back to token 5, several at a time, more than a pass takes at once */
    failed = failed || append(&r, t, tokens, 2, 5, again, (const float(*)[VOCAB])whole) ||
             append(&r, t, tokens, 20, 7, again, (const float(*)[VOCAB])whole) ||
             append(&r, t, tokens, 1, 0, grown[0], (const float(*)[VOCAB])whole) ||
             append(&r, t, tokens, 1, 1, grown[1], (const float(*)[VOCAB])whole);
    if (failed)
        fprintf(stderr, "rank %d: %s\n", rank, r.error.text);
    model_rank_close(&r);
    free(tokens);
    return failed ? -1 : 0;
}

/* Runs the trial. With `same` the logits must have the bits of that trial. */
static void try(trial_t *t, const trial_t *same)
{
    ck_assert_int_eq(ranks_run(t->c.world, 120, sample_rank, t), 0);
    for (int r = 0; r < t->c.world; r++)
        ck_assert_msg(memcmp(t->grown[r], same ? same->grown[0] : t->grown[0], sizeof t->grown[r]) == 0,
                      "%s, stage %d, rank %d of %d: other bits", t->c.folder, t->c.stage, r, t->c.world);
}

static trial_t *trial_of(const model_case_t *c, double tolerance)
{
    trial_t *t = ranks_shared(sizeof *t);

    t->c = *c;
    t->tolerance = tolerance;
    return t;
}

/* Each stage runs with another offload, recompute mode and number of ranks. */
START_TEST(test_stages)
{
    model_case_t c = case_of(runs[_i], 1);
    trial_t *base = trial_of(&c, 1e-5);

    try(base, NULL);
    for (int stage = 0; stage < STAGES; stage++) {
        trial_t *t = trial_of(&c, 1e-5);

        t->c.world = 1 + (stage + _i) % 3;
        t->c.stage = stage;
        t->c.recompute = (zero_recompute_t)(stage % 3);
        t->c.offload = stage % 2 == 1;
        t->c.window = 1 + stage;
        t->c.threaded = stage == 3;
        t->c.packed = stage == 2;
        t->c.untrained = stage >= 2;
        try(t, base);
        ranks_unshare(t, sizeof *t);
    }
    ranks_unshare(base, sizeof *base);
}
END_TEST

/* Ranks that compute layers together have the same logits, which are those of one rank. */
static const struct {
    const char *run;
    int tensor, pipe, world;
    bool whole_rows, untrained;
} tensors[] = {
    {"cosine", 5, 1, 5, true, false}, {"llama", 2, 1, 2, false, false}, {"mistral", 2, 1, 4, false, true},
    {"qwen2", 2, 2, 4, false, false}, {"qwen3", 2, 1, 2, true, false},
};
enum { TENSORS = sizeof tensors / sizeof *tensors };

START_TEST(test_tensor)
{
    model_case_t c = case_of(tensors[_i].run, 1);
    trial_t *base = trial_of(&c, 1e-5);

    try(base, NULL);
    c.micro_batch = 2; /* so that ranks can divide its rows */
    c.tensor = tensors[_i].tensor;
    c.pipe = tensors[_i].pipe;
    c.world = tensors[_i].world;
    c.whole_rows = tensors[_i].whole_rows;
    c.untrained = tensors[_i].untrained;
    for (int stage = 0; stage < (c.pipe > 1 ? 2 : STAGES); stage += 1) {
        trial_t *t = trial_of(&c, 1e-5);
        const int last = c.world - c.world / c.pipe; /* the first rank of the last stage */

        t->c.stage = stage;
        ck_assert_int_eq(ranks_run(c.world, 120, sample_rank, t), 0);
        for (int r = last; r < c.world; r++) {
            ck_assert_mem_eq(t->grown[r], t->grown[last], sizeof t->grown[r]);
            for (int n = 0; n < TOKENS; n++)
                ck_assert_msg(close_to(t->grown[r][n], base->grown[0][n], 1e-5), "%s, rank %d, %d tokens: other logits",
                              c.folder, r, n + 1);
        }
        ranks_unshare(t, sizeof *t);
    }
    ranks_unshare(base, sizeof *base);
}
END_TEST

/* Other kernels and dtypes: plain C, several threads, 16 bits, adapters. */
static const struct {
    const char *run, *backend;
    zero_dtype_t dtype;
    int threads;
    double tolerance;
} others[] = {
    {"cosine", "ref", ZERO_FP32, 1, 1e-5},     {"qwen3", "ref", ZERO_FP32, 1, 1e-5},
    {"cosine", "cpu", ZERO_FP32, 3, 1e-5},     {"llama", "cpu", ZERO_FP32, 2, 1e-5},
    {"llama", "cpu", ZERO_BF16, 1, 3e-2},      {"qwen3", "cpu", ZERO_BF16, 2, 3e-2},
    {"cosine", "cpu", ZERO_FP16, 2, 4e-3},     {"llama", "ref", ZERO_FP16, 1, 4e-3},
    {"lora-llama", "cpu", ZERO_FP32, 2, 1e-5},
};
enum { OTHERS = sizeof others / sizeof *others };

START_TEST(test_kernels)
{
    model_case_t c = case_of(others[_i].run, 2);

    golden.dtype = others[_i].dtype;
    c.stage = 3;
    c.backend = others[_i].backend;
    c.threads = others[_i].threads;
    trial_t *t = trial_of(&c, others[_i].tolerance);

    try(t, NULL);
    ranks_unshare(t, sizeof *t);
}
END_TEST

/* ---- order of calls --------------------------------------------------------------------------------------------- */

static bool refuses(model_rank_t *r, const int32_t *tokens, int64_t n, int64_t past, zero_status_t wanted,
                    const char *names)
{
    float logits[VOCAB];
    const zero_status_t status = zero_model_logits(r->model, tokens, n, past, logits, &r->error);

    if (status == wanted && (status == ZERO_OK || has_names(r->error.text, names)))
        return true;
    fprintf(stderr, "%d tokens behind %d: status %d, '%s' does not say '%s'\n", (int)n, (int)past, (int)status,
            r->error.text, names);
    return false;
}

static int order_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    int32_t tokens[64] = {0}, bad[2] = {1, VOCAB};
    model_rank_t r;
    double loss;
    int failed = model_rank_open(&r, c, bootstrap);
    const int64_t most = r.config.positions;

    (void)rank;
    (void)world;
    failed = failed || !refuses(&r, tokens, 1, 1, ZERO_ERR_ORDER, "1 0") ||
             !refuses(&r, tokens, 0, 0, ZERO_ERR_ARG, "0") || !refuses(&r, tokens, 1, -1, ZERO_ERR_ARG, "-1") ||
             !refuses(&r, tokens, most + 1, 0, ZERO_ERR_ARG, "33 34") || !refuses(&r, tokens, most, 0, ZERO_OK, "") ||
             !refuses(&r, tokens, 1, most, ZERO_ERR_ARG, "33 1") ||
             !refuses(&r, tokens, 1, INT64_MAX, ZERO_ERR_ARG, "33") ||
             !refuses(&r, tokens, INT64_MAX, 1, ZERO_ERR_ARG, "33") || !refuses(&r, bad, 2, 4, ZERO_ERR_ARG, "97 96") ||
             !refuses(&r, tokens, 3, 4, ZERO_OK, "") || !refuses(&r, tokens, 1, 8, ZERO_ERR_ORDER, "8 7") ||
             !refuses(&r, tokens, 1, 7, ZERO_OK, "");
    /* an evaluation in between changes nothing; a step does */
    failed = failed ||
             zero_model_eval(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens}, 1, &loss, &r.error) !=
                 ZERO_OK ||
             !refuses(&r, tokens, 1, 8, ZERO_OK, "");
    for (int64_t k = 0; k < c->golden->batch && !failed; k++)
        failed = zero_model_train(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens},
                                  k + 1 == c->golden->batch ? ZERO_LAST : 0, &loss, &r.error) != ZERO_OK;
    failed = failed || zero_step(r.engine, 1e-3) != ZERO_OK || !refuses(&r, tokens, 1, 1, ZERO_ERR_ORDER, "1 0") ||
             !refuses(&r, tokens, 1, 0, ZERO_OK, "");
    if (failed)
        fprintf(stderr, "last error: %s\n", r.error.text);
    model_rank_close(&r);
    return failed ? -1 : 0;
}

START_TEST(test_order)
{
    model_case_t c = case_of("noam", 1); /* 33 positions */

    ck_assert_int_eq(ranks_run(1, 60, order_rank, &c), 0);
}
END_TEST

static int untrained_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    int32_t tokens[64] = {0};
    zero_memory_t memory = {.size = sizeof memory};
    model_rank_t r;
    double loss;
    int failed = model_rank_open(&r, arg, bootstrap);

    (void)rank;
    (void)world;
    failed = failed ||
             zero_model_train(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens}, 0, &loss,
                              &r.error) != ZERO_ERR_ORDER ||
             zero_model_eval(r.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens}, 1, &loss, &r.error) !=
                 ZERO_OK ||
             zero_forecast(r.engine, &memory) != ZERO_OK || memory.bytes[ZERO_TIER_DEVICE][ZERO_KIND_GRADIENTS] != 0 ||
             memory.bytes[ZERO_TIER_DEVICE][ZERO_KIND_MOMENTS] != 0;
    if (failed)
        fprintf(stderr, "last error: %s\n", r.error.text);
    model_rank_close(&r);
    return failed ? -1 : 0;
}

START_TEST(test_untrained)
{
    model_case_t c = case_of("qwen3", 1);

    c.untrained = true;
    ck_assert_int_eq(ranks_run(1, 60, untrained_rank, &c), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sample");
    TCase *tc = tcase_create("sample");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, test_stages, 0, RUNS);
    tcase_add_loop_test(tc, test_tensor, 0, TENSORS);
    tcase_add_loop_test(tc, test_kernels, 0, OTHERS);
    tcase_add_test(tc, test_order);
    tcase_add_test(tc, test_untrained);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
