/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan_pipe.c - plans of pipelines: the order of tasks, the buffers that they take, units that two stages share,
 * refused declarations, maps of layers, and text, with tests/golden/pipe-*.txt. plan_pipe_mutations.c has plans that
 * the checkers refuse.
 *
 * ZERO_CHECK_FULL=1 also runs zero_plan_check on all plans of the sweep over schedules.
 */
#include "tests/expect.h"
#include "tests/golden.h"
#include "tests/plan_pipe_suites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define STAGES PIPE_STAGES
#define MICROS 32
#define MAX_CHUNKS 4

static declare_t declaration, *const d = &declaration;

static bool full(void)
{
    const char *text = getenv("ZERO_CHECK_FULL");
    return text != NULL && strcmp(text, "1") == 0;
}

void pipe_plans_destroy(pipe_plans_t *plans)
{
    for (int p = 0; p < plans->count; p++)
        zero_plan_destroy(plans->at[p]);
}

pipe_plans_t pipe_plans_build(const declare_t *declared, bool check)
{
    pipe_plans_t plans = {.count = declared->spec.mesh.pipe};
    zero_error_t error = {.text = ""};
    for (int p = 0; p < plans.count; p++) {
        ck_assert_msg(zero_plan_build(&plans.at[p], &declared->spec, p, &error) == ZERO_OK, "%s", error.text);
        ck_assert_msg(!check || zero_plan_check(plans.at[p], &error) == ZERO_OK, "stage %d: %s", p, error.text);
    }
    return plans;
}

zero_status_t pipe_plans_check(const pipe_plans_t *plans, zero_error_t *error)
{
    return zero_plan_check_pipe((const zero_plan_t *const *)plans->at, plans->count, error);
}

/* ---- schedules -------------------------------------------------------------------------------------------------- */

/* How many forward tasks of a stage may have begun without their backward task having ended. */
static int wanted_in_flight(const declare_pipe_t *pipe, int stage)
{
    int all = pipe->micro_steps * pipe->chunks, after = pipe->stages - 1 - stage,
        group = pipe->micro_steps < pipe->stages ? pipe->micro_steps : pipe->stages, most = after + 1;
    if (pipe->schedule == ZERO_SCHEDULE_GPIPE)
        return all;
    if (pipe->schedule == ZERO_SCHEDULE_NAIVE)
        return 1;
    if (pipe->chunks > 1)
        most = 2 * after + (pipe->chunks - 1) * group + 1;
    return most < all ? most : all;
}

/* Checks that each task comes once, forward before backward, with a buffer of its own for what it keeps, of no more
 * than are needed at once. */
static void check_order(const declare_pipe_t *pipe, const zero_plan_t *plan)
{
    const zero_plan_pass_t *pass = &plan->passes[0];
    int32_t holds[MAX_CHUNKS][MICROS]; /* the kept buffer; -1: the forward task has not begun; -2: it has ended */
    int in_flight = 0, most = 0, own[MAX_CHUNKS] = {0}, most_of[MAX_CHUNKS] = {0}, buffers[MAX_CHUNKS] = {0};
    static int chunk_of[4096];
    ck_assert_int_le(plan->buffer_count, 4096);
    memset(chunk_of, 0, sizeof chunk_of);
    for (int c = 0; c < MAX_CHUNKS; c++)
        for (int k = 0; k < MICROS; k++)
            holds[c][k] = -1;
    ck_assert_int_eq(pass->task_count, 2 * pipe->micro_steps * pipe->chunks);
    for (int32_t t = 0; t < pass->task_count; t++) {
        const zero_plan_task_t *task = &pass->tasks[t];
        ck_assert_int_eq(task->chunk % pipe->stages, plan->pipe);
        int c = task->chunk / pipe->stages;
        ck_assert(c < pipe->chunks && task->micro >= 0 && task->micro < pipe->micro_steps);
        int32_t *held = &holds[c][task->micro], kept = task->kept[ZERO_TIER_DEVICE];
        ck_assert_int_ge(kept, 0);
        if (task->phase == ZERO_FORWARD) {
            ck_assert_int_eq(*held, -1);
            for (int i = 0; i < MAX_CHUNKS; i++)
                for (int k = 0; k < MICROS; k++)
                    ck_assert_int_ne(holds[i][k], kept);
            *held = kept;
            ck_assert(chunk_of[kept] == 0 || chunk_of[kept] == c + 1);
            buffers[c] += chunk_of[kept] == 0;
            chunk_of[kept] = c + 1;
            most = ++in_flight > most ? in_flight : most;
            most_of[c] = ++own[c] > most_of[c] ? own[c] : most_of[c];
        } else {
            ck_assert_int_eq(*held, kept);
            *held = -2;
            in_flight--;
            own[c]--;
        }
    }
    ck_assert_int_eq(in_flight, 0);
    ck_assert_int_eq(most, wanted_in_flight(pipe, plan->pipe));
    for (int c = 0; c < pipe->chunks; c++)
        ck_assert_int_eq(buffers[c], most_of[c]);
}

