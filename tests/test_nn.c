/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn.c - kernels/nn: GEMM against fp64, within the bound of fp32 sums; its epilogues against the calls that they
 * replace; rows, elements and embeddings of cpu against ref; the same bits in every run; the given number of threads.
 * test_nn_model.c has the rest. Each test runs in a child process, so the parent never runs an OpenMP region. */
#include "tests/expect.h"
#include "tests/nn_common.h"

#include <dirent.h>
#include <omp.h>
#include <pthread.h>

/* Beyond these sizes CUDA's kernels divide the work differently: rows of partial sums, columns of a thread, tokens of a
 * tile. */
#if defined(ZERO_TEST_CUDA)
#define MANY_ROWS \
    {             \
        8300, 3   \
    }
#define LONG_ROWS                     \
    {9, 4101}, {5, 8200}, {6, 16400}, \
    {                                 \
        4300, 6                       \
    }
#define MANY_TOKENS      \
    {3, 700, 3, 40},     \
    {                    \
        2, 900, 2, 70000 \
    }
#else
#define MANY_ROWS \
    {             \
        300, 3    \
    }
#define LONG_ROWS \
    {             \
        300, 6    \
    }
#define MANY_TOKENS   \
    {                 \
        3, 200, 3, 40 \
    }
#endif

/* ---- GEMM ------------------------------------------------------------------------------------------------------- */

static void gemm_case(const way_t *way, zero_nn_gemm_t g, int64_t pad, bool bias, bool ref)
{
    int64_t lda = (g.trans_a ? g.m : g.k) + pad, ldb = (g.trans_b ? g.k : g.n) + pad, ldc = g.n + pad;
    if (pad > 0) {
        g.lda = lda;
        g.ldb = ldb;
        g.ldc = ldc;
    }
    buf_t a = buf_random(g.dtype, (g.trans_a ? g.k : g.m) * lda, 1),
          b = buf_random(g.dtype, (g.trans_b ? g.n : g.k) * ldb, 1);
    const zero_dtype_t c_dtype = g.wide ? ZERO_FP32 : g.dtype;
    const bool twice =
        way->cuda && g.k >= 1024 && g.k % 8 != 0 && c_dtype != ZERO_FP32; /* in two products, each rounded */
    buf_t v = buf_random(g.dtype, g.n, 1), c = buf_random(c_dtype, g.m * ldc, 1), want = buf_copy(&c),
          again = buf_copy(&c);
    double *bound = calloc((size_t)(g.m * ldc) + 1, sizeof *bound);
    g.a = a.data;
    g.b = b.data;
    g.bias = bias ? v.data : NULL;
    /* The exact result and the bound, in fp64: each of the two sums of k products has an error of at most (k + 2)
     * roundings of the sum of magnitudes. */
    for (int64_t i = 0; i < g.m; i++) {
        for (int64_t j = 0; j < g.n; j++) {
            double sum = bias ? buf_at(&v, j) : 0, size = fabs(sum);
            for (int64_t l = 0; l < g.k; l++) {
                double x = buf_at(&a, g.trans_a ? l * lda + i : i * lda + l) *
                           buf_at(&b, g.trans_b ? j * ldb + l : l * ldb + j);
                sum += x;
                size += fabs(x);
            }
            if (g.accumulate) {
                sum += buf_at(&c, i * ldc + j);
                size += fabs(buf_at(&c, i * ldc + j));
            }
            zero_element_set(want.data, i * ldc + j, c_dtype, (float)sum);
            bound[i * ldc + j] = (double)(g.k + 2) * EPS32 * size + (twice ? eps_of(c_dtype) * size : 0);
        }
    }
    g.c = c.data;
    run(ref ? NULL : way, call_gemm, &g);
    char what[160];
    snprintf(what, sizeof what, "gemm m %lld n %lld k %lld ta %d tb %d acc %d wide %d bias %d pad %lld", (long long)g.m,
             (long long)g.n, (long long)g.k, g.trans_a, g.trans_b, g.accumulate, g.wide, bias, (long long)pad);
    close_to(what, way, &c, &want, bound, 0); /* the bytes between the rows must not change: bound 0 there */
    g.c = again.data;
    run(ref ? NULL : way, call_gemm, &g);
    same_bits(what, &c, &again);
    free(bound);
    buf_t *all[] = {&a, &b, &v, &c, &want, &again};
    for (int i = 0; i < 6; i++)
        buf_free(all[i]);
}

