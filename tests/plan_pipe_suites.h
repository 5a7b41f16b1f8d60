/* SPDX-License-Identifier: Apache-2.0 */
/* plan_pipe_suites.h - what the files of test_plan_pipe share. */
#ifndef ZERO_TESTS_PLAN_PIPE_SUITES_H
#define ZERO_TESTS_PLAN_PIPE_SUITES_H

#include "tests/declare.h"

#include <check.h>

#define PIPE_STAGES 8

/* The plans of all stages. */
typedef struct pipe_plans {
    zero_plan_t *at[PIPE_STAGES];
    int count;
} pipe_plans_t;

/* check: each must pass zero_plan_check. */
pipe_plans_t pipe_plans_build(const declare_t *declared, bool check);
void pipe_plans_destroy(pipe_plans_t *plans);
zero_status_t pipe_plans_check(const pipe_plans_t *plans, zero_error_t *error);

TCase *pipe_mutation_case(void);

#endif
