/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_file.c - the folder of the nvme tier: its checks, its lock, and the file of a rank. See nvme_system.h.
 *
 * Every rank of a run holds a shared flock on the lock file, whose text names the run. The rank that gets the lock
 * exclusively is the first: it writes its run into the file and then downgrades to a shared lock. So while anyone holds
 * a share, the text names the run of the holders. Nobody holds a lock file that a crash left, so anyone can take it.
 * The last rank of a run unlinks the file. A rank that locked an unlinked file sees that the file has no name. */
#define _GNU_SOURCE
#include "offload/nvme.h"
#include "offload/nvme_system.h"
#include "zero/device/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef STATX_DIOALIGN /* Linux 6.1 */
#define STATX_DIOALIGN 0x2000u
#define DIO_OFFSET_ALIGN(s) 0u
#define DIO_MEMORY_ALIGN(s) 0u
#define HAVE_DIOALIGN 0
#else
#define DIO_OFFSET_ALIGN(s) ((s).stx_dio_offset_align)
#define DIO_MEMORY_ALIGN(s) ((s).stx_dio_mem_align)
#define HAVE_DIOALIGN 1
#endif

#define LOCK_NAME "zero-nvme.lock"
#define LOCK_SECONDS 10.0

/* ---- the system's own calls ------------------------------------------------------------------------------------- */

static int system_openat(int folder, const char *name, int flags, mode_t mode)
{
    return openat(folder, name, flags, mode);
}

const zero_nvme_system_t zero_nvme_system = {
    .openat = system_openat,
    .unlinkat = unlinkat,
    .flock = flock,
    .fstatfs = fstatfs,
    .fstat = fstat,
    .statx = statx,
    .fallocate = fallocate,
    .ftruncate = ftruncate,
    .pread = pread,
    .pwrite = pwrite,
#if defined(HAVE_LIBURING)
    .uring = &zero_nvme_uring,
#endif
    .threads = &zero_nvme_threads,
};

/* ---- the folder ------------------------------------------------------------------------------------------------- */

