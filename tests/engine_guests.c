/* SPDX-License-Identifier: Apache-2.0 */
/* engine_guests.c - the caller's own optimizer. */
#include "optim/rules.h"
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/engine_small.h"
#include "tests/engine_suites.h"
#include "zero/device/device.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define TRY(call) SMALL_TRY(call)
#define IS(condition) SMALL_IS(condition)
#define FAILS(call, status, part) SMALL_FAILS(call, status, part)

/* ---- an optimizer: AdamW again ---------------------------------------------------------------------------------- */

typedef struct guest {
    small_t *s;
    zero_rule_options_t numbers;
    int states;                  /* number of state buffers */
    atomic_int inside[2], calls; /* running calls without and with a stream; all calls */
    int64_t step;                /* the step that calls should name */
    atomic_int wrong;            /* calls whose arguments differ from the documentation */
    int refuse;                  /* the parameter whose update fails, or -1 */
    int intrude;                 /* calls back into the engine; 2: after the step has returned */
    atomic_bool returned;
    atomic_int refused, logged; /* refused calls of this kind; log messages about them */
    uint8_t covered[SMALL_PARAMS][SMALL_ELEMENTS];
} guest_t;

static double power(double x, int64_t n)
{
    double result = 1;
    for (double square = x; n > 0; n >>= 1, square *= square)
        if (n & 1)
            result *= square;
    return result;
}

/* Checks the arguments against the documentation, and counts the elements. */
static bool expected(guest_t *g, const zero_update_args_t *a)
{
    int p = 0;
    while (p < SMALL_PARAMS && g->s->param[p] != a->param)
        p++;
    if (p == SMALL_PARAMS || !small_params[p].trainable || a->size != sizeof *a ||
        strcmp(a->name, small_params[p].name) != 0 || a->begin < 0 || a->count <= 0 ||
        a->begin + a->count > small_params[p].count || a->step != g->step || a->lr != 0.01 * small_params[p].rate ||
        a->decay_scale != small_params[p].decay || !(a->grad_factor > 0 && a->grad_factor <= 0.5) || !a->master ||
        !a->grad || (a->state[0] != NULL) != (g->states > 0) || (a->state[1] != NULL) != (g->states > 1) ||
        a->threads != 1 || (a->grad_dtype != ZERO_FP32 && (a->grad_dtype != g->s->c.dtype || small_params[p].fp32)) ||
        (a->stream != NULL && g->s->c.threaded != SMALL_CUDA))
        return false;
    for (int64_t i = 0; i < a->count; i++)
        g->covered[p][a->begin + i]++;
    return true;
}

/* One element, with every rounding in the documented order. */
static void move_element(const guest_t *g, const zero_update_args_t *a, int64_t i, float grad, float *master, float *m,
                         float *v)
{
    const zero_rule_options_t *o = &g->numbers;
    float one_minus_beta1 = (float)(1 - o->beta1), one_minus_beta2 = (float)(1 - o->beta2);
    float step_size = (float)(a->lr / (1 - power(o->beta1, a->step))),
          inv_sqrt_bc2 = (float)(1 / sqrt(1 - power(o->beta2, a->step)));
    float x = grad * (float)a->grad_factor;
    master[i] *= (float)(1 - a->lr * (o->weight_decay * a->decay_scale));
    m[i] = fmaf((float)o->beta1, m[i], one_minus_beta1 * x);
    v[i] = fmaf((float)o->beta2, v[i], (one_minus_beta2 * x) * x);
    master[i] = fmaf(-step_size, m[i] / fmaf(sqrtf(v[i]), inv_sqrt_bc2, (float)o->eps), master[i]);
}

