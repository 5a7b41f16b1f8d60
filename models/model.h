/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - models on top of libzero's public API and kernels/nn: units, activations, FLOPs. The programs share it. It
 * does not depend on command lines, token files or logs. */
#ifndef MODELS_MODEL_H
#define MODELS_MODEL_H

#include "kernels/nn/nn.h"
#include "zero/zero.h"

typedef enum zero_recompute { ZERO_RECOMPUTE_NONE = 0, ZERO_RECOMPUTE_SELECTIVE, ZERO_RECOMPUTE_FULL } zero_recompute_t;

typedef enum zero_model_norm { ZERO_MODEL_LAYER_NORM = 0, ZERO_MODEL_RMS_NORM } zero_model_norm_t;

/* How a rotary position embedding (Su et al. 2021) stretches its wavelengths to longer sequences: not at all; all of
 * them by factor; or those that are long against the original positions (Llama 3.1, as Hugging Face's "llama3"). */
typedef enum zero_rope_scaling { ZERO_ROPE_PLAIN = 0, ZERO_ROPE_LINEAR, ZERO_ROPE_LLAMA3 } zero_rope_scaling_t;

typedef struct zero_rope {
    double theta; /* 0: positions are not rotary; they are learned, unless they are sinusoidal */
    zero_rope_scaling_t scaling;
    double factor, low_freq_factor, high_freq_factor; /* the last two of ZERO_ROPE_LLAMA3 */
    int64_t original_positions;                       /* of ZERO_ROPE_LLAMA3 */
} zero_rope_t;

/* The shape of a model, as in Hugging Face's config.json. The family (models/families.c) decides the names and the
 * storage of tensors. Everything that the arithmetic depends on is here. */
typedef struct zero_model_config {
    char family[16]; /* "gpt2", "llama", "mistral", "qwen2", "qwen3": Hugging Face's model_type; "transformer" */
    int64_t layers, width, hidden, vocab, positions;
    int64_t encoder_layers;            /* of an encoder, to whose output each of the layers attends as well; 0: none */
    int64_t source_vocab;              /* tokens that the encoder reads; 0 without an encoder */
    int64_t heads, kv_heads, head_dim; /* heads / kv_heads queries share a key and a value */
    zero_model_norm_t norm;
    double norm_eps;
    bool post_norm; /* norms follow the residual sums (Vaswani et al. 2017); else they are before attention and MLP */
    zero_rope_t rope;
    bool sinusoidal;       /* positions are sines and cosines that are added to embeddings (Vaswani et al. 2017) */
    bool scaled_embedding; /* embeddings are multiplied by sqrt(width) */
    zero_nn_activation_t activation;
    bool gated;           /* the MLP multiplies activation(gate x) by up x (Shazeer 2020) */
    bool qkv_bias;        /* of queries, keys and values */
    bool projection_bias; /* of the projection behind attention */
    bool mlp_bias;
    bool qk_norm;           /* RMS norms of each query and key, before their rotation */
    bool tied;              /* the head is the embedding */
    int64_t sliding_window; /* keys that a query sees; 0: all before it. Sequences must not be longer */
    double init_std;        /* of matrices (0.02) */
    bool residual_init;     /* residual projections have init_std / sqrt(2 * layers) (Radford et al. 2019) */
} zero_model_config_t;

/* Fills config with what a family's models share: the arithmetic, and transformers' defaults. Sizes are 0. Any other
 * name is ZERO_ERR_ARG; the error lists the families. */
zero_status_t zero_model_family(zero_model_config_t *config, const char *name, zero_error_t *error);
/* Fills config with a preset: "tiny", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "llama-1b", "llama-3b",
 * "llama-8b", "qwen2.5-0.5b", "qwen2.5-7b", "numbers-seq2seq". Any other name is ZERO_ERR_ARG, and the error lists the
 * presets. */
zero_status_t zero_model_preset(zero_model_config_t *config, const char *name, zero_error_t *error);
/* Reads config.json, given its path or a Hugging Face folder. A setting that this code would compute differently
 * (mixtures of experts, soft caps, ...) is an error that names the key, the value found and the value
 * required. */
zero_status_t zero_model_read_config(zero_model_config_t *config, const char *folder_or_file, zero_error_t *error);
/* Whether the first bytes of a file are a git-lfs pointer. A clone made without git-lfs has pointers instead of
 * files. */
