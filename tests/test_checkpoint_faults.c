/* SPDX-License-Identifier: Apache-2.0 */
/* test_checkpoint_faults.c - a program of three ranks that saves checkpoints, in which each call that changes a file
 * fails in turn (tests/fault_files.c). Whatever ended it, what is then loaded is one checkpoint, every byte of it, and
 * not older than the last one that was whole; and the program can go on from there.
 *
 *   test_checkpoint_faults              all of it: ends with "points N, lost 0, mixed 0"
 *   test_checkpoint_faults KIND AT [stay]      one fault, for a closer look; the folder stays
 *   test_checkpoint_faults save FOLDER FD      the program: writes each saved step to FD */
#define _GNU_SOURCE
#include "tests/checkpoint_case.h"
#include "zero/checkpoint/checkpoint.h"
#include "zero/checkpoint/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

enum { WORLD = 3, FIRST = 10, SAVES = 2, KEEP = 1, FILE_BYTES = 6000 };

static void need(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the program that saves ------------------------------------------------------------------------------------- */

/* What a rank sends to rank 0 when its files are on the drive. */
typedef struct report {
    zero_status_t status;
    uint64_t pieces;
    zero_error_t error;
} report_t;

static bool read_all(int fd, void *to, size_t bytes)
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

/* A rank above 0, in a process of its own: does what rank 0 says until the pipe ends. */
static void serve(int rank, const char *folder, const checkpoint_case_t *c, int from, int to)
{
    int64_t step;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read_all(from, &step, sizeof step)) {
        report_t report = {.status = ZERO_OK};
        zero_writer_t *writer = NULL;
        const zero_piece_t *pieces = NULL;
        char *path = zero_folder_step(folder, step);
        report.status = zero_writer_make(&writer, path, c->layouts, CASE_LAYOUTS, &report.error);
        if (report.status == ZERO_OK)
            report.status = case_write(writer, c, rank, WORLD, step, &report.error);
        if (report.status == ZERO_OK)
            report.status = zero_writer_sync(writer, &report.error);
        if (report.status == ZERO_OK)
            pieces = zero_writer_pieces(writer, &report.pieces);
        need(write(to, &report, sizeof report) == (ssize_t)sizeof report, "a pipe");
        if (report.pieces > 0)
            need(write(to, pieces, report.pieces * sizeof *pieces) == (ssize_t)(report.pieces * sizeof *pieces),
                 "a pipe");
        zero_writer_destroy(writer);
        free(path);
    }
    _exit(0);
}

typedef struct run {
    const char *folder;
    checkpoint_case_t c;
    int to[WORLD], from[WORLD];
} run_t;

/* Begins or ends the other ranks' part. Their failures become *error, and their pieces are added. */
static zero_status_t join_ranks(run_t *run, zero_piece_t **pieces, uint64_t *count, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int r = 1; r < WORLD; r++) {
        report_t report;
        if (!read_all(run->from[r], &report, sizeof report))
            exit(3); /* it was killed, and this one is next */
        *pieces = realloc(*pieces, (*count + report.pieces + 1) * sizeof **pieces);
        if (!read_all(run->from[r], *pieces + *count, report.pieces * sizeof **pieces))
            exit(3);
        *count += report.pieces;
        if (report.status != ZERO_OK && status == ZERO_OK)
            status = zero_pass(error, report.status, &report.error);
    }
    return status;
}

/* One save, as an engine does it. */
static zero_status_t save(run_t *run, int64_t step, zero_error_t *error)
{
    zero_writer_t *writer = NULL;
    zero_manifest_t manifest = {0};
    uint64_t count = 0;
    zero_piece_t *all = NULL;
    char *path = zero_folder_step(run->folder, step);
    zero_status_t status = zero_folder_clean(run->folder, (zero_folder_log_t){0}, error);
    if (status != ZERO_OK || (status = zero_writer_make(&writer, path, run->c.layouts, CASE_LAYOUTS, error)) ||
        (status = zero_writer_create(writer, error)))
        goto end;
    for (int r = 1; r < WORLD; r++)
        need(write(run->to[r], &step, sizeof step) == (ssize_t)sizeof step, "a pipe");
    if ((status = case_write(writer, &run->c, 0, WORLD, step, error)) == ZERO_OK)
        status = zero_writer_sync(writer, error);
    const zero_piece_t *own = zero_writer_pieces(writer, &count);
    all = malloc((count + 1) * sizeof *all);
    memcpy(all, own, count * sizeof *all);
    zero_error_t why;
    zero_status_t others = join_ranks(run, &all, &count, &why);
    if (status == ZERO_OK && others != ZERO_OK)
        status = zero_pass(error, others, &why);
    if (status != ZERO_OK || (status = case_manifest(&manifest, &run->c, step, all, count, error)) ||
        (status = zero_manifest_write(&manifest, path, error)))
        goto end;

end:
    zero_manifest_clear(&manifest);
    zero_writer_destroy(writer);
    free(all);
    free(path);
    return status;
}

