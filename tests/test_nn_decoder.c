/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_decoder.c - kernels/nn: what Llama and models like it need: norms of rows and of heads inside rows,
 * activations, alone and gated, rotary embedding, and rows of a cache. Every backend, ref included, is compared with
 * fp64 formulas. A result must lie between the rounded ends of an interval around the exact value, so a rounding in the
 * wrong place is an error. */
#include "tests/expect.h"
#include "tests/nn_common.h"

/* Beyond these sizes CUDA's kernels divide the work differently: rows of parts, columns of a thread. */
#if defined(ZERO_TEST_CUDA)
#define MORE_ROWS \
    {             \
        8300, 3   \
    }
#define MORE_NORMS                          \
    {4300, 6, 1, 0, 0}, {9, 4101, 1, 0, 0}, \
    {                                       \
        1700, 8, 10, 16, 8                  \
    }
#else
#define MORE_ROWS \
    {             \
        300, 9    \
    }
#define MORE_NORMS      \
    {                   \
        300, 6, 2, 4, 0 \
    }
#endif

/* The way of a loop test that begins at -1: ref, then WAYS. */
static const way_t REF = {.name = "ref"};
static const way_t *way_of(int i)
{
    return i < 0 ? NULL : &WAYS[i];
}

static double rounded(double x, zero_dtype_t dtype)
{
    float y = (float)x;
    return dtype == ZERO_BF16   ? (double)zero_bf16_to_fp32(zero_fp32_to_bf16(y))
           : dtype == ZERO_FP16 ? (double)zero_fp16_to_fp32(zero_fp32_to_fp16(y))
                                : (double)y;
}

/* The stored element lies between low and high, both rounded to its dtype. */
static void between(const char *what, const way_t *way, const buf_t *b, int64_t i, double low, double high)
{
    const double got = buf_at(b, i), least = rounded(fmin(low, high), b->dtype),
                 most = rounded(fmax(low, high), b->dtype);
    EXPECT(got >= least && got <= most, "%s, %s, %s: element %lld is %.9g, but not in [%.9g, %.9g]", what,
           (way == NULL ? &REF : way)->name, zero_dtype_name(b->dtype), (long long)i, got, least, most);
}

static void around(const char *what, const way_t *way, const buf_t *b, int64_t i, double want, double error)
{
    between(what, way, b, i, want - error, want + error);
}

/* b equals before, except in the first `width` elements of each of its rows of ld. */
static void gaps_kept(const char *what, const buf_t *b, const buf_t *before, int64_t width, int64_t ld)
{
    for (int64_t i = 0; i < b->count; i++)
        EXPECT(i % ld < width || buf_at(b, i) == buf_at(before, i), "%s: written between rows", what);
}

/* ---- norms ------------------------------------------------------------------------------------------------------ */

enum { APART, IN_PLACE, RESIDUAL, MODES };

typedef struct norm {
    zero_nn_norm_t l;
    buf_t x, w, b, residual, total, y, dy, dx, dw, db, mean, rstd;
    bool backward;
} norm_t;

static void call_norm(zero_nn_t *nn, void *arg)
{
    const norm_t *n = arg;
    if (n->backward)
        zero_nn_norm_backward(nn, &n->l);
    else
        zero_nn_norm_forward(nn, &n->l);
}

/* What the norm normalizes: element c of vector i. */
static double input(const norm_t *n, int64_t i, int64_t c)
{
    return buf_at(n->l.residual != NULL ? &n->total : &n->x, zero_nn_norm_at(&n->l, n->l.ldx, i) + c);
}

static norm_t norm_new(const int64_t s[5], zero_dtype_t dtype, bool rms, int mode)
{
    const int64_t width = s[1] * s[2], ldx = width + s[3], ldy = mode == IN_PLACE ? ldx : width + s[4];
    norm_t n = {.l = {.rows = s[0], .C = s[1], .groups = s[2], .ldx = ldx, .ldy = ldy, .eps = 1e-5, .dtype = dtype}};
    n.l.rms = rms;
    n.x = buf_random(dtype, s[0] * ldx, 3);
    n.w = buf_random(dtype, s[1], 2);
    n.b = buf_random(dtype, s[1], 1);
    n.residual = buf_random(dtype, s[0] * ldx, 1);
    n.total = buf_random(dtype, s[0] * ldx, 1);
    n.y = mode == IN_PLACE ? buf_copy(&n.x) : buf_random(dtype, s[0] * ldy, 1);
    n.dy = buf_random(dtype, s[0] * ldy, 1);
    n.dx = mode == IN_PLACE ? buf_copy(&n.dy) : buf_random(dtype, s[0] * ldx, 1);
    n.dw = buf_random(dtype, s[1], 1);
    n.db = buf_random(dtype, s[1], 1);
    n.mean = buf_new(ZERO_FP32, s[0] * s[2]);
    n.rstd = buf_new(ZERO_FP32, s[0] * s[2]);
    n.l.w = n.w.data;
    n.l.rstd = (float *)n.rstd.data;
    if (!rms) {
        n.l.b = n.b.data;
        n.l.mean = (float *)n.mean.data;
    }
    n.l.x = mode == IN_PLACE ? n.y.data : n.x.data;
    n.l.y = n.y.data;
    if (mode == RESIDUAL) {
        n.l.residual = n.residual.data;
        n.l.total = n.total.data;
    }
    return n;
}

