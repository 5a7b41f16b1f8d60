/* SPDX-License-Identifier: Apache-2.0 */
/* declare.h - declarations for tests of the plan: written by hand in a few calls, or random from a seed. */
#ifndef ZERO_TESTS_DECLARE_H
#define ZERO_TESTS_DECLARE_H

#include "zero/plan/plan.h"

#define DECLARE_UNITS 256
#define DECLARE_PARAMS 2048
#define DECLARE_USES 1024
#define DECLARE_PASSES 4
#define DECLARE_CHUNKS 32
#define DECLARE_COLLECTIVES 256

/* spec points into the struct, so do not move it after declare_init. */
typedef struct declare {
    zero_spec_t spec;
    zero_spec_unit_t units[DECLARE_UNITS];
    zero_spec_param_t params[DECLARE_PARAMS];
    zero_spec_pass_t passes[DECLARE_PASSES];
    zero_spec_use_t uses[DECLARE_PASSES][DECLARE_USES];
    zero_spec_collective_t collectives[DECLARE_PASSES][DECLARE_COLLECTIVES];
    zero_spec_task_t tasks[DECLARE_PASSES][2 * DECLARE_CHUNKS];
    zero_spec_chunk_t chunks[DECLARE_CHUNKS];
    zero_spec_reserve_t reserves[4];
    zero_codec_t gather_codec; /* the table's, where parameters are sharded */
    char unit_names[DECLARE_UNITS][24], param_names[DECLARE_PARAMS][40], pass_names[DECLARE_PASSES][16];
} declare_t;

/* An empty declaration: world ranks, window 2, one micro-step, fp32 on the wire; no table row is sharded. */
void declare_init(declare_t *d, int world);
/* One replica. */
void declare_world(declare_t *d, int world);
/* Without nodes. */
void declare_replicas(declare_t *d, int replicas);
void declare_stage(declare_t *d, int stage);
int32_t declare_unit(declare_t *d, const char *name);
/* A parameter of one dimension. */
int32_t declare_param(declare_t *d, int32_t unit, int64_t count, zero_dtype_t dtype, bool trainable, double decay);
int32_t declare_pass(declare_t *d, zero_pass_kind_t kind);
void declare_use(declare_t *d, int32_t pass, int32_t unit, uint32_t flags);

/* `layers` equal units of one parameter each, used forward and then backward in reverse order. Passes: training,
 * evaluation. */
void declare_chain(declare_t *d, int layers, int64_t count, zero_dtype_t dtype);

typedef struct declare_pipe {
    int stages, chunks; /* chunks: of a stage */
    int layers, micro_steps, replicas, shards;
    zero_schedule_t schedule;
    int tied; /* units that the first and the last chunk share */
} declare_pipe_t;

/* A pipeline: an embedding in the first chunk, layers that are spread over all chunks, and a head in the forward task
 * of the last chunk. The head is a unit of its own, or the embedding again, and perhaps more units that are tied. One
 * parameter a unit, of 1,000 elements and more. Passes: training, evaluation. Each chunk keeps 1,000 bytes on the
 * device and 100 on the host tier. */
void declare_pipe(declare_t *d, const declare_pipe_t *pipe);

/* A random declaration: units of odd sizes, smaller than the world, empty, frozen, tied, of mixed dtypes; held uses;
 * uses with only GRAD or only READ; unused units; random table, window, micro-steps, reduction, dtypes, codecs and
 * world (1 to max_world). small: few and short units. The window is large enough for the held units. */
void declare_random(declare_t *d, uint64_t seed, int max_world, bool small);
/* A random valid table, mesh, window and persist_bytes for the same model, micro-steps, reduction, dtypes and world. */
void declare_shuffle_table(declare_t *d, uint64_t seed);

/* A counter-based generator: the next number of *state, below n (> 0). */
uint64_t declare_draw(uint64_t *state, uint64_t n);

#endif
