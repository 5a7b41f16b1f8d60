/* SPDX-License-Identifier: Apache-2.0 */
/* test_tensor.c - tensor parallelism: a parameter that is split, one whose gradients are parts of a sum, and one that
 * is the same at each place train to the bits of one place, at every stage, on every tier; each counts once in the
 * norm; collectives of activations are exact, counted, and refused where others were declared. */
#include "tests/engine_small.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARAMS = 6, UNITS = 2, STEPS = 3, MICROS = 2, RANKS = 8, ELEMENTS = 1000 };

typedef struct spread {
    const char *name;
    int unit, ndim;
    int64_t shape[2];
    int split_dim, split_blocks;
    bool partial, trainable;
} spread_t;

static const spread_t params[PARAMS] = {
    {"column", 0, 2, {6, 16}, 1, 2, false, true},   {"summed", 0, 1, {130, 1}, -1, 1, true, true},
    {"same", 0, 1, {70, 1}, -1, 1, false, true},    {"row", 1, 2, {8, 5}, 0, 1, false, true},
    {"table", 1, 2, {7, 40}, 0, 1, false, true}, /* 2 and 4 do not divide its rows */
    {"frozen", 1, 1, {33, 1}, -1, 1, false, false},
};

typedef struct mesh {
    int world, replicas, context, tensor, stage, threaded;
    zero_reduce_t reduce;
    zero_dtype_t dtype;
    small_place_t place;
} mesh_t;

typedef struct toy {
    mesh_t c;
    int rank, place, data; /* place in tensor parallelism; place among different parts of data */
    zero_device_t *device;
    zero_engine_t *engine;
    zero_unit_t unit[UNITS];
    zero_param_t param[PARAMS];
    zero_pass_t train, any;
} toy_t;

/* What the ranks leave: the elements that each has, NAN for others. */
typedef struct record {
    float values[RANKS][ELEMENTS];
    double norm[RANKS];
} record_t;
static record_t *records; /* shared with the ranks: of one place, and of a mesh */

static int complain(const toy_t *t, const char *format, ...) ZERO_PRINTF(2, 3);
static int complain(const toy_t *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "rank %d: ", t->rank);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return -1;
}

