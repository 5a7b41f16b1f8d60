/* SPDX-License-Identifier: Apache-2.0 */
/* vocab.c - tokens, their ids, and the merges of BPE. */
#include "tokenizer/parts.h"

#include <xxhash.h>

enum { IDS_MOST = 1 << 28 };

/* ---- texts to ids ----------------------------------------------------------------------------------------------- */

static uint64_t names_slot(const zero_names_t *names, const char *text, size_t bytes, bool *found)
{
    uint64_t i = XXH3_64bits(text, bytes) & names->mask;
    for (; names->slots[i] >= 0; i = (i + 1) & names->mask) {
        const zero_span_t *known = &names->texts[names->slots[i]];
        if (known->bytes == bytes && memcmp(known->at, text, bytes) == 0) {
            *found = true;
            return i;
        }
    }
    *found = false;
    return i;
}

int32_t zero_names_find(const zero_names_t *names, const char *text, size_t bytes)
{
    bool found;
    if (names->slots == NULL)
        return -1;
    uint64_t i = names_slot(names, text, bytes, &found);
    return found ? names->slots[i] : -1;
}

int32_t zero_vocab_find(const zero_vocab_t *v, const char *text, size_t bytes)
{
    int32_t id = zero_names_find(&v->names, text, bytes);
    return id >= 0 && v->tokens[id].model ? id : -1;
}

bool zero_names_make(zero_names_t *names, int64_t count)
{
    uint64_t slots = 64;
    while (slots < (uint64_t)count * 2)
        slots *= 2;
    names->mask = slots - 1;
    names->slots = malloc(slots * sizeof *names->slots);
    names->texts = calloc((size_t)count + 1, sizeof *names->texts);
    if (names->slots == NULL || names->texts == NULL)
        return false;
    memset(names->slots, 0xff, slots * sizeof *names->slots);
    return true;
}

bool zero_names_add(zero_names_t *names, int32_t id, const char *text, size_t bytes)
{
    bool found;
    uint64_t i = names_slot(names, text, bytes, &found);
    if (found)
        return false;
    names->slots[i] = id;
    names->texts[id] = (zero_span_t){text, bytes};
    return true;
}

/* ---- the byte alphabet ------------------------------------------------------------------------------------------ */

/* GPT-2 spells each byte as a character: printable ones of Latin-1 as themselves, the others as U+0100 and up, in
 * order. */
static uint32_t byte_char(int byte)
{
    int others = 0;
    for (int b = 0; b <= byte; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        if (b == byte && itself)
            return (uint32_t)b;
        others += !itself;
    }
    return 0x100 + (uint32_t)others - 1;
}

/* The byte that a character spells; -1: none. */
static int char_byte(uint32_t c)
{
    if ((c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff))
        return (int)c;
    c -= 0x100; /* the others: 0 to 32, 127 to 160, 173 */
    return c <= 32 ? (int)c : c <= 66 ? (int)c + 94 : c == 67 ? 173 : -1;
}

bool zero_byte_level_bytes(const char *text, size_t bytes, char *out, size_t *out_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i += zero_utf8_bytes(text[i])) {
        int b = char_byte(zero_utf8_get(text + i));
        if (b < 0)
            return false;
        out[n++] = (char)b;
    }
    *out_bytes = n;
    return true;
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

static zero_status_t check_id(const char *name, const char *token, const json_t *id, zero_error_t *error)
{
    if (!json_is_integer(id))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: token '%s' has no id: its value must be a whole number", name,
                         token);
    if (json_integer_value(id) < 0 || json_integer_value(id) >= IDS_MOST)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: token '%s' has id %lld, but ids are from 0 to %d", name, token,
                         (long long)json_integer_value(id), IDS_MOST - 1);
    return ZERO_OK;
}

/* Each of the added tokens, checked. */
static zero_status_t check_added(const char *name, const json_t *token, zero_error_t *error)
{
    const json_t *text = json_object_get(token, "content");
    if (!json_is_string(text))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: one of added_tokens has no text \"content\"", name);
    return check_id(name, json_string_value(text), json_object_get(token, "id"), error);
}

