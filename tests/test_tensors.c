/* SPDX-License-Identifier: Apache-2.0 */
/* test_tensors.c - zero_tensors_*, on files that the test writes: valid ones, and every kind of inconsistency. */
#include "tests/expect.h"
#include "zero/base/base.h"

#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "test_tensors.XXXXXX";
static char path_text[4][256];

/* The path of a name in the test's folder, in one of four buffers in turn. */
static const char *at(const char *name)
{
    static int turn;
    char *text = path_text[turn++ % 4];
    snprintf(text, sizeof path_text[0], "%s/%s", folder, name);
    return text;
}

static void make_folder(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    static const char *const names[] = {
        "x.safetensors",  "a.safetensors", "b.safetensors", "model.safetensors", "model.safetensors.index.json",
        "odd.index.json", "pipe"};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
        unlink(at(names[k]));
    rmdir(at("sub"));
    rmdir(folder);
}

static void write_bytes(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(at(name), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* Writes a file: the header's length, the header, and data. */
static void write_file(const char *name, const char *header, const void *data, size_t data_bytes)
{
    size_t length = strlen(header);
    char *bytes = malloc(8 + length + data_bytes);
    for (int k = 0; k < 8; k++)
        bytes[k] = (char)(length >> (8 * k));
    memcpy(bytes + 8, header, length);
    if (data_bytes > 0)
        memcpy(bytes + 8 + length, data, data_bytes);
    write_bytes(name, bytes, 8 + length + data_bytes);
    free(bytes);
}

/* Opening fails with this status, and the sentence contains all given pieces. */
static void refused(const char *path, zero_status_t status, const char *piece, const char *piece2)
{
    zero_error_t error = {0};
    zero_tensors_t *tensors = (zero_tensors_t *)1;
    ck_assert_int_eq(zero_tensors_open(&tensors, path, &error), status);
    ck_assert_ptr_null(tensors);
    ck_assert_int_eq(error.status, status);
    ck_assert_msg(has_names(error.text, piece) && has_names(error.text, piece2),
                  "\"%s\" says neither '%s' nor '%s', or only one of them", error.text, piece, piece2);
    ck_assert_int_eq(zero_tensors_open(&tensors, path, NULL), status); /* a NULL error is allowed */
}

static zero_tensors_t *opened(const char *path)
{
    zero_error_t error = {0};
    zero_tensors_t *tensors = NULL;
    ck_assert_msg(zero_tensors_open(&tensors, path, &error) == ZERO_OK, "%s", error.text);
    ck_assert_ptr_nonnull(tensors);
    return tensors;
}

static void read_all(const zero_tensors_t *tensors, const char *name, const float *want, int64_t count)
{
    zero_error_t error = {0};
    float out[64];
    int index = zero_tensors_find(tensors, name);
    ck_assert_int_ge(index, 0);
    ck_assert_msg(zero_tensors_read(tensors, index, 0, count, out, &error) == ZERO_OK, "%s", error.text);
    ck_assert(count == 0 || memcmp(out, want, (size_t)count * sizeof *out) == 0);
    for (int64_t begin = 0; begin <= count; begin++)
        for (int64_t n = 0; begin + n <= count; n++) {
            out[n] = -77;
            ck_assert_int_eq(zero_tensors_read(tensors, index, begin, n, out, NULL), ZERO_OK);
            ck_assert(n == 0 || memcmp(out, want + begin, (size_t)n * sizeof *out) == 0);
            ck_assert_float_eq(out[n], -77);
        }
}

/* ---- good files ------------------------------------------------------------------------------------------------- */

/* Tensors of three number dtypes and others, at odd addresses, not in the order of their names; a scalar and an empty
 * tensor. */
static const char mixed_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                   "\"odd\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                   "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[3,27]},"
                                   "\"none\":{\"dtype\":\"F32\",\"shape\":[4,0,5],\"data_offsets\":[27,27]},"
                                   "\"half\":{\"dtype\":\"F16\",\"shape\":[1,5],\"data_offsets\":[27,37]},"
                                   "\"brain\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[37,47]},"
                                   "\"one\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[47,51]},"
                                   "\"tiny\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[51,54]},"
                                   "\"big\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[54,62]}}   ";
static const float w[6] = {1.5f, -2, 3e38f, 1e-45f, 0, -0.0f};
static const float five[5] = {1, -2.5f, 0.125f, 0, -96};

static void write_mixed(const char *name)
{
    char data[62] = {1, 2, 3};
    memcpy(data + 3, w, 24);
    for (int k = 0; k < 5; k++) {
        uint16_t h = zero_fp32_to_fp16(five[k]), b = zero_fp32_to_bf16(five[k]);
        memcpy(data + 27 + 2 * k, &h, 2);
        memcpy(data + 37 + 2 * k, &b, 2);
    }
    float one = 42;
    memcpy(data + 47, &one, 4);
    write_file(name, mixed_header, data, sizeof data);
}

START_TEST(test_good)
{
    write_mixed("x.safetensors");
    zero_tensors_t *t = opened(at("x.safetensors"));
    static const char *const names[] = {"big", "brain", "half", "none", "odd", "one", "tiny", "w"};
    ck_assert_int_eq(zero_tensors_count(t), 8);
    for (int k = 0; k < 8; k++) {
        zero_tensor_info_t info = {.size = sizeof info};
        ck_assert_int_eq(zero_tensors_at(t, k, &info), ZERO_OK);
        ck_assert_str_eq(info.name, names[k]);
        ck_assert_int_eq(zero_tensors_find(t, names[k]), k);
    }
    zero_tensor_info_t info = {.size = sizeof info};
    ck_assert_int_eq(zero_tensors_at(t, zero_tensors_find(t, "w"), &info), ZERO_OK);
    ck_assert_str_eq(info.dtype, "F32");
    ck_assert_int_eq(info.ndim, 2);
    ck_assert_int_eq(info.shape[0], 2);
    ck_assert_int_eq(info.shape[1], 3);
    ck_assert_int_eq(info.count, 6);
    ck_assert_int_eq(zero_tensors_at(t, zero_tensors_find(t, "one"), &info), ZERO_OK);
    ck_assert_int_eq(info.ndim, 0);
    ck_assert_int_eq(info.count, 1);
    ck_assert_int_eq(zero_tensors_at(t, zero_tensors_find(t, "none"), &info), ZERO_OK);
    ck_assert_int_eq(info.count, 0);
    read_all(t, "w", w, 6);
    read_all(t, "half", five, 5);
    read_all(t, "brain", five, 5);
    read_all(t, "one", &(float){42}, 1);
    read_all(t, "none", NULL, 0);

    zero_error_t error;
    float out[8];
    ck_assert_int_eq(zero_tensors_read(t, zero_tensors_find(t, "big"), 0, 1, out, &error), ZERO_ERR_UNSUPPORTED);
    ck_assert(has_names(error.text, "'big'") && has_names(error.text, "I64") && has_names(error.text, "x.safetensors"));
    int index = zero_tensors_find(t, "w");
    static const int64_t ranges[][2] = {
        {-1, 1}, {0, 7}, {6, 1}, {7, 0}, {1, -1}, {1, INT64_MAX}, {INT64_MAX, INT64_MAX}, {INT64_MIN, 1}};
    for (size_t k = 0; k < sizeof ranges / sizeof ranges[0]; k++)
        ck_assert_int_eq(zero_tensors_read(t, index, ranges[k][0], ranges[k][1], out, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_read(t, -1, 0, 0, out, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_read(t, 8, 0, 0, out, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_at(t, 8, &info), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_at(t, -1, &info), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_find(t, "nobody"), -1);
    ck_assert_int_eq(zero_tensors_find(t, ""), -1);
    zero_tensors_close(t);
    zero_tensors_close(NULL);
}
END_TEST

/* More elements than one conversion takes, from an odd address, with an odd first element. */
START_TEST(test_large)
{
    enum { N = 50021 };
    uint16_t *h = malloc(2 * N + 1);
    float *out = malloc(sizeof(float) * (N + 1));
    char header[200];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        char *data = calloc(1, 2 * N + 1);
        for (int i = 0; i < N; i++)
            h[i] = (uint16_t)(0x3c00 + i % 1024);
        memcpy(data + 1, h, 2 * N);
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},\"h\":{\"dtype\":\"%s\",\"shape\":[%d]"
                 ",\"data_"
                 "offsets\":[1,%d]}}",
                 bf16 ? "BF16" : "F16", N, 2 * N + 1);
        write_file("x.safetensors", header, data, 2 * N + 1);
        zero_tensors_t *t = opened(at("x.safetensors"));
        out[N - 3] = -77;
        ck_assert_int_eq(zero_tensors_read(t, 1, 3, N - 3, out, NULL), ZERO_OK);
        for (int i = 3; i < N; i++)
            ck_assert_float_eq(out[i - 3], bf16 ? zero_bf16_to_fp32(h[i]) : zero_fp16_to_fp32(h[i]));
        ck_assert_float_eq(out[N - 3], -77);
        zero_tensors_close(t);
        free(data);
    }
    free(h), free(out);
}
END_TEST

START_TEST(test_empty_header)
{
    write_file("x.safetensors", "{}", NULL, 0);
    zero_tensors_t *t = opened(at("x.safetensors"));
    ck_assert_int_eq(zero_tensors_count(t), 0);
    ck_assert_int_eq(zero_tensors_find(t, "w"), -1);
    zero_tensors_close(t);
}
END_TEST

/* Empty tensors at the first byte of another, at its end, and named after it. */
START_TEST(test_empty_tensors)
{
    const float x[2] = {5, 6};
    write_file("x.safetensors",
               "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
               "\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
               "\"z\":{\"dtype\":\"F16\",\"shape\":[0,9223372036854775807],\"data_offsets\":[8,8]}}",
               x, 8);
    zero_tensors_t *t = opened(at("x.safetensors"));
    ck_assert_int_eq(zero_tensors_count(t), 3);
    read_all(t, "x", x, 2);
    read_all(t, "y", NULL, 0);
    read_all(t, "z", NULL, 0);
    zero_tensors_close(t);
}
END_TEST

/* ---- an index --------------------------------------------------------------------------------------------------- */

#define ONE(name, value) "\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[" value "]}"

static void write_index(const char *name, const char *map)
{
    char text[1000];
    int n = snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":12},\"weight_map\":%s}", map);
    write_bytes(name, text, (size_t)n);
}

