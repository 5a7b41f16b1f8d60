/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_folder.c - folders of checkpoints: which one is the newest, what is removed, who may write. */
#define _GNU_SOURCE
#include "zero/checkpoint/folder.h"
#include "tests/checkpoint_case.h"
#include "tests/checkpoint_suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s", why.text)
static zero_error_t why;

/* What was logged, one sentence behind the other. */
static char logged[4000];
static int warnings;
static void take_log(void *ctx, zero_log_level_t level, const char *text)
{
    (void)ctx;
    ck_assert_int_eq(level, ZERO_LOG_WARNING);
    strncat(logged, text, sizeof logged - strlen(logged) - 1);
    warnings++;
}
static const zero_folder_log_t to_log = {take_log, NULL}, no_log;

static void save(int64_t step)
{
    checkpoint_case_t c;
    char *path = zero_folder_step(scratch, step);
    case_make(&c, 0, true);
    OK(case_save(&c, path, step, &why));
    case_clear(&c);
    free(path);
}

/* A step whose manifest has one byte changed. */
static void damage(int64_t step)
{
    size_t bytes;
    char name[64];
    snprintf(name, sizeof name, "step-%lld/manifest.json", (long long)step);
    char *text = read_whole(at(name), &bytes);
    text[bytes / 2] ^= 4;
    write_whole(at(name), text, bytes);
    free(text);
}

static void half(int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "step-%lld", (long long)step);
    ck_assert_int_eq(mkdir(at(name), 0777), 0);
    snprintf(name, sizeof name, "step-%lld/moment2-00001-of-00002.safetensors", (long long)step);
    write_whole(at(name), "x", 1);
    snprintf(name, sizeof name, "step-%lld/manifest.json.tmp", (long long)step);
    write_whole(at(name), "{", 1);
}

/* The steps that have a folder are these, -1 at the end. */
static void expect_steps(const int64_t *wanted)
{
    int64_t *steps;
    int count, k = 0;
    OK(zero_folder_list(scratch, &steps, &count, &why));
    for (; wanted[k] >= 0; k++)
        ck_assert(k < count && steps[k] == wanted[k]);
    ck_assert_int_eq(count, k);
    free(steps);
}
#define EXPECT_STEPS(...) expect_steps((const int64_t[]){__VA_ARGS__, -1})

static void expect_newest(int64_t wanted, int wanted_warnings)
{
    int64_t step = -7;
    zero_manifest_t manifest;
    logged[0] = '\0';
    warnings = 0;
    OK(zero_folder_newest(scratch, &step, &manifest, to_log, &why));
    ck_assert_int_eq(step, wanted);
    ck_assert_int_eq(manifest.step, wanted);
    ck_assert_msg(warnings == wanted_warnings, "%d warnings: %s", warnings, logged);
    zero_manifest_clear(&manifest);
}

START_TEST(test_names)
{
    static const char *const others[] = {"step-",  "step-01", "step-+1", "step--1",  "step-1x",
                                         "Step-1", "step1",   "step- 1", "step-0x1", "step-9223372036854775808"};
    for (size_t k = 0; k < sizeof others / sizeof others[0]; k++)
        ck_assert_int_eq(mkdir(at(others[k]), 0777), 0);
    write_whole(at("step-5"), "", 0); /* a file */
    ck_assert_int_eq(symlink("step-01", at("step-6")), 0);
    EXPECT_STEPS(-1);
    half(0), half(9), half(10), half(INT64_MAX);
    EXPECT_STEPS(INT64_MAX, 10, 9, 0);
    char *path = zero_folder_step("a/b/", 12);
    ck_assert_str_eq(path, "a/b/step-12");
    free(path);
    int64_t *steps;
    int count;
    ck_assert_int_eq(zero_folder_list(at("nowhere"), &steps, &count, &why), ZERO_ERR_IO);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NONE, -1, "nowhere");
}
END_TEST

START_TEST(test_newest)
{
    int64_t step;
    zero_manifest_t manifest;
    zero_folder_newest(at("nowhere"), &step, &manifest, to_log, &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NONE, -1, "nowhere");
    zero_folder_newest(scratch, &step, &manifest, to_log, &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1, "");
    half(30);
    zero_folder_newest(scratch, &step, &manifest, to_log, &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1, "");
    save(9), save(10), save(2);
    expect_newest(10, 0);
    damage(10);
    expect_newest(9, 1);
    EXPECT_NAMES(logged, "step-10/manifest.json");
    /* nothing is whole, but there was something: not the same as nothing */
    damage(9), damage(2);
    zero_folder_newest(scratch, &step, &manifest, no_log, &why);
    EXPECT_ERROR(&why, ZERO_ERR_FORMAT, ZERO_REASON_NONE, -1, "step-10/manifest.json");
}
END_TEST

START_TEST(test_clean)
{
    save(5);
    half(6), half(4);
    damage(5); /* it has a manifest */
    OK(zero_folder_clean(scratch, no_log, &why));
    EXPECT_STEPS(5);
    half(7);
    ck_assert_int_eq(mkdir(at("step-7/own"), 0777), 0);
    warnings = 0;
    OK(zero_folder_clean(scratch, to_log, &why));
    ck_assert_int_eq(warnings, 1);
    EXPECT_STEPS(7, 5);
    ck_assert_int_eq(access(at("step-7/manifest.json.tmp"), F_OK), 0);
}
END_TEST

