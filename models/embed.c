/* SPDX-License-Identifier: Apache-2.0 */
/* embed.c - the beginning of a stack: embeddings of tokens and of positions, whole, in tiles, or in the parts of tensor
 * parallelism. */
#include "models/decoder.h"

#include <math.h>

typedef zero_model_run_t run_t;
typedef zero_model_places_t places_t;

/* x (rows, C) *= sqrt(C), if the model scales embeddings. */
static void scale_embedding(zero_model_t *m, void *x, int64_t rows)
{
    const int64_t C = m->config.width;

    if (m->config.scaled_embedding)
        zero_nn_scale(m->nn, x, x, sqrt((double)C), rows * C, m->options.dtype);
}

/* Positions that are added to embeddings: learned, or sinusoidal ones, which are divided by the scale that follows.
 * NULL: the model has none, or this is a dry run. */
static const void *added_positions(const zero_model_t *m)
{
    return m->config.sinusoidal ? m->waves : zero_model_weight(m->positions);
}

/* Looks up added positions `at` as it does tokens. */
static void embed_at(zero_model_t *m, const zero_model_stack_t *s, const int32_t *tokens, const int32_t *at, int64_t B,
                     int64_t T)
{
    const int64_t C = m->config.width;
    const zero_dtype_t dtype = m->options.dtype;

    zero_nn_embedding_forward(m->nn, s->x[0], tokens, s->embed->data, NULL, B, T, C, dtype);
    if (zero_model_adds_positions(m)) {
        zero_nn_embedding_forward(m->nn, m->narrow, at, added_positions(m), NULL, B, T, C, dtype);
        zero_nn_add(m->nn, s->x[0], s->x[0], m->narrow, B * T * C, dtype);
    }
}

/* The same with tiles. What is added is copied to m->narrow first, because the unit of positions is not held. */
static void embed_tiles(run_t *r, const zero_model_stack_t *s, const int32_t *tokens, places_t places, int64_t B,
                        int64_t T, uint32_t flags)
{
    zero_model_t *m = r->m;
    const int64_t C = m->config.width;
    const zero_dtype_t dtype = m->options.dtype;
    const bool own = m->positions != NULL, added = zero_model_adds_positions(m);

    if (added && (!own || zero_model_use(r, m->positions_unit, flags))) {
        if (B > 0 && places.listed)
            zero_nn_embedding_forward(m->nn, m->narrow, places.at, added_positions(m), NULL, B, T, C, dtype);
        else if (B > 0)
            zero_nn_copy(m->nn, m->narrow, added_positions(m), (uint64_t)(T * C) * m->element);
        if (own)
            zero_model_done(r, m->positions_unit);
    }
    for (int i = 0; i < s->tiles.count; i++) {
        const zero_model_tile_t *tile = &s->tiles.list[i];

        if (!zero_model_use(r, tile->unit, flags))
            return;
        if (B > 0)
            zero_nn_embedding_forward_tile(m->nn, s->x[0], tokens, tile->data,
                                           added && !places.listed ? m->narrow : NULL, tile->rows, B, T, C, dtype);
        zero_model_done(r, tile->unit);
    }
    if (B > 0 && added && places.listed)
        zero_nn_add(m->nn, s->x[0], s->x[0], m->narrow, B * T * C, dtype);
}

/* The place in a list of positions at which those of this rank's rows begin; NULL for NULL. */
static const int32_t *own_positions(const zero_model_t *m, const int32_t *at, int64_t rows)
{
    return at ? at + zero_model_first_row(m, rows) : NULL;
}

/* The same if ranks have parts of the vocabulary: each looks up its own tokens, and the sum has all of them. */
static void embed_parts(run_t *r, const zero_model_stack_t *s, const int32_t *tokens, places_t places, int64_t B,
                        int64_t T, uint32_t flags)
{
    zero_model_t *m = r->m;
    const int64_t C = m->config.width, rows = B * T, own = zero_model_own_rows(m, rows);
    const zero_dtype_t dtype = m->options.dtype;
    void *sums = zero_model_sums(m, s->x[0]);

    if (!zero_model_use(r, s->embed_unit, flags))
        return;
    zero_nn_clear(m->nn, sums, (uint64_t)(rows * C) * m->element);
    zero_nn_embedding_forward_tile(m->nn, sums, tokens, s->embed->data, NULL, zero_model_own_tokens(m, s->encoder), B,
                                   T, C, dtype);
    zero_model_reduce(m, s->x[0], sums, rows);
    if (zero_model_adds_positions(m)) {
        const int32_t *at = own_positions(m, places.listed ? places.at : s->counted, rows);

        zero_nn_embedding_forward(m->nn, m->narrow, at, added_positions(m), NULL, 1, own, C, dtype);
        zero_nn_add(m->nn, s->x[0], s->x[0], m->narrow, own * C, dtype);
    }
    zero_model_done(r, s->embed_unit);
}

