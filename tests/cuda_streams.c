/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_streams.c - streams and events of the CUDA device, its failures, the caller's threads and stream. */
#include "kernels/flat/flat.h"
#include "tests/cuda_case.h"
#include "zero/device/host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- streams ---------------------------------------------------------------------------------------------------- */

enum { COUNT = 200 };

/* Each value passes through the same cell of device memory, so only the order of issue gives the right result. */
START_TEST(stream_runs_in_order)
{
    cuda_emulate(_i & 1, "ZERO_EMULATOR_SEED", _i & 2 ? "7" : "1");
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *device, *host;
    int64_t *cells = cuda_arena(d, ZERO_TIER_DEVICE, (COUNT + 1) * sizeof *cells, &device),
            *values = cuda_arena(d, ZERO_TIER_HOST, COUNT * sizeof *values, &host), back[COUNT + 1];
    move_t *moves = calloc(2 * COUNT, sizeof *moves);
    for (int id = 0; id <= ZERO_STREAM_UPDATE; id++) {
        zero_stream_t *s = cuda_stream(d, (zero_stream_id_t)id);
        for (int i = 0; i < COUNT; i++) {
            values[i] = 1000 * id + i;
            moves[2 * i] = (move_t){d, &cells[COUNT], &values[i], sizeof *cells};
            moves[2 * i + 1] = (move_t){d, &cells[i], &cells[COUNT], sizeof *cells};
            OK(d->ops->enqueue(s, cuda_move, NULL, &moves[2 * i], error));
            OK(d->ops->enqueue(s, cuda_move, NULL, &moves[2 * i + 1], error));
        }
        OK(d->ops->sync(s, 30, error));
        cuda_read_back(d, back, cells, sizeof back);
        for (int i = 0; i < COUNT; i++)
            ck_assert_int_eq(back[i], values[i]);
        d->ops->stream_destroy(s);
    }
    d->ops->stream_destroy(NULL);
    d->ops->event_destroy(NULL);
    d->ops->arena_destroy(device);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
    free(moves);
}
END_TEST

/* A pipeline of three streams over a few lanes: compute writes a value, one stream moves it, another brings it back to
 * pinned memory, and compute then writes the next value. Every dependency is an event. */
START_TEST(events_order_streams)
{
    enum { LANES = 3, ROUNDS = 90 };
    char seed[8];
    snprintf(seed, sizeof seed, "%d", _i);
    cuda_emulate(_i > 0, "ZERO_EMULATOR_SEED", seed);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *device, *host;
    int64_t *cells = cuda_arena(d, ZERO_TIER_DEVICE, 2 * LANES * sizeof *cells, &device),
            *values = cuda_arena(d, ZERO_TIER_HOST, (ROUNDS + LANES) * sizeof *values, &host), *out = values + ROUNDS;
    zero_stream_t *compute = cuda_stream(d, ZERO_STREAM_COMPUTE), *a = cuda_stream(d, ZERO_STREAM_GATHER),
                  *b = cuda_stream(d, ZERO_STREAM_REDUCE);
    zero_event_t *written[LANES], *moved[LANES], *back[LANES];
    move_t moves[LANES][2], *first = calloc(ROUNDS, sizeof *first);
    for (int l = 0; l < LANES; l++) {
        written[l] = cuda_event(d);
        moved[l] = cuda_event(d);
        back[l] = cuda_event(d);
        moves[l][0] = (move_t){d, &cells[LANES + l], &cells[l], sizeof *cells};
        moves[l][1] = (move_t){d, &out[l], &cells[LANES + l], sizeof *cells};
    }
    for (int i = 0; i < ROUNDS; i++) {
        int l = i % LANES;
        OK(d->ops->host_wait(back[l], 30, error)); /* never recorded at first: no wait */
        if (i >= LANES)
            ck_assert_int_eq(out[l], 7 * (i - LANES));
        values[i] = 7 * i;
        first[i] = (move_t){d, &cells[l], &values[i], sizeof *cells};
        OK(d->ops->wait(compute, back[l], 30, error));
        OK(d->ops->enqueue(compute, cuda_move, NULL, &first[i], error));
        OK(d->ops->record(written[l], compute, error));
        OK(d->ops->wait(a, written[l], 30, error));
        OK(d->ops->enqueue(a, cuda_move, NULL, &moves[l][0], error));
        OK(d->ops->record(moved[l], a, error));
        OK(d->ops->wait(b, moved[l], 30, error));
        OK(d->ops->enqueue(b, cuda_move, NULL, &moves[l][1], error));
        OK(d->ops->record(back[l], b, error));
    }
    OK(d->ops->sync(b, 30, error));
    for (int i = ROUNDS - LANES; i < ROUNDS; i++)
        ck_assert_int_eq(out[i % LANES], 7 * i);
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->stream_destroy(compute);
    for (int l = 0; l < LANES; l++) {
        d->ops->event_destroy(written[l]);
        d->ops->event_destroy(moved[l]);
        d->ops->event_destroy(back[l]);
    }
    d->ops->arena_destroy(device);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
    free(first);
}
END_TEST

