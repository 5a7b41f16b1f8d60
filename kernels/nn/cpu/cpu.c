/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.c - the CPU backend. It divides rows, columns or elements among threads; the kernels of simd.h compute them. */
#include "kernels/nn/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* The smallest number of elements that is worth a thread, and the unit of division. */
#define WORTH 16384
#define UNIT 64
/* Columns of a sum over rows that fit in the first-level cache. */
#define COLUMNS 1024

static zero_status_t cpu_open(zero_nn_t *nn, zero_error_t *error)
{
    char why[96];
    int most = zero_nn_threads_most(why, sizeof why);
    if (nn->threads > most)
        return zero_fail(error, ZERO_ERR_ARG,
                         "threads is %d, but OpenMP allows %d, because %s: use %d, or change that setting", nn->threads,
                         most, why, most);
    zero_nn_cpu_t *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of kernel state", sizeof *cpu);
    cpu->simd = zero_nn_simd_best();
    zero_status_t status = zero_nn_onednn_open(&cpu->onednn, error);
    if (status != ZERO_OK) {
        free(cpu);
        return status;
    }
    nn->state = cpu;
    char version[32];
    zero_nn_onednn_version(version, sizeof version);
    snprintf(nn->label, sizeof nn->label, "cpu (%s, %s)", version, cpu->simd->name);
    return ZERO_OK;
}

static void cpu_close(zero_nn_t *nn)
{
    zero_nn_cpu_t *cpu = nn->state;
    zero_nn_onednn_close(cpu->onednn);
    free(cpu);
    nn->state = NULL;
}

/* Whether oneDNN's products in bf16 are faster than our own, which multiply in fp32. They are not on Intel's processors
 * without AMX: on one core of a Xeon with AVX512-BF16 alone, at the sizes of Llama 3.2 1B with 2,048 rows, oneDNN
 * reached 93 to 104 GFLOP/s and gemm.c 118 to 159. On an AMD EPYC oneDNN reached 172 to 225 (onednn.c). */
static bool has_fast_bf16(void)
{
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    __builtin_cpu_init();
    return !__builtin_cpu_is("intel") ||
           (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & 1u << 22) != 0); /* AMX-BF16 */
#else
    return true;
#endif
}

static zero_status_t cpu_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    const int64_t *d = plan->shape.d;
    zero_status_t status = ZERO_OK;
    switch (plan->shape.op) {
    case ZERO_NN_GEMM:
        if (zero_nn_is_row(&plan->shape)) {
            plan->workspace = zero_nn_row_workspace(&plan->shape);
            break;
        }
        /* oneDNN 2 has no products in fp16 on CPUs */
        if (plan->shape.dtype == ZERO_FP32 || (plan->shape.dtype == ZERO_BF16 && has_fast_bf16()))
            status = zero_nn_onednn_plan(nn, plan, error);
        if (plan->data == NULL)
            plan->workspace = zero_nn_own_gemm_workspace(nn, &plan->shape);
        break;
    case ZERO_NN_EMBED_BACKWARD: /* order and scratch */
        plan->workspace = 2 * (uint64_t)(d[0] * d[1]) * sizeof(int32_t);
        break;
    case ZERO_NN_NORMALIZE: /* sums of squares */
        plan->workspace = (uint64_t)zero_nn_square_blocks(d[0]) * sizeof(double);
        break;
    case ZERO_NN_NORM_BACKWARD: /* dw, db of each thread */
        plan->workspace = (uint64_t)nn->threads * 2 * (uint64_t)zero_nn_up(d[1], 32) * sizeof(float);
        break;
    case ZERO_NN_ATTN_FORWARD:
    case ZERO_NN_ATTN_BACKWARD:
        plan->workspace = zero_nn_cpu_attention_workspace(nn, &plan->shape);
        break;
    default:
        break;
    }
    return status;
}

static void cpu_unplan(zero_nn_plan_t *plan)
{
    if (plan->shape.op == ZERO_NN_GEMM)
        zero_nn_onednn_unplan(plan);
}

