/* SPDX-License-Identifier: Apache-2.0 */
/* linear.c - the linear layers of a model: products of weights that a family stores (in, out) or (out, in), whole
 * or in parts. Every product with a weight of a layer is here; those of adapters are in adapters.c. Parts are
 * stored (out, in). libzero begins each tensor at a multiple of 128 elements, so parts of such sizes, which real
 * models have, lie one behind another in memory. Other parts are copied to one place before a product, and their
 * gradients are copied back after it. So is a piece of a bias that begins where a product cannot take it. */
#include "models/decoder.h"

/* ---- description ------------------------------------------------------------------------------------------------ */

static zero_model_linear_t one(zero_model_role_t weight, zero_model_role_t bias, int64_t in, int64_t out)
{
    return (zero_model_linear_t){
        .parts = 1, .weight = {weight}, .bias = {bias}, .in = in, .out = out, .columns = {out}};
}

/* Columns [begin, begin + out) of the product with a tensor. */
static zero_model_linear_t piece(zero_model_role_t weight, zero_model_role_t bias, int64_t in, int64_t begin,
                                 int64_t out)
{
    zero_model_linear_t l = one(weight, bias, in, out);

    l.begin = begin;
    return l;
}

void zero_model_linears(const zero_model_config_t *c, zero_model_linear_t l[ZERO_LINEAR_COUNT])
{
    const int64_t C = c->width, F = c->hidden, A = c->heads * c->head_dim, K = c->kv_heads * c->head_dim;

    if (zero_model_has(c, false, ZERO_ROLE_QKV_W))
        l[ZERO_LINEAR_QKV] = one(ZERO_ROLE_QKV_W, ZERO_ROLE_QKV_B, C, A + 2 * K);
    else
        l[ZERO_LINEAR_QKV] = (zero_model_linear_t){.parts = 3,
                                                   .weight = {ZERO_ROLE_Q_W, ZERO_ROLE_K_W, ZERO_ROLE_V_W},
                                                   .bias = {ZERO_ROLE_Q_B, ZERO_ROLE_K_B, ZERO_ROLE_V_B},
                                                   .in = C,
                                                   .out = A + 2 * K,
                                                   .columns = {A, K, K}};
    l[ZERO_LINEAR_PROJ] = one(ZERO_ROLE_PROJ_W, ZERO_ROLE_PROJ_B, A, C);
    l[ZERO_LINEAR_CROSS_Q] = piece(ZERO_ROLE_CROSS_QKV_W, ZERO_ROLE_CROSS_QKV_B, C, 0, A);
    l[ZERO_LINEAR_CROSS_KV] = piece(ZERO_ROLE_CROSS_QKV_W, ZERO_ROLE_CROSS_QKV_B, C, A, 2 * K);
    l[ZERO_LINEAR_CROSS_PROJ] = one(ZERO_ROLE_CROSS_PROJ_W, ZERO_ROLE_CROSS_PROJ_B, A, C);
    for (int i = ZERO_LINEAR_CROSS_Q; i <= ZERO_LINEAR_CROSS_PROJ && c->encoder_layers == 0; i++)
        l[i] = (zero_model_linear_t){.parts = 0};
    if (c->gated)
        l[ZERO_LINEAR_UP] = (zero_model_linear_t){.parts = 2,
                                                  .weight = {ZERO_ROLE_GATE_W, ZERO_ROLE_UP_W},
                                                  .bias = {ZERO_ROLE_GATE_B, ZERO_ROLE_UP_B},
                                                  .in = C,
                                                  .out = 2 * F,
                                                  .columns = {F, F}};
    else
        l[ZERO_LINEAR_UP] = one(ZERO_ROLE_UP_W, ZERO_ROLE_UP_B, C, F);
    l[ZERO_LINEAR_DOWN] = one(ZERO_ROLE_DOWN_W, ZERO_ROLE_DOWN_B, F, C);
    l[ZERO_LINEAR_PROJ].partial = l[ZERO_LINEAR_CROSS_PROJ].partial = l[ZERO_LINEAR_DOWN].partial = true;
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        l[i].biased = zero_model_has(c, false, l[i].bias[0]);
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

enum { TENSOR_ELEMENTS = 128 }; /* a tensor begins at a multiple of them */
enum { BIAS_BYTES = 16 };       /* a product's bias begins at a multiple of them */

/* A weight (bias = false) or bias of a linear layer, with all of its parts. */
typedef struct tensor {
    const zero_model_linear_t *l;
    const zero_model_role_t *roles;
    int64_t each;   /* elements of a column */
    void *gathered; /* where parts that do not lie one behind another are copied */
} tensor_t;

static tensor_t tensor(const zero_model_t *m, const zero_model_linear_t *l, bool bias)
{
    return (tensor_t){l, bias ? l->bias : l->weight, bias ? 1 : l->in, bias ? m->bias : m->weight};
}

static int64_t part_count(const tensor_t *t, int i)
{
    return t->l->columns[i] * t->each;
}

static void *part(const zero_model_t *m, int64_t layer, const tensor_t *t, int i, bool grad)
{
    const zero_model_param_t *p = zero_model_role_param(m, layer, t->roles[i]);

    return zero_model_at(m, grad ? p->grad : p->data, t->l->begin * t->each);
}

/* Whether a bias that is a piece of a tensor begins where a product can take it. */
static bool is_aligned(const zero_model_t *m, const tensor_t *t)
{
    return t->each > 1 || t->l->begin * (int64_t)m->element % BIAS_BYTES == 0;
}

/* Whether each part begins where the one before it ends. */
static bool is_joined(const zero_model_t *m, int64_t layer, const tensor_t *t)
{
    for (int i = 1; i < t->l->parts; i++)
        for (int grad = 0; grad < 2; grad++)
            if (zero_model_at(m, part(m, layer, t, i - 1, grad), part_count(t, i - 1)) != part(m, layer, t, i, grad))
                return false;
    return is_aligned(m, t);
}

/* Copies the parts' values or gradients to one place, or back. */
static void copy_parts(zero_model_t *m, int64_t layer, const tensor_t *t, bool grad, bool back)
{
    int64_t at = 0;

    for (int i = 0; i < t->l->parts; i++) {
        void *own = part(m, layer, t, i, grad), *all = zero_model_at(m, t->gathered, at);

        zero_nn_copy(m->nn, back ? own : all, back ? all : own, (uint64_t)part_count(t, i) * m->element);
        at += part_count(t, i);
    }
}

/* The tensor's values or gradients as one: as they lie there, or copied. */
static void *begin(zero_model_t *m, int64_t layer, const tensor_t *t, bool grad)
{
    if (m->dry || is_joined(m, layer, t))
        return part(m, layer, t, 0, grad);
    copy_parts(m, layer, t, grad, false);
    return t->gathered;
}

/* After a change of the gradients that begin returned. */
static void end(zero_model_t *m, int64_t layer, const tensor_t *t, const void *all)
{
    if (all != NULL && all == t->gathered)
        copy_parts(m, layer, t, true, true);
}

/* Elements for the parts of a weight or bias, if it may have to be copied; else 0. */
static int64_t gathered_elements(const zero_model_t *m, const zero_model_linear_t *l, bool bias)
{
    const tensor_t t = tensor(m, l, bias);
    bool copied = !is_aligned(m, &t);

    for (int i = 0; i + 1 < l->parts; i++)
        copied = copied || part_count(&t, i) % TENSOR_ELEMENTS != 0;
    return copied ? l->out * t.each : 0;
}

int64_t zero_model_gathered(const zero_model_t *m, bool bias)
{
    int64_t most = 0;

    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        const zero_model_linear_t *l = &m->linears[i];
        const int64_t elements = !bias || l->biased ? gathered_elements(m, l, bias) : 0;

        most = elements > most ? elements : most;
    }
    return most;
}

