/* SPDX-License-Identifier: Apache-2.0 */
/* families.c - one row for each family of models: its arithmetic, its names and its keys, as transformers has them. */
#include "models/family.h"

#include <stdio.h>

static const zero_family_keys_t gpt2_keys = {
    .layers = "n_layer",
    .heads = "n_head",
    .width = "n_embd",
    .hidden = "n_inner",
    .vocab = "vocab_size",
    .positions = "n_positions",
    .norm_eps = "layer_norm_epsilon",
    .activation = "activation_function",
};

static const zero_family_keys_t llama_keys = {
    .layers = "num_hidden_layers",
    .heads = "num_attention_heads",
    .kv_heads = "num_key_value_heads",
    .head_dim = "head_dim",
    .width = "hidden_size",
    .hidden = "intermediate_size",
    .vocab = "vocab_size",
    .positions = "max_position_embeddings",
    .norm_eps = "rms_norm_eps",
    .activation = "hidden_act",
};

/* The parameters of PyTorch's nn.Transformer where it has one. */
static const zero_family_keys_t transformer_keys = {
    .layers = "num_decoder_layers",
    .encoder_layers = "num_encoder_layers",
    .heads = "nhead",
    .width = "d_model",
    .hidden = "dim_feedforward",
    .vocab = "tgt_vocab_size",
    .source_vocab = "src_vocab_size",
    .positions = "max_position_embeddings",
    .norm_eps = "layer_norm_eps",
    .activation = "activation",
    .norm_first = "norm_first",
};

/* What the families of Llama's kind share: RMS norms, rotary positions, a gated MLP; matrices are stored (out, in). */
#define LLAMA_ARITHMETIC                                                                                 \
    .norm = ZERO_MODEL_RMS_NORM, .norm_eps = 1e-6, .rope = {.theta = 10000}, .activation = ZERO_NN_SILU, \
    .gated = true, .init_std = 0.02
#define LLAMA_NAMES                                                                            \
    .prefix = "model.", .prefixed = true, .out_in = true, .hidden = true, .keys = &llama_keys, \
    .adapted = "q_proj,v_proj", .computed = {".self_attn.rotary_emb.inv_freq"},                \
    .places = {[ZERO_PLACE_EMBEDDING] = "embed_tokens.weight",                                 \
               [ZERO_PLACE_LAYER] = "layers.%lld.",                                            \
               [ZERO_PLACE_NORM_W] = "norm.weight",                                            \
               [ZERO_PLACE_HEAD] = "lm_head.weight"}
/* Tensors that layers of encoders and decoders have in nn.Transformer. */
#define TRANSFORMER_TENSORS                                                                                        \
    [ZERO_ROLE_NORM1_W] = "norm1.weight", [ZERO_ROLE_NORM1_B] = "norm1.bias",                                      \
    [ZERO_ROLE_QKV_W] = "self_attn.in_proj_weight", [ZERO_ROLE_QKV_B] = "self_attn.in_proj_bias",                  \
    [ZERO_ROLE_PROJ_W] = "self_attn.out_proj.weight", [ZERO_ROLE_PROJ_B] = "self_attn.out_proj.bias",              \
    [ZERO_ROLE_UP_W] = "linear1.weight", [ZERO_ROLE_UP_B] = "linear1.bias", [ZERO_ROLE_DOWN_W] = "linear2.weight", \
    [ZERO_ROLE_DOWN_B] = "linear2.bias"
#define LLAMA_TENSORS                                                                                      \
    [ZERO_ROLE_NORM1_W] = "input_layernorm.weight", [ZERO_ROLE_Q_W] = "self_attn.q_proj.weight",           \
    [ZERO_ROLE_K_W] = "self_attn.k_proj.weight", [ZERO_ROLE_V_W] = "self_attn.v_proj.weight",              \
    [ZERO_ROLE_Q_B] = "self_attn.q_proj.bias", [ZERO_ROLE_K_B] = "self_attn.k_proj.bias",                  \
    [ZERO_ROLE_V_B] = "self_attn.v_proj.bias", [ZERO_ROLE_PROJ_W] = "self_attn.o_proj.weight",             \
    [ZERO_ROLE_PROJ_B] = "self_attn.o_proj.bias", [ZERO_ROLE_NORM2_W] = "post_attention_layernorm.weight", \
    [ZERO_ROLE_GATE_W] = "mlp.gate_proj.weight", [ZERO_ROLE_UP_W] = "mlp.up_proj.weight",                  \
    [ZERO_ROLE_DOWN_W] = "mlp.down_proj.weight"

