/* SPDX-License-Identifier: Apache-2.0 */
/* split.h - parameters that are split over the ranks of tensor parallelism: which elements of the whole parameter a
 * rank's part has.
 *
 * A dimension of n elements in B blocks is cut into T parts, of which each has n / B / T elements of every block. A
 * part, row by row, is a sequence of runs of equal length: run k of the part at a place is run k * T + place of the
 * whole parameter. Only a single run may be longer than what is left of the whole; the elements behind are padding. */
#ifndef ZERO_PLAN_SPLIT_H
#define ZERO_PLAN_SPLIT_H

#include "zero/plan/plan.h"

/* The place of a rank in tensor parallelism. */
int zero_split_place(const zero_spec_t *spec, int rank);
/* Whether ranks have different parts of the parameter. */
static inline bool zero_split_is(const zero_spec_param_t *param)
{
    return param->run < param->total;
}

/* Elements of a part that lie one behind another in the whole parameter, too. */
typedef struct zero_split_run {
    int64_t begin; /* the first one, counted in the whole parameter */
    int64_t count; /* those that exist there; 0: all of them are padding */
    int64_t next;  /* the element of the part behind them and behind the padding that follows them */
} zero_split_run_t;
/* The run that begins with element `at` of the part of a rank, up to element end at most. */
zero_split_run_t zero_split_run(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t at,
                                int64_t end);

/* The same with all whole runs that follow a whole one: *times runs of count elements, which begin tensor * count
 * elements apart in the whole parameter. *times is 1 for a run that is alone or cut. next is behind the last. */
zero_split_run_t zero_split_runs(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t at,
                                 int64_t end, int64_t *times);

/* The number of elements of a rank's part that lie before an element of the whole parameter (at most total). */
int64_t zero_split_below(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t element);

/* Whether a rank's slice of a segment counts for the model. Where all places have the same elements, only those of
 * place 0 do. */
static inline bool zero_split_owns(const zero_plan_t *plan, int32_t segment, int rank)
{
    return plan->segments[segment].spread != ZERO_SPREAD_SAME || zero_split_place(plan->spec, rank) == 0;
}

/* Sets shape, count and run from whole, total, split_dim and split_blocks, for the parts of spec->mesh.tensor ranks.
 * ZERO_ERR_ARG: the dimension cannot be cut into such parts. */
zero_status_t zero_split_set(const zero_spec_t *spec, zero_spec_param_t *param, zero_error_t *error);

#endif
