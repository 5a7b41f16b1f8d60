/* SPDX-License-Identifier: Apache-2.0 */
/* tune.h - the file of --tune: which algorithm computes each matrix product on a GPU. Rank 0 reads it, measures what it
 * lacks, and writes it; the others compute as rank 0 does. */
#ifndef TRAIN_TUNE_H
#define TRAIN_TUNE_H

#include "zero/zero.h"

/* The file as text, which the caller frees; "" where there is none yet. */
zero_status_t tune_read(const char *path, char **text, zero_error_t *error);
/* By way of a file beside it, so that it is never half written. */
zero_status_t tune_write(const char *path, const char *text, zero_error_t *error);
/* Rank 0's text to every rank: *text is read on rank 0, where NULL says that it has failed (the others get
 * ZERO_ERR_PEER), and set on the others, who free it. Collective. */
zero_status_t tune_share(zero_comm_t *comm, char **text, zero_error_t *error);

#endif
