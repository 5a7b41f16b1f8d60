/* SPDX-License-Identifier: Apache-2.0 */
/* test_model_export.c - zero_model_export: what ranks write together is what they hold, in every dtype and any number
 * of files; config.json; folders that must not be overwritten; exports that fail and leave nothing. */
#include "models/export.h"
#include "tests/expect.h"
#include "tests/model_case.h"
#include "tests/ranks.h"

#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static model_golden_t golden;

static const char *at(const char *name)
{
    static char text[4][256];
    static int turn;

    snprintf(text[turn++ % 4], sizeof text[0], "%s/%s", folder, name);
    return text[(turn - 1) % 4];
}

static void make_folder(void)
{
    strcpy(folder, "test_model_export.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    model_read_golden(&golden, "cosine");
}

/* The number of files in the folder below ours; with remove, it goes, too. -1: there is none. */
static int entries(const char *name, bool remove)
{
    char path[512];
    int count = 0;
    DIR *dir = opendir(at(name));

    if (dir == NULL)
        return -1;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.') {
            count++;
            snprintf(path, sizeof path, "%s/%s", at(name), entry->d_name);
            if (remove)
                unlink(path);
        }
    closedir(dir);
    if (remove)
        rmdir(at(name));
    return count;
}

static void remove_folder(void)
{
    entries("out", true);
    entries("other", true);
    unlink(at("file"));
    rmdir(folder);
}

static void touch(const char *name)
{
    FILE *file = fopen(at(name), "w");

    ck_assert_ptr_nonnull(file);
    fclose(file);
}

/* ---- ranks export ----------------------------------------------------------------------------------------------- */

/* What the ranks do: each status and sentence that ranks get must be the same. */
typedef struct order {
    model_case_t c;
    zero_dtype_t dtype;
    uint64_t file_bytes;
    const char *elsewhere; /* the folder of rank 1; NULL: the same */
    bool overflow, limit;  /* a value that fp16 does not have; no room for the files of rank 2 */
    zero_status_t status;
    const char *names; /* in the sentence */
} order_t;

static int export_as_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const order_t *o = arg;
    char source[4096], own[256], other[256];
    model_rank_t r = {0};
    zero_error_t error = {.text = ""};
    float *values = NULL;

    (void)world;
    ck_assert_int_eq(model_rank_open(&r, &o->c, bootstrap), 0);
    if (o->overflow) {
        const int64_t count = zero_model_param_elements(r.model, 1);
        values = calloc((size_t)count, sizeof *values);
        values[count - 2] = -65520;
        ck_assert_int_eq(zero_param_set(r.engine, zero_model_param(r.model, 1), ZERO_STATE_PARAM, ZERO_FP32, values),
                         ZERO_OK);
        free(values);
    }
    snprintf(source, sizeof source, "%s", model_path(o->c.folder));
    snprintf(own, sizeof own, "%s", at("out"));
    snprintf(other, sizeof other, "%s", at(o->elsewhere ? o->elsewhere : "out"));
    if (o->limit && rank == 2) {
        const struct rlimit limit = {.rlim_cur = 30000, .rlim_max = 30000};

        signal(SIGXFSZ, SIG_IGN);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    const zero_model_export_t to = {
        .folder = rank == 1 ? other : own, .source = source, .dtype = o->dtype, .file_bytes = o->file_bytes};
    zero_status_t status = zero_model_export(r.model, r.comm, &to, &error);
    ck_assert_msg(status == o->status && has_names(error.text, o->names), "rank %d: status %s, '%s'", rank,
                  zero_status_name(status), error.text);
    if (status != ZERO_OK) { /* the engine and the ranks are well, and a later export works */
        double sum = 1;
        const zero_model_export_t again = {.folder = own, .source = source, .file_bytes = o->file_bytes};

        ck_assert_int_eq(zero_sum(r.engine, &sum, 1), ZERO_OK); /* rank 0 has removed what there was */
        ck_assert_int_eq(entries("out", false), -1);
        ck_assert_int_eq(zero_sum(r.engine, &sum, 1), ZERO_OK);
        if (!o->limit)
            ck_assert_msg(zero_model_export(r.model, r.comm, &again, &error) == ZERO_OK, "%s", error.text);
    }
    model_rank_close(&r);
    return 0;
}

static void export(order_t *o, int world, int stage)
{
    o->c = (model_case_t){.golden = &golden,
                          .folder = "gpt2",
                          .world = world,
                          .stage = stage,
                          .window = 2,
                          .threads = 1,
                          .micro_batch = 1,
                          .backend = "cpu",
                          .steps = 1};
    ck_assert_int_eq(ranks_run(world, 120, export_as_rank, o), 0);
}

static char *text_of(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = calloc(1, 1 << 16);

    ck_assert_msg(file != NULL, "there is no %s", path);
    ck_assert_uint_lt(fread(text, 1, 1 << 16, file), 1 << 16);
    fclose(file);
    return text;
}

