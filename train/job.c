/* SPDX-License-Identifier: Apache-2.0 */
#include "train/job.h"
#include "train/adapters.h"
#include "train/cores.h"
#include "train/job_data.h"
#include "train/mesh.h"
#include "train/numbers.h"
#include "train/resume.h"
#include "train/stages.h"
#include "train/trace.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

/* ---- the model -------------------------------------------------------------------------------------------------- */

/* A model with an encoder learns numbers, so it must have their tokens. */
static zero_status_t check_numbers(job_t *job, zero_error_t *error)
{
    const zero_model_config_t *m = &job->model;
    job->encoder = m->encoder_layers > 0;
    if (!job->encoder || (m->source_vocab == NUMBERS_DIGITS && m->vocab == NUMBERS_WORDS))
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_ARG,
        "--model '%s' has an encoder and vocabularies of %lld and %lld tokens, but the data of such a model "
        "are numbers of %d digits and %d words: use numbers-seq2seq or an export of it",
        job->o.model, (long long)m->source_vocab, (long long)m->vocab, NUMBERS_DIGITS, NUMBERS_WORDS);
}

static zero_status_t resolve_model(job_t *job, bool thorough, zero_error_t *error)
{
    options_t *o = &job->o;
    struct stat info;
    zero_error_t preset;
    if (o->model == NULL)
        o->model = "tiny";
    zero_status_t status = zero_model_preset(&job->model, o->model, &preset);
    if (status == ZERO_OK)
        return check_numbers(job, error);
    if (stat(o->model, &info) != 0) {
        return zero_fail_from(error, status, &preset, "--model: %s", preset.text);
    }
    const char *ending = strrchr(o->model, '.');
    job->folder = S_ISDIR(info.st_mode);
    if (job->folder && (status = adapters_open(job, error)) != ZERO_OK)
        return status;
    job->shape = S_ISREG(info.st_mode) && ending != NULL && strcmp(ending, ".json") == 0;
    if (!job->folder && !job->shape)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--model '%s' is a file, but must be a preset or a folder with config.json and "
                         "model.safetensors, or a config.json alone for random initial values",
                         o->model);
    status = zero_model_read_config(&job->model, o->model, error);
    if (status == ZERO_OK)
        status = check_numbers(job, error);
    /* a checkpoint has the weights, unless they are frozen */
    if (status == ZERO_OK && thorough && job->folder && (!job->resumed || o->lora_rank > 0 || job->adapters != NULL))
        status = zero_model_check_folder(&job->model, o->model, error);
    return status;
}

const char *job_source(const job_t *job)
{
    return job->folder || job->shape ? job->o.model : NULL;
}

/* Defaults that depend on the model. */
typedef struct usual {
    int64_t batch, micro_batch, seq_len, steps; /* micro_batch: the most */
    double lr, noam_lr;
    int64_t warmup; /* the most; else a tenth of --steps */
} usual_t;

static usual_t usual_of(const job_t *job)
{
    const double adapters = 2e-4 /* Hu et al. 2021 */, folder = 5e-5;

    if (job->encoder)
        return (usual_t){64, 64, 15, 1500, job->folder ? folder : 3e-3, 0.5, 200};
    if (strcmp(job->o.model, "tiny") == 0 && !job->folder)
        return (usual_t){8, 8, 64, 1500, 3e-3, 1, 100};
    return (usual_t){8, 4, 256, 100, job->lora.rank > 0 ? adapters : job->folder ? folder : 6e-4, 1, 100};
}

/* ---- batches ---------------------------------------------------------------------------------------------------- */

