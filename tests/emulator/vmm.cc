/* SPDX-License-Identifier: Apache-2.0 */
/* vmm.cc - the driver's virtual memory functions (include/cuda.h): physical memory, addresses and mappings. */
#include "tests/emulator/emulator.h"

#include <cuda.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace
{

enum : uint64_t { GRANULARITY = 4 << 20 };

struct physical {
    CUmemAllocationProp properties;
    uint64_t bytes;
    int references; /* from handles and a mapping */
};

struct range {
    char *reserved;
    uint64_t reserved_bytes, bytes;
    CUmemGenericAllocationHandle handle; /* 0: nothing is mapped */
    bool accessible;
};

struct vmm {
    std::mutex mutex;
    CUmemGenericAllocationHandle last = 0;
    std::map<CUmemGenericAllocationHandle, physical> memory;
    std::map<CUdeviceptr, range> ranges;
};

vmm *the_vmm()
{
    static vmm *v = new vmm();
    return v;
}

/* The range that contains these addresses, or NULL. */
range *find(vmm *v, CUdeviceptr address, size_t bytes)
{
    auto at = v->ranges.find(address);
    return at == v->ranges.end() || at->second.bytes != bytes ? nullptr : &at->second;
}

void drop(vmm *v, CUmemGenericAllocationHandle handle)
{
    physical *p = &v->memory.at(handle);
    if (--p->references > 0)
        return;
    emulator_memory_give(p->properties.location.id, p->bytes);
    v->memory.erase(handle);
}

bool good(const CUmemAllocationProp *p)
{
    return p && p->type == CU_MEM_ALLOCATION_TYPE_PINNED && p->location.type == CU_MEM_LOCATION_TYPE_DEVICE &&
           p->location.id >= 0 && p->location.id < emulator_setup()->devices &&
           (p->requestedHandleTypes & ~(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR | CU_MEM_HANDLE_TYPE_FABRIC)) == 0;
}

/* Begins a call. Returns the error code of the driver. */
CUresult begin(const char *call, bool reserves = false)
{
    cudaError_t e = emulator_begin(call, reserves);
    return e == cudaSuccess && !emulator_setup()->vmm ? CUDA_ERROR_NOT_SUPPORTED : (CUresult)e;
}

} // namespace

#define BEGIN(...)                                      \
    do {                                                \
        CUresult begin_ = begin(__func__, __VA_ARGS__); \
        if (begin_ != CUDA_SUCCESS)                     \
            return begin_;                              \
    } while (0)

#pragma GCC visibility push(default)

extern "C" CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    if (!value || device < 0 || device >= emulator_setup()->devices)
        return CUDA_ERROR_INVALID_VALUE;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED:
        *value = emulator_setup()->vmm;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

extern "C" CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *properties,
                                                  CUmemAllocationGranularity_flags which)
{
    BEGIN(false);
    if (!bytes || !good(properties) || which > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
        return CUDA_ERROR_INVALID_VALUE;
    *bytes = GRANULARITY;
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes,
                                const CUmemAllocationProp *properties, unsigned long long flags)
{
    BEGIN(true);
    if (!handle || !good(properties) || bytes == 0 || bytes % GRANULARITY || flags)
        return CUDA_ERROR_INVALID_VALUE;
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    if (!emulator_memory_take(properties->location.id, bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *handle = ++v->last;
    v->memory[*handle] = {*properties, bytes, 1};
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    if (!v->memory.count(handle))
        return CUDA_ERROR_INVALID_VALUE;
    drop(v, handle);
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr,
                                        unsigned long long flags)
{
    BEGIN(true);
    if (!address || bytes == 0 || bytes % GRANULARITY || (alignment & (alignment - 1)) || flags)
        return CUDA_ERROR_INVALID_VALUE;
    alignment = alignment < GRANULARITY ? GRANULARITY : alignment;
    range r = {nullptr, bytes + alignment, bytes, 0, false};
    r.reserved = (char *)mmap(nullptr, r.reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r.reserved == MAP_FAILED)
        emulator_die("emulator: no addresses for %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
    *address = ((uintptr_t)r.reserved + alignment - 1) / alignment * alignment;
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    v->ranges[*address] = r;
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    range *r = find(v, address, bytes);
    if (!r || r->handle)
        return CUDA_ERROR_INVALID_VALUE;
    munmap(r->reserved, r->reserved_bytes);
    v->ranges.erase(address);
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                             unsigned long long flags)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    range *r = find(v, address, bytes);
    auto p = v->memory.find(handle);
    if (!r || r->handle || p == v->memory.end() || p->second.bytes != bytes || offset || flags)
        return CUDA_ERROR_INVALID_VALUE;
    r->handle = handle;
    p->second.references++;
    return CUDA_SUCCESS;
}

/* The device can access the memory only after this call. */
extern "C" CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    range *r = find(v, address, bytes);
    if (!r || !r->handle || r->accessible || count != 1 ||
        access->location.id != v->memory.at(r->handle).properties.location.id)
        return CUDA_ERROR_INVALID_VALUE;
    r->accessible = true;
    emulator_memory_map((char *)address, bytes, access->location.id);
    return CUDA_SUCCESS;
}

/* Running work that uses the memory is lost, because the real driver does not wait for it. */
extern "C" CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    range *r = find(v, address, bytes);
    if (!r || !r->handle)
        return CUDA_ERROR_INVALID_VALUE;
    if (r->accessible)
        emulator_memory_unmap((char *)address);
    drop(v, r->handle);
    r->handle = 0;
    r->accessible = false;
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    auto after = v->ranges.upper_bound((uintptr_t)address);
    if (!handle || after == v->ranges.begin())
        return CUDA_ERROR_INVALID_VALUE;
    auto at = std::prev(after);
    if ((uintptr_t)address - at->first >= at->second.bytes || !at->second.handle)
        return CUDA_ERROR_INVALID_VALUE;
    *handle = at->second.handle;
    v->memory.at(*handle).references++;
    return CUDA_SUCCESS;
}

extern "C" CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *properties,
                                                           CUmemGenericAllocationHandle handle)
{
    BEGIN(false);
    vmm *v = the_vmm();
    std::lock_guard<std::mutex> lock(v->mutex);
    auto p = v->memory.find(handle);
    if (!properties || p == v->memory.end())
        return CUDA_ERROR_INVALID_VALUE;
    *properties = p->second.properties;
    return CUDA_SUCCESS;
}

#pragma GCC visibility pop

void *emulator_vmm_function(const char *symbol)
{
#define FUNCTION(name)              \
    if (strcmp(symbol, #name) == 0) \
        return (void *)name;
    FUNCTION(cuDeviceGetAttribute)
    FUNCTION(cuMemGetAllocationGranularity)
    FUNCTION(cuMemCreate)
    FUNCTION(cuMemRelease)
    FUNCTION(cuMemAddressReserve)
    FUNCTION(cuMemAddressFree)
    FUNCTION(cuMemMap)
    FUNCTION(cuMemUnmap)
    FUNCTION(cuMemSetAccess)
#undef FUNCTION
    return nullptr;
}
