/* SPDX-License-Identifier: Apache-2.0 */
/* model_case.h - one training run of a golden model on some ranks, for tests. */
#ifndef ZERO_TESTS_MODEL_CASE_H
#define ZERO_TESTS_MODEL_CASE_H

#include "models/model.h"

#define MODEL_FP32_TOLERANCE 2e-5
enum { MODEL_STEPS_MOST = 32, MODEL_PARAMS_MOST = 1 << 17, MODEL_EXAMPLES_MOST = 32, MODEL_LENGTH_MOST = 16 };

/* A source and its target, of a model with an encoder. */
typedef struct model_example {
    int32_t source[MODEL_LENGTH_MOST], target[MODEL_LENGTH_MOST];
    int64_t source_count, target_count;
} model_example_t;

/* A run of tests/golden/gpt2.json, families.json, lora.json or seq2seq.json: its options, and PyTorch's results. */
typedef struct model_golden {
    char name[32], model[32];       /* model: its folder below tests/golden */
    char adapters[32], targets[32]; /* adapters: their folder; "": none */
    int64_t rank;                   /* 0: no adapters */
    double alpha;
    zero_dtype_t dtype;
    double tolerance; /* of losses, norms and evaluations, relative */
    int64_t seq_len, batch;
    int64_t source_len;    /* 0: batches are windows of gpt2.bin */
    int64_t example_count; /* else they are these */
    model_example_t examples[MODEL_EXAMPLES_MOST];
    int steps;
    double beta1, beta2, eps, weight_decay, clip;
    double losses[MODEL_STEPS_MOST], norms[MODEL_STEPS_MOST], rates[MODEL_STEPS_MOST];
    double eval_before, eval_after;
} model_golden_t;

/* The settings of a run. */
typedef struct model_case {
    const model_golden_t *golden;
    const char *folder;                /* below tests/golden */
    const zero_model_config_t *config; /* instead of the folder: a model with initial values from a seed */
    int world, stage, window, threads;
    int tensor, context, pipe; /* config.mesh; 0: 1. With stages of a pipeline, the model is in as many chunks */
    bool whole_rows;           /* no sequence parallelism */
    int64_t micro_batch, head_rows, head_columns, tile_bytes, persist_bytes;
    zero_reduce_t reduce;
    zero_recompute_t recompute;
    bool offload_activations;
    const char *backend;
    bool packed;     /* batches may have starts */
    int32_t padding; /* the token of padding, of sources and targets */
    bool offload;    /* all state in host memory */
    bool threaded;   /* device with worker threads and random delays */
    bool untrained;  /* the model has no training pass */
    int steps;
} model_case_t;

/* The results. The rank that owns an element provides its value; owners counts such ranks. */
typedef struct model_result {
    double losses[MODEL_STEPS_MOST], norms[MODEL_STEPS_MOST];
    double eval_before, eval_after;
    bool same_on_ranks;     /* every rank saw the same numbers */
    int64_t params, frozen; /* the first of them are frozen */
    float values[MODEL_PARAMS_MOST];
    uint8_t owners[MODEL_PARAMS_MOST];
} model_result_t;

/* The path in the source folder's tests/golden. The next call overwrites it. */
const char *model_path(const char *name);
/* Reads the run of that name from one of the files. Ends the program if the file is invalid. */
void model_read_golden(model_golden_t *golden, const char *name);
/* Reads it too, and returns a case of its steps: stage 0, a window of 2, a thread, every micro-step reduced. */
model_case_t model_golden_case(model_golden_t *golden, const char *name, int world, int64_t micro_batch,
                               const char *backend);
/* PyTorch's evaluation loss with the weights of a folder, over sequences of *seq_len tokens. */
double model_read_eval(const char *folder, int64_t *seq_len);
/* The tokens of tests/golden/gpt2.bin; *count of them. The caller frees them. */
int32_t *model_read_tokens(int64_t *count);

/* Runs the case in forked ranks. Returns 0, or -1 after the ranks printed the failure to stderr. */
int model_run(const model_case_t *c, model_result_t *result);

/* The objects that a rank of model_run creates, for tests that run their own code in a rank. */
typedef struct model_rank {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_model_t *model;
    zero_model_config_t config;
    zero_error_t error;
} model_rank_t;
/* Creates the engine, and the model with the folder's weights and adapters. Returns 0, or -1 with the sentence printed.
 * Call model_rank_close in both cases. */
int model_rank_open(model_rank_t *r, const model_case_t *c, const zero_bootstrap_t *bootstrap);
void model_rank_close(model_rank_t *r);
/* The rows of a batch that a test makes, and their targets that count. */
typedef struct model_rows {
    zero_model_batch_t batch;
    int32_t *memory;
    int64_t counted;
} model_rows_t;
/* Windows, or examples, from first on; their numbers wrap around. The caller frees rows->memory. */
void model_fill_rows(model_rows_t *rows, const model_case_t *c, const int32_t *tokens, int64_t count, int64_t first,
                     int64_t n);
/* Mean loss over all windows of the tokens, or over all examples; ranks share them. NAN after an error, which is
 * printed. */
double model_rank_eval(model_rank_t *r, const model_case_t *c, const int32_t *tokens, int64_t count);

#endif
