#define _GNU_SOURCE
#include "examples/zero_train/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ENVIRONMENT "ZERO_TRAIN_PARENT" /* "PID:FD" of the shared memory */
#define PATIENCE_S 6.0                  /* from a failure until what still runs is killed */
enum { POLL_MS = 10 };

enum { STATE_NONE = 0, STATE_RUNNING, STATE_ENDED, STATE_FAILED };

/* One a rank, on a cache line of its own. */
typedef struct place {
    _Alignas(64) _Atomic int32_t process;
    _Atomic int32_t state, code;
    _Atomic int64_t step;
} place_t;

/* What parent and ranks share. A sentence is written by whoever claims it first, and read once it is complete. */
typedef struct board {
    int32_t world, terminal;
    struct {
        _Atomic int32_t claimed, complete;
        int32_t rank, code;
        char sentence[1000];
    } failure[2]; /* [1]: of a peer */
    place_t place[];
} board_t;

struct launch {
    board_t *board;
    size_t bytes;
    place_t *place;
    int rank;
};

/* ---- how this process was started ------------------------------------------------------------------------------------ */

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
    if (environment_int("OMPI_COMM_WORLD_RANK", &r) || environment_int("PMIX_RANK", &r)) {
        kind = LAUNCH_MPI;
        environment_int("OMPI_COMM_WORLD_SIZE", &w);
    } else if (getenv("RANK") != NULL && getenv("WORLD_SIZE") != NULL && getenv("MASTER_ADDR") != NULL && getenv("MASTER_PORT") != NULL) {
        kind = LAUNCH_TORCHRUN;
        w = 1; /* where it is no number, the communicator will say so */
        environment_int("RANK", &r);
        environment_int("WORLD_SIZE", &w);
    }
    if (rank != NULL)
        *rank = r;
    if (world != NULL)
        *world = w;
    return kind;
}

/* ---- a rank ---------------------------------------------------------------------------------------------------------- */

/* Where the parent's standard output is a pipe, prints there and not by way of mpiexec, which on losing its reader would complain and end us. */
static void take_output(int parent)
{
    char path[64];
    struct stat info;
    int ends[2];
    snprintf(path, sizeof path, "/proc/%d/fd/1", parent);
    if (stat(path, &info) != 0 || !S_ISFIFO(info.st_mode))
        return;
    int file = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 && errno == ENXIO && pipe(ends) == 0) { /* nobody reads any more: nor does anybody from a pipe of our own */
        close(ends[0]);
        file = ends[1];
    }
    if (file < 0)
        return;
    if (fcntl(file, F_SETFL, 0) == 0)
        dup2(file, STDOUT_FILENO);
    close(file);
}

launch_t *launch_attach(int rank)
{
    const char *text = getenv(ENVIRONMENT);
    int parent, descriptor;
    char path[64];
    struct stat info;
    if (text == NULL || sscanf(text, "%d:%d", &parent, &descriptor) != 2)
        return NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (kill(parent, 0) != 0) /* died before we asked to be told */
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
        take_output(parent);
    launch->place = &launch->board->place[rank];
    atomic_store(&launch->place->process, (int32_t)getpid());
    atomic_store(&launch->place->state, STATE_RUNNING);
    return launch;
fail:
    if (file >= 0)
        close(file);
    free(launch);
    return NULL;
}

bool launch_terminal(const launch_t *launch)
{
    return launch != NULL && launch->board->terminal != 0;
}

void launch_step(launch_t *launch, int64_t step)
{
    if (launch != NULL)
        atomic_store(&launch->place->step, step);
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

/* ---- the parent ------------------------------------------------------------------------------------------------------ */

typedef struct parent {
    board_t *board;
    int descriptor, world;
    pid_t *child;        /* mpiexec, or each rank */
    int children, alive;
    int child_status;    /* wait status of the first child that did not end well, else 0 */
    int signal;          /* that reached us, 0: none */
    bool *told;          /* ranks that got SIGUSR1 */
    int vanished;        /* -1: none */
    double failed_at;    /* 0: nothing failed so far */
} parent_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void complain(const char *sentence)
{
    fprintf(stderr, "zero_train: %s\n", sentence);
}

/* Full path of a program that PATH finds. */
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

/* A TCP port of this machine that nobody uses now; 0: none. */
static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int port = 0, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s >= 0 && bind(s, (struct sockaddr *)&address, length) == 0 && getsockname(s, (struct sockaddr *)&address, &length) == 0)
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

