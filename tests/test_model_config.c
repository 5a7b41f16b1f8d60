/* SPDX-License-Identifier: Apache-2.0 */
/* test_model_config.c - presets and config.json files. What is invalid or not supported is refused with a sentence that
 * names the fault. */
#include "models/decoder.h"
#include "tests/expect.h"

#include <check.h>
#include <stdlib.h>

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

START_TEST(test_presets)
{
    /* Parameters as transformers counts them for the published models. */
    static const struct {
        const char *name;
        int64_t parameters;
    } published[] = {
        {"gpt2", 124439808},      {"gpt2-medium", 354823168},  {"gpt2-large", 774030080},
        {"gpt2-xl", 1557611200},  {"llama-1b", 1235814400},    {"llama-3b", 3212749824},
        {"llama-8b", 8030261248}, {"qwen2.5-0.5b", 494032768}, {"qwen2.5-7b", 7615616512},
    };
    zero_model_config_t c;
    zero_error_t error;

    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        ck_assert_int_eq(zero_model_preset(&c, published[i].name, &error), ZERO_OK);
        ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_OK);
        ck_assert_int_eq(zero_model_parameters(&c), published[i].parameters);
    }
    ck_assert_int_eq(zero_model_preset(&c, "tiny", &error), ZERO_OK);
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_OK);
    ck_assert_int_eq(zero_model_preset(&c, "numbers-seq2seq", &error), ZERO_OK);
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_OK);
    ck_assert_int_eq(zero_model_preset(&c, "gpt3", &error), ZERO_ERR_ARG);
    ck_assert_str_eq(
        error.text,
        "there is no model 'gpt3': use tiny, gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-1b, llama-3b, llama-8b, "
        "qwen2.5-0.5b, qwen2.5-7b, numbers-seq2seq, or a Hugging Face folder");
}
END_TEST

/* Settings for which a family has no tensors, or no key in config.json, are refused. */
START_TEST(test_arithmetic)
{
    zero_model_config_t gpt2, llama, mistral, c;
    zero_error_t error;

    ck_assert_int_eq(zero_model_preset(&gpt2, "gpt2", &error), ZERO_OK);
    ck_assert_int_eq(zero_model_preset(&llama, "llama-1b", &error), ZERO_OK);
    mistral = llama;
    strcpy(mistral.family, "mistral");
    ck_assert_int_eq(zero_model_check_config(&mistral, &error), ZERO_OK);
    mistral.sliding_window = 4096;
    ck_assert_int_eq(zero_model_check_config(&mistral, &error), ZERO_OK);
#define REFUSED(from, setting, value)                                    \
    c = (from);                                                          \
    c.setting = (value);                                                 \
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_ERR_ARG); \
    ck_assert_msg(has_names(error.text, #setting), "%s: %s", #setting, error.text)
    REFUSED(gpt2, norm, ZERO_MODEL_RMS_NORM);
    REFUSED(gpt2, rope.theta, 10000);
    REFUSED(gpt2, gated, true);
    REFUSED(gpt2, mlp_bias, false);
    REFUSED(gpt2, sliding_window, 4096);
    REFUSED(gpt2, qk_norm, true);
    REFUSED(llama, rope.theta, 0);
    REFUSED(llama, gated, false);
    REFUSED(llama, qkv_bias, true);
    REFUSED(llama, encoder_layers, 1);
    REFUSED(llama, post_norm, true);
    REFUSED(gpt2, sinusoidal, true);
    REFUSED(gpt2, scaled_embedding, true);
    REFUSED(mistral, mlp_bias, true);
    REFUSED(mistral, sliding_window, -1);
#undef REFUSED
    c = llama;
    c.rope.factor = 0;
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_ERR_ARG);
    ck_assert(has_names(error.text, "factor 0"));
    c = llama;
    c.rope.original_positions = 0;
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_ERR_ARG);
    ck_assert(has_names(error.text, "original 0"));
}
END_TEST

