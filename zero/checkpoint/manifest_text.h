/* SPDX-License-Identifier: Apache-2.0 */
/* manifest_text.h - what the writer and the parser of manifests share. */
#ifndef ZERO_CHECKPOINT_MANIFEST_TEXT_H
#define ZERO_CHECKPOINT_MANIFEST_TEXT_H

#define ZERO_MANIFEST_FORMAT "libzero checkpoint"

/* The last member: these characters, 16 hexadecimal digits of XXH3 of all text before them, and the end. */
#define ZERO_MANIFEST_CHECK ",\n\"check\":\""
#define ZERO_MANIFEST_END "\"}\n"

#endif
