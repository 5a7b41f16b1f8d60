/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.cu - a CUDA GPU as a device: count, arenas, copies. Its streams and events are in cuda_streams.cu. */
#include "zero/device/cuda_device.h"
extern "C" {
#include "zero/device/cuda.h"
}
#include "kernels/cuda/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static const char *hint(cudaError_t e)
{
    switch (e) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
        return ": a kernel that was launched before has failed, and CUDA_LAUNCH_BLOCKING=1 shows which";
    case cudaErrorNoKernelImageForDevice:
        return ": this build has no code for that GPU; configure with NVCC_GENCODE='-gencode "
               "arch=compute_XY,code=sm_XY' of its compute capability X.Y";
    default:
        return "";
    }
}

zero_status_t zero_cuda_failed(const zero_cuda_t *d, cudaError_t e, zero_error_t *error, const char *what, ...)
{
    char text[512];
    va_list list;
    va_start(list, what);
    vsnprintf(text, sizeof text, what, list);
    va_end(list);
    cudaGetLastError();
    return zero_fail(error, e == cudaErrorMemoryAllocation ? ZERO_ERR_MEMORY : ZERO_ERR_SYSTEM, "%s: %s: %s (%s)%s",
                     d->name, text, cudaGetErrorString(e), cudaGetErrorName(e), hint(e));
}

zero_status_t zero_cuda_enter(const zero_cuda_t *d, zero_error_t *error)
{
    int current;
    cudaError_t e = cudaGetDevice(&current);
    if (e == cudaSuccess && current != d->index)
        e = cudaSetDevice(d->index);
    return e == cudaSuccess ? ZERO_OK : zero_cuda_failed(d, e, error, "cudaSetDevice(%d)", d->index);
}

void *zero_cuda_driver(const char *symbol)
{
    void *function = NULL;
#if CUDART_VERSION >= 12050
    cudaDriverEntryPointQueryResult result;
    cudaError_t e = cudaGetDriverEntryPointByVersion(symbol, &function, 12000, cudaEnableDefault, &result);
#else
    cudaError_t e = cudaGetDriverEntryPoint(symbol, &function, cudaEnableDefault);
#endif
    if (e == cudaSuccess)
        return function;
    cudaGetLastError();
    return NULL;
}

/* ---- arenas ----------------------------------------------------------------------------------------------------- */

struct zero_arena {
    zero_cuda_t *device;
    zero_tier_t tier;
    char *base;
    uint64_t bytes;                    /* as requested */
    bool shareable;                    /* device tier: other processes can map it */
    uint64_t mapped;                   /* shareable: number of bytes mapped at base */
    uint64_t taken;                    /* device tier: the allocation's size as the driver reports it */
    const zero_allocator_t *allocator; /* the caller's allocator that owns base; NULL: none */
};

/* The driver allocates device memory in units of this size. */
enum { DEVICE_PAGE = 2 << 20 };

/* cuMemGetAddressRange of the driver's API, version 2: start and bytes of the allocation that contains address. */
typedef int (*address_range_fn)(unsigned long long *base, size_t *bytes, unsigned long long address);

/* The size of an allocation as the driver reports it; 0 if it does not. The drop in cudaMemGetInfo is no measure:
 * other ranks and programs take and free memory on the GPU at the same time. */
static uint64_t allocated(const void *base)
{
    unsigned long long first = 0;
    size_t bytes = 0;
    address_range_fn range = (address_range_fn)zero_cuda_driver("cuMemGetAddressRange");
    return range && range(&first, &bytes, (uintptr_t)base) == 0 && first == (uintptr_t)base ? bytes : 0;
}

/* Time limit for GPU work that takes less than a second: a fill, an empty kernel. Other processes may share the GPU. */
static const double FILL_S = 60;

