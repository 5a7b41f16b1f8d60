/* SPDX-License-Identifier: Apache-2.0 */
#include "train/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    OPEN_MS = 5000,
    OPEN_TICK_MS = 20,
    WRITE_MS = 30000
}; /* the longest waits for a FIFO's reader to open it, and to read */

struct log {
    int file; /* -1: none */
    char *path, *line;
    size_t used, room;
    bool first;  /* no comma before the next member */
    bool kept;   /* without a file: the line is wanted */
    bool failed; /* out of memory for the line */
    bool stuck;  /* one wait for the reader already timed out */
};

/* Opens a file. Waits for the reader of a FIFO, and for nothing else. */
static int open_path(const char *path, int flags, zero_error_t *error)
{
    struct stat info;
    int file;
    for (int waited = 0; (file = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | flags, 0666)) < 0;
         waited += OPEN_TICK_MS) {
        const int why = errno;
        const bool unread = why == ENXIO && stat(path, &info) == 0 && S_ISFIFO(info.st_mode);
        if (!unread)
            zero_fail(error, ZERO_ERR_IO, "cannot create --log '%s': %s", path, strerror(why));
        else if (waited >= OPEN_MS)
            zero_fail(error, ZERO_ERR_IO,
                      "cannot write --log '%s': it is a FIFO without a reader: start the reader first", path);
        if (!unread || waited >= OPEN_MS)
            break;
        nanosleep(&(struct timespec){.tv_nsec = OPEN_TICK_MS * 1000000L}, NULL);
    }
    return file;
}

zero_status_t log_hold(const char *path, zero_error_t *error)
{
    return open_path(path, 0, error) >= 0 ? ZERO_OK : ZERO_ERR_IO;
}

zero_status_t log_open(log_t **out, const char *path, zero_error_t *error)
{
    *out = NULL;
    log_t *log = calloc(1, sizeof *log);
    if (log == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the log");
    log->file = -1;
    if (path != NULL) {
        log->path = strdup(path);
        if (log->path == NULL)
            zero_fail(error, ZERO_ERR_IO, "cannot create --log '%s': no memory", path);
        else
            log->file = open_path(path, O_CREAT | O_TRUNC, error);
        if (log->file < 0) {
            log_close(log, NULL);
            return ZERO_ERR_IO;
        }
    }
    *out = log;
    return ZERO_OK;
}

zero_status_t log_close(log_t *log, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (log == NULL)
        return ZERO_OK;
    /* some file systems report a full disk only on close */
    if (log->file >= 0 && close(log->file) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot write --log '%s': %s", log->path, strerror(errno));
    free(log->path);
    free(log->line);
    free(log);
    return status;
}

static void put(log_t *log, const char *text, size_t length)
{
    if ((log->file < 0 && !log->kept) || log->failed)
        return;
    if (log->room - log->used < length) {
        size_t room = (log->used + length) * 2 + 256;
        char *line = realloc(log->line, room);
        if (line == NULL) {
            log->failed = true;
            return;
        }
        log->line = line;
        log->room = room;
    }
    memcpy(log->line + log->used, text, length);
    log->used += length;
}

static void put_format(log_t *log, const char *format, ...) ZERO_PRINTF(2, 3);
static void put_format(log_t *log, const char *format, ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    put(log, text, (size_t)n);
}

/* Bytes of the UTF-8 character at text, 0 if there is none (RFC 3629: no overlong forms, surrogates, or code points
 * above 10FFFF). */
static size_t utf8_length(const unsigned char *text)
{
    unsigned char c = text[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && text[1] < 0xa0) || (c == 0xed && text[1] > 0x9f) || (c == 0xf0 && text[1] < 0x90) ||
        (c == 0xf4 && text[1] > 0x8f))
        return 0;
    return n;
}

static void put_string(log_t *log, const char *text)
{
    put(log, "\"", 1);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        size_t n = utf8_length(p);
        if (n == 0)
            put(log, "\xef\xbf\xbd", 3);
        else if (*p == '"' || *p == '\\')
            put_format(log, "\\%c", *p);
        else if (*p < 0x20)
            put_format(log, "\\u%04x", *p);
        else
            put(log, (const char *)p, n);
        p += n > 0 ? n : 1;
    }
    put(log, "\"", 1);
}

static void member(log_t *log, const char *key)
{
    if (!log->first)
        put(log, ",", 1);
    log->first = false;
    if (key != NULL) {
        put_string(log, key);
        put(log, ":", 1);
    }
}

void log_begin(log_t *log, const char *event)
{
    log->used = 0;
    log->first = true;
    put(log, "{", 1);
    log_text(log, "event", event);
}

