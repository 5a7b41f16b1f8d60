/* SPDX-License-Identifier: Apache-2.0 */
/* test_model_load.c - initial values of models, and their folders: weights that do not fit config.json are refused with
 * a sentence that names the fault. No engine. */
#include "tests/expect.h"
#include "models/decoder.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- initial values --------------------------------------------------------------------------------------------- */

/* Indices of GPT-2's tensors in a layer, and their number. */
enum { NORM1_W = 0, QKV_B = 3, DOWN_W = 10, LAYER_TENSORS = 12 };

START_TEST(test_init)
{
    enum { N = 4 * 128 * 128 };
    static float all[N], part[N];
    zero_model_config_t c;
    zero_model_tensor_t t;
    zero_error_t error;
    double sum = 0, squares = 0;
    int outside = 0;

    ck_assert_int_eq(zero_model_preset(&c, "tiny", &error), ZERO_OK);
    zero_model_tensor(&c, 2 + DOWN_W, &t);
    ck_assert_str_eq(t.name, "h.0.mlp.c_proj.weight");
    ck_assert_int_eq(t.count, N);
    ck_assert_double_eq_tol(t.std, 0.1 / sqrt(4), 1e-12); /* two layers, two residual projections each */
    zero_model_init_values(&t, 7, 0, N, 1, all);
    for (int i = 0; i < N; i++) {
        sum += all[i];
        squares += (double)all[i] * all[i];
        outside += fabs(all[i]) > 2 * t.std;
    }
    /* mean, standard deviation and tail of a normal distribution, within five standard errors */
    ck_assert_double_eq_tol(sum / N, 0, 5 * t.std / sqrt(N));
    ck_assert_double_eq_tol(sqrt(squares / N), t.std, 5 * t.std / sqrt(2.0 * N));
    ck_assert_double_eq_tol((double)outside / N, 0.0455, 5 * sqrt(0.0455 / N));

    /* every division into ranges gives the same values, including odd boundaries and single elements */
    for (int64_t begin = 0, n = 1; begin < N; begin += n, n = n * 3 + 1) {
        if (n > N - begin)
            n = N - begin;
        zero_model_init_values(&t, 7, begin, n, 1, part + begin);
    }
    ck_assert_mem_eq(all, part, sizeof all);

    /* another seed and another tensor give others */
    zero_model_init_values(&t, 8, 0, N, 1, part);
    ck_assert_mem_ne(all, part, sizeof all);
    zero_model_tensor(&c, 2 + LAYER_TENSORS + DOWN_W, &t);
    zero_model_init_values(&t, 7, 0, N, 1, part);
    ck_assert_mem_ne(all, part, sizeof all);

    zero_model_tensor(&c, 2 + NORM1_W, &t);
    zero_model_init_values(&t, 7, 5, 1, 1, part);
    ck_assert(part[0] == 1.0f);
    zero_model_tensor(&c, 2 + QKV_B, &t);
    zero_model_init_values(&t, 7, 5, 1, 1, part);
    ck_assert(part[0] == 0.0f);
}
END_TEST

#define SIZES "\"n_layer\": 2, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": 5"
#define CONFIG "{\"model_type\": \"gpt2\", " SIZES "}"

static zero_status_t parse(const char *text, zero_model_config_t *c, zero_error_t *error)
{
    memset(error, 0, sizeof *error);
    return zero_model_parse_config(c, text, strlen(text), "DIR/config.json", error);
}

/* ---- folders ---------------------------------------------------------------------------------------------------- */

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "test_model_load.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void drop_folder(void)
{
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors", "b.safetensors"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(in_folder(names[i]));
    rmdir(folder);
}

static void write_file(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(in_folder(name), "wb");

    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
    ck_assert_int_eq(fclose(file), 0);
}

/* A tensor that is extra, missing, or different from the model of CONFIG, or of LLAMA. */
typedef struct change {
    const char *name;          /* "" for none; if the model lacks this name, the tensor is added */
    const char *becomes;       /* another name; NULL: the tensor is missing */
    const char *dtype, *shape; /* NULL: unchanged */
    int64_t count;             /* elements, with shape */
    uint8_t last;              /* its last byte; the others, and those of other tensors, are 0 */
    bool llama;                /* of the model of LLAMA */
} change_t;

