/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_capture.c - the caller's kernels in CUDA graphs. They are captured once between acquire and release and launched
 * in every later micro-step, with the bits of the same training without graphs. The engine's own calls cannot be
 * captured and say so. Two ranks share one emulated GPU. */
#include "kernels/flat/flat.h"
#include "tests/expect.h"
#include "tests/cuda_case.h"
#include "tests/ranks.h"

#include <stdio.h>
#include <stdlib.h>

enum { RANKS = 2, CAPTURE_UNITS = 3, COUNT = 300, STEPS = 3, MICRO_STEPS = 2, WHOLE = CAPTURE_UNITS * COUNT };

typedef struct trainer {
    zero_device_t *device;
    zero_comm_t *comm;
    zero_engine_t *engine;
    zero_unit_t unit[CAPTURE_UNITS];
    zero_param_t param[CAPTURE_UNITS];
    zero_pass_t pass;
    zero_reserve_t target,
        words; /* COUNT fp32 per micro-step, which kernels add to gradients: on the GPU, and on the host */
    const zero_flat_ops_t *flat;
    cudaStream_t stream;
    cudaGraphExec_t graph[CAPTURE_UNITS]; /* NULL: not yet captured */
    float trained[WHOLE];
} trainer_t;

#define TRY(call)                                                          \
    do {                                                                   \
        zero_status_t s_ = (call);                                         \
        if (s_ != ZERO_OK) {                                               \
            fprintf(stderr, "%s: %s: %s\n", #call, zero_status_name(s_),   \
                    t->engine ? zero_last_error(t->engine) : error->text); \
            return -1;                                                     \
        }                                                                  \
    } while (0)
#define CUDA(call)                                                             \
    do {                                                                       \
        cudaError_t e_ = (call);                                               \
        if (e_ != cudaSuccess) {                                               \
            fprintf(stderr, "%s: %s\n", #call, RUNTIME(cudaGetErrorName)(e_)); \
            return -1;                                                         \
        }                                                                      \
    } while (0)

static int64_t count_of(int unit)
{
    return COUNT - 40 * unit;
}

static int initial(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx;
    for (int64_t i = 0; i < count; i++)
        out[i] = 0.001f * (float)(begin + i) - 0.1f * (float)param;
    return 0;
}

static int begin_training(trainer_t *t, zero_comm_t *comm, zero_error_t *error)
{
    zero_comm_t *inner;
    zero_config_t config;
    TRY(zero_device_cuda(&t->device, NULL, error));
    TRY(zero_comm_split(comm, 0, zero_comm_rank(comm), &inner, error));
    TRY(zero_comm_staged(&t->comm, inner, t->device, 0, error));
    TRY(zero_flat_of(t->device, &t->flat, error));
    zero_config_init(&config);
    config.comm = t->comm;
    config.device = t->device;
    config.window = 1; /* units share a slot, so a graph reads what the engine put there last */
    config.micro_steps = MICRO_STEPS;
    config.persist_bytes = 0;
    config.timeout_s = 60;
    TRY(zero_create(&t->engine, &config, error));
    TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->pass));
    for (int u = 0; u < CAPTURE_UNITS; u++) {
        char name[16];
        zero_param_desc_t desc;
        snprintf(name, sizeof name, "layer.%d", u);
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 1;
        desc.shape[0] = count_of(u);
        TRY(zero_unit_add(t->engine, name, &t->unit[u]));
        TRY(zero_param_add(t->engine, t->unit[u], &desc, &t->param[u]));
        TRY(zero_use_add(t->engine, t->pass, t->unit[u], ZERO_READ | ZERO_GRAD));
    }
    TRY(zero_reserve(t->engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, COUNT * sizeof(float), &t->target));
    TRY(zero_reserve(t->engine, ZERO_KIND_WORKSPACE, ZERO_TIER_HOST, STEPS * MICRO_STEPS * COUNT * sizeof(float),
                     &t->words));
    TRY(zero_commit(t->engine));
    for (int u = 0; u < CAPTURE_UNITS; u++)
        TRY(zero_param_fill(t->engine, t->param[u], initial, NULL));
    t->stream = zero_stream(t->engine);
    return 0;
}

/* The kernels: grad += x, and grad += target. */
static void launch(const trainer_t *t, int u)
{
    float *grad = zero_param_grad(t->engine, t->param[u]);
    t->flat->accumulate(grad, zero_param_data(t->engine, t->param[u]), ZERO_FP32, count_of(u), 0, t->stream);
    t->flat->accumulate(grad, zero_reserved(t->engine, t->target), ZERO_FP32, count_of(u), 0, t->stream);
}

