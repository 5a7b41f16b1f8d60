/* SPDX-License-Identifier: Apache-2.0 */
/* test_tensors_write.c - zero_tensors_create, write, finish: what several processes write is what one would, and
 * readers find a whole set or the earlier one. */
#include "tests/expect.h"
#include "tests/ranks.h"
#include "zero/base/base.h"

#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static const char *at(const char *name)
{
    static char text[4][256];
    static int turn;
    snprintf(text[turn++ % 4], sizeof text[0], "%s/%s", folder, name);
    return text[(turn - 1) % 4];
}

static void make_folder(void)
{
    strcpy(folder, "test_tensors_write.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* The number of entries of the folder; with remove, they go. */
static int entries(bool remove)
{
    int count = 0;
    DIR *dir = opendir(folder);
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.') {
            count++;
            if (remove && unlink(at(entry->d_name)) != 0)
                rmdir(at(entry->d_name));
        }
    closedir(dir);
    return count;
}

static void remove_folder(void)
{
    entries(true);
    rmdir(folder);
}

/* ---- the tensors ------------------------------------------------------------------------------------------------ */

/* Odd sizes, a scalar and an empty tensor; more than one chunk of 16-bit elements. */
enum { TENSORS = 6, LARGE = 70001 };
static const zero_tensor_info_t tensors[TENSORS] = {
    {.size = sizeof *tensors, .name = "b", .dtype = "BF16", .ndim = 2, .shape = {7, LARGE / 7}},
    {.size = sizeof *tensors, .name = "a", .dtype = "F32", .ndim = 1, .shape = {1001}},
    {.size = sizeof *tensors, .name = "half", .dtype = "F16", .ndim = 3, .shape = {3, 5, 11}},
    {.size = sizeof *tensors, .name = "none", .dtype = "F16", .ndim = 2, .shape = {0, 5}},
    {.size = sizeof *tensors, .name = "one", .dtype = "F32"},
    {.size = sizeof *tensors, .name = "z", .dtype = "BF16", .ndim = 1, .shape = {13}},
};

static int64_t count_of(int t)
{
    int64_t count = 1;
    for (int d = 0; d < tensors[t].ndim; d++)
        count *= tensors[t].shape[d];
    return count;
}

/* Element i of tensor t: values that need rounding in 16 bits. */
static float value(int t, int64_t i)
{
    return (float)((double)(zero_splitmix64((uint64_t)(t * 1000003 + i)) >> 11) * 0x1p-53 - 0.5);
}

static float rounded(int t, int64_t i)
{
    float v = value(t, i);
    return tensors[t].dtype[0] == 'B'   ? zero_bf16_to_fp32(zero_fp32_to_bf16(v))
           : tensors[t].dtype[1] == '1' ? zero_fp16_to_fp32(zero_fp32_to_fp16(v))
                                        : v;
}

/* Opens a writer; its failure fails the test. */
static zero_tensors_writer_t *opened(uint64_t file_bytes, bool create)
{
    zero_error_t error;
    zero_tensors_writer_t *w = NULL;
    ck_assert_msg(zero_tensors_create(&w, folder, "model", tensors, TENSORS, file_bytes, create, &error) == ZERO_OK,
                  "%s", error.text);
    return w;
}

/* Writes the rank's share of each tensor, in pieces. */
static void write_share(zero_tensors_writer_t *w, int rank, int world)
{
    static float values[LARGE];
    zero_error_t error;
    for (int t = 0; t < TENSORS; t++) {
        int64_t begin = count_of(t) * rank / world, end = count_of(t) * (rank + 1) / world;
        for (int64_t i = begin; i < end; i++)
            values[i - begin] = value(t, i);
        int64_t first = (end - begin) / 3;
        ck_assert_msg(zero_tensors_write(w, t, begin + first, end - begin - first, values + first, &error) == ZERO_OK &&
                          zero_tensors_write(w, t, begin, first, values, &error) == ZERO_OK,
                      "%s", error.text);
    }
}

static void finish(zero_tensors_writer_t *w)
{
    zero_error_t error;
    ck_assert_msg(zero_tensors_finish(w, &error) == ZERO_OK, "%s", error.text);
}

static void write_alone(uint64_t file_bytes)
{
    zero_tensors_writer_t *w = opened(file_bytes, true);
    write_share(w, 0, 1);
    finish(w);
}

/* The folder holds the tensors, as readers see them. */
static void check_set(void)
{
    static float values[LARGE];
    zero_error_t error;
    zero_tensors_t *file = NULL;
    ck_assert_msg(zero_tensors_open(&file, folder, &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(zero_tensors_count(file), TENSORS);
    ck_assert_str_eq(zero_tensors_metadata(file, "format"), "pt");
    ck_assert_str_eq(zero_tensors_metadata(file, "producer"), "libzero");
    ck_assert_ptr_null(zero_tensors_metadata(file, "colour"));
    for (int t = 0; t < TENSORS; t++) {
        int index = zero_tensors_find(file, tensors[t].name);
        zero_tensor_info_t info = {.size = sizeof info};
        ck_assert_int_eq(zero_tensors_at(file, index, &info), ZERO_OK);
        ck_assert_str_eq(info.dtype, tensors[t].dtype);
        ck_assert_int_eq(info.ndim, tensors[t].ndim);
        ck_assert_mem_eq(info.shape, tensors[t].shape, sizeof info.shape);
        ck_assert_int_eq(zero_tensors_read(file, index, 0, info.count, values, &error), ZERO_OK);
        for (int64_t i = 0; i < info.count; i++)
            ck_assert_msg(values[i] == rounded(t, i), "tensor %d, element %lld", t, (long long)i);
    }
    zero_tensors_close(file);
}

static char *contents(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "there is no %s", path);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*bytes + 1);
    ck_assert_uint_eq(fread(text, 1, *bytes, f), *bytes);
    text[*bytes] = '\0';
    fclose(f);
    return text;
}

/* ---- several processes ------------------------------------------------------------------------------------------ */

static void agree(zero_comm_t *comm)
{
    zero_error_t error;
    ck_assert_int_eq(zero_comm_agree(comm, ZERO_OK, NULL, &error), ZERO_OK);
}

static int write_as_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const uint64_t *file_bytes = arg;
    zero_error_t error;
    zero_comm_t *comm = NULL;
    zero_tensors_writer_t *w = NULL;
    ck_assert_msg(zero_comm_shm(&comm, bootstrap, NULL, &error) == ZERO_OK, "%s", error.text);
    if (rank == 1)
        w = opened(*file_bytes, true);
    agree(comm);
    if (rank != 1)
        w = opened(*file_bytes, false);
    write_share(w, rank, world);
    if (rank != 1)
        finish(w);
    agree(comm);
    if (rank == 1)
        finish(w);
    agree(comm);
    zero_comm_destroy(comm);
    return 0;
}

