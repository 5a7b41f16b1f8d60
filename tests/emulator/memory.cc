/* SPDX-License-Identifier: Apache-2.0 */
/* memory.cc - device and pinned memory of the emulator, and copies.
 *
 * Device memory has pages of its own. Each allocation ends (rounded to 256 bytes) at a page that is inaccessible;
 * unused bytes come first. The unused bytes hold a pattern, which is checked when the memory is freed. */
#include "tests/emulator/emulator.h"

#include <cerrno>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace
{

enum : uint64_t { PAGE = 4096, ALIGN = 256, GRANULE = 2 << 20 };
enum : unsigned char { FRESH = 0xff, BORDER = 0xb5 };

struct allocation {
    uint64_t bytes; /* the requested size */
    int device;     /* -1: pinned memory of the host */
    char *pages;    /* device memory: mapped bytes, within the reserved addresses; NULL for registered memory */
    uint64_t mapped, counted;
    char *reserved;
    uint64_t reserved_bytes;
};

struct memory {
    std::mutex mutex;
    std::map<uintptr_t, allocation> allocations; /* by address */
    uint64_t used[EMULATOR_DEVICES] = {};
    int inside = 0;
};

memory *the_memory()
{
    static memory *m = new memory();
    return m;
}

typedef std::map<uintptr_t, allocation>::iterator place;

/* The allocation that contains [p, p + bytes), or the end. */
place find(memory *m, uintptr_t p, bool end)
{
    place at = m->allocations.upper_bound(p);
    if (at == m->allocations.begin())
        return m->allocations.end();
    --at;
    uint64_t offset = p - at->first;
    return offset < at->second.bytes || (end && offset == at->second.bytes) ? at : m->allocations.end();
}

void protect(const allocation &a, int protection)
{
    if (!emulator_setup()->threads && a.device >= 0 && mprotect(a.pages, a.mapped, protection) != 0)
        emulator_die("emulator: mprotect: %s", strerror(errno));
}

void check_borders(uintptr_t address, const allocation &a)
{
    const unsigned char *begin = (const unsigned char *)a.pages, *data = (const unsigned char *)address,
                        *end = begin + a.mapped;
    for (const unsigned char *p = begin; p < data; p++)
        if (*p != BORDER)
            emulator_die("emulator: device memory was written %lld bytes before an allocation of %llu bytes",
                         (long long)(data - p), (unsigned long long)a.bytes);
    for (const unsigned char *p = data + a.bytes; p < end; p++)
        if (*p != BORDER)
            emulator_die("emulator: device memory was written %lld bytes behind an allocation of %llu bytes",
                         (long long)(p - data - (int64_t)a.bytes), (unsigned long long)a.bytes);
}

} // namespace

emulator_place emulator_find(const void *p, bool end)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    place at = find(m, (uintptr_t)p, end);
    if (at == m->allocations.end())
        return {cudaMemoryTypeUnregistered, -1, 0};
    return {at->second.device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice, at->second.device,
            at->second.bytes - ((uintptr_t)p - at->first)};
}

int emulator_address_range(unsigned long long *base, size_t *bytes, unsigned long long address)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    place at = find(m, (uintptr_t)address, false);
    if (at == m->allocations.end() || at->second.device < 0)
        return cudaErrorInvalidValue;
    *base = at->first;
    *bytes = at->second.bytes;
    return cudaSuccess;
}

void emulator_enter()
{
    memory *m = the_memory();
    if (emulator_setup()->threads)
        return;
    std::lock_guard<std::mutex> lock(m->mutex);
    if (m->inside++ == 0)
        for (auto &a : m->allocations)
            protect(a.second, PROT_READ | PROT_WRITE);
}

void emulator_leave()
{
    memory *m = the_memory();
    if (emulator_setup()->threads)
        return;
    std::lock_guard<std::mutex> lock(m->mutex);
    if (--m->inside == 0)
        for (auto &a : m->allocations)
            protect(a.second, PROT_NONE);
}

bool emulator_memory_take(int device, uint64_t bytes)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    if (bytes > emulator_setup()->memory - m->used[device])
        return false;
    m->used[device] += bytes;
    return true;
}

void emulator_memory_give(int device, uint64_t bytes)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    m->used[device] -= bytes;
}

void emulator_memory_map(char *pages, uint64_t bytes, int device)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    if (mprotect(pages, bytes, PROT_READ | PROT_WRITE) != 0)
        emulator_die("emulator: no memory for a device's %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
    memset(pages, FRESH, bytes);
    allocation a = {bytes, device, pages, bytes, 0, nullptr, 0};
    if (m->inside == 0)
        protect(a, PROT_NONE);
    m->allocations[(uintptr_t)pages] = a;
}

