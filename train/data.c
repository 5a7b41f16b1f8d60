/* SPDX-License-Identifier: Apache-2.0 */
#include "train/corpus.h"
#include "train/data_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { OPEN_MOST = 64 }; /* files that are open at once, so that any number of them can be read */

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int64_t file_bytes(const data_file_t *f)
{
    return f->is.start + f->is.count * f->is.width;
}

static void close_file(data_t *data, data_file_t *f)
{
    if (f->file < 0)
        return;
    close(f->file);
    f->file = -1;
    data->open--;
}

/* Opens a file, and closes the one whose last use is longest ago if too many are open. */
static zero_status_t open_file(data_t *data, data_file_t *f, struct stat *info, zero_error_t *error)
{
    data_file_t *oldest = NULL;
    for (int i = 0; i < data->count && data->open >= OPEN_MOST; i++)
        if (data->files[i].file >= 0 && !data->files[i].keep && (oldest == NULL || data->files[i].used < oldest->used))
            oldest = &data->files[i];
    if (oldest != NULL)
        close_file(data, oldest);
    /* without O_NONBLOCK, opening a pipe would wait for a writer */
    f->file = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    data->open += f->file >= 0;
    if (f->file < 0 || fstat(f->file, info) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot open %s '%s': %s", data->option, f->path, strerror(errno));
    return ZERO_OK;
}

static zero_status_t reopen_file(data_t *data, data_file_t *f, zero_error_t *error)
{
    struct stat info;
    zero_status_t status = open_file(data, f, &info, error);
    if (status != ZERO_OK || info.st_size == file_bytes(f))
        return status;
    close_file(data, f);
    return zero_fail(error, ZERO_ERR_IO, "%s '%s' changed while it was used: it had %lld bytes, and now has %lld",
                     data->option, f->path, (long long)file_bytes(f), (long long)info.st_size);
}

static zero_status_t read_bytes(data_t *data, data_file_t *f, int64_t offset, void *out, int64_t bytes,
                                zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (f->memory != NULL) {
        memcpy(out, (const char *)f->memory + offset, (size_t)bytes);
        return ZERO_OK;
    }
    if (f->file < 0 && (status = reopen_file(data, f, error)) != ZERO_OK)
        return status;
    f->used = ++data->reads;
    for (int64_t done = 0; done < bytes;) {
        ssize_t n = pread(f->file, (char *)out + done, (size_t)(bytes - done), (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot read %s '%s': %s", data->option, f->path, strerror(errno));
        if (n == 0)
            return zero_fail(error, ZERO_ERR_IO, "%s '%s' was truncated while it was read: byte %lld is missing",
                             data->option, f->path, (long long)(offset + done));
        done += n;
    }
    return ZERO_OK;
}

/* The file that has a token of the stream. */
static data_file_t *file_of(const data_t *data, int64_t token)
{
    int low = 0, high = data->count - 1;
    while (low < high) {
        int middle = low + (high - low + 1) / 2;
        if (data->files[middle].first <= token)
            low = middle;
        else
            high = middle - 1;
    }
    return &data->files[low];
}

zero_status_t data_tokens_read(data_t *data, int64_t first, int64_t count, int64_t *out, zero_error_t *error)
{
    const void *raw = data->raw;
    zero_status_t status = ZERO_OK;
    for (int64_t done = 0, n; done < count && status == ZERO_OK; done += n) {
        data_file_t *f = file_of(data, first + done);
        const data_format_t *is = &f->is;
        const int64_t at = first + done - f->first;
        n = count - done < is->count - at ? count - done : is->count - at;
        status = read_bytes(data, f, is->start + at * is->width, data->raw, n * is->width, error);
        for (int64_t i = 0; i < n && status == ZERO_OK; i++)
            switch (is->width) {
            case 1:
                out[done + i] = data->raw[i];
                break;
            case 2:
                out[done + i] = ((const uint16_t *)raw)[i];
                break;
            case 4:
                out[done + i] = is->negative ? ((const int32_t *)raw)[i] : (int64_t)((const uint32_t *)raw)[i];
                break;
            default:
                out[done + i] = ((const int64_t *)raw)[i];
            }
    }
    return status;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static data_t *data_new(const char *option, char *const *paths, int count)
{
    char name[1024];
    data_t *data = calloc(1, sizeof *data);
    if (data == NULL)
        return NULL;
    snprintf(data->option, sizeof data->option, "%s", option);
    snprintf(name, sizeof name, "'%s'", paths[0]);
    if (count > 1)
        snprintf(name + strlen(name), sizeof name - strlen(name), " and %d more file%s", count - 1,
                 count == 2 ? "" : "s");
    data->name = strdup(name);
    data->raw = malloc(DATA_PIECE * 8);
    data->piece = malloc(DATA_PIECE * sizeof *data->piece);
    data->files = calloc((size_t)count, sizeof *data->files);
    if (data->name == NULL || data->raw == NULL || data->piece == NULL || data->files == NULL)
        goto fail;
    for (int i = 0; i < count; i++) {
        data->files[i].file = -1;
        if ((data->files[i].path = strdup(paths[i])) == NULL)
            goto fail;
        data->count++;
    }
    return data;
fail:
    data_close(data);
    return NULL;
}

/* Opens a file for the first time. */
static zero_status_t find_file(data_t *data, data_file_t *f, zero_error_t *error)
{
    struct stat info;
    zero_status_t status = open_file(data, f, &info, error);
    if (status != ZERO_OK)
        return status;
    if (!S_ISREG(info.st_mode))
        return zero_fail(error, ZERO_ERR_ARG, "%s '%s' is %s, but must be a regular file", data->option, f->path,
                         S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    if (info.st_size == 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' is empty: it has 0 bytes", data->option, f->path);
    const int64_t head = info.st_size < DATA_HEAD_BYTES ? info.st_size : DATA_HEAD_BYTES;
    status = read_bytes(data, f, 0, data->raw, head, error);
    return status == ZERO_OK ? data_format_find(&f->is, data->option, f->path, data->raw, info.st_size, error) : status;
}

zero_status_t data_open_files(data_t **out, const char *option, char *const *paths, int count, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    *out = NULL;
    data_t *data = data_new(option, paths, count);
    if (data == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for reading %s '%s'", option, paths[0]);
    for (int i = 0; i < count && status == ZERO_OK; i++) {
        data_file_t *f = &data->files[i], *before = i > 0 ? f - 1 : f;
        status = find_file(data, f, error);
        if (status == ZERO_OK && strcmp(f->is.name, before->is.name) != 0)
            status = zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' is %s, but '%s' is %s: use files of one format", option,
                               f->path, f->is.name, before->path, before->is.name);
        f->first = data->tokens;
        if (status == ZERO_OK && __builtin_add_overflow(data->tokens, f->is.count, &data->tokens))
            status = zero_fail(error, ZERO_ERR_FORMAT, "%s %s have more than 2^63 tokens", option, data->name);
    }
    if (status != ZERO_OK) {
        data_close(data);
        return status;
    }
    data->text = data->files[0].is.text;
    *out = data;
    return ZERO_OK;
}

zero_status_t data_open(data_t **out, const char *option, const char *path, zero_error_t *error)
{
    char *const paths[1] = {(char *)path};
    return data_open_files(out, option, paths, 1, error);
}

void data_put(data_t *data, data_file_t *f, int32_t *at, int64_t count)
{
    close_file(data, f);
    f->memory = at;
    f->is = (data_format_t){.name = f->is.name, .width = 4, .count = count};
    data->text = false;
    data->tokens = 0;
    for (int i = 0; i < data->count; i++) {
        data->files[i].first = data->tokens;
        data->tokens += data->files[i].is.count;
    }
}

zero_status_t data_open_corpus(data_t **out, bool held_out, zero_error_t *error)
{
    char *const paths[1] = {(char *)"the built-in corpus"};
    *out = NULL;
    data_t *data = data_new(held_out ? "--eval-data" : "--data", paths, 1);
    if (data != NULL) {
        data->text = true;
        data->files->is = (data_format_t){.name = "text", .text = true, .width = 1};
        data->files->memory = corpus_make(held_out, &data->tokens);
        data->files->is.count = data->tokens;
    }
    if (data == NULL || data->files->memory == NULL) {
        data_close(data);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the built-in corpus");
    }
    *out = data;
    return ZERO_OK;
}

void data_close(data_t *data)
{
    if (data == NULL)
        return;
    for (int i = 0; i < data->count; i++) {
        close_file(data, &data->files[i]);
        free(data->files[i].memory);
        free(data->files[i].ends);
        free(data->files[i].path);
    }
    free(data->files);
    free(data->name);
    free(data->raw);
    free(data->piece);
    free(data->counts);
    free(data->starts);
    free(data);
}

void data_replace(data_t *data, int file, int width, int64_t count, int64_t *ends, int64_t documents)
{
    for (int i = 0; i < data->count; i++)
        close_file(data, &data->files[i]);
    for (int i = 1; i < data->count; i++) {
        free(data->files[i].ends);
        free(data->files[i].path);
    }
    data->count = 1;
    free(data->files[0].ends);
    data->files[0] = (data_file_t){.path = data->files[0].path,
                                   .is = {.name = "tokens", .width = width, .count = count},
                                   .file = file,
                                   .keep = true,
                                   .ends = ends,
                                   .documents = documents};
    data->tokens = count;
    data->text = false;
}

/* ---- windows ---------------------------------------------------------------------------------------------------- */

const char *data_option(const data_t *data)
{
    return data->option;
}

const char *data_path(const data_t *data, int index)
{
    return index < data->count ? data->files[index].path : NULL;
}

int64_t data_tokens(const data_t *data)
{
    return data->tokens;
}

bool data_is_text(const data_t *data)
{
    return data->text;
}

bool data_is_lines(const data_t *data)
{
    return data->files[0].is.lines;
}

int64_t data_windows(const data_t *data, int64_t seq_len)
{
    return data->tokens > 0 ? (data->tokens - 1) / seq_len : 0;
}

int64_t data_permute(uint64_t key, int64_t n, int64_t i)
{
    int half = 1;
    while (half < 31 && (int64_t)1 << (2 * half) < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint64_t next = left ^ (zero_splitmix64(zero_splitmix64(key + round) ^ right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

int64_t data_window_at(int64_t windows, int64_t shuffle, int64_t q)
{
    int64_t epoch = q / windows, i = q % windows;
    if (shuffle < 0)
        return i;
    return data_permute(zero_splitmix64((uint64_t)shuffle) ^ zero_splitmix64((uint64_t)epoch + 0x5eed), windows, i);
}

zero_status_t data_no_token(const data_t *data, int64_t token, int64_t at, int64_t vocab, zero_error_t *error)
{
    const data_file_t *f = file_of(data, at);
    if (token < 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has token %lld at index %lld, but tokens are numbers from 0",
                         data->option, f->path, (long long)token, (long long)(at - f->first));
    return zero_fail(
        error, ZERO_ERR_FORMAT,
        "%s '%s' has token %lld at index %lld, but the model's vocabulary has %lld: use a --model with more than %lld "
        "tokens",
        data->option, f->path, (long long)token, (long long)(at - f->first), (long long)vocab, (long long)token);
}

zero_status_t data_tokens_get(data_t *data, int64_t first, int64_t count, int64_t vocab, int32_t *tokens,
                              int32_t *targets, zero_error_t *error)
{
    int64_t piece[1024];
    for (int64_t done = 0; done <= count;) {
        int64_t n = count + 1 - done < 1024 ? count + 1 - done : 1024;
        zero_status_t status = data_tokens_read(data, first + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++) {
            if (piece[i] < 0 || piece[i] >= vocab)
                return data_no_token(data, piece[i], first + done + i, vocab, error);
            if (done + i < count)
                tokens[done + i] = (int32_t)piece[i];
            if (done + i > 0)
                targets[done + i - 1] = (int32_t)piece[i];
        }
        done += n;
    }
    return ZERO_OK;
}

zero_status_t data_read(data_t *data, int64_t window, int64_t seq_len, int64_t vocab, int32_t *tokens, int32_t *targets,
                        zero_error_t *error)
{
    return data_tokens_get(data, window * seq_len, seq_len, vocab, tokens, targets, error);
}

zero_status_t data_tokens_check(data_t *data, int64_t first, int64_t count, int64_t vocab, zero_error_t *error)
{
    int64_t *piece = data->piece;
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < DATA_PIECE ? count - done : DATA_PIECE;
        zero_status_t status = data_tokens_read(data, first + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++)
            if (piece[i] < 0 || piece[i] >= vocab)
                return data_no_token(data, piece[i], first + done + i, vocab, error);
        done += n;
    }
    return ZERO_OK;
}

zero_status_t data_check(data_t *data, int64_t seq_len, int64_t vocab, int64_t shuffle, int64_t positions,
                         zero_error_t *error)
{
    const int64_t windows = data_windows(data, seq_len);
    const int width = data->files[0].is.width;
    if (windows == 0 && data->tokens < 2)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s %s has %lld token%s, but one window needs at least 2",
                         data->option, data->name, (long long)data->tokens, data->tokens == 1 ? "" : "s");
    if (windows == 0)
        return zero_fail(
            error, ZERO_ERR_FORMAT,
            "%s %s has %lld tokens, but one window of --seq-len %lld needs %lld: use --seq-len %lld or less",
            data->option, data->name, (long long)data->tokens, (long long)seq_len, (long long)seq_len + 1,
            (long long)data->tokens - 1);
    /* no token of this width can be as large as vocab, so there is nothing to check */
    if (width <= 2 && vocab > (width == 1 ? 255 : 65535))
        return ZERO_OK;
    zero_status_t status = ZERO_OK;
    if (positions >= windows || shuffle < 0) {
        int64_t used = positions < windows ? positions : windows;
        status = data_tokens_check(data, 0, used * seq_len + (used > 0), vocab, error);
    } else {
        for (int64_t q = 0; q < positions && status == ZERO_OK; q++)
            status = data_tokens_check(data, data_window_at(windows, shuffle, q) * seq_len, seq_len + 1, vocab, error);
    }
    return status;
}

/* Adds bytes of a file to a hash, at most HASHED. */
enum { HASHED = 4096 };
static zero_status_t hash_piece(data_t *data, data_file_t *f, int64_t offset, uint64_t *hash, zero_error_t *error)
{
    unsigned char piece[HASHED];
    const int64_t left = file_bytes(f) - offset, n = left < HASHED ? left : HASHED;
    zero_status_t status = read_bytes(data, f, offset, piece, n, error);
    if (status == ZERO_OK)
        *hash = XXH64(piece, (size_t)n, *hash);
    return status;
}

zero_status_t data_fingerprint(data_t *data, uint64_t *hash, zero_error_t *error)
{
    enum { PIECES = 256 };
    zero_status_t status = ZERO_OK;
    int64_t bytes = 0, before = 0;
    int at = 0;
    *hash = 0;
    for (int i = 0; i < data->count && status == ZERO_OK; i++) {
        const int64_t size = file_bytes(&data->files[i]);
        bytes += size;
        *hash = XXH64(&size, sizeof size, *hash);
        status = hash_piece(data, &data->files[i], 0, hash, error);
    }
    /* the others are spread over all files as if they were one, and each ends with its file */
    for (int64_t i = 1; i < PIECES && bytes > HASHED && status == ZERO_OK; i++) {
        int64_t offset = (int64_t)((double)(bytes - HASHED) / (PIECES - 1) * (double)i);
        while (offset >= before + file_bytes(&data->files[at]))
            before += file_bytes(&data->files[at++]);
        status = hash_piece(data, &data->files[at], offset - before, hash, error);
    }
    *hash = data_documents_hash(data, *hash);
    return status;
}
