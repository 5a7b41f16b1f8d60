/* SPDX-License-Identifier: Apache-2.0 */
#include "train/lines.h"

#include <stdio.h>
#include <string.h>

zero_status_t lines_wrong(lines_t *lines, const char *option, const char *path, int64_t line, const char *reason,
                          zero_error_t *error)
{
    if (!lines->skip)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s '%s', line %lld %s: correct it, or leave out such lines with --skip-bad-lines", option,
                         path, (long long)line, reason);
    if (lines->skipped++ == 0)
        snprintf(lines->first, sizeof lines->first, "'%.100s', line %lld %s", path, (long long)line, reason);
    return ZERO_OK;
}

bool lines_blank(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] == '\0' || strchr(" \t\r\n", text[i]) == NULL)
            return false;
    return true;
}
