/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_gpt2.c - GPT-2 code that runs only on a GPU, on the emulated one: how the head is divided, how many calls a
 * micro-step makes, and layers as CUDA graphs. */
#include "models/decoder.h"
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/emulator/include/cuda_runtime_api.h"

#include <check.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

enum { B = 3, T = 32, ROWS = B * T };
#define RATE 1.0

static zero_error_t why;
#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, why.text)

/* GPT-2 on one GPU. An update by SGD shows its gradients. */
typedef struct bench {
    zero_device_t *device;
    zero_comm_t *comm;
    zero_engine_t *engine;
    zero_model_t *model;
} bench_t;

static const zero_model_config_t SMALL = {.family = "gpt2",
                                          .layers = 2,
                                          .heads = 2,
                                          .kv_heads = 2,
                                          .head_dim = 16,
                                          .width = 32,
                                          .hidden = 128,
                                          .vocab = 1157,
                                          .positions = T,
                                          .norm_eps = 1e-5,
                                          .qkv_bias = true,
                                          .projection_bias = true,
                                          .mlp_bias = true,
                                          .tied = true,
                                          .init_std = 0.02,
                                          .residual_init = true};

/* plan: only plans; nothing is allocated and nothing can run. */
static void declare(bench_t *b, const zero_model_config_t *model, const zero_model_options_t *given, bool plan)
{
    zero_model_options_t options = *given;
    zero_config_t config;
    memset(b, 0, sizeof *b);
    OK(zero_device_cuda(&b->device, NULL, &why));
    zero_comm_t *self;
    OK(zero_comm_self(&self, &why));
    OK(zero_comm_staged(&b->comm, self, b->device, 0, &why));
    zero_config_init(&config);
    OK(zero_config_stage(&config, 0));
    config.device = b->device;
    config.comm = plan ? NULL : b->comm;
    config.plan_world = plan ? 1 : 0;
    if (given->micro_steps > 0)
        config.micro_steps = (int)given->micro_steps;
    config.clip = 0;
    config.rule = ZERO_RULE_SGD;
    config.beta1 = config.weight_decay = 0;
    OK(zero_create(&b->engine, &config, &why));
    options.threads = 1;
    options.backend = "cuda";
    OK(zero_model_create(&b->model, model, &options, &why));
    OK(zero_model_declare(b->model, b->engine, &why));
    ck_assert_msg(zero_commit(b->engine) == ZERO_OK, "%s", zero_last_error(b->engine));
}

static void end(bench_t *b)
{
    zero_destroy(b->engine);
    zero_model_destroy(b->model);
    zero_comm_destroy(b->comm);
    zero_device_destroy(b->device);
}

static void start(bench_t *b, const zero_model_config_t *model, const zero_model_options_t *options)
{
    declare(b, model, options, false);
    OK(zero_model_bind(b->model, &why));
    OK(zero_model_init(b->model, 1, &why));
}

static int take(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)param;
    memcpy((float *)ctx + begin, values, (size_t)count * sizeof *values);
    return 0;
}

/* Runs a step and returns by how much it moved wte (V, C). */
static float *wte_step(bench_t *b, double *loss)
{
    const size_t count = (size_t)zero_model_param_elements(b->model, 0);
    float *before = malloc(count * sizeof *before), *after = malloc(count * sizeof *after);
    int32_t tokens[ROWS], targets[ROWS];
    for (int i = 0; i < ROWS; i++) {
        tokens[i] = i * 7919 % 31;
        targets[i] = (int32_t)(i * 104729 % SMALL.vocab);
    }
    ck_assert_int_eq(zero_param_read(b->engine, zero_model_param(b->model, 0), ZERO_STATE_MASTER, take, before),
                     ZERO_OK);
    OK(zero_model_train(b->model, &(zero_model_batch_t){.tokens = tokens, .targets = targets}, ZERO_LAST, loss, &why));
    ck_assert_int_eq(zero_step(b->engine, RATE), ZERO_OK);
    ck_assert_int_eq(zero_param_read(b->engine, zero_model_param(b->model, 0), ZERO_STATE_MASTER, take, after),
                     ZERO_OK);
    for (size_t i = 0; i < count; i++)
        after[i] = (float)((before[i] - after[i]) / RATE);
    free(before);
    return after;
}

/* ---- the head --------------------------------------------------------------------------------------------------- */

/* The head in 12 parts gives the same gradient as in one, except for the order of sums in fp32. The parts are not
 * rounded separately, which would show in nearly every element. */
