/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - products, biases, embedding, attention, cross-entropy, copies: argument checks, dispatch to a backend.
 * calls_rows.c has the rest. */
#include "kernels/nn/calls.h"

/* Checks that the epilogue, dbias, or a C of another dtype is compatible with the other arguments. Keeps an error if
 * not. */
static bool epilogue_ok(zero_nn_t *nn, const zero_nn_gemm_t *g, const zero_nn_shape_t *shape)
{
    const char *problem = NULL;
    if (g->wide && (g->bias != NULL || g->epilogue != ZERO_NN_EPILOGUE_NONE))
        problem = "sums in fp32 have no bias and no epilogue: leave them out";
    else if (g->epilogue != ZERO_NN_EPILOGUE_NONE && g->epilogue != ZERO_NN_EPILOGUE_GELU_NEW &&
             g->epilogue != ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD)
        problem = "its epilogue is unknown: choose a zero_nn_epilogue_t";
    else if (g->dbias != NULL && g->epilogue != ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD)
        problem = "only the gradient of GELU adds to the gradient of a bias: leave dbias out";
    else if (g->epilogue == ZERO_NN_EPILOGUE_NONE)
        return true;
    else if (g->accumulate)
        problem = "a product with an epilogue does not accumulate: leave one of them out";
    else if (g->epilogue == ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD && g->bias != NULL)
        problem = "the gradient of GELU has no bias: leave it out";
    else if (g->ldc != g->n)
        problem = "a product with an epilogue has a dense C: let ldc be n";
    else if (g->aux != NULL && g->aux == g->c)
        problem = "aux is C: each needs a buffer of its own";
    char text[256];
    if (problem != NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %s", zero_nn_shape_text(shape, text, sizeof text), problem);
    return problem == NULL;
}

/* Computes the product and its epilogue in separate calls. */
static void gemm_separate(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    zero_nn_gemm_t plain = *g;
    plain.epilogue = ZERO_NN_EPILOGUE_NONE;
    plain.dbias = NULL;
    if (g->epilogue == ZERO_NN_EPILOGUE_GELU_NEW) {
        plain.c = g->aux;
        zero_nn_gemm(nn, &plain);
        zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, g->c, g->aux, g->m * g->n, g->dtype);
    } else {
        zero_nn_gemm(nn, &plain);
        zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, g->c, g->dbias, g->c, g->aux, g->m, g->n, g->dtype);
    }
}

/* The smallest size for which two products pay off. */
#define LONG 1024

/* p + elements of dtype; NULL for NULL. */
static void *at(const void *p, int64_t elements, zero_dtype_t dtype)
{
    return p == NULL ? NULL : (char *)p + elements * (int64_t)zero_dtype_size(dtype);
}

/* Splits a product in two if its sizes do not suit the backend (see zero_nn_gemm_t). Returns false if they do. */
static bool gemm_split(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    const zero_dtype_t dtype = g->dtype;
    const int64_t pack = 16 / (int64_t)zero_dtype_size(dtype), even = nn->ops->even;
    const bool a = g->lda % pack == 0, b = g->ldb % pack == 0, c = g->ldc % pack == 0;
    zero_nn_gemm_t first = *g, rest = *g;
    if (even == 0 || g->epilogue != ZERO_NN_EPILOGUE_NONE)
        return false;
    if (g->m >= LONG && g->m % pack != 0 && g->trans_a && a) {
        first.m = g->m / even * even;
        rest.m = g->m - first.m;
        rest.a = at(g->a, first.m, dtype);
        rest.c = at(g->c, first.m * g->ldc, g->wide ? ZERO_FP32 : dtype);
    } else if (g->n >= LONG && g->n % pack != 0 && c && (g->trans_b || b)) {
        first.n = g->n / even * even;
        rest.n = g->n - first.n;
        rest.b = at(g->b, g->trans_b ? first.n * g->ldb : first.n, dtype);
        rest.c = at(g->c, first.n, g->wide ? ZERO_FP32 : dtype);
        rest.bias = at(g->bias, first.n, dtype);
    } else if (g->k >= LONG && g->k % pack != 0 && ((!g->trans_a && a) || (g->trans_b && b))) {
        first.k = g->k / even * even;
        rest.k = g->k - first.k;
        rest.a = at(g->a, g->trans_a ? first.k * g->lda : first.k, dtype);
        rest.b = at(g->b, g->trans_b ? first.k : first.k * g->ldb, dtype);
        rest.bias = NULL;
        rest.accumulate = true;
    } else {
        return false;
    }
    zero_nn_gemm(nn, &first);
    zero_nn_gemm(nn, &rest);
    return true;
}

