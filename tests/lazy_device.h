/* SPDX-License-Identifier: Apache-2.0 */
/* lazy_device.h - a device for tests of code that copies between memories. The host cannot touch its memory, and work
 * on a stream runs as late as possible, when the host waits for the stream. Code that reads or frees memory too early
 * always gets wrong bytes. */
#ifndef ZERO_TESTS_LAZY_DEVICE_H
#define ZERO_TESTS_LAZY_DEVICE_H

#include "zero/device/device.h"

enum { LAZY_STREAMS = 2 };

/* A device with arenas, copies and waits, but no streams or events. Its native streams are lazy_stream(0) and so on. */
zero_device_t *lazy_device(void);
void *lazy_stream(int index);
/* Makes the copy with this number fail, counted from the next one as 0. Negative: no copy fails. */
void lazy_fail(zero_device_t *device, int copies);

#endif
