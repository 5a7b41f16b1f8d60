/* SPDX-License-Identifier: Apache-2.0 */
#include "zero/checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* The format's dtypes, with their bits: some are smaller than a byte. */
static const struct {
    const char *name;
    uint32_t bits;
} dtypes[] = {{"F32", 32}, {"BF16", 16},   {"F16", 16},    {"F64", 64},    {"I64", 64},    {"I32", 32},   {"I16", 16},
              {"I8", 8},   {"U64", 64},    {"U32", 32},    {"U16", 16},    {"U8", 8},      {"BOOL", 8},   {"C64", 64},
              {"F4", 4},   {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}};

uint32_t zero_tensor_bits(const char *dtype)
{
    for (size_t k = 0; k < sizeof dtypes / sizeof dtypes[0]; k++)
        if (strcmp(dtype, dtypes[k].name) == 0)
            return dtypes[k].bits;
    return 0;
}

const char *zero_quote(zero_quoted_t *quoted, const char *text)
{
    size_t n = 0;
    for (; n < sizeof quoted->text - 4 && text[n] != '\0'; n++)
        quoted->text[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n];
    strcpy(quoted->text + n, text[n] != '\0' ? "..." : "");
    return quoted->text;
}

zero_status_t zero_open_file(const char *path, int *fd, uint64_t *bytes, zero_error_t *error)
{
    struct stat st;
    zero_status_t status;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a named pipe would block */
    if (*fd < 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(*fd, &st) != 0) {
        status = zero_fail(error, ZERO_ERR_IO, "cannot stat '%s': %s", path, strerror(errno));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        status = zero_fail(error, ZERO_ERR_IO, "'%s' is %s, not a file", path,
                           S_ISDIR(st.st_mode) ? "a folder" : "a device, pipe or socket");
        goto fail;
    }
    *bytes = (uint64_t)st.st_size;
    /* the file that a clone without git-lfs has instead */
    static const char pointer[] = "version https://git-lfs.github.com/spec/";
    char first[sizeof pointer - 1];
    if (pread(*fd, first, sizeof first, 0) == (ssize_t)sizeof first && memcmp(first, pointer, sizeof first) == 0) {
        status = zero_fail_reason(error, ZERO_ERR_FORMAT, ZERO_REASON_LFS_POINTER, -1,
                                  "'%s' is a git-lfs pointer, not the file: run git lfs pull in its folder", path);
        goto fail;
    }
    return ZERO_OK;

fail:
    close(*fd);
    *fd = -1;
    return status;
}

