/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - zero_tensors_*: the tensors of one safetensors file, or of several that an index names. */
#include "zero/checkpoint/files.h"
#include "zero/checkpoint/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors data are little-endian, and are read here as they lie in the file"
#endif

struct zero_tensors {
    zero_safetensors_t *files;
    int file_count;
    zero_tensor_entry_t *entries; /* sorted by name */
    int count;
};

/* Elements of a 16-bit dtype that are widened at once. */
enum { CHUNK = 4096 };

static zero_status_t no_memory(const char *path, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory to open '%s'", path);
}

static zero_status_t open_single(zero_tensors_t *tensors, const char *path, zero_error_t *error)
{
    tensors->files = calloc(1, sizeof *tensors->files);
    if (!tensors->files)
        return no_memory(path, error);
    zero_status_t status = zero_safetensors_open(&tensors->files[0], path, error);
    if (status != ZERO_OK)
        return status;
    tensors->file_count = 1;
    tensors->count = tensors->files[0].count;
    tensors->entries = calloc((size_t)tensors->count + 1, sizeof *tensors->entries);
    if (!tensors->entries)
        return no_memory(path, error);
    memcpy(tensors->entries, tensors->files[0].entries, (size_t)tensors->count * sizeof *tensors->entries);
    return ZERO_OK;
}

/* Reads the index; the caller frees the text. */
static zero_status_t read_index(const char *path, char **text, size_t *length, zero_error_t *error)
{
    int fd;
    uint64_t bytes = 0;
    zero_safetensors_t file = {.fd = -1}; /* used to close fd */
    zero_status_t status = zero_open_file(path, &fd, &bytes, error);
    if (status != ZERO_OK)
        return status;
    file.fd = fd;
    *text = NULL;
    *length = (size_t)bytes;
    if (bytes > ZERO_HEADER_MOST)
        status = zero_fail(error, ZERO_ERR_FORMAT, "the index '%s' has %llu bytes, but at most %u are read", path,
                           (unsigned long long)bytes, ZERO_HEADER_MOST);
    else if (!(*text = malloc((size_t)bytes + 1)))
        status = no_memory(path, error);
    else
        status = zero_read_file(fd, path, 0, *text, bytes, error);
    zero_safetensors_close(&file);
    if (status != ZERO_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

/* Opens the shard with this name in the index's folder unless it is open, and gives its number. folder_length: length
 * of the folder in index_path. */
static zero_status_t open_shard(zero_tensors_t *tensors, const char *index_path, size_t folder_length, const char *name,
                                int *number, zero_error_t *error)
{
    zero_quoted_t quoted;
    /* Only files in the index's folder are allowed: an index from elsewhere must not make us read '../../secret'. */
    if (!zero_is_file_name(name))
        return zero_fail(error, ZERO_ERR_FORMAT, "'%s': the shard '%s' is not the name of a file in the index's folder",
                         index_path, zero_quote(&quoted, name));
    char *path = zero_join_path(index_path, folder_length, name);
    if (!path)
        return no_memory(index_path, error);
    zero_status_t status = ZERO_OK;
    for (int f = tensors->file_count - 1; f >= 0; f--) /* usually the last one */
        if (strcmp(tensors->files[f].path, path) == 0) {
            *number = f;
            goto end;
        }
    zero_safetensors_t *files = realloc(tensors->files, ((size_t)tensors->file_count + 1) * sizeof *files);
    if (!files) {
        status = no_memory(path, error);
        goto end;
    }
    tensors->files = files;
    status = zero_safetensors_open(&files[tensors->file_count], path, error);
    if (status == ZERO_OK)
        *number = tensors->file_count++;

end:
    free(path);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const zero_tensor_entry_t *)a)->info.name, ((const zero_tensor_entry_t *)b)->info.name);
}

/* Checks that the index lists every tensor of every shard for that shard; a missing one would be lost silently. The
 * entries are sorted. */
