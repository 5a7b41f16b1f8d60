/* SPDX-License-Identifier: Apache-2.0 */
#include "train/config_parts.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- rows ------------------------------------------------------------------------------------------------------- */

config_row_t *config_row_any(const config_t *config, const char *path)
{
    for (int i = 0; i < config->count; i++)
        if (config->rows[i].key != NULL && strcmp(config->rows[i].key->path, path) == 0)
            return &config->rows[i];
    return NULL;
}

config_row_t *config_row(const config_t *config, const char *path)
{
    config_row_t *row = config_row_any(config, path);
    return row != NULL && !row->automatic ? row : NULL;
}

void config_say(config_row_t *row, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(row->result, sizeof row->result, format, arguments);
    va_end(arguments);
}

void config_value(const json_t *value, char *out, size_t size)
{
    if (json_is_real(value)) {
        options_real(json_real_value(value), out, size);
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
    snprintf(out, size, "%s", text != NULL ? text : "?");
    if (text != NULL && strlen(text) >= size)
        memcpy(out + size - 4, "...", 4);
    free(text);
}

zero_status_t config_bad(const config_t *config, const config_row_t *row, zero_error_t *error, const char *format, ...)
{
    char value[64], rest[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(rest, sizeof rest, format, arguments);
    va_end(arguments);
    config_value(row->value, value, sizeof value);
    return zero_fail(error, ZERO_ERR_ARG, "--config '%s': %s is %s, %s", config->file, row->path, value, rest);
}

bool config_given(const config_t *config, const char *name)
{
    int index = options_find(name);
    return index >= 0 && config->o->given[index];
}

zero_status_t config_assign(config_t *config, config_row_t *row, const char *name, const char *text,
                            zero_error_t *error)
{
    int index = options_find(name);
    option_view_t view;
    char before[256], after[256], value[64];
    zero_error_t why;
    if (config->o->given[index]) {
        config_say(row, "not used: the command line has --%s", name);
        return ZERO_OK;
    }
    options_view(config->o, index, &view);
    option_view_print(&view, before, sizeof before);
    zero_status_t status = options_set(config->o, index, text, &why);
    if (status != ZERO_OK) {
        config_value(row->value, value, sizeof value);
        return zero_fail_from(error, status, &why, "--config '%s': %s is %s: %s", config->file, row->path, value,
                              why.text);
    }
    options_view(config->o, index, &view);
    option_view_print(&view, after, sizeof after);
    if (config->by[index] >= 0 && strcmp(before, after) != 0)
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s': %s and %s both set --%s, to %s and to %s: leave one out",
                         config->file, config->rows[config->by[index]].path, row->path, name, before, after);
    config->by[index] = (int)(row - config->rows);
    if (view.type == OPTION_FLAG)
        config_say(row, "%s--%s", view.whole ? "" : "no ", name);
    else
        config_say(row, "--%s %s", name, text);
    return ZERO_OK;
}

/* A value as command-line text: in the buffer small, or the file's own string. */
static const char *argument_text(const json_t *value, char *small, size_t size)
{
    char second[32];
    switch (json_typeof(value)) {
    case JSON_STRING:
        return json_string_value(value);
    case JSON_INTEGER:
        snprintf(small, size, "%lld", (long long)json_integer_value(value));
        return small;
    case JSON_REAL:
        if (json_real_value(value) == floor(json_real_value(value)) && fabs(json_real_value(value)) < 1e15)
            snprintf(small, size, "%.0f", json_real_value(value)); /* 5e8 is a whole number */
        else
            options_real(json_real_value(value), small, size);
        return small;
    case JSON_ARRAY: /* two numbers */
        options_real(json_number_value(json_array_get(value, 0)), small, size);
        options_real(json_number_value(json_array_get(value, 1)), second, sizeof second);
        snprintf(small + strlen(small), size - strlen(small), ",%s", second);
        return small;
    default:
        return json_is_true(value) ? "true" : "false";
    }
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static const config_key_t *find_key(const char *path)
{
    static const char section[] = "zero_optimization.", prefix[] = "stage3_";
    size_t length = sizeof section - 1;
    for (int i = 0; i < config_key_count; i++) {
        const char *key = config_keys[i].path;
        if (strcmp(key, path) == 0)
            return &config_keys[i];
        /* DeepSpeed's stage 3 settings have two names each, with and without this prefix */
        if (strncmp(path, section, length) == 0 && strncmp(key, section, length) == 0 &&
            strncmp(key + length, prefix, sizeof prefix - 1) == 0 &&
            strcmp(key + length + sizeof prefix - 1, path + length) == 0)
            return &config_keys[i];
    }
    return NULL;
}

static const char *last_member(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot != NULL ? dot + 1 : path;
}

static zero_status_t unknown(const config_t *config, const char *path, zero_error_t *error)
{
    const char *nearest = NULL, *last = last_member(path);
    int best = 4;
    option_view_t view;
    if (strcmp(path, "config") == 0)
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s': a file cannot name another file: remove the key config",
                         config->file);
    for (int i = 0; i < config_key_count && best > 0; i++) {
        /* the key is in a wrong section, or misspelled */
        int d = strcmp(last, last_member(config_keys[i].path)) == 0 ? 0 : options_distance(path, config_keys[i].path);
        if (d < best && (size_t)d < strlen(last)) {
            best = d;
            nearest = config_keys[i].path;
        }
    }
    for (int i = 0; i < options_count() && best > 0; i++) {
        options_view(config->o, i, &view);
        int d = strcmp(last, view.name) == 0 && last != path ? 0 : options_distance(path, view.name);
        if (d < best && (size_t)d < strlen(last)) {
            best = d;
            nearest = view.name;
        }
    }
    if (nearest != NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s': unknown key %s: did you mean %s?", config->file, path,
                         nearest);
    return zero_fail(error, ZERO_ERR_ARG,
                     "--config '%s': unknown key %s: it is neither an option of zero_train (--help) nor a supported "
                     "key of DeepSpeed: remove it",
                     config->file, path);
}

static bool is_whole(const json_t *value)
{
    return json_is_integer(value) || (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)) &&
                                      fabs(json_real_value(value)) < 1e15);
}