/* The arguments of the backward pass. */
static void norm_turn(norm_t *n, int mode)
{
    n->backward = true;
    n->l.x = mode == RESIDUAL ? n->total.data : n->x.data;
    n->l.dy = mode == IN_PLACE ? n->dx.data : n->dy.data;
    n->l.dresidual = mode == RESIDUAL ? n->residual.data : NULL;
    n->l.dx = n->dx.data;
    n->l.dw = n->dw.data;
    n->l.db = n->l.rms ? NULL : n->db.data;
}

static void norm_free(norm_t *n)
{
    buf_t *all[] = {&n->x,  &n->w,  &n->b,  &n->residual, &n->total, &n->y,
                    &n->dy, &n->dx, &n->dw, &n->db,       &n->mean,  &n->rstd};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
}

/* The statistics of vector i, and the results of the forward pass. */
static void check_forward(const way_t *way, const norm_t *n, int64_t i)
{
    const int64_t C = n->l.C, at = zero_nn_norm_at(&n->l, n->l.ldy, i), from = zero_nn_norm_at(&n->l, n->l.ldx, i);
    double mean = 0, square = 0, size = 0;
    for (int64_t c = 0; c < C; c++) {
        mean += n->l.rms ? 0 : input(n, i, c) / (double)C;
        size += fabs(input(n, i, c)) / (double)C;
    }
    for (int64_t c = 0; c < C; c++)
        square += (input(n, i, c) - mean) * (input(n, i, c) - mean) / (double)C;
    const double rstd = 1 / sqrt(square + 1e-5), part = 4 * (double)(C + 4) * EPS32;
    /* the mean's error moves every element, and relative to a small variance it changes rstd */
    const double mean_error = n->l.rms ? 0 : part * size, rstd_part = part + mean_error * mean_error * rstd * rstd;
    if (!n->l.rms)
        around("mean", way, &n->mean, i, mean, mean_error);
    around("rstd", way, &n->rstd, i, rstd, rstd * rstd_part);
    for (int64_t c = 0; c < C; c++) {
        const double x = input(n, i, c), w = buf_at(&n->w, c), hat = (x - mean) * rstd;
        const double error = mean_error * rstd + (rstd_part + 4 * EPS32) * fabs(hat);
        if (n->l.residual != NULL)
            around("total", way, &n->total, from + c, buf_at(&n->x, from + c) + buf_at(&n->residual, from + c), 0);
        if (n->l.rms)
            between("rms norm", way, &n->y, at + c, rounded(hat - error, n->l.dtype) * w,
                    rounded(hat + error, n->l.dtype) * w);
        else
            around("layer norm", way, &n->y, at + c, hat * w + buf_at(&n->b, c),
                   (error + 4 * EPS32 * fabs(hat)) * fabs(w) + 4 * EPS32 * fabs(buf_at(&n->b, c)));
    }
}

/* dx of vector i from the backend's statistics, with the gradients of w and b added to sums (2, C), and the sizes of
 * their terms to sizes. */
