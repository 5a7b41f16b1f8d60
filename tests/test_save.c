/* SPDX-License-Identifier: Apache-2.0 */
/* test_save.c - zero_save and zero_load: a run saves while it trains on, and another run, with any other world,
 * placement, device, dtype or format of moments, loads what was saved. With the same world it then trains on with the
 * same bits. ZERO_CHECK_FULL=1 tries every pair of cases. */
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
        result = small_step(s, BEFORE + i);
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

static void try_pair(const small_case_t *first, const small_case_t *second)
{
    pair_t pair = {.first = *first,
                   .second = *second,
                   .saved = ranks_shared(sizeof(record_t)),
                   .ended = ranks_shared(sizeof(record_t))};
    snprintf(pair.folder, sizeof pair.folder, "test_save.%d", (int)getpid());
    pair.first.edit = saves;
    ck_assert_int_eq(ranks_run(first->world, 60, first_run, &pair), 0);
    ck_assert_int_eq(ranks_run(second->world, 60, second_run, &pair), 0);
    remove_folder(pair.folder);
    ranks_unshare(pair.saved, sizeof *pair.saved);
    ranks_unshare(pair.ended, sizeof *pair.ended);
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static small_case_t draw(uint64_t *state, zero_rule_t rule)
{
#define DRAW(n) ((int)((*state = zero_splitmix64(*state)) % (n)))
    small_case_t c = {.world = 1 + DRAW(4),
                      .stage = DRAW(4),
                      .threaded = DRAW(3),
                      .micro_steps = 1,
                      .dtype = DRAW(2) ? ZERO_BF16 : ZERO_FP32,
                      .rule = rule,
                      .momentum = 0.9,
                      .place = (small_place_t)DRAW(SMALL_PLACES),
                      .folder = "test_save.nvme"};
#undef DRAW
    return c;
}

START_TEST(what_one_run_saves_another_loads)
{
    static const zero_rule_t rules[][2] = {{ZERO_RULE_ADAMW, ZERO_RULE_ADAMW},
                                           {ZERO_RULE_ADAMW, ZERO_RULE_ADAMW8},
                                           {ZERO_RULE_ADAMW8, ZERO_RULE_ADAMW8},
                                           {ZERO_RULE_ADAMW8, ZERO_RULE_ADAMW},
                                           {ZERO_RULE_SGD, ZERO_RULE_SGD}};
    const char *full = getenv("ZERO_CHECK_FULL");
    int count = full && strcmp(full, "1") == 0 ? 1000 : 40;
    uint64_t state = 2026;
    for (int i = 0; i < count; i++) {
        const zero_rule_t *rule = rules[i % 5];
        small_case_t first = draw(&state, rule[0]), second = draw(&state, rule[1]);
        if (i % 3 == 0) { /* where the bits go on */
            second.world = first.world;
            second.dtype = first.dtype;
        }
        try_pair(&first, &second);
    }
}
END_TEST

static bool emulated;

/* From a GPU's memory to a CPU's, the other way round, and between GPUs. */
START_TEST(gpus_save_and_load)
{
    static const int devices[][2] = {{SMALL_CUDA, 0}, {0, SMALL_CUDA}, {SMALL_CUDA, SMALL_CUDA}, {SMALL_NCCL, 1}};
    char nccl[4096];
    uint64_t state = 77;
    snprintf(nccl, sizeof nccl, "%s/libnccl_emulator.so", emulated ? getenv("ZERO_PLUGIN_PATH") : "");
    setenv("ZERO_NCCL_LIBRARY", nccl, 1);
    setenv("ZERO_EMULATOR_DEVICES", "4", 1);
    for (int i = 0; i < 12 && emulated; i++) {
        small_case_t first = draw(&state, i % 3 == 0 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW),
                     second = draw(&state, ZERO_RULE_ADAMW);
        setenv("ZERO_EMULATOR", i % 2 ? "threads" : "inline", 1);
        first.threaded = devices[i % 4][0];
        second.threaded = devices[i % 4][1];
        if (i % 4 == 2) {
            second.world = first.world;
            second.dtype = first.dtype;
            second.rule = first.rule;
        }
        try_pair(&first, &second);
    }
}
END_TEST

int main(void)
{
    emulated = emulated_plugins() != 0;
    Suite *suite = suite_create("save");
    TCase *tcase = tcase_create("save");
    tcase_set_timeout(tcase, 7200);
    tcase_add_test(tcase, what_one_run_saves_another_loads);
    tcase_add_test(tcase, gpus_save_and_load);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
