/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - see save.h. */
#include "train/save.h"
#include "train/adapters.h"
#include "train/report.h"
#include "train/resume.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what the run itself keeps in a checkpoint ------------------------------------------------------------------ */

/* The steps skipped in a row, and what the adapters are, as JSON. NULL: no memory. The caller frees it. */
static char *write_own(const run_t *run, uint64_t base)
{
    json_t *own = json_pack("{s:{s:I,s:I,s:s,s:s}}", "skipped", "count", (json_int_t)run->skipped.count, "first",
                            (json_int_t)run->skipped.first, "unit", run->skipped.unit, "losses", run->skipped.losses);
    json_t *adapters = adapters_record(run->job, base);
    if (adapters != NULL && json_object_set_new(own, "lora", adapters) != 0) {
        json_decref(own);
        return NULL;
    }
    char *text = own != NULL ? json_dumps(own, JSON_COMPACT) : NULL;
    json_decref(own);
    return text;
}

/* A checkpoint of another program has no such numbers. */
static void read_own(run_t *run, const void *bytes, size_t count)
{
    json_t *own = bytes != NULL ? json_loadb(bytes, count, 0, NULL) : NULL;
    json_int_t skipped = 0, first = 0;
    const char *unit = "", *losses = "";
    if (own != NULL && json_unpack(own, "{s:{s:I,s:I,s:s,s:s}}", "skipped", "count", &skipped, "first", &first, "unit",
                                   &unit, "losses", &losses) == 0) {
        run->skipped.count = skipped;
        run->skipped.first = first;
        snprintf(run->skipped.unit, sizeof run->skipped.unit, "%s", unit);
        snprintf(run->skipped.losses, sizeof run->skipped.losses, "%s", losses);
    }
    json_decref(own);
}

/* ---- before the first step -------------------------------------------------------------------------------------- */

/* A failure that all ranks have. Rank 0 reports it. */
static zero_status_t all_fail(const run_t *run, const char *option, zero_status_t status, zero_error_t *error)
{
    zero_error_t why;
    zero_last_failure(run->engine, &why);
    return zero_fail_from(error, run->rank == 0 ? status : ZERO_ERR_PEER, &why, "--%s: %s", option, why.text);
}

static zero_status_t load(session_t *session, run_t *run, progress_t *progress, zero_error_t *error)
{
    const options_t *o = &session->job->o;
    const bool first = run->rank == 0;
    zero_checkpoint_info_t info = {.size = sizeof info};
    if (session->checkpoint == NULL) {
        if (first && o->resume != NULL)
            progress_say(progress, "no checkpoint in %s: training begins anew", o->resume);
        return ZERO_OK;
    }
    zero_checkpoint_info(session->checkpoint, &info);
    if (first && info.warning != NULL && !o->quiet) {
        progress_clear();
        fprintf(stderr, "zero_train: warning: %s\n", info.warning);
    }
    zero_status_t status = zero_load(run->engine, session->checkpoint);
    if (status != ZERO_OK && !first)
        return all_fail(run, "resume", status, error);
    if (status != ZERO_OK) {
        zero_error_t why;
        zero_last_failure(run->engine, &why);
        return resume_fail(o, info.step, status, &why, error);
    }
    read_own(run, info.caller, info.caller_bytes);
    if (first && info.step >= o->steps)
        progress_say(progress, "resumed %s: all of --steps %lld are taken, so there is nothing to train", info.path,
                     (long long)o->steps);
    else if (first)
        progress_say(progress, "resumed %s", info.path);
    /* files of a checkpoint that --keep removes stay on the drive as long as they are open */
    zero_checkpoint_close(session->checkpoint);
    session->checkpoint = NULL;
    return ZERO_OK;
}

