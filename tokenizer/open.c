/* SPDX-License-Identifier: Apache-2.0 */
/* open.c - reads tokenizer.json: the file, the post-processor, and what the readers of the other parts share. */
#include "tokenizer/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MOST = 1 << 30 };

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

zero_status_t zero_json_bool(const json_t *object, const char *key, const char *name, const char *what, bool *out,
                             zero_error_t *error)
{
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value))
        return ZERO_OK;
    if (!json_is_boolean(value))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: \"%s\" of %s must be true or false", name, key, what);
    *out = json_is_true(value);
    return ZERO_OK;
}

zero_status_t zero_json_text(const json_t *object, const char *key, const char *name, const char *what,
                             const char **text, size_t *bytes, zero_error_t *error)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_string(value))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: %s has no text \"%s\"", name, what, key);
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return ZERO_OK;
}

const char *zero_json_type(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type != NULL ? type : "";
}

zero_status_t zero_json_pattern(zero_pattern_t *p, const json_t *object, const char *name, const char *what,
                                zero_error_t *error)
{
    const json_t *pattern = json_object_get(object, "pattern"), *text = json_object_get(pattern, "String");
    const json_t *regex = json_object_get(pattern, "Regex");
    if (json_is_string(text))
        return zero_pattern_literal(p, json_string_value(text), json_string_length(text))
                   ? ZERO_OK
                   : zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for the pattern of %s", name, what);
    if (json_is_string(regex))
        return zero_pattern_compile(p, name, json_string_value(regex), json_string_length(regex), error);
    return zero_fail(error, ZERO_ERR_FORMAT,
                     "%s: the pattern of %s must be {\"String\": text} or {\"Regex\": expression}", name, what);
}

zero_status_t zero_json_refuse(const char *name, const char *kind, const json_t *object, const char *supported,
                               zero_error_t *error)
{
    const char *type = zero_json_type(object);
    if (!json_is_object(object) || type[0] == '\0')
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: its %s has no \"type\"", name, kind);
    return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: %s '%s' is not supported, %s", name, kind, type, supported);
}

/* ---- the post-processor ----------------------------------------------------------------------------------------- */

/* The ids of a special token of a template. */
static zero_status_t template_token(zero_ids_t *ids, const char *name, const json_t *processor, const json_t *token,
                                    int64_t size, zero_error_t *error)
{
    const char *text = json_string_value(json_object_get(token, "id"));
    const json_t *list = json_object_get(json_object_get(json_object_get(processor, "special_tokens"), text), "ids");
    size_t i;
    json_t *id;
    if (text == NULL || !json_is_array(list))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: the template of TemplateProcessing has token '%s' without ids",
                         name, text != NULL ? text : "");
    json_array_foreach(list, i, id)
    {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= size)
            return zero_fail(error, ZERO_ERR_FORMAT, "%s: an id of '%s' in TemplateProcessing is not one of a token",
                             name, text);
        if (!zero_ids_add(ids, (int32_t)json_integer_value(id)))
            return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its template", name);
    }
    return ZERO_OK;
}

static zero_status_t parse_template(zero_tokenizer_t *t, const char *name, const json_t *processor, zero_error_t *error)
{
    const json_t *single = json_object_get(processor, "single"), *part;
    int sequences = 0;
    size_t i;
    if (t->before.count > 0 || t->after.count > 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: it has two post-processors 'TemplateProcessing'", name);
    json_array_foreach(single, i, part)
    {
        const json_t *token = json_object_get(part, "SpecialToken");
        zero_status_t status = ZERO_OK;
        if (token != NULL)
            status =
                template_token(sequences == 0 ? &t->before : &t->after, name, processor, token, t->vocab.size, error);
        else
            sequences++;
        if (status != ZERO_OK)
            return status;
    }
    if (sequences != 1)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: the template \"single\" of TemplateProcessing has %d sequences, but must have one", name,
                         sequences);
    return ZERO_OK;
}

