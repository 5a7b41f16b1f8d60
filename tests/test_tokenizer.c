/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokenizer.c - ids and texts equal those of the tokenizers package, for tokenizers of each kind in
 * tests/golden/tokenizer/ (tests/golden/tokenizer.py writes them). */
#include "tokenizer/parts.h"
#include "tests/expect.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const kinds[] = {"gpt2",   "llama3",  "qwen2",     "digits", "three",
                                    "llama2", "mistral", "metaspace", "unknown"};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- golden files ----------------------------------------------------------------------------------------------- */

static const char *golden(const char *kind, const char *ending)
{
    static char path[4096];
    const char *top = getenv("ZERO_GOLDEN_TOKENIZER"), *srcdir = getenv("srcdir");
    if (top != NULL)
        snprintf(path, sizeof path, "%s/%s%s", top, kind, ending);
    else
        snprintf(path, sizeof path, "%s/tests/golden/tokenizer/%s%s", srcdir != NULL ? srcdir : ".", kind, ending);
    return path;
}

static zero_tokenizer_t *open_kind(const char *kind)
{
    zero_tokenizer_t *t;
    zero_error_t error = {0};
    ck_assert_msg(zero_tokenizer_open(&t, golden(kind, ".json"), &error) == ZERO_OK, "%s", error.text);
    return t;
}

/* A line of JSON as text. The caller frees the object. */
static const char *json_line(FILE *f, json_t **json, size_t *bytes)
{
    char *line = NULL;
    size_t room = 0;
    json_error_t why;
    ssize_t n = getline(&line, &room, f);
    *json = n > 0 ? json_loadb(line, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why) : NULL;
    free(line);
    *bytes = json_string_length(*json);
    return json_string_value(*json);
}

/* A line of numbers, appended to ids. */
static void ids_line(FILE *f, zero_ids_t *ids)
{
    char *line = NULL, *at, *end;
    size_t room = 0;
    ck_assert(getline(&line, &room, f) > 0);
    for (at = line; *at != '\n'; at = end) {
        ids->at = realloc(ids->at, (size_t)(ids->count + 1) * sizeof *ids->at);
        ck_assert_ptr_nonnull(ids->at);
        ids->at[ids->count++] = (int32_t)strtol(at, &end, 10);
        ck_assert_ptr_ne(at, end);
    }
    free(line);
}

static void expect_ids(const zero_ids_t *found, const zero_ids_t *wanted, int64_t from, const char *kind,
                       const char *text)
{
    int64_t n = wanted->count - from;
    for (int64_t i = 0; i < n && i < found->count; i++)
        ck_assert_msg(found->at[i] == wanted->at[from + i], "%s: id %lld is %d, but must be %d, in '%s'", kind,
                      (long long)i, found->at[i], wanted->at[from + i], text);
    ck_assert_msg(found->count == n, "%s: %lld ids, but must be %lld, in '%s'", kind, (long long)found->count,
                  (long long)n, text);
}

static void expect_decoded(FILE *f, const zero_tokenizer_t *t, const zero_ids_t *ids, bool skip, const char *kind,
                           const char *text, size_t text_bytes)
{
    json_t *json = NULL;
    size_t wanted_bytes = text_bytes, bytes;
    char *found;
    const char *wanted = text;
    zero_error_t error = {0};
    int c = fgetc(f);
    if (c == '=')
        ck_assert_int_eq(fgetc(f), '\n');
    else {
        ungetc(c, f);
        wanted = json_line(f, &json, &wanted_bytes);
        ck_assert_ptr_nonnull(wanted);
    }
    ck_assert(zero_tokenizer_decode(t, ids->at, ids->count, skip, &found, &bytes, &error) == ZERO_OK);
    ck_assert_msg(bytes == wanted_bytes && memcmp(found, wanted, bytes) == 0, "%s: decoded '%s', but must be '%s'",
                  kind, found, wanted);
    free(found);
    json_decref(json);
}

static FILE *open_golden(const char *kind, const char *ending)
{
    FILE *f = fopen(golden(kind, ending), "r");
    ck_assert_msg(f != NULL, "cannot open %s", golden(kind, ending));
    return f;
}