START_TEST(gemm_against_fp64)
{
    const way_t *way = &WAYS[_i % WAY_COUNT];
    static const int64_t SIZES[][3] = {{1, 1, 1},   {3, 5, 7},     {17, 33, 65}, {64, 48, 31},  {5, 130, 257},
                                       {130, 5, 3}, {13, 17, 600}, {31, 37, 0},  {1, 203, 101}, {1, 3, 1025}};
    if (!way_runs(way))
        return;
    for (int d = 0; d < DTYPE_COUNT; d++) {
        for (size_t i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++) {
            for (int flags = 0; flags < 16; flags++) {
                zero_nn_gemm_t g = {.m = SIZES[i][0],
                                    .n = SIZES[i][1],
                                    .k = SIZES[i][2],
                                    .trans_a = flags & 1,
                                    .trans_b = flags & 2,
                                    .accumulate = flags & 4,
                                    .dtype = DTYPES[d]};
                gemm_case(way, g, (flags + (int)i) % 3 == 0 ? 3 : 0, flags & 8, false);
                if (_i == 0)
                    gemm_case(way, g, (flags + (int)i) % 3 == 0 ? 3 : 0, flags & 8, true);
            }
        }
        /* A long sum, which uses another implementation. */
        gemm_case(way, (zero_nn_gemm_t){.m = 7, .n = 19, .k = 5003, .dtype = DTYPES[d]}, 0, true, false);
        gemm_case(way,
                  (zero_nn_gemm_t){.m = 7, .n = 19, .k = 5003, .trans_b = true, .accumulate = true, .dtype = DTYPES[d]},
                  0, false, false);
        /* Beyond a block's rows, columns and depth. */
        gemm_case(way,
                  (zero_nn_gemm_t){.m = 1560, .n = 19, .k = 5, .trans_a = true, .accumulate = true, .dtype = DTYPES[d]},
                  0, false, false);
        gemm_case(way, (zero_nn_gemm_t){.m = 14, .n = 3100, .k = 9, .trans_b = true, .dtype = DTYPES[d]}, 0, true,
                  false);
        gemm_case(way, (zero_nn_gemm_t){.m = 1, .n = 5001, .k = 19, .dtype = DTYPES[d]}, 0, true, false);
        gemm_case(way, (zero_nn_gemm_t){.m = 1, .n = 5001, .k = 19, .trans_b = true, .dtype = DTYPES[d]}, 5, true,
                  false);
        gemm_case(way, (zero_nn_gemm_t){.m = 40, .n = 50, .k = 777, .dtype = DTYPES[d], .accumulate = true}, 1, true,
                  false);
        /* A long size that is not a multiple of 8, in matrices whose rows are. */
        gemm_case(
            way, (zero_nn_gemm_t){.m = 1157, .n = 13, .k = 40, .trans_a = true, .accumulate = true, .dtype = DTYPES[d]},
            3, true, false);
        gemm_case(way, (zero_nn_gemm_t){.m = 13, .n = 1157, .k = 37, .trans_b = true, .dtype = DTYPES[d]}, 3, true,
                  false);
        gemm_case(way, (zero_nn_gemm_t){.m = 13, .n = 1157, .k = 37, .dtype = DTYPES[d]}, 3, false, false);
        gemm_case(way, (zero_nn_gemm_t){.m = 13, .n = 21, .k = 1157, .dtype = DTYPES[d]}, 3, true, false);
        gemm_case(
            way,
            (zero_nn_gemm_t){
                .m = 13, .n = 21, .k = 1157, .trans_a = true, .trans_b = true, .accumulate = true, .dtype = DTYPES[d]},
            3, true, false);
        /* Sums that stay in fp32. */
        for (int i = 0; i < 5; i++) {
            static const int64_t WIDE[][3] = {{17, 33, 65}, {1157, 13, 40}, {1560, 1, 9}, {31, 37, 0}, {1, 90, 33}};
            zero_nn_gemm_t g = {
                .m = WIDE[i][0], .n = WIDE[i][1], .k = WIDE[i][2], .trans_a = i < 4, .wide = true, .dtype = DTYPES[d]};
            gemm_case(way, g, 3, false, _i == 0);
            g.accumulate = true;
            gemm_case(way, g, 3, false, false);
        }
    }
}
END_TEST

/* ---- epilogues -------------------------------------------------------------------------------------------------- */

/* The separate calls that a product with an epilogue replaces. */
static void call_apart(zero_nn_t *nn, void *arg)
{
    const zero_nn_gemm_t *g = arg;
    zero_nn_gemm_t plain = *g;
    bool backward = g->epilogue == ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD;
    plain.epilogue = ZERO_NN_EPILOGUE_NONE;
    plain.dbias = NULL;
    plain.c = backward ? g->c : g->aux;
    zero_nn_gemm(nn, &plain);
    if (backward)
        zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, g->c, g->dbias, g->c, g->aux, g->m, g->n, g->dtype);
    else
        zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, g->c, g->aux, g->m * g->n, g->dtype);
}

