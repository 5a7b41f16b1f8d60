/* SPDX-License-Identifier: Apache-2.0 */
/* test_save_calls.c - saves and loads of every optimizer; calls that are wrong on one rank, or fail there; what is
 * called while a save runs; checkpoints that lie. */
#include "tests/engine_small.h"
#include "zero/checkpoint/folder.h"
#include "zero/checkpoint/writer.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum { W, E, B, F, NONE, SCALAR, PARAMS, STATES = ZERO_STATE_MOMENT2 + 1, MOST = 900 };
static const struct shape {
    const char *name;
    int32_t ndim;
    int64_t shape[2];
    bool trainable;
} shapes[PARAMS] = {{"w", 2, {12, 10}, true},      {"e", 2, {6, 50}, true},   {"b", 1, {700, 0}, true},
                    {"frozen", 1, {40, 0}, false}, {"none", 2, {0, 3}, true}, {"scalar", 0, {0, 0}, true}};

/* An engine: elementwise: of parameter e. */
typedef struct run {
    int world, stage, threaded, update_states;
    zero_rule_t rule;
    double beta1;
    zero_dtype_t dtype;
    bool elementwise, evaluates, guard;
    const char *folder;
} run_t;

typedef struct values {
    bool has[PARAMS][STATES];
    float of[PARAMS][STATES][MOST];
} values_t;

static char folder[64];
static values_t *saved, *ended; /* shared by all ranks */

/* ---- a model ---------------------------------------------------------------------------------------------------- */

static int unchanged(void *ctx, const zero_matrix_args_t *args)
{
    (void)ctx, (void)args;
    return 0;
}

static int update(void *ctx, const zero_update_args_t *args)
{
    (void)ctx;
    for (int64_t i = 0; i < args->count; i++) {
        float g = (float)args->grad_factor * (args->grad_dtype == ZERO_FP32
                                                  ? ((const float *)args->grad)[i]
                                                  : zero_bf16_to_fp32(((const uint16_t *)args->grad)[i]));
        for (int k = 0; k < 2 && args->state[k]; k++)
            g = args->state[k][i] = 0.5f * args->state[k][i] + g;
        args->master[i] -= (float)args->lr * g;
    }
    return 0;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)((begin + i) * 7 % 23 - 11 + param) / 16;
    return 0;
}

