/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/writer.h"

#include "zero/checkpoint/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { MOST_OPEN = 64 };
/* Long ranges bypass the page cache (O_DIRECT), which costs much less processor time where the file system allows it.
 * Only whole pages go that way: the pages at a range's ends, which others may share, are written as usual. */
#define DIRECT_LEAST ((uint64_t)64 << 10)
/* Addresses for O_DIRECT. */
#define DIRECT_ALIGN 512
/* Bytes in a row after which the system is told to begin writing them out, so that the sync finds little to do. */
#define RUN_BYTES ((uint64_t)8 << 20)

typedef struct file {
    const zero_layout_file_t *plan;
    int fd;                      /* -1: not open */
    bool wrote;                  /* something that is not yet known to be on the drive */
    bool direct;                 /* fd has O_DIRECT */
    uint64_t run_begin, run_end; /* what was written in a row last, and is not being written out */
} file_t;

struct zero_writer {
    char *folder;
    const zero_layout_t *layouts;
    int layout_count;
    int *first_file; /* [layout_count] */
    file_t *files;
    int file_count, open_count, next_close;
    bool creator;
    bool no_direct; /* the file system refuses O_DIRECT */
    void *buffer;   /* ZERO_WRITER_BUFFER, for memory that is not aligned; NULL before the first */
    zero_piece_t *pieces;
    uint64_t count, room;
};

zero_status_t zero_writer_make(zero_writer_t **writer, const char *folder, const zero_layout_t *layouts, int count,
                               zero_error_t *error)
{
    int files = 0;
    *writer = NULL;
    for (int k = 0; k < count; k++)
        files += layouts[k].file_count;
    zero_writer_t *w = calloc(1, sizeof *w);
    if (!w || !(w->folder = strdup(folder)) || !(w->first_file = calloc((size_t)count + 1, sizeof *w->first_file)) ||
        !(w->files = calloc((size_t)files + 1, sizeof *w->files))) {
        zero_writer_destroy(w);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to write %d files into '%s'", files, folder);
    }
    w->layouts = layouts;
    w->layout_count = count;
    for (int k = 0; k < count; k++) {
        w->first_file[k] = w->file_count;
        for (int f = 0; f < layouts[k].file_count; f++)
            w->files[w->file_count++] = (file_t){.plan = &layouts[k].files[f], .fd = -1};
    }
    *writer = w;
    return ZERO_OK;
}

static zero_status_t sync_file(zero_writer_t *w, file_t *file, zero_error_t *error)
{
    int failed;
    while ((failed = fdatasync(file->fd)) < 0 && errno == EINTR)
        ;
    if (failed)
        return zero_fail_file(error, "write out", w->folder, file->plan->name);
    file->wrote = false;
    return ZERO_OK;
}

static zero_status_t close_file(zero_writer_t *w, file_t *file, zero_error_t *error)
{
    int fd = file->fd;
    file->fd = -1;
    w->open_count--;
    /* a network file system may report here what it could not write */
    if (close(fd) < 0 && errno != EINTR)
        return zero_fail_file(error, "close", w->folder, file->plan->name);
    return ZERO_OK;
}

static zero_status_t open_file(zero_writer_t *w, file_t *file, int flags, zero_error_t *error)
{
    zero_status_t status;
    if (file->fd >= 0)
        return ZERO_OK;
    while (w->open_count >= MOST_OPEN) {
        file_t *other = &w->files[w->next_close++ % w->file_count];
        w->next_close %= w->file_count;
        if (other->fd < 0)
            continue;
        /* A descriptor that is opened later need not see the errors of this one's writes. */
        if ((other->wrote && (status = sync_file(w, other, error)) != ZERO_OK) ||
            (status = close_file(w, other, error)) != ZERO_OK)
            return status;
    }
    char *path = zero_join_path(w->folder, strlen(w->folder), file->plan->name);
    if (!path)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to open a file in '%s'", w->folder);
    /* Write-only also keeps a network file system from reading: where several machines write one file, what one of them
     * read around its own ranges could later hide what others wrote. */
    file->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666);
    free(path);
    if (file->fd < 0)
        return zero_fail_file(error, flags ? "create" : "open", w->folder, file->plan->name);
    w->open_count++;
    file->direct = false;
    file->run_begin = file->run_end = 0;
    return ZERO_OK;
}