/* What no checkpoint has stays, and all that is beside it. */
START_TEST(test_others)
{
    static const char *const names[] = {"model.safetensors", "notes", "parametersx.safetensors", "parameters.txt",
                                        ".safetensors"};
    char name[64];
    for (int k = 0; k < 5; k++) {
        save(1), save(9), half(2);
        snprintf(name, sizeof name, "step-%d/%s", k % 2 ? 1 : 2, names[k]);
        write_whole(at(name), "x", 1);
        warnings = 0;
        OK(zero_folder_clean(scratch, to_log, &why));
        OK(zero_folder_keep(scratch, 1, 9, to_log, &why));
        ck_assert_int_ge(warnings, 1);
        EXPECT_NAMES(logged, names[k]);
        ck_assert_int_eq(access(at(name), F_OK), 0);
        ck_assert_int_eq(access(at(k % 2 ? "step-1/manifest.json" : "step-2/manifest.json.tmp"), F_OK), 0);
        ck_assert_int_eq(unlink(at(name)), 0);
        OK(zero_folder_remove(scratch, k % 2 ? 1 : 2, &why));
        OK(zero_folder_remove(scratch, 9, &why));
        EXPECT_STEPS(-1);
    }
}
END_TEST

START_TEST(test_keep)
{
    for (int step = 1; step <= 6; step++)
        save(step);
    half(7);
    OK(zero_folder_keep(scratch, 0, 6, no_log, &why));
    EXPECT_STEPS(7, 6, 5, 4, 3, 2, 1);
    OK(zero_folder_keep(scratch, 5, 6, no_log, &why)); /* half ones do not count */
    EXPECT_STEPS(7, 6, 5, 4, 3, 2);
    damage(5);
    OK(zero_folder_keep(scratch, 2, 6, no_log, &why)); /* nor do damaged ones */
    EXPECT_STEPS(7, 6, 5, 4);
    expect_newest(6, 0);
    /* what was written last stays, though others have larger numbers */
    save(1);
    OK(zero_folder_keep(scratch, 1, 1, no_log, &why));
    EXPECT_STEPS(7, 6, 1);
    OK(zero_folder_remove(scratch, 6, &why));
    EXPECT_STEPS(7, 1);
    ck_assert_int_eq(zero_folder_remove(scratch, 6, &why), ZERO_ERR_IO);
    EXPECT_NAMES(why.text, "step-6");
}
END_TEST

/* A process that holds the lock until its pipe is closed. */
START_TEST(test_lock)
{
    int lock, second, ready[2], end[2], status;
    char byte;
    const char *folder = at("new");
    OK(zero_folder_lock(folder, &lock, &why));
    zero_folder_lock(folder, &second, &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_FOLDER_IN_USE, -1, folder);
    ck_assert_int_eq(second, -1);
    close(lock);
    ck_assert(pipe(ready) == 0 && pipe(end) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(end[1]);
        if (zero_folder_lock(folder, &lock, &why) == ZERO_OK && write(ready[1], "x", 1) == 1)
            (void)!read(end[0], &byte, 1);
        _exit(0);
    }
    close(end[0]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(zero_folder_lock(folder, &second, &why), ZERO_ERR_IO);
    close(end[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    OK(zero_folder_lock(folder, &second, &why));
    close(second);
    ck_assert_int_eq(zero_folder_lock(at("no/such"), &lock, &why), ZERO_ERR_IO);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NONE, -1, "no/such");
    EXPECT_STEPS(-1);
}
END_TEST

START_TEST(test_token)
{
    bool found;
    ck_assert_int_eq(mkdir(at("other"), 0777), 0);
    OK(zero_folder_token_write(scratch, 77, &why));
    OK(zero_folder_token_look(scratch, 77, &found, &why));
    ck_assert(found);
    OK(zero_folder_token_look(scratch, 78, &found, &why));
    ck_assert(!found);
    OK(zero_folder_token_look(at("other"), 77, &found, &why)); /* another file system at the same path */
    ck_assert(!found);
    OK(zero_folder_token_look(at("nowhere"), 77, &found, &why));
    ck_assert(!found);
    ck_assert_int_eq(zero_folder_token_write(scratch, 77, &why), ZERO_ERR_IO);
    zero_folder_token_remove(scratch, 77);
    OK(zero_folder_token_look(scratch, 77, &found, &why));
    ck_assert(!found);
}
END_TEST

Suite *checkpoint_folder_suite(void)
{
    Suite *suite = suite_create("folder");
    TCase *tests = tcase_create("folder");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, test_names);
    tcase_add_test(tests, test_newest);
    tcase_add_test(tests, test_clean);
    tcase_add_test(tests, test_others);
    tcase_add_test(tests, test_keep);
    tcase_add_test(tests, test_lock);
    tcase_add_test(tests, test_token);
    suite_add_tcase(suite, tests);
    return suite;
}
