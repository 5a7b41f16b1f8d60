/* SPDX-License-Identifier: Apache-2.0 */
/* engine_trace.c - traces: each operation of the plan appears once, and none begins before what it waits for has ended.
 * The plan's streams and events say what that is. */
#include "tests/emulated.h"
#include "tests/engine_small.h"
#include "tests/engine_suites.h"
#include "zero/engine.h"

#include <stdlib.h>

enum { TRACED = 2, MICRO_STEPS = 3, ROOM = 4, CALLER = ZERO_STREAM_COUNT, PLACES = CALLER + 1, MOST_USES = 16 };

/* Times of a GPU come from its clock, and two clocks agree only to how long a thread was suspended while it compared
 * them. Times of one clock are rounded to a float. */
enum { CLOCKS_NS = 200000000, ROUNDING_NS = 20000 };

typedef struct spans {
    zero_trace_span_t *span;
    bool *seen;
    int count, room;
} spans_t;

typedef struct held {
    zero_unit_t unit;
    uint64_t asked, got, left, gone; /* zero_acquire and zero_release: call and return */
} held_t;

typedef struct watch {
    small_t *s;
    spans_t spans;
    held_t held[ROOM * MICRO_STEPS * MOST_USES];
    int held_count;
    int warnings;
} watch_t;

static void collect(void *ctx, const zero_trace_span_t *span)
{
    spans_t *all = ctx;
    if (all->count == all->room) {
        all->room = 2 * all->room + 256;
        all->span = realloc(all->span, (size_t)all->room * sizeof *all->span);
        all->seen = realloc(all->seen, (size_t)all->room * sizeof *all->seen);
        if (!all->span || !all->seen)
            abort();
    }
    all->seen[all->count] = false;
    all->span[all->count++] = *span;
}

static void forget(spans_t *spans)
{
    free(spans->span);
    free(spans->seen);
    *spans = (spans_t){.count = 0};
}

/* ---- a trainer -------------------------------------------------------------------------------------------------- */

/* A run of a pass; gradients stay zero. */
static int run_pass(watch_t *w, zero_pass_t pass, uint32_t flags)
{
    small_t *s = w->s;
    const zero_spec_pass_t *p = &s->engine->spec.passes[pass];
    SMALL_TRY(zero_micro_begin(s->engine, pass, flags));
    for (int32_t u = 0; u < p->use_count; u++) {
        held_t h = {.unit = p->uses[u].unit};
        if (u == 1) /* a use that is skipped has no span */
            continue;
        h.asked = zero_now_ns();
        SMALL_TRY(zero_acquire(s->engine, h.unit));
        h.got = h.left = zero_now_ns();
        SMALL_TRY(zero_release(s->engine, h.unit));
        h.gone = zero_now_ns();
        if (pass == s->train && w->held_count < (int)(sizeof w->held / sizeof *w->held))
            w->held[w->held_count++] = h;
    }
    SMALL_TRY(zero_micro_end(s->engine));
    return 0;
}

static zero_status_t drop(void *ctx, int32_t param, zero_state_t state, int64_t begin, int64_t count,
                          const void *values, zero_error_t *error)
{
    (void)ctx, (void)param, (void)state, (void)begin, (void)count, (void)values, (void)error;
    return ZERO_OK;
}

static zero_status_t flush(void *ctx, zero_error_t *error)
{
    (void)ctx, (void)error;
    return ZERO_OK;
}

static int run_steps(watch_t *w, int count, bool read, uint64_t *lost)
{
    const zero_exec_sink_t sink = {.write = drop, .sync = flush};
    small_t *s = w->s;
    zero_error_t error;
    for (int step = 0; step < count; step++) {
        uint64_t here = 0;
        for (int m = 0; m < MICRO_STEPS; m++)
            if (run_pass(w, s->train, m + 1 == MICRO_STEPS ? ZERO_LAST : 0))
                return -1;
        SMALL_TRY(zero_step(s->engine, 0.01));
        if (step == 0 && run_pass(w, s->eval, 0))
            return -1;
        if (step == 0) /* what zero_save runs, without files */
            SMALL_TRY(zero_exec_wait_saved(s->engine->exec, 60, &error));
        if (step == 0)
            SMALL_TRY(zero_exec_save(s->engine->exec, &sink, &error));
        if (read)
            SMALL_TRY(zero_trace_read(s->engine, collect, &w->spans, &here));
        *lost += here;
    }
    return 0;
}