static const zero_family_t families[] = {
    {
        .name = "gpt2", /* Radford et al. 2019 */
        .architecture = "GPT2LMHeadModel",
        .title = "GPT-2",
        .prefix = "transformer.",
        .adapted = "c_attn",
        .keys = &gpt2_keys,
        .attention_bias = ZERO_SWITCH_ON,
        .mlp_bias = ZERO_SWITCH_ON,
        .config = {.family = "gpt2",
                   .norm_eps = 1e-5,
                   .activation = ZERO_NN_GELU_NEW,
                   .qkv_bias = true,
                   .projection_bias = true,
                   .mlp_bias = true,
                   .tied = true,
                   .init_std = 0.02,
                   .residual_init = true},
        .places = {[ZERO_PLACE_EMBEDDING] = "wte.weight",
                   [ZERO_PLACE_POSITIONS] = "wpe.weight",
                   [ZERO_PLACE_LAYER] = "h.%lld.",
                   [ZERO_PLACE_NORM_W] = "ln_f.weight",
                   [ZERO_PLACE_NORM_B] = "ln_f.bias",
                   [ZERO_PLACE_HEAD] = "lm_head.weight"},
        .roles = {[ZERO_ROLE_NORM1_W] = "ln_1.weight",
                  [ZERO_ROLE_NORM1_B] = "ln_1.bias",
                  [ZERO_ROLE_QKV_W] = "attn.c_attn.weight",
                  [ZERO_ROLE_QKV_B] = "attn.c_attn.bias",
                  [ZERO_ROLE_PROJ_W] = "attn.c_proj.weight",
                  [ZERO_ROLE_PROJ_B] = "attn.c_proj.bias",
                  [ZERO_ROLE_NORM2_W] = "ln_2.weight",
                  [ZERO_ROLE_NORM2_B] = "ln_2.bias",
                  [ZERO_ROLE_UP_W] = "mlp.c_fc.weight",
                  [ZERO_ROLE_UP_B] = "mlp.c_fc.bias",
                  [ZERO_ROLE_DOWN_W] = "mlp.c_proj.weight",
                  [ZERO_ROLE_DOWN_B] = "mlp.c_proj.bias"},
        .computed = {".attn.bias", ".attn.masked_bias"}, /* masks */
    },
    {
        .name = "llama", /* Touvron et al. 2023, Llama 2, 3, 3.1, 3.2 */
        .architecture = "LlamaForCausalLM",
        .title = "Llama",
        LLAMA_NAMES,
        .attention_bias = ZERO_SWITCH_KEY,
        .mlp_bias = ZERO_SWITCH_KEY,
        .config = {.family = "llama", LLAMA_ARITHMETIC},
        .roles = {LLAMA_TENSORS, [ZERO_ROLE_GATE_B] = "mlp.gate_proj.bias", [ZERO_ROLE_UP_B] = "mlp.up_proj.bias",
                  [ZERO_ROLE_DOWN_B] = "mlp.down_proj.bias"},
    },
    {
        .name = "mistral", /* Jiang et al. 2023; sequences within the sliding window */
        .architecture = "MistralForCausalLM",
        .title = "Mistral",
        LLAMA_NAMES,
        .kv_heads = 8,
        .sliding_window = 4096,
        .config = {.family = "mistral", LLAMA_ARITHMETIC},
        .roles = {LLAMA_TENSORS},
    },
    {
        .name = "qwen2", /* Qwen 2 and 2.5: biases of queries, keys and values alone */
        .architecture = "Qwen2ForCausalLM",
        .title = "Qwen2",
        LLAMA_NAMES,
        .kv_heads = 32,
        .sliding_window = 4096,
        .window_switch = true,
        .config = {.family = "qwen2", LLAMA_ARITHMETIC, .qkv_bias = true},
        .roles = {LLAMA_TENSORS},
    },
    {
        .name = "qwen3", /* norms of queries and keys */
        .architecture = "Qwen3ForCausalLM",
        .title = "Qwen3",
        LLAMA_NAMES,
        .attention_bias = ZERO_SWITCH_KEY,
        .kv_heads = 32,
        .head_dim = 128,
        .sliding_window = 4096,
        .window_switch = true,
        .config = {.family = "qwen3", LLAMA_ARITHMETIC, .qk_norm = true},
        .roles = {LLAMA_TENSORS, [ZERO_ROLE_Q_NORM_W] = "self_attn.q_norm.weight",
                  [ZERO_ROLE_K_NORM_W] = "self_attn.k_norm.weight"},
    },
    {
        .name = "transformer", /* Vaswani et al. 2017, as PyTorch's nn.Transformer computes and names it */
        .architecture = "Transformer",
        .title = "Transformer",
        .prefix = "",
        .out_in = true,
        .hidden = true,
        .keys = &transformer_keys,
        .attention_bias = ZERO_SWITCH_ON,
        .mlp_bias = ZERO_SWITCH_ON,
        .config = {.family = "transformer",
                   .norm_eps = 1e-5,
                   .post_norm = true,
                   .sinusoidal = true,
                   .scaled_embedding = true,
                   .activation = ZERO_NN_RELU,
                   .qkv_bias = true,
                   .projection_bias = true,
                   .mlp_bias = true,
                   .tied = true,
                   .init_std = 0.02},
        .places = {[ZERO_PLACE_EMBEDDING] = "tgt_embed.weight",
                   [ZERO_PLACE_LAYER] = "decoder.layers.%lld.",
                   [ZERO_PLACE_NORM_W] = "decoder.norm.weight",
                   [ZERO_PLACE_NORM_B] = "decoder.norm.bias",
                   [ZERO_PLACE_HEAD] = "generator.weight"},
        .roles = {TRANSFORMER_TENSORS, [ZERO_ROLE_CROSS_NORM_W] = "norm2.weight",
                  [ZERO_ROLE_CROSS_NORM_B] = "norm2.bias", [ZERO_ROLE_CROSS_QKV_W] = "multihead_attn.in_proj_weight",
                  [ZERO_ROLE_CROSS_QKV_B] = "multihead_attn.in_proj_bias",
                  [ZERO_ROLE_CROSS_PROJ_W] = "multihead_attn.out_proj.weight",
                  [ZERO_ROLE_CROSS_PROJ_B] = "multihead_attn.out_proj.bias", [ZERO_ROLE_NORM2_W] = "norm3.weight",
                  [ZERO_ROLE_NORM2_B] = "norm3.bias"},
        .encoder_places = {[ZERO_PLACE_EMBEDDING] = "src_embed.weight",
                           [ZERO_PLACE_LAYER] = "encoder.layers.%lld.",
                           [ZERO_PLACE_NORM_W] = "encoder.norm.weight",
                           [ZERO_PLACE_NORM_B] = "encoder.norm.bias"},
        .encoder_roles =
            {TRANSFORMER_TENSORS, [ZERO_ROLE_NORM2_W] = "norm2.weight", [ZERO_ROLE_NORM2_B] = "norm2.bias"},
    },
};
enum { FAMILIES = sizeof families / sizeof *families };

const zero_family_t *zero_family_at(int index)
{
    return index < FAMILIES ? &families[index] : NULL;
}

const zero_family_t *zero_family_find(const char *name)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(name, families[i].name) == 0)
            return &families[i];
    return NULL;
}

const char *zero_family_names(char *text, size_t size)
{
    size_t used = 0;

    *text = '\0';
    for (int i = 0; i < FAMILIES && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", families[i].name);
    return text;
}

zero_status_t zero_model_family(zero_model_config_t *config, const char *name, zero_error_t *error)
{
    const zero_family_t *family = zero_family_find(name);
    char names[200];

    if (family == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "there is no family '%s' of models: use one of %s", name,
                         zero_family_names(names, sizeof names));
    *config = family->config;
    return ZERO_OK;
}
