/* SPDX-License-Identifier: Apache-2.0 */
/* added.c - finds added tokens in text, first in the text as written, then in the normalized text. */
#include "tokenizer/parts.h"

/* ---- the table -------------------------------------------------------------------------------------------------- */

static int by_first_then_longest(const void *a, const void *b)
{
    const zero_added_t *x = a, *y = b;
    int first = (unsigned char)*x->text.at - (unsigned char)*y->text.at;
    return first != 0 ? first : (x->text.bytes < y->text.bytes) - (x->text.bytes > y->text.bytes);
}

/* Sorts the tokens and notes where those of each first byte begin. */
static void finder_index(zero_finder_t *f)
{
    int64_t at = 0;
    f->single = -1;
    if (f->count == 0)
        return;
    qsort(f->tokens, (size_t)f->count, sizeof *f->tokens, by_first_then_longest);
    for (int b = 0; b < 256; b++) {
        f->first[b] = (int32_t)at;
        while (at < f->count && (unsigned char)*f->tokens[at].text.at == b)
            at++;
    }
    f->first[256] = (int32_t)at;
    int first = (unsigned char)*f->tokens[0].text.at;
    f->single = first == (unsigned char)*f->tokens[f->count - 1].text.at ? first : -1;
}

static zero_status_t flag(const json_t *token, const char *key, const char *name, bool *out, zero_error_t *error)
{
    return zero_json_bool(token, key, name, "added token", out, error);
}

