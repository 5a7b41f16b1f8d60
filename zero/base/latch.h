/* SPDX-License-Identifier: Apache-2.0 */
/* latch.h - keeps the first failure of several threads. */
#ifndef ZERO_BASE_LATCH_H
#define ZERO_BASE_LATCH_H

#include "zero/base/base.h"

#include <stdatomic.h>

/* All zeros: no failure yet. */
typedef struct zero_latch {
    atomic_int state; /* 0: no failure; 1: a thread is writing one; 2: complete and final */
    zero_error_t error;
} zero_latch_t;

/* Returns ZERO_OK, or copies the failure to *error. Cheap: one load. */
zero_status_t zero_latch_check(const zero_latch_t *latch, zero_error_t *error);
/* Keeps *error, whose status is a failure. Returns false if there is a failure already. */
bool zero_latch_set(zero_latch_t *latch, const zero_error_t *error);

/* The same in two steps, for a failure that is costly to describe. The thread for which zero_latch_claim returns true
 * writes latch->error and calls zero_latch_publish; until then zero_latch_check waits. */
bool zero_latch_claim(zero_latch_t *latch);
void zero_latch_publish(zero_latch_t *latch);

#endif
