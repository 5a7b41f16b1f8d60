/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - the plan's checker: after the numbers (check_numbers.c), it walks the programs as steps and evaluations
 * would run them, as the first rank and as the last. */
#include "zero/plan/check.h"

#include <stdio.h>
#include <stdlib.h>

zero_status_t zero_check_fail(const zero_checker_t *c, const char *format, ...)
{
    char sentence[600], where[200] = "the plan";
    va_list args;
    va_start(args, format);
    if (vsnprintf(sentence, sizeof sentence, format, args) < 0)
        sentence[0] = '\0';
    va_end(args);
    if (c->program != NULL && c->op >= 0 && c->op < c->program->op_count) {
        const zero_op_t *op = &c->program->ops[c->op];
        bool known = op->unit >= 0 && op->unit < c->plan->spec->unit_count;
        snprintf(where, sizeof where, "program %s, operation %d (%s%s%s%s)", zero_program_name(c->program->kind), c->op,
                 zero_op_name((zero_op_kind_t)op->kind), known ? " of unit '" : "",
                 known ? c->plan->spec->units[op->unit].name : "", known ? "'" : "");
    } else if (c->program != NULL) {
        snprintf(where, sizeof where, "program %s, at its end", zero_program_name(c->program->kind));
    }
    return zero_fail(c->error, ZERO_ERR_PLAN, "%s: %s", where, sentence);
}

/* ---- the walk --------------------------------------------------------------------------------------------------- */

static zero_status_t end_of_step(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        const zero_segment_t *segment = &plan->segments[s];
        if (!segment->trainable || !zero_plan_has(plan, segment))
            continue;
        for (int32_t p = segment->first_part; p < segment->first_part + segment->part_count; p++)
            if (c->updated[p] != c->step + 1)
                return zero_check_fail(c, "unit '%s' was not updated", plan->spec->units[segment->unit].name);
        zero_operand_t param = zero_check_operand(
            c, segment->buffer[segment->buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM],
            false, -1);
        for (int32_t i = param.cells.begin; i < param.cells.end; i++)
            if (c->cells[i].content.kind != ZERO_HOLDS_PARAM || c->cells[i].content.version != c->version[s])
                return zero_check_fail(c, "the new parameters of unit '%s' were not published",
                                       plan->spec->units[segment->unit].name);
    }
    c->step++;
    c->micro = 0;
    return ZERO_OK;
}

/* A checkpoint is whole if each rank has saved all of its slice of each kind of state. What is frozen may be kept
 * elsewhere; without a training pass, nothing counts as frozen. */
static zero_status_t end_of_save(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    bool trains = false;
    for (int32_t p = 0; p < plan->spec->pass_count; p++)
        trains = trains || plan->spec->passes[p].kind == ZERO_PASS_TRAIN;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        const zero_segment_t *segment = &plan->segments[s];
        if (!zero_plan_has(plan, segment))
            continue;
        bool master = segment->trainable && segment->dtype != ZERO_FP32;
        int states = segment->trainable ? zero_plan_state(plan, s)->count : 0;
        for (int i = 0; i < ZERO_CHECK_SAVED; i++) {
            bool wanted = (i == 0 && (segment->trainable || plan->spec->saves_frozen || !trains)) ||
                          (i == 1 && master) || (i > 1 && i - 2 < states);
            if (c->written[s * ZERO_CHECK_SAVED + i] != (wanted ? segment->slice : 0))
                return zero_check_fail(c, "it has saved %lld elements of state %d of unit '%s' instead of %lld",
                                       (long long)c->written[s * ZERO_CHECK_SAVED + i], i,
                                       plan->spec->units[segment->unit].name, wanted ? (long long)segment->slice : 0);
        }
    }
    return ZERO_OK;
}

static zero_status_t run_program(zero_checker_t *c, const zero_program_t *program)
{
    zero_status_t status;

    c->program = program;
    c->run++;
    memset(c->recorded, 0, (size_t)c->plan->event_count * sizeof *c->recorded);
    c->next_use = c->opened = c->next_task = c->transfers = 0;
    memset(c->written, 0, (size_t)c->plan->segment_count * ZERO_CHECK_SAVED * sizeof *c->written);
    memset(c->grad_done, 0, (size_t)c->plan->spec->unit_count * sizeof *c->grad_done);
    for (c->op = 0; c->op < program->op_count; c->op++)
        if ((status = zero_check_op(c, &program->ops[c->op])) != ZERO_OK)
            return status;
    int32_t uses = program->kind == ZERO_PROGRAM_ANY ? 1
                   : program->pass >= 0              ? c->plan->passes[program->pass].use_count
                                                     : 0;
    if (c->opened > 0 || c->next_use != uses)
        return zero_check_fail(c, "%d of %d uses have begun, %d have not ended", c->next_use, uses, c->opened);
    if ((status = zero_check_tasks_done(c)) != ZERO_OK)
        return status;
    if (program->kind == ZERO_PROGRAM_STEP)
        return end_of_step(c);
    if (program->kind == ZERO_PROGRAM_SAVE)
        return end_of_save(c);
    if (program->kind != ZERO_PROGRAM_EVAL && program->kind != ZERO_PROGRAM_ANY)
        c->micro++;
    return ZERO_OK;
}