/* A host copy of GPU memory, or the memory itself on the CPU. */
static void *fetched(const guest_t *g, const zero_update_args_t *a, const void *memory, size_t bytes)
{
    zero_device_t *d = g->s->device;
    zero_error_t error;
    if (!a->stream)
        return (void *)(uintptr_t)memory;
    void *copy = malloc(bytes);
    if (!copy || d->ops->copy(d, a->stream, copy, memory, bytes, &error) != ZERO_OK ||
        d->ops->finish(d, a->stream, 10, &error) != ZERO_OK)
        abort();
    return copy;
}
static void send_back(const guest_t *g, const zero_update_args_t *a, void *memory, void *copy, size_t bytes)
{
    zero_device_t *d = g->s->device;
    zero_error_t error;
    if (!a->stream)
        return;
    if (memory && (d->ops->copy(d, a->stream, memory, copy, bytes, &error) != ZERO_OK ||
                   d->ops->finish(d, a->stream, 10, &error) != ZERO_OK))
        abort();
    free(copy);
}

/* Makes calls that the callback must not make. */
static void intrude(guest_t *g)
{
    zero_stats_t stats = {.size = sizeof stats};
    zero_error_t why;
    double one = 1;
    int refused = 0;
    refused += zero_sum(g->s->engine, &one, 1) == ZERO_ERR_ORDER &&
               zero_last_failure(g->s->engine, &why) == ZERO_ERR_ORDER && why.reason == ZERO_REASON_ENGINE_BUSY;
    refused += zero_step_stats(g->s->engine, &stats) == ZERO_ERR_ORDER;
    refused += zero_param_get(g->s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, NULL) == ZERO_ERR_ORDER;
    zero_destroy(g->s->engine);
    atomic_fetch_add(&g->refused, refused);
}

static int adamw(void *ctx, const zero_update_args_t *a)
{
    guest_t *g = ctx;
    size_t bytes = (size_t)a->count * sizeof(float), narrow = (size_t)a->count * zero_dtype_size(a->grad_dtype);
    if (atomic_fetch_add(&g->inside[a->stream != NULL], 1) != 0 || !expected(g, a))
        atomic_fetch_add(&g->wrong, 1);
    atomic_fetch_add(&g->calls, 1);
    for (int i = 0; g->intrude == 2 && i < 5000 && !atomic_load(&g->returned); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (g->intrude)
        intrude(g);
    if (g->states == 2) {
        float *master = fetched(g, a, a->master, bytes), *m = fetched(g, a, a->state[0], bytes),
              *v = fetched(g, a, a->state[1], bytes);
        void *grad = fetched(g, a, a->grad, narrow);
        for (int64_t i = 0; i < a->count; i++)
            move_element(g, a, i,
                         a->grad_dtype == ZERO_BF16 ? zero_bf16_to_fp32(((uint16_t *)grad)[i]) : ((float *)grad)[i],
                         master, m, v);
        send_back(g, a, a->master, master, bytes);
        send_back(g, a, a->state[0], m, bytes);
        send_back(g, a, a->state[1], v, bytes);
        send_back(g, a, NULL, grad, 0);
    }
    atomic_fetch_sub(&g->inside[a->stream != NULL], 1);
    return a->param == g->refuse ? -1 : 0;
}

static void count_log(void *ctx, zero_log_level_t level, const char *text)
{
    guest_t *g = ctx;
    if (level == ZERO_LOG_ERROR && has_names(text, "zero_destroy"))
        atomic_fetch_add(&g->logged, 1);
}

static void invite(zero_config_t *config, void *ctx)
{
    guest_t *g = ctx;
    config->rule = ZERO_RULE_CUSTOM;
    config->update = adamw;
    config->update_ctx = g;
    config->update_states = g->states;
    config->log = count_log;
    config->log_ctx = g;
    g->numbers = zero_rule_options(config);
    g->refuse = -1;
}

/* Each trained element was updated once, by one rank, or by every rank if each keeps the whole state. Nothing else was
 * updated. */
static int everything_once(small_t *s, guest_t *g, zero_comm_t *comm, int times)
{
    size_t bytes = sizeof g->covered;
    uint8_t *all = malloc((size_t)s->c.world * bytes);
    zero_error_t error;
    IS(all != NULL);
    zero_status_t status = zero_comm_exchange(comm, g->covered, all, bytes, &error);
    memset(g->covered, 0, bytes);
    for (int p = 0; status == ZERO_OK && p < SMALL_PARAMS; p++)
        for (int64_t i = 0; i < SMALL_ELEMENTS; i++) {
            int wanted = i < small_params[p].count && small_params[p].trainable ? times : 0, found = 0;
            for (int r = 0; r < s->c.world; r++) {
                int by = all[(size_t)r * bytes + (size_t)p * SMALL_ELEMENTS + (size_t)i];
                found += by;
                if (s->c.stage == 0 && by != wanted)
                    found = 1000;
            }
            if (found != (s->c.stage == 0 ? s->c.world : 1) * wanted) {
                free(all);
                return small_complain(s, "element %lld of %s was updated %d times", (long long)i, small_params[p].name,
                                      found);
            }
        }
    free(all);
    IS(status == ZERO_OK);
    return 0;
}

static int same_as_built_in(small_t *s, small_t *built_in, guest_t *g, zero_comm_t *comm)
{
    small_states_t a = {0}, b = {0};
    zero_stats_t stats, theirs;
    int result = -1;
    for (int step = 1; step <= 4; step++) {
        bool skipped = step == 2;
        int before = atomic_load(&g->calls);
        s->infinite = built_in->infinite = skipped;
        g->step = step < 2 ? step : step - 1;
        if (small_step(s, step) || small_step(built_in, step) || small_stats(s, &stats) ||
            small_stats(built_in, &theirs) || small_read(s, &a) || small_read(built_in, &b) ||
            everything_once(s, g, comm, !skipped))
            goto end;
        if (stats.applied == skipped || stats.skipped != (step >= 2) ||
            theirs.grad_norm != (skipped ? theirs.grad_norm : stats.grad_norm) ||
            (skipped && atomic_load(&g->calls) != before) || atomic_load(&g->wrong) != 0) {
            small_complain(s, "step %d: applied %d, skipped %lld, %d calls, %d of them wrong", step, stats.applied,
                           (long long)stats.skipped, atomic_load(&g->calls) - before, atomic_load(&g->wrong));
            goto end;
        }
        if (small_compare(s, &b, &a, "a step by the caller's AdamW"))
            goto end;
        small_forget(&a);
        small_forget(&b);
    }
    result = 0;
end:
    small_forget(&a);
    small_forget(&b);
    return result;
}

static int run_guest(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static guest_t g = {.states = 2};
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0}, built_in = {0};
    small_case_t c = *(const small_case_t *)arg, d = c;
    (void)rank, (void)world;
    g.s = &s;
    c.edit = invite;
    c.ctx = &g;
    c.folder = "guests.nvme";
    int result = !comm || small_start(&s, &c, comm) || small_start(&built_in, &d, comm) ||
                 same_as_built_in(&s, &built_in, &g, comm);
    small_destroy(&s);
    small_destroy(&built_in);
    zero_comm_destroy(comm);
    return result;
}

