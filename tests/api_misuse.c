/* SPDX-License-Identifier: Apache-2.0 */
/* api_misuse.c - calls every function of zero.h with NULL arguments, at the wrong time and after a failure. Each call
 * returns an error with a sentence, and none crashes. */
#include "tests/expect.h"
#include "tests/api_suites.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static zero_error_t why;

/* For functions that take a zero_error_t: the call returns ZERO_ERR_ARG with a sentence that contains part, also if
 * error is NULL. */
#define REFUSED(call, part)                         \
    do {                                            \
        why = (zero_error_t){.text = "nothing"};    \
        zero_error_t *error = &why;                 \
        ck_assert_int_eq((call), ZERO_ERR_ARG);     \
        ck_assert_int_eq(why.status, ZERO_ERR_ARG); \
        API_SAYS(why.text, part);                   \
        error = NULL;                               \
        ck_assert_int_eq((call), ZERO_ERR_ARG);     \
    } while (0)
/* For functions that take an engine. */
#define REFUSES(call, part)                     \
    do {                                        \
        ck_assert_int_eq((call), ZERO_ERR_ARG); \
        API_SAYS(zero_last_error(e), part);     \
    } while (0)
#define OK(call) ck_assert_int_eq((call), ZERO_OK)

/* ---- without an engine ------------------------------------------------------------------------------------------ */

static void names(void)
{
    ck_assert_str_eq(zero_status_name((zero_status_t)99), "unknown status");
    ck_assert_str_eq(zero_version(), ZERO_VERSION);
    ck_assert_str_eq(zero_dtype_name((zero_dtype_t)-1), "?");
    ck_assert_uint_eq(zero_dtype_size((zero_dtype_t)77), 0);
    ck_assert_str_eq(zero_tier_name((zero_tier_t)5), "?");
    ck_assert_str_eq(zero_kind_name((zero_kind_t)-4), "?");
    ck_assert_str_eq(zero_schedule_name((zero_schedule_t)9), "?");
}

/* Maps of layers without arrays, with more stages than layers, and with layers that do not exist. */
static void maps(void)
{
    const int32_t layer[] = {0, 2}, stage[] = {0, 1};
    int32_t stage_of[2];
    ck_assert_int_eq(zero_map_even(2, 1, NULL, 0, 0, NULL), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_map_even(2, 3, NULL, 0, 0, stage_of), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_map_even(2, 0, NULL, 0, 0, stage_of), ZERO_ERR_ARG);
    REFUSED(zero_map_check(2, 2, layer, stage, 2, NULL, error), "map");
    REFUSED(zero_map_check(2, 2, NULL, stage, 2, stage_of, error), "map");
    REFUSED(zero_map_check(2, 2, layer, NULL, 2, stage_of, error), "map");
    REFUSED(zero_map_check(0, 2, layer, stage, 0, stage_of, error), "`0 layers`");
    REFUSED(zero_map_check(2, 2, layer, stage, 2, stage_of, error), "`lacks layer 1`");
}

/* NULL: no struct to initialize. */
static void inits(void)
{
    zero_comm_options_init_size(NULL, sizeof(zero_comm_options_t));
    zero_device_options_init_size(NULL, 0);
    zero_save_options_init_size(NULL, sizeof(zero_save_options_t));
    zero_config_init_size(NULL, sizeof(zero_config_t));
    zero_param_desc_init_size(NULL, 8);
    ck_assert_int_eq(zero_config_stage(NULL, 1), ZERO_ERR_ARG);
}

static int meet_alone(void *ctx, const void *send, void *recv, size_t bytes)
{
    (void)ctx;
    memcpy(recv, send, bytes);
    return 0;
}

