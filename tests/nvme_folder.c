/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_folder.c - part of test_nvme: which folders are refused, two runs that use the same folder, and cleaning up. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/nvme_case.h"
#include "tests/nvme_suites.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 3 * ZERO_NVME_BLOCK };

/* Opening the folder fails with this status, and leaves no files. */
static void refused(const char *folder, uint64_t bytes, const zero_nvme_options_t *o, zero_status_t status,
                    const char *part)
{
    zero_nvme_t *n = (zero_nvme_t *)1;
    int files = case_count("/proc/self/fd"), threads = case_count("/proc/self/task");
    FAILS(zero_nvme_open(&n, folder, RANK, bytes, o, error), status, part);
    ck_assert_ptr_null(n);
    ck_assert_int_eq(case_count("/proc/self/fd"), files);
    case_await_threads(threads);
}

START_TEST(folders_are_checked)
{
    nvme_case_t c;
    char path[600], shm[] = "/dev/shm/nvme-XXXXXX";
    case_begin(&c, 1);
    snprintf(path, sizeof path, "%s/missing", c.folder);
    refused(path, BYTES, &c.options, ZERO_ERR_IO, "`No such file or directory`");
    refused(path, BYTES, &c.options, ZERO_ERR_IO, path);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    ck_assert_int_ge(fd, 0);
    close(fd);
    refused(path, BYTES, &c.options, ZERO_ERR_IO, "`Not a directory`");
    unlink(path);
    refused("", BYTES, &c.options, ZERO_ERR_ARG, "");
    if (mkdtemp(shm)) {
        refused(shm, BYTES, &c.options, ZERO_ERR_ARG, "tmpfs");
        ck_assert_int_eq(rmdir(shm), 0);
    }
    case_end(&c);
}
END_TEST

START_TEST(folders_that_are_not_writable)
{
    nvme_case_t c;
    case_begin(&c, 1);
    ck_assert_int_eq(chmod(c.folder, 0555), 0);
    /* The superuser may write anywhere. */
    ck_assert(geteuid() || seteuid(65534) == 0);
    refused(c.folder, BYTES, &c.options, ZERO_ERR_IO, "`Permission denied`");
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
    case_end(&c);
}
END_TEST

START_TEST(space_is_checked)
{
    nvme_case_t c;
    struct statvfs fs;
    char number[64];
    case_begin(&c, 1);
    ck_assert_int_eq(statvfs(c.folder, &fs), 0);
    /* The free space of a file system varies with other processes; its size does not. */
    uint64_t size = ((uint64_t)fs.f_blocks * fs.f_frsize / ZERO_NVME_BLOCK + 1) * ZERO_NVME_BLOCK;
    snprintf(number, sizeof number, "rank 7 needs %llu bytes", (unsigned long long)size);
    refused(c.folder, size, &c.options, ZERO_ERR_MEMORY, number);
    refused(c.folder, size, &c.options, ZERO_ERR_MEMORY, "");
    /* A write beyond this limit would raise a signal. */
    struct rlimit limit = {1 << 20, 1 << 20};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    refused(c.folder, (1 << 20) + 1, &c.options, ZERO_ERR_MEMORY, "1048576");
    case_end(&c);
}
END_TEST

/* Opening the file reserves its space. The file has no name, and closing it frees the space. */
START_TEST(space_is_taken_at_once)
{
    enum { SIZE = 8 << 20 };
    nvme_case_t c;
    zero_nvme_t *n;
    struct stat st;
    case_begin(&c, 1);
    OK(zero_nvme_open(&n, c.folder, RANK, SIZE, &c.options, error));
    int fd = case_open_file();
    ck_assert_int_eq(fstat(fd, &st), 0);
    ck_assert_uint_ge((uint64_t)st.st_blocks * 512, SIZE);
    ck_assert_uint_eq((uint64_t)st.st_size, SIZE);
    ck_assert_uint_eq(st.st_nlink, 0);
    ck_assert_int_eq(fcntl(fd, F_SETFL, O_DIRECT), 0);
    close(fd);
    ck_assert_int_eq(case_count(c.folder), 3); /* ".", "..", the lock */
    zero_nvme_destroy(n);
    case_end(&c);
}
END_TEST

/* ---- two runs --------------------------------------------------------------------------------------------------- */

START_TEST(a_second_run_is_refused)
{
    nvme_case_t c;
    zero_nvme_t *first, *other_rank, *n;
    char part[64];
    zero_nvme_options_t o;
    case_begin(&c, 1);
    o = c.options;
    o.run = 1234;
    OK(zero_nvme_open(&first, c.folder, 0, BYTES, &o, error));
    OK(zero_nvme_open(&other_rank, c.folder, 1, BYTES, &o, error));
    snprintf(part, sizeof part, "of another run: process %d (rank 0) on ", (int)getpid());
    refused(c.folder, BYTES, &c.options, ZERO_ERR_IO, part);
    /* Files that the first run leaves also make it refuse. */
    zero_nvme_destroy(first);
    refused(c.folder, BYTES, &c.options, ZERO_ERR_IO, part);
    zero_nvme_destroy(other_rank);
    OK(zero_nvme_open(&n, c.folder, 0, BYTES, &c.options, error));
    zero_nvme_destroy(n);
    case_end(&c);
}
END_TEST

