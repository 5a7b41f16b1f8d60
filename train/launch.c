/* SPDX-License-Identifier: Apache-2.0 */
/* launch.c - the parent: watches mpiexec and the ranks, and reports how they ended. */
#define _GNU_SOURCE
#include "train/launch.h"
#include "train/launch_board.h"
#include "train/launch_pipe.h"
#include "train/launch_start.h"
#include "train/report.h"
#include "train/terminal.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_S 0.1      /* between two looks at the terminal */
#define PATIENCE_S 6.0  /* from a failure until the parent ends the remaining processes */
#define TIDY_S 4.0      /* for mpiexec to end its ranks and remove its files */
#define DEATH_S 10.0    /* the longest wait for a killed process to be gone */
#define FINISH_S 30.0   /* after a stop signal, the minimum that ranks have for a step; a save does not count */
#define FINISH_STEPS 10 /* and the same as a multiple of the longest step so far */
enum { POLL_MS = 10 };

typedef struct parent {
    const launch_plan_t *plan;
    board_t *board;
    size_t bytes;
    launch_start_t start;
    launch_pipe_t output, errors, said; /* said: output of mpiexec, and of ranks that have not attached */
    int alive;                          /* children */
    int child_status;                   /* wait status of the first child that failed, else 0 */
    int signal;                         /* that reached us, 0: none */
    bool *told;                         /* ranks that got SIGUSR1 */
    int vanished;                       /* -1: none */
    double looked_at;                   /* the terminal */
    double began_at;
    double finish_s;         /* FINISH_S; ZERO_TEST_FINISH_S shortens it for tests */
    double failed_at;        /* 0: no failure so far */
    double ending_at;        /* 0: the parent is not ending processes */
    bool killed;             /* SIGKILL was sent to children */
    int64_t step;            /* the last step seen */
    double step_at, longest; /* when it began, and the longest time of a step */
    enum { NOTHING = 0, NOT_STARTED, NOT_FINISHED } overdue;
} parent_t;

