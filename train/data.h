/* SPDX-License-Identifier: Apache-2.0 */
/* data.h - training tokens from text files (one byte is one token; tokens.h puts a tokenizer's in their place), token
 * files, numpy arrays and the built-in corpus; windows and batches of tokens.
 *
 * Tokens are t[0..n). Window i has inputs t[iT .. iT+T) and targets t[iT+1 .. iT+T+1), i < W = floor((n - 1) / T). Step
 * s (from 0) uses positions q = s G + j, j < G, of an endless sequence of windows. Position q is window q mod W. With a
 * shuffle, each epoch q / W permutes the windows. */
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

/* The option that errors name, and the path of a file. NULL: there is no file with this index. */
const char *data_option(const data_t *data);
const char *data_path(const data_t *data, int index);
/* Puts count tokens of width bytes (2 or 4, unsigned), from the start of an open file, in the place of all files. The
 * data closes the file. */
void data_replace(data_t *data, int file, int width, int64_t count);

int64_t data_tokens(const data_t *data);
bool data_is_text(const data_t *data);
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

#endif
