/* SPDX-License-Identifier: Apache-2.0 */
/* split.c - pre-tokenizers: Split, ByteLevel, Metaspace, Digits, and sequences of them, as a list of steps. Bytes stay
 * bytes: the characters that spell them in a byte-level vocabulary appear nowhere. */
#include "tokenizer/parts.h"

/* What GPT-2 calls a word; ByteLevel has it built in. */
static const char gpt2_words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- steps ------------------------------------------------------------------------------------------------------ */

static bool begins_with(zero_span_t text, const char *with, size_t bytes)
{
    return text.bytes >= bytes && memcmp(text.at, with, bytes) == 0;
}

/* Metaspace: spaces become the mark, and one is put before the text. */
static bool mark_spaces(const zero_step_t *step, zero_chars_t *out, bool first, zero_span_t *text)
{
    bool prepend = (step->scheme == ZERO_ALWAYS || (step->scheme == ZERO_FIRST && first)) &&
                   !begins_with(*text, step->mark, step->mark_bytes) && !begins_with(*text, " ", 1);
    out->count = 0;
    if (prepend && !zero_chars_add(out, step->mark, step->mark_bytes))
        return false;
    for (size_t i = 0; i < text->bytes;) {
        const char *space = memchr(text->at + i, ' ', text->bytes - i);
        size_t n = space != NULL ? (size_t)(space - text->at) - i : text->bytes - i;
        if (!zero_chars_add(out, text->at + i, n) ||
            (space != NULL && !zero_chars_add(out, step->mark, step->mark_bytes)))
            return false;
        i += n + (space != NULL);
    }
    *text = (zero_span_t){out->at, out->count};
    return true;
}

/* ByteLevel's add_prefix_space. */
static bool add_space(zero_chars_t *out, zero_span_t *text)
{
    if (begins_with(*text, " ", 1))
        return true;
    out->count = 0;
    if (!zero_chars_add(out, " ", 1) || !zero_chars_add(out, text->at, text->bytes))
        return false;
    *text = (zero_span_t){out->at, out->count};
    return true;
}

static bool rewrite(zero_encoder_t *e, int number, bool first, zero_span_t *text)
{
    const zero_step_t *step = &e->t->steps[number];
    return step->kind == ZERO_STEP_MARK ? mark_spaces(step, &e->step[number], first, text)
                                        : add_space(&e->step[number], text);
}

int zero_split_begin(zero_encoder_t *e, const zero_piece_t *piece, zero_span_t *text, zero_error_t *error)
{
    int number = 0;
    *text = piece->text;
    for (; number < e->t->step_count && e->t->steps[number].kind != ZERO_STEP_SPLIT; number++)
        if (!rewrite(e, number, piece->first, text)) {
            zero_fail(error, ZERO_ERR_MEMORY, "no memory for a text of %zu bytes", text->bytes);
            return -1;
        }
    return number;
}

/* A range of the text that a split goes through, in order: a match, or what is between two. */
typedef struct range {
    size_t start, end;
    bool match;
} range_t;

/* Whether the range joins the one before it, whose last range was a match or not (last). */
static bool joins(zero_behavior_t behavior, bool last, bool match)
{
    return behavior == ZERO_CONTIGUOUS ? match == last
           : behavior == ZERO_PREVIOUS ? match && !last
           : behavior == ZERO_NEXT     ? last && !match
                                       : false;
}

/* The state of a split. */
typedef struct splitter {
    zero_encoder_t *e;
    const zero_step_t *step;
    int next;
    bool first;
    zero_span_t text;
    range_t piece; /* not passed on yet; empty: none */
} splitter_t;

/* Passes the piece on. */
static bool flush(splitter_t *s, zero_error_t *error)
{
    range_t p = s->piece;
    if (p.end == p.start || (s->step->behavior == ZERO_REMOVED && p.match))
        return true;
    return zero_split_words(s->e, s->next, s->first && p.start == 0,
                            (zero_span_t){s->text.at + p.start, p.end - p.start}, error);
}

static bool range(splitter_t *s, size_t start, size_t end, bool match, zero_error_t *error)
{
    match = match != s->step->invert;
    if (s->piece.end > s->piece.start && joins(s->step->behavior, s->piece.match, match)) {
        s->piece.end = end;
        s->piece.match = match;
        return true;
    }
    if (!flush(s, error))
        return false;
    s->piece = (range_t){start, end, match};
    return true;
}

static bool no_match(zero_span_t text, size_t at, zero_error_t *error)
{
    size_t left = text.bytes - at;
    zero_fail(error, ZERO_ERR_FORMAT, "a pattern of the pre-tokenizer needs too many steps at byte %zu of '%.*s...'",
              at, (int)(left < 20 ? left : 20), text.at + at);
    return false;
}

