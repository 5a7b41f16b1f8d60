#include "examples/zero_train/data.h"
#include "examples/zero_train/corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { HEADER_BYTES = 1024, PIECE_TOKENS = 65536 };

struct data {
    char option[32], *path;
    int file;           /* -1: the corpus */
    char *text;         /* the corpus */
    int width;          /* bytes of a token: 1 text, 2 or 4 token files */
    int64_t start;      /* of the tokens in the file, bytes */
    int64_t count;      /* tokens */
    unsigned char *raw; /* PIECE_TOKENS * 4 bytes, aligned for any token */
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
            return zero_fail(error, ZERO_ERR_IO, "%s '%s' became shorter while it was read: byte %lld is gone", data->option, data->path,
                             (long long)(offset + done));
        done += n;
    }
    return ZERO_OK;
}

/* tokens [first, first + count) as they are, count <= PIECE_TOKENS */
static zero_status_t read_tokens(data_t *data, int64_t first, int64_t count, uint32_t *out, zero_error_t *error)
{
    zero_status_t status = read_bytes(data, data->start + first * data->width, data->raw, count * data->width, error);
    if (status != ZERO_OK)
        return status;
    switch (data->width) {
    case 1:
        for (int64_t i = 0; i < count; i++)
            out[i] = data->raw[i];
        break;
    case 2:
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const uint16_t *)(const void *)data->raw)[i];
        break;
    default:
        memcpy(out, data->raw, (size_t)count * 4);
    }
    return ZERO_OK;
}

/* The header of a token file of size bytes. */
static zero_status_t read_header(data_t *data, int64_t size, zero_error_t *error)
{
    const char *o = data->option, *p = data->path;
    int32_t header[HEADER_BYTES / 4];
    if (size < HEADER_BYTES)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' is truncated: it has %lld bytes, and the header of a token file alone has %d", o, p,
                         (long long)size, HEADER_BYTES);
    zero_status_t status = read_bytes(data, 0, header, HEADER_BYTES, error);
    if (status != ZERO_OK)
        return status;
    if (header[0] != 20240520 && header[0] != 20240801)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s '%s' is no token file: its magic number is %d, but must be 20240520 or 20240801 (text files do not end in .bin)", o, p, header[0]);
    int wanted = header[0] == 20240520 ? 1 : 7;
    if (header[1] != wanted)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has version %d, but must have %d with magic number %d", o, p, header[1], wanted, header[0]);
    if (header[2] < 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' says that it has %d tokens", o, p, header[2]);
    data->width = wanted == 1 ? 2 : 4;
    data->start = HEADER_BYTES;
    data->count = header[2];
    int64_t bytes = HEADER_BYTES + data->count * data->width;
    if (size != bytes)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' %s: its header says %lld tokens, which is a file of %lld bytes, but it has %lld", o, p,
                         size < bytes ? "is truncated" : "is longer than its header says", (long long)data->count, (long long)bytes, (long long)size);
    return ZERO_OK;
}

static data_t *data_new(const char *option, const char *path)
{
    data_t *data = calloc(1, sizeof *data);
    if (data == NULL)
        return NULL;
    snprintf(data->option, sizeof data->option, "%s", option);
    data->file = -1;
    data->width = 1;
    data->path = strdup(path);
    data->raw = malloc(PIECE_TOKENS * 4);
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
    /* without O_NONBLOCK opening a pipe would wait for somebody to write to it */
    data->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (data->file < 0 || fstat(data->file, &info) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot open %s '%s': %s", option, path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = zero_fail(error, ZERO_ERR_ARG, "%s '%s' is %s, but must be a regular file", option, path,
                           S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    else if (info.st_size == 0)
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' is empty: it has 0 bytes", option, path);
    else {
        size_t length = strlen(path);
        data->count = info.st_size;
        status = length >= 4 && strcmp(path + length - 4, ".bin") == 0 ? read_header(data, info.st_size, error) : ZERO_OK;
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
        data->text = corpus_make(held_out, &data->count);
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
    return data->count;
}

bool data_is_text(const data_t *data)
{
    return data->width == 1;
}

int64_t data_windows(const data_t *data, int64_t seq_len)
{
    return data->count > 0 ? (data->count - 1) / seq_len : 0;
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

static zero_status_t too_large(const data_t *data, uint32_t token, int64_t at, int64_t vocab, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has token %u at index %lld, but the model's vocabulary has %lld: use a --model with more than %u tokens",
                     data->option, data->path, token, (long long)at, (long long)vocab, token);
}

zero_status_t data_read(data_t *data, int64_t window, int64_t seq_len, int64_t vocab, int32_t *tokens, int32_t *targets, zero_error_t *error)
{
    uint32_t piece[1024];
    for (int64_t done = 0; done <= seq_len;) {
        int64_t n = seq_len + 1 - done < 1024 ? seq_len + 1 - done : 1024;
        zero_status_t status = read_tokens(data, window * seq_len + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++) {
            if (piece[i] >= (uint64_t)vocab)
                return too_large(data, piece[i], window * seq_len + done + i, vocab, error);
            if (done + i < seq_len)
                tokens[done + i] = (int32_t)piece[i];
            if (done + i > 0)
                targets[done + i - 1] = (int32_t)piece[i];
        }
        done += n;
    }
    return ZERO_OK;
}

/* Tokens [first, first + count). */
static zero_status_t check_range(data_t *data, int64_t first, int64_t count, int64_t vocab, uint32_t *piece, zero_error_t *error)
{
    for (int64_t done = 0; done < count;) {
        int64_t n = count - done < PIECE_TOKENS ? count - done : PIECE_TOKENS;
        zero_status_t status = read_tokens(data, first + done, n, piece, error);
        if (status != ZERO_OK)
            return status;
        for (int64_t i = 0; i < n; i++)
            if (piece[i] >= (uint64_t)vocab)
                return too_large(data, piece[i], first + done + i, vocab, error);
        done += n;
    }
    return ZERO_OK;
}

zero_status_t data_check(data_t *data, int64_t seq_len, int64_t vocab, int64_t shuffle, int64_t positions, zero_error_t *error)
{
    int64_t windows = data_windows(data, seq_len);
    if (windows == 0 && data->count < 2)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has %lld token%s, but one window needs at least 2", data->option, data->path,
                         (long long)data->count, data->count == 1 ? "" : "s");
    if (windows == 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s '%s' has %lld tokens, but one window of --seq-len %lld needs %lld: use --seq-len %lld or less",
                         data->option, data->path, (long long)data->count, (long long)seq_len, (long long)seq_len + 1, (long long)data->count - 1);
    /* what a token of this width cannot reach needs no look */
    if (vocab > (data->width == 1 ? 255 : data->width == 2 ? 65535 : (int64_t)UINT32_MAX))
        return ZERO_OK;
    uint32_t *piece = malloc(PIECE_TOKENS * sizeof *piece);
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
    int64_t bytes = data->start + data->count * data->width;
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