static const char *cpu_maker(const zero_nn_plan_t *plan)
{
    if (plan->shape.op == ZERO_NN_GEMM && plan->data != NULL)
        return "oneDNN";
    return plan->shape.op == ZERO_NN_GEMM && plan->shape.dtype != ZERO_FP32 ? "our own kernels in fp32"
                                                                            : "our own kernels";
}

static void cpu_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    if (zero_nn_is_row(&nn->plan->shape))
        zero_nn_row_gemm(nn, g);
    else if (nn->plan->data != NULL)
        zero_nn_onednn_gemm(nn, g);
    else
        zero_nn_own_gemm(nn, g);
}

static const void *element(const void *p, int64_t i, zero_dtype_t dtype)
{
    return (const char *)p + (size_t)i * zero_dtype_size(dtype);
}

static void *element_out(void *p, int64_t i, zero_dtype_t dtype)
{
    return (char *)p + (size_t)i * zero_dtype_size(dtype);
}

static void cpu_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n, zero_dtype_t dtype)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, rows * n / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(n, UNIT, threads, t, &begin, &end);
        for (int64_t j = begin; j < end; j += COLUMNS) {
            int64_t width = end - j < COLUMNS ? end - j : COLUMNS;
            float sum[COLUMNS] __attribute__((aligned(64)));
            simd->load(sum, element(dy, j, dtype), width, dtype);
            for (int64_t r = 1; r < rows; r++)
                simd->add(sum, element(dy, r * n + j, dtype), width, dtype);
            simd->add(sum, element(dbias, j, dtype), width, dtype);
            simd->store(element_out(dbias, j, dtype), sum, width, dtype);
        }
    }
}

static void cpu_embedding_forward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int64_t rows = e->B * e->T;
    int threads = zero_nn_threads(nn, rows * e->C / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (!zero_nn_has_token(&e->tile, e->tokens[r]))
            continue;
        const void *word = element(e->wte, (e->tokens[r] - e->tile.first) * e->C, e->dtype);
        void *y = element_out(e->y, r * e->C, e->dtype);
        if (e->wpe != NULL)
            simd->sum(y, word, element(e->wpe, r % e->T * e->C, e->dtype), e->C, e->dtype);
        else
            memcpy(y, word, (size_t)e->C * zero_dtype_size(e->dtype));
    }
}

/* out (columns [j, j + width) of one row) += the same columns of rows of dy: rows order[0 .. count), or without order
 * rows first, first + step, ... */
static void add_rows(const zero_nn_simd_t *simd, void *out, const void *dy, const int32_t *order, int64_t first,
                     int64_t step, int64_t count, int64_t C, int64_t j, int64_t width, zero_dtype_t dtype)
{
    float sum[COLUMNS] __attribute__((aligned(64)));
    simd->load(sum, out, width, dtype);
    for (int64_t i = 0; i < count; i++)
        simd->add(sum, element(dy, (order != NULL ? order[i] : first + i * step) * C + j, dtype), width, dtype);
    simd->store(out, sum, width, dtype);
}

static void cpu_embedding_backward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int64_t rows = e->B * e->T, C = e->C;
    int32_t *order = (int32_t *)nn->workspace;
    zero_nn_sort_tokens(order, order + rows, e->tokens, rows);
    int threads = zero_nn_threads(nn, rows * C / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(C, UNIT, threads, t, &begin, &end);
        for (int64_t j = begin; j < end; j += COLUMNS) {
            int64_t width = end - j < COLUMNS ? end - j : COLUMNS;
            for (int64_t i = 0, next; i < rows; i = next) {
                int64_t token = e->tokens[order[i]];
                for (next = i + 1; next < rows && e->tokens[order[next]] == token; next++)
                    continue;
                if (zero_nn_has_token(&e->tile, token))
                    add_rows(simd, element_out(e->dwte, (token - e->tile.first) * C + j, e->dtype), e->dy, order + i, 0,
                             0, next - i, C, j, width, e->dtype);
            }
            for (int64_t i = 0; i < e->T && e->dwpe != NULL; i++)
                add_rows(simd, element_out(e->dwpe, i * C + j, e->dtype), e->dy, NULL, i, e->T, e->B, C, j, width,
                         e->dtype);
        }
    }
}

