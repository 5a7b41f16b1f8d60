/* SPDX-License-Identifier: Apache-2.0 */
#include "train/inputs.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static zero_status_t no_memory(const char *option, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the names of %s", option);
}

static zero_status_t add(inputs_t *inputs, const char *option, const char *path, size_t length, zero_error_t *error)
{
    if (inputs->count == inputs->room) {
        int room = inputs->room * 2 + 16;
        char **paths = realloc(inputs->paths, (size_t)room * sizeof *paths);
        if (paths == NULL)
            return no_memory(option, error);
        inputs->paths = paths;
        inputs->room = room;
    }
    char *copy = strndup(path, length);
    if (copy == NULL)
        return no_memory(option, error);
    inputs->paths[inputs->count++] = copy;
    return ZERO_OK;
}

static bool exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Whether path is FILE.idx, and FILE is among the matches. */
static bool is_index(const glob_t *found, const char *path)
{
    char file[4096];
    const char *key = file;
    size_t length = strlen(path);
    if (length < 5 || length >= sizeof file || strcmp(path + length - 4, ".idx") != 0)
        return false;
    snprintf(file, sizeof file, "%.*s", (int)(length - 4), path);
    return bsearch(&key, found->gl_pathv, found->gl_pathc, sizeof key, by_bytes) != NULL;
}

static zero_status_t add_matches(inputs_t *inputs, const char *option, const char *pattern, zero_error_t *error)
{
    glob_t found;
    zero_status_t status = ZERO_OK;
    int result = glob(pattern, GLOB_NOSORT, NULL, &found);
    if (result == GLOB_NOSPACE)
        status = no_memory(option, error);
    else if (result != 0)
        status = zero_fail(error, ZERO_ERR_IO, "%s '%s' is a pattern that matches no file: name files that exist",
                           option, pattern);
    else {
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_bytes);
        for (size_t i = 0; i < found.gl_pathc && status == ZERO_OK; i++)
            if (!is_index(&found, found.gl_pathv[i]))
                status = add(inputs, option, found.gl_pathv[i], strlen(found.gl_pathv[i]), error);
    }
    globfree(&found);
    return status;
}

/* A name without commas, or one that exists. */
static zero_status_t add_name(inputs_t *inputs, const char *option, const char *name, zero_error_t *error)
{
    if (strpbrk(name, "*?[") != NULL && !exists(name))
        return add_matches(inputs, option, name, error);
    return add(inputs, option, name, strlen(name), error);
}

static zero_status_t add_names(inputs_t *inputs, const char *option, const char *value, zero_error_t *error)
{
    char *names = strdup(value);
    zero_status_t status = names != NULL ? ZERO_OK : no_memory(option, error);
    for (char *name = names; name != NULL && status == ZERO_OK;) {
        char *comma = strchr(name, ',');
        if (comma != NULL)
            *comma = '\0';
        if (*name == '\0')
            status = zero_fail(error, ZERO_ERR_ARG, "%s '%s' has an empty name beside a comma: write FILE,FILE", option,
                               value);
        else
            status = add_name(inputs, option, name, error);
        name = comma != NULL ? comma + 1 : NULL;
    }
    free(names);
    return status;
}

zero_status_t inputs_find(inputs_t *inputs, const char *option, const option_list_t *values, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    memset(inputs, 0, sizeof *inputs);
    for (int i = 0; i < values->count && status == ZERO_OK; i++)
        status = strchr(values->at[i], ',') != NULL && !exists(values->at[i])
                     ? add_names(inputs, option, values->at[i], error)
                     : add_name(inputs, option, values->at[i], error);
    return status;
}

void inputs_free(inputs_t *inputs)
{
    for (int i = 0; i < inputs->count; i++)
        free(inputs->paths[i]);
    free(inputs->paths);
    memset(inputs, 0, sizeof *inputs);
}
