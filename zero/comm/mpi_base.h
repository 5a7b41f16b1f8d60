/* SPDX-License-Identifier: Apache-2.0 */
/* mpi_base.h - MPI functions for mpi.c: start and end, bounded waits, and aborts between nodes. */
#ifndef ZERO_COMM_MPI_BASE_H
#define ZERO_COMM_MPI_BASE_H

#include "zero/comm/backend.h"

#include <mpi.h>

/* State that communicators with the same peers share: one duplicate of the caller's MPI communicator, whose ranks are
 * the world ranks. Communicators separate their messages by tag, so that a split needs no MPI call that could block
 * forever. */
typedef struct zero_mpi {
    MPI_Comm comm;
    int rank, size;
    int max_tag;
    atomic_int next_tag; /* counts the splits whose tag this rank chooses */
    int *node;           /* [size] node of each world rank, named by its lowest world rank */
    bool alone;          /* all ranks are on one node: no MPI messages after the set-up */
    bool multiple;       /* any thread may call MPI at any time */
    double timeout_s;
    bool counted; /* is counted in mpi_users */
    bool broken;  /* a set-up collective failed here, perhaps not everywhere: others may not reach the close */
} zero_mpi_t;

enum { ZERO_MPI_TAG_ABORT = 1, ZERO_MPI_TAG_FIRST = 2 };

/* Initializes MPI unless that was done, duplicates *comm (NULL: MPI_COMM_WORLD) and finds the nodes. Collective. */
zero_status_t zero_mpi_open(zero_mpi_t **mpi, const void *comm, const zero_comm_options_t *options,
                            zero_error_t *error);
/* aborted: other ranks may not call this, so nothing is freed or finalized that could wait for them. */
void zero_mpi_close(zero_mpi_t *mpi, bool aborted);

/* zero_fail with MPI's error text. */
zero_status_t zero_mpi_fail(zero_error_t *error, const char *what, int code);
/* Waits for all count requests; completed ones become MPI_REQUEST_NULL. With peers, which may be NULL, aborts and
 * vanished ranks end the wait. After a failure drops the remaining requests. */
zero_status_t zero_mpi_wait(MPI_Request *requests, int count, double timeout_s, zero_peers_t *peers,
                            const char *operation, zero_error_t *error);
/* Cancels and frees the requests that have not completed. */
void zero_mpi_drop(MPI_Request *requests, int count);
/* Out-of-band exchange through MPI. */
zero_oob_t zero_mpi_oob(zero_mpi_t *mpi);
/* For zero_peers_t: ctx is the zero_mpi_t, which close frees. */
extern const zero_far_ops_t zero_mpi_far_ops;

#endif
