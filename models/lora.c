/* SPDX-License-Identifier: Apache-2.0 */
/* lora.c - low-rank adapters (Hu et al. 2021): which weights have them, and the table of their tensors. Names, shapes
 * and initial values are peft's. */
#include "models/decoder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define ALL_LINEAR "all-linear"
#define ENDING ".weight"

/* ---- modules ---------------------------------------------------------------------------------------------------- */

/* The weights of the model's linear layers, in order. Returns their number. */
static int weights_of(const zero_model_config_t *c, zero_model_role_t roles[ZERO_ROLE_COUNT])
{
    zero_model_linear_t linears[ZERO_LINEAR_COUNT];
    int count = 0;

    zero_model_linears(c, linears);
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        for (int k = 0; k < linears[i].parts; k++)
            roles[count++] = linears[i].weight[k];
    return count;
}

/* The name of a weight's module in its layer, without ".weight". Returns its length. */
static int module_of(const zero_model_config_t *c, zero_model_role_t role, const char **name)
{
    *name = zero_family_find(c->family)->roles[role];
    return (int)(strlen(*name) - strlen(ENDING));
}

/* Whether a module's name is `text`, or ends with it behind a dot. */
static bool ends_with(const char *name, int bytes, const char *text, int text_bytes)
{
    return bytes >= text_bytes && memcmp(name + bytes - text_bytes, text, (size_t)text_bytes) == 0 &&
           (bytes == text_bytes || name[bytes - text_bytes - 1] == '.');
}

/* The modules that a name stands for, as bits of their weights' roles. */
static uint64_t targets_of(const zero_model_config_t *c, const char *text, int text_bytes)
{
    zero_model_role_t roles[ZERO_ROLE_COUNT];
    const int count = weights_of(c, roles);
    uint64_t targets = 0;

    for (int i = 0; i < count; i++) {
        const char *name;
        const int bytes = module_of(c, roles[i], &name);

        if ((text_bytes == (int)strlen(ALL_LINEAR) && memcmp(text, ALL_LINEAR, (size_t)text_bytes) == 0) ||
            ends_with(name, bytes, text, text_bytes))
            targets |= UINT64_C(1) << roles[i];
    }
    return targets;
}

/* The last part of a module's name, or the name in its layer if the last part stands for other modules than targets,
 * too. Returns its length. */
static int short_name(const zero_model_config_t *c, zero_model_role_t role, uint64_t targets, const char **name)
{
    const int bytes = module_of(c, role, name);

    for (int at = bytes - 1; at > 0; at--)
        if ((*name)[at - 1] == '.') {
            if ((targets_of(c, *name + at, bytes - at) & ~targets) != 0)
                break;
            *name += at;
            return bytes - at;
        }
    return bytes;
}

const char *zero_model_lora_names(const zero_model_config_t *c, uint64_t targets, char *text, size_t size)
{
    zero_model_role_t roles[ZERO_ROLE_COUNT];
    const int count = weights_of(c, roles);
    uint64_t rest = targets; /* that no name stands for yet */
    size_t used = 0;

    *text = '\0';
    for (int i = 0; i < count && used < size; i++) {
        const char *name;

        if ((rest >> roles[i] & 1) == 0)
            continue;
        const int bytes = short_name(c, roles[i], targets, &name);

        used += (size_t)snprintf(text + used, size - used, "%s%.*s", used > 0 ? "," : "", bytes, name);
        rest &= ~targets_of(c, name, bytes);
    }
    return text;
}

/* ---- settings --------------------------------------------------------------------------------------------------- */

static zero_status_t find_targets(zero_lora_t *lora, const zero_model_config_t *c, const char *names,
                                  zero_error_t *error)
{
    char all[ZERO_LORA_NAMES_BYTES];

    lora->targets = 0;
    for (const char *name = names; name != NULL;) {
        const int bytes = (int)strcspn(name, ",");
        const uint64_t targets = bytes > 0 ? targets_of(c, name, bytes) : 0;

        if (targets == 0)
            return zero_fail(
                error, ZERO_ERR_ARG, "'%.*s' is no linear layer of a %s: adapters can be of %s, or " ALL_LINEAR, bytes,
                name, zero_family_find(c->family)->title,
                zero_model_lora_names(c, targets_of(c, ALL_LINEAR, (int)strlen(ALL_LINEAR)), all, sizeof all));
        lora->targets |= targets;
        name = name[bytes] == ',' ? name + bytes + 1 : NULL;
    }
    return ZERO_OK;
}

