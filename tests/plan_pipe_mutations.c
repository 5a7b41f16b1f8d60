/* SPDX-License-Identifier: Apache-2.0 */
/* plan_pipe_mutations.c - plans of pipelines with one thing wrong, which the checkers must refuse.
 *
 * A plan without a WAIT may be accepted only if that WAIT never told its stream anything new, in sequences of programs
 * that include all orders of two. */
#include "tests/expect.h"
#include "tests/plan_pipe_suites.h"

#include <stdio.h>
#include <stdlib.h>

static declare_t declaration, other_declaration, *const d = &declaration;

/* ---- plans that can be changed ---------------------------------------------------------------------------------- */

static void *copy_of(const void *from, size_t n, size_t size)
{
    void *to = malloc(n * size + 1);
    ck_assert_ptr_nonnull(to);
    return memcpy(to, from, n * size);
}

/* A copy with operations and tasks of its own; free_mutant() frees it. */
static zero_plan_t mutant_of(const zero_plan_t *plan)
{
    zero_plan_t mutant = *plan;
    mutant.programs = copy_of(plan->programs, (size_t)plan->program_count, sizeof *plan->programs);
    mutant.passes = copy_of(plan->passes, (size_t)plan->spec->pass_count, sizeof *plan->passes);
    for (int32_t p = 0; p < plan->program_count; p++)
        mutant.programs[p].ops =
            copy_of(plan->programs[p].ops, (size_t)plan->programs[p].op_count, sizeof *plan->programs[p].ops);
    for (int32_t p = 0; p < plan->spec->pass_count; p++)
        mutant.passes[p].tasks =
            copy_of(plan->passes[p].tasks, (size_t)plan->passes[p].task_count, sizeof *plan->passes[p].tasks);
    return mutant;
}

static void free_mutant(zero_plan_t *mutant)
{
    for (int32_t p = 0; p < mutant->program_count; p++)
        free(mutant->programs[p].ops);
    for (int32_t p = 0; p < mutant->spec->pass_count; p++)
        free(mutant->passes[p].tasks);
    free(mutant->programs);
    free(mutant->passes);
}

static void drop(zero_program_t *program, int32_t at)
{
    memmove(program->ops + at, program->ops + at + 1, (size_t)(program->op_count - at - 1) * sizeof *program->ops);
    program->op_count--;
}

/* ---- what refuses ----------------------------------------------------------------------------------------------- */

enum { STAGE_REFUSES = 1, PIPE_REFUSES = 2 };

/* Which checkers refuse the plans if one of them is this one, which is freed. */
static int verdict(const pipe_plans_t *plans, zero_plan_t mutant)
{
    zero_error_t error = {.text = ""};
    pipe_plans_t all = *plans;
    all.at[mutant.pipe] = &mutant;
    zero_status_t alone = zero_plan_check(&mutant, &error), together = pipe_plans_check(&all, &error);
    ck_assert(alone == ZERO_OK || alone == ZERO_ERR_PLAN);
    ck_assert(together == ZERO_OK || together == ZERO_ERR_PLAN);
    free_mutant(&mutant);
    return (alone != ZERO_OK ? STAGE_REFUSES : 0) | (together != ZERO_OK ? PIPE_REFUSES : 0);
}

typedef struct counts {
    int tried, stage, pipe, redundant;
} counts_t;

static void count(counts_t *counts, int verdict, const char *what, int stage, int32_t program, int32_t at)
{
    counts->tried++;
    counts->stage += (verdict & STAGE_REFUSES) != 0;
    counts->pipe += (verdict & PIPE_REFUSES) != 0;
    ck_assert_msg(verdict != 0, "%s, program %d, operation or task %d of stage %d: the checkers accept it", what,
                  program, at, stage);
}

/* ---- waits ------------------------------------------------------------------------------------------------------ */

#define STREAMS ZERO_STREAM_COUNT

typedef struct known {
    int32_t at[STREAMS];
} known_t;

static bool learn(known_t *into, const known_t *from)
{
    bool learnt = false;
    for (int s = 0; s < STREAMS; s++)
        if (from->at[s] > into->at[s]) {
            into->at[s] = from->at[s];
            learnt = true;
        }
    return learnt;
}

