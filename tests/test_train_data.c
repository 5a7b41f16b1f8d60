/* SPDX-License-Identifier: Apache-2.0 */
/* test_train_data.c - the token files, numpy arrays and text that zero_train reads. Their first bytes determine the
 * format, not their names. */
#include "tests/expect.h"
#include "train/data.h"
#include "train/inputs.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *path = "test_train_data"; /* the name does not show the format */

static void write_bytes(const void *first, size_t first_bytes, const void *tokens, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(first, 1, first_bytes, f), first_bytes);
    ck_assert_uint_eq(fwrite(tokens, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

static void write_tokens(const int32_t head[3], const void *tokens, size_t bytes)
{
    int32_t header[256] = {0};
    memcpy(header, head, 3 * sizeof *header);
    write_bytes(header, sizeof header, tokens, bytes);
}

START_TEST(windows_of_both_widths)
{
    enum { N = 3001, T = 7 };
    uint16_t narrow[N];
    uint32_t wide[N];
    int32_t x[T], y[T];
    zero_error_t e;
    for (int width = 2; width <= 4; width += 2) {
        data_t *d;
        for (int i = 0; i < N; i++) {
            narrow[i] = (uint16_t)(i * 7919);
            wide[i] = (uint32_t)i * 7919u;
        }
        write_tokens(width == 2 ? (int32_t[]){20240520, 1, N} : (int32_t[]){20240801, 7, N},
                     width == 2 ? (void *)narrow : wide, N * (size_t)width);
        ck_assert_msg(data_open(&d, "--data", path, &e) == ZERO_OK, "%s", e.text);
        ck_assert_int_eq(data_tokens(d), N);
        ck_assert(!data_is_text(d));
        ck_assert_int_eq(data_windows(d, T), (N - 1) / T);
        ck_assert_int_eq(data_windows(d, N - 1), 1);
        ck_assert_int_eq(data_windows(d, N), 0);
        for (int64_t w = 0; w < data_windows(d, T); w++) {
            ck_assert_msg(data_read(d, w, T, 1 << 30, x, y, &e) == ZERO_OK, "%s", e.text);
            for (int i = 0; i < T; i++) {
                ck_assert_int_eq(x[i], width == 2 ? narrow[w * T + i] : (int32_t)wide[w * T + i]);
                ck_assert_int_eq(y[i], width == 2 ? narrow[w * T + i + 1] : (int32_t)wide[w * T + i + 1]);
            }
        }
        data_close(d);
    }
    unlink(path);
}
END_TEST

START_TEST(windows_longer_than_a_piece)
{
    enum { N = 5000, T = 2500 };
    uint32_t tokens[N];
    static int32_t x[T], y[T];
    data_t *d;
    zero_error_t e;
    for (int i = 0; i < N; i++)
        tokens[i] = (uint32_t)i;
    write_tokens((int32_t[]){20240801, 7, N}, tokens, sizeof tokens);
    ck_assert_int_eq(data_open(&d, "--data", path, &e), ZERO_OK);
    ck_assert_int_eq(data_windows(d, T), 1);
    ck_assert_int_eq(data_read(d, 0, T, N, x, y, &e), ZERO_OK);
    for (int i = 0; i < T; i++) {
        ck_assert_int_eq(x[i], i);
        ck_assert_int_eq(y[i], i + 1);
    }
    data_close(d);
    unlink(path);
}
END_TEST

START_TEST(tokens_past_the_vocabulary)
{
    uint16_t tokens[33] = {0};
    int32_t x[8], y[8];
    data_t *d;
    zero_error_t e;
    tokens[16] = 500; /* the last target of window 1, the first input of window 2 */
    write_tokens((int32_t[]){20240520, 1, 33}, tokens, sizeof tokens);
    ck_assert_int_eq(data_open(&d, "--data", path, &e), ZERO_OK);
    ck_assert_int_eq(data_read(d, 0, 8, 500, x, y, &e), ZERO_OK);
    ck_assert_int_eq(data_read(d, 1, 8, 500, x, y, &e), ZERO_ERR_FORMAT);
    ck_assert(has_names(e.text, "500 16"));
    ck_assert_int_eq(data_read(d, 1, 8, 501, x, y, &e), ZERO_OK);
    /* only used tokens count: one window, then two; with a shuffle, the windows that it chooses */
    ck_assert_int_eq(data_check(d, 8, 500, -1, 1, &e), ZERO_OK);
    ck_assert_int_eq(data_check(d, 8, 500, -1, 2, &e), ZERO_ERR_FORMAT);
    ck_assert_int_eq(data_check(d, 8, 501, -1, 100, &e), ZERO_OK);
    ck_assert_int_eq(data_check(d, 8, 500, 3, 100, &e), ZERO_ERR_FORMAT);
    for (int64_t seed = 0; seed < 16; seed++) {
        int64_t first = data_window_at(4, seed, 0);
        ck_assert_int_eq(data_check(d, 8, 500, seed, 1, &e), first == 1 || first == 2 ? ZERO_ERR_FORMAT : ZERO_OK);
    }
    data_close(d);
    unlink(path);
}
END_TEST

START_TEST(token_files_that_lie)
{
    static const struct {
        int32_t head[3];
        size_t bytes;
        const char *wanted;
    } cases[] = {
        {{20240520, 2, 10}, 20, "2 1"},     {{20240801, 1, 10}, 40, "1 7"}, {{20240520, 1, -1}, 20, "-1"},
        {{20240520, 1, 11}, 20, ""},        {{20240520, 1, 9}, 20, ""},     {{20240801, 7, 10}, 20, ""},
        {{20240801, 7, INT32_MAX}, 40, ""},
    };
    uint32_t tokens[10] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        data_t *d;
        zero_error_t e = {0};
        write_tokens(cases[i].head, tokens, cases[i].bytes);
        ck_assert_msg(data_open(&d, "--data", path, &e) == ZERO_ERR_FORMAT, "case %zu was accepted", i);
        ck_assert_ptr_null(d);
        ck_assert_msg(has_names(e.text, cases[i].wanted), "'%s' lacks '%s'", e.text, cases[i].wanted);
    }
    unlink(path);
}
END_TEST

START_TEST(a_file_that_shrinks_is_an_error)
{
    uint16_t tokens[4000] = {0};
    static int32_t x[100], y[100];
    data_t *d;
    zero_error_t e;
    write_tokens((int32_t[]){20240520, 1, 4000}, tokens, sizeof tokens);
    ck_assert_int_eq(data_open(&d, "--data", path, &e), ZERO_OK);
    ck_assert_int_eq(truncate(path, 2000), 0);
    ck_assert_int_eq(data_read(d, 0, 100, 10, x, y, &e), ZERO_OK);
    ck_assert_int_eq(data_read(d, 30, 100, 10, x, y, &e), ZERO_ERR_IO);
    ck_assert(has_names(e.text, "--data") && has_names(e.text, path));
    data_close(d);
    unlink(path);
}
END_TEST

START_TEST(shuffles_are_permutations)
{
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097};
    static bool seen[4097];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            int64_t n = sizes[k], fixed = 0, before = 0;
            memset(seen, 0, sizeof seen);
            for (int64_t i = 0; i < n; i++) {
                int64_t w = data_window_at(n, 7, epoch * n + i);
                ck_assert(w >= 0 && w < n && !seen[w]);
                seen[w] = true;
                fixed += w == i;
                before += epoch > 0 && w == data_window_at(n, 7, i);
                ck_assert_int_eq(data_window_at(n, -1, epoch * n + i), i);
            }
            if (n >= 100) { /* shuffled, and differently in each epoch */
                ck_assert_int_lt(fixed, n / 10);
                ck_assert_int_lt(before, n / 10);
            }
        }
    ck_assert_int_ge(data_permute(1, INT64_MAX / 4, INT64_MAX / 5), 0);
}
END_TEST

