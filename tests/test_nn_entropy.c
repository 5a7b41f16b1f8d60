/* SPDX-License-Identifier: Apache-2.0 */
/* test_nn_entropy.c - kernels/nn: cross-entropy over a vocabulary in parts, against the cross-entropy of the whole. */
#include "tests/expect.h"
#include "tests/nn_common.h"

enum { MOST_PARTS = 5, ROWS = 7 };

static const way_t REF = {"ref", NULL, 1, false, false};

/* The parts of a vocabulary, in the test's order, with their widths. */
typedef struct split {
    int parts;
    int64_t widths[MOST_PARTS];
} split_t;

/* A cross-entropy: the whole logits, and the same in parts. A part's rows are longer than its columns. */
typedef struct entropy {
    const split_t *split;
    int64_t V, pad;
    zero_dtype_t dtype;
    bool grad;
    float scale;
    int32_t targets[ROWS];
    buf_t whole, logits[MOST_PARTS];     /* (ROWS, V); (ROWS, widths[p] + pad) */
    buf_t stats, losses[MOST_PARTS + 1]; /* (parts, ROWS, 3); of each part, and of the whole */
    int part;                            /* of the next call */
} entropy_t;

static int64_t first_of(const entropy_t *e, int part)
{
    int64_t first = 0;
    for (int p = 0; p < part; p++)
        first += e->split->widths[p];
    return first;
}

static int64_t ld_of(const entropy_t *e, int part)
{
    return e->split->widths[part] + e->pad;
}

/* Rows 1 and 4 are ignored. The targets of the others are spread over the vocabulary, its ends included. */
static entropy_t entropy_new(const split_t *split, zero_dtype_t dtype, double largest)
{
    entropy_t e = {.split = split, .pad = 3, .dtype = dtype, .grad = true, .scale = 1};
    e.V = first_of(&e, split->parts);
    seed_state = (uint64_t)e.V;
    e.whole = buf_random(dtype, ROWS * e.V, largest);
    e.stats = buf_random(ZERO_FP32, (int64_t)split->parts * ROWS * 3, 1);
    for (int r = 0; r < ROWS; r++)
        e.targets[r] = r % 3 == 1 ? ZERO_NN_IGNORE : (int32_t)(r * (e.V - 1) / (ROWS - 1));
    for (int p = 0; p <= split->parts; p++)
        e.losses[p] = buf_random(ZERO_FP32, ROWS, 1);
    for (int p = 0; p < split->parts; p++)
        e.logits[p] = buf_random(dtype, ROWS * ld_of(&e, p), 1);
    return e;
}

static void entropy_free(entropy_t *e)
{
    buf_free(&e->whole);
    buf_free(&e->stats);
    for (int p = 0; p <= e->split->parts; p++)
        buf_free(&e->losses[p]);
    for (int p = 0; p < e->split->parts; p++)
        buf_free(&e->logits[p]);
}

static void call_whole(zero_nn_t *nn, void *arg)
{
    entropy_t *e = arg;
    zero_nn_cross_entropy(nn, (float *)e->losses[e->split->parts].data, e->whole.data, e->targets, ROWS, e->V, 0,
                          e->grad, e->scale, e->dtype);
}

/* A part without columns has no logits. */
static void *logits_of(const entropy_t *e)
{
    return e->split->widths[e->part] == 0 ? NULL : e->logits[e->part].data;
}

static void call_local(zero_nn_t *nn, void *arg)
{
    entropy_t *e = arg;
    zero_nn_cross_entropy_local(nn, (float *)e->stats.data + (ptrdiff_t)e->part * ROWS * 3, logits_of(e), e->targets,
                                ROWS, first_of(e, e->part), e->split->widths[e->part], ld_of(e, e->part), e->dtype);
}

static void call_combine(zero_nn_t *nn, void *arg)
{
    entropy_t *e = arg;
    zero_nn_cross_entropy_combine(nn, (float *)e->losses[e->part].data, e->grad ? logits_of(e) : NULL,
                                  (const float *)e->stats.data, e->split->parts, e->targets, ROWS, first_of(e, e->part),
                                  e->split->widths[e->part], ld_of(e, e->part), e->grad, e->scale, e->dtype);
}

