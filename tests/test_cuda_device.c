/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_device.c - the CUDA device on the emulator (tests/emulator): the choice of GPUs, and arenas. cuda_streams.c
 * and cuda_host.c test its streams, with work done at once, and with a thread for each stream, where a missing event
 * gives wrong values. */
#include "tests/cuda_case.h"
#include "tests/emulated.h"
#include "zero/device/host.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

/* ---- the choice of GPUs ----------------------------------------------------------------------------------------- */

START_TEST(gpus_are_counted_and_told_apart)
{
    cuda_emulate(0, "ZERO_EMULATOR_DEVICES", "3");
    ck_assert_int_eq(zero_cuda_devices(), 3);
    zero_device_t *a = cuda_device(0, NULL), *b = cuda_device(1, NULL), *again = cuda_device(0, NULL);
    ck_assert_uint_ne(a->ops->identity(a), 0);
    ck_assert_uint_ne(a->ops->identity(a), b->ops->identity(b));
    ck_assert_uint_eq(a->ops->identity(a), again->ops->identity(again));
    ck_assert_int_eq(b->options.index, 1);
    zero_device_destroy(a);
    zero_device_destroy(b);
    zero_device_destroy(again);
}
END_TEST

/* Reasons why a device cannot be created, and what the sentence must contain. */
static const struct {
    const char *name, *value;
    int index;
    zero_status_t status;
    const char *says[2];
} refusals[] = {
    {"ZERO_EMULATOR_DEVICES", "0", 0, ZERO_ERR_UNSUPPORTED, {"GPU", "CUDA_VISIBLE_DEVICES"}},
    {"ZERO_EMULATOR_DEVICES", "-1", 0, ZERO_ERR_UNSUPPORTED, {"CUDA", "CUDA 13.0"}},
    {"ZERO_EMULATOR_DEVICES", "-2", 0, ZERO_ERR_UNSUPPORTED, {"CUDA 12.0", "CUDA 13.0"}},
    {"ZERO_EMULATOR_DEVICES", "2", 3, ZERO_ERR_ARG, {"GPU 3", "2"}},
    {"ZERO_EMULATOR_DEVICES", "2", 2, ZERO_ERR_ARG, {"GPU 2", "2"}},
    {"ZERO_EMULATOR_DEVICES", "2", -1, ZERO_ERR_ARG, {"GPU -1", "2"}},
    {"ZERO_EMULATOR_FAIL", "cudaSetDevice:1+:46", 0, ZERO_ERR_SYSTEM, {"GPU 0", ""}},
    {"ZERO_EMULATOR_FAIL", "launch:1:209", 0, ZERO_ERR_SYSTEM, {"cudaErrorNoKernelImageForDevice", "NVCC_GENCODE"}},
    {"ZERO_EMULATOR_FAIL", "cudaFuncGetAttributes:5", 0, ZERO_ERR_SYSTEM, {"", "cudaErrorLaunchFailure"}},
    {"ZERO_EMULATOR_FAIL",
     "cudaStreamCreateWithFlags:1",
     0,
     ZERO_ERR_MEMORY,
     {"cudaStreamCreateWithFlags", "cudaErrorMemoryAllocation"}},
    {"ZERO_EMULATOR_FAIL", "cudaGetDeviceCount:1+:999", 0, ZERO_ERR_SYSTEM, {"cudaGetDeviceCount", "cudaErrorUnknown"}},
};

START_TEST(refusals_say_why)
{
    zero_device_options_t o;
    zero_device_t *d;
    cuda_emulate(0, refusals[_i].name, refusals[_i].value);
    zero_device_options_init(&o);
    o.index = refusals[_i].index;
    ck_assert_int_eq(zero_device_cuda(&d, &o, &cuda_why), refusals[_i].status);
    ck_assert_ptr_null(d);
    cuda_says(refusals[_i].says[0]);
    cuda_says(refusals[_i].says[1]);
    if (refusals[_i].status == ZERO_ERR_UNSUPPORTED)
        ck_assert_int_eq(zero_cuda_devices(), 0);
}
END_TEST

