/* SPDX-License-Identifier: Apache-2.0 */
/* compare.h - ranks tell each other at the begin of a collective what it is, and compare that before they use each
 * other's data. Ranks that make different calls so get ZERO_ERR_MISMATCH, and never what was meant for another call. */
#ifndef ZERO_COMM_COMPARE_H
#define ZERO_COMM_COMPARE_H

#include "zero/comm/comm.h"

/* What must be equal on all ranks. */
typedef struct zero_call_id {
    uint64_t key;   /* of the caller's note; 0: none */
    uint64_t bytes; /* of a slice */
    uint64_t kind;
} zero_call_id_t;

/* What a rank sends, where it has to send it. */
typedef struct zero_call_info {
    zero_call_id_t id;
    uint64_t words[ZERO_COMM_WORDS];
} zero_call_info_t;

/* A collective of this rank. */
typedef struct zero_call {
    zero_comm_t *comm;
    const char *operation; /* for sentences */
    zero_call_id_t id;
} zero_call_t;

/* A gather, an exchange, or a reduce-scatter (count elements of a dtype), with comm's note. */
zero_call_t zero_call_gather(zero_comm_t *comm, uint64_t bytes);
zero_call_t zero_call_exchange(zero_comm_t *comm, uint64_t bytes);
zero_call_t zero_call_reduce(zero_comm_t *comm, int64_t count, zero_dtype_t dtype);

/* This rank's words: ZERO_COMM_WORDS of them. */
void zero_call_words(const zero_call_t *call, uint64_t *words);
void zero_call_info(const zero_call_t *call, zero_call_info_t *info);

/* ZERO_OK where rank of the communicator is in the same collective; else ZERO_ERR_MISMATCH, and its note is in
 * comm->other. */
zero_status_t zero_call_compare(const zero_call_t *call, int rank, const zero_call_id_t *id, const uint64_t *words,
                                zero_error_t *error);

#endif