START_TEST(test_golden)
{
    const char *kind = kinds[_i], *text;
    zero_tokenizer_t *t = open_kind(kind);
    zero_encoder_t *e;
    zero_ids_t ids = {0}, wanted = {0};
    zero_error_t error = {0};
    json_t *json;
    size_t bytes;
    int texts = 0;
    FILE *f = open_golden(kind, ".txt"), *t_file = open_golden("texts", ".txt");
    ck_assert(zero_encoder_open(&e, t, &error) == ZERO_OK);
    for (; (text = json_line(t_file, &json, &bytes)) != NULL; texts++) {
        zero_ids_t plain = {0};
        wanted.count = 0;
        ids_line(f, &plain);
        ids_line(f, &wanted);
        int64_t before = wanted.count;
        for (int64_t i = 0; i < plain.count; i++) {
            wanted.at = realloc(wanted.at, (size_t)(wanted.count + 1) * sizeof *wanted.at);
            wanted.at[wanted.count++] = plain.at[i];
        }
        for (int special = 0; special < 2; special++) {
            ids.count = 0;
            ck_assert(zero_encoder_encode(e, text, bytes, special, &ids, &error) == ZERO_OK);
            expect_ids(&ids, &wanted, special ? 0 : before, kind, text);
        }
        expect_decoded(f, t, &ids, false, kind, text, bytes);
        expect_decoded(f, t, &ids, true, kind, text, bytes);
        free(plain.at);
        json_decref(json);
    }
    ck_assert_int_gt(texts, 50);
    fclose(f);
    fclose(t_file);
    free(ids.at);
    free(wanted.at);
    zero_encoder_close(e);
    zero_tokenizer_close(t);
}
END_TEST

/* ---- threads, long texts ---------------------------------------------------------------------------------------- */

enum { LONG = 300000, PART = 1000 };

/* All golden texts, again and again with shifting beginnings, as one text. */
static char *long_text(size_t *bytes, const char *between)
{
    size_t room = LONG, n = 0;
    char *all = malloc(room + 65536);
    ck_assert_ptr_nonnull(all);
    for (int round = 0; n < room; round++) {
        FILE *f = open_golden("texts", ".txt");
        json_t *json;
        size_t length;
        for (const char *text; n < room && (text = json_line(f, &json, &length)) != NULL; json_decref(json)) {
            ck_assert(length < 32768);
            memcpy(all + n, text, length);
            n += length;
            n += (size_t)sprintf(all + n, "%s%d", between, round);
        }
        fclose(f);
    }
    *bytes = n;
    return all;
}

/* Several threads, which cut long texts, give what one thread gives. */
static void expect_same(const zero_tokenizer_t *t, const char *kind, const zero_text_t *texts, int64_t count)
{
    zero_ids_t one = {0}, many = {0};
    zero_error_t error = {0};
    int64_t failed, *ends = calloc((size_t)count * 2, sizeof *ends);
    zero_encoders_t *encoders;
    for (int threads = 1; threads <= 3; threads += 2) {
        ck_assert(zero_encoders_open(&encoders, t, threads, &error) == ZERO_OK);
        zero_encoders_set_part(encoders, PART);
        ck_assert_msg(zero_encoders_encode(encoders, texts, count, true, threads == 1 ? &one : &many,
                                           threads == 1 ? ends : ends + count, &failed, &error) == ZERO_OK,
                      "%s: %s", kind, error.text);
        ck_assert_int_eq(failed, -1);
        zero_encoders_close(encoders);
    }
    expect_ids(&many, &one, 0, kind, "a long text");
    for (int64_t i = 0; i < count; i++)
        ck_assert_int_eq(ends[i], ends[count + i]);
    ck_assert_int_eq(ends[count - 1], one.count);
    free(one.at);
    free(many.at);
    free(ends);
}

START_TEST(test_threads)
{
    zero_tokenizer_t *t = open_kind(kinds[_i]);
    zero_text_t texts[6] = {{"a", 1}, {"", 0}, {"word", 4}, {"\n", 1}, {NULL, 0}, {"end", 3}};
    /* spaces; no space; a run of digits, which walks cut in threes and never meet */
    for (int k = 0; k < 3; k++) {
        char *text = long_text(&texts[4].bytes, k == 0 ? " " : "");
        for (size_t i = 0; k == 2 && (i < texts[4].bytes - 1000 || (text[i] & 0x80) != 0); i++)
            text[i] = '7';
        texts[4].at = text;
        expect_same(t, kinds[_i], texts, 6);
        free(text);
    }
    zero_tokenizer_close(t);
}
END_TEST