static void comms(void)
{
    zero_comm_t *comm = NULL, *other = (zero_comm_t *)&why;
    zero_device_t *device = NULL;
    char byte = 1;
    zero_bootstrap_t good = {.size = sizeof good, .world = 1, .all_gather = meet_alone}, bad = good;
    OK(zero_comm_self(&comm, NULL));
    OK(zero_device_cpu(&device, NULL, NULL));
    REFUSED(zero_comm_self(NULL, error), "zero_comm_self");
    REFUSED(zero_comm_shm(NULL, &good, NULL, error), "zero_comm_shm");
    REFUSED(zero_comm_shm(&other, NULL, NULL, error), "zero_bootstrap_t NULL");
    ck_assert_ptr_null(other);
    bad.all_gather = NULL;
    REFUSED(zero_comm_shm(&other, &bad, NULL, error), "all_gather");
    bad = good;
    bad.rank = 1;
    REFUSED(zero_comm_shm(&other, &bad, NULL, error), "`rank 1` 1");
    bad = good;
    bad.world = 0;
    REFUSED(zero_comm_shm(&other, &bad, NULL, error), "`rank 0` 0");
    REFUSED(zero_comm_torchrun(NULL, NULL, error), "zero_comm_torchrun");
    unsetenv("RANK");
    REFUSED(zero_comm_torchrun(&other, NULL, error), "RANK");
    REFUSED(zero_comm_mpi(NULL, NULL, NULL, error), "zero_comm_mpi");
    REFUSED(zero_comm_split(comm, 0, 0, NULL, error), "zero_comm_split");
    REFUSED(zero_comm_split(NULL, 0, 0, &other, error), "zero_comm_split");
    REFUSED(zero_comm_exchange(NULL, &byte, &byte, 1, error), "zero_comm_exchange");
    REFUSED(zero_comm_exchange(comm, NULL, &byte, 1, error), "");
    REFUSED(zero_comm_exchange(comm, &byte, NULL, 1, error), "");
    OK(zero_comm_exchange(comm, NULL, NULL, 0, NULL));
    REFUSED(zero_comm_staged(NULL, comm, device, 0, error), "zero_comm_staged");
    REFUSED(zero_comm_staged(&other, NULL, device, 0, error), "");
    REFUSED(zero_comm_staged(&other, comm, NULL, 0, error), "");
    ck_assert_ptr_null(other);
    REFUSED(zero_comm_nccl(NULL, comm, device, NULL, NULL, error), "zero_comm_nccl");
    REFUSED(zero_comm_nccl(&other, NULL, device, NULL, NULL, error), "");
    REFUSED(zero_comm_nccl(&other, comm, NULL, NULL, NULL, error), "");
    REFUSED(zero_comm_nccl(&other, comm, device, NULL, NULL, error), "CUDA");
    ck_assert_ptr_null(other);
    ck_assert_int_eq(zero_comm_rank(NULL), -1);
    ck_assert_int_eq(zero_comm_size(NULL), 0);
    ck_assert_str_eq(zero_comm_name(NULL), "");
    ck_assert(!zero_comm_has_data(NULL) && zero_comm_has_data(comm));
    REFUSED(zero_comm_agree(NULL, ZERO_OK, NULL, error), "no communicator");
    zero_comm_abort(NULL, "nobody");
    zero_comm_destroy(NULL);
    OK(zero_comm_exchange(comm, &byte, &byte, 1, NULL));
    zero_comm_abort(comm, NULL);
    ck_assert_int_eq(zero_comm_exchange(comm, &byte, &byte, 1, &why), ZERO_ERR_PEER);
    ck_assert_int_eq(why.reason, ZERO_REASON_ABORTED);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
}

static void devices(void)
{
    zero_device_t *device = (zero_device_t *)&why;
    zero_device_options_t options;
    zero_device_options_init(&options);
    options.threads = -1;
    REFUSED(zero_device_cpu(NULL, NULL, error), "zero_device_cpu");
    REFUSED(zero_device_cuda(NULL, NULL, error), "zero_device_cuda");
    REFUSED(zero_device_cpu(&device, &options, error), "-1");
    ck_assert_ptr_null(device);
    REFUSED(zero_device_cuda(&device, &options, error), "-1");
    ck_assert_int_ge(zero_cuda_devices(), 0);
    ck_assert_str_eq(zero_device_name(NULL), "");
    ck_assert_str_eq(zero_device_label(NULL), "");
    zero_device_destroy(NULL);
}