static zero_status_t resolve_batch(job_t *job, const usual_t *usual, zero_error_t *error)
{
    options_t *o = &job->o;
    int64_t world = job->copies, unit;
    const bool all = o->micro_batch > 0 && o->accumulation > 0;
    char ranks[64];
    if (__builtin_mul_overflow(world * (o->micro_batch > 0 ? o->micro_batch : 1),
                               o->accumulation > 0 ? o->accumulation : 1, &unit))
        return zero_fail(error, ZERO_ERR_ARG,
                         "--micro-batch %lld x %lld micro-steps x %lld ranks are more than 2^63 sequences: use fewer",
                         (long long)o->micro_batch, (long long)o->accumulation, (long long)world);
    if (o->batch < 0)
        o->batch = unit >= usual->batch || all ? unit : usual->batch / unit * unit;
    if (all && o->batch != unit)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--config '%s': train_batch_size (--batch) is %lld, but train_micro_batch_size_per_gpu (--micro-batch) "
            "%lld x gradient_accumulation_steps %lld x %lld %s is %lld: use %lld, or remove one of the three",
            o->config, (long long)o->batch, (long long)o->micro_batch, (long long)o->accumulation, (long long)world,
            mesh_units(o, world, "", ranks, sizeof ranks), (long long)unit, (long long)unit);
    if (o->batch % unit != 0) {
        int64_t below = o->batch / unit * unit, above = below + unit;
        char parts[64] = "", nearest[64];
        if (o->micro_batch > 0)
            snprintf(parts, sizeof parts, " x --micro-batch %lld", (long long)o->micro_batch);
        else if (o->accumulation > 0)
            snprintf(parts, sizeof parts, " x gradient_accumulation_steps %lld", (long long)o->accumulation);
        int n = below > 0 ? snprintf(nearest, sizeof nearest, "%lld or ", (long long)below) : 0;
        snprintf(nearest + n, sizeof nearest - (size_t)n, "%lld", (long long)above);
        return zero_fail(error, ZERO_ERR_ARG, "--batch is %lld, but must be a multiple of %lld (%lld %s%s): use %s",
                         (long long)o->batch, (long long)unit, (long long)world,
                         mesh_units(o, world, o->pipe > 1 ? " of a stage" : "", ranks, sizeof ranks), parts, nearest);
    }
    job->local = o->batch / world;
    if (o->micro_batch < 0)
        o->micro_batch =
            o->accumulation > 0 ? job->local / o->accumulation : mesh_divisor(job->local, usual->micro_batch);
    job->micro_steps = (int)(job->local / o->micro_batch);
    return ZERO_OK;
}

static bool has_window(const zero_model_config_t *m)
{
    return m->sliding_window > 0 && m->sliding_window < m->positions;
}

int64_t job_longest(const job_t *job)
{
    return has_window(&job->model) ? job->model.sliding_window : job->model.positions;
}

static zero_status_t resolve_lengths(job_t *job, const usual_t *usual, zero_error_t *error)
{
    options_t *o = &job->o;
    const bool window = has_window(&job->model);
    const int64_t longest = job_longest(job);
    int64_t all;
    if (o->seq_len < 0)
        o->seq_len = usual->seq_len < longest ? usual->seq_len : longest;
    if (o->seq_len > longest)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--seq-len is %lld, but the model has %s%lld%s: use --seq-len %lld or less",
                         (long long)o->seq_len, window ? "a sliding window of " : "", (long long)longest,
                         window ? " tokens, and longer sequences are not supported" : " positions", (long long)longest);
    if (job->encoder && o->seq_len < NUMBERS_LEAST)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--seq-len is %lld, but the words of any number of three digits need %d: use --seq-len %d or "
                         "more",
                         (long long)o->seq_len, NUMBERS_LEAST, NUMBERS_LEAST);
    job->digits = job->encoder ? numbers_most_digits(o->seq_len) : 0;
    if (o->steps < 0)
        o->steps = o->compare_stages ? 10 : usual->steps;
    if (o->compare_stages && o->steps == 0)
        return zero_fail(error, ZERO_ERR_ARG, "--steps is 0, but --compare-stages needs at least 1: use --steps 1");
    if (__builtin_mul_overflow(o->steps, o->batch, &all) || __builtin_mul_overflow(all, o->seq_len, &all))
        return zero_fail(error, ZERO_ERR_ARG, "--steps %lld of --batch %lld x --seq-len %lld are more than 2^63 tokens",
                         (long long)o->steps, (long long)o->batch, (long long)o->seq_len);
    return ZERO_OK;
}