static void arena_destroy(zero_arena_t *arena)
{
    if (!arena)
        return;
    /* cudaFree waits for all of the GPU's work, without a time limit. Work on an abandoned stream must not block this,
     * so memory is then kept until the process ends. */
    if (arena->base && !zero_cuda_gave_up(arena->device) && zero_cuda_enter(arena->device, NULL) == ZERO_OK) {
        if (arena->allocator)
            arena->allocator->release(arena->allocator->ctx, arena->tier, arena->base, arena->bytes);
        else if (arena->shareable) {
            cudaDeviceSynchronize(); /* as cudaFree does by itself */
            zero_cuda_unshare(arena->base, arena->mapped);
        } else if (arena->tier == ZERO_TIER_DEVICE)
            cudaFree(arena->base);
        else
            cudaFreeHost(arena->base);
    }
    free(arena);
}

/* The free and total bytes of the GPU. */
static zero_status_t gpu_memory(const zero_cuda_t *d, uint64_t *available, uint64_t *total, zero_error_t *error)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t e = cudaMemGetInfo(&free_bytes, &total_bytes);
    *available = free_bytes;
    *total = total_bytes;
    return e == cudaSuccess ? ZERO_OK : zero_cuda_failed(d, e, error, "cudaMemGetInfo");
}

static zero_status_t available(zero_device_t *device, zero_tier_t tier, uint64_t *bytes, zero_error_t *error)
{
    const zero_cuda_t *d = (const zero_cuda_t *)device;
    uint64_t total;
    if (tier == ZERO_TIER_HOST)
        return zero_host_available(bytes, error);
    if (tier != ZERO_TIER_DEVICE)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "%s has no memory of tier '%s': use tier '%s' or '%s'", d->name,
                         zero_tier_name(tier), zero_tier_name(ZERO_TIER_DEVICE), zero_tier_name(ZERO_TIER_HOST));
    zero_status_t status = zero_cuda_enter(d, error);
    return status ? status : gpu_memory(d, bytes, &total, error);
}

static zero_status_t zero_out(const zero_arena_t *a, zero_error_t *error)
{
    const zero_cuda_t *d = a->device;
    cudaError_t e = cudaMemsetAsync(a->base, 0, a->bytes, d->own);
    if (e == cudaSuccess)
        e = zero_cuda_poll(zero_cuda_query_stream, d->own, FILL_S, NULL);
    return e == cudaSuccess
               ? ZERO_OK
               : zero_cuda_failed(d, e, error, "cudaMemsetAsync of %llu bytes", (unsigned long long)a->bytes);
}

/* Takes memory from the caller's allocator. */
static zero_status_t take_from_allocator(zero_arena_t *a, zero_error_t *error)
{
    a->allocator = a->device->base.options.allocator;
    zero_status_t status = zero_host_take(a->allocator, a->tier, a->bytes, a->tier == ZERO_TIER_HOST, &a->base, error);
    return status == ZERO_OK && a->tier == ZERO_TIER_DEVICE ? zero_out(a, error) : status;
}

static zero_status_t create_on_gpu(zero_arena_t *a, zero_error_t *error)
{
    const zero_cuda_t *d = a->device;
    const char *call = "cudaMalloc";
    uint64_t before, total, rounded;
    cudaError_t e = cudaErrorMemoryAllocation;
    zero_status_t status = gpu_memory(d, &before, &total, error);
    if (status)
        return status;
    if (!zero_round_up(a->bytes, DEVICE_PAGE, &rounded))
        rounded = a->bytes;
    if (a->bytes <= before && a->shareable) {
        e = zero_cuda_share(d, a->bytes, (void **)&a->base, &a->mapped, &call);
        rounded = a->mapped;
    } else if (a->bytes <= before)
        e = cudaMalloc((void **)&a->base, rounded);
    if (e == cudaErrorMemoryAllocation) {
        a->base = NULL;
        cudaGetLastError();
        return zero_fail(
            error, ZERO_ERR_MEMORY,
            "an arena of %llu bytes (tier '%s') does not fit: %s has only %llu of %llu bytes free; use more ranks, "
            "offload, or a smaller model or batch, or end other programs on the GPU (nvidia-smi lists them)",
            (unsigned long long)a->bytes, zero_tier_name(a->tier), d->name, (unsigned long long)before,
            (unsigned long long)total);
    }
    if (e != cudaSuccess) {
        a->base = NULL;
        return zero_cuda_failed(d, e, error, "%s of %llu bytes", call, (unsigned long long)rounded);
    }
    a->taken = allocated(a->base);
    if (a->taken == 0)
        a->taken = rounded;
    return zero_out(a, error);
}

