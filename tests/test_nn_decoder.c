/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_decoder.c - kernels/nn: what Llama and models like it need: norms of rows and of heads inside rows. Every
 * backend, ref included, is compared with fp64 formulas. A result must lie between the rounded ends of an interval
 * around the exact value, so a rounding in the wrong place is an error. */
#include "tests/expect.h"
#include "tests/nn_common.h"

/* Beyond these sizes CUDA's kernels divide the work differently: rows of parts, columns of a thread. */
#if defined(ZERO_TEST_CUDA)
#define MORE_NORMS                          \
    {4300, 6, 1, 0, 0}, {9, 4101, 1, 0, 0}, \
    {                                       \
        1700, 8, 10, 16, 8                  \
    }
#else
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
    return dtype == ZERO_BF16 ? (double)zero_bf16_to_fp32(zero_fp32_to_bf16(y)) : (double)y;
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
        for (int k = 0; k < 4 * MODES; k++)
            norm_case(way, SIZES[s], DTYPES[k % 2], k / 2 % 2, k / 4);
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

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_decoder");
    TCase *tc = tcase_create("nn_decoder");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, norms, -1, WAY_COUNT);
    tcase_add_test(tc, norm_defaults);
    tcase_add_test(tc, norm_errors);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