/* Runs a program twice in a row. */
static zero_status_t run_twice(zero_checker_t *c, const zero_program_t *program)
{
    zero_status_t status = run_program(c, program);
    return status == ZERO_OK ? run_program(c, program) : status;
}

/* Tries every program of one kind after the last one that ran, and restores the state after each. */
static zero_status_t try_each(zero_checker_t *c, zero_program_kind_t kind)
{
    zero_clock_t clocks[ZERO_CHECK_PARTIES];
    zero_status_t status = ZERO_OK;

    memcpy(clocks, c->clock, sizeof clocks);
    memcpy(c->events_before, c->events, (size_t)c->plan->event_count * sizeof *c->events);
    for (int32_t i = 0; i < c->plan->program_count && status == ZERO_OK; i++) {
        if (c->plan->programs[i].kind != kind)
            continue;
        zero_check_trial_begin(c);
        status = run_twice(c, &c->plan->programs[i]);
        zero_check_trial_undo(c);
        memcpy(c->clock, clocks, sizeof clocks);
        const zero_program_t *p = &c->plan->programs[i];
        for (int32_t o = 0; o < p->op_count; o++)
            if (p->ops[o].kind == ZERO_OP_RECORD)
                c->events[p->ops[o].event] = c->events_before[p->ops[o].event];
    }
    return status;
}

/* Runs all programs of one kind, one after the other. */
static zero_status_t run_kind(zero_checker_t *c, zero_program_kind_t kind)
{
    zero_status_t status = ZERO_OK;
    for (int32_t i = 0; i < c->plan->program_count && status == ZERO_OK; i++)
        if (c->plan->programs[i].kind == kind)
            status = run_program(c, &c->plan->programs[i]);
    return status;
}

/* Tries every evaluation and every on-demand unit. */
static zero_status_t try_others(zero_checker_t *c)
{
    zero_status_t status = try_each(c, ZERO_PROGRAM_EVAL);
    return status == ZERO_OK ? try_each(c, ZERO_PROGRAM_ANY) : status;
}

/* What runs between the programs of steps: nothing; nothing, but every other program is tried after each; one program
 * before each; all on-demand units before each; a save before each step. */
typedef enum beside { NOTHING, TRIALS, ONE_BEFORE, ALL_UNITS_BEFORE, SAVES } beside_t;

/* Runs steps of several lengths. */
static zero_status_t walk_steps(zero_checker_t *c, beside_t beside, const zero_program_t *other)
{
    static const zero_program_kind_t several[] = {
        ZERO_PROGRAM_FIRST, ZERO_PROGRAM_MIDDLE, ZERO_PROGRAM_MIDDLE, ZERO_PROGRAM_LAST, ZERO_PROGRAM_STEP,
        ZERO_PROGRAM_FIRST, ZERO_PROGRAM_LAST,   ZERO_PROGRAM_STEP,   ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP};
    static const zero_program_kind_t one[] = {ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP};
    bool micro_steps = c->plan->spec->micro_steps > 1 && c->plan->spec->chunk_count == 0;
    const zero_program_kind_t *order = micro_steps ? several : one;
    size_t count = micro_steps ? sizeof several / sizeof *several : sizeof one / sizeof *one;
    zero_status_t status = ZERO_OK;

    for (size_t i = 0; i < count && status == ZERO_OK; i++) {
        if (beside == ONE_BEFORE)
            status = run_program(c, other);
        else if (beside == ALL_UNITS_BEFORE)
            status = run_kind(c, ZERO_PROGRAM_ANY);
        else if (beside == SAVES && (i == 0 || order[i - 1] == ZERO_PROGRAM_STEP))
            status = run_kind(c, ZERO_PROGRAM_SAVE);
        if (status == ZERO_OK)
            status = run_kind(c, order[i]);
        if (status == ZERO_OK && beside == TRIALS)
            status = try_others(c);
    }
    return status;
}

