/* SPDX-License-Identifier: Apache-2.0 */
/* comm_cases.h - what every communicator must do, checked from inside its ranks (test_comm.c, comm_mpi.c). */
#ifndef ZERO_TESTS_COMM_CASES_H
#define ZERO_TESTS_COMM_CASES_H

#include "zero/comm/comm.h"
#include "zero/device/device.h"

/* All collectives over sizes, dtypes, in place and not, against a serial reference, bit by bit. seed: different data.
 * Every rank calls it. Returns 0, or 1 after printing what was wrong. */
int comm_cases(zero_comm_t *c, unsigned seed);
/* The same on a device's memory, with the collectives on one of its native streams. */
int comm_cases_on(zero_comm_t *c, zero_device_t *device, void *native, unsigned seed);
/* Splits by parity with reversed order, and once more, and runs comm_cases on the parts. */
int comm_split_cases(zero_comm_t *c);
/* Rings as the plan is told: caps = zero_comm_describe = resident. */
int comm_ring_cases(zero_comm_t *c);
/* Four splits of c used from four threads at once. Needs a communicator whose transport allows threads. */
enum { COMM_DIFFER_KINDS = 6 };
/* The last rank makes another call than the others, who all find it, or hear of it. c is of no use afterwards. */
int comm_differ_cases(zero_comm_t *c, int kind);
int comm_thread_cases(zero_comm_t *c);

/* Prints and returns 1 unless what holds. */
#define EXPECT(what)                                                            \
    do {                                                                        \
        if (!(what)) {                                                          \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #what); \
            return 1;                                                           \
        }                                                                       \
    } while (0)
#define EXPECT_OK(call)                                                             \
    do {                                                                            \
        zero_error_t e_ = {0}, *error = &e_;                                        \
        if ((call) != ZERO_OK) {                                                    \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, e_.text); \
            return 1;                                                               \
        }                                                                           \
    } while (0)

#endif
