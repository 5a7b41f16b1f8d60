/* SPDX-License-Identifier: Apache-2.0 */
/* golden.c - see golden.h. */
#include "tests/golden.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void golden_append(void *text, const char *piece, size_t bytes)
{
    golden_text_t *t = text;
    t->bytes = realloc(t->bytes, t->size + bytes + 1);
    ck_assert_ptr_nonnull(t->bytes);
    memcpy(t->bytes + t->size, piece, bytes);
    t->size += bytes;
    t->bytes[t->size] = '\0';
}

void golden_compare(const golden_text_t *have, const char *path)
{
    const char *srcdir = getenv("srcdir"), *rewrite = getenv("ZERO_GOLDEN_WRITE");
    char file[1000], piece[4096];
    golden_text_t want = {0};
    snprintf(file, sizeof file, "%s/%s", srcdir != NULL ? srcdir : ".", path);
    if (rewrite != NULL && strcmp(rewrite, "1") == 0) {
        FILE *f = fopen(file, "w");
        ck_assert_msg(f != NULL && fwrite(have->bytes, 1, have->size, f) == have->size && fclose(f) == 0,
                      "cannot write %s", file);
    }
    FILE *f = fopen(file, "r");
    ck_assert_msg(f != NULL, "cannot open %s", file);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;)
        golden_append(&want, piece, n);
    fclose(f);
    size_t same = 0;
    int line = 1;
    while (same < have->size && same < want.size && have->bytes[same] == want.bytes[same])
        line += have->bytes[same++] == '\n';
    ck_assert_msg(have->size == want.size && same == have->size,
                  "the text differs from %s in line %d: '%.60s' instead of '%.60s'", file, line, have->bytes + same,
                  want.bytes + (same < want.size ? same : want.size));
    free(want.bytes);
}
