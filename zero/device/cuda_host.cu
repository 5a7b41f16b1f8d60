/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_host.cu - streams of the CUDA device whose work is on the host.
 *
 * A thread runs their tasks, through a stream of the CPU device. A wait between a GPU stream and the thread does not
 * block the calling thread. For the thread to wait for the GPU, a CUDA stream of its own, the shadow, waits for the
 * event and then calls a host function that increments a counter. For the GPU to wait for the thread, a GPU stream
 * waits for a word in pinned memory in which the thread counts its records (cuStreamWaitValue64). CUDA does not see
 * that order, so nothing that the GPU waits for may itself be queued behind the wait. That holds, because everything
 * before a record was issued before it.
 */
#include "zero/device/cuda_device.h"
extern "C" {
#include "zero/device/cpu.h"
}

#include <stdlib.h>

/* cuStreamWaitValue64 of the driver's API, version 2: the stream continues when (int64_t)(*address - value) >= 0. */
typedef int (*wait_value_fn)(cudaStream_t stream, unsigned long long address, uint64_t value, unsigned flags);

struct zero_cuda_host {
    zero_cuda_t *device;
    zero_stream_id_t id;
    zero_stream_t *worker; /* a stream of the CPU device */
    zero_event_t
        *unrecorded; /* an event of the CPU device, never recorded: a wait for it only returns the worker's failure */
    cudaStream_t shadow;
    uint64_t *passed; /* pinned: number of records that the worker has passed; ALL after a failure. Atomic access */
    uint64_t records;
    zero_host_word_t reached; /* number of waits for the GPU that have ended. Atomic access */
    uint32_t waits_issued;
    uint64_t timeout_us;      /* time limit of the last requested wait. Atomic access */
    bool given_up;            /* ends waits for the GPU. Atomic access */
    wait_value_fn wait_value; /* NULL: the driver lacks it */
};

static const uint64_t ALL = INT64_MAX;

/* ---- on the worker's thread ------------------------------------------------------------------------------------- */

static zero_status_t publish_record(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    zero_cuda_host_t *h = (zero_cuda_host_t *)ctx;
    (void)native, (void)error;
    __atomic_store_n(h->passed, (uint64_t)(uintptr_t)arg, __ATOMIC_RELEASE);
    return ZERO_OK;
}

/* The worker has failed and publishes no more records. Lets the GPU pass all waits: its results no longer matter, but
 * it must not hang. */
static void release_waits(void *ctx)
{
    __atomic_store_n(((zero_cuda_host_t *)ctx)->passed, ALL, __ATOMIC_RELEASE);
}

static zero_status_t await_gpu(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    zero_cuda_host_t *h = (zero_cuda_host_t *)ctx;
    const uint32_t wanted = (uint32_t)(uintptr_t)arg;
    const double timeout_s = 1e-6 * (double)__atomic_load_n(&h->timeout_us, __ATOMIC_RELAXED),
                 end = zero_now() + timeout_s;
    (void)native;
    for (;;) {
        uint32_t reached = __atomic_load_n(&h->reached, __ATOMIC_ACQUIRE);
        if ((int32_t)(reached - wanted) >= 0)
            return ZERO_OK;
        double left = end - zero_now();
        if (left <= 0 || __atomic_load_n(&h->given_up, __ATOMIC_RELAXED))
            return zero_fail(error, ZERO_ERR_TIMEOUT,
                             "%s: the work that stream '%s' waits for was not done within %g s", h->device->name,
                             zero_stream_name(h->id), timeout_s);
        zero_host_sleep_on(&h->reached, reached, left < 0.1 ? left : 0.1, false);
        /* After a fault CUDA no longer calls host functions. */
        zero_status_t status = zero_cuda_enter(h->device, error);
        cudaError_t e = status ? cudaSuccess : zero_cuda_query_stream(h->shadow);
        if (status == ZERO_OK && e != cudaSuccess && e != cudaErrorNotReady)
            status = zero_cuda_failed(h->device, e, error, "stream '%s' waits for the GPU, cudaStreamQuery",
                                      zero_stream_name(h->id));
        if (status)
            return status;
    }
}

/* Runs on a CUDA thread, after the event that the shadow waited for. */
static void CUDART_CB count_reached(void *data)
{
    zero_cuda_host_t *h = (zero_cuda_host_t *)data;
    __atomic_add_fetch(&h->reached, 1, __ATOMIC_RELEASE);
    zero_host_wake(&h->reached, false);
}

/* ---- on the calling thread -------------------------------------------------------------------------------------- */

/* Returns the driver's function if it exists and works here: tests it with a value that is already there. */
static wait_value_fn find_wait_value(const zero_cuda_t *d, uint64_t *word)
{
    wait_value_fn wait_value = (wait_value_fn)zero_cuda_driver("cuStreamWaitValue64");
    if (wait_value && wait_value(d->own, (uintptr_t)word, 0, 0) == 0 &&
        zero_cuda_poll(zero_cuda_query_stream, d->own, 10, NULL) == cudaSuccess)
        return wait_value;
    cudaGetLastError();
    return NULL;
}