START_TEST(parts_of_the_head)
{
    float *whole, *parts;
    double losses[2];
    bench_t b;
    zero_model_options_t options = {.micro_batch = B, .seq_len = T, .dtype = ZERO_BF16};
    start(&b, &SMALL, &options);
    whole = wte_step(&b, &losses[0]);
    end(&b);
    options.head_rows = ROWS / 12;
    start(&b, &SMALL, &options);
    parts = wte_step(&b, &losses[1]);
    const int64_t count = zero_model_param_elements(b.model, 0);
    end(&b);
    int64_t other = 0, zero = 0;
    for (int64_t i = 0; i < count; i++) {
        other += whole[i] != parts[i];
        zero += whole[i] == 0;
        ck_assert_msg(fabsf(whole[i] - parts[i]) <= 0x1p-7f * fabsf(whole[i]) + 1e-6f,
                      "element %lld is %.9g, and %.9g in parts", (long long)i, whole[i], parts[i]);
    }
    ck_assert_msg(zero < count / 10, "%lld of %lld gradients are 0", (long long)zero, (long long)count);
    ck_assert_msg(other < count / 20, "%lld of %lld gradients differ", (long long)other, (long long)count);
    ck_assert_msg(fabs(losses[0] - losses[1]) <= 1e-6 * losses[0], "losses are %.9g and %.9g", losses[0], losses[1]);
    free(whole);
    free(parts);
}
END_TEST

/* The rows of logits at a time, and the bytes that the forecast counts for them: at most 2 GiB, in multiples of 128
 * rows. */
START_TEST(sizes_of_the_head)
{
    static const struct {
        int64_t width, batch, seq_len, rows;
        bool sums;
    } CASES[] = {
        {768, 16, 1024, 16 * 1024, false}, /* 1.65 GB, in one */
        {64, 32, 1024, 16 * 1024, true},
        {64, 21, 1024, 10752, true}, /* 21,504 rows in two */
        {64, 3, 10, 30, false},
    };
    setenv("ZERO_EMULATOR_MEMORY", "400000000000", 1);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        zero_model_config_t model = SMALL;
        model.layers = 1;
        model.heads = model.kv_heads = CASES[i].width / 64;
        model.head_dim = 64;
        model.width = CASES[i].width;
        model.hidden = 4 * CASES[i].width;
        model.vocab = 50257;
        model.positions = 1024;
        zero_model_options_t options = {.micro_batch = CASES[i].batch, .seq_len = CASES[i].seq_len, .dtype = ZERO_BF16};
        zero_memory_t with = {.size = sizeof with}, without = with;
        bench_t b;
        declare(&b, &model, &options, true);
        ck_assert_int_eq(b.model->head_rows, CASES[i].rows);
        ck_assert_int_eq(b.model->head_columns >= 50257, 1);
        ck_assert_int_eq(b.model->logits_ld, 50304);
        ck_assert_int_eq(b.model->head_sums, CASES[i].sums);
        ck_assert_int_eq(zero_forecast(b.engine, &with), ZERO_OK);
        end(&b);
        options.head_rows = 1;
        declare(&b, &model, &options, true);
        ck_assert_int_eq(zero_forecast(b.engine, &without), ZERO_OK);
        end(&b);
        const uint64_t row = 50304 * 2, sums = (uint64_t)(50257 * CASES[i].width * 4 + 127) / 128 * 128;
        const uint64_t wanted = (uint64_t)CASES[i].rows * row - row - (CASES[i].sums ? 0 : sums);
        const uint64_t found = with.bytes[ZERO_TIER_DEVICE][ZERO_KIND_ACTIVATIONS] -
                               without.bytes[ZERO_TIER_DEVICE][ZERO_KIND_ACTIVATIONS];
        /* An arena is a multiple of the page size. */
        ck_assert_msg(found < wanted + 65536 && found + 65536 > wanted,
                      "case %d: %llu bytes more than with one row at a time, %llu are right", (int)i,
                      (unsigned long long)found, (unsigned long long)wanted);
    }
}
END_TEST

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void *emulator;
static uint64_t (*calls)(const char *what);

/* Call it after start. */
static void find_calls(void)
{
    emulator = dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(emulator != NULL, "%s", dlerror());
    *(void **)&calls = dlsym(emulator, "zero_emulator_calls");
    ck_assert(calls != NULL);
}

typedef struct count {
    int products, launches, copies, graphs;
} count_t;

