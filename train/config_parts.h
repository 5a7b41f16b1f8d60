/* SPDX-License-Identifier: Apache-2.0 */
/* config_parts.h - shared by the config*.c files: keys, rows, and the functions through which a key sets an option. */
#ifndef TRAIN_CONFIG_PARTS_H
#define TRAIN_CONFIG_PARTS_H

#include "train/config.h"

#include <jansson.h>

typedef enum key_type {
    KEY_BOOL = 0,
    KEY_WHOLE,
    KEY_NUMBER,
    KEY_TEXT,
    KEY_TEXTS,
    KEY_PAIR,
    KEY_OBJECT,
    KEY_ANY
} key_type_t;

typedef enum key_rule {
    KEY_SECTION, /* its members are keys */
    KEY_OPTION,  /* sets the option named by text */
    KEY_IDLE,    /* no value changes the results; text: the reason */
    KEY_ONLY,    /* only one value is accepted; text: the replacement */
    KEY_OFF, /* an object for a feature that zero_train lacks; it must be off; text: the replacement; only: see config.c
              */
    KEY_FOREIGN, /* a parameter of an optimizer or scheduler that zero_train lacks; text: its name */
    KEY_RELATED, /* config_relate handles it together with other keys */
} key_rule_t;

typedef struct config_key {
    const char *path; /* members separated by dots */
    key_type_t type;
    key_rule_t rule;
    const char *text;
    const char
        *only; /* KEY_ONLY: the value, as JSON; KEY_OFF: the member that turns the object on, unless it is "enabled" */
} config_key_t;

/* The keys of DeepSpeed's documentation (config-json.md), and of its offload and ZeRO settings
 * (deepspeed/runtime/zero/config.py, offload_config.py). */
extern const config_key_t config_keys[];
extern const int config_key_count;

typedef struct config_row {
    char *path;              /* as the file spells it */
    const config_key_t *key; /* NULL: an option by its name */
    const json_t *value;     /* the file's value */
    bool automatic;          /* "auto" or null: treated as absent */
    char result[256];        /* the effect of the key, as text */
} config_row_t;

struct config {
    const char *file;
    options_t *o;
    json_t *root;
    config_row_t *rows;
    int count, room;
    int by[OPTIONS_MOST]; /* by option index: the row that set the option; -1: none */
};

/* The row of a key, by its path in config_keys. NULL if the file lacks the key or leaves it at its default. */
config_row_t *config_row(const config_t *config, const char *path);
/* Like config_row, but also finds keys that are left at their defaults. */
config_row_t *config_row_any(const config_t *config, const char *path);
/* Sets the effect text of a row, as printf. */
void config_say(config_row_t *row, const char *format, ...) ZERO_PRINTF(2, 3);
/* Fails with ZERO_ERR_ARG. The sentence is the file, the row's key and value, then the formatted text: the problem and
 * the replacement. */
zero_status_t config_bad(const config_t *config, const config_row_t *row, zero_error_t *error, const char *format, ...)
    ZERO_PRINTF(4, 5);
/* Sets the option called name as --name text would, unless the command line sets it. Fails if another key set it to a
 * different value. */
zero_status_t config_assign(config_t *config, config_row_t *row, const char *name, const char *text,
                            zero_error_t *error);
/* A value as the file spells it, cut to size bytes. */
void config_value(const json_t *value, char *out, size_t size);
/* Whether the command line sets the option. */
bool config_given(const config_t *config, const char *name);

/* For functions that return a status: returns it unless the call succeeds. */
#define CONFIG_TRY(call)         \
    do {                         \
        zero_status_t s_ = call; \
        if (s_ != ZERO_OK)       \
            return s_;           \
    } while (0)

/* Handles the keys that depend on each other: precision, offload, optimizer and schedule, batches. */
zero_status_t config_relate(config_t *config, zero_error_t *error);
/* The dtype and the loss scale. */
zero_status_t config_relate_precision(config_t *config, zero_error_t *error);

#endif
