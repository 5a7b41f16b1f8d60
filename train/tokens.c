/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/tokens.h"
#include "train/cores.h"
#include "train/grow.h"
#include "train/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK_BYTES = 16 << 20, HEADER_BYTES = 1024, NARROW = 20240520, WIDE = 20240801, WIDE_VERSION = 7 };

/* ---- a file being encoded --------------------------------------------------------------------------------------- */

typedef struct work {
    const char *option, *path; /* of the text */
    bool lines;
    lines_t *wrong; /* those that are left out */
    bool draws;     /* progress, on a terminal */
    int64_t bytes, done;
    int width;         /* bytes of a token in the output */
    FILE *out, *index; /* index NULL: none */
    int64_t tokens, documents;
    int64_t line; /* the first line of the block */
    zero_encoders_t *encoders;
    zero_ids_t ids;
    int64_t *ends;
    zero_text_t *texts;
    json_t **parsed;     /* (room): owners of texts of JSON lines */
    int64_t *line_of;    /* (room) */
    int64_t count, room; /* documents of the block */
    double began, drawn;
} work_t;

static int width_of(const zero_tokenizer_t *t)
{
    return zero_tokenizer_size(t) <= 65536 ? 2 : 4;
}

static zero_status_t no_memory(const work_t *w, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for encoding %s '%s'", w->option, w->path);
}

static bool add_document(work_t *w, const char *at, size_t bytes, json_t *owner, int64_t line)
{
    if (w->count == w->room) {
        int64_t room = w->room * 2 + 1024;
        if (!grow((void **)&w->texts, room, sizeof *w->texts) || !grow((void **)&w->ends, room, sizeof *w->ends) ||
            !grow((void **)&w->parsed, room, sizeof(json_t *)) || !grow((void **)&w->line_of, room, sizeof *w->line_of))
            return false;
        w->room = room;
    }
    w->texts[w->count] = (zero_text_t){at, bytes};
    w->line_of[w->count] = line;
    w->parsed[w->count++] = owner;
    return true;
}

static void draw(work_t *w)
{
    double now = zero_now(), seconds = now - w->began;
    if (!w->draws || now - w->drawn < 0.2)
        return;
    terminal_erase(STDOUT_FILENO);
    printf("tokenizing %s: %.0f%%, %.1f MB/s", w->path, 100.0 * (double)w->done / (double)w->bytes,
           seconds > 0 ? 1e-6 * (double)w->done / seconds : 0);
    fflush(stdout);
    w->drawn = now;
}

static zero_status_t write_tokens(work_t *w, zero_error_t *error)
{
    uint16_t narrow[4096];
    size_t n;
    for (int64_t i = 0; i < w->ids.count; i += (int64_t)n) {
        const void *from = w->ids.at + i;
        n = w->ids.count - i < 4096 ? (size_t)(w->ids.count - i) : 4096;
        for (size_t k = 0; k < n && w->width == 2; k++)
            narrow[k] = (uint16_t)w->ids.at[i + (int64_t)k];
        if (fwrite(w->width == 2 ? narrow : from, (size_t)w->width, n, w->out) != n)
            return zero_fail(error, ZERO_ERR_IO, "cannot write the tokens of %s '%s': %s", w->option, w->path,
                             strerror(errno));
    }
    for (int64_t i = 0; i < w->count && w->index != NULL; i++) {
        int64_t end = w->tokens + w->ends[i];
        if (fwrite(&end, sizeof end, 1, w->index) != 1)
            return zero_fail(error, ZERO_ERR_IO, "cannot write the index of %s '%s': %s", w->option, w->path,
                             strerror(errno));
    }
    w->tokens += w->ids.count;
    w->documents += w->count;
    return ZERO_OK;
}

