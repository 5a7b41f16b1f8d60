/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint_case.h - a small checkpoint whose every byte follows from its step, so that a test can tell what it reads:
 * three states of some tensors, written by several ranks through the parts of zero/checkpoint. Needs no Check. */
#ifndef ZERO_TESTS_CHECKPOINT_CASE_H
#define ZERO_TESTS_CHECKPOINT_CASE_H

#include "zero/checkpoint/layout.h"
#include "zero/checkpoint/manifest.h"

enum { CASE_LAYOUTS = 3, CASE_TENSORS = 5 };

typedef struct checkpoint_case {
    zero_layout_t layouts[CASE_LAYOUTS];
    zero_state_t states[CASE_LAYOUTS];
} checkpoint_case_t;

/* Several files for each state, at most about file_bytes bytes each. The largest tensor has several pieces, unless the
 * case is to be small. */
void case_make(checkpoint_case_t *c, uint64_t file_bytes, bool small);
void case_clear(checkpoint_case_t *c);

/* Byte `at` of a tensor, in a checkpoint of a step. */
unsigned char case_byte(int layout, int tensor, int64_t step, uint64_t at);

/* Writes the part of every tensor that is rank's of world: what is between two multiples of their size / world. */
zero_status_t case_write(zero_writer_t *writer, const checkpoint_case_t *c, int rank, int world, int64_t step,
                         zero_error_t *error);

/* Writes the part of every tensor that is rank's of CASE_PARTS, which divide its rows, in two calls that cut a run.
 * Rank 0 alone writes what cannot be divided so. */
enum { CASE_PARTS = 5 };
zero_status_t case_write_part(zero_writer_t *writer, const checkpoint_case_t *c, int rank, int64_t step,
                              zero_error_t *error);

/* The manifest of the case's step, from the pieces of all ranks; to be cleared. */
zero_status_t case_manifest(zero_manifest_t *manifest, const checkpoint_case_t *c, int64_t step,
                            const zero_piece_t *pieces, uint64_t count, zero_error_t *error);

/* A whole checkpoint of one rank, or of CASE_PARTS, in a folder that does not exist yet. */
zero_status_t case_save(const checkpoint_case_t *c, const char *folder, int64_t step, zero_error_t *error);
zero_status_t case_save_parts(const checkpoint_case_t *c, const char *folder, int64_t step, zero_error_t *error);

#endif
