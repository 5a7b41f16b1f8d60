/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_reader.c - zero_checkpoint_*: every byte that was written and no other; what is not whole is refused. */
#define _GNU_SOURCE
#include "tests/checkpoint_case.h"
#include "tests/checkpoint_suites.h"
#include "zero/checkpoint/ahead.h"
#include "zero/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s", why.text)
static zero_error_t why;

static zero_checkpoint_t *opened(const char *path)
{
    zero_checkpoint_t *checkpoint = NULL;
    OK(zero_checkpoint_open(&checkpoint, path, &why));
    return checkpoint;
}

static void refused(const char *path, zero_status_t status, zero_reason_t reason, const char *names)
{
    zero_checkpoint_t *checkpoint = (zero_checkpoint_t *)1;
    why.text[0] = '\0';
    ck_assert_int_eq(zero_checkpoint_open(&checkpoint, path, &why), status);
    ck_assert_ptr_null(checkpoint);
    EXPECT_ERROR(&why, status, reason, -1, names);
}

/* A step, in the scratch folder. parts: by ranks that have parts of rows. */
static checkpoint_case_t saved_by(bool parts, int64_t step, uint64_t file_bytes)
{
    checkpoint_case_t c;
    char name[32];
    snprintf(name, sizeof name, "step-%lld", (long long)step);
    case_make(&c, file_bytes, false);
    OK(parts ? case_save_parts(&c, at(name), step, &why) : case_save(&c, at(name), step, &why));
    return c;
}

static checkpoint_case_t saved(int64_t step, uint64_t file_bytes)
{
    return saved_by(false, step, file_bytes);
}

/* How many bytes of a range are not those of the case; a byte behind the range must stay. */
static uint64_t wrong_bytes(const zero_checkpoint_t *checkpoint, const checkpoint_case_t *c, int k, int t, int64_t step,
                            int64_t first, int64_t count)
{
    const zero_tensor_entry_t *entry =
        zero_checkpoint_find(checkpoint, c->states[k], c->layouts[k].tensors[t].info.name);
    zero_error_t error;
    if (!entry)
        return UINT64_MAX;
    uint64_t size = zero_tensor_bits(entry->info.dtype) / 8, bytes = (uint64_t)count * size, wrong = 0;
    unsigned char *out = malloc((size_t)bytes + 1);
    out[bytes] = 0x5a;
    if (zero_checkpoint_read(checkpoint, entry, first, count, out, &error) != ZERO_OK)
        wrong = UINT64_MAX;
    else
        for (uint64_t at = 0; at < bytes; at++)
            wrong += out[at] != case_byte(k, t, step, (uint64_t)first * size + at);
    wrong += out[bytes] != 0x5a;
    free(out);
    /* the same ahead of use, in whole pages */
    zero_ahead_t *ahead;
    const void *found;
    if (zero_ahead_make(&ahead, checkpoint, bytes, &error) != ZERO_OK ||
        zero_ahead_add(ahead, entry, first, count, &error) != ZERO_OK ||
        zero_ahead_next(ahead, &found, &error) != ZERO_OK) {
        zero_ahead_destroy(ahead);
        return UINT64_MAX;
    }
    for (uint64_t at = 0; at < bytes; at++)
        wrong += ((const unsigned char *)found)[at] != case_byte(k, t, step, (uint64_t)first * size + at);
    wrong += (uintptr_t)found % sizeof(float) != 0;
    wrong += zero_ahead_next(ahead, &found, &error) != ZERO_ERR_ORDER;
    zero_ahead_destroy(ahead);
    return wrong;
}

