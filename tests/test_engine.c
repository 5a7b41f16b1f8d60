/* SPDX-License-Identifier: Apache-2.0 */
/* test_engine.c - the engine on the public API: numbers (engine_matrix.c), misuse and failures (engine_misuse.c),
 * options (engine_config.c, engine_options.c) and declarations, accesses after release (engine_guard.c), ranks that
 * differ (engine_order.c), memory (engine_memory.c), values in and out (engine_values.c), the caller's own optimizer
 * (engine_guests.c) and memory (engine_allocators.c), when operations run (engine_trace.c), the loss scale
 * (engine_scale.c), tensors in tiles (engine_tiles.c), pipelines (engine_pipe.c,
 * pipe_misuse.c). */
#include "tests/engine_suites.h"

#include <stdlib.h>

int main(void)
{
    SRunner *runner = srunner_create(engine_matrix_suite());
    srunner_add_suite(runner, engine_misuse_suite());
    srunner_add_suite(runner, engine_config_suite());
    srunner_add_suite(runner, engine_options_suite());
    srunner_add_suite(runner, engine_order_suite());
    srunner_add_suite(runner, engine_guard_suite());
    srunner_add_suite(runner, engine_memory_suite());
    srunner_add_suite(runner, engine_values_suite());
    srunner_add_suite(runner, engine_guests_suite());
    srunner_add_suite(runner, engine_allocators_suite());
    srunner_add_suite(runner, engine_trace_suite());
    srunner_add_suite(runner, engine_scale_suite());
    srunner_add_suite(runner, engine_tiles_suite());
    srunner_add_suite(runner, engine_pipe_suite());
    srunner_add_suite(runner, pipe_misuse_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
