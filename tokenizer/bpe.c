/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.c - byte-pair encoding of one word: its symbols, merged by rank until no pair merges.
 *
 * The order of merges is that of the tokenizers package: the lowest rank first, the leftmost among equals. A word of up
 * to SHORT symbols looks for it in an array; a longer one has a heap, so that a run of a million letters takes n log n
 * steps. Words that are short and common, nearly all, come from the encoder's cache. */
#include "tokenizer/parts.h"

enum { SHORT = 48 };

/* ---- symbols ---------------------------------------------------------------------------------------------------- */

/* A symbol of a long word: a list through an array, and heap entries beside it. */
typedef struct symbol {
    int32_t id, rank; /* rank: of the pair that begins here; ZERO_NO_RANK: it does not merge, or the symbol is gone */
    int64_t previous, next; /* -1: none */
} symbol_t;

/* The symbols that a character without a token becomes, as the tokenizers package does it: its byte tokens if all of
 * them exist, else the unknown token, which is held back until the next known character so that fuse_unk can join
 * several. Without an unknown token it vanishes. */
static int64_t unknown_char(const zero_vocab_t *v, const char *at, size_t n, int32_t *ids, bool *held)
{
    bool all = v->byte_fallback;
    for (size_t i = 0; i < n && all; i++)
        all = v->bytes[(unsigned char)at[i]] >= 0;
    if (all) {
        for (size_t i = 0; i < n; i++)
            ids[i] = v->bytes[(unsigned char)at[i]];
        return (int64_t)n;
    }
    if (v->unknown < 0)
        return 0;
    bool emit = *held && !v->fuse_unknown;
    *held = true;
    ids[0] = v->unknown;
    return emit;
}

/* Writes the word's first symbols, at most one per byte. */
static int64_t first_symbols(const zero_vocab_t *v, const char *word, size_t bytes, int32_t *ids)
{
    int64_t n = 0;
    bool held = false;
    for (size_t i = 0; i < bytes;) {
        size_t length = v->byte_level ? 1 : zero_utf8_bytes(word[i]);
        int32_t id = v->byte_level ? v->bytes[(unsigned char)word[i]] : zero_vocab_char(v, zero_utf8_get(word + i)).id;
        if (id < 0)
            n += unknown_char(v, word + i, length, ids + n, &held);
        else {
            if (held)
                ids[n++] = v->unknown;
            held = false;
            ids[n++] = id;
        }
        i += length;
    }
    if (held)
        ids[n++] = v->unknown;
    return n;
}

/* ---- short words ------------------------------------------------------------------------------------------------ */

/* Merges in place; returns the number of symbols that are left. */
static int merge_short(const zero_vocab_t *v, int32_t *ids, int n)
{
    int32_t ranks[SHORT];
    for (int i = 0; i + 1 < n; i++)
        ranks[i] = zero_merge_rank(v, ids[i], ids[i + 1]);
    while (n > 1) {
        int32_t best = ranks[0];
        int at = 0;
        for (int i = 1; i + 1 < n; i++)
            if (ranks[i] < best) {
                best = ranks[i];
                at = i;
            }
        if (best == ZERO_NO_RANK)
            break;
        ids[at] = v->merged[best];
        n--;
        for (int i = at + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            ranks[i - 1] = ranks[i];
        }
        if (at + 1 < n)
            ranks[at] = zero_merge_rank(v, ids[at], ids[at + 1]);
        if (at > 0)
            ranks[at - 1] = zero_merge_rank(v, ids[at - 1], ids[at]);
    }
    return n;
}

/* ---- long words ------------------------------------------------------------------------------------------------- */

typedef struct entry {
    int32_t rank;
    int64_t at;
} entry_t;

/* A binary heap, the lowest rank and leftmost first. Entries whose rank is no longer their symbol's are skipped. */
typedef struct heap {
    entry_t *entries;
    int64_t count;
} heap_t;