/* Counts ids and bytes, so that each array is allocated once. */
static zero_status_t measure(zero_vocab_t *v, const char *name, json_t *vocab, const json_t *added, size_t *bytes,
                             zero_error_t *error)
{
    const char *key;
    json_t *value, *token;
    size_t i;
    zero_status_t status;
    int64_t tokens = (int64_t)json_object_size(vocab) + (int64_t)json_array_size(added);
    json_object_foreach(vocab, key, value)
    {
        if ((status = check_id(name, key, value, error)) != ZERO_OK)
            return status;
        if (json_integer_value(value) >= v->size)
            v->size = json_integer_value(value) + 1;
        *bytes += strlen(key) + 1;
    }
    json_array_foreach(added, i, token)
    {
        if ((status = check_added(name, token, error)) != ZERO_OK)
            return status;
        value = json_object_get(token, "id");
        if (json_integer_value(value) >= v->size)
            v->size = json_integer_value(value) + 1;
        *bytes += json_string_length(json_object_get(token, "content")) + 1;
    }
    /* a few wrong digits must not make tables of gigabytes */
    if (v->size > 2 * tokens + 65536)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: its largest id is %lld, but it has only %lld tokens", name,
                         (long long)v->size - 1, (long long)tokens);
    return ZERO_OK;
}

/* Gives text to id; at is where its copy goes. */
static zero_status_t put_token(zero_vocab_t *v, const char *name, int64_t id, const char *text, size_t bytes, char **at,
                               zero_error_t *error)
{
    zero_token_t *token = &v->tokens[id];
    if (token->text != NULL)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: tokens '%s' and '%s' have the same id %lld", name, token->text,
                         text, (long long)id);
    memcpy(*at, text, bytes);
    (*at)[bytes] = '\0';
    token->text = *at;
    token->bytes = (uint32_t)bytes;
    *at += bytes + 1;
    zero_names_add(&v->names, (int32_t)id, token->text, bytes);
    return ZERO_OK;
}

/* The tokenizers package ignores the id that the file gives to a token that is only added, and counts on: largest is
 * the largest id of the added tokens before it. A file that disagrees would have two meanings. */
static zero_status_t check_next(const char *name, const char *text, int64_t id, int64_t count, int64_t largest,
                                zero_error_t *error)
{
    int64_t next = largest >= count ? largest + 1 : count;
    if (id == next)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_FORMAT,
                     "%s: added token '%s' has id %lld, but the tokenizers package gives it %lld: number added tokens "
                     "from the size of the vocabulary on, without gaps",
                     name, text, (long long)id, (long long)next);
}

static zero_status_t put_tokens(zero_vocab_t *v, const char *name, json_t *vocab, const json_t *added,
                                zero_error_t *error)
{
    const char *key;
    json_t *value, *token;
    size_t i;
    char *at = v->texts;
    int64_t count = (int64_t)json_object_size(vocab), largest = -1;
    zero_status_t status;
    json_object_foreach(vocab, key, value)
    {
        if ((status = put_token(v, name, json_integer_value(value), key, strlen(key), &at, error)) != ZERO_OK)
            return status;
        v->tokens[json_integer_value(value)].model = true;
    }
    json_array_foreach(added, i, token)
    {
        const json_t *content = json_object_get(token, "content");
        const char *text = json_string_value(content);
        int64_t id = json_integer_value(json_object_get(token, "id"));
        int32_t known = zero_names_find(&v->names, text, json_string_length(content));
        if (known >= 0 && known != id)
            return zero_fail(error, ZERO_ERR_FORMAT, "%s: token '%s' has two ids, %d and %lld", name, text, (int)known,
                             (long long)id);
        if (known < 0 && ((status = check_next(name, text, id, count, largest, error)) != ZERO_OK ||
                          (status = put_token(v, name, id, text, json_string_length(content), &at, error)) != ZERO_OK))
            return status;
        largest = id > largest ? id : largest;
        v->tokens[id].added = true;
        v->tokens[id].special = json_is_true(json_object_get(token, "special"));
    }
    return ZERO_OK;
}

/* ---- merges ----------------------------------------------------------------------------------------------------- */

