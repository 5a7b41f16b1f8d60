/* SPDX-License-Identifier: Apache-2.0 */
/* engine_suites.h - the parts of test_engine. */
#ifndef ZERO_TESTS_ENGINE_SUITES_H
#define ZERO_TESTS_ENGINE_SUITES_H

#include <check.h>

Suite *engine_matrix_suite(void);
Suite *engine_misuse_suite(void);
Suite *engine_config_suite(void);
Suite *engine_options_suite(void);
Suite *engine_order_suite(void);
Suite *engine_guard_suite(void);
Suite *engine_memory_suite(void);
Suite *engine_values_suite(void);
Suite *engine_guests_suite(void);
Suite *engine_allocators_suite(void);
Suite *engine_trace_suite(void);
Suite *engine_scale_suite(void);
Suite *engine_tiles_suite(void);
Suite *engine_pipe_suite(void);
Suite *pipe_misuse_suite(void);

#endif