/* ---- what the plan says ----------------------------------------------------------------------------------------- */

/* The end of what is before, by the host's clock and by the GPU's. */
typedef struct moment {
    uint64_t host, gpu;
} moment_t;

typedef struct walk {
    watch_t *w;
    bool gpu;
    moment_t place[PLACES]; /* what comes next there waits for */
    moment_t event[256];
} walk_t;

static bool has_time(const zero_op_t *op)
{
    return op->kind != ZERO_OP_RECORD && op->kind != ZERO_OP_RELEASE &&
           (op->kind != ZERO_OP_WAIT || op->stream == ZERO_STREAM_COMPUTE);
}

static bool by_gpu(const walk_t *k, int place)
{
    return k->gpu && place != CALLER && place != ZERO_STREAM_HOST && place != ZERO_STREAM_IO &&
           place != ZERO_STREAM_SAVE;
}

static void join(moment_t *into, const moment_t *from)
{
    into->host = from->host > into->host ? from->host : into->host;
    into->gpu = from->gpu > into->gpu ? from->gpu : into->gpu;
}

/* The span of an operation, or NULL. */
static const zero_trace_span_t *find(spans_t *all, const zero_program_t *program, const zero_op_t *op, int64_t step,
                                     int micro)
{
    const zero_trace_span_t *found = NULL;
    for (int i = 0; i < all->count; i++) {
        const zero_trace_span_t *span = &all->span[i];
        if (all->seen[i] || span->step != step || span->micro != micro || span->index != op - program->ops ||
            strcmp(span->program, zero_program_name(program->kind)) != 0)
            continue;
        all->seen[i] = true;
        found = span;
        break;
    }
    return found;
}

static int check_words(small_t *s, const zero_trace_span_t *span, const zero_op_t *op)
{
    const char *unit = op->unit >= 0 ? s->engine->spec.units[op->unit].name : NULL;
    SMALL_IS(strcmp(span->operation, zero_op_name((zero_op_kind_t)op->kind)) == 0);
    SMALL_IS(strcmp(span->stream,
                    op->kind == ZERO_OP_HOST_WAIT ? "caller" : zero_stream_name((zero_stream_id_t)op->stream)) == 0);
    SMALL_IS((unit == NULL) == (span->unit == NULL) && (!unit || strcmp(unit, span->unit) == 0));
    SMALL_IS(span->bytes == op->bytes && span->flags == (op->kind == ZERO_OP_USE ? op->flags : 0u));
    return 0;
}

/* The span begins after what is before it in place. */
static int check_begin(walk_t *k, const zero_trace_span_t *span, int place)
{
    small_t *s = k->w->s;
    const moment_t *before = &k->place[place];
    bool gpu = by_gpu(k, place);
    uint64_t own = gpu ? before->gpu : before->host, other = gpu ? before->host : before->gpu;
    if (span->begin_ns > 0 && span->begin_ns <= span->end_ns && span->begin_ns + (gpu ? ROUNDING_NS : 0) >= own &&
        span->begin_ns + CLOCKS_NS >= other)
        return 0;
    return small_complain(s,
                          "%s of unit '%s' on stream %s (step %lld, micro-step %d, operation %d of '%s') runs from "
                          "%llu to %llu, but what it waits for ends at %llu, or %llu by the other clock",
                          span->operation, span->unit ? span->unit : "", span->stream, (long long)span->step,
                          span->micro, span->index, span->program, (unsigned long long)span->begin_ns,
                          (unsigned long long)span->end_ns, (unsigned long long)own, (unsigned long long)other);
}

