/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2_case.h - one training run of the golden GPT-2 on some ranks, for tests. */
#ifndef ZERO_TESTS_GPT2_CASE_H
#define ZERO_TESTS_GPT2_CASE_H

#include "models/model.h"

enum { GPT2_STEPS_MOST = 32, GPT2_PARAMS_MOST = 1 << 17 };

/* A run of tests/golden/gpt2.json: its options, and PyTorch's results. */
typedef struct gpt2_golden {
    char name[32];
    zero_dtype_t dtype;
    int64_t seq_len, batch;
    int steps;
    double beta1, beta2, eps, weight_decay, clip;
    double losses[GPT2_STEPS_MOST], norms[GPT2_STEPS_MOST], rates[GPT2_STEPS_MOST];
    double eval_before, eval_after;
} gpt2_golden_t;

/* The settings of a run. */
typedef struct gpt2_case {
    const gpt2_golden_t *golden;
    const char *folder; /* below tests/golden */
    int world, stage, window, threads;
    int64_t micro_batch, head_rows, head_columns, persist_bytes;
    zero_reduce_t reduce;
    zero_recompute_t recompute;
    const char *backend;
    bool threaded; /* device with worker threads and random delays */
    int steps;
} gpt2_case_t;

/* The results. The rank that owns an element provides its value; owners counts such ranks. */
typedef struct gpt2_result {
    double losses[GPT2_STEPS_MOST], norms[GPT2_STEPS_MOST];
    double eval_before, eval_after;
    bool same_on_ranks; /* every rank saw the same numbers */
    int64_t params;
    float values[GPT2_PARAMS_MOST];
    uint8_t owners[GPT2_PARAMS_MOST];
} gpt2_result_t;

/* The path in the source folder's tests/golden. The next call overwrites it. */
const char *gpt2_path(const char *name);
/* Reads the run of that name. Ends the program if the file is invalid. */
void gpt2_read_golden(gpt2_golden_t *golden, const char *name);
/* PyTorch's evaluation loss with the weights of a folder, over sequences of *seq_len tokens. */
double gpt2_read_eval(const char *folder, int64_t *seq_len);
/* The tokens of tests/golden/gpt2.bin; *count of them. The caller frees them. */
int32_t *gpt2_read_tokens(int64_t *count);

/* Runs the case in forked ranks. Returns 0, or -1 after the ranks printed the failure to stderr. */
int gpt2_run(const gpt2_case_t *c, gpt2_result_t *result);

/* The objects that a rank of gpt2_run creates, for tests that run their own code in a rank. */
typedef struct gpt2_rank {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_model_t *model;
    zero_model_config_t config;
    zero_error_t error;
} gpt2_rank_t;
/* Creates the engine, and the model with the folder's weights. Returns 0, or -1 with the sentence printed. Call
 * gpt2_rank_close in both cases. */
int gpt2_rank_open(gpt2_rank_t *r, const gpt2_case_t *c, const zero_bootstrap_t *bootstrap);
void gpt2_rank_close(gpt2_rank_t *r);
/* Mean loss over all windows of the tokens; ranks share them. NAN after an error, which is printed. */
double gpt2_rank_eval(gpt2_rank_t *r, const gpt2_case_t *c, const int32_t *tokens, int64_t count);

#endif
