/* SPDX-License-Identifier: Apache-2.0 */
/* parts.h - the parts of a tokenizer, shared by the files of this folder.
 *
 * A document passes these stages, in this order:
 *   added.c       added tokens whose match is in the text as it is written
 *   normalize.c   the text between them is normalized
 *   added.c       added tokens whose match is in normalized text
 *   split.c       the pre-tokenizer: rewrites and splits of the text between them, down to words
 *   bpe.c         each word becomes ids */
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H

#include "tokenizer/tokenizer.h"
#include "zero/base/base.h"

#include <jansson.h>
#include <stdlib.h>

/* ---- text ------------------------------------------------------------------------------------------------------- */

/* A growing text. */
typedef struct zero_chars {
    char *at;
    size_t count, room;
} zero_chars_t;

typedef struct zero_span {
    const char *at;
    size_t bytes;
} zero_span_t;

/* Makes room for more bytes after count. */
bool zero_chars_reserve(zero_chars_t *chars, size_t more);
bool zero_chars_add(zero_chars_t *chars, const char *at, size_t bytes);
bool zero_ids_reserve(zero_ids_t *ids, int64_t more);
static inline bool zero_ids_add(zero_ids_t *ids, int32_t id)
{
    if (ids->count == ids->room && !zero_ids_reserve(ids, 1))
        return false;
    ids->at[ids->count++] = id;
    return true;
}

/* Bytes of the character that begins with this byte of valid UTF-8. */
static inline size_t zero_utf8_bytes(char first)
{
    unsigned char c = (unsigned char)first;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}
/* The character at valid UTF-8. */
uint32_t zero_utf8_get(const char *at);
/* Writes a character; returns its bytes. */
size_t zero_utf8_put(uint32_t c, char *at);
/* The start of the character before at; at is not the text's start. */
const char *zero_utf8_before(const char *at);
/* The offset of the first byte that is not UTF-8, or bytes. */
size_t zero_utf8_check(const char *text, size_t bytes);
/* White_Space, and the word characters of regular expressions (Unicode's annex C of technical standard 18). */
bool zero_is_space(uint32_t c);
bool zero_is_word(uint32_t c);

/* ---- vocabulary ------------------------------------------------------------------------------------------------- */

enum { ZERO_NO_RANK = 0x7fffffff, ZERO_CHAR_PAGES = 0x1100 };

typedef struct zero_token {
    const char *text; /* as in the file; NULL: no token has this id */
    uint32_t bytes;
    bool special, added, model; /* model: BPE can make it */
} zero_token_t;

/* Texts to ids: open addressing over ids into texts. */
typedef struct zero_names {
    int32_t *slots; /* -1: empty */
    uint64_t mask;
    zero_span_t *texts; /* by id */
} zero_names_t;

/* Pairs of ids to ranks. */
typedef struct zero_merge {
    uint64_t key; /* left << 32 | right; UINT64_MAX: empty */
    int32_t rank, id;
} zero_merge_t;

typedef struct zero_char {
    int32_t id;        /* of the character's own token; -1: none */
    bool before_space; /* some token has a space mark after this character */
} zero_char_t;

typedef struct zero_vocab {
    zero_token_t *tokens;
    int64_t size;
    char *texts;          /* one block */
    zero_names_t names;   /* as in the file */
    zero_names_t words;   /* of byte-level tokens: as bytes */
    char *word_texts;     /* one block */
    zero_merge_t *merges; /* (merge_mask + 1) */
    uint64_t merge_mask;
    int merge_shift;
    int32_t *merged; /* by rank: the id of the pair's token */
    int64_t merge_count;
    int32_t bytes[256];                  /* byte level: the byte's token; else: that of <0x..>; -1: none */
    int32_t *byte_pairs;                 /* byte level: rank of each pair of bytes (256, 256) */
    zero_char_t *chars[ZERO_CHAR_PAGES]; /* by code point / 256; NULL: a page without tokens */
    int32_t unknown;                     /* -1: none */
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
    bool cuts;        /* a word may be cut before a space mark, see bpe.c */
    bool cut_unknown; /* also after a character without a token */
} zero_vocab_t;