static void write_shards(void)
{
    const float data[2] = {1, 2}, other[2] = {3, 4};
    write_file("a.safetensors", "{" ONE("p", "0,4") "}", data, 4);
    write_file("b.safetensors", "{" ONE("q", "0,4") "," ONE("m", "4,8") "}", other, 8);
}

START_TEST(test_index)
{
    write_shards();
    write_index("model.safetensors.index.json",
                "{\"q\":\"b.safetensors\",\"p\":\"a.safetensors\",\"m\":\"b.safetensors\"}");
    for (int by_folder = 0; by_folder < 2; by_folder++) {
        zero_tensors_t *t = opened(by_folder ? folder : at("model.safetensors.index.json"));
        ck_assert_int_eq(zero_tensors_count(t), 3);
        ck_assert_int_eq(zero_tensors_find(t, "m"), 0);
        ck_assert_int_eq(zero_tensors_find(t, "p"), 1);
        ck_assert_int_eq(zero_tensors_find(t, "q"), 2);
        read_all(t, "p", &(float){1}, 1);
        read_all(t, "q", &(float){3}, 1);
        read_all(t, "m", &(float){4}, 1);
        zero_tensors_close(t);
    }
    /* In the current folder: no slash in the path. */
    ck_assert_int_eq(chdir(folder), 0);
    zero_tensors_t *t = opened("model.safetensors.index.json");
    read_all(t, "m", &(float){4}, 1);
    zero_tensors_close(t);
    ck_assert_int_eq(chdir(".."), 0);
    /* If a folder has both, the single file counts. */
    write_mixed("model.safetensors");
    t = opened(folder);
    ck_assert_int_eq(zero_tensors_count(t), 8);
    zero_tensors_close(t);
}
END_TEST