static zero_status_t create_pinned(zero_arena_t *a, zero_error_t *error)
{
    uint64_t there;
    char limit[64] = "without limit";
    struct rlimit locked;
    zero_status_t status = zero_host_available(&there, error);
    if (status)
        return status;
    cudaError_t e = a->bytes > there ? cudaErrorMemoryAllocation
                                     : cudaHostAlloc((void **)&a->base, a->bytes, cudaHostAllocPortable);
    if (e == cudaSuccess) {
        memset(a->base, 0, a->bytes);
        return ZERO_OK;
    }
    a->base = NULL;
    cudaGetLastError();
    if (getrlimit(RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_cur != RLIM_INFINITY)
        snprintf(limit, sizeof limit, "up to %llu bytes", (unsigned long long)locked.rlim_cur);
    return zero_fail(
        error, ZERO_ERR_MEMORY,
        "%llu bytes of pinned memory (tier '%s') cannot be allocated: %s; this machine has %llu bytes available, and a "
        "process may lock memory %s: offload less, use more machines, or raise the limit (ulimit -l)",
        (unsigned long long)a->bytes, zero_tier_name(a->tier),
        a->bytes > there ? "more than there are" : cudaGetErrorString(e), (unsigned long long)there, limit);
}

static zero_status_t create_arena(zero_device_t *device, zero_tier_t tier, uint64_t bytes, bool shareable,
                                  zero_arena_t **out, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    uint64_t there;
    *out = NULL;
    zero_status_t status = available(device, tier, &there, error); /* refuses tiers that this device lacks */
    if (status == ZERO_OK)
        status = zero_cuda_enter(d, error);
    if (status)
        return status;
    if (bytes == 0)
        return zero_fail(error, ZERO_ERR_ARG, "the arena has 0 bytes, but must have at least 1");
    if (shareable && d->base.options.allocator)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "NCCL's windows need memory that libzero allocates, and %s has the caller's allocator: set "
                         "zero_comm_options_t's nccl_windows to false, or leave zero_device_options_t's allocator out",
                         d->name);
    if (shareable && (status = zero_cuda_can_share(d, error)) != ZERO_OK)
        return status;
    zero_arena_t *a = (zero_arena_t *)calloc(1, sizeof *a);
    if (!a)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for an arena's handle (%zu bytes)", sizeof *a);
    a->device = d;
    a->tier = tier;
    a->bytes = bytes;
    a->shareable = shareable;
    status = d->base.options.allocator  ? take_from_allocator(a, error)
             : tier == ZERO_TIER_DEVICE ? create_on_gpu(a, error)
                                        : create_pinned(a, error);
    if (status) {
        arena_destroy(a);
        return status;
    }
    *out = a;
    return ZERO_OK;
}

static zero_status_t arena_create(zero_device_t *device, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena,
                                  zero_error_t *error)
{
    return create_arena(device, tier, bytes, false, arena, error);
}

static zero_status_t arena_create_shareable(zero_device_t *device, uint64_t bytes, zero_arena_t **arena,
                                            zero_error_t *error)
{
    return create_arena(device, ZERO_TIER_DEVICE, bytes, true, arena, error);
}

static void *arena_base(zero_arena_t *arena)
{
    return arena->base;
}

static zero_status_t arena_resident(zero_arena_t *a, uint64_t offset, uint64_t bytes, uint64_t *resident,
                                    zero_error_t *error)
{
    if (offset > a->bytes || bytes > a->bytes - offset)
        return zero_fail(error, ZERO_ERR_ARG, "bytes %llu to %llu + %llu lie outside an arena of %llu bytes",
                         (unsigned long long)offset, (unsigned long long)offset, (unsigned long long)bytes,
                         (unsigned long long)a->bytes);
    if (a->allocator) { /* the caller manages this memory */
        *resident = bytes;
        return ZERO_OK;
    }
    if (a->tier == ZERO_TIER_HOST)
        return zero_host_resident(a->base + offset, bytes, resident, error);
    /* GPU memory is not paged: all of the allocation is resident. */
    uint64_t there = a->taken > offset ? a->taken - offset : 0;
    *resident = bytes < there ? bytes : there;
    return ZERO_OK;
}