/* How long threads that wait for others of their rank spin before they sleep, unless the user chose. OpenMP cannot know of other processes: it spins for
 * milliseconds as if every thread had a core, and where a core is shared that time is taken from the very thread that is waited for. 2 ranks of 2 threads
 * on 2 cores took 15 to 22 s for 50 steps of the default model, and 0.6 s when waiting threads slept at once. Where there are cores enough, sleeping at once
 * costs about half (0.60 s, not 0.42, on one rank of 2 threads), but somebody else may keep a core busy (1.9 to 7.7 s): 1000 spins, GCC's own choice for more
 * threads than cores, cost nothing then (0.42 s) and little when busy (1.1 s). true: the environment changed. */
static bool set_waiting(int64_t running, int cores)
{
    if (getenv("OMP_WAIT_POLICY") != NULL || getenv("GOMP_SPINCOUNT") != NULL)
        return false;
    return setenv(running > cores ? "OMP_WAIT_POLICY" : "GOMP_SPINCOUNT", running > cores ? "passive" : "1000", 1) == 0;
}

void launch_restart(char *const *argv)
{
    if (set_waiting(0, 1))
        execv("/proc/self/exe", argv);
}

/* Runs program in a child; death: the signal that it gets when we die. group: 0 a new process group, else that one. rank >= 0: as torchrun would. */
static pid_t start(const char *program, char *const *argv, int death, pid_t group, int rank, const sigset_t *mask)
{
    pid_t self = getpid(), child = fork();
    if (child != 0) {
        if (child > 0)
            setpgid(child, group); /* here and in the child: whichever comes first */
        return child;
    }
    setpgid(0, group);
    prctl(PR_SET_PDEATHSIG, death);
    if (getppid() != self)
        _exit(1);
    sigprocmask(SIG_SETMASK, mask, NULL);
    int input = open("/dev/null", O_RDONLY);
    if (input >= 0)
        dup2(input, STDIN_FILENO);
    if (rank >= 0) {
        set_number("RANK", rank, 1);
        set_number("LOCAL_RANK", rank, 1);
    }
    execv(program, argv);
    fprintf(stderr, "zero_train: cannot run '%s': %s\n", program, strerror(errno));
    _exit(127);
}

static int start_all(parent_t *p, int threads, int cores, char *const *argv, const sigset_t *mask)
{
    char self[4096], mpiexec[4096], world[16], text[32];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    int argc = 0;
    if (length <= 0) {
        complain("cannot find its own program through /proc/self/exe: is /proc mounted?");
        return -1;
    }
    self[length] = '\0';
    snprintf(text, sizeof text, "%d:%d", (int)getpid(), p->descriptor);
    setenv(ENVIRONMENT, text, 1);
    set_number("OMP_NUM_THREADS", threads, 0);
    set_waiting((int64_t)threads * p->world, cores);
#ifdef HAVE_MPI
    bool mpi = find_program("mpiexec", mpiexec, sizeof mpiexec);
#else
    bool mpi = false;
    (void)mpiexec;
    (void)find_program;
#endif
    if (!mpi) {
        int port = free_port();
        if (port == 0) {
            complain("cannot start ranks: there is no mpiexec, and no free TCP port on 127.0.0.1 for ranks to meet");
            return -1;
        }
        setenv("MASTER_ADDR", "127.0.0.1", 1);
        set_number("MASTER_PORT", port, 1);
        set_number("WORLD_SIZE", p->world, 1);
        set_number("LOCAL_WORLD_SIZE", p->world, 1);
        for (int r = 0; r < p->world; r++) {
            p->child[r] = start(self, argv, SIGKILL, r == 0 ? 0 : p->child[0], r, mask);
            if (p->child[r] < 0)
                break;
            p->children++;
        }
    } else {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
        setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
        setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
        /* All on this machine: the rest of Open MPI's start-up would only cost time. */
        setenv("OMPI_MCA_pml", "ob1", 0);
        setenv("OMPI_MCA_btl", "self,vader", 0);
        setenv("OMPI_MCA_plm", "isolated", 0);
        setenv("HWLOC_HIDE_ERRORS", "2", 0); /* in a container without /sys, hwloc would put lines of its own beside our sentences */
        snprintf(world, sizeof world, "%d", p->world);
        while (argv[argc] != NULL)
            argc++;
        char **line = calloc((size_t)argc + 6, sizeof *line);
        if (line == NULL)
            return -1;
        char *const head[5] = {mpiexec, "-q", "-n", world, self};
        memcpy(line, head, sizeof head);
        for (int i = 1; i < argc; i++)
            line[4 + i] = argv[i];
        /* on SIGTERM mpiexec ends its ranks and removes its files, which it could not on SIGKILL */
        p->child[0] = start(mpiexec, line, SIGTERM, 0, -1, mask);
        p->children = p->child[0] > 0;
        free(line);
    }
    p->alive = p->children;
    if (p->children < (mpi ? 1 : p->world)) {
        fprintf(stderr, "zero_train: cannot start %d ranks: %s\n", p->world, strerror(errno));
        return -1;
    }
    return 0;
}

