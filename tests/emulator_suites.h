/* SPDX-License-Identifier: Apache-2.0 */
/* emulator_suites.h - the parts of test_emulator.cc. */
#ifndef ZERO_TESTS_EMULATOR_SUITES_H
#define ZERO_TESTS_EMULATOR_SUITES_H

#include <check.h>

TCase *emulator_blas(void);

#endif
