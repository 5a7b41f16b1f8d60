/* SPDX-License-Identifier: Apache-2.0 */
/* host.h - host memory and waiting, as the CPU device and the shared-memory communicator need them. */
#ifndef ZERO_DEVICE_HOST_H
#define ZERO_DEVICE_HOST_H

#include "zero/base/base.h"

/* C++ has no _Atomic: the plugins' sources use the compiler's __atomic functions on the same word. */
#ifdef __cplusplus
typedef uint32_t zero_host_word_t;
extern "C" {
#else
#include <stdatomic.h>
typedef _Atomic uint32_t zero_host_word_t;
#endif

/* Bytes of memory that a process could still take: the least of MemAvailable and the head room of its control groups
 * (v1 and v2; inactive page cache counts as free). Other processes may take from the same. */
zero_status_t zero_host_available(uint64_t *bytes, zero_error_t *error);

/* Makes the pages of [base, base + bytes) resident and writable; both are multiples of the system's page, contents are
 * kept. Memory that a file system of limited size backs gives ZERO_ERR_MEMORY, never SIGBUS (Linux 5.14; before, only
 * after posix_fallocate). */
zero_status_t zero_host_populate(void *base, uint64_t bytes, zero_error_t *error);

/* Bytes of [base, base + bytes), any range inside one mapping, whose pages are resident (mincore). */
zero_status_t zero_host_resident(const void *base, uint64_t bytes, uint64_t *resident, zero_error_t *error);

/* Memory of the caller's for an arena, which is then *base. host: the host can touch it; then it is zeroed, and at a
 * page's bound. */
zero_status_t zero_host_take(const zero_allocator_t *allocator, zero_tier_t tier, uint64_t bytes, bool host,
                             char **base, zero_error_t *error);

/* Bytes of a page of the system. */
uint64_t zero_host_page(void);

/* The same number for processes under one kernel, whatever their containers. */
uint64_t zero_host_machine(void);

/* How long to sleep before the next look at something that was waited for for so many seconds, and took expected
 * seconds the last time (0: not known). 0: look again at once, as in the first moments and from a millisecond before
 * to a millisecond after what is expected. Those looks take 2 ms of a wait at most, however long it is. The pauses
 * in between grow with the wait, up to a millisecond. */
double zero_host_pause(double waited, double expected);

/* Sleeps for at most seconds while *word == expected. Wakes early for no reason at times: look again. shared: between
 * processes. */
void zero_host_sleep_on(zero_host_word_t *word, uint32_t expected, double seconds, bool shared);
/* Wakes everyone who sleeps on *word. */
void zero_host_wake(zero_host_word_t *word, bool shared);

#ifdef __cplusplus
}
#endif

#endif
