/* SPDX-License-Identifier: Apache-2.0 */
/* tensors_write.c - zero_tensors_create, write, finish: safetensors files that several processes write. Each computes
 * the same layout, so they share nothing but the files. */
#include "zero/checkpoint/files.h"
#include "zero/checkpoint/layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PART ".part"
#define ENDING ".safetensors"
#define INDEX ENDING ".index.json"

/* Elements of a 16-bit dtype that are written at once, after they are rounded. */
enum { CHUNK = 32768 };

struct zero_tensors_writer {
    zero_layout_t layout;
    char *folder, *base;
    int *files; /* descriptors of the layout's files; -1: not open */
    bool creator;
};

static zero_status_t no_memory(const char *folder, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory to write tensors to '%s'", folder);
}

/* folder/name and ending as one path; the caller frees it. */
static char *path_of(const zero_tensors_writer_t *writer, const char *name, const char *ending)
{
    size_t room = strlen(writer->folder) + strlen(name) + strlen(ending) + 2;
    char *path = malloc(room);
    if (path)
        snprintf(path, room, "%s/%s%s", writer->folder, name, ending);
    return path;
}

/* The name of the index, or of the only file: through it readers find the set. The caller frees it. */
static char *path_of_head(const zero_tensors_writer_t *writer, bool index, const char *ending)
{
    size_t room = strlen(ending) + sizeof INDEX;
    char *whole = malloc(room), *path;
    if (!whole)
        return NULL;
    snprintf(whole, room, "%s%s", index ? INDEX : ENDING, ending);
    path = path_of(writer, writer->base, whole);
    free(whole);
    return path;
}

/* Creates a file under a name that nothing has, so that no link leads elsewhere. */
static int open_new(const char *path)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return -1;
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

/* ---- create ----------------------------------------------------------------------------------------------------- */

static zero_status_t create_file(zero_tensors_writer_t *writer, int number, const char *path, zero_error_t *error)
{
    const zero_layout_file_t *file = &writer->layout.files[number];
    int fd = writer->files[number] = open_new(path);
    if (fd < 0)
        return zero_fail_file(error, "create", path, NULL);
    zero_status_t status = zero_reserve_file(fd, path, NULL, file->bytes, error);
    if (status == ZERO_OK)
        status = zero_write_file(fd, path, NULL, 0, file->header, file->header_bytes, error);
    /* on a network's file system, the others see it only then */
    return status == ZERO_OK && fsync(fd) != 0 ? zero_fail_file(error, "write", path, NULL) : status;
}

/* Opens what the creator has created, once it is what this process would have created. */
static zero_status_t join_file(zero_tensors_writer_t *writer, int number, const char *path, zero_error_t *error)
{
    const zero_layout_file_t *file = &writer->layout.files[number];
    struct stat info;
    int fd = writer->files[number] = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        return zero_fail_file(error, "open", path, NULL);
    char *header = malloc((size_t)file->header_bytes);
    if (!header)
        return no_memory(writer->folder, error);
    /* No reading ahead, into data that others write: NFS writes a page whole if it has read it. */
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    bool same = (uint64_t)info.st_size == file->bytes;
    zero_status_t status = ZERO_OK;
    if (same && (status = zero_read_file(fd, path, 0, header, file->header_bytes, error)) == ZERO_OK)
        same = memcmp(header, file->header, (size_t)file->header_bytes) == 0;
    free(header);
    if (status == ZERO_OK && !same)
        status = zero_fail(error, ZERO_ERR_MISMATCH,
                           "'%s' was created for other tensors: every process must give the same ones", path);
    return status;
}

