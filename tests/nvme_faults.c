/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_faults.c - part of test_nvme: each possible fault happens at each place in turn. Faults that the system can
 * recover from change nothing. Any other fault gives one sentence, from every later call too. Nothing hangs, and no
 * resource leaks. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/nvme_case.h"
#include "tests/nvme_suites.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { PIECES = 3, MOST = 9 * ZERO_NVME_BLOCK, BYTES = PIECES * MOST };
static const uint64_t lengths[PIECES] = {MOST, 512, 5 * ZERO_NVME_BLOCK + 1000};

/* Writes three pieces at once, then reads them at once and compares. *wrong: the contents differ although no call
 * failed. */
static zero_status_t scene(const nvme_case_t *c, char *memory, bool *wrong, zero_error_t *error)
{
    zero_nvme_t *n = NULL;
    zero_nvme_ticket_t tickets[PIECES];
    zero_error_t again = {0};
    zero_status_t status = zero_nvme_open(&n, c->folder, RANK, BYTES, &c->options, error);
    *wrong = false;
    if (status)
        return status;
    for (uint64_t pass = 0; pass < 2 && !status; pass++) {
        bool write = pass % 2 == 0;
        int started = 0;
        for (uint64_t i = 0; i < PIECES && !status; i++) {
            char *piece = memory + i * MOST;
            if (write) {
                case_pattern(piece, lengths[i], pass * 10 + i);
                status = zero_nvme_write(n, i * MOST, piece, lengths[i], &tickets[i], error);
            } else {
                memset(piece, 0, MOST);
                status = zero_nvme_read(n, i * MOST, piece, lengths[i], &tickets[i], error);
            }
            started += status == ZERO_OK;
        }
        for (int i = 0; i < started; i++) {
            zero_status_t ended = zero_nvme_wait(n, tickets[i], 60, status ? &again : error);
            ck_assert_msg(!status || ended == status, "one request ends with status %d, another with %d", (int)status,
                          (int)ended);
            status = ended;
        }
        for (uint64_t i = 0; i < PIECES && !write && !status; i++)
            *wrong |= !case_has_pattern(memory + i * MOST, lengths[i], (pass - 1) * 10 + i);
    }
    if (status) { /* returns the same sentence again */
        ck_assert_int_eq(zero_nvme_write(n, 0, memory, 1, &tickets[0], &again), status);
        ck_assert_str_eq(again.text, error->text);
    }
    zero_nvme_destroy(n);
    return status;
}

typedef struct kind {
    fault_t fault;
    int error, times;
    const char *part; /* of the sentence; NULL: the code recovers */
} kind_t;