static void epilogue_case(const way_t *way, zero_nn_gemm_t g, bool bias)
{
    bool backward = g.epilogue == ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD, may_fuse = way->cuda && g.dtype != ZERO_FP32;
    int64_t count = g.m * g.n;
    buf_t a = buf_random(g.dtype, g.m * g.k, 1), b = buf_random(g.dtype, g.k * g.n, 1), v = buf_random(g.dtype, g.n, 1);
    buf_t c[3], aux[3], start = buf_random(g.dtype, count, 1), before = buf_random(g.dtype, count, 3);
    char what[160];
    g.a = a.data;
    g.b = b.data;
    g.bias = bias ? v.data : NULL;
    for (int i = 0; i < 3; i++) { /* ref; the way; the way again, if it has the same bits as the separate calls */
        c[i] = buf_copy(&start);
        aux[i] = buf_copy(&before);
        g.c = c[i].data;
        g.aux = aux[i].data;
        run(i == 0 ? NULL : way, i == 2 && !may_fuse ? call_apart : call_gemm, &g);
    }
    snprintf(what, sizeof what, "gemm m %lld n %lld k %lld ta %d tb %d epilogue %d bias %d", (long long)g.m,
             (long long)g.n, (long long)g.k, g.trans_a, g.trans_b, (int)g.epilogue, bias);
    /* The sums have another order, and the separate calls round the value in between. gelu and gelu' multiply a
     * difference by at most 1.13. A GPU's tanh in 16 bits may have an error of one part in 1024 of what it is
     * multiplied with. */
    double *bound = calloc((size_t)count, sizeof *bound), one = eps_of(g.dtype),
           tanh_error = may_fuse ? 0x1p-10 : 4 * EPS32;
    for (int64_t i = 0; i < count; i++)
        bound[i] = 2 * (double)(g.k + 2) * EPS32 * (double)g.k;
    if (backward)
        same_bits(what, &aux[1], &before);
    else
        close_to(what, way, &aux[1], &aux[0], bound, 0);
    for (int64_t i = 0; i < count; i++) {
        double x = buf_at(&aux[0], i), between = backward ? fabs(buf_at(&c[0], i)) : fabs(x);
        bound[i] =
            1.2 * (bound[i] + one * between) + tanh_error * (backward ? sqrt((double)g.k) * (1 + fabs(x)) : fabs(x));
    }
    close_to(what, way, &c[1], &c[0], bound, 0);
    same_bits(what, &c[1], &c[2]);
    same_bits(what, &aux[1], &aux[2]);
    free(bound);
    buf_t *all[] = {&a, &b, &v, &start, &before, &c[0], &c[1], &c[2], &aux[0], &aux[1], &aux[2]};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
}

START_TEST(epilogues_against_ref)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][3] = {{1, 8, 2}, {5, 16, 24}, {33, 72, 40}, {7, 15, 9},
                                       {4, 1, 6}, {6, 8, 1},   {9, 24, 600}};
    if (!way_runs(way))
        return;
    seed_state = 31;
    for (size_t i = 0; i < sizeof SIZES / sizeof SIZES[0]; i++) {
        for (int n = 0; n < 8 * DTYPE_COUNT; n++) {
            bool backward = n & 1;
            epilogue_case(
                way,
                (zero_nn_gemm_t){.m = SIZES[i][0],
                                 .n = SIZES[i][1],
                                 .k = SIZES[i][2],
                                 .dtype = DTYPES[n / 8],
                                 .trans_a = n & 2,
                                 .trans_b = n & 4,
                                 .epilogue = backward ? ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD : ZERO_NN_EPILOGUE_GELU_NEW},
                !backward && n & 2);
        }
    }
}
END_TEST

/* Operands that an epilogue does not allow are refused, by every backend in the same way. */
START_TEST(epilogue_errors)
{
    char c, bias;
    const struct {
        zero_nn_gemm_t g;
        const char *say;
    } cases[] = {
        {{.epilogue = (zero_nn_epilogue_t)3}, ""},
        {{.epilogue = ZERO_NN_EPILOGUE_GELU_NEW, .accumulate = true}, "accumulate"},
        {{.epilogue = ZERO_NN_EPILOGUE_GELU_NEW, .ldc = 16}, "dense"},
        {{.epilogue = ZERO_NN_EPILOGUE_GELU_NEW, .c = &c, .aux = &c}, ""},
        {{.epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD, .bias = &bias}, ""},
        {{.epilogue = ZERO_NN_EPILOGUE_GELU_NEW, .dbias = &bias}, ""},
        {{.dbias = &bias}, ""},
        {{.wide = true, .dbias = &bias}, ""},
        {{.wide = true, .bias = &bias}, "fp32"},
        {{.wide = true, .epilogue = ZERO_NN_EPILOGUE_GELU_NEW}, "fp32"},
    };
    for (int w = -1; w < 1; w++) {
        zero_nn_t *nn = context(w < 0 ? NULL : &WAYS[0]);
        zero_nn_set_dry(nn, true);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            zero_error_t error = {.status = ZERO_OK};
            zero_nn_gemm_t g = cases[i].g;
            g.m = g.k = 4;
            g.n = 8;
            g.dtype = ZERO_BF16;
            zero_nn_gemm(nn, &g);
            EXPECT(zero_nn_status(nn, &error) == ZERO_ERR_ARG && has_names(error.text, cases[i].say),
                   "'%s' does not say '%s'", error.text, cases[i].say);
        }
        zero_nn_destroy(nn);
    }
}
END_TEST

/* ---- rows and elements: cpu against ref ------------------------------------------------------------------------- */

typedef struct rows {
    buf_t x, w, b, y, dy, residual, dx, dw, db;
    float *mean, *rstd;
    int64_t n, C;
    bool in_place;
} rows_t;

static void call_bias_backward(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_bias_backward(nn, r->db.data, r->dy.data, r->n, r->C, r->x.dtype);
}

static void call_norm(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = r->n,
                                               .C = r->C,
                                               .eps = 1e-5,
                                               .dtype = r->x.dtype,
                                               .x = r->x.data,
                                               .w = r->w.data,
                                               .b = r->b.data,
                                               .y = r->y.data,
                                               .mean = r->mean,
                                               .rstd = r->rstd});
}