/* ---- optimizer -------------------------------------------------------------------------------------------------- */

static zero_status_t check_offload(const options_t *o, zero_error_t *error)
{
    bool state = o->offload == OFFLOAD_OPTIMIZER || o->offload == OFFLOAD_ALL;
    if (o->offload_activations && o->recompute != ZERO_RECOMPUTE_FULL)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--offload-activations moves what --recompute=full keeps, but --recompute is %s: use --recompute=full",
            o->recompute == ZERO_RECOMPUTE_SELECTIVE ? "selective" : "none");
    if (o->offload_tier == OFFLOAD_TO_NVME && !state)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--offload-tier is nvme, which needs the optimizer state there, but --offload is %s: use "
                         "--offload optimizer or all",
                         o->offload == OFFLOAD_PARAMS ? "params" : "none");
    if (o->offload_tier == OFFLOAD_TO_NVME && o->nvme_path == NULL)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--offload-tier is nvme, but --nvme-path is not set: name a folder on a local drive");
    if (o->offload_tier != OFFLOAD_TO_NVME && o->nvme_path != NULL)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--nvme-path is '%s', but nothing is stored there: add --offload optimizer --offload-tier nvme",
            o->nvme_path);
    if (o->offload_ratio < 1 && !state)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--offload-ratio is %g, a share of the optimizer state, which --offload %s leaves on the "
                         "device: use --offload "
                         "optimizer or all",
                         o->offload_ratio, o->offload == OFFLOAD_PARAMS ? "params" : "none");
    return ZERO_OK;
}

static zero_status_t resolve_rates(job_t *job, const usual_t *usual, zero_error_t *error)
{
    options_t *o = &job->o;
    if (isnan(o->lr))
        o->lr = o->schedule == SCHEDULE_NOAM ? usual->noam_lr : usual->lr;
    if (o->schedule == SCHEDULE_NOAM && o->warmup == 0)
        return zero_fail(error, ZERO_ERR_ARG, "--warmup is 0, but --schedule noam needs at least 1: use --warmup 1");
    if (o->warmup < 0)
        o->warmup = o->steps / 10 < usual->warmup ? o->steps / 10 : usual->warmup;
    if (o->schedule == SCHEDULE_NOAM && o->warmup == 0)
        o->warmup = 1; /* of a short run */
    /* the update divides by root + eps in fp32; root is 0 if a gradient was always 0, as for embeddings of tokens that
     * never occur */
    if (!((float)o->eps > 0))
        return zero_fail(error, ZERO_ERR_ARG, "--eps is %g, but must be above 0 in fp32: use --eps 1e-8", o->eps);
    if (!isnan(o->min_ratio))
        o->min_lr = o->min_ratio * o->lr;
    job->schedule = (schedule_t){.kind = (int)o->schedule,
                                 .rise = (int)o->rise,
                                 .from = o->rise_from + o->rise_from_ratio * o->lr,
                                 .warmup = o->warmup,
                                 .steps = o->steps,
                                 .lr = o->lr,
                                 .min_lr = o->min_lr,
                                 .width = (double)job->model.width};
    return ZERO_OK;
}

