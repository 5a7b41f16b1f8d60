/* SPDX-License-Identifier: Apache-2.0 */
/* engine_pipe.c - a model in chunks on the stages of a pipeline trains to the bits of the whole model, which are those
 * of a plain computation up to rounding; memory and traffic of every rank are as forecast. */
#include "tests/engine_suites.h"
#include "tests/pipe_toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct job {
    pipe_case_t c;
    pipe_record_t *record; /* shared by the ranks; rank 0 fills it */
} job_t;

static int run_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const job_t *job = arg;
    zero_comm_t *comm = NULL;
    zero_comm_options_t options;
    zero_comm_options_init(&options);
    options.timeout_s = 60;
    (void)world;
    if (zero_comm_shm(&comm, bootstrap, &options, NULL) != ZERO_OK)
        return -1;
    pipe_record_t *own = calloc(1, sizeof *own);
    int result = pipe_run(&job->c, comm, own);
    if (rank == 0)
        *job->record = *own;
    free(own);
    zero_comm_destroy(comm);
    return result;
}

static void train(const pipe_case_t *c, pipe_record_t *record)
{
    job_t job = {*c, record};
    memset(record, 0, sizeof *record);
    ck_assert_int_eq(ranks_run(c->pipe * c->ranks, 100, run_rank, &job), 0);
}

