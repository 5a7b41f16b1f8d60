/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_base.h - MPI underneath mpi.c: starting and ending it, bounded waits, and the abort sentence between nodes. */
#ifndef ZERO_COMM_MPI_BASE_H
#define ZERO_COMM_MPI_BASE_H

#include "zero/comm/backend.h"

#include <mpi.h>

/* What the communicators share that have the same peers: one duplicate of the caller's MPI communicator, whose ranks
 * are world ranks. Communicators tell their messages apart by tag, so that a split needs no call of MPI that could wait
 * for ever.
 */
typedef struct zero_mpi {
    MPI_Comm comm;
    int rank, size;
    int max_tag;
    atomic_int next_tag; /* of the splits that this rank leads */
    int *node;           /* [size] node of each world rank: the least world rank there */
    bool alone;          /* all on one node: no message of MPI after the set-up */
    bool multiple;       /* any thread may call MPI at any time */
    double timeout_s;
    bool counted; /* holds a count of MPI's users */
    bool broken;  /* a meeting failed here, perhaps not everywhere: others may not come to the end */
} zero_mpi_t;

enum { ZERO_MPI_TAG_ABORT = 1, ZERO_MPI_TAG_FIRST = 2 };

/* Initialises MPI where nobody did, duplicates *comm (MPI_COMM_WORLD where NULL) and finds the nodes. Collective. */
zero_status_t zero_mpi_open(zero_mpi_t **mpi, const void *comm, const zero_comm_options_t *options,
                            zero_error_t *error);
/* aborted: others may not come, so nothing is freed or finalised that could wait for them. */
void zero_mpi_close(zero_mpi_t *mpi, bool aborted);

/* zero_fail with MPI's own words. */
zero_status_t zero_mpi_fail(zero_error_t *error, const char *what, int code);
/* Waits for all count requests (completed ones become MPI_REQUEST_NULL). peers may be NULL while there is none;
 * otherwise aborts and vanished ranks end the wait. After a failure what is left of the requests is cancelled or let
 * go. */
zero_status_t zero_mpi_wait(MPI_Request *requests, int count, double timeout_s, zero_peers_t *peers,
                            const char *operation, zero_error_t *error);
/* Cancels what it can of the requests and lets go of the rest. */
void zero_mpi_drop(MPI_Request *requests, int count);
/* The peers meet through MPI. */
zero_oob_t zero_mpi_oob(zero_mpi_t *mpi);
/* For zero_peers_t: ctx is the zero_mpi_t, which close frees. */
extern const zero_far_ops_t zero_mpi_far_ops;

#endif
