/* SPDX-License-Identifier: Apache-2.0 */
#include "train/stages.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

zero_status_t stages_check(options_t *o, zero_error_t *error)
{
    const bool interleaved = o->pipe_schedule == ZERO_SCHEDULE_INTERLEAVED;
    if (o->pipe == 1 && (o->chunks > 1 || interleaved || o->device_map != NULL))
        return zero_fail(error, ZERO_ERR_ARG,
                         "--%s is for the stages of a pipeline, but --pipe is 1: use --pipe 2 or "
                         "more, or leave it out",
                         o->chunks > 1 ? "chunks"
                         : interleaved ? "pipe-schedule interleaved"
                                       : "device-map");
    if (o->chunks > 1 && !interleaved)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--chunks is %lld, but --pipe-schedule %s has one chunk on each stage: add --pipe-schedule "
                         "interleaved",
                         (long long)o->chunks, zero_schedule_name((zero_schedule_t)o->pipe_schedule));
    if (o->chunks < 0)
        o->chunks = interleaved ? 2 : 1;
    if (o->pipe == 1)
        return ZERO_OK;
    if (o->steps == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--steps is 0, but the stages of a pipeline train: use --steps 1 or more, or --pipe 1");
    if (o->offload_activations)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "--offload-activations does not go with --pipe %lld: leave one of them out",
                         (long long)o->pipe);
    return ZERO_OK;
}

/* The entries of a map in a file. */
typedef struct entries {
    int32_t *layer, *stage, count;
} entries_t;

/* A whole number from 0 in a key; -1: it is none. */
static int32_t number_of(const char *key)
{
    char *end;
    const long n = strtol(key, &end, 10);
    return key[0] >= '0' && key[0] <= '9' && *end == '\0' && n <= INT32_MAX ? (int32_t)n : -1;
}

static zero_status_t read_map(const json_t *root, const char *path, entries_t *e, zero_error_t *error)
{
    const char *key;
    json_t *list, *layer;
    size_t i, most = 0;
    json_object_foreach((json_t *)(uintptr_t)root, key, list) most += json_array_size(list);
    e->layer = calloc(most + 1, sizeof *e->layer);
    e->stage = calloc(most + 1, sizeof *e->stage);
    if (e->layer == NULL || e->stage == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --device-map '%s'", path);
    json_object_foreach((json_t *)(uintptr_t)root, key, list)
    {
        if (number_of(key) < 0 || !json_is_array(list))
            return zero_fail(error, ZERO_ERR_FORMAT,
                             "--device-map '%s' has the key \"%s\"%s, but keys are stages from 0, each with a list of "
                             "layers",
                             path, key, json_is_array(list) ? "" : " without a list");
        json_array_foreach(list, i, layer)
        {
            const json_int_t n = json_integer_value(layer);
            if (!json_is_integer(layer) || n < INT32_MIN || n > INT32_MAX)
                return zero_fail(error, ZERO_ERR_FORMAT,
                                 "--device-map '%s' has a layer of stage %s that is no whole "
                                 "number",
                                 path, key);
            e->layer[e->count] = (int32_t)n;
            e->stage[e->count++] = number_of(key);
        }
    }
    return ZERO_OK;
}

static zero_status_t load_map(const job_t *job, int32_t layers, int32_t chunks, zero_error_t *error)
{
    const char *path = job->o.device_map;
    json_error_t why;
    entries_t e = {0};
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    zero_status_t status = ZERO_OK;
    if (root == NULL)
        status = zero_fail(error, ZERO_ERR_FORMAT, "--device-map '%s' cannot be read as JSON: %s", path, why.text);
    else if (!json_is_object(root))
        status = zero_fail(error, ZERO_ERR_FORMAT,
                           "--device-map '%s' is no object: use {\"0\": [layers], \"1\": [layers], ...}", path);
    if (status == ZERO_OK)
        status = read_map(root, path, &e, error);
    if (status == ZERO_OK &&
        (status = zero_map_check(layers, chunks, e.layer, e.stage, e.count, job->chunk_of, error)) != ZERO_OK) {
        zero_error_t sentence = *error;
        zero_fail_from(error, status, &sentence, "--device-map '%s': %s", path, sentence.text);
    }
    for (int64_t l = job->model.encoder_layers + 1; job->encoder && l < layers && status == ZERO_OK; l++)
        if (job->chunk_of[l] != job->chunk_of[l - 1])
            status =
                zero_fail(error, ZERO_ERR_UNSUPPORTED,
                          "--device-map '%s' divides the decoder, layers %lld to %d, at layer %lld, but the decoder "
                          "of a model with an encoder is on one stage",
                          path, (long long)job->model.encoder_layers, layers - 1, (long long)l);
    json_decref(root);
    free(e.layer);
    free(e.stage);
    return status;
}

zero_status_t stages_resolve(job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    const int64_t layers = job->model.encoder_layers + job->model.layers, chunks = o->pipe * o->chunks;
    if (o->pipe == 1)
        return ZERO_OK;
    if (job->encoder && o->sample > 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "--sample is %lld, but a pipeline of an encoder and a decoder writes no samples: use --sample "
                         "0, or --pipe 1",
                         (long long)o->sample);
    if (job->model.tied && !job->encoder && (o->offload == OFFLOAD_PARAMS || o->offload == OFFLOAD_ALL))
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "--offload %s moves the parameters off the device, but the first and the last stage of --pipe "
                         "%lld share the embedding, which is also the head: use --offload optimizer, or a model whose "
                         "head is not tied to its embedding",
                         o->offload == OFFLOAD_ALL ? "all" : "params", (long long)o->pipe);
    if (o->chunks > 1 && job->micro_steps > o->pipe && job->micro_steps % o->pipe != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a step has %d micro-steps, but --pipe-schedule interleaved takes them in groups of the %lld "
                         "stages: use --batch %lld or %lld",
                         job->micro_steps, (long long)o->pipe,
                         (long long)(job->micro_steps / o->pipe * o->pipe * o->micro_batch * job->copies),
                         (long long)((job->micro_steps / o->pipe + 1) * o->pipe * o->micro_batch * job->copies));
    if (chunks > layers)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--pipe %lld x --chunks %lld are %lld chunks, but the model has %lld layers: use at most %lld",
                         (long long)o->pipe, (long long)o->chunks, (long long)chunks, (long long)layers,
                         (long long)layers);
    free(job->chunk_of);
    job->chunk_of = calloc((size_t)layers, sizeof *job->chunk_of);
    if (job->chunk_of == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a map of %lld layers", (long long)layers);
    if (o->device_map != NULL && strcmp(o->device_map, "even") != 0)
        return load_map(job, (int32_t)layers, (int32_t)chunks, error);
    zero_error_t why;
    zero_status_t status = zero_model_map(&job->model, o->seq_len, (int)chunks, job->chunk_of, &why);
    return status == ZERO_OK ? ZERO_OK
                             : zero_fail_from(error, status, &why, "--pipe %lld: %s", (long long)o->pipe, why.text);
}
