/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_model.c - kernels/nn: cross-entropy of cpu against ref, exp and gelu against fp64, ref's
 * gradients against finite differences, values that are not finite, the rules of dry runs, errors. */
#include "tests/expect.h"
#include "tests/nn_common.h"

/* ---- cross-entropy ---------------------------------------------------------------------------------------------- */

typedef struct entropy {
    int64_t rows, V, ld;
    bool grad;
    float scale;
    int32_t *targets;
    buf_t logits, losses;
} entropy_t;

static void call_entropy(zero_nn_t *nn, void *arg)
{
    entropy_t *e = arg;
    zero_nn_cross_entropy(nn, (float *)e->losses.data, e->logits.data, e->targets, e->rows, e->V, e->ld, e->grad,
                          e->scale, e->logits.dtype);
}

static entropy_t entropy_new(zero_dtype_t dtype, int64_t rows, int64_t V, int64_t pad, double largest)
{
    seed_state = (uint64_t)(rows * V);
    entropy_t e = {.rows = rows,
                   .V = V,
                   .ld = V + pad,
                   .grad = true,
                   .scale = 1,
                   .targets = calloc((size_t)rows, sizeof(int32_t))};
    e.logits = buf_random(dtype, rows * e.ld, largest);
    e.losses = buf_new(ZERO_FP32, rows);
    for (int64_t r = 0; r < rows; r++)
        e.targets[r] = (int32_t)((r * 7919) % V);
    return e;
}

static void entropy_free(entropy_t *e)
{
    buf_free(&e->logits);
    buf_free(&e->losses);
    free(e->targets);
}

START_TEST(entropy_against_ref)
{
    const way_t *way = &WAYS[_i];
    static const int64_t SIZES[][3] = {{1, 1, 0}, {2, 2, 1}, {5, 15, 0}, {3, 64, 5}, {4, 1001, 3}, {17, 5003, 0}};
    if (!way_runs(way))
        return;
    for (size_t s = 0; s < sizeof SIZES / sizeof SIZES[0]; s++) {
        for (int d = 0; d < 2 * DTYPE_COUNT; d++) {
            entropy_t e[3];
            for (int i = 0; i < 3; i++) {
                e[i] = entropy_new(DTYPES[d % DTYPE_COUNT], SIZES[s][0], SIZES[s][1], SIZES[s][2],
                                   d < DTYPE_COUNT ? 4 : 60);
                buf_t before = buf_copy(&e[i].logits);
                e[i].grad = false;
                run(i == 0 ? NULL : way, call_entropy, &e[i]);
                same_bits("logits without grad", &before, &e[i].logits);
                buf_t losses = buf_copy(&e[i].losses);
                e[i].grad = true;
                run(i == 0 ? NULL : way, call_entropy, &e[i]);
                same_bits("losses with and without grad", &losses, &e[i].losses);
                for (int64_t r = 0; r < e[i].rows; r++) { /* the bytes between the rows do not change */
                    size_t size = zero_dtype_size(before.dtype), at = (size_t)(r * e[i].ld + e[i].V) * size;
                    EXPECT(memcmp(before.data + at, e[i].logits.data + at, (size_t)(e[i].ld - e[i].V) * size) == 0,
                           "written between rows");
                }
                buf_free(&before);
                buf_free(&losses);
            }
            double V = (double)SIZES[s][1];
            close_to("losses", way, &e[1].losses, &e[0].losses, NULL, 8 * sqrt(V) * EPS32 + 256 * EPS32);
            close_to("gradient of logits", way, &e[1].logits, &e[0].logits, NULL, 8 * sqrt(V) * EPS32);
            same_bits("losses", &e[1].losses, &e[2].losses);
            same_bits("gradient of logits", &e[1].logits, &e[2].logits);
            for (int i = 0; i < 3; i++)
                entropy_free(&e[i]);
        }
    }
}
END_TEST