static count_t counted(const count_t *before)
{
    count_t now = {(int)calls("cublasLtMatmul"), (int)calls("launch"), (int)calls("cudaMemcpyAsync"),
                   (int)calls("cudaGraphLaunch")};
    return (count_t){now.products - before->products, now.launches - before->launches, now.copies - before->copies,
                     now.graphs - before->graphs};
}

#define COUNT(what, call, p, l, c)                                                                        \
    do {                                                                                                  \
        const count_t none = {0}, before = counted(&none);                                                \
        call;                                                                                             \
        const count_t n = counted(&before);                                                               \
        OK(zero_nn_status(b.model->nn, &why));                                                            \
        ck_assert_msg(n.products == (p) && n.launches == (l) && n.copies == (c),                          \
                      "%s: %d products, %d launches, %d copies", what, n.products, n.launches, n.copies); \
    } while (0)

/* The counts in docs/gpu-status.md. In fp32, GELU and its gradient are separate kernels. */
static const struct {
    zero_dtype_t dtype;
    int forward, backward; /* launches per layer */
} CALLS[] = {{ZERO_BF16, 4, 10}, {ZERO_FP16, 4, 10}, {ZERO_FP32, 5, 10}};

START_TEST(calls_of_a_micro_step)
{
    bench_t b;
    const zero_dtype_t dtype = CALLS[_i].dtype;
    zero_model_options_t options = {.micro_batch = B, .seq_len = T, .dtype = dtype};
    start(&b, &SMALL, &options);
    find_calls();
    zero_model_t *m = b.model;
    memset(m->decoder.tokens, 0, ROWS * sizeof *m->decoder.tokens);
    memset(m->targets, 0, ROWS * sizeof *m->targets);
    COUNT("the embedding",
          zero_nn_embedding_forward(m->nn, m->decoder.x[0], m->decoder.tokens, m->decoder.embed->data,
                                    m->positions->data, B, T, SMALL.width, dtype),
          0, 1, 0);
    COUNT("a layer forward", zero_model_layer_forward(m, 0, &m->layers[0], m->decoder.x[0], m->decoder.x[1], B, T), 4,
          CALLS[_i].forward, 0);
    COUNT("the head", zero_model_head(m, m->decoder.out, m->losses, m->targets, ROWS, true), 6, 1, 0);
    COUNT("a layer backward", zero_model_layer_backward(m, 0), 8, CALLS[_i].backward, 0);
    /* It sorts by two bytes of a token, with three launches each. */
    COUNT("the embedding backward",
          zero_nn_embedding_backward(m->nn, m->decoder.embed->grad, m->positions->grad, m->dx, m->decoder.tokens, B, T,
                                     SMALL.width, SMALL.vocab, dtype),
          0, 8, 0);
    OK(zero_wait(b.engine));
    end(&b);
}
END_TEST

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

enum { STEPS = 2, MICRO = 2, EVALS = 3, RUNS = STEPS * MICRO, PASSES = RUNS + EVALS };

/* The results of a training: counts and losses of its micro-steps, then of its evaluations, and its parameters. */
typedef struct trained {
    count_t counts[PASSES];
    double losses[PASSES];
    float *params;
    size_t count;
    int warnings; /* warnings about graphs */
} trained_t;

static void count_warnings(void *ctx, zero_log_level_t level, const char *text)
{
    (void)level;
    ((trained_t *)ctx)->warnings += has_names(text, "CUDA");
}

static void pass_of(bench_t *b, trained_t *t, int pass)
{
    const count_t none = {0}, before = counted(&none);
    int32_t tokens[ROWS], targets[ROWS];
    for (int i = 0; i < ROWS; i++) {
        tokens[i] = (i + pass) * 7919 % 31;
        targets[i] = (int32_t)((i + 3 * pass) * 104729 % SMALL.vocab);
    }
    if (pass >= RUNS)
        OK(zero_model_eval(b->model, &(zero_model_batch_t){.tokens = tokens, .targets = targets}, B, &t->losses[pass],
                           &why));
    else
        OK(zero_model_train(b->model, &(zero_model_batch_t){.tokens = tokens, .targets = targets},
                            pass % MICRO == MICRO - 1 ? ZERO_LAST : 0, &t->losses[pass], &why));
    t->counts[pass] = counted(&before);
}

