/* SPDX-License-Identifier: Apache-2.0 */
/* decode.c - ids to text: ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, and sequences of them. */
#include "tokenizer/parts.h"

/* The texts of tokens, while steps change them. */
typedef struct parts {
    zero_span_t *at;
    size_t *starts; /* of the texts that a step writes, whose memory may still move */
    int64_t count;
    zero_chars_t chars[2]; /* what they point into, by turns */
} parts_t;

/* Appends bytes as UTF-8: a replacement character (U+FFFD) stands for each longest part of a character that could not
 * be completed, as Unicode recommends, or for each byte. */
static bool add_lossy(zero_chars_t *out, const char *at, size_t bytes, bool each_byte)
{
    for (size_t i = 0; i < bytes;) {
        size_t good = zero_utf8_check(at + i, bytes - i), bad = 1;
        if (!zero_chars_add(out, at + i, good))
            return false;
        i += good;
        if (i == bytes)
            break;
        /* a longer part is good if some completion of it is */
        for (; !each_byte && i + bad < bytes && bad < 4; bad++) {
            static const char tails[3] = {(char)0x80, (char)0x90, (char)0xa0};
            char trial[4];
            size_t n = zero_utf8_bytes(at[i]);
            bool possible = false;
            if ((unsigned char)at[i] < 0xc2 || bad + 1 >= n)
                break;
            memset(trial, 0x80, sizeof trial);
            memcpy(trial, at + i, bad + 1);
            for (size_t k = 0; k < 3 && !possible; k++) {
                trial[bad + 1] = tails[k];
                possible = zero_utf8_check(trial, n) == n;
            }
            if (!possible)
                break;
        }
        if (!zero_chars_add(out, "\xef\xbf\xbd", 3))
            return false;
        i += bad;
    }
    return true;
}

/* ---- steps: each writes the parts' texts to out ----------------------------------------------------------------- */

/* Ends a part that began at start in out. */
static void end_part(parts_t *p, int64_t i, size_t start, const zero_chars_t *out)
{
    p->starts[i] = start;
    p->at[i].bytes = out->count - start;
}

/* Sets the addresses once out is complete. */
static void settle(parts_t *p, const zero_chars_t *out)
{
    for (int64_t i = 0; i < p->count; i++)
        p->at[i].at = out->at != NULL ? out->at + p->starts[i] : "";
}

static bool fuse(parts_t *p, zero_chars_t *out)
{
    for (int64_t i = 0; i < p->count; i++)
        if (!zero_chars_add(out, p->at[i].at, p->at[i].bytes))
            return false;
    p->count = 1;
    end_part(p, 0, 0, out);
    return true;
}

static bool byte_level(parts_t *p, zero_chars_t *out)
{
    zero_chars_t raw = {0};
    bool ok = true;
    for (int64_t i = 0; i < p->count && ok; i++) {
        size_t n = 0;
        ok = zero_chars_reserve(&raw, p->at[i].bytes + 1);
        if (!ok)
            break;
        if (zero_byte_level_bytes(p->at[i].at, p->at[i].bytes, raw.at + raw.count, &n))
            raw.count += n;
        else /* an added token with other characters is its own text */
            ok = zero_chars_add(&raw, p->at[i].at, p->at[i].bytes);
    }
    ok = ok && add_lossy(out, raw.at, raw.count, false);
    free(raw.at);
    p->count = 1;
    end_part(p, 0, 0, out);
    return ok;
}