/* ---- numpy arrays ----------------------------------------------------------------------------------------------- */

/* Writes an array in this version of the format: a dictionary, padded with spaces and a line feed to a multiple of 64
 * bytes, and data. */
static void write_array(int version, const char *dictionary, const void *tokens, size_t bytes)
{
    char head[512];
    size_t start = version == 1 ? 10 : 12, length = strlen(dictionary) + 1, whole = (start + length + 63) / 64 * 64;
    memset(head, ' ', sizeof head);
    memcpy(head, "\x93NUMPY", 6);
    head[6] = (char)version;
    head[7] = 0;
    for (size_t k = 8; k < start; k++)
        head[k] = (char)((whole - start) >> (8 * (k - 8)));
    memcpy(head + start, dictionary, length - 1);
    head[whole - 1] = '\n';
    write_bytes(head, whole, tokens, bytes);
}

START_TEST(arrays_of_every_type)
{
    enum { N = 22, T = 7 };
    static const struct {
        const char *descr;
        size_t width;
    } types[] = {
        {"|u1", 1}, {"<u2", 2}, {"<u4", 4}, {"<i4", 4}, {"<i8", 8},
    };
    int32_t x[T], y[T];
    zero_error_t e;
    for (size_t k = 0; k < 5; k++)
        for (int version = 1; version <= 3; version++) {
            uint8_t bytes[N * 8] = {0};
            char dictionary[128];
            data_t *d;
            /* little-endian; every byte that a vocabulary can use is not always zero */
            for (size_t i = 0; i < N; i++) {
                uint64_t token = types[k].width == 1 ? i * 11 : types[k].width == 2 ? i * 3001 : i * 90000001;
                for (size_t b = 0; b < types[k].width; b++)
                    bytes[i * types[k].width + b] = (uint8_t)(token >> (8 * b));
            }
            snprintf(dictionary, sizeof dictionary, "{'descr': '%s', 'fortran_order': False, 'shape': (%d,), }",
                     types[k].descr, N);
            write_array(version, dictionary, bytes, N * types[k].width);
            ck_assert_msg(data_open(&d, "--data", path, &e) == ZERO_OK, "%s", e.text);
            ck_assert_int_eq(data_tokens(d), N);
            ck_assert(!data_is_text(d));
            for (int64_t w = 0; w < 3; w++) {
                ck_assert_msg(data_read(d, w, T, INT32_MAX, x, y, &e) == ZERO_OK, "%s", e.text);
                for (int i = 0; i < T; i++) {
                    int32_t unit = types[k].width == 1 ? 11 : types[k].width == 2 ? 3001 : 90000001;
                    ck_assert_int_eq(x[i], (int32_t)(w * T + i) * unit);
                    ck_assert_int_eq(y[i], (int32_t)(w * T + i + 1) * unit);
                }
            }
            data_close(d);
        }
    unlink(path);
}
END_TEST

