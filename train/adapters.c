/* SPDX-License-Identifier: Apache-2.0 */
/* adapters.c - see adapters.h. */
#include "train/adapters.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* peft's default of lora_alpha, for every rank. */
#define ALPHA 8

/* ---- options ---------------------------------------------------------------------------------------------------- */

zero_status_t adapters_open(job_t *job, zero_error_t *error)
{
    options_t *o = &job->o;
    zero_error_t why;
    if (!zero_model_has_adapters(o->model))
        return ZERO_OK;
    zero_status_t status = zero_model_read_adapters(&job->given, o->model, &why);
    if (status != ZERO_OK)
        return zero_fail_from(error, status, &why, "--model: %s", why.text);
    job->adapters = o->model;
    o->model = job->given.base;
    return ZERO_OK;
}

/* Options of adapters without any. */
static zero_status_t check_idle(const options_t *o, zero_error_t *error)
{
    const char *idle = !isnan(o->lora_alpha)     ? "lora-alpha"
                       : o->lora_targets != NULL ? "lora-targets"
                       : o->export_merged        ? "export-merged"
                                                 : NULL;
    if (idle == NULL)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_ARG, "--%s is set, but the model has no adapters: add --lora-rank N", idle);
}

/* Adapters that are read have their rank and alpha; options may repeat them. */
static zero_status_t check_given(const job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    if (o->lora_rank >= 0 && o->lora_rank != job->given.rank)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--lora-rank is %lld, but the adapters in '%s' have rank %lld: remove the option",
                         (long long)o->lora_rank, job->adapters, (long long)job->given.rank);
    if (!isnan(o->lora_alpha) && o->lora_alpha != job->given.alpha)
        return zero_fail(error, ZERO_ERR_ARG, "--lora-alpha is %g, but the adapters in '%s' have %g: remove the option",
                         o->lora_alpha, job->adapters, job->given.alpha);
    if (o->lora_targets != NULL)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--lora-targets is '%s', but the adapters in '%s' are of %s: remove the option",
                         o->lora_targets, job->adapters, job->given.names);
    return ZERO_OK;
}

zero_status_t adapters_resolve(job_t *job, zero_error_t *error)
{
    options_t *o = &job->o;
    const char *names = job->adapters != NULL ? job->given.names : o->lora_targets;
    zero_status_t status;
    zero_error_t why;
    if (o->lora_rank < 0 && job->adapters == NULL)
        return check_idle(o, error);
    if (job->adapters != NULL && (status = check_given(job, error)) != ZERO_OK)
        return status;
    if (o->export_merged && o->export == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--export-merged is set, but nothing is exported: add --export DIR");
    if (job->adapters != NULL) {
        o->lora_rank = job->given.rank;
        o->lora_alpha = job->given.alpha;
    } else if (isnan(o->lora_alpha))
        o->lora_alpha = ALPHA;
    if (!(o->lora_alpha > 0))
        return zero_fail(error, ZERO_ERR_ARG, "--lora-alpha is %g, but must be above 0: use --lora-alpha %d",
                         o->lora_alpha, ALPHA);
    status = zero_model_lora(&job->lora, &job->model, 1, o->lora_alpha, names, &why);
    if (status != ZERO_OK)
        return zero_fail_from(error, status, &why, "--lora-targets: %s", why.text);
    status = zero_model_lora(&job->lora, &job->model, o->lora_rank, o->lora_alpha, names, &why);
    if (status != ZERO_OK)
        return zero_fail_from(error, status, &why, "--lora-rank: %s", why.text);
    o->lora_targets = zero_model_lora_names(&job->model, job->lora.targets, job->targets, sizeof job->targets);
    return ZERO_OK;
}

/* ---- the base --------------------------------------------------------------------------------------------------- */

/* Hashes some numbers from the middle of each tensor of a folder or file. */
static zero_status_t add_hash(const char *path, uint64_t *hash, zero_error_t *error)
{
    zero_tensors_t *tensors = NULL;
    float first[64];
    zero_status_t status = zero_tensors_open(&tensors, path, error);
    for (int i = 0; status == ZERO_OK && i < zero_tensors_count(tensors); i++) {
        zero_tensor_info_t info = {.size = sizeof info};
        status = zero_tensors_at(tensors, i, &info);
        bool number =
            strcmp(info.dtype, "F32") == 0 || strcmp(info.dtype, "BF16") == 0 || strcmp(info.dtype, "F16") == 0;
        if (status != ZERO_OK || info.count == 0 || !number)
            continue;
        int64_t n = info.count < 64 ? info.count : 64, last = info.count - n;
        status = zero_tensors_read(tensors, i, info.count / 2 < last ? info.count / 2 : last, n, first, error);
        *hash = XXH64(first, (size_t)n * sizeof *first, *hash);
    }
    zero_tensors_close(tensors);
    return status;
}

zero_status_t adapters_contents(const job_t *job, uint64_t *hash, zero_error_t *error)
{
    char path[4096];
    zero_status_t status = add_hash(job->o.model, hash, error);
    if (status != ZERO_OK || job->adapters == NULL)
        return status;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", job->adapters);
    return add_hash(path, hash, error);
}

zero_status_t adapters_base(const job_t *job, uint64_t *hash, zero_error_t *error)
{
    char *text = NULL;
    zero_status_t status = zero_model_config_text(&job->model, ZERO_FP32, &text, error);
    *hash = text != NULL ? XXH64(text, strlen(text), job->folder ? 0 : (uint64_t)job->o.seed) : 0;
    free(text);
    return status == ZERO_OK && job->folder ? add_hash(job->o.model, hash, error) : status;
}

/* ---- checkpoints ------------------------------------------------------------------------------------------------ */

json_t *adapters_record(const job_t *job, uint64_t base)
{
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, base);
    return job->lora.rank == 0 ? NULL
                               : json_pack("{s:I,s:f,s:s,s:s}", "rank", (json_int_t)job->lora.rank, "alpha",
                                           job->lora.alpha, "targets", job->targets, "base", hash);
}

