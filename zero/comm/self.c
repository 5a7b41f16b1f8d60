/* SPDX-License-Identifier: Apache-2.0 */
/* self.c - a communicator of one rank. */
#include "zero/comm/backend.h"

#include <stdatomic.h>
#include <stdlib.h>

/* The abort word that a communicator shares with what was split from it. */
typedef struct word {
    _Atomic uint64_t told;
    atomic_int refs;
    atomic_int state; /* 0: none, 1: being written, 2: there */
    char text[sizeof((zero_error_t *)0)->text];
} word_t;

typedef struct self {
    zero_comm_t base;
    word_t *word;
} self_t;

static zero_status_t self_check(zero_comm_t *c, zero_error_t *error)
{
    const word_t *w = ((const self_t *)c)->word;
    return atomic_load(&w->state) == 2 ? zero_fail(error, ZERO_ERR_PEER, "%s", w->text) : ZERO_OK;
}

static zero_status_t copy(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, zero_error_t *error)
{
    zero_status_t status = self_check(c, error);
    if (status == ZERO_OK && send != recv && bytes)
        memcpy(recv, send, bytes);
    return status;
}

static zero_status_t self_all_gather(zero_comm_t *c, const void *send, void *recv, uint64_t bytes, void *native,
                                     zero_error_t *error)
{
    (void)native;
    return copy(c, send, recv, bytes, error);
}

static zero_status_t self_reduce_scatter(zero_comm_t *c, const void *send, void *recv, int64_t count,
                                         zero_dtype_t dtype, void *native, zero_error_t *error)
{
    (void)native;
    return copy(c, send, recv, (uint64_t)count * zero_dtype_size(dtype), error);
}

static void self_abort(zero_comm_t *c, const char *sentence)
{
    word_t *w = ((self_t *)c)->word;
    int none = 0;
    if (!atomic_compare_exchange_strong(&w->state, &none, 1))
        return;
    strncpy(w->text, sentence, sizeof w->text - 1);
    atomic_store(&w->state, 2);
}

static uint64_t self_ring_resident(const zero_comm_t *c)
{
    (void)c;
    return 0;
}

static void self_tell(zero_comm_t *c, uint64_t word)
{
    atomic_store_explicit(&((self_t *)c)->word->told, word, memory_order_relaxed);
}

static uint64_t self_told(const zero_comm_t *c, int rank)
{
    (void)rank;
    return atomic_load_explicit(&((const self_t *)c)->word->told, memory_order_relaxed);
}

static void self_destroy(zero_comm_t *c)
{
    word_t *w = ((self_t *)c)->word;
    if (w && atomic_fetch_sub(&w->refs, 1) == 1)
        free(w);
    free(c);
}

static zero_status_t self_split(zero_comm_t *c, int color, int key, zero_comm_t **out, zero_error_t *error);

static const zero_comm_ops_t self_ops = {
    .all_gather = self_all_gather,
    .reduce_scatter = self_reduce_scatter,
    .exchange = copy,
    .split = self_split,
    .abort = self_abort,
    .check = self_check,
    .ring_resident = self_ring_resident,
    .peers_resident = self_ring_resident, /* none either */
    .tell = self_tell,
    .told = self_told,
    .destroy = self_destroy,
};

static zero_status_t self_open(zero_comm_t **out, word_t *word, zero_error_t *error)
{
    zero_status_t status;
    self_t *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *s);
    s->base.ops = &self_ops;
    s->base.size = 1;
    zero_comm_options_init(&s->base.options);
    status = zero_comm_describe("self", 1, NULL, &s->base.caps, error);
    s->base.caps.node_ranks = 1;
    s->word = word ? word : calloc(1, sizeof *s->word);
    if (status == ZERO_OK && !s->word)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *s->word);
    if (s->word)
        atomic_fetch_add(&s->word->refs, 1);
    if (status)
        self_destroy(&s->base);
    else
        *out = &s->base;
    return status;
}

static zero_status_t self_split(zero_comm_t *c, int color, int key, zero_comm_t **out, zero_error_t *error)
{
    zero_status_t status = self_check(c, error);
    (void)color, (void)key; /* alone in any case */
    return status ? status : self_open(out, ((self_t *)c)->word, error);
}

zero_status_t zero_comm_self(zero_comm_t **comm, zero_error_t *error)
{
    zero_status_t status = zero_comm_place(comm, "zero_comm_self", error);
    return status == ZERO_OK ? self_open(comm, NULL, error) : status;
}