/* The time of all tasks if each takes 1 and each stage does its own in their order. */
static int time_of(const declare_pipe_t *pipe, const pipe_plans_t *plans)
{
    static int end[2][STAGES * MAX_CHUNKS][MICROS]; /* 0: not done */
    int32_t next[STAGES] = {0};
    int clock[STAGES] = {0}, chunks = pipe->stages * pipe->chunks, last = 0;
    bool moved = true;
    memset(end, 0, sizeof end);
    while (moved) {
        moved = false;
        for (int p = 0; p < pipe->stages; p++) {
            const zero_plan_pass_t *pass = &plans->at[p]->passes[0];
            for (; next[p] < pass->task_count; next[p]++, moved = true) {
                const zero_plan_task_t *t = &pass->tasks[next[p]];
                int c = t->chunk, k = t->micro, ready = 0, begin;
                bool forward = t->phase == ZERO_FORWARD;
                if (forward ? c > 0 : c + 1 < chunks)
                    ready = end[t->phase][forward ? c - 1 : c + 1][k];
                else if (!forward)
                    ready = end[ZERO_FORWARD][c][k];
                if (ready == 0 && !(forward && c == 0))
                    break;
                begin = ready > clock[p] ? ready : clock[p];
                end[t->phase][c][k] = clock[p] = begin + 1;
                last = clock[p] > last ? clock[p] : last;
            }
        }
    }
    for (int p = 0; p < pipe->stages; p++)
        ck_assert_int_eq(next[p], plans->at[p]->passes[0].task_count);
    return last;
}

/* With less than a micro-step for each stage, interleaved chunks wait for the first one to come round. */
static void check_idle_time(const declare_pipe_t *pipe, const pipe_plans_t *plans)
{
    double stages = pipe->stages, m = pipe->micro_steps, chunks = pipe->chunks,
           idle = 1 - 2 * m * chunks / time_of(pipe, plans), wanted = (stages - 1) / (chunks * m + stages - 1);
    if (pipe->schedule == ZERO_SCHEDULE_NAIVE)
        wanted = (stages - 1) / stages;
    else if (m < stages)
        wanted = 1 - chunks * m / (chunks * stages + m - 1);
    ck_assert_msg(fabs(idle - wanted) < 1e-12, "%d stages, %d chunks, %d micro-steps are idle for %g instead of %g",
                  pipe->stages, pipe->chunks, pipe->micro_steps, idle, wanted);
}