static const struct {
    uint64_t file_bytes;
    int files;
} divisions[] = {{0, 1}, {UINT64_C(5000000000), 1}, {LARGE * 2, 2}, {400, 3}};
enum { DIVISIONS = sizeof divisions / sizeof *divisions };

START_TEST(ranks_write_one_set)
{
    size_t bytes, alone_bytes;
    char name[64] = "model.safetensors";
    uint64_t file_bytes = divisions[_i].file_bytes;
    ck_assert_int_eq(ranks_run(3, 60, write_as_rank, &file_bytes), 0);
    const int files = divisions[_i].files;
    ck_assert_int_eq(entries(false), files + (files > 1));
    check_set();

    /* the same bytes as those of one process */
    if (files > 1)
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", files, files);
    char *text = contents(at(name), &bytes);
    write_alone(file_bytes);
    char *alone = contents(at(name), &alone_bytes);
    ck_assert_uint_eq(bytes, alone_bytes);
    ck_assert_mem_eq(text, alone, bytes);
    free(text);
    free(alone);
}
END_TEST

/* ---- names ------------------------------------------------------------------------------------------------------ */

static void touch(const char *name)
{
    FILE *f = fopen(at(name), "w");
    ck_assert_ptr_nonnull(f);
    fclose(f);
}

START_TEST(earlier_sets_stay_until_the_end)
{
    static const char *const others[] = {"model-x.safetensors", "model-00001-of-2.safetensors", "config.json",
                                         "model-00001-of-00002.safetensors.bak", "mode-00001-of-00002.safetensors"};
    enum { OTHERS = sizeof others / sizeof *others };
    for (int k = 0; k < OTHERS; k++)
        touch(others[k]);
    /* from each division to each other */
    for (int from = 0; from < DIVISIONS; from++)
        for (int to = 0; to < DIVISIONS; to++) {
            write_alone(divisions[from].file_bytes);
            touch("model.safetensors.part"); /* leftovers */
            touch("model-00001-of-00077.safetensors.part");
            zero_tensors_writer_t *w = opened(divisions[to].file_bytes, true);
            check_set();
            write_share(w, 0, 1);
            check_set();
            finish(w);
            check_set();
            const int files = divisions[to].files;
            unlink(at("model.safetensors.part")); /* an earlier single file's: not of this set */
            ck_assert_int_eq(entries(false), files + (files > 1) + OTHERS);
        }
}
END_TEST

