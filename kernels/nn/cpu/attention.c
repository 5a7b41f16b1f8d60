/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - attention in blocks of 64 queries by 64 keys (Dao et al. 2022). Scores are stored transposed, with keys
 * down and queries along the vectors, so the softmax needs no sums across lanes. Causal attention skips blocks above
 * the diagonal and half of each block on it. All arithmetic is fp32. A thread computes whole heads (forward: or every
 * n-th block of queries of a head), always in the same order. */
#include "kernels/nn/cpu/cpu.h"

#include <math.h>

#define BLOCK ZERO_NN_BLOCK
#define STRIP 8 /* rows that are computed together in a block on the diagonal */

/* Constants for all blocks of a call. */
typedef struct shape {
    const zero_nn_simd_t *simd;
    int64_t T, D, width, blocks; /* width: D with padding; blocks: of queries or keys */
} shape_t;

static shape_t shape_make(const zero_nn_t *nn, int64_t T, int64_t D)
{
    return (shape_t){.simd = zero_nn_simd(nn),
                     .T = T,
                     .D = D,
                     .width = zero_nn_up(D, ZERO_NN_LANES),
                     .blocks = (T + BLOCK - 1) / BLOCK};
}

/* Floats of a block of rows (BLOCK, width), of a transposed block (D, BLOCK), of a block of scores. */
static int64_t rows_size(const shape_t *s)
{
    return BLOCK * s->width;
}
static int64_t turned_size(const shape_t *s)
{
    return zero_nn_up(s->D, ZERO_NN_LANES) * BLOCK;
}
#define SCORES (BLOCK * BLOCK)

/* The buffers of a thread. turned: transposed blocks. */
typedef struct buffers {
    float *k_turned, *v_turned, *k, *v; /* of all blocks of keys */
    float *dk, *dv;                     /* backward: of all blocks of keys */
    float *q, *q_turned, *dout, *dout_turned, *out, *scores, *dp;
    float *max, *sum, *factor; /* (BLOCK); backward: lse, delta */
} buffers_t;

/* Lays out the buffers from base and returns their total floats. base may be NULL to get only the size. */
static int64_t buffers_lay(buffers_t *b, const shape_t *s, bool backward, float *base)
{
    int64_t at = 0, all_rows = s->blocks * rows_size(s), all_turned = s->blocks * turned_size(s);
    struct {
        float **buffer;
        int64_t floats;
    } list[] = {
        {&b->k_turned, all_turned},
        {&b->v_turned, backward ? all_turned : 0},
        {&b->k, backward ? all_rows : 0},
        {&b->v, all_rows},
        {&b->dk, backward ? all_rows : 0},
        {&b->dv, backward ? all_rows : 0},
        {&b->q, rows_size(s)},
        {&b->q_turned, turned_size(s)},
        {&b->dout, backward ? rows_size(s) : 0},
        {&b->out, rows_size(s)},
        {&b->dout_turned, backward ? turned_size(s) : 0},
        {&b->scores, SCORES},
        {&b->dp, backward ? SCORES : 0},
        {&b->max, BLOCK},
        {&b->sum, BLOCK},
        {&b->factor, BLOCK},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        *list[i].buffer = base == NULL ? NULL : base + at;
        at += list[i].floats;
    }
    return at;
}

/* Forward: the number of threads that share the blocks of queries of one head. */
static int64_t splits_of(const zero_nn_t *nn, int64_t heads, int64_t blocks)
{
    int64_t splits = (4 * nn->threads + heads - 1) / heads;
    return nn->threads == 1 ? 1 : splits < blocks ? splits : blocks;
}

uint64_t zero_nn_cpu_attention_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    const int64_t *d = shape->d; /* B, T, H, KV, D */
    bool backward = shape->op == ZERO_NN_ATTN_BACKWARD;
    shape_t s = shape_make(nn, d[1], d[4]);
    int64_t items = backward ? d[0] * d[3] : d[0] * d[2] * splits_of(nn, d[0] * d[2], s.blocks);
    buffers_t b;
    return (uint64_t)zero_nn_threads(nn, items) * (uint64_t)buffers_lay(&b, &s, backward, NULL) * sizeof(float);
}

