/* SPDX-License-Identifier: Apache-2.0 */
/* shared.h - memory that the ranks of one node share: each rank contributes one part and maps the parts of all. */
#ifndef ZERO_COMM_SHARED_H
#define ZERO_COMM_SHARED_H

#include "zero/base/base.h"

/* Out of band: how the ranks exchange small host buffers while they set something up. */
typedef struct zero_oob {
    int rank, world;
    zero_status_t (*all_gather)(void *ctx, const void *send, void *recv, size_t bytes, zero_error_t *error);
    void *ctx;
} zero_oob_t;

typedef struct zero_shared {
    int count, index; /* number of parts; this rank's own part */
    void **part;      /* [count] addresses in this process; each part has bytes bytes */
    int *pid;         /* [count] process ids; 0: the process is in another PID namespace */
    uint64_t bytes;   /* a multiple of the page size */
} zero_shared_t;

/* Collective over oob: makes the parts that the ranks members[0 .. count) share. members[index] is this rank. A part
 * has bytes bytes, rounded up to pages; it is zeroed and resident. Every rank of oob calls this; a rank that shares
 * nothing passes count 1. Either all ranks succeed, or all return the sentence of the first rank that failed. The
 * sentence of ZERO_ERR_MEMORY has the numbers. status and error: as in zero_oob_agree, the outcome of what this rank
 * did before. Another exchange must come before the ranks use the parts. */
zero_status_t zero_shared_open(zero_shared_t *shared, const zero_oob_t *oob, const int *members, int count, int index,
                               uint64_t bytes, zero_status_t status, zero_error_t *error);
void zero_shared_close(zero_shared_t *shared);

/* Collective: returns ZERO_OK if every rank passes ZERO_OK, otherwise on all ranks the status and sentence of the first
 * rank that passes a failure. A rank that passes a failure never gets ZERO_OK. */
zero_status_t zero_oob_agree(const zero_oob_t *oob, zero_status_t status, zero_error_t *error);
/* The same. *failed: that rank; -1 if no rank failed, or if the ranks could not exchange. */
zero_status_t zero_oob_agree_on(const zero_oob_t *oob, zero_status_t status, int *failed, zero_error_t *error);

#endif
