/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_checkpoint.c - the parser of manifests, on any text, whose hash is repaired so that the parser gets to see it.
 * What is taken has to be consistent, and its own text gives the same manifest again; what is not has to say why. */
#include "tests/fuzz.h"
#include "zero/checkpoint/manifest.h"
#include "zero/checkpoint/manifest_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

static void need(bool condition)
{
    if (!condition)
        abort();
}

static bool is_plain(const char *name)
{
    for (const char *c = name; *c != '\0'; c++)
        if (*c == '/' || (unsigned char)*c < ' ')
            return false;
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static void check(const zero_manifest_t *m)
{
    need(m->library && m->optimizer && m->caller && m->caller_bytes <= ZERO_MANIFEST_CALLER_MOST);
    need(m->step >= 0 && m->applied >= 0 && m->applied <= m->step && m->param_count >= 0 && m->file_count >= 0);
    for (int k = 0; k < m->param_count; k++) {
        int64_t product = 1;
        need(m->params[k].name && m->params[k].dtype >= 0 && m->params[k].dtype < ZERO_DTYPE_COUNT);
        need(m->params[k].ndim >= 0 && m->params[k].ndim <= ZERO_MAX_DIMS);
        for (int d = 0; d < m->params[k].ndim; d++)
            need(m->params[k].shape[d] >= 0 && zero_mul_i64(product, m->params[k].shape[d], &product));
        for (int j = 0; j < k; j++)
            need(strcmp(m->params[k].name, m->params[j].name) != 0);
    }
    uint64_t first = 0;
    for (int f = 0; f < m->file_count; f++) {
        uint64_t end = 0;
        const zero_manifest_file_t *file = &m->files[f];
        need(is_plain(file->name) && zero_checkpoint_state_name(file->state) && file->first == first);
        need(first + file->count <= m->piece_count);
        for (uint64_t k = first; k < first + file->count;) {
            const zero_piece_t *window = &m->pieces[k];
            need(window->bytes > 0 && window->count > 0 && window->stride % window->bytes == 0);
            need((uint64_t)window->bytes * window->count <= ZERO_PIECE_BYTES);
            need(zero_window_bytes(window) <= ZERO_WINDOW_BYTES);
            need(window->count > 1 ? window->stride > window->bytes : window->stride == window->bytes);
            for (uint64_t at = 0; at < window->stride; at += window->bytes, k++) {
                const zero_piece_t *piece = &m->pieces[k];
                need(k < first + file->count && piece->file == (uint32_t)f && piece->offset == end + at);
                need(piece->bytes == window->bytes && piece->count == window->count && piece->stride == window->stride);
            }
            end += zero_window_bytes(window);
        }
        need(end == file->bytes);
        first += file->count;
    }
    need(first == m->piece_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    zero_error_t error = {0};
    zero_manifest_t manifest, again;
    zero_status_t status = zero_manifest_parse(&manifest, (const char *)data, size, "x", &error);
    if (status != ZERO_OK) {
        need(error.status == status && error.text[0] != '\0' && !manifest.params && !manifest.files);
        need(status == ZERO_ERR_FORMAT || status == ZERO_ERR_UNSUPPORTED);
        return 0;
    }
    char *text, *text2;
    size_t length, length2;
    check(&manifest);
    need(zero_manifest_text(&manifest, &text, &length, &error) == ZERO_OK);
    need(zero_manifest_parse(&again, text, length, "x", &error) == ZERO_OK);
    need(zero_manifest_text(&again, &text2, &length2, &error) == ZERO_OK);
    need(length == length2 && memcmp(text, text2, length) == 0);
    free(text);
    free(text2);
    zero_manifest_clear(&again);
    zero_manifest_clear(&manifest);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
/* Writes the hash of what is before it, where the text has the end of a manifest. */
static void repair(uint8_t *data, size_t size)
{
    const size_t tail = sizeof ZERO_MANIFEST_CHECK - 1 + 16 + sizeof ZERO_MANIFEST_END - 1;
    char digits[17];
    if (size < tail)
        return;
    uint8_t *end = data + size - tail;
    snprintf(digits, sizeof digits, "%016" PRIx64, (uint64_t)XXH3_64bits(data, size - tail));
    memcpy(end, ZERO_MANIFEST_CHECK, sizeof ZERO_MANIFEST_CHECK - 1);
    memcpy(end + sizeof ZERO_MANIFEST_CHECK - 1, digits, 16);
    memcpy(end + tail - (sizeof ZERO_MANIFEST_END - 1), ZERO_MANIFEST_END, sizeof ZERO_MANIFEST_END - 1);
}

#define HEAD(step)                                                                                \
    "{\"format\":\"" ZERO_MANIFEST_FORMAT "\",\"version\":2,\"library\":\"0.1.0\",\"step\":" step \
    ",\"applied\":3,\"optimizer\":\"adamw\",\"params\":["
#define PARAM "{\"name\":\"w\",\"dtype\":\"bf16\",\"shape\":[2,3],\"trainable\":true}"
#define PARAM2 ",{\"name\":\"b\",\"dtype\":\"fp32\",\"shape\":[],\"trainable\":false}"
#define FILE1                                                                                       \
    "{\"name\":\"a\",\"state\":\"parameters\",\"bytes\":14,\"blocks\":[[0,4,\"0123456789abcdef\"]," \
    "[4,10,\"00000000ffffffff\"]]}"
#define FILE2 ",{\"name\":\"b\",\"state\":\"moment2\",\"bytes\":0,\"blocks\":[]}"
#define FILE3                                                                                        \
    ",{\"name\":\"c\",\"state\":\"master\",\"bytes\":31,\"blocks\":[[0,4,\"0123456789abcdef\",3,8]," \
    "[4,4,\"00000000ffffffff\",3,8],[24,1,\"0123456789abcdef\"],[25,1,\"0123456789abcdef\",2,3],"    \
    "[26,1,\"0123456789abcdef\",2,3],[27,1,\"0123456789abcdef\",2,3]]}"
#define TAIL ",\n\"check\":\"0000000000000000\"}\n"
#define SEED(text)            \
    {                         \
        text, sizeof text - 1 \
    }

static const fuzz_seed_t seeds[] = {
    SEED(HEAD("3") PARAM PARAM2 "],\"files\":[" FILE1 FILE2 FILE3
                                "],\"about\":{\"a\":[1,2.5]},\"caller\":\"00ff10\"" TAIL),
    SEED(HEAD("9223372036854775807") "],\"files\":[" FILE1 "],\"caller\":\"\"" TAIL),
    SEED(HEAD("3") PARAM "],\"files\":[],\"caller\":\"\"" TAIL),
    SEED("{\"a\":1" TAIL),
};

static const char *const words[] = {
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1152921504606846976",
    "1048576",
    "1048577",
    "4294967296",
    "-1",
    "-0",
    "0",
    "1e3",
    "0.5",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    "[[[[",
    ",",
    ":",
    "\"",
    "\\",
    "\\u0000",
    "\\u0001",
    "\\ud800",
    "../",
    "/dev/null",
    ".",
    "\"version\":1",
    "\"version\":3",
    "\"about\":",
    "\"loss_scale\":{\"value\":65536,\"good_steps\":7,\"overflows\":1},",
    "\"caller\":",
    "\"blocks\":",
    "\"blocks\":[]",
    "\"bytes\":",
    "\"shape\":",
    "\"trainable\":",
    "\"master\"",
    "\"fp16\"",
    "[0,4,\"0123456789abcdef\"]",
    "[14,1048576,\"0123456789abcdef\"]",
    "[0,4,\"0123456789abcdef\",3,8]",
    "[24,4,\"0123456789abcdef\",2,4194304]",
    ",2,8",
    PARAM2,
    FILE2,
    FILE3,
    TAIL,
    "\x1b[2J",
    "\xff\xfe",
    " ",
    "\n",
};

int main(int argc, char **argv)
{
    const fuzz_t fuzz = {.seeds = seeds,
                         .seed_count = sizeof seeds / sizeof seeds[0],
                         .words = words,
                         .word_count = sizeof words / sizeof words[0],
                         .most = 4096,
                         .repair = repair};
    /* the seeds are good, but for their hashes */
    for (int k = 0; k < 3; k++) {
        char text[4096];
        zero_manifest_t manifest;
        zero_error_t error;
        memcpy(text, seeds[k].data, seeds[k].size);
        repair((uint8_t *)text, seeds[k].size);
        if (zero_manifest_parse(&manifest, text, seeds[k].size, "seed", &error) != ZERO_OK) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
        zero_manifest_clear(&manifest);
    }
    return fuzz_main(argc, argv, &fuzz, 300000);
}
#endif
