/* SPDX-License-Identifier: Apache-2.0 */
/* linear.c - the linear layers of a model: products of weights that a family stores (in, out) or (out, in), whole or in
 * parts. Every product with a weight of a layer is here. */
#include "models/decoder.h"

/* ---- description ------------------------------------------------------------------------------------------------ */

static zero_model_linear_t one(zero_model_role_t weight, zero_model_role_t bias, int64_t in, int64_t out)
{
    return (zero_model_linear_t){
        .parts = 1, .weight = {weight}, .bias = {bias}, .in = in, .out = out, .columns = {out}, .joined = true};
}

void zero_model_linears(zero_model_t *m)
{
    const zero_model_config_t *c = &m->config;
    const int64_t C = c->width, F = c->hidden, A = c->heads * c->head_dim, K = c->kv_heads * c->head_dim;
    zero_model_linear_t *l = m->linears;

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

/* Whether each part begins where the one before it ends. */
static bool is_joined(const zero_model_t *m, int64_t layer, const zero_model_role_t *roles, int parts)
{
    for (int i = 1; i < parts; i++) {
        const zero_model_param_t *before = zero_model_role_param(m, layer, roles[i - 1]),
                                 *p = zero_model_role_param(m, layer, roles[i]);

        if (zero_model_at(m, before->data, before->count) != p->data ||
            (p->grad && zero_model_at(m, before->grad, before->count) != p->grad))
            return false;
    }
    return true;
}

void zero_model_join_linears(zero_model_t *m)
{
    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        zero_model_linear_t *l = &m->linears[i];

        l->joined = true;
        for (int64_t layer = 0; layer < m->config.layers && l->joined; layer++)
            l->joined = is_joined(m, layer, l->weight, l->parts);
    }
}

/* ---- biases ----------------------------------------------------------------------------------------------------- */

/* The bias of all parts as one vector: as it lies there, or gathered in m->bias. */
static void *gathered(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, bool grad)
{
    const zero_model_param_t *first = zero_model_role_param(m, layer, l->bias[0]);
    int64_t at = 0;

    if (m->dry || is_joined(m, layer, l->bias, l->parts))
        return grad ? first->grad : first->data;
    for (int i = 0; i < l->parts; at += l->columns[i], i++) {
        const zero_model_param_t *p = zero_model_role_param(m, layer, l->bias[i]);

        zero_nn_copy(m->nn, zero_model_at(m, m->bias, at), grad ? p->grad : p->data,
                     (uint64_t)l->columns[i] * m->element);
    }
    return m->bias;
}

void zero_model_linear_bias(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, const void *dy, int64_t rows)
{
    const zero_model_linear_t *l = &m->linears[id];
    int64_t at = 0;

    if (!l->biased)
        return;
    void *sums = gathered(m, layer, l, true);

    zero_nn_bias_backward(m->nn, sums, dy, rows, l->out, m->options.dtype);
    for (int i = 0; sums != NULL && sums == m->bias && i < l->parts; at += l->columns[i], i++)
        zero_nn_copy(m->nn, zero_model_role_param(m, layer, l->bias[i])->grad, zero_model_at(m, sums, at),
                     (uint64_t)l->columns[i] * m->element);
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* The pieces of y that one product computes. */
typedef struct piece {
    const zero_model_param_t *w, *b; /* b: of this part; NULL: none */
    int64_t at, columns;             /* in y */
} piece_t;

/* Piece i of a linear layer; false behind the last. */
static bool piece(const zero_model_t *m, int64_t layer, const zero_model_linear_t *l, bool joined, int i, piece_t *p)
{
    if (i >= (joined ? 1 : l->parts))
        return false;
    p->w = zero_model_role_param(m, layer, l->weight[i]);
    p->b = l->biased ? zero_model_role_param(m, layer, l->bias[i]) : NULL;
    p->columns = joined ? l->out : l->columns[i];
    for (p->at = 0; i > 0; i--)
        p->at += l->columns[i - 1];
    return true;
}

/* A dry run makes the calls of both ways: addresses, which decide, are not known then. */
typedef void (*way_fn)(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, bool joined, const void *ctx);
static void run(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, way_fn way, const void *ctx)
{
    if (m->dry && l->parts > 1)
        way(m, layer, l, false, ctx);
    way(m, layer, l, l->joined || m->dry, ctx);
}

typedef struct forward {
    void *y, *up;
    const void *x;
    int64_t rows;
    zero_nn_epilogue_t epilogue;
} forward_t;

static void forward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, bool joined, const void *ctx)
{
    const forward_t *f = ctx;
    const bool stored = m->family->out_in;
    void *all = l->biased && joined ? gathered(m, layer, l, false) : NULL;
    piece_t p;

    for (int i = 0; piece(m, layer, l, joined, i, &p); i++)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = f->rows,
                                              .n = p.columns,
                                              .k = l->in,
                                              .trans_b = stored,
                                              .ldc = l->out,
                                              .dtype = m->options.dtype,
                                              .a = f->x,
                                              .b = p.w->data,
                                              .bias = joined ? all : zero_model_weight(p.b),
                                              .c = zero_model_at(m, f->y, p.at),
                                              .epilogue = f->epilogue,
                                              .aux = f->up});
}

