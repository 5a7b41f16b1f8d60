/* SPDX-License-Identifier: Apache-2.0 */
/* calls_rows.c - norms, activations, rotary embedding, rows that are put elsewhere, sums of elements: argument checks,
 * dispatch to a backend. */
#include "kernels/nn/calls.h"

/* Checks for both directions of a norm, and fills in groups, ldx and ldy. Returns true if there is something to
 * compute. */
static bool norm_begin(zero_nn_t *nn, zero_nn_norm_t *l, zero_nn_op_t op, const void *in, const void *out)
{
    zero_nn_shape_t shape = shape_of(op, l->dtype);
    int64_t d[] = {l->rows, l->C, l->groups, l->ldx, l->ldy, l->rms}, width = 0;
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape))
        return false;
    l->groups = l->groups == 0 ? 1 : l->groups;
    if (!matrix_ok(nn, &shape, l->groups, l->C))
        return false;
    width = l->groups * l->C;
    l->ldx = l->ldx == 0 ? width : l->ldx;
    l->ldy = l->ldy == 0 ? width : l->ldy;
    if (!matrix_ok(nn, &shape, l->rows, l->ldx) || !matrix_ok(nn, &shape, l->rows, l->ldy) || l->rows == 0 || l->C == 0)
        return false;
    const char *problem = NULL;
    if (l->ldx < width || l->ldy < width)
        problem = "rows do not hold their vectors: make ldx and ldy at least groups * C, or 0";
    else if (in != NULL && in == out && l->ldx != l->ldy)
        problem = "it runs in place, but ldx is not ldy: make them equal, or use another buffer";
    else if ((l->dbias != NULL || l->dbias_residual != NULL) && (l->groups > 1 || l->ldx != l->C))
        problem = "a bias has one group and dense rows: leave dbias and dbias_residual out";
    char text[256];
    if (problem != NULL) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %s", zero_nn_shape_text(&shape, text, sizeof text), problem);
        return false;
    }
    /* Equal shapes have one plan, however they are written. */
    shape.d[2] = l->groups == 1 ? 0 : l->groups;
    shape.d[3] = l->ldx == width ? 0 : l->ldx;
    shape.d[4] = l->ldy == width ? 0 : l->ldy;
    return zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, l->x, op, "x") && operand_ok(nn, l->w, op, "w");
}

void zero_nn_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *given)
{
    const zero_nn_op_t op = ZERO_NN_NORM_FORWARD;
    zero_nn_norm_t l = *given;
    if (norm_begin(nn, &l, op, l.residual == NULL ? l.x : l.total, l.y) && operand_ok(nn, l.y, op, "y") &&
        (l.rms || operand_ok(nn, l.b, op, "b")) && (l.residual == NULL || operand_ok(nn, l.total, op, "total")))
        nn->ops->norm_forward(nn, &l);
}

void zero_nn_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *given)
{
    const zero_nn_op_t op = ZERO_NN_NORM_BACKWARD;
    zero_nn_norm_t l = *given;
    if (norm_begin(nn, &l, op, l.dy, l.dx) && operand_ok(nn, l.dx, op, "dx") && operand_ok(nn, l.dy, op, "dy") &&
        operand_ok(nn, l.rstd, op, "rstd") && (l.rms || operand_ok(nn, l.mean, op, "mean")) &&
        (l.dbias_residual == NULL || operand_ok(nn, l.dresidual, op, "dresidual")))
        nn->ops->norm_backward(nn, &l);
}

/* For element-wise calls. Returns true if there is something to compute. */
static bool elements_begin(zero_nn_t *nn, zero_nn_op_t op, const void *out, const void *a, const void *b, int64_t count,
                           zero_dtype_t dtype)
{
    zero_nn_shape_t shape = shape_of(op, dtype);
    shape.d[0] = count;
    if (!shape_ok(nn, &shape) || count == 0)
        return false;
    return zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, out, op, "the result") &&
           operand_ok(nn, a, op, "an operand") && operand_ok(nn, b, op, "an operand");
}

