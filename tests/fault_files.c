/* SPDX-License-Identifier: Apache-2.0 */
/* fault_files.c - for LD_PRELOAD: counts the calls that change files below a folder, and lets one of them fail. Not for
 * builds with a sanitizer, whose runtime has to come first.
 *
 *   ZERO_FAULT_BELOW    the folder, absolute, without symbolic links and without '/' at its end
 *   ZERO_FAULT_COUNTER  a file of 8 bytes outside of it, in which all processes count together
 *   ZERO_FAULT_AT       the number of the call that fails, from 1; 0: none
 *   ZERO_FAULT_KIND     kill: the process gets SIGKILL instead of making the call
 *                       enospc, eio, erofs: the call does nothing and fails so
 *                       short: a write writes half of its bytes
 *                       hold: the call waits until the file ZERO_FAULT_UNTIL exists
 *   ZERO_FAULT_STAY     1: so does every call after it, of every process
 *   ZERO_FAULT_CALL     counts only calls of this name
 *   ZERO_FAULT_LOG      a file outside of it, to which each counted call that is made adds a line: its name
 *                       ("create" for an open that may create), and the path
 *
 * Counted are opening for writing, write, pwrite, fsync, fdatasync, ftruncate, fallocate, rename, unlink, mkdir and
 * rmdir, under all names that they have, in the order in which they come. */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef enum kind { KILL, FAIL, SHORT, HOLD } kind_t;

static const char *below, *only, *until;
static size_t below_length;
static _Atomic uint64_t *counter;
static uint64_t fault_at;
static kind_t kind;
static int error_number;
static bool stay;
static int log_file = -1;

__attribute__((constructor)) static void begin(void)
{
    static const struct {
        const char *name;
        kind_t kind;
        int error_number;
    } kinds[] = {{"kill", KILL, 0},      {"enospc", FAIL, ENOSPC}, {"eio", FAIL, EIO},
                 {"erofs", FAIL, EROFS}, {"short", SHORT, 0},      {"hold", HOLD, 0}};
    const char *name = getenv("ZERO_FAULT_KIND"), *at = getenv("ZERO_FAULT_AT"), *path = getenv("ZERO_FAULT_COUNTER");
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    below = getenv("ZERO_FAULT_BELOW");
    if (!below || !path)
        return;
    below_length = strlen(below);
    fault_at = at ? strtoull(at, NULL, 10) : 0;
    stay = getenv("ZERO_FAULT_STAY") != NULL;
    only = getenv("ZERO_FAULT_CALL");
    until = getenv("ZERO_FAULT_UNTIL");
    for (size_t k = 0; name && k < sizeof kinds / sizeof kinds[0]; k++)
        if (strcmp(name, kinds[k].name) == 0)
            kind = kinds[k].kind, error_number = kinds[k].error_number;
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        fprintf(stderr, "fault_files: cannot map the counter '%s'\n", path);
        abort();
    }
    close(fd);
    counter = map;
    const char *log = getenv("ZERO_FAULT_LOG");
    if (log)
        log_file = real_open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static bool is_below(const char *path)
{
    return strncmp(path, below, below_length) == 0 && (path[below_length] == '/' || path[below_length] == '\0');
}

static bool fd_below(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = '\0';
    return is_below(path);
}

/* The path of a name in a folder's descriptor, into whole: 2 * PATH_MAX + 2 bytes. One that begins with "..", or has
 * links in it, is not looked through. */
static bool at_below(int folder, const char *path, char *whole)
{
    whole[0] = '\0';
    if (path[0] != '/' && (folder == AT_FDCWD ? !getcwd(whole, PATH_MAX) : (fd_below(folder, whole), !whole[0])))
        return false;
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    size_t n = strlen(whole);
    snprintf(whole + n, 2 * PATH_MAX + 2 - n, "%s%s", path[0] == '/' ? "" : "/", path);
    return is_below(whole);
}

/* Counts a call, and says whether it is to fail. Does not return where it is to kill. */
static bool strikes(const char *call, const char *path)
{
    char line[2 * PATH_MAX + 64];
    const struct timespec tick = {.tv_nsec = 10000000};
    if (only && strcmp(call, only) != 0)
        return false;
    uint64_t number = atomic_fetch_add(counter, 1) + 1;
    if (fault_at == 0 || number < fault_at || (number > fault_at && !stay)) {
        int n = snprintf(line, sizeof line, "%s %s\n", call, path);
        if (log_file >= 0)
            syscall(SYS_write, log_file, line, n);
        return false;
    }
    if (kind == KILL) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    while (kind == HOLD && until && access(until, F_OK) != 0)
        nanosleep(&tick, NULL);
    return kind != HOLD;
}

/* Whether a call that is not a write fails; then sets errno, which it leaves alone otherwise. */
static bool fd_fails(int fd, const char *call)
{
    char path[PATH_MAX];
    int before = errno;
    bool fails = counter && fd_below(fd, path) && strikes(call, path) && kind == FAIL;
    errno = fails ? error_number : before;
    return fails;
}
static bool path_fails(int folder, const char *name, const char *call)
{
    char path[2 * PATH_MAX + 2];
    int before = errno;
    bool fails = counter && name && at_below(folder, name, path) && strikes(call, path) && kind == FAIL;
    errno = fails ? error_number : before;
    return fails;
}