void emulator_memory_unmap(char *pages)
{
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    m->allocations.erase((uintptr_t)pages);
}

#pragma GCC visibility push(default)

extern "C" cudaError_t cudaMalloc(void **p, size_t bytes)
{
    *p = nullptr;
    EMULATOR_BEGIN_RESERVING();
    if (bytes == 0)
        return cudaSuccess;
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    int device = emulator_device();
    uint64_t room = emulator_setup()->memory - m->used[device];
    if (bytes > room)
        return emulator_fail(cudaErrorMemoryAllocation);
    allocation a = {bytes, device, nullptr, 0, (bytes + GRANULE - 1) / GRANULE * GRANULE, nullptr, 0};
    if (a.counted > room)
        return emulator_fail(cudaErrorMemoryAllocation);
    /* Large allocations use huge pages if the system has them, because changing their protection then costs little. */
    bool large = bytes >= GRANULE;
    a.mapped = large ? a.counted : (bytes + PAGE - 1) / PAGE * PAGE;
    a.reserved_bytes = a.mapped + (large ? 2 * GRANULE : PAGE);
    a.reserved = (char *)mmap(nullptr, a.reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    a.pages = large ? (char *)(((uintptr_t)a.reserved + GRANULE - 1) / GRANULE * GRANULE) : a.reserved;
    if (a.reserved == MAP_FAILED || mprotect(a.pages, a.mapped, PROT_READ | PROT_WRITE) != 0)
        emulator_die("emulator: no memory for a device's %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
    if (large)
        madvise(a.pages, a.mapped, MADV_HUGEPAGE);
    char *data = a.pages + a.mapped - (bytes + ALIGN - 1) / ALIGN * ALIGN;
    memset(a.pages, BORDER, a.mapped);
    memset(data, FRESH, bytes);
    if (m->inside == 0)
        protect(a, PROT_NONE);
    m->allocations[(uintptr_t)data] = a;
    m->used[device] += a.counted;
    *p = data;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFree(void *p)
{
    EMULATOR_BEGIN();
    if (!p)
        return cudaSuccess;
    emulator_device_wait(-1, false);
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    place at = m->allocations.find((uintptr_t)p);
    if (at == m->allocations.end() || at->second.device < 0 || !at->second.reserved)
        return emulator_fail(cudaErrorInvalidValue);
    allocation a = at->second;
    protect(a, PROT_READ | PROT_WRITE);
    check_borders(at->first, a);
    m->used[a.device] -= a.counted;
    m->allocations.erase(at);
    munmap(a.reserved, a.reserved_bytes);
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    *p = nullptr;
    EMULATOR_BEGIN_RESERVING();
    if (bytes == 0)
        return cudaSuccess;
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    if (posix_memalign(p, PAGE, bytes) != 0)
        return *p = nullptr, emulator_fail(cudaErrorMemoryAllocation);
    memset(*p, FRESH, bytes);
    m->allocations[(uintptr_t)*p] = {bytes, -1, (char *)*p, bytes, 0, nullptr, 0};
    return cudaSuccess;
}

extern "C" cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    return cudaHostAlloc(p, bytes, cudaHostAllocDefault);
}

static cudaError_t forget_host(void *p, bool registered)
{
    emulator_device_wait(-1, false);
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    place at = m->allocations.find((uintptr_t)p);
    if (at == m->allocations.end() || at->second.device >= 0 || (at->second.pages == nullptr) != registered)
        return emulator_fail(registered ? cudaErrorHostMemoryNotRegistered : cudaErrorInvalidValue);
    m->allocations.erase(at);
    return cudaSuccess;
}

extern "C" cudaError_t cudaFreeHost(void *p)
{
    EMULATOR_BEGIN();
    if (!p)
        return cudaSuccess;
    cudaError_t e = forget_host(p, false);
    if (e == cudaSuccess)
        free(p);
    return e;
}

extern "C" cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned)
{
    EMULATOR_BEGIN_RESERVING();
    if (!p || bytes == 0)
        return emulator_fail(cudaErrorInvalidValue);
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    place next = m->allocations.lower_bound((uintptr_t)p);
    if (find(m, (uintptr_t)p, false) != m->allocations.end() ||
        (next != m->allocations.end() && next->first < (uintptr_t)p + bytes))
        return emulator_fail(cudaErrorHostMemoryAlreadyRegistered);
    m->allocations[(uintptr_t)p] = {bytes, -1, nullptr, bytes, 0, nullptr, 0};
    return cudaSuccess;
}

extern "C" cudaError_t cudaHostUnregister(void *p)
{
    EMULATOR_BEGIN();
    return forget_host(p, true);
}

extern "C" cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    EMULATOR_BEGIN();
    if (emulator_find(host).type != cudaMemoryTypeHost)
        return emulator_fail(cudaErrorInvalidValue);
    *device = host;
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    EMULATOR_BEGIN();
    memory *m = the_memory();
    std::lock_guard<std::mutex> lock(m->mutex);
    *total = emulator_setup()->memory;
    *available = *total - m->used[emulator_device()];
    return cudaSuccess;
}

