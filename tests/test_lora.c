/* SPDX-License-Identifier: Apache-2.0 */
/* test_lora.c - low-rank adapters: training them against peft's results (tests/golden/lora.py), with the same bits at
 * every stage, on every tier and in every recompute mode, beside a base that stays as it is; their names, initial
 * values, memory and files. */
#include "tests/model_check.h"
#include "tests/ranks.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const models[] = {"lora-llama", "lora-qwen2", "lora-gpt2", "lora-gpt2-all"};
enum { MODELS = sizeof models / sizeof *models, STAGES = 4, RECOMPUTES = 3 };

static model_golden_t golden;
static model_result_t base, result;
static zero_error_t why;

/* ---- training --------------------------------------------------------------------------------------------------- */

/* The base has the bits that it had before the first step, and every adapter has moved. */
static void check_frozen(const model_case_t *c, const model_result_t *after)
{
    static model_result_t before;
    model_case_t none = *c;

    none.steps = 0;
    ck_assert_int_eq(model_run(&none, &before), 0);
    ck_assert_int_gt(after->frozen, 0);
    ck_assert_int_lt(after->frozen, after->params);
    ck_assert_mem_eq(before.values, after->values, (size_t)after->frozen * sizeof(float));
    for (int64_t i = after->frozen; i < after->params; i++)
        ck_assert_msg(before.values[i] != after->values[i], "element %d of the adapters has not moved",
                      (int)(i - after->frozen));
}

/* Stage 0 keeps all activations; each stage and each recompute mode is then run at least once, and the last stage also
 * from host memory. */
static void check_stages(model_case_t *c)
{
    model_check_run(c, &base);
    check_frozen(c, &base);
    for (int i = 1; i <= STAGES; i++) {
        c->stage = i < STAGES ? i : STAGES - 1;
        c->offload = i == STAGES;
        c->recompute = (zero_recompute_t)(i % RECOMPUTES);
        c->window = i;
        c->persist_bytes = i % 2 ? 0 : 1 << 16;
        model_check_run(c, &result);
        model_check_same(c, &result, &base);
    }
}

START_TEST(test_fp32)
{
    model_case_t c = model_golden_case(&golden, models[_i], 1 + (_i + 1) % 4, 2, "cpu");

    if (c.world == 4)
        c.micro_batch = 3;
    check_stages(&c);
}
END_TEST

START_TEST(test_bf16)
{
    char name[64];

    snprintf(name, sizeof name, "%s-bf16", models[_i]);
    model_case_t c = model_golden_case(&golden, name, 1 + (_i + 2) % 4, 2, "cpu");

    if (c.world == 4)
        c.micro_batch = 3;
    check_stages(&c);
}
END_TEST

