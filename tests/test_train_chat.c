/* SPDX-License-Identifier: Apache-2.0 */
/* test_train_chat.c - conversations: the same tokens, and the same answers, as transformers has with the templates of
 * tests/golden/chat.py; lines that are wrong. */
#include "tests/expect.h"
#include "train/chat.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CASES = 12, LONGEST = 512 };

static const char *golden(const char *name, const char *ending)
{
    static char path[2][4096];
    static int turn;
    const char *srcdir = getenv("srcdir");
    turn = !turn;
    snprintf(path[turn], sizeof *path, "%s/tests/golden/chat/%s%s", srcdir != NULL ? srcdir : ".", name, ending);
    return path[turn];
}

static zero_tokenizer_t *open_kind(const char *kind)
{
    zero_tokenizer_t *t;
    zero_error_t error = {0};
    ck_assert_msg(zero_tokenizer_open(&t, golden(kind, ".json"), &error) == ZERO_OK, "%s", error.text);
    return t;
}

/* A line of numbers. */
static int numbers(FILE *f, int32_t out[LONGEST])
{
    char *line = NULL, *at, *end;
    size_t room = 0;
    int n = 0;
    ck_assert(getline(&line, &room, f) > 0);
    for (at = line; *at != '\n'; at = end, n++) {
        ck_assert_int_lt(n, LONGEST);
        out[n] = (int32_t)strtol(at, &end, 10);
        ck_assert_ptr_ne(at, end);
    }
    free(line);
    return n;
}

static const char *const kinds[CHAT_TEMPLATES] = {"llama3", "chatml"};

START_TEST(tokens_and_answers_as_in_transformers)
{
    for (int k = 0; k < CHAT_TEMPLATES; k++)
        for (int named = 0; named < 2; named++) {
            zero_tokenizer_t *t = open_kind(kinds[k]);
            static int32_t x[LONGEST], y[LONGEST], starts[LONGEST], ids[LONGEST], mask[LONGEST];
            data_row_t row = {x, y, starts, 0, 0};
            const chat_options_t options = {
                .tokenizer = t, .template = named ? k : -1, .threads = 2, .seq_len = LONGEST};
            lines_t result = {0};
            int64_t conversations;
            data_t *d;
            bool chat;
            zero_error_t e = {0};
            FILE *f = fopen(golden(kinds[k], ".txt"), "r");
            ck_assert_ptr_nonnull(f);
            ck_assert_msg(data_open(&d, "--data", golden("cases", ".jsonl"), &e) == ZERO_OK, "%s", e.text);
            ck_assert_int_eq(chat_detect(d, &chat, &e), ZERO_OK);
            ck_assert(chat);
            ck_assert_msg(chat_read(d, &options, &result, &conversations, &e) == ZERO_OK, "%s", e.text);
            ck_assert_int_eq(conversations, CASES);
            ck_assert_int_eq(result.skipped, 0);
            ck_assert_msg(data_arrange(d, DATA_ONE_EACH, LONGEST, &e) == ZERO_OK, "%s", e.text);
            ck_assert_int_eq(data_rows(d), CASES);
            for (int c = 0; c < CASES; c++) {
                int n = numbers(f, ids), counted = 0;
                ck_assert_int_eq(numbers(f, mask), n);
                ck_assert_msg(data_read_row(d, c, 100000, &row, &e) == ZERO_OK, "%s", e.text);
                ck_assert_int_eq(row.used, n - 1);
                for (int i = 0; i + 1 < n; i++) {
                    ck_assert_msg(x[i] == ids[i], "%s, case %d: token %d is %d, wanted %d", kinds[k], c, i, x[i],
                                  ids[i]);
                    const int32_t wanted = mask[i + 1] ? ids[i + 1] : DATA_IGNORED;
                    ck_assert_msg(y[i] == wanted, "%s, case %d: target %d is %d, wanted %d", kinds[k], c, i, y[i],
                                  wanted);
                    counted += mask[i + 1];
                }
                ck_assert_int_eq(row.counted, counted);
            }
            fclose(f);
            data_close(d);
            zero_tokenizer_close(t);
        }
}
END_TEST

static zero_status_t read_text(const char *text, size_t bytes, const chat_options_t *o, lines_t *result, int64_t *rows,
                               zero_error_t *e)
{
    const char *path = "test_train_chat.jsonl";
    FILE *f = fopen(path, "wb");
    data_t *d;
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
    ck_assert_msg(data_open(&d, "--data", path, e) == ZERO_OK, "%s", e->text);
    int64_t conversations;
    *result = (lines_t){.skip = result->skip};
    zero_status_t status = chat_read(d, o, result, &conversations, e);
    if (status == ZERO_OK)
        status = data_arrange(d, o->seq_len > 0 ? DATA_ONE_EACH : DATA_PACKED, o->seq_len > 0 ? o->seq_len : 64, e);
    if (status == ZERO_OK)
        status = data_check_rows(d, 100000, -1, 1000, e);
    *rows = status == ZERO_OK ? data_rows(d) : 0;
    data_close(d);
    unlink(path);
    return status;
}

#define GOOD "{\"prompt\": \"one\", \"completion\": \"two\"}\n"
#define USER "{\"role\": \"user\", \"content\": \"one\"}"
#define ASSISTANT(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"
#define SAYS(...) "{\"messages\": [" __VA_ARGS__ "]}\n"