#define TRY(call)                                                            \
    do {                                                                     \
        if ((call) != ZERO_OK)                                               \
            return complain(t, "%s: %s", #call, zero_last_error(t->engine)); \
    } while (0)
#define IS(condition)                                                    \
    do {                                                                 \
        if (!(condition))                                                \
            return complain(t, "line %d: not %s", __LINE__, #condition); \
    } while (0)
#define FAILS(call, status, names)                                                   \
    do {                                                                             \
        if ((call) != (status) || !has_names(zero_last_error(t->engine), names))     \
            return complain(t, "line %d: %s", __LINE__, zero_last_error(t->engine)); \
    } while (0)

/* ---- the numbers ------------------------------------------------------------------------------------------------ */

static int64_t count_of(int p)
{
    return params[p].shape[0] * (params[p].ndim > 1 ? params[p].shape[1] : 1);
}

static int64_t first_of(int p)
{
    int64_t first = 0;
    for (int i = 0; i < p; i++)
        first += count_of(i);
    return first;
}

/* Element i of this rank's part of a parameter, in the whole parameter; -1: it is padding. */
static int64_t whole_index(const toy_t *t, int p, int64_t i)
{
    const spread_t *s = &params[p];
    const int64_t T = t->c.tensor, n = s->split_dim >= 0 ? s->shape[s->split_dim] : 0, inner = s->shape[1],
                  block = n / s->split_blocks, part = (block + T - 1) / T;
    if (s->split_dim < 0)
        return i;
    if (s->split_dim == 0) {
        const int64_t row = t->place * part + i / inner;
        return row < n ? row * inner + i % inner : -1;
    }
    const int64_t columns = part * s->split_blocks, row = i / columns, column = i % columns;
    return row * n + column / part * block + t->place * part + column % part;
}

static int64_t local_count(const toy_t *t, int p)
{
    int64_t shape[ZERO_MAX_DIMS], count = 1;
    if (zero_param_local(t->engine, t->param[p], shape) != ZERO_OK)
        return -1;
    for (int d = 0; d < params[p].ndim; d++)
        count *= shape[d];
    return count;
}

/* A small multiple of 1/64, so that sums are exact. */
static float gradient(int p, int64_t element, int data, int step, int micro)
{
    uint64_t key = (uint64_t)element * 64 + (uint64_t)(data * 16 + step * 4 + micro * 2) + (uint64_t)p * 100000;
    return (float)((int)(zero_splitmix64(key) % 17) - 8) / 64;
}

static float gradient_here(const toy_t *t, int p, int64_t element, int step, int micro)
{
    const float all = gradient(p, element, t->data, step, micro), other = 0.125f * (float)(element % 3);
    if (!params[p].partial)
        return all;
    return t->place == 0 ? all - (float)(t->c.tensor - 1) * other : other;
}

/* Of a step with data of so many ranks. */
static double norm_of(int step, int data_ranks)
{
    double sum = 0;
    for (int p = 0; p < PARAMS; p++)
        for (int64_t i = 0; i < count_of(p) && params[p].trainable; i++) {
            double g = 0;
            for (int d = 0; d < data_ranks; d++)
                for (int micro = 0; micro < MICROS; micro++)
                    g += (double)gradient(p, i, d, step, micro);
            sum += g * g;
        }
    return sqrt(sum);
}

/* ---- declaration ------------------------------------------------------------------------------------------------ */

static zero_status_t declare_collective(toy_t *t, zero_collective_kind_t kind, int64_t count, zero_dtype_t dtype)
{
    return zero_collective_add(t->engine, t->train, ZERO_AXIS_TENSOR, kind, count, dtype);
}

static int declare(toy_t *t)
{
    TRY(zero_unit_add(t->engine, "a", &t->unit[0]));
    TRY(zero_unit_add(t->engine, "b", &t->unit[1]));
    for (int p = 0; p < PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = params[p].name;
        desc.ndim = params[p].ndim;
        memcpy(desc.shape, params[p].shape, sizeof params[p].shape);
        desc.dtype = t->c.dtype;
        desc.trainable = params[p].trainable;
        desc.split_dim = params[p].split_dim;
        desc.split_blocks = params[p].split_blocks;
        desc.partial = params[p].partial;
        TRY(zero_param_add(t->engine, t->unit[params[p].unit], &desc, &t->param[p]));
    }
    TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->train));
    TRY(zero_pass_add(t->engine, "any", ZERO_PASS_ANY_ORDER, &t->any));
    FAILS(declare_collective(t, ZERO_COLLECTIVE_GATHER, 3, ZERO_FP32), ZERO_ERR_ORDER, "'train' zero_use_add");
    TRY(zero_use_add(t->engine, t->train, t->unit[0], ZERO_READ));
    TRY(declare_collective(t, ZERO_COLLECTIVE_GATHER, 3, ZERO_FP32));
    TRY(declare_collective(t, ZERO_COLLECTIVE_SUM, 4, ZERO_FP32));
    TRY(zero_use_add(t->engine, t->train, t->unit[1], ZERO_READ | ZERO_GRAD));
    TRY(declare_collective(t, ZERO_COLLECTIVE_REDUCE_SCATTER, 5, ZERO_BF16));
    TRY(zero_collective_add(t->engine, t->train, ZERO_AXIS_CONTEXT, ZERO_COLLECTIVE_GATHER, 2, ZERO_FP32));
    TRY(zero_use_add(t->engine, t->train, t->unit[0], ZERO_GRAD));
    return 0;
}

