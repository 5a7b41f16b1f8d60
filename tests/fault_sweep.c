/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "tests/fault_sweep.h"
#include "tests/sanitized.h"

#include "zero/checkpoint/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

void sweep_need(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

bool sweep_read(int fd, void *to, size_t bytes)
{
    for (char *at = to; bytes > 0;) {
        ssize_t n = read(fd, at, bytes);
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* ---- the sweep -------------------------------------------------------------------------------------------------- */

static char scratch[PATH_MAX], module[PATH_MAX], program[PATH_MAX], folder[PATH_MAX + 8], counter[PATH_MAX + 8],
    call_log[PATH_MAX + 8];
static int lost, mixed, hung;
static const sweep_t *sweep;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}
static void remove_tree(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Runs the program with a fault (kind NULL: none); its last report is *saved. Returns its wait status, and how many
 * calls were counted. */
static int run_program(const char *kind, uint64_t at, bool stays, int64_t *saved, uint64_t *points)
{
    uint64_t zero = 0;
    int reports[2], status, fd = open(counter, O_RDWR | O_CREAT | O_TRUNC, 0600);
    char number[32], report_fd[16];
    sweep_need(fd >= 0 && write(fd, &zero, sizeof zero) == (ssize_t)sizeof zero, counter);
    sweep_need(pipe(reports) == 0, "a pipe");
    pid_t child = fork();
    sweep_need(child >= 0, "fork");
    if (child == 0) {
        snprintf(number, sizeof number, "%llu", (unsigned long long)at);
        snprintf(report_fd, sizeof report_fd, "%d", reports[1]);
        close(reports[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("ZERO_FAULT_BELOW", folder, 1);
        setenv("ZERO_FAULT_COUNTER", counter, 1);
        setenv("ZERO_FAULT_AT", number, 1);
        setenv("ZERO_FAULT_KIND", kind ? kind : "kill", 1);
        if (stays)
            setenv("ZERO_FAULT_STAY", "1", 1);
        setenv("ZERO_FAULT_LOG", call_log, 1);
        setenv("LD_PRELOAD", module, 1);
        int null = open("/dev/null", O_WRONLY);
        if (kind && !getenv("ZERO_FAULT_SHOW"))
            dup2(null, 2);
        execl(program, program, "save", folder, report_fd, (char *)NULL);
        _exit(127);
    }
    close(reports[1]);
    /* ends when every rank has ended: none of them writes any more */
    for (int64_t step; sweep_read(reports[0], &step, sizeof step);)
        *saved = step;
    close(reports[0]);
    sweep_need(waitpid(child, &status, 0) == child, "waitpid");
    sweep_need(pread(fd, points, sizeof *points, 0) == (ssize_t)sizeof *points, counter);
    close(fd);
    hung += WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
    return status;
}

/* Older checkpoints that are still there: what has a manifest is whole. */
static void check_others(int64_t newest, const char *when)
{
    int64_t *steps;
    int count;
    zero_error_t error;
    zero_checkpoint_t *checkpoint;
    sweep_need(zero_folder_list(folder, &steps, &count, &error) == ZERO_OK, folder);
    for (int k = 0; k < count; k++) {
        char *path = zero_folder_step(folder, steps[k]);
        error.reason = ZERO_REASON_NONE;
        if (steps[k] == newest)
            ;
        else if (zero_checkpoint_open(&checkpoint, path, &error) == ZERO_OK) {
            mixed += !sweep->is_one(checkpoint, steps[k]);
            zero_checkpoint_close(checkpoint);
        } else if (error.reason != ZERO_REASON_NO_CHECKPOINT) {
            fprintf(stderr, "%s: %s\n", when, error.text);
            mixed++;
        }
        free(path);
    }
    free(steps);
}

/* Loads what exists, which has to be of a step not below `least`. Returns the step. */
static int64_t check(int64_t least, const char *when)
{
    zero_checkpoint_t *checkpoint;
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_error_t error;
    if (zero_checkpoint_open(&checkpoint, folder, &error) != ZERO_OK) {
        fprintf(stderr, "%s: %s\n", when, error.text);
        lost++;
        return -1;
    }
    zero_checkpoint_info(checkpoint, &info);
    if (info.step < least) {
        fprintf(stderr, "%s: step %lld was saved, step %lld is loaded\n", when, (long long)least, (long long)info.step);
        lost++;
    }
    if (info.warning || !sweep->is_one(checkpoint, info.step)) {
        fprintf(stderr, "%s: step %lld is not what was saved%s%s\n", when, (long long)info.step,
                info.warning ? ": " : "", info.warning ? info.warning : "");
        mixed++;
    }
    int64_t step = info.step;
    zero_checkpoint_close(checkpoint);
    check_others(step, when);
    return step;
}

/* The folder with its first checkpoint. */
static void begin(void)
{
    remove_tree(folder);
    sweep_need(mkdir(folder, 0777) == 0, folder);
    sweep->begin(folder);
}

void sweep_run(void)
{
    int64_t saved;
    uint64_t points;
    sweep_need(run_program(NULL, 0, false, &saved, &points) == 0, "a run without a fault");
}

/* One fault, then a run without one, which leaves one whole checkpoint and nothing else. Returns how many calls the
 * first run made. */
static uint64_t strike(const char *kind, uint64_t at, bool stays)
{
    int64_t saved = sweep->first;
    uint64_t points, unused;
    char when[100];
    snprintf(when, sizeof when, "%s at call %llu%s", kind ? kind : "no fault", (unsigned long long)at,
             stays ? " and later" : "");
    begin();
    int status = run_program(kind, at, stays, &saved, &points);
    bool killed = WIFSIGNALED(status) || WEXITSTATUS(status) == 3;
    if (killed != (kind && strcmp(kind, "kill") == 0 && at <= points) || (!killed && WEXITSTATUS(status) > 1)) {
        fprintf(stderr, "%s: the program ends with %x\n", when, (unsigned)status);
        hung++;
    }
    int64_t step = check(saved, when);
    saved = step;
    status = run_program(NULL, 0, false, &saved, &unused);
    int64_t *steps, last;
    int count;
    last = check(saved, when);
    if (status != 0 || last != step + sweep->steps ||
        zero_folder_list(folder, &steps, &count, &(zero_error_t){0}) != ZERO_OK || count != sweep->keep) {
        fprintf(stderr, "%s: the next run ends with %x at step %lld\n", when, (unsigned)status, (long long)last);
        hung++;
    } else {
        free(steps);
    }
    return points;
}

/* ---- what is on the drive --------------------------------------------------------------------------------------- */

/* A file or folder, and whether the drive may still lack its bytes, or names in it. */
typedef struct place {
    char path[600];
    bool bytes, names;
    bool manifest; /* the drive may still have the manifest that was removed */
} place_t;
static place_t places[200];
static int place_count;

static place_t *place(const char *path, size_t length)
{
    for (int k = 0; k < place_count; k++)
        if (strlen(places[k].path) == length && memcmp(places[k].path, path, length) == 0)
            return &places[k];
    sweep_need(place_count < 200 && length < sizeof places[0].path, "too many files");
    memcpy(places[place_count].path, path, length);
    return &places[place_count++];
}
static place_t *folder_of(const char *path)
{
    return place(path, (size_t)(strrchr(path, '/') - path));
}
static bool ends_with(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n >= m && strcmp(path + n - m, end) == 0;
}

/* One call. Returns what is wrong about it, or NULL. */
static const char *follow(const char *call, const char *path)
{
    if (strcmp(call, "fsync") == 0 || strcmp(call, "fdatasync") == 0) {
        place_t *synced = place(path, strlen(path));
        synced->bytes = synced->names = synced->manifest = false;
    } else if (strcmp(call, "write") == 0 || strcmp(call, "fallocate") == 0 || strcmp(call, "ftruncate") == 0) {
        place(path, strlen(path))->bytes = true;
    } else if (strcmp(call, "create") == 0 || strcmp(call, "mkdir") == 0) {
        folder_of(path)->names |= !ends_with(path, "/manifest.json.tmp") && !ends_with(path, "/.lock") &&
                                  strcmp(path, folder) != 0; /* it is there */
    } else if (strcmp(call, "rename") == 0) {
        const place_t *step = folder_of(path);
        for (int k = 0; k < place_count; k++)
            if (places[k].bytes && strncmp(places[k].path, step->path, strlen(step->path)) == 0)
                return "the drive lacks bytes of the checkpoint";
        if (step->names || folder_of(step->path)->names)
            return "the drive lacks names of the checkpoint";
        folder_of(path)->names = true;
    } else if (strcmp(call, "unlink") == 0 && ends_with(path, "/manifest.json")) {
        for (int k = 0; k < place_count; k++)
            if (places[k].names)
                return "the drive lacks the name of the newer manifest";
        folder_of(path)->manifest = true;
    } else if (strcmp(call, "unlink") == 0 && folder_of(path)->manifest) {
        return "the drive may still have the manifest";
    }
    return NULL;
}

/* A checkpoint is on the drive before it has its manifest; the manifest before an older one goes. Nothing but the order
 * of calls shows that. */
static void check_order(void)
{
    char *line = NULL;
    size_t room = 0;
    int renames = 0, unlinks = 0;
    FILE *file = fopen(call_log, "r");
    sweep_need(file != NULL, call_log);
    for (ssize_t n; (n = getline(&line, &room, file)) > 0;) {
        char *path = strchr(line, ' ');
        line[n - 1] = '\0';
        *path++ = '\0';
        renames += strcmp(line, "rename") == 0;
        unlinks += strcmp(line, "unlink") == 0;
        const char *wrong = follow(line, path);
        if (wrong) {
            fprintf(stderr, "%s %s: %s\n", line, path, wrong);
            lost++;
        }
    }
    free(line);
    fclose(file);
    sweep_need(renames == sweep->saves && unlinks > sweep->saves, "the log of calls");
}

/* ----------------------------------------------------------------------------------------------------------------- */

static void make_scratch(void)
{
    const char *const places[] = {"/dev/shm", "."};
    const char *last;
    for (int k = 0; k < 2 && scratch[0] == '\0'; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s/checkpoint_faults.XXXXXX", places[k]);
        if (mkdtemp(name))
            sweep_need(realpath(name, scratch) != NULL, name);
    }
    sweep_need(scratch[0] != '\0', "a folder");
    snprintf(folder, sizeof folder, "%s/ck", scratch);
    snprintf(counter, sizeof counter, "%s/count", scratch);
    snprintf(call_log, sizeof call_log, "%s/log", scratch);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    sweep_need(n > 0, "/proc/self/exe");
    last = strrchr(program, '/');
    snprintf(module, sizeof module, "%.*s/%sfault_files.so", (int)(last - program), program,
             n > 6 && memmem(program, (size_t)n, "/.libs/", 7) ? "" : ".libs/");
}

/* A run without a fault, and what it did. */
static void run_logged(void)
{
    begin();
    int log = open(call_log, O_WRONLY | O_CREAT, 0600);
    sweep_need(log >= 0 && close(log) == 0, call_log);
    sweep_run();
    check_order();
    sweep_need(unlink(call_log) == 0, call_log);
}

int sweep_main(const sweep_t *own, int argc, char **argv)
{
    static const char *const kinds[] = {"enospc", "eio", "erofs", "short"};
    sweep = own;
    if (SANITIZED) {
        puts("LD_PRELOAD does not go with a sanitizer");
        return 77;
    }
    make_scratch();
    if (access(module, R_OK) != 0) {
        printf("there is no %s: this build has no shared libraries\n", module);
        return 77;
    }
    if (argc > 2) {
        strike(argv[1], strtoull(argv[2], NULL, 10), argc > 3);
        printf("lost %d, mixed %d: %s\n", lost, mixed, scratch);
        return lost + mixed + hung > 0;
    }
    const uint64_t stride = getenv("ZERO_CHECK_FULL") ? 1 : (uint64_t)sweep->stride;
    run_logged();
    uint64_t points = strike(NULL, 0, false);
    for (uint64_t at = 1; at <= points; at++)
        strike("kill", at, true);
    int errors = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (int stays = 0; stays < 2; stays++)
            for (uint64_t at = 1 + (2 * k + (size_t)stays) % stride; at <= points; at += stride, errors++)
                strike(kinds[k], at, stays);
    remove_tree(scratch);
    printf("%d errors\npoints %llu, lost %d, mixed %d\n", errors, (unsigned long long)points, lost, mixed);
    return points < sweep->least || lost + mixed + hung > 0;
}
