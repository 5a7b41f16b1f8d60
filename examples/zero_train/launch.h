/* launch.h - starting ranks on this machine and staying their parent; being a rank that somebody started.
 *
 * The parent runs mpiexec (or, where there is none, starts the ranks itself as torchrun would) as a child in a process group of its own, passes signals on
 * to the ranks as SIGUSR1, and sets the exit status. It shares a page of memory with the ranks: each notes its process, its step and how it ended
 * there, a failing one its sentence. A rank whose process is gone without having noted an end has vanished, and is named. The memory has no name in the file
 * system, so nothing is left behind however the processes end: the parent's death ends mpiexec, and mpiexec's the ranks (PR_SET_PDEATHSIG).
 */
#ifndef EXAMPLES_ZERO_TRAIN_LAUNCH_H
#define EXAMPLES_ZERO_TRAIN_LAUNCH_H

#include "zero/zero.h"

/* How this process was started. */
typedef enum launch_kind { LAUNCH_NONE = 0, LAUNCH_MPI, LAUNCH_TORCHRUN } launch_kind_t;

/* LAUNCH_NONE under no launcher; rank and world (0 where the environment does not tell) may be NULL. */
launch_kind_t launch_detect(int *rank, int *world);

/* ---- the parent ---------------------------------------------------------------------------------------------------- */

/* Starts world ranks of this program with these arguments, waits for them, prints the sentence of what failed, and returns the exit status. threads: of a
 * rank, for OMP_NUM_THREADS where it is not set; cores: that the ranks share. */
int launch_ranks(int world, int threads, int cores, char *const *argv);

/* Starts this process again, as one rank of several threads, where the environment does not say how long idle threads spin; returns where it does, and where
 * it cannot. OpenMP reads its environment before main. */
void launch_restart(char *const *argv);

/* ---- a rank -------------------------------------------------------------------------------------------------------- */

typedef struct launch launch_t;

/* The parent's memory, with this process noted as rank; NULL when the parent is not ours. */
launch_t *launch_attach(int rank);
/* Whether the parent's standard output is a terminal (a rank's own is a pipe). */
bool launch_terminal(const launch_t *launch);
void launch_step(launch_t *launch, int64_t step);
/* Notes a failure. peer: another rank's, told here only in case that rank could not. The parent prints it. */
void launch_failed(launch_t *launch, int code, bool peer, const char *sentence);
/* Notes the end: 0, or 128 + n. */
void launch_ended(launch_t *launch, int code);
/* Accepts NULL. */
void launch_detach(launch_t *launch);

#endif
