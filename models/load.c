/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - loads weights from a Hugging Face folder. It checks everything before it reads a value. Each rank reads only
 * the ranges that it owns. */
#include "models/decoder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* "(50257, 768)" */
static const char *shape_text(char *text, size_t bytes, int32_t ndim, const int64_t *shape)
{
    size_t used = (size_t)snprintf(text, bytes, "(");

    for (int32_t i = 0; i < ndim && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (used < bytes)
        snprintf(text + used, bytes - used, ")");
    return text;
}

static bool same_shape(const zero_tensor_info_t *info, int32_t ndim, const int64_t *shape)
{
    if (info->ndim != ndim)
        return false;
    for (int32_t i = 0; i < ndim; i++)
        if (info->shape[i] != shape[i])
            return false;
    return true;
}

static zero_status_t check_tensor(const char *folder, const zero_tensor_info_t *info, int32_t ndim,
                                  const int64_t *shape, zero_error_t *error)
{
    char found[200], wanted[200];

    if (!same_shape(info, ndim, shape))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: tensor '%s' has the shape %s, wanted %s by its config.json",
                         folder, info->name, shape_text(found, sizeof found, info->ndim, info->shape),
                         shape_text(wanted, sizeof wanted, ndim, shape));
    if (strcmp(info->dtype, "F32") && strcmp(info->dtype, "BF16") && strcmp(info->dtype, "F16"))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: tensor '%s' has the dtype %s, wanted F32, BF16 or F16", folder,
                         info->name, info->dtype);
    return ZERO_OK;
}

/* Names of a family's tensors in files, with and without its prefix. The head has no prefix. */
typedef struct names {
    char with[ZERO_MODEL_NAME_BYTES + 16], without[ZERO_MODEL_NAME_BYTES];
} names_t;

static names_t names_of(const zero_family_t *family, const zero_model_tensor_t *t)
{
    const bool prefixed = t->place != ZERO_PLACE_HEAD;
    names_t n;

    snprintf(n.without, sizeof n.without, "%s", t->name + (prefixed && family->prefixed ? strlen(family->prefix) : 0));
    snprintf(n.with, sizeof n.with, "%s%s", prefixed ? family->prefix : "", n.without);
    return n;
}

/* Whether a tensor of files is computed, not trained: "h.<number>.attn.bias" of GPT-2, for instance. */
static bool is_computed(const zero_family_t *family, const char *name)
{
    const size_t before = strcspn(family->places[ZERO_PLACE_LAYER], "%");

    if (strncmp(name, family->prefix, strlen(family->prefix)) == 0)
        name += strlen(family->prefix);
    if (strncmp(name, family->places[ZERO_PLACE_LAYER], before) != 0)
        return false;
    const size_t digits = strspn(name + before, "0123456789");

    for (int i = 0; digits > 0 && i < ZERO_FAMILY_COMPUTED && family->computed[i] != NULL; i++)
        if (strcmp(name + before + digits, family->computed[i]) == 0)
            return true;
    return false;
}

/* The head of a tied model is the embedding. A copy of it in the file is not read; a tensor with other values is an
 * error, because it belongs to another model. */
static zero_status_t check_head(const zero_model_config_t *config, const char *folder, const zero_tensors_t *file,
                                int head, int embedding, zero_error_t *error)
{
    enum { PIECE = 8192 };
    const char *name = zero_family_find(config->family)->places[ZERO_PLACE_HEAD];
    const int64_t shape[2] = {config->vocab, config->width}, count = config->vocab * config->width;
    zero_tensor_info_t info = {.size = sizeof info};
    zero_status_t status = zero_tensors_at(file, head, &info);
    float a[PIECE], b[PIECE];

    if (status != ZERO_OK)
        return zero_fail(error, status, "%s: tensor '%s' cannot be looked up", folder, name);
    status = check_tensor(folder, &info, 2, shape, error);
    for (int64_t begin = 0; begin < count && status == ZERO_OK; begin += PIECE) {
        const int64_t n = count - begin < PIECE ? count - begin : PIECE;

        status = zero_tensors_read(file, head, begin, n, a, error);
        if (status == ZERO_OK)
            status = zero_tensors_read(file, embedding, begin, n, b, error);
        if (status != ZERO_OK || memcmp(a, b, (size_t)n * sizeof *a) == 0)
            continue;
        zero_tensors_at(file, embedding, &info);
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: tensors '%s' and '%s' differ, but the head is the embedding (config.json: "
                         "\"tie_word_embeddings\"): set "
                         "that to false to train a head of its own, or remove '%s' from the file",
                         folder, name, info.name, name);
    }
    return status;
}