static bool is_pair(const json_t *value)
{
    return json_is_array(value) && json_array_size(value) == 2 && json_is_number(json_array_get(value, 0)) &&
           json_is_number(json_array_get(value, 1));
}

/* A string, or an array of them. */
static bool is_texts(const json_t *value)
{
    const size_t count = json_array_size(value);
    for (size_t i = 0; i < count; i++)
        if (!json_is_string(json_array_get(value, i)))
            return false;
    return json_is_string(value) || count > 0;
}

static zero_status_t check_type(const config_t *config, const config_row_t *row, key_type_t type, zero_error_t *error)
{
    static const char *const wanted[] = {
        [KEY_BOOL] = "true or false",
        [KEY_WHOLE] = "a whole number",
        [KEY_NUMBER] = "a number",
        [KEY_TEXT] = "a string",
        [KEY_PAIR] = "two numbers in []",
        [KEY_OBJECT] = "an object in {}",
        [KEY_TEXTS] = "a string, or strings in []",
    };
    static const char *const found[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string", [JSON_INTEGER] = "a number",
        [JSON_REAL] = "a number",    [JSON_TRUE] = "a boolean", [JSON_FALSE] = "a boolean", [JSON_NULL] = "nothing",
    };
    const json_t *v = row->value;
    bool right = type == KEY_BOOL     ? json_is_boolean(v)
                 : type == KEY_WHOLE  ? is_whole(v)
                 : type == KEY_NUMBER ? json_is_number(v)
                 : type == KEY_TEXT   ? json_is_string(v)
                 : type == KEY_TEXTS  ? is_texts(v)
                 : type == KEY_PAIR   ? is_pair(v)
                 : type == KEY_OBJECT ? json_is_object(v)
                                      : true;
    if (right)
        return ZERO_OK;
    return config_bad(config, row, error, "%s, but must be %s", found[json_typeof(v)], wanted[type]);
}

/* Whether a section turns nothing on, by DeepSpeed's rules: an absent "enabled" counts as false, in the section and in
 * its parts. "auto" counts as off, because Hugging Face's trainer, which replaces it, leaves these features off by
 * default. by: another member that turns the section on. */