/* fp16 stays near the results in fp32. */
START_TEST(test_fp16)
{
    model_case_t c = model_golden_case(&golden, models[_i], 1 + _i % 3, 2, "cpu");

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

/* ---- targets ---------------------------------------------------------------------------------------------------- */

START_TEST(test_targets)
{
    static const struct {
        const char *preset, *names, *found;
        int64_t parameters; /* of rank 4 */
    } cases[] = {
        {"gpt2", NULL, "c_attn", 12 * 4 * (768 + 2304)},
        {"gpt2", "c_attn", "c_attn", 12 * 4 * (768 + 2304)},
        {"gpt2", "c_proj", "c_proj", 12 * 4 * (768 + 768 + 3072 + 768)},
        {"gpt2", "mlp.c_proj", "mlp.c_proj", 12 * 4 * (3072 + 768)},
        {"gpt2", "mlp.c_proj,attn.c_attn", "c_attn,mlp.c_proj", 12 * 4 * (3072 + 768 + 768 + 2304)},
        {"gpt2", "all-linear", "c_attn,c_proj,c_fc", 12 * 4 * (768 + 2304 + 768 + 768 + 768 + 3072 + 3072 + 768)},
        {"llama-1b", NULL, "q_proj,v_proj", 16 * 4 * (2048 + 2048 + 2048 + 512)},
        {"llama-1b", "self_attn.v_proj,down_proj", "v_proj,down_proj", 16 * 4 * (2048 + 512 + 8192 + 2048)},
        {"qwen2.5-0.5b", "all-linear", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
         24 * 4 * (896 + 896 + 2 * (896 + 128) + 896 + 896 + 3 * (896 + 4864))},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zero_model_config_t c;
        zero_lora_t lora, again;
        char names[ZERO_LORA_NAMES_BYTES];

        ck_assert_int_eq(zero_model_preset(&c, cases[i].preset, &why), ZERO_OK);
        ck_assert_msg(zero_model_lora(&lora, &c, 4, 8, cases[i].names, &why) == ZERO_OK, "%s", why.text);
        ck_assert_str_eq(zero_model_lora_names(&c, lora.targets, names, sizeof names), cases[i].found);
        ck_assert_int_eq(zero_model_lora(&again, &c, 4, 8, names, &why), ZERO_OK);
        ck_assert_uint_eq(again.targets, lora.targets);
        ck_assert_int_eq(zero_model_adapter_parameters(&c, &lora), cases[i].parameters);
        /* the frozen weights of products cost 4 operations, not 6 */
        const double all = zero_model_flops_per_token(&c, NULL, 64, 0),
                     products = zero_model_flops_per_token(&c, NULL, 0, 0);
        ck_assert_double_eq(zero_model_flops_per_token(&c, &lora, 64, 0),
                            all - products / 3 + 6 * (double)cases[i].parameters);
    }
}
END_TEST

START_TEST(test_bad_targets)
{
    static const struct {
        const char *preset, *names;
        int64_t rank;
        double alpha;
        const char *parts[2];
    } cases[] = {
        {"llama-1b", "q_prj", 8, 8, {"'q_prj'", "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"}},
        {"llama-1b", "q_proj,c_attn", 8, 8, {"'c_attn'", "Llama"}},
        {"llama-1b", "proj", 8, 8, {"'proj'", "q_proj"}},
        {"llama-1b", "q_proj,", 8, 8, {"''", "q_proj"}},
        {"llama-1b", "lm_head", 8, 8, {"'lm_head'", "all-linear"}},
        {"llama-1b", "layers.0.self_attn.q_proj", 8, 8, {"'layers.0.self_attn.q_proj'", "q_proj"}},
        {"gpt2", "q_proj", 8, 8, {"'q_proj'", "c_attn,c_proj,c_fc"}},
        {"llama-1b", "v_proj", 513, 8, {"513", "512"}},
        {"llama-1b", NULL, 0, 8, {"rank 0", "1"}},
        {"llama-1b", NULL, 8, 0, {"alpha 0", "above 0"}},
        {"llama-1b", NULL, 8, -1, {"alpha -1", "above 0"}},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zero_model_config_t c;
        zero_lora_t lora;

        ck_assert_int_eq(zero_model_preset(&c, cases[i].preset, &why), ZERO_OK);
        ck_assert_int_eq(zero_model_lora(&lora, &c, cases[i].rank, cases[i].alpha, cases[i].names, &why), ZERO_ERR_ARG);
        for (int k = 0; k < 2; k++)
            ck_assert_msg(strstr(why.text, cases[i].parts[k]) != NULL, "case %d: %s", (int)i, why.text);
    }

    /* a rank without targets */
    const zero_model_options_t options = {
        .micro_batch = 1, .seq_len = 4, .threads = 1, .backend = "ref", .lora = {.rank = 4, .alpha = 8}};
    zero_model_config_t c;
    zero_model_t *m;

    ck_assert_int_eq(zero_model_preset(&c, "tiny", &why), ZERO_OK);
    ck_assert_int_eq(zero_model_create(&m, &c, &options, &why), ZERO_ERR_ARG);
    ck_assert_msg(strstr(why.text, "zero_model_lora") != NULL, "%s", why.text);
}
END_TEST

/* ---- initial values --------------------------------------------------------------------------------------------- */

typedef struct sums {
    double sum, square, most;
    int64_t count;
} sums_t;

static int add(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    sums_t *s = ctx;

    (void)param;
    (void)begin;
    for (int64_t i = 0; i < count; i++) {
        s->sum += (double)values[i];
        s->square += (double)values[i] * (double)values[i];
        s->most = fmax(s->most, fabs((double)values[i]));
    }
    s->count += count;
    return 0;
}

static int init_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const model_case_t *c = arg;
    const double wanted = 1 / sqrt(32); /* of inputs of 32 elements */
    model_rank_t r;
    double before = 0;
    int failed = model_rank_open(&r, c, bootstrap);

    (void)rank;
    (void)world;
    for (uint64_t seed = 1; seed <= 2 && !failed; seed++) {
        sums_t a = {0};

        failed = zero_model_init_adapters(r.model, seed, &r.error) != ZERO_OK;
        for (int i = 0; i < zero_model_param_count(r.model) && !failed; i++) {
            const char *name = zero_model_param_name(r.model, i);
            sums_t b = {0};

            if (strstr(name, ".lora_") == NULL)
                continue;
            zero_param_read(r.engine, zero_model_param(r.model, i), ZERO_STATE_MASTER, add,
                            strstr(name, "lora_A") && strstr(name, "down_proj") == NULL ? &a : &b);
            failed = strstr(name, "lora_B") != NULL && (b.most != 0 || b.count == 0);
        }
        /* 2 layers, 6 matrices of 8 x 32 each: uniform between -bound and bound */
        failed = failed || a.count != 2 * 6 * 8 * 32 || a.most > wanted || a.most < 0.99 * wanted ||
                 fabs(a.sum / (double)a.count) > 0.05 * wanted ||
                 fabs(a.square / (double)a.count / (wanted * wanted / 3) - 1) > 0.1 || a.sum == before;
        before = a.sum;
    }
    if (failed)
        fprintf(stderr, "initial values: %s\n", r.error.text);
    model_rank_close(&r);
    return failed;
}

