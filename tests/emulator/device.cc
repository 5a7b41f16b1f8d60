/* SPDX-License-Identifier: Apache-2.0 */
/* device.cc - errors, settings and devices of the emulator. */
#include "tests/emulator/emulator.h"

#include <cerrno>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <unistd.h>

namespace
{

struct state {
    emulator_settings settings;
    pid_t process;
    std::string fail_call;
    int64_t fail_at = 0;
    bool fail_after = false;
    int fail_error = 0;
    std::atomic<int64_t> calls{0};
    std::atomic<int> lost{cudaSuccess};
    std::mutex counted;
    std::map<std::string, uint64_t> counts;
};

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

uint64_t number(const char *name, const char *text, uint64_t least)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != 0 || value < least)
        emulator_die("%s=%s: it must be a whole number of at least %llu", name, text, (unsigned long long)least);
    return value;
}

/* call:n[+][:error] */
void parse_fail(state *s, const char *text)
{
    char call[64];
    int n = 0, used = 0;
    if (sscanf(text, "%63[A-Za-z0-9]:%d%n", call, &n, &used) != 2 || n < 1)
        emulator_die("ZERO_EMULATOR_FAIL=%s: it must be call:n, call:n+, or either with :error", text);
    text += used;
    s->fail_after = *text == '+';
    text += s->fail_after;
    if (*text && (sscanf(text, ":%d%n", &s->fail_error, &used) != 1 || text[used]))
        emulator_die("ZERO_EMULATOR_FAIL: '%s' is no error number", text);
    s->fail_call = call;
    s->fail_at = n;
}

state *the_state()
{
    static state *s = [] {
        state *n = new state();
        const char *e = getenv("ZERO_EMULATOR");
        if (e && strcmp(e, "threads") != 0 && strcmp(e, "inline") != 0)
            emulator_die("ZERO_EMULATOR=%s: it must be inline or threads", e);
        n->settings.threads = e && strcmp(e, "threads") == 0;
        e = getenv("ZERO_EMULATOR_ORDER");
        if (e && strcmp(e, "up") != 0 && strcmp(e, "down") != 0)
            emulator_die("ZERO_EMULATOR_ORDER=%s: it must be up or down", e);
        n->settings.down = e && strcmp(e, "down") == 0;
        e = getenv("ZERO_EMULATOR_UNLOADED");
        if (e && strcmp(e, "refuse") != 0)
            emulator_die("ZERO_EMULATOR_UNLOADED=%s: it must be refuse", e);
        n->settings.refuse_unloaded = e;
        e = getenv("ZERO_EMULATOR_VMM");
        if (e && strcmp(e, "no") != 0)
            emulator_die("ZERO_EMULATOR_VMM=%s: it must be no", e);
        n->settings.vmm = !e;
        e = getenv("ZERO_EMULATOR_SEED");
        n->settings.seed = e ? number("ZERO_EMULATOR_SEED", e, 0) : 1;
        e = getenv("ZERO_EMULATOR_MEMORY");
        n->settings.memory = e ? number("ZERO_EMULATOR_MEMORY", e, 1) : (uint64_t)1 << 30;
        e = getenv("ZERO_EMULATOR_DEVICES");
        n->settings.devices = !e                     ? 1
                              : strcmp(e, "-1") == 0 ? -1
                              : strcmp(e, "-2") == 0 ? -2
                                                     : (int)number("ZERO_EMULATOR_DEVICES", e, 0);
        if (n->settings.devices > EMULATOR_DEVICES)
            emulator_die("ZERO_EMULATOR_DEVICES=%d: at most %d", n->settings.devices, EMULATOR_DEVICES);
        e = getenv("ZERO_EMULATOR_MAJOR");
        n->settings.major = e ? (int)number("ZERO_EMULATOR_MAJOR", e, 1) : 9;
        e = getenv("ZERO_EMULATOR_FAIL");
        if (e && *e)
            parse_fail(n, e);
        n->process = getpid();
        return n;
    }();
    return s;
}

} // namespace

void emulator_die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputs("\n", stderr);
    abort();
}

const emulator_settings *emulator_setup()
{
    return &the_state()->settings;
}

int emulator_device()
{
    return current_device;
}

cudaError_t emulator_fail(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

void emulator_lose(cudaError_t e)
{
    int none = cudaSuccess;
    the_state()->lost.compare_exchange_strong(none, e);
}

cudaError_t emulator_lost()
{
    return (cudaError_t)the_state()->lost.load();
}

cudaError_t emulator_injected(const char *what, bool reserves)
{
    state *s = the_state();
    {
        std::lock_guard<std::mutex> lock(s->counted);
        s->counts[what]++;
    }
    if (s->fail_at == 0 || s->fail_call != what)
        return cudaSuccess;
    int64_t n = ++s->calls;
    if (n != s->fail_at && !(s->fail_after && n > s->fail_at))
        return cudaSuccess;
    return s->fail_error ? (cudaError_t)s->fail_error : reserves ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
}

cudaError_t emulator_begin(const char *call, bool reserves)
{
    state *s = the_state();
    if (s->settings.devices < 0)
        return cudaErrorInsufficientDriver;
    if (s->settings.devices == 0)
        return cudaErrorNoDevice;
    if (getpid() != s->process)
        return cudaErrorInitializationError;
    if (emulator_lost() != cudaSuccess)
        return emulator_lost();
    return emulator_injected(call, reserves);
}

#pragma GCC visibility push(default)

extern "C" uint64_t zero_emulator_calls(const char *what)
{
    state *s = the_state();
    std::lock_guard<std::mutex> lock(s->counted);
    return s->counts[what];
}

#define ERRORS(X)                                                                                                     \
    X(cudaSuccess, "no error")                                                                                        \
    X(cudaErrorInvalidValue, "invalid argument")                                                                      \
    X(cudaErrorMemoryAllocation, "out of memory")                                                                     \
    X(cudaErrorInitializationError, "initialization error")                                                           \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                                                \
    X(cudaErrorInvalidDevicePointer, "invalid device pointer")                                                        \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                                           \
    X(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version")                    \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                                                      \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                                        \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                                               \
    X(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device")                    \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                                               \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                                                      \
    X(cudaErrorNotReady, "device not ready")                                                                          \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")                                \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")                          \
    X(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture")                   \
    X(cudaErrorStreamCaptureImplicit, "operation would make the legacy stream depend on a capturing blocking stream") \
    X(cudaErrorStreamCaptureWrongThread, "attempt to terminate a thread-local capture sequence from another thread")  \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                                            \
    X(cudaErrorLaunchOutOfResources, "too many resources requested for launch")                                       \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated")                                              \
    X(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped")            \
    X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region")                  \
    X(cudaErrorMisalignedAddress, "misaligned address")                                                               \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                                           \
    X(cudaErrorNotSupported, "operation not supported")                                                               \
    X(cudaErrorUnknown, "unknown error")

