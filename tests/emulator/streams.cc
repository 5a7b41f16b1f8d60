/* SPDX-License-Identifier: Apache-2.0 */
/* streams.cc - streams, events and launches of the emulator. Without threads, work runs as it is queued and is always
 * complete. With threads, each stream has a host thread that runs its work in order, with random delays. An event is a
 * position in a stream. */
#include "tests/emulator/emulator.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

typedef std::chrono::steady_clock::time_point time_point;

/* The part of a stream that outlives its handle, because events refer to it. */
struct line {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    uint64_t queued = 0, completed = 0;
    bool closing = false;

    void wait(uint64_t position)
    {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return completed >= position; });
    }
};

struct CUstream_st {
    int device;
    unsigned flags;
    std::shared_ptr<line> work;
    std::thread thread;
    std::unique_ptr<emulator_capture> capture;
};

struct CUevent_st {
    int device;
    unsigned flags;
    std::mutex mutex;
    bool recorded = false;
    std::shared_ptr<line> work;
    uint64_t position = 0;
    std::shared_ptr<time_point> time;
};

namespace
{

struct registry {
    std::mutex mutex;
    std::set<CUstream_st *> streams;
    std::set<CUevent_st *> events;
    std::map<const void *, int> dynamic_shared;
    std::set<std::pair<int, const void *>> loaded; /* loaded kernels, by device */
    uint64_t created = 0;
};

registry *the_registry()
{
    static registry *r = new registry();
    return r;
}

/* Checks that a stream was created and not destroyed. The project never uses the default stream, so work on it ends the
 * program. */
CUstream_st *check_stream(cudaStream_t stream)
{
    if ((uintptr_t)stream <= 2)
        emulator_die("emulator: work was given to CUDA's default stream: the project uses streams of its own");
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    return r->streams.count(stream) ? stream : nullptr;
}

bool check_event(cudaEvent_t event)
{
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    return r->events.count(event) > 0;
}

/* A stream's thread. */
void serve(std::shared_ptr<line> l, uint64_t state)
{
    for (;;) {
        std::function<void()> work;
        {
            std::unique_lock<std::mutex> lock(l->mutex);
            l->changed.wait(lock, [&] { return l->closing || !l->queue.empty(); });
            if (l->queue.empty())
                return;
            work = std::move(l->queue.front());
            l->queue.pop_front();
        }
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
        if (state >> 63)
            std::this_thread::sleep_for(std::chrono::microseconds(state >> 33 & 127));
        work();
        {
            std::lock_guard<std::mutex> lock(l->mutex);
            l->completed++;
        }
        l->changed.notify_all();
    }
}

/* Queues work and returns its position. */
uint64_t push(CUstream_st *s, std::function<void()> work)
{
    uint64_t position;
    if (!emulator_setup()->threads) {
        work();
        std::lock_guard<std::mutex> lock(s->work->mutex);
        s->work->completed++;
        return ++s->work->queued;
    }
    {
        std::lock_guard<std::mutex> lock(s->work->mutex);
        s->work->queue.push_back(std::move(work));
        position = ++s->work->queued;
    }
    s->work->changed.notify_all();
    return position;
}

bool is_complete(line *l, uint64_t position)
{
    std::lock_guard<std::mutex> lock(l->mutex);
    return l->completed >= position;
}

uint64_t queued(line *l)
{
    std::lock_guard<std::mutex> lock(l->mutex);
    return l->queued;
}

} // namespace

cudaError_t emulator_submit(cudaStream_t stream, std::function<void()> work)
{
    CUstream_st *s = check_stream(stream);
    if (!s || s->device != emulator_device())
        return cudaErrorInvalidResourceHandle;
    if (!s->capture)
        push(s, std::move(work));
    else if (s->capture->broken)
        return cudaErrorStreamCaptureInvalidated;
    else
        s->capture->work.push_back(std::move(work));
    return cudaSuccess;
}

