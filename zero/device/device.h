/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - a device: arenas per tier, streams, events, copies. Backends (cpu.c, later cuda.c) fill zero_device_ops_t.
 *
 * Stream semantics are CUDA's: operations of one stream run in issue order; record() takes a snapshot of a stream's
 * position into an event; wait() makes a stream's later operations run after the event's latest record at the time of
 * the call (never recorded: no wait). The inline CPU device runs everything at once on the calling thread, but for
 * ZERO_STREAM_IO, which has a thread; the threaded one gives each stream but ZERO_STREAM_COMPUTE a worker thread, and
 * compute operations, records and waits happen on the calling thread (a wait blocks it).
 */
#ifndef ZERO_DEVICE_DEVICE_H
#define ZERO_DEVICE_DEVICE_H

#include "zero/base/base.h"

typedef struct zero_stream zero_stream_t;
typedef struct zero_event zero_event_t;
typedef struct zero_arena zero_arena_t;

/* Work on a stream. On CPU it runs on the stream's thread and does the work; on a GPU device it is called at once on
 * the issuing thread with the native stream (cudaStream_t) and launches it, but on ZERO_STREAM_HOST and ZERO_STREAM_IO,
 * whose work is the host's: there a worker runs it. native is NULL on CPU and there. Never called after the stream
 * failed. */
typedef zero_status_t (*zero_task_fn)(void *ctx, const void *arg, void *native, zero_error_t *error);

typedef struct zero_device_ops {
    /* One reservation of bytes (> 0), zeroed, its pages resident (ZERO_ERR_MEMORY with the numbers when the system has
     * not enough). */
    zero_status_t (*arena_create)(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena,
                                  zero_error_t *error);
    /* The same on the device tier, of memory that other processes can map for their GPUs. NULL: the device has none.
     * ZERO_ERR_UNSUPPORTED: this one has none, or the caller's allocator brings the memory. */
    zero_status_t (*arena_create_shareable)(zero_device_t *d, uint64_t bytes, zero_arena_t **arena,
                                            zero_error_t *error);
    void (*arena_destroy)(zero_arena_t *arena);
    void *(*arena_base)(zero_arena_t *arena);
    /* Bytes of [offset, offset + bytes) that are resident, as the system reports them (mincore), at most bytes. */
    zero_status_t (*arena_resident)(zero_arena_t *arena, uint64_t offset, uint64_t bytes, uint64_t *resident,
                                    zero_error_t *error);
    /* Bytes of a tier that could be reserved now: the least of MemAvailable and the cgroup's head room (v1 and v2). */
    zero_status_t (*available)(zero_device_t *d, zero_tier_t tier, uint64_t *bytes, zero_error_t *error);

    zero_status_t (*stream_create)(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream, zero_error_t *error);
    void (*stream_destroy)(zero_stream_t *stream); /* drains or, after a failure, drops what is queued */
    /* Queues fn(ctx, arg, native). arg must stay valid until it ran (plans are constant). An error that a task returned
     * makes the stream fail: later tasks are skipped, and enqueue, host_wait and sync return that error. */
    zero_status_t (*enqueue)(zero_stream_t *stream, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error);
    zero_status_t (*sync)(zero_stream_t *stream, double timeout_s,
                          zero_error_t *error); /* host waits for all that was queued */
    void *(*native)(zero_stream_t *stream);

    /* Copies bytes between any two of the host's memory and this device's tiers, behind what was queued on native. The
     * host's memory must stay as it is until then: finish. On CPU it is done on return. */
    zero_status_t (*copy)(zero_device_t *d, void *native, void *dst, const void *src, uint64_t bytes,
                          zero_error_t *error);
    /* The host waits for all that was queued on a native stream, for tasks, which know no other. On CPU there is
     * nothing to wait for. */
    zero_status_t (*finish)(zero_device_t *d, void *native, double timeout_s, zero_error_t *error);
    /* Whether what is queued on a native stream is recorded into a graph (a CUDA graph) in place of being run. NULL
     * where there is no such thing. */
    bool (*capturing)(const zero_device_t *d, void *native);
    /* Names the physical device among those of this machine: two ranks that get the same number draw on the same
     * memory. 0 on CPU. */
    uint64_t (*identity)(const zero_device_t *d);

    zero_status_t (*event_create)(zero_device_t *d, zero_event_t **event, zero_error_t *error);
    void (*event_destroy)(zero_event_t *event);
    zero_status_t (*record)(zero_event_t *event, zero_stream_t *stream, zero_error_t *error);
    zero_status_t (*wait)(zero_stream_t *stream, zero_event_t *event, double timeout_s, zero_error_t *error);
    zero_status_t (*host_wait)(zero_event_t *event, double timeout_s, zero_error_t *error);

    void (*destroy)(zero_device_t *d);
} zero_device_ops_t;

/* Every backend's struct begins with this. */
struct zero_device {
    const zero_device_ops_t *ops;
    zero_device_caps_t caps;
    zero_device_options_t options;
    zero_allocator_t allocator; /* where options.allocator points, if anywhere */
    char label[96];             /* as its maker calls it; "" where that is not known */
};

/* Complete options into a device's own. */
static inline void zero_device_options_keep(zero_device_t *device, const zero_device_options_t *options)
{
    device->options = *options;
    if (options->allocator) {
        device->allocator = *options->allocator;
        device->options.allocator = &device->allocator;
    }
}

#endif
