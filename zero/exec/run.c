/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - the loop over a program's operations, and the cursor that the caller's acquires and releases move. */
#include "zero/exec/internal.h"

#include <stdio.h>

static const char *unit_name(const zero_exec_t *x, int32_t unit)
{
    return unit >= 0 && unit < x->plan->spec->unit_count ? x->plan->spec->units[unit].name : "?";
}

/* Makes the compute stream or the calling thread wait. A native stream waits later, so only a trace measures its
 * wait. */
static zero_status_t issue_wait(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    bool host = op->kind == ZERO_OP_HOST_WAIT;
    zero_exec_span_t *span = x->trace ? zero_exec_trace_issue(x, op) : NULL;
    zero_status_t status = span ? zero_exec_trace_stamp(x, span, 0, error) : ZERO_OK;
    uint64_t begin = zero_now_ns();
    if (status == ZERO_OK)
        status = host ? zero_exec_wait_for(x, NULL, x->events[op->event], error)
                      : x->device->ops->wait(x->streams[op->stream], x->events[op->event], x->options.timeout_s, error);
    if (!x->device->caps.launches)
        x->exposed_ns += zero_now_ns() - begin;
    return status == ZERO_OK && span ? zero_exec_trace_stamp(x, span, 1, error) : status;
}

static zero_status_t enqueue(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_exec_span_t *span = x->trace ? zero_exec_trace_issue(x, op) : NULL;
    zero_stream_t *stream = x->streams[op->stream];
    return span ? x->device->ops->enqueue(stream, zero_exec_trace_task, x, span, error)
                : x->device->ops->enqueue(stream, zero_exec_task, x, op, error);
}

/* Hands one operation to its stream. */
static zero_status_t issue(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    const zero_device_ops_t *device = x->device->ops;
    zero_stream_t *stream = x->streams[op->stream];
    zero_status_t status;
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_USE:
    case ZERO_OP_RELEASE:
    case ZERO_OP_TASK:
    case ZERO_OP_TASK_END:
        return ZERO_OK;
    case ZERO_OP_RECORD:
        return device->record(x->events[op->event], stream, error);
    case ZERO_OP_WAIT:
        if (op->stream != ZERO_STREAM_COMPUTE)
            return device->wait(stream, x->events[op->event], x->options.timeout_s, error);
        return issue_wait(x, op, error);
    case ZERO_OP_HOST_WAIT:
        return issue_wait(x, op, error);
    case ZERO_OP_EXCHANGE:
        x->rate = x->pending_rate;
        x->weight = x->pending_weight;
        x->pending_weight = -1;
        x->signals = x->pending_signals;
        status = enqueue(x, op, error);
        if (status == ZERO_OK)
            status = device->record(x->exchanged, stream, error);
        x->exchange_issued = true;
        return status;
    default:
        return enqueue(x, op, error);
    }
}

static zero_status_t run_one(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_error_t local; /* large, and written only on failure */
    local.text[0] = '\0';
    zero_status_t status = issue(x, op, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, op, &local);
    return zero_pass(error, status, &local);
}

/* Publishes the cursor to the other ranks; zero_exec_failed() reads it. */
static void publish(zero_exec_t *x)
{
    zero_comm_t *comm = x->comms[0][0];
    zero_comm_publish(comm, zero_exec_word(x, x->program, x->cursor));
}

/* Where advance() stops: at the caller's next access or the program's end; also before the calling thread would
 * wait. */
typedef enum reach { TO_ACCESS, WITHOUT_WAITING } reach_t;

/* Runs operations from the cursor. It stops at a USE, a TASK and a TASK_END, which are the caller's, and at a
 * COLLECTIVE and the RELEASE of a use that the caller still holds; collectives of other uses were skipped with them. A
 * wait on the compute stream may block the caller, so it is postponed until the caller needs what follows. */
static zero_status_t advance(zero_exec_t *x, reach_t reach, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    for (; x->cursor < program->op_count; x->cursor++) {
        const zero_op_t *op = &program->ops[x->cursor];
        publish(x);
        if (op->kind == ZERO_OP_USE || op->kind == ZERO_OP_TASK || op->kind == ZERO_OP_TASK_END)
            return ZERO_OK;
        bool calls = op->kind == ZERO_OP_COLLECTIVE;
        if ((op->kind == ZERO_OP_RELEASE || calls) && x->use_states[op->use] == ZERO_USE_OPEN)
            return ZERO_OK;
        if (calls)
            continue;
        if (reach == WITHOUT_WAITING &&
            (op->kind == ZERO_OP_HOST_WAIT || (op->kind == ZERO_OP_WAIT && op->stream == ZERO_STREAM_COMPUTE)))
            return ZERO_OK;
        zero_status_t status = run_one(x, op, error);
        if (status != ZERO_OK)
            return status;
    }
    publish(x);
    return ZERO_OK;
}

