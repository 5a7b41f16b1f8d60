/* SPDX-License-Identifier: Apache-2.0 */
/* numbers.h - the data of models with an encoder: numbers as digits and as English words. The encoder reads the digits,
 * from the first on; a token is a digit's value. The decoder writes words: "four hundred seven", "twenty-one thousand",
 * without "and". Scales are thousand to trillion. Beyond them English repeats trillion, and so does this: of a number
 * with more than 12 digits, the digits before the last 12 are said as a number of their own, then "trillion", then the
 * last 12. So 10^15 is "one thousand trillion", 10^24 "one trillion trillion", and numbers have any length. */
#ifndef TRAIN_NUMBERS_H
#define TRAIN_NUMBERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    NUMBERS_DIGITS = 10, /* tokens of the source */
    NUMBERS_WORDS = 34,  /* tokens of the target: the end, zero to nineteen, twenty to ninety, hundred, scales */
    NUMBERS_END = 0,     /* begins and ends a target */
    NUMBERS_LEAST = 5    /* the shortest target that holds any number of three digits */
};

/* The most digits of numbers of which each has at most seq_len - 1 words, so that a target of seq_len holds it. */
int64_t numbers_most_digits(int64_t seq_len);
/* The shortest target that holds every number of this many digits. */
int64_t numbers_seq_len(int64_t digits);
/* The words of a number: tokens. digits has count of them, and no zero before others. Returns how many words there are,
 * at most numbers_seq_len(count) - 1. */
int64_t numbers_words(const int32_t *digits, int64_t count, int32_t *words);
/* Prints words as text. */
void numbers_print(FILE *file, const int32_t *words, int64_t count);
/* Whether training never sees the number: numbers of three digits or more whose XXH64 (seed 0) of their decimal text is
 * a multiple of 16. */
bool numbers_held_out(const int32_t *digits, int64_t count);
/* Number q of an endless sequence that depends on seed and most alone, of those that are held out or of the others. It
 * has 1 to most digits, all lengths equally likely but for what is held out. In a quarter of the numbers half of the
 * digits behind the first are 0, because round numbers would be rare otherwise. most is at least 3. Returns how many
 * digits it has. */
int64_t numbers_draw(uint64_t seed, int64_t q, bool held_out, int64_t most, int32_t *digits);

/* A row of a batch: a number and its words. */
typedef struct numbers_row {
    int32_t *source;  /* (digits); padding is 0 */
    int32_t length;   /* of the source */
    int32_t *tokens;  /* (seq_len): NUMBERS_END, the words; padding is NUMBERS_END */
    int32_t *targets; /* (seq_len): the words, NUMBERS_END; padding does not count */
    int64_t counted;  /* targets that count; as many tokens are no padding */
} numbers_row_t;
/* Number q as numbers_draw chooses it, of at most digits digits. seq_len is at least numbers_seq_len(digits). */
void numbers_fill(numbers_row_t *row, uint64_t seed, int64_t q, bool held_out, int64_t digits, int64_t seq_len);

#endif