START_TEST(schedules)
{
    int refused = 0, accepted = 0;
    zero_error_t error;
    for (int schedule = 0; schedule < ZERO_SCHEDULES; schedule++)
        for (int stages = 1; stages <= STAGES; stages++)
            for (int chunks = 1; chunks <= (schedule == ZERO_SCHEDULE_INTERLEAVED && stages > 1 ? MAX_CHUNKS : 1);
                 chunks++)
                for (int m = 1; m <= MICROS; m++) {
                    declare_pipe_t pipe = {.stages = stages,
                                           .chunks = chunks,
                                           .layers = 3,
                                           .micro_steps = m,
                                           .replicas = 1,
                                           .shards = 1,
                                           .schedule = (zero_schedule_t)schedule};
                    declare_pipe(d, &pipe);
                    d->spec.device.asynchronous = m % 2;
                    if (chunks > 1 && m > stages && m % stages != 0) {
                        zero_plan_t *plan;
                        char wanted[80];
                        snprintf(wanted, sizeof wanted, "config.micro_steps %d interleaved %d %d", m,
                                 m / stages * stages, (m / stages + 1) * stages);
                        ck_assert_int_eq(zero_plan_build(&plan, &d->spec, 0, &error), ZERO_ERR_ARG);
                        EXPECT_NAMES(error.text, wanted);
                        refused++;
                        continue;
                    }
                    pipe_plans_t plans = pipe_plans_build(d, full() || (m <= 6 && stages <= 4));
                    for (int p = 0; p < stages; p++)
                        check_order(&pipe, plans.at[p]);
                    check_idle_time(&pipe, &plans);
                    ck_assert_msg(pipe_plans_check(&plans, &error) == ZERO_OK,
                                  "%d stages, %d chunks, %d micro-steps: %s", stages, chunks, m, error.text);
                    accepted++;
                    pipe_plans_destroy(&plans);
                }
    printf("%d pipelines planned, %d refused\n", accepted, refused);
}
END_TEST

/* ---- units that two stages share -------------------------------------------------------------------------------- */

/* Checks that each slice of each segment has one owner in the world, which has its elements. */
static void check_owners(const pipe_plans_t *plans)
{
    const zero_plan_t *first = plans->at[0];
    int ranks = zero_plan_copies(&d->spec);
    for (int32_t s = 0; s < first->segment_count; s++) {
        const zero_segment_t *segment = &first->segments[s];
        int owners[64] = {0}, slices = (int)(segment->elements / segment->slice);
        ck_assert_int_eq(slices, ranks * (zero_plan_is_tied(segment) ? 2 : 1));
        ck_assert_int_eq(segment->elements % segment->slice, 0);
        for (int r = 0; r < d->spec.world; r++) {
            const zero_plan_t *plan = plans->at[r / ranks];
            int index = zero_plan_index(plan, s, r);
            ck_assert_int_eq(index >= 0, zero_plan_has(plan, segment));
            ck_assert_int_eq(plan->segments[s].elements, segment->elements);
            ck_assert_int_eq(plan->segments[s].slice, segment->slice);
            if (index < 0)
                continue;
            ck_assert_int_lt(index, slices);
            owners[index]++;
            ck_assert_int_eq(zero_plan_rank(plan, s, index), r);
            zero_span_t own = zero_plan_span(plan, r, plan->segments[s].buffer[ZERO_ROLE_PARAM], ZERO_EXTENT_SLICE, -1);
            ck_assert_int_eq(own.begin, index * segment->slice);
            ck_assert_int_eq(own.count, segment->slice);
        }
        for (int i = 0; i < slices; i++)
            ck_assert_int_eq(owners[i], 1);
    }
}

static const zero_op_t *next_tied(const zero_program_t *program, int32_t *at)
{
    for (; *at < program->op_count; (*at)++)
        if (zero_op_collects(&program->ops[*at]) && (d->spec.groups[program->ops[*at].group].axes & ZERO_ALONG_TIE))
            return &program->ops[(*at)++];
    return NULL;
}

/* Checks that the stages that share units have the same collectives for them, in the same order. Returns how many. */
static int check_tied(const pipe_plans_t *plans)
{
    const zero_plan_t *a = plans->at[d->spec.tied[0]], *b = plans->at[d->spec.tied[1]];
    int count = 0;
    for (int32_t p = 0; p < a->program_count; p++) {
        int32_t i = 0, j = 0;
        for (;; count++) {
            const zero_op_t *x = next_tied(&a->programs[p], &i), *y = next_tied(&b->programs[p], &j);
            ck_assert_int_eq(x == NULL, y == NULL);
            if (x == NULL)
                break;
            ck_assert_int_eq(x->kind, y->kind);
            ck_assert_int_eq(x->stream, y->stream);
            ck_assert_int_eq(x->segment, y->segment);
            ck_assert_int_eq(x->count, y->count);
            ck_assert_int_eq(x->group, y->group);
            ck_assert(zero_plan_is_tied(&a->segments[x->segment]));
        }
    }
    return count;
}

