/* SPDX-License-Identifier: Apache-2.0 */
/* options_value.c - the values of options: from text, and as views. */
#include "train/options_parts.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void *options_field(options_t *options, const option_t *option)
{
    return (char *)options + option->offset;
}

int64_t options_choice(const char *choices, const char *value)
{
    size_t length = strlen(value);
    int64_t index = 0;
    for (const char *p = choices; p != NULL; index++) {
        const char *end = strchr(p, '|');
        size_t n = end != NULL ? (size_t)(end - p) : strlen(p);
        if (n == length && memcmp(p, value, n) == 0)
            return index;
        p = end != NULL ? end + 1 : NULL;
    }
    return -1;
}

/* Text of entry index of "a|b|c". */
static void choice_text(const char *choices, int64_t index, char *out, size_t size)
{
    const char *p = choices;
    for (; index > 0 && p != NULL; index--)
        p = (p = strchr(p, '|')) != NULL ? p + 1 : NULL;
    snprintf(out, size, "%.*s", p != NULL ? (int)strcspn(p, "|") : 1, p != NULL ? p : "?");
}

static bool read_real(const char *text, const char *stop, double *out)
{
    char *end;
    if (*text == '\0' || strchr(" \t\n\v\f\r", *text) != NULL)
        return false;
    *out = strtod(text, &end);
    /* an overflow gives infinity, which no range accepts; an underflow gives the nearest number */
    return end == stop && isfinite(*out);
}

static zero_status_t bounds(const option_t *option, const char *text, double value, zero_error_t *error)
{
    if (value >= option->low && value <= option->high)
        return ZERO_OK;
    double nearest = value < option->low ? option->low : option->high;
    if (option->high >= 1e9)
        return zero_fail(error, ZERO_ERR_ARG, "--%s is %s, but must be %.0f or more%s: use %.0f", option->name, text,
                         option->low, value > option->high ? " (and smaller)" : "", nearest);
    return zero_fail(error, ZERO_ERR_ARG, "--%s is %s, but must be from %.0f to %.0f: use %.0f", option->name, text,
                     option->low, option->high, nearest);
}

/* The factor of the letter behind a number of bytes; 1 without one, 0 for another text. */
static long long unit_of(const option_t *option, const char *text)
{
    static const char letters[] = "KMG";
    if (*text == '\0')
        return 1;
    const char *at = strcmp(option->argument, "BYTES") == 0 ? strchr(letters, *text) : NULL;
    return at != NULL && text[1] == '\0' ? 1ll << 10 * (at - letters + 1) : 0;
}

zero_status_t options_set_value(options_t *options, const option_t *option, const char *text, zero_error_t *error)
{
    zero_status_t status;
    double real[2];
    char *end;
    switch (option->type) {
    case OPTION_WHOLE:
        errno = 0;
        long long whole = strtoll(text, &end, 10);
        const long long unit = unit_of(option, end);
        if (end == text || unit == 0 || strchr(" \t\n\v\f\r", *text) != NULL)
            return zero_fail(error, ZERO_ERR_ARG, "--%s is '%s', but must be a whole number%s", option->name, text,
                             strcmp(option->argument, "BYTES") == 0 ? " of bytes, such as 67108864 or 64M" : "");
        status = bounds(option, text, (double)whole * (double)unit, error);
        if (status == ZERO_OK)
            *(int64_t *)options_field(options, option) = whole * unit;
        return status;
    case OPTION_REAL:
        if (!read_real(text, text + strlen(text), &real[0]))
            return zero_fail(error, ZERO_ERR_ARG, "--%s is '%s', but must be a number", option->name, text);
        status = bounds(option, text, real[0], error);
        if (status == ZERO_OK)
            *(double *)options_field(options, option) = real[0];
        return status;
    case OPTION_REAL_OR_WORD:
        real[0] = INFINITY;
        if (strcmp(text, option->choices) != 0) {
            if (!read_real(text, text + strlen(text), &real[0]) || !(real[0] > option->low && real[0] <= option->high))
                return zero_fail(error, ZERO_ERR_ARG,
                                 "--%s is '%s', but must be %s, or a number above %g and up to %.6g", option->name,
                                 text, option->choices, option->low, option->high);
        }
        *(double *)options_field(options, option) = real[0];
        return ZERO_OK;
    case OPTION_PAIR: {
        const char *comma = strchr(text, ',');
        if (comma == NULL || !read_real(text, comma, &real[0]) || !read_real(comma + 1, text + strlen(text), &real[1]))
            return zero_fail(error, ZERO_ERR_ARG,
                             "--%s is '%s', but must be two numbers separated by a comma, such as 0.9,0.95",
                             option->name, text);
        for (int i = 0; i < 2; i++)
            if (!(real[i] >= 0 && real[i] < 1))
                return zero_fail(error, ZERO_ERR_ARG,
                                 "--%s is %s, but both must be at least 0 and below 1, such as 0.9,0.95", option->name,
                                 text);
        memcpy(options_field(options, option), real, sizeof real);
        return ZERO_OK;
    }
    case OPTION_TEXT:
        if (*text == '\0')
            return zero_fail(error, ZERO_ERR_ARG, "--%s is empty, but must be %s", option->name, option->argument);
        *(const char **)options_field(options, option) = text;
        return ZERO_OK;
    case OPTION_LIST: {
        option_list_t *list = options_field(options, option);
        if (*text == '\0')
            return zero_fail(error, ZERO_ERR_ARG, "--%s is empty, but must be %s", option->name, option->argument);
        if (list->count == OPTION_LIST_MOST)
            return zero_fail(error, ZERO_ERR_ARG,
                             "--%s is given more than %d times: use a pattern, such as 'shards/*.bin'", option->name,
                             OPTION_LIST_MOST);
        list->at[list->count++] = text;
        return ZERO_OK;
    }
    case OPTION_CHOICE: {
        int64_t index = options_choice(option->choices, text);
        if (index >= 0) {
            *(int64_t *)options_field(options, option) = index;
            return ZERO_OK;
        }
        return zero_fail(error, ZERO_ERR_ARG, "--%s is '%s', but must be one of: %s", option->name, text,
                         option->choices);
    }
    case OPTION_FLAG:
        break;
    }
    return zero_fail(error, ZERO_ERR_ARG, "--%s takes no value, but has '%s'", option->name, text);
}