typedef struct backward {
    void *dx, *up, *dbias;
    const void *dy, *x;
    int64_t rows;
    zero_nn_epilogue_t epilogue;
} backward_t;

static void backward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, bool joined, const void *ctx)
{
    const backward_t *b = ctx;
    const zero_dtype_t dtype = m->options.dtype;
    const bool stored = m->family->out_in;
    piece_t p;

    for (int i = 0; piece(m, layer, l, joined, i, &p); i++) {
        const void *dy = zero_model_at(m, (void *)b->dy, p.at);
        /* dW (in, columns) += x^T dy, or (columns, in) += dy^T x */
        zero_nn_gemm_t g = {.m = l->in,
                            .n = p.columns,
                            .k = b->rows,
                            .trans_a = true,
                            .accumulate = true,
                            .ldb = l->out,
                            .dtype = dtype,
                            .a = b->x,
                            .b = dy,
                            .c = p.w->grad};

        if (stored)
            g = (zero_nn_gemm_t){.m = p.columns,
                                 .n = l->in,
                                 .k = b->rows,
                                 .trans_a = true,
                                 .accumulate = true,
                                 .lda = l->out,
                                 .dtype = dtype,
                                 .a = dy,
                                 .b = b->x,
                                 .c = p.w->grad};
        zero_nn_gemm(m->nn, &g);
    }
    for (int i = 0; piece(m, layer, l, joined, i, &p); i++)
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = b->rows,
                                              .n = l->in,
                                              .k = p.columns,
                                              .trans_b = !stored,
                                              .accumulate = i > 0,
                                              .lda = l->out,
                                              .dtype = dtype,
                                              .a = zero_model_at(m, (void *)b->dy, p.at),
                                              .b = p.w->data,
                                              .c = b->dx,
                                              .epilogue = b->epilogue,
                                              .aux = b->up,
                                              .dbias = b->dbias});
}

void zero_model_linear(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, const void *x, int64_t rows)
{
    run(m, layer, &m->linears[id], forward, &(forward_t){.y = y, .x = x, .rows = rows});
}

void zero_model_linear_gelu(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *y, void *up, const void *x,
                            int64_t rows)
{
    run(m, layer, &m->linears[id], forward,
        &(forward_t){.y = y, .up = up, .x = x, .rows = rows, .epilogue = ZERO_NN_EPILOGUE_GELU_NEW});
}

void zero_model_linear_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx, const void *dy,
                                const void *x, int64_t rows)
{
    run(m, layer, &m->linears[id], backward, &(backward_t){.dx = dx, .dy = dy, .x = x, .rows = rows});
}

void zero_model_linear_gelu_backward(zero_model_t *m, int64_t layer, zero_model_linear_id_t id, void *dx,
                                     const void *dy, const void *x, void *up, void *dbias, int64_t rows)
{
    run(m, layer, &m->linears[id], backward,
        &(backward_t){.dx = dx,
                      .up = up,
                      .dbias = dbias,
                      .dy = dy,
                      .x = x,
                      .rows = rows,
                      .epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD});
}