START_TEST(arrays_with_other_numbers)
{
    static const struct {
        const char *descr;
        size_t width;
        int64_t token;
        const char *wanted;
    } cases[] = {
        {"<i4", 4, -1, "-1 3 0"},
        {"<i8", 8, -5, "-5 3 0"},
        {"<i8", 8, (int64_t)1 << 40, "1099511627776 3 256"},
        {"<u4", 4, 0xfffffffe, "4294967294 3"},
        {"|u1", 1, 255, NULL},
    };
    int32_t x[4], y[4];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        uint8_t bytes[9 * 8] = {0};
        char dictionary[128];
        data_t *d;
        zero_error_t e;
        const zero_status_t wanted = cases[k].wanted != NULL ? ZERO_ERR_FORMAT : ZERO_OK;
        for (size_t b = 0; b < cases[k].width; b++)
            bytes[3 * cases[k].width + b] = (uint8_t)((uint64_t)cases[k].token >> (8 * b));
        snprintf(dictionary, sizeof dictionary, "{'descr': '%s', 'fortran_order': False, 'shape': (9,), }",
                 cases[k].descr);
        write_array(1, dictionary, bytes, 9 * cases[k].width);
        ck_assert_int_eq(data_open(&d, "--data", path, &e), ZERO_OK);
        ck_assert_int_eq(data_read(d, 0, 4, 256, x, y, &e), wanted);
        ck_assert_int_eq(data_check(d, 4, 256, -1, 1, &e), wanted);
        ck_assert_msg(wanted == ZERO_OK || has_names(e.text, cases[k].wanted), "'%s' lacks '%s'", e.text,
                      cases[k].wanted);
        /* negative tokens are invalid for every vocabulary */
        if (cases[k].token < 0)
            ck_assert_int_eq(data_check(d, 4, INT32_MAX, -1, 1, &e), ZERO_ERR_FORMAT);
        data_close(d);
    }
    unlink(path);
}
END_TEST