/* Declares the parameters in one unit and commits. */
static int start(small_t *s, const run_t *r, zero_comm_t *comm)
{
    zero_config_t config;
    zero_device_options_t options;
    *s = (small_t){.c = {.world = r->world, .stage = r->stage, .threaded = r->threaded, .rule = r->rule},
                   .rank = zero_comm_rank(comm)};
    zero_device_options_init(&options);
    options.threads = 1;
    options.threaded = r->threaded > 0;
    options.delay_seed = r->threaded > 1 ? (uint64_t)s->rank + 1 : 0;
    zero_config_init(&config);
    SMALL_TRY(zero_device_cpu(&s->device, &options, NULL));
    SMALL_TRY(zero_config_stage(&config, r->stage));
    config.comm = comm;
    config.device = s->device;
    config.saves = true;
    config.guard = r->guard;
    config.persist_bytes = 0;
    config.timeout_s = 30;
    config.rule = r->rule;
    config.beta1 = r->beta1;
    config.update = r->rule == ZERO_RULE_CUSTOM ? update : NULL;
    config.update_states = r->update_states;
    config.matrix = r->rule == ZERO_RULE_MUON ? unchanged : NULL;
    SMALL_TRY(zero_create(&s->engine, &config, NULL));
    SMALL_TRY(zero_unit_add(s->engine, "all", &s->unit[0]));
    for (int p = 0; p < PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = shapes[p].name;
        desc.ndim = shapes[p].ndim;
        memcpy(desc.shape, shapes[p].shape, sizeof shapes[p].shape);
        desc.trainable = shapes[p].trainable;
        desc.dtype = r->dtype;
        desc.elementwise = p == E && r->elementwise;
        SMALL_TRY(zero_param_add(s->engine, s->unit[0], &desc, &s->param[p]));
    }
    if (r->evaluates)
        SMALL_TRY(zero_pass_add(s->engine, "eval", ZERO_PASS_EVAL, &s->eval));
    else
        SMALL_TRY(zero_pass_add(s->engine, "train", ZERO_PASS_TRAIN, &s->train));
    SMALL_TRY(zero_use_add(s->engine, 0, s->unit[0], r->evaluates ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    SMALL_TRY(zero_commit(s->engine));
    for (int p = 0; p < PARAMS; p++)
        SMALL_TRY(zero_param_fill(s->engine, s->param[p], fill, NULL));
    return 0;
}

static int step(small_t *s, int64_t number)
{
    SMALL_TRY(zero_micro_begin(s->engine, s->train, ZERO_LAST));
    SMALL_TRY(zero_acquire(s->engine, s->unit[0]));
    for (int p = 0; p < PARAMS; p++) {
        float *g = zero_param_grad(s->engine, s->param[p]);
        uint16_t *narrow = (uint16_t *)(void *)g;
        for (int64_t i = 0; g && i < zero_param_elements(s->engine, s->param[p]); i++) {
            float add = (float)((i * 5 + number * 13 + s->rank * 3 + p) % 17 - 8) / 32;
            if (s->c.dtype == ZERO_FP32)
                g[i] += add;
            else
                narrow[i] = zero_fp32_to_bf16(zero_bf16_to_fp32(narrow[i]) + add);
        }
    }
    SMALL_TRY(zero_release(s->engine, s->unit[0]));
    SMALL_TRY(zero_micro_end(s->engine));
    SMALL_TRY(zero_step(s->engine, 0.01));
    return 0;
}

/* Reads all states; compares them with wanted, or on rank 0 writes them there. */
static int look(small_t *s, values_t *wanted, bool compare)
{
    static float values[MOST];
    for (int p = 0; p < PARAMS; p++)
        for (int k = 0; k < STATES; k++) {
            if (k == ZERO_STATE_GRAD)
                continue;
            int64_t count = zero_param_elements(s->engine, s->param[p]);
            bool has = zero_param_get(s->engine, s->param[p], (zero_state_t)k, ZERO_FP32, values) == ZERO_OK;
            if (compare && (wanted->has[p][k] != has ||
                            (has && memcmp(wanted->of[p][k], values, (size_t)count * sizeof *values) != 0)))
                return small_complain(s, "state %d of parameter '%s' differs", k, shapes[p].name);
            if (compare || s->rank > 0)
                continue;
            wanted->has[p][k] = has;
            memcpy(wanted->of[p][k], values, (size_t)count * sizeof *values);
        }
    return 0;
}

static int open_folder(small_t *s)
{
    zero_save_options_t options;
    zero_save_options_init(&options);
    options.folder = folder;
    SMALL_TRY(zero_save_open(s->engine, &options));
    return 0;
}

static int save_end(small_t *s, int64_t number)
{
    zero_saved_t end = {.size = sizeof end};
    SMALL_TRY(zero_save_end(s->engine, true, &end));
    SMALL_IS(end.done && end.step == number);
    return 0;
}

static zero_status_t load(small_t *s)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t error;
    if (zero_checkpoint_open(&checkpoint, folder, &error) != ZERO_OK) {
        small_complain(s, "%s", error.text);
        return error.status;
    }
    zero_status_t status = zero_load(s->engine, checkpoint);
    zero_checkpoint_close(checkpoint);
    return status;
}

static int load_it(small_t *s)
{
    SMALL_TRY(load(s));
    return 0;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

typedef struct task {
    const run_t *run;
    int (*body)(small_t *s);
} task_t;

static int run_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const task_t *task = arg;
    small_t small, *s = &small;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm ? start(s, task->run, comm) : -1;
    (void)rank, (void)world;
    s->c.dtype = task->run->dtype;
    if (result == 0)
        result = task->body(s);
    small_destroy(s);
    zero_comm_destroy(comm);
    return result;
}

static void run(const run_t *r, int (*body)(small_t *s))
{
    task_t task = {r, body};
    ck_assert_int_eq(ranks_run(r->world, 60, run_rank, &task), 0);
}

static void setup(void)
{
    snprintf(folder, sizeof folder, "test_save_calls.%d", (int)getpid());
    saved = ranks_shared(sizeof *saved);
    ended = ranks_shared(sizeof *ended);
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
    ranks_unshare(saved, sizeof *saved);
    ranks_unshare(ended, sizeof *ended);
}

/* ---- every optimizer -------------------------------------------------------------------------------------------- */

static int save_and_go_on(small_t *s)
{
    for (int i = 0; i < 2; i++)
        if (step(s, i))
            return -1;
    if (open_folder(s) || look(s, saved, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    for (int i = 2; i < 4; i++)
        if (step(s, i))
            return -1;
    return look(s, ended, false) || save_end(s, 2) ? -1 : 0;
}

static int load_only(small_t *s)
{
    SMALL_TRY(load(s));
    return look(s, saved, true);
}

static int load_and_go_on(small_t *s)
{
    if (load_only(s))
        return -1;
    for (int i = 2; i < 4; i++)
        if (step(s, i))
            return -1;
    return look(s, ended, true);
}

START_TEST(test_rules)
{
    static const run_t rules[] = {
        {.rule = ZERO_RULE_ADAMW, .beta1 = 0.9},
        {.rule = ZERO_RULE_ADAM, .beta1 = 0.9},
        {.rule = ZERO_RULE_SGD, .beta1 = 0},
        {.rule = ZERO_RULE_SGD, .beta1 = 0.9},
        {.rule = ZERO_RULE_LION, .beta1 = 0.9},
        {.rule = ZERO_RULE_ADAMW8, .beta1 = 0.9},
        {.rule = ZERO_RULE_MUON, .beta1 = 0.9},
        {.rule = ZERO_RULE_MUON, .beta1 = 0.9, .elementwise = true},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9, .update_states = 1},
        {.rule = ZERO_RULE_CUSTOM, .beta1 = 0.9, .update_states = 2},
    };
    for (int i = 0; i < (int)(sizeof rules / sizeof rules[0]); i++) {
        run_t r = rules[i], other = rules[i];
        r.world = 2 + i % 2;
        r.stage = i % 4;
        r.threaded = i % 3;
        r.dtype = i % 2 ? ZERO_BF16 : ZERO_FP32;
        r.guard = i % 3 == 1;
        other.dtype = r.dtype;
        other.world = 1 + (r.world + 1) % 4;
        other.stage = 3 - r.stage;
        run(&r, save_and_go_on);
        run(&r, load_and_go_on);
        run(&other, load_only);
        teardown();
        setup();
    }
}
END_TEST

static int save_only(small_t *s)
{
    if (look(s, saved, false) || open_folder(s))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    return save_end(s, 0);
}

/* A load that does not fit changes nothing. */
static int refuse(small_t *s, const char *part)
{
    if (look(s, ended, false))
        return -1;
    SMALL_FAILS(load(s), ZERO_ERR_ARG, part);
    return look(s, ended, true) || step(s, 0) ? -1 : 0;
}
static int refuse_second(small_t *s)
{
    return refuse(s, "moment2");
}
static int refuse_first(small_t *s)
{
    return refuse(s, "moment1");
}

/* A model that is only evaluated has parameters and no other state. */
START_TEST(test_evaluates)
{
    run_t r = {.world = 3, .stage = 3, .beta1 = 0.9, .dtype = ZERO_BF16, .evaluates = true};
    run(&r, save_only);
    r.world = 2, r.stage = 0;
    run(&r, load_only);
    r.evaluates = false;
    run(&r, refuse_first);
}
END_TEST

START_TEST(test_other_states)
{
    run_t r = {.world = 2, .stage = 3, .rule = ZERO_RULE_MUON, .beta1 = 0.9, .elementwise = true};
    run(&r, save_and_go_on);
    r.elementwise = false; /* its momentum is not AdamW's */
    run(&r, refuse_second);
    teardown();
    setup();
    run(&r, save_and_go_on);
    r.elementwise = true;
    run(&r, refuse_second);
    teardown();
    setup();
    r = (run_t){.world = 2, .stage = 1, .rule = ZERO_RULE_SGD, .beta1 = 0};
    run(&r, save_and_go_on);
    r.beta1 = 0.9;
    run(&r, refuse_first);
    teardown();
    setup();
    run(&r, save_and_go_on);
    r.beta1 = 0; /* needs none */
    r.evaluates = true;
    run(&r, load_it);
}
END_TEST

static int refuse_later(small_t *s)
{
    zero_save_options_t options;
    char path[100];
    zero_save_options_init(&options);
    options.folder = folder;
    SMALL_FAILS(zero_save_open(s->engine, &options), ZERO_ERR_ARG, "step 2, load");
    SMALL_TRY(zero_sum(s->engine, &(double){0}, 1));
    snprintf(path, sizeof path, "%s/step-2/manifest.json", folder);
    SMALL_IS(s->rank > 0 || truncate(path, 10) == 0);
    SMALL_FAILS(zero_save_open(s->engine, &options), ZERO_ERR_ARG, "damaged step 2, remove");
    return 0;
}

/* A folder with a later step, which is whole, or damaged and so cannot be loaded. */
START_TEST(test_later)
{
    run_t r = {.world = 2, .stage = 1, .beta1 = 0.9};
    run(&r, save_and_go_on);
    run(&r, refuse_later);
}
END_TEST

/* ---- ranks that differ ------------------------------------------------------------------------------------------ */

static int differ(small_t *s)
{
    zero_save_options_t good, bad;
    zero_saved_t end = {.size = sizeof end};
    char big[1] = {0};
    bool first = s->rank == 0;
    zero_save_options_init(&good);
    good.folder = folder;
    bad = good;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : NULL), ZERO_ERR_ARG, "zero_save_options_t");
    bad.folder = NULL;
    SMALL_FAILS(zero_save_open(s->engine, first ? &bad : &good), ZERO_ERR_ARG, "folder");
    bad = good;
    bad.keep = -1;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "keep");
    bad = good;
    bad.file_bytes = 1000;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "file_bytes");
    bad = good;
    bad.about = "[]";
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "object");
    SMALL_FAILS(zero_load(s->engine, NULL), ZERO_ERR_ARG, "zero_load");
    SMALL_TRY(zero_save_open(s->engine, &good));
    SMALL_FAILS(zero_save(s->engine, big, first ? (1 << 20) + 1 : 0), ZERO_ERR_ARG, "1048577");
    SMALL_FAILS(zero_save(s->engine, NULL, first), ZERO_ERR_ARG, "bytes");
    SMALL_TRY(zero_save(s->engine, NULL, first ? 0 : (1 << 20) + 1)); /* rank 0's count */
    SMALL_FAILS(zero_save_end(s->engine, true, first ? &end : NULL), ZERO_ERR_ARG, "zero_saved_t");
    for (end.done = false; !end.done;) {
        SMALL_TRY(zero_save_end(s->engine, first, &end));
        SMALL_IS(end.step == 0);
    }
    if (step(s, 0))
        return -1;
    /* one loads, the other loads nothing */
    zero_checkpoint_t *checkpoint = NULL;
    SMALL_TRY(zero_checkpoint_open(&checkpoint, folder, NULL));
    SMALL_FAILS(zero_load(s->engine, first ? checkpoint : NULL), ZERO_ERR_ARG, "zero_load");
    SMALL_TRY(zero_load(s->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    return step(s, 0);
}

START_TEST(test_ranks_differ)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        run_t r = {.world = 2, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        run(&r, differ);
        teardown();
        setup();
    }
}
END_TEST

