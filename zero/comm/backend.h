/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - what the backends of comm.h share. */
#ifndef ZERO_COMM_BACKEND_H
#define ZERO_COMM_BACKEND_H

#include "zero/comm/node.h"

/* The caller's options, or the defaults, checked. */
zero_status_t zero_comm_options_take(zero_comm_options_t *out, const zero_comm_options_t *options, zero_error_t *error);

/* Whether the caller has room for the communicator that function makes; *comm becomes NULL. */
zero_status_t zero_comm_clear_out(zero_comm_t **comm, const char *function, zero_error_t *error);

/* Bytes of rings that a rank of a communicator of world ranks has in all, whatever the nodes are. */
zero_status_t zero_ring_budget(const zero_comm_options_t *options, int world, uint64_t *bytes, zero_error_t *error);

/* zero_oob_t by way of a communicator's exchange. */
zero_oob_t zero_comm_oob(zero_comm_t *c);

/* Sets what the plan is told, and name, of a communicator that has size set. */
void zero_comm_caps_set(zero_comm_t *c, const char *name, uint64_t ring_bytes);

/* A control whose ranks share a node: shm.c's, and the first part of mpi.c's. Its host memory moves through node. */
typedef struct zero_local {
    zero_control_t control;
    zero_peers_t *peers; /* holds a reference */
    zero_node_t node;
    int *world; /* [size] world ranks */
} zero_local_t;

/* abort, check, publish and progress of comm.h for a zero_local_t, and what all destroys of one do last. */
void zero_local_abort(zero_comm_t *c, const zero_error_t *failure);
zero_status_t zero_local_check(zero_comm_t *c, zero_error_t *error);
void zero_local_publish(zero_comm_t *c, uint64_t word);
uint64_t zero_local_progress(const zero_comm_t *c, int rank);
void zero_local_close(zero_local_t *l);
/* Index of a world rank among the peers of this node, or -1 where it is on another node. */
int zero_peers_index(const zero_peers_t *peers, int rank);

/* Gives c, a communicator of a rank and size, its control: ranks of one node, with peers that has them all; world[i]
 * is the world rank and members[i] oob's rank of rank i. Collective over oob. Takes over the reference to
 * peers, also when it fails. */
zero_status_t zero_shm_open(zero_comm_t *c, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                            const int *world, const zero_comm_options_t *options, zero_error_t *error);

#endif
