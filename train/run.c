/* SPDX-License-Identifier: Apache-2.0 */
#include "train/run.h"
#include "kernels/nn/nn.h"
#include "train/numbers.h"
#include "train/progress.h"
#include "train/tune.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void warn(void *ctx, zero_log_level_t level, const char *text)
{
    run_t *run = ctx;
    if (level == ZERO_LOG_ERROR)
        snprintf(run->cursor, sizeof run->cursor, "%s", text);
    else if (run->rank == 0 && level == ZERO_LOG_WARNING && !run->job->o.quiet) {
        progress_clear();
        fprintf(stderr, "zero_train: warning: %s\n", text);
    }
}

zero_status_t run_engine_error(const run_t *run, zero_status_t status, zero_error_t *error)
{
    zero_last_failure(run->engine, error);
    return error->status = status;
}

/* config.name_change: the options that make a change of the library's config. */
static const char *name_change(void *ctx, const zero_change_t *change)
{
    run_t *run = ctx;
    const bool optimizer = change->optimizer.tier != ZERO_TIER_DEVICE,
               params = change->parameters.tier != ZERO_TIER_DEVICE;
    const bool to_nvme = (change->sets & ZERO_CHANGE_OPTIMIZER_TIER && change->optimizer.tier == ZERO_TIER_NVME) ||
                         (change->sets & ZERO_CHANGE_PARAMETERS_TIER && change->parameters.tier == ZERO_TIER_NVME);
    const int stage = change->parameters.sharding == ZERO_SHARDED  ? 3
                      : change->gradients.sharding == ZERO_SHARDED ? 2
                                                                   : 1;
    if (change->sets == 0)
        return "use more --ranks, a smaller --micro-batch, --recompute or a smaller --model";
    if (change->sets & ZERO_CHANGE_WINDOW)
        snprintf(run->advice, sizeof run->advice, "use --window %d", change->window);
    else if (change->sets & ZERO_CHANGE_OFFLOAD_RATIO)
        snprintf(run->advice, sizeof run->advice, "use --offload-ratio %g", change->offload_ratio);
    else if (change->sets &
             (ZERO_CHANGE_OPTIMIZER_SHARDING | ZERO_CHANGE_GRADIENTS_SHARDING | ZERO_CHANGE_PARAMETERS_SHARDING))
        snprintf(run->advice, sizeof run->advice, "use --stage %d", stage);
    else
        snprintf(run->advice, sizeof run->advice, "use --offload %s%s",
                 optimizer && params ? "all"
                 : optimizer         ? "optimizer"
                                     : "params",
                 to_nvme ? " --offload-tier nvme --nvme-path DIR" : "");
    return run->advice;
}

/* config.matrix: the model's kernels make the update of a layer's matrix. */
static int orthogonalize(void *ctx, const zero_matrix_args_t *args)
{
    run_t *run = ctx;
    zero_error_t error;
    int result = zero_model_matrix(run->model, args, &error);
    if (result != 0)
        warn(run, ZERO_LOG_WARNING, error.text);
    return result;
}

static zero_status_t commit(run_t *run, zero_error_t *error)
{
    const options_t *o = &run->job->o;
    zero_status_t status = zero_commit(run->engine);
    if (status == ZERO_OK)
        return ZERO_OK;
    run_engine_error(run, status, error);
    if (o->tensor > 1 && o->optimizer == ZERO_RULE_ADAMW8 && status == ZERO_ERR_UNSUPPORTED) {
        const zero_error_t why = *error;
        zero_fail_from(error, status, &why, "--optimizer adamw8bit with --tensor %lld: %s", (long long)o->tensor,
                       why.text);
    }
    return status;
}

static zero_status_t declare_model(run_t *run, const zero_model_options_t *options, zero_error_t *error)
{
    zero_error_t why;
    zero_status_t status = zero_model_create(&run->model, &run->job->model, options, &why);
    if (status == ZERO_OK)
        return zero_model_declare(run->model, run->engine, error);
    return run->job->o.tensor > 1
               ? zero_fail_from(error, status, &why, "--tensor %lld: %s", (long long)run->job->o.tensor, why.text)
               : zero_pass(error, status, &why);
}

/* Declares the model with the choices of --tune: rank 0 reads them, measures the missing ones and shares all. A plan
 * measures nothing. */
