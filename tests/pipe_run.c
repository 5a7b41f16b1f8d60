/* SPDX-License-Identifier: Apache-2.0 */
/* pipe_run.c - see pipe_toy.h: steps, evaluations and checkpoints of a case, and its forecasts. */
#include "tests/pipe_toy.h"

#include <stdlib.h>

#define TRY(call) PIPE_TRY(call)

static int64_t count_of(int param)
{
    return pipe_param(param).rows * pipe_param(param).cols;
}

static int initial(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const pipe_toy_t *t = ctx;
    for (int p = 0; p < PIPE_PARAMS; p++)
        for (int64_t i = 0; t->param[p] == param && i < count; i++)
            out[i] = pipe_initial(p, begin + i);
    return 0;
}

int pipe_fill(pipe_toy_t *t)
{
    t->param[PIPE_PARAM_HEAD] = t->c.tied ? -1 : t->param[PIPE_PARAM_HEAD];
    for (int p = 0; p < PIPE_PARAMS - t->c.tied; p++)
        TRY(zero_param_fill(t->engine, t->param[p], initial, t));
    return 0;
}

static int count_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)param, (void)begin, (void)values;
    *(double *)ctx += (double)count;
    return 0;
}

int pipe_get(pipe_toy_t *t, zero_state_t state, float *values)
{
    memset(values, 0, PIPE_ELEMENTS * sizeof *values);
    for (int p = 0; p < PIPE_PARAMS - t->c.tied; p++) {
        const bool moment2 = state == ZERO_STATE_MOMENT2;
        if ((state != ZERO_STATE_PARAM && !pipe_param(p).trainable) || (moment2 && t->c.rule >= ZERO_RULE_MUON))
            continue;
        TRY(zero_param_get(t->engine, t->param[p], state, ZERO_FP32, values + pipe_first(p)));
        double owned = 0; /* also waits for all streams */
        TRY(zero_param_read(t->engine, t->param[p], state, count_values, &owned));
        TRY(zero_sum(t->engine, &owned, 1));
        if (owned != (double)count_of(p))
            return pipe_complain(t, "state %d of parameter %d has %g owned elements, not %lld", state, p, owned,
                                 (long long)count_of(p));
    }
    return 0;
}

static int check_traffic(pipe_toy_t *t, const zero_traffic_t *before)
{
    zero_stats_t stats = {.size = sizeof stats};
    zero_traffic_t plan;
    TRY(zero_step_stats(t->engine, &stats));
    TRY(zero_forecast_traffic(t->engine, t->c.micros, &plan));
    const uint64_t *was = (const uint64_t *)before, *is = (const uint64_t *)&stats.traffic;
    for (size_t i = 0; i < sizeof plan / sizeof *was; i++)
        if (is[i] - was[i] != ((const uint64_t *)&plan)[i])
            return pipe_complain(t, "step %lld: member %zu of zero_traffic_t is %llu; the plan says %llu",
                                 (long long)t->step, i, (unsigned long long)(is[i] - was[i]),
                                 (unsigned long long)((const uint64_t *)&plan)[i]);
    return 0;
}