zero_status_t zero_model_lora(zero_lora_t *lora, const zero_model_config_t *c, int64_t rank, double alpha,
                              const char *names, zero_error_t *error)
{
    const zero_family_t *family = zero_family_find(c->family);
    zero_model_linear_t linears[ZERO_LINEAR_COUNT];
    zero_lora_t made = {.rank = rank, .alpha = alpha};
    zero_status_t status;

    if (family->adapted == NULL)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "adapters of a %s are not supported: train all of it",
                         family->title);
    if (rank < 1)
        return zero_fail(error, ZERO_ERR_ARG, "adapters of rank %" PRId64 ": at least 1 is needed", rank);
    if (!(alpha > 0) || !isfinite(alpha / (double)rank))
        return zero_fail(error, ZERO_ERR_ARG, "adapters with alpha %g: it must be above 0", alpha);
    status = find_targets(&made, c, names ? names : family->adapted, error);
    if (status != ZERO_OK)
        return status;
    zero_model_linears(c, linears);
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        for (int k = 0; k < linears[i].parts; k++) {
            const int64_t in = linears[i].in, out = linears[i].columns[k], most = in < out ? in : out;
            const char *name;
            const int bytes = module_of(c, linears[i].weight[k], &name);

            if ((made.targets >> linears[i].weight[k] & 1) != 0 && rank > most)
                return zero_fail(error, ZERO_ERR_ARG,
                                 "adapters of rank %" PRId64 " are no smaller than the matrix of %.*s, from %" PRId64
                                 " to %" PRId64 " elements: use a rank of at most %" PRId64,
                                 rank, bytes, name, in, out, most);
        }
    *lora = made;
    return ZERO_OK;
}

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

void zero_model_lora_linears(const zero_lora_t *lora, zero_model_linear_t linears[ZERO_LINEAR_COUNT])
{
    int first = 0;

    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        zero_model_linear_t *l = &linears[i];

        l->adapted = 0;
        l->first = first;
        for (int k = 0; k < l->parts && lora->rank > 0; k++)
            if ((lora->targets >> l->weight[k] & 1) != 0)
                l->part[l->adapted++] = k;
        first += 2 * l->adapted;
    }
}

/* Tensors of a layer's adapters. */
static int layer_count(const zero_lora_t *lora)
{
    int count = 0;

    for (uint64_t targets = lora->rank > 0 ? lora->targets : 0; targets != 0; targets &= targets - 1)
        count += 2;
    return count;
}

int zero_model_adapter_count(const zero_model_config_t *c, const zero_lora_t *lora)
{
    return (int)(c->layers * layer_count(lora));
}

void zero_model_adapter(const zero_model_config_t *c, const zero_lora_t *lora, int index, zero_model_tensor_t *t)
{
    const zero_family_t *family = zero_family_find(c->family);
    const int count = layer_count(lora);
    const zero_model_linear_t *l;
    zero_model_linear_t linears[ZERO_LINEAR_COUNT];
    char layer[ZERO_MODEL_NAME_BYTES / 2];
    const char *module;
    int k = index % count;

    zero_model_linears(c, linears);
    zero_model_lora_linears(lora, linears);
    for (l = linears; k >= l->first + 2 * l->adapted;)
        l++;
    k -= l->first;

    const bool up = k >= l->adapted;
    const int part = l->part[up ? k - l->adapted : k];

    *t = (zero_model_tensor_t){.place = ZERO_PLACE_LAYER,
                               .layer = index / count,
                               .role = l->weight[part],
                               .adapter = up ? ZERO_ADAPTER_B : ZERO_ADAPTER_A,
                               .ndim = 2,
                               .shape = {up ? l->columns[part] : lora->rank, up ? lora->rank : l->in},
                               .start = up ? ZERO_START_ZERO : ZERO_START_UNIFORM,
                               /* He et al. 2015, with a = sqrt 5 */
                               .std = up ? 0 : 1 / sqrt((double)l->in)};
    t->count = t->shape[0] * t->shape[1];
    const int bytes = module_of(c, t->role, &module);

    snprintf(layer, sizeof layer, family->places[ZERO_PLACE_LAYER], (long long)t->layer);
    snprintf(t->name, sizeof t->name, "%s%s%.*s.lora_%c.weight", family->prefixed ? family->prefix : "", layer, bytes,
             module, up ? 'B' : 'A');
}

bool zero_model_adapters_of(const zero_model_t *m, const zero_model_tensor_t *t, zero_model_param_t **a,
                            zero_model_param_t **b)
{
    if (t->place != ZERO_PLACE_LAYER || t->adapter != ZERO_ADAPTER_NONE)
        return false;
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        const zero_model_linear_t *l = &m->linears[i];

        for (int k = 0; k < l->adapted; k++)
            if (l->weight[l->part[k]] == t->role) {
                *a = &m->params[m->base_count + t->layer * m->layer_adapters + l->first + k];
                *b = *a + l->adapted;
                return true;
            }
    }
    return false;
}

void zero_model_param_tensor(const zero_model_t *m, int index, zero_model_tensor_t *t)
{
    if (index < m->base_count)
        zero_model_tensor(&m->config, index, t);
    else
        zero_model_adapter(&m->config, &m->options.lora, index - m->base_count, t);
}

int64_t zero_model_adapter_parameters(const zero_model_config_t *c, const zero_lora_t *lora)
{
    const int count = layer_count(lora);
    int64_t sum = 0;

    for (int i = 0; i < count; i++) {
        zero_model_tensor_t t;

        zero_model_adapter(c, lora, i, &t);
        sum += t.count;
    }
    return sum * c->layers;
}