extern "C" cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p)
{
    EMULATOR_BEGIN();
    emulator_place at = emulator_find(p);
    attributes->type = at.type;
    attributes->device = at.type == cudaMemoryTypeDevice ? at.device
                         : at.type == cudaMemoryTypeHost ? emulator_device()
                                                         : -2;
    attributes->devicePointer = at.type == cudaMemoryTypeUnregistered ? nullptr : (void *)p;
    attributes->hostPointer = at.type == cudaMemoryTypeDevice ? nullptr : (void *)p;
    return cudaSuccess;
}

/* ---- copies ----------------------------------------------------------------------------------------------------- */

/* Whether bytes from p on lie in one allocation, or in host memory that the emulator does not track. */
static bool in_range(const emulator_place &at, uint64_t bytes)
{
    return at.type == cudaMemoryTypeUnregistered || bytes <= at.left;
}

/* Copies rows of width bytes. As in the real library, on return a copy from or to unpinned host memory has read or
 * written that memory. */
static cudaError_t copy(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height,
                        cudaMemcpyKind kind, cudaStream_t stream, bool wait)
{
    if (width == 0 || height == 0)
        return cudaSuccess;
    emulator_place d = emulator_find(dst), s = emulator_find(src);
    bool to_device = d.type == cudaMemoryTypeDevice, from_device = s.type == cudaMemoryTypeDevice;
    uint64_t dst_bytes = (height - 1) * dst_pitch + width, src_bytes = (height - 1) * src_pitch + width;
    if (!dst || !src || kind > cudaMemcpyDefault || width > dst_pitch || width > src_pitch || !in_range(d, dst_bytes) ||
        !in_range(s, src_bytes))
        return emulator_fail(cudaErrorInvalidValue);
    if (kind != cudaMemcpyDefault && (int)kind != (from_device ? 2 : 0) + (to_device ? 1 : 0))
        return emulator_fail(cudaErrorInvalidValue);
    if ((char *)dst < (const char *)src + src_bytes && (const char *)src < (char *)dst + dst_bytes)
        emulator_die("emulator: a copy of %llu bytes onto itself", (unsigned long long)src_bytes);
    auto work = [=] {
        emulator_enter();
        for (size_t row = 0; row < height; row++)
            memcpy((char *)dst + row * dst_pitch, (const char *)src + row * src_pitch, width);
        emulator_leave();
    };
    wait = wait || d.type == cudaMemoryTypeUnregistered || s.type == cudaMemoryTypeUnregistered;
    if (!stream) {
        emulator_device_wait(emulator_device(), true);
        work();
        return emulator_fail(emulator_lost());
    }
    cudaError_t e = emulator_submit(stream, work);
    if (e != cudaSuccess)
        return emulator_fail(e);
    if (wait)
        emulator_stream_wait(stream);
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind)
{
    EMULATOR_BEGIN();
    return copy(dst, bytes, src, bytes, bytes, 1, kind, nullptr, true);
}

extern "C" cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                                       cudaStream_t stream)
{
    EMULATOR_BEGIN();
    if (!stream)
        return emulator_fail(emulator_submit(stream, {}));
    return copy(dst, bytes, src, bytes, bytes, 1, kind, stream, false);
}

extern "C" cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                                         size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    EMULATOR_BEGIN();
    if (!stream)
        return emulator_fail(emulator_submit(stream, {}));
    return copy(dst, dst_pitch, src, src_pitch, width, height, kind, stream, false);
}

static cudaError_t set(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    if (bytes == 0)
        return cudaSuccess;
    emulator_place at = emulator_find(dst);
    if (at.type == cudaMemoryTypeUnregistered || bytes > at.left)
        return emulator_fail(cudaErrorInvalidValue);
    auto work = [=] {
        emulator_enter();
        memset(dst, value, bytes);
        emulator_leave();
    };
    if (stream)
        return emulator_fail(emulator_submit(stream, work));
    emulator_device_wait(emulator_device(), true);
    work();
    return cudaSuccess;
}

extern "C" cudaError_t cudaMemset(void *dst, int value, size_t bytes)
{
    EMULATOR_BEGIN();
    return set(dst, value, bytes, nullptr);
}

extern "C" cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    EMULATOR_BEGIN();
    if (!stream)
        return emulator_fail(emulator_submit(stream, {}));
    return set(dst, value, bytes, stream);
}

#pragma GCC visibility pop
