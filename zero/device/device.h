/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - a device: arenas per tier, streams, events, copies. Backends (cpu.c, cuda.cu) fill zero_device_ops_t.
 *
 * Streams have CUDA's semantics: operations of one stream run in issue order; record() takes a snapshot of a stream's
 * position into an event; wait() makes a stream's later operations run after the event's latest record at the time of
 * the call (never recorded: no wait). The inline CPU device runs each operation at once on the calling thread, except
 * on ZERO_STREAM_IO, ZERO_STREAM_SAVE and the streams of links, which have a thread each. The threaded CPU device gives
 * each stream except ZERO_STREAM_COMPUTE a worker thread; operations, records and waits of compute happen on the
 * calling thread, and a wait blocks it.
 * */
#ifndef ZERO_DEVICE_DEVICE_H
#define ZERO_DEVICE_DEVICE_H

#include "zero/base/base.h"

typedef struct zero_stream zero_stream_t;
typedef struct zero_event zero_event_t;
typedef struct zero_arena zero_arena_t;
typedef struct zero_clock zero_clock_t;

/* Work on a stream. On the CPU the stream's thread calls it, and it does the work. On a GPU device it is called at once
 * on the issuing thread with the native stream (cudaStream_t), and it launches the work; but on ZERO_STREAM_HOST,
 * ZERO_STREAM_IO and ZERO_STREAM_SAVE, whose work is on the host, a worker calls it as on the CPU. native is NULL when
 * a CPU stream or such a worker calls it. Never called after the stream has failed. */
typedef zero_status_t (*zero_task_fn)(void *ctx, const void *arg, void *native, zero_error_t *error);

typedef struct zero_device_ops {
    /* Reserves bytes (> 0), zeroed and resident. ZERO_ERR_MEMORY, with the numbers, if the system has too few. */
    zero_status_t (*arena_create)(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena,
                                  zero_error_t *error);
    /* The same on the device tier, with memory that other processes can map for their GPUs. NULL: no device of this
     * backend has such memory. ZERO_ERR_UNSUPPORTED: this device has none, or a caller's allocator provides memory. */
    zero_status_t (*arena_create_shareable)(zero_device_t *d, uint64_t bytes, zero_arena_t **arena,
                                            zero_error_t *error);
    void (*arena_destroy)(zero_arena_t *arena);
    void *(*arena_base)(zero_arena_t *arena);
    /* The resident bytes of [offset, offset + bytes), as the system reports them (mincore); at most bytes. */
    zero_status_t (*arena_resident)(zero_arena_t *arena, uint64_t offset, uint64_t bytes, uint64_t *resident,
                                    zero_error_t *error);
    /* Bytes of a tier that could be reserved now: the minimum of MemAvailable and the cgroup's head room (v1 and v2).
     */
    zero_status_t (*available)(zero_device_t *d, zero_tier_t tier, uint64_t *bytes, zero_error_t *error);

    zero_status_t (*stream_create)(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream, zero_error_t *error);
    void (*stream_destroy)(zero_stream_t *stream); /* completes queued work, or drops it after a failure */
    /* Queues fn(ctx, arg, native). arg must stay valid until it has run (plans are constant). If a task returns an
     * error, the stream fails: later tasks are skipped, and enqueue, host_wait and sync return that error. */
    zero_status_t (*enqueue)(zero_stream_t *stream, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error);
    zero_status_t (*sync)(zero_stream_t *stream, double timeout_s,
                          zero_error_t *error); /* the host waits for all queued work */
    void *(*native)(zero_stream_t *stream);

    /* Copies bytes between any two of host memory and this device's tiers, in the order of the stream native. Host
     * memory must not change until finish. On the CPU the copy is complete on return. */
    zero_status_t (*copy)(zero_device_t *d, void *native, void *dst, const void *src, uint64_t bytes,
                          zero_error_t *error);
    /* Makes the host wait for all work queued on a native stream. For tasks, which have no other handle of it. On the
     * CPU there is nothing to wait for. */
    zero_status_t (*finish)(zero_device_t *d, void *native, double timeout_s, zero_error_t *error);
    /* Whether work queued on a native stream is captured into a CUDA graph instead of run. NULL: the device has no
     * graphs. */
    bool (*capturing)(const zero_device_t *d, void *native);
    /* Identifies the physical device on this machine: two ranks with the same number use the same memory. 0 on the CPU.
     */
    uint64_t (*identity)(const zero_device_t *d);

    zero_status_t (*event_create)(zero_device_t *d, zero_event_t **event, zero_error_t *error);
    void (*event_destroy)(zero_event_t *event);
    zero_status_t (*record)(zero_event_t *event, zero_stream_t *stream, zero_error_t *error);
    zero_status_t (*wait)(zero_stream_t *stream, zero_event_t *event, double timeout_s, zero_error_t *error);
    zero_status_t (*host_wait)(zero_event_t *event, double timeout_s, zero_error_t *error);

    /* A clock for native streams: numbered marks, with times of the host's clock (zero_now_ns). A device without native
     * streams has NULL in all of these. One thread at a time uses a clock. */
    zero_status_t (*clock_create)(zero_device_t *d, int32_t marks, zero_clock_t **clock, zero_error_t *error);
    void (*clock_destroy)(zero_clock_t *clock);
    /* Sets the mark to the time at which the native stream finishes the work queued so far. */
    zero_status_t (*clock_mark)(zero_clock_t *clock, int32_t mark, void *native, zero_error_t *error);
    /* Reads the mark's latest time; 0: the stream has not reached it yet. */
    zero_status_t (*clock_read)(zero_clock_t *clock, int32_t mark, uint64_t *ns, zero_error_t *error);
    /* Compares the clock with the host's again, which takes some microseconds. Times of marks count from the last but
     * one comparison, which was before them. */
    zero_status_t (*clock_set)(zero_clock_t *clock, zero_error_t *error);

    void (*destroy)(zero_device_t *d);
} zero_device_ops_t;

/* Every backend's struct begins with this. */
struct zero_device {
    const zero_device_ops_t *ops;
    zero_device_caps_t caps;
    zero_device_options_t options;
    zero_allocator_t allocator; /* options.allocator points here, or is NULL */
    char label[96];             /* set by the maker; "" if unknown */
};

/* Stores complete options in a device. */
static inline void zero_device_options_keep(zero_device_t *device, const zero_device_options_t *options)
{
    device->options = *options;
    if (options->allocator) {
        device->allocator = *options->allocator;
        device->options.allocator = &device->allocator;
    }
}

#endif
