/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - which calls the ranks make. Every collective carries a note of the call that it belongs to and of all calls
 * before, which the communicator compares; where ranks differ, the sentence says what each was doing.
 *
 * Streams may run behind the caller, so each channel is told of a call by a task on its own stream, and so has its own
 * course of them.
 */
#include "zero/exec/internal.h"

#include <stdio.h>

_Static_assert(sizeof(zero_exec_tale_t) <= sizeof((zero_comm_note_t *)0)->words, "a tale fits the words of a note");

/* ---- what is told ----------------------------------------------------------------------------------------------- */

static bool is_training(const zero_exec_t *x, int32_t program)
{
    return program >= 0 && x->plan->programs[program].kind >= ZERO_PROGRAM_FIRST &&
           x->plan->programs[program].kind <= ZERO_PROGRAM_ONLY;
}

static bool same_run(const zero_exec_run_t *a, const zero_exec_run_t *b)
{
    return a->kind == b->kind && a->index == b->index && a->detail == b->detail;
}

/* A channel's course goes on with a call. */
static void follow(const zero_exec_t *x, zero_exec_course_t *c, const zero_exec_call_t *call)
{
    zero_exec_tale_t *t = &c->tale;
    uint32_t what = (uint32_t)(call->program >= 0 ? call->program : call->index);
    if (call->kind == ZERO_CALL_WHOLE) /* which compares by itself what it is for */
        what = 0;
    t->digest = zero_splitmix64(zero_splitmix64(t->digest) ^ (uint64_t)call->kind << 32 ^ what);
    t->step += c->stepped;
    c->stepped = call->kind == ZERO_CALL_STEP;
    t->program = call->program;
    if (is_training(x, call->program)) {
        zero_program_kind_t kind = x->plan->programs[call->program].kind;
        t->micro = kind == ZERO_PROGRAM_FIRST || kind == ZERO_PROGRAM_ONLY ? 1 : t->micro + 1;
    }
    if (c->met)
        t->runs = t->lost = 0;
    c->met = false;
    zero_exec_run_t run = {call->kind, call->index, call->detail, 1};
    if (call->kind == ZERO_CALL_FILL) /* many in a row, of which one run has the last, and that of all before */
        run.detail = (int32_t)(uint32_t)t->digest;
    zero_exec_run_t *last = t->runs > 0 ? &t->run[t->runs - 1] : NULL;
    if (last && (same_run(&run, last) || (call->kind == ZERO_CALL_FILL && last->kind == ZERO_CALL_FILL))) {
        run.count = last->count + 1;
        *last = run;
    } else if (t->runs < ZERO_EXEC_RUNS)
        t->run[t->runs++] = run;
    else {
        t->lost += (int32_t)last->count;
        *last = run;
    }
}

zero_comm_t *zero_exec_note(zero_exec_t *x, int channel, const zero_op_t *op)
{
    zero_exec_course_t *c = &x->courses[channel];
    zero_exec_tale_t *t = &c->tale;
    c->comm = x->comms[op ? op->group : 0][channel];
    if (x->world == 1)
        return c->comm;
    t->cursor = op ? (int32_t)(op - x->plan->programs[t->program].ops) : -1;
    c->note.key = zero_splitmix64(t->digest ^ (uint64_t)(uint32_t)t->cursor);
    if (op && op->kind == ZERO_OP_EXCHANGE) { /* where the numbers that zero_set_step sets count */
        t->step = x->scalars->step + 1;
        t->applied = x->scalars->applied;
        c->note.key = zero_splitmix64(c->note.key ^ zero_splitmix64((uint64_t)t->step) ^ (uint64_t)t->applied);
    }
    memcpy(c->note.words, t, sizeof *t);
    c->comm->note = &c->note;
    return c->comm;
}

static zero_status_t differ(const zero_exec_t *x, const zero_exec_course_t *c, zero_error_t *error);

