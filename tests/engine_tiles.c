/* SPDX-License-Identifier: Apache-2.0 */
/* engine_tiles.c - a tensor in tiles: calls and checkpoints see it whole, whatever its tiles are, and it is trained to
 * the same bits. Gradients are small integers, so the order of their sums does not matter. */
#include "tests/engine_suites.h"
#include "tests/expect.h"
#include "tests/ranks.h"
#include "zero/base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROWS = 300, COLUMNS = 64, COUNT = ROWS * COLUMNS, MOST_TILES = 4, STEPS = 3, STATES = 4 };

/* The first rows of the tiles, and behind them ROWS; in the order of declaration. {0}: the tensor is one parameter. */
typedef struct cut {
    int64_t first[MOST_TILES], count[MOST_TILES];
    int tiles;
} cut_t;
static const cut_t cuts[] = {{.tiles = 0}, {{0, 128, 256}, {128, 128, 44}, 3}, {{256, 0, 2, 4}, {44, 2, 2, 252}, 4}};
enum { CUTS = sizeof cuts / sizeof *cuts };

typedef struct tiled {
    const cut_t *cut;
    int rank, stage;
    zero_rule_t rule;
    bool host;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_unit_t unit[MOST_TILES];
    zero_param_t part[MOST_TILES], whole;
    zero_pass_t train;
} tiled_t;

#define TRY(call)                                                                    \
    do {                                                                             \
        if ((call) != ZERO_OK) {                                                     \
            fprintf(stderr, "rank %d, stage %d: %s: %s\n", t->rank, t->stage, #call, \
                    t->engine ? zero_last_error(t->engine) : "");                    \
            return -1;                                                               \
        }                                                                            \
    } while (0)
#define IS(condition)                                                                                             \
    do {                                                                                                          \
        if (!(condition)) {                                                                                       \
            fprintf(stderr, "rank %d, stage %d, line %d: not so: %s\n", t->rank, t->stage, __LINE__, #condition); \
            return -1;                                                                                            \
        }                                                                                                         \
    } while (0)

static int parts_of(const tiled_t *t)
{
    return t->cut->tiles > 0 ? t->cut->tiles : 1;
}

static int64_t first_of(const tiled_t *t, int i)
{
    return t->cut->first[i] * COLUMNS;
}

static zero_param_desc_t describe(const cut_t *cut, int i, char *name, size_t size)
{
    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    snprintf(name, size, cut->tiles > 0 ? "table.%d" : "table", i);
    desc.name = name;
    desc.ndim = 2;
    desc.shape[0] = cut->tiles > 0 ? cut->count[i] : ROWS;
    desc.shape[1] = COLUMNS;
    desc.piece_of = cut->tiles > 0 ? "table" : NULL;
    desc.piece_begin = cut->first[i];
    return desc;
}

static int declare(tiled_t *t, zero_comm_t *comm)
{
    zero_config_t config;
    char name[32];
    TRY(zero_device_cpu(&t->device, NULL, NULL));
    zero_config_init(&config);
    TRY(zero_config_stage(&config, t->stage));
    config.comm = comm;
    config.device = t->device;
    config.clip = 0;
    config.rule = t->rule;
    config.persist_bytes = 0;
    config.timeout_s = 30;
    config.saves = true;
    if (t->host)
        config.optimizer.tier = config.gradients.tier = ZERO_TIER_HOST;
    TRY(zero_create(&t->engine, &config, NULL));
    for (int i = 0; i < parts_of(t); i++) {
        const zero_param_desc_t desc = describe(t->cut, i, name, sizeof name);
        TRY(zero_unit_add(t->engine, name, &t->unit[i]));
        TRY(zero_param_add(t->engine, t->unit[i], &desc, &t->part[i]));
    }
    TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->train));
    for (int use = 0; use < 2; use++) /* as a tied table, whose gradients are reduced at each use */
        for (int i = 0; i < parts_of(t); i++)
            TRY(zero_use_add(t->engine, t->train, t->unit[i], ZERO_READ | ZERO_GRAD | (use == 0 ? ZERO_REDUCE : 0u)));
    return 0;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx, (void)param;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)((begin + i) % 1001) / 500 - 1;
    return 0;
}

static int start(tiled_t *t, zero_comm_t *comm)
{
    if (declare(t, comm))
        return -1;
    TRY(zero_commit(t->engine));
    TRY(zero_param_find(t->engine, "table", &t->whole));
    IS(zero_param_elements(t->engine, t->whole) == COUNT && strcmp(zero_param_name(t->engine, t->whole), "table") == 0);
    IS((zero_param_data(t->engine, t->whole) == NULL) == (t->cut->tiles > 0));
    TRY(zero_param_fill(t->engine, t->whole, fill, t));
    return 0;
}

