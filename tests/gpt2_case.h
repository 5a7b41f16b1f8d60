/* SPDX-License-Identifier: Apache-2.0 */
/* gpt2_case.h - one training run of the golden GPT-2 on some ranks, for tests. */
#ifndef ZERO_TESTS_GPT2_CASE_H
#define ZERO_TESTS_GPT2_CASE_H

#include "models/model.h"

enum { GPT2_STEPS_MOST = 32, GPT2_PARAMS_MOST = 1 << 17 };

/* A run of tests/golden/gpt2.json: options, and the numbers that PyTorch gave. */
typedef struct gpt2_golden {
    char name[32];
    zero_dtype_t dtype;
    int64_t seq_len, batch;
    int steps;
    double beta1, beta2, eps, weight_decay, clip;
    double losses[GPT2_STEPS_MOST], norms[GPT2_STEPS_MOST], rates[GPT2_STEPS_MOST];
    double eval_before, eval_after;
} gpt2_golden_t;

/* How to run it. */
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

/* What it gave. Values of each element come from the rank that owns it; owners counts them. */
typedef struct gpt2_result {
    double losses[GPT2_STEPS_MOST], norms[GPT2_STEPS_MOST];
    double eval_before, eval_after;
    bool same_on_ranks; /* every rank saw these numbers */
    int64_t params;
    float values[GPT2_PARAMS_MOST];
    uint8_t owners[GPT2_PARAMS_MOST];
} gpt2_result_t;

/* Path below the source folder's tests/golden; in a buffer that the next call overwrites. */
const char *gpt2_path(const char *name);
/* The run of that name. Ends the program when the file is not what it should be. */
void gpt2_read_golden(gpt2_golden_t *golden, const char *name);
/* The evaluation loss that PyTorch gives with the weights of a folder, over sequences of *seq_len tokens. */
double gpt2_read_eval(const char *folder, int64_t *seq_len);
/* The tokens of tests/golden/gpt2.bin; *count of them. The caller frees them. */
int32_t *gpt2_read_tokens(int64_t *count);

/* Runs the case in forked ranks. Returns 0, or -1 after the ranks have said on stderr what failed. */
int gpt2_run(const gpt2_case_t *c, gpt2_result_t *result);

/* What a rank of gpt2_run sets up; for tests that go their own way in a rank. */
typedef struct gpt2_rank {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_model_t *model;
    zero_model_config_t config;
    zero_error_t error;
} gpt2_rank_t;
/* Engine and model with the folder's weights. Returns 0, or -1 with the sentence printed; gpt2_rank_close follows in
 * both cases. */
int gpt2_rank_open(gpt2_rank_t *r, const gpt2_case_t *c, const zero_bootstrap_t *bootstrap);
void gpt2_rank_close(gpt2_rank_t *r);
/* Mean loss over all windows of the tokens; ranks share them. NAN after an error, which is printed. */
double gpt2_rank_eval(gpt2_rank_t *r, const gpt2_case_t *c, const int32_t *tokens, int64_t count);

#endif
