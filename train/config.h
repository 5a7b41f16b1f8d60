/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - --config FILE: DeepSpeed's JSON keys, and options by their names, read as if they stood on the command
 * line before what stands there. */
#ifndef TRAIN_CONFIG_H
#define TRAIN_CONFIG_H

#include "train/options.h"

/* What became of each key of a file. */
typedef struct config config_t;

/* Reads o->config, where that is set, into *o, which holds what the command line gave: an option that is given there
 * keeps its value. Texts of *o may point into *out, which lives as long as *o; *out is NULL without a file. The file is
 * read again by each process that is started, so it must be a regular one. ZERO_ERR_IO: it cannot be read;
 * ZERO_ERR_ARG, ZERO_ERR_UNSUPPORTED: the sentence names the file, the key, its value and what to use instead. */
zero_status_t config_read(config_t **out, options_t *o, zero_error_t *error);
/* Puts the file and the keys that *error is about in front of its sentence: those whose option, text or own name it
 * has. For errors of what checks the options later. Accepts NULL: nothing. */
void config_blame(const config_t *config, zero_error_t *error);
/* A line for each key of the file: its value, and what it does; where the file has keys of DeepSpeed's, then a line for
 * each default that is not DeepSpeed's. The options are resolved by now. Accepts NULL: nothing. */
void config_print(const config_t *config, FILE *file);
/* Accepts NULL. */
void config_close(config_t *config);

#endif