static int train(tiled_t *t, int step)
{
    TRY(zero_micro_begin(t->engine, t->train, ZERO_LAST));
    for (int use = 0; use < 2; use++)
        for (int i = 0; i < parts_of(t); i++) {
            TRY(zero_acquire(t->engine, t->unit[i]));
            const float *w = zero_param_data(t->engine, t->part[i]);
            float *dw = zero_param_grad(t->engine, t->part[i]);
            for (int64_t k = 0, n = zero_param_elements(t->engine, t->part[i]); k < n; k++)
                dw[k] += (float)((first_of(t, i) + k + step + use) % 17 - 8 + t->rank) * (w[k] > 0 ? 1 : 2);
            TRY(zero_release(t->engine, t->unit[i]));
        }
    TRY(zero_micro_end(t->engine));
    TRY(zero_step(t->engine, 0.01));
    return 0;
}

/* All states of the whole tensor. */
typedef struct states {
    float values[STATES][COUNT];
} states_t;

static int read_states(tiled_t *t, states_t *s)
{
    static const zero_state_t all[STATES] = {ZERO_STATE_PARAM, ZERO_STATE_MASTER, ZERO_STATE_MOMENT1,
                                             ZERO_STATE_MOMENT2};
    for (int i = 0; i < STATES; i++)
        TRY(zero_param_get(t->engine, t->whole, all[i], ZERO_FP32, s->values[i]));
    return 0;
}

typedef struct pair {
    int stage, first, second;
    zero_rule_t rule;
    bool host;
    const char *folder;
    states_t *expected, *found; /* shared by the ranks */
} pair_t;

static int save(tiled_t *t, const char *folder)
{
    zero_save_options_t options;
    zero_saved_t end = {.size = sizeof end};
    zero_save_options_init(&options);
    options.folder = folder;
    TRY(zero_save_open(t->engine, &options));
    TRY(zero_save(t->engine, NULL, 0));
    TRY(zero_save_end(t->engine, true, &end));
    return 0;
}

static int load(tiled_t *t, const char *folder)
{
    zero_checkpoint_t *checkpoint = NULL;
    TRY(zero_checkpoint_open(&checkpoint, folder, NULL));
    TRY(zero_load(t->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    return 0;
}

static void stop(tiled_t *t)
{
    zero_destroy(t->engine);
    zero_device_destroy(t->device);
}

static zero_comm_t *open_comm(const zero_bootstrap_t *bootstrap)
{
    zero_comm_t *comm = NULL;
    return zero_comm_shm(&comm, bootstrap, NULL, NULL) == ZERO_OK ? comm : NULL;
}

/* Trains and saves with one cut. */
static int first_run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const pair_t *pair = arg;
    zero_comm_t *comm = open_comm(bootstrap);
    tiled_t tiled = {.cut = &cuts[pair->first],
                     .rank = rank,
                     .stage = pair->stage,
                     .rule = pair->rule,
                     .host = pair->host},
            *t = &tiled;
    (void)world;
    int result = start(t, comm);
    for (int step = 0; step < STEPS && result == 0; step++)
        result = train(t, step);
    if (result == 0)
        result = save(t, pair->folder);
    states_t *own = malloc(sizeof *own);
    if (result == 0)
        result = read_states(t, own);
    if (rank == 0 && result == 0)
        *pair->expected = *own;
    free(own);
    stop(t);
    zero_comm_destroy(comm);
    return result;
}

/* AdamW8 rounds what is set. */
static int set_and_get(tiled_t *t, const float *values, float *found)
{
    TRY(zero_param_set(t->engine, t->whole, ZERO_STATE_MOMENT1, ZERO_FP32, values));
    TRY(zero_param_get(t->engine, t->whole, ZERO_STATE_MOMENT1, ZERO_FP32, found));
    IS(t->rule == ZERO_RULE_ADAMW8 || memcmp(found, values, COUNT * sizeof *values) == 0);
    return 0;
}

/* Loads what the first run saved with another cut, and sets and gets the whole. */
static int second_run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const pair_t *pair = arg;
    zero_comm_t *comm = open_comm(bootstrap);
    tiled_t tiled = {.cut = &cuts[pair->second], .rank = rank, .stage = 3, .rule = pair->rule}, *t = &tiled;
    states_t *own = malloc(sizeof *own);
    (void)world;
    int result = start(t, comm);
    if (result == 0)
        result = load(t, pair->folder);
    if (result == 0)
        result = read_states(t, own);
    if (rank == 0 && result == 0)
        *pair->found = *own;
    if (result == 0)
        result = set_and_get(t, pair->expected->values[0], own->values[0]);
    free(own);
    stop(t);
    zero_comm_destroy(comm);
    return result;
}