/* Writes tensors [first, last) of the model, with the change, as one .safetensors file. */
static void write_tensors(const char *file, const zero_model_config_t *c, int first, int last, const change_t *change)
{
    static char header[1 << 14];
    static uint8_t data[1 << 16];
    size_t used = (size_t)sprintf(header + 8, "{"), bytes = 0;
    bool done = false;
    FILE *out = fopen(in_folder(file), "wb");

    ck_assert_ptr_nonnull(out);
    for (int i = first; i < last + 1; i++) {
        char shape[64], name[80];
        const char *dtype = "F32";
        uint8_t value = 0;
        zero_model_tensor_t t;
        int64_t count;

        if (i < last) {
            zero_model_tensor(c, i, &t);
        } else { /* after the last tensor: the added one */
            if (done || !*change->name)
                break;
            t = (zero_model_tensor_t){.ndim = 1, .shape = {1}, .count = 1};
            snprintf(t.name, sizeof t.name, "%s", change->name);
        }
        snprintf(name, sizeof name, "%s", t.name);
        snprintf(shape, sizeof shape, t.ndim == 2 ? "%ld, %ld" : "%ld", (long)t.shape[0], (long)t.shape[1]);
        count = t.count;
        if (!strcmp(change->name, t.name)) {
            done = true;
            if (change->becomes == NULL)
                continue;
            snprintf(name, sizeof name, "%s", change->becomes);
            dtype = change->dtype ? change->dtype : dtype;
            if (change->shape) {
                snprintf(shape, sizeof shape, "%s", change->shape);
                count = change->count;
            }
        }
        if (!strcmp(change->name, t.name))
            value = change->last;
        const size_t size = (size_t)count * (!strcmp(dtype, "F64") || !strcmp(dtype, "I64") ? 8
                                             : !strcmp(dtype, "F32")                        ? 4
                                                                                            : 2);
        used += (size_t)sprintf(header + 8 + used,
                                "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}",
                                used > 1 ? ", " : "", name, dtype, shape, bytes, bytes + size);
        bytes += size;
        data[bytes - 1] = value;
    }
    used += (size_t)sprintf(header + 8 + used, "}");
    for (int i = 0; i < 8; i++)
        header[i] = (char)((uint64_t)used >> (8 * i));
    ck_assert_uint_lt(bytes, sizeof data);
    ck_assert_uint_eq(fwrite(header, 1, used + 8, out), used + 8);
    ck_assert_uint_eq(fwrite(data, 1, bytes, out), bytes);
    ck_assert_int_eq(fclose(out), 0);
}

static const change_t none = {.name = ""};

#define LLAMA                                                                                                \
    "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"hidden_size\": 4, " \
    "\"intermediate_size\": 6, \"vocab_size\": 11, \"max_position_embeddings\": 5, \"tie_word_embeddings\": false}"

