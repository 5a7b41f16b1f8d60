/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/manifest.h"

#include "zero/checkpoint/files.h"
#include "zero/checkpoint/manifest_text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

const char *zero_checkpoint_state_name(zero_state_t state)
{
    switch (state) {
    case ZERO_STATE_PARAM:
        return "parameters";
    case ZERO_STATE_MASTER:
        return "master";
    case ZERO_STATE_MOMENT1:
        return "moment1";
    case ZERO_STATE_MOMENT2:
        return "moment2";
    default:
        return NULL;
    }
}

static zero_status_t no_memory(zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the manifest of a checkpoint");
}

/* ---- making one ------------------------------------------------------------------------------------------------- */

zero_status_t zero_manifest_begin(zero_manifest_t *manifest, int64_t step, int64_t applied, const char *optimizer,
                                  const char *about, const void *caller, size_t caller_bytes, zero_error_t *error)
{
    json_error_t json_error;
    zero_quoted_t quoted;
    *manifest = (zero_manifest_t){.step = step, .applied = applied};
    if (caller_bytes > ZERO_MANIFEST_CALLER_MOST)
        return zero_fail(error, ZERO_ERR_ARG, "a checkpoint keeps at most %d bytes for the caller, not %zu",
                         ZERO_MANIFEST_CALLER_MOST, caller_bytes);
    if (about) {
        json_t *root = json_loads(about, JSON_REJECT_DUPLICATES, &json_error);
        if (!json_is_object(root)) {
            zero_status_t status =
                zero_fail(error, ZERO_ERR_ARG, "what a checkpoint is to say about its program is no JSON object%s%s",
                          root ? "" : ": ", root ? "" : zero_quote(&quoted, json_error.text));
            json_decref(root);
            return status;
        }
        manifest->about = json_dumps(root, JSON_COMPACT);
        json_decref(root);
        if (!manifest->about)
            return no_memory(error);
    }
    manifest->library = strdup(zero_version());
    manifest->optimizer = strdup(optimizer);
    manifest->caller = malloc(caller_bytes + 1);
    if (!manifest->library || !manifest->optimizer || !manifest->caller)
        return no_memory(error);
    if (caller_bytes > 0)
        memcpy(manifest->caller, caller, caller_bytes);
    manifest->caller_bytes = caller_bytes;
    return ZERO_OK;
}

zero_status_t zero_manifest_add(zero_manifest_t *manifest, const zero_manifest_param_t *param, zero_error_t *error)
{
    enum { STEP = 64 };
    if (manifest->param_count % STEP == 0) {
        zero_manifest_param_t *params =
            realloc(manifest->params, ((size_t)manifest->param_count + STEP) * sizeof *params);
        if (!params)
            return no_memory(error);
        manifest->params = params;
    }
    zero_manifest_param_t *own = &manifest->params[manifest->param_count];
    *own = *param;
    if (!(own->name = strdup(param->name)))
        return no_memory(error);
    manifest->param_count++;
    return ZERO_OK;
}