START_TEST(test_index_lies)
{
    static const struct {
        const char *map, *piece;
    } lies[] = {
        {"{\"p\":\"a.safetensors\",\"absent\":\"b.safetensors\"}", "'absent'"},
        {"{\"p\":\"c.safetensors\"}", "c.safetensors"},
        {"{\"p\":\"../secret.safetensors\"}", "'../secret.safetensors'"},
        {"{\"p\":\"/etc/passwd\"}", "'/etc/passwd'"},
        {"{\"p\":\"sub/a.safetensors\"}", "'sub/a.safetensors'"},
        {"{\"p\":\"..\"}", "'..'"},
        {"{\"p\":\".\"}", "'.'"},
        {"{\"p\":\"\"}", "''"},
        {"{\"p\":\"\\u001b[31ma.safetensors\"}", "'?[31ma.safetensors'"},
        {"{\"p\":7}", "'p'"},
        {"{\"p\":null}", "'p'"},
        {"{\"p\":\"a.safetensors\",\"p\":\"b.safetensors\"}", "duplicate"},
        {"{\"p\":\"odd.index.json\"}", "odd.index.json"},
        {"[\"p\"]", "weight_map"},
        {"null", "weight_map"},
        {"{\"p\":", "JSON"},
    };
    write_shards();
    for (size_t k = 0; k < sizeof lies / sizeof lies[0]; k++) {
        write_index("odd.index.json", lies[k].map);
        refused(at("odd.index.json"), k == 1 ? ZERO_ERR_IO : ZERO_ERR_FORMAT, lies[k].piece,
                k == 1 ? "" : "odd.index.json");
    }
    write_bytes("odd.index.json", "", 0);
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "JSON", "odd.index.json");
    write_bytes("odd.index.json", "[]", 2);
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "weight_map", "odd.index.json");
    /* The shard itself is inconsistent. */
    write_index("odd.index.json", "{\"m\":\"b.safetensors\"}");
    write_file("b.safetensors", "{" ONE("m", "0,4") "}", "abc", 3);
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "b.safetensors", "'m'");
    /* Larger than any index: refused by its size alone (the file is sparse). */
    ck_assert_int_eq(truncate(at("odd.index.json"), 200000000), 0);
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "200000000", "odd.index.json");
}
END_TEST

