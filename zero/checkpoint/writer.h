/* SPDX-License-Identifier: Apache-2.0 */
/* writer.h - writes the files of some layouts into a folder, by position: each rank the ranges of tensors that it has,
 * in any order. What is written is hashed in pieces, so that a reader can tell whether it is what was written. A writer
 * keeps the list of its pieces, a buffer of at most ZERO_WRITER_BUFFER and no other data. One thread at a time uses
 * it. */
#ifndef ZERO_CHECKPOINT_WRITER_H
#define ZERO_CHECKPOINT_WRITER_H

#include "zero/checkpoint/layout.h"

/* Pieces end at multiples of this, counted from their tensor's first byte. */
#define ZERO_PIECE_BYTES ((uint64_t)1 << 20)

/* What a writer allocates for O_DIRECT when memory that it is given is not aligned for it. */
#define ZERO_WRITER_BUFFER ((uint64_t)4 << 20)

/* A range of bytes of a file, and XXH3 of them. Plain words, so that ranks can exchange arrays of them. */
typedef struct zero_piece {
    uint32_t file;  /* counted over all layouts, in their order */
    uint32_t bytes; /* 1 to ZERO_PIECE_BYTES */
    uint64_t offset, hash;
} zero_piece_t;

typedef struct zero_writer zero_writer_t;

/* A writer of the files of the layouts, which are borrowed, in a folder. Touches no file. */
zero_status_t zero_writer_make(zero_writer_t **writer, const char *folder, const zero_layout_t *layouts, int count,
                               zero_error_t *error);

/* Makes the folder, which must not exist, and all its files in their full size with their headers. One rank does that,
 * before any rank writes. The file system reserves the space if it can, so a full drive shows here. */
zero_status_t zero_writer_create(zero_writer_t *writer, zero_error_t *error);

/* Writes bytes [offset, offset + bytes) of a tensor of a layout. Every byte of every tensor is written once, by one
 * rank. */
zero_status_t zero_writer_write(zero_writer_t *writer, int layout, int tensor, uint64_t offset, uint64_t bytes,
                                const void *memory, zero_error_t *error);

/* Returns when all that this writer wrote is on the drive; the rank that created the files also waits for their names.
 * The files are closed. */
zero_status_t zero_writer_sync(zero_writer_t *writer, zero_error_t *error);

/* What has been written so far; valid until the next call. */
const zero_piece_t *zero_writer_pieces(const zero_writer_t *writer, uint64_t *count);

/* Closes the files and leaves them. Accepts NULL. */
void zero_writer_destroy(zero_writer_t *writer);

#endif
