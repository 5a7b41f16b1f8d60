/* SPDX-License-Identifier: Apache-2.0 */
/* comm_direct.h - part of test_comm: gathers in which ranks read each other's memory. */
#ifndef ZERO_TESTS_COMM_DIRECT_H
#define ZERO_TESTS_COMM_DIRECT_H

#include <check.h>

TCase *comm_direct_case(void);

#endif
