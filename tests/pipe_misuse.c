/* SPDX-License-Identifier: Apache-2.0 */
/* pipe_misuse.c - wrong declarations and calls of a pipeline say so, and change nothing; ranks that declare different
 * pipelines are told what differs. */
#include "tests/engine_suites.h"
#include "tests/pipe_toy.h"
#include "tests/sanitized.h"

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define TRY(call) PIPE_TRY(call)
#define IS(condition) PIPE_IS(condition)
#define FAILS(call, status, part) PIPE_FAILS(call, status, part)

static pipe_case_t base(int pipe)
{
    return (pipe_case_t){.pipe = pipe, .chunks = pipe, .ranks = 1, .stage = 1, .micros = 2};
}

/* ---- declarations ----------------------------------------------------------------------------------------------- */

static int declare_wrong(pipe_toy_t *t)
{
    zero_engine_t *e = t->engine;
    FAILS(zero_chunks(e, 1), ZERO_ERR_ORDER, "zero_chunks 1");
    FAILS(zero_chunk_link(e, 1, 8, ZERO_FP32), ZERO_ERR_ARG, "`chunk 1` 1");
    FAILS(zero_chunk_link(e, -1, 8, ZERO_FP32), ZERO_ERR_ARG, "`chunk -1`");
    FAILS(zero_chunk_link(e, 0, 0, ZERO_FP32), ZERO_ERR_ARG, "0 `chunk 0`");
    FAILS(zero_chunk_link(e, 0, 8, ZERO_DTYPE_COUNT), ZERO_ERR_ARG, "`dtype 3`");
    FAILS(zero_chunk_reserve(e, 0, ZERO_KIND_ACTIVATIONS, ZERO_TIER_NVME, 8), ZERO_ERR_UNSUPPORTED, "`tier 2`");
    FAILS(zero_chunk_reserve(e, 0, ZERO_KIND_CACHE, ZERO_TIER_DEVICE, 8), ZERO_ERR_ARG, "cache");
    FAILS(zero_chunk_reserve(e, 0, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, UINT64_MAX), ZERO_ERR_ARG, "`chunk 0`");
    FAILS(zero_chunk_reserve(e, 7, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 8), ZERO_ERR_ARG, "`chunk 7`");
    FAILS(zero_task_add(e, t->train, 0, ZERO_TASKS_END), ZERO_ERR_ARG, "'train'");
    FAILS(zero_task_add(e, t->eval, 0, ZERO_BACKWARD), ZERO_ERR_ARG, "'eval'");
    FAILS(zero_task_add(e, t->any, 0, ZERO_FORWARD), ZERO_ERR_ARG, "'any'");
    FAILS(zero_task_add(e, 9, 0, ZERO_FORWARD), ZERO_ERR_ARG, "`pass 9`");
    FAILS(zero_task_add(e, t->train, 3, ZERO_FORWARD), ZERO_ERR_ARG, "`chunk 3`");
    FAILS(zero_task_add(e, t->train, 0, ZERO_FORWARD), ZERO_ERR_ARG, "'train' 2");
    FAILS(zero_tasks_begin(e, t->train), ZERO_ERR_ORDER, "zero_commit");
    IS(zero_pipe_size(e) == 1 && zero_pipe_index(e) == 0 && zero_data_size(e) == 1 && zero_data_index(e) == 0);
    IS(zero_pipe_size(NULL) == 0 && zero_pipe_index(NULL) == -1 && zero_data_size(NULL) == 0);
    TRY(zero_commit(e));
    FAILS(zero_chunks(e, 1), ZERO_ERR_ORDER, "zero_chunks zero_commit");
    FAILS(zero_chunk_link(e, 0, 8, ZERO_FP32), ZERO_ERR_ORDER, "zero_chunk_link zero_commit");
    FAILS(zero_chunk_reserve(e, 0, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 8), ZERO_ERR_ORDER, "zero_commit");
    FAILS(zero_task_add(e, t->train, 0, ZERO_FORWARD), ZERO_ERR_ORDER, "zero_task_add zero_commit");
    return 0;
}

