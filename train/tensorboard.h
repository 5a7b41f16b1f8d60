/* SPDX-License-Identifier: Apache-2.0 */
/* tensorboard.h - event files for TensorBoard: scalars by step. */
#ifndef TRAIN_TENSORBOARD_H
#define TRAIN_TENSORBOARD_H

#include "zero/zero.h"

typedef struct tensorboard tensorboard_t;

/* Checks that the folder can hold files, or can be created. Creates nothing. */
zero_status_t tensorboard_check(const char *folder, zero_error_t *error);
/* Creates the folder if it is absent, and a file of its own in it. folder NULL: *board is NULL. first: the first step
 * that this run takes. TensorBoard drops what earlier files in the folder have of that step and of later ones. */
zero_status_t tensorboard_open(tensorboard_t **board, const char *folder, int64_t first, zero_error_t *error);
/* Adds a number to the curve tag, rounded to a float. Infinities and NaN stay what they are. Accepts NULL, as all calls
 * below. */
void tensorboard_scalar(tensorboard_t *board, int64_t step, const char *tag, double value);
/* The bytes of a rank on each tier, as "memory/device" and so on. */
void tensorboard_memory(tensorboard_t *board, int64_t step, const zero_memory_t *memory);
/* Writes to the file what was added, at most every few seconds. The first failure is returned; after it nothing more is
 * written, and the calls return ZERO_OK. */
zero_status_t tensorboard_pace(tensorboard_t *board, zero_error_t *error);
/* Writes the rest. Returns any failure, also one that tensorboard_pace returned before. */
zero_status_t tensorboard_close(tensorboard_t *board, zero_error_t *error);

/* CRC-32C of n bytes. */
uint32_t tensorboard_crc32c(const void *bytes, size_t n);

#endif
