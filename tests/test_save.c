/* SPDX-License-Identifier: Apache-2.0 */
/* test_save.c - zero_save and zero_load: a run saves while it trains on, and another run, with any other world,
 * placement, device, dtype or format of moments, loads what was saved. With the same world it then trains on with the
 * same bits.
 *
 * A case is a world, stage, device mode, dtype, place and optimizer. There are 1.7 million pairs of cases, which take
 * days. `make check` tries random pairs. With ZERO_CHECK_FULL=1, what each case saves is loaded by a set of cases that
 * has every two levels (of world and place, say) together, another set each time; and each case loads what such a set
 * saves: 50,000 pairs in all. The device mode has no influence on the files, so on the side that has every case it is
 * random. */
#include "tests/emulated.h"
#include "tests/engine_small.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BEFORE = 3, AFTER = 2 }; /* steps of the first run before the save, and after it */

/* The states of a run, in shared memory. */
typedef struct record {
    bool has[SMALL_PARAMS][ZERO_STATE_MOMENT2 + 1];
    float values[SMALL_PARAMS][ZERO_STATE_MOMENT2 + 1][SMALL_ELEMENTS];
} record_t;

typedef struct pair {
    small_case_t first, second;
    char folder[64];
    record_t *saved, *ended;
} pair_t;

static void saves(zero_config_t *config, void *ctx)
{
    config->saves = true;
    (void)ctx;
}

/* The loss scale begins with 1024. The skipped step before the save makes it 512, and the second update after that,
 * which follows the save, makes it 1024 again. */
static void scales(zero_config_t *config, void *ctx)
{
    config->loss_scale = 1024;
    config->growth_interval = 2;
    (void)ctx;
}

static void saves_and_scales(zero_config_t *config, void *ctx)
{
    saves(config, ctx);
    scales(config, ctx);
}

static int expect_scale(small_t *s, float wanted)
{
    float scale;
    SMALL_TRY(zero_loss_scale(s->engine, &scale));
    SMALL_IS(scale == wanted);
    return 0;
}

static int keep(small_t *s, record_t *r)
{
    small_states_t states;
    if (small_read(s, &states))
        return -1;
    for (int p = 0; p < SMALL_PARAMS && s->rank == 0; p++)
        for (int k = 0; k <= ZERO_STATE_MOMENT2; k++)
            if ((r->has[p][k] = states.values[p][k] != NULL))
                memcpy(r->values[p][k], states.values[p][k], (size_t)small_params[p].count * sizeof(float));
    small_forget(&states);
    return 0;
}

/* Compares with what the first run had, as far as the second run stores it without rounding. */
static int same(small_t *s, const pair_t *pair, const record_t *wanted, const char *when)
{
    small_states_t states, other = {0};
    const small_case_t *a = &pair->first, *b = &pair->second;
    bool codes = (a->rule == ZERO_RULE_ADAMW8) == (b->rule == ZERO_RULE_ADAMW8);
    if (small_read(s, &states))
        return -1;
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int k = 0; k <= ZERO_STATE_MOMENT2; k++) {
            bool exact = k == ZERO_STATE_PARAM ? a->dtype == b->dtype
                                               : k == ZERO_STATE_MASTER || (codes && k != ZERO_STATE_GRAD);
            SMALL_IS(!exact || (states.values[p][k] != NULL) == wanted->has[p][k]);
            other.values[p][k] = exact && states.values[p][k] ? (float *)(uintptr_t)wanted->values[p][k] : NULL;
        }
    int result = small_compare(s, &other, &states, when);
    small_forget(&states);
    return result;
}

/* ---- the two runs ----------------------------------------------------------------------------------------------- */

static int save(small_t *s, const char *folder, record_t *saved)
{
    zero_save_options_t options;
    zero_saved_t end = {.size = sizeof end};
    char caller[100];
    zero_save_options_init(&options);
    options.folder = folder;
    options.file_bytes = 100000; /* several files of each kind */
    options.about = "{\"program\": \"test_save\"}";
    memset(caller, 'x', sizeof caller);
    SMALL_TRY(zero_save_open(s->engine, &options));
    SMALL_TRY(zero_save_end(s->engine, true, &end));
    SMALL_IS(end.done && end.step == -1);
    if (keep(s, saved))
        return -1;
    SMALL_TRY(zero_save(s->engine, caller, s->rank == 0 ? sizeof caller : 0));
    SMALL_FAILS(zero_save(s->engine, NULL, 0), ZERO_ERR_ORDER, "zero_save_end");
    return 0;
}