static zero_status_t declare_tuned(run_t *run, const zero_model_options_t *given, zero_error_t *error)
{
    const char *path = run->job->o.tune;
    zero_comm_t *comm = run->place.comm;
    zero_model_options_t options = *given;
    char *before = NULL, *after = NULL;
    zero_status_t status = run->rank == 0 ? tune_read(path, &before, error) : tune_share(comm, &before, error);
    options.choices = before;
    options.measure = run->rank == 0 && comm != NULL;
    if (status == ZERO_OK && (status = declare_model(run, &options, error)) != ZERO_OK && status == ZERO_ERR_ARG &&
        run->rank == 0) {
        zero_error_t why = *error;
        zero_fail_from(error, status, &why, "--tune '%s': %s", path, why.text);
    }
    if (options.measure) {
        if (status == ZERO_OK && (after = zero_model_choices(run->model)) == NULL)
            status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the choices of --tune");
        if (status == ZERO_OK && strcmp(before, after) != 0)
            status = tune_write(path, after, error);
        if (status != ZERO_OK) {
            zero_error_t ignored;
            free(after);
            after = NULL;
            tune_share(comm, &after, &ignored);
        } else {
            status = tune_share(comm, &after, error);
        }
    }
    free(before);
    free(after);
    return status;
}

/* The loss is a mean over tokens, but kernels compute the gradients of a sum. Those of fp16 are multiplied by the power
 * of two that comes nearest to a mean over a rank's micro-batch. So the loss scale has the same size as where the loss
 * is a mean from the start, and does not depend on the size of batches. The step undoes the factor. */
static double factor_of_gradients(const options_t *o)
{
    double factor = 1;
    while (o->dtype == ZERO_FP16 && factor * (double)(o->micro_batch * o->seq_len) > 1)
        factor /= 2;
    return factor;
}

static void set_loss_scale(zero_config_t *config, const options_t *o)
{
    config->grad_scale = 1 / factor_of_gradients(o);
    if (isinf(o->loss_scale)) {
        config->loss_scale = o->scale.first;
        config->min_loss_scale = o->scale.least;
        config->growth_interval = (int)o->scale.interval;
        config->hysteresis = (int)o->scale.hysteresis;
    } else if (!isnan(o->loss_scale))
        config->loss_scale = o->loss_scale;
}

