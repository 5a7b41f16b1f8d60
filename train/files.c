/* SPDX-License-Identifier: Apache-2.0 */
/* files.c - see files.h. */
#define _GNU_SOURCE
#include "train/files.h"
#include "train/inputs.h"
#include "train/log.h"
#include "train/trace.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- descriptors ------------------------------------------------------------------------------------------------ */

/* The number of the descriptor that path refers to in the process that opens it, as /dev/fd/3 does. -1: it refers to
 * none. */
static int descriptor(const char *path)
{
    char name[PATH_MAX], target[PATH_MAX], folder[PATH_MAX], real[PATH_MAX];
    snprintf(name, sizeof name, "%s", path);
    for (int links = 0; links < 40; links++) {
        const char *slash = strrchr(name, '/');
        snprintf(folder, sizeof folder, "%.*s",
                 slash == NULL   ? 1
                 : slash == name ? 1
                                 : (int)(slash - name),
                 slash == NULL ? "." : name);
        if (realpath(folder, real) == NULL)
            return -1;
        size_t length = strlen(real);
        if (strncmp(real, "/proc/", 6) == 0 && length > 3 && strcmp(real + length - 3, "/fd") == 0)
            return atoi(slash == NULL ? name : slash + 1);
        ssize_t n = readlink(name, target, sizeof target - 1);
        if (n <= 0)
            return -1;
        target[n] = '\0';
        if (snprintf(name, sizeof name, "%s%s%s", target[0] == '/' ? "" : real, target[0] == '/' ? "" : "/", target) >=
            (int)sizeof name)
            return -1;
    }
    return -1;
}

static zero_status_t check_shared(const char *option, const char *path, zero_error_t *error)
{
    if (path == NULL || descriptor(path) < 0)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_ARG, "%s '%s' is open in one process, but every rank reads it: name a file",
                     option, path);
}

static zero_status_t check_shared_list(const char *option, const option_list_t *values, zero_error_t *error)
{
    inputs_t inputs;
    zero_status_t status = inputs_find(&inputs, option, values, error);
    for (int i = 0; i < inputs.count && status == ZERO_OK; i++)
        status = check_shared(option, inputs.paths[i], error);
    inputs_free(&inputs);
    return status;
}

zero_status_t files_check_shared(const options_t *o, zero_error_t *error)
{
    zero_status_t status = check_shared("--config", o->config, error);
    if (status == ZERO_OK)
        status = check_shared("--model", o->model, error);
    if (status == ZERO_OK)
        status = check_shared_list("--data", &o->data, error);
    if (status == ZERO_OK)
        status = check_shared("--tokenizer", o->tokenizer, error);
    return status == ZERO_OK ? check_shared_list("--eval-data", &o->eval_data, error) : status;
}

zero_status_t files_check_passed(const options_t *o, zero_error_t *error)
{
    const int number = o->log != NULL ? descriptor(o->log) : -1;
    if (number < 0 || number == STDOUT_FILENO || number == STDERR_FILENO)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_ARG,
        "--log '%s' is open in the process that starts the ranks, but rank 0 writes it: name a file or FIFO", o->log);
}

/* ---- --log, --trace --------------------------------------------------------------------------------------------- */

/* Whether path leads to the file of info, under whatever name. */
static bool same_file(const struct stat *info, const char *path)
{
    struct stat other;
    return path != NULL && stat(path, &other) == 0 && other.st_dev == info->st_dev && other.st_ino == info->st_ino;
}

/* Whether one of the values of an option leads to that file. */
static bool same_as_any(const struct stat *info, const char *option, const option_list_t *values)
{
    zero_error_t ignored; /* the files exist: they are open */
    inputs_t inputs;
    bool same = false;
    inputs_find(&inputs, option, values, &ignored);
    for (int i = 0; i < inputs.count && !same; i++)
        same = same_file(info, inputs.paths[i]);
    inputs_free(&inputs);
    return same;
}