std::unique_ptr<emulator_capture> *emulator_capture_of(cudaStream_t stream)
{
    CUstream_st *s = check_stream(stream);
    return s && s->device == emulator_device() ? &s->capture : nullptr;
}

/* A call on a stream that cannot be captured breaks the capture. */
static bool breaks_capture(CUstream_st *s)
{
    if (s->capture)
        s->capture->broken = true;
    return s->capture != nullptr;
}

void emulator_stream_wait(cudaStream_t stream)
{
    stream->work->wait(queued(stream->work.get()));
}

/* The hours that work claims to have taken. */
static std::atomic<int> delayed{0};

void emulator_delay(int hours)
{
    delayed += hours;
}

void emulator_device_wait(int device, bool blocking_only)
{
    std::set<std::shared_ptr<line>> lines;
    registry *r = the_registry();
    {
        std::lock_guard<std::mutex> lock(r->mutex);
        for (CUstream_st *s : r->streams)
            if ((device < 0 || s->device == device) && !(blocking_only && s->flags & cudaStreamNonBlocking))
                lines.insert(s->work);
    }
    for (auto &l : lines)
        l->wait(queued(l.get()));
}

#pragma GCC visibility push(default)

/* ---- streams ---------------------------------------------------------------------------------------------------- */

static cudaError_t stream_create(cudaStream_t *stream, unsigned flags)
{
    if (!stream || flags > cudaStreamNonBlocking)
        return emulator_fail(cudaErrorInvalidValue);
    CUstream_st *s = new CUstream_st{emulator_device(), flags, std::make_shared<line>(), {}, {}};
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    r->streams.insert(s);
    r->created++;
    if (emulator_setup()->threads)
        s->thread = std::thread(serve, s->work, emulator_setup()->seed * 0x9e3779b97f4a7c15u + r->created);
    *stream = s;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    EMULATOR_BEGIN_RESERVING();
    return stream_create(stream, cudaStreamDefault);
}

extern "C" cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    EMULATOR_BEGIN_RESERVING();
    return stream_create(stream, flags);
}

extern "C" cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    EMULATOR_BEGIN_RESERVING();
    return stream_create(stream, flags);
}

extern "C" cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    registry *r = the_registry();
    {
        std::lock_guard<std::mutex> lock(r->mutex);
        r->streams.erase(s);
    }
    if (s->thread.joinable()) {
        {
            std::lock_guard<std::mutex> lock(s->work->mutex);
            s->work->closing = true;
        }
        s->work->changed.notify_all();
        s->thread.join();
    }
    delete s;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (breaks_capture(s))
        return emulator_fail(cudaErrorStreamCaptureUnsupported);
    if (!is_complete(s->work.get(), queued(s->work.get())))
        return cudaErrorNotReady; /* it does not become the last error */
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (breaks_capture(s))
        return emulator_fail(cudaErrorStreamCaptureUnsupported);
    emulator_stream_wait(s);
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned *flags)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    *flags = s->flags;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamGetDevice(cudaStream_t stream, int *device)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    *device = s->device;
    return cudaSuccess;
}

/* Another stream's capture affects no call here, so the emulator only stores the thread's mode. */
extern "C" cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode)
{
    static thread_local cudaStreamCaptureMode own = cudaStreamCaptureModeGlobal;
    EMULATOR_BEGIN();
    if (!mode || *mode > cudaStreamCaptureModeRelaxed)
        return emulator_fail(cudaErrorInvalidValue);
    std::swap(own, *mode);
    return cudaSuccess;
}

extern "C" cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *data)
{
    EMULATOR_BEGIN();
    return emulator_fail(emulator_submit(stream, [=] { fn(data); }));
}

