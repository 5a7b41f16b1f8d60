/* SPDX-License-Identifier: Apache-2.0 */
/* adapters.c - the products of low-rank adapters: y += s (x A') B' with A (rank, in), B (out, rank) and s = alpha /
 * rank. x A' is small, so the backward pass computes it again instead of keeping it. The parts of a linear layer have
 * the same x: where their A lie one behind another in memory, one product takes all of them. */
#include "models/decoder.h"

enum { TENSOR_ELEMENTS = 128, ROW_BYTES = 16 }; /* a tensor begins at a multiple of 128 elements; see zero_nn_gemm */

/* Adapters of a layer's linear layer from the one at `from` on, whose A one product takes. */
typedef struct group {
    zero_model_t *m;
    const zero_model_linear_t *l;
    const zero_model_param_t *a, *b; /* the first A and B */
    int from, count;
    int64_t width; /* count * rank: columns of m->low and m->dlow */
} group_t;

/* Whether all A of a linear layer are one matrix, and the columns of low that belong to one of them are aligned. */
static bool is_joined(const zero_model_t *m, const zero_model_linear_t *l)
{
    const int64_t rank = m->options.lora.rank;

    return rank * l->in % TENSOR_ELEMENTS == 0 && (size_t)rank * m->element % ROW_BYTES == 0;
}

static group_t group_at(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, int from)
{
    const int count = is_joined(m, l) ? l->adapted : 1;
    const zero_model_param_t *first =
        &m->params[m->base_count + layer * m->layer_adapters + l->first]; /* A of all parts, then B */

    return (group_t){.m = m,
                     .l = l,
                     .a = first + from,
                     .b = first + l->adapted + from,
                     .from = from,
                     .count = count,
                     .width = count * m->options.lora.rank};
}

/* The columns of y (rows, out) that belong to adapter i of the group. Sets their number. */
static void *columns_of(const group_t *g, const void *y, int i, int64_t *columns)
{
    const int part = g->l->part[g->from + i];
    int64_t at = 0;

    for (int k = 0; k < part; k++)
        at += g->l->columns[k];
    *columns = g->l->columns[part];
    return zero_model_at(g->m, (void *)y, at);
}

static void scale(const group_t *g, void *x, int64_t rows)
{
    const zero_lora_t *lora = &g->m->options.lora;

    if (lora->alpha != (double)lora->rank)
        zero_nn_scale(g->m->nn, x, x, lora->alpha / (double)lora->rank, rows * g->width, g->m->options.dtype);
}

/* m->low (rows, width) = s x A' */
static void lower(const group_t *g, const void *x, int64_t rows)
{
    zero_nn_gemm(g->m->nn, &(zero_nn_gemm_t){.m = rows,
                                             .n = g->width,
                                             .k = g->l->in,
                                             .trans_b = true,
                                             .dtype = g->m->options.dtype,
                                             .a = x,
                                             .b = g->a->data,
                                             .c = g->m->low});
    scale(g, g->m->low, rows);
}

void zero_model_adapters_forward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, void *y, const void *x,
                                 int64_t rows)
{
    const int64_t rank = m->options.lora.rank;

    for (int from = 0; from < l->adapted;) {
        const group_t g = group_at(m, layer, l, from);

        lower(&g, x, rows);
        for (int i = 0; i < g.count; i++) {
            int64_t columns;
            void *part = columns_of(&g, y, i, &columns);

            zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                                  .n = columns,
                                                  .k = rank,
                                                  .trans_b = true,
                                                  .accumulate = true,
                                                  .lda = g.width,
                                                  .ldc = l->out,
                                                  .dtype = m->options.dtype,
                                                  .a = zero_model_at(m, m->low, i * rank),
                                                  .b = g.b[i].data,
                                                  .c = part});
        }
        from += g.count;
    }
}

/* m->dlow (rows, width) = s dy B, and the gradient of each B (out, rank) += dy' m->low. */
static void lower_backward(const group_t *g, const void *dy, int64_t rows)
{
    zero_model_t *m = g->m;
    const int64_t rank = m->options.lora.rank;

    for (int i = 0; i < g->count; i++) {
        int64_t columns;
        const void *part = columns_of(g, dy, i, &columns);

        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = columns,
                                              .n = rank,
                                              .k = rows,
                                              .trans_a = true,
                                              .accumulate = true,
                                              .lda = g->l->out,
                                              .ldb = g->width,
                                              .dtype = m->options.dtype,
                                              .a = part,
                                              .b = zero_model_at(m, m->low, i * rank),
                                              .c = g->b[i].grad});
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows,
                                              .n = rank,
                                              .k = columns,
                                              .lda = g->l->out,
                                              .ldc = g->width,
                                              .dtype = m->options.dtype,
                                              .a = part,
                                              .b = g->b[i].data,
                                              .c = zero_model_at(m, m->dlow, i * rank)});
    }
    scale(g, m->dlow, rows);
}

void zero_model_adapters_backward(zero_model_t *m, int64_t layer, const zero_model_linear_t *l, void *dx,
                                  const void *dy, const void *x, int64_t rows)
{
    for (int from = 0; from < l->adapted;) {
        const group_t g = group_at(m, layer, l, from);

        lower(&g, x, rows);
        lower_backward(&g, dy, rows);
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = g.width, /* dA (width, in) += dlow' x */
                                              .n = l->in,
                                              .k = rows,
                                              .trans_a = true,
                                              .accumulate = true,
                                              .dtype = m->options.dtype,
                                              .a = m->dlow,
                                              .b = x,
                                              .c = g.a->grad});
        zero_nn_gemm(m->nn, &(zero_nn_gemm_t){.m = rows, /* dx += dlow A */
                                              .n = l->in,
                                              .k = g.width,
                                              .accumulate = true,
                                              .dtype = m->options.dtype,
                                              .a = m->dlow,
                                              .b = g.a->data,
                                              .c = dx});
        from += g.count;
    }
}

bool zero_model_adapters_fit(const zero_model_t *m, int64_t layer, const zero_model_linear_t *l)
{
    const group_t g = l->adapted > 0 ? group_at((zero_model_t *)m, layer, l, 0) : (group_t){.count = 0};

    for (int i = 1; i < g.count; i++)
        if (zero_model_at(m, g.a[i - 1].data, g.a[i - 1].own) != g.a[i].data ||
            zero_model_at(m, g.a[i - 1].grad, g.a[i - 1].own) != g.a[i].grad)
            return false;
    return true;
}

int64_t zero_model_adapters_width(const zero_model_t *m)
{
    int64_t most = 0;

    for (int i = 0; i < ZERO_LINEAR_COUNT; i++) {
        const int64_t width = m->linears[i].adapted * m->options.lora.rank;

        most = width > most ? width : most;
    }
    return most;
}
