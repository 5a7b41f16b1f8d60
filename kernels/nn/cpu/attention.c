/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - attention in blocks of 64 queries by 64 keys (Dao et al. 2022). Scores are stored transposed, with keys
 * down and queries along the vectors, so the softmax needs no sums across lanes. The code skips blocks that no query
 * sees, and most of the hidden elements of the others: half of a block on the diagonal. All arithmetic is fp32. A
 * thread computes whole heads, or some blocks of queries of a head, in an order that depends on the shape and the
 * threads. */
#include "kernels/nn/cpu/cpu.h"

#include <math.h>

#define BLOCK ZERO_NN_BLOCK
#define STRIP 8 /* rows that are computed together in a block on the diagonal */

/* Constants for all blocks of a call. */
typedef struct shape {
    const zero_nn_simd_t *simd;
    int64_t T, S, D, width;     /* width: D with padding */
    int64_t blocks, key_blocks; /* of queries, of keys */
} shape_t;

static shape_t shape_make(const zero_nn_t *nn, int64_t T, int64_t S, int64_t D)
{
    return (shape_t){.simd = zero_nn_simd(nn),
                     .T = T,
                     .S = S,
                     .D = D,
                     .width = zero_nn_up(D, ZERO_NN_LANES),
                     .blocks = (T + BLOCK - 1) / BLOCK,
                     .key_blocks = (S + BLOCK - 1) / BLOCK};
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
    float *dk[2], *dv[2];               /* backward: of all blocks of keys (see backward_item) */
    float *q, *q_turned, *dout, *dout_turned, *out, *scores, *dp;
    float *max, *sum, *factor; /* (BLOCK); backward: lse, delta */
} buffers_t;

/* Lays out the buffers from base and returns their total floats. base may be NULL to get only the size. gradients: how
 * many of dk and dv there are; 0: forward. */