/* Only a model with biases whose parts may be apart in memory has a buffer for them. */
START_TEST(test_gathered_bias)
{
    static const struct {
        int64_t hidden;
        bool biased, gathered;
    } cases[] = {{8192, false, false}, {8192, true, false}, {8190, false, false}, {8190, true, true}};
    static char memory[1];
    const zero_model_options_t options = {.micro_batch = 1, .seq_len = 2, .threads = 1, .backend = "ref"};
    zero_model_config_t c;
    zero_model_t *m;
    zero_error_t error;
    uint64_t device[4];

    ck_assert_int_eq(zero_model_preset(&c, "llama-1b", &error), ZERO_OK);
    for (int i = 0; i < 4; i++) {
        c.hidden = cases[i].hidden;
        c.mlp_bias = cases[i].biased;
        ck_assert_int_eq(zero_model_create(&m, &c, &options, &error), ZERO_OK);
        zero_model_memory_t at[ZERO_REGIONS] = {{memory, 0}, {memory, 0}};
        ck_assert(zero_model_layout(m, at, 0));
        device[i] = at[ZERO_REGION_DEVICE].bytes;
        ck_assert((m->bias != NULL) == cases[i].gathered);
        ck_assert_ptr_null(m->weight); /* 2,048 columns: every part is a multiple of 128 elements */
        zero_model_destroy(m);
    }
    ck_assert_uint_eq(device[1], device[0]);
    ck_assert_uint_eq(device[3] - device[2], 65536); /* 2 * 8190 numbers, to a multiple of 128 bytes */
}
END_TEST

START_TEST(test_flops)
{
    zero_model_config_t c;
    zero_error_t error;

    ck_assert_int_eq(zero_model_preset(&c, "gpt2", &error), ZERO_OK);
    /* 6 (12 layers of 12 C^2, and the head) + 12 layers heads head_dim T */
    ck_assert_double_eq(zero_model_flops_per_token(&c, NULL, 1024, 0),
                        6 * (12.0 * 12 * 768 * 768 + 50257.0 * 768) + 12.0 * 12 * 768 * 1024);
    ck_assert_double_eq(zero_model_flops_per_source_token(&c, 0), 0);
    ck_assert_int_eq(zero_model_family(&c, "transformer", &error), ZERO_OK);
    c.layers = 3;
    c.encoder_layers = 2;
    c.heads = c.kv_heads = 4;
    c.head_dim = 8;
    c.width = 32;
    c.hidden = 100;
    c.vocab = 50;
    c.source_vocab = 60;
    c.positions = 64;
    ck_assert_int_eq(zero_model_check_config(&c, &error), ZERO_OK);
    /* A layer has 4 C^2 + 2 C F weights. A decoder's also has 2 C^2 that a token of the target goes through, and 2 C^2
     * that a token of the source goes through. */
    const double C = 32, layer = 4 * C * C + 2 * C * 100;
    ck_assert_double_eq(zero_model_flops_per_token(&c, NULL, 20, 10),
                        6 * (3 * (layer + 2 * C * C) + 50 * C) + 12 * 3 * C * (20 + 10));
    ck_assert_double_eq(zero_model_flops_per_source_token(&c, 10), 6 * (2 * layer + 3 * 2 * C * C) + 12 * 2 * C * 10);
    /* norms 2 and 3 of 2 C, the last norm of each stack, embeddings; biases */
    ck_assert_int_eq(zero_model_parameters(&c), 2 * (layer + 4 * C + 4 * C + 100 + C) +
                                                    3 * (layer + 4 * C * C + 6 * C + 8 * C + 100 + C) + 2 * 2 * C +
                                                    (50 + 60) * C);
}
END_TEST

/* ---- config.json ------------------------------------------------------------------------------------------------ */

#define SIZES "\"n_layer\": 2, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": 5"
#define CONFIG "{\"model_type\": \"gpt2\", " SIZES "}"

#define LLAMA_SIZES                                                                                          \
    "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"hidden_size\": 16, \"intermediate_size\": 24, " \
    "\"vocab_size\": 11, \"max_position_embeddings\": 5"
#define LLAMA(more) "{\"model_type\": \"llama\", " LLAMA_SIZES more "}"
#define KIND(type, more) "{\"model_type\": \"" type "\", \"num_key_value_heads\": 2, " LLAMA_SIZES more "}"
#define QWEN(more) KIND("qwen2", ", \"use_sliding_window\": true, \"sliding_window\": 3" more)

static zero_status_t parse(const char *text, zero_model_config_t *c, zero_error_t *error)
{
    memset(error, 0, sizeof *error);
    return zero_model_parse_config(c, text, strlen(text), "DIR/config.json", error);
}

