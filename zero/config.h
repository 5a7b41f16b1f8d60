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
    ZERO_FIELD_HASH     /* uint64_t; no option has this type */
} zero_field_type_t;

typedef enum zero_scope {
    ZERO_SCOPE_RANK = 0, /* each rank has its own value */
    ZERO_SCOPE_RANKS,    /* the same on every rank: zero_commit compares it */
    ZERO_SCOPE_PLAN      /* the same on every rank, and the plan depends on it: zero_spec_t has a copy */
} zero_scope_t;

typedef struct zero_field {
    const char *name; /* as a program writes it after "config." */
    zero_scope_t scope;
    size_t offset, spec_offset; /* in zero_config_t; ZERO_SCOPE_PLAN: also in zero_spec_t, with the same type */
    zero_field_type_t type;
    double initial, low, high;            /* the default; the bounds, inclusive */
    const char *wanted;                   /* end of the error about a value out of bounds */
    const char *(*value_name)(int value); /* ENUM: "?" for an unknown value */
} zero_field_t;

/* An upper limit of the number of rows. */
enum { ZERO_CONFIG_MOST = 64 };
/* NULL if there is no such row. */
const zero_field_t *zero_config_field(int index);

/* The value of a field as 64 bits: integers are sign-extended, a real keeps its bits. 0 for a pointer. */
uint64_t zero_field_value(const zero_field_t *field, const zero_config_t *config);
/* Sets a field to a number that its type can hold; a pointer to NULL. */
void zero_field_set(const zero_field_t *field, zero_config_t *config, double number);

typedef struct zero_field_text {
    char s[64];
} zero_field_text_t;
/* A value as text: "bf16", "true", "0.1" (the fewest digits that read back), "65536 bytes". */
zero_field_text_t zero_field_text(const zero_field_t *field, uint64_t value);

/* Checks every option alone and against the others. If several are out of bounds, the error names all. Does not check
 * what zero_plan_check_options checks. */
zero_status_t zero_config_check(const zero_config_t *config, zero_error_t *error);

/* Copies the options that the plan depends on. */
void zero_config_to_spec(const zero_config_t *config, zero_spec_t *spec);

#endif
