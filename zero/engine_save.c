/* SPDX-License-Identifier: Apache-2.0 */
/* engine_save.c - zero_save_open, zero_save and zero_save_end: a checkpoint while training goes on.
 *
 * The files follow from the declarations alone. Rank 0 makes them, every rank writes what it owns on the save stream,
 * and rank 0 ends a checkpoint with its manifest. A save that fails leaves the engine as it is. */
#include "optim/rules.h"
#include "zero/checkpoint/folder.h"
#include "zero/engine.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

/* What checkpoints hold, and in which order. */
enum { STATES = 4 };
static const zero_state_t states[STATES] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1,
                                            ZERO_STATE_MOMENT2};
static int index_of(zero_state_t state)
{
    return state == ZERO_STATE_PARAM ? 0 : (int)state - 1;
}

struct zero_saver {
    char *folder, *about;
    int keep, lock; /* lock: rank 0's; -1: none */
    zero_engine_t *engine;
    zero_layout_t layouts[STATES];
    zero_state_t layout_state[STATES];
    int layout_count, layout_of[STATES]; /* layout_of: by index of the state; -1: no parameter has it */
    int32_t *tensor;                     /* [param_count][STATES]: in its layout, or -1 */
    uint64_t bytes;                      /* of all files */

    bool running; /* zero_save has begun, zero_save_end has not reported its end */
    zero_writer_t *writer;
    char *path;
    int64_t step, applied;
    uint64_t began_ns;
    void *caller;
    size_t caller_bytes;

    /* Rank 0: a thread removes old checkpoints, which may take as long as writing one. */
    bool removes;
    pthread_t remover;
    int64_t newest; /* the checkpoint for which old ones go */
};

static void end_removal(struct zero_saver *s)
{
    if (s->removes)
        pthread_join(s->remover, NULL);
    s->removes = false;
}

void zero_saver_destroy(struct zero_saver *s)
{
    if (!s)
        return;
    end_removal(s);
    zero_writer_destroy(s->writer);
    for (int i = 0; i < STATES; i++)
        zero_layout_clear(&s->layouts[i]);
    if (s->lock >= 0)
        close(s->lock);
    free(s->tensor);
    free(s->caller);
    free(s->path);
    free(s->about);
    free(s->folder);
    free(s);
}

/* ---- outcomes --------------------------------------------------------------------------------------------------- */

typedef struct outcome {
    int32_t status, reason;
    char text[600];
} outcome_t;

zero_status_t zero_engine_agree(zero_engine_t *engine, zero_status_t *status)
{
    outcome_t own = {.status = (int32_t)*status, .reason = engine->error.reason};
    outcome_t *all = calloc((size_t)engine->world, sizeof *all);
    if (!all) {
        zero_status_t failed =
            zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for the outcomes of %d ranks", engine->world);
        zero_exec_abort(engine->exec, &engine->error);
        return failed;
    }
    if (*status != ZERO_OK)
        snprintf(own.text, sizeof own.text, "%s", engine->error.text);
    zero_status_t exchanged = zero_exec_exchange(engine->exec, &own, all, sizeof own, &engine->error);
    for (int r = 0; r < engine->world && exchanged == ZERO_OK; r++) {
        if (all[r].status == ZERO_OK)
            continue;
        *status = (zero_status_t)all[r].status;
        if (engine->world == 1)
            break;
        zero_fail_reason(&engine->error, *status, (zero_reason_t)all[r].reason, r, "rank %d: %s", r, all[r].text);
        break;
    }
    free(all);
    return exchanged;
}

/* ---- the files -------------------------------------------------------------------------------------------------- */

/* How a parameter's state is stored. False: it has no such state. */
static bool format_of(const zero_engine_t *engine, int32_t param, int state, zero_format_t *format)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    int32_t s = engine->plan->placed[param].segment;
    bool trainable = s >= 0 && engine->plan->segments[s].trainable;
    *format = zero_format_plain(state == 0 ? p->dtype : ZERO_FP32);
    if (state == 0)
        return true;
    if (state == 1)
        return trainable && p->dtype != ZERO_FP32;
    const zero_spec_state_t *kept = trainable ? zero_plan_state(engine->plan, s) : NULL;
    if (!kept || state - 2 >= kept->count)
        return false;
    *format = kept->format[state - 2];
    return true;
}