/* Checks that act is a zero_nn_activation_t. */
static bool act_ok(zero_nn_t *nn, zero_nn_activation_t act, zero_nn_op_t op)
{
    if ((unsigned)act < ZERO_NN_ACTIVATION_COUNT)
        return true;
    zero_nn_fail(nn, ZERO_ERR_ARG, "%s: activation %d is unknown: choose a zero_nn_activation_t", zero_nn_op_name(op),
                 (int)act);
    return false;
}

void zero_nn_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                         zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_ACT_FORWARD;
    zero_nn_shape_t shape = shape_of(op, dtype);
    shape.d[0] = count;
    shape.d[1] = (int64_t)act;
    if (!act_ok(nn, act, op) || !shape_ok(nn, &shape) || count == 0)
        return;
    if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, y, op, "y") && operand_ok(nn, x, op, "x"))
        nn->ops->act_forward(nn, act, y, x, count, dtype);
}

void zero_nn_act_backward(zero_nn_t *nn, zero_nn_activation_t act, void *dx, void *dbias, const void *dy, const void *x,
                          int64_t rows, int64_t n, zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_ACT_BACKWARD;
    zero_nn_act_grad_t a = {
        .act = act, .rows = rows, .n = n, .dtype = dtype, .dy = dy, .x = x, .dx = dx, .dbias = dbias};
    zero_nn_shape_t shape = shape_of(op, dtype);
    shape.d[0] = rows;
    shape.d[1] = n;
    shape.d[2] = (int64_t)act;
    if (!act_ok(nn, act, op) || !shape_ok(nn, &shape) || !matrix_ok(nn, &shape, rows, n) || rows == 0 || n == 0)
        return;
    if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, dx, op, "dx") && operand_ok(nn, dy, op, "dy") &&
        operand_ok(nn, x, op, "x"))
        nn->ops->act_backward(nn, &a);
}

/* Checks for both directions of a gated activation. Returns true if there is something to compute. */
static bool gated_begin(zero_nn_t *nn, const zero_nn_gated_t *g, zero_nn_op_t op)
{
    zero_nn_shape_t shape = shape_of(op, g->dtype);
    shape.d[0] = g->rows;
    shape.d[1] = g->F;
    shape.d[2] = (int64_t)g->act;
    if (!act_ok(nn, g->act, op) || !shape_ok(nn, &shape) || !matrix_ok(nn, &shape, g->rows, 2 * g->F) || g->rows == 0 ||
        g->F == 0)
        return false;
    return zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, g->gu, op, "gu");
}

void zero_nn_gated_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *gu, int64_t rows, int64_t F,
                           zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_GATED_FORWARD;
    zero_nn_gated_t g = {.act = act, .rows = rows, .F = F, .dtype = dtype, .gu = gu, .y = y};
    if (gated_begin(nn, &g, op) && operand_ok(nn, y, op, "y"))
        nn->ops->gated_forward(nn, &g);
}

void zero_nn_gated_backward(zero_nn_t *nn, zero_nn_activation_t act, void *dgu, const void *dy, const void *gu,
                            int64_t rows, int64_t F, zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_GATED_BACKWARD;
    zero_nn_gated_t g = {.act = act, .rows = rows, .F = F, .dtype = dtype, .gu = gu, .dy = dy, .dgu = dgu};
    if (gated_begin(nn, &g, op) && operand_ok(nn, dgu, op, "dgu") && operand_ok(nn, dy, op, "dy"))
        nn->ops->gated_backward(nn, &g);
}

