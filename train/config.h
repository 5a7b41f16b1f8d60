/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - --config FILE: reads DeepSpeed's JSON keys and option names. Settings act as if they came first on the
 * command line. */
#ifndef TRAIN_CONFIG_H
#define TRAIN_CONFIG_H

#include "train/options.h"

/* The keys of a file, each with its effect. */
typedef struct config config_t;

/* Reads the file o->config, if set, into *o. *o holds the options of the command line, and these keep their values.
 * Texts of *o may point into *out, so *out must outlive them; *out is NULL without a file. Each process that starts
 * reads the file again, so it must be a regular file. ZERO_ERR_IO: the file cannot be read. ZERO_ERR_ARG: the sentence
 * names the file, the key, its value and a replacement. */
zero_status_t config_read(config_t **out, options_t *o, zero_error_t *error);
/* Prefixes the sentence of *error with the file and with each key that the error concerns: a key matches if the
 * sentence contains its option, its text or its own name. Use it for errors of later checks of the options. Accepts
 * NULL: no effect. */
void config_blame(const config_t *config, zero_error_t *error);
/* Prints a line for each key of the file: its value and its effect. If the file has keys of DeepSpeed, also prints a
 * line for each default that differs from DeepSpeed's. Requires resolved options. Accepts NULL: prints nothing. */
void config_print(const config_t *config, FILE *file);
/* Accepts NULL. */
void config_close(config_t *config);

#endif
