/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.h - tables of functions from shared libraries that are opened when they are first needed (what links CUDA). */
#ifndef ZERO_BASE_PLUGIN_H
#define ZERO_BASE_PLUGIN_H

#include "zero/base/base.h"

/* What a plugin's table begins with: the version of libzero that both sides were compiled from, and a revision of the
 * table's own. */
#define ZERO_PLUGIN_VERSION(revision)                                                                              \
    ((uint32_t)ZERO_VERSION_MAJOR << 24 | (uint32_t)ZERO_VERSION_MINOR << 16 | (uint32_t)ZERO_VERSION_PATCH << 8 | \
     (uint32_t)(revision))

/* Opens plugin ("zero_cuda") and gives the address of its constant table `symbol`, whose first member is a uint32_t
 * that must equal version. PLUGIN.so is looked for in the folders of $ZERO_PLUGIN_PATH (separated by colons) where that
 * is set, and nowhere else then; otherwise beside the library or program that holds this function: in its folder, in
 * .libs/ and zero/ below it, in ../lib/zero, and where `make install` puts it. A plugin stays open: *table is valid for
 * the process's life. Opening it again costs a look-up. ZERO_ERR_UNSUPPORTED: it is not there, cannot be loaded (with
 * the loader's words), or is of another version. */
zero_status_t zero_plugin_table(const char *plugin, const char *symbol, uint32_t version, const void **table,
                                zero_error_t *error);

#endif