/* SIGUSR1 to every rank that has noted its process and was not told yet. */
static void pass_on(parent_t *p)
{
    for (int r = 0; r < p->world; r++) {
        int32_t process = atomic_load(&p->board->place[r].process);
        if (!p->told[r] && process > 0 && atomic_load(&p->board->place[r].state) == STATE_RUNNING) {
            kill(process, SIGUSR1);
            p->told[r] = true;
        }
    }
}

static void kill_all(parent_t *p)
{
    for (int r = 0; r < p->world; r++) {
        int32_t process = atomic_load(&p->board->place[r].process);
        if (process > 0 && atomic_load(&p->board->place[r].state) == STATE_RUNNING)
            kill(process, SIGKILL);
    }
    for (int i = 0; i < p->children; i++)
        if (p->child[i] > 0)
            kill(p->child[i], p->children == 1 && p->world > 1 ? SIGTERM : SIGKILL);
}

static void reap(parent_t *p)
{
    for (int i = 0; i < p->children; i++) {
        int status;
        if (p->child[i] <= 0 || waitpid(p->child[i], &status, WNOHANG) != p->child[i])
            continue;
        p->child[i] = 0;
        p->alive--;
        if (p->child_status == 0)
            p->child_status = status;
    }
}

/* Notes the first rank whose process is gone though it had not ended. */
static void look_for_vanished(parent_t *p)
{
    for (int r = 0; r < p->world; r++) {
        place_t *place = &p->board->place[r];
        if (atomic_load(&place->state) != STATE_RUNNING || kill(atomic_load(&place->process), 0) == 0 || errno != ESRCH)
            continue;
        if (atomic_load(&place->state) == STATE_RUNNING) { /* not noted between the two looks */
            p->vanished = r;
            return;
        }
    }
}

/* Until every child is reaped. */
static void watch(parent_t *p, const sigset_t *waited)
{
    const struct timespec tick = {.tv_nsec = POLL_MS * 1000000L};
    double killed_at = 0;
    while (p->alive > 0) {
        int s = sigtimedwait(waited, NULL, &tick);
        if (s > 0 && s != SIGCHLD) {
            if (p->signal != 0 && s != SIGUSR1)
                kill_all(p); /* asked twice: now */
            if (p->signal == 0)
                p->signal = s;
        }
        /* in this order: a rank that failed with a sentence is no rank that vanished, nor are those that mpiexec then ends */
        if (p->failed_at == 0 && (atomic_load(&p->board->failure[0].complete) || p->vanished >= 0))
            p->failed_at = now();
        if (p->failed_at == 0)
            look_for_vanished(p);
        reap(p);
        if (p->signal != 0)
            pass_on(p);
        if (p->failed_at == 0 && p->child_status != 0 && p->alive > 0)
            p->failed_at = now();
        if (p->failed_at > 0 && now() - p->failed_at > PATIENCE_S && now() - killed_at > 1) {
            kill_all(p);
            killed_at = now();
            if (now() - p->failed_at > PATIENCE_S + 2)
                for (int i = 0; i < p->children; i++)
                    if (p->child[i] > 0)
                        kill(p->child[i], SIGKILL);
        }
    }
    if (p->vanished < 0 && !atomic_load(&p->board->failure[0].complete))
        look_for_vanished(p);
}

