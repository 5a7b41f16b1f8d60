/* SPDX-License-Identifier: Apache-2.0 */
/* expect.h - checks of a failure: its status, rank and reason, and names in its sentence (options, units, parameters,
 * files, numbers), but not its wording. */
#ifndef ZERO_TESTS_EXPECT_H
#define ZERO_TESTS_EXPECT_H

#include "zero/zero.h"

#include <check.h>
#include <ctype.h>
#include <string.h>

/* Whether text contains the n bytes at word, with no letter, digit or underscore directly before or after them. */
static inline bool has_name(const char *text, const char *word, size_t n)
{
    for (const char *at = text; *at != '\0'; at++) {
        bool begins =
            at == text || !(isalnum((unsigned char)at[-1]) || at[-1] == '_') || !isalnum((unsigned char)*word);
        if (begins && strncmp(at, word, n) == 0 &&
            (!(isalnum((unsigned char)at[n]) || at[n] == '_') || !isalnum((unsigned char)word[n - 1])))
            return true;
    }
    return false;
}

/* Whether text contains each name in wanted. Names are separated by spaces. A name in single quotes may contain spaces,
 * and has its quotes in the text, too. A name in backquotes may contain spaces, and has no quotes in the text: "`rank
 * 1`". */
static inline bool has_names(const char *text, const char *wanted)
{
    for (const char *end, *at = wanted; *(at += strspn(at, " ")) != '\0'; at = end) {
        bool bare = *at == '`';
        end = *at == '\'' || bare ? strchr(at + 1, *at) : NULL;
        end = end ? end + 1 : at + strcspn(at, " ");
        if (!has_name(text, at + bare, (size_t)(end - at) - 2 * bare))
            return false;
    }
    return true;
}

#define EXPECT_NAMES(text, wanted) \
    ck_assert_msg(has_names((text), (wanted)), "'%s' does not name all of '%s'", (text), (wanted))

/* rank -1: not checked. */
#define EXPECT_ERROR(error, wanted_status, wanted_reason, wanted_rank, wanted)                                    \
    do {                                                                                                          \
        const zero_error_t *e_ = (error);                                                                         \
        ck_assert_msg(                                                                                            \
            e_->status == (wanted_status) && e_->reason == (int32_t)(wanted_reason) && e_->rank == (wanted_rank), \
            "status %d, reason %d, rank %d: '%s'", (int)e_->status, (int)e_->reason, (int)e_->rank, e_->text);    \
        EXPECT_NAMES(e_->text, wanted);                                                                           \
    } while (0)

#endif
