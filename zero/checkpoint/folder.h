/* SPDX-License-Identifier: Apache-2.0 */
/* folder.h - a folder of checkpoints: FOLDER/step-N, N without leading zeros. One rank of a run works on it, and holds
 * its lock. Warnings go to a log function, which may be NULL. */
#ifndef ZERO_CHECKPOINT_FOLDER_H
#define ZERO_CHECKPOINT_FOLDER_H

#include "zero/checkpoint/manifest.h"

/* Where warnings go. */
typedef struct zero_folder_log {
    zero_log_fn log; /* may be NULL */
    void *ctx;
} zero_folder_log_t;

/* FOLDER/step-N; the caller frees it. NULL: no memory. */
char *zero_folder_step(const char *folder, int64_t step);

/* The steps that have a folder, whole or not, newest first. The caller frees *steps. */
zero_status_t zero_folder_list(const char *folder, int64_t **steps, int *count, zero_error_t *error);

/* The newest step with a manifest that can be read, and that manifest, which the caller clears. Those that are damaged
 * are skipped with a warning. ZERO_ERR_IO with ZERO_REASON_NO_CHECKPOINT: no step has a manifest. Any other failure
 * means that there may be checkpoints: the folder cannot be read; all manifests are damaged (the sentence is about the
 * newest one); the newest one is of a newer version of the format (ZERO_ERR_UNSUPPORTED). */
zero_status_t zero_folder_newest(const char *folder, int64_t *step, zero_manifest_t *manifest, zero_folder_log_t log,
                                 zero_error_t *error);

/* Removes a step, whole or not. The manifest goes first, so that what is left after a crash in the middle is no
 * checkpoint. Fails, and removes nothing, if the folder has something that no checkpoint has. Needs the lock. */
zero_status_t zero_folder_remove(const char *folder, int64_t step, zero_error_t *error);

/* Removes the folders of steps without a manifest. Needs the lock: another run's save may be one of them. What
 * cannot be removed gives a warning. */
zero_status_t zero_folder_clean(const char *folder, zero_folder_log_t log, zero_error_t *error);

/* Removes steps older than the `keep` newest whole ones (0: none), counting only manifests that are as they were
 * written. `written` is the step that has just been written: it is whole, and stays. Needs the lock. What cannot be
 * removed gives a warning. */
zero_status_t zero_folder_keep(const char *folder, int keep, int64_t written, zero_folder_log_t log,
                               zero_error_t *error);

/* Makes the folder if it is missing (not those that it is in), and locks it for this process until *lock is closed;
 * a process that ends leaves it. ZERO_ERR_IO with ZERO_REASON_FOLDER_IN_USE: another run has it. *lock is -1 on
 * failure. */
zero_status_t zero_folder_lock(const char *folder, int *lock, zero_error_t *error);

/* Whether ranks see one folder: one of them writes a token, whose number nobody else uses, then the others look for it.
 * *found is false where it is missing, or is another. The one that wrote it removes it when all have looked. */
zero_status_t zero_folder_token_write(const char *folder, uint64_t token, zero_error_t *error);
zero_status_t zero_folder_token_look(const char *folder, uint64_t token, bool *found, zero_error_t *error);
void zero_folder_token_remove(const char *folder, uint64_t token);

#endif
