/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_sample.c - a plugin of one table, for test_plugin. */
#include "tests/plugin_sample.h"

extern ZERO_API const plugin_sample_t zero_cuda_sample;
const plugin_sample_t zero_cuda_sample = {.version = PLUGIN_SAMPLE_VERSION, .value = 42};
