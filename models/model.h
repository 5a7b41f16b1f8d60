/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - models on top of the public API of libzero and kernels/nn: units, activations, FLOPs. Shared by the
 * programs. Nothing here knows about command lines, files of tokens or logs.
 */
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include "kernels/nn/nn.h"
#include "zero/zero.h"

typedef enum zero_recompute { ZERO_RECOMPUTE_NONE = 0, ZERO_RECOMPUTE_SELECTIVE, ZERO_RECOMPUTE_FULL } zero_recompute_t;

/* The shape of a model, as Hugging Face's config.json has it. */
typedef struct zero_model_config {
    char family[16]; /* "gpt2" */
    int64_t layers, heads, width, hidden, vocab, positions;
    double norm_eps;
    double init_std; /* 0.02; residual projections init_std / sqrt(2 * layers) (Radford et al. 2019) */
} zero_model_config_t;

/* Presets by name: "tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl". An unknown name is ZERO_ERR_ARG and lists
 * them; one that is planned for later (llama-..., qwen...) says that it is not supported yet. */
zero_status_t zero_model_preset(zero_model_config_t *config, const char *name, zero_error_t *error);
/* config.json of a Hugging Face folder, or that file itself. Anything that this code would compute differently
 * (activation, attention scaling, untied head, ...) is an error that names the key, the value found and the value
 * wanted. */
zero_status_t zero_model_read_config(zero_model_config_t *config, const char *folder_or_file, zero_error_t *error);
/* Whether a file's first bytes are those of a git-lfs pointer, which a clone without git-lfs has in the file's place.
 */
bool zero_model_is_pointer(const char *text, size_t bytes);
int64_t zero_model_parameters(const zero_model_config_t *config);
/* F of INTERFACE: 6 * weights of matrix products (head included) + 12 * layers * heads * head_dim * T, per token. */
double zero_model_flops_per_token(const zero_model_config_t *config, int64_t seq_len);

typedef struct zero_model_options {
    int64_t micro_batch, seq_len; /* sequences of a micro-step on this rank, tokens of a sequence */
    int64_t sample_len;           /* the longest sequence that is sampled; 0: no sampling pass */
    int64_t micro_steps;          /* of a step, so that the host may go ahead of a device and wait once a step; 0: 1 */
    zero_dtype_t dtype;
    zero_recompute_t recompute;
    bool offload_activations; /* with ZERO_RECOMPUTE_FULL: what is kept, the layers' inputs, is in the host's memory
                                 until the backward pass */
    int threads;
    const char *backend;  /* of kernels/nn: "auto" (NULL too), "cpu", "ref"; "cuda" for an engine on a CUDA device */
    bool eval;            /* declare an evaluation pass */
    int64_t head_rows;    /* rows of logits that exist at once; 0: chosen by size */
    int64_t head_columns; /* tokens of the vocabulary that one product of the head takes; 0: chosen by size */
    const char *choices;  /* which algorithms compute products on a GPU (zero_nn_set_choices); NULL: none are chosen */
    bool measure;         /* measure those that choices lacks */
    zero_log_fn log;      /* gets warnings of kernels/nn; NULL: none */
    void *log_ctx;
} zero_model_options_t;

typedef struct zero_model zero_model_t;
zero_status_t zero_model_create(zero_model_t **model, const zero_model_config_t *config,
                                const zero_model_options_t *options, zero_error_t *error);
/* After the engine that it was declared on. Accepts NULL. */
void zero_model_destroy(zero_model_t *model);

/* Adds units, parameters, passes and reservations (activations; the workspace that a dry run of every pass finds) to an
 * engine that is not committed. */
zero_status_t zero_model_declare(zero_model_t *model, zero_engine_t *engine, zero_error_t *error);
/* What computes, and how, in one line: "cuda (NVIDIA H200, cuBLASLt 13.0.2, cuDNN 9.19.0); attention: cuDNN forward,
 * ...". After declare. */
void zero_model_describe(const zero_model_t *model, char *text, size_t size);
/* The choices of products that the model was given or has measured (zero_nn_choices); the caller frees them. After
 * declare. */
char *zero_model_choices(const zero_model_t *model);
/* After commit: takes the addresses. Before any of the calls below. */
zero_status_t zero_model_bind(zero_model_t *model, zero_error_t *error);

/* Initial values from a seed: the same for every world size and stage (a counter-based generator over tensor and
 * element). */
zero_status_t zero_model_init(zero_model_t *model, uint64_t seed, zero_error_t *error);
/* Values from a Hugging Face folder: names (both spellings), shapes and dtypes are checked before anything is filled.
 */
zero_status_t zero_model_load(zero_model_t *model, const char *folder, zero_error_t *error);
/* The checks of zero_model_load alone: needs no engine. */
zero_status_t zero_model_check_folder(const zero_model_config_t *config, const char *folder, zero_error_t *error);

/* One micro-step: tokens, targets (micro_batch, T), on the host, free again on return. flags: ZERO_LAST; *loss_sum is
 * then the sum of the token losses of the step (fp64 sums of fp32 losses in order, one for each micro-step, added in
 * order), and 0 before it. Gradients are those of the sum: the engine's grad_scale makes them a mean. After an error of
 * this or the next two the engine may stand in the middle of a pass: the caller ends it with zero_abort. */
zero_status_t zero_model_train(zero_model_t *model, const int32_t *tokens, const int32_t *targets, uint32_t flags,
                               double *loss_sum, zero_error_t *error);
/* The same without gradients, on the evaluation pass. rows <= micro_batch sequences count; all ranks call equally
 * often. */
zero_status_t zero_model_eval(zero_model_t *model, const int32_t *tokens, const int32_t *targets, int64_t rows,
                              double *loss_sum, zero_error_t *error);
/* Logits (vocab) fp32 of the last of n tokens (n <= sample_len), through the any-order pass. Every rank calls it with
 * the same tokens. */
zero_status_t zero_model_logits(zero_model_t *model, const int32_t *tokens, int64_t n, float *logits,
                                zero_error_t *error);

/* Parameters in the order of declaration: names as Hugging Face spells them ("transformer." left out). */
int zero_model_param_count(const zero_model_t *model);
const char *zero_model_param_name(const zero_model_t *model, int index);
zero_param_t zero_model_param(const zero_model_t *model, int index);
int64_t zero_model_param_elements(const zero_model_t *model, int index);

#endif