zero_status_t options_set(options_t *options, int index, const char *text, zero_error_t *error)
{
    const option_t *option = &options_table[index];
    if (option->type != OPTION_FLAG)
        return options_set_value(options, option, text, error);
    *(int64_t *)options_field(options, option) = strcmp(text, "true") == 0;
    return ZERO_OK;
}

void options_view(const options_t *options, int index, option_view_t *view)
{
    const option_t *option = &options_table[index];
    const void *value = (const char *)options + option->offset;
    memset(view, 0, sizeof *view);
    view->name = option->name;
    view->type = option->type;
    view->shared = option->shared;
    switch (option->type) {
    case OPTION_WHOLE:
    case OPTION_FLAG:
        view->whole = *(const int64_t *)value;
        view->set = view->whole >= 0;
        break;
    case OPTION_REAL:
        view->real[0] = *(const double *)value;
        view->set = !isnan(view->real[0]);
        break;
    case OPTION_REAL_OR_WORD:
        view->real[0] = *(const double *)value;
        view->set = !isnan(view->real[0]);
        snprintf(view->text, sizeof view->text, "%s", isinf(view->real[0]) ? option->choices : "");
        break;
    case OPTION_PAIR:
        memcpy(view->real, value, sizeof view->real);
        view->set = true;
        break;
    case OPTION_TEXT:
        view->full = *(const char *const *)value;
        view->set = view->full != NULL;
        snprintf(view->text, sizeof view->text, "%s", view->set ? view->full : "");
        break;
    case OPTION_LIST:
        view->list = value;
        view->set = view->list->count > 0;
        if (view->list->count > 1)
            snprintf(view->text, sizeof view->text, "%.200s and %d more", view->list->at[0], view->list->count - 1);
        else
            snprintf(view->text, sizeof view->text, "%s", view->set ? view->list->at[0] : "");
        break;
    case OPTION_CHOICE:
        view->whole = *(const int64_t *)value;
        view->set = view->whole >= 0;
        if (view->set)
            choice_text(option->choices, view->whole, view->text, sizeof view->text);
        break;
    }
}

void options_real(double value, char *out, size_t size)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(out, size, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

void option_view_print(const option_view_t *view, char *out, size_t size)
{
    char first[32], second[32];
    options_real(view->real[0], first, sizeof first);
    options_real(view->real[1], second, sizeof second);
    if (!view->set)
        snprintf(out, size, "unset");
    else if (view->type == OPTION_TEXT || view->type == OPTION_LIST || view->text[0] != '\0')
        snprintf(out, size, "%s", view->text);
    else if (view->type == OPTION_REAL || view->type == OPTION_REAL_OR_WORD)
        snprintf(out, size, "%s", first);
    else if (view->type == OPTION_PAIR)
        snprintf(out, size, "%s,%s", first, second);
    else
        snprintf(out, size, "%lld", (long long)view->whole);
}