static zero_status_t create_index(zero_tensors_writer_t *writer, zero_error_t *error)
{
    char *text = NULL, *path = path_of_head(writer, true, PART);
    int fd = -1;
    zero_status_t status = path ? zero_layout_index(&writer->layout, &text, error) : no_memory(writer->folder, error);
    if (status != ZERO_OK)
        goto end;
    if ((fd = open_new(path)) < 0) {
        status = zero_fail_file(error, "create", path, NULL);
        goto end;
    }
    status = zero_write_file(fd, path, NULL, 0, text, strlen(text), error);
    if (status == ZERO_OK && fsync(fd) != 0)
        status = zero_fail_file(error, "write", path, NULL);
    if (close(fd) != 0 && status == ZERO_OK)
        status = zero_fail_file(error, "write", path, NULL);
end:
    free(text);
    free(path);
    return status;
}

/* The caller's tensors, whose structs may be those of another version, as an array of this version's. */
static zero_status_t take_tensors(const zero_tensor_info_t *given, int count, zero_tensor_info_t **taken,
                                  zero_error_t *error)
{
    zero_quoted_t name;
    zero_status_t status = ZERO_OK;
    *taken = calloc((size_t)count, sizeof **taken);
    if (!*taken)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d tensors", count);
    for (int k = 0; k < count && status == ZERO_OK; k++) {
        const zero_tensor_info_t *one = (const void *)((const char *)given + (size_t)k * given->size);
        zero_tensor_info_t *own = &(*taken)[k];
        status = one->size == given->size
                     ? zero_struct_take(own, sizeof *own, one, ZERO_UP_TO(zero_tensor_info_t, shape),
                                        "zero_tensor_info_t", NULL, error)
                     : zero_fail(error, ZERO_ERR_ARG, "the size of tensor %d is %zu, but that of tensor 0 is %zu", k,
                                 one->size, given->size);
        own->dtype[sizeof own->dtype - 1] = '\0';
        if (status == ZERO_OK && strcmp(own->dtype, "F32") != 0 && strcmp(own->dtype, "BF16") != 0 &&
            strcmp(own->dtype, "F16") != 0)
            status = zero_fail(error, ZERO_ERR_ARG, "tensor %d has the dtype '%s', but F32, BF16 or F16 are written", k,
                               zero_quote(&name, own->dtype));
    }
    return status;
}

zero_status_t zero_tensors_create(zero_tensors_writer_t **writer, const char *folder, const char *base,
                                  const zero_tensor_info_t *tensors, int count, uint64_t file_bytes, bool create,
                                  zero_error_t *error)
{
    zero_tensor_info_t *taken = NULL;
    zero_tensors_writer_t *w = NULL;
    zero_status_t status;
    if (writer)
        *writer = NULL;
    if (!writer || !folder || !base || !*base || strchr(base, '/') || !tensors || count < 1)
        return zero_fail(error, ZERO_ERR_ARG,
                         "zero_tensors_create needs an address for the result, a folder, a base name without '/', and "
                         "at least one tensor");
    if ((status = zero_struct_check(tensors, ZERO_UP_TO(zero_tensor_info_t, shape), "zero_tensor_info_t", error)) !=
            ZERO_OK ||
        (status = take_tensors(tensors, count, &taken, error)) != ZERO_OK)
        goto fail;
    w = calloc(1, sizeof *w);
    if (!w || !(w->folder = strdup(folder)) || !(w->base = strdup(base))) {
        status = no_memory(folder, error);
        goto fail;
    }
    w->creator = create;
    if ((status = zero_layout_make(&w->layout, base, taken, count, file_bytes, error)) != ZERO_OK)
        goto fail;
    w->files = malloc((size_t)w->layout.file_count * sizeof *w->files);
    if (!w->files) {
        status = no_memory(folder, error);
        goto fail;
    }
    for (int f = 0; f < w->layout.file_count; f++)
        w->files[f] = -1;
    for (int f = 0; f < w->layout.file_count && status == ZERO_OK; f++) {
        char *path = path_of(w, w->layout.files[f].name, PART);
        status = !path    ? no_memory(folder, error)
                 : create ? create_file(w, f, path, error)
                          : join_file(w, f, path, error);
        free(path);
    }
    if (status == ZERO_OK && create && w->layout.file_count > 1)
        status = create_index(w, error);
    if (status != ZERO_OK)
        goto fail;
    free(taken);
    *writer = w;
    return ZERO_OK;

fail:
    free(taken);
    zero_tensors_discard(w);
    return status;
}

