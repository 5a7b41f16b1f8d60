/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - internals of cpu.c and cpu_streams.c. The CUDA device uses such streams too, for work on the host. */
#ifndef ZERO_DEVICE_CPU_H
#define ZERO_DEVICE_CPU_H

#include "zero/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Entries of zero_device_ops_t, for streams and events (cpu_streams.c). */
zero_status_t zero_cpu_stream_create(zero_device_t *d, zero_stream_id_t id, zero_stream_t **stream,
                                     zero_error_t *error);
void zero_cpu_stream_destroy(zero_stream_t *stream);
zero_status_t zero_cpu_enqueue(zero_stream_t *stream, zero_task_fn fn, void *ctx, const void *arg, zero_error_t *error);
zero_status_t zero_cpu_sync(zero_stream_t *stream, double timeout_s, zero_error_t *error);
void *zero_cpu_native(zero_stream_t *stream);
zero_status_t zero_cpu_event_create(zero_device_t *d, zero_event_t **event, zero_error_t *error);
void zero_cpu_event_destroy(zero_event_t *event);
zero_status_t zero_cpu_record(zero_event_t *event, zero_stream_t *stream, zero_error_t *error);
zero_status_t zero_cpu_wait(zero_stream_t *stream, zero_event_t *event, double timeout_s, zero_error_t *error);
zero_status_t zero_cpu_host_wait(zero_event_t *event, double timeout_s, zero_error_t *error);

/* Makes a stream that fails call fn(ctx) at once, on the thread that ran the task, before it skips any later item. */
void zero_cpu_stream_on_failure(zero_stream_t *stream, void (*fn)(void *ctx), void *ctx);

#ifdef __cplusplus
}
#endif

#endif