START_TEST(test_not_utf8)
{
    zero_tokenizer_t *t = open_kind(kinds[_i]);
    zero_encoders_t *encoders;
    zero_ids_t ids = {0};
    zero_error_t error = {0};
    int64_t ends[3], failed;
    size_t bytes;
    char *text = long_text(&bytes, " ");
    const zero_text_t texts[3] = {{"a", 1}, {text, bytes}, {"\x80", 1}};
    ck_assert(zero_encoders_open(&encoders, t, 2, &error) == ZERO_OK);
    zero_encoders_set_part(encoders, PART);
    memcpy(text + 200000, "\n\xe0\x9f\xbf\n", 5);
    memset(text + 199996, 'x', 4);
    ck_assert(zero_encoders_encode(encoders, texts, 3, true, &ids, ends, &failed, &error) == ZERO_ERR_FORMAT);
    EXPECT_NAMES(error.text, "200001 0xe0");
    ck_assert_int_eq(failed, 1);
    ck_assert_int_eq(ids.count, 0);
    /* the same object goes on */
    ck_assert(zero_encoders_encode(encoders, texts, 1, true, &ids, ends, &failed, &error) == ZERO_OK);
    ck_assert(ids.count > 0 && ends[0] == ids.count);
    zero_encoders_close(encoders);
    zero_tokenizer_close(t);
    free(ids.at);
    free(text);
}
END_TEST

/* ---- where words may be cut ------------------------------------------------------------------------------------- */

/* A merge that crosses a border before a space mark: there the text may not be cut, elsewhere it may. */
START_TEST(test_crossing)
{
    static const char json[] =
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"},\"model\":"
        "{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"b\",\"vocab\":{\"\xe2\x96\x81\":0,\"a\":1,\">\":2,"
        "\">\xe2\x96\x81\":3,\"\xe2\x96\x81"
        "a\":4,\"b\":5,\"<0x63>\":6},\"merges\":[\"> \xe2\x96\x81\",\"\xe2\x96\x81 a\"]}}";
    static const struct {
        const char *text;
        int count;
        int32_t ids[8];
    } cases[] = {
        {"> a", 2, {3, 1}}, {"a a> a a", 5, {1, 4, 3, 1, 4}}, {"c a", 2, {6, 4}},
        {"d a", 2, {5, 4}}, {"a  a", 3, {1, 0, 4}},
    };
    zero_tokenizer_t *t;
    zero_encoder_t *e;
    zero_error_t error = {0};
    ck_assert_msg(zero_tokenizer_parse(&t, "f.json", json, sizeof json - 1, &error) == ZERO_OK, "%s", error.text);
    ck_assert(zero_encoder_open(&e, t, &error) == ZERO_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zero_ids_t ids = {0}, wanted = {(int32_t *)cases[i].ids, cases[i].count, cases[i].count};
        ck_assert(zero_encoder_encode(e, cases[i].text, strlen(cases[i].text), false, &ids, &error) == ZERO_OK);
        expect_ids(&ids, &wanted, 0, "crossing", cases[i].text);
        free(ids.at);
    }
    zero_encoder_close(e);
    zero_tokenizer_close(t);
}
END_TEST

/* ---- files that are refused ------------------------------------------------------------------------------------- */

#define MODEL(options, vocab, merges) \
    "\"model\":{\"type\":\"BPE\"," options "\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define AB MODEL("", "\"a\":0,\"b\":1,\"ab\":2", "\"a b\"")

