/* SPDX-License-Identifier: Apache-2.0 */
/* launch_rank.c - the rank's side of launch.h. */
#define _GNU_SOURCE
#include "train/launch.h"
#include "train/launch_board.h"
#include "train/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct launch {
    board_t *board;
    size_t bytes;
    board_place_t *place;
    int rank;
};

/* ---- how this process was started ------------------------------------------------------------------------------- */

static bool environment_int(const char *name, int *out)
{
    const char *text = getenv(name);
    char *end;
    if (text == NULL || *text == '\0')
        return false;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 0 || value > 1 << 24)
        return false;
    *out = (int)value;
    return true;
}

launch_kind_t launch_detect(int *rank, int *world)
{
    int r = 0, w = 0;
    launch_kind_t kind = LAUNCH_NONE;
    /* Open MPI's mpiexec; srun with PMIx; MPICH's mpiexec and its descendants, srun with PMI-2 */
    bool sized = environment_int("OMPI_COMM_WORLD_SIZE", &w) || environment_int("PMI_SIZE", &w);
    if (environment_int("OMPI_COMM_WORLD_RANK", &r) || environment_int("PMIX_RANK", &r) ||
        environment_int("PMI_RANK", &r) || sized) {
        kind = LAUNCH_MPI;
    } else if (getenv("RANK") != NULL && getenv("WORLD_SIZE") != NULL && getenv("MASTER_ADDR") != NULL &&
               getenv("MASTER_PORT") != NULL) {
        kind = LAUNCH_TORCHRUN;
        w = 1; /* if it is not a number, the communicator reports that */
        environment_int("RANK", &r);
        environment_int("WORLD_SIZE", &w);
    }
    if (rank != NULL)
        *rank = r;
    if (world != NULL)
        *world = w;
    return kind;
}

/* ---- the parent's memory and pipes ------------------------------------------------------------------------------ */

/* Redirects own to the parent's pipe. Through mpiexec, a lost reader would make mpiexec complain and end us, and our
 * output would mix with its own complaints. */
static void redirect(int parent, int pipe_end, int own)
{
    char path[64];
    int ends[2];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", parent, pipe_end);
    int file = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    /* the pipe has no reader, so use a pipe of our own without a reader */
    if (file < 0 && errno == ENXIO && pipe2(ends, O_CLOEXEC) == 0) {
        close(ends[0]);
        file = ends[1];
    }
    if (file < 0)
        return;
    if (fcntl(file, F_SETFL, 0) == 0)
        dup2(file, own);
    close(file);
}

static void note_session(board_t *board)
{
    const char *session = getenv("PMIX_SERVER_TMPDIR");
    int32_t nobody = 0;
    if (session == NULL || strlen(session) >= sizeof board->session.path ||
        !atomic_compare_exchange_strong(&board->session.claimed, &nobody, 1))
        return;
    snprintf(board->session.path, sizeof board->session.path, "%s", session);
    atomic_store(&board->session.complete, 1);
}

launch_t *launch_attach(int rank)
{
    const char *text = getenv(LAUNCH_ENVIRONMENT);
    int parent, descriptor;
    char path[64];
    struct stat info;
    if (text == NULL || sscanf(text, "%d:%d", &parent, &descriptor) != 2)
        return NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (kill(parent, 0) != 0) /* the parent died before prctl took effect */
        _exit(1);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", parent, descriptor);
    launch_t *launch = calloc(1, sizeof *launch);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (launch == NULL || file < 0 || fstat(file, &info) != 0)
        goto fail;
    void *memory = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        goto fail;
    close(file);
    launch->board = memory;
    launch->bytes = (size_t)info.st_size;
    launch->rank = rank;
    if (rank < 0 || rank >= launch->board->world) {
        launch_detach(launch);
        return NULL;
    }
    if (rank == 0)
        redirect(parent, launch->board->output, STDOUT_FILENO);
    redirect(parent, launch->board->errors, STDERR_FILENO);
    note_session(launch->board);
    launch->place = &launch->board->place[rank];
    atomic_store(&launch->place->process, (int32_t)getpid());
    atomic_store(&launch->place->state, STATE_STARTED);
    return launch;
fail:
    if (file >= 0)
        close(file);
    free(launch);
    return NULL;
}

bool launch_prompt(const launch_t *launch, char **text, size_t *bytes)
{
    const board_t *board = launch->board;
    *text = NULL;
    *bytes = 0;
    if (board->prompt_bytes < 0)
        return true;
    *bytes = (size_t)board->prompt_bytes;
    *text = malloc(*bytes + 1);
    if (*text == NULL)
        return false;
    memcpy(*text, &board->place[board->world], *bytes);
    (*text)[*bytes] = '\0';
    return true;
}

int launch_columns(const launch_t *launch)
{
    if (launch != NULL)
        return atomic_load(&launch->board->columns);
    return launch_detect(NULL, NULL) == LAUNCH_MPI ? 0 : terminal_columns(STDOUT_FILENO);
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

void launch_joined(launch_t *launch)
{
    if (launch != NULL)
        atomic_store(&launch->place->state, STATE_JOINED);
}

void launch_training(launch_t *launch)
{
    if (launch != NULL)
        atomic_store(&launch->place->state, STATE_TRAINING);
}

void launch_step(launch_t *launch, int64_t step)
{
    if (launch != NULL)
        atomic_store(&launch->place->step, step);
}

void launch_saving(launch_t *launch, bool saving)
{
    if (launch != NULL)
        atomic_store(&launch->place->saving, saving);
}

void launch_failed(launch_t *launch, int code, bool peer, const char *sentence)
{
    int32_t nobody = 0;
    if (launch == NULL)
        return;
    if (atomic_compare_exchange_strong(&launch->board->failure[peer].claimed, &nobody, 1)) {
        launch->board->failure[peer].rank = launch->rank;
        launch->board->failure[peer].code = code;
        snprintf(launch->board->failure[peer].sentence, sizeof launch->board->failure[peer].sentence, "%s", sentence);
        atomic_store(&launch->board->failure[peer].complete, 1);
    }
    atomic_store(&launch->place->code, code);
    atomic_store(&launch->place->state, STATE_FAILED);
}

void launch_ended(launch_t *launch, int code)
{
    if (launch == NULL)
        return;
    atomic_store(&launch->place->code, code);
    atomic_store(&launch->place->state, STATE_ENDED);
}

void launch_detach(launch_t *launch)
{
    if (launch != NULL)
        munmap(launch->board, launch->bytes);
    free(launch);
}