static void check_backward(const way_t *way, const norm_t *n, const buf_t *dy, int64_t i, double *sums, double *sizes)
{
    const int64_t C = n->l.C, at = zero_nn_norm_at(&n->l, n->l.ldy, i), from = zero_nn_norm_at(&n->l, n->l.ldx, i);
    const double mean = n->l.rms ? 0 : buf_at(&n->mean, i), rstd = buf_at(&n->rstd, i);
    double mean_g = 0, mean_gn = 0, size_g = 0, size_gn = 0;
    for (int64_t c = 0; c < C; c++) {
        const double d = buf_at(dy, at + c), hat = (input(n, i, c) - mean) * rstd, g = d * buf_at(&n->w, c);
        mean_g += n->l.rms ? 0 : g / (double)C;
        mean_gn += g * hat / (double)C;
        size_g += n->l.rms ? 0 : fabs(g) / (double)C;
        size_gn += fabs(g * hat) / (double)C;
        sums[c] += d * hat;
        sums[C + c] += d;
        sizes[c] += fabs(d * hat);
        sizes[C + c] += fabs(d);
    }
    for (int64_t c = 0; c < C; c++) {
        const double hat = (input(n, i, c) - mean) * rstd, g = buf_at(dy, at + c) * buf_at(&n->w, c);
        const double more = n->l.dresidual == NULL ? 0 : buf_at(&n->residual, from + c);
        const double part = (double)(C + 8) * EPS32;
        around("dx of a norm", way, &n->dx, from + c, rstd * (g - mean_g - hat * mean_gn) + more,
               4 * part * rstd * (fabs(g) + size_g + fabs(hat) * size_gn) + EPS32 * fabs(more));
    }
}

static void norm_case(const way_t *way, const int64_t s[5], zero_dtype_t dtype, bool rms, int mode)
{
    norm_t n[2];
    buf_t y, dx, dw, db;
    const int64_t C = s[1], vectors = s[0] * s[2], width = C * s[2];
    double *sums = calloc((size_t)(4 * C), sizeof *sums), *sizes = sums + 2 * C;
    for (int k = 0; k < 2; k++) {
        seed_state = (uint64_t)(s[0] * 31 + C);
        n[k] = norm_new(s, dtype, rms, mode);
        if (k == 0)
            y = buf_copy(&n[0].y), dx = buf_copy(&n[0].dx), dw = buf_copy(&n[0].dw), db = buf_copy(&n[0].db);
        run(way, call_norm, &n[k]);
        norm_turn(&n[k], mode);
        run(way, call_norm, &n[k]);
    }
    for (int64_t i = 0; i < vectors; i++) {
        const zero_nn_norm_t with = n[0].l;
        n[0].l.residual = mode == RESIDUAL ? n[0].residual.data : NULL;
        check_forward(way, &n[0], i);
        check_backward(way, &n[0], &n[0].dy, i, sums, sizes);
        n[0].l = with;
    }
    for (int64_t c = 0; c < C; c++) {
        const double part = (double)(vectors + 8) * EPS32;
        around("dw of a norm", way, &n[0].dw, c, buf_at(&dw, c) + sums[c], part * (sizes[c] + fabs(buf_at(&dw, c))));
        if (!rms)
            around("db of a norm", way, &n[0].db, c, buf_at(&db, c) + sums[C + c],
                   part * (sizes[C + c] + fabs(buf_at(&db, c))));
    }
    gaps_kept("y of a norm", &n[0].y, &y, width, n[0].l.ldy);
    gaps_kept("dx of a norm", &n[0].dx, &dx, width, n[0].l.ldx);
    same_bits("y of a norm", &n[0].y, &n[1].y);
    same_bits("dx of a norm", &n[0].dx, &n[1].dx);
    same_bits("dw of a norm", &n[0].dw, &n[1].dw);
    if (rms)
        same_bits("db of an RMS norm", &n[0].db, &db);
    free(sums);
    norm_free(&n[0]);
    norm_free(&n[1]);
    buf_free(&y), buf_free(&dx), buf_free(&dw), buf_free(&db);
}

START_TEST(norms)
{
    static const int64_t SIZES[][5] = {/* rows, C, groups, elements after the vectors of a row of x, of y */
                                       {1, 1, 1, 0, 0},  {3, 5, 1, 0, 0},     {2, 5, 3, 0, 0},  {3, 7, 2, 9, 0},
                                       {5, 64, 1, 0, 8}, {4, 16, 3, 24, 8},   {7, 63, 2, 3, 5}, {5, 128, 4, 256, 128},
                                       {6, 40, 8, 0, 0}, {13, 1100, 1, 0, 0}, MORE_NORMS};
    const way_t *way = way_of(_i);
    if (way != NULL && !way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++)
        for (int k = 0; k < 2 * DTYPE_COUNT * MODES; k++)
            norm_case(way, SIZES[s], DTYPES[k % DTYPE_COUNT], k / DTYPE_COUNT % 2, k / DTYPE_COUNT / 2);
}
END_TEST

