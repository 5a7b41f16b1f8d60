/* SPDX-License-Identifier: Apache-2.0 */
/* normalize.c - normalizers: NFC, Prepend, Replace, and sequences of them. */
#include "tokenizer/parts.h"

#include <utf8proc.h>

/* ---- NFC -------------------------------------------------------------------------------------------------------- */

/* The class of a character is its canonical combining class, or NOT_SURE if it may differ in normalized text. 0: NFC
 * never changes it, and normalized text may be cut before it. This is the quick check of Unicode's annex 15. NEWER: it
 * stays where it is, and text may be cut on both sides of it. */
enum { CLASSES = 0x30000, NOT_SURE = 255, NEWER = 254 };

/* Marks and composed characters that are newer than Unicode 9. The tables of the tokenizers package do not have them,
 * and its NFC leaves them alone. */
static const uint32_t newer[][2] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x105c9, 0x105c9}, {0x105e4, 0x105e4}, {0x10d24, 0x10d27}, {0x10d69, 0x10d6d},
    {0x10eab, 0x10eac}, {0x10efc, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x1133b, 0x1133b}, {0x11382, 0x113d0}, {0x113e1, 0x113e2}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
    {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x1611e, 0x1612f}, {0x16d63, 0x16d6a},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
};

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
    for (size_t i = 0; classes != NULL && i < sizeof newer / sizeof *newer; i++)
        memset(classes + newer[i][0], NEWER, newer[i][1] - newer[i][0] + 1);
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
        size_t n = zero_utf8_bytes(text[i]);
        if (class == NOT_SURE || (class != 0 && class < last))
            return i;
        if (class == 0 || class == NEWER)
            *cut = class == 0 ? i : i + n;
        last = class == NEWER ? 0 : class;
        i += n;
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
        for (uint8_t class = NOT_SURE; end < text.bytes; end += zero_utf8_bytes(text.at[end]))
            if ((class = class_of(classes, zero_utf8_get(text.at + end))) == 0 || class == NEWER)
                break;
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
