/* SPDX-License-Identifier: Apache-2.0 */
/* test_checkpoint.c - the files of checkpoints: layout, writer, manifest, folders, reader. Its suites are in files of
 * their own. */
#define _GNU_SOURCE
#include "tests/checkpoint_suites.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

char scratch[32];

void scratch_make(void)
{
    strcpy(scratch, "test_checkpoint.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

void scratch_remove(void)
{
    nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *at(const char *name)
{
    static char text[8][512];
    static int turn;
    char *place = text[turn++ % 8];
    snprintf(place, sizeof text[0], "%s/%s", scratch, name);
    return place;
}

char *read_whole(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*bytes + 1);
    ck_assert_uint_eq(fread(text, 1, *bytes, f), *bytes);
    text[*bytes] = '\0';
    fclose(f);
    return text;
}

void write_whole(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

zero_tensor_info_t tensor(const char *name, const char *dtype, int64_t d0, int64_t d1, int64_t d2)
{
    const int64_t given[] = {d0, d1, d2};
    zero_tensor_info_t info = {.size = sizeof info, .name = name};
    strcpy(info.dtype, dtype);
    for (; info.ndim < 3 && given[info.ndim] >= 0; info.ndim++)
        info.shape[info.ndim] = given[info.ndim];
    return info;
}

int main(void)
{
    SRunner *runner = srunner_create(checkpoint_layout_suite());
    srunner_add_suite(runner, checkpoint_writer_suite());
    srunner_add_suite(runner, checkpoint_manifest_suite());
    srunner_add_suite(runner, checkpoint_folder_suite());
    srunner_add_suite(runner, checkpoint_reader_suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
