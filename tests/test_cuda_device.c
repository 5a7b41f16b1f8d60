/* test_cuda_device.c - arenas, streams and events of the CUDA device, on the emulator (tests/emulator). Cases run with its work done at once and with
 * a thread for each stream, where a missing event shows as a wrong value. */
#define _GNU_SOURCE
#include "tests/emulated.h"
#include "tests/emulator/include/cuda_runtime_api.h"
#include "zero/device/device.h"
#include "zero/device/host.h"

#include <check.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

#define OK(call)                                                        \
    do {                                                                \
        zero_error_t e_ = {0};                                          \
        zero_error_t *error = &e_;                                      \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text);     \
    } while (0)

static zero_error_t why;

static void says(const char *part)
{
    ck_assert_msg(strstr(why.text, part), "'%s' does not say '%s'", why.text, part);
}

/* The emulator's settings, before its first call: each test is a process of its own. */
static void emulate(int threads, const char *name, const char *value)
{
    setenv("ZERO_EMULATOR", threads ? "threads" : "inline", 1);
    if (name)
        setenv(name, value, 1);
}

static zero_device_t *make(int index, void *stream)
{
    zero_device_options_t o;
    zero_device_t *d;
    zero_device_options_init(&o);
    o.index = index;
    o.stream = stream;
    OK(zero_device_cuda(&d, &o, error));
    ck_assert_str_eq(zero_device_name(d), "cuda");
    ck_assert(d->caps.asynchronous && d->caps.launches && !d->caps.host_memory);
    return d;
}

/* A function of the emulator's runtime, which the plugin has opened: as the caller's own CUDA code would use it. */
static void *runtime(const char *name)
{
    static void *library;
    if (!library)
        library = dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(library != NULL, "%s", dlerror());
    void *f = dlsym(library, name);
    ck_assert_ptr_nonnull(f);
    return f;
}
#define RUNTIME(name) ((__typeof__(name) *)runtime(#name))

static zero_stream_t *stream_of(zero_device_t *d, zero_stream_id_t id)
{
    zero_stream_t *s;
    OK(d->ops->stream_create(d, id, &s, error));
    return s;
}

static zero_event_t *event_of(zero_device_t *d)
{
    zero_event_t *event;
    OK(d->ops->event_create(d, &event, error));
    return event;
}

static void *arena_of(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena)
{
    OK(d->ops->arena_create(d, tier, bytes, arena, error));
    return d->ops->arena_base(*arena);
}

/* A task: a copy within or between the tiers. */
typedef struct move {
    zero_device_t *device;
    void *dst;
    const void *src;
    uint64_t bytes;
} move_t;

static zero_status_t run_move(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    const move_t *m = arg;
    (void)ctx;
    ck_assert_ptr_nonnull(native);
    return m->device->ops->copy(m->device, native, m->dst, m->src, m->bytes, error);
}

/* Device memory as the host sees it. */
static void read_back(zero_device_t *d, void *dst, const void *src, uint64_t bytes)
{
    zero_stream_t *s = stream_of(d, ZERO_STREAM_UPDATE);
    OK(d->ops->copy(d, d->ops->native(s), dst, src, bytes, error));
    OK(d->ops->finish(d, d->ops->native(s), 30, error));
    d->ops->stream_destroy(s);
}

/* ---- which GPUs -------------------------------------------------------------------------------------------------- */

START_TEST(gpus_are_counted_and_told_apart)
{
    emulate(0, "ZERO_EMULATOR_DEVICES", "3");
    ck_assert_int_eq(zero_cuda_devices(), 3);
    zero_device_t *a = make(0, NULL), *b = make(1, NULL), *again = make(0, NULL);
    ck_assert_uint_ne(a->ops->identity(a), 0);
    ck_assert_uint_ne(a->ops->identity(a), b->ops->identity(b));
    ck_assert_uint_eq(a->ops->identity(a), again->ops->identity(again));
    ck_assert_int_eq(b->options.index, 1);
    zero_device_destroy(a);
    zero_device_destroy(b);
    zero_device_destroy(again);
}
END_TEST