/* While the stream is captured, every call that would run something is refused. */
static int misuse(trainer_t *t, int u)
{
    double value = 1;
    zero_error_t why;
    zero_stats_t stats = {.size = sizeof stats};
    char acquired[64], released[64];
    snprintf(acquired, sizeof acquired, "'layer.%d'", (u + 1) % CAPTURE_UNITS);
    snprintf(released, sizeof released, "'layer.%d'", u);
#define REFUSED(call, says)                                                                                           \
    do {                                                                                                              \
        zero_status_t s_ = (call);                                                                                    \
        if (s_ != ZERO_ERR_ORDER || !has_names(zero_last_error(t->engine), (says)) ||                                 \
            zero_last_failure(t->engine, &why) != ZERO_ERR_ORDER || why.reason != ZERO_REASON_STREAM_CAPTURED) {      \
            fprintf(stderr, "%s while capturing: %s: %s\n", #call, zero_status_name(s_), zero_last_error(t->engine)); \
            return -1;                                                                                                \
        }                                                                                                             \
    } while (0)
    REFUSED(zero_acquire(t->engine, t->unit[(u + 1) % CAPTURE_UNITS]), acquired);
    REFUSED(zero_release(t->engine, t->unit[u]), released);
    REFUSED(zero_micro_begin(t->engine, t->pass, 0), "zero_micro_begin");
    REFUSED(zero_micro_end(t->engine), "zero_micro_end");
    REFUSED(zero_step(t->engine, 0.1), "zero_step");
    REFUSED(zero_wait(t->engine), "zero_wait");
    REFUSED(zero_sum(t->engine, &value, 1), "zero_sum");
    REFUSED(zero_step_stats(t->engine, &stats), "zero_step_stats");
    return zero_acquire(t->engine, 99) == ZERO_ERR_ARG ? 0 : -1;
}

static int capture(trainer_t *t, int u)
{
    cudaGraph_t graph;
    CUDA(RUNTIME(cudaStreamBeginCapture)(t->stream,
                                         u == 0 ? cudaStreamCaptureModeGlobal : cudaStreamCaptureModeThreadLocal));
    launch(t, u);
    if (misuse(t, u))
        return -1;
    CUDA(RUNTIME(cudaStreamEndCapture)(t->stream, &graph));
    CUDA(RUNTIME(cudaGraphInstantiate)(&t->graph[u], graph, 0));
    CUDA(RUNTIME(cudaGraphDestroy)(graph));
    return 0;
}

static int micro_step(trainer_t *t, int64_t number, bool graphs, bool last, zero_error_t *error)
{
    float *words = (float *)zero_reserved(t->engine, t->words) + number * COUNT;
    for (int i = 0; i < COUNT; i++)
        words[i] = (float)((i * 7 + number * 13 + zero_comm_rank(t->comm) * 5) % 31) / 31;
    TRY(t->device->ops->copy(t->device, t->stream, zero_reserved(t->engine, t->target), words, COUNT * sizeof *words,
                             error));
    TRY(zero_micro_begin(t->engine, t->pass, last ? ZERO_LAST : 0));
    for (int u = 0; u < CAPTURE_UNITS; u++) {
        TRY(zero_acquire(t->engine, t->unit[u]));
        if (!graphs)
            launch(t, u);
        else {
            if (!t->graph[u] && capture(t, u))
                return -1;
            CUDA(RUNTIME(cudaGraphLaunch)(t->graph[u], t->stream));
        }
        TRY(zero_release(t->engine, t->unit[u]));
    }
    TRY(zero_micro_end(t->engine));
    return 0;
}

static int keep(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    trainer_t *t = ctx;
    memcpy(t->trained + param * COUNT + begin, values, (size_t)count * sizeof *values);
    return 0;
}

static int train(trainer_t *t, zero_comm_t *comm, bool graphs)
{
    zero_error_t why = {0}, *error = &why;
    if (begin_training(t, comm, error))
        return -1;
    for (int64_t s = 0; s < STEPS; s++) {
        for (int m = 0; m < MICRO_STEPS; m++)
            if (micro_step(t, s * MICRO_STEPS + m, graphs, m + 1 == MICRO_STEPS, error))
                return -1;
        TRY(zero_step(t->engine, 0.01));
    }
    for (int u = 0; u < CAPTURE_UNITS; u++)
        TRY(zero_param_read(t->engine, t->param[u], ZERO_STATE_MASTER, keep, t));
    for (int u = 0; u < CAPTURE_UNITS && graphs; u++)
        CUDA(RUNTIME(cudaGraphExecDestroy)(t->graph[u]));
    return 0;
}

static void end_training(trainer_t *t)
{
    zero_destroy(t->engine);
    zero_comm_destroy(t->comm);
    zero_device_destroy(t->device);
}

static int rank_trains(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static trainer_t plain, captured; /* other ranks' elements stay 0 in both */
    zero_comm_t *comm = NULL;
    float start[COUNT];
    (void)rank, (void)world;
    cuda_emulate(*(int *)arg, NULL, NULL);
    int result = zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || train(&plain, comm, false) ||
                 train(&captured, comm, true);
    initial(NULL, 0, 0, COUNT, start);
    if (result == 0 && memcmp(plain.trained, captured.trained, sizeof plain.trained) != 0)
        result = fprintf(stderr, "graphs train something else\n");
    if (result == 0 && memcmp(plain.trained, start, sizeof start / RANKS) == 0)
        result = fprintf(stderr, "nothing was trained\n");
    if (result != 0 && captured.engine)
        zero_abort(captured.engine, "the test failed");
    end_training(&captured);
    end_training(&plain);
    zero_comm_destroy(comm);
    return result != 0;
}

START_TEST(graphs_of_the_callers_kernels)
{
    ck_assert_int_eq(ranks_run(RANKS, 50, rank_trains, &_i), 0);
}
END_TEST

TCase *cuda_capture_case(void)
{
    TCase *t = tcase_create("capture");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, graphs_of_the_callers_kernels, 0, 2);
    return t;
}