extern "C" const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, text) \
    case name:        \
        return #name;
        ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

extern "C" const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define X(name, text) \
    case name:        \
        return text;
        ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

extern "C" cudaError_t cudaGetLastError(void)
{
    cudaError_t e = emulator_lost() != cudaSuccess ? emulator_lost() : last_error;
    last_error = cudaSuccess;
    return e;
}

extern "C" cudaError_t cudaPeekAtLastError(void)
{
    return emulator_lost() != cudaSuccess ? emulator_lost() : last_error;
}

extern "C" cudaError_t cudaDriverGetVersion(int *version)
{
    int devices = emulator_setup()->devices;
    *version = devices == -1 ? 0 : devices == -2 ? CUDART_VERSION - 1000 : CUDART_VERSION;
    return cudaSuccess;
}

extern "C" cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    EMULATOR_BEGIN();
    *count = emulator_setup()->devices;
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDevice(int *device)
{
    EMULATOR_BEGIN();
    *device = current_device;
    return cudaSuccess;
}

static bool is_device(int device)
{
    return device >= 0 && device < emulator_setup()->devices;
}

extern "C" cudaError_t cudaSetDevice(int device)
{
    EMULATOR_BEGIN();
    if (!is_device(device))
        return emulator_fail(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

extern "C" cudaError_t cudaInitDevice(int device, unsigned, unsigned)
{
    EMULATOR_BEGIN();
    return is_device(device) ? cudaSuccess : emulator_fail(cudaErrorInvalidDevice);
}

extern "C" cudaError_t cudaSetDeviceFlags(unsigned)
{
    EMULATOR_BEGIN();
    return cudaSuccess;
}

/* The attributes of an H200, except the number of processors: it is small, so that tests exercise loops over the grid.
 */
static const int processors = 3;

extern "C" cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    EMULATOR_BEGIN();
    if (!is_device(device))
        return emulator_fail(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = EMULATOR_THREADS_LIMIT;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = EMULATOR_SHARED_DEFAULT;
        break;
    case cudaDevAttrWarpSize:
        *value = 32;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = processors;
        break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrUnifiedAddressing:
        *value = 1;
        break;
    case cudaDevAttrIntegrated:
    case cudaDevAttrPageableMemoryAccess:
    case cudaDevAttrPciDomainId:
    case cudaDevAttrPciDeviceId:
        *value = 0;
        break;
    case cudaDevAttrPciBusId:
        *value = device + 1;
        break;
    case cudaDevAttrL2CacheSize:
        *value = 50 << 20;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = 228 << 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = EMULATOR_SHARED_LIMIT;
        break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        *value = 32;
        break;
    default:
        return emulator_fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    EMULATOR_BEGIN();
    if (!is_device(device))
        return emulator_fail(cudaErrorInvalidDevice);
    *p = cudaDeviceProp{};
    const char *name = getenv("ZERO_EMULATOR_NAME");
    if (name)
        snprintf(p->name, sizeof p->name, "%s", name);
    else
        snprintf(p->name, sizeof p->name, "Emulated GPU %d", device);
    memcpy(p->uuid.bytes, "zero-emulator-00", 16);
    p->uuid.bytes[15] = (char)('0' + device);
    p->totalGlobalMem = emulator_setup()->memory;
    p->sharedMemPerBlock = EMULATOR_SHARED_DEFAULT;
    p->sharedMemPerBlockOptin = EMULATOR_SHARED_LIMIT;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = EMULATOR_THREADS_LIMIT;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = emulator_setup()->major;
    p->multiProcessorCount = processors;
    p->maxThreadsPerMultiProcessor = 2048;
    p->l2CacheSize = 50 << 20;
    p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = 1;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetPCIBusId(char *id, int bytes, int device)
{
    EMULATOR_BEGIN();
    if (!is_device(device) || bytes < 13)
        return emulator_fail(cudaErrorInvalidValue);
    snprintf(id, (size_t)bytes, "0000:%02X:00.0", device + 1);
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    EMULATOR_BEGIN();
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

extern "C" cudaError_t cudaDeviceSynchronize(void)
{
    EMULATOR_BEGIN();
    emulator_device_wait(current_device, false);
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaDeviceReset(void)
{
    return emulator_fail(cudaErrorNotSupported); /* a library must not reset the device, because others use it too */
}

#pragma GCC visibility pop
