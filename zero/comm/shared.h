/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h - memory that the ranks of one node share: each rank contributes one part and maps everyone's. */
#ifndef ZERO_COMM_SHARED_H
#define ZERO_COMM_SHARED_H

#include "zero/base/base.h"

/* Out of band: how world ranks exchange small host buffers while they set something up. */
typedef struct zero_oob {
    int rank, world;
    zero_status_t (*all_gather)(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error);
    void *ctx;
} zero_oob_t;

typedef struct zero_shared {
    int count, index; /* parts, and which is this rank's own */
    void **part;      /* [count] mapped here, each of bytes bytes */
    int *pid;         /* [count] processes; 0 where the process is not of this PID namespace */
    uint64_t bytes;   /* a multiple of the page */
} zero_shared_t;

/* Collective over oob, whose ranks members[0 .. count) share parts of bytes bytes (rounded up to pages), zeroed
 * and resident; members[index] is this rank. Every rank of oob must call it; those that have nothing to share pass
 * count 1. All succeed, or all return the first failing rank's sentence (ZERO_ERR_MEMORY with the numbers where there
 * is not enough). */
zero_status_t zero_shared_open(zero_shared_t *shared, const zero_oob_t *oob, const int *members, int count, int index,
                               uint64_t bytes, zero_error_t *error);
void zero_shared_close(zero_shared_t *shared);

/* Collective: ZERO_OK where every rank passes ZERO_OK, else on all ranks the status and sentence of the first that does
 * not. Never ZERO_OK where this rank does not pass it. */
zero_status_t zero_oob_agree(const zero_oob_t *oob, zero_status_t status, zero_error_t *error);
/* The same. *failed: that rank, or -1: none did, or the ranks could not exchange. */
zero_status_t zero_oob_agree_on(const zero_oob_t *oob, zero_status_t status, int *failed, zero_error_t *error);

#endif
