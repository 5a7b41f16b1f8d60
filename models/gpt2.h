/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2.h - what the files of the GPT-2 implementation share. Rows are tokens of a micro-step: rows = B * T. */
#ifndef MODELS_GPT2_H
#define MODELS_GPT2_H

#include "models/model.h"

#define GPT2_NAME_BYTES 48

/* Tensors of a layer, in the order of declaration and of Hugging Face's state_dict. Matrices are stored (in, out). */
enum {
    GPT2_LN1_W = 0,
    GPT2_LN1_B, /* (C), (C) */
    GPT2_QKV_W,
    GPT2_QKV_B, /* (C, 3C), (3C) */
    GPT2_PROJ_W,
    GPT2_PROJ_B, /* (C, C), (C) */
    GPT2_LN2_W,
    GPT2_LN2_B, /* (C), (C) */
    GPT2_FC_W,
    GPT2_FC_B, /* (C, F), (F) */
    GPT2_OUT_W,
    GPT2_OUT_B, /* (F, C), (C) */
    GPT2_LAYER_TENSORS
};

/* How a tensor begins: all 0, all 1, or normal with mean 0 and the standard deviation std. */
typedef enum zero_gpt2_init { GPT2_INIT_ZERO = 0, GPT2_INIT_ONE, GPT2_INIT_NORMAL } zero_gpt2_init_t;

/* One tensor of the model, as its shape demands it. */
typedef struct zero_gpt2_tensor {
    char name[GPT2_NAME_BYTES]; /* without "transformer." */
    int32_t ndim;
    int64_t shape[2];
    int64_t count;
    zero_gpt2_init_t init;
    double std;
} zero_gpt2_tensor_t;

/* Tensors in the order of declaration: wte, wpe; the layers; ln_f. */
int zero_gpt2_tensor_count(const zero_model_config_t *config);
void zero_gpt2_tensor(const zero_model_config_t *config, int index, zero_gpt2_tensor_t *tensor);
/* Sizes that make a model, and whose products fit in 63 bits; otherwise ZERO_ERR_ARG with the name of the size. */
zero_status_t zero_gpt2_check_config(const zero_model_config_t *config, zero_error_t *error);
/* config.json from memory; name is used in errors. */
zero_status_t zero_gpt2_parse_config(zero_model_config_t *config, const char *text, size_t bytes, const char *name,
                                     zero_error_t *error);
/* What zero_model_init draws for elements [begin, begin + count) of a tensor. */
void zero_gpt2_init_values(const zero_gpt2_tensor_t *tensor, uint64_t seed, int64_t begin, int64_t count, int threads,
                           float *out);

/* A tensor that was declared on an engine. data and grad are NULL before bind. */
typedef struct zero_gpt2_param {
    char name[GPT2_NAME_BYTES];
    int64_t count;
    zero_param_t id;
    void *data, *grad;
} zero_gpt2_param_t;

/* What the forward pass of a layer leaves for the backward pass. Layers share buffers as the recompute mode allows. */
typedef struct zero_gpt2_layer {
    void *norm1;                          /* (rows, C) */
    void *qkv;                            /* (rows, 3C) */
    void *attention;                      /* (rows, C), before the projection */
    void *mid;                            /* (rows, C): the residual stream between attention and MLP */
    void *norm2;                          /* (rows, C) */
    void *fc;                             /* (rows, F), before GELU */
    void *gelu;                           /* (rows, F) */
    float *mean1, *rstd1, *mean2, *rstd2; /* (rows) */
    float *lse;                           /* (B, H, T) */
} zero_gpt2_layer_t;

struct zero_model {
    zero_model_config_t config;
    zero_model_options_t options;
    zero_engine_t *engine; /* borrowed; NULL before declare */
    zero_nn_t *nn;
    bool dry; /* a dry run: no engine, no buffers */
    bool bound;
    size_t element; /* bytes of options.dtype */

    int param_count;
    zero_gpt2_param_t *params;
    zero_unit_t embed, ln_f, *units; /* units: one a layer */
    zero_pass_t train, eval, sample;
    zero_reserve_t activations, shared, workspace;
    uint64_t workspace_bytes;

