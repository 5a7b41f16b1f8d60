/* SPDX-License-Identifier: Apache-2.0 */
/* test_train_numbers.c - numbers and their words, of any length; which numbers training sees; rows of a batch. */
#include "train/numbers.h"
#include "models/model.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 200 };

static int64_t read_digits(const char *text, int32_t *digits)
{
    int64_t count = 0;
    for (; text[count] != '\0'; count++)
        digits[count] = text[count] - '0';
    return count;
}

/* The words of a number, as text; the caller frees it. */
static char *spell(const char *number)
{
    int32_t digits[LONGEST], words[2 * LONGEST];
    const int64_t count = read_digits(number, digits), n = numbers_words(digits, count, words);
    char *text;
    size_t bytes;
    FILE *file = open_memstream(&text, &bytes);
    ck_assert_int_le(n, numbers_seq_len(count) - 1);
    for (int64_t i = 0; i < n; i++)
        ck_assert(words[i] > NUMBERS_END && words[i] < NUMBERS_WORDS);
    numbers_print(file, words, n);
    fclose(file);
    return text;
}

static const char *const spelled[][2] = {
    {"0", "zero"},
    {"7", "seven"},
    {"10", "ten"},
    {"12", "twelve"},
    {"19", "nineteen"},
    {"20", "twenty"},
    {"21", "twenty-one"},
    {"99", "ninety-nine"},
    {"100", "one hundred"},
    {"101", "one hundred one"},
    {"407", "four hundred seven"},
    {"842", "eight hundred forty-two"},
    {"1000", "one thousand"},
    {"1207", "one thousand two hundred seven"},
    {"20013", "twenty thousand thirteen"},
    {"300000", "three hundred thousand"},
    {"1000000", "one million"},
    {"1000001", "one million one"},
    {"17000050", "seventeen million fifty"},
    {"5000600070", "five billion six hundred thousand seventy"},
    {"100000000000", "one hundred billion"},
    {"1000000000000", "one trillion"},
    {"999000000000001", "nine hundred ninety-nine trillion one"},
    {"1000000000000000", "one thousand trillion"},
    {"1000000000000000000000000", "one trillion trillion"},
    {"2000003000000000004000000000005", "two million three trillion four trillion five"},
    {"1000000000000000000000000000000000000000000000000", "one trillion trillion trillion trillion"},
};
enum { SPELLED = sizeof spelled / sizeof *spelled };

START_TEST(test_words)
{
    char *text = spell(spelled[_i][0]);
    ck_assert_str_eq(text, spelled[_i][1]);
    free(text);
}
END_TEST

/* Numbers with as many words as their length allows; the rooms of targets follow from them. */
START_TEST(test_lengths)
{
    int32_t digits[LONGEST], words[2 * LONGEST];
    for (int i = 0; i < LONGEST; i++)
        digits[i] = 7;
    for (int64_t count = 1; count <= LONGEST; count++) {
        const int64_t room = numbers_words(digits, count, words) + 1;
        ck_assert_int_eq(numbers_seq_len(count), room);
        ck_assert_int_eq(numbers_most_digits(room), count);
        ck_assert_int_eq(numbers_most_digits(room - 1), count - 1);
    }
    ck_assert_int_eq(numbers_most_digits(NUMBERS_LEAST), 3);
    ck_assert_int_eq(numbers_most_digits(16), 9);
}
END_TEST

/* Different numbers have different words: each is read back. */
START_TEST(test_unique)
{
    static char texts[10000][80];
    char number[8];
    for (int i = 0; i < 10000; i++) {
        snprintf(number, sizeof number, "%d", i);
        char *text = spell(number);
        ck_assert_uint_lt(strlen(text), sizeof texts[0]);
        strcpy(texts[i], text);
        free(text);
    }
    qsort(texts, 10000, sizeof texts[0], (int (*)(const void *, const void *))strcmp);
    for (int i = 1; i < 10000; i++)
        ck_assert_str_ne(texts[i - 1], texts[i]);
}
END_TEST

