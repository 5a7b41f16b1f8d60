/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - documents, and how they fill rows of tokens. */
#include "train/data_parts.h"
#include "train/grow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- documents -------------------------------------------------------------------------------------------------- */

enum { INDEX_HEAD = 16 };

static zero_status_t no_memory(const data_t *data, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the documents of %s %s", data->option, data->name);
}

/* The name of the index beside a token file. NULL: out of memory. */
static char *index_name(const char *path)
{
    const size_t length = strlen(path);
    char *index = malloc(length + 5);
    if (index != NULL) {
        memcpy(index, path, length);
        memcpy(index + length, ".idx", 5);
    }
    return index;
}

static zero_status_t read_index(const data_t *data, data_file_t *f, const char *path, zero_error_t *error)
{
    char magic[8];
    struct stat info;
    int64_t before = 0, count = 0;
    zero_status_t status = ZERO_OK;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return zero_fail(error, ZERO_ERR_IO,
                         "cannot open '%s', the index of the documents of %s '%s': %s; --tokenize writes it, and "
                         "without --pack it is not needed",
                         path, data->option, f->path, strerror(errno));
    if (fstat(fileno(file), &info) != 0 || fread(magic, sizeof magic, 1, file) != 1 ||
        fread(&count, sizeof count, 1, file) != 1 || memcmp(magic, "zeroidx1", sizeof magic) != 0)
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' is no index of documents, which begins with zeroidx1 and their number: write it again "
                           "with --tokenize",
                           path);
    else if (count < 0 || count > (INT64_MAX - INDEX_HEAD) / 8 || info.st_size != INDEX_HEAD + 8 * count)
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' says that it has %lld documents, but has %lld bytes: write it again with --tokenize",
                           path, (long long)count, (long long)info.st_size);
    else if ((f->ends = malloc(((size_t)count + 1) * sizeof *f->ends)) == NULL)
        status = no_memory(data, error);
    else if (fread(f->ends, sizeof *f->ends, (size_t)count, file) != (size_t)count)
        status = zero_fail(error, ZERO_ERR_IO, "cannot read '%s': %s", path,
                           ferror(file) ? strerror(errno) : "it was truncated while it was read");
    for (int64_t i = 0; i < count && status == ZERO_OK; i++) {
        if (f->ends[i] < before)
            status = zero_fail(error, ZERO_ERR_FORMAT,
                               "'%s' says that document %lld ends at token %lld, but the one before it ends at %lld: "
                               "write it again with --tokenize",
                               path, (long long)i, (long long)f->ends[i], (long long)before);
        before = f->ends[i];
    }
    if (status == ZERO_OK && before != f->is.count)
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "'%s' has documents of %lld tokens, but %s '%s' has %lld: write both again with --tokenize",
                           path, (long long)before, data->option, f->path, (long long)f->is.count);
    f->documents = count;
    fclose(file);
    return status;
}

/* Lines of the built-in corpus. */
static zero_status_t find_lines(const data_t *data, data_file_t *f, zero_error_t *error)
{
    const char *text = f->memory;
    int64_t count = 0;
    for (int64_t i = 0; i < f->is.count; i++)
        count += text[i] == '\n';
    if ((f->ends = malloc((size_t)count * sizeof *f->ends)) == NULL)
        return no_memory(data, error);
    for (int64_t i = 0; i < f->is.count; i++)
        if (text[i] == '\n')
            f->ends[f->documents++] = i + 1;
    return ZERO_OK;
}

/* Finds the documents of a file, if they are not known. */
static zero_status_t find_documents(const data_t *data, data_file_t *f, zero_error_t *error)
{
    if (f->ends != NULL)
        return ZERO_OK;
    if (f->memory != NULL)
        return find_lines(data, f, error);
    if (f->is.text) {
        if ((f->ends = malloc(sizeof *f->ends)) == NULL)
            return no_memory(data, error);
        f->ends[f->documents++] = f->is.count;
        return ZERO_OK;
    }
    if (!f->is.index)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--pack needs documents, but %s '%s' is %s, which has none: use a token file that --tokenize "
                         "wrote, with its index, or texts",
                         data->option, f->path, f->is.name);
    char *path = index_name(f->path);
    zero_status_t status = path != NULL ? read_index(data, f, path, error) : no_memory(data, error);
    free(path);
    return status;
}

/* ---- pieces ----------------------------------------------------------------------------------------------------- */

/* A part of a document that lies in one row: inputs from token first on, size of them, with the targets behind each. */
typedef struct piece {
    int64_t first, size;
} piece_t;

/* Whether a target of a piece counts. */
static bool any_counts(const data_t *data, const piece_t *piece)
{
    if (data->counts == NULL)
        return true;
    return memchr(data->counts + piece->first + 1, 1, (size_t)piece->size) != NULL;
}

/* The next piece with a target that counts. at: the token and document where it may begin; moves behind it. A document
 * of k tokens has k - 1 inputs. False: there are no more. */
static bool next_piece(const data_t *data, row_start_t *at, piece_t *piece)
{
    while (at->file < data->count) {
        const data_file_t *f = &data->files[at->file];
        if (at->document == f->documents) {
            at->file++;
            at->document = 0;
            continue;
        }
        const int64_t left = f->first + f->ends[at->document] - 1 - at->token;
        if (left < 1) {
            at->token = f->first + f->ends[at->document++];
            continue;
        }
        *piece = (piece_t){.first = at->token, .size = left < data->seq_len ? left : data->seq_len};
        at->token += data->layout == DATA_ONE_EACH ? left : piece->size;
        if (any_counts(data, piece))
            return true;
    }
    return false;
}