void zero_nn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *given)
{
    zero_nn_gemm_t g = *given;
    g.wide = g.wide && g.dtype != ZERO_FP32;
    if (g.lda == 0)
        g.lda = g.trans_a ? g.m : g.k;
    if (g.ldb == 0)
        g.ldb = g.trans_b ? g.k : g.n;
    if (g.ldc == 0)
        g.ldc = g.n;
    zero_nn_shape_t shape = shape_of(ZERO_NN_GEMM, g.dtype);
    int64_t flags = (g.trans_a ? ZERO_NN_TRANS_A : 0) | (g.trans_b ? ZERO_NN_TRANS_B : 0) |
                    (g.accumulate ? ZERO_NN_ACCUMULATE : 0) | (g.wide ? ZERO_NN_WIDE : 0) |
                    ((int64_t)g.epilogue << ZERO_NN_EPILOGUE_SHIFT);
    int64_t d[] = {g.m, g.n, g.k, g.lda, g.ldb, g.ldc, flags};
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, g.trans_a ? g.k : g.m, g.lda) ||
        !matrix_ok(nn, &shape, g.trans_b ? g.n : g.k, g.ldb) || !matrix_ok(nn, &shape, g.m, g.ldc))
        return;
    if (g.lda < (g.trans_a ? g.m : g.k) || g.ldb < (g.trans_b ? g.k : g.n) || g.ldc < g.n) {
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "gemm (m %lld, n %lld, k %lld): lda %lld, ldb %lld or ldc %lld is less than a row", (long long)g.m,
                     (long long)g.n, (long long)g.k, (long long)g.lda, (long long)g.ldb, (long long)g.ldc);
        return;
    }
    if (!epilogue_ok(nn, &g, &shape) || g.m == 0 || g.n == 0)
        return;
    if (g.epilogue != ZERO_NN_EPILOGUE_NONE && !nn->dry &&
        (!operand_ok(nn, g.c, ZERO_NN_GEMM, "c") || !operand_ok(nn, g.aux, ZERO_NN_GEMM, "aux")))
        return;
    if (g.epilogue != ZERO_NN_EPILOGUE_NONE) {
        const bool fused = zero_nn_plan_is_fused(nn, &shape);
        if (!fused ||
            nn->dry) /* in dry mode prepare the two calls anyway: the backend may refuse the fused one later */
            gemm_separate(nn, &g);
        if (!fused)
            return;
    }
    if (gemm_split(nn, &g))
        return;
    if (zero_nn_plan_begin(nn, &shape) == NULL || !operand_ok(nn, g.c, ZERO_NN_GEMM, "c"))
        return;
    if (g.k > 0 && (!operand_ok(nn, g.a, ZERO_NN_GEMM, "a") || !operand_ok(nn, g.b, ZERO_NN_GEMM, "b")))
        return;
    nn->ops->gemm(nn, &g);
    if (g.epilogue != ZERO_NN_EPILOGUE_NONE && nn->plan->refused)
        gemm_separate(nn, &g);
}

void zero_nn_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype)
{
    zero_nn_shape_t shape = shape_of(ZERO_NN_BIAS_BACKWARD, dtype);
    shape.d[0] = rows;
    shape.d[1] = n;
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, rows, n) || rows == 0 || n == 0)
        return;
    if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, dbias, ZERO_NN_BIAS_BACKWARD, "dbias") &&
        operand_ok(nn, dy, ZERO_NN_BIAS_BACKWARD, "dy"))
        nn->ops->bias_backward(nn, dbias, dy, rows, n, dtype);
}

