/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - the reader of config.json, on arbitrary bytes. An accepted input must be a model whose sizes can be
 * computed. A refusal must say why, and where. */
#include "models/decoder.h"
#include "tests/fuzz.h"

#include <stdlib.h>

static void need(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    zero_model_config_t config;
    zero_error_t error = {0};
    zero_status_t status = zero_model_parse_config(&config, (const char *)data, size, "DIR/config.json", &error);

    if (status == ZERO_OK) {
        need(zero_model_check_config(&config, &error) == ZERO_OK);
        need(zero_model_parameters(&config) > 0);
        need(zero_model_flops_per_token(&config, NULL, config.positions, 0) > 0);
    } else {
        need(status == ZERO_ERR_FORMAT && error.status == status);
        need(strncmp(error.text, "DIR/config.json: ", 17) == 0 && error.text[17] != '\0');
    }
    return 0;
}

#ifndef FUZZ_LIBFUZZER
#define SIZES "\"n_layer\":2,\"n_head\":3,\"n_embd\":6,\"vocab_size\":11,\"n_positions\":5"
#define LLAMA_SIZES                                                                                                    \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"hidden_size\":16,\"intermediate_size\":24,\"vocab_size\":11," \
    "\"max_position_embeddings\":5"
#define SEED(text)            \
    {                         \
        text, sizeof text - 1 \
    }

int main(int argc, char **argv)
{
    static const fuzz_seed_t seeds[] = {
        SEED("{\"model_type\":\"gpt2\"," SIZES "}"),
        SEED("{\"model_type\":\"gpt2\"," SIZES
             ",\"n_inner\":null,\"layer_norm_epsilon\":1e-5,\"initializer_range\":0.02,\"activation_function\":"
             "\"gelu_new\",\"tie_word_embeddings\":true,\"scale_attn_weights\":true,\"scale_attn_by_inverse_layer_"
             "idx\":false}"),
        SEED("{\"model_type\":\"llama\"," LLAMA_SIZES
             ",\"num_key_value_heads\":2,\"head_dim\":4,\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":"
             "\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
             "\"original_max_position_embeddings\":8}}"),
        SEED("{\"model_type\":\"qwen3\",\"num_key_value_heads\":4," LLAMA_SIZES
             ",\"attention_bias\":false,\"sliding_window\":4,\"use_sliding_window\":true,\"layer_types\":["
             "\"full_attention\"],\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"default\"}}"),
        SEED("[]"),
    };
    static const char *const words[] = {
        "\"n_inner\":",
        "\"n_layer\":",
        "\"n_embd\":",
        "\"vocab_size\":",
        "\"layer_norm_epsilon\":",
        "\"quantization_config\":",
        "null",
        "true",
        "false",
        "9223372036854775807",
        "-1",
        "1e999",
        "0",
        "1e-300",
        "\"\\u0000\"",
        "[",
        "{",
        "}",
        ",",
        "\"gpt2\"",
        "\"mistral\"",
        "\"num_key_value_heads\":",
        "\"head_dim\":",
        "\"rope_parameters\":",
        "\"rope_scaling\":",
        "\"max_window_layers\":",
        "\"linear\"",
    };

    return fuzz_main(argc, argv,
                     &(fuzz_t){.seeds = seeds,
                               .seed_count = sizeof seeds / sizeof *seeds,
                               .words = words,
                               .word_count = sizeof words / sizeof *words,
                               .most = 600},
                     50000);
}
#endif