static int by_place(const void *a, const void *b)
{
    const zero_piece_t *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* Whether the pieces fill the window that begins at a byte. There are as many as it needs. */
static bool fill_window(const zero_piece_t *pieces, uint64_t begin)
{
    const zero_piece_t *like = &pieces[0];
    for (uint64_t k = 0; k < zero_window_pieces(like); k++)
        if (pieces[k].offset != begin + k * like->bytes || pieces[k].bytes != like->bytes ||
            pieces[k].count != like->count || pieces[k].stride != like->stride)
            return false;
    return true;
}

uint64_t zero_manifest_cover(const zero_piece_t *pieces, uint64_t count, uint64_t *end)
{
    uint64_t k = 0;
    *end = 0;
    while (k < count && zero_window_pieces(&pieces[k]) <= count - k && fill_window(&pieces[k], *end)) {
        *end += zero_window_bytes(&pieces[k]);
        k += zero_window_pieces(&pieces[k]);
    }
    return k;
}

/* The pieces of a file, which begin at manifest->pieces[first]. */
static zero_status_t take_pieces(zero_manifest_t *manifest, int number, uint64_t first, zero_error_t *error)
{
    zero_manifest_file_t *file = &manifest->files[number];
    const zero_piece_t *pieces = &manifest->pieces[first];
    uint64_t count = 0, end;
    while (first + count < manifest->piece_count && pieces[count].file == (uint32_t)number)
        count++;
    const uint64_t whole = zero_manifest_cover(pieces, count, &end);
    if (whole < count || end != file->bytes)
        return zero_fail(error, ZERO_ERR_PLAN, "'%s' is not written exactly once: its bytes up to %llu of %llu are%s",
                         file->name, (unsigned long long)end, (unsigned long long)file->bytes,
                         whole == count               ? ""
                         : pieces[whole].offset < end ? ", and then some twice"
                                                      : ", and then others than those that follow");
    file->first = first;
    file->count = count;
    return ZERO_OK;
}

zero_status_t zero_manifest_files(zero_manifest_t *manifest, const zero_layout_t *layouts, const zero_state_t *states,
                                  int count, const zero_piece_t *pieces, uint64_t piece_count, zero_error_t *error)
{
    int files = 0;
    for (int k = 0; k < count; k++)
        files += layouts[k].file_count;
    manifest->files = calloc((size_t)files + 1, sizeof *manifest->files);
    manifest->pieces = malloc(((size_t)piece_count + 1) * sizeof *manifest->pieces);
    if (!manifest->files || !manifest->pieces)
        return no_memory(error);
    if (piece_count > 0)
        memcpy(manifest->pieces, pieces, (size_t)piece_count * sizeof *pieces);
    manifest->piece_count = piece_count;
    qsort(manifest->pieces, (size_t)piece_count, sizeof *pieces, by_place);
    uint64_t first = 0;
    for (int k = 0; k < count; k++)
        for (int f = 0; f < layouts[k].file_count; f++) {
            zero_manifest_file_t *own = &manifest->files[manifest->file_count];
            *own = (zero_manifest_file_t){
                .name = strdup(layouts[k].files[f].name), .state = states[k], .bytes = layouts[k].files[f].bytes};
            if (!own->name)
                return no_memory(error);
            zero_status_t status = take_pieces(manifest, manifest->file_count++, first, error);
            if (status != ZERO_OK)
                return status;
            first += own->count;
        }
    if (first != piece_count)
        return zero_fail(error, ZERO_ERR_PLAN, "pieces of a file number %u were written, but there are %d files",
                         manifest->pieces[first].file, files);
    return ZERO_OK;
}

void zero_manifest_clear(zero_manifest_t *manifest)
{
    if (!manifest)
        return;
    for (int k = 0; k < manifest->param_count; k++)
        free(manifest->params[k].name);
    for (int f = 0; f < manifest->file_count; f++)
        free(manifest->files[f].name);
    free(manifest->library);
    free(manifest->optimizer);
    free(manifest->params);
    free(manifest->files);
    free(manifest->pieces);
    free(manifest->about);
    free(manifest->caller);
    *manifest = (zero_manifest_t){0};
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

typedef struct text {
    char *bytes;
    size_t length, room;
    bool failed; /* no memory, or a string that is no UTF-8 */
} text_t;

static void put(text_t *text, const char *bytes, size_t n)
{
    if (text->failed)
        return;
    if (n > text->room - text->length) {
        size_t room = 2 * text->room > text->length + n ? 2 * text->room : text->length + n + 4096;
        char *grown = realloc(text->bytes, room);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->bytes = grown;
        text->room = room;
    }
    memcpy(text->bytes + text->length, bytes, n);
    text->length += n;
}

/* At most 200 characters. */
static void print(text_t *text, const char *format, ...) ZERO_PRINTF(2, 3);
static void print(text_t *text, const char *format, ...)
{
    char line[200];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put(text, line, (size_t)n);
}

static void put_string(text_t *text, const char *string)
{
    json_t *value = json_string(string);
    char *quoted = value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    if (quoted)
        put(text, quoted, strlen(quoted));
    else
        text->failed = true;
    free(quoted);
    json_decref(value);
}

static void put_param(text_t *text, const zero_manifest_param_t *param)
{
    print(text, "{\"name\":");
    put_string(text, param->name);
    print(text, ",\"dtype\":\"%s\",\"shape\":[", zero_dtype_name(param->dtype));
    for (int d = 0; d < param->ndim; d++)
        print(text, "%s%" PRId64, d > 0 ? "," : "", param->shape[d]);
    print(text, "],\"trainable\":%s}", param->trainable ? "true" : "false");
}

static void put_file(text_t *text, const zero_manifest_file_t *file, const zero_piece_t *pieces)
{
    print(text, "{\"name\":");
    put_string(text, file->name);
    print(text, ",\"state\":\"%s\",\"bytes\":%" PRIu64 ",\"blocks\":[", zero_checkpoint_state_name(file->state),
          file->bytes);
    for (uint64_t k = 0; k < file->count; k++) {
        print(text, "%s[%" PRIu64 ",%" PRIu32 ",\"%016" PRIx64 "\"", k > 0 ? "," : "", pieces[k].offset,
              pieces[k].bytes, pieces[k].hash);
        if (pieces[k].count > 1)
            print(text, ",%" PRIu32 ",%" PRIu32, pieces[k].count, pieces[k].stride);
        print(text, "]");
    }
    print(text, "]}");
}

static void put_caller(text_t *text, const unsigned char *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    print(text, ",\n\"caller\":\"");
    for (size_t k = 0; k < n; k++) {
        const char pair[2] = {digits[bytes[k] >> 4], digits[bytes[k] & 15]};
        put(text, pair, 2);
    }
    print(text, "\"");
}

zero_status_t zero_manifest_text(const zero_manifest_t *manifest, char **text, size_t *length, zero_error_t *error)
{
    text_t out = {0};
    *text = NULL;
    print(&out, "{\"format\":\"" ZERO_MANIFEST_FORMAT "\",\"version\":%d,\n\"library\":", ZERO_MANIFEST_VERSION);
    put_string(&out, manifest->library);
    print(&out, ",\n\"step\":%" PRId64 ",\"applied\":%" PRId64 ",\n\"optimizer\":", manifest->step, manifest->applied);
    put_string(&out, manifest->optimizer);
    if (manifest->loss_scale > 0)
        print(&out, ",\n\"loss_scale\":{\"value\":%.17g,\"good_steps\":%" PRId64 ",\"overflows\":%" PRId64 "}",
              (double)manifest->loss_scale, manifest->good_steps, manifest->overflows);
    print(&out, ",\n\"params\":[");
    for (int k = 0; k < manifest->param_count; k++) {
        print(&out, k > 0 ? ",\n" : "\n");
        put_param(&out, &manifest->params[k]);
    }
    print(&out, "],\n\"files\":[");
    for (int f = 0; f < manifest->file_count; f++) {
        print(&out, f > 0 ? ",\n" : "\n");
        put_file(&out, &manifest->files[f], &manifest->pieces[manifest->files[f].first]);
    }
    print(&out, "]");
    if (manifest->about) {
        print(&out, ",\n\"about\":");
        put(&out, manifest->about, strlen(manifest->about));
    }
    put_caller(&out, manifest->caller, manifest->caller_bytes);
    if (!out.failed)
        print(&out, ZERO_MANIFEST_CHECK "%016" PRIx64 ZERO_MANIFEST_END, (uint64_t)XXH3_64bits(out.bytes, out.length));
    put(&out, "", 1);
    if (out.failed) {
        free(out.bytes);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the text of a manifest, or a name in it is not UTF-8");
    }
    *text = out.bytes;
    *length = out.length - 1;
    return ZERO_OK;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

/* Writes the text under another name and gives it its own once it is on the drive. */
static zero_status_t write_text(const char *folder, const char *temporary, const char *final, const char *text,
                                size_t length, zero_error_t *error)
{
    int failed, fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return zero_fail_file(error, "create", temporary, NULL);
    zero_status_t status = zero_write_file(fd, folder, ZERO_MANIFEST_NAME ".tmp", 0, text, length, error);
    while (status == ZERO_OK && (failed = fsync(fd)) != 0)
        if (errno != EINTR)
            status = zero_fail_file(error, "write out", temporary, NULL);
    if (close(fd) < 0 && errno != EINTR && status == ZERO_OK)
        status = zero_fail_file(error, "close", temporary, NULL);
    if (status == ZERO_OK && rename(temporary, final) < 0)
        status = zero_fail_file(error, "give its name to", final, NULL);
    if (status == ZERO_OK && (status = zero_sync_folder(folder, error)) != ZERO_OK)
        unlink(final); /* a save that has failed leaves no checkpoint */
    return status;
}

zero_status_t zero_manifest_write(const zero_manifest_t *manifest, const char *folder, zero_error_t *error)
{
    char *text = NULL, *temporary = zero_join_path(folder, strlen(folder), ZERO_MANIFEST_NAME ".tmp"),
         *final = zero_join_path(folder, strlen(folder), ZERO_MANIFEST_NAME);
    size_t length;
    zero_status_t status = temporary && final ? zero_manifest_text(manifest, &text, &length, error) : no_memory(error);
    if (status == ZERO_OK)
        status = write_text(folder, temporary, final, text, length, error);
    free(text);
    free(temporary);
    free(final);
    return status;
}

/* The text, which the caller frees, and its path, likewise. */
static zero_status_t read_text(const char *folder, char **path, char **text, size_t *length, zero_error_t *error)
{
    int fd = -1;
    uint64_t bytes = 0;
    *text = NULL;
    *path = zero_join_path(folder, strlen(folder), ZERO_MANIFEST_NAME);
    if (!*path)
        return no_memory(error);
    if (access(*path, F_OK) != 0 && errno == ENOENT)
        return zero_fail_reason(error, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1,
                                "'%s' is not a whole checkpoint: it has no " ZERO_MANIFEST_NAME, folder);
    zero_status_t status = zero_open_file(*path, &fd, &bytes, error);
    if (status != ZERO_OK)
        return status;
    *length = (size_t)bytes;
    if (bytes > ZERO_MANIFEST_MOST)
        status = zero_fail(error, ZERO_ERR_FORMAT, "'%s' has %llu bytes, but at most %d are read", *path,
                           (unsigned long long)bytes, ZERO_MANIFEST_MOST);
    else if (!(*text = malloc((size_t)bytes + 1)))
        status = no_memory(error);
    else
        status = zero_read_file(fd, *path, 0, *text, bytes, error);
    close(fd);
    return status;
}

zero_status_t zero_manifest_read(zero_manifest_t *manifest, const char *folder, zero_error_t *error)
{
    char *text, *path;
    size_t length;
    *manifest = (zero_manifest_t){0};
    zero_status_t status = read_text(folder, &path, &text, &length, error);
    if (status == ZERO_OK)
        status = zero_manifest_parse(manifest, text, length, path, error);
    free(text);
    free(path);
    return status;
}

bool zero_manifest_check(const char *folder)
{
    char *text, *path;
    size_t length;
    zero_status_t status = read_text(folder, &path, &text, &length, NULL);
    if (status == ZERO_OK)
        status = zero_manifest_check_text(text, length, path, NULL);
    free(text);
    free(path);
    return status == ZERO_OK;
}