void zero_nn_embedding_forward(zero_nn_t *nn, void *y, const int32_t *tokens, const void *wte, const void *wpe,
                               int64_t B, int64_t T, int64_t C, zero_dtype_t dtype)
{
    zero_nn_embedding_forward_tile(nn, y, tokens, wte, wpe, (zero_nn_tile_t){0, INT32_MAX}, B, T, C, dtype);
}

void zero_nn_embedding_forward_tile(zero_nn_t *nn, void *y, const int32_t *tokens, const void *wte, const void *wpe,
                                    zero_nn_tile_t tile, int64_t B, int64_t T, int64_t C, zero_dtype_t dtype)
{
    zero_nn_embedding_t e = {
        .B = B, .T = T, .C = C, .tile = tile, .dtype = dtype, .tokens = tokens, .wte = wte, .wpe = wpe, .y = y};
    zero_nn_shape_t shape = shape_of(ZERO_NN_EMBED_FORWARD, dtype);
    int64_t d[] = {B, T, C};
    memcpy(shape.d, d, sizeof d);
    int64_t rows = 0;
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, B, T) || (rows = B * T, !matrix_ok(nn, &shape, rows, C)) ||
        rows == 0 || C == 0)
        return;
    if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, y, ZERO_NN_EMBED_FORWARD, "y") &&
        operand_ok(nn, tokens, ZERO_NN_EMBED_FORWARD, "tokens") && operand_ok(nn, wte, ZERO_NN_EMBED_FORWARD, "wte") &&
        indices_ok(nn, ZERO_NN_EMBED_FORWARD, "token", tokens, rows, INT32_MAX, INT64_MAX))
        nn->ops->embedding_forward(nn, &e);
}

void zero_nn_embedding_backward(zero_nn_t *nn, void *dwte, void *dwpe, const void *dy, const int32_t *tokens, int64_t B,
                                int64_t T, int64_t C, int64_t V, zero_dtype_t dtype)
{
    zero_nn_embedding_backward_tile(nn, dwte, dwpe, dy, tokens, (zero_nn_tile_t){0, V}, B, T, C, V, dtype);
}

void zero_nn_embedding_backward_tile(zero_nn_t *nn, void *dwte, void *dwpe, const void *dy, const int32_t *tokens,
                                     zero_nn_tile_t tile, int64_t B, int64_t T, int64_t C, int64_t V,
                                     zero_dtype_t dtype)
{
    zero_nn_embedding_t e = {.B = B,
                             .T = T,
                             .C = C,
                             .V = V,
                             .tile = tile,
                             .dtype = dtype,
                             .tokens = tokens,
                             .dy = dy,
                             .dwte = dwte,
                             .dwpe = dwpe};
    zero_nn_shape_t shape = shape_of(ZERO_NN_EMBED_BACKWARD, dtype);
    int64_t d[] = {B, T, C, V};
    memcpy(shape.d, d, sizeof d);
    int64_t rows = 0;
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, B, T) || (rows = B * T, !matrix_ok(nn, &shape, rows, C)) ||
        !matrix_ok(nn, &shape, V, C) || rows == 0 || C == 0)
        return;
    if (rows > INT32_MAX) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "embedding_backward: %lld rows: at most 2^31 - 1 in a call", (long long)rows);
        return;
    }
    if (zero_nn_plan_begin(nn, &shape) != NULL &&
        (tile.count == 0 || operand_ok(nn, dwte, ZERO_NN_EMBED_BACKWARD, "dwte")) &&
        operand_ok(nn, dy, ZERO_NN_EMBED_BACKWARD, "dy") && operand_ok(nn, tokens, ZERO_NN_EMBED_BACKWARD, "tokens") &&
        indices_ok(nn, ZERO_NN_EMBED_BACKWARD, "token", tokens, rows, V, INT64_MAX))
        nn->ops->embedding_backward(nn, &e);
}