START_TEST(arrays_that_are_refused)
{
#define SHAPE(shape) "{'descr': '<u2', 'fortran_order': False, 'shape': " shape ", }"
#define DESCR(descr) "{'descr': " descr ", 'fortran_order': False, 'shape': (5,), }"
    static const struct {
        int version;
        const char *dictionary, *wanted;
    } cases[] = {
        {1, SHAPE("(5,)"), NULL},
        {1, SHAPE("(5, )"), NULL},
        {1, "{\"shape\":(5,),\"descr\":\"<u2\"}", NULL}, /* written by programs other than numpy */
        {4, SHAPE("(5,)"), "4 1 3"},
        {1, SHAPE("(4,)"), "4"},
        {1, SHAPE("(6,)"), "6"},
        {1, SHAPE("(99999999999999999999999,)"), ""},
        {1, SHAPE("(5, 1)"), "tokens.ravel"},
        {1, SHAPE("()"), ""},
        {1, SHAPE("(-5,)"), ""},
        {1, SHAPE("5"), ""},
        {1, SHAPE("(5"), ""},
        {1, "{'descr': '<u2', 'shape': ", ""},
        {1, "{'descr': '<u2'}", "'shape'"},
        {1, "{'shape': (5,)}", "'descr'"},
        {1, "", "'descr'"},
        {1, DESCR("'<f4'"), "'<f4' uint8 uint16 uint32 int32 int64"},
        {1, DESCR("'>u2'"), "'>u2'"},
        {1, DESCR("'<u8'"), "'<u8'"},
        {1, DESCR("[('a', '<u2')]"), "'with fields'"},
        {1, DESCR("'"), ""},
        {1, DESCR("'\x1b[2J'"), "'with fields'"},
    };
    const uint16_t tokens[5] = {1, 2, 3, 4, 5};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        data_t *d;
        zero_error_t e = {0};
        write_array(cases[k].version, cases[k].dictionary, tokens, sizeof tokens);
        zero_status_t status = data_open(&d, "--data", path, &e);
        ck_assert_msg(status == (cases[k].wanted != NULL ? ZERO_ERR_FORMAT : ZERO_OK), "case %zu: %s", k, e.text);
        ck_assert_msg(status == ZERO_OK || has_names(e.text, cases[k].wanted), "'%s' lacks '%s'", e.text,
                      cases[k].wanted);
        ck_assert(status != ZERO_OK || data_tokens(d) == 5);
        data_close(d);
    }
    /* truncated at any byte: before the end of the magic number it is valid text, later an error */
    write_array(1, SHAPE("(5,)"), tokens, sizeof tokens);
    for (off_t cut = 137; cut > 0; cut--) {
        data_t *d;
        zero_error_t e = {0};
        ck_assert_int_eq(truncate(path, cut), 0);
        ck_assert_int_eq(data_open(&d, "--data", path, &e), cut < 6 ? ZERO_OK : ZERO_ERR_FORMAT);
        data_close(d);
    }
    unlink(path);
}
END_TEST

/* ---- names ------------------------------------------------------------------------------------------------------ */

START_TEST(first_bytes_decide)
{
    static const struct {
        const char *first, *name;
        bool text;
        const char *wanted;
    } cases[] = {
        {"one two three", "test_train_data", true, NULL},
        {"one two three", "test_train_data.txt", true, NULL},
        {"one two three", "test_train_data.bin", false, "543518319 20240520 20240801"},
        {"one two three", "test_train_data.npy", false, ""},
        {"on", "test_train_data.bin", false, "0"},
        {"version https://git-lfs.github.com/spec/v1\noid", "test_train_data.txt", false, "`git lfs pull`"},
        {"version https://git-lfs.github.com/spec/v1\noid", "test_train_data.bin", false, "`git lfs pull`"},
    };
    const char *usual = path;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        data_t *d;
        zero_error_t e = {0};
        path = cases[k].name;
        write_bytes(cases[k].first, strlen(cases[k].first), "", 0);
        zero_status_t status = data_open(&d, "--data", path, &e);
        ck_assert_msg(status == (cases[k].wanted != NULL ? ZERO_ERR_FORMAT : ZERO_OK), "case %zu: %s", k, e.text);
        ck_assert_msg(status == ZERO_OK || has_names(e.text, cases[k].wanted), "'%s' lacks '%s'", e.text,
                      cases[k].wanted);
        ck_assert(status != ZERO_OK || (data_is_text(d) == cases[k].text && data_tokens(d) == 13));
        data_close(d);
        unlink(path);
    }
    path = usual;
}
END_TEST

