/* SPDX-License-Identifier: Apache-2.0 */
/* manifest_text.h - what the writer and the parser of manifests share. */
#ifndef ZERO_CHECKPOINT_MANIFEST_TEXT_H
#define ZERO_CHECKPOINT_MANIFEST_TEXT_H

#include "zero/base/base.h"

#define ZERO_MANIFEST_FORMAT "libzero checkpoint"

/* The last member: these characters, 16 hexadecimal digits of XXH3 of all text before them, and the end. */
#define ZERO_MANIFEST_CHECK ",\n\"check\":\""
#define ZERO_MANIFEST_END "\"}\n"

/* Whether a text ends with the hash of what is before it. */
zero_status_t zero_manifest_check_text(const char *text, size_t length, const char *path, zero_error_t *error);

#endif