START_TEST(record_is_a_snapshot_and_waits_are_bounded)
{
    atomic_bool go;
    cuda_emulate(1, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *host;
    int64_t *values = cuda_arena(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    zero_stream_t *a = cuda_stream(d, ZERO_STREAM_GATHER), *b = cuda_stream(d, ZERO_STREAM_REDUCE);
    zero_event_t *event = cuda_event(d);
    move_t move = {d, &values[1], &values[0], sizeof *values};
    atomic_init(&go, false);
    values[0] = 5;
    OK(d->ops->record(event, a, error));
    OK(d->ops->wait(b, event, 30, error));
    OK(d->ops->enqueue(a, cuda_hold, &go, NULL, error));
    OK(d->ops->record(event, a, error)); /* after hold */
    OK(d->ops->enqueue(b, cuda_move, NULL, &move, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(values[1], 5);
    double begin = zero_now();
    ck_assert(d->ops->host_wait(event, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    cuda_says("'gather'");
    ck_assert(d->ops->sync(a, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    cuda_says("'gather'");
    cuda_says("0.02");
    ck_assert(d->ops->finish(d, d->ops->native(a), 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    ck_assert_double_ge(zero_now() - begin, 0.06);
    /* A wait that runs out of time does not make the stream fail. */
    OK(d->ops->wait(b, event, 30, error));
    values[0] = 6;
    OK(d->ops->enqueue(b, cuda_move, NULL, &move, error));
    ck_assert(d->ops->sync(b, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    ck_assert_int_eq(values[1], 5);
    atomic_store(&go, true);
    OK(d->ops->host_wait(event, 30, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(values[1], 6);
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->event_destroy(event);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
}
END_TEST

/* destroy gives up on a stream whose work does not end, and keeps the memory that the work may still write. */
START_TEST(a_stream_that_does_not_end_is_given_up)
{
    atomic_bool go;
    uint64_t before = 0, after = 0;
    cuda_emulate(1, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *device;
    zero_stream_t *s = cuda_stream(d, ZERO_STREAM_GATHER);
    cuda_arena(d, ZERO_TIER_DEVICE, 4 << 20, &device);
    atomic_init(&go, false);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
    OK(d->ops->enqueue(s, cuda_hold, &go, NULL, error));
    ck_assert(d->ops->sync(s, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    double begin = zero_now();
    d->ops->stream_destroy(s);
    ck_assert_double_ge(zero_now() - begin, 1); /* it waited before it gave up */
    d->ops->arena_destroy(device);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
    ck_assert_uint_eq(before, after);
    zero_device_destroy(d);
    atomic_store(&go, true);
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

START_TEST(failure_is_kept_and_passed_on)
{
    atomic_int ran;
    atomic_init(&ran, 0);
    cuda_emulate(_i, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *a = cuda_stream(d, ZERO_STREAM_GATHER), *b = cuda_stream(d, ZERO_STREAM_UPDATE);
    zero_event_t *event = cuda_event(d);
    ck_assert(d->ops->enqueue(a, cuda_task_fails, NULL, NULL, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->sync(a, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert_str_eq(cuda_why.text, "task 7 failed");
    ck_assert(d->ops->enqueue(a, cuda_task_counts, &ran, NULL, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->wait(a, event, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->record(event, a, &cuda_why) == ZERO_ERR_IO);
    /* Waits for a failed stream fail with the same error. */
    ck_assert(d->ops->host_wait(event, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->wait(b, event, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert_str_eq(cuda_why.text, "task 7 failed");
    ck_assert_int_eq(atomic_load(&ran), 0);
    /* Other streams continue. */
    OK(d->ops->enqueue(b, cuda_task_counts, &ran, NULL, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(atomic_load(&ran), 1);
    d->ops->stream_destroy(a);
    /* The failure is still known after the stream is destroyed. */
    ck_assert(d->ops->host_wait(event, 30, &cuda_why) == ZERO_ERR_IO);
    d->ops->stream_destroy(b);
    d->ops->event_destroy(event);
    zero_device_destroy(d);
}
END_TEST

/* The call that fails, and the beginning of the sentence after the GPU's name. */
static const struct {
    const char *fail, *says;
    bool at_once; /* only at once: otherwise the number of calls varies */
} stream_faults[] = {
    {"cudaMemcpyAsync:1:700", "cudaMemcpyAsync 8", false},
    {"cudaEventRecord:1:700", "'gather' cudaEventRecord", false},
    {"cudaStreamWaitEvent:1:700", "'update' cudaStreamWaitEvent", false},
    {"cudaEventQuery:1:700", "'gather' cudaEventQuery", false},
    {"cudaStreamQuery:2:700", "'gather' cudaStreamQuery", true}, /* the first call belongs to the empty kernel */
};

/* Every error of CUDA makes the stream fail for good, with a sentence that names the call and the remedy. */
START_TEST(faults_of_cuda_are_kept)
{
    cuda_emulate(_i & 1 && !stream_faults[_i / 2].at_once, "ZERO_EMULATOR_FAIL", stream_faults[_i / 2].fail);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *host;
    int64_t *values = cuda_arena(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    zero_stream_t *a = cuda_stream(d, ZERO_STREAM_GATHER), *b = cuda_stream(d, ZERO_STREAM_UPDATE);
    zero_event_t *event = cuda_event(d);
    move_t move = {d, &values[1], &values[0], sizeof *values};
    atomic_int ran;
    atomic_init(&ran, 0);
    bool second = false;
    zero_status_t status = d->ops->enqueue(a, cuda_move, NULL, &move, &cuda_why);
    if (status == ZERO_OK)
        status = d->ops->record(event, a, &cuda_why);
    if (status == ZERO_OK) {
        status = d->ops->wait(b, event, 30, &cuda_why);
        second = status != ZERO_OK;
    }
    if (status == ZERO_OK)
        status = d->ops->host_wait(event, 30, &cuda_why);
    if (status == ZERO_OK)
        status = d->ops->sync(a, 30, &cuda_why);
    ck_assert_int_eq(status, ZERO_ERR_SYSTEM);
    cuda_says("GPU 0");
    cuda_says(stream_faults[_i / 2].says);
    cuda_says("cudaErrorIllegalAddress");
    cuda_says("CUDA_LAUNCH_BLOCKING=1");
    zero_error_t first = cuda_why;
    ck_assert(d->ops->enqueue(second ? b : a, cuda_task_counts, &ran, NULL, &cuda_why) == ZERO_ERR_SYSTEM);
    ck_assert_str_eq(cuda_why.text, first.text);
    ck_assert(d->ops->sync(second ? b : a, 30, &cuda_why) == ZERO_ERR_SYSTEM);
    ck_assert_int_eq(atomic_load(&ran), 0);
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->event_destroy(event);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
}
END_TEST

/* A task: adds the numbers at arg to themselves. */
static zero_status_t doubles(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    const zero_flat_ops_t *flat = ctx;
    const move_t *m = arg;
    (void)error;
    flat->accumulate(m->dst, m->src, ZERO_FP32, (int64_t)m->bytes / 4, 0, native);
    return ZERO_OK;
}

/* A failed launch makes the stream fail, although a launch returns no status. The first launch is the device's own. */
START_TEST(launches_that_fail_are_told)
{
    cuda_emulate(_i, "ZERO_EMULATOR_FAIL", "launch:3:701");
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *arena;
    float *values = cuda_arena(d, ZERO_TIER_DEVICE, 4096, &arena);
    zero_stream_t *a = cuda_stream(d, ZERO_STREAM_REDUCE), *b = cuda_stream(d, ZERO_STREAM_UPDATE);
    const zero_flat_ops_t *flat;
    move_t all = {d, values, values, 4096};
    OK(zero_flat_of(d, &flat, error));
    OK(d->ops->enqueue(a, doubles, (void *)flat, &all, error));
    ck_assert_int_eq(d->ops->enqueue(a, doubles, (void *)flat, &all, &cuda_why), ZERO_ERR_SYSTEM);
    cuda_says("'reduce'");
    cuda_says("cudaErrorLaunchOutOfResources");
    ck_assert_int_eq(d->ops->sync(a, 30, &cuda_why), ZERO_ERR_SYSTEM);
    OK(d->ops->enqueue(b, doubles, (void *)flat, &all, error));
    OK(d->ops->sync(b, 30, error));
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->arena_destroy(arena);
    zero_device_destroy(d);
}
END_TEST

/* ---- clocks ----------------------------------------------------------------------------------------------------- */

/* Times of marks are as far apart as the host saw them pass, whichever anchor they count from. */
START_TEST(a_clock_tells_when_streams_pass)
{
    enum { ROUNDING_NS = 5000 };
    cuda_emulate(_i, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *s = cuda_stream(d, ZERO_STREAM_COMPUTE);
    void *native = d->ops->native(s);
    zero_clock_t *clock;
    uint64_t host[4], ns[3];
    atomic_bool released = false;
    OK(d->ops->clock_create(d, 3, &clock, error));
    host[0] = zero_now_ns();
    OK(d->ops->clock_mark(clock, 0, native, error));
    OK(d->ops->sync(s, 30, error));
    host[1] = zero_now_ns();
    while ((host[2] = zero_now_ns()) < host[1] + 20000000)
        ;
    OK(d->ops->clock_mark(clock, 1, native, error));
    OK(d->ops->sync(s, 30, error));
    host[3] = zero_now_ns();
    for (int set = 0; set < 4; set++) {
        for (int i = 0; i < 2; i++)
            OK(d->ops->clock_read(clock, i, &ns[i], error));
        ck_assert_uint_ge(ns[1] - ns[0] + ROUNDING_NS, host[2] - host[1]);
        ck_assert_uint_le(ns[1] - ns[0], host[3] - host[0] + ROUNDING_NS);
        OK(d->ops->clock_set(clock, error));
    }
    if (_i) {
        OK(d->ops->enqueue(s, cuda_hold, &released, NULL, error));
        OK(d->ops->clock_mark(clock, 2, native, error));
        OK(d->ops->clock_read(clock, 2, &ns[2], error));
        ck_assert_uint_eq(ns[2], 0);
        atomic_store(&released, true);
        OK(d->ops->sync(s, 30, error));
        OK(d->ops->clock_read(clock, 2, &ns[2], error));
        ck_assert_uint_gt(ns[2], ns[1]);
    }
    d->ops->clock_destroy(clock);
    d->ops->clock_destroy(NULL);
    d->ops->stream_destroy(s);
    zero_device_destroy(d);
}
END_TEST

/* Calls that fail when a clock is created and used. */
static const struct {
    const char *fail;
    zero_status_t status;
    const char *says;
} clock_faults[] = {
    {"cudaEventCreateWithFlags:1", ZERO_ERR_MEMORY, "cudaEventCreateWithFlags"},
    {"cudaEventCreateWithFlags:4", ZERO_ERR_MEMORY, "cudaEventCreateWithFlags"},
    {"cudaEventRecord:2:999", ZERO_ERR_SYSTEM, "cudaEventRecord"},
    {"cudaEventRecord:3+:999", ZERO_ERR_SYSTEM, "cudaEventRecord"},
    {"cudaEventElapsedTime:1:999", ZERO_ERR_SYSTEM, "cudaEventElapsedTime"},
};

START_TEST(faults_of_a_clock_are_told)
{
    cuda_emulate(0, "ZERO_EMULATOR_FAIL", clock_faults[_i].fail);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *s = cuda_stream(d, ZERO_STREAM_COMPUTE);
    zero_clock_t *clock = NULL;
    uint64_t ns;
    zero_status_t status = d->ops->clock_create(d, 3, &clock, &cuda_why);
    if (status == ZERO_OK)
        status = d->ops->clock_mark(clock, 0, d->ops->native(s), &cuda_why);
    if (status == ZERO_OK)
        status = d->ops->clock_read(clock, 0, &ns, &cuda_why);
    ck_assert_int_eq(status, clock_faults[_i].status);
    cuda_says(clock_faults[_i].says);
    cuda_says("GPU 0");
    d->ops->clock_destroy(clock);
    d->ops->stream_destroy(s);
    zero_device_destroy(d);
}
END_TEST

/* ---- threads, the caller's stream ------------------------------------------------------------------------------- */

typedef struct elsewhere {
    zero_device_t *device;
    zero_stream_t *stream;
    zero_event_t *event;
    move_t move;
} elsewhere_t;

static void *use_elsewhere(void *arg)
{
    elsewhere_t *e = arg;
    const zero_device_ops_t *ops = e->device->ops;
    zero_arena_t *arena;
    OK(ops->enqueue(e->stream, cuda_move, NULL, &e->move, error));
    OK(ops->record(e->event, e->stream, error));
    OK(ops->host_wait(e->event, 30, error));
    zero_stream_t *another = cuda_stream(e->device, ZERO_STREAM_UPDATE);
    OK(ops->wait(another, e->event, 30, error));
    cuda_arena(e->device, ZERO_TIER_DEVICE, 4096, &arena);
    OK(ops->copy(e->device, ops->native(another), ops->arena_base(arena), e->move.src, 8, error));
    OK(ops->sync(another, 30, error));
    ops->arena_destroy(arena);
    ops->stream_destroy(another);
    return NULL;
}

/* Each thread has its own current CUDA device: a thread that has never selected the second GPU uses it. */
START_TEST(any_thread_may_call)
{
    cuda_emulate(_i, "ZERO_EMULATOR_DEVICES", "2");
    zero_device_t *one = cuda_device(1, NULL), *zero = cuda_device(0, NULL); /* the last one is current here */
    zero_arena_t *host;
    int64_t *values = cuda_arena(one, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    elsewhere_t e = {
        one, cuda_stream(one, ZERO_STREAM_GATHER), cuda_event(one), {one, &values[1], &values[0], sizeof *values}};
    pthread_t thread;
    values[0] = 99;
    use_elsewhere(&e);
    values[0] = 100;
    ck_assert_int_eq(pthread_create(&thread, NULL, use_elsewhere, &e), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(values[1], 100);
    int current = -1;
    RUNTIME(cudaSetDevice)(0);
    OK(one->ops->sync(e.stream, 30, error));
    ck_assert_int_eq(RUNTIME(cudaGetDevice)(&current), cudaSuccess);
    ck_assert_int_eq(current, 1);
    RUNTIME(cudaSetDevice)(0);
    one->ops->stream_destroy(e.stream);
    RUNTIME(cudaSetDevice)(0);
    one->ops->event_destroy(e.event);
    one->ops->arena_destroy(host);
    zero_device_destroy(one);
    zero_device_destroy(zero);
}
END_TEST

START_TEST(the_callers_stream_is_borrowed)
{
    cudaStream_t mine, other;
    cuda_emulate(_i, "ZERO_EMULATOR_DEVICES", "2");
    ck_assert_int_eq(zero_cuda_devices(), 2); /* opens the plugin */
    ck_assert_int_eq(RUNTIME(cudaSetDevice)(0), cudaSuccess);
    ck_assert_int_eq(RUNTIME(cudaStreamCreateWithFlags)(&mine, cudaStreamNonBlocking), cudaSuccess);
    zero_device_t *d = cuda_device(0, mine);
    for (int id = 0; id <= ZERO_STREAM_UPDATE; id++) {
        zero_stream_t *s = cuda_stream(d, (zero_stream_id_t)id);
        ck_assert((d->ops->native(s) == mine) == (id == ZERO_STREAM_COMPUTE));
        ck_assert_ptr_nonnull(d->ops->native(s));
        d->ops->stream_destroy(s);
    }
    /* The caller can still use and destroy the stream. */
    zero_arena_t *host;
    int64_t *values = cuda_arena(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    values[0] = 3;
    OK(d->ops->copy(d, mine, &values[1], &values[0], sizeof *values, error));
    OK(d->ops->finish(d, mine, 30, error));
    ck_assert_int_eq(values[1], 3);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
    ck_assert_int_eq(RUNTIME(cudaStreamDestroy)(mine), cudaSuccess);
    /* A stream of another GPU is refused. */
    RUNTIME(cudaSetDevice)(1);
    ck_assert_int_eq(RUNTIME(cudaStreamCreateWithFlags)(&other, cudaStreamNonBlocking), cudaSuccess);
    zero_device_options_t o;
    zero_device_options_init(&o);
    o.stream = other;
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_SYSTEM);
    cuda_says("");
    ck_assert_ptr_null(d);
    RUNTIME(cudaSetDevice)(1);
    RUNTIME(cudaStreamDestroy)(other);
}
END_TEST

TCase *cuda_streams_case(void)
{
    TCase *t = tcase_create("streams");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, stream_runs_in_order, 0, 4);
    tcase_add_loop_test(t, events_order_streams, 0, 8);
    tcase_add_test(t, record_is_a_snapshot_and_waits_are_bounded);
    tcase_add_test(t, a_stream_that_does_not_end_is_given_up);
    tcase_add_loop_test(t, failure_is_kept_and_passed_on, 0, 2);
    tcase_add_loop_test(t, faults_of_cuda_are_kept, 0, 2 * LENGTH(stream_faults));
    tcase_add_loop_test(t, launches_that_fail_are_told, 0, 2);
    tcase_add_loop_test(t, a_clock_tells_when_streams_pass, 0, 2);
    tcase_add_loop_test(t, faults_of_a_clock_are_told, 0, LENGTH(clock_faults));
    tcase_add_loop_test(t, any_thread_may_call, 0, 2);
    tcase_add_loop_test(t, the_callers_stream_is_borrowed, 0, 2);
    return t;
}