/* A row that is ignored has the loss 0 and the gradient 0, whatever its logits are. The others do not notice. */
START_TEST(ignored_targets)
{
    for (int i = -1; i < WAY_COUNT; i++) {
        const way_t *way = i < 0 ? NULL : &WAYS[i];
        for (int d = 0; d < 2 * DTYPE_COUNT && (way == NULL || way_runs(way)); d++) {
            entropy_t e[2];
            for (int k = 0; k < 2; k++) {
                e[k] = entropy_new(DTYPES[d % DTYPE_COUNT], 6, 77, 3, 4);
                e[k].grad = d >= DTYPE_COUNT;
                for (int64_t r = 1; r < 6 && k == 1; r += 2) {
                    e[k].targets[r] = ZERO_NN_IGNORE;
                    zero_element_set(e[k].logits.data, r * 80 + 40, DTYPES[d % DTYPE_COUNT], NAN);
                }
                run(way, call_entropy, &e[k]);
            }
            for (int64_t r = 0; r < 6; r++) {
                EXPECT(buf_at(&e[1].losses, r) == (r % 2 ? 0 : buf_at(&e[0].losses, r)), "the loss of row %lld is %g",
                       (long long)r, buf_at(&e[1].losses, r));
                for (int64_t j = 0; j < 80 && (r % 2 == 0 || e[0].grad); j++) /* nothing is written behind a row */
                    EXPECT(buf_at(&e[1].logits, r * 80 + j) == (r % 2 && j < 77 ? 0 : buf_at(&e[0].logits, r * 80 + j)),
                           "row %lld, logit %lld is %g", (long long)r, (long long)j, buf_at(&e[1].logits, r * 80 + j));
            }
            entropy_free(&e[0]);
            entropy_free(&e[1]);
        }
    }
}
END_TEST

/* A factor scales the gradient before it is rounded, and leaves the losses alone: by a power of two exactly, by another
 * number with one rounding. */
START_TEST(scaled_gradients)
{
    static const float SCALES[] = {1, 1024, 0.125f, 3};
    for (int i = -1; i < WAY_COUNT; i++) {
        const way_t *way = i < 0 ? NULL : &WAYS[i];
        for (int d = 0; d < DTYPE_COUNT && (way == NULL || way_runs(way)); d++) {
            entropy_t first = entropy_new(DTYPES[d], 5, 77, 3, 4);
            entropy_t exact = entropy_new(ZERO_FP32, 5, 77, 3, 4); /* the same logits, gradients in fp32 */
            for (int64_t j = 0; j < exact.logits.count; j++)
                ((float *)exact.logits.data)[j] = (float)buf_at(&first.logits, j);
            buf_t logits = buf_copy(&first.logits);
            run(way, call_entropy, &first);
            run(way, call_entropy, &exact);
            const double eps = eps_of(DTYPES[d]), tiny = tiny_of(DTYPES[d]);
            for (size_t s = 0; s < sizeof SCALES / sizeof SCALES[0]; s++) {
                entropy_t e = first;
                e.scale = SCALES[s];
                e.logits = buf_copy(&logits);
                e.losses = buf_new(ZERO_FP32, 5);
                run(way, call_entropy, &e);
                same_bits("losses with a scale", &first.losses, &e.losses);
                for (int64_t r = 0; r < 5; r++) {
                    for (int64_t j = 0; j < 77; j++) {
                        const double got = buf_at(&e.logits, r * 80 + j), scale = (double)SCALES[s],
                                     before = buf_at(&first.logits, r * 80 + j), plain = scale * before,
                                     want = scale * buf_at(&exact.logits, r * 80 + j);
                        const bool normal = DTYPES[d] != ZERO_FP16 || fmin(fabs(before), fabs(plain)) >= 0x1p-14;
                        EXPECT(s == 3 || !normal || got == plain, "row %lld, column %lld: %.9g, not %.9g", (long long)r,
                               (long long)j, got, plain);
                        EXPECT(fabs(got - want) <= eps * fabs(want) + tiny + 64 * EPS32 * scale,
                               "row %lld, column %lld: %.9g is not %.9g, rounded once", (long long)r, (long long)j, got,
                               want);
                    }
                }
                buf_free(&e.logits);
                buf_free(&e.losses);
            }
            buf_free(&logits);
            entropy_free(&first);
            entropy_free(&exact);
        }
    }
}
END_TEST

/* ---- accuracy of exp and gelu ----------------------------------------------------------------------------------- */