static int first_run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    pair_t *pair = arg;
    small_t small, *s = &small;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm ? small_start(s, &pair->first, comm) : -1;
    (void)rank, (void)world;
    for (int i = 0; i < BEFORE && result == 0; i++) {
        s->infinite = i == 1; /* a skipped step counts, too */
        result = small_step(s, i);
    }
    s->infinite = false;
    if (result == 0)
        result = save(s, pair->folder, pair->saved);
    for (int i = 0; i < AFTER && result == 0; i++) { /* beside the save */
        zero_saved_t end = {.size = sizeof end};
        result = small_step(s, BEFORE + i);
        if (result == 0 && i + 1 == AFTER) {
            if (zero_save_end(s->engine, true, &end) != ZERO_OK || !end.done || end.step != BEFORE)
                result = small_complain(s, "zero_save_end: %s", zero_last_error(s->engine));
        }
    }
    if (result == 0)
        result = keep(s, pair->ended);
    small_destroy(s);
    zero_comm_destroy(comm);
    return result;
}

static int load(small_t *s, const pair_t *pair)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t error;
    zero_stats_t stats;
    zero_checkpoint_info_t info = {.size = sizeof info};
    if (zero_checkpoint_open(&checkpoint, pair->folder, &error) != ZERO_OK)
        return small_complain(s, "zero_checkpoint_open: %s", error.text);
    SMALL_TRY(zero_checkpoint_info(checkpoint, &info));
    SMALL_IS(info.step == BEFORE && info.applied == BEFORE - 1 && info.caller_bytes == 100);
    SMALL_IS(((const char *)info.caller)[99] == 'x' && strstr(info.about, "test_save") != NULL);
    SMALL_TRY(zero_load(s->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    if (small_stats(s, &stats))
        return -1;
    SMALL_IS(stats.step == BEFORE && stats.skipped == 1);
    if (expect_scale(s, !pair->second.edit ? 1 : pair->first.edit == saves_and_scales ? 512 : 1024))
        return -1;
    return same(s, pair, pair->saved, "after zero_load");
}

static int second_run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    pair_t *pair = arg;
    small_t small, *s = &small;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm ? small_start(s, &pair->second, comm) : -1;
    (void)rank, (void)world;
    if (result == 0)
        result = load(s, pair);
    for (int i = 0; i < AFTER && result == 0; i++)
        result = small_step(s, BEFORE + i) ||
                 (pair->first.edit == saves_and_scales && pair->second.edit && expect_scale(s, 1024));
    bool same_bits = pair->first.world == pair->second.world && pair->first.dtype == pair->second.dtype &&
                     pair->first.rule == pair->second.rule &&
                     (pair->first.threaded < SMALL_CUDA) == (pair->second.threaded < SMALL_CUDA);
    if (result == 0 && same_bits)
        result = same(s, pair, pair->ended, "after more steps");
    small_destroy(s);
    zero_comm_destroy(comm);
    return result;
}

static void remove_folder(const char *folder)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* What one case saves is loaded by each of the others. */
static void try_all(const small_case_t *first, const small_case_t *seconds, int count)
{
    pair_t pair = {.first = *first, .saved = ranks_shared(sizeof(record_t)), .ended = ranks_shared(sizeof(record_t))};
    snprintf(pair.folder, sizeof pair.folder, "test_save.%d", (int)getpid());
    pair.first.edit = first->stage % 2 ? saves : saves_and_scales;
    ck_assert_int_eq(ranks_run(first->world, 60, first_run, &pair), 0);
    for (int i = 0; i < count; i++) {
        pair.second = seconds[i];
        pair.second.edit = (seconds[i].stage + seconds[i].world) % 2 ? scales : NULL;
        ck_assert_int_eq(ranks_run(pair.second.world, 60, second_run, &pair), 0);
    }
    remove_folder(pair.folder);
    ranks_unshare(pair.saved, sizeof *pair.saved);
    ranks_unshare(pair.ended, sizeof *pair.ended);
}