int32_t zero_names_find(const zero_names_t *names, const char *text, size_t bytes);
/* The same among the model's own tokens. */
int32_t zero_vocab_find(const zero_vocab_t *v, const char *text, size_t bytes);
/* Table for count texts that are set by id afterwards. */
bool zero_names_make(zero_names_t *names, int64_t count);
/* False: the text is there already. */
bool zero_names_add(zero_names_t *names, int32_t id, const char *text, size_t bytes);
/* The rank of a pair, ZERO_NO_RANK if it does not merge. */
static inline int32_t zero_merge_rank(const zero_vocab_t *v, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (uint64_t i = key * 0x9e3779b97f4a7c15u >> v->merge_shift;; i = (i + 1) & v->merge_mask) {
        if (v->merges[i].key == key)
            return v->merges[i].rank;
        if (v->merges[i].key == UINT64_MAX)
            return ZERO_NO_RANK;
    }
}
static inline zero_char_t zero_vocab_char(const zero_vocab_t *v, uint32_t c)
{
    return v->chars[c >> 8] != NULL ? v->chars[c >> 8][c & 255] : (zero_char_t){-1, false};
}
/* Decodes a token of a byte-level vocabulary to bytes. False: it has a character that stands for no byte. out has at
 * least as many bytes as text. */
bool zero_byte_level_bytes(const char *text, size_t bytes, char *out, size_t *out_bytes);
/* model and added_tokens of the file. byte_level and cutting follow from other parts of it. */
zero_status_t zero_vocab_parse(zero_vocab_t *v, const char *name, const json_t *model, const json_t *added,
                               bool byte_level, zero_error_t *error);
void zero_vocab_free(zero_vocab_t *v);

/* ---- patterns --------------------------------------------------------------------------------------------------- */

typedef struct zero_pattern {
    char *literal; /* NULL: a regular expression */
    size_t literal_bytes;
    void *code; /* pcre2_code */
    bool jit;
    bool looks_back; /* what it matches at a position depends on the text before it */
    bool may_be_empty;
} zero_pattern_t;

/* What one thread needs to match. */
typedef struct zero_matcher {
    void *data, *context, *stack;
} zero_matcher_t;

/* A regular expression in Oniguruma's syntax, as the tokenizers package uses it. */
zero_status_t zero_pattern_compile(zero_pattern_t *p, const char *name, const char *text, size_t bytes,
                                   zero_error_t *error);
bool zero_pattern_literal(zero_pattern_t *p, const char *text, size_t bytes);
void zero_pattern_free(zero_pattern_t *p);
bool zero_matcher_open(zero_matcher_t *m);
void zero_matcher_close(zero_matcher_t *m);
/* Finds the first match that starts at from or later, and is not an empty one at no_empty (SIZE_MAX: any). Returns 1
 * (found), 0 (none), -1 (the expression needs too much memory or time for this text). */
int zero_pattern_find(const zero_pattern_t *p, const zero_matcher_t *m, const char *text, size_t bytes, size_t from,
                      size_t no_empty, size_t *start, size_t *end);

/* ---- normalizer, pre-tokenizer ---------------------------------------------------------------------------------- */

typedef enum zero_rewrite_kind { ZERO_NFC = 0, ZERO_PREPEND, ZERO_REPLACE } zero_rewrite_kind_t;

typedef struct zero_rewrite {
    zero_rewrite_kind_t kind;
    zero_pattern_t pattern; /* REPLACE */
    char *text;             /* PREPEND, REPLACE */
    size_t text_bytes;
} zero_rewrite_t;

