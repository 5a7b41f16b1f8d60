/* SPDX-License-Identifier: Apache-2.0 */
/* compare.c - --compare-stages: runs each stage on the same steps, in fresh engines on the same ranks. */
#include "train/report.h"
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

/* What a rank receives from others. */
static uint64_t received(const zero_traffic_t *t)
{
    return t->gathered + t->reduced + t->activations_received + t->gradients_received + t->collected;
}

/* Runs the steps of one stage on an open run. */
static zero_status_t measure(session_t *session, run_t *run, stage_result_t *r, zero_error_t *error)
{
    const job_t *job = session->job;
    zero_stats_t before = {.size = sizeof before};
    step_t step = {.stats.size = sizeof step.stats};
    double tokens = 0; /* of the steps that are timed */
    zero_traffic_t planned;
    double begin = 0;
    zero_status_t status;
    if ((status = zero_step_stats(run->engine, &before)) != ZERO_OK ||
        (status = zero_forecast_traffic(run->engine, job->micro_steps, &planned)) != ZERO_OK)
        return run_engine_error(run, status, error);
    for (int64_t s = 0; s < job->o.steps; s++) {
        /* if there are several steps, the first is a warm-up */
        if (s == 0 || s == 1)
            begin = report_clock();
        status = run_step(run, s, schedule_rate(&job->schedule, s + 1), session->stop, &step, error);
        if (status == ZERO_OK)
            status = run_check_skipped(run, s + 1, &step.stats, error);
        if (status != ZERO_OK)
            return status;
        tokens = s == 0 || s == 1 ? step.tokens : tokens + step.tokens;
        r->losses[s] = step.loss;
        r->norms[s] = step.stats.grad_norm;
        launch_step(session->launch, s + 1);
        for (int n = 1; n < 32; n++)
            if (step.stats.signals >> n & 1) {
                session->signal = n;
                return ZERO_OK;
            }
    }
    r->tokens_per_second = tokens / (report_clock() - begin);
    r->bytes_planned = received(&planned) * (uint64_t)job->o.steps;
    r->bytes_moved = received(&step.stats.traffic) - received(&before.traffic);
    status = run_memory(run, &r->forecast, &r->measured, &r->memory_equal, error);
    double differ = r->bytes_planned != r->bytes_moved;
    if (status == ZERO_OK && (status = zero_sum(run->engine, &differ, 1)) != ZERO_OK)
        return run_engine_error(run, status, error);
    r->bytes_equal = differ == 0;
    return status == ZERO_OK ? run_hash(run, &r->hash, error) : status;
}

static zero_status_t log_stage(session_t *session, int stage, const stage_result_t *r, zero_error_t *error)
{
    log_t *log = session->log;
    log_begin(log, "compare");
    log_whole(log, "stage", stage);
    log_memory(log, "forecast", &r->forecast);
    log_memory(log, "measured", &r->measured);
    log_bool(log, "equal", r->memory_equal && r->bytes_equal);
    log_bytes(log, "bytes_planned", r->bytes_planned);
    log_bytes(log, "bytes_moved", r->bytes_moved);
    log_number(log, "tokens_per_second", r->tokens_per_second);
    log_open_array(log, "losses");
    for (int64_t s = 0; s < session->job->o.steps; s++)
        log_exact(log, NULL, r->losses[s]);
    log_close_array(log);
    log_open_array(log, "grad_norms");
    for (int64_t s = 0; s < session->job->o.steps; s++)
        log_exact(log, NULL, r->norms[s]);
    log_close_array(log);
    log_hash(log, "params_xxh64", r->hash);
    return log_end(log, error);
}

