/* SPDX-License-Identifier: Apache-2.0 */
/* explain_pipe.c - the schedule of a pipeline as a grid: a row for each stage, a column for each unit of time. */
#include "zero/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct grid {
    const zero_plan_t *const *plans;
    int stages;
    int32_t pass;
    int32_t **begin; /* [stage][task]: when it begins, if each task takes 1 */
    int32_t *end;    /* [phase][chunk][micro-step]: when it ends; 0: not known yet */
    int32_t chunks, micros, length;
    int32_t width; /* of a column */
    zero_write_fn write;
    void *ctx;
} grid_t;

static void print(const grid_t *g, const char *format, ...) ZERO_PRINTF(2, 3);
static void print(const grid_t *g, const char *format, ...)
{
    char line[400];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0)
        g->write(g->ctx, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static const zero_plan_pass_t *pass_of(const grid_t *g, int stage)
{
    return &g->plans[stage]->passes[g->pass];
}

static int32_t *end_of(const grid_t *g, zero_phase_t phase, int32_t chunk, int32_t micro)
{
    return &g->end[((int32_t)phase * g->chunks + chunk) * g->micros + micro];
}

/* When what a task needs of another one is there; 0: not yet. *needs: it needs something. */
static int32_t ready_at(const grid_t *g, const zero_plan_task_t *t, bool *needs)
{
    bool forward = t->phase == ZERO_FORWARD, ends = t->chunk == (forward ? 0 : g->chunks - 1);
    *needs = !(forward && ends);
    return !*needs ? 0
           : ends  ? *end_of(g, ZERO_FORWARD, t->chunk, t->micro)
                   : *end_of(g, t->phase, forward ? t->chunk - 1 : t->chunk + 1, t->micro);
}

/* Sets the time of every task: each stage does its own in their order, as early as it can. */
static void set_times(grid_t *g)
{
    bool moved = true;
    for (int p = 0; p < g->stages; p++)
        for (int32_t t = 0; t < pass_of(g, p)->task_count; t++)
            g->begin[p][t] = -1;
    while (moved) {
        moved = false;
        for (int p = 0; p < g->stages; p++) {
            const zero_plan_pass_t *pass = pass_of(g, p);
            int32_t next = 0, clock = 0;
            for (; next < pass->task_count && g->begin[p][next] >= 0; next++)
                clock = g->begin[p][next] + 1;
            for (; next < pass->task_count; next++, moved = true) {
                const zero_plan_task_t *task = &pass->tasks[next];
                bool needs;
                int32_t ready = ready_at(g, task, &needs);
                if (needs && ready == 0)
                    break;
                g->begin[p][next] = ready > clock ? ready : clock;
                clock = g->begin[p][next] + 1;
                *end_of(g, task->phase, task->chunk, task->micro) = clock;
                g->length = clock > g->length ? clock : g->length;
            }
        }
    }
}

static void print_row(const grid_t *g, int stage)
{
    const zero_plan_pass_t *pass = pass_of(g, stage);
    int32_t clock = 0;
    print(g, "  stage %d ", stage);
    for (int32_t t = 0; t < pass->task_count; t++) {
        const zero_plan_task_t *task = &pass->tasks[t];
        char cell[32];
        for (; clock < g->begin[stage][t]; clock++)
            print(g, " %*s", g->width, "");
        snprintf(cell, sizeof cell, "%c%d.%d", task->phase == ZERO_FORWARD ? 'F' : 'B', task->chunk, task->micro);
        print(g, " %-*s", t + 1 < pass->task_count ? g->width : 0, cell);
        clock++;
    }
    print(g, "\n");
}

/* The buffers that a stage keeps of micro-steps in flight. */
static void print_kept(const grid_t *g, int stage)
{
    const zero_plan_t *plan = g->plans[stage];
    const zero_plan_pass_t *pass = pass_of(g, stage);
    int32_t now = 0, most = 0;
    for (int32_t t = 0; t < pass->task_count; t++) {
        now += pass->tasks[t].phase == ZERO_FORWARD ? 1 : -1;
        most = now > most ? now : most;
    }
    print(g, "  stage %d has at most %d task%s in flight, which keep%s", stage, most, most == 1 ? "" : "s",
          most == 1 ? "s" : "");
    bool any = false;
    for (int tier = 0; tier < ZERO_TIER_NVME; tier++) {
        uint64_t bytes = 0;
        int32_t last = -1, count = 0;
        for (int32_t t = 0; t < pass->task_count; t++) { /* buffers are numbered in the order of their first task */
            int32_t kept = pass->tasks[t].kept[tier];
            if (kept <= last)
                continue;
            last = kept;
            count++;
            bytes += plan->buffers[kept].bytes;
        }
        if (count == 0)
            continue;
        print(g, "%s %d buffer%s of %llu bytes on the %s tier", any ? "," : "", count, count == 1 ? "" : "s",
              (unsigned long long)bytes, zero_tier_name((zero_tier_t)tier));
        any = true;
    }
    print(g, any ? "\n" : " nothing\n");
}

static int digits(int32_t n)
{
    return n < 10 ? 1 : 1 + digits(n / 10);
}

static void print_grid(const grid_t *g)
{
    const zero_spec_t *spec = g->plans[0]->spec;
    int64_t transfers = 0, work = 0;
    for (int p = 0; p < g->stages; p++) {
        const zero_plan_pass_t *pass = pass_of(g, p);
        work += pass->task_count;
        for (int32_t t = 0; t < pass->task_count; t++)
            transfers += (pass->tasks[t].output >= 0) + (pass->tasks[t].input_grad >= 0);
    }
    print(g,
          "pipeline of %d stages, schedule %s, %d chunks, %d micro-step%s, pass '%s'\n"
          "  F1.0: forward task of chunk 1 and micro-step 0; B1.0: its backward task; a column is the time of one\n",
          g->stages, zero_schedule_name(spec->schedule), g->chunks, g->micros, g->micros == 1 ? "" : "s",
          spec->passes[g->pass].name);
    for (int p = 0; p < g->stages; p++)
        print_row(g, p);
    print(g, "idle: %.1f %% of the time of the stages\n",
          100 * (1 - (double)work / ((double)g->stages * (double)g->length)));
    print(g, "links: %d programs meet in %lld transfers, no deadlock\n", g->stages, (long long)transfers);
    for (int p = 0; p < g->stages; p++)
        print_kept(g, p);
    print(g, "\n");
}

zero_status_t zero_plan_explain_pipe(const zero_plan_t *const *plans, int count, zero_write_fn write, void *ctx,
                                     zero_error_t *error)
{
    const zero_spec_t *spec = plans[0]->spec;
    grid_t g = {.plans = plans, .stages = count, .chunks = spec->chunk_count, .micros = 1, .write = write, .ctx = ctx};
    int32_t training = -1, first = -1;
    for (int32_t i = spec->pass_count - 1; i >= 0; i--) {
        if (plans[0]->passes[i].task_count > 0)
            first = i;
        if (spec->passes[i].kind == ZERO_PASS_TRAIN)
            training = i;
    }
    g.pass = training >= 0 ? training : first;
    if (g.pass < 0)
        return ZERO_OK;
    if (g.pass == training)
        g.micros = spec->micro_steps;
    g.width = 2 + digits(g.chunks - 1) + digits(g.micros - 1);
    g.begin = calloc((size_t)count, sizeof *g.begin);
    g.end = calloc(2 * (size_t)g.chunks * (size_t)g.micros, sizeof *g.end);
    bool room = g.begin != NULL && g.end != NULL;
    for (int p = 0; p < count && room; p++)
        room = (g.begin[p] = malloc(((size_t)pass_of(&g, p)->task_count + 1) * sizeof **g.begin)) != NULL;
    if (room) {
        set_times(&g);
        print_grid(&g);
    }
    for (int p = 0; p < count && g.begin != NULL; p++)
        free(g.begin[p]);
    free(g.begin);
    free(g.end);
    return room ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory to print a pipeline of %d stages", count);
}
