/* SPDX-License-Identifier: Apache-2.0 */
/* corpus.h - the built-in corpus: numbers spelled as English words, "471: four hundred and seventy-one", one per line.
 * The numbers repeat, each time in a different order, so a model can learn to spell a number but not to predict the
 * next one. */
#ifndef TRAIN_CORPUS_H
#define TRAIN_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CORPUS_NUMBERS = 1000, CORPUS_PASSES = 32, CORPUS_PROMPT = 5 /* the most bytes up to the colon */ };

/* Writes the line of number (0 to 9999) with its newline. Returns its length, at most 63. */
size_t corpus_line(char line[64], int number);
/* Whether training never sees the number (one in sixteen). */
bool corpus_held_out(int number);
/* All lines of the held-out numbers, or of the other numbers, CORPUS_PASSES times, shuffled anew in each pass. The
 * caller frees the text. NULL: out of memory. */
char *corpus_make(bool held_out, int64_t *bytes);

#endif
