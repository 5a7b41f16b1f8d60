/* SPDX-License-Identifier: Apache-2.0 */
/* normalize.c - normalizers: NFC, Prepend, Replace, and sequences of them. */
#include "tokenizer/parts.h"

#include <utf8proc.h>

/* ---- NFC -------------------------------------------------------------------------------------------------------- */

/* The class of a character is its canonical combining class, or NOT_SURE if it may differ in normalized text. 0: NFC
 * never changes it, and normalized text may be cut before it. This is the quick check of Unicode's annex 15. */
enum { CLASSES = 0x30000, NOT_SURE = 255 };

static uint8_t *make_classes(void)
{
    uint8_t *classes = calloc(CLASSES, 1);
    for (utf8proc_int32_t c = 0xc0; classes != NULL && c < CLASSES; c++) {
        utf8proc_int32_t parts[8];
        utf8proc_ssize_t n;
        if (c >= 0xd800 && c < 0xe000)
            continue;
        n = utf8proc_decompose_char(c, parts, 8, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        if (classes[c] == 0)
            classes[c] = (uint8_t)utf8proc_get_property(c)->combining_class;
        if (n < 1 || n > 8 || (n == 1 && parts[0] == c))
            continue;
        /* what follows the first part may compose with a character before it */
        for (utf8proc_ssize_t i = 1; i < n; i++)
            if (parts[i] < CLASSES)
                classes[parts[i]] = NOT_SURE;
        n = utf8proc_normalize_utf32(parts, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (n != 1 || parts[0] != c)
            classes[c] = NOT_SURE;
    }
    return classes;
}

static uint8_t class_of(const uint8_t *classes, uint32_t c)
{
    return c < CLASSES ? classes[c] : 0;
}

/* Appends the NFC of a few characters between two cuts. */
static bool compose(zero_encoder_t *e, const char *at, size_t bytes, zero_chars_t *out)
{
    const int options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    utf8proc_ssize_t n;
    for (;;) {
        n = utf8proc_decompose((const utf8proc_uint8_t *)at, (utf8proc_ssize_t)bytes, e->code_points,
                               (utf8proc_ssize_t)e->code_point_room, options);
        if (n < 0)
            return false;
        if ((size_t)n <= e->code_point_room)
            break;
        int32_t *more = realloc(e->code_points, ((size_t)n + 64) * sizeof *more);
        if (more == NULL)
            return false;
        e->code_points = more;
        e->code_point_room = (size_t)n + 64;
    }
    n = utf8proc_normalize_utf32(e->code_points, n, options);
    if (n < 0 || !zero_chars_reserve(out, (size_t)n * 4))
        return false;
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out->count += zero_utf8_put((uint32_t)e->code_points[i], out->at + out->count);
    return true;
}

/* The first position from on that the quick check does not pass, or bytes. *cut: the last cut at or before it. */
static size_t quick_check(const uint8_t *classes, const char *text, size_t bytes, size_t from, size_t *cut)
{
    uint8_t last = 0;
    size_t i = from;
    *cut = from;
    while (i < bytes) {
        uint64_t eight;
        if (i + 8 <= bytes && (memcpy(&eight, text + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            *cut = i - 1;
            last = 0;
            continue;
        }
        uint8_t class = (unsigned char)text[i] < 0xcc ? 0 : class_of(classes, zero_utf8_get(text + i));
        if (class == NOT_SURE || (class != 0 && class < last))
            return i;
        if (class == 0)
            *cut = i;
        last = class;
        i += zero_utf8_bytes(text[i]);
    }
    return bytes;
}

static bool nfc(zero_encoder_t *e, zero_span_t text, zero_chars_t *out, bool *changed)
{
    const uint8_t *classes = e->t->classes;
    size_t done = 0, cut;
    out->count = 0;
    for (;;) {
        size_t at = quick_check(classes, text.at, text.bytes, done, &cut);
        if (at == text.bytes && done == 0) {
            *changed = false;
            return true;
        }
        if (at == text.bytes) {
            *changed = true;
            return zero_chars_add(out, text.at + done, at - done);
        }
        size_t end = at + zero_utf8_bytes(text.at[at]);
        while (end < text.bytes && class_of(classes, zero_utf8_get(text.at + end)) != 0)
            end += zero_utf8_bytes(text.at[end]);
        if (!zero_chars_add(out, text.at + done, cut - done) || !compose(e, text.at + cut, end - cut, out))
            return false;
        done = end;
    }
}

/* ---- Replace ---------------------------------------------------------------------------------------------------- */

static bool replace(zero_encoder_t *e, const zero_rewrite_t *r, zero_span_t text, zero_chars_t *out, bool *changed,
                    zero_error_t *error)
{
    size_t at = 0, last = SIZE_MAX, start, end;
    int found;
    out->count = 0;
    *changed = false;
    while ((found = zero_pattern_find(&r->pattern, &e->matcher, text.at, text.bytes, at, last, &start, &end)) > 0) {
        *changed = true;
        if (!zero_chars_add(out, text.at + at, start - at) || !zero_chars_add(out, r->text, r->text_bytes))
            return false;
        at = last = end;
    }
    if (found < 0) {
        zero_fail(error, ZERO_ERR_FORMAT, "the pattern of normalizer 'Replace' needs too many steps at byte %zu", at);
        return false;
    }
    return !*changed || zero_chars_add(out, text.at + at, text.bytes - at);
}

/* ---- all -------------------------------------------------------------------------------------------------------- */

bool zero_normalize(zero_encoder_t *e, zero_span_t text, zero_span_t *out, zero_error_t *error)
{
    int use = 0;
    *out = text;
    for (int i = 0; i < e->t->rewrite_count; i++) {
        const zero_rewrite_t *r = &e->t->rewrites[i];
        zero_chars_t *to = &e->rewritten[use];
        bool changed = true, ok;
        switch (r->kind) {
        case ZERO_NFC:
            ok = nfc(e, *out, to, &changed);
            break;
        case ZERO_PREPEND:
            to->count = 0;
            changed = out->bytes > 0;
            ok = !changed || (zero_chars_add(to, r->text, r->text_bytes) && zero_chars_add(to, out->at, out->bytes));
            break;
        default:
            ok = replace(e, r, *out, to, &changed, error);
        }
        if (!ok)
            return false;
        if (changed) {
            *out = (zero_span_t){to->at, to->count};
            use = 1 - use;
        }
    }
    return true;
}

static zero_status_t parse_one(zero_tokenizer_t *t, const char *name, const json_t *normalizer, zero_error_t *error)
{
    const char *type = zero_json_type(normalizer), *text;
    zero_rewrite_t *r = &t->rewrites[t->rewrite_count];
    size_t bytes;
    zero_status_t status;
    if (strcmp(type, "NFC") != 0 && strcmp(type, "Prepend") != 0 && strcmp(type, "Replace") != 0)
        return zero_json_refuse(name, "normalizer", normalizer, "NFC, Prepend, Replace and Sequence are", error);
    if (t->rewrite_count == ZERO_STEPS)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: it has more than %d normalizers", name, ZERO_STEPS);
    t->rewrite_count++;
    if (strcmp(type, "NFC") == 0) {
        r->kind = ZERO_NFC;
        if (t->classes == NULL && (t->classes = make_classes()) == NULL)
            return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for the table of NFC", name);
        return ZERO_OK;
    }
    r->kind = strcmp(type, "Prepend") == 0 ? ZERO_PREPEND : ZERO_REPLACE;
    status =
        zero_json_text(normalizer, r->kind == ZERO_PREPEND ? "prepend" : "content", name, type, &text, &bytes, error);
    if (status == ZERO_OK && r->kind == ZERO_REPLACE)
        status = zero_json_pattern(&r->pattern, normalizer, name, type, error);
    if (status != ZERO_OK)
        return status;
    r->text = malloc(bytes + 1);
    if (r->text == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its normalizer", name);
    memcpy(r->text, text, bytes);
    r->text_bytes = bytes;
    return ZERO_OK;
}

zero_status_t zero_normalize_parse(zero_tokenizer_t *t, const char *name, const json_t *normalizer, zero_error_t *error)
{
    const json_t *list = json_object_get(normalizer, "normalizers"), *one;
    size_t i;
    if (normalizer == NULL || json_is_null(normalizer))
        return ZERO_OK;
    if (strcmp(zero_json_type(normalizer), "Sequence") != 0)
        return parse_one(t, name, normalizer, error);
    if (!json_is_array(list))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: normalizer 'Sequence' has no list \"normalizers\"", name);
    json_array_foreach(list, i, one)
    {
        zero_status_t status = zero_normalize_parse(t, name, one, error);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}