static zero_status_t check_listed(const zero_tensors_t *tensors, const char *path, zero_error_t *error)
{
    int64_t held = 0;
    zero_quoted_t name;
    for (int f = 0; f < tensors->file_count; f++)
        held += tensors->files[f].count;
    if (held == tensors->count) /* entries are distinct tensors of the shards, so all are listed */
        return ZERO_OK;
    for (int f = 0; f < tensors->file_count; f++)
        for (int k = 0; k < tensors->files[f].count; k++) {
            const char *own = tensors->files[f].entries[k].info.name;
            const zero_tensor_entry_t *entry = zero_safetensors_find(tensors->entries, tensors->count, own);
            zero_quote(&name, own);
            if (!entry)
                return zero_fail(
                    error, ZERO_ERR_FORMAT,
                    "tensor '%s' of '%s' is not listed in the index '%s': list it, or remove it from the file",
                    name.text, tensors->files[f].path, path);
            if (entry->file != f)
                return zero_fail(
                    error, ZERO_ERR_FORMAT,
                    "tensor '%s' is in '%s' and, as the index '%s' says, in '%s': remove it from the first", name.text,
                    tensors->files[f].path, path, tensors->files[entry->file].path);
        }
    return ZERO_OK;
}

static zero_status_t open_index(zero_tensors_t *tensors, const char *path, zero_error_t *error)
{
    const char *slash = strrchr(path, '/'), *name;
    size_t folder_length = slash ? (size_t)(slash - path) + 1 : 0, length = 0;
    zero_quoted_t quoted, shard;
    json_error_t json_error;
    char *text = NULL;
    json_t *root = NULL, *map, *value;

    zero_status_t status = read_index(path, &text, &length, error);
    if (status != ZERO_OK)
        return status;
    root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    free(text);
    if (!root)
        return zero_fail(error, ZERO_ERR_FORMAT, "the index '%s' is not JSON: %s (line %d)", path,
                         zero_quote(&quoted, json_error.text), json_error.line);
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map)) {
        status = zero_fail(error, ZERO_ERR_FORMAT, "the index '%s' has no \"weight_map\" object", path);
        goto end;
    }
    tensors->entries = calloc(json_object_size(map) + 1, sizeof *tensors->entries);
    if (!tensors->entries) {
        status = no_memory(path, error);
        goto end;
    }
    json_object_foreach(map, name, value)
    {
        int number = 0;
        zero_quote(&quoted, name);
        if (!json_is_string(value)) {
            status = zero_fail(error, ZERO_ERR_FORMAT, "'%s': the shard of tensor '%s' is not a file name", path,
                               quoted.text);
            goto end;
        }
        status = open_shard(tensors, path, folder_length, json_string_value(value), &number, error);
        if (status != ZERO_OK)
            goto end;
        const zero_safetensors_t *file = &tensors->files[number];
        const zero_tensor_entry_t *entry = zero_safetensors_find(file->entries, file->count, name);
        if (!entry) {
            status =
                zero_fail(error, ZERO_ERR_FORMAT, "'%s' says that tensor '%s' is in '%s', which has no such tensor",
                          path, quoted.text, zero_quote(&shard, json_string_value(value)));
            goto end;
        }
        tensors->entries[tensors->count] = *entry;
        tensors->entries[tensors->count++].file = number;
    }
    qsort(tensors->entries, (size_t)tensors->count, sizeof *tensors->entries, by_name);
    status = check_listed(tensors, path, error);

end:
    json_decref(root);
    return status;
}

static zero_status_t open_folder(zero_tensors_t *tensors, const char *folder, zero_error_t *error)
{
    struct stat st;
    zero_status_t status;
    char *single = zero_join_path(folder, strlen(folder), "model.safetensors");
    char *index = zero_join_path(folder, strlen(folder), "model.safetensors.index.json");
    if (!single || !index)
        status = no_memory(folder, error);
    else if (stat(single, &st) == 0)
        status = open_single(tensors, single, error);
    else if (stat(index, &st) == 0)
        status = open_index(tensors, index, error);
    else
        status = zero_fail(error, ZERO_ERR_IO,
                           "the folder '%s' has neither model.safetensors nor model.safetensors.index.json", folder);
    free(single);
    free(index);
    return status;
}

