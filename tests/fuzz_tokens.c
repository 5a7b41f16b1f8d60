/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tokens.c - the readers of token files, numpy arrays and text, on arbitrary bytes. The first byte of an input
 * selects the file's name, which must not matter if the contents show the format. Files that open must be readable to
 * the last window, with every token below the vocabulary. A refusal must say why. */
#include "train/data.h"
#include "tests/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 't', TOKENS = 'b', ARRAY = 'n' };

static char folder[] = "/tmp/fuzz_tokens.XXXXXX";
static char text_path[64], tokens_path[64], array_path[64];

static void need(bool condition)
{
    if (!condition)
        abort();
}

static void remove_folder(void)
{
    unlink(text_path);
    unlink(tokens_path);
    unlink(array_path);
    rmdir(folder);
}

static void make_folder(void)
{
    need(mkdtemp(folder) != NULL);
    snprintf(text_path, sizeof text_path, "%s/x.txt", folder);
    snprintf(tokens_path, sizeof tokens_path, "%s/x.bin", folder);
    snprintf(array_path, sizeof array_path, "%s/x.npy", folder);
    atexit(remove_folder);
}

/* Reading every window of a length must agree with the check. */
static void read_all(data_t *data, int64_t seq_len, int64_t vocab)
{
    int32_t x[64], y[64], last = -1;
    zero_error_t error = {0};
    int64_t windows = data_windows(data, seq_len);
    bool readable = true;
    need(windows * seq_len < data_tokens(data) || (windows == 0 && data_tokens(data) == 0));
    for (int64_t w = 0; w < windows; w++) {
        if (data_read(data, w, seq_len, vocab, x, y, &error) != ZERO_OK) {
            need(error.text[0] != '\0');
            readable = false;
            break;
        }
        for (int64_t i = 0; i < seq_len; i++)
            need(x[i] >= 0 && x[i] < vocab && y[i] >= 0 && y[i] < vocab && (i == 0 || x[i] == y[i - 1]));
        need(w == 0 || x[0] == last);
        last = y[seq_len - 1];
    }
    need((data_check(data, seq_len, vocab, -1, windows, &error) == ZERO_OK) == (readable && windows > 0));
    need((data_check(data, seq_len, vocab, 5, windows, &error) == ZERO_OK) == (readable && windows > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    data_t *data;
    uint64_t hash;
    zero_error_t error = {0};
    if (text_path[0] == '\0')
        make_folder();
    if (size == 0)
        return 0;
    const char *path = bytes[0] == TOKENS ? tokens_path : bytes[0] == ARRAY ? array_path : text_path;
    int32_t magic = 0;
    if (size >= 5)
        memcpy(&magic, bytes + 1, sizeof magic);
    bool text = magic != 20240520 && magic != 20240801 && (size < 7 || memcmp(bytes + 1, "\x93NUMPY", 6) != 0);
    FILE *f = fopen(path, "wb");
    need(f != NULL && fwrite(bytes + 1, 1, size - 1, f) == size - 1 && fclose(f) == 0);
    if (data_open(&data, "--data", path, &error) != ZERO_OK) {
        need(data == NULL && error.text[0] != '\0');
        return 0;
    }
    need(data_is_text(data) == text && (!text || path == text_path));
    need(data_fingerprint(data, &hash, &error) == ZERO_OK);
    read_all(data, 1, 256);
    read_all(data, 5, 50257);
    read_all(data, 64, INT32_MAX);
    data_close(data);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static void head_of_array(uint8_t *head, const char *descr, unsigned long long count)
{
    char text[119];
    memset(head, 0, 10);
    memcpy(head, "\x93NUMPY\x01", 7);
    head[8] = 118;
    int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%llu,), }", descr, count);
    memset(text + n, ' ', sizeof text - (size_t)n);
    memcpy(head + 10, text, 118);
}

/* Sets the length in the header to match the bytes after it. */
static void repair(uint8_t *bytes, size_t size)
{
    static const struct {
        const char *descr;
        size_t width;
    } types[] = {{"|u1", 1}, {"<u2", 2}, {"<u4", 4}, {"<i4", 4}, {"<i8", 8}};
    int32_t head[3];
    if (size >= 1 + 128 && bytes[0] == ARRAY) {
        size_t k = bytes[1] % 5;
        head_of_array(bytes + 1, types[k].descr, (size - 1 - 128) / types[k].width);
    }
    if (size < 1 + 1024 || bytes[0] != TOKENS)
        return;
    memcpy(head, bytes + 1, sizeof head);
    head[0] = head[0] & 1 ? 20240801 : 20240520;
    head[1] = head[0] == 20240801 ? 7 : 1;
    head[2] = (int32_t)((size - 1 - 1024) / (head[0] == 20240801 ? 4 : 2));
    memcpy(bytes + 1, head, sizeof head);
}

int main(int argc, char **argv)
{
    static uint8_t narrow[1 + 1024 + 2 * 300], wide[1 + 1024 + 4 * 100], array[1 + 128 + 4 * 100];
    static const char text[] = "tfour thousand and seventy-one\n\xc3\xa9\xff";
    static const char *const words[] = {
        "\x98\xd8\x34\x01\x01",
        "\xb1\xd9\x34\x01\x07",
        "\xff\xff\xff\x7f",
        "\xff\xff\xff\xff",
        "\x80",
        "\x01",
        "\x93NUMPY\x02",
        "'descr': ",
        "'shape': ",
        "'<u2'",
        "'<i8'",
        "'|u1'",
        "(1, 2)",
        "(99999999999999999999,)",
        "'",
        "version https://git-lfs.github.com/spec/v1",
    };
    const fuzz_seed_t seeds[] = {
        {narrow, sizeof narrow},
        {wide, sizeof wide},
        {array, sizeof array},
        {text, sizeof text - 1},
        {"t", 1},
        {"b", 1},
        {narrow, 1025},
        {array, 60},
    };
    for (size_t i = 0; i < sizeof narrow; i++)
        narrow[i] = (uint8_t)(i * 37);
    for (size_t i = 0; i < sizeof wide; i++)
        wide[i] = i % 4 == 1 ? (uint8_t)i : 0;
    memcpy(narrow + 1, (int32_t[]){20240520, 1, 300}, 12);
    memcpy(wide + 1, (int32_t[]){20240801, 7, 100}, 12);
    memcpy(array + 1 + 128, wide + 1 + 1024, 4 * 100);
    head_of_array(array + 1, "<i4", 100);
    narrow[0] = wide[0] = TOKENS;
    array[0] = ARRAY;
    const fuzz_t fuzz = {.seeds = seeds,
                         .seed_count = (int)(sizeof seeds / sizeof *seeds),
                         .words = words,
                         .word_count = (int)(sizeof words / sizeof *words),
                         .most = 4096,
                         .repair = repair};
    return fuzz_main(argc, argv, &fuzz, 5000);
}
#endif