static void cpu_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t count = l->rows * l->groups;
    int threads = zero_nn_threads(nn, count * l->C / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) {
        const int64_t from = zero_nn_norm_at(l, l->ldx, i);
        const void *x = element(l->x, from, l->dtype);
        void *y = element_out(l->y, zero_nn_norm_at(l, l->ldy, i), l->dtype);
        float *rstd = l->rstd == NULL ? NULL : l->rstd + i;
        if (l->residual != NULL) {
            void *total = element_out(l->total, from, l->dtype);
            simd->sum(total, x, element(l->residual, from, l->dtype), l->C, l->dtype);
            x = total;
        }
        if (l->rms)
            simd->rms(y, rstd, x, l->w, l->C, (float)l->eps, l->dtype);
        else
            simd->norm(y, l->mean == NULL ? NULL : l->mean + i, rstd, x, l->w, l->b, l->C, (float)l->eps, l->dtype);
    }
}

static void cpu_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int64_t C = l->C, width = zero_nn_up(C, 32), count = l->rows * l->groups;
    float *partial = (float *)nn->workspace; /* (threads, 2, width): dw, db */
    int threads = zero_nn_threads(nn, count * C / WORTH);
    if (l->dbias_residual != NULL) /* before dx overwrites it */
        cpu_bias_backward(nn, l->dbias_residual, l->dresidual, l->rows, C, l->dtype);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float *dw = partial + 2 * width * t, *db = dw + width;
        memset(dw, 0, 2 * (size_t)width * sizeof *dw);
        int64_t begin, end;
        zero_nn_part(count, 1, threads, t, &begin, &end);
        for (int64_t i = begin; i < end; i++) {
            const int64_t at = zero_nn_norm_at(l, l->ldx, i);
            const void *residual = l->dresidual == NULL ? NULL : element(l->dresidual, at, l->dtype);
            const void *x = element(l->x, at, l->dtype), *dy = element(l->dy, zero_nn_norm_at(l, l->ldy, i), l->dtype);
            void *dx = element_out(l->dx, at, l->dtype);
            if (l->rms)
                simd->rms_grad(dx, dw, residual, dy, x, l->w, l->rstd[i], C, l->dtype);
            else
                simd->norm_grad(dx, dw, db, residual, dy, x, l->w, l->mean[i], l->rstd[i], C, l->dtype);
        }
    }
    for (int t = 1; t < threads; t++)
        simd->add(partial, partial + 2 * width * t, 2 * width, ZERO_FP32);
    void *out[2] = {l->dw, l->db};
    for (int i = 0; i < (l->rms ? 1 : 2); i++) {
        if (out[i] == NULL)
            continue;
        simd->add(partial + i * width, out[i], C, l->dtype);
        simd->store(out[i], partial + i * width, C, l->dtype);
    }
    if (l->dbias != NULL)
        cpu_bias_backward(nn, l->dbias, l->dx, l->rows, C, l->dtype);
}

static void cpu_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                            zero_dtype_t dtype)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(count, UNIT, threads, t, &begin, &end);
        simd->act(act, element_out(y, begin, dtype), element(x, begin, dtype), end - begin, dtype);
    }
}

static void cpu_act_backward(zero_nn_t *nn, const zero_nn_act_grad_t *a)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t count = a->rows * a->n;
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(count, UNIT, threads, t, &begin, &end);
        simd->act_grad(a->act, element_out(a->dx, begin, a->dtype), element(a->dy, begin, a->dtype),
                       element(a->x, begin, a->dtype), end - begin, a->dtype);
    }
    if (a->dbias != NULL)
        cpu_bias_backward(nn, a->dbias, a->dx, a->rows, a->n, a->dtype);
}

/* The pieces of the rows of a gated activation: columns [*j, *j + *width) of row *r are piece i. */
#define GATED_COLUMNS 4096
static int64_t gated_pieces(const zero_nn_gated_t *g)
{
    return g->rows * ((g->F + GATED_COLUMNS - 1) / GATED_COLUMNS);
}
static void gated_piece(const zero_nn_gated_t *g, int64_t i, int64_t *r, int64_t *j, int64_t *width)
{
    const int64_t pieces = (g->F + GATED_COLUMNS - 1) / GATED_COLUMNS;
    *r = i / pieces;
    *j = i % pieces * GATED_COLUMNS;
    *width = g->F - *j < GATED_COLUMNS ? g->F - *j : GATED_COLUMNS;
}

