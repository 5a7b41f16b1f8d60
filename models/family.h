/* SPDX-License-Identifier: Apache-2.0 */
/* family.h - families of models: what is fixed for all models of a Hugging Face model_type. */
#ifndef MODELS_FAMILY_H
#define MODELS_FAMILY_H

#include "models/model.h"

#define ZERO_MODEL_NAME_BYTES 96
#define ZERO_HEAD_DIM_MOST 256
#define ZERO_FAMILY_COMPUTED 2

/* Where a tensor is. */
typedef enum zero_model_place {
    ZERO_PLACE_EMBEDDING = 0, /* (V, C); of an encoder (source_vocab, C) */
    ZERO_PLACE_POSITIONS,     /* (positions, C) */
    ZERO_PLACE_LAYER,
    ZERO_PLACE_NORM_W, /* (C): the norm behind the layers */
    ZERO_PLACE_NORM_B, /* (C) */
    ZERO_PLACE_HEAD,   /* (V, C) */
    ZERO_PLACE_COUNT
} zero_model_place_t;

/* The tensors of a layer, in the order of declaration. Shapes of matrices are (in, out) here. Parts of one linear layer
 * follow each other, so that one product computes them. */
typedef enum zero_model_role {
    ZERO_ROLE_NORM1_W = 0,  /* (C) */
    ZERO_ROLE_NORM1_B,      /* (C) */
    ZERO_ROLE_QKV_W,        /* (C, Q) */
    ZERO_ROLE_QKV_B,        /* (Q) */
    ZERO_ROLE_Q_W,          /* (C, H D) */
    ZERO_ROLE_K_W,          /* (C, KV D) */
    ZERO_ROLE_V_W,          /* (C, KV D) */
    ZERO_ROLE_Q_B,          /* (H D) */
    ZERO_ROLE_K_B,          /* (KV D) */
    ZERO_ROLE_V_B,          /* (KV D) */
    ZERO_ROLE_Q_NORM_W,     /* (D) */
    ZERO_ROLE_K_NORM_W,     /* (D) */
    ZERO_ROLE_PROJ_W,       /* (H D, C) */
    ZERO_ROLE_PROJ_B,       /* (C) */
    ZERO_ROLE_CROSS_NORM_W, /* (C); this and the next ones attend to the encoder's output */
    ZERO_ROLE_CROSS_NORM_B, /* (C) */
    ZERO_ROLE_CROSS_QKV_W,  /* (C, Q) */
    ZERO_ROLE_CROSS_QKV_B,  /* (Q) */
    ZERO_ROLE_CROSS_PROJ_W, /* (H D, C) */
    ZERO_ROLE_CROSS_PROJ_B, /* (C) */
    ZERO_ROLE_NORM2_W,      /* (C) */
    ZERO_ROLE_NORM2_B,      /* (C) */
    ZERO_ROLE_GATE_W,       /* (C, F) */
    ZERO_ROLE_UP_W,         /* (C, F) */
    ZERO_ROLE_GATE_B,       /* (F) */
    ZERO_ROLE_UP_B,         /* (F) */
    ZERO_ROLE_DOWN_W,       /* (F, C) */
    ZERO_ROLE_DOWN_B,       /* (C) */
    ZERO_ROLE_COUNT
} zero_model_role_t;

/* What config.json may say of a setting that a family either fixes or reads. */
typedef enum zero_family_switch {
    ZERO_SWITCH_OFF = 0, /* fixed: no */
    ZERO_SWITCH_ON,      /* fixed: yes */
    ZERO_SWITCH_KEY      /* read from its key; absent: no */
} zero_family_switch_t;

/* Names of the keys of config.json. NULL: the family has no such key. */
typedef struct zero_family_keys {
    const char *layers, *heads, *kv_heads, *head_dim, *width, *hidden, *vocab, *positions, *norm_eps, *activation;
    const char *encoder_layers, *source_vocab;
    const char *norm_first; /* whether norms are before attention and MLP */
} zero_family_keys_t;

typedef struct zero_family {
    const char *name;         /* model_type */
    const char *architecture; /* with its head: config.json's "architectures" */
    const char *title;        /* in sentences: "GPT-2" */
    const char *prefix;       /* of the names of all tensors but the head's, as transformers writes them */
    bool prefixed;            /* parameters are named with the prefix; else without. Files may lack it or not */
    bool out_in;              /* matrices are stored (out, in), else (in, out) */
    const char *adapted;      /* modules that have adapters unless others are named; NULL: none can */
    bool hidden;              /* config.json must have the MLP's width; else it is 4 * width by default */
    const zero_family_keys_t *keys;
    zero_family_switch_t attention_bias, mlp_bias; /* keys "attention_bias" (queries, keys, values and projection),
                                                      "mlp_bias" */
    int64_t kv_heads;                              /* if config.json has no such key; 0: heads */
    int64_t head_dim;                              /* if config.json has none; 0: width / heads */
    int64_t sliding_window;                        /* if config.json has no "sliding_window"; 0: none */
    bool window_switch;                            /* a sliding window counts only with "use_sliding_window" */
    zero_model_config_t config; /* what all models of the family share, and defaults of what config.json may lack */
    const char *places[ZERO_PLACE_COUNT]; /* names of tensors; ZERO_PLACE_LAYER: with %lld for the layer */
    const char *roles[ZERO_ROLE_COUNT];   /* names behind that of the layer; NULL: no model of the family has it */
    const char *encoder_places[ZERO_PLACE_COUNT], *encoder_roles[ZERO_ROLE_COUNT]; /* of an encoder; NULL: none */
    const char *computed[ZERO_FAMILY_COMPUTED]; /* tensors that files may have behind a layer's number, and that are not
                                                   read: nobody trains them; NULL: no more */
} zero_family_t;

/* The family of this name; NULL: there is none. */
const zero_family_t *zero_family_find(const char *name);
/* The family at index, from 0; NULL behind the last. */
const zero_family_t *zero_family_at(int index);
/* The names of all families, for a sentence: "gpt2, llama, ...". */
const char *zero_family_names(char *text, size_t size);

/* Checks that the sizes are valid for a model and that their products fit in 63 bits, and that the family has the
 * arithmetic. ZERO_ERR_ARG names the bad setting. */
zero_status_t zero_model_check_config(const zero_model_config_t *config, zero_error_t *error);
/* Parses a config.json in memory. Errors contain name. */
zero_status_t zero_model_parse_config(zero_model_config_t *config, const char *text, size_t bytes, const char *name,
                                      zero_error_t *error);

#endif