START_TEST(each_element_has_one_owner)
{
    zero_error_t error = {.text = ""};
    for (int stages = 2; stages <= 4; stages++)
        for (int shape = 0; shape < 8; shape++)
            for (int stage = 0; stage <= 3; stage++)
                for (int tied = 0; tied <= 2; tied++) {
                    declare_pipe_t pipe = {.stages = stages,
                                           .chunks = 1 + (shape >> 2),
                                           .layers = 5,
                                           .micro_steps = stages,
                                           .replicas = 1 + (shape & 1),
                                           .shards = 1 + (shape >> 1 & 1),
                                           .schedule = shape >> 2 ? ZERO_SCHEDULE_INTERLEAVED : ZERO_SCHEDULE_1F1B,
                                           .tied = tied};
                    declare_pipe(d, &pipe);
                    declare_stage(d, stage);
                    d->spec.device.asynchronous = stage % 2;
                    d->spec.reduce = tied == 1 ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY;
                    pipe_plans_t plans = pipe_plans_build(d, true);
                    ck_assert_msg(pipe_plans_check(&plans, &error) == ZERO_OK, "%s", error.text);
                    check_owners(&plans);
                    ck_assert_int_eq(d->spec.tied[1], tied > 0 ? stages - 1 : 0);
                    if (tied > 0)
                        ck_assert_int_ge(check_tied(&plans), 2 * tied); /* gradients, and parameters or gradients */
                    pipe_plans_destroy(&plans);
                }
}
END_TEST

/* ---- declarations that cannot be planned ------------------------------------------------------------------------ */

static void refused(zero_status_t wanted, const char *names)
{
    zero_plan_t *plan = NULL;
    zero_error_t error = {.text = ""};
    zero_status_t status = zero_plan_build(&plan, &d->spec, 0, &error);
    ck_assert_msg(status == wanted && error.status == wanted, "%s: %s, %s", names, zero_status_name(status),
                  error.text);
    EXPECT_NAMES(error.text, names);
    ck_assert_ptr_null(plan);
}

static const declare_pipe_t usual = {
    .stages = 3, .chunks = 1, .layers = 3, .micro_steps = 4, .replicas = 1, .shards = 2};