/* Copies the whole to the parts, or the parts to the whole. */
static void move(entropy_t *e, bool to_parts)
{
    const size_t size = zero_dtype_size(e->dtype);
    for (int p = 0; p < e->split->parts; p++) {
        for (int64_t r = 0; r < ROWS; r++) {
            unsigned char *whole = e->whole.data + (size_t)(r * e->V + first_of(e, p)) * size;
            unsigned char *part = e->logits[p].data + (size_t)(r * ld_of(e, p)) * size;
            memcpy(to_parts ? part : whole, to_parts ? whole : part, (size_t)e->split->widths[p] * size);
        }
    }
}

/* Computes stats and losses of the parts; with e->grad, the whole receives the gradient of the parts. */
static void run_parts(const way_t *way, entropy_t *e)
{
    move(e, true);
    for (e->part = 0; e->part < e->split->parts; e->part++) {
        buf_t before = buf_copy(&e->logits[e->part]);
        run(way, call_local, e);
        same_bits("logits of local", &before, &e->logits[e->part]);
        buf_free(&before);
    }
    for (e->part = 0; e->part < e->split->parts; e->part++) {
        buf_t before = buf_copy(&e->logits[e->part]), stats = buf_copy(&e->stats);
        run(way, call_combine, e);
        same_bits("stats of combine", &stats, &e->stats);
        same_bits("losses of two parts", &e->losses[0], &e->losses[e->part]);
        for (int64_t r = 0; r < ROWS; r++) { /* nothing is written between rows; without grad nothing at all */
            const int64_t from = e->grad ? e->split->widths[e->part] : 0, ld = ld_of(e, e->part);
            const size_t size = zero_dtype_size(e->dtype), at = (size_t)(r * ld + from) * size;
            EXPECT(memcmp(before.data + at, e->logits[e->part].data + at, (size_t)(ld - from) * size) == 0,
                   "written outside the part's gradient");
        }
        buf_free(&before);
        buf_free(&stats);
    }
    move(e, false);
}

static const split_t SPLITS[] = {
    {1, {1}},
    {1, {77}},
    {1, {5003}},
    {2, {1, 1}},
    {2, {30, 47}},
    {2, {77, 0}},
    {2, {0, 77}},
    {4, {1000, 0, 3, 4000}},
    {4, {7, 13, 4, 53}},
    {5, {0, 0, 77, 0, 0}},
    {4, {2501, 1, 1250, 1251}},
};
enum { SPLIT_COUNT = sizeof SPLITS / sizeof SPLITS[0] };

static bool has_one(const split_t *split)
{
    int full = 0;
    for (int p = 0; p < split->parts; p++)
        full += split->widths[p] > 0;
    return full == 1;
}

/* Losses and gradients of the parts are those of the whole: to the bit if one part has all columns, and otherwise to
 * rounding. Each result also agrees with ref's. */
