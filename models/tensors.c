/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - the table of a model's tensors: names, shapes, initial values. Declaration, loading, initial values and
 * exports follow from it. */
#include "models/decoder.h"

#include <math.h>
#include <stdio.h>

bool zero_model_has(const zero_model_config_t *c, bool encoder, zero_model_role_t role)
{
    const zero_family_t *family = zero_family_find(c->family);

    if (family == NULL || (encoder ? family->encoder_roles : family->roles)[role] == NULL)
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
        [ZERO_ROLE_NORM1_W] = {C},
        [ZERO_ROLE_NORM1_B] = {C},
        [ZERO_ROLE_QKV_W] = {C, Q + 2 * KV},
        [ZERO_ROLE_QKV_B] = {Q + 2 * KV},
        [ZERO_ROLE_Q_W] = {C, Q},
        [ZERO_ROLE_K_W] = {C, KV},
        [ZERO_ROLE_V_W] = {C, KV},
        [ZERO_ROLE_Q_B] = {Q},
        [ZERO_ROLE_K_B] = {KV},
        [ZERO_ROLE_V_B] = {KV},
        [ZERO_ROLE_Q_NORM_W] = {D},
        [ZERO_ROLE_K_NORM_W] = {D},
        [ZERO_ROLE_PROJ_W] = {Q, C},
        [ZERO_ROLE_PROJ_B] = {C},
        [ZERO_ROLE_NORM2_W] = {C},
        [ZERO_ROLE_CROSS_NORM_W] = {C},
        [ZERO_ROLE_CROSS_NORM_B] = {C},
        [ZERO_ROLE_CROSS_QKV_W] = {C, Q + 2 * KV},
        [ZERO_ROLE_CROSS_QKV_B] = {Q + 2 * KV},
        [ZERO_ROLE_CROSS_PROJ_W] = {Q, C},
        [ZERO_ROLE_CROSS_PROJ_B] = {C},
        [ZERO_ROLE_NORM2_B] = {C},
        [ZERO_ROLE_GATE_W] = {C, F},
        [ZERO_ROLE_UP_W] = {C, F},
        [ZERO_ROLE_GATE_B] = {F},
        [ZERO_ROLE_UP_B] = {F},
        [ZERO_ROLE_DOWN_W] = {F, C},
        [ZERO_ROLE_DOWN_B] = {C},
    };

    *rows = shapes[role][0];
    *cols = shapes[role][1];
}

static bool is_norm_weight(zero_model_role_t role)
{
    return role == ZERO_ROLE_NORM1_W || role == ZERO_ROLE_CROSS_NORM_W || role == ZERO_ROLE_NORM2_W ||
           role == ZERO_ROLE_Q_NORM_W || role == ZERO_ROLE_K_NORM_W;
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
static int layer_count(const zero_model_config_t *c, bool encoder)
{
    int count = 0;

    for (int role = 0; role < ZERO_ROLE_COUNT; role++)
        count += zero_model_has(c, encoder, (zero_model_role_t)role);
    return count;
}

/* The k-th tensor of a layer. */
static zero_model_role_t layer_role(const zero_model_config_t *c, bool encoder, int k)
{
    int role = 0;

    for (;; role++)
        if (zero_model_has(c, encoder, (zero_model_role_t)role) && k-- == 0)
            return (zero_model_role_t)role;
}

/* The tensors of a stack: before its layers, of a layer, behind them. */
typedef struct counts {
    int front, layer, norms, back, all;
} counts_t;

static counts_t counts_of(const zero_model_config_t *c, bool encoder)
{
    const int64_t layers = encoder ? c->encoder_layers : c->layers;
    const bool learned = !encoder && c->rope.theta == 0 && !c->sinusoidal;
    counts_t n = {
        .front = learned ? 2 : 1, .layer = layer_count(c, encoder), .norms = c->norm == ZERO_MODEL_LAYER_NORM ? 2 : 1};

    if (encoder && layers == 0)
        return (counts_t){0};
    n.back = n.norms + (!encoder && !c->tied);
    n.all = (int)(n.front + layers * n.layer + n.back);
    return n;
}

int zero_model_tensor_count(const zero_model_config_t *c)
{
    return counts_of(c, true).all + counts_of(c, false).all;
}

/* The place of a stack's tensor. */
static zero_model_place_t place_of(const counts_t *n, int index)
{
    const int back = index - (n->all - n->back);

    if (index < n->front)
        return index == 0 ? ZERO_PLACE_EMBEDDING : ZERO_PLACE_POSITIONS;
    if (back < 0)
        return ZERO_PLACE_LAYER;
    if (back == 0)
        return ZERO_PLACE_NORM_W;
    return back == 1 && n->norms == 2 ? ZERO_PLACE_NORM_B : ZERO_PLACE_HEAD;
}

void zero_model_tensor(const zero_model_config_t *c, int index, zero_model_tensor_t *t)
{
    const zero_family_t *family = zero_family_find(c->family);
    const counts_t encoders = counts_of(c, true);
    const bool encoder = index < encoders.all;
    const counts_t n = encoder ? encoders : counts_of(c, false);
    char layer[ZERO_MODEL_NAME_BYTES / 2] = "";
    const char *name;

    if (!encoder)
        index -= encoders.all;
    *t = (zero_model_tensor_t){.encoder = encoder,
                               .place = place_of(&n, index),
                               .ndim = 2,
                               .shape = {encoder ? c->source_vocab : c->vocab, c->width},
                               .start = ZERO_START_NORMAL,
                               .std = c->init_std};
    name = (encoder ? family->encoder_places : family->places)[t->place];
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
    case ZERO_PLACE_LAYER:
        t->layer = (index - n.front) / n.layer;
        layer_tensor(c, family, layer_role(c, encoder, (index - n.front) % n.layer), t);
        snprintf(layer, sizeof layer, name, (long long)t->layer);
        name = (encoder ? family->encoder_roles : family->roles)[t->role];
        break;
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

/* Weights of a layer's products without those of attention to a source. */
static double layer_weights(const zero_model_config_t *c)
{
    const double C = (double)c->width, A = (double)(c->heads * c->head_dim), KV = (double)(c->kv_heads * c->head_dim);

    return C * (A + 2 * KV) + A * C + (c->gated ? 3 : 2) * C * (double)c->hidden;
}

double zero_model_flops_per_token(const zero_model_config_t *c, const zero_lora_t *lora, int64_t seq_len,
                                  int64_t source_len)
{
    const double C = (double)c->width, A = (double)(c->heads * c->head_dim), layers = (double)c->layers;
    const double cross = c->encoder_layers > 0 ? 2 * C * A : 0; /* queries, projection */
    const double weights = layers * (layer_weights(c) + cross) + (double)c->vocab * C;
    const double attention = 12 * layers * A * (double)(seq_len + source_len);

    if (lora == NULL || lora->rank == 0)
        return 6 * weights + attention;
    return 4 * weights + 6 * (double)zero_model_adapter_parameters(c, lora) + attention;
}

double zero_model_flops_per_source_token(const zero_model_config_t *c, int64_t source_len)
{
    const double C = (double)c->width, A = (double)(c->heads * c->head_dim), KV = (double)(c->kv_heads * c->head_dim);
    const double encoder = (double)c->encoder_layers * layer_weights(c), keys = (double)c->layers * 2 * C * KV;

    return c->encoder_layers > 0 ? 6 * (encoder + keys) + 12 * (double)c->encoder_layers * A * (double)source_len : 0;
}
