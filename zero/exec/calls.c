/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - compares the calls of the ranks. Every collective carries a note of the call that it belongs to and of all
 * calls before, which the communicator compares. If they differ, the error says what each rank was doing.
 *
 * Streams may run behind the caller. So a task on its own stream records each call for a channel, and each channel
 * keeps its own calls.
 */
#include "zero/exec/internal.h"

#include <stdio.h>

_Static_assert(sizeof(zero_exec_report_t) <= sizeof((zero_comm_note_t *)0)->words, "a report fits the words of a note");

/* ---- reports ---------------------------------------------------------------------------------------------------- */

static bool is_training(const zero_exec_t *x, int32_t program)
{
    return program >= 0 && x->plan->programs[program].kind >= ZERO_PROGRAM_FIRST &&
           x->plan->programs[program].kind <= ZERO_PROGRAM_ONLY;
}

static bool same_run(const zero_exec_run_t *a, const zero_exec_run_t *b)
{
    return a->kind == b->kind && a->index == b->index && a->detail == b->detail;
}

/* Adds a call to those of a channel. */
static void record_call(const zero_exec_t *x, zero_exec_channel_calls_t *c, const zero_exec_call_t *call)
{
    zero_exec_report_t *t = &c->report;
    uint32_t what = (uint32_t)(call->program >= 0 ? call->program : call->index);
    if (call->kind == ZERO_CALL_WHOLE) /* zero_param_get and zero_param_set compare their parameters themselves */
        what = 0;
    t->digest = zero_splitmix64(zero_splitmix64(t->digest) ^ (uint64_t)call->kind << 32 ^ what);
    t->step += c->is_step;
    c->is_step = call->kind == ZERO_CALL_STEP;
    t->program = call->program;
    if (is_training(x, call->program)) {
        zero_program_kind_t kind = x->plan->programs[call->program].kind;
        t->micro = kind == ZERO_PROGRAM_FIRST || kind == ZERO_PROGRAM_ONLY ? 1 : t->micro + 1;
    }
    if (c->agreed)
        t->runs = t->omitted = 0;
    c->agreed = false;
    zero_exec_run_t run = {call->kind, call->index, call->detail, 1};
    if (call->kind == ZERO_CALL_FILL) /* consecutive fills are one run, with the last call and a digest of them all */
        run.detail = (int32_t)(uint32_t)t->digest;
    zero_exec_run_t *last = t->runs > 0 ? &t->run[t->runs - 1] : NULL;
    if (last && (same_run(&run, last) || (call->kind == ZERO_CALL_FILL && last->kind == ZERO_CALL_FILL))) {
        run.count = last->count + 1;
        *last = run;
    } else if (t->runs < ZERO_EXEC_RUNS)
        t->run[t->runs++] = run;
    else {
        t->omitted += (int32_t)last->count;
        *last = run;
    }
}

zero_comm_t *zero_exec_note(zero_exec_t *x, int channel, const zero_op_t *op)
{
    zero_exec_channel_calls_t *c = &x->channel_calls[channel];
    zero_exec_report_t *t = &c->report;
    c->group = op ? op->group : 0;
    zero_comm_t *comm = x->comms[c->group][channel];
    if (x->world == 1)
        return comm;
    /* Stages have different programs. */
    bool one_program = op && !(x->plan->spec->groups[op->group].axes & (ZERO_ALONG_PIPE | ZERO_ALONG_TIE));
    t->cursor = one_program ? (int32_t)(op - x->plan->programs[t->program].ops) : -1;
    c->note.key = zero_splitmix64(t->digest ^ (uint64_t)(uint32_t)t->cursor);
    if (op && !one_program)
        c->note.key = zero_splitmix64(c->note.key ^ ((uint64_t)op->kind << 32 | (uint32_t)op->segment));
    if (op && op->kind == ZERO_OP_EXCHANGE) { /* the numbers of zero_set_step matter here */
        t->step = x->scalars->step + 1;
        t->applied = x->scalars->applied;
        c->note.key = zero_splitmix64(c->note.key ^ zero_splitmix64((uint64_t)t->step) ^ (uint64_t)t->applied);
    }
    memcpy(c->note.words, t, sizeof *t);
    comm->note = &c->note;
    return comm;
}

static zero_status_t fail_calls_differ(const zero_exec_t *x, int channel, zero_error_t *error);