static zero_status_t open_folder(zero_nvme_file_t *f, zero_error_t *error)
{
    static const struct {
        uint32_t magic;
        const char *name;
    } in_memory[] = {{TMPFS_MAGIC, "tmpfs"}, {RAMFS_MAGIC, "ramfs"}, {HUGETLBFS_MAGIC, "hugetlbfs"}};
    struct statfs fs;
    f->folder = f->system->openat(AT_FDCWD, f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (f->folder < 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot open the folder '%s' for the nvme tier: %s%s", f->path,
                         strerror(errno), errno == ENOENT ? " (create it, or name an existing folder)" : "");
    if (f->system->fstatfs(f->folder, &fs) < 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot identify the file system of '%s': %s", f->path, strerror(errno));
    for (size_t i = 0; i < sizeof in_memory / sizeof *in_memory; i++)
        if ((uint32_t)fs.f_type == in_memory[i].magic)
            return zero_fail_reason(error, ZERO_ERR_ARG, ZERO_REASON_FOLDER_IN_MEMORY, -1,
                                    "'%s' is in memory (%s), so the nvme tier would save no memory: name a folder on a "
                                    "drive, or use the host tier",
                                    f->path, in_memory[i].name);
    return ZERO_OK;
}

static zero_status_t cannot_make(const zero_nvme_file_t *f, const char *name, zero_error_t *error)
{
    bool full = errno == ENOSPC || errno == EDQUOT, forbidden = errno == EACCES || errno == EPERM || errno == EROFS;
    return zero_fail(error, full ? ZERO_ERR_MEMORY : ZERO_ERR_IO, "cannot create '%s/%s' for the nvme tier: %s%s",
                     f->path, name, strerror(errno),
                     forbidden ? " (name a folder that this user can write to, or change its permissions)"
                     : full    ? " (free space, or name another folder)"
                               : "");
}

/* ---- the lock --------------------------------------------------------------------------------------------------- */

typedef struct holder {
    unsigned long long run;
    int pid, rank;
    char host[65];
} holder_t;

static bool read_holder(const zero_nvme_file_t *f, holder_t *h)
{
    char text[160];
    ssize_t n = f->system->pread(f->lock, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    return sscanf(text, "run %llx process %d rank %d host %64s", &h->run, &h->pid, &h->rank, h->host) == 4;
}

static bool write_holder(const zero_nvme_file_t *f, uint64_t run)
{
    char text[160], host[65] = "";
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "run %llx process %d rank %d host %s\n", (unsigned long long)run, (int)getpid(),
                     f->rank, *host ? host : "?");
    return f->system->ftruncate(f->lock, 0) == 0 && f->system->pwrite(f->lock, text, (size_t)n, 0) == n;
}

static void close_lock(zero_nvme_file_t *f)
{
    if (f->lock >= 0)
        close(f->lock);
    f->lock = -1;
}

static bool has_name(const zero_nvme_file_t *f)
{
    struct stat st;
    return f->system->fstat(f->lock, &st) == 0 && st.st_nlink > 0;
}

/* Closes the lock. Unlinks it if nobody else holds it. */
static void leave_lock(zero_nvme_file_t *f)
{
    if (f->lock >= 0 && f->system->flock(f->lock, LOCK_EX | LOCK_NB) == 0 && has_name(f))
        f->system->unlinkat(f->folder, LOCK_NAME, 0);
    close_lock(f);
}

typedef enum lock_state {
    LOCK_OURS,
    LOCK_OTHERS,
    LOCK_MOVING
} lock_state_t; /* moving: another process is taking or leaving it right now */

static zero_status_t try_lock(zero_nvme_file_t *f, uint64_t run, lock_state_t *state, holder_t *holder,
                              zero_error_t *error)
{
    const zero_nvme_system_t *s = f->system;
    *state = LOCK_MOVING;
    f->lock = s->openat(f->folder, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (f->lock < 0)
        return cannot_make(f, LOCK_NAME, error);
    bool first = s->flock(f->lock, LOCK_EX | LOCK_NB) == 0;
    if (!first && errno != EWOULDBLOCK && errno != EINTR)
        return zero_fail(error, ZERO_ERR_IO, "cannot lock '%s/%s', the lock of the nvme folder: %s", f->path, LOCK_NAME,
                         strerror(errno));
    if (first && has_name(f) && !write_holder(f, run))
        return zero_fail(error, ZERO_ERR_IO, "cannot write '%s/%s', the lock of the nvme folder: %s", f->path,
                         LOCK_NAME, strerror(errno));
    /* Another rank can have been the first between the two locks. Trust the text as it is once this rank has its
     * share. */
    if (s->flock(f->lock, LOCK_SH | LOCK_NB) == 0 && has_name(f) && read_holder(f, holder))
        *state = holder->run == run ? LOCK_OURS : LOCK_OTHERS;
    return ZERO_OK;
}

static zero_status_t lock_folder(zero_nvme_file_t *f, uint64_t run, zero_error_t *error)
{
    double end = zero_now() + LOCK_SECONDS;
    holder_t holder;
    lock_state_t state;
    zero_status_t status;
    for (int others = 0;; others = state == LOCK_OTHERS) {
        status = try_lock(f, run, &state, &holder, error);
        if (status)
            break;
        if (state == LOCK_OURS)
            return ZERO_OK;
        /* Report others only when seen twice in a row: an owner that ends between the two locks is seen once. */
        if (state == LOCK_OTHERS && others) {
            status = zero_fail_reason(error, ZERO_ERR_IO, ZERO_REASON_FOLDER_IN_USE, -1,
                                      "'%s' is the nvme folder of another run: process %d (rank %d) on %s uses it; "
                                      "wait until it ends, or name another folder",
                                      f->path, holder.pid, holder.rank, holder.host);
            break;
        }
        if (zero_now() > end) {
            status = zero_fail_reason(
                error, ZERO_ERR_TIMEOUT, ZERO_REASON_FOLDER_IN_USE, -1,
                "'%s/%s' was locked for %g s by an unknown process: end that process, or name another folder", f->path,
                LOCK_NAME, LOCK_SECONDS);
            break;
        }
        close_lock(f);
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    leave_lock(f);
    return status;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static zero_status_t no_direct(const zero_nvme_file_t *f, zero_error_t *error)
{
    return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_DIRECT_IO, -1,
                            "the file system of '%s' does not support O_DIRECT, which the nvme tier needs to bypass "
                            "the page cache: name a folder on a local drive with ext4, XFS or Btrfs",
                            f->path);
}

/* Creates a new file of this rank and unlinks it at once. This process holds the folder's lock, so an existing file of
 * this name belongs to a crashed run. */
static zero_status_t make_file(zero_nvme_file_t *f, zero_error_t *error)
{
    char name[48];
    snprintf(name, sizeof name, "zero-nvme-rank%d", f->rank);
    if (f->system->unlinkat(f->folder, name, 0) < 0 && errno != ENOENT)
        return cannot_make(f, name, error);
    f->fd = f->system->openat(f->folder, name, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int e = errno;
    /* If O_DIRECT is refused, the file may exist anyway. */
    if (f->system->unlinkat(f->folder, name, 0) < 0 && f->fd >= 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot unlink '%s/%s', so a crash would leave its space allocated: %s",
                         f->path, name, strerror(errno));
    errno = e;
    if (f->fd < 0)
        return errno == EINVAL ? no_direct(f, error) : cannot_make(f, name, error);
    return ZERO_OK;
}

static zero_status_t check_alignment(const zero_nvme_file_t *f, zero_error_t *error)
{
    struct statx x = {0};
    /* Linux before 6.1 does not report this; no drive requires more than a page. */
    if (!HAVE_DIOALIGN || f->system->statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) < 0 ||
        !(x.stx_mask & STATX_DIOALIGN))
        return ZERO_OK;
    if (DIO_OFFSET_ALIGN(x) == 0)
        return no_direct(f, error);
    if (ZERO_NVME_ALIGN % DIO_OFFSET_ALIGN(x) || (DIO_MEMORY_ALIGN(x) && ZERO_NVME_ALIGN % DIO_MEMORY_ALIGN(x)))
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_DIRECT_IO, -1,
                                "the drive of '%s' needs transfers aligned to %u bytes in the file and %u in memory, "
                                "but at most %d is supported: name a folder on another drive",
                                f->path, DIO_OFFSET_ALIGN(x), DIO_MEMORY_ALIGN(x), ZERO_NVME_ALIGN);
    return ZERO_OK;
}

static zero_status_t too_full(const zero_nvme_file_t *f, uint64_t there, zero_error_t *error)
{
    return zero_fail_reason(
        error, ZERO_ERR_MEMORY, ZERO_REASON_DRIVE_FULL, f->rank,
        "rank %d needs %llu bytes in '%s', but %llu are free there: free space, name another folder, or use more ranks",
        f->rank, (unsigned long long)f->bytes, f->path, (unsigned long long)there);
}

static uint64_t free_space(const zero_nvme_file_t *f)
{
    struct statfs fs;
    return f->system->fstatfs(f->folder, &fs) == 0 ? (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize : 0;
}

/* Sets the file's size and allocates all of its space, so a full drive is an error now and not at a later step. */
static zero_status_t reserve(const zero_nvme_file_t *f, zero_log_fn log, void *log_ctx, zero_error_t *error)
{
    struct rlimit limit;
    int e;
    /* Exceeding this limit would raise a signal. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && f->bytes > limit.rlim_cur)
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "rank %d needs a file of %llu bytes for the nvme tier, but files are limited to "
                         "%llu (ulimit -f): raise that limit",
                         f->rank, (unsigned long long)f->bytes, (unsigned long long)limit.rlim_cur);
    if (free_space(f) < f->bytes)
        return too_full(f, free_space(f), error);
    do
        e = f->system->fallocate(f->fd, 0, 0, (off_t)f->bytes) < 0 ? errno : 0;
    while (e == EINTR);
    if (e == EOPNOTSUPP || e == ENOSYS) {
        zero_log(log, log_ctx, ZERO_LOG_WARNING,
                 "rank %d: the file system of '%s' cannot reserve space: training will fail if other programs fill the "
                 "drive",
                 f->rank, f->path);
        e = f->system->ftruncate(f->fd, (off_t)f->bytes) < 0 ? errno : 0;
    }
    if (e == ENOSPC || e == EDQUOT)
        return too_full(f, free_space(f), error);
    if (e)
        return zero_fail(error, e == EFBIG ? ZERO_ERR_MEMORY : ZERO_ERR_IO,
                         "cannot make a file of %llu bytes in '%s' for the nvme tier of rank %d: %s",
                         (unsigned long long)f->bytes, f->path, f->rank, strerror(e));
    return ZERO_OK;
}

/* Some file systems accept O_DIRECT and then refuse the transfers: write and read one block. */
static zero_status_t try_transfer(const zero_nvme_file_t *f, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    ssize_t n = -1;
    char *block = mmap(NULL, ZERO_NVME_BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a block of %d bytes", ZERO_NVME_BLOCK);
    for (int write = 1; write >= 0 && status == ZERO_OK; write--) {
        do
            n = write ? f->system->pwrite(f->fd, block, ZERO_NVME_BLOCK, 0)
                      : f->system->pread(f->fd, block, ZERO_NVME_BLOCK, 0);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EINVAL)
            status = no_direct(f, error);
        else if (n < 0 && (errno == ENOSPC || errno == EDQUOT))
            status = too_full(f, free_space(f), error);
        else if (n != ZERO_NVME_BLOCK)
            status = zero_fail(error, ZERO_ERR_IO, "%s the first %d bytes of rank %d's file in '%s' failed: %s",
                               write ? "writing" : "reading", ZERO_NVME_BLOCK, f->rank, f->path,
                               n < 0 ? strerror(errno) : "short transfer");
    }
    munmap(block, ZERO_NVME_BLOCK);
    return status;
}

zero_status_t zero_nvme_file_open(zero_nvme_file_t *f, const zero_nvme_system_t *system, const char *folder, int rank,
                                  uint64_t bytes, uint64_t run, zero_log_fn log, void *log_ctx, zero_error_t *error)
{
    zero_status_t status;
    *f = (zero_nvme_file_t){.system = system, .folder = -1, .lock = -1, .fd = -1, .rank = rank};
    if (!folder || !*folder)
        return zero_fail(error, ZERO_ERR_ARG, "the nvme tier has no folder: name one on a local drive");
    if (bytes == 0 || !zero_round_up(bytes, ZERO_NVME_BLOCK, &f->bytes) || f->bytes > INT64_MAX)
        return zero_fail(error, ZERO_ERR_ARG, "the file has %llu bytes, but must have 1 to %lld",
                         (unsigned long long)bytes, (long long)INT64_MAX / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK);
    f->path = strdup(folder);
    if (!f->path)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the name of a folder");
    if ((status = open_folder(f, error)) || (status = lock_folder(f, run, error)) || (status = make_file(f, error)) ||
        (status = check_alignment(f, error)) || (status = reserve(f, log, log_ctx, error)) ||
        (status = try_transfer(f, error)))
        zero_nvme_file_close(f);
    return status;
}

void zero_nvme_file_close(zero_nvme_file_t *f)
{
    if (f->fd >= 0)
        close(f->fd);
    leave_lock(f);
    if (f->folder >= 0)
        close(f->folder);
    free(f->path);
    *f = (zero_nvme_file_t){.system = f->system, .folder = -1, .lock = -1, .fd = -1};
}