START_TEST(parts_against_whole)
{
    const way_t *way = _i < 0 ? NULL : &WAYS[_i], *named = way == NULL ? &REF : way;
    static const double LARGEST[] = {4, 60, 1e4};
    static const float SCALES[] = {1, 0.125f, 3};
    if (way != NULL && !way_runs(way))
        return;
    for (int s = 0; s < SPLIT_COUNT; s++) {
        for (int k = 0; k < 3 * DTYPE_COUNT; k++) {
            entropy_t e[3]; /* whole, in parts, in parts by ref */
            const double largest = LARGEST[k / DTYPE_COUNT];
            for (int i = 0; i < 3; i++) {
                e[i] = entropy_new(&SPLITS[s], DTYPES[k % DTYPE_COUNT], largest);
                e[i].scale = SCALES[(s + k) % 3];
            }
            const int parts = SPLITS[s].parts;
            run(way, call_whole, &e[0]);
            e[1].grad = false;
            run_parts(way, &e[1]);
            buf_t losses = buf_copy(&e[1].losses[0]), stats = buf_copy(&e[1].stats);
            e[1].grad = true;
            run_parts(way, &e[1]);
            same_bits("losses with and without grad", &losses, &e[1].losses[0]);
            same_bits("stats of two runs", &stats, &e[1].stats);
            run_parts(NULL, &e[2]);
            if (has_one(&SPLITS[s])) {
                same_bits("losses of one part", &e[0].losses[parts], &e[1].losses[0]);
                same_bits("gradient of one part", &e[0].whole, &e[1].whole);
            }
            const double V = (double)e[0].V, slack = (8 * sqrt(V) + 256 + 4 * largest) * EPS32;
            const double part = 8 * sqrt(V) * EPS32 * (double)e[0].scale;
            for (int r = 0; r < ROWS; r++)
                EXPECT(isfinite(buf_at(&e[1].losses[0], r)), "a loss is not finite");
            close_to("losses", named, &e[1].losses[0], &e[0].losses[parts], NULL, slack);
            close_to("gradient", named, &e[1].whole, &e[0].whole, NULL, part);
            close_to("losses and ref's", named, &e[1].losses[0], &e[2].losses[0], NULL, slack);
            close_to("gradient and ref's", named, &e[1].whole, &e[2].whole, NULL, part);
            for (int r = 1; r < ROWS; r += 3)
                for (int64_t j = -1; j < e[1].V; j++)
                    EXPECT((j < 0 ? buf_at(&e[1].losses[0], r) : buf_at(&e[1].whole, r * e[1].V + j)) == 0,
                           "row %d is ignored, but its loss or gradient is not 0", r);
            buf_free(&losses);
            buf_free(&stats);
            for (int i = 0; i < 3; i++)
                entropy_free(&e[i]);
        }
    }
}
END_TEST

/* The numbers of zero_nn_cross_entropy_local, one by one. */
START_TEST(stats_of_a_part)
{
    const way_t *way = _i < 0 ? NULL : &WAYS[_i];
    if (way != NULL && !way_runs(way))
        return;
    for (int s = 0; s < SPLIT_COUNT; s++) {
        for (int d = 0; d < DTYPE_COUNT; d++) {
            entropy_t e = entropy_new(&SPLITS[s], DTYPES[d], 4);
            for (int64_t j = 0; j < SPLITS[s].widths[0]; j++)
                zero_element_set(e.whole.data, 2 * e.V + j, DTYPES[d], -INFINITY);
            buf_t logits = buf_copy(&e.whole);
            run_parts(way, &e);
            for (int i = 0; i < SPLITS[s].parts * ROWS; i++) {
                const int64_t part = i / ROWS, r = i % ROWS, first = first_of(&e, (int)part);
                const bool ignored = e.targets[r] == ZERO_NN_IGNORE;
                double want[3] = {-INFINITY, 0, 0}, got[3];
                for (int64_t j = first; j < first + SPLITS[s].widths[part] && !ignored; j++) {
                    want[0] = fmax(want[0], buf_at(&logits, r * e.V + j));
                    want[2] = j == e.targets[r] ? buf_at(&logits, r * e.V + j) : want[2];
                }
                for (int64_t j = first; j < first + SPLITS[s].widths[part] && want[0] > -INFINITY; j++)
                    want[1] += exp(buf_at(&logits, r * e.V + j) - want[0]);
                for (int j = 0; j < 3; j++)
                    got[j] = buf_at(&e.stats, 3 * i + j);
                EXPECT(got[0] == want[0] && got[2] == want[2], "part %d, row %d: %g and %g, not %g and %g", (int)part,
                       (int)r, got[0], got[2], want[0], want[2]);
                EXPECT(fabs(got[1] - want[1]) <= 8 * sqrt((double)e.V) * EPS32 * want[1],
                       "part %d, row %d: the sum is %.9g, not %.9g", (int)part, (int)r, got[1], want[1]);
            }
            buf_free(&logits);
            entropy_free(&e);
        }
    }
}
END_TEST