zero_status_t zero_exec_noted(zero_exec_t *x, int channel, bool compared, zero_status_t status, zero_error_t *error)
{
    zero_exec_course_t *c = &x->courses[channel];
    if (status != ZERO_OK || x->world == 1)
        return status == ZERO_ERR_MISMATCH ? differ(x, c, error) : status;
    if (!compared)
        return ZERO_OK;
    /* All that was called until now is the same on every rank. */
    c->met = true;
    c->tale.run[0] = c->tale.run[c->tale.runs > 0 ? c->tale.runs - 1 : 0];
    c->tale.runs = c->tale.runs > 0;
    c->tale.lost = 0;
    return ZERO_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

/* Ranks meet here where the call begins, which shows calls that would wait for each other on different channels, or on
 * a device, for ever. */
static zero_status_t compare_begin(zero_exec_t *x, zero_error_t *error)
{
    char nothing = 0;
    zero_comm_t *comm = zero_exec_note(x, 0, NULL);
    return zero_exec_noted(x, 0, true, zero_control_exchange(comm, &nothing, &nothing, 0, error), error);
}

/* The tasks of a call on the stream of each channel. */
static zero_status_t on_channel(zero_exec_t *x, int channel, const void *arg, zero_error_t *error)
{
    follow(x, &x->courses[channel], arg);
    atomic_fetch_add_explicit(&x->followed[channel], 1, memory_order_release);
    if (channel > 0 || x->channel_count == 1 || !x->options.check_order)
        return ZERO_OK;
    zero_error_t local; /* large, and written only where something fails */
    local.text[0] = '\0';
    zero_status_t status = compare_begin(x, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, NULL, &local);
    return zero_pass(error, status, &local);
}

static zero_status_t on_first(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)native;
    return on_channel(ctx, 0, arg, error);
}

static zero_status_t on_second(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)native;
    return on_channel(ctx, 1, arg, error);
}

static zero_stream_t *stream_of(const zero_exec_t *x, int channel)
{
    return x->streams[channel == x->channel_count - 1 ? ZERO_STREAM_REDUCE : ZERO_STREAM_GATHER];
}

zero_status_t zero_exec_call(zero_exec_t *x, const zero_exec_call_t *call, zero_error_t *error)
{
    zero_error_t local = {0};
    zero_status_t status = ZERO_OK;
    if (x->world == 1)
        return ZERO_OK;
    zero_exec_call_t *kept = &x->calls[x->called % ZERO_EXEC_CALLS];
    for (int c = 0; c < x->channel_count && status == ZERO_OK; c++)
        if (x->called - atomic_load_explicit(&x->followed[c], memory_order_acquire) >= ZERO_EXEC_CALLS)
            status = zero_exec_wait_for(x, stream_of(x, c), NULL, &local); /* which has yet to read its place */
    *kept = *call;
    x->called++;
    for (int c = 0; c < x->channel_count && status == ZERO_OK; c++)
        status = x->device->ops->enqueue(stream_of(x, c), c ? on_second : on_first, x, kept, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, NULL, &local);
    return zero_pass(error, status, &local);
}

zero_status_t zero_exec_call_program(zero_exec_t *x, int32_t program, zero_error_t *error)
{
    const zero_program_t *p = &x->plan->programs[program];
    bool step = p->kind == ZERO_PROGRAM_STEP;
    return zero_exec_call(x, &(zero_exec_call_t){step ? ZERO_CALL_STEP : ZERO_CALL_PASS, p->pass, p->unit, program},
                          error);
}

/* ---- sentences -------------------------------------------------------------------------------------------------- */

typedef struct text {
    char s[320];
    size_t used;
} text_t;

static __attribute__((format(printf, 2, 3))) void add(text_t *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->s + t->used, sizeof t->s - t->used, format, args);
    va_end(args);
    t->used += n > 0 ? (size_t)n : 0;
    t->used = t->used < sizeof t->s ? t->used : sizeof t->s - 1;
}

static const char *unit_name(const zero_exec_t *x, int32_t unit)
{
    return unit >= 0 && unit < x->plan->spec->unit_count ? x->plan->spec->units[unit].name : "?";
}

static bool is_train_pass(const zero_exec_t *x, const zero_exec_run_t *r)
{
    return r->kind == ZERO_CALL_PASS && x->plan->spec->passes[r->index].kind == ZERO_PASS_TRAIN;
}