/* ---- several files ---------------------------------------------------------------------------------------------- */

/* 70 files, more than are open at once, read as their concatenation. */
START_TEST(files_follow_each_other)
{
    enum { FILES = 70, T = 11 };
    static char names[FILES][32];
    static uint16_t all[FILES * FILES];
    char *paths[FILES];
    int32_t x[T], y[T];
    const char *usual = path;
    int64_t n = 0;
    data_t *d;
    zero_error_t e = {0};
    for (int f = 0; f < FILES; f++) {
        snprintf(names[f], sizeof names[f], "test_train_data.%02d.bin", f);
        path = paths[f] = names[f];
        for (int i = 0; i < f; i++) /* the first file has no tokens */
            all[n + i] = (uint16_t)((n + i) * 7919 % 997);
        write_tokens((int32_t[]){20240520, 1, f}, all + n, (size_t)f * sizeof *all);
        n += f;
    }
    ck_assert_msg(data_open_files(&d, "--data", paths, FILES, &e) == ZERO_OK, "%s", e.text);
    ck_assert_int_eq(data_tokens(d), n);
    ck_assert_int_eq(data_check(d, T, 997, -1, n, &e), ZERO_OK);
    for (int64_t q = 0; q < data_windows(d, T); q++) {
        int64_t w = data_window_at(data_windows(d, T), 3, q);
        ck_assert_msg(data_read(d, w, T, 997, x, y, &e) == ZERO_OK, "%s", e.text);
        for (int i = 0; i < T; i++) {
            ck_assert_int_eq(x[i], all[w * T + i]);
            ck_assert_int_eq(y[i], all[w * T + i + 1]);
        }
    }
    /* a token outside the vocabulary has the name of its file, and its index there */
    path = names[40];
    all[40 * 39 / 2 + 5] = 5000;
    write_tokens((int32_t[]){20240520, 1, 40}, all + 40 * 39 / 2, 40 * sizeof *all);
    ck_assert_int_eq(data_check(d, T, 997, -1, n, &e), ZERO_ERR_FORMAT);
    ck_assert_msg(has_names(e.text, "'test_train_data.40.bin' 5000 5 997"), "%s", e.text);
    /* a file that changes while it is closed is found when it is opened again */
    path = names[41];
    write_tokens((int32_t[]){20240520, 1, 42}, all, 42 * sizeof *all);
    zero_status_t status = ZERO_OK;
    for (int64_t k = 0; k < 2 * data_windows(d, T) && status == ZERO_OK; k++)
        status = data_read(d, k % data_windows(d, T), T, 65536, x, y, &e);
    ck_assert_int_eq(status, ZERO_ERR_IO);
    ck_assert_msg(has_names(e.text, "'test_train_data.41.bin' 1106 1108"), "%s", e.text);
    data_close(d);
    for (int f = 0; f < FILES; f++)
        unlink(names[f]);
    path = usual;
}
END_TEST

START_TEST(fingerprints_see_every_file)
{
    char *const paths[2] = {"test_train_data.a", "test_train_data.b"}, *const other[2] = {paths[1], paths[0]};
    const char *usual = path;
    uint64_t hash[4];
    zero_error_t e;
    for (int k = 0; k < 4; k++) {
        data_t *d;
        path = paths[0];
        write_bytes("one two", 7, "", 0);
        path = paths[1];
        write_bytes(k == 1 ? "three" : "seven", 5, k == 2 ? "!" : "", k == 2);
        ck_assert_int_eq(data_open_files(&d, "--data", k == 3 ? other : paths, 2, &e), ZERO_OK);
        ck_assert_int_eq(data_fingerprint(d, &hash[k], &e), ZERO_OK);
        for (int i = 0; i < k; i++)
            ck_assert_uint_ne(hash[i], hash[k]);
        data_close(d);
    }
    unlink(paths[0]);
    unlink(paths[1]);
    path = usual;
}
END_TEST