static void cpu_gated_forward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t pieces = gated_pieces(g);
    int threads = zero_nn_threads(nn, g->rows * g->F / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t r, j, width;
        gated_piece(g, i, &r, &j, &width);
        const int64_t gate = 2 * r * g->F + j;
        simd->gated(g->act, element_out(g->y, r * g->F + j, g->dtype), element(g->gu, gate, g->dtype),
                    element(g->gu, gate + g->F, g->dtype), width, g->dtype);
    }
}

static void cpu_gated_backward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t pieces = gated_pieces(g);
    int threads = zero_nn_threads(nn, g->rows * g->F / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < pieces; i++) {
        int64_t r, j, width;
        gated_piece(g, i, &r, &j, &width);
        const int64_t gate = 2 * r * g->F + j, up = gate + g->F;
        simd->gated_grad(g->act, element_out(g->dgu, gate, g->dtype), element_out(g->dgu, up, g->dtype),
                         element(g->dy, r * g->F + j, g->dtype), element(g->gu, gate, g->dtype),
                         element(g->gu, up, g->dtype), width, g->dtype);
    }
}

/* All heads of a row share its cosines and sines. */
static void cpu_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t half = r->R / 2;
    const float scale = (float)r->scale;
    int threads = zero_nn_threads(nn, r->rows * r->heads * r->D / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < r->rows; row++) {
        float cosine[ZERO_NN_ROTARY_MOST / 2], sine[ZERO_NN_ROTARY_MOST / 2];
        const float position = (float)(r->positions != NULL ? r->positions[row] : row % r->T);
        for (int64_t i = 0; i < half; i++) {
            float angle = position * r->frequencies[i], s = sinf(angle) * scale;
            cosine[i] = cosf(angle) * scale;
            sine[i] = r->backward ? -s : s;
        }
        for (int64_t h = 0; h < r->heads; h++) {
            const int64_t at = row * r->ld + h * r->D;
            simd->rotate(element_out(r->x, at, r->dtype), element_out(r->x, at + half, r->dtype), cosine, sine, half,
                         r->dtype);
        }
    }
}

static void cpu_put_rows(zero_nn_t *nn, const zero_nn_put_t *p)
{
    const size_t bytes = (size_t)p->C * zero_dtype_size(p->dtype);
    int threads = zero_nn_threads(nn, p->rows * p->C / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < p->rows; r++)
        memcpy(element_out(p->y, p->at[r] * p->ldy, p->dtype), element(p->x, r * p->ldx, p->dtype), bytes);
}

static void cpu_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(count, UNIT, threads, t, &begin, &end);
        simd->sum(element_out(y, begin, dtype), element(a, begin, dtype), element(b, begin, dtype), end - begin, dtype);
    }
}

static void cpu_scale(zero_nn_t *nn, void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(count, UNIT, threads, t, &begin, &end);
        for (int64_t j = begin; j < end; j += COLUMNS) {
            int64_t width = end - j < COLUMNS ? end - j : COLUMNS;
            float values[COLUMNS] __attribute__((aligned(64)));
            simd->load(values, element(x, j, dtype), width, dtype);
            simd->scale(values, values, factor, width);
            simd->store(element_out(y, j, dtype), values, width, dtype);
        }
    }
}

static void cpu_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        int64_t begin, end;
        zero_nn_part(count, UNIT, threads, t, &begin, &end);
        for (int64_t j = begin; j < end; j += COLUMNS) {
            int64_t width = end - j < COLUMNS ? end - j : COLUMNS;
            float sum[COLUMNS] __attribute__((aligned(64)));
            memcpy(sum, sums + j, (size_t)width * sizeof *sum);
            simd->add(sum, element(y, j, dtype), width, dtype);
            simd->store(element_out(y, j, dtype), sum, width, dtype);
        }
    }
}