/* "pass 'eval'", "zero_sum of 2 values" */
static void add_call(const zero_exec_t *x, const zero_exec_run_t *r, text_t *t)
{
    switch ((zero_exec_call_kind_t)r->kind) {
    case ZERO_CALL_PASS:
        add(t, "pass '%.50s'", x->plan->spec->passes[r->index].name);
        if (r->detail >= 0)
            add(t, ", unit '%.50s'", unit_name(x, r->detail));
        break;
    case ZERO_CALL_STEP:
        add(t, "zero_step");
        break;
    case ZERO_CALL_SUM:
        add(t, "zero_sum of %d value%s", r->index, r->index == 1 ? "" : "s");
        break;
    case ZERO_CALL_WHOLE:
        add(t, "%s", r->detail ? "zero_param_set" : "zero_param_get");
        if (r->index >= 0)
            add(t, " of parameter '%.50s'", x->plan->spec->params[r->index].name);
        break;
    case ZERO_CALL_FILL:
        add(t, "zero_param_fill");
        if (r->count > 1)
            add(t, " %u times, the last time", r->count);
        add(t, " of parameter '%.50s'", x->plan->spec->params[r->index].name);
        break;
    }
}

/* "is in pass 'train', use 3 (unit 'h.1')" */
static text_t place_of(const zero_exec_t *x, const zero_exec_tale_t *tale)
{
    const zero_exec_run_t *r = &tale->run[tale->runs - 1];
    const zero_program_t *p = tale->program >= 0 ? &x->plan->programs[tale->program] : NULL;
    bool passes = r->kind == ZERO_CALL_PASS, within = p && tale->cursor >= 0;
    text_t t = {.used = 0};
    add(&t, "%s ", within ? "is in" : passes ? "begins" : "calls");
    if (p && is_train_pass(x, r) && x->plan->spec->micro_steps > 1)
        add(&t, "micro-step %d%s of ", tale->micro,
            p->kind == ZERO_PROGRAM_LAST || p->kind == ZERO_PROGRAM_ONLY ? ", the step's last," : "");
    add_call(x, r, &t);
    if (!within)
        return t;
    const zero_op_t *op = &p->ops[tale->cursor];
    if (passes && op->use >= 0 && r->detail < 0)
        add(&t, ", use %d", op->use);
    if (op->unit >= 0 && r->detail < 0)
        add(&t, " (unit '%.50s')", unit_name(x, op->unit));
    return t;
}

/* What it ran: "pass 'eval' 3 times, 2 micro-steps of pass 'train'" */
static text_t history_of(const zero_exec_t *x, const zero_exec_tale_t *tale, int32_t from)
{
    text_t t = {.used = 0};
    for (int32_t i = from; i < tale->runs; i++) {
        const zero_exec_run_t *r = &tale->run[i];
        if (i > from)
            add(&t, ", ");
        if (tale->lost > 0 && i == tale->runs - 1)
            add(&t, "%d other calls, ", tale->lost);
        bool micros = is_train_pass(x, r) && x->plan->spec->micro_steps > 1;
        if (micros)
            add(&t, "%u micro-step%s of ", r->count, r->count == 1 ? "" : "s");
        add_call(x, r, &t);
        if (!micros && r->kind != ZERO_CALL_FILL && r->count > 1)
            add(&t, " %u times", r->count);
    }
    return t;
}

/* The words of a note are from another process: whether they are of this plan. */
static bool makes_sense(const zero_exec_t *x, const zero_exec_tale_t *t)
{
    bool good = t->runs > 0 && t->runs <= ZERO_EXEC_RUNS && t->program < x->plan->program_count &&
                (t->program < 0 || t->cursor < x->plan->programs[t->program].op_count);
    for (int32_t i = 0; i < t->runs && good; i++) {
        const zero_exec_run_t *r = &t->run[i];
        good = r->kind == ZERO_CALL_PASS    ? r->index >= 0 && r->index < x->plan->spec->pass_count
               : r->kind == ZERO_CALL_WHOLE ? r->index < x->plan->spec->param_count
               : r->kind == ZERO_CALL_FILL  ? r->index >= 0 && r->index < x->plan->spec->param_count
                                            : r->kind > ZERO_CALL_PASS && r->kind < ZERO_CALL_WHOLE;
    }
    return good;
}

static bool same_calls(const zero_exec_run_t *a, const zero_exec_run_t *b)
{
    return same_run(a, b) && a->count == b->count;
}