/* The driver's cuStreamWaitValue64: the stream continues when (int64_t)(*address - value) >= 0. */
static int wait_value(cudaStream_t stream, unsigned long long address, uint64_t value, unsigned flags)
{
    cudaError_t e = emulator_begin("cuStreamWaitValue64");
    if (e == cudaSuccess && (address % 8 || flags || emulator_find((void *)address).type != cudaMemoryTypeHost))
        e = cudaErrorInvalidValue;
    if (e != cudaSuccess)
        return e;
    return emulator_submit(stream, [=] {
        while ((int64_t)(__atomic_load_n((uint64_t *)address, __ATOMIC_ACQUIRE) - value) < 0)
            std::this_thread::sleep_for(std::chrono::microseconds(10));
    });
}

extern "C" cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned,
                                                        unsigned long long, cudaDriverEntryPointQueryResult *result)
{
    EMULATOR_BEGIN();
    *function = strcmp(symbol, "cuStreamWaitValue64") == 0    ? (void *)wait_value
                : strcmp(symbol, "cuMemGetAddressRange") == 0 ? (void *)emulator_address_range
                                                              : emulator_vmm_function(symbol);
    *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

extern "C" cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    EMULATOR_BEGIN_RESERVING();
    if (!event || flags > 7)
        return emulator_fail(cudaErrorInvalidValue);
    CUevent_st *e = new CUevent_st();
    e->device = emulator_device();
    e->flags = flags;
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    r->events.insert(e);
    *event = e;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

extern "C" cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    EMULATOR_BEGIN();
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    if (r->events.erase(event) == 0)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

extern "C" cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s || !check_event(event) || event->device != s->device)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (breaks_capture(s))
        return emulator_fail(cudaErrorStreamCaptureUnsupported);
    auto time = std::make_shared<time_point>();
    uint64_t position =
        push(s, [time] { *time = std::chrono::steady_clock::now() + std::chrono::hours(delayed.load()); });
    std::lock_guard<std::mutex> lock(event->mutex);
    event->recorded = true;
    event->work = s->work;
    event->position = position;
    event->time = time;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    EMULATOR_BEGIN();
    CUstream_st *s = check_stream(stream);
    if (!s || !check_event(event))
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (breaks_capture(s))
        return emulator_fail(cudaErrorStreamCaptureUnsupported);
    std::lock_guard<std::mutex> lock(event->mutex);
    if (event->recorded) {
        std::shared_ptr<line> work = event->work;
        uint64_t position = event->position;
        push(s, [work, position] { work->wait(position); });
    }
    return cudaSuccess;
}

/* The stream and position of the latest record. false if there was none. */
static bool latest(cudaEvent_t event, std::shared_ptr<line> *work, uint64_t *position)
{
    std::lock_guard<std::mutex> lock(event->mutex);
    *work = event->work;
    *position = event->position;
    return event->recorded;
}

extern "C" cudaError_t cudaEventQuery(cudaEvent_t event)
{
    EMULATOR_BEGIN();
    std::shared_ptr<line> work;
    uint64_t position;
    if (!check_event(event))
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (latest(event, &work, &position) && !is_complete(work.get(), position))
        return cudaErrorNotReady;
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    EMULATOR_BEGIN();
    std::shared_ptr<line> work;
    uint64_t position;
    if (!check_event(event))
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (latest(event, &work, &position))
        work->wait(position);
    return emulator_fail(emulator_lost());
}

extern "C" cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    EMULATOR_BEGIN();
    std::shared_ptr<line> work[2];
    uint64_t position[2];
    if (!check_event(start) || !check_event(end) || (start->flags | end->flags) & cudaEventDisableTiming ||
        !latest(start, &work[0], &position[0]) || !latest(end, &work[1], &position[1]))
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (!is_complete(work[0].get(), position[0]) || !is_complete(work[1].get(), position[1]))
        return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(*end->time - *start->time).count();
    return cudaSuccess;
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    EMULATOR_BEGIN();
    if (!kernel)
        return emulator_fail(cudaErrorInvalidDeviceFunction);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
        return value >= -1 && value <= 100 ? cudaSuccess : emulator_fail(cudaErrorInvalidValue);
    if (value < 0 || value > EMULATOR_SHARED_LIMIT)
        return emulator_fail(cudaErrorInvalidValue);
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    r->dynamic_shared[kernel] = value;
    return cudaSuccess;
}