static const kind_t kinds[] = {
    {FAULT_ERROR, EIO, 1, "Input/output"},
    {FAULT_ERROR, ENOSPC, 1, "`No space left on device`"},
    {FAULT_ERROR, EINVAL, 1, "`Invalid argument`"},
    {FAULT_ERROR, EAGAIN, 3, NULL},
    {FAULT_ERROR, EINTR, 3, NULL},
    {FAULT_ERROR, EINTR, 1 << 30, "`Interrupted system call`"},
    {FAULT_SHORT, 0, 1, NULL},
    {FAULT_SHORT, 0, 1 << 30, NULL},
    {FAULT_ODD, 0, 1, NULL},
    {FAULT_END, 0, 1, ""},
    {FAULT_FLIP, 0, 1, ""},
    {FAULT_START, EIO, 1, ""},
    {FAULT_NEXT, EIO, 1, ""},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

START_TEST(each_transfer_fails_in_turn)
{
    const kind_t *k = &kinds[_i % KINDS];
    nvme_case_t c;
    char *memory = case_memory(BYTES, 0);
    int files = case_count("/proc/self/fd"), threads = case_count("/proc/self/task"), at;
    bool wrong;
    case_begin(&c, _i / KINDS);
    c.options.system = &fault_system;
    c.options.depth = 3;
    c.options.transfer = 2 * ZERO_NVME_BLOCK;
    for (at = 0;; at++) {
        zero_error_t error = {0};
        fault_arm(k->fault, k->error, at, k->times);
        zero_status_t status = scene(&c, memory, &wrong, &error);
        ck_assert_msg(!wrong, "wrong contents with no error, fault at transfer %d", at);
        ck_assert_int_eq(case_count("/proc/self/fd"), files);
        case_await_threads(threads);
        if (!fault_struck()) {
            ck_assert_msg(status == ZERO_OK, "%s", error.text);
            break;
        }
        if (!k->part) {
            ck_assert_msg(status == ZERO_OK, "transfer %d: %s", at, error.text);
            continue;
        }
        ck_assert_msg(status == ZERO_ERR_IO || status == ZERO_ERR_SYSTEM, "transfer %d: status %d", at, (int)status);
        ck_assert_msg(has_names(error.text, k->part), "transfer %d: '%s' is not in '%s'", at, k->part, error.text);
        ck_assert_msg(has_names(error.text, "`rank 7`") && has_names(error.text, c.folder), "transfer %d: %s", at,
                      error.text);
    }
    /* 20 transfers: 5 for 9 blocks, 1 for 512 bytes, 3 + 1 for 5 blocks and the rest; each is written and read. */
    ck_assert_int_ge(at, 20);
    case_free(memory, BYTES);
    case_end(&c);
}
END_TEST

/* Removes the files that a failed removal has left. */
static void clean(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; (e = readdir(d));)
        unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

static const int errors[] = {EIO, ENOSPC, EINTR, EACCES, EWOULDBLOCK};
enum { ERRORS = sizeof errors / sizeof *errors };

START_TEST(each_call_fails_in_turn)
{
    nvme_case_t c;
    char *memory = case_memory(BYTES, 0);
    int files = case_count("/proc/self/fd"), threads = case_count("/proc/self/task"), at, failed = 0;
    bool wrong;
    case_begin(&c, _i / ERRORS);
    c.options.system = &fault_system;
    for (at = 0;; at++) {
        zero_error_t error = {0};
        fault_arm(FAULT_CALL, errors[_i % ERRORS], at, 1);
        zero_status_t status = scene(&c, memory, &wrong, &error);
        ck_assert(!wrong);
        ck_assert_int_eq(case_count("/proc/self/fd"), files);
        case_await_threads(threads);
        if (!fault_struck()) {
            ck_assert_msg(status == ZERO_OK, "%s", error.text);
            break;
        }
        /* An unknown alignment of the drive is not a failure, nor is a lock that must be retried. */
        failed += status != ZERO_OK;
        ck_assert_msg(status == ZERO_OK || has_names(error.text, c.folder), "%s: %s", fault_call(), error.text);
        ck_assert_msg(status == ZERO_OK || strlen(error.text) > 30, "%s: %s", fault_call(), error.text);
        if (!strcmp(fault_call(), "unlinkat") || !strcmp(fault_call(), "flock") || !strcmp(fault_call(), "fstat"))
            clean(c.folder);
        else
            ck_assert_msg(case_count(c.folder) == 2, "%s fails, and the folder is not empty", fault_call());
    }
    ck_assert_int_ge(at, 15);
    ck_assert_int_ge(failed, errors[_i % ERRORS] == EINTR || errors[_i % ERRORS] == EWOULDBLOCK ? 4 : 8);
    case_free(memory, BYTES);
    case_end(&c);
}
END_TEST

/* A bit flips on the drive, and a block returns to its old contents. */
START_TEST(the_drive_forgets)
{
    enum { SIZE = 40 * ZERO_NVME_BLOCK, AT = 33 * ZERO_NVME_BLOCK + 77 };
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_ticket_t t;
    char *memory = case_memory(SIZE, 3), block[ZERO_NVME_BLOCK];
    case_begin(&c, _i / 2);
    c.options.transfer = 3 * ZERO_NVME_BLOCK;
    OK(zero_nvme_open(&n, c.folder, RANK, SIZE, &c.options, error));
    OK(zero_nvme_write(n, 0, memory, SIZE, &t, error));
    OK(zero_nvme_wait(n, t, 60, error));
    int fd = case_open_file();
    ck_assert_int_eq(fcntl(fd, F_SETFL, 0), 0); /* no O_DIRECT */
    off_t start = AT / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK;
    ck_assert_int_eq(pread(fd, block, sizeof block, start), sizeof block);
    if (_i % 2) {
        memset(memory, 4, SIZE);
        OK(zero_nvme_write(n, 0, memory, SIZE, &t, error));
        OK(zero_nvme_wait(n, t, 60, error));
    } else
        block[AT % ZERO_NVME_BLOCK] ^= 0x10;
    ck_assert_int_eq(pwrite(fd, block, sizeof block, start), sizeof block);
    ck_assert_int_eq(fsync(fd), 0);
    close(fd);
    OK(zero_nvme_read(n, 0, memory, 33 * ZERO_NVME_BLOCK, &t, error)); /* everything before it is intact */
    OK(zero_nvme_wait(n, t, 60, error));
    OK(zero_nvme_read(n, 0, memory, SIZE, &t, error));
    FAILS(zero_nvme_wait(n, t, 60, error), ZERO_ERR_IO, "rank 7: 16384 bytes at offset 540672 of its file in 'nvme-");
    FAILS(zero_nvme_read(n, 0, memory, 1, &t, error), ZERO_ERR_IO, "are not what was written there");
    zero_nvme_destroy(n);
    case_free(memory, SIZE);
    case_end(&c);
}
END_TEST

/* If a request fails, queued requests fail too. Destroying a handle also ends requests that no call waits for. */
START_TEST(what_is_queued_ends_too)
{
    enum { SIZE = 64 * ZERO_NVME_BLOCK };
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_ticket_t t[3];
    char *memory = case_memory(SIZE, 3);
    case_begin(&c, _i);
    c.options.transfer = ZERO_NVME_BLOCK;
    c.options.depth = 1;
    c.options.system = &fault_system;
    fault_arm(FAULT_ERROR, EIO, 5, 1);
    OK(zero_nvme_open(&n, c.folder, RANK, SIZE, &c.options, error));
    zero_error_t why;
    for (uint64_t i = 0; i < 3; i++) /* a start may already fail */
        if (zero_nvme_write(n, i * 20 * ZERO_NVME_BLOCK, memory + i * 20 * ZERO_NVME_BLOCK, 20 * ZERO_NVME_BLOCK, &t[i],
                            &why))
            t[i] = 0;
    for (int i = 2; i >= 0; i--)
        if (t[i])
            FAILS(zero_nvme_wait(n, t[i], 60, error), ZERO_ERR_IO, "writing 16384 bytes at offset 81920");
    zero_nvme_destroy(n);
    fault_arm(FAULT_NONE, 0, 0, 0);
    OK(zero_nvme_open(&n, c.folder, RANK, SIZE, &c.options, error));
    OK(zero_nvme_write(n, 0, memory, SIZE, &t[0], error));
    zero_nvme_destroy(n);
    case_free(memory, SIZE);
    case_end(&c);
}
END_TEST

/* If two requests fail, all calls return the first one's error. One worker receives the results in the order of their
 * lanes. */
START_TEST(the_first_error_counts)
{
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_ticket_t t;
    char *memory = case_memory(2 * ZERO_NVME_BLOCK, 3);
    case_begin(&c, 0);
    c.options.transfer = ZERO_NVME_BLOCK;
    c.options.depth = 2;
    c.options.system = &fault_system;
    fault_arm(FAULT_ERROR, EIO, 0, 2);
    OK(zero_nvme_open(&n, c.folder, RANK, 2 * ZERO_NVME_BLOCK, &c.options, error));
    OK(zero_nvme_read(n, 0, memory, 2 * ZERO_NVME_BLOCK, &t, error));
    FAILS(zero_nvme_wait(n, t, 60, error), ZERO_ERR_IO, "reading 16384 bytes at offset 0 of");
    FAILS(zero_nvme_read(n, 0, memory, 1, &t, error), ZERO_ERR_IO, "reading 16384 bytes at offset 0 of");
    zero_nvme_destroy(n);
    case_free(memory, 2 * ZERO_NVME_BLOCK);
    case_end(&c);
}
END_TEST

TCase *nvme_faults_case(int first)
{
    TCase *t = tcase_create("faults");
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, each_transfer_fails_in_turn, first * KINDS, 2 * KINDS);
    tcase_add_loop_test(t, each_call_fails_in_turn, first * ERRORS, 2 * ERRORS);
    tcase_add_loop_test(t, the_drive_forgets, 2 * first, 4);
    tcase_add_loop_test(t, what_is_queued_ends_too, first, 2);
    if (first == 0)
        tcase_add_test(t, the_first_error_counts);
    return t;
}