/* Saves some steps after the newest one. Exit status: 0, or 1 if the last save failed. */
static int save_some(const char *folder, int reports)
{
    run_t run = {.folder = folder};
    zero_error_t error;
    zero_manifest_t manifest;
    int64_t step = 0;
    int lock;
    zero_status_t status = ZERO_OK;
    alarm(100);
    case_make(&run.c, FILE_BYTES, true);
    for (int r = 1; r < WORLD; r++) {
        int there[2], back[2];
        need(pipe(there) == 0 && pipe(back) == 0, "a pipe");
        pid_t child = fork();
        need(child >= 0, "fork");
        if (child == 0) {
            close(there[1]), close(back[0]);
            for (int before = 1; before < r; before++)
                close(run.to[before]), close(run.from[before]);
            serve(r, folder, &run.c, there[0], back[1]);
        }
        close(there[0]), close(back[1]);
        run.to[r] = there[1], run.from[r] = back[0];
    }
    if (zero_folder_lock(folder, &lock, &error) != ZERO_OK ||
        zero_folder_newest(folder, &step, &manifest, (zero_folder_log_t){0}, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    zero_manifest_clear(&manifest);
    for (int k = 0; k < SAVES; k++) {
        step += 10;
        status = save(&run, step, &error);
        if (status != ZERO_OK) {
            fprintf(stderr, "step %lld is not saved: %s\n", (long long)step, error.text);
            continue;
        }
        need(write(reports, &step, sizeof step) == (ssize_t)sizeof step, "the reports");
        if (zero_folder_keep(folder, KEEP, step, (zero_folder_log_t){0}, &error) != ZERO_OK)
            fprintf(stderr, "%s\n", error.text);
    }
    return status != ZERO_OK;
}

/* ---- the sweep -------------------------------------------------------------------------------------------------- */

static char scratch[PATH_MAX], module[PATH_MAX], program[PATH_MAX], folder[PATH_MAX + 8], counter[PATH_MAX + 8],
    call_log[PATH_MAX + 8];
static int lost, mixed, hung;

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
    need(fd >= 0 && write(fd, &zero, sizeof zero) == (ssize_t)sizeof zero, counter);
    need(pipe(reports) == 0, "a pipe");
    pid_t child = fork();
    need(child >= 0, "fork");
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
    for (int64_t step; read_all(reports[0], &step, sizeof step);)
        *saved = step;
    close(reports[0]);
    need(waitpid(child, &status, 0) == child, "waitpid");
    need(pread(fd, points, sizeof *points, 0) == (ssize_t)sizeof *points, counter);
    close(fd);
    hung += WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
    return status;
}

/* Whether a checkpoint is that of its step, every byte of it. */
static bool is_one(const zero_checkpoint_t *checkpoint, int64_t step)
{
    checkpoint_case_t c;
    zero_error_t error;
    bool same = true;
    case_make(&c, FILE_BYTES, true);
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS; t++) {
            const zero_tensor_entry_t *entry =
                zero_checkpoint_find(checkpoint, c.states[k], c.layouts[k].tensors[t].info.name);
            unsigned char *out = malloc(c.layouts[k].tensors[t].bytes + 1);
            if (!entry || entry->bytes != c.layouts[k].tensors[t].bytes ||
                zero_checkpoint_read(checkpoint, entry, 0, entry->info.count, out, &error) != ZERO_OK)
                same = false;
            for (uint64_t at = 0; same && at < entry->bytes; at++)
                same = out[at] == case_byte(k, t, step, at);
            free(out);
        }
    case_clear(&c);
    return same;
}