/* dx = x + dy, and y its norm: in two calls, or in one, which may use x for dx. */
static void call_add_and_norm(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_add(nn, r->dx.data, r->x.data, r->dy.data, r->n * r->C, r->x.dtype);
    zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = r->n,
                                               .C = r->C,
                                               .eps = 1e-5,
                                               .dtype = r->x.dtype,
                                               .x = r->dx.data,
                                               .w = r->w.data,
                                               .b = r->b.data,
                                               .y = r->y.data,
                                               .mean = r->mean,
                                               .rstd = r->rstd});
}

static void call_add_norm(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    if (r->in_place)
        memcpy(r->dx.data, r->x.data, (size_t)(r->n * r->C) * zero_dtype_size(r->x.dtype));
    zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = r->n,
                                               .C = r->C,
                                               .eps = 1e-5,
                                               .dtype = r->x.dtype,
                                               .x = r->in_place ? r->dx.data : r->x.data,
                                               .w = r->w.data,
                                               .b = r->b.data,
                                               .residual = r->dy.data,
                                               .total = r->dx.data,
                                               .y = r->y.data,
                                               .mean = r->mean,
                                               .rstd = r->rstd});
}

static void call_norm_backward(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = r->n,
                                                .C = r->C,
                                                .dtype = r->x.dtype,
                                                .x = r->x.data,
                                                .w = r->w.data,
                                                .mean = r->mean,
                                                .rstd = r->rstd,
                                                .dy = r->dy.data,
                                                .dresidual = r->in_place ? r->dx.data : r->residual.data,
                                                .dx = r->dx.data,
                                                .dw = r->dw.data,
                                                .db = r->db.data});
}

static void call_gelu(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, r->y.data, r->in_place ? r->y.data : r->x.data, r->n * r->C, r->x.dtype);
}

static void call_gelu_backward(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, r->dx.data, NULL, r->in_place ? r->dx.data : r->dy.data, r->x.data, r->n,
                         r->C, r->x.dtype);
}

static void call_add(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_add(nn, r->y.data, r->x.data, r->in_place ? r->y.data : r->dy.data, r->n * r->C, r->x.dtype);
}

static void call_scale(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    zero_nn_scale(nn, r->y.data, r->in_place ? r->y.data : r->x.data, 0.3, r->n * r->C, r->x.dtype);
}

/* x's values as fp32, whatever its dtype is. */
static void call_add_sums(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    const int64_t count = r->n * r->C;
    float *sums = malloc((size_t)count * sizeof *sums);
    for (int64_t i = 0; i < count; i++)
        sums[i] = (float)buf_at(&r->x, i) * 1.001f;
    zero_nn_add_sums(nn, r->y.data, sums, count, r->x.dtype);
    free(sums);
}

/* The next two support only fp32: in 16 bits, y does not change. */
static void call_combine(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    if (r->x.dtype == ZERO_FP32)
        zero_nn_combine(nn, (void *)r->y.data, 3.25, (void *)r->x.data, -0.7,
                        (void *)(r->in_place ? r->y.data : r->dy.data), r->n * r->C);
}

static void call_normalize(zero_nn_t *nn, void *arg)
{
    rows_t *r = arg;
    if (r->x.dtype == ZERO_FP32)
        zero_nn_normalize(nn, (void *)r->y.data, (void *)(r->in_place ? r->y.data : r->x.data), r->n * r->C, 1e-7);
}

static rows_t rows_new(zero_dtype_t dtype, int64_t n, int64_t C, uint64_t seed)
{
    seed_state = seed;
    rows_t r = {
        .n = n, .C = C, .x = buf_random(dtype, n * C, 3), .w = buf_random(dtype, C, 1), .b = buf_random(dtype, C, 1)};
    r.y = buf_random(dtype, n * C, 1);
    r.dy = buf_random(dtype, n * C, 1);
    r.residual = buf_random(dtype, n * C, 1);
    r.dx = buf_random(dtype, n * C, 1);
    r.dw = buf_random(dtype, C, 1);
    r.db = buf_random(dtype, C, 1);
    r.mean = calloc((size_t)n, sizeof(float));
    r.rstd = calloc((size_t)n, sizeof(float));
    return r;
}

static void rows_free(rows_t *r)
{
    buf_t *all[] = {&r->x, &r->w, &r->b, &r->y, &r->dy, &r->residual, &r->dx, &r->dw, &r->db};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
    free(r->mean);
    free(r->rstd);
}

static const struct {
    const char *name;
    call_fn call;
    double y, dx,
        sums; /* errors allowed beyond the rounding to dtype: for y and dx; for dw and db, times the number of rows */
} ROW_CALLS[] = {
    {"bias_backward", call_bias_backward, 0, 0, 8 * EPS32},
    {"gelu_forward", call_gelu, 16 * EPS32, 0, 0},
    {"gelu_backward", call_gelu_backward, 0, 32 * EPS32, 0},
    {"add", call_add, 0, 0, 0},
    {"scale", call_scale, 0, 0, 0},
    {"add_sums", call_add_sums, 0, 0, 0},
    {"combine", call_combine, 4 * EPS32, 0, 0},
    {"normalize", call_normalize, 4 * EPS32, 0, 0},
};

