/* SPDX-License-Identifier: Apache-2.0 */
/* export_config.c - names and config.json of exported models. */
#include "models/export.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const dtype_names[ZERO_DTYPE_COUNT] = {"float32", "bfloat16", "float16"};

/* ---- a config.json of our own ----------------------------------------------------------------------------------- */

/* The fewest digits that read back as value; JSON. */
static const char *real_text(char text[32], double value)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return text;
}

static void add_size(FILE *t, const char *key, int64_t value)
{
    if (key)
        fprintf(t, "  \"%s\": %" PRId64 ",\n", key, value);
}

static void add_real(FILE *t, const char *key, double value)
{
    char real[32];

    fprintf(t, "  \"%s\": %s,\n", key, real_text(real, value));
}

static void add_bool(FILE *t, const char *key, bool value)
{
    fprintf(t, "  \"%s\": %s,\n", key, value ? "true" : "false");
}

static const char *const activations[] = {
    [ZERO_NN_GELU_NEW] = "gelu_new", [ZERO_NN_GELU] = "gelu", [ZERO_NN_RELU] = "relu", [ZERO_NN_SILU] = "silu"};

/* As transformers spelled it before version 5, which reads it too. */
static void add_rope(FILE *t, const zero_rope_t *rope)
{
    char a[32], b[32], c[32];

    if (rope->theta == 0)
        return;
    add_real(t, "rope_theta", rope->theta);
    if (rope->scaling == ZERO_ROPE_LINEAR)
        fprintf(t, "  \"rope_scaling\": {\n    \"rope_type\": \"linear\",\n    \"factor\": %s\n  },\n",
                real_text(a, rope->factor));
    else if (rope->scaling == ZERO_ROPE_LLAMA3)
        fprintf(t,
                "  \"rope_scaling\": {\n    \"rope_type\": \"llama3\",\n    \"factor\": %s,\n"
                "    \"low_freq_factor\": %s,\n    \"high_freq_factor\": %s,\n"
                "    \"original_max_position_embeddings\": %" PRId64 "\n  },\n",
                real_text(a, rope->factor), real_text(b, rope->low_freq_factor), real_text(c, rope->high_freq_factor),
                rope->original_positions);
    else
        fprintf(t, "  \"rope_scaling\": null,\n");
}

/* The whole config.json. There is no dropout. Token 50256 is <|endoftext|> of OpenAI's vocabulary; of another
 * vocabulary no token is known to have a meaning. */
static void add_config(FILE *t, const zero_model_config_t *c, const zero_family_t *family, const char *dtype)
{
    const zero_family_keys_t *keys = family->keys;
    const bool learned = c->rope.theta == 0 && !c->sinusoidal;
    const char *token = learned && c->vocab == 50257 ? "50256" : "null";

    fprintf(t, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n  \"model_type\": \"%s\",\n", family->architecture,
            family->name);
    add_size(t, keys->vocab, c->vocab);
    add_size(t, keys->positions, c->positions);
    add_size(t, keys->width, c->width);
    if (c->encoder_layers > 0) {
        add_bool(t, "is_encoder_decoder", true);
        add_size(t, keys->source_vocab, c->source_vocab);
        add_size(t, keys->encoder_layers, c->encoder_layers);
    }
    add_size(t, keys->layers, c->layers);
    add_size(t, keys->heads, c->heads);
    add_size(t, keys->kv_heads, c->kv_heads);
    add_size(t, keys->head_dim, c->head_dim);
    if (!family->hidden && c->hidden == 4 * c->width)
        fprintf(t, "  \"%s\": null,\n", keys->hidden);
    else
        add_size(t, keys->hidden, c->hidden);
    fprintf(t, "  \"%s\": \"%s\",\n", keys->activation, activations[c->activation]);
    add_real(t, keys->norm_eps, c->norm_eps);
    if (keys->norm_first)
        add_bool(t, keys->norm_first, !c->post_norm);
    if (c->scaled_embedding)
        add_bool(t, "scale_embedding", true);
    add_rope(t, &c->rope);
    if (family->attention_bias == ZERO_SWITCH_KEY)
        add_bool(t, "attention_bias", c->qkv_bias);
    if (family->mlp_bias == ZERO_SWITCH_KEY)
        add_bool(t, "mlp_bias", c->mlp_bias);
    if (family->window_switch) {
        add_bool(t, "use_sliding_window", c->sliding_window > 0);
        if (c->sliding_window > 0) /* of all layers: config does not say of which */
            add_size(t, "max_window_layers", 0);
    }
    if (family->sliding_window > 0 && c->sliding_window > 0)
        add_size(t, "sliding_window", c->sliding_window);
    else if (family->sliding_window > 0)
        fprintf(t, "  \"sliding_window\": null,\n");
    add_real(t, "initializer_range", c->init_std);
    if (learned)
        fprintf(t, "  \"attn_pdrop\": 0.0,\n  \"embd_pdrop\": 0.0,\n  \"resid_pdrop\": 0.0,\n");
    if (c->sinusoidal)
        fprintf(t, "  \"dropout\": 0.0,\n");
    add_bool(t, "tie_word_embeddings", c->tied);
    fprintf(t, "  \"bos_token_id\": %s,\n  \"eos_token_id\": %s,\n  \"torch_dtype\": \"%s\"\n}\n", token, token, dtype);
}