#if !defined(ZERO_TEST_CUDA)
START_TEST(exp_within_an_ulp)
{
    const zero_nn_simd_t *simd[] = {
        &zero_nn_simd_base,
#if defined(__x86_64__)
        &zero_nn_simd_avx2,
        &zero_nn_simd_avx512
#endif
    };
    static float s[ZERO_NN_BLOCK * ZERO_NN_BLOCK], dp[ZERO_NN_BLOCK * ZERO_NN_BLOCK], zero[ZERO_NN_BLOCK];
    for (size_t k = 0; k < sizeof simd / sizeof simd[0]; k++) {
        way_t way = {.simd = simd[k]};
        if (!way_runs(&way))
            continue;
        for (double from = -110; from < 80; from += 0.37) {
            float x[ZERO_NN_BLOCK];
            for (int i = 0; i < ZERO_NN_BLOCK; i++)
                x[i] = s[i] = (float)(from + 0.37 * i / ZERO_NN_BLOCK);
            simd[k]->softmax_grad(s, dp, zero, zero, 1, NULL);
            for (int i = 0; i < ZERO_NN_BLOCK; i++) {
                double want = exp(x[i]), ulp = ldexp(1, ilogb(want) - 23);
                if (x[i] < -87.3365f)
                    EXPECT(s[i] == 0, "%s: exp(%.9g) = %.9g", simd[k]->name, x[i], s[i]);
                else if (x[i] > -87.336f)
                    EXPECT(fabs(s[i] - want) <= (simd[k] == &zero_nn_simd_base ? 2 : 1) * ulp,
                           "%s: exp(%.9g) = %.9g, %.9g is right", simd[k]->name, x[i], s[i], want);
            }
        }
    }
}
END_TEST
#endif

typedef struct values {
    buf_t x, y, dy;
} values_t;

static void call_gelu(zero_nn_t *nn, void *arg)
{
    values_t *v = arg;
    zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, v->y.data, v->x.data, v->x.count, ZERO_FP32);
}

static void call_gelu_backward(zero_nn_t *nn, void *arg)
{
    values_t *v = arg;
    zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, v->y.data, NULL, v->dy.data, v->x.data, 1, v->x.count, ZERO_FP32);
}

START_TEST(gelu_against_fp64)
{
    const double scale = 0.79788456080286535588, cube = 0.044715;
    values_t v = {.x = buf_new(ZERO_FP32, 4001), .y = buf_new(ZERO_FP32, 4001), .dy = buf_new(ZERO_FP32, 4001)};
    for (int i = 0; i < 4001; i++) {
        ((float *)v.x.data)[i] = (float)(i - 2000) / 150;
        ((float *)v.dy.data)[i] = 2;
    }
    for (int w = -1; w < WAY_COUNT; w++) {
        const way_t *way = w < 0 ? NULL : &WAYS[w];
        if (way != NULL && !way_runs(way))
            continue;
        for (int backward = 0; backward < 2; backward++) {
            run(way, backward ? call_gelu_backward : call_gelu, &v);
            for (int i = 0; i < 4001; i++) {
                double x = ((float *)v.x.data)[i], t = tanh(scale * (x + cube * x * x * x));
                double want = backward ? 2 * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * scale * (1 + 3 * cube * x * x))
                                       : 0.5 * x * (1 + t);
                EXPECT(fabs(((float *)v.y.data)[i] - want) <= 16 * EPS32 * fmax(1, fabs(want)),
                       "gelu %d at %.9g is %.9g, %.9g is right", backward, x, ((float *)v.y.data)[i], want);
            }
        }
    }
    buf_free(&v.x);
    buf_free(&v.y);
    buf_free(&v.dy);
}
END_TEST

/* ---- ref's gradients -------------------------------------------------------------------------------------------- */

/* A function of some inputs, whose output is multiplied by weights and summed in fp64. Each input has a buffer with the
 * gradient of the sum. */
typedef struct slope {
    call_fn forward;
    void *arg;
    buf_t *out, *weights; /* fp32 */
    buf_t *inputs[3], *gradients[3];
    int count;
} slope_t;

static double slope_value(const slope_t *s)
{
    double sum = 0;
    run(NULL, s->forward, s->arg);
    for (int64_t i = 0; i < s->out->count; i++)
        sum += buf_at(s->out, i) * buf_at(s->weights, i);
    return sum;
}

/* Along random directions, compares the change of the sum over 2 h with the gradients. The fourth-order difference has
 * an error of h^4 and of fp32's rounding over h. */