static const struct {
    const char *json;
    zero_status_t status;
    const char *names;
} refused[] = {
    {"{\"model\":", ZERO_ERR_FORMAT, "f.json `line 1` JSON"},
    {"version https://git-lfs.github.com/spec/v1\noid", ZERO_ERR_FORMAT, "f.json 'git lfs pull'"},
    {"{}", ZERO_ERR_FORMAT, "f.json model"},
    {"[]", ZERO_ERR_FORMAT, "f.json model"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", ZERO_ERR_UNSUPPORTED, "f.json 'Unigram' BPE"},
    {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", ZERO_ERR_UNSUPPORTED, "f.json 'WordPiece' BPE"},
    {"{" MODEL("", "", "") "}", ZERO_ERR_FORMAT, "f.json vocabulary empty"},
    {"{" MODEL("\"end_of_word_suffix\":\"</w>\",", "\"a\":0", "") "}", ZERO_ERR_UNSUPPORTED, "'end_of_word_suffix'"},
    {"{" MODEL("\"dropout\":0.1,", "\"a\":0", "") "}", ZERO_ERR_UNSUPPORTED, "'dropout'"},
    {"{" MODEL("\"fuse_unk\":1,", "\"a\":0", "") "}", ZERO_ERR_FORMAT, "fuse_unk true false"},
    {"{" MODEL("\"unk_token\":\"?\",", "\"a\":0", "") "}", ZERO_ERR_FORMAT, "'?'"},
    {"{" MODEL("", "\"a\":0,\"b\":0", "") "}", ZERO_ERR_FORMAT, "'a' 'b' 0"},
    {"{" MODEL("", "\"a\":0,\"a\":1", "") "}", ZERO_ERR_FORMAT, "f.json duplicate"},
    {"{" MODEL("", "\"a\":-1", "") "}", ZERO_ERR_FORMAT, "'a' -1"},
    {"{" MODEL("", "\"a\":2147483647", "") "}", ZERO_ERR_FORMAT, "'a' 2147483647"},
    {"{" MODEL("", "\"a\":100000", "") "}", ZERO_ERR_FORMAT, "100000 1"},
    {"{" MODEL("", "\"a\":0.5", "") "}", ZERO_ERR_FORMAT, "'a' id"},
    {"{" MODEL("", "\"a\":0,\"b\":1", "\"a b\"") "}", ZERO_ERR_FORMAT, "0 'a' 'b' 'ab'"},
    {"{" MODEL("", "\"a\":0,\"b\":1", "\"a c\"") "}", ZERO_ERR_FORMAT, "0 'a' 'c' 'c'"},
    {"{" MODEL("", "\"a\":0", "\"a\"") "}", ZERO_ERR_FORMAT, "0 'a'"},
    {"{" MODEL("", "\"a\":0", "\"a b c\"") "}", ZERO_ERR_FORMAT, "0 'a b c'"},
    {"{" MODEL("", "\"a\":0", "[\"a\"]") "}", ZERO_ERR_FORMAT, "merge 0"},
    {"{" AB ",\"normalizer\":{\"type\":\"Lowercase\"}}", ZERO_ERR_UNSUPPORTED, "normalizer 'Lowercase' NFC"},
    {"{" AB ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"StripAccents\"}]}}",
     ZERO_ERR_UNSUPPORTED, "'StripAccents'"},
    {"{" AB ",\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}}", ZERO_ERR_FORMAT, "Replace pattern"},
    {"{" AB ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}}", ZERO_ERR_UNSUPPORTED, "pre-tokenizer 'Whitespace'"},
    {"{" AB ",\"pre_tokenizer\":{}}", ZERO_ERR_FORMAT, "pre-tokenizer type"},
    {"{" AB
     ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}}",
     ZERO_ERR_UNSUPPORTED, "'Digits' ByteLevel"},
    {"{" AB ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"},\"behavior\":\"Isolated\"}}",
     ZERO_ERR_UNSUPPORTED, "'(a'"},
    {"{" AB
     ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Nonsense}\"},\"behavior\":\"Isolated\"}}",
     ZERO_ERR_FORMAT, "PCRE2 '\\p{Nonsense}'"},
    {"{" AB ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}}",
     ZERO_ERR_UNSUPPORTED, "'[a&&b]'"},
    {"{" AB ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Other\"}}",
     ZERO_ERR_UNSUPPORTED, "'Other' Isolated"},
    {"{" AB ",\"post_processor\":{\"type\":\"BertProcessing\"}}", ZERO_ERR_UNSUPPORTED,
     "post-processor 'BertProcessing'"},
    {"{" AB ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},"
     "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"x\":{\"ids\":[7]}}}}",
     ZERO_ERR_FORMAT, "'x' TemplateProcessing"},
    {"{" AB ",\"decoder\":{\"type\":\"CTC\"}}", ZERO_ERR_UNSUPPORTED, "decoder 'CTC'"},
    {"{" AB ",\"added_tokens\":[{\"content\":\"a\",\"id\":1}]}", ZERO_ERR_FORMAT, "'a' 0 1"},
    {"{" AB ",\"added_tokens\":[{\"content\":\"c\",\"id\":1}]}", ZERO_ERR_FORMAT, "'c' 1 3"},
    {"{" AB ",\"added_tokens\":[{\"content\":\"c\",\"id\":3},{\"content\":\"d\",\"id\":5}]}", ZERO_ERR_FORMAT,
     "'d' 5 4"},
    {"{" AB ",\"added_tokens\":[{\"id\":1}]}", ZERO_ERR_FORMAT, "added_tokens content"},
};

START_TEST(test_refused)
{
    zero_tokenizer_t *t;
    zero_error_t error = {0};
    const char *json = refused[_i].json;
    zero_status_t status = zero_tokenizer_parse(&t, "f.json", json, strlen(json), &error);
    ck_assert_msg(status == refused[_i].status, "%s: status %d, '%s'", json, status, error.text);
    ck_assert_ptr_null(t);
    EXPECT_NAMES(error.text, refused[_i].names);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *c = tcase_create("golden");
    tcase_add_loop_test(c, test_golden, 0, KINDS);
    suite_add_tcase(suite, c);
    c = tcase_create("threads");
    tcase_add_loop_test(c, test_threads, 0, KINDS);
    tcase_add_loop_test(c, test_not_utf8, 0, KINDS);
    suite_add_tcase(suite, c);
    c = tcase_create("cuts");
    tcase_add_test(c, test_crossing);
    suite_add_tcase(suite, c);
    c = tcase_create("refused");
    tcase_add_loop_test(c, test_refused, 0, sizeof refused / sizeof *refused);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