/* ---- the device ------------------------------------------------------------------------------------------------- */

static zero_status_t copy(zero_device_t *device, void *native, void *dst, const void *src, uint64_t bytes,
                          zero_error_t *error)
{
    const zero_cuda_t *d = (const zero_cuda_t *)device;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status || bytes == 0)
        return status;
    cudaError_t e = cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, (cudaStream_t)native);
    return e == cudaSuccess ? ZERO_OK
                            : zero_cuda_failed(d, e, error, "cudaMemcpyAsync of %llu bytes", (unsigned long long)bytes);
}

/* CUDA allows this call at any time. On the legacy stream it may return Implicit: another stream, for which the legacy
 * stream would wait, is being captured. */
static bool capturing(const zero_device_t *device, void *native)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaError_t e = cudaStreamIsCapturing((cudaStream_t)native, &status);
    (void)device;
    if (e == cudaErrorStreamCaptureImplicit)
        cudaGetLastError();
    return e == cudaErrorStreamCaptureImplicit || status != cudaStreamCaptureStatusNone;
}

static uint64_t identity(const zero_device_t *device)
{
    return ((const zero_cuda_t *)device)->identity;
}

static void destroy(zero_device_t *device)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    if (d->own && zero_cuda_enter(d, NULL) == ZERO_OK)
        cudaStreamDestroy(d->own);
    free(d);
}

static const zero_device_ops_t cuda_ops = {
    .arena_create = arena_create,
    .arena_create_shareable = arena_create_shareable,
    .arena_destroy = arena_destroy,
    .arena_base = arena_base,
    .arena_resident = arena_resident,
    .available = available,
    .stream_create = zero_cuda_stream_create,
    .stream_destroy = zero_cuda_stream_destroy,
    .enqueue = zero_cuda_enqueue,
    .sync = zero_cuda_sync,
    .native = zero_cuda_native,
    .copy = copy,
    .finish = zero_cuda_finish,
    .capturing = capturing,
    .identity = identity,
    .event_create = zero_cuda_event_create,
    .event_destroy = zero_cuda_event_destroy,
    .record = zero_cuda_record,
    .wait = zero_cuda_wait,
    .host_wait = zero_cuda_host_wait,
    .clock_create = zero_cuda_clock_create,
    .clock_destroy = zero_cuda_clock_destroy,
    .clock_mark = zero_cuda_clock_mark,
    .clock_read = zero_cuda_clock_read,
    .clock_set = zero_cuda_clock_set,
    .destroy = destroy,
};

/* Never 0. MIG instances of one GPU differ in their uuid only, and each has its own memory. */
static uint64_t identity_of(const cudaDeviceProp *p)
{
    uint64_t id = zero_splitmix64((uint64_t)(uint32_t)p->pciDomainID << 32 | (uint32_t)p->pciBusID << 8 |
                                  (uint32_t)p->pciDeviceID);
    for (size_t i = 0; i < sizeof p->uuid.bytes; i++)
        id = zero_splitmix64(id ^ (unsigned char)p->uuid.bytes[i]);
    return id ? id : 1;
}

static zero_status_t count(int *count, zero_error_t *error)
{
    int driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(count);
    if (e == cudaSuccess && *count > 0)
        return ZERO_OK;
    *count = 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    /* A version number such as 13020 means CUDA 13.2. */
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return zero_fail_reason(
            error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
            "this machine has no CUDA driver: install NVIDIA's driver for CUDA %d.%d or newer, or train on the CPU",
            runtime / 1000, runtime % 1000 / 10);
    if (e == cudaErrorInsufficientDriver)
        return zero_fail_reason(
            error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
            "this machine's driver supports CUDA %d.%d, and this build of libzero needs CUDA %d.%d: install a newer "
            "driver (nvidia-smi shows the installed one), or build libzero with an older toolkit",
            driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (e == cudaErrorNoDevice || e == cudaSuccess)
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_GPU, -1,
                                "the CUDA driver finds no GPU on this machine (CUDA_VISIBLE_DEVICES may hide it)");
    return zero_fail(error, ZERO_ERR_SYSTEM, "cudaGetDeviceCount: %s (%s)%s", cudaGetErrorString(e),
                     cudaGetErrorName(e), hint(e));
}

