/* SPDX-License-Identifier: Apache-2.0 */
/* config_json.c - parses the config.json of a Hugging Face folder. A setting that this code would compute differently
 * is an error that names the key, the value found and the value wanted. */
#include "models/family.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* Layers before the first with a sliding window, unless "max_window_layers" says it: transformers' default. */
#define QWEN_WINDOW_LAYERS 28

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

static zero_status_t read_bool(const json_t *root, const char *name, const char *key, bool *out, zero_error_t *error)
{
    const json_t *value = json_object_get(root, key);

    if (value == NULL)
        return ZERO_OK; /* the caller has set the default */
    if (!json_is_boolean(value))
        return wrong(name, key, value, "true or false", error);
    *out = json_boolean_value(value);
    return ZERO_OK;
}

/* A size that may be absent or null: *out then stays. */
static zero_status_t read_optional(const json_t *root, const char *name, const char *key, int64_t *out,
                                   zero_error_t *error)
{
    const json_t *value = key ? json_object_get(root, key) : NULL;

    return value == NULL || json_is_null(value) ? ZERO_OK : read_size(root, name, key, out, error);
}

/* Keys that change the arithmetic, with the only supported value. An absent key means this value, as for Hugging
 * Face. */
static zero_status_t check_switches(const json_t *root, const char *name, const zero_model_config_t *c,
                                    zero_error_t *error)
{
    const struct {
        const char *key;
        bool wanted;
    } switches[] = {
        {"scale_attn_weights", true},
        {"scale_attn_by_inverse_layer_idx", false},
        {"add_cross_attention", false},
        {"is_encoder_decoder", c->encoder_layers > 0},
        {"is_causal", true},
        {"scale_embedding", c->scaled_embedding},
        {"bias", c->mlp_bias},
    };
    static const struct {
        const char *key, *wanted;
    } absent[] = {
        {"quantization_config", "none: weights in fp32, bf16 or fp16"},
        {"num_experts", "none: mixtures of experts are not supported"},
        {"num_local_experts", "none: mixtures of experts are not supported"},
        {"attn_logit_softcapping", "none: soft caps are not supported"},
        {"final_logit_softcapping", "none: soft caps are not supported"},
        {"per_layer_config", "none: layers that differ are not supported"},
    };
    const json_t *value;

    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        value = json_object_get(root, switches[i].key);
        if (value != NULL && (!json_is_boolean(value) || json_boolean_value(value) != switches[i].wanted))
            return wrong(name, switches[i].key, value, switches[i].wanted ? "true" : "false", error);
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        value = json_object_get(root, absent[i].key);
        if (value != NULL && !json_is_null(value))
            return wrong(name, absent[i].key, value, absent[i].wanted, error);
    }
    return ZERO_OK;
}

static zero_status_t read_activation(const json_t *root, const char *name, const char *key, zero_model_config_t *c,
                                     zero_error_t *error)
{
    static const struct {
        const char *name;
        zero_nn_activation_t activation;
    } names[] = {
        {"gelu_new", ZERO_NN_GELU_NEW}, {"gelu_pytorch_tanh", ZERO_NN_GELU_NEW},
        {"gelu", ZERO_NN_GELU},         {"relu", ZERO_NN_RELU},
        {"silu", ZERO_NN_SILU},         {"swish", ZERO_NN_SILU},
    };
    const json_t *value = json_object_get(root, key);

    if (value == NULL)
        return ZERO_OK;
    for (size_t i = 0; json_is_string(value) && i < sizeof names / sizeof *names; i++)
        if (strcmp(json_string_value(value), names[i].name) == 0) {
            c->activation = names[i].activation;
            return ZERO_OK;
        }
    return wrong(name, key, value, "\"gelu_new\", \"gelu_pytorch_tanh\", \"gelu\", \"relu\" or \"silu\"", error);
}

/* ---- rotary positions ------------------------------------------------------------------------------------------- */

/* A number above 0 that the scaling needs. */
static zero_status_t read_factor(const json_t *scaling, const char *name, const char *key, double *out,
                                 zero_error_t *error)
{
    const json_t *value = json_object_get(scaling, key);

    if (!json_is_number(value) || !(json_number_value(value) > 0))
        return wrong(name, key, value, "a number above 0", error);
    *out = json_number_value(value);
    return ZERO_OK;
}

static zero_status_t read_llama3(const json_t *root, const json_t *scaling, const char *name, zero_model_config_t *c,
                                 zero_error_t *error)
{
    static const char original[] = "original_max_position_embeddings";
    zero_rope_t *rope = &c->rope;
    zero_status_t status = read_factor(scaling, name, "factor", &rope->factor, error);

    if (status == ZERO_OK)
        status = read_factor(scaling, name, "low_freq_factor", &rope->low_freq_factor, error);
    if (status == ZERO_OK)
        status = read_factor(scaling, name, "high_freq_factor", &rope->high_freq_factor, error);
    if (status == ZERO_OK && !(rope->high_freq_factor > rope->low_freq_factor))
        return wrong(name, "high_freq_factor", json_object_get(scaling, "high_freq_factor"),
                     "a number above \"low_freq_factor\"", error);
    if (status != ZERO_OK)
        return status;
    rope->scaling = ZERO_ROPE_LLAMA3;
    /* As for transformers: the one outside counts first; without any, the model's positions are the original ones. */
    rope->original_positions = c->positions;
    if (json_object_get(root, original) != NULL)
        scaling = root;
    return read_optional(scaling, name, original, &rope->original_positions, error);
}

