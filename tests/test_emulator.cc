/* SPDX-License-Identifier: Apache-2.0 */
/* test_emulator.cc - the emulated GPU that the other CUDA tests rely on (tests/emulator): it computes what a GPU would,
 * and finds the errors that it should find. emulator_blas.cc tests its products. */
#include "tests/emulator/sample.h"
#include "tests/emulator_suites.h"

#include <cuda_runtime.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define OK(call)                                                                 \
    do {                                                                         \
        cudaError_t e_ = (call);                                                 \
        ck_assert_msg(e_ == cudaSuccess, "%s: %s", #call, cudaGetErrorName(e_)); \
    } while (0)
#define GIVES(error, call)                                                                                        \
    do {                                                                                                          \
        cudaError_t e_ = (call);                                                                                  \
        ck_assert_msg(e_ == (error), "%s: %s, and not %s", #call, cudaGetErrorName(e_), cudaGetErrorName(error)); \
    } while (0)

/* Call it first; each test is a separate process. */
static cudaStream_t start(const char *mode, const char *name = nullptr, const char *value = nullptr)
{
    setenv("ZERO_EMULATOR", mode, 1);
    if (name)
        setenv(name, value, 1);
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

template <typename T> static T *device(size_t count)
{
    T *p;
    OK(cudaMalloc(&p, count * sizeof(T)));
    return p;
}

template <typename T> static T *device(const std::vector<T> &values, cudaStream_t stream)
{
    T *p = device<T>(values.size());
    OK(cudaMemcpyAsync(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, stream));
    return p;
}

template <typename T> static std::vector<T> host(const T *p, size_t count, cudaStream_t stream)
{
    std::vector<T> values(count);
    OK(cudaMemcpyAsync(values.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost, stream));
    OK(cudaStreamSynchronize(stream));
    return values;
}

/* Runs fn in another process. That signal must kill it (a sanitizer may report the signal instead) after it printed
 * says. */
static void dies(int signal, const char *says, const std::function<void()> &fn)
{
    int ends[2], status;
    ck_assert_int_eq(pipe(ends), 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        fn();
        _exit(0);
    }
    close(ends[1]);
    std::string text;
    char part[512];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;)
        text.append(part, (size_t)n);
    close(ends[0]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg((WIFSIGNALED(status) && WTERMSIG(status) == signal) ||
                      (signal == SIGSEGV && WIFEXITED(status) && WEXITSTATUS(status) != 0),
                  "it lived on (status %x, '%s')", status, text.c_str());
    ck_assert_msg(text.find(says) != std::string::npos, "'%s' does not say '%s'", text.c_str(), says);
}

static const char *const orders[] = {"up", "down"};

/* ---- threads ---------------------------------------------------------------------------------------------------- */

START_TEST(test_block_sum)
{
    cudaStream_t stream = start("inline", "ZERO_EMULATOR_ORDER", orders[_i]);
    for (int threads : {32, 64, 96, 256, 1024}) {
        const int blocks = 7;
        std::vector<float> x((size_t)(blocks * threads));
        for (size_t i = 0; i < x.size(); i++)
            x[i] = (float)(i % 97);
        float *dx = device(x, stream), *out = device<float>(blocks);
        sample_block_sum(out, dx, blocks, threads, stream);
        OK(cudaGetLastError());
        std::vector<float> got = host(out, blocks, stream);
        for (int b = 0; b < blocks; b++) {
            float want = 0;
            for (int t = 0; t < threads; t++)
                want += x[(size_t)(b * threads + t)];
            ck_assert_float_eq(got[(size_t)b], want);
        }
        OK(cudaFree(dx));
        OK(cudaFree(out));
    }
    OK(cudaStreamDestroy(stream));
}
END_TEST

/* Against the definition of the PTX instruction. */
START_TEST(test_shuffles)
{
    cudaStream_t stream = start("inline", "ZERO_EMULATOR_ORDER", orders[_i]);
    int *out = device<int>(192);
    for (int width = 1; width <= 32; width *= 2)
        for (int argument = 0; argument < 32; argument++) {
            sample_shuffles(out, argument, width, stream);
            OK(cudaGetLastError());
            std::vector<int> got = host(out, 192, stream);
            for (int t = 0; t < 32; t++) {
                int group = t / width * width, at = group + argument % width, across = t ^ argument;
                ck_assert_int_eq(got[(size_t)t], 100 + at);
                ck_assert_int_eq(got[(size_t)t + 32], 100 + (across < group + width ? across : t));
                ck_assert_int_eq(got[(size_t)t + 64], 100 + (t + argument < group + width ? t + argument : t));
                ck_assert_int_eq(got[(size_t)t + 96], 100 + (t - argument >= group ? t - argument : t));
                ck_assert_int_eq(got[(size_t)t + 128], t % 3 == 0);
                ck_assert_int_eq(got[(size_t)t + 160], 2 * (t ^ 1) + 1);
            }
        }
}
END_TEST

START_TEST(test_indices)
{
    cudaStream_t stream = start("inline", "ZERO_EMULATOR_ORDER", orders[_i]);
    const unsigned grid[3] = {3, 4, 5}, block[3] = {7, 2, 6};
    const size_t count = 3 * 4 * 5 * 7 * 2 * 6;
    int *out = device<int>(count);
    OK(cudaMemsetAsync(out, 0, count * sizeof(int), stream));
    sample_indices(out, grid, block, stream);
    for (int x : host(out, count, stream))
        ck_assert_int_eq(x, 1);
    /* Launches that must fail. */
    const unsigned none[3] = {0, 1, 1}, wide[3] = {1025, 1, 1}, deep[3] = {1, 1, 65}, many[3] = {1, 65536, 1},
                   one[3] = {1, 1, 1};
    for (const unsigned *b : {none, wide, deep}) {
        sample_indices(out, one, b, stream);
        GIVES(cudaErrorInvalidConfiguration, cudaGetLastError());
        GIVES(cudaSuccess, cudaGetLastError());
    }
    for (const unsigned *g : {none, many}) {
        sample_indices(out, g, one, stream);
        GIVES(cudaErrorInvalidConfiguration, cudaGetLastError());
    }
}
END_TEST

START_TEST(test_shared)
{
    cudaStream_t stream = start("inline");
    const size_t room = 48 << 10;
    float *dynamic = device<float>(3 * room / 4 + 4), *fixed = device<float>(64);
    for (size_t bytes : {(size_t)64, room}) {
        for (int launch = 0; launch < 2; launch++) { /* the library's memory exists only after the first launch */
            sample_fresh_shared(dynamic, fixed, 3, bytes, stream);
            OK(cudaGetLastError());
        }
        for (float x : host(dynamic, 3 * bytes / 4, stream))
            ck_assert(std::isnan(x));
        for (float x : host(fixed, 64, stream))
            ck_assert(std::isnan(x));
    }
    sample_fresh_shared(dynamic, fixed, 1, room + 4, stream);
    GIVES(cudaErrorInvalidValue, cudaGetLastError());
    OK(sample_allow_shared((int)room + 4));
    sample_fresh_shared(dynamic, fixed, 1, room + 4, stream);
    OK(cudaGetLastError());
    GIVES(cudaErrorInvalidValue, sample_allow_shared((227 << 10) + 1));
}
END_TEST

/* A missing barrier gives a wrong result in one of the two orders. */
START_TEST(test_missing_barrier)
{
    cudaStream_t stream = start("inline", "ZERO_EMULATOR_ORDER", orders[_i]);
    float *out = device<float>(256);
    sample_missing_barrier(out, 256, stream);
    int wrong = 0;
    std::vector<float> got = host(out, 256, stream);
    for (int t = 0; t < 256; t++)
        wrong += got[(size_t)t] != (float)t - 1;
    ck_assert(_i == 0 ? wrong == 0 : wrong > 200);
}
END_TEST

START_TEST(test_divergence)
{
    static const struct {
        sample_fault_t fault;
        const char *says;
    } cases[] = {
        {SAMPLE_LEAVE, "not all threads come to the same barrier: thread 0 is at the __syncthreads of sample.cc:"},
        {SAMPLE_BRANCHES, "threads of a block come to different barriers: thread 0 is at"},
        {SAMPLE_HALF_WARP,
         "not all lanes of a warp come to the same shuffle: thread 0 is at the shuffle or __syncwarp of sample.cc:"},
        {SAMPLE_HALF_MASK, "its mask is not 0xffffffff"},
        {SAMPLE_SHORT_WARP, "in a warp of fewer than 32 threads"},
    };
    for (auto &c : cases)
        dies(SIGABRT, c.says, [&] {
            cudaStream_t stream = start("inline");
            sample_fault(c.fault, device<int>(64), stream);
        });
    dies(SIGABRT, "thread 5 has ended", [] { sample_fault(SAMPLE_LEAVE, device<int>(64), start("inline")); });
}
END_TEST

/* ---- memory ----------------------------------------------------------------------------------------------------- */

START_TEST(test_memory_is_the_devices)
{
    for (size_t bytes : {(size_t)4, (size_t)4096, (size_t)3 << 20}) {
        dies(SIGSEGV, "", [=] {
            start("inline");
            *(volatile char *)device<char>(bytes) = 1;
        });
        dies(SIGSEGV, "", [=] {
            cudaStream_t stream = start("inline"); /* also after a kernel and a copy */
            float *p = device<float>(bytes / 4);
            sample_write(p, 0, 1, 1, stream);
            host(p, 1, stream);
            (void)*(volatile float *)p;
        });
        /* Accesses beyond the end must fail: they hit an inaccessible page, or bytes that are checked. */
        dies(SIGSEGV, "", [=] {
            cudaStream_t stream = start("inline");
            sample_write(device<float>(bytes / 4), (long)bytes / 4 + 64, (long)bytes / 4 + 65, 1, stream);
        });
    }
    dies(SIGABRT, "device memory was written 0 bytes behind an allocation of 100 bytes", [] {
        cudaStream_t stream = start("inline");
        float *p = device<float>(25);
        sample_write(p, 25, 26, 1, stream);
        cudaFree(p);
    });
    dies(SIGABRT, "device memory was written 4 bytes before an allocation of 100 bytes", [] {
        cudaStream_t stream = start("inline");
        float *p = device<float>(25);
        sample_write(p, -1, 0, 1, stream);
        cudaFree(p);
    });
    dies(SIGABRT, "argument 0 points to memory that the device cannot reach", [] {
        static float plain[4];
        sample_write(plain, 0, 1, 1, start("inline"));
    });
    dies(SIGABRT, "argument 0 points to memory that the device cannot reach", [] {
        cudaStream_t stream = start("inline");
        float *p = device<float>(4);
        cudaFree(p);
        sample_write(p, 0, 1, 1, stream);
    });
    dies(SIGABRT, "default stream", [] {
        start("inline");
        sample_write(device<float>(4), 0, 1, 1, nullptr);
    });
    dies(SIGABRT, "onto itself", [] {
        cudaStream_t stream = start("inline");
        char *p = device<char>(64);
        cudaMemcpyAsync(p + 8, p, 16, cudaMemcpyDeviceToDevice, stream);
    });
}
END_TEST

START_TEST(test_allocations)
{
    cudaStream_t stream = start("inline", "ZERO_EMULATOR_MEMORY", "8388608");
    size_t available, total;
    OK(cudaMemGetInfo(&available, &total));
    ck_assert(available == 8 << 20 && total == 8 << 20);
    float *a = device<float>(1);
    for (float x : host(a, 1, stream))
        ck_assert(std::isnan(x)); /* nothing has written it */
    char *b = device<char>((2 << 20) + 1), *c;
    OK(cudaMemGetInfo(&available, &total));
    ck_assert_uint_eq(available, 2 << 20); /* the requested bytes, in multiples of 2 MiB */
    ck_assert_uint_eq((uintptr_t)a % 256, 0);
    ck_assert_uint_eq((uintptr_t)b % 256, 0);
    GIVES(cudaErrorMemoryAllocation, cudaMalloc(&c, (2 << 20) + 1));
    ck_assert_ptr_null(c);
    GIVES(cudaErrorMemoryAllocation, cudaGetLastError());
    OK(cudaFree(b));
    c = device<char>(4 << 20);
    OK(cudaFree(c));
    GIVES(cudaErrorInvalidValue, cudaFree(c));
    GIVES(cudaErrorInvalidValue, cudaFree((char *)a + 1));
    OK(cudaFree(a));
    OK(cudaFree(nullptr));
    OK(cudaMemGetInfo(&available, &total));
    ck_assert_uint_eq(available, total);

    cudaPointerAttributes at;
    int plain;
    char *pinned;
    OK(cudaHostAlloc(&pinned, 100, cudaHostAllocPortable));
    a = device<float>(1);
    OK(cudaPointerGetAttributes(&at, &plain));
    ck_assert(at.type == cudaMemoryTypeUnregistered && !at.devicePointer);
    OK(cudaPointerGetAttributes(&at, pinned + 99));
    ck_assert(at.type == cudaMemoryTypeHost && at.devicePointer == pinned + 99);
    OK(cudaPointerGetAttributes(&at, a));
    ck_assert(at.type == cudaMemoryTypeDevice && at.device == 0 && !at.hostPointer);
    GIVES(cudaErrorInvalidValue, cudaFreeHost(a));
    GIVES(cudaErrorInvalidValue, cudaFree(pinned));
    OK(cudaFreeHost(pinned));
    GIVES(cudaErrorInvalidValue, cudaFreeHost(pinned));
}
END_TEST

START_TEST(test_copies)
{
    cudaStream_t stream = start("inline");
    char *d = device<char>(100), *pinned, plain[200] = {0}, back[100];
    OK(cudaMallocHost(&pinned, 100));
    for (int i = 0; i < 100; i++)
        plain[i] = (char)i;
    OK(cudaMemcpyAsync(d, plain, 100, cudaMemcpyDefault, stream));
    OK(cudaMemcpyAsync(pinned, d, 100, cudaMemcpyDeviceToHost, stream));
    OK(cudaMemcpyAsync(back, pinned, 100, cudaMemcpyHostToHost, stream));
    ck_assert(memcmp(plain, back, 100) == 0);
    OK(cudaMemcpy2DAsync(back, 10, d, 20, 5, 4, cudaMemcpyDefault, stream));
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(back[i / 5 * 10 + i % 5], i / 5 * 20 + i % 5);
    OK(cudaMemsetAsync(d + 1, 7, 99, stream));
    OK(cudaMemcpy(back, d, 100, cudaMemcpyDeviceToHost));
    ck_assert(back[0] == 0 && back[1] == 7 && back[99] == 7);

    GIVES(cudaErrorInvalidValue,
          cudaMemcpyAsync(d + 1, plain, 100, cudaMemcpyHostToDevice, stream)); /* beyond the end */
    GIVES(cudaErrorInvalidValue, cudaMemcpyAsync(plain, d + 60, 41, cudaMemcpyDeviceToHost, stream));
    GIVES(cudaErrorInvalidValue, cudaMemcpyAsync(pinned + 1, d, 100, cudaMemcpyDeviceToHost, stream));
    GIVES(cudaErrorInvalidValue, cudaMemcpy2DAsync(plain, 21, d, 21, 20, 5, cudaMemcpyDefault, stream));
    GIVES(cudaErrorInvalidValue, cudaMemcpy2DAsync(plain, 19, d, 20, 20, 2, cudaMemcpyDefault, stream));
    GIVES(cudaErrorInvalidValue, cudaMemsetAsync(d + 1, 0, 100, stream));
    GIVES(cudaErrorInvalidValue, cudaMemsetAsync(plain, 0, 1, stream));
    GIVES(cudaErrorInvalidValue,
          cudaMemcpyAsync(plain, d, 1, cudaMemcpyHostToDevice, stream)); /* the wrong direction */
    GIVES(cudaErrorInvalidValue, cudaMemcpyAsync(d, plain, 1, cudaMemcpyDeviceToDevice, stream));
    GIVES(cudaErrorInvalidValue, cudaGetLastError());
    OK(cudaGetLastError());
    OK(cudaMemcpyAsync(nullptr, nullptr, 0, cudaMemcpyDefault, stream));
}
END_TEST

/* ---- streams and events ----------------------------------------------------------------------------------------- */

/* Work that continues when the test opens the gate. */
struct gate {
    std::atomic<int> open{0}, reached{0};
};

static void pass(void *data)
{
    gate *g = (gate *)data;
    g->reached = 1;
    while (!g->open)
        usleep(50);
}

START_TEST(test_streams_run_in_order)
{
    cudaStream_t stream = start("threads", "ZERO_EMULATOR_SEED", _i == 0 ? "1" : "77");
    float *x = device(std::vector<float>(1000), stream), *one = device(std::vector<float>(1000, 1.0f), stream);
    for (int i = 0; i < 50; i++) {
        sample_add(x, one, 1000, stream);
        sample_add(one, x, 1000, stream);
    }
    double a = 0, b = 1;
    for (int i = 0; i < 50; i++) {
        a = (float)(a + b);
        b = (float)(b + a);
    }
    for (float y : host(x, 1000, stream))
        ck_assert_float_eq(y, (float)a);
    OK(cudaStreamDestroy(stream));
    GIVES(cudaErrorInvalidResourceHandle, cudaStreamSynchronize(stream));
}
END_TEST

START_TEST(test_streams_overlap)
{
    cudaStream_t a = start("threads"), b;
    gate first;
    OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    float *x = device<float>(4), *y = device<float>(4);
    /* Without an event, b's work runs while a waits, */
    OK(cudaLaunchHostFunc(a, pass, &first));
    sample_write(x, 0, 4, 1, a);
    sample_write(y, 0, 4, 2, b);
    OK(cudaStreamSynchronize(b));
    OK(cudaStreamQuery(b));
    GIVES(cudaErrorNotReady, cudaStreamQuery(a));
    ck_assert_float_eq(host(y, 4, b)[3], 2);
    ck_assert(std::isnan(host(x, 4, b)[3])); /* so a missing event gives NaN */
    OK(cudaGetLastError());
    first.open = 1;
    OK(cudaDeviceSynchronize());
    OK(cudaStreamQuery(a));
    ck_assert_float_eq(host(x, 4, b)[3], 1);
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}
END_TEST

START_TEST(test_events)
{
    cudaStream_t a = start("threads"), b;
    cudaEvent_t event, timed;
    gate first, second;
    OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaEventCreate(&timed));
    float *x = device(std::vector<float>(4), a), *y = device(std::vector<float>(4), a),
          *one = device(std::vector<float>(4, 1.0f), a);
    OK(cudaEventQuery(event)); /* never recorded: nothing to wait for */
    OK(cudaEventSynchronize(event));
    OK(cudaStreamWaitEvent(b, event, 0));
    OK(cudaStreamSynchronize(b));

    /* b waits for work that was recorded before the wait, not for later work. */
    OK(cudaEventRecord(timed, a));
    OK(cudaLaunchHostFunc(a, pass, &first));
    sample_add(x, one, 4, a);
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    sample_add(y, x, 4, b);
    OK(cudaLaunchHostFunc(a, pass, &second));
    sample_add(x, one, 4, a);
    OK(cudaEventRecord(event, a));
    GIVES(cudaErrorNotReady, cudaEventQuery(event));
    GIVES(cudaErrorNotReady, cudaStreamQuery(b));
    first.open = 1;
    OK(cudaStreamSynchronize(b));
    GIVES(cudaErrorNotReady, cudaEventQuery(event));
    ck_assert_float_eq(host(y, 4, b)[0], 1);
    second.open = 1;
    OK(cudaEventSynchronize(event));
    OK(cudaEventQuery(event));
    ck_assert_float_eq(host(x, 4, b)[0], 2);

    float ms;
    cudaEvent_t end;
    OK(cudaEventCreate(&end));
    GIVES(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, timed, event)); /* has no time */
    GIVES(cudaErrorInvalidResourceHandle, cudaEventElapsedTime(&ms, timed, end));   /* was never recorded */
    OK(cudaEventRecord(end, a));
    OK(cudaEventSynchronize(end));
    OK(cudaEventElapsedTime(&ms, timed, end));
    ck_assert(ms > 0);
    OK(cudaStreamDestroy(a)); /* events outlive their streams */
    OK(cudaEventSynchronize(end));
    OK(cudaEventDestroy(end));
    GIVES(cudaErrorInvalidResourceHandle, cudaEventRecord(end, b));
    OK(cudaEventDestroy(event));
    OK(cudaEventDestroy(timed));
    OK(cudaStreamDestroy(b));
}
END_TEST

/* A copy from pinned memory reads it later; a copy from other memory has read it on return. */
START_TEST(test_copies_are_asynchronous)
{
    cudaStream_t a = start("threads"), b;
    gate first;
    float *pinned, plain = 3, *x = device<float>(1), *y = device<float>(1);
    OK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    OK(cudaMallocHost(&pinned, sizeof(float)));
    *pinned = 1;
    OK(cudaLaunchHostFunc(a, pass, &first));
    OK(cudaMemcpyAsync(x, pinned, sizeof(float), cudaMemcpyHostToDevice, a));
    OK(cudaMemcpyAsync(y, &plain, sizeof(float), cudaMemcpyHostToDevice, b));
    *pinned = 2;
    plain = 4;
    first.open = 1;
    OK(cudaDeviceSynchronize());
    ck_assert_float_eq(host(x, 1, b)[0], 2);
    ck_assert_float_eq(host(y, 1, b)[0], 3);
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(a));
    OK(cudaStreamDestroy(b));
}
END_TEST

