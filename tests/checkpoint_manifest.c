/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_manifest.c - manifests: what is written is read back; a flipped bit and every kind of lie is refused. */
#include "tests/checkpoint_case.h"
#include "tests/checkpoint_suites.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s", why.text)
static zero_error_t why;

START_TEST(test_round_trip)
{
    checkpoint_case_t c;
    zero_manifest_t read, again;
    char *text, *text2;
    size_t length, length2;
    case_make(&c, 5000, false);
    OK(_i == 0 ? case_save(&c, at("step-12"), 12, &why) : case_save_parts(&c, at("step-12"), 12, &why));
    OK(zero_manifest_read(&read, at("step-12"), &why));
    ck_assert_str_eq(read.library, ZERO_VERSION);
    ck_assert_str_eq(read.optimizer, "adamw");
    ck_assert_str_eq(read.about, "{\"program\":\"test\"}");
    ck_assert(read.step == 12 && read.applied == 12 && read.caller_bytes == sizeof(int64_t) && read.loss_scale == 0);
    ck_assert(memcmp(read.caller, &(int64_t){12}, sizeof(int64_t)) == 0);
    ck_assert_int_eq(read.param_count, CASE_TENSORS);
    ck_assert_str_eq(read.params[1].name, "layer.0.weight");
    ck_assert(read.params[1].dtype == ZERO_BF16 && read.params[1].trainable && read.params[1].ndim == 2 &&
              read.params[1].shape[0] == 33 && read.params[1].shape[1] == 65 && read.params[3].ndim == 0);
    int n = 0;
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int f = 0; f < c.layouts[k].file_count; f++, n++) {
            ck_assert_str_eq(read.files[n].name, c.layouts[k].files[f].name);
            ck_assert(read.files[n].state == c.states[k] && read.files[n].bytes == c.layouts[k].files[f].bytes);
        }
    ck_assert_int_eq(read.file_count, n);
    /* the same text again, and no temporary file */
    OK(zero_manifest_text(&read, &text, &length, &why));
    ck_assert_uint_eq(length, strlen(text));
    OK(zero_manifest_parse(&again, text, length, "x", &why));
    OK(zero_manifest_text(&again, &text2, &length2, &why));
    ck_assert(length == length2 && memcmp(text, text2, length) == 0);
    ck_assert_int_ne(access(at("step-12/manifest.json.tmp"), F_OK), 0);
    zero_manifest_clear(&again);
    zero_manifest_clear(&read);
    free(text);
    free(text2);
    case_clear(&c);
}
END_TEST

/* Strings of any kind, nothing of the rest; the largest numbers. */
START_TEST(test_extremes)
{
    zero_manifest_t made, read;
    char *text;
    size_t length;
    const char *name = "a \"quoted\" \\ \n \x1b name \xc3\xbc";
    zero_manifest_param_t param = {.name = (char *)name, .dtype = ZERO_FP16, .ndim = ZERO_MAX_DIMS};
    char *blob = calloc(1, ZERO_MANIFEST_CALLER_MOST + 1);
    for (int k = 0; k < ZERO_MANIFEST_CALLER_MOST; k++)
        blob[k] = (char)(k * 7);
    OK(zero_manifest_begin(&made, INT64_MAX, 0, name, "{}", blob, ZERO_MANIFEST_CALLER_MOST, &why));
    OK(zero_manifest_add(&made, &param, &why));
    made.loss_scale = 0x1.fffffep+127f;
    made.good_steps = made.overflows = INT32_MAX;
    OK(zero_manifest_text(&made, &text, &length, &why));
    OK(zero_manifest_parse(&read, text, length, "x", &why));
    ck_assert(read.loss_scale == made.loss_scale && read.good_steps == INT32_MAX && read.overflows == INT32_MAX);
    ck_assert(read.step == INT64_MAX && read.applied == 0 && read.caller_bytes == ZERO_MANIFEST_CALLER_MOST);
    ck_assert(memcmp(read.caller, blob, ZERO_MANIFEST_CALLER_MOST) == 0);
    ck_assert_str_eq(read.optimizer, name);
    ck_assert_str_eq(read.params[0].name, name);
    ck_assert_str_eq(read.about, "{}");
    ck_assert_int_eq(read.params[0].ndim, ZERO_MAX_DIMS);
    ck_assert(!read.params[0].trainable);
    zero_manifest_clear(&read);
    zero_manifest_clear(&made);
    free(text);
    ck_assert_int_eq(zero_manifest_begin(&made, 1, 1, "x", NULL, blob, ZERO_MANIFEST_CALLER_MOST + 1, &why),
                     ZERO_ERR_ARG);
    zero_manifest_clear(&made);
    static const char *const abouts[] = {"[]", "7", "{", "", "{\"a\":1,\"a\":2}"};
    for (size_t k = 0; k < sizeof abouts / sizeof abouts[0]; k++) {
        ck_assert_int_eq(zero_manifest_begin(&made, 1, 1, "x", abouts[k], NULL, 0, &why), ZERO_ERR_ARG);
        zero_manifest_clear(&made);
    }
    OK(zero_manifest_begin(&made, 1, 1, "x\xff", NULL, NULL, 0, &why));
    ck_assert_int_eq(zero_manifest_text(&made, &text, &length, &why), ZERO_ERR_MEMORY);
    EXPECT_NAMES(why.text, "UTF-8");
    zero_manifest_clear(&made);
    free(blob);
}
END_TEST