static zero_status_t merge_parts(const char *name, size_t i, const json_t *merge, zero_span_t part[2],
                                 zero_error_t *error)
{
    if (json_is_array(merge) && json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
        json_is_string(json_array_get(merge, 1))) {
        for (size_t k = 0; k < 2; k++)
            part[k] = (zero_span_t){json_string_value(json_array_get(merge, k)),
                                    json_string_length(json_array_get(merge, k))};
        return ZERO_OK;
    }
    const char *text = json_is_string(merge) ? json_string_value(merge) : NULL;
    const char *space = text != NULL ? strchr(text, ' ') : NULL;
    if (space == NULL || strchr(space + 1, ' ') != NULL)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: merge %zu is %s%s%s, but must be two tokens, as \"a b\" or [\"a\", \"b\"]", name, i,
                         text != NULL ? "'" : "", text != NULL ? text : "of another type", text != NULL ? "'" : "");
    part[0] = (zero_span_t){text, (size_t)(space - text)};
    part[1] = (zero_span_t){space + 1, json_string_length(merge) - part[0].bytes - 1};
    return ZERO_OK;
}

/* A later merge of the same pair replaces the earlier one, as in the tokenizers package. */
static void put_merge(zero_vocab_t *v, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, i = key * 0x9e3779b97f4a7c15u >> v->merge_shift;
    while (v->merges[i].key != UINT64_MAX && v->merges[i].key != key)
        i = (i + 1) & v->merge_mask;
    v->merges[i] = (zero_merge_t){key, rank, id};
}

static zero_status_t put_merges(zero_vocab_t *v, const char *name, const json_t *merges, zero_error_t *error)
{
    size_t i;
    json_t *merge;
    zero_chars_t joined = {0};
    zero_status_t status = ZERO_OK;
    v->merge_count = (int64_t)json_array_size(merges);
    v->merge_shift = 58;
    while ((uint64_t)1 << (64 - v->merge_shift) < (uint64_t)v->merge_count * 2)
        v->merge_shift--;
    v->merge_mask = ((uint64_t)1 << (64 - v->merge_shift)) - 1;
    v->merges = malloc((v->merge_mask + 1) * sizeof *v->merges);
    v->merged = malloc(((size_t)v->merge_count + 1) * sizeof *v->merged);
    if (v->merges == NULL || v->merged == NULL)
        goto no_memory;
    memset(v->merges, 0xff, (v->merge_mask + 1) * sizeof *v->merges);
    json_array_foreach(merges, i, merge)
    {
        zero_span_t part[2];
        int32_t id[3];
        if ((status = merge_parts(name, i, merge, part, error)) != ZERO_OK)
            goto end;
        joined.count = 0;
        if (!zero_chars_add(&joined, part[0].at, part[0].bytes) || !zero_chars_add(&joined, part[1].at, part[1].bytes))
            goto no_memory;
        const zero_span_t all[3] = {part[0], part[1], {joined.at, joined.count}};
        for (int k = 0; k < 3; k++) {
            id[k] = zero_vocab_find(v, all[k].at, all[k].bytes);
            if (id[k] < 0 || all[k].bytes == 0) {
                status = zero_fail(error, ZERO_ERR_FORMAT,
                                   "%s: merge %zu, '%.*s' and '%.*s', needs token '%.*s', which the vocabulary lacks",
                                   name, i, (int)part[0].bytes, part[0].at, (int)part[1].bytes, part[1].at,
                                   (int)all[k].bytes, all[k].at);
                goto end;
            }
        }
        put_merge(v, id[0], id[1], (int32_t)i, id[2]);
        v->merged[i] = id[2];
    }
    goto end;
no_memory:
    status = zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for %lld merges", name, (long long)v->merge_count);
end:
    free(joined.at);
    return status;
}

/* ---- tables that encoding uses ---------------------------------------------------------------------------------- */