static zero_comm_t *alone(void)
{
    zero_comm_t *comm = NULL;
    ck_assert_int_eq(zero_comm_self(&comm, NULL), ZERO_OK);
    return comm;
}

START_TEST(declarations)
{
    zero_comm_t *comm = alone();
    const pipe_case_t c = base(1);
    pipe_toy_t toy;
    ck_assert_int_eq(pipe_create(&toy, &c, comm, NULL, NULL), 0);
    ck_assert_int_eq(declare_wrong(&toy), 0);
    pipe_destroy(&toy);
    zero_comm_destroy(comm);
}
END_TEST

/* A pipeline that is only planned, for so many ranks. */
typedef struct draft {
    zero_engine_t *engine;
    zero_unit_t unit[4];
    zero_pass_t train;
} draft_t;

static draft_t draft(int world, int pipe, zero_schedule_t schedule, int micros, bool offload)
{
    draft_t d;
    zero_config_t config;
    zero_config_init(&config);
    config.plan_world = world;
    config.mesh.pipe = pipe;
    config.schedule = schedule;
    config.micro_steps = micros;
    if (offload)
        config.parameters.tier = config.gradients.tier = config.optimizer.tier = ZERO_TIER_HOST;
    ck_assert_int_eq(zero_create(&d.engine, &config, NULL), ZERO_OK);
    for (int u = 0; u < 4; u++) {
        zero_param_desc_t desc;
        zero_param_t param;
        char name[8];
        snprintf(name, sizeof name, "u%d", u);
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 1;
        desc.shape[0] = 1000;
        ck_assert_int_eq(zero_unit_add(d.engine, name, &d.unit[u]), ZERO_OK);
        ck_assert_int_eq(zero_param_add(d.engine, d.unit[u], &desc, &param), ZERO_OK);
    }
    ck_assert_int_eq(zero_pass_add(d.engine, "train", ZERO_PASS_TRAIN, &d.train), ZERO_OK);
    return d;
}

/* Chunks with links, and tasks whose uses are those of units[chunk][...], up to -1; flags: of the last of them. */
static void cut(draft_t *d, int chunks, int links, const int units[][3], uint32_t flags)
{
    ck_assert_int_eq(zero_chunks(d->engine, chunks), ZERO_OK);
    for (int c = 0; c < links; c++)
        ck_assert_int_eq(zero_chunk_link(d->engine, c, 8, ZERO_FP32), ZERO_OK);
    for (int i = 0; i < 2 * chunks; i++) {
        const int c = i < chunks ? i : 2 * chunks - 1 - i;
        ck_assert_int_eq(zero_task_add(d->engine, d->train, c, i < chunks ? ZERO_FORWARD : ZERO_BACKWARD), ZERO_OK);
        for (int u = 0; u < 3 && units[c][u] >= 0; u++)
            ck_assert_int_eq(zero_use_add(d->engine, d->train, d->unit[units[c][u]],
                                          ZERO_READ | ZERO_GRAD | (u == 2 || units[c][u + 1] < 0 ? flags : 0u)),
                             ZERO_OK);
    }
}

static void use_all(draft_t *d)
{
    for (int u = 0; u < 4; u++)
        ck_assert_int_eq(zero_use_add(d->engine, d->train, d->unit[u], ZERO_READ | ZERO_GRAD), ZERO_OK);
}

static void expect(draft_t *d, zero_status_t wanted, const char *names)
{
    zero_status_t status = zero_commit(d->engine);
    ck_assert_msg(status == wanted && has_names(zero_last_error(d->engine), names), "%s: '%s', not %s with %s",
                  zero_status_name(status), zero_last_error(d->engine), zero_status_name(wanted), names);
    zero_destroy(d->engine);
}

