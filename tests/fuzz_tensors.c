/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tensors.c - the readers of safetensors files and their index, on arbitrary bytes. The first byte of an input
 * selects the reader. Files that open must be consistent and readable to their last element. A refusal must say why. */
#include "tests/fuzz.h"
#include "zero/base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { INDEX = 'i', FILE_ALONE = 'f' };

static char folder[] = "/tmp/fuzz_tensors.XXXXXX";
static char alone[64], index_path[64], shards[2][64];

static void need(bool condition)
{
    if (!condition)
        abort();
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    need(f != NULL);
    need(size == 0 || fwrite(data, 1, size, f) == size);
    need(fclose(f) == 0);
}

/* A header with its length, followed by data. */
#define SHARD_A                                                          \
    "\x70\0\0\0\0\0\0\0"                                                 \
    "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}," \
    "\"h\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]}}  01234567abcdef"
#define SHARD_B          \
    "\x37\0\0\0\0\0\0\0" \
    "{\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}01"
#define ODD                                                              \
    "\xc0\0\0\0\0\0\0\0"                                                 \
    "{\"__metadata__\":{\"format\":\"pt\"},"                             \
    "\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"     \
    "\"none\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[3,3]}," \
    "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[3,7]}}0123456"

static void remove_folder(void)
{
    unlink(alone);
    unlink(index_path);
    for (int k = 0; k < 2; k++)
        unlink(shards[k]);
    rmdir(folder);
}

static void make_folder(void)
{
    need(mkdtemp(folder) != NULL);
    snprintf(alone, sizeof alone, "%s/x.safetensors", folder);
    snprintf(index_path, sizeof index_path, "%s/x.index.json", folder);
    snprintf(shards[0], sizeof shards[0], "%s/a", folder);
    snprintf(shards[1], sizeof shards[1], "%s/b", folder);
    write_file(shards[0], SHARD_A, sizeof SHARD_A - 1);
    write_file(shards[1], SHARD_B, sizeof SHARD_B - 1);
    atexit(remove_folder);
}

/* Checks that everything the opened tensors report is consistent. */
static void check(const zero_tensors_t *tensors)
{
    zero_error_t error;
    float out[64];
    for (int k = 0; k < zero_tensors_count(tensors); k++) {
        zero_tensor_info_t info = {.size = sizeof info};
        need(zero_tensors_at(tensors, k, &info) == ZERO_OK);
        need(zero_tensors_find(tensors, info.name) == k);
        need(info.ndim >= 0 && info.ndim <= ZERO_MAX_DIMS && info.count >= 0);
        int64_t product = 1;
        for (int d = 0; d < info.ndim; d++)
            need(info.shape[d] >= 0 && zero_mul_i64(product, info.shape[d], &product));
        need(product == info.count);
        int64_t n = info.count < 64 ? info.count : 64;
        zero_status_t status = zero_tensors_read(tensors, k, info.count - n, n, out, &error);
        bool numbers =
            strcmp(info.dtype, "F32") == 0 || strcmp(info.dtype, "F16") == 0 || strcmp(info.dtype, "BF16") == 0;
        need(status == (numbers ? ZERO_OK : ZERO_ERR_UNSUPPORTED));
        need(zero_tensors_read(tensors, k, info.count, 1, out, &error) == ZERO_ERR_ARG);
    }
}

/* Whether the input opens. */
static bool try(const uint8_t *data, size_t size)
{
    if (alone[0] == '\0')
        make_folder();
    if (size == 0)
        return false;
    const char *path = data[0] == INDEX ? index_path : alone;
    unlink(path); /* some file systems wait for the disk when a file is truncated and rewritten */
    write_file(path, data + 1, size - 1);
    zero_error_t error = {0};
    zero_tensors_t *tensors = NULL;
    zero_status_t status = zero_tensors_open(&tensors, path, &error);
    if (status == ZERO_OK)
        check(tensors);
    else
        need(tensors == NULL && error.status == status && error.text[0] != '\0' &&
             (status == ZERO_ERR_FORMAT || status == ZERO_ERR_IO));
    zero_tensors_close(tensors);
    return status == ZERO_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try(data, size);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
#define SEED(text)            \
    {                         \
        text, sizeof text - 1 \
    }

static const fuzz_seed_t seeds[] = {
    SEED("f" SHARD_A),
    SEED("f" SHARD_B),
    SEED("f" ODD),
    SEED("f\x02\0\0\0\0\0\0\0{}"),
    SEED("i{\"metadata\":{\"total_size\":16},\"weight_map\":{\"w\":\"a\",\"h\":\"a\",\"b\":\"b\"}}"),
    SEED("i{\"weight_map\":{}}"),
};

static const char *const words[] = {
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "4611686018427387904",
    "4294967296",
    "-1",
    "-0",
    "0",
    "1e3",
    "0.5",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    "[[[[",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "../",
    "/dev/null",
    ".",
    "\"w\":",
    "\"dtype\":",
    "\"shape\":",
    "\"data_offsets\":",
    "\"F32\"",
    "\"BF16\"",
    "\"F16\"",
    "\"F4\"",
    "\"I64\"",
    "[0,0]",
    "[0,8]",
    "[8,14]",
    "[1,2,3,4,5,6,7,8,9]",
    "\"__metadata__\":{}",
    "\"weight_map\":",
    "version https://git-lfs.github.com/spec/v1",
    "\"a\"",
    "\"b\"",
    "\x1b[2J",
    "\xff\xfe",
    " ",
    "\n",
};

/* Sets the header's length so that the header ends with the last closing brace. */
static void repair(uint8_t *data, size_t size)
{
    if (size < 9 || data[0] == INDEX)
        return;
    data[0] = FILE_ALONE;
    size_t end = size;
    while (end > 9 && data[end - 1] != '}')
        end--;
    for (int k = 0; k < 8; k++)
        data[1 + k] = (uint8_t)((end - 9) >> (8 * k));
}

int main(int argc, char **argv)
{
    const fuzz_t fuzz = {.seeds = seeds,
                         .seed_count = sizeof seeds / sizeof seeds[0],
                         .words = words,
                         .word_count = sizeof words / sizeof words[0],
                         .most = 2000,
                         .repair = repair};
    for (int k = 0; k < fuzz.seed_count; k++)
        need(try(seeds[k].data, seeds[k].size));
    return fuzz_main(argc, argv, &fuzz, 20000);
}
#endif
