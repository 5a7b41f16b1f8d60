/* SPDX-License-Identifier: Apache-2.0 */
/* test_checkpoint_faults.c - three processes that save checkpoints with the parts of zero/checkpoint, while calls that
 * change files fail (tests/fault_sweep.h). */
#define _GNU_SOURCE
#include "tests/checkpoint_case.h"
#include "tests/fault_sweep.h"
#include "zero/checkpoint/folder.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { WORLD = 3, FIRST = 10, SAVES = 2, KEEP = 1, FILE_BYTES = 6000 };

/* ---- the program that saves ------------------------------------------------------------------------------------- */

/* What a rank sends to rank 0 when its files are on the drive. */
typedef struct report {
    zero_status_t status;
    uint64_t pieces;
    zero_error_t error;
} report_t;

/* A rank above 0, in a process of its own: does what rank 0 says until the pipe ends. */
static void serve(int rank, const char *folder, const checkpoint_case_t *c, int from, int to)
{
    int64_t step;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (sweep_read(from, &step, sizeof step)) {
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
        sweep_need(write(to, &report, sizeof report) == (ssize_t)sizeof report, "a pipe");
        if (report.pieces > 0)
            sweep_need(write(to, pieces, report.pieces * sizeof *pieces) == (ssize_t)(report.pieces * sizeof *pieces),
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
        if (!sweep_read(run->from[r], &report, sizeof report))
            exit(3); /* it was killed, and this one is next */
        *pieces = realloc(*pieces, (*count + report.pieces + 1) * sizeof **pieces);
        if (!sweep_read(run->from[r], *pieces + *count, report.pieces * sizeof **pieces))
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
        sweep_need(write(run->to[r], &step, sizeof step) == (ssize_t)sizeof step, "a pipe");
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
        sweep_need(pipe(there) == 0 && pipe(back) == 0, "a pipe");
        pid_t child = fork();
        sweep_need(child >= 0, "fork");
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
            if (!strstr(error.text, folder))
                return 4; /* it does not say where */
            continue;
        }
        sweep_need(write(reports, &step, sizeof step) == (ssize_t)sizeof step, "the reports");
        if (zero_folder_keep(folder, KEEP, step, (zero_folder_log_t){0}, &error) != ZERO_OK)
            fprintf(stderr, "%s\n", error.text);
    }
    return status != ZERO_OK;
}

/* ---- the sweep -------------------------------------------------------------------------------------------------- */

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

static void begin(const char *folder)
{
    checkpoint_case_t c;
    zero_error_t error;
    char *path = zero_folder_step(folder, FIRST);
    case_make(&c, FILE_BYTES, true);
    if (case_save(&c, path, FIRST, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    case_clear(&c);
    free(path);
}

int main(int argc, char **argv)
{
    const sweep_t sweep = {.begin = begin,
                           .is_one = is_one,
                           .first = FIRST,
                           .steps = SAVES * 10,
                           .saves = SAVES,
                           .keep = KEEP,
                           .stride = 11,
                           .least = 200};
    if (argc == 4 && strcmp(argv[1], "save") == 0)
        return save_some(argv[2], atoi(argv[3]));
    return sweep_main(&sweep, argc, argv);
}