zero_status_t zero_cuda_host_create(zero_cuda_t *d, zero_stream_id_t id, zero_cuda_host_t **host, zero_error_t *error)
{
    zero_status_t status;
    cudaError_t e;
    *host = NULL;
    zero_cuda_host_t *h = (zero_cuda_host_t *)calloc(1, sizeof *h);
    if (!h)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for stream '%s' (%zu bytes)", zero_stream_name(id),
                         sizeof *h);
    h->device = d;
    h->id = id;
    e = cudaHostAlloc((void **)&h->passed, sizeof *h->passed, cudaHostAllocPortable);
    if (e != cudaSuccess) {
        h->passed = NULL;
        status = zero_cuda_failed(d, e, error, "stream '%s', cudaHostAlloc of %zu bytes", zero_stream_name(id),
                                  sizeof *h->passed);
        goto fail;
    }
    *h->passed = 0;
    e = cudaStreamCreateWithFlags(&h->shadow, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        h->shadow = NULL;
        status = zero_cuda_failed(d, e, error, "stream '%s', cudaStreamCreateWithFlags", zero_stream_name(id));
        goto fail;
    }
    status = zero_cpu_event_create(&d->workers, &h->unrecorded, error);
    if (status)
        goto fail;
    status = zero_cpu_stream_create(&d->workers, id, &h->worker, error);
    if (status)
        goto fail;
    zero_cpu_stream_on_failure(h->worker, release_waits, h);
    h->wait_value = find_wait_value(d, h->passed);
    *host = h;
    return ZERO_OK;

fail:
    zero_cuda_host_destroy(h, 0);
    return status;
}

void zero_cuda_host_destroy(zero_cuda_host_t *h, double drain_s)
{
    if (!h)
        return;
    if (h->worker) {
        __atomic_store_n(&h->given_up, true, __ATOMIC_RELAXED);
        zero_host_wake(&h->reached, false);
        zero_cpu_stream_destroy(h->worker);
    }
    zero_cpu_event_destroy(h->unrecorded);
    if (h->shadow) {
        cudaError_t e = zero_cuda_enter(h->device, NULL) == ZERO_OK
                            ? zero_cuda_poll(zero_cuda_query_stream, h->shadow, drain_s, NULL)
                            : cudaErrorUnknown;
        if (e == cudaErrorNotReady)
            zero_cuda_give_up(h->device);
        /* An abandoned stream, or the shadow of a failed GPU, may still read passed or call count_reached, so they are
         * leaked. */
        if (e != cudaSuccess || zero_cuda_gave_up(h->device))
            return;
        cudaStreamDestroy(h->shadow);
    }
    if (h->passed)
        cudaFreeHost(h->passed);
    free(h);
}

zero_stream_t *zero_cuda_host_worker(zero_cuda_host_t *h)
{
    return h->worker;
}

zero_status_t zero_cuda_host_status(const zero_cuda_host_t *h, zero_error_t *error)
{
    return zero_cpu_wait(h->worker, h->unrecorded, 0, error);
}

zero_status_t zero_cuda_host_record(zero_cuda_host_t *h, zero_event_t *mark, uint64_t *position, zero_error_t *error)
{
    *position = ++h->records;
    zero_status_t status = zero_cpu_enqueue(h->worker, publish_record, h, (const void *)(uintptr_t)*position, error);
    return status ? status : zero_cpu_record(mark, h->worker, error);
}

zero_status_t zero_cuda_host_after(zero_cuda_host_t *h, cudaEvent_t event, double timeout_s, zero_error_t *error)
{
    cudaError_t e = cudaStreamWaitEvent(h->shadow, event, 0);
    if (e != cudaSuccess)
        return zero_cuda_failed(h->device, e, error, "stream '%s', cudaStreamWaitEvent", zero_stream_name(h->id));
    e = cudaLaunchHostFunc(h->shadow, count_reached, h);
    if (e != cudaSuccess)
        return zero_cuda_failed(h->device, e, error, "stream '%s', cudaLaunchHostFunc", zero_stream_name(h->id));
    __atomic_store_n(&h->timeout_us, timeout_s < 1e9 ? (uint64_t)(timeout_s * 1e6) : (uint64_t)1e15, __ATOMIC_RELAXED);
    return zero_cpu_enqueue(h->worker, await_gpu, h, (const void *)(uintptr_t)++h->waits_issued, error);
}

zero_status_t zero_cuda_host_before(zero_cuda_host_t *h, uint64_t position, zero_event_t *mark, cudaStream_t stream,
                                    double timeout_s, zero_error_t *error)
{
    if (__atomic_load_n(h->passed, __ATOMIC_ACQUIRE) >= position)
        return ZERO_OK;
    if (!h->wait_value)
        return zero_cpu_host_wait(mark, timeout_s, error);
    /* Unlike functions of the runtime, the driver's do not make the GPU's context current on a thread that has none. */
    cudaError_t set = cudaSetDevice(h->device->index);
    if (set != cudaSuccess)
        return zero_cuda_failed(h->device, set, error, "cudaSetDevice(%d)", h->device->index);
    int e = h->wait_value(stream, (uintptr_t)h->passed, position, 0);
    /* Error numbers of the driver and the runtime are the same. */
    return e == 0 ? ZERO_OK
                  : zero_cuda_failed(h->device, (cudaError_t)e, error, "a wait for stream '%s', cuStreamWaitValue64",
                                     zero_stream_name(h->id));
}