/* The stats of row r, whose target is not ignored. */
static void entropy_stats(const zero_nn_simd_t *simd, const zero_nn_entropy_t *e, int64_t r, float stats[3])
{
    const int64_t target = zero_nn_entropy_column(e, r);
    stats[1] = simd->entropy_sum(element(e->logits, r * e->ld, e->dtype), e->V, &stats[0], e->dtype);
    stats[2] = target < 0 ? 0 : zero_element(e->logits, r * e->ld + target, e->dtype);
}

/* The loss of row r, and its gradient if e->grad; stats NULL: its target is ignored. */
static void entropy_end(const zero_nn_simd_t *simd, const zero_nn_entropy_t *e, int64_t r, const float *stats)
{
    e->losses[r] = stats == NULL ? 0 : zero_nn_entropy_loss(stats);
    if (!e->grad || e->V == 0)
        return;
    void *logits = element_out(e->logits, r * e->ld, e->dtype);
    if (stats == NULL)
        memset(logits, 0, (size_t)e->V * zero_dtype_size(e->dtype));
    else
        simd->entropy_grad(logits, zero_nn_entropy_column(e, r), e->V, stats[0], stats[1], e->scale, e->dtype);
}

static void cpu_cross_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, e->rows * e->V / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < e->rows; r++) {
        const bool ignored = e->targets[r] == ZERO_NN_IGNORE;
        float stats[3];
        if (!ignored)
            entropy_stats(simd, e, r, stats);
        entropy_end(simd, e, r, ignored ? NULL : stats);
    }
}

static void cpu_entropy_local(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, e->rows * e->V / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < e->rows; r++) {
        float *stats = e->stats + 3 * r;
        stats[0] = -INFINITY;
        stats[1] = stats[2] = 0;
        if (e->targets[r] != ZERO_NN_IGNORE && e->V > 0)
            entropy_stats(simd, e, r, stats);
    }
}

static void cpu_entropy_combine(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int threads = zero_nn_threads(nn, e->rows * e->V / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < e->rows; r++) {
        float total[3];
        zero_nn_entropy_total(e, r, total);
        entropy_end(simd, e, r, e->targets[r] == ZERO_NN_IGNORE ? NULL : total);
    }
}

static void cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    zero_nn_cpu_attention_backward(nn, a, g);
    if (g->dbias != NULL)
        cpu_bias_backward(nn, g->dbias, g->dq, a->B * a->T, zero_nn_attention_width(a->H, a->KV, a->D), a->dtype);
}

static void cpu_combine(zero_nn_t *nn, float *y, float alpha, const float *a, float beta, const float *b, int64_t count)
{
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = alpha * a[i] + beta * b[i];
}

static void cpu_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, float least)
{
    int64_t n = zero_nn_square_blocks(count);
    double *blocks = (double *)(void *)nn->workspace; /* (n) */
    int threads = zero_nn_threads(nn, count / WORTH);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t b = 0; b < n; b++)
        blocks[b] = zero_nn_square_block(x, count, b);
    float inverse = zero_nn_inverse_norm(blocks, n, least);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++)
        y[i] = x[i] * inverse;
}

const zero_nn_ops_t zero_nn_cpu_ops = {
    .name = "cpu",
    .sizes = ZERO_NN_CPU_SIZES,
    .open = cpu_open,
    .close = cpu_close,
    .plan = cpu_plan,
    .unplan = cpu_unplan,
    .maker = cpu_maker,
    .gemm = cpu_gemm,
    .bias_backward = cpu_bias_backward,
    .embedding_forward = cpu_embedding_forward,
    .embedding_backward = cpu_embedding_backward,
    .norm_forward = cpu_norm_forward,
    .norm_backward = cpu_norm_backward,
    .act_forward = cpu_act_forward,
    .act_backward = cpu_act_backward,
    .gated_forward = cpu_gated_forward,
    .gated_backward = cpu_gated_backward,
    .rotary = cpu_rotary,
    .put_rows = cpu_put_rows,
    .add = cpu_add,
    .scale = cpu_scale,
    .add_sums = cpu_add_sums,
    .attention_forward = zero_nn_cpu_attention_forward,
    .attention_backward = cpu_attention_backward,
    .cross_entropy = cpu_cross_entropy,
    .entropy_local = cpu_entropy_local,
    .entropy_combine = cpu_entropy_combine,
    .combine = cpu_combine,
    .normalize = cpu_normalize,
};
