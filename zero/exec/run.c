/* run.c - the loop over a program's operations, and the cursor that the caller's acquires and releases move. */
#include "zero/exec/internal.h"

#include <stdio.h>

static const char *unit_name(const zero_exec_t *x, int32_t unit)
{
    return unit >= 0 && unit < x->plan->spec->unit_count ? x->plan->spec->units[unit].name : "?";
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
        return ZERO_OK;
    case ZERO_OP_RECORD:
        return device->record(x->events[op->event], stream, error);
    case ZERO_OP_WAIT:
        return device->wait(stream, x->events[op->event], x->options.timeout_s, error);
    case ZERO_OP_HOST_WAIT:
        return zero_exec_wait_for(x, NULL, x->events[op->event], error);
    case ZERO_OP_EXCHANGE:
        x->rate = x->pending_rate;
        x->signals = x->pending_signals;
        status = device->enqueue(stream, zero_exec_task, x, op, error);
        if (status == ZERO_OK)
            status = device->record(x->exchanged, stream, error);
        x->exchange_issued = true;
        return status;
    default:
        return device->enqueue(stream, zero_exec_task, x, op, error);
    }
}

static zero_status_t run_one(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    zero_error_t local; /* large, and written only where something fails */
    local.text[0] = '\0';
    zero_status_t status = issue(x, op, &local);
    if (status == ZERO_OK)
        return ZERO_OK;
    local.status = status;
    status = zero_exec_failed(x, op, &local);
    return zero_fail(error, status, "%s", local.text);
}

/* Leaves word of the cursor for the other ranks: zero_exec_failed() reads it. */
static void tell(zero_exec_t *x)
{
    zero_comm_t *comm = x->channels[0];
    comm->ops->tell(comm, zero_exec_word(x, x->program, x->cursor));
}

/* How far advance() goes: to the caller's next access; as far without making the calling thread wait; to the program's end. */
typedef enum reach { TO_ACCESS, WITHOUT_WAITING } reach_t;

/* Runs operations from the cursor on. A USE is the caller's to start; a RELEASE is run once the caller released that use or passed
 * it over. A wait on the compute stream may block the caller, so it is left until the caller asks for what is behind it. */
static zero_status_t advance(zero_exec_t *x, reach_t reach, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    for (; x->cursor < program->op_count; x->cursor++) {
        const zero_op_t *op = &program->ops[x->cursor];
        tell(x);
        if (op->kind == ZERO_OP_USE)
            return ZERO_OK;
        if (op->kind == ZERO_OP_RELEASE && x->use_states[op->use] == ZERO_USE_OPEN)
            return ZERO_OK;
        if (reach == WITHOUT_WAITING &&
            (op->kind == ZERO_OP_HOST_WAIT || (op->kind == ZERO_OP_WAIT && op->stream == ZERO_STREAM_COMPUTE)))
            return ZERO_OK;
        zero_status_t status = run_one(x, op, error);
        if (status != ZERO_OK)
            return status;
    }
    tell(x);
    return ZERO_OK;
}

zero_status_t zero_exec_begin(zero_exec_t *x, int32_t program, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program >= 0)
        return zero_fail(error, ZERO_ERR_ORDER, "the program before has not ended");
    if (program < 0 || program >= x->plan->program_count)
        return zero_fail(error, ZERO_ERR_PLAN, "the plan has no program %d", program);
    x->program = program;
    x->cursor = 0;
    memset(x->use_states, ZERO_USE_AHEAD, (size_t)x->use_capacity);
    return advance(x, WITHOUT_WAITING, error);
}

