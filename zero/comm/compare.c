/* SPDX-License-Identifier: Apache-2.0 */
/* compare.c - see compare.h. */
#include "zero/comm/compare.h"

#include <stdio.h>

/* The kind of a transfer says which rank sends, so that it is the same on both ranks of a send that meets a recv. */
enum { GATHER = 1, EXCHANGE, TRADE, TRANSFER /* + the sender, 0 or 1 */, REDUCE = TRANSFER + 2 /* + dtype */ };

static zero_call_t make_call(zero_comm_t *comm, const char *operation, uint64_t kind, uint64_t bytes)
{
    return (zero_call_t){comm, operation, {comm->note ? comm->note->key : 0, comm->whole ? comm->whole : bytes, kind}};
}

zero_call_t zero_call_gather(zero_comm_t *comm, uint64_t bytes)
{
    return make_call(comm, "all-gather", GATHER, bytes);
}

zero_call_t zero_call_exchange(zero_comm_t *comm, uint64_t bytes)
{
    return make_call(comm, "exchange", EXCHANGE, bytes);
}

zero_call_t zero_call_trade(zero_comm_t *comm, uint64_t bytes)
{
    return make_call(comm, "all-to-all", TRADE, bytes);
}

zero_call_t zero_call_reduce(zero_comm_t *comm, int64_t count, zero_dtype_t dtype)
{
    return make_call(comm, "reduce-scatter", REDUCE + (uint64_t)dtype, (uint64_t)count * zero_dtype_size(dtype));
}

zero_call_t zero_call_transfer(zero_comm_t *comm, bool sends, uint64_t bytes)
{
    return make_call(comm, sends ? "send" : "recv", TRANSFER + (uint64_t)(sends ? comm->rank : 1 - comm->rank), bytes);
}

void zero_call_words(const zero_call_t *call, uint64_t *words)
{
    if (call->comm->note)
        memcpy(words, call->comm->note->words, sizeof call->comm->note->words);
    else
        memset(words, 0, sizeof call->comm->note->words);
}

void zero_call_info(const zero_call_t *call, zero_call_info_t *info)
{
    info->id = call->id;
    zero_call_words(call, info->words);
}

static bool is_transfer(const zero_call_id_t *id)
{
    return id->kind >= TRANSFER && id->kind < REDUCE;
}

/* Example: "an exchange of 8 bytes a rank" */
static void describe(const zero_call_id_t *id, int rank, char *text, size_t size)
{
    if (id->kind == GATHER || id->kind == EXCHANGE)
        snprintf(text, size, "an %s of %llu bytes a rank", id->kind == GATHER ? "all-gather" : "exchange",
                 (unsigned long long)id->bytes);
    else if (id->kind == TRADE)
        snprintf(text, size, "an all-to-all of %llu bytes for each rank", (unsigned long long)id->bytes);
    else if (is_transfer(id))
        snprintf(text, size, "a %s of %llu bytes", id->kind - TRANSFER == (uint64_t)rank ? "send" : "recv",
                 (unsigned long long)id->bytes);
    else
        snprintf(text, size, "a reduce-scatter of %llu bytes a rank in %s", (unsigned long long)id->bytes,
                 zero_dtype_name((zero_dtype_t)(id->kind - REDUCE)));
}

static __attribute__((noinline)) zero_status_t
fail_mismatch(const zero_call_t *call, int rank, const zero_call_id_t *id, const uint64_t *words, zero_error_t *error)
{
    zero_comm_t *c = call->comm;
    const int ranks[2] = {rank < c->rank ? rank : c->rank, rank < c->rank ? c->rank : rank};
    const zero_call_id_t *ids[2] = {rank < c->rank ? id : &call->id, rank < c->rank ? &call->id : id};
    char texts[2][80];
    c->other.rank = rank;
    c->other.note.key = id->key;
    memcpy(c->other.note.words, words, sizeof c->other.note.words);
    for (int i = 0; i < 2; i++)
        describe(ids[i], ranks[i], texts[i], sizeof texts[i]);
    return zero_fail_reason(
        error, ZERO_ERR_MISMATCH, ZERO_REASON_CALLS_DIFFER, c->control->world[rank],
        "rank %d is in %s, and rank %d in %s%s: %s", c->control->world[ranks[0]], texts[0], c->control->world[ranks[1]],
        texts[1], ids[0]->kind == ids[1]->kind && ids[0]->bytes == ids[1]->bytes ? " for another purpose" : "",
        is_transfer(ids[0]) && is_transfer(ids[1])
            ? "let each send of a rank meet a recv of the same size on the other, in the same order"
            : "make the same calls with the same sizes in the same order on every rank");
}

zero_status_t zero_call_compare(const zero_call_t *call, int rank, const zero_call_id_t *id, const uint64_t *words,
                                zero_error_t *error)
{
    return memcmp(id, &call->id, sizeof *id) == 0 ? ZERO_OK : fail_mismatch(call, rank, id, words, error);
}