/* Sizes of 0 are the defaults: one group, dense rows. Both spellings have one plan. */
START_TEST(norm_defaults)
{
    for (int w = -1; w < 1; w++) {
        zero_nn_t *nn = context(way_of(w));
        zero_error_t error = {.status = ZERO_OK};
        float x[24], y[2][24], one[6] = {1, 1, 1, 1, 1, 1};
        seed_state = 3;
        for (int i = 0; i < 24; i++)
            x[i] = (float)uniform();
        zero_nn_norm_t l = {.rows = 4, .C = 6, .rms = true, .x = x, .w = one, .y = y[0]};
        zero_nn_set_dry(nn, true);
        zero_nn_norm_forward(nn, &l);
        zero_nn_set_dry(nn, false);
        zero_nn_norm_forward(nn, &l);
        l.groups = 1;
        l.ldx = l.ldy = 6;
        l.y = y[1];
        zero_nn_norm_forward(nn, &l);
        EXPECT(zero_nn_status(nn, &error) == ZERO_OK, "%s", error.text);
        EXPECT(memcmp(y[0], y[1], sizeof y[0]) == 0, "other bits with the defaults written out");
        l.rms = false;
        l.b = one;
        zero_nn_norm_forward(nn, &l); /* another norm has another plan */
        EXPECT(zero_nn_status(nn, &error) == ZERO_ERR_ORDER, "%s", error.text);
        zero_nn_destroy(nn);
    }
}
END_TEST

/* ---- activations ------------------------------------------------------------------------------------------------ */

static const char *const ACT_NAMES[ZERO_NN_ACTIVATION_COUNT] = {"gelu_new", "gelu", "relu", "silu"};

static double act_value(int act, double x)
{
    switch (act) {
    case ZERO_NN_GELU_NEW:
        return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ZERO_NN_GELU:
        return x * erfc(-x / sqrt(2)) / 2;
    case ZERO_NN_RELU:
        return x > 0 ? x : 0;
    default:
        return x / (1 + exp(-x));
    }
}

static double act_slope(int act, double x)
{
    const double scale = sqrt(2 / M_PI), u = scale * (x + 0.044715 * x * x * x), s = 1 / (1 + exp(-x));
    switch (act) {
    case ZERO_NN_GELU_NEW:
        return (1 + tanh(u)) / 2 + x / 2 * (1 - tanh(u) * tanh(u)) * scale * (1 + 3 * 0.044715 * x * x);
    case ZERO_NN_GELU:
        return erfc(-x / sqrt(2)) / 2 + x * exp(-x * x / 2) / sqrt(2 * M_PI);
    case ZERO_NN_RELU:
        return x > 0 ? 1 : 0;
    default:
        return s + x * s * (1 - s);
    }
}

typedef struct act {
    zero_nn_activation_t act;
    int64_t rows, F;
    buf_t x, y, dy, dx, bias; /* gated: x and dx (rows, 2F) */
    bool gated, in_place, sum;
} act_t;

static void call_act(zero_nn_t *nn, void *arg)
{
    const act_t *a = arg;
    const zero_dtype_t dtype = a->x.dtype;
    if (a->gated) {
        zero_nn_gated_forward(nn, a->act, a->y.data, a->x.data, a->rows, a->F, dtype);
        zero_nn_gated_backward(nn, a->act, a->dx.data, a->dy.data, a->in_place ? a->dx.data : a->x.data, a->rows, a->F,
                               dtype);
        return;
    }
    zero_nn_act_forward(nn, a->act, a->y.data, a->in_place ? a->y.data : a->x.data, a->rows * a->F, dtype);
    zero_nn_act_backward(nn, a->act, a->dx.data, a->sum ? a->bias.data : NULL, a->in_place ? a->dx.data : a->dy.data,
                         a->x.data, a->rows, a->F, dtype);
}

/* A run in place has its input in the buffer of the result; a dry run changes nothing. */
static act_t act_run(const way_t *way, int act, int64_t rows, int64_t F, zero_dtype_t dtype, int kind)
{
    seed_state = (uint64_t)(rows * 100 + F);
    act_t a = {.act = (zero_nn_activation_t)act, .rows = rows, .F = F, .gated = kind & 1, .in_place = kind & 2};
    a.sum = kind & 4;
    a.x = buf_random(dtype, rows * F * (a.gated ? 2 : 1), 6);
    a.dy = buf_random(dtype, rows * F, 1);
    a.y = a.in_place && !a.gated ? buf_copy(&a.x) : buf_random(dtype, rows * F, 1);
    a.dx = buf_copy(a.gated ? &a.x : &a.dy);
    a.bias = buf_random(dtype, F, 1);
    run(way, call_act, &a);
    return a;
}

