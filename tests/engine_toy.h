/* SPDX-License-Identifier: Apache-2.0 */
/* engine_toy.h - a toy trainer on the public API, with every difficult kind of unit. The same training is computed
 * serially for comparison. */
#ifndef ZERO_TESTS_ENGINE_TOY_H
#define ZERO_TESTS_ENGINE_TOY_H

#include "zero/base/base.h"

/* What is off the device: optimizer state and gradients, all or in part; parameters; both; state on nvme. */
typedef enum toy_offload {
    TOY_NONE = 0,
    TOY_OPTIMIZER,
    TOY_SHARE,
    TOY_PARAMETERS,
    TOY_ALL,
    TOY_NVME,
    TOY_NVME_SHARE,
    TOY_NVME_ALL,
    TOY_OFFLOADS
} toy_offload_t;

typedef struct toy_case {
    int world, stage, window;
    zero_reduce_t reduce;
    int micro_steps;
    zero_dtype_t dtype, reduce_dtype;
    int threaded; /* 0: inline; 1: threaded; 2: with random delays; TOY_CUDA: GPU 0 for all ranks,
                   staged; TOY_NCCL: one GPU per rank */
    int64_t persist_bytes;
    bool interleave; /* evaluation and any-order passes between micro-steps and steps */
    bool quiet;      /* statistics and state are read only at the end, so that steps overlap */
    int steps;
    toy_offload_t offload;
    bool guard;   /* config.guard */
    int bad_step; /* one rank writes an infinite gradient in this step; -1: never */
    int replicas; /* of world / replicas ranks; 0: one */
    int node;     /* as in zero_mesh_t */
    zero_codec_t gather_codec, reduce_codec;
} toy_case_t;

enum { TOY_MAX_RANKS = 8 };
enum { TOY_CUDA = 3, TOY_NCCL, TOY_DEVICES };

/* Trains the case on comm (with case->world ranks), and compares with the serial trajectory at every access. Returns 0,
 * or -1 after it printed the difference. */
int toy_run(const toy_case_t *toy_case, zero_comm_t *comm);

/* ---- pieces, for other tests ------------------------------------------------------------------------------------ */

enum { TOY_EMBED, TOY_SMALL, TOY_EMPTY, TOY_FROZEN, TOY_MIXED, TOY_BIG, TOY_UNUSED, TOY_LATE, TOY_UNITS };
enum { TOY_PARAMS = 12, TOY_USES = 13 };

typedef struct toy {
    toy_case_t c;
    int rank;
    zero_device_t *device;
    zero_comm_t *wire; /* for a GPU's memory; NULL: the caller's communicator is enough */
    zero_engine_t *engine;
    zero_unit_t unit[TOY_UNITS];
    zero_param_t param[TOY_PARAMS];
    zero_pass_t train, eval, any;
    zero_reserve_t reserve, mirrors; /* mirrors: the host's copies of all parameters and gradients on a GPU */
    bool looked[TOY_UNITS];          /* copies of the unit's parameters are running, and have not been compared */
    struct toy_reference *reference;
    void *data[TOY_PARAMS], *grad[TOY_PARAMS]; /* the addresses at commit */
    zero_traffic_t traffic;                    /* the planned traffic of the steps */
} toy_t;

/* Creates the device, the engine and the declarations, without commit. edit, if not NULL, may change the config
 * first. */
int toy_create(toy_t *toy, const toy_case_t *toy_case, zero_comm_t *comm, void (*edit)(zero_config_t *config));
/* Fills the parameters. */
int toy_fill(toy_t *toy);
/* Runs and checks a step of micro_steps micro-steps; runs the checks after the last step. */
int toy_step(toy_t *toy, int micro_steps);
int toy_finish(toy_t *toy);
void toy_destroy(toy_t *toy);

/* Prints "rank R: <function> failed: <sentence>" and returns -1. */
int toy_failed(const toy_t *toy, const char *what);

#endif
