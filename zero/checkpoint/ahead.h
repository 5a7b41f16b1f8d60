/* SPDX-License-Identifier: Apache-2.0 */
/* ahead.h - reads ranges of a checkpoint before they are needed: threads read and check the next ones while the caller
 * converts the last one. */
#ifndef ZERO_CHECKPOINT_AHEAD_H
#define ZERO_CHECKPOINT_AHEAD_H

#include "zero/checkpoint/checkpoint.h"

typedef struct zero_ahead zero_ahead_t;

/* An empty list of ranges of a checkpoint, which is borrowed. most: bytes of the largest. */
zero_status_t zero_ahead_make(zero_ahead_t **ahead, const zero_checkpoint_t *checkpoint, uint64_t most,
                              zero_error_t *error);

/* Appends elements [first, first + count) of a tensor; before the first zero_ahead_next. */
zero_status_t zero_ahead_add(zero_ahead_t *ahead, const zero_tensor_entry_t *tensor, int64_t first, int64_t count,
                             zero_error_t *error);

/* *bytes: the elements of the next range, in the order in which they were added, as they are stored; aligned for
 * fp32, and valid until the next call. Fails as zero_checkpoint_read does. */
zero_status_t zero_ahead_next(zero_ahead_t *ahead, const void **bytes, zero_error_t *error);

/* Accepts NULL. */
void zero_ahead_destroy(zero_ahead_t *ahead);

#endif
