/* SPDX-License-Identifier: Apache-2.0 */
/* self.c - a communicator of one rank. */
#include "zero/comm/backend.h"

#include <stdlib.h>

/* State that a communicator and its splits share. */
typedef struct word {
    _Atomic uint64_t progress;
    atomic_int refs;
    zero_latch_t aborted;
} word_t;

typedef struct self {
    zero_control_t control;
    int world[1];
    word_t *word;
} self_t;

static zero_status_t self_check(zero_comm_t *c, zero_error_t *error)
{
    return zero_latch_check(&((const self_t *)c->control)->word->aborted, error);
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

static const zero_data_ops_t self_data = {
    .all_gather = self_all_gather, .reduce_scatter = self_reduce_scatter, .all_to_all = self_all_gather};

static void self_abort(zero_comm_t *c, const zero_error_t *failure)
{
    const zero_error_t own = zero_comm_own(failure, 0);
    zero_latch_set(&((self_t *)c->control)->word->aborted, &own);
}

static void self_publish(zero_comm_t *c, uint64_t word)
{
    atomic_store_explicit(&((self_t *)c->control)->word->progress, word, memory_order_relaxed);
}

static uint64_t self_progress(const zero_comm_t *c, int rank)
{
    (void)rank;
    return atomic_load_explicit(&((const self_t *)c->control)->word->progress, memory_order_relaxed);
}

static void self_destroy(zero_control_t *control)
{
    word_t *w = ((self_t *)control)->word;
    if (w && atomic_fetch_sub(&w->refs, 1) == 1)
        free(w);
    free(control);
}

static zero_status_t self_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error);

static const zero_control_ops_t self_ops = {
    .exchange = copy,
    .split = self_split,
    .abort = self_abort,
    .check = self_check,
    .publish = self_publish,
    .progress = self_progress,
    .destroy = self_destroy,
};

static zero_status_t self_open(zero_comm_t *c, word_t *word, zero_error_t *error)
{
    self_t *s = calloc(1, sizeof *s);
    if (s)
        s->word = word ? word : calloc(1, sizeof *s->word);
    if (!s || !s->word) {
        free(s);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *s + sizeof *word);
    }
    atomic_fetch_add(&s->word->refs, 1);
    s->control.ops = &self_ops;
    s->control.world = s->world;
    s->control.host = c->data = &self_data;
    c->control = &s->control;
    zero_comm_options_init(&s->control.options);
    zero_comm_caps_set(c, "self", 0);
    c->caps.node_ranks = 1;
    return ZERO_OK;
}

static zero_status_t self_split(zero_comm_t *c, const zero_subset_t *part, zero_comm_t *out, zero_error_t *error)
{
    (void)part; /* there is one rank in any case */
    return self_open(out, ((self_t *)c->control)->word, error);
}

zero_status_t zero_comm_self(zero_comm_t **comm, zero_error_t *error)
{
    zero_status_t status = zero_comm_clear_out(comm, "zero_comm_self", error);
    if (status)
        return status;
    zero_comm_t *c = calloc(1, sizeof *c);
    if (!c)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a communicator (%zu bytes)", sizeof *c);
    c->size = 1;
    zero_comm_options_init(&c->options);
    status = self_open(c, NULL, error);
    if (status == ZERO_OK)
        *comm = c;
    else
        free(c);
    return status;
}
