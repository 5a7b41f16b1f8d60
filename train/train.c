/* SPDX-License-Identifier: Apache-2.0 */
#include "train/train.h"
#include "train/cores.h"
#include "train/progress.h"
#include "train/report.h"
#include "train/save.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static bool is_gpu(const session_t *session)
{
    return strcmp(zero_device_name(session->place.device), "cuda") == 0;
}

zero_status_t session_start(session_t *session, const run_t *run, zero_error_t *error)
{
    const job_t *job = session->job;
    const char *gpu = zero_device_label(session->place.device);
    int rank = zero_comm_rank(session->place.comm);
    char kernels[640];
    zero_model_describe(run->model, kernels, sizeof kernels);
    if (rank == 0 && !job->o.quiet && gpu[0] != '\0')
        report_kernels(kernels);
    zero_status_t status = log_open(&session->log, rank == 0 ? job->o.log : NULL, error);
    if (status == ZERO_OK)
        status = tensorboard_open(&session->board, rank == 0 ? job->o.tensorboard : NULL, job->first + 1, error);
    if (status == ZERO_OK)
        status = trace_open(&session->trace, &job->o, rank, job->world, job->first, is_gpu(session), error);
    if (status != ZERO_OK)
        return status;
    if (rank == 0 && !job->o.quiet)
        report_rates(job);
    session->training = true;
    session->catch_signals(session);
    log_begin(session->log, "start");
    log_text(session->log, "version", zero_version());
    log_options(session->log, &job->o);
    log_whole(session->log, "world_size", job->world);
    log_text(session->log, "communicator", zero_comm_name(session->place.wire));
    log_open_object(session->log, "mesh");
    log_whole(session->log, "pipe", job->o.pipe);
    if (job->o.pipe > 1) {
        log_text(session->log, "schedule", zero_schedule_name((zero_schedule_t)job->o.pipe_schedule));
        log_whole(session->log, "chunks", job->o.chunks);
    }
    log_whole(session->log, "replica", job->o.replicas);
    log_whole(session->log, "shard", job->copies / job->o.replicas);
    log_whole(session->log, "context", job->o.context);
    log_whole(session->log, "tensor", job->o.tensor);
    if (job->o.node > 0)
        log_whole(session->log, "node", job->o.node);
    log_close_object(session->log);
    log_text(session->log, "gpu", gpu[0] != '\0' ? gpu : NULL);
    log_text(session->log, "kernels", kernels);
    const int64_t base = zero_model_parameters(&job->model),
                  adapters = zero_model_adapter_parameters(&job->model, &job->lora);
    log_whole(session->log, "parameters", base + adapters);
    log_whole(session->log, "trainable", job->lora.rank > 0 ? adapters : base);
    log_hash(session->log, "plan_hash", zero_plan_hash(run->engine));
    log_whole(session->log, "first_step", job->first + 1);
    return log_end(session->log, error);
}

typedef struct totals {
    int64_t step;   /* steps taken, also before this run */
    double seconds; /* in steps */
    double exposed; /* seconds in steps that waits and collectives took on rank 0, on a GPU estimated; NaN: unknown */
    bool fresh;     /* the last evaluation was of this step */
    double tokens, sources; /* in steps, as in step_t */
    step_t last;
    zero_traffic_t moved; /* between tiers, in steps */
} totals_t;

static void add_traffic(zero_traffic_t *sum, const zero_traffic_t *before, const zero_traffic_t *after)
{
    sum->to_host += after->to_host - before->to_host;
    sum->to_device += after->to_device - before->to_device;
    sum->read += after->read - before->read;
    sum->written += after->written - before->written;
}

/* A disk that is full ends the curves, not the run. */
static void pace_board(session_t *session)
{
    zero_error_t error;
    if (tensorboard_pace(session->board, &error) == ZERO_OK || session->job->o.quiet)
        return;
    progress_clear();
    fprintf(stderr, "zero_train: warning: %s; the run goes on without\n", error.text);
}

static zero_status_t evaluate(session_t *session, run_t *run, progress_t *progress, totals_t *t, zero_error_t *error)
{
    double loss;
    uint64_t begin = trace_now(session->trace);
    zero_status_t status = run_eval(run, &loss, error);
    trace_program(session->trace, "evaluation", begin);
    if (status != ZERO_OK)
        return status;
    t->fresh = true;
    if (run->rank == 0)
        progress_say(progress, "step %lld  evaluation loss %.4f", (long long)t->step, loss);
    tensorboard_scalar(session->board, t->step, "eval/loss", loss);
    pace_board(session);
    log_begin(session->log, "eval");
    log_whole(session->log, "step", t->step);
    log_exact(session->log, "loss", loss);
    return log_end(session->log, error);
}