static int walk_op(walk_t *k, const zero_program_t *program, const zero_op_t *op, int64_t step, int micro,
                   const zero_trace_span_t *uses[])
{
    small_t *s = k->w->s;
    int place = op->kind == ZERO_OP_HOST_WAIT ? CALLER : op->stream;
    moment_t *at = &k->place[place];
    const zero_trace_span_t *span = NULL;
    if (op->kind == ZERO_OP_RECORD)
        k->event[op->event] = *at;
    if (op->kind == ZERO_OP_RELEASE)
        span = uses[op->use];
    if (has_time(op)) {
        bool skipped = op->kind == ZERO_OP_USE && op->use == 1;
        span = find(&k->w->spans, program, op, step, micro);
        if ((span == NULL) != skipped)
            return small_complain(s, "operation %d of '%s' of step %lld, micro-step %d, %s", (int)(op - program->ops),
                                  zero_program_name(program->kind), (long long)step, micro,
                                  skipped ? "was not run, but has a span" : "has no span");
        if (span && (check_words(s, span, op) || (op->kind != ZERO_OP_WAIT && check_begin(k, span, place))))
            return -1;
    }
    if (op->kind == ZERO_OP_USE)
        uses[op->use] = span;
    else if (span)
        *(by_gpu(k, place) ? &at->gpu : &at->host) = span->end_ns;
    if (op->kind == ZERO_OP_WAIT || op->kind == ZERO_OP_HOST_WAIT)
        join(at, &k->event[op->event]);
    for (int t = 0; t < PLACES && op->kind == ZERO_OP_HOST_WAIT; t++) /* what is issued later is after it */
        join(&k->place[t], at);
    return 0;
}

static int walk_program(walk_t *k, zero_program_kind_t kind, zero_pass_t pass, int64_t step, int micro)
{
    const zero_plan_t *plan = k->w->s->engine->plan;
    const zero_program_t *program = &plan->programs[zero_plan_program(plan, kind, pass, -1)];
    const zero_trace_span_t *uses[MOST_USES] = {NULL};
    for (int32_t i = 0; i < program->op_count; i++)
        if (walk_op(k, program, &program->ops[i], step, micro, uses))
            return -1;
    return 0;
}

/* All spans, against the plan. first: the step of the first. */
static int check_spans(watch_t *w, int64_t first)
{
    small_t *s = w->s;
    walk_t k = {.w = w, .gpu = !s->device->caps.host_memory};
    SMALL_IS(s->engine->plan->event_count <= (int)(sizeof k.event / sizeof *k.event));
    for (int64_t step = first; step < first + TRACED; step++) {
        for (int m = 1; m <= MICRO_STEPS; m++)
            if (walk_program(&k,
                             m == 1             ? ZERO_PROGRAM_FIRST
                             : m == MICRO_STEPS ? ZERO_PROGRAM_LAST
                                                : ZERO_PROGRAM_MIDDLE,
                             s->train, step, m))
                return -1;
        if (walk_program(&k, ZERO_PROGRAM_STEP, -1, step, 0) ||
            (step == first && (walk_program(&k, ZERO_PROGRAM_EVAL, s->eval, step, 0) ||
                               walk_program(&k, ZERO_PROGRAM_SAVE, -1, step, 0))))
            return -1;
    }
    for (int i = 0; i < w->spans.count; i++)
        if (!w->spans.seen[i])
            return small_complain(s, "%s of '%s' of step %lld is in the trace, but not in the plan",
                                  w->spans.span[i].operation, w->spans.span[i].program,
                                  (long long)w->spans.span[i].step);
    return 0;
}

/* The caller's uses lie between the return of zero_acquire and the call of zero_release. */
static int check_uses(watch_t *w)
{
    small_t *s = w->s;
    int next = 0;
    for (int i = 0; i < w->spans.count; i++) {
        const zero_trace_span_t *span = &w->spans.span[i];
        if (strcmp(span->operation, "USE") != 0 || strcmp(span->program, "eval") == 0)
            continue;
        const held_t *h = &w->held[next++];
        SMALL_IS(strcmp(span->unit, s->engine->spec.units[h->unit].name) == 0);
        SMALL_IS(h->asked <= span->begin_ns && span->begin_ns <= h->got);
        SMALL_IS(h->left <= span->end_ns && span->end_ns <= h->gone);
    }
    SMALL_IS(next == w->held_count);
    return 0;
}

/* What the engine counts by itself lies inside of the spans. */
static int check_seconds(watch_t *w, const zero_stats_t *before, const zero_stats_t *after, double asking)
{
    small_t *s = w->s;
    double tasks = 0, waits = 0, works = 0;
    for (int i = 0; i < w->spans.count; i++) {
        const zero_trace_span_t *span = &w->spans.span[i];
        double seconds = 1e-9 * (double)(span->end_ns - span->begin_ns);
        bool waited = strcmp(span->operation, "WAIT") == 0 || strcmp(span->operation, "HOST_WAIT") == 0;
        *(waited ? &waits : strcmp(span->operation, "USE") == 0 ? &works : &tasks) += seconds;
    }
    double comm = after->comm_seconds - before->comm_seconds, kernels = after->kernel_seconds - before->kernel_seconds,
           exposed = after->exposed_seconds - before->exposed_seconds;
    SMALL_IS(tasks + 1e-9 >= comm + kernels && comm > 0 && kernels > 0);
    if (s->device->caps.asynchronous)
        SMALL_IS(exposed >= 0 && exposed <= waits + asking + 1e-9);
    else
        SMALL_IS(exposed + 1e-9 >= comm && exposed <= comm + waits + asking + 1e-9);
    return 0;
}