/* Every bit of a manifest, and every length that is too short. */
START_TEST(test_flipped)
{
    checkpoint_case_t c;
    zero_manifest_t manifest, read;
    char *text;
    size_t length;
    case_make(&c, 0, false);
    OK(case_save(&c, at("step-1"), 1, &why));
    OK(zero_manifest_read(&manifest, at("step-1"), &why));
    OK(zero_manifest_text(&manifest, &text, &length, &why));
    for (size_t k = 0; k < 8 * length; k++) {
        text[k / 8] ^= (char)(1 << k % 8);
        why.text[0] = '\0';
        ck_assert_int_eq(zero_manifest_parse(&read, text, length, "the file", &why), ZERO_ERR_FORMAT);
        EXPECT_NAMES(why.text, "'the file'");
        text[k / 8] ^= (char)(1 << k % 8);
    }
    for (size_t k = 0; k < length; k++)
        ck_assert_int_eq(zero_manifest_parse(&read, text, k, "x", &why), ZERO_ERR_FORMAT);
    OK(zero_manifest_parse(&read, text, length, "x", &why));
    zero_manifest_clear(&read);
    zero_manifest_clear(&manifest);
    free(text);
    case_clear(&c);
}
END_TEST

/* A manifest with one thing replaced, and the hash of what it says then. status and names are what is wanted. */
#define ADAMW "\"optimizer\":\"adamw\""
static const struct lie {
    const char *old, *new, *names;
    zero_status_t status;
} lies[] = {
    {"", "", "", ZERO_OK},
    {"libzero checkpoint", "something", "format", ZERO_ERR_FORMAT},
    {"\"version\":2", "\"version\":1", "", ZERO_OK},
    {"\"version\":2", "\"version\":3", "3 2 " ZERO_VERSION, ZERO_ERR_UNSUPPORTED},
    {"\"version\":2", "\"version\":0", "0", ZERO_ERR_FORMAT},
    {"\"version\":2", "\"version\":9999999999", "version", ZERO_ERR_FORMAT},
    {"\"version\":2", "\"version\":-1", "version", ZERO_ERR_FORMAT},
    {"\"version\":2", "\"version\":\"2\"", "version", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"step\":-3", "step", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"step\":3.0", "step", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"step\":9223372036854775808", "JSON", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"step\":18446744073709551619", "JSON", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"steps\":3", "step", ZERO_ERR_FORMAT},
    {"\"step\":3", "\"step\":3,\"step\":3", "JSON", ZERO_ERR_FORMAT},
    {"\"applied\":3", "\"applied\":4", "applied 3", ZERO_ERR_FORMAT},
    {"\"optimizer\":\"adamw\"", "\"optimizer\":null", "optimizer", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":0.5,\"good_steps\":0,\"overflows\":1}", "", ZERO_OK},
    {ADAMW, ADAMW ",\"loss_scale\":65536", "loss_scale value", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":0,\"good_steps\":0,\"overflows\":1}", "loss_scale", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":1e39,\"good_steps\":0,\"overflows\":1}", "loss_scale", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":\"1\",\"good_steps\":0,\"overflows\":1}", "loss_scale", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":1,\"good_steps\":-1,\"overflows\":1}", "good_steps", ZERO_ERR_FORMAT},
    {ADAMW, ADAMW ",\"loss_scale\":{\"value\":1,\"good_steps\":1}", "overflows", ZERO_ERR_FORMAT},
    {"\"library\":\"" ZERO_VERSION "\"", "\"library\":1", "library", ZERO_ERR_FORMAT},
    {"\"params\":[", "\"params\":[7,", "name", ZERO_ERR_FORMAT},
    {"\"params\":[", "\"params\":7,\"p\":[", "params", ZERO_ERR_FORMAT},
    {"\"name\":\"empty\"", "\"name\":\"scalar\"", "'scalar'", ZERO_ERR_FORMAT},
    {"\"name\":\"empty\"", "\"name\":[]", "name", ZERO_ERR_FORMAT},
    {"\"dtype\":\"bf16\"", "\"dtype\":\"fp8\"", "'embedding'", ZERO_ERR_FORMAT},
    {"\"dtype\":\"bf16\"", "\"dtype\":0", "'embedding'", ZERO_ERR_FORMAT},
    {"[1100,257]", "[1100,-257]", "'embedding'", ZERO_ERR_FORMAT},
    {"[1100,257]", "[4294967296,4294967296]", "'embedding'", ZERO_ERR_FORMAT},
    {"[1100,257]", "[9223372036854775807]", "'embedding'", ZERO_ERR_FORMAT},
    {"[1100,257]", "[1,1,1,1,1,1,1,1,1]", "'embedding' 8", ZERO_ERR_FORMAT},
    {"[1100,257]", "\"1100\"", "'embedding'", ZERO_ERR_FORMAT},
    {"\"trainable\":true", "\"trainable\":1", "'embedding'", ZERO_ERR_FORMAT},
    {"\"files\":[", "\"files\":[[],", "blocks", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"master.safetensors\"", "'master.safetensors'", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"../parameters.safetensors\"", "'../parameters.safetensors'",
     ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"/etc/passwd\"", "'/etc/passwd'", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"..\"", "'..'", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"\"", "''", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"\\u001b[2J\"", "'?[2J'", ZERO_ERR_FORMAT},
    {"\"name\":\"parameters.safetensors\"", "\"name\":\"manifest.json\"", "'manifest.json'", ZERO_ERR_FORMAT},
    {"\"state\":\"master\"", "\"state\":\"masters\"", "'master.safetensors'", ZERO_ERR_FORMAT},
    {"\"state\":\"master\"", "\"state\":null", "'master.safetensors'", ZERO_ERR_FORMAT},
    {"\"state\":\"parameters\",\"bytes\":", "\"state\":\"parameters\",\"bytes\":1", "'parameters.safetensors'",
     ZERO_ERR_FORMAT},
    {"\"state\":\"parameters\",\"bytes\":", "\"state\":\"parameters\",\"bytes\":-", "'parameters.safetensors'",
     ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[1,4096", "'parameters.safetensors' 1 0", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[-1,4096", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,0", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,0,\"0123456789abcdef\"],[0,4096", "'parameters.safetensors'",
     ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,1048577", "'parameters.safetensors' 1048576", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,4095", "'parameters.safetensors' 4096 4095", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,4097", "'parameters.safetensors' 4096 4097", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,9223372036854775807", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096,\"", "\"blocks\":[[0,4096,\"X", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[7,[0,4096", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"blocks\":[[0,4096", "\"blocks\":[[0,4096],[0,4096", "'parameters.safetensors'", ZERO_ERR_FORMAT},
    {"\"about\":{", "\"about\":[{", "JSON", ZERO_ERR_FORMAT},
    {"\"about\":{\"program\":\"test\"}", "\"about\":[]", "about", ZERO_ERR_FORMAT},
    {"\"caller\":\"", "\"caller\":\"0", "caller", ZERO_ERR_FORMAT},
    {"\"caller\":\"", "\"caller\":\"0X", "caller", ZERO_ERR_FORMAT},
    {"\"caller\":\"", "\"cal\":\"", "caller", ZERO_ERR_FORMAT},
    {"{\"format\"", "[{\"format\"", "JSON", ZERO_ERR_FORMAT},
};

/* The same with pieces of several runs: of the first window of the parameters, whose runs are of 110 bytes, 550 apart.
 * HASH of its pieces are 0 to 4. */
#define BLOCK(offset, bytes, hash, rest) "[" offset "," bytes ",\"" hash "\"" rest "]"
#define FIRST BLOCK("4096", "110", "HASH0", ",342,550")
#define SECOND BLOCK("4206", "110", "HASH1", ",342,550")
#define THIRD BLOCK("4316", "110", "HASH2", ",342,550")
#define FIFTH BLOCK("4536", "110", "HASH4", ",342,550")
#define FILE_NAME "'parameters.safetensors' "
static const struct lie lies_of_runs[] = {
    {"", "", "", ZERO_OK},
    {"\"version\":2", "\"version\":1", FILE_NAME "1 16", ZERO_ERR_FORMAT},
    /* order, gaps, overlaps */
    {SECOND "," THIRD, THIRD "," SECOND, FILE_NAME "4096 5 342 110", ZERO_ERR_FORMAT},
    {FIRST "," SECOND, SECOND, FILE_NAME "4206 4096", ZERO_ERR_FORMAT},
    {SECOND "," THIRD, SECOND, FILE_NAME "4096 5 342 110", ZERO_ERR_FORMAT},
    {SECOND "," THIRD, SECOND "," SECOND "," THIRD, FILE_NAME "4096 5 342 110", ZERO_ERR_FORMAT},
    {"," FIFTH, "," FIFTH "," FIFTH, FILE_NAME "4536 192196", ZERO_ERR_FORMAT},
    {"," FIFTH, "", FILE_NAME "4096 5 342 110", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4207", "110", "HASH1", ",342,550"), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4206", "109", "HASH1", ",342,545"), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4206", "55", "HASH1", ",342,550"), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4206", "110", "HASH1", ",341,550"), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4206", "110", "HASH1", ",342,660"), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {SECOND, BLOCK("4206", "110", "HASH1", ""), FILE_NAME "4096", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ""), FILE_NAME "4206", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,440"), FILE_NAME "4096 4 342 110", ZERO_ERR_FORMAT},
    /* numbers */
    {FIRST, BLOCK("4096", "110", "HASH0", ",1,110"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",0,550"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",-342,550"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342.0,550"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,0"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,-550"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,\"550\""), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,109"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,55"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,110"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,551"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",9533,220"), FILE_NAME "110 1048576", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,12320"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,4294967846"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",4294967638,550"), FILE_NAME "110 4194304", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",9223372036854775807,9223372036854775807"), FILE_NAME "110",
     ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "1048576", "HASH0", ",2,2097152"), FILE_NAME "1048576", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("9223372036854775807", "110", "HASH0", ",342,550"), FILE_NAME "9223372036854775807 4096",
     ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342"), FILE_NAME "count stride", ZERO_ERR_FORMAT},
    {FIRST, BLOCK("4096", "110", "HASH0", ",342,550,1"), FILE_NAME "count stride", ZERO_ERR_FORMAT},
};