#if !defined(ZERO_TEST_CUDA)
/* The bits do not depend on the number of threads. */
START_TEST(threads_do_not_matter)
{
    static const split_t WIDE = {3, {20000, 30257, 7}};
    for (int d = 0; d < DTYPE_COUNT; d++) {
        entropy_t e[3];
        for (int t = 0; t < 3; t++) {
            const way_t way = {"threads", NULL, t + 1, false, false};
            e[t] = entropy_new(&WIDE, DTYPES[d], 4);
            run_parts(&way, &e[t]);
            same_bits("stats", &e[0].stats, &e[t].stats);
            same_bits("losses", &e[0].losses[0], &e[t].losses[0]);
            same_bits("gradient", &e[0].whole, &e[t].whole);
        }
        for (int t = 0; t < 3; t++)
            entropy_free(&e[t]);
    }
}
END_TEST
#endif

/* Logits of -infinity in all of a part are masked. A NaN or an infinity in one part reaches the loss and the gradients
 * of all parts. */
START_TEST(not_finite)
{
    static const split_t TWO = {2, {30, 47}};
    static const float BAD[] = {-INFINITY, NAN, -NAN, INFINITY};
    const way_t *way = _i < 0 ? NULL : &WAYS[_i];
    if (way != NULL && !way_runs(way))
        return;
    for (int i = 0; i < 8; i++) {
        entropy_t e = entropy_new(&TWO, ZERO_FP32, 4);
        const int64_t from = i % 2 ? 0 : 30, to = i % 2 ? 30 : 77;
        const int r = i % 2 ? 6 : 0; /* its target is in the other part */
        for (int64_t j = from; j < (i < 2 ? to : from + 1); j++)
            ((float *)e.whole.data)[r * e.V + j] = BAD[i / 2];
        run_parts(way, &e);
        EXPECT(isfinite(buf_at(&e.losses[0], 3)) && isfinite(buf_at(&e.whole, 3 * e.V + from)), "another row is hit");
        EXPECT(i < 2 ? isfinite(buf_at(&e.losses[0], r)) : isnan(buf_at(&e.losses[0], r)), "the loss is %g",
               buf_at(&e.losses[0], r));
        for (int64_t j = 0; j < 77; j++) {
            const double got = buf_at(&e.whole, r * e.V + j);
            EXPECT(i < 2 ? (j >= from && j < to ? got == 0 : got != 0 && isfinite(got)) : isnan(got),
                   "gradient %lld is %g for %g in column %lld", (long long)j, got, (double)BAD[i / 2], (long long)from);
        }
        entropy_free(&e);
    }
}
END_TEST

static void expect_error(zero_nn_t *nn, const char *part)
{
    zero_error_t error = {.status = ZERO_OK};
    EXPECT(zero_nn_status(nn, &error) == ZERO_ERR_ARG && has_names(error.text, part), "'%s' does not say '%s'",
           error.text, part);
}