/* Every stage with every placement, also on emulated GPUs. */
enum { CHUNKS = 8 };
START_TEST(a_guests_adamw_gives_the_same_bits)
{
    bool emulated = emulated_plugins();
    setenv("ZERO_EMULATOR", _i % 2 ? "threads" : "inline", 1);
    for (int i = _i; i < 4 * SMALL_PLACES * 4; i += CHUNKS) {
        int stage = i % 4, where = i / 4 % SMALL_PLACES, turn = i / (4 * SMALL_PLACES);
        small_case_t c = {.world = 1 + (turn + where + stage) % 3,
                          .stage = stage,
                          .threaded = turn,
                          .micro_steps = 1 + (turn / 2 + stage) % 2,
                          .dtype = (turn + where / 2) % 2 ? ZERO_BF16 : ZERO_FP32,
                          .place = (small_place_t)where};
        if (turn < SMALL_CUDA || emulated)
            ck_assert_int_eq(ranks_run(c.world, 100, run_guest, &c), 0);
    }
}
END_TEST

/* ---- callbacks that misbehave ----------------------------------------------------------------------------------- */

/* One rank's update of one parameter fails: the step then fails on every rank. */
static int refuse(small_t *s, guest_t *g)
{
    zero_stats_t stats = {.size = sizeof stats};
    g->refuse = s->rank == s->c.world - 1 ? s->param[SMALL_BIG] : -1;
    g->step = 1;
    zero_status_t status = small_micros(s, 1) ? ZERO_OK : zero_step(s->engine, 0.01);
    for (int i = 0; i < 3 && status == ZERO_OK;
         i++) { /* the update may run after zero_step, and other ranks get the error later */
        if ((status = zero_step_stats(s->engine, &stats)) == ZERO_OK &&
            (status = zero_micro_begin(s->engine, s->train, ZERO_LAST)) == ZERO_OK)
            status = zero_micro_end(s->engine);
        if (status == ZERO_OK)
            status = zero_step(s->engine, 0.01);
    }
    if (status != (g->refuse >= 0 ? ZERO_ERR_SYSTEM : ZERO_ERR_PEER) ||
        !has_names(zero_last_error(s->engine), "config.update") || !has_names(zero_last_error(s->engine), "'b.w'"))
        return small_complain(s, "after a refusal: %s: %s", zero_status_name(status), zero_last_error(s->engine));
    FAILS(zero_micro_begin(s->engine, s->train, ZERO_LAST), status, "config.update");
    return 0;
}

