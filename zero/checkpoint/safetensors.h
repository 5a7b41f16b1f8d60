/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - one .safetensors file: eight bytes with the length of a JSON header (little-endian), the header,
 * which names each tensor's dtype, shape and range of bytes, and the data (https://huggingface.co/docs/safetensors,
 * "Format"). */
#ifndef ZERO_CHECKPOINT_SAFETENSORS_H
#define ZERO_CHECKPOINT_SAFETENSORS_H

#include "zero/base/base.h"

/* The longest header and index that are read, bytes: what the format's own library takes. */
#define ZERO_HEADER_MOST 100000000u

typedef struct zero_tensor_entry {
    zero_tensor_info_t info; /* info.name belongs to the file that it came from */
    int file;                /* which of several files; set by who has several */
    uint64_t offset, bytes;  /* in the file, from its start */
} zero_tensor_entry_t;

typedef struct zero_safetensors {
    char *path;
    int fd;
    zero_tensor_entry_t *entries; /* in order of names */
    int count;
} zero_safetensors_t;

/* Room for a piece of a file's text in a sentence. */
typedef struct zero_quoted {
    char text[160];
} zero_quoted_t;

/* Bits of an element of a dtype of the format ("F32", ...); 0 where there is no such dtype. */
uint32_t zero_tensor_bits(const char *dtype);

/* text cut to what a sentence bears, without control characters (a file may hold escapes for the terminal). The result
 * lives in *quoted. */
const char *zero_quote(zero_quoted_t *quoted, const char *text);

/* Opens a regular file for reading, without waiting where it is none, and says its size. A git-lfs pointer is an error.
 * *fd is -1 on failure. */
zero_status_t zero_open_file(const char *path, int *fd, uint64_t *bytes, zero_error_t *error);

/* bytes bytes from offset. An end of the file before them is an error: the file was cut after it had been opened. path
 * is for the sentence. */
zero_status_t zero_read_file(int fd, const char *path, uint64_t offset, void *out, uint64_t bytes, zero_error_t *error);

/* Opens the file and checks its header whole: JSON without duplicates, known dtypes, shapes that give the ranges'
 * lengths, ranges that cover the data without a gap or an overlap, and nothing behind them. Reads none of the data. On
 * failure nothing is left to close, but zero_safetensors_close may be called all the same. */
zero_status_t zero_safetensors_open(zero_safetensors_t *file, const char *path, zero_error_t *error);

/* The entry of a name, or NULL. */
const zero_tensor_entry_t *zero_safetensors_find(const zero_tensor_entry_t *entries, int count, const char *name);

/* Accepts NULL, and a struct of zeros with fd -1. */
void zero_safetensors_close(zero_safetensors_t *file);

#endif
