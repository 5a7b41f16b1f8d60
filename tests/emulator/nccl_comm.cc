/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_comm.cc - see nccl_comm.h. */
#include "tests/emulator/nccl_comm.h"

#include <algorithm>
#include <cuda.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern "C" {
#include "zero/base/base.h"
}

[[noreturn]] void die(const char *what)
{
    fprintf(stderr, "emulated NCCL: %s\n", what);
    abort();
}

void nap()
{
    std::this_thread::sleep_for(std::chrono::microseconds(20));
}

int fault(const char *name, int *second)
{
    const char *faults = getenv("ZERO_EMULATOR_NCCL");
    size_t length = strlen(name);
    for (const char *p = faults; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : nullptr)
        if (strncmp(p, name, length) == 0 && strchr("=,", p[length])) {
            int value = 1, other = 0;
            sscanf(p + length, "=%d:%d", &value, &other);
            if (second)
                *second = other;
            return value;
        }
    return -1;
}

process *the_process()
{
    static process *p = new process();
    return p;
}

ncclResult_t say(ncclResult_t r, const char *what)
{
    the_process()->last_error = what;
    return r;
}

bool meet(ncclComm *c)
{
    uint64_t mine = ++c->arrivals;
    c->shared->rank[c->rank].arrived = mine;
    for (int r = 0; r < c->size; r++)
        while (c->shared->rank[r].arrived < mine) {
            if (c->aborted)
                return false;
            nap();
        }
    return !c->aborted;
}

void wait_for_ever(ncclComm *c)
{
    while (!c->aborted)
        nap();
}

/* ---- communicators ---------------------------------------------------------------------------------------------- */

ncclComm *make(const std::string &path, int size, int rank, const ncclConfig_t *config)
{
    ncclComm *c = new ncclComm();
    c->path = path;
    c->size = size;
    c->rank = rank;
    c->blocking = !config || config->blocking != 0;
    cudaGetDevice(&c->device);
    std::lock_guard<std::mutex> lock(the_process()->mutex);
    const int ctas = config && config->maxCTAs != NCCL_CONFIG_UNDEF_INT ? config->maxCTAs : INT_MAX;
    the_process()->most_ctas = std::max(the_process()->most_ctas.load(), ctas);
    the_process()->least_ctas = std::min(the_process()->least_ctas.load(), ctas);
    the_process()->comms.insert(c);
    return c;
}