/* The loss scale, and what its kind makes the default of --max-skipped: a dynamic one ends the run itself. */
static zero_status_t resolve_loss_scale(options_t *o, zero_error_t *error)
{
    if (o->dtype != ZERO_FP16 && !isnan(o->loss_scale))
        return zero_fail(error, ZERO_ERR_ARG,
                         "--loss-scale is for --dtype fp16, but the dtype is %s, which needs none: remove it",
                         zero_dtype_name((zero_dtype_t)o->dtype));
    if (o->dtype == ZERO_FP16 && isnan(o->loss_scale))
        o->loss_scale = INFINITY;
    if ((float)o->loss_scale < FLT_MIN)
        return zero_fail(error, ZERO_ERR_ARG, "--loss-scale is %g, which fp32 cannot hold: use --loss-scale dynamic",
                         o->loss_scale);
    if (o->max_skipped < 0)
        o->max_skipped = isinf(o->loss_scale) ? 0 : 10;
    return ZERO_OK;
}

/* ---- combinations of options ------------------------------------------------------------------------------------ */

/* --compare-stages only takes steps, so options that ask for more are refused rather than ignored. --sample 0 asks for
 * nothing and is accepted. */
static zero_status_t check_compared(const options_t *o, zero_error_t *error)
{
    const struct {
        const char *name;
        bool asks;
    } idle[] = {
        {"eval-data", o->eval_data.count > 0},
        {"eval-every", o->eval_every >= 0},
        {"eval-batches", o->eval_batches >= 0},
        {"save", o->save != NULL},
        {"save-every", o->save_every != NULL},
        {"keep", o->keep >= 0},
        {"resume", o->resume != NULL},
        {"export", o->export != NULL},
        {"sample", o->sample > 0},
        {"trace", o->trace != NULL},
        {"prompt", o->prompt != NULL},
        {"prompt-file", o->prompt_file != NULL},
        {"temperature", !isnan(o->temperature)},
        {"top-k", o->top_k >= 0},
        {"top-p", !isnan(o->top_p)},
    };
    if (!o->compare_stages)
        return ZERO_OK;
    if (o->plan || o->explain)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--compare-stages runs all stages, but --%s runs nothing and describes one stage: remove one of the two",
            o->plan ? "plan" : "explain");
    if (o->tensorboard != NULL)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--tensorboard has no effect with --compare-stages, whose curves would lie on each other: use --log FILE");
    for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++)
        if (idle[i].asks)
            return zero_fail(error, ZERO_ERR_ARG,
                             "--%s has no effect with --compare-stages, which only takes steps: remove one of the two",
                             idle[i].name);
    return ZERO_OK;
}

/* ---- all of it -------------------------------------------------------------------------------------------------- */

static zero_status_t resolve_device(options_t *o, zero_error_t *error)
{
    if (o->device != DEVICE_CPU && zero_cuda_devices() > 0)
        o->device = DEVICE_CUDA;
    else if (o->device == DEVICE_CUDA) {
        zero_device_t *device = NULL;
        zero_error_t why;
        zero_status_t status = zero_device_cuda(&device, NULL, &why);
        zero_device_destroy(device);
        if (status != ZERO_OK)
            return zero_fail_from(error, status, &why, "--device is cuda, but %s", why.text);
    } else
        o->device = DEVICE_CPU;
    if (o->tune != NULL && o->device != DEVICE_CUDA)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--tune '%s' chooses algorithms of products on GPUs, but the device is the CPU: remove it",
                         o->tune);
    if (o->dtype < 0)
        o->dtype = o->device == DEVICE_CUDA ? ZERO_BF16 : ZERO_FP32;
    if (o->export_dtype >= 0 && o->export == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--export-dtype is %s, but nothing is exported: add --export DIR",
                         zero_dtype_name((zero_dtype_t)o->export_dtype));
    if (o->export != NULL && o->export_dtype < 0)
        o->export_dtype = o->dtype;
    return ZERO_OK;
}

