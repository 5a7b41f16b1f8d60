/* SPDX-License-Identifier: Apache-2.0 */
/* tensorboard.c - see tensorboard.h.
 *
 * An event file is a sequence of records in TensorFlow's TFRecord format: the length of the data as a 64-bit number,
 * its checksum, the data, and their checksum, all little-endian
 * (https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details). The data of a record are an
 * Event in Protocol Buffers' encoding (https://protobuf.dev/programming-guides/encoding). The numbers of fields are
 * those of event.proto and summary.proto in tensorboard/compat/proto. */
#define _GNU_SOURCE
#include "train/tensorboard.h"
#include "train/report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PACE_S 5. /* between two writes */

enum { DATA_MOST = 256, TAG_MOST = 64, BUFFER = 1 << 16 };

/* Fields, and wire types in the low three bits of their keys. */
enum {
    VARINT = 0,
    FIXED64 = 1,
    BYTES = 2,
    FIXED32 = 5,
    EVENT_WALL_TIME = 1 << 3 | FIXED64,
    EVENT_STEP = 2 << 3 | VARINT,
    EVENT_FILE_VERSION = 3 << 3 | BYTES,
    EVENT_SUMMARY = 5 << 3 | BYTES,
    EVENT_SESSION_LOG = 7 << 3 | BYTES,
    SUMMARY_VALUE = 1 << 3 | BYTES,
    VALUE_TAG = 1 << 3 | BYTES,
    VALUE_SIMPLE_VALUE = 2 << 3 | FIXED32,
    SESSION_LOG_STATUS = 1 << 3 | VARINT,
    STATUS_START = 1
};

struct tensorboard {
    FILE *file; /* NULL: it failed */
    char *path;
    double written; /* when */
    zero_error_t failure;
};

/* ---- records ---------------------------------------------------------------------------------------------------- */

/* RFC 3720, 12.1: the polynomial 0x11EDC6F41, with reflected bits; so its bits are taken in reverse order. */
uint32_t tensorboard_crc32c(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

typedef struct message {
    unsigned char data[DATA_MOST];
    size_t length;
} message_t;

static void put_bytes(message_t *m, const void *bytes, size_t n)
{
    memcpy(m->data + m->length, bytes, n);
    m->length += n;
}

static void put_little(message_t *m, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        m->data[m->length++] = (unsigned char)(value >> 8 * i);
}

static void put_varint(message_t *m, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        m->data[m->length++] = (unsigned char)(value | 0x80);
    m->data[m->length++] = (unsigned char)value;
}

static void put_part(message_t *m, int key, const void *bytes, size_t n)
{
    put_varint(m, (uint64_t)key);
    put_varint(m, n);
    put_bytes(m, bytes, n);
}

static void put_masked(message_t *m, const void *bytes, size_t n)
{
    const uint32_t crc = tensorboard_crc32c(bytes, n);
    put_little(m, (crc >> 15 | crc << 17) + 0xa282ead8, 4); /* the mask of TFRecord */
}

/* Only the first failure counts. */
static void note_failure(tensorboard_t *board, int why)
{
    if (board->failure.status == ZERO_OK)
        zero_fail(&board->failure, ZERO_ERR_IO, "cannot write --tensorboard '%s': %s", board->path, strerror(why));
}

static void write_record(tensorboard_t *board, const message_t *event)
{
    message_t head = {.length = 0}, tail = {.length = 0};
    put_little(&head, event->length, 8);
    put_masked(&head, head.data, head.length);
    put_masked(&tail, event->data, event->length);
    if (fwrite(head.data, head.length, 1, board->file) != 1 ||
        fwrite(event->data, event->length, 1, board->file) != 1 || fwrite(tail.data, tail.length, 1, board->file) != 1)
        note_failure(board, errno);
}

/* Begins an event, at the present time. */
static message_t event_at(int64_t step)
{
    message_t event = {.length = 0};
    struct timespec now;
    double seconds;
    uint64_t bits;
    clock_gettime(CLOCK_REALTIME, &now);
    seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &seconds, sizeof bits);
    put_varint(&event, EVENT_WALL_TIME);
    put_little(&event, bits, 8);
    if (step != 0) { /* 0 is left out */
        put_varint(&event, EVENT_STEP);
        put_varint(&event, (uint64_t)step);
    }
    return event;
}

void tensorboard_scalar(tensorboard_t *board, int64_t step, const char *tag, double value)
{
    message_t event, summary = {.length = 0}, number = {.length = 0};
    const float rounded = (float)value;
    uint32_t bits;
    if (board == NULL || board->file == NULL)
        return;
    memcpy(&bits, &rounded, sizeof bits);
    put_part(&number, VALUE_TAG, tag, strnlen(tag, TAG_MOST));
    put_varint(&number, VALUE_SIMPLE_VALUE);
    put_little(&number, bits, 4);
    put_part(&summary, SUMMARY_VALUE, number.data, number.length);
    event = event_at(step);
    put_part(&event, EVENT_SUMMARY, summary.data, summary.length);
    write_record(board, &event);
}

