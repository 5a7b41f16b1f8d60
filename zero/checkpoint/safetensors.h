/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - one .safetensors file: eight bytes with the length of a JSON header (little-endian); the header with
 * each tensor's dtype, shape and byte range; the data (https://huggingface.co/docs/safetensors, "Format"). */
#ifndef ZERO_CHECKPOINT_SAFETENSORS_H
#define ZERO_CHECKPOINT_SAFETENSORS_H

#include "zero/base/base.h"

/* The maximum size of a header or index in bytes: the limit of the format's own library. */
#define ZERO_HEADER_MOST 100000000u

typedef struct zero_tensor_entry {
    zero_tensor_info_t info; /* info.name belongs to the file */
    int file;                /* index of the file; set by a caller with several files */
    uint64_t offset, bytes;  /* offset from the start of the file */
} zero_tensor_entry_t;

typedef struct zero_safetensors {
    char *path;
    int fd;
    zero_tensor_entry_t *entries; /* sorted by name */
    int count;
    struct json_t *metadata; /* the "__metadata__", an object of texts; NULL: none */
} zero_safetensors_t;

/* Buffer for a piece of a file's text in an error message. */
typedef struct zero_quoted {
    char text[160];
} zero_quoted_t;

/* Returns the bits of an element of a dtype of the format ("F32", ...); 0 for any other dtype. */
uint32_t zero_tensor_bits(const char *dtype);

/* Copies text to *quoted, shortened and without control characters (a file may hold terminal escapes). Returns the
 * copy. */
const char *zero_quote(zero_quoted_t *quoted, const char *text);

/* Opens a regular file for reading and gives its size. Anything else is an error, also a git-lfs pointer; this never
 * blocks. *fd is -1 on failure. */
zero_status_t zero_open_file(const char *path, int *fd, uint64_t *bytes, zero_error_t *error);

/* Reads bytes bytes at offset. A file that is too short is an error: it was truncated after opening. path is for the
 * error message. */
zero_status_t zero_read_file(int fd, const char *path, uint64_t offset, void *out, uint64_t bytes, zero_error_t *error);

/* Opens the file and checks its complete header: JSON without duplicates, known dtypes, byte ranges that match the
 * shapes, cover the data without gaps or overlaps, and end where the file ends. Reads none of the data. On failure
 * there is nothing to close, but zero_safetensors_close may be called. */
zero_status_t zero_safetensors_open(zero_safetensors_t *file, const char *path, zero_error_t *error);

/* Returns the entry with this name, or NULL. */
const zero_tensor_entry_t *zero_safetensors_find(const zero_tensor_entry_t *entries, int count, const char *name);

/* Accepts NULL, and a zeroed struct with fd -1. */
void zero_safetensors_close(zero_safetensors_t *file);

#endif
