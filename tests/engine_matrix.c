/* SPDX-License-Identifier: Apache-2.0 */
/* engine_matrix.c - the toy over stage x window x reduce x micro-steps x dtypes x device x mesh x codecs, each against
 * the serial trajectory: so every two cases that should have the same bits have them. `make check` runs a cover of all
 * triples of levels on CPU and of all pairs on emulated GPUs, ZERO_CHECK_FULL=1 the whole product on CPU and all
 * triples on GPUs. */
#include "tests/emulated.h"
#include "tests/engine_suites.h"
#include "tests/engine_toy.h"
#include "tests/ranks.h"

#include <stdio.h>
#include <stdlib.h>

/* MODE: the emulator's mode. NONE has one level, so a triple with it is a pair. */
enum {
    STAGE,
    WINDOW,
    REDUCE,
    MICRO,
    DTYPE,
    WIRE,
    WORLD,
    DEVICE,
    PERSIST,
    INTERLEAVE,
    QUIET,
    BAD,
    OFFLOAD,
    MESH,
    CODEC,
    MODE,
    NONE,
    DIMENSIONS
};
enum { LEVELS = TOY_OFFLOADS, WORLDS = 4, MODES = 2 };
typedef int levels_t[DIMENSIONS];
static const levels_t on_cpu = {4, 4, 2, 3, 2, 2, WORLDS, TOY_CUDA, 3, 2, 2, 2, TOY_OFFLOADS, 4, 4, 1, 1};
static const levels_t on_gpu = {4, 4, 2,     3, 2, 2, WORLDS, TOY_DEVICES - TOY_CUDA, 3, 2, 2, 2, TOY_OFFLOADS,
                                4, 4, MODES, 1};

typedef struct tuple {
    int level[DIMENSIONS];
} tuple_t;