static void tensors(void)
{
    static const char file[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    const uint64_t length = sizeof file - 1;
    const float values[2] = {1, 2};
    float out[2];
    zero_tensors_t *t = (zero_tensors_t *)&why;
    zero_tensor_info_t info = {.size = sizeof info};
    REFUSED(zero_tensors_open(NULL, "x", error), "");
    REFUSED(zero_tensors_open(&t, NULL, error), "");
    FILE *f = fopen("api.safetensors", "wb");
    ck_assert_ptr_nonnull(f);
    fwrite(&length, 8, 1, f);
    fwrite(file, 1, length, f);
    fwrite(values, 4, 2, f);
    fclose(f);
    OK(zero_tensors_open(&t, "api.safetensors", &why));
    unlink("api.safetensors");
    ck_assert_int_eq(zero_tensors_count(NULL), 0);
    ck_assert_int_eq(zero_tensors_at(NULL, 0, &info), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_at(t, 0, NULL), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_at(t, 1, &info), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_at(t, -1, &info), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_tensors_find(NULL, "a"), -1);
    ck_assert_int_eq(zero_tensors_find(t, NULL), -1);
    REFUSED(zero_tensors_read(NULL, 0, 0, 1, out, error), "0");
    REFUSED(zero_tensors_read(t, 0, 0, 1, NULL, error), "");
    REFUSED(zero_tensors_read(t, 0, 1, 2, out, error), "");
    REFUSED(zero_tensors_read(t, 0, -1, 1, out, error), "");
    REFUSED(zero_tensors_read(t, 0, INT64_MAX, INT64_MAX, out, error), "");
    OK(zero_tensors_read(t, 0, 2, 0, NULL, NULL));
    ck_assert_ptr_null(zero_tensors_metadata(NULL, "format"));
    ck_assert_ptr_null(zero_tensors_metadata(t, NULL));
    ck_assert_ptr_null(zero_tensors_metadata(t, "format"));
    zero_tensors_close(t);
    zero_tensors_close(NULL);
}

static void writers(void)
{
    const zero_tensor_info_t info = {.size = sizeof info, .name = "a", .dtype = "F32", .ndim = 1, .shape = {2}};
    const zero_tensor_info_t unset = {.name = "a", .dtype = "F32"};
    const float values[2] = {1, 2};
    zero_tensors_writer_t *w = (zero_tensors_writer_t *)&why;
    REFUSED(zero_tensors_create(NULL, ".", "api", &info, 1, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, NULL, "api", &info, 1, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, ".", NULL, &info, 1, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, ".", "../api", &info, 1, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, ".", "api", NULL, 1, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, ".", "api", &info, 0, 0, true, error), "");
    REFUSED(zero_tensors_create(&w, ".", "api", &unset, 1, 0, true, error), "");
    ck_assert_ptr_null(w);
    OK(zero_tensors_create(&w, ".", "api", &info, 1, 0, true, &why));
    REFUSED(zero_tensors_write(NULL, 0, 0, 1, values, error), "0");
    REFUSED(zero_tensors_write(w, 1, 0, 1, values, error), "1");
    REFUSED(zero_tensors_write(w, -1, 0, 1, values, error), "-1");
    REFUSED(zero_tensors_write(w, 0, 0, 1, NULL, error), "a");
    REFUSED(zero_tensors_write(w, 0, 1, 2, values, error), "a");
    REFUSED(zero_tensors_write(w, 0, -1, 1, values, error), "a");
    REFUSED(zero_tensors_write(w, 0, INT64_MAX, INT64_MAX, values, error), "a");
    OK(zero_tensors_write(w, 0, 2, 0, NULL, NULL));
    REFUSED(zero_tensors_finish(NULL, error), "");
    zero_tensors_discard(w);
    zero_tensors_discard(NULL);
}

static void checkpoints(void)
{
    zero_checkpoint_t *c = (zero_checkpoint_t *)&why;
    zero_checkpoint_info_t info = {.size = sizeof info};
    REFUSED(zero_checkpoint_open(NULL, "x", error), "");
    REFUSED(zero_checkpoint_open(&c, NULL, error), "");
    ck_assert_ptr_null(c);
    ck_assert_int_eq(zero_checkpoint_info(NULL, &info), ZERO_ERR_ARG);
    zero_checkpoint_close(NULL);
}

/* ---- with an engine --------------------------------------------------------------------------------------------- */

static void creation(void)
{
    zero_engine_t *e = (zero_engine_t *)&why;
    zero_config_t config;
    zero_config_init(&config);
    REFUSED(zero_create(NULL, &config, error), "");
    REFUSED(zero_create(&e, NULL, error), "zero_config_t NULL");
    ck_assert_ptr_null(e);
    REFUSED(zero_create(&e, &config, error), "config.comm NULL");
    zero_destroy(NULL);
    ck_assert_str_eq(zero_last_error(NULL), "the engine is NULL");
    ck_assert_int_eq(zero_last_failure(NULL, &why), ZERO_ERR_ARG);
    ck_assert_int_eq(why.rank, -1);
    ck_assert_int_eq(zero_last_failure(NULL, NULL), ZERO_ERR_ARG);
}

/* Functions whose result is not a status. */
static void answers(void)
{
    api_engine_t a = api_make(0, NULL, NULL);
    zero_engine_t *e = a.engine;
    ck_assert_int_eq(zero_param_count(NULL), 0);
    ck_assert_ptr_null(zero_param_name(NULL, 0));
    ck_assert_int_eq(zero_param_elements(NULL, 0), 0);
    ck_assert_ptr_null(zero_param_data(NULL, 0));
    ck_assert_ptr_null(zero_param_grad(NULL, 0));
    ck_assert_ptr_null(zero_reserved(NULL, 0));
    ck_assert_ptr_null(zero_stream(NULL));
    ck_assert_uint_eq(zero_plan_hash(NULL), 0);
    ck_assert(zero_pipe_size(NULL) == 0 && zero_pipe_index(NULL) == -1);
    ck_assert(zero_data_size(NULL) == 0 && zero_data_index(NULL) == -1);
    ck_assert(zero_axis_size(NULL, ZERO_AXIS_TENSOR) == 0 && zero_axis_index(NULL, ZERO_AXIS_TENSOR) == -1);
    zero_signal(NULL, 1);
    zero_abort(NULL, "nobody");
    for (int committed = 0; committed < 2; committed++) {
        ck_assert_int_eq(zero_param_count(e), 1);
        ck_assert_str_eq(zero_param_name(e, 0), "w");
        ck_assert_int_eq(zero_param_elements(e, 0), 1000);
        ck_assert(zero_pipe_size(e) == 1 && zero_pipe_index(e) == 0);
        ck_assert(zero_data_size(e) == 1 && zero_data_index(e) == 0);
        for (int axis = -1; axis <= ZERO_AXES; axis++) {
            const bool exists = axis >= 0 && axis < ZERO_AXES;
            ck_assert_int_eq(zero_axis_size(e, (zero_axis_t)axis), exists ? 1 : 0);
            ck_assert_int_eq(zero_axis_index(e, (zero_axis_t)axis), exists ? 0 : -1);
        }
        ck_assert_int_eq(zero_param_data(e, 0) != NULL, committed);
        ck_assert_int_eq(zero_param_grad(e, 0) != NULL, committed);
        ck_assert_int_eq(zero_plan_hash(e) != 0, committed);
        for (int bad = -1; bad < 2; bad += 2) {
            ck_assert_ptr_null(zero_param_name(e, bad));
            ck_assert_int_eq(zero_param_elements(e, bad), 0);
            ck_assert_ptr_null(zero_param_data(e, bad));
            ck_assert_ptr_null(zero_param_grad(e, bad));
            ck_assert_ptr_null(zero_reserved(e, bad));
        }
        if (!committed)
            OK(zero_commit(e));
    }
    api_free(&a);
}

/* NULL pointers and ids that do not exist. */
static void declarations(void)
{
    api_engine_t a = api_make(2, NULL, NULL);
    zero_engine_t *e = a.engine;
    zero_unit_t unit;
    zero_param_t param;
    zero_pass_t pass;
    zero_reserve_t reserve;
    int64_t shape[ZERO_MAX_DIMS];
    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    ck_assert(desc.split_dim == -1 && desc.split_blocks == 1 && !desc.partial);
    REFUSES(zero_unit_add(e, NULL, &unit), "");
    REFUSES(zero_unit_add(e, "v", NULL), "");
    REFUSES(zero_unit_add(e, "u", &unit), "'u'");
    REFUSES(zero_param_add(e, 0, &desc, &param), "");
    desc.name = "v";
    REFUSES(zero_param_add(e, 0, NULL, &param), "zero_param_desc_t NULL");
    REFUSES(zero_param_add(e, 0, &desc, NULL), "");
    REFUSES(zero_param_add(e, 1, &desc, &param), "`unit 1`");
    desc.ndim = 8;
    for (int d = 0; d < 8; d++)
        desc.shape[d] = INT64_MAX;
    REFUSES(zero_param_add(e, 0, &desc, &param), "2^63");
    desc.ndim = desc.shape[0] = 1;
    for (int bad = -2; bad < 2; bad += 3) {
        desc.split_dim = bad;
        REFUSES(zero_param_add(e, 0, &desc, &param), bad < 0 ? "'v' `dimension -2`" : "'v' `dimension 1`");
    }
    desc.split_dim = 0;
    desc.split_blocks = 0;
    REFUSES(zero_param_add(e, 0, &desc, &param), "'v' `0 blocks`");
    desc.split_blocks = 1;
    desc.partial = true;
    REFUSES(zero_param_add(e, 0, &desc, &param), "'v' partial");
    desc.partial = false;
    desc.piece_of = "whole";
    ck_assert_int_eq(zero_param_add(e, 0, &desc, &param), ZERO_ERR_UNSUPPORTED);
    API_SAYS(zero_last_error(e), "'v' tile");
    REFUSES(zero_pass_add(e, NULL, ZERO_PASS_EVAL, &pass), "");
    REFUSES(zero_pass_add(e, "v", ZERO_PASS_EVAL, NULL), "");
    REFUSES(zero_use_add(e, 7, 0, ZERO_READ), "`pass 7`");
    REFUSES(zero_use_add(e, 0, 7, ZERO_READ), "`unit 7`");
    REFUSES(zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 1, NULL), "");
    REFUSES(zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, UINT64_MAX, &reserve), "");
    REFUSES(zero_chunks(e, 0), "`0 chunks`");
    REFUSES(zero_chunk_link(e, 0, 1, ZERO_FP32), "`chunk 0`");
    REFUSES(zero_chunk_reserve(e, 0, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 1), "`chunk 0`");
    REFUSES(zero_task_add(e, 0, 0, ZERO_FORWARD), "`chunk 0`");
    REFUSES(zero_collective_add(e, 2, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, 8, ZERO_FP32), "`pass 2`");
    REFUSES(zero_collective_add(e, 0, ZERO_AXIS_TENSOR, (zero_collective_kind_t)3, 8, ZERO_FP32), "3");
    REFUSES(zero_collective_add(e, 0, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, 0, ZERO_FP32), "0");
    REFUSES(zero_collective_add(e, 0, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, 8, (zero_dtype_t)7), "7");
    ck_assert_int_eq(zero_collective_add(e, 0, ZERO_AXIS_SHARD, ZERO_COLLECTIVE_SUM, 8, ZERO_FP32),
                     ZERO_ERR_UNSUPPORTED);
    ck_assert_int_eq(zero_collective_add(e, 1, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, 8, ZERO_FP32), ZERO_ERR_ORDER);
    REFUSES(zero_param_local(e, 0, NULL), "zero_param_local");
    REFUSES(zero_param_local(e, 1, shape), "1");
    OK(zero_param_local(e, 0, shape));
    ck_assert(shape[0] == 1000 && shape[1] == 1);
    REFUSES(zero_param_find(e, NULL, &param), "");
    REFUSES(zero_param_find(e, "w", NULL), "");
    REFUSES(zero_param_find(e, "x", &param), "'x'");
    OK(zero_commit(e));
    api_free(&a);
}

