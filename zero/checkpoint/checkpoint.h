/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.h - reads a whole checkpoint: what is behind zero_checkpoint_t. Every byte that it hands out has passed
 * the check of its hash. */
#ifndef ZERO_CHECKPOINT_CHECKPOINT_H
#define ZERO_CHECKPOINT_CHECKPOINT_H

#include "zero/checkpoint/manifest.h"

/* What it holds. Each parameter has a tensor of ZERO_STATE_PARAM, of its dtype and shape. Every tensor belongs to a
 * parameter and, unless its dtype is U8, has its shape. */
const zero_manifest_t *zero_checkpoint_manifest(const zero_checkpoint_t *checkpoint);

/* A parameter's tensor of a state, or NULL. */
const zero_tensor_entry_t *zero_checkpoint_find(const zero_checkpoint_t *checkpoint, zero_state_t state,
                                                const char *name);

/* Reads elements [first, first + count) of a tensor that zero_checkpoint_find gave, as they are stored. Of each window
 * that overlaps the range, it reads and checks the whole, so long ranges are cheapest. Windows inside the range go
 * straight to out. Any number of threads may read at the same time.
 * ZERO_ERR_FORMAT: bytes are not those that were written. */
zero_status_t zero_checkpoint_read(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor,
                                   int64_t first, int64_t count, void *out, zero_error_t *error);

/* How many elements from first on, 1 to most, to read at once: up to where the tensor or a window ends, if one does, so
 * that no window is read twice. first: an element of the tensor. most: at least 1. */
int64_t zero_checkpoint_fit(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor, int64_t first,
                            int64_t most);

/* Bytes of room for ranges of most bytes. */
#define ZERO_CHECKPOINT_ROOM(most) ((most) + 2 * ZERO_WINDOW_BYTES + 2 * ZERO_PAGE)
/* The same past the page cache where the file system allows it, which costs less processor time. room: of
 * ZERO_CHECKPOINT_ROOM, aligned to pages. *bytes: where in it the elements are, aligned for fp32. */
zero_status_t zero_checkpoint_read_pages(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor,
                                         int64_t first, int64_t count, void *room, const void **bytes,
                                         zero_error_t *error);

#endif