START_TEST(commits)
{
    static const int apart[4][3] = {{0, -1}, {1, -1}, {2, -1}, {3, -1}},
                     tied[4][3] = {{0, -1}, {1, -1}, {2, -1}, {3, 0}};
    static const int thrice[4][3] = {{0, -1}, {1, 0, -1}, {2, -1}, {3, 0}};
    static const int crossed[4][3] = {{0, -1}, {1, -1}, {2, 1, -1}, {3, 0}};
    static const int two[2][3] = {{0, 1, -1}, {2, 3, -1}};
    draft_t d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 3, apart, 0);
    expect(&d, ZERO_OK, "");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    use_all(&d);
    expect(&d, ZERO_ERR_ARG, "config.mesh.pipe 4 zero_chunks zero_task_add");
    d = draft(2, 2, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 3, apart, 0);
    expect(&d, ZERO_ERR_ARG, "4 2 1f1b");
    d = draft(3, 3, ZERO_SCHEDULE_INTERLEAVED, 2, false);
    cut(&d, 4, 3, apart, 0);
    expect(&d, ZERO_ERR_ARG, "4 3 interleaved");
    d = draft(1, 1, ZERO_SCHEDULE_INTERLEAVED, 2, false); /* a stage has no link to itself */
    cut(&d, 4, 3, apart, 0);
    expect(&d, ZERO_ERR_ARG, "4 1 interleaved");
    d = draft(2, 2, ZERO_SCHEDULE_INTERLEAVED, 5, false);
    cut(&d, 4, 3, apart, 0);
    expect(&d, ZERO_ERR_ARG, "config.micro_steps 5 2 4 6");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 4, apart, 0);
    expect(&d, ZERO_ERR_ARG, "`chunk 3` zero_chunk_link");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 2, apart, 0);
    expect(&d, ZERO_ERR_ARG, "`chunk 2` zero_chunk_link");
    d = draft(2, 2, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 2, 1, two, ZERO_HOLD);
    expect(&d, ZERO_ERR_ARG, "'train' 'u1'");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 3, tied, 0);
    expect(&d, ZERO_OK, "");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 3, thrice, 0);
    expect(&d, ZERO_ERR_UNSUPPORTED, "0 1 3 'u0'");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, false);
    cut(&d, 4, 3, crossed, 0);
    expect(&d, ZERO_ERR_UNSUPPORTED, "0 3 1 2 'u1'");
    d = draft(4, 4, ZERO_SCHEDULE_1F1B, 2, true);
    cut(&d, 4, 3, tied, 0);
    expect(&d, ZERO_ERR_UNSUPPORTED, "'u0' config.parameters.tier");
}
END_TEST

/* Tasks out of order, and too few of them. */
START_TEST(tasks_out_of_order)
{
    draft_t d = draft(2, 2, ZERO_SCHEDULE_1F1B, 2, false);
    ck_assert_int_eq(zero_chunks(d.engine, 2), ZERO_OK);
    ck_assert_int_eq(zero_chunk_link(d.engine, 0, 8, ZERO_FP32), ZERO_OK);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(zero_task_add(d.engine, d.train, i % 2, i < 2 ? ZERO_FORWARD : ZERO_BACKWARD), ZERO_OK);
    use_all(&d);
    expect(&d, ZERO_ERR_ARG, "`task 2` 'train' `chunk 0` `chunk 1`");
    d = draft(2, 2, ZERO_SCHEDULE_1F1B, 2, false);
    ck_assert_int_eq(zero_chunks(d.engine, 2), ZERO_OK);
    ck_assert_int_eq(zero_chunk_link(d.engine, 0, 8, ZERO_FP32), ZERO_OK);
    ck_assert_int_eq(zero_task_add(d.engine, d.train, 0, ZERO_FORWARD), ZERO_OK);
    use_all(&d);
    expect(&d, ZERO_ERR_ARG, "'train' 1 4 zero_task_add");
}
END_TEST

/* ---- calls of a stage ------------------------------------------------------------------------------------------- */

/* The zero_task_t of a program with a newer header has more members, which become 0. One without workspace never
 * existed. */
static int next_of_newer(pipe_toy_t *t, zero_task_t *task)
{
    struct {
        zero_task_t task;
        unsigned char more[64];
    } new;
    memset(&new, 0xa5, sizeof new);
    new.task.size = offsetof(zero_task_t, workspace);
    FAILS(zero_task_next(t->engine, &new.task), ZERO_ERR_ARG, "zero_task_t 72 88");
    new.task.size = sizeof new;
    TRY(zero_task_next(t->engine, &new.task));
    IS(new.task.size == sizeof new);
    for (size_t i = 0; i < sizeof new.more; i++)
        IS(new.more[i] == 0);
    *task = new.task;
    task->size = sizeof *task;
    return 0;
}