/* zero_commit refuses sizes that only together exceed 64 bits. */
static void overflows(void)
{
    for (int way = 0; way < 3; way++) {
        api_engine_t a = api_make(2, NULL, NULL);
        zero_engine_t *e = a.engine;
        zero_reserve_t reserve;
        zero_param_t param;
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = "large";
        desc.ndim = 1;
        desc.shape[0] = INT64_MAX >> way;
        for (int i = 0; i < 3 && way == 0; i++)
            OK(zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, INT64_MAX, &reserve));
        if (way > 0)
            OK(zero_param_add(e, 0, &desc, &param));
        zero_status_t status = zero_commit(e);
        ck_assert_msg(status == ZERO_ERR_MEMORY || status == ZERO_ERR_ARG, "%s", zero_status_name(status));
        ck_assert_msg(strlen(zero_last_error(e)) > 20, "'%s'", zero_last_error(e));
        ck_assert_int_eq(zero_commit(e), status); /* the failure is permanent */
        api_free(&a);
    }
}

static void contents(void)
{
    api_engine_t a = api_make(0, NULL, NULL);
    zero_engine_t *e = a.engine;
    zero_memory_t memory = {.size = sizeof memory - 1};
    zero_stats_t stats = {.size = 8};
    double values[65];
    OK(zero_commit(e));
    REFUSES(zero_param_fill(e, 0, NULL, NULL), "");
    REFUSES(zero_param_fill(e, 1, NULL, NULL), "`parameter 1`");
    REFUSES(zero_param_read(e, 0, ZERO_STATE_PARAM, NULL, NULL), "");
    REFUSES(zero_param_get(e, 1, ZERO_STATE_PARAM, ZERO_FP32, NULL), "`parameter 1`");
    OK(zero_param_get(e, 0, ZERO_STATE_PARAM, ZERO_FP32, NULL));
    REFUSES(zero_param_set(e, 0, ZERO_STATE_PARAM, ZERO_FP32, NULL), "");
    REFUSES(zero_micro_begin(e, 2, 0), "`pass 2`");
    REFUSES(zero_acquire(e, 1), "`unit 1`");
    REFUSES(zero_release(e, -1), "`unit -1`");
    REFUSES(zero_collective(e, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, NULL, values, 8, ZERO_FP32), "send");
    REFUSES(zero_collective(e, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, values, NULL, 8, ZERO_FP32), "receive");
    REFUSES(zero_collective(e, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, values, (char *)values + 4, 8, ZERO_FP32), "");
    REFUSES(zero_collective(e, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, values, values, -8, ZERO_FP32), "-8");
    REFUSES(zero_step_stats(e, NULL), "zero_stats_t NULL");
    REFUSES(zero_step_stats(e, &stats), "8");
    REFUSES(zero_sum(e, NULL, 1), "NULL");
    REFUSES(zero_sum(e, values, 65), "65");
    REFUSES(zero_sum(e, values, -1), "-1");
    OK(zero_sum(e, NULL, 0));
    REFUSES(zero_set_step(e, -1, 0), "-1");
    REFUSES(zero_step_weight(e, -1), "-1");
    REFUSES(zero_step_weight(e, NAN), "nan");
    REFUSES(zero_step_weight(e, 1e300), "1e+300");
    REFUSES(zero_loss_scale(e, NULL), "zero_loss_scale");
    REFUSES(zero_trace_begin(e, 0), "0");
    OK(zero_trace_begin(e, 1));
    OK(zero_trace_read(e, NULL, NULL, NULL));
    OK(zero_trace_end(e, NULL, NULL, NULL));
    REFUSES(zero_forecast(e, NULL), "zero_memory_t NULL");
    REFUSES(zero_forecast(e, &memory), "");
    REFUSES(zero_measure(e, NULL), "zero_memory_t NULL");
    REFUSES(zero_forecast_traffic(e, 1, NULL), "");
    REFUSES(zero_forecast_traffic(e, 0, &(zero_traffic_t){0}), "0");
    REFUSES(zero_forecast_at(e, 0, NULL), "zero_memory_t NULL");
    REFUSES(zero_forecast_at(e, 1, &(zero_memory_t){.size = sizeof memory}), "1");
    REFUSES(zero_forecast_traffic_at(e, 0, 1, NULL), "");
    REFUSES(zero_forecast_traffic_at(e, -1, 1, &(zero_traffic_t){0}), "-1");
    REFUSES(zero_explain(e, NULL, NULL), "");
    REFUSES(zero_tasks_begin(e, 2), "`pass 2`");
    REFUSES(zero_task_next(e, NULL), "zero_task_t NULL");
    REFUSES(zero_task_next(e, &(zero_task_t){.size = 8}), "8");
    OK(zero_micro_begin(e, 0, ZERO_LAST));
    OK(zero_micro_end(e));
    REFUSES(zero_step(e, NAN), "");
    OK(zero_step(e, 0));
    OK(zero_wait(e));
    api_free(&a);
}