/* Checks that the ranges are in order. Keeps an error that names the first row that is not. */
static bool ranges_ok(zero_nn_t *nn, zero_nn_op_t op, const zero_nn_attention_t *a)
{
    for (int64_t r = 0; r < a->B * a->T; r++) {
        const int32_t *range = a->ranges + 2 * r, *before = r % a->T == 0 ? range : range - 2;
        const char *problem = NULL;
        if (range[0] < 0 || range[1] > a->S)
            problem = "keep it within the sequence's keys";
        else if (range[0] > range[1])
            problem = "its begin is after its end: for a query that sees no key, make both equal";
        else if (range[0] < before[0] || range[1] < before[1])
            problem = "it begins or ends before that of the row above: sort the rows of a sequence";
        if (problem != NULL) {
            zero_nn_fail(nn, ZERO_ERR_ARG, "%s: the range [%d, %d) of row %lld is wrong for %lld keys: %s",
                         zero_nn_op_name(op), range[0], range[1], (long long)r, (long long)a->S, problem);
            return false;
        }
    }
    return true;
}

/* Checks for both directions of attention. Returns true if there is something to compute. S is filled in. */
static bool attention_begin(zero_nn_t *nn, const zero_nn_attention_t *a, zero_nn_op_t op)
{
    zero_nn_shape_t shape = shape_of(op, a->dtype);
    int64_t d[] = {a->B, a->T, a->H, a->KV, a->D, a->q_stride, a->k_stride, a->v_stride, a->S, a->causal};
    memcpy(shape.d, d, sizeof d);
    int64_t rows = 0, keys = 0;
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, a->B, a->T) || !matrix_ok(nn, &shape, a->B, a->S))
        return false;
    rows = a->B * a->T;
    keys = a->B * a->S;
    if (!matrix_ok(nn, &shape, rows, a->q_stride) || !matrix_ok(nn, &shape, keys, a->k_stride) ||
        !matrix_ok(nn, &shape, keys, a->v_stride) || !matrix_ok(nn, &shape, rows, a->H) || rows == 0 || a->H == 0 ||
        a->D == 0)
        return false;
    if (a->KV < 1 || a->H % a->KV != 0) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: %lld heads are not a multiple of %lld key and value heads",
                     zero_nn_op_name(op), (long long)a->H, (long long)a->KV);
        return false;
    }
    if (a->q_stride / a->D < a->H || a->k_stride / a->D < a->KV || a->v_stride / a->D < a->KV) {
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "%s: rows of %lld, %lld, %lld elements do not hold %lld, %lld, %lld heads of %lld",
                     zero_nn_op_name(op), (long long)a->q_stride, (long long)a->k_stride, (long long)a->v_stride,
                     (long long)a->H, (long long)a->KV, (long long)a->KV, (long long)a->D);
        return false;
    }
    if (a->causal && a->S != a->T) {
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "%s: causal attention of %lld queries to %lld keys: use as many keys as queries, or ranges",
                     zero_nn_op_name(op), (long long)a->T, (long long)a->S);
        return false;
    }
    return zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, a->q, op, "q") && operand_ok(nn, a->k, op, "k") &&
           operand_ok(nn, a->v, op, "v") && operand_ok(nn, a->out, op, "out") &&
           (a->ranges == NULL || ranges_ok(nn, op, a));
}

/* The call with S filled in. */
static zero_nn_attention_t attention_of(const zero_nn_attention_t *given)
{
    zero_nn_attention_t a = *given;
    if (a.S == 0)
        a.S = a.T;
    return a;
}

void zero_nn_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *given)
{
    const zero_nn_attention_t a = attention_of(given);
    if (attention_begin(nn, &a, ZERO_NN_ATTN_FORWARD))
        nn->ops->attention_forward(nn, &a);
}