/* Prints what failed; returns the exit status. */
static int conclude(const parent_t *p)
{
    const board_t *board = p->board;
    int code = WIFEXITED(p->child_status) ? WEXITSTATUS(p->child_status) : 128 + WTERMSIG(p->child_status);
    if (atomic_load(&board->failure[0].complete)) {
        complain(board->failure[0].sentence);
        return board->failure[0].code;
    }
    if (p->vanished >= 0 && p->signal != 0 && code == 128 + p->signal)
        return code; /* ended by the signal before there was anything to finish */
    if (p->vanished >= 0) {
        const place_t *place = &board->place[p->vanished];
        char how[64] = "ended without a word";
        if (code > 128 && code < 128 + 65)
            snprintf(how, sizeof how, "was killed by signal %d (%s)", code - 128, strsignal(code - 128));
        fprintf(stderr, "zero_train: rank %d (process %d) %s after step %lld, and the other ranks were stopped%s\n", p->vanished,
                (int)atomic_load(&place->process), how, (long long)atomic_load(&place->step),
                code == 128 + SIGKILL ? " (where nobody killed it, memory ran out: look at the system's log)" : "");
        return 1;
    }
    if (atomic_load(&board->failure[1].complete)) {
        complain(board->failure[1].sentence);
        return board->failure[1].code;
    }
    int started = 0, last = 0;
    for (int r = 0; r < p->world; r++) {
        int32_t state = atomic_load(&board->place[r].state);
        started += state != STATE_NONE;
        if (state == STATE_ENDED && atomic_load(&board->place[r].code) > last)
            last = atomic_load(&board->place[r].code);
    }
    if (p->signal != 0 && (last > 128 || started < p->world || p->child_status != 0))
        return 128 + p->signal;
    if (last != 0)
        return last;
    if (p->child_status != 0)
        fprintf(stderr, "zero_train: %d of %d ranks started, and what starts them ended with status %d\n", started, p->world, code);
    return p->child_status != 0 ? 1 : 0;
}

int launch_ranks(int world, int threads, int cores, char *const *argv)
{
    parent_t p = {.world = world, .vanished = -1, .descriptor = -1};
    size_t bytes = sizeof(board_t) + (size_t)world * sizeof(place_t);
    sigset_t waited, mask;
    int code = 1;
    p.child = calloc((size_t)world, sizeof *p.child);
    p.told = calloc((size_t)world, sizeof *p.told);
    p.descriptor = memfd_create("zero_train", MFD_CLOEXEC);
    if (p.child == NULL || p.told == NULL || p.descriptor < 0 || ftruncate(p.descriptor, (off_t)bytes) != 0) {
        complain("no memory for starting ranks");
        goto end;
    }
    p.board = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p.descriptor, 0);
    if (p.board == MAP_FAILED) {
        p.board = NULL;
        complain("no memory for starting ranks");
        goto end;
    }
    p.board->world = world;
    p.board->terminal = isatty(STDOUT_FILENO);
    sigemptyset(&waited);
    sigaddset(&waited, SIGCHLD);
    sigaddset(&waited, SIGTERM);
    sigaddset(&waited, SIGINT);
    sigaddset(&waited, SIGHUP);
    sigaddset(&waited, SIGUSR1);
    sigprocmask(SIG_BLOCK, &waited, &mask);
    if (start_all(&p, threads, cores, argv, &mask) != 0) {
        kill_all(&p);
        while (p.alive > 0 && waitpid(-1, NULL, 0) > 0)
            p.alive--;
        goto end;
    }
    watch(&p, &waited);
    code = conclude(&p);
end:
    if (p.board != NULL)
        munmap(p.board, bytes);
    if (p.descriptor >= 0)
        close(p.descriptor);
    free(p.child);
    free(p.told);
    return code;
}