static void with_saves(zero_config_t *config, void *ctx)
{
    config->saves = true;
    (void)ctx;
}

static void saves(void)
{
    api_engine_t a = api_make(0, with_saves, NULL);
    zero_engine_t *e = a.engine;
    zero_save_options_t options;
    zero_saved_t saved = {.size = sizeof saved}, unset = {.size = 8};
    zero_save_options_init(&options);
    OK(zero_commit(e));
    REFUSES(zero_load(e, NULL), "zero_load");
    REFUSES(zero_save_open(e, NULL), "zero_save_options_t NULL");
    REFUSES(zero_save_open(e, &options), "zero_save_open");
    options.folder = "no such folder/api";
    ck_assert_int_eq(zero_save_open(e, &options), ZERO_ERR_IO);
    options.folder = "api-saves";
    options.about = "[1]";
    options.keep = -1;
    REFUSES(zero_save_open(e, &options), "-1");
    options.keep = 1;
    REFUSES(zero_save_open(e, &options), "");
    options.about = NULL;
    OK(zero_save_open(e, &options));
    ck_assert_int_eq(zero_save_open(e, &options), ZERO_ERR_ORDER);
    REFUSES(zero_save(e, NULL, 1), "1");
    REFUSES(zero_save(e, e, (size_t)1 << 30), "");
    REFUSES(zero_save_end(e, true, NULL), "zero_saved_t NULL");
    REFUSES(zero_save_end(e, true, &unset), "8");
    OK(zero_save(e, NULL, 0));
    OK(zero_save_end(e, true, &saved));
    ck_assert(saved.done && saved.step == 0 && strcmp(saved.path, "api-saves/step-0") == 0);
    ck_assert_int_eq(zero_save(e, NULL, 0), ZERO_ERR_IO); /* a checkpoint of this step is there */
    OK(zero_save_end(e, true, &saved));
    ck_assert(saved.done && saved.step == -1);
    api_free(&a);
    ck_assert_int_eq(system("rm -r api-saves"), 0);
}

