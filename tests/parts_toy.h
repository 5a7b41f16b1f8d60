/* SPDX-License-Identifier: Apache-2.0 */
/* parts_toy.h - a model of parameters that ranks of tensor parallelism split, or share, in all ways. Gradients are of
 * few bits, so that sums of them are exact in any order. What a rank adds follows from whole parameters and from its
 * place alone. */
#ifndef ZERO_TESTS_PARTS_TOY_H
#define ZERO_TESTS_PARTS_TOY_H

#include "tests/expect.h"
#include "tests/ranks.h"
#include "zero/base/base.h"

enum { PARTS_PARAMS = 15, PARTS_UNITS = 3, PARTS_STATES = ZERO_STATE_MOMENT2 + 1 };
enum { PARTS_LONG = 2 * 1100800 }; /* elements of the largest: more than are read at a time, twice */

typedef struct parts_shape {
    const char *name;
    int32_t unit, ndim;
    int64_t shape[3];
    int32_t dim, blocks;
    bool partial, frozen, odd;
} parts_shape_t;
extern const parts_shape_t parts_shapes[PARTS_PARAMS];
int64_t parts_count(int p);
/* Whether it has a state between steps. */
bool parts_has(int p, int state);

/* The states of all parameters, in memory that ranks share. */
typedef struct parts_record {
    float *of[PARTS_PARAMS][PARTS_STATES];
} parts_record_t;
parts_record_t parts_record_make(void);
void parts_record_free(parts_record_t *record);

typedef struct parts_case {
    int world, tensor, replicas, stage;
    zero_dtype_t dtype;
    zero_rule_t rule;
    zero_tier_t tier;
    bool odd;           /* with that parameter */
    const char *folder; /* of checkpoints */
    parts_record_t *record, *later;
    bool first; /* fills the record, with which others compare */
} parts_case_t;
bool parts_lacks(const parts_case_t *c, int p);
/* The meshes of tests. The first one is of one rank: others are compared with it. */
enum { PARTS_MESHES = 7 };
parts_case_t parts_case(int mesh, int stage, zero_dtype_t dtype, zero_rule_t rule);

typedef struct parts_toy {
    const parts_case_t *c;
    zero_engine_t *engine;
    int rank, place, groups; /* groups: ranks with different data */
    zero_unit_t unit[PARTS_UNITS];
    zero_param_t param[PARTS_PARAMS];
    zero_pass_t train, eval;
    int version;      /* of the values that are filled */
    zero_state_t now; /* the state that is read */
    int64_t next, found;
    int reads;
} parts_toy_t;

/* Runs body on every rank of a new engine, and fails the test if one of them fails. */
void parts_run(const parts_case_t *c, int (*body)(parts_toy_t *t));

/* What follows is for a body: 0, or -1 after a complaint. */
int parts_complain(const parts_toy_t *t, const char *what, int line);
#define PARTS_TRY(call)                                \
    do {                                               \
        if ((call) != ZERO_OK)                         \
            return parts_complain(t, #call, __LINE__); \
    } while (0)
#define PARTS_IS(condition)                                 \
    do {                                                    \
        if (!(condition))                                   \
            return parts_complain(t, #condition, __LINE__); \
    } while (0)
#define PARTS_DO(call) \
    do {               \
        if (call)      \
            return -1; \
    } while (0)

/* Values of a version: different for neighbours, and the same in bf16. Gradients of a step. */
float parts_value(int p, int64_t i, int version);
float parts_gradient(int p, int64_t i, int step);
float parts_load(const void *from, zero_dtype_t dtype, int64_t i);

/* Declares all on an engine that is not committed. */
int parts_declare(parts_toy_t *t);
int parts_fill(parts_toy_t *t, int version);
/* A pass: checks what the rank has of each parameter, against values of a version (0: only the padding). In training,
 * adds its share of the gradients of a step. */
int parts_pass(parts_toy_t *t, int version, bool train, int step);
/* Gets and reads each state. The case that is the first one keeps them in the record, others compare with it. */
int parts_states(parts_toy_t *t, parts_record_t *record);
/* Sets parameters and moments to other values, which then are there. */
int parts_set_values(parts_toy_t *t);
/* Moments that are zero again, and the values of version 1. */
int parts_reset(parts_toy_t *t);
/* The gradients of a step are there in the whole; with sets, others take their place, with another norm. Then
 * updates. */
int parts_step(parts_toy_t *t, int number, bool sets);

#endif