static zero_status_t check_whole_heads(const json_t *object, const char *name, zero_error_t *error)
{
    const json_t *value = json_object_get(object, "partial_rotary_factor");

    return value == NULL || json_is_null(value) || json_number_value(value) == 1
               ? ZERO_OK
               : wrong(name, "partial_rotary_factor", value, "1: heads are rotated whole", error);
}

static zero_status_t read_scaling(const json_t *root, const json_t *scaling, const char *name, zero_model_config_t *c,
                                  zero_error_t *error)
{
    const char *key = json_object_get(scaling, "rope_type") ? "rope_type" : "type"; /* as older files spell it */
    const json_t *value = json_object_get(scaling, key);
    const char *type = value == NULL ? "default" : json_is_string(value) ? json_string_value(value) : "";

    if (strcmp(type, "default") == 0)
        return ZERO_OK;
    if (strcmp(type, "linear") == 0) {
        c->rope.scaling = ZERO_ROPE_LINEAR;
        return read_factor(scaling, name, "factor", &c->rope.factor, error);
    }
    return strcmp(type, "llama3") == 0 ? read_llama3(root, scaling, name, c, error)
                                       : wrong(name, key, value, "\"default\", \"linear\" or \"llama3\"", error);
}

/* transformers 5 has "rope_parameters", with the base in it; earlier ones "rope_theta" and "rope_scaling". Where both
 * are, "rope_scaling" counts alone unless it is empty. */
static zero_status_t read_rope(const json_t *root, const char *name, zero_model_config_t *c, zero_error_t *error)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    zero_status_t status = check_whole_heads(root, name, error);
    json_t *chosen = NULL, *value;
    const json_t *theta;

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        value = json_object_get(root, keys[i]);
        if (value != NULL && !json_is_null(value) && !json_is_object(value))
            return wrong(name, keys[i], value, "an object, or null", error);
        if (json_object_size(value) > 0)
            chosen = value;
    }
    for (void *i = json_object_iter(chosen); i != NULL; i = json_object_iter_next(chosen, i))
        if (json_is_object(json_object_iter_value(i)))
            return wrong(name, json_object_iter_key(i), json_object_iter_value(i),
                         "the same rotary positions in all layers: \"rope_type\" without it", error);
    theta = json_object_get(json_object_get(chosen, "rope_theta") ? chosen : root, "rope_theta");
    if (theta != NULL && !(json_is_number(theta) && json_number_value(theta) > 0))
        return wrong(name, "rope_theta", theta, "a number above 0", error);
    if (theta != NULL)
        c->rope.theta = json_number_value(theta);
    if (status == ZERO_OK)
        status = check_whole_heads(chosen, name, error);
    return status == ZERO_OK ? read_scaling(root, chosen, name, c, error) : status;
}

/* Whether a layer has a sliding window, of a family whose layers may differ: by "layer_types", or the layers from
 * "max_window_layers". */
static zero_status_t read_sliding(const json_t *root, const char *name, int64_t layers, bool *sliding,
                                  zero_error_t *error)
{
    const json_t *types = json_object_get(root, "layer_types"), *first = json_object_get(root, "max_window_layers");

    if (types == NULL || json_is_null(types)) {
        if (first != NULL && !json_is_integer(first))
            return wrong(name, "max_window_layers", first, "an integer", error);
        *sliding = layers > (first ? json_integer_value(first) : QWEN_WINDOW_LAYERS);
        return ZERO_OK;
    }
    if (!json_is_array(types))
        return wrong(name, "layer_types", types, "a list, or null", error);
    *sliding = false;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const json_t *type = json_array_get(types, i);
        const char *text = json_is_string(type) ? json_string_value(type) : "";

        if (strcmp(text, "sliding_attention") == 0)
            *sliding = true;
        else if (strcmp(text, "full_attention") != 0)
            return wrong(name, "layer_types", type, "\"full_attention\" or \"sliding_attention\"", error);
    }
    return ZERO_OK;
}