/* Notes a piece, whose runs lie one behind another in memory. */
static zero_status_t note_piece(zero_writer_t *w, const file_t *file, uint64_t offset, uint64_t bytes, uint64_t count,
                                uint64_t stride, const void *memory, zero_error_t *error)
{
    if (w->count == w->room) {
        uint64_t room = w->room ? 2 * w->room : 256;
        zero_piece_t *pieces = realloc(w->pieces, (size_t)room * sizeof *pieces);
        if (!pieces)
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the list of %llu pieces of the files in '%s'",
                             (unsigned long long)room, w->folder);
        w->pieces = pieces;
        w->room = room;
    }
    w->pieces[w->count++] = (zero_piece_t){.file = (uint32_t)(file - w->files),
                                           .bytes = (uint32_t)bytes,
                                           .count = (uint32_t)count,
                                           .stride = (uint32_t)stride,
                                           .offset = offset,
                                           .hash = XXH3_64bits(memory, (size_t)(bytes * count))};
    return ZERO_OK;
}

/* Turns O_DIRECT on or off; whether that is now as it should be. */
static bool set_direct(zero_writer_t *w, file_t *file, bool direct)
{
    if (file->direct == direct)
        return true;
    int flags = fcntl(file->fd, F_GETFL);
    if (flags < 0 || fcntl(file->fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) < 0) {
        w->no_direct |= direct;
        return false;
    }
    file->direct = direct;
    return true;
}

/* Through the page cache. */
static zero_status_t write_cached(zero_writer_t *w, file_t *file, uint64_t offset, const void *memory, uint64_t bytes,
                                  zero_error_t *error)
{
    if (bytes == 0)
        return ZERO_OK;
    if (!set_direct(w, file, false))
        return zero_fail_file(error, "leave O_DIRECT of", w->folder, file->plan->name);
    zero_status_t status = zero_write_file(file->fd, w->folder, file->plan->name, offset, memory, bytes, error);
    if (status != ZERO_OK)
        return status;
    if (offset != file->run_end)
        file->run_begin = offset;
    file->run_end = offset + bytes;
    if (file->run_end - file->run_begin >= RUN_BYTES) {
        sync_file_range(file->fd, (off_t)file->run_begin, (off_t)(file->run_end - file->run_begin),
                        SYNC_FILE_RANGE_WRITE); /* advice: fdatasync is what counts */
        file->run_begin = file->run_end;
    }
    return ZERO_OK;
}

/* Whole pages, at most ZERO_WRITER_BUFFER. What O_DIRECT does not take goes through the page cache. */
static zero_status_t write_direct(zero_writer_t *w, file_t *file, uint64_t offset, const void *memory, uint64_t bytes,
                                  zero_error_t *error)
{
    ssize_t n = 0;
    const void *from = memory;
    bool aligned = (uintptr_t)memory % DIRECT_ALIGN == 0;
    if (!aligned && !w->buffer)
        w->buffer = aligned_alloc(ZERO_PAGE, ZERO_WRITER_BUFFER);
    if ((aligned || w->buffer) && set_direct(w, file, true)) {
        if (!aligned)
            from = memcpy(w->buffer, memory, (size_t)bytes);
        while ((n = pwrite(file->fd, from, (size_t)bytes, (off_t)offset)) < 0 && errno == EINTR)
            ;
        if (n < 0 && errno != EINVAL)
            return zero_fail_write(error, w->folder, file->plan->name, offset, bytes);
        w->no_direct |= n < 0;
    }
    uint64_t done = n > 0 ? (uint64_t)n : 0;
    return write_cached(w, file, offset + done, (const char *)memory + done, bytes - done, error);
}