zero_status_t zero_exec_begin(zero_exec_t *x, int32_t program, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program >= 0)
        return zero_fail(error, ZERO_ERR_ORDER, "the previous program has not ended");
    if (program < 0 || program >= x->plan->program_count)
        return zero_fail(error, ZERO_ERR_PLAN, "the plan has no program %d", program);
    if ((status = zero_exec_call_program(x, program, error)) != ZERO_OK)
        return status;
    if (x->trace)
        zero_exec_trace_program(x, program);
    x->program = program;
    x->cursor = 0;
    memset(x->use_states, ZERO_USE_AHEAD, (size_t)x->use_capacity);
    return advance(x, WITHOUT_WAITING, error);
}

/* Refuses a use, at cursor target, that comes after a RELEASE, at cursor open, of a use that the caller still holds. */
static zero_status_t refuse_held(const zero_exec_t *x, int32_t open, int32_t target, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    const zero_op_t *held = &program->ops[open], *wanted = &program->ops[target];
    const char *held_name = unit_name(x, held->unit), *wanted_name = unit_name(x, wanted->unit);
    int32_t end = open; /* the last use of the chain, whose release ends the hold */
    while (program->ops[end].kind != ZERO_OP_USE)
        end--;
    if (program->ops[end].use != held->use)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "unit '%s' is still held where unit '%s' is acquired: its ZERO_HOLD lasts until use number %d "
                         "of the pass, of unit '%s', is released; release it by then",
                         held_name, wanted_name, program->ops[end].use, unit_name(x, program->ops[end].unit));
    bool next = wanted->use == held->use + 1;
    return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is still held where unit '%s' is acquired: release it first%s",
                     held_name, wanted_name, next ? ", or declare its use with ZERO_HOLD" : "");
}

/* Refuses a unit that has no more uses in the running pass. next: cursor of the pass's next use, or -1. */
static zero_status_t refuse_late(const zero_exec_t *x, int32_t unit, int32_t next, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    int32_t last = -1, count = 0;
    bool skipped = false; /* the unit's last use was skipped */
    for (int32_t i = 0; i < x->cursor; i++)
        if (program->ops[i].kind == ZERO_OP_USE && program->ops[i].unit == unit) {
            last = program->ops[i].use;
            skipped = x->use_states[last] == ZERO_USE_PASSED_OVER;
            count++;
        }
    const char *name = unit_name(x, unit), *pass = program->pass >= 0 ? x->plan->spec->passes[program->pass].name : "?";
    char after[200] = "the pass has no further uses";
    if (next >= 0)
        snprintf(after, sizeof after, "the next use is number %d, of unit '%s'", program->ops[next].use,
                 unit_name(x, program->ops[next].unit));
    if (last < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is not used in pass '%s': declare it with zero_use_add (%s)",
                         name, pass, after);
    if (skipped)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "unit '%s' is acquired too late: its last use in pass '%s' is number %d, and %s", name, pass,
                         last, after);
    return zero_fail(error, ZERO_ERR_ORDER,
                     "unit '%s' is acquired once more than pass '%s' declares: it has %d use%s of the unit, %snumber "
                     "%d; add another zero_use_add (%s)",
                     name, pass, count, count > 1 ? "s" : "", count > 1 ? "the last one " : "", last, after);
}

/* Refuses what the caller does instead of a declared collective. */
static zero_status_t refuse_before(const zero_exec_t *x, const zero_op_t *op, const char *what, const char *unit,
                                   zero_error_t *error)
{
    const int32_t pass = x->plan->programs[x->program].pass;
    const zero_spec_collective_t *c = zero_plan_collective(x->plan, pass, op->use, op->flags);
    return zero_fail(error, ZERO_ERR_ORDER,
                     "unit '%s' is %s, but pass '%s' declares a %s before that, of unit '%s': call zero_collective "
                     "first",
                     unit, what, x->plan->spec->passes[pass].name, zero_exec_collective_text(c).s,
                     unit_name(x, op->unit));
}