static void train(bench_t *b, const zero_model_options_t *given, bool graphs, trained_t *t)
{
    zero_model_options_t options = *given;
    memset(t, 0, sizeof *t);
    options.micro_steps = MICRO;
    options.eval = true;
    options.log = count_warnings;
    options.log_ctx = t;
    start(b, &SMALL, &options);
    find_calls();
    zero_nn_set_graphs(b->model->nn, graphs);
    for (int pass = 0; pass < PASSES; pass++) {
        pass_of(b, t, pass);
        if (pass < RUNS && pass % MICRO == MICRO - 1)
            ck_assert_msg(zero_step(b->engine, 0.01) == ZERO_OK, "%s", zero_last_error(b->engine));
    }
    const int params = zero_model_param_count(b->model);
    for (int p = 0; p < params; p++)
        t->count += (size_t)zero_model_param_elements(b->model, p);
    t->params = malloc(t->count * sizeof *t->params);
    float *at = t->params;
    for (int p = 0; p < params; p++) {
        ck_assert_int_eq(zero_param_read(b->engine, zero_model_param(b->model, p), ZERO_STATE_MASTER, take, at),
                         ZERO_OK);
        at += zero_model_param_elements(b->model, p);
    }
}

static void same_bits(const trained_t *a, const trained_t *b)
{
    ck_assert(a->losses[MICRO - 1] > 0 && a->losses[RUNS - 1] != a->losses[MICRO - 1]); /* it trains */
    ck_assert_mem_eq(a->losses, b->losses, sizeof a->losses);
    ck_assert_uint_eq(a->count, b->count);
    ck_assert_mem_eq(a->params, b->params, a->count * sizeof *a->params);
}

static const struct {
    zero_recompute_t recompute;
    bool offload;
    zero_dtype_t dtype;
} LAYERS[] = {
    {ZERO_RECOMPUTE_NONE, false, ZERO_BF16},      {ZERO_RECOMPUTE_NONE, false, ZERO_FP32},
    {ZERO_RECOMPUTE_SELECTIVE, false, ZERO_BF16}, {ZERO_RECOMPUTE_FULL, false, ZERO_BF16},
    {ZERO_RECOMPUTE_FULL, true, ZERO_BF16},       {ZERO_RECOMPUTE_NONE, false, ZERO_FP16},
};

/* The first pass makes the calls of each layer, the second captures and launches them, later ones only launch. */
START_TEST(layers_as_graphs)
{
    const zero_model_options_t options = {.micro_batch = B,
                                          .seq_len = T,
                                          .dtype = LAYERS[_i].dtype,
                                          .recompute = LAYERS[_i].recompute,
                                          .offload_activations = LAYERS[_i].offload};
    const int L = (int)SMALL.layers;
    bench_t b;
    trained_t plain, graphs;
    train(&b, &options, false, &plain);
    end(&b);
    train(&b, &options, true, &graphs);
    same_bits(&plain, &graphs);
    ck_assert_int_eq(graphs.warnings, 0);

    /* a layer's own calls, forward and backward */
    zero_model_t *m = b.model;
    const count_t none = {0}, before = counted(&none);
    zero_model_layer_forward(m, 0, &m->layers[0], m->decoder.x[0], m->decoder.x[1], B, T);
    count_t forward = counted(&before);
    zero_model_layer_backward(m, 0);
    count_t both = counted(&before);
    ck_assert_int_eq(both.copies, 0);
    OK(zero_nn_status(m->nn, &why));
    OK(zero_wait(b.engine));
    for (int pass = 0; pass < PASSES; pass++) {
        const bool eval = pass >= RUNS;
        const int number = eval ? pass - RUNS : pass; /* earlier passes of the same kind */
        const count_t *p = &plain.counts[pass], *g = &graphs.counts[pass],
                      saved = number < 2 ? none
                              : eval     ? forward
                                         : both;
        const int kept = LAYERS[_i].offload && !eval && number >= 2
                             ? 2 * (L - 1)
                             : 0; /* to the host and back; the last layer's input stays on the device */
        ck_assert_int_eq(p->graphs, 0);
        ck_assert_int_eq(g->graphs, number < 1 ? 0 : eval ? L : 2 * L);
        ck_assert_msg(
            g->products == p->products - L * saved.products && g->launches == p->launches - L * saved.launches &&
                g->copies == p->copies - kept,
            "pass %d: %d products, %d launches, %d copies; without graphs %d, %d, %d, of which a layer has %d and %d",
            pass, g->products, g->launches, g->copies, p->products, p->launches, p->copies, saved.products,
            saved.launches);
    }

    /* a rank without sequences computes nothing */
    double loss;
    const count_t earlier = counted(&none);
    OK(zero_model_eval(m, &(zero_model_batch_t){.tokens = NULL}, 0, &loss, &why));
    ck_assert_int_eq(counted(&earlier).graphs, 0);
    end(&b);
    free(plain.params);
    free(graphs.params);
}
END_TEST