void tensorboard_memory(tensorboard_t *board, int64_t step, const zero_memory_t *memory)
{
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        char tag[TAG_MOST];
        uint64_t bytes = 0;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            bytes += memory->bytes[tier][kind];
        snprintf(tag, sizeof tag, "memory/%s", zero_tier_name((zero_tier_t)tier));
        if (bytes > 0)
            tensorboard_scalar(board, step, tag, (double)bytes);
    }
}

/* The first events: the version of the format; and, as a summary writer's purge_step does, the mark of a start. */
static void write_start(tensorboard_t *board, int64_t first)
{
    static const char version[] = "brain.Event:2";
    message_t event = event_at(0), mark = {.length = 0};
    put_part(&event, EVENT_FILE_VERSION, version, sizeof version - 1);
    write_record(board, &event);
    put_varint(&mark, SESSION_LOG_STATUS);
    put_varint(&mark, STATUS_START);
    event = event_at(first);
    put_part(&event, EVENT_SESSION_LOG, mark.data, mark.length);
    write_record(board, &event);
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

zero_status_t tensorboard_check(const char *folder, zero_error_t *error)
{
    char path[4096];
    struct stat info;
    snprintf(path, sizeof path, "%s", folder);
    while (stat(path, &info) != 0) { /* a part that is missing is created later, so the part above it matters */
        char *slash = strrchr(path, '/');
        if (errno != ENOENT)
            return zero_fail(error, ZERO_ERR_IO, "cannot create --tensorboard '%s': '%s': %s", folder, path,
                             strerror(errno));
        if (slash == NULL || (slash == path && path[1] == '\0'))
            snprintf(path, sizeof path, "%s", slash == NULL ? "." : "/");
        else
            slash[slash == path] = '\0';
    }
    if (!S_ISDIR(info.st_mode))
        return zero_fail(error, ZERO_ERR_ARG, "--tensorboard '%s': '%s' is no folder, but must be one", folder, path);
    if (access(path, W_OK | X_OK) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot write to --tensorboard '%s': '%s': %s", folder, path,
                         strerror(errno));
    return ZERO_OK;
}

/* Creates each part of the path that is absent. */
static bool create_folder(const char *folder)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", folder);
    for (char *p = path; *p != '\0'; p++)
        if (*p == '/' && p > path) {
            *p = '\0';
            if (mkdir(path, 0777) != 0 && errno != EEXIST)
                return false;
            *p = '/';
        }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

/* Creates a file whose name no other run takes, as TensorBoard wants it: it reads a folder's files in the order of
 * their names. */
static FILE *create_file(const char *folder, char **path)
{
    char host[256] = "";
    int file = -1;
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "localhost");
    for (int n = 0; file < 0 && n < 1000; n++) {
        free(*path);
        if (asprintf(path, "%s/events.out.tfevents.%010lld.%s.%d.%d", folder, (long long)time(NULL), host,
                     (int)getpid(), n) < 0) {
            *path = NULL;
            return NULL;
        }
        file = open(*path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file < 0 && errno != EEXIST)
            return NULL;
    }
    return file >= 0 ? fdopen(file, "w") : NULL;
}

zero_status_t tensorboard_open(tensorboard_t **out, const char *folder, int64_t first, zero_error_t *error)
{
    *out = NULL;
    if (folder == NULL)
        return ZERO_OK;
    tensorboard_t *board = calloc(1, sizeof *board);
    if (board == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --tensorboard '%s'", folder);
    if (create_folder(folder))
        board->file = create_file(folder, &board->path);
    if (board->file == NULL) {
        zero_fail(error, ZERO_ERR_IO, "cannot create a file in --tensorboard '%s': %s", folder, strerror(errno));
        free(board->path);
        free(board);
        return ZERO_ERR_IO;
    }
    setvbuf(board->file, NULL, _IOFBF, BUFFER);
    write_start(board, first);
    *out = board;
    return tensorboard_pace(board, error);
}

zero_status_t tensorboard_pace(tensorboard_t *board, zero_error_t *error)
{
    if (board == NULL || board->file == NULL)
        return ZERO_OK;
    const bool due = report_clock() - board->written >= PACE_S;
    if (board->failure.status == ZERO_OK && due && fflush(board->file) != 0)
        note_failure(board, errno);
    if (board->failure.status != ZERO_OK) {
        fclose(board->file);
        board->file = NULL;
        return zero_pass(error, board->failure.status, &board->failure);
    }
    if (due)
        board->written = report_clock();
    return ZERO_OK;
}

zero_status_t tensorboard_close(tensorboard_t *board, zero_error_t *error)
{
    if (board == NULL)
        return ZERO_OK;
    if (board->file != NULL) {
        if (fflush(board->file) != 0)
            note_failure(board, errno);
        if (fclose(board->file) != 0) /* some file systems report a full disk only on close */
            note_failure(board, errno);
    }
    zero_status_t status = board->failure.status;
    if (status != ZERO_OK)
        zero_pass(error, status, &board->failure);
    free(board->path);
    free(board);
    return status;
}