/* Fails with the first pair of numbers that must be equal but differ. */
static zero_status_t judge(const job_t *job, const stage_result_t *results, zero_error_t *error)
{
    for (int stage = 0; stage < 4; stage++) {
        const stage_result_t *r = &results[stage], *first = &results[0];
        if (!r->memory_equal)
            return zero_fail(error, ZERO_ERR_MISMATCH,
                             "stage %d: the measured memory differs from the forecast (%llu and %llu bytes in all)",
                             stage, (unsigned long long)report_total(&r->measured),
                             (unsigned long long)report_total(&r->forecast));
        if (!r->bytes_equal)
            return zero_fail(error, ZERO_ERR_MISMATCH, "stage %d: a rank received %llu bytes, but the plan says %llu",
                             stage, (unsigned long long)r->bytes_moved, (unsigned long long)r->bytes_planned);
        for (int64_t s = 0; s < job->o.steps; s++)
            if (memcmp(&r->losses[s], &first->losses[s], sizeof *r->losses) != 0 ||
                memcmp(&r->norms[s], &first->norms[s], sizeof *r->norms) != 0)
                return zero_fail(error, ZERO_ERR_MISMATCH,
                                 "stage %d has different bits than stage 0: at step %lld loss %.17g and norm %.17g, "
                                 "not %.17g and %.17g",
                                 stage, (long long)s + 1, r->losses[s], r->norms[s], first->losses[s], first->norms[s]);
        if (r->hash != first->hash)
            return zero_fail(error, ZERO_ERR_MISMATCH,
                             "stage %d has different parameters than stage 0: xxh64 %016llx, not %016llx", stage,
                             (unsigned long long)r->hash, (unsigned long long)first->hash);
    }
    return ZERO_OK;
}

zero_status_t compare_stages(session_t *session, zero_error_t *error)
{
    const job_t *job = session->job;
    const size_t count = (size_t)job->o.steps, size = count * sizeof(double);
    bool first = zero_comm_rank(session->place.comm) == 0;
    stage_result_t results[4] = {{.hash = 0}};
    double *numbers = calloc(8 * count, sizeof *numbers);
    zero_status_t status = ZERO_OK;
    run_t run;
    if (numbers == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the results of %lld steps", (long long)job->o.steps);
    if (first && !job->o.quiet) {
        report_head(job, zero_device_label(session->place.device));
        report_pipe(job);
    }
    for (int stage = 0; stage < 4 && status == ZERO_OK && session->signal == 0; stage++) {
        stage_result_t *r = &results[stage];
        r->losses = numbers + 2 * (size_t)stage * count;
        r->norms = r->losses + count;
        status = run_open(&run, job, &session->place, stage, error);
        if (status == ZERO_OK && session->log == NULL)
            status = session_start(session, &run, error);
        if (status == ZERO_OK)
            status = measure(session, &run, r, error);
        r->same = status == ZERO_OK && memcmp(r->losses, results[0].losses, size) == 0 &&
                  memcmp(r->norms, results[0].norms, size) == 0 && r->hash == results[0].hash;
        if (status == ZERO_OK && session->signal == 0)
            status = log_stage(session, stage, r, error);
        if (status != ZERO_OK) {
            memcpy(session->cursor, run.cursor, sizeof session->cursor);
            if (run.engine != NULL)
                zero_abort(run.engine, error->text);
        }
        run_close(&run);
    }
    if (status == ZERO_OK && session->signal == 0) {
        if (first)
            report_stages(job, results);
        status = judge(job, results, error);
    }
    if (session->log != NULL && (status == ZERO_OK || status == ZERO_ERR_MISMATCH)) {
        log_begin(session->log, "end");
        log_text(session->log, "status", session->signal != 0 ? "signal" : status == ZERO_OK ? "done" : "failed");
        if (session->signal == 0)
            log_hash(session->log, "params_xxh64", results[0].hash);
        zero_error_t writing;
        zero_status_t ended = log_end(session->log, &writing);
        if (status == ZERO_OK && ended != ZERO_OK)
            status = zero_pass(error, ended, &writing);
    }
    free(numbers);
    return status;
}
