/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_device.h - what cuda.cu and cuda_streams.cu share. */
#ifndef ZERO_DEVICE_CUDA_DEVICE_H
#define ZERO_DEVICE_CUDA_DEVICE_H

extern "C" {
#include "zero/device/cpu.h"
#include "zero/device/device.h"
#include "zero/device/host.h"
}

#include <cuda_runtime.h>

typedef struct zero_cuda {
    zero_device_t base;
    int index;        /* what CUDA calls the GPU: options.index */
    int major, minor; /* its compute capability */
    uint64_t identity;
    char name[160];   /* "GPU 0 (NVIDIA H100 80GB HBM3)" */
    cudaStream_t own; /* fills of arenas */
    zero_device_t
        workers;   /* what the CPU device's streams ask of theirs: ZERO_STREAM_HOST and ZERO_STREAM_IO are such */
    double lasted; /* the last wait of zero_cuda_finish, in seconds. Atomic access */
    bool stuck;    /* see zero_cuda_give_up. Atomic access */
} zero_cuda_t;

/* A stream is left alone with work on it, which may still write: from now on no memory is freed. CUDA waits without a
 * bound when memory is freed. */
static inline void zero_cuda_give_up(zero_cuda_t *d)
{
    __atomic_store_n(&d->stuck, true, __ATOMIC_RELAXED);
}
static inline bool zero_cuda_gave_up(const zero_cuda_t *d)
{
    return __atomic_load_n(&d->stuck, __ATOMIC_RELAXED);
}

/* The GPU of d becomes the calling thread's current one, and stays so. Every entry begins with it: the current GPU is
 * each thread's own. */
zero_status_t zero_cuda_enter(const zero_cuda_t *d, zero_error_t *error);

/* A function of the driver's interface as CUDA 12.0 has it; NULL where there is none. */
void *zero_cuda_driver(const char *symbol);

/* The sentence of a CUDA call that failed: "GPU 0 (...): <what, as printf>: out of memory (cudaErrorMemoryAllocation)".
 * ZERO_ERR_MEMORY where memory lacked, otherwise ZERO_ERR_SYSTEM. Clears what the runtime keeps of an error that is not
 * sticky. */
zero_status_t zero_cuda_failed(const zero_cuda_t *d, cudaError_t e, zero_error_t *error, const char *what, ...)
    ZERO_PRINTF(4, 5);

/* Polls query(handle) until it is not cudaErrorNotReady, for at most timeout_s: then that is what it returns. It
 * sleeps in between, longer and longer, but not when the wait has taken about as long as *lasted, the seconds of the
 * last one of its kind, which it sets. lasted may be NULL. */
cudaError_t zero_cuda_poll(cudaError_t (*query)(void *handle), void *handle, double timeout_s, double *lasted);
cudaError_t zero_cuda_query_stream(void *stream);

/* Entries of zero_device_ops_t, for streams and events (cuda_streams.cu). */
zero_status_t zero_cuda_stream_create(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream,
                                      zero_error_t *error);
void zero_cuda_stream_destroy(zero_stream_t *stream);
zero_status_t zero_cuda_enqueue(zero_stream_t *stream, zero_task_fn fn, void *ctx, const void *arg,
                                zero_error_t *error);
zero_status_t zero_cuda_sync(zero_stream_t *stream, double timeout_s, zero_error_t *error);
void *zero_cuda_native(zero_stream_t *stream);
zero_status_t zero_cuda_finish(zero_device_t *d, void *native, double timeout_s, zero_error_t *error);
zero_status_t zero_cuda_event_create(zero_device_t *d, zero_event_t **event, zero_error_t *error);
void zero_cuda_event_destroy(zero_event_t *event);
zero_status_t zero_cuda_record(zero_event_t *event, zero_stream_t *stream, zero_error_t *error);
zero_status_t zero_cuda_wait(zero_stream_t *stream, zero_event_t *event, double timeout_s, zero_error_t *error);
zero_status_t zero_cuda_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error);

/* ---- memory that other processes can map (cuda_shareable.cu) ---------------------------------------------------- */

/* Whether the GPU and its driver have such memory. */
zero_status_t zero_cuda_can_share(const zero_cuda_t *d, zero_error_t *error);
/* At least bytes of it at *base, *mapped in all. *call names the function of the driver's that failed, if one did. */
cudaError_t zero_cuda_share(const zero_cuda_t *d, uint64_t bytes, void **base, uint64_t *mapped, const char **call);
void zero_cuda_unshare(void *base, uint64_t mapped);

/* ---- streams whose work is the host's (cuda_host.cu), and the two ways to wait between them and the GPU --------- */

typedef struct zero_cuda_host zero_cuda_host_t;

/* The GPU is the calling thread's current one in all of these. */
zero_status_t zero_cuda_host_create(zero_cuda_t *d, zero_stream_id_t id, zero_cuda_host_t **host, zero_error_t *error);
/* After a wait for the worker. Waits for the task that runs, and for at most drain_s for what the worker was to wait
 * for. */
void zero_cuda_host_destroy(zero_cuda_host_t *host, double drain_s);
/* The CPU device's stream that does the work. */
zero_stream_t *zero_cuda_host_worker(zero_cuda_host_t *host);
/* The error of a task that failed. */
zero_status_t zero_cuda_host_status(const zero_cuda_host_t *host, zero_error_t *error);
/* Records mark, an event of the CPU device, and counts: *position is for zero_cuda_host_before. */
zero_status_t zero_cuda_host_record(zero_cuda_host_t *host, zero_event_t *mark, uint64_t *position,
                                    zero_error_t *error);
/* What is enqueued from now on runs after the event's latest record, which was on a CUDA stream. */
zero_status_t zero_cuda_host_after(zero_cuda_host_t *host, cudaEvent_t event, double timeout_s, zero_error_t *error);
/* What is launched on a CUDA stream from now on runs after the record of that position, whose mark is given; if the
 * host's stream fails, at once. Where the driver does not offer such waits, the calling thread waits. */
zero_status_t zero_cuda_host_before(zero_cuda_host_t *host, uint64_t position, zero_event_t *mark, cudaStream_t stream,
                                    double timeout_s, zero_error_t *error);

#endif