typedef enum zero_step_kind { ZERO_STEP_SPLIT = 0, ZERO_STEP_SPACE, ZERO_STEP_MARK } zero_step_kind_t;
typedef enum zero_behavior {
    ZERO_ISOLATED = 0,
    ZERO_REMOVED,
    ZERO_CONTIGUOUS,
    ZERO_PREVIOUS,
    ZERO_NEXT
} zero_behavior_t;
typedef enum zero_scheme { ZERO_ALWAYS = 0, ZERO_FIRST, ZERO_NEVER } zero_scheme_t;

typedef struct zero_step {
    zero_step_kind_t kind;
    zero_pattern_t pattern; /* SPLIT */
    zero_behavior_t behavior;
    bool invert;
    char mark[8]; /* MARK: what replaces spaces */
    size_t mark_bytes;
    zero_scheme_t scheme;
} zero_step_t;

enum { ZERO_STEPS = 16 };

/* ---- added tokens ----------------------------------------------------------------------------------------------- */

typedef struct zero_added {
    zero_span_t text;
    int32_t id;
    bool lstrip, rstrip, single_word;
} zero_added_t;

/* Tokens to find in text, the leftmost and longest. Sorted by first byte, then the longest first. */
typedef struct zero_finder {
    zero_added_t *tokens;
    int64_t count;
    int32_t first[257]; /* tokens that begin with byte b: first[b] to first[b + 1] */
    int single;         /* the one first byte that all have; -1: several */
    char *texts;
} zero_finder_t;

/* ---- decoder ---------------------------------------------------------------------------------------------------- */

typedef enum zero_decode_kind {
    ZERO_DECODE_BYTE_LEVEL = 0,
    ZERO_DECODE_REPLACE,
    ZERO_DECODE_BYTE_FALLBACK,
    ZERO_DECODE_FUSE,
    ZERO_DECODE_STRIP,
    ZERO_DECODE_MARK
} zero_decode_kind_t;

typedef struct zero_decode {
    zero_decode_kind_t kind;
    zero_pattern_t pattern; /* REPLACE */
    char *text;             /* REPLACE: the new text; STRIP, MARK: the character */
    size_t text_bytes;
    int64_t start, stop; /* STRIP */
    bool prepended;      /* MARK: the first token's marks are not spaces */
} zero_decode_t;

/* ---- all of it -------------------------------------------------------------------------------------------------- */

struct zero_tokenizer {
    zero_vocab_t vocab;
    zero_rewrite_t rewrites[ZERO_STEPS];
    int rewrite_count;
    uint8_t *classes; /* of characters, for NFC: see normalize.c */
    zero_step_t steps[ZERO_STEPS];
    int step_count;
    zero_finder_t raw, normalized;
    zero_ids_t before, after; /* what add_special adds */
    zero_decode_t decodes[ZERO_STEPS];
    int decode_count;
};

enum { ZERO_WORD_KEY = 30, ZERO_WORD_IDS = 8, ZERO_WORD_BITS = 17 };

/* A word and its ids, one line of a processor's cache. */
typedef struct zero_word {
    uint8_t bytes, count; /* bytes 0: empty */
    char key[ZERO_WORD_KEY];
    int32_t ids[ZERO_WORD_IDS];
} zero_word_t;

/* A piece of a document between and including added tokens. */
typedef struct zero_piece {
    int32_t id; /* an added token; -1: text */
    bool first; /* text that begins where the document does */
    zero_span_t text;
} zero_piece_t;

struct zero_encoder {
    const zero_tokenizer_t *t;
    zero_matcher_t matcher;
    void *cache_memory;
    zero_word_t *cache;        /* (1 << ZERO_WORD_BITS) */
    zero_chars_t rewritten[2]; /* normalization */
    zero_chars_t step[ZERO_STEPS];
    int32_t *code_points;
    size_t code_point_room;
    void *symbols; /* of a long word, see bpe.c */
    size_t symbol_room;
    zero_ids_t *ids; /* where ids go now */
};

/* Internal calls return false for failures and leave the sentence in *error. */

