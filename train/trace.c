/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - writes Chrome's trace format, an object with an array of events. The array's end is written after each
 * piece and overwritten by the next one, so that the file is complete after each step, however the run ends. */
#define _GNU_SOURCE
#include "train/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WARM_STEPS = 3, STEPS = 3, ROOM_STEPS = 2, TRACKS = 20, PIECE = 1 << 16 };

static const char end_of_array[] = "\n]}\n";

struct trace {
    int file; /* -1: nothing is written */
    char path[PATH_MAX];
    int rank;
    int64_t first, last; /* steps, from 1 */
    int64_t step;        /* that runs or ran last */
    bool on;             /* the engine records */
    bool comma;          /* an event is in the file or in text */
    bool failed;         /* out of memory for text */
    uint64_t step_begin;
    double exposed_before, exposed, seconds; /* zero_stats_t's at the begin of the step; of all steps */
    char *text;                              /* events that are not in the file yet */
    size_t used, room;
    off_t end;      /* of the events in the file */
    int has_tracks; /* bits: tracks whose names are in the file */
    struct {
        const char *name;
        uint64_t end; /* of its last span */
    } tracks[TRACKS];
};

/* The order in which viewers show them. The library may have further ones. */
static const char *const tracks[] = {"program",   "tasks",   "compute", "from-prev", "to-next",
                                     "from-next", "to-prev", "gather",  "reduce",    "update",
                                     "copy",      "host",    "io",      "save",      "caller"};

/* ---- options ---------------------------------------------------------------------------------------------------- */

zero_status_t trace_range(const options_t *o, int64_t start, int64_t *first, int64_t *last, zero_error_t *error)
{
    const char *text = o->trace_steps;
    char *end;
    if (o->trace == NULL && text != NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--trace-steps is %s, but there is no --trace: add --trace FILE", text);
    *last = start + WARM_STEPS + STEPS < o->steps ? start + WARM_STEPS + STEPS : o->steps;
    *first = *last - STEPS + 1 > start ? *last - STEPS + 1 : start + 1;
    if (text == NULL)
        return ZERO_OK;
    errno = 0;
    *first = *last = strtoll(text, &end, 10);
    bool good = end != text && *text >= '0' && *text <= '9';
    if (good && *end == '-') {
        const char *second = end + 1;
        *last = strtoll(second, &end, 10);
        good = *second >= '0' && *second <= '9';
    }
    if (!good || *end != '\0' || errno != 0)
        return zero_fail(error, ZERO_ERR_ARG, "--trace-steps is '%s', but must be two steps such as 4-6, or one", text);
    if (*first < 1)
        return zero_fail(error, ZERO_ERR_ARG, "--trace-steps is %s, but steps count from 1", text);
    if (*first > *last)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--trace-steps is %s, but the first step must not be after the last: use "
                         "%lld-%lld",
                         text, (long long)*last, (long long)*first);
    if (*last > o->steps)
        return zero_fail(error, ZERO_ERR_ARG, "--trace-steps is %s, but --steps is %lld: use steps from 1 to %lld",
                         text, (long long)o->steps, (long long)o->steps);
    if (*first <= start)
        *first = start + 1;
    return ZERO_OK;
}

bool trace_path(const char *file, int rank, int world, char *path, size_t size)
{
    const char *slash = strrchr(file, '/'), *name = slash != NULL ? slash + 1 : file, *dot = strrchr(name, '.');
    int length = (int)strlen(file), stem = dot != NULL && dot != name ? (int)(dot - file) : length;
    int n = world == 1 ? snprintf(path, size, "%s", file)
                       : snprintf(path, size, "%.*s.%d%s", stem, file, rank, file + stem);
    return n >= 0 && (size_t)n < size;
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

static void put(trace_t *t, const char *format, ...) ZERO_PRINTF(2, 3);
static void put(trace_t *t, const char *format, ...)
{
    va_list arguments;
    for (;;) {
        va_start(arguments, format);
        int n = vsnprintf(t->text + t->used, t->room - t->used, format, arguments);
        va_end(arguments);
        if (n < 0 || t->used + (size_t)n < t->room) {
            t->used += n > 0 ? (size_t)n : 0;
            return;
        }
        size_t room = 2 * (t->room + (size_t)n);
        char *text = realloc(t->text, room);
        if (text == NULL) {
            t->failed = true;
            return;
        }
        t->text = text;
        t->room = room;
    }
}

/* A text without its quotes. Names of units are the model's: printable, but perhaps with quotes. */
static void put_text(trace_t *t, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++)
        if (*p == '"' || *p == '\\')
            put(t, "\\%c", *p);
        else if (*p < 0x20)
            put(t, "\\u%04x", *p);
        else
            put(t, "%c", *p);
}

static void begin_event(trace_t *t)
{
    put(t, "%s", t->comma ? ",\n" : "");
    t->comma = true;
}

