/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - what every backend does first. */
#ifndef ZERO_DEVICE_OPTIONS_H
#define ZERO_DEVICE_OPTIONS_H

#include "zero/base/base.h"

/* The caller's options (NULL: the defaults; a smaller struct is an older caller's) into *out, whole, and what holds for
 * every device checked. out->allocator is NULL or allocator, which has the caller's. */
zero_status_t zero_device_options_read(zero_device_options_t *out, zero_allocator_t *allocator,
                                       const zero_device_options_t *options, zero_error_t *error);

#endif
