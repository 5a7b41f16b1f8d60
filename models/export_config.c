/* SPDX-License-Identifier: Apache-2.0 */
/* export_config.c - names and config.json of exported models. */
#include "models/export.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const dtype_names[ZERO_DTYPE_COUNT] = {"float32", "bfloat16", "float16"};

/* ---- families --------------------------------------------------------------------------------------------------- */

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

/* As transformers' GPT2Config. There is no dropout. Token 50256 is <|endoftext|> of OpenAI's vocabulary; of another
 * vocabulary no token is known to have a meaning. */
static int gpt2_config(const zero_model_config_t *c, const char *dtype, char *text, size_t room)
{
    char eps[32], std[32], inner[32] = "null";
    const char *token = c->vocab == 50257 ? "50256" : "null";

    if (c->hidden != 4 * c->width)
        snprintf(inner, sizeof inner, "%" PRId64, c->hidden);
    return snprintf(text, room,
                    "{\n"
                    "  \"architectures\": [\n    \"GPT2LMHeadModel\"\n  ],\n"
                    "  \"model_type\": \"gpt2\",\n"
                    "  \"vocab_size\": %" PRId64 ",\n"
                    "  \"n_positions\": %" PRId64 ",\n"
                    "  \"n_embd\": %" PRId64 ",\n"
                    "  \"n_layer\": %" PRId64 ",\n"
                    "  \"n_head\": %" PRId64 ",\n"
                    "  \"n_inner\": %s,\n"
                    "  \"activation_function\": \"gelu_new\",\n"
                    "  \"layer_norm_epsilon\": %s,\n"
                    "  \"initializer_range\": %s,\n"
                    "  \"attn_pdrop\": 0.0,\n"
                    "  \"embd_pdrop\": 0.0,\n"
                    "  \"resid_pdrop\": 0.0,\n"
                    "  \"tie_word_embeddings\": true,\n"
                    "  \"bos_token_id\": %s,\n"
                    "  \"eos_token_id\": %s,\n"
                    "  \"torch_dtype\": \"%s\"\n"
                    "}\n",
                    c->vocab, c->positions, c->width, c->layers, c->heads, inner, real_text(eps, c->norm_eps),
                    real_text(std, c->init_std), token, token, dtype);
}

static const struct {
    const char *name;
    const char *prefix; /* of every tensor's name */
    int (*config)(const zero_model_config_t *c, const char *dtype, char *text, size_t room); /* as snprintf */
} families[] = {
    {"gpt2", "transformer.", gpt2_config}, /* the head is the embedding, and stored once */
};

static int family_of(const zero_model_config_t *config)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(config->family, families[i].name) == 0)
            return (int)i;
    return 0;
}

void zero_model_export_tensor(const zero_model_config_t *config, int index, char name[ZERO_EXPORT_NAME_BYTES],
                              zero_tensor_info_t *info)
{
    zero_gpt2_tensor_t t;

    zero_gpt2_tensor(config, index, &t);
    snprintf(name, ZERO_EXPORT_NAME_BYTES, "%s%s", families[family_of(config)].prefix, t.name);
    info->ndim = t.ndim;
    for (int d = 0; d < t.ndim; d++)
        info->shape[d] = t.shape[d];
}

zero_status_t zero_model_config_text(const zero_model_config_t *config, zero_dtype_t dtype, char **text,
                                     zero_error_t *error)
{
    enum { ROOM = 4096 };

    *text = malloc(ROOM);
    if (*text == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for config.json");
    families[family_of(config)].config(config, dtype_names[dtype], *text, ROOM);
    return ZERO_OK;
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
