/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - what the backends of comm.h share. */
#ifndef ZERO_COMM_BACKEND_H
#define ZERO_COMM_BACKEND_H

#include "zero/comm/node.h"

/* The caller's options, or the defaults, checked. */
zero_status_t zero_comm_options_take(zero_comm_options_t *out, const zero_comm_options_t *options, zero_error_t *error);

/* Whether the caller has room for the communicator that function makes; *comm becomes NULL. */
zero_status_t zero_comm_place(zero_comm_t **comm, const char *function, zero_error_t *error);

/* Bytes of rings that a rank of a communicator of world ranks has in all, whatever the nodes are. */
zero_status_t zero_ring_budget(const zero_comm_options_t *options, int world, uint64_t *bytes, zero_error_t *error);

/* A meet over a communicator's exchange. */
zero_meet_t zero_comm_meet(zero_comm_t *c);

/* The ranks of c with this rank's color, ordered by key, then rank: *members (*count of them, freed by the caller), of
 * which this is (*members)[*index]. Collective over c; all fail together. */
zero_status_t zero_split_members(zero_comm_t *c, int color, int key, int **members, int *count, int *index,
                                 zero_error_t *error);

/* Sets what the plan is told, and name, of a communicator that has size set. */
void zero_comm_caps_set(zero_comm_t *c, const char *name, uint64_t ring_bytes);

/* A communicator whose ranks share a node: shm.c's, and the first part of mpi.c's. */
typedef struct zero_local {
    zero_comm_t base;
    zero_family_t *family; /* holds a reference */
    zero_node_t node;
    int *world;          /* [size] family ranks */
    zero_error_t failed; /* of the first collective that failed: ranks are out of step, so the later ones fail alike */
} zero_local_t;

/* The failure of an earlier collective, or ZERO_OK. */
zero_status_t zero_local_ready(const zero_local_t *l, zero_error_t *error);
/* Keeps what failed; returns status. */
zero_status_t zero_local_done(zero_local_t *l, zero_status_t status, const zero_error_t *why, zero_error_t *error);
/* abort and check of comm.h for a zero_local_t. */
void zero_local_abort(zero_comm_t *c, const char *sentence);
zero_status_t zero_local_check(zero_comm_t *c, zero_error_t *error);
/* tell and told of comm.h for a zero_local_t. */
void zero_local_tell(zero_comm_t *c, uint64_t word);
uint64_t zero_local_told(const zero_comm_t *c, int rank);
/* Seat of a family rank, or -1 where it is on another node. */
int zero_family_seat(const zero_family_t *family, int rank);

/* A communicator over ranks of one node, with a family that has them all: size ranks, world[i] the family rank and
 * members[i] the meet's rank of rank i. Collective over the meet. Takes over the reference to family, also when it
 * fails. */
zero_status_t zero_shm_open(zero_comm_t **comm, const char *name, zero_family_t *family, const zero_meet_t *meet,
                            const int *members, const int *world, int size, int rank,
                            const zero_comm_options_t *options, zero_error_t *error);

#endif
