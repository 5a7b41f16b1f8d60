/* SPDX-License-Identifier: Apache-2.0 */
/* comm_cases.h - requirements for every communicator, checked inside its ranks (test_comm.c, test_comm_mpi.c and
 * others). */
#ifndef ZERO_TESTS_COMM_CASES_H
#define ZERO_TESTS_COMM_CASES_H

#include "zero/comm/comm.h"
#include "zero/device/device.h"

/* Runs all collectives over sizes and dtypes, in place and not, and compares them with a serial reference, bit by bit.
 * seed selects the data. Every rank calls it. Returns 0, or 1 after it printed the fault. */
int comm_cases(zero_comm_t *c, unsigned seed);
/* The same on a device's memory. The collectives use one of its native streams. */
int comm_cases_on(zero_comm_t *c, zero_device_t *device, void *native, unsigned seed);
/* Splits by parity in reverse order, and once more, and runs comm_cases on the parts. */
int comm_split_cases(zero_comm_t *c);
/* In a link: transfers of all sizes in both directions, and between them collectives. */
int comm_transfer_cases(zero_comm_t *c, unsigned seed);
/* Links of neighbours, with an odd last rank in no part, go through these cases. Transfers that are on no link, and
 * colors that make no links, are refused. */
int comm_pair_cases(zero_comm_t *c, unsigned seed);
/* The same on a device's memory. */
int comm_pair_cases_on(zero_comm_t *c, zero_device_t *device, void *native, unsigned seed);
/* The rings have the size in the plan: caps = zero_comm_describe = resident. */
int comm_ring_cases(zero_comm_t *c);
enum { COMM_DIFFER_KINDS = 7 };
/* The last rank makes another call than the others. All ranks must find the difference, or get the error of a rank that
 * does. c cannot be used afterwards. */
int comm_differ_cases(zero_comm_t *c, int kind);
/* Four splits of c used from four threads at once. Needs a communicator whose transport allows threads. */
int comm_thread_cases(zero_comm_t *c);
/* The ranks of c form a ring with two links between neighbours, one in each direction. Each rank moves data over its
 * four links from four threads at once. Needs two ranks or more, and the same of the transport. device: has the data,
 * and a stream for each link; NULL: host memory. */
int comm_link_cases(zero_comm_t *c, zero_device_t *device);
/* The ranks of a link make calls of which one at least is a transfer, and which do not meet. Both must
 * find the difference, or get the error of the other. a and b: how sentences name the two ranks. */
enum { COMM_UNMET_KINDS = 9 };
int comm_unmet_cases(zero_comm_t *c, int kind, int a, int b);

/* Prints and returns 1 unless the condition holds. */
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
