/* SPDX-License-Identifier: Apache-2.0 */
/* host.h - host memory and waiting, for devices and communicators. */
#ifndef ZERO_DEVICE_HOST_H
#define ZERO_DEVICE_HOST_H

#include "zero/base/base.h"

/* C++ has no _Atomic: the plugins' sources use the compiler's __atomic functions on the same type of word. */
#ifdef __cplusplus
typedef uint32_t zero_host_word_t;
extern "C" {
#else
#include <stdatomic.h>
typedef _Atomic uint32_t zero_host_word_t;
#endif

/* Bytes of memory that a process could still take: the minimum of MemAvailable and the head room of its control groups
 * (v1 and v2; inactive page cache counts as free). Other processes may use the same memory. */
zero_status_t zero_host_available(uint64_t *bytes, zero_error_t *error);

/* Makes the pages of [base, base + bytes) resident and writable, and keeps their contents; both are multiples of the
 * page size. If a file system of limited size backs the memory, too little space gives ZERO_ERR_MEMORY, never SIGBUS
 * (since Linux 5.14; before, only after posix_fallocate). */
zero_status_t zero_host_populate(void *base, uint64_t bytes, zero_error_t *error);

/* The resident bytes of [base, base + bytes), any range inside one mapping (mincore). */
zero_status_t zero_host_resident(const void *base, uint64_t bytes, uint64_t *resident, zero_error_t *error);

/* Takes memory for an arena from the caller's allocator. host: the host can access it; then it is page-aligned, and
 * this zeroes it. */
zero_status_t zero_host_take(const zero_allocator_t *allocator, zero_tier_t tier, uint64_t bytes, bool host,
                             char **base, zero_error_t *error);

/* The system's page size in bytes. */
uint64_t zero_host_page(void);

/* A number that is equal for processes under one kernel, in any containers. */
uint64_t zero_host_machine(void);

/* How many seconds to sleep before the next poll, after waiting for waited seconds; the last such wait took expected
 * seconds (0: unknown). Returns 0, poll again at once, in the first moments, and from a millisecond before to a
 * millisecond after the expected end. These polls take at most 2 ms of a wait. The other pauses grow with the wait, up
 * to a millisecond. */
double zero_host_pause(double waited, double expected);

/* Sleeps for at most seconds while *word == expected. May wake early for no reason, so check again. shared: across
 * processes. */
void zero_host_sleep_on(zero_host_word_t *word, uint32_t expected, double seconds, bool shared);
/* Wakes all threads that sleep on *word. */
void zero_host_wake(zero_host_word_t *word, bool shared);

#ifdef __cplusplus
}
#endif

#endif