/* The pieces of the row that begins at *at, which moves to the next row. Calls each with the piece's index in the row.
 * Returns the tokens of the row, 0: there is no such row. */
typedef void (*piece_fn)(void *ctx, const piece_t *piece, int64_t at);
static int64_t walk_row(const data_t *data, row_start_t *at, piece_fn each, void *ctx)
{
    int64_t used = 0;
    row_start_t next = *at;
    piece_t piece;
    while (next_piece(data, &next, &piece) &&
           (used == 0 || (data->layout == DATA_PACKED && used + piece.size <= data->seq_len))) {
        if (each != NULL)
            each(ctx, &piece, used);
        used += piece.size;
        *at = next;
    }
    return used;
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

zero_status_t data_arrange(data_t *data, data_layout_t layout, int64_t seq_len, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    row_start_t at = {0}, begin = at;
    int64_t room = 0;
    data->layout = layout;
    data->seq_len = seq_len;
    data->rows = data_windows(data, seq_len);
    if (layout == DATA_WINDOWS)
        return ZERO_OK;
    data->rows = 0;
    for (int i = 0; i < data->count && status == ZERO_OK; i++)
        status = find_documents(data, &data->files[i], error);
    for (int64_t used; status == ZERO_OK && (used = walk_row(data, &at, NULL, NULL)) > 0; data->filled += used) {
        if (data->rows == room) {
            room = room * 2 + 1024;
            if (!grow((void **)&data->starts, room, sizeof *data->starts))
                return no_memory(data, error);
        }
        data->starts[data->rows++] = begin;
        begin = at;
    }
    return status;
}

int64_t data_rows(const data_t *data)
{
    return data->rows;
}

int64_t data_documents(const data_t *data)
{
    int64_t documents = 0;
    for (int i = 0; i < data->count; i++)
        documents += data->files[i].documents;
    return documents;
}

double data_fill(const data_t *data)
{
    return data->layout == DATA_WINDOWS ? 1 : (double)data->filled / ((double)data->rows * (double)data->seq_len);
}

typedef struct filling {
    data_t *data;
    const data_row_t *row;
    int64_t vocab;
    zero_status_t status;
    zero_error_t *error;
    int64_t counted;
} filling_t;

static void fill_piece(void *ctx, const piece_t *piece, int64_t at)
{
    filling_t *f = ctx;
    if (f->status != ZERO_OK)
        return;
    f->status = data_tokens_get(f->data, piece->first, piece->size, f->vocab, f->row->tokens + at, f->row->targets + at,
                                f->error);
    for (int64_t i = 0; i < piece->size && f->status == ZERO_OK; i++) {
        const bool counts = f->data->counts == NULL || f->data->counts[piece->first + i + 1] != 0;
        if (!counts)
            f->row->targets[at + i] = DATA_IGNORED;
        f->counted += counts;
        f->row->starts[at + i] = (int32_t)at;
    }
}

zero_status_t data_read_row(data_t *data, int64_t index, int64_t vocab, data_row_t *row, zero_error_t *error)
{
    const int64_t T = data->seq_len;
    if (data->layout == DATA_WINDOWS) {
        row->used = row->counted = T;
        memset(row->starts, 0, (size_t)T * sizeof *row->starts);
        return data_read(data, index, T, vocab, row->tokens, row->targets, error);
    }
    filling_t f = {.data = data, .row = row, .vocab = vocab, .error = error};
    row_start_t at = data->starts[index];
    row->used = walk_row(data, &at, fill_piece, &f);
    row->counted = f.counted;
    for (int64_t i = row->used; i < T; i++) {
        row->tokens[i] = 0;
        row->targets[i] = DATA_IGNORED;
        row->starts[i] = (int32_t)row->used;
    }
    return f.status;
}

/* Checks the tokens of rows [first, first + count). */
static zero_status_t check_rows(data_t *data, int64_t first, int64_t count, int64_t vocab, zero_error_t *error)
{
    if (count == 0)
        return ZERO_OK;
    const int64_t begin = data->starts[first].token;
    /* the last target of a row may be the first input of the next one */
    const int64_t end = first + count < data->rows ? data->starts[first + count].token + 1 : data->tokens;
    return data_tokens_check(data, begin, end - begin, vocab, error);
}

zero_status_t data_check_rows(data_t *data, int64_t vocab, int64_t shuffle, int64_t positions, zero_error_t *error)
{
    const int64_t rows = data->rows;
    zero_status_t status = ZERO_OK;
    if (data->layout == DATA_WINDOWS)
        return data_check(data, data->seq_len, vocab, shuffle, positions, error);
    if (rows == 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s %s has no document with 2 tokens or more", data->option,
                         data->name);
    if (positions >= rows || shuffle < 0)
        return check_rows(data, 0, positions < rows ? positions : rows, vocab, error);
    for (int64_t q = 0; q < positions && status == ZERO_OK; q++)
        status = check_rows(data, data_window_at(rows, shuffle, q), 1, vocab, error);
    return status;
}

uint64_t data_documents_hash(const data_t *data, uint64_t hash)
{
    for (int i = 0; i < data->count; i++)
        hash = XXH64(data->files[i].ends, (size_t)data->files[i].documents * sizeof *data->files[i].ends, hash);
    return data->counts != NULL ? XXH64(data->counts, (size_t)data->tokens, hash) : hash;
}