void zero_model_embed(run_t *r, const zero_model_stack_t *s, const int32_t *tokens, places_t places, int64_t B,
                      int64_t T, uint32_t flags)
{
    zero_model_t *m = r->m;

    if (m->tensor > 1)
        embed_parts(r, s, tokens, places, B, T, flags);
    else if (s->tiles.count > 0)
        embed_tiles(r, s, tokens, places, B, T, flags);
    else if (zero_model_use(r, s->embed_unit, flags)) {
        if (B > 0 && places.listed)
            embed_at(m, s, tokens, places.at, B, T);
        else if (B > 0)
            zero_nn_embedding_forward(m->nn, s->x[0], tokens, s->embed->data, added_positions(m), B, T, m->config.width,
                                      m->options.dtype);
        zero_model_done(r, s->embed_unit);
    }
    if (B > 0 && r->status == ZERO_OK)
        scale_embedding(m, s->x[0], zero_model_own_rows(m, B * T));
}

/* Positions begin anew with each document, and in each chunk of context parallelism elsewhere. */
static void positions_backward(zero_model_t *m, const zero_model_stack_t *s)
{
    zero_nn_embedding_backward(m->nn, m->positions->grad, NULL, m->dx, m->positions_in, m->options.micro_batch, s->T,
                               m->config.width, m->config.positions, m->options.dtype);
}

/* The same if ranks have parts of the vocabulary. */
static void backward_parts(run_t *r, const zero_model_stack_t *s, const int32_t *tokens)
{
    zero_model_t *m = r->m;
    const zero_model_config_t *c = &m->config;
    const int64_t B = m->options.micro_batch, rows = B * s->T;
    const int32_t *at = own_positions(m, zero_model_lists(m) ? m->positions_in : s->counted, rows);

    if (!zero_model_use(r, s->embed_unit, ZERO_GRAD))
        return;
    zero_nn_embedding_backward_tile(m->nn, s->embed->grad, NULL, zero_model_gather(m, m->dx, rows), tokens,
                                    zero_model_own_tokens(m, s->encoder), B, s->T, c->width,
                                    s->encoder ? c->source_vocab : c->vocab, m->options.dtype);
    if (m->positions != NULL)
        zero_nn_embedding_backward(m->nn, m->positions->grad, NULL, m->dx, at, 1, zero_model_own_rows(m, rows),
                                   c->width, c->positions, m->options.dtype);
    zero_model_done(r, s->embed_unit);
}

void zero_model_embed_backward(run_t *r, const zero_model_stack_t *s, const int32_t *tokens)
{
    zero_model_t *m = r->m;
    const zero_model_config_t *c = &m->config;
    const int64_t B = m->options.micro_batch, V = s->encoder ? c->source_vocab : c->vocab;
    const bool learned = m->positions != NULL, anew = zero_model_lists(m) && learned;

    if (r->status == ZERO_OK)
        scale_embedding(m, m->dx, zero_model_own_rows(m, B * s->T));
    if (m->tensor > 1) {
        backward_parts(r, s, tokens);
        return;
    }
    if (s->tiles.count == 0 && zero_model_use(r, s->embed_unit, ZERO_GRAD)) {
        zero_nn_embedding_backward(m->nn, s->embed->grad, anew ? NULL : zero_model_grad(m->positions), m->dx, tokens, B,
                                   s->T, c->width, V, m->options.dtype);
        if (anew)
            positions_backward(m, s);
        zero_model_done(r, s->embed_unit);
        return;
    }
    for (int i = 0; i < s->tiles.count; i++) {
        const zero_model_tile_t *tile = &s->tiles.list[i];

        if (!zero_model_use(r, tile->unit, ZERO_GRAD))
            return;
        zero_nn_embedding_backward_tile(m->nn, tile->grad, NULL, m->dx, tokens, tile->rows, B, s->T, c->width, V,
                                        m->options.dtype);
        zero_model_done(r, tile->unit);
    }
    if (learned && zero_model_use(r, m->positions_unit, ZERO_GRAD)) {
        if (anew)
            positions_backward(m, s);
        else
            zero_nn_embedding_backward_tile(m->nn, NULL, m->positions->grad, m->dx, tokens, (zero_nn_tile_t){0, 0}, B,
                                            s->T, c->width, V, m->options.dtype);
        zero_model_done(r, m->positions_unit);
    }
}
