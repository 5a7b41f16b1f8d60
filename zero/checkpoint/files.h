/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - what the parts of a checkpoint do to files, each failure one sentence. A full drive has
 * ZERO_REASON_DRIVE_FULL. */
#ifndef ZERO_CHECKPOINT_FILES_H
#define ZERO_CHECKPOINT_FILES_H

#include "zero/checkpoint/safetensors.h"

/* folder and name as one path; the caller frees it. NULL: no memory. folder_length 0 is the current folder. */
char *zero_join_path(const char *folder, size_t folder_length, const char *name);

/* Whether a text that comes from outside names a file in a folder: no path, and nothing that a sentence could not show
 * as it is (control characters, or very long). */
bool zero_is_file_name(const char *name);

/* The failure of a call that left errno: "cannot WHAT 'FOLDER/NAME': ...". name may be NULL. */
zero_status_t zero_fail_file(zero_error_t *error, const char *what, const char *folder, const char *name);

/* The failure of a write that left errno. name may be NULL. */
zero_status_t zero_fail_write(zero_error_t *error, const char *folder, const char *name, uint64_t offset,
                              uint64_t count);

/* Writes all of it at offset. folder and name, which may be NULL, are for the sentence. */
zero_status_t zero_write_file(int fd, const char *folder, const char *name, uint64_t offset, const void *bytes,
                              uint64_t count, zero_error_t *error);

/* Gives a file its size. The file system reserves the space if it can, so that a full drive shows now. */
zero_status_t zero_reserve_file(int fd, const char *folder, const char *name, uint64_t bytes, zero_error_t *error);

/* fsync of a folder: the names in it are then on the drive. A file system that cannot is no failure. */
zero_status_t zero_sync_folder(const char *folder, zero_error_t *error);
/* The same of the folder that a path is in. */
zero_status_t zero_sync_parent(const char *path, zero_error_t *error);

#endif