static bool is_off(const json_t *section, const char *by)
{
    const json_t *value = json_object_get(section, by != NULL ? by : "enabled");
    const char *name;
    if (json_object_size(section) == 0)
        return true;
    if (by != NULL) /* "mode" of sparse_attention, whose default is sparse */
        return json_is_string(value) && strcmp(json_string_value(value), "dense") == 0;
    if (value != NULL)
        return json_is_false(value) || json_is_null(value) ||
               (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0);
    json_object_foreach((json_t *)section, name, value) if (json_is_object(value) && !is_off(value, NULL)) return false;
    return true;
}

static bool is_only(const json_t *value, const char *only)
{
    json_t *wanted = json_loads(only, JSON_DECODE_ANY, NULL);
    bool same = json_is_number(value) && json_is_number(wanted) ? json_number_value(value) == json_number_value(wanted)
                                                                : json_equal(value, wanted) != 0;
    json_decref(wanted);
    return same;
}

static config_row_t *add_row(config_t *config, const char *path, const config_key_t *key, const json_t *value)
{
    if (config->count == config->room) {
        int room = config->room * 2 + 32;
        config_row_t *rows = realloc(config->rows, (size_t)room * sizeof *rows);
        if (rows == NULL)
            return NULL;
        config->rows = rows;
        config->room = room;
    }
    config_row_t *row = &config->rows[config->count];
    *row = (config_row_t){.path = strdup(path), .key = key, .value = value};
    if (row->path == NULL)
        return NULL;
    config->count++;
    return row;
}

/* Sets a list to the strings of a row. Another key of the same option is an error. */
static zero_status_t take_texts(config_t *config, config_row_t *row, const char *name, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    zero_error_t why;
    const int index = options_find(name);
    const size_t count = json_is_array(row->value) ? json_array_size(row->value) : 1;
    if (config->o->given[index]) {
        config_say(row, "not used: the command line has --%s", name);
        return ZERO_OK;
    }
    if (config->by[index] >= 0)
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s': %s and %s both set --%s: leave one out", config->file,
                         config->rows[config->by[index]].path, row->path, name);
    for (size_t i = 0; i < count && status == ZERO_OK; i++) {
        const json_t *text = json_is_array(row->value) ? json_array_get(row->value, i) : row->value;
        status = options_set(config->o, index, json_string_value(text), &why);
    }
    if (status != ZERO_OK)
        return zero_fail_from(error, status, &why, "--config '%s': %s: %s", config->file, row->path, why.text);
    config->by[index] = (int)(row - config->rows);
    option_view_t view;
    options_view(config->o, index, &view);
    config_say(row, "--%s %s", name, view.text);
    return ZERO_OK;
}

/* Sets an option by its name. */
static zero_status_t take_option(config_t *config, config_row_t *row, int index, zero_error_t *error)
{
    static const key_type_t types[] = {
        [OPTION_WHOLE] = KEY_WHOLE, [OPTION_REAL] = KEY_NUMBER,      [OPTION_PAIR] = KEY_PAIR,
        [OPTION_TEXT] = KEY_TEXT,   [OPTION_LIST] = KEY_TEXTS,       [OPTION_CHOICE] = KEY_TEXT,
        [OPTION_FLAG] = KEY_BOOL,   [OPTION_REAL_OR_WORD] = KEY_ANY,
    };
    option_view_t view;
    char small[96];
    options_view(config->o, index, &view);
    row->automatic =
        json_is_null(row->value) || (view.type != OPTION_TEXT && view.type != OPTION_LIST &&
                                     json_is_string(row->value) && strcmp(json_string_value(row->value), "auto") == 0);
    if (row->automatic) {
        config_say(row, "its default");
        return ZERO_OK;
    }
    zero_status_t status = check_type(config, row, types[view.type], error);
    if (status == ZERO_OK && view.type == OPTION_LIST)
        return take_texts(config, row, view.name, error);
    return status == ZERO_OK
               ? config_assign(config, row, view.name, argument_text(row->value, small, sizeof small), error)
               : status;
}

