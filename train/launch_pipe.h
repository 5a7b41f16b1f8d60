/* SPDX-License-Identifier: Apache-2.0 */
/* launch_pipe.h - pipes through which the parent hears its ranks and what starts them. It writes on what they say
 * itself, so that a full disk or a lost reader is known here, and keeps what mpiexec says until it matters. */
#ifndef TRAIN_LAUNCH_PIPE_H
#define TRAIN_LAUNCH_PIPE_H

#include <stdbool.h>
#include <stddef.h>

enum { LAUNCH_PIPE_KEPT = 4000 };

typedef struct launch_pipe {
    int from, into; /* ends: read here, written by others */
    int out;        /* where it leads; -1: what comes first is kept, and the rest dropped */
    size_t held;    /* bytes that wait in text */
    double since;   /* when they began to wait */
    int failure;    /* errno of writing on, 0: none; from then on nothing is read, and writers get EPIPE */
    char text[LAUNCH_PIPE_KEPT];
} launch_pipe_t;

/* false: errno says why. */
bool launch_pipe_open(launch_pipe_t *pipe, int out);
void launch_pipe_close(launch_pipe_t *pipe);
/* Passes on what is there, as far as out takes it without a wait. What waits for more than patience seconds is a
 * failure, ETIMEDOUT. true: nothing is left. */
bool launch_pipe_pass(launch_pipe_t *pipe, double now, double patience);

#endif
