/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_writer.c - files that several writers fill. */
#define _GNU_SOURCE
#include "tests/checkpoint_case.h"
#include "tests/checkpoint_suites.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s", why.text)
static zero_error_t why;

static int open_files(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

/* Every byte of every file, by its layout. */
static void check_files(const checkpoint_case_t *c, const char *folder, int64_t step)
{
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int f = 0; f < c->layouts[k].file_count; f++) {
            char path[600];
            size_t bytes;
            snprintf(path, sizeof path, "%s/%s", folder, c->layouts[k].files[f].name);
            char *text = read_whole(path, &bytes);
            ck_assert_uint_eq(bytes, c->layouts[k].files[f].bytes);
            ck_assert(memcmp(text, c->layouts[k].files[f].header, (size_t)c->layouts[k].files[f].header_bytes) == 0);
            for (int t = 0; t < CASE_TENSORS; t++) {
                const zero_tensor_entry_t *entry = &c->layouts[k].tensors[t];
                uint64_t wrong = 0;
                for (uint64_t at = 0; entry->file == f && at < entry->bytes; at++)
                    wrong += (unsigned char)text[entry->offset + at] != case_byte(k, t, step, at);
                ck_assert_uint_eq(wrong, 0);
            }
            free(text);
        }
}

/* Each piece has the hash of what lies there, and is within limits. */
static void check_pieces(const zero_manifest_t *manifest, const char *folder)
{
    static char buffer[ZERO_PIECE_BYTES];
    for (uint64_t k = 0; k < manifest->piece_count; k++) {
        const zero_piece_t *piece = &manifest->pieces[k];
        char path[600];
        snprintf(path, sizeof path, "%s/%s", folder, manifest->files[piece->file].name);
        int fd = open(path, O_RDONLY);
        ck_assert(piece->bytes > 0 && piece->count > 0 && zero_window_bytes(piece) <= ZERO_WINDOW_BYTES);
        ck_assert_uint_le((uint64_t)piece->bytes * piece->count, ZERO_PIECE_BYTES);
        ck_assert(piece->count > 1 || piece->stride == piece->bytes);
        for (uint32_t r = 0; r < piece->count; r++)
            ck_assert_int_eq(pread(fd, buffer + (size_t)r * piece->bytes, piece->bytes,
                                   (off_t)(piece->offset + (uint64_t)r * piece->stride)),
                             piece->bytes);
        ck_assert(XXH3_64bits(buffer, (size_t)piece->bytes * piece->count) == piece->hash);
        close(fd);
    }
}

/* The pieces of all writers, in one array that the caller frees. */
static zero_piece_t *gather(zero_writer_t *const *writers, int count, uint64_t *total)
{
    zero_piece_t *all = NULL;
    *total = 0;
    for (int r = 0; r < count; r++) {
        uint64_t n;
        const zero_piece_t *pieces = zero_writer_pieces(writers[r], &n);
        all = realloc(all, (*total + n + 1) * sizeof *all);
        memcpy(all + *total, pieces, n * sizeof *all);
        *total += n;
    }
    return all;
}

START_TEST(test_ranks)
{
    enum { WORLD = 3 };
    static const uint64_t limits[] = {0, 5000, 1};
    zero_writer_t *writers[WORLD];
    checkpoint_case_t c;
    uint64_t count;
    zero_manifest_t manifest;
    const char *folder = at("step-7");
    int before = open_files();
    case_make(&c, limits[_i], false);
    for (int r = 0; r < WORLD; r++)
        OK(zero_writer_make(&writers[r], folder, c.layouts, CASE_LAYOUTS, &why));
    OK(zero_writer_create(writers[1], &why));
    for (int r = WORLD - 1; r >= 0; r--)
        OK(case_write(writers[r], &c, r, WORLD, 7, &why));
    for (int r = 0; r < WORLD; r++)
        OK(zero_writer_sync(writers[r], &why));
    ck_assert_int_eq(open_files(), before);
    zero_piece_t *pieces = gather(writers, WORLD, &count);
    OK(case_manifest(&manifest, &c, 7, pieces, count, &why));
    check_files(&c, folder, 7);
    check_pieces(&manifest, folder);
    zero_manifest_clear(&manifest);
    /* a piece too few, one too many, and one of a file that does not exist are found */
    ck_assert_int_eq(case_manifest(&manifest, &c, 7, pieces + 1, count - 1, &why), ZERO_ERR_PLAN);
    zero_manifest_clear(&manifest);
    pieces = realloc(pieces, (count + 1) * sizeof *pieces);
    pieces[count] = pieces[count / 2];
    ck_assert_int_eq(case_manifest(&manifest, &c, 7, pieces, count + 1, &why), ZERO_ERR_PLAN);
    zero_manifest_clear(&manifest);
    pieces[count].file = 1000;
    ck_assert_int_eq(case_manifest(&manifest, &c, 7, pieces, count + 1, &why), ZERO_ERR_PLAN);
    EXPECT_NAMES(why.text, "1000");
    zero_manifest_clear(&manifest);
    free(pieces);
    for (int r = 0; r < WORLD; r++)
        zero_writer_destroy(writers[r]);
    case_clear(&c);
}
END_TEST

