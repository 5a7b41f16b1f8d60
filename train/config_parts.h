/* SPDX-License-Identifier: Apache-2.0 */
/* config_parts.h - what the files of config.h share: keys, rows, and how a key sets an option. */
#ifndef TRAIN_CONFIG_PARTS_H
#define TRAIN_CONFIG_PARTS_H

#include "train/config.h"

#include <jansson.h>

typedef enum key_type { KEY_BOOL = 0, KEY_WHOLE, KEY_NUMBER, KEY_TEXT, KEY_PAIR, KEY_OBJECT, KEY_ANY } key_type_t;

typedef enum key_rule {
    KEY_SECTION, /* its members are keys */
    KEY_OPTION,  /* text: the option that it sets */
    KEY_IDLE,    /* no value changes what is computed; text: why */
    KEY_ONLY,    /* any value but one is refused; text: what to use instead */
    KEY_OFF, /* an object of something that zero_train does not have, and that must be off; text: what to use instead;
                only: see config.c */
    KEY_FOREIGN, /* a parameter of an optimizer or scheduler that zero_train does not have; text: which */
    KEY_RELATED, /* config_relate decides, with other keys */
} key_rule_t;

typedef struct config_key {
    const char *path; /* members separated by dots */
    key_type_t type;
    key_rule_t rule;
    const char *text;
    const char
        *only; /* KEY_ONLY: the value, as JSON; KEY_OFF: the member that turns it on, where that is not "enabled" */
} config_key_t;

/* The keys of DeepSpeed's documentation (config-json.md) and of its offload and ZeRO settings
 * (deepspeed/runtime/zero/config.py, offload_config.py). */
extern const config_key_t config_keys[];
extern const int config_key_count;

typedef struct config_row {
    char *path;              /* as the file spells it */
    const config_key_t *key; /* NULL: an option by its name */
    const json_t *value;     /* the file's */
    bool automatic;          /* "auto" or null: as if it were absent */
    char result[256];        /* what became of it */
} config_row_t;

struct config {
    const char *file;
    options_t *o;
    json_t *root;
    config_row_t *rows;
    int count, room;
    int by[OPTIONS_MOST]; /* index of the row that set an option, by the option's index; -1: none */
};

/* The row of a key, by the path of config_keys; NULL where the file has none, or leaves it to its default. */
config_row_t *config_row(const config_t *config, const char *path);
/* The same with those that are left to their defaults. */
config_row_t *config_row_any(const config_t *config, const char *path);
/* What became of a row, as printf. */
void config_say(config_row_t *row, const char *format, ...) ZERO_PRINTF(2, 3);
/* ZERO_ERR_ARG: the file, the row's key and value, then what is wrong and what to use instead, as printf. */
zero_status_t config_bad(const config_t *config, const config_row_t *row, zero_error_t *error, const char *format, ...)
    ZERO_PRINTF(4, 5);
/* Sets the option called name as --name text would, unless the command line has it. Another key that set it to another
 * value is an error. */
zero_status_t config_assign(config_t *config, config_row_t *row, const char *name, const char *text,
                            zero_error_t *error);
/* A value as its file has it, cut to size bytes. */
void config_value(const json_t *value, char *out, size_t size);
/* Whether the command line has the option. */
bool config_given(const config_t *config, const char *name);

/* The keys whose meaning depends on others: precision, offload, optimizer and schedule, batches. */
zero_status_t config_relate(config_t *config, zero_error_t *error);

#endif