static zero_status_t take_key(config_t *config, config_row_t *row, const config_key_t *key, zero_error_t *error)
{
    char small[96];
    row->automatic =
        json_is_null(row->value) || (json_is_string(row->value) && strcmp(json_string_value(row->value), "auto") == 0);
    if (row->automatic) {
        config_say(row, "its default");
        return ZERO_OK;
    }
    zero_status_t status = check_type(config, row, key->type, error);
    if (status != ZERO_OK)
        return status;
    switch (key->rule) {
    case KEY_OPTION:
        return config_assign(config, row, key->text, argument_text(row->value, small, sizeof small), error);
    case KEY_IDLE:
        config_say(row, "%s", key->text);
        return ZERO_OK;
    case KEY_ONLY:
        config_say(row, "no effect: always so");
        return is_only(row->value, key->only)
                   ? ZERO_OK
                   : config_bad(config, row, error, "but must be %s: %s", key->only, key->text);
    case KEY_OFF:
        config_say(row, "no effect: off");
        return is_off(row->value, key->only)
                   ? ZERO_OK
                   : config_bad(config, row, error, "which zero_train does not have: %s, and leave it out", key->text);
    case KEY_FOREIGN:
    case KEY_RELATED:
    case KEY_SECTION:
        break;
    }
    return ZERO_OK;
}

/* Reads the members of an object with path prefix, "" for the file. Sections nest at most three deep, because each
 * section must be known. */
static zero_status_t take_members(config_t *config, json_t *object, const char *prefix, zero_error_t *error)
{
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
    {
        char path[256];
        snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", name);
        const config_key_t *key = find_key(path);
        int option = prefix[0] == '\0' ? options_find(name) : -1;
        if (option >= 0 && option == options_find("config"))
            option = -1; /* a file cannot name another file */
        if (key != NULL && key->type == KEY_OBJECT && option >= 0 && !json_is_object(value))
            key = NULL; /* the short form, as in "optimizer": "lion" */
        if (key == NULL && option < 0)
            return unknown(config, path, error);
        zero_status_t status;
        if (key != NULL && key->rule == KEY_SECTION && json_is_object(value))
            status = take_members(config, value, path, error);
        else {
            config_row_t *row = add_row(config, path, key, value);
            if (row == NULL)
                return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the keys of --config '%s'", config->file);
            status = key != NULL ? take_key(config, row, key, error) : take_option(config, row, option, error);
        }
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static zero_status_t load(config_t *config, zero_error_t *error)
{
    struct stat info;
    json_error_t where;
    char first[64];
    if (stat(config->file, &info) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot open --config '%s': %s", config->file, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s' is %s, but must be a file, which every rank reads",
                         config->file, S_ISDIR(info.st_mode) ? "a folder" : "a pipe or a device");
    FILE *file = fopen(config->file, "re");
    if (file == NULL)
        return zero_fail(error, ZERO_ERR_IO, "cannot open --config '%s': %s", config->file, strerror(errno));
    size_t bytes = fread(first, 1, sizeof first, file);
    rewind(file);
    if (zero_model_is_pointer(first, bytes)) {
        fclose(file);
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "--config '%s' is a git-lfs pointer, not the file: run git lfs pull in its folder",
                         config->file);
    }
    config->root = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    fclose(file);
    if (config->root == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s', line %d, column %d: %s", config->file, where.line,
                         where.column, where.text);
    if (!json_is_object(config->root))
        return zero_fail(error, ZERO_ERR_ARG, "--config '%s' has an array, but must have an object in {}",
                         config->file);
    return ZERO_OK;
}

zero_status_t config_read(config_t **out, options_t *o, zero_error_t *error)
{
    *out = NULL;
    if (o->config == NULL)
        return ZERO_OK;
    config_t *config = calloc(1, sizeof *config);
    if (config == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --config '%s'", o->config);
    *out = config;
    config->file = o->config;
    config->o = o;
    for (int i = 0; i < OPTIONS_MOST; i++)
        config->by[i] = -1;
    zero_status_t status = load(config, error);
    if (status == ZERO_OK)
        status = take_members(config, config->root, "", error);
    return status == ZERO_OK ? config_relate(config, error) : status;
}

void config_close(config_t *config)
{
    if (config == NULL)
        return;
    for (int i = 0; i < config->count; i++)
        free(config->rows[i].path);
    free(config->rows);
    json_decref(config->root);
    free(config);
}