/* Creates an engine and declares the model on it, without a commit. */
static zero_status_t declare(run_t *run, int stage, zero_error_t *error)
{
    const options_t *o = &run->job->o;
    zero_config_t config;
    zero_config_init(&config);
    zero_status_t status = zero_config_stage(&config, stage);
    if (status != ZERO_OK)
        return zero_fail(error, status, "--stage is %d, but must be from 0 to 3", stage);
    if (o->offload == OFFLOAD_OPTIMIZER || o->offload == OFFLOAD_ALL) {
        config.optimizer.tier = o->offload_tier == OFFLOAD_TO_NVME ? ZERO_TIER_NVME : ZERO_TIER_HOST;
        config.gradients.tier = ZERO_TIER_HOST;
        config.offload_ratio = o->offload_ratio;
        config.nvme_path = o->nvme_path;
    }
    if (o->offload == OFFLOAD_PARAMS || o->offload == OFFLOAD_ALL)
        /* Parameters go to the drive if all of their optimizer state does; if part of it stays on the device, they go
         * to host memory. */
        config.parameters.tier =
            o->offload_tier == OFFLOAD_TO_NVME && o->offload_ratio >= 1 ? ZERO_TIER_NVME : ZERO_TIER_HOST;
    config.comm = run->place.wire;
    config.device = run->place.device;
    config.plan_world = run->place.comm == NULL ? run->job->world : 0;
    config.mesh.pipe = (int32_t)o->pipe;
    config.schedule = (zero_schedule_t)o->pipe_schedule; /* the choices have the same order */
    config.mesh.tensor = (int32_t)o->tensor;
    config.mesh.context = (int32_t)o->context;
    config.mesh.replicas = (int32_t)o->replicas;
    config.mesh.node = o->node > 0 && stage == 3 ? (int32_t)o->node : 0;
    config.window = (int)o->window;
    config.reduce = o->reduce == REDUCE_EVERY ? ZERO_REDUCE_EVERY : ZERO_REDUCE_LAST;
    config.reduce_dtype = (zero_dtype_t)o->reduce_dtype;
    config.gather_codec = (zero_codec_t)o->gather_codec; /* the choices have the same order */
    config.reduce_codec = (zero_codec_t)o->reduce_codec;
    config.micro_steps = run->job->micro_steps;
    config.clip = o->clip;
    config.saves = o->save != NULL;
    config.saves_frozen = run->job->lora.rank == 0;
    config.rule = (zero_rule_t)o->optimizer; /* the choices have the same order */
    config.beta1 = o->betas[0];
    config.beta2 = o->betas[1];
    config.eps = o->eps;
    config.weight_decay = o->weight_decay;
    set_loss_scale(&config, o);
    if (config.rule == ZERO_RULE_MUON) {
        config.matrix = orthogonalize;
        config.matrix_ctx = run;
    }
    config.log = warn;
    config.log_ctx = run;
    config.name_change = name_change;
    config.name_change_ctx = run;
    if ((status = zero_create(&run->engine, &config, error)) != ZERO_OK)
        return status;
    zero_model_options_t options = {.micro_batch = o->micro_batch,
                                    .seq_len = o->seq_len,
                                    .source_len = run->job->digits,
                                    .sample_len = run->job->sample_len,
                                    .micro_steps = run->job->micro_steps,
                                    .dtype = (zero_dtype_t)o->dtype,
                                    .grad_factor = (float)factor_of_gradients(o),
                                    .recompute = (zero_recompute_t)o->recompute,
                                    .offload_activations = o->offload_activations != 0,
                                    .threads = (int)o->threads,
                                    .backend = o->device == DEVICE_CUDA ? "cuda" : "cpu",
                                    .eval = run->job->eval,
                                    .untrained = run->job->untrained,
                                    .tile_bytes = o->tile,
                                    .chunks = o->pipe > 1 ? (int)(o->pipe * o->chunks) : 0,
                                    .chunk_of = run->job->chunk_of,
                                    .tensor = (int)o->tensor,
                                    .context = (int)o->context,
                                    .whole_rows = o->sequence_parallel == 0,
                                    .packed = o->pack != 0,
                                    .lora = run->job->lora,
                                    .muon = config.rule == ZERO_RULE_MUON,
                                    .log = warn,
                                    .log_ctx = run};
    return o->tune != NULL ? declare_tuned(run, &options, error) : declare_model(run, &options, error);
}

zero_status_t run_plan(run_t *run, const job_t *job, int stage, zero_error_t *error)
{
    memset(run, 0, sizeof *run);
    run->job = job;
    zero_status_t status = place_device(&run->place, job, 0, error);
    if (status == ZERO_OK)
        status = declare(run, stage, error);
    return status == ZERO_OK ? commit(run, error) : status;
}

/* Sets the values that no checkpoint has: all of them, or those of a frozen model. */
static zero_status_t fill(run_t *run, zero_error_t *error)
{
    const job_t *job = run->job;
    const uint64_t seed = (uint64_t)job->o.seed;
    if (job->resumed && job->lora.rank == 0)
        return ZERO_OK;
    if (!job->folder)
        return zero_model_init(run->model, seed, error);
    zero_status_t status = zero_model_load(run->model, job->o.model, error);
    if (status == ZERO_OK)
        status = job->adapters != NULL && !job->resumed ? zero_model_load_adapters(run->model, job->adapters, error)
                                                        : zero_model_init_adapters(run->model, seed, error);
    return status;
}

zero_status_t run_open(run_t *run, const job_t *job, const place_t *place, int stage, zero_error_t *error)
{
    const options_t *o = &job->o;
    const size_t micros = o->pipe > 1 ? (size_t)job->micro_steps : 1, rows = micros * (size_t)o->micro_batch,
                 tokens = rows * (size_t)o->seq_len;
    memset(run, 0, sizeof *run);
    run->job = job;
    run->place = *place;
    run->rank = zero_comm_rank(place->comm);
    zero_status_t status = declare(run, stage, error);
    if (status != ZERO_OK)
        return status;
    run->part = zero_data_index(run->engine);
    run->counts = zero_pipe_index(run->engine) + 1 == zero_pipe_size(run->engine) &&
                  zero_axis_index(run->engine, ZERO_AXIS_TENSOR) == 0;
    run->counts_tokens = run->counts && zero_axis_index(run->engine, ZERO_AXIS_CONTEXT) == 0;
    run->batches = calloc(micros, sizeof *run->batches);
    run->tokens = calloc(tokens, sizeof *run->tokens);
    run->targets = calloc(tokens, sizeof *run->targets);
    run->starts = calloc(tokens, sizeof *run->starts);
    run->source = calloc(rows * (size_t)job->digits + 1, sizeof *run->source);
    run->source_lengths = calloc(rows, sizeof *run->source_lengths);
    if (run->batches == NULL || run->tokens == NULL || run->targets == NULL || run->starts == NULL ||
        run->source == NULL || run->source_lengths == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the tokens of --micro-batch %lld x --seq-len %lld",
                         (long long)o->micro_batch, (long long)o->seq_len);
    if ((status = commit(run, error)) != ZERO_OK)
        return status;
    if ((status = zero_model_bind(run->model, error)) != ZERO_OK)
        return status;
    return fill(run, error);
}