static int create(toy_t *t, const mesh_t *c, zero_comm_t *comm)
{
    zero_device_options_t device;
    zero_config_t config;
    zero_error_t error = {0};
    *t = (toy_t){.c = *c, .rank = zero_comm_rank(comm)};
    zero_device_options_init(&device);
    device.threaded = c->threaded > 0;
    device.delay_seed = c->threaded > 1 ? (uint64_t)(1 + t->rank) : 0;
    IS(zero_device_cpu(&t->device, &device, &error) == ZERO_OK);
    zero_config_init(&config);
    config.comm = comm;
    config.device = t->device;
    IS(zero_config_stage(&config, c->stage) == ZERO_OK);
    config.mesh.tensor = c->tensor;
    config.mesh.context = c->context;
    config.mesh.replicas = c->replicas;
    config.reduce = c->reduce;
    config.micro_steps = MICROS;
    config.clip = 0;
    config.eps = 1e-3;
    config.persist_bytes = 0;
    config.timeout_s = 60;
    if (c->place != SMALL_DEVICE)
        config.optimizer.tier = config.gradients.tier = ZERO_TIER_HOST;
    if (c->place == SMALL_HOST_ALL)
        config.parameters.tier = ZERO_TIER_HOST;
    if (zero_create(&t->engine, &config, &error) != ZERO_OK)
        return complain(t, "%s", error.text);
    t->place = zero_axis_index(t->engine, ZERO_AXIS_TENSOR);
    const int part = zero_axis_index(t->engine, ZERO_AXIS_CONTEXT);
    t->data = zero_data_index(t->engine) * c->context + part;
    IS(zero_axis_size(t->engine, ZERO_AXIS_TENSOR) == c->tensor && t->place == t->rank % c->tensor);
    IS(zero_axis_size(t->engine, ZERO_AXIS_CONTEXT) == c->context && part == t->rank / c->tensor % c->context);
    IS(zero_data_size(t->engine) == c->world / c->tensor / c->context && t->data == t->rank / c->tensor);
    if (declare(t))
        return -1;
    TRY(zero_commit(t->engine));
    return 0;
}