static int call_back(small_t *s, guest_t *g)
{
    zero_stats_t stats;
    double one = 1;
    g->intrude = s->c.threaded ? 2 : 1;
    g->step = 1;
    if (small_step(s, 1))
        return -1;
    atomic_store(&g->returned, true);
    for (int i = 0; i < 5000 && atomic_load(&g->refused) == 0; i++) /* this thread is not inside a call */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (small_stats(s, &stats))
        return -1;
    TRY(zero_param_get(s->engine, 0, ZERO_STATE_PARAM, ZERO_FP32, NULL)); /* waits for the updates */
    TRY(zero_sum(s->engine, &one, 1));
    IS(one == s->c.world && stats.applied);
    int calls = atomic_load(&g->calls);
    IS(calls > 0 && atomic_load(&g->refused) == 3 * calls && atomic_load(&g->logged) == calls &&
       atomic_load(&g->wrong) == 0);
    return 0;
}

typedef struct bad_guest {
    small_case_t c;
    int (*play)(small_t *s, guest_t *g);
} bad_guest_t;

static int run_bad_guest(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static guest_t g = {.states = 0};
    bad_guest_t bad = *(const bad_guest_t *)arg;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0};
    (void)rank, (void)world;
    g.s = &s;
    bad.c.edit = invite;
    bad.c.ctx = &g;
    int result = !comm || small_start(&s, &bad.c, comm) || bad.play(&s, &g);
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(guests_fail_for_all_and_do_not_call_back)
{
    static int (*const plays[])(small_t * s, guest_t * g) = {refuse, call_back};
    for (int i = 0; i < 16; i++) {
        bad_guest_t bad = {.c = {.world = 1 + i / 2 % 3,
                                 .stage = 3 - i % 4,
                                 .threaded = i / 4 % 3,
                                 .micro_steps = 1,
                                 .place = i / 2 % 2 ? SMALL_SHARE : SMALL_DEVICE},
                           .play = plays[_i]};
        ck_assert_int_eq(ranks_run(bad.c.world, 60, run_bad_guest, &bad), 0);
    }
}
END_TEST

/* config.update, the rule and the number of states must fit together. */
START_TEST(guests_are_announced)
{
    zero_engine_t *e;
    zero_error_t error;
    zero_config_t config;
    static const struct {
        bool custom, update;
        int states;
        const char *part; /* NULL: accepted */
    } ways[] = {{true, true, 0, NULL},
                {true, true, 1, NULL},
                {true, true, 2, NULL},
                {false, false, 0, NULL},
                {true, false, 0, ""},
                {false, true, 0, ""},
                {true, true, 3, "update_states 3"},
                {true, true, -1, "update_states -1"},
                {false, false, 1, "update_states 1"}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        zero_config_init(&config);
        config.plan_world = 2;
        config.rule = ways[i].custom ? ZERO_RULE_CUSTOM : ZERO_RULE_ADAMW;
        config.update = ways[i].update ? adamw : NULL;
        config.update_states = ways[i].states;
        zero_status_t status = zero_create(&e, &config, &error);
        ck_assert_int_eq(status, ways[i].part ? ZERO_ERR_ARG : ZERO_OK);
        ck_assert_msg(!ways[i].part || has_names(error.text, ways[i].part), "%s", error.text);
        zero_destroy(e);
    }
}
END_TEST

