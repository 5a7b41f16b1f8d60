/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_bias.c - kernels/nn: calls that also add to the gradient of a bias: layer norm's gradient, GELU's, alone and
 * after a product, and attention's. Each is compared with fp64 sums of its own output, with its other results without
 * biases, and on CPU with the bits of zero_nn_bias_backward. */
#include "tests/expect.h"
#include "tests/nn_common.h"

/* Beyond these sizes CUDA's kernels divide the work differently: rows of parts, columns of a thread. */
#if defined(ZERO_TEST_CUDA)
#define MORE_NORMS                   \
    {4300, 6}, {9, 4101}, {5, 8200}, \
    {                                \
        6, 16400                     \
    }
#define MANY_ROWS 8300
#else
#define MORE_NORMS \
    {              \
        300, 6     \
    }
#define MANY_ROWS 300
#endif

/* The gradient that a call adds to, before and after the call. */
typedef struct gradient {
    buf_t before, data;
} gradient_t;

static gradient_t gradient_new(zero_dtype_t dtype, int64_t n)
{
    gradient_t g = {.before = buf_random(dtype, n, 1)};
    g.data = buf_copy(&g.before);
    return g;
}

static void gradient_free(gradient_t *g)
{
    buf_free(&g->before);
    buf_free(&g->data);
}

/* The arguments of zero_nn_bias_backward. */
typedef struct sum {
    buf_t *dbias;
    const buf_t *dy;
    int64_t rows;
} sum_t;

static void call_bias_backward(zero_nn_t *nn, void *arg)
{
    sum_t *s = arg;
    zero_nn_bias_backward(nn, s->dbias->data, s->dy->data, s->rows, s->dbias->count, s->dy->dtype);
}

/* Checks that g grew by the column sums of the stored dy (rows, n), rounded once; on CPU with the bits of
 * zero_nn_bias_backward. */
static void added(const char *what, const way_t *way, const gradient_t *g, const buf_t *dy, int64_t rows)
{
    const int64_t n = g->data.count;
    const double rounding = eps_of(dy->dtype), tiny = tiny_of(dy->dtype);
    for (int64_t c = 0; c < n; c++) {
        double sum = buf_at(&g->before, c), size = fabs(sum), got = buf_at(&g->data, c);
        for (int64_t r = 0; r < rows; r++) {
            sum += buf_at(dy, r * n + c);
            size += fabs(buf_at(dy, r * n + c));
        }
        EXPECT(fabs(got - sum) <= rounding * fabs(sum) + tiny + (double)(rows + 1) * EPS32 * size,
               "%s, %s, %s: column %lld is %.9g, %.9g is right", what, way->name, zero_dtype_name(dy->dtype),
               (long long)c, got, sum);
    }
    if (!way->cuda) {
        buf_t want = buf_copy(&g->before);
        run(way, call_bias_backward, &(sum_t){&want, dy, rows});
        same_bits(what, &g->data, &want);
        buf_free(&want);
    }
}

/* ---- layer norm ------------------------------------------------------------------------------------------------- */

typedef struct norm {
    int64_t rows, C;
    buf_t x, w, dy, residual, dx, dw, db;
    gradient_t bias, bias_residual;
    float *mean, *rstd;
    int biases; /* 1: of dx, 2: of the residual */
    bool in_place, alone;
} norm_t;

static void call_norm_backward(zero_nn_t *nn, void *arg)
{
    norm_t *n = arg;
    const void *residual = n->in_place ? n->dx.data : n->residual.data;
    zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = n->rows,
                                                .C = n->C,
                                                .dtype = n->x.dtype,
                                                .x = n->x.data,
                                                .w = n->w.data,
                                                .mean = n->mean,
                                                .rstd = n->rstd,
                                                .dy = n->dy.data,
                                                .dresidual = n->alone ? NULL : residual,
                                                .dx = n->dx.data,
                                                .dw = n->dw.data,
                                                .db = n->db.data,
                                                .dbias = n->biases & 1 ? n->bias.data.data : NULL,
                                                .dbias_residual = n->biases & 2 ? n->bias_residual.data.data : NULL});
}