void zero_model_export_tensor(const zero_model_config_t *config, int index, char name[ZERO_EXPORT_NAME_BYTES],
                              zero_tensor_info_t *info)
{
    const zero_family_t *family = zero_family_find(config->family);
    zero_model_tensor_t t;

    zero_model_tensor(config, index, &t);
    snprintf(name, ZERO_EXPORT_NAME_BYTES, "%s%s", family->prefixed || t.place == ZERO_PLACE_HEAD ? "" : family->prefix,
             t.name);
    info->ndim = t.ndim;
    for (int d = 0; d < t.ndim; d++)
        info->shape[d] = t.shape[d];
}

zero_status_t zero_model_config_text(const zero_model_config_t *config, zero_dtype_t dtype, char **text,
                                     zero_error_t *error)
{
    size_t bytes;
    FILE *t = open_memstream(text, &bytes);
    bool written = t != NULL;

    if (t != NULL) {
        add_config(t, config, zero_family_find(config->family), dtype_names[dtype]);
        written = !ferror(t);
        written = fclose(t) == 0 && written;
    }
    if (written)
        return ZERO_OK;
    if (t != NULL)
        free(*text);
    *text = NULL;
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for config.json");
}

/* ---- a config.json that is taken over --------------------------------------------------------------------------- */

/* The end of the string that begins at text, behind its quote. */
static const char *end_of_string(const char *text)
{
    for (text++; *text != '\0' && *text != '"'; text++)
        if (*text == '\\' && text[1] != '\0')
            text++;
    return *text == '"' ? text + 1 : text;
}

static const char *skip_space(const char *text)
{
    return text + strspn(text, " \t\r\n");
}

/* Finds the value of a member of the object that a valid JSON text is: its first byte, and the one behind it. The
 * member's name is spelled without escapes. */
static bool find_value(const char *text, const char *key, const char **begin, const char **end)
{
    const size_t length = strlen(key);
    const char *value = NULL;
    int depth = 0;

    while (*text != '\0') {
        const char *first = text;

        text = *text == '"' ? end_of_string(text) : text + 1;
        if (value && depth == 1 && (*first == ',' || *first == '}')) {
            for (*begin = value, *end = first; strchr(" \t\r\n", (*end)[-1]);)
                --*end;
            return true;
        }
        if (!value && depth == 1 && *first == '"' && *skip_space(text) == ':' && strncmp(first + 1, key, length) == 0 &&
            first[length + 1] == '"')
            value = text = skip_space(skip_space(text) + 1);
        depth += (*first == '{' || *first == '[') - (*first == '}' || *first == ']');
    }
    return false;
}

zero_status_t zero_model_config_retype(const char *text, const char *path, zero_dtype_t dtype, char **result,
                                       zero_error_t *error)
{
    json_error_t where;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    const bool object = json_is_object(root);
    size_t room = strlen(text) + 100;
    const char *begin = NULL, *end = NULL;
    bool any = false;

    *result = NULL;
    json_decref(root);
    if (!object)
        return zero_fail(error, ZERO_ERR_FORMAT, "'%s' is not a JSON object any more", path);
    char *now = malloc(room), *next = malloc(room);
    if (now == NULL || next == NULL) {
        free(now);
        free(next);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for '%s'", path);
    }
    strcpy(now, text);
    /* transformers before 4.56 wrote the first; where both are, both are replaced */
    for (int k = 0; k < 2; k++) {
        char *swap = now;

        if (!find_value(now, k ? "dtype" : "torch_dtype", &begin, &end))
            continue;
        any = true;
        snprintf(next, room, "%.*s\"%s\"%s", (int)(begin - now), now, dtype_names[dtype], end);
        now = next;
        next = swap;
    }
    if (!any) {
        char *swap = now;
        const char *brace = strchr(now, '{');

        begin = skip_space(brace + 1);
        snprintf(next, room, "%.*s\n  \"torch_dtype\": \"%s\"%s%s", (int)(brace + 1 - now), now, dtype_names[dtype],
                 *begin == '}' ? "" : ",", brace + 1);
        now = next;
        next = swap;
    }
    free(next);
    *result = now;
    return ZERO_OK;
}