static bool before(entry_t a, entry_t b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_down(heap_t *h, int64_t i)
{
    entry_t moved = h->entries[i];
    for (int64_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && before(h->entries[child + 1], h->entries[child]))
            child++;
        if (!before(h->entries[child], moved))
            break;
        h->entries[i] = h->entries[child];
    }
    h->entries[i] = moved;
}

static void heap_add(heap_t *h, entry_t added)
{
    int64_t i = h->count++;
    for (int64_t parent; i > 0 && before(added, h->entries[parent = (i - 1) / 2]); i = parent)
        h->entries[i] = h->entries[parent];
    h->entries[i] = added;
}

static entry_t heap_take(heap_t *h)
{
    entry_t top = h->entries[0];
    h->entries[0] = h->entries[--h->count];
    if (h->count > 0)
        heap_down(h, 0);
    return top;
}

/* Sets the rank of the pair at a symbol; returns whether it merges. */
static bool rank_pair(const zero_vocab_t *v, symbol_t *s, int64_t i)
{
    s[i].rank = s[i].next >= 0 ? zero_merge_rank(v, s[i].id, s[s[i].next].id) : ZERO_NO_RANK;
    return s[i].rank != ZERO_NO_RANK;
}

/* Memory for a word of n symbols: the symbols, then at most three entries for each: one at the start, two for each
 * merge. */
static symbol_t *long_memory(zero_encoder_t *e, size_t n, heap_t *heap)
{
    size_t bytes, each = sizeof(symbol_t) + 3 * sizeof(entry_t);
    if (n > e->symbol_room) {
        if (__builtin_mul_overflow(n + n / 2, each, &bytes))
            return NULL;
        void *more = realloc(e->symbols, bytes);
        if (more == NULL)
            return NULL;
        e->symbols = more;
        e->symbol_room = n + n / 2;
    }
    symbol_t *symbols = e->symbols;
    *heap = (heap_t){(entry_t *)(symbols + e->symbol_room), 0};
    return symbols;
}