static norm_t norm_new(zero_dtype_t dtype, int64_t rows, int64_t C, bool in_place, int biases)
{
    seed_state = (uint64_t)(rows * C);
    norm_t n = {.rows = rows, .C = C, .in_place = in_place, .biases = biases};
    n.x = buf_random(dtype, rows * C, 3);
    n.w = buf_random(dtype, C, 1);
    n.dy = buf_random(dtype, rows * C, 1);
    n.residual = buf_random(dtype, rows * C, 1);
    n.dx = buf_copy(&n.residual);
    n.dw = buf_random(dtype, C, 1);
    n.db = buf_random(dtype, C, 1);
    n.bias = gradient_new(dtype, C);
    n.bias_residual = gradient_new(dtype, C);
    n.mean = calloc((size_t)rows, sizeof(float));
    n.rstd = calloc((size_t)rows, sizeof(float));
    for (int64_t r = 0; r < rows; r++) {
        n.mean[r] = (float)uniform() / 8;
        n.rstd[r] = 0.5f + (float)fabs(uniform()) / 4;
    }
    return n;
}

static void norm_free(norm_t *n)
{
    buf_t *all[] = {&n->x, &n->w, &n->dy, &n->residual, &n->dx, &n->dw, &n->db};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
    gradient_free(&n->bias);
    gradient_free(&n->bias_residual);
    free(n->mean);
    free(n->rstd);
}

START_TEST(of_norms)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][2] = {{1, 2}, {3, 5}, {7, 63}, {2, 64}, {5, 200}, {33, 1100}, MORE_NORMS};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            const int64_t rows = SIZES[s][0], C = SIZES[s][1];
            norm_t plain = norm_new(DTYPES[d % DTYPE_COUNT], rows, C, d >= DTYPE_COUNT, 0);
            run(way, call_norm_backward, &plain);
            same_bits("no bias", &plain.bias.data, &plain.bias.before);
            for (int biases = rows * C < 10000 ? 1 : 3; biases <= 3; biases++) {
                norm_t n = norm_new(DTYPES[d % DTYPE_COUNT], rows, C, d >= DTYPE_COUNT, biases);
                run(way, call_norm_backward, &n);
                same_bits("dx", &n.dx, &plain.dx);
                same_bits("dw", &n.dw, &plain.dw);
                same_bits("db", &n.db, &plain.db);
                if (biases & 1)
                    added("the bias of dx", way, &n.bias, &n.dx, rows);
                if (biases & 2)
                    added("the bias of the residual", way, &n.bias_residual, &n.residual, rows);
                norm_free(&n);
            }
            norm_free(&plain);
        }
    }
    /* without a residual */
    norm_t n = norm_new(ZERO_BF16, 9, 70, false, 1);
    n.alone = true;
    run(way, call_norm_backward, &n);
    added("the bias of dx alone", way, &n.bias, &n.dx, 9);
    norm_free(&n);
}
END_TEST

/* ---- GELU ------------------------------------------------------------------------------------------------------- */

typedef struct gelu {
    int64_t rows, n;
    buf_t x, dy, dx;
    gradient_t bias;
    bool in_place, sum;
} gelu_t;

static void call_gelu_backward(zero_nn_t *nn, void *arg)
{
    gelu_t *g = arg;
    zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, g->dx.data, g->sum ? g->bias.data.data : NULL,
                         g->in_place ? g->dx.data : g->dy.data, g->x.data, g->rows, g->n, g->x.dtype);
}