/* Any other tensor that is not in map and is not known to be unused is an error. Otherwise it would be lost silently.
 * count: the model's tensors. */
static zero_status_t check_rest(const zero_model_config_t *config, const char *folder, const zero_tensors_t *file,
                                const int *map, int count, zero_error_t *error)
{
    const zero_family_t *family = zero_family_find(config->family);
    zero_model_tensor_t t = {.encoder = true};
    int embedding = -1; /* the decoder's */

    while (t.encoder || t.place != ZERO_PLACE_EMBEDDING)
        zero_model_tensor(config, ++embedding, &t);
    for (int i = 0; i < zero_tensors_count(file); i++) {
        zero_tensor_info_t info = {.size = sizeof info};
        zero_status_t status = zero_tensors_at(file, i, &info);
        bool known = false;

        if (status != ZERO_OK)
            return zero_fail(error, status, "%s: tensor %d cannot be looked up", folder, i);
        for (int j = 0; j < count && !known; j++)
            known = map[j] == i;
        if (known || is_computed(family, info.name))
            continue;
        if (strcmp(info.name, family->places[ZERO_PLACE_HEAD]) != 0)
            return zero_fail(error, ZERO_ERR_FORMAT,
                             "%s: tensor '%s' is unexpected, wanted only those of a %s with %s %" PRId64
                             " (config.json)",
                             folder, info.name, family->title, family->keys->layers, config->layers);
        status = check_head(config, folder, file, i, map[embedding], error);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

/* Reports a tensor that the file lacks under both of its names. A wrapper may have put a prefix before every name. */
static zero_status_t missing(const zero_model_config_t *config, const char *folder, const zero_tensors_t *file,
                             const names_t *names, zero_error_t *error)
{
    static const struct {
        const char *prefix, *from;
    } wrappers[] = {
        {"_orig_mod.", "torch.compile"},
        {"module.", "DistributedDataParallel"},
        {"_fsdp_wrapped_module.", "FSDP"},
    };
    const zero_family_t *family = zero_family_find(config->family);
    const size_t length = strlen(names->without), prefix_bytes = strlen(family->prefix);

    for (int i = 0; i < zero_tensors_count(file); i++) {
        zero_tensor_info_t info = {.size = sizeof info};
        char prefix[128];
        size_t before;

        if (zero_tensors_at(file, i, &info) != ZERO_OK || strlen(info.name) <= length + 1)
            continue;
        before = strlen(info.name) - length;
        if (strcmp(info.name + before, names->without) != 0 || info.name[before - 1] != '.')
            continue;
        if (before > prefix_bytes && strncmp(info.name + before - prefix_bytes, family->prefix, prefix_bytes) == 0)
            before -= prefix_bytes;
        snprintf(prefix, sizeof prefix, "%.*s", (int)before, info.name);
        for (size_t k = 0; k < sizeof wrappers / sizeof *wrappers; k++)
            if (strncmp(info.name, wrappers[k].prefix, strlen(wrappers[k].prefix)) == 0)
                return zero_fail(error, ZERO_ERR_FORMAT,
                                 "%s: names begin with the prefix '%s', which %s puts there ('%s'): save the unwrapped "
                                 "model, or remove the prefix from every name",
                                 folder, prefix, wrappers[k].from, info.name);
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: names begin with the prefix '%s' ('%s'), wanted '%s': take the prefix off every name",
                         folder, prefix, info.name, names->without);
    }
    if (strcmp(names->without, family->places[ZERO_PLACE_HEAD]) == 0)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: tensor '%s' is missing, wanted for a %s with \"tie_word_embeddings\" false (config.json)",
                         folder, names->with, family->title);
    if (prefix_bytes == 0)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: tensor '%s' is missing, wanted for a %s with %s %" PRId64 " (config.json)", folder,
                         names->without, family->title, family->keys->layers, config->layers);
    return zero_fail(error, ZERO_ERR_FORMAT,
                     "%s: tensor '%s' (or '%s') is missing, wanted for a %s with %s %" PRId64 " (config.json)", folder,
                     names->with, names->without, family->title, family->keys->layers, config->layers);
}