static zero_tensor_info_t describe(const zero_spec_param_t *p, const zero_format_t *format)
{
    static const char *const dtypes[ZERO_DTYPE_COUNT] = {"F32", "BF16", "F16"};
    zero_tensor_info_t info = {.size = sizeof info, .name = p->name, .ndim = p->ndim};
    bool coded = zero_format_is_coded(format);
    snprintf(info.dtype, sizeof info.dtype, "%s", coded ? "U8" : dtypes[format->dtype]);
    memcpy(info.shape, p->shape, sizeof info.shape);
    if (coded) { /* blocks as they lie in memory */
        info.ndim = 2;
        info.shape[0] = (p->count + format->block - 1) / format->block;
        info.shape[1] = format->block_bytes;
    }
    return info;
}

static zero_status_t lay_out(struct zero_saver *s, uint64_t file_bytes, zero_error_t *error)
{
    const zero_engine_t *engine = s->engine;
    int32_t params = engine->spec.param_count;
    zero_tensor_info_t *infos = calloc((size_t)params + 1, sizeof *infos);
    zero_status_t status = ZERO_OK;
    s->tensor = malloc(((size_t)params + 1) * STATES * sizeof *s->tensor);
    if (!infos || !s->tensor)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory to lay out the files of %d parameters", params);
    for (int i = 0; i < STATES && status == ZERO_OK; i++) {
        zero_format_t format;
        int count = 0;
        s->layout_of[i] = -1;
        for (int32_t p = 0; p < params; p++) {
            bool has = format_of(engine, p, i, &format);
            s->tensor[p * STATES + i] = has ? count : -1;
            if (has)
                infos[count++] = describe(&engine->spec.params[p], &format);
        }
        if (count == 0)
            continue;
        s->layout_of[i] = s->layout_count;
        s->layout_state[s->layout_count] = states[i];
        zero_layout_t *layout = &s->layouts[s->layout_count++];
        status = zero_layout_make(layout, zero_checkpoint_state_name(states[i]), infos, count, file_bytes, error);
        for (int f = 0; f < layout->file_count && status == ZERO_OK; f++)
            s->bytes += layout->files[f].bytes;
    }
    free(infos);
    return status;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static zero_folder_log_t log_of(const zero_engine_t *engine)
{
    return (zero_folder_log_t){engine->config.log, engine->config.log_ctx};
}

/* Rank 0: locks the folder, removes what interrupted saves left, and looks for checkpoints of later steps. */
static zero_status_t prepare_folder(struct zero_saver *s, int64_t step, zero_error_t *error)
{
    int64_t *steps = NULL;
    int count = 0;
    zero_status_t status = zero_folder_lock(s->folder, &s->lock, error);
    if (status == ZERO_OK)
        status = zero_folder_clean(s->folder, log_of(s->engine), error);
    if (status == ZERO_OK)
        status = zero_folder_list(s->folder, &steps, &count, error);
    if (status == ZERO_OK && count > 0 && steps[0] > step) {
        char *path = zero_folder_step(s->folder, steps[0]);
        bool whole = path && zero_manifest_check(path);
        free(path);
        status = zero_fail(
            error, ZERO_ERR_ARG, "'%s' has a %scheckpoint of step %lld, but the engine is at step %lld: %s", s->folder,
            whole ? "" : "damaged ", (long long)steps[0], (long long)step,
            whole ? "load the checkpoint first, or save to another folder" : "remove it, or save to another folder");
    }
    free(steps);
    return status;
}

/* Whether every rank sees the folder that rank 0 sees, and lays out the same files. */
static zero_status_t check_shared(struct zero_saver *s, uint64_t file_bytes, zero_status_t *status)
{
    zero_engine_t *engine = s->engine;
    typedef struct choice {
        uint64_t token, file_bytes;
    } choice_t;
    choice_t own = {0, file_bytes}, *all = calloc((size_t)engine->world, sizeof *all);
    bool found = true;
    if (!all) {
        zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for the tokens of %d ranks", engine->world);
        zero_exec_abort(engine->exec, &engine->error);
        return ZERO_ERR_MEMORY;
    }
    if (engine->rank == 0) {
        if (getrandom(&own.token, sizeof own.token, 0) != sizeof own.token)
            own.token = zero_now_ns();
        *status = zero_folder_token_write(s->folder, own.token, &engine->error);
    }
    zero_status_t exchanged = zero_engine_agree(engine, status);
    if (exchanged == ZERO_OK && *status == ZERO_OK)
        exchanged = zero_exec_exchange(engine->exec, &own, all, sizeof own, &engine->error);
    if (exchanged == ZERO_OK && *status == ZERO_OK) {
        *status = zero_folder_token_look(s->folder, all[0].token, &found, &engine->error);
        if (*status == ZERO_OK && all[0].file_bytes != file_bytes)
            *status = zero_fail(&engine->error, ZERO_ERR_ARG,
                                "zero_save_open has a file_bytes of %llu here, but of %llu on rank 0: set it alike on "
                                "every rank",
                                (unsigned long long)file_bytes, (unsigned long long)all[0].file_bytes);
        if (*status == ZERO_OK && !found)
            *status = zero_fail(&engine->error, ZERO_ERR_ARG,
                                "'%s' is not the folder that rank 0 has there: use a folder on a file system that all "
                                "ranks share",
                                s->folder);
        exchanged = zero_engine_agree(engine, status);
    }
    if (engine->rank == 0)
        zero_folder_token_remove(s->folder, own.token);
    free(all);
    return exchanged;
}

static zero_status_t check_between(zero_engine_t *engine, const char *what)
{
    if (engine->pass >= 0 || engine->micro_done > 0 || engine->step_due)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "%s is called in the middle of a step: call zero_step first",
                         what);
    return ZERO_OK;
}

