/* SPDX-License-Identifier: Apache-2.0 */
/* engine_save.c - zero_save and zero_save_end: a checkpoint while training goes on.
 *
 * Rank 0 makes the files, every rank writes what it owns on the save stream, and rank 0 ends a checkpoint with its
 * manifest. A save that fails leaves the engine as it is. */
#include "zero/engine_save.h"

#include "optim/rules.h"
#include "zero/plan/split.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- saving ----------------------------------------------------------------------------------------------------- */

static zero_status_t sink_write(void *ctx, int32_t param, zero_state_t state, int64_t begin, int64_t count,
                                const void *values, zero_error_t *error)
{
    struct zero_saver *s = ctx;
    int i = zero_saver_index(state);
    zero_format_t format;
    zero_saver_format(s->engine, param, i, &format);
    zero_tile_t tile = zero_engine_tile(s->engine, param);
    const zero_spec_t *spec = &s->engine->spec;
    const int tensor = s->tensor[tile.tensor * ZERO_SAVER_STATES + i];
    zero_status_t status = ZERO_OK;
    zero_split_run_t run;
    int64_t times;
    /* Ranks that have the other parts get the same ranges of them, so their runs fit between these. Runs consist of
     * whole blocks: zero_engine_find_tensors refuses others. */
    for (int64_t at = begin; at < begin + count && status == ZERO_OK; at = run.next) {
        run = zero_split_runs(spec, &spec->params[param], s->engine->rank, at, begin + count, &times);
        if (run.count > 0)
            status = zero_writer_write_runs(s->writer, s->layout_of[i], tensor,
                                            zero_format_bytes(&format, tile.first + run.begin),
                                            zero_format_bytes(&format, run.count), (uint64_t)times,
                                            zero_format_bytes(&format, run.count * spec->mesh.tensor),
                                            (const char *)values + zero_format_bytes(&format, at - begin), error);
    }
    return status;
}

static zero_status_t sink_sync(void *ctx, zero_error_t *error)
{
    struct zero_saver *s = ctx;
    return zero_writer_sync(s->writer, error);
}

/* Ends a save that has failed, or whose checkpoint is whole. */
static void end_save(struct zero_saver *s, zero_status_t status)
{
    zero_error_t ignored;
    zero_writer_destroy(s->writer);
    s->writer = NULL;
    free(s->caller);
    s->caller = NULL;
    s->running = false;
    if (status != ZERO_OK && s->engine->rank == 0)
        zero_folder_clean(s->folder, zero_saver_log(s->engine), &ignored);
}

/* What each rank does alone before the ranks write. */
static zero_status_t begin_save(struct zero_saver *s, const void *caller, size_t bytes, zero_error_t *error)
{
    zero_saver_end_removal(s);
    if (s->engine->rank != 0)
        bytes = 0;
    if (bytes > ZERO_MANIFEST_CALLER_MOST || (bytes > 0 && !caller))
        return zero_fail(error, ZERO_ERR_ARG, "zero_save has %zu bytes of the caller's at %p, but takes 0 to %d", bytes,
                         caller, (int)ZERO_MANIFEST_CALLER_MOST);
    free(s->path);
    s->path = zero_folder_step(s->folder, s->step);
    s->caller = malloc(bytes > 0 ? bytes : 1);
    if (!s->path || !s->caller)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a save");
    if (bytes > 0)
        memcpy(s->caller, caller, bytes);
    s->caller_bytes = bytes;
    zero_status_t status = zero_writer_make(&s->writer, s->path, s->layouts, s->layout_count, error);
    if (status == ZERO_OK && s->engine->rank == 0)
        status = zero_folder_clean(s->folder, zero_saver_log(s->engine), error);
    return status == ZERO_OK && s->engine->rank == 0 ? zero_writer_create(s->writer, error) : status;
}

static zero_status_t save(zero_engine_t *engine, const void *caller, size_t bytes, zero_status_t *status)
{
    struct zero_saver *s = engine->saver;
    zero_stats_t stats = {.size = sizeof stats};
    zero_exec_sink_t sink = {s, sink_write, sink_sync};
    zero_status_t failed = zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_SAVE, 0, 0, -1}, &engine->error);
    if (failed == ZERO_OK)
        failed = zero_exec_stats(engine->exec, &stats, &engine->error);
    if (failed == ZERO_OK)
        failed = zero_exec_scale(engine->exec, &s->scale, &engine->error);
    if (failed != ZERO_OK)
        return failed;
    s->step = stats.step;
    s->applied = stats.step - stats.skipped;
    s->began_ns = zero_now_ns();
    *status = begin_save(s, caller, bytes, &engine->error);
    failed = zero_exec_agree_on(engine->exec, status, &engine->error);
    if (failed == ZERO_OK && *status == ZERO_OK)
        failed = zero_exec_save(engine->exec, &sink, &engine->error);
    s->running = failed == ZERO_OK && *status == ZERO_OK;
    if (!s->running && failed == ZERO_OK)
        end_save(s, *status);
    return failed;
}