static zero_status_t failed_write(const trace_t *t, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_IO, "cannot write --trace '%s': %s", t->path, strerror(errno));
}

/* Writes text and the array's end over the last end. */
static zero_status_t write_out(trace_t *t, zero_error_t *error)
{
    size_t events = t->used;
    if (t->file < 0)
        return ZERO_OK;
    put(t, "%s", end_of_array);
    if (t->failed)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the events of --trace '%s'", t->path);
    for (size_t done = 0; done < t->used;) {
        ssize_t n = pwrite(t->file, t->text + done, t->used - done, t->end + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            zero_status_t status = failed_write(t, error);
            /* what was complete stays so: there was room for the array's end before */
            if (t->end > 0 && ftruncate(t->file, t->end) == 0)
                pwrite(t->file, end_of_array, strlen(end_of_array), t->end);
            return status;
        }
        done += (size_t)n;
    }
    t->end += (off_t)events;
    t->used = 0;
    return ZERO_OK;
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

/* The number of a track; names it in the file when it is new. */
static int track_of(trace_t *t, const char *name)
{
    int i = 0;
    while (i < TRACKS - 1 && t->tracks[i].name != NULL && strcmp(t->tracks[i].name, name) != 0)
        i++;
    if (t->tracks[i].name == NULL || strcmp(t->tracks[i].name, name) != 0)
        t->tracks[i].name = name;
    if ((t->has_tracks >> i & 1) == 0) {
        t->has_tracks |= 1 << i;
        begin_event(t);
        put(t, "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"%s\"}}", t->rank,
            i + 1, name);
        begin_event(t);
        put(t, "{\"name\":\"thread_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%d}}",
            t->rank, i + 1, i);
    }
    return i;
}

/* Begins an event; its args follow. Spans of a stream follow each other (no model holds two units at a time), and
 * viewers rely on that. The times of a GPU's clock are off by some microseconds, so a span that begins before the last
 * one ended begins at that end. */
static void put_span(trace_t *t, int track, const char *name, const char *unit, uint64_t begin, uint64_t end)
{
    uint64_t *last = &t->tracks[track].end;
    begin = begin < *last ? *last : begin;
    end = end < begin ? begin : end;
    *last = end;
    begin_event(t);
    put(t, "{\"name\":\"%s", name);
    if (unit != NULL) {
        put(t, " ");
        put_text(t, unit);
    }
    put(t, "\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%llu.%03u,\"dur\":%llu.%03u,\"args\":{",
        t->tracks[track].name, t->rank, track + 1, (unsigned long long)(begin / 1000), (unsigned)(begin % 1000),
        (unsigned long long)((end - begin) / 1000), (unsigned)((end - begin) % 1000));
}

static void operation(void *ctx, const zero_trace_span_t *span)
{
    trace_t *t = ctx;
    const bool works = strcmp(span->operation, "USE") == 0 || strcmp(span->operation, "TASK") == 0;
    const char *name = !works ? span->operation : (span->flags & ZERO_GRAD) != 0 ? "backward" : "forward";
    char chunk[24];
    snprintf(chunk, sizeof chunk, "chunk %d", span->chunk);
    put_span(t, track_of(t, span->stream), name, span->chunk >= 0 ? chunk : span->unit, span->begin_ns, span->end_ns);
    if (span->unit != NULL) {
        put(t, "\"unit\":\"");
        put_text(t, span->unit);
        put(t, "\",");
    }
    if (span->chunk >= 0)
        put(t, "\"chunk\":%d,", span->chunk);
    if (span->bytes > 0)
        put(t, "\"bytes\":%llu,", (unsigned long long)span->bytes);
    put(t, "\"step\":%lld,", (long long)span->step);
    if (span->micro > 0)
        put(t, "\"micro_step\":%d,", span->micro);
    put(t, "\"operation\":\"%s\",\"program\":\"%s\",\"index\":%d}}", span->operation, span->program, span->index);
}

double trace_exposed(const trace_t *t)
{
    return t != NULL && t->seconds > 0 ? t->exposed / t->seconds : NAN;
}

uint64_t trace_now(const trace_t *t)
{
    struct timespec now = {0};
    if (t == NULL || !t->on)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void trace_program(trace_t *t, const char *name, uint64_t begin)
{
    if (t == NULL || !t->on || t->file < 0 || begin == 0)
        return;
    int track = track_of(t, "program");
    t->tracks[track].end = 0; /* its spans lie inside of each other, inner ones first */
    put_span(t, track, name, NULL, begin, trace_now(t));
    put(t, "\"step\":%lld}}", (long long)t->step);
}

/* ---- file and steps --------------------------------------------------------------------------------------------- */

zero_status_t trace_open(trace_t **out, const options_t *o, int rank, int world, int64_t start, bool measure,
                         zero_error_t *error)
{
    *out = NULL;
    if (o->trace == NULL && !measure)
        return ZERO_OK;
    char host[256] = "?";
    trace_t *t = calloc(1, sizeof *t);
    if (t == NULL || (t->text = malloc(PIECE)) == NULL) {
        free(t);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --trace");
    }
    for (size_t i = 0; i < sizeof tracks / sizeof *tracks; i++)
        t->tracks[i].name = tracks[i];
    t->room = PIECE;
    t->rank = rank;
    t->file = -1;
    zero_status_t status = trace_range(o, start, &t->first, &t->last, error);
    if (status == ZERO_OK && o->trace == NULL) {
        *out = t;
        return ZERO_OK;
    }
    if (status == ZERO_OK && !trace_path(o->trace, rank, world, t->path, sizeof t->path))
        status = zero_fail(error, ZERO_ERR_ARG, "--trace '%s' is too long a path", o->trace);
    if (status == ZERO_OK && (t->file = open(t->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666)) < 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot create --trace '%s': %s", t->path, strerror(errno));
    gethostname(host, sizeof host - 1);
    put(t, "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    begin_event(t);
    put(t, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"name\":\"rank %d of %d, ", rank,
        rank, world);
    put_text(t, host);
    put(t, "\"}}");
    begin_event(t);
    put(t, "{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"args\":{\"sort_index\":%d}}", rank,
        rank);
    if (status == ZERO_OK)
        status = write_out(t, error);
    if (status != ZERO_OK) {
        trace_close(t, NULL);
        return status;
    }
    *out = t;
    return ZERO_OK;
}

zero_status_t trace_close(trace_t *t, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (t == NULL)
        return ZERO_OK;
    if (t->file >= 0 && close(t->file) != 0)
        status = failed_write(t, error);
    free(t->text);
    free(t);
    return status;
}

static zero_status_t engine_failed(const zero_engine_t *engine, zero_status_t status, zero_error_t *error)
{
    zero_last_failure(engine, error);
    return error->status = status;
}

/* Takes what the engine has, and with end waits for the rest. */
static zero_status_t take(trace_t *t, zero_engine_t *engine, bool end, zero_error_t *error)
{
    uint64_t lost = 0;
    zero_status_t status = (end ? zero_trace_end : zero_trace_read)(engine, t->file >= 0 ? operation : NULL, t, &lost);
    if (status != ZERO_OK)
        return engine_failed(engine, status, error);
    if (lost > 0) {
        uint64_t now = trace_now(t);
        begin_event(t);
        put(t,
            "{\"name\":\"%llu operations were not recorded\",\"ph\":\"i\",\"s\":\"p\",\"pid\":%d,\"tid\":1,"
            "\"ts\":%llu.%03u}",
            (unsigned long long)lost, t->rank, (unsigned long long)(now / 1000), (unsigned)(now % 1000));
    }
    t->on = !end;
    return write_out(t, error);
}

zero_status_t trace_step_begin(trace_t *t, zero_engine_t *engine, int64_t step, zero_error_t *error)
{
    if (t == NULL || step < t->first || step > t->last)
        return ZERO_OK;
    if (!t->on) {
        zero_status_t status = zero_trace_begin(engine, ROOM_STEPS);
        if (status != ZERO_OK)
            return engine_failed(engine, status, error);
        t->on = true;
    }
    zero_stats_t stats = {.size = sizeof stats};
    zero_status_t status = zero_step_stats(engine, &stats);
    if (status != ZERO_OK)
        return engine_failed(engine, status, error);
    t->exposed_before = stats.exposed_seconds;
    t->step = step;
    t->step_begin = trace_now(t);
    return ZERO_OK;
}

zero_status_t trace_step_end(trace_t *t, zero_engine_t *engine, zero_error_t *error)
{
    if (t == NULL || !t->on)
        return ZERO_OK;
    char name[40];
    snprintf(name, sizeof name, "step %lld", (long long)t->step);
    trace_program(t, name, t->step_begin);
    t->seconds += 1e-9 * (double)(trace_now(t) - t->step_begin);
    zero_status_t status = take(t, engine, t->step == t->last, error);
    /* a GPU's waits are known only now */
    zero_stats_t stats = {.size = sizeof stats};
    if (status == ZERO_OK && (status = zero_step_stats(engine, &stats)) != ZERO_OK)
        return engine_failed(engine, status, error);
    t->exposed += stats.exposed_seconds - t->exposed_before;
    return status;
}

zero_status_t trace_stop(trace_t *t, zero_engine_t *engine, zero_error_t *error)
{
    return t != NULL && t->on ? take(t, engine, true, error) : ZERO_OK;
}

zero_status_t trace_flush(trace_t *t, zero_engine_t *engine, zero_error_t *error)
{
    return t != NULL && t->on ? take(t, engine, false, error) : ZERO_OK;
}
