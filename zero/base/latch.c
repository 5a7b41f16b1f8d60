/* SPDX-License-Identifier: Apache-2.0 */
/* latch.c - see latch.h. */
#include "zero/base/latch.h"

#include <sched.h>

enum { EMPTY = 0, CLAIMED, THERE };

zero_status_t zero_latch_check(const zero_latch_t *l, zero_error_t *error)
{
    int state = atomic_load_explicit(&l->state, memory_order_acquire);
    if (state == EMPTY)
        return ZERO_OK;
    for (; state != THERE; state = atomic_load_explicit(&l->state, memory_order_acquire))
        sched_yield();
    if (error)
        *error = l->error;
    return l->error.status;
}

bool zero_latch_claim(zero_latch_t *l)
{
    int empty = EMPTY;
    return atomic_compare_exchange_strong(&l->state, &empty, CLAIMED);
}

void zero_latch_publish(zero_latch_t *l)
{
    atomic_store_explicit(&l->state, THERE, memory_order_release);
}

bool zero_latch_set(zero_latch_t *l, const zero_error_t *error)
{
    if (!zero_latch_claim(l))
        return false;
    l->error = *error;
    zero_latch_publish(l);
    return true;
}
