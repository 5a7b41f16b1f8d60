/* SPDX-License-Identifier: Apache-2.0 */
/* latch.h - keeps the first failure of several threads. */
#ifndef ZERO_BASE_LATCH_H
#define ZERO_BASE_LATCH_H

#include "zero/base/base.h"

#include <stdatomic.h>

/* All zeros: no failure yet. */
typedef struct zero_latch {
    atomic_int state; /* 0: no failure; 1: a thread is writing it; 2: it is there, and stays */
    zero_error_t error;
} zero_latch_t;

/* ZERO_OK, or the failure into *error. Cheap: one load. */
zero_status_t zero_latch_check(const zero_latch_t *latch, zero_error_t *error);
/* Keeps *error, whose status is a failure. false: another one is there already. */
bool zero_latch_set(zero_latch_t *latch, const zero_error_t *error);

/* The same in two steps, for a failure that is costly to describe: the thread that zero_latch_claim returns true to
 * writes latch->error and calls zero_latch_publish. Until then zero_latch_check waits. */
bool zero_latch_claim(zero_latch_t *latch);
void zero_latch_publish(zero_latch_t *latch);

#endif
