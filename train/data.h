/* SPDX-License-Identifier: Apache-2.0 */
/* data.h - training tokens from text files (one byte is one token; tokens.h puts a tokenizer's in their place), token
 * files, numpy arrays and the built-in corpus; windows and batches of tokens.
 *
 * Tokens are t[0..n). Window i has inputs t[iT .. iT+T) and targets t[iT+1 .. iT+T+1), i < W = floor((n - 1) / T). Step
 * s (from 0) uses positions q = s G + j, j < G, of an endless sequence of windows. Position q is window q mod W. With a
 * shuffle, each epoch q / W permutes the windows.
 *
 * Or documents are packed into rows of T tokens, which take the place of windows. A document of tokens d[0..k) has the
 * inputs d[0..k-1) and the targets d[1..k); one with more than T inputs is cut into pieces of T, each a document of its
 * own. Documents come in their order, and a row ends before the first one that does not fit (next fit). */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "models/model.h"

typedef struct data data_t;

/* Opens token files, numpy arrays or texts, and detects which by the first bytes (data_format.h). All of them have one
 * format; their tokens follow each other, as if the files were one. Errors name option ("--data") and the file. Reads
 * go through pread, not mmap: a file that shrinks causes an error, not a signal, and its pages do not count as memory
 * of this process. */
zero_status_t data_open_files(data_t **data, const char *option, char *const *paths, int count, zero_error_t *error);
zero_status_t data_open(data_t **data, const char *option, const char *path, zero_error_t *error);
/* Opens the built-in corpus. held_out: only the numbers that training never sees. */
zero_status_t data_open_corpus(data_t **data, bool held_out, zero_error_t *error);
/* Accepts NULL. */
void data_close(data_t *data);

/* Puts count tokens of width bytes (2 or 4, unsigned), from the start of an open file, in the place of all texts. The
 * data closes the file, and frees ends: the token behind each of the documents. */
void data_replace(data_t *data, int file, int width, int64_t count, int64_t *ends, int64_t documents);

/* The option that errors name, and the path of a file. NULL: there is no file with this index. */
const char *data_option(const data_t *data);
const char *data_path(const data_t *data, int index);
int64_t data_tokens(const data_t *data);
bool data_is_text(const data_t *data);
/* Whether the text is JSON lines. */
bool data_is_lines(const data_t *data);
/* W for sequences of T tokens. */
int64_t data_windows(const data_t *data, int64_t seq_len);

/* The window at position q (from 0): q mod W, or its permutation if shuffle >= 0, which is then the seed. */
int64_t data_window_at(int64_t windows, int64_t shuffle, int64_t q);
/* Element i of a permutation of [0, n) that depends only on key: a Feistel network over the next power of four,
 * iterated until the value is below n (Black and Rogaway 2002). It needs no table, so any rank computes any element at
 * once. */
int64_t data_permute(uint64_t key, int64_t n, int64_t i);

/* Reads inputs and targets (seq_len each) of a window. A token >= vocab is an error that names the token. */
zero_status_t data_read(data_t *data, int64_t window, int64_t seq_len, int64_t vocab, int32_t *tokens, int32_t *targets,
                        zero_error_t *error);

/* Checks that there is at least one window, and that each token of the first positions of the window sequence is below
 * vocab. Reads the tokens of these positions once. */
zero_status_t data_check(data_t *data, int64_t seq_len, int64_t vocab, int64_t shuffle, int64_t positions,
                         zero_error_t *error);

/* Hashes the sizes of the files and pieces spread over their contents. This distinguishes files quickly, whatever their
 * size. */
zero_status_t data_fingerprint(data_t *data, uint64_t *hash, zero_error_t *error);

/* ---- rows ------------------------------------------------------------------------------------------------------- */

typedef enum data_layout {
    DATA_WINDOWS = 0, /* a row is a window */
    DATA_PACKED,      /* documents are packed into rows */
    DATA_ONE_EACH,    /* each document begins a row, which cuts it off */
} data_layout_t;

/* A target that does not count: no token follows, or it is not to be learned. */
enum { DATA_IGNORED = -100 };

/* A row of T tokens. */
typedef struct data_row {
    int32_t *tokens, *targets; /* (T); padding has token 0 and target DATA_IGNORED */
    int32_t *starts;           /* (T): the index in the row of the first token of each token's document; padding is a
                                  document */
    int64_t used, counted;     /* tokens without padding; targets that count */
} data_row_t;

/* Finds the rows of seq_len tokens. The table of packed rows follows from the documents alone. A document is a text
 * file, a line of the built-in corpus, or what the index of a token file says: FILE.idx beside FILE, 8 bytes
 * "zeroidx1", the number of documents and the token behind each, as int64. Data without documents is an error. */
zero_status_t data_arrange(data_t *data, data_layout_t layout, int64_t seq_len, zero_error_t *error);
/* Rows of an epoch. Call it, and those below, after data_arrange. */
int64_t data_rows(const data_t *data);
/* Documents, unless rows are windows; and the share of the rows' tokens that is not padding. */
int64_t data_documents(const data_t *data);
double data_fill(const data_t *data);
/* Reads a row. The caller provides its arrays. A token >= vocab is an error that names the token. */
zero_status_t data_read_row(data_t *data, int64_t index, int64_t vocab, data_row_t *row, zero_error_t *error);
/* As data_check, of rows. */
zero_status_t data_check_rows(data_t *data, int64_t vocab, int64_t shuffle, int64_t positions, zero_error_t *error);

#endif