static void destroy(toy_t *t)
{
    zero_destroy(t->engine);
    zero_device_destroy(t->device);
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static uint16_t as_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Gathers each place's numbers, then sums others in place. */
static int exchange_first(toy_t *t)
{
    float own[3] = {(float)t->place, 2, (float)t->rank}, all[12], sums[4];
    TRY(zero_collective(t->engine, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_GATHER, own, all, 3, ZERO_FP32));
    for (int i = 0; i < t->c.tensor; i++)
        IS(all[3 * i] == (float)i && all[3 * i + 1] == 2 && all[3 * i + 2] == (float)(t->rank - t->place + i));
    for (int i = 0; i < 4; i++)
        sums[i] = (float)(i + t->place);
    TRY(zero_collective(t->engine, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_SUM, sums, sums, 4, ZERO_FP32));
    for (int i = 0; i < 4; i++)
        IS(sums[i] == (float)(t->c.tensor * i + t->c.tensor * (t->c.tensor - 1) / 2));
    return 0;
}

static int exchange_second(toy_t *t)
{
    uint16_t all[20], own[5];
    for (int i = 0; i < 5 * t->c.tensor; i++)
        all[i] = as_bf16((float)(i + t->place));
    TRY(zero_collective(t->engine, ZERO_AXIS_TENSOR, ZERO_COLLECTIVE_REDUCE_SCATTER, all, own, 5, ZERO_BF16));
    for (int i = 0; i < 5; i++) {
        const int at = 5 * t->place + i, T = t->c.tensor;
        IS(own[i] == as_bf16((float)(T * at + T * (T - 1) / 2)));
    }
    const float mine[2] = {(float)t->data, 1};
    float parts[8];
    TRY(zero_collective(t->engine, ZERO_AXIS_CONTEXT, ZERO_COLLECTIVE_GATHER, mine, parts, 2, ZERO_FP32));
    for (int i = 0; i < t->c.context; i++)
        IS(parts[2 * i] == (float)(t->data / t->c.context * t->c.context + i) && parts[2 * i + 1] == 1);
    return 0;
}

static void add(void *out, zero_dtype_t dtype, int64_t i, float more)
{
    if (dtype == ZERO_FP32)
        ((float *)out)[i] += more;
    else {
        uint32_t bits = (uint32_t)((uint16_t *)out)[i] << 16;
        float sum;
        memcpy(&sum, &bits, sizeof sum);
        ((uint16_t *)out)[i] = as_bf16(sum + more);
    }
}

static int add_gradients(toy_t *t, int unit, int step, int micro)
{
    for (int p = 0; p < PARAMS; p++) {
        if (params[p].unit != unit || !params[p].trainable)
            continue;
        void *grad = zero_param_grad(t->engine, t->param[p]);
        const int64_t count = local_count(t, p);
        IS(grad && count > 0);
        for (int64_t i = 0; i < count; i++) {
            const int64_t at = whole_index(t, p, i);
            if (at >= 0)
                add(grad, t->c.dtype, i, gradient_here(t, p, at, step, micro));
        }
    }
    return 0;
}

static int train_step(toy_t *t, int step)
{
    for (int micro = 0; micro < MICROS; micro++) {
        TRY(zero_micro_begin(t->engine, t->train, micro + 1 == MICROS ? ZERO_LAST : 0));
        TRY(zero_acquire(t->engine, t->unit[0]));
        if (exchange_first(t))
            return -1;
        TRY(zero_release(t->engine, t->unit[0]));
        TRY(zero_acquire(t->engine, t->unit[1]));
        if (add_gradients(t, 1, step, micro) || exchange_second(t))
            return -1;
        TRY(zero_release(t->engine, t->unit[1]));
        TRY(zero_acquire(t->engine, t->unit[0]));
        if (add_gradients(t, 0, step, micro))
            return -1;
        TRY(zero_release(t->engine, t->unit[0]));
        TRY(zero_micro_end(t->engine));
    }
    TRY(zero_step(t->engine, 0.01));
    return 0;
}

/* Leaves this rank's part of all parameters, and checks its padding. */
static int leave(toy_t *t, record_t *record)
{
    float *values = record->values[t->rank];
    TRY(zero_micro_begin(t->engine, t->any, 0));
    for (int u = 0; u < UNITS; u++) {
        TRY(zero_acquire(t->engine, t->unit[u]));
        for (int p = 0; p < PARAMS; p++) {
            const void *data = zero_param_data(t->engine, t->param[p]);
            for (int64_t i = 0; i < local_count(t, p) && params[p].unit == u; i++) {
                const int64_t at = whole_index(t, p, i);
                uint32_t bits = t->c.dtype == ZERO_FP32 ? 0 : (uint32_t)((const uint16_t *)data)[i] << 16;
                float value = t->c.dtype == ZERO_FP32 ? ((const float *)data)[i] : 0;
                if (t->c.dtype != ZERO_FP32)
                    memcpy(&value, &bits, sizeof value);
                IS(at >= 0 || value == 0);
                if (at >= 0)
                    values[first_of(p) + at] = value;
            }
        }
        TRY(zero_release(t->engine, t->unit[u]));
    }
    TRY(zero_micro_end(t->engine));
    return 0;
}

static int train(toy_t *t, record_t *record)
{
    zero_stats_t stats = {.size = sizeof stats};
    zero_traffic_t traffic;
    for (int i = 0; i < ELEMENTS; i++)
        record->values[t->rank][i] = NAN;
    for (int step = 0; step < STEPS; step++) {
        if (train_step(t, step))
            return -1;
        TRY(zero_step_stats(t->engine, &stats));
        const double wanted = norm_of(step, t->c.world / t->c.tensor);
        if (!(fabs(stats.grad_norm - wanted) <= 1e-6 * wanted))
            return complain(t, "the norm is %.9g, not %.9g", stats.grad_norm, wanted);
    }
    TRY(zero_forecast_traffic(t->engine, MICROS, &traffic));
    const uint64_t T = (uint64_t)t->c.tensor, C = (uint64_t)t->c.context;
    IS(traffic.collected == MICROS * ((T - 1) * (3 * 4 + 2 * (4 / T) * 4 + 5 * 2) + (C - 1) * 2 * 4));
    IS(stats.traffic.collected == STEPS * traffic.collected);
    IS(stats.traffic.reduced == STEPS * traffic.reduced);
    return leave(t, record);
}

typedef struct job {
    mesh_t mesh;
    record_t *record;
    int (*body)(toy_t *t);
} job_t;

static int run_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const job_t *job = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    toy_t t = {0};
    (void)rank, (void)world;
    int result = !comm || create(&t, &job->mesh, comm) || (job->body ? job->body(&t) : train(&t, job->record));
    destroy(&t);
    zero_comm_destroy(comm);
    return result;
}

static void run(mesh_t mesh, record_t *record, int (*body)(toy_t *t))
{
    job_t job = {mesh, record, body};
    ck_assert_int_eq(ranks_run(mesh.world, 120, run_rank, &job), 0);
}

