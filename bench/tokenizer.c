/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - the rate of a tokenizer: `bench/tokenizer TOKENIZER.json TEXTS.jsonl THREADS [OUT]`. TEXTS.jsonl has a
 * document per line, as {"text": ...}; a file with another ending is one document. Prints seconds, seconds of all
 * processors, MB/s and the number of ids. OUT: writes the number of ids and the ids of each document, as uint32.
 * tests/by-hand/tokenizer.py compares ids and rates with the tokenizers package. */
#include "tokenizer/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct documents {
    zero_text_t *texts;
    int64_t count, room;
    size_t bytes;
} documents_t;

static char *read_file(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    if (f != NULL && fseek(f, 0, SEEK_END) == 0) {
        *bytes = (size_t)ftell(f);
        rewind(f);
        text = malloc(*bytes + 1);
        if (text != NULL && fread(text, 1, *bytes, f) != *bytes)
            *bytes = 0;
    }
    if (f != NULL)
        fclose(f);
    return text;
}

static void add(documents_t *d, const char *at, size_t bytes)
{
    if (d->count == d->room) {
        d->room = d->room * 2 + 1024;
        d->texts = realloc(d->texts, (size_t)d->room * sizeof *d->texts);
        if (d->texts == NULL)
            exit(1);
    }
    char *copy = malloc(bytes + 1);
    if (copy == NULL)
        exit(1);
    memcpy(copy, at, bytes);
    d->texts[d->count++] = (zero_text_t){copy, bytes};
    d->bytes += bytes;
}

static void read_documents(documents_t *d, const char *path)
{
    size_t bytes = 0, length = strlen(path);
    char *text = read_file(path, &bytes);
    if (text == NULL || bytes == 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    if (length < 6 || strcmp(path + length - 6, ".jsonl") != 0)
        add(d, text, bytes);
    else
        for (char *at = text, *end; at < text + bytes; at = end + 1) {
            end = memchr(at, '\n', (size_t)(text + bytes - at));
            if (end == NULL)
                end = text + bytes;
            json_t *line = json_loadb(at, (size_t)(end - at), JSON_ALLOW_NUL, NULL),
                   *value = json_object_get(line, "text");
            add(d, json_string_value(value) != NULL ? json_string_value(value) : "", json_string_length(value));
            json_decref(line);
        }
    free(text);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

static double processor(void)
{
    return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

static void write_ids(const char *path, const documents_t *d, const zero_ids_t *ids, const int64_t *ends)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL)
        exit(1);
    for (int64_t i = 0, at = 0; i < d->count; at = ends[i++]) {
        uint32_t n = (uint32_t)(ends[i] - at);
        fwrite(&n, sizeof n, 1, f);
        fwrite(ids->at + at, sizeof *ids->at, n, f);
    }
    if (fclose(f) != 0)
        exit(1);
}

int main(int argc, char **argv)
{
    zero_error_t error = {0};
    zero_tokenizer_t *t = NULL;
    zero_encoders_t *encoders = NULL;
    documents_t d = {0};
    zero_ids_t ids = {0};
    int64_t failed = -1, total = 0;
    if (argc < 4) {
        fprintf(stderr, "usage: bench/tokenizer TOKENIZER.json TEXTS.jsonl THREADS [OUT]\n");
        return 2;
    }
    read_documents(&d, argv[2]);
    int64_t *ends = calloc((size_t)d.count, sizeof *ends);
    double opening = now();
    if (ends == NULL || zero_tokenizer_open(&t, argv[1], &error) != ZERO_OK ||
        zero_encoders_open(&encoders, t, atoi(argv[3]), &error) != ZERO_OK)
        goto fail;
    double start = now(), before = processor();
    const int64_t batch = argc > 4 ? d.count : 1000; /* as the comparison does with the package */
    for (int64_t i = 0; i < d.count; i += batch) {
        int64_t n = d.count - i < batch ? d.count - i : batch;
        ids.count = 0;
        if (zero_encoders_encode(encoders, d.texts + i, n, true, &ids, ends, &failed, &error) != ZERO_OK)
            goto fail;
        total += ids.count;
    }
    double seconds = now() - start, busy = processor() - before;
    printf("%.4f s, %.4f s of processors, %.1f MB/s, %lld ids (opened in %.3f s)\n", seconds, busy,
           (double)d.bytes * 1e-6 / seconds, (long long)total, start - opening);
    if (argc > 4)
        write_ids(argv[4], &d, &ids, ends);
    zero_encoders_close(encoders);
    zero_tokenizer_close(t);
    return 0;
fail:
    fprintf(stderr, "document %lld: %s\n", (long long)failed, error.text);
    return 1;
}