/* A tensor in a shard that the index does not list for that shard would be silently lost. The same rule applies to
 * tensors that are not listed at all, and to those listed for another shard. */
START_TEST(test_index_unlisted)
{
    const float data[2] = {1, 2};
    write_shards();
    write_index("odd.index.json", "{\"q\":\"b.safetensors\",\"p\":\"a.safetensors\"}");
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "'m'", "b.safetensors");
    write_file("a.safetensors", "{" ONE("p", "0,4") "," ONE("q", "4,8") "}", data, 8);
    write_index("odd.index.json", "{\"q\":\"b.safetensors\",\"p\":\"a.safetensors\",\"m\":\"b.safetensors\"}");
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "'q'", "a.safetensors");
    /* tensors of a shard that the index does not name do not count */
    write_index("odd.index.json", "{\"q\":\"b.safetensors\",\"m\":\"b.safetensors\"}");
    zero_tensors_close(opened(at("odd.index.json")));
}
END_TEST

START_TEST(test_pointer)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n";
    write_bytes("x.safetensors", pointer, sizeof pointer - 1);
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, "x.safetensors", "`git lfs pull`");
    write_bytes("odd.index.json", pointer, sizeof pointer - 1);
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "odd.index.json", "`git lfs pull`");
    write_bytes("x.safetensors", pointer, 12); /* shorter than a pointer */
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, "x.safetensors", "");
}
END_TEST