static bool replace(const zero_decode_t *d, const zero_matcher_t *m, parts_t *p, zero_chars_t *out)
{
    for (int64_t i = 0; i < p->count; i++) {
        size_t begin = out->count, done = 0, last = SIZE_MAX, start, end;
        const zero_span_t text = p->at[i];
        int found;
        while ((found = zero_pattern_find(&d->pattern, m, text.at, text.bytes, done, last, &start, &end)) > 0) {
            if (!zero_chars_add(out, text.at + done, start - done) || !zero_chars_add(out, d->text, d->text_bytes))
                return false;
            done = last = end;
        }
        if (found < 0 || !zero_chars_add(out, text.at + done, text.bytes - done))
            return false;
        end_part(p, i, begin, out);
    }
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of a token <0x..>; -1: it is another token. */
static int token_byte(zero_span_t text)
{
    bool is = text.bytes == 6 && memcmp(text.at, "<0x", 3) == 0 && text.at[5] == '>' && hex(text.at[3]) >= 0 &&
              hex(text.at[4]) >= 0;
    return is ? hex(text.at[3]) * 16 + hex(text.at[4]) : -1;
}

/* Runs of byte tokens become text, if it is UTF-8, else a replacement character for each. */
static bool byte_fallback(parts_t *p, zero_chars_t *out)
{
    zero_chars_t raw = {0};
    int64_t parts = 0;
    bool ok = true;
    for (int64_t i = 0; i < p->count && ok;) {
        size_t begin = out->count;
        int byte;
        raw.count = 0;
        for (; ok && i < p->count && (byte = token_byte(p->at[i])) >= 0; i++) {
            char c = (char)byte;
            ok = zero_chars_add(&raw, &c, 1);
        }
        if (raw.count > 0)
            ok = ok && (zero_utf8_check(raw.at, raw.count) == raw.count) ? zero_chars_add(out, raw.at, raw.count) : ok;
        if (raw.count > 0 && zero_utf8_check(raw.at, raw.count) < raw.count)
            for (size_t k = 0; k < raw.count && ok; k++)
                ok = zero_chars_add(out, "\xef\xbf\xbd", 3);
        if (raw.count == 0) {
            ok = zero_chars_add(out, p->at[i].at, p->at[i].bytes);
            i++;
        }
        end_part(p, parts++, begin, out);
    }
    free(raw.at);
    p->count = parts;
    return ok;
}

/* Drops up to start characters at the start of each part, and up to stop at its end. */
static void strip(const zero_decode_t *d, parts_t *p)
{
    size_t n = d->text_bytes;
    for (int64_t i = 0; i < p->count; i++) {
        zero_span_t *text = &p->at[i];
        for (int64_t k = 0; k < d->start && text->bytes >= n && memcmp(text->at, d->text, n) == 0; k++)
            *text = (zero_span_t){text->at + n, text->bytes - n};
        for (int64_t k = 0; k < d->stop && text->bytes >= n && memcmp(text->at + text->bytes - n, d->text, n) == 0; k++)
            text->bytes -= n;
    }
}

/* Metaspace: marks become spaces, those of the first token nothing if one was put there. */
static bool unmark(const zero_decode_t *d, parts_t *p, zero_chars_t *out)
{
    for (int64_t i = 0; i < p->count; i++) {
        size_t begin = out->count;
        for (size_t k = 0; k < p->at[i].bytes;) {
            const char *at = p->at[i].at + k;
            size_t n = zero_utf8_bytes(*at);
            bool mark = n == d->text_bytes && memcmp(at, d->text, n) == 0;
            if (!(mark && i == 0 && d->prepended) && !zero_chars_add(out, mark ? " " : at, mark ? 1 : n))
                return false;
            k += n;
        }
        end_part(p, i, begin, out);
    }
    return true;
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

static bool run_steps(const zero_tokenizer_t *t, const zero_matcher_t *m, parts_t *p)
{
    int use = 0;
    for (int i = 0; i < t->decode_count; i++) {
        const zero_decode_t *d = &t->decodes[i];
        zero_chars_t *out = &p->chars[use];
        bool ok = true;
        if (d->kind == ZERO_DECODE_STRIP) {
            strip(d, p);
            continue;
        }
        out->count = 0;
        switch (d->kind) {
        case ZERO_DECODE_BYTE_LEVEL:
            ok = byte_level(p, out);
            break;
        case ZERO_DECODE_REPLACE:
            ok = replace(d, m, p, out);
            break;
        case ZERO_DECODE_BYTE_FALLBACK:
            ok = byte_fallback(p, out);
            break;
        case ZERO_DECODE_FUSE:
            ok = fuse(p, out);
            break;
        default:
            ok = unmark(d, p, out);
        }
        if (!ok)
            return false;
        settle(p, out);
        use = 1 - use;
    }
    return true;
}

zero_status_t zero_tokenizer_decode(const zero_tokenizer_t *t, const int32_t *ids, int64_t count, bool skip_special,
                                    char **text, size_t *bytes, zero_error_t *error)
{
    parts_t p = {.at = malloc(((size_t)count + 1) * sizeof *p.at),
                 .starts = malloc(((size_t)count + 1) * sizeof *p.starts)};
    zero_chars_t all = {0};
    zero_matcher_t matcher = {0};
    bool ok = zero_matcher_open(&matcher) && p.at != NULL && p.starts != NULL && zero_chars_reserve(&all, 1);
    for (int64_t i = 0; i < count && ok; i++) {
        const zero_token_t *token = ids[i] >= 0 && ids[i] < t->vocab.size ? &t->vocab.tokens[ids[i]] : NULL;
        if (token != NULL && token->text != NULL && !(skip_special && token->special))
            p.at[p.count++] = (zero_span_t){token->text, token->bytes};
    }
    ok = ok && run_steps(t, &matcher, &p);
    for (int64_t i = 0; i < p.count && ok; i++)
        ok = (i == 0 || t->decode_count > 0 || zero_chars_add(&all, " ", 1)) &&
             zero_chars_add(&all, p.at[i].at, p.at[i].bytes);
    ok = ok && zero_chars_reserve(&all, 1);
    *text = NULL;
    if (ok) {
        all.at[all.count] = '\0';
        *text = all.at;
        *bytes = all.count;
    } else
        free(all.at);
    free(p.at);
    free(p.starts);
    free(p.chars[0].at);
    free(p.chars[1].at);
    zero_matcher_close(&matcher);
    return ok ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory for decoding %lld ids", (long long)count);
}

/* ---- reading the file ------------------------------------------------------------------------------------------- */

static zero_status_t own_text(zero_decode_t *d, const json_t *json, const char *key, const char *name,
                              zero_error_t *error)
{
    const char *text;
    zero_status_t status = zero_json_text(json, key, name, zero_json_type(json), &text, &d->text_bytes, error);
    if (status != ZERO_OK)
        return status;
    d->text = malloc(d->text_bytes + 1);
    if (d->text == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its decoder", name);
    memcpy(d->text, text, d->text_bytes);
    return ZERO_OK;
}

static zero_status_t parse_strip(zero_decode_t *d, const char *name, const json_t *json, zero_error_t *error)
{
    const json_t *start = json_object_get(json, "start"), *stop = json_object_get(json, "stop");
    zero_status_t status = own_text(d, json, "content", name, error);
    if (status != ZERO_OK)
        return status;
    if (!json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
        json_integer_value(stop) < 0 || d->text_bytes == 0)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: decoder 'Strip' needs a character \"content\", and numbers \"start\" and \"stop\"", name);
    d->start = json_integer_value(start);
    d->stop = json_integer_value(stop);
    return ZERO_OK;
}

static zero_status_t parse_mark(zero_decode_t *d, const char *name, const json_t *json, zero_error_t *error)
{
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    bool space = true;
    zero_status_t status = own_text(d, json, "replacement", name, error);
    if (status == ZERO_OK)
        status = zero_json_bool(json, "add_prefix_space", name, "Metaspace", &space, error);
    d->prepended = scheme != NULL ? strcmp(scheme, "never") != 0 : space;
    return status;
}

zero_status_t zero_decode_parse(zero_tokenizer_t *t, const char *name, const json_t *json, zero_error_t *error)
{
    static const char *const types[] = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
    const json_t *list = json_object_get(json, "decoders"), *one;
    int kind = -1;
    size_t i;
    zero_status_t status = ZERO_OK;
    if (json == NULL || json_is_null(json))
        return ZERO_OK;
    if (strcmp(zero_json_type(json), "Sequence") == 0) {
        if (!json_is_array(list))
            return zero_fail(error, ZERO_ERR_FORMAT, "%s: decoder 'Sequence' has no list \"decoders\"", name);
        json_array_foreach(list, i, one) if (status == ZERO_OK) status = zero_decode_parse(t, name, one, error);
        return status;
    }
    for (int k = 0; k < 6; k++)
        if (strcmp(zero_json_type(json), types[k]) == 0)
            kind = k;
    if (kind < 0)
        return zero_json_refuse(name, "decoder", json,
                                "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip and Sequence are", error);
    if (t->decode_count == ZERO_STEPS)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: it has more than %d decoders", name, ZERO_STEPS);
    zero_decode_t *d = &t->decodes[t->decode_count++];
    d->kind = (zero_decode_kind_t)kind;
    switch (d->kind) {
    case ZERO_DECODE_REPLACE:
        status = own_text(d, json, "content", name, error);
        return status == ZERO_OK ? zero_json_pattern(&d->pattern, json, name, "Replace", error) : status;
    case ZERO_DECODE_STRIP:
        return parse_strip(d, name, json, error);
    case ZERO_DECODE_MARK:
        return parse_mark(d, name, json, error);
    default:
        return ZERO_OK;
    }
}