zero_status_t job_resolve(job_t *job, int world, int threads, bool thorough, zero_error_t *error)
{
    options_t *o = &job->o;
    int64_t first, last;
    zero_status_t status;
    job->world = world;
    if ((status = check_compared(o, error)) != ZERO_OK)
        return status;
    if (o->ranks > 0 && o->ranks != world)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--ranks is %lld, but the launcher started %d: use --ranks %d or leave it out",
                         (long long)o->ranks, world, world);
    o->ranks = world;
    if (o->stage < 0)
        o->stage = o->pipe > 1 ? 1 : 3;
    if ((status = mesh_check(job, error)) != ZERO_OK || (status = stages_check(o, error)) != ZERO_OK)
        return status;
    if (o->threads < 0)
        o->threads = threads;
    if ((status = cores_check(o->threads, error)) != ZERO_OK)
        return status;
    if ((status = resolve_device(o, error)) != ZERO_OK || (status = resolve_loss_scale(o, error)) != ZERO_OK)
        return status;
    if (o->reduce < 0)
        o->reduce = o->compare_stages || o->stage >= 2 ? REDUCE_EVERY : REDUCE_LAST;
    if ((status = resume_resolve(job, thorough, error)) != ZERO_OK || (status = check_offload(o, error)) != ZERO_OK ||
        (status = resolve_model(job, thorough, error)) != ZERO_OK ||
        (status = adapters_resolve(job, error)) != ZERO_OK ||
        (thorough && (status = adapters_check(job, error)) != ZERO_OK))
        return status;
    const bool tiny = strcmp(o->model, "tiny") == 0 && !job->folder;
    const usual_t usual = usual_of(job);
    if ((status = resolve_batch(job, &usual, error)) != ZERO_OK ||
        (status = resolve_lengths(job, &usual, error)) != ZERO_OK ||
        (status = mesh_check_rows(job, error)) != ZERO_OK || (status = stages_resolve(job, error)) != ZERO_OK ||
        (status = resolve_rates(job, &usual, error)) != ZERO_OK ||
        (status = trace_range(o, job->first, &first, &last, error)) != ZERO_OK)
        return status;
    return job_resolve_data(job, tiny, thorough, error);
}

int job_ranks(const options_t *o)
{
    int gpus = o->ranks > 0 || o->device == DEVICE_CPU ? 0 : zero_cuda_devices();
    return o->ranks > 0 ? (int)o->ranks : gpus > 0 ? gpus : 2;
}

void job_close(job_t *job)
{
    data_close(job->data);
    data_close(job->eval_data);
    zero_checkpoint_close(job->checkpoint);
    zero_tokenizer_close(job->tokenizer);
    free(job->prompt.at);
    free(job->given.base);
    free(job->chunk_of);
    job->chunk_of = NULL;
    job->data = job->eval_data = NULL;
    job->tokenizer = NULL;
    job->prompt = (zero_ids_t){0};
    job->given.base = NULL;
    job->checkpoint = NULL;
}

/* ---- ranks that disagree ---------------------------------------------------------------------------------------- */

enum { TEXT = 256, EXTRA = 4 };

static void describe_option(const job_t *job, int index, char text[TEXT], const char **name)
{
    option_view_t view;
    options_view(&job->o, index, &view);
    *name = view.name;
    /* the folder of a model may have another path on another machine, so its contents are compared instead */
    if (view.shared && strcmp(view.name, "model") != 0)
        option_view_print(&view, text, TEXT);
    if (strcmp(view.name, "schedule") == 0 && job->schedule.rise != RISE_OWN)
        snprintf(text + strlen(text), TEXT - strlen(text), " after a %s rise from %.17g",
                 job->schedule.rise == RISE_LOG ? "logarithmic" : "linear", job->schedule.from);
}