START_TEST(discarded_sets_leave_nothing)
{
    write_alone(400);
    const int before = entries(false);
    zero_tensors_writer_t *w = opened(LARGE * 2, true), *second = opened(LARGE * 2, false);
    ck_assert_int_eq(entries(false), before + 3);
    zero_tensors_discard(second);
    ck_assert_int_eq(entries(false), before + 3);
    write_share(w, 0, 1);
    zero_tensors_discard(w);
    ck_assert_int_eq(entries(false), before);
    check_set();
    zero_tensors_discard(NULL);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

static void refused(const zero_tensor_info_t *infos, int count, bool create, zero_status_t status, const char *names)
{
    zero_error_t error;
    zero_tensors_writer_t *w = (zero_tensors_writer_t *)1;
    ck_assert_int_eq(zero_tensors_create(&w, folder, "model", infos, count, 0, create, &error), status);
    ck_assert_ptr_null(w);
    ck_assert_msg(has_names(error.text, names), "'%s' lacks one of '%s'", error.text, names);
}

START_TEST(wrong_tensors_are_refused)
{
    zero_tensor_info_t infos[2] = {tensors[1], tensors[5]};
    zero_tensors_writer_t *w = NULL;
    zero_error_t error;
    refused(infos, 2, false, ZERO_ERR_IO, "model.safetensors.part");
    strcpy(infos[1].dtype, "I64");
    refused(infos, 2, true, ZERO_ERR_ARG, "I64 F32");
    infos[1] = tensors[1];
    refused(infos, 2, true, ZERO_ERR_ARG, "a");
    infos[1] = tensors[5];
    infos[1].size = 8;
    refused(infos, 2, true, ZERO_ERR_ARG, "8");
    infos[1] = tensors[5];
    ck_assert_int_eq(entries(false), 0);

    ck_assert_int_eq(zero_tensors_create(&w, folder, "model", infos, 2, 0, true, &error), ZERO_OK);
    infos[1].shape[0] = 14; /* another size */
    refused(infos, 2, false, ZERO_ERR_MISMATCH, "model.safetensors.part");
    infos[1].shape[0] = 13;
    infos[1].name = "y"; /* the same size */
    refused(infos, 2, false, ZERO_ERR_MISMATCH, "model.safetensors.part");
    zero_tensors_discard(w);

    /* a caller's struct of another version */
    struct {
        zero_tensor_info_t info;
        char more[24];
    } newer[2] = {{.info = tensors[1]}, {.info = tensors[5]}};
    newer[0].info.size = newer[1].info.size = sizeof *newer;
    ck_assert_int_eq(zero_tensors_create(&w, folder, "model", &newer[0].info, 2, 0, true, &error), ZERO_OK);
    ck_assert_int_eq(zero_tensors_write(w, 1, 0, 13, (float[13]){1}, &error), ZERO_OK);
    zero_tensors_discard(w);
}
END_TEST

/* Fails while it runs, in a process with a limit for files. */
static int meet_the_limit(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static float values[LARGE];
    const struct rlimit limit = {.rlim_cur = 6000, .rlim_max = 6000};
    zero_tensors_writer_t *w = NULL;
    zero_error_t error;
    (void)rank, (void)world, (void)bootstrap, (void)arg;
    signal(SIGXFSZ, SIG_IGN);
    w = opened(0, true);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(zero_tensors_write(w, 0, 0, count_of(0), values, &error), ZERO_ERR_IO);
    ck_assert_msg(has_names(error.text, "model.safetensors.part"), "%s", error.text);
    zero_tensors_discard(w);
    ck_assert_int_eq(zero_tensors_create(&w, folder, "model", tensors, TENSORS, 0, true, &error), ZERO_ERR_IO);
    ck_assert_msg(has_names(error.text, "model.safetensors.part"), "%s", error.text);
    return 0;
}

START_TEST(drives_fail)
{
    zero_error_t error;
    ck_assert_int_eq(ranks_run(1, 60, meet_the_limit, NULL), 0);
    ck_assert_int_eq(entries(false), 0);

    /* a name that is taken by a folder */
    ck_assert_int_eq(mkdir(at("model.safetensors"), 0777), 0);
    zero_tensors_writer_t *w = opened(0, true);
    write_share(w, 0, 1);
    ck_assert_int_eq(zero_tensors_finish(w, &error), ZERO_ERR_IO);
    ck_assert_msg(has_names(error.text, "model.safetensors"), "%s", error.text);
    ck_assert_int_eq(entries(false), 1);
    rmdir(at("model.safetensors"));

    remove_folder();
    refused(tensors, TENSORS, true, ZERO_ERR_IO, folder);
    make_folder();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensors_write");
    TCase *c = tcase_create("write");
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, ranks_write_one_set, 0, DIVISIONS);
    tcase_add_test(c, earlier_sets_stay_until_the_end);
    tcase_add_test(c, discarded_sets_leave_nothing);
    tcase_add_test(c, wrong_tensors_are_refused);
    tcase_add_test(c, drives_fail);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