START_TEST(of_gelu)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][2] = {{1, 1}, {3, 5}, {7, 63}, {2, 64}, {5, 200}, {70, 260}, {MANY_ROWS, 3}};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            gelu_t g[2];
            for (int i = 0; i < 2; i++) {
                const int64_t rows = SIZES[s][0], n = SIZES[s][1];
                seed_state = 40 + s;
                g[i] = (gelu_t){.rows = rows, .n = n, .in_place = d >= DTYPE_COUNT, .sum = i == 1};
                g[i].x = buf_random(DTYPES[d % DTYPE_COUNT], rows * n, 3);
                g[i].dy = buf_random(DTYPES[d % DTYPE_COUNT], rows * n, 1);
                g[i].dx = buf_copy(&g[i].dy);
                g[i].bias = gradient_new(DTYPES[d % DTYPE_COUNT], n);
                run(way, call_gelu_backward, &g[i]);
            }
            same_bits("dx", &g[0].dx, &g[1].dx);
            same_bits("no bias", &g[0].bias.data, &g[0].bias.before);
            added("the bias of GELU's gradient", way, &g[1].bias, &g[1].dx, g[1].rows);
            for (int i = 0; i < 2; i++) {
                buf_free(&g[i].x);
                buf_free(&g[i].dy);
                buf_free(&g[i].dx);
                gradient_free(&g[i].bias);
            }
        }
    }
}
END_TEST

/* After a product, whose kernel includes GELU's gradient or not. */
START_TEST(of_products)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][3] = {{1, 8, 2}, {5, 16, 24}, {70, 72, 40}, {7, 15, 9}, {4, 1, 6}, {6, 8, 1}};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < DTYPE_COUNT; d++) {
            const int64_t m = SIZES[s][0], n = SIZES[s][1], k = SIZES[s][2];
            seed_state = 90 + s;
            buf_t a = buf_random(DTYPES[d], m * k, 1), b = buf_random(DTYPES[d], n * k, 1),
                  aux = buf_random(DTYPES[d], m * n, 3), c[2] = {buf_new(DTYPES[d], m * n), buf_new(DTYPES[d], m * n)};
            gradient_t bias = gradient_new(DTYPES[d], n);
            for (int i = 0; i < 2; i++)
                run(way, call_gemm,
                    &(zero_nn_gemm_t){.m = m,
                                      .n = n,
                                      .k = k,
                                      .trans_b = true,
                                      .dtype = DTYPES[d],
                                      .a = a.data,
                                      .b = b.data,
                                      .c = c[i].data,
                                      .epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD,
                                      .aux = aux.data,
                                      .dbias = i == 0 ? NULL : bias.data.data});
            same_bits("the product", &c[0], &c[1]);
            added("the bias of a product's epilogue", way, &bias, &c[1], m);
            buf_t *all[] = {&a, &b, &aux, &c[0], &c[1]};
            for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
                buf_free(all[i]);
            gradient_free(&bias);
        }
    }
}
END_TEST

/* ---- attention -------------------------------------------------------------------------------------------------- */

typedef struct heads {
    zero_nn_attention_t a;
    buf_t qkv, out, dout, lse, dqkv;
    gradient_t bias;
    bool backward, sum;
} heads_t;

/* Column number `column` of the first row. */
static void *columns(const buf_t *b, int64_t column)
{
    return b->data + (size_t)column * zero_dtype_size(b->dtype);
}

static void call_attention(zero_nn_t *nn, void *arg)
{
    heads_t *h = arg;
    const zero_nn_attention_t *a = &h->a;
    if (!h->backward)
        zero_nn_attention_forward(nn, a);
    else
        zero_nn_attention_backward(nn, a, h->dout.data, h->dqkv.data, columns(&h->dqkv, a->H * a->D),
                                   columns(&h->dqkv, (a->H + a->KV) * a->D), h->sum ? h->bias.data.data : NULL);
}

static heads_t heads_new(const int64_t s[5], zero_dtype_t dtype)
{
    const int64_t B = s[0], T = s[1], H = s[2], KV = s[3], D = s[4], width = (H + 2 * KV) * D;
    heads_t h = {
        .a = {.B = B, .T = T, .H = H, .KV = KV, .D = D, .dtype = dtype, .scale = 1 / sqrt((double)D), .causal = true}};
    seed_state = (uint64_t)(B * T * width);
    h.a.q_stride = h.a.k_stride = h.a.v_stride = width;
    h.qkv = buf_random(dtype, B * T * width, 1);
    h.out = buf_new(dtype, B * T * H * D);
    h.dout = buf_random(dtype, B * T * H * D, 1);
    h.lse = buf_new(ZERO_FP32, B * H * T);
    h.dqkv = buf_new(dtype, B * T * width);
    h.bias = gradient_new(dtype, width);
    h.a.q = h.qkv.data;
    h.a.k = columns(&h.qkv, H * D);
    h.a.v = columns(&h.qkv, (H + KV) * D);
    h.a.out = h.out.data;
    h.a.lse = (float *)h.lse.data;
    return h;
}

