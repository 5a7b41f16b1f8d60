/* SPDX-License-Identifier: Apache-2.0 */
/* lora_files.c - adapters in peft's files: adapter_config.json, and the names of the tensors in
 * adapter_model.safetensors. */
#include "models/export.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"

/* ---- adapter_config.json: written ------------------------------------------------------------------------------- */

/* names, separated by commas, as an array. */
static json_t *names_array(const char *names)
{
    json_t *array = json_array();

    for (const char *name = names; name != NULL;) {
        const size_t bytes = strcspn(name, ",");

        json_array_append_new(array, json_stringn(name, bytes));
        name = name[bytes] == ',' ? name + bytes + 1 : NULL;
    }
    return array;
}

zero_status_t zero_model_adapter_config_text(const zero_model_t *m, const char *source, char **text,
                                             zero_error_t *error)
{
    const zero_lora_t *lora = &m->options.lora;
    const bool whole = lora->alpha == (double)(int64_t)lora->alpha;
    char names[ZERO_LORA_NAMES_BYTES];
    struct stat info;
    char *base = source && stat(source, &info) == 0 && S_ISDIR(info.st_mode) ? realpath(source, NULL) : NULL;
    json_t *root =
        json_pack("{s:s?,s:s,s:b,s:b,s:b,s:o,s:f,s:n,s:s,s:I,s:n,s:o,s:s,s:b,s:b}", "base_model_name_or_path", base,
                  "bias", "none", "fan_in_fan_out", !m->family->out_in, "inference_mode", 1, "init_lora_weights", 1,
                  "lora_alpha", whole ? json_integer((json_int_t)lora->alpha) : json_real(lora->alpha), "lora_dropout",
                  0.0, "modules_to_save", "peft_type", "LORA", "r", (json_int_t)lora->rank, "revision",
                  "target_modules", names_array(zero_model_lora_names(&m->config, lora->targets, names, sizeof names)),
                  "task_type", "CAUSAL_LM", "use_dora", 0, "use_rslora", 0);

    free(base);
    *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    return *text ? ZERO_OK
                 : zero_fail(error, ZERO_ERR_MEMORY, "no memory for " CONFIG ", or the name of '%s' is not UTF-8",
                             source ? source : "");
}

void zero_model_adapter_export_tensor(const zero_model_t *m, int index, char name[ZERO_EXPORT_NAME_BYTES],
                                      zero_tensor_info_t *info)
{
    zero_model_tensor_t t;

    zero_model_param_tensor(m, index, &t);
    snprintf(name, ZERO_EXPORT_NAME_BYTES, "base_model.model.%s%s", m->family->prefixed ? "" : m->family->prefix,
             t.name);
    info->ndim = t.ndim;
    memcpy(info->shape, t.shape, sizeof t.shape);
}

/* ---- adapter_config.json: read ---------------------------------------------------------------------------------- */

static char *path_of(const char *folder, const char *name)
{
    const size_t room = strlen(folder) + strlen(name) + 2;
    char *path = malloc(room);

    if (path)
        snprintf(path, room, "%s/%s", folder, name);
    return path;
}

bool zero_model_has_adapters(const char *folder)
{
    char *path = path_of(folder, CONFIG);
    struct stat info;
    const bool found = path && stat(path, &info) == 0 && S_ISREG(info.st_mode);

    free(path);
    return found;
}

/* Whether a value says nothing: it is absent, null, false, empty or "none". */
static bool is_idle(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && strcmp(json_string_value(value), "none") == 0);
}

/* Settings of peft that change the arithmetic in a way that this code lacks. */
static const char *unknown_setting(const json_t *root)
{
    static const char *const keys[] = {"use_rslora",
                                       "use_dora",
                                       "use_qalora",
                                       "lora_bias",
                                       "bias",
                                       "rank_pattern",
                                       "alpha_pattern",
                                       "modules_to_save",
                                       "layers_to_transform",
                                       "exclude_modules",
                                       "layer_replication",
                                       "target_parameters",
                                       "use_bdlora",
                                       "alora_invocation_tokens",
                                       "trainable_token_indices"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!is_idle(json_object_get(root, keys[i])))
            return keys[i];
    return NULL;
}

