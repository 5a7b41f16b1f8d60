/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_suites.h - the parts of test_nvme. */
#ifndef ZERO_TESTS_NVME_SUITES_H
#define ZERO_TESTS_NVME_SUITES_H

#include <check.h>

/* first is 1 if engine 0 (io_uring) must be left out. */
TCase *nvme_folder_case(int first);
TCase *nvme_faults_case(int first);

#endif
