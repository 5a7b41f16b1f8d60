/* SPDX-License-Identifier: Apache-2.0 */
/* pipe_toy.h - a small model of four layers that is trained in chunks, by tasks, or whole, by micro-steps. The values
 * between layers are rounded alike wherever a chunk ends, so all of these have the same bits. */
#ifndef ZERO_TESTS_PIPE_TOY_H
#define ZERO_TESTS_PIPE_TOY_H

#include "tests/expect.h"
#include "tests/ranks.h"
#include "zero/base/base.h"

enum { PIPE_LAYERS = 4, PIPE_WIDTH = 300, PIPE_TABLE = 200, PIPE_SCALES = 5, PIPE_STEPS = 3 };
#define PIPE_CLIP 0.012
/* Units: the embedding, the layers, frozen factors that layer 1 uses, and the head (none with a tied embedding). */
enum { PIPE_EMBED, PIPE_LAYER, PIPE_FROZEN = PIPE_LAYER + PIPE_LAYERS, PIPE_HEAD, PIPE_UNITS };
/* Parameters: the embedding; of each layer a matrix and a bias; the factors; the head. */
enum { PIPE_PARAM_LAYER = 1, PIPE_PARAM_FROZEN = 1 + 2 * PIPE_LAYERS, PIPE_PARAM_HEAD, PIPE_PARAMS };
enum { PIPE_ELEMENTS = 2 * PIPE_TABLE + 2 * PIPE_LAYERS * PIPE_WIDTH + PIPE_SCALES, PIPE_RANKS = 8 };

typedef enum pipe_place { PIPE_DEVICE, PIPE_OPTIMIZER, PIPE_PARAMETERS, PIPE_NVME } pipe_place_t;

typedef struct pipe_case {
    int pipe, chunks; /* chunks 0: by micro-steps */
    int ranks;        /* of a stage */
    int replicas, stage, micros;
    zero_schedule_t schedule;
    zero_reduce_t reduce;
    zero_dtype_t dtype;
    int threaded; /* 0: inline; 1: threaded; 2: with random delays */
    bool tied, skips, weighted;
    pipe_place_t place;
    zero_rule_t rule;
    const char *save, *load; /* folders; NULL: none */
} pipe_case_t;

/* What a run leaves: after each step and before the first, all parameters; the optimizer's state at the end; the sums
 * over ranks of the losses in training and in an evaluation. Of more than one rank, all get the same. */
typedef struct pipe_record {
    float values[PIPE_STEPS + 1][PIPE_ELEMENTS], moments[2][PIPE_ELEMENTS];
    double loss[PIPE_STEPS], eval[PIPE_STEPS], norm[PIPE_STEPS];
} pipe_record_t;

typedef struct pipe_toy {
    pipe_case_t c;
    int rank;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_unit_t unit[PIPE_UNITS];
    zero_param_t param[PIPE_PARAMS];
    zero_pass_t train, eval, any;
    int64_t step;
    double loss; /* of this rank in the pass that runs */
    void *kept;  /* by micro-steps */
} pipe_toy_t;

typedef struct pipe_param {
    int unit;
    int64_t rows, cols;
    bool trainable, elementwise;
} pipe_param_t;
pipe_param_t pipe_param(int param);
/* The first of the parameter's elements among all of PIPE_ELEMENTS. */
int64_t pipe_first(int param);
float pipe_initial(int param, int64_t i);
/* The learning rate, the divisor of the batch, and the numbers of a place in the data: rank of the stage, micro-step,
 * step; evaluations use micro-step 100. */
double pipe_rate(int64_t step);
double pipe_scale(const pipe_case_t *c);
int pipe_token(int i, int rank, int micro, int64_t step);
float pipe_target(int i, int rank, int micro, int64_t step);
bool pipe_skips(const pipe_case_t *c, int layer, int micro, int64_t step);

/* Creates the device, the engine and the declarations, without commit. -1 after printing; edit may be NULL. */
int pipe_create(pipe_toy_t *t, const pipe_case_t *c, zero_comm_t *comm, void (*edit)(zero_config_t *config, void *ctx),
                void *ctx);
int pipe_fill(pipe_toy_t *t);
/* The work of a task, and of a whole step or evaluation. */
int pipe_task(pipe_toy_t *t, const zero_task_t *task, bool train);
int pipe_pass(pipe_toy_t *t, bool train);
/* All values of a state; parameters without it count as 0. */
int pipe_get(pipe_toy_t *t, zero_state_t state, float *values);
void pipe_destroy(pipe_toy_t *t);
/* Runs a case on comm, and fills *record. Each rank compares what it measures with the forecast for it, and rank 0
 * those for all ranks. */
int pipe_run(const pipe_case_t *c, zero_comm_t *comm, pipe_record_t *record);

/* The same training without ranks and stages, in double precision. Reduction and dtype do not matter. */
void pipe_serial(const pipe_case_t *c, pipe_record_t *record);

int pipe_complain(const pipe_toy_t *t, const char *format, ...) ZERO_PRINTF(2, 3);
/* For functions that return an int and have a pipe_toy_t *t: the call succeeds, the condition holds, the call fails
 * with this status and a sentence with these names. */
#define PIPE_TRY(call)                                                                             \
    do {                                                                                           \
        if ((call) != ZERO_OK)                                                                     \
            return pipe_complain(t, "%s: %s", #call, t->engine ? zero_last_error(t->engine) : ""); \
    } while (0)
#define PIPE_IS(condition)                                                        \
    do {                                                                          \
        if (!(condition))                                                         \
            return pipe_complain(t, "line %d: not so: %s", __LINE__, #condition); \
    } while (0)
#define PIPE_FAILS(call, wanted, part)                                                                           \
    do {                                                                                                         \
        zero_status_t found_ = (call);                                                                           \
        if (found_ != (wanted) || !has_names(zero_last_error(t->engine), (part)))                                \
            return pipe_complain(t, "line %d: %s: %s, '%s': not %s with '%s'", __LINE__, #call,                  \
                                 zero_status_name(found_), zero_last_error(t->engine), zero_status_name(wanted), \
                                 (part));                                                                        \
    } while (0)

#endif
