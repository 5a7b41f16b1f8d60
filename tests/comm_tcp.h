/* SPDX-License-Identifier: Apache-2.0 */
/* comm_tcp.h - the part of test_comm.c about ranks that torchrun starts on several nodes. */
#ifndef ZERO_TESTS_COMM_TCP_H
#define ZERO_TESTS_COMM_TCP_H

#include <check.h>

TCase *comm_tcp_case(void);

#endif
