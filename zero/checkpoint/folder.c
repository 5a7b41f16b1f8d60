/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/folder.h"

#include "zero/checkpoint/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_NAME ".lock"

static zero_status_t no_memory(const char *folder, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory to look through the folder '%s'", folder);
}

static void warn(zero_folder_log_t log, const char *what, const zero_error_t *why)
{
    zero_log(log.log, log.ctx, ZERO_LOG_WARNING, "%s%s", what, why->text);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

char *zero_folder_step(const char *folder, int64_t step)
{
    char name[32];
    snprintf(name, sizeof name, "step-%" PRId64, step);
    return zero_join_path(folder, strlen(folder), name);
}

/* Whether a name is that of a step, as zero_folder_step writes it. */
static bool parse_step(const char *name, int64_t *step)
{
    if (strncmp(name, "step-", 5) != 0 || name[5] == '\0' || (name[5] == '0' && name[6] != '\0'))
        return false;
    *step = 0;
    for (name += 5; *name != '\0'; name++)
        if (*name < '0' || *name > '9' || __builtin_mul_overflow(*step, 10, step) ||
            __builtin_add_overflow(*step, *name - '0', step))
            return false;
    return true;
}

static int newest_first(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x < *y) - (*x > *y);
}

zero_status_t zero_folder_list(const char *folder, int64_t **steps, int *count, zero_error_t *error)
{
    const struct dirent *entry;
    struct stat st;
    int64_t step;
    zero_status_t status = ZERO_OK;
    DIR *dir = opendir(folder);
    *steps = NULL;
    *count = 0;
    if (!dir)
        return zero_fail_file(error, "open the folder", folder, NULL);
    while (errno = 0, (entry = readdir(dir))) {
        if (!parse_step(entry->d_name, &step) || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISDIR(st.st_mode))
            continue;
        int64_t *grown = realloc(*steps, ((size_t)*count + 1) * sizeof **steps);
        if (!grown) {
            status = no_memory(folder, error);
            goto end;
        }
        *steps = grown;
        grown[(*count)++] = step;
    }
    if (errno != 0) {
        status = zero_fail_file(error, "read the folder", folder, NULL);
        goto end;
    }
    if (*count > 0)
        qsort(*steps, (size_t)*count, sizeof **steps, newest_first);

end:
    closedir(dir);
    if (status != ZERO_OK) {
        free(*steps);
        *steps = NULL;
        *count = 0;
    }
    return status;
}

zero_status_t zero_folder_newest(const char *folder, int64_t *step, zero_manifest_t *manifest, zero_folder_log_t log,
                                 zero_error_t *error)
{
    int64_t *steps;
    int count;
    zero_error_t why = {.rank = -1}, newest = {.rank = -1};
    *manifest = (zero_manifest_t){0};
    zero_status_t status = zero_folder_list(folder, &steps, &count, error), found = ZERO_ERR_IO;
    if (status != ZERO_OK)
        return status;
    zero_fail_reason(&newest, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1, "the folder '%s' has no whole checkpoint",
                     folder);
    for (int k = 0; k < count; k++) {
        char *path = zero_folder_step(folder, steps[k]);
        found = path ? zero_manifest_read(manifest, path, &why) : no_memory(folder, &why);
        free(path);
        *step = steps[k];
        if (found == ZERO_OK)
            break;
        if (found == ZERO_ERR_MEMORY || found == ZERO_ERR_UNSUPPORTED) {
            newest = why;
            break;
        }
        if (why.reason == ZERO_REASON_NO_CHECKPOINT)
            continue;
        if (newest.reason == ZERO_REASON_NO_CHECKPOINT)
            newest = why;
        warn(log, "skipped a checkpoint: ", &why);
    }
    free(steps);
    return found == ZERO_OK ? ZERO_OK : zero_pass(error, newest.status, &newest);
}

/* ---- removing --------------------------------------------------------------------------------------------------- */

