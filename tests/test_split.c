/* SPDX-License-Identifier: Apache-2.0 */
/* test_split.c - which elements of a parameter each rank of tensor parallelism has: for all small shapes, from what the
 * dimensions, blocks and parts mean; and which shapes are refused. */
#include "tests/expect.h"
#include "zero/plan/split.h"

#include <stdlib.h>

enum { MOST_RANKS = 4, MOST = 3000 };

static zero_spec_t spec_of(int tensor)
{
    return (zero_spec_t){.world = 2 * tensor, .mesh = {.pipe = 1, .replicas = 1, .context = 1, .tensor = tensor}};
}

static zero_spec_param_t param_of(const int64_t *shape, int32_t ndim, int32_t dim, int32_t blocks)
{
    zero_spec_param_t p = {.name = "p", .ndim = ndim, .total = 1, .split_dim = dim, .split_blocks = blocks};
    for (int32_t d = 0; d < ndim; d++) {
        p.whole[d] = shape[d];
        p.total *= shape[d];
    }
    return p;
}

/* The place that has element i of the whole: from its index along the dimension. */
static int place_of(const zero_spec_param_t *p, int tensor, int64_t i)
{
    const int64_t n = p->whole[p->split_dim], block = n / p->split_blocks, part = (block + tensor - 1) / tensor;
    int64_t inner = 1;
    for (int32_t d = p->split_dim + 1; d < p->ndim; d++)
        inner *= p->whole[d];
    return (int)(i / inner % n % block / part);
}

/* From each element of a part to each end, several runs at once are the same runs as one after the other, and all whole
 * ones that follow the first are among them. */
static void check_runs(const zero_spec_t *spec, const zero_spec_param_t *p, int rank)
{
    const int64_t step = p->count / 8 + 1;
    for (int64_t begin = 0; begin < p->count; begin += step)
        for (int64_t end = begin + 1; end <= p->count; end += step) {
            int64_t times, at = begin, k = 0;
            const zero_split_run_t runs = zero_split_runs(spec, p, rank, begin, end, &times);
            ck_assert_int_ge(times, 1);
            ck_assert(times == 1 || runs.next - begin == times * runs.count);
            for (zero_split_run_t run; k < times; k++, at = run.next) {
                run = zero_split_run(spec, p, rank, at, end);
                ck_assert_int_eq(run.begin, runs.begin + k * spec->mesh.tensor * runs.count);
                ck_assert_int_eq(run.count, runs.count);
            }
            ck_assert_int_eq(at, runs.next);
            ck_assert(runs.count != p->run || end - at < p->run);
        }
}

/* The parts of all places together are the elements of the whole, each once. A part has its elements in their order,
 * and in the shape that it says; padding is behind them. */
static void check_cover(const zero_spec_t *spec, const zero_spec_param_t *p)
{
    static int found[MOST];
    int64_t product = 1;
    for (int32_t d = 0; d < p->ndim; d++) {
        ck_assert(d == p->split_dim || p->shape[d] == p->whole[d]);
        product *= p->shape[d];
    }
    ck_assert_int_eq(product, p->count);
    memset(found, 0, sizeof found);
    for (int rank = spec->mesh.tensor; rank < spec->world; rank++) {
        const int place = zero_split_place(spec, rank);
        int64_t wanted = -1, seen = 0;
        zero_split_run_t run;
        for (int64_t at = 0; at < p->count; at = run.next) {
            run = zero_split_run(spec, p, rank, at, p->count);
            ck_assert(run.next > at && run.count >= 0 && run.count <= run.next - at);
            ck_assert(run.count == run.next - at || run.next == p->count);
            for (int64_t i = 0; i < run.count; i++, seen++) {
                do
                    wanted++;
                while (wanted < p->total && place_of(p, spec->mesh.tensor, wanted) != place);
                ck_assert_int_eq(run.begin + i, wanted);
                found[wanted]++;
                ck_assert_int_eq(zero_split_below(spec, p, rank, wanted), at + i);
            }
        }
        ck_assert_int_eq(zero_split_below(spec, p, rank, p->total), seen);
        check_runs(spec, p, rank);
    }
    for (int64_t i = 0; i < p->total; i++)
        ck_assert_int_eq(found[i], 1);
}

