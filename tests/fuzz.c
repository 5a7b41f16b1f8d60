/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz.h"

#include "zero/base/base.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct input {
    uint8_t *data;
    size_t size, most;
    uint64_t random; /* state of the sequence */
} input_t;

static size_t below(input_t *in, size_t n)
{
    return n > 0 ? (size_t)(zero_splitmix64(in->random++) % n) : 0;
}

/* Inserts n bytes at offset. */
static void insert(input_t *in, size_t offset, size_t n)
{
    memmove(in->data + offset + n, in->data + offset, in->size - offset);
    in->size += n;
}

static void cut(input_t *in, size_t offset, size_t n)
{
    memmove(in->data + offset, in->data + offset + n, in->size - offset - n);
    in->size -= n;
}

static void mutate(input_t *in, const fuzz_t *fuzz)
{
    size_t offset = below(in, in->size + 1), left = in->size - offset, room = in->most - in->size, n;
    switch (below(in, fuzz->word_count > 0 ? 8 : 5)) {
    case 0: /* flip a bit */
        if (left > 0)
            in->data[offset] ^= (uint8_t)(1u << below(in, 8));
        break;
    case 1: /* change a byte */
        if (left > 0)
            in->data[offset] = (uint8_t)below(in, 256);
        break;
    case 2: /* remove bytes */
        cut(in, offset, below(in, (left < 32 ? left : 32) + 1));
        break;
    case 3: /* cut off the end */
        if (below(in, 4) == 0)
            in->size = offset;
        break;
    case 4: /* repeat bytes */
        n = 1 + below(in, 40);
        if (n <= left && n <= room) {
            insert(in, offset, n);
            memcpy(in->data + offset, in->data + offset + n, n);
        }
        break;
    default: { /* write or insert a word */
        const char *word = fuzz->words[below(in, (size_t)fuzz->word_count)];
        n = strlen(word);
        if (below(in, 2) == 0)
            cut(in, offset, n < left ? n : left);
        if (n <= in->most - in->size) {
            insert(in, offset, n);
            memcpy(in->data + offset, word, n);
        }
    }
    }
}

/* Copies the input to a buffer of exactly its length, so that a sanitizer sees reads past its end. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (!exact)
        abort();
    if (size > 0)
        memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        return 1;
    }
    static uint8_t data[1 << 20];
    run(data, fread(data, 1, sizeof data, f));
    fclose(f);
    return 0;
}

int fuzz_main(int argc, char **argv, const fuzz_t *fuzz, long iterations)
{
    char *end;
    if (argc > 1) {
        iterations = strtol(argv[1], &end, 10);
        if (*end != '\0') {
            int failed = 0;
            for (int k = 1; k < argc; k++)
                failed |= run_file(argv[k]);
            return failed;
        }
    }
    input_t in = {.data = malloc(fuzz->most), .most = fuzz->most};
    if (!in.data)
        return 1;
    for (int k = 0; k < fuzz->seed_count; k++)
        run(fuzz->seeds[k].data, fuzz->seeds[k].size);
    for (long i = 0; i < iterations; i++) {
        in.random = (uint64_t)i << 16; /* input i depends only on i, so it can run alone */
        const fuzz_seed_t *seed = &fuzz->seeds[below(&in, (size_t)fuzz->seed_count)];
        in.size = seed->size < in.most ? seed->size : in.most;
        memcpy(in.data, seed->data, in.size);
        for (size_t k = 1 + below(&in, 6); k > 0; k--)
            mutate(&in, fuzz);
        if (fuzz->repair && below(&in, 2) == 0)
            fuzz->repair(in.data, in.size);
        run(in.data, in.size);
    }
    free(in.data);
    return 0;
}