/* Finds the next USE of the unit in the task that runs. Fails if the caller holds a use that must be released before
 * it. */
static zero_status_t find_use(const zero_exec_t *x, int32_t unit, int32_t *found, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    int32_t open = -1, next = -1;
    for (int32_t i = x->cursor; i < program->op_count; i++) {
        const zero_op_t *op = &program->ops[i];
        if (op->kind == ZERO_OP_RELEASE && open < 0 && x->use_states[op->use] == ZERO_USE_OPEN)
            open = i;
        if (op->kind == ZERO_OP_TASK_END)
            break;
        if (op->kind == ZERO_OP_COLLECTIVE && open < 0 && x->use_states[op->use] == ZERO_USE_OPEN)
            return refuse_before(x, op, "acquired", unit_name(x, unit), error);
        if (op->kind != ZERO_OP_USE)
            continue;
        if (next < 0)
            next = i;
        if (op->unit != unit)
            continue;
        *found = i;
        return open < 0 ? ZERO_OK : refuse_held(x, open, i, error);
    }
    return refuse_late(x, unit, next, error);
}

/* Sets what the caller holds of the unit; op is NULL when it released the unit. */
static zero_status_t hold(zero_exec_t *x, const zero_op_t *op, int32_t unit, uint32_t flags, zero_error_t *error)
{
    zero_error_t local; /* large, and written only on failure */
    zero_status_t status = ZERO_OK;
    local.text[0] = '\0';
    if (x->trace && !op)
        status = zero_exec_trace_release(x, unit, &local);
    if (x->guard && status == ZERO_OK)
        status = zero_exec_guard_unit(x, unit, flags, &local);
    if (x->trace && op && status == ZERO_OK)
        status = zero_exec_trace_use(x, op, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    status = zero_exec_failed(x, op, &local);
    return zero_pass(error, status, &local);
}

zero_status_t zero_exec_use(zero_exec_t *x, int32_t unit, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is acquired outside a micro-step", unit_name(x, unit));
    if (x->open_use[unit] >= 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is acquired twice: release it in between",
                         unit_name(x, unit));
    int32_t target = -1;
    status = find_use(x, unit, &target, error);
    if (status != ZERO_OK)
        return status;

    const zero_program_t *program = &x->plan->programs[x->program];
    for (;;) {
        status = advance(x, TO_ACCESS, error);
        if (status != ZERO_OK)
            return status;
        const zero_op_t *op = &program->ops[x->cursor]; /* a USE: no open use has a RELEASE before target */
        bool reached = x->cursor == target;
        x->use_states[op->use] = reached ? ZERO_USE_OPEN : ZERO_USE_PASSED_OVER;
        x->cursor++;
        if (reached) {
            x->open_use[unit] = op->use;
            x->open_count++;
            return hold(x, op, unit, op->flags, error);
        }
    }
}

zero_status_t zero_exec_release(zero_exec_t *x, int32_t unit, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0 || x->open_use[unit] < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is released but not held: acquire it first",
                         unit_name(x, unit));
    const zero_program_t *program = &x->plan->programs[x->program];
    for (int32_t i = x->cursor; i < program->op_count && program->ops[i].kind == ZERO_OP_COLLECTIVE; i++)
        if (program->ops[i].use == x->open_use[unit])
            return refuse_before(x, &program->ops[i], "released", unit_name(x, unit), error);
    x->use_states[x->open_use[unit]] = ZERO_USE_DONE;
    x->open_use[unit] = -1;
    x->open_count--;
    if ((status = hold(x, NULL, unit, 0, error)) != ZERO_OK)
        return status;
    return advance(x, WITHOUT_WAITING, error);
}

static zero_status_t copy(zero_exec_t *x, const zero_spec_collective_t *given, const void *send, void *recv,
                          zero_error_t *error)
{
    const uint64_t bytes = (uint64_t)given->count * zero_dtype_size(given->dtype);
    if (send != recv)
        x->flat->copy(recv, send, bytes, x->device->options.threads, zero_exec_stream(x));
    (void)error;
    return ZERO_OK;
}