zero_status_t log_end(log_t *log, zero_error_t *error)
{
    put(log, "}\n", 2);
    if (log->file < 0)
        return ZERO_OK;
    if (log->failed)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a line of --log '%s'", log->path);
    for (size_t done = 0; done < log->used;) {
        ssize_t n = write(log->file, log->line + done, log->used - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            struct pollfd reader = {.fd = log->file, .events = POLLOUT};
            log->stuck = log->stuck || poll(&reader, 1, WRITE_MS) == 0;
            if (!log->stuck)
                continue;
            return zero_fail(error, ZERO_ERR_IO, "cannot write --log '%s': its reader took no data for %d s", log->path,
                             WRITE_MS / 1000);
        }
        if (n < 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot write --log '%s': %s", log->path, strerror(errno));
        done += (size_t)n;
    }
    return ZERO_OK;
}

void log_whole(log_t *log, const char *key, int64_t value)
{
    member(log, key);
    put_format(log, "%lld", (long long)value);
}

void log_bytes(log_t *log, const char *key, uint64_t value)
{
    member(log, key);
    put_format(log, "%llu", (unsigned long long)value);
}

static void number(log_t *log, const char *key, double value, int digits)
{
    member(log, key);
    if (isfinite(value))
        put_format(log, "%.*g", digits, value);
    else
        put(log, "null", 4);
}

void log_exact(log_t *log, const char *key, double value)
{
    number(log, key, value, 17);
}

void log_number(log_t *log, const char *key, double value)
{
    number(log, key, value, 9);
}

void log_text(log_t *log, const char *key, const char *text)
{
    member(log, key);
    if (text != NULL)
        put_string(log, text);
    else
        put(log, "null", 4);
}

void log_hash(log_t *log, const char *key, uint64_t hash)
{
    member(log, key);
    put_format(log, "\"%016llx\"", (unsigned long long)hash);
}

void log_bool(log_t *log, const char *key, bool value)
{
    member(log, key);
    put_format(log, "%s", value ? "true" : "false");
}

static void open_with(log_t *log, const char *key, const char *bracket)
{
    member(log, key);
    put(log, bracket, 1);
    log->first = true;
}

static void close_with(log_t *log, const char *bracket)
{
    put(log, bracket, 1);
    log->first = false;
}

void log_open_object(log_t *log, const char *key)
{
    open_with(log, key, "{");
}

void log_close_object(log_t *log)
{
    close_with(log, "}");
}

void log_open_array(log_t *log, const char *key)
{
    open_with(log, key, "[");
}

void log_close_array(log_t *log)
{
    close_with(log, "]");
}

void log_memory(log_t *log, const char *key, const zero_memory_t *memory)
{
    log_open_object(log, key);
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        uint64_t any = tier == ZERO_TIER_DEVICE;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            any |= memory->bytes[tier][kind];
        if (any == 0)
            continue;
        log_open_object(log, zero_tier_name((zero_tier_t)tier));
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            log_bytes(log, zero_kind_name((zero_kind_t)kind), memory->bytes[tier][kind]);
        log_close_object(log);
    }
    if (memory->external > 0)
        log_bytes(log, "external", memory->external);
    log_close_object(log);
}

void log_options(log_t *log, const options_t *options)
{
    log_open_object(log, "options");
    for (int i = 0; i < options_count(); i++) {
        option_view_t view;
        options_view(options, i, &view);
        if (!view.set)
            log_text(log, view.name, NULL);
        else if (view.type == OPTION_TEXT)
            log_text(log, view.name, view.full);
        else if (view.type == OPTION_LIST && view.list->count == 1)
            log_text(log, view.name, view.list->at[0]);
        else if (view.type == OPTION_LIST) {
            log_open_array(log, view.name);
            for (int k = 0; k < view.list->count; k++)
                log_text(log, NULL, view.list->at[k]);
            log_close_array(log);
        } else if (view.text[0] != '\0') /* a choice or a word */
            log_text(log, view.name, view.text);
        else if (view.type == OPTION_FLAG)
            log_bool(log, view.name, view.whole != 0);
        else if (view.type == OPTION_WHOLE)
            log_whole(log, view.name, view.whole);
        else if (view.type == OPTION_REAL || view.type == OPTION_REAL_OR_WORD)
            log_number(log, view.name, view.real[0]);
        else {
            log_open_array(log, view.name);
            log_number(log, NULL, view.real[0]);
            log_number(log, NULL, view.real[1]);
            log_close_array(log);
        }
    }
    log_close_object(log);
}

char *log_about(const options_t *options)
{
    log_t log = {.file = -1, .kept = true, .first = true};
    put(&log, "{", 1);
    log_text(&log, "program", "zero_train");
    log_text(&log, "version", zero_version());
    log_options(&log, options);
    put(&log, "}", 2); /* with its zero */
    if (log.failed) {
        free(log.line);
        return NULL;
    }
    return log.line;
}