/* ---- the same bits ---------------------------------------------------------------------------------------------- */

static const struct {
    int data, replicas, context, tensor; /* data: ranks with the same place */
} meshes[] = {{1, 1, 1, 2}, {1, 1, 1, 4}, {2, 1, 1, 2}, {2, 2, 1, 2},
              {2, 2, 1, 4}, {4, 2, 1, 2}, {4, 1, 2, 2}, {4, 2, 2, 1}};
enum { MESHES = sizeof meshes / sizeof *meshes };

/* All ranks that have an element have the wanted bits. */
static void compare(const record_t *wanted, const record_t *found, const mesh_t *mesh)
{
    const int64_t all = first_of(PARAMS - 1) + count_of(PARAMS - 1);
    for (int64_t i = 0; i < all; i++) {
        int have = 0;
        for (int r = 0; r < mesh->world; r++) {
            const float value = found->values[r][i];
            have += !isnan(value);
            ck_assert_msg(isnan(value) || memcmp(&value, &wanted->values[0][i], sizeof value) == 0,
                          "element %d is %.9g on rank %d of %d, tensor %d, context %d, replicas %d, stage %d, not %.9g",
                          (int)i, (double)value, r, mesh->world, mesh->tensor, mesh->context, mesh->replicas,
                          mesh->stage, (double)wanted->values[0][i]);
        }
        ck_assert_int_gt(have, 0);
    }
}

START_TEST(bits_of_one_place)
{
    records = ranks_shared(2 * sizeof *records);
    const int data = meshes[_i].data;
    for (int k = 0; k < 16; k++) {
        mesh_t mesh = {.world = data * meshes[_i].tensor,
                       .replicas = meshes[_i].replicas,
                       .context = meshes[_i].context,
                       .tensor = meshes[_i].tensor,
                       .stage = k % 4,
                       .threaded = (k / 4 + _i) % 3,
                       .reduce = (k / 4 + k) % 2 ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY,
                       .dtype = (k / 8 + k) % 2 ? ZERO_BF16 : ZERO_FP32,
                       .place = k / 4 == 1   ? SMALL_HOST
                                : k / 4 == 2 ? SMALL_HOST_ALL
                                             : SMALL_DEVICE};
        mesh_t one = {
            .world = data, .replicas = 1, .context = 1, .tensor = 1, .reduce = mesh.reduce, .dtype = mesh.dtype};
        run(one, &records[0], NULL);
        run(mesh, &records[1], NULL);
        compare(&records[0], &records[1], &mesh);
    }
    ranks_unshare(records, 2 * sizeof *records);
}
END_TEST

/* ---- misuse ----------------------------------------------------------------------------------------------------- */

static zero_status_t call(toy_t *t, zero_collective_kind_t kind, int64_t count, void *send, void *recv)
{
    return zero_collective(t->engine, ZERO_AXIS_TENSOR, kind, send, recv, count, ZERO_FP32);
}

