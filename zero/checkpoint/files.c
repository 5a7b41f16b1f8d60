/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

char *zero_join_path(const char *folder, size_t folder_length, const char *name)
{
    size_t name_length = strlen(name);
    char *path = malloc(folder_length + 1 + name_length + 1);
    if (!path)
        return NULL;
    memcpy(path, folder, folder_length);
    if (folder_length > 0 && folder[folder_length - 1] != '/')
        path[folder_length++] = '/';
    memcpy(path + folder_length, name, name_length + 1);
    return path;
}

bool zero_is_file_name(const char *name)
{
    zero_quoted_t quoted;
    return name[0] != '\0' && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           strcmp(zero_quote(&quoted, name), name) == 0;
}

static zero_reason_t reason_of(int e)
{
    return e == ENOSPC || e == EDQUOT ? ZERO_REASON_DRIVE_FULL : ZERO_REASON_NONE;
}

static const char *advice_of(int e)
{
    return reason_of(e) == ZERO_REASON_DRIVE_FULL ? ": free some space there" : "";
}

zero_status_t zero_fail_file(zero_error_t *error, const char *what, const char *folder, const char *name)
{
    int e = errno;
    return zero_fail_reason(error, ZERO_ERR_IO, reason_of(e), -1, "cannot %s '%s%s%s': %s%s", what, folder,
                            name ? "/" : "", name ? name : "", strerror(e), advice_of(e));
}

zero_status_t zero_fail_write(zero_error_t *error, const char *folder, const char *name, uint64_t offset,
                              uint64_t count)
{
    int e = errno;
    return zero_fail_reason(error, ZERO_ERR_IO, reason_of(e), -1,
                            "cannot write %llu bytes of '%s%s%s' at byte %llu: %s%s", (unsigned long long)count, folder,
                            name ? "/" : "", name ? name : "", (unsigned long long)offset, strerror(e), advice_of(e));
}

zero_status_t zero_write_file(int fd, const char *folder, const char *name, uint64_t offset, const void *bytes,
                              uint64_t count, zero_error_t *error)
{
    const char *from = bytes;
    while (count > 0) {
        ssize_t n = pwrite(fd, from, count < (1u << 30) ? (size_t)count : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n < 0 ? errno : EIO; /* nothing written, and no error: never try that again and again */
            return zero_fail_write(error, folder, name, offset, count);
        }
        from += n;
        offset += (uint64_t)n;
        count -= (uint64_t)n;
    }
    return ZERO_OK;
}

zero_status_t zero_reserve_file(int fd, const char *folder, const char *name, uint64_t bytes, zero_error_t *error)
{
    int failed;
    /* not posix_fallocate, which writes to every block where the file system cannot reserve */
    while ((failed = fallocate(fd, 0, 0, (off_t)bytes)) < 0 && errno == EINTR)
        ;
    if (failed && errno != EOPNOTSUPP && errno != ENOSYS)
        return zero_fail_file(error, "reserve the space of", folder, name);
    while (failed && (failed = ftruncate(fd, (off_t)bytes)) < 0 && errno == EINTR)
        ;
    return failed ? zero_fail_file(error, "set the size of", folder, name) : ZERO_OK;
}

zero_status_t zero_sync_folder(const char *folder, zero_error_t *error)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), failed;
    if (fd < 0)
        return zero_fail_file(error, "open the folder", folder, NULL);
    while ((failed = fsync(fd)) < 0 && errno == EINTR)
        ;
    zero_status_t status = ZERO_OK;
    if (failed && errno != EINVAL && errno != ENOTSUP)
        status = zero_fail_file(error, "write out the folder", folder, NULL);
    close(fd);
    return status;
}

zero_status_t zero_sync_parent(const char *path, zero_error_t *error)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    char *parent = length > 0 ? strndup(path, length) : strdup(".");
    if (!parent)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the path of the folder of '%s'", path);
    zero_status_t status = zero_sync_folder(parent, error);
    free(parent);
    return status;
}
