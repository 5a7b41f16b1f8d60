/* SPDX-License-Identifier: Apache-2.0 */
#include "train/data_format.h"
#include "models/model.h"

#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 1024, MAGIC_NARROW = 20240520, MAGIC_WIDE = 20240801 };

static const unsigned char npy_magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

/* The file, for error sentences. */
typedef struct source {
    const char *option, *path;
    zero_error_t *error;
} source_t;

#define WRONG(source, format, ...) \
    zero_fail((source)->error, ZERO_ERR_FORMAT, "%s '%s' " format, (source)->option, (source)->path, __VA_ARGS__)

static bool ends_in(const char *path, const char *ending)
{
    size_t length = strlen(path), n = strlen(ending);
    return length >= n && strcmp(path + length - n, ending) == 0;
}

static int32_t magic_of(const unsigned char *head, int64_t size)
{
    int32_t magic = 0;
    if (size >= (int64_t)sizeof magic)
        memcpy(&magic, head, sizeof magic);
    return magic;
}

static zero_status_t check_size(const source_t *from, const data_format_t *f, int64_t size)
{
    int64_t bytes;
    if (__builtin_mul_overflow(f->count, (int64_t)f->width, &bytes) || __builtin_add_overflow(bytes, f->start, &bytes))
        return WRONG(from, "has a header that says %lld tokens, more than any file has", (long long)f->count);
    if (size == bytes)
        return ZERO_OK;
    return WRONG(from, "%s: its header says %lld tokens, which is a file of %lld bytes, but it has %lld",
                 size < bytes ? "is truncated" : "is longer than its header says", (long long)f->count,
                 (long long)bytes, (long long)size);
}

static zero_status_t token_file(const source_t *from, data_format_t *f, const unsigned char *head, int64_t size)
{
    int32_t header[3];
    if (size < HEADER_BYTES)
        return WRONG(from, "is truncated: it has %lld bytes, and the header of a token file alone has %d",
                     (long long)size, HEADER_BYTES);
    memcpy(header, head, sizeof header);
    int wanted = header[0] == MAGIC_NARROW ? 1 : 7;
    if (header[1] != wanted)
        return WRONG(from, "has version %d, but must have %d with magic number %d", header[1], wanted, header[0]);
    if (header[2] < 0)
        return WRONG(from, "says that it has %d tokens", header[2]);
    *f = (data_format_t){.name = wanted == 1 ? "a token file of uint16" : "a token file of uint32",
                         .index = true,
                         .width = wanted == 1 ? 2 : 4,
                         .start = HEADER_BYTES,
                         .count = header[2]};
    return check_size(from, f, size);
}

/* ---- numpy arrays: a Python dictionary of three keys, {'descr': '<u2', 'fortran_order': False, 'shape': (7,)} */

static const char *skip_blank(const char *p)
{
    return p + strspn(p, " \n");
}

/* The start of a key's value. NULL: there is no such key. Nothing else in the header looks like a quoted key and a
 * colon. */
static const char *npy_value(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *p = strstr(text, key); p != NULL; p = strstr(p + 1, key)) {
        const char *after = p + length;
        if (p == text || (p[-1] != '\'' && p[-1] != '"') || *after != p[-1])
            continue;
        after = skip_blank(after + 1);
        if (*after == ':')
            return skip_blank(after + 1);
    }
    return NULL;
}

static zero_status_t npy_shape(const source_t *from, const char *shape, int64_t *count)
{
    char *end;
    if (*shape == '(')
        shape = skip_blank(shape + 1);
    else
        shape = "";
    if (*shape >= '0' && *shape <= '9') {
        *count =
            strtoll(shape, &end, 10); /* strtoll clamps larger numbers to 63 bits, and check_size refuses that value */
        shape = skip_blank(end);
        if (*shape == ',' && *skip_blank(shape + 1) == ')')
            return ZERO_OK;
    }
    return WRONG(from, "is a numpy array of another shape than (n,): save one dimension, as %s", "tokens.ravel()");
}