START_TEST(errors)
{
    zero_nn_t *nn = context(_i < 0 ? NULL : &WAYS[0]);
    const zero_dtype_t dtype = ZERO_FP32;
    float logits[15], stats[9] = {0}, losses[3];
    const int32_t good[3] = {0, ZERO_NN_IGNORE, 9}, bad[3] = {0, 1, -1};
    zero_nn_set_dry(nn, true);
    zero_nn_cross_entropy_local(nn, NULL, NULL, NULL, 3, 5, 5, 4, dtype);
    expect_error(nn, "cross_entropy_local 5 4");
    zero_nn_cross_entropy_local(nn, NULL, NULL, NULL, 3, -5, 5, 0, dtype);
    expect_error(nn, "cross_entropy_local -5");
    zero_nn_cross_entropy_combine(nn, NULL, NULL, NULL, 1, NULL, 3, 5, 5, 4, true, 1, dtype);
    expect_error(nn, "cross_entropy_combine 5 4");
    for (int parts = -1; parts < 1; parts++) {
        zero_nn_cross_entropy_combine(nn, NULL, NULL, NULL, parts, NULL, 3, 5, 5, 0, true, 1, dtype);
        expect_error(nn, "cross_entropy_combine parts");
    }
    zero_nn_cross_entropy_local(nn, NULL, NULL, NULL, 3, 5, 5, 0, dtype);
    for (int grad = 0; grad < 2; grad++)
        zero_nn_cross_entropy_combine(nn, NULL, NULL, NULL, 1, NULL, 3, 5, 5, 0, grad, 1, dtype);
    ck_assert_int_eq(zero_nn_status(nn, NULL), ZERO_OK);
    zero_nn_set_dry(nn, false);
    for (int i = 0; i < 15; i++)
        logits[i] = 3;
    losses[0] = stats[0] = 3;

    zero_nn_cross_entropy_local(nn, stats, logits, bad, 3, 5, 5, 0, dtype);
    expect_error(nn, "cross_entropy_local -1 2");
    zero_nn_cross_entropy_local(nn, stats, NULL, good, 3, 5, 5, 0, dtype);
    expect_error(nn, "cross_entropy_local logits NULL");
    zero_nn_cross_entropy_local(nn, NULL, logits, good, 3, 5, 5, 0, dtype);
    expect_error(nn, "cross_entropy_local stats NULL");
    zero_nn_cross_entropy_local(nn, stats, logits, NULL, 3, 5, 5, 0, dtype);
    expect_error(nn, "cross_entropy_local targets NULL");
    zero_nn_cross_entropy_combine(nn, losses, logits, stats, 1, bad, 3, 5, 5, 0, true, 1, dtype);
    expect_error(nn, "cross_entropy_combine -1 2");
    zero_nn_cross_entropy_combine(nn, losses, NULL, stats, 1, good, 3, 5, 5, 0, true, 1, dtype);
    expect_error(nn, "cross_entropy_combine logits NULL");
    zero_nn_cross_entropy_combine(nn, NULL, logits, stats, 1, good, 3, 5, 5, 0, true, 1, dtype);
    expect_error(nn, "cross_entropy_combine losses NULL");
    zero_nn_cross_entropy_combine(nn, losses, logits, NULL, 1, good, 3, 5, 5, 0, false, 1, dtype);
    expect_error(nn, "cross_entropy_combine stats NULL");
    zero_nn_cross_entropy_combine(nn, losses, logits, stats, 1, NULL, 3, 5, 5, 0, false, 1, dtype);
    expect_error(nn, "cross_entropy_combine targets NULL");
    EXPECT(losses[0] == 3 && stats[0] == 3, "written after an error");
    for (int i = 0; i < 15; i++)
        EXPECT(logits[i] == 3, "logits written after an error");

    /* Another first needs no other dry run; no rows: nothing to do. */
    zero_nn_cross_entropy_local(nn, stats, logits, good, 3, 0, 5, 0, dtype);
    zero_nn_cross_entropy_local(nn, NULL, NULL, NULL, 0, 0, 5, 0, dtype);
    zero_nn_cross_entropy_combine(nn, NULL, NULL, NULL, 1, NULL, 0, 0, 5, 0, true, 1, dtype);
    ck_assert_int_eq(zero_nn_status(nn, NULL), ZERO_OK);
    zero_nn_destroy(nn);
}
END_TEST

int main(void)
{
    SKIP_WITHOUT_CUDA();
    Suite *suite = suite_create("nn_entropy");
    TCase *tc = tcase_create("nn_entropy");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, parts_against_whole, -1, WAY_COUNT);
    tcase_add_loop_test(tc, stats_of_a_part, -1, WAY_COUNT);
#if !defined(ZERO_TEST_CUDA)
    tcase_add_test(tc, threads_do_not_matter);
#endif
    tcase_add_loop_test(tc, not_finite, -1, WAY_COUNT);
    tcase_add_loop_test(tc, errors, -1, 1);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
