/* engine_matrix.c - the toy over stage x window x reduce x micro-steps x dtypes x device x ranks, each against the serial
 * trajectory: so every two cases that should have the same bits have them. `make check` runs a cover of all triples of levels,
 * ZERO_CHECK_FULL=1 the whole product. */
#include "tests/engine_suites.h"
#include "tests/engine_toy.h"
#include "tests/ranks.h"

#include <stdio.h>
#include <stdlib.h>

enum { STAGE, WINDOW, REDUCE, MICRO, DTYPE, WIRE, DEVICE, WORLD, PERSIST, INTERLEAVE, QUIET, BAD, OFFLOAD, DIMENSIONS, LEVELS = TOY_OFFLOADS };
static const int levels[DIMENSIONS] = {4, 4, 2, 3, 2, 2, 3, 4, 3, 2, 2, 2, TOY_OFFLOADS};

typedef struct tuple {
    int level[DIMENSIONS];
} tuple_t;

static toy_case_t case_of(const tuple_t *t)
{
    static const int windows[] = {1, 2, 3, 100};
    static const int64_t persist[] = {0, 2000, 1 << 30};
    const int *l = t->level;
    return (toy_case_t){.world = 1 + l[WORLD],
                        .stage = l[STAGE],
                        .window = windows[l[WINDOW]],
                        .reduce = l[REDUCE] ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY,
                        .micro_steps = 1 + l[MICRO],
                        .dtype = l[DTYPE] ? ZERO_BF16 : ZERO_FP32,
                        .reduce_dtype = l[WIRE] ? ZERO_BF16 : ZERO_FP32,
                        .threaded = l[DEVICE],
                        .persist_bytes = persist[l[PERSIST]],
                        .interleave = l[INTERLEAVE],
                        .quiet = l[QUIET],
                        .offload = (toy_offload_t)l[OFFLOAD],
                        .steps = 4,
                        .bad_step = l[BAD] ? 2 : -1};
}

typedef struct work {
    tuple_t *tuples;
    int count;
} work_t;

/* ---- which cases --------------------------------------------------------------------------------------------------- */

typedef bool covered_t[DIMENSIONS][DIMENSIONS][DIMENSIONS][LEVELS][LEVELS][LEVELS];

static int new_triples(covered_t covered, const tuple_t *t, bool mark)
{
    int count = 0;
    for (int a = 0; a < DIMENSIONS; a++)
        for (int b = a + 1; b < DIMENSIONS; b++)
            for (int c = b + 1; c < DIMENSIONS; c++) {
                bool *here = &covered[a][b][c][t->level[a]][t->level[b]][t->level[c]];
                count += !*here;
                *here |= mark;
            }
    return count;
}

static tuple_t random_tuple(uint64_t *random)
{
    tuple_t t;
    for (int d = 0; d < DIMENSIONS; d++)
        t.level[d] = (int)((*random = zero_splitmix64(*random)) % (uint64_t)levels[d]);
    return t;
}

/* Greedy: of many random tuples the one with the most triples that none before it had. Seeded, so always the same. */
static work_t cover(void)
{
    enum { MOST = 2000, CANDIDATES = 100 };
    work_t w = {calloc(MOST, sizeof *w.tuples), 0};
    bool(*covered)[DIMENSIONS][DIMENSIONS][LEVELS][LEVELS][LEVELS] = calloc(1, sizeof(covered_t));
    uint64_t random = 12345;
    int left = 0;
    for (int a = 0; a < DIMENSIONS; a++)
        for (int b = a + 1; b < DIMENSIONS; b++)
            for (int c = b + 1; c < DIMENSIONS; c++)
                left += levels[a] * levels[b] * levels[c];
    while (w.tuples && covered && left > 0 && w.count < MOST) {
        tuple_t best = {{0}};
        int most = 0;
        for (int k = 0; k < CANDIDATES || most == 0; k++) {
            tuple_t t = random_tuple(&random);
            int triples = new_triples(covered, &t, false);
            if (triples > most)
                most = triples, best = t;
        }
        left -= new_triples(covered, &best, true);
        w.tuples[w.count++] = best;
    }
    free(covered);
    return w;
}

/* Every combination of what the placement and the order of operations depend on; the rest drawn at random. */
static work_t product(void)
{
    int total = 1;
    uint64_t random = 6789;
    for (int d = 0; d <= WORLD; d++)
        total *= levels[d];
    work_t w = {calloc((size_t)total, sizeof *w.tuples), 0};
    for (int i = 0; w.tuples && i < total; i++) {
        w.tuples[i] = random_tuple(&random);
        for (int d = 0, rest = i; d <= WORLD; rest /= levels[d], d++)
            w.tuples[i].level[d] = rest % levels[d];
        w.count = i + 1;
    }
    return w;
}

/* ---- the run ------------------------------------------------------------------------------------------------------- */

/* All cases of one world size, one after the other on the same communicator. */
static int run_cases(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const work_t *work = arg;
    zero_comm_t *comm = NULL;
    zero_error_t error = {0};
    zero_comm_options_t options;
    int result = 0;
    zero_comm_options_init(&options);
    options.timeout_s = 60;
    if ((world == 1 ? zero_comm_self(&comm, &error) : zero_comm_shm(&comm, bootstrap, &options, &error)) != ZERO_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    for (int i = 0; i < work->count && result == 0; i++) {
        toy_case_t c = case_of(&work->tuples[i]);
        if (c.world == world)
            result = toy_run(&c, comm);
    }
    zero_comm_destroy(comm);
    return result != 0;
}

START_TEST(same_bits_as_serial)
{
    bool full = getenv("ZERO_CHECK_FULL") != NULL;
    work_t work = full ? product() : cover();
    ck_assert_ptr_nonnull(work.tuples);
    ck_assert_int_gt(work.count, 0);
    ck_assert_int_eq(ranks_run(1 + _i, full ? 7200 : 240, run_cases, &work), 0);
    free(work.tuples);
}
END_TEST

Suite *engine_matrix_suite(void)
{
    Suite *suite = suite_create("matrix");
    TCase *t = tcase_create("matrix");
    tcase_set_timeout(t, getenv("ZERO_CHECK_FULL") ? 7300 : 300);
    tcase_add_loop_test(t, same_bits_as_serial, 0, levels[WORLD]);
    suite_add_tcase(suite, t);
    return suite;
}
