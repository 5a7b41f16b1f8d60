/* SPDX-License-Identifier: Apache-2.0 */
/* golden.h - texts that tests compare with golden files, byte for byte. With ZERO_GOLDEN_WRITE=1 the tests write the
 * files instead: check the difference before you commit it. */
#ifndef ZERO_TESTS_GOLDEN_H
#define ZERO_TESTS_GOLDEN_H

#include <stddef.h>

typedef struct golden_text {
    char *bytes;
    size_t size;
} golden_text_t;

/* Appends to a golden_text_t: a zero_write_fn. The caller frees the text's bytes. */
void golden_append(void *text, const char *piece, size_t bytes);
/* path: below $srcdir. */
void golden_compare(const golden_text_t *have, const char *path);

#endif
