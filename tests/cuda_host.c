/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_host.c - host streams of the CUDA device, beside its GPU streams. Each kind waits for the other without blocking
 * the caller. */
#include "tests/cuda_case.h"
#include "zero/device/host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { COUNT = 200 };

/* The modes of a test: GPU work runs at once or on threads, and GPU streams can wait for the host or not. */
static void emulate(int way)
{
    static const char *const ways[][2] = {{NULL, NULL},
                                          {"ZERO_EMULATOR_FAIL", "cudaGetDriverEntryPointByVersion:1+:801"},
                                          {"ZERO_EMULATOR_FAIL", "cuStreamWaitValue64:1:801"},
                                          {"ZERO_EMULATOR_SEED", "3"},
                                          {"ZERO_EMULATOR_SEED", "4"}};
    cuda_emulate(way > 0, ways[way % LENGTH(ways)][0], ways[way % LENGTH(ways)][1]);
}
enum { WAYS = 5, ALONE = 3 /* the mode with threads in which GPU streams can wait */ };

/* Keeps a host stream busy. */
static zero_status_t hold(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)error;
    ck_assert_ptr_null(native);
    while (!atomic_load((atomic_bool *)ctx))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return ZERO_OK;
}

typedef struct list {
    int64_t values[COUNT];
    int at;
    pthread_t thread;
} list_t;

static zero_status_t append(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    list_t *l = ctx;
    (void)error;
    ck_assert_ptr_null(native);
    l->values[l->at++] = *(const int64_t *)arg;
    l->thread = pthread_self();
    return ZERO_OK;
}