/* From which run on the tales differ; the last ones are always told. */
static int32_t difference(const zero_exec_tale_t *a, const zero_exec_tale_t *b)
{
    int32_t i = 0;
    while (i < a->runs - 1 && i < b->runs - 1 && same_calls(&a->run[i], &b->run[i]))
        i++;
    return i;
}

/* What the caller can do about it. */
static const char *advice(const zero_exec_t *x, const zero_exec_tale_t *const tales[2], int32_t from)
{
    const zero_exec_run_t *a = &tales[0]->run[from], *b = &tales[1]->run[from];
    bool fills = a->kind == ZERO_CALL_FILL && b->kind == ZERO_CALL_FILL && !same_calls(a, b);
    /* of runs that there is no room for, nobody knows what they are */
    bool all = tales[0]->lost == 0 && tales[1]->lost == 0, passes = all, trains = all, sums = all;
    for (int i = 0; i < 2; i++)
        for (int32_t r = from; r < tales[i]->runs; r++) {
            const zero_exec_run_t *run = &tales[i]->run[r];
            sums = sums && run->kind == ZERO_CALL_SUM;
            passes = passes && (run->kind == ZERO_CALL_PASS || run->kind == ZERO_CALL_STEP);
            trains = trains && (is_train_pass(x, run) || run->kind == ZERO_CALL_STEP);
        }
    return fills    ? "fill the same parameters in the same order on every rank"
           : sums   ? "give it the same number of values on every rank"
           : trains ? "run the same number of micro-steps in each step on every rank"
           : passes ? "begin the same passes in the same order on every rank"
                    : "make the same calls in the same order on every rank";
}

/* The sentence about this rank and the one that the communicator found, in the order of their ranks. */
static zero_status_t differ(const zero_exec_t *x, const zero_exec_course_t *c, zero_error_t *error)
{
    const zero_comm_t *comm = c->comm;
    const zero_exec_tale_t *own = &c->tale;
    zero_exec_tale_t other;
    memcpy(&other, comm->other.note.words, sizeof other);
    if (comm->other.note.key == 0 || !makes_sense(x, &other) || !makes_sense(x, own))
        return ZERO_ERR_MISMATCH; /* what the communicator says is all that is known */
    bool first = x->rank < comm->other.rank;
    const zero_exec_tale_t *const tales[2] = {first ? own : &other, first ? &other : own};
    const zero_exec_tale_t *a = tales[0], *b = tales[1];
    int ranks[2] = {first ? x->rank : comm->other.rank, first ? comm->other.rank : x->rank};
    bool together = same_run(&a->run[a->runs - 1], &b->run[b->runs - 1]) && a->program == b->program &&
                    a->cursor == b->cursor && (!is_training(x, a->program) || a->micro == b->micro);
    if (together && a->digest == b->digest)
        return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, comm->other.rank,
                                "rank %d is at step %lld after %lld updates, but rank %d is at step %lld after %lld: "
                                "pass the same numbers to zero_set_step on every rank",
                                ranks[0], (long long)a->step, (long long)a->applied, ranks[1], (long long)b->step,
                                (long long)b->applied);
    int32_t from = difference(a, b);
    text_t t = {.used = 0}, more = {.used = 0};
    if (a->step == b->step)
        add(&t, "in step %lld ", (long long)a->step);
    if (together)
        return zero_fail_reason(
            error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, comm->other.rank,
            "%sranks %d and %d have made different calls since the ranks last exchanged data: rank %d ran "
            "%s; rank %d ran %s: %s",
            t.s, ranks[0], ranks[1], ranks[0], history_of(x, a, from).s, ranks[1], history_of(x, b, from).s,
            advice(x, tales, from));
    if (a->runs - from > 1 || b->runs - from > 1)
        add(&more, " (since the ranks last exchanged data, rank %d ran %.120s; rank %d ran %.120s)", ranks[0],
            history_of(x, a, from).s, ranks[1], history_of(x, b, from).s);
    return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, comm->other.rank,
                            "%srank %d %s; rank %d %s%s: %s", t.s, ranks[0], place_of(x, a).s, ranks[1],
                            place_of(x, b).s, more.s, advice(x, tales, from));
}