static void slope_check(const char *what, const slope_t *s)
{
    const double h = 0x1p-5;
    for (int input = 0; input < s->count; input++) {
        float *x = (float *)s->inputs[input]->data;
        int64_t n = s->inputs[input]->count;
        buf_t keep = buf_copy(s->inputs[input]), direction = buf_random(ZERO_FP32, n, 1);
        double value[4], at[4] = {-2 * h, -h, h, 2 * h}, gradient = 0, size = 0;
        for (int i = 0; i < 4; i++) {
            for (int64_t j = 0; j < n; j++)
                x[j] = (float)(buf_at(&keep, j) + at[i] * buf_at(&direction, j));
            value[i] = slope_value(s);
        }
        memcpy(x, keep.data, (size_t)n * sizeof *x);
        double slope = (8 * (value[2] - value[1]) - (value[3] - value[0])) / (12 * h);
        for (int64_t j = 0; j < n; j++) {
            double g = buf_at(s->gradients[input], j) * buf_at(&direction, j);
            gradient += g;
            size += g * g;
        }
        EXPECT(fabs(slope - gradient) <= 2e-3 * sqrt(size) + 1e-4, "%s, input %d: slope %.9g, gradient %.9g", what,
               input, slope, gradient);
        buf_free(&keep);
        buf_free(&direction);
    }
}

typedef struct norm_case {
    buf_t x, w, b, y, dy, dx, dw, db;
    float mean[8], rstd[8];
} norm_case_t;

static void call_norm(zero_nn_t *nn, void *arg)
{
    norm_case_t *n = arg;
    zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = 5,
                                               .C = 13,
                                               .eps = 1e-5,
                                               .x = n->x.data,
                                               .w = n->w.data,
                                               .b = n->b.data,
                                               .y = n->y.data,
                                               .mean = n->mean,
                                               .rstd = n->rstd});
}

static void call_norm_backward(zero_nn_t *nn, void *arg)
{
    norm_case_t *n = arg;
    zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = 5,
                                                .C = 13,
                                                .x = n->x.data,
                                                .w = n->w.data,
                                                .mean = n->mean,
                                                .rstd = n->rstd,
                                                .dy = n->dy.data,
                                                .dx = n->dx.data,
                                                .dw = n->dw.data,
                                                .db = n->db.data});
}

START_TEST(ref_gradients)
{
    seed_state = 4242;
    norm_case_t n = {
        .x = buf_random(ZERO_FP32, 65, 1), .w = buf_random(ZERO_FP32, 13, 1), .b = buf_random(ZERO_FP32, 13, 1)};
    n.y = buf_new(ZERO_FP32, 65);
    n.dy = buf_random(ZERO_FP32, 65, 1);
    n.dx = buf_new(ZERO_FP32, 65);
    n.dw = buf_new(ZERO_FP32, 13);
    n.db = buf_new(ZERO_FP32, 13);
    run(NULL, call_norm, &n);
    run(NULL, call_norm_backward, &n);
    slope_check("layernorm", &(slope_t){call_norm, &n, &n.y, &n.dy, {&n.x, &n.w, &n.b}, {&n.dx, &n.dw, &n.db}, 3});
    buf_t *norm[] = {&n.x, &n.w, &n.b, &n.y, &n.dy, &n.dx, &n.dw, &n.db};
    for (int i = 0; i < 8; i++)
        buf_free(norm[i]);

    values_t v = {.x = buf_random(ZERO_FP32, 50, 3), .y = buf_new(ZERO_FP32, 50), .dy = buf_random(ZERO_FP32, 50, 1)};
    run(NULL, call_gelu_backward, &v);
    buf_t dx = v.y;
    v.y = buf_new(ZERO_FP32, 50);
    slope_check("gelu", &(slope_t){call_gelu, &v, &v.y, &v.dy, {&v.x}, {&dx}, 1});

    entropy_t e = entropy_new(ZERO_FP32, 4, 11, 0, 2);
    buf_t one = buf_new(ZERO_FP32, 4), logits = buf_copy(&e.logits);
    for (int i = 0; i < 4; i++)
        ((float *)one.data)[i] = 1;
    run(NULL, call_entropy, &e);
    buf_t gradient = buf_copy(&e.logits);
    memcpy(e.logits.data, logits.data, 44 * sizeof(float));
    e.grad = false;
    slope_check("cross-entropy", &(slope_t){call_entropy, &e, &e.losses, &one, {&e.logits}, {&gradient}, 1});
    entropy_free(&e);
    buf_t *rest[] = {&v.x, &v.y, &v.dy, &dx, &one, &logits, &gradient};
    for (int i = 0; i < 7; i++)
        buf_free(rest[i]);
}
END_TEST