static toy_case_t case_of(const tuple_t *t, bool gpu)
{
    static const int windows[] = {1, 2, 3, 100};
    static const int64_t persist[] = {0, 2000, 1 << 30};
    static const zero_codec_t codecs[] = {ZERO_CODEC_NONE, ZERO_CODEC_NONE, ZERO_CODEC_INT8, ZERO_CODEC_INT4};
    const int *l = t->level, world = 1 + l[WORLD], replicas[] = {1, world % 2 == 0 ? 2 : 1, world, 1};
    bool keeps = l[STAGE] == 3 && (l[OFFLOAD] < TOY_PARAMETERS || l[OFFLOAD] == TOY_NVME); /* on the device */
    return (toy_case_t){.world = world,
                        .replicas = replicas[l[MESH]],
                        .node = l[MESH] < 3 || !keeps ? 0
                                : world % 2 == 0      ? 2
                                                      : 1,
                        .stage = l[STAGE],
                        .window = windows[l[WINDOW]],
                        .reduce = l[REDUCE] ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY,
                        .micro_steps = 1 + l[MICRO],
                        .dtype = l[DTYPE] ? ZERO_BF16 : ZERO_FP32,
                        .reduce_dtype = l[WIRE] && l[CODEC] < 2 ? ZERO_BF16 : ZERO_FP32,
                        .gather_codec = l[STAGE] == 3 && l[CODEC] % 2 ? ZERO_CODEC_INT8 : ZERO_CODEC_NONE,
                        .reduce_codec = codecs[l[CODEC]],
                        .threaded = l[DEVICE] + (gpu ? TOY_CUDA : 0),
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
    bool gpu;
    int mode;
    bool guard;
} work_t;

/* ---- the choice of cases ---------------------------------------------------------------------------------------- */

typedef bool covered_t[DIMENSIONS][DIMENSIONS][DIMENSIONS][LEVELS][LEVELS][LEVELS];

static int new_triples(covered_t covered, const tuple_t *t, bool triples, bool mark)
{
    int count = 0;
    for (int a = 0; a < NONE; a++)
        for (int b = a + 1; b < NONE; b++)
            for (int c = triples ? b + 1 : NONE; c < DIMENSIONS; c++) {
                bool *here = &covered[a][b][c][t->level[a]][t->level[b]][t->level[c]];
                count += !*here;
                *here |= mark;
            }
    return count;
}

static tuple_t random_tuple(const levels_t levels, uint64_t *random)
{
    tuple_t t;
    for (int d = 0; d < DIMENSIONS; d++)
        t.level[d] = (int)((*random = zero_splitmix64(*random)) % (uint64_t)levels[d]);
    return t;
}

/* Covers all pairs of levels, or all triples. Greedy: of many random tuples it takes the one with the most new pairs or
 * triples. The seed is fixed, so the result is always the same. */
static work_t cover(const levels_t levels, bool triples)
{
    enum { MOST = 2000, CANDIDATES = 100 };
    work_t w = {.tuples = calloc(MOST, sizeof *w.tuples)};
    bool(*covered)[DIMENSIONS][DIMENSIONS][LEVELS][LEVELS][LEVELS] = calloc(1, sizeof(covered_t));
    uint64_t random = 12345;
    int left = 0;
    for (int a = 0; a < NONE; a++)
        for (int b = a + 1; b < NONE; b++)
            for (int c = triples ? b + 1 : NONE; c < DIMENSIONS; c++)
                left += levels[a] * levels[b] * levels[c];
    while (w.tuples && covered && left > 0 && w.count < MOST) {
        tuple_t best = {{0}};
        int most = 0;
        for (int k = 0; k < CANDIDATES || most == 0; k++) {
            tuple_t t = random_tuple(levels, &random);
            int fresh = new_triples(covered, &t, triples, false);
            if (fresh > most)
                most = fresh, best = t;
        }
        left -= new_triples(covered, &best, triples, true);
        w.tuples[w.count++] = best;
    }
    free(covered);
    return w;
}

/* Every combination of the levels that determine placement and the order of operations; the other levels are random. */
static work_t product(const levels_t levels)
{
    int total = 1;
    uint64_t random = 6789;
    for (int d = 0; d <= DEVICE; d++)
        total *= levels[d];
    work_t w = {.tuples = calloc((size_t)total, sizeof *w.tuples)};
    for (int i = 0; w.tuples && i < total; i++) {
        w.tuples[i] = random_tuple(levels, &random);
        for (int d = 0, rest = i; d <= DEVICE; rest /= levels[d], d++)
            w.tuples[i].level[d] = rest % levels[d];
        w.count = i + 1;
    }
    return w;
}

/* ---- the run ---------------------------------------------------------------------------------------------------- */

/* Runs all cases of one world size and mode in turn, on the same communicator. */
static int run_cases(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const work_t *work = arg;
    zero_comm_t *comm = NULL;
    zero_error_t error = {0};
    zero_comm_options_t options;
    int result = 0;
    setenv("ZERO_EMULATOR", work->mode ? "threads" : "inline", 1); /* work of streams at once, or on threads */
    zero_comm_options_init(&options);
    options.timeout_s = 60;
    if ((world == 1 ? zero_comm_self(&comm, &error) : zero_comm_shm(&comm, bootstrap, &options, &error)) != ZERO_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    for (int i = 0; i < work->count && result == 0; i++) {
        toy_case_t c = case_of(&work->tuples[i], work->gpu);
        c.guard = work->guard;
        if (c.world == world && work->tuples[i].level[MODE] == work->mode)
            result = toy_run(&c, comm);
    }
    zero_comm_destroy(comm);
    return result != 0;
}

static void run_work(work_t work, int world)
{
    bool full = getenv("ZERO_CHECK_FULL") != NULL;
    ck_assert_ptr_nonnull(work.tuples);
    ck_assert_int_gt(work.count, 0);
    ck_assert_int_eq(ranks_run(world, full ? 7200 : 240, run_cases, &work), 0);
    free(work.tuples);
}

START_TEST(same_bits_as_serial)
{
    run_work(getenv("ZERO_CHECK_FULL") ? product(on_cpu) : cover(on_cpu, true), 1 + _i);
}
END_TEST

/* The trainer accesses only units that it holds, and the library itself runs correctly under config.guard. */
START_TEST(same_bits_behind_a_guard)
{
    work_t work = cover(on_cpu, getenv("ZERO_CHECK_FULL") != NULL);
    work.guard = true;
    run_work(work, 1 + _i);
}
END_TEST

START_TEST(same_bits_on_gpus)
{
    char nccl[4096];
    work_t work;
    if (!emulated_plugins())
        return;
    snprintf(nccl, sizeof nccl, "%s/libnccl_emulator.so", getenv("ZERO_PLUGIN_PATH"));
    setenv("ZERO_NCCL_LIBRARY", nccl, 1);
    setenv("ZERO_EMULATOR_DEVICES", "4", 1);
    work = cover(on_gpu, getenv("ZERO_CHECK_FULL") != NULL);
    work.gpu = true;
    work.mode = _i / WORLDS;
    run_work(work, 1 + _i % WORLDS);
}
END_TEST

Suite *engine_matrix_suite(void)
{
    Suite *suite = suite_create("matrix");
    TCase *t = tcase_create("matrix");
    tcase_set_timeout(t, getenv("ZERO_CHECK_FULL") ? 7300 : 300);
    tcase_add_loop_test(t, same_bits_as_serial, 0, WORLDS);
    tcase_add_loop_test(t, same_bits_behind_a_guard, 0, WORLDS);
    tcase_add_loop_test(t, same_bits_on_gpus, 0, WORLDS * MODES);
    suite_add_tcase(suite, t);
    return suite;
}
