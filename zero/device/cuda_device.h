/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_device.h - internals of cuda.cu, cuda_host.cu, cuda_shareable.cu and cuda_streams.cu. */
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
    int index;        /* CUDA's number of the GPU: options.index */
    int major, minor; /* compute capability */
    uint64_t identity;
    char name[160];        /* such as "GPU 0 (NVIDIA H100 80GB HBM3)" */
    cudaStream_t own;      /* fills of arenas */
    zero_device_t workers; /* the device of the CPU streams behind ZERO_STREAM_HOST and ZERO_STREAM_IO */
    double lasted;         /* duration of the last wait of zero_cuda_finish, in seconds. Atomic access */
    bool stuck;            /* see zero_cuda_give_up. Atomic access */
} zero_cuda_t;

/* Marks that a stream was abandoned while its work may still write. From then on no memory is freed, because CUDA waits
 * without a time limit when it frees memory. */
static inline void zero_cuda_give_up(zero_cuda_t *d)
{
    __atomic_store_n(&d->stuck, true, __ATOMIC_RELAXED);
}
static inline bool zero_cuda_gave_up(const zero_cuda_t *d)
{
    return __atomic_load_n(&d->stuck, __ATOMIC_RELAXED);
}

/* Makes the GPU of d the calling thread's current one. The current GPU is a property of each thread, so every entry
 * begins with this. */
zero_status_t zero_cuda_enter(const zero_cuda_t *d, zero_error_t *error);

/* Returns a function of the driver's API as of CUDA 12.0; NULL if there is none. */
void *zero_cuda_driver(const char *symbol);

/* Describes a failed CUDA call: "GPU 0 (...): <what, as printf>: out of memory (cudaErrorMemoryAllocation)". Returns
 * ZERO_ERR_MEMORY if memory is short, otherwise ZERO_ERR_SYSTEM. Clears the runtime's last error unless it is sticky.
 */
zero_status_t zero_cuda_failed(const zero_cuda_t *d, cudaError_t e, zero_error_t *error, const char *what, ...)
    ZERO_PRINTF(4, 5);

/* Polls query(handle) until it returns anything but cudaErrorNotReady, or for timeout_s and then returns that. Sleeps
 * between polls, longer and longer, except when the wait has taken about as long as *lasted: the duration in seconds of
 * the last wait of this kind, which this updates. lasted may be NULL. */
cudaError_t zero_cuda_poll(cudaError_t (*query)(void *handle), void *handle, double timeout_s, double *lasted);
cudaError_t zero_cuda_query_stream(void *stream);
cudaError_t zero_cuda_query_event(void *event);

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

/* The same, for clocks (cuda_clock.cu). */
zero_status_t zero_cuda_clock_create(zero_device_t *d, int32_t marks, zero_clock_t **clock, zero_error_t *error);
void zero_cuda_clock_destroy(zero_clock_t *clock);
zero_status_t zero_cuda_clock_mark(zero_clock_t *clock, int32_t mark, void *native, zero_error_t *error);
zero_status_t zero_cuda_clock_read(zero_clock_t *clock, int32_t mark, uint64_t *ns, zero_error_t *error);
zero_status_t zero_cuda_clock_set(zero_clock_t *clock, zero_error_t *error);

/* ---- memory that other processes can map (cuda_shareable.cu) ---------------------------------------------------- */

/* Checks that the GPU and its driver have shareable memory. */
zero_status_t zero_cuda_can_share(const zero_cuda_t *d, zero_error_t *error);
/* Allocates at least bytes of shareable memory at *base, *mapped in all. *call: the driver function that failed, if
 * any. */
cudaError_t zero_cuda_share(const zero_cuda_t *d, uint64_t bytes, void **base, uint64_t *mapped, const char **call);
void zero_cuda_unshare(void *base, uint64_t mapped);

/* ---- streams whose work is the host's (cuda_host.cu), and the two ways to wait between them and the GPU --------- */

typedef struct zero_cuda_host zero_cuda_host_t;

/* All of these require that the GPU is the calling thread's current one. */
zero_status_t zero_cuda_host_create(zero_cuda_t *d, zero_stream_id_t id, zero_cuda_host_t **host, zero_error_t *error);
/* Call it after waiting for the worker. Waits for the running task, and at most drain_s for the GPU work that the
 * worker was to wait for. */
void zero_cuda_host_destroy(zero_cuda_host_t *host, double drain_s);
/* The CPU stream that runs the tasks. */
zero_stream_t *zero_cuda_host_worker(zero_cuda_host_t *host);
/* The error of a failed task. */
zero_status_t zero_cuda_host_status(const zero_cuda_host_t *host, zero_error_t *error);
/* Records mark, an event of the CPU device, and counts the record: *position is for zero_cuda_host_before. */
zero_status_t zero_cuda_host_record(zero_cuda_host_t *host, zero_event_t *mark, uint64_t *position,
                                    zero_error_t *error);
/* Makes later items run after the latest record of event, which was on a CUDA stream. */
zero_status_t zero_cuda_host_after(zero_cuda_host_t *host, cudaEvent_t event, double timeout_s, zero_error_t *error);
/* Makes later work on a CUDA stream run after the record with this position and mark, or at once if the host's stream
 * fails. If the driver does not offer such waits, the calling thread waits. */
zero_status_t zero_cuda_host_before(zero_cuda_host_t *host, uint64_t position, zero_event_t *mark, cudaStream_t stream,
                                    double timeout_s, zero_error_t *error);

#endif
