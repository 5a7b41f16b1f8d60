/* SPDX-License-Identifier: Apache-2.0 */
/* encode.c - encodes a document on one thread. */
#include "tokenizer/parts.h"

zero_status_t zero_encoder_open(zero_encoder_t **out, const zero_tokenizer_t *t, zero_error_t *error)
{
    zero_encoder_t *e = calloc(1, sizeof *e);
    *out = NULL;
    if (e != NULL) {
        e->t = t;
        /* from calloc, its pages take no memory before they are used */
        e->cache_memory = calloc(((size_t)1 << ZERO_WORD_BITS) + 1, sizeof *e->cache);
        e->cache = (zero_word_t *)(((uintptr_t)e->cache_memory + 63) & ~(uintptr_t)63);
    }
    if (e == NULL || e->cache_memory == NULL || !zero_matcher_open(&e->matcher)) {
        zero_encoder_close(e);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for encoding text: a thread needs %zu MiB",
                         (sizeof *e->cache << ZERO_WORD_BITS) >> 20);
    }
    *out = e;
    return ZERO_OK;
}

void zero_encoder_close(zero_encoder_t *e)
{
    if (e == NULL)
        return;
    zero_matcher_close(&e->matcher);
    free(e->cache_memory);
    free(e->rewritten[0].at);
    free(e->rewritten[1].at);
    for (int i = 0; i < ZERO_STEPS; i++)
        free(e->step[i].at);
    free(e->code_points);
    free(e->symbols);
    free(e);
}

/* A piece of a document: its id, or the ids of its words. */
static bool add_piece(void *ctx, const zero_piece_t *piece, zero_error_t *error)
{
    zero_encoder_t *e = ctx;
    if (piece->id < 0)
        return zero_split_words(e, 0, piece->first, piece->text, error);
    return zero_ids_add(e->ids, piece->id);
}

static bool add_all(zero_ids_t *ids, const zero_ids_t *added)
{
    if (!zero_ids_reserve(ids, added->count))
        return false;
    if (added->count > 0)
        memcpy(ids->at + ids->count, added->at, (size_t)added->count * sizeof *ids->at);
    ids->count += added->count;
    return true;
}

zero_status_t zero_encoder_encode(zero_encoder_t *e, const char *text, size_t bytes, bool add_special, zero_ids_t *ids,
                                  zero_error_t *error)
{
    zero_error_t why = {0};
    int64_t count = ids->count;
    size_t wrong = zero_utf8_check(text, bytes);
    if (wrong < bytes)
        return zero_fail(error, ZERO_ERR_FORMAT, "byte %zu, 0x%02x, is not UTF-8", wrong, (unsigned char)text[wrong]);
    e->ids = ids;
    if ((add_special && !add_all(ids, &e->t->before)) || !zero_pieces(e, text, bytes, add_piece, e, &why) ||
        (add_special && !add_all(ids, &e->t->after))) {
        ids->count = count;
        if (why.status == ZERO_OK)
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for encoding a text of %zu bytes", bytes);
        return zero_fail(error, why.status, "%s", why.text);
    }
    return ZERO_OK;
}