bool zero_model_is_pointer(const char *text, size_t bytes);
/* The model's config.json, with every setting of config and the dtype of its weights. Equal texts mean equal models.
 * The caller frees the text. */
zero_status_t zero_model_config_text(const zero_model_config_t *config, zero_dtype_t dtype, char **text,
                                     zero_error_t *error);
int64_t zero_model_parameters(const zero_model_config_t *config);

/* Low-rank adapters (LoRA; Hu et al. 2021): with x a linear layer's input, its output gains alpha / rank x A B. Only A
 * and B are trained; all other parameters are frozen. */
typedef struct zero_lora {
    int64_t rank; /* 0: no adapters, and all parameters are trained */
    double alpha;
    uint64_t targets; /* the weights that have adapters, as zero_model_lora sets them */
} zero_lora_t;

#define ZERO_LORA_NAMES_BYTES 512

/* Fills *lora for a model. names: modules, separated by commas, as peft's target_modules has them: a module is adapted
 * if its name is one of them, or ends with one behind a dot ("q_proj", "attn.c_proj"); "all-linear" is all linear
 * layers but the head; NULL is peft's default for the family. ZERO_ERR_ARG: a name matches nothing, and the error lists
 * those that would; rank is less than 1, or more than a dimension of an adapted matrix; alpha is not above 0. */
zero_status_t zero_model_lora(zero_lora_t *lora, const zero_model_config_t *config, int64_t rank, double alpha,
                              const char *names, zero_error_t *error);
/* The shortest names for targets, separated by commas. Returns text. */
const char *zero_model_lora_names(const zero_model_config_t *config, uint64_t targets, char *text, size_t size);
/* Elements of all adapters. */
int64_t zero_model_adapter_parameters(const zero_model_config_t *config, const zero_lora_t *lora);

/* FLOPs per token: 6 * weights of the matrix products that it goes through (head included) + 12 * layers * heads *
 * head_dim * T. With an encoder, it attends to source_len tokens of the source as well; else source_len is 0. With
 * adapters (lora NULL: none), frozen weights count 4 times, because nobody computes their gradients, and adapters 6
 * times. */
double zero_model_flops_per_token(const zero_model_config_t *config, const zero_lora_t *lora, int64_t seq_len,
                                  int64_t source_len);
/* The same for a token of the source: encoder, and the keys and values of the layers that attend to it. 0 without an
 * encoder. */
double zero_model_flops_per_source_token(const zero_model_config_t *config, int64_t source_len);

typedef struct zero_model_options {
    int64_t micro_batch, seq_len; /* sequences of a micro-step on this rank; tokens of a sequence */
    int64_t source_len;           /* tokens of a source, with padding; 0 without an encoder */
    int64_t sample_len;           /* the longest sequence to sample: its keys and values are kept, in memory of
                                     ZERO_KIND_CACHE; 0: no sampling pass */
    int64_t micro_steps; /* per step, so that the host may run ahead of a device and wait once per step; 0: 1 */
    float grad_factor;   /* multiplies the gradients, which are otherwise those of a sum; 0: 1 */
    zero_dtype_t dtype;  /* of parameters, activations and gradients */
    zero_recompute_t recompute;
    bool offload_activations; /* with ZERO_RECOMPUTE_FULL: keep the inputs of the layers in host memory until the
                                 backward pass */
    int threads;
    const char *backend;  /* for kernels/nn: "auto" (or NULL), "cpu", "ref"; "cuda" for an engine on a CUDA device */
    bool eval;            /* declare an evaluation pass */
    bool untrained;       /* declare no training pass: there are no gradients, no state of the optimizer, and no
                             activations for a backward pass */
    int64_t head_rows;    /* rows in a block of logits; 0: chosen by size */
    int64_t head_columns; /* tokens of the vocabulary in one product of the head; 0: chosen by size */
    int chunks; /* of a pipeline: the model is cut into so many, for an engine with config.mesh.pipe stages. 0: it is
                   whole */
    const int32_t *chunk_of; /* by layer, the encoder's first: its chunk; zero_model_map fills one. Copied */
    int64_t tile_bytes;      /* embeddings and heads of more bytes are divided into tiles of about these, which are
                             gathered and dropped one after the other; 0: never */
    int context; /* ranks that have parts of the same sequences, as config.mesh.context of the engine; 0: 1. seq_len is
                    a multiple of twice their number. Batches have whole sequences, of which the model takes its part */
    int tensor;  /* ranks that compute each layer together, as config.mesh.tensor of the engine; 0 or 1:
                                none */
    bool whole_rows;     /* with tensor above 1: these ranks compute norms, residual sums and the like of all rows,
                                each of them the same; false: each computes 1 / tensor of the rows (sequence
                                parallelism), which takes less memory and no more communication */
    const char *choices; /* algorithms for products on a GPU (zero_nn_set_choices); NULL: none */
    bool measure;        /* measure the products that choices lacks */
    bool packed;         /* batches have starts */
    zero_lora_t lora;    /* adapters */
    bool muon;           /* the engine's rule is ZERO_RULE_MUON: reserve the memory of zero_model_matrix */
    zero_log_fn log;     /* receives warnings of kernels/nn; NULL: none */
    void *log_ctx;
} zero_model_options_t;

