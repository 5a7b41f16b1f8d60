/* SPDX-License-Identifier: Apache-2.0 */
#include "train/corpus.h"
#include "train/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const small[20] = {"zero",     "one",     "two",     "three",     "four",     "five",    "six",
                                      "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
                                      "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
static const char *const tens[10] = {"",      "",      "twenty",  "thirty", "forty",
                                     "fifty", "sixty", "seventy", "eighty", "ninety"};

size_t corpus_line(char line[64], int number)
{
    int thousands = number / 1000, hundreds = number / 100 % 10, rest = number % 100;
    int n = snprintf(line, 64, "%d:", number);
    if (thousands > 0)
        n += snprintf(line + n, 64 - (size_t)n, " %s thousand", small[thousands]);
    if (hundreds > 0)
        n += snprintf(line + n, 64 - (size_t)n, " %s hundred", small[hundreds]);
    if (rest > 0 && number > 99)
        n += snprintf(line + n, 64 - (size_t)n, " and");
    if ((rest > 0 && rest < 20) || number == 0)
        n += snprintf(line + n, 64 - (size_t)n, " %s", small[rest]);
    if (rest >= 20)
        n += snprintf(line + n, 64 - (size_t)n, " %s%s%s", tens[rest / 10], rest % 10 > 0 ? "-" : "",
                      rest % 10 > 0 ? small[rest % 10] : "");
    n += snprintf(line + n, 64 - (size_t)n, "\n");
    return (size_t)n;
}

bool corpus_held_out(int number)
{
    return zero_splitmix64((uint64_t)number ^ 0xc0ffee) % 16 == 0;
}

char *corpus_make(bool held_out, int64_t *bytes)
{
    char *text = malloc((size_t)CORPUS_PASSES * CORPUS_NUMBERS * 64);
    int64_t n = 0;
    if (text == NULL)
        return NULL;
    for (int pass = 0; pass < CORPUS_PASSES; pass++)
        for (int i = 0; i < CORPUS_NUMBERS; i++) {
            int number = (int)data_permute(zero_splitmix64((uint64_t)pass), CORPUS_NUMBERS, i);
            char line[64];
            if (corpus_held_out(number) != held_out)
                continue;
            size_t length = corpus_line(line, number);
            memcpy(text + n, line, length);
            n += (int64_t)length;
        }
    *bytes = n;
    return text;
}
