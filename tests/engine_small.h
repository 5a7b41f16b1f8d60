/* SPDX-License-Identifier: Apache-2.0 */
/* engine_small.h - a small trainer on the public API, for tests that compare two runs. Its gradients depend only on
 * rank, step, micro-step, element and parameter value, and are multiplied by the engine's loss scale. */
#ifndef ZERO_TESTS_ENGINE_SMALL_H
#define ZERO_TESTS_ENGINE_SMALL_H

#include "tests/expect.h"
#include "tests/ranks.h"
#include "zero/base/base.h"

enum { SMALL_UNITS = 4, SMALL_PARAMS = 8, SMALL_BIG = 7, SMALL_FROZEN = 3, SMALL_EMPTY = 2, SMALL_ELEMENTS = 70000 };
enum {
    SMALL_CUDA = 3,
    SMALL_NCCL,
    SMALL_NCCL_WINDOWS,
    SMALL_STAGING = 16384
}; /* for `threaded`: GPU 0 for all ranks, staged; one GPU per rank; the same with windows. SMALL_STAGING: bytes */

/* What is off the device: nothing; the optimizer's state and gradients, all or in part; those and parameters; the state
 * on nvme, all or in part. */
typedef enum small_place {
    SMALL_DEVICE,
    SMALL_HOST,
    SMALL_SHARE,
    SMALL_HOST_ALL,
    SMALL_NVME,
    SMALL_NVME_SHARE,
    SMALL_PLACES
} small_place_t;

typedef struct small_param {
    const char *name;
    int unit;
    int64_t count;
    bool trainable, fp32;
    double decay, rate;
} small_param_t;
extern const small_param_t small_params[SMALL_PARAMS];

typedef struct small_case {
    int world, stage, threaded, micro_steps; /* threaded: 0: inline, 1: threads, 2: with delays, SMALL_CUDA, ... */
    zero_dtype_t dtype;
    zero_rule_t rule;
    double momentum; /* beta1 of ZERO_RULE_SGD */
    small_place_t place;
    const char *folder; /* of the nvme tier; created if it does not exist; NULL: "." */
    const zero_allocator_t *allocator;
    void (*edit)(zero_config_t *config, void *ctx);
    void *ctx;
} small_case_t;

typedef struct small {
    small_case_t c;
    int rank;
    zero_device_t *device;
    zero_comm_t *wire; /* on a GPU */
    zero_engine_t *engine;
    zero_unit_t unit[SMALL_UNITS];
    zero_param_t param[SMALL_PARAMS];
    zero_pass_t train, eval;
    bool infinite; /* the next step's gradients are infinite */
} small_t;

/* Prints one line to stderr: the case and the fault. Returns -1. */
int small_complain(const small_t *s, const char *format, ...) ZERO_PRINTF(2, 3);

/* For functions that return an int and have a small_t *s: the call succeeds, the condition holds. */
#define SMALL_TRY(call)                                                                             \
    do {                                                                                            \
        if ((call) != ZERO_OK)                                                                      \
            return small_complain(s, "%s: %s", #call, s->engine ? zero_last_error(s->engine) : ""); \
    } while (0)
#define SMALL_IS(condition)                                                        \
    do {                                                                           \
        if (!(condition))                                                          \
            return small_complain(s, "line %d: not so: %s", __LINE__, #condition); \
    } while (0)
/* The call fails with this status, and its sentence contains part. */
#define SMALL_FAILS(call, wanted, part)                                                                           \
    do {                                                                                                          \
        zero_status_t found_ = (call);                                                                            \
        if (found_ != (wanted) || !has_names(zero_last_error(s->engine), (part)))                                 \
            return small_complain(s, "line %d: %s: %s, '%s': not %s with '%s'", __LINE__, #call,                  \
                                  zero_status_name(found_), zero_last_error(s->engine), zero_status_name(wanted), \
                                  (part));                                                                        \
    } while (0)

/* Creates the device, the engine and the declarations, without commit. -1 after printing. Call small_destroy in any
 * case. */
int small_create(small_t *s, const small_case_t *c, zero_comm_t *comm);
void small_destroy(small_t *s);
/* The initial value of an element; sets all initial values. */
float small_initial(int param, int64_t i);
int small_fill(small_t *s);
/* small_create, commit and small_fill. */
int small_start(small_t *s, const small_case_t *c, zero_comm_t *comm);
/* Runs the micro-steps of a step, and a whole step. step selects the gradients. */
int small_micros(small_t *s, int64_t step);
int small_step(small_t *s, int64_t step);
/* Waits for the last step. */
int small_stats(small_t *s, zero_stats_t *stats);

/* Copies bytes between the engine's memory and the host's, and waits. */
int small_copy(small_t *s, void *to, const void *from, size_t bytes);

/* All states of all parameters, in fp32, as zero_param_get returns them. */
typedef struct small_states {
    float *values[SMALL_PARAMS][ZERO_STATE_MOMENT2 + 1]; /* NULL: the parameter lacks this state */
} small_states_t;
/* Whether the parameter has this state, except gradients. */
bool small_has(const small_t *s, int param, zero_state_t state);
int small_read(small_t *s, small_states_t *states);
int small_compare(const small_t *s, const small_states_t *a, const small_states_t *b, const char *when);
void small_forget(small_states_t *states);

/* A communicator of ranks_run's ranks, with a timeout of 30 s. */
zero_comm_t *small_comm(const zero_bootstrap_t *bootstrap);

#endif