static int64_t merge_long(zero_encoder_t *e, int32_t *ids, int64_t n)
{
    const zero_vocab_t *v = &e->t->vocab;
    heap_t heap;
    symbol_t *s = long_memory(e, (size_t)n, &heap);
    int64_t left = 0;
    if (s == NULL)
        return -1;
    for (int64_t i = 0; i < n; i++)
        s[i] = (symbol_t){ids[i], ZERO_NO_RANK, i - 1, i + 1 < n ? i + 1 : -1};
    for (int64_t i = 0; i < n; i++)
        if (rank_pair(v, s, i))
            heap.entries[heap.count++] = (entry_t){s[i].rank, i};
    for (int64_t i = heap.count / 2 - 1; i >= 0; i--)
        heap_down(&heap, i);
    while (heap.count > 0) {
        entry_t top = heap_take(&heap);
        int64_t at = top.at, gone = s[at].next;
        if (s[at].rank != top.rank)
            continue;
        s[at].id = v->merged[top.rank];
        s[at].next = s[gone].next;
        s[gone].rank = ZERO_NO_RANK;
        if (s[at].next >= 0)
            s[s[at].next].previous = at;
        if (rank_pair(v, s, at))
            heap_add(&heap, (entry_t){s[at].rank, at});
        if (s[at].previous >= 0 && rank_pair(v, s, s[at].previous))
            heap_add(&heap, (entry_t){s[s[at].previous].rank, s[at].previous});
    }
    for (int64_t i = 0; i >= 0; i = s[i].next)
        ids[left++] = s[i].id;
    return left;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

/* Appends the ids of a word. */
static bool encode_word(zero_encoder_t *e, const char *word, size_t bytes)
{
    const zero_vocab_t *v = &e->t->vocab;
    zero_ids_t *out = e->ids;
    if (v->ignore_merges) {
        int32_t whole = v->byte_level ? zero_names_find(&v->words, word, bytes) : zero_vocab_find(v, word, bytes);
        if (whole >= 0)
            return zero_ids_add(out, whole);
    }
    if (!zero_ids_reserve(out, (int64_t)bytes + 1))
        return false;
    int32_t *ids = out->at + out->count;
    int64_t n = first_symbols(v, word, bytes, ids);
    n = n <= SHORT ? merge_short(v, ids, (int)n) : merge_long(e, ids, n);
    out->count += n > 0 ? n : 0;
    return n >= 0;
}

static uint64_t load8(const char *at)
{
    uint64_t x;
    memcpy(&x, at, sizeof x);
    return x;
}

/* The word's key, zero after its end. */
static void word_key(const char *word, size_t bytes, const char *limit, char key[32])
{
    static const uint64_t masks[9] = {
        0, 0xff, 0xffff, 0xffffff, 0xffffffff, 0xffffffffff, 0xffffffffffff, 0xffffffffffffff, 0xffffffffffffffff};
    if ((size_t)(limit - word) < 32) {
        memset(key, 0, 32);
        memcpy(key, word, bytes);
        return;
    }
    for (size_t i = 0; i < 4; i++) {
        size_t n = bytes > i * 8 ? bytes - i * 8 : 0;
        uint64_t x = load8(word + i * 8) & masks[n < 8 ? n : 8];
        memcpy(key + i * 8, &x, 8);
    }
}

static bool cached_word(zero_encoder_t *e, const char *word, size_t bytes, const char *limit)
{
    char key[32];
    if (bytes > ZERO_WORD_KEY)
        return encode_word(e, word, bytes);
    word_key(word, bytes, limit, key);
    uint64_t hash = (load8(key) ^ (load8(key + 8) * 0xff51afd7ed558ccdu + bytes)) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 32) ^ (load8(key + 16) * 0xc4ceb9fe1a85ec53u + load8(key + 24))) * 0x9e3779b97f4a7c15u;
    zero_word_t *w = &e->cache[hash >> (64 - ZERO_WORD_BITS)];
    zero_ids_t *out = e->ids;
    if (w->bytes == bytes && memcmp(w->key, key, ZERO_WORD_KEY) == 0) {
        if (out->room - out->count < ZERO_WORD_IDS && !zero_ids_reserve(out, ZERO_WORD_IDS))
            return false;
        memcpy(out->at + out->count, w->ids, sizeof w->ids);
        out->count += w->count;
        return true;
    }
    int64_t start = out->count;
    if (!encode_word(e, word, bytes))
        return false;
    int64_t n = out->count - start;
    if (n <= ZERO_WORD_IDS) {
        w->bytes = (uint8_t)bytes;
        w->count = (uint8_t)n;
        memcpy(w->key, key, ZERO_WORD_KEY);
        memcpy(w->ids, out->at + start, (size_t)n * sizeof *w->ids);
    }
    return true;
}

size_t zero_bpe_cut(const zero_vocab_t *v, const char *text, size_t bytes, size_t from)
{
    static const char mark[] = "\xe2\x96\x81";
    for (size_t i = from > 0 ? from : 1; v->cuts && i + 3 <= bytes; i++) {
        const char *at = memchr(text + i, 0xe2, bytes - 2 - i);
        if (at == NULL)
            break;
        i = (size_t)(at - text);
        if (memcmp(at, mark, 3) != 0 || (i >= 3 && memcmp(at - 3, mark, 3) == 0))
            continue;
        zero_char_t c = zero_vocab_char(v, zero_utf8_get(zero_utf8_before(at)));
        if (c.id >= 0 ? !c.before_space : v->cut_unknown)
            return i;
    }
    return bytes;
}

bool zero_bpe_word(zero_encoder_t *e, const char *word, size_t bytes, const char *limit, zero_error_t *error)
{
    const zero_vocab_t *v = &e->t->vocab;
    bool ok = true, cut = v->cuts && !v->ignore_merges;
    for (size_t at = 0; at < bytes && ok;) {
        size_t end = cut ? zero_bpe_cut(v, word, bytes, at + 1) : bytes;
        ok = cached_word(e, word + at, end - at, limit);
        at = end;
    }
    if (!ok)
        zero_fail(error, ZERO_ERR_MEMORY, "no memory for the ids of a word of %zu bytes", bytes);
    return ok;
}