/* What stands in the way of a device, and what the sentence has to say of it. */
static const struct {
    const char *name, *value;
    int index;
    zero_status_t status;
    const char *says[2];
} refusals[] = {
    {"ZERO_EMULATOR_DEVICES", "0", 0, ZERO_ERR_UNSUPPORTED, {"shows no GPU", "CUDA_VISIBLE_DEVICES"}},
    {"ZERO_EMULATOR_DEVICES", "-1", 0, ZERO_ERR_UNSUPPORTED, {"no CUDA driver", "CUDA 13.0 or newer"}},
    {"ZERO_EMULATOR_DEVICES", "-2", 0, ZERO_ERR_UNSUPPORTED, {"driver is for CUDA 12.0, ", "built with CUDA 13.0: "}},
    {"ZERO_EMULATOR_DEVICES", "2", 3, ZERO_ERR_ARG, {"GPU 3 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_DEVICES", "2", 2, ZERO_ERR_ARG, {"GPU 2 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_DEVICES", "2", -1, ZERO_ERR_ARG, {"GPU -1 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_FAIL", "cudaSetDevice:1+:46", 0, ZERO_ERR_SYSTEM, {"GPU 0: it cannot be used", ""}},
    {"ZERO_EMULATOR_FAIL", "launch:1:209", 0, ZERO_ERR_SYSTEM, {"cudaErrorNoKernelImageForDevice", "NVCC_GENCODE"}},
    {"ZERO_EMULATOR_FAIL", "cudaStreamCreateWithFlags:1", 0, ZERO_ERR_MEMORY, {"cudaStreamCreateWithFlags", "cudaErrorMemoryAllocation"}},
    {"ZERO_EMULATOR_FAIL", "cudaGetDeviceCount:1+:999", 0, ZERO_ERR_SYSTEM, {"cudaGetDeviceCount", "cudaErrorUnknown"}},
};

START_TEST(refusals_say_why)
{
    zero_device_options_t o;
    zero_device_t *d;
    emulate(0, refusals[_i].name, refusals[_i].value);
    zero_device_options_init(&o);
    o.index = refusals[_i].index;
    ck_assert_int_eq(zero_device_cuda(&d, &o, &why), refusals[_i].status);
    ck_assert_ptr_null(d);
    says(refusals[_i].says[0]);
    says(refusals[_i].says[1]);
    if (refusals[_i].status == ZERO_ERR_UNSUPPORTED)
        ck_assert_int_eq(zero_cuda_devices(), 0);
}
END_TEST

START_TEST(options_are_checked)
{
    zero_device_options_t o = {0};
    zero_device_t *d;
    emulate(0, NULL, NULL);
    ck_assert(zero_device_cuda(&d, &o, &why) == ZERO_ERR_ARG); /* size not set */
    zero_device_options_init(&o);
    o.threads = -1;
    ck_assert(zero_device_cuda(&d, &o, &why) == ZERO_ERR_ARG);
    zero_device_options_init(&o);
    o.threaded = true;
    ck_assert(zero_device_cuda(&d, &o, &why) == ZERO_ERR_ARG);
    says("'threaded'");
    /* A caller that knows no index. */
    zero_device_options_init(&o);
    o.size = offsetof(zero_device_options_t, index);
    o.index = 77;
    OK(zero_device_cuda(&d, &o, error));
    ck_assert_int_eq(d->options.index, 0);
    zero_device_destroy(d);
    OK(zero_device_cuda(&d, NULL, error));
    zero_device_destroy(d);
    zero_device_destroy(NULL);
    /* Nor has the CPU one. */
    zero_device_options_init(&o);
    o.index = 1;
    ck_assert(zero_device_cpu(&d, &o, &why) == ZERO_ERR_ARG);
    says("zero_device_cuda");
}
END_TEST

/* ---- arenas ------------------------------------------------------------------------------------------------------ */

START_TEST(arena_is_resident_zero_and_exact)
{
    static const uint64_t sizes[] = {1, 4095, 4097, 1000000, (2 << 20) + 1, 9 << 20};
    emulate(0, NULL, NULL);
    zero_device_t *d = make(0, NULL);
    for (int i = 0; i < 2 * (int)(sizeof sizes / sizeof *sizes); i++) {
        zero_tier_t tier = i & 1 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
        uint64_t bytes = sizes[i / 2], before = 0, during = 0, after = 0, resident = 0;
        zero_arena_t *a;
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
        unsigned char *p = arena_of(d, tier, bytes, &a), *seen = malloc(bytes), any = 0;
        ck_assert_uint_eq((uintptr_t)p % ZERO_ALIGN_BYTES, 0);
        OK(d->ops->arena_resident(a, 0, bytes, &resident, error));
        ck_assert_uint_eq(resident, bytes);
        OK(d->ops->arena_resident(a, bytes / 3, bytes - bytes / 3, &resident, error));
        ck_assert_uint_eq(resident, bytes - bytes / 3);
        ck_assert(d->ops->arena_resident(a, bytes, 1, &resident, &why) == ZERO_ERR_ARG);
        if (tier == ZERO_TIER_HOST)
            memcpy(seen, p, bytes); /* the host's */
        else
            read_back(d, seen, p, bytes);
        for (uint64_t j = 0; j < bytes; j++)
            any |= seen[j];
        ck_assert_int_eq(any, 0);
        /* The GPU's memory is taken by the device tier alone, and given back. */
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &during, error));
        if (tier == ZERO_TIER_DEVICE)
            ck_assert_uint_ge(before - during, bytes);
        else
            ck_assert_uint_eq(before, during);
        d->ops->arena_destroy(a);
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
        ck_assert_uint_eq(before, after);
        free(seen);
    }
    d->ops->arena_destroy(NULL);
    zero_device_destroy(d);
}
END_TEST

START_TEST(arena_refuses_what_does_not_fit)
{
    zero_arena_t *a;
    uint64_t there = 0;
    emulate(0, "ZERO_EMULATOR_MEMORY", "67108864");
    zero_device_t *d = make(0, NULL);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &there, error));
    ck_assert_uint_eq(there, 64 << 20);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 67108865, &a, &why) == ZERO_ERR_MEMORY);
    ck_assert_ptr_null(a);
    says("67108865 bytes");
    says("67108864 bytes free of 67108864");
    says("GPU 0 (");
    zero_arena_t *half;
    arena_of(d, ZERO_TIER_DEVICE, 32 << 20, &half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 33 << 20, &a, &why) == ZERO_ERR_MEMORY);
    says("33554432 bytes free of 67108864");
    d->ops->arena_destroy(half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, UINT64_MAX, &a, &why) == ZERO_ERR_MEMORY);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_HOST, UINT64_MAX / 2, &a, &why) == ZERO_ERR_MEMORY);
    says("pinned");
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 0, &a, &why) == ZERO_ERR_ARG);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_NVME, 1, &a, &why) == ZERO_ERR_UNSUPPORTED);
    says("'nvme'");
    ck_assert(d->ops->available(d, ZERO_TIER_NVME, &there, &why) == ZERO_ERR_UNSUPPORTED);
    OK(d->ops->available(d, ZERO_TIER_HOST, &there, error));
    ck_assert_uint_le(there, (uint64_t)sysconf(_SC_PHYS_PAGES) * zero_host_page());
    zero_device_destroy(d);
}
END_TEST