START_TEST(test_read)
{
    checkpoint_case_t c = saved_by(_i / 2 == 1, 4, _i % 2 == 0 ? 0 : 5000);
    zero_checkpoint_t *checkpoint = opened(_i % 2 == 0 ? at("step-4") : scratch);
    zero_checkpoint_info_t info = {.size = sizeof info};
    ck_assert_int_eq(zero_checkpoint_info(checkpoint, &info), ZERO_OK);
    ck_assert_str_eq(info.path, at("step-4"));
    ck_assert_str_eq(info.library, ZERO_VERSION);
    ck_assert_str_eq(info.optimizer, "adamw");
    ck_assert_str_eq(info.about, "{\"program\":\"test\"}");
    ck_assert(info.step == 4 && info.applied == 4 && info.caller_bytes == 8 && *(const char *)info.caller == 4);
    ck_assert_ptr_null(info.warning);
    uint64_t random = 1;
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS; t++) {
            int64_t count = c.layouts[k].tensors[t].info.count;
            ck_assert_uint_eq(wrong_bytes(checkpoint, &c, k, t, 4, 0, count), 0);
            ck_assert_uint_eq(wrong_bytes(checkpoint, &c, k, t, 4, count, 0), 0);
            for (int n = 0; n < 30; n++) {
                int64_t a = (int64_t)(zero_splitmix64(random++) % (uint64_t)(count + 1)),
                        b = (int64_t)(zero_splitmix64(random++) % (uint64_t)(count + 1));
                ck_assert_uint_eq(wrong_bytes(checkpoint, &c, k, t, 4, a < b ? a : b, a < b ? b - a : a - b), 0);
            }
        }
    /* around the ends of pieces */
    const int64_t end = (int64_t)ZERO_PIECE_BYTES / 4, around[] = {end - 1, end, end + 1, 0};
    for (int a = 0; a < 4; a++)
        for (int64_t b = end - 1; b <= end + 1; b++)
            ck_assert_uint_eq(around[a] > b ? 0 : wrong_bytes(checkpoint, &c, 1, 0, 4, around[a], b - around[a]), 0);
    const zero_tensor_entry_t *entry = zero_checkpoint_find(checkpoint, ZERO_STATE_PARAM, "layer.0.bias");
    char out[16];
    ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, 0, 8, out, &why), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, -1, 1, out, &why), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, INT64_MAX, INT64_MAX, out, &why), ZERO_ERR_ARG);
    EXPECT_NAMES(why.text, "'layer.0.bias' 7");
    ck_assert_ptr_null(zero_checkpoint_find(checkpoint, ZERO_STATE_PARAM, "layer.0.bia"));
    ck_assert_ptr_null(zero_checkpoint_find(checkpoint, ZERO_STATE_MOMENT2, "layer.0.bias"));
    ck_assert_int_eq(zero_checkpoint_manifest(checkpoint)->param_count, CASE_TENSORS);
    zero_checkpoint_close(checkpoint);
    zero_checkpoint_close(NULL);
    case_clear(&c);
}
END_TEST

typedef struct reader {
    const zero_checkpoint_t *checkpoint;
    const checkpoint_case_t *c;
    uint64_t wrong;
} reader_t;

static void *read_all(void *arg)
{
    reader_t *r = arg;
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS; t++)
            r->wrong += wrong_bytes(r->checkpoint, r->c, k, t, 4, 0, r->c->layouts[k].tensors[t].info.count);
    return NULL;
}

START_TEST(test_threads)
{
    enum { THREADS = 4 };
    checkpoint_case_t c = saved(4, 0);
    zero_checkpoint_t *checkpoint = opened(scratch);
    pthread_t threads[THREADS];
    reader_t readers[THREADS];
    for (int k = 0; k < THREADS; k++) {
        readers[k] = (reader_t){checkpoint, &c, 0};
        ck_assert_int_eq(pthread_create(&threads[k], NULL, read_all, &readers[k]), 0);
    }
    for (int k = 0; k < THREADS; k++) {
        ck_assert_int_eq(pthread_join(threads[k], NULL), 0);
        ck_assert_uint_eq(readers[k].wrong, 0);
    }
    zero_checkpoint_close(checkpoint);
    case_clear(&c);
}
END_TEST