/* Whether a checkpoint's folder can have a file of this name. */
static bool is_ours(const char *name)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    static const char end[] = ".safetensors";
    size_t length = strlen(name);
    if (strcmp(name, ZERO_MANIFEST_NAME) == 0 || strcmp(name, ZERO_MANIFEST_NAME ".tmp") == 0)
        return true;
    if (length < sizeof end || strcmp(name + length + 1 - sizeof end, end) != 0)
        return false;
    for (size_t s = 0; s < sizeof states / sizeof states[0]; s++) {
        const char *base = zero_checkpoint_state_name(states[s]);
        size_t n = strlen(base);
        if (strncmp(name, base, n) == 0 && (name[n] == '.' || name[n] == '-'))
            return true;
    }
    return false;
}

static bool is_entry(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

/* Fails if the folder has something that no checkpoint has: others may name their folders like ours. */
static zero_status_t check_ours(DIR *dir, const char *path, zero_error_t *error)
{
    const struct dirent *entry;
    zero_quoted_t name;
    while (errno = 0, (entry = readdir(dir)))
        if (is_entry(entry) && !is_ours(entry->d_name))
            return zero_fail(error, ZERO_ERR_IO, "'%s' has '%s', which is not of a checkpoint: remove it by hand", path,
                             zero_quote(&name, entry->d_name));
    if (errno != 0)
        return zero_fail_file(error, "read the folder", path, NULL);
    rewinddir(dir);
    return ZERO_OK;
}

zero_status_t zero_folder_remove(const char *folder, int64_t step, zero_error_t *error)
{
    const struct dirent *entry;
    zero_status_t status = ZERO_OK;
    DIR *dir = NULL;
    char *path = zero_folder_step(folder, step);
    if (!path)
        return no_memory(folder, error);
    if (!(dir = opendir(path))) {
        status = zero_fail_file(error, "open the folder", path, NULL);
        goto end;
    }
    if ((status = check_ours(dir, path, error)) != ZERO_OK)
        goto end;
    if (unlinkat(dirfd(dir), ZERO_MANIFEST_NAME, 0) == 0)
        status = zero_sync_folder(path, error);
    else if (errno != ENOENT)
        status = zero_fail_file(error, "remove", path, ZERO_MANIFEST_NAME);
    while (status == ZERO_OK && (errno = 0, (entry = readdir(dir))))
        if (is_entry(entry) && unlinkat(dirfd(dir), entry->d_name, 0) != 0 && errno != ENOENT)
            status = zero_fail_file(error, "remove", path, entry->d_name);
    if (status == ZERO_OK && rmdir(path) != 0)
        status = zero_fail_file(error, "remove the folder", path, NULL);

end:
    if (dir)
        closedir(dir);
    free(path);
    return status;
}

/* Whether a step's folder has a manifest that is as it was written. */
static bool is_whole(const char *folder, int64_t step)
{
    char *path = zero_folder_step(folder, step);
    bool whole = path && zero_manifest_check(path);
    free(path);
    return whole;
}

static bool has_manifest(const char *folder, int64_t step)
{
    char *path = zero_folder_step(folder, step), *name;
    struct stat st;
    name = path ? zero_join_path(path, strlen(path), ZERO_MANIFEST_NAME) : NULL;
    bool has = !name || lstat(name, &st) == 0 || errno != ENOENT; /* in doubt it has */
    free(name);
    free(path);
    return has;
}

zero_status_t zero_folder_clean(const char *folder, zero_folder_log_t log, zero_error_t *error)
{
    int64_t *steps;
    int count, removed = 0;
    zero_error_t why;
    zero_status_t status = zero_folder_list(folder, &steps, &count, error);
    if (status != ZERO_OK)
        return status;
    for (int k = 0; k < count; k++) {
        if (has_manifest(folder, steps[k]))
            continue;
        if (zero_folder_remove(folder, steps[k], &why) == ZERO_OK)
            removed++;
        else
            warn(log, "cannot remove an unfinished checkpoint: ", &why);
    }
    free(steps);
    return removed > 0 ? zero_sync_folder(folder, error) : ZERO_OK;
}

zero_status_t zero_folder_keep(const char *folder, int keep, int64_t written, zero_folder_log_t log,
                               zero_error_t *error)
{
    int64_t *steps;
    int count, whole = 0, removed = 0;
    zero_error_t why;
    if (keep <= 0)
        return ZERO_OK;
    zero_status_t status = zero_folder_list(folder, &steps, &count, error);
    if (status != ZERO_OK)
        return status;
    for (int k = 0; k < count; k++) {
        if (whole < keep || steps[k] == written) {
            whole += steps[k] == written || is_whole(folder, steps[k]);
            continue;
        }
        if (zero_folder_remove(folder, steps[k], &why) == ZERO_OK)
            removed++;
        else
            warn(log, "cannot remove an old checkpoint: ", &why);
    }
    free(steps);
    return removed > 0 ? zero_sync_folder(folder, error) : ZERO_OK;
}

/* ---- lock, token ------------------------------------------------------------------------------------------------ */

zero_status_t zero_folder_lock(const char *folder, int *lock, zero_error_t *error)
{
    zero_status_t status;
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char *path = NULL;
    *lock = -1;
    if (mkdir(folder, 0777) == 0) {
        if ((status = zero_sync_parent(folder, error)) != ZERO_OK)
            return status;
    } else if (errno != EEXIST) {
        return zero_fail_file(error, "make the folder", folder, NULL);
    }
    if (!(path = zero_join_path(folder, strlen(folder), LOCK_NAME)))
        return no_memory(folder, error);
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    free(path);
    if (*lock < 0)
        return zero_fail_file(error, "open", folder, LOCK_NAME);
    /* Of the open file, not of the process: it goes when the descriptor is closed, and not when some other one is. Some
     * file systems have only flock. */
    int failed = fcntl(*lock, F_OFD_SETLK, &whole);
    if (failed < 0 && errno != EAGAIN && errno != EACCES)
        failed = flock(*lock, LOCK_EX | LOCK_NB);
    if (failed == 0)
        return ZERO_OK;
    if (errno == EAGAIN || errno == EACCES || errno == EWOULDBLOCK)
        status = zero_fail_reason(error, ZERO_ERR_IO, ZERO_REASON_FOLDER_IN_USE, -1,
                                  "another run saves its checkpoints in '%s': wait until it ends, or name another "
                                  "folder",
                                  folder);
    else
        status = zero_fail_file(error, "lock", folder, LOCK_NAME);
    close(*lock);
    *lock = -1;
    return status;
}

static char *token_path(const char *folder, uint64_t token)
{
    char name[32];
    snprintf(name, sizeof name, ".token-%016" PRIx64, token);
    return zero_join_path(folder, strlen(folder), name);
}

zero_status_t zero_folder_token_write(const char *folder, uint64_t token, zero_error_t *error)
{
    char *path = token_path(folder, token);
    if (!path)
        return no_memory(folder, error);
    zero_status_t status = ZERO_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        status = zero_fail_file(error, "create", path, NULL);
    else if (close(fd) < 0 && errno != EINTR)
        status = zero_fail_file(error, "close", path, NULL);
    free(path);
    return status;
}

zero_status_t zero_folder_token_look(const char *folder, uint64_t token, bool *found, zero_error_t *error)
{
    char *path = token_path(folder, token);
    *found = false;
    if (!path)
        return no_memory(folder, error);
    zero_status_t status = ZERO_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* by opening it: a network file system then asks its server */
    if (fd >= 0) {
        *found = true;
        close(fd);
    } else if (errno != ENOENT) {
        status = zero_fail_file(error, "open", path, NULL);
    }
    free(path);
    return status;
}

void zero_folder_token_remove(const char *folder, uint64_t token)
{
    char *path = token_path(folder, token);
    if (path)
        unlink(path);
    free(path);
}