/* The functions of a group, by name. */
static const struct group {
    void (*test)(void);
    const char *names;
} groups[] = {
    {names, "zero_status_name zero_version zero_dtype_name zero_dtype_size zero_tier_name zero_kind_name "
            "zero_schedule_name"},
    {maps, "zero_map_even zero_map_check"},
    {inits, "zero_comm_options_init_size zero_device_options_init_size zero_config_init_size zero_param_desc_init_size "
            "zero_save_options_init_size zero_config_stage"},
    {comms, "zero_comm_self zero_comm_shm zero_comm_torchrun zero_comm_mpi zero_comm_split zero_comm_rank "
            "zero_comm_size zero_comm_name zero_comm_has_data zero_comm_exchange zero_comm_agree "
            "zero_comm_abort zero_comm_destroy zero_comm_staged zero_comm_nccl"},
    {devices,
     "zero_device_cpu zero_device_cuda zero_cuda_devices zero_device_name zero_device_label zero_device_destroy"},
    {tensors, "zero_tensors_open zero_tensors_count zero_tensors_at zero_tensors_find zero_tensors_read "
              "zero_tensors_metadata zero_tensors_close"},
    {writers, "zero_tensors_create zero_tensors_write zero_tensors_finish zero_tensors_discard"},
    {checkpoints, "zero_checkpoint_open zero_checkpoint_info zero_checkpoint_close"},
    {saves, "zero_load zero_save_open zero_save zero_save_end"},
    {creation, "zero_create zero_destroy zero_last_error zero_last_failure"},
    {answers, "zero_param_count zero_param_name zero_param_elements zero_param_data zero_param_grad zero_reserved "
              "zero_stream zero_plan_hash zero_signal zero_abort zero_pipe_size zero_pipe_index zero_data_size "
              "zero_data_index zero_axis_size zero_axis_index"},
    {declarations, "zero_unit_add zero_param_add zero_pass_add zero_use_add zero_reserve zero_param_find zero_chunks "
                   "zero_chunk_link zero_chunk_reserve zero_task_add zero_collective_add zero_param_local"},
    {overflows, "zero_commit"},
    {contents, "zero_param_fill zero_param_read zero_param_get zero_param_set zero_micro_begin zero_micro_end "
               "zero_acquire zero_release zero_step zero_wait "
               "zero_step_stats zero_sum zero_set_step zero_step_weight zero_loss_scale zero_trace_begin "
               "zero_trace_read zero_trace_end zero_forecast "
               "zero_measure zero_forecast_traffic zero_forecast_at zero_forecast_traffic_at zero_explain "
               "zero_tasks_begin zero_task_next zero_collective"},
};
enum { GROUPS = sizeof groups / sizeof *groups };