static void act_free(act_t *a)
{
    buf_free(&a->x), buf_free(&a->y), buf_free(&a->dy), buf_free(&a->dx), buf_free(&a->bias);
}

static void check_act(const way_t *way, const act_t *a, const buf_t *bias)
{
    const double part = 24 * EPS32; /* of 1 and of the result */
    for (int64_t i = 0; i < a->rows * a->F; i++) {
        const int64_t at = a->gated ? i / a->F * 2 * a->F + i % a->F : i;
        const double x = buf_at(&a->x, at), up = a->gated ? buf_at(&a->x, at + a->F) : 1, dy = buf_at(&a->dy, i);
        const double value = act_value((int)a->act, x), slope = act_slope((int)a->act, x);
        const double error = part * fmin(1 + fabs(value), 1 + fabs(x));
        around(ACT_NAMES[a->act], way, &a->y, i, value * up, error * fabs(up));
        around(ACT_NAMES[a->act], way, &a->dx, at, dy * up * slope, 2 * part * fabs(dy * up));
        if (a->gated)
            around(ACT_NAMES[a->act], way, &a->dx, at + a->F, dy * value, error * fabs(dy));
    }
    for (int64_t c = 0; c < a->F && a->sum; c++) {
        double sum = buf_at(bias, c), size = fabs(sum);
        for (int64_t r = 0; r < a->rows; r++) {
            sum += buf_at(&a->dx, r * a->F + c);
            size += fabs(buf_at(&a->dx, r * a->F + c));
        }
        around("dbias of an activation", way, &a->bias, c, sum, (double)(a->rows + 2) * EPS32 * size);
    }
}

START_TEST(activations)
{
    static const int64_t SIZES[][2] = {{1, 1}, {3, 5}, {7, 63}, {2, 64}, {5, 200}, {2, 4100}, MORE_ROWS};
    const way_t *way = way_of(_i);
    if (way != NULL && !way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int k = 0; k < DTYPE_COUNT * ZERO_NN_ACTIVATION_COUNT * 6; k++) {
            const zero_dtype_t dtype = DTYPES[k % DTYPE_COUNT];
            const int act = k / DTYPE_COUNT % ZERO_NN_ACTIVATION_COUNT,
                      kind = k / DTYPE_COUNT / ZERO_NN_ACTIVATION_COUNT;
            if (kind == 5) /* gated has no bias */
                continue;
            act_t a = act_run(way, act, SIZES[s][0], SIZES[s][1], dtype, kind),
                  again = act_run(way, act, SIZES[s][0], SIZES[s][1], dtype, kind);
            act_t plain = act_run(way, act, SIZES[s][0], SIZES[s][1], dtype, kind & 3);
            check_act(way, &a, &plain.bias);
            same_bits(ACT_NAMES[act], &a.y, &again.y);
            same_bits(ACT_NAMES[act], &a.dx, &again.dx);
            same_bits("dx with a bias", &a.dx, &plain.dx);
            act_free(&a), act_free(&again), act_free(&plain);
        }
    }
}
END_TEST

/* Large arguments of either sign, zeros and values that are not finite. */
START_TEST(activation_limits)
{
    const float at[] = {-1e30f, -200, -90, -30, -13, -0.0f, 0, 1e-30f, 13, 30, 90, 200, 1e30f, NAN};
    enum { COUNT = sizeof at / sizeof at[0] };
    const way_t *way = way_of(_i);
    if (way != NULL && !way_runs(way))
        return;
    for (int act = 0; act < ZERO_NN_ACTIVATION_COUNT; act++) {
        act_t a = {.act = (zero_nn_activation_t)act, .rows = 1, .F = COUNT};
        a.x = buf_new(ZERO_FP32, COUNT), a.y = buf_new(ZERO_FP32, COUNT), a.dy = buf_new(ZERO_FP32, COUNT);
        a.dx = buf_new(ZERO_FP32, COUNT), a.bias = buf_new(ZERO_FP32, COUNT);
        for (int i = 0; i < COUNT; i++) {
            ((float *)a.x.data)[i] = at[i];
            ((float *)a.dy.data)[i] = 1;
        }
        run(way, call_act, &a);
        for (int i = 0; i < COUNT; i++) {
            const double x = at[i], y = buf_at(&a.y, i), dx = buf_at(&a.dx, i);
            const bool huge = fabs(x) > 1000; /* the cube of gelu_new overflows */
            const double value = huge ? fmax(x, 0) : act_value(act, x), slope = huge ? x > 0 : act_slope(act, x);
            if (isnan(x)) {
                EXPECT(isnan(y) && (act == ZERO_NN_RELU || isnan(dx)), "%s hides NaN", ACT_NAMES[act]);
                continue;
            }
            EXPECT(fabs(y - value) <= 2e-6 * fabs(value) + 1e-37, "%s(%g) is %g", ACT_NAMES[act], x, y);
            EXPECT(fabs(dx - slope) <= 2e-6 || (huge && act == ZERO_NN_GELU_NEW), "%s'(%g) is %g", ACT_NAMES[act], x,
                   dx);
        }
        act_free(&a);
    }
}
END_TEST

