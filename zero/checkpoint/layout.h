/* SPDX-License-Identifier: Apache-2.0 */
/* layout.h - the places of tensors in safetensors files. They depend only on names, shapes, dtypes and a maximum file
 * size, so every rank computes the same layout without reading a file. */
#ifndef ZERO_CHECKPOINT_LAYOUT_H
#define ZERO_CHECKPOINT_LAYOUT_H

#include "zero/checkpoint/safetensors.h"

/* In each file the data begin at a multiple of this; spaces pad the header. */
#define ZERO_LAYOUT_ALIGN 4096

typedef struct zero_layout_file {
    char *name;            /* BASE.safetensors, or BASE-00001-of-00003.safetensors; no folder */
    char *header;          /* header_bytes bytes: the length, the JSON text, spaces */
    uint64_t header_bytes; /* a multiple of ZERO_LAYOUT_ALIGN */
    uint64_t bytes;        /* of the whole file */
} zero_layout_file_t;

typedef struct zero_layout {
    zero_tensor_entry_t *tensors; /* in the caller's order; the layout owns the names */
    int count;
    zero_layout_file_t *files;
    int file_count; /* 0 only without tensors */
} zero_layout_t;

/* Distributes tensors over files named after base. Reads each tensor's name, dtype (as safetensors spells it), ndim and
 * shape. A file takes the next tensors while their data have at most file_bytes bytes (0: no limit), but at least one;
 * a tensor is never divided. Within a file, tensors with larger elements come first, so that each begins at a multiple
 * of its element size; otherwise they keep their order. Zeroes *layout on failure.
 * ZERO_ERR_ARG: a name that is not UTF-8, appears twice or is "__metadata__"; an unknown dtype, or one smaller than a
 * byte; a bad shape; more than 2^60 bytes; a header that is longer than ZERO_HEADER_MOST. */
zero_status_t zero_layout_make(zero_layout_t *layout, const char *base, const zero_tensor_info_t *tensors, int count,
                               uint64_t file_bytes, zero_error_t *error);

/* Writes Hugging Face's index of these files (BASE.safetensors.index.json) to *text, with a final newline. The caller
 * frees it. */
zero_status_t zero_layout_index(const zero_layout_t *layout, char **text, zero_error_t *error);

/* Frees the contents and zeroes *layout. Accepts NULL and a zeroed struct. */
void zero_layout_clear(zero_layout_t *layout);

#endif
