/* SPDX-License-Identifier: Apache-2.0 */
/* manifest_parse.c - zero_manifest_parse: from text that may come from anywhere. */
#include "zero/checkpoint/files.h"
#include "zero/checkpoint/manifest.h"
#include "zero/checkpoint/manifest_text.h"

#include <float.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

typedef struct source {
    const char *path;
    zero_error_t *error;
    int64_t version;
    zero_quoted_t name; /* of the parameter or file that is being parsed */
} source_t;

#define LIE(source, ...) zero_fail((source)->error, ZERO_ERR_FORMAT, __VA_ARGS__)

static zero_status_t no_memory(source_t *from)
{
    return zero_fail(from->error, ZERO_ERR_MEMORY, "no memory for the contents of '%s'", from->path);
}

/* What comes from outside is at most this many bytes, in a file and altogether. */
#define MOST_BYTES (INT64_C(1) << 60)

/* ---- values ----------------------------------------------------------------------------------------------------- */

static zero_status_t take_int(source_t *from, const json_t *object, const char *key, int64_t most, int64_t *out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > most)
        return LIE(from, "'%s': \"%s\"%s%s%s is not a whole number from 0 to %lld", from->path, key,
                   from->name.text[0] ? " of '" : "", from->name.text, from->name.text[0] ? "'" : "", (long long)most);
    *out = json_integer_value(value);
    return ZERO_OK;
}

static zero_status_t take_string(source_t *from, const json_t *object, const char *key, char **out)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        return LIE(from, "'%s': \"%s\" is missing, or is not text", from->path, key);
    *out = strdup(json_string_value(value));
    return *out ? ZERO_OK : no_memory(from);
}

static zero_status_t take_array(source_t *from, const json_t *object, const char *key, size_t most, json_t **out)
{
    *out = json_object_get(object, key);
    if (!json_is_array(*out) || json_array_size(*out) > most)
        return LIE(from, "'%s': \"%s\"%s%s%s is not an array of at most %zu entries", from->path, key,
                   from->name.text[0] ? " of '" : "", from->name.text, from->name.text[0] ? "'" : "", most);
    return ZERO_OK;
}