/* Sets matters[program][operation] for each WAIT that has told its stream of operations that it did not know of. */
static void find_waits(const zero_plan_t *plan, bool **matters)
{
    static const zero_program_kind_t order[] = {
        ZERO_PROGRAM_EVAL, ZERO_PROGRAM_EVAL, ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP, ZERO_PROGRAM_ONLY,
        ZERO_PROGRAM_EVAL, ZERO_PROGRAM_STEP, ZERO_PROGRAM_EVAL, ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP};
    known_t now[STREAMS] = {{{0}}}, *events = calloc((size_t)plan->event_count + 1, sizeof *events);
    ck_assert_ptr_nonnull(events);
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        for (int32_t p = 0; p < plan->program_count; p++)
            for (int32_t o = 0; o < plan->programs[p].op_count && plan->programs[p].kind == order[i]; o++) {
                const zero_op_t *op = &plan->programs[p].ops[o];
                if (op->kind == ZERO_OP_WAIT)
                    matters[p][o] |= learn(&now[op->stream], &events[op->event]);
                else if (op->kind == ZERO_OP_RECORD)
                    events[op->event] = now[op->stream];
                else if (op->kind == ZERO_OP_HOST_WAIT) /* what is issued later comes after it */
                    for (int s = 0; s < STREAMS; s++)
                        learn(&now[s], &events[op->event]);
                else
                    now[op->stream].at[op->stream]++;
            }
    free(events);
}