START_TEST(rows_against_ref)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][2] = {{1, 1}, {3, 5}, {7, 63}, {2, 64}, {5, 200}, {33, 1100}, {40, 2100}, MANY_ROWS};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            for (size_t c = 0; c < sizeof ROW_CALLS / sizeof ROW_CALLS[0]; c++) {
                rows_t r[3];
                for (int i = 0; i < 3; i++) {
                    r[i] = rows_new(DTYPES[d % DTYPE_COUNT], SIZES[s][0], SIZES[s][1], 7 * s + c);
                    r[i].in_place = d >= DTYPE_COUNT;
                    run(i == 0 ? NULL : way, ROW_CALLS[c].call, &r[i]);
                }
                close_to(ROW_CALLS[c].name, way, &r[1].y, &r[0].y, NULL, ROW_CALLS[c].y);
                close_to(ROW_CALLS[c].name, way, &r[1].dx, &r[0].dx, NULL, ROW_CALLS[c].dx);
                close_to(ROW_CALLS[c].name, way, &r[1].db, &r[0].db, NULL, ROW_CALLS[c].sums * (double)r[0].n);
                same_bits(ROW_CALLS[c].name, &r[1].y, &r[2].y);
                same_bits(ROW_CALLS[c].name, &r[1].dx, &r[2].dx);
                same_bits(ROW_CALLS[c].name, &r[1].db, &r[2].db);
                for (int i = 0; i < 3; i++)
                    rows_free(&r[i]);
            }
        }
    }
}
END_TEST

/* Layer norm's gradient uses its statistics: ref's for both. */
START_TEST(norm_against_ref)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][2] = {{1, 2}, {3, 5}, {7, 63}, {2, 64}, {5, 200}, {33, 1100}, {40, 2100}, LONG_ROWS};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            rows_t r[3];
            double C = (double)SIZES[s][1], n = (double)SIZES[s][0];
            for (int i = 0; i < 3; i++) {
                r[i] = rows_new(DTYPES[d % DTYPE_COUNT], SIZES[s][0], SIZES[s][1], 100 + s);
                r[i].in_place = d >= DTYPE_COUNT;
                run(i == 0 ? NULL : way, call_norm, &r[i]);
                for (int64_t j = 0; j < r[i].n; j++) {
                    EXPECT(fabs(r[i].mean[j] - r[0].mean[j]) <= 4 * C * EPS32, "mean %g, ref %g", r[i].mean[j],
                           r[0].mean[j]);
                    EXPECT(fabs(r[i].rstd[j] / r[0].rstd[j] - 1) <= 16 * C * EPS32, "rstd %g, ref %g", r[i].rstd[j],
                           r[0].rstd[j]);
                }
                memcpy(r[i].mean, r[0].mean, (size_t)r[i].n * sizeof(float));
                memcpy(r[i].rstd, r[0].rstd, (size_t)r[i].n * sizeof(float));
                run(i == 0 ? NULL : way, call_norm_backward, &r[i]);
            }
            double rstd = 0;
            for (int64_t j = 0; j < r[0].n; j++)
                rstd = fmax(rstd, r[0].rstd[j]);
            close_to("layernorm y", way, &r[1].y, &r[0].y, NULL, 32 * C * EPS32 * fmax(1, rstd));
            close_to("layernorm dx", way, &r[1].dx, &r[0].dx, NULL, 32 * C * EPS32 * fmax(1, rstd));
            close_to("layernorm dw", way, &r[1].dw, &r[0].dw, NULL, 8 * n * EPS32 * 6 * fmax(1, rstd));
            close_to("layernorm db", way, &r[1].db, &r[0].db, NULL, 8 * n * EPS32);
            same_bits("layernorm y", &r[1].y, &r[2].y);
            same_bits("layernorm dx", &r[1].dx, &r[2].dx);
            same_bits("layernorm dw", &r[1].dw, &r[2].dw);
            same_bits("layernorm db", &r[1].db, &r[2].db);
            for (int i = 0; i < 3; i++)
                rows_free(&r[i]);
        }
    }
}
END_TEST

/* The norm's kernel adds the residual: the bits of the two calls. */
START_TEST(norm_of_a_sum)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][2] = {{1, 2}, {3, 5}, {2, 64}, {33, 1100}};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            rows_t r[2];
            for (int i = 0; i < 2; i++) {
                r[i] = rows_new(DTYPES[d % DTYPE_COUNT], SIZES[s][0], SIZES[s][1], 300 + s);
                r[i].in_place = d >= DTYPE_COUNT;
                run(way, i == 0 ? call_add_and_norm : call_add_norm, &r[i]);
            }
            same_bits("the sum", &r[0].dx, &r[1].dx);
            same_bits("its norm", &r[0].y, &r[1].y);
            EXPECT(memcmp(r[0].mean, r[1].mean, (size_t)r[0].n * sizeof(float)) == 0 &&
                       memcmp(r[0].rstd, r[1].rstd, (size_t)r[0].n * sizeof(float)) == 0,
                   "other statistics");
            for (int i = 0; i < 2; i++)
                rows_free(&r[i]);
        }
    }
}
END_TEST