START_TEST(test_init)
{
    model_case_t c = model_golden_case(&golden, "lora-qwen2", 1, 1, "cpu");

    ck_assert_int_eq(ranks_run(1, 60, init_rank, &c), 0);
}
END_TEST

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static uint64_t up(uint64_t x, uint64_t unit)
{
    return (x + unit - 1) / unit * unit;
}

/* The forecast of a rank, of a model in bf16 at stage 3. */
static zero_memory_t forecast(const zero_model_config_t *model, const zero_lora_t *lora, zero_recompute_t recompute,
                              int world)
{
    zero_model_options_t options = {
        .micro_batch = 1, .seq_len = 64, .dtype = ZERO_BF16, .threads = 1, .backend = "cpu", .recompute = recompute};
    zero_memory_t memory = {.size = sizeof memory};
    zero_model_t *m;
    zero_engine_t *engine;
    zero_config_t config;

    if (lora)
        options.lora = *lora;
    zero_config_init(&config);
    config.plan_world = world;
    config.persist_bytes = 0;
    ck_assert_int_eq(zero_create(&engine, &config, &why), ZERO_OK);
    ck_assert_int_eq(zero_model_create(&m, model, &options, &why), ZERO_OK);
    ck_assert_msg(zero_model_declare(m, engine, &why) == ZERO_OK, "%s", why.text);
    ck_assert_msg(zero_commit(engine) == ZERO_OK, "%s", zero_last_error(engine));
    ck_assert_int_eq(zero_forecast(engine, &memory), ZERO_OK);
    zero_destroy(engine);
    zero_model_destroy(m);
    return memory;
}

/* The bytes of a kind are those of its slices, and no more than a page beyond. */
static void check_kind(const zero_memory_t *memory, zero_kind_t kind, uint64_t wanted)
{
    const uint64_t found = memory->bytes[ZERO_TIER_DEVICE][kind];

    ck_assert_msg(found >= wanted && found < wanted + 65536, "%s: %llu bytes, wanted %llu", zero_kind_name(kind),
                  (unsigned long long)found, (unsigned long long)wanted);
}

/* A frozen parameter takes the bytes of its dtype, divided by the ranks. Only adapters have gradients, master weights
 * and moments. */
