/* SPDX-License-Identifier: Apache-2.0 */
/* lines.h - lines of JSON that are wrong: refused, or left out and counted (--skip-bad-lines). */
#ifndef TRAIN_LINES_H
#define TRAIN_LINES_H

#include "models/model.h"

typedef struct lines {
    bool any;        /* the data is JSON lines */
    bool skip;       /* leave them out */
    int64_t skipped; /* how many were left out */
    char first[400]; /* the first of them, and what is wrong with it */
} lines_t;

/* A line of a file is wrong. ZERO_ERR_FORMAT with the sentence, unless it is left out. */
zero_status_t lines_wrong(lines_t *lines, const char *option, const char *path, int64_t line, const char *reason,
                          zero_error_t *error);
/* Whether the line has only white space. */
bool lines_blank(const char *text, size_t bytes);

#endif