void zero_nn_rotary(zero_nn_t *nn, const zero_nn_rotary_t *given)
{
    const zero_nn_op_t op = ZERO_NN_ROTARY;
    zero_nn_rotary_t r = *given;
    r.ld = r.ld == 0 ? r.heads * r.D : r.ld;
    r.R = r.R == 0 ? r.D : r.R;
    r.scale = r.scale == 0 ? 1 : r.scale;
    zero_nn_shape_t shape = shape_of(op, r.dtype);
    int64_t d[] = {r.rows, r.T, r.heads, r.D, r.ld, r.R, r.backward};
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, r.rows, r.ld) || r.rows == 0 || r.heads == 0 || r.D == 0)
        return;
    const char *problem = NULL;
    if (r.D > ZERO_NN_ROTARY_MOST)
        problem = "a head has more than 256 elements, which is the most";
    else if (r.R % 2 != 0 || r.R > r.D)
        problem = "the elements that rotate are pairs inside a head: make R even and at most D";
    else if (r.ld / r.D < r.heads)
        problem = "rows do not hold their heads: make ld at least heads * D, or 0";
    else if (r.T < 1)
        problem = "T must be 1 or more";
    char text[256];
    if (problem != NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %s", zero_nn_shape_text(&shape, text, sizeof text), problem);
    else if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, r.x, op, "x") &&
             operand_ok(nn, r.frequencies, op, "frequencies"))
        nn->ops->rotary(nn, &r);
}

void zero_nn_put_rows(zero_nn_t *nn, const zero_nn_put_t *given)
{
    const zero_nn_op_t op = ZERO_NN_PUT_ROWS;
    zero_nn_put_t p = *given;
    zero_nn_shape_t shape = shape_of(op, p.dtype);
    p.ldx = p.ldx == 0 ? p.C : p.ldx;
    p.ldy = p.ldy == 0 ? p.C : p.ldy;
    int64_t d[] = {p.C, p.ldx, p.ldy};
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, p.rows, p.ldx) || !matrix_ok(nn, &shape, p.places, p.ldy))
        return;
    if (p.rows < 0 || p.ldx < p.C || p.ldy < p.C) {
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "put_rows: %lld rows of %lld elements, %lld and %lld apart: rows must be 0 or more, and ldx and "
                     "ldy at least C, or 0",
                     (long long)p.rows, (long long)p.C, (long long)p.ldx, (long long)p.ldy);
        return;
    }
    if (p.C == 0 || zero_nn_plan_begin(nn, &shape) == NULL || p.rows == 0)
        return;
    if (operand_ok(nn, p.x, op, "x") && operand_ok(nn, p.y, op, "y") && operand_ok(nn, p.at, op, "at") &&
        indices_ok(nn, op, "place", p.at, p.rows, p.places, INT64_MAX))
        nn->ops->put_rows(nn, &p);
}

void zero_nn_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    if (elements_begin(nn, ZERO_NN_ADD, y, a, b, count, dtype))
        nn->ops->add(nn, y, a, b, count, dtype);
}

void zero_nn_scale(zero_nn_t *nn, void *y, const void *x, double factor, int64_t count, zero_dtype_t dtype)
{
    if (elements_begin(nn, ZERO_NN_SCALE, y, x, x, count, dtype))
        nn->ops->scale(nn, y, x, (float)factor, count, dtype);
}

void zero_nn_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype)
{
    if (elements_begin(nn, ZERO_NN_ADD_SUMS, y, sums, sums, count, dtype))
        nn->ops->add_sums(nn, y, sums, count, dtype);
}

void zero_nn_combine(zero_nn_t *nn, float *y, double alpha, const float *a, double beta, const float *b, int64_t count)
{
    if (elements_begin(nn, ZERO_NN_COMBINE, y, a, b, count, ZERO_FP32))
        nn->ops->combine(nn, y, (float)alpha, a, (float)beta, b, count);
}

void zero_nn_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, double least)
{
    if (elements_begin(nn, ZERO_NN_NORMALIZE, y, x, x, count, ZERO_FP32))
        nn->ops->normalize(nn, y, x, count, (float)least);
}