/* ---- the choice of cases ---------------------------------------------------------------------------------------- */

enum { WORLD, STAGE, DTYPE, PLACE, MODE, DIMENSIONS };
enum { WORLDS = 4, STAGES = 4, DTYPES = 2, MODES = 3, LEVELS = SMALL_PLACES, PAIRS = 5, RULES = 3 };
enum { CASES = WORLDS * STAGES * DTYPES * SMALL_PLACES }; /* without the mode */
static const int levels[DIMENSIONS] = {WORLDS, STAGES, DTYPES, SMALL_PLACES, MODES};
static const zero_rule_t rules[PAIRS][2] = {{ZERO_RULE_ADAMW, ZERO_RULE_ADAMW},
                                            {ZERO_RULE_ADAMW, ZERO_RULE_ADAMW8},
                                            {ZERO_RULE_ADAMW8, ZERO_RULE_ADAMW8},
                                            {ZERO_RULE_ADAMW8, ZERO_RULE_ADAMW},
                                            {ZERO_RULE_SGD, ZERO_RULE_SGD}};
static const zero_rule_t saved_rules[RULES] = {ZERO_RULE_ADAMW, ZERO_RULE_ADAMW8, ZERO_RULE_SGD};

static int draw(uint64_t *random, int count)
{
    return (int)((*random = zero_splitmix64(*random)) % (uint64_t)count);
}

static small_case_t case_of(const int level[DIMENSIONS], zero_rule_t rule)
{
    return (small_case_t){.world = 1 + level[WORLD],
                          .stage = level[STAGE],
                          .threaded = level[MODE],
                          .micro_steps = 1,
                          .dtype = level[DTYPE] ? ZERO_BF16 : ZERO_FP32,
                          .rule = rule,
                          .momentum = 0.9,
                          .place = (small_place_t)level[PLACE],
                          .folder = "test_save.nvme"};
}

static small_case_t draw_case(uint64_t *random, zero_rule_t rule)
{
    int level[DIMENSIONS];
    for (int d = 0; d < DIMENSIONS; d++)
        level[d] = draw(random, levels[d]);
    return case_of(level, rule);
}

/* Case number n of CASES, in a random mode. */
static small_case_t case_number(int n, uint64_t *random, zero_rule_t rule)
{
    int level[DIMENSIONS];
    for (int d = 0; d < MODE; n /= levels[d], d++)
        level[d] = n % levels[d];
    level[MODE] = draw(random, MODES);
    return case_of(level, rule);
}

typedef struct cover {
    int count, level[CASES][DIMENSIONS];
} cover_t;

/* Fills a set that has every two levels of different dimensions together. Greedy: of random tuples it takes the one
 * with the most new pairs. */