    int64_t head_rows, logits_ld; /* rows of logits that exist at once; elements from one row to the next */
    int64_t head_columns;         /* tokens of the vocabulary that one product takes */
    bool head_sums;               /* wte's gradient is added up in dwte before it is rounded */
    void **x;    /* layers + 1 times (rows, C): the residual stream before each layer, and after the last. With
                    offload_activations two buffers take turns */
    void **kept; /* layers times (rows, C) in memory that host and device reach, where x is until the backward pass;
                    NULL: in x */
    zero_gpt2_layer_t *layers;
    float *mean_f, *rstd_f; /* (rows): of ln_f */
    void *logits;           /* (head_rows, logits_ld) */
    float *dwte;            /* (V, C): of the head alone; NULL without head_sums */
    void *dx;               /* (rows, C): the residual stream's gradient */
    void *narrow;           /* (rows, C): ln_f's output, then gradients of norms' outputs and of attention */
    void *wide;             /* (rows, max(F, 3C)): gradients of fc and qkv */

    /* In memory that the host and the device reach: */
    int32_t *tokens, *targets; /* (places, rows) */
    float *losses;             /* (places, rows) */
    void *sampled;             /* (vocab): logits of a sample; NULL where there are none */

    int64_t places;  /* micro-steps that may be under way */
    int64_t pending; /* of them, those whose losses are not yet waited for */
    double loss;     /* of those of this step that were */
};

/* p + elements, and NULL for NULL: buffers of a dry run stay NULL. */
static inline void *zero_gpt2_at(const zero_model_t *m, void *p, int64_t elements)
{
    return p ? (char *)p + (size_t)elements * m->element : NULL;
}

/* Addresses of all buffers from the bases of the device's memory and of the host's that both reach, or NULL for those
 * whose base is NULL. Sets what they take together; false where that overflows. */
bool zero_gpt2_layout(zero_model_t *m, void *device, void *host, uint64_t *device_bytes, uint64_t *host_bytes);

/* Parameter k of layer l. */
static inline zero_gpt2_param_t *zero_gpt2_layer_param(const zero_model_t *m, int64_t l, int k)
{
    return &m->params[2 + l * GPT2_LAYER_TENSORS + k];
}
#define GPT2_WTE(m) (&(m)->params[0])
#define GPT2_WPE(m) (&(m)->params[1])
#define GPT2_LNF_W(m) (&(m)->params[(m)->param_count - 2])
#define GPT2_LNF_B(m) (&(m)->params[(m)->param_count - 1])

/* y (rows, out) = x (rows, in) w (in, out) + b (out). */
void zero_gpt2_linear(zero_model_t *m, void *y, const void *x, const zero_gpt2_param_t *w, const zero_gpt2_param_t *b,
                      int64_t rows, int64_t in, int64_t out);
/* Layer l over x (rows, C) into out (rows, C), which may be x; keeps in *a what the backward pass reads. With out NULL
 * it stops after GELU: what a recomputation needs. */
void zero_gpt2_layer_forward(zero_model_t *m, int64_t l, const zero_gpt2_layer_t *a, const void *x, void *out,
                             int64_t B, int64_t T);
/* m->dx (rows, C), the gradient of layer l's output, becomes that of its input m->x[l]; gradients of its parameters are
 * added. */
void zero_gpt2_layer_backward(zero_model_t *m, int64_t l);
/* logits (rows, V; logits_ld) = x (rows, C) wte^T: the head is the embedding, stored (V, C). */
void zero_gpt2_logits(zero_model_t *m, const void *x, int64_t rows);
/* Losses (rows) of m->narrow (rows, C) against targets, head_rows at a time. With grad, narrow becomes its own gradient
 * and wte's is added. */
void zero_gpt2_head(zero_model_t *m, float *losses, const int32_t *targets, int64_t rows, bool grad);

/* One micro-step, evaluation, or sample of exactly n tokens; in a dry run with no tokens, buffers or engine. */
zero_status_t zero_gpt2_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                              uint32_t flags, zero_error_t *error);
zero_status_t zero_gpt2_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                             int64_t rows, zero_error_t *error);
zero_status_t zero_gpt2_sample(zero_model_t *m, const int32_t *tokens, int64_t n, zero_error_t *error);

/* The length to which a sample of n tokens is padded: few shapes, so that few primitives are made. */
int64_t zero_gpt2_sample_shape(const zero_model_t *m, int64_t n);

/* *error from what the engine said last; returns status. */
zero_status_t zero_gpt2_engine_error(zero_model_t *m, zero_status_t status, zero_error_t *error);

#endif
