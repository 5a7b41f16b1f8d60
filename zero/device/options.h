/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - reading zero_device_options_t, for every backend. */
#ifndef ZERO_DEVICE_OPTIONS_H
#define ZERO_DEVICE_OPTIONS_H

#include "zero/base/base.h"

/* Copies the caller's options to *out and checks what applies to every device. NULL: the defaults; a smaller struct
 * comes from an older caller. out->allocator becomes NULL or allocator, a copy of the caller's. */
zero_status_t zero_device_options_read(zero_device_options_t *out, zero_allocator_t *allocator,
                                       const zero_device_options_t *options, zero_error_t *error);

#endif