/* Writes fail on the last rank alone. */
static int fail_on_one(small_t *s)
{
    struct rlimit before, least;
    zero_saved_t end = {.size = sizeof end};
    signal(SIGXFSZ, SIG_IGN);
    if (open_folder(s) || step(s, 0))
        return -1;
    getrlimit(RLIMIT_FSIZE, &before);
    least = before;
    least.rlim_cur = 100;
    if (s->rank == s->c.world - 1)
        setrlimit(RLIMIT_FSIZE, &least);
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    if (step(s, 1))
        return -1;
    SMALL_FAILS(zero_save_end(s->engine, true, &end), ZERO_ERR_IO, "rank 2");
    setrlimit(RLIMIT_FSIZE, &before);
    char path[100];
    snprintf(path, sizeof path, "%s/step-1", folder);
    SMALL_TRY(zero_sum(s->engine, &(double){0}, 1));
    SMALL_IS(access(path, F_OK) != 0);
    if (step(s, 2))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    return save_end(s, 3);
}

START_TEST(test_one_fails)
{
    run_t r = {.world = 3, .stage = 2, .beta1 = 0.9};
    run(&r, fail_on_one);
}
END_TEST

/* ---- while a save runs ------------------------------------------------------------------------------------------ */

static int change_all(small_t *s)
{
    static float values[MOST];
    for (int i = 0; i < 2; i++)
        if (step(s, i))
            return -1;
    if (open_folder(s) || look(s, saved, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, "abc", 3));
    SMALL_TRY(zero_param_set(s->engine, s->param[W], ZERO_STATE_PARAM, ZERO_FP32, values));
    SMALL_TRY(zero_param_set(s->engine, s->param[E], ZERO_STATE_MOMENT1, ZERO_FP32, values));
    SMALL_TRY(zero_param_fill(s->engine, s->param[F], fill, NULL));
    SMALL_TRY(zero_set_step(s->engine, 70, 60));
    if (step(s, 3))
        return -1;
    return save_end(s, 2);
}