/* A module's name in its layer: what follows the number of the layer, if the name has one. */
static const char *in_layer(const char *name)
{
    for (const char *dot = strchr(name, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        const size_t digits = strspn(dot + 1, "0123456789");

        if (digits > 0 && dot[1 + digits] == '.')
            return dot + 1 + digits + 1;
    }
    return name;
}

/* Whether names, separated by commas, has this one. */
static bool lists(const char *names, const char *name)
{
    for (const char *at = names; at != NULL;) {
        const size_t bytes = strcspn(at, ",");

        if (bytes == strlen(name) && memcmp(at, name, bytes) == 0)
            return true;
        at = at[bytes] == ',' ? at + bytes + 1 : NULL;
    }
    return false;
}

/* The names of "target_modules", separated by commas: peft may list the modules of each layer. Returns false for other
 * values, and for names that are too long. */
static bool read_names(const json_t *value, char names[ZERO_LORA_NAMES_BYTES])
{
    size_t used = 0, i;
    const json_t *name;

    if (json_is_string(value)) { /* any other text is a regular expression */
        snprintf(names, ZERO_LORA_NAMES_BYTES, "%s", json_string_value(value));
        return strcmp(json_string_value(value), "all-linear") == 0;
    }
    names[0] = '\0';
    json_array_foreach(value, i, name)
    {
        const char *text = json_is_string(name) ? in_layer(json_string_value(name)) : NULL;

        if (text == NULL)
            return false;
        if (!lists(names, text))
            used += (size_t)snprintf(names + used, ZERO_LORA_NAMES_BYTES - used, "%s%s", used > 0 ? "," : "", text);
        if (used >= ZERO_LORA_NAMES_BYTES)
            return false;
    }
    return used > 0;
}

static zero_status_t read_settings(const json_t *root, const char *path, zero_model_adapters_t *out,
                                   zero_error_t *error)
{
    const json_t *type = json_object_get(root, "peft_type"), *rank = json_object_get(root, "r"),
                 *alpha = json_object_get(root, "lora_alpha"), *base = json_object_get(root, "base_model_name_or_path");
    const char *unknown = unknown_setting(root);
    struct stat info;

    if (!json_is_string(type) || strcmp(json_string_value(type), "LORA") != 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: \"peft_type\" is %.40s, wanted \"LORA\"", path,
                         json_is_string(type) ? json_string_value(type) : "missing");
    if (unknown)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s: \"%s\" is set, which is not supported", path, unknown);
    if (!json_is_integer(rank) || !json_is_number(alpha))
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: \"%s\" is no number", path,
                         json_is_integer(rank) ? "lora_alpha" : "r");
    if (!read_names(json_object_get(root, "target_modules"), out->names))
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "%s: \"target_modules\" must be a list of names, or \"all-linear\": a regular expression is "
                         "not supported",
                         path);
    if (!json_is_string(base) || stat(json_string_value(base), &info) != 0 || !S_ISDIR(info.st_mode))
        return zero_fail(error, ZERO_ERR_ARG,
                         "%s: \"base_model_name_or_path\" is '%s', which is no folder here: set it to the folder of "
                         "the model that the adapters belong to",
                         path, json_is_string(base) ? json_string_value(base) : "missing");
    out->rank = json_integer_value(rank);
    out->alpha = json_number_value(alpha);
    out->base = strdup(json_string_value(base));
    return out->base ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory for the names in '%s'", path);
}

zero_status_t zero_model_read_adapters(zero_model_adapters_t *adapters, const char *folder, zero_error_t *error)
{
    char *path = path_of(folder, CONFIG);
    json_error_t where;
    json_t *root = path ? json_load_file(path, JSON_REJECT_DUPLICATES, &where) : NULL;
    zero_status_t status;

    adapters->base = NULL;
    if (path == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the path of '%s'", folder);
    status = root ? read_settings(root, path, adapters, error)
                  : zero_fail(error, ZERO_ERR_FORMAT, "%s: line %d: %s", path, where.line, where.text);
    json_decref(root);
    free(path);
    return status;
}

/* ---- adapter_model.safetensors: read ---------------------------------------------------------------------------- */

typedef struct source {
    zero_tensors_t *file;
    int index;
    zero_error_t error;
} source_t;

static int read_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    source_t *s = ctx;

    (void)param;
    return zero_tensors_read(s->file, s->index, begin, count, out, &s->error) == ZERO_OK ? 0 : -1;
}

/* The number in the file of the tensor of the model's parameter, whose shape it must have. */
static zero_status_t find_tensor(const zero_model_t *m, int index, const char *path, source_t *s, zero_error_t *error)
{
    zero_tensor_info_t wanted = {.size = sizeof wanted}, found = {.size = sizeof found};
    char name[ZERO_EXPORT_NAME_BYTES];

    zero_model_adapter_export_tensor(m, index, name, &wanted);
    s->index = zero_tensors_find(s->file, name);
    if (s->index < 0 || zero_tensors_at(s->file, s->index, &found) != ZERO_OK)
        return zero_fail(error, ZERO_ERR_FORMAT, "%s: tensor '%s' is missing, wanted by " CONFIG, path, name);
    if (found.ndim != 2 || memcmp(found.shape, wanted.shape, 2 * sizeof *found.shape) != 0)
        return zero_fail(error, ZERO_ERR_FORMAT,
                         "%s: tensor '%s' has another shape than (%lld, %lld), wanted by " CONFIG
                         " and by the base's config.json",
                         path, name, (long long)wanted.shape[0], (long long)wanted.shape[1]);
    return ZERO_OK;
}

zero_status_t zero_model_load_adapters(zero_model_t *m, const char *folder, zero_error_t *error)
{
    const int count = m->param_count - m->base_count;
    char *path = path_of(folder, WEIGHTS);
    source_t s = {.file = NULL};
    zero_status_t status = path ? zero_tensors_open(&s.file, path, error)
                                : zero_fail(error, ZERO_ERR_MEMORY, "no memory for the path of '%s'", folder);

    /* every tensor of the model is in the file, and no other */
    for (int i = m->base_count; i < m->param_count && status == ZERO_OK; i++)
        status = find_tensor(m, i, path, &s, error);
    if (status == ZERO_OK && zero_tensors_count(s.file) != count)
        status = zero_fail(error, ZERO_ERR_FORMAT, "%s has %d tensors, wanted %d by " CONFIG, path,
                           zero_tensors_count(s.file), count);
    for (int i = m->base_count; i < m->param_count && status == ZERO_OK; i++) {
        status = find_tensor(m, i, path, &s, error);
        if (status != ZERO_OK)
            break;
        status = zero_param_fill(m->engine, m->params[i].id, read_values, &s);
        if (s.error.status != ZERO_OK)
            status = zero_pass(error, s.error.status, &s.error);
        else
            zero_model_engine_error(m, status, error);
    }
    zero_tensors_close(s.file);
    free(path);
    return status;
}