START_TEST(wrong_arguments_are_refused)
{
    groups[_i].test();
}
END_TEST

/* Whether word is in a list of words. */
static bool lists(const char *words, const char *word, size_t length)
{
    for (const char *at = words; (at = strstr(at, word)) != NULL; at++)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

/* The groups contain every function that the header declares. api_calls contains those that take an engine and return a
 * status. */
START_TEST(every_function_is_there)
{
    const char *srcdir = getenv("srcdir");
    char path[4096], name[100];
    int declared = 0, calls = 0, listed = 0;
    snprintf(path, sizeof path, "%s/zero/zero.h", srcdir ? srcdir : ".");
    FILE *f = fopen(path, "r");
    ck_assert_msg(f != NULL, "no %s: run in the build folder with srcdir set", path);
    static char text[1 << 18];
    size_t length = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    ck_assert(length > 1000 && length < sizeof text - 1);
    for (const char *at = text; (at = strstr(at, "\nZERO_API ")) != NULL; at++) {
        const char *open = strchr(at, '('), *begin = open;
        while (isalnum((unsigned char)begin[-1]) || begin[-1] == '_')
            begin--;
        snprintf(name, sizeof name, "%.*s", (int)(open - begin), begin);
        declared++;
        bool found = false;
        for (int g = 0; g < GROUPS; g++)
            found |= lists(groups[g].names, name, strlen(name));
        ck_assert_msg(found, "%s is in zero.h, and in no group of this test", name);
        bool wanted = strncmp(at + 10, "zero_status_t", 13) == 0 && strncmp(open, "(zero_engine_t *engine", 22) == 0;
        for (int c = 0; c < API_CALLS; c++)
            if (strcmp(api_calls[c].name, name) == 0) {
                ck_assert_msg(wanted, "%s is no call on an engine", name);
                calls++, wanted = false;
            }
        ck_assert_msg(!wanted, "%s is in zero.h, and not among api_calls", name);
    }
    for (int g = 0; g < GROUPS; g++)
        for (const char *at = groups[g].names; at; at = strchr(at + 1, ' '))
            listed++;
    ck_assert_int_eq(declared, listed);
    ck_assert_int_eq(calls, API_CALLS);
}
END_TEST

/* ---- at the wrong time ------------------------------------------------------------------------------------------ */

/* Checks that a call on the engine returned the wanted status and explained it. */
static void expect(const api_call_t *c, zero_engine_t *e, zero_status_t wanted, const char *part)
{
    zero_status_t status = c->call(e);
    ck_assert_msg(status == wanted, "%s: %s, not %s", c->name, zero_status_name(status), zero_status_name(wanted));
    if (wanted != ZERO_OK)
        ck_assert_msg(has_names(zero_last_error(e), part), "%s says '%s' without '%s'", c->name, zero_last_error(e),
                      part);
}

START_TEST(calls_have_their_time)
{
    for (int i = 0; i < API_CALLS; i++)
        expect(&api_calls[i], NULL, ZERO_ERR_ARG, "NULL");
    for (int planned = 0; planned < 2; planned++) {
        api_engine_t a = api_make(planned, NULL, NULL);
        for (int i = 0; i < API_CALLS; i++)
            expect(&api_calls[i], a.engine, api_calls[i].before,
                   api_calls[i].before == ZERO_ERR_ORDER ? "zero_commit" : "");
        for (int i = 0; i < API_CALLS; i++) {
            bool declares = api_calls[i].before != ZERO_ERR_ORDER;
            expect(&api_calls[i], a.engine, planned ? api_calls[i].planned : api_calls[i].after,
                   strcmp(api_calls[i].name, "zero_commit") == 0 ? ""
                   : declares                                    ? "zero_commit"
                                                                 : "");
        }
        zero_abort(a.engine, planned ? NULL : "the loss is not a number");
        for (int i = 0; i < API_CALLS; i++)
            expect(&api_calls[i], a.engine, ZERO_ERR_PEER,
                   planned ? "`rank 0`" : "`the loss is not a number` `rank 0`");
        zero_abort(a.engine, "something else"); /* the first failure stays */
        expect(&api_calls[0], a.engine, ZERO_ERR_PEER, planned ? "" : "");
        api_free(&a);
    }
}
END_TEST

/* After all these calls, the engine works as before, and the last call has its sentence. */
START_TEST(misuse_changes_nothing)
{
    api_engine_t a = api_make(0, NULL, NULL);
    zero_engine_t *e = a.engine;
    OK(zero_commit(e));
    for (int i = 0; i < API_CALLS; i++) {
        zero_status_t status = api_calls[i].call(e);
        ck_assert_int_eq(status, api_calls[i].after);
        REFUSES(zero_param_fill(e, 5, NULL, NULL), "`parameter 5`"); /* at any time between other calls */
        REFUSES(zero_acquire(e, 9), "`unit 9`");
    }
    zero_stats_t stats = {.size = sizeof stats};
    OK(zero_step_stats(e, &stats));
    ck_assert_int_eq(stats.step, 4); /* 3 from zero_set_step, and one step */
    api_free(&a);
}
END_TEST

/* If the trainer skips a unit in the backward pass, its gradient is zero. */
START_TEST(forgotten_units_have_no_gradient)
{
    api_engine_t a = api_make(0, NULL, NULL);
    zero_engine_t *e = a.engine;
    zero_stats_t stats = {.size = sizeof stats};
    float values[1000];
    OK(zero_commit(e));
    for (int step = 0; step < 2; step++) {
        OK(zero_micro_begin(e, 0, ZERO_LAST));
        if (step == 0) {
            OK(zero_acquire(e, 0));
            ((float *)zero_param_grad(e, 0))[7] += 3;
            OK(zero_release(e, 0));
        }
        OK(zero_micro_end(e));
        OK(zero_param_get(e, 0, ZERO_STATE_GRAD, ZERO_FP32, values));
        ck_assert(values[7] == (step == 0 ? 3 : 0) && values[8] == 0);
        OK(zero_step(e, 0.1));
        OK(zero_step_stats(e, &stats));
        ck_assert(stats.grad_norm == (step == 0 ? 3 : 0) && stats.applied);
    }
    api_free(&a);
}
END_TEST

TCase *api_misuse_case(void)
{
    TCase *t = tcase_create("misuse");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, wrong_arguments_are_refused, 0, GROUPS);
    tcase_add_test(t, every_function_is_there);
    tcase_add_test(t, calls_have_their_time);
    tcase_add_test(t, misuse_changes_nothing);
    tcase_add_test(t, forgotten_units_have_no_gradient);
    return t;
}
