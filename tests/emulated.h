/* SPDX-License-Identifier: Apache-2.0 */
/* emulated.h - lets tests run CUDA code without a GPU. */
#ifndef ZERO_TESTS_EMULATED_H
#define ZERO_TESTS_EMULATED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Makes the library load the plugins of tests/emulator/, unless ZERO_PLUGIN_PATH is set (for the real plugins: .libs).
 * Returns 0 if they were not built, because there is no C++ compiler: the test then exits with 77, a skip. */
static inline int emulated_plugins(void)
{
    const char *top = getenv("top_builddir");
    char path[4096], plugin[4200];
    snprintf(path, sizeof path, "%s/tests/emulator", top ? top : ".");
    setenv("ZERO_PLUGIN_PATH", path, 0);
    snprintf(plugin, sizeof plugin, "%s/zero_cuda.so", path);
    return strcmp(getenv("ZERO_PLUGIN_PATH"), path) != 0 || access(plugin, R_OK) == 0;
}

#endif