static void make_cover(cover_t *cover, uint64_t *random)
{
    enum { CANDIDATES = 100 };
    bool covered[DIMENSIONS][DIMENSIONS][LEVELS][LEVELS] = {0};
    int left = 0;
    for (int a = 0; a < DIMENSIONS; a++)
        for (int b = a + 1; b < DIMENSIONS; b++)
            left += levels[a] * levels[b];
    for (cover->count = 0; left > 0; cover->count++) {
        int *best = cover->level[cover->count], most = 0;
        ck_assert_int_lt(cover->count, CASES);
        for (int k = 0; k < CANDIDATES || most == 0; k++) {
            int level[DIMENSIONS], fresh = 0;
            for (int d = 0; d < DIMENSIONS; d++)
                level[d] = draw(random, levels[d]);
            for (int a = 0; a < DIMENSIONS; a++)
                for (int b = a + 1; b < DIMENSIONS; b++)
                    fresh += !covered[a][b][level[a]][level[b]];
            if (fresh > most) {
                most = fresh;
                memcpy(best, level, sizeof level);
            }
        }
        for (int a = 0; a < DIMENSIONS; a++)
            for (int b = a + 1; b < DIMENSIONS; b++)
                covered[a][b][best[a]][best[b]] = true;
        left -= most;
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

START_TEST(what_one_run_saves_another_loads)
{
    uint64_t random = 2026;
    for (int i = 0; i < 40; i++) {
        const zero_rule_t *rule = rules[i % PAIRS];
        small_case_t first = draw_case(&random, rule[0]), second = draw_case(&random, rule[1]);
        if (i % 3 == 0) { /* where the bits go on */
            second.world = first.world;
            second.dtype = first.dtype;
        }
        try_all(&first, &second, 1);
    }
}
END_TEST

/* Case _i / RULES saves, and a cover loads. */
START_TEST(every_case_saves)
{
    static cover_t cover;
    static small_case_t seconds[PAIRS * CASES];
    uint64_t random = (uint64_t)_i;
    small_case_t first = case_number(_i / RULES, &random, saved_rules[_i % RULES]);
    int count = 0;
    make_cover(&cover, &random);
    for (int k = 0; k < PAIRS; k++)
        for (int i = 0; i < cover.count && rules[k][0] == first.rule; i++)
            seconds[count++] = case_of(cover.level[i], rules[k][1]);
    try_all(&first, seconds, count);
    printf("case %d of %d: %d loads\n", _i, CASES * RULES, count);
}
END_TEST

enum { COVER = 100 }; /* as many as a cover has, or more */

/* Case _i / RULES of a cover saves, and each case loads. */
START_TEST(every_case_loads)
{
    static cover_t cover;
    static small_case_t seconds[PAIRS * CASES];
    uint64_t random = 4711;
    int count = 0;
    make_cover(&cover, &random);
    ck_assert_int_le(cover.count, COVER);
    if (_i / RULES >= cover.count)
        return;
    small_case_t first = case_of(cover.level[_i / RULES], saved_rules[_i % RULES]);
    for (int k = 0; k < PAIRS; k++)
        for (int i = 0; i < CASES && rules[k][0] == first.rule; i++)
            seconds[count++] = case_number(i, &random, rules[k][1]);
    try_all(&first, seconds, count);
    printf("case %d of %d: %d loads\n", _i, cover.count * RULES, count);
}
END_TEST

static bool emulated;

/* From a GPU's memory to a CPU's, the other way round, and between GPUs. */
START_TEST(gpus_save_and_load)
{
    static const int devices[][2] = {{SMALL_CUDA, 0}, {0, SMALL_CUDA}, {SMALL_CUDA, SMALL_CUDA}, {SMALL_NCCL, 1}};
    char nccl[4096];
    uint64_t random = 77;
    snprintf(nccl, sizeof nccl, "%s/libnccl_emulator.so", emulated ? getenv("ZERO_PLUGIN_PATH") : "");
    setenv("ZERO_NCCL_LIBRARY", nccl, 1);
    setenv("ZERO_EMULATOR_DEVICES", "4", 1);
    for (int i = 0; i < 12 && emulated; i++) {
        small_case_t first = draw_case(&random, i % 3 == 0 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW),
                     second = draw_case(&random, ZERO_RULE_ADAMW);
        setenv("ZERO_EMULATOR", i % 2 ? "threads" : "inline", 1);
        first.threaded = devices[i % 4][0];
        second.threaded = devices[i % 4][1];
        if (i % 4 == 2) {
            second.world = first.world;
            second.dtype = first.dtype;
            second.rule = first.rule;
        }
        try_all(&first, &second, 1);
    }
}
END_TEST

int main(void)
{
    const char *full = getenv("ZERO_CHECK_FULL");
    emulated = emulated_plugins() != 0;
    Suite *suite = suite_create("save");
    TCase *some = tcase_create("some");
    tcase_set_timeout(some, 7200);
    tcase_add_test(some, what_one_run_saves_another_loads);
    tcase_add_test(some, gpus_save_and_load);
    suite_add_tcase(suite, some);
    if (full && strcmp(full, "1") == 0) { /* CK_RUN_CASE chooses one of them */
        TCase *saving = tcase_create("saving"), *loading = tcase_create("loading");
        tcase_set_timeout(saving, 7200);
        tcase_set_timeout(loading, 7200);
        tcase_add_loop_test(saving, every_case_saves, 0, CASES * RULES);
        tcase_add_loop_test(loading, every_case_loads, 0, COVER * RULES);
        suite_add_tcase(suite, saving);
        suite_add_tcase(suite, loading);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
