/* SPDX-License-Identifier: Apache-2.0 */
/* layout.h - where tensors lie in the safetensors files that hold them. Names, shapes, dtypes and a size decide it
 * alone, so every rank computes the same files without reading one. */
#ifndef ZERO_CHECKPOINT_LAYOUT_H
#define ZERO_CHECKPOINT_LAYOUT_H

#include "zero/checkpoint/safetensors.h"

/* Data begin at a multiple of this in each file: spaces at the header's end fill it up. */
#define ZERO_LAYOUT_ALIGN 4096

typedef struct zero_layout_file {
    char *name;            /* BASE.safetensors, or BASE-00001-of-00003.safetensors; no folder */
    char *header;          /* header_bytes bytes: the length, the JSON text, spaces */
    uint64_t header_bytes; /* a multiple of ZERO_LAYOUT_ALIGN */
    uint64_t bytes;        /* of the whole file */
} zero_layout_file_t;

typedef struct zero_layout {
    zero_tensor_entry_t *tensors; /* in the order in which they were given; the names are the layout's own */
    int count;
    zero_layout_file_t *files;
    int file_count; /* 0 only where there are no tensors */
} zero_layout_t;

/* Lays the tensors out in files named after base. Of each tensor name, dtype (as safetensors spells it), ndim and shape
 * are read. A file takes the next tensors as long as their data have at most file_bytes bytes (0: no limit), and always
 * one; a tensor is never divided. Within a file, tensors with larger elements come first, so that each begins at a
 * multiple of its element size; otherwise they keep their order. The result is zeros after a failure.
 * ZERO_ERR_ARG: a name that is no UTF-8, appears twice or is "__metadata__"; an unknown dtype, or one smaller than a
 * byte; a bad shape; more than 2^60 bytes; a header that is longer than ZERO_HEADER_MOST. */
zero_status_t zero_layout_make(zero_layout_t *layout, const char *base, const zero_tensor_info_t *tensors, int count,
                               uint64_t file_bytes, zero_error_t *error);

/* The text of Hugging Face's index of these files (BASE.safetensors.index.json), ended by a newline. The caller frees
 * it. */
zero_status_t zero_layout_index(const zero_layout_t *layout, char **text, zero_error_t *error);

/* Accepts NULL and a struct of zeros, and leaves zeros. */
void zero_layout_clear(zero_layout_t *layout);

#endif