static bool has_steps(const zero_plan_t *plan)
{
    for (int32_t i = 0; i < plan->program_count; i++)
        if (plan->programs[i].kind == ZERO_PROGRAM_STEP)
            return true;
    return false;
}

/* Lists what may run between the programs of steps: every evaluation, and one on-demand unit per slot, because units
 * that share a slot have the same effect on what follows. others has room for all programs, seen for all buffers, which
 * are at least as many as the slots. */
static int32_t list_others(const zero_checker_t *c, const zero_program_t **others, bool *seen)
{
    const zero_plan_t *plan = c->plan;
    int32_t n = 0;
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        if (p->kind == ZERO_PROGRAM_EVAL)
            others[n++] = p;
        if (p->kind != ZERO_PROGRAM_ANY)
            continue;
        int32_t slot = -1;
        for (int32_t s = c->unit_segment[p->unit]; s < c->unit_segment[p->unit + 1]; s++)
            if (zero_plan_has(plan, &plan->segments[s]))
                slot = plan->buffers[plan->segments[s].buffer[ZERO_ROLE_PARAM]].slot;
        if (slot < 0 || slot >= plan->buffer_count || seen[slot])
            continue;
        seen[slot] = true;
        others[n++] = p;
    }
    return n;
}

/* Walks steps alone and, only as rank 0, each other program after each other, and steps with one of them before each
 * program. Ranks differ in the places of their slices, not in the programs that touch them. */
static zero_status_t walk(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    const zero_program_t **others = calloc((size_t)plan->program_count + 1, sizeof *others);
    bool *seen = calloc((size_t)plan->buffer_count + 1, sizeof *seen);
    bool first_rank = c->rank % zero_check_ranks(c) == 0;
    zero_status_t status = ZERO_OK;

    if (others == NULL || seen == NULL) {
        status = zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %d programs", plan->program_count);
        goto out;
    }
    int32_t count = first_rank ? list_others(c, others, seen) : 0;
    if ((status = try_others(c)) != ZERO_OK)
        goto out;
    for (int32_t i = 0; i < count; i++)
        if ((status = run_program(c, others[i])) != ZERO_OK || (status = try_others(c)) != ZERO_OK)
            goto out;
    if (!has_steps(plan)) {
        status = run_kind(c, ZERO_PROGRAM_SAVE);
        goto out;
    }
    if ((status = walk_steps(c, NOTHING, NULL)) != ZERO_OK ||
        (plan->spec->saves && (status = walk_steps(c, SAVES, NULL)) != ZERO_OK) ||
        (status = walk_steps(c, first_rank ? TRIALS : NOTHING, NULL)) != ZERO_OK)
        goto out;
    for (int32_t i = 0; i < count && status == ZERO_OK; i++)
        status = walk_steps(c, ONE_BEFORE, others[i]);
    if (status == ZERO_OK && first_rank)
        status = walk_steps(c, ALL_UNITS_BEFORE, NULL);
out:
    free(others);
    free(seen);
    return status;
}

/* Checks that exactly the programs that the walk needs exist. */
static zero_status_t check_programs(const zero_checker_t *c)
{
    const zero_spec_t *spec = c->plan->spec;
    int32_t found[ZERO_PROGRAM_KINDS] = {0}, wanted[ZERO_PROGRAM_KINDS] = {0};
    for (int32_t i = 0; i < c->plan->program_count; i++) {
        const zero_program_t *p = &c->plan->programs[i];
        bool in_range = (unsigned)p->kind < ZERO_PROGRAM_KINDS &&
                        (p->kind >= ZERO_PROGRAM_STEP ? p->pass == -1 : p->pass >= 0 && p->pass < spec->pass_count) &&
                        (p->kind == ZERO_PROGRAM_ANY ? p->unit >= 0 && p->unit < spec->unit_count : p->unit == -1);
        if (!in_range)
            return zero_check_fail(c, "program %d names a pass or unit that does not exist", i);
        found[p->kind]++;
    }
    for (int32_t i = 0; i < spec->pass_count; i++) {
        if (spec->passes[i].kind == ZERO_PASS_EVAL)
            wanted[ZERO_PROGRAM_EVAL]++;
        else if (spec->passes[i].kind == ZERO_PASS_ANY_ORDER)
            wanted[ZERO_PROGRAM_ANY] += spec->unit_count;
        else
            wanted[ZERO_PROGRAM_ONLY] = wanted[ZERO_PROGRAM_STEP] = 1;
    }
    if (spec->micro_steps > 1 && spec->chunk_count == 0)
        wanted[ZERO_PROGRAM_FIRST] = wanted[ZERO_PROGRAM_MIDDLE] = wanted[ZERO_PROGRAM_LAST] =
            wanted[ZERO_PROGRAM_ONLY];
    wanted[ZERO_PROGRAM_SAVE] = spec->saves;
    for (int k = 0; k < ZERO_PROGRAM_KINDS; k++)
        if (found[k] != wanted[k])
            return zero_check_fail(c, "there are %d programs of kind %s instead of %d", found[k],
                                   zero_program_name((zero_program_kind_t)k), wanted[k]);
    return ZERO_OK;
}

