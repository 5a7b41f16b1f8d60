/* SPDX-License-Identifier: Apache-2.0 */
/* order_case.c - see order_case.h. */
#include "tests/expect.h"
#include "tests/order_case.h"

#include <stdio.h>
#include <time.h>

enum { MICRO_STEPS = 2 };

/* Parts of the sentence about rank 0, and about the other rank. */
static const char *const parts[ORDER_SCENES][2] = {
    [ORDER_EVALUATES] = {"'eval'", "'train'"},
    [ORDER_MICRO_STEP] = {"1 'train'", ""},
    [ORDER_SUM] = {"`rank 0` zero_sum 2", "'train'"},
    [ORDER_GET] = {"`rank 0` zero_param_get 'b.w'", "'train'"},
    [ORDER_OTHER_PASS] = {"'other'", "'eval'"},
    [ORDER_SWAPPED] = {"'other'", "'eval'"},
    [ORDER_FILL] = {"zero_param_fill", "'train'"},
    [ORDER_FILL_OTHER] = {"'b.w'", "'a.w'"},
    [ORDER_MANY] = {"'train'", ""},
    [ORDER_WEIGHT] = {"`rank 0` zero_step_weight", "`rank 1` zero_step_weight"},
    [ORDER_SET_STEP] = {"`rank 0` 8 6", "8 7 zero_set_step"},
};

/* Runs the uses of a pass. Gradients stay zero, so parameters keep their initial values until the first step. */
static zero_status_t pass(small_t *s, zero_pass_t which, uint32_t flags)
{
    static const int unit[] = {0, 1, 2, 3, 2, 0}; /* a pass without gradients uses the first four */
    zero_status_t status = zero_micro_begin(s->engine, which, flags);
    for (int u = 0; status == ZERO_OK && u < (which == s->train ? 6 : 4); u++) {
        if ((status = zero_acquire(s->engine, s->unit[unit[u]])) != ZERO_OK)
            break;
        for (int p = 0; p < SMALL_PARAMS && s->c.threaded < SMALL_CUDA; p++)
            for (int64_t i = 0; small_params[p].unit == unit[u] && i < small_params[p].count; i++)
                if (((const float *)zero_param_data(s->engine, s->param[p]))[i] != small_initial(p, i)) {
                    small_complain(s, "element %lld of %s is wrong after a zero_acquire that went well", (long long)i,
                                   small_params[p].name);
                    return ZERO_ERR_PLAN;
                }
        status = zero_release(s->engine, s->unit[unit[u]]);
    }
    return status == ZERO_OK ? zero_micro_end(s->engine) : status;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const small_t *s = ctx;
    for (int p = 0; p < SMALL_PARAMS; p++)
        for (int64_t i = 0; s->param[p] == param && i < count; i++)
            out[i] = small_initial(p, begin + i);
    return 0;
}

static int ignore(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)ctx, (void)param, (void)begin, (void)count, (void)values;
    return 0;
}