START_TEST(test_memory)
{
    const uint64_t world = 4, unit = 128 * world;
    uint64_t adapters = 0, frozen = 0;
    zero_model_config_t c;
    zero_lora_t lora;

    ck_assert_int_eq(zero_model_preset(&c, "gpt2", &why), ZERO_OK);
    ck_assert_int_eq(zero_model_lora(&lora, &c, 8, 8, NULL, &why), ZERO_OK);
    adapters = 12 * up(8 * 768 + 8 * 2304, unit) / world;
    frozen =
        (up((50257 + 1024) * 768, unit) + up(2 * 768, unit) + 12 * up(4 * 768 * 768 + 8 * 768 * 768 + 13 * 768, unit)) /
        world;
    const zero_memory_t all = forecast(&c, NULL, ZERO_RECOMPUTE_NONE, (int)world),
                        own = forecast(&c, &lora, ZERO_RECOMPUTE_NONE, (int)world);

    check_kind(&own, ZERO_KIND_PARAMETERS, 2 * (frozen + adapters));
    check_kind(&own, ZERO_KIND_MASTER, 4 * adapters);
    check_kind(&own, ZERO_KIND_MOMENTS, 8 * adapters);
    check_kind(&own, ZERO_KIND_GRADIENTS, 4 * adapters);
    check_kind(&all, ZERO_KIND_MASTER, 4 * frozen);
    /* the second norm's output and the MLP's are kept for one layer only */
    const uint64_t fewer = 11 * 64 * (768 + 3072) * 2, more = 2 * 64 * 8 * 2;
    const uint64_t with = own.bytes[ZERO_TIER_DEVICE][ZERO_KIND_ACTIVATIONS],
                   without = all.bytes[ZERO_TIER_DEVICE][ZERO_KIND_ACTIVATIONS];

    ck_assert_msg(with + fewer < without + more + 65536 && with + fewer + 65536 > without + more,
                  "%llu bytes of activations with adapters, %llu without", (unsigned long long)with,
                  (unsigned long long)without);
}
END_TEST

/* ---- files ------------------------------------------------------------------------------------------------------ */

typedef struct exported {
    model_case_t c;
    char folder[2][64];
    double eval[3]; /* of the adapters that are loaded again, and of the merged weights */
} exported_t;

/* Gives the adapters values, and writes them, then the merged model. */
static int export_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    exported_t *x = arg;
    model_rank_t r;
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    int failed = model_rank_open(&r, &x->c, bootstrap);

    (void)world;
    if (!failed)
        failed = zero_model_init_adapters(r.model, 5, &r.error) != ZERO_OK;
    for (int i = 0; i < zero_model_param_count(r.model) && !failed; i++) { /* B is not 0 either */
        float values[4096];

        if (strstr(zero_model_param_name(r.model, i), "lora_B") == NULL)
            continue;
        for (int k = 0; k < 4096; k++)
            values[k] = (float)((k * 37 + i) % 19 - 9) / 64;
        failed = zero_param_set(r.engine, zero_model_param(r.model, i), ZERO_STATE_PARAM, ZERO_FP32, values) != ZERO_OK;
    }
    for (int merged = 0; merged < 2 && !failed; merged++) {
        const zero_model_export_t to = {.folder = x->folder[merged], .dtype = ZERO_FP32, .merged = merged};

        failed = zero_model_export(r.model, r.comm, &to, &r.error) != ZERO_OK;
    }
    if (!failed) {
        const double loss = model_rank_eval(&r, &x->c, tokens, count);

        failed = isnan(loss);
        if (rank == 0)
            x->eval[0] = loss;
    }
    if (failed)
        fprintf(stderr, "rank %d: %s\n", rank, r.error.text);
    model_rank_close(&r);
    free(tokens);
    return failed;
}

