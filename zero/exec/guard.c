/* SPDX-License-Identifier: Apache-2.0 */
/* guard.c - finds callers that touch parameters and gradients outside of acquire and release, and the buffers of a task
 * outside of it.
 *
 * The memory of parameters and gradients, everything that shares slots with it, and the buffers of tasks are closed
 * unless the caller holds the unit, the task runs, or an operation uses them. In a process with AddressSanitizer,
 * closed memory is poisoned, so that code compiled with it reports an access. With config.guard it has no access
 * rights, so that the system ends the process at the access.
 *
 * A buffer has a count of users: the caller's hold and running operations; it is open while the count is not 0. Two
 * buffers of one slot are never open at the same time, because the plan orders a write to one after the last access to
 * the other.
 */
#include "zero/exec/internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

/* From AddressSanitizer's runtime, if the process has it. */
extern void __asan_poison_memory_region(const volatile void *address, size_t bytes) __attribute__((weak));
extern void __asan_unpoison_memory_region(const volatile void *address, size_t bytes) __attribute__((weak));

typedef struct cell {
    bool guarded, held;
    int32_t users; /* running operations, and the caller's hold */
} cell_t;

struct zero_exec_guard {
    pthread_mutex_t lock; /* operations run on several threads */
    bool poisons, protects;
    cell_t *cells; /* plan->buffer_count */
};

/* Opens or closes the memory of a buffer. */
static zero_status_t set(const zero_exec_t *x, int32_t buffer, bool open, zero_error_t *error)
{
    const zero_exec_guard_t *g = x->guard;
    const zero_buffer_t *b = &x->plan->buffers[buffer];
    uint64_t pages;
    if (g->protects && open && zero_round_up(b->bytes, x->device->caps.page, &pages) &&
        mprotect(x->base[buffer], pages, PROT_READ | PROT_WRITE) != 0)
        goto fail;
    if (g->poisons && open)
        __asan_unpoison_memory_region(x->base[buffer], b->bytes);
    if (g->poisons && !open)
        __asan_poison_memory_region(x->base[buffer], b->bytes);
    if (g->protects && !open && zero_round_up(b->bytes, x->device->caps.page, &pages) &&
        mprotect(x->base[buffer], pages, PROT_NONE) != 0)
        goto fail;
    return ZERO_OK;

fail:
    return zero_fail(error, ZERO_ERR_SYSTEM,
                     "config.guard cannot %s %llu bytes: mprotect: %s; if the reason is memory, raise the system's "
                     "vm.max_map_count, or turn config.guard off",
                     open ? "open" : "close", (unsigned long long)b->bytes, strerror(errno));
}

/* Adds or removes a user. */
static zero_status_t count(zero_exec_t *x, int32_t buffer, int32_t change, zero_error_t *error)
{
    cell_t *cell = &x->guard->cells[buffer];
    zero_status_t status = ZERO_OK;
    pthread_mutex_lock(&x->guard->lock);
    cell->users += change;
    if (cell->users == (change > 0 ? 1 : 0))
        status = set(x, buffer, change > 0, error);
    pthread_mutex_unlock(&x->guard->lock);
    return status;
}

zero_status_t zero_exec_guard_buffer(zero_exec_t *x, int32_t buffer, bool open, zero_error_t *error)
{
    return buffer >= 0 && x->guard->cells[buffer].guarded ? count(x, buffer, open ? 1 : -1, error) : ZERO_OK;
}

zero_status_t zero_exec_guard_op(zero_exec_t *x, const zero_op_t *op, bool open, zero_error_t *error)
{
    zero_status_t status = zero_exec_guard_buffer(x, op->src, open, error);
    if (status == ZERO_OK)
        status = zero_exec_guard_buffer(x, op->dst, open, error);
    /* An update works on all buffers of its part; parameters may be their own master weights. */
    int32_t list[ZERO_PART_BUFFERS];
    if (op->part >= 0)
        zero_part_buffers(&x->plan->parts[op->part], list);
    for (int i = 0; status == ZERO_OK && op->part >= 0 && i < ZERO_PART_BUFFERS; i++)
        status = zero_exec_guard_buffer(x, list[i], open, error);
    return status;
}

zero_status_t zero_exec_guard_unit(zero_exec_t *x, int32_t unit, uint32_t flags, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int32_t s = 0; status == ZERO_OK && s < x->plan->segment_count; s++) {
        const zero_segment_t *segment = &x->plan->segments[s];
        const int32_t buffers[] = {segment->buffer[ZERO_ROLE_PARAM], segment->buffer[ZERO_ROLE_GRAD]};
        const bool wanted[] = {flags & ZERO_READ, flags & ZERO_GRAD};
        for (int i = 0; segment->unit == unit && status == ZERO_OK && i < 2; i++) {
            cell_t *cell = buffers[i] >= 0 ? &x->guard->cells[buffers[i]] : NULL;
            if (!cell || cell->held == wanted[i])
                continue;
            cell->held = wanted[i];
            status = zero_exec_guard_buffer(x, buffers[i], wanted[i], error);
        }
    }
    return status;
}

zero_status_t zero_exec_guard_task(zero_exec_t *x, const zero_plan_task_t *task, bool open, zero_error_t *error)
{
    const int32_t buffers[] = {task->input,
                               task->output,
                               task->output_grad,
                               task->input_grad,
                               task->kept[ZERO_TIER_DEVICE],
                               task->kept[ZERO_TIER_HOST]};
    zero_status_t status = ZERO_OK;
    for (int i = 0; i < ZERO_TASK_BUFFERS && status == ZERO_OK; i++)
        status = zero_exec_guard_buffer(x, buffers[i], open, error);
    return status;
}

zero_status_t zero_exec_guard_create(zero_exec_t *x, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    bool poisons = __asan_poison_memory_region && __asan_unpoison_memory_region, protects = plan->spec->guard;
    zero_status_t status = ZERO_OK;
    if (!x->device->caps.host_memory || (!poisons && !protects))
        return ZERO_OK;
    zero_exec_guard_t *g = calloc(1, sizeof *g);
    cell_t *cells = calloc((size_t)plan->buffer_count + 1, sizeof *cells);
    if (!g || !cells || pthread_mutex_init(&g->lock, NULL) != 0) {
        free(cells);
        free(g);
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot allocate the guard of a plan of %d buffers",
                         plan->buffer_count);
    }
    *g = (zero_exec_guard_t){.lock = g->lock, .poisons = poisons, .protects = protects, .cells = cells};
    x->guard = g;
    for (int32_t s = 0; s < plan->segment_count; s++)
        for (int i = 0; i < 2; i++) {
            int32_t buffer = plan->segments[s].buffer[i ? ZERO_ROLE_GRAD : ZERO_ROLE_PARAM];
            if (buffer >= 0)
                cells[buffer].guarded = true;
        }
    for (int32_t b = 0; b < plan->buffer_count && status == ZERO_OK; b++) {
        const zero_buffer_t *buffer = &plan->buffers[b];
        cells[b].guarded = buffer->tier == ZERO_TIER_DEVICE && (cells[b].guarded || buffer->slot >= 0);
        if (cells[b].guarded)
            status = set(x, b, false, error);
    }
    return status;
}

void zero_exec_guard_destroy(zero_exec_t *x)
{
    zero_exec_guard_t *g = x->guard;
    if (!g)
        return;
    /* The memory must be returned accessible. */
    for (int32_t b = 0; b < x->plan->buffer_count; b++)
        if (g->cells[b].guarded)
            set(x, b, true, NULL);
    x->guard = NULL;
    pthread_mutex_destroy(&g->lock);
    free(g->cells);
    free(g);
}
