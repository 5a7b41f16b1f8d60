/* SPDX-License-Identifier: Apache-2.0 */
/* model_check.h - checks of the results of model_run: against PyTorch's, and bit against bit. */
#ifndef ZERO_TESTS_MODEL_CHECK_H
#define ZERO_TESTS_MODEL_CHECK_H

#include "tests/model_case.h"

/* Runs the case, whose losses, norms and evaluations must be the golden run's within its tolerance. Every
 * element must have one owner. */
void model_check_run(const model_case_t *c, model_result_t *result);
/* Every loss, norm, evaluation and parameter has the same bits as in base. */
void model_check_same(const model_case_t *c, const model_result_t *result, const model_result_t *base);

/* Runs the case, whose losses, norms, evaluations and parameters must be those of base within a tolerance.
 * base NULL: only runs it. */
void model_check_near(const model_case_t *c, model_result_t *result, const model_result_t *base, double tolerance);

#endif
