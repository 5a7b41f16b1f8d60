/* SPDX-License-Identifier: Apache-2.0 */
#include "train/numbers.h"
#include "models/model.h"

/* The state of a hash is on the stack. */
#define XXH_INLINE_ALL
#include <xxhash.h>

/* Tokens. */
enum { END = NUMBERS_END, ZERO = 1, TWENTY = 21, HUNDRED = 29, THOUSAND, MILLION, BILLION, TRILLION };
enum { CHUNK = 12 }; /* digits that one trillion sets apart */

static const char *const names[NUMBERS_WORDS] = {
    "",          "zero",     "one",      "two",      "three",   "four",     "five",     "six",     "seven",
    "eight",     "nine",     "ten",      "eleven",   "twelve",  "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen", "twenty",   "thirty",  "forty",    "fifty",    "sixty",   "seventy",
    "eighty",    "ninety",   "hundred",  "thousand", "million", "billion",  "trillion"};
_Static_assert(TRILLION + 1 == NUMBERS_WORDS, "every token has a name");

/* ---- words ------------------------------------------------------------------------------------------------------ */

/* The words of a number with digits 7, which has the most of all numbers of this length. */
static int64_t most_words(int64_t digits)
{
    const int64_t chunks = digits > 0 ? (digits - 1) / CHUNK : 0; /* behind a trillion */
    int64_t words = chunks * (4 * 4 + 3 + 1);                     /* four times hundreds, three scales, trillion */
    digits -= chunks * CHUNK;
    for (; digits > 3; digits -= 3)
        words += 4 + 1;
    return words + (digits == 3 ? 4 : digits);
}

int64_t numbers_seq_len(int64_t digits)
{
    return most_words(digits) + 1;
}

int64_t numbers_most_digits(int64_t seq_len)
{
    int64_t digits = 0;
    while (numbers_seq_len(digits + 1) <= seq_len)
        digits++;
    return digits;
}

/* Up to three digits, unless they are 0. */
static int64_t group_words(const int32_t *digits, int64_t count, int32_t *words)
{
    int64_t n = 0;
    int value = 0;
    for (int64_t i = 0; i < count; i++)
        value = 10 * value + digits[i];
    if (value >= 100) {
        words[n++] = ZERO + value / 100;
        words[n++] = HUNDRED;
        value %= 100;
    }
    if (value >= 20) {
        words[n++] = TWENTY + value / 10 - 2;
        value %= 10;
    }
    if (value > 0)
        words[n++] = ZERO + value;
    return n;
}

/* Up to CHUNK digits, unless they are 0. */
static int64_t chunk_words(const int32_t *digits, int64_t count, int32_t *words)
{
    int64_t n = 0;
    for (int64_t at = 0, size; at < count; at += size) {
        const int64_t scale = (count - at - 1) / 3; /* 1: thousand */
        size = count - at - 3 * scale;
        const int64_t more = group_words(digits + at, size, words + n);
        n += more;
        if (more > 0 && scale > 0)
            words[n++] = THOUSAND + (int32_t)scale - 1;
    }
    return n;
}

int64_t numbers_words(const int32_t *digits, int64_t count, int32_t *words)
{
    int64_t n = 0;
    for (int64_t at = 0, size; at < count; at += size) {
        size = (count - at - 1) % CHUNK + 1;
        if (at > 0)
            words[n++] = TRILLION;
        n += chunk_words(digits + at, size, words + n);
    }
    if (n == 0)
        words[n++] = ZERO;
    return n;
}

void numbers_print(FILE *file, const int32_t *words, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const bool joined =
            i > 0 && words[i - 1] >= TWENTY && words[i - 1] < HUNDRED && words[i] > ZERO && words[i] < ZERO + 10;
        fprintf(file, "%s%s", i == 0 ? "" : joined ? "-" : " ", names[words[i]]);
    }
}

/* ---- the sequence ----------------------------------------------------------------------------------------------- */

bool numbers_held_out(const int32_t *digits, int64_t count)
{
    enum { PIECE = 64 };
    XXH64_state_t state;
    char text[PIECE];
    if (count < 3)
        return false;
    XXH64_reset(&state, 0);
    for (int64_t at = 0; at < count; at += PIECE) {
        const int64_t n = count - at < PIECE ? count - at : PIECE;
        for (int64_t i = 0; i < n; i++)
            text[i] = (char)('0' + digits[at + i]);
        XXH64_update(&state, text, (size_t)n);
    }
    return XXH64_digest(&state) % 16 == 0;
}

/* The next of the random numbers of a key, below n. */
static int64_t next(uint64_t *key, int64_t n)
{
    return (int64_t)(zero_splitmix64((*key)++) % (uint64_t)n);
}

int64_t numbers_draw(uint64_t seed, int64_t q, bool held_out, int64_t most, int32_t *digits)
{
    uint64_t key = zero_splitmix64(zero_splitmix64(seed ^ 0x2b7e1516) + (uint64_t)q);
    int64_t count;
    do {
        count = 1 + next(&key, most);
        const bool round = next(&key, 4) == 0;
        digits[0] = (int32_t)(count == 1 ? next(&key, 10) : 1 + next(&key, 9));
        for (int64_t i = 1; i < count; i++) {
            digits[i] = (int32_t)next(&key, 10);
            if (round && next(&key, 2) == 0)
                digits[i] = 0;
        }
    } while (numbers_held_out(digits, count) != held_out);
    return count;
}

void numbers_fill(numbers_row_t *row, uint64_t seed, int64_t q, bool held_out, int64_t digits, int64_t seq_len)
{
    const int64_t count = numbers_draw(seed, q, held_out, digits, row->source);
    row->length = (int32_t)count;
    for (int64_t s = count; s < digits; s++)
        row->source[s] = 0;
    row->tokens[0] = END;
    const int64_t words = numbers_words(row->source, count, row->tokens + 1);
    for (int64_t t = words + 1; t < seq_len; t++)
        row->tokens[t] = END;
    for (int64_t t = 0; t < seq_len; t++)
        row->targets[t] = t < words ? row->tokens[t + 1] : t == words ? END : ZERO_NN_IGNORE;
    row->counted = words + 1;
}