zero_status_t zero_save(zero_engine_t *engine, const void *caller, size_t bytes)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_save"), failed;
    if (status != ZERO_OK || (status = zero_engine_between_steps(engine, "zero_save")) != ZERO_OK)
        return status;
    if (!engine->saver || engine->saver->running)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "zero_save is called %s",
                         engine->saver ? "while a save runs: call zero_save_end first" : "before zero_save_open");
    failed = zero_engine_leave(engine, save(engine, caller, bytes, &status));
    return failed == ZERO_OK ? status : failed;
}

/* ---- the end of a save ------------------------------------------------------------------------------------------ */

/* Pieces that a rank sends at a time. */
enum { TURN = 512 };

/* Brings all ranks' pieces to rank 0. *all is the caller's to free. */
static zero_status_t gather_pieces(struct zero_saver *s, zero_piece_t **all, uint64_t *total)
{
    zero_engine_t *engine = s->engine;
    size_t world = (size_t)engine->world;
    uint64_t count, most = 0;
    const zero_piece_t *own = zero_writer_pieces(s->writer, &count);
    uint64_t *counts = calloc(world, sizeof *counts);
    zero_piece_t *turn = calloc((world + 1) * TURN, sizeof *turn), *mine = turn ? turn + world * TURN : NULL;
    zero_status_t status = ZERO_OK;
    *all = NULL;
    *total = 0;
    if (counts && turn)
        status = zero_exec_exchange(engine->exec, &count, counts, sizeof count, &engine->error);
    for (size_t r = 0; r < world && counts && status == ZERO_OK; r++) {
        *total += counts[r];
        most = counts[r] > most ? counts[r] : most;
    }
    if (status == ZERO_OK && counts && turn && engine->rank == 0)
        *all = malloc((*total + 1) * sizeof **all);
    if (!counts || !turn || (engine->rank == 0 && status == ZERO_OK && !*all)) {
        status = zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for the list of a checkpoint's pieces");
        zero_exec_abort(engine->exec, &engine->error);
    }
    *total = 0;
    for (uint64_t at = 0; at < most && status == ZERO_OK; at += TURN) {
        if (at < count)
            memcpy(mine, own + at, (count - at < TURN ? count - at : TURN) * sizeof *mine);
        status = zero_exec_exchange(engine->exec, mine, turn, TURN * sizeof *mine, &engine->error);
        for (size_t r = 0; r < world && status == ZERO_OK && engine->rank == 0; r++) {
            uint64_t n = at < counts[r] ? counts[r] - at : 0;
            n = n < TURN ? n : TURN;
            memcpy(*all + *total, turn + r * TURN, n * sizeof **all);
            *total += n;
        }
    }
    free(counts);
    free(turn);
    return status;
}

static void *remove_old(void *arg)
{
    const struct zero_saver *s = arg;
    zero_error_t why;
    if (zero_folder_keep(s->folder, s->keep, s->newest, zero_saver_log(s->engine), &why) != ZERO_OK)
        zero_log(s->engine->config.log, s->engine->config.log_ctx, ZERO_LOG_WARNING, "older checkpoints stay: %s",
                 why.text);
    return NULL;
}

