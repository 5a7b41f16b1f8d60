/* SPDX-License-Identifier: Apache-2.0 */
/* test_api.c - rules for all functions of zero.h: wrong arguments and calls at the wrong time (api_misuse.c), structs
 * of other versions (api_structs.c), calls from callbacks and threads (api_calls.c). */
#include "tests/api_suites.h"

#include <stdlib.h>
#include <string.h>

enum { COUNT = 1000 };

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx, (void)param;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)(begin + i);
    return 0;
}
static int read_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)ctx, (void)param, (void)begin, (void)count, (void)values;
    return 0;
}
static void write_text(void *ctx, const char *text, size_t bytes)
{
    (void)ctx, (void)text, (void)bytes;
}

static zero_status_t unit_add(zero_engine_t *e)
{
    zero_unit_t unit;
    return zero_unit_add(e, "another unit", &unit);
}
static zero_status_t param_add(zero_engine_t *e)
{
    zero_param_t param;
    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    desc.name = "another parameter";
    return zero_param_add(e, 0, &desc, &param);
}
static zero_status_t pass_add(zero_engine_t *e)
{
    zero_pass_t pass;
    return zero_pass_add(e, "another pass", ZERO_PASS_ANY_ORDER, &pass);
}
static zero_status_t use_add(zero_engine_t *e)
{
    return zero_use_add(e, 1, 0, ZERO_READ);
}
static zero_status_t reserve(zero_engine_t *e)
{
    zero_reserve_t reserve;
    return zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 100, &reserve);
}
static zero_status_t collective_add(zero_engine_t *e)
{
    return zero_collective_add(e, 0, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, 64, ZERO_FP32);
}
static zero_status_t collective(zero_engine_t *e)
{
    float values[64] = {1};
    return zero_collective(e, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, values, values, 64, ZERO_FP32);
}
static zero_status_t param_local(zero_engine_t *e)
{
    int64_t shape[ZERO_MAX_DIMS];
    return zero_param_local(e, 0, shape);
}
static zero_status_t param_fill(zero_engine_t *e)
{
    return zero_param_fill(e, 0, fill, NULL);
}
static zero_status_t param_read(zero_engine_t *e)
{
    return zero_param_read(e, 0, ZERO_STATE_PARAM, read_values, NULL);
}
static zero_status_t param_get(zero_engine_t *e)
{
    float values[COUNT];
    return zero_param_get(e, 0, ZERO_STATE_PARAM, ZERO_FP32, values);
}
static zero_status_t param_set(zero_engine_t *e)
{
    const float values[COUNT] = {1};
    return zero_param_set(e, 0, ZERO_STATE_MOMENT1, ZERO_FP32, values);
}
static zero_status_t param_find(zero_engine_t *e)
{
    zero_param_t param;
    return zero_param_find(e, "w", &param);
}
static zero_status_t micro_begin(zero_engine_t *e)
{
    return zero_micro_begin(e, 0, ZERO_LAST);
}
static zero_status_t acquire(zero_engine_t *e)
{
    return zero_acquire(e, 0);
}
static zero_status_t release(zero_engine_t *e)
{
    return zero_release(e, 0);
}
static zero_status_t step(zero_engine_t *e)
{
    return zero_step(e, 0.1);
}
static zero_status_t step_stats(zero_engine_t *e)
{
    zero_stats_t stats = {.size = sizeof stats};
    return zero_step_stats(e, &stats);
}
static zero_status_t sum(zero_engine_t *e)
{
    double value = 1;
    return zero_sum(e, &value, 1);
}
static zero_status_t set_step(zero_engine_t *e)
{
    return zero_set_step(e, 3, 2);
}
static zero_status_t step_weight(zero_engine_t *e)
{
    return zero_step_weight(e, 3);
}
static zero_status_t loss_scale(zero_engine_t *e)
{
    float scale;
    return zero_loss_scale(e, &scale);
}
static zero_status_t trace_begin(zero_engine_t *e)
{
    return zero_trace_begin(e, 1);
}
static zero_status_t trace_read(zero_engine_t *e)
{
    return zero_trace_read(e, NULL, NULL, NULL);
}
static zero_status_t trace_end(zero_engine_t *e)
{
    return zero_trace_end(e, NULL, NULL, NULL);
}
static zero_status_t forecast(zero_engine_t *e)
{
    zero_memory_t memory = {.size = sizeof memory};
    return zero_forecast(e, &memory);
}
static zero_status_t measure(zero_engine_t *e)
{
    zero_memory_t memory = {.size = sizeof memory};
    return zero_measure(e, &memory);
}
static zero_status_t forecast_traffic(zero_engine_t *e)
{
    zero_traffic_t traffic;
    return zero_forecast_traffic(e, 1, &traffic);
}
static zero_status_t explain(zero_engine_t *e)
{
    return zero_explain(e, write_text, NULL);
}
static zero_status_t forecast_at(zero_engine_t *e)
{
    zero_memory_t memory = {.size = sizeof memory};
    return zero_forecast_at(e, 0, &memory);
}
static zero_status_t forecast_traffic_at(zero_engine_t *e)
{
    zero_traffic_t traffic;
    return zero_forecast_traffic_at(e, 0, 1, &traffic);
}