/* ---- rotary embedding ------------------------------------------------------------------------------------------- */

typedef struct rotary {
    zero_nn_rotary_t r;
    buf_t x, before;
    float frequencies[ZERO_NN_ROTARY_MOST / 2];
    int32_t *positions;
} rotary_t;

static void call_rotary(zero_nn_t *nn, void *arg)
{
    const rotary_t *o = arg;
    zero_nn_rotary(nn, &o->r);
}

/* s: rows, T, heads, D, R, elements behind the heads. kind: 1: positions, 2: a scale. */
static void rotary_case(const way_t *way, const int64_t s[6], zero_dtype_t dtype, int kind)
{
    rotary_t o = {.r = {.rows = s[0], .T = s[1], .heads = s[2], .D = s[3], .R = s[4], .dtype = dtype}};
    const int64_t width = s[2] * s[3], ld = width + s[5], R = s[4] == 0 ? s[3] : s[4], half = R / 2;
    const double scale = kind & 2 ? 1.25 : 1;
    seed_state = (uint64_t)(s[0] * 7 + s[3]);
    o.x = buf_random(dtype, s[0] * ld, 2);
    o.before = buf_copy(&o.x);
    o.positions = calloc((size_t)s[0], sizeof *o.positions);
    for (int64_t i = 0; i < half; i++)
        o.frequencies[i] = (float)pow(10000, -(double)(2 * i) / (double)R);
    for (int64_t r = 0; r < s[0]; r++)
        o.positions[r] = (int32_t)(kind & 1 ? r * 104729 % 131072 : r % s[1]);
    o.r.ld = s[5] == 0 ? 0 : ld;
    o.r.scale = kind & 2 ? scale : 0;
    o.r.positions = kind & 1 ? o.positions : NULL;
    o.r.frequencies = o.frequencies;
    o.r.x = o.x.data;
    for (int backward = 0; backward < 2; backward++) {
        memcpy(o.x.data, o.before.data, (size_t)o.x.count * zero_dtype_size(dtype));
        o.r.backward = backward != 0;
        run(way, call_rotary, &o);
        for (int64_t k = 0; k < s[0] * s[2] * s[3]; k++) {
            const int64_t r = k / width, i = k % s[3], at = r * ld + k % width;
            if (i >= R) {
                EXPECT(buf_at(&o.x, at) == buf_at(&o.before, at), "an element behind the rotation changes");
            } else if (i < half) {
                const float angle =
                    (float)o.positions[r] * o.frequencies[i]; /* rounded to fp32, as transformers does */
                const double c = cos((double)angle) * scale, n = (backward ? -1 : 1) * sin((double)angle) * scale;
                const double a = buf_at(&o.before, at), b = buf_at(&o.before, at + half);
                const double error = 6 * EPS32 * scale * (fabs(a) + fabs(b));
                around("rotary", way, &o.x, at, a * c - b * n, error);
                around("rotary", way, &o.x, at + half, b * c + a * n, error);
            }
        }
        gaps_kept("rotary", &o.x, &o.before, width, ld);
    }
    buf_free(&o.x), buf_free(&o.before);
    free(o.positions);
}

START_TEST(rotary)
{
    static const int64_t SIZES[][6] = {{1, 1, 1, 2, 0, 0},    {5, 3, 1, 6, 0, 0},   {4, 2, 3, 10, 6, 3},
                                       {7, 7, 4, 64, 0, 128}, {6, 3, 2, 72, 24, 8}, {3, 3, 9, 128, 0, 0},
                                       {9, 4, 1, 256, 0, 16}, {2, 1, 3, 5, 4, 1},   {300, 90, 5, 16, 0, 16}};
    const way_t *way = way_of(_i);
    if (way != NULL && !way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++)
        for (int k = 0; k < 4 * DTYPE_COUNT; k++)
            rotary_case(way, SIZES[s], DTYPES[k % DTYPE_COUNT], k / DTYPE_COUNT);
}
END_TEST