/* ---- values that are not finite --------------------------------------------------------------------------------- */

/* A NaN or an infinity must reach the loss, because the step is then skipped. */
START_TEST(not_finite_is_not_hidden)
{
    const float bad[] = {NAN, INFINITY, -NAN};
    for (int w = -1; w < WAY_COUNT; w++) {
        const way_t *way = w < 0 ? NULL : &WAYS[w];
        for (int i = 0; i < 9 && (way == NULL || way_runs(way)); i++) {
            entropy_t e = entropy_new(ZERO_FP32, 2, 77, 0, 1);
            ((float *)e.logits.data)[(int[]){0, 40, 76}[i / 3]] = bad[i % 3];
            run(way, call_entropy, &e);
            EXPECT(isnan(((float *)e.losses.data)[0]), "a loss hides a logit that is not finite");
            EXPECT(isnan(((float *)e.logits.data)[5]), "a gradient hides a logit that is not finite");
            EXPECT(isfinite(((float *)e.losses.data)[1]), "another row's loss is hit");
            entropy_free(&e);
        }
    }
}
END_TEST

/* ---- the rules of dry runs -------------------------------------------------------------------------------------- */

static void expect_error(zero_nn_t *nn, zero_status_t status, const char *part)
{
    zero_error_t error = {.status = ZERO_OK};
    zero_status_t got = zero_nn_status(nn, &error);
    EXPECT(got == status && error.status == status, "status %d (%s), %d is right", (int)got, error.text, (int)status);
    EXPECT(status == ZERO_OK || has_names(error.text, part), "'%s' does not say '%s'", error.text, part);
    EXPECT(zero_nn_status(nn, NULL) == ZERO_OK, "reading the status does not clear it");
}

/* Every call once, with NULL for every buffer. */
static void call_all_dry(zero_nn_t *nn)
{
    zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 5, .n = 6, .k = 7, .trans_b = true});
    zero_nn_bias_backward(nn, NULL, NULL, 5, 6, ZERO_FP32);
    zero_nn_embedding_forward(nn, NULL, NULL, NULL, NULL, 2, 3, 4, ZERO_FP32);
    zero_nn_embedding_backward(nn, NULL, NULL, NULL, NULL, 2, 3, 4, 9, ZERO_FP32);
    zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = 5, .C = 6, .eps = 1e-5});
    zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = 5, .C = 6});
    for (int d = 0; d < DTYPE_COUNT; d++)
        zero_nn_gemm(
            nn, &(zero_nn_gemm_t){.m = 5, .n = 8, .k = 7, .dtype = DTYPES[d], .epilogue = ZERO_NN_EPILOGUE_GELU_NEW});
    zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, NULL, NULL, 5, ZERO_FP32);
    zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, NULL, NULL, NULL, NULL, 1, 5, ZERO_FP32);
    zero_nn_add(nn, NULL, NULL, NULL, 5, ZERO_FP32);
    zero_nn_scale(nn, NULL, NULL, 2, 5, ZERO_FP32);
    zero_nn_attention_t a = {
        .B = 1, .T = 3, .H = 2, .KV = 1, .D = 4, .q_stride = 8, .k_stride = 4, .v_stride = 4, .scale = 0.5};
    zero_nn_attention_forward(nn, &a);
    zero_nn_attention_backward(nn, &a, NULL, NULL, NULL, NULL, NULL);
    zero_nn_cross_entropy(nn, NULL, NULL, NULL, 5, 6, 0, true, 1, ZERO_FP32);
    zero_nn_cross_entropy_local(nn, NULL, NULL, NULL, 5, 7, 6, 0, ZERO_FP32);
    zero_nn_cross_entropy_combine(nn, NULL, NULL, NULL, 2, NULL, 5, 7, 6, 0, true, 1, ZERO_FP32);
}

