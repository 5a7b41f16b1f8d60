/* SPDX-License-Identifier: Apache-2.0 */
/* comm_torchrun.h - the part of test_comm about torchrun's ranks. */
#ifndef ZERO_TESTS_COMM_TORCHRUN_H
#define ZERO_TESTS_COMM_TORCHRUN_H

#include <check.h>

TCase *comm_torchrun_case(void);

#endif