static bool byte_level_tables(zero_vocab_t *v)
{
    size_t bytes = 0;
    for (int64_t id = 0; id < v->size; id++)
        bytes += v->tokens[id].model ? v->tokens[id].bytes : 0;
    char *at = v->word_texts = malloc(bytes + 1);
    v->byte_pairs = malloc((size_t)256 * 256 * sizeof *v->byte_pairs);
    if (at == NULL || v->byte_pairs == NULL || !zero_names_make(&v->words, v->size))
        return false;
    for (int64_t id = 0; id < v->size; id++) {
        size_t n;
        if (v->tokens[id].model && zero_byte_level_bytes(v->tokens[id].text, v->tokens[id].bytes, at, &n)) {
            zero_names_add(&v->words, (int32_t)id, at, n);
            at += n;
        }
    }
    for (int b = 0; b < 256; b++) {
        char text[4];
        v->bytes[b] = zero_vocab_find(v, text, zero_utf8_put(byte_char(b), text));
    }
    for (int b = 0; b < 256; b++)
        for (int c = 0; c < 256; c++)
            v->byte_pairs[b * 256 + c] =
                v->bytes[b] >= 0 && v->bytes[c] >= 0 ? zero_merge_rank(v, v->bytes[b], v->bytes[c]) : ZERO_NO_RANK;
    return true;
}

static zero_char_t *char_entry(zero_vocab_t *v, uint32_t c)
{
    zero_char_t **page = &v->chars[c >> 8];
    if (*page == NULL) {
        *page = malloc(256 * sizeof **page);
        for (int i = 0; *page != NULL && i < 256; i++)
            (*page)[i] = (zero_char_t){-1, false};
    }
    return *page != NULL ? &(*page)[c & 255] : NULL;
}

/* U+2581, which stands for a space. */
static const char space_mark[] = "\xe2\x96\x81";

/* A merge joins two symbols into a token of the vocabulary. So no merge crosses a border between a character x and a
 * space mark if no token has x directly before a space mark: encoding both sides apart gives the same ids. This finds
 * those x. It looks at every token that a merge can make, and a symbol is spelled by its token. A character without a
 * token becomes byte tokens, whose spellings end in '>', or the unknown token. */
static bool find_cuts(zero_vocab_t *v)
{
    for (int64_t r = 0; r < v->merge_count; r++) {
        const zero_token_t *token = &v->tokens[v->merged[r]];
        for (size_t i = zero_utf8_bytes(token->text[0]); i + 3 <= token->bytes; i += zero_utf8_bytes(token->text[i])) {
            uint32_t before = zero_utf8_get(zero_utf8_before(token->text + i));
            if (memcmp(token->text + i, space_mark, 3) != 0)
                continue;
            zero_char_t *entry = char_entry(v, before);
            if (entry == NULL)
                return false;
            entry->before_space = true;
        }
    }
    v->cuts = zero_vocab_find(v, space_mark, 3) >= 0;
    bool every_byte = v->byte_fallback;
    for (int b = 0; b < 256; b++)
        every_byte = every_byte && v->bytes[b] >= 0;
    /* without either, such a character vanishes, and its neighbours meet */
    v->cut_unknown = every_byte || v->unknown >= 0;
    if (v->byte_fallback && zero_vocab_char(v, '>').before_space)
        v->cut_unknown = false;
    if (v->unknown >= 0 && v->tokens[v->unknown].bytes > 0) {
        const zero_token_t *token = &v->tokens[v->unknown];
        if (zero_vocab_char(v, zero_utf8_get(zero_utf8_before(token->text + token->bytes))).before_space)
            v->cut_unknown = false;
    }
    return true;
}

static bool char_tables(zero_vocab_t *v)
{
    for (int64_t id = 0; id < v->size; id++) {
        const zero_token_t *token = &v->tokens[id];
        if (!token->model || token->bytes == 0 || zero_utf8_bytes(token->text[0]) != token->bytes)
            continue;
        zero_char_t *entry = char_entry(v, zero_utf8_get(token->text));
        if (entry == NULL)
            return false;
        entry->id = (int32_t)id;
    }
    for (int b = 0; b < 256; b++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        v->bytes[b] = zero_vocab_find(v, text, (size_t)n);
    }
    return find_cuts(v);
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static zero_status_t check_absent(const char *name, const json_t *model, const char *key, zero_error_t *error)
{
    const json_t *value = json_object_get(model, key);
    if (value == NULL || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0) ||
        (json_is_number(value) && json_number_value(value) == 0))
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                     "%s: model option '%s' is set, but only models without it are supported", name, key);
}