/* Compares the record of a checkpoint with the options. */
static zero_status_t compare(const job_t *job, const char *path, const json_t *record, zero_error_t *error)
{
    const options_t *o = &job->o;
    json_t *json = (json_t *)record; /* json_unpack takes no const, and changes nothing */
    const char *targets, *hash;
    char own[20];
    json_int_t rank;
    double alpha;
    uint64_t base;
    if (json_unpack(json, "{s:I,s:F,s:s,s:s}", "rank", &rank, "alpha", &alpha, "targets", &targets, "base", &hash) != 0)
        return zero_fail(error, ZERO_ERR_FORMAT, "the checkpoint '%s' does not say what its adapters are", path);
    if (job->lora.rank == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "the checkpoint '%s' has adapters: add --lora-rank %lld --lora-alpha %g --lora-targets %s",
                         path, (long long)rank, alpha, targets);
    if (rank != job->lora.rank || alpha != job->lora.alpha || strcmp(targets, job->targets) != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "the checkpoint '%s' has adapters of rank %lld, alpha %g, of %s, but the options are "
                         "--lora-rank %lld --lora-alpha %g --lora-targets %s: use those of the checkpoint",
                         path, (long long)rank, alpha, targets, (long long)job->lora.rank, job->lora.alpha,
                         job->targets);
    zero_status_t status = adapters_base(job, &base, error);
    snprintf(own, sizeof own, "%016" PRIx64, base);
    if (status == ZERO_OK && strcmp(own, hash) != 0)
        status = zero_fail(error, ZERO_ERR_ARG,
                           "the checkpoint '%s' has adapters of another base than --model '%s'%s: name the model that "
                           "they were trained with",
                           path, o->model, job->folder ? "" : " with this --seed");
    return status;
}

zero_status_t adapters_check(const job_t *job, zero_error_t *error)
{
    zero_checkpoint_info_t info = {.size = sizeof info};
    zero_error_t why;
    zero_status_t status = ZERO_OK;
    if (job->checkpoint == NULL)
        return ZERO_OK;
    zero_checkpoint_info(job->checkpoint, &info);
    json_t *own = info.caller != NULL ? json_loadb(info.caller, info.caller_bytes, 0, NULL) : NULL;
    const json_t *record = json_object_get(own, "lora");
    if (record != NULL)
        status = compare(job, info.path, record, &why);
    else if (job->lora.rank > 0)
        status = zero_fail(&why, ZERO_ERR_ARG,
                           "the checkpoint '%s' has no adapters, but --lora-rank is %lld: remove it, or export the "
                           "checkpoint's model and begin anew with that",
                           info.path, (long long)job->lora.rank);
    json_decref(own);
    return status == ZERO_OK ? ZERO_OK : zero_fail_from(error, status, &why, "--resume: %s", why.text);
}
