/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_attention.c - kernels/nn: attention of every backend against formulas in fp64, which are tested against
 * finite differences: causal or not, cross attention, ranges, grouped heads; and what the bits of a call may depend on.
 * */
#include "tests/expect.h"
#include "tests/nn_common.h"

/* Which keys the queries see. */
typedef enum kind {
    ALL,     /* no ranges */
    PACKED,  /* documents one after another */
    PADDED,  /* sequences of different lengths, padded on both sides */
    EMPTY,   /* some queries see no key, and those of the last sequence none at all */
    WINDOW,  /* keys near the query */
    STRETCH, /* ranges that jump, with gaps between them */
    KINDS
} kind_t;

static const char *const NAMES[KINDS] = {"all", "packed", "padded", "empty", "window", "stretch"};

typedef struct dims {
    int64_t B, T, S, H, KV, D;
} dims_t;

typedef struct heads {
    zero_nn_attention_t a;
    buf_t q, k, v, out, dout, dq, dk, dv, lse;
    int32_t *ranges;
    bool backward;
} heads_t;

static void call_attention(zero_nn_t *nn, void *arg)
{
    heads_t *h = arg;
    if (h->backward)
        zero_nn_attention_backward(nn, &h->a, h->dout.data, h->dq.data, h->dk.data, h->dv.data, NULL);
    else
        zero_nn_attention_forward(nn, &h->a);
}

/* The first row of document number i of five, in a sequence of count rows. */
static int64_t document(int64_t i, int64_t count)
{
    static const double PARTS[] = {0, 0.11, 0.5, 0.53, 0.53, 1}; /* the fourth is empty */
    return (int64_t)(PARTS[i] * (double)count);
}

static void range_of(kind_t kind, const dims_t *d, int64_t b, int64_t t, int64_t *begin, int64_t *end)
{
    const int64_t T = d->T, S = d->S, near = t * S / T;
    int64_t i = 0;
    switch (kind) {
    case PACKED:
        while (t >= document(i + 1, T))
            i++;
        *begin = document(i, S);
        *end = document(i + 1, S);
        return;
    case PADDED:
        *begin = (b + 1) * S / 9;
        *end = S - b * S / 4;
        return;
    case EMPTY:
        *begin = b > 0 && b == d->B - 1 ? S : t < 3 ? 0 : t < T / 2 ? S / 2 : S / 3 * 2;
        *end = b > 0 && b == d->B - 1 ? S : t < 2 ? 0 : t < T / 2 ? S / 2 : S;
        return;
    case WINDOW:
        *begin = near < 5 ? 0 : near - 5;
        *end = near + 3 < S ? near + 3 : S;
        return;
    case STRETCH:
        i = near / 13 * 13;
        *begin = i;
        *end = i + 70 < S ? i + 70 : S;
        if (near / 13 % 3 == 1)
            *begin = i + 9 < S ? i + 9 : S;
        return;
    default:
        *begin = 0;
        *end = S;
    }
}

/* Sets the ranges, with which both numbers never decrease. */
static void set_ranges(heads_t *h, kind_t kind, const dims_t *d)
{
    h->ranges = calloc((size_t)(d->B * d->T), 2 * sizeof *h->ranges);
    for (int64_t b = 0; b < d->B; b++) {
        int64_t begin = 0, end = 0;
        for (int64_t t = 0; t < d->T; t++) {
            int64_t next_begin, next_end;
            range_of(kind, d, b, t, &next_begin, &next_end);
            begin = next_begin > begin ? next_begin : begin;
            end = next_end > end ? next_end : end;
            h->ranges[2 * (b * d->T + t)] = (int32_t)begin;
            h->ranges[2 * (b * d->T + t) + 1] = (int32_t)(end < begin ? begin : end);
        }
    }
    h->a.ranges = h->ranges;
}

/* layout: 0: q, k and v are columns of one buffer, as a product with a joint weight writes them, if S is T; 1: dense;
 * 2: with gaps between rows. */