static zero_status_t parse_model(zero_vocab_t *v, const char *name, const json_t *model, zero_error_t *error)
{
    const char *type = zero_json_type(model);
    const json_t *unknown = json_object_get(model, "unk_token");
    zero_status_t status;
    if (!json_is_object(model))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: it has no object \"model\": is it a tokenizer.json?", name);
    if (strcmp(type, "BPE") != 0 && (type[0] != '\0' || !json_is_array(json_object_get(model, "merges"))))
        return zero_json_refuse(name, "model", model, "only BPE is", error);
    if ((status = check_absent(name, model, "dropout", error)) != ZERO_OK ||
        (status = check_absent(name, model, "continuing_subword_prefix", error)) != ZERO_OK ||
        (status = check_absent(name, model, "end_of_word_suffix", error)) != ZERO_OK ||
        (status = zero_json_bool(model, "byte_fallback", name, "model", &v->byte_fallback, error)) != ZERO_OK ||
        (status = zero_json_bool(model, "fuse_unk", name, "model", &v->fuse_unknown, error)) != ZERO_OK ||
        (status = zero_json_bool(model, "ignore_merges", name, "model", &v->ignore_merges, error)) != ZERO_OK)
        return status;
    if (unknown != NULL && !json_is_null(unknown) && !json_is_string(unknown))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: model option 'unk_token' is not a text", name);
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: the model needs \"vocab\", an object, and \"merges\", a list",
                         name);
    if (json_object_size(json_object_get(model, "vocab")) == 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: the model's vocabulary is empty", name);
    return ZERO_OK;
}

zero_status_t zero_vocab_parse(zero_vocab_t *v, const char *name, const json_t *model, const json_t *added,
                               bool byte_level, zero_error_t *error)
{
    size_t bytes = 0;
    const json_t *unknown;
    zero_status_t status = parse_model(v, name, model, error);
    if (status != ZERO_OK)
        return status;
    json_t *vocab = json_object_get(model, "vocab");
    if ((status = measure(v, name, vocab, added, &bytes, error)) != ZERO_OK)
        return status;
    v->byte_level = byte_level;
    v->unknown = -1;
    v->tokens = calloc((size_t)v->size, sizeof *v->tokens);
    v->texts = malloc(bytes + 1);
    if (v->tokens == NULL || v->texts == NULL || !zero_names_make(&v->names, v->size))
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for %lld tokens", name, (long long)v->size);
    if ((status = put_tokens(v, name, vocab, added, error)) != ZERO_OK ||
        (status = put_merges(v, name, json_object_get(model, "merges"), error)) != ZERO_OK)
        return status;
    unknown = json_object_get(model, "unk_token");
    if (json_is_string(unknown) && json_string_length(unknown) > 0) {
        v->unknown = zero_vocab_find(v, json_string_value(unknown), json_string_length(unknown));
        if (v->unknown < 0)
            return zero_fail(error, ZERO_ERR_FORMAT, "%s: the unknown token '%s' is not in the vocabulary", name,
                             json_string_value(unknown));
    }
    if (!(byte_level ? byte_level_tables(v) : char_tables(v)))
        return zero_fail(error, ZERO_ERR_MEMORY, "%s: no memory for %lld tokens", name, (long long)v->size);
    for (int b = 0; b < 256 && byte_level && v->byte_fallback; b++)
        if (v->bytes[b] < 0)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "%s: byte %d has no token, and 'byte_fallback' of a byte-level tokenizer is not supported",
                             name, b);
    return ZERO_OK;
}

static void names_free(zero_names_t *names)
{
    free(names->slots);
    free(names->texts);
}

void zero_vocab_free(zero_vocab_t *v)
{
    names_free(&v->names);
    names_free(&v->words);
    free(v->tokens);
    free(v->texts);
    free(v->word_texts);
    free(v->merges);
    free(v->merged);
    free(v->byte_pairs);
    for (int i = 0; i < ZERO_CHAR_PAGES; i++)
        free(v->chars[i]);
}
