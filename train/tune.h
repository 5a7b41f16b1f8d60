/* SPDX-License-Identifier: Apache-2.0 */
/* tune.h - the file of --tune: the algorithm of each matrix product on a GPU. Rank 0 reads it, measures the missing
 * entries and writes it. The other ranks use rank 0's choices. */
#ifndef TRAIN_TUNE_H
#define TRAIN_TUNE_H

#include "zero/zero.h"

/* Reads the file as text. The caller frees it. "" if the file does not exist yet. */
zero_status_t tune_read(const char *path, char **text, zero_error_t *error);
/* Writes a file beside it and renames it, so that the file is never incomplete. */
zero_status_t tune_write(const char *path, const char *text, zero_error_t *error);
/* Broadcasts rank 0's text. Rank 0 reads *text; NULL there means that rank 0 has failed, and the others get
 * ZERO_ERR_PEER. The other ranks set *text, and free it. Collective. */
zero_status_t tune_share(zero_comm_t *comm, char **text, zero_error_t *error);

#endif
