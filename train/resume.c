/* SPDX-License-Identifier: Apache-2.0 */
/* resume.c - see resume.h. */
#include "train/resume.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- --save ----------------------------------------------------------------------------------------------------- */

/* The characters of a path without '/' at its end. */
static size_t path_length(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n;
}

static bool same_path(const char *a, const char *b)
{
    struct stat one, other;
    if (a == NULL || b == NULL)
        return false;
    if (path_length(a) == path_length(b) && strncmp(a, b, path_length(a)) == 0)
        return true;
    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* Reads "100", "30s", "10m" or "2h". */
static zero_status_t read_every(job_t *job, zero_error_t *error)
{
    const char *text = job->o.save_every;
    char *end;
    errno = 0;
    long long count = text[0] >= '0' && text[0] <= '9' ? strtoll(text, &end, 10) : 0;
    const bool counted = count > 0 && count <= 1000000000000 && errno == 0;
    if (counted && *end == '\0')
        job->save_steps = count;
    else if (counted && strcmp(end, "s") == 0)
        job->save_seconds = (double)count;
    else if (counted && strcmp(end, "m") == 0)
        job->save_seconds = 60 * (double)count;
    else if (counted && strcmp(end, "h") == 0)
        job->save_seconds = 3600 * (double)count;
    else
        return zero_fail(error, ZERO_ERR_ARG,
                         "--save-every is '%s', but must be a number of steps above 0, or a time such as 30s, 10m or "
                         "2h",
                         text);
    return ZERO_OK;
}

static zero_status_t check_options(const options_t *o, zero_error_t *error)
{
    const char *idle = o->save_every != NULL ? "save-every" : o->keep >= 0 ? "keep" : NULL;
    if (o->save == NULL && idle != NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--%s is set, but nothing is saved: add --save DIR", idle);
    if (same_path(o->save, o->export))
        return zero_fail(error, ZERO_ERR_ARG, "--save and --export are both '%s': use two folders", o->save);
    return ZERO_OK;
}

zero_status_t resume_check_save(const options_t *o, zero_error_t *error)
{
    char above[4096];
    struct stat info;
    if (o->save == NULL)
        return ZERO_OK;
    if (stat(o->save, &info) == 0) {
        if (!S_ISDIR(info.st_mode))
            return zero_fail(error, ZERO_ERR_ARG, "--save '%s' is a file, but must be a folder", o->save);
        if (access(o->save, W_OK | X_OK) != 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot write to --save '%s': %s", o->save, strerror(errno));
        return ZERO_OK;
    }
    snprintf(above, sizeof above, "%.*s", (int)path_length(o->save), o->save);
    char *slash = strrchr(above, '/');
    if (slash == NULL)
        snprintf(above, sizeof above, ".");
    else
        slash[slash == above] = '\0';
    if (access(above, W_OK | X_OK) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot create --save '%s': '%s': %s", o->save, above, strerror(errno));
    return ZERO_OK;
}

/* A run saves only behind the checkpoints that it finds, so that the newest one is always the furthest. */
static zero_status_t check_later(const job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_checkpoint_t *checkpoint;
    zero_error_t ignored; /* zero_save_open tells what is wrong with the folder */
    if (zero_checkpoint_open(&checkpoint, o->save, &ignored) != ZERO_OK)
        return ZERO_OK;
    zero_checkpoint_info(checkpoint, &info);
    zero_status_t status = ZERO_OK;
    if (info.step > job->first)
        status = zero_fail(error, ZERO_ERR_ARG,
                           "--save '%s' has a checkpoint of step %lld, but this run begins after step %lld: add "
                           "--resume %s, or save to another folder",
                           o->save, (long long)info.step, (long long)job->first, o->save);
    zero_checkpoint_close(checkpoint);
    return status;
}

/* ---- --resume --------------------------------------------------------------------------------------------------- */

/* Whether the path is that of a checkpoint, and not of a folder of checkpoints. */
static bool names_step(const char *path)
{
    const char *end = path + path_length(path), *name = end;
    while (name > path && name[-1] != '/')
        name--;
    return strncmp(name, "step-", 5) == 0 && end - name > 5 &&
           strspn(name + 5, "0123456789") == (size_t)(end - name) - 5;
}

/* The newest step below `below` that has a folder. -1: there is none. */
static int64_t newest_below(const char *folder, int64_t below)
{
    const struct dirent *entry;
    int64_t newest = -1;
    DIR *dir = opendir(folder);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        const int64_t step = names_step(entry->d_name) ? strtoll(entry->d_name + 5, NULL, 10) : -1;
        newest = step > newest && step < below ? step : newest;
    }
    if (dir != NULL)
        closedir(dir);
    return newest;
}

/* The newest step below `below` whose checkpoint can be opened. -1: there is none. */
static int64_t find_older(const char *folder, int64_t below)
{
    char path[4352];
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t ignored;
    while (checkpoint == NULL && (below = newest_below(folder, below)) >= 0) {
        snprintf(path, sizeof path, "%s/step-%lld", folder, (long long)below);
        zero_checkpoint_open(&checkpoint, path, &ignored);
    }
    zero_checkpoint_close(checkpoint);
    return below;
}

zero_status_t resume_fail(const options_t *o, int64_t step, zero_status_t status, const zero_error_t *why,
                          zero_error_t *error)
{
    char folder[4096];
    if (status != ZERO_ERR_FORMAT && status != ZERO_ERR_IO)
        return zero_fail_from(error, status, why, "--resume: %s", why->text);
    snprintf(folder, sizeof folder, "%.*s", (int)path_length(o->resume), o->resume);
    if (names_step(folder)) {
        char *slash = strrchr(folder, '/'), *name = slash != NULL ? slash + 1 : folder;
        if (step == INT64_MAX)
            step = strtoll(name + 5, NULL, 10);
        if (slash == NULL)
            snprintf(folder, sizeof folder, ".");
        else
            slash[slash == folder] = '\0';
    }
    const int64_t older = find_older(folder, step);
    if (older < 0)
        return zero_fail_from(error, status, why, "--resume: %s", why->text);
    return zero_fail_from(
        error, status, why,
        "--resume: %s; the newest whole one before it is step %lld: continue with --resume %s/step-%lld%s", why->text,
        (long long)older, folder, (long long)older,
        same_path(folder, o->save) ? ", and save to another folder or first remove the damaged one" : "");
}

static zero_status_t open_checkpoint(job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    zero_checkpoint_info_t info = {.size = sizeof info};
    struct stat entry;
    zero_error_t why;
    if (stat(o->resume, &entry) != 0) {
        if (errno == ENOENT && same_path(o->resume, o->save))
            return ZERO_OK;
        return zero_fail(
            error, ZERO_ERR_IO,
            "cannot open --resume '%s': %s; name a folder of checkpoints, or that of --save to begin there", o->resume,
            strerror(errno));
    }
    zero_status_t status = zero_checkpoint_open(&job->checkpoint, o->resume, &why);
    if (status == ZERO_ERR_IO && why.reason == ZERO_REASON_NO_CHECKPOINT && !names_step(o->resume))
        return ZERO_OK;
    if (status != ZERO_OK)
        return resume_fail(o, INT64_MAX, status, &why, error);
    zero_checkpoint_info(job->checkpoint, &info);
    job->resumed = true;
    job->first = info.step;
    return ZERO_OK;
}

zero_status_t resume_resolve(job_t *job, bool thorough, zero_error_t *error)
{
    const options_t *o = &job->o;
    zero_status_t status = check_options(o, error);
    if (status == ZERO_OK && o->save_every != NULL)
        status = read_every(job, error);
    if (status == ZERO_OK && o->resume != NULL)
        status = open_checkpoint(job, error);
    if (status == ZERO_OK && o->save != NULL && thorough)
        status = check_later(job, error);
    return status;
}