/* ---- failures on demand ----------------------------------------------------------------------------------------- */

START_TEST(test_failures)
{
    switch (_i) {
    case 0: {
        float *p;
        start("inline", "ZERO_EMULATOR_FAIL", "cudaMalloc:2");
        OK(cudaMalloc(&p, 4));
        GIVES(cudaErrorMemoryAllocation, cudaMalloc(&p, 4));
        ck_assert_ptr_null(p);
        OK(cudaMalloc(&p, 4));
        break;
    }
    case 1: {
        cudaStream_t stream = start("inline", "ZERO_EMULATOR_FAIL", "launch:2+:701");
        float *p = device<float>(3);
        for (int k = 0; k < 3; k++)
            sample_write(p, k, k + 1, 1, stream);
        GIVES(cudaErrorLaunchOutOfResources, cudaGetLastError());
        std::vector<float> got = host(p, 3, stream);
        ck_assert(got[0] == 1 && std::isnan(got[1]) && std::isnan(got[2]));
        break;
    }
    case 2: { /* a kernel that faults: every later call reports it */
        cudaStream_t stream = start("threads", "ZERO_EMULATOR_FAIL", "kernel:2:700");
        float *p = device<float>(3);
        gate first;
        OK(cudaLaunchHostFunc(stream, pass, &first));
        for (int k = 0; k < 3; k++)
            sample_write(p, k, k + 1, 1, stream);
        OK(cudaGetLastError());
        GIVES(cudaErrorNotReady, cudaStreamQuery(stream));
        first.open = 1;
        GIVES(cudaErrorIllegalAddress, cudaStreamSynchronize(stream));
        GIVES(cudaErrorIllegalAddress, cudaMalloc(&p, 4));
        GIVES(cudaErrorIllegalAddress, cudaGetLastError());
        GIVES(cudaErrorIllegalAddress, cudaGetLastError());
        break;
    }
    case 3: {
        int count = -1;
        setenv("ZERO_EMULATOR_DEVICES", "0", 1);
        GIVES(cudaErrorNoDevice, cudaGetDeviceCount(&count));
        ck_assert_int_eq(count, 0);
        break;
    }
    case 4: {
        int count = -1, version = -1;
        setenv("ZERO_EMULATOR_DEVICES", "-1", 1);
        GIVES(cudaErrorInsufficientDriver, cudaGetDeviceCount(&count));
        OK(cudaDriverGetVersion(&version));
        ck_assert_int_eq(version, 0);
        break;
    }
    case 5: {
        cudaStream_t stream = start("inline", "ZERO_EMULATOR_DEVICES", "2");
        cudaDeviceProp p[2];
        size_t available, total;
        int count;
        OK(cudaGetDeviceCount(&count));
        ck_assert_int_eq(count, 2);
        OK(cudaGetDeviceProperties(&p[0], 0));
        OK(cudaGetDeviceProperties(&p[1], 1));
        ck_assert(memcmp(&p[0].uuid, &p[1].uuid, sizeof p[0].uuid) != 0 && p[0].pciBusID != p[1].pciBusID);
        GIVES(cudaErrorInvalidDevice, cudaSetDevice(2));
        OK(cudaSetDevice(1));
        device<char>(5);
        sample_write(device<float>(1), 0, 1, 1, stream); /* a stream of the other GPU */
        GIVES(cudaErrorInvalidResourceHandle, cudaGetLastError());
        OK(cudaMemGetInfo(&available, &total));
        ck_assert_uint_eq(total - available, 4 << 20);
        OK(cudaSetDevice(0));
        OK(cudaMemGetInfo(&available, &total));
        ck_assert_uint_eq(total, available);
        break;
    }
    case 6: { /* a child cannot continue its parent's work */
        start("inline");
        pid_t child = fork();
        if (child == 0) {
            int count;
            _exit(cudaGetDeviceCount(&count) == cudaErrorInitializationError ? 0 : 1);
        }
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert_int_eq(status, 0);
        break;
    }
    }
}
END_TEST

