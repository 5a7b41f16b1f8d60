/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - starting ranks on this machine and staying their parent; being a rank that somebody started.
 *
 * The parent runs mpiexec (or, where there is none, starts the ranks itself as torchrun would) as a child in a process
 * group of its own, and sets the exit status. It shares a page of memory with the ranks: each notes its process, how
 * far it is, its step and how it ended, and a failing one its sentence. A rank whose process is gone without a note of
 * its end has vanished, and is named. The memory has no name in the file system, so nothing is left behind however the
 * processes end: the parent's death ends mpiexec, and mpiexec's the ranks (PR_SET_PDEATHSIG).
 *
 * A stop signal kills everything while ranks start and load. Once they train, the parent passes it on as SIGUSR1, and
 * they end after their step. A second signal, or ranks that make no progress, end in a kill.
 */
#ifndef TRAIN_LAUNCH_H
#define TRAIN_LAUNCH_H

#include "zero/zero.h"

/* How this process was started. */
typedef enum launch_kind { LAUNCH_NONE = 0, LAUNCH_MPI, LAUNCH_TORCHRUN } launch_kind_t;

/* LAUNCH_NONE under no launcher; rank and world (0 where the environment does not tell) may be NULL. */
launch_kind_t launch_detect(int *rank, int *world);

/* ---- the parent ------------------------------------------------------------------------------------------------- */

typedef struct launch_plan {
    int world;
    int threads;       /* of a rank, for OMP_NUM_THREADS where it is not set */
    int cores;         /* that the ranks share */
    double timeout_s;  /* the most that a rank may take to start, and that output may wait for its reader */
    char *const *argv; /* of this program */
} launch_plan_t;

/* Starts the ranks, waits for them, prints the sentence of what failed, and returns the exit status. */
int launch_ranks(const launch_plan_t *plan);

/* Starts this process again, as one rank of several threads, where the environment does not say how long idle threads
 * spin; returns where it does, and where it cannot. OpenMP reads its environment before main. */
void launch_restart(char *const *argv);

/* ---- a rank ----------------------------------------------------------------------------------------------------- */

typedef struct launch launch_t;

/* The parent's memory, with this process noted as rank; NULL when the parent is not ours. Standard error, and rank 0's
 * standard output, lead to the parent from here on. */
launch_t *launch_attach(int rank);
/* Whether the parent's standard output is a terminal (a rank's own is a pipe). */
bool launch_terminal(const launch_t *launch);
/* The ranks have met. */
void launch_joined(launch_t *launch);
/* From here on a stop signal is to end the run after its step. */
void launch_training(launch_t *launch);
void launch_step(launch_t *launch, int64_t step);
/* Notes a failure. peer: another rank's, told here only in case that rank could not. The parent prints it. */
void launch_failed(launch_t *launch, int code, bool peer, const char *sentence);
/* Notes the end: 0, or 128 + n. */
void launch_ended(launch_t *launch, int code);
/* Accepts NULL. */
void launch_detach(launch_t *launch);

#endif