/* Samples, under a heading. */
static zero_status_t sample(session_t *session, run_t *run, const char *heading, const totals_t *t, zero_error_t *error)
{
    run_sampled_t sampled;
    zero_status_t status = run_sample(run, heading, &sampled, error);
    if (status != ZERO_OK || sampled.tokens == 0)
        return status;
    log_begin(session->log, "sample");
    log_whole(session->log, "step", t->step);
    log_whole(session->log, "tokens", sampled.tokens);
    log_number(session->log, "seconds", sampled.seconds);
    log_number(session->log, "tokens_per_second", (double)sampled.tokens / sampled.seconds);
    return log_end(session->log, error);
}

/* Of tokens, some of them those of sources. NaN: the peak rate is unknown. */
static double mfu_of(const session_t *session, double tokens, double sources, double seconds)
{
    const job_t *job = session->job;
    const double peak = place_peak(zero_device_label(session->place.device), (zero_dtype_t)job->o.dtype);
    const double target = zero_model_flops_per_token(&job->model, &job->lora, job->o.seq_len, job->digits),
                 source = zero_model_flops_per_source_token(&job->model, job->digits);
    const double mfu = ((tokens - sources) * target + sources * source) / seconds / (job->world * peak);
    return isfinite(mfu) ? mfu : NAN;
}

static void draw_curves(session_t *session, const totals_t *t, double rate, double speed, double mfu,
                        const zero_memory_t *measured)
{
    tensorboard_t *board = session->board;
    tensorboard_scalar(board, t->step, "loss", t->last.loss);
    tensorboard_scalar(board, t->step, "grad_norm", t->last.stats.grad_norm);
    tensorboard_scalar(board, t->step, "lr", rate);
    tensorboard_scalar(board, t->step, "tokens_per_second", speed);
    if (!isnan(session->job->o.loss_scale))
        tensorboard_scalar(board, t->step, "loss_scale", t->last.stats.loss_scale);
    if (isfinite(mfu))
        tensorboard_scalar(board, t->step, "mfu", mfu);
    tensorboard_memory(board, t->step, measured);
    pace_board(session);
}

static zero_status_t steps(session_t *session, run_t *run, progress_t *progress, totals_t *t, zero_error_t *error)
{
    const job_t *job = session->job;
    step_t *last = &t->last;
    zero_status_t status = ZERO_OK;
    while (t->step < job->o.steps && session->signal == 0 && status == ZERO_OK) {
        double begin = report_clock(), rate = schedule_rate(&job->schedule, t->step + 1);
        zero_memory_t forecast, measured;
        bool equal;
        zero_stats_t before = {.size = sizeof before};
        if ((status = zero_step_stats(run->engine, &before)) != ZERO_OK) {
            run_engine_error(run, status, error);
            break;
        }
        if ((status = trace_step_begin(session->trace, run->engine, t->step + 1, error)) != ZERO_OK)
            break;
        save_ask(session, run);
        status = run_step(run, t->step, rate, session->stop, last, error);
        if (status != ZERO_OK)
            break;
        add_traffic(&t->moved, &before.traffic, &last->stats.traffic);
        double seconds = report_clock() - begin;
        if ((status = trace_step_end(session->trace, run->engine, error)) != ZERO_OK)
            break;
        t->step++;
        t->fresh = false;
        t->seconds += seconds;
        t->tokens += last->tokens;
        t->sources += last->sources;
        t->exposed += last->stats.exposed_seconds - before.exposed_seconds;
        launch_step(session->launch, t->step);
        if (run->rank == 0) {
            progress_step(progress, t->step, last->loss, last->stats.grad_norm, rate, seconds);
            if (report_unread())
                atomic_store(session->stop, SIGPIPE);
            else if ((status = report_written(error)) != ZERO_OK)
                break;
        }
        if (job->logs) {
            const double speed = last->tokens / seconds, mfu = mfu_of(session, last->tokens, last->sources, seconds);
            /* seconds covers only the step; the code below is the cost of a log */
            if ((status = run_memory(run, &forecast, &measured, &equal, error)) != ZERO_OK)
                break;
            log_begin(session->log, "step");
            log_whole(session->log, "step", t->step);
            log_exact(session->log, "loss", last->loss);
            log_exact(session->log, "grad_norm", last->stats.grad_norm);
            log_number(session->log, "lr", rate);
            log_number(session->log, "tokens", last->tokens);
            log_number(session->log, "targets", last->targets);
            log_number(session->log, "seconds", seconds);
            log_number(session->log, "tokens_per_second", speed);
            log_number(session->log, "mfu", mfu);
            log_bool(session->log, "applied", last->stats.applied);
            if (!isnan(job->o.loss_scale))
                log_number(session->log, "loss_scale", last->stats.loss_scale);
            log_memory(session->log, "memory", &measured);
            status = log_end(session->log, error);
            draw_curves(session, t, rate, speed, mfu, &measured);
        }
        /* all ranks have the same signals, so all stop here */
        for (int s = 1; s < 32 && session->signal == 0; s++)
            if (last->stats.signals >> s & 1)
                session->signal = s;
        if (status == ZERO_OK)
            status = run_check_skipped(run, t->step, &last->stats, error);
        if (status == ZERO_OK && session->signal == 0 && job->o.eval_every > 0 && t->step % job->o.eval_every == 0)
            status = evaluate(session, run, progress, t, error);
        if (status == ZERO_OK && job->o.save != NULL && session->signal == 0 && t->step < job->o.steps)
            status = save_step(session, run, progress, t->step, error);
    }
    if (status == ZERO_OK && job->o.save != NULL)
        status = save_last(session, run, progress, t->step, error);
    if (status == ZERO_OK)
        status = trace_stop(session->trace, run->engine, error);
    /* a GPU tells it only while it is traced: the traced steps stand for all */
    if (is_gpu(session))
        t->exposed = t->seconds * trace_exposed(session->trace);
    if (t->step >= job->o.steps)
        session->signal = 0; /* it came too late to end anything */
    return status;
}

