/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_layout.c - layouts: the reader of safetensors files must accept files that are written with them. */
#include "tests/checkpoint_suites.h"
#include "zero/checkpoint/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static zero_layout_t made(const char *base, const zero_tensor_info_t *tensors, int count, uint64_t file_bytes)
{
    zero_layout_t layout;
    zero_error_t error = {0};
    ck_assert_msg(zero_layout_make(&layout, base, tensors, count, file_bytes, &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(layout.count, count);
    return layout;
}

/* Writes files with headers and holes, and the index. */
static void write_files(const zero_layout_t *layout, const char *index_name)
{
    char *text;
    for (int f = 0; f < layout->file_count; f++) {
        write_whole(at(layout->files[f].name), layout->files[f].header, (size_t)layout->files[f].header_bytes);
        ck_assert_int_eq(truncate(at(layout->files[f].name), (off_t)layout->files[f].bytes), 0);
    }
    ck_assert_int_eq(zero_layout_index(layout, &text, NULL), ZERO_OK);
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    write_whole(at(index_name), text, strlen(text));
    free(text);
}

/* The reader finds the tensors of the layout, and each begins at a multiple of its element size. */
static void check_files(const zero_layout_t *layout)
{
    zero_error_t error = {0};
    int found = 0;
    for (int f = 0; f < layout->file_count; f++) {
        zero_safetensors_t file;
        ck_assert_msg(zero_safetensors_open(&file, at(layout->files[f].name), &error) == ZERO_OK, "%s", error.text);
        ck_assert_uint_eq(layout->files[f].header_bytes % ZERO_LAYOUT_ALIGN, 0);
        for (int k = 0; k < layout->count; k++) {
            const zero_tensor_entry_t *own = &layout->tensors[k];
            const zero_tensor_entry_t *entry = zero_safetensors_find(file.entries, file.count, own->info.name);
            ck_assert_int_eq(entry != NULL, own->file == f);
            if (!entry)
                continue;
            found++;
            ck_assert_uint_eq(entry->offset, own->offset);
            ck_assert_uint_eq(entry->bytes, own->bytes);
            ck_assert_str_eq(entry->info.dtype, own->info.dtype);
            ck_assert_int_eq(entry->info.ndim, own->info.ndim);
            ck_assert(memcmp(entry->info.shape, own->info.shape, sizeof own->info.shape) == 0);
            ck_assert_uint_eq(entry->offset % (zero_tensor_bits(entry->info.dtype) / 8), 0);
        }
        zero_safetensors_close(&file);
    }
    ck_assert_int_eq(found, layout->count);
}

START_TEST(test_one_file)
{
    const zero_tensor_info_t tensors[] = {tensor("w", "F32", 3, 5, -1), tensor("b", "BF16", 7, -1, -1),
                                          tensor("scalar", "F32", -1, -1, -1), tensor("none", "F16", 4, 0, 2),
                                          tensor("blocks", "U8", 3, 264, -1)};
    zero_layout_t layout = made("model", tensors, 5, 0), again = made("model", tensors, 5, 1 << 20);
    ck_assert_int_eq(layout.file_count, 1);
    ck_assert_str_eq(layout.files[0].name, "model.safetensors");
    ck_assert_uint_eq(layout.files[0].bytes, 4096 + 60 + 14 + 4 + 792);
    ck_assert(memcmp(layout.files[0].header, again.files[0].header, 4096) == 0);
    write_files(&layout, "unused.json");
    check_files(&layout);
    /* the public reader accepts the folder */
    zero_tensors_t *opened = NULL;
    ck_assert_int_eq(zero_tensors_open(&opened, scratch, NULL), ZERO_OK);
    ck_assert_int_eq(zero_tensors_count(opened), 5);
    zero_tensors_close(opened);
    zero_layout_clear(&layout);
    zero_layout_clear(&again);
}
END_TEST

START_TEST(test_several_files)
{
    const zero_tensor_info_t tensors[] = {tensor("a", "F32", 10, -1, -1),      tensor("b", "F32", 10, -1, -1),
                                          tensor("large", "F32", 100, -1, -1), tensor("c", "F32", 20, -1, -1),
                                          tensor("none", "F32", 0, -1, -1),    tensor("d", "F32", 1, -1, -1)};
    static const int files[] = {0, 0, 1, 2, 2, 3};
    zero_layout_t layout = made("model", tensors, 6, 80);
    ck_assert_int_eq(layout.file_count, 4);
    ck_assert_str_eq(layout.files[0].name, "model-00001-of-00004.safetensors");
    ck_assert_str_eq(layout.files[3].name, "model-00004-of-00004.safetensors");
    for (int k = 0; k < 6; k++)
        ck_assert_int_eq(layout.tensors[k].file, files[k]);
    write_files(&layout, "model.safetensors.index.json");
    check_files(&layout);
    zero_error_t error = {0};
    zero_tensors_t *opened = NULL;
    ck_assert_msg(zero_tensors_open(&opened, scratch, &error) == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(zero_tensors_count(opened), 6);
    zero_tensors_close(opened);
    size_t bytes;
    char *index = read_whole(at("model.safetensors.index.json"), &bytes);
    ck_assert_ptr_nonnull(strstr(index, "\"total_size\": 564"));
    ck_assert_ptr_nonnull(strstr(index, "\"large\": \"model-00002-of-00004.safetensors\""));
    free(index);
    zero_layout_clear(&layout);
}
END_TEST

/* Tensors of smaller elements come after those of larger ones. In the other order, an odd number of small elements
 * would give the large ones an odd address. Names may contain any text. */
START_TEST(test_order_and_names)
{
    const zero_tensor_info_t tensors[] = {
        tensor("bytes", "U8", 3, -1, -1),     tensor("half \"quoted\" \\ \n\x1b", "BF16", 3, -1, -1),
        tensor("\xc3\xbc", "F32", 3, -1, -1), tensor("bytes2", "U8", 5, -1, -1),
        tensor("", "F32", 1, -1, -1),
    };
    zero_layout_t layout = made("mixed", tensors, 5, 0);
    static const uint64_t offsets[] = {22, 16, 0, 25, 12};
    for (int k = 0; k < 5; k++)
        ck_assert_uint_eq(layout.tensors[k].offset, 4096 + offsets[k]);
    write_files(&layout, "unused.json");
    check_files(&layout);
    zero_layout_clear(&layout);
}
END_TEST

START_TEST(test_long_header)
{
    enum { COUNT = 3000 };
    zero_tensor_info_t *tensors = calloc(COUNT, sizeof *tensors);
    char(*names)[32] = calloc(COUNT, sizeof *names);
    for (int k = 0; k < COUNT; k++) {
        snprintf(names[k], sizeof names[k], "h.%d.attn.c_attn.weight", k);
        tensors[k] = tensor(names[k], "F32", k % 7, 2, -1);
    }
    zero_layout_t layout = made("master", tensors, COUNT, 2000);
    ck_assert_int_gt(layout.file_count, 20);
    write_files(&layout, "master.json");
    check_files(&layout);
    zero_layout_clear(&layout);
    layout = made("master", tensors, COUNT, 0);
    ck_assert_uint_gt(layout.files[0].header_bytes, 200000);
    write_files(&layout, "master.json");
    check_files(&layout);
    zero_layout_clear(&layout);
    layout = made("none", tensors, 0, 0);
    ck_assert_int_eq(layout.file_count, 0);
    zero_layout_clear(&layout);
    zero_layout_clear(&layout);
    free(tensors);
    free(names);
}
END_TEST

static void refused(const zero_tensor_info_t *tensors, int count, const char *names)
{
    zero_error_t error = {0};
    zero_layout_t layout;
    ck_assert_int_eq(zero_layout_make(&layout, "model", tensors, count, 0, &error), ZERO_ERR_ARG);
    EXPECT_ERROR(&error, ZERO_ERR_ARG, ZERO_REASON_NONE, -1, names);
    ck_assert_ptr_null(layout.tensors);
}

START_TEST(test_refused)
{
    const int64_t most = INT64_MAX;
    zero_tensor_info_t x[3] = {tensor("a", "F32", 2, -1, -1), tensor("b", "F32", 2, -1, -1)};
    x[2] = x[0];
    refused(x, 3, "'a'");
    x[2] = tensor("__metadata__", "F32", 1, -1, -1);
    refused(x, 3, "'__metadata__'");
    x[2] = tensor("c", "F33", 1, -1, -1);
    refused(x, 3, "'c' 'F33'");
    x[2] = tensor("c", "F4", 1, -1, -1);
    refused(x, 3, "'c' 'F4'");
    x[2] = tensor("c\xff", "F32", 1, -1, -1);
    refused(x, 3, "UTF-8");
    x[2] = tensor("c", "F32", most, -1, -1);
    refused(x, 3, "'c' 2^60");
    x[2] = tensor("c", "F32", most, 2, -1);
    refused(x, 3, "'c' 2^63");
    x[2] = tensor("c", "F32", 1, -1, -1);
    x[2].ndim = 9;
    refused(x, 3, "'c' 9 8");
    x[2].ndim = -1;
    refused(x, 3, "'c' -1");
    x[2].ndim = 1, x[2].shape[0] = -5;
    refused(x, 3, "'c' -5 0");
    x[2].name = NULL;
    refused(x, 3, "name");
    /* each fits, but not both together */
    x[0] = tensor("a", "U8", (int64_t)1 << 60, -1, -1);
    x[1] = tensor("b", "U8", (int64_t)1 << 60, -1, -1);
    refused(x, 2, "'model' 2^60");
}
END_TEST

Suite *checkpoint_layout_suite(void)
{
    Suite *suite = suite_create("layout");
    TCase *tests = tcase_create("layout");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_test(tests, test_one_file);
    tcase_add_test(tests, test_several_files);
    tcase_add_test(tests, test_order_and_names);
    tcase_add_test(tests, test_long_header);
    tcase_add_test(tests, test_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