/* After a crash: a lock that no process holds, and perhaps a file that still has its name. */
START_TEST(what_a_crash_leaves_is_cleaned)
{
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_ticket_t t;
    char path[600];
    int ready[2], status;
    char *memory = case_memory(BYTES, 1);
    case_begin(&c, 1);
    ck_assert_int_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        zero_error_t e;
        if (zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, &e) || zero_nvme_write(n, 0, memory, BYTES, &t, &e) ||
            zero_nvme_wait(n, t, 60, &e) || write(ready[1], "", 1) != 1)
            _exit(1);
        pause();
    }
    ck_assert_int_eq(read(ready[0], path, 1), 1);
    snprintf(path, sizeof path, "process %d (rank 7)", (int)child);
    refused(c.folder, BYTES, &c.options, ZERO_ERR_IO, path);
    kill(child, SIGKILL);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(case_count(c.folder), 3); /* the lock is still there */
    snprintf(path, sizeof path, "%s/zero-nvme-rank%d", c.folder, RANK);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    ck_assert_int_eq(write(fd, memory, BYTES), BYTES);
    close(fd);
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    ck_assert_int_eq(access(path, F_OK), -1);
    OK(zero_nvme_read(n, 0, memory, BYTES, &t, error));
    OK(zero_nvme_wait(n, t, 60, error));
    ck_assert(case_all(memory, BYTES, 0));
    zero_nvme_destroy(n);
    close(ready[0]);
    close(ready[1]);
    case_free(memory, BYTES);
    case_end(&c);
}
END_TEST

/* Two runs of several ranks start at the same moment: all ranks of one run get the folder, and none of the other. */
START_TEST(one_of_two_runs_wins)
{
    enum { RANKS = 4, ROUNDS = 15 };
    nvme_case_t c;
    case_begin(&c, 1);
    c.options.depth = 1;
    for (int round = 0; round < ROUNDS; round++) {
        pid_t children[2 * RANKS];
        int begin[2], results[2], end[2], inside[2] = {0, 0};
        ck_assert_int_eq(pipe(begin) | pipe(results) | pipe(end), 0);
        for (int i = 0; i < 2 * RANKS; i++) {
            if ((children[i] = fork()) != 0)
                continue;
            zero_nvme_t *n;
            zero_error_t e = {0};
            struct pollfd p = {.fd = begin[0], .events = POLLIN};
            close(begin[1]);
            close(end[1]);
            poll(&p, 1, -1); /* all start when the other end closes */
            c.options.run = (uint64_t)(round * 2 + i % 2 + 1);
            zero_status_t status = zero_nvme_open(&n, c.folder, i / 2, BYTES, &c.options, &e);
            char result = (char)(status == ZERO_OK                                                ? i % 2
                                 : status == ZERO_ERR_IO && e.reason == ZERO_REASON_FOLDER_IN_USE ? 2
                                                                                                  : 3);
            if (write(results[1], &result, 1) != 1 ||
                read(end[0], &result, 1) != 0) /* held until all ranks have reported */
                _exit(1);
            zero_nvme_destroy(n);
            _exit(0);
        }
        close(begin[1]);
        for (int i = 0; i < 2 * RANKS; i++) {
            char result;
            ck_assert_int_eq(read(results[0], &result, 1), 1);
            ck_assert_int_ne(result, 3);
            if (result < 2)
                inside[(int)result]++;
        }
        close(end[1]);
        for (int i = 0; i < 2 * RANKS; i++) {
            int status;
            ck_assert_int_eq(waitpid(children[i], &status, 0), children[i]);
            ck_assert_int_eq(status, 0);
        }
        close(begin[0]), close(results[0]), close(results[1]), close(end[0]);
        ck_assert_msg((inside[0] == RANKS && inside[1] == 0) || (inside[0] == 0 && inside[1] == RANKS),
                      "round %d: %d ranks of one run, %d of the other", round, inside[0], inside[1]);
        /* All ranks have left. Two ranks that end at the same moment may each think that the other stays, and leave the
         * lock. */
        char path[600];
        snprintf(path, sizeof path, "%s/zero-nvme.lock", c.folder);
        unlink(path);
    }
    case_end(&c);
}
END_TEST

/* ---- file systems that lack a feature --------------------------------------------------------------------------- */

