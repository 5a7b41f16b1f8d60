/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - the sizes of models: presets, and config.json of a Hugging Face folder. */
#include "models/gpt2.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define CONFIG_BYTES_MOST (1u << 20)

/* ---- presets ---------------------------------------------------------------------------------------------------- */

/* OpenAI's models use 0.02 (Radford et al. 2019), which is about width^-0.5 / 2 at their widths. A model as narrow as
 * tiny learns only with a larger value. */
static const struct {
    const char *name;
    int64_t layers, heads, width, vocab, positions;
    double init_std;
} presets[] = {
    {"tiny", 2, 4, 128, 256, 256, 0.1}, /* text as bytes; learns to spell numbers in seconds */
    {"gpt2", 12, 12, 768, 50257, 1024, 0.02},
    {"gpt2-medium", 24, 16, 1024, 50257, 1024, 0.02},
    {"gpt2-large", 36, 20, 1280, 50257, 1024, 0.02},
    {"gpt2-xl", 48, 25, 1600, 50257, 1024, 0.02},
};
static const char *const planned[] = {"llama-1b",     "llama-3b",   "llama-8b",
                                      "qwen2.5-0.5b", "qwen2.5-7b", "numbers-seq2seq"};

zero_status_t zero_model_preset(zero_model_config_t *config, const char *name, zero_error_t *error)
{
    char names[200] = "";

    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (!strcmp(name, presets[i].name)) {
            *config = (zero_model_config_t){.family = "gpt2",
                                            .layers = presets[i].layers,
                                            .heads = presets[i].heads,
                                            .width = presets[i].width,
                                            .hidden = 4 * presets[i].width,
                                            .vocab = presets[i].vocab,
                                            .positions = presets[i].positions,
                                            .norm_eps = 1e-5,
                                            .init_std = presets[i].init_std};
            return ZERO_OK;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", presets[i].name);
    }
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++)
        if (!strcmp(name, planned[i]))
            return zero_fail(error, ZERO_ERR_UNSUPPORTED, "model '%s' is not supported yet: use %s", name, names);
    return zero_fail(error, ZERO_ERR_ARG, "there is no model '%s': use %s, or a Hugging Face folder", name, names);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

zero_status_t zero_gpt2_check_config(const zero_model_config_t *c, zero_error_t *error)
{
    /* The bounds keep every product of sizes below 2^63. */
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {
        {"layers", c->layers, 10000},
        {"heads", c->heads, 1 << 16},
        {"width", c->width, 1 << 20},
        {"hidden width", c->hidden, 1 << 24},
        {"vocabulary", c->vocab, INT32_MAX - 15},
        {"positions", c->positions, INT32_MAX},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return zero_fail(error, ZERO_ERR_ARG, "a model with %s %" PRId64 ": 1 to %" PRId64 " are possible",
                             sizes[i].name, sizes[i].value, sizes[i].most);
    if (c->width % c->heads != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a width of %" PRId64 " is no multiple of %" PRId64 " heads: %" PRId64 " or %" PRId64
                         " would be",
                         c->width, c->heads, c->width / c->heads > 0 ? c->width / c->heads * c->heads : c->heads,
                         (c->width / c->heads + 1) * c->heads);
    if (!(c->norm_eps > 0) || !isfinite(c->norm_eps))
        return zero_fail(error, ZERO_ERR_ARG, "the layer norm epsilon is %g, but must be above 0", c->norm_eps);
    if (!(c->init_std >= 0) || !isfinite(c->init_std))
        return zero_fail(error, ZERO_ERR_ARG, "the initial standard deviation is %g, but must not be negative",
                         c->init_std);
    return ZERO_OK;
}

bool zero_model_is_pointer(const char *text, size_t bytes)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/";

    return bytes >= sizeof pointer - 1 && memcmp(text, pointer, sizeof pointer - 1) == 0;
}

/* ---- config.json ------------------------------------------------------------------------------------------------ */

/* A value as JSON text for an error, truncated to fit. */
static const char *value_text(char *text, size_t bytes, const json_t *value)
{
    char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

    snprintf(text, bytes, "%.*s%s", (int)bytes - 4, dump ? dump : "?", dump && strlen(dump) > bytes - 4 ? "..." : "");
    free(dump);
    return text;
}

static zero_status_t wrong(const char *name, const char *key, const json_t *found, const char *wanted,
                           zero_error_t *error)
{
    char text[100];

    if (found == NULL)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: \"%s\" is missing, wanted %s", name, key, wanted);
    return zero_fail(error, ZERO_ERR_FORMAT, "%s: \"%s\" is %s, wanted %s", name, key,
                     value_text(text, sizeof text, found), wanted);
}

static zero_status_t read_size(const json_t *root, const char *name, const char *key, int64_t *out, zero_error_t *error)
{
    const json_t *value = json_object_get(root, key);

    if (!json_is_integer(value) || json_integer_value(value) < 1)
        return wrong(name, key, value, "an integer above 0", error);
    *out = json_integer_value(value);
    return ZERO_OK;
}

static zero_status_t read_number(const json_t *root, const char *name, const char *key, double *out,
                                 zero_error_t *error)
{
    const json_t *value = json_object_get(root, key);

    if (value == NULL)
        return ZERO_OK; /* the caller has set the default */
    if (!json_is_number(value) || !(json_number_value(value) >= 0))
        return wrong(name, key, value, "a number that is not negative", error);
    *out = json_number_value(value);
    return ZERO_OK;
}

/* Keys that change the arithmetic, with the only supported value. An absent key means this value, as for Hugging
 * Face. */