static const struct {
    change_t change;
    const char *sentence; /* NULL: it is legal */
} changes[] = {
    /* legal: */
    {{.name = ""}, NULL},
    {{.name = "wpe.weight", .becomes = "transformer.wpe.weight"}, NULL},
    {{.name = "h.1.attn.bias", .becomes = "h.1.attn.bias", .dtype = "I64"}, NULL},
    {{.name = "transformer.h.0.attn.masked_bias", .becomes = "transformer.h.0.attn.masked_bias"}, NULL},
    {{.name = "lm_head.weight", .becomes = "lm_head.weight", .shape = "11, 6", .count = 66}, NULL},
    {{.name = "lm_head.weight", .becomes = "lm_head.weight", .dtype = "BF16", .shape = "11, 6", .count = 66}, NULL},
    {{.name = "wte.weight", .becomes = "lm_head.weight", .last = 1}, NULL}, /* tied, and stored once */
    {{.name = "wte.weight", .becomes = "wte.weight", .dtype = "BF16"}, NULL},
    {{.name = "wte.weight", .becomes = "wte.weight", .dtype = "F16"}, NULL},
    /* refused: */
    {{.name = "h.1.ln_2.bias"}, "'transformer.h.1.ln_2.bias' 'h.1.ln_2.bias' GPT-2 n_layer 2"},
    {{.name = "wte.weight"}, "'transformer.wte.weight' 'wte.weight'"},
    {{.name = "ln_f.bias", .becomes = "ln_g.bias"}, "'ln_f.bias'"},
    {{.name = "h.2.ln_1.weight", .becomes = "h.2.ln_1.weight"}, "'h.2.ln_1.weight'"},
    {{.name = "extra", .becomes = "extra"}, "'extra'"},
    {{.name = "h..attn.bias", .becomes = "h..attn.bias"}, "'h..attn.bias'"},
    {{.name = "transformer.wte.weight", .becomes = "transformer.wte.weight"}, "'transformer.wte.weight' 'wte.weight'"},
    {{.name = "wte.weight", .becomes = "wte.weight", .shape = "6, 11", .count = 66}, "'wte.weight' 6 11"},
    {{.name = "h.0.attn.c_attn.weight", .becomes = "h.0.attn.c_attn.weight", .shape = "18, 6", .count = 108}, "18 6"},
    {{.name = "ln_f.weight", .becomes = "ln_f.weight", .shape = "1, 6", .count = 6}, "'ln_f.weight' 1 6"},
    {{.name = "ln_f.weight", .becomes = "ln_f.weight", .shape = "5", .count = 5}, "5 6"},
    {{.name = "wpe.weight", .becomes = "wpe.weight", .dtype = "F64"}, "'wpe.weight' F64 F32 BF16 F16"},
    {{.name = "lm_head.weight", .becomes = "lm_head.weight", .shape = "12, 6", .count = 72},
     "'lm_head.weight' 12 6 11"},
    {{.name = "lm_head.weight", .becomes = "lm_head.weight", .shape = "11, 6", .count = 66, .last = 1},
     "'lm_head.weight' 'wte.weight' tie_word_embeddings"},
    {{.name = "lm_head.weight", .becomes = "lm_head.weight", .dtype = "I64", .shape = "11, 6", .count = 66},
     "'lm_head.weight' I64"},
    {{.name = "wte.weight", .becomes = "lm_head.weight", .shape = "6, 11", .count = 66}, "'lm_head.weight' 6 11"},
    {{.name = "wte.weight", .becomes = "_orig_mod.transformer.wte.weight"},
     "'_orig_mod.' torch.compile '_orig_mod.transformer.wte.weight'"},
    {{.name = "h.0.ln_1.bias", .becomes = "module.h.0.ln_1.bias"}, "'module.'"},
    {{.name = "wpe.weight", .becomes = "module._orig_mod.transformer.wpe.weight"}, "'module._orig_mod.'"},
    {{.name = "ln_f.bias", .becomes = "net.transformer.ln_f.bias"}, "'net.' 'net.transformer.ln_f.bias'"},
    {{.name = "ln_f.bias", .becomes = "xln_f.bias"}, "'ln_f.bias'"},
    {{.name = "h.0.self_attn.rotary_emb.inv_freq", .becomes = "h.0.self_attn.rotary_emb.inv_freq"}, "'h.0.self_attn."},
    /* a family whose parameters have the prefix, with a head of its own: */
    {{.name = "", .llama = true}, NULL},
    {{.name = "model.norm.weight", .becomes = "norm.weight", .llama = true}, NULL},
    {{.name = "model.layers.1.self_attn.rotary_emb.inv_freq",
      .becomes = "model.layers.1.self_attn.rotary_emb.inv_freq",
      .llama = true},
     NULL},
    {{.name = "layers.0.attn.bias", .becomes = "layers.0.attn.bias", .llama = true}, "'layers.0.attn.bias' Llama"},
    {{.name = "model.layers.0.self_attn.q_proj.bias", .becomes = "model.layers.0.self_attn.q_proj.bias", .llama = true},
     "'model.layers.0.self_attn.q_proj.bias' Llama"},
    {{.name = "lm_head.weight", .llama = true}, "'lm_head.weight' Llama tie_word_embeddings false"},
    {{.name = "model.norm.weight", .llama = true}, "'model.norm.weight' 'norm.weight' Llama num_hidden_layers 2"},
    {{.name = "norm.weight", .becomes = "norm.weight", .llama = true}, "'model.norm.weight' 'norm.weight'"},
    {{.name = "model.norm.weight", .becomes = "module.model.norm.weight", .llama = true},
     "'module.' DistributedDataParallel"},
    /* inconsistencies of the file itself, which its reader must find: */
    {{.name = "wte.weight", .becomes = "wte.weight", .shape = "11, 7", .count = 66}, "wte.weight"},
    {{.name = "wte.weight", .becomes = "wte.weight", .shape = "9223372036854775807, 9223372036854775807", .count = 66},
     "wte.weight"},
    {{.name = "wte.weight", .becomes = "wpe.weight"}, "wpe.weight"},
};

START_TEST(test_folder)
{
    zero_model_config_t c;
    zero_error_t error = {.status = ZERO_OK};
    zero_status_t status;

    const char *config = changes[_i].change.llama ? LLAMA : CONFIG;

    make_folder();
    write_file("config.json", config, strlen(config));
    ck_assert_int_eq(zero_model_read_config(&c, folder, &error), ZERO_OK);
    write_tensors("model.safetensors", &c, 0, zero_model_tensor_count(&c), &changes[_i].change);
    status = zero_model_check_folder(&c, folder, &error);
    drop_folder();
    if (changes[_i].sentence == NULL) {
        ck_assert_msg(status == ZERO_OK, "%s", error.text);
    } else {
        ck_assert_int_eq(status, ZERO_ERR_FORMAT);
        ck_assert_msg(has_names(error.text, changes[_i].sentence), "the sentence '%s' does not say '%s'", error.text,
                      changes[_i].sentence);
        ck_assert_msg(has_names(error.text, folder), "the sentence '%s' does not name the folder", error.text);
    }
}
END_TEST