/* Encodes and writes the documents of the block, and forgets them. */
static zero_status_t finish_block(work_t *w, zero_error_t *error)
{
    zero_error_t why = {0};
    int64_t failed;
    zero_status_t status;
    w->ids.count = 0;
    status = zero_encoders_encode(w->encoders, w->texts, w->count, true, &w->ids, w->ends, &failed, &why);
    if (status == ZERO_OK)
        status = write_tokens(w, error);
    else if (w->lines && failed >= 0)
        zero_fail(error, status, "%s '%s', line %lld: %s", w->option, w->path, (long long)w->line_of[failed], why.text);
    else if (status == ZERO_ERR_FORMAT)
        zero_fail(error, status, "%s '%s': %s: convert it, for example with iconv, or remove --tokenizer", w->option,
                  w->path, why.text);
    else
        zero_fail(error, status, "%s '%s': %s", w->option, w->path, why.text);
    for (int64_t i = 0; i < w->count; i++)
        json_decref(w->parsed[i]);
    w->count = 0;
    draw(w);
    return status;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* A line of JSON becomes a document. Empty lines are none. */
static zero_status_t add_line(work_t *w, const char *at, size_t bytes, zero_error_t *error)
{
    json_error_t where;
    char reason[256] = "";
    w->line++;
    if (lines_blank(at, bytes))
        return ZERO_OK;
    json_t *line = json_loadb(at, bytes, JSON_ALLOW_NUL, &where), *text = json_object_get(line, "text");
    if (line == NULL)
        snprintf(reason, sizeof reason, "is not a JSON object: %.200s", where.text);
    else if (!json_is_string(text))
        snprintf(reason, sizeof reason, "has no text \"text\"");
    else if (add_document(w, json_string_value(text), json_string_length(text), line, w->line))
        return ZERO_OK;
    json_decref(line);
    return reason[0] != '\0' ? lines_wrong(w->wrong, w->option, w->path, w->line, reason, error) : no_memory(w, error);
}

/* Reads up to bytes; fewer at the end of the file. */
static zero_status_t read_some(work_t *w, int file, char *at, size_t bytes, size_t *got, zero_error_t *error)
{
    *got = 0;
    while (*got < bytes) {
        ssize_t n = read(file, at + *got, bytes - *got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot read %s '%s': %s", w->option, w->path, strerror(errno));
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    w->done += (int64_t)*got;
    return ZERO_OK;
}

/* Each block is whole lines: it ends at its last line's end, and the rest begins the next one. */
static zero_status_t read_lines(work_t *w, int file, zero_error_t *error)
{
    size_t room = BLOCK_BYTES, held = 0, got;
    char *block = malloc(room);
    zero_status_t status = block != NULL ? ZERO_OK : no_memory(w, error);
    while (status == ZERO_OK) {
        if (held == room) { /* one line fills it */
            if (!grow((void **)&block, (int64_t)(room * 2), 1)) {
                status = no_memory(w, error);
                break;
            }
            room *= 2;
        }
        if ((status = read_some(w, file, block + held, room - held, &got, error)) != ZERO_OK)
            break;
        size_t all = held + got, at = 0;
        for (const char *end; status == ZERO_OK && (end = memchr(block + at, '\n', all - at)) != NULL;) {
            status = add_line(w, block + at, (size_t)(end - block) - at, error);
            at = (size_t)(end - block) + 1;
        }
        bool last = all < room;
        if (status == ZERO_OK && last && at < all)
            status = add_line(w, block + at, all - at, error);
        if (status == ZERO_OK)
            status = finish_block(w, error);
        held = all - at;
        memmove(block, block + at, held);
        if (last)
            break;
    }
    for (int64_t i = 0; i < w->count; i++)
        json_decref(w->parsed[i]);
    w->count = 0;
    free(block);
    return status;
}

static zero_status_t read_text(work_t *w, int file, zero_error_t *error)
{
    size_t got = 0;
    char *text = malloc((size_t)w->bytes + 1);
    zero_status_t status = text != NULL ? read_some(w, file, text, (size_t)w->bytes, &got, error) : no_memory(w, error);
    if (status == ZERO_OK && (int64_t)got < w->bytes)
        status = zero_fail(error, ZERO_ERR_IO, "%s '%s' was truncated while it was read: byte %zu is missing",
                           w->option, w->path, got);
    draw(w);
    if (status == ZERO_OK && !add_document(w, text, got, NULL, 1))
        status = no_memory(w, error);
    if (status == ZERO_OK)
        status = finish_block(w, error);
    free(text);
    return status;
}

/* Encodes the file of w to its output. */
static zero_status_t encode_file(work_t *w, const zero_tokenizer_t *t, int threads, zero_error_t *error)
{
    struct stat info;
    int file = open(w->path, O_RDONLY | O_CLOEXEC);
    zero_status_t status;
    w->width = width_of(t);
    w->began = zero_now();
    if (file < 0 || fstat(file, &info) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot open %s '%s': %s", w->option, w->path, strerror(errno));
    else if ((status = zero_encoders_open(&w->encoders, t, threads, error)) == ZERO_OK) {
        w->bytes = info.st_size;
        status = w->lines ? read_lines(w, file, error) : read_text(w, file, error);
    }
    if (w->draws && w->drawn > 0)
        terminal_erase(STDOUT_FILENO);
    if (file >= 0)
        close(file);
    zero_encoders_close(w->encoders);
    free(w->ids.at);
    free(w->ends);
    free(w->texts);
    free(w->parsed);
    free(w->line_of);
    return status;
}

/* ---- --tokenizer ------------------------------------------------------------------------------------------------ */

zero_status_t tokens_open(zero_tokenizer_t **tokenizer, const options_t *o, bool folder, zero_error_t *error)
{
    char path[PATH_MAX];
    zero_error_t why = {0};
    *tokenizer = NULL;
    if (o->tokenizer == NULL) {
        if (!folder || snprintf(path, sizeof path, "%s/tokenizer.json", o->model) >= (int)sizeof path ||
            access(path, F_OK) != 0)
            return ZERO_OK;
        return zero_tokenizer_open(tokenizer, path, error);
    }
    zero_status_t status = zero_tokenizer_open(tokenizer, o->tokenizer, &why);
    return status == ZERO_OK ? status : zero_fail(error, status, "--tokenizer: %s", why.text);
}

zero_status_t tokens_replace(data_t *data, const zero_tokenizer_t *t, int threads, lines_t *wrong, zero_error_t *error)
{
    const char *folder = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp", *option = data_option(data), *path;
    char name[PATH_MAX];
    zero_status_t status = ZERO_OK;
    int64_t tokens = 0, documents = 0;
    char *ends = NULL; /* the index, in memory */
    size_t ends_bytes;
    snprintf(name, sizeof name, "%s/zero_train.XXXXXX", folder);
    int file = mkostemp(name, O_CLOEXEC);
    if (file >= 0)
        unlink(name);
    FILE *out = file >= 0 ? fdopen(dup(file), "wb") : NULL;
    FILE *index = open_memstream(&ends, &ends_bytes);
    if (out == NULL)
        status = zero_fail(error, ZERO_ERR_IO, "cannot create a file for the tokens of %s in '%s': %s", option, folder,
                           strerror(errno));
    else if (index == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the documents of %s", option);
    for (int i = 0; status == ZERO_OK && (path = data_path(data, i)) != NULL; i++) {
        work_t w = {.option = option,
                    .path = path,
                    .lines = data_is_lines(data),
                    .out = out,
                    .index = index,
                    .tokens = tokens,
                    .wrong = wrong};
        status = encode_file(&w, t, threads, error);
        tokens = w.tokens;
        documents += w.documents;
    }
    if (out != NULL && fclose(out) != 0 && status == ZERO_OK)
        status =
            zero_fail(error, ZERO_ERR_IO, "cannot write the tokens of %s in '%s': %s", option, folder, strerror(errno));
    if (index != NULL && fclose(index) != 0 && status == ZERO_OK)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the documents of %s", option);
    if (status == ZERO_OK) {
        data_replace(data, file, width_of(t), tokens, (int64_t *)(void *)ends, documents);
        return ZERO_OK;
    }
    free(ends);
    if (file >= 0)
        close(file);
    return status;
}

/* ---- --tokenize ------------------------------------------------------------------------------------------------- */

/* --tokenize runs nothing else, so an option that has no effect beside it is an error. */
static zero_status_t check_options(const options_t *o, zero_error_t *error)
{
    static const char *const used[] = {"tokenize",       "tokenizer", "model", "threads",
                                       "skip-bad-lines", "quiet",     "config"};
    for (int i = 0; i < options_count(); i++) {
        option_view_t view;
        bool has = false;
        options_view(o, i, &view);
        for (size_t k = 0; k < sizeof used / sizeof *used; k++)
            has = has || strcmp(view.name, used[k]) == 0;
        if (o->given[i] && !has)
            return zero_fail(error, ZERO_ERR_ARG,
                             "--%s has no effect with --tokenize, which only writes tokens: remove one of the two",
                             view.name);
    }
    return ZERO_OK;
}

/* path with another ending, and with .tmp after it while it is incomplete. */
static bool output_names(const char *path, const char *ending, char name[PATH_MAX], char incomplete[PATH_MAX])
{
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    int stem = dot != NULL && dot > (slash != NULL ? slash + 1 : path) ? (int)(dot - path) : (int)strlen(path);
    return snprintf(name, PATH_MAX, "%.*s%s", stem, path, ending) < PATH_MAX &&
           snprintf(incomplete, PATH_MAX, "%s.tmp", name) < PATH_MAX;
}

typedef struct outputs {
    char name[2][PATH_MAX], incomplete[2][PATH_MAX]; /* tokens, index */
    FILE *file[2];
} outputs_t;

static zero_status_t outputs_open(outputs_t *out, const char *path, zero_error_t *error)
{
    static const char *const endings[2] = {".bin", ".bin.idx"};
    for (int i = 0; i < 2; i++) {
        if (!output_names(path, endings[i], out->name[i], out->incomplete[i]))
            return zero_fail(error, ZERO_ERR_ARG, "--tokenize has %zu characters, but must be a path of less than %d",
                             strlen(path), PATH_MAX - 8);
        if (strcmp(out->name[i], path) == 0)
            return zero_fail(error, ZERO_ERR_ARG, "--tokenize '%s' would be replaced by its own %s: rename it", path,
                             i == 0 ? "tokens" : "index");
        out->file[i] = fopen(out->incomplete[i], "wb");
        if (out->file[i] == NULL)
            return zero_fail(error, ZERO_ERR_IO, "cannot create '%s' for --tokenize: %s", out->incomplete[i],
                             strerror(errno));
    }
    return ZERO_OK;
}

/* The headers, which are written last, when the counts are known. */
static bool write_headers(const work_t *w)
{
    int32_t header[HEADER_BYTES / 4] = {w->width == 2 ? NARROW : WIDE, w->width == 2 ? 1 : WIDE_VERSION,
                                        (int32_t)w->tokens};
    return fseek(w->out, 0, SEEK_SET) == 0 && fwrite(header, sizeof header, 1, w->out) == 1 &&
           fseek(w->index, 0, SEEK_SET) == 0 && fwrite("zeroidx1", 8, 1, w->index) == 1 &&
           fwrite(&w->documents, sizeof w->documents, 1, w->index) == 1;
}

/* Completes both files, or removes the incomplete ones. */
static zero_status_t outputs_close(outputs_t *out, zero_status_t status, zero_error_t *error)
{
    for (int i = 0; i < 2; i++) {
        if (out->file[i] == NULL)
            continue;
        bool whole = fflush(out->file[i]) == 0 && fsync(fileno(out->file[i])) == 0;
        whole = fclose(out->file[i]) == 0 && whole;
        if (!whole && status == ZERO_OK)
            status = zero_fail(error, ZERO_ERR_IO, "cannot write '%s': %s", out->incomplete[i], strerror(errno));
    }
    /* the index first: tokens without an index are valid, an index of older tokens is not */
    for (int i = 1; i >= 0 && status == ZERO_OK; i--)
        if (rename(out->incomplete[i], out->name[i]) != 0)
            status = zero_fail(error, ZERO_ERR_IO, "cannot rename '%s' to '%s': %s", out->incomplete[i], out->name[i],
                               strerror(errno));
    for (int i = 0; i < 2 && status != ZERO_OK; i++)
        if (out->file[i] != NULL)
            unlink(out->incomplete[i]);
    return status;
}

static zero_status_t tokenize(const options_t *o, const zero_tokenizer_t *t, bool lines, zero_error_t *error)
{
    lines_t wrong = {.skip = o->skip_bad_lines != 0};
    work_t w = {.option = "--tokenize", .path = o->tokenize, .lines = lines, .wrong = &wrong};
    outputs_t out = {0};
    static const char header[HEADER_BYTES];
    w.draws = !o->quiet && terminal_columns(STDOUT_FILENO) > 0;
    double began = zero_now();
    zero_status_t status = outputs_open(&out, o->tokenize, error);
    w.out = out.file[0];
    w.index = out.file[1];
    if (status == ZERO_OK && (fwrite(header, HEADER_BYTES, 1, w.out) != 1 || fwrite(header, 16, 1, w.index) != 1))
        status = zero_fail(error, ZERO_ERR_IO, "cannot write '%s': %s", out.incomplete[0], strerror(errno));
    if (status == ZERO_OK)
        status = encode_file(&w, t, (int)o->threads > 0 ? (int)o->threads : cores_here(), error);
    if (status == ZERO_OK && w.tokens > INT32_MAX)
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "--tokenize '%s' has %lld tokens, but a token file has at most %d: split the file", w.path,
                           (long long)w.tokens, INT32_MAX);
    if (status == ZERO_OK && !write_headers(&w))
        status = zero_fail(error, ZERO_ERR_IO, "cannot write '%s': %s", out.incomplete[0], strerror(errno));
    status = outputs_close(&out, status, error);
    if (status == ZERO_OK && !o->quiet)
        printf("%s: %lld tokens of %lld document%s, %.1f MB/s\n", out.name[0], (long long)w.tokens,
               (long long)w.documents, w.documents == 1 ? "" : "s", 1e-6 * (double)w.bytes / (zero_now() - began));
    if (status == ZERO_OK && !o->quiet && wrong.skipped > 0)
        printf("%lld line%s left out, the first is %s\n", (long long)wrong.skipped, wrong.skipped == 1 ? "" : "s",
               wrong.first);
    return status;
}

zero_status_t tokens_file(const options_t *o, bool *writes, zero_error_t *error)
{
    zero_tokenizer_t *t = NULL;
    data_t *data = NULL;
    struct stat info;
    bool folder = o->model != NULL && stat(o->model, &info) == 0 && S_ISDIR(info.st_mode);
    zero_status_t status = check_options(o, error);
    /* checks the file as --data would be, and that it is text */
    if (status == ZERO_OK)
        status = data_open(&data, "--tokenize", o->tokenize, error);
    if (status == ZERO_OK && !data_is_text(data))
        status = zero_fail(error, ZERO_ERR_ARG, "--tokenize '%s' has tokens already, but must be text", o->tokenize);
    const bool lines = status == ZERO_OK && data_is_lines(data);
    if (status == ZERO_OK && o->skip_bad_lines && !lines)
        status = zero_fail(error, ZERO_ERR_ARG,
                           "--skip-bad-lines is set, but --tokenize '%s' is not JSON lines (.jsonl): remove it",
                           o->tokenize);
    data_close(data);
    if (status == ZERO_OK)
        status = tokens_open(&t, o, folder, error);
    if (status == ZERO_OK && t == NULL)
        status =
            zero_fail(error, ZERO_ERR_ARG,
                      "--tokenize needs a tokenizer: add --tokenizer FILE, a tokenizer.json, or --model FOLDER that "
                      "has one");
    *writes = status == ZERO_OK;
    if (status == ZERO_OK)
        status = tokenize(o, t, lines, error);
    zero_tokenizer_close(t);
    return status;
}
