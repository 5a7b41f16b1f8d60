/* SPDX-License-Identifier: Apache-2.0 */
#include "train/data.h"
#include "train/corpus.h"
#include "train/data_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PIECE_TOKENS = 65536 };

struct data {
    char option[32], *path;
    int file;   /* -1: the corpus */
    char *text; /* the corpus */
    data_format_t is;
    unsigned char *raw; /* PIECE_TOKENS * 8 bytes, aligned for any token */
};

static zero_status_t read_bytes(data_t *data, int64_t offset, void *out, int64_t bytes, zero_error_t *error)
{
    if (data->file < 0) {
        memcpy(out, data->text + offset, (size_t)bytes);
        return ZERO_OK;
    }
    for (int64_t done = 0; done < bytes;) {
        ssize_t n = pread(data->file, (char *)out + done, (size_t)(bytes - done), (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot read %s '%s': %s", data->option, data->path, strerror(errno));
        if (n == 0)
            return zero_fail(error, ZERO_ERR_IO, "%s '%s' was truncated while it was read: byte %lld is missing",
                             data->option, data->path, (long long)(offset + done));
        done += n;
    }
    return ZERO_OK;
}

/* Reads tokens [first, first + count) unchecked, count <= PIECE_TOKENS. */
static zero_status_t read_tokens(data_t *data, int64_t first, int64_t count, int64_t *out, zero_error_t *error)
{
    const void *raw = data->raw;
    zero_status_t status =
        read_bytes(data, data->is.start + first * data->is.width, data->raw, count * data->is.width, error);
    for (int64_t i = 0; i < count && status == ZERO_OK; i++)
        switch (data->is.width) {
        case 1:
            out[i] = data->raw[i];
            break;
        case 2:
            out[i] = ((const uint16_t *)raw)[i];
            break;
        case 4:
            out[i] = data->is.negative ? ((const int32_t *)raw)[i] : (int64_t)((const uint32_t *)raw)[i];
            break;
        default:
            out[i] = ((const int64_t *)raw)[i];
        }
    return status;
}

static data_t *data_new(const char *option, const char *path)
{
    data_t *data = calloc(1, sizeof *data);
    if (data == NULL)
        return NULL;
    snprintf(data->option, sizeof data->option, "%s", option);
    data->file = -1;
    data->is = (data_format_t){.text = true, .width = 1};
    data->path = strdup(path);
    data->raw = malloc(PIECE_TOKENS * 8);
    if (data->path == NULL || data->raw == NULL) {
        data_close(data);
        return NULL;
    }
    return data;
}

zero_status_t data_open(data_t **out, const char *option, const char *path, zero_error_t *error)
{
    struct stat info;
    *out = NULL;
    data_t *data = data_new(option, path);
    if (data == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for reading %s '%s'", option, path);
    zero_status_t status;
    /* without O_NONBLOCK, opening a pipe would wait for a writer */
    data->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (data->file < 0 || fstat(data->file, &info) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot open %s '%s': %s", option, path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = zero_fail(error, ZERO_ERR_ARG, "%s '%s' is %s, but must be a regular file", option, path,
                           S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    else if (info.st_size == 0)
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' is empty: it has 0 bytes", option, path);
    else {
        status = read_bytes(data, 0, data->raw, info.st_size < DATA_HEAD_BYTES ? info.st_size : DATA_HEAD_BYTES, error);
        if (status == ZERO_OK)
            status = data_format_find(&data->is, option, path, data->raw, info.st_size, error);
    }
    if (status != ZERO_OK) {
        data_close(data);
        return status;
    }
    *out = data;
    return ZERO_OK;
}

zero_status_t data_open_corpus(data_t **out, bool held_out, zero_error_t *error)
{
    *out = NULL;
    data_t *data = data_new(held_out ? "--eval-data" : "--data", "the built-in corpus");
    if (data != NULL)
        data->text = corpus_make(held_out, &data->is.count);
    if (data == NULL || data->text == NULL) {
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
    if (data->file >= 0)
        close(data->file);
    free(data->text);
    free(data->path);
    free(data->raw);
    free(data);
}

int64_t data_tokens(const data_t *data)
{
    return data->is.count;
}

bool data_is_text(const data_t *data)
{
    return data->is.text;
}

int64_t data_windows(const data_t *data, int64_t seq_len)
{
    return data->is.count > 0 ? (data->is.count - 1) / seq_len : 0;
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

/* Fails for a token outside the model's vocabulary. */
static zero_status_t no_token(const data_t *data, int64_t token, int64_t at, int64_t vocab, zero_error_t *error)
{
    if (token < 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has token %lld at index %lld, but tokens are numbers from 0",
                         data->option, data->path, (long long)token, (long long)at);
    return zero_fail(
        error, ZERO_ERR_FORMAT,
        "%s '%s' has token %lld at index %lld, but the model's vocabulary has %lld: use a --model with more than %lld "
        "tokens",
        data->option, data->path, (long long)token, (long long)at, (long long)vocab, (long long)token);
}

zero_status_t data_read(data_t *data, int64_t window, int64_t seq_len, int64_t vocab, int32_t *tokens, int32_t *targets,
                        zero_error_t *error)
{
    int64_t piece[1024];
    for (int64_t done = 0; done <= seq_len;) {
        int64_t n = seq_len + 1 - done < 1024 ? seq_len + 1 - done : 1024;
        zero_status_t status = read_tokens(data, window * seq_len + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++) {
            if (piece[i] < 0 || piece[i] >= vocab)
                return no_token(data, piece[i], window * seq_len + done + i, vocab, error);
            if (done + i < seq_len)
                tokens[done + i] = (int32_t)piece[i];
            if (done + i > 0)
                targets[done + i - 1] = (int32_t)piece[i];
        }
        done += n;
    }
    return ZERO_OK;
}

/* Checks tokens [first, first + count). */
static zero_status_t check_range(data_t *data, int64_t first, int64_t count, int64_t vocab, int64_t *piece,
                                 zero_error_t *error)
{
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < PIECE_TOKENS ? count - done : PIECE_TOKENS;
        zero_status_t status = read_tokens(data, first + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++)
            if (piece[i] < 0 || piece[i] >= vocab)
                return no_token(data, piece[i], first + done + i, vocab, error);
        done += n;
    }
    return ZERO_OK;
}

zero_status_t data_check(data_t *data, int64_t seq_len, int64_t vocab, int64_t shuffle, int64_t positions,
                         zero_error_t *error)
{
    int64_t windows = data_windows(data, seq_len);
    if (windows == 0 && data->is.count < 2)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has %lld token%s, but one window needs at least 2",
                         data->option, data->path, (long long)data->is.count, data->is.count == 1 ? "" : "s");
    if (windows == 0)
        return zero_fail(
            error, ZERO_ERR_FORMAT,
            "%s '%s' has %lld tokens, but one window of --seq-len %lld needs %lld: use --seq-len %lld or less",
            data->option, data->path, (long long)data->is.count, (long long)seq_len, (long long)seq_len + 1,
            (long long)data->is.count - 1);
    /* no token of this width can be as large as vocab, so there is nothing to check */
    if (data->is.width <= 2 && vocab > (data->is.width == 1 ? 255 : 65535))
        return ZERO_OK;
    int64_t *piece = malloc(PIECE_TOKENS * sizeof *piece);
    if (piece == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for reading %s '%s'", data->option, data->path);
    zero_status_t status = ZERO_OK;
    if (positions >= windows || shuffle < 0) {
        int64_t used = positions < windows ? positions : windows;
        status = check_range(data, 0, used * seq_len + (used > 0), vocab, piece, error);
    } else {
        for (int64_t q = 0; q < positions && status == ZERO_OK; q++)
            status = check_range(data, data_window_at(windows, shuffle, q) * seq_len, seq_len + 1, vocab, piece, error);
    }
    free(piece);
    return status;
}

zero_status_t data_fingerprint(data_t *data, uint64_t *hash, zero_error_t *error)
{
    enum { PIECES = 256, BYTES = 4096 };
    unsigned char piece[BYTES];
    int64_t bytes = data->is.start + data->is.count * data->is.width;
    *hash = (uint64_t)bytes;
    for (int64_t i = 0; i < PIECES; i++) {
        int64_t offset = bytes <= BYTES ? 0 : (int64_t)((double)(bytes - BYTES) / (PIECES - 1) * (double)i);
        int64_t n = bytes <= BYTES ? bytes : BYTES;
        zero_status_t status = read_bytes(data, offset, piece, n, error);
        if (status != ZERO_OK)
            return status;
        *hash = XXH64(piece, (size_t)n, *hash);
        if (bytes <= BYTES)
            break;
    }
    return ZERO_OK;
}
