/* SPDX-License-Identifier: Apache-2.0 */
/* writer.h - writes the files of some layouts into a folder, by position: each rank the ranges of tensors that it has,
 * in any order. What is written is hashed in pieces, so that a reader can tell whether it is what was written. A writer
 * keeps the list of its pieces, a buffer of at most ZERO_WRITER_BUFFER and no other data. One thread at a time uses
 * it. */
#ifndef ZERO_CHECKPOINT_WRITER_H
#define ZERO_CHECKPOINT_WRITER_H

#include "zero/checkpoint/layout.h"

/* The most bytes of a piece. Where a range is contiguous, pieces end at multiples of this, counted from their tensor's
 * first byte. */
#define ZERO_PIECE_BYTES ((uint64_t)1 << 20)

/* The most bytes of a window, see zero_piece_t: a reader has to have all of it for any byte of it. */
#define ZERO_WINDOW_BYTES ((uint64_t)4 << 20)

/* What a writer allocates for O_DIRECT when memory that it is given is not aligned for it. */
#define ZERO_WRITER_BUFFER ((uint64_t)4 << 20)

/* Runs of bytes of a file, and XXH3 of all of them in their order. Most pieces are one run. Where the rows of a matrix
 * are divided among ranks, a piece has a rank's part of many rows.
 *
 * Pieces fill windows: stride / bytes pieces with the same runs, of which each begins where the one before it ends its
 * first run, are the stride * count bytes from the first one's offset, each byte once. A piece of one run is a window
 * by itself. A file is windows without gaps. Plain words, so that ranks can exchange arrays of pieces. */
typedef struct zero_piece {
    uint32_t file;   /* counted over all layouts, in their order */
    uint32_t bytes;  /* of a run; bytes * count is 1 to ZERO_PIECE_BYTES */
    uint32_t count;  /* runs */
    uint32_t stride; /* from the begin of a run to that of the next, in bytes; with one run: bytes */
    uint64_t offset, hash;
} zero_piece_t;

/* Bytes of the window that a piece is of, at most ZERO_WINDOW_BYTES. */
static inline uint64_t zero_window_bytes(const zero_piece_t *piece)
{
    return (uint64_t)piece->stride * piece->count;
}
/* The number of its pieces. */
static inline uint32_t zero_window_pieces(const zero_piece_t *piece)
{
    return piece->stride / piece->bytes;
}

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

/* Writes runs of a tensor, which lie one behind another in memory: count of them, of `bytes` bytes each, the first at
 * offset, the next stride bytes behind the begin of the one before; stride is a multiple of bytes. What is between them
 * is written by calls with the same bytes, count and stride, on this rank or others. */
zero_status_t zero_writer_write_runs(zero_writer_t *writer, int layout, int tensor, uint64_t offset, uint64_t bytes,
                                     uint64_t count, uint64_t stride, const void *memory, zero_error_t *error);

/* Returns when all that this writer wrote is on the drive; the rank that created the files also waits for their names.
 * The files are closed. */
zero_status_t zero_writer_sync(zero_writer_t *writer, zero_error_t *error);

/* What has been written so far; valid until the next call. */
const zero_piece_t *zero_writer_pieces(const zero_writer_t *writer, uint64_t *count);

/* Closes the files and leaves them. Accepts NULL. */
void zero_writer_destroy(zero_writer_t *writer);

#endif