/* Ranks that have parts of rows write the same files, with few pieces. */
START_TEST(test_parts)
{
    static const uint64_t limits[] = {0, 5000};
    zero_writer_t *writers[CASE_PARTS];
    checkpoint_case_t c;
    uint64_t count, runs = 0;
    zero_manifest_t manifest;
    const char *folder = at("step-7");
    case_make(&c, limits[_i], false);
    for (int r = 0; r < CASE_PARTS; r++)
        OK(zero_writer_make(&writers[r], folder, c.layouts, CASE_LAYOUTS, &why));
    OK(zero_writer_create(writers[1], &why));
    for (int r = CASE_PARTS - 1; r >= 0; r--)
        OK(case_write_part(writers[r], &c, r, 7, &why));
    for (int r = 0; r < CASE_PARTS; r++)
        OK(zero_writer_sync(writers[r], &why));
    zero_piece_t *pieces = gather(writers, CASE_PARTS, &count);
    OK(case_manifest(&manifest, &c, 7, pieces, count, &why));
    check_files(&c, folder, 7);
    check_pieces(&manifest, folder);
    for (uint64_t k = 0; k < count; k++)
        runs += pieces[k].count;
    ck_assert_uint_gt(runs, 3 * 5000);
    ck_assert_uint_lt(count, 150);
    zero_manifest_clear(&manifest);
    /* what one rank writes otherwise than the rest, or not at all, is found */
    uint64_t k = 0;
    while (pieces[k].count == 1)
        k++;
    const zero_piece_t good = pieces[k];
    const zero_piece_t bad[] = {
        {good.file, good.bytes, good.count - 1, good.stride, good.offset, good.hash},
        {good.file, good.bytes, good.count + 1, good.stride, good.offset, good.hash},
        {good.file, good.bytes, good.count, good.stride - good.bytes, good.offset, good.hash},
        {good.file, good.bytes, good.count, good.stride + good.bytes, good.offset, good.hash},
        {good.file, good.bytes / 2, good.count, good.stride, good.offset, good.hash},
        {good.file, good.bytes, good.count, good.stride, good.offset + 1, good.hash},
        {good.file, good.bytes, good.count, good.stride, good.offset + good.stride, good.hash},
        {good.file, good.bytes, 1, good.bytes, good.offset, good.hash},
    };
    for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
        pieces[k] = bad[n];
        ck_assert_int_eq(case_manifest(&manifest, &c, 7, pieces, count, &why), ZERO_ERR_PLAN);
        EXPECT_NAMES(why.text, c.layouts[0].files[0].name);
        zero_manifest_clear(&manifest);
    }
    pieces[k] = pieces[count - 1];
    ck_assert_int_eq(case_manifest(&manifest, &c, 7, pieces, count - 1, &why), ZERO_ERR_PLAN);
    zero_manifest_clear(&manifest);
    free(pieces);
    for (int r = 0; r < CASE_PARTS; r++)
        zero_writer_destroy(writers[r]);
    case_clear(&c);
}
END_TEST