/* Evaluates the adapters that were written, or the merged weights without adapters. */
static int read_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    exported_t *x = arg;
    model_golden_t plain = *x->c.golden;
    int64_t count;
    int32_t *tokens = model_read_tokens(&count);
    int failed = 0;

    (void)world;
    for (int merged = 0; merged < 2 && !failed; merged++) {
        model_case_t c = x->c;
        model_rank_t r;

        if (merged) {
            plain.rank = 0;
            c.golden = &plain;
        }
        failed = model_rank_open(&r, &c, bootstrap);
        if (!failed)
            failed = (merged ? zero_model_load(r.model, x->folder[1], &r.error)
                             : zero_model_load_adapters(r.model, x->folder[0], &r.error)) != ZERO_OK;
        const double loss = failed ? NAN : model_rank_eval(&r, &c, tokens, count);

        failed = isnan(loss);
        if (failed)
            fprintf(stderr, "rank %d: %s\n", rank, r.error.text);
        if (rank == 0)
            x->eval[1 + merged] = loss;
        model_rank_close(&r);
    }
    free(tokens);
    return failed;
}

/* What is written is read again: adapters to the bit, merged weights up to rounding. */
START_TEST(test_export)
{
    exported_t *x = ranks_shared(sizeof *x);
    const char *files[] = {"adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"};

    x->c = model_golden_case(&golden, models[_i], 1 + _i % 3, 2, "cpu");
    x->c.stage = _i % 4;
    for (int k = 0; k < 2; k++)
        snprintf(x->folder[k], sizeof x->folder[k], "lora-export-%d-%d", (int)getpid(), k);
    ck_assert_int_eq(ranks_run(x->c.world, 60, export_rank, x), 0);
    x->c.world = 1 + (_i + 1) % 3;
    ck_assert_int_eq(ranks_run(x->c.world, 60, read_rank, x), 0);
    ck_assert_msg(fabs(x->eval[1] / x->eval[0] - 1) < 1e-12 && fabs(x->eval[2] / x->eval[0] - 1) < 1e-6,
                  "evaluations %.9g, %.9g from adapters, %.9g merged", x->eval[0], x->eval[1], x->eval[2]);
    for (int k = 0; k < 4; k++) {
        char path[128];

        snprintf(path, sizeof path, "%s/%s", x->folder[k / 2], files[k]);
        ck_assert_int_eq(unlink(path), 0);
    }
    for (int k = 0; k < 2; k++)
        ck_assert_int_eq(rmdir(x->folder[k]), 0); /* nothing else is there */
    ranks_unshare(x, sizeof *x);
}
END_TEST