zero_status_t zero_exec_collective(zero_exec_t *x, const zero_spec_collective_t *given, const void *send, void *recv,
                                   zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0 || x->open_count == 0)
        return zero_fail(error, ZERO_ERR_ORDER, "a %s is called while no unit is held: acquire one first",
                         zero_exec_collective_text(given).s);
    const zero_mesh_t *mesh = &x->plan->spec->mesh;
    if ((given->axis == ZERO_AXIS_CONTEXT ? mesh->context : mesh->tensor) == 1)
        return copy(x, given, send, recv, error);
    if ((status = advance(x, TO_ACCESS, error)) != ZERO_OK)
        return status;
    const zero_program_t *program = &x->plan->programs[x->program];
    const zero_op_t *op = x->cursor < program->op_count ? &program->ops[x->cursor] : NULL;
    const bool calls = op && op->kind == ZERO_OP_COLLECTIVE;
    const zero_spec_collective_t *wanted =
        calls ? zero_plan_collective(x->plan, program->pass, op->use, op->flags) : NULL;
    if (!calls)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "a %s is called where pass '%s' declares no collective: declare it with zero_collective_add",
                         zero_exec_collective_text(given).s, x->plan->spec->passes[program->pass].name);
    if (wanted->axis != given->axis || wanted->kind != given->kind || wanted->count != given->count ||
        wanted->dtype != given->dtype)
        return zero_fail(error, ZERO_ERR_ORDER, "a %s is called where pass '%s' declares a %s for unit '%s'",
                         zero_exec_collective_text(given).s, x->plan->spec->passes[program->pass].name,
                         zero_exec_collective_text(wanted).s, unit_name(x, op->unit));
    x->collective.send = send;
    x->collective.recv = recv;
    if ((status = run_one(x, op, error)) == ZERO_OK)
        x->cursor++;
    return status;
}

static zero_status_t check_released(const zero_exec_t *x, zero_error_t *error)
{
    for (int32_t unit = 0; unit < x->plan->spec->unit_count && x->open_count > 0; unit++)
        if (x->open_use[unit] >= 0)
            return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is still held: release it first", unit_name(x, unit));
    return ZERO_OK;
}

/* Runs operations up to and including the next one of a kind, or to the end of the program. Passes over uses. */
static zero_status_t run_to(zero_exec_t *x, zero_op_kind_t kind, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    while (x->cursor < program->op_count) {
        zero_status_t status = advance(x, TO_ACCESS, error);
        if (status != ZERO_OK)
            return status;
        if (x->cursor == program->op_count)
            break;
        const zero_op_t *op = &program->ops[x->cursor++];
        if (op->kind == ZERO_OP_USE)
            x->use_states[op->use] = ZERO_USE_PASSED_OVER;
        else if (x->trace) {
            zero_error_t local = {0};
            if ((status = zero_exec_trace_turn(x, op, &local)) != ZERO_OK)
                return zero_pass(error, zero_exec_failed(x, op, &local), &local);
        }
        if (op->kind == kind)
            break;
    }
    return ZERO_OK;
}

/* Ends the task that runs, and begins another one; -1: none. */
static zero_status_t set_task(zero_exec_t *x, int32_t task, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    zero_error_t local; /* large, and written only on failure */
    zero_status_t status = ZERO_OK;
    local.text[0] = '\0';
    const int32_t tasks[] = {x->task, task};
    x->task = task;
    for (int i = 0; i < 2 && x->guard && status == ZERO_OK; i++)
        if (tasks[i] >= 0)
            status = zero_exec_guard_task(x, &x->plan->passes[program->pass].tasks[tasks[i]], i > 0, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    status = zero_exec_failed(x, NULL, &local);
    return zero_pass(error, status, &local);
}

zero_status_t zero_exec_next_task(zero_exec_t *x, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status == ZERO_OK && x->program < 0)
        status = zero_fail(error, ZERO_ERR_ORDER, "no program runs");
    if (status != ZERO_OK || (status = check_released(x, error)) != ZERO_OK ||
        (status = set_task(x, -1, error)) != ZERO_OK || (status = run_to(x, ZERO_OP_TASK, error)) != ZERO_OK)
        return status;
    return set_task(x, x->plan->programs[x->program].ops[x->cursor - 1].use, error);
}

zero_status_t zero_exec_end(zero_exec_t *x, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "no program runs");
    if ((status = check_released(x, error)) != ZERO_OK || (status = set_task(x, -1, error)) != ZERO_OK ||
        (status = run_to(x, ZERO_OP_COUNT, error)) != ZERO_OK)
        return status;
    const zero_program_t *program = &x->plan->programs[x->program];
    if (program->kind == ZERO_PROGRAM_STEP)
        atomic_fetch_add_explicit(&x->step, 1, memory_order_relaxed);
    x->program = -1;
    return ZERO_OK;
}