START_TEST(dry_runs)
{
    for (int w = -1; w < 2; w++) {
        zero_nn_t *nn = context(w < 0 ? NULL : &WAYS[w * (WAY_COUNT > 3 ? 3 : 1)]);
        zero_nn_set_dry(nn, true);
        call_all_dry(nn);
        expect_error(nn, ZERO_OK, "");
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        ck_assert(bytes >= 2 * 6 * sizeof(float));
        zero_nn_set_dry(nn, false);

        /* After a dry run: no workspace, then too little workspace. */
        float x[64] = {0}, y[64] = {0}, mean[8] = {0};
        zero_nn_norm_t norm = {
            .rows = 5, .C = 6, .x = x, .w = x, .mean = mean, .rstd = mean, .dy = x, .dx = y, .dw = y, .db = y};
        zero_nn_norm_backward(nn, &norm);
        expect_error(nn, ZERO_ERR_ORDER, "norm_backward 5 6 fp32");
        void *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, workspace, 8);
        zero_nn_norm_backward(nn, &norm);
        expect_error(nn, ZERO_ERR_ORDER, "8");
        zero_nn_set_workspace(nn, (char *)workspace + ZERO_NN_ALIGN / 2, bytes);
        expect_error(nn, ZERO_ERR_ARG, "aligned");
        zero_nn_set_workspace(nn, workspace, bytes);
        norm.dw = y + 30;
        norm.db = y + 40;
        zero_nn_norm_backward(nn, &norm);
        expect_error(nn, ZERO_OK, "");

        /* A shape, dtype, flag or leading dimension that had no dry run. The first error remains, and later calls do
         * nothing. */
        zero_nn_add(nn, y, x, x, 6, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ORDER, "6 fp32");
        zero_nn_add(nn, y, x, x, 5, ZERO_BF16);
        expect_error(nn, ZERO_ERR_ORDER, "5 bf16");
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 5, .n = 6, .k = 7, .a = x, .b = x, .c = y});
        expect_error(nn, ZERO_ERR_ORDER, "5 6 7");
        for (int d = 0; d < DTYPE_COUNT; d++) {
            zero_nn_gemm_t g = {.m = 5, .n = 8, .k = 9, .dtype = DTYPES[d], .epilogue = ZERO_NN_EPILOGUE_GELU_NEW};
            g.a = g.b = x;
            g.c = y;
            zero_nn_gemm(nn, &g);
            expect_error(nn, ZERO_ERR_ARG, "NULL");
            g.aux = x;
            zero_nn_gemm(nn, &g);
            expect_error(nn, ZERO_ERR_ORDER, "5 8 9");
        }
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 5, .n = 6, .k = 7, .trans_b = true, .ldc = 7, .a = x, .b = x, .c = y});
        for (int i = 0; i < 64; i++)
            x[i] = 1;
        zero_nn_add(nn, y, x, x, 5, ZERO_FP32);
        EXPECT(y[0] == 0, "a call after an error computes");
        expect_error(nn, ZERO_ERR_ORDER, "5 6 7");
        zero_nn_add(nn, y, x, x, 5, ZERO_FP32);
        expect_error(nn, ZERO_OK, "");
        EXPECT(y[0] == 2 && y[5] == 0, "an addition of five");
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 5, .n = 6, .k = 7, .trans_b = true, .a = x, .b = x, .bias = x, .c = y});
        expect_error(nn, ZERO_OK, "");
        EXPECT(y[0] == 8, "a bias that was not there in the dry run");
        EXPECT(zero_nn_workspace_bytes(nn) == bytes, "the workspace grew outside a dry run");
        free(workspace);
        zero_nn_destroy(nn);
    }
    zero_nn_destroy(NULL);
}
END_TEST

/* ---- errors ----------------------------------------------------------------------------------------------------- */