static void flip(const char *path, uint64_t offset)
{
    char byte;
    int fd = open(path, O_RDWR);
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 16;
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

/* A flipped bit anywhere: of a header when it is opened, of a tensor when a range of its piece is read, and never
 * else. */
START_TEST(test_flipped_bits)
{
    checkpoint_case_t c = saved(4, 0);
    const char *path = at("step-4/master.safetensors");
    char out[64];
    const uint64_t header[] = {0, 3, 9, 100, 1000, 4095};
    for (size_t k = 0; k < sizeof header / sizeof header[0]; k++) {
        flip(path, header[k]);
        refused(scratch, ZERO_ERR_FORMAT, ZERO_REASON_NONE, "step-4/master.safetensors");
        flip(path, header[k]);
    }
    /* in a part of the header that says nothing about tensors */
    size_t bytes;
    char *text = read_whole(path, &bytes);
    const char *format = memmem(text, 4096, "\"pt\"", 4);
    ck_assert_ptr_nonnull(format);
    flip(path, (uint64_t)(format - text) + 1);
    refused(scratch, ZERO_ERR_FORMAT, ZERO_REASON_NONE, "step-4/master.safetensors");
    flip(path, (uint64_t)(format - text) + 1);
    free(text);
    zero_checkpoint_t *checkpoint = opened(scratch);
    const zero_tensor_entry_t *entry = zero_checkpoint_find(checkpoint, ZERO_STATE_MASTER, "embedding");
    const int64_t piece = (int64_t)ZERO_PIECE_BYTES / 4;
    ck_assert_int_gt(entry->info.count, piece + 16);
    flip(path, entry->offset + ZERO_PIECE_BYTES + 5);
    const int64_t bad[] = {piece, piece + 1, piece - 1, entry->info.count - 16};
    for (int k = 0; k < 4; k++) {
        ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, bad[k], 16, out, &why), ZERO_ERR_FORMAT);
        char offset[32];
        snprintf(offset, sizeof offset, "%llu", (unsigned long long)(entry->offset + ZERO_PIECE_BYTES));
        EXPECT_NAMES(why.text, "'embedding' step-4/master.safetensors");
        EXPECT_NAMES(why.text, offset);
        zero_ahead_t *ahead;
        const void *found;
        OK(zero_ahead_make(&ahead, checkpoint, 64, &why));
        OK(zero_ahead_add(ahead, entry, bad[k], 16, &why));
        ck_assert_int_eq(zero_ahead_next(ahead, &found, &why), ZERO_ERR_FORMAT);
        EXPECT_NAMES(why.text, offset);
        zero_ahead_destroy(ahead);
    }
    OK(zero_checkpoint_read(checkpoint, entry, piece - 16, 16, out, &why));
    ck_assert_uint_eq(wrong_bytes(checkpoint, &c, 1, 1, 4, 0, c.layouts[1].tensors[1].info.count), 0);
    zero_checkpoint_close(checkpoint);
    case_clear(&c);
}
END_TEST

/* A flipped bit in any rank's part of the rows: whatever of its window is read, its piece is named. Another window of
 * the tensor is good. */
START_TEST(test_flipped_runs)
{
    checkpoint_case_t c = saved_by(true, 4, 0);
    const char *path = at("step-4/master.safetensors");
    zero_checkpoint_t *checkpoint = opened(scratch);
    const zero_manifest_t *manifest = zero_checkpoint_manifest(checkpoint);
    const zero_tensor_entry_t *entry = zero_checkpoint_find(checkpoint, ZERO_STATE_MASTER, "embedding");
    const zero_piece_t *window = &manifest->pieces[manifest->files[1].first];
    while (window->count == 1)
        window++;
    const uint64_t begin = window->offset, bytes = zero_window_bytes(window);
    ck_assert_uint_eq(begin, entry->offset);
    ck_assert(zero_window_pieces(window) == CASE_PARTS && bytes % 4 == 0);
    for (int part = 0; part < CASE_PARTS; part++) {
        const zero_piece_t *piece = &window[part];
        for (uint32_t run = 0; run < piece->count; run += piece->count - 1) {
            const uint64_t bad = piece->offset + (uint64_t)run * piece->stride + (run ? piece->bytes - 1 : 0);
            const int64_t firsts[] = {0, (int64_t)(bytes / 8), (int64_t)(bytes / 4) - 1};
            char names[200], out[64];
            snprintf(names, sizeof names, "'embedding' step-4/master.safetensors %llu %u %u %u",
                     (unsigned long long)piece->offset, piece->count, piece->bytes, piece->stride);
            flip(path, bad);
            for (int k = 0; k < 3; k++) {
                zero_ahead_t *ahead;
                const void *found;
                why.text[0] = '\0';
                ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, firsts[k], 1, out, &why), ZERO_ERR_FORMAT);
                EXPECT_NAMES(why.text, names);
                OK(zero_ahead_make(&ahead, checkpoint, 64, &why));
                OK(zero_ahead_add(ahead, entry, firsts[k], 16, &why));
                ck_assert_int_eq(zero_ahead_next(ahead, &found, &why), ZERO_ERR_FORMAT);
                EXPECT_NAMES(why.text, names);
                zero_ahead_destroy(ahead);
            }
            const int64_t next = (int64_t)(bytes / 4);
            ck_assert_uint_eq(wrong_bytes(checkpoint, &c, 1, 0, 4, next, entry->info.count - next), 0);
            flip(path, bad);
        }
    }
    ck_assert_uint_eq(wrong_bytes(checkpoint, &c, 1, 0, 4, 0, entry->info.count), 0);
    zero_checkpoint_close(checkpoint);
    case_clear(&c);
}
END_TEST

