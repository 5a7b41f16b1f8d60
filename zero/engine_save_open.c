/* SPDX-License-Identifier: Apache-2.0 */
/* engine_save_open.c - zero_save_open: the files of a checkpoint, which follow from the declarations alone, and the
 * folder that they go to. */
#include "zero/engine_save.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

static const zero_state_t states[ZERO_SAVER_STATES] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1,
                                                       ZERO_STATE_MOMENT2};

void zero_saver_end_removal(struct zero_saver *s)
{
    if (s->removes)
        pthread_join(s->remover, NULL);
    s->removes = false;
}

void zero_saver_destroy(struct zero_saver *s)
{
    if (!s)
        return;
    zero_saver_end_removal(s);
    zero_writer_destroy(s->writer);
    for (int i = 0; i < ZERO_SAVER_STATES; i++)
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

/* ---- the files -------------------------------------------------------------------------------------------------- */

bool zero_saver_leaves_out(const zero_engine_t *engine, int32_t param)
{
    bool trains = false;
    for (int32_t p = 0; p < engine->spec.pass_count; p++)
        trains = trains || engine->spec.passes[p].kind == ZERO_PASS_TRAIN;
    return trains && !engine->config.saves_frozen && !engine->spec.params[param].trainable;
}

bool zero_saver_format(const zero_engine_t *engine, int32_t param, int state, zero_format_t *format)
{
    const zero_spec_param_t *p = &engine->spec.params[param];
    int32_t s = engine->plan->placed[param].segment;
    bool trainable = s >= 0 && engine->plan->segments[s].trainable;
    *format = zero_format_plain(state == 0 ? p->dtype : ZERO_FP32);
    if (state == 0)
        return !zero_saver_leaves_out(engine, param);
    if (state == 1)
        return trainable && p->dtype != ZERO_FP32;
    const zero_spec_state_t *kept = trainable ? zero_plan_state(engine->plan, s) : NULL;
    if (!kept || state - 2 >= kept->count)
        return false;
    *format = kept->format[state - 2];
    return true;
}

static zero_tensor_info_t describe(const struct zero_tensor *p, const zero_format_t *format)
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
    int32_t tensors = engine->tensor_count;
    zero_tensor_info_t *infos = calloc((size_t)tensors + 1, sizeof *infos);
    zero_status_t status = ZERO_OK;
    s->tensor = malloc(((size_t)tensors + 1) * ZERO_SAVER_STATES * sizeof *s->tensor);
    if (!infos || !s->tensor)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory to lay out the files of %d tensors", tensors);
    for (int i = 0; i < ZERO_SAVER_STATES && status == ZERO_OK; i++) {
        zero_format_t format;
        int count = 0;
        s->layout_of[i] = -1;
        for (int32_t t = 0; t < tensors; t++) {
            const struct zero_tensor *tensor = &engine->tensors[t];
            bool has = zero_saver_format(engine, zero_tensor_param(engine, tensor), i, &format);
            s->tensor[t * ZERO_SAVER_STATES + i] = has ? count : -1;
            if (has)
                infos[count++] = describe(tensor, &format);
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

/* Rank 0: locks the folder, removes what interrupted saves left, and looks for checkpoints of later steps. */
static zero_status_t prepare_folder(struct zero_saver *s, int64_t step, zero_error_t *error)
{
    int64_t *steps = NULL;
    int count = 0;
    zero_status_t status = zero_folder_lock(s->folder, &s->lock, error);
    if (status == ZERO_OK)
        status = zero_folder_clean(s->folder, zero_saver_log(s->engine), error);
    if (status == ZERO_OK)
        status = zero_folder_list(s->folder, &steps, &count, error);
    if (status == ZERO_OK && count > 0 && steps[0] > step) {
        char *path = zero_folder_step(s->folder, steps[0]);
        bool whole = path && zero_manifest_check(path);
        free(path);
        status = zero_fail(
            error, ZERO_ERR_ARG, "'%s' has a %scheckpoint of step %lld, but the engine is at step %lld: %s", s->folder,
            whole ? "" : "damaged ", (long long)steps[0], (long long)step,
            whole ? "load it first, or remove it, or save to another folder" : "remove it, or save to another folder");
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
    zero_status_t exchanged = zero_exec_agree_on(engine->exec, status, &engine->error);
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
        exchanged = zero_exec_agree_on(engine->exec, status, &engine->error);
    }
    if (engine->rank == 0)
        zero_folder_token_remove(s->folder, own.token);
    free(all);
    return exchanged;
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
    return zero_engine_between_steps(engine, "zero_save_open");
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
    failed = zero_exec_agree_on(engine->exec, status, &engine->error);
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