/* Calls that fail in one way; otherwise they call the system. */
static int refused_open(int folder, const char *name, int flags, mode_t mode)
{
    if (!(flags & O_DIRECT))
        return zero_nvme_system.openat(folder, name, flags, mode);
    int fd = zero_nvme_system.openat(folder, name, flags & ~O_DIRECT,
                                     mode); /* as tmpfs did: it creates the file all the same */
    close(fd);
    errno = EINVAL;
    return -1;
}

static ssize_t refused_pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
    errno = EINVAL;
    return bytes == ZERO_NVME_BLOCK ? -1 : zero_nvme_system.pwrite(fd, buffer, bytes, offset);
}

static int refused_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    (void)fd, (void)mode, (void)offset, (void)bytes;
    errno = EOPNOTSUPP;
    return -1;
}

static int interrupted; /* the number of calls that remain to be interrupted */

static int interrupted_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    errno = EINTR;
    return interrupted-- > 0 ? -1 : zero_nvme_system.fallocate(fd, mode, offset, bytes);
}

static ssize_t interrupted_pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
    errno = EINTR;
    return bytes == ZERO_NVME_BLOCK && interrupted-- > 0 ? -1 : zero_nvme_system.pwrite(fd, buffer, bytes, offset);
}

static int full_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    (void)fd, (void)mode, (void)offset, (void)bytes;
    errno = ENOSPC;
    return -1;
}

static unsigned offset_align; /* the alignment that the drive requires */

static int coarse_statx(int fd, const char *name, int flags, unsigned mask, struct statx *out)
{
    int result = zero_nvme_system.statx(fd, name, flags, mask, out);
#ifdef STATX_DIOALIGN
    out->stx_mask |= STATX_DIOALIGN;
    out->stx_dio_mem_align = 512;
    out->stx_dio_offset_align = offset_align;
#endif
    return result;
}

START_TEST(what_file_systems_lack)
{
    nvme_case_t c;
    zero_nvme_system_t s = zero_nvme_system;
    zero_nvme_t *n;
    zero_nvme_ticket_t t;
    char *memory = case_memory(BYTES, 1);
    case_begin(&c, 1);
    c.options.system = &s;
    s.openat = refused_open;
    refused(c.folder, BYTES, &c.options, ZERO_ERR_UNSUPPORTED, "O_DIRECT");
    s = zero_nvme_system, s.pwrite = refused_pwrite;
    refused(c.folder, BYTES, &c.options, ZERO_ERR_UNSUPPORTED, "O_DIRECT");
    s = zero_nvme_system, s.fallocate = full_fallocate;
    refused(c.folder, BYTES, &c.options, ZERO_ERR_MEMORY, "`rank 7` 49152");
#ifdef STATX_DIOALIGN
    s = zero_nvme_system, s.statx = coarse_statx, offset_align = 65536;
    refused(c.folder, BYTES, &c.options, ZERO_ERR_UNSUPPORTED, "65536");
    offset_align = 0;
    refused(c.folder, BYTES, &c.options, ZERO_ERR_UNSUPPORTED, "O_DIRECT");
#else
    (void)coarse_statx, (void)offset_align;
#endif
    /* An interrupted call is not an error. */
    s = zero_nvme_system, s.fallocate = interrupted_fallocate, interrupted = 3;
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    ck_assert_int_lt(interrupted, 0);
    zero_nvme_destroy(n);
    s = zero_nvme_system, s.pwrite = interrupted_pwrite, interrupted = 3;
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    ck_assert_int_lt(interrupted, 0);
    zero_nvme_destroy(n);
    /* Without a reservation it continues, with a warning. */
    s = zero_nvme_system, s.fallocate = refused_fallocate;
    ck_assert_int_eq(case_warnings(), 0);
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    ck_assert_msg(case_warnings() == 1 && has_names(case_log(), c.folder), "log: %s", case_log());
    OK(zero_nvme_write(n, 0, memory, BYTES, &t, error));
    OK(zero_nvme_wait(n, t, 60, error));
    OK(zero_nvme_read(n, 0, memory, BYTES, &t, error));
    OK(zero_nvme_wait(n, t, 60, error));
    ck_assert(case_all(memory, BYTES, 1));
    zero_nvme_destroy(n);
    case_free(memory, BYTES);
    case_end(&c);
}
END_TEST

TCase *nvme_folder_case(int first)
{
    TCase *t = tcase_create("folder");
    (void)first;
    tcase_set_timeout(t, 120);
    tcase_add_test(t, folders_are_checked);
    tcase_add_test(t, folders_that_are_not_writable);
    tcase_add_test(t, space_is_checked);
    tcase_add_test(t, space_is_taken_at_once);
    tcase_add_test(t, a_second_run_is_refused);
    tcase_add_test(t, what_a_crash_leaves_is_cleaned);
    tcase_add_test(t, one_of_two_runs_wins);
    tcase_add_test(t, what_file_systems_lack);
    return t;
}
