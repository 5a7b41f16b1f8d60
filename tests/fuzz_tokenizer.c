/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_tokenizer.c - the reader of tokenizer.json on arbitrary bytes, and encoding with what it accepts. An input is a
 * file, a NUL, and a text. A refusal must say why. Every id must be in the vocabulary, and threads that cut the text
 * into small parts must agree with one thread. */
#include "tokenizer/parts.h"
#include "tests/fuzz.h"

#include <stdio.h>

static void need(bool condition)
{
    if (!condition)
        abort();
}

static void encode(const zero_tokenizer_t *t, const char *text, size_t bytes)
{
    const zero_text_t texts[2] = {{text, bytes}, {"a b", 3}};
    zero_ids_t one = {0}, many = {0};
    zero_error_t error = {0};
    int64_t ends[2], failed;
    zero_encoders_t *encoders = NULL;
    zero_encoder_t *encoder;
    char *decoded;
    size_t length;
    need(zero_encoder_open(&encoder, t, &error) == ZERO_OK && zero_encoders_open(&encoders, t, 2, &error) == ZERO_OK);
    zero_encoders_set_part(encoders, 5);
    zero_status_t status = zero_encoder_encode(encoder, text, bytes, true, &one, &error);
    need((status == ZERO_OK) ==
         (zero_encoders_encode(encoders, texts, 2, true, &many, ends, &failed, &error) == ZERO_OK));
    if (status == ZERO_OK) {
        need(ends[0] == one.count && ends[1] == many.count);
        for (int64_t i = 0; i < one.count; i++)
            need(one.at[i] >= 0 && one.at[i] < zero_tokenizer_size(t) && one.at[i] == many.at[i]);
        need(zero_tokenizer_decode(t, one.at, one.count, false, &decoded, &length, &error) == ZERO_OK);
        need(zero_utf8_check(decoded, length) == length && decoded[length] == '\0');
        free(decoded);
    } else
        need(error.text[0] != '\0' && one.count == 0 && many.count == 0 && failed == 0);
    zero_encoders_close(encoders);
    zero_encoder_close(encoder);
    free(one.at);
    free(many.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    zero_tokenizer_t *t;
    zero_error_t error = {0};
    const uint8_t *end = size > 0 ? memchr(bytes, 0, size) : NULL;
    size_t json = end != NULL ? (size_t)(end - bytes) : size, text = end != NULL ? json + 1 : size;
    if (zero_tokenizer_parse(&t, "f.json", (const char *)bytes, json, &error) != ZERO_OK) {
        need(t == NULL && error.text[0] != '\0');
        return 0;
    }
    encode(t, (const char *)bytes + text, size - text);
    zero_tokenizer_close(t);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
#define ADDED                                                                                             \
    "\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true,\"lstrip\":true,\"rstrip\":false}," \
    "{\"id\":7,\"content\":\"ab c\",\"single_word\":true,\"rstrip\":true,\"normalized\":true}],"
#define TEMPLATE                                                                                           \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}," \
    "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[6]}}},"
#define VOCAB \
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3,\"c\":4,\"abab\":5},\"merges\":[\"a b\",[\"ab\",\"a\"],\"ab ab\"]"
#define TEXT "abab ab c aba\xc3\xa9 <s> abc  ababababab 12 34\n\n e\xcc\x81\xe2\x96\x81\xf0\x9f\x8e\x89 a a ab c."

int main(int argc, char **argv)
{
    static const char bytes[] =
        "{" ADDED TEMPLATE "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
        "\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}]?\\\\p{L}+|\\\\p{N}{1,3}+|\\\\s+(?!\\\\S)|\\\\s\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":true}]},"
        "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"ignore_merges\":true," VOCAB "}}\0" TEXT;
    static const char marks[] =
        "{" ADDED "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"c\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"decoder\":{\"type\":"
        "\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},"
        "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"vocab\":{"
        "\"<unk>\":0,\"<0xC3>\":1,\"<0xA9>\":2,\"\xe2\x96\x81\":3,\"\xe2\x96\x81"
        "a\":4,\"a\":5},\"merges\":"
        "[\"\xe2\x96\x81 a\"]}}\0" TEXT;
    static const char splits[] =
        "{" ADDED
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":"
        "true},{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"MergedWithPrevious\",\"invert\":true},"
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\",\"split\":true}]},"
        "\"decoder\":"
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"},\"model\":{\"unk_token\":\"c\"," VOCAB "}}\0" TEXT;
    static const char *const words[] = {
        "\"Isolated\"",
        "\"Removed\"",
        "\"Contiguous\"",
        "\"MergedWithNext\"",
        "\"MergedWithPrevious\"",
        "true",
        "false",
        "null",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"type\":\"Split\",",
        "\"type\":\"NFC\"",
        "\"Regex\"",
        "\"String\"",
        "\\\\s+",
        "\\\\S",
        "[^\\\\s]",
        "(?<=a)",
        "(?=b)",
        "{2}+",
        "{,3}",
        "*",
        "|",
        "\\\\p{Han}",
        "\\\\u0041",
        "$",
        "^",
        "2147483647",
        "-1",
        "\"first\"",
        "\"never\"",
        "\"always\"",
        "\xe2\x96\x81",
        "\xcc\x81",
        "\xea\xb0\x80",
        "\xff",
        "version https://git-lfs.github.com/spec/v1",
    };
    const fuzz_seed_t seeds[] = {
        {bytes, sizeof bytes - 1}, {marks, sizeof marks - 1}, {splits, sizeof splits - 1}, {"{}", 2}, {"", 0},
    };
    const fuzz_t fuzz = {.seeds = seeds,
                         .seed_count = (int)(sizeof seeds / sizeof *seeds),
                         .words = words,
                         .word_count = (int)(sizeof words / sizeof *words),
                         .most = 4096};
    return fuzz_main(argc, argv, &fuzz, 2000);
}
#endif