zero_status_t zero_exec_note_done(zero_exec_t *x, int channel, bool compared, zero_status_t status, zero_error_t *error)
{
    zero_exec_channel_calls_t *c = &x->channel_calls[channel];
    if (status != ZERO_OK || x->world == 1)
        return status == ZERO_ERR_MISMATCH ? fail_calls_differ(x, channel, error) : status;
    if (!compared || c->group > 0)
        return ZERO_OK;
    /* All calls up to now are the same on every rank. */
    c->agreed = true;
    c->report.run[0] = c->report.run[c->report.runs > 0 ? c->report.runs - 1 : 0];
    c->report.runs = c->report.runs > 0;
    c->report.omitted = 0;
    return ZERO_OK;
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

/* An exchange where the call begins. It finds calls that would otherwise wait for each other forever, on different
 * channels, in different groups of ranks or on a device. */
static zero_status_t compare_begin(zero_exec_t *x, zero_error_t *error)
{
    char nothing = 0;
    zero_comm_t *comm = zero_exec_note(x, 0, NULL);
    return zero_exec_note_done(x, 0, true, zero_control_exchange(comm, &nothing, &nothing, 0, error), error);
}

/* The task of a call on the stream of a channel. */
static zero_status_t on_channel(zero_exec_t *x, int channel, const void *arg, zero_error_t *error)
{
    record_call(x, &x->channel_calls[channel], arg);
    atomic_fetch_add_explicit(&x->calls_recorded[channel], 1, memory_order_release);
    /* With one channel and one group of all ranks, the first collective compares the calls. */
    bool compares =
        x->channel_count > 1 ? x->options.check_order : x->plan->spec->group_count > 1 || x->plan->spec->mesh.pipe > 1;
    if (channel > 0 || !compares)
        return ZERO_OK;
    zero_error_t local; /* large, and written only on failure */
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
    zero_exec_call_t *kept = &x->calls[x->calls_issued % ZERO_EXEC_CALLS];
    for (int c = 0; c < x->channel_count && status == ZERO_OK; c++)
        if (x->calls_issued - atomic_load_explicit(&x->calls_recorded[c], memory_order_acquire) >= ZERO_EXEC_CALLS)
            status = zero_exec_wait_for(x, stream_of(x, c), NULL, &local); /* the stream has not read this entry yet */
    *kept = *call;
    x->calls_issued++;
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
    zero_exec_call_kind_t kind = p->kind == ZERO_PROGRAM_STEP   ? ZERO_CALL_STEP
                                 : p->kind == ZERO_PROGRAM_SAVE ? ZERO_CALL_SAVE
                                                                : ZERO_CALL_PASS;
    return zero_exec_call(x, &(zero_exec_call_t){(int32_t)kind, p->pass, p->unit, program}, error);
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
    case ZERO_CALL_SAVE_OPEN:
    case ZERO_CALL_SAVE:
    case ZERO_CALL_SAVE_END:
        add(t, r->kind == ZERO_CALL_SAVE       ? "zero_save"
               : r->kind == ZERO_CALL_SAVE_END ? "zero_save_end"
                                               : "zero_save_open");
        break;
    case ZERO_CALL_LOAD:
        add(t, "zero_load");
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
static text_t place_of(const zero_exec_t *x, const zero_exec_report_t *report)
{
    const zero_exec_run_t *r = &report->run[report->runs - 1];
    const zero_program_t *p = report->program >= 0 ? &x->plan->programs[report->program] : NULL;
    bool passes = r->kind == ZERO_CALL_PASS, within = p && report->cursor >= 0;
    text_t t = {.used = 0};
    add(&t, "%s ", within ? "is in" : passes ? "begins" : "calls");
    if (p && is_train_pass(x, r) && x->plan->spec->micro_steps > 1)
        add(&t, "micro-step %d%s of ", report->micro,
            p->kind == ZERO_PROGRAM_LAST || p->kind == ZERO_PROGRAM_ONLY ? ", the step's last," : "");
    add_call(x, r, &t);
    if (!within)
        return t;
    const zero_op_t *op = &p->ops[report->cursor];
    if (passes && op->use >= 0 && r->detail < 0)
        add(&t, ", use %d", op->use);
    if (op->unit >= 0 && r->detail < 0)
        add(&t, " (unit '%.50s')", unit_name(x, op->unit));
    return t;
}

/* The calls of a rank: "pass 'eval' 3 times, 2 micro-steps of pass 'train'" */
static text_t history_of(const zero_exec_t *x, const zero_exec_report_t *report, int32_t from)
{
    text_t t = {.used = 0};
    for (int32_t i = from; i < report->runs; i++) {
        const zero_exec_run_t *r = &report->run[i];
        if (i > from)
            add(&t, ", ");
        if (report->omitted > 0 && i == report->runs - 1)
            add(&t, "%d other calls, ", report->omitted);
        bool micros = is_train_pass(x, r) && x->plan->spec->micro_steps > 1;
        if (micros)
            add(&t, "%u micro-step%s of ", r->count, r->count == 1 ? "" : "s");
        add_call(x, r, &t);
        if (!micros && r->kind != ZERO_CALL_FILL && r->count > 1)
            add(&t, " %u times", r->count);
    }
    return t;
}

/* Whether a report, which comes from another process, fits this plan. */
static bool is_valid(const zero_exec_t *x, const zero_exec_report_t *t)
{
    bool good = t->runs > 0 && t->runs <= ZERO_EXEC_RUNS && t->program < x->plan->program_count &&
                (t->program < 0 || t->cursor < x->plan->programs[t->program].op_count);
    for (int32_t i = 0; i < t->runs && good; i++) {
        const zero_exec_run_t *r = &t->run[i];
        good = r->kind == ZERO_CALL_PASS    ? r->index >= 0 && r->index < x->plan->spec->pass_count
               : r->kind == ZERO_CALL_WHOLE ? r->index < x->plan->spec->param_count
               : r->kind == ZERO_CALL_FILL  ? r->index >= 0 && r->index < x->plan->spec->param_count
                                            : r->kind > ZERO_CALL_PASS && r->kind <= ZERO_CALL_LOAD;
    }
    return good;
}

static bool same_calls(const zero_exec_run_t *a, const zero_exec_run_t *b)
{
    return same_run(a, b) && a->count == b->count;
}

/* The first run in which the reports differ; at most the last run of either. */
static int32_t first_difference(const zero_exec_report_t *a, const zero_exec_report_t *b)
{
    int32_t i = 0;
    while (i < a->runs - 1 && i < b->runs - 1 && same_calls(&a->run[i], &b->run[i]))
        i++;
    return i;
}

/* What the caller can do about it. */
static const char *advice(const zero_exec_t *x, const zero_exec_report_t *const reports[2], int32_t from)
{
    const zero_exec_run_t *a = &reports[0]->run[from], *b = &reports[1]->run[from];
    bool fills = a->kind == ZERO_CALL_FILL && b->kind == ZERO_CALL_FILL && !same_calls(a, b);
    /* omitted runs are unknown */
    bool all = reports[0]->omitted == 0 && reports[1]->omitted == 0, passes = all, trains = all, sums = all;
    for (int i = 0; i < 2; i++)
        for (int32_t r = from; r < reports[i]->runs; r++) {
            const zero_exec_run_t *run = &reports[i]->run[r];
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

/* Fails with what this rank and the rank that the communicator found were doing, in the order of their ranks. */
static zero_status_t fail_calls_differ(const zero_exec_t *x, int channel, zero_error_t *error)
{
    const zero_exec_channel_calls_t *c = &x->channel_calls[channel];
    const zero_comm_t *comm = x->comms[c->group][channel];
    const zero_exec_report_t *own = &c->report;
    zero_exec_report_t other;
    memcpy(&other, comm->other.note.words, sizeof other);
    if (comm->other.note.key == 0 || !is_valid(x, &other) || !is_valid(x, own))
        return ZERO_ERR_MISMATCH; /* the communicator's sentence is all that is known */
    int peer = zero_plan_member(x->plan->spec, c->group, x->rank, comm->other.rank);
    bool first = x->rank < peer;
    const zero_exec_report_t *const reports[2] = {first ? own : &other, first ? &other : own};
    const zero_exec_report_t *a = reports[0], *b = reports[1];
    int ranks[2] = {first ? x->rank : peer, first ? peer : x->rank};
    bool together = same_run(&a->run[a->runs - 1], &b->run[b->runs - 1]) && a->program == b->program &&
                    a->cursor == b->cursor && (!is_training(x, a->program) || a->micro == b->micro);
    if (together && a->digest == b->digest)
        return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, peer,
                                "rank %d is at step %lld after %lld updates, but rank %d is at step %lld after %lld: "
                                "pass the same numbers to zero_set_step on every rank",
                                ranks[0], (long long)a->step, (long long)a->applied, ranks[1], (long long)b->step,
                                (long long)b->applied);
    int32_t from = first_difference(a, b);
    text_t t = {.used = 0}, more = {.used = 0};
    if (a->step == b->step)
        add(&t, "in step %lld ", (long long)a->step);
    if (together)
        return zero_fail_reason(
            error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, peer,
            "%sranks %d and %d have made different calls since the ranks last exchanged data: rank %d ran "
            "%s; rank %d ran %s: %s",
            t.s, ranks[0], ranks[1], ranks[0], history_of(x, a, from).s, ranks[1], history_of(x, b, from).s,
            advice(x, reports, from));
    if (a->runs - from > 1 || b->runs - from > 1)
        add(&more, " (since the ranks last exchanged data, rank %d ran %.120s; rank %d ran %.120s)", ranks[0],
            history_of(x, a, from).s, ranks[1], history_of(x, b, from).s);
    return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, peer, "%srank %d %s; rank %d %s%s: %s",
                            t.s, ranks[0], place_of(x, a).s, ranks[1], place_of(x, b).s, more.s,
                            advice(x, reports, from));
}
