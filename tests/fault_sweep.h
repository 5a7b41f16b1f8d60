/* SPDX-License-Identifier: Apache-2.0 */
/* fault_sweep.h - runs a program that saves checkpoints again and again, in which each call that changes a file fails
 * or kills in turn (tests/fault_files.c). Whatever ended it, what is then loaded is one checkpoint, every byte of it,
 * and not older than the last one that was whole; and the program can go on from there. The calls of a run without a
 * fault also tell what the drive is sure to have.
 *
 *   test_AREA                       all of it: ends with "points N, lost 0, mixed 0"
 *   test_AREA KIND AT [stay]        one fault, for a closer look; the folder stays
 *   test_AREA save FOLDER FD        the program: for main, which writes each step that is saved to FD. It ends with 0,
 *                                   with 1 if the last save failed, and with 3 if a rank was killed, or by a signal */
#ifndef ZERO_TESTS_FAULT_SWEEP_H
#define ZERO_TESTS_FAULT_SWEEP_H

#include "zero/checkpoint/checkpoint.h"

typedef struct sweep {
    /* Fills the empty folder with one checkpoint, that of step `first`. */
    void (*begin)(const char *folder);
    /* Whether a checkpoint is that of its step, every byte of it. */
    bool (*is_one)(const zero_checkpoint_t *checkpoint, int64_t step);
    int64_t first;
    int64_t steps;  /* from the checkpoint with which a run begins to the one with which it ends */
    int saves;      /* of a run */
    int keep;       /* checkpoints that a run leaves */
    int stride;     /* every so many calls get an error; each, with ZERO_CHECK_FULL. Kills are everywhere */
    uint64_t least; /* calls in a run */
} sweep_t;

/* The test, but for "save". Returns main's exit status. */
int sweep_main(const sweep_t *sweep, int argc, char **argv);

/* Runs the program without a fault, in sweep->begin; it has to end well. */
void sweep_run(void);

/* Ends the process with a sentence about errno unless the condition holds. */
void sweep_need(bool condition, const char *what);
/* Whether all bytes could be read from a pipe. */
bool sweep_read(int fd, void *to, size_t bytes);

#endif
