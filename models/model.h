/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - models on top of libzero's public API and kernels/nn: units, activations, FLOPs. The programs share it. It
 * does not depend on command lines, token files or logs. */
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include "kernels/nn/nn.h"
#include "zero/zero.h"

typedef enum zero_recompute { ZERO_RECOMPUTE_NONE = 0, ZERO_RECOMPUTE_SELECTIVE, ZERO_RECOMPUTE_FULL } zero_recompute_t;

/* The shape of a model, as in Hugging Face's config.json. */
typedef struct zero_model_config {
    char family[16]; /* "gpt2" */
    int64_t layers, heads, width, hidden, vocab, positions;
    double norm_eps;
    double init_std; /* 0.02; residual projections use init_std / sqrt(2 * layers) (Radford et al. 2019) */
} zero_model_config_t;

/* Fills config with a preset: "tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl". Any other name is ZERO_ERR_ARG.
 * The error lists the presets; for a planned model (llama-..., qwen...) it says that the model is not supported yet. */
zero_status_t zero_model_preset(zero_model_config_t *config, const char *name, zero_error_t *error);
/* Reads config.json, given its path or a Hugging Face folder. A setting that this code would compute differently
 * (activation, attention scaling, untied head, ...) is an error that names the key, the value found and the value
 * required. */
zero_status_t zero_model_read_config(zero_model_config_t *config, const char *folder_or_file, zero_error_t *error);
/* Whether the first bytes of a file are a git-lfs pointer. A clone made without git-lfs has pointers instead of
 * files. */
bool zero_model_is_pointer(const char *text, size_t bytes);
int64_t zero_model_parameters(const zero_model_config_t *config);
/* FLOPs per token: 6 * weights of matrix products (head included) + 12 * layers * heads * head_dim * T. */
double zero_model_flops_per_token(const zero_model_config_t *config, int64_t seq_len);

typedef struct zero_model_options {
    int64_t micro_batch, seq_len; /* sequences of a micro-step on this rank; tokens of a sequence */
    int64_t sample_len;           /* the longest sequence to sample; 0: no sampling pass */
    int64_t micro_steps; /* per step, so that the host may run ahead of a device and wait once per step; 0: 1 */
    zero_dtype_t dtype;
    zero_recompute_t recompute;
    bool offload_activations; /* with ZERO_RECOMPUTE_FULL: keep the inputs of the layers in host memory until the
                                 backward pass */
    int threads;
    const char *backend;  /* for kernels/nn: "auto" (or NULL), "cpu", "ref"; "cuda" for an engine on a CUDA device */
    bool eval;            /* declare an evaluation pass */
    int64_t head_rows;    /* rows in a block of logits; 0: chosen by size */
    int64_t head_columns; /* tokens of the vocabulary in one product of the head; 0: chosen by size */
    const char *choices;  /* algorithms for products on a GPU (zero_nn_set_choices); NULL: none */
    bool measure;         /* measure the products that choices lacks */
    bool muon;            /* the engine's rule is ZERO_RULE_MUON: reserve the memory of zero_model_matrix */
    zero_log_fn log;      /* receives warnings of kernels/nn; NULL: none */
    void *log_ctx;
} zero_model_options_t;

typedef struct zero_model zero_model_t;
zero_status_t zero_model_create(zero_model_t **model, const zero_model_config_t *config,
                                const zero_model_options_t *options, zero_error_t *error);
/* Call it after destroying the engine on which the model was declared. Accepts NULL. */
void zero_model_destroy(zero_model_t *model);

/* Adds units, parameters, passes and reservations to an engine before its commit. The reservations are the activations
 * and the workspace, whose size a dry run of every pass finds. */
zero_status_t zero_model_declare(zero_model_t *model, zero_engine_t *engine, zero_error_t *error);
/* Describes the kernels in one line: "cuda (NVIDIA H200, cuBLASLt 13.0.2, cuDNN 9.19.0); attention: cuDNN forward,
 * ...". Call it after declare. */
void zero_model_describe(const zero_model_t *model, char *text, size_t size);
/* The algorithms for products that were passed in or measured (zero_nn_choices). The caller frees them. Call it after
 * declare. */