static double largest_difference(const float *a, const float *b, int64_t count)
{
    double most = 0;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Whether runs differ by less than a bound; 0: whether they have the same bits. */
static bool alike(const pipe_record_t *a, const pipe_record_t *b, double bound)
{
    if (bound <= 0)
        return memcmp(a, b, sizeof *a) == 0;
    double most = fmax(largest_difference(a->values[0], b->values[0], (PIPE_STEPS + 1) * PIPE_ELEMENTS),
                       largest_difference(a->moments[0], b->moments[0], 2 * PIPE_ELEMENTS));
    for (int s = 0; s < PIPE_STEPS; s++) {
        most = fmax(most, fabs(a->loss[s] - b->loss[s]) / b->loss[s]);
        most = fmax(most, fabs(a->eval[s] - b->eval[s]) / b->eval[s]);
        most = fmax(most, fabs(a->norm[s] - b->norm[s]) / b->norm[s]);
    }
    return most < bound;
}

static bool moved(const pipe_record_t *r)
{
    return largest_difference(r->values[0], r->values[PIPE_STEPS], PIPE_ELEMENTS) > 1e-4 && r->loss[0] > 1 &&
           r->eval[0] > 1;
}

/* The whole model by micro-steps, on the ranks of one stage. */
static pipe_case_t whole(pipe_case_t c)
{
    c.pipe = 1;
    c.chunks = 0;
    c.schedule = ZERO_SCHEDULE_1F1B;
    c.stage = 3;
    c.threaded = 0;
    c.place = PIPE_DEVICE;
    c.save = NULL;
    return c;
}

typedef struct shape {
    int pipe, chunks;
    zero_schedule_t schedule;
} shape_t;
static const shape_t shapes[] = {{1, 1, ZERO_SCHEDULE_1F1B},        {2, 2, ZERO_SCHEDULE_1F1B},
                                 {2, 2, ZERO_SCHEDULE_GPIPE},       {2, 2, ZERO_SCHEDULE_NAIVE},
                                 {2, 4, ZERO_SCHEDULE_INTERLEAVED}, {4, 4, ZERO_SCHEDULE_1F1B},
                                 {4, 4, ZERO_SCHEDULE_GPIPE},       {1, 1, ZERO_SCHEDULE_INTERLEAVED},
                                 {4, 4, ZERO_SCHEDULE_INTERLEAVED}, {4, 4, ZERO_SCHEDULE_NAIVE}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* An interleaved schedule takes more micro-steps than stages only in groups of as many. */
static bool possible(const shape_t *s, int micros)
{
    return s->chunks == s->pipe || micros <= s->pipe || micros % s->pipe == 0;
}

/* Trains c in the shapes first, first + step, ..., each at another stage and on another kind of device, and compares
 * with the whole model. */
static void in_shapes(pipe_case_t c, int first, int step, double serial_bound)
{
    pipe_record_t *reference = ranks_shared(sizeof *reference), *found = ranks_shared(sizeof *found),
                  *wanted = ranks_shared(sizeof *wanted);
    const pipe_case_t plain = whole(c);
    train(&plain, wanted);
    ck_assert(moved(wanted));
    if (serial_bound > 0) {
        pipe_serial(&plain, reference);
        ck_assert_msg(alike(wanted, reference, serial_bound), "the whole model: not as the plain computation");
    }
    bool shared = false;
    for (int i = first; i < SHAPES; i += step) {
        if (!possible(&shapes[i], c.micros))
            continue;
        c.pipe = shapes[i].pipe;
        c.chunks = shapes[i].chunks;
        c.schedule = shapes[i].schedule;
        c.stage = (i + first) % 4;
        c.threaded = (i / 2 + first) % 3;
        train(&c, found);
        /* Gradients of an embedding that two tasks use are sums of the two, of which the whole model knows one alone.
         * Where two stages share it, these have one order for every shape. */
        ck_assert_msg(alike(found, wanted, c.tied ? 1e-5 : 0) && (!shared || c.pipe == 1 || alike(found, reference, 0)),
                      "pipe %d, chunks %d, %s, stage %d, device %d: other values than without", c.pipe, c.chunks,
                      zero_schedule_name(c.schedule), c.stage, c.threaded);
        if (c.tied && c.pipe > 1 && !shared)
            *reference = *found;
        shared = c.tied && (shared || c.pipe > 1);
    }
    ranks_unshare(reference, sizeof *reference);
    ranks_unshare(found, sizeof *found);
    ranks_unshare(wanted, sizeof *wanted);
}

static pipe_case_t base(void)
{
    return (pipe_case_t){.ranks = 2, .replicas = 1, .micros = 3, .reduce = ZERO_REDUCE_EVERY, .dtype = ZERO_FP32};
}

/* Every shape with 1, 3 and 8 micro-steps, in fp32 and bf16, with both reductions. */
START_TEST(shapes_do_not_show)
{
    pipe_case_t c = base();
    static const int micros[] = {1, 3, 8};
    c.micros = micros[_i % 3];
    c.reduce = (zero_reduce_t)(_i / 3 % 2);
    in_shapes(c, 0, 1 + (_i + 1) % 2, 1e-4);
    c.dtype = ZERO_BF16;
    in_shapes(c, 1, 3, 0);
}
END_TEST

/* Every stage with both reductions, in the shape of two stages with two chunks each. */
START_TEST(stages_do_not_show)
{
    pipe_record_t *found = ranks_shared(sizeof *found), *wanted = ranks_shared(sizeof *wanted);
    pipe_case_t c = base();
    c.micros = 4;
    c.reduce = (zero_reduce_t)(_i % 2);
    c.dtype = _i / 2 ? ZERO_BF16 : ZERO_FP32;
    const pipe_case_t plain = whole(c);
    train(&plain, wanted);
    c.pipe = 2;
    c.chunks = 4;
    c.schedule = ZERO_SCHEDULE_INTERLEAVED;
    for (c.stage = 0; c.stage < 4; c.stage++)
        for (c.threaded = 0; c.threaded < 3; c.threaded += 2) {
            train(&c, found);
            ck_assert_msg(alike(found, wanted, 0), "stage %d, device %d", c.stage, c.threaded);
        }
    ranks_unshare(found, sizeof *found);
    ranks_unshare(wanted, sizeof *wanted);
}
END_TEST

START_TEST(replicas)
{
    pipe_case_t c = base();
    c.replicas = 2;
    c.ranks = 2 + 2 * _i;
    in_shapes(c, 1, _i ? 4 : 2, 1e-4);
}
END_TEST

/* The first and the last stage use the same embedding. */
START_TEST(tied)
{
    pipe_case_t c = base();
    c.tied = true;
    c.reduce = (zero_reduce_t)(_i % 2);
    c.ranks = 1 + _i % 2;
    in_shapes(c, 0, 1, 1e-4);
}
END_TEST

/* A task need not acquire its units: their gradients of that micro-step are zero. */
START_TEST(skipped_uses)
{
    pipe_case_t c = base();
    c.skips = true;
    in_shapes(c, 0, 2, 1e-4);
    c.reduce = ZERO_REDUCE_LAST;
    in_shapes(c, 1, 3, 1e-4);
}
END_TEST

/* Weights of the ranks, which the last stage sets between its tasks. */
START_TEST(weights)
{
    pipe_case_t c = base();
    c.weighted = true;
    in_shapes(c, 1, 2, 1e-4);
}
END_TEST

START_TEST(offload)
{
    static const pipe_place_t places[] = {PIPE_OPTIMIZER, PIPE_PARAMETERS, PIPE_NVME};
    pipe_case_t c = base();
    c.place = places[_i];
    c.dtype = _i ? ZERO_BF16 : ZERO_FP32;
    in_shapes(c, _i, 3, 0);
    c.tied = c.place == PIPE_OPTIMIZER; /* the units of two stages keep their parameters on the device */
    c.reduce = ZERO_REDUCE_LAST;
    in_shapes(c, 2, 4, 0);
}
END_TEST

/* Optimizers that see whole matrices, and the caller's own. */
START_TEST(rules)
{
    pipe_case_t c = base();
    c.rule = _i ? ZERO_RULE_CUSTOM : ZERO_RULE_MUON;
    in_shapes(c, _i, 3, 0);
    c.place = PIPE_OPTIMIZER;
    in_shapes(c, 1, 4, 0);
}
END_TEST

/* What one arrangement saves another one loads. */
START_TEST(checkpoints)
{
    pipe_record_t *found = ranks_shared(sizeof *found), *wanted = ranks_shared(sizeof *wanted);
    char folder[] = "pipes.XXXXXX", command[64];
    pipe_case_t c = base();
    ck_assert_ptr_nonnull(mkdtemp(folder));
    c.pipe = c.chunks = _i ? 1 : 2;
    c.ranks = _i ? 3 : 2;
    c.stage = 1;
    c.save = folder;
    c.tied = true;
    train(&c, wanted);
    c.pipe = c.chunks = _i ? 2 : 1;
    c.ranks = _i ? 2 : 3;
    c.stage = 3;
    c.save = NULL;
    c.load = folder;
    train(&c, found);
    ck_assert(moved(wanted));
    ck_assert_mem_eq(found->values[PIPE_STEPS], wanted->values[PIPE_STEPS], sizeof found->values[0]);
    ck_assert_mem_eq(found->moments, wanted->moments, sizeof found->moments);
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
    ranks_unshare(found, sizeof *found);
    ranks_unshare(wanted, sizeof *wanted);
}
END_TEST

Suite *engine_pipe_suite(void)
{
    Suite *suite = suite_create("engine_pipe");
    TCase *tcase = tcase_create("pipe");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, shapes_do_not_show, 0, 6);
    tcase_add_loop_test(tcase, stages_do_not_show, 0, 4);
    tcase_add_loop_test(tcase, replicas, 0, 2);
    tcase_add_loop_test(tcase, tied, 0, 4);
    tcase_add_test(tcase, skipped_uses);
    tcase_add_test(tcase, weights);
    tcase_add_loop_test(tcase, offload, 0, 3);
    tcase_add_loop_test(tcase, rules, 0, 2);
    tcase_add_loop_test(tcase, checkpoints, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}