static void heads_free(heads_t *h)
{
    buf_t *all[] = {&h->qkv, &h->out, &h->dout, &h->lse, &h->dqkv};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        buf_free(all[i]);
    gradient_free(&h->bias);
}

START_TEST(of_attention)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][5] = {/* B, T, H, KV, D */
                                       {1, 1, 1, 1, 1},
                                       {2, 3, 2, 1, 5},
                                       {2, 130, 4, 2, 9},
                                       {1, 64, 1, 1, 72},
                                       {1, 65, 2, 1, 130}};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < DTYPE_COUNT; d++) {
            heads_t h[2];
            for (int i = 0; i < 2; i++) {
                h[i] = heads_new(SIZES[s], DTYPES[d]);
                run(way, call_attention, &h[i]);
                h[i].backward = true;
                h[i].sum = i == 1;
                run(way, call_attention, &h[i]);
            }
            same_bits("dq, dk and dv", &h[0].dqkv, &h[1].dqkv);
            same_bits("no bias", &h[0].bias.data, &h[0].bias.before);
            added("the bias of q, k and v", way, &h[1].bias, &h[1].dqkv, h[1].a.B * h[1].a.T);
            heads_free(&h[0]);
            heads_free(&h[1]);
        }
    }
}
END_TEST

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static void refused(zero_nn_t *nn, const char *say)
{
    zero_error_t error = {.status = ZERO_OK};
    EXPECT(zero_nn_status(nn, &error) == ZERO_ERR_ARG && has_names(error.text, say), "'%s' does not say '%s'",
           error.text, say);
}

START_TEST(errors)
{
    for (int w = -1; w < 1; w++) {
        float p[64] = {0};
        zero_nn_t *nn = context(w < 0 ? NULL : &WAYS[0]);
        zero_nn_attention_t a = {.B = 1, .T = 2, .H = 2, .KV = 1, .D = 2, .q_stride = 8, .k_stride = 8, .v_stride = 8},
                            apart = a;
        apart.q_stride = 9;
        a.q = a.k = a.v = apart.q = apart.k = apart.v = a.out = apart.out = p;
        a.lse = apart.lse = p;
        zero_nn_set_dry(nn, true);
        zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = 2, .C = 4});
        zero_nn_attention_backward(nn, &a, NULL, NULL, NULL, NULL, NULL);
        zero_nn_attention_backward(nn, &apart, NULL, NULL, NULL, NULL, NULL);
        zero_nn_set_dry(nn, false);
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        void *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, workspace, bytes);
        zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = 2,
                                                    .C = 4,
                                                    .x = p,
                                                    .w = p,
                                                    .mean = p,
                                                    .rstd = p,
                                                    .dy = p,
                                                    .dx = p,
                                                    .dw = p,
                                                    .db = p,
                                                    .dbias_residual = p + 8});
        refused(nn, "norm_backward NULL");
        zero_nn_attention_backward(nn, &apart, p, p, p + 4, p + 6, p + 32);
        refused(nn, "8");
        zero_nn_attention_backward(nn, &a, p, p, p + 5, p + 7, p + 32);
        refused(nn, "");
        zero_nn_attention_backward(nn, &a, p, p, p + 4, p + 7, p + 32);
        refused(nn, "");
        free(workspace);
        zero_nn_destroy(nn);
    }
}
END_TEST

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_bias");
    TCase *tc = tcase_create("nn_bias");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, of_norms, 0, WAY_COUNT);
    tcase_add_loop_test(tc, of_gelu, 0, WAY_COUNT);
    tcase_add_loop_test(tc, of_products, 0, WAY_COUNT);
    tcase_add_loop_test(tc, of_attention, 0, WAY_COUNT);
    tcase_add_test(tc, errors);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