START_TEST(bad_declarations)
{
    declare_pipe_t tied = usual, interleaved = usual;
    tied.tied = 1;
    interleaved.chunks = 2;
    interleaved.micro_steps = 6;
    interleaved.schedule = ZERO_SCHEDULE_INTERLEAVED;
#define REFUSED(pipe, statement, status, names) \
    do {                                        \
        declare_pipe(d, pipe);                  \
        statement;                              \
        refused(status, names);                 \
    } while (0)
    REFUSED(&usual, d->spec.schedule = ZERO_SCHEDULES, ZERO_ERR_ARG, "config.schedule 4");
    REFUSED(&usual, d->spec.chunk_count = 0, ZERO_ERR_ARG, "config.mesh.pipe 3 zero_chunks zero_task_add");
    REFUSED(&usual, d->spec.chunk_count = -1, ZERO_ERR_ARG, "-1 3");
    REFUSED(&usual, d->spec.chunk_count = 2, ZERO_ERR_ARG, "`2 chunks` `3 stages` 1f1b");
    REFUSED(&interleaved, d->spec.schedule = ZERO_SCHEDULE_1F1B, ZERO_ERR_ARG, "`6 chunks` `3 stages` 1f1b");
    REFUSED(&interleaved, d->spec.chunk_count = 5, ZERO_ERR_ARG, "`5 chunks` `3 stages` interleaved `multiple of 3`");
    REFUSED(&interleaved, (d->spec.mesh.pipe = 1, zero_plan_set_groups(&d->spec)), ZERO_ERR_ARG,
            "`6 chunks` `1 stage` interleaved 1");
    REFUSED(&interleaved, d->spec.micro_steps = 7, ZERO_ERR_ARG, "config.micro_steps 7 interleaved 6 9");
    REFUSED(&usual, d->chunks[1].link = 0, ZERO_ERR_ARG, "`chunk 1 of 3` 0 zero_chunk_link");
    REFUSED(&usual, d->chunks[2].link = 5, ZERO_ERR_ARG, "`chunk 2 of 3` 5 zero_chunk_link");
    REFUSED(&usual, d->passes[0].task_count = 5, ZERO_ERR_ARG, "'train0' `5 tasks` `3 chunks` 6 zero_task_add");
    REFUSED(&usual, d->passes[1].task_count = 6, ZERO_ERR_ARG, "'eval1' `6 tasks` `3 chunks` 3 zero_task_add");
    REFUSED(&usual, d->tasks[0][1].chunk = 2, ZERO_ERR_ARG, "`task 1` 'train0' `forward of chunk 2` `chunk 1`");
    REFUSED(&usual, d->tasks[0][1].phase = ZERO_BACKWARD, ZERO_ERR_ARG,
            "`task 1` 'train0' `backward of chunk 1` `forward of chunk 1`");
    REFUSED(&usual, d->tasks[0][3].chunk = 1, ZERO_ERR_ARG, "`task 3` 'train0' `backward of chunk 1` `chunk 2`");
    REFUSED(&usual, d->tasks[0][0].first_use = 1, ZERO_ERR_ARG, "`task 0` 'train0' `use 1 of 9`");
    REFUSED(&usual, d->tasks[0][2].first_use = 1, ZERO_ERR_ARG, "`task 2` 'train0' `use 1 of 9`");
    REFUSED(&usual, d->tasks[0][5].first_use = 10, ZERO_ERR_ARG, "`task 5` 'train0' `use 10 of 9`");
    REFUSED(&usual, d->uses[0][1].flags |= ZERO_HOLD, ZERO_ERR_ARG, "`use 1` 'train0' 'layer.0'");
    REFUSED(&tied, d->spec.parameters.tier = d->spec.optimizer.tier = ZERO_TIER_HOST, ZERO_ERR_UNSUPPORTED,
            "0 2 'embedding' config.parameters.tier host");
    REFUSED(&usual, d->uses[0][1].unit = d->uses[0][2].unit = 0, ZERO_ERR_UNSUPPORTED, "0 1");
    REFUSED(&usual, d->spec.mesh.pipe = 0, ZERO_ERR_ARG, "config.mesh.pipe 0 1");
    REFUSED(&usual, d->spec.mesh.pipe = 4, ZERO_ERR_ARG, "config.mesh.pipe 4 6 3 6");
    REFUSED(&usual, d->spec.mesh.replicas = 4, ZERO_ERR_ARG, "config.mesh.replicas 4 2");
#undef REFUSED
    zero_error_t error = {.text = ""};
    declare_pipe(d, &usual); /* the embedding on all three stages */
    d->uses[0][2].unit = d->uses[0][3].unit = 0;
    ck_assert_int_eq(zero_plan_set_tied(&d->spec, &error), ZERO_ERR_UNSUPPORTED);
    EXPECT_NAMES(error.text, "0 1 2 'embedding'");
    declare_pipe(d, &tied); /* a layer on the last two, beside the embedding on the first and the last */
    d->uses[0][2].unit = 3;
    ck_assert_int_eq(zero_plan_set_tied(&d->spec, &error), ZERO_OK);
    refused(ZERO_ERR_UNSUPPORTED, "1 2 'layer.2' 0 2");
}
END_TEST

/* ---- maps of layers --------------------------------------------------------------------------------------------- */

typedef struct best {
    double most, squares;
} best_t;

/* The best division of layers [at, layers) among stages [stage, stages), by trying all. */
static void try_all(int layers, int stages, const double *cost, double first, double last, int at, int stage,
                    best_t so_far, best_t *best)
{
    if (stage == stages) {
        bool better = so_far.most < best->most - 1e-9 ||
                      (so_far.most < best->most + 1e-9 && so_far.squares < best->squares - 1e-9);
        if (at == layers && better)
            *best = so_far;
        return;
    }
    double sum = (stage == 0 ? first : 0) + (stage + 1 == stages ? last : 0);
    for (int end = at + 1; end <= layers; end++) {
        sum += cost ? cost[end - 1] : 1;
        best_t next = {fmax(so_far.most, sum), so_far.squares + sum * sum};
        try_all(layers, stages, cost, first, last, end, stage + 1, next, best);
    }
}