zero_status_t zero_tensors_open(zero_tensors_t **tensors, const char *path, zero_error_t *error)
{
    if (!tensors || !path)
        return zero_fail(error, ZERO_ERR_ARG, "zero_tensors_open needs a path and an address for the result");
    *tensors = NULL;
    struct stat st;
    zero_status_t status;
    size_t length = strlen(path);
    zero_tensors_t *opened = calloc(1, sizeof *opened);
    if (!opened)
        return no_memory(path, error);
    if (stat(path, &st) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        status = open_folder(opened, path, error);
    else if (length > 5 && strcmp(path + length - 5, ".json") == 0)
        status = open_index(opened, path, error);
    else
        status = open_single(opened, path, error);
    if (status != ZERO_OK) {
        zero_tensors_close(opened);
        return status;
    }
    *tensors = opened;
    return ZERO_OK;
}

int zero_tensors_count(const zero_tensors_t *tensors)
{
    return tensors ? tensors->count : 0;
}

zero_status_t zero_tensors_at(const zero_tensors_t *tensors, int index, zero_tensor_info_t *info)
{
    if (!tensors || index < 0 || index >= tensors->count ||
        zero_struct_check(info, ZERO_UP_TO(zero_tensor_info_t, count), "zero_tensor_info_t", NULL))
        return ZERO_ERR_ARG;
    zero_struct_init(info, info->size, &tensors->entries[index].info, sizeof *info);
    return ZERO_OK;
}

int zero_tensors_find(const zero_tensors_t *tensors, const char *name)
{
    if (!tensors || !name)
        return -1;
    const zero_tensor_entry_t *entry = zero_safetensors_find(tensors->entries, tensors->count, name);
    return entry ? (int)(entry - tensors->entries) : -1;
}

static void widen(float *out, const uint16_t *values, int64_t count, bool bf16)
{
    if (bf16)
        for (int64_t i = 0; i < count; i++)
            out[i] = zero_bf16_to_fp32(values[i]);
    else
        for (int64_t i = 0; i < count; i++)
            out[i] = zero_fp16_to_fp32(values[i]);
}

zero_status_t zero_tensors_read(const zero_tensors_t *tensors, int index, int64_t begin, int64_t count, float *out,
                                zero_error_t *error)
{
    zero_quoted_t name;
    if (!tensors || index < 0 || index >= tensors->count)
        return zero_fail(error, ZERO_ERR_ARG, "there is no tensor number %d: the file has %d", index,
                         zero_tensors_count(tensors));
    if (!out && count > 0)
        return zero_fail(error, ZERO_ERR_ARG, "zero_tensors_read has no buffer for the elements");
    const zero_tensor_entry_t *entry = &tensors->entries[index];
    const zero_safetensors_t *file = &tensors->files[entry->file];
    zero_quote(&name, entry->info.name);
    if (begin < 0 || count < 0 || begin > entry->info.count || count > entry->info.count - begin)
        return zero_fail(
            error, ZERO_ERR_ARG, "elements [%lld, %lld + %lld) are not in tensor '%s' of '%s', which has %lld",
            (long long)begin, (long long)begin, (long long)count, name.text, file->path, (long long)entry->info.count);
    if (strcmp(entry->info.dtype, "F32") == 0)
        return zero_read_file(file->fd, file->path, entry->offset + (uint64_t)begin * 4, out, (uint64_t)count * 4,
                              error);

    bool bf16 = strcmp(entry->info.dtype, "BF16") == 0;
    if (!bf16 && strcmp(entry->info.dtype, "F16") != 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "tensor '%s' of '%s' is %s: only F32, BF16 and F16 can be converted to fp32", name.text,
                         file->path, entry->info.dtype);
    /* One read into the second half of out, which is as long as the stored values. Widening follows from the front, a
     * chunk at a time: its end never passes the values that are still to come. */
    char *stored = (char *)out + (size_t)count * sizeof(uint16_t);
    zero_status_t status =
        zero_read_file(file->fd, file->path, entry->offset + (uint64_t)begin * 2, stored, (uint64_t)count * 2, error);
    for (int64_t done = 0; done < count && status == ZERO_OK; done += CHUNK) {
        const int64_t n = count - done < CHUNK ? count - done : CHUNK;
        uint16_t chunk[CHUNK];
        memcpy(chunk, stored + (size_t)done * sizeof *chunk, (size_t)n * sizeof *chunk);
        widen(out + done, chunk, n, bf16);
    }
    return status;
}

const char *zero_tensors_metadata(const zero_tensors_t *tensors, const char *key)
{
    if (!tensors || !key || tensors->file_count == 0)
        return NULL;
    return json_string_value(json_object_get(tensors->files[0].metadata, key));
}

void zero_tensors_close(zero_tensors_t *tensors)
{
    if (!tensors)
        return;
    for (int f = 0; f < tensors->file_count; f++)
        zero_safetensors_close(&tensors->files[f]);
    free(tensors->files);
    free(tensors->entries);
    free(tensors);
}