static zero_status_t parse_processor(zero_tokenizer_t *t, const char *name, const json_t *processor,
                                     zero_error_t *error)
{
    const char *type = zero_json_type(processor);
    const json_t *list = json_object_get(processor, "processors"), *one;
    size_t i;
    if (processor == NULL || json_is_null(processor) || strcmp(type, "ByteLevel") == 0) /* changes offsets alone */
        return ZERO_OK;
    if (strcmp(type, "TemplateProcessing") == 0)
        return parse_template(t, name, processor, error);
    if (strcmp(type, "Sequence") != 0)
        return zero_json_refuse(name, "post-processor", processor, "ByteLevel, TemplateProcessing and Sequence are",
                                error);
    if (!json_is_array(list))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: post-processor 'Sequence' has no list \"processors\"", name);
    json_array_foreach(list, i, one)
    {
        zero_status_t status = parse_processor(t, name, one, error);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static zero_status_t parse_parts(zero_tokenizer_t *t, const char *name, const json_t *root, zero_error_t *error)
{
    const json_t *added = json_object_get(root, "added_tokens");
    bool byte_level = false;
    zero_status_t status;
    if (added != NULL && !json_is_array(added) && !json_is_null(added))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: \"added_tokens\" is not a list", name);
    if ((status = zero_split_parse(t, name, json_object_get(root, "pre_tokenizer"), &byte_level, error)) != ZERO_OK ||
        (status = zero_normalize_parse(t, name, json_object_get(root, "normalizer"), error)) != ZERO_OK ||
        (status = zero_vocab_parse(&t->vocab, name, json_object_get(root, "model"), added, byte_level, error)) !=
            ZERO_OK ||
        (status = zero_finder_parse(t, name, added, error)) != ZERO_OK ||
        (status = parse_processor(t, name, json_object_get(root, "post_processor"), error)) != ZERO_OK)
        return status;
    return zero_decode_parse(t, name, json_object_get(root, "decoder"), error);
}

zero_status_t zero_tokenizer_parse(zero_tokenizer_t **out, const char *name, const char *text, size_t bytes,
                                   zero_error_t *error)
{
    static const char pointer[] = "version https://git-lfs";
    json_error_t where;
    zero_status_t status;
    *out = NULL;
    if (bytes >= sizeof pointer - 1 && memcmp(text, pointer, sizeof pointer - 1) == 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: it is a git-lfs pointer, not the file: run 'git lfs pull' there",
                         name);
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (root == NULL)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: line %d, column %d is not JSON: %s", name, where.line,
                         where.column, where.text);
    zero_tokenizer_t *t = calloc(1, sizeof *t);
    if (t == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for a tokenizer", name);
    else
        status = parse_parts(t, name, root, error);
    json_decref(root);
    if (status != ZERO_OK) {
        zero_tokenizer_close(t);
        return status;
    }
    *out = t;
    return ZERO_OK;
}

/* Reads bytes of the file into text. */
static zero_status_t read_all(int file, const char *path, char *text, size_t bytes, zero_error_t *error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = read(file, text + done, bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return zero_fail(error, ZERO_ERR_IO, "cannot read %s: %s", path,
                             n < 0 ? strerror(errno) : "it was truncated meanwhile");
        done += (size_t)n;
    }
    return ZERO_OK;
}

zero_status_t zero_tokenizer_open(zero_tokenizer_t **out, const char *path, zero_error_t *error)
{
    struct stat info;
    char *text = NULL;
    zero_status_t status;
    *out = NULL;
    /* without O_NONBLOCK, opening a pipe would wait for a writer */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &info) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = zero_fail(error, ZERO_ERR_ARG, "%s is %s, but must be a tokenizer.json", path,
                           S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    else if (info.st_size > FILE_MOST)
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s has %lld bytes, more than any tokenizer.json (at most %d)", path,
                           (long long)info.st_size, FILE_MOST);
    else if ((text = malloc((size_t)info.st_size + 1)) == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the %lld bytes of %s", (long long)info.st_size, path);
    else if ((status = read_all(file, path, text, (size_t)info.st_size, error)) == ZERO_OK)
        status = zero_tokenizer_parse(out, path, text, (size_t)info.st_size, error);
    if (file >= 0)
        close(file);
    free(text);
    return status;
}

void zero_tokenizer_close(zero_tokenizer_t *t)
{
    if (t == NULL)
        return;
    for (int i = 0; i < ZERO_STEPS; i++) {
        zero_pattern_free(&t->rewrites[i].pattern);
        free(t->rewrites[i].text);
        zero_pattern_free(&t->steps[i].pattern);
        zero_pattern_free(&t->decodes[i].pattern);
        free(t->decodes[i].text);
    }
    zero_vocab_free(&t->vocab);
    zero_finder_free(&t->raw);
    zero_finder_free(&t->normalized);
    free(t->classes);
    free(t->before.at);
    free(t->after.at);
    free(t);
}

int64_t zero_tokenizer_size(const zero_tokenizer_t *t)
{
    return t->vocab.size;
}

int32_t zero_tokenizer_id(const zero_tokenizer_t *t, const char *token)
{
    return zero_names_find(&t->vocab.names, token, strlen(token));
}