static best_t value_of(int layers, int stages, const double *cost, double first, double last, const int32_t *map)
{
    double sum[16] = {0};
    best_t value = {0, 0};
    sum[0] = first;
    sum[stages - 1] += last;
    for (int l = 0; l < layers; l++)
        sum[map[l]] += cost ? cost[l] : 1;
    for (int s = 0; s < stages; s++)
        value = (best_t){fmax(value.most, sum[s]), value.squares + sum[s] * sum[s]};
    return value;
}

START_TEST(even_maps)
{
    static const int32_t nine[] = {0, 0, 0, 1, 1, 2, 2, 3, 3}, head[] = {0, 0, 0, 1, 1, 1, 2, 2, 3};
    int32_t map[16], all[16], layer[16];
    zero_error_t error = {.text = ""};
    ck_assert_int_eq(zero_map_even(9, 4, NULL, 0, 0, map), ZERO_OK);
    ck_assert_mem_eq(map, nine, sizeof nine);
    ck_assert_int_eq(zero_map_even(9, 4, NULL, 0, 2, map), ZERO_OK);
    ck_assert_mem_eq(map, head, sizeof head);
    ck_assert_int_eq(zero_map_even(3, 4, NULL, 0, 0, map), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_map_even(3, 0, NULL, 0, 0, map), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_map_even(3, 2, NULL, 0, 0, NULL), ZERO_ERR_ARG);
    uint64_t state = 7;
    for (int layers = 1; layers <= 9; layers++)
        for (int stages = 1; stages <= layers; stages++)
            for (int trial = 0; trial < 12; trial++) {
                double cost[9], first = trial ? (double)declare_draw(&state, 5) : 0,
                                last = trial ? (double)declare_draw(&state, 9) : 0;
                best_t best = {INFINITY, INFINITY};
                for (int l = 0; l < layers; l++) {
                    cost[l] = 1 + (double)declare_draw(&state, 6);
                    layer[l] = l;
                }
                const double *used = trial > 2 ? cost : NULL;
                ck_assert_int_eq(zero_map_even(layers, stages, used, first, last, map), ZERO_OK);
                ck_assert_msg(zero_map_check(layers, stages, layer, map, layers, all, &error) == ZERO_OK, "%s",
                              error.text);
                ck_assert_mem_eq(all, map, (size_t)layers * sizeof *map);
                try_all(layers, stages, used, first, last, 0, 0, (best_t){0, 0}, &best);
                best_t value = value_of(layers, stages, used, first, last, map);
                ck_assert_msg(fabs(value.most - best.most) < 1e-6 && fabs(value.squares - best.squares) < 1e-6,
                              "%d layers on %d stages: %g, %g instead of %g, %g", layers, stages, value.most,
                              value.squares, best.most, best.squares);
            }
}
END_TEST

/* Checks a map of six layers on three stages, "layer stage layer stage ...". */
static void check_map(const char *text, zero_status_t wanted, const char *names)
{
    int32_t layer[16], stage[16], stage_of[6], n = 0;
    zero_error_t error = {.text = ""};
    for (int read = 0; sscanf(text, "%d %d%n", &layer[n], &stage[n], &read) == 2; text += read)
        n++;
    zero_status_t status = zero_map_check(6, 3, layer, stage, n, stage_of, &error);
    ck_assert_msg(status == wanted, "%s: %s", names, error.text);
    EXPECT_NAMES(error.text, names);
}

