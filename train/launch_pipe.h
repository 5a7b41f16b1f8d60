/* SPDX-License-Identifier: Apache-2.0 */
/* launch_pipe.h - the pipes from the ranks and from mpiexec to the parent. The parent writes their output itself, so
 * that it notices a full disk or a lost reader. It keeps the messages of mpiexec until they matter. */
#ifndef TRAIN_LAUNCH_PIPE_H
#define TRAIN_LAUNCH_PIPE_H

#include <stdbool.h>
#include <stddef.h>

enum { LAUNCH_PIPE_KEPT = 4000 };

typedef struct launch_pipe {
    int from, into; /* the ends: read here, written by others */
    int out;        /* the destination; -1: keep the first bytes, drop the rest */
    size_t held;    /* bytes that wait in text */
    double since;   /* when they began to wait */
    bool bar;       /* the last line that out got is not complete, and has a carriage return */
    struct launch_pipe
        *beside; /* its bar is on the same terminal, and is erased before out gets anything; NULL: none */
    int failure; /* errno of a failed write to out, 0: none; afterwards nothing is read, and writers get EPIPE */
    char text[LAUNCH_PIPE_KEPT];
} launch_pipe_t;

/* false: see errno. */
bool launch_pipe_open(launch_pipe_t *pipe, int out);
void launch_pipe_close(launch_pipe_t *pipe);
/* Forwards the available bytes, as many as out accepts without blocking. Bytes that wait for more than patience seconds
 * are a failure, ETIMEDOUT. true: nothing is left. */
bool launch_pipe_pass(launch_pipe_t *pipe, double now, double patience);

/* Erases the bar that out shows, if any. */
void launch_pipe_erase(launch_pipe_t *pipe);

#endif