/* Whoever reads as much as fits reads each window once, if it has room for a window. */
START_TEST(test_fit)
{
    checkpoint_case_t c = saved_by(_i == 1, 4, 0);
    zero_checkpoint_t *checkpoint = opened(scratch);
    const zero_manifest_t *manifest = zero_checkpoint_manifest(checkpoint);
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int64_t most = 400; most < 400000; most = most * 3 + 1) {
            const zero_tensor_entry_t *entry = zero_checkpoint_find(checkpoint, c.states[k], "embedding");
            const uint64_t size = zero_tensor_bits(entry->info.dtype) / 8;
            int64_t first = 0, fit;
            for (; first < entry->info.count; first += fit) {
                fit = zero_checkpoint_fit(checkpoint, entry, first, most);
                ck_assert(fit >= 1 && fit <= most);
                const uint64_t begin = entry->offset + (uint64_t)first * size;
                uint64_t end = 0; /* the last end of a window in reach */
                for (uint64_t n = 0; n < manifest->piece_count; n += zero_window_pieces(&manifest->pieces[n])) {
                    const zero_piece_t *window = &manifest->pieces[n];
                    const uint64_t behind = window->offset + zero_window_bytes(window);
                    if ((int)window->file == entry->file && behind > begin && behind <= begin + (uint64_t)most * size &&
                        behind <= entry->offset + entry->bytes)
                        end = behind;
                }
                ck_assert_int_eq(fit, end >= begin + size ? (int64_t)((end - begin) / size) : most);
            }
            ck_assert_int_eq(first, entry->info.count);
        }
    zero_checkpoint_close(checkpoint);
    case_clear(&c);
}
END_TEST

/* Version 1 of the format differs in nothing else than that it has no runs. */
START_TEST(test_old_version)
{
    checkpoint_case_t c = saved(4, 0);
    size_t bytes;
    char *text = read_whole(at("step-4/manifest.json"), &bytes), *version = strstr(text, "\"version\":2"), hash[17];
    ck_assert_ptr_nonnull(version);
    version[10] = '1';
    snprintf(hash, sizeof hash, "%016" PRIx64, (uint64_t)XXH3_64bits(text, bytes - 30));
    memcpy(text + bytes - 19, hash, 16);
    write_whole(at("step-4/manifest.json"), text, bytes);
    free(text);
    zero_checkpoint_t *checkpoint = opened(scratch);
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS; t++)
            ck_assert_uint_eq(wrong_bytes(checkpoint, &c, k, t, 4, 0, c.layouts[k].tensors[t].info.count), 0);
    zero_checkpoint_close(checkpoint);
    case_clear(&c);
}
END_TEST

START_TEST(test_not_whole)
{
    checkpoint_case_t c = saved(4, 0);
    refused(at("nowhere"), ZERO_ERR_IO, ZERO_REASON_NONE, "nowhere");
    refused(at("step-4/manifest.json"), ZERO_ERR_IO, ZERO_REASON_NONE, "step-4/manifest.json");
    /* a file that is missing, too short, too long; another step's */
    ck_assert_int_eq(rename(at("step-4/master.safetensors"), at("m")), 0);
    refused(scratch, ZERO_ERR_IO, ZERO_REASON_NONE, "step-4/master.safetensors");
    ck_assert_int_eq(rename(at("m"), at("step-4/master.safetensors")), 0);
    off_t bytes = (off_t)c.layouts[1].files[0].bytes;
    ck_assert_int_eq(truncate(at("step-4/master.safetensors"), bytes - 1), 0);
    refused(scratch, ZERO_ERR_FORMAT, ZERO_REASON_NONE, "step-4/master.safetensors");
    ck_assert_int_eq(truncate(at("step-4/master.safetensors"), bytes + 1), 0);
    refused(at("step-4"), ZERO_ERR_FORMAT, ZERO_REASON_NONE, "step-4/master.safetensors");
    checkpoint_case_t other = saved(5, 0);
    ck_assert_int_eq(rename(at("step-5/master.safetensors"), at("step-4/master.safetensors")), 0);
    zero_checkpoint_t *checkpoint = opened(at("step-4"));
    char out[64];
    const zero_tensor_entry_t *entry = zero_checkpoint_find(checkpoint, ZERO_STATE_MASTER, "embedding");
    ck_assert_int_eq(zero_checkpoint_read(checkpoint, entry, 0, 16, out, &why), ZERO_ERR_FORMAT);
    zero_checkpoint_close(checkpoint);
    /* cut while it is open */
    ck_assert_int_eq(unlink(at("step-4/manifest.json")), 0);
    refused(at("step-4"), ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, "step-4");
    case_clear(&c);
    case_clear(&other);
}
END_TEST