START_TEST(options_are_checked)
{
    zero_device_options_t o = {0};
    zero_device_t *d;
    cuda_emulate(0, NULL, NULL);
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_ARG); /* size not set */
    zero_device_options_init(&o);
    o.threads = -1;
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    zero_device_options_init(&o);
    o.threaded = true;
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    cuda_says("'threaded'");
    /* The caller's struct ends before members of the first release. */
    zero_device_options_init(&o);
    o.size = offsetof(zero_device_options_t, index);
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    cuda_says("zero_device_options_t");
    OK(zero_device_cuda(&d, NULL, error));
    zero_device_destroy(d);
    zero_device_destroy(NULL);
    /* The CPU device refuses an index. */
    zero_device_options_init(&o);
    o.index = 1;
    ck_assert(zero_device_cpu(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    cuda_says("zero_device_cuda");
}
END_TEST

/* ---- arenas ----------------------------------------------------------------------------------------------------- */

enum { DEVICE, SHAREABLE, HOST, PLACES };

static zero_status_t create(zero_device_t *d, int place, uint64_t bytes, zero_arena_t **a, zero_error_t *error)
{
    return place == SHAREABLE
               ? d->ops->arena_create_shareable(d, bytes, a, error)
               : d->ops->arena_create(d, place == HOST ? ZERO_TIER_HOST : ZERO_TIER_DEVICE, bytes, a, error);
}

START_TEST(arena_is_resident_zero_and_exact)
{
    static const uint64_t sizes[] = {1, 4095, 4097, 1000000, (2 << 20) + 1, 9 << 20};
    cuda_emulate(0, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    for (int i = 0; i < PLACES * LENGTH(sizes); i++) {
        int place = i % PLACES;
        uint64_t bytes = sizes[i / PLACES], before = 0, during = 0, after = 0, resident = 0;
        zero_arena_t *a;
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
        OK(create(d, place, bytes, &a, error));
        unsigned char *p = d->ops->arena_base(a), *seen = malloc(bytes), any = 0;
        ck_assert_uint_eq((uintptr_t)p % ZERO_ALIGN_BYTES, 0);
        OK(d->ops->arena_resident(a, 0, bytes, &resident, error));
        ck_assert_uint_eq(resident, bytes);
        OK(d->ops->arena_resident(a, bytes / 3, bytes - bytes / 3, &resident, error));
        ck_assert_uint_eq(resident, bytes - bytes / 3);
        ck_assert(d->ops->arena_resident(a, bytes, 1, &resident, &cuda_why) == ZERO_ERR_ARG);
        if (place == HOST)
            memcpy(seen, p, bytes); /* p is host memory */
        else
            cuda_read_back(d, seen, p, bytes);
        for (uint64_t j = 0; j < bytes; j++)
            any |= seen[j];
        ck_assert_int_eq(any, 0);
        /* Only the device tier takes the GPU's memory, and it gives the memory back. */
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &during, error));
        if (place == HOST)
            ck_assert_uint_eq(before, during);
        else
            ck_assert_uint_ge(before - during, bytes);
        d->ops->arena_destroy(a);
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
        ck_assert_uint_eq(before, after);
        free(seen);
    }
    d->ops->arena_destroy(NULL);
    zero_device_destroy(d);
}
END_TEST

/* Counting an arena's memory does not read the GPU's free memory, which other processes change. */
START_TEST(arena_is_counted_for_itself)
{
    uint64_t resident = 0;
    zero_arena_t *a;
    cuda_emulate(0, "ZERO_EMULATOR_FAIL", "cudaMemGetInfo:3+:999");
    zero_device_t *d = cuda_device(0, NULL);
    cuda_arena(d, ZERO_TIER_DEVICE, 5 << 20, &a);
    OK(d->ops->arena_resident(a, 0, 5 << 20, &resident, error));
    ck_assert_uint_eq(resident, 5 << 20);
    d->ops->arena_destroy(a);
    zero_device_destroy(d);
}
END_TEST

