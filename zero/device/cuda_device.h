/* cuda_device.h - what cuda.cu and cuda_streams.cu share. */
#ifndef ZERO_DEVICE_CUDA_DEVICE_H
#define ZERO_DEVICE_CUDA_DEVICE_H

extern "C" {
#include "zero/device/device.h"
#include "zero/device/host.h"
}

#include <cuda_runtime.h>

typedef struct zero_cuda {
    zero_device_t base;
    int index;                 /* what CUDA calls the GPU: options.index */
    int major, minor;          /* its compute capability */
    uint64_t identity;
    char name[160];            /* "GPU 0 (NVIDIA H100 80GB HBM3)" */
    cudaStream_t own;          /* fills of arenas */
    bool stuck;                /* a stream was given up with work on it, which may still write: memory is not freed any more. Atomic access */
} zero_cuda_t;

/* The GPU of d becomes the calling thread's current one, and stays so. Every entry begins with it: the current GPU is each thread's own. */
zero_status_t zero_cuda_enter(const zero_cuda_t *d, zero_error_t *error);

/* The sentence of a CUDA call that failed: "GPU 0 (...): <what, as printf>: out of memory (cudaErrorMemoryAllocation)". ZERO_ERR_MEMORY where memory
 * lacked, otherwise ZERO_ERR_SYSTEM. Clears what the runtime keeps of an error that is not sticky. */
zero_status_t zero_cuda_failed(const zero_cuda_t *d, cudaError_t e, zero_error_t *error, const char *what, ...) ZERO_PRINTF(4, 5);

/* Polls query(handle) until it is not cudaErrorNotReady, more and more slowly, for at most timeout_s: then that is what it returns. */
cudaError_t zero_cuda_poll(cudaError_t (*query)(void *handle), void *handle, double timeout_s);
cudaError_t zero_cuda_query_stream(void *stream);

/* Entries of zero_device_ops_t, for streams and events (cuda_streams.cu). */
zero_status_t zero_cuda_stream_create(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream, zero_error_t *error);
void zero_cuda_stream_destroy(zero_stream_t *stream);
zero_status_t zero_cuda_enqueue(zero_stream_t *stream, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error);
zero_status_t zero_cuda_sync(zero_stream_t *stream, double timeout_s, zero_error_t *error);
void *zero_cuda_native(zero_stream_t *stream);
zero_status_t zero_cuda_finish(zero_device_t *d, void *native, double timeout_s, zero_error_t *error);
zero_status_t zero_cuda_event_create(zero_device_t *d, zero_event_t **event, zero_error_t *error);
void zero_cuda_event_destroy(zero_event_t *event);
zero_status_t zero_cuda_record(zero_event_t *event, zero_stream_t *stream, zero_error_t *error);
zero_status_t zero_cuda_wait(zero_stream_t *stream, zero_event_t *event, double timeout_s, zero_error_t *error);
zero_status_t zero_cuda_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error);

#endif