static int load_while_saving(small_t *s)
{
    zero_save_options_t options;
    char path[100];
    zero_stats_t stats = {.size = sizeof stats};
    zero_save_options_init(&options);
    options.folder = folder;
    options.keep = 1;
    SMALL_TRY(load(s));
    SMALL_TRY(zero_save_open(s->engine, &options));
    if (step(s, 2) || look(s, ended, false))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    SMALL_TRY(load(s)); /* the older one */
    SMALL_TRY(zero_step_stats(s->engine, &stats));
    SMALL_IS(stats.step == 2);
    if (look(s, saved, true) || save_end(s, 3))
        return -1;
    snprintf(path, sizeof path, "%s/step-2", folder);
    SMALL_IS(access(path, F_OK) != 0); /* a call that waits also waits for the end of that */
    SMALL_TRY(load(s));
    return look(s, ended, true);
}

START_TEST(test_beside)
{
    for (int i = 0; i < 4; i++) {
        run_t r = {.world = 1 + i, .stage = i, .threaded = i % 3, .beta1 = 0.9, .dtype = i % 2 ? ZERO_BF16 : ZERO_FP32};
        run(&r, change_all);
        run(&r, load_while_saving);
        teardown();
        setup();
    }
}
END_TEST

/* Destroyed with a save in flight, by one rank before the other, which then waits for nothing. */
static int leave(small_t *s)
{
    zero_saved_t end = {.size = sizeof end};
    if (open_folder(s))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    if (s->rank > 0 || s->c.world == 1)
        return 0;
    zero_status_t status = zero_save_end(s->engine, true, &end);
    SMALL_IS(status == ZERO_ERR_PEER);
    return 0;
}