/* Wrong calls at each place of a step. The stage's own uses go on afterwards. */
static int wrong_calls(pipe_toy_t *t, void *arg)
{
    (void)arg;
    zero_engine_t *e = t->engine;
    const bool first = zero_pipe_index(e) == 0;
    const zero_unit_t own = t->unit[first ? PIPE_LAYER : PIPE_LAYER + 2],
                      other = t->unit[first ? PIPE_LAYER + 2 : PIPE_LAYER];
    const char *other_name = first ? "'layer.2'" : "'layer.0'";
    zero_task_t task = {.size = sizeof task}, none = {.size = 0};
    double one = 1;
    TRY(zero_commit(e));
    if (pipe_fill(t))
        return -1;
    FAILS(zero_micro_begin(e, t->train, ZERO_LAST), ZERO_ERR_ORDER, "'train' zero_tasks_begin");
    FAILS(zero_micro_begin(e, t->eval, 0), ZERO_ERR_ORDER, "'eval' zero_tasks_begin");
    FAILS(zero_tasks_begin(e, t->any), ZERO_ERR_ORDER, "'any' zero_micro_begin");
    FAILS(zero_tasks_begin(e, 9), ZERO_ERR_ARG, "`pass 9`");
    FAILS(zero_task_next(e, &task), ZERO_ERR_ORDER, "zero_task_next zero_tasks_begin");
    FAILS(zero_step(e, 0.1), ZERO_ERR_ORDER, "zero_step");
    TRY(zero_tasks_begin(e, t->train));
    FAILS(zero_tasks_begin(e, t->train), ZERO_ERR_ORDER, "'train' zero_task_next");
    FAILS(zero_micro_begin(e, t->any, 0), ZERO_ERR_ORDER, "'train' zero_task_next");
    FAILS(zero_acquire(e, own), ZERO_ERR_ORDER, first ? "'layer.0' zero_task_next" : "'layer.2' zero_task_next");
    FAILS(zero_task_next(e, NULL), ZERO_ERR_ARG, "zero_task_t");
    FAILS(zero_task_next(e, &none), ZERO_ERR_ARG, "zero_task_t");
    FAILS(zero_sum(e, &one, 1), ZERO_ERR_ORDER, "zero_sum 'train'");
    if (next_of_newer(t, &task))
        return -1;
    IS(task.phase == ZERO_FORWARD && task.micro == 0 && task.kept != NULL && (task.input == NULL) == first);
    void *output = task.output;
    FAILS(zero_micro_end(e), ZERO_ERR_ORDER, "zero_micro_end 'train' zero_task_next");
    FAILS(zero_step(e, 0.1), ZERO_ERR_ORDER, "'train' zero_task_next");
    FAILS(zero_sum(e, &one, 1), ZERO_ERR_ORDER, "zero_sum 'train'");
    FAILS(zero_acquire(e, other), ZERO_ERR_ORDER, other_name);
    if (!first) /* a later task has it as well, but not twice in this one */
        TRY(zero_acquire(e, t->unit[PIPE_LAYER + 3]));
    else
        TRY(zero_acquire(e, t->unit[PIPE_EMBED]));
    FAILS(zero_task_next(e, &task), ZERO_ERR_ORDER, first ? "'embed'" : "'layer.3'");
    TRY(zero_release(e, t->unit[first ? PIPE_EMBED : PIPE_LAYER + 3]));
    if (first) { /* its next use is of the backward task */
        FAILS(zero_acquire(e, t->unit[PIPE_EMBED]), ZERO_ERR_ORDER, "'embed'");
        memset(output, 0, PIPE_WIDTH * sizeof(float));
    } else
        FAILS(zero_acquire(e, t->unit[PIPE_LAYER + 3]), ZERO_ERR_ORDER, "'layer.3'");
    for (int tasks = 1;; tasks++) {
        TRY(zero_task_next(e, &task));
        if (task.phase == ZERO_TASKS_END) {
            IS(tasks == 4 && task.chunk == 0 && task.micro == 0 && task.kept == NULL && task.workspace == NULL);
            break;
        }
        IS(task.workspace != NULL && task.kept_host != NULL);
        if (task.output != NULL)
            memset(task.output, 0, PIPE_WIDTH * sizeof(float));
        if (task.input_grad != NULL)
            memset(task.input_grad, 0, PIPE_WIDTH * sizeof(float));
    }
    FAILS(zero_task_next(e, &task), ZERO_ERR_ORDER, "zero_task_next zero_tasks_begin");
    FAILS(zero_tasks_begin(e, t->train), ZERO_ERR_ORDER, "zero_step");
    TRY(zero_step(e, 0.1));
    TRY(zero_micro_begin(e, t->any, 0));
    FAILS(zero_acquire(e, other), ZERO_ERR_ORDER, other_name);
    TRY(zero_micro_end(e));
    IS(zero_param_data(e, t->param[first ? PIPE_PARAM_LAYER + 4 : PIPE_PARAM_LAYER]) == NULL);
    return 0;
}

