/* SPDX-License-Identifier: Apache-2.0 */
/* interpret.h - runs a plan on simulated ranks, in random legal orders, on real contents. Tests compare the plan's
 * checker with it. It shares no code with the checker or the executor.
 *
 * Every rank has an arena of cells (one per 64 bytes) that hold integers, so that sums are exact in any order, and
 * results are the same for every placement. Each stream is a queue, filled in issue order. RECORD, WAIT and HOST_WAIT
 * work as in CUDA. A collective happens when it is at the head of its stream's queue on every rank. A schedule chooses
 * the queue that advances next, and tries to provoke errors.
 */
#ifndef ZERO_TESTS_INTERPRET_H
#define ZERO_TESTS_INTERPRET_H

#include "zero/plan/plan.h"

/* The programs of a plan in the order in which the ranks run them. */
typedef struct interpret_sequence {
    int32_t programs[512];
    int count;
} interpret_sequence_t;

/* A legal sequence of steps with one or more micro-steps, with a save before each if the plan has saves. Evaluations
 * and on-demand units come at start and end if seed is 0, otherwise also at random places. */
void interpret_sequence(const zero_plan_t *plan, uint64_t seed, interpret_sequence_t *sequence);

typedef enum interpret_outcome { INTERPRET_DONE = 0, INTERPRET_DEADLOCK } interpret_outcome_t;

/* Runs a sequence with the schedule of this number: below INTERPRET_FIXED the streams have a fixed order of priority,
 * otherwise a random one. The initial contents of the arenas also depend on the schedule, so that reads of them show.
 * *result is a digest of everything that uses and saves read, and of the parameters at the end. If the plan is
 * correct, it is the same for every schedule. */
#define INTERPRET_FIXED 24
interpret_outcome_t interpret_run(const zero_plan_t *plan, const interpret_sequence_t *sequence, uint64_t schedule,
                                  uint64_t *result);

#endif