static int64_t buffers_lay(buffers_t *b, const shape_t *s, int gradients, float *base)
{
    const bool backward = gradients > 0;
    int64_t at = 0, all_rows = s->key_blocks * rows_size(s), all_turned = s->key_blocks * turned_size(s);
    struct {
        float **buffer;
        int64_t floats;
    } list[] = {
        {&b->k_turned, all_turned},
        {&b->v_turned, backward ? all_turned : 0},
        {&b->k, backward ? all_rows : 0},
        {&b->v, all_rows},
        {&b->dk[0], backward ? all_rows : 0},
        {&b->dv[0], backward ? all_rows : 0},
        {&b->dk[1], gradients > 1 ? all_rows : 0},
        {&b->dv[1], gradients > 1 ? all_rows : 0},
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

/* Forward: the number of parts that the blocks of queries of one head are divided into. */
static int64_t forward_parts(const zero_nn_t *nn, int64_t heads, int64_t blocks)
{
    int64_t parts = (4 * nn->threads + heads - 1) / heads;
    return nn->threads == 1 ? 1 : parts < blocks ? parts : blocks;
}

/* Backward: likewise for the heads that share a key head. One part, unless threads would wait for others: its sums have
 * the bits of one thread. */
static int64_t backward_parts(const zero_nn_t *nn, int64_t key_heads, int64_t blocks)
{
    int64_t parts = (8 * nn->threads + key_heads - 1) / key_heads;
    if (key_heads % nn->threads == 0 || key_heads >= 4 * nn->threads)
        return 1;
    return parts < blocks ? parts : blocks;
}

/* Whether a block belongs to a part. Each part has early and late blocks, because late ones of causal attention take
 * longer. */
static bool part_has(int64_t part, int64_t parts, int64_t block)
{
    int64_t at = block % (2 * parts);
    return at == part || at == 2 * parts - 1 - part;
}

uint64_t zero_nn_cpu_attention_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    const int64_t *d = shape->d; /* B, T, H, KV, D, strides, S */
    const bool backward = shape->op == ZERO_NN_ATTN_BACKWARD;
    if (!backward && d[1] == 1)
        return zero_nn_query_workspace(nn, shape);
    const shape_t s = shape_make(nn, d[1], d[8], d[4]);
    const int64_t heads = d[0] * (backward ? d[3] : d[2]),
                  parts = backward ? backward_parts(nn, heads, s.blocks) : forward_parts(nn, heads, s.blocks);
    buffers_t b;
    return (uint64_t)zero_nn_threads(nn, heads * parts) *
           (uint64_t)buffers_lay(&b, &s,
                                 !backward   ? 0
                                 : parts > 1 ? 2
                                             : 1,
                                 NULL) *
           sizeof(float);
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

/* ---- what queries see ------------------------------------------------------------------------------------------- */

/* The keys [begin, end) that each query of a block sees. The rows below the last query repeat it. Blocks of keys
 * outside [first, last) are seen by no query. */
typedef struct view {
    int64_t begin[BLOCK], end[BLOCK];
    int64_t first, last;
} view_t;

static void view_make(view_t *v, const zero_nn_attention_t *a, int64_t batch, int64_t block, int64_t queries)
{
    for (int64_t t = 0; t < BLOCK; t++)
        zero_nn_attention_seen(a, batch, block * BLOCK + (t < queries ? t : queries - 1), &v->begin[t], &v->end[t]);
    v->first = v->begin[0] / BLOCK;
    v->last = (v->end[BLOCK - 1] + BLOCK - 1) / BLOCK;
}

/* What the queries see of one block of keys. Strip i of its keys is seen by no query outside [first[i], last[i]). */
typedef struct mask {
    zero_nn_seen_t seen;
    int64_t first[BLOCK / STRIP], last[BLOCK / STRIP];
} mask_t;

static int64_t within(int64_t x, int64_t most)
{
    return x < 0 ? 0 : x < most ? x : most;
}

/* Returns NULL if all queries see all keys, and m otherwise. */
static const mask_t *mask_make(mask_t *m, const view_t *v, int64_t block, int64_t keys)
{
    const int64_t k0 = block * BLOCK;
    if (v->begin[BLOCK - 1] <= k0 && v->end[0] >= k0 + keys)
        return NULL;
    for (int64_t t = 0; t < BLOCK; t++) {
        m->seen.begin[t] = (int32_t)within(v->begin[t] - k0, keys);
        m->seen.end[t] = (int32_t)within(v->end[t] - k0, keys);
    }
    int64_t first = 0, last = 0;
    for (int64_t i = 0; i * STRIP < keys; i++) {
        while (first < BLOCK && m->seen.end[first] <= i * STRIP)
            first++;
        while (last < BLOCK && m->seen.begin[last] < (i + 1) * STRIP)
            last++;
        m->first[i] = first;
        m->last[i] = last;
    }
    return m;
}

/* ---- products of blocks ----------------------------------------------------------------------------------------- */

/* Scores (keys, queries) = K Q' from transposed blocks; also dP' = V dout'. With a mask only the elements that are
 * seen, and some others. */
static void scores_product(const shape_t *s, float *scores, const float *k_turned, const float *q_turned, int64_t keys,
                           const mask_t *mask)
{
    if (mask == NULL) {
        s->simd->block(scores, BLOCK, k_turned, true, q_turned, BLOCK, keys, BLOCK, s->D, false);
        return;
    }
    for (int64_t i = 0; i < keys; i += STRIP) {
        int64_t rows = keys - i < STRIP ? keys - i : STRIP, first = mask->first[i / STRIP],
                last = mask->last[i / STRIP], j = first / ZERO_NN_LANES * ZERO_NN_LANES;
        if (first < last)
            s->simd->block(scores + i * BLOCK + j, BLOCK, k_turned + i, true, q_turned + j, BLOCK, rows,
                           zero_nn_up(last, ZERO_NN_LANES) - j, s->D, false);
    }
}

/* out (queries, width) = or += scores' (queries, keys) values (keys, width): for the output and dQ. */
static void queries_product(const shape_t *s, float *out, const float *scores, const float *values, int64_t queries,
                            int64_t keys, const mask_t *mask, bool add)
{
    if (mask == NULL) {
        s->simd->block(out, s->width, scores, true, values, s->width, queries, s->width, keys, add);
        return;
    }
    for (int64_t i = 0; i < queries; i += STRIP) {
        int64_t rows = queries - i < STRIP ? queries - i : STRIP, first = mask->seen.begin[i],
                count = mask->seen.end[i + rows - 1] - first;
        s->simd->block(out + i * s->width, s->width, scores + first * BLOCK + i, true, values + first * s->width,
                       s->width, rows, s->width, count < 0 ? 0 : count, add);
    }
}

/* out (keys, width) += scores (keys, queries) values (queries, width): for dV and dK. */
static void keys_product(const shape_t *s, float *out, const float *scores, const float *values, int64_t keys,
                         int64_t queries, const mask_t *mask)
{
    if (mask == NULL) {
        s->simd->block(out, s->width, scores, false, values, s->width, keys, s->width, queries, true);
        return;
    }
    for (int64_t i = 0; i < keys; i += STRIP) {
        int64_t rows = keys - i < STRIP ? keys - i : STRIP, first = mask->first[i / STRIP],
                last = within(mask->last[i / STRIP], queries);
        if (first < last)
            s->simd->block(out + i * s->width, s->width, scores + i * BLOCK + first, false, values + first * s->width,
                           s->width, rows, s->width, last - first, true);
    }
}

/* The rows of a block, of count rows in all. */
static int64_t block_rows(int64_t count, int64_t block)
{
    return count - block * BLOCK < BLOCK ? count - block * BLOCK : BLOCK;
}

/* Reads all keys and values of one head. */
static void keys_read(const shape_t *s, const buffers_t *b, const zero_nn_attention_t *a, int64_t batch, int64_t kv,
                      bool backward)
{
    for (int64_t i = 0; i < s->key_blocks; i++) {
        int64_t row = batch * s->S + i * BLOCK, count = block_rows(s->S, i);
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

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static void forward_block(const shape_t *s, const buffers_t *b, const zero_nn_attention_t *a, int64_t batch, int64_t h,
                          int64_t block)
{
    const int64_t row = batch * s->T + block * BLOCK, queries = block_rows(s->T, block);
    view_t view;
    mask_t space;
    view_make(&view, a, batch, block, queries);
    rows_read(s, b->q, element(a->q, row * a->q_stride + h * s->D, a->dtype), a->q_stride, queries, (float)a->scale,
              a->dtype);
    rows_turn(s, b->q_turned, b->q);
    for (int64_t t = 0; t < BLOCK; t++) {
        b->max[t] = -INFINITY;
        b->sum[t] = 0;
    }
    for (int64_t i = view.first; i < view.last; i++) {
        const int64_t keys = block_rows(s->S, i);
        const mask_t *mask = mask_make(&space, &view, i, keys);
        scores_product(s, b->scores, b->k_turned + i * turned_size(s), b->q_turned, keys, mask);
        s->simd->softmax(b->scores, b->max, b->sum, b->factor, keys, mask == NULL ? NULL : &mask->seen);
        for (int64_t t = 0; t < queries && i > view.first; t++)
            s->simd->scale(b->out + t * s->width, b->out + t * s->width, b->factor[t], s->width);
        queries_product(s, b->out, b->scores, b->v + i * rows_size(s), queries, keys, mask, i > view.first);
    }
    for (int64_t t = 0; t < queries; t++) {
        float *out = b->out + t * s->width;
        if (view.begin[t] < view.end[t])
            s->simd->scale(out, out, 1.0f / b->sum[t], s->width);
        else
            memset(out, 0, (size_t)s->width * sizeof *out);
        s->simd->store((void *)element(a->out, ((row + t) * a->H + h) * s->D, a->dtype), out, s->D, a->dtype);
        if (a->lse != NULL)
            a->lse[(batch * a->H + h) * s->T + block * BLOCK + t] = b->max[t] + logf(b->sum[t]);
    }
}

void zero_nn_cpu_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    if (a->T == 1) {
        zero_nn_query_attention(nn, a);
        return;
    }
    const shape_t s = shape_make(nn, a->T, a->S, a->D);
    buffers_t size;
    const int64_t floats = buffers_lay(&size, &s, 0, NULL), group = a->H / a->KV;
    const int64_t parts = forward_parts(nn, a->B * a->H, s.blocks), items = a->B * a->H * parts;
    const int threads = zero_nn_threads(nn, items);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        buffers_t b;
        buffers_lay(&b, &s, 0, (float *)nn->workspace + t * floats);
        int64_t begin, end, held = -1;
        zero_nn_part(items, 1, threads, t, &begin, &end);
        for (int64_t item = begin; item < end; item++) {
            int64_t head = item / parts, batch = head / a->H, h = head % a->H, kv = h / group;
            if (held != batch * a->KV + kv)
                keys_read(&s, &b, a, batch, kv, false);
            held = batch * a->KV + kv;
            for (int64_t block = 0; block < s.blocks; block++)
                if (part_has(item % parts, parts, block))
                    forward_block(&s, &b, a, batch, h, block);
        }
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

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

/* Adds the contribution of one block of queries of head h to all_dk and all_dv, and computes its dq. */
static void backward_block(const shape_t *s, const buffers_t *b, float *all_dk, float *all_dv,
                           const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g, int64_t batch, int64_t h,
                           int64_t block)
{
    const int64_t row = batch * s->T + block * BLOCK, queries = block_rows(s->T, block), out = (row * a->H + h) * s->D,
                  stride = a->H * s->D;
    float *lse = b->max, *delta = b->sum, *dq = b->out;
    view_t view;
    mask_t space;
    view_make(&view, a, batch, block, queries);
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
    if (view.first >= view.last)
        memset(dq, 0, (size_t)rows_size(s) * sizeof *dq);
    for (int64_t i = view.first; i < view.last; i++) {
        const int64_t keys = block_rows(s->S, i), rows = i * rows_size(s), turned = i * turned_size(s);
        const mask_t *mask = mask_make(&space, &view, i, keys);
        scores_product(s, b->scores, b->k_turned + turned, b->q_turned, keys, mask);
        scores_product(s, b->dp, b->v_turned + turned, b->dout_turned, keys, mask);
        s->simd->softmax_grad(b->scores, b->dp, lse, delta, keys, mask == NULL ? NULL : &mask->seen);
        keys_product(s, all_dv + rows, b->scores, b->dout, keys, queries, mask);
        keys_product(s, all_dk + rows, b->dp, b->q, keys, queries, mask);
        queries_product(s, dq, b->dp, b->k + rows, queries, keys, mask, i > view.first);
    }
    for (int64_t t = 0; t < queries; t++) {
        s->simd->scale(dq + t * s->width, dq + t * s->width, (float)a->scale, s->width);
        s->simd->store((void *)element(g->dq, (row + t) * a->q_stride + h * s->D, a->dtype), dq + t * s->width, s->D,
                       a->dtype);
    }
}

/* Stores a block of dk and dv of key head number head. */
static void keys_store(const shape_t *s, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g, int64_t head,
                       int64_t block, const float *dk, const float *dv)
{
    const int64_t row = head / a->KV * s->S + block * BLOCK, column = head % a->KV * s->D;
    for (int64_t r = 0; r < block_rows(s->S, block); r++) {
        s->simd->store((void *)element(g->dk, (row + r) * a->k_stride + column, a->dtype), dk + r * s->width, s->D,
                       a->dtype);
        s->simd->store((void *)element(g->dv, (row + r) * a->v_stride + column, a->dtype), dv + r * s->width, s->D,
                       a->dtype);
    }
}

/* The work of the backward pass. Item i is part i % parts of key head i / parts. A thread has consecutive items, and
 * sums dk and dv over those of one key head. If it has all of them, it stores the sums. Otherwise it keeps them: in its
 * first buffers for its first key head, and in its second ones for its last. Then the kept sums are added in thread
 * order. */
typedef struct work {
    shape_t s;
    const zero_nn_attention_t *a;
    const zero_nn_attention_grad_t *g;
    float *workspace;
    int64_t floats, parts; /* floats: of a thread's buffers */
    int threads;
} work_t;

static buffers_t work_buffers(const work_t *w, int thread)
{
    buffers_t b;
    buffers_lay(&b, &w->s, w->parts > 1 ? 2 : 1, w->workspace + thread * w->floats);
    return b;
}

/* The items [*begin, *end) of key head `head` that a thread has. Returns the number of the buffers for their sums; -1:
 * the thread has none of its items. */
static int work_of(const work_t *w, int thread, int64_t head, int64_t *begin, int64_t *end)
{
    const int64_t first = head * w->parts, last = first + w->parts;
    int64_t own_begin, own_end;
    zero_nn_part(w->a->B * w->a->KV * w->parts, 1, w->threads, thread, &own_begin, &own_end);
    *begin = own_begin > first ? own_begin : first;
    *end = own_end < last ? own_end : last;
    return *begin >= *end ? -1 : w->parts == 1 || *begin == own_begin ? 0 : 1;
}

static void backward_head(const work_t *w, int thread, int64_t head)
{
    const shape_t *s = &w->s;
    const zero_nn_attention_t *a = w->a;
    const int64_t batch = head / a->KV, kv = head % a->KV, group = a->H / a->KV;
    const buffers_t b = work_buffers(w, thread);
    int64_t begin, end;
    const int number = work_of(w, thread, head, &begin, &end);
    if (number < 0)
        return;
    float *dk = b.dk[number], *dv = b.dv[number];
    keys_read(s, &b, a, batch, kv, true);
    memset(dk, 0, (size_t)(s->key_blocks * rows_size(s)) * sizeof *dk);
    memset(dv, 0, (size_t)(s->key_blocks * rows_size(s)) * sizeof *dv);
    for (int64_t item = begin; item < end; item++)
        for (int64_t h = kv * group; h < (kv + 1) * group; h++)
            for (int64_t block = 0; block < s->blocks; block++)
                if (part_has(item % w->parts, w->parts, block))
                    backward_block(s, &b, dk, dv, a, w->g, batch, h, block);
    for (int64_t i = 0; i < s->key_blocks && end - begin == w->parts; i++)
        keys_store(s, a, w->g, head, i, dk + i * rows_size(s), dv + i * rows_size(s));
}

/* Adds and stores the kept sums of a block of keys. */
static void backward_add(const work_t *w, int64_t head, int64_t block)
{
    const int64_t at = block * rows_size(&w->s), floats = rows_size(&w->s);
    float *dk = NULL, *dv = NULL;
    for (int t = 0; t < w->threads; t++) {
        const buffers_t b = work_buffers(w, t);
        int64_t begin, end;
        const int number = work_of(w, t, head, &begin, &end);
        if (number < 0)
            continue;
        if (end - begin == w->parts)
            return;
        if (dk == NULL) {
            dk = b.dk[number] + at;
            dv = b.dv[number] + at;
            continue;
        }
        w->s.simd->add(dk, b.dk[number] + at, floats, ZERO_FP32);
        w->s.simd->add(dv, b.dv[number] + at, floats, ZERO_FP32);
    }
    keys_store(&w->s, w->a, w->g, head, block, dk, dv);
}

void zero_nn_cpu_attention_backward(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    work_t w = {.s = shape_make(nn, a->T, a->S, a->D), .a = a, .g = g, .workspace = (float *)nn->workspace};
    const int64_t heads = a->B * a->KV;
    buffers_t size;
    w.parts = backward_parts(nn, heads, w.s.blocks);
    w.floats = buffers_lay(&size, &w.s, w.parts > 1 ? 2 : 1, NULL);
    w.threads = zero_nn_threads(nn, heads * w.parts);
#pragma omp parallel for num_threads(w.threads) schedule(static, 1)
    for (int t = 0; t < w.threads; t++) {
        int64_t begin, end;
        zero_nn_part(heads * w.parts, 1, w.threads, t, &begin, &end);
        for (int64_t head = begin / w.parts; head * w.parts < end; head++)
            backward_head(&w, t, head);
    }
    if (w.parts == 1)
        return;
#pragma omp parallel for num_threads(w.threads) schedule(static)
    for (int64_t i = 0; i < heads * w.s.key_blocks; i++)
        backward_add(&w, i / w.s.key_blocks, i % w.s.key_blocks);
}