static summary_t summarize(const session_t *session, const totals_t *t, const zero_memory_t *measured, bool equal)
{
    return (summary_t){.steps = t->step - session->job->first,
                       .tokens = t->tokens,
                       .seconds = t->seconds,
                       .mfu = mfu_of(session, t->tokens, t->sources, t->seconds),
                       .exposed = t->exposed,
                       .measured = measured,
                       .equal = equal};
}

static zero_status_t end_event(session_t *session, run_t *run, const totals_t *t, const summary_t *all,
                               const zero_memory_t *forecast, zero_error_t *error)
{
    uint64_t hash;
    double links[2] = {(double)t->last.stats.traffic.activations_received,
                       (double)t->last.stats.traffic.gradients_received};
    zero_status_t status = run_hash(run, &hash, error);
    if (status == ZERO_OK && (status = zero_sum(run->engine, links, 2)) != ZERO_OK)
        run_engine_error(run, status, error);
    if (status != ZERO_OK)
        return status;
    log_begin(session->log, "end");
    log_text(session->log, "status", session->signal != 0 ? "signal" : "done");
    log_whole(session->log, "step", t->step);
    log_hash(session->log, "params_xxh64", hash);
    log_number(session->log, "tokens", all->tokens);
    log_number(session->log, "seconds", all->seconds);
    log_number(session->log, "tokens_per_second", all->tokens / all->seconds);
    log_number(session->log, "mfu", all->mfu);
    log_whole(session->log, "skipped", t->last.stats.skipped);
    log_bytes(session->log, "bytes_gathered", t->last.stats.traffic.gathered);
    log_bytes(session->log, "bytes_reduced", t->last.stats.traffic.reduced);
    log_bytes(session->log, "bytes_gathered_replica", t->last.stats.traffic.replica_gathered);
    log_bytes(session->log, "bytes_reduced_replica", t->last.stats.traffic.replica_reduced);
    log_bytes(session->log, "bytes_gathered_node", t->last.stats.traffic.node_gathered);
    log_bytes(session->log, "bytes_collected", t->last.stats.traffic.collected);
    log_bytes(session->log, "bytes_activations_received", (uint64_t)links[0]);
    log_bytes(session->log, "bytes_gradients_received", (uint64_t)links[1]);
    log_bytes(session->log, "bytes_to_host", t->last.stats.traffic.to_host);
    log_bytes(session->log, "bytes_to_device", t->last.stats.traffic.to_device);
    log_bytes(session->log, "bytes_read", t->last.stats.traffic.read);
    log_bytes(session->log, "bytes_written", t->last.stats.traffic.written);
    log_number(session->log, "comm_seconds", t->last.stats.comm_seconds);
    log_number(session->log, "exposed_seconds", all->exposed);
    log_number(session->log, "kernel_seconds", t->last.stats.kernel_seconds);
    log_number(session->log, "library_seconds", t->last.stats.total_seconds);
    if (session->signal != 0)
        log_whole(session->log, "signal", session->signal);
    log_memory(session->log, "forecast", forecast);
    log_memory(session->log, "measured", all->measured);
    log_bool(session->log, "equal", all->equal);
    return log_end(session->log, error);
}

/* Prints the measured traffic between tiers per step. Writes of the last step, which continued after it, are complete
 * by now. */