START_TEST(files_of_one_format)
{
    char *const paths[3] = {"test_train_data.a", "test_train_data.b", "test_train_data.c"};
    const uint32_t tokens[4] = {1, 2, 3, 4};
    const char *usual = path;
    for (int k = 0; k < 4; k++) {
        data_t *d;
        zero_error_t e = {0};
        for (int f = 0; f < 3; f++) {
            path = paths[f];
            if (f == 2 && k == 1)
                write_bytes("text", 4, "", 0);
            else if (f == 2 && k == 2)
                write_tokens((int32_t[]){20240520, 1, 8}, tokens, sizeof tokens);
            else if (f == 2 && k == 3)
                write_array(1, "{'descr': '<u4', 'fortran_order': False, 'shape': (4,)}", tokens, sizeof tokens);
            else
                write_tokens((int32_t[]){20240801, 7, 4}, tokens, sizeof tokens);
        }
        zero_status_t status = data_open_files(&d, "--data", paths, 3, &e);
        ck_assert_int_eq(status, k == 0 ? ZERO_OK : ZERO_ERR_FORMAT);
        ck_assert_msg(k == 0 || has_names(e.text, "'test_train_data.b' 'test_train_data.c' uint32"), "%s", e.text);
        ck_assert(k > 0 || data_tokens(d) == 12);
        data_close(d);
    }
    for (int f = 0; f < 3; f++)
        unlink(paths[f]);
    path = usual;
}
END_TEST

START_TEST(names_of_files)
{
    static const struct {
        const char *value[3];
        const char *found; /* with a space after each; NULL: an error */
    } cases[] = {
        {{"d/b.bin"}, "d/b.bin "},
        {{"d/*.bin"}, "d/a.bin d/b.bin d/c,d.bin "},
        {{"d/[ab].bin", "d/c,d.bin"}, "d/a.bin d/b.bin d/c,d.bin "},
        {{"d/b.bin,d/a.bin"}, "d/b.bin d/a.bin "},
        {{"d/b.bin,d/?.bin", "d/b.bin"}, "d/b.bin d/a.bin d/b.bin d/b.bin "},
        {{"d/*"}, "d/*x d/a.bin d/b.bin d/c,d.bin d/lone.idx "}, /* without a.bin's index */
        {{"d/*x"}, "d/*x "},                                     /* a file of that name */
        {{"none.bin"}, "none.bin "},
        {{"d/*.txt"}, NULL},
        {{"d/a.bin,d/*.txt"}, NULL},
        {{"d/a.bin,"}, NULL},
    };
    static const char *const files[] = {"d/a.bin", "d/b.bin", "d/c,d.bin", "d/a.bin.idx", "d/lone.idx", "d/*x"};
    const char *usual = path;
    ck_assert_int_eq(mkdir("d", 0777), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        path = files[i];
        write_bytes("x", 1, "", 0);
    }
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        option_list_t values = {.count = 0};
        inputs_t inputs;
        char found[256] = "";
        zero_error_t e = {0};
        while (values.count < 3 && cases[k].value[values.count] != NULL) {
            values.at[values.count] = cases[k].value[values.count];
            values.count++;
        }
        zero_status_t status = inputs_find(&inputs, "--data", &values, &e);
        for (int i = 0; i < inputs.count; i++)
            snprintf(found + strlen(found), sizeof found - strlen(found), "%s ", inputs.paths[i]);
        ck_assert_msg((status == ZERO_OK) == (cases[k].found != NULL), "case %zu: %s", k, e.text);
        if (status == ZERO_OK)
            ck_assert_str_eq(found, cases[k].found);
        else
            ck_assert(has_names(e.text, "--data"));
        inputs_free(&inputs);
    }
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        unlink(files[i]);
    rmdir("d");
    path = usual;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("zero_train data");
    TCase *c = tcase_create("data");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, windows_of_both_widths);
    tcase_add_test(c, windows_longer_than_a_piece);
    tcase_add_test(c, tokens_past_the_vocabulary);
    tcase_add_test(c, token_files_that_lie);
    tcase_add_test(c, a_file_that_shrinks_is_an_error);
    tcase_add_test(c, shuffles_are_permutations);
    tcase_add_test(c, arrays_of_every_type);
    tcase_add_test(c, arrays_with_other_numbers);
    tcase_add_test(c, arrays_that_are_refused);
    tcase_add_test(c, first_bytes_decide);
    tcase_add_test(c, files_follow_each_other);
    tcase_add_test(c, fingerprints_see_every_file);
    tcase_add_test(c, files_of_one_format);
    tcase_add_test(c, names_of_files);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
