/* SPDX-License-Identifier: Apache-2.0 */
/* data.h - tokens to train on: text files (a byte is a token), token files, numpy arrays, and the built-in corpus.
 * Windows and batches of them.
 *
 * Tokens t[0..n). Window i has inputs t[iT .. iT+T) and targets t[iT+1 .. iT+T+1), i < W = floor((n - 1) / T). Step s
 * (from 0) uses positions q = s G + j, j < G, of the endless sequence of windows: window q mod W, or with a shuffle a
 * permutation of the windows in each epoch q / W.
 */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "models/model.h"

typedef struct data data_t;

/* Opens a file: a token file, a numpy array or text, as its first bytes say (data_format.h). option ("--data") is named
 * in errors. The file is read in pieces when windows are, never mapped: a file that shrinks is an error, not a signal,
 * and no page of it counts as memory of this process. */
zero_status_t data_open(data_t **data, const char *option, const char *path, zero_error_t *error);
/* The built-in corpus, or (held_out) the numbers that it leaves out. */
zero_status_t data_open_corpus(data_t **data, bool held_out, zero_error_t *error);
/* Accepts NULL. */
void data_close(data_t *data);

int64_t data_tokens(const data_t *data);
bool data_is_text(const data_t *data);
/* W for sequences of T tokens. */
int64_t data_windows(const data_t *data, int64_t seq_len);

/* The window at position q (from 0): q mod W, or permuted where shuffle >= 0 is a seed. */
int64_t data_window_at(int64_t windows, int64_t shuffle, int64_t q);
/* Element i of a permutation of [0, n) that depends on key alone: a Feistel network over the next power of four, walked
 * until it falls below n (Black and Rogaway 2002). No table: any element at once, on any rank. */
int64_t data_permute(uint64_t key, int64_t n, int64_t i);

/* Inputs and targets (seq_len each) of a window. A token >= vocab is an error that names it. */
zero_status_t data_read(data_t *data, int64_t window, int64_t seq_len, int64_t vocab, int32_t *tokens, int32_t *targets,
                        zero_error_t *error);

/* That there is a window, and that every token of the first positions of the sequence of windows is below vocab. Reads
 * what they cover, once. */
zero_status_t data_check(data_t *data, int64_t seq_len, int64_t vocab, int64_t shuffle, int64_t positions,
                         zero_error_t *error);

/* A hash of the size and of pieces spread over the contents: tells files apart in a moment, however large. */
zero_status_t data_fingerprint(data_t *data, uint64_t *hash, zero_error_t *error);

#endif