static const void *element(const void *p, int64_t i, zero_dtype_t dtype)
{
    return (const char *)p + (size_t)i * zero_dtype_size(dtype);
}

/* Converts rows of a head, stride elements apart, to fp32 rows (BLOCK, width), times scale. Fills with zeros below
 * count and right of D. */
static void rows_read(const shape_t *s, float *rows, const void *head, int64_t stride, int64_t count, float scale,
                      zero_dtype_t dtype)
{
    if (count < BLOCK || s->width > s->D)
        memset(rows, 0, (size_t)rows_size(s) * sizeof *rows);
    for (int64_t t = 0; t < count; t++) {
        s->simd->load(rows + t * s->width, element(head, t * stride, dtype), s->D, dtype);
        if (scale != 1.0f)
            s->simd->scale(rows + t * s->width, rows + t * s->width, scale, s->D);
    }
}

/* The transpose (D, BLOCK) of rows (BLOCK, width). */
static void rows_turn(const shape_t *s, float *turned, const float *rows)
{
    for (int64_t d = 0; d < s->D; d++)
        for (int64_t t = 0; t < BLOCK; t++)
            turned[d * BLOCK + t] = rows[t * s->width + d];
}

/* Scores (keys, queries) = K Q' from transposed blocks; also dP' = V dout'. On the diagonal only the elements at or
 * below it. */
static void scores_product(const shape_t *s, float *scores, const float *k_turned, const float *q_turned, int64_t keys,
                           bool diagonal)
{
    if (!diagonal) {
        s->simd->block(scores, BLOCK, k_turned, true, q_turned, BLOCK, keys, BLOCK, s->D, false);
        return;
    }
    for (int64_t i = 0; i < keys; i += STRIP) {
        int64_t rows = keys - i < STRIP ? keys - i : STRIP, j = i / ZERO_NN_LANES * ZERO_NN_LANES;
        s->simd->block(scores + i * BLOCK + j, BLOCK, k_turned + i, true, q_turned + j, BLOCK, rows, BLOCK - j, s->D,
                       false);
    }
}

/* out (queries, width) = or += scores' (queries, keys) values (keys, width): for the output and dQ. */
static void queries_product(const shape_t *s, float *out, const float *scores, const float *values, int64_t queries,
                            int64_t keys, bool diagonal, bool add)
{
    if (!diagonal) {
        s->simd->block(out, s->width, scores, true, values, s->width, queries, s->width, keys, add);
        return;
    }
    for (int64_t i = 0; i < queries; i += STRIP) {
        int64_t rows = queries - i < STRIP ? queries - i : STRIP, seen = i + rows < keys ? i + rows : keys;
        s->simd->block(out + i * s->width, s->width, scores + i, true, values, s->width, rows, s->width, seen, add);
    }
}

/* out (keys, width) += scores (keys, queries) values (queries, width): for dV and dK. */
static void keys_product(const shape_t *s, float *out, const float *scores, const float *values, int64_t keys,
                         int64_t queries, bool diagonal)
{
    if (!diagonal) {
        s->simd->block(out, s->width, scores, false, values, s->width, keys, s->width, queries, true);
        return;
    }
    for (int64_t i = 0; i < keys; i += STRIP) {
        int64_t rows = keys - i < STRIP ? keys - i : STRIP;
        s->simd->block(out + i * s->width, s->width, scores + i * BLOCK + i, false, values + i * s->width, s->width,
                       rows, s->width, queries - i, true);
    }
}

static int64_t block_count(const shape_t *s, int64_t block)
{
    return s->T - block * BLOCK < BLOCK ? s->T - block * BLOCK : BLOCK;
}

