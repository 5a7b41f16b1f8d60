/* SPDX-License-Identifier: Apache-2.0 */
/* save_suites.h - the parts of test_save_calls, and what they share: a model in one unit, whose state is saved, loaded
 * and compared on every rank. */
#ifndef ZERO_TESTS_SAVE_SUITES_H
#define ZERO_TESTS_SAVE_SUITES_H

#include "tests/engine_small.h"

#include <check.h>

Suite *save_kept_suite(void);
Suite *save_failed_suite(void);

enum { W, E, B, F, NONE, SCALAR, SAVE_PARAMS, SAVE_STATES = ZERO_STATE_MOMENT2 + 1, SAVE_MOST = 900 };
typedef struct save_shape {
    const char *name;
    int32_t ndim;
    int64_t shape[2];
    bool trainable;
} save_shape_t;
extern const save_shape_t save_shapes[SAVE_PARAMS];

/* An engine. elementwise: of parameter e. apart: without config.saves_frozen. */
typedef struct save_run {
    int world, stage, threaded, update_states;
    zero_rule_t rule;
    double beta1;
    zero_dtype_t dtype;
    bool elementwise, evaluates, guard, scaled, apart; /* scaled: with a loss scale */
} save_run_t;

typedef struct save_values {
    bool has[SAVE_PARAMS][SAVE_STATES];
    float of[SAVE_PARAMS][SAVE_STATES][SAVE_MOST];
} save_values_t;

extern char save_folder[64];
extern save_values_t *save_before, *save_after; /* shared by all ranks */
/* Before and after each test: the folder's name, which nothing has, and the values. */
void save_setup(void);
void save_teardown(void);

/* Runs body on every rank of a new engine, and fails the test if one of them fails. */
void save_run(const save_run_t *r, int (*body)(small_t *s));

/* What follows is for a body: 0, or -1 after a complaint. */
int save_step(small_t *s, int64_t number);
/* Reads all states; compares them with wanted, or on rank 0 writes them there. */
int save_look(small_t *s, save_values_t *wanted, bool compare);
/* zero_save_open with the folder, zero_save_end of this step, zero_load of the newest checkpoint. */
int save_open(small_t *s);
int save_finish(small_t *s, int64_t number);
int save_load_it(small_t *s);
zero_status_t save_load(small_t *s);
/* Initial values, for zero_param_fill. */
int save_fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out);

#endif