START_TEST(test_destroy)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        run_t r = {.world = 2, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        run(&r, leave);
        run_t one = {.world = 1, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        run(&one, leave);
        teardown();
        setup();
    }
}
END_TEST

/* ---- checkpoints that lie --------------------------------------------------------------------------------------- */

/* A whole checkpoint of the model, whose first moments have this dtype and shape. */
static void forge(const char *dtype, int32_t ndim, int64_t rows, int64_t columns)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    static char bytes[1 << 16];
    zero_layout_t layouts[3];
    zero_manifest_t manifest;
    zero_writer_t *writer;
    zero_error_t error;
    uint64_t count;
    int lock;
    ck_assert_int_eq(zero_folder_lock(folder, &lock, &error), ZERO_OK);
    char *path = zero_folder_step(folder, 1);
    ck_assert_int_eq(zero_manifest_begin(&manifest, 1, 1, "adamw", NULL, NULL, 0, &error), ZERO_OK);
    for (int k = 0; k < 3; k++) {
        zero_tensor_info_t infos[PARAMS] = {0};
        int n = 0;
        for (int p = 0; p < PARAMS; p++) {
            zero_manifest_param_t param = {
                .name = (char *)(uintptr_t)shapes[p].name, .trainable = shapes[p].trainable, .ndim = shapes[p].ndim};
            memcpy(param.shape, shapes[p].shape, sizeof shapes[p].shape);
            if (k == 0)
                ck_assert_int_eq(zero_manifest_add(&manifest, &param, &error), ZERO_OK);
            if (k > 0 && (p == F || p == NONE))
                continue;
            zero_tensor_info_t *info = &infos[n++];
            *info = (zero_tensor_info_t){
                .size = sizeof *info, .name = shapes[p].name, .dtype = "F32", .ndim = shapes[p].ndim};
            memcpy(info->shape, shapes[p].shape, sizeof shapes[p].shape);
            if (k == 1 && p == B) {
                snprintf(info->dtype, sizeof info->dtype, "%s", dtype);
                info->ndim = ndim;
                info->shape[0] = rows;
                info->shape[1] = columns;
            }
        }
        ck_assert_int_eq(zero_layout_make(&layouts[k], zero_checkpoint_state_name(states[k]), infos, n, 0, &error),
                         ZERO_OK);
    }
    ck_assert_int_eq(zero_writer_make(&writer, path, layouts, 3, &error), ZERO_OK);
    ck_assert_int_eq(zero_writer_create(writer, &error), ZERO_OK);
    for (int k = 0; k < 3; k++)
        for (int t = 0; t < layouts[k].count; t++)
            ck_assert_int_eq(zero_writer_write(writer, k, t, 0, layouts[k].tensors[t].bytes, bytes, &error), ZERO_OK);
    ck_assert_int_eq(zero_writer_sync(writer, &error), ZERO_OK);
    const zero_piece_t *pieces = zero_writer_pieces(writer, &count);
    ck_assert_int_eq(zero_manifest_files(&manifest, layouts, states, 3, pieces, count, &error), ZERO_OK);
    ck_assert_int_eq(zero_manifest_write(&manifest, path, &error), ZERO_OK);
    zero_writer_destroy(writer);
    zero_manifest_clear(&manifest);
    for (int k = 0; k < 3; k++)
        zero_layout_clear(&layouts[k]);
    free(path);
    close(lock);
}