/* ---- inconsistent headers --------------------------------------------------------------------------------------- */

#define T(dtype, shape, range) "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" range "}}"
#define AB(a, b) "{\"a\":{\"dtype\":\"U8\",\"shape\":" a "},\"b\":{\"dtype\":\"U8\",\"shape\":" b "}}"

/* Each header is followed by eight bytes of data. piece is in the sentence. */
static const struct {
    const char *header, *piece;
} lies[] = {
    {T("\"F32\"", "[3]", "[0,12]"), "12"},     /* past the end */
    {T("\"F32\"", "[3]", "[0,8]"), "3 F32"},   /* shape too large for the range */
    {T("\"F32\"", "[1]", "[0,8]"), "1 F32"},   /* too small */
    {T("\"BF16\"", "[2]", "[0,8]"), "2 BF16"}, /* wrong dtype */
    {T("\"F4\"", "[3]", "[0,1]"), "3 F4"},     /* half a byte */
    {T("\"F33\"", "[2]", "[0,8]"), "'F33'"},
    {T("\"f32\"", "[2]", "[0,8]"), "'f32'"},
    {T("\"F32\\u001b[2J\"", "[2]", "[0,8]"), "'F32?[2J'"}, /* no control characters reach the terminal */
    {T("32", "[2]", "[0,8]"), "dtype"},
    {T("null", "[2]", "[0,8]"), "dtype"},
    {T("\"F32\"", "2", "[0,8]"), "shape"},
    {T("\"F32\"", "[-2]", "[0,8]"), "0"},
    {T("\"F32\"", "[1,-2]", "[0,8]"), "1"},
    {T("\"F32\"", "[2.0]", "[0,8]"), "0"},
    {T("\"F32\"", "[\"2\"]", "[0,8]"), "0"},
    {T("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]"), "9"},
    {T("\"F32\"", "[9223372036854775807]", "[0,8]"), "9223372036854775807"}, /* bits overflow */
    {T("\"U8\"", "[2305843009213693960]", "[0,8]"), "2305843009213693960"},  /* 8 bytes modulo 2^64 bits */
    {T("\"F32\"", "[4611686018427387904,2]", "[0,8]"), "2^63"},              /* the product overflows */
    {T("\"F32\"", "[4294967296,4294967296]", "[0,8]"), "2^63"},
    {T("\"F32\"", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), "2^63"},
    {T("\"F32\"", "[9223372036854775808]", "[0,8]"), "9223372036854775808"},   /* 2^63 */
    {T("\"F32\"", "[18446744073709551618]", "[0,8]"), "18446744073709551618"}, /* 2 modulo 2^64 */
    {T("\"U8\"", "[8]", "[0,9223372036854775807]"), "9223372036854775807"},
    {T("\"U8\"", "[8]", "[0,18446744073709551616]"), "18446744073709551616"},
    {T("\"U8\"", "[8]", "[-8,0]"), "data_offsets"},
    {T("\"U8\"", "[8]", "[8,0]"), "data_offsets"},
    {T("\"U8\"", "[8]", "[0]"), "data_offsets"},
    {T("\"U8\"", "[8]", "[0,8,8]"), "data_offsets"},
    {T("\"U8\"", "[8]", "[0,8.0]"), "data_offsets"},
    {T("\"U8\"", "[8]", "{\"0\":0}"), "data_offsets"},
    {T("\"U8\"", "[7]", "[1,8]"), "0 1"}, /* a gap at the start */
    {T("\"U8\"", "[7]", "[0,7]"), "1"},   /* unused bytes at the end */
    {"{}", "8"},
    {AB("[4],\"data_offsets\":[0,4]", "[5],\"data_offsets\":[3,8]"), "overlap"},
    {AB("[8],\"data_offsets\":[0,8]", "[8],\"data_offsets\":[0,8]"), "overlap"},
    {AB("[8],\"data_offsets\":[0,8]", "[2],\"data_offsets\":[3,5]"), "overlap"},
    {AB("[8],\"data_offsets\":[0,8]", "[0],\"data_offsets\":[4,4]"), "overlap"},
    {AB("[3],\"data_offsets\":[0,3]", "[4],\"data_offsets\":[4,8]"), "3 4"},
    {AB("[4],\"data_offsets\":[0,4]", "[4]"), "'b'"},
    {"{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,8]}}", "shape"},
    {"{\"x\":{\"shape\":[8],\"data_offsets\":[0,8]}}", "dtype"},
    {"{\"x\":[]}", "'x' JSON"},
    {"{\"x\":7}", "'x' JSON"},
    {"{" ONE("x", "0,4") "," ONE("x", "4,8") "}", "duplicate"},
    {"{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}", "duplicate"},
    {"{\"__metadata__\":[]}", "__metadata__"},
    {"{\"__metadata__\":{\"k\":7}}", "__metadata__"},
    {"[]", ""},
    {"7", "JSON"},
    {"", "JSON"},
    {"{", "JSON"},
    {"{\"x\":", "JSON"},
    {"{} {}", "JSON"},
    {"{\"\xff\":{}}", "JSON"},
    {"{\"a\\u0000b\":{}}", "JSON"},
};

