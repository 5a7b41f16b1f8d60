/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - the sizes of models: presets, checks, and the file config.json. */
#include "models/family.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define CONFIG_BYTES_MOST (1u << 20)
#define QUERY_MOST (1 << 22)

/* ---- presets ---------------------------------------------------------------------------------------------------- */

/* Llama 3's stretched positions (Grattafiori et al. 2024). */
#define LLAMA3_ROPE(by) \
    .rope = {500000, ZERO_ROPE_LLAMA3, by, 1, 4, 8192}, .vocab = 128256, .positions = 131072, .norm_eps = 1e-5
#define QWEN25_ROPE .rope = {.theta = 1000000}, .norm_eps = 1e-6

/* Sizes of zero_model_config_t; what is 0 is the family's, and hidden then 4 * width. OpenAI's models use an init_std
 * of 0.02 (Radford et al. 2019), which is about width^-0.5 / 2 at their widths. A model as narrow as tiny learns only
 * with a larger value. */
static const struct {
    const char *name;
    zero_model_config_t sizes;
} presets[] = {
    /* text as bytes; learns to spell numbers in seconds */
    {"tiny", {"gpt2", .layers = 2, .heads = 4, .width = 128, .vocab = 256, .positions = 256, .init_std = 0.1}},
    {"gpt2", {"gpt2", .layers = 12, .heads = 12, .width = 768, .vocab = 50257, .positions = 1024}},
    {"gpt2-medium", {"gpt2", .layers = 24, .heads = 16, .width = 1024, .vocab = 50257, .positions = 1024}},
    {"gpt2-large", {"gpt2", .layers = 36, .heads = 20, .width = 1280, .vocab = 50257, .positions = 1024}},
    {"gpt2-xl", {"gpt2", .layers = 48, .heads = 25, .width = 1600, .vocab = 50257, .positions = 1024}},
    /* Llama 3.2 1B and 3B, Llama 3.1 8B */
    {"llama-1b",
     {"llama", .layers = 16, .heads = 32, .kv_heads = 8, .width = 2048, .hidden = 8192, .tied = true, LLAMA3_ROPE(32)}},
    {"llama-3b",
     {"llama", .layers = 28, .heads = 24, .kv_heads = 8, .width = 3072, .hidden = 8192, .tied = true, LLAMA3_ROPE(32)}},
    {"llama-8b", {"llama", .layers = 32, .heads = 32, .kv_heads = 8, .width = 4096, .hidden = 14336, LLAMA3_ROPE(8)}},
    {"qwen2.5-0.5b",
     {"qwen2", .layers = 24, .heads = 14, .kv_heads = 2, .width = 896, .hidden = 4864, .vocab = 151936,
      .positions = 32768, .tied = true, QWEN25_ROPE}},
    {"qwen2.5-7b",
     {"qwen2", .layers = 28, .heads = 28, .kv_heads = 4, .width = 3584, .hidden = 18944, .vocab = 152064,
      .positions = 131072, QWEN25_ROPE}},
    /* digits to words (train/numbers.h); positions cost nothing */
    {"numbers-seq2seq",
     {"transformer", .layers = 2, .encoder_layers = 2, .heads = 4, .width = 64, .vocab = 34, .source_vocab = 10,
      .positions = 65536, .init_std = 0.1}},
};

static void fill_preset(zero_model_config_t *c, const zero_model_config_t *sizes)
{
    zero_model_family(c, sizes->family, NULL);
    c->layers = sizes->layers;
    c->encoder_layers = sizes->encoder_layers;
    c->source_vocab = sizes->source_vocab;
    c->heads = sizes->heads;
    c->kv_heads = sizes->kv_heads ? sizes->kv_heads : sizes->heads;
    c->head_dim = sizes->width / sizes->heads;
    c->width = sizes->width;
    c->hidden = sizes->hidden ? sizes->hidden : 4 * sizes->width;
    c->vocab = sizes->vocab;
    c->positions = sizes->positions;
    c->tied = c->tied || sizes->tied;
    if (sizes->norm_eps > 0)
        c->norm_eps = sizes->norm_eps;
    if (sizes->init_std > 0)
        c->init_std = sizes->init_std;
    if (sizes->rope.theta > 0)
        c->rope = sizes->rope;
}

zero_status_t zero_model_preset(zero_model_config_t *config, const char *name, zero_error_t *error)
{
    char names[200] = "";

    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (!strcmp(name, presets[i].name)) {
            fill_preset(config, &presets[i].sizes);
            return ZERO_OK;
        }
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", presets[i].name);
    }
    return zero_fail(error, ZERO_ERR_ARG, "there is no model '%s': use %s, or a Hugging Face folder", name, names);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

static bool has_encoder(const zero_family_t *family)
{
    return family->encoder_places[ZERO_PLACE_EMBEDDING] != NULL;
}