char *zero_model_choices(const zero_model_t *model);
/* Takes the addresses from the engine. Call it after commit and before the calls below. */
zero_status_t zero_model_bind(zero_model_t *model, zero_error_t *error);

/* Makes a matrix orthogonal (zero_nn_orthogonalize): config.matrix of an engine with ZERO_RULE_MUON calls it, for a
 * model with options.muon. Returns 0, or -1 with a sentence. Call it after bind. */
int zero_model_matrix(zero_model_t *model, const zero_matrix_args_t *args, zero_error_t *error);

/* Sets initial values from a seed. They are the same for every world size and stage: a counter-based generator takes
 * tensor and element. */
zero_status_t zero_model_init(zero_model_t *model, uint64_t seed, zero_error_t *error);
/* Loads values from a Hugging Face folder. It checks names (both spellings), shapes and dtypes before it fills
 * anything. */
zero_status_t zero_model_load(zero_model_t *model, const char *folder, zero_error_t *error);
/* Only the checks of zero_model_load. Needs no engine. */
zero_status_t zero_model_check_folder(const zero_model_config_t *config, const char *folder, zero_error_t *error);

/* An export as a Hugging Face folder. */
typedef struct zero_model_export {
    const char *folder;  /* shared by all ranks; zero_model_check_export accepts it */
    const char *source;  /* the folder or the config.json that the model was read from; NULL: none. Its config.json is
                            taken over with another dtype. Of a folder, generation_config.json and the files of its
                            tokenizer are copied */
    zero_dtype_t dtype;  /* of the tensors in the files, rounded from the fp32 master weights */
    uint64_t file_bytes; /* the most data in a file; 0: 5 GB */
} zero_model_export_t;

/* Checks that the folder can be written. It exists and is empty or holds an earlier export, or can be created; and it
 * is not the source (NULL: none). */
zero_status_t zero_model_check_export(const char *folder, const char *source, zero_error_t *error);
/* Writes the model as of the last step. Each rank writes the ranges that it owns. Files get their names once all of
 * them are on the drive; an earlier export stays until then, and files of others stay as they are. Collective: every
 * rank gets the same status and sentence. Call it between steps; after a failure the engine is usable unless it says
 * otherwise itself. */
zero_status_t zero_model_export(zero_model_t *model, zero_comm_t *comm, const zero_model_export_t *to,
                                zero_error_t *error);

/* Runs one micro-step. tokens, targets (micro_batch, T) are in host memory; the caller may reuse them on return. flags:
 * ZERO_LAST. With ZERO_LAST *loss_sum receives the sum of the token losses of the step, without it 0. Each micro-step
 * sums its fp32 losses in order in fp64; these sums are added in order. Gradients are those of the sum: the engine's
 * grad_scale makes them a mean. If this call or one of the next two fails, the engine may be in the middle of a pass:
 * end it with zero_abort. */
zero_status_t zero_model_train(zero_model_t *model, const int32_t *tokens, const int32_t *targets, uint32_t flags,
                               double *loss_sum, zero_error_t *error);
/* The same without gradients, on the evaluation pass. Only the first rows <= micro_batch sequences count. All ranks
 * make the same number of calls. */
zero_status_t zero_model_eval(zero_model_t *model, const int32_t *tokens, const int32_t *targets, int64_t rows,
                              double *loss_sum, zero_error_t *error);
/* Computes the logits (vocab), fp32, of the last of n tokens (n <= sample_len) in the any-order pass. Every rank makes
 * the call with the same tokens. */
zero_status_t zero_model_logits(zero_model_t *model, const int32_t *tokens, int64_t n, float *logits,
                                zero_error_t *error);

/* Parameters in the order of declaration, with Hugging Face's names without "transformer.". */
int zero_model_param_count(const zero_model_t *model);
const char *zero_model_param_name(const zero_model_t *model, int index);
zero_param_t zero_model_param(const zero_model_t *model, int index);
int64_t zero_model_param_elements(const zero_model_t *model, int index);

#endif