/* ---- cases ------------------------------------------------------------------------------------------------------ */

static void count_warnings(void *ctx, zero_log_level_t level, const char *text)
{
    watch_t *w = ctx;
    w->warnings += level == ZERO_LOG_WARNING && strstr(text, "zero_trace_read") != NULL;
}

static void listen(zero_config_t *config, void *ctx)
{
    config->saves = true;
    config->log = count_warnings;
    config->log_ctx = ctx;
    config->reduce = ((watch_t *)ctx)->s->c.stage % 2 ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY;
}

static int trace_case(watch_t *w)
{
    small_t *s = w->s;
    const bool cpu = s->device->caps.host_memory;
    zero_stats_t before = {.size = sizeof before}, after = before;
    uint64_t lost = 0;
    if (run_steps(w, 1, false, &lost))
        return -1;
    /* What is in flight is over before the trace, and is not in it. */
    SMALL_TRY(zero_trace_begin(s->engine, 1));
    SMALL_TRY(zero_trace_end(s->engine, collect, &w->spans, NULL));
    SMALL_IS(w->spans.count == 0);
    w->held_count = 0;
    double asking = zero_now();
    SMALL_TRY(zero_step_stats(s->engine, &before));
    asking = zero_now() - asking;
    SMALL_TRY(zero_trace_begin(s->engine, ROOM));
    if (run_steps(w, TRACED, false, &lost))
        return -1;
    SMALL_TRY(zero_trace_end(s->engine, collect, &w->spans, &lost));
    SMALL_IS(lost == 0 && w->warnings == 0);
    double asked = zero_now();
    SMALL_TRY(zero_step_stats(s->engine, &after));
    asking += zero_now() - asked;
    if (check_spans(w, 2) || (cpu && check_uses(w)) || (cpu && check_seconds(w, &before, &after, asking)))
        return -1;
    if (!cpu)
        SMALL_IS(after.exposed_seconds >= before.exposed_seconds && before.exposed_seconds == 0);
    return 0;
}

/* Reading after each step frees the room, so that two steps of it are enough; without, what has no room is counted. */
static int room_case(watch_t *w)
{
    small_t *s = w->s;
    uint64_t lost = 0;
    int all = 0;
    SMALL_TRY(zero_trace_begin(s->engine, 2));
    if (run_steps(w, 6, true, &lost))
        return -1;
    SMALL_TRY(zero_trace_end(s->engine, collect, &w->spans, &lost));
    SMALL_IS(lost == 0 && w->warnings == 0);
    all = w->spans.count;
    forget(&w->spans);
    SMALL_TRY(zero_trace_begin(s->engine, 2));
    if (run_steps(w, 6, false, &lost))
        return -1;
    SMALL_TRY(zero_trace_end(s->engine, collect, &w->spans, &lost));
    SMALL_IS(lost > 0 && w->warnings == 1 && (int)lost + w->spans.count == all);
    SMALL_TRY(zero_trace_begin(s->engine, 1)); /* zero_destroy ends it */
    return run_steps(w, 1, false, &lost);
}