static int misuse(toy_t *t)
{
    float small[8] = {0}, large[16] = {0};
    zero_engine_t *e = t->engine;
    const int T = t->c.tensor;
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 3, small, large), ZERO_ERR_ORDER, "gather 3 fp32");
    TRY(zero_micro_begin(e, t->train, ZERO_LAST));
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 3, small, large), ZERO_ERR_ORDER, "gather 3 fp32");
    TRY(zero_acquire(e, t->unit[0]));
    FAILS(call(t, ZERO_COLLECTIVE_SUM, 4, small, small), ZERO_ERR_ORDER, "sum 4 gather 3 'a' 'train'");
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 2, small, large), ZERO_ERR_ORDER, "gather 2 gather 3 'a'");
    FAILS(zero_release(e, t->unit[0]), ZERO_ERR_ORDER, "'a' released gather 3 zero_collective");
    FAILS(zero_acquire(e, t->unit[1]), ZERO_ERR_ORDER, "'b' acquired gather 3 'a'");
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 3, NULL, large), ZERO_ERR_ARG, "send");
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 3, large + 1, large), ZERO_ERR_ARG, "overlap");
    FAILS(call(t, ZERO_COLLECTIVE_GATHER, 0, small, large), ZERO_ERR_ARG, "0 `1 element`");
    FAILS(zero_collective(e, ZERO_AXIS_SHARD, ZERO_COLLECTIVE_GATHER, small, large, 3, ZERO_FP32), ZERO_ERR_UNSUPPORTED,
          "`axis 2` ZERO_AXIS_TENSOR ZERO_AXIS_CONTEXT");
    FAILS(call(t, ZERO_COLLECTIVE_SUM, 3, small, small), ZERO_ERR_ARG, "3 multiple");
    large[3 * t->place] = (float)(t->place + 1); /* in place */
    TRY(call(t, ZERO_COLLECTIVE_GATHER, 3, large + 3 * t->place, large));
    for (int i = 0; i < T; i++)
        IS(large[3 * i] == (float)(i + 1));
    TRY(call(t, ZERO_COLLECTIVE_SUM, 4, small, large));
    FAILS(call(t, ZERO_COLLECTIVE_SUM, 4, small, small), ZERO_ERR_ORDER, "sum 'train' zero_collective_add");
    TRY(zero_release(e, t->unit[0]));
    TRY(zero_micro_end(e)); /* skips the other uses, and their collectives, on every rank */
    TRY(zero_step(e, 0.01));
    return train_step(t, 0);
}

START_TEST(wrong_collectives)
{
    run((mesh_t){.world = 2, .replicas = 1, .context = 1, .tensor = 2, .stage = 3}, NULL, misuse);
}
END_TEST

/* With one place, collectives copy, and none is declared. */
static int alone(toy_t *t)
{
    float own[3] = {1, 2, 3}, all[3] = {0};
    TRY(zero_micro_begin(t->engine, t->train, ZERO_LAST));
    TRY(zero_acquire(t->engine, t->unit[0]));
    TRY(call(t, ZERO_COLLECTIVE_REDUCE_SCATTER, 3, own, all));
    IS(all[0] == 1 && all[1] == 2 && all[2] == 3);
    TRY(zero_release(t->engine, t->unit[0]));
    TRY(zero_micro_end(t->engine));
    TRY(zero_step(t->engine, 0.01));
    return 0;
}

START_TEST(one_place)
{
    run((mesh_t){.world = 1, .replicas = 1, .context = 1, .tensor = 1, .stage = 3}, NULL, alone);
}
END_TEST

/* Rank 1 leaves out a collective. Nobody waits forever. */
static int skips_one(toy_t *t)
{
    zero_status_t status = zero_micro_begin(t->engine, t->train, ZERO_LAST);
    if (status == ZERO_OK && t->rank == 0)
        status = zero_acquire(t->engine, t->unit[0]);
    if (status == ZERO_OK && t->rank == 0)
        exchange_first(t);
    if (status == ZERO_OK)
        status = t->rank == 0 ? zero_release(t->engine, t->unit[0]) : ZERO_OK;
    for (int u = 1; u >= 0 && status == ZERO_OK; u--) {
        status = zero_acquire(t->engine, t->unit[u]);
        if (status == ZERO_OK && u == 1)
            exchange_second(t);
        if (status == ZERO_OK)
            status = zero_release(t->engine, t->unit[u]);
    }
    if (status == ZERO_OK)
        status = zero_micro_end(t->engine);
    if (status == ZERO_OK)
        status = zero_step(t->engine, 0.01);
    zero_error_t why;
    IS(zero_last_failure(t->engine, &why) != ZERO_OK);
    return why.status == ZERO_ERR_MISMATCH || why.status == ZERO_ERR_PEER
               ? 0
               : complain(t, "%d: %s", (int)why.status, why.text);
}

START_TEST(ranks_that_differ)
{
    run((mesh_t){.world = 2, .replicas = 1, .context = 1, .tensor = 2, .stage = 1}, NULL, skips_one);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tensor");
    TCase *test = tcase_create("tensor");
    tcase_set_timeout(test, 600);
    tcase_add_loop_test(test, bits_of_one_place, 0, MESHES);
    tcase_add_test(test, wrong_collectives);
    tcase_add_test(test, one_place);
    tcase_add_test(test, ranks_that_differ);
    suite_add_tcase(suite, test);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