/* A step. Before it, rank 0 makes the scene's different calls. */
static zero_status_t play(small_t *s, order_scene_t scene, zero_pass_t other)
{
    static float values[SMALL_ELEMENTS];
    const bool odd = s->rank == 0;
    double two[2] = {1, 2};
    zero_stats_t stats = {.size = sizeof stats};
    zero_status_t status = ZERO_OK;
    switch (scene) {
    case ORDER_EVALUATES:
        status = odd ? pass(s, s->eval, 0) : ZERO_OK;
        if (odd && status == ZERO_OK) /* waits for all streams; otherwise one of them might reach a later call first */
            status = zero_param_read(s->engine, s->param[SMALL_BIG], ZERO_STATE_PARAM, ignore, NULL);
        break;
    case ORDER_SUM:
        status = odd ? zero_sum(s->engine, two, 2) : ZERO_OK;
        break;
    case ORDER_GET:
        status = odd ? zero_param_get(s->engine, s->param[SMALL_BIG], ZERO_STATE_PARAM, ZERO_FP32, values) : ZERO_OK;
        break;
    case ORDER_OTHER_PASS:
        status = pass(s, odd ? other : s->eval, 0);
        break;
    case ORDER_SWAPPED:
        status = pass(s, odd ? other : s->eval, 0);
        status = status == ZERO_OK ? pass(s, odd ? s->eval : other, 0) : status;
        break;
    case ORDER_FILL:
        status = odd ? zero_param_fill(s->engine, s->param[SMALL_BIG], fill, s) : ZERO_OK;
        break;
    case ORDER_FILL_OTHER:
        status = zero_param_fill(s->engine, s->param[odd ? SMALL_BIG : 0], fill, s);
        break;
    case ORDER_MANY:
        for (int i = 0; i < (odd ? 12 : 10) && status == ZERO_OK; i++)
            status = pass(s, i % 2 ? other : s->eval, 0);
        break;
    case ORDER_WEIGHT:
        status = odd ? zero_step_weight(s->engine, 5) : ZERO_OK;
        break;
    case ORDER_SET_STEP:
        status = zero_set_step(s->engine, 7, odd ? 6 : 7);
        break;
    default:
        break;
    }
    for (int m = scene == ORDER_MICRO_STEP && odd; m < MICRO_STEPS && status == ZERO_OK; m++)
        status = pass(s, s->train, m + 1 == MICRO_STEPS ? ZERO_LAST : 0);
    if (status == ZERO_OK)
        status = zero_step(s->engine, 0.01);
    return status == ZERO_OK ? zero_step_stats(s->engine, &stats) : status;
}

static void configure(zero_config_t *config, void *ctx)
{
    const order_case_t *o = ctx;
    config->reduce = o->reduce;
    config->check_order = !o->unchecked;
    config->mesh.replicas = o->replicas > 0 ? o->replicas : 1;
}

static int run(small_t *s, const order_case_t *o, zero_comm_t *comm)
{
    order_case_t copy = *o;
    const small_case_t c = {.world = zero_comm_size(comm),
                            .stage = o->stage,
                            .threaded = o->threaded,
                            .micro_steps = MICRO_STEPS,
                            .edit = configure,
                            .ctx = &copy};
    struct timespec begin, end;
    zero_pass_t other;
    if (small_create(s, &c, comm))
        return -1;
    SMALL_TRY(zero_pass_add(s->engine, "other", ZERO_PASS_EVAL, &other));
    for (int u = 0; u < SMALL_UNITS; u++)
        SMALL_TRY(zero_use_add(s->engine, other, s->unit[u], ZERO_READ));
    /* A rank that is behind may get the error of a later call while it is still in this one. */
    zero_status_t status = zero_commit(s->engine);
    for (int p = 0; p < SMALL_PARAMS && status == ZERO_OK; p++)
        status = zero_param_fill(s->engine, s->param[p], fill, s);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    if (status == ZERO_OK)
        status = play(s, o->scene, other);
    clock_gettime(CLOCK_MONOTONIC, &end);
    const char *text = zero_last_error(s->engine);
    if ((status == ZERO_ERR_MISMATCH || status == ZERO_ERR_PEER) && has_names(text, "`rank 0`") &&
        (has_names(text, "`rank 1`") || has_names(text, "`rank 2`") || has_names(text, "`rank 3`")) &&
        has_names(text, parts[o->scene][0]) && has_names(text, parts[o->scene][1]) && end.tv_sec - begin.tv_sec < 20)
        return 0;
    return small_complain(s, "scene %d, reduce %d: %s after %ld s: '%s', where '%s' and '%s' should be", o->scene,
                          o->reduce, zero_status_name(status), (long)(end.tv_sec - begin.tv_sec), text,
                          parts[o->scene][0], parts[o->scene][1]);
}

int order_case(const order_case_t *o, zero_comm_t *comm)
{
    small_t s = {0};
    int result = run(&s, o, comm);
    small_destroy(&s);
    return result;
}