/* A range of any length. */
static zero_status_t write_span(zero_writer_t *w, file_t *file, uint64_t offset, const char *memory, uint64_t bytes,
                                zero_error_t *error)
{
    if (bytes == 0)
        return ZERO_OK;
    uint64_t head = (ZERO_PAGE - offset % ZERO_PAGE) % ZERO_PAGE, n;
    zero_status_t status;
    file->wrote = true;
    if (w->no_direct || bytes < DIRECT_LEAST)
        return write_cached(w, file, offset, memory, bytes, error);
    status = write_cached(w, file, offset, memory, head, error);
    for (uint64_t left = (bytes - head) / ZERO_PAGE * ZERO_PAGE, at = head; left > 0 && status == ZERO_OK; left -= n) {
        n = left < ZERO_WRITER_BUFFER ? left : ZERO_WRITER_BUFFER;
        status = write_direct(w, file, offset + at, memory + at, n, error);
        at += n;
    }
    uint64_t tail = (bytes - head) % ZERO_PAGE;
    return status == ZERO_OK ? write_cached(w, file, offset + bytes - tail, memory + bytes - tail, tail, error)
                             : status;
}

static zero_status_t create_file(zero_writer_t *w, file_t *file, zero_error_t *error)
{
    zero_status_t status = open_file(w, file, O_CREAT | O_EXCL, error);
    if (status != ZERO_OK)
        return status;
    file->wrote = true;
    status = zero_reserve_file(file->fd, w->folder, file->plan->name, file->plan->bytes, error);
    for (uint64_t at = 0, n; at < file->plan->header_bytes && status == ZERO_OK; at += n) {
        n = file->plan->header_bytes - at < ZERO_PIECE_BYTES ? file->plan->header_bytes - at : ZERO_PIECE_BYTES;
        status = note_piece(w, file, at, n, 1, n, file->plan->header + at, error);
    }
    return status == ZERO_OK ? write_span(w, file, 0, file->plan->header, file->plan->header_bytes, error) : status;
}

zero_status_t zero_writer_create(zero_writer_t *writer, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (mkdir(writer->folder, 0777) < 0)
        return zero_fail_file(error, "make the folder", writer->folder, NULL);
    writer->creator = true;
    for (int f = 0; f < writer->file_count && status == ZERO_OK; f++)
        status = create_file(writer, &writer->files[f], error);
    return status;
}

/* The open file of a tensor's range. */
static zero_status_t find_range(zero_writer_t *w, int layout, int tensor, uint64_t offset, uint64_t bytes,
                                file_t **file, uint64_t *begin, zero_error_t *error)
{
    zero_quoted_t name;
    if (layout < 0 || layout >= w->layout_count || tensor < 0 || tensor >= w->layouts[layout].count)
        return zero_fail(error, ZERO_ERR_ARG, "the files in '%s' have no tensor number %d of layout %d", w->folder,
                         tensor, layout);
    const zero_tensor_entry_t *entry = &w->layouts[layout].tensors[tensor];
    if (offset > entry->bytes || bytes > entry->bytes - offset)
        return zero_fail(error, ZERO_ERR_ARG, "bytes [%llu, %llu + %llu) are not in tensor '%s', which has %llu",
                         (unsigned long long)offset, (unsigned long long)offset, (unsigned long long)bytes,
                         zero_quote(&name, entry->info.name), (unsigned long long)entry->bytes);
    *file = &w->files[w->first_file[layout] + entry->file];
    *begin = entry->offset;
    return bytes > 0 ? open_file(w, *file, 0, error) : ZERO_OK;
}

/* Bytes from offset, at most bytes, to the next end of a piece. */
static uint64_t piece_at(uint64_t offset, uint64_t bytes)
{
    uint64_t most = ZERO_PIECE_BYTES - offset % ZERO_PIECE_BYTES;
    return bytes < most ? bytes : most;
}

