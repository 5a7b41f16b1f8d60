/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - conversations in JSON lines: a line becomes a document of tokens in which only the answers count. */
#ifndef TRAIN_CHAT_H
#define TRAIN_CHAT_H

#include "tokenizer/tokenizer.h"
#include "train/data.h"
#include "train/lines.h"

/* Values of --chat, in the order of the table's texts. */
typedef enum chat_template { CHAT_LLAMA3 = 0, CHAT_CHATML, CHAT_TEMPLATES } chat_template_t;

typedef struct chat_options {
    const zero_tokenizer_t *tokenizer;
    int64_t template; /* a chat_template_t; -1: the one whose special tokens the tokenizer has */
    int threads;
    int64_t seq_len; /* an answer that this length cuts away whole is wrong; 0: nothing is cut away */
} chat_options_t;

/* Whether data is JSON lines whose first line has a conversation: "messages", or "prompt" and "completion". */
zero_status_t chat_detect(data_t *data, bool *chat, zero_error_t *error);

/* Replaces the text of data by the tokens of its conversations, in memory. A line is an object with "messages", an
 * array of {"role": "system", "user" or "assistant", "content": TEXT}, or with the texts "prompt" and "completion",
 * which are a user's message and its answer. Empty lines are none. Targets count that are tokens of an answer's text,
 * or the token that ends it (docs/data.md has the templates). Errors name the file and the line. */
zero_status_t chat_read(data_t *data, const chat_options_t *options, lines_t *lines, int64_t *conversations,
                        zero_error_t *error);

#endif