START_TEST(test_newest_whole)
{
    checkpoint_case_t c = saved(4, 0), later = saved(11, 0);
    size_t bytes;
    zero_checkpoint_info_t info = {.size = sizeof info};
    char *text = read_whole(at("step-11/manifest.json"), &bytes);
    text[bytes / 2] ^= 1;
    write_whole(at("step-11/manifest.json"), text, bytes);
    free(text);
    ck_assert_int_eq(mkdir(at("step-12"), 0777), 0);
    zero_checkpoint_t *checkpoint = opened(scratch);
    ck_assert_int_eq(zero_checkpoint_info(checkpoint, &info), ZERO_OK);
    ck_assert_int_eq(info.step, 4);
    EXPECT_NAMES(info.warning, "step-11/manifest.json");
    zero_checkpoint_close(checkpoint);
    refused(at("step-11"), ZERO_ERR_FORMAT, ZERO_REASON_NONE, "step-11/manifest.json");
    case_clear(&c);
    case_clear(&later);
}
END_TEST

/* A manifest that fits its files, but not what a checkpoint is. */
static void resave(const checkpoint_case_t *c, void (*change)(zero_manifest_t *))
{
    zero_manifest_t manifest;
    (void)c;
    OK(zero_manifest_read(&manifest, at("step-4"), &why));
    change(&manifest);
    OK(zero_manifest_write(&manifest, at("step-4"), &why));
    zero_manifest_clear(&manifest);
}
static void rename_param(zero_manifest_t *m)
{
    m->params[4].name[0] = 'L';
}
static void drop_param(zero_manifest_t *m)
{
    free(m->params[--m->param_count].name);
}
static void shape_param(zero_manifest_t *m)
{
    m->params[1].shape[0] = 65, m->params[1].shape[1] = 33;
}
static void dtype_param(zero_manifest_t *m)
{
    m->params[1].dtype = ZERO_FP16;
}
static void same_state(zero_manifest_t *m)
{
    m->files[2].state = ZERO_STATE_MASTER;
}
static void other_state(zero_manifest_t *m)
{
    m->files[0].state = ZERO_STATE_MOMENT2;
}

START_TEST(test_not_consistent)
{
    static const struct {
        void (*change)(zero_manifest_t *);
        const char *names;
    } cases[] = {{rename_param, "'Layer.0.bias'"},
                 {drop_param, "3"},
                 {shape_param, "'layer.0.weight'"},
                 {dtype_param, "'layer.0.weight'"},
                 {same_state, "'embedding' master.safetensors moment1.safetensors"},
                 {other_state, "'embedding'"}};
    checkpoint_case_t c = saved(4, 0);
    resave(&c, cases[_i].change);
    refused(at("step-4"), ZERO_ERR_FORMAT, ZERO_REASON_NONE, cases[_i].names);
    case_clear(&c);
}
END_TEST

Suite *checkpoint_reader_suite(void)
{
    Suite *suite = suite_create("reader");
    TCase *tests = tcase_create("reader");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_read, 0, 4);
    tcase_add_loop_test(tests, test_fit, 0, 2);
    tcase_add_test(tests, test_threads);
    tcase_add_test(tests, test_flipped_bits);
    tcase_add_test(tests, test_flipped_runs);
    tcase_add_test(tests, test_old_version);
    tcase_add_test(tests, test_not_whole);
    tcase_add_test(tests, test_newest_whole);
    tcase_add_loop_test(tests, test_not_consistent, 0, 6);
    suite_add_tcase(suite, tests);
    return suite;
}
