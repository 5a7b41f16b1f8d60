/* SPDX-License-Identifier: Apache-2.0 */
/* launch_board.h - the memory that the parent shares with its ranks. */
#ifndef TRAIN_LAUNCH_BOARD_H
#define TRAIN_LAUNCH_BOARD_H

#include <stdatomic.h>
#include <stdint.h>

#define LAUNCH_ENVIRONMENT "ZERO_TRAIN_PARENT" /* "PID:FD" of the shared memory */

/* The state of a rank. A rank in a state between NONE and ENDED has a process. */
enum { STATE_NONE = 0, STATE_STARTED, STATE_JOINED, STATE_TRAINING, STATE_ENDED, STATE_FAILED };

/* One for each rank, on a cache line of its own. */
typedef struct board_place {
    _Alignas(64) _Atomic int32_t process;
    _Atomic int32_t state, code;
    _Atomic int64_t step;
    _Atomic int32_t saving;
} board_place_t;

/* The first to claim a text writes it. Readers wait until it is complete. */
typedef struct board {
    int32_t world;
    _Atomic int32_t columns; /* of the parent's terminal, 0: none (terminal_columns) */
    int32_t output, errors;  /* the parent's descriptors for its standard output and standard error */
    int64_t prompt_bytes;    /* of a text behind the places; -1: there is none */
    struct {
        _Atomic int32_t claimed, complete;
        int32_t rank, code;
        char sentence[1000];
    } failure[2]; /* [1]: of a peer */
    struct {
        _Atomic int32_t claimed, complete;
        char path[400]; /* the folder of mpiexec's files for this run */
    } session;
    board_place_t place[];
} board_t;

#endif