static zero_status_t describe_model(const job_t *job, char text[TEXT], zero_error_t *error)
{
    const zero_model_config_t *m = &job->model;
    uint64_t hash = 0;
    char *json = NULL;
    const bool read = job->folder && (!job->resumed || job->lora.rank > 0);
    zero_status_t status = read ? adapters_contents(job, &hash, error) : ZERO_OK;
    if (status == ZERO_OK)
        status = zero_model_config_text(m, ZERO_FP32, &json, error);
    const char *what = job->folder ? "a folder" : job->shape ? "a configuration" : job->o.model;
    snprintf(text, TEXT,
             "%s (%s of %lld layers, %lld heads, width %lld, vocabulary %lld, %lld positions; configuration %016llx, "
             "contents %016llx)",
             what, m->family, (long long)m->layers, (long long)m->heads, (long long)m->width, (long long)m->vocab,
             (long long)m->positions, json ? (unsigned long long)XXH64(json, strlen(json), 0) : 0ull,
             (unsigned long long)hash);
    free(json);
    return status;
}

/* The texts that ranks compare: each shared option, then the model's shape and contents, the data, the evaluation data,
 * the checkpoint. */
static zero_status_t describe(job_t *job, int index, char text[TEXT], const char **name, zero_error_t *error)
{
    static const char *const extra[EXTRA] = {"model", "data", "eval-data", "resume"};
    memset(text, 0, TEXT);
    if (index < options_count()) {
        describe_option(job, index, text, name);
        return ZERO_OK;
    }
    index -= options_count();
    *name = extra[index];
    if (index == 0)
        return describe_model(job, text, error);
    if (index == 3) {
        snprintf(text, TEXT, job->resumed ? "a checkpoint of step %lld" : "no checkpoint", (long long)job->first);
        return ZERO_OK;
    }
    data_t *data = index == 1 ? job->data : job->eval_data;
    uint64_t hash = 0;
    zero_status_t status = data != NULL ? data_fingerprint(data, &hash, error) : ZERO_OK;
    snprintf(text, TEXT, data != NULL ? "%lld tokens, contents %016llx" : "none",
             data != NULL ? (long long)data_tokens(data) : 0, (unsigned long long)hash);
    return status;
}

zero_status_t job_agree(job_t *job, zero_comm_t *comm, zero_error_t *error)
{
    int count = options_count() + EXTRA, world = zero_comm_size(comm), rank = -1, index = -1;
    uint64_t *own = calloc((size_t)count + 1, sizeof *own),
             *all = calloc((size_t)world * ((size_t)count + 1), sizeof *all);
    char text[TEXT], *texts = calloc((size_t)world, TEXT);
    const char *name = "";
    zero_status_t status = ZERO_OK;
    if (own == NULL || all == NULL || texts == NULL) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for comparing the options of %d ranks", world);
        goto end;
    }
    for (int i = 0; i < count && status == ZERO_OK; i++) {
        status = describe(job, i, text, &name, error);
        own[i] = XXH64(text, TEXT, 0);
    }
    own[count] = job->o.log != NULL || job->o.tensorboard != NULL; /* not compared: only rank 0's count */
    if (status == ZERO_OK)
        status = zero_comm_exchange(comm, own, all, ((size_t)count + 1) * sizeof *own, error);
    if (status != ZERO_OK)
        goto end;
    job->logs = all[count] != 0;
    for (int r = 1; r < world && rank < 0; r++)
        for (int i = 0; i < count && rank < 0; i++)
            if (all[(size_t)r * ((size_t)count + 1) + (size_t)i] != all[i]) {
                rank = r;
                index = i;
            }
    if (rank < 0)
        goto end;
    status = describe(job, index, text, &name, error);
    if (status == ZERO_OK)
        status = zero_comm_exchange(comm, text, texts, TEXT, error);
    if (status == ZERO_OK)
        status = zero_fail(error, ZERO_ERR_MISMATCH,
                           "rank %d disagrees with rank 0 on --%s: rank %d has %.*s, rank 0 has %.*s; start all ranks "
                           "with the same options",
                           rank, name, rank, TEXT - 1, texts + (size_t)rank * TEXT, TEXT - 1, texts);
end:
    free(own);
    free(all);
    free(texts);
    return status;
}