__global__ void nothing(void) {}

/* Makes the device's own stream, loads the plugin's kernels, and checks that the GPU can run this build's code, and
 * that the caller's stream is on this GPU. */
static zero_status_t check_gpu(zero_cuda_t *d, zero_error_t *error)
{
    cudaEvent_t event;
    cudaError_t e = cudaStreamCreateWithFlags(&d->own, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        d->own = NULL;
        return zero_cuda_failed(d, e, error, "cudaStreamCreateWithFlags");
    }
    e = zero_load_kernels();
    if (e == cudaSuccess) {
        ZERO_LAUNCH(nothing, 1, 1, 0, d->own);
        e = cudaGetLastError();
    }
    if (e == cudaSuccess)
        e = zero_cuda_poll(zero_cuda_query_stream, d->own, FILL_S, NULL);
    if (e != cudaSuccess)
        return zero_cuda_failed(d, e, error, "it cannot run a kernel (its compute capability is %d.%d)", d->major,
                                d->minor);
    if (!d->base.options.stream)
        return ZERO_OK;
    e = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (e != cudaSuccess)
        return zero_cuda_failed(d, e, error, "cudaEventCreateWithFlags");
    e = cudaEventRecord(event, (cudaStream_t)d->base.options.stream);
    cudaEventDestroy(event);
    return e == cudaSuccess
               ? ZERO_OK
               : zero_cuda_failed(d, e, error, "the given stream cannot be used; it may belong to another GPU");
}

static zero_status_t create(zero_device_t **device, const zero_device_options_t *options, zero_error_t *error)
{
    int gpus;
    cudaDeviceProp properties;
    *device = NULL;
    zero_status_t status = count(&gpus, error);
    if (status)
        return status;
    if (options->index < 0 || options->index >= gpus)
        return zero_fail(error, ZERO_ERR_ARG,
                         "there is no GPU %d: this machine has %d (they count from 0; CUDA_VISIBLE_DEVICES may hide "
                         "some); use at most one rank per GPU, or set the index",
                         options->index, gpus);
    zero_cuda_t *d = (zero_cuda_t *)calloc(1, sizeof *d);
    if (!d)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a device (%zu bytes)", sizeof *d);
    d->base.ops = &cuda_ops;
    zero_device_options_keep(&d->base, options);
    snprintf(d->base.caps.name, sizeof d->base.caps.name, "cuda");
    d->base.caps.asynchronous = true;
    d->base.caps.launches = true;
    d->base.caps.page = zero_host_page();
    d->workers.options = *options;
    d->workers.options.threaded = true;
    d->index = options->index;
    snprintf(d->name, sizeof d->name, "GPU %d", d->index);
    cudaError_t e = cudaSetDevice(d->index); /* makes CUDA's context on it, which takes memory of its own */
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(&properties, d->index);
    if (e != cudaSuccess) {
        status = zero_cuda_failed(d, e, error, "it cannot be used");
        goto fail;
    }
    snprintf(d->name, sizeof d->name, "GPU %d (%.100s)", d->index, properties.name);
    snprintf(d->base.label, sizeof d->base.label, "%.95s", properties.name);
    d->major = properties.major;
    d->minor = properties.minor;
    d->identity = identity_of(&properties);
    status = check_gpu(d, error);
    if (status)
        goto fail;
    *device = &d->base;
    return ZERO_OK;

fail:
    destroy(&d->base);
    return status;
}

extern "C" const zero_cuda_device_t zero_cuda_device = {
    .version = ZERO_CUDA_DEVICE_VERSION,
    .count = count,
    .create = create,
};