/* Whether a layer has a parameter, and this rank has the layer. */
static bool is_here(const zero_model_t *m, int64_t layer, zero_model_role_t role)
{
    const zero_model_param_t *p = zero_model_role_param(m, layer, role);

    return p != NULL && p->data != NULL;
}

bool zero_model_linears_fit(const zero_model_t *m)
{
    const int64_t layers = m->decoder.first + m->decoder.layers;

    for (int i = 0; i < 2 * ZERO_LINEAR_COUNT; i++) {
        const zero_model_linear_t *l = &m->linears[i / 2];
        const tensor_t t = tensor(m, l, i % 2);

        for (int64_t layer = 0; layer < layers && t.gathered == NULL && (i % 2 == 0 || l->biased); layer++)
            if (is_here(m, layer, t.roles[0]) && !is_joined(m, layer, &t))
                return false;
    }
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        for (int64_t layer = 0; layer < m->config.layers; layer++)
            if (is_here(m, m->decoder.first + layer, m->linears[i].weight[0]) &&
                !zero_model_adapters_fit(m, layer, &m->linears[i]))
                return false;
    return true;
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* An epilogue follows the adapters: with them, it is a call of its own. If products are parts of a sum, the first one
 * has the bias. */

typedef struct forward {
    void *y, *up;
    zero_nn_epilogue_t epilogue;
} forward_t;

static void forward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const forward_t *f, const void *x,
                    int64_t rows)
{
    const zero_model_linear_t *l = &m->linears[id];
    const bool apart = l->adapted > 0 && f->epilogue != ZERO_NN_EPILOGUE_NONE;
    const tensor_t w = tensor(m, l, false), b = tensor(m, l, true);
    const bool biased = l->biased && !(l->partial && m->place > 0);
    void *y = apart ? f->up : f->y;

    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                          .n = l->out,
                                          .k = l->in,
                                          .trans_b = m->family->out_in,
                                          .dtype = m->options.dtype,
                                          .a = x,
                                          .b = begin(m, layer, &w, false),
                                          .bias = biased ? begin(m, layer, &b, false) : NULL,
                                          .c = y,
                                          .epilogue = apart ? ZERO_NN_EPILOGUE_NONE : f->epilogue,
                                          .aux = apart ? NULL : f->up});
    zero_model_adapters_forward(m, layer, l, y, x, rows);
    if (apart)
        zero_nn_act_forward(m->nn, ZERO_NN_GELU_NEW, f->y, f->up, rows * l->out, m->options.dtype);
}