static void write_config(const char *folder, const char *text)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    file = fopen(path, "w");
    ck_assert(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

#define CONFIG(more) "{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \".\", " more "}"
#define WHOLE "\"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"v_proj\"]"

START_TEST(test_adapter_config)
{
    static const struct {
        const char *text;
        zero_status_t status;
        const char *part; /* of the sentence, or the names */
    } cases[] = {
        {CONFIG(WHOLE), ZERO_OK, "q_proj,v_proj"},
        {CONFIG(WHOLE ", \"bias\": \"none\", \"use_dora\": false, \"rank_pattern\": {}, \"modules_to_save\": null"),
         ZERO_OK, "q_proj,v_proj"},
        {CONFIG(
             "\"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"h.0.attn.c_proj\", \"transformer.h.11.attn.c_proj\", "
             "\"c_fc\"]"),
         ZERO_OK, "attn.c_proj,c_fc"},
        {CONFIG("\"r\": 4, \"lora_alpha\": 8, \"target_modules\": \"all-linear\""), ZERO_OK, "all-linear"},
        {CONFIG("\"r\": 4, \"lora_alpha\": 8, \"target_modules\": \".*attn.*\""), ZERO_ERR_UNSUPPORTED, "expression"},
        {CONFIG("\"r\": 4, \"lora_alpha\": 8"), ZERO_ERR_UNSUPPORTED, "target_modules"},
        {CONFIG("\"r\": 4, \"lora_alpha\": 8, \"target_modules\": [1]"), ZERO_ERR_UNSUPPORTED, "target_modules"},
        {CONFIG("\"lora_alpha\": 8, \"target_modules\": [\"q_proj\"]"), ZERO_ERR_FORMAT, "\"r\""},
        {CONFIG("\"r\": 4, \"target_modules\": [\"q_proj\"]"), ZERO_ERR_FORMAT, "lora_alpha"},
        {CONFIG(WHOLE ", \"use_rslora\": true"), ZERO_ERR_UNSUPPORTED, "use_rslora"},
        {CONFIG(WHOLE ", \"use_dora\": true"), ZERO_ERR_UNSUPPORTED, "use_dora"},
        {CONFIG(WHOLE ", \"bias\": \"all\""), ZERO_ERR_UNSUPPORTED, "bias"},
        {CONFIG(WHOLE ", \"rank_pattern\": {\"q_proj\": 2}"), ZERO_ERR_UNSUPPORTED, "rank_pattern"},
        {CONFIG(WHOLE ", \"layers_to_transform\": [0]"), ZERO_ERR_UNSUPPORTED, "layers_to_transform"},
        {CONFIG(WHOLE ", \"modules_to_save\": [\"lm_head\"]"), ZERO_ERR_UNSUPPORTED, "modules_to_save"},
        {"{\"peft_type\": \"IA3\", \"base_model_name_or_path\": \".\", " WHOLE "}", ZERO_ERR_UNSUPPORTED, "IA3"},
        {"{\"base_model_name_or_path\": \".\", " WHOLE "}", ZERO_ERR_UNSUPPORTED, "peft_type"},
        {"{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"org/name\", " WHOLE "}", ZERO_ERR_ARG, "org/name"},
        {"{\"peft_type\": \"LORA\", " WHOLE "}", ZERO_ERR_ARG, "missing"},
        {"{", ZERO_ERR_FORMAT, "line"},
    };
    const char *folder = "lora-config";
    char path[128];

    mkdir(folder, 0777);
    ck_assert(!zero_model_has_adapters(folder));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zero_model_adapters_t a;

        write_config(folder, cases[i].text);
        ck_assert(zero_model_has_adapters(folder));
        ck_assert_msg(zero_model_read_adapters(&a, folder, &why) == cases[i].status, "case %d: %s", (int)i, why.text);
        if (cases[i].status != ZERO_OK) {
            ck_assert_msg(strstr(why.text, cases[i].part) != NULL && strstr(why.text, folder) != NULL, "%s", why.text);
            ck_assert_ptr_null(a.base);
            continue;
        }
        ck_assert_str_eq(a.names, cases[i].part);
        ck_assert_str_eq(a.base, ".");
        ck_assert_int_eq(a.rank, 4);
        ck_assert_double_eq(a.alpha, 8);
        free(a.base);
    }
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    unlink(path);
    rmdir(folder);
}
END_TEST

static int wrong_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static const struct {
        const char *folder, *part;
    } cases[] = {{"lora-gpt2", "self_attn.q_proj.lora_A.weight"}, {"lora-qwen2", "(4, 36)"}, {"llama", "safetensors"}};
    model_rank_t r;
    int failed = model_rank_open(&r, arg, bootstrap);

    (void)rank;
    (void)world;
    for (int i = 0; i < 3 && !failed; i++)
        failed = zero_model_load_adapters(r.model, model_path(cases[i].folder), &r.error) == ZERO_OK ||
                 strstr(r.error.text, cases[i].part) == NULL;
    if (failed)
        fprintf(stderr, "another model's adapters: %s\n", r.error.text);
    model_rank_close(&r);
    return failed;
}

/* Adapters of another model, of other sizes, and a folder without adapters. */
START_TEST(test_wrong_adapters)
{
    model_case_t c = model_golden_case(&golden, "lora-llama", 1, 1, "cpu");

    ck_assert_int_eq(ranks_run(1, 60, wrong_rank, &c), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lora");
    TCase *tc = tcase_create("lora");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_fp32, 0, MODELS);
    tcase_add_loop_test(tc, test_bf16, 0, MODELS);
    tcase_add_loop_test(tc, test_fp16, 0, MODELS);
    tcase_add_loop_test(tc, test_tiles, 0, MODELS);
    tcase_add_loop_test(tc, test_ref, 0, MODELS);
    tcase_add_test(tc, test_targets);
    tcase_add_test(tc, test_bad_targets);
    tcase_add_test(tc, test_init);
    tcase_add_test(tc, test_memory);
    tcase_add_loop_test(tc, test_export, 0, MODELS);
    tcase_add_test(tc, test_adapter_config);
    tcase_add_test(tc, test_wrong_adapters);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
