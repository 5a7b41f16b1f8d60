/* SPDX-License-Identifier: Apache-2.0 */
/* place.h - where a rank computes, and by what way ranks exchange: the CPU, or one of its machine's GPUs. */
#ifndef TRAIN_PLACE_H
#define TRAIN_PLACE_H

#include "train/job.h"

typedef struct place {
    zero_comm_t *comm; /* the ranks; NULL: only planned */
    zero_comm_t *wire; /* what engines exchange through: comm itself, or NCCL beside it */
    zero_device_t *device;
} place_t;

/* This rank's device: the CPU, or of the GPUs that it sees the one of its number among the machine's ranks, around
 * again where the ranks are more. */
zero_status_t place_device(place_t *place, const job_t *job, int local, zero_error_t *error);
/* The way from device to device, between the ranks of place->comm: on GPUs NCCL, and where NCCL will not do, host
 * memory (*why: the reason, "" for NCCL and on CPU). place->comm may be another one then. Collective. */
zero_status_t place_wire(place_t *place, zero_error_t *why, zero_error_t *error);
/* Accepts what failed. Collective unless something did. */
void place_close(place_t *place);

/* Operations a second that a GPU's maker promises for products of dense matrices with operands of a dtype, sums in
 * fp32; NAN where the name is not known. */
double place_peak(const char *label, zero_dtype_t dtype);

#endif