/* Checks that dq, dk and dv are one matrix, as dbias requires. Keeps an error if not. */
static bool one_matrix(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    const int64_t width = zero_nn_attention_width(a->H, a->KV, a->D);
    if (a->S == a->T && a->q_stride == width && a->k_stride == width && a->v_stride == width &&
        g->dk == at(g->dq, a->H * a->D, a->dtype) && g->dv == at(g->dk, a->KV * a->D, a->dtype))
        return true;
    zero_nn_fail(nn, ZERO_ERR_ARG,
                 "%s: dbias wants dq, dk and dv in one matrix with rows of %lld elements, but they lie apart: leave "
                 "dbias out",
                 zero_nn_op_name(ZERO_NN_ATTN_BACKWARD), (long long)width);
    return false;
}

void zero_nn_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *given, const void *dout, void *dq, void *dk,
                                void *dv, void *dbias)
{
    const zero_nn_op_t op = ZERO_NN_ATTN_BACKWARD;
    const zero_nn_attention_t a = attention_of(given);
    zero_nn_attention_grad_t g = {.dout = dout, .dq = dq, .dk = dk, .dv = dv, .dbias = dbias};
    if (attention_begin(nn, &a, op) && operand_ok(nn, a.lse, op, "lse") && operand_ok(nn, dout, op, "dout") &&
        operand_ok(nn, dq, op, "dq") && operand_ok(nn, dk, op, "dk") && operand_ok(nn, dv, op, "dv") &&
        (dbias == NULL || one_matrix(nn, &a, &g)))
        nn->ops->attention_backward(nn, &a, &g);
}

void zero_nn_cross_entropy(zero_nn_t *nn, float *losses, void *logits, const int32_t *targets, int64_t rows, int64_t V,
                           int64_t ld, bool grad, float scale, zero_dtype_t dtype)
{
    zero_nn_op_t op = ZERO_NN_CROSS_ENTROPY;
    if (ld == 0)
        ld = V;
    zero_nn_entropy_t e = {.rows = rows,
                           .V = V,
                           .ld = ld,
                           .grad = grad,
                           .scale = scale,
                           .dtype = dtype,
                           .losses = losses,
                           .logits = logits,
                           .targets = targets};
    zero_nn_shape_t shape = shape_of(op, dtype);
    int64_t d[] = {rows, V, ld, grad};
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, rows, ld) || rows == 0)
        return;
    if (V < 1 || ld < V) {
        zero_nn_fail(nn, ZERO_ERR_ARG,
                     "cross_entropy: rows of %lld logits, %lld apart: the vocabulary must be 1 or more and fit",
                     (long long)V, (long long)ld);
        return;
    }
    if (zero_nn_plan_begin(nn, &shape) != NULL && operand_ok(nn, losses, op, "losses") &&
        operand_ok(nn, logits, op, "logits") && operand_ok(nn, targets, op, "targets") &&
        indices_ok(nn, op, "target", targets, rows, V, ZERO_NN_IGNORE))
        nn->ops->cross_entropy(nn, &e);
}

/* Checks for both calls for a part of the vocabulary. uses: the call reads or writes logits. Returns true if there is
 * something to compute. */
static bool part_begin(zero_nn_t *nn, zero_nn_entropy_t *e, zero_nn_op_t op, bool uses)
{
    if (e->ld == 0 || e->V == 0)
        e->ld = e->V;
    zero_nn_shape_t shape = shape_of(op, e->dtype);
    int64_t d[] = {e->rows, e->V, e->ld, e->grad, e->parts, e->first};
    memcpy(shape.d, d, sizeof d);
    if (!shape_ok(nn, &shape) || !matrix_ok(nn, &shape, e->rows, e->ld) || !matrix_ok(nn, &shape, e->parts, e->rows) ||
        e->rows == 0)
        return false;
    if (e->ld < e->V) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: rows of %lld logits, %lld apart: make ld at least V, or 0",
                     zero_nn_op_name(op), (long long)e->V, (long long)e->ld);
        return false;
    }
    shape.d[5] = 0; /* first is no part of a plan */
    return zero_nn_plan_begin(nn, &shape) != NULL && (!uses || e->V == 0 || operand_ok(nn, e->logits, op, "logits")) &&
           operand_ok(nn, e->targets, op, "targets");
}