/* Two files with an index: complete; with a tensor that the index does not list; with an index that names a missing
 * file. */
START_TEST(test_shards)
{
    static char index[1 << 13];
    size_t used = (size_t)sprintf(index, "{\"metadata\": {}, \"weight_map\": {");
    zero_model_config_t c;
    zero_error_t error;
    int count;

    make_folder();
    ck_assert_int_eq(parse(CONFIG, &c, &error), ZERO_OK);
    count = zero_model_tensor_count(&c);
    write_tensors("a.safetensors", &c, 0, 9, &none);
    write_tensors("b.safetensors", &c, 9, count, &none);
    for (int i = 0; i < count; i++) {
        zero_model_tensor_t t;

        zero_model_tensor(&c, i, &t);
        used += (size_t)sprintf(index + used, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", t.name, i < 9 ? "a" : "b");
    }
    used += (size_t)sprintf(index + used, "}}");
    write_file("model.safetensors.index.json", index, used);
    ck_assert_msg(zero_model_check_folder(&c, folder, &error) == ZERO_OK, "%s", error.text);
    write_tensors("b.safetensors", &c, 9, count, &(change_t){.name = "extra", .becomes = "extra"});
    ck_assert_int_eq(zero_model_check_folder(&c, folder, &error), ZERO_ERR_FORMAT);
    ck_assert(has_names(error.text, "'extra'"));
    ck_assert(has_names(error.text, "b.safetensors"));
    ck_assert_int_eq(unlink(in_folder("b.safetensors")), 0);
    ck_assert_int_ne(zero_model_check_folder(&c, folder, &error), ZERO_OK);
    ck_assert(has_names(error.text, "b.safetensors"));
    drop_folder();
}
END_TEST

/* Files that are missing, empty, truncated, or of another kind. */
START_TEST(test_files)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n";
    static const uint8_t huge[16] = {255, 255, 255, 255, 255, 255, 255, 127, '{'};
    static uint8_t whole[1 << 16];
    zero_model_config_t c;
    zero_error_t error;
    size_t bytes;
    FILE *file;

    ck_assert_int_eq(zero_model_read_config(&c, "there/is/none", &error), ZERO_ERR_IO);
    ck_assert_str_eq(error.text, "cannot open 'there/is/none/config.json': No such file or directory");
    make_folder();
    write_file("config.json", "", 0);
    ck_assert_int_eq(zero_model_read_config(&c, folder, &error), ZERO_ERR_FORMAT);
    ck_assert(has_names(error.text, "config.json"));
    write_file("config.json", CONFIG, strlen(CONFIG));
    ck_assert_int_eq(zero_model_read_config(&c, folder, &error), ZERO_OK);
    ck_assert_int_ne(zero_model_check_folder(&c, folder, &error), ZERO_OK); /* no weights */
    ck_assert(has_names(error.text, folder));
    write_file("model.safetensors", "", 0);
    ck_assert_int_eq(zero_model_check_folder(&c, folder, &error), ZERO_ERR_FORMAT);
    write_file("model.safetensors", huge, sizeof huge);
    ck_assert_int_eq(zero_model_check_folder(&c, folder, &error), ZERO_ERR_FORMAT);
    write_file("model.safetensors", pointer, strlen(pointer));
    ck_assert_int_eq(zero_model_check_folder(&c, folder, &error), ZERO_ERR_FORMAT);
    ck_assert(has_names(error.text, "`git lfs pull` model.safetensors"));
    write_file("config.json", pointer, strlen(pointer));
    ck_assert_int_eq(zero_model_read_config(&c, folder, &error), ZERO_ERR_FORMAT);
    ck_assert(has_names(error.text, "config.json"));
    write_tensors("model.safetensors", &c, 0, zero_model_tensor_count(&c), &none);
    ck_assert_int_eq(zero_model_check_folder(&c, folder, &error), ZERO_OK);
    file = fopen(in_folder("model.safetensors"), "rb");
    ck_assert_ptr_nonnull(file);
    bytes = fread(whole, 1, sizeof whole, file);
    fclose(file);
    for (size_t cut = 0; cut < bytes; cut += 97) { /* every length is short of something */
        write_file("model.safetensors", whole, cut);
        ck_assert_msg(zero_model_check_folder(&c, folder, &error) == ZERO_ERR_FORMAT,
                      "%zu of %zu bytes were taken for a whole file", cut, bytes);
    }
    drop_folder();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model_load");
    TCase *tcase = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_init);
    tcase_add_loop_test(tcase, test_folder, 0, sizeof changes / sizeof *changes);
    tcase_add_test(tcase, test_shards);
    tcase_add_test(tcase, test_files);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
