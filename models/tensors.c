/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - the table of a model's tensors: names, shapes, initial values. Declaration, loading, initial values and
 * exports follow from it. */
#include "models/decoder.h"

#include <math.h>
#include <stdio.h>

bool zero_model_has(const zero_model_config_t *c, zero_model_role_t role)
{
    const zero_family_t *family = zero_family_find(c->family);

    if (family == NULL || family->roles[role] == NULL)
        return false;
    switch (role) {
    case ZERO_ROLE_QKV_B:
    case ZERO_ROLE_Q_B:
    case ZERO_ROLE_K_B:
    case ZERO_ROLE_V_B:
        return c->qkv_bias;
    case ZERO_ROLE_Q_NORM_W:
    case ZERO_ROLE_K_NORM_W:
        return c->qk_norm;
    case ZERO_ROLE_PROJ_B:
        return c->projection_bias;
    case ZERO_ROLE_GATE_B:
        return c->mlp_bias && c->gated;
    case ZERO_ROLE_UP_B:
    case ZERO_ROLE_DOWN_B:
        return c->mlp_bias;
    case ZERO_ROLE_GATE_W:
        return c->gated;
    default:
        return true;
    }
}

/* The shape of a layer's tensor, (in, out) for a matrix; cols is 0 for a vector. */
static void role_shape(const zero_model_config_t *c, zero_model_role_t role, int64_t *rows, int64_t *cols)
{
    const int64_t C = c->width, F = c->hidden, D = c->head_dim, Q = c->heads * D, KV = c->kv_heads * D;
    const int64_t shapes[ZERO_ROLE_COUNT][2] = {
        [ZERO_ROLE_NORM1_W] = {C},        [ZERO_ROLE_NORM1_B] = {C},   [ZERO_ROLE_QKV_W] = {C, Q + 2 * KV},
        [ZERO_ROLE_QKV_B] = {Q + 2 * KV}, [ZERO_ROLE_Q_W] = {C, Q},    [ZERO_ROLE_K_W] = {C, KV},
        [ZERO_ROLE_V_W] = {C, KV},        [ZERO_ROLE_Q_B] = {Q},       [ZERO_ROLE_K_B] = {KV},
        [ZERO_ROLE_V_B] = {KV},           [ZERO_ROLE_Q_NORM_W] = {D},  [ZERO_ROLE_K_NORM_W] = {D},
        [ZERO_ROLE_PROJ_W] = {Q, C},      [ZERO_ROLE_PROJ_B] = {C},    [ZERO_ROLE_NORM2_W] = {C},
        [ZERO_ROLE_NORM2_B] = {C},        [ZERO_ROLE_GATE_W] = {C, F}, [ZERO_ROLE_UP_W] = {C, F},
        [ZERO_ROLE_GATE_B] = {F},         [ZERO_ROLE_UP_B] = {F},      [ZERO_ROLE_DOWN_W] = {F, C},
        [ZERO_ROLE_DOWN_B] = {C},
    };

    *rows = shapes[role][0];
    *cols = shapes[role][1];
}

static bool is_norm_weight(zero_model_role_t role)
{
    return role == ZERO_ROLE_NORM1_W || role == ZERO_ROLE_NORM2_W || role == ZERO_ROLE_Q_NORM_W ||
           role == ZERO_ROLE_K_NORM_W;
}

static void layer_tensor(const zero_model_config_t *c, const zero_family_t *family, zero_model_role_t role,
                         zero_model_tensor_t *t)
{
    int64_t rows, cols;

    role_shape(c, role, &rows, &cols);
    t->role = role;
    t->ndim = cols > 0 ? 2 : 1;
    t->shape[0] = cols > 0 && family->out_in ? cols : rows;
    t->shape[1] = cols > 0 && family->out_in ? rows : cols;
    t->start = cols > 0 ? ZERO_START_NORMAL : is_norm_weight(role) ? ZERO_START_ONE : ZERO_START_ZERO;
    t->std = cols == 0 ? 0 : c->init_std;
    if (c->residual_init && (role == ZERO_ROLE_PROJ_W || role == ZERO_ROLE_DOWN_W))
        t->std /= sqrt(2.0 * (double)c->layers);
}

