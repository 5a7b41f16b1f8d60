/* SPDX-License-Identifier: Apache-2.0 */
/* row.c - products of one row and attention of one query, which sampling with a cache consists of. They read weights,
 * keys and values once, so memory limits them: nothing is packed or copied first. Each thread computes its own elements
 * or heads, so no sum depends on the number of threads. bench/sample.sh measures a whole sample. */
#include "kernels/nn/cpu/cpu.h"

/* The elements of C that a thread sums at a time, in its first-level cache, and the unit of division. */
#define COLUMNS 2048
#define UNIT 64
/* Elements of the matrix that are worth a thread. */
#define WORTH 16384

static const void *element(const void *p, int64_t i, zero_dtype_t dtype)
{
    return (const char *)p + (size_t)i * zero_dtype_size(dtype);
}

/* ---- products --------------------------------------------------------------------------------------------------- */

bool zero_nn_is_row(const zero_nn_shape_t *shape)
{
    return shape->d[0] == 1 && shape->d[2] > 0 && (shape->d[6] & ZERO_NN_TRANS_A) == 0;
}

uint64_t zero_nn_row_workspace(const zero_nn_shape_t *shape)
{
    return shape->dtype == ZERO_FP32 ? 0 : (uint64_t)shape->d[2] * sizeof(float);
}

void zero_nn_row_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const zero_dtype_t out = g->wide ? ZERO_FP32 : g->dtype;
    const int64_t units = (g->n + UNIT - 1) / UNIT, work = g->n * g->k / WORTH;
    const int threads = zero_nn_threads(nn, work < units ? work : units);
    const float *x = g->a;
    if (g->dtype != ZERO_FP32) {
        simd->load((float *)(void *)nn->workspace, g->a, g->k, g->dtype);
        x = (const float *)(void *)nn->workspace;
    }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float sum[COLUMNS] __attribute__((aligned(64)));
        int64_t begin, end;
        zero_nn_part(g->n, UNIT, threads, t, &begin, &end);
        for (int64_t j = begin; j < end; j += COLUMNS) {
            const int64_t n = end - j < COLUMNS ? end - j : COLUMNS;
            void *c = (void *)element(g->c, j, out);
            if (g->trans_b) {
                simd->dots(sum, x, element(g->b, j * g->ldb, g->dtype), g->ldb, n, g->k, g->dtype);
            } else {
                memset(sum, 0, (size_t)n * sizeof *sum);
                simd->into(sum, x, element(g->b, j, g->dtype), g->ldb, g->k, n, g->dtype);
            }
            if (g->bias != NULL)
                simd->add(sum, element(g->bias, j, g->dtype), n, g->dtype);
            if (g->accumulate)
                simd->add(sum, c, n, out);
            simd->store(c, sum, n, out);
        }
    }
}

/* ---- attention -------------------------------------------------------------------------------------------------- */

/* Floats of a thread: scores (S), the query and its output (D each). */
static int64_t query_floats(int64_t S, int64_t D)
{
    return zero_nn_up(S, 32) + 2 * zero_nn_up(D, 32);
}

uint64_t zero_nn_query_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    const int64_t *d = shape->d; /* B, 1, H, KV, D, strides, S */
    return (uint64_t)zero_nn_threads(nn, d[0] * d[2]) * (uint64_t)query_floats(d[8], d[4]) * sizeof(float);
}

/* Head h of the query of sequence b, in buffers of a thread. */
static void query_head(const zero_nn_simd_t *simd, const zero_nn_attention_t *a, int64_t b, int64_t h, float *scores)
{
    const int64_t D = a->D, kv = h / (a->H / a->KV);
    float *q = scores + zero_nn_up(a->S, 32), *out = q + zero_nn_up(D, 32), max = -INFINITY, sum = 0;
    int64_t begin, end;
    zero_nn_attention_seen(a, b, 0, &begin, &end);
    memset(out, 0, (size_t)D * sizeof *out);
    if (begin < end) {
        const int64_t first = b * a->S + begin, keys = end - begin;
        simd->load(q, element(a->q, b * a->q_stride + h * D, a->dtype), D, a->dtype);
        simd->scale(q, q, (float)a->scale, D);
        simd->dots(scores, q, element(a->k, first * a->k_stride + kv * D, a->dtype), a->k_stride, keys, D, a->dtype);
        sum = simd->softmax_row(scores, keys, &max);
        simd->into(out, scores, element(a->v, first * a->v_stride + kv * D, a->dtype), a->v_stride, keys, D, a->dtype);
        simd->scale(out, out, 1.0f / sum, D);
    }
    simd->store((void *)element(a->out, (b * a->H + h) * D, a->dtype), out, D, a->dtype);
    if (a->lse != NULL)
        a->lse[b * a->H + h] = max + logf(sum);
}

void zero_nn_query_attention(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    const int64_t heads = a->B * a->H, work = heads * a->S * a->D / WORTH;
    const int threads = zero_nn_threads(nn, work < heads ? work : heads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        float *scores = (float *)(void *)nn->workspace + t * query_floats(a->S, a->D);
        int64_t begin, end;
        zero_nn_part(heads, 1, threads, t, &begin, &end);
        for (int64_t i = begin; i < end; i++)
            query_head(simd, a, i / a->H, i % a->H, scores);
    }
}