typedef struct backward {
    void *dx, *up, *dbias;
    bool add; /* to dx */
    zero_nn_epilogue_t epilogue;
} backward_t;

/* dW (out, in) += dy^T x, or (in, out) += x^T dy */
static void weight_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const void *dy, const void *x,
                            int64_t rows)
{
    const zero_model_linear_t *l = &m->linears[id];
    const bool out_in = m->family->out_in;
    const tensor_t w = tensor(m, l, false);
    void *dw = begin(m, layer, &w, true);

    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = out_in ? l->out : l->in,
                                          .n = out_in ? l->in : l->out,
                                          .k = rows,
                                          .trans_a = true,
                                          .accumulate = true,
                                          .dtype = m->options.dtype,
                                          .a = out_in ? dy : x,
                                          .b = out_in ? x : dy,
                                          .c = dw});
    end(m, layer, &w, dw);
}

static void backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const backward_t *b, const void *dy,
                     const void *x, int64_t rows)
{
    const zero_model_linear_t *l = &m->linears[id];
    const bool apart = l->adapted > 0 && b->epilogue != ZERO_NN_EPILOGUE_NONE;
    const tensor_t w = tensor(m, l, false);

    if (!zero_model_is_frozen(m))
        weight_backward(m, layer, id, dy, x, rows);
    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                          .n = l->in,
                                          .k = l->out,
                                          .trans_b = !m->family->out_in,
                                          .accumulate = b->add,
                                          .dtype = m->options.dtype,
                                          .a = dy,
                                          .b = begin(m, layer, &w, false),
                                          .c = b->dx,
                                          .epilogue = apart ? ZERO_NN_EPILOGUE_NONE : b->epilogue,
                                          .aux = apart ? NULL : b->up,
                                          .dbias = apart ? NULL : b->dbias});
    zero_model_adapters_backward(m, layer, l, b->dx, dy, x, rows);
    if (apart)
        zero_nn_act_backward(m->nn, ZERO_NN_GELU_NEW, b->dx, b->dbias, b->dx, b->up, rows, l->in, m->options.dtype);
}

void zero_model_linear(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, const void *x, int64_t rows)
{
    forward(m, layer, id, &(forward_t){.y = y}, x, rows);
}

void zero_model_linear_gelu(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, void *up, const void *x,
                            int64_t rows)
{
    forward(m, layer, id, &(forward_t){.y = y, .up = up, .epilogue = ZERO_NN_EPILOGUE_GELU_NEW}, x, rows);
}

void zero_model_linear_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx, const void *dy,
                                const void *x, int64_t rows)
{
    backward(m, layer, id, &(backward_t){.dx = dx}, dy, x, rows);
}

void zero_model_linear_backward_add(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx, const void *dy,
                                    const void *x, int64_t rows)
{
    backward(m, layer, id, &(backward_t){.dx = dx, .add = true}, dy, x, rows);
}

void zero_model_linear_gelu_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx,
                                     const void *dy, const void *x, void *up, void *dbias, int64_t rows)
{
    backward(m, layer, id,
             &(backward_t){.dx = dx, .up = up, .dbias = dbias, .epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD}, dy, x,
             rows);
}

void zero_model_linear_bias(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const void *dy, int64_t rows)
{
    const zero_model_linear_t *l = &m->linears[id];
    const tensor_t b = tensor(m, l, true);

    if (!l->biased || zero_model_is_frozen(m))
        return;
    void *sums = begin(m, layer, &b, true);

    zero_nn_bias_backward(m->nn, sums, dy, rows, l->out, m->options.dtype);
    end(m, layer, &b, sums);
}