/* Copies a text, with the digits of a piece's hash in place of HASH and its number. */
static const char *with_hashes(char *out, const char *text, const zero_piece_t *pieces)
{
    char *to = out;
    while (*text != '\0')
        if (strncmp(text, "HASH", 4) == 0) {
            to += sprintf(to, "%016" PRIx64, pieces[text[4] - '0'].hash);
            text += 5;
        } else
            *to++ = *text++;
    *to = '\0';
    return out;
}

/* Of one rank (0), of several that have parts of rows (1). */
START_TEST(test_lies)
{
    static char text[100000], good[100000], old_text[1000], new_text[1000];
    const struct lie *lie = _i == 0 ? lies : lies_of_runs;
    const size_t count = _i == 0 ? sizeof lies / sizeof *lies : sizeof lies_of_runs / sizeof *lies_of_runs;
    checkpoint_case_t c;
    zero_manifest_t manifest, read;
    char *whole;
    size_t length;
    case_make(&c, 0, false);
    OK(_i == 0 ? case_save(&c, at("step-3"), 3, &why) : case_save_parts(&c, at("step-3"), 3, &why));
    OK(zero_manifest_read(&manifest, at("step-3"), &why));
    OK(zero_manifest_text(&manifest, &whole, &length, &why));
    ck_assert_uint_lt(length, sizeof good / 2);
    memcpy(good, whole, length - 30); /* without the hash */
    for (size_t k = 0; k < count; k++, lie++) {
        with_hashes(old_text, lie->old, &manifest.pieces[1]);
        with_hashes(new_text, lie->new, &manifest.pieces[1]);
        const char *old = strstr(good, old_text);
        ck_assert_msg(old != NULL, "there is no %s in %s", old_text, good);
        int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(old - good), good, new_text, old + strlen(old_text));
        n += snprintf(text + n, sizeof text - (size_t)n, ",\n\"check\":\"%016" PRIx64 "\"}\n",
                      (uint64_t)XXH3_64bits(text, (size_t)n));
        why.text[0] = '\0';
        zero_status_t status = zero_manifest_parse(&read, text, (size_t)n, "the manifest", &why);
        ck_assert_msg(status == lie->status, "%s: status %d: %s", lie->new, (int)status, why.text);
        ck_assert_msg(has_names(why.text, lie->names), "%s: '%s' does not name all of %s", lie->new, why.text,
                      lie->names);
        ck_assert(status == ZERO_OK || has_names(why.text, "'the manifest'"));
        zero_manifest_clear(&read);
    }
    zero_manifest_clear(&manifest);
    free(whole);
    case_clear(&c);
}
END_TEST

