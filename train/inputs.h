/* SPDX-License-Identifier: Apache-2.0 */
/* inputs.h - the files that an option names: several values, patterns, and names separated by commas. */
#ifndef TRAIN_INPUTS_H
#define TRAIN_INPUTS_H

#include "train/options.h"

typedef struct inputs {
    char **paths;
    int count, room;
} inputs_t;

/* Finds the files of values, in order. A value is a file if a file has this whole name. Otherwise it is several values
 * separated by commas, or a pattern (glob(7)), whose matches are sorted by their bytes. A pattern that also matches
 * FILE leaves out its index of documents, FILE.idx. Any other value is a path, which fails when it is opened.
 * Errors name option ("--data"): a pattern without a match, an empty name between commas. Free *inputs in any case. */
zero_status_t inputs_find(inputs_t *inputs, const char *option, const option_list_t *values, zero_error_t *error);
void inputs_free(inputs_t *inputs);

#endif