/* The number of tensors of a layer. */
static int layer_count(const zero_model_config_t *c)
{
    int count = 0;

    for (int role = 0; role < ZERO_ROLE_COUNT; role++)
        count += zero_model_has(c, (zero_model_role_t)role);
    return count;
}

/* The k-th tensor of a layer. */
static zero_model_role_t layer_role(const zero_model_config_t *c, int k)
{
    int role = 0;

    for (;; role++)
        if (zero_model_has(c, (zero_model_role_t)role) && k-- == 0)
            return (zero_model_role_t)role;
}

static bool is_learned(const zero_model_config_t *c)
{
    return c->rope.theta == 0;
}

/* The tensors before and behind the layers. */
static int front_count(const zero_model_config_t *c)
{
    return is_learned(c) ? 2 : 1;
}
static int back_count(const zero_model_config_t *c)
{
    return (c->norm == ZERO_MODEL_LAYER_NORM ? 2 : 1) + !c->tied;
}

int zero_model_tensor_count(const zero_model_config_t *c)
{
    return (int)(front_count(c) + c->layers * layer_count(c) + back_count(c));
}

static zero_model_place_t place_of(const zero_model_config_t *c, int index, int count)
{
    if (index < front_count(c))
        return index == 0 ? ZERO_PLACE_EMBEDDING : ZERO_PLACE_POSITIONS;
    if (index < count - back_count(c))
        return ZERO_PLACE_LAYER;
    if (index == count - back_count(c))
        return ZERO_PLACE_NORM_W;
    return index == count - 1 && !c->tied ? ZERO_PLACE_HEAD : ZERO_PLACE_NORM_B;
}

void zero_model_tensor(const zero_model_config_t *c, int index, zero_model_tensor_t *t)
{
    const zero_family_t *family = zero_family_find(c->family);
    char layer[ZERO_MODEL_NAME_BYTES / 2] = "";
    const char *name;

    *t =
        (zero_model_tensor_t){.ndim = 2, .start = ZERO_START_NORMAL, .std = c->init_std, .shape = {c->vocab, c->width}};
    t->place = place_of(c, index, zero_model_tensor_count(c));
    name = family->places[t->place];
    switch (t->place) {
    case ZERO_PLACE_POSITIONS:
        t->shape[0] = c->positions;
        break;
    case ZERO_PLACE_NORM_W:
    case ZERO_PLACE_NORM_B:
        t->ndim = 1;
        t->shape[0] = c->width;
        t->shape[1] = 0;
        t->start = t->place == ZERO_PLACE_NORM_W ? ZERO_START_ONE : ZERO_START_ZERO;
        t->std = 0;
        break;
    case ZERO_PLACE_LAYER: {
        const int per_layer = layer_count(c), k = index - front_count(c);

        t->layer = k / per_layer;
        layer_tensor(c, family, layer_role(c, k % per_layer), t);
        snprintf(layer, sizeof layer, name, (long long)t->layer);
        name = family->roles[t->role];
        break;
    }
    default:
        break;
    }
    snprintf(t->name, sizeof t->name, "%s%s%s", family->prefixed && t->place != ZERO_PLACE_HEAD ? family->prefix : "",
             layer, name);
    t->count = t->ndim == 2 ? t->shape[0] * t->shape[1] : t->shape[0];
}

int64_t zero_model_parameters(const zero_model_config_t *c)
{
    const int count = zero_model_tensor_count(c);
    int64_t sum = 0;

    for (int i = 0; i < count; i++) {
        zero_model_tensor_t t;

        zero_model_tensor(c, i, &t);
        sum += t.count;
    }
    return sum;
}

double zero_model_flops_per_token(const zero_model_config_t *c, const zero_lora_t *lora, int64_t seq_len)
{
    const double C = (double)c->width, A = (double)(c->heads * c->head_dim), KV = (double)(c->kv_heads * c->head_dim);
    const double layer = C * (A + 2 * KV) + A * C + (c->gated ? 3 : 2) * C * (double)c->hidden;
    const double weights = (double)c->layers * layer + (double)c->vocab * C;

    const double attention = 12 * (double)c->layers * A * (double)seq_len;

    if (lora == NULL || lora->rank == 0)
        return 6 * weights + attention;
    return 4 * weights + 6 * (double)zero_model_adapter_parameters(c, lora) + attention;
}