/* How many of a write's bytes are to be written; -1: it fails. */
static ssize_t part(int fd, size_t bytes)
{
    char path[PATH_MAX];
    int before = errno;
    bool counted = counter && fd_below(fd, path) && strikes("write", path);
    errno = counted && kind == FAIL ? error_number : before;
    if (!counted)
        return (ssize_t)bytes;
    return kind != SHORT ? -1 : bytes > 1 ? (ssize_t)(bytes / 2) : (ssize_t)bytes;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define EXPORT __attribute__((visibility("default")))

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static bool writes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}
static mode_t mode_of(int flags, va_list args)
{
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, mode_t) : 0;
}
#define OPEN(name)                                                                            \
    EXPORT int name(const char *path, int flags, ...)                                         \
    {                                                                                         \
        va_list args;                                                                         \
        va_start(args, flags);                                                                \
        mode_t mode = mode_of(flags, args);                                                   \
        va_end(args);                                                                         \
        if (writes(flags) && path_fails(AT_FDCWD, path, flags & O_CREAT ? "create" : "open")) \
            return -1;                                                                        \
        return REAL(name)(path, flags, mode);                                                 \
    }
#define OPENAT(name)                                                                        \
    EXPORT int name(int folder, const char *path, int flags, ...)                           \
    {                                                                                       \
        va_list args;                                                                       \
        va_start(args, flags);                                                              \
        mode_t mode = mode_of(flags, args);                                                 \
        va_end(args);                                                                       \
        if (writes(flags) && path_fails(folder, path, flags & O_CREAT ? "create" : "open")) \
            return -1;                                                                      \
        return REAL(name)(folder, path, flags, mode);                                       \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What a fortified program calls where it gives no mode. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open_2(const char *path, int flags)
{
    return open(path, flags);
}
EXPORT int __open64_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags)
{
    return open(path, flags);
}
EXPORT int __openat_2(int folder, const char *path, int flags);
EXPORT int __openat_2(int folder, const char *path, int flags)
{
    return openat(folder, path, flags);
}

static FILE *open_stream(FILE *(*real)(const char *, const char *), const char *path, const char *mode)
{
    return (mode[0] != 'r' || strchr(mode, '+')) && path_fails(AT_FDCWD, path, "open") ? NULL : real(path, mode);
}
EXPORT FILE *fopen(const char *path, const char *mode)
{
    return open_stream(REAL(fopen), path, mode);
}
EXPORT FILE *fopen64(const char *path, const char *mode)
{
    return open_stream(REAL(fopen64), path, mode);
}

/* ---- open files ------------------------------------------------------------------------------------------------- */

EXPORT ssize_t write(int fd, const void *bytes, size_t count)
{
    ssize_t n = part(fd, count);
    return n < 0 ? -1 : REAL(write)(fd, bytes, (size_t)n);
}
EXPORT ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    ssize_t n = part(fd, count);
    return n < 0 ? -1 : REAL(pwrite)(fd, bytes, (size_t)n, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    ssize_t n = part(fd, count);
    return n < 0 ? -1 : REAL(pwrite64)(fd, bytes, (size_t)n, offset);
}
EXPORT int fsync(int fd)
{
    return fd_fails(fd, "fsync") ? -1 : REAL(fsync)(fd);
}
EXPORT int fdatasync(int fd)
{
    return fd_fails(fd, "fdatasync") ? -1 : REAL(fdatasync)(fd);
}
EXPORT int ftruncate(int fd, off_t bytes)
{
    return fd_fails(fd, "ftruncate") ? -1 : REAL(ftruncate)(fd, bytes);
}
EXPORT int ftruncate64(int fd, off64_t bytes)
{
    return fd_fails(fd, "ftruncate") ? -1 : REAL(ftruncate64)(fd, bytes);
}
EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return fd_fails(fd, "fallocate") ? -1 : REAL(fallocate)(fd, mode, offset, bytes);
}
EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t bytes)
{
    return fd_fails(fd, "fallocate") ? -1 : REAL(fallocate64)(fd, mode, offset, bytes);
}
EXPORT int posix_fallocate(int fd, off_t offset, off_t bytes)
{
    return fd_fails(fd, "fallocate") ? error_number : REAL(posix_fallocate)(fd, offset, bytes);
}
EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t bytes)
{
    return fd_fails(fd, "fallocate") ? error_number : REAL(posix_fallocate64)(fd, offset, bytes);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

EXPORT int rename(const char *from, const char *to)
{
    return path_fails(AT_FDCWD, to, "rename") ? -1 : REAL(rename)(from, to);
}
EXPORT int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    return path_fails(to_folder, to, "rename") ? -1 : REAL(renameat)(from_folder, from, to_folder, to);
}
EXPORT int unlink(const char *path)
{
    return path_fails(AT_FDCWD, path, "unlink") ? -1 : REAL(unlink)(path);
}
EXPORT int unlinkat(int folder, const char *path, int flags)
{
    return path_fails(folder, path, "unlink") ? -1 : REAL(unlinkat)(folder, path, flags);
}
EXPORT int remove(const char *path)
{
    return path_fails(AT_FDCWD, path, "unlink") ? -1 : REAL(remove)(path);
}
EXPORT int mkdir(const char *path, mode_t mode)
{
    return path_fails(AT_FDCWD, path, "mkdir") ? -1 : REAL(mkdir)(path, mode);
}
EXPORT int rmdir(const char *path)
{
    return path_fails(AT_FDCWD, path, "rmdir") ? -1 : REAL(rmdir)(path);
}