START_TEST(test_header_lies)
{
    write_file("x.safetensors", lies[_i].header, "01234567", 8);
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, lies[_i].piece, "x.safetensors");
}
END_TEST

START_TEST(test_nesting)
{
    enum { DEPTH = 100000 };
    char *header = malloc(DEPTH + 1);
    memset(header, '[', DEPTH);
    header[DEPTH] = '\0';
    write_file("x.safetensors", header, NULL, 0);
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, "JSON", "x.safetensors");
    free(header);
}
END_TEST

/* A valid file that is cut at any byte is refused, as is one with an extra byte. */
START_TEST(test_truncated)
{
    write_mixed("x.safetensors");
    struct stat st;
    ck_assert_int_eq(stat(at("x.safetensors"), &st), 0);
    for (off_t n = st.st_size - 1; n >= 0; n--) {
        ck_assert_int_eq(truncate(at("x.safetensors"), n), 0);
        refused(at("x.safetensors"), ZERO_ERR_FORMAT, "x.safetensors", "");
    }
    write_mixed("x.safetensors");
    ck_assert_int_eq(truncate(at("x.safetensors"), st.st_size + 1), 0);
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, "1", "x.safetensors");
}
END_TEST

/* Truncated after it was opened: an error that says so, not a signal. */
START_TEST(test_cut_while_open)
{
    write_mixed("x.safetensors");
    zero_tensors_t *t = opened(at("x.safetensors"));
    ck_assert_int_eq(truncate(at("x.safetensors"), (off_t)sizeof mixed_header - 1 + 8 + 20), 0);
    zero_error_t error;
    float out[8];
    ck_assert_int_eq(zero_tensors_read(t, zero_tensors_find(t, "w"), 0, 6, out, &error), ZERO_ERR_IO);
    ck_assert(has_names(error.text, "x.safetensors") && has_names(error.text, "7"));
    ck_assert_int_eq(zero_tensors_read(t, zero_tensors_find(t, "half"), 0, 5, out, &error), ZERO_ERR_IO);
    ck_assert_int_eq(zero_tensors_read(t, zero_tensors_find(t, "w"), 0, 4, out, &error), ZERO_OK);
    zero_tensors_close(t);
}
END_TEST