/* Divides the layers of a model, the encoder's first, among chunks, by the cost of their products and of the head. A
 * decoder with an encoder stays whole. chunk_of: [encoder_layers + layers]. ZERO_ERR_ARG: there are too few layers. */
zero_status_t zero_model_map(const zero_model_config_t *config, int64_t seq_len, int chunks, int32_t *chunk_of,
                             zero_error_t *error);

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
/* Sets those of the adapters alone, as peft does: A is uniform between -1 / sqrt(inputs) and 1 / sqrt(inputs), B is
 * 0. */
zero_status_t zero_model_init_adapters(zero_model_t *model, uint64_t seed, zero_error_t *error);
/* Loads all parameters but adapters from a Hugging Face folder. It checks names (both spellings), shapes and dtypes
 * before it fills anything. */
zero_status_t zero_model_load(zero_model_t *model, const char *folder, zero_error_t *error);
/* Only the checks of zero_model_load. Needs no engine. */
zero_status_t zero_model_check_folder(const zero_model_config_t *config, const char *folder, zero_error_t *error);

/* What peft's adapter_config.json says of adapters in a folder. */
typedef struct zero_model_adapters {
    int64_t rank;
    double alpha;
    char names[ZERO_LORA_NAMES_BYTES]; /* for zero_model_lora */
    char *base;                        /* the folder of the model that they belong to; the caller frees it */
} zero_model_adapters_t;

/* Whether a folder has an adapter_config.json. */
bool zero_model_has_adapters(const char *folder);
/* Reads it. A setting that this code would compute differently is an error that names the key. */
zero_status_t zero_model_read_adapters(zero_model_adapters_t *adapters, const char *folder, zero_error_t *error);
/* Loads the values of the model's adapters from such a folder. It checks names, shapes and dtypes before it fills
 * anything. */
zero_status_t zero_model_load_adapters(zero_model_t *model, const char *folder, zero_error_t *error);

/* An export as a Hugging Face folder. */
typedef struct zero_model_export {
    const char *folder; /* shared by all ranks; zero_model_check_export accepts it */
    const char *source; /* the folder or the config.json that the model was read from; NULL: none. Its config.json is
                            taken over with another dtype. Of a folder, generation_config.json and the files of its
                            tokenizer are copied */
    zero_dtype_t dtype; /* of the tensors in the files, rounded from the fp32 master weights */
    bool merged; /* of a model with adapters: write all weights, with the adapters added; else only the adapters, in a
                    folder for peft */
    uint64_t file_bytes; /* the most data in a file; 0: 5 GB */
} zero_model_export_t;

/* Checks that the folder can be written. It exists and is empty or holds an earlier export of the same kind (a whole
 * model, or adapters), or can be created; and it is not the source (NULL: none). */
zero_status_t zero_model_check_export(const char *folder, const char *source, bool adapters, zero_error_t *error);
/* Writes the model as of the last step. Each rank writes the ranges that it owns. Files get their names once all of
 * them are on the drive; an earlier export stays until then, and files of others stay as they are. Collective: every
 * rank gets the same status and sentence. Call it between steps; after a failure the engine is usable unless it says
 * otherwise itself. */
zero_status_t zero_model_export(zero_model_t *model, zero_comm_t *comm, const zero_model_export_t *to,
                                zero_error_t *error);

