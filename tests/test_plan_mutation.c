/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan_mutation.c - the plan's checker against an independent interpreter.
 *
 * Plans of random declarations give the same result in every legal order of their streams, and for every placement.
 * The test then removes each WAIT, RECORD, RELEASE, COPY, CAST, ACCUMULATE, NORM, SUM and collective from such plans,
 * one at a time. If any order of the streams gives another result, or none, the checker must refuse the plan. The plans
 * that the checker refuses although no order shows a difference are counted and bounded.
 *
 * ZERO_CHECK_FULL=1 removes every such operation, from more plans; otherwise a sample.
 */
#include "tests/declare.h"
#include "tests/interpret.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#define SEQUENCES 3

static bool full(void)
{
    const char *text = getenv("ZERO_CHECK_FULL");
    return text != NULL && strcmp(text, "1") == 0;
}

static declare_t declaration;

static zero_plan_t *build(declare_t *d)
{
    zero_plan_t *plan;
    zero_error_t error = {.text = ""};
    ck_assert_msg(zero_plan_build(&plan, &d->spec, 0, &error) == ZERO_OK, "%s", error.text);
    ck_assert_msg(zero_plan_check(plan, &error) == ZERO_OK, "%s", error.text);
    return plan;
}

/* A small model on 2 to 4 ranks (one rank has streams, but no collectives), in a random mesh. */
static void random_declaration(uint64_t seed)
{
    declare_random(&declaration, seed, 4, true);
    if (declaration.spec.world == 1 && seed % 4 != 0)
        declare_world(&declaration, 2);
}

/* ---- correct plans ---------------------------------------------------------------------------------------------- */

START_TEST(one_result_in_every_order)
{
    int plans = full() ? 400 : 60;
    for (uint64_t seed = 0; seed < (uint64_t)plans; seed++) {
        random_declaration(seed);
        uint64_t expected[2] = {0}, result;
        for (int table = 0; table < 4; table++) {
            if (table > 0)
                declare_shuffle_table(&declaration, seed * 8 + (uint64_t)table);
            zero_plan_t *plan = build(&declaration);
            for (uint64_t q = 0; q < 2; q++) {
                interpret_sequence_t sequence;
                interpret_sequence(plan, q, &sequence);
                for (uint64_t schedule = 0; schedule < INTERPRET_FIXED + 4; schedule += table == 0 ? 1 : 5) {
                    interpret_outcome_t outcome = interpret_run(plan, &sequence, schedule, &result);
                    ck_assert_msg(outcome == INTERPRET_DONE, "seed %d, table %d, schedule %d: deadlock", (int)seed,
                                  table, (int)schedule);
                    if (table == 0 && schedule == 0)
                        expected[q] = result;
                    ck_assert_msg(result == expected[q], "seed %d, table %d, schedule %d: another result", (int)seed,
                                  table, (int)schedule);
                }
            }
            zero_plan_destroy(plan);
        }
    }
}
END_TEST

/* ---- plans that lack an operation ------------------------------------------------------------------------------- */

typedef struct counts {
    int tried, refused, matters, missed, strict;
} counts_t;

/* Whether any order gives a result other than the expected ones. */
static bool differs(const zero_plan_t *plan, const interpret_sequence_t *sequences, const uint64_t *expected,
                    uint64_t schedules)
{
    uint64_t result;
    for (uint64_t schedule = 0; schedule < schedules; schedule++)
        for (int q = 0; q < SEQUENCES; q++)
            if (interpret_run(plan, &sequences[q], schedule, &result) != INTERPRET_DONE || result != expected[q])
                return true;
    return false;
}

static void describe(const zero_plan_t *plan, const zero_program_t *p, int32_t at, uint64_t seed, const char *what)
{
    const zero_op_t *op = &p->ops[at];
    printf("seed %d, program %s, operation %d (%s, unit %d, event %d, stream %d): %s\n", (int)seed,
           zero_program_name(p->kind), at, zero_op_name((zero_op_kind_t)op->kind), op->unit, op->event, op->stream,
           what);
    (void)plan;
}

/* The plan without operation `at` of program `index`; *programs receives the memory of its programs. */
static zero_plan_t without(const zero_plan_t *plan, int32_t index, int32_t at, zero_program_t **programs)
{
    zero_plan_t mutant = *plan;
    *programs = malloc((size_t)plan->program_count * sizeof **programs);
    memcpy(*programs, plan->programs, (size_t)plan->program_count * sizeof **programs);
    zero_program_t *p = &(*programs)[index];
    p->ops = malloc((size_t)p->op_count * sizeof *p->ops);
    memcpy(p->ops, plan->programs[index].ops, (size_t)at * sizeof *p->ops);
    memcpy(p->ops + at, plan->programs[index].ops + at + 1, (size_t)(p->op_count - at - 1) * sizeof *p->ops);
    p->op_count--;
    mutant.programs = *programs;
    return mutant;
}

