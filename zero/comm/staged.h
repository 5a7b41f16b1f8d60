/* SPDX-License-Identifier: Apache-2.0 */
/* staged.h - collectives on a device's memory through a communicator that knows host memory alone (zero_comm_staged in
 * zero.h). */
#ifndef ZERO_COMM_STAGED_H
#define ZERO_COMM_STAGED_H

#include "zero/comm/comm.h"
#include "zero/device/device.h"

/* From the caps of a communicator of world ranks those of a staged one around it, for the plan; staging_bytes as
 * zero_comm_staged takes it. ring_bytes then has the pinned memory, too. */
zero_status_t zero_comm_staged_caps(zero_comm_caps_t *caps, int world, uint64_t staging_bytes, zero_error_t *error);

#endif