START_TEST(arena_refuses_what_does_not_fit)
{
    zero_arena_t *a;
    uint64_t there = 0;
    cuda_emulate(0, "ZERO_EMULATOR_MEMORY", "67108864");
    zero_device_t *d = cuda_device(0, NULL);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &there, error));
    ck_assert_uint_eq(there, 64 << 20);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 67108865, &a, &cuda_why) == ZERO_ERR_MEMORY);
    ck_assert_ptr_null(a);
    cuda_says("67108865");
    cuda_says("67108864");
    cuda_says("GPU 0");
    zero_arena_t *half;
    cuda_arena(d, ZERO_TIER_DEVICE, 32 << 20, &half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 33 << 20, &a, &cuda_why) == ZERO_ERR_MEMORY);
    cuda_says("33554432 67108864");
    d->ops->arena_destroy(half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, UINT64_MAX, &a, &cuda_why) == ZERO_ERR_MEMORY);
    /* One byte less than is free, which is more than is free in whole pieces. */
    ck_assert(d->ops->arena_create_shareable(d, (64 << 20) - 1, &half, &cuda_why) == ZERO_OK);
    ck_assert(d->ops->arena_create_shareable(d, 1, &a, &cuda_why) == ZERO_ERR_MEMORY);
    cuda_says("0 67108864");
    d->ops->arena_destroy(half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_HOST, UINT64_MAX / 2, &a, &cuda_why) == ZERO_ERR_MEMORY);
    cuda_says("pinned");
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 0, &a, &cuda_why) == ZERO_ERR_ARG);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_NVME, 1, &a, &cuda_why) == ZERO_ERR_UNSUPPORTED);
    cuda_says("'nvme'");
    ck_assert(d->ops->available(d, ZERO_TIER_NVME, &there, &cuda_why) == ZERO_ERR_UNSUPPORTED);
    OK(d->ops->available(d, ZERO_TIER_HOST, &there, error));
    ck_assert_uint_le(there, (uint64_t)sysconf(_SC_PHYS_PAGES) * zero_host_page());
    zero_device_destroy(d);
}
END_TEST

/* The call that fails while an arena is created (after the device's own calls), the tier, and the sentence. */
static const struct {
    const char *fail;
    int place;
    zero_status_t status;
    const char *says[2];
} arena_faults[] = {
    {"cudaMalloc:1", DEVICE, ZERO_ERR_MEMORY, {"12345", ""}},
    {"cudaMalloc:1:999", DEVICE, ZERO_ERR_SYSTEM, {"cudaMalloc", "cudaErrorUnknown"}},
    {"cudaMemGetInfo:2:999", DEVICE, ZERO_ERR_SYSTEM, {"cudaMemGetInfo", "cudaErrorUnknown"}},
    {"cudaMemsetAsync:1", DEVICE, ZERO_ERR_SYSTEM, {"cudaMemsetAsync 12345", "cudaErrorLaunchFailure"}},
    {"cudaHostAlloc:1", HOST, ZERO_ERR_MEMORY, {"12345", "65536"}},
    {"cuMemGetAllocationGranularity:1:999", SHAREABLE, ZERO_ERR_SYSTEM, {"12345", "cudaErrorUnknown"}},
    {"cuMemCreate:1", SHAREABLE, ZERO_ERR_MEMORY, {"12345", ""}},
    {"cuMemCreate:1:999", SHAREABLE, ZERO_ERR_SYSTEM, {"4194304", "cudaErrorUnknown"}},
    {"cuMemAddressReserve:1", SHAREABLE, ZERO_ERR_MEMORY, {"12345", ""}},
    {"cuMemMap:1:999", SHAREABLE, ZERO_ERR_SYSTEM, {"4194304", "cudaErrorUnknown"}},
    {"cuMemSetAccess:1:999", SHAREABLE, ZERO_ERR_SYSTEM, {"4194304", "cudaErrorUnknown"}},
    {"cudaMemsetAsync:1", SHAREABLE, ZERO_ERR_SYSTEM, {"cudaMemsetAsync 12345", "cudaErrorLaunchFailure"}},
};

START_TEST(arena_faults_are_told_and_leave_nothing)
{
    zero_arena_t *a;
    uint64_t before = 0, after = 0;
    struct rlimit locked = {65536, 65536};
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &locked), 0);
    cuda_emulate(0, "ZERO_EMULATOR_FAIL", arena_faults[_i].fail);
    zero_device_t *d = cuda_device(0, NULL);
    /* arena_create first reads the free memory to check the tier. */
    ck_assert_int_eq(create(d, arena_faults[_i].place, 12345, &a, &cuda_why), arena_faults[_i].status);
    ck_assert_ptr_null(a);
    cuda_says(arena_faults[_i].says[0]);
    cuda_says(arena_faults[_i].says[1]);
    /* The call fails only once: then arena_create succeeds, and all memory is free before it. */
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
    ck_assert_uint_eq(before, (uint64_t)1 << 30);
    OK(create(d, arena_faults[_i].place, 12345, &a, error));
    d->ops->arena_destroy(a);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
    ck_assert_uint_eq(before, after);
    zero_device_destroy(d);
}
END_TEST

/* ---- memory that other processes can map ------------------------------------------------------------------------ */