static bool split(zero_encoder_t *e, int number, bool first, zero_span_t text, zero_error_t *error)
{
    splitter_t s = {.e = e, .step = &e->t->steps[number], .next = number + 1, .first = first, .text = text};
    const zero_pattern_t *pattern = &s.step->pattern;
    size_t done = 0, last = SIZE_MAX, start, end;
    int found;
    while ((found = zero_pattern_find(pattern, &e->matcher, text.at, text.bytes, done, last, &start, &end)) > 0) {
        if ((start > done && !range(&s, done, start, false, error)) || !range(&s, start, end, true, error))
            return false;
        done = last = end;
    }
    if (found < 0)
        return no_match(text, done, error);
    return (done == text.bytes || range(&s, done, text.bytes, false, error)) && flush(&s, error);
}

bool zero_split_words(zero_encoder_t *e, int number, bool first, zero_span_t text, zero_error_t *error)
{
    for (; number < e->t->step_count; number++) {
        if (e->t->steps[number].kind == ZERO_STEP_SPLIT)
            return split(e, number, first, text, error);
        if (!rewrite(e, number, first, &text))
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a text of %zu bytes", text.bytes), false;
    }
    return zero_bpe_word(e, text.at, text.bytes, text.at + text.bytes, error);
}

/* ---- cutting a long text ---------------------------------------------------------------------------------------- */

zero_cutting_t zero_split_cutting(const zero_tokenizer_t *t, int number)
{
    if (number == t->step_count)
        return t->vocab.cuts && !t->vocab.ignore_merges ? ZERO_CUT_BEFORE : ZERO_CUT_NOT;
    const zero_step_t *step = &t->steps[number];
    const zero_pattern_t *p = &step->pattern;
    if (step->behavior == ZERO_NEXT && !step->invert && p->literal != NULL && p->literal_bytes > 0)
        return ZERO_CUT_BEFORE;
    if (step->behavior > ZERO_REMOVED || p->looks_back || p->may_be_empty)
        return ZERO_CUT_NOT;
    return ZERO_CUT_WALKS;
}

size_t zero_split_cut(zero_encoder_t *e, int number, zero_span_t text, size_t from)
{
    size_t start, end;
    if (number == e->t->step_count)
        return zero_bpe_cut(&e->t->vocab, text.at, text.bytes, from);
    /* every match begins a piece, so the walk before it may end there; but a match may overlap one before it */
    const zero_pattern_t *p = &e->t->steps[number].pattern;
    if (zero_utf8_bytes(p->literal[0]) != p->literal_bytes)
        return text.bytes;
    return zero_pattern_find(p, &e->matcher, text.at, text.bytes, from, SIZE_MAX, &start, &end) > 0 ? start
                                                                                                    : text.bytes;
}

bool zero_split_walk(zero_encoder_t *e, int number, bool first, zero_span_t text, size_t start, size_t stop,
                     size_t *reached, zero_walk_end_t *ends, int ends_most, int *end_count, zero_error_t *error)
{
    splitter_t s = {.e = e, .step = &e->t->steps[number], .next = number + 1, .first = first, .text = text};
    const zero_pattern_t *pattern = &s.step->pattern;
    size_t done = start, from, to;
    int found;
    while (done < stop &&
           (found = zero_pattern_find(pattern, &e->matcher, text.at, text.bytes, done, SIZE_MAX, &from, &to)) != 0) {
        if (found < 0)
            return no_match(text, done, error);
        if ((from > done && !range(&s, done, from, false, error)) || !range(&s, from, to, true, error) ||
            !flush(&s, error))
            return false;
        s.piece = (range_t){0, 0, false};
        done = to;
        if (*end_count < ends_most)
            ends[(*end_count)++] = (zero_walk_end_t){done, e->ids->count};
    }
    if (done < stop) { /* no match is left */
        if (!range(&s, done, text.bytes, false, error) || !flush(&s, error))
            return false;
        done = text.bytes;
    }
    *reached = done;
    return true;
}

/* ---- reading the file ------------------------------------------------------------------------------------------- */

/* NULL: there are too many. */
static zero_step_t *new_step(zero_tokenizer_t *t)
{
    return t->step_count < ZERO_STEPS ? &t->steps[t->step_count++] : NULL;
}

static zero_status_t too_many(const char *name, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: its pre-tokenizer has more than %d steps", name, ZERO_STEPS);
}

static zero_status_t parse_split(zero_tokenizer_t *t, const char *name, const json_t *json, zero_error_t *error)
{
    static const char *const behaviors[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                            "MergedWithNext"};
    zero_step_t *step = new_step(t);
    const char *text;
    zero_status_t status;
    size_t bytes;
    if (step == NULL)
        return too_many(name, error);
    if ((status = zero_json_text(json, "behavior", name, "Split", &text, &bytes, error)) != ZERO_OK ||
        (status = zero_json_bool(json, "invert", name, "Split", &step->invert, error)) != ZERO_OK)
        return status;
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++)
        if (strcmp(text, behaviors[i]) == 0) {
            step->behavior = (zero_behavior_t)i;
            return zero_json_pattern(&step->pattern, json, name, "Split", error);
        }
    return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                     "%s: behavior '%s' of Split is not supported, but Isolated, Removed, Contiguous, "
                     "MergedWithPrevious and MergedWithNext are",
                     name, text);
}

