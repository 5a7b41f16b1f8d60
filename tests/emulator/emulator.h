/* SPDX-License-Identifier: Apache-2.0 */
/* emulator.h - emulates a GPU for tests: CUDA's runtime (memory.cc, streams.cc, device.cc) and its threads (block.cc)
 * run on the processor.
 *
 * It detects these errors without timing: host code that touches device memory, copies out of range, kernels that get
 * host memory, barriers that some threads never reach, shuffles by part of a warp, shared memory that is read before it
 * is written (NaN) or without a barrier (ZERO_EMULATOR_ORDER). With a thread for each stream, ThreadSanitizer detects
 * work that no event orders. It does not model speed, caches, or the memory model within a block.
 * include/cuda_runtime_api.h lists the environment variables. */
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

/* The settings from the environment. */
struct emulator_settings {
    bool threads, down, refuse_unloaded, vmm;
    uint64_t seed, memory;
    int devices, major;
};

/* ---- device.cc -------------------------------------------------------------------------------------------------- */

const emulator_settings *emulator_setup();
/* Begins a call. Returns the error that the call must return, including injected errors. reserves: the call reserves
 * memory. */
cudaError_t emulator_begin(const char *call, bool reserves = false);
/* Makes e the calling thread's last error, and returns e. */
cudaError_t emulator_fail(cudaError_t e);
/* Makes all later calls fail with e: the device's state is lost, as after a fault in a kernel. */
void emulator_lose(cudaError_t e);
cudaError_t emulator_lost();
/* The error that ZERO_EMULATOR_FAIL requests for this call, or cudaSuccess. what: the counted function or event. */
cudaError_t emulator_injected(const char *what, bool reserves);
int emulator_device();
/* Prints one sentence to stderr and raises SIGABRT. */
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

/* The memory that contains address p (with end, also one past its end): its kind, its device, and the bytes from p on.
 */
struct emulator_place {
    cudaMemoryType type;
    int device;
    uint64_t left;
};
emulator_place emulator_find(const void *p, bool end = false);
/* cuMemGetAddressRange of the driver. */
int emulator_address_range(unsigned long long *base, size_t *bytes, unsigned long long address);
/* Device memory that is mapped separately (vmm.cc). take counts bytes, and returns false if too few are free. map turns
 * the bytes at pages into device memory, filled with 0xff, until unmap. */
bool emulator_memory_take(int device, uint64_t bytes);
void emulator_memory_give(int device, uint64_t bytes);
void emulator_memory_map(char *pages, uint64_t bytes, int device);
void emulator_memory_unmap(char *pages);
/* Between enter and leave, this process may touch device memory. A counter tracks them: they nest, and threads may
 * overlap. */
ZERO_EMULATOR_API void emulator_enter();
ZERO_EMULATOR_API void emulator_leave();

/* ---- vmm.cc ----------------------------------------------------------------------------------------------------- */

/* A driver function for virtual memory, or NULL. */
void *emulator_vmm_function(const char *symbol);

/* ---- streams.cc ------------------------------------------------------------------------------------------------- */

/* Queues work on a stream, or runs it at once if streams have no threads. cudaErrorInvalidResourceHandle if stream is
 * not a stream of the current device. */
cudaError_t emulator_submit(cudaStream_t stream, std::function<void()> work);
/* Waits for the work on a stream. device_wait waits for all streams of the device (device -1: of all devices), or only
 * for its blocking streams. */
void emulator_stream_wait(cudaStream_t stream);
void emulator_device_wait(int device, bool blocking_only);

/* For running work: advances the clock that events read by this many hours. */
void emulator_delay(int hours);

/* The work that was queued on a stream since its capture began (graph.cc). */
struct emulator_capture {
    std::vector<std::function<void()>> work;
    bool broken = false;   /* by a call that cannot be captured */
    std::thread::id owner; /* only this thread may end it; none: any thread */
};
/* The slot of a stream's capture; it holds NULL unless the stream is captured. Returns NULL if stream is not a stream
 * of the current device. */
std::unique_ptr<emulator_capture> *emulator_capture_of(cudaStream_t stream);

/* ---- block.cc --------------------------------------------------------------------------------------------------- */

/* Runs all blocks of a kernel on the calling thread. */
void emulator_run(const zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes);

#endif