/* Its handles have every kind that the GPU and the system support. */
START_TEST(shareable_arena_can_be_exported)
{
    static const struct {
        const char *fail;
        int kinds;
    } cases[] = {{"", CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | CU_MEM_HANDLE_TYPE_FABRIC},
                 {"cuMemCreate:1:800", CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR},
                 {"cuMemCreate:1:801", CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR}};
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp p;
    zero_arena_t *a;
    cuda_emulate(0, "ZERO_EMULATOR_FAIL", cases[_i].fail);
    zero_device_t *d = cuda_device(0, NULL);
    OK(d->ops->arena_create_shareable(d, 5 << 20, &a, error));
    ck_assert_int_eq(RUNTIME(cuMemRetainAllocationHandle)(&handle, d->ops->arena_base(a)), CUDA_SUCCESS);
    ck_assert_int_eq(RUNTIME(cuMemGetAllocationPropertiesFromHandle)(&p, handle), CUDA_SUCCESS);
    ck_assert_int_eq(p.requestedHandleTypes, cases[_i].kinds);
    ck_assert_int_eq(p.allocFlags.gpuDirectRDMACapable, 1);
    ck_assert_int_eq(RUNTIME(cuMemRelease)(handle), CUDA_SUCCESS);
    d->ops->arena_destroy(a);
    zero_device_destroy(d);
}
END_TEST

static void *release_later(void *go)
{
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    atomic_store((atomic_bool *)go, true);
    return NULL;
}

/* Work that still runs on the GPU keeps its memory until it is done. */
START_TEST(shareable_arena_outlives_its_work)
{
    enum { BYTES = 1 << 20 };
    static atomic_bool go;
    zero_arena_t *a;
    pthread_t later;
    cuda_emulate(1, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    zero_stream_t *s = cuda_stream(d, ZERO_STREAM_COMPUTE);
    OK(d->ops->arena_create_shareable(d, BYTES, &a, error));
    char *p = d->ops->arena_base(a);
    OK(d->ops->enqueue(s, cuda_hold, &go, NULL, error));
    OK(d->ops->copy(d, d->ops->native(s), p, p + BYTES / 2, BYTES / 2, error));
    ck_assert_int_eq(pthread_create(&later, NULL, release_later, &go), 0);
    d->ops->arena_destroy(a);
    ck_assert(atomic_load(&go));
    pthread_join(later, NULL);
    d->ops->stream_destroy(s);
    zero_device_destroy(d);
}
END_TEST

static void *no_memory(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment)
{
    (void)ctx, (void)tier, (void)bytes, (void)alignment;
    return NULL;
}

static void no_release(void *ctx, zero_tier_t tier, void *memory, size_t bytes)
{
    (void)ctx, (void)tier, (void)memory, (void)bytes;
}

START_TEST(shareable_arena_is_refused)
{
    zero_device_options_t o;
    zero_device_t *d;
    zero_arena_t *a;
    cuda_emulate(0, _i ? "ZERO_EMULATOR_VMM" : NULL, "no");
    zero_device_options_init(&o);
    const zero_allocator_t none = {.size = sizeof none, .allocate = no_memory, .release = no_release};
    if (_i == 0)
        o.allocator = &none;
    OK(zero_device_cuda(&d, &o, error));
    ck_assert(d->ops->arena_create_shareable(d, 4096, &a, &cuda_why) == ZERO_ERR_UNSUPPORTED);
    ck_assert_ptr_null(a);
    cuda_says(_i ? "GPU 0" : "GPU 0");
    cuda_says("nccl_windows");
    zero_device_destroy(d);
}
END_TEST

int main(void)
{
    if (!emulated_plugins()) {
        puts("there is no C++ compiler for tests/emulator");
        return 77;
    }
    Suite *suite = suite_create("cuda_device");
    TCase *t = tcase_create("device");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, gpus_are_counted_and_told_apart);
    tcase_add_loop_test(t, refusals_say_why, 0, LENGTH(refusals));
    tcase_add_test(t, options_are_checked);
    tcase_add_test(t, arena_is_resident_zero_and_exact);
    tcase_add_test(t, arena_is_counted_for_itself);
    tcase_add_test(t, arena_refuses_what_does_not_fit);
    tcase_add_loop_test(t, arena_faults_are_told_and_leave_nothing, 0, LENGTH(arena_faults));
    tcase_add_loop_test(t, shareable_arena_can_be_exported, 0, 3);
    tcase_add_test(t, shareable_arena_outlives_its_work);
    tcase_add_loop_test(t, shareable_arena_is_refused, 0, 2);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, cuda_streams_case());
    suite_add_tcase(suite, cuda_host_case());
    suite_add_tcase(suite, cuda_capture_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