static void drop_waits(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    bool *matters[16];
    ck_assert_int_le(plan->program_count, 16);
    for (int32_t p = 0; p < plan->program_count; p++)
        matters[p] = calloc((size_t)plan->programs[p].op_count + 1, sizeof *matters[p]);
    find_waits(plan, matters);
    for (int32_t p = 0; p < plan->program_count; p++) {
        for (int32_t o = 0; o < plan->programs[p].op_count; o++) {
            if (plan->programs[p].ops[o].kind != ZERO_OP_WAIT)
                continue;
            zero_plan_t mutant = mutant_of(plan);
            drop(&mutant.programs[p], o);
            int v = verdict(plans, mutant);
            if (v == 0 && !matters[p][o])
                counts->redundant++;
            else
                count(counts, v, "without a WAIT", stage, p, o);
        }
        free(matters[p]);
    }
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static bool is_dropped(const zero_op_t *op)
{
    return zero_op_is_of_task(op) || (zero_op_collects(op) && (d->spec.groups[op->group].axes & ZERO_ALONG_TIE));
}

static void drop_operations(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    for (int32_t p = 0; p < plan->program_count; p++)
        for (int32_t o = 0; o < plan->programs[p].op_count; o++) {
            if (!is_dropped(&plan->programs[p].ops[o]))
                continue;
            zero_plan_t mutant = mutant_of(plan);
            drop(&mutant.programs[p], o);
            count(counts, verdict(plans, mutant), zero_op_name((zero_op_kind_t)plan->programs[p].ops[o].kind), stage, p,
                  o);
        }
}

/* Swaps each SEND, RECV and tied collective with each later one of its kind and stream. */
static void swap_operations(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    for (int32_t p = 0; p < plan->program_count; p++)
        for (int32_t i = 0; i < plan->programs[p].op_count; i++)
            for (int32_t j = i + 1; j < plan->programs[p].op_count; j++) {
                const zero_op_t *a = &plan->programs[p].ops[i], *b = &plan->programs[p].ops[j];
                if (!is_dropped(a) || a->kind != b->kind || a->stream != b->stream || a->stream == ZERO_STREAM_COMPUTE)
                    continue;
                zero_plan_t mutant = mutant_of(plan);
                mutant.programs[p].ops[i] = *b;
                mutant.programs[p].ops[j] = *a;
                count(counts, verdict(plans, mutant), "with two swapped", stage, p, i);
            }
}

/* Receives into the buffer of another task. */
static void receive_elsewhere(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    for (int32_t p = 0; p < plan->program_count; p++)
        for (int32_t i = 0; i < plan->programs[p].op_count; i++)
            for (int32_t j = 0; j < plan->programs[p].op_count; j++) {
                const zero_op_t *a = &plan->programs[p].ops[i], *b = &plan->programs[p].ops[j];
                if (a->kind != ZERO_OP_RECV || b->kind != ZERO_OP_RECV || i == j)
                    continue;
                zero_plan_t mutant = mutant_of(plan);
                mutant.programs[p].ops[i].use = b->use;
                mutant.programs[p].ops[i].dst = b->dst;
                count(counts, verdict(plans, mutant), "that receives for another task", stage, p, i);
            }
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

static void change_tasks(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    const zero_plan_pass_t *pass = &plan->passes[0];
    for (int32_t i = 0; i < pass->task_count; i++) {
        for (int32_t step = 1; step < d->spec.micro_steps; step++) {
            zero_plan_t shifted = mutant_of(plan);
            shifted.passes[0].tasks[i].micro = (pass->tasks[i].micro + step) % d->spec.micro_steps;
            count(counts, verdict(plans, shifted), "of another micro-step", stage, 0, i);
        }
        for (int32_t j = i + 1; j < pass->task_count; j++) {
            zero_plan_t swapped = mutant_of(plan);
            swapped.passes[0].tasks[i] = pass->tasks[j];
            swapped.passes[0].tasks[j] = pass->tasks[i];
            count(counts, verdict(plans, swapped), "with two swapped", stage, 0, i);
            swapped = mutant_of(plan);
            swapped.passes[0].tasks[i].micro = pass->tasks[j].micro;
            swapped.passes[0].tasks[j].micro = pass->tasks[i].micro;
            if (pass->tasks[i].micro != pass->tasks[j].micro)
                count(counts, verdict(plans, swapped), "with two micro-steps swapped", stage, 0, i);
            else
                free_mutant(&swapped);
        }
    }
}

/* A stage that takes two micro-steps in the order of each other, everywhere, is right by itself: only the run of all
 * stages shows it. */
static void rename_micro_steps(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    for (int32_t a = 0; a < d->spec.micro_steps; a++)
        for (int32_t b = a + 1; b < d->spec.micro_steps; b++) {
            zero_plan_t mutant = mutant_of(plans->at[stage]);
            for (int32_t t = 0; t < mutant.passes[0].task_count; t++) {
                int32_t *micro = &mutant.passes[0].tasks[t].micro;
                *micro = *micro == a ? b : *micro == b ? a : *micro;
            }
            int v = verdict(plans, mutant);
            ck_assert_int_eq(v, PIPE_REFUSES);
            count(counts, v, "", stage, 0, a);
        }
}

/* ---- buffers ---------------------------------------------------------------------------------------------------- */

static int32_t *buffer_of(zero_plan_task_t *t, int k)
{
    int32_t *const list[ZERO_TASK_BUFFERS] = {&t->input,      &t->output,  &t->output_grad,
                                              &t->input_grad, &t->kept[0], &t->kept[1]};
    return list[k];
}

/* Lets a chunk use one buffer where it has two of a kind. */
static void merge_buffers(const pipe_plans_t *plans, int stage, counts_t *counts)
{
    const zero_plan_t *plan = plans->at[stage];
    const zero_plan_pass_t *pass = &plan->passes[0];
    for (int k = 0; k < ZERO_TASK_BUFFERS; k++)
        for (int32_t i = 0; i < pass->task_count; i++)
            for (int32_t j = i + 1; j < pass->task_count; j++) {
                int32_t from = *buffer_of(&pass->tasks[i], k), to = *buffer_of(&pass->tasks[j], k);
                if (from < 0 || to < 0 || from >= to || pass->tasks[i].chunk != pass->tasks[j].chunk)
                    continue;
                zero_plan_t mutant = mutant_of(plan);
                for (int32_t p = 0; p < d->spec.pass_count; p++)
                    for (int32_t t = 0; t < mutant.passes[p].task_count; t++)
                        if (*buffer_of(&mutant.passes[p].tasks[t], k) == from)
                            *buffer_of(&mutant.passes[p].tasks[t], k) = to;
                for (int32_t p = 0; p < mutant.program_count; p++)
                    for (int32_t o = 0; o < mutant.programs[p].op_count; o++) {
                        zero_op_t *op = &mutant.programs[p].ops[o];
                        op->src = op->src == from ? to : op->src;
                        op->dst = op->dst == from ? to : op->dst;
                    }
                count(counts, verdict(plans, mutant), "with a buffer less", stage, k, i);
            }
}

/* ---- the tests -------------------------------------------------------------------------------------------------- */

static const declare_pipe_t pipes[] = {
    {.stages = 2,
     .chunks = 1,
     .layers = 3,
     .micro_steps = 3,
     .replicas = 1,
     .shards = 1,
     .schedule = ZERO_SCHEDULE_GPIPE},
    {.stages = 3,
     .chunks = 1,
     .layers = 3,
     .micro_steps = 4,
     .replicas = 1,
     .shards = 2,
     .schedule = ZERO_SCHEDULE_1F1B},
    {.stages = 2,
     .chunks = 2,
     .layers = 5,
     .micro_steps = 4,
     .replicas = 2,
     .shards = 1,
     .schedule = ZERO_SCHEDULE_INTERLEAVED,
     .tied = 2},
    {.stages = 3,
     .chunks = 1,
     .layers = 2,
     .micro_steps = 3,
     .replicas = 1,
     .shards = 1,
     .schedule = ZERO_SCHEDULE_1F1B,
     .tied = 1},
    {.stages = 2,
     .chunks = 1,
     .layers = 2,
     .micro_steps = 2,
     .replicas = 1,
     .shards = 2,
     .schedule = ZERO_SCHEDULE_NAIVE,
     .tied = 1},
};

START_TEST(mutants_are_refused)
{
    static void (*const mutate[])(const pipe_plans_t *, int,
                                  counts_t *) = {drop_waits,   drop_operations,    swap_operations, receive_elsewhere,
                                                 change_tasks, rename_micro_steps, merge_buffers};
    static const char *const names[] = {"a WAIT less",        "an operation less", "two operations swapped",
                                        "received elsewhere", "tasks changed",     "micro-steps renamed",
                                        "a buffer less"};
    counts_t counts[7] = {{0}};
    declare_pipe(d, &pipes[_i / 2]);
    declare_stage(d, _i % 4);
    d->spec.device.asynchronous = _i % 2;
    pipe_plans_t plans = pipe_plans_build(d, true);
    for (int k = 0; k < 7; k++) {
        for (int p = 0; p < plans.count; p++)
            mutate[k](&plans, p, &counts[k]);
        printf("%-24s %5d times: refused by the stage's checker %5d, by the pipeline's %5d, redundant %d\n", names[k],
               counts[k].tried, counts[k].stage, counts[k].pipe, counts[k].redundant);
        ck_assert_int_gt(counts[k].tried, 0);
    }
    pipe_plans_destroy(&plans);
}
END_TEST

/* Stages that follow different schedules. */
START_TEST(a_deadlock_names_both_ends)
{
    zero_error_t error = {.text = ""};
    declare_pipe_t pipe = pipes[0];
    declare_pipe(&other_declaration, &pipe);
    pipe.schedule = ZERO_SCHEDULE_NAIVE;
    declare_pipe(d, &pipe);
    pipe_plans_t naive = pipe_plans_build(d, true), gpipe = pipe_plans_build(&other_declaration, true);
    pipe_plans_t mixed = {.count = 2, .at = {naive.at[0], gpipe.at[1]}};
    ck_assert_int_eq(pipe_plans_check(&mixed, &error), ZERO_ERR_PLAN);
    EXPECT_NAMES(error.text, "`wait for each other` `stage 0 in RECV of the input's gradient of chunk 1, micro-step 1` "
                             "`stage 1 in RECV of the output of chunk 0, micro-step 2`");
    mixed = (pipe_plans_t){.count = 2, .at = {gpipe.at[0], naive.at[1]}}; /* backward begins earlier: no circle */
    ck_assert_msg(pipe_plans_check(&mixed, &error) == ZERO_OK, "%s", error.text);
    pipe_plans_destroy(&naive);
    pipe_plans_destroy(&gpipe);
}
END_TEST

/* Stages whose declarations differ. */
START_TEST(ends_that_differ_are_named)
{
    zero_error_t error = {.text = ""};
    declare_pipe(d, &pipes[0]);
    declare_pipe(&other_declaration, &pipes[0]);
    other_declaration.chunks[0].link = 128;
    pipe_plans_t plans = pipe_plans_build(d, true), others = pipe_plans_build(&other_declaration, true);
    pipe_plans_t mixed = {.count = 2, .at = {plans.at[0], others.at[1]}};
    ck_assert_int_eq(pipe_plans_check(&mixed, &error), ZERO_ERR_PLAN);
    EXPECT_NAMES(error.text,
                 "`stage 0 in SEND of the output of chunk 0, micro-step 1` `stage 1 in RECV of the output of "
                 "chunk 0, micro-step 1`");
    pipe_plans_destroy(&others);
    other_declaration.chunks[0].link = 64;
    other_declaration.chunks[0].link_dtype = ZERO_BF16;
    others = pipe_plans_build(&other_declaration, true);
    mixed.at[1] = others.at[1];
    ck_assert_int_eq(pipe_plans_check(&mixed, &error), ZERO_ERR_PLAN);
    pipe_plans_destroy(&others);
    pipe_plans_destroy(&plans);
}
END_TEST

TCase *pipe_mutation_case(void)
{
    TCase *tcase = tcase_create("mutations");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, mutants_are_refused, 0, 2 * (int)(sizeof pipes / sizeof *pipes));
    tcase_add_test(tcase, a_deadlock_names_both_ends);
    tcase_add_test(tcase, ends_that_differ_are_named);
    return tcase;
}