/* The engine of api_make has no pipeline. pipe_misuse.c covers one that has. */
static zero_status_t chunks(zero_engine_t *e)
{
    return zero_chunks(e, 0);
}
static zero_status_t chunk_link(zero_engine_t *e)
{
    return zero_chunk_link(e, 0, 100, ZERO_FP32);
}
static zero_status_t chunk_reserve(zero_engine_t *e)
{
    return zero_chunk_reserve(e, 0, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 100);
}
static zero_status_t task_add(zero_engine_t *e)
{
    return zero_task_add(e, 0, 0, ZERO_FORWARD);
}
static zero_status_t tasks_begin(zero_engine_t *e)
{
    return zero_tasks_begin(e, 0);
}
static zero_status_t task_next(zero_engine_t *e)
{
    zero_task_t task = {.size = sizeof task};
    return zero_task_next(e, &task);
}

static zero_status_t load(zero_engine_t *e)
{
    return zero_load(e, NULL);
}
static zero_status_t save_open(zero_engine_t *e)
{
    zero_save_options_t options;
    zero_save_options_init(&options);
    options.folder = "api";
    return zero_save_open(e, &options);
}
static zero_status_t save(zero_engine_t *e)
{
    return zero_save(e, NULL, 0);
}
static zero_status_t save_end(zero_engine_t *e)
{
    zero_saved_t saved = {.size = sizeof saved};
    return zero_save_end(e, true, &saved);
}

/* The engine of api_make has no saves and no chunks. */
const api_call_t api_calls[API_CALLS] = {
    {"zero_unit_add", unit_add, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_param_add", param_add, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_pass_add", pass_add, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_use_add", use_add, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_reserve", reserve, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_collective_add", collective_add, ZERO_OK, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_chunks", chunks, ZERO_ERR_ARG, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_chunk_link", chunk_link, ZERO_ERR_ARG, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_chunk_reserve", chunk_reserve, ZERO_ERR_ARG, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_task_add", task_add, ZERO_ERR_ARG, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_param_find", param_find, ZERO_OK, ZERO_OK, ZERO_OK},
    {"zero_param_local", param_local, ZERO_OK, ZERO_OK, ZERO_OK},
    {"zero_param_fill", param_fill, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_param_read", param_read, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_param_get", param_get, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_param_set", param_set, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_set_step", set_step, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_step_weight", step_weight, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_loss_scale", loss_scale, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_trace_begin", trace_begin, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_micro_begin", micro_begin, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_acquire", acquire, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_collective", collective, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_release", release, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_tasks_begin", tasks_begin, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_task_next", task_next, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_wait", zero_wait, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_micro_end", zero_micro_end, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_step", step, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_trace_read", trace_read, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_trace_end", trace_end, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_step_stats", step_stats, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_sum", sum, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_load", load, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ARG},
    {"zero_save_open", save_open, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_save", save, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_save_end", save_end, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_ERR_ORDER},
    {"zero_forecast", forecast, ZERO_ERR_ORDER, ZERO_OK, ZERO_OK},
    {"zero_measure", measure, ZERO_ERR_ORDER, ZERO_ERR_ORDER, ZERO_OK},
    {"zero_forecast_traffic", forecast_traffic, ZERO_ERR_ORDER, ZERO_OK, ZERO_OK},
    {"zero_forecast_at", forecast_at, ZERO_ERR_ORDER, ZERO_OK, ZERO_OK},
    {"zero_forecast_traffic_at", forecast_traffic_at, ZERO_ERR_ORDER, ZERO_OK, ZERO_OK},
    {"zero_explain", explain, ZERO_ERR_ORDER, ZERO_OK, ZERO_OK},
    {"zero_commit", zero_commit, ZERO_OK, ZERO_ERR_ORDER,
     ZERO_ERR_ORDER}, /* last, because the calls before it must come before commit */
};

api_engine_t api_make(int plan_world, void (*edit)(zero_config_t *config, void *ctx), void *ctx)
{
    api_engine_t a = {NULL, NULL, NULL};
    zero_config_t config;
    zero_unit_t unit;
    zero_param_t param;
    zero_param_desc_t desc;
    zero_pass_t train, eval;
    zero_config_init(&config);
    config.plan_world = plan_world;
    if (plan_world == 0) {
        ck_assert_int_eq(zero_comm_self(&a.comm, NULL), ZERO_OK);
        ck_assert_int_eq(zero_device_cpu(&a.device, NULL, NULL), ZERO_OK);
    }
    config.comm = a.comm;
    config.device = a.device;
    if (edit)
        edit(&config, ctx);
    ck_assert_int_eq(zero_create(&a.engine, &config, NULL), ZERO_OK);
    zero_param_desc_init(&desc);
    desc.name = "w";
    desc.ndim = 1;
    desc.shape[0] = COUNT;
    ck_assert_int_eq(zero_unit_add(a.engine, "u", &unit), ZERO_OK);
    ck_assert_int_eq(zero_param_add(a.engine, unit, &desc, &param), ZERO_OK);
    ck_assert_int_eq(zero_pass_add(a.engine, "train", ZERO_PASS_TRAIN, &train), ZERO_OK);
    ck_assert_int_eq(zero_pass_add(a.engine, "eval", ZERO_PASS_EVAL, &eval), ZERO_OK);
    ck_assert_int_eq(zero_use_add(a.engine, train, unit, ZERO_READ | ZERO_GRAD), ZERO_OK);
    return a;
}

void api_free(api_engine_t *a)
{
    zero_destroy(a->engine);
    zero_device_destroy(a->device);
    zero_comm_destroy(a->comm);
}

int main(void)
{
    Suite *suite = suite_create("api");
    suite_add_tcase(suite, api_misuse_case());
    suite_add_tcase(suite, api_structs_case());
    suite_add_tcase(suite, api_calls_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