START_TEST(test_no_manifest)
{
    zero_manifest_t manifest;
    ck_assert_int_eq(mkdir(at("step-1"), 0777), 0);
    zero_manifest_read(&manifest, at("step-1"), &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1, "manifest.json step-1");
    zero_manifest_read(&manifest, at("step-2"), &why);
    EXPECT_ERROR(&why, ZERO_ERR_IO, ZERO_REASON_NO_CHECKPOINT, -1, "manifest.json step-2");
    write_whole(at("step-1/manifest.json"), "", 0);
    ck_assert_int_eq(zero_manifest_read(&manifest, at("step-1"), &why), ZERO_ERR_FORMAT);
    ck_assert_int_eq(truncate(at("step-1/manifest.json"), ((off_t)1 << 30) + 1), 0);
    ck_assert_int_eq(zero_manifest_read(&manifest, at("step-1"), &why), ZERO_ERR_FORMAT);
    EXPECT_NAMES(why.text, "1073741825 1073741824");
    ck_assert_int_eq(unlink(at("step-1/manifest.json")), 0);
    ck_assert_int_eq(mkdir(at("step-1/manifest.json"), 0777), 0);
    ck_assert_int_eq(zero_manifest_read(&manifest, at("step-1"), &why), ZERO_ERR_IO);
    zero_manifest_clear(NULL);
}
END_TEST

Suite *checkpoint_manifest_suite(void)
{
    Suite *suite = suite_create("manifest");
    TCase *tests = tcase_create("manifest");
    tcase_add_checked_fixture(tests, scratch_make, scratch_remove);
    tcase_add_loop_test(tests, test_round_trip, 0, 2);
    tcase_add_test(tests, test_extremes);
    tcase_add_test(tests, test_flipped);
    tcase_add_loop_test(tests, test_lies, 0, 2);
    tcase_add_test(tests, test_no_manifest);
    suite_add_tcase(suite, tests);
    return suite;
}