/* Called for each piece of a document, in order. text is valid during the call. */
typedef bool (*zero_piece_fn)(void *ctx, const zero_piece_t *piece, zero_error_t *error);
/* Finds added tokens and normalizes the text between them. */
bool zero_pieces(zero_encoder_t *e, const char *text, size_t bytes, zero_piece_fn fn, void *ctx, zero_error_t *error);
zero_status_t zero_finder_parse(zero_tokenizer_t *t, const char *name, const json_t *added, zero_error_t *error);
void zero_finder_free(zero_finder_t *f);

/* Normalizes text. The result is the text itself or in the encoder's memory until the next call. */
bool zero_normalize(zero_encoder_t *e, zero_span_t text, zero_span_t *out, zero_error_t *error);
zero_status_t zero_normalize_parse(zero_tokenizer_t *t, const char *name, const json_t *normalizer,
                                   zero_error_t *error);

/* Applies the rewrites that come before the first split. Returns the number of steps done. */
int zero_split_begin(zero_encoder_t *e, const zero_piece_t *piece, zero_span_t *text, zero_error_t *error);
/* Splits text by the steps from number step on, and appends the ids of the words. */
bool zero_split_words(zero_encoder_t *e, int step, bool first, zero_span_t text, zero_error_t *error);
/* The end of a match, and the count of ids then. */
typedef struct zero_walk_end {
    size_t at;
    int64_t ids;
} zero_walk_end_t;

/* How a text may be cut: not at all, before some characters, or anywhere, by walks that are joined. */
typedef enum zero_cutting { ZERO_CUT_NOT = 0, ZERO_CUT_BEFORE, ZERO_CUT_WALKS } zero_cutting_t;
zero_cutting_t zero_split_cutting(const zero_tokenizer_t *t, int step);
/* The first position from (at least) from on where text may be cut before it. bytes: none. */
size_t zero_split_cut(zero_encoder_t *e, int step, zero_span_t text, size_t from);
/* Walks the matches of split number step from start, where one could have ended, to the first end at stop or later
 * (*reached). Notes the ends of the first matches, at most ends_most. */
bool zero_split_walk(zero_encoder_t *e, int step, bool first, zero_span_t text, size_t start, size_t stop,
                     size_t *reached, zero_walk_end_t *ends, int ends_most, int *end_count, zero_error_t *error);
zero_status_t zero_split_parse(zero_tokenizer_t *t, const char *name, const json_t *pre_tokenizer, bool *byte_level,
                               zero_error_t *error);

/* Appends the ids of a word; limit is the end of the memory that may be read. */
bool zero_bpe_word(zero_encoder_t *e, const char *word, size_t bytes, const char *limit, zero_error_t *error);
/* The first position from (at least) from on where text, which no step splits further, may be cut. bytes: none. */
size_t zero_bpe_cut(const zero_vocab_t *v, const char *text, size_t bytes, size_t from);

/* For tests: cuts long texts into parts of this many bytes. */
void zero_encoders_set_part(zero_encoders_t *encoders, size_t bytes);

zero_status_t zero_decode_parse(zero_tokenizer_t *t, const char *name, const json_t *decoder, zero_error_t *error);

/* ---- reading the file ------------------------------------------------------------------------------------------- */

/* Members of an object with their types checked; what is the object's name in sentences. A missing member has the value
 * given in *out. */
zero_status_t zero_json_bool(const json_t *object, const char *key, const char *name, const char *what, bool *out,
                             zero_error_t *error);
/* A required text. */
zero_status_t zero_json_text(const json_t *object, const char *key, const char *name, const char *what,
                             const char **text, size_t *bytes, zero_error_t *error);
/* The "type" of a part; "" if it has none. */
const char *zero_json_type(const json_t *object);
/* {"String": text} or {"Regex": text}. */
zero_status_t zero_json_pattern(zero_pattern_t *p, const json_t *object, const char *name, const char *what,
                                zero_error_t *error);
/* "FILE: KIND 'TYPE' is not supported, ...". */
zero_status_t zero_json_refuse(const char *name, const char *kind, const json_t *object, const char *supported,
                               zero_error_t *error);

#endif