/* The call that fails while an arena is made (the device's own calls come before), the tier, and the sentence. */
static const struct {
    const char *fail;
    zero_tier_t tier;
    zero_status_t status;
    const char *says[2];
} arena_faults[] = {
    {"cudaMalloc:1", ZERO_TIER_DEVICE, ZERO_ERR_MEMORY, {"12345 bytes", "bytes free of"}},
    {"cudaMalloc:1:999", ZERO_TIER_DEVICE, ZERO_ERR_SYSTEM, {"cudaMalloc of", "cudaErrorUnknown"}},
    {"cudaMemGetInfo:2:999", ZERO_TIER_DEVICE, ZERO_ERR_SYSTEM, {"cudaMemGetInfo", "cudaErrorUnknown"}},
    {"cudaMemGetInfo:3:999", ZERO_TIER_DEVICE, ZERO_ERR_SYSTEM, {"cudaMemGetInfo", "cudaErrorUnknown"}},
    {"cudaMemsetAsync:1", ZERO_TIER_DEVICE, ZERO_ERR_SYSTEM, {"cudaMemsetAsync of 12345 bytes", "cudaErrorLaunchFailure"}},
    {"cudaHostAlloc:1", ZERO_TIER_HOST, ZERO_ERR_MEMORY, {"12345 bytes of pinned memory", "up to 65536 bytes: "}},
};

