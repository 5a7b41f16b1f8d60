/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_suites.h - the parts of test_checkpoint, and what they share. */
#ifndef ZERO_TESTS_CHECKPOINT_SUITES_H
#define ZERO_TESTS_CHECKPOINT_SUITES_H

#include "tests/expect.h"
#include "zero/base/base.h"

#include <check.h>

Suite *checkpoint_layout_suite(void);
Suite *checkpoint_folder_suite(void);
Suite *checkpoint_manifest_suite(void);
Suite *checkpoint_reader_suite(void);
Suite *checkpoint_writer_suite(void);

/* A folder of this test's own below the current one, empty when the test begins and removed with all that is in it when
 * it ends: for tcase_add_checked_fixture. */
void scratch_make(void);
void scratch_remove(void);
extern char scratch[32];
/* The path of a name in it; one of eight places, in turn. */
const char *at(const char *name);
/* Reads a whole file, and adds '\0'. The caller frees it. */
char *read_whole(const char *path, size_t *bytes);
void write_whole(const char *path, const void *bytes, size_t n);

/* A tensor's description from its dtype and up to three dimensions (-1: no more). */
zero_tensor_info_t tensor(const char *name, const char *dtype, int64_t d0, int64_t d1, int64_t d2);

#endif
