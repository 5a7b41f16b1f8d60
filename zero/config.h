/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - the options of an engine: one table with a row for each field of zero_config_t. */
#ifndef ZERO_CONFIG_H
#define ZERO_CONFIG_H

#include "zero/plan/plan.h"

typedef enum zero_field_type {
    ZERO_FIELD_INT = 0, /* int, int32_t */
    ZERO_FIELD_ENUM,    /* an enum of the public header */
    ZERO_FIELD_SWITCH,  /* bool */
    ZERO_FIELD_BYTES,   /* int64_t, uint64_t */
    ZERO_FIELD_REAL,    /* double */
    ZERO_FIELD_POINTER, /* NULL by default; not compared */
    ZERO_FIELD_HASH     /* uint64_t; no option has it */
} zero_field_type_t;

typedef enum zero_scope {
    ZERO_SCOPE_RANK = 0, /* each rank has its own */
    ZERO_SCOPE_RANKS,    /* the same on every rank: zero_commit compares it */
    ZERO_SCOPE_PLAN      /* the same on every rank, and the plan depends on it: zero_spec_t has a copy */
} zero_scope_t;

typedef struct zero_field {
    const char *name; /* as a program writes it after "config." */
    zero_scope_t scope;
    size_t offset, spec_offset; /* in zero_config_t; SCOPE_PLAN: in zero_spec_t, where the type is the same */
    zero_field_type_t type;
    double initial, low, high;            /* the default, and the bounds, both included */
    const char *wanted;                   /* ends the sentence about a value out of bounds */
    const char *(*value_name)(int value); /* ENUM: "?" for a value that has no name */
} zero_field_t;

/* Rows of the table have indices below this one. */
enum { ZERO_CONFIG_MOST = 64 };
/* NULL: no row has this index. */
const zero_field_t *zero_config_field(int index);

/* The value of a field as 64 bits: integers are sign-extended, a real keeps its bits. 0 for a pointer. */
uint64_t zero_field_value(const zero_field_t *field, const zero_config_t *config);
/* Sets a field to a number that its type can hold; a pointer to NULL. */
void zero_field_set(const zero_field_t *field, zero_config_t *config, double number);

typedef struct zero_field_text {
    char s[64];
} zero_field_text_t;
/* A value for people: "bf16", "true", "0.1" (the fewest digits that read back), "65536 bytes". */
zero_field_text_t zero_field_text(const zero_field_t *field, uint64_t value);

/* Whether every option is possible by itself, and beside the others. Where several are out of bounds, the sentence
 * names each of them. What zero_plan_check_options finds is not looked for. */
zero_status_t zero_config_check(const zero_config_t *config, zero_error_t *error);

/* Copies what the plan depends on. */
void zero_config_to_spec(const zero_config_t *config, zero_spec_t *spec);

#endif