START_TEST(test_settings)
{
    static const char *const bad[][3] = {
        {"ZERO_EMULATOR", "thread", "it must be inline or threads"},
        {"ZERO_EMULATOR_ORDER", "sideways", "it must be up or down"},
        {"ZERO_EMULATOR_MEMORY", "1G", "it must be a whole number"},
        {"ZERO_EMULATOR_DEVICES", "17", "at most 16"},
        {"ZERO_EMULATOR_FAIL", "cudaMalloc", "it must be call:n"},
        {"ZERO_EMULATOR_FAIL", "cudaMalloc:1:x", "is no error number"},
    };
    for (auto &b : bad)
        dies(SIGABRT, b[2], [&] {
            int count;
            setenv(b[0], b[1], 1);
            cudaGetDeviceCount(&count);
        });
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("emulator");
    TCase *tcase = tcase_create("runtime");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, test_block_sum, 0, 2);
    tcase_add_loop_test(tcase, test_shuffles, 0, 2);
    tcase_add_loop_test(tcase, test_indices, 0, 2);
    tcase_add_test(tcase, test_shared);
    tcase_add_loop_test(tcase, test_missing_barrier, 0, 2);
    tcase_add_test(tcase, test_divergence);
    tcase_add_test(tcase, test_memory_is_the_devices);
    tcase_add_test(tcase, test_allocations);
    tcase_add_test(tcase, test_copies);
    tcase_add_loop_test(tcase, test_streams_run_in_order, 0, 2);
    tcase_add_test(tcase, test_streams_overlap);
    tcase_add_test(tcase, test_events);
    tcase_add_test(tcase, test_copies_are_asynchronous);
    tcase_add_loop_test(tcase, test_failures, 0, 7);
    tcase_add_test(tcase, test_settings);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, emulator_blas());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