/* ---- rows that are put elsewhere -------------------------------------------------------------------------------- */

typedef struct put {
    zero_nn_put_t p;
    int64_t more; /* rows of a second call, which has no dry run of its own */
} put_t;

static void call_put(zero_nn_t *nn, void *arg)
{
    const put_t *o = arg;
    zero_nn_put_t p = o->p;
    zero_nn_put_rows(nn, &p);
    if (nn->dry)
        return;
    p.x = (const char *)p.x + (size_t)(p.rows * p.ldx) * zero_dtype_size(p.dtype);
    p.at += p.rows;
    p.rows = o->more;
    zero_nn_put_rows(nn, &p);
}

/* s: rows, more rows, C, elements between rows of x, of y, places. */
static void put_case(const way_t *way, const int64_t s[6], zero_dtype_t dtype)
{
    const int64_t ldx = s[2] + s[3], ldy = s[2] + s[4], rows = s[0] + s[1];
    buf_t x = buf_random(dtype, rows * ldx, 1), y = buf_random(dtype, s[5] * ldy, 1), want = buf_copy(&y);
    int32_t *at = calloc((size_t)rows, sizeof *at);
    put_t o = {.p = {.rows = s[0], .C = s[2], .ldx = ldx, .ldy = ldy, .places = s[5], .dtype = dtype}, .more = s[1]};
    for (int64_t r = 0; r < rows; r++) {
        at[r] = (int32_t)((s[5] - 1 - r * 3) % s[5]); /* 3 does not divide s[5] */
        at[r] += at[r] < 0 ? (int32_t)s[5] : 0;
        for (int64_t c = 0; c < s[2]; c++)
            zero_element_set(want.data, at[r] * ldy + c, dtype, (float)buf_at(&x, r * ldx + c));
    }
    o.p.at = at;
    o.p.x = x.data;
    o.p.y = y.data;
    run(way, call_put, &o);
    same_bits("put_rows", &y, &want);
    buf_free(&x), buf_free(&y), buf_free(&want);
    free(at);
}

START_TEST(put_rows)
{
    static const int64_t SIZES[][6] = {
        {1, 0, 1, 0, 0, 1}, {1, 4, 3, 5, 0, 7}, {5, 1, 64, 128, 0, 10}, {7, 3, 300, 1, 2, 70}, {0, 2, 9, 0, 0, 4}};
    const way_t *way = way_of(_i);
    if (way != NULL && !way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++)
        for (int d = 0; d < DTYPE_COUNT; d++)
            put_case(way, SIZES[s], DTYPES[d]);
}
END_TEST

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void refused(zero_nn_t *nn, zero_status_t status, const char *say)
{
    zero_error_t error = {.status = ZERO_OK};
    EXPECT(zero_nn_status(nn, &error) == status && has_names(error.text, say), "'%s' does not say '%s'", error.text,
           say);
}

START_TEST(norm_errors)
{
    float p[64] = {0};
    const zero_nn_norm_t good = {
        .rows = 2, .C = 3, .groups = 2, .rms = true, .x = p, .w = p, .y = p, .rstd = p, .dy = p, .dx = p, .dw = p};
    for (int w = -1; w < 1; w++) {
        zero_nn_t *nn = context(way_of(w));
        zero_nn_norm_t l = good;
        zero_nn_set_dry(nn, true);
        l.ldx = 5;
        zero_nn_norm_forward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "norm_forward ldx");
        l.ldx = 6;
        l.ldy = 7;
        zero_nn_norm_forward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "norm_forward place");
        zero_nn_norm_backward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "norm_backward place");
        l = good;
        l.dbias = p;
        zero_nn_norm_backward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "dbias");
        l.groups = 1;
        l.ldx = l.ldy = 4;
        zero_nn_norm_backward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "dbias");
        l = good;
        l.groups = -1;
        zero_nn_norm_forward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "-1");
        l = good;
        zero_nn_norm_forward(nn, &l);
        zero_nn_set_dry(nn, false);
        l.w = NULL;
        zero_nn_norm_forward(nn, &l);
        refused(nn, ZERO_ERR_ARG, "NULL");
        zero_nn_destroy(nn);
    }
}
END_TEST