/* How many keys a query sees, if not all before it. Sequences must not be longer, so that this is no restriction. */
static zero_status_t read_window(const json_t *root, const char *name, const zero_family_t *family,
                                 zero_model_config_t *c, zero_error_t *error)
{
    const json_t *value = json_object_get(root, "sliding_window");
    bool on = !family->window_switch, sliding = true;
    zero_status_t status = ZERO_OK;

    c->sliding_window = 0;
    if (family->sliding_window == 0)
        return ZERO_OK;
    if (family->window_switch) {
        status = read_bool(root, name, "use_sliding_window", &on, error);
        if (status == ZERO_OK)
            status = read_sliding(root, name, c->layers, &sliding, error);
    }
    if (status != ZERO_OK || !on || !sliding || json_is_null(value))
        return status;
    c->sliding_window = family->sliding_window;
    return read_optional(root, name, "sliding_window", &c->sliding_window, error);
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static zero_status_t read_sizes(const json_t *root, const char *name, const zero_family_t *family,
                                zero_model_config_t *c, zero_error_t *error)
{
    const zero_family_keys_t *keys = family->keys;
    const struct {
        const char *key;
        int64_t *out;
    } sizes[] = {
        {keys->layers, &c->layers},
        {keys->heads, &c->heads},
        {keys->width, &c->width},
        {keys->vocab, &c->vocab},
        {keys->positions, &c->positions},
        {keys->encoder_layers, &c->encoder_layers},
        {keys->source_vocab, &c->source_vocab},
    };
    zero_status_t status = ZERO_OK;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && status == ZERO_OK; i++)
        if (sizes[i].key != NULL)
            status = read_size(root, name, sizes[i].key, sizes[i].out, error);
    if (status != ZERO_OK)
        return status;
    c->kv_heads = family->kv_heads && !json_object_get(root, keys->kv_heads) ? family->kv_heads : c->heads;
    c->head_dim = family->head_dim ? family->head_dim : c->width / c->heads;
    status = read_optional(root, name, keys->kv_heads, &c->kv_heads, error);
    if (status == ZERO_OK)
        status = read_optional(root, name, keys->head_dim, &c->head_dim, error);
    if (status != ZERO_OK)
        return status;
    if (family->hidden)
        return read_size(root, name, keys->hidden, &c->hidden, error);
    c->hidden = c->width > INT64_MAX / 4 ? c->width : 4 * c->width; /* the check of sizes rejects such a width */
    return read_optional(root, name, keys->hidden, &c->hidden, error);
}

static zero_status_t read_biases(const json_t *root, const char *name, const zero_family_t *family,
                                 zero_model_config_t *c, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;

    if (family->attention_bias == ZERO_SWITCH_KEY) {
        status = read_bool(root, name, "attention_bias", &c->qkv_bias, error);
        c->projection_bias = c->qkv_bias;
    }
    if (status == ZERO_OK && family->mlp_bias == ZERO_SWITCH_KEY)
        status = read_bool(root, name, "mlp_bias", &c->mlp_bias, error);
    return status;
}

static zero_status_t read_all(const json_t *root, const char *name, zero_model_config_t *config, zero_error_t *error)
{
    const json_t *value = json_object_get(root, "model_type");
    const zero_family_t *family = json_is_string(value) ? zero_family_find(json_string_value(value)) : NULL;
    char names[200], wanted[300];
    zero_model_config_t c;
    zero_error_t detail;
    zero_status_t status;

    if (!json_is_object(root))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: not a JSON object, but the configuration of a model is expected",
                         name);
    if (family == NULL) {
        snprintf(wanted, sizeof wanted, "one of %s (other models are not supported)",
                 zero_family_names(names, sizeof names));
        return wrong(name, "model_type", value, wanted, error);
    }
    c = family->config;
    status = read_sizes(root, name, family, &c, error);
    if (status == ZERO_OK)
        status = read_number(root, name, family->keys->norm_eps, &c.norm_eps, error);
    if (status == ZERO_OK)
        status = read_number(root, name, "initializer_range", &c.init_std, error);
    if (status == ZERO_OK)
        status = read_bool(root, name, "tie_word_embeddings", &c.tied, error);
    if (status == ZERO_OK)
        status = read_biases(root, name, family, &c, error);
    if (status == ZERO_OK && family->keys->norm_first != NULL) {
        bool first = !c.post_norm;

        status = read_bool(root, name, family->keys->norm_first, &first, error);
        c.post_norm = !first;
    }
    if (status == ZERO_OK)
        status = read_activation(root, name, family->keys->activation, &c, error);
    if (status == ZERO_OK && c.rope.theta > 0)
        status = read_rope(root, name, &c, error);
    if (status == ZERO_OK)
        status = read_window(root, name, family, &c, error);
    if (status == ZERO_OK)
        status = check_switches(root, name, &c, error);
    if (status != ZERO_OK)
        return status;
    if (zero_model_check_config(&c, &detail) != ZERO_OK)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: %.900s", name, detail.text);
    *config = c;
    return ZERO_OK;
}

zero_status_t zero_model_parse_config(zero_model_config_t *config, const char *text, size_t bytes, const char *name,
                                      zero_error_t *error)
{
    json_error_t where;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    zero_status_t status;

    if (root == NULL)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: line %d: %s", name, where.line, where.text);
    status = read_all(root, name, config, error);
    json_decref(root);
    return status;
}
