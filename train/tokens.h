/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.h - text files to tokens, by a tokenizer. A file of JSON lines (its name ends in .jsonl or .ndjson) has a
 * document per line, in the member "text"; any other text is one document. Documents become what the tokenizers package
 * makes of them with its special tokens, one after the other. docs/tokens.md describes the files. */
#ifndef TRAIN_TOKENS_H
#define TRAIN_TOKENS_H

#include "tokenizer/tokenizer.h"
#include "train/data.h"
#include "train/lines.h"
#include "train/options.h"

/* Opens the file of --tokenizer, or the tokenizer.json of the model's folder. *tokenizer NULL: there is none. */
zero_status_t tokens_open(zero_tokenizer_t **tokenizer, const options_t *options, bool folder, zero_error_t *error);

/* Encodes the text of data, and puts the tokens, in a file without a name, in its place. */
zero_status_t tokens_replace(data_t *data, const zero_tokenizer_t *tokenizer, int threads, lines_t *lines,
                             zero_error_t *error);

/* --tokenize: writes FILE's tokens and the index of its documents, FILE with .bin and .bin.idx in place of its ending.
 * Neither file appears before it is complete. Prints what it wrote, and how many lines it left out, unless --quiet.
 * *writes: it began to write. */
zero_status_t tokens_file(const options_t *options, bool *writes, zero_error_t *error);

#endif