/* Numbers have up to the most digits, and never one of the other kind; every digit begins and ends some. */
START_TEST(test_draw)
{
    int32_t digits[LONGEST], again[LONGEST];
    for (int held_out = 0; held_out < 2; held_out++) {
        int lengths[10] = {0}, first[10] = {0}, last[10] = {0}, zeros = 0;
        for (int64_t q = 0; q < 9000; q++) {
            const int64_t count = numbers_draw(5, q, held_out, 9, digits);
            ck_assert(count >= 1 && count <= 9);
            ck_assert(count == 1 || digits[0] > 0);
            ck_assert_int_eq(numbers_held_out(digits, count), held_out);
            ck_assert_int_eq(numbers_draw(5, q, held_out, 9, again), count);
            ck_assert_mem_eq(digits, again, (size_t)count * sizeof *digits);
            lengths[count]++;
            first[digits[0]]++;
            last[digits[count - 1]]++;
            zeros += count == 1 && digits[0] == 0;
        }
        for (int n = held_out ? 3 : 1; n <= 9; n++)
            ck_assert_msg(lengths[n] > 800 && lengths[n] < 1500, "%d numbers of %d digits", lengths[n], n);
        for (int d = 0; d < 10; d++)
            ck_assert(last[d] > 500 && (d == 0 || first[d] > 800));
        ck_assert(held_out || zeros > 50);
        ck_assert(!held_out || lengths[1] + lengths[2] == 0);
        ck_assert(numbers_draw(6, 0, held_out, 9, again) != numbers_draw(5, 0, held_out, 9, digits) ||
                  memcmp(digits, again, 9 * sizeof *digits) != 0);
    }
}
END_TEST

/* The rule, as another program computes it: how many of "100" to "999" have an XXH64 that is a multiple of 16. */
START_TEST(test_rule)
{
    int32_t digits[3];
    int count = 0;
    for (int i = 100; i < 1000; i++) {
        for (int k = 0, n = i; k < 3; k++, n /= 10)
            digits[2 - k] = n % 10;
        count += numbers_held_out(digits, 3);
    }
    ck_assert_int_eq(count, 50);
    ck_assert(numbers_held_out((int32_t[]){1, 2, 5}, 3) && !numbers_held_out((int32_t[]){1, 2, 6}, 3));
}
END_TEST

START_TEST(test_row)
{
    enum { DIGITS = 9, T = 16 };
    int32_t source[DIGITS], tokens[T], targets[T], digits[DIGITS], words[T];
    numbers_row_t row = {.source = source, .tokens = tokens, .targets = targets};
    for (int64_t q = 0; q < 100; q++) {
        const int64_t count = numbers_draw(3, q, false, DIGITS, digits), n = numbers_words(digits, count, words);
        numbers_fill(&row, 3, q, false, DIGITS, T);
        ck_assert_int_eq(row.length, count);
        ck_assert_int_eq(row.counted, n + 1);
        ck_assert_int_eq(tokens[0], NUMBERS_END);
        for (int s = 0; s < DIGITS; s++)
            ck_assert_int_eq(source[s], s < count ? digits[s] : 0);
        for (int t = 0; t < T; t++) {
            ck_assert_int_eq(targets[t], t < n ? words[t] : t == n ? NUMBERS_END : ZERO_NN_IGNORE);
            ck_assert(t == 0 || tokens[t] == (t <= n ? words[t - 1] : NUMBERS_END));
        }
    }
}
END_TEST

/* The preset has the tokens of numbers. */
START_TEST(test_preset)
{
    zero_model_config_t c;
    zero_error_t error;
    ck_assert_int_eq(zero_model_preset(&c, "numbers-seq2seq", &error), ZERO_OK);
    ck_assert_int_eq(c.source_vocab, NUMBERS_DIGITS);
    ck_assert_int_eq(c.vocab, NUMBERS_WORDS);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("numbers");
    TCase *tc = tcase_create("numbers");
    SRunner *runner;
    int failed;
    tcase_add_loop_test(tc, test_words, 0, SPELLED);
    tcase_add_test(tc, test_lengths);
    tcase_add_test(tc, test_unique);
    tcase_add_test(tc, test_draw);
    tcase_add_test(tc, test_rule);
    tcase_add_test(tc, test_row);
    tcase_add_test(tc, test_preset);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