zero_status_t zero_writer_write(zero_writer_t *writer, int layout, int tensor, uint64_t offset, uint64_t bytes,
                                const void *memory, zero_error_t *error)
{
    file_t *file = NULL;
    uint64_t begin = 0;
    const char *from = memory;
    zero_status_t status = find_range(writer, layout, tensor, offset, bytes, &file, &begin, error);
    for (uint64_t at = 0, n; at < bytes && status == ZERO_OK; at += n) {
        n = piece_at(offset + at, bytes - at);
        status = note_piece(writer, file, begin + offset + at, n, 1, n, from + at, error);
    }
    return status == ZERO_OK ? write_span(writer, file, begin + offset, from, bytes, error) : status;
}

/* A piece of several runs. */
static zero_status_t write_runs(zero_writer_t *w, file_t *file, uint64_t offset, uint64_t bytes, uint64_t count,
                                uint64_t stride, const char *memory, zero_error_t *error)
{
    zero_status_t status = note_piece(w, file, offset, bytes, count, stride, memory, error);
    for (uint64_t k = 0; k < count && status == ZERO_OK; k++)
        status = write_span(w, file, offset + k * stride, memory + k * bytes, bytes, error);
    return status;
}

zero_status_t zero_writer_write_runs(zero_writer_t *writer, int layout, int tensor, uint64_t offset, uint64_t bytes,
                                     uint64_t count, uint64_t stride, const void *memory, zero_error_t *error)
{
    file_t *file = NULL;
    const char *from = memory;
    uint64_t begin = 0, span;
    if (count == 1)
        return zero_writer_write(writer, layout, tensor, offset, bytes, memory, error);
    if (count == 0 || bytes == 0 || stride == 0 || stride % bytes != 0 || !zero_mul_u64(count - 1, stride, &span) ||
        !zero_add_u64(span, bytes, &span))
        return zero_fail(error, ZERO_ERR_ARG, "%llu runs of %llu bytes, %llu bytes apart, cannot be written",
                         (unsigned long long)count, (unsigned long long)bytes, (unsigned long long)stride);
    zero_status_t status = find_range(writer, layout, tensor, offset, span, &file, &begin, error);
    if (status != ZERO_OK)
        return status;
    /* A window has no more elements than a load converts at a time, which can then read it once. */
    const uint64_t size = zero_tensor_bits(writer->layouts[layout].tensors[tensor].info.dtype) / 8,
                   in_window = ZERO_WINDOW_BYTES / sizeof(float) * size / stride, in_piece = ZERO_PIECE_BYTES / bytes,
                   most = in_piece < in_window ? in_piece : in_window;
    for (uint64_t k = 0, n; k < count && status == ZERO_OK; k += n) {
        n = most < 2 ? 1 : count - k < most ? count - k : most;
        status = n > 1
                     ? write_runs(writer, file, begin + offset + k * stride, bytes, n, stride, from + k * bytes, error)
                     : zero_writer_write(writer, layout, tensor, offset + k * stride, bytes, from + k * bytes, error);
    }
    return status;
}

zero_status_t zero_writer_sync(zero_writer_t *writer, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int f = 0; f < writer->file_count && status == ZERO_OK; f++) {
        file_t *file = &writer->files[f];
        if (file->wrote) /* then it is open: what closed it earlier also synced it */
            status = sync_file(writer, file, error);
        if (status == ZERO_OK && file->fd >= 0)
            status = close_file(writer, file, error);
    }
    if (status == ZERO_OK && writer->creator && (status = zero_sync_folder(writer->folder, error)) == ZERO_OK)
        status = zero_sync_parent(writer->folder, error);
    return status;
}

const zero_piece_t *zero_writer_pieces(const zero_writer_t *writer, uint64_t *count)
{
    *count = writer->count;
    return writer->pieces;
}

void zero_writer_destroy(zero_writer_t *writer)
{
    if (!writer)
        return;
    for (int f = 0; f < writer->file_count; f++)
        if (writer->files[f].fd >= 0)
            close(writer->files[f].fd);
    free(writer->pieces);
    free(writer->buffer);
    free(writer->files);
    free(writer->first_file);
    free(writer->folder);
    free(writer);
}
