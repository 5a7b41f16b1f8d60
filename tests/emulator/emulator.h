/* SPDX-License-Identifier: Apache-2.0 */
/* emulator.h - a GPU without one, for tests: CUDA's runtime (memory.cc, streams.cc, device.cc) and its threads
 * (block.cc) on the processor.
 *
 * It finds what goes wrong without timing: host code that touches device memory, copies out of range, kernels given the
 * host's memory, barriers that some threads never reach, shuffles of part of a warp, shared memory that is read before
 * it was written (NaN) or without a barrier (ZERO_EMULATOR_ORDER), and, with a thread for each stream, work that no
 * event orders (ThreadSanitizer sees it). It does not model speed, caches, or the memory model within a block. What the
 * environment sets is in include/cuda_runtime_api.h. */
#ifndef ZERO_EMULATOR_EMULATOR_H
#define ZERO_EMULATOR_EMULATOR_H

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#define ZERO_EMULATOR_API __attribute__((visibility("default")))

enum {
    EMULATOR_DEVICES = 16,
    EMULATOR_SHARED_LIMIT = 227 << 10,
    EMULATOR_SHARED_DEFAULT = 48 << 10,
    EMULATOR_THREADS_LIMIT = 1024
};

/* What the environment said. */
struct emulator_settings {
    bool threads, down, refuse_unloaded, vmm;
    uint64_t seed, memory;
    int devices, major;
};

/* ---- device.cc -------------------------------------------------------------------------------------------------- */

const emulator_settings *emulator_setup();
/* Begins a call: an error that it has to return, injected ones included. reserves: it reserves memory. */
cudaError_t emulator_begin(const char *call, bool reserves = false);
/* Makes e the calling thread's last error, and returns it. */
cudaError_t emulator_fail(cudaError_t e);
/* From now on every call fails with e: the device's state is lost, as after a fault in a kernel. */
void emulator_lose(cudaError_t e);
cudaError_t emulator_lost();
/* The n-th such thing was asked to fail (ZERO_EMULATOR_FAIL): the error, or cudaSuccess. */
cudaError_t emulator_injected(const char *what, bool reserves);
int emulator_device();
/* One sentence on stderr, then SIGABRT. */
[[noreturn]] void emulator_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define EMULATOR_BEGIN_AS(reserves)                              \
    do {                                                         \
        cudaError_t begin_ = emulator_begin(__func__, reserves); \
        if (begin_ != cudaSuccess)                               \
            return emulator_fail(begin_);                        \
    } while (0)
#define EMULATOR_BEGIN() EMULATOR_BEGIN_AS(false)
#define EMULATOR_BEGIN_RESERVING() EMULATOR_BEGIN_AS(true)

/* ---- memory.cc -------------------------------------------------------------------------------------------------- */

/* What holds address p (one past the end too, with end): its kind, device, and the bytes from p on. */
struct emulator_place {
    cudaMemoryType type;
    int device;
    uint64_t left;
};
emulator_place emulator_find(const void *p, bool end = false);
/* cuMemGetAddressRange of the driver. */
int emulator_address_range(unsigned long long *base, size_t *bytes, unsigned long long address);
/* Device memory whose bytes are counted and whose addresses are mapped apart (vmm.cc): false where there is too little;
 * bytes at pages become the device's, with 0xff in them, until they are unmapped. */
bool emulator_memory_take(int device, uint64_t bytes);
void emulator_memory_give(int device, uint64_t bytes);
void emulator_memory_map(char *pages, uint64_t bytes, int device);
void emulator_memory_unmap(char *pages);
/* Between the two, this process may touch device memory (a count: they nest and threads may overlap). */
ZERO_EMULATOR_API void emulator_enter();
ZERO_EMULATOR_API void emulator_leave();

/* ---- vmm.cc ----------------------------------------------------------------------------------------------------- */

/* A function of the driver's for virtual memory, or NULL. */
void *emulator_vmm_function(const char *symbol);

/* ---- streams.cc ------------------------------------------------------------------------------------------------- */

/* Queues work on a stream (at once where streams have no threads): cudaErrorInvalidResourceHandle for what is no stream
 * of the current device. */
cudaError_t emulator_submit(cudaStream_t stream, std::function<void()> work);
/* Waits for what was queued on a stream; device_wait for every stream of the device (device -1: of all), of blocking
 * ones only if asked. */
void emulator_stream_wait(cudaStream_t stream);
void emulator_device_wait(int device, bool blocking_only);

/* For work that runs: the clock that events read goes so many hours on. */
void emulator_delay(int hours);

/* What was queued on a stream since its capture began (graph.cc). */
struct emulator_capture {
    std::vector<std::function<void()>> work;
    bool broken = false;   /* by a call that cannot be captured */
    std::thread::id owner; /* only this thread may end it; none: any */
};
/* Where a stream's capture is kept (NULL: it is not captured). NULL unless it is a stream of the current device. */
std::unique_ptr<emulator_capture> *emulator_capture_of(cudaStream_t stream);

/* ---- block.cc --------------------------------------------------------------------------------------------------- */

/* Runs all blocks of a kernel on the calling thread. */
void emulator_run(const zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes);

#endif