/* Gradients of weights that nobody wants: dx stays as it is. */
START_TEST(norm_of_frozen_weights)
{
    for (int i = -2; i < 2 * WAY_COUNT; i++) {
        const way_t *way = i < 0 ? NULL : &WAYS[i / 2];
        rows_t r[2];
        if (way != NULL && !way_runs(way))
            continue;
        for (int k = 0; k < 2; k++) {
            r[k] = rows_new(DTYPES[(i + 2) % 2], 9, 70, 1);
            run(way, call_norm, &r[k]);
            const buf_t dw = r[k].dw, db = r[k].db;
            if (k == 1)
                r[k].dw.data = r[k].db.data = NULL;
            run(way, call_norm_backward, &r[k]);
            r[k].dw = dw;
            r[k].db = db;
        }
        same_bits("dx of a frozen layernorm", &r[0].dx, &r[1].dx);
        for (int k = 0; k < 2; k++)
            rows_free(&r[k]);
    }
}
END_TEST

/* Statistics are optional. */
START_TEST(norm_without_statistics)
{
    for (int i = -1; i < WAY_COUNT; i++) {
        const way_t *way = i < 0 ? NULL : &WAYS[i];
        if (way != NULL && !way_runs(way))
            continue;
        rows_t r = rows_new(ZERO_FP32, 3, 37, 1);
        buf_t y = buf_copy(&r.y);
        run(way, call_norm, &r);
        float *mean = r.mean, *rstd = r.rstd;
        r.mean = r.rstd = NULL;
        buf_t with = r.y;
        r.y = y;
        run(way, call_norm, &r);
        same_bits("layernorm without statistics", &with, &r.y);
        buf_free(&with);
        r.mean = mean;
        r.rstd = rstd;
        rows_free(&r);
    }
}
END_TEST

typedef struct words {
    int64_t B, T, C, V;
    int32_t *tokens;
    buf_t wte, wpe, y, dwte, dwpe;
    bool positions, tiled;
} words_t;

/* The same in tiles; the gradient of positions first, in a call without a tile. */
static void call_embedding_tiles(zero_nn_t *nn, words_t *w)
{
    const int64_t most = w->V / 3 + 1, C = w->C;
    const zero_dtype_t dtype = w->wte.dtype;
    for (int64_t v = 0; v < w->V; v += most) {
        const zero_nn_tile_t tile = {v, w->V - v < most ? w->V - v : most};
        zero_nn_embedding_forward_tile(nn, w->y.data, w->tokens, w->wte.data + (size_t)(v * C) * zero_dtype_size(dtype),
                                       w->positions ? w->wpe.data : NULL, tile, w->B, w->T, C, dtype);
    }
    if (w->positions)
        zero_nn_embedding_backward_tile(nn, NULL, w->dwpe.data, w->y.data, w->tokens, (zero_nn_tile_t){0, 0}, w->B,
                                        w->T, C, w->V, dtype);
    for (int64_t v = 0; v < w->V; v += most) {
        const zero_nn_tile_t tile = {v, w->V - v < most ? w->V - v : most};
        zero_nn_embedding_backward_tile(nn, w->dwte.data + (size_t)(v * C) * zero_dtype_size(dtype), NULL, w->y.data,
                                        w->tokens, tile, w->B, w->T, C, w->V, dtype);
    }
}

static void call_embedding(zero_nn_t *nn, void *arg)
{
    words_t *w = arg;
    if (w->tiled) {
        call_embedding_tiles(nn, w);
        return;
    }
    zero_nn_embedding_forward(nn, w->y.data, w->tokens, w->wte.data, w->positions ? w->wpe.data : NULL, w->B, w->T,
                              w->C, w->wte.dtype);
    zero_nn_embedding_backward(nn, w->dwte.data, w->positions ? w->dwpe.data : NULL, w->y.data, w->tokens, w->B, w->T,
                               w->C, w->V, w->wte.dtype);
}

