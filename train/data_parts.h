/* SPDX-License-Identifier: Apache-2.0 */
/* data_parts.h - shared by the data*.c files: the files behind a stream of tokens, and reads from them. */
#ifndef TRAIN_DATA_PARTS_H
#define TRAIN_DATA_PARTS_H

#include "train/data.h"
#include "train/data_format.h"

/* The most tokens that data_tokens_read reads at once. */
enum { DATA_PIECE = 65536 };

typedef struct data_file {
    char *path;
    void *memory; /* its tokens; NULL: they are read from the file */
    data_format_t is;
    int64_t first; /* its first token in the stream */
    int file;      /* -1: not open now */
    bool keep;     /* open until the end: it has no name */
    int64_t used;  /* the number of the last read from it */
    int64_t *ends; /* its documents: the token of the file behind each; NULL: not known yet */
    int64_t documents;
} data_file_t;

/* Where a row begins: a token of the stream, in a document of a file. */
typedef struct row_start {
    int64_t token, document;
    int file;
} row_start_t;

struct data {
    char option[32], *name; /* name: of the files, for sentences */
    data_file_t *files;
    int count, open;
    int64_t reads, tokens;
    bool text;
    unsigned char *raw; /* DATA_PIECE * 8 bytes, aligned for any token */
    int64_t *piece;     /* DATA_PIECE */
    uint8_t *counts;    /* by token: 1 if it counts as a target; NULL: all do */
    data_layout_t layout;
    int64_t seq_len, rows, filled; /* filled: tokens of the rows without padding */
    row_start_t *starts;           /* (rows), unless rows are windows */
};

/* Reads tokens [first, first + count) of the stream unchecked, count <= DATA_PIECE. */
zero_status_t data_tokens_read(data_t *data, int64_t first, int64_t count, int64_t *out, zero_error_t *error);
/* Reads tokens [first, first + count), each of them below vocab. */
zero_status_t data_tokens_check(data_t *data, int64_t first, int64_t count, int64_t vocab, zero_error_t *error);
/* Puts tokens in memory in the place of a file's text; takes at over. Call it for the files in order. */
void data_put(data_t *data, data_file_t *file, int32_t *at, int64_t count);
/* Reads count inputs from token first on, and the targets behind each, as data_read does. */
zero_status_t data_tokens_get(data_t *data, int64_t first, int64_t count, int64_t vocab, int32_t *tokens,
                              int32_t *targets, zero_error_t *error);
/* Adds the documents to a hash of the data. */
uint64_t data_documents_hash(const data_t *data, uint64_t hash);
/* Fails for a token outside the model's vocabulary, at an index of the stream. */
zero_status_t data_no_token(const data_t *data, int64_t token, int64_t at, int64_t vocab, zero_error_t *error);

#endif