START_TEST(test_config)
{
    zero_model_config_t c;
    zero_error_t error;

    ck_assert_int_eq(parse(CONFIG, &c, &error), ZERO_OK);
    ck_assert_str_eq(c.family, "gpt2");
    ck_assert_int_eq(c.layers, 2);
    ck_assert_int_eq(c.heads, 3);
    ck_assert_int_eq(c.width, 6);
    ck_assert_int_eq(c.hidden, 24);
    ck_assert_int_eq(c.vocab, 11);
    ck_assert_int_eq(c.positions, 5);
    ck_assert_double_eq(c.norm_eps, 1e-5);
    ck_assert_double_eq(c.init_std, 0.02);
    ck_assert_int_eq(parse("{\"model_type\": \"gpt2\", " SIZES
                           ", \"n_inner\": 7, \"layer_norm_epsilon\": 1e-6, \"initializer_range\": 0.5,"
                           "\"activation_function\": \"gelu_pytorch_tanh\", \"tie_word_embeddings\": true, "
                           "\"scale_attn_weights\": true}",
                           &c, &error),
                     ZERO_OK);
    ck_assert_int_eq(c.hidden, 7);
    ck_assert_double_eq(c.norm_eps, 1e-6);
    ck_assert_double_eq(c.init_std, 0.5);
}
END_TEST