zero_status_t save_open(session_t *session, run_t *run, progress_t *progress, zero_error_t *error)
{
    const options_t *o = &session->job->o;
    zero_save_options_t options;
    zero_status_t status = load(session, run, progress, error);
    if (status == ZERO_OK && o->save != NULL && run->rank == 0 && session->job->lora.rank > 0)
        status = adapters_base(session->job, &session->saves.base, error);
    if (status != ZERO_OK || o->save == NULL)
        return status;
    char *about = log_about(o);
    if (about == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the options in a checkpoint");
    zero_save_options_init(&options);
    options.folder = o->save;
    options.keep = o->keep > 0 ? (int)o->keep : 0;
    options.about = about;
    status = zero_save_open(run->engine, &options);
    free(about);
    if (status != ZERO_OK)
        return all_fail(run, "save", status, error);
    session->saves.step = session->job->first;
    session->saves.begun_at = report_clock();
    return ZERO_OK;
}

/* ---- saves ------------------------------------------------------------------------------------------------------ */

/* Notes a save that has failed, unless the engine has: a run goes on without the checkpoint. last: no step comes after
 * it, so the run ends with the sentence. */
static zero_status_t note_failure(session_t *session, run_t *run, zero_status_t status, bool last, zero_error_t *error)
{
    saves_t *saves = &session->saves;
    zero_saved_t none = {.size = sizeof none};
    zero_error_t why;
    zero_last_failure(run->engine, &why);
    if (zero_save_end(run->engine, false, &none) != ZERO_OK)
        return zero_pass(error, status, &why);
    saves->running = false;
    snprintf(saves->failure, sizeof saves->failure, "the checkpoint of step %lld was not saved: %s",
             (long long)saves->step, why.text);
    log_begin(session->log, "unsaved");
    log_whole(session->log, "step", saves->step);
    log_text(session->log, "error", why.text);
    status = log_end(session->log, error);
    if (run->rank == 0 && !last) {
        progress_clear();
        fprintf(stderr, "zero_train: warning: %s; training goes on\n", saves->failure);
    }
    return status;
}

/* Looks whether the save that runs has ended, or waits for its end. */
static zero_status_t look(session_t *session, run_t *run, progress_t *progress, bool wait, bool last,
                          zero_error_t *error)
{
    saves_t *saves = &session->saves;
    zero_saved_t saved = {.size = sizeof saved};
    zero_status_t status = zero_save_end(run->engine, wait, &saved);
    if (status != ZERO_OK)
        return note_failure(session, run, status, last, error);
    if (!saved.done)
        return ZERO_OK;
    saves->running = false;
    saves->failure[0] = '\0';
    snprintf(saves->path, sizeof saves->path, "%s", saved.path);
    if (run->rank == 0)
        progress_say(progress, "saved %s in %.2f s", saved.path, saved.seconds);
    log_begin(session->log, "save");
    log_whole(session->log, "step", saved.step);
    log_text(session->log, "path", saved.path);
    log_number(session->log, "seconds", saved.seconds);
    log_bytes(session->log, "bytes", saved.bytes);
    return log_end(session->log, error);
}

static zero_status_t wait_for(session_t *session, run_t *run, progress_t *progress, bool last, zero_error_t *error)
{
    return session->saves.running ? look(session, run, progress, true, last, error) : ZERO_OK;
}

static zero_status_t begin(session_t *session, run_t *run, int64_t step, bool last, zero_error_t *error)
{
    saves_t *saves = &session->saves;
    char *own = write_own(run, saves->base);
    if (own == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the numbers of a run in a checkpoint");
    saves->step = step;
    saves->begun_at = report_clock();
    zero_status_t status = zero_save(run->engine, own, strlen(own));
    free(own);
    saves->running = status == ZERO_OK;
    return status == ZERO_OK ? ZERO_OK : note_failure(session, run, status, last, error);
}

void save_ask(const session_t *session, run_t *run)
{
    const double every = session->job->save_seconds;
    run->ask = run->rank == 0 && every > 0 && report_clock() - session->saves.begun_at >= every;
}

zero_status_t save_step(session_t *session, run_t *run, progress_t *progress, int64_t step, zero_error_t *error)
{
    const job_t *job = session->job;
    const bool due = (job->save_steps > 0 && step % job->save_steps == 0) || run->asked;
    if (!due)
        return session->saves.running ? look(session, run, progress, false, false, error) : ZERO_OK;
    launch_saving(session->launch, true);
    zero_status_t status = wait_for(session, run, progress, false, error);
    if (status == ZERO_OK)
        status = begin(session, run, step, false, error);
    launch_saving(session->launch, false);
    return status;
}

zero_status_t save_last(session_t *session, run_t *run, progress_t *progress, int64_t step, zero_error_t *error)
{
    saves_t *saves = &session->saves;
    const bool due = saves->step != step;
    launch_saving(session->launch, true);
    zero_status_t status = wait_for(session, run, progress, !due, error);
    if (status == ZERO_OK && due)
        status = begin(session, run, step, true, error);
    if (status == ZERO_OK && due)
        status = wait_for(session, run, progress, true, error);
    launch_saving(session->launch, false);
    return status;
}