/* With one state buffer or none: missing buffers are NULL, and the moments cannot be read. */
static int few_states(small_t *s, guest_t *g)
{
    zero_stats_t stats;
    g->step = 1;
    if (small_step(s, 1) || small_stats(s, &stats))
        return -1;
    zero_status_t one = g->states > 0 ? ZERO_OK : ZERO_ERR_ARG;
    IS(zero_param_get(s->engine, 0, ZERO_STATE_MOMENT1, ZERO_FP32, NULL) == one);
    FAILS(zero_param_get(s->engine, 0, ZERO_STATE_MOMENT2, ZERO_FP32, NULL), ZERO_ERR_ARG, "'custom'");
    IS(atomic_load(&g->calls) > 0 && atomic_load(&g->wrong) == 0);
    return 0;
}

static int run_few_states(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static guest_t g;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0};
    const small_case_t c = {
        .world = world, .stage = 2, .micro_steps = 1, .place = SMALL_SHARE, .edit = invite, .ctx = &g};
    (void)rank;
    g.s = &s;
    g.states = *(const int *)arg;
    int result = !comm || small_start(&s, &c, comm) || few_states(&s, &g);
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(guests_keep_as_much_as_they_say)
{
    for (int states = 0; states < 2; states++)
        ck_assert_int_eq(ranks_run(2, 60, run_few_states, &states), 0);
}
END_TEST

/* One rank has another optimizer than the others, or none, or more state buffers. */
typedef struct odd_guest {
    int way;
    const char *part;
} odd_guest_t;

static void invite_oddly(zero_config_t *config, void *ctx)
{
    guest_t *g = ctx;
    invite(config, ctx);
    if (g->s->rank != 1)
        return;
    if (g->intrude == 0) {
        config->rule = ZERO_RULE_ADAMW;
        config->update = NULL;
        config->update_states = 0;
    } else {
        config->update_states = 1;
    }
}

static int run_odd_guest(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static guest_t g = {.states = 2};
    const odd_guest_t *odd = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t s = {0};
    const small_case_t c = {.world = world, .stage = 2, .micro_steps = 1, .edit = invite_oddly, .ctx = &g};
    (void)rank;
    g.s = &s;
    g.intrude = odd->way;
    int result = !comm || small_create(&s, &c, comm);
    zero_status_t status = result == 0 ? zero_commit(s.engine) : ZERO_OK;
    if (result == 0 && (status != ZERO_ERR_MISMATCH || !has_names(zero_last_error(s.engine), odd->part)))
        result = small_complain(&s, "way %d: %s: %s", odd->way, zero_status_name(status), zero_last_error(s.engine));
    small_destroy(&s);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(guests_are_the_same_everywhere)
{
    static const odd_guest_t odds[] = {{0, "`rank 1` `rank 0` config.rule"},
                                       {1, "`rank 1` `rank 0` config.update_states"}};
    for (size_t i = 0; i < sizeof odds / sizeof *odds; i++) {
        odd_guest_t odd = odds[i];
        ck_assert_int_eq(ranks_run(3, 60, run_odd_guest, &odd), 0);
    }
}
END_TEST

Suite *engine_guests_suite(void)
{
    Suite *suite = suite_create("guests");
    TCase *t = tcase_create("guests");
    tcase_set_timeout(t, 150);
    tcase_add_loop_test(t, a_guests_adamw_gives_the_same_bits, 0, CHUNKS);
    tcase_add_loop_test(t, guests_fail_for_all_and_do_not_call_back, 0, 2);
    tcase_add_test(t, guests_are_announced);
    tcase_add_test(t, guests_keep_as_much_as_they_say);
    tcase_add_test(t, guests_are_the_same_everywhere);
    suite_add_tcase(suite, t);
    return suite;
}