START_TEST(host_work_runs_in_order_beside_the_caller)
{
    emulate(_i);
    zero_device_t *d = cuda_device(0, NULL);
    for (int id = ZERO_STREAM_HOST; id <= ZERO_STREAM_IO; id++) {
        list_t list = {.at = 0};
        int64_t args[COUNT];
        atomic_bool go;
        atomic_init(&go, false);
        zero_stream_t *s = cuda_stream(d, (zero_stream_id_t)id);
        ck_assert_ptr_null(d->ops->native(s));
        OK(d->ops->enqueue(s, hold, &go, NULL, error));
        for (int i = 0; i < COUNT; i++) {
            args[i] = 3 * i;
            OK(d->ops->enqueue(s, append, &list, &args[i], error));
        }
        ck_assert(d->ops->sync(s, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
        atomic_store(&go, true);
        OK(d->ops->sync(s, 30, error));
        ck_assert_int_eq(list.at, COUNT);
        for (int i = 0; i < COUNT; i++)
            ck_assert_int_eq(list.values[i], 3 * i);
        ck_assert(!pthread_equal(list.thread, pthread_self()));
        d->ops->stream_destroy(s);
    }
    zero_device_destroy(d);
}
END_TEST

typedef struct sum {
    int64_t *to, add;
} sum_t;

static zero_status_t add(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)ctx, (void)native, (void)error;
    *((const sum_t *)arg)->to += ((const sum_t *)arg)->add;
    return ZERO_OK;
}

/* The sequence of an offloaded step: compute writes on the GPU, a copy moves it to the host, two host streams work on
 * it in turn, a copy moves it back, compute reads it. The lanes overlap. Every dependency is an event, and the caller
 * waits for none of them. */
START_TEST(gpu_and_host_take_turns)
{
    enum { LANES = 3, ROUNDS = 60 };
    emulate(_i);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *device, *host;
    int64_t *cells = cuda_arena(d, ZERO_TIER_DEVICE, LANES * sizeof *cells, &device),
            *pinned = cuda_arena(d, ZERO_TIER_HOST, (LANES + 2 * ROUNDS) * sizeof *pinned, &host), *in = pinned + LANES,
            *out = in + ROUNDS;
    zero_stream_t *compute = cuda_stream(d, ZERO_STREAM_COMPUTE), *copy = cuda_stream(d, ZERO_STREAM_COPY),
                  *work = cuda_stream(d, ZERO_STREAM_HOST), *io = cuda_stream(d, ZERO_STREAM_IO);
    zero_event_t *written[LANES], *down[LANES], *worked[LANES], *kept[LANES], *up[LANES], *read[LANES];
    move_t *moves = calloc(4 * ROUNDS, sizeof *moves);
    sum_t *sums = calloc(2 * ROUNDS, sizeof *sums);
    for (int l = 0; l < LANES; l++) {
        written[l] = cuda_event(d), down[l] = cuda_event(d), worked[l] = cuda_event(d);
        kept[l] = cuda_event(d), up[l] = cuda_event(d), read[l] = cuda_event(d);
    }
    for (int i = 0; i < ROUNDS; i++) {
        int l = i % LANES;
        in[i] = 1000 * i;
        moves[4 * i] = (move_t){d, &cells[l], &in[i], sizeof *cells};
        moves[4 * i + 1] = (move_t){d, &pinned[l], &cells[l], sizeof *cells};
        moves[4 * i + 2] = (move_t){d, &cells[l], &pinned[l], sizeof *cells};
        moves[4 * i + 3] = (move_t){d, &out[i], &cells[l], sizeof *cells};
        sums[2 * i] = (sum_t){&pinned[l], i};
        sums[2 * i + 1] = (sum_t){&pinned[l], 500};
        OK(d->ops->enqueue(compute, cuda_move, NULL, &moves[4 * i], error));
        OK(d->ops->record(written[l], compute, error));
        OK(d->ops->wait(copy, written[l], 30, error));
        OK(d->ops->enqueue(copy, cuda_move, NULL, &moves[4 * i + 1], error));
        OK(d->ops->record(down[l], copy, error));
        OK(d->ops->wait(work, down[l], 30, error));
        OK(d->ops->enqueue(work, add, NULL, &sums[2 * i], error));
        OK(d->ops->record(worked[l], work, error));
        OK(d->ops->wait(io, worked[l], 30, error));
        OK(d->ops->enqueue(io, add, NULL, &sums[2 * i + 1], error));
        OK(d->ops->record(kept[l], io, error));
        OK(d->ops->wait(copy, kept[l], 30, error));
        OK(d->ops->enqueue(copy, cuda_move, NULL, &moves[4 * i + 2], error));
        OK(d->ops->record(up[l], copy, error));
        OK(d->ops->wait(compute, up[l], 30, error));
        OK(d->ops->enqueue(compute, cuda_move, NULL, &moves[4 * i + 3], error));
        OK(d->ops->record(read[l], compute, error));
    }
    for (int l = 0; l < LANES; l++)
        OK(d->ops->host_wait(read[l], 30, error));
    for (int i = 0; i < ROUNDS; i++)
        ck_assert_int_eq(out[i], 1001 * i + 500);
    OK(d->ops->host_wait(kept[0], 30, error));
    d->ops->stream_destroy(compute);
    d->ops->stream_destroy(copy);
    d->ops->stream_destroy(work);
    d->ops->stream_destroy(io);
    for (int l = 0; l < LANES; l++) {
        zero_event_t *all[] = {written[l], down[l], worked[l], kept[l], up[l], read[l]};
        for (int e = 0; e < LENGTH(all); e++)
            d->ops->event_destroy(all[e]);
    }
    d->ops->arena_destroy(device);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
    free(moves);
    free(sums);
}
END_TEST

/* The caller continues while each side waits for the other. A later record does not change an earlier wait. */
START_TEST(waits_between_gpu_and_host_are_snapshots)
{
    atomic_bool go_host, go_gpu;
    atomic_int ran;
    emulate(ALONE);
    zero_device_t *d = cuda_device(0, NULL);
    zero_arena_t *host;
    int64_t *pinned = cuda_arena(d, ZERO_TIER_HOST, 2 * sizeof *pinned, &host);
    zero_stream_t *work = cuda_stream(d, ZERO_STREAM_HOST), *copy = cuda_stream(d, ZERO_STREAM_COPY),
                  *gpu = cuda_stream(d, ZERO_STREAM_REDUCE);
    zero_event_t *event = cuda_event(d), *other = cuda_event(d);
    move_t move = {d, &pinned[1], &pinned[0], sizeof *pinned};
    atomic_init(&go_host, false);
    atomic_init(&go_gpu, false);
    atomic_init(&ran, 0);

    /* The GPU waits for the host. */
    pinned[0] = 1;
    OK(d->ops->wait(copy, event, 30, error)); /* never recorded */
    OK(d->ops->record(event, work, error));
    OK(d->ops->wait(copy, event, 30, error));
    OK(d->ops->enqueue(work, hold, &go_host, NULL, error));
    OK(d->ops->record(event, work, error)); /* after hold */
    OK(d->ops->enqueue(copy, cuda_move, NULL, &move, error));
    OK(d->ops->sync(copy, 30, error));
    ck_assert_int_eq(pinned[1], 1);
    pinned[0] = 2;
    OK(d->ops->wait(copy, event, 30, error));
    OK(d->ops->enqueue(copy, cuda_move, NULL, &move, error));
    ck_assert(d->ops->sync(copy, 0.05, &cuda_why) == ZERO_ERR_TIMEOUT);
    ck_assert(d->ops->host_wait(event, 0.05, &cuda_why) == ZERO_ERR_TIMEOUT);
    cuda_says("'host'");
    ck_assert_int_eq(pinned[1], 1);
    atomic_store(&go_host, true);
    OK(d->ops->sync(copy, 30, error));
    ck_assert_int_eq(pinned[1], 2);

    /* The host waits for the GPU. */
    OK(d->ops->record(other, gpu, error));
    OK(d->ops->wait(work, other, 30, error));
    OK(d->ops->enqueue(gpu, cuda_hold, &go_gpu, NULL, error));
    OK(d->ops->record(other, gpu, error)); /* after hold */
    OK(d->ops->enqueue(work, cuda_task_counts, &ran, NULL, error));
    OK(d->ops->sync(work, 30, error));
    ck_assert_int_eq(atomic_load(&ran), 1);
    OK(d->ops->wait(work, other, 30, error));
    OK(d->ops->enqueue(work, cuda_task_counts, &ran, NULL, error));
    ck_assert(d->ops->sync(work, 0.05, &cuda_why) == ZERO_ERR_TIMEOUT);
    ck_assert_int_eq(atomic_load(&ran), 1);
    atomic_store(&go_gpu, true);
    OK(d->ops->sync(work, 30, error));
    ck_assert_int_eq(atomic_load(&ran), 2);

    d->ops->stream_destroy(work);
    /* Events that a destroyed stream recorded are complete. */
    OK(d->ops->wait(copy, event, 30, error));
    OK(d->ops->sync(copy, 30, error));
    d->ops->stream_destroy(copy);
    d->ops->stream_destroy(gpu);
    d->ops->event_destroy(event);
    d->ops->event_destroy(other);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
}
END_TEST

/* If the driver has no such waits, the caller waits, within its time limit. */
START_TEST(the_caller_waits_where_the_gpu_cannot)
{
    atomic_bool go;
    emulate(1 + _i);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *work = cuda_stream(d, ZERO_STREAM_HOST), *copy = cuda_stream(d, ZERO_STREAM_COPY);
    zero_event_t *event = cuda_event(d);
    atomic_init(&go, false);
    OK(d->ops->enqueue(work, hold, &go, NULL, error));
    OK(d->ops->record(event, work, error));
    ck_assert(d->ops->wait(copy, event, 0.05, &cuda_why) == ZERO_ERR_TIMEOUT);
    cuda_says("'host'");
    atomic_store(&go, true);
    OK(d->ops->wait(copy, event, 30, error));
    OK(d->ops->sync(copy, 30, error));
    d->ops->stream_destroy(work);
    d->ops->stream_destroy(copy);
    d->ops->event_destroy(event);
    zero_device_destroy(d);
}
END_TEST

/* Work of the host fails: GPU streams that wait for it, directly or through others, end at once and report the
 * failure. */
START_TEST(a_failure_of_the_host_ends_what_waits_for_it)
{
    atomic_bool go;
    atomic_int ran;
    emulate(ALONE);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *work = cuda_stream(d, ZERO_STREAM_HOST), *io = cuda_stream(d, ZERO_STREAM_IO),
                  *copy = cuda_stream(d, ZERO_STREAM_COPY), *compute = cuda_stream(d, ZERO_STREAM_COMPUTE),
                  *gather = cuda_stream(d, ZERO_STREAM_GATHER);
    zero_event_t *worked = cuda_event(d), *copied = cuda_event(d), *early = cuda_event(d);
    atomic_init(&go, false);
    atomic_init(&ran, 0);
    OK(d->ops->record(early, gather, error));
    OK(d->ops->wait(work, early, 30, error));
    OK(d->ops->enqueue(work, hold, &go, NULL, error));
    OK(d->ops->enqueue(work, cuda_task_fails, NULL, NULL, error));
    OK(d->ops->enqueue(work, cuda_task_counts, &ran, NULL, error));
    OK(d->ops->record(worked, work, error));
    OK(d->ops->wait(copy, worked, 30, error));
    OK(d->ops->record(copied, copy, error));
    OK(d->ops->wait(compute, copied, 30, error));
    OK(d->ops->wait(io, copied, 30, error));
    ck_assert(d->ops->sync(compute, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    atomic_store(&go, true);
    double begin = zero_now();
    zero_stream_t *all[] = {compute, copy, io, work};
    for (int i = 0; i < LENGTH(all); i++) {
        cuda_why.text[0] = '\0';
        ck_assert_int_eq(d->ops->sync(all[i], 30, &cuda_why), ZERO_ERR_IO);
        ck_assert_str_eq(cuda_why.text, "task 7 failed");
        ck_assert(d->ops->enqueue(all[i], cuda_task_counts, &ran, NULL, &cuda_why) == ZERO_ERR_IO);
    }
    ck_assert(d->ops->host_wait(worked, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->host_wait(copied, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->wait(gather, worked, 30, &cuda_why) == ZERO_ERR_IO);
    ck_assert(d->ops->record(worked, work, &cuda_why) == ZERO_ERR_IO);
    /* Streams that did not wait for it still work. */
    OK(d->ops->sync(gather, 30, error));
    for (int i = 0; i < LENGTH(all); i++)
        d->ops->stream_destroy(all[i]);
    d->ops->stream_destroy(gather);
    ck_assert_double_lt(zero_now() - begin, 4); /* no wait ran into its limit */
    ck_assert_int_eq(atomic_load(&ran), 0);
    ck_assert(d->ops->host_wait(worked, 30, &cuda_why) == ZERO_ERR_IO);
    d->ops->event_destroy(worked);
    d->ops->event_destroy(copied);
    d->ops->event_destroy(early);
    zero_device_destroy(d);
}
END_TEST

/* A wait for the GPU is bounded. A fault of the GPU ends it earlier. */
START_TEST(a_wait_for_the_gpu_ends)
{
    atomic_bool go;
    atomic_int ran;
    cuda_emulate(1, _i ? "ZERO_EMULATOR_FAIL" : NULL, "kernel:2:700");
    zero_device_t *d = cuda_device(0, NULL); /* the first kernel */
    zero_stream_t *work = cuda_stream(d, ZERO_STREAM_HOST), *copy = cuda_stream(d, ZERO_STREAM_COPY);
    zero_event_t *held = cuda_event(d), *worked = cuda_event(d);
    atomic_init(&go, false);
    atomic_init(&ran, 0);
    OK(d->ops->enqueue(copy, cuda_hold, &go, NULL, error));
    OK(d->ops->record(held, copy, error));
    OK(d->ops->wait(work, held, _i ? 600 : 0.1, error));
    OK(d->ops->enqueue(work, cuda_task_counts, &ran, NULL, error));
    if (_i) {
        zero_device_t *second;
        ck_assert(zero_device_cuda(&second, NULL, &cuda_why) == ZERO_ERR_SYSTEM); /* the second kernel */
        ck_assert(d->ops->sync(work, 30, &cuda_why) == ZERO_ERR_SYSTEM);
        cuda_says("cudaErrorIllegalAddress");
    } else {
        ck_assert(d->ops->sync(work, 30, &cuda_why) == ZERO_ERR_TIMEOUT);
        cuda_says("'host' 0.1");
        ck_assert(d->ops->record(worked, work, &cuda_why) == ZERO_ERR_TIMEOUT);
    }
    ck_assert_int_eq(atomic_load(&ran), 0);
    atomic_store(&go, true);
    d->ops->stream_destroy(copy);
    d->ops->stream_destroy(work);
    d->ops->event_destroy(held);
    d->ops->event_destroy(worked);
    zero_device_destroy(d);
}
END_TEST

/* Destroys a device whose GPU work does not end, and a wait for that work. Both calls give up after seconds. */
START_TEST(a_wait_that_does_not_end_is_given_up)
{
    atomic_bool go;
    atomic_int ran;
    cuda_emulate(1, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *work = cuda_stream(d, ZERO_STREAM_HOST), *copy = cuda_stream(d, ZERO_STREAM_COPY);
    zero_event_t *held = cuda_event(d);
    atomic_init(&go, false);
    atomic_init(&ran, 0);
    OK(d->ops->enqueue(copy, cuda_hold, &go, NULL, error));
    OK(d->ops->record(held, copy, error));
    OK(d->ops->wait(work, held, 600, error));
    OK(d->ops->enqueue(work, cuda_task_counts, &ran, NULL, error));
    ck_assert(d->ops->sync(work, 0.02, &cuda_why) == ZERO_ERR_TIMEOUT);
    double begin = zero_now();
    d->ops->stream_destroy(work);
    ck_assert_double_lt(zero_now() - begin, 40);
    ck_assert_int_eq(atomic_load(&ran), 0);
    ck_assert(d->ops->host_wait(held, 0.01, &cuda_why) == ZERO_ERR_TIMEOUT);
    atomic_store(&go, true);
    OK(d->ops->host_wait(held, 30, error));
    d->ops->stream_destroy(copy);
    d->ops->event_destroy(held);
    zero_device_destroy(d);
}
END_TEST

/* The call that fails while a host stream is created, used, or waited for. */
static const struct {
    const char *fail, *says;
    zero_status_t status;
} faults[] = {
    {"cudaHostAlloc:2", "'host' cudaHostAlloc 8", ZERO_ERR_MEMORY},
    {"cudaStreamCreateWithFlags:3", "'host' cudaStreamCreateWithFlags", ZERO_ERR_MEMORY},
    {"cudaStreamWaitEvent:1", "'host' cudaStreamWaitEvent", ZERO_ERR_SYSTEM},
    {"cudaLaunchHostFunc:1", "'host' cudaLaunchHostFunc", ZERO_ERR_SYSTEM},
    {"cuStreamWaitValue64:2", "'host' cuStreamWaitValue64", ZERO_ERR_SYSTEM},
};

START_TEST(faults_of_cuda_are_told)
{
    atomic_bool go;
    zero_arena_t *host;
    zero_stream_t *work;
    cuda_emulate(1, "ZERO_EMULATOR_FAIL", faults[_i].fail);
    zero_device_t *d = cuda_device(0, NULL);
    cuda_arena(d, ZERO_TIER_HOST, 8, &host);
    zero_stream_t *copy = cuda_stream(d, ZERO_STREAM_COPY);
    zero_event_t *worked = cuda_event(d), *copied = cuda_event(d);
    atomic_init(&go, false);
    OK(d->ops->record(copied, copy, error));
    zero_status_t status = d->ops->stream_create(d, ZERO_STREAM_HOST, &work, &cuda_why);
    ck_assert_int_eq(status != ZERO_OK, work == NULL);
    if (status == ZERO_OK) {
        status = d->ops->wait(work, copied, 30, &cuda_why);
        OK(d->ops->enqueue(work, hold, &go, NULL, error));
        OK(d->ops->record(worked, work, error));
        if (status == ZERO_OK)
            status = d->ops->wait(copy, worked, 30, &cuda_why);
        atomic_store(&go, true);
    }
    ck_assert_int_eq(status, faults[_i].status);
    cuda_says("GPU 0");
    cuda_says(faults[_i].says);
    d->ops->stream_destroy(copy);
    d->ops->stream_destroy(work);
    d->ops->event_destroy(worked);
    d->ops->event_destroy(copied);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
}
END_TEST

TCase *cuda_host_case(void)
{
    TCase *t = tcase_create("host");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, host_work_runs_in_order_beside_the_caller, 0, 2);
    tcase_add_loop_test(t, gpu_and_host_take_turns, 0, WAYS);
    tcase_add_test(t, waits_between_gpu_and_host_are_snapshots);
    tcase_add_loop_test(t, the_caller_waits_where_the_gpu_cannot, 0, 2);
    tcase_add_test(t, a_failure_of_the_host_ends_what_waits_for_it);
    tcase_add_loop_test(t, a_wait_for_the_gpu_ends, 0, 2);
    tcase_add_test(t, a_wait_that_does_not_end_is_given_up);
    tcase_add_loop_test(t, faults_of_cuda_are_told, 0, LENGTH(faults));
    return t;
}