static heads_t heads_new(const dims_t *d, zero_dtype_t dtype, double scale, int layout, bool causal, kind_t kind)
{
    const int64_t B = d->B, T = d->T, S = d->S, H = d->H, KV = d->KV, D = d->D, joint = (H + 2 * KV) * D;
    const bool one = layout == 0 && S == T;
    heads_t h = {.a = {.B = B, .T = T, .S = S, .H = H, .KV = KV, .D = D, .dtype = dtype, .causal = causal}};
    h.a.scale = scale / sqrt((double)D);
    h.a.q_stride = one ? joint : H * D + (layout == 2 ? 3 : 0);
    h.a.k_stride = one ? joint : KV * D + (layout == 2 ? 1 : 0);
    h.a.v_stride = one ? joint : KV * D + (layout == 2 ? 8 : 0);
    h.q = buf_random(dtype, B * T * h.a.q_stride, 1);
    h.k = buf_random(dtype, B * S * h.a.k_stride, 1);
    h.v = buf_random(dtype, B * S * h.a.v_stride, 1);
    h.out = buf_new(dtype, B * T * H * D);
    h.dout = buf_random(dtype, B * T * H * D, 1);
    h.dq = buf_new(dtype, h.q.count);
    h.dk = buf_new(dtype, h.k.count);
    h.dv = buf_new(dtype, h.v.count);
    h.lse = buf_new(ZERO_FP32, B * H * T);
    h.a.q = h.q.data;
    h.a.k = h.k.data;
    h.a.v = h.v.data;
    h.a.out = h.out.data;
    h.a.lse = (float *)h.lse.data;
    if (one) { /* three views of one buffer */
        const size_t size = zero_dtype_size(dtype);
        h.a.k = h.q.data + (size_t)(H * D) * size;
        h.a.v = h.q.data + (size_t)((H + KV) * D) * size;
    }
    if (kind != ALL)
        set_ranges(&h, kind, d);
    return h;
}

