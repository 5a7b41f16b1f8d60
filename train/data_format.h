/* SPDX-License-Identifier: Apache-2.0 */
/* data_format.h - what a file of tokens is, by its first bytes and not by its name. */
#ifndef TRAIN_DATA_FORMAT_H
#define TRAIN_DATA_FORMAT_H

#include "zero/zero.h"

/* As many of a file's first bytes as are looked at. */
enum { DATA_HEAD_BYTES = 4096 };

typedef struct data_format {
    bool text;     /* a byte is a token */
    int width;     /* bytes of a token: 1, 2, 4 or 8 */
    bool negative; /* whether its type has numbers below 0, which are no tokens */
    int64_t start; /* of the tokens in the file, bytes */
    int64_t count; /* tokens */
} data_format_t;

/* What the file of size bytes is whose first bytes are head (size, at most DATA_HEAD_BYTES). A token file: 256 int32,
 * 20240520, 1, n, 0..., and n uint16; or 20240801, 7, n, 0..., and n uint32. A numpy array: version 1 to 3 of its
 * format, one dimension, uint8, uint16, uint32, int32 or int64, little-endian. Else text; a name that promises one of
 * the former (.bin, .npy) is then an error, and so are a git-lfs pointer and a size that is not the header's. option
 * and path are for the sentence. */
zero_status_t data_format_find(data_format_t *format, const char *option, const char *path, const unsigned char *head,
                               int64_t size, zero_error_t *error);

#endif