/* Reads all keys and values of one head. */
static void keys_read(const shape_t *s, const buffers_t *b, const zero_nn_attention_t *a, int64_t batch, int64_t kv,
                      bool backward)
{
    for (int64_t i = 0; i < s->blocks; i++) {
        int64_t row = batch * s->T + i * BLOCK, count = block_count(s, i);
        const void *k = element(a->k, row * a->k_stride + kv * s->D, a->dtype),
                   *v = element(a->v, row * a->v_stride + kv * s->D, a->dtype);
        float *rows = backward ? b->k + i * rows_size(s) : b->q; /* forward needs only the transpose */
        rows_read(s, rows, k, a->k_stride, count, 1.0f, a->dtype);
        rows_turn(s, b->k_turned + i * turned_size(s), rows);
        rows_read(s, b->v + i * rows_size(s), v, a->v_stride, count, 1.0f, a->dtype);
        if (backward)
            rows_turn(s, b->v_turned + i * turned_size(s), b->v + i * rows_size(s));
    }
}

static void forward_block(const shape_t *s, const buffers_t *b, const zero_nn_attention_t *a, int64_t batch, int64_t h,
                          int64_t block)
{
    int64_t row = batch * s->T + block * BLOCK, queries = block_count(s, block);
    rows_read(s, b->q, element(a->q, row * a->q_stride + h * s->D, a->dtype), a->q_stride, queries, (float)a->scale,
              a->dtype);
    rows_turn(s, b->q_turned, b->q);
    for (int64_t t = 0; t < BLOCK; t++) {
        b->max[t] = -INFINITY;
        b->sum[t] = 0;
    }
    for (int64_t i = 0; i < (a->causal ? block + 1 : s->blocks); i++) {
        int64_t keys = block_count(s, i);
        bool diagonal = a->causal && i == block;
        scores_product(s, b->scores, b->k_turned + i * turned_size(s), b->q_turned, keys, diagonal);
        s->simd->softmax(b->scores, b->max, b->sum, b->factor, keys, diagonal);
        for (int64_t t = 0; t < queries && i > 0; t++)
            s->simd->scale(b->out + t * s->width, b->out + t * s->width, b->factor[t], s->width);
        queries_product(s, b->out, b->scores, b->v + i * rows_size(s), queries, keys, diagonal, i > 0);
    }
    for (int64_t t = 0; t < queries; t++) {
        s->simd->scale(b->out + t * s->width, b->out + t * s->width, 1.0f / b->sum[t], s->width);
        s->simd->store((void *)element(a->out, ((row + t) * a->H + h) * s->D, a->dtype), b->out + t * s->width, s->D,
                       a->dtype);
        if (a->lse != NULL)
            a->lse[(batch * a->H + h) * s->T + block * BLOCK + t] = b->max[t] + logf(b->sum[t]);
    }
}

void zero_nn_cpu_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    shape_t s = shape_make(nn, a->T, a->D);
    buffers_t size;
    int64_t floats = buffers_lay(&size, &s, false, NULL), group = a->H / a->KV;
    int64_t splits = splits_of(nn, a->B * a->H, s.blocks), items = a->B * a->H * splits;
    int threads = zero_nn_threads(nn, items);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        buffers_t b;
        buffers_lay(&b, &s, false, (float *)nn->workspace + t * floats);
        int64_t begin, end, held = -1;
        zero_nn_part(items, 1, threads, t, &begin, &end);
        for (int64_t item = begin; item < end; item++) {
            int64_t head = item / splits, batch = head / a->H, h = head % a->H, kv = h / group;
            if (held != batch * a->KV + kv)
                keys_read(&s, &b, a, batch, kv, false);
            held = batch * a->KV + kv;
            for (int64_t block = item % splits; block < s.blocks; block += splits)
                forward_block(&s, &b, a, batch, h, block);
        }
    }
}