static int with_toy(const zero_bootstrap_t *bootstrap, const pipe_case_t *c, int (*fn)(pipe_toy_t *t, void *arg),
                    void *arg)
{
    zero_comm_t *comm = NULL;
    zero_comm_options_t options;
    pipe_toy_t toy;
    zero_comm_options_init(&options);
    options.timeout_s = 30;
    if (zero_comm_shm(&comm, bootstrap, &options, NULL) != ZERO_OK)
        return -1;
    int result = pipe_create(&toy, c, comm, NULL, NULL);
    if (result == 0)
        result = fn(&toy, arg);
    if (result != 0 && toy.engine)
        zero_abort(toy.engine, "a wrong call was not refused");
    pipe_destroy(&toy);
    zero_comm_destroy(comm);
    return result;
}

static int calls_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    pipe_case_t c = base(2);
    (void)rank, (void)world;
    c.stage = 1 + *(int *)arg;
    c.threaded = *(int *)arg;
    return with_toy(bootstrap, &c, wrong_calls, NULL);
}

START_TEST(calls)
{
    ck_assert_int_eq(ranks_run(2, 60, calls_rank, &_i), 0);
}
END_TEST

/* ---- ranks that differ ------------------------------------------------------------------------------------------ */

typedef enum difference { PIPE, SCHEDULE, CHUNKS, LINK, KEPT, DIFFERENCES } difference_t;

static int commit_differs(pipe_toy_t *t, void *arg)
{
    static const char *const names[] = {[PIPE] = "`rank 3` config.mesh.pipe 4 2",
                                        [SCHEDULE] = "`rank 3` config.schedule gpipe interleaved",
                                        [CHUNKS] = "`rank 3` chunks 4 2",
                                        [LINK] = "`rank 3` links chunks",
                                        [KEPT] = "`rank 3` links chunks"};
    const difference_t what = *(const difference_t *)arg;
    if (t->rank == 3 && what == LINK)
        TRY(zero_chunk_link(t->engine, 0, PIPE_WIDTH + 1, ZERO_FP32));
    if (t->rank == 3 && what == KEPT)
        TRY(zero_chunk_reserve(t->engine, 1, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 512));
    FAILS(zero_commit(t->engine), ZERO_ERR_MISMATCH, names[what]);
    return 0;
}

static int differ_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const difference_t what = *(const difference_t *)arg;
    pipe_case_t c = base(2);
    (void)world;
    c.ranks = 2;
    c.schedule = ZERO_SCHEDULE_INTERLEAVED;
    if (rank == 3 && what == PIPE)
        c.pipe = c.chunks = 4;
    if (rank == 3 && what == SCHEDULE)
        c.schedule = ZERO_SCHEDULE_GPIPE;
    if (rank == 3 && what == CHUNKS)
        c.chunks = 4;
    return with_toy(bootstrap, &c, commit_differs, arg);
}

START_TEST(differences)
{
    difference_t what = (difference_t)_i;
    ck_assert_int_eq(ranks_run(4, 60, differ_rank, &what), 0);
}
END_TEST