/* ---- the checker ------------------------------------------------------------------------------------------------ */

static zero_status_t prepare(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    size_t units = (size_t)plan->spec->unit_count, segments = (size_t)plan->segment_count;

    if (plan->event_count < 0 || plan->lasting_event_count < 0 || plan->lasting_event_count > plan->event_count)
        return zero_check_fail(c, "the plan has %d events, %d of them lasting", plan->event_count,
                               plan->lasting_event_count);
    c->events = calloc((size_t)plan->event_count + 1, sizeof *c->events);
    c->events_before = calloc((size_t)plan->event_count + 1, sizeof *c->events_before);
    c->recorded = calloc((size_t)plan->event_count + 1, sizeof *c->recorded);
    c->version = calloc(segments + 1, sizeof *c->version);
    c->updates = calloc((size_t)c->plan->part_count + 1, sizeof *c->updates);
    c->updated = calloc((size_t)c->plan->part_count + 1, sizeof *c->updated);
    c->unit_segment = calloc(units + 2, sizeof *c->unit_segment);
    c->grad_total = calloc(units + 1, sizeof *c->grad_total);
    c->grad_done = calloc(units + 1, sizeof *c->grad_done);
    c->open = calloc(units + 1, sizeof *c->open);
    c->written = calloc(segments * ZERO_CHECK_SAVED + 1, sizeof *c->written);
    if (c->events == NULL || c->events_before == NULL || c->recorded == NULL || c->version == NULL ||
        c->updates == NULL || c->updated == NULL || c->unit_segment == NULL || c->grad_total == NULL ||
        c->grad_done == NULL || c->open == NULL || c->written == NULL)
        return zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %zu units", units);
    for (int32_t p = 0; p < plan->spec->pass_count; p++)
        for (int32_t i = 0; i < plan->passes[p].use_count && plan->spec->passes[p].kind == ZERO_PASS_TRAIN; i++)
            c->grad_total[plan->passes[p].uses[i].unit] += (plan->passes[p].uses[i].flags & ZERO_GRAD) != 0;
    zero_status_t status = check_programs(c);
    if (status != ZERO_OK || (status = zero_check_tasks(c)) != ZERO_OK || (status = zero_check_numbers(c)) != ZERO_OK)
        return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        c->unit_segment[plan->segments[s].unit + 1]++;
    for (size_t u = 0; u < units; u++)
        c->unit_segment[u + 1] += c->unit_segment[u];
    return zero_check_cells_create(c);
}

static zero_status_t check_rank(const zero_plan_t *plan, int rank, zero_error_t *error)
{
    zero_checker_t c = {.plan = plan, .error = error, .rank = rank};
    zero_status_t status = prepare(&c);

    if (status == ZERO_OK)
        status = walk(&c);
    zero_check_cells_destroy(&c);
    free(c.events);
    free(c.events_before);
    free(c.recorded);
    free(c.version);
    free(c.updates);
    free(c.updated);
    free(c.unit_segment);
    free(c.grad_total);
    free(c.grad_done);
    free(c.open);
    free(c.written);
    return status;
}

/* Ranks of a stage differ only in the index of their slice. An operand is either the same on every rank (a whole
 * segment, or a part that is counted from the segment), or it lies in the own slice or the own shard, at a place that
 * does not depend on the index. So the first and the last rank of the stage cover all of them. */
zero_status_t zero_plan_check(const zero_plan_t *plan, zero_error_t *error)
{
    int ranks = plan->spec->world / plan->spec->mesh.pipe, first = plan->pipe * ranks;
    zero_status_t status = check_rank(plan, first, error);
    return status == ZERO_OK && ranks > 1 ? check_rank(plan, first + ranks - 1, error) : status;
}
