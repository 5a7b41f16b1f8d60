/* SPDX-License-Identifier: Apache-2.0 */
/* test_save_faults.c - two ranks that train, save and load with an engine, while calls that change files fail
 * (tests/fault_sweep.h). Every checkpoint has the bytes of a run that nothing interrupted. */
#define _GNU_SOURCE
#include "tests/engine_small.h"
#include "tests/fault_sweep.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

/* A run trains a step, saves, and trains another one beside the save, which the next run then repeats. */
enum { WORLD = 2, FIRST = 1, LAST = 3, PROGRAM_BROKEN = 4 };

typedef struct program {
    const char *folder;
    int reports;
} program_t;

static void saves(zero_config_t *config, void *ctx)
{
    config->saves = true;
    (void)ctx;
}

/* Loads the newest checkpoint, if there is one. *step: the engine's. */
static int resume(small_t *s, const char *folder, int64_t *step)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_error_t error = {0};
    *step = 0;
    if (zero_checkpoint_open(&checkpoint, folder, &error) != ZERO_OK)
        return error.reason == ZERO_REASON_NO_CHECKPOINT ? 0 : small_complain(s, "%s", error.text);
    SMALL_TRY(zero_load(s->engine, checkpoint));
    SMALL_TRY(zero_checkpoint_info(checkpoint, &info));
    *step = info.step;
    zero_checkpoint_close(checkpoint);
    return 0;
}

/* Whether a save that failed says which file or folder it is about, and leaves an engine that trains. */
static int failed_well(small_t *s, const char *folder, int64_t step)
{
    zero_error_t why;
    zero_last_failure(s->engine, &why);
    if (why.status != ZERO_ERR_IO)
        return -1; /* a rank has gone */
    fprintf(stderr, "%s\n", why.text);
    if (!strstr(why.text, folder) || small_step(s, step) != 0)
        _exit(PROGRAM_BROKEN);
    return 1;
}

/* Returns 0; 1 if the save failed; -1 if the engine did. */
static int save(small_t *s, const program_t *program)
{
    zero_save_options_t options;
    zero_saved_t saved = {.size = sizeof saved};
    int64_t step;
    zero_save_options_init(&options);
    options.folder = program->folder;
    options.keep = 1;
    if (resume(s, program->folder, &step))
        return -1;
    if (zero_save_open(s->engine, &options) != ZERO_OK)
        return failed_well(s, program->folder, step);
    if (small_step(s, step++))
        return -1;
    if (zero_save(s->engine, "x", s->rank == 0) != ZERO_OK)
        return failed_well(s, program->folder, step);
    if (small_step(s, step))
        return -1;
    if (zero_save_end(s->engine, true, &saved) != ZERO_OK)
        return failed_well(s, program->folder, step + 1);
    SMALL_IS(saved.done && saved.step == step);
    if (s->rank == 0)
        sweep_need(write(program->reports, &step, sizeof step) == (ssize_t)sizeof step, "the reports");
    return 0;
}

static int run_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const small_case_t c = {
        .world = WORLD, .stage = 3, .micro_steps = 1, .dtype = ZERO_BF16, .rule = ZERO_RULE_ADAMW, .edit = saves};
    small_t small, *s = &small;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm ? small_start(s, &c, comm) : -1;
    (void)rank, (void)world;
    if (result == 0)
        result = save(s, arg);
    if (result < 0)
        return 3; /* that of the other rank, which was killed */
    small_destroy(s);
    zero_comm_destroy(comm);
    return result;
}

static int save_once(const char *folder, int reports)
{
    program_t program = {folder, reports};
    int status[WORLD], result = 0;
    alarm(100);
    if (ranks_run_status(WORLD, 60, run_rank, &program, status))
        return PROGRAM_BROKEN;
    for (int r = 0; r < WORLD; r++) {
        int own = WIFEXITED(status[r]) ? WEXITSTATUS(status[r]) : WTERMSIG(status[r]) == SIGKILL ? 3 : PROGRAM_BROKEN;
        result = own > result ? own : result;
    }
    return result;
}

/* ---- the sweep -------------------------------------------------------------------------------------------------- */

/* Of all pieces of the checkpoint of each step, in a run without a fault. */
static uint64_t hashes[LAST + 2];

static uint64_t hash_of(const zero_checkpoint_t *checkpoint)
{
    const zero_manifest_t *m = zero_checkpoint_manifest(checkpoint);
    return XXH3_64bits(m->pieces, (size_t)m->piece_count * sizeof *m->pieces);
}

/* The first time, runs the program until it has saved the last step, too, and keeps what each run saved. */
static void begin(const char *folder)
{
    char command[600];
    zero_checkpoint_t *checkpoint;
    zero_error_t error;
    bool first = hashes[FIRST] == 0;
    for (int step = FIRST; first && step <= LAST; step++) {
        sweep_run();
        if (zero_checkpoint_open(&checkpoint, folder, &error) != ZERO_OK) {
            fprintf(stderr, "%s\n", error.text);
            exit(1);
        }
        hashes[step] = hash_of(checkpoint);
        zero_checkpoint_close(checkpoint);
        snprintf(command, sizeof command, "cp -r '%s' '%s.first'", folder, folder);
        sweep_need(step != FIRST || system(command) == 0, "cp");
    }
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s.first' '%s'", folder, folder, folder);
    sweep_need(system(command) == 0, "cp");
}

static bool is_one(const zero_checkpoint_t *checkpoint, int64_t step)
{
    const zero_manifest_t *m = zero_checkpoint_manifest(checkpoint);
    zero_error_t error;
    if (step < FIRST || step > LAST || hash_of(checkpoint) != hashes[step])
        return false;
    for (int p = 0; p < m->param_count; p++)
        for (zero_state_t state = ZERO_STATE_PARAM; state <= ZERO_STATE_MOMENT2; state++) {
            const zero_tensor_entry_t *tensor = zero_checkpoint_find(checkpoint, state, m->params[p].name);
            char *out = tensor ? malloc((size_t)tensor->bytes + 1) : NULL;
            bool right = !tensor || zero_checkpoint_read(checkpoint, tensor, 0, tensor->info.count, out, &error) == 0;
            free(out);
            if (!right)
                return false;
        }
    return true;
}

int main(int argc, char **argv)
{
    const sweep_t sweep = {
        .begin = begin, .is_one = is_one, .first = FIRST, .steps = 1, .saves = 1, .keep = 1, .stride = 13, .least = 60};
    if (argc == 4 && strcmp(argv[1], "save") == 0)
        return save_once(argv[2], atoi(argv[3]));
    return sweep_main(&sweep, argc, argv);
}
