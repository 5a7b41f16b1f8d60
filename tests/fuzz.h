/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h - runs a fuzz harness without a fuzzer, for a bounded number of inputs: a fixed sequence of random numbers
 * mutates the seeds. A harness is a file that defines LLVMFuzzerTestOneInput and, unless FUZZ_LIBFUZZER is defined, a
 * main that calls fuzz_main. With a fuzzer:
 *
 *   clang -DFUZZ_LIBFUZZER -fsanitize=fuzzer,address,undefined -I. tests/fuzz_AREA.c SOURCES... */
#ifndef ZERO_TESTS_FUZZ_H
#define ZERO_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* libFuzzer calls this name. Returns 0. A failure aborts the program. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_seed {
    const void *data;
    size_t size;
} fuzz_seed_t;

typedef struct fuzz {
    const fuzz_seed_t *seeds; /* valid and nearly valid inputs; each also runs unchanged */
    int seed_count;
    const char *const *words; /* pieces of the format, written over and inserted into inputs; may be NULL */
    int word_count;
    size_t most; /* longest input, bytes */
    /* Repairs parts that random bytes rarely get right (a length, a checksum), in place; called for half of the inputs.
     * May be NULL. */
    void (*repair)(uint8_t *data, size_t size);
} fuzz_t;

/* Runs the seeds, then argv[1] inputs made from them, or iterations. If the arguments are file names, runs only those
 * files. Returns main's exit status. */
int fuzz_main(int argc, char **argv, const fuzz_t *fuzz, long iterations);

#endif