/* ---- write ------------------------------------------------------------------------------------------------------ */

zero_status_t zero_tensors_write(zero_tensors_writer_t *writer, int index, int64_t begin, int64_t count,
                                 const float *values, zero_error_t *error)
{
    zero_quoted_t name;
    if (!writer || index < 0 || index >= writer->layout.count)
        return zero_fail(error, ZERO_ERR_ARG, "there is no tensor number %d: %d are written", index,
                         writer ? writer->layout.count : 0);
    const zero_tensor_entry_t *entry = &writer->layout.tensors[index];
    zero_quote(&name, entry->info.name);
    if (!values && count > 0)
        return zero_fail(error, ZERO_ERR_ARG, "zero_tensors_write has no values for tensor '%s'", name.text);
    if (begin < 0 || count < 0 || begin > entry->info.count || count > entry->info.count - begin)
        return zero_fail(error, ZERO_ERR_ARG, "elements [%lld, %lld + %lld) are not in tensor '%s', which has %lld",
                         (long long)begin, (long long)begin, (long long)count, name.text, (long long)entry->info.count);

    const int fd = writer->files[entry->file];
    char *path = path_of(writer, writer->layout.files[entry->file].name, PART);
    zero_status_t status = path ? ZERO_OK : no_memory(writer->folder, error);
    if (strcmp(entry->info.dtype, "F32") == 0) {
        if (status == ZERO_OK)
            status = zero_write_file(fd, path, NULL, entry->offset + (uint64_t)begin * 4, values, (uint64_t)count * 4,
                                     error);
        free(path);
        return status;
    }
    const bool bf16 = strcmp(entry->info.dtype, "BF16") == 0;
    uint16_t chunk[CHUNK];
    for (int64_t done = 0; done < count && status == ZERO_OK; done += CHUNK) {
        int64_t n = count - done < CHUNK ? count - done : CHUNK;
        for (int64_t i = 0; i < n; i++)
            chunk[i] = bf16 ? zero_fp32_to_bf16(values[done + i]) : zero_fp32_to_fp16(values[done + i]);
        status = zero_write_file(fd, path, NULL, entry->offset + (uint64_t)(begin + done) * 2, chunk, (uint64_t)n * 2,
                                 error);
    }
    free(path);
    return status;
}

/* ---- finish ----------------------------------------------------------------------------------------------------- */

/* Closes each file, and says if what was written has not reached the drive. */
static zero_status_t flush(zero_tensors_writer_t *writer, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int f = 0; f < writer->layout.file_count; f++) {
        char *path = path_of(writer, writer->layout.files[f].name, PART);
        if (!path)
            return no_memory(writer->folder, error);
        if (status == ZERO_OK && fsync(writer->files[f]) != 0)
            status = zero_fail_file(error, "write", path, NULL);
        if (close(writer->files[f]) != 0 && status == ZERO_OK)
            status = zero_fail_file(error, "write", path, NULL);
        writer->files[f] = -1;
        free(path);
    }
    return status;
}

/* Takes ".part" off a file's name. */
static zero_status_t name_file(char *part, zero_error_t *error)
{
    char *path = part ? strdup(part) : NULL;
    zero_status_t status = ZERO_OK;
    if (!path)
        return no_memory("a folder", error);
    path[strlen(path) - strlen(PART)] = '\0';
    if (rename(part, path) != 0)
        status = zero_fail_file(error, "name", path, NULL);
    free(path);
    return status;
}

