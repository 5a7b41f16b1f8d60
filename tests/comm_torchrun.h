/* SPDX-License-Identifier: Apache-2.0 */
/* comm_torchrun.h - part of test_comm: ranks that torchrun starts. */
#ifndef ZERO_TESTS_COMM_TORCHRUN_H
#define ZERO_TESTS_COMM_TORCHRUN_H

#include <check.h>

TCase *comm_torchrun_case(void);

#endif