/* What config.json says and what it leaves out, in the spellings of transformers 4 and 5. */
START_TEST(test_families)
{
    zero_model_config_t c;
    zero_error_t error;

    ck_assert_int_eq(parse(LLAMA(""), &c, &error), ZERO_OK);
    ck_assert(c.kv_heads == 4 && c.head_dim == 4 && c.hidden == 24 && c.gated && !c.tied && !c.qkv_bias && !c.mlp_bias);
    ck_assert(c.norm == ZERO_MODEL_RMS_NORM && c.norm_eps == 1e-6 && c.activation == ZERO_NN_SILU);
    ck_assert(c.rope.theta == 10000 && c.rope.scaling == ZERO_ROPE_PLAIN && c.sliding_window == 0);
    ck_assert_int_eq(
        parse(LLAMA(", \"num_key_value_heads\": 2, \"head_dim\": 6, \"rms_norm_eps\": 1e-5, \"rope_theta\": "
                    "5e5, \"rope_scaling\": null, \"attention_bias\": true, \"mlp_bias\": true, "
                    "\"tie_word_embeddings\": true, \"sliding_window\": 2, \"hidden_act\": \"gelu\""),
              &c, &error),
        ZERO_OK);
    ck_assert(c.kv_heads == 2 && c.head_dim == 6 && c.norm_eps == 1e-5 && c.rope.theta == 5e5 && c.tied);
    ck_assert(c.qkv_bias && c.projection_bias && c.mlp_bias && c.activation == ZERO_NN_GELU);
    ck_assert_int_eq(c.sliding_window, 0); /* no Llama has one */
    ck_assert_int_eq(
        parse(LLAMA(", \"rope_theta\": 7, \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": "
                    "500, \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, "
                    "\"original_max_position_embeddings\": 16}"),
              &c, &error),
        ZERO_OK);
    ck_assert(c.rope.theta == 500 && c.rope.scaling == ZERO_ROPE_LLAMA3 && c.rope.factor == 8);
    ck_assert(c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4 && c.rope.original_positions == 16);
    ck_assert_int_eq(parse(LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"), &c, &error), ZERO_OK);
    ck_assert(c.rope.theta == 10000 && c.rope.scaling == ZERO_ROPE_LINEAR && c.rope.factor == 2);

    ck_assert_int_eq(parse(KIND("qwen2", ", \"sliding_window\": 3"), &c, &error), ZERO_OK);
    ck_assert(c.sliding_window == 0 && c.qkv_bias && !c.projection_bias);
    ck_assert_int_eq(parse(KIND("qwen3", ""), &c, &error), ZERO_OK);
    ck_assert(c.head_dim == 128 && c.qk_norm && !c.qkv_bias);
    /* null: as many as heads; absent: the default of the family */
    ck_assert_int_eq(parse("{\"model_type\": \"qwen2\", \"num_key_value_heads\": null, " LLAMA_SIZES "}", &c, &error),
                     ZERO_OK);
    ck_assert_int_eq(c.kv_heads, 4);
    ck_assert_int_eq(parse("{\"model_type\": \"mistral\", \"num_hidden_layers\": 1, \"num_attention_heads\": 16, "
                           "\"hidden_size\": 32, \"intermediate_size\": 24, \"vocab_size\": 11, "
                           "\"max_position_embeddings\": 5}",
                           &c, &error),
                     ZERO_OK);
    ck_assert_int_eq(c.kv_heads, 8);
}
END_TEST

static void check_rope(const char *text, double theta, zero_rope_scaling_t scaling, double factor, int64_t original)
{
    zero_model_config_t c;
    zero_error_t error;

    ck_assert_msg(parse(text, &c, &error) == ZERO_OK, "%s: %s", text, error.text);
    ck_assert_msg(c.rope.theta == theta && c.rope.scaling == scaling && c.rope.factor == factor &&
                      c.rope.original_positions == original,
                  "%s: base %g, scaling %d, factor %g, original positions %d", text, c.rope.theta, (int)c.rope.scaling,
                  c.rope.factor, (int)c.rope.original_positions);
}

/* Where keys disagree or are absent, the same ones count as for transformers 5. */
START_TEST(test_rope)
{
#define LLAMA3 "\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4"
#define TWICE "\"rope_type\": \"linear\", \"factor\": 2"
    check_rope(LLAMA(", \"rope_scaling\": {}, \"rope_parameters\": {}, \"partial_rotary_factor\": null"), 10000,
               ZERO_ROPE_PLAIN, 0, 0);
    check_rope(LLAMA(", \"rope_theta\": 7, \"rope_scaling\": {" TWICE ", \"rope_theta\": 9}"), 9, ZERO_ROPE_LINEAR, 2,
               0);
    check_rope(LLAMA(", \"rope_parameters\": {\"rope_theta\": 5}, \"rope_theta\": 7, \"rope_scaling\": {" TWICE "}"), 7,
               ZERO_ROPE_LINEAR, 2, 0);
    check_rope(LLAMA(", \"rope_parameters\": {\"rope_theta\": 5}, \"rope_scaling\": {}"), 5, ZERO_ROPE_PLAIN, 0, 0);
    check_rope(LLAMA(", \"rope_parameters\": {\"factor\": 5}"), 10000, ZERO_ROPE_PLAIN, 0, 0);
    check_rope(LLAMA(", \"rope_scaling\": {" LLAMA3 "}"), 10000, ZERO_ROPE_LLAMA3, 8, 5);
    check_rope(LLAMA(", \"rope_scaling\": {" LLAMA3 ", \"original_max_position_embeddings\": 3}"), 10000,
               ZERO_ROPE_LLAMA3, 8, 3);
    check_rope(LLAMA(", \"original_max_position_embeddings\": 2, \"rope_scaling\": {" LLAMA3
                     ", \"original_max_position_embeddings\": 3}"),
               10000, ZERO_ROPE_LLAMA3, 8, 2);
}
END_TEST

/* The sliding window by family, switches and lists of layers. */
START_TEST(test_window)
{
    static const struct {
        const char *text;
        int64_t window;
    } cases[] = {
        {KIND("mistral", ""), 4096},
        {KIND("mistral", ", \"sliding_window\": null"), 0},
        {KIND("mistral", ", \"sliding_window\": 3, \"layer_types\": [\"full_attention\", \"full_attention\"]"), 3},
        {QWEN(""), 0}, /* from layer 28 */
        {QWEN(", \"max_window_layers\": 2"), 0},
        {QWEN(", \"max_window_layers\": 1"), 3},
        {QWEN(", \"max_window_layers\": 2, \"layer_types\": [\"full_attention\", \"sliding_attention\"]"), 3},
        {QWEN(", \"max_window_layers\": 1, \"layer_types\": [\"full_attention\", \"full_attention\"]"), 0},
    };
    zero_model_config_t c;
    zero_error_t error;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg(parse(cases[i].text, &c, &error) == ZERO_OK, "%s: %s", cases[i].text, error.text);
        ck_assert_msg(c.sliding_window == cases[i].window, "%s: %d", cases[i].text, (int)c.sliding_window);
    }
}
END_TEST

static const struct {
    const char *text, *sentence;
} bad_configs[] = {
    {"", "DIR/config.json"},
    {"{\"model_type\": \"gpt2\"", "DIR/config.json 1"},
    {CONFIG "x", ""},
    {"[1]", "JSON"},
    {"{" SIZES "}", "model_type gpt2"},
    {"{\"model_type\": \"t5\", " SIZES "}", "model_type t5 gpt2 qwen3"},
    {"{\"model_type\": \"llama\", " SIZES "}", "num_hidden_layers"},
    {"{\"model_type\": [1], " SIZES "}", "model_type [1]"},
    {"{\"model_type\": \"gpt2\", \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": 5}", "n_layer"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"n_layer\": 2}", "duplicate"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": -1, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": "
     "5}",
     "n_layer -1"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 2.5, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": "
     "5}",
     "n_layer 2.5"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": \"2\", \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, "
     "\"n_positions\": 5}",
     "n_layer 2"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 9223372036854775807, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 11, "
     "\"n_positions\": 5}",
     "9223372036854775807"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 1, \"n_embd\": 9223372036854775807, \"vocab_size\": 11, "
     "\"n_positions\": 5}",
     "9223372036854775807"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 4, \"n_embd\": 6, \"vocab_size\": 11, \"n_positions\": 5}",
     "6 4 8"},
    {"{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 3, \"n_embd\": 6, \"vocab_size\": 4294967296, "
     "\"n_positions\": 5}",
     "4294967296"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"n_inner\": 0}", "n_inner 0"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"layer_norm_epsilon\": 0}", "0"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"layer_norm_epsilon\": \"small\"}", "layer_norm_epsilon small"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"activation_function\": \"tanh\"}", "activation_function tanh gelu_new"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"scale_attn_weights\": false}", "scale_attn_weights"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"scale_attn_by_inverse_layer_idx\": true}",
     "scale_attn_by_inverse_layer_idx"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"tie_word_embeddings\": 0}", "tie_word_embeddings 0"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"add_cross_attention\": 1}", "add_cross_attention 1"},
    {"{\"model_type\": \"gpt2\", " SIZES ", \"quantization_config\": {\"bits\": 4}}", "quantization_config"},
    {LLAMA(", \"num_local_experts\": 8"), "num_local_experts 8 experts"},
    {LLAMA(", \"final_logit_softcapping\": 30.0"), "final_logit_softcapping 30.0"},
    {LLAMA(", \"partial_rotary_factor\": 0.5"), "partial_rotary_factor 0.5"},
    {LLAMA(", \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2, \"partial_rotary_factor\": 0.5}"),
     "partial_rotary_factor 0.5"},
    {LLAMA(", \"is_causal\": false"), "is_causal true"},
    {LLAMA(", \"per_layer_config\": {\"1\": {\"head_dim\": 8}}"), "per_layer_config layers"},
    {LLAMA(", \"num_key_value_heads\": 3"), "4 3 6"},
    {LLAMA(", \"head_dim\": 7"), "7 even"},
    {LLAMA(", \"head_dim\": 258"), "258 256"},
    {LLAMA(", \"head_dim\": 9223372036854775806"), "9223372036854775806"},
    {LLAMA(", \"rope_theta\": 0"), "rope_theta 0"},
    {LLAMA(", \"rope_theta\": 1e999"), ""},
    {LLAMA(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}"), "type yarn llama3"},
    {LLAMA(", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4.0}"), "rope_type dynamic"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"linear\"}"), "factor"},
    {LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}"), "factor -1"},
    {LLAMA(", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
           "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8}"),
     "high_freq_factor 4 low_freq_factor"},
    {LLAMA(", \"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}"), "full_attention rope_type"},
    {LLAMA(", \"rope_parameters\": 7"), "rope_parameters 7"},
    {LLAMA(", \"rope_parameters\": {\"rope_theta\": 0}"), "rope_theta 0"},
    {LLAMA(", \"rope_scaling\": {" LLAMA3 ", \"original_max_position_embeddings\": 0}"),
     "original_max_position_embeddings 0"},
    {LLAMA(", \"attention_bias\": 1"), "attention_bias 1"},
    {LLAMA(", \"hidden_act\": \"quick_gelu\""), "hidden_act quick_gelu silu"},
    {KIND("qwen2", ", \"layer_types\": [\"chunked_attention\"]"), "layer_types chunked_attention"},
    {KIND("qwen2", ", \"layer_types\": \"full_attention\""), "layer_types full_attention list"},
    {KIND("qwen2", ", \"max_window_layers\": \"1\""), "max_window_layers integer"},
    {"{\"model_type\": \"qwen3\", " LLAMA_SIZES "}", "4 32"},
};

START_TEST(test_bad_config)
{
    zero_model_config_t c = {.layers = 77};
    zero_error_t error;

    ck_assert_int_eq(parse(bad_configs[_i].text, &c, &error), ZERO_ERR_FORMAT);
    ck_assert_msg(has_names(error.text, bad_configs[_i].sentence), "the sentence '%s' does not say '%s'", error.text,
                  bad_configs[_i].sentence);
    ck_assert(has_names(error.text, "DIR/config.json"));
    ck_assert_int_eq(c.layers, 77); /* untouched */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model_config");
    TCase *tcase = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, test_presets);
    tcase_add_test(tcase, test_arithmetic);
    tcase_add_test(tcase, test_gathered_bias);
    tcase_add_test(tcase, test_flops);
    tcase_add_test(tcase, test_config);
    tcase_add_test(tcase, test_families);
    tcase_add_test(tcase, test_rope);
    tcase_add_test(tcase, test_window);
    tcase_add_loop_test(tcase, test_bad_config, 0, sizeof bad_configs / sizeof *bad_configs);
    suite_add_tcase(suite, tcase);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
