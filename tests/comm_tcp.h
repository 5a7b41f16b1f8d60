/* SPDX-License-Identifier: Apache-2.0 */
/* comm_tcp.h - part of test_comm: ranks that torchrun starts on several nodes. */
#ifndef ZERO_TESTS_COMM_TCP_H
#define ZERO_TESTS_COMM_TCP_H

#include <check.h>

TCase *comm_tcp_case(void);

#endif
