/* SPDX-License-Identifier: Apache-2.0 */
/* test_train_rows.c - documents packed into rows, against a plain list of pieces; indexes of documents that lie. */
#include "tests/expect.h"
#include "train/data.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LONGEST = 64 };

static void write_file(const char *path, const void *head, size_t head_bytes, const void *rest, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(head, 1, head_bytes, f), head_bytes);
    ck_assert_uint_eq(fwrite(rest, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

/* Writes NAME.bin and NAME.bin.idx. */
static void write_documents(const char *name, const int *lengths, int count, uint16_t *tokens, uint16_t first)
{
    char path[64];
    int64_t ends[256], head[2] = {0, count}, n = 0;
    int32_t header[256] = {20240520, 1, 0};
    memcpy(head, "zeroidx1", 8);
    for (int i = 0; i < count; i++)
        ends[i] = n += lengths[i];
    for (int64_t i = 0; i < n; i++)
        tokens[i] = (uint16_t)(first + i);
    header[2] = (int32_t)n;
    snprintf(path, sizeof path, "%s.bin", name);
    write_file(path, header, sizeof header, tokens, (size_t)n * sizeof *tokens);
    snprintf(path, sizeof path, "%s.bin.idx", name);
    write_file(path, head, sizeof head, ends, (size_t)count * sizeof *ends);
}

static void remove_documents(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s.bin", name);
    unlink(path);
    snprintf(path, sizeof path, "%s.bin.idx", name);
    unlink(path);
}

typedef struct part {
    int64_t first, size; /* inputs */
} part_t;

/* Documents of the lengths, in files of which the first has split of them, packed into rows of T. */
static void check_packing(const int *lengths, int count, int split, int T)
{
    char *const paths[2] = {"test_rows_a.bin", "test_rows_b.bin"};
    uint16_t tokens[4096];
    static part_t parts[4096];
    int32_t x[LONGEST], y[LONGEST], starts[LONGEST];
    data_row_t row = {x, y, starts, 0, 0};
    int64_t n = 0, part_count = 0, row_count = 0, next = 0, firsts = 0;
    data_t *d;
    zero_error_t e = {0};
    for (int i = 0; i < count; i++) {
        for (int64_t k = 0; k + 1 < lengths[i]; k += T)
            parts[part_count++] = (part_t){n + k, lengths[i] - 1 - k < T ? lengths[i] - 1 - k : T};
        n += lengths[i];
        firsts = i + 1 == split ? n : firsts;
    }
    write_documents("test_rows_a", lengths, split, tokens, 0);
    write_documents("test_rows_b", lengths + split, count - split, tokens, (uint16_t)firsts);
    ck_assert_msg(data_open_files(&d, "--data", paths, 2, &e) == ZERO_OK, "%s", e.text);
    ck_assert_msg(data_arrange(d, DATA_PACKED, T, &e) == ZERO_OK, "%s", e.text);
    for (row_count = 0; next < part_count; row_count++) {
        int64_t used = 0, begin = next;
        while (next < part_count && used + parts[next].size <= T)
            used += parts[next++].size;
        ck_assert_int_lt(row_count, data_rows(d));
        ck_assert_msg(data_read_row(d, row_count, 4096, &row, &e) == ZERO_OK, "%s", e.text);
        ck_assert_int_eq(row.used, used);
        ck_assert_int_eq(row.counted, used);
        int64_t at = 0;
        for (int64_t p = begin; p < next; p++)
            for (int64_t i = 0, start = at; i < parts[p].size; i++, at++) {
                ck_assert_int_eq(x[at], (int32_t)(parts[p].first + i));
                ck_assert_int_eq(y[at], (int32_t)(parts[p].first + i + 1));
                ck_assert_int_eq(starts[at], (int32_t)start);
            }
        for (; at < T; at++) {
            ck_assert_int_eq(x[at], 0);
            ck_assert_int_eq(y[at], DATA_IGNORED);
            ck_assert_int_eq(starts[at], (int32_t)used);
        }
    }
    ck_assert_int_eq(data_rows(d), row_count);
    zero_status_t wanted = row_count > 0 ? ZERO_OK : ZERO_ERR_FORMAT;
    ck_assert_int_eq(data_check_rows(d, n, -1, 1000, &e), wanted);
    ck_assert_int_eq(data_check_rows(d, n, 7, 1, &e), wanted);
    data_close(d);
    remove_documents("test_rows_a");
    remove_documents("test_rows_b");
}

START_TEST(rows_of_packed_documents)
{
    static const int edges[][8] = {{9, 9, 9},    {10, 9}, {8, 2, 9},     {1, 0, 1}, {0, 25, 3, 1, 2},
                                   {17, 17, 16}, {2},     {7, 3, 0, 40}, {33, 1, 9}};
    for (size_t k = 0; k < sizeof edges / sizeof *edges; k++)
        for (int split = 0; split <= 8; split += 2)
            check_packing(edges[k], 8, split, 8);
    for (uint64_t k = 0; k < 300; k++) {
        int lengths[40];
        const uint64_t kind = zero_splitmix64(k);
        const int T = 1 + (int)(kind % LONGEST), most = 1 + (int)(kind >> 8 & 0xffff) % (2 * T) % 100;
        for (uint64_t i = 0; i < 40; i++)
            lengths[i] = (int)(zero_splitmix64(k << 32 | i) % (uint64_t)(most + 1));
        check_packing(lengths, 40, (int)(kind >> 40) % 41, T);
    }
}
END_TEST

/* Only the rows that are used need tokens of the vocabulary. */
START_TEST(rows_past_the_vocabulary)
{
    const int lengths[4] = {9, 9, 9, 9}; /* rows of 8: tokens 0 to 8, 9 to 17, ... */
    uint16_t tokens[36];
    int32_t x[8], y[8], starts[8];
    data_row_t row = {x, y, starts, 0, 0};
    data_t *d;
    zero_error_t e = {0};
    write_documents("test_rows_a", lengths, 4, tokens, 0);
    ck_assert_int_eq(data_open(&d, "--data", "test_rows_a.bin", &e), ZERO_OK);
    ck_assert_int_eq(data_arrange(d, DATA_PACKED, 8, &e), ZERO_OK);
    ck_assert_int_eq(data_rows(d), 4);
    ck_assert_int_eq(data_check_rows(d, 18, -1, 2, &e), ZERO_OK);
    ck_assert_int_eq(data_check_rows(d, 18, -1, 3, &e), ZERO_ERR_FORMAT);
    ck_assert_msg(has_names(e.text, "--data 'test_rows_a.bin' 18"), "%s", e.text);
    for (int64_t seed = 0; seed < 16; seed++)
        ck_assert_int_eq(data_check_rows(d, 19, seed, 1, &e),
                         data_window_at(4, seed, 0) < 2 ? ZERO_OK : ZERO_ERR_FORMAT);
    ck_assert_int_eq(data_read_row(d, 1, 18, &row, &e), ZERO_OK);
    ck_assert_int_eq(data_read_row(d, 2, 18, &row, &e), ZERO_ERR_FORMAT);
    data_close(d);
    /* the last target of a row is the first input of the next one, if a document is cut there */
    write_documents("test_rows_a", (int[]){17}, 1, tokens, 0);
    ck_assert_int_eq(data_open(&d, "--data", "test_rows_a.bin", &e), ZERO_OK);
    ck_assert_int_eq(data_arrange(d, DATA_PACKED, 8, &e), ZERO_OK);
    ck_assert_int_eq(data_check_rows(d, 8, -1, 1, &e), ZERO_ERR_FORMAT);
    ck_assert_int_eq(data_check_rows(d, 9, -1, 1, &e), ZERO_OK);
    data_close(d);
    remove_documents("test_rows_a");
}
END_TEST

START_TEST(documents_of_texts_and_lines)
{
    char *const paths[2] = {"test_rows_a", "test_rows_b"};
    int32_t x[16], y[16], starts[16];
    data_row_t row = {x, y, starts, 0, 0};
    data_t *d;
    zero_error_t e = {0};
    write_file(paths[0], "one two", 7, "", 0);
    write_file(paths[1], "three", 5, "", 0);
    ck_assert_int_eq(data_open_files(&d, "--data", paths, 2, &e), ZERO_OK);
    ck_assert_int_eq(data_arrange(d, DATA_PACKED, 16, &e), ZERO_OK);
    ck_assert_int_eq(data_rows(d), 1);
    ck_assert_int_eq(data_read_row(d, 0, 256, &row, &e), ZERO_OK);
    ck_assert_int_eq(row.used, 6 + 4);
    ck_assert_int_eq(y[5], 'o');
    ck_assert_int_eq(x[6], 't');
    ck_assert_int_eq(starts[6], 6);
    data_close(d);
    unlink(paths[0]);
    unlink(paths[1]);
    /* a document of the corpus is a line, so each one ends with the newline as its last target */
    ck_assert_int_eq(data_open_corpus(&d, false, &e), ZERO_OK);
    ck_assert_int_eq(data_arrange(d, DATA_ONE_EACH, 16, &e), ZERO_OK);
    for (int64_t r = 0; r < 100; r++) {
        ck_assert_int_eq(data_read_row(d, r, 256, &row, &e), ZERO_OK);
        ck_assert(x[0] >= '0' && x[0] <= '9' && (row.used == 16 || y[row.used - 1] == '\n'));
        ck_assert(row.used == 16 || y[row.used] == DATA_IGNORED);
    }
    data_close(d);
}
END_TEST

START_TEST(indexes_that_lie)
{
    const int lengths[3] = {5, 0, 6};
    static const struct {
        int64_t at, value;
        int bytes; /* of the file */
        const char *wanted;
    } cases[] = {
        {1, 3, 40, NULL},      {0, 7, 40, "zeroidx1"}, {1, 4, 40, "4 40"},     {1, -1, 40, "-1"},
        {1, 3, 39, "3 39"},    {1, 3, 48, "3 48"},     {4, 10, 40, "10 11"},   {3, 4, 40, "document 1 4 5"},
        {2, -5, 40, "0 -5 0"}, {1, INT64_MAX, 40, ""}, {1, 3, 15, "zeroidx1"}, {4, 12, 40, "12 11"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        uint16_t tokens[11];
        int64_t index[6] = {0, 3, 5, 5, 11, 11};
        data_t *d;
        zero_error_t e = {0};
        write_documents("test_rows_a", lengths, 3, tokens, 0);
        memcpy(index, "zeroidx1", 8);
        index[cases[k].at] = cases[k].value;
        write_file("test_rows_a.bin.idx", index, (size_t)cases[k].bytes, "", 0);
        ck_assert_int_eq(data_open(&d, "--data", "test_rows_a.bin", &e), ZERO_OK);
        zero_status_t status = data_arrange(d, DATA_PACKED, 8, &e);
        ck_assert_msg(status == (cases[k].wanted != NULL ? ZERO_ERR_FORMAT : ZERO_OK), "case %zu: %s", k, e.text);
        ck_assert_msg(status == ZERO_OK ||
                          (has_names(e.text, cases[k].wanted) && has_names(e.text, "'test_rows_a.bin.idx'")),
                      "'%s' lacks '%s'", e.text, cases[k].wanted);
        data_close(d);
        /* without --pack nothing reads it */
        ck_assert_int_eq(data_open(&d, "--data", "test_rows_a.bin", &e), ZERO_OK);
        ck_assert_int_eq(data_arrange(d, DATA_WINDOWS, 8, &e), ZERO_OK);
        ck_assert_int_eq(data_rows(d), 1);
        data_close(d);
        remove_documents("test_rows_a");
    }
}
END_TEST

/* Ranks whose indexes differ have other rows, so their data is not the same. */
START_TEST(fingerprints_see_documents)
{
    const int lengths[2][2] = {{5, 6}, {6, 5}};
    uint64_t hash[2];
    for (int k = 0; k < 2; k++) {
        uint16_t tokens[11];
        data_t *d;
        zero_error_t e = {0};
        write_documents("test_rows_a", lengths[k], 2, tokens, 0);
        ck_assert_int_eq(data_open(&d, "--data", "test_rows_a.bin", &e), ZERO_OK);
        ck_assert_int_eq(data_arrange(d, DATA_PACKED, 8, &e), ZERO_OK);
        ck_assert_int_eq(data_fingerprint(d, &hash[k], &e), ZERO_OK);
        data_close(d);
        remove_documents("test_rows_a");
    }
    ck_assert_uint_ne(hash[0], hash[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("zero_train rows");
    TCase *c = tcase_create("rows");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, rows_of_packed_documents);
    tcase_add_test(c, rows_past_the_vocabulary);
    tcase_add_test(c, documents_of_texts_and_lines);
    tcase_add_test(c, indexes_that_lie);
    tcase_add_test(c, fingerprints_see_documents);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