/* Both backends add in the same order. They have the same bits, which equal a sum in order of rows, rounded once. */
START_TEST(embedding_is_exact)
{
    static const int64_t SIZES[][4] = {{1, 1, 1, 1},       {2, 7, 5, 3},     {3, 33, 70, 300},
                                       {2, 40, 1200, 300}, {2, 9, 3, 70000}, MANY_TOKENS};
    for (int i = -1; i < WAY_COUNT; i++) {
        const way_t *way = i < 0 ? NULL : &WAYS[i];
        for (size_t c = 0; c < 4 * DTYPE_COUNT * (sizeof SIZES / sizeof SIZES[0]) && (way == NULL || way_runs(way));
             c++) {
            const int64_t *s = SIZES[c / (4 * DTYPE_COUNT)];
            zero_dtype_t dtype = DTYPES[c % DTYPE_COUNT];
            seed_state = 77 + c;
            words_t w = {.B = s[0],
                         .T = s[1],
                         .C = s[2],
                         .V = s[3],
                         .positions = c / DTYPE_COUNT % 2 == 0,
                         .tiled = c / (2 * DTYPE_COUNT) % 2 == 1};
            int64_t rows = w.B * w.T;
            w.wte = buf_random(dtype, w.V * w.C, 1);
            w.wpe = buf_random(dtype, w.T * w.C, 1);
            w.y = buf_new(dtype, rows * w.C);
            w.dwte = buf_random(dtype, w.V * w.C, 1);
            w.dwpe = buf_random(dtype, w.T * w.C, 1);
            w.tokens = calloc((size_t)rows, sizeof *w.tokens);
            for (int64_t r = 0; r < rows; r++)
                w.tokens[r] = (int32_t)(zero_splitmix64((uint64_t)r) % (uint64_t)w.V);
            w.tokens[rows - 1] = (int32_t)w.V - 1;
            w.tokens[rows / 2] = w.tokens[0];
            buf_t dwte = buf_copy(&w.dwte), dwpe = buf_copy(&w.dwpe);
            run(way, call_embedding, &w);
            for (int64_t j = 0; j < w.C; j++) {
                for (int64_t r = 0; r < rows; r++) {
                    float y = zero_element(w.wte.data, w.tokens[r] * w.C + j, dtype);
                    y += w.positions ? zero_element(w.wpe.data, r % w.T * w.C + j, dtype) : 0;
                    EXPECT(fabs(buf_at(&w.y, r * w.C + j) - y) <=
                               (dtype == ZERO_FP32 ? 0 : eps_of(dtype) * fabs(y) + tiny_of(dtype)),
                           "embedding forward");
                }
                for (int64_t r = 0; r < rows; r++) { /* once per token, at its first row */
                    bool first = true;
                    for (int64_t q = 0; q < r; q++)
                        first = first && w.tokens[q] != w.tokens[r];
                    float sum = zero_element(dwte.data, w.tokens[r] * w.C + j, dtype);
                    for (int64_t q = r; q < rows && first; q++)
                        sum += w.tokens[q] == w.tokens[r] ? zero_element(w.y.data, q * w.C + j, dtype) : 0;
                    if (first)
                        zero_element_set(dwte.data, w.tokens[r] * w.C + j, dtype, sum);
                }
                for (int64_t t = 0; t < w.T && w.positions; t++) {
                    float sum = zero_element(dwpe.data, t * w.C + j, dtype);
                    for (int64_t b = 0; b < w.B; b++)
                        sum += zero_element(w.y.data, (b * w.T + t) * w.C + j, dtype);
                    zero_element_set(dwpe.data, t * w.C + j, dtype, sum);
                }
            }
            same_bits("embedding dwte", &w.dwte, &dwte);
            same_bits("embedding dwpe", &w.dwpe, &dwpe);
            buf_t *all[] = {&w.wte, &w.wpe, &w.y, &w.dwte, &w.dwpe, &dwte, &dwpe};
            for (int j = 0; j < 7; j++)
                buf_free(all[j]);
            free(w.tokens);
        }
    }
}
END_TEST

#if !defined(ZERO_TEST_CUDA)
/* ---- threads ---------------------------------------------------------------------------------------------------- */

static int thread_count(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *entry = dir == NULL ? NULL : readdir(dir); entry != NULL; entry = readdir(dir))
        count += entry->d_name[0] != '.';
    if (dir != NULL)
        closedir(dir);
    return count;
}

static void *nothing(void *arg)
{
    return arg;
}

/* A context starts exactly the given number of threads, whatever OpenMP's default is, also in oneDNN's products. */
START_TEST(threads_as_told)
{
    /* With the first thread of a process, ThreadSanitizer starts one of its own. */
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, nothing, NULL), 0);
    pthread_join(thread, NULL);
    seed_state = 5;
    const way_t way = {.name = "threads", .threads = _i, .onednn = true};
    buf_t x = buf_random(ZERO_FP32, 512 * 512, 1), y = buf_new(ZERO_FP32, 512 * 512);
    int before = thread_count();
    run(&way, call_gemm, &(zero_nn_gemm_t){.m = 512, .n = 512, .k = 512, .a = x.data, .b = x.data, .c = y.data});
    ck_assert_int_eq(thread_count() - before, _i - 1);
    rows_t r = rows_new(ZERO_FP32, 300, 300, 1);
    run(&way, call_gelu, &r);
    ck_assert_int_eq(thread_count() - before, _i - 1);
    buf_free(&x);
    buf_free(&y);
    rows_free(&r);
}
END_TEST

/* Situations in which OpenMP gives a region fewer threads than it requests. */
enum { PLAIN, BUSY, LEVELS, INSIDE, PLACES };

/* Creates a context with way's threads where all are available, then makes a call in the situation. *error receives the
 * context's error. */