static void heads_free(heads_t *h)
{
    buf_t *all[] = {&h->q, &h->k, &h->v, &h->out, &h->dout, &h->dq, &h->dk, &h->dv, &h->lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
    free(h->ranges);
}

/* ---- the formulas in fp64 --------------------------------------------------------------------------------------- */

/* The tensors of a call: q, dq, out, dout (B, T, H, D), k, v, dk, dv (B, S, KV, D), lse (B, T, H). */
typedef struct exact {
    dims_t d;
    double scale;
    bool causal;
    const int32_t *ranges;
    double *q, *k, *v, *out, *dout, *dq, *dk, *dv, *lse;
} exact_t;

static double *numbers(int64_t count)
{
    return calloc((size_t)count, sizeof(double));
}

static exact_t exact_new(const heads_t *h)
{
    const zero_nn_attention_t *a = &h->a;
    exact_t e = {.d = {a->B, a->T, a->S, a->H, a->KV, a->D}, .scale = a->scale, .causal = a->causal};
    const int64_t queries = a->B * a->T, keys = a->B * a->S, Q = a->H * a->D, K = a->KV * a->D;
    e.ranges = a->ranges;
    double **of_queries[] = {&e.q, &e.out, &e.dout, &e.dq}, **of_keys[] = {&e.k, &e.v, &e.dk, &e.dv};
    for (int i = 0; i < 4; i++) {
        *of_queries[i] = numbers(queries * Q);
        *of_keys[i] = numbers(keys * K);
    }
    e.lse = numbers(queries * a->H);
    for (int64_t r = 0; r < queries; r++) {
        for (int64_t i = 0; i < Q; i++) {
            e.q[r * Q + i] = zero_element(a->q, r * a->q_stride + i, a->dtype);
            e.dout[r * Q + i] = buf_at(&h->dout, r * Q + i);
        }
    }
    for (int64_t r = 0; r < keys; r++) {
        for (int64_t i = 0; i < K; i++) {
            e.k[r * K + i] = zero_element(a->k, r * a->k_stride + i, a->dtype);
            e.v[r * K + i] = zero_element(a->v, r * a->v_stride + i, a->dtype);
        }
    }
    return e;
}

static void exact_free(exact_t *e)
{
    double *all[] = {e->q, e->k, e->v, e->out, e->dout, e->dq, e->dk, e->dv, e->lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* Whether the query sees the key, directly from the words of nn.h. */
static bool sees(const exact_t *e, int64_t b, int64_t t, int64_t s)
{
    const int32_t *range = e->ranges == NULL ? NULL : e->ranges + 2 * (b * e->d.T + t);
    return !(e->causal && s > t) && (range == NULL || (range[0] <= s && s < range[1]));
}

static double product(const double *x, const double *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

static void exact_forward(const exact_t *e)
{
    const dims_t *d = &e->d;
    double *p = numbers(d->S);
    for (int64_t i = 0; i < d->B * d->T * d->H; i++) {
        const int64_t h = i % d->H, t = i / d->H % d->T, b = i / d->H / d->T, kv = h / (d->H / d->KV);
        double sum = 0, top = -INFINITY;
        for (int64_t s = 0; s < d->S; s++) {
            p[s] = e->scale * product(e->q + i * d->D, e->k + ((b * d->S + s) * d->KV + kv) * d->D, d->D);
            if (sees(e, b, t, s))
                top = fmax(top, p[s]);
        }
        memset(e->out + i * d->D, 0, (size_t)d->D * sizeof(double));
        for (int64_t s = 0; s < d->S; s++)
            if (sees(e, b, t, s))
                sum += p[s] = exp(p[s] - top);
        for (int64_t s = 0; s < d->S; s++)
            for (int64_t c = 0; c < d->D && sees(e, b, t, s); c++)
                e->out[i * d->D + c] += p[s] / sum * e->v[((b * d->S + s) * d->KV + kv) * d->D + c];
        e->lse[i] = sum > 0 ? top + log(sum) : -INFINITY;
    }
    free(p);
}

static void exact_backward(const exact_t *e)
{
    const dims_t *d = &e->d;
    for (int64_t i = 0; i < d->B * d->T * d->H; i++) {
        const int64_t h = i % d->H, t = i / d->H % d->T, b = i / d->H / d->T, kv = h / (d->H / d->KV);
        const double *q = e->q + i * d->D, *dout = e->dout + i * d->D, delta = product(dout, e->out + i * d->D, d->D);
        for (int64_t s = 0; s < d->S; s++) {
            const int64_t at = ((b * d->S + s) * d->KV + kv) * d->D;
            if (!sees(e, b, t, s))
                continue;
            const double p = exp(e->scale * product(q, e->k + at, d->D) - e->lse[i]),
                         ds = e->scale * p * (product(dout, e->v + at, d->D) - delta);
            for (int64_t c = 0; c < d->D; c++) {
                e->dv[at + c] += p * dout[c];
                e->dk[at + c] += ds * q[c];
                e->dq[i * d->D + c] += ds * e->k[at + c];
            }
        }
    }
}

/* The sum of dout * out, whose gradients are dq, dk and dv. */
static double exact_sum(const exact_t *e)
{
    exact_forward(e);
    return product(e->out, e->dout, e->d.B * e->d.T * e->d.H * e->d.D);
}

START_TEST(formulas_have_the_right_slope)
{
    const dims_t SHAPES[] = {{2, 5, 5, 4, 2, 3}, {1, 6, 6, 2, 2, 4}, {2, 4, 7, 4, 1, 2}, {1, 7, 3, 2, 2, 3}};
    for (int i = 0; i < 4 * KINDS * 2; i++) {
        const dims_t *d = &SHAPES[i % 4];
        const bool causal = i / 4 % 2 != 0;
        if (causal && d->S != d->T)
            continue;
        seed_state = (uint64_t)i;
        heads_t h = heads_new(d, ZERO_FP32, 2, 1, causal, (kind_t)(i / 8));
        exact_t e = exact_new(&h);
        exact_forward(&e);
        exact_backward(&e);
        const int64_t queries = d->B * d->T * d->H * d->D, keys = d->B * d->S * d->KV * d->D;
        double *inputs[] = {e.q, e.k, e.v}, *gradients[] = {e.dq, e.dk, e.dv};
        for (int x = 0; x < 3; x++) {
            for (int64_t j = 0; j < (x == 0 ? queries : keys); j++) {
                const double step = 0x1p-16, keep = inputs[x][j];
                inputs[x][j] = keep + step;
                double slope = exact_sum(&e);
                inputs[x][j] = keep - step;
                slope = (slope - exact_sum(&e)) / (2 * step);
                inputs[x][j] = keep;
                EXPECT(fabs(slope - gradients[x][j]) <= 1e-7, "%s, causal %d, input %d: slope %.9g, gradient %.9g",
                       NAMES[i / 8], causal, x, slope, gradients[x][j]);
            }
        }
        exact_free(&e);
        heads_free(&h);
    }
}
END_TEST

/* ---- backends against the formulas ------------------------------------------------------------------------------ */

static const way_t REF = {"ref", NULL, 1, false, false};

static const dims_t SHAPES[] = {
    {1, 1, 1, 1, 1, 1},     {2, 3, 3, 2, 1, 5},      {3, 64, 64, 4, 1, 16},   {2, 65, 65, 2, 2, 17},
    {1, 70, 70, 8, 1, 33},  {2, 7, 130, 4, 1, 8},    {1, 130, 65, 4, 4, 72},  {2, 1, 63, 2, 1, 130},
    {1, 66, 66, 2, 1, 130}, {1, 129, 193, 1, 1, 40}, {1, 65, 65, 1, 1, 256},  {3, 1, 200, 6, 3, 24},
    {1, 1, 1100, 4, 2, 64}, {1, 1, 9, 2, 1, 256},    {1, 200, 200, 8, 2, 64}, {2, 150, 300, 4, 2, 24},
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof SHAPES[0], LARGE = 2 };

/* p's rows, ld apart, = values, rounded to its dtype. */
static buf_t rounded(const buf_t *like, int64_t at, int64_t ld, const double *values, int64_t rows, int64_t columns)
{
    buf_t b = buf_new(like->dtype, like->count);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            zero_element_set(b.data, at + r * ld + c, b.dtype, (float)values[r * columns + c]);
    return b;
}

/* lse is (B, T, H) in e and (B, H, T) in calls. */
static buf_t exact_lse(const exact_t *e)
{
    const dims_t *d = &e->d;
    buf_t b = buf_new(ZERO_FP32, d->B * d->T * d->H);
    for (int64_t i = 0; i < b.count; i++) {
        const int64_t t = i % d->T, h = i / d->T % d->H, batch = i / d->T / d->H;
        ((float *)b.data)[i] = (float)e->lse[(batch * d->T + t) * d->H + h];
    }
    return b;
}

static void compare(const char *what, const way_t *way, const buf_t *got, const buf_t *want, double slack)
{
    if (softmax_error(want->dtype) > 0) /* cuDNN rounds the softmax and its gradient, so single elements may be off */
        close_in_norm(what, way, got, want, eps_of(want->dtype) + 2 * softmax_error(want->dtype), slack);
    else
        close_to(what, way, got, want, NULL, slack);
}

static void against_formulas(const way_t *way, const way_t *runner, const dims_t *d, zero_dtype_t dtype, double sharp,
                             int layout, bool causal, kind_t kind)
{
    char what[64];
    heads_t h = heads_new(d, dtype, sharp, layout, causal, kind);
    exact_t e = exact_new(&h);
    const int64_t Q = d->H * d->D, K = d->KV * d->D, group = d->H / d->KV;
    const double size = (double)(d->T + d->S + d->D), error = 64 * size * EPS32 * sharp;
    exact_forward(&e);
    buf_t out = rounded(&h.out, 0, Q, e.out, d->B * d->T, Q), lse = exact_lse(&e);
    run(runner, call_attention, &h);
    snprintf(what, sizeof what, "out (%s%s, T %d, S %d, D %d)", NAMES[kind], causal ? ", causal" : "", (int)d->T,
             (int)d->S, (int)d->D);
    close_to(what, way, &h.out, &out, NULL, error + softmax_error(dtype));
    for (int64_t i = 0; i < lse.count; i++) {
        const float got = ((float *)h.lse.data)[i], want = ((float *)lse.data)[i];
        EXPECT(got == want || fabs((double)got - want) <= error, "%s, %s: lse %lld is %.9g, %.9g is right", what,
               way->name, (long long)i, got, want);
    }

    /* The gradients from the formulas' output, because the backend's is rounded differently. */
    memcpy(h.out.data, out.data, (size_t)out.count * zero_dtype_size(dtype));
    memcpy(h.lse.data, lse.data, (size_t)lse.count * sizeof(float));
    for (int64_t i = 0; i < out.count; i++)
        e.out[i] = buf_at(&out, i);
    exact_backward(&e);
    const bool one = layout == 0 && d->S == d->T;
    buf_t dq = rounded(&h.dq, 0, h.a.q_stride, e.dq, d->B * d->T, Q),
          dk = rounded(&h.dk, 0, h.a.k_stride, e.dk, d->B * d->S, K),
          dv = rounded(&h.dv, 0, h.a.v_stride, e.dv, d->B * d->S, K);
    h.backward = true;
    run(runner, call_attention, &h);
    double slack = error * sqrt((double)d->D) * (double)group;
    if (softmax_error(dtype) > 0)
        slack += softmax_error(dtype) * sharp * sqrt((double)d->D) * (double)group;
    const char *names[] = {"dq", "dk", "dv"};
    buf_t *got[] = {&h.dq, &h.dk, &h.dv}, *want[] = {&dq, &dk, &dv};
    for (int i = 0; i < 3; i++) {
        snprintf(what, sizeof what, "%s (%s%s%s, T %d, S %d)", names[i], NAMES[kind], causal ? ", causal" : "",
                 one ? ", joint" : "", (int)d->T, (int)d->S);
        compare(what, way, got[i], want[i], slack);
    }
    buf_t *all[] = {&out, &lse, &dq, &dk, &dv};
    for (int i = 0; i < 5; i++)
        buf_free(all[i]);
    exact_free(&e);
    heads_free(&h);
}

/* All shapes, kinds, dtypes; the layouts and sharp scores take turns. An emulated GPU computes a third of the cases in
 * each of its three ways, and no large ones. */
START_TEST(attention_against_formulas)
{
    const way_t *runner = _i == 0 ? NULL : &WAYS[_i - 1], *way = _i == 0 ? &REF : runner;
    int turn = 0;
    bool some = false;
    if (runner != NULL && !way_runs(runner))
        return;
    for (int s = 0; s < SHAPE_COUNT; s++) {
        for (int c = 0; c < DTYPE_COUNT * KINDS * 2; c++) {
            const kind_t kind = (kind_t)(c / DTYPE_COUNT % KINDS);
            const bool causal = c / DTYPE_COUNT / KINDS != 0;
            if (causal && SHAPES[s].S != SHAPES[s].T)
                continue;
            turn++;
#if defined(ZERO_TEST_CUDA)
            if (nn_cuda_emulated() && (runner == NULL || s >= SHAPE_COUNT - LARGE || (turn + turn / 3) % 3 != _i - 1))
                continue;
#endif
            some = true;
            seed_state = (uint64_t)turn * 1000;
            against_formulas(way, runner, &SHAPES[s], DTYPES[c % DTYPE_COUNT], turn % 2 ? 1 : 12, turn / 2 % 3, causal,
                             kind);
        }
    }
    ck_assert(some || _i == 0);
}
END_TEST

/* ---- bits ------------------------------------------------------------------------------------------------------- */

/* Queries of document [t0, t1) of a sequence, whose heads are dense, in a call of their own. */
static heads_t part_of(const heads_t *whole, int64_t t0, int64_t t1)
{
    const zero_nn_attention_t *a = &whole->a;
    const dims_t d = {1, t1 - t0, t1 - t0, a->H, a->KV, a->D};
    const size_t size = zero_dtype_size(a->dtype);
    heads_t h = heads_new(&d, a->dtype, 1, 1, a->causal, PADDED);
    for (int64_t t = 0; t < t1 - t0; t++) { /* the range is the whole document, so that the same kernels compute it */
        h.ranges[2 * t] = 0;
        h.ranges[2 * t + 1] = (int32_t)(t1 - t0);
    }
    const buf_t *from[] = {&whole->q, &whole->k, &whole->v, &whole->dout};
    buf_t *to[] = {&h.q, &h.k, &h.v, &h.dout};
    for (int i = 0; i < 4; i++) {
        const size_t row = (size_t)(from[i]->count / a->T) * size;
        memcpy(to[i]->data, from[i]->data + (size_t)t0 * row, (size_t)(t1 - t0) * row);
    }
    return h;
}

static void same_part(const char *what, const way_t *way, const buf_t *whole, const buf_t *part, int64_t T, int64_t t0)
{
    const size_t row = (size_t)(whole->count / T) * zero_dtype_size(whole->dtype);
    EXPECT(memcmp(whole->data + (size_t)t0 * row, part->data, (size_t)part->count * zero_dtype_size(part->dtype)) == 0,
           "%s of a packed document, %s, %s: other bits", what, way->name, zero_dtype_name(whole->dtype));
}

/* Documents that begin at multiples of 64 have the bits that they have alone. */
START_TEST(packed_documents_have_their_bits)
{
    const way_t *runner = _i == 0 ? NULL : &WAYS[_i - 1], *way = _i == 0 ? &REF : runner;
    const dims_t d = {1, 203, 203, 12, 6, 20}; /* key heads that 1, 2 and 3 threads divide evenly */
    const int64_t starts[] = {0, 64, 192, 203};
    if (runner != NULL && !way_runs(runner))
        return;
    for (int i = 0; i < 2 * DTYPE_COUNT; i++) {
        seed_state = 99;
        heads_t h = heads_new(&d, DTYPES[i % DTYPE_COUNT], 1, 1, i >= DTYPE_COUNT, PADDED);
        for (int64_t n = 0; n < 3; n++) {
            for (int64_t t = starts[n]; t < starts[n + 1]; t++) {
                h.ranges[2 * t] = (int32_t)starts[n];
                h.ranges[2 * t + 1] = (int32_t)starts[n + 1];
            }
        }
        run(runner, call_attention, &h);
        h.backward = true;
        run(runner, call_attention, &h);
        for (int64_t n = 0; n < 3; n++) {
            heads_t part = part_of(&h, starts[n], starts[n + 1]);
            run(runner, call_attention, &part);
            part.backward = true;
            run(runner, call_attention, &part);
            same_part("out", way, &h.out, &part.out, d.T, starts[n]);
            same_part("dq", way, &h.dq, &part.dq, d.T, starts[n]);
            same_part("dk", way, &h.dk, &part.dk, d.T, starts[n]);
            same_part("dv", way, &h.dv, &part.dv, d.T, starts[n]);
            for (int64_t head = 0; head < d.H; head++)
                EXPECT(memcmp((float *)h.lse.data + head * d.T + starts[n], (float *)part.lse.data + head * part.a.T,
                              (size_t)part.a.T * sizeof(float)) == 0,
                       "lse of a packed document, %s: other bits", way->name);
            heads_free(&part);
        }
        heads_free(&h);
    }
}
END_TEST

/* Ranges that hide nothing change nothing, in our own kernels. Blocks that no query sees are skipped: numbers in them
 * that are not finite do not matter, though nn.h asks for finite ones. */
START_TEST(ranges_hide_and_skip)
{
    const way_t *runner = _i == 0 ? NULL : &WAYS[_i - 1];
    const dims_t d = {1, 150, 150, 2, 1, 24};
    if (runner != NULL && !way_runs(runner))
        return;
    for (int causal = 0; causal < 2; causal++) {
        heads_t h[2];
        for (int i = 0; i < 2; i++) {
            seed_state = 5;
            h[i] = heads_new(&d, ZERO_FP32, 1, 1, causal != 0, i == 0 ? ALL : PADDED);
            for (int64_t t = 0; t < d.T && i == 1; t++) {
                h[i].ranges[2 * t] = 0;
                h[i].ranges[2 * t + 1] = (int32_t)d.S;
            }
            run(runner, call_attention, &h[i]);
            h[i].backward = true;
            run(runner, call_attention, &h[i]);
        }
        same_bits("out with ranges", &h[0].out, &h[1].out);
        same_bits("dq with ranges", &h[0].dq, &h[1].dq);
        same_bits("dk with ranges", &h[0].dk, &h[1].dk);
        same_bits("dv with ranges", &h[0].dv, &h[1].dv);

        /* documents [0, 64), [64, 150): the first is not a number */
        for (int64_t t = 0; t < d.T; t++) {
            h[1].ranges[2 * t] = t < 64 ? 0 : 64;
            h[1].ranges[2 * t + 1] = t < 64 ? 64 : 150;
        }
        buf_t *inputs[] = {&h[1].q, &h[1].k, &h[1].v, &h[1].dout};
        for (int i = 0; i < 4; i++)
            for (int64_t j = 0; j < 64 * inputs[i]->count / d.T; j++)
                ((float *)inputs[i]->data)[j] = NAN;
        for (int backward = 0; backward < 2; backward++) {
            h[1].backward = backward != 0;
            run(runner, call_attention, &h[1]);
        }
        const buf_t *results[] = {&h[1].out, &h[1].dq, &h[1].dk, &h[1].dv};
        for (int i = 0; i < 4; i++)
            for (int64_t j = 64 * results[i]->count / d.T; j < results[i]->count; j++)
                EXPECT(isfinite(((float *)results[i]->data)[j]), "result %d sees another document", i);
        heads_free(&h[0]);
        heads_free(&h[1]);
    }
}
END_TEST

/* If a plan is used again after other work of the same shape, it gives the same bits; so does a context of its own. */
START_TEST(attention_repeats)
{
    const way_t *way = &WAYS[_i];
    dims_t d = {2, 130, 130, 2, 1, 64};
    if (!way_runs(way))
        return;
#if defined(ZERO_TEST_CUDA)
    if (!nn_cuda_emulated()) { /* large, so that many blocks add to one gradient */
        d.T = d.S = 1024;
        d.H = d.KV = 8;
    }
#endif
    for (int i = 0; i < 2 * DTYPE_COUNT; i++) {
        seed_state = 77;
        heads_t h = heads_new(&d, DTYPES[i % DTYPE_COUNT], 1, 1, i % 2 == 0, i < DTYPE_COUNT ? ALL : PACKED), again;
        zero_nn_t *nn = context(way);
        zero_error_t error = {.status = ZERO_OK};
        zero_nn_set_dry(nn, true);
        call_attention(nn, &h);
        h.backward = true;
        call_attention(nn, &h);
        zero_nn_set_dry(nn, false);
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        unsigned char *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, bytes == 0 ? NULL : workspace, bytes);
        seed_state = 77;
        again = heads_new(&d, DTYPES[i % DTYPE_COUNT], 1, 1, i % 2 == 0, i < DTYPE_COUNT ? ALL : PACKED);
        run(way, call_attention, &again);
        again.backward = true;
        run(way, call_attention, &again);
        for (int time = 0; time < 3; time++) {
            memset(workspace, time % 2 ? 0xff : 0, bytes);
            h.backward = false;
            call_attention(nn, &h);
            h.backward = true;
            call_attention(nn, &h);
            EXPECT(zero_nn_status(nn, &error) == ZERO_OK, "%s: %s", way->name, error.text);
            same_bits("attention out, again", &h.out, &again.out);
            same_bits("attention dq, again", &h.dq, &again.dq);
            same_bits("attention dk, again", &h.dk, &again.dk);
            same_bits("attention dv, again", &h.dv, &again.dv);
        }
        free(workspace);
        zero_nn_destroy(nn);
        heads_free(&h);
        heads_free(&again);
    }
}
END_TEST

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void refused(zero_nn_t *nn, const char *part)
{
    zero_error_t error = {.status = ZERO_OK};
    ck_assert_int_eq(zero_nn_status(nn, &error), ZERO_ERR_ARG);
    EXPECT(has_names(error.text, part), "'%s' does not say '%s'", error.text, part);
}

START_TEST(errors)
{
    for (int w = -1; w < 1; w++) {
        float p[256];
        int32_t ranges[12];
        zero_nn_t *nn = context(w < 0 ? NULL : &WAYS[0]);
        zero_nn_attention_t a = {.B = 2, .T = 3, .H = 1, .KV = 1, .D = 4, .q_stride = 12, .k_stride = 12, .scale = 1};
        zero_error_t error = {.status = ZERO_OK};
        a.v_stride = 12;
        zero_nn_attention_t cross = a;
        cross.S = 2;
        zero_nn_set_dry(nn, true);
        zero_nn_attention_forward(nn, &a);
        zero_nn_attention_backward(nn, &a, NULL, NULL, NULL, NULL, NULL);
        zero_nn_attention_backward(nn, &cross, NULL, NULL, NULL, NULL, NULL);
        ck_assert_int_eq(zero_nn_status(nn, &error), ZERO_OK);
        cross.causal = true;
        zero_nn_attention_forward(nn, &cross);
        refused(nn, "attention_forward causal 3 2");
        cross.causal = false;
        cross.S = -1;
        zero_nn_attention_forward(nn, &cross);
        refused(nn, "-1");
        cross.S = 2;
        zero_nn_set_dry(nn, false);
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        void *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, workspace, bytes);
        for (int i = 0; i < 256; i++)
            p[i] = 3;
        a.q = cross.q = p, a.k = cross.k = p + 4, a.v = cross.v = p + 8, a.out = cross.out = p + 72;
        a.lse = cross.lse = p + 96;
        zero_nn_attention_backward(nn, &cross, p + 72, p + 112, p + 116, p + 120, p + 200);
        refused(nn, "dbias 12");
        a.ranges = ranges;
        static const struct {
            int row, begin, end;
            const char *says;
        } BAD[] = {{0, -1, 2, "-1, 2 row 0 3"},
                   {1, 0, 4, "0, 4 row 1 3"},
                   {4, 2, 1, "2, 1 row 4"},
                   {2, 1, 1, "1, 1 row 2"},
                   {5, 0, 3, "0, 3 row 5"}};
        for (int i = 0; i < 5; i++) {
            for (int r = 0; r < 6; r++) {
                ranges[2 * r] = r % 3 == 0 ? 0 : 1; /* the second sequence begins before the first ends */
                ranges[2 * r + 1] = 2;
            }
            ranges[2 * BAD[i].row] = BAD[i].begin;
            ranges[2 * BAD[i].row + 1] = BAD[i].end;
            zero_nn_attention_forward(nn, &a);
            refused(nn, BAD[i].says);
            zero_nn_attention_backward(nn, &a, p + 72, p + 112, p + 116, p + 120, NULL);
            refused(nn, BAD[i].says);
            for (int j = 0; j < 256; j++)
                EXPECT(p[j] == 3, "written for a bad range");
        }
        free(workspace);
        zero_nn_destroy(nn);
    }
}
END_TEST

/* A NaN or an infinity must reach the loss, because the step is then skipped. */
START_TEST(not_finite_is_not_hidden)
{
    const float bad[] = {NAN, -NAN}; /* an infinite key gives some queries a score of -inf: rightly no contribution */
    const dims_t d = {1, 70, 70, 1, 1, 20};
    for (int w = -1; w < WAY_COUNT; w++) {
        const way_t *way = w < 0 ? NULL : &WAYS[w];
        for (int i = 0; i < 6 && (way == NULL || way_runs(way)); i++) {
            heads_t h = heads_new(&d, ZERO_FP32, 1, 1, true, ALL);
            ((float *)h.k.data)[(int[]){0, 40, 66}[i / 2] * 20] = bad[i % 2];
            run(way, call_attention, &h);
            EXPECT(!isfinite(((float *)h.out.data)[69 * 20]), "attention hides a key that is not a number");
            EXPECT(i / 2 == 0 || isfinite(((float *)h.out.data)[39 * 20]), "a query sees a key behind it");
            heads_free(&h);
        }
    }
}
END_TEST

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_attention");
    TCase *tc = tcase_create("nn_attention");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, formulas_have_the_right_slope);
    tcase_add_loop_test(tc, attention_against_formulas, 0, WAY_COUNT + 1);
    tcase_add_loop_test(tc, packed_documents_have_their_bits, 0, WAY_COUNT + 1);
    tcase_add_loop_test(tc, ranges_hide_and_skip, 0, WAY_COUNT + 1);
    tcase_add_loop_test(tc, attention_repeats, 0, WAY_COUNT);
    tcase_add_test(tc, errors);
    tcase_add_test(tc, not_finite_is_not_hidden);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