/* A window has at most 2^20 elements, a piece at most ZERO_PIECE_BYTES; runs of which no two fit are pieces alone. */
START_TEST(test_windows)
{
    static const struct {
        const char *dtype;
        uint64_t bytes, stride, count, pieces, most; /* of a tensor with one rank's runs; the longest piece, in runs */
    } rows[] = {{"U8", 1000, 4000, 1000, 4, 262},   {"F32", 1000, 4000, 3000, 3, 1048},
                {"BF16", 1000, 4000, 1048, 2, 524}, {"F32", 1000, 8000, 1000, 2, 524},
                {"F32", 600000, 1200000, 3, 3, 1},  {"F32", 600000, 1200000, 1, 1, 1},
                {"U8", 600000, 1200000, 2, 2, 1},   {"F32", 4, 8, 3, 1, 3}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const uint64_t bytes = rows[i].bytes, stride = rows[i].stride, count = rows[i].count;
        const int64_t size = zero_tensor_bits(rows[i].dtype) / 8;
        const zero_tensor_info_t info = tensor("t", rows[i].dtype, (int64_t)(count * stride) / size, -1, -1);
        zero_layout_t layout;
        zero_writer_t *writer;
        zero_manifest_t manifest = {0};
        const zero_state_t state = ZERO_STATE_PARAM;
        uint64_t found, longest = 0;
        char folder[32];
        snprintf(folder, sizeof folder, "w%zu", i);
        char *memory = malloc((size_t)(count * bytes));
        for (uint64_t k = 0; k < count * bytes; k++)
            memory[k] = (char)(k * 31 >> 3);
        OK(zero_layout_make(&layout, "w", &info, 1, 0, &why));
        OK(zero_writer_make(&writer, at(folder), &layout, 1, &why));
        OK(zero_writer_create(writer, &why));
        for (uint64_t place = 0; place < stride / bytes; place++)
            OK(zero_writer_write_runs(writer, 0, 0, place * bytes, bytes, count, stride, memory, &why));
        const zero_piece_t *pieces = zero_writer_pieces(writer, &found);
        for (uint64_t k = 0; k < found; k++)
            longest = pieces[k].count > longest ? pieces[k].count : longest;
        ck_assert_uint_eq(longest, rows[i].most);
        ck_assert_uint_eq(found, 1 + rows[i].pieces * (stride / bytes) +
                                     (rows[i].most == 1 ? (count * stride - 1) / ZERO_PIECE_BYTES : 0));
        OK(zero_manifest_begin(&manifest, 1, 1, "sgd", NULL, NULL, 0, &why));
        OK(zero_manifest_files(&manifest, &layout, &state, 1, pieces, found, &why));
        check_pieces(&manifest, at(folder));
        zero_manifest_clear(&manifest);
        zero_writer_destroy(writer);
        zero_layout_clear(&layout);
        free(memory);
    }
}
END_TEST

/* More files than are open at once, each written twice with all others between. */
START_TEST(test_many_files)
{
    enum { FILES = 150 };
    zero_tensor_info_t tensors[FILES];
    char names[FILES][16];
    zero_layout_t layout;
    zero_writer_t *writer;
    uint64_t count;
    int most = 0, before = open_files();
    for (int k = 0; k < FILES; k++) {
        snprintf(names[k], sizeof names[k], "t%d", k);
        tensors[k] = tensor(names[k], "U8", 10, -1, -1);
    }
    OK(zero_layout_make(&layout, "many", tensors, FILES, 10, &why));
    ck_assert_int_eq(layout.file_count, FILES);
    OK(zero_writer_make(&writer, at("many"), &layout, 1, &why));
    OK(zero_writer_create(writer, &why));
    for (int half = 0; half < 2; half++)
        for (int k = 0; k < FILES; k++) {
            OK(zero_writer_write(writer, 0, k, (uint64_t)half * 5, 5, &"abcdefghij"[half * 5], &why));
            most = open_files() - before > most ? open_files() - before : most;
        }
    ck_assert_int_gt(most, 32);
    ck_assert_int_le(most, 64);
    OK(zero_writer_sync(writer, &why));
    ck_assert_int_eq(open_files(), before);
    zero_manifest_t manifest;
    const zero_state_t state = ZERO_STATE_PARAM;
    OK(zero_manifest_begin(&manifest, 1, 1, "sgd", NULL, NULL, 0, &why));
    const zero_piece_t *pieces = zero_writer_pieces(writer, &count);
    OK(zero_manifest_files(&manifest, &layout, &state, 1, pieces, count, &why));
    check_pieces(&manifest, at("many"));
    zero_manifest_clear(&manifest);
    zero_writer_destroy(writer);
    zero_layout_clear(&layout);
}
END_TEST

/* Pages of a file in the page cache. */
static size_t cached_pages(const char *path)
{
    size_t count = 0, bytes;
    unsigned char *resident;
    struct stat st;
    int fd = open(path, O_RDONLY);
    ck_assert_int_eq(fstat(fd, &st), 0);
    bytes = (size_t)st.st_size;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    resident = malloc(bytes / 4096 + 1);
    ck_assert_int_eq(mincore(map, bytes, resident), 0);
    for (size_t k = 0; k < (bytes + 4095) / 4096; k++)
        count += resident[k] & 1;
    free(resident);
    munmap(map, bytes);
    close(fd);
    return count;
}

/* Whether O_DIRECT bypasses the cache here: some file systems refuse it or have nothing else. */
static bool has_direct(void)
{
    void *page = aligned_alloc(4096, 4096);
    int fd = open(at("probe"), O_WRONLY | O_CREAT | O_DIRECT, 0666);
    memset(page, 7, 4096);
    bool wrote = fd >= 0 && pwrite(fd, page, 4096, 0) == 4096;
    close(fd);
    free(page);
    return wrote && cached_pages(at("probe")) == 0;
}

