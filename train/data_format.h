/* SPDX-License-Identifier: Apache-2.0 */
/* data_format.h - detects the format of a token file by its first bytes, not by its name. */
#ifndef TRAIN_DATA_FORMAT_H
#define TRAIN_DATA_FORMAT_H

#include "zero/zero.h"

/* The number of leading bytes that detection reads. */
enum { DATA_HEAD_BYTES = 4096 };

typedef struct data_format {
    const char *name; /* "text", "a token file of uint16", ...: files of one run have one */
    bool text;        /* one byte is one token */
    bool lines;       /* JSON lines: a text whose name ends in .jsonl or .ndjson */
    bool index;       /* an index of documents may be beside it */
    int width;        /* bytes of a token: 1, 2, 4 or 8 */
    bool negative;    /* the element type is signed; negative numbers are not tokens */
    int64_t start;    /* offset of the tokens in the file, bytes */
    int64_t count;    /* tokens */
} data_format_t;

/* Detects the format of a file of size bytes from head, its first bytes (size of them, at most DATA_HEAD_BYTES). A
 * token file starts with 256 int32: 20240520, 1, n, 0..., then n uint16; or 20240801, 7, n, 0..., then n uint32. A
 * numpy array has format version 1 to 3, one dimension, and type uint8, uint16, uint32, int32 or int64, little-endian.
 * Any other file is text. Errors: text with a name that ends in .bin or .npy, a git-lfs pointer, a size that
 * contradicts the header. The sentence names option and path. */
zero_status_t data_format_find(data_format_t *format, const char *option, const char *path, const unsigned char *head,
                               int64_t size, zero_error_t *error);

#endif