/* For delta: the sum of dout * out over a row of D elements, in sixteen interleaved sums. */
static float rows_dot(const float *x, const float *y, int64_t width)
{
    float sum[ZERO_NN_LANES] = {0};
    for (int64_t d = 0; d < width; d += ZERO_NN_LANES)
        for (int i = 0; i < ZERO_NN_LANES; i++)
            sum[i] += x[d + i] * y[d + i];
    for (int half = ZERO_NN_LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return sum[0];
}

/* Adds the contribution of one block of queries of head h to dk and dv, and computes its dq. */
static void backward_block(const shape_t *s, const buffers_t *b, const zero_nn_attention_t *a,
                           const zero_nn_attention_grad_t *g, int64_t batch, int64_t h, int64_t block)
{
    int64_t row = batch * s->T + block * BLOCK, queries = block_count(s, block), out = (row * a->H + h) * s->D,
            stride = a->H * s->D;
    float *lse = b->max, *delta = b->sum, *dq = b->out;
    rows_read(s, b->dout, element(g->dout, out, a->dtype), stride, queries, 1.0f, a->dtype);
    rows_turn(s, b->dout_turned, b->dout);
    rows_read(s, b->q, element(a->out, out, a->dtype), stride, queries, 1.0f, a->dtype);
    for (int64_t t = 0; t < BLOCK; t++) {
        lse[t] = t < queries ? a->lse[(batch * a->H + h) * s->T + block * BLOCK + t] : 0;
        delta[t] = rows_dot(b->dout + t * s->width, b->q + t * s->width, s->width);
    }
    rows_read(s, b->q, element(a->q, row * a->q_stride + h * s->D, a->dtype), a->q_stride, queries, (float)a->scale,
              a->dtype);
    rows_turn(s, b->q_turned, b->q);
    for (int64_t i = 0; i < (a->causal ? block + 1 : s->blocks); i++) {
        int64_t keys = block_count(s, i), rows = i * rows_size(s), turned = i * turned_size(s);
        bool diagonal = a->causal && i == block;
        scores_product(s, b->scores, b->k_turned + turned, b->q_turned, keys, diagonal);
        scores_product(s, b->dp, b->v_turned + turned, b->dout_turned, keys, diagonal);
        s->simd->softmax_grad(b->scores, b->dp, lse, delta, keys, diagonal);
        keys_product(s, b->dv + rows, b->scores, b->dout, keys, queries, diagonal);
        keys_product(s, b->dk + rows, b->dp, b->q, keys, queries, diagonal);
        queries_product(s, dq, b->dp, b->k + rows, queries, keys, diagonal, i > 0);
    }
    for (int64_t t = 0; t < queries; t++) {
        s->simd->scale(dq + t * s->width, dq + t * s->width, (float)a->scale, s->width);
        s->simd->store((void *)element(g->dq, (row + t) * a->q_stride + h * s->D, a->dtype), dq + t * s->width, s->D,
                       a->dtype);
    }
}

void zero_nn_cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    shape_t s = shape_make(nn, a->T, a->D);
    buffers_t size;
    int64_t floats = buffers_lay(&size, &s, true, NULL), group = a->H / a->KV, items = a->B * a->KV;
    int threads = zero_nn_threads(nn, items);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        buffers_t b;
        buffers_lay(&b, &s, true, (float *)nn->workspace + t * floats);
        int64_t begin, end;
        zero_nn_part(items, 1, threads, t, &begin, &end);
        for (int64_t item = begin; item < end; item++) {
            int64_t batch = item / a->KV, kv = item % a->KV;
            keys_read(&s, &b, a, batch, kv, true);
            memset(b.dk, 0, (size_t)(s.blocks * rows_size(&s)) * sizeof *b.dk);
            memset(b.dv, 0, (size_t)(s.blocks * rows_size(&s)) * sizeof *b.dv);
            for (int64_t h = kv * group; h < (kv + 1) * group; h++)
                for (int64_t block = 0; block < s.blocks; block++)
                    backward_block(&s, &b, a, g, batch, h, block);
            for (int64_t r = 0; r < s.T; r++) {
                int64_t row = batch * s.T + r;
                s.simd->store((void *)element(g->dk, row * a->k_stride + kv * s.D, a->dtype), b.dk + r * s.width, s.D,
                              a->dtype);
                s.simd->store((void *)element(g->dv, row * a->v_stride + kv * s.D, a->dtype), b.dv + r * s.width, s.D,
                              a->dtype);
            }
        }
    }
}
