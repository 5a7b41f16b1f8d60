/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_shareable.cu - device memory that other processes can map for their GPUs. CUDA's runtime cannot allocate it; the
 * driver's virtual memory functions can. NCCL's windows need it, with the recommended granularity and with every kind
 * of handle that the GPU supports. This maps it for its own GPU only; NCCL maps it for the others. */
#include "zero/device/cuda_device.h"

#include <cuda.h>

#define DRIVER_FUNCTIONS(of)                                                                    \
    of(cuDeviceGetAttribute) of(cuMemGetAllocationGranularity) of(cuMemCreate) of(cuMemRelease) \
        of(cuMemAddressReserve) of(cuMemAddressFree) of(cuMemMap) of(cuMemUnmap) of(cuMemSetAccess)

struct driver {
#define OF(name) decltype(&::name) name;
    DRIVER_FUNCTIONS(OF)
#undef OF
};

/* Returns false if the driver lacks a function. */
static bool open_driver(struct driver *f)
{
    bool all = true;
#define OF(name) all = (f->name = (decltype(&::name))zero_cuda_driver(#name)) && all;
    DRIVER_FUNCTIONS(OF)
#undef OF
    return all;
}

static bool has(const struct driver *f, CUdevice_attribute attribute, int device)
{
    int value = 0;
    return f->cuDeviceGetAttribute(&value, attribute, device) == CUDA_SUCCESS && value;
}

zero_status_t zero_cuda_can_share(const zero_cuda_t *d, zero_error_t *error)
{
    struct driver f;
    if (open_driver(&f) && has(&f, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, d->index) &&
        has(&f, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, d->index))
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                     "%s or its driver has no memory that other processes can map, which NCCL's windows need: set "
                     "zero_comm_options_t's nccl_windows to false",
                     d->name);
}

static CUmemAllocationProp properties_of(const struct driver *f, int device)
{
    CUmemAllocationProp p = {};
    p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    p.location.id = device;
    p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    p.allocFlags.gpuDirectRDMACapable = has(f, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, device);
    return p;
}

/* Fabric handles reach GPUs of other machines. The system may refuse them even if the GPU supports them. */
static CUresult allocate(const struct driver *f, const CUmemAllocationProp *p, uint64_t bytes,
                         CUmemGenericAllocationHandle *handle)
{
#if CUDA_VERSION >= 12030
    if (has(f, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED, p->location.id)) {
        CUmemAllocationProp wide = *p;
        wide.requestedHandleTypes = (CUmemAllocationHandleType)(p->requestedHandleTypes | CU_MEM_HANDLE_TYPE_FABRIC);
        CUresult r = f->cuMemCreate(handle, bytes, &wide, 0);
        if (r != CUDA_ERROR_NOT_PERMITTED && r != CUDA_ERROR_NOT_SUPPORTED)
            return r;
    }
#endif
    return f->cuMemCreate(handle, bytes, p, 0);
}

/* Maps the memory of a handle at *at, for its own GPU. */
static CUresult map(const struct driver *f, const CUmemAllocationProp *p, CUmemGenericAllocationHandle handle,
                    uint64_t bytes, CUdeviceptr *at, const char **call)
{
    CUmemAccessDesc access = {};
    access.location = p->location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    *call = "cuMemAddressReserve";
    CUresult r = f->cuMemAddressReserve(at, bytes, 0, 0, 0);
    if (r != CUDA_SUCCESS)
        return r;
    *call = "cuMemMap";
    r = f->cuMemMap(*at, bytes, 0, handle, 0);
    if (r == CUDA_SUCCESS) {
        *call = "cuMemSetAccess";
        r = f->cuMemSetAccess(*at, bytes, &access, 1);
        if (r == CUDA_SUCCESS)
            return r;
        f->cuMemUnmap(*at, bytes);
    }
    f->cuMemAddressFree(*at, bytes);
    return r;
}

/* Error numbers of the driver and the runtime are the same. */
cudaError_t zero_cuda_share(const zero_cuda_t *d, uint64_t bytes, void **base, uint64_t *mapped, const char **call)
{
    struct driver f;
    CUmemGenericAllocationHandle handle;
    CUdeviceptr at = 0;
    size_t granularity = 0;
    *base = NULL;
    *mapped = bytes;
    open_driver(&f);
    CUmemAllocationProp p = properties_of(&f, d->index);
    *call = "cuMemGetAllocationGranularity";
    CUresult r = f.cuMemGetAllocationGranularity(&granularity, &p, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
    if (r != CUDA_SUCCESS)
        return (cudaError_t)r;
    if (!zero_round_up(bytes, granularity, mapped))
        return cudaErrorMemoryAllocation;
    *call = "cuMemCreate";
    r = allocate(&f, &p, *mapped, &handle);
    if (r != CUDA_SUCCESS)
        return (cudaError_t)r;
    r = map(&f, &p, handle, *mapped, &at, call);
    f.cuMemRelease(handle); /* the mapping keeps the memory */
    if (r == CUDA_SUCCESS)
        *base = (void *)(uintptr_t)at;
    return (cudaError_t)r;
}

void zero_cuda_unshare(void *base, uint64_t mapped)
{
    struct driver f;
    CUdeviceptr at = (uintptr_t)base;
    if (!open_driver(&f))
        return;
    f.cuMemUnmap(at, mapped);
    f.cuMemAddressFree(at, mapped);
}