static void mutate(const zero_plan_t *plan, int32_t index, int32_t at, uint64_t seed,
                   const interpret_sequence_t *sequences, const uint64_t *expected, counts_t *counts)
{
    zero_program_t *programs;
    zero_plan_t mutant = without(plan, index, at, &programs);
    zero_error_t error = {.text = ""};
    zero_status_t verdict = zero_plan_check(&mutant, &error);
    bool refused = verdict == ZERO_ERR_PLAN;

    ck_assert_msg(refused || verdict == ZERO_OK, "%s", error.text);
    bool matters = differs(&mutant, sequences, expected, INTERPRET_FIXED + (full() ? 24 : 8));
    counts->tried++;
    counts->refused += refused;
    counts->matters += matters;
    counts->missed += matters && !refused;
    counts->strict += refused && !matters;
    if (matters && !refused)
        describe(plan, &plan->programs[index], at, seed, "its removal matters, and the checker accepts it");
    if (refused && !matters && getenv("ZERO_CHECK_VERBOSE") != NULL)
        describe(plan, &plan->programs[index], at, seed, error.text);
    free(programs[index].ops);
    free(programs);
}

START_TEST(what_matters_is_refused)
{
    static const zero_op_kind_t kinds[] = {
        ZERO_OP_WAIT,   ZERO_OP_RECORD,         ZERO_OP_GATHER,  ZERO_OP_RELEASE,    ZERO_OP_COPY,
        ZERO_OP_CAST,   ZERO_OP_REDUCE_SCATTER, ZERO_OP_COLLECT, ZERO_OP_ACCUMULATE, ZERO_OP_NORM,
        ZERO_OP_SPREAD, ZERO_OP_ALL_TO_ALL,     ZERO_OP_SUM};
    enum { KINDS = sizeof kinds / sizeof *kinds };
    counts_t counts[ZERO_OP_COUNT] = {0};
    uint64_t state = 1;
    const char *only = getenv("ZERO_CHECK_SEED");
    int plans = full() ? 600 : 60, share = full() ? 1 : 8;

    for (uint64_t seed = 0; seed < (uint64_t)plans; seed++) {
        if (only != NULL && seed != (uint64_t)atoi(only))
            continue;
        random_declaration(seed + 1000);
        zero_plan_t *plan = build(&declaration);
        interpret_sequence_t sequences[SEQUENCES];
        uint64_t expected[SEQUENCES];
        for (int q = 0; q < SEQUENCES; q++) {
            interpret_sequence(plan, (uint64_t)q, &sequences[q]);
            ck_assert_int_eq(interpret_run(plan, &sequences[q], 0, &expected[q]), INTERPRET_DONE);
        }
        for (int32_t p = 0; p < plan->program_count; p++)
            for (int32_t o = 0; o < plan->programs[p].op_count; o++)
                for (int k = 0; k < KINDS; k++)
                    if (plan->programs[p].ops[o].kind == kinds[k] && declare_draw(&state, (uint64_t)share) == 0)
                        mutate(plan, p, o, seed, sequences, expected, &counts[kinds[k]]);
        zero_plan_destroy(plan);
    }
    int missed = 0, strict = 0, tried = 0;
    for (int k = 0; k < KINDS; k++) {
        const counts_t *c = &counts[kinds[k]];
        printf("%-14s removed %5d times: refused %5d, matters %5d, missed %d, refused though no order showed it %d\n",
               zero_op_name(kinds[k]), c->tried, c->refused, c->matters, c->missed, c->strict);
        missed += c->missed;
        strict += c->strict;
        tried += c->tried;
    }
    ck_assert_int_eq(missed, 0);
    ck_assert_msg(only != NULL || counts[ZERO_OP_GATHER].matters > 0,
                  "no removal mattered: the interpreter sees nothing");
    ck_assert_msg(strict * 16 <= tried,
                  "the checker refuses %d of %d plans that no order of the streams showed to be wrong", strict, tried);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan-mutation");
    TCase *tcase = tcase_create("mutation");
    tcase_set_timeout(tcase, full() ? 7200 : 600);
    tcase_add_test(tcase, one_result_in_every_order);
    tcase_add_test(tcase, what_matters_is_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