/* Long ranges leave nothing in the page cache but their ends, wherever the memory and the file have them. */
START_TEST(test_direct)
{
    enum { BYTES = 9 << 20 };
    const zero_tensor_info_t tensors[] = {tensor("odd", "U8", 77, -1, -1), tensor("long", "U8", BYTES, -1, -1)};
    zero_layout_t layout;
    zero_writer_t *writer;
    if (!has_direct())
        return;
    char *memory = aligned_alloc(4096, BYTES + 4096);
    for (size_t k = 0; k < BYTES + 4096; k++)
        memory[k] = (char)(k * 31 >> 3);
    OK(zero_layout_make(&layout, "direct", tensors, 2, 0, &why));
    OK(zero_writer_make(&writer, at("direct"), &layout, 1, &why));
    OK(zero_writer_create(writer, &why));
    OK(zero_writer_write(writer, 0, 1, 0, BYTES - 100000, memory + _i, &why));
    OK(zero_writer_write(writer, 0, 1, BYTES - 100000, 100000, memory + _i + BYTES - 100000, &why));
    OK(zero_writer_sync(writer, &why));
    ck_assert_uint_le(cached_pages(at("direct/direct.safetensors")), 8);
    size_t bytes;
    char *text = read_whole(at("direct/direct.safetensors"), &bytes);
    ck_assert(memcmp(text + layout.tensors[1].offset, memory + _i, BYTES) == 0);
    free(text);
    free(memory);
    zero_writer_destroy(writer);
    zero_layout_clear(&layout);
}
END_TEST

START_TEST(test_writer_refused)
{
    zero_writer_t *writer;
    checkpoint_case_t c;
    case_make(&c, 0, false);
    OK(zero_writer_make(&writer, at("step-1"), c.layouts, CASE_LAYOUTS, &why));
    /* nobody has made the files */
    ck_assert_int_eq(zero_writer_write(writer, 0, 0, 0, 1, "x", &why), ZERO_ERR_IO);
    EXPECT_NAMES(why.text, "parameters.safetensors");
    ck_assert_int_eq(mkdir(at("step-1"), 0777), 0);
    ck_assert_int_eq(zero_writer_create(writer, &why), ZERO_ERR_IO);
    EXPECT_NAMES(why.text, "step-1");
    ck_assert_int_eq(rmdir(at("step-1")), 0);
    OK(zero_writer_create(writer, &why));
    const uint64_t bytes = c.layouts[0].tensors[1].bytes;
    ck_assert_int_eq(zero_writer_write(writer, 0, 1, bytes, 1, "x", &why), ZERO_ERR_ARG);
    EXPECT_NAMES(why.text, "'layer.0.weight' 4290");
    ck_assert_int_eq(zero_writer_write(writer, 0, 1, 1, UINT64_MAX, "x", &why), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_writer_write(writer, 0, CASE_TENSORS, 0, 0, "", &why), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_writer_write(writer, CASE_LAYOUTS, 0, 0, 0, "", &why), ZERO_ERR_ARG);
    OK(zero_writer_write(writer, 0, 1, bytes, 0, NULL, &why));
    static const uint64_t runs[][3] = {{0, 2, 8}, {8, 0, 8}, {8, 2, 0}, {8, 2, 12}, {8, UINT64_MAX, UINT64_MAX - 7}};
    for (size_t k = 0; k < sizeof runs / sizeof runs[0]; k++)
        ck_assert_int_eq(zero_writer_write_runs(writer, 0, 1, 0, runs[k][0], runs[k][1], runs[k][2], "", &why),
                         ZERO_ERR_ARG);
    ck_assert_int_eq(zero_writer_write_runs(writer, 0, 1, bytes - 23, 8, 2, 16, "", &why), ZERO_ERR_ARG);
    EXPECT_NAMES(why.text, "'layer.0.weight' 4290");
    zero_writer_destroy(writer);
    /* a limit on sizes shows when the files are made, before anything is written */
    struct rlimit limit = {100000, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    OK(zero_writer_make(&writer, at("step-2"), c.layouts, CASE_LAYOUTS, &why));
    ck_assert_int_eq(zero_writer_create(writer, &why), ZERO_ERR_IO);
    EXPECT_NAMES(why.text, "parameters.safetensors");
    zero_writer_destroy(writer);
    zero_writer_destroy(NULL);
    case_clear(&c);
}
END_TEST

Suite *checkpoint_writer_suite(void)
{
    Suite *suite = suite_create("writer");
    TCase *tests = tcase_create("writer");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_ranks, 0, 3);
    tcase_add_loop_test(tests, test_parts, 0, 2);
    tcase_add_test(tests, test_windows);
    tcase_add_test(tests, test_many_files);
    tcase_add_loop_test(tests, test_direct, 0, 2);
    tcase_add_test(tests, test_writer_refused);
    suite_add_tcase(suite, tests);
    return suite;
}