/* Each rank's forecasts are what it measures, and what every other rank forecasts for it. */
static int check_forecasts(pipe_toy_t *t)
{
    enum { MEMORY = ZERO_TIER_COUNT * ZERO_KIND_COUNT, TRAFFIC = sizeof(zero_traffic_t) / 8 };
    zero_memory_t measured = {.size = sizeof measured};
    TRY(zero_measure(t->engine, &measured));
    for (int r = 0; r < t->c.pipe * t->c.ranks; r++) {
        zero_memory_t memory = {.size = sizeof memory};
        zero_traffic_t traffic, own;
        double values[MEMORY + TRAFFIC] = {0}, sums[MEMORY + TRAFFIC];
        TRY(zero_forecast_at(t->engine, r, &memory));
        TRY(zero_forecast_traffic_at(t->engine, r, t->c.micros, &traffic));
        TRY(zero_forecast_traffic(t->engine, t->c.micros, &own));
        for (int i = 0; i < MEMORY && r == t->rank; i++)
            values[i] = (double)measured.bytes[i / ZERO_KIND_COUNT][i % ZERO_KIND_COUNT];
        for (int i = 0; i < TRAFFIC && r == t->rank; i++)
            values[MEMORY + i] = (double)((const uint64_t *)&own)[i];
        memcpy(sums, values, sizeof sums);
        for (int i = 0; i < MEMORY + TRAFFIC; i += 32)
            TRY(zero_sum(t->engine, sums + i, MEMORY + TRAFFIC - i < 32 ? MEMORY + TRAFFIC - i : 32));
        for (int i = 0; i < MEMORY + TRAFFIC; i++) {
            double plan = i < MEMORY ? (double)memory.bytes[i / ZERO_KIND_COUNT][i % ZERO_KIND_COUNT]
                                     : (double)((const uint64_t *)&traffic)[i - MEMORY];
            if (plan != sums[i])
                return pipe_complain(t, "rank %d: %s (%d): %.0f are forecast, and %.0f measured", r,
                                     i < MEMORY ? zero_kind_name((zero_kind_t)(i % ZERO_KIND_COUNT)) : "traffic", i,
                                     plan, sums[i]);
        }
    }
    return 0;
}

static int run_step(pipe_toy_t *t, pipe_record_t *record)
{
    zero_stats_t stats = {.size = sizeof stats};
    double loss[2];
    if (pipe_pass(t, false))
        return -1;
    loss[0] = t->loss;
    if (pipe_get(t, ZERO_STATE_PARAM, record->values[t->step])) /* the evaluation has moved all that it moves */
        return -1;
    TRY(zero_step_stats(t->engine, &stats));
    zero_traffic_t before = stats.traffic;
    if (pipe_pass(t, true))
        return -1;
    loss[1] = t->loss;
    TRY(zero_step(t->engine, pipe_rate(t->step)));
    TRY(zero_sum(t->engine, loss, 2));
    TRY(zero_step_stats(t->engine, &stats));
    record->eval[t->step] = loss[0], record->loss[t->step] = loss[1], record->norm[t->step] = stats.grad_norm;
    if (pipe_get(t, ZERO_STATE_PARAM, record->values[t->step + 1]) || check_traffic(t, &before))
        return -1;
    t->step++;
    return 0;
}

static int save(pipe_toy_t *t)
{
    zero_save_options_t options;
    zero_saved_t end = {.size = sizeof end};
    zero_save_options_init(&options);
    options.folder = t->c.save;
    TRY(zero_save_open(t->engine, &options));
    TRY(zero_save(t->engine, NULL, 0));
    TRY(zero_save_end(t->engine, true, &end));
    return 0;
}

static int load(pipe_toy_t *t)
{
    zero_checkpoint_t *checkpoint = NULL;
    TRY(zero_checkpoint_open(&checkpoint, t->c.load, NULL));
    TRY(zero_load(t->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    return 0;
}

static int run(pipe_toy_t *t, pipe_record_t *record)
{
    TRY(zero_commit(t->engine));
    if (t->c.load ? load(t) || pipe_get(t, ZERO_STATE_PARAM, record->values[PIPE_STEPS]) : pipe_fill(t))
        return -1;
    while (t->step < PIPE_STEPS && !t->c.load)
        if (run_step(t, record))
            return -1;
    if (pipe_get(t, ZERO_STATE_MOMENT1, record->moments[0]) || pipe_get(t, ZERO_STATE_MOMENT2, record->moments[1]))
        return -1;
    return check_forecasts(t) || (t->c.save && save(t)) ? -1 : 0;
}

int pipe_run(const pipe_case_t *c, zero_comm_t *comm, pipe_record_t *record)
{
    pipe_toy_t t;
    int result = pipe_create(&t, c, comm, NULL, NULL);
    if (result == 0)
        result = run(&t, record);
    if (result != 0 && t.engine)
        zero_abort(t.engine, "the toy found a difference");
    pipe_destroy(&t);
    return result;
}
