/* SPDX-License-Identifier: Apache-2.0 */
/* graph.cc - stream capture and CUDA graphs of the emulator. A capture keeps the work that is queued on its stream.
 * Each launch of the graph runs this work in the same order. */
#include "tests/emulator/emulator.h"

#include <set>

typedef std::shared_ptr<const std::vector<std::function<void()>>> emulator_work;

struct CUgraph_st {
    emulator_work work;
};

struct CUgraphExec_st {
    int device;
    emulator_work work;
};

namespace
{

/* Handles that exist: created and not destroyed. */
template <typename T> struct handles {
    std::mutex mutex;
    std::set<T *> all;

    T *add(T *handle)
    {
        std::lock_guard<std::mutex> lock(mutex);
        all.insert(handle);
        return handle;
    }
    bool has(T *handle)
    {
        std::lock_guard<std::mutex> lock(mutex);
        return all.count(handle) > 0;
    }
    bool remove(T *handle)
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (all.erase(handle) == 0)
            return false;
        delete handle;
        return true;
    }
};

handles<CUgraph_st> *graphs()
{
    static handles<CUgraph_st> *h = new handles<CUgraph_st>();
    return h;
}

handles<CUgraphExec_st> *executables()
{
    static handles<CUgraphExec_st> *h = new handles<CUgraphExec_st>();
    return h;
}

} // namespace

#pragma GCC visibility push(default)

extern "C" cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    EMULATOR_BEGIN();
    std::unique_ptr<emulator_capture> *capture = emulator_capture_of(stream);
    if (!capture || !status)
        return emulator_fail(capture ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    *status = !*capture            ? cudaStreamCaptureStatusNone
              : (*capture)->broken ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    EMULATOR_BEGIN();
    std::unique_ptr<emulator_capture> *capture = emulator_capture_of(stream);
    if (!capture)
        return emulator_fail(cudaErrorInvalidResourceHandle);
    if (*capture || mode > cudaStreamCaptureModeRelaxed)
        return emulator_fail(*capture ? cudaErrorIllegalState : cudaErrorInvalidValue);
    *capture = std::make_unique<emulator_capture>();
    if (mode != cudaStreamCaptureModeRelaxed)
        (*capture)->owner = std::this_thread::get_id();
    return cudaSuccess;
}

extern "C" cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    EMULATOR_BEGIN();
    std::unique_ptr<emulator_capture> *capture = emulator_capture_of(stream);
    if (!capture || !graph)
        return emulator_fail(capture ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle);
    if (!*capture)
        return emulator_fail(cudaErrorIllegalState);
    if ((*capture)->owner != std::thread::id() && (*capture)->owner != std::this_thread::get_id())
        return emulator_fail(cudaErrorStreamCaptureWrongThread);
    std::unique_ptr<emulator_capture> done = std::move(*capture);
    *graph = nullptr;
    if (done->broken)
        return emulator_fail(cudaErrorStreamCaptureInvalidated);
    *graph = graphs()->add(
        new CUgraph_st{std::make_shared<const std::vector<std::function<void()>>>(std::move(done->work))});
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags)
{
    EMULATOR_BEGIN_RESERVING();
    if (!executable || !graphs()->has(graph) || flags)
        return emulator_fail(cudaErrorInvalidValue);
    *executable = executables()->add(new CUgraphExec_st{emulator_device(), graph->work});
    return cudaSuccess;
}

extern "C" cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    EMULATOR_BEGIN();
    if (!executables()->has(executable) || executable->device != emulator_device())
        return emulator_fail(cudaErrorInvalidValue);
    emulator_work work = executable->work;
    return emulator_fail(emulator_submit(stream, [work] {
        for (const std::function<void()> &f : *work)
            f();
    }));
}

extern "C" cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    EMULATOR_BEGIN();
    return graphs()->remove(graph) ? cudaSuccess : emulator_fail(cudaErrorInvalidValue);
}

extern "C" cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    EMULATOR_BEGIN();
    return executables()->remove(executable) ? cudaSuccess : emulator_fail(cudaErrorInvalidValue);
}

#pragma GCC visibility pop