void zero_nn_cross_entropy_local(zero_nn_t *nn, float *stats, const void *logits, const int32_t *targets, int64_t rows,
                                 int64_t first, int64_t V, int64_t ld, zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_ENTROPY_LOCAL;
    zero_nn_entropy_t e = {.rows = rows,
                           .first = first,
                           .V = V,
                           .ld = ld,
                           .dtype = dtype,
                           .logits = (void *)logits, /* it is only read */
                           .targets = targets,
                           .stats = stats};
    if (part_begin(nn, &e, op, true) && operand_ok(nn, stats, op, "stats") &&
        indices_ok(nn, op, "target", targets, rows, INT32_MAX, ZERO_NN_IGNORE))
        nn->ops->entropy_local(nn, &e);
}

void zero_nn_cross_entropy_combine(zero_nn_t *nn, float *losses, void *logits, const float *stats, int parts,
                                   const int32_t *targets, int64_t rows, int64_t first, int64_t V, int64_t ld,
                                   bool grad, float scale, zero_dtype_t dtype)
{
    const zero_nn_op_t op = ZERO_NN_ENTROPY_COMBINE;
    zero_nn_entropy_t e = {.rows = rows,
                           .first = first,
                           .V = V,
                           .ld = ld,
                           .grad = grad,
                           .scale = scale,
                           .dtype = dtype,
                           .losses = losses,
                           .logits = logits,
                           .targets = targets,
                           .all = stats,
                           .parts = parts};
    if (parts < 1 && nn->error.status == ZERO_OK)
        zero_nn_fail(nn, ZERO_ERR_ARG, "%s: stats of %d parts: there must be 1 or more", zero_nn_op_name(op), parts);
    if (part_begin(nn, &e, op, grad) && operand_ok(nn, losses, op, "losses") && operand_ok(nn, stats, op, "stats") &&
        indices_ok(nn, op, "target", targets, rows, INT32_MAX, ZERO_NN_IGNORE))
        nn->ops->entropy_combine(nn, &e);
}

void zero_nn_copy(zero_nn_t *nn, void *dst, const void *src, uint64_t bytes)
{
    if (nn->dry || nn->error.status != ZERO_OK || bytes == 0)
        return;
    if (dst == NULL || src == NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG, "a copy of %llu bytes from %p to %p", (unsigned long long)bytes, src, dst);
    else if (nn->ops->copy != NULL)
        nn->ops->copy(nn, dst, src, bytes);
    else
        memcpy(dst, src, bytes);
}

void zero_nn_clear(zero_nn_t *nn, void *dst, uint64_t bytes)
{
    if (nn->dry || nn->error.status != ZERO_OK || bytes == 0)
        return;
    if (dst == NULL)
        zero_nn_fail(nn, ZERO_ERR_ARG, "%llu bytes are to be 0, but have no address", (unsigned long long)bytes);
    else if (nn->ops->clear != NULL)
        nn->ops->clear(nn, dst, bytes);
    else
        memset(dst, 0, bytes);
}

void zero_nn_sort_tokens(int32_t *order, int32_t *scratch, const int32_t *tokens, int64_t rows)
{
    int32_t *from = order, *to = scratch;
    for (int64_t r = 0; r < rows; r++)
        from[r] = (int32_t)r;
    /* Four passes, an even number, so the last one writes to order. */
    for (int shift = 0; shift < 32; shift += 8) {
        int64_t start[257] = {0};
        for (int64_t r = 0; r < rows; r++)
            start[(((uint32_t)tokens[r] >> shift) & 255u) + 1]++;
        for (int i = 0; i < 256; i++)
            start[i + 1] += start[i];
        for (int64_t i = 0; i < rows; i++)
            to[start[((uint32_t)tokens[from[i]] >> shift) & 255u]++] = from[i];
        int32_t *swap = from;
        from = to;
        to = swap;
    }
}
