/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - functions and types that the backends of comm.h share. */
#ifndef ZERO_COMM_BACKEND_H
#define ZERO_COMM_BACKEND_H

#include "zero/comm/node.h"

/* Copies and checks the caller's options; NULL: the defaults. */
zero_status_t zero_comm_options_take(zero_comm_options_t *out, const zero_comm_options_t *options, zero_error_t *error);

/* Sets *comm to NULL; fails if comm is NULL. function is for the error message. */
zero_status_t zero_comm_clear_out(zero_comm_t **comm, const char *function, zero_error_t *error);

/* The total ring bytes of a rank in a communicator of world ranks, on any number of nodes. */
zero_status_t zero_ring_budget(const zero_comm_options_t *options, int world, uint64_t *bytes, zero_error_t *error);

/* A zero_oob_t that uses the communicator's exchange. */
zero_oob_t zero_comm_oob(zero_comm_t *c);

/* Sets the caps, for the plan, of a communicator whose size is set. */
void zero_comm_caps_set(zero_comm_t *c, const char *name, uint64_t ring_bytes);

/* A control whose ranks share a node: that of shm.c, and the first member of mpi.c's. node moves its host memory. */
typedef struct zero_local {
    zero_control_t control;
    zero_peers_t *peers; /* holds a reference */
    zero_node_t node;
} zero_local_t;

/* abort, check, publish and progress of comm.h for a zero_local_t; the last step of every destroy of one. */
void zero_local_abort(zero_comm_t *c, const zero_error_t *failure);
zero_status_t zero_local_check(zero_comm_t *c, zero_error_t *error);
void zero_local_publish(zero_comm_t *c, uint64_t word);
uint64_t zero_local_progress(const zero_comm_t *c, int rank);
void zero_local_close(zero_local_t *l);
/* Index of a world rank among the peers of this node; -1 if it is on another node. */
int zero_peers_index(const zero_peers_t *peers, int rank);

/* Makes the control of c, a communicator with rank and size set whose ranks share a node. peers has all of them;
 * world[i] is the world rank of rank i, members[i] its rank in oob. Collective over oob. Takes over the reference to
 * peers, also on failure. */
zero_status_t zero_shm_open(zero_comm_t *c, zero_peers_t *peers, const zero_oob_t *oob, const int *members,
                            const int *world, const zero_comm_options_t *options, zero_error_t *error);

#endif
