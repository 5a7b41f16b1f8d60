/* SPDX-License-Identifier: Apache-2.0 */
/* place.h - the device of a rank, the CPU or a GPU of its machine, and the communicator between devices. */
#ifndef TRAIN_PLACE_H
#define TRAIN_PLACE_H

#include "train/job.h"

typedef struct place {
    zero_comm_t *comm; /* the ranks; NULL: a plan only */
    zero_comm_t *wire; /* the communicator of the engines: comm itself, or NCCL beside it */
    zero_device_t *device;
} place_t;

/* Selects this rank's device: the CPU, or a visible GPU. Rank number local of a machine takes GPU local modulo the
 * number of GPUs. */
zero_status_t place_device(place_t *place, const job_t *job, int local, zero_error_t *error);
/* Creates the communicator between the devices of the ranks of place->comm: NCCL on GPUs, or host memory if NCCL is not
 * usable. *why: the reason, "" with NCCL and on the CPU. This may replace place->comm. Collective. */
zero_status_t place_wire(place_t *place, zero_error_t *why, zero_error_t *error);
/* Accepts a place that failed. Collective unless something failed. */
void place_close(place_t *place);

/* The vendor's peak, in operations a second, of dense matrix products with operands of a dtype and sums in fp32. NAN if
 * the name is unknown. */
double place_peak(const char *label, zero_dtype_t dtype);

#endif
