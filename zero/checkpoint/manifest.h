/* SPDX-License-Identifier: Apache-2.0 */
/* manifest.h - what a checkpoint is: its step, its parameters, its files with a hash of every piece, and what the
 * program keeps with it. manifest.json is written last, by rename, so a folder that has one is whole. Its last member
 * is a hash of all text before it; that holds for every version of the format.
 *
 * A file's "blocks" are its pieces (zero_piece_t) in order of offsets: [offset, bytes, "hash"] of one run, or
 * [offset, bytes, "hash", count, stride]. */
#ifndef ZERO_CHECKPOINT_MANIFEST_H
#define ZERO_CHECKPOINT_MANIFEST_H

#include "zero/checkpoint/writer.h"

#define ZERO_MANIFEST_NAME "manifest.json"
enum {
    ZERO_MANIFEST_VERSION = 2,           /* 1, which is read too, has only pieces of one run */
    ZERO_MANIFEST_CALLER_MOST = 1 << 20, /* bytes that a program keeps with a checkpoint */
    ZERO_MANIFEST_MOST = 1 << 30         /* the longest text that is read, bytes */
};

typedef struct zero_manifest_param {
    char *name;
    zero_dtype_t dtype;
    bool trainable;
    int32_t ndim;
    int64_t shape[ZERO_MAX_DIMS];
} zero_manifest_param_t;

typedef struct zero_manifest_file {
    char *name; /* no folder */
    zero_state_t state;
    uint64_t bytes;
    uint64_t first, count; /* its pieces, in windows from its first byte to its last */
} zero_manifest_file_t;

/* Owns all that it points to. */
typedef struct zero_manifest {
    char *library; /* the version of libzero that wrote it */
    int64_t step, applied;
    float loss_scale;              /* of the next step; 0: the engine's was not dynamic */
    int64_t good_steps, overflows; /* updates since it changed; skipped steps until it shrinks */
    char *optimizer;
    zero_manifest_param_t *params; /* in the order of declaration */
    int param_count;
    zero_manifest_file_t *files;
    int file_count;
    zero_piece_t *pieces; /* in order of files, then of offsets */
    uint64_t piece_count;
    char *about; /* a JSON object of the program's; NULL: none */
    void *caller;
    size_t caller_bytes; /* 0 to ZERO_MANIFEST_CALLER_MOST */
} zero_manifest_t;

/* A manifest without parameters and files; what it is given is copied. about and caller may be NULL. On failure, as
 * with the functions below, the manifest is still to be cleared. ZERO_ERR_ARG: about is no JSON object, or caller is
 * too long. */
zero_status_t zero_manifest_begin(zero_manifest_t *manifest, int64_t step, int64_t applied, const char *optimizer,
                                  const char *about, const void *caller, size_t caller_bytes, zero_error_t *error);

/* Adds a copy of a parameter. */
zero_status_t zero_manifest_add(zero_manifest_t *manifest, const zero_manifest_param_t *param, zero_error_t *error);

/* Sets the files to those of the layouts, states[k] those of layouts[k]; pieces are those of all ranks, in any order.
 * ZERO_ERR_PLAN: they do not cover every file exactly once. */
zero_status_t zero_manifest_files(zero_manifest_t *manifest, const zero_layout_t *layouts, const zero_state_t *states,
                                  int count, const zero_piece_t *pieces, uint64_t piece_count, zero_error_t *error);

/* How many of a file's pieces, in order of offsets, are whole windows without a gap: they cover bytes [0, *end). */
uint64_t zero_manifest_cover(const zero_piece_t *pieces, uint64_t count, uint64_t *end);

/* The JSON text, ended by a newline; the caller frees it. */
zero_status_t zero_manifest_text(const zero_manifest_t *manifest, char **text, size_t *length, zero_error_t *error);

/* Makes the folder's checkpoint whole: returns when manifest.json is on the drive. */
zero_status_t zero_manifest_write(const zero_manifest_t *manifest, const char *folder, zero_error_t *error);

/* Takes nothing on trust. path is for the sentences. The manifest needs no clearing after a failure.
 * ZERO_ERR_FORMAT: it is broken. ZERO_ERR_UNSUPPORTED: it is of a newer version. */
zero_status_t zero_manifest_parse(zero_manifest_t *manifest, const char *text, size_t length, const char *path,
                                  zero_error_t *error);

/* The same with the file in a folder. ZERO_ERR_IO also if there is none: with ZERO_REASON_NO_CHECKPOINT. */
zero_status_t zero_manifest_read(zero_manifest_t *manifest, const char *folder, zero_error_t *error);

/* Whether a folder has a manifest that is as it was written. */
bool zero_manifest_check(const char *folder);

/* Accepts NULL and a struct of zeros, and leaves zeros. */
void zero_manifest_clear(zero_manifest_t *manifest);

/* "parameters", "master", "moment1", "moment2": how files and manifests name the states that checkpoints hold. NULL for
 * others. */
const char *zero_checkpoint_state_name(zero_state_t state);

#endif
