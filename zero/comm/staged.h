/* SPDX-License-Identifier: Apache-2.0 */
/* staged.h - collectives on device memory through a communicator that can only use host memory (zero_comm_staged in
 * zero.h). */
#ifndef ZERO_COMM_STAGED_H
#define ZERO_COMM_STAGED_H

#include "zero/comm/comm.h"
#include "zero/device/device.h"

/* For planning: turns the caps of a communicator of world ranks into those of a staged communicator around it.
 * staging_bytes is as in zero_comm_staged. Adds the pinned memory to ring_bytes. */
zero_status_t zero_comm_staged_caps(zero_comm_caps_t *caps, int world, uint64_t staging_bytes, zero_error_t *error);

#endif