/* Fills map with the index of each of the model's tensors in the file, once names, shapes and dtypes match. */
static zero_status_t match(const zero_model_config_t *config, const char *folder, const zero_tensors_t *file, int *map,
                           zero_error_t *error)
{
    const zero_family_t *family = zero_family_find(config->family);
    const int count = zero_model_tensor_count(config);

    for (int i = 0; i < count; i++) {
        zero_tensor_info_t info = {.size = sizeof info};
        zero_model_tensor_t t;
        zero_status_t status;

        zero_model_tensor(config, i, &t);
        const names_t names = names_of(family, &t);
        const bool two = strcmp(names.with, names.without) != 0;
        int plain = zero_tensors_find(file, names.without), prefixed = two ? zero_tensors_find(file, names.with) : -1;

        if (plain < 0 && prefixed < 0 && t.place == ZERO_PLACE_EMBEDDING && !t.encoder && config->tied)
            /* safetensors' save_model stores a tied tensor once, under either name */
            plain = zero_tensors_find(file, family->places[ZERO_PLACE_HEAD]);
        if (plain < 0 && prefixed < 0)
            return missing(config, folder, file, &names, error);
        if (plain >= 0 && prefixed >= 0)
            return zero_fail(error, ZERO_ERR_FORMAT, "%s: both '%s' and '%s' are there, wanted one of them", folder,
                             names.with, names.without);
        map[i] = plain >= 0 ? plain : prefixed;
        status = zero_tensors_at(file, map[i], &info);
        if (status != ZERO_OK)
            return zero_fail(error, status, "%s: tensor '%s' cannot be looked up", folder, t.name);
        status = check_tensor(folder, &info, t.ndim, t.shape, error);
        if (status != ZERO_OK)
            return status;
    }
    return check_rest(config, folder, file, map, count, error);
}

static zero_status_t open_folder(const zero_model_config_t *config, const char *folder, zero_tensors_t **file,
                                 int **map, zero_error_t *error)
{
    zero_status_t status;

    *file = NULL;
    *map = calloc((size_t)zero_model_tensor_count(config), sizeof **map);
    if (*map == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "out of memory for the table of tensors of '%s'", folder);
    status = zero_tensors_open(file, folder, error);
    if (status == ZERO_OK)
        status = match(config, folder, *file, *map, error);
    if (status != ZERO_OK) {
        zero_tensors_close(*file);
        free(*map);
        *file = NULL;
        *map = NULL;
    }
    return status;
}

zero_status_t zero_model_check_folder(const zero_model_config_t *config, const char *folder, zero_error_t *error)
{
    zero_tensors_t *file;
    int *map;
    zero_status_t status = zero_model_check_config(config, error);

    if (status == ZERO_OK)
        status = open_folder(config, folder, &file, &map, error);
    if (status == ZERO_OK) {
        zero_tensors_close(file);
        free(map);
    }
    return status;
}

typedef struct fill {
    const zero_tensors_t *file;
    int index;
    zero_error_t error;
} fill_t;

static int fill_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    fill_t *f = ctx;

    (void)param;
    return zero_tensors_read(f->file, f->index, begin, count, out, &f->error) == ZERO_OK ? 0 : -1;
}

zero_status_t zero_model_load(zero_model_t *m, const char *folder, zero_error_t *error)
{
    fill_t f = {.file = NULL};
    zero_tensors_t *file;
    zero_status_t status;
    int *map;

    if (!m->bound)
        return zero_fail(error, ZERO_ERR_ORDER, "call zero_model_bind after zero_commit, before the model is loaded");
    status = open_folder(&m->config, folder, &file, &map, error);
    if (status != ZERO_OK)
        return status;
    f.file = file;
    for (int i = 0; i < m->base_count && status == ZERO_OK; i++) {
        f.index = map[i];
        status = zero_param_fill(m->engine, m->params[i].id, fill_values, &f);
        if (f.error.status != ZERO_OK)
            status = zero_pass(error, f.error.status, &f.error);
        else
            zero_model_engine_error(m, status, error);
    }
    zero_tensors_close(file);
    free(map);
    return status;
}
