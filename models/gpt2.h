/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2.h - shared by the files of the GPT-2 implementation. Rows are the tokens of a micro-step: rows = B * T. */
#ifndef MODELS_GPT2_H
#define MODELS_GPT2_H

#include "models/model.h"

#define GPT2_NAME_BYTES 48

/* The tensors of a layer, in the order of declaration and of Hugging Face's state_dict. Matrices are stored (in,
 * out). */
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

/* The initial values of a tensor: all 0, all 1, or normal with mean 0 and standard deviation std. */
typedef enum zero_gpt2_init { GPT2_INIT_ZERO = 0, GPT2_INIT_ONE, GPT2_INIT_NORMAL } zero_gpt2_init_t;

/* One tensor of the model. Its shape follows from the configuration. */
typedef struct zero_gpt2_tensor {
    char name[GPT2_NAME_BYTES]; /* without "transformer." */
    int32_t ndim;
    int64_t shape[2];
    int64_t count;
    zero_gpt2_init_t init;
    double std;
} zero_gpt2_tensor_t;

/* The number of tensors. Their order is the order of declaration: wte, wpe; the layers; ln_f. */
int zero_gpt2_tensor_count(const zero_model_config_t *config);
void zero_gpt2_tensor(const zero_model_config_t *config, int index, zero_gpt2_tensor_t *tensor);
/* Checks that the sizes are valid for a model and that their products fit in 63 bits. ZERO_ERR_ARG names the bad
 * size. */
zero_status_t zero_gpt2_check_config(const zero_model_config_t *config, zero_error_t *error);
/* Parses a config.json in memory. Errors contain name. */
zero_status_t zero_gpt2_parse_config(zero_model_config_t *config, const char *text, size_t bytes, const char *name,
                                     zero_error_t *error);
/* Computes the values that zero_model_init draws for elements [begin, begin + count) of a tensor. */
void zero_gpt2_init_values(const zero_gpt2_tensor_t *tensor, uint64_t seed, int64_t begin, int64_t count, int threads,
                           float *out);

/* A tensor that is declared on an engine. data and grad are NULL before bind. */
typedef struct zero_gpt2_param {
    char name[GPT2_NAME_BYTES];
    int64_t count;
    zero_param_t id;
    void *data, *grad;
} zero_gpt2_param_t;

/* The activations that the forward pass of a layer keeps for the backward pass. The recompute mode decides which
 * buffers layers share. */
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
    zero_unit_t embed, ln_f, *units; /* units: one per layer */
    zero_pass_t train, eval, sample;
    zero_reserve_t activations, shared, workspace;
    uint64_t workspace_bytes;
    zero_nn_t *muon; /* of options.muon; else NULL */
    zero_reserve_t muon_memory;
    uint64_t muon_scratch_bytes, muon_workspace_bytes;
    void *muon_scratch;

    int64_t head_rows, logits_ld; /* rows in a block of logits; elements from one row to the next */
    int64_t head_columns;         /* tokens of the vocabulary in one product */
    bool head_sums;               /* dwte accumulates wte's gradient before it is rounded */
    void **x;    /* layers + 1 times (rows, C): the residual stream before each layer and after the last. With
                    offload_activations two buffers alternate */
    void **kept; /* layers times (rows, C) in memory that host and device access: holds x until the backward pass; NULL:
                    x stays in x */
    zero_gpt2_layer_t *layers;
    float *mean_f, *rstd_f; /* (rows), of ln_f */
    void *logits;           /* (head_rows, logits_ld) */
    float *dwte;            /* (V, C), from the head alone; NULL without head_sums */
    void *dx;               /* (rows, C): the gradient of the residual stream */
    void *narrow;           /* (rows, C): the output of ln_f, then gradients of attention and of the outputs of norms */
    void *wide;             /* (rows, max(F, 3C)): gradients of fc and qkv */

    /* In memory that the host and the device access: */
    int32_t *tokens, *targets; /* (places, rows) */
    float *losses;             /* (places, rows) */
    void *sampled;             /* (vocab): logits of a sample; NULL without a sampling pass */

    int64_t places;  /* micro-steps that may be in flight */
    int64_t pending; /* micro-steps in flight whose losses are not yet added to loss */
    double loss;     /* the sum of this step's losses, without the pending ones */
};

/* p + elements, or NULL if p is NULL: buffers of a dry run stay NULL. */
static inline void *zero_gpt2_at(const zero_model_t *m, void *p, int64_t elements)
{
    return p ? (char *)p + (size_t)elements * m->element : NULL;
}

/* Sets the addresses of all buffers, given the start of the device memory and of the host memory that both access. A
 * NULL start gives NULL addresses. Sets the total bytes of each memory. Returns false on overflow. */
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
/* Runs layer l from x (rows, C) to out (rows, C), which may be x. Keeps in *a the values that the backward pass reads.
 * If out is NULL, it stops after GELU: a recomputation needs no more. */
void zero_gpt2_layer_forward(zero_model_t *m, int64_t l, const zero_gpt2_layer_t *a, const void *x, void *out,
                             int64_t B, int64_t T);
/* On entry m->dx (rows, C) is the gradient of layer l's output; on return it is the gradient of its input m->x[l]. Adds
 * to the gradients of the layer's parameters. */
void zero_gpt2_layer_backward(zero_model_t *m, int64_t l);
/* logits (rows, V; logits_ld) = x (rows, C) wte^T. The head is the embedding, stored (V, C). */
void zero_gpt2_logits(zero_model_t *m, const void *x, int64_t rows);
/* Computes the losses (rows) of m->narrow (rows, C) against targets, head_rows rows at a time. With grad, the gradient
 * overwrites narrow, and wte's gradient is added. */
void zero_gpt2_head(zero_model_t *m, float *losses, const int32_t *targets, int64_t rows, bool grad);

/* Run one micro-step, one evaluation, or one sample of exactly n tokens. In a dry run there are no tokens, buffers or
 * engine. */
zero_status_t zero_gpt2_train(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                              uint32_t flags, zero_error_t *error);
zero_status_t zero_gpt2_eval(zero_model_t *m, const int32_t *tokens, const int32_t *targets, float *losses,
                             int64_t rows, zero_error_t *error);
zero_status_t zero_gpt2_sample(zero_model_t *m, const int32_t *tokens, int64_t n, zero_error_t *error);

/* The length to which a sample of n tokens is padded. There are few such lengths, so few primitives are created. */
int64_t zero_gpt2_sample_shape(const zero_model_t *m, int64_t n);

/* Sets *error to the engine's last error. Returns status. */
zero_status_t zero_gpt2_engine_error(zero_model_t *m, zero_status_t status, zero_error_t *error);

/* muon.c: with options.muon, prepares zero_model_matrix, at the end of declare and of bind. */
zero_status_t zero_gpt2_declare_muon(zero_model_t *m, zero_error_t *error);
void zero_gpt2_bind_muon(zero_model_t *m);

#endif