START_TEST(errors)
{
    zero_nn_t *nn = NULL;
    zero_error_t error;
    ck_assert_int_eq(zero_nn_create(&nn, "gpu", 1, NULL, &error), ZERO_ERR_ARG);
    ck_assert(nn == NULL && has_names(error.text, "'gpu'"));
    ck_assert_int_eq(zero_nn_create(&nn, "cpu", 0, NULL, &error), ZERO_ERR_ARG);
    for (int w = -1; w < 1; w++) {
        nn = context(w < 0 ? NULL : &WAYS[0]);
        ck_assert(strncmp(zero_nn_backend(nn), w < 0 ? "ref" : WAYS[0].cuda ? "cuda" : "cpu", 3) == 0);
        zero_nn_set_dry(nn, true);
        zero_nn_add(nn, NULL, NULL, NULL, 5, ZERO_DTYPE_COUNT);
        expect_error(nn, ZERO_ERR_ARG, "dtype 3");
        zero_nn_add(nn, NULL, NULL, NULL, -1, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ARG, "-1");
        zero_nn_bias_backward(nn, NULL, NULL, (int64_t)1 << 40, (int64_t)1 << 40, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ARG, "");
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 4, .n = 4, .k = 4, .lda = 3});
        expect_error(nn, ZERO_ERR_ARG, "3");
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 4, .n = 4, .k = 5, .trans_b = true, .ldb = 4});
        expect_error(nn, ZERO_ERR_ARG, "4");
        zero_nn_attention_t a = {.B = 1, .T = 3, .H = 3, .KV = 2, .D = 4, .q_stride = 12, .k_stride = 8, .v_stride = 8};
        zero_nn_attention_forward(nn, &a);
        expect_error(nn, ZERO_ERR_ARG, "3 2");
        a.KV = 3;
        zero_nn_attention_backward(nn, &a, NULL, NULL, NULL, NULL, NULL);
        expect_error(nn, ZERO_ERR_ARG, "8");
        zero_nn_cross_entropy(nn, NULL, NULL, NULL, 3, 5, 4, false, 1, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ARG, "cross_entropy");

        /* Indices out of range: nothing is written. Calls with no elements do nothing. */
        zero_nn_cross_entropy(nn, NULL, NULL, NULL, 3, 5, 0, true, 1, ZERO_FP32);
        zero_nn_embedding_forward(nn, NULL, NULL, NULL, NULL, 1, 3, 2, ZERO_FP32);
        zero_nn_embedding_backward(nn, NULL, NULL, NULL, NULL, 1, 3, 2, 4, ZERO_FP32);
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        void *workspace = aligned_alloc(ZERO_NN_ALIGN, (bytes / ZERO_NN_ALIGN + 1) * ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, workspace, bytes);
        zero_nn_set_dry(nn, false);
        float out[16], x[16] = {0}, losses[3];
        int32_t bad[2][3] = {{0, 1, 5}, {0, -1, 2}};
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 16; j++)
                out[j] = 3;
            losses[0] = 3;
            zero_nn_cross_entropy(nn, losses, out, bad[i], 3, 5, 0, true, 1, ZERO_FP32);
            expect_error(nn, ZERO_ERR_ARG, i == 0 ? "5 2 [0" : "-1 1");
            zero_nn_embedding_backward(nn, out, NULL, x, bad[i], 1, 3, 2, 4, ZERO_FP32);
            expect_error(nn, ZERO_ERR_ARG, i == 0 ? "5 2" : "-1 1");
            EXPECT(losses[0] == 3, "losses written for a bad target");
            for (int j = 0; j < 16; j++)
                EXPECT(out[j] == 3, "written for a bad index");
        }
        zero_nn_embedding_forward(nn, out, bad[1], x, NULL, 1, 3, 2, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ARG, "-1 1");
        zero_nn_embedding_forward(nn, NULL, bad[0], x, NULL, 1, 3, 2, ZERO_FP32);
        expect_error(nn, ZERO_ERR_ARG, "NULL");
        zero_nn_add(nn, NULL, NULL, NULL, 0, ZERO_FP32);
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 0, .n = 4, .k = 4});
        zero_nn_norm_forward(nn, &(zero_nn_norm_t){.C = 6});
        expect_error(nn, ZERO_OK, "");
        free(workspace);
        zero_nn_destroy(nn);
    }
}
END_TEST

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_model");
    TCase *tc = tcase_create("nn_model");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, entropy_against_ref, 0, WAY_COUNT);
    tcase_add_test(tc, ignored_targets);
    tcase_add_test(tc, scaled_gradients);
#if !defined(ZERO_TEST_CUDA)
    tcase_add_test(tc, exp_within_an_ulp);
#endif
    tcase_add_test(tc, gelu_against_fp64);
    tcase_add_test(tc, ref_gradients);
    tcase_add_test(tc, not_finite_is_not_hidden);
    tcase_add_test(tc, dry_runs);
    tcase_add_test(tc, errors);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