static void run_in(int place, const way_t *way, call_fn call, void *arg, zero_error_t *error)
{
    zero_nn_t *nn = context(way);
    *error = (zero_error_t){.status = ZERO_OK};
    zero_nn_set_dry(nn, true);
    call(nn, arg);
    zero_nn_set_dry(nn, false);
    uint64_t bytes = zero_nn_workspace_bytes(nn);
    void *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
    zero_nn_set_workspace(nn, workspace, bytes);
    int levels = omp_get_max_active_levels(), threads = omp_get_max_threads();
    omp_set_dynamic(place == BUSY);
    omp_set_max_active_levels(place == LEVELS ? 0 : levels);
#pragma omp parallel num_threads(2) if (place == INSIDE)
    {
#pragma omp single
        call(nn, arg);
    }
    EXPECT(omp_get_dynamic() == (place == BUSY) && omp_get_max_threads() == threads,
           "the caller's settings are others");
    omp_set_max_active_levels(levels);
    omp_set_dynamic(0);
    zero_nn_status(nn, error);
    free(workspace);
    zero_nn_destroy(nn);
}

/* With fewer threads, a call gives the bits of the context's number of threads, or fails and writes nothing. */
START_TEST(fewer_threads)
{
    static const way_t ways[] = {
        {"2 threads", NULL, 2, true, false},
        {"own gemm, 2 threads", NULL, 2, false, false},
        {"1 thread", NULL, 1, true, false},
    };
    const way_t *way = &ways[_i];
    zero_nn_t *nn = context(way);
    bool whole = ((zero_nn_cpu_t *)nn->state)->onednn != NULL && way->threads > 1; /* oneDNN needs all of them */
    zero_nn_destroy(nn);
    zero_error_t error;
    seed_state = 9;
    buf_t x = buf_random(ZERO_FP32, 300 * 300, 1), none = buf_new(ZERO_FP32, 300 * 300), y[PLACES];
    rows_t r[PLACES];
    for (int place = 0; place < PLACES; place++) {
        y[place] = buf_new(ZERO_FP32, 300 * 300);
        r[place] = rows_new(ZERO_FP32, 300, 300, 1);
        zero_nn_gemm_t g = {.m = 300, .n = 300, .k = 300, .a = x.data, .b = x.data, .c = y[place].data};
        run_in(place, way, call_gemm, &g, &error);
        bool refused = whole && (place == LEVELS || place == INSIDE);
        EXPECT(error.status == (refused ? ZERO_ERR_ORDER : ZERO_OK), "%s, place %d: %s", way->name, place, error.text);
        const char *why = place == LEVELS ? "planned for 2 threads has 1 of them, because OMP_MAX_ACTIVE_LEVELS is 0"
                                          : "inside an OpenMP parallel region";
        EXPECT(!refused || has_names(error.text, why), "%s", error.text);
        same_bits("a product of fewer threads", &y[place], refused ? &none : &y[PLAIN]);
        run_in(place, way, call_norm, &r[place], &error);
        run_in(place, way, call_norm_backward, &r[place], &error);
        EXPECT(error.status == ZERO_OK, "%s, place %d: %s", way->name, place, error.text);
        same_bits("dx", &r[place].dx, &r[PLAIN].dx);
        same_bits("dw", &r[place].dw, &r[PLAIN].dw);
        same_bits("db", &r[place].db, &r[PLAIN].db);
    }
    buf_free(&x);
    buf_free(&none);
    for (int place = 0; place < PLACES; place++) {
        buf_free(&y[place]);
        rows_free(&r[place]);
    }
}
END_TEST

START_TEST(fewer_threads_are_refused)
{
    zero_nn_t *nn = NULL;
    zero_error_t error;
    int levels = omp_get_max_active_levels();
    omp_set_max_active_levels(0);
    ck_assert_int_eq(zero_nn_create(&nn, "cpu", 2, NULL, &error), ZERO_ERR_ARG);
    ck_assert_str_eq(error.text, "threads is 2, but OpenMP allows 1, because OMP_MAX_ACTIVE_LEVELS is 0: use 1, "
                                 "or change that setting");
    ck_assert_int_eq(zero_nn_create(&nn, "cpu", 1, NULL, &error), ZERO_OK);
    zero_nn_destroy(nn);
    omp_set_max_active_levels(levels);
    zero_status_t status = ZERO_OK;
#pragma omp parallel num_threads(2)
    {
#pragma omp single
        status = zero_nn_create(&nn, "cpu", 2, NULL, &error);
    }
    ck_assert_int_eq(status, ZERO_ERR_ARG);
    ck_assert(has_names(error.text, "OpenMP"));
}
END_TEST
#endif

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn");
    TCase *tc = tcase_create("nn");
    tcase_set_timeout(tc, 240);
    tcase_add_loop_test(tc, gemm_against_fp64, 0, WAY_COUNT);
    tcase_add_loop_test(tc, epilogues_against_ref, 0, WAY_COUNT);
    tcase_add_test(tc, epilogue_errors);
    tcase_add_loop_test(tc, rows_against_ref, 0, WAY_COUNT);
    tcase_add_loop_test(tc, norm_against_ref, 0, WAY_COUNT);
    tcase_add_loop_test(tc, norm_of_a_sum, 0, WAY_COUNT);
    tcase_add_test(tc, norm_of_frozen_weights);
    tcase_add_test(tc, norm_without_statistics);
    tcase_add_test(tc, embedding_is_exact);
#if !defined(ZERO_TEST_CUDA)
    tcase_add_loop_test(tc, threads_as_told, 1, 4);
    tcase_add_loop_test(tc, fewer_threads, 0, 3);
    tcase_add_test(tc, fewer_threads_are_refused);
#endif
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
