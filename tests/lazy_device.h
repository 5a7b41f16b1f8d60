/* SPDX-License-Identifier: Apache-2.0 */
/* lazy_device.h - a device for tests of what uses copies between memories: its memory cannot be touched by the host,
 * and what is queued on a stream happens as late as it may, when the host waits for the stream. Code that reads too
 * early, or gives memory back too early, gets wrong bytes each time. */
#ifndef ZERO_TESTS_LAZY_DEVICE_H
#define ZERO_TESTS_LAZY_DEVICE_H

#include "zero/device/device.h"

enum { LAZY_STREAMS = 2 };

/* A device with arenas, copies and waits, and no streams or events of its own. Its native streams are lazy_stream(0)
 * and so on. */
zero_device_t *lazy_device(void);
void *lazy_stream(int index);
/* The copy with this number from now on (0: the next), or with it negative none, fails. */
void lazy_fail(zero_device_t *device, int copies);

#endif