/* Older checkpoints that are still there: what has a manifest is whole. */
static void check_others(int64_t newest, const char *when)
{
    int64_t *steps;
    int count;
    zero_error_t error;
    zero_checkpoint_t *checkpoint;
    need(zero_folder_list(folder, &steps, &count, &error) == ZERO_OK, folder);
    for (int k = 0; k < count; k++) {
        char *path = zero_folder_step(folder, steps[k]);
        error.reason = ZERO_REASON_NONE;
        if (steps[k] == newest)
            ;
        else if (zero_checkpoint_open(&checkpoint, path, &error) == ZERO_OK) {
            mixed += !is_one(checkpoint, steps[k]);
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
    if (info.warning || !is_one(checkpoint, info.step)) {
        fprintf(stderr, "%s: step %lld is not what was saved%s%s\n", when, (long long)info.step,
                info.warning ? ": " : "", info.warning ? info.warning : "");
        mixed++;
    }
    int64_t step = info.step;
    zero_checkpoint_close(checkpoint);
    check_others(step, when);
    return step;
}

/* A folder with one checkpoint. */
static void begin(void)
{
    checkpoint_case_t c;
    zero_error_t error;
    remove_tree(folder);
    need(mkdir(folder, 0777) == 0, folder);
    char *path = zero_folder_step(folder, FIRST);
    case_make(&c, FILE_BYTES, true);
    if (case_save(&c, path, FIRST, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    case_clear(&c);
    free(path);
}

/* One fault, then a run without one, which leaves one whole checkpoint and nothing else. Returns how many calls the
 * first run made. */
static uint64_t strike(const char *kind, uint64_t at, bool stays)
{
    int64_t saved = FIRST;
    uint64_t points, unused;
    char when[100];
    snprintf(when, sizeof when, "%s at call %llu%s", kind ? kind : "no fault", (unsigned long long)at,
             stays ? " and later" : "");
    begin();
    int status = run_program(kind, at, stays, &saved, &points);
    bool killed = WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 3);
    if (killed != (kind && strcmp(kind, "kill") == 0 && at <= points)) {
        fprintf(stderr, "%s: the program ends with %x\n", when, (unsigned)status);
        hung++;
    }
    int64_t step = check(saved, when);
    saved = step;
    status = run_program(NULL, 0, false, &saved, &unused);
    int64_t *steps, last;
    int count;
    last = check(saved, when);
    if (status != 0 || last != step + SAVES * 10 ||
        zero_folder_list(folder, &steps, &count, &(zero_error_t){0}) != ZERO_OK || count != KEEP) {
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
} place_t;
static place_t places[200];
static int place_count;

static place_t *place(const char *path, size_t length)
{
    for (int k = 0; k < place_count; k++)
        if (strlen(places[k].path) == length && memcmp(places[k].path, path, length) == 0)
            return &places[k];
    need(place_count < 200 && length < sizeof places[0].path, "too many files");
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
        place(path, strlen(path))->bytes = place(path, strlen(path))->names = false;
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
        folder_of(path)->names = true;
    } else if (strcmp(call, "unlink") == 0 && folder_of(path)->names) {
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
    need(file != NULL, call_log);
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
    need(renames == SAVES && unlinks > SAVES, "the log of calls");
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
            need(realpath(name, scratch) != NULL, name);
    }
    need(scratch[0] != '\0', "a folder");
    snprintf(folder, sizeof folder, "%s/ck", scratch);
    snprintf(counter, sizeof counter, "%s/count", scratch);
    snprintf(call_log, sizeof call_log, "%s/log", scratch);
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    need(n > 0, "/proc/self/exe");
    last = strrchr(program, '/');
    snprintf(module, sizeof module, "%.*s/%sfault_files.so", (int)(last - program), program,
             n > 6 && memmem(program, (size_t)n, "/.libs/", 7) ? "" : ".libs/");
}

int main(int argc, char **argv)
{
    static const char *const kinds[] = {"enospc", "eio", "erofs", "short"};
    if (argc == 4 && strcmp(argv[1], "save") == 0)
        return save_some(argv[2], atoi(argv[3]));
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
    const bool full = getenv("ZERO_CHECK_FULL") != NULL;
    begin();
    int64_t unused_step;
    uint64_t unused;
    int log = open(call_log, O_WRONLY | O_CREAT, 0600);
    need(log >= 0 && close(log) == 0, call_log);
    need(run_program(NULL, 0, false, &unused_step, &unused) == 0, "a run without a fault");
    check_order();
    need(unlink(call_log) == 0, call_log);
    uint64_t points = strike(NULL, 0, false);
    for (uint64_t at = 1; at <= points; at++)
        strike("kill", at, true);
    int errors = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
        for (int stays = 0; stays < 2; stays++)
            for (uint64_t at = 1 + (full ? 0 : 2 * k + (size_t)stays); at <= points; at += full ? 1 : 11, errors++)
                strike(kinds[k], at, stays);
    remove_tree(scratch);
    printf("%d errors\npoints %llu, lost %d, mixed %d\n", errors, (unsigned long long)points, lost, mixed);
    return points < 200 || lost + mixed + hung > 0;
}