/* The cursor of the next USE of the unit, provided that the caller holds nothing that has to be released before it. */
static zero_status_t find_use(const zero_exec_t *x, int32_t unit, int32_t *found, zero_error_t *error)
{
    const zero_program_t *program = &x->plan->programs[x->program];
    int32_t held = -1, next = -1, last = -1;
    for (int32_t i = x->cursor; i < program->op_count; i++) {
        const zero_op_t *op = &program->ops[i];
        if (op->kind == ZERO_OP_RELEASE && held < 0 && x->use_states[op->use] == ZERO_USE_OPEN)
            held = op->unit;
        if (op->kind != ZERO_OP_USE)
            continue;
        if (next < 0)
            next = i;
        if (op->unit != unit)
            continue;
        if (held >= 0)
            return zero_fail(
                error, ZERO_ERR_ORDER,
                "unit '%s' is still held where unit '%s' is acquired: release it first, or declare its use with ZERO_HOLD",
                unit_name(x, held), unit_name(x, unit));
        *found = i;
        return ZERO_OK;
    }
    for (int32_t i = 0; i < x->cursor; i++)
        if (program->ops[i].kind == ZERO_OP_USE && program->ops[i].unit == unit)
            last = i;
    const char *pass = program->pass >= 0 ? x->plan->spec->passes[program->pass].name : "?";
    char after[200] = "the pass has no further uses";
    if (next >= 0)
        snprintf(after, sizeof after, "the next use is number %d, of unit '%s'", program->ops[next].use,
                 unit_name(x, program->ops[next].unit));
    if (last < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is not used in pass '%s': declare it with zero_use_add (%s)",
                         unit_name(x, unit), pass, after);
    return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is acquired too late: its last use in pass '%s' is number %d, and %s",
                     unit_name(x, unit), pass, program->ops[last].use, after);
}

zero_status_t zero_exec_use(zero_exec_t *x, int32_t unit, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is acquired outside a micro-step", unit_name(x, unit));
    if (x->open_use[unit] >= 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is acquired twice: release it in between", unit_name(x, unit));
    int32_t target = -1;
    status = find_use(x, unit, &target, error);
    if (status != ZERO_OK)
        return status;

    const zero_program_t *program = &x->plan->programs[x->program];
    for (;;) {
        status = advance(x, TO_ACCESS, error);
        if (status != ZERO_OK)
            return status;
        const zero_op_t *op = &program->ops[x->cursor]; /* a USE: no RELEASE before the target is of an open use */
        bool reached = x->cursor == target;
        x->use_states[op->use] = reached ? ZERO_USE_OPEN : ZERO_USE_DONE;
        x->cursor++;
        if (reached) {
            x->open_use[unit] = op->use;
            x->open_count++;
            return ZERO_OK;
        }
    }
}

zero_status_t zero_exec_release(zero_exec_t *x, int32_t unit, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0 || x->open_use[unit] < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is released but not held: acquire it first", unit_name(x, unit));
    x->use_states[x->open_use[unit]] = ZERO_USE_DONE;
    x->open_use[unit] = -1;
    x->open_count--;
    return advance(x, WITHOUT_WAITING, error);
}

zero_status_t zero_exec_end(zero_exec_t *x, zero_error_t *error)
{
    zero_status_t status = zero_exec_check(x, error);
    if (status != ZERO_OK)
        return status;
    if (x->program < 0)
        return zero_fail(error, ZERO_ERR_ORDER, "no program runs");
    for (int32_t unit = 0; unit < x->plan->spec->unit_count && x->open_count > 0; unit++)
        if (x->open_use[unit] >= 0)
            return zero_fail(error, ZERO_ERR_ORDER, "unit '%s' is still held: release it first", unit_name(x, unit));
    const zero_program_t *program = &x->plan->programs[x->program];
    while (x->cursor < program->op_count) {
        status = advance(x, TO_ACCESS, error);
        if (status != ZERO_OK)
            return status;
        if (x->cursor < program->op_count) /* a USE that was passed over */
            x->use_states[program->ops[x->cursor++].use] = ZERO_USE_DONE;
    }
    if (program->kind == ZERO_PROGRAM_STEP)
        atomic_fetch_add_explicit(&x->step, 1, memory_order_relaxed);
    x->program = -1;
    return ZERO_OK;
}