/* Sequences: (rows, T) each, in host memory. The caller may reuse them when the call returns. Padding behind a sequence
 * has any tokens and the target ZERO_NN_IGNORE: it has no influence. */
typedef struct zero_model_batch {
    const int32_t *tokens, *targets; /* a target ZERO_NN_IGNORE has no loss and no gradient */
    const int32_t *starts; /* of options.packed; NULL: each row is one document. Else for each token the index in its
                              row at which its document begins. Attention does not look before it, and positions count
                              from it */
    const int32_t *source, *source_lengths; /* with an encoder, else NULL: (rows, source_len), what it reads; (rows),
                                               the tokens of each, 1 to source_len. Tokens behind them are padding,
                                               which has no influence */
} zero_model_batch_t;

/* Runs one micro-step of micro_batch sequences, unless the model is created untrained. flags: ZERO_LAST. With ZERO_LAST
 * *loss_sum receives the sum of the token losses of the step, without it 0. Each micro-step sums its fp32 losses in
 * order in fp64; these sums are added in order. Gradients are those of the sum, times options.grad_factor and the
 * engine's loss scale (zero_loss_scale). The engine's grad_scale makes them a mean, or zero_step_weight if the targets
 * that count differ in number. If this call or one of the next two fails, the engine may be in the middle of a pass:
 * end it with zero_abort. Of the ranks that compute layers together (options.tensor), which have the same batch, the
 * first has the sum, and the others 0; so in the next two. */
zero_status_t zero_model_train(zero_model_t *model, const zero_model_batch_t *batch, uint32_t flags, double *loss_sum,
                               zero_error_t *error);
/* Of a model in chunks: runs all micro-steps of a step, batches[options.micro_steps]. *loss_sum is that of the step on
 * the ranks of the last stage, and 0 on others. */
zero_status_t zero_model_train_step(zero_model_t *model, const zero_model_batch_t *batches, double *loss_sum,
                                    zero_error_t *error);
/* The same without gradients, on the evaluation pass. Only the first rows <= micro_batch sequences count. All ranks
 * make the same number of calls. In chunks, the loss is 0 but on the ranks of the last stage. */
zero_status_t zero_model_eval(zero_model_t *model, const zero_model_batch_t *batch, int64_t rows, double *loss_sum,
                              zero_error_t *error);
/* With an encoder: runs it on a source of n tokens (1 to source_len) in the any-order pass, for the samples up to the
 * next call of zero_model_train or zero_model_eval. A sample then begins with past 0. Every rank makes the call with
 * the same tokens. */
zero_status_t zero_model_encode(zero_model_t *model, const int32_t *source, int64_t n, zero_error_t *error);
/* Appends n tokens to a sequence of `past` tokens, and computes the logits (vocab), fp32, of the last one. The model
 * keeps keys and values of the sequence, so a call computes only its own tokens. past 0 begins a sequence: one call
 * takes its prompt, and each token that is then chosen needs one more. past may be less than the number of tokens that
 * earlier calls appended, and then drops those behind it; it may not be more. zero_model_train drops all, since a step
 * changes the model. past + n is at most sample_len. Uses the any-order pass; every rank makes the call with the same
 * tokens. In chunks, the ranks of the last stage get the logits, and the others zeros. */
zero_status_t zero_model_logits(zero_model_t *model, const int32_t *tokens, int64_t n, int64_t past, float *logits,
                                zero_error_t *error);

/* Parameters in the order of declaration, with Hugging Face's names; those of GPT-2 without "transformer.". Adapters
 * come last, with ".lora_A.weight" and ".lora_B.weight" behind the name of their module. */
int zero_model_param_count(const zero_model_t *model);
const char *zero_model_param_name(const zero_model_t *model, int index);
zero_param_t zero_model_param(const zero_model_t *model, int index);
int64_t zero_model_param_elements(const zero_model_t *model, int index);
/* The engine's parameters that a parameter of the model is divided into (tile_bytes), from its first element to its
 * last; one if it is not divided. zero_model_param is the id of the whole. */
int zero_model_tile_count(const zero_model_t *model, int index);
zero_param_t zero_model_tile(const zero_model_t *model, int index, int tile);
/* ZERO_STATE_MASTER; ZERO_STATE_PARAM if the parameter is frozen. */
zero_state_t zero_model_param_state(const zero_model_t *model, int index);

#endif
