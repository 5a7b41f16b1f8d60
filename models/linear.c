/* SPDX-License-Identifier: Apache-2.0 */
/* linear.c - the linear layers of a model: products of weights that a family stores (in, out) or (out, in), whole
 * or in parts. Every product with a weight of a layer is here; those of adapters are in adapters.c. Parts are
 * stored (out, in). libzero begins each tensor at a multiple of 128 elements, so parts of such sizes, which real
 * models have, lie one behind another in memory. Other parts are copied to one place before a product, and their
 * gradients are copied back after it. */
#include "models/decoder.h"

/* ---- description ------------------------------------------------------------------------------------------------ */

static zero_model_linear_t one(zero_model_role_t weight, zero_model_role_t bias, int64_t in, int64_t out)
{
    return (zero_model_linear_t){
        .parts = 1, .weight = {weight}, .bias = {bias}, .in = in, .out = out, .columns = {out}};
}

void zero_model_linears(const zero_model_config_t *c, zero_model_linear_t l[ZERO_LINEAR_COUNT])
{
    const int64_t C = c->width, F = c->hidden, A = c->heads * c->head_dim, K = c->kv_heads * c->head_dim;

    if (zero_model_has(c, ZERO_ROLE_QKV_W))
        l[ZERO_LINEAR_QKV] = one(ZERO_ROLE_QKV_W, ZERO_ROLE_QKV_B, C, A + 2 * K);
    else
        l[ZERO_LINEAR_QKV] = (zero_model_linear_t){.parts = 3,
                                                   .weight = {ZERO_ROLE_Q_W, ZERO_ROLE_K_W, ZERO_ROLE_V_W},
                                                   .bias = {ZERO_ROLE_Q_B, ZERO_ROLE_K_B, ZERO_ROLE_V_B},
                                                   .in = C,
                                                   .out = A + 2 * K,
                                                   .columns = {A, K, K}};
    l[ZERO_LINEAR_PROJ] = one(ZERO_ROLE_PROJ_W, ZERO_ROLE_PROJ_B, A, C);
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
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        l[i].biased = zero_model_has(c, l[i].bias[0]);
}

/* ---- parts ------------------------------------------------------------------------------------------------------ */

enum { TENSOR_ELEMENTS = 128 }; /* a tensor begins at a multiple of them */

/* A weight (bias = false) or bias of a linear layer, with all of its parts. */
typedef struct tensor {
    const zero_model_role_t *roles;
    int parts;
    void *gathered; /* where parts that do not lie one behind another are copied */
} tensor_t;

static tensor_t tensor(const zero_model_t *m, const zero_model_linear_t *l, bool bias)
{
    return (tensor_t){bias ? l->bias : l->weight, l->parts, bias ? m->bias : m->weight};
}

/* Whether each part begins where the one before it ends. */
static bool is_joined(const zero_model_t *m, int64_t layer, const tensor_t *t)
{
    for (int i = 1; i < t->parts; i++) {
        const zero_model_param_t *before = zero_model_role_param(m, layer, t->roles[i - 1]),
                                 *p = zero_model_role_param(m, layer, t->roles[i]);

        if (zero_model_at(m, before->data, before->count) != p->data ||
            (p->grad && zero_model_at(m, before->grad, before->count) != p->grad))
            return false;
    }
    return true;
}

/* Copies the parts' values or gradients to one place, or back. */
static void copy_parts(zero_model_t *m, int64_t layer, const tensor_t *t, bool grad, bool back)
{
    int64_t at = 0;

    for (int i = 0; i < t->parts; i++) {
        const zero_model_param_t *p = zero_model_role_param(m, layer, t->roles[i]);
        void *part = grad ? p->grad : p->data, *all = zero_model_at(m, t->gathered, at);

        zero_nn_copy(m->nn, back ? part : all, back ? all : part, (uint64_t)p->count * m->element);
        at += p->count;
    }
}

/* The tensor's values or gradients as one: as they lie there, or copied. */
static void *begin(zero_model_t *m, int64_t layer, const tensor_t *t, bool grad)
{
    const zero_model_param_t *first = zero_model_role_param(m, layer, t->roles[0]);

    if (m->dry || is_joined(m, layer, t))
        return grad ? first->grad : first->data;
    copy_parts(m, layer, t, grad, false);
    return t->gathered;
}

/* After a change of the gradients that begin returned. */
static void end(zero_model_t *m, int64_t layer, const tensor_t *t, const void *all)
{
    if (all != NULL && all == t->gathered)
        copy_parts(m, layer, t, true, true);
}

/* Elements for the parts of a weight or bias, if a part may not end where the next one begins; else 0. */
static int64_t gathered_elements(const zero_model_linear_t *l, bool bias)
{
    const int64_t each = bias ? 1 : l->in;

    for (int i = 0; i + 1 < l->parts; i++)
        if (l->columns[i] * each % TENSOR_ELEMENTS != 0)
            return l->out * each;
    return 0;
}

int64_t zero_model_gathered(const zero_model_t *m, bool bias)
{
    int64_t most = 0;

    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        const zero_model_linear_t *l = &m->linears[i];
        const int64_t elements = !bias || l->biased ? gathered_elements(l, bias) : 0;

        most = elements > most ? elements : most;
    }
    return most;
}

bool zero_model_linears_fit(const zero_model_t *m)
{
    for (int i = 0; i < 2 * ZERO_LINEAR_COUNT; i++) {
        const zero_model_linear_t *l = &m->linears[i / 2];
        const tensor_t t = tensor(m, l, i % 2);

        for (int64_t layer = 0; layer < m->config.layers && t.gathered == NULL && (i % 2 == 0 || l->biased); layer++)
            if (!is_joined(m, layer, &t))
                return false;
    }
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++)
        for (int64_t layer = 0; layer < m->config.layers; layer++)
            if (!zero_model_adapters_fit(m, layer, &m->linears[i]))
                return false;
    return true;
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* An epilogue follows the adapters: with them, it is a call of its own. */

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
    void *y = apart ? f->up : f->y;

    zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                          .n = l->out,
                                          .k = l->in,
                                          .trans_b = m->family->out_in,
                                          .dtype = m->options.dtype,
                                          .a = x,
                                          .b = begin(m, layer, &w, false),
                                          .bias = l->biased ? begin(m, layer, &b, false) : NULL,
                                          .c = y,
                                          .epilogue = apart ? ZERO_NN_EPILOGUE_NONE : f->epilogue,
                                          .aux = apart ? NULL : f->up});
    zero_model_adapters_forward(m, layer, l, y, x, rows);
    if (apart)
        zero_nn_act_forward(m->nn, ZERO_NN_GELU_NEW, f->y, f->up, rows * l->out, m->options.dtype);
}

typedef struct backward {
    void *dx, *up, *dbias;
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