extern "C" cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel)
{
    EMULATOR_BEGIN();
    if (!kernel)
        return emulator_fail(cudaErrorInvalidDeviceFunction);
    registry *r = the_registry();
    std::lock_guard<std::mutex> lock(r->mutex);
    r->loaded.insert({emulator_device(), kernel});
    *attributes = {};
    attributes->maxThreadsPerBlock = EMULATOR_THREADS_LIMIT;
    return cudaSuccess;
}

extern "C" cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int block_size,
                                                                     size_t shared_bytes)
{
    EMULATOR_BEGIN();
    if (!kernel || block_size < 1 || block_size > EMULATOR_THREADS_LIMIT)
        return emulator_fail(cudaErrorInvalidValue);
    int by_threads = 2048 / ((block_size + 31) / 32 * 32), by_shared = (int)((228 << 10) / (shared_bytes + 1024));
    *blocks = std::min(std::min(by_threads, by_shared), 32);
    return cudaSuccess;
}

static cudaError_t check_launch(const zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                                cudaStream_t stream, const void *const *pointers, int count)
{
    cudaError_t e = emulator_begin("launch");
    if (e != cudaSuccess)
        return e;
    CUstream_st *s = check_stream(stream);
    if (!s || s->device != emulator_device())
        return cudaErrorInvalidResourceHandle;
    uint64_t threads = (uint64_t)block.x * block.y * block.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (threads == 0 || threads > EMULATOR_THREADS_LIMIT || block.x > 1024 || block.y > 1024 || block.z > 64 ||
        blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    size_t limit = EMULATOR_SHARED_DEFAULT;
    {
        registry *r = the_registry();
        std::lock_guard<std::mutex> lock(r->mutex);
        if (emulator_setup()->refuse_unloaded && r->loaded.count({s->device, kernel->address}) == 0)
            emulator_die("kernel %s is launched on device %d before it was loaded there", kernel->name, s->device);
        auto at = r->dynamic_shared.find(kernel->address);
        if (at != r->dynamic_shared.end())
            limit = (size_t)at->second;
    }
    if (shared_bytes > limit)
        return cudaErrorInvalidValue;
    for (int i = 0; i < count; i++) {
        emulator_place at = emulator_find(pointers[i], true);
        if (pointers[i] && at.type == cudaMemoryTypeUnregistered)
            emulator_die("kernel %s: argument %d points to memory that the device cannot reach (the host's, or freed)",
                         kernel->name, i);
        if (at.type == cudaMemoryTypeDevice && at.device != s->device)
            emulator_die("kernel %s on device %d: argument %d points to memory of device %d", kernel->name, s->device,
                         i, at.device);
    }
    return cudaSuccess;
}

extern "C" void zero_emulator_queue(zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                                    cudaStream_t stream, const void *const *pointers, int count)
{
    cudaError_t e = check_launch(kernel, grid, block, shared_bytes, stream, pointers, count);
    if (e != cudaSuccess) {
        kernel->drop(kernel);
        emulator_fail(e);
        return;
    }
    std::shared_ptr<zero_emulator_kernel> owned(kernel, kernel->drop); /* a graph runs it many times */
    e = emulator_submit(stream, [=] {
        cudaError_t fault = emulator_injected("kernel", false);
        if (fault != cudaSuccess)
            emulator_lose(fault);
        if (emulator_lost() == cudaSuccess) {
            emulator_enter();
            emulator_run(owned.get(), grid, block, shared_bytes);
            emulator_leave();
        }
    });
    if (e != cudaSuccess)
        emulator_fail(e);
}

#pragma GCC visibility pop