/* n characters, which need no end; false if one is not a lower-case hexadecimal digit. */
static bool take_hex(const char *text, size_t n, uint64_t *out)
{
    *out = 0;
    for (size_t k = 0; k < n; k++) {
        char c = text[k];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
            return false;
        *out = *out << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

/* ---- parameters ------------------------------------------------------------------------------------------------- */

static zero_status_t parse_param(source_t *from, const json_t *value, zero_manifest_param_t *param)
{
    zero_status_t status;
    json_t *shape;
    int64_t count = 1;
    if ((status = take_string(from, value, "name", &param->name)) != ZERO_OK)
        return status;
    zero_quote(&from->name, param->name);
    const char *dtype = json_string_value(json_object_get(value, "dtype")); /* NULL where it is no text */
    for (param->dtype = 0; param->dtype < ZERO_DTYPE_COUNT; param->dtype++)
        if (dtype && strcmp(dtype, zero_dtype_name(param->dtype)) == 0)
            break;
    if (param->dtype == ZERO_DTYPE_COUNT)
        return LIE(from, "'%s': the dtype of parameter '%s' is not fp32, bf16 or fp16", from->path, from->name.text);
    if ((status = take_array(from, value, "shape", ZERO_MAX_DIMS, &shape)) != ZERO_OK)
        return status;
    for (size_t d = 0; d < json_array_size(shape); d++) {
        const json_t *size = json_array_get(shape, d);
        int64_t n = json_is_integer(size) ? json_integer_value(size) : -1;
        if (n < 0 || !zero_mul_i64(count, n, &count) || count > MOST_BYTES / 4)
            return LIE(from, "'%s': the shape of parameter '%s' is not a list of sizes with less than 2^58 elements",
                       from->path, from->name.text);
        param->shape[param->ndim++] = n;
    }
    const json_t *trainable = json_object_get(value, "trainable");
    if (!json_is_boolean(trainable))
        return LIE(from, "'%s': parameter '%s' has no \"trainable\" that is true or false", from->path,
                   from->name.text);
    param->trainable = json_is_true(trainable);
    return ZERO_OK;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* A number from 1 to most. */
static bool take_size(const json_t *value, uint64_t most, uint32_t *out)
{
    const json_int_t n = json_is_integer(value) ? json_integer_value(value) : 0;
    *out = (uint32_t)n;
    return n >= 1 && (uint64_t)n <= most;
}

/* [offset, bytes, "hash"] or [offset, bytes, "hash", count, stride]. What is wrong with a piece alone. */
static zero_status_t parse_piece(source_t *from, const json_t *value, uint64_t number, zero_piece_t *piece)
{
    const json_t *offset = json_array_get(value, 0),
                 *hash = json_array_get(value, 2); /* NULL where value is no array */
    const bool runs = from->version > 1 && json_array_size(value) == 5;
    if ((!runs && json_array_size(value) != 3) || !json_is_integer(offset) || json_integer_value(offset) < 0 ||
        !take_size(json_array_get(value, 1), ZERO_PIECE_BYTES, &piece->bytes) || json_string_length(hash) != 16 ||
        !take_hex(json_string_value(hash), 16, &piece->hash))
        return LIE(from, "'%s': block %llu of '%s' is not [offset, 1 to %llu bytes, \"16 hex digits\"%s]", from->path,
                   (unsigned long long)number, from->name.text, (unsigned long long)ZERO_PIECE_BYTES,
                   from->version > 1 ? ", count, stride" : "");
    piece->offset = (uint64_t)json_integer_value(offset);
    piece->count = 1;
    piece->stride = piece->bytes;
    if (runs && (!take_size(json_array_get(value, 3), ZERO_PIECE_BYTES / piece->bytes, &piece->count) ||
                 !take_size(json_array_get(value, 4), ZERO_WINDOW_BYTES / piece->count, &piece->stride) ||
                 piece->count < 2 || piece->stride % piece->bytes != 0 || piece->stride == piece->bytes))
        return LIE(
            from,
            "'%s': block %llu of '%s' is not of runs of %u bytes: wanted are 2 or more, with at most %llu bytes, "
            "and a stride that is a multiple of their bytes and, times their count, at most %llu",
            from->path, (unsigned long long)number, from->name.text, piece->bytes, (unsigned long long)ZERO_PIECE_BYTES,
            (unsigned long long)ZERO_WINDOW_BYTES);
    return ZERO_OK;
}

/* Whether the pieces have every byte of the file once. */
static zero_status_t check_cover(source_t *from, const zero_manifest_file_t *file, const zero_piece_t *pieces)
{
    uint64_t end;
    const uint64_t whole = zero_manifest_cover(pieces, file->count, &end);
    const zero_piece_t *next = &pieces[whole];
    if (whole < file->count && next->offset != end)
        return LIE(from,
                   "'%s': blocks of '%s' leave a gap or overlap: one begins at byte %llu, the one before it ends "
                   "at %llu",
                   from->path, from->name.text, (unsigned long long)next->offset, (unsigned long long)end);
    if (whole < file->count)
        return LIE(
            from,
            "'%s': blocks of '%s' leave a gap or overlap: the one at byte %llu and those behind it are not %u of "
            "%u runs of %u bytes, each behind the first run of the one before it",
            from->path, from->name.text, (unsigned long long)end, zero_window_pieces(next), next->count, next->bytes);
    if (end != file->bytes)
        return LIE(from, "'%s': the blocks of '%s' have %llu bytes, but the file has %llu", from->path, from->name.text,
                   (unsigned long long)end, (unsigned long long)file->bytes);
    return ZERO_OK;
}

/* blocks become the last of manifest->pieces, which has room for them. */
static zero_status_t parse_file(source_t *from, const json_t *value, zero_manifest_t *manifest,
                                zero_manifest_file_t *file)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    zero_status_t status;
    int64_t bytes;
    size_t s = 0;
    const json_t *blocks = json_object_get(value, "blocks"); /* an array: they have been counted */
    if ((status = take_string(from, value, "name", &file->name)) != ZERO_OK)
        return status;
    zero_quote(&from->name, file->name);
    if (!zero_is_file_name(file->name) || strcmp(file->name, ZERO_MANIFEST_NAME) == 0)
        return LIE(from, "'%s': '%s' is not the name of a file of tensors in its folder", from->path, from->name.text);
    const char *state = json_string_value(json_object_get(value, "state"));
    while (s < sizeof states / sizeof states[0] && (!state || strcmp(state, zero_checkpoint_state_name(states[s]))))
        s++;
    if (s == sizeof states / sizeof states[0])
        return LIE(from, "'%s': the state of '%s' is not parameters, master, moment1 or moment2", from->path,
                   from->name.text);
    file->state = states[s];
    if ((status = take_int(from, value, "bytes", MOST_BYTES, &bytes)) != ZERO_OK)
        return status;
    file->bytes = (uint64_t)bytes;
    file->first = manifest->piece_count;
    file->count = json_array_size(blocks);
    for (size_t k = 0; k < file->count; k++) {
        zero_piece_t *piece = &manifest->pieces[manifest->piece_count++];
        piece->file = (uint32_t)manifest->file_count;
        if ((status = parse_piece(from, json_array_get(blocks, k), k, piece)) != ZERO_OK)
            return status;
    }
    return check_cover(from, file, &manifest->pieces[file->first]);
}

static zero_status_t parse_files(source_t *from, const json_t *root, zero_manifest_t *manifest)
{
    json_t *files, *blocks;
    size_t k, pieces = 0;
    zero_status_t status = take_array(from, root, "files", INT32_MAX, &files);
    for (k = 0; status == ZERO_OK && k < json_array_size(files); k++) {
        status = take_array(from, json_array_get(files, k), "blocks", ZERO_MANIFEST_MOST, &blocks);
        pieces += status == ZERO_OK ? json_array_size(blocks) : 0;
    }
    if (status != ZERO_OK)
        return status;
    manifest->files = calloc(json_array_size(files) + 1, sizeof *manifest->files);
    manifest->pieces = calloc(pieces + 1, sizeof *manifest->pieces);
    if (!manifest->files || !manifest->pieces)
        return no_memory(from);
    for (k = 0; k < json_array_size(files) && status == ZERO_OK; k++) {
        status = parse_file(from, json_array_get(files, k), manifest, &manifest->files[k]);
        manifest->file_count++;
        from->name.text[0] = '\0';
    }
    return status;
}

static zero_status_t parse_params(source_t *from, const json_t *root, zero_manifest_t *manifest)
{
    json_t *params;
    zero_status_t status = take_array(from, root, "params", INT32_MAX, &params);
    if (status != ZERO_OK)
        return status;
    manifest->params = calloc(json_array_size(params) + 1, sizeof *manifest->params);
    if (!manifest->params)
        return no_memory(from);
    for (size_t k = 0; k < json_array_size(params) && status == ZERO_OK; k++) {
        status = parse_param(from, json_array_get(params, k), &manifest->params[k]);
        manifest->param_count++;
        from->name.text[0] = '\0';
    }
    return status;
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of parameters (what "parameter"), or of files, are unique. */
static zero_status_t check_unique(source_t *from, const zero_manifest_t *manifest, bool params)
{
    size_t count = (size_t)(params ? manifest->param_count : manifest->file_count);
    char **names = calloc(count + 1, sizeof *names);
    zero_status_t status = ZERO_OK;
    if (!names)
        return no_memory(from);
    for (size_t k = 0; k < count; k++)
        names[k] = params ? manifest->params[k].name : manifest->files[k].name;
    qsort(names, count, sizeof *names, by_text);
    for (size_t k = 1; k < count && status == ZERO_OK; k++)
        if (strcmp(names[k - 1], names[k]) == 0)
            status = LIE(from, "'%s': two %s have the name '%s'", from->path, params ? "parameters" : "files",
                         zero_quote(&from->name, names[k]));
    free(names);
    return status;
}

/* The bytes of the caller, from hexadecimal digits. */
static zero_status_t parse_caller(source_t *from, const json_t *root, zero_manifest_t *manifest)
{
    const json_t *value = json_object_get(root, "caller");
    const char *text = json_string_value(value);
    size_t n = json_string_length(value) / 2;
    uint64_t byte = 0;
    if (!text || json_string_length(value) % 2 != 0 || n > ZERO_MANIFEST_CALLER_MOST)
        return LIE(from, "'%s': \"caller\" is not text of at most %d pairs of hexadecimal digits", from->path,
                   ZERO_MANIFEST_CALLER_MOST);
    unsigned char *bytes = malloc(n + 1);
    if (!bytes)
        return no_memory(from);
    manifest->caller = bytes;
    manifest->caller_bytes = n;
    for (size_t k = 0; k < n; k++) {
        if (!take_hex(text + 2 * k, 2, &byte))
            return LIE(from, "'%s': \"caller\" has a character that is no hexadecimal digit", from->path);
        bytes[k] = (unsigned char)byte;
    }
    return ZERO_OK;
}

static zero_status_t parse_about(source_t *from, const json_t *root, zero_manifest_t *manifest)
{
    json_t *about = json_object_get(root, "about");
    if (!about)
        return ZERO_OK;
    if (!json_is_object(about))
        return LIE(from, "'%s': \"about\" is not a JSON object", from->path);
    manifest->about = json_dumps(about, JSON_COMPACT);
    return manifest->about ? ZERO_OK : no_memory(from);
}

/* The dynamic loss scale, which older checkpoints lack. */
static zero_status_t parse_loss_scale(source_t *from, const json_t *root, zero_manifest_t *manifest)
{
    const json_t *scale = json_object_get(root, "loss_scale"), *value = json_object_get(scale, "value");
    zero_status_t status;
    if (!scale)
        return ZERO_OK;
    const double number = json_number_value(value); /* 0 if it is no number */
    if (!(number >= FLT_MIN && number <= FLT_MAX))
        return LIE(from, "'%s': \"loss_scale\" has no \"value\" that is a positive number of fp32", from->path);
    manifest->loss_scale = (float)number;
    if ((status = take_int(from, scale, "good_steps", INT32_MAX, &manifest->good_steps)) != ZERO_OK)
        return status;
    return take_int(from, scale, "overflows", INT32_MAX, &manifest->overflows);
}

zero_status_t zero_manifest_check_text(const char *text, size_t length, const char *path, zero_error_t *error)
{
    source_t own = {.path = path, .error = error}, *from = &own;
    static const char before[] = ZERO_MANIFEST_CHECK, behind[] = ZERO_MANIFEST_END;
    const size_t tail = sizeof before - 1 + 16 + sizeof behind - 1;
    uint64_t said;
    if (length < tail || memcmp(text + length - tail, before, sizeof before - 1) != 0 ||
        memcmp(text + length - (sizeof behind - 1), behind, sizeof behind - 1) != 0 ||
        !take_hex(text + length - tail + sizeof before - 1, 16, &said))
        return LIE(from, "'%s' is cut off, or is no manifest of a checkpoint: it does not end with its hash",
                   from->path);
    if (said != XXH3_64bits(text, length - tail))
        return LIE(from, "'%s' is damaged: its text does not have the hash at its end", from->path);
    return ZERO_OK;
}

static zero_status_t check_version(source_t *from, const json_t *root)
{
    zero_quoted_t library;
    const char *format = json_string_value(json_object_get(root, "format"));
    if (!format || strcmp(format, ZERO_MANIFEST_FORMAT) != 0)
        return LIE(from, "'%s': \"format\" is not '" ZERO_MANIFEST_FORMAT "'", from->path);
    zero_status_t status = take_int(from, root, "version", INT32_MAX, &from->version);
    if (status != ZERO_OK)
        return status;
    if (from->version > ZERO_MANIFEST_VERSION) {
        const char *by = json_string_value(json_object_get(root, "library"));
        return zero_fail(
            from->error, ZERO_ERR_UNSUPPORTED,
            "'%s' has version %lld of the format, but libzero %s reads versions up to %d: use libzero %s or newer",
            from->path, (long long)from->version, zero_version(), ZERO_MANIFEST_VERSION,
            by ? zero_quote(&library, by) : "of the checkpoint's writer");
    }
    return from->version > 0 ? ZERO_OK : LIE(from, "'%s' has version 0 of the format, which never was", from->path);
}

zero_status_t zero_manifest_parse(zero_manifest_t *manifest, const char *text, size_t length, const char *path,
                                  zero_error_t *error)
{
    source_t from = {.path = path, .error = error};
    zero_quoted_t quoted;
    json_error_t json_error;
    json_t *root = NULL;
    *manifest = (zero_manifest_t){0};
    zero_status_t status = zero_manifest_check_text(text, length, path, error);
    if (status != ZERO_OK)
        goto end;
    root = json_loadb(text, length, JSON_REJECT_DUPLICATES, &json_error);
    if (!json_is_object(root)) {
        status = LIE(&from, "'%s' is not a JSON object%s%s (line %d)", path, root ? "" : ": ",
                     root ? "" : zero_quote(&quoted, json_error.text), root ? 1 : json_error.line);
        goto end;
    }
    if ((status = check_version(&from, root)) != ZERO_OK ||
        (status = take_string(&from, root, "library", &manifest->library)) != ZERO_OK ||
        (status = take_int(&from, root, "step", INT64_MAX, &manifest->step)) != ZERO_OK ||
        (status = take_int(&from, root, "applied", manifest->step, &manifest->applied)) != ZERO_OK ||
        (status = take_string(&from, root, "optimizer", &manifest->optimizer)) != ZERO_OK ||
        (status = parse_params(&from, root, manifest)) != ZERO_OK ||
        (status = parse_files(&from, root, manifest)) != ZERO_OK ||
        (status = check_unique(&from, manifest, true)) != ZERO_OK ||
        (status = check_unique(&from, manifest, false)) != ZERO_OK ||
        (status = parse_loss_scale(&from, root, manifest)) != ZERO_OK ||
        (status = parse_about(&from, root, manifest)) != ZERO_OK)
        goto end;
    status = parse_caller(&from, root, manifest);

end:
    json_decref(root);
    if (status != ZERO_OK)
        zero_manifest_clear(manifest);
    return status;
}
