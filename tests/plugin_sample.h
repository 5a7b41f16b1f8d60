/* SPDX-License-Identifier: Apache-2.0 */
/* plugin_sample.h - see plugin_sample.c. */
#ifndef ZERO_TESTS_PLUGIN_SAMPLE_H
#define ZERO_TESTS_PLUGIN_SAMPLE_H

#include "zero/base/plugin.h"

#define PLUGIN_SAMPLE_VERSION ZERO_PLUGIN_VERSION(7)

typedef struct plugin_sample {
    uint32_t version;
    int value;
} plugin_sample_t;

#endif