START_TEST(arena_faults_are_told_and_leave_nothing)
{
    zero_arena_t *a;
    uint64_t before = 0, after = 0;
    struct rlimit locked = {65536, 65536};
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &locked), 0);
    emulate(0, "ZERO_EMULATOR_FAIL", arena_faults[_i].fail);
    zero_device_t *d = make(0, NULL);
    /* The first look at the memory is arena_create's check of the tier. */
    ck_assert_int_eq(d->ops->arena_create(d, arena_faults[_i].tier, 12345, &a, &why), arena_faults[_i].status);
    ck_assert_ptr_null(a);
    says(arena_faults[_i].says[0]);
    says(arena_faults[_i].says[1]);
    /* Once: the next one succeeds, with all the memory there is. */
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
    ck_assert_uint_eq(before, (uint64_t)1 << 30);
    arena_of(d, arena_faults[_i].tier, 12345, &a);
    d->ops->arena_destroy(a);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
    ck_assert_uint_eq(before, after);
    zero_device_destroy(d);
}
END_TEST

/* ---- streams ----------------------------------------------------------------------------------------------------- */

enum { COUNT = 200 };

/* Each value goes by way of one cell of device memory: only the order of issue makes that right. */
START_TEST(stream_runs_in_order)
{
    emulate(_i & 1, "ZERO_EMULATOR_SEED", _i & 2 ? "7" : "1");
    zero_device_t *d = make(0, NULL);
    zero_arena_t *device, *host;
    int64_t *cells = arena_of(d, ZERO_TIER_DEVICE, (COUNT + 1) * sizeof *cells, &device),
            *values = arena_of(d, ZERO_TIER_HOST, COUNT * sizeof *values, &host), back[COUNT + 1];
    move_t *moves = calloc(2 * COUNT, sizeof *moves);
    for (int id = 0; id <= ZERO_STREAM_UPDATE; id++) {
        zero_stream_t *s = stream_of(d, (zero_stream_id_t)id);
        for (int i = 0; i < COUNT; i++) {
            values[i] = 1000 * id + i;
            moves[2 * i] = (move_t){d, &cells[COUNT], &values[i], sizeof *cells};
            moves[2 * i + 1] = (move_t){d, &cells[i], &cells[COUNT], sizeof *cells};
            OK(d->ops->enqueue(s, run_move, NULL, &moves[2 * i], error));
            OK(d->ops->enqueue(s, run_move, NULL, &moves[2 * i + 1], error));
        }
        OK(d->ops->sync(s, 30, error));
        read_back(d, back, cells, sizeof back);
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

/* A pipeline of three streams over a few lanes: compute writes a value, one stream moves it on, another brings it back to pinned memory, and
 * compute may write the next one when that is done. Every arrow is an event. */
START_TEST(events_order_streams)
{
    enum { LANES = 3, ROUNDS = 90 };
    char seed[8];
    snprintf(seed, sizeof seed, "%d", _i);
    emulate(_i > 0, "ZERO_EMULATOR_SEED", seed);
    zero_device_t *d = make(0, NULL);
    zero_arena_t *device, *host;
    int64_t *cells = arena_of(d, ZERO_TIER_DEVICE, 2 * LANES * sizeof *cells, &device),
            *values = arena_of(d, ZERO_TIER_HOST, (ROUNDS + LANES) * sizeof *values, &host), *out = values + ROUNDS;
    zero_stream_t *compute = stream_of(d, ZERO_STREAM_COMPUTE), *a = stream_of(d, ZERO_STREAM_GATHER), *b = stream_of(d, ZERO_STREAM_REDUCE);
    zero_event_t *written[LANES], *moved[LANES], *back[LANES];
    move_t moves[LANES][2], *first = calloc(ROUNDS, sizeof *first);
    for (int l = 0; l < LANES; l++) {
        written[l] = event_of(d);
        moved[l] = event_of(d);
        back[l] = event_of(d);
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
        OK(d->ops->enqueue(compute, run_move, NULL, &first[i], error));
        OK(d->ops->record(written[l], compute, error));
        OK(d->ops->wait(a, written[l], 30, error));
        OK(d->ops->enqueue(a, run_move, NULL, &moves[l][0], error));
        OK(d->ops->record(moved[l], a, error));
        OK(d->ops->wait(b, moved[l], 30, error));
        OK(d->ops->enqueue(b, run_move, NULL, &moves[l][1], error));
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

/* Keeps a stream busy until the test lets it go on. */
static void hold(void *data)
{
    while (!atomic_load((atomic_bool *)data))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static zero_status_t run_hold(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)error;
    ck_assert_int_eq(RUNTIME(cudaLaunchHostFunc)(native, hold, ctx), cudaSuccess);
    return ZERO_OK;
}

START_TEST(record_is_a_snapshot_and_waits_are_bounded)
{
    atomic_bool go;
    emulate(1, NULL, NULL);
    zero_device_t *d = make(0, NULL);
    zero_arena_t *host;
    int64_t *values = arena_of(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    zero_stream_t *a = stream_of(d, ZERO_STREAM_GATHER), *b = stream_of(d, ZERO_STREAM_REDUCE);
    zero_event_t *event = event_of(d);
    move_t move = {d, &values[1], &values[0], sizeof *values};
    atomic_init(&go, false);
    values[0] = 5;
    OK(d->ops->record(event, a, error));
    OK(d->ops->wait(b, event, 30, error));
    OK(d->ops->enqueue(a, run_hold, &go, NULL, error));
    OK(d->ops->record(event, a, error)); /* behind hold */
    OK(d->ops->enqueue(b, run_move, NULL, &move, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(values[1], 5);
    double begin = zero_host_now();
    ck_assert(d->ops->host_wait(event, 0.02, &why) == ZERO_ERR_TIMEOUT);
    says("'gather'");
    ck_assert(d->ops->sync(a, 0.02, &why) == ZERO_ERR_TIMEOUT);
    says("'gather'");
    says("0.02 s");
    ck_assert(d->ops->finish(d, d->ops->native(a), 0.02, &why) == ZERO_ERR_TIMEOUT);
    ck_assert_double_ge(zero_host_now() - begin, 0.06);
    /* A wait that was too short is no failure of the stream. */
    OK(d->ops->wait(b, event, 30, error));
    values[0] = 6;
    OK(d->ops->enqueue(b, run_move, NULL, &move, error));
    ck_assert(d->ops->sync(b, 0.02, &why) == ZERO_ERR_TIMEOUT);
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

/* A stream that does not end is given up: destroy returns, and what its work may still write stays. */
START_TEST(a_stream_that_does_not_end_is_given_up)
{
    atomic_bool go;
    uint64_t before = 0, after = 0;
    emulate(1, NULL, NULL);
    zero_device_t *d = make(0, NULL);
    zero_arena_t *device;
    zero_stream_t *s = stream_of(d, ZERO_STREAM_GATHER);
    arena_of(d, ZERO_TIER_DEVICE, 4 << 20, &device);
    atomic_init(&go, false);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
    OK(d->ops->enqueue(s, run_hold, &go, NULL, error));
    ck_assert(d->ops->sync(s, 0.02, &why) == ZERO_ERR_TIMEOUT);
    double begin = zero_host_now();
    d->ops->stream_destroy(s);
    ck_assert_double_ge(zero_host_now() - begin, 1); /* it had its chance */
    d->ops->arena_destroy(device);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
    ck_assert_uint_eq(before, after);
    zero_device_destroy(d);
    atomic_store(&go, true);
}
END_TEST

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static zero_status_t fails(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)ctx, (void)arg, (void)native;
    return zero_fail(error, ZERO_ERR_IO, "task %d failed", 7);
}

static zero_status_t count_up(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    ++*(int *)ctx;
    return ZERO_OK;
}

START_TEST(failure_is_kept_and_passed_on)
{
    int ran = 0;
    emulate(_i, NULL, NULL);
    zero_device_t *d = make(0, NULL);
    zero_stream_t *a = stream_of(d, ZERO_STREAM_GATHER), *b = stream_of(d, ZERO_STREAM_UPDATE);
    zero_event_t *event = event_of(d);
    ck_assert(d->ops->enqueue(a, fails, NULL, NULL, &why) == ZERO_ERR_IO);
    ck_assert(d->ops->sync(a, 30, &why) == ZERO_ERR_IO);
    ck_assert_str_eq(why.text, "task 7 failed");
    ck_assert(d->ops->enqueue(a, count_up, &ran, NULL, &why) == ZERO_ERR_IO);
    ck_assert(d->ops->wait(a, event, 30, &why) == ZERO_ERR_IO);
    ck_assert(d->ops->record(event, a, &why) == ZERO_ERR_IO);
    /* Whoever waits for a stream that failed fails alike. */
    ck_assert(d->ops->host_wait(event, 30, &why) == ZERO_ERR_IO);
    ck_assert(d->ops->wait(b, event, 30, &why) == ZERO_ERR_IO);
    ck_assert_str_eq(why.text, "task 7 failed");
    ck_assert_int_eq(ran, 0);
    /* The others go on. */
    OK(d->ops->enqueue(b, count_up, &ran, NULL, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(ran, 1);
    d->ops->stream_destroy(a);
    /* It is known after the stream is gone. */
    ck_assert(d->ops->host_wait(event, 30, &why) == ZERO_ERR_IO);
    d->ops->stream_destroy(b);
    d->ops->event_destroy(event);
    zero_device_destroy(d);
}
END_TEST

/* The call that fails, and how the sentence begins after the GPU's name. */
static const struct {
    const char *fail, *says;
    bool at_once; /* waiting takes a known number of calls only there */
} stream_faults[] = {
    {"cudaMemcpyAsync:1:700", "cudaMemcpyAsync of 8 bytes: ", false},
    {"cudaEventRecord:1:700", "stream 'gather', cudaEventRecord: ", false},
    {"cudaStreamWaitEvent:1:700", "stream 'update', cudaStreamWaitEvent: ", false},
    {"cudaEventQuery:1:700", "stream 'gather', cudaEventQuery: ", false},
    {"cudaStreamQuery:2:700", "stream 'gather', cudaStreamQuery: ", true}, /* the first is the empty kernel's */
};

/* Every fault of CUDA fails the stream where it was seen, for good, with a sentence of the call and of what to do. */
START_TEST(faults_of_cuda_are_kept)
{
    emulate(_i & 1 && !stream_faults[_i / 2].at_once, "ZERO_EMULATOR_FAIL", stream_faults[_i / 2].fail);
    zero_device_t *d = make(0, NULL);
    zero_arena_t *host;
    int64_t *values = arena_of(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    zero_stream_t *a = stream_of(d, ZERO_STREAM_GATHER), *b = stream_of(d, ZERO_STREAM_UPDATE);
    zero_event_t *event = event_of(d);
    move_t move = {d, &values[1], &values[0], sizeof *values};
    int ran = 0;
    bool second = false;
    zero_status_t status = d->ops->enqueue(a, run_move, NULL, &move, &why);
    if (status == ZERO_OK)
        status = d->ops->record(event, a, &why);
    if (status == ZERO_OK) {
        status = d->ops->wait(b, event, 30, &why);
        second = status != ZERO_OK;
    }
    if (status == ZERO_OK)
        status = d->ops->host_wait(event, 30, &why);
    if (status == ZERO_OK)
        status = d->ops->sync(a, 30, &why);
    ck_assert_int_eq(status, ZERO_ERR_SYSTEM);
    says("GPU 0 (");
    says(stream_faults[_i / 2].says);
    says("an illegal memory access was encountered (cudaErrorIllegalAddress): ");
    says("CUDA_LAUNCH_BLOCKING=1");
    zero_error_t first = why;
    ck_assert(d->ops->enqueue(second ? b : a, count_up, &ran, NULL, &why) == ZERO_ERR_SYSTEM);
    ck_assert_str_eq(why.text, first.text);
    ck_assert(d->ops->sync(second ? b : a, 30, &why) == ZERO_ERR_SYSTEM);
    ck_assert_int_eq(ran, 0);
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->event_destroy(event);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
}
END_TEST

/* ---- threads, the caller's stream -------------------------------------------------------------------------------- */

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
    OK(ops->enqueue(e->stream, run_move, NULL, &e->move, error));
    OK(ops->record(e->event, e->stream, error));
    OK(ops->host_wait(e->event, 30, error));
    zero_stream_t *another = stream_of(e->device, ZERO_STREAM_UPDATE);
    OK(ops->wait(another, e->event, 30, error));
    arena_of(e->device, ZERO_TIER_DEVICE, 4096, &arena);
    OK(ops->copy(e->device, ops->native(another), ops->arena_base(arena), e->move.src, 8, error));
    OK(ops->sync(another, 30, error));
    ops->arena_destroy(arena);
    ops->stream_destroy(another);
    return NULL;
}

/* CUDA's current device is each thread's own: a thread that has never heard of the second GPU uses it. */
START_TEST(any_thread_may_call)
{
    emulate(_i, "ZERO_EMULATOR_DEVICES", "2");
    zero_device_t *one = make(1, NULL), *zero = make(0, NULL); /* the last is current here */
    zero_arena_t *host;
    int64_t *values = arena_of(one, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    elsewhere_t e = {one, stream_of(one, ZERO_STREAM_GATHER), event_of(one), {one, &values[1], &values[0], sizeof *values}};
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
    emulate(_i, "ZERO_EMULATOR_DEVICES", "2");
    ck_assert_int_eq(zero_cuda_devices(), 2); /* opens the plugin */
    ck_assert_int_eq(RUNTIME(cudaSetDevice)(0), cudaSuccess);
    ck_assert_int_eq(RUNTIME(cudaStreamCreateWithFlags)(&mine, cudaStreamNonBlocking), cudaSuccess);
    zero_device_t *d = make(0, mine);
    for (int id = 0; id <= ZERO_STREAM_UPDATE; id++) {
        zero_stream_t *s = stream_of(d, (zero_stream_id_t)id);
        ck_assert((d->ops->native(s) == mine) == (id == ZERO_STREAM_COMPUTE));
        ck_assert_ptr_nonnull(d->ops->native(s));
        d->ops->stream_destroy(s);
    }
    /* It is still the caller's to use, and to destroy. */
    zero_arena_t *host;
    int64_t *values = arena_of(d, ZERO_TIER_HOST, 2 * sizeof *values, &host);
    values[0] = 3;
    OK(d->ops->copy(d, mine, &values[1], &values[0], sizeof *values, error));
    OK(d->ops->finish(d, mine, 30, error));
    ck_assert_int_eq(values[1], 3);
    d->ops->arena_destroy(host);
    zero_device_destroy(d);
    ck_assert_int_eq(RUNTIME(cudaStreamDestroy)(mine), cudaSuccess);
    /* One of another GPU is refused. */
    RUNTIME(cudaSetDevice)(1);
    ck_assert_int_eq(RUNTIME(cudaStreamCreateWithFlags)(&other, cudaStreamNonBlocking), cudaSuccess);
    zero_device_options_t o;
    zero_device_options_init(&o);
    o.stream = other;
    ck_assert(zero_device_cuda(&d, &o, &why) == ZERO_ERR_SYSTEM);
    says("the stream that was handed in");
    ck_assert_ptr_null(d);
    RUNTIME(cudaSetDevice)(1);
    RUNTIME(cudaStreamDestroy)(other);
}
END_TEST

#define LENGTH(a) (int)(sizeof(a) / sizeof *(a))

int main(void)
{
    if (!emulated_plugins()) {
        puts("there is no C++ compiler for tests/emulator");
        return 77;
    }
    Suite *suite = suite_create("cuda_device");
    TCase *t = tcase_create("cuda_device");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, gpus_are_counted_and_told_apart);
    tcase_add_loop_test(t, refusals_say_why, 0, LENGTH(refusals));
    tcase_add_test(t, options_are_checked);
    tcase_add_test(t, arena_is_resident_zero_and_exact);
    tcase_add_test(t, arena_refuses_what_does_not_fit);
    tcase_add_loop_test(t, arena_faults_are_told_and_leave_nothing, 0, LENGTH(arena_faults));
    tcase_add_loop_test(t, stream_runs_in_order, 0, 4);
    tcase_add_loop_test(t, events_order_streams, 0, 8);
    tcase_add_test(t, record_is_a_snapshot_and_waits_are_bounded);
    tcase_add_test(t, a_stream_that_does_not_end_is_given_up);
    tcase_add_loop_test(t, failure_is_kept_and_passed_on, 0, 2);
    tcase_add_loop_test(t, faults_of_cuda_are_kept, 0, 2 * LENGTH(stream_faults));
    tcase_add_loop_test(t, any_thread_may_call, 0, 2);
    tcase_add_loop_test(t, the_callers_stream_is_borrowed, 0, 2);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
