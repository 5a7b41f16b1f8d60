/* SPDX-License-Identifier: Apache-2.0 */
/* options_parts.h - shared by the options*.c files: the table of options, and how a value is set. */
#ifndef TRAIN_OPTIONS_PARTS_H
#define TRAIN_OPTIONS_PARTS_H

#include "train/options.h"

typedef enum group {
    SHARDING = 0,
    MODEL,
    DATA,
    BATCH,
    OPTIMIZER,
    OFFLOAD,
    CHECKPOINTS,
    OUTPUT,
    LOOK,
    FILES,
    GROUP_COUNT
} group_t;

typedef struct option {
    const char *name;
    group_t group;
    option_type_t type;
    size_t offset;        /* of the field; a PAIR has two doubles there */
    double low, high;     /* the range of numbers, both ends included */
    double initial;       /* unset: NaN */
    const char *choices;  /* "a|b": the values */
    const char *argument; /* as --help shows it; NULL: none; "[=...]": optional */
    const char *fallback; /* the default, as --help shows it; NULL: none */
    const char *help;
    bool shared; /* must be equal on all ranks */
} option_t;

/* All options; the last two are --help and --version. */
extern const option_t options_table[];

/* Index of value in "a|b|c", or -1. */
int64_t options_choice(const char *choices, const char *value);
/* The field of an option. */
void *options_field(options_t *options, const option_t *option);
/* Sets an option as --name text does. A list gains a value. */
zero_status_t options_set_value(options_t *options, const option_t *option, const char *text, zero_error_t *error);

#endif
