/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/checkpoint.h"

#include "zero/checkpoint/files.h"
#include "zero/checkpoint/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* A tensor and what it is of; name is the entry's. */
typedef struct tensor {
    zero_state_t state;
    zero_tensor_entry_t entry; /* entry.file counts the manifest's files */
} tensor_t;

/* Read ahead at least half of this: threads that read different ranges of a file confuse the system's own way. */
#define AHEAD_BYTES ((uint64_t)16 << 20)

struct zero_checkpoint {
    char *path; /* of the step's folder */
    char *warning;
    zero_manifest_t manifest;
    zero_safetensors_t *files; /* [manifest.file_count]; fd -1: not open */
    int *direct;               /* the same files past the page cache; -1: the file system refuses */
    tensor_t *tensors;         /* in order of states, then of names */
    size_t tensor_count;
};

static zero_status_t no_memory(const char *path, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory to read the checkpoint '%s'", path);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* The first piece of the window that has a byte of a file: there is one for each. */
static const zero_piece_t *window_of(const zero_checkpoint_t *c, int file, uint64_t offset)
{
    const zero_piece_t *pieces = &c->manifest.pieces[c->manifest.files[file].first];
    uint64_t low = 0, high = c->manifest.files[file].count; /* a piece of it is in [low, high) */
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (pieces[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    /* A window of several pieces ends behind the first run of its last one. */
    while (low > 0 && pieces[low - 1].count > 1 && pieces[low - 1].offset + pieces[low - 1].bytes == pieces[low].offset)
        low--;
    return &pieces[low];
}

/* XXH3 of a piece's runs, which lie as in the file; false: no memory. */
static bool hash_runs(const zero_piece_t *piece, const char *bytes, uint64_t *hash)
{
    XXH3_state_t *state = XXH3_createState();
    bool failed = !state || XXH3_64bits_reset(state) != XXH_OK;
    for (uint32_t k = 0; k < piece->count && !failed; k++)
        failed = XXH3_64bits_update(state, bytes + (size_t)k * piece->stride, piece->bytes) != XXH_OK;
    *hash = failed ? 0 : XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return !failed;
}

/* Whether bytes, which lie as in the file, are those of a piece from its first one on. tensor is for the sentence. */
static zero_status_t check_piece(const zero_checkpoint_t *c, const zero_piece_t *piece, const char *bytes,
                                 const char *tensor, zero_error_t *error)
{
    zero_quoted_t name;
    char runs[64] = "";
    uint64_t hash = 0;
    if (piece->count == 1)
        hash = XXH3_64bits(bytes, piece->bytes);
    else if (!hash_runs(piece, bytes, &hash))
        return no_memory(c->path, error);
    if (hash == piece->hash)
        return ZERO_OK;
    if (piece->count > 1)
        snprintf(runs, sizeof runs, "%u runs, %u bytes apart, of ", piece->count, piece->stride);
    return zero_fail(error, ZERO_ERR_FORMAT,
                     "'%s' is damaged: its %s%u bytes from byte %llu (%s%s%s) are not those that were written",
                     c->files[piece->file].path, runs, piece->bytes, (unsigned long long)piece->offset,
                     tensor ? "tensor '" : "header", tensor ? zero_quote(&name, tensor) : "", tensor ? "'" : "");
}

/* The same for all pieces of a window. */
static zero_status_t check_window(const zero_checkpoint_t *c, const zero_piece_t *window, const char *bytes,
                                  const char *tensor, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (uint64_t k = 0; k < zero_window_pieces(window) && status == ZERO_OK; k++)
        status = check_piece(c, &window[k], bytes + k * window->bytes, tensor, error);
    return status;
}

/* A whole window. tensor is for the sentence. */
static zero_status_t read_window(const zero_checkpoint_t *c, const zero_piece_t *window, void *out, const char *tensor,
                                 zero_error_t *error)
{
    const zero_safetensors_t *file = &c->files[window->file];
    zero_status_t status = zero_read_file(file->fd, file->path, window->offset, out, zero_window_bytes(window), error);
    return status == ZERO_OK ? check_window(c, window, out, tensor, error) : status;
}

/* Bytes [offset, offset + bytes) of a file, or only a check of them where out is NULL. */
static zero_status_t read_range(const zero_checkpoint_t *c, int number, uint64_t offset, uint64_t bytes, void *out,
                                const char *tensor, zero_error_t *error)
{
    char *to = out, *edge = NULL;
    zero_status_t status = ZERO_OK;
    uint64_t asked = offset; /* up to where the system has been told to read ahead */
    const zero_piece_t *window = bytes > 0 ? window_of(c, number, offset) : NULL;
    for (; bytes > 0 && status == ZERO_OK; window += zero_window_pieces(window)) {
        uint64_t lead = offset - window->offset, left = zero_window_bytes(window) - lead,
                 n = left < bytes ? left : bytes;
        bool whole = to && n == zero_window_bytes(window);
        if (bytes > ZERO_PIECE_BYTES && asked < offset + bytes && asked - offset < AHEAD_BYTES / 2) {
            uint64_t more = offset + bytes - asked < AHEAD_BYTES ? offset + bytes - asked : AHEAD_BYTES;
            posix_fadvise(c->files[number].fd, (off_t)asked, (off_t)more, POSIX_FADV_WILLNEED);
            asked += more;
        }
        if (!whole && !edge && !(edge = malloc(ZERO_WINDOW_BYTES))) {
            status = no_memory(c->path, error);
            break;
        }
        status = read_window(c, window, whole ? to : edge, tensor, error);
        if (status == ZERO_OK && to && !whole)
            memcpy(to, edge + lead, (size_t)n);
        to = to ? to + n : NULL;
        offset += n;
        bytes -= n;
    }
    free(edge);
    return status;
}

/* Where elements [first, first + count) of a tensor lie in its file. */
static zero_status_t locate(const zero_tensor_entry_t *tensor, int64_t first, int64_t count, uint64_t *offset,
                            uint64_t *bytes, zero_error_t *error)
{
    zero_quoted_t name;
    if (first < 0 || count < 0 || first > tensor->info.count || count > tensor->info.count - first)
        return zero_fail(error, ZERO_ERR_ARG, "elements [%lld, %lld + %lld) are not in tensor '%s', which has %lld",
                         (long long)first, (long long)first, (long long)count, zero_quote(&name, tensor->info.name),
                         (long long)tensor->info.count);
    uint64_t size = zero_tensor_bits(tensor->info.dtype) / 8;
    *offset = tensor->offset + (uint64_t)first * size;
    *bytes = (uint64_t)count * size;
    return ZERO_OK;
}

zero_status_t zero_checkpoint_read(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor,
                                   int64_t first, int64_t count, void *out, zero_error_t *error)
{
    uint64_t offset, bytes;
    zero_status_t status = locate(tensor, first, count, &offset, &bytes, error);
    return status == ZERO_OK ? read_range(checkpoint, tensor->file, offset, bytes, out, tensor->info.name, error)
                             : status;
}

int64_t zero_checkpoint_fit(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor, int64_t first,
                            int64_t most)
{
    const uint64_t size = zero_tensor_bits(tensor->info.dtype) / 8, begin = tensor->offset + (uint64_t)first * size;
    if (most >= tensor->info.count - first)
        return tensor->info.count - first;
    const uint64_t end = window_of(checkpoint, tensor->file, begin + (uint64_t)most * size)->offset;
    return end >= begin + size ? (int64_t)((end - begin) / size) : most;
}

/* Reads whole pages past the page cache; false: that does not work here. */
static bool read_direct(int fd, uint64_t offset, uint64_t bytes, uint64_t least, char *out)
{
    uint64_t done = 0;
    while (fd >= 0 && done < least && done % ZERO_PAGE == 0) {
        ssize_t n = pread(fd, out + done, (size_t)(bytes - done), (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (uint64_t)n;
    }
    return fd >= 0 && done >= least;
}

zero_status_t zero_checkpoint_read_pages(const zero_checkpoint_t *checkpoint, const zero_tensor_entry_t *tensor,
                                         int64_t first, int64_t count, void *room, const void **bytes,
                                         zero_error_t *error)
{
    uint64_t offset, length;
    zero_status_t status = locate(tensor, first, count, &offset, &length, error);
    *bytes = room;
    if (status != ZERO_OK || length == 0)
        return status;
    const zero_piece_t *window = window_of(checkpoint, tensor->file, offset),
                       *last = window_of(checkpoint, tensor->file, offset + length - 1);
    uint64_t begin = window->offset / ZERO_PAGE * ZERO_PAGE, end = last->offset + zero_window_bytes(last);
    uint64_t pages = (end - begin + ZERO_PAGE - 1) / ZERO_PAGE * ZERO_PAGE;
    if (!read_direct(checkpoint->direct[tensor->file], begin, pages, end - begin, room))
        return read_range(checkpoint, tensor->file, offset, length, room, tensor->info.name, error);
    for (; window <= last && status == ZERO_OK; window += zero_window_pieces(window))
        status = check_window(checkpoint, window, (char *)room + (window->offset - begin), tensor->info.name, error);
    const char *found = (char *)room + (offset - begin);
    *bytes = offset % sizeof(float) == 0 ? found : memmove(room, found, (size_t)length);
    return status;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const tensor_t *x = a, *y = b;
    return x->state != y->state ? (x->state < y->state ? -1 : 1) : strcmp(x->entry.info.name, y->entry.info.name);
}

const zero_tensor_entry_t *zero_checkpoint_find(const zero_checkpoint_t *checkpoint, zero_state_t state,
                                                const char *name)
{
    const tensor_t key = {.state = state, .entry.info.name = name};
    const tensor_t *found = checkpoint->tensor_count > 0
                                ? bsearch(&key, checkpoint->tensors, checkpoint->tensor_count, sizeof key, by_name)
                                : NULL;
    return found ? &found->entry : NULL;
}

/* Opens a file, and checks its size and its header against the manifest. */
static zero_status_t open_file(zero_checkpoint_t *c, int number, zero_error_t *error)
{
    const zero_manifest_file_t *file = &c->manifest.files[number];
    zero_safetensors_t *own = &c->files[number];
    unsigned char prefix[8];
    uint64_t header = 0;
    struct stat st;
    char *path = zero_join_path(c->path, strlen(c->path), file->name);
    if (!path)
        return no_memory(c->path, error);
    zero_status_t status = zero_safetensors_open(own, path, error);
    if (status != ZERO_OK)
        goto end;
    if (fstat(own->fd, &st) != 0 || (uint64_t)st.st_size != file->bytes) {
        status = zero_fail(error, ZERO_ERR_FORMAT, "'%s' has %lld bytes, but its checkpoint's manifest says %llu", path,
                           (long long)st.st_size, (unsigned long long)file->bytes);
        goto end;
    }
    if ((status = zero_read_file(own->fd, path, 0, prefix, sizeof prefix, error)) != ZERO_OK)
        goto end;
    for (int k = 7; k >= 0; k--)
        header = header << 8 | prefix[k];
    if (header > file->bytes - sizeof prefix) /* it was less when it was opened */
        status = zero_fail(error, ZERO_ERR_FORMAT, "'%s' changes while it is read", path);
    else
        status = read_range(c, number, 0, sizeof prefix + header, NULL, NULL, error);

end:
    free(path);
    return status;
}

static zero_status_t open_files(zero_checkpoint_t *c, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    zero_quoted_t name;
    const int count = c->manifest.file_count;
    c->files = calloc((size_t)count + 1, sizeof *c->files);
    c->direct = malloc(((size_t)count + 1) * sizeof *c->direct);
    if (!c->files || !c->direct)
        return no_memory(c->path, error);
    for (int f = 0; f < count; f++)
        c->files[f].fd = c->direct[f] = -1;
    size_t tensors = 0;
    for (int f = 0; f < count && status == ZERO_OK; f++) {
        status = open_file(c, f, error);
        if (status == ZERO_OK)
            c->direct[f] = open(c->files[f].path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
        tensors += (size_t)c->files[f].count;
    }
    if (status != ZERO_OK)
        return status;
    c->tensors = calloc(tensors + 1, sizeof *c->tensors);
    if (!c->tensors)
        return no_memory(c->path, error);
    for (int f = 0; f < count; f++)
        for (int k = 0; k < c->files[f].count; k++) {
            tensor_t *own = &c->tensors[c->tensor_count++];
            *own = (tensor_t){c->manifest.files[f].state, c->files[f].entries[k]};
            own->entry.file = f;
        }
    qsort(c->tensors, c->tensor_count, sizeof *c->tensors, by_name);
    for (size_t k = 1; k < c->tensor_count; k++)
        if (by_name(&c->tensors[k - 1], &c->tensors[k]) == 0)
            return zero_fail(error, ZERO_ERR_FORMAT, "'%s' and '%s' both have tensor '%s'",
                             c->files[c->tensors[k - 1].entry.file].path, c->files[c->tensors[k].entry.file].path,
                             zero_quote(&name, c->tensors[k].entry.info.name));
    return ZERO_OK;
}

/* Whether a parameter's tensor of a state, which may be missing, is what the parameter says. */
static zero_status_t check_tensor(const zero_checkpoint_t *c, const zero_manifest_param_t *param, zero_state_t state,
                                  size_t *found, zero_error_t *error)
{
    static const char *const spelled[ZERO_DTYPE_COUNT] = {"F32", "BF16", "F16"};
    const zero_tensor_entry_t *entry = zero_checkpoint_find(c, state, param->name);
    zero_quoted_t name;
    zero_quote(&name, param->name);
    if (!entry && state == ZERO_STATE_PARAM)
        return zero_fail(error, ZERO_ERR_FORMAT, "the checkpoint '%s' has no values of its parameter '%s'", c->path,
                         name.text);
    if (!entry)
        return ZERO_OK;
    ++*found;
    uint32_t bits = zero_tensor_bits(entry->info.dtype);
    bool raw = strcmp(entry->info.dtype, "U8") == 0 && state != ZERO_STATE_PARAM;
    bool same = entry->info.ndim == param->ndim &&
                memcmp(entry->info.shape, param->shape, (size_t)param->ndim * sizeof *param->shape) == 0;
    if (bits % 8 != 0 || (!raw && !same) ||
        (state == ZERO_STATE_PARAM && strcmp(entry->info.dtype, spelled[param->dtype]) != 0))
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "'%s': tensor '%s' has not the dtype and the shape that the manifest says of the parameter",
                         c->files[entry->file].path, name.text);
    return ZERO_OK;
}

static zero_status_t check_tensors(const zero_checkpoint_t *c, zero_error_t *error)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    zero_status_t status = ZERO_OK;
    size_t found = 0;
    for (int k = 0; k < c->manifest.param_count; k++)
        for (size_t s = 0; s < sizeof states / sizeof states[0] && status == ZERO_OK; s++)
            status = check_tensor(c, &c->manifest.params[k], states[s], &found, error);
    if (status == ZERO_OK && found != c->tensor_count)
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "the files of the checkpoint '%s' have %zu tensors that are of none of its parameters",
                           c->path, c->tensor_count - found);
    return status;
}

/* Keeps the first warning about a damaged checkpoint. */
static void keep_warning(void *ctx, zero_log_level_t level, const char *text)
{
    char **warning = ctx;
    (void)level;
    if (!*warning)
        *warning = strdup(text);
}

/* Finds the step's folder, and reads its manifest. */
static zero_status_t find_manifest(zero_checkpoint_t *c, const char *path, zero_error_t *error)
{
    int64_t step;
    zero_error_t why = {.rank = -1};
    zero_status_t status = zero_manifest_read(&c->manifest, path, &why);
    if (status == ZERO_OK || why.reason != ZERO_REASON_NO_CHECKPOINT) {
        c->path = strdup(path);
        return status != ZERO_OK ? zero_pass(error, status, &why) : c->path ? ZERO_OK : no_memory(path, error);
    }
    status = zero_folder_newest(path, &step, &c->manifest, (zero_folder_log_t){keep_warning, &c->warning}, error);
    if (status != ZERO_OK)
        return status;
    c->path = zero_folder_step(path, step);
    return c->path ? ZERO_OK : no_memory(path, error);
}

zero_status_t zero_checkpoint_open(zero_checkpoint_t **checkpoint, const char *path, zero_error_t *error)
{
    if (checkpoint)
        *checkpoint = NULL;
    if (!checkpoint || !path)
        return zero_fail(error, ZERO_ERR_ARG, "zero_checkpoint_open needs a path and an address for the result");
    zero_checkpoint_t *c = calloc(1, sizeof *c);
    if (!c)
        return no_memory(path, error);
    zero_status_t status = find_manifest(c, path, error);
    if (status == ZERO_OK && (status = open_files(c, error)) == ZERO_OK)
        status = check_tensors(c, error);
    if (status != ZERO_OK) {
        zero_checkpoint_close(c);
        return status;
    }
    *checkpoint = c;
    return ZERO_OK;
}

zero_status_t zero_checkpoint_info(const zero_checkpoint_t *checkpoint, zero_checkpoint_info_t *info)
{
    if (!checkpoint ||
        zero_struct_check(info, ZERO_UP_TO(zero_checkpoint_info_t, warning), "zero_checkpoint_info_t", NULL))
        return ZERO_ERR_ARG;
    const zero_manifest_t *m = &checkpoint->manifest;
    const zero_checkpoint_info_t own = {.size = info->size,
                                        .path = checkpoint->path,
                                        .library = m->library,
                                        .step = m->step,
                                        .applied = m->applied,
                                        .optimizer = m->optimizer,
                                        .about = m->about,
                                        .caller = m->caller,
                                        .caller_bytes = m->caller_bytes,
                                        .warning = checkpoint->warning};
    zero_struct_init(info, info->size, &own, sizeof own);
    return ZERO_OK;
}

const zero_manifest_t *zero_checkpoint_manifest(const zero_checkpoint_t *checkpoint)
{
    return &checkpoint->manifest;
}

void zero_checkpoint_close(zero_checkpoint_t *checkpoint)
{
    if (!checkpoint)
        return;
    for (int f = 0; f < checkpoint->manifest.file_count && checkpoint->files; f++)
        zero_safetensors_close(&checkpoint->files[f]);
    for (int f = 0; f < checkpoint->manifest.file_count && checkpoint->direct; f++)
        if (checkpoint->direct[f] >= 0)
            close(checkpoint->direct[f]);
    free(checkpoint->files);
    free(checkpoint->direct);
    free(checkpoint->tensors);
    zero_manifest_clear(&checkpoint->manifest);
    free(checkpoint->path);
    free(checkpoint->warning);
    free(checkpoint);
}