/* Adds one token to the table that its option "normalized" says. A token of normalized text is normalized itself. */
static zero_status_t put(zero_tokenizer_t *t, zero_encoder_t *e, const char *name, const json_t *token,
                         zero_error_t *error)
{
    const json_t *content = json_object_get(token, "content");
    zero_span_t text = {json_string_value(content), json_string_length(content)};
    bool special = false, normalized;
    zero_added_t added = {.id = zero_names_find(&t->vocab.names, text.at, text.bytes)};
    zero_status_t status;
    if ((status = flag(token, "special", name, &special, error)) != ZERO_OK)
        return status;
    normalized = !special;
    if ((status = flag(token, "lstrip", name, &added.lstrip, error)) != ZERO_OK ||
        (status = flag(token, "rstrip", name, &added.rstrip, error)) != ZERO_OK ||
        (status = flag(token, "single_word", name, &added.single_word, error)) != ZERO_OK ||
        (status = flag(token, "normalized", name, &normalized, error)) != ZERO_OK)
        return status;
    zero_error_t why = {0};
    if (normalized && !zero_normalize(e, text, &text, &why))
        return zero_fail(error, why.status != ZERO_OK ? why.status : ZERO_ERR_MEMORY, "%s: added token '%s': %s", name,
                         json_string_value(content), why.status != ZERO_OK ? why.text : "no memory");
    if (text.bytes == 0)
        return ZERO_OK;
    zero_finder_t *f = normalized ? &t->normalized : &t->raw;
    char *copy = malloc(text.bytes + 1);
    if (copy == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its added tokens", name);
    memcpy(copy, text.at, text.bytes);
    copy[text.bytes] = '\0';
    if (normalized) { /* it decodes to that, too */
        t->vocab.tokens[added.id].text = copy;
        t->vocab.tokens[added.id].bytes = (uint32_t)text.bytes;
    }
    added.text = (zero_span_t){copy, text.bytes};
    f->tokens[f->count++] = added;
    return ZERO_OK;
}

zero_status_t zero_finder_parse(zero_tokenizer_t *t, const char *name, const json_t *list, zero_error_t *error)
{
    size_t i, room = json_array_size(list) + 1;
    json_t *token;
    zero_encoder_t e = {.t = t};
    zero_status_t status = ZERO_OK;
    t->raw.tokens = calloc(room, sizeof *t->raw.tokens);
    t->normalized.tokens = calloc(room, sizeof *t->normalized.tokens);
    if (t->raw.tokens == NULL || t->normalized.tokens == NULL || !zero_matcher_open(&e.matcher))
        status = zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for its added tokens", name);
    json_array_foreach(list, i, token) if (status == ZERO_OK) status = put(t, &e, name, token, error);
    finder_index(&t->raw);
    finder_index(&t->normalized);
    zero_matcher_close(&e.matcher);
    free(e.rewritten[0].at);
    free(e.rewritten[1].at);
    free(e.code_points);
    return status;
}

void zero_finder_free(zero_finder_t *f)
{
    for (int64_t i = 0; i < f->count; i++)
        free((char *)f->tokens[i].text.at);
    free(f->tokens);
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

/* The leftmost token at from or later, the longest of those that begin there. NULL: none. */
static const zero_added_t *find(const zero_finder_t *f, zero_span_t text, size_t from, size_t *start)
{
    for (size_t i = from; i < text.bytes; i++) {
        if (f->single >= 0) {
            const char *at = memchr(text.at + i, f->single, text.bytes - i);
            if (at == NULL)
                return NULL;
            i = (size_t)(at - text.at);
        }
        unsigned char b = (unsigned char)text.at[i];
        for (int32_t k = f->first[b]; k < f->first[b + 1]; k++) {
            const zero_added_t *token = &f->tokens[k];
            if (token->text.bytes <= text.bytes - i && memcmp(text.at + i, token->text.at, token->text.bytes) == 0) {
                *start = i;
                return token;
            }
        }
    }
    return NULL;
}

/* Whether no word character touches the token on either side. */
static bool stands_alone(zero_span_t text, size_t start, size_t end)
{
    return (start == 0 || !zero_is_word(zero_utf8_get(zero_utf8_before(text.at + start)))) &&
           (end == text.bytes || !zero_is_word(zero_utf8_get(text.at + end)));
}

/* Takes the white space that lstrip and rstrip ask for, but none that the token before has taken. */
static void strip(const zero_added_t *token, zero_span_t text, size_t taken, size_t *start, size_t *end)
{
    while (token->lstrip && *start > taken) {
        const char *before = zero_utf8_before(text.at + *start);
        if (!zero_is_space(zero_utf8_get(before)))
            break;
        *start = (size_t)(before - text.at);
    }
    while (token->rstrip && *end < text.bytes && zero_is_space(zero_utf8_get(text.at + *end)))
        *end += zero_utf8_bytes(text.at[*end]);
}

/* Calls fn for the tokens in text and for what is between them. */
static bool split(const zero_finder_t *f, zero_span_t text, bool first, zero_piece_fn fn, void *ctx,
                  zero_error_t *error)
{
    size_t done = 0, at = 0, start;
    const zero_added_t *token;
    while (f->count > 0 && (token = find(f, text, at, &start)) != NULL) {
        size_t end = start + token->text.bytes;
        at = end;
        if (token->single_word && !stands_alone(text, start, end))
            continue;
        strip(token, text, done, &start, &end);
        const zero_piece_t before = {-1, first && done == 0, {text.at + done, start > done ? start - done : 0}};
        if (before.text.bytes > 0 && !fn(ctx, &before, error))
            return false;
        const zero_piece_t found = {token->id, false, {text.at + start, end - start}};
        if (!fn(ctx, &found, error))
            return false;
        done = end;
    }
    const zero_piece_t rest = {-1, first && done == 0, {text.at + done, text.bytes - done}};
    return rest.text.bytes == 0 || fn(ctx, &rest, error);
}

typedef struct stage {
    zero_encoder_t *encoder;
    zero_piece_fn fn;
    void *ctx;
} stage_t;

/* A piece of the text as written: normalizes it, and looks again. */
static bool normalized(void *ctx, const zero_piece_t *piece, zero_error_t *error)
{
    const stage_t *stage = ctx;
    zero_span_t text;
    if (piece->id >= 0)
        return stage->fn(stage->ctx, piece, error);
    return zero_normalize(stage->encoder, piece->text, &text, error) &&
           split(&stage->encoder->t->normalized, text, piece->first, stage->fn, stage->ctx, error);
}

bool zero_pieces(zero_encoder_t *e, const char *text, size_t bytes, zero_piece_fn fn, void *ctx, zero_error_t *error)
{
    stage_t stage = {e, fn, ctx};
    return split(&e->t->raw, (zero_span_t){text, bytes}, true, normalized, &stage, error);
}