START_TEST(test_announced_length)
{
    static const unsigned char announced[][8] = {
        {255, 255, 255, 255, 255, 255, 255, 255}, {0, 0, 0, 0, 0, 0, 0, 128}, {3}, {1, 225, 245, 5}, {0, 0, 0, 0, 1},
    };
    for (size_t k = 0; k < sizeof announced / sizeof announced[0]; k++) {
        char bytes[10];
        memcpy(bytes, announced[k], 8);
        memcpy(bytes + 8, "{}", 2);
        write_bytes("x.safetensors", bytes, 10);
        refused(at("x.safetensors"), ZERO_ERR_FORMAT, "", "x.safetensors");
    }
    /* As long as the header says (sparse), but above the limit. */
    write_bytes("x.safetensors", "\x01\xe1\xf5\x05\0\0\0\0{}", 10); /* 100000001 */
    ck_assert_int_eq(truncate(at("x.safetensors"), 100000009), 0);
    refused(at("x.safetensors"), ZERO_ERR_FORMAT, "100000001", "x.safetensors");
}
END_TEST

START_TEST(test_no_file)
{
    refused(at("absent.safetensors"), ZERO_ERR_IO, "absent.safetensors", "");
    refused(at("absent.json"), ZERO_ERR_IO, "absent.json", "");
    refused("", ZERO_ERR_IO, "''", "");
    refused(folder, ZERO_ERR_IO, "model.safetensors.index.json", folder);
    ck_assert_int_eq(mkfifo(at("pipe"), 0600), 0);
    refused(at("pipe"), ZERO_ERR_IO, "pipe", ""); /* does not wait for a writer */
    refused("/dev/null", ZERO_ERR_IO, "/dev/null", "");
    ck_assert_int_eq(mkdir(at("sub"), 0700), 0);
    write_index("odd.index.json", "{\"p\":\"sub\"}");
    refused(at("odd.index.json"), ZERO_ERR_IO, "", "");
    ck_assert_int_eq(zero_tensors_open(NULL, folder, NULL), ZERO_ERR_ARG);
    zero_tensors_t *t;
    ck_assert_int_eq(zero_tensors_open(&t, NULL, NULL), ZERO_ERR_ARG);
}
END_TEST

/* No descriptor stays open, also after failures. */
START_TEST(test_descriptors)
{
    int before = dup(0);
    close(before);
    write_shards();
    write_index("odd.index.json", "{\"p\":\"a.safetensors\",\"absent\":\"b.safetensors\"}");
    refused(at("odd.index.json"), ZERO_ERR_FORMAT, "'absent'", "");
    write_index("odd.index.json", "{\"p\":\"a.safetensors\",\"m\":\"b.safetensors\",\"q\":\"b.safetensors\"}");
    zero_tensors_close(opened(at("odd.index.json")));
    write_file("a.safetensors", "{", NULL, 0);
    refused(at("a.safetensors"), ZERO_ERR_FORMAT, "JSON", "");
    refused("/dev/null", ZERO_ERR_IO, "", "");
    int after = dup(0);
    close(after);
    ck_assert_int_eq(before, after);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensors");
    TCase *tcase = tcase_create("tensors");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, make_folder, remove_folder);
    tcase_add_test(tcase, test_good);
    tcase_add_test(tcase, test_large);
    tcase_add_test(tcase, test_empty_header);
    tcase_add_test(tcase, test_empty_tensors);
    tcase_add_test(tcase, test_index);
    tcase_add_test(tcase, test_index_lies);
    tcase_add_test(tcase, test_index_unlisted);
    tcase_add_test(tcase, test_pointer);
    tcase_add_loop_test(tcase, test_header_lies, 0, sizeof lies / sizeof lies[0]);
    tcase_add_test(tcase, test_nesting);
    tcase_add_test(tcase, test_truncated);
    tcase_add_test(tcase, test_cut_while_open);
    tcase_add_test(tcase, test_announced_length);
    tcase_add_test(tcase, test_no_file);
    tcase_add_test(tcase, test_descriptors);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