START_TEST(maps_that_are_none)
{
    check_map("0 0 1 0 2 1 3 1 4 2 5 2", ZERO_OK, "");
    check_map("5 2 4 2 3 1 2 1 1 0 0 0", ZERO_OK, ""); /* entries in any order */
    check_map("0 0 1 0 2 1 3 1 4 2", ZERO_ERR_ARG, "`lacks layer 5`");
    check_map("0 0 4 2", ZERO_ERR_ARG, "`lacks layer 1 to 3, 5`");
    check_map("", ZERO_ERR_ARG, "`lacks layer 0 to 5`");
    check_map("0 0 1 0 2 1 3 1 4 2 5 2 1 0", ZERO_ERR_ARG, "`more than once layer 1`");
    check_map("0 0 1 0 2 1 3 1 4 2 5 2 1 0 2 2 5 2", ZERO_ERR_ARG, "`more than once layer 1 to 2, 5`");
    check_map("0 0 1 0 2 1 3 1 4 2 5 2 6 2", ZERO_ERR_ARG, "`no layer 6` `0 to 5`");
    check_map("0 0 1 0 2 1 3 1 4 2 5 3", ZERO_ERR_ARG, "`no stage 3 for layer 5` `0 to 2` `lacks layer 5`");
    check_map("-1 0 1 0 1 0 3 1 4 2 5 2 7 2", ZERO_ERR_ARG,
              "`no layer -1` `no layer 7` `lacks layer 0, 2` `more than once layer 1`");
    check_map("0 0 1 1 2 0 3 1 4 2 5 2", ZERO_ERR_ARG, "`layer 2 is on stage 0` `layer 1 on stage 1`");
    check_map("0 0 1 0 2 2 3 2 4 2 5 2", ZERO_ERR_ARG, "`layer 2 is on stage 2` `layer 1 on stage 0`");
    check_map("0 1 1 1 2 1 3 1 4 2 5 2", ZERO_ERR_ARG, "`layer 0 is on stage 1`");
    check_map("0 0 1 0 2 1 3 1 4 1 5 1", ZERO_ERR_ARG, "`stage 2` `no layers`");
    int32_t none[1];
    zero_error_t error = {.text = ""};
    ck_assert_int_eq(zero_map_check(0, 3, none, none, 0, none, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_map_check(3, 0, none, none, 0, none, &error), ZERO_ERR_ARG);
}
END_TEST

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* As zero_explain prints it: the schedule, then the plan of each stage. */
static void compare(const char *name, const declare_pipe_t *pipe, int stage)
{
    char path[100];
    golden_text_t text = {0};
    zero_error_t error = {.text = ""};
    declare_pipe(d, pipe);
    declare_stage(d, stage);
    d->spec.reserves[0] = (zero_spec_reserve_t){ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 100};
    d->spec.reserve_count = 1;
    pipe_plans_t plans = pipe_plans_build(d, true);
    ck_assert_msg(pipe_plans_check(&plans, &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(
        zero_plan_explain_pipe((const zero_plan_t *const *)plans.at, plans.count, golden_append, &text, &error),
        ZERO_OK);
    for (int p = 0; p < plans.count; p++)
        zero_plan_explain(plans.at[p], golden_append, &text);
    pipe_plans_destroy(&plans);
    snprintf(path, sizeof path, "tests/golden/pipe-%s.txt", name);
    golden_compare(&text, path);
    free(text.bytes);
}

START_TEST(golden_text)
{
    declare_pipe_t pipe = {.stages = 3, .chunks = 1, .layers = 3, .micro_steps = 4, .replicas = 1, .shards = 1};
    compare("1f1b", &pipe, 1);
    pipe.schedule = ZERO_SCHEDULE_GPIPE;
    pipe.stages = 2;
    compare("gpipe", &pipe, 0);
    pipe.schedule = ZERO_SCHEDULE_INTERLEAVED;
    pipe.chunks = 2;
    pipe.shards = 2;
    compare("interleaved", &pipe, 3);
    compare("tied",
            &(declare_pipe_t){
                .stages = 3, .chunks = 1, .layers = 3, .micro_steps = 3, .replicas = 2, .shards = 2, .tied = 1},
            2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan-pipe");
    TCase *tcase = tcase_create("pipe");
    tcase_set_timeout(tcase, full() ? 7200 : 600);
    tcase_add_test(tcase, schedules);
    tcase_add_test(tcase, each_element_has_one_owner);
    tcase_add_test(tcase, bad_declarations);
    tcase_add_test(tcase, even_maps);
    tcase_add_test(tcase, maps_that_are_none);
    tcase_add_test(tcase, golden_text);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, pipe_mutation_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
