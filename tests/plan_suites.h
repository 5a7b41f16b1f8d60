/* SPDX-License-Identifier: Apache-2.0 */
/* plan_suites.h - what the files of test_plan share. */
#ifndef ZERO_TESTS_PLAN_SUITES_H
#define ZERO_TESTS_PLAN_SUITES_H

#include "tests/declare.h"

#include <check.h>

/* Builds the declaration's plan, which must pass the checker. */
zero_plan_t *plan_build(const declare_t *declared);
/* A chain of three layers of 1,000 fp32 elements on two ranks, all of it sharded. */
void plan_model(declare_t *declared);

TCase *plan_errors_case(void);
TCase *plan_offload_case(void);

#endif
