/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.h - function tables from shared libraries that are opened on first use, because they link CUDA. */
#ifndef ZERO_BASE_PLUGIN_H
#define ZERO_BASE_PLUGIN_H

#include "zero/base/base.h"

/* The first word of a plugin's table: the version of libzero that the plugin was compiled from, and a revision of the
 * table. */
#define ZERO_PLUGIN_VERSION(revision)                                                                              \
    ((uint32_t)ZERO_VERSION_MAJOR << 24 | (uint32_t)ZERO_VERSION_MINOR << 16 | (uint32_t)ZERO_VERSION_PATCH << 8 | \
     (uint32_t)(revision))

/* Opens plugin ("zero_cuda") and returns the address of its constant table `symbol`, whose first member is a uint32_t
 * that must equal version. If $ZERO_PLUGIN_PATH is set, searches only its folders (separated by colons) for PLUGIN.so.
 * Otherwise searches the folder of the library or program that holds this function, .libs/ and zero/ below it,
 * ../lib/zero, and the folder of `make install`. A plugin stays open, so *table is valid until the process ends.
 * Opening it again costs a look-up. ZERO_ERR_UNSUPPORTED: it is missing, cannot be loaded (with the loader's message),
 * or has another version. */
zero_status_t zero_plugin_table(const char *plugin, const char *symbol, uint32_t version, const void **table,
                                zero_error_t *error);

#endif