/* The graphs depend on the workspace: another workspace makes new graphs. */
START_TEST(another_workspace)
{
    const zero_model_options_t options = {.micro_batch = B, .seq_len = T, .dtype = ZERO_BF16};
    bench_t b;
    trained_t t;
    void *workspace = NULL;
    train(&b, &options, true, &t);
    zero_model_t *m = b.model;
    __typeof__(cudaMalloc) *device_malloc;
    *(void **)&device_malloc = dlsym(emulator, "cudaMalloc");
    ck_assert_int_eq(device_malloc(&workspace, m->workspace_bytes),
                     cudaSuccess); /* the memory lives until the process ends */
    zero_nn_set_workspace(m->nn, workspace, m->workspace_bytes);
    pass_of(&b, &t, 0);
    pass_of(&b, &t, 1);
    ck_assert_int_eq(t.counts[0].launches, t.counts[2].launches + (int)SMALL.layers * 14);
    ck_assert_int_eq(t.counts[1].launches, t.counts[3].launches);
    end(&b);
    free(t.params);
}
END_TEST

/* If a capture fails, for any reason, the calls run as before: the same products by the same library, and one warning.
 * The first micro-step has 30 products, so the 31st, which is refused, is captured. */
START_TEST(captures_that_fail)
{
    static const struct {
        const char *fail;
        int graphs; /* graphs of the last micro-step */
    } CASES[] = {{"cudaStreamBeginCapture:1", 0},
                 {"cudaGraphInstantiate:1", 0},
                 {"cudaGraphInstantiate:3", 2},
                 {"unsupported:31", 0}};
    const zero_model_options_t options = {.micro_batch = B, .seq_len = T, .dtype = ZERO_BF16};
    bench_t b;
    trained_t plain, graphs;
    setenv("ZERO_EMULATOR_FAIL", CASES[_i].fail, 1);
    train(&b, &options, true, &graphs);
    end(&b);
    train(&b, &options, false, &plain);
    end(&b);
    same_bits(&plain, &graphs);
    ck_assert_int_eq(graphs.warnings, 1);
    ck_assert_int_eq(graphs.counts[RUNS - 1].graphs, CASES[_i].graphs);
    if (CASES[_i].graphs == 0)
        ck_assert_int_eq(graphs.counts[RUNS - 1].products, plain.counts[RUNS - 1].products);
    free(plain.params);
    free(graphs.params);
}
END_TEST

START_TEST(launch_that_fails)
{
    const zero_model_options_t options = {.micro_batch = B, .seq_len = T, .dtype = ZERO_BF16};
    bench_t b;
    int32_t tokens[ROWS] = {0};
    double loss;
    setenv("ZERO_EMULATOR_FAIL", "cudaGraphLaunch:1", 1);
    start(&b, &SMALL, &options);
    OK(zero_model_train(b.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens}, ZERO_LAST, &loss, &why));
    ck_assert_int_eq(zero_step(b.engine, 0.01), ZERO_OK);
    ck_assert_int_eq(
        zero_model_train(b.model, &(zero_model_batch_t){.tokens = tokens, .targets = tokens}, ZERO_LAST, &loss, &why),
        ZERO_ERR_SYSTEM);
    ck_assert_msg(has_names(why.text, "0") && has_names(why.text, "cudaGraphLaunch"), "%s", why.text);
    zero_abort(b.engine, "the test ends it");
    end(&b);
}
END_TEST

int main(void)
{
    if (!emulated_plugins() || strstr(getenv("ZERO_PLUGIN_PATH"), "emulator") == NULL)
        return 77;
    Suite *suite = suite_create("cuda_gpt2");
    TCase *tc = tcase_create("cuda_gpt2");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, parts_of_the_head);
    tcase_add_test(tc, sizes_of_the_head);
    tcase_add_loop_test(tc, calls_of_a_micro_step, 0, sizeof CALLS / sizeof *CALLS);
    tcase_add_loop_test(tc, layers_as_graphs, 0, sizeof LAYERS / sizeof *LAYERS);
    tcase_add_test(tc, another_workspace);
    tcase_add_loop_test(tc, captures_that_fail, 0, 4);
    tcase_add_test(tc, launch_that_fails);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
