/* SPDX-License-Identifier: Apache-2.0 */
/* launch_start.h - starts the child processes of the parent: mpiexec, or the ranks themselves. */
#ifndef TRAIN_LAUNCH_START_H
#define TRAIN_LAUNCH_START_H

#include "train/launch.h"

#include <signal.h>
#include <sys/types.h>

typedef struct launch_start {
    const launch_plan_t *plan;
    int board;            /* the descriptor of the shared memory */
    int output, said;     /* standard output and standard error of the children, until ranks have attached */
    const sigset_t *mask; /* of signals */
    bool mpi;             /* out: the one child is mpiexec */
    int children;         /* out */
    pid_t *child;         /* out: [world]; the first leads the process group of all */
} launch_start_t;

/* false: a complaint was printed, and the caller must end the children that did start. */
bool launch_start(launch_start_t *start);

#endif