/* What is the same on every rank. */
static zero_status_t check_open(zero_engine_t *engine)
{
    if (!engine->config.saves)
        return zero_fail(&engine->error, ZERO_ERR_ORDER,
                         "zero_save_open needs config.saves: set it before zero_create");
    if (engine->saver)
        return zero_fail(&engine->error, ZERO_ERR_ORDER, "zero_save_open is called again: the engine saves to '%s'",
                         engine->saver->folder);
    return check_between(engine, "zero_save_open");
}

static zero_status_t take_options(zero_save_options_t *options, const zero_save_options_t *given, zero_error_t *error)
{
    zero_save_options_init(options);
    zero_status_t status = zero_struct_take(options, sizeof *options, given, ZERO_UP_TO(zero_save_options_t, about),
                                            "zero_save_options_t", "zero_save_options_init", error);
    if (status == ZERO_OK && (!options->folder || options->folder[0] == '\0' || options->keep < 0))
        status = zero_fail(error, ZERO_ERR_ARG, "zero_save_open needs a folder and keep of at least 0, which is %d",
                           options->keep);
    return status;
}

/* The program's JSON goes into each manifest. */
static zero_status_t check_about(const struct zero_saver *s, zero_error_t *error)
{
    zero_manifest_t manifest = {0};
    zero_status_t status = zero_manifest_begin(&manifest, 0, 0, "", s->about, NULL, 0, error);
    zero_manifest_clear(&manifest);
    return status;
}

/* What is wrong on one rank alone, its arguments too, fails on all of them. */
static zero_status_t open_saver(zero_engine_t *engine, struct zero_saver *s, const zero_save_options_t *given,
                                zero_status_t *status)
{
    zero_save_options_t options;
    zero_stats_t stats = {.size = sizeof stats};
    zero_status_t failed =
        zero_exec_call(engine->exec, &(zero_exec_call_t){ZERO_CALL_SAVE_OPEN, 0, 0, -1}, &engine->error);
    if (failed == ZERO_OK)
        failed = zero_exec_stats(engine->exec, &stats, &engine->error);
    if (failed != ZERO_OK)
        return failed;
    *status = take_options(&options, given, &engine->error);
    if (*status == ZERO_OK) {
        s->folder = strdup(options.folder);
        s->about = options.about ? strdup(options.about) : NULL;
        s->keep = options.keep;
        if (!s->folder || (options.about && !s->about))
            *status = zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for the options of zero_save_open");
    }
    if (*status == ZERO_OK)
        *status = check_about(s, &engine->error);
    if (*status == ZERO_OK)
        *status = lay_out(s, options.file_bytes, &engine->error);
    if (*status == ZERO_OK && engine->rank == 0)
        *status = prepare_folder(s, stats.step, &engine->error);
    failed = zero_engine_agree(engine, status);
    return failed == ZERO_OK && *status == ZERO_OK ? check_shared(s, options.file_bytes, status) : failed;
}