static void per_step(run_t *run, const totals_t *t)
{
    zero_stats_t now = {.size = sizeof now};
    int64_t own = t->step - run->job->first;
    uint64_t steps = own > 0 ? (uint64_t)own : 1;
    zero_traffic_t each = t->moved;
    if (zero_step_stats(run->engine, &now) == ZERO_OK) {
        each.read += now.traffic.read - t->last.stats.traffic.read;
        each.written += now.traffic.written - t->last.stats.traffic.written;
    }
    each.to_host /= steps;
    each.to_device /= steps;
    each.read /= steps;
    each.written /= steps;
    report_tiers(&each, "moved");
}

/* Warns if the ranks that compute a layer together are on several machines. Collective. */
static zero_status_t check_spread(const session_t *session, const run_t *run, zero_error_t *error)
{
    const job_t *job = session->job;
    zero_traffic_t traffic;
    int machines = 1;
    if (job->o.tensor == 1)
        return ZERO_OK;
    zero_status_t status = cores_machines(session->place.comm, (int)job->o.tensor, &machines, error);
    if (status != ZERO_OK || machines == 1 || run->rank != 0 || job->o.quiet)
        return status;
    if ((status = zero_forecast_traffic(run->engine, job->micro_steps, &traffic)) != ZERO_OK)
        return run_engine_error(run, status, error);
    fprintf(stderr,
            "zero_train: warning: the %lld ranks that compute a layer together (--tensor) are on %d machines, and each "
            "of them receives %s bytes of activations a step from the others: put them on one machine, or use a "
            "smaller --tensor\n",
            (long long)job->o.tensor, machines, report_digits(traffic.collected).text);
    return ZERO_OK;
}

zero_status_t train(session_t *session, zero_error_t *error)
{
    const job_t *job = session->job;
    run_t run;
    totals_t t = {.step = job->first, .last.stats.size = sizeof t.last.stats};
    summary_t all;
    zero_memory_t forecast, measured;
    bool equal, first = zero_comm_rank(session->place.comm) == 0;
    char after[64];
    progress_t progress;
    progress_begin(&progress, job, session->launch, first);
    if (first && !job->o.quiet) {
        report_head(job, zero_device_label(session->place.device));
        report_pipe(job);
        report_data(job);
    }
    zero_status_t status = run_open(&run, job, &session->place, (int)job->o.stage, error);
    if (status == ZERO_OK)
        status = check_spread(session, &run, error);
    if (status == ZERO_OK)
        status = save_open(session, &run, &progress, error);
    if (status == ZERO_OK && (status = zero_step_stats(run.engine, &t.last.stats)) != ZERO_OK)
        run_engine_error(&run, status, error);
    if (status == ZERO_OK)
        status = session_start(session, &run, error);
    run.trace = session->trace;
    if (status == ZERO_OK && !job->resumed && t.step < job->o.steps)
        status = sample(session, &run, "before training:", &t, error);
    if (status == ZERO_OK)
        status = steps(session, &run, &progress, &t, error);
    if (first)
        progress_end(&progress);
    if (status == ZERO_OK && session->signal == 0 && job->eval && job->o.eval_every < 0 && !t.fresh)
        status = evaluate(session, &run, &progress, &t, error);
    snprintf(after, sizeof after, t.step > 0 ? "after %lld steps:" : "sample:", (long long)t.step);
    if (status == ZERO_OK && session->signal == 0)
        status = sample(session, &run, after, &t, error);
    if (status == ZERO_OK)
        status = run_memory(&run, &forecast, &measured, &equal, error);
    if (status == ZERO_OK && session->signal == 0 && job->o.export != NULL)
        status = export_model(session, &run, t.step, &progress, error);
    if (status == ZERO_OK)
        all = summarize(session, &t, &measured, equal);
    if (status == ZERO_OK)
        status = end_event(session, &run, &t, &all, &forecast, error);
    if (status == ZERO_OK && first) {
        if (t.last.stats.skipped > 0)
            progress_say(&progress, "%lld of %lld steps were skipped: their gradient norm was not finite",
                         (long long)t.last.stats.skipped, (long long)t.step);
        if (session->signal != 0)
            progress_say(&progress, "stopped by a signal after step %lld", (long long)t.step);
        if (!job->o.quiet) {
            report_memory(&forecast, &measured);
            per_step(&run, &t);
            report_summary(&all);
            if (session->saves.path[0] != '\0')
                report_saved(session->saves.path);
            if (session->signal == 0 && job->o.export != NULL)
                report_saved(job->o.export);
        }
    }
    if (status != ZERO_OK) {
        memcpy(session->cursor, run.cursor, sizeof session->cursor);
        if (run.engine != NULL)
            zero_abort(run.engine, error->text);
    }
    run_close(&run);
    return status;
}
