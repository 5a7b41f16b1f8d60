/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
/* test_train_tensorboard.c - event files, read back byte by byte; checksums against values of others. */
#include "tests/expect.h"
#include "train/tensorboard.h"

#include <check.h>
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The examples of RFC 3720, B.4, and the check value of the CRC catalogues. */
START_TEST(checksums_are_crc32c)
{
    unsigned char bytes[32] = {0};
    ck_assert_uint_eq(tensorboard_crc32c("", 0), 0);
    ck_assert_uint_eq(tensorboard_crc32c("123456789", 9), 0xe3069283);
    ck_assert_uint_eq(tensorboard_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    ck_assert_uint_eq(tensorboard_crc32c(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)i;
    ck_assert_uint_eq(tensorboard_crc32c(bytes, 32), 0x46dd794e);
}
END_TEST

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct event {
    double time;
    int64_t step;
    char version[32], tag[64];
    bool start; /* SessionLog with START */
    float value;
} event_t;

static uint64_t little(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

static uint64_t varint(const unsigned char **p, const unsigned char *end)
{
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        ck_assert(*p < end && shift < 64);
        value |= (uint64_t)(**p & 0x7f) << shift;
        if ((*(*p)++ & 0x80) == 0)
            return value;
    }
}

/* Reads the next field of a message: its number, and its value or its bytes. */
static int field(const unsigned char **p, const unsigned char *end, uint64_t *value, const unsigned char **bytes)
{
    const uint64_t key = varint(p, end);
    switch (key & 7) {
    case 0:
        *value = varint(p, end);
        break;
    case 1:
    case 5: {
        const int size = (key & 7) == 1 ? 8 : 4;
        ck_assert_int_le(size, end - *p);
        *value = little(*p, size);
        *p += size;
        break;
    }
    case 2:
        *value = varint(p, end);
        ck_assert_uint_le(*value, (uint64_t)(end - *p));
        *bytes = *p;
        *p += *value;
        break;
    default:
        ck_abort_msg("wire type %d", (int)(key & 7));
    }
    return (int)(key >> 3);
}

static void copy(char *text, size_t size, const unsigned char *bytes, uint64_t n)
{
    ck_assert_uint_lt(n, size);
    memcpy(text, bytes, n);
    text[n] = '\0';
}

static void read_summary(event_t *e, const unsigned char *p, const unsigned char *end)
{
    const unsigned char *bytes = NULL;
    uint64_t value;
    ck_assert_int_eq(field(&p, end, &value, &bytes), 1);
    ck_assert_ptr_eq(p, end); /* one value */
    const unsigned char *q = bytes, *value_end = bytes + value;
    while (q < value_end) {
        const int number = field(&q, value_end, &value, &bytes);
        ck_assert(number == 1 || number == 2);
        if (number == 1) {
            copy(e->tag, sizeof e->tag, bytes, value);
        } else {
            const uint32_t bits = (uint32_t)value;
            memcpy(&e->value, &bits, sizeof bits);
        }
    }
}

static event_t read_event(const unsigned char *p, const unsigned char *end)
{
    event_t e = {.step = 0};
    while (p < end) {
        const unsigned char *bytes = NULL;
        uint64_t value;
        switch (field(&p, end, &value, &bytes)) {
        case 1:
            memcpy(&e.time, &value, sizeof value);
            break;
        case 2:
            e.step = (int64_t)value;
            break;
        case 3:
            copy(e.version, sizeof e.version, bytes, value);
            break;
        case 5:
            read_summary(&e, bytes, bytes + value);
            break;
        case 7:
            e.start = value == 2 && bytes[0] == 0x08 && bytes[1] == 1;
            break;
        default:
            ck_abort_msg("an unknown field");
        }
    }
    return e;
}

static uint32_t masked(const unsigned char *bytes, size_t n)
{
    const uint32_t crc = tensorboard_crc32c(bytes, n);
    return (uint32_t)(((uint64_t)crc << 17 | crc >> 15) + 0xa282ead8);
}

/* Reads a file's events; returns how many there are. */
static int read_file(const char *path, event_t *events, int most)
{
    static unsigned char data[1 << 20];
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    const size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    int count = 0;
    for (const unsigned char *p = data, *end = data + size; p < end; count++) {
        ck_assert_int_ge(end - p, 16);
        const uint64_t length = little(p, 8);
        ck_assert_uint_le(length, (uint64_t)(end - p) - 16);
        ck_assert_uint_eq(little(p + 8, 4), masked(p, 8));
        ck_assert_uint_eq(little(p + 12 + length, 4), masked(p + 12, length));
        ck_assert_int_lt(count, most);
        events[count] = read_event(p + 12, p + 12 + length);
        p += 16 + length;
    }
    return count;
}

/* ---- a folder --------------------------------------------------------------------------------------------------- */

static char folder[] = "test_tensorboard.XXXXXX", names[8][512];

/* The files of a folder, as names. */
static int list(const char *path)
{
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort), count = 0;
    ck_assert_int_ge(n, 0);
    for (int i = 0; i < n; i++) {
        if (entries[i]->d_name[0] != '.' && count < 8)
            snprintf(names[count++], sizeof names[0], "%s/%s", path, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return count;
}

static void make_folder(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    ck_assert_int_eq(system(command), 0);
    memcpy(folder, "test_tensorboard.XXXXXX", sizeof folder);
}

static char *inside(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

START_TEST(events_are_read_back)
{
    static const double values[] = {0.1, -1e300, 1e-300, NAN, INFINITY, 16777217};
    enum { VALUES = sizeof values / sizeof *values };
    event_t events[40];
    tensorboard_t *board;
    zero_error_t e = {0};
    zero_memory_t memory = {.size = sizeof memory};
    memory.bytes[ZERO_TIER_DEVICE][0] = 100;
    memory.bytes[ZERO_TIER_DEVICE][1] = 28;
    memory.bytes[ZERO_TIER_NVME][2] = UINT64_C(1) << 40;
    const double before = (double)time(NULL);
    ck_assert_int_eq(tensorboard_open(&board, inside("a/b/"), 21, &e), ZERO_OK);
    for (int i = 0; i < VALUES; i++)
        tensorboard_scalar(board, 21 + i, "loss", values[i]);
    tensorboard_scalar(board, INT64_C(1) << 40, "eval/loss", 2);
    tensorboard_memory(board, 300, &memory);
    ck_assert_int_eq(tensorboard_pace(board, &e), ZERO_OK);
    ck_assert_int_eq(tensorboard_close(board, &e), ZERO_OK);

    ck_assert_int_eq(list(inside("a/b")), 1);
    char start[64], host[256] = "";
    gethostname(host, sizeof host - 1);
    long long seconds;
    ck_assert_int_eq(sscanf(strrchr(names[0], '/'), "/events.out.tfevents.%10lld.", &seconds), 1);
    ck_assert(seconds >= (long long)before && seconds <= (long long)time(NULL));
    snprintf(start, sizeof start, ".%d.0", (int)getpid());
    ck_assert_ptr_nonnull(strstr(names[0], start));
    ck_assert_ptr_nonnull(strstr(names[0], host));

    ck_assert_int_eq(read_file(names[0], events, 40), VALUES + 5);
    for (int i = 0; i < VALUES + 5; i++)
        ck_assert(events[i].time >= before && events[i].time <= (double)time(NULL) + 1);
    ck_assert_str_eq(events[0].version, "brain.Event:2");
    ck_assert(events[1].start && events[1].step == 21);
    for (int i = 0; i < VALUES; i++) {
        const event_t *v = &events[2 + i];
        ck_assert_int_eq(v->step, 21 + i);
        ck_assert_str_eq(v->tag, "loss");
        ck_assert(isnan(values[i]) ? isnan(v->value) : v->value == (float)values[i]);
    }
    const event_t *last = &events[2 + VALUES];
    ck_assert(strcmp(last->tag, "eval/loss") == 0 && last->step == INT64_C(1) << 40 && last->value == 2);
    ck_assert(strcmp(last[1].tag, "memory/device") == 0 && last[1].value == 128 && last[1].step == 300);
    ck_assert(strcmp(last[2].tag, "memory/nvme") == 0 && last[2].value == 0x1p40F);
}
END_TEST

/* Two files of one process in one second. */
START_TEST(each_run_has_its_own_file)
{
    tensorboard_t *board[2];
    event_t events[8];
    zero_error_t e = {0};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(tensorboard_open(&board[i], folder, 1, &e), ZERO_OK);
        tensorboard_scalar(board[i], 1, "loss", i);
    }
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(tensorboard_close(board[i], &e), ZERO_OK);
    ck_assert_int_eq(list(folder), 2);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(read_file(names[i], events, 8), 3);
}
END_TEST

START_TEST(no_folder)
{
    tensorboard_t *board;
    zero_error_t e = {0};
    ck_assert_int_eq(tensorboard_check(folder, &e), ZERO_OK);
    ck_assert_int_eq(tensorboard_check(inside("new/folder"), &e), ZERO_OK);
    ck_assert_int_eq(tensorboard_check("new", &e), ZERO_OK);
    ck_assert_int_eq(list(folder), 0); /* nothing was created */
    FILE *file = fopen(inside("file"), "w");
    ck_assert_ptr_nonnull(file);
    fclose(file);
    ck_assert_int_eq(tensorboard_check(inside("file"), &e), ZERO_ERR_ARG);
    EXPECT_NAMES(e.text, "--tensorboard file");
    ck_assert_int_ne(tensorboard_check(inside("file/folder"), &e), ZERO_OK);
    EXPECT_NAMES(e.text, "--tensorboard file");
    ck_assert_int_eq(tensorboard_open(&board, inside("file/folder"), 1, &e), ZERO_ERR_IO);
    EXPECT_NAMES(e.text, "--tensorboard file");
    ck_assert_ptr_null(board);
    if (geteuid() != 0) { /* who may write everywhere */
        chmod(folder, 0555);
        ck_assert_int_eq(tensorboard_check(inside("new"), &e), ZERO_ERR_IO);
        chmod(folder, 0755);
    }
    ck_assert_int_eq(tensorboard_open(&board, NULL, 1, &e), ZERO_OK);
    ck_assert_ptr_null(board);
    tensorboard_scalar(board, 1, "loss", 1);
    ck_assert(tensorboard_pace(board, &e) == ZERO_OK && tensorboard_close(board, &e) == ZERO_OK);
}
END_TEST

/* A file that may not grow, as on a full disk: one failure while the run goes on, and again at its end. */
START_TEST(a_file_that_cannot_grow)
{
    tensorboard_t *board;
    zero_error_t e = {0};
    struct rlimit old, small;
    int failures = 0;
    ck_assert_int_eq(tensorboard_open(&board, folder, 1, &e), ZERO_OK);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 10000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (int s = 1; s <= 5000; s++) { /* more than the buffer */
        tensorboard_scalar(board, s, "loss", 1);
        failures += tensorboard_pace(board, &e) != ZERO_OK;
    }
    zero_status_t closed = tensorboard_close(board, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    ck_assert_int_eq(failures, 1);
    ck_assert_int_eq(closed, ZERO_ERR_IO);
    EXPECT_NAMES(e.text, "--tensorboard `File too large`");
    ck_assert_int_eq(list(folder), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensorboard");
    TCase *c = tcase_create("files");
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_test(c, checksums_are_crc32c);
    tcase_add_test(c, events_are_read_back);
    tcase_add_test(c, each_run_has_its_own_file);
    tcase_add_test(c, no_folder);
    tcase_add_test(c, a_file_that_cannot_grow);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