static zero_status_t check_switches(const json_t *root, const char *name, zero_error_t *error)
{
    static const struct {
        const char *key;
        bool wanted;
    } switches[] = {
        {"scale_attn_weights", true},  {"scale_attn_by_inverse_layer_idx", false},
        {"tie_word_embeddings", true}, {"add_cross_attention", false},
        {"is_encoder_decoder", false},
    };
    const json_t *value;

    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        value = json_object_get(root, switches[i].key);
        if (value != NULL && (!json_is_boolean(value) || json_boolean_value(value) != switches[i].wanted))
            return wrong(name, switches[i].key, value,
                         !strcmp(switches[i].key, "tie_word_embeddings")
                             ? "true: a head apart from the embedding is not supported for this model"
                         : switches[i].wanted ? "true"
                                              : "false",
                         error);
    }
    value = json_object_get(root, "activation_function");
    if (value != NULL && (!json_is_string(value) || (strcmp(json_string_value(value), "gelu_new") &&
                                                     strcmp(json_string_value(value), "gelu_pytorch_tanh"))))
        return wrong(name, "activation_function", value, "\"gelu_new\"", error);
    value = json_object_get(root, "quantization_config");
    if (value != NULL && !json_is_null(value))
        return wrong(name, "quantization_config", value, "none: weights in fp32, bf16 or fp16", error);
    return ZERO_OK;
}

zero_status_t zero_gpt2_parse_config(zero_model_config_t *config, const char *text, size_t bytes, const char *name,
                                     zero_error_t *error)
{
    zero_model_config_t c = {.family = "gpt2", .norm_eps = 1e-5, .init_std = 0.02};
    zero_status_t status = ZERO_OK;
    zero_error_t detail;
    json_error_t where;
    const json_t *value;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    const struct {
        const char *key;
        int64_t *out;
    } sizes[] = {
        {"n_layer", &c.layers},   {"n_head", &c.heads},          {"n_embd", &c.width},
        {"vocab_size", &c.vocab}, {"n_positions", &c.positions},
    };

    if (root == NULL)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: line %d: %s", name, where.line, where.text);
    if (!json_is_object(root)) {
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "%s: not a JSON object, but the configuration of a model is expected", name);
        goto end;
    }
    value = json_object_get(root, "model_type");
    if (!json_is_string(value) || strcmp(json_string_value(value), "gpt2")) {
        status = wrong(name, "model_type", value, "\"gpt2\" (other models are not supported yet)", error);
        goto end;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && status == ZERO_OK; i++)
        status = read_size(root, name, sizes[i].key, sizes[i].out, error);
    if (status != ZERO_OK)
        goto end;
    value = json_object_get(root, "n_inner");
    if (value != NULL && !json_is_null(value))
        status = read_size(root, name, "n_inner", &c.hidden, error);
    else
        c.hidden = c.width > INT64_MAX / 4 ? c.width : 4 * c.width; /* the check below rejects such a width */
    if (status == ZERO_OK)
        status = read_number(root, name, "layer_norm_epsilon", &c.norm_eps, error);
    if (status == ZERO_OK)
        status = read_number(root, name, "initializer_range", &c.init_std, error);
    if (status == ZERO_OK)
        status = check_switches(root, name, error);
    if (status != ZERO_OK)
        goto end;
    if (zero_gpt2_check_config(&c, &detail) != ZERO_OK) {
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s: %.900s", name, detail.text);
        goto end;
    }
    *config = c;
end:
    json_decref(root);
    return status;
}

zero_status_t zero_model_read_config(zero_model_config_t *config, const char *folder_or_file, zero_error_t *error)
{
    const size_t path_bytes = strlen(folder_or_file) + sizeof "/config.json";
    char *path = malloc(path_bytes), *text = malloc(CONFIG_BYTES_MOST + 1);
    zero_status_t status;
    struct stat info;
    FILE *file = NULL;
    size_t bytes;

    if (path == NULL || text == NULL) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "out of memory for config.json of '%.800s'", folder_or_file);
        goto end;
    }
    snprintf(path, path_bytes, "%s%s", folder_or_file,
             stat(folder_or_file, &info) == 0 && S_ISREG(info.st_mode) ? "" : "/config.json");
    errno = 0;
    bool regular = stat(path, &info) == 0 && S_ISREG(info.st_mode); /* opening a FIFO would block */
    file = regular ? fopen(path, "rb") : NULL;
    if (errno == 0 && !regular) {
        status = zero_fail(error, ZERO_ERR_ARG, "'%.800s' must be a file", path);
        goto end;
    }
    if (file == NULL) {
        status = zero_fail(error, ZERO_ERR_IO, "cannot open '%.800s': %s", path, strerror(errno));
        goto end;
    }
    bytes = fread(text, 1, CONFIG_BYTES_MOST + 1, file);
    if (ferror(file)) {
        status = zero_fail(error, ZERO_ERR_IO, "cannot read '%.800s': %s", path, strerror(errno));
        goto end;
    }
    if (zero_model_is_pointer(text, bytes)) {
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "%.800s is a git-lfs pointer, not the file: run git lfs pull in its folder", path);
        goto end;
    }
    if (bytes == 0 || bytes > CONFIG_BYTES_MOST) {
        status =
            zero_fail(error, ZERO_ERR_FORMAT, "%.800s: %s, wanted the configuration of a model in at most %u bytes",
                      path, bytes == 0 ? "empty" : "too long", CONFIG_BYTES_MOST);
        goto end;
    }
    status = zero_gpt2_parse_config(config, text, bytes, path, error);
end:
    if (file)
        fclose(file);
    free(text);
    free(path);
    return status;
}