/* Checks that a file that an option would overwrite is not an input. */
static zero_status_t check_is_no_input(const options_t *o, const char *option, const char *output,
                                       const struct stat *info, zero_error_t *error)
{
    const char *input = same_as_any(info, "--data", &o->data)             ? "--data"
                        : same_as_any(info, "--eval-data", &o->eval_data) ? "--eval-data"
                        : same_file(info, o->tokenizer)                   ? "--tokenizer"
                        : same_file(info, o->prompt_file)                 ? "--prompt-file"
                        : same_file(info, o->config)                      ? "--config"
                        : same_file(info, o->model)                       ? "--model"
                                                                          : NULL;
    DIR *folder = o->model != NULL ? opendir(o->model) : NULL; /* a preset is not a folder */
    for (struct dirent *entry; folder != NULL && input == NULL && (entry = readdir(folder)) != NULL;) {
        char path[8192];
        snprintf(path, sizeof path, "%s/%s", o->model, entry->d_name);
        if (same_file(info, path))
            input = "--model";
    }
    if (folder != NULL)
        closedir(folder);
    if (input == NULL)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_ARG,
                     "--%s '%s' is a file that %s reads, and would be overwritten: use another file", option, output,
                     input);
}

/* Checks that the file of an option can be written and is not an input. */
static zero_status_t check_output(const options_t *o, const char *option, const char *path, zero_error_t *error)
{
    struct stat info;
    char folder[4096];
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode))
            return zero_fail(error, ZERO_ERR_ARG, "--%s '%s' is a folder, but must be a file", option, path);
        if (access(path, W_OK) != 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot write --%s '%s': %s", option, path, strerror(errno));
        return check_is_no_input(o, option, path, &info, error);
    }
    const char *slash = strrchr(path, '/');
    int length = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    snprintf(folder, sizeof folder, "%.*s", length, slash == NULL ? "." : path);
    if (access(folder, W_OK | X_OK) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot create --%s '%s': '%s': %s", option, path, folder,
                         strerror(errno));
    return ZERO_OK;
}

static bool is_fifo(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISFIFO(info.st_mode);
}

zero_status_t files_check_log(const options_t *o, zero_error_t *error)
{
    zero_status_t status = o->log != NULL ? check_output(o, "log", o->log, error) : ZERO_OK;
    return status == ZERO_OK && o->log != NULL && is_fifo(o->log) ? log_hold(o->log, error) : status;
}

zero_status_t files_check_trace(const options_t *o, int rank, int world, zero_error_t *error)
{
    char path[PATH_MAX];
    struct stat log;
    for (int r = rank < 0 ? 0 : rank; o->trace != NULL && r < (rank < 0 ? world : rank + 1); r++) {
        if (!trace_path(o->trace, r, world, path, sizeof path))
            return zero_fail(error, ZERO_ERR_ARG, "--trace has %zu characters, but must be a path of less than %d",
                             strlen(o->trace), PATH_MAX);
        zero_status_t status = check_output(o, "trace", path, error);
        if (status != ZERO_OK)
            return status;
        if (is_fifo(path))
            return zero_fail(error, ZERO_ERR_ARG, "--trace '%s' is a FIFO, but must be a file", path);
        if (o->log != NULL && (strcmp(o->log, path) == 0 || (stat(o->log, &log) == 0 && same_file(&log, path))))
            return zero_fail(error, ZERO_ERR_ARG, "--trace '%s' is the file of --log: use another file", path);
    }
    return ZERO_OK;
}

/* ---- --export --------------------------------------------------------------------------------------------------- */

zero_status_t files_check_export(const options_t *o, const char *source, zero_error_t *error)
{
    zero_error_t why;
    if (o->export == NULL)
        return ZERO_OK;
    zero_status_t status = zero_model_check_export(o->export, source, o->lora_rank > 0 && !o->export_merged, &why);
    return status == ZERO_OK ? ZERO_OK : zero_fail_from(error, status, &why, "--export: %s", why.text);
}