static void begin_removal(struct zero_saver *s)
{
    sigset_t all, old;
    s->newest = s->step;
    /* Only the caller's own threads handle signals. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    s->removes = pthread_create(&s->remover, NULL, remove_old, s) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!s->removes)
        remove_old(s);
}

/* Rank 0: the manifest makes the checkpoint whole; then older ones may go. */
static zero_status_t finish(struct zero_saver *s, const zero_piece_t *pieces, uint64_t count, zero_error_t *error)
{
    const zero_engine_t *engine = s->engine;
    zero_manifest_t manifest = {0};
    zero_status_t status = zero_manifest_begin(&manifest, s->step, s->applied, zero_rule(engine->config.rule)->name,
                                               s->about, s->caller, s->caller_bytes, error);
    if (engine->config.growth_interval > 0) {
        manifest.loss_scale = s->scale.value;
        manifest.good_steps = s->scale.good;
        manifest.overflows = s->scale.left;
    }
    for (int32_t t = 0; t < engine->tensor_count && status == ZERO_OK; t++) {
        const struct zero_tensor *tensor = &engine->tensors[t];
        const int32_t p = zero_tensor_param(engine, tensor);
        const zero_spec_param_t *from = &engine->spec.params[p];
        if (zero_saver_leaves_out(engine, p))
            continue;
        zero_manifest_param_t param = {
            .name = (char *)tensor->name, .dtype = from->dtype, .trainable = from->trainable, .ndim = tensor->ndim};
        memcpy(param.shape, tensor->shape, sizeof param.shape);
        status = zero_manifest_add(&manifest, &param, error);
    }
    if (status == ZERO_OK)
        status = zero_manifest_files(&manifest, s->layouts, s->layout_state, s->layout_count, pieces, count, error);
    if (status == ZERO_OK)
        status = zero_manifest_write(&manifest, s->path, error);
    zero_manifest_clear(&manifest);
    if (status == ZERO_OK && s->keep > 0)
        begin_removal(s);
    return status;
}

/* What ranks tell each other about a save that runs. */
typedef struct ended {
    int32_t done, wait, refused;
} ended_t;

/* Seconds after which ranks that wait look at each other: none then waits longer for a slow drive than for a rank that
 * has gone. */
#define LOOK_S 0.05

/* *done: on every rank. refused: this rank's arguments are wrong. */
static zero_status_t look(zero_engine_t *engine, bool wait, bool refused, bool *done, zero_status_t *status)
{
    zero_error_t why;
    ended_t mine, *all = calloc((size_t)engine->world, sizeof *all);
    if (!all) {
        zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for zero_save_end");
        zero_exec_abort(engine->exec, &engine->error);
        return ZERO_ERR_MEMORY;
    }
    zero_status_t failed =
        zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_SAVE_END, 0, 0, -1}, &engine->error);
    int bad = -1;
    *done = false;
    for (bool again = failed == ZERO_OK; again && failed == ZERO_OK;) {
        if (wait && !refused)
            failed = zero_exec_wait_saved(engine->exec, LOOK_S, &engine->error);
        mine = (ended_t){zero_exec_saved(engine->exec, status, &why), wait, refused};
        if (failed == ZERO_OK)
            failed = zero_exec_exchange(engine->exec, &mine, all, sizeof mine, &engine->error);
        *done = failed == ZERO_OK;
        for (int r = 0; r < engine->world && failed == ZERO_OK; r++) {
            *done = *done && all[r].done;
            again = again && all[r].wait && !all[r].refused;
            bad = all[r].refused ? r : bad;
        }
        again = again && !*done;
    }
    free(all);
    if (failed == ZERO_OK && bad >= 0 && !refused)
        zero_fail(&engine->error, ZERO_ERR_ARG, "zero_save_end was refused on rank %d: give it a zero_saved_t there",
                  bad);
    if (failed == ZERO_OK && bad >= 0)
        failed = ZERO_ERR_ARG;
    *done = *done && failed == ZERO_OK;
    if (*done && *status != ZERO_OK)
        engine->error = why;
    return failed;
}

static zero_status_t end(zero_engine_t *engine, bool wait, bool refused, zero_saved_t *saved, zero_status_t *status)
{
    struct zero_saver *s = engine->saver;
    zero_piece_t *pieces = NULL;
    uint64_t count = 0;
    zero_status_t failed = look(engine, wait, refused, &saved->done, status);
    if (failed != ZERO_OK || !saved->done) {
        *status = ZERO_OK; /* of this rank alone: all agree on it later */
        return failed;
    }
    failed = zero_exec_agree_on(engine->exec, status, &engine->error);
    if (failed == ZERO_OK && *status == ZERO_OK)
        failed = gather_pieces(s, &pieces, &count);
    if (failed == ZERO_OK && *status == ZERO_OK) {
        if (engine->rank == 0)
            *status = finish(s, pieces, count, &engine->error);
        if (wait)
            zero_saver_end_removal(s);
        failed = zero_exec_agree_on(engine->exec, status, &engine->error);
    }
    free(pieces);
    if (failed == ZERO_OK)
        end_save(s, *status);
    saved->bytes = s->bytes;
    saved->seconds = 1e-9 * (double)(zero_now_ns() - s->began_ns);
    return failed;
}

zero_status_t zero_save_end(zero_engine_t *engine, bool wait, zero_saved_t *saved)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_save_end"), failed = ZERO_OK;
    zero_saved_t own = {.size = sizeof own, .done = true, .step = -1};
    if (status != ZERO_OK || (status = zero_engine_between_steps(engine, "zero_save_end")) != ZERO_OK)
        return status;
    if (!engine->saver)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "zero_save_end is called before zero_save_open");
    zero_status_t refused = zero_struct_check(saved, ZERO_UP_TO(zero_saved_t, seconds), "zero_saved_t", &engine->error);
    if (engine->saver->running) {
        own.step = engine->saver->step;
        own.path = engine->saver->path;
        failed = zero_engine_leave(engine, end(engine, wait, refused != ZERO_OK, &own, &status));
    }
    if (refused != ZERO_OK)
        return failed != ZERO_OK ? failed : refused;
    zero_struct_init(saved, saved->size, &own, sizeof own);
    return failed == ZERO_OK ? status : failed;
}
