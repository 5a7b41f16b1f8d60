/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h - a bounded run of a fuzz harness without a fuzzer: seeds, mutated by a fixed sequence of random numbers. A
 * harness is one file that defines LLVMFuzzerTestOneInput and, unless FUZZ_LIBFUZZER is defined, a main that calls
 * fuzz_main. With a fuzzer:
 *
 *   clang -DFUZZ_LIBFUZZER -fsanitize=fuzzer,address,undefined -I. tests/fuzz_AREA.c SOURCES... */
#ifndef ZERO_TESTS_FUZZ_H
#define ZERO_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* The name that libFuzzer calls. Returns 0. A failure ends the program (abort). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_seed {
    const void *data;
    size_t size;
} fuzz_seed_t;

typedef struct fuzz {
    const fuzz_seed_t *seeds; /* good and nearly good inputs, each also run as it is */
    int seed_count;
    const char *const *words; /* pieces of the format, to be written over and into inputs; may be none */
    int word_count;
    size_t most; /* longest input, bytes */
    /* Repairs what random bytes would rarely get right (a length, a checksum), in place; called for half of the inputs.
     * May be NULL. */
    void (*repair)(uint8_t *data, size_t size);
} fuzz_t;

/* Runs the seeds, then inputs made from them: argv[1] of them, or iterations. With file names instead runs those files
 * alone. Returns main's exit status. */
int fuzz_main(int argc, char **argv, const fuzz_t *fuzz, long iterations);

#endif