static void complain(const char *format, ...) ZERO_PRINTF(1, 2);
static void complain(const char *format, ...)
{
    va_list arguments;
    fputs("zero_train: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* ---- progress of the ranks -------------------------------------------------------------------------------------- */

static int state_of(const parent_t *p, int rank)
{
    return atomic_load(&p->board->place[rank].state);
}

static bool runs(const parent_t *p, int rank)
{
    int state = state_of(p, rank);
    return state > STATE_NONE && state < STATE_ENDED;
}

/* Ranks that came as far as state, wherever they are by now. */
static int reached(const parent_t *p, int state)
{
    int count = 0;
    for (int r = 0; r < p->plan->world; r++)
        count += state_of(p, r) >= state;
    return count;
}

/* Notes steps, and how long the longest took. */
static void look_at_steps(parent_t *p)
{
    int64_t step = atomic_load(&p->board->place[0].step);
    if (step == p->step)
        return;
    double t = report_clock();
    if (p->step > 0 && t - p->step_at > p->longest)
        p->longest = t - p->step_at;
    p->step = step;
    p->step_at = t;
}

/* Notes the width of the terminal, which may change, and whether we are in its foreground. */
static void look_at_terminal(parent_t *p)
{
    double t = report_clock();
    if (t - p->looked_at < LOOK_S)
        return;
    p->looked_at = t;
    atomic_store(&p->board->columns, terminal_columns(STDOUT_FILENO));
}

/* Records the first rank whose process is gone although the rank had not ended. */
static void look_for_vanished(parent_t *p)
{
    for (int r = 0; r < p->plan->world; r++) {
        if (!runs(p, r) || kill(atomic_load(&p->board->place[r].process), 0) == 0 || errno != ESRCH)
            continue;
        if (runs(p, r)) { /* it ended between the two checks */
            p->vanished = r;
            return;
        }
    }
}

/* ---- ending the processes --------------------------------------------------------------------------------------- */

/* Sends SIGUSR1 to each rank that has not got it yet. */
static void pass_on(parent_t *p)
{
    for (int r = 0; r < p->plan->world; r++)
        if (!p->told[r] && runs(p, r)) {
            kill(atomic_load(&p->board->place[r].process), SIGUSR1);
            p->told[r] = true;
        }
}

/* Signals the children, and their own children in the same process group. */
static void signal_children(const parent_t *p, int number)
{
    if (p->alive > 0)
        kill(-p->start.child[0], number);
}

/* Ends all processes. Once begun, it is called until none is left. mpiexec first gets time to clean up. */
static void end_all(parent_t *p)
{
    double t = report_clock();
    if (p->ending_at == 0) {
        p->ending_at = t;
        /* libraries report that other processes of the job were killed, which is no news */
        launch_pipe_pass(&p->errors, t, p->plan->timeout_s);
        p->errors.out = -1;
        for (int r = 0; r < p->plan->world; r++)
            if (runs(p, r))
                kill(atomic_load(&p->board->place[r].process), SIGKILL);
        signal_children(p, p->start.mpi ? SIGTERM : SIGKILL);
    }
    if (!p->killed && t - p->ending_at > TIDY_S) {
        p->killed = true;
        signal_children(p, SIGKILL);
    }
    if (t - p->ending_at > TIDY_S + DEATH_S)
        p->alive = 0; /* the kernel holds the remaining processes: nothing can end them */
}

static void reap(parent_t *p)
{
    for (int i = 0; i < p->start.children; i++) {
        int status;
        pid_t child = p->start.child[i];
        if (child <= 0 || waitpid(child, &status, WNOHANG) != child)
            continue;
        if (i > 0) /* the first child's number names the process group */
            p->start.child[i] = 0;
        p->alive--;
        if (p->child_status == 0)
            p->child_status = status;
    }
}

/* Handles a signal to the parent: the ranks end after their step if all are training, else at once. */
static void obey(parent_t *p, int number)
{
    if (p->signal != 0 && number != SIGUSR1)
        end_all(p); /* the second signal: end now */
    if (p->signal != 0)
        return;
    p->signal = number;
    p->step_at = report_clock();
    if (p->alive == 0 || reached(p, STATE_TRAINING) < p->plan->world)
        end_all(p);
}

/* Checks whether ranks exceed their time limits. */
static void look_at_clock(parent_t *p)
{
    double t = report_clock(), finish = p->plan->timeout_s;
    if (p->ending_at > 0)
        return;
    if (t - p->began_at > p->plan->timeout_s && reached(p, STATE_STARTED) < p->plan->world) {
        p->overdue = NOT_STARTED;
        end_all(p);
    }
    if (p->step > 0 && p->longest > 0)
        finish = FINISH_STEPS * p->longest > p->finish_s ? FINISH_STEPS * p->longest : p->finish_s;
    if (atomic_load(&p->board->place[0].saving)) /* a save is progress, too */
        p->step_at = t;
    if (p->signal != 0 && t - p->step_at > finish) {
        p->overdue = NOT_FINISHED;
        end_all(p);
    }
}

static bool pass_pipes(parent_t *p)
{
    double t = report_clock();
    bool empty = launch_pipe_pass(&p->output, t, p->plan->timeout_s);
    empty = launch_pipe_pass(&p->errors, t, p->plan->timeout_s) && empty;
    launch_pipe_pass(&p->said, t, p->plan->timeout_s);
    return empty;
}

/* Runs until every child is reaped and all their output is forwarded. */
static void watch(parent_t *p, const sigset_t *waited)
{
    const struct timespec tick = {.tv_nsec = POLL_MS * 1000000L};
    for (bool empty = true; p->alive > 0 || !empty;) {
        int s = sigtimedwait(waited, NULL, &tick);
        empty = pass_pipes(p);
        if (s > 0 && s != SIGCHLD)
            obey(p, s);
        if (p->alive == 0 && p->ending_at > 0)
            break; /* the sender of the signal does not wait for the reader of our output */
        /* Check in this order: a rank that failed with a sentence has not vanished, nor have the ranks that mpiexec
         * then ends. */
        bool failed = atomic_load(&p->board->failure[0].complete) || p->vanished >= 0;
        if (!failed && p->failed_at == 0 && p->ending_at == 0)
            look_for_vanished(p);
        look_at_steps(p);
        look_at_terminal(p);
        reap(p);
        if (p->signal != 0 && p->ending_at == 0)
            pass_on(p);
        if (p->failed_at == 0 && p->ending_at == 0 && (failed || (p->child_status != 0 && p->alive > 0)))
            p->failed_at = report_clock();
        look_at_clock(p);
        if (p->ending_at > 0 || (p->failed_at > 0 && report_clock() - p->failed_at > PATIENCE_S))
            end_all(p);
    }
    pass_pipes(p);
    if (p->vanished < 0 && !atomic_load(&p->board->failure[0].complete))
        look_for_vanished(p);
}

/* ---- files that remain ------------------------------------------------------------------------------------------ */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info, (void)kind, (void)where;
    return remove(path) == 0 ? 0 : -1;
}

/* Removes the folder of mpiexec's files if mpiexec was killed before it could. The name ends in mpiexec's process
 * number. */
static void tidy(const parent_t *p)
{
    const board_t *board = p->board;
    char path[sizeof board->session.path + 1], ending[24];
    struct utsname host;
    struct stat info;
    if (!p->start.mpi || p->start.children == 0 || (!p->killed && !WIFSIGNALED(p->child_status)))
        return;
    const char *folder = getenv("TMPDIR");
    if (atomic_load(&board->session.complete))
        snprintf(path, sizeof path, "%s", board->session.path);
    else if (uname(&host) == 0) /* Open MPI's name; no rank started and recorded it */
        snprintf(path, sizeof path, "%s/ompi.%.64s.%u/pid.%d", folder != NULL ? folder : "/tmp", host.nodename,
                 (unsigned)geteuid(), (int)p->start.child[0]);
    else
        return;
    snprintf(ending, sizeof ending, ".%d", (int)p->start.child[0]);
    size_t length = strlen(path), tail = strlen(ending);
    if (length > tail && strcmp(path + length - tail, ending) == 0 && lstat(path, &info) == 0 &&
        S_ISDIR(info.st_mode) && info.st_uid == geteuid())
        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- how the run ended ------------------------------------------------------------------------------------------ */

static const char *starter(const parent_t *p)
{
    return p->start.mpi ? "mpiexec" : "a rank's program";
}

/* Prints mpiexec's own messages: they help if the ranks did not get far enough to report. */
static void show_said(const parent_t *p)
{
    const launch_pipe_t *said = &p->said;
    if (said->held == 0)
        return;
    fprintf(stderr, "zero_train: output of %s:\n", starter(p));
    fwrite(said->text, 1, said->held, stderr);
    if (said->text[said->held - 1] != '\n')
        fputc('\n', stderr);
}

/* Describes a wait status of a child, as "ended with status 1". */
static void describe(int status, char *out, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(out, size, "was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "ended with status %d", WEXITSTATUS(status));
}

/* The place of a rank in the mesh, as ", stage 1, shard 0, tensor 3": the numbers that tell it from others. Where ranks
 * are only shards, its rank says the same. */
static void place_of(const launch_plan_t *plan, int rank, char *text, size_t size)
{
    const int local = rank % (plan->world / plan->pipe) / plan->tensor / plan->context,
              shards = plan->world / plan->pipe / plan->replicas / plan->tensor / plan->context;
    const struct {
        const char *name;
        int index, count;
    } axes[] = {{"stage", rank / (plan->world / plan->pipe), plan->pipe},
                {"replica", local / shards, plan->replicas},
                {"shard", local % shards, shards},
                {"context", rank / plan->tensor % plan->context, plan->context},
                {"tensor", rank % plan->tensor, plan->tensor}};
    size_t at = 0;
    text[0] = '\0';
    if (plan->pipe == 1 && plan->tensor == 1 && plan->context == 1)
        return;
    for (size_t i = 0; i < sizeof axes / sizeof axes[0] && at < size; i++)
        if (axes[i].count > 1)
            at += (size_t)snprintf(text + at, size - at, ", %s %d", axes[i].name, axes[i].index);
}

static int tell_vanished(const parent_t *p, int code)
{
    const board_place_t *place = &p->board->place[p->vanished];
    const bool joined = state_of(p, p->vanished) >= STATE_JOINED;
    char how[64] = "exited unexpectedly", when[48] = "while the ranks met", why[128] = "", where[96];
    struct rlimit room;
    if (code > 128 && code < 128 + 65)
        snprintf(how, sizeof how, "was killed by signal %d (%s)", code - 128, strsignal(code - 128));
    if (joined)
        snprintf(when, sizeof when, "after step %lld", (long long)atomic_load(&place->step));
    place_of(p->plan, p->vanished, where, sizeof where);
    if (code == 128 + SIGKILL)
        snprintf(why, sizeof why, " (where nobody killed it, memory ran out: look at the system's log)");
    else if (getrlimit(RLIMIT_AS, &room) == 0 &&
             room.rlim_cur != RLIM_INFINITY) /* libraries fail when it is all used */
        snprintf(why, sizeof why, " (a process may have %llu KiB of address space here: raise ulimit -v)",
                 (unsigned long long)room.rlim_cur / 1024);
    complain("rank %d (process %d%s) %s %s, and the other ranks were stopped%s", p->vanished,
             (int)atomic_load(&place->process), where, how, when, why);
    if (!joined)
        show_said(p);
    return 1;
}

/* The status after a signal to the parent, or the status that a rank recorded. 0: neither. */
static int told_status(const parent_t *p)
{
    int last = 0;
    for (int r = 0; r < p->plan->world; r++) {
        int code = atomic_load(&p->board->place[r].code);
        if (state_of(p, r) == STATE_ENDED && code > last)
            last = code;
    }
    if (p->signal != 0 && (last > 128 || reached(p, STATE_STARTED) < p->plan->world || p->child_status != 0))
        return 128 + p->signal;
    return last;
}

/* Prints the failure and returns the exit status. */
static int conclude(const parent_t *p)
{
    const board_t *board = p->board;
    const int world = p->plan->world, started = reached(p, STATE_STARTED);
    int code = WIFEXITED(p->child_status) ? WEXITSTATUS(p->child_status) : 128 + WTERMSIG(p->child_status);
    char how[96];
    if (p->overdue == NOT_FINISHED)
        complain("ranks were killed after step %lld: they finished no step for %.0f s after signal %d (%s)",
                 (long long)p->step, p->ending_at - p->step_at, p->signal, strsignal(p->signal));
    if (p->signal != 0 && p->ending_at > 0 && p->failed_at == 0)
        return 128 + p->signal; /* after we end the ranks, their messages do not count */
    if (atomic_load(&board->failure[0].complete)) {
        complain("%s", board->failure[0].sentence);
        return board->failure[0].code;
    }
    if (p->output.failure != 0 && p->output.failure != EPIPE) {
        if (p->output.failure == ETIMEDOUT)
            complain("cannot write standard output: its reader took nothing for %g s (--timeout)", p->plan->timeout_s);
        else
            complain("cannot write standard output: %s", strerror(p->output.failure));
        return 1;
    }
    if (p->overdue == NOT_STARTED) {
        complain("%d of %d ranks started within %g s: look at what %s does, or give more time with --timeout SECONDS",
                 started, world, p->plan->timeout_s, starter(p));
        show_said(p);
        return 1;
    }
    if (p->start.mpi && WIFSIGNALED(p->child_status) && p->ending_at == 0) {
        describe(p->child_status, how, sizeof how);
        complain("mpiexec (process %d) %s after step %lld, and its ranks ended with it", (int)p->start.child[0], how,
                 (long long)p->step);
        return 1;
    }
    if (p->vanished >= 0 && p->signal != 0 && code == 128 + p->signal)
        return code;
    if (p->vanished >= 0)
        return tell_vanished(p, code);
    if (atomic_load(&board->failure[1].complete)) {
        complain("%s", board->failure[1].sentence);
        return board->failure[1].code;
    }
    int told = told_status(p);
    if (told != 0)
        return told;
    if (p->child_status == 0 && started == world)
        return 0;
    describe(p->child_status, how, sizeof how);
    complain("%s %s when %d of %d ranks had started", starter(p), how, started, world);
    show_said(p);
    return 1;
}

/* ---- the whole run ---------------------------------------------------------------------------------------------- */

static bool prepare(parent_t *p)
{
    const int world = p->plan->world;
    const size_t table = sizeof(board_t) + (size_t)world * sizeof(board_place_t);
    p->bytes = table + p->plan->prompt_bytes;
    p->start.child = calloc((size_t)world, sizeof *p->start.child);
    p->told = calloc((size_t)world, sizeof *p->told);
    p->start.board = memfd_create("zero_train", MFD_CLOEXEC);
    if (p->start.child == NULL || p->told == NULL || p->start.board < 0 ||
        ftruncate(p->start.board, (off_t)p->bytes) != 0)
        return false;
    void *memory = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->start.board, 0);
    if (memory == MAP_FAILED)
        return false;
    p->board = memory;
    if (!launch_pipe_open(&p->output, STDOUT_FILENO) || !launch_pipe_open(&p->errors, STDERR_FILENO) ||
        !launch_pipe_open(&p->said, -1))
        return false;
    p->board->world = world;
    p->board->prompt_bytes = p->plan->prompt != NULL ? (int64_t)p->plan->prompt_bytes : -1;
    if (p->plan->prompt != NULL)
        memcpy((char *)memory + table, p->plan->prompt, p->plan->prompt_bytes);
    p->errors.beside = isatty(STDOUT_FILENO) ? &p->output : NULL;
    look_at_terminal(p);
    p->board->output = p->output.into;
    p->board->errors = p->errors.into;
    p->start.output = p->output.into;
    p->start.said = p->said.into;
    return true;
}

int launch_ranks(const launch_plan_t *plan)
{
    static const int signals[] = {SIGCHLD, SIGTERM, SIGINT, SIGUSR1, SIGHUP};
    parent_t p = {.plan = plan,
                  .vanished = -1,
                  .finish_s = FINISH_S,
                  .start = {.plan = plan, .board = -1},
                  .output = {.from = -1, .into = -1},
                  .errors = {.from = -1, .into = -1},
                  .said = {.from = -1, .into = -1}};
    struct sigaction hangup;
    sigset_t waited, mask;
    int code = 1;
    const char *limit = getenv("ZERO_TEST_FINISH_S");
    if (limit != NULL && strtod(limit, NULL) > 0)
        p.finish_s = strtod(limit, NULL);
    if (!prepare(&p)) {
        complain("cannot prepare to start %d ranks: %s", plan->world, strerror(errno));
        goto end;
    }
    sigemptyset(&waited);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&waited, signals[i]);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler == SIG_IGN)
        sigdelset(&waited, SIGHUP); /* nohup ignores it; if blocked, sigtimedwait would still see it */
    signal(SIGPIPE, SIG_IGN);       /* the ranks notice when our reader is gone */
    sigprocmask(SIG_BLOCK, &waited, &mask);
    p.start.mask = &mask;
    p.began_at = report_clock();
    bool started = launch_start(&p.start);
    p.alive = p.start.children;
    if (!started)
        end_all(&p);
    watch(&p, &waited);
    launch_pipe_erase(&p.output);
    if (started)
        code = conclude(&p);
    tidy(&p);
end:
    launch_pipe_close(&p.output);
    launch_pipe_close(&p.errors);
    launch_pipe_close(&p.said);
    if (p.board != NULL)
        munmap(p.board, p.bytes);
    if (p.start.board >= 0)
        close(p.start.board);
    free(p.start.child);
    free(p.told);
    return code;
}
