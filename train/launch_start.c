/* SPDX-License-Identifier: Apache-2.0 */
/* launch_start.c - see launch_start.h. */
#define _GNU_SOURCE
#include "train/launch_start.h"
#include "train/launch_board.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the environment -------------------------------------------------------------------------------------------- */

/* The full path of a program in PATH. */
static bool find_program(const char *name, char *out, size_t size)
{
    const char *path = getenv("PATH");
    while (path != NULL && *path != '\0') {
        size_t n = strcspn(path, ":");
        snprintf(out, size, "%.*s/%s", (int)n, path, name);
        if (n > 0 && access(out, X_OK) == 0)
            return true;
        path += n + (path[n] == ':');
    }
    return false;
}

/* A TCP port of this machine that is free now. 0: none. */
static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int port = 0, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s >= 0 && bind(s, (struct sockaddr *)&address, length) == 0 &&
        getsockname(s, (struct sockaddr *)&address, &length) == 0)
        port = ntohs(address.sin_port);
    if (s >= 0)
        close(s);
    return port;
}

static void set_number(const char *name, int value, int overwrite)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, overwrite);
}

/* Sets how long threads that wait for others of their rank spin before they sleep, unless the user chose. OpenMP does
 * not know of other processes: it spins for milliseconds as if every thread had its own core. On a shared core,
 * spinning takes time from the very thread that it waits for. 2 ranks of 2 threads on 2 cores took 15 to 22 s for 50
 * steps of the default model, and 0.6 s when waiting threads slept at once. With enough cores, sleeping at once
 * increases the time by almost half (0.60 s, not 0.42, on one rank of 2 threads). But another process may keep a core
 * busy (1.9 to 7.7 s). 1000 spins, GCC's own choice for more threads than cores, then cost nothing (0.42 s), and little
 * on a busy core (1.1 s). true: the environment changed. */
static bool set_waiting(int64_t running, int cores)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL)
        return false;
    return running > cores ? setenv("OMP_WAIT_POLICY", "passive", 1) == 0 : setenv("GOMP_SPINCOUNT", "1000", 1) == 0;
}

void launch_restart(char *const *argv)
{
    if (set_waiting(0, 1))
        execv("/proc/self/exe", argv);
}

/* Sets Open MPI's options, unless the user set them. */
static void set_open_mpi(void)
{
    static const char *const settings[][2] = {
        {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
        {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
        {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
        {"OMPI_MCA_hwloc_base_binding_policy", "none"},
        /* all ranks are on this machine: the rest of Open MPI's start-up would only cost time */
        {"OMPI_MCA_pml", "ob1"},
        {"OMPI_MCA_plm", "isolated"},
        /* Ranks use MPI only for bootstrap, and mpiexec requires the loopback device anyway. Shared memory would
         * require space in /dev/shm, and its files would remain when mpiexec is killed. */
        {"OMPI_MCA_btl", "self,tcp"},
        {"OMPI_MCA_btl_tcp_if_include", "127.0.0.1/8"},
        /* no stack traces beside our sentence when a rank is killed */
        {"OMPI_MCA_opal_signal", ""},
        /* in a container without /sys, hwloc would print lines of its own beside our sentences */
        {"HWLOC_HIDE_ERRORS", "2"},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        setenv(settings[i][0], settings[i][1], 0);
}

/* ---- processes -------------------------------------------------------------------------------------------------- */

/* Runs program in a child. death: the signal that the child gets when we die. group: 0 for a new process group, else an
 * existing one. rank >= 0: sets the environment as torchrun would. */
static pid_t run(const launch_start_t *s, const char *program, char *const *argv, int death, pid_t group, int rank)
{
    pid_t self = getpid(), child = fork();
    if (child != 0) {
        if (child > 0)
            setpgid(child, group); /* here and in the child: either may come first */
        return child;
    }
    setpgid(0, group);
    prctl(PR_SET_PDEATHSIG, death);
    if (getppid() != self)
        _exit(1);
    int input = open("/dev/null", O_RDONLY);
    if (input >= 0)
        dup2(input, STDIN_FILENO);
    dup2(s->output, STDOUT_FILENO);
    dup2(s->said, STDERR_FILENO);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, s->mask, NULL);
    if (rank >= 0) {
        set_number("RANK", rank, 1);
        set_number("LOCAL_RANK", rank, 1);
    }
    execv(program, argv);
    fprintf(stderr, "cannot run '%s': %s\n", program, strerror(errno));
    _exit(127);
}

static bool cannot_start(const launch_start_t *s, const char *why)
{
    fprintf(stderr, "zero_train: cannot start %d ranks: %s\n", s->plan->world, why);
    return false;
}

static bool start_mpiexec(launch_start_t *s, const char *mpiexec, char *self)
{
    char world[16], *const head[4] = {(char *)mpiexec, "-n", world, self};
    int argc = 0;
    snprintf(world, sizeof world, "%d", s->plan->world);
    while (s->plan->argv[argc] != NULL)
        argc++;
    char **line = calloc((size_t)argc + 5, sizeof *line);
    if (line == NULL)
        return cannot_start(s, "no memory");
    memcpy(line, head, sizeof head);
    /* Open MPI takes the words --tune FILE for its own, wherever they are, so pass them as one word */
    char *tune = NULL;
    for (int i = 1, at = 4; i < argc; i++) {
        const bool two = strcmp(s->plan->argv[i], "--tune") == 0 && i + 1 < argc && tune == NULL;
        if (two && asprintf(&tune, "--tune=%s", s->plan->argv[++i]) < 0) {
            free(line);
            return cannot_start(s, "no memory");
        }
        line[at++] = two ? tune : s->plan->argv[i];
    }
    set_open_mpi();
    s->mpi = true;
    /* on SIGTERM mpiexec ends its ranks and removes its files; SIGKILL would prevent that */
    s->child[0] = run(s, mpiexec, line, SIGTERM, 0, -1);
    s->children = s->child[0] > 0;
    free(line);
    free(tune);
    return s->children == 1 || cannot_start(s, strerror(errno));
}

static bool start_ranks(launch_start_t *s, const char *self)
{
    int port = free_port();
    if (port == 0)
        return cannot_start(s, "there is no mpiexec, and no free TCP port on 127.0.0.1 for ranks to meet");
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", port, 1);
    set_number("WORLD_SIZE", s->plan->world, 1);
    set_number("LOCAL_WORLD_SIZE", s->plan->world, 1);
    for (int r = 0; r < s->plan->world; r++) {
        s->child[r] = run(s, self, s->plan->argv, SIGKILL, r == 0 ? 0 : s->child[0], r);
        if (s->child[r] < 0)
            return cannot_start(s, strerror(errno));
        s->children++;
    }
    return true;
}

bool launch_start(launch_start_t *s)
{
    char self[4096], mpiexec[4096], text[32];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0)
        return cannot_start(s, "this program is not found through /proc/self/exe: is /proc mounted?");
    self[length] = '\0';
    snprintf(text, sizeof text, "%d:%d", (int)getpid(), s->board);
    setenv(LAUNCH_ENVIRONMENT, text, 1);
    set_number("OMP_NUM_THREADS", s->plan->threads, 0);
    set_waiting((int64_t)s->plan->threads * s->plan->world, s->plan->cores);
#ifdef HAVE_MPI
    if (find_program("mpiexec", mpiexec, sizeof mpiexec))
        return start_mpiexec(s, mpiexec, self);
#else
    (void)mpiexec;
    (void)find_program;
    (void)start_mpiexec;
#endif
    return start_ranks(s, self);
}
