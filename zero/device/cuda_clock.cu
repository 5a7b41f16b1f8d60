/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_clock.cu - a clock for CUDA streams: times of events, converted to the host's clock.
 *
 * CUDA reports the time between two events. The first of them, the anchor, is recorded on an idle stream while the host
 * waits, so its time on the host's clock is known to some microseconds. The difference is a float in milliseconds. It
 * has microseconds only up to some ten seconds, so anchors are renewed.
 */
#include "zero/device/cuda_device.h"

#include <stdlib.h>

struct zero_clock {
    zero_cuda_t *device;
    int32_t count;
    cudaEvent_t *marks;
    struct {
        cudaEvent_t event;
        uint64_t ns; /* by the host's clock */
    } anchors[2];    /* the last but one, from which times count; the last */
};

static zero_status_t failed(const zero_clock_t *c, cudaError_t e, const char *call, zero_error_t *error)
{
    return zero_cuda_failed(c->device, e, error, "the clock of a trace, %s", call);
}

/* Records the last anchor. If the thread was suspended during the wait, the time is imprecise: it tries again. */
static zero_status_t set_anchor(zero_clock_t *c, zero_error_t *error)
{
    const uint64_t close_ns = 50000;
    const int tries = 8;
    cudaEvent_t event = c->anchors[1].event;
    for (int i = 0; i < tries; i++) {
        uint64_t before = zero_now_ns();
        cudaError_t e = cudaEventRecord(event, c->device->own);
        if (e == cudaSuccess)
            e = zero_cuda_poll(zero_cuda_query_event, event, 10, NULL);
        uint64_t after = zero_now_ns();
        if (e == cudaErrorNotReady)
            return zero_fail(error, ZERO_ERR_TIMEOUT, "%s: the clock of a trace did not reach an event within 10 s",
                             c->device->name);
        if (e != cudaSuccess)
            return failed(c, e, "cudaEventRecord", error);
        c->anchors[1].ns = before + (after - before) / 2;
        if (after - before <= close_ns)
            break;
    }
    return ZERO_OK;
}

zero_status_t zero_cuda_clock_create(zero_device_t *device, int32_t marks, zero_clock_t **clock, zero_error_t *error)
{
    zero_cuda_t *d = (zero_cuda_t *)device;
    *clock = NULL;
    zero_status_t status = zero_cuda_enter(d, error);
    if (status)
        return status;
    zero_clock_t *c = (zero_clock_t *)calloc(1, sizeof *c);
    if (!c || !(c->marks = (cudaEvent_t *)calloc((size_t)marks, sizeof *c->marks))) {
        free(c);
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the %d marks of a trace's clock", marks);
    }
    c->device = d;
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 2 && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->anchors[i].event, cudaEventDefault);
    for (; c->count < marks && e == cudaSuccess; c->count += e == cudaSuccess)
        e = cudaEventCreateWithFlags(&c->marks[c->count], cudaEventDefault);
    if (e != cudaSuccess)
        status = failed(c, e, "cudaEventCreateWithFlags", error);
    for (int i = 0; i < 2 && status == ZERO_OK; i++)
        status = zero_cuda_clock_set(c, error);
    if (status) {
        zero_cuda_clock_destroy(c);
        return status;
    }
    *clock = c;
    return ZERO_OK;
}

void zero_cuda_clock_destroy(zero_clock_t *c)
{
    if (!c)
        return;
    if (zero_cuda_enter(c->device, NULL) == ZERO_OK) {
        for (int32_t i = 0; i < c->count; i++)
            cudaEventDestroy(c->marks[i]);
        for (int i = 0; i < 2; i++)
            if (c->anchors[i].event)
                cudaEventDestroy(c->anchors[i].event);
    }
    free(c->marks);
    free(c);
}

zero_status_t zero_cuda_clock_mark(zero_clock_t *c, int32_t mark, void *native, zero_error_t *error)
{
    zero_status_t status = zero_cuda_enter(c->device, error);
    if (status)
        return status;
    cudaError_t e = cudaEventRecord(c->marks[mark], (cudaStream_t)native);
    return e == cudaSuccess ? ZERO_OK : failed(c, e, "cudaEventRecord", error);
}

zero_status_t zero_cuda_clock_read(zero_clock_t *c, int32_t mark, uint64_t *ns, zero_error_t *error)
{
    float milliseconds = 0;
    *ns = 0;
    zero_status_t status = zero_cuda_enter(c->device, error);
    if (status)
        return status;
    cudaError_t e = zero_cuda_query_event(c->marks[mark]);
    if (e == cudaErrorNotReady)
        return ZERO_OK;
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(&milliseconds, c->anchors[0].event, c->marks[mark]);
    if (e != cudaSuccess)
        return failed(c, e, "cudaEventElapsedTime", error);
    *ns = c->anchors[0].ns + (uint64_t)(int64_t)((double)milliseconds * 1e6);
    return ZERO_OK;
}

zero_status_t zero_cuda_clock_set(zero_clock_t *c, zero_error_t *error)
{
    zero_status_t status = zero_cuda_enter(c->device, error);
    if (status)
        return status;
    cudaEvent_t oldest = c->anchors[0].event;
    c->anchors[0] = c->anchors[1];
    c->anchors[1].event = oldest;
    return set_anchor(c, error);
}