/* A rank that ends in the middle of a task ends the others, whose sentence names it. */
static int leave(pipe_toy_t *t, void *arg)
{
    zero_task_t task = {.size = sizeof task};
    zero_status_t status = ZERO_OK;
    (void)arg;
    TRY(zero_commit(t->engine));
    if (pipe_fill(t))
        return -1;
    TRY(zero_tasks_begin(t->engine, t->train));
    for (int i = 0; i < 9 && status == ZERO_OK; i++) {
        status = zero_task_next(t->engine, &task);
        if (t->rank == 1) {
            zero_abort(t->engine, "stage 1 has no more coffee");
            return 0;
        }
        if (status == ZERO_OK && pipe_task(t, &task, true))
            return has_names(zero_last_error(t->engine), "coffee") ? 0 : -1;
    }
    IS(status == ZERO_ERR_PEER && has_names(zero_last_error(t->engine), "coffee"));
    return 0;
}

static int leave_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    pipe_case_t c = base(2);
    (void)rank, (void)world;
    c.threaded = *(int *)arg;
    return with_toy(bootstrap, &c, leave, NULL);
}

START_TEST(aborts)
{
    ck_assert_int_eq(ranks_run(2, 20, leave_rank, &_i), 0);
}
END_TEST

/* ---- the memory of tasks ---------------------------------------------------------------------------------------- */

enum { BETWEEN_TASKS, AFTER_TASKS, NOT_AT_ALL, PLACES };

/* Writes to what a task keeps, where that is closed. */
static int touch(pipe_toy_t *t, int place)
{
    zero_task_t task = {.size = sizeof task};
    TRY(zero_commit(t->engine));
    if (pipe_fill(t) || pipe_pass(t, true))
        return -1;
    TRY(zero_step(t->engine, 0.1));
    TRY(zero_tasks_begin(t->engine, t->train));
    TRY(zero_task_next(t->engine, &task));
    float *kept = task.kept;
    kept[0] = 1;
    TRY(zero_task_next(t->engine, &task)); /* its backward task */
    IS(task.kept == kept && kept[0] == 1);
    TRY(zero_task_next(t->engine, &task)); /* the forward task of the next micro-step */
    kept = task.kept;
    TRY(zero_task_next(t->engine, &task));
    TRY(zero_task_next(t->engine, &task));
    IS(task.phase == ZERO_TASKS_END);
    if (place == AFTER_TASKS)
        kept[0] = 2;
    TRY(zero_step(t->engine, 0.1));
    TRY(zero_tasks_begin(t->engine, t->train));
    if (place == BETWEEN_TASKS)
        kept[0] = 2;
    return 0;
}

static void guard(zero_config_t *config, void *ctx)
{
    (void)ctx;
    config->guard = true;
}

static int touch_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    zero_comm_t *comm = alone();
    const pipe_case_t c = base(1);
    pipe_toy_t toy;
    (void)rank, (void)world, (void)bootstrap;
    int result = pipe_create(&toy, &c, comm, guard, NULL) || touch(&toy, *(int *)arg) ? -1 : 0;
    pipe_destroy(&toy);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(memory_of_tasks)
{
    int status = -1;
    if (!SANITIZED) /* so that a mistake leaves no core file */
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    ranks_run_status(1, 30, touch_rank, &_i, &status);
    bool found = SANITIZED ? status != 0 : WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
    ck_assert_msg(_i == NOT_AT_ALL ? status == 0 : found, "place %d ends with %d", _i, status);
}
END_TEST

Suite *pipe_misuse_suite(void)
{
    Suite *suite = suite_create("pipe_misuse");
    TCase *tcase = tcase_create("pipe_misuse");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, declarations);
    tcase_add_test(tcase, commits);
    tcase_add_test(tcase, tasks_out_of_order);
    tcase_add_loop_test(tcase, calls, 0, 3);
    tcase_add_loop_test(tcase, differences, 0, DIFFERENCES);
    tcase_add_loop_test(tcase, aborts, 0, 2);
    tcase_add_loop_test(tcase, memory_of_tasks, 0, PLACES);
    suite_add_tcase(suite, tcase);
    return suite;
}
