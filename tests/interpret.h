/* SPDX-License-Identifier: Apache-2.0 */
/* interpret.h - runs a plan on simulated ranks, in random legal orders, on real contents: what the plan's checker is
 * judged by. Shares no code with the checker or with what runs plans for real.
 *
 * Every rank has an arena of cells (one for 128 bytes) that hold integers, so that sums are exact in any order and
 * results equal at every placement. Each stream is a queue, filled in issue order; RECORD, WAIT and HOST_WAIT are
 * CUDA's; a collective happens when it is at the head of its stream's queue on every rank. Which queue advances next is
 * chosen by a schedule that tries to do harm.
 */
#ifndef ZERO_TESTS_INTERPRET_H
#define ZERO_TESTS_INTERPRET_H

#include "zero/plan/plan.h"

/* The programs of a plan in the order in which the ranks run them. */
typedef struct interpret_sequence {
    int32_t programs[512];
    int count;
} interpret_sequence_t;

/* A legal sequence of steps with one or more micro-steps. Evaluations and on-demand units come at start and end if seed
 * is 0, otherwise also at random places. */
void interpret_sequence(const zero_plan_t *plan, uint64_t seed, interpret_sequence_t *sequence);

typedef enum interpret_outcome { INTERPRET_DONE = 0, INTERPRET_DEADLOCK } interpret_outcome_t;

/* Runs a sequence by the schedule of this number (schedules below INTERPRET_FIXED are the orders of priority of the
 * four streams, others random). What the arenas hold at first depends on the schedule too, so that a read of it is
 * seen. *result is a digest of all that uses read, and of the parameters at the end. The same for every schedule if the
 * plan is right. */
#define INTERPRET_FIXED 24
interpret_outcome_t interpret_run(const zero_plan_t *plan, const interpret_sequence_t *sequence, uint64_t schedule,
                                  uint64_t *result);

#endif