static int misuse_case(watch_t *w)
{
    small_t *s = w->s;
    uint64_t lost = 0;
    SMALL_FAILS(zero_trace_begin(s->engine, 0), ZERO_ERR_ARG, "0 1");
    SMALL_FAILS(zero_trace_begin(s->engine, 1000001), ZERO_ERR_ARG, "1000001 1000000");
    SMALL_FAILS(zero_trace_read(s->engine, collect, &w->spans, &lost), ZERO_ERR_ORDER, "zero_trace_begin");
    SMALL_FAILS(zero_trace_end(s->engine, collect, &w->spans, &lost), ZERO_ERR_ORDER, "zero_trace_begin");
    SMALL_TRY(zero_micro_begin(s->engine, s->train, 0));
    SMALL_FAILS(zero_trace_begin(s->engine, 1), ZERO_ERR_ORDER, "zero_step");
    SMALL_TRY(zero_micro_end(s->engine));
    SMALL_FAILS(zero_trace_begin(s->engine, 1), ZERO_ERR_ORDER, "zero_step");
    if (run_pass(w, s->train, ZERO_LAST))
        return -1;
    SMALL_TRY(zero_step(s->engine, 0.01));
    SMALL_TRY(zero_trace_begin(s->engine, 1));
    SMALL_FAILS(zero_trace_begin(s->engine, 1), ZERO_ERR_ORDER, "zero_trace_end");
    SMALL_TRY(zero_micro_begin(s->engine, s->eval, 0));
    SMALL_FAILS(zero_trace_read(s->engine, collect, &w->spans, &lost), ZERO_ERR_ORDER, "'eval' zero_micro_end");
    SMALL_FAILS(zero_trace_end(s->engine, collect, &w->spans, &lost), ZERO_ERR_ORDER, "'eval' zero_micro_end");
    SMALL_TRY(zero_micro_end(s->engine));
    SMALL_TRY(zero_trace_read(s->engine, NULL, NULL, NULL));
    SMALL_TRY(zero_trace_end(s->engine, collect, &w->spans, NULL));
    SMALL_IS(w->spans.count == 0); /* all was read before */
    return 0;
}

typedef struct trace_work {
    int threaded;
    int (*play)(watch_t *w);
    int places; /* of a stage: that many of small_place_t */
} trace_work_t;

static int play_case(zero_comm_t *comm, const trace_work_t *work, int stage, small_place_t place)
{
    static watch_t w;
    small_t s = {0};
    small_case_t c = {.world = zero_comm_size(comm),
                      .stage = stage,
                      .threaded = work->threaded,
                      .micro_steps = MICRO_STEPS,
                      .dtype = ZERO_BF16,
                      .place = place,
                      .folder = "trace.nvme",
                      .edit = listen,
                      .ctx = &w};
    w = (watch_t){.s = &s};
    s.c = c;
    int result = small_start(&s, &c, comm) || work->play(&w);
    small_destroy(&s);
    forget(&w.spans);
    return result;
}

static int trace_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const trace_work_t *work = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm == NULL;
    (void)rank, (void)world;
    for (int stage = 0; stage < 4 && result == 0; stage++)
        for (int i = 0; i < work->places && result == 0; i++)
            result = play_case(comm, work, stage, (small_place_t)((stage + i) % SMALL_PLACES)) != 0;
    zero_comm_destroy(comm);
    return result;
}

START_TEST(spans_are_the_plan_s)
{
    trace_work_t work = {.threaded = _i % 3, .play = trace_case, .places = SMALL_PLACES};
    ck_assert_int_eq(ranks_run(2 + _i / 3, 120, trace_rank, &work), 0);
}
END_TEST

START_TEST(spans_are_the_plan_s_on_gpus)
{
    trace_work_t work = {.threaded = SMALL_CUDA, .play = trace_case, .places = 3};
    if (!emulated_plugins())
        return;
    setenv("ZERO_EMULATOR", _i ? "threads" : "inline", 1);
    ck_assert_int_eq(ranks_run(2, 200, trace_rank, &work), 0);
}
END_TEST

START_TEST(room_is_freed_and_its_lack_is_told)
{
    trace_work_t work = {.threaded = _i, .play = room_case, .places = 1};
    ck_assert_int_eq(ranks_run(2, 120, trace_rank, &work), 0);
}
END_TEST

START_TEST(wrong_calls_change_nothing)
{
    trace_work_t work = {.play = misuse_case, .places = 1};
    ck_assert_int_eq(ranks_run(1, 60, trace_rank, &work), 0);
}
END_TEST

Suite *engine_trace_suite(void)
{
    Suite *suite = suite_create("trace");
    TCase *t = tcase_create("trace");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, spans_are_the_plan_s, 0, 6);
    tcase_add_loop_test(t, spans_are_the_plan_s_on_gpus, 0, 2);
    tcase_add_loop_test(t, room_is_freed_and_its_lack_is_told, 0, 3);
    tcase_add_test(t, wrong_calls_change_nothing);
    suite_add_tcase(suite, t);
    return suite;
}