void run_close(run_t *run)
{
    zero_destroy(run->engine);
    zero_model_destroy(run->model);
    if (run->place.comm == NULL)
        zero_device_destroy(run->place.device);
    free(run->batches);
    free(run->tokens);
    free(run->targets);
    free(run->starts);
    free(run->source);
    free(run->source_lengths);
    memset(run, 0, sizeof *run);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

_Static_assert(DATA_IGNORED == ZERO_NN_IGNORE, "padding has targets that the cross-entropy ignores");

/* What a rank read. */
typedef struct counts {
    double tokens, targets, sources; /* tokens: also those of sources */
} counts_t;

static void read_number(run_t *run, bool eval, int64_t q, int64_t b, counts_t *counts)
{
    const job_t *job = run->job;
    const int64_t at = b * job->o.seq_len;
    numbers_row_t r = {
        .source = run->source + b * job->digits, .tokens = run->tokens + at, .targets = run->targets + at};
    numbers_fill(&r, eval ? 0 : (uint64_t)job->o.seed, q, eval, job->digits, job->o.seq_len);
    run->source_lengths[b] = r.length;
    counts->tokens += (double)(r.length + r.counted);
    counts->targets += (double)r.counted;
    counts->sources += (double)r.length;
}

/* Reads position q of the data, or of the evaluation data, as row b of the batch. */
static zero_status_t read_row(run_t *run, bool eval, int64_t q, int64_t b, counts_t *counts, zero_error_t *error)
{
    const job_t *job = run->job;
    const int64_t at = b * job->o.seq_len;
    if (job->encoder) {
        read_number(run, eval, q, b, counts);
        return ZERO_OK;
    }
    data_t *data = eval ? job->eval_data : job->data;
    const int64_t row = eval ? q : data_window_at(data_rows(data), job->o.shuffle, q);
    data_row_t r = {.tokens = run->tokens + at, .targets = run->targets + at, .starts = run->starts + at};
    zero_status_t status = data_read_row(data, row, job->model.vocab, &r, error);
    counts->tokens += (double)r.used;
    counts->targets += (double)r.counted;
    return status;
}

/* The batch in rows b and behind. */
static zero_model_batch_t batch_of(const run_t *run, int64_t b)
{
    const job_t *job = run->job;
    const int64_t at = b * job->o.seq_len;
    return (zero_model_batch_t){.tokens = run->tokens + at,
                                .targets = run->targets + at,
                                .starts = job->o.pack ? run->starts + at : NULL,
                                .source = job->encoder ? run->source + b * job->digits : NULL,
                                .source_lengths = job->encoder ? run->source_lengths + b : NULL};
}

/* Reads the tokens of micro-step m of step s, into rows `to` and behind. */
static zero_status_t read_micro(run_t *run, int64_t s, int m, int64_t to, counts_t *counts, zero_error_t *error)
{
    const job_t *job = run->job;
    const options_t *o = &job->o;
    uint64_t begin = trace_now(run->trace);
    zero_status_t status = ZERO_OK;
    for (int64_t b = 0; b < o->micro_batch && status == ZERO_OK; b++)
        status =
            read_row(run, false, s * o->batch + run->part * job->local + m * o->micro_batch + b, to + b, counts, error);
    trace_program(run->trace, "data", begin);
    return status;
}

/* Runs the micro-steps of step s. *sum: of the losses of this rank's targets. Of the ranks that work on the same data,
 * one counts them. */
static zero_status_t run_micros(run_t *run, int64_t s, counts_t *counts, double *sum, zero_error_t *error)
{
    const job_t *job = run->job;
    zero_status_t status = ZERO_OK;
    *sum = 0;
    for (int m = 0; m < job->micro_steps && status == ZERO_OK; m++) {
        double micro = 0;
        const int64_t to = job->o.pipe > 1 ? m * job->o.micro_batch : 0;
        if ((status = read_micro(run, s, m, to, counts, error)) != ZERO_OK)
            return status;
        const zero_model_batch_t batch = batch_of(run, to);
        if (job->o.pipe > 1) {
            run->batches[m] = batch;
            continue;
        }
        uint64_t begin = trace_now(run->trace);
        status = zero_model_train(run->model, &batch, m == job->micro_steps - 1 ? ZERO_LAST : 0, &micro, error);
        trace_program(run->trace, "micro-step", begin);
        *sum += micro;
    }
    if (status == ZERO_OK && job->o.pipe > 1) {
        uint64_t begin = trace_now(run->trace);
        status = zero_model_train_step(run->model, run->batches, sum, error);
        trace_program(run->trace, "micro-steps", begin);
    }
    if (!run->counts_tokens)
        *counts = (counts_t){0};
    if (!run->counts)
        *sum = 0;
    return status;
}

zero_status_t run_step(run_t *run, int64_t s, double lr, const atomic_int *stop, step_t *step, zero_error_t *error)
{
    counts_t counts = {0};
    double sum, sums[4];
    zero_status_t status = run_micros(run, s, &counts, &sum, error);
    if (status != ZERO_OK)
        return status;
    run->own_loss = sum;
    sums[0] = sum;
    sums[1] = run->ask;
    sums[2] = counts.tokens;
    sums[3] = counts.sources;
    if (*stop > 0 && *stop < 32)
        zero_signal(run->engine, 1u << *stop);
    step->stats.size = sizeof step->stats;
    uint64_t begin = trace_now(run->trace);
    /* kernels compute the gradient of the sum of losses; the loss is their mean over the targets of all ranks */
    if ((status = zero_step_weight(run->engine, counts.targets)) != ZERO_OK ||
        (status = zero_step(run->engine, lr)) != ZERO_OK ||
        (status = zero_step_stats(run->engine, &step->stats)) != ZERO_OK ||
        (status = zero_sum(run->engine, sums, 4)) != ZERO_OK)
        return run_engine_error(run, status, error);
    trace_program(run->trace, "optimizer", begin);
    step->targets = step->stats.weight;
    step->loss = sums[0] / step->targets;
    step->tokens = sums[2];
    step->sources = sums[3];
    run->asked = sums[1] != 0;
    return ZERO_OK;
}

/* Finds the ranks whose loss was not finite, for a sentence: "the loss of rank 3 was not". Collective. */
static zero_status_t blame(const run_t *run, char *text, size_t size, zero_error_t *error)
{
    int world = zero_comm_size(run->place.comm), bad = 0, first = 0;
    double *all = calloc((size_t)world, sizeof *all);
    if (all == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the losses of %d ranks", world);
    zero_status_t status = zero_comm_exchange(run->place.comm, &run->own_loss, all, sizeof *all, error);
    for (int r = world - 1; r >= 0 && status == ZERO_OK; r--)
        if (!isfinite(all[r])) {
            bad++;
            first = r;
        }
    if (bad == 0)
        snprintf(text, size, "%s loss was finite", world == 1 ? "the" : "every rank's");
    else if (bad == world)
        snprintf(text, size, "%s loss was not", world == 1 ? "the" : "every rank's");
    else
        snprintf(text, size, "the loss of rank %d was not", first);
    free(all);
    return status;
}

zero_status_t run_check_skipped(run_t *run, int64_t step, const zero_stats_t *stats, zero_error_t *error)
{
    const options_t *o = &run->job->o;
    zero_status_t status;
    if (stats->applied) {
        run->skipped.count = 0;
        return ZERO_OK;
    }
    if (run->skipped.count++ == 0) {
        run->skipped.first = step;
        snprintf(run->skipped.unit, sizeof run->skipped.unit, "%s", stats->not_finite != NULL ? stats->not_finite : "");
        if ((status = blame(run, run->skipped.losses, sizeof run->skipped.losses, error)) != ZERO_OK)
            return status;
    }
    float scale;
    char change[160];
    const bool shrinks = zero_loss_scale(run->engine, &scale) == ZERO_OK;
    if (!shrinks && zero_last_failure(run->engine, error) != ZERO_ERR_ARG)
        return error->status;
    if (shrinks && (o->max_skipped == 0 || (run->skipped.count < o->max_skipped && run->skipped.count < o->steps)))
        return ZERO_OK;
    if (!shrinks)
        snprintf(change, sizeof change, "the loss scale cannot shrink below %g (--loss-scale dynamic); use a",
                 stats->loss_scale);
    else if (isfinite(o->loss_scale))
        snprintf(change, sizeof change, "use a smaller --loss-scale (it is %g), a larger --max-skipped (%lld), or a",
                 o->loss_scale, (long long)o->max_skipped);
    else
        snprintf(change, sizeof change, "use a larger --max-skipped (%lld), or a", (long long)o->max_skipped);
    bool named = run->skipped.unit[0] != '\0';
    /* the result is the same on all ranks, so rank 0 reports it */
    return zero_fail(
        error, run->rank == 0 ? ZERO_ERR_ARG : ZERO_ERR_PEER,
        "steps %lld to %lld were skipped, because their gradient norm was not finite: at step %lld%s%s%s, and "
        "%s; %s smaller --lr (it is %g)",
        (long long)run->skipped.first, (long long)step, (long long)run->skipped.first,
        named ? " gradients first became infinite or nan in unit '" : " only their sum was not finite",
        run->skipped.unit, named ? "' of the backward pass" : "", run->skipped.losses, change, o->lr);
}

zero_status_t run_eval(run_t *run, double *loss, zero_error_t *error)
{
    const job_t *job = run->job;
    const options_t *o = &job->o;
    const int64_t most = o->eval_batches * o->batch; /* at most 1e18 */
    const int64_t rows = job->encoder ? most : data_rows(job->eval_data), used = most < rows ? most : rows;
    counts_t counts = {0};
    double sums[2] = {0};
    zero_status_t status;
    for (int64_t first = 0; first < used; first += o->batch)
        for (int m = 0; m < job->micro_steps; m++) {
            double micro = 0;
            int64_t filled = 0;
            for (; filled < o->micro_batch; filled++) {
                int64_t q = first + run->part * job->local + m * o->micro_batch + filled;
                if (q >= used)
                    break;
                if ((status = read_row(run, true, q, filled, &counts, error)) != ZERO_OK)
                    return status;
            }
            /* the other rows hold earlier tokens, which do not count */
            const zero_model_batch_t batch = batch_of(run, 0);
            status = zero_model_eval(run->model, &batch, filled, &micro, error);
            if (status == ZERO_OK)
                status = trace_flush(run->trace, run->engine, error);
            if (status != ZERO_OK)
                return status;
            sums[0] += micro;
        }
    sums[0] = run->counts ? sums[0] : 0;
    sums[1] = run->counts_tokens ? counts.targets : 0;
    if ((status = zero_sum(run->engine, sums, 2)) != ZERO_OK)
        return run_engine_error(run, status, error);
    *loss = sums[0] / sums[1];
    return ZERO_OK;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void largest(zero_memory_t *into, const zero_memory_t *from)
{
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            if (from->bytes[tier][kind] > into->bytes[tier][kind])
                into->bytes[tier][kind] = from->bytes[tier][kind];
    if (from->external > into->external)
        into->external = from->external;
}

zero_status_t run_memory(run_t *run, zero_memory_t *forecast, zero_memory_t *measured, bool *equal, zero_error_t *error)
{
    zero_memory_t own[2] = {{.size = sizeof *own}, {.size = sizeof *own}}, *all;
    int world = zero_comm_size(run->place.comm);
    zero_status_t status;
    if ((status = zero_forecast(run->engine, &own[0])) != ZERO_OK ||
        (status = zero_measure(run->engine, &own[1])) != ZERO_OK)
        return run_engine_error(run, status, error);
    if ((all = calloc((size_t)world, sizeof own)) == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the numbers of %d ranks", world);
    status = zero_comm_exchange(run->place.comm, own, all, sizeof own, error);
    memset(forecast, 0, sizeof *forecast);
    memset(measured, 0, sizeof *measured);
    *equal = true;
    for (int r = 0; r < world && status == ZERO_OK; r++) {
        *equal = *equal && memcmp(all[2 * r].bytes, all[2 * r + 1].bytes, sizeof all->bytes) == 0;
        largest(forecast, &all[2 * r]);
        largest(measured, &all[2 * r + 1]);
    }
    free(all);
    return status;
}
