/* SPDX-License-Identifier: Apache-2.0 */
/* comm_links.h - transfers between two ranks that share memory, and their failures. */
#ifndef ZERO_TESTS_COMM_LINKS_H
#define ZERO_TESTS_COMM_LINKS_H

#include <check.h>

TCase *comm_links_case(void);

#endif