/* Every cut trains to the same bits, at each stage, and loads what another has saved. */
START_TEST(cuts_do_not_show)
{
    char folder[] = "tiles.XXXXXX", path[64], command[96];
    states_t *expected = ranks_shared(sizeof *expected), *found = ranks_shared(sizeof *found), *reference = NULL;
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (int rule = 0; rule < 2; rule++)
        for (int c = 0; c < 2 * CUTS; c++)
            for (int stage = 0; stage < 4; stage++) {
                snprintf(path, sizeof path, "%s/%d-%d-%d", folder, rule, c, stage);
                pair_t pair = {.stage = stage,
                               .first = c / 2,
                               .second = (c / 2 + 1 + c % 2) % CUTS,
                               .rule = rule ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW,
                               .host = c % 2 == 1,
                               .folder = path,
                               .expected = expected,
                               .found = found};
                ck_assert_int_eq(ranks_run(3, 60, first_run, &pair), 0);
                if (!reference) {
                    reference = malloc(sizeof *reference);
                    *reference = *expected;
                }
                ck_assert_msg(memcmp(reference, expected, sizeof *expected) == 0, "cut %d at stage %d: other bits",
                              pair.first, stage);
                ck_assert_int_eq(ranks_run(2, 60, second_run, &pair), 0);
                ck_assert_msg(memcmp(expected, found, sizeof *expected) == 0,
                              "cut %d saves at stage %d what cut %d does not load", pair.first, stage, pair.second);
                if (stage == 3 && c + 1 == 2 * CUTS) { /* 8 bits are other values */
                    free(reference);
                    reference = NULL;
                }
            }
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
    ranks_unshare(expected, sizeof *expected);
    ranks_unshare(found, sizeof *found);
}
END_TEST

/* Commits one rank with tiles that an edit makes wrong. */
static void refuse(void (*edit)(zero_param_desc_t *desc, int tile), zero_rule_t rule, zero_status_t wanted,
                   const char *names)
{
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_engine_t *engine = NULL;
    zero_config_t config;
    zero_status_t status = ZERO_OK;
    ck_assert_int_eq(zero_comm_self(&comm, NULL), ZERO_OK);
    ck_assert_int_eq(zero_device_cpu(&device, NULL, NULL), ZERO_OK);
    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.rule = rule;
    config.matrix = rule == ZERO_RULE_MUON ? (zero_matrix_fn)(uintptr_t)1 : NULL; /* it is not called */
    ck_assert_int_eq(zero_create(&engine, &config, NULL), ZERO_OK);
    for (int i = 0; i < 3 && status == ZERO_OK; i++) {
        char name[32];
        zero_unit_t unit;
        zero_param_t param;
        zero_param_desc_t desc = describe(&cuts[1], i, name, sizeof name);
        edit(&desc, i);
        ck_assert_int_eq(zero_unit_add(engine, desc.name, &unit), ZERO_OK);
        status = zero_param_add(engine, unit, &desc, &param);
    }
    if (status == ZERO_OK)
        status = zero_commit(engine);
    ck_assert_msg(status == wanted && has_names(zero_last_error(engine), names), "%s: %s, not %s with %s",
                  zero_status_name(status), zero_last_error(engine), zero_status_name(wanted), names);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
}

static void leave(zero_param_desc_t *desc, int tile)
{
    (void)desc, (void)tile;
}

static void gap(zero_param_desc_t *desc, int tile)
{
    desc->piece_begin += tile == 2;
}

static void overlap(zero_param_desc_t *desc, int tile)
{
    desc->piece_begin -= tile == 1;
}

static void late(zero_param_desc_t *desc, int tile)
{
    desc->piece_begin += tile == 0 ? 300 : 0;
}

static void dtype(zero_param_desc_t *desc, int tile)
{
    desc->dtype = tile == 1 ? ZERO_BF16 : ZERO_FP32;
}

static void columns(zero_param_desc_t *desc, int tile)
{
    desc->shape[1] = tile == 1 ? 32 : 64;
}

static void frozen(zero_param_desc_t *desc, int tile)
{
    desc->trainable = tile != 1;
}

static void odd(zero_param_desc_t *desc, int tile)
{
    desc->piece_begin += tile > 0;
    desc->shape[0] += tile == 0;
}

static void dimension(zero_param_desc_t *desc, int tile)
{
    desc->piece_dim = tile;
}

static void taken(zero_param_desc_t *desc, int tile)
{
    if (tile == 2) {
        desc->name = "table";
        desc->piece_of = NULL;
    }
}

static void empty(zero_param_desc_t *desc, int tile)
{
    desc->shape[0] = tile == 1 ? 0 : desc->shape[0];
}

START_TEST(wrong_tiles_are_refused)
{
    refuse(leave, ZERO_RULE_ADAMW, ZERO_OK, "");
    refuse(gap, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.2' 257 256");
    refuse(overlap, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1' 127 128");
    refuse(late, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1' 128 0");
    refuse(dtype, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1'");
    refuse(columns, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1'");
    refuse(frozen, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1'");
    refuse(odd, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1' 8256 128");
    refuse(dimension, ZERO_RULE_ADAMW, ZERO_ERR_UNSUPPORTED, "'table' 'table.1' 1");
    refuse(taken, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.0'");
    refuse(empty, ZERO_RULE_ADAMW, ZERO_ERR_ARG, "'table' 'table.1'");
    refuse(leave, ZERO_RULE_MUON, ZERO_ERR_UNSUPPORTED, "'table' elementwise");
}
END_TEST

Suite *engine_tiles_suite(void)
{
    Suite *suite = suite_create("engine_tiles");
    TCase *tcase = tcase_create("tiles");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, cuts_do_not_show);
    tcase_add_test(tcase, wrong_tiles_are_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