START_TEST(lines_that_are_wrong)
{
    static const struct {
        const char *line, *wanted;
    } cases[] = {
        {GOOD, NULL},
        {"\n", NULL},
        {" \t\r\n", NULL},
        {SAYS(USER "," ASSISTANT("two")), NULL},
        {"{\"prompt\": \"one\", \"completion\": \"two\"}", NULL}, /* without a newline at the end */
        {"{\"prompt\": \"one\"\n", "JSON"},
        {"[1, 2]\n", "JSON object"},
        {"{\"prompt\": \"one\xff\", \"completion\": \"two\"}\n", "JSON 0xff"},
        {"{\"text\": \"one\"}\n", "\"messages\" \"completion\""},
        {"{\"prompt\": \"one\", \"completion\": 2}\n", "\"completion\""},
        {"{\"prompt\": \"one\", \"completion\": \"\"}\n", "empty answer 2"},
        {"{\"messages\": 7}\n", "\"messages\" array"},
        {SAYS(""), "no answer"},
        {SAYS(USER), "no answer"},
        {SAYS(USER ", 7"), "2 role"},
        {SAYS(USER ",{\"role\": \"tool\", \"content\": \"x\"}"), "'tool' 2 assistant"},
        {SAYS("{\"role\": \"user\"}," ASSISTANT("two")), "\"content\" 1"},
        {SAYS(USER ",{\"role\": \"assistant\", \"content\": null}"), "\"content\" 2"},
        {SAYS(USER "," ASSISTANT(" \\n")), "empty answer"},
        {SAYS(USER "," ASSISTANT("yes") "," USER "," ASSISTANT("no") "," USER "," ASSISTANT(
             "no") "," USER "," ASSISTANT("no") "," USER "," ASSISTANT("no")),
         "answer --seq-len 40"},
    };
    zero_tokenizer_t *t = open_kind("llama3");
    chat_options_t o = {.tokenizer = t, .template = -1, .threads = 1, .seq_len = 40};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char text[1024];
        lines_t result = {0};
        int64_t rows;
        zero_error_t e = {0};
        snprintf(text, sizeof text, GOOD "\n" GOOD "%s", cases[k].line);
        result.skip = false;
        zero_status_t status = read_text(text, strlen(text), &o, &result, &rows, &e);
        ck_assert_msg(status == (cases[k].wanted != NULL ? ZERO_ERR_FORMAT : ZERO_OK), "case %zu: %s", k, e.text);
        ck_assert_msg(status == ZERO_OK ||
                          (has_names(e.text, cases[k].wanted) &&
                           has_names(e.text, "--data 'test_train_chat.jsonl' line 4 --skip-bad-lines")),
                      "'%s' lacks '%s'", e.text, cases[k].wanted);
        result.skip = true;
        ck_assert_msg(read_text(text, strlen(text), &o, &result, &rows, &e) == ZERO_OK, "case %zu: %s", k, e.text);
        ck_assert_int_eq(result.skipped, cases[k].wanted != NULL);
        ck_assert_int_eq(rows, cases[k].wanted != NULL || strchr(cases[k].line, '{') == NULL ? 2 : 3);
        ck_assert(cases[k].wanted == NULL || has_names(result.first, "'test_train_chat.jsonl' 4"));
    }
    /* nothing is left */
    lines_t result = {0};
    int64_t rows;
    zero_error_t e = {0};
    result.skip = true;
    ck_assert_int_eq(read_text("{}\n", 3, &o, &result, &rows, &e), ZERO_ERR_FORMAT);
    ck_assert_msg(has_names(e.text, "--data 'test_train_chat.jsonl' 1"), "%s", e.text);
    ck_assert_int_eq(read_text("\n\n", 2, &o, &result, &rows, &e), ZERO_ERR_FORMAT);
    /* packed conversations are cut into pieces, and those without an answer are left out */
    o.seq_len = 0;
    result.skip = false;
    const char *text = cases[sizeof cases / sizeof *cases - 1].line;
    ck_assert_msg(read_text(text, strlen(text), &o, &result, &rows, &e) == ZERO_OK, "%s", e.text);
    ck_assert_int_ge(rows, 1);
    zero_tokenizer_close(t);
}
END_TEST

START_TEST(tokenizers_without_the_special_tokens)
{
    zero_tokenizer_t *t = open_kind("chatml");
    chat_options_t o = {.tokenizer = t, .template = CHAT_LLAMA3, .threads = 1, .seq_len = 64};
    lines_t result = {0};
    int64_t rows;
    zero_error_t e = {0};
    ck_assert_int_eq(read_text(GOOD, strlen(GOOD), &o, &result, &rows, &e), ZERO_ERR_ARG);
    ck_assert_msg(has_names(e.text, "--chat llama3 <|start_header_id|>"), "%s", e.text);
    zero_tokenizer_close(t);
    static const char plain[] =
        "{\"added_tokens\": [], \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}";
    ck_assert_msg(zero_tokenizer_parse(&t, "plain", plain, sizeof plain - 1, &e) == ZERO_OK, "%s", e.text);
    o.tokenizer = t;
    o.template = -1;
    ck_assert_int_eq(read_text(GOOD, strlen(GOOD), &o, &result, &rows, &e), ZERO_ERR_ARG);
    ck_assert_msg(has_names(e.text, "--data <|start_header_id|> <|im_start|>"), "%s", e.text);
    zero_tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("zero_train chat");
    TCase *c = tcase_create("chat");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, tokens_and_answers_as_in_transformers);
    tcase_add_test(c, lines_that_are_wrong);
    tcase_add_test(c, tokenizers_without_the_special_tokens);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