/* The export has the tensors of the golden folder, rounded, under transformers' names, and nothing else. */
static void check_export(zero_dtype_t dtype, int files)
{
    static float want[1 << 16], found[1 << 16];
    static const char *const dtypes[] = {"F32", "BF16", "F16"};
    zero_tensors_t *in = NULL, *out = NULL;
    zero_model_config_t config;
    zero_error_t error;
    char name[256];

    ck_assert_int_eq(entries("out", false), files + (files > 1) + 1);
    ck_assert_msg(zero_model_read_config(&config, at("out"), &error) == ZERO_OK, "%s", error.text);
    ck_assert_msg(zero_model_check_folder(&config, at("out"), &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(zero_tensors_open(&in, model_path("gpt2"), &error), ZERO_OK);
    ck_assert_int_eq(zero_tensors_open(&out, at("out"), &error), ZERO_OK);
    ck_assert_int_eq(zero_tensors_count(out), 2 + 12 * (int)config.layers + 2);
    for (int i = 0; i < zero_tensors_count(out); i++) {
        zero_tensor_info_t info = {.size = sizeof info};

        ck_assert_int_eq(zero_tensors_at(out, i, &info), ZERO_OK);
        ck_assert_str_eq(info.dtype, dtypes[dtype]);
        ck_assert(strncmp(info.name, "transformer.", 12) == 0);
        snprintf(name, sizeof name, "%s", info.name);
        int index = zero_tensors_find(in, name);
        index = index >= 0 ? index : zero_tensors_find(in, name + 12);
        ck_assert_msg(index >= 0, "%s", name);
        ck_assert_int_le(info.count, 1 << 16);
        ck_assert_int_eq(zero_tensors_read(in, index, 0, info.count, want, &error), ZERO_OK);
        ck_assert_int_eq(zero_tensors_read(out, i, 0, info.count, found, &error), ZERO_OK);
        for (int64_t k = 0; k < info.count; k++) {
            const float w = dtype == ZERO_BF16   ? zero_bf16_to_fp32(zero_fp32_to_bf16(want[k]))
                            : dtype == ZERO_FP16 ? zero_fp16_to_fp32(zero_fp32_to_fp16(want[k]))
                                                 : want[k];
            ck_assert_msg(w == found[k], "%s, element %lld: %g, wanted %g", name, (long long)k, (double)found[k],
                          (double)w);
        }
    }
    zero_tensors_close(in);
    zero_tensors_close(out);
}

static const struct {
    int world, stage;
    zero_dtype_t dtype;
    uint64_t file_bytes;
    int files;
} exports[] = {
    {1, 0, ZERO_FP32, 0, 1},
    {3, 3, ZERO_FP32, 40000, 7},
    {3, 0, ZERO_BF16, 0, 1},
    {4, 2, ZERO_FP16, 60000, 2},
};

START_TEST(ranks_export_what_they_hold)
{
    order_t o = {.dtype = exports[_i].dtype, .file_bytes = exports[_i].file_bytes, .names = ""};

    /* the second export replaces the first */
    for (int round = 0; round < 2; round++) {
        export(&o, exports[_i].world, exports[_i].stage);
        check_export(o.dtype, exports[_i].files);
    }
    char *in = text_of(model_path("gpt2/config.json")), *out = text_of(at("out/config.json"));
    if (o.dtype == ZERO_FP32)
        ck_assert_str_eq(out, in);
    else
        ck_assert_str_ne(out, in);
    free(in);
    free(out);
}
END_TEST

START_TEST(exports_fail_everywhere)
{
    order_t elsewhere = {.elsewhere = "other", .status = ZERO_ERR_IO, .names = "`rank 1` other"};
    order_t overflow = {.overflow = true, .dtype = ZERO_FP16, .status = ZERO_ERR_ARG, .names = "'wpe.weight' -65520"};
    order_t limit = {.limit = true, .status = ZERO_ERR_IO, .names = "model.safetensors.part"};

    export(&elsewhere, 3, 3);
    check_export(ZERO_FP32, 1);
    entries("out", true);
    export(&overflow, 3, 3);
    entries("out", true);
    export(&limit, 3, 3);
    ck_assert_int_eq(entries("out", false), -1);
}
END_TEST

/* ---- folders ---------------------------------------------------------------------------------------------------- */

static void check(const char *name, const char *source, zero_status_t status, const char *names)
{
    zero_error_t error = {.text = ""};

    ck_assert_int_eq(zero_model_check_export(name, source, false, &error), status);
    ck_assert_msg(has_names(error.text, names), "'%s' lacks one of '%s'", error.text, names);
}

START_TEST(folders_of_others_stay)
{
    order_t o = {.names = ""};
    char name[300];

    check(at("out"), NULL, ZERO_OK, "");
    check(at("out/"), NULL, ZERO_OK, "");
    check("out", NULL, ZERO_OK, "");
    check(at("none/out"), NULL, ZERO_ERR_IO, "none");
    touch("file");
    check(at("file"), NULL, ZERO_ERR_ARG, "file");
    check(at("file/out"), NULL, ZERO_ERR_IO, "file/out");
    check(model_path("gpt2"), NULL, ZERO_ERR_ARG, "gpt2");

    ck_assert_int_eq(mkdir(at("out"), 0777), 0);
    check(at("out"), NULL, ZERO_OK, "");
    touch("out/README.md");
    check(at("out"), NULL, ZERO_ERR_ARG, "out");
    touch("out/model.safetensors.part"); /* an export that did not end */
    check(at("out"), NULL, ZERO_OK, "");
    touch("out/config.json.part");
    touch("out/model.export.part");
    touch("out/model.safetensors");
    check(at("out"), NULL, ZERO_ERR_ARG, "out");
    unlink(at("out/model.safetensors"));

    /* an earlier export is replaced, and what else is there stays */
    export(&o, 1, 0);
    check(at("out"), NULL, ZERO_OK, "");
    check(at("out"), at("out/../out"), ZERO_ERR_ARG, "out");
    ck_assert_int_eq(entries("out", false), 3);
    touch("out/tokenizer.json");
    export(&o, 1, 0);
    ck_assert_int_eq(entries("out", false), 4);
    snprintf(name, sizeof name, "%s", at("out/README.md"));
    ck_assert_int_eq(access(name, F_OK), 0);
}
END_TEST

/* ---- config.json ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *in, *out;
} retyped[] = {
    {"{}", "{\n  \"torch_dtype\": \"bfloat16\"}"},
    {"{\n  \"a\": 1\n}\n", "{\n  \"torch_dtype\": \"bfloat16\",\n  \"a\": 1\n}\n"},
    {"{\"torch_dtype\" : \"float32\" , \"a\":1.00}", "{\"torch_dtype\" : \"bfloat16\" , \"a\":1.00}"},
    {"{\"a\": \"dtype\", \"dtype\": null}", "{\"a\": \"dtype\", \"dtype\": \"bfloat16\"}"},
    {"{\"dtype\":{\"x\":[1,\"}\"]},\"torch_dtype\":\"float32\"}",
     "{\"dtype\":\"bfloat16\",\"torch_dtype\":\"bfloat16\"}"},
    {"{\"a\":{\"dtype\":\"float32\"},\"b\\\"dtype\":2,\n\"dtype\":\"auto\"}",
     "{\"a\":{\"dtype\":\"float32\"},\"b\\\"dtype\":2,\n\"dtype\":\"bfloat16\"}"},
    {"{\"x\":\"\\\\\",\"dtype\":\"a\\\"b,\"}", "{\"x\":\"\\\\\",\"dtype\":\"bfloat16\"}"},
};

START_TEST(configs_change_only_the_dtype)
{
    zero_error_t error;
    char *out = NULL;

    ck_assert_int_eq(zero_model_config_retype(retyped[_i].in, "config.json", ZERO_BF16, &out, &error), ZERO_OK);
    ck_assert_str_eq(out, retyped[_i].out);
    free(out);
}
END_TEST

START_TEST(configs_are_read_back)
{
    zero_model_config_t made, read;
    zero_error_t error;
    char *text = NULL;

    ck_assert_int_eq(zero_model_config_retype("[1]", "config.json", ZERO_BF16, &text, &error), ZERO_ERR_FORMAT);
    ck_assert_ptr_null(text);
    ck_assert_int_eq(zero_model_preset(&made, _i ? "gpt2-xl" : "tiny", &error), ZERO_OK);
    if (_i)
        made.hidden = 77, made.norm_eps = 0.1f;
    ck_assert_int_eq(zero_model_config_text(&made, ZERO_FP16, &text, &error), ZERO_OK);
    ck_assert_int_eq(zero_model_parse_config(&read, text, strlen(text), "config.json", &error), ZERO_OK);
    ck_assert_str_eq(read.family, made.family);
    ck_assert_int_eq(read.layers, made.layers);
    ck_assert_int_eq(read.heads, made.heads);
    ck_assert_int_eq(read.width, made.width);
    ck_assert_int_eq(read.hidden, made.hidden);
    ck_assert_int_eq(read.vocab, made.vocab);
    ck_assert_int_eq(read.positions, made.positions);
    ck_assert_double_eq(read.norm_eps, made.norm_eps);
    ck_assert_double_eq(read.init_std, made.init_std);
    ck_assert_ptr_nonnull(strstr(text, "\"torch_dtype\": \"float16\""));
    ck_assert_ptr_nonnull(strstr(text, _i ? "\"eos_token_id\": 50256" : "\"eos_token_id\": null"));
    free(text);
}
END_TEST

/* Settings of each family that differ from its defaults. */
static const struct {
    const char *family;
    zero_rope_t rope;
    zero_nn_activation_t activation;
    bool attention_bias, mlp_bias;
    int64_t sliding_window;
} varied[] = {
    {"llama", {1e4, ZERO_ROPE_LLAMA3, 8, 1, 4, 16}, ZERO_NN_SILU, true, false, 0},
    {"llama", {12345.678, ZERO_ROPE_LINEAR, 2.5, 0, 0, 0}, ZERO_NN_GELU, false, true, 0},
    {"mistral", {5e5, ZERO_ROPE_PLAIN, 0, 0, 0, 0}, ZERO_NN_RELU, false, false, 7},
    {"mistral", {7, ZERO_ROPE_LINEAR, 3, 0, 0, 0}, ZERO_NN_GELU_NEW, false, false, 0},
    {"qwen2", {1e6, ZERO_ROPE_LLAMA3, 2, 2, 3, 1000}, ZERO_NN_SILU, false, false, 0},
    {"qwen2", {1e6, ZERO_ROPE_PLAIN, 0, 0, 0, 0}, ZERO_NN_SILU, false, false, 5},
    {"qwen3", {1e6, ZERO_ROPE_PLAIN, 0, 0, 0, 0}, ZERO_NN_SILU, true, false, 5},
    {"transformer", {0, ZERO_ROPE_PLAIN, 0, 0, 0, 0}, ZERO_NN_RELU, true, true, 0},
    {"transformer", {0, ZERO_ROPE_PLAIN, 0, 0, 0, 0}, ZERO_NN_GELU, true, true, 0},
};

START_TEST(families_are_read_back)
{
    const zero_rope_t *rope = &varied[_i].rope;
    zero_model_config_t made, read;
    zero_error_t error;
    char *text;

    ck_assert_int_eq(zero_model_family(&made, varied[_i].family, &error), ZERO_OK);
    const bool encoder = made.sinusoidal;
    made.layers = 3;
    made.encoder_layers = encoder ? 2 : 0;
    made.source_vocab = encoder ? 77 : 0;
    made.post_norm = encoder && _i % 2;
    made.heads = 6;
    made.kv_heads = encoder ? 6 : 3;
    made.head_dim = encoder ? 4 : 10;
    made.width = 24;
    made.hidden = 44;
    made.vocab = 99;
    made.positions = 64;
    made.norm_eps = 3e-7;
    made.init_std = 0.07;
    made.tied = _i % 2;
    made.rope = *rope;
    made.activation = varied[_i].activation;
    made.qkv_bias = made.qkv_bias || varied[_i].attention_bias;
    made.projection_bias = varied[_i].attention_bias;
    made.mlp_bias = varied[_i].mlp_bias;
    made.sliding_window = varied[_i].sliding_window;
    ck_assert_msg(zero_model_check_config(&made, &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(zero_model_config_text(&made, ZERO_BF16, &text, &error), ZERO_OK);
    ck_assert_msg(zero_model_parse_config(&read, text, strlen(text), "config.json", &error) == ZERO_OK, "%s: %s",
                  error.text, text);
#define SAME(member) ck_assert_msg(read.member == made.member, "%s differs: %s", #member, text)
    ck_assert_str_eq(read.family, made.family);
    SAME(layers), SAME(heads), SAME(kv_heads), SAME(head_dim), SAME(width), SAME(hidden), SAME(vocab), SAME(positions);
    SAME(encoder_layers), SAME(source_vocab), SAME(post_norm), SAME(sinusoidal), SAME(scaled_embedding);
    SAME(norm), SAME(norm_eps), SAME(init_std), SAME(tied), SAME(activation), SAME(gated), SAME(qk_norm);
    SAME(qkv_bias), SAME(projection_bias), SAME(mlp_bias), SAME(sliding_window), SAME(residual_init);
    SAME(rope.theta), SAME(rope.scaling), SAME(rope.factor), SAME(rope.low_freq_factor), SAME(rope.high_freq_factor);
    SAME(rope.original_positions);
#undef SAME
    free(text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model_export");
    TCase *c = tcase_create("export");

    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_set_timeout(c, 240);
    tcase_add_loop_test(c, ranks_export_what_they_hold, 0, sizeof exports / sizeof *exports);
    tcase_add_test(c, exports_fail_everywhere);
    tcase_add_test(c, folders_of_others_stay);
    tcase_add_loop_test(c, configs_change_only_the_dtype, 0, sizeof retyped / sizeof *retyped);
    tcase_add_loop_test(c, configs_are_read_back, 0, 2);
    tcase_add_loop_test(c, families_are_read_back, 0, sizeof varied / sizeof *varied);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