zero_status_t zero_read_file(int fd, const char *path, uint64_t offset, void *out, uint64_t bytes, zero_error_t *error)
{
    char *to = out;
    while (bytes > 0) {
        /* Linux reads slightly less than 2^31 bytes at once. */
        ssize_t n = pread(fd, to, bytes < (1u << 30) ? (size_t)bytes : 1u << 30, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot read '%s' at byte %llu: %s", path, (unsigned long long)offset,
                             strerror(errno));
        if (n == 0)
            return zero_fail(error, ZERO_ERR_IO,
                             "'%s' ends at byte %llu, %llu bytes early: it was truncated after it was opened", path,
                             (unsigned long long)offset, (unsigned long long)bytes);
        to += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return ZERO_OK;
}

/* Names for the error messages about one tensor. */
typedef struct source {
    const char *path;
    zero_error_t *error;
    zero_quoted_t name;
} source_t;

#define FORMAT_ERROR(source, ...) zero_fail((source)->error, ZERO_ERR_FORMAT, __VA_ARGS__)

static zero_status_t parse_dtype(source_t *from, const json_t *value, zero_tensor_info_t *info, uint64_t *bits)
{
    zero_quoted_t found;
    if (!json_is_string(value))
        return FORMAT_ERROR(from, "'%s': tensor '%s' has no \"dtype\" string", from->path, from->name.text);
    const char *text = json_string_value(value);
    *bits = zero_tensor_bits(text);
    if (*bits > 0) {
        strcpy(info->dtype, text);
        return ZERO_OK;
    }
    return FORMAT_ERROR(from, "'%s': tensor '%s' has the unknown dtype '%s' (F32, BF16 and F16 can be read)",
                        from->path, from->name.text, zero_quote(&found, text));
}

static zero_status_t parse_shape(source_t *from, const json_t *value, zero_tensor_info_t *info)
{
    if (!json_is_array(value))
        return FORMAT_ERROR(from, "'%s': tensor '%s' has no \"shape\" array", from->path, from->name.text);
    size_t ndim = json_array_size(value);
    if (ndim > ZERO_MAX_DIMS)
        return FORMAT_ERROR(from, "'%s': tensor '%s' has %zu dimensions, at most %d are read", from->path,
                            from->name.text, ndim, ZERO_MAX_DIMS);
    info->ndim = (int32_t)ndim;
    info->count = 1;
    for (size_t d = 0; d < ndim; d++) {
        const json_t *size = json_array_get(value, d);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return FORMAT_ERROR(from, "'%s': dimension %zu of tensor '%s' is not a whole number from 0", from->path, d,
                                from->name.text);
        info->shape[d] = json_integer_value(size);
        if (!zero_mul_i64(info->count, info->shape[d], &info->count))
            return FORMAT_ERROR(from, "'%s': the shape of tensor '%s' has more than 2^63 elements", from->path,
                                from->name.text);
    }
    return ZERO_OK;
}

/* Sets entry->offset relative to the start of the data; parse_header makes it absolute once the header is valid. */
static zero_status_t parse_range(source_t *from, const json_t *value, uint64_t bits, uint64_t data_bytes,
                                 zero_tensor_entry_t *entry)
{
    const json_t *first = json_array_get(value, 0),
                 *last = json_array_get(value, 1); /* NULL unless value is an array */
    if (json_array_size(value) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        return FORMAT_ERROR(from, "'%s': the \"data_offsets\" of tensor '%s' are not two rising whole numbers from 0",
                            from->path, from->name.text);
    uint64_t begin = (uint64_t)json_integer_value(first), end = (uint64_t)json_integer_value(last), total_bits;
    if (end > data_bytes)
        return FORMAT_ERROR(
            from,
            "'%s': tensor '%s' ends at byte %llu of the data, which has %llu bytes: the file is cut or its "
            "header is wrong",
            from->path, from->name.text, (unsigned long long)end, (unsigned long long)data_bytes);
    if (!zero_mul_u64((uint64_t)entry->info.count, bits, &total_bits) || total_bits % 8 != 0 ||
        total_bits / 8 != end - begin)
        return FORMAT_ERROR(from, "'%s': tensor '%s' has %llu bytes, which are not %lld elements of %s, %llu bits each",
                            from->path, from->name.text, (unsigned long long)(end - begin),
                            (long long)entry->info.count, entry->info.dtype, (unsigned long long)bits);
    entry->offset = begin;
    entry->bytes = end - begin;
    return ZERO_OK;
}

static zero_status_t parse_tensor(source_t *from, const char *name, const json_t *value, uint64_t data_bytes,
                                  zero_tensor_entry_t *entry)
{
    uint64_t bits = 0;
    zero_status_t status;
    zero_quote(&from->name, name);
    if (!json_is_object(value))
        return FORMAT_ERROR(from, "'%s': tensor '%s' is not a JSON object", from->path, from->name.text);
    if ((status = parse_dtype(from, json_object_get(value, "dtype"), &entry->info, &bits)) != ZERO_OK ||
        (status = parse_shape(from, json_object_get(value, "shape"), &entry->info)) != ZERO_OK ||
        (status = parse_range(from, json_object_get(value, "data_offsets"), bits, data_bytes, entry)) != ZERO_OK)
        return status;
    char *copy = strdup(name);
    if (!copy)
        return zero_fail(from->error, ZERO_ERR_MEMORY, "no memory for the names in '%s'", from->path);
    entry->info.name = copy;
    return ZERO_OK;
}

static zero_status_t take_metadata(source_t *from, zero_safetensors_t *file, json_t *value)
{
    const char *key;
    json_t *text;
    zero_quoted_t quoted;
    if (!json_is_object(value))
        return FORMAT_ERROR(from, "'%s': \"__metadata__\" is not a JSON object", from->path);
    json_object_foreach(value, key, text) if (!json_is_string(text)) return FORMAT_ERROR(
        from, "'%s': \"__metadata__\" has a value that is not text: '%s'", from->path, zero_quote(&quoted, key));
    file->metadata = json_incref(value);
    return ZERO_OK;
}

static int by_offset(const void *a, const void *b)
{
    const zero_tensor_entry_t *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* an empty tensor precedes one with the same offset */
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const zero_tensor_entry_t *)a)->info.name, ((const zero_tensor_entry_t *)b)->info.name);
}

/* Checks that the tensors cover the data from its first to its last byte without gaps. Sorts the entries by offset. */
static zero_status_t check_cover(source_t *from, zero_tensor_entry_t *entries, int count, uint64_t data_bytes)
{
    zero_quoted_t before;
    uint64_t end = 0;
    qsort(entries, (size_t)count, sizeof *entries, by_offset);
    for (int k = 0; k < count; k++) {
        zero_quote(&from->name, entries[k].info.name);
        if (entries[k].offset < end)
            return FORMAT_ERROR(
                from, "'%s': tensors '%s' and '%s' overlap: the second begins at byte %llu, the first ends at %llu",
                from->path, zero_quote(&before, entries[k - 1].info.name), from->name.text,
                (unsigned long long)entries[k].offset, (unsigned long long)end);
        if (entries[k].offset > end)
            return FORMAT_ERROR(from, "'%s': no tensor has bytes %llu to %llu of the data, before tensor '%s'",
                                from->path, (unsigned long long)end, (unsigned long long)entries[k].offset,
                                from->name.text);
        end += entries[k].bytes;
    }
    if (end != data_bytes)
        return FORMAT_ERROR(from, "'%s': no tensor has the last %llu bytes of the data", from->path,
                            (unsigned long long)(data_bytes - end));
    return ZERO_OK;
}