static zero_status_t parse_byte_level(zero_tokenizer_t *t, const char *name, const json_t *json, zero_error_t *error)
{
    bool space = true, regex = true;
    zero_step_t *step;
    zero_status_t status;
    if ((status = zero_json_bool(json, "add_prefix_space", name, "ByteLevel", &space, error)) != ZERO_OK ||
        (status = zero_json_bool(json, "use_regex", name, "ByteLevel", &regex, error)) != ZERO_OK)
        return status;
    if (space) {
        if ((step = new_step(t)) == NULL)
            return too_many(name, error);
        step->kind = ZERO_STEP_SPACE;
    }
    if (!regex)
        return ZERO_OK;
    if ((step = new_step(t)) == NULL)
        return too_many(name, error);
    return zero_pattern_compile(&step->pattern, name, gpt2_words, sizeof gpt2_words - 1, error);
}

static zero_status_t parse_metaspace(zero_tokenizer_t *t, const char *name, const json_t *json, zero_error_t *error)
{
    static const char *const schemes[] = {"always", "first", "never"};
    const json_t *scheme = json_object_get(json, "prepend_scheme");
    const char *mark;
    bool space = true, cut = true;
    zero_step_t *step = new_step(t);
    zero_status_t status;
    size_t bytes;
    if (step == NULL)
        return too_many(name, error);
    if ((status = zero_json_text(json, "replacement", name, "Metaspace", &mark, &bytes, error)) != ZERO_OK ||
        (status = zero_json_bool(json, "split", name, "Metaspace", &cut, error)) != ZERO_OK ||
        (status = zero_json_bool(json, "add_prefix_space", name, "Metaspace", &space, error)) != ZERO_OK)
        return status;
    if (bytes == 0 || zero_utf8_bytes(*mark) != bytes)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: the replacement of Metaspace is '%s', but must be one character",
                         name, mark);
    step->kind = ZERO_STEP_MARK;
    memcpy(step->mark, mark, bytes);
    step->mark_bytes = bytes;
    /* older files have add_prefix_space alone */
    step->scheme = space ? ZERO_ALWAYS : ZERO_NEVER;
    if (scheme != NULL) {
        int found = -1;
        for (int i = 0; i < 3; i++)
            if (json_is_string(scheme) && strcmp(json_string_value(scheme), schemes[i]) == 0)
                found = i;
        if (found < 0)
            return zero_fail(error, ZERO_ERR_FORMAT,
                             "%s: prepend_scheme of Metaspace must be \"always\", \"first\" or \"never\"", name);
        if (!space && found != ZERO_NEVER)
            return zero_fail(
                error, ZERO_ERR_FORMAT,
                "%s: Metaspace has add_prefix_space false, but prepend_scheme \"%s\": only \"never\" agrees", name,
                schemes[found]);
        step->scheme = (zero_scheme_t)found;
    }
    if (!cut)
        return ZERO_OK;
    if ((step = new_step(t)) == NULL)
        return too_many(name, error);
    step->behavior = ZERO_NEXT;
    if (!zero_pattern_literal(&step->pattern, mark, bytes))
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its pre-tokenizer", name);
    return ZERO_OK;
}

static zero_status_t parse_digits(zero_tokenizer_t *t, const char *name, const json_t *json, zero_error_t *error)
{
    bool individual = false;
    zero_step_t *step;
    zero_status_t status = zero_json_bool(json, "individual_digits", name, "Digits", &individual, error);
    if (status != ZERO_OK)
        return status;
    if ((step = new_step(t)) == NULL)
        return too_many(name, error);
    step->behavior = individual ? ZERO_ISOLATED : ZERO_CONTIGUOUS;
    return zero_pattern_compile(&step->pattern, name, "\\p{N}", 5, error);
}

zero_status_t zero_split_parse(zero_tokenizer_t *t, const char *name, const json_t *json, bool *byte_level,
                               zero_error_t *error)
{
    const char *type = zero_json_type(json);
    const json_t *list = json_object_get(json, "pretokenizers"), *one;
    size_t i;
    if (json == NULL || json_is_null(json))
        return ZERO_OK;
    if (*byte_level)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "%s: pre-tokenizer '%s' after ByteLevel is not supported, ByteLevel must be the last", name,
                         type);
    if (strcmp(type, "Split") == 0)
        return parse_split(t, name, json, error);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(t, name, json, error);
    if (strcmp(type, "Digits") == 0)
        return parse_digits(t, name, json, error);
    if (strcmp(type, "ByteLevel") == 0) {
        *byte_level = true;
        return parse_byte_level(t, name, json, error);
    }
    if (strcmp(type, "Sequence") != 0)
        return zero_json_refuse(name, "pre-tokenizer", json, "ByteLevel, Split, Digits, Metaspace and Sequence are",
                                error);
    if (!json_is_array(list))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: pre-tokenizer 'Sequence' has no list \"pretokenizers\"", name);
    json_array_foreach(list, i, one)
    {
        zero_status_t status = zero_split_parse(t, name, one, byte_level, error);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}