/* Cut anywhere, runs have the same elements. */
static void check_cuts(const zero_spec_t *spec, const zero_spec_param_t *p)
{
    static int64_t of[MOST];
    for (int rank = 0; rank < spec->mesh.tensor; rank++) {
        for (int64_t i = 0; i < p->count; i++) {
            const zero_split_run_t one = zero_split_run(spec, p, rank, i, i + 1);
            ck_assert_int_eq(one.next, i + 1);
            of[i] = one.count == 1 ? one.begin : -1;
        }
        for (int64_t begin = 0; begin < p->count; begin++)
            for (int64_t end = begin + 1; end <= p->count; end++) {
                const zero_split_run_t run = zero_split_run(spec, p, rank, begin, end);
                ck_assert(run.next > begin && run.next <= end);
                for (int64_t i = begin; i < run.next; i++)
                    ck_assert_int_eq(of[i], i - begin < run.count ? run.begin + (i - begin) : -1);
                /* it is as long as it can be */
                ck_assert(run.next == end || of[run.next] != of[run.next - 1] + 1 || spec->mesh.tensor == 1);
            }
    }
}

static void try_shape(const int64_t *shape, int32_t ndim, int *tried)
{
    for (int tensor = 1; tensor <= MOST_RANKS; tensor++)
        for (int32_t dim = 0; dim < ndim; dim++)
            for (int32_t blocks = 1; blocks <= 3; blocks++) {
                const zero_spec_t spec = spec_of(tensor);
                zero_spec_param_t p = param_of(shape, ndim, dim, blocks);
                zero_error_t error = {.text = ""};
                const int64_t n = shape[dim];
                const bool fits = tensor == 1 || n % (blocks * tensor) == 0 || (dim == 0 && blocks == 1 && n > 1);
                ck_assert_int_eq(zero_split_set(&spec, &p, &error), fits ? ZERO_OK : ZERO_ERR_ARG);
                if (!fits)
                    continue;
                ck_assert_int_eq(zero_split_is(&p), tensor > 1);
                if (tensor > 1)
                    check_cover(&spec, &p);
                if (p.count < 40)
                    check_cuts(&spec, &p);
                ++*tried;
            }
}

START_TEST(parts_are_the_whole)
{
    int tried = 0;
    for (int64_t a = 1; a <= 13; a++) {
        try_shape((int64_t[]){a}, 1, &tried);
        for (int64_t b = 1; b <= 13; b++) {
            try_shape((int64_t[]){a, b}, 2, &tried);
            for (int64_t c = 1; c <= 12; c++)
                try_shape((int64_t[]){a, b, c}, 3, &tried);
        }
    }
    ck_assert_int_gt(tried, 10000);
}
END_TEST

/* Without split_dim, with one rank, or without elements, each rank has the whole. */
START_TEST(what_is_not_split)
{
    for (int tensor = 1; tensor <= 3; tensor++) {
        const zero_spec_t spec = spec_of(tensor);
        zero_spec_param_t whole = param_of((int64_t[]){4, 5}, 2, -1, 1), empty = param_of((int64_t[]){0, 5}, 2, 0, 2);
        ck_assert_int_eq(zero_split_set(&spec, &whole, NULL), ZERO_OK);
        ck_assert_int_eq(zero_split_set(&spec, &empty, NULL), ZERO_OK);
        ck_assert(!zero_split_is(&whole) && whole.count == 20 && whole.shape[0] == 4 && whole.shape[1] == 5);
        ck_assert(!zero_split_is(&empty) && empty.count == 0 && empty.shape[1] == 5);
        const zero_split_run_t run = zero_split_run(&spec, &whole, tensor - 1, 3, 17);
        ck_assert(run.begin == 3 && run.count == 14 && run.next == 17);
        ck_assert_int_eq(zero_split_below(&spec, &whole, tensor - 1, 7), 7);
    }
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        int64_t shape[2];
        int32_t dim, blocks, tensor;
        const char *says;
    } rows[] = {
        {{4, 10}, 1, 1, 4, "'p' `dimension 1` 10 `1 block` `config.mesh.tensor = 4` 8 12"},
        {{4, 12}, 1, 3, 8, "'p' `dimension 1` 12 `3 blocks` 0 24"},
        {{9, 12}, 0, 3, 2, "'p' `dimension 0` 9 `3 blocks` 6 12"},
        {{10, 12}, 0, 3, 2, "10 `3 blocks` 6 12"}, /* no blocks */
        {{1, 12}, 0, 1, 2, "'p' `dimension 0` 1 0 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const zero_spec_t spec = spec_of(rows[i].tensor);
        zero_spec_param_t p = param_of(rows[i].shape, 2, rows[i].dim, rows[i].blocks);
        zero_error_t error = {.text = ""};
        ck_assert_int_eq(zero_split_set(&spec, &p, &error), ZERO_ERR_ARG);
        EXPECT_NAMES(error.text, rows[i].says);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("split");
    TCase *tcase = tcase_create("split");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, parts_are_the_whole);
    tcase_add_test(tcase, what_is_not_split);
    tcase_add_test(tcase, refusals);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