void zero_save_options_init_size(zero_save_options_t *options, size_t size)
{
    const zero_save_options_t defaults = {.size = sizeof defaults, .file_bytes = 5000000000u};
    zero_struct_init(options, size, &defaults, sizeof defaults);
}

zero_status_t zero_save_open(zero_engine_t *engine, const zero_save_options_t *given)
{
    ZERO_ENTRY(entry);
    zero_status_t status = zero_engine_enter_running(&entry, engine, "zero_save_open"), failed;
    if (status != ZERO_OK || (status = check_open(engine)) != ZERO_OK)
        return status;
    struct zero_saver *s = calloc(1, sizeof *s);
    if (!s) {
        status = zero_fail(&engine->error, ZERO_ERR_MEMORY, "no memory for zero_save_open");
        zero_exec_abort(engine->exec, &engine->error);
        return zero_engine_leave(engine, status);
    }
    s->engine = engine;
    s->lock = -1;
    failed = open_saver(engine, s, given, &status);
    if (failed == ZERO_OK && status == ZERO_OK)
        engine->saver = s;
    else
        zero_saver_destroy(s);
    failed = zero_engine_leave(engine, failed);
    return failed == ZERO_OK ? status : failed;
}

/* ---- saving ----------------------------------------------------------------------------------------------------- */

static zero_status_t sink_write(void *ctx, int32_t param, zero_state_t state, int64_t begin, int64_t count,
                                const void *values, zero_error_t *error)
{
    struct zero_saver *s = ctx;
    int i = index_of(state);
    zero_format_t format;
    format_of(s->engine, param, i, &format);
    return zero_writer_write(s->writer, s->layout_of[i], s->tensor[param * STATES + i],
                             zero_format_bytes(&format, begin), zero_format_bytes(&format, count), values, error);
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
        zero_folder_clean(s->folder, log_of(s->engine), &ignored);
}

/* What each rank does alone before the ranks write. */
static zero_status_t begin_save(struct zero_saver *s, const void *caller, size_t bytes, zero_error_t *error)
{
    end_removal(s);
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
        status = zero_folder_clean(s->folder, log_of(s->engine), error);
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
    if (failed != ZERO_OK)
        return failed;
    s->step = stats.step;
    s->applied = stats.step - stats.skipped;
    s->began_ns = zero_now_ns();
    *status = begin_save(s, caller, bytes, &engine->error);
    failed = zero_engine_agree(engine, status);
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
    if (status != ZERO_OK || (status = check_between(engine, "zero_save")) != ZERO_OK)
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
    if (zero_folder_keep(s->folder, s->keep, s->newest, log_of(s->engine), &why) != ZERO_OK)
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
    for (int32_t p = 0; p < engine->spec.param_count && status == ZERO_OK; p++) {
        const zero_spec_param_t *from = &engine->spec.params[p];
        zero_manifest_param_t param = {
            .name = from->name, .dtype = from->dtype, .trainable = from->trainable, .ndim = from->ndim};
        memcpy(param.shape, from->shape, sizeof param.shape);
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
    failed = zero_engine_agree(engine, status);
    if (failed == ZERO_OK && *status == ZERO_OK)
        failed = gather_pieces(s, &pieces, &count);
    if (failed == ZERO_OK && *status == ZERO_OK) {
        if (engine->rank == 0)
            *status = finish(s, pieces, count, &engine->error);
        if (wait)
            end_removal(s);
        failed = zero_engine_agree(engine, status);
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
    if (status != ZERO_OK || (status = check_between(engine, "zero_save_end")) != ZERO_OK)
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
