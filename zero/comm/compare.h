/* SPDX-License-Identifier: Apache-2.0 */
/* compare.h - at the beginning of a collective or transfer the ranks tell each other which call they make, and compare
 * that before they use each other's data. Ranks that make different calls get ZERO_ERR_MISMATCH, never the data of
 * another call. */
#ifndef ZERO_COMM_COMPARE_H
#define ZERO_COMM_COMPARE_H

#include "zero/comm/comm.h"

/* Identifies a call; must be equal on all ranks. */
typedef struct zero_call_id {
    uint64_t key;   /* of the caller's note; 0: no note */
    uint64_t bytes; /* per slice, or of a transfer */
    uint64_t kind;
} zero_call_id_t;

/* What a rank sends to ranks that cannot read its memory. */
typedef struct zero_call_info {
    zero_call_id_t id;
    uint64_t words[ZERO_COMM_WORDS];
} zero_call_info_t;

/* A call of this rank. */
typedef struct zero_call {
    zero_comm_t *comm;
    const char *operation; /* for error messages */
    zero_call_id_t id;
} zero_call_t;

/* A gather, an exchange, an all-to-all, or a reduce-scatter (count elements of a dtype), with comm's note. */
zero_call_t zero_call_gather(zero_comm_t *comm, uint64_t bytes);
zero_call_t zero_call_exchange(zero_comm_t *comm, uint64_t bytes);
zero_call_t zero_call_trade(zero_comm_t *comm, uint64_t bytes);
zero_call_t zero_call_reduce(zero_comm_t *comm, int64_t count, zero_dtype_t dtype);
/* A send or recv in a communicator of two ranks. */
zero_call_t zero_call_transfer(zero_comm_t *comm, bool sends, uint64_t bytes);

/* This rank's words: ZERO_COMM_WORDS of them. */
void zero_call_words(const zero_call_t *call, uint64_t *words);
void zero_call_info(const zero_call_t *call, zero_call_info_t *info);

/* Returns ZERO_OK if the given rank of the communicator makes the same call. Otherwise returns ZERO_ERR_MISMATCH and
 * copies that rank's note to comm->other. */
zero_status_t zero_call_compare(const zero_call_t *call, int rank, const zero_call_id_t *id, const uint64_t *words,
                                zero_error_t *error);

#endif
