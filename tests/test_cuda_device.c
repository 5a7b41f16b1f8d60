/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_device.c - the CUDA device on the emulator (tests/emulator): which GPUs there are, arenas. Its streams are
 * tested in cuda_streams.c and cuda_host.c: with work done at once, and with a thread for each stream, where a missing
 * event shows as a wrong value. */
#include "tests/cuda_case.h"
#include "tests/emulated.h"
#include "zero/device/host.h"

#include <sys/resource.h>

/* ---- which GPUs ------------------------------------------------------------------------------------------------- */

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

/* What stands in the way of a device, and what the sentence has to say of it. */
static const struct {
    const char *name, *value;
    int index;
    zero_status_t status;
    const char *says[2];
} refusals[] = {
    {"ZERO_EMULATOR_DEVICES", "0", 0, ZERO_ERR_UNSUPPORTED, {"shows no GPU", "CUDA_VISIBLE_DEVICES"}},
    {"ZERO_EMULATOR_DEVICES", "-1", 0, ZERO_ERR_UNSUPPORTED, {"no CUDA driver", "CUDA 13.0 or newer"}},
    {"ZERO_EMULATOR_DEVICES", "-2", 0, ZERO_ERR_UNSUPPORTED, {"driver supports CUDA 12.0, ", "needs CUDA 13.0: "}},
    {"ZERO_EMULATOR_DEVICES", "2", 3, ZERO_ERR_ARG, {"GPU 3 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_DEVICES", "2", 2, ZERO_ERR_ARG, {"GPU 2 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_DEVICES", "2", -1, ZERO_ERR_ARG, {"GPU -1 was asked for", "this machine has 2"}},
    {"ZERO_EMULATOR_FAIL", "cudaSetDevice:1+:46", 0, ZERO_ERR_SYSTEM, {"GPU 0: it cannot be used", ""}},
    {"ZERO_EMULATOR_FAIL", "launch:1:209", 0, ZERO_ERR_SYSTEM, {"cudaErrorNoKernelImageForDevice", "NVCC_GENCODE"}},
    {"ZERO_EMULATOR_FAIL",
     "cudaFuncGetAttributes:5",
     0,
     ZERO_ERR_SYSTEM,
     {"not run a kernel", "cudaErrorLaunchFailure"}},
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
    /* A caller whose struct ends before what the first release has. */
    zero_device_options_init(&o);
    o.size = offsetof(zero_device_options_t, index);
    ck_assert(zero_device_cuda(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    cuda_says("zero_device_options_t has size");
    OK(zero_device_cuda(&d, NULL, error));
    zero_device_destroy(d);
    zero_device_destroy(NULL);
    /* Nor has the CPU one. */
    zero_device_options_init(&o);
    o.index = 1;
    ck_assert(zero_device_cpu(&d, &o, &cuda_why) == ZERO_ERR_ARG);
    cuda_says("zero_device_cuda");
}
END_TEST

/* ---- arenas ----------------------------------------------------------------------------------------------------- */

START_TEST(arena_is_resident_zero_and_exact)
{
    static const uint64_t sizes[] = {1, 4095, 4097, 1000000, (2 << 20) + 1, 9 << 20};
    cuda_emulate(0, NULL, NULL);
    zero_device_t *d = cuda_device(0, NULL);
    for (int i = 0; i < 2 * (int)(sizeof sizes / sizeof *sizes); i++) {
        zero_tier_t tier = i & 1 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
        uint64_t bytes = sizes[i / 2], before = 0, during = 0, after = 0, resident = 0;
        zero_arena_t *a;
        OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
        unsigned char *p = cuda_arena(d, tier, bytes, &a), *seen = malloc(bytes), any = 0;
        ck_assert_uint_eq((uintptr_t)p % ZERO_ALIGN_BYTES, 0);
        OK(d->ops->arena_resident(a, 0, bytes, &resident, error));
        ck_assert_uint_eq(resident, bytes);
        OK(d->ops->arena_resident(a, bytes / 3, bytes - bytes / 3, &resident, error));
        ck_assert_uint_eq(resident, bytes - bytes / 3);
        ck_assert(d->ops->arena_resident(a, bytes, 1, &resident, &cuda_why) == ZERO_ERR_ARG);
        if (tier == ZERO_TIER_HOST)
            memcpy(seen, p, bytes); /* the host's */
        else
            cuda_read_back(d, seen, p, bytes);
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

/* What an arena takes is counted without a look at the GPU's free memory, which others on it change. */
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
    cuda_says("67108865 bytes");
    cuda_says("67108864 bytes free of 67108864");
    cuda_says("GPU 0 (");
    zero_arena_t *half;
    cuda_arena(d, ZERO_TIER_DEVICE, 32 << 20, &half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 33 << 20, &a, &cuda_why) == ZERO_ERR_MEMORY);
    cuda_says("33554432 bytes free of 67108864");
    d->ops->arena_destroy(half);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, UINT64_MAX, &a, &cuda_why) == ZERO_ERR_MEMORY);
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
    {"cudaMemsetAsync:1",
     ZERO_TIER_DEVICE,
     ZERO_ERR_SYSTEM,
     {"cudaMemsetAsync of 12345 bytes", "cudaErrorLaunchFailure"}},
    {"cudaHostAlloc:1", ZERO_TIER_HOST, ZERO_ERR_MEMORY, {"12345 bytes of pinned memory", "up to 65536 bytes: "}},
};

START_TEST(arena_faults_are_told_and_leave_nothing)
{
    zero_arena_t *a;
    uint64_t before = 0, after = 0;
    struct rlimit locked = {65536, 65536};
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &locked), 0);
    cuda_emulate(0, "ZERO_EMULATOR_FAIL", arena_faults[_i].fail);
    zero_device_t *d = cuda_device(0, NULL);
    /* The first look at the memory is arena_create's check of the tier. */
    ck_assert_int_eq(d->ops->arena_create(d, arena_faults[_i].tier, 12345, &a, &cuda_why), arena_faults[_i].status);
    ck_assert_ptr_null(a);
    cuda_says(arena_faults[_i].says[0]);
    cuda_says(arena_faults[_i].says[1]);
    /* Once: the next one succeeds, with all the memory there is. */
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &before, error));
    ck_assert_uint_eq(before, (uint64_t)1 << 30);
    cuda_arena(d, arena_faults[_i].tier, 12345, &a);
    d->ops->arena_destroy(a);
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &after, error));
    ck_assert_uint_eq(before, after);
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