/* Fills file->entries from the header's text. data_begin and data_bytes: the place of the data in the file. */
static zero_status_t parse_header(zero_safetensors_t *file, const char *text, size_t length, uint64_t data_begin,
                                  uint64_t data_bytes, zero_error_t *error)
{
    source_t from = {.path = file->path, .error = error};
    zero_quoted_t quoted;
    json_error_t json_error;
    const char *key;
    json_t *value, *root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    zero_status_t status = ZERO_OK;
    if (!root) {
        status = FORMAT_ERROR(&from, "'%s': the header is not valid JSON: %s (byte %d of the header)", file->path,
                              zero_quote(&quoted, json_error.text), json_error.position);
        goto end;
    }
    if (!json_is_object(root)) {
        status = FORMAT_ERROR(&from, "'%s': the header is JSON, but not an object", file->path);
        goto end;
    }
    file->entries = calloc(json_object_size(root) + 1, sizeof *file->entries);
    if (!file->entries) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the %zu tensors of '%s'", json_object_size(root),
                           file->path);
        goto end;
    }
    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
            status = take_metadata(&from, file, value);
        else if ((status = parse_tensor(&from, key, value, data_bytes, &file->entries[file->count])) == ZERO_OK)
            file->count++;
        if (status != ZERO_OK)
            goto end;
    }
    status = check_cover(&from, file->entries, file->count, data_bytes);
    if (status != ZERO_OK)
        goto end;
    for (int k = 0; k < file->count; k++)
        file->entries[k].offset += data_begin;
    qsort(file->entries, (size_t)file->count, sizeof *file->entries, by_name);

end:
    json_decref(root);
    return status;
}

zero_status_t zero_safetensors_open(zero_safetensors_t *file, const char *path, zero_error_t *error)
{
    unsigned char prefix[8];
    uint64_t bytes = 0, length = 0;
    char *text = NULL;
    zero_status_t status;

    *file = (zero_safetensors_t){.fd = -1};
    file->path = strdup(path);
    if (!file->path)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the path of '%s'", path);
    if ((status = zero_open_file(path, &file->fd, &bytes, error)) != ZERO_OK)
        goto fail;
    if (bytes < sizeof prefix) {
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' is not a safetensors file: it has %llu bytes, but the shortest has 10", path,
                           (unsigned long long)bytes);
        goto fail;
    }
    if ((status = zero_read_file(file->fd, path, 0, prefix, sizeof prefix, error)) != ZERO_OK)
        goto fail;
    for (int k = 7; k >= 0; k--)
        length = length << 8 | prefix[k];
    if (length > ZERO_HEADER_MOST) {
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' is not a safetensors file: its header would have %llu bytes, but at most %u are read",
                           path, (unsigned long long)length, ZERO_HEADER_MOST);
        goto fail;
    }
    if (length > bytes - sizeof prefix) {
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' is truncated: its header has %llu bytes, but only %llu bytes follow its length", path,
                           (unsigned long long)length, (unsigned long long)(bytes - sizeof prefix));
        goto fail;
    }
    text = malloc((size_t)length + 1);
    if (!text) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the header of '%s', %llu bytes", path,
                           (unsigned long long)length);
        goto fail;
    }
    if ((status = zero_read_file(file->fd, path, sizeof prefix, text, length, error)) != ZERO_OK ||
        (status = parse_header(file, text, (size_t)length, sizeof prefix + length, bytes - sizeof prefix - length,
                               error)) != ZERO_OK)
        goto fail;
    free(text);
    return ZERO_OK;

fail:
    free(text);
    zero_safetensors_close(file);
    return status;
}

const zero_tensor_entry_t *zero_safetensors_find(const zero_tensor_entry_t *entries, int count, const char *name)
{
    zero_tensor_entry_t key = {.info = {.name = name}};
    return count > 0 ? bsearch(&key, entries, (size_t)count, sizeof *entries, by_name) : NULL;
}

void zero_safetensors_close(zero_safetensors_t *file)
{
    if (!file)
        return;
    for (int k = 0; k < file->count; k++)
        free((char *)file->entries[k].info.name);
    json_decref(file->metadata);
    free(file->entries);
    free(file->path);
    if (file->fd >= 0)
        close(file->fd);
    *file = (zero_safetensors_t){.fd = -1};
}