void join(ncclComm *c)
{
    int fd = open(c->path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(board)) != 0)
        die("the ranks' file cannot be opened");
    void *p = mmap(nullptr, sizeof(board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        die("the ranks' file cannot be mapped");
    c->shared = static_cast<board *>(p);
    if (++c->shared->joined == c->size)
        unlink(c->path.c_str());
    while (c->shared->joined < c->size && !c->aborted)
        nap();
}

bool valid(const ncclConfig_t *config)
{
    return !config || (config->size >= sizeof(ncclConfig_t) && config->magic == NCCL_CONFIG_MAGIC);
}

void free_comm(ncclComm *c)
{
    if (c->job.joinable())
        c->job.join();
    {
        std::lock_guard<std::mutex> lock(the_process()->mutex);
        the_process()->comms.erase(c);
    }
    if (c->shared) {
        if (c->shared->joined < c->size)
            unlink(c->path.c_str());
        munmap(c->shared, sizeof(board));
    }
    delete c;
}

void wait_for_device()
{
    for (;; nap()) {
        bool idle = true;
        std::lock_guard<std::mutex> lock(the_process()->mutex);
        for (ncclComm *c : the_process()->comms)
            idle = idle && c->pending == 0;
        if (idle)
            return;
    }
}

void abort_comms(const std::vector<ncclComm *> &comms)
{
    for (ncclComm *c : comms)
        c->aborted = true;
    wait_for_device();
    for (ncclComm *c : comms) {
        if (c->inside && fault("call-hangs") < 0)
            die("a communicator is aborted while a thread is in a call on it");
        while (c->inside)
            nap();
        free_comm(c);
        the_process()->aborted++;
    }
}

/* ---- collectives ------------------------------------------------------------------------------------------------ */

static float load(const char *p, ncclDataType_t type)
{
    uint16_t h;
    float f;
    memcpy(&f, p, type == ncclFloat32 ? 4 : 0);
    memcpy(&h, p, 2);
    return type == ncclFloat32 ? f : type == ncclBfloat16 ? zero_bf16_to_fp32(h) : zero_fp16_to_fp32(h);
}

static void store(char *p, ncclDataType_t type, float f)
{
    uint16_t h = type == ncclBfloat16 ? zero_fp32_to_bf16(f) : zero_fp32_to_fp16(f);
    if (type == ncclFloat32)
        memcpy(p, &f, 4);
    else
        memcpy(p, &h, 2);
}

/* Exchanges bytes [at, at + size) of part number part of each rank. true: the slots hold all of them. */
static bool show(work *w, uint64_t part, uint64_t at, uint64_t size)
{
    emulator_enter();
    if (w->send)
        memcpy(w->c->shared->slot[w->c->rank], w->send + part * w->bytes + at, size);
    emulator_leave();
    return meet(w->c);
}

/* Copies or sums the slots into this rank's result. own: they have its part. */
static void take(work *w, bool own, uint64_t at, uint64_t size)
{
    ncclComm *c = w->c;
    uint64_t element = w->type == ncclFloat32 ? 4 : 2;
    emulator_enter();
    if (w->kind == work::MOVE && w->recv)
        memcpy(w->recv + at, c->shared->slot[1 - c->rank], size);
    if (w->kind == work::GATHER || (w->kind == work::TRADE && own))
        for (int r = 0; r < c->size; r++)
            memcpy(w->recv + (uint64_t)r * w->bytes + at, c->shared->slot[r], size);
    for (uint64_t i = 0; w->kind == work::REDUCE && own && i < size; i += element) {
        float sum = load(c->shared->slot[0] + i, w->type);
        for (int r = 1; r < c->size; r++)
            sum += load(c->shared->slot[r] + i, w->type);
        store(w->recv + at + i, w->type, sum);
    }
    emulator_leave();
}

typedef std::map<const char *, uint64_t> ranges;

/* A range that contains the bytes at p, or the end. */
static ranges::const_iterator find(const ranges &r, const char *p, uint64_t bytes)
{
    return std::find_if(r.begin(), r.end(), [=](const ranges::value_type &at) {
        return p >= at.first && p + bytes <= at.first + at.second;
    });
}

/* Kernels find data in other ranks' windows at the offset in their own window, so operands must have the same offset on
 * all ranks. */
static void check_offsets(const work *w)
{
    ncclComm *c = w->c;
    const char *whole = w->kind == work::GATHER ? w->recv : w->send;
    auto at = find(c->windows, whole, w->bytes * (uint64_t)c->size);
    int64_t offset = at == c->windows.end() ? -1 : whole - at->first;
    memcpy(c->shared->slot[c->rank], &offset, sizeof offset);
    if (!meet(c))
        return;
    for (int r = 0; r < c->size; r++)
        if (memcmp(c->shared->slot[r], &offset, sizeof offset) != 0)
            die("ranks are at different offsets of their windows");
    meet(c);
}

/* NCCL does not compare transfers: one that meets no other end waits. Sends count their bytes, and recvs below 0. */
static void find_other_end(const work *w)
{
    ncclComm *c = w->c;
    const int64_t own = w->send ? (int64_t)w->bytes : -(int64_t)w->bytes;
    int64_t other = 0;
    memcpy(c->shared->slot[c->rank], &own, sizeof own);
    if (meet(c))
        memcpy(&other, c->shared->slot[1 - c->rank], sizeof other);
    if (meet(c) && own + other != 0)
        wait_for_ever(c);
}

/* The kernel. */
static void run(work *w)
{
    ncclComm *c = w->c;
    int code = 0;
    while (c->turn != w->number && !c->aborted)
        nap();
    if (w->global == fault("async", &code)) {
        c->async = code;
        say((ncclResult_t)code, "as the test wanted");
        wait_for_ever(c);
    }
    if (w->kind == work::MOVE)
        find_other_end(w);
    else if (!c->windows.empty())
        check_offsets(w);
    for (uint64_t at = 0; at < w->bytes && !c->aborted; at += CHUNK) {
        uint64_t size = std::min<uint64_t>(CHUNK, w->bytes - at);
        for (int part = 0; part < (w->kind == work::REDUCE || w->kind == work::TRADE ? c->size : 1) &&
                           show(w, (uint64_t)part, at, size);
             part++) {
            take(w, part == c->rank, at, size);
            if (!meet(c))
                break;
        }
    }
    c->turn++;
    c->pending--;
    delete w;
}

void check_memory(const void *p)
{
    cudaPointerAttributes at;
    if (cudaPointerGetAttributes(&at, p) != cudaSuccess || at.type == cudaMemoryTypeUnregistered)
        die("an operand lies in memory that the device cannot reach");
}

bool is_exportable(void *p)
{
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp properties;
    if (cuMemRetainAllocationHandle(&handle, p) != CUDA_SUCCESS)
        return false;
    CUresult r = cuMemGetAllocationPropertiesFromHandle(&properties, handle);
    cuMemRelease(handle);
    return r == CUDA_SUCCESS && (properties.requestedHandleTypes & CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
}

/* Whether bytes of memory are registered with the communicator. */
static bool is_registered(const ncclComm *c, const char *p, uint64_t bytes)
{
    return find(c->registered, p, bytes) != c->registered.end() || find(c->windows, p, bytes) != c->windows.end();
}

ncclResult_t enqueue(work w, cudaStream_t stream)
{
    ncclComm *c = w.c;
    if (c->async != ncclSuccess)
        return (ncclResult_t)c->async.load();
    w.global = ++the_process()->collectives;
    if (w.global == fault("call-hangs"))
        wait_for_ever(c);
    if (c->aborted)
        return ncclRemoteError;
    w.number = c->issued++;
    if (w.send)
        check_memory(w.send);
    if (w.recv)
        check_memory(w.recv);
    uint64_t all = w.bytes * (uint64_t)c->size;
    bool sends_all = w.kind == work::REDUCE || w.kind == work::TRADE,
         gets_all = w.kind == work::GATHER || w.kind == work::TRADE;
    the_process()->elsewhere += (w.send && !is_registered(c, w.send, sends_all ? all : w.bytes)) +
                                (w.recv && !is_registered(c, w.recv, gets_all ? all : w.bytes));
    c->pending++;
    work *queued = new work(w);
    return launch(c, [=] {
        cudaSetDevice(c->device);
        if (cudaLaunchHostFunc(
                stream, [](void *p) { run(static_cast<work *>(p)); }, queued) != cudaSuccess) {
            c->pending--;
            delete queued;
            c->async = say(ncclUnhandledCudaError, "cudaLaunchHostFunc");
        }
    });
}
