/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - starts ranks on this machine and stays their parent; the rank's side, whichever launcher started it.
 *
 * The parent runs mpiexec as a child in a process group of its own, and sets the exit status. If there is no mpiexec,
 * the parent starts the ranks itself, as torchrun would. It shares a page of memory with the ranks. Each rank records
 * its process, its state, its step and its end there; a rank that fails also records its sentence. A rank whose process
 * is gone without a recorded end has vanished, and the parent names it. The memory has no name in the file system, so
 * nothing is left behind however the processes end. If the parent dies, mpiexec ends; if mpiexec dies, the ranks end
 * (PR_SET_PDEATHSIG).
 *
 * While ranks start and load, a stop signal kills all processes. Once they train, the parent forwards the signal as
 * SIGUSR1, and the ranks end after their step. The parent kills the ranks at a second signal, or if they make no
 * progress. */
#ifndef TRAIN_LAUNCH_H
#define TRAIN_LAUNCH_H

#include "zero/zero.h"

/* How this process was started. */
typedef enum launch_kind { LAUNCH_NONE = 0, LAUNCH_MPI, LAUNCH_TORCHRUN } launch_kind_t;

/* LAUNCH_NONE if there is no launcher. rank and world (0 if the environment does not define them) may be NULL. */
launch_kind_t launch_detect(int *rank, int *world);

/* ---- the parent ------------------------------------------------------------------------------------------------- */

typedef struct launch_plan {
    int world;
    int pipe, replicas, context, tensor; /* how ranks are divided */
    int threads;                         /* of a rank: OMP_NUM_THREADS, unless the environment sets it */
    int cores;                           /* shared by the ranks */
    double timeout_s;   /* the longest time for a rank to start, and for output to wait for its reader */
    char *const *argv;  /* of this program */
    const char *prompt; /* a text for rank 0 (launch_prompt), of prompt_bytes; NULL: none */
    size_t prompt_bytes;
} launch_plan_t;

/* Starts the ranks, waits for them, prints the sentence of the failure if any, and returns the exit status. */
int launch_ranks(const launch_plan_t *plan);

/* Restarts this process, one rank with several threads, to set how long idle threads spin. OpenMP reads its environment
 * before main, so only a restart can set it. Returns if the environment sets this already, or if the restart fails. */
void launch_restart(char *const *argv);

/* ---- a rank ----------------------------------------------------------------------------------------------------- */

typedef struct launch launch_t;

/* Attaches to the parent's memory and records this process as rank. NULL if another program started this process. From
 * here on standard error, and rank 0's standard output, go to the parent. */
launch_t *launch_attach(int rank);
/* The columns of the terminal that shows this rank's standard output, 0: none that can show a bar (terminal_columns).
 * With our parent, the output is a pipe, and the terminal is the parent's. mpiexec and srun give ranks a pipe or a
 * terminal of their own whatever their output is, and may put a label before each line, so 0. launch may be NULL. */
int launch_columns(const launch_t *launch);
/* Copies the parent's text for rank 0, with a NUL behind it, into *text, which the caller frees; NULL: there is none.
 * false: no memory. */
bool launch_prompt(const launch_t *launch, char **text, size_t *bytes);
/* Records that bootstrap is complete. */
void launch_joined(launch_t *launch);
/* Records that from here on a stop signal ends the run after its step. */
void launch_training(launch_t *launch);
void launch_step(launch_t *launch, int64_t step);
/* Records that this rank waits for a save, which may take longer than any step. */
void launch_saving(launch_t *launch, bool saving);
/* Records a failure; the parent prints it. peer: the failure is another rank's, recorded in case that rank could not.
 */
void launch_failed(launch_t *launch, int code, bool peer, const char *sentence);
/* Records the end: 0, or 128 + n. */
void launch_ended(launch_t *launch, int code);
/* Accepts NULL. */
void launch_detach(launch_t *launch);

#endif