/* Only a family that has a tensor, and a place for a setting in config.json, can have them. */
static zero_status_t check_arithmetic(const zero_model_config_t *c, const zero_family_t *family, zero_error_t *error)
{
    const zero_model_config_t *f = &family->config;
    const bool encoder = has_encoder(family);
    const bool attention = family->attention_bias == ZERO_SWITCH_KEY
                               ? c->qkv_bias == c->projection_bias
                               : c->qkv_bias == f->qkv_bias && c->projection_bias == f->projection_bias;
    const struct {
        const char *name;
        bool same;
    } settings[] = {
        {"encoder_layers or source_vocab", (c->encoder_layers > 0) == encoder && (c->source_vocab > 0) == encoder},
        {"norm", c->norm == f->norm},
        {"post_norm", c->post_norm == f->post_norm || family->keys->norm_first != NULL},
        {"sinusoidal", c->sinusoidal == f->sinusoidal},
        {"scaled_embedding", c->scaled_embedding == f->scaled_embedding},
        {"rope.theta", (c->rope.theta != 0) == (f->rope.theta != 0)},
        {"gated", c->gated == f->gated},
        {"qkv_bias or projection_bias", attention},
        {"mlp_bias", c->mlp_bias == f->mlp_bias || family->mlp_bias == ZERO_SWITCH_KEY},
        {"qk_norm", c->qk_norm == f->qk_norm},
        {"sliding_window", c->sliding_window == 0 || (c->sliding_window > 0 && family->sliding_window > 0)},
    };

    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (!settings[i].same)
            return zero_fail(error, ZERO_ERR_ARG,
                             "%s is none that a %s can have: leave it as zero_model_family or zero_model_preset set it",
                             settings[i].name, family->title);
    return ZERO_OK;
}

static zero_status_t check_rope(const zero_rope_t *r, zero_error_t *error)
{
    if (!(r->theta >= 0) || !isfinite(r->theta))
        return zero_fail(error, ZERO_ERR_ARG, "the base of the rotary positions is %g, but must be above 0", r->theta);
    if (r->scaling != ZERO_ROPE_PLAIN && !(r->factor > 0))
        return zero_fail(error, ZERO_ERR_ARG, "the factor of the rotary positions is %g, but must be above 0",
                         r->factor);
    if (r->scaling == ZERO_ROPE_LLAMA3 &&
        !(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor && r->original_positions > 0))
        return zero_fail(error, ZERO_ERR_ARG,
                         "the rotary positions have the bounds %g and %g and %" PRId64
                         " original positions: all must be above 0, and the second bound above the first",
                         r->low_freq_factor, r->high_freq_factor, r->original_positions);
    return ZERO_OK;
}

zero_status_t zero_model_check_config(const zero_model_config_t *c, zero_error_t *error)
{
    const zero_family_t *family = zero_family_find(c->family);
    const bool encoder = family != NULL && has_encoder(family);
    /* The bounds keep every product of sizes below 2^63. */
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {
        {"layers", c->layers, 10000},
        {"encoder layers", encoder ? c->encoder_layers : 1, 10000},
        {"heads", c->heads, 1 << 16},
        {"key-value heads", c->kv_heads, 1 << 16},
        {"width", c->width, 1 << 20},
        {"hidden width", c->hidden, 1 << 24},
        {"vocabulary", c->vocab, INT32_MAX - 15},
        {"source vocabulary", encoder ? c->source_vocab : 1, INT32_MAX - 15},
        {"positions", c->positions, INT32_MAX},
    };
    char names[200];

    if (family == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "a model of the family '%.16s': one of %s is possible", c->family,
                         zero_family_names(names, sizeof names));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return zero_fail(error, ZERO_ERR_ARG, "a model with %s %" PRId64 ": 1 to %" PRId64 " are possible",
                             sizes[i].name, sizes[i].value, sizes[i].most);
    if (family->keys->head_dim == NULL && (c->width % c->heads != 0 || c->head_dim != c->width / c->heads))
        return zero_fail(error, ZERO_ERR_ARG,
                         "a width of %" PRId64 " is no multiple of %" PRId64 " heads: %" PRId64 " or %" PRId64
                         " would be",
                         c->width, c->heads, c->width / c->heads > 0 ? c->width / c->heads * c->heads : c->heads,
                         (c->width / c->heads + 1) * c->heads);
    if (c->head_dim < 1 || c->head_dim > QUERY_MOST / c->heads)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%" PRId64 " heads of %" PRId64 " elements: 1 to %" PRId64 " elements are possible", c->heads,
                         c->head_dim, QUERY_MOST / c->heads);
    if (c->heads % c->kv_heads != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%" PRId64 " heads are no multiple of %" PRId64 " key-value heads: use %" PRId64 " heads",
                         c->heads, c->kv_heads, (c->heads / c->kv_heads + 1) * c->kv_heads);
    if (c->sinusoidal && c->width % 2 != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a width of %" PRId64 " cannot have sinusoidal positions, which are pairs: use %" PRId64,
                         c->width, c->width + 1);
    if (c->rope.theta != 0 && c->head_dim % 2 != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "heads of %" PRId64 " elements cannot have rotary positions, which turn pairs: an even number "
                         "is needed",
                         c->head_dim);
    if (c->rope.theta != 0 && c->head_dim > ZERO_HEAD_DIM_MOST)
        return zero_fail(error, ZERO_ERR_ARG,
                         "heads of %" PRId64 " elements with rotary positions: at most %d are possible", c->head_dim,
                         ZERO_HEAD_DIM_MOST);
    if (!(c->norm_eps > 0) || !isfinite(c->norm_eps))
        return zero_fail(error, ZERO_ERR_ARG, "the %s epsilon is %g, but must be above 0",
                         c->norm == ZERO_MODEL_RMS_NORM ? "RMS norm" : "layer norm", c->norm_eps);
    if (!(c->init_std >= 0) || !isfinite(c->init_std))
        return zero_fail(error, ZERO_ERR_ARG, "the initial standard deviation is %g, but must not be negative",
                         c->init_std);
    zero_status_t status = check_rope(&c->rope, error);
    return status == ZERO_OK ? check_arithmetic(c, family, error) : status;
}

bool zero_model_is_pointer(const char *text, size_t bytes)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/";

    return bytes >= sizeof pointer - 1 && memcmp(text, pointer, sizeof pointer - 1) == 0;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

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
    status = zero_model_parse_config(config, text, bytes, path, error);
end:
    if (file)
        fclose(file);
    free(text);
    free(path);
    return status;
}
