/* SPDX-License-Identifier: Apache-2.0 */
/* share.h - texts that only rank 0 reads. */
#ifndef TRAIN_SHARE_H
#define TRAIN_SHARE_H

#include "zero/zero.h"

/* Broadcasts rank 0's text of an option. Rank 0 reads *text (*bytes bytes, or NULL: it has none). The other ranks set
 * both, with a NUL behind the text, and free it. Collective. */
zero_status_t share_text(zero_comm_t *comm, const char *option, char **text, size_t *bytes, zero_error_t *error);

#endif