static zero_status_t npy_array(const source_t *from, data_format_t *f, const unsigned char *head, int64_t size)
{
    static const struct {
        const char *descr, *name;
        int width;
        bool negative;
    } types[] = {
        {"|u1", "a numpy array of uint8", 1, false},  {"<u2", "a numpy array of uint16", 2, false},
        {"<u4", "a numpy array of uint32", 4, false}, {"<i4", "a numpy array of int32", 4, true},
        {"<i8", "a numpy array of int64", 8, true},
    };
    char text[DATA_HEAD_BYTES], descr[16] = "";
    const int version = size > 6 ? head[6] : 0;
    const int64_t start = version == 1 ? 10 : 12;
    const int64_t readable = size < DATA_HEAD_BYTES ? size : DATA_HEAD_BYTES;
    int64_t length;
    if (version < 1 || version > 3)
        return WRONG(from, "is a numpy array of version %d, but must be of 1 to 3", version);
    if (size < start)
        return WRONG(from, "is truncated: it has %lld bytes, fewer than the header of a numpy array", (long long)size);
    length = head[8] | head[9] << 8;
    if (version > 1)
        length |= (int64_t)head[10] << 16 | (int64_t)head[11] << 24;
    if (length > size - start)
        return WRONG(from, "is truncated: it has %lld bytes, and its header alone has %lld", (long long)size,
                     (long long)(start + length));
    if (length > readable - start)
        return WRONG(from, "is a numpy array with a header of %lld bytes, at most %d are read", (long long)length,
                     (int)(DATA_HEAD_BYTES - start));
    memcpy(text, head + start, (size_t)length);
    text[length] = '\0';
    f->start = start + length;

    const char *type = npy_value(text, "descr"), *shape = npy_value(text, "shape");
    if (type == NULL || shape == NULL)
        return WRONG(from, "is a numpy array whose header has no '%s'", type == NULL ? "descr" : "shape");
    if (*type == '\'' || *type == '"')
        for (size_t n = 0; n + 1 < sizeof descr && type[1 + n] > ' ' && type[1 + n] < 127 && type[1 + n] != *type; n++)
            descr[n] = type[1 + n];
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(descr, types[i].descr) == 0) {
            f->name = types[i].name;
            f->width = types[i].width;
            f->negative = types[i].negative;
        }
    if (f->width == 0)
        return WRONG(from,
                     "is a numpy array of dtype '%s', but must be of uint8, uint16, uint32, int32 or int64, "
                     "little-endian: save tokens.astype('uint16') or 'uint32'",
                     descr[0] != '\0' ? descr : "with fields");
    zero_status_t status = npy_shape(from, shape, &f->count);
    return status == ZERO_OK ? check_size(from, f, size) : status;
}

zero_status_t data_format_find(data_format_t *format, const char *option, const char *path, const unsigned char *head,
                               int64_t size, zero_error_t *error)
{
    const source_t from = {option, path, error};
    const int32_t magic = magic_of(head, size);
    memset(format, 0, sizeof *format);
    if (zero_model_is_pointer((const char *)head, (size_t)(size < DATA_HEAD_BYTES ? size : DATA_HEAD_BYTES)))
        return WRONG(&from, "is a git-lfs pointer, not the file: run %s in its folder", "git lfs pull");
    if (magic == MAGIC_NARROW || magic == MAGIC_WIDE)
        return token_file(&from, format, head, size);
    if (size >= 8 && memcmp(head, "zeroidx1", 8) == 0)
        return WRONG(&from, "is an index of documents: name the token file beside it, which ends in %s", ".bin");
    if (size >= (int64_t)sizeof npy_magic && memcmp(head, npy_magic, sizeof npy_magic) == 0)
        return npy_array(&from, format, head, size);
    if (ends_in(path, ".bin"))
        return WRONG(
            &from, "is not a token file: its magic number is %d, but must be %d or %d (text files do not end in .bin)",
            magic, MAGIC_NARROW, MAGIC_WIDE);
    if (ends_in(path, ".npy"))
        return WRONG(&from, "is not a numpy array: its first bytes differ (%s)", "text files do not end in .npy");
    const bool lines = ends_in(path, ".jsonl") || ends_in(path, ".ndjson");
    *format =
        (data_format_t){.name = lines ? "JSON lines" : "text", .lines = lines, .text = true, .width = 1, .count = size};
    return ZERO_OK;
}