static zero_status_t remove_head(const zero_tensors_writer_t *writer, bool index, zero_error_t *error)
{
    char *path = path_of_head(writer, index, "");
    zero_status_t status = path ? ZERO_OK : no_memory(writer->folder, error);
    if (path && unlink(path) != 0 && errno != ENOENT)
        status = zero_fail_file(error, "remove", path, NULL);
    free(path);
    return status;
}

/* Whether name is that of a file of some set of this base, BASE-00001-of-00003.safetensors, or such a file's part. */
static bool is_member(const zero_tensors_writer_t *writer, const char *name)
{
    size_t base = strlen(writer->base), digits;
    if (strncmp(name, writer->base, base) != 0 || name[base] != '-')
        return false;
    name += base + 1;
    digits = strspn(name, "0123456789");
    if (digits < 5 || strncmp(name + digits, "-of-", 4) != 0)
        return false;
    name += digits + 4;
    digits = strspn(name, "0123456789");
    return digits >= 5 && (strcmp(name + digits, ENDING) == 0 || strcmp(name + digits, ENDING PART) == 0);
}

/* Removes members of other sets. Readers do not find them, so a failure does no harm. */
static void remove_others(const zero_tensors_writer_t *writer)
{
    DIR *folder = opendir(writer->folder);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        bool own = false;
        for (int f = 0; f < writer->layout.file_count && !own; f++)
            own = strcmp(entry->d_name, writer->layout.files[f].name) == 0;
        char *path = own || !is_member(writer, entry->d_name) ? NULL : path_of(writer, entry->d_name, "");
        if (path)
            unlink(path);
        free(path);
    }
    if (folder)
        closedir(folder);
}

/* A set of several files has names that an earlier set may have, so the names through which readers find that go first.
 * One file replaces its earlier self at once, and readers prefer it to an index. */
static zero_status_t publish(const zero_tensors_writer_t *writer, zero_error_t *error)
{
    const int count = writer->layout.file_count;
    zero_status_t status = ZERO_OK;
    if (count > 1 && ((status = remove_head(writer, false, error)) != ZERO_OK ||
                      (status = remove_head(writer, true, error)) != ZERO_OK))
        return status;
    for (int f = 0; f < count && status == ZERO_OK; f++) {
        char *part = path_of(writer, writer->layout.files[f].name, PART);
        status = name_file(part, error);
        free(part);
    }
    if (status == ZERO_OK && count > 1) {
        char *part = path_of_head(writer, true, PART);
        status = name_file(part, error);
        free(part);
    } else if (status == ZERO_OK)
        status = remove_head(writer, true, error);
    if (status == ZERO_OK)
        remove_others(writer);
    return status;
}

zero_status_t zero_tensors_finish(zero_tensors_writer_t *writer, zero_error_t *error)
{
    if (!writer)
        return zero_fail(error, ZERO_ERR_ARG, "zero_tensors_finish needs a writer");
    zero_status_t status = flush(writer, error);
    if (status == ZERO_OK && writer->creator)
        status = publish(writer, error);
    if (status == ZERO_OK && writer->creator)
        status = zero_sync_folder(writer->folder, error);
    if (status == ZERO_OK)
        writer->creator = false; /* there is nothing to remove */
    zero_tensors_discard(writer);
    return status;
}

static void remove_part(char *part)
{
    if (part)
        unlink(part);
    free(part);
}

void zero_tensors_discard(zero_tensors_writer_t *writer)
{
    if (!writer)
        return;
    const int count = writer->files ? writer->layout.file_count : 0;
    for (int f = 0; f < count; f++) {
        if (writer->files[f] >= 0)
            close(writer->files[f]);
        if (writer->creator)
            remove_part(path_of(writer, writer->layout.files[f].name, PART));
    }
    if (writer->creator && count > 1)
        remove_part(path_of_head(writer, true, PART));
    zero_layout_clear(&writer->layout);
    free(writer->files);
    free(writer->folder);
    free(writer->base);
    free(writer);
}