START_TEST(row_errors)
{
    static const struct {
        zero_nn_rotary_t r;
        const char *say;
    } CASES[] = {
        {{.rows = 2, .T = 2, .heads = 1, .D = 258}, "rotary 256"},
        {{.rows = 2, .T = 2, .heads = 1, .D = 7}, "rotary R"},
        {{.rows = 2, .T = 2, .heads = 1, .D = 8, .R = 10}, "rotary R"},
        {{.rows = 2, .T = 2, .heads = 2, .D = 8, .ld = 15}, "rotary ld"},
        {{.rows = 2, .heads = 2, .D = 8}, "rotary T"},
        {{.rows = -1, .heads = 2, .D = 8}, "-1"},
    };
    float p[64] = {0};
    int32_t places[2] = {0};
    for (int w = -1; w < 1; w++) {
        zero_nn_t *nn = context(way_of(w));
        p[0] = 1;
        const zero_nn_activation_t none = (zero_nn_activation_t)ZERO_NN_ACTIVATION_COUNT;
        zero_nn_set_dry(nn, true);
        for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
            zero_nn_rotary(nn, &CASES[i].r);
            refused(nn, ZERO_ERR_ARG, CASES[i].say);
        }
        zero_nn_act_forward(nn, none, p, p, 4, ZERO_FP32);
        refused(nn, ZERO_ERR_ARG, "act_forward activation 4");
        zero_nn_act_backward(nn, none, p, NULL, p, p, 1, 4, ZERO_FP32);
        refused(nn, ZERO_ERR_ARG, "act_backward activation 4");
        zero_nn_gated_forward(nn, none, p, p, 1, 4, ZERO_FP32);
        refused(nn, ZERO_ERR_ARG, "gated_forward activation 4");
        zero_nn_gated_backward(nn, none, p, p, p, 1, 4, ZERO_FP32);
        refused(nn, ZERO_ERR_ARG, "gated_backward activation 4");
        zero_nn_act_forward(nn, ZERO_NN_SILU, NULL, NULL, 4, ZERO_FP32);
        zero_nn_gated_forward(nn, ZERO_NN_SILU, NULL, NULL, 1, 4, ZERO_FP32);
        zero_nn_rotary(nn, &(zero_nn_rotary_t){.rows = 2, .T = 2, .heads = 2, .D = 8});
        zero_nn_put_rows(nn, &(zero_nn_put_t){.rows = 1, .C = 4});
        zero_nn_set_dry(nn, false);
        zero_nn_act_forward(nn, ZERO_NN_RELU, p, p, 4, ZERO_FP32); /* each activation has its plan */
        refused(nn, ZERO_ERR_ORDER, "act_forward");
        zero_nn_gated_forward(nn, ZERO_NN_SILU, p, NULL, 1, 4, ZERO_FP32);
        refused(nn, ZERO_ERR_ARG, "gu NULL");
        zero_nn_rotary(nn, &(zero_nn_rotary_t){.rows = 2, .T = 2, .heads = 2, .D = 8, .x = p});
        refused(nn, ZERO_ERR_ARG, "frequencies NULL");
        zero_nn_put_rows(nn, &(zero_nn_put_t){.rows = 2, .C = 4, .ldx = 3});
        refused(nn, ZERO_ERR_ARG, "put_rows 3 ldx");
        zero_nn_put_rows(nn, &(zero_nn_put_t){.rows = -1, .C = 4});
        refused(nn, ZERO_ERR_ARG, "put_rows -1");
        zero_nn_put_rows(nn, &(zero_nn_put_t){.rows = 2, .C = 5, .places = 6, .at = places, .x = p, .y = p + 16});
        refused(nn, ZERO_ERR_ORDER, "put_rows");
        for (int i = 0; i < 2; i++) {
            places[1] = i == 0 ? 6 : -1;
            zero_nn_put_rows(nn, &(zero_nn_put_t){.rows = 2, .C = 4, .places = 6, .at = places, .x = p, .y = p + 16});
            refused(nn, ZERO_ERR_ARG, i == 0 ? "put_rows place 6 row 1 0 6" : "-1 row 1");
            EXPECT(p[16] == 0, "written for a bad place");
        }
        zero_nn_destroy(nn);
    }
}
END_TEST

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_decoder");
    TCase *tc = tcase_create("nn_decoder");
    tcase_set_timeout(tc, 240);
    tcase_add_loop_test(tc, norms, -1, WAY_COUNT);
    tcase_add_test(tc, norm_defaults);
    tcase_add_test(tc, norm_errors);
    tcase_add_loop_test(tc, activations, -1, WAY_COUNT);
    tcase_add_loop_test(tc, activation_limits, -1, WAY_COUNT);
    tcase_add_loop_test(tc, rotary, -1, WAY_COUNT);
    tcase_add_loop_test(tc, put_rows, -1, WAY_COUNT);
    tcase_add_test(tc, row_errors);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