static int refuse_format(small_t *s)
{
    if (look(s, ended, false))
        return -1;
    SMALL_FAILS(load(s), ZERO_ERR_FORMAT, "moment1");
    return look(s, ended, true) || step(s, 0) ? -1 : 0;
}

START_TEST(test_lies)
{
    static const struct lie {
        const char *dtype;
        int32_t ndim;
        int64_t rows, columns;
    } lies[] = {{"F64", 1, 700, 0}, {"I32", 1, 700, 0}, {"I8", 1, 700, 0}, {"U8", 1, 700, 0},
                {"U8", 2, 5, 132},  {"U8", 2, 6, 131},  {"U8", 2, 132, 6}, {"U8", 2, 7, 132}};
    for (int i = 0; i < (int)(sizeof lies / sizeof lies[0]); i++) {
        run_t r = {.world = 1 + i % 2, .stage = 1, .rule = i % 3 ? ZERO_RULE_ADAMW : ZERO_RULE_ADAMW8, .beta1 = 0.9};
        forge(lies[i].dtype, lies[i].ndim, lies[i].rows, lies[i].columns);
        run(&r, refuse_format);
        teardown();
        setup();
    }
    run_t r = {.world = 2, .stage = 1, .beta1 = 0.9};
    forge("F32", 1, 700, 0);
    run(&r, load_it);
    teardown();
    setup();
    forge("U8", 2, 6, 132);
    run(&r, load_it);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("save_calls");
    TCase *tcase = tcase_create("save_calls");
    tcase_set_timeout(tcase, 600);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, test_rules);
    tcase_add_test(tcase, test_evaluates);
    tcase_add_test(tcase, test_other_states);
    tcase_add_test(tcase, test_later);
    tcase_add_test(tcase, test_ranks_differ);
    tcase_add_test(tcase, test_one_fails);
    tcase_add_test(tcase, test_beside);
    tcase_add_test(tcase, test_destroy);
    tcase_add_test(tcase, test_lies);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
